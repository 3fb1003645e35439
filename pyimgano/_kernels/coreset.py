"""Greedy k-center selection: the few rows that cover all others.

The plain loop measures every point against every pick. Here three lower bounds leave out
almost all of that work without changing a single pick:

1. Each point is kept in the list of its nearest pick. A new pick can take a point only if
   the two picks are closer than twice the point's distance (triangle inequality), hence
   nothing from a list if they are not closer than twice the list's largest distance.
2. A *sketch* of each point, 31 principal coordinates and the norm of the rest (see
   ``pyimgano._kernels.sketches``), gives a lower bound of any distance for a fraction of its
   price.
3. The distance in float32 settles all that is not close to a tie.

What passes all three is measured in float64, in a fixed order of operations. The bounds
carry margins for their own rounding, so they decide only what is certain.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyimgano._kernels.neighbors import read_only, row_distances, squared_distance
from pyimgano._kernels.sketches import (
    UNDERFLOW,
    check_range,
    in_range_sample,
    principal_axes,
    squared_rest,
)

__all__ = ["CoresetResult", "Progress", "greedy_k_center"]

Progress = Callable[[int, int], None]

# 32 numbers: two cache lines, and one turn of a SIMD loop.
_SKETCH = 32
# A sketched distance is compared with this relative margin; the absolute one (below)
# covers what float32 took from the coordinates before they were subtracted.
_SKETCH_MARGIN = 1e-4
_CHUNK_SECONDS = 0.2


class CoresetResult(NamedTuple):
    """Result of :func:`greedy_k_center`.

    Attributes
    ----------
    picks : ndarray of shape (m,), int64
        Rows of the points, in the order they were picked.
    nearest : ndarray of shape (n,), int64
        Position in ``picks`` of each point's nearest pick; the earliest one on ties, and
        for a pick itself its own position.
    distance : ndarray of shape (n,), float32
        Euclidean distance (not squared) to that pick.
    radius : float
        Largest entry of ``distance``: every point has a pick this close.
    """

    picks: NDArray[np.int64]
    nearest: NDArray[np.int64]
    distance: NDArray[np.float32]
    radius: float


class _Sketch(NamedTuple):
    rows: NDArray[np.float32]  # (n, 32)
    margin: float  # absolute, on squared distances


def _check_points(points: ArrayLike) -> NDArray[np.float32]:
    rows = np.ascontiguousarray(points, dtype=np.float32)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"points must have shape (n, d) with n, d >= 1, got {rows.shape}")
    return rows


def _sketch(points: NDArray[np.float32]) -> _Sketch:
    """Map each point to 32 numbers whose distances never exceed the points' own."""
    n, d = points.shape
    n_axes = min(d, _SKETCH - 1)
    sample = in_range_sample(points)
    mean = sample.mean(axis=0) if len(sample) else np.zeros(d)
    axes = principal_axes(points, mean, n_axes)
    rows = np.zeros((n, _SKETCH), np.float32)
    largest = 0.0
    for start in range(0, n, 4096):
        block = points[start : start + 4096].astype(np.float64) - mean
        squared_norm = np.einsum("ij,ij->i", block, block)
        check_range(squared_norm, "points", start)
        part = block @ axes
        rows[start : start + 4096, :n_axes] = part
        rows[start : start + 4096, n_axes] = np.sqrt(squared_rest(part, squared_norm))
        largest = max(largest, float(squared_norm.max()))
    # Coordinates are off by less than e = 1e-6 of the largest norm. With it,
    # (r + e)^2 <= r^2 (1 + a) + e^2 (1 + 1/a) for any a; a is _SKETCH_MARGIN.
    return _Sketch(rows, 1e-12 * largest * (1.0 + 1.0 / _SKETCH_MARGIN) + UNDERFLOW)


def _float_margin(d: int) -> float:
    """Relative error that a float32 sum of d squared differences stays below."""
    return (d + 8) * 2.0**-23


@numba.njit(cache=True, nogil=True, fastmath=True)
def _quick(a, i, b, j):
    """Squared distance of two float32 rows, in float32 and in any order of summation."""
    # One loop of a length unknown to the compiler is what it turns into SIMD code; a
    # constant length, or stopping early every 32 terms, was two to three times slower.
    total = np.float32(0.0)
    for k in range(a.shape[1]):
        t = a[i, k] - b[j, k]
        total += t * t
    return total


