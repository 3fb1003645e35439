"""SuperSimpleNet's networks, the finer grid that they work on, and their loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyimgano.backbones._torch_module import torch_module
from pyimgano.detectors.trained._loop import initialize

__all__ = [
    "adaptor",
    "at_positions",
    "focal_loss",
    "judge",
    "map_head",
    "on_finer_grid",
    "refine",
    "resampling",
    "score_head",
]

# Output channels of the convolution of the score head.
_SCORE_WIDTH = 128
_FOCAL_GAMMA = 4.0


# ---- networks -------------------------------------------------------------------------
def adaptor(scale: np.ndarray, rng: np.random.Generator) -> Any:
    """Build the linear layer that features pass first.

    Parameters
    ----------
    scale : ndarray of shape (width,), float32
        Factor on each feature; it is not trained.
    rng : numpy.random.Generator
        Draws the weights.

    Returns
    -------
    torch.nn.Module
        Of rows of features.
    """
    torch = torch_module()

    class Adaptor(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(len(scale), len(scale))
            self.register_buffer("scale", torch.empty(len(scale)))

        def forward(self, rows: Any) -> Any:
            return self.linear(rows * self.scale)

    with torch.device("meta"):
        network = Adaptor()
    network = initialize(network, rng, _xavier)
    network.scale.copy_(torch.from_numpy(scale))
    return network


def map_head(width: int, hidden_width: int, rng: np.random.Generator) -> Any:
    """Build the network that tells good features from others, at each position by itself.

    Parameters
    ----------
    width : int
        Of the adapted features.
    hidden_width : int
    rng : numpy.random.Generator
        Draws the weights.

    Returns
    -------
    torch.nn.Sequential
        Of rows of adapted features; for scores see ``judge``.
    """
    torch = torch_module()
    nn = torch.nn
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Linear(width, hidden_width),
            nn.BatchNorm1d(hidden_width),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_width, 1, bias=False),
        )
    return initialize(network, rng, _xavier)


def judge(head: Any, hidden: Any) -> Any:
    """Go on from what the first layer of the map head gives, by the running statistics.

    Interpolation is linear, so it may follow the first layer: less has to be computed.

    Parameters
    ----------
    head : torch.nn.Sequential
        Of ``map_head``.
    hidden : tensor of shape (..., hidden_width)

    Returns
    -------
    tensor of shape (...)
        Values of the map.
    """
    _, norm, activation, last = head
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    normalized = hidden.float() * scale + (norm.bias - norm.running_mean * scale)
    return last(activation(normalized))[..., 0]


def score_head(width: int, factor: int, rng: np.random.Generator) -> Any:
    """Build the network that gives the score of a whole image, where defects are known.

    Parameters
    ----------
    width : int
        Of the adapted features.
    factor : int
        The finer grid has so many times the rows and columns of the features.
    rng : numpy.random.Generator
        Draws the weights.

    Returns
    -------
    torch.nn.Module
        Of adapted features (n, h, w, width), the map (n, h, w) and the positions inside the region
        (n, h, w), all on the finer grid. It gives the logit of each image, (n,); positions outside
        the region have no part in it.
    """
    torch = torch_module()
    nn = torch.nn

    class ScoreHead(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(width + 1, _SCORE_WIDTH, 5, padding=2)
            self.norm = nn.BatchNorm2d(_SCORE_WIDTH)
            self.linear = nn.Linear(2 * _SCORE_WIDTH + 2, 1)

        def forward(self, adapted: Any, heat: Any, inside: Any) -> Any:
            pool = nn.functional
            held = inside.to(torch.float32)[:, None]
            heat = heat.float()[:, None]
            inner_heat = torch.where(held > 0, heat, -torch.inf)
            # The convolution is at the resolution of the features: the finer grid tells it no
            # more of them, and costs the square of the factor.
            share = pool.avg_pool2d(held, factor)
            seen = pool.avg_pool2d(adapted.float().permute(0, 3, 1, 2) * held, factor)
            hottest = pool.max_pool2d(inner_heat, factor)
            is_held = share > 0
            seen = torch.cat([seen / share.clamp_min(1e-6), hottest], dim=1)
            seen = torch.where(is_held, seen, 0.0)
            found = torch.relu(self.norm(self.convolution(seen))).float() * is_held
            pooled = [
                found.amax(dim=(2, 3)),
                found.sum(dim=(2, 3)) / is_held.sum(dim=(2, 3)),
                inner_heat.amax(dim=(2, 3)),
                (heat * held).sum(dim=(2, 3)) / held.sum(dim=(2, 3)),
            ]
            return self.linear(torch.cat(pooled, dim=1)).float()[:, 0]

    with torch.device("meta"):
        network = ScoreHead()
    return initialize(network, rng, _xavier)


def _xavier(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of variance 2 / (inputs + outputs)."""
    kernel = int(np.prod(shape[2:]))
    return rng.standard_normal(shape) * np.sqrt(2.0 / ((shape[0] + shape[1]) * kernel))


