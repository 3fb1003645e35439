"""Containers of paths and images: one rule for every estimator."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, KeysView, Mapping, Set, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from joblib.memory import MemorizedFunc
from PIL import Image

from pyimgano.exceptions import ImageFormatError
from pyimgano.inputs._formats import describe

__all__ = [
    "as_list",
    "counted_from",
    "first_index",
    "is_path",
    "refuse_names_in_a_cache",
    "sliceable",
]


# Index of the first image among those of the caller, where a part of them is looked at alone.
_first_index: ContextVar[int] = ContextVar("first_index", default=0)


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Count images in messages from ``first``: what is looked at is a part of a longer input.

    Parameters
    ----------
    first : int
        Index of the part's first sample in the input as the caller gave it.
    """
    token = _first_index.set(first)
    try:
        yield
    finally:
        _first_index.reset(token)


def first_index() -> int:
    """Return the index, in the caller's input, of the first sample that is looked at."""
    return _first_index.get()


def is_path(x: object) -> bool:
    """Tell whether ``x`` names a file: a str, a Path, an ``os.DirEntry``."""
    return isinstance(x, (str, os.PathLike))


def as_list(X: Any) -> Any:
    """Make a list of what holds paths or images one after the other; leave all else as it is.

    Parameters
    ----------
    X : object
        What a user passed as images.

    Returns
    -------
    object
        A list for 1-D arrays of strings or objects, table columns, indexes, categories, the
        views of a dict, and for tables and arrays of one column that hold paths.

    Raises
    ------
    ImageFormatError
        If ``X`` can be gone through only once or has no order, or is one PIL image.
    """
    if isinstance(X, (KeysView, ValuesView)):
        return list(X)
    if isinstance(X, (Iterator, Set)):
        why = "has no order" if isinstance(X, Set) else "can be gone through only once"
        raise ImageFormatError(
            f"X is {describe(X)}, which {why}. Make a list of it once, X = list(...), or "
            "X = sorted(...) for files, and pass that."
        )
    if isinstance(X, Mapping):
        raise ImageFormatError(f"X is {describe(X)}; pass list(X.values()) or list(X)")
    if isinstance(X, Image.Image):
        raise ImageFormatError(f"X is {describe(X)}. If it is one image, pass a list, [image].")
    if hasattr(X, "iter_blocks") or isinstance(X, (list, tuple)):
        return X
    n_dims = len(getattr(X, "shape", ()))
    if n_dims not in (1, 2) or (n_dims == 2 and X.shape[1] != 1):
        return X
    array = X.to_numpy() if hasattr(X, "to_numpy") else X
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "OUT":
        return X
    items = list(array.ravel())
    # A table of one column may hold anything; a column is one already if it holds paths.
    return items if n_dims == 1 or (items and is_path(items[0])) else X


def sliceable(X: Any) -> Any:
    """Make a list of what cannot be sliced, such as the values of a dict."""
    return X if hasattr(X, "__getitem__") else as_list(X)


def refuse_names_in_a_cache(lazy: object = None) -> None:
    """Refuse bare paths where a joblib cache is about to keep what is made of their files.

    The cache would be asked by the names alone, and give the old result for a new file.

    Parameters
    ----------
    lazy : object, default=None
        A step that makes an ``ImageSequence`` of the paths: nothing is read before the cache
        has kept its result, so it may be what is cached.

    Raises
    ------
    ImageFormatError
        If the innermost cached function that is running has not asked about the files.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == MemorizedFunc.__module__:
            cached = frame.f_locals.get("self")
            if isinstance(cached, MemorizedFunc):
                args = frame.f_locals.get("args", ())
                if any(arg is lazy for arg in args if arg is not None):
                    return
                if getattr(cached.func, "asks_about_files", False):
                    return
                raise ImageFormatError(
                    "X are bare paths, and a cache (memory=...) keeps what is made of them: it "
                    "goes by the names and would not notice a changed file. Pass "
                    "ImageSequence(paths), which the cache compares with the files, or begin "
                    "the pipeline with an ImageFormatNormalizer."
                )
        frame = frame.f_back  # type: ignore[assignment]
