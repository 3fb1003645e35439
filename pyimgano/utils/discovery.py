"""Find every estimator of the package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin

__all__ = ["all_estimators"]

# Its folder: this room imports no other, and finds what there is.
_PACKAGE = Path(__file__).parents[1]
_KINDS = {"outlier_detector": OutlierMixin, "transformer": TransformerMixin}


def all_estimators(kind: str | None = None) -> list[tuple[str, type]]:
    """List the public estimator classes of pyimgano.

    Every module of the package is imported, so an estimator is found by being written, not by
    being listed. Optional dependencies are not needed for that.

    Parameters
    ----------
    kind : {"outlier_detector", "transformer"}, default=None
        Keep only estimators of that kind.

    Returns
    -------
    list of (name, class)
        Sorted by name.

    Examples
    --------
    >>> from pyimgano.utils import all_estimators
    >>> "PatchCoreDetector" in dict(all_estimators("outlier_detector"))
    True
    """
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"kind must be one of {sorted(_KINDS)} or None, got {kind!r}.")
    found: dict[str, type] = {}
    for info in pkgutil.walk_packages([str(_PACKAGE)], prefix="pyimgano."):
        if info.name.startswith("pyimgano.cli"):
            continue
        for name, item in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if (
                issubclass(item, BaseEstimator)
                and item.__module__.startswith("pyimgano.")
                and not name.startswith(("_", "Base"))
                and (kind is None or issubclass(item, _KINDS[kind]))
            ):
                found[name] = item
    return sorted(found.items())
