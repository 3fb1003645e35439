"""Anomaly maps of good images by models that have not seen them, in a temporary file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from pyimgano._any_estimator import iter_scores
from pyimgano._nesting import innermost, is_calibrator, walk
from pyimgano.calibration._metadata import is_prefit
from pyimgano.calibration._out_of_sample import (
    automatic_splitter,
    file_stamps,
    fit_fold,
    folds_of_normal_samples,
    held_out,
)
from pyimgano.calibration._recognition import (
    learns_before,
    maps_own_out_of_sample,
    refuse_trained_on,
)
from pyimgano.defects._extractor import check_map
from pyimgano.utils._outputs import naming_temporary_files

__all__ = ["MapFile", "add_out_of_sample_maps", "is_given", "maps_of", "no_maps"]


class MapFile:
    """Anomaly maps in a temporary file, to be gone through several times."""

    def __enter__(self) -> MapFile:
        self._file = tempfile.TemporaryFile(prefix="pyimgano-")
        self._sizes: list[tuple[int, ...]] = []
        self._n_bytes = 0
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add_all(self, estimator: Any, X: Any) -> None:
        """Write the maps of images by a fitted estimator."""
        for one in maps_of(estimator, X):
            heat = check_map(one, f"the map of sample {len(self._sizes)}")
            self._n_bytes += heat.nbytes
            with naming_temporary_files("the anomaly maps", self._n_bytes):
                self._file.write(heat.data)
                self._file.flush()
            self._sizes.append(heat.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        start = 0
        for size in self._sizes:
            n_bytes = 4 * math.prod(size)
            self._file.seek(start)
            yield np.frombuffer(self._file.read(n_bytes), np.float32).reshape(size)
            start += n_bytes
        self._file.seek(0, 2)


def add_out_of_sample_maps(
    maps: MapFile,
    estimator: Any,
    fitted: Any,
    X: Any,
    normal: np.ndarray,
    *,
    cv: Any,
    params: dict[str, Any],
    groups: Any,
    memory: Any,
    n_jobs: int | None,
) -> tuple[np.ndarray, str]:
    """Write the maps of good images by models that have not seen them, and name the source.

    Parameters
    ----------
    maps : MapFile
    estimator, fitted : estimator
        As it was given, and fitted on the images.
    X : indexable input of the estimator
    normal : ndarray of shape (n_samples,), bool
        False for known anomalies.
    cv, groups, memory, n_jobs
        As for :class:`~pyimgano.calibration.PixelThresholdCalibrator`.
    params : dict
        Metadata for the estimator's ``fit``.

    Returns
    -------
    order : ndarray of int
        Which of the good images each map is of.
    source : str
    """
    kept, known = np.flatnonzero(normal), np.flatnonzero(~normal)
    in_order, good = np.arange(len(kept)), X if normal.all() else _safe_indexing(X, kept)
    if is_prefit(cv) or is_given(fitted):
        refuse_trained_on(fitted, X, "to calibrate on")
    if is_prefit(cv):
        maps.add_all(fitted, good)
        return in_order, "held-out images (prefit)"
    if is_given(fitted):
        maps.add_all(fitted, good)
        return in_order, "images given to a frozen model"
    automatic = isinstance(cv, str)
    if automatic and groups is None and maps_own_out_of_sample(fitted):
        maps.add_all(fitted, good)
        return in_order, "the detector's own out-of-sample maps"
    new = held_out(fitted)
    if automatic and groups is None and new is not None and not learns_before(fitted):
        maps.add_all(fitted, _safe_indexing(good, np.flatnonzero(new)))
        n = int(new.sum())
        return np.arange(n), f"{n} good images that the detector held out of its training"
    if automatic:
        of_kept = None if groups is None else np.asarray(groups)[kept]
        splitter = automatic_splitter(len(kept), of_kept)
        cv = folds_of_normal_samples(splitter, X, normal, groups)
    stamps = None if memory is None else file_stamps(X)
    detector = _without_calibrators(estimator)
    fit = check_memory(memory).cache(fit_fold)
    models = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(fit)(
            clone(detector),
            X,
            np.where(normal, 1, -1),
            np.concatenate([kept[train], known]),
            params,
            stamps,
        )
        for train, _ in cv
    )
    for model, (_, test) in zip(models, cv):
        maps.add_all(model, _safe_indexing(good, test))
    return np.concatenate([test for _, test in cv]), f"{len(cv)} folds"


def is_given(estimator: Any) -> bool:
    """Tell whether the detector inside was fitted on other images than those at hand."""
    return any(
        isinstance(one, FrozenEstimator) or (is_calibrator(one) and is_prefit(one.cv))
        for one, _ in walk(estimator)
    )


def _without_calibrators(estimator: Any) -> Any:
    """Leave out of a nesting the calibrators, which would fit folds of their own."""
    if is_calibrator(estimator):
        return _without_calibrators(estimator.estimator)
    if isinstance(estimator, Pipeline):
        *before, (name, last) = estimator.steps
        if is_calibrator(last) and last.estimator is None:
            return _without_calibrators(Pipeline(before))
        return Pipeline([*before, (name, _without_calibrators(last))])
    return estimator


def no_maps(estimator: Any) -> TypeError:
    name = type(innermost(estimator)[0]).__name__
    return TypeError(
        f"{name} makes no anomaly maps of this input, in which defects could be found: take a "
        "detector with maps, fitted on images or patch grids."
    )


def maps_of(estimator: Any, X: Any, batch_size: int = 8) -> Iterator[np.ndarray]:
    for block in iter_scores(estimator, X, maps=True, batch_size=batch_size):
        if len(block.maps) != len(block.scores):
            raise no_maps(estimator)
        yield from block.maps
