"""The steps from an anomaly map to labeled regions, each on plain arrays."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from scipy import ndimage

__all__ = [
    "above",
    "clean",
    "fill_from_inside",
    "join_nearby",
    "label",
    "rank_value",
    "shape_of",
    "smooth",
]

SMOOTHING = ("box", "gaussian", "median")

_LARGEST_MEDIAN_OF_OPENCV = 5  # of float32
_EIGHT = np.ones((3, 3), dtype=bool)


def fill_from_inside(heat: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Give each pixel outside a region the value of the nearest one inside.

    Parameters
    ----------
    heat : ndarray of shape (height, width), float32
    inside : ndarray of shape (height, width), bool

    Returns
    -------
    ndarray of shape (height, width), float32
    """
    if inside.all():
        return heat
    rows, columns = ndimage.distance_transform_edt(
        ~inside, return_distances=False, return_indices=True
    )
    return heat[rows, columns]


def smooth(heat: np.ndarray, kind: str, size: int) -> np.ndarray:
    """Smooth a map with a square window; beyond the border the nearest pixel counts.

    Parameters
    ----------
    heat : ndarray of shape (height, width), float32
    kind : {"median", "gaussian", "box"}
    size : int
        Side of the window, odd. The standard deviation of a Gaussian is
        ``0.3 * ((size - 1) / 2 - 1) + 0.8``.

    Returns
    -------
    ndarray of shape (height, width), float32
    """
    if kind == "median":
        if size <= _LARGEST_MEDIAN_OF_OPENCV:
            return cv2.medianBlur(heat, size)
        return ndimage.median_filter(heat, size=size, mode="nearest")
    if kind == "gaussian":
        sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
        return cv2.GaussianBlur(heat, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)
    return cv2.blur(heat, (size, size), borderType=cv2.BORDER_REPLICATE)


def above(heat: np.ndarray, threshold: float) -> np.ndarray:
    """Find the pixels above a threshold, compared in float64 with a map in float32.

    Parameters
    ----------
    heat : ndarray of shape (height, width), float32
    threshold : float

    Returns
    -------
    ndarray of shape (height, width), bool
    """
    # The largest float32 that is not above the threshold: numpy would round to the nearest one.
    cut = np.float32(threshold)
    if float(cut) > threshold:
        cut = np.nextafter(cut, np.float32(-np.inf))
    return heat > cut


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 8-connected parts of a mask, from 1 on.

    Parameters
    ----------
    mask : ndarray of shape (height, width), bool

    Returns
    -------
    labels : ndarray of shape (height, width), int32
    n : int
        Number of parts.
    """
    n, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return labels, n - 1


def grown_from(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Keep the 8-connected parts of a mask that hold a seed.

    Parameters
    ----------
    seeds, mask : ndarray of shape (height, width), bool
        All seeds are in the mask.

    Returns
    -------
    ndarray of shape (height, width), bool
    """
    labels, n = label(mask)
    keep = np.zeros(n + 1, dtype=bool)
    keep[labels[seeds]] = True
    return keep[labels]


def clean(
    mask: np.ndarray, inside: np.ndarray, opening: int, closing: int, fill_holes: bool
) -> np.ndarray:
    """Open, close and fill a mask, in this order.

    Parameters
    ----------
    mask, inside : ndarray of shape (height, width), bool
        Nothing is added outside.
    opening, closing : int
        Side of the square; 1 changes nothing. Beyond the border of the map nothing is marked.
    fill_holes : bool
        Fill what the mask surrounds. The background is 4-connected, as the mask is 8-connected.

    Returns
    -------
    ndarray of shape (height, width), bool
    """
    for operation, side in ((cv2.MORPH_OPEN, opening), (cv2.MORPH_CLOSE, closing)):
        if side > 1:
            mask = _with_square(mask, operation, side) & inside
    if fill_holes:
        mask = _without_holes(mask) & inside
    return mask


