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

Comparing a new pick with all lists means reading all of their picks' sketches. It is done for
many new picks at once: the farthest points are put into a small pool and picked from it, one by
one, for as long as the farthest point of all is sure to be in there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.neighbors import (
    _STEP,
    NearestNeighbors,
    _bound_rows,
    read_only,
    row_distances,
    squared_distance,
)
from pyimgano._kernels.sketches import (
    UNDERFLOW,
    check_range,
    in_range_sample,
    principal_axes,
    squared_rest,
)
from pyimgano.utils._threads import even_slices, map_in_threads, n_threads

__all__ = ["CoresetResult", "Progress", "greedy_k_center"]

Progress = Callable[[int, int], None]

# 32 numbers: two cache lines, and one turn of a SIMD loop.
_SKETCH = 32
# A sketched distance is compared with this relative margin; the absolute one (below)
# covers what float32 took from the coordinates before they were subtracted.
_SKETCH_MARGIN = 1e-4
_CHUNK_SECONDS = 0.2
# Picks that are made before the lists are looked through, and points that these come from.
_BATCH = 256
_POOL = 1024
# The pool reaches down from the largest squared distance by a share of it, which adapts. Below this
# one it holds just the points at the largest distance.
_NO_SPREAD = 1e-9
# Batches of so many seconds are divided among threads.
_WORTH_THREADS = 2e-3


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


@kernel(fastmath=True)
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
    dist: NDArray[np.float64]  # (capacity,) squared distance to pick j; -1 once picked itself
    kept: NDArray[np.float32]  # (capacity, 32) sketches, here to be read in sequence
    start: NDArray[np.int64]  # (m,)
    size: NDArray[np.int64]  # (m,)
    radius: NDArray[np.float64]  # (m,) largest dist of the list, -1 if it is empty


class _Taken(NamedTuple):
    """Points that new picks take from the lists, at the places that they had there or before."""

    ids: NDArray[np.int64]  # (capacity,)
    dist: NDArray[np.float64]  # (capacity,) squared distance to the new pick
    by: NDArray[np.int64]  # (capacity,) which of the new picks


@kernel()
def _move(lists, target, source):
    """Move one entry of the lists."""
    lists.ids[target] = lists.ids[source]
    lists.dist[target] = lists.dist[source]
    for m in range(_SKETCH):
        lists.kept[target, m] = lists.kept[source, m]


@kernel()
def _safe_distance(points, i, j, float_margin):
    """Points that are no farther than this (squared) from i are at least as far from j."""
    apart = np.float64(_quick(points, i, points, j))
    return 0.25 * (apart * (1.0 - float_margin) - UNDERFLOW)


@kernel()
def _closer(points, i, j, than, float_margin):
    """Squared distance of two points if it is below ``than``, otherwise ``than``."""
    if _quick(points, i, points, j) > than * (1.0 + float_margin) + UNDERFLOW:
        return than
    return min(than, squared_distance(points[i], points[j]))


@kernel()
def _farthest(ids, dist, n):
    """Position of the largest of n distances, of the lowest id on ties; -1 if all are picked."""
    best = -1
    for k in range(n):
        if dist[k] >= 0.0 and (
            best < 0 or dist[k] > dist[best] or (dist[k] == dist[best] and ids[k] < ids[best])
        ):
            best = k
    return best


@kernel()
def _approach(points, ids, dist, kept, n, new, new_kept, row, margin, float_margin):
    """Lower n distances to those to the point ``new``, whose sketch is ``new_kept[row]``."""
    for k in range(n):
        e = dist[k]
        if e > 0.0 and _quick(kept, k, new_kept, row) <= e * (1.0 + _SKETCH_MARGIN) + margin:
            dist[k] = _closer(points, ids[k], new, e, float_margin)


@kernel()
def _pick_from_pool(points, ids, dist, kept, cutoff, margin, float_margin, chosen):
    """Pick from the pool as long as its farthest point is the farthest of all.

    The pool is the points ``ids`` with their squared distances and sketches; all points outside
    are closer to a pick than ``cutoff``. Fill ``chosen`` with positions in the pool and return
    how many there are.
    """
    n = ids.shape[0]
    for p in range(chosen.shape[0]):
        best = _farthest(ids, dist, n)
        if best < 0 or dist[best] < cutoff:
            return p
        chosen[p] = best
        dist[best] = -1.0
        _approach(points, ids, dist, kept, n, ids[best], kept, best, margin, float_margin)
    return chosen.shape[0]


