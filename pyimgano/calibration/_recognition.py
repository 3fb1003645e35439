"""Training samples among the good images that a fitted model is calibrated on again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples

from pyimgano._nesting import innermost, steps_before, walk
from pyimgano.calibration._out_of_sample import learns_nothing
from pyimgano.exceptions import TrainingImagesError
from pyimgano.grids import PatchGrids
from pyimgano.inputs._containers import as_list, is_path
from pyimgano.utils._fingerprint import digest

__all__ = [
    "content_keys",
    "learns_before",
    "maps_own_out_of_sample",
    "recognized",
    "recognizes",
    "refuse_trained_on",
    "scores_own_out_of_sample",
    "trained_on",
]


def scores_own_out_of_sample(estimator: Any) -> bool:
    """Tell whether a fitted estimator scores its training samples as if it had not seen them.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or any nesting that ends in one.

    Returns
    -------
    bool
        False if an earlier step has learned from the training samples, or if the detector does
        not recognize them, as those of other packages do not.
    """
    if learns_before(estimator):
        return False
    detector, _ = innermost(estimator)
    if hasattr(detector, "fold_estimators"):
        return all(map(scores_own_out_of_sample, detector.fold_estimators))
    return recognizes(detector)


def maps_own_out_of_sample(estimator: Any) -> bool:
    """Tell whether a fitted estimator makes maps of its training samples as of new ones.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or any nesting that ends in one.

    Returns
    -------
    bool
        False if an earlier step has learned from the training samples, or the feature step of
        the detector in a way that suits them better than others.
    """
    if learns_before(estimator):
        return False
    detector, _ = innermost(estimator)
    if hasattr(detector, "fold_estimators"):
        return all(map(maps_own_out_of_sample, detector.fold_estimators))
    return recognizes(detector) and bool(getattr(detector, "_maps_own_out_of_sample", False))


def learns_before(estimator: Any) -> bool:
    """Tell whether a step before the detector has learned from the training samples.

    Parameters
    ----------
    estimator : fitted estimator

    Returns
    -------
    bool
    """
    return any(
        isinstance(one, Pipeline) and not all(map(learns_nothing, steps_before(one)[0]))
        for one, _ in walk(estimator)
    )


def recognizes(estimator: Any) -> bool:
    """Tell whether the detector inside a fitted estimator knows its training samples again.

    Parameters
    ----------
    estimator : fitted estimator

    Returns
    -------
    bool
    """
    detector, _ = innermost(estimator)
    folds = getattr(detector, "fold_estimators", None)
    if folds is not None:
        return all(map(recognizes, folds))
    return bool(getattr(detector, "_scores_own_out_of_sample", False))


def recognized(estimator: Any, X: Any) -> np.ndarray:
    """Tell which samples an estimator was trained on.

    Parameters
    ----------
    estimator : fitted estimator
        One that ``recognizes`` them.
    X : input of the estimator

    Returns
    -------
    ndarray of shape (n_samples,), bool
    """
    detector, data = innermost(estimator, X)
    if not hasattr(detector, "fold_estimators"):
        return detector._recognize(data)
    # Each training sample is left out of one fold, so any two have seen all of them.
    return np.any([recognized(one, data) for one in detector.fold_estimators[:2]], axis=0)


def trained_on(estimator: Any, X: Any) -> np.ndarray | None:
    """Tell which samples the networks of an estimator have been trained on.

    Parameters
    ----------
    estimator : fitted estimator
    X : input of the estimator

    Returns
    -------
    ndarray of shape (n_samples,), bool, or None
        None for estimators that train no networks.
    """
    detector, data = innermost(estimator, X)
    folds = getattr(detector, "fold_estimators", None)
    if folds is None and hasattr(detector, "named_estimators_"):  # an ensemble
        folds, data = detector.estimators_, getattr(data, "X", data)
    if folds is not None:
        found = [seen for one in folds if (seen := trained_on(one, data)) is not None]
        return np.any(found, axis=0) if found else None
    recognize = getattr(detector, "_recognize_trained", None)
    return None if recognize is None else recognize(data)


def refuse_trained_on(estimator: Any, X: Any, purpose: str) -> bool:
    """Refuse samples that the networks of an estimator have been trained on.

    Parameters
    ----------
    estimator : fitted estimator
    X : input of the estimator
    purpose : str
        What they were given for.

    Returns
    -------
    bool
        Whether the estimator trains networks, and so knows.

    Raises
    ------
    TrainingImagesError
        If there are any.
    """
    seen = trained_on(estimator, X)
    if seen is None:
        return False
    again = np.flatnonzero(seen)
    if len(again):
        raise TrainingImagesError(
            f"the networks of this model have been trained on {len(again)} of the "
            f"{_num_samples(X)} images given {purpose}, the first is at index {again[0]}, and "
            "score them as more normal than new ones. Nothing was changed. Leave them out; "
            "held_out_ of the detector tells which training images the networks have not seen."
        )
    return True


def content_keys(X: Any) -> list[bytes] | None:
    """Compute what samples of any kind are recognized by, without knowing what a model makes of it.

    Parameters
    ----------
    X : indexable input of an estimator

    Returns
    -------
    list of bytes or None
        Digests of the files that are named, of the pixels of images and of rows of numbers, the
        same for equal content. None if a sample is something else.
    """
    keys = []
    for sample in _samples(X):
        array = np.fromfile(sample, np.uint8) if is_path(sample) else np.asarray(sample)
        if array.ndim == 1 and array.dtype.kind in "biuf" and not is_path(sample):
            array = array.astype(np.float64)  # a row may come as a list or in any dtype
        if array.dtype.kind not in "biuf":
            return None
        keys.append(digest(array))
    return keys


def _samples(X: Any) -> Iterator[Any]:
    if isinstance(X, PatchGrids):
        for start, stop in zip(X.starts[:-1], X.starts[1:]):
            yield X.rows[start:stop]
        return
    if hasattr(X, "to_numpy"):
        X = X.to_numpy()
    X = as_list(X)
    paths = getattr(X, "paths", None)  # of a collection of images, some of which may be files
    for i in range(_num_samples(X)):
        if paths is not None and paths[i] is not None:
            yield paths[i]
        else:
            yield X[i].toarray().ravel() if issparse(X) else X[i]
