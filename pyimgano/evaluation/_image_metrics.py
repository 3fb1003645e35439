"""Metrics of anomaly scores and verdicts of whole images, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from scipy.stats import beta
from sklearn.metrics import (
    average_precision_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.utils import check_consistent_length, column_or_1d

from pyimgano._decision import is_anomalous
from pyimgano.evaluation._resampling import draw_images, percentile_interval

__all__ = [
    "bootstrap_interval",
    "check_scores_and_labels",
    "clopper_pearson",
    "fpr_at_tpr",
    "image_metrics",
    "oracle_f1_max",
    "rate",
    "threshold_metrics",
]


def check_scores_and_labels(scores: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check anomaly scores and labels of images.

    Parameters
    ----------
    scores : array-like of shape (n_images,)
    y : array-like of shape (n_images,)

    Returns
    -------
    scores : ndarray of shape (n_images,), float64
    anomalous : ndarray of shape (n_images,), bool
    """
    scores, y = column_or_1d(scores, dtype=np.float64), column_or_1d(y)
    check_consistent_length(scores, y)
    if y.dtype.kind not in "if" or not np.isin(y, (1, -1)).all():
        raise ValueError(
            "y must hold +1 (normal) and -1 (anomalous) only. From 0/1 labels with 1 = anomalous: "
            "y = np.where(labels == 1, -1, 1)."
        )
    if np.isnan(scores).any():
        i = int(np.argmax(np.isnan(scores)))
        raise ValueError(
            f"scores[{i}] is NaN, which has no place in an order. Leave images without a score out."
        )
    return scores, y == -1


def image_metrics(scores: Any, y: Any) -> dict[str, float | None]:
    """Measure how well scores separate anomalous from normal images, whatever the threshold.

    Parameters
    ----------
    scores : array-like of shape (n_images,)
        Anomaly scores, higher = more anomalous.
    y : array-like of shape (n_images,)
        +1 for normal, -1 for anomalous.

    Returns
    -------
    dict
        ``auroc``, ``average_precision``, ``fpr_at_95_tpr`` (:func:`fpr_at_tpr`) and
        ``oracle_f1_max`` (:func:`oracle_f1_max`), anomalies being the positive class. None where
        there is only one of the two kinds.

    Examples
    --------
    >>> from pyimgano.evaluation import image_metrics
    >>> found = image_metrics([0.1, 0.3, 0.2, 0.9], [1, 1, -1, -1])
    >>> {name: round(value, 3) for name, value in found.items()}
    {'auroc': 0.75, 'average_precision': 0.833, 'fpr_at_95_tpr': 0.5, 'oracle_f1_max': 0.8}
    """
    scores, anomalous = check_scores_and_labels(scores, y)
    if len(np.unique(anomalous)) < 2:
        names = ("auroc", "average_precision", "fpr_at_95_tpr", "oracle_f1_max")
        return dict.fromkeys(names)
    return {
        "auroc": float(roc_auc_score(anomalous, scores)),
        "average_precision": float(average_precision_score(anomalous, scores)),
        "fpr_at_95_tpr": fpr_at_tpr(scores, y),
        "oracle_f1_max": oracle_f1_max(scores, y)["f1"],
    }


