"""The maps of a network's layers, brought to one grid of patch features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyimgano._kernels.compiling import kernel

__all__ = ["join_maps"]


def join_maps(
    maps: Sequence[np.ndarray], pool: int = 1, channels: np.ndarray | None = None
) -> np.ndarray:
    """Average maps over neighborhoods, bring them to the grid of the first, and join them.

    Parameters
    ----------
    maps : sequence of ndarray of shape (h_i, w_i, d_i), float32
        Maps of one image.
    pool : int, default=1
        Odd side length of the neighborhood each cell is averaged over. Beyond the border are
        zeros.
    channels : ndarray of int, default=None
        Ascending indices of the features wanted, of all maps one after the other; None wants
        all. A feature is the same, bit for bit, whichever others are wanted.

    Returns
    -------
    ndarray of shape (h_0, w_0, n_features), float32
        Larger and smaller maps are interpolated bilinearly, cell centers on cell centers.

    Raises
    ------
    ValueError
        If there are not so many features.
    """
    ends = np.cumsum([one.shape[2] for one in maps])
    if channels is not None:
        if channels[-1] >= ends[-1]:
            raise ValueError(
                f"there are {ends[-1]} features, and number {channels[-1]} was to be kept."
            )
        starts = [0, *ends[:-1]]
        chosen = [channels[(channels >= a) & (channels < b)] - a for a, b in zip(starts, ends)]
        maps = [one[:, :, some] for one, some in zip(maps, chosen)]
    height, width = maps[0].shape[:2]
    joined = np.empty((height, width, sum(one.shape[2] for one in maps)), np.float32)
    first = 0
    for one in maps:
        one = np.ascontiguousarray(one, np.float32)
        if pool > 1:
            one = _average(one, pool)
        if one.shape[:2] == joined.shape[:2]:
            joined[:, :, first : first + one.shape[2]] = one
        else:
            rows, columns = (_between(a, b) for a, b in zip(joined.shape, one.shape[:2]))
            _interpolate(one, *rows, *columns, joined, first)
        first += one.shape[2]
    return joined


def _between(n: int, n_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``n`` cells the two of ``n_cells`` it lies between, and its way to the second."""
    place = np.maximum((np.arange(n) + 0.5) * n_cells / n - 0.5, 0.0)
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, n_cells - 1), (place - before).astype(np.float32)


@kernel()
def _average(one, pool):
    """Mean of each cell's neighborhood, zeros beyond the border."""
    height, width, d = one.shape
    reach = pool // 2
    scale = np.float32(1) / np.float32(pool * pool)
    out = np.zeros((height, width, d), np.float32)
    line = np.empty((width, d), np.float32)
    for y in range(height):
        line[:] = 0
        for i in range(max(0, y - reach), min(height, y + reach + 1)):
            for x in range(width):
                for c in range(d):
                    line[x, c] += one[i, x, c]
        for x in range(width):
            for j in range(max(0, x - reach), min(width, x + reach + 1)):
                for c in range(d):
                    out[y, x, c] += line[j, c]
            for c in range(d):
                out[y, x, c] *= scale
    return out


@kernel()
def _interpolate(one, top, bottom, down, left, right, across, joined, first):
    for y in range(joined.shape[0]):
        for x in range(joined.shape[1]):
            a, b = one[top[y], left[x]], one[top[y], right[x]]
            c, d = one[bottom[y], left[x]], one[bottom[y], right[x]]
            out = joined[y, x, first : first + one.shape[2]]
            low, high = np.float32(1) - down[y], down[y]
            near, far = np.float32(1) - across[x], across[x]
            for k in range(out.shape[0]):
                out[k] = low * (near * a[k] + far * b[k]) + high * (near * c[k] + far * d[k])
