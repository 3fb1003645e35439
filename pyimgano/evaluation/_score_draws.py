"""Metrics of image scores for many bootstrap draws at once."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from pyimgano._decision import is_anomalous
from pyimgano.evaluation._image_metrics import check_scores_and_labels
from pyimgano.evaluation._resampling import draw_images, percentile_interval

__all__ = ["DRAWN_METRICS", "image_intervals", "metrics_of_draws"]

DRAWN_METRICS = (
    "auroc",
    "average_precision",
    "f1",
    "false_positive_rate",
    "true_positive_rate",
)
# Draws are computed together as long as they have fewer images than this.
_N_TOGETHER = 1_000_000


def metrics_of_draws(
    scores: Any,
    y: Any,
    threshold: float,
    *,
    n_resamples: int = 1000,
    random_state: Any = 0,
) -> dict[str, np.ndarray]:
    """Compute metrics for images drawn anew, normal and anomalous ones separately.

    Each value is what the function for one set of images returns for the drawn images, up to
    rounding; sorting the scores once for all draws makes it some hundred times faster.

    Parameters
    ----------
    scores : array-like of shape (n_images,)
        Anomaly scores, higher = more anomalous.
    y : array-like of shape (n_images,)
        +1 for normal, -1 for anomalous; both must occur.
    threshold : float
        Largest score of a normal image.
    n_resamples : int, default=1000
        Number of draws.
    random_state : int, RandomState or None, default=0
        Seeds the draws. With the same seed and the same labels the draws are the same, whatever
        the scores.

    Returns
    -------
    dict of str to ndarray of shape (n_resamples,)
        By :data:`DRAWN_METRICS`.
    """
    scores, anomalous = check_scores_and_labels(scores, y)
    n = len(scores)
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    first = np.searchsorted(ascending, ascending, "left")
    last = np.searchsorted(ascending, ascending, "right")
    flagged = is_anomalous(ascending, threshold)
    kinds = np.stack([~anomalous, anomalous])[:, order]
    draws = draw_images(np.where(anomalous, -1, 1), n_resamples, random_state)
    parts = []
    while True:
        some = list(islice(draws, max(1, _N_TOGETHER // n)))
        if not some:
            break
        times = np.stack([np.bincount(drawn, minlength=n) for drawn in some])[:, order]
        parts.append(_metrics(times, kinds, first, last, flagged))
    return {name: np.concatenate([part[name] for part in parts]) for name in DRAWN_METRICS}


def _metrics(
    times: np.ndarray, kinds: np.ndarray, first: np.ndarray, last: np.ndarray, flagged: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of images in the order of their scores, each of which occurs some times.

    ``first`` and ``last`` are the ends of the run of images that have an image's score.
    """
    normal, anomalous = times * kinds[0], times * kinds[1]
    # Numbers of images before each place, and of all at the end.
    n_normal, n_anomalous = (
        np.concatenate([np.zeros((len(times), 1), np.int64), np.cumsum(one, axis=1)], axis=1)
        for one in (normal, anomalous)
    )
    all_normal, all_anomalous = n_normal[:, -1], n_anomalous[:, -1]
    below = n_normal[:, first] + n_normal[:, last]  # twice, with ties as a half
    auroc = (anomalous * below).sum(axis=1) / (2.0 * all_normal * all_anomalous)
    # At or above each score.
    found = all_anomalous[:, np.newaxis] - n_anomalous[:, first]
    alarms = all_normal[:, np.newaxis] - n_normal[:, first]
    precision = found / np.maximum(found + alarms, 1)
    true, false = (one[:, flagged].sum(axis=1) for one in (anomalous, normal))
    return {
        "auroc": auroc,
        "average_precision": (anomalous * precision).sum(axis=1) / all_anomalous,
        "f1": 2.0 * true / (true + false + all_anomalous),
        "false_positive_rate": false / all_normal,
        "true_positive_rate": true / all_anomalous,
    }


def image_intervals(scores: Any, y: Any, threshold: float) -> dict[str, list[float] | None]:
    """Estimate 95 % intervals of the metrics whose interval comes from a bootstrap.

    Rates have better ones, see :func:`~pyimgano.evaluation.rate`.

    Parameters
    ----------
    scores, y, threshold : as in :func:`metrics_of_draws`

    Returns
    -------
    dict of str to list of two floats or None
        ``auroc``, ``average_precision`` and ``f1``; None where all images are of one kind.
    """
    names = ("auroc", "average_precision", "f1")
    if len(np.unique(y)) < 2:
        return dict.fromkeys(names)
    drawn = metrics_of_draws(scores, y, threshold)
    return {name: list(percentile_interval(drawn[name], 0.95)) for name in names}