def threshold_metrics(scores: Any, y: Any, threshold: float) -> dict[str, Any]:
    """Measure verdicts at a threshold that was fixed without these images.

    Parameters
    ----------
    scores : array-like of shape (n_images,)
        Anomaly scores, higher = more anomalous.
    y : array-like of shape (n_images,)
        +1 for normal, -1 for anomalous.
    threshold : float
        Largest score of a normal image, such as ``threshold_`` of a
        :class:`~pyimgano.calibration.ThresholdCalibrator`.

    Returns
    -------
    dict
        ``f1``, ``precision`` and ``recall``, anomalies being the positive class, and
        ``confusion``, a dict of ``true_negatives``, ``false_positives``, ``false_negatives`` and
        ``true_positives``. ``precision`` is None if no image is judged anomalous; ``recall`` and
        ``f1`` are None if no image is anomalous.

    Examples
    --------
    >>> from pyimgano.evaluation import threshold_metrics
    >>> found = threshold_metrics([0.1, 0.3, 0.2, 0.9], [1, 1, -1, -1], threshold=0.25)
    >>> found["f1"], found["confusion"]["false_positives"]
    (0.5, 1)
    """
    scores, anomalous = check_scores_and_labels(scores, y)
    if not isinstance(threshold, Real) or np.isnan(threshold):
        raise ValueError(f"threshold must be a number, got {threshold!r}.")
    flagged = is_anomalous(scores, float(threshold))
    # Not scikit-learn's confusion_matrix, which refuses to count no images.
    tn, fp, fn, tp = (
        int(np.sum((anomalous == truth) & (flagged == judged)))
        for truth in (False, True)
        for judged in (False, True)
    )
    return {
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fn else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "confusion": {
            "true_negatives": tn,
            "false_positives": fp,
            "false_negatives": fn,
            "true_positives": tp,
        },
    }