@kernel()
def _take_from_lists(
    points, margin, float_margin, begin, stop, picks, centers, new, new_kept, columns, lists, taken
):
    """Take from lists ``begin .. stop - 1`` what is closer to one of the new picks.

    The sketches of the new picks are the rows of ``new_kept`` and the columns of ``columns``, a
    few numbers at a time. Return where in ``taken`` the points begin and end.
    """
    bound = np.empty(new.shape[0], np.float32)
    near = np.empty(new.shape[0], np.int64)
    safe = np.empty(new.shape[0], np.float64)
    place = lists.start[begin]  # the lists taken from are at least as long
    for j in range(begin, stop):
        radius = lists.radius[j]
        reach = np.float32(4.0 * radius * (1.0 + 2.0 * _SKETCH_MARGIN) + margin)
        if lists.size[j] == 0 or _bound_rows(centers[j], columns, reach, bound) == 0:
            continue
        n_near = 0
        for b in range(new.shape[0]):
            if bound[b] <= reach:
                safe[n_near] = _safe_distance(points, picks[j], new[b], float_margin)
                if safe[n_near] < radius:
                    near[n_near] = b
                    n_near += 1
        if n_near == 0:
            continue
        # Take what is closer to a new pick, close ranks, find the new radius.
        write = lists.start[j]
        lists.radius[j] = -1.0
        for k in range(write, write + lists.size[j]):
            e = lists.dist[k]
            if e < 0.0:
                continue
            closest = e
            by = -1
            for m in range(n_near):
                if e > safe[m] and _quick(lists.kept, k, new_kept, near[m]) <= (
                    closest * (1.0 + _SKETCH_MARGIN) + margin
                ):
                    d = _closer(points, lists.ids[k], new[near[m]], closest, float_margin)
                    if d < closest:
                        closest = d
                        by = near[m]
            if by >= 0:
                taken.ids[place] = lists.ids[k]
                taken.dist[place] = closest
                taken.by[place] = by
                place += 1
                continue
            if write < k:
                _move(lists, write, k)
            lists.radius[j] = max(lists.radius[j], e)
            write += 1
        lists.size[j] = write - lists.start[j]
    return lists.start[begin], place


