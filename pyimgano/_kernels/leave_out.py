"""The bank a model would hold without each image in turn, for the price of one selection.

An image that was learned from finds its own patches in the bank. Without them the bank has
holes that no image of the training set would have left: where the image's patch was picked,
its neighbors of other images were not. So the greedy selection goes on, among the other
images' patches, until the bank has its size again.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.coreset import (
    _SKETCH,
    _SKETCH_MARGIN,
    CoresetResult,
    Progress,
    _approach,
    _check_points,
    _closer,
    _farthest,
    _float_margin,
    _next_chunk,
    _quick,
    _sketch,
)
from pyimgano._kernels.neighbors import NearestNeighbors, read_only, row_distances
from pyimgano.utils._threads import map_in_threads, n_threads

__all__ = ["GroupRefills", "leave_one_group_out_banks"]

# Points looked up in the bank at a time.
_QUERIES = 16_384


class GroupRefills(NamedTuple):
    """Result of :func:`leave_one_group_out_banks`.

    The bank without group ``i`` is made of the picks that do not belong to ``i`` and of
    ``refill[starts[i]:starts[i + 1]]``.

    Attributes
    ----------
    refill : ndarray of int64
        Rows of the points, group after group, in the order they were picked.
    starts : ndarray of shape (g + 1,), int64
        Where each group's refills start in ``refill``.
    """

    refill: NDArray[np.int64]
    starts: NDArray[np.int64]


class _Candidates(NamedTuple):
    """Points by descending distance to the nearest pick, the lowest row first on ties."""

    ids: NDArray[np.int64]  # (n,) rows of the points
    dist: NDArray[np.float64]  # (n,) squared distance


class _Local(NamedTuple):
    """Points that have been measured against all refills so far."""

    ids: NDArray[np.int64]  # (n,)
    dist: NDArray[np.float64]  # (n,) squared distance to the bank so far; -1 once picked
    kept: NDArray[np.float32]  # (n, 32) sketches


@kernel()
def _refill_some(
    points,
    sketch,
    margin,
    float_margin,
    left_out,
    group,
    nearest_group,
    candidates,
    at,
    lost,
    at_lost,
    local,
    n_local,
    refill,
    refill_kept,
    begin,
    stop,
):
    """Make refills ``begin .. stop - 1`` of the bank without group ``left_out``.

    ``candidates`` are all unpicked points by their distance to the full bank, ``lost`` those
    whose nearest pick is left out, by their distance to the other picks. What precedes ``at``
    and ``at_lost`` is measured. The rest is no farther than it says, and waits until the
    farthest measured point is not farther than that.

    Return the new ``at``, ``at_lost`` and ``n_local``, and where the refills end: before
    ``stop`` if there is no point left to pick.
    """
    for p in range(begin, stop):
        best = _farthest(local.ids, local.dist, n_local)
        while True:
            while at < candidates.ids.shape[0] and (
                group[candidates.ids[at]] == left_out
                or nearest_group[candidates.ids[at]] == left_out
            ):
                at += 1
            c = -1
            e = -1.0
            from_lost = False
            if at < candidates.ids.shape[0]:
                c = candidates.ids[at]
                e = candidates.dist[at]
            if at_lost < lost.ids.shape[0] and (
                lost.dist[at_lost] > e or (lost.dist[at_lost] == e and lost.ids[at_lost] < c)
            ):
                c = lost.ids[at_lost]
                e = lost.dist[at_lost]
                from_lost = True
            if c < 0 or (
                best >= 0
                and (e < local.dist[best] or (e == local.dist[best] and c > local.ids[best]))
            ):
                break
            if from_lost:
                at_lost += 1
            else:
                at += 1
            for m in range(_SKETCH):
                local.kept[n_local, m] = sketch[c, m]
            for r in range(p):
                if e > 0.0 and _quick(refill_kept, r, local.kept, n_local) <= (
                    e * (1.0 + _SKETCH_MARGIN) + margin
                ):
                    e = _closer(points, c, refill[r], e, float_margin)
            local.ids[n_local] = c
            local.dist[n_local] = e
            if best < 0 or e > local.dist[best] or (e == local.dist[best] and c < local.ids[best]):
                best = n_local
            n_local += 1
        if best < 0:
            return at, at_lost, n_local, p
        c = local.ids[best]
        local.dist[best] = -1.0
        refill[p] = c
        for m in range(_SKETCH):
            refill_kept[p, m] = sketch[c, m]
        _approach(
            points,
            local.ids,
            local.dist,
            local.kept,
            n_local,
            c,
            refill_kept,
            p,
            margin,
            float_margin,
        )
    return at, at_lost, n_local, stop


def leave_one_group_out_banks(
    points: ArrayLike,
    result: CoresetResult,
    group: ArrayLike,
    *,
    progress: Progress | None = None,
) -> GroupRefills:
    """Rebuild the bank without each group in turn, at its full size.

    For every group (image) the picks that belong to it are removed and the greedy
    selection goes on among the points of all other groups until the bank has its size
    again. That is about the bank a model of equal size would hold had it been trained
    without the group - the bank to score the group's own points with - for the price of
    one selection instead of one per group: only the points whose nearest pick was removed
    or that a new pick takes are touched.

    Parameters
    ----------
    points : array-like of shape (n, d)
        The points ``result`` was selected from, used as float32.
    result : CoresetResult
        Selection from all points.
    group : array-like of int of shape (n,)
        Group of each point, from 0 to g - 1.
    progress : callable, default=None
        Called as ``progress(done, total)`` several times a second, in refills.

    Returns
    -------
    GroupRefills
        The points to add for each group, as rows of ``points``. A group gets fewer than
        were removed only if the others have no unpicked point left.

    Raises
    ------
    ValueError
        If shapes do not fit, a group is negative, or there is only one group.

    Examples
    --------
    Without group 0 the pick 0.0 goes and 5.0 comes in; without group 1, 1.0 for 10.0.

    >>> import numpy as np
    >>> from pyimgano._kernels.coreset import greedy_k_center
    >>> from pyimgano._kernels.leave_out import leave_one_group_out_banks
    >>> points = np.array([[0.0], [1.0], [5.0], [10.0]])
    >>> result = greedy_k_center(points, n_picks=2, first=0)
    >>> result.picks
    array([0, 3])
    >>> leave_one_group_out_banks(points, result, group=[0, 0, 1, 1])
    GroupRefills(refill=array([2, 1]), starts=array([0, 1, 2]))
    """
    rows = _check_points(points)
    n, d = rows.shape
    groups = np.ascontiguousarray(group, dtype=np.int64)
    if groups.shape != (n,):
        raise ValueError(f"group must have shape ({n},) like the points, got {groups.shape}")
    if result.nearest.shape != (n,):
        raise ValueError(f"result was selected from {len(result.nearest)} points, not from {n}")
    if groups.min() < 0:
        raise ValueError(f"group must not be negative, got {groups.min()}")
    if groups.min() == groups.max():
        raise ValueError("leaving one group out needs points of at least two groups, got one")
    n_groups = int(groups.max()) + 1
    sketch = _sketch(rows)
    rows = read_only(rows)
    picks, nearest = result.picks, result.nearest
    pick_group = groups[picks]
    nearest_group = pick_group[nearest]

    unpicked = np.ones(n, np.bool_)
    unpicked[picks] = False
    ids = np.flatnonzero(unpicked)
    candidates = _by_distance(ids, row_distances(rows, ids, picks[nearest[ids]]))
    # A point loses its nearest pick with one group only: that pick's. Its own group's
    # points do not count then, so only the others need their nearest pick elsewhere.
    loses = ids[groups[ids] != nearest_group[ids]]
    loses = loses[np.argsort(nearest[loses], kind="stable")]  # alike ones are found faster
    lost_group = nearest_group[loses]
    elsewhere = _distances_elsewhere(rows, picks, pick_group, loses, lost_group)
    by_group = np.argsort(lost_group, kind="stable")
    lost_starts = np.searchsorted(lost_group[by_group], np.arange(n_groups + 1))
    wanted = np.bincount(pick_group, minlength=n_groups)
    tried, lock = 0, Lock()

    def refill_group(i: int) -> NDArray[np.int64]:
        nonlocal tried
        some = by_group[lost_starts[i] : lost_starts[i + 1]]
        lost = _by_distance(loses[some], elsewhere[some])
        refill = np.empty(wanted[i], np.int64)
        refill_kept = np.empty((wanted[i], _SKETCH), np.float32)
        # As many as there can be; what is not used costs nothing.
        n_most = len(ids)
        local = _Local(
            np.empty(n_most, np.int64),
            np.empty(n_most, np.float64),
            np.empty((n_most, _SKETCH), np.float32),
        )
        at, at_lost, n_local, filled, chunk = 0, 0, 0, 0, 1
        while filled < len(refill):
            began = time.perf_counter()
            stop = min(len(refill), filled + chunk)
            at, at_lost, n_local, end = _refill_some(
                rows,
                sketch.rows,
                sketch.margin,
                _float_margin(d),
                i,
                groups,
                nearest_group,
                candidates,
                at,
                lost,
                at_lost,
                local,
                n_local,
                refill,
                refill_kept,
                filled,
                stop,
            )
            chunk = _next_chunk(stop - filled, time.perf_counter() - began)
            with lock:
                tried += (stop if end == stop else len(refill)) - filled
                if progress is not None:
                    progress(tried, len(picks))
            filled = end
            if end < stop:
                break
        return refill[:filled]

    refills = map_in_threads(refill_group, range(n_groups), n_threads())
    starts = np.zeros(n_groups + 1, np.int64)
    np.cumsum([len(refill) for refill in refills], out=starts[1:])
    return GroupRefills(np.concatenate(refills), starts)


def _by_distance(ids: NDArray[np.int64], dist: NDArray[np.float64]) -> _Candidates:
    order = np.lexsort((ids, -dist))
    return _Candidates(ids[order], dist[order])


def _distances_elsewhere(
    points: NDArray[np.float32],
    picks: NDArray[np.int64],
    pick_group: NDArray[np.int64],
    ids: NDArray[np.int64],
    left_out: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Squared distance of each point to the nearest pick not of its group ``left_out``.

    Infinity if there is no such pick.
    """
    search = NearestNeighbors(points[picks], bank_group=pick_group)
    out = np.full(len(ids), np.inf)
    for start in range(0, len(ids), _QUERIES):
        part = slice(start, start + _QUERIES)
        other = search.query(points[ids[part]], exclude=left_out[part])[1][:, 0]
        found = other >= 0
        known = ids[part][found]
        out[part][found] = row_distances(points, known, picks[other[found]])
    return out
