"""The weights of networks in saved estimators: inside the file, or looked for beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from pyimgano._nesting import find_parts
from pyimgano.backbones._network import digest
from pyimgano.features._network import EMBEDDED, BaseNetworkFeatures

__all__ = ["look_beside", "networks_embedded"]


def look_beside(estimator: Any, folder: str | os.PathLike[str]) -> None:
    """Let the networks of a loaded estimator look for their weights in a folder.

    Parameters
    ----------
    estimator : estimator
    folder : path
        That of the file it was loaded from.
    """
    for step in find_parts(estimator, BaseNetworkFeatures):
        step._beside = os.fspath(folder)


@contextmanager
def networks_embedded(estimator: Any) -> Iterator[None]:
    """Let pickles of an estimator hold the weights of all networks in it, equal ones once.

    Parameters
    ----------
    estimator : estimator
        It is not changed.

    Raises
    ------
    WeightsError
        If weights are not to be found, or are not those of fit.
    ValueError
        If a step of another package holds a network itself.
    """
    _refuse_own_networks(estimator)
    frozen = [one.estimator for one in find_parts(estimator, FrozenEstimator)]
    weights: dict[int, dict[str, np.ndarray]] = {}
    equal: dict[str, dict[str, np.ndarray]] = {}
    for step in find_parts(estimator, BaseNetworkFeatures):
        fitted = hasattr(step, "weights_sha256_")
        if fitted and step.weights_sha256_ in equal:
            weights[id(step)] = equal[step.weights_sha256_]
        elif fitted or any(step is one for one in frozen):  # others are but to be cloned
            found = step.weights_to_embed()
            weights[id(step)] = equal.setdefault(digest(found), found)
    token = EMBEDDED.set(weights)
    try:
        yield
    finally:
        EMBEDDED.reset(token)


def _refuse_own_networks(estimator: Any) -> None:
    torch = sys.modules.get("torch")
    if torch is None:  # nobody has made a module then
        return
    for part in find_parts(estimator, BaseEstimator):
        for name, value in vars(part).items():
            if isinstance(value, torch.nn.Module):
                raise ValueError(
                    f"embed_weights=True: {type(part).__name__}.{name} is a network of its own "
                    f"({type(value).__name__}), a module of torch. Only weights of networks that "
                    "pyimgano builds can be embedded, since pyimgano.load reads arrays and runs "
                    "no pickled code. Keep the weights as a dict of numpy arrays and build the "
                    "module from them where it is used; or save without embed_weights, and load "
                    "with joblib.load where the class can be imported."
                )
