"""The pipeline that a benchmark fits on each category, made of a model or given as a whole."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline, make_pipeline

from pyimgano import _defaults
from pyimgano._nesting import (
    all_parts,
    extracts_defects,
    find_calibrator,
    find_parts,
    first_step,
    innermost,
    is_calibrator,
    no_detector,
    walk,
)
from pyimgano.benchmark._split import encodable, of_file, of_folder
from pyimgano.calibration import PixelThresholdCalibrator, ThresholdCalibrator
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.persistence import load
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.tiling import TilingTransformer
from pyimgano.utils._fingerprint import digest

__all__ = [
    "GivenPipeline",
    "describe",
    "given_pipeline",
    "make_pipeline_of",
    "open_pipeline",
    "repr_of",
]


class GivenPipeline(NamedTuple):
    """A pipeline to evaluate.

    Parameters
    ----------
    pipeline : estimator
        Of :func:`given_pipeline` a ``Pipeline`` that is not fitted and ends in a
        ``ThresholdCalibrator``; of :func:`open_pipeline` what was given.
    name : str
        What reports call it.
    file, sha256 : str or None
        Name and SHA-256 of the file it was loaded from.
    """

    pipeline: Any
    name: str
    file: str | None
    sha256: str | None


def open_pipeline(pipeline: Any, argument: str) -> GivenPipeline:
    """Load a pipeline if it is a file, and check that it is a detector.

    Parameters
    ----------
    pipeline : str, Path or estimator
        A saved file, or an outlier detector for images with all that belongs to it.
    argument : str
        Name of the argument that it was given as, for the message.

    Returns
    -------
    GivenPipeline

    Raises
    ------
    TypeError
        If it is no outlier detector.
    """
    file = sha256 = None
    if isinstance(pipeline, (str, os.PathLike)):
        file, sha256 = encodable(os.path.basename(pipeline)), of_file(pipeline).hex()
        pipeline = load(pipeline)
    if not (hasattr(pipeline, "fit") and hasattr(pipeline, "score_samples")):
        raise TypeError(no_detector(pipeline, argument))
    name = type(innermost(pipeline)[0]).__name__ if file is None else file
    return GivenPipeline(pipeline, name, file, sha256)


def given_pipeline(pipeline: Any, quantile: float | None) -> GivenPipeline:
    """Make an unfitted copy of a pipeline, which each category can be fitted to.

    Parameters
    ----------
    pipeline : str, Path or estimator
        A saved file, or an outlier detector for images with all that belongs to it; fitted or not.
    quantile : float or None
        Share of good images that shall pass; None keeps that of the pipeline.

    Returns
    -------
    GivenPipeline

    Raises
    ------
    ValueError
        If fitting a copy would leave something of it behind: a region of interest, or a model
        that is frozen.
    TypeError
        If it is no outlier detector.
    """
    pipeline, name, file, sha256 = open_pipeline(pipeline, "pipeline")
    if _region_of(pipeline) is not None:
        raise ValueError(
            f"pipeline ({name}) was fitted with a region of interest, which is no parameter and "
            "would be lost when a copy of it is fitted on each category: judge your own images "
            "with the fitted pipeline (pyimgano infer), or evaluate one without a region."
        )
    weights = _files_of_networks(pipeline)
    copy = _unfrozen(clone(pipeline), name)
    for step in find_parts(copy, BaseNetworkFeatures):
        if (found := weights.get(repr(step))) is not None:
            step.set_params(weights=found)
    return GivenPipeline(_calibrated(copy, quantile), name, file, sha256)


def _region_of(pipeline: Any) -> Any:
    return next(
        (one for part, _ in walk(pipeline) if (one := vars(part).get("roi_mask_")) is not None),
        None,
    )


def _files_of_networks(pipeline: Any) -> dict[str, str]:
    """Find the weights of fitted networks, which may lie elsewhere than when they were fitted."""
    found = {}
    for step in find_parts(pipeline, BaseNetworkFeatures):
        held = hasattr(step, "embedded_weights_")
        if hasattr(step, "weights_sha256_") and not held and step._given_file() is not None:
            found[repr(step)] = os.fspath(step._weights_path())
    return found


def _unfrozen(pipeline: Any, name: str) -> Any:
    """Let a calibrator that judged by a fitted model fit it, as ``cv="auto"`` does."""
    for one, _ in walk(pipeline):
        if is_calibrator(one) and isinstance(one.cv, str) and one.cv == "prefit":
            inner = one.estimator
            inner = inner.estimator if isinstance(inner, FrozenEstimator) else inner
            one.set_params(estimator=clone(inner), cv="auto")
        elif isinstance(one, FrozenEstimator):
            raise ValueError(
                f"pipeline ({name}) holds its detector in a FrozenEstimator, which no fit changes: "
                "all categories would be judged by the images it was once fitted on. Give the "
                "pipeline with the estimator itself in its place."
            )
    return pipeline


def _calibrated(pipeline: Any, quantile: float | None) -> Pipeline:
    """Put what is missing around an estimator: image format, and a calibrated threshold."""
    last = pipeline.steps[-1][1] if isinstance(pipeline, Pipeline) else pipeline
    calibrator = last if is_calibrator(last) else None
    if extracts_defects(last):
        calibrator = find_calibrator(last)
    if calibrator is None:
        if find_calibrator(pipeline) is not None and quantile is not None:
            raise ValueError(
                "the pipeline has its calibrator inside another estimator: give the quantile there."
            )
        share = _defaults.QUANTILE if quantile is None else quantile
        pipeline = ThresholdCalibrator(pipeline, quantile=share)
    elif quantile is not None:
        calibrator.set_params(quantile=quantile)
    if not isinstance(pipeline, Pipeline):
        starts = isinstance(first_step(pipeline), ImageFormatNormalizer)
        pipeline = make_pipeline(*([] if starts else [ImageFormatNormalizer()]), pipeline)
    _validate(pipeline)
    return pipeline


def make_pipeline_of(
    model: Any,
    quantile: float | None,
    u16_max: int,
    *,
    input_format: str = _defaults.INPUT_FORMAT,
    tile: int | TilingTransformer | None = None,
    tile_overlap: int = 0,
    preprocessing: Sequence[BasePreprocessor] = (),
) -> Pipeline:
    """Put the image format before a model and a calibrated threshold around it.

    Parameters
    ----------
    model : estimator
        An outlier detector for images, or a ``ThresholdCalibrator`` or
        ``PixelThresholdCalibrator`` of one.
    quantile : float or None
        Share of good images that shall pass; None is the default of the package.
    u16_max : int
        Value of full scale in 16-bit files.
    input_format : str, default="rgb_u8_hwc"
        Format of images in arrays.
    tile : int or TilingTransformer, default=None
        Side of the tiles that images are cut into, or how; None does not cut them.
    tile_overlap : int, default=0
        Pixels that neighboring tiles share, less than ``tile``.
    preprocessing : sequence of BasePreprocessor, default=()
        Steps that prepare the images, in this order.

    Returns
    -------
    Pipeline
        Not fitted.

    Raises
    ------
    InvalidParameterError
        If a parameter of any part is not one it takes, which ``fit`` would say much later.
    """
    if not isinstance(model, (ThresholdCalibrator, PixelThresholdCalibrator)):
        model = ThresholdCalibrator(
            model, quantile=_defaults.QUANTILE if quantile is None else quantile
        )
    elif quantile is not None:
        raise ValueError(f"the model is a {type(model).__name__}: give the quantile there.")
    steps = [ImageFormatNormalizer(input_format, u16_max=u16_max), *preprocessing]
    if isinstance(tile, TilingTransformer):
        steps.append(tile)
    elif tile is not None:
        steps.append(TilingTransformer(tile, stride=tile - tile_overlap if tile_overlap else None))
    pipeline = make_pipeline(*steps, model)
    _validate(pipeline)
    return pipeline


def _validate(pipeline: Pipeline) -> None:
    for part in all_parts(pipeline):
        if isinstance(part, BaseEstimator) and hasattr(part, "_parameter_constraints"):
            part._validate_params()


# ---- in words -------------------------------------------------------------------------
def repr_of(estimator: Any) -> str:
    """Give the repr of an estimator in one line, whole, and the same in each process."""
    whole = isinstance(estimator, BaseEstimator)  # scikit-learn's repr leaves out what is long
    text = " ".join((estimator.__repr__(N_CHAR_MAX=10**9) if whole else repr(estimator)).split())
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def describe(value: Any) -> Any:
    """An estimator as class and parameters, in JSON types that are the same on any machine."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False)
        if isinstance(value, Pipeline):
            params = dict(value.steps)
        folders = {
            name: f"{os.path.basename(os.path.abspath(params[name]))} (SHA-256 {found})"
            for name in getattr(value, "_folder_parameters", ())
            if (found := of_folder(params[name])) is not None
        }
        return {
            "class": _full_name(type(value)),
            # A bar on a terminal makes no other estimator.
            "params": {
                name: folders.get(name) or describe(param)
                for name, param in params.items()
                if name != "verbose"
            },
        }
    if isinstance(value, Mapping):
        return {str(key): describe(one) for key, one in value.items()}
    # The repr of a large one leaves out most of it.
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        shape = " x ".join(map(str, value.shape))
        return f"array of {shape}, {value.dtype}, fingerprint {digest(value).hex()}"
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, (str, os.PathLike)) and os.path.isfile(value):
        # Such as weights: another file of this name is another model.
        return f"{os.path.basename(value)} (SHA-256 {of_file(value).hex()})"
    if isinstance(value, (str, os.PathLike)):
        return os.path.basename(value) if os.path.isabs(value) else os.fspath(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    text = repr(value)
    # An address in memory would differ in each run.
    return text if " at 0x" not in text else _full_name(value)


def _full_name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