class _Lists(NamedTuple):
    """The unpicked points, each in the list of its nearest pick.

    List ``j`` is ``start[j] .. start[j] + size[j]`` of the first three arrays. The lists lie
    in ascending order of ``j`` with gaps between them.
    """

    ids: NDArray[np.int64]  # (capacity,) rows of the points
    dist: NDArray[np.float64]  # (capacity,) squared distance to pick j
    kept: NDArray[np.float32]  # (capacity, 32) sketches, here to be read in sequence
    start: NDArray[np.int64]  # (m,)
    size: NDArray[np.int64]  # (m,)
    radius: NDArray[np.float64]  # (m,) largest dist of the list, -1 if it is empty
    far: NDArray[np.int64]  # (m,) where that one stands in the list; lowest id on ties


class _Taken(NamedTuple):
    """Points that a new pick takes from the lists."""

    ids: NDArray[np.int64]  # (n,)
    dist: NDArray[np.float64]  # (n,)


@numba.njit(cache=True, nogil=True)
def _move(lists, target, source):
    """Move one entry of the lists."""
    lists.ids[target] = lists.ids[source]
    lists.dist[target] = lists.dist[source]
    for m in range(_SKETCH):
        lists.kept[target, m] = lists.kept[source, m]


@numba.njit(cache=True, nogil=True)
def _close_gaps(lists, n_lists):
    """Move all lists to the front; return where the last one ends."""
    end = 0
    for j in range(n_lists):
        begin = lists.start[j]
        lists.start[j] = end
        for k in range(begin, begin + lists.size[j]):
            _move(lists, end, k)
            end += 1
    return end


@numba.njit(cache=True, nogil=True)
def _safe_distance(points, i, j, float_margin):
    """Points that are no farther than this (squared) from i are at least as far from j."""
    apart = np.float64(_quick(points, i, points, j))
    return 0.25 * (apart * (1.0 - float_margin) - UNDERFLOW)


@numba.njit(cache=True, nogil=True)
def _closer(points, i, j, than, float_margin):
    """Squared distance of two points if it is below ``than``, otherwise ``than``."""
    if _quick(points, i, points, j) > than * (1.0 + float_margin) + UNDERFLOW:
        return than
    return min(than, squared_distance(points[i], points[j]))


@numba.njit(cache=True, nogil=True)
def _pick_some(
    points, sketch, margin, float_margin, begin, stop, picks, nearest, centers, lists, end, taken
):
    """Make picks ``begin .. stop - 1``; return where the last list ends."""
    start, size, radius, far = lists.start, lists.size, lists.radius, lists.far
    for p in range(begin, stop):
        home = -1
        for j in range(p):
            if size[j] > 0 and (
                home < 0
                or radius[j] > radius[home]
                or (
                    radius[j] == radius[home]
                    and lists.ids[start[j] + far[j]] < lists.ids[start[home] + far[home]]
                )
            ):
                home = j
        at = start[home] + far[home]
        c = lists.ids[at]
        size[home] -= 1
        _move(lists, at, start[home] + size[home])
        picks[p] = c
        nearest[c] = p
        for m in range(_SKETCH):
            centers[p, m] = sketch[c, m]

        n_taken = 0
        for j in range(p):
            if size[j] == 0:
                radius[j] = -1.0
                continue
            if j != home and _quick(centers, j, centers, p) > (
                4.0 * radius[j] * (1.0 + _SKETCH_MARGIN) + margin
            ):
                continue
            safe = _safe_distance(points, picks[j], c, float_margin)
            if j != home and safe >= radius[j]:
                continue
            # Take what is closer to the new pick, close ranks, find the new radius.
            write = start[j]
            radius[j] = -1.0
            for k in range(start[j], start[j] + size[j]):
                i = lists.ids[k]
                e = lists.dist[k]
                if e > safe and _quick(lists.kept, k, centers, p) <= (
                    e * (1.0 + _SKETCH_MARGIN) + margin
                ):
                    new = _closer(points, i, c, e, float_margin)
                    if new < e:
                        taken.ids[n_taken] = i
                        taken.dist[n_taken] = new
                        n_taken += 1
                        continue
                if write < k:
                    _move(lists, write, k)
                if e > radius[j] or (e == radius[j] and i < lists.ids[start[j] + far[j]]):
                    radius[j] = e
                    far[j] = write - start[j]
                write += 1
            size[j] = write - start[j]

        if end + n_taken > lists.ids.shape[0]:
            end = _close_gaps(lists, p)
        start[p] = end
        size[p] = n_taken
        radius[p] = -1.0
        for k in range(n_taken):
            i = taken.ids[k]
            e = taken.dist[k]
            lists.ids[end] = i
            lists.dist[end] = e
            for m in range(_SKETCH):
                lists.kept[end, m] = sketch[i, m]
            nearest[i] = p
            if e > radius[p] or (e == radius[p] and i < lists.ids[start[p] + far[p]]):
                radius[p] = e
                far[p] = k
            end += 1
    return end


