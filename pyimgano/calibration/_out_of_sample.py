"""Out-of-sample scores of any outlier detector: its own, or those of folds."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import BaseCrossValidator, KFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_memory

from pyimgano._decision import flip
from pyimgano._nesting import is_calibrator, steps_before

__all__ = ["OWN_SCORES", "index_metadata", "out_of_sample_scores", "own_scores"]

# What out_of_sample_scores calls training_scores_ and their like.
OWN_SCORES = "the detector's own out-of-sample scores"
# Folds used by cv="auto" when the estimator has no out-of-sample scores of its own.
_AUTO_FOLDS = 5


def out_of_sample_scores(
    estimator: Any,
    X: Any,
    *,
    cv: Any = "auto",
    memory: Any = None,
    n_jobs: int | None = None,
    params: dict[str, Any] | None = None,
) -> tuple[Any, np.ndarray, str]:
    """Fit an outlier detector, and score its training samples as if it had not seen them.

    Parameters
    ----------
    estimator : estimator
        An outlier detector with ``score_samples``, or a pipeline that ends in one. A clone of
        it is fitted; a ``FrozenEstimator`` stays as it is.
    X : indexable input of the estimator
        Good samples.
    cv : "auto", int, splitter or iterable of splits, default="auto"
        As in :class:`ThresholdCalibrator`.
    memory : str or joblib.Memory, default=None
        Cache for fitted estimators.
    n_jobs : int, default=None
        Number of folds fitted at a time.
    params : dict, default=None
        Metadata for the estimator's ``fit``.

    Returns
    -------
    estimator : estimator
        Fitted on all of ``X``.
    scores : ndarray of shape (n_samples,), float64
        Anomaly scores (``-score_samples``), in the order of ``X``.
    source : str
        Where they come from, in words.
    """
    stamps = None if memory is None else _file_stamps(X)
    memory = check_memory(memory)
    params = params or {}
    if params and isinstance(estimator, FrozenEstimator):
        raise TypeError(f"{', '.join(sorted(params))} is for a fit, and the estimator is frozen.")
    fitted = memory.cache(_fit)(clone(estimator), X, params, stamps)
    if isinstance(fitted, FrozenEstimator):
        return fitted, flip(fitted.score_samples(X)), "images given to a frozen model"
    if isinstance(cv, str):
        own = own_scores(fitted)
        if own is not None:
            return fitted, own.copy(), OWN_SCORES
        splitter: BaseCrossValidator = KFold(_AUTO_FOLDS, shuffle=True, random_state=0)
        if _num_samples(X) < _AUTO_FOLDS:
            splitter = KFold(_num_samples(X))
    else:
        splitter = check_cv(cv)
    fit_and_score = memory.cache(_fit_and_score)
    folds = list(splitter.split(X))
    parts = Parallel(n_jobs=n_jobs)(
        delayed(fit_and_score)(clone(estimator), X, train, test, params, stamps)
        for train, test in folds
    )
    order = np.concatenate([test for _, test in folds])
    if not np.array_equal(np.sort(order), np.arange(_num_samples(X))):
        raise ValueError(
            f"cv={cv!r} does not test every sample exactly once, so its scores are not those of "
            "so many images: use folds, such as KFold(5, shuffle=True)."
        )
    scores = np.concatenate(parts)[np.argsort(order, kind="stable")]
    return fitted, scores, f"{len(folds)} folds"


def _file_stamps(X: Any) -> list[tuple[int, int]] | None:
    """Size and modification time of each file, if ``X`` are paths.

    An argument of the cached functions only: a path stays the same when its file changes.
    """
    if not isinstance(X, (list, tuple, np.ndarray)):
        return None
    if not all(isinstance(x, (str, os.PathLike)) and os.path.isfile(x) for x in X):
        return None
    return [(status.st_size, status.st_mtime_ns) for status in map(os.stat, X)]


def index_metadata(params: dict[str, Any], n: int, index: np.ndarray) -> dict[str, Any]:
    """Metadata of some of the samples.

    Parameters
    ----------
    params : dict
        Metadata of ``n`` samples. What has one dimension and that length holds one value per
        sample; all else, such as a mask of pixels, is common to all samples, however long.
    n : int
        Number of samples.
    index : ndarray of int
        Samples to keep.

    Returns
    -------
    dict
    """
    return {
        name: _safe_indexing(value, index) if np.shape(value) == (n,) else value
        for name, value in params.items()
    }


def _fit(estimator: Any, X: Any, params: dict[str, Any], stamps: Any = None) -> Any:
    return estimator.fit(X, None, **params)  # FrozenEstimator.fit asks for y


def _fit_and_score(
    estimator: Any,
    X: Any,
    train: np.ndarray,
    test: np.ndarray,
    params: dict[str, Any],
    stamps: Any = None,
) -> np.ndarray:
    params = index_metadata(params, _num_samples(X), train)
    fitted = _fit(estimator, _safe_indexing(X, train), params)
    return flip(fitted.score_samples(_safe_indexing(X, test)))


def own_scores(estimator: Any) -> np.ndarray | None:
    """Out-of-sample scores the fitted estimator keeps, if nothing before it spoils them.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or a pipeline that ends in one.

    Returns
    -------
    ndarray of shape (n_samples,), float64, or None
        Anomaly scores of its training samples; None if an earlier step learned from the same
        samples, or the detector keeps none.
    """
    if isinstance(estimator, Pipeline):
        before, last = steps_before(estimator)
        return own_scores(last) if all(_learns_nothing(step) for step in before) else None
    if is_calibrator(estimator):
        return estimator.calibration_scores_
    if isinstance(estimator, FrozenEstimator):
        return None  # what it keeps belongs to the images it was once fitted on
    return getattr(estimator, "training_scores_", None)


def _learns_nothing(step: Any) -> bool:
    return isinstance(step, FrozenEstimator) or not get_tags(step).requires_fit
