"""The sign and the label rule, each in one place.

scikit-learn's ``score_samples``, ``decision_function`` and ``offset_`` are higher for normal
samples. Anomaly scores, thresholds and everything that leaves Python are higher for anomalous
ones. One is the negative of the other; the functions here do the translation, and decide which
side of a threshold is anomalous.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyimgano.exceptions import UndefinedScoreError

__all__ = ["as_labels", "check_finite", "flip", "is_anomalous", "refuse_nan"]


def flip(values: Any) -> np.ndarray:
    """Turn normality scores into anomaly scores, or the other way round.

    Parameters
    ----------
    values : array-like of shape (n,), or float
        Scores, thresholds or offsets.

    Returns
    -------
    ndarray of shape (n,), float64
        Their negatives.
    """
    return -np.asarray(values, dtype=np.float64)


def is_anomalous(scores: Any, threshold: float) -> np.ndarray:
    """Apply the label rule: a sample is anomalous if its anomaly score exceeds the threshold.

    A score equal to the threshold is normal. This is the same as ``decision_function < 0``,
    bit for bit, since the sign of a difference of floats is exact.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Anomaly scores.
    threshold : float
        Largest anomaly score of a normal sample.

    Returns
    -------
    ndarray of shape (n,), bool
    """
    return np.asarray(scores) > threshold


def as_labels(anomalous: np.ndarray) -> np.ndarray:
    """Turn verdicts into scikit-learn's labels.

    Parameters
    ----------
    anomalous : ndarray of shape (n,), bool

    Returns
    -------
    ndarray of shape (n,), int
        +1 for normal, -1 for anomalous samples.
    """
    return np.where(anomalous, -1, 1)


def check_finite(scores: np.ndarray, whose: str, what: str) -> np.ndarray:
    """Refuse scores that no threshold can be put on.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Anomaly scores.
    whose : str
        Name of the estimator, for the message.
    what : str
        Which scores these are, for the message.

    Returns
    -------
    ndarray of shape (n,)
        ``scores``.

    Raises
    ------
    ValueError
        If one of them is NaN or infinite.
    """
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(
            f"{whose}: {len(bad)} of {len(scores)} {what} are not finite, the first is "
            f"{scores[bad[0]]} at index {bad[0]}. No threshold can be put on them, and no verdict "
            "would mean anything. Too few training samples, constant feature columns and very "
            "large feature values are the usual causes."
        )
    return scores


def refuse_nan(scores: np.ndarray, whose: str) -> np.ndarray:
    """Refuse scores that would compare as normal because they are no numbers.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Anomaly scores of new samples.
    whose : str
        Name of the estimator, for the message.

    Returns
    -------
    ndarray of shape (n,)
        ``scores``.

    Raises
    ------
    UndefinedScoreError
        If one of them is NaN.
    """
    if np.isnan(scores).any():
        raise UndefinedScoreError(
            f"{whose}: {int(np.isnan(scores).sum())} of {len(scores)} anomaly scores are NaN, from "
            "which no verdict follows. Very large feature values and constant training columns are "
            "the usual causes."
        )
    return scores