# ---- the finer grid -------------------------------------------------------------------
def resampling(n: int, factor: int) -> np.ndarray:
    """Weights that interpolate ``n`` values and average 3 neighbors of the result.

    Interpolation is linear between the centers of the positions. At the border the average is
    over two.

    Parameters
    ----------
    n : int
    factor : int

    Returns
    -------
    ndarray of shape (factor * n, n), float32
    """
    at = np.clip((np.arange(factor * n) + 0.5) / factor - 0.5, 0, n - 1)
    fine = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(n)))
    sums = fine.copy()
    sums[1:] += fine[:-1]
    sums[:-1] += fine[1:]
    return (sums / sums.sum(axis=1, keepdims=True)).astype(np.float32)


def on_finer_grid(features: np.ndarray, factor: int) -> np.ndarray:
    """Bring the features of an image to the finer grid, in numpy.

    Parameters
    ----------
    features : ndarray of shape (h, w, width)
    factor : int

    Returns
    -------
    ndarray of shape (factor * h, factor * w, width), float32
    """
    down, across = (resampling(n, factor) for n in features.shape[:2])
    height, width, size = features.shape
    rows = down @ features.astype(np.float32).reshape(height, width * size)
    return across @ rows.reshape(len(down), width, size)


def refine(rows: Any, shape: Sequence[int], factor: int) -> Any:
    """Bring rows of several images to the finer grid.

    Parameters
    ----------
    rows : tensor of shape (n * h * w, channels)
    shape : sequence of int
        It begins with n, h and w.
    factor : int

    Returns
    -------
    tensor of shape (n, factor * h, factor * w, channels), float32
    """
    n, height, width = shape[:3]
    down, across = (_resampling_like(rows, side, factor) for side in (height, width))
    maps = rows.float().reshape(n, height, width * rows.shape[1])
    maps = (down @ maps).reshape(n * len(down), width, rows.shape[1])
    return (across @ maps).reshape(n, len(down), len(across), rows.shape[1])


def at_positions(features: Any, positions: Any, factor: int) -> Any:
    """Features at some positions of the finer grid, without computing the others.

    Parameters
    ----------
    features : tensor of shape (n, h, w, width)
    positions : tensor of shape (n, m)
        Indices in the flat finer grid of each image.
    factor : int

    Returns
    -------
    tensor of shape (n * m, width)
    """
    n, height, width, size = features.shape
    down, across = (_resampling_like(features, side, factor) for side in (height, width))
    rows, columns = positions // len(across), positions % len(across)
    weights = down[rows][..., :, None] * across[columns][..., None, :]
    weights = weights.reshape(n, -1, height * width)
    found = torch_module().bmm(weights, features.reshape(n, height * width, size))
    return found.reshape(-1, size)


def _resampling_like(like: Any, n: int, factor: int) -> Any:
    return torch_module().from_numpy(resampling(n, factor)).to(like.device)


# ---- loss -----------------------------------------------------------------------------
def focal_loss(logits: Any, labels: Any) -> Any:
    """Give the focal loss of binary labels, with gamma 4.

    Parameters
    ----------
    logits, labels : tensors of one shape

    Returns
    -------
    tensor of shape ()
    """
    torch = torch_module()
    right = torch.where(labels > 0, logits, -logits)
    log_p = torch.nn.functional.logsigmoid(right)
    return -((1.0 - log_p.exp()) ** _FOCAL_GAMMA * log_p).mean()
