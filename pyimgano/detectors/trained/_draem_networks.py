"""DRAEM's two networks, and the losses that they are trained with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyimgano.backbones._torch_module import torch_module
from pyimgano.detectors.trained._loop import initialize

__all__ = [
    "LEAST_SIDE",
    "discriminative_network",
    "focal_loss",
    "reconstruct",
    "reconstructive_network",
    "segment",
    "structural_similarity",
]

#: Sides of images are multiples of this: the discriminative network halves them five times.
LEAST_SIDE = 32

# Channels of the levels of the encoders, in multiples of the width, and of the decoders' stages.
_RECONSTRUCTIVE_ENCODER = (1, 2, 4, 8, 8)
_RECONSTRUCTIVE_DECODER = (4, 2, 1, 1)
_DISCRIMINATIVE_ENCODER = (1, 2, 4, 8, 8, 8)
_DISCRIMINATIVE_DECODER = (8, 4, 2, 1, 1)

# Of the structural similarity.
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
# Of the focal loss; probabilities are kept this far from zero, whose logarithm is infinite.
_GAMMA, _LEAST_PROBABILITY = 2.0, 1e-5


# ---- networks -------------------------------------------------------------------------
def reconstructive_network(width: int, rng: np.random.Generator) -> Any:
    """Build the network that paints an image as it would be without its defects.

    An autoencoder of five levels. It has no connections from encoder to decoder, through which
    defects would pass, and no activation at its output.

    Parameters
    ----------
    width : int
        Channels at full resolution; 128 in the paper.
    rng : numpy.random.Generator
        Draws the weights.

    Returns
    -------
    torch.nn.Module
        For ``reconstruct``.
    """
    nn = torch_module().nn
    levels = [width * k for k in _RECONSTRUCTIVE_ENCODER]
    stages = [width * k for k in _RECONSTRUCTIVE_DECODER]
    inputs = [levels[-1], *stages[:-1]]
    with torch_module().device("meta"):
        network = nn.ModuleDict(
            {
                "down": nn.ModuleList(
                    _convolutions(a, b, b) for a, b in zip([3, *levels[:-1]], levels)
                ),
                "up": nn.ModuleList(_convolutions(a, a) for a in inputs),
                "decode": nn.ModuleList(_convolutions(a, a, b) for a, b in zip(inputs, stages)),
                "last": nn.Conv2d(width, 3, 3, padding=1),
            }
        )
    return _with_values(network, rng)


def reconstruct(network: Any, images: Any) -> Any:
    """Paint images (n, 3, h, w) without their defects, in the same shape."""
    features = images
    for level, block in enumerate(network["down"]):
        features = block(features if level == 0 else _halved(features))
    for up, block in zip(network["up"], network["decode"]):
        features = block(up(_doubled(features)))
    return network["last"](features)


def discriminative_network(width: int, rng: np.random.Generator) -> Any:
    """Build the network that finds what differs between a reconstruction and an image.

    A U-Net of six levels, whose decoder sees the encoder's maps of each level.

    Parameters
    ----------
    width : int
        Channels at full resolution; 64 in the paper.
    rng : numpy.random.Generator
        Draws the weights.

    Returns
    -------
    torch.nn.Module
        For ``segment``.
    """
    nn = torch_module().nn
    levels = [width * k for k in _DISCRIMINATIVE_ENCODER]
    stages = [width * k for k in _DISCRIMINATIVE_DECODER]
    inputs = [levels[-1], *stages[:-1]]
    with torch_module().device("meta"):
        network = nn.ModuleDict(
            {
                "down": nn.ModuleList(
                    _convolutions(a, b, b) for a, b in zip([6, *levels[:-1]], levels)
                ),
                "up": nn.ModuleList(_convolutions(a, b) for a, b in zip(inputs, stages)),
                "decode": nn.ModuleList(
                    _convolutions(b + skipped, b, b) for b, skipped in zip(stages, levels[-2::-1])
                ),
                "last": nn.Conv2d(width, 2, 3, padding=1),
            }
        )
    return _with_values(network, rng)


def segment(network: Any, reconstructions: Any, images: Any) -> Any:
    """Logits (n, 2, h, w) of good and of defective pixels."""
    torch = torch_module()
    features = torch.cat([reconstructions, images], dim=1)
    levels = []
    for level, block in enumerate(network["down"]):
        features = block(features if level == 0 else _halved(features))
        levels.append(features)
    for up, block, skipped in zip(network["up"], network["decode"], levels[-2::-1]):
        features = block(torch.cat([up(_doubled(features)), skipped], dim=1))
    return network["last"](features)


def _convolutions(*channels: int) -> Any:
    """3 x 3 convolutions from one number of channels to the next, each normalized."""
    nn = torch_module().nn
    layers = []
    for before, after in zip(channels[:-1], channels[1:]):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _with_values(network: Any, rng: np.random.Generator) -> Any:
    def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape) * 0.02

    network = initialize(network, rng, draw)
    return network.to(memory_format=torch_module().channels_last)


def _halved(features: Any) -> Any:
    return torch_module().nn.functional.max_pool2d(features, 2)


def _doubled(features: Any) -> Any:
    return torch_module().nn.functional.interpolate(
        features, scale_factor=2, mode="bilinear", align_corners=True
    )


# ---- losses ---------------------------------------------------------------------------
def structural_similarity(ours: Any, theirs: Any) -> Any:
    """Structural similarity (SSIM) of images in [0, 1], at each position of its window.

    The window is a Gaussian of 11 x 11 pixels with a standard deviation of 1.5. Only positions
    where it lies within the images count.

    Parameters
    ----------
    ours, theirs : tensor of shape (n, channels, h, w)

    Returns
    -------
    tensor of shape (n, channels, h - 10, w - 10)
    """
    torch = torch_module()
    stacked = torch.cat([ours, theirs, ours * ours, theirs * theirs, ours * theirs])
    height, width = stacked.shape[-2:]
    # Products with banded matrices take a tenth of the time that convolutions of one channel do.
    down, across = (_windows(n).to(stacked.device) for n in (height, width))
    means = down @ stacked.contiguous() @ across.T
    mean, other, square, other_square, product = means.chunk(5)
    c1, c2 = _K1**2, _K2**2
    return (
        (2 * mean * other + c1)
        * (2 * (product - mean * other) + c2)
        / (
            (mean * mean + other * other + c1)
            * (square - mean * mean + other_square - other * other + c2)
        )
    )


def _windows(n: int) -> Any:
    """Weights (n - 10, n) of the pixels of a line at each position of the window."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * np.square(offsets / _SIGMA))
    matrix = np.zeros((n - _WINDOW + 1, n), np.float32)
    for i, row in enumerate(matrix):
        row[i : i + _WINDOW] = weights / math.fsum(weights)
    return torch_module().from_numpy(matrix)


def focal_loss(logits: Any, defective: Any) -> Any:
    """Focal loss of the pixels, gamma 2, averaged.

    Parameters
    ----------
    logits : tensor of shape (n, 2, h, w)
        Of good and of defective.
    defective : tensor of shape (n, h, w), bool

    Returns
    -------
    tensor of shape ()
    """
    torch = torch_module()
    good, bad = torch.softmax(logits, dim=1).unbind(dim=1)
    right = torch.where(defective, bad, good).clamp(min=_LEAST_PROBABILITY)
    return -(((1 - right) ** _GAMMA) * right.log()).mean()