def greedy_k_center(
    points: ArrayLike, n_picks: int, first: ArrayLike, *, progress: Progress | None = None
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
    first : int or array-like of int
        Row of the first pick; several different ones are an earlier selection that goes on.
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
    rows = read_only(_check_points(points))
    n = len(rows)
    if not 1 <= n_picks <= n:
        raise ValueError(f"n_picks must be from 1 to the number of points {n}, got {n_picks}")
    begun = np.array(first, dtype=np.int64, ndmin=1)
    for row in (begun.min(), begun.max()):
        if not 0 <= row < n:
            raise ValueError(f"first must be a row of the {n} points, got {row}")
    if len(np.unique(begun)) < len(begun) or len(begun) > n_picks:
        raise ValueError(f"first must be up to n_picks={n_picks} different rows")
    selection = _Selection(rows, n_picks, begun)
    reported = time.perf_counter()
    while selection.done < n_picks:
        # A compiled loop cannot be interrupted: each batch comes back to Python.
        selection.pick_some()
        seconds = time.perf_counter() - reported
        if progress is not None and (seconds > _CHUNK_SECONDS or selection.done == n_picks):
            progress(selection.done, n_picks)
            reported += seconds
    picks, nearest = selection.picks, selection.nearest
    distance = np.sqrt(row_distances(rows, np.arange(n), picks[nearest])).astype(np.float32)
    return CoresetResult(picks, nearest, distance, float(distance.max()))


class _Selection:
    """A selection under way: several picks at a time, each what it would be by itself.

    The next picks are found among the points that are farthest from all picks so far: they are
    measured against each other only, until none of them is farther than all points outside. Then
    the lists are looked through once for all of these picks, by all processor cores.
    """

    def __init__(self, points: NDArray[np.float32], n_picks: int, first: NDArray[np.int64]) -> None:
        n, d = points.shape
        self._points = points
        self._sketch, self._margin = _sketch(points)
        self._float_margin = _float_margin(d)
        self.done = 0
        self.picks = np.empty(n_picks, np.int64)
        self.nearest = np.zeros(n, np.int64)
        self._centers = np.empty((n_picks, _SKETCH), np.float32)
        self._lists = _no_lists(n, n_picks)
        self._end = 0  # of the last list
        capacity = len(self._lists.ids)
        self._taken = _Taken(*(np.empty(capacity, kind) for kind in (np.int64, float, np.int64)))
        self._spread = 0.05
        self._seconds = 0.0
        self._add(first)
        others = np.delete(np.arange(n), first)
        by = np.zeros(len(others), np.int64)
        if len(first) > 1 and len(others):
            by = NearestNeighbors(points[first]).query(points[others])[1][:, 0]
        self._add_lists(0, others, row_distances(points, others, first[by]), by)

    def pick_some(self) -> None:
        """Make the next picks, at least one."""
        began = time.perf_counter()
        first, n_picks = self.done, len(self.picks)
        largest = self._lists.radius[:first].max()
        if largest <= 0.0:  # all points coincide with picks: the lowest rows follow
            unpicked = np.ones(len(self.nearest), bool)
            unpicked[self.picks[:first]] = False
            self._add(np.flatnonzero(unpicked)[: n_picks - first])
            return
        at, cutoff = self._farthest_points(largest)
        # Among few picks each new one changes most distances: a batch would be wasted on them.
        wanted = min(_BATCH, 1 + first // 4, n_picks - first)
        chosen = np.empty(wanted, np.int64)
        ids = self._lists.ids[at]
        n_new = _pick_from_pool(
            self._points,
            ids,
            self._lists.dist[at],
            self._lists.kept[at],
            cutoff,
            self._margin,
            self._float_margin,
            chosen,
        )
        self._spread = min(0.5, max(_NO_SPREAD, self._spread) * (0.8 if n_new == wanted else 2.0))
        chosen = chosen[:n_new]
        self._lists.dist[at[chosen]] = -1.0
        new = ids[chosen]
        taken = self._take(new)
        self._add(new)
        self._add_lists(first, *taken)
        self._seconds = time.perf_counter() - began

    def _farthest_points(self, largest: float) -> tuple[NDArray[np.int64], float]:
        """Places in the lists of the next picks' pool, and what all others are closer than.

        The pool grows beyond its size only where so many points are equally far away.
        """
        lists = self._lists
        while True:
            cutoff = largest * (1.0 - self._spread)
            j = np.flatnonzero(lists.radius[: self.done] >= cutoff)
            at = _all_places(lists.start[j], lists.size[j])
            at = at[lists.dist[at] >= cutoff]
            if len(at) <= _POOL or cutoff == largest:
                return at, cutoff
            self._spread = self._spread / 2 if self._spread > _NO_SPREAD else 0.0

    def _add(self, new: NDArray[np.int64]) -> None:
        part = slice(self.done, self.done + len(new))
        self.picks[part] = new
        self.nearest[new] = np.arange(part.start, part.stop)
        self._centers[part] = self._sketch[new]
        self.done = part.stop

    def _take(self, new: NDArray[np.int64]) -> list[NDArray]:
        """Take from all lists what is closer to a new pick: ids, distances, which pick."""
        kept = self._sketch[new]
        columns = read_only(np.ascontiguousarray(kept.T).reshape(-1, _STEP, len(new)))
        centers = self._centers.reshape(len(self._centers), -1, _STEP)

        def take(part: slice) -> slice:
            begin, end = _take_from_lists(
                self._points,
                self._margin,
                self._float_margin,
                part.start,
                part.stop,
                self.picks,
                centers,
                new,
                kept,
                columns,
                self._lists,
                self._taken,
            )
            return slice(begin, end)

        n = n_threads() if self._seconds > _WORTH_THREADS else 1
        parts = map_in_threads(take, even_slices(self.done, n * n), n)
        return [np.concatenate([of_all[part] for part in parts]) for of_all in self._taken]

    def _add_lists(
        self,
        first: int,
        ids: NDArray[np.int64],
        dist: NDArray[np.float64],
        by: NDArray[np.int64],
    ) -> None:
        """Make the lists of the picks from ``first`` on."""
        lists = self._lists
        if self._end + len(ids) > len(lists.ids):
            self._close_gaps(first)
        order = np.argsort(by, kind="stable")
        ids, dist, by = ids[order], dist[order], by[order]
        part = slice(self._end, self._end + len(ids))
        lists.ids[part], lists.dist[part], lists.kept[part] = ids, dist, self._sketch[ids]
        self.nearest[ids] = first + by
        size = np.bincount(by, minlength=self.done - first)
        lists.size[first : self.done] = size
        lists.start[first : self.done] = part.start + np.cumsum(size) - size
        np.maximum.at(lists.radius, first + by, dist)
        self._end = part.stop

    def _close_gaps(self, n_lists: int) -> None:
        """Move all lists to the front."""
        lists = self._lists
        start, size = lists.start[:n_lists], lists.size[:n_lists]
        at = _all_places(start, size)
        for values in (lists.ids, lists.dist, lists.kept):
            for begin in range(0, len(at), 4096):  # they ascend: nothing unread is overwritten
                some = at[begin : begin + 4096]
                values[begin : begin + len(some)] = values[some]
        start[:] = np.cumsum(size) - size
        self._end = len(at)


def _all_places(start: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    """``start[j] .. start[j] + size[j]`` of all j, one after the other."""
    ends = np.cumsum(size)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(start - ends + size, size)


def _next_chunk(chunk: int, seconds: float) -> int:
    """Aim at calls of ``_CHUNK_SECONDS``; never more than four times the last one."""
    return max(1, int(chunk * min(4.0, _CHUNK_SECONDS / max(seconds, 1e-9))))


def _no_lists(n: int, n_picks: int) -> _Lists:
    """Room for the lists of ``n`` points."""
    # New lists are appended behind the others: a quarter more room than there are points
    # makes closing the gaps rare.
    capacity = n + n // 4
    return _Lists(
        ids=np.zeros(capacity, np.int64),
        dist=np.zeros(capacity, np.float64),
        kept=np.zeros((capacity, _SKETCH), np.float32),
        start=np.zeros(n_picks, np.int64),
        size=np.zeros(n_picks, np.int64),
        radius=np.full(n_picks, -1.0),
    )