def greedy_k_center(
    points: ArrayLike, n_picks: int, first: int, *, progress: Progress | None = None
) -> CoresetResult:
    """Pick points one by one, each the farthest from all picks so far.

    The picks are exactly those of the plain loop over float64 distances: ties go to the
    lowest row, and once every point coincides with a pick the lowest unpicked rows follow.
    The covering radius is at most twice the smallest possible for as many picks [1]_.

    Parameters
    ----------
    points : array-like of shape (n, d)
        Points, used as float32; a C-contiguous float32 array is not copied.
    n_picks : int
        How many to pick, from 1 to n.
    first : int
        Row of the first pick.
    progress : callable, default=None
        Called as ``progress(done, n_picks)`` several times a second.

    Returns
    -------
    CoresetResult
        Picks, each point's nearest pick and distance, and the covering radius.

    Raises
    ------
    ValueError
        If ``n_picks`` or ``first`` is out of range or a point is not finite.

    References
    ----------
    .. [1] T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance",
       Theoretical Computer Science 38, 1985.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano._kernels.coreset import greedy_k_center
    >>> result = greedy_k_center(np.array([[0.0], [1.0], [5.0], [10.0]]), n_picks=3, first=0)
    >>> result.picks, result.nearest, result.radius
    (array([0, 3, 2]), array([0, 0, 2, 1]), 1.0)
    """
    rows = _check_points(points)
    n, d = rows.shape
    if not 1 <= n_picks <= n:
        raise ValueError(f"n_picks must be from 1 to the number of points {n}, got {n_picks}")
    if not 0 <= first < n:
        raise ValueError(f"first must be a row of the {n} points, got {first}")
    sketch = _sketch(rows)
    rows = read_only(rows)

    picks = np.empty(n_picks, np.int64)
    picks[0] = first
    nearest = np.zeros(n, np.int64)
    centers = np.empty((n_picks, _SKETCH), np.float32)
    centers[0] = sketch.rows[first]
    lists = _first_list(rows, sketch.rows, first, n_picks)
    end = n - 1
    taken = _Taken(np.empty(n, np.int64), np.empty(n, np.float64))

    done = chunk = 1
    while done < n_picks:
        # A compiled loop cannot be interrupted: come back to Python every now and then.
        began = time.perf_counter()
        stop = min(n_picks, done + chunk)
        end = _pick_some(
            rows,
            sketch.rows,
            sketch.margin,
            _float_margin(d),
            done,
            stop,
            picks,
            nearest,
            centers,
            lists,
            end,
            taken,
        )
        chunk = _next_chunk(chunk, time.perf_counter() - began)
        done = stop
        if progress is not None:
            progress(done, n_picks)
    distance = np.sqrt(row_distances(rows, np.arange(n), picks[nearest])).astype(np.float32)
    return CoresetResult(picks, nearest, distance, float(distance.max()))


def _next_chunk(chunk: int, seconds: float) -> int:
    """Aim at calls of ``_CHUNK_SECONDS``; never more than four times the last one."""
    return max(1, int(chunk * min(4.0, _CHUNK_SECONDS / max(seconds, 1e-9))))


def _first_list(
    points: NDArray[np.float32], sketch: NDArray[np.float32], first: int, n_picks: int
) -> _Lists:
    """Put all points but the first pick into its list."""
    n = len(points)
    # New lists are appended behind the others: a quarter more room than there are points
    # makes closing the gaps rare.
    capacity = n + n // 4
    lists = _Lists(
        ids=np.zeros(capacity, np.int64),
        dist=np.zeros(capacity, np.float64),
        kept=np.zeros((capacity, _SKETCH), np.float32),
        start=np.zeros(n_picks, np.int64),
        size=np.zeros(n_picks, np.int64),
        radius=np.full(n_picks, -1.0),
        far=np.zeros(n_picks, np.int64),
    )
    others = np.delete(np.arange(n), first)
    if len(others):
        lists.ids[: n - 1] = others
        lists.dist[: n - 1] = row_distances(points, others, np.full(n - 1, first))
        lists.kept[: n - 1] = sketch[others]
        lists.size[0] = n - 1
        lists.far[0] = np.argmax(lists.dist[: n - 1])
        lists.radius[0] = lists.dist[lists.far[0]]
    return lists
