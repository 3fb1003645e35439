"""Outlines of masks along the edges of their pixels."""

from __future__ import annotations

import numpy as np

__all__ = ["outlines"]


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the outer outline of each 8-connected part of a mask.

    Parameters
    ----------
    mask : ndarray of shape (height, width), bool

    Returns
    -------
    list of ndarray of shape (n_corners, 2), int
        Corners ``(x, y)`` of closed polygons, clockwise as seen on a screen, in the order of
        their uppermost left corners. The shoelace formula gives the area of the part, holes
        included.
    """
    following = _edges(mask)
    rings = []
    while following:
        start = min(following, key=lambda corner: (corner[1], corner[0]))
        rings.append(_trace(following, start))
    return [ring for ring in rings if _signed_area(ring) > 0]  # holes run the other way


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Steps along the edges of a mask, by the corner they start from; inside is on the right."""
    padded = np.pad(mask.astype(np.int8), 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    down = np.diff(padded, axis=0)[:, 1:-1]  # +1 where a pixel lies below an edge
    across = np.diff(padded, axis=1)[1:-1]  # +1 where a pixel lies right of an edge
    for change, sign, start, step in (
        (down, 1, (0, 0), (1, 0)),  # upper edges run to the right
        (down, -1, (1, 0), (-1, 0)),
        (across, 1, (0, 1), (0, -1)),  # left edges run upward
        (across, -1, (0, 0), (0, 1)),
    ):
        rows, columns = np.nonzero(change == sign)
        for x, y in zip((columns + start[0]).tolist(), (rows + start[1]).tolist()):
            following.setdefault((x, y), []).append(step)
    return following


def _trace(
    following: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int]
) -> np.ndarray:
    """Follow the steps from a corner until it is met again with nothing left to follow."""
    corner, before, ring = start, (0, -1), []
    while True:
        steps = following[corner]
        # Where two pixels touch at a corner, a turn to the left keeps them in one outline.
        left = (before[1], -before[0])
        step = left if left in steps else steps[0]
        steps.remove(step)
        if not steps:
            del following[corner]
        if step != before:
            ring.append(corner)
        corner, before = (corner[0] + step[0], corner[1] + step[1]), step
        if corner == start and not _goes_on(following, start, before):
            return np.array(ring, dtype=np.int64)


def _goes_on(
    following: dict[tuple[int, int], list[tuple[int, int]]],
    corner: tuple[int, int],
    before: tuple[int, int],
) -> bool:
    return (before[1], -before[0]) in following.get(corner, [])


def _signed_area(ring: np.ndarray) -> int:
    x, y = ring.T
    return int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
