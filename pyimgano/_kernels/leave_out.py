"""The bank a model would hold without each image in turn, for the price of one selection.

An image that was learned from finds its own patches in the bank. Without them the bank has
holes that no image of the training set would have left: where the image's patch was picked,
its neighbors of other images were not. So the greedy selection goes on, among the other
images' patches, until the bank has its size again.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyimgano._kernels.coreset import (
    _SKETCH,
    _SKETCH_MARGIN,
    CoresetResult,
    Progress,
    _check_points,
    _closer,
    _float_margin,
    _Lists,
    _next_chunk,
    _quick,
    _safe_distance,
    _sketch,
)
from pyimgano._kernels.neighbors import read_only, row_distances, squared_distance

__all__ = ["GroupRefills", "leave_one_group_out_banks"]


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


class _Local(NamedTuple):
    """Points whose distance differs from the full bank's while one group is left out."""

    ids: NDArray[np.int64]  # (n,)
    dist: NDArray[np.float64]  # (n,) squared distance to the bank so far; -1 once picked
    kept: NDArray[np.float32]  # (n, 32) sketches
    inside: NDArray[np.bool_]  # (n,) by row of the points: is it in here?


@numba.njit(cache=True, nogil=True)
def _refill_some(
    points,
    sketch,
    margin,
    float_margin,
    picks,
    pick_group,
    centers,
    lists,
    group,
    left_out,
    descending,
    at,
    local,
    n_local,
    refill,
):
    """Fill ``refill`` with further picks for the bank without group ``left_out``.

    ``descending`` holds the unpicked points by their distance to the full bank; those
    before ``at`` are done with. Return the new ``at`` and ``n_local``, and how many picks
    there were: fewer than asked for if there is no point left to pick.
    """
    for p in range(refill.shape[0]):
        best = -1
        for k in range(n_local):
            if local.dist[k] >= 0.0 and (
                best < 0
                or local.dist[k] > local.dist[best]
                or (local.dist[k] == local.dist[best] and local.ids[k] < local.ids[best])
            ):
                best = k
        while at < descending.shape[0] and (
            group[lists.ids[descending[at]]] == left_out or local.inside[lists.ids[descending[at]]]
        ):
            at += 1
        if at < descending.shape[0]:
            c = lists.ids[descending[at]]
            e = lists.dist[descending[at]]
            if best < 0 or e > local.dist[best] or (e == local.dist[best] and c < local.ids[best]):
                best = n_local
                local.ids[best] = c
                local.inside[c] = True
                n_local += 1
        if best < 0:
            return at, n_local, p
        c = local.ids[best]
        local.dist[best] = -1.0
        refill[p] = c

        for k in range(n_local):
            e = local.dist[k]
            if e > 0.0 and _quick(local.kept, k, sketch, c) <= (
                e * (1.0 + _SKETCH_MARGIN) + margin
            ):
                local.dist[k] = _closer(points, local.ids[k], c, e, float_margin)
        for j in range(picks.shape[0]):
            if pick_group[j] == left_out or _quick(centers, j, sketch, c) > (
                4.0 * lists.radius[j] * (1.0 + _SKETCH_MARGIN) + margin
            ):
                continue
            safe = _safe_distance(points, picks[j], c, float_margin)
            if safe >= lists.radius[j]:
                continue
            for k in range(lists.start[j], lists.start[j] + lists.size[j]):
                e = lists.dist[k]
                if e > safe and _quick(lists.kept, k, sketch, c) <= (
                    e * (1.0 + _SKETCH_MARGIN) + margin
                ):
                    i = lists.ids[k]
                    if group[i] == left_out or local.inside[i]:
                        continue
                    new = _closer(points, i, c, e, float_margin)
                    if new < e:
                        local.ids[n_local] = i
                        local.dist[n_local] = new
                        for m in range(_SKETCH):
                            local.kept[n_local, m] = sketch[i, m]
                        local.inside[i] = True
                        n_local += 1
    return at, n_local, refill.shape[0]


