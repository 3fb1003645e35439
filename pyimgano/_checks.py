"""Input checks: what kind of input an estimator was given, and which samples to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils import check_consistent_length

from pyimgano.exceptions import IgnoredLabelsWarning, ImageFormatError
from pyimgano.grids import PatchGrids
from pyimgano.inputs._containers import as_list, is_path
from pyimgano.utils._warning import warn_user

__all__ = ["input_kind", "kind_in_words", "normal_samples"]

_KIND_NAMES = {"images": "images", "grids": "patch grids", "rows": "a table of feature rows"}


def input_kind(X: object) -> str:
    """Tell what kind of input ``X`` is, from its type alone, never from its values.

    Parameters
    ----------
    X : object
        What a user passed to an estimator.

    Returns
    -------
    {"images", "grids", "rows"}
        ``"grids"`` for :class:`~pyimgano.grids.PatchGrids`; ``"images"`` for paths, an
        :class:`~pyimgano.inputs.ImageSequence`, PIL images and anything made of arrays with
        two or more dimensions; ``"rows"`` for everything else, which scikit-learn's own
        validation then accepts (a numeric table) or refuses.

    Raises
    ------
    ImageFormatError
        If ``X`` is empty, can be gone through only once or has no order (a generator, a
        set), or is one PIL image.
    """
    if isinstance(X, PatchGrids):
        return "grids"
    if is_path(X) or hasattr(X, "iter_blocks"):
        return "images"
    X = as_list(X)
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.ndim == 1):
        if len(X) == 0:
            raise ImageFormatError("X is empty: it holds no images and no rows; give at least one")
        # None is what cv2.imread gives for a file it cannot read; an image's check says so.
        first = next((x for x in X if x is not None), None)
        if first is None or is_path(first) or isinstance(first, Image.Image):
            return "images"
        return "images" if _n_dims(first) >= 2 else "rows"
    return "images" if _n_dims(X) >= 3 else "rows"


def _n_dims(x: object) -> int:
    # Nested lists are tables or images spelled out by hand; only real arrays are images.
    return len(getattr(x, "shape", ()))


def kind_in_words(kind: str, tiled: bool = False) -> str:
    """Describe a kind of input, for messages.

    Parameters
    ----------
    kind : {"images", "grids", "rows"}
    tiled : bool, default=False
        Whether the images are cut into tiles.

    Returns
    -------
    str
    """
    return _KIND_NAMES[kind] + " cut into tiles" * tiled


def normal_samples(y: Any, n: int) -> np.ndarray:
    """Select the samples to learn from: all but the known anomalies, ``y == -1``.

    Parameters
    ----------
    y : array-like of shape (n,) or None
        +1 for normal, -1 for anomalous. Labels of any other kind say nothing about that and
        are ignored with an :class:`~pyimgano.exceptions.IgnoredLabelsWarning`.
    n : int
        Number of samples.

    Returns
    -------
    ndarray of shape (n,), bool
    """
    if y is None:
        return np.ones(n, dtype=bool)
    labels = np.asarray(y)
    check_consistent_length(np.empty(n), labels)
    if labels.ndim != 1 or not np.isin(labels, (1, -1)).all():
        warn_user(
            "y is ignored: only labels +1 (normal) and -1 (anomalous, left out of training) "
            f"have a meaning here, got {_preview(labels)}.{_encoded(labels)}",
            IgnoredLabelsWarning,
        )
        return np.ones(n, dtype=bool)
    keep = labels == 1
    if not keep.any():
        raise ValueError("every label in y is -1: there is no normal sample (+1) to learn from.")
    return keep


def _encoded(labels: np.ndarray) -> str:
    """Explain labels 0 and 1, which is how classifiers' tools write -1 and +1."""
    if labels.ndim != 1 or labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        return ""
    return (
        " They look like encoded labels, and all samples are LEARNED FROM, known anomalies "
        "too. VotingClassifier, StackingClassifier, CalibratedClassifierCV and "
        'cross_val_predict(method="predict_proba") encode labels this way: fit them on good '
        "samples alone, or use ScoreEnsemble and ThresholdCalibrator, which take +1 and -1. If the "
        "labels are yours, with 1 = anomalous: y = np.where(y == 1, -1, 1). "
        'warnings.simplefilter("error", pyimgano.exceptions.IgnoredLabelsWarning) makes this an '
        "error."
    )


def _preview(labels: np.ndarray) -> str:
    values = ", ".join(repr(v) for v in list(dict.fromkeys(labels.ravel().tolist()))[:4])
    return f"{values}, ..." if labels.size > 4 else values
