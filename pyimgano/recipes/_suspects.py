"""Training images that are unlike the others, to be looked at by people."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyimgano._nesting import find_calibrator, innermost
from pyimgano.cleaning import RULE, rank_suspects, suspicion_limit

__all__ = ["LARGEST_NUMBER", "RULE", "Suspects", "suspicious_images"]

#: Images that are named at most; of more, the number is told.
LARGEST_NUMBER = 5
# Of fewer scores nobody who has not asked is told which stand out.
_LEAST = 12


class Suspects(NamedTuple):
    """Training images with scores above those of the others.

    Parameters
    ----------
    indices : list of int
        Positions among the good training images, the highest score first; at most five.
    scores : list of float
        Their anomaly scores.
    n_more : int
        Number of further images above the limit.
    limit : float or None
        The score above which an image counts; None if there are too few images to tell.
    n_looked_at : int
        Number of training images with scores by a model that has not seen them.
    """

    indices: list[int]
    scores: list[float]
    n_more: int
    limit: float | None
    n_looked_at: int


def suspicious_images(pipeline: Any, n_good: int) -> Suspects:
    """Find training images that are unlike the others, by the rule of ``rank_suspects``.

    The scores are those that the fitted pipeline already has of its training images, each by a
    model that has not seen it; of a model that trains networks, those of the images held out.

    Parameters
    ----------
    pipeline : fitted estimator
    n_good : int
        Number of good training images.

    Returns
    -------
    Suspects

    See Also
    --------
    pyimgano.cleaning.rank_suspects
    """
    places, scores = _out_of_sample(pipeline, n_good)
    if len(scores) < _LEAST:
        return Suspects([], [], 0, None, len(scores))
    above = [one for one in rank_suspects(scores) if one.suspicious]
    named = above[:LARGEST_NUMBER]
    return Suspects(
        [int(places[one.index]) for one in named],
        [one.score for one in named],
        len(above) - len(named),
        suspicion_limit(scores),
        len(scores),
    )


def _out_of_sample(pipeline: Any, n_good: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training images, and their scores by models that have not seen them."""
    calibrator, (detector, _) = find_calibrator(pipeline), innermost(pipeline)
    everywhere = np.arange(n_good)
    own = getattr(detector, "training_scores_", None)
    if own is not None and len(own) == n_good:
        # A network that was trained has not seen those that it was validated by.
        held_out = getattr(detector, "held_out_", None)
        places = everywhere if held_out is None else everywhere[held_out]
        return places, np.asarray(own)[places]
    scores = np.asarray(calibrator.calibration_scores_)
    if len(scores) == n_good and calibrator.provenance_["scores"] != _GIVEN:
        return everywhere, scores
    return everywhere[:0], scores[:0]


# What a calibrator says of scores of other images than those the model was trained on.
_GIVEN = "held-out images (prefit)"
