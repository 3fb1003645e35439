"""A picture of a place of an image and of the good places most like it."""

from __future__ import annotations

import cv2
import numpy as np

from pyimgano.detectors import NearestNormal, NormalPatch
from pyimgano.reporting._drawing import (
    GAP,
    INK,
    LINE,
    MARGIN,
    PALE,
    PAPER,
    PASS,
    QUERY,
    blank,
    fit_size,
    keep_end,
    put_text,
    resize_pixels,
    stack,
)

__all__ = ["nearest_normal_picture"]

_SIDE = 200
# How much of the image around a patch is shown, in patches, and at least in pixels.
_AROUND, _LEAST = 3, 32

_Place = tuple[int, int, int, int]


def nearest_normal_picture(found: NearestNormal) -> np.ndarray:
    """Draw a place of an image, and beside it the good places most like it.

    A column for each: above what the place and its surroundings look like, below where in its
    image it lies. The frames are the patches; features depend on more than these.

    Parameters
    ----------
    found : NearestNormal
        From :func:`~pyimgano.detectors.nearest_normal`. What it lacks, having been asked without
        the training images, is left blank and said in words.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        RGB.

    Examples
    --------
    >>> from pyimgano import PatchCoreDetector
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> from pyimgano.detectors import nearest_normal
    >>> from pyimgano.features import FilterBankFeatures
    >>> from pyimgano.reporting import nearest_normal_picture
    >>> data = make_inspection_dataset("wood", n_train=8, n_test_good=0, n_test_defect=1, size=64)
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(data.X_train)
    >>> found = nearest_normal(detector, data.X_test[:1], data.X_train)
    >>> nearest_normal_picture(found).shape
    (506, 856, 3)
    """
    around = max(_LEAST, _AROUND * max(found.place[2:]))
    columns = [_column("this place", f"anomaly {found.anomaly:.4g}", found.pixels, found.place,
                       QUERY, around)]  # fmt: skip
    for match in found.matches:
        title = f"good part {match.image_index}"
        below = f"distance {match.distance:.4g}"
        columns.append(_column(title, below, match.pixels, match.place, PASS, around, match))
    edge = blank(len(columns[0]), MARGIN)
    gap = blank(len(columns[0]), GAP)
    parts = [part for column in columns for part in (gap, column)][1:]
    return np.concatenate([edge, *parts, edge], axis=1)


def _column(
    title: str,
    below: str,
    pixels: np.ndarray | None,
    place: _Place | None,
    color: tuple[int, int, int],
    around: int,
    match: NormalPatch | None = None,
) -> np.ndarray:
    if pixels is None:
        near = _words("not among the images", "that were given")
        whole = blank(_SIDE, _SIDE)
    else:
        whole = _whole(pixels, place, color)
        if place is None:
            near = _words("in a rotated copy", "of this image")
        else:
            near = _close_up(pixels, place, color, around)
    path = "" if match is None or match.path is None else match.path
    strips = [
        _line(title, INK),
        near,
        _line(below, color),
        blank(GAP, _SIDE),
        whole,
        _line(path, PALE),
        blank(8, _SIDE),
    ]
    return stack([blank(8, _SIDE), *strips], _SIDE)


def _line(text: str, color: tuple[int, int, int]) -> np.ndarray:
    strip = blank(LINE + 6, _SIDE)
    put_text(strip, keep_end(text, _SIDE), 0, LINE - 2, color)
    return strip


def _words(*lines: str) -> np.ndarray:
    cell = blank(_SIDE, _SIDE)
    cv2.rectangle(cell, (0, 0), (_SIDE - 1, _SIDE - 1), PALE, 1)
    for i, line in enumerate(lines):
        put_text(cell, line, 8, _SIDE // 2 + LINE * i, PALE)
    return cell


def _whole(pixels: np.ndarray, place: _Place | None, color: tuple[int, int, int]) -> np.ndarray:
    height, width = pixels.shape[:2]
    size = fit_size(height, width, least=_SIDE, most=_SIDE)
    small = resize_pixels(pixels, size)
    if place is not None:
        _frame(small, place, (0, 0), size[0] / height, size[1] / width, color, least=10)
    cell = blank(_SIDE, _SIDE)
    top, left = (_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2
    cell[top : top + size[0], left : left + size[1]] = small
    return cell


def _close_up(
    pixels: np.ndarray, place: _Place, color: tuple[int, int, int], around: int
) -> np.ndarray:
    """A square of the image, of one scale in all columns; white beyond the image's border."""
    corner = [round(place[k] + place[2 + k] / 2 - around / 2) for k in (0, 1)]
    square = blank(around, around)
    have = [(max(0, at), min(at + around, side)) for at, side in zip(corner, pixels.shape[:2])]
    (y0, y1), (x0, x1) = have
    square[y0 - corner[0] : y1 - corner[0], x0 - corner[1] : x1 - corner[1]] = pixels[y0:y1, x0:x1]
    scale = _SIDE / around
    cell = resize_pixels(square, (_SIDE, _SIDE))
    _frame(cell, place, (corner[0], corner[1]), scale, scale, color, least=0)
    return cell


def _frame(
    picture: np.ndarray,
    place: _Place,
    corner: tuple[int, int],
    down: float,
    across: float,
    color: tuple[int, int, int],
    least: int,
) -> None:
    """Frame a patch, at least so many pixels high and wide."""
    top, left = (place[0] - corner[0]) * down, (place[1] - corner[1]) * across
    height, width = place[2] * down, place[3] * across
    grow_y, grow_x = max(0, least - height) / 2, max(0, least - width) / 2
    first = (round(left - grow_x) - 1, round(top - grow_y) - 1)
    last = (round(left + width + grow_x), round(top + height + grow_y))
    cv2.rectangle(picture, first, last, PAPER, 3)
    cv2.rectangle(picture, first, last, color, 1)
