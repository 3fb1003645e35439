"""Sketches: a few numbers per row that bound the distance of two rows from below.

A sketch of a row holds its leading principal coordinates and the norm of all that they leave
out. By the triangle inequality in that rest, the distance of two sketches never exceeds the
distance of the rows, whatever orthonormal axes are used; with the axes of largest variance it is
rarely much less. What a search does with the bound, and the margin that its rounding needs, are
the search's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

__all__ = [
    "LARGEST_NORM",
    "UNDERFLOW",
    "check_range",
    "in_range_sample",
    "principal_axes",
    "squared_norms",
    "squared_rest",
]

# Values whose squares leave float32's range cannot be compared in it.
LARGEST_NORM = 1e18
# Below this, float32 squares lose their relative precision.
UNDERFLOW = 1e-36
# Rows that axes are estimated from.
_SAMPLE = 8192


def squared_norms(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Squared norm of each row, float64; the rows are one block."""
    wide = rows.astype(np.float64)
    return np.einsum("ij,ij->i", wide, wide)


def check_range(squared_norm: NDArray[np.float64], name: str, start: int = 0) -> None:
    """Refuse rows that are not finite or whose squares overflow float32.

    Parameters
    ----------
    squared_norm : ndarray of shape (n,)
        Squared norm of each row.
    name : str
        Name of the rows, for the message.
    start : int, default=0
        Number of the first row, for the message.

    Raises
    ------
    ValueError
        If a row is out of range.
    """
    bad = np.flatnonzero(~(squared_norm <= LARGEST_NORM**2))
    if len(bad):
        raise ValueError(
            f"{name} must be finite with norms below {LARGEST_NORM:g}; row {start + bad[0]} is not"
        )


def in_range_sample(rows: NDArray[np.float32], center: Any = 0.0) -> NDArray[np.float64]:
    """Take evenly spaced rows less the center, without those that are out of range.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
    center : ndarray of shape (d,), or 0

    Returns
    -------
    ndarray of shape (n_sampled, d), float64
        At most 8192 rows. Rows out of range, which a search refuses, must not upset the axes.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        sample = rows[:: -(-len(rows) // _SAMPLE)].astype(np.float64) - center
        return sample[np.abs(sample).max(axis=1) <= LARGEST_NORM]


def principal_axes(
    rows: NDArray[np.float32], center: NDArray[Any], n_axes: int
) -> NDArray[np.float64]:
    """Orthonormal axes of the largest variance of the rows, the largest first.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Rows, of which a sample is used.
    center : ndarray of shape (d,)
        Their mean.
    n_axes : int
        Number of axes, at most d.

    Returns
    -------
    ndarray of shape (d, n_axes), float64
        One axis per column.
    """
    sample = in_range_sample(rows, center)
    scatter = sample.T @ sample
    d = len(scatter)
    if n_axes == d:  # numpy's algorithm is the faster one for all of them
        axes = np.linalg.eigh(scatter)[1]
    else:
        axes = eigh(scatter, subset_by_index=[d - n_axes, d - 1])[1]
    return np.ascontiguousarray(axes[:, ::-1])


def squared_rest(leading: NDArray[Any], squared_norm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared norm of what the leading coordinates of each row leave out.

    Parameters
    ----------
    leading : ndarray of shape (n, n_axes)
        Coordinates of the rows along orthonormal axes; columns of zeros do no harm.
    squared_norm : ndarray of shape (n,)
        Squared norms of the whole rows.

    Returns
    -------
    ndarray of shape (n,), float64
    """
    lead = np.einsum("ij,ij->i", leading, leading, dtype=np.float64)
    return np.maximum(squared_norm - lead, 0.0)
