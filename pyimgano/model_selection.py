"""Scorers and splitters for one-class work: train on good images, test on both.

Labels are +1 (normal) and -1 (anomalous) and nothing else. scikit-learn's own scorers give
a perfect outlier detector a ROC AUC of 0 on labels {0, 1} without a word; these refuse them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import BaseCrossValidator, KFold
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import _num_samples

from pyimgano.inference import anomaly_scores
from pyimgano.utils._state import Either, Flag, Maybe, Number, Object

__all__ = [
    "OneClassKFold",
    "anomaly_average_precision",
    "anomaly_roc_auc",
    "balanced_accuracy",
    "false_positive_rate",
    "neg_false_positive_rate",
    "true_positive_rate",
]


_HALVING = (
    "A successive-halving search (HalvingGridSearchCV) begins with few samples, drawn at random: "
    "raise its min_resources until they hold enough of both kinds."
)


def _check_labels(y: Any, needs: tuple[int, ...], purpose: str) -> np.ndarray:
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise ValueError(f"{purpose} needs y of shape (n_samples,), got shape {labels.shape}.")
    if labels.dtype.kind not in "if" or not np.isin(labels, (1, -1)).all():
        seen = sorted({repr(v) for v in labels.tolist()})[:4]
        raise ValueError(
            f"{purpose} takes labels +1 (normal) and -1 (anomalous) only, got {', '.join(seen)}. "
            "From 0/1 labels with 1 = anomalous: y = np.where(labels == 1, -1, 1)."
        )
    for label in needs:
        if not (labels == label).any():
            what = "normal (+1)" if label == 1 else "anomalous (-1)"
            way_out = "Use a splitter whose test folds hold both, such as OneClassKFold. "
            raise ValueError(
                f"{purpose} is not defined here: y holds no {what} sample. "
                f"{'' if purpose == 'OneClassKFold' else way_out}{_HALVING}"
            )
    return labels


def anomaly_roc_auc(estimator: Any, X: Any, y: Any) -> float:
    """Area under the ROC curve with anomalies as the positive class.

    Parameters
    ----------
    estimator : fitted outlier detector
        Its ``score_samples`` is used, so thresholds do not matter.
    X : input of the estimator
    y : array-like of shape (n_samples,)
        +1 for normal, -1 for anomalous.

    Returns
    -------
    float
        1.0 if every anomaly scores worse than every normal sample, 0.5 for chance.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PatchCoreDetector
    >>> from pyimgano.model_selection import anomaly_roc_auc
    >>> rows = np.random.RandomState(0).normal(size=(100, 3))
    >>> X, y = np.vstack([rows[80:], rows[80:] + 9]), np.repeat([1, -1], 20)
    >>> anomaly_roc_auc(PatchCoreDetector().fit(rows[:80]), X, y)
    1.0
    """
    labels = _check_labels(y, (1, -1), "anomaly_roc_auc")
    return float(roc_auc_score(labels == -1, anomaly_scores(estimator, X)))


def anomaly_average_precision(estimator: Any, X: Any, y: Any) -> float:
    """Average precision with anomalies as the positive class.

    Parameters
    ----------
    estimator, X, y : as in :func:`anomaly_roc_auc`

    Returns
    -------
    float
        1.0 if every anomaly scores worse than every normal sample; the share of anomalies
        for chance.
    """
    labels = _check_labels(y, (1, -1), "anomaly_average_precision")
    return float(average_precision_score(labels == -1, anomaly_scores(estimator, X)))


def false_positive_rate(estimator: Any, X: Any, y: Any) -> float:
    """Share of normal samples judged anomalous; the lower, the better.

    For ``cross_validate`` and reports. A search maximizes its scorer: give it
    :func:`neg_false_positive_rate`.

    Parameters
    ----------
    estimator, X, y : as in :func:`anomaly_roc_auc`; ``predict`` is used

    Returns
    -------
    float
        In [0, 1].
    """
    labels = _check_labels(y, (1,), "false_positive_rate")
    return float(np.mean(np.asarray(estimator.predict(X))[labels == 1] == -1))


def neg_false_positive_rate(estimator: Any, X: Any, y: Any) -> float:
    """``-false_positive_rate``, for searches, which maximize.

    Parameters
    ----------
    estimator, X, y : as in :func:`false_positive_rate`

    Returns
    -------
    float
        In [-1, 0].
    """
    return -false_positive_rate(estimator, X, y)


def true_positive_rate(estimator: Any, X: Any, y: Any) -> float:
    """Share of anomalous samples judged anomalous (recall); the higher, the better.

    Parameters
    ----------
    estimator, X, y : as in :func:`anomaly_roc_auc`; ``predict`` is used

    Returns
    -------
    float
        In [0, 1].
    """
    labels = _check_labels(y, (-1,), "true_positive_rate")
    return float(np.mean(np.asarray(estimator.predict(X))[labels == -1] == -1))


def balanced_accuracy(estimator: Any, X: Any, y: Any) -> float:
    """Mean of the shares of normal and of anomalous samples judged rightly.

    Parameters
    ----------
    estimator, X, y : as in :func:`anomaly_roc_auc`; ``predict`` is used

    Returns
    -------
    float
        In [0, 1]; 0.5 for chance.
    """
    labels = _check_labels(y, (1, -1), "balanced_accuracy")
    right = np.asarray(estimator.predict(X)) == labels
    return float((right[labels == 1].mean() + right[labels == -1].mean()) / 2)


# A search among good images alone has no use for these, and is told so before it fits anything.
for _scorer in (
    anomaly_roc_auc,
    anomaly_average_precision,
    true_positive_rate,
    balanced_accuracy,
):
    _scorer.needs_anomalies = True  # type: ignore[attr-defined]


class OneClassKFold(BaseCrossValidator):
    """Folds that train on normal samples only and test on both kinds.

    Detectors of this package leave samples with ``y == -1`` out of training by themselves, so
    ``StratifiedKFold`` serves them well. This splitter does the same for any other estimator,
    and offers to test every fold on all anomalies, which are rarely many.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds of the normal samples.
    all_anomalies : bool, default=True
        Test each fold on all anomalous samples; otherwise they are dealt out to the folds.
    shuffle : bool, default=True
        Whether the samples are shuffled before they are split.
    random_state : int, RandomState or None, default=0
        Seed of the shuffling.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.model_selection import OneClassKFold
    >>> y = np.array([1, 1, 1, 1, -1, -1])
    >>> for train, test in OneClassKFold(2, shuffle=False).split(y, y):
    ...     print(train, test)
    [2 3] [0 1 4 5]
    [0 1] [2 3 4 5]
    """

    _fitted_state = {
        "n_splits": Number(2, whole=True),
        "all_anomalies": Flag(),
        "shuffle": Flag(),
        "random_state": Maybe(Either(Number(0, 2**32 - 1, whole=True), Object("RandomState"))),
    }

    def __init__(
        self,
        n_splits: int = 5,
        *,
        all_anomalies: bool = True,
        shuffle: bool = True,
        random_state: Any = 0,
    ) -> None:
        self.n_splits = n_splits
        self.all_anomalies = all_anomalies
        self.shuffle = shuffle
        self.random_state = random_state

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds.

        Parameters
        ----------
        X, y, groups : ignored

        Returns
        -------
        int
        """
        return self.n_splits

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the training and test indices of each fold.

        Parameters
        ----------
        X : sequence of length n_samples
        y : array-like of shape (n_samples,)
            +1 for normal, -1 for anomalous.
        groups : ignored
        """
        if y is None:
            raise ValueError("OneClassKFold needs y: +1 for normal, -1 for anomalous samples.")
        labels = _check_labels(y, (1,), "OneClassKFold")
        check_consistent_length(np.empty(_num_samples(X)), labels)
        normal, anomalous = np.flatnonzero(labels == 1), np.flatnonzero(labels == -1)
        if len(normal) < self.n_splits:
            raise ValueError(
                f"OneClassKFold(n_splits={self.n_splits}) needs at least that many normal "
                f"samples, got {len(normal)}: lower n_splits or give more. {_HALVING}"
            )
        rng = check_random_state(self.random_state) if self.shuffle else None
        folds = KFold(self.n_splits, shuffle=self.shuffle, random_state=rng)
        order = anomalous if rng is None else rng.permutation(anomalous)
        dealt = np.array_split(order, self.n_splits)
        for fold, (train, test) in enumerate(folds.split(normal)):
            extra = anomalous if self.all_anomalies else dealt[fold]
            yield normal[train], np.sort(np.concatenate([normal[test], extra]))