def _without_holes(mask: np.ndarray) -> np.ndarray:
    # Around the map lies a frame of background, which is one with all that is no hole.
    outside = np.pad(~mask, 1, constant_values=True)
    _, labels = cv2.connectedComponents(outside.view(np.uint8), connectivity=4)
    return (labels != labels[0, 0])[1:-1, 1:-1]


def _with_square(mask: np.ndarray, operation: int, side: int) -> np.ndarray:
    # OpenCV takes the map to go on beyond its border, where closing would then add to a region.
    padded = np.pad(mask.view(np.uint8), side)
    done = cv2.morphologyEx(padded, operation, np.ones((side, side), np.uint8))
    return done[side:-side, side:-side].astype(bool)


def join_nearby(mask: np.ndarray, gap: int) -> tuple[np.ndarray, int]:
    """Number the parts of a mask; those with at most ``gap`` pixels between them are one.

    Parameters
    ----------
    mask : ndarray of shape (height, width), bool
    gap : int
        Rows or columns in between, whichever are more.

    Returns
    -------
    labels : ndarray of shape (height, width), int32
    n : int
        Number of parts.
    """
    # A pixel that grows into a square of gap + 1 touches those at most gap + 1 steps away.
    side = gap + 1
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 0, gap, 0, gap, cv2.BORDER_CONSTANT)
    grown = cv2.dilate(padded, np.ones((side, side), np.uint8), anchor=(side - 1, side - 1))
    labels, n = label(grown.view(bool))
    return np.where(mask, labels[: mask.shape[0], : mask.shape[1]], 0).astype(np.int32), n


def shape_of(mask: np.ndarray) -> tuple[float, float]:
    """Measure the aspect ratio and the compactness of a region.

    Parameters
    ----------
    mask : ndarray of shape (height, width), bool
        At least one pixel.

    Returns
    -------
    aspect_ratio, compactness : float
        See :class:`DefectRegion`.
    """
    edges = sum(
        int(np.abs(np.diff(np.pad(mask.astype(np.int8), 1), axis=axis)).sum()) for axis in (0, 1)
    )
    compactness = 16.0 * np.count_nonzero(mask) / edges**2
    return _aspect_ratio(mask), float(compactness)


def _aspect_ratio(mask: np.ndarray) -> float:
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([first, last, first, last])
    lines = np.concatenate([rows, rows, rows + 1, rows + 1])
    hull = cv2.convexHull(np.column_stack([ends, lines]).astype(np.int32))[:, 0].astype(np.int64)
    sides = np.roll(hull, -1, axis=0) - hull
    # One side of the smallest rectangle lies on a side of the hull. In whole numbers, so that
    # ratios are exact: both extents are longer by the length of the side.
    along = np.ptp(sides @ hull.T, axis=1)
    across = np.ptp(np.outer(sides[:, 0], hull[:, 1]) - np.outer(sides[:, 1], hull[:, 0]), axis=1)
    areas = along * across / (sides**2).sum(axis=1)
    ratios = np.maximum(along, across) / np.minimum(along, across)
    return float(ratios[areas <= areas.min() * (1 + 1e-12)].min())


def rank_value(parts: Any, rank: int) -> float:
    """Find the ``rank``-th smallest of very many float32 values without holding all of them.

    Parameters
    ----------
    parts : callable
        Returns an iterator over arrays of the values, each time the same; none is NaN.
    rank : int
        From 1 on.

    Returns
    -------
    float
    """
    counts = np.zeros(1 << 16, dtype=np.int64)
    for keys in map(_ordered, parts()):
        counts += np.bincount(keys >> np.uint32(16), minlength=len(counts))
    ends = np.cumsum(counts)
    at = int(np.searchsorted(ends, rank))
    among = [values[_ordered(values) >> np.uint32(16) == at] for values in parts()]
    before = int(ends[at] - counts[at])
    return float(np.partition(np.concatenate(among), rank - before - 1)[rank - before - 1])


def _ordered(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of float32 values."""
    bits = (values + np.float32(0)).view(np.uint32)  # turns -0 into 0
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
