"""A threshold where there is one good image: by varied copies of it, without a promise."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from pyimgano._checks import input_kind
from pyimgano._decision import check_finite, flip
from pyimgano.calibration._tails import Cut
from pyimgano.exceptions import ImageFormatError, TooFewImagesWarning
from pyimgano.inputs import check_images
from pyimgano.tiling import TiledImages
from pyimgano.utils._warning import warn_user

__all__ = ["as_put", "fit_with_copies", "is_of_copies"]

# Copies that are judged; one more is trained on.
_N_COPIES = 12


def is_of_copies(cv: Any) -> bool:
    return isinstance(cv, str) and cv == "copies"  # an array must not be compared


def as_put() -> dict[str, Any]:
    """Describe in the words of ``provenance_`` a threshold that no rate was asked of."""
    return {
        "scores": f"none of good parts; the threshold is at the largest score of {_N_COPIES} "
        "varied copies of the one training image",
        "method": "largest score of varied copies",
        "n_images": 0,
        "target_false_positive_rate": None,
        "confidence": None,
        "lowest_supported_rate": 1.0,
    }


def fit_with_copies(estimator: Any, X: Any, params: dict[str, Any]) -> tuple[Any, Cut]:
    """Fit on one image and a varied copy of it, and judge further copies.

    Parameters
    ----------
    estimator : estimator
        An outlier detector for images. A clone of it is fitted.
    X : images
        One image.
    params : dict
        Metadata for the estimator's ``fit``.

    Returns
    -------
    estimator : fitted estimator
    cut : Cut
        Where the threshold is. Of the rate it says that nothing is known.

    Raises
    ------
    ImageFormatError
        If ``X`` is something else than one image.

    Warns
    -----
    TooFewImagesWarning
        Always.
    """
    # It loads the synthetic datasets, whose drawing it shares.
    from pyimgano.synthesis import ImageAugmentation

    if input_kind(X) != "images" or isinstance(X, TiledImages) or len(X) != 1:
        raise ImageFormatError(
            'cv="copies" is for one image as a whole, of which there are no out-of-sample scores: '
            'with several, or with features or tiles, leave it at "auto".'
        )
    image = check_images(_safe_indexing(X, [0]))[0][None]
    trained_on, *judged = (
        ImageAugmentation(random_state=seed).transform(image)[0] for seed in range(_N_COPIES + 1)
    )
    with warnings.catch_warnings():
        # It would count the copy as an image; the warning below says what one image means.
        warnings.simplefilter("ignore", TooFewImagesWarning)
        fitted = clone(estimator).fit([image[0], trained_on], **params)
    scores = check_finite(
        flip(fitted.score_samples(judged)), "ThresholdCalibrator", "scores of varied copies"
    )
    warn_user(
        "one good image does not tell how good parts differ: the threshold is at the largest "
        f"score of {_N_COPIES} varied copies of it, and what share of new good parts it will call "
        "bad is not known. Give images of more good parts, or recalibrate with some.",
        TooFewImagesWarning,
    )
    return fitted, Cut(float(np.max(scores)), None, (0.0, 1.0))