def fpr_at_tpr(scores: Any, y: Any, *, true_positive_rate: float = 0.95) -> float:
    """Find the false-positive rate at which a stated share of the anomalies is found.

    It is taken from the test images themselves, so it says how well the scores separate and is
    no promise for a threshold.

    Parameters
    ----------
    scores : array-like of shape (n_images,)
        Anomaly scores, higher = more anomalous.
    y : array-like of shape (n_images,)
        +1 for normal, -1 for anomalous.
    true_positive_rate : float in (0, 1], default=0.95
        Share of anomalies that has to be reached; there is no interpolation.

    Returns
    -------
    float

    Examples
    --------
    >>> from pyimgano.evaluation import fpr_at_tpr
    >>> fpr_at_tpr([0.1, 0.3, 0.2, 0.9], [1, 1, -1, -1])
    0.5
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(
            f"true_positive_rate={true_positive_rate!r} must be in (0, 1], 0.95 for 95 %."
        )
    fpr, tpr, _ = roc_curve(*_both_kinds(scores, y, "fpr_at_tpr"), drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= true_positive_rate)])


def oracle_f1_max(scores: Any, y: Any) -> dict[str, float]:
    """Find the largest F1 score that any threshold gives on these very images.

    It is an oracle: the threshold is chosen with the labels of the test images, which nobody has
    on a line. Compare models by it, and say that it is one; what a line gets is ``f1`` of
    :func:`threshold_metrics`.

    Parameters
    ----------
    scores : array-like of shape (n_images,)
        Anomaly scores, higher = more anomalous.
    y : array-like of shape (n_images,)
        +1 for normal, -1 for anomalous.

    Returns
    -------
    dict
        ``f1``, and ``lowest_anomalous_score``: images with this score or a higher one are those
        judged anomalous.

    Examples
    --------
    >>> from pyimgano.evaluation import oracle_f1_max
    >>> oracle_f1_max([0.1, 0.3, 0.2, 0.9], [1, 1, -1, -1])
    {'f1': 0.8, 'lowest_anomalous_score': 0.2}
    """
    anomalous, scores = _both_kinds(scores, y, "oracle_f1_max")
    fpr, tpr, cuts = roc_curve(anomalous, scores, drop_intermediate=False)
    n_anomalous = np.count_nonzero(anomalous)
    found = np.rint(tpr * n_anomalous)
    flagged = found + np.rint(fpr * (len(anomalous) - n_anomalous))
    f1 = 2 * found / (flagged + n_anomalous)
    best = int(np.argmax(f1))
    return {"f1": float(f1[best]), "lowest_anomalous_score": float(cuts[best])}


def bootstrap_interval(
    metric: Callable[[Any, Any], float],
    scores: Any,
    y: Any,
    *,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    random_state: Any = 0,
) -> tuple[float, float]:
    """Estimate an interval for a metric by drawing the images anew (stratified bootstrap).

    Images are drawn with replacement, normal and anomalous ones separately and as many as there
    are of each. The interval runs between two quantiles of the metric over many such draws [1]_.
    A metric that is perfect on all images is perfect in every draw, so its interval is too short;
    for rates, :func:`rate` has one that is not.

    Parameters
    ----------
    metric : callable
        Called as ``metric(scores, y)``; returns a number.
    scores : array-like of shape (n_images,) or (n_images, ...)
        Anomaly scores, or anything else with one entry per image. Pixel metrics have a method of
        this name.
    y : array-like of shape (n_images,)
        +1 for normal, -1 for anomalous.
    confidence_level : float in (0, 1), default=0.95
        Share of the draws within the interval.
    n_resamples : int, default=1000
        Number of draws.
    random_state : int, RandomState or None, default=0
        Seeds the draws.

    Returns
    -------
    low, high : float

    References
    ----------
    .. [1] B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall, 1993.

    Examples
    --------
    >>> from pyimgano.evaluation import bootstrap_interval, fpr_at_tpr
    >>> scores, y = [0.1, 0.3, 0.2, 0.9, 0.5, 0.1], [1, 1, -1, -1, -1, 1]
    >>> low, high = bootstrap_interval(fpr_at_tpr, scores, y)
    >>> low, round(high, 3)
    (0.0, 1.0)
    """
    scores, y = np.asarray(scores), column_or_1d(y)
    check_consistent_length(scores, y)
    if not np.isin(y, (1, -1)).all():
        raise ValueError("y must hold +1 (normal) and -1 (anomalous) only.")
    draws = draw_images(y, n_resamples, random_state)
    values = [metric(scores[drawn], y[drawn]) for drawn in draws]
    return percentile_interval(values, confidence_level)


def rate(count: int, n: int) -> dict[str, Any]:
    """Compute a rate with its 95 % interval (Clopper and Pearson's, never too short).

    Parameters
    ----------
    count : int
        How often it happened.
    n : int
        How often it could have.

    Returns
    -------
    dict
        ``value``, ``interval_95`` (list of two), ``count`` and ``n``; value and interval are
        None if ``n`` is 0.

    References
    ----------
    .. [1] C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated
       in the case of the binomial", Biometrika 26(4), 1934.

    Examples
    --------
    >>> from pyimgano.evaluation import rate
    >>> low, high = rate(0, 20)["interval_95"]
    >>> low, round(high, 3)
    (0.0, 0.168)
    """
    if not 0 <= count <= n:
        raise ValueError(f"count={count} must lie between 0 and n={n}.")
    if n == 0:
        return {"value": None, "interval_95": None, "count": 0, "n": 0}
    low, high = (float(end) for end in clopper_pearson(np.array(count), n))
    return {"value": count / n, "interval_95": [low, high], "count": count, "n": n}


def clopper_pearson(counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the 95 % intervals of rates.

    Parameters
    ----------
    counts : ndarray of int
        How often it happened, 0 to ``n``.
    n : int
        How often it could have, at least 1.

    Returns
    -------
    low, high : ndarray
    """
    # The distribution has no parameter of 0; the values at both ends are replaced.
    low = beta.ppf(0.025, np.maximum(counts, 1), n - counts + 1)
    high = beta.ppf(0.975, counts + 1, np.maximum(n - counts, 1))
    return np.where(counts == 0, 0.0, low), np.where(counts == n, 1.0, high)


def _both_kinds(scores: Any, y: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    scores, anomalous = check_scores_and_labels(scores, y)
    for kind, what in ((False, "normal (+1)"), (True, "anomalous (-1)")):
        if not (anomalous == kind).any():
            raise ValueError(f"{name} is not defined here: y holds no {what} image.")
    return anomalous, scores
