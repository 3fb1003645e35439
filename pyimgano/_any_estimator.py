"""Scores and maps from any fitted detector, inside pipelines, calibrators, and searches.

All scores, thresholds, and maps here are higher for anomalies. Public as part of
:mod:`pyimgano.inference`, which builds on the rooms that import this one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples, check_is_fitted

from pyimgano._checks import input_kind
from pyimgano._decision import flip
from pyimgano._nesting import innermost, makes_maps, steps_before, walk
from pyimgano.base import MODEL_ERRORS, ScoredBlock
from pyimgano.exceptions import ImageFormatError, SampleError
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence
from pyimgano.inputs._containers import as_list, counted_from, first_index, is_path, sliceable
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.tiling import TilingTransformer
from pyimgano.utils._stages import timed

__all__ = [
    "Scored",
    "anomaly_map",
    "anomaly_scores",
    "image_paths",
    "iter_scores",
    "score_with_maps",
    "threshold",
]

# Transformers that do no work until the detector reads their output.
_LAZY_STEPS = (ImageFormatNormalizer, BasePreprocessor, TilingTransformer)


class Scored(NamedTuple):
    """Anomaly scores and anomaly maps.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,), float64
        Higher = more anomalous.
    maps : ndarray of shape (n_samples, height, width), float32, or list of such arrays, or None
        Higher = more anomalous; None where the detector makes no maps.
    """

    scores: np.ndarray
    maps: Any


def anomaly_scores(estimator: Any, X: Any) -> np.ndarray:
    """Compute anomaly scores with any fitted outlier detector.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector with ``score_samples``, or a nesting of such.
    X : input of the estimator

    Returns
    -------
    ndarray of shape (n_samples,), float64
        ``-estimator.score_samples(X)``: higher = more anomalous.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PatchCoreDetector
    >>> from pyimgano.inference import anomaly_scores
    >>> rows = np.random.RandomState(0).normal(size=(50, 3))
    >>> detector = PatchCoreDetector().fit(rows)
    >>> good, bad = anomaly_scores(detector, [[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    >>> bool(bad > good)
    True
    """
    return flip(estimator.score_samples(X))


def score_with_maps(estimator: Any, X: Any) -> Scored:
    """Compute anomaly scores and maps in one pass.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector with ``score_samples``, or a nesting of such.
    X : input of the estimator

    Returns
    -------
    Scored
        ``maps`` is None if the detector cannot make maps of this input.
    """
    if makes_maps(estimator):
        check_is_fitted(estimator)
        detector, data = innermost(estimator, X)
        if _maps_of_input(detector, X):
            scores, maps = detector.score_and_map(data)
            return Scored(flip(scores), maps)
    return Scored(anomaly_scores(estimator, X), None)


def score(estimator: Any, X: Any, *, maps: bool = False) -> Scored:
    """Deprecated: use :func:`anomaly_scores` or :func:`score_with_maps`."""
    warnings.warn(
        "pyimgano.inference.score is now anomaly_scores, and score_with_maps for maps=True; the "
        "old name will be removed in the next release.",
        FutureWarning,
        stacklevel=2,
    )
    return score_with_maps(estimator, X) if maps else Scored(anomaly_scores(estimator, X), None)


def anomaly_map(estimator: Any, X: Any) -> np.ndarray | list[np.ndarray]:
    """Compute anomaly maps with any fitted estimator that contains a detector with maps.

    Parameters
    ----------
    estimator : fitted estimator
        A detector with ``anomaly_map``, or a ``Pipeline``, ``ThresholdCalibrator``,
        ``FrozenEstimator`` or search that ends in one.
    X : input of the estimator

    Returns
    -------
    ndarray of shape (n_images, height, width), float32, or list of such arrays
        Higher = more anomalous, in the pixels of the images that the detector was given. Where a
        preprocessing step has cropped or moved them, in the pixels of the images before it.

    Raises
    ------
    TypeError
        If the detector cannot make maps of this input.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from pyimgano import ImageFormatNormalizer, PatchCoreDetector, anomaly_map
    >>> from pyimgano.features import FilterBankFeatures
    >>> frames = np.random.RandomState(0).randint(0, 256, size=(4, 64, 64, 3)).astype(np.uint8)
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64))
    >>> pipe = make_pipeline(ImageFormatNormalizer(input_format="bgr_u8_hwc"), detector).fit(frames)
    >>> anomaly_map(pipe, frames).shape
    (4, 64, 64)
    """
    check_is_fitted(estimator)
    detector, data = innermost(estimator, X)
    if not (makes_maps(detector) and _maps_of_input(detector, X)):
        raise TypeError(
            f"{type(detector).__name__} makes no anomaly maps here: it gives one score per image."
        )
    return detector.anomaly_map(data)


def _maps_of_input(detector: Any, X: Any) -> bool:
    # If an earlier step turned each image into one row, there is no way back to pixels.
    return getattr(detector, "input_kind_", None) != "rows" or input_kind(X) == "rows"


def threshold(estimator: Any) -> float:
    """Return the threshold on anomaly scores: images above it are anomalous.

    Parameters
    ----------
    estimator : fitted estimator
        Anything with ``offset_``, or a pipeline or search that ends in it.

    Returns
    -------
    float
        ``-offset_``.
    """
    for one, _ in walk(estimator):
        if hasattr(one, "offset_"):
            return float(np.ravel(flip(one.offset_))[0])  # OneClassSVM has an array of one
    raise TypeError(f"{type(estimator).__name__} has no threshold (no attribute offset_).")


def iter_scores(
    estimator: Any,
    X: Any,
    *,
    maps: bool = False,
    on_error: str = "raise",
    batch_size: int = 8,
) -> Iterator[ScoredBlock]:
    """Score samples block by block with any fitted outlier detector.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector with ``score_samples``, or a nesting of such.
    X : sequence of paths or other input of the estimator
        Must support ``len`` and slicing.
    maps : bool, default=False
        Also compute anomaly maps, where the detector makes any.
    on_error : {"raise", "record"}, default="raise"
        How to handle a sample that cannot be scored. ``"record"`` stores the error in the
        block and continues: a :class:`~pyimgano.exceptions.SampleError`, or, where estimators of
        other packages take part, a ``ValueError`` or ``OSError``, by which they say that they
        cannot take an input. Anything else is no matter of the sample and is raised.
    batch_size : int, default=8
        Number of samples per block if earlier steps transform them in memory. Not used if the
        detector reads the images itself.

    Returns
    -------
    iterator of ScoredBlock
        In the order of the samples; without maps where the detector makes none. Arguments are
        checked before it is returned.
    """
    if on_error not in ("raise", "record"):
        raise ValueError(f'on_error must be "raise" or "record", got {on_error!r}.')
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    check_is_fitted(estimator)
    detector, _ = innermost(estimator)
    maps = maps and makes_maps(detector) and _maps_of_input(detector, X)
    X = sliceable(X)
    n = _num_samples(X)
    if _is_lazy(estimator, X) and hasattr(detector, "iter_scores"):
        _, data = innermost(estimator, X)
        return detector.iter_scores(data, maps=maps, on_error=on_error)
    return _by_blocks(estimator, X, n, batch_size, maps, record=on_error == "record")


def _by_blocks(
    estimator: Any, X: Any, n: int, batch_size: int, maps: bool, record: bool
) -> Iterator[ScoredBlock]:
    for start in range(0, n, batch_size):
        which = range(start, min(n, start + batch_size))
        try:
            scored = _score_some(estimator, X, which, maps)
        except MODEL_ERRORS:
            raise
        except (SampleError, ValueError, OSError) as error:
            # A format error in a numeric array concerns all samples, so it is raised.
            wrong_call = isinstance(X, np.ndarray) and isinstance(error, ImageFormatError)
            if not record or (wrong_call and X.dtype.kind not in "OUT"):
                raise
            yield from _one_by_one(estimator, X, which, maps)
        else:
            yield scored


def _is_lazy(estimator: Any, X: Any) -> bool:
    """Tell whether all of ``X`` can go through the steps at once without being loaded."""
    steps = _steps(estimator)
    if not steps:
        return True
    # Images in memory would be converted, hence copied, all at once.
    on_disk = isinstance(X, ImageSequence) or all(path is not None for path in image_paths(X))
    return on_disk and all(isinstance(step, _LAZY_STEPS) for step in steps)


def _steps(estimator: Any) -> list[Any]:
    steps = []
    for one, _ in walk(estimator):
        if isinstance(one, Pipeline):
            steps += steps_before(one)[0]
    detector, _ = innermost(estimator)
    return [step for step in steps if step is not detector]


def _score_some(estimator: Any, X: Any, which: range, maps: bool) -> ScoredBlock:
    some = X[which.start : which.stop]
    with counted_from(first_index() + which.start), timed("score"):
        if not maps:
            return ScoredBlock(which.start, anomaly_scores(estimator, some), [], {})
        found = score_with_maps(estimator, some)
    return ScoredBlock(which.start, found.scores, list(found.maps), {})


def _one_by_one(estimator: Any, X: Any, which: range, maps: bool) -> Iterator[ScoredBlock]:
    for i in which:
        try:
            scored = _score_some(estimator, X, range(i, i + 1), maps)
        except MODEL_ERRORS:
            raise
        except (SampleError, ValueError, OSError) as error:
            scored = ScoredBlock(i, np.full(1, np.nan), [None] * maps, {0: error})
        yield scored


def image_paths(X: Any) -> Sequence[str | None]:
    """Give the path of each sample.

    Parameters
    ----------
    X : sequence of paths or other input of an estimator

    Returns
    -------
    sequence of str or None
        None for a sample that is no file.
    """
    items = getattr(X, "paths", None) or as_list(X)
    if not isinstance(items, (list, tuple)):  # a table's items are the names of its columns
        return [None] * _num_samples(X)
    return [os.fspath(item) if is_path(item) else None for item in items]
