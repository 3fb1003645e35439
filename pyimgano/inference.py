"""Scores, maps and records from any fitted estimator, however deeply it is nested.

This is the one module that translates between scikit-learn's signs and what leaves Python:
``score = -score_samples`` (higher = worse), ``threshold = -offset_``,
``pred = int(score > threshold)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_outlier_detector
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from pyimgano.base import input_kind
from pyimgano.exceptions import ImageFormatError, ImageReadError

__all__ = ["Scored", "anomaly_map", "infer", "score", "threshold"]


class Scored(NamedTuple):
    """Anomaly scores ``(n,)``, higher = worse, and the maps, or None where there are none.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,), float64
        Higher = more anomalous.
    maps : ndarray of shape (n_samples, height, width), float32, or list of such arrays, or None
        Higher = more anomalous.
    """

    scores: np.ndarray
    maps: Any


def anomaly_map(estimator: Any, X: Any) -> np.ndarray | list[np.ndarray]:
    """Anomaly maps from a detector inside any nesting of pipelines and meta-estimators.

    Parameters
    ----------
    estimator : fitted estimator
        A detector with ``anomaly_map``, or a ``Pipeline``, ``ThresholdCalibrator``,
        ``FrozenEstimator`` or search that ends in one.
    X : input of the estimator

    Returns
    -------
    ndarray of shape (n_images, height, width), float32, or list of such arrays
        Higher = more anomalous, in the pixels of the images that the detector was given.

    Raises
    ------
    TypeError
        If the detector at the end makes no maps.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from pyimgano import ImageFormatNormalizer, PatchCoreDetector, anomaly_map
    >>> frames = np.random.RandomState(0).randint(0, 256, size=(4, 64, 64, 3)).astype(np.uint8)
    >>> pipe = make_pipeline(
    ...     ImageFormatNormalizer(input_format="bgr_u8_hwc"), PatchCoreDetector("filterbank")
    ... ).fit(frames)
    >>> anomaly_map(pipe, frames).shape
    (4, 64, 64)
    """
    detector, data = _innermost(estimator, X)
    if not _makes_maps(detector, X):
        raise TypeError(
            f"{type(detector).__name__} makes no anomaly maps here: it gives one score per image."
        )
    return detector.anomaly_map(data)


def score(estimator: Any, X: Any, *, maps: bool = False) -> Scored:
    """Anomaly scores, and maps in the same pass if asked for.

    Parameters
    ----------
    estimator : fitted estimator
    X : input of the estimator
    maps : bool, default=False
        Also return the anomaly maps, where the detector makes any.

    Returns
    -------
    Scored
        ``scores`` of shape (n_images,), float64, higher = more anomalous; ``maps`` as in
        :func:`anomaly_map`, or None.
    """
    if maps:
        detector, data = _innermost(estimator, X)
        if _makes_maps(detector, X):
            samples, found = detector.score_and_map(data)
            return Scored(-samples, found)
    return Scored(-np.asarray(estimator.score_samples(X), dtype=np.float64), None)


def threshold(estimator: Any) -> float:
    """Anomaly score above which ``estimator`` judges an image anomalous.

    Parameters
    ----------
    estimator : fitted estimator
        Anything with ``offset_``, or a pipeline or search that ends in it.

    Returns
    -------
    float
        ``-offset_``.
    """
    while not hasattr(estimator, "offset_"):
        inner = _one_level_in(estimator)
        if inner is None:
            raise TypeError(f"{type(estimator).__name__} has no threshold (no attribute offset_).")
        estimator = inner
    return -float(estimator.offset_)


def find_calibrator(estimator: Any) -> Any:
    """Find the threshold calibrator in any nesting of pipelines and meta-estimators.

    Parameters
    ----------
    estimator : fitted estimator

    Returns
    -------
    ThresholdCalibrator or None
        The outermost one; None if there is none.
    """
    while estimator is not None and not _is_calibrator(estimator):
        estimator = _one_level_in(estimator)
    return estimator


def _one_level_in(estimator: Any) -> Any:
    if isinstance(estimator, Pipeline):
        return estimator.steps[-1][1]
    if isinstance(estimator, FrozenEstimator):
        return estimator.estimator
    for name in ("best_estimator_", "estimator_"):
        inner = estimator.__dict__.get(name)
        # An ensemble keeps its base estimator, a tree, under the same name.
        if inner is not None and is_outlier_detector(inner):
            return inner
    return None


def _is_calibrator(estimator: Any) -> bool:
    # Known by what it does: ThresholdCalibrator builds on this module.
    return hasattr(type(estimator), "p_value_of_scores")


def _makes_maps(detector: Any, X: Any) -> bool:
    # A calibrator has the method whatever it wraps; alone, after a score column, it has no map.
    if not hasattr(detector, "score_and_map") or _is_calibrator(detector):
        return False
    # Where a step before it made one row of each image, there is no way back to pixels.
    return getattr(detector, "input_kind_", None) != "rows" or input_kind(X) == "rows"


def _innermost(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Walk down to the detector that scores, taking ``X`` through the steps before it."""
    check_is_fitted(estimator)
    while True:
        if isinstance(estimator, Pipeline):
            steps = list(estimator.steps)
            last = steps[-1][1]
            if _is_calibrator(last) and last.estimator is None:
                steps.pop()  # it turns the score column of the step before into a verdict
            for _, step in steps[:-1]:
                if step is not None and step != "passthrough":
                    X = step.transform(X)
            estimator = steps[-1][1]
            continue
        inner = _one_level_in(estimator)
        if inner is None:
            return estimator, X
        estimator = inner


