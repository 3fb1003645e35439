"""Anomaly maps of good images by a model that has not seen them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _num_samples

from pyimgano._any_estimator import iter_scores
from pyimgano.calibration._recognition import content_keys
from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.inputs import check_images
from pyimgano.inputs._formats import resize_image

__all__ = ["HeldOut", "hold_out", "maps_in_image_pixels"]

# One image in five is held out: the others make a model like that of all of them.
_ONE_OF = 5


class HeldOut(NamedTuple):
    """A model of some good images, and the others.

    Parameters
    ----------
    estimator : fitted estimator
    X : input of the estimator
        Good images that it has not seen.
    """

    estimator: Any
    X: Any


def hold_out(estimator: Any, X: Any, *, random_state: Any = 0) -> HeldOut:
    """Fit a copy of an estimator on four of five good images, and leave the others to it.

    Thresholds on anomaly maps come from the maps of images that the model has not seen: those of
    its training images are lower or, where a small memory bank leaves out what it has learned
    from them, higher.

    Parameters
    ----------
    estimator : estimator
        An outlier detector with anomaly maps, or a pipeline that ends in one.
    X : indexable input of the estimator
        Good images.
    random_state : int, RandomState or None, default=0
        Seeds the choice.

    Returns
    -------
    HeldOut
        No image of it equals one that the model was fitted on.

    Raises
    ------
    TooFewImagesError
        If there are fewer than 3 different images, or too few for the estimator.
    """
    contents: dict[bytes, int] = {}
    keys = np.array([contents.setdefault(one, len(contents)) for one in content_keys(X) or ()])
    n_different = len(contents)
    if n_different < 3:
        raise TooFewImagesError(
            "maps of good images that a model has not seen need at least 3 different ones, two to "
            f"learn from and one to look at, got n_samples={_num_samples(X)} of {n_different}."
        )
    drawn = check_random_state(random_state).permutation(n_different)
    held_out = np.isin(keys, drawn[: max(1, n_different // _ONE_OF)])
    with warnings.catch_warnings():
        # If there are too few images, the fit on all of them warns.
        warnings.simplefilter("ignore", TooFewImagesWarning)
        fitted = clone(estimator).fit(
            _safe_indexing(X, np.flatnonzero(~held_out)), np.ones(np.count_nonzero(~held_out), int)
        )
    return HeldOut(fitted, _safe_indexing(X, np.flatnonzero(held_out)))


def maps_in_image_pixels(estimator: Any, X: Any) -> Iterator[np.ndarray]:
    """Yield the anomaly maps of images in the pixels of these, one at a time.

    Parameters
    ----------
    estimator : fitted estimator
        With anomaly maps, which are smaller or larger than the images if it resizes them.
    X : paths, ImageSequence or uint8 RGB images

    Yields
    ------
    ndarray of shape (height, width), float32
    """
    images = check_images(X)
    for block in iter_scores(estimator, X, maps=True):
        for i, anomaly_map in enumerate(block.maps, block.start):
            yield resize_image(anomaly_map, images.size(i))