@numba.njit(cache=True, nogil=True)
def _measure_elsewhere(
    points, margin, float_margin, picks, pick_group, centers, lists, group, begin, stop, out
):
    """Squared distance to the nearest pick that is not of the nearest pick's group.

    Fills ``out``, which lies like ``lists.ids``, for lists ``begin .. stop - 1``; points of
    that same group are left at infinity, as is everything if there is no such pick.
    """
    between = np.empty(picks.shape[0], np.float32)
    near = np.empty(picks.shape[0], np.int64)
    for j in range(begin, stop):
        lost = pick_group[j]
        first = lists.start[j]
        last = first + lists.size[j]
        if not np.any(group[lists.ids[first:last]] != lost):
            continue
        # Lower bounds of the other picks' distances from pick j. The smallest is a guess
        # that limits how far from pick j any point of its list needs to look.
        guess = -1
        for other in range(picks.shape[0]):
            between[other] = np.inf
            if pick_group[other] != lost:
                between[other] = _quick(centers, other, centers, j)
                if guess < 0 or between[other] < between[guess]:
                    guess = other
        if guess < 0:
            return
        reach = 0.0
        for k in range(first, last):
            if group[lists.ids[k]] != lost:
                out[k] = squared_distance(points[lists.ids[k]], points[picks[guess]])
                reach = max(reach, np.sqrt(lists.dist[k]) + np.sqrt(out[k]))
        limit = reach * reach * (1.0 + _SKETCH_MARGIN) + margin
        n_near = 0
        for other in range(picks.shape[0]):
            if between[other] <= limit:
                near[n_near] = other
                n_near += 1
        for k in range(first, last):
            i = lists.ids[k]
            if group[i] == lost:
                continue
            e = out[k]
            for m in range(n_near):
                if _quick(centers, near[m], lists.kept, k) <= e * (1.0 + _SKETCH_MARGIN) + margin:
                    e = _closer(points, i, picks[near[m]], e, float_margin)
            out[k] = e


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
    centers = sketch.rows[picks]

    lists = _final_lists(rows, sketch.rows, picks, nearest)
    descending = np.lexsort((lists.ids, -lists.dist))
    local = _Local(
        ids=np.empty(n, np.int64),
        dist=np.empty(n, np.float64),
        kept=np.empty((n, _SKETCH), np.float32),
        inside=np.zeros(n, np.bool_),
    )
    # A point loses its nearest pick with one group only: that pick's. Its own group's
    # points do not count then, so only the others need their nearest pick elsewhere.
    elsewhere = np.full(len(lists.ids), np.inf)
    done, chunk = 0, 1
    while done < len(picks):
        began = time.perf_counter()
        stop = min(len(picks), done + chunk)
        _measure_elsewhere(
            rows,
            sketch.margin,
            _float_margin(d),
            picks,
            pick_group,
            centers,
            lists,
            groups,
            done,
            stop,
            elsewhere,
        )
        chunk = _next_chunk(stop - done, time.perf_counter() - began)
        done = stop
    lost_group = pick_group[nearest[lists.ids]]
    loses = np.flatnonzero(groups[lists.ids] != lost_group)
    loses = loses[np.argsort(lost_group[loses], kind="stable")]
    lost_starts = np.searchsorted(lost_group[loses], np.arange(n_groups + 1))

    wanted = np.bincount(pick_group, minlength=n_groups)
    refill = np.empty(len(picks), np.int64)
    starts = np.zeros(n_groups + 1, np.int64)
    tried, chunk = 0, 1
    for i in range(n_groups):
        lost = loses[lost_starts[i] : lost_starts[i + 1]]
        n_local = len(lost)
        local.ids[:n_local] = lists.ids[lost]
        local.dist[:n_local] = elsewhere[lost]
        local.kept[:n_local] = lists.kept[lost]
        local.inside[lists.ids[lost]] = True
        at, filled, full = 0, starts[i], starts[i] + wanted[i]
        while filled < full:
            began = time.perf_counter()
            part = refill[filled : min(full, filled + chunk)]
            at, n_local, n_new = _refill_some(
                rows,
                sketch.rows,
                sketch.margin,
                _float_margin(d),
                picks,
                pick_group,
                centers,
                lists,
                groups,
                i,
                descending,
                at,
                local,
                n_local,
                part,
            )
            chunk = _next_chunk(len(part), time.perf_counter() - began)
            filled += n_new
            if n_new < len(part):
                break
        local.inside[local.ids[:n_local]] = False
        starts[i + 1] = filled
        tried += int(wanted[i])
        if progress is not None:
            progress(tried, len(picks))
    return GroupRefills(refill[: starts[-1]].copy(), starts)


def _final_lists(
    points: NDArray[np.float32],
    sketch: NDArray[np.float32],
    picks: NDArray[np.int64],
    nearest: NDArray[np.int64],
) -> _Lists:
    """Put all unpicked points into the lists of their nearest picks."""
    unpicked = np.ones(len(points), np.bool_)
    unpicked[picks] = False
    ids = np.flatnonzero(unpicked)
    ids = ids[np.argsort(nearest[ids], kind="stable")]
    dist = row_distances(points, ids, picks[nearest[ids]])
    size = np.bincount(nearest[ids], minlength=len(picks))
    start = np.cumsum(size) - size
    radius = np.full(len(picks), -1.0)
    np.maximum.at(radius, nearest[ids], dist)
    return _Lists(ids, dist, sketch[ids], start, size, radius, far=np.zeros_like(start))