def infer(
    estimator: Any, X: Any, *, maps: bool = False, batch_size: int = 8
) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
    """Judge images one block at a time, as plain records.

    An image file that cannot be read becomes a record with an ``error`` and without a score;
    the images beside it are judged all the same.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector with ``score_samples`` and ``offset_``, or a nesting of such.
    X : sequence of paths or other input of the estimator
        Must support ``len`` and slicing.
    maps : bool, default=False
        Also yield the anomaly map of each image.
    batch_size : int, default=8
        Images held at a time.

    Yields
    ------
    record : dict
        ``index``, ``path`` (for files), and either ``score`` (higher = worse), ``threshold``,
        ``pred`` (1 = anomalous) and, for a calibrated estimator, ``p_value``; or ``error``.
        Plain JSON types.
    map : ndarray of shape (height, width), float32, or None
        None for an error, without ``maps``, and for detectors that make none.
    """
    cut = threshold(estimator)
    calibrator = find_calibrator(estimator)
    for start in range(0, len(X), batch_size):
        block = X[start : start + batch_size]
        parts: list[tuple[Any, Scored | Exception]]
        try:
            parts = [(block, score(estimator, block, maps=maps))]
        except (ImageReadError, ImageFormatError):
            if None in _paths(block):
                raise  # not about one file: the caller gave arrays of the wrong kind
            parts = [(item, _score_or_error(estimator, item, maps)) for item in _singles(block)]
        index = start
        for items, result in parts:
            for i, path in enumerate(_paths(items)):
                record: dict[str, Any] = {"index": index}
                index += 1
                if path is not None:
                    record["path"] = path
                if isinstance(result, Exception):
                    yield {**record, "error": str(result)}, None
                    continue
                value = float(result.scores[i])
                record.update(score=value, threshold=cut, pred=int(value > cut))
                if calibrator is not None:
                    record["p_value"] = float(calibrator.p_value_of_scores(value))
                yield record, None if result.maps is None else result.maps[i]


def _singles(block: Any) -> list[Any]:
    return [block[i : i + 1] for i in range(len(block))]


def _score_or_error(estimator: Any, item: Any, maps: bool) -> Scored | Exception:
    try:
        return score(estimator, item, maps=maps)
    except (ImageReadError, ImageFormatError) as error:
        return error


def _paths(block: Any) -> Sequence[str | None]:
    items = getattr(block, "paths", block)
    return [str(item) if isinstance(item, (str, Path)) else None for item in items]
