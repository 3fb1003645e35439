"""Maps of the layers of a frozen convolutional network, as distillation compares them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from sklearn.frozen import FrozenEstimator

from pyimgano._kernels.joining import join_maps
from pyimgano.exceptions import ParameterError
from pyimgano.features import BackbonePatchFeatures

__all__ = ["contents_of", "network_step", "normalized", "on_grid"]


def network_step(features: Any, owner: str) -> BackbonePatchFeatures:
    """Return the fitted feature step of a detector, which must run a network of torchvision.

    Parameters
    ----------
    features : transformer
    owner : str
        Name of the detector, for the error.

    Raises
    ------
    ParameterError
        If it is something else.
    """
    step = features.estimator if isinstance(features, FrozenEstimator) else features
    if not isinstance(step, BackbonePatchFeatures):
        raise ParameterError(
            f"{owner} compares the layers of a convolutional network, and "
            f"{type(step).__name__} has none: give features a name such as 'resnet18', or "
            "BackbonePatchFeatures('resnet18', layers=('layer1', 'layer2', 'layer3'), ...)."
        )
    return step


def normalized(features: np.ndarray) -> np.ndarray:
    """Scale the features (h, w, channels) of each position to length one; zeros stay zeros."""
    length = np.sqrt(np.einsum("hwc,hwc->hw", features, features))
    return features / np.maximum(length, 1e-12)[:, :, None]


def contents_of(maps: list[np.ndarray]) -> np.ndarray:
    """Features (h, w, d) of all layers, on the grid of the last."""
    return join_maps(maps[::-1], 1, None)


def on_grid(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate values (h, w) bilinearly to another grid of the same area."""
    if values.shape == shape:
        return values
    return cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
