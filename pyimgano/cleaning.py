"""Training images that do not belong: candidates for a person to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyimgano._decision import check_finite, flip, is_anomalous
from pyimgano._scoring import robust_threshold

__all__ = ["Suspect", "rank_suspects", "suspicion_limit"]

#: What makes a training image suspicious, wherever one is called so.
RULE = (
    "score more than three robust standard deviations above the median of the training images' "
    "out-of-sample scores"
)


@dataclass(frozen=True)
class Suspect:
    """A training image and how little it looks like the others.

    Parameters
    ----------
    index : int
        Position of the image among the training images.
    score : float
        Anomaly score of the image by a model that has not seen it.
    suspicious : bool
        Whether the score stands out from those of most images.
    """

    index: int
    score: float
    suspicious: bool


def rank_suspects(training_scores: Any) -> list[Suspect]:
    """Rank training images by how little they look like the others.

    A folder of good images often holds a few that are not good, or not of the part. A model
    learns to pass what they show. They have the highest out-of-sample scores, unless there are
    many alike: those of :class:`~pyimgano.detectors.MutualScoringDetector` hold out longest then.

    Parameters
    ----------
    training_scores : array-like of shape (n_images,)
        Out-of-sample anomaly scores of the training images, the attribute ``training_scores_`` of
        any fitted detector. Of one that trains networks, only
        ``training_scores_[held_out_]``: it has been trained on the others.

    Returns
    -------
    list of Suspect
        All images, the most suspicious first; of equal ones the first first. Those are
        ``suspicious`` whose score is more than three robust standard deviations above the median.

    Raises
    ------
    ValueError
        If there are no scores, or one of them is not finite.

    Notes
    -----
    The median and the robust standard deviation (1.4826 times the median distance to the median)
    hardly move as long as fewer than half of the images are defective. Scores of good images have
    a longer tail than a normal distribution: in a folder without any defect a few images in a
    hundred are ``suspicious`` as well. They are worth a look, and no more than that.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.cleaning import rank_suspects
    >>> from pyimgano.detectors import MutualScoringDetector
    >>> rng = np.random.RandomState(0)
    >>> rows = rng.normal(size=(40, 3))
    >>> rows[7] = [9.0, 9.0, 9.0]  # does not belong
    >>> ranked = rank_suspects(MutualScoringDetector().fit(rows).training_scores_)
    >>> ranked[0].index, ranked[0].suspicious
    (7, True)
    """
    scores = np.asarray(training_scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(
            f"training_scores must hold one score per image, shape (n_images,), got {scores.shape}."
        )
    check_finite(scores, "rank_suspects", "training scores")
    marked = is_anomalous(scores, suspicion_limit(scores))
    order = np.argsort(flip(scores), kind="stable")
    return [Suspect(int(i), float(scores[i]), bool(marked[i])) for i in order]


def suspicion_limit(training_scores: Any) -> float:
    """Give the score above which :func:`rank_suspects` calls a training image suspicious.

    Parameters
    ----------
    training_scores : array-like of shape (n_images,)
        As for :func:`rank_suspects`.

    Returns
    -------
    float

    Examples
    --------
    >>> from pyimgano.cleaning import suspicion_limit
    >>> round(suspicion_limit([1.0, 3.0, 1.0, 1.2, 0.8, 9.0, 1.0]), 4)
    1.8896
    """
    return robust_threshold(training_scores)
