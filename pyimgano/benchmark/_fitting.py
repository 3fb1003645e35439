"""Pipelines fitted on the good images of a category, and their thresholds put."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import _num_samples

from pyimgano._nesting import find_calibrator, find_defects, makes_maps
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.calibration._held_out_maps import hold_out, maps_in_image_pixels
from pyimgano.detectors import BaseTrainedDetector
from pyimgano.evaluation import pixel_threshold
from pyimgano.exceptions import TooFewImagesError
from pyimgano.utils._stopwatch import Stopwatch

__all__ = ["PixelThreshold", "fit", "put_pixel_threshold", "uses_validation"]

# Share of the pixels of good images that may lie above the pixel threshold.
_PIXEL_RATE = 0.001


class PixelThreshold(NamedTuple):
    """A threshold on anomaly maps, and where it comes from.

    Parameters
    ----------
    threshold : float or None
        Largest value of a pixel that is judged good; None where there is none.
    part : str
        The good images it was put on: ``"validation"``, or ``"train"`` for training images that
        were held out from a copy of the model.
    n_images : int
        Their number.
    reason : str or None
        Why there is no threshold.
    rate : float or None, default=0.001
        Share of the pixels of good images that may lie above it; None if it is the pipeline's
        own, which counts images with a region.
    """

    threshold: float | None
    part: str
    n_images: int = 0
    reason: str | None = None
    rate: float | None = _PIXEL_RATE


def fit(pipeline: Pipeline, data: Bunch, fit_params: Mapping[str, Any] | None = None) -> Stopwatch:
    """Fit on the good training images, and put the threshold; return the time it took.

    The threshold comes from the validation images where there are any, and else from
    out-of-sample scores of the training images. So does that of pixels, if the pipeline has one.
    A detector that is fitted already and has ``warm_start=True`` goes on with its networks.

    Parameters
    ----------
    pipeline : Pipeline
        Ends in a ``ThresholdCalibrator``, or in a ``PixelThresholdCalibrator`` of one.
    data : Bunch
        With ``X_train``, ``y_train`` and, where there are validation images, ``X_validation``.
    fit_params : mapping, default=None
        Further arguments for ``fit`` of the detector, such as ``roi_mask``.

    Returns
    -------
    Stopwatch
    """
    name, last = pipeline.steps[-1]
    calibrator = find_calibrator(last)
    params = dict(fit_params or {})
    with Stopwatch() as watch:
        if not uses_validation(calibrator, data) and not _goes_on(calibrator.estimator):
            routed = {f"{name}__{key}": value for key, value in params.items()}
            pipeline.fit(data.X_train, data.y_train, **routed)
            return watch
        train, validation = data.X_train, data.get("X_validation")
        # The steps stay as the training images leave them: the detector has seen only that.
        before = pipeline[:-1] if len(pipeline) > 1 else None
        if before is not None:
            train = before.fit_transform(train, data.y_train)
        if calibrator.estimator is not None:
            model = calibrator.estimator
            model = deepcopy(model) if _goes_on(model) else clone(model)
            fitted = model.fit(train, data.y_train, **params)
            if validation is None:  # the networks have not been trained on those it held out
                good = np.flatnonzero(np.asarray(data.y_train) == 1)
                validation = _safe_indexing(data.X_train, good[fitted.held_out_])
            # Frozen, so that the fitted model is not kept twice.
            calibrator.set_params(estimator=FrozenEstimator(fitted), cv="prefit")
        last.fit(validation if before is None else before.transform(validation))
    return watch


def _goes_on(model: Any) -> bool:
    """Tell whether a model is fitted and goes on with what it has learned when it is fitted."""
    return (
        isinstance(model, BaseTrainedDetector) and model.warm_start and hasattr(model, "networks_")
    )


def uses_validation(calibrator: ThresholdCalibrator, data: Bunch) -> bool:
    """Tell whether the threshold comes from validation images.

    A calibrator that was told where its scores come from, by ``cv`` or ``ensemble=True``, does
    as it was told.

    Parameters
    ----------
    calibrator : ThresholdCalibrator
    data : Bunch

    Returns
    -------
    bool
    """
    told = isinstance(calibrator.estimator, FrozenEstimator) or calibrator.ensemble is True
    automatic = isinstance(calibrator.cv, str) and calibrator.cv == "auto"
    return data.get("X_validation") is not None and automatic and not told


def put_pixel_threshold(pipeline: Pipeline, unfitted: Pipeline, data: Bunch) -> PixelThreshold:
    """Put a threshold on anomaly maps, by good images that the model has not seen.

    They are the validation images where these put the threshold of the scores, too. Otherwise a
    copy of the model is fitted without some of the training images, and has the maps of these:
    those of training images differ from maps of new ones. A pipeline that has a threshold of
    pixels keeps its own.

    Parameters
    ----------
    pipeline, unfitted : Pipeline
        Fitted, and as it was before.
    data : Bunch

    Returns
    -------
    PixelThreshold
    """
    validated = uses_validation(find_calibrator(unfitted), data)
    part = "validation" if validated else "train"
    own = find_defects(pipeline)
    if own is not None:
        n_images = own.pixel_provenance_["n_images"]
        return PixelThreshold(own.pixel_threshold_, part, n_images, rate=None)
    if not len(data.y_test):
        return PixelThreshold(None, part, reason="there are no test images")
    if not makes_maps(pipeline):
        return PixelThreshold(None, part, reason="the model makes no anomaly maps")
    if validated:
        model, images = pipeline, data.X_validation
    else:
        good = np.flatnonzero(np.asarray(data.y_train) == 1)
        try:
            model, images = hold_out(
                _without_calibrator(unfitted), _safe_indexing(data.X_train, good)
            )
        except TooFewImagesError as error:
            return PixelThreshold(None, part, reason=str(error))
    maps = maps_in_image_pixels(model, images)
    threshold = pixel_threshold(maps, false_positive_rate=_PIXEL_RATE)
    return PixelThreshold(threshold, part, _num_samples(images))


def _without_calibrator(pipeline: Pipeline) -> Pipeline:
    *before, (name, calibrator) = pipeline.steps
    inner = [] if calibrator.estimator is None else [(name, calibrator.estimator)]
    return Pipeline([*before, *inner])
