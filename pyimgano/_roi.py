"""Regions of interest, however they are given, become masks of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["roi_in_pixels", "roi_kind"]


def roi_kind(roi: Any) -> str:
    """Tell how a region of interest is given, and refuse what is none.

    Parameters
    ----------
    roi : array-like
        See :func:`roi_in_pixels`.

    Returns
    -------
    {"box", "polygon", "mask"}

    Raises
    ------
    ValueError
        If it is neither, or holds no pixel.
    """
    values = np.asarray(roi)
    if values.dtype == bool:
        if values.ndim != 2:
            raise ValueError(f"roi is a mask of shape {values.shape}, not (height, width).")
        if not values.any():
            raise ValueError("roi is False everywhere: no pixel is left to look at.")
        return "mask"
    known = values.dtype.kind in "iuf" and (
        values.shape == (4,) or (values.ndim == 2 and values.shape[1] == 2 and len(values) >= 3)
    )
    if not known:
        raise ValueError(
            f"roi has shape {values.shape} and dtype {values.dtype}; give a box (x0, y0, x1, y1) "
            "or a polygon [(x, y), ...] of at least 3 corners, in shares of the width and height "
            "of the image, or a mask of shape (height, width) that holds booleans."
        )
    if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
        raise ValueError(
            f"roi={np.asarray(roi).tolist()} is not within 0 and 1: a box and a polygon are given "
            "in shares of the width and height of the image; divide pixels by them."
        )
    if values.ndim == 2:
        return "polygon"
    x0, y0, x1, y1 = values.tolist()
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"roi={[x0, y0, x1, y1]} is empty: it must have x0 < x1 and y0 < y1.")
    return "box"


def roi_in_pixels(roi: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Find the pixels of an image that lie in a region of interest.

    Parameters
    ----------
    roi : array-like
        A box ``(x0, y0, x1, y1)`` or a polygon ``[(x, y), ...]``, in shares of the width and
        height of the image; or a mask of the size of the image, True for the pixels inside.
        A pixel counts by its center. Of a box, the left and upper edge are inside and the right
        and lower are not; of a polygon, the whole outline is inside.
    size : (int, int)
        Height and width of the image.

    Returns
    -------
    ndarray of shape ``size``, bool

    Raises
    ------
    ValueError
        If it is no region, has another size, or no pixel of the image lies in it.
    """
    kind = roi_kind(roi)
    height, width = size
    if kind == "mask":
        mask = np.array(roi)
        if mask.shape != (height, width):
            raise ValueError(
                f"roi has {mask.shape[0]} x {mask.shape[1]} pixels, and the image {height} x "
                f"{width}: draw the mask in the pixels of the images, or give a box or a polygon."
            )
        return mask
    if kind == "box":
        x0, y0, x1, y1 = np.asarray(roi, dtype=np.float64).tolist()
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        across = (x >= x0 * width) & (x < x1 * width)
        down = (y >= y0 * height) & (y < y1 * height)
        mask = down[:, None] & across
    else:
        from skimage.draw import polygon

        corners = np.asarray(roi, dtype=np.float64) * (width, height) - 0.5
        mask = np.zeros((height, width), dtype=bool)
        mask[polygon(corners[:, 1], corners[:, 0], mask.shape)] = True
    if not mask.any():
        raise ValueError(
            f"no pixel of an image of {height} x {width} has its center in "
            f"roi={np.asarray(roi).tolist()}: make it larger."
        )
    return mask
