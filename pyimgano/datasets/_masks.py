"""Masks: the one place that reads them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyimgano.exceptions import DatasetError
from pyimgano.inputs._reading import decode_file

__all__ = ["marks_nothing", "read_channel", "read_mask", "read_region"]


def read_mask(
    item: str | Path | NDArray[np.uint8] | Sequence[str | Path] | int | None,
    size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Read one entry of ``masks`` or ``masks_test`` of any dataset of this module.

    Parameters
    ----------
    item : str, Path, ndarray of shape (H, W), tuple or list of files, 0 or None
        The entry: a mask file, a mask, several mask files of one image, or 0 for a good image.
        A file is gray or color, is read like an image, and every pixel that is not black is
        defective. Lossy compression blurs edges: in a JPEG, JPEG 2000 or lossy WebP the pixels
        above 127 in any channel are. In an array the values other than 0 are. Of several files
        a pixel is defective that is so in one of them.
    size : (int, int), default=None
        Height and width of the image; needed for 0, checked for the others.

    Returns
    -------
    ndarray of shape (H, W), uint8
        1 on the defect, 0 elsewhere.

    Raises
    ------
    DatasetError
        If the mask has another size than its image; if no pixel of a file is defective, or
        every one; or if the entry is None: a defective image whose mask is missing must be left
        out of pixel metrics, it is not free of defects.
    ImageReadError
        If the mask file cannot be read as an image can: it is missing, damaged, has transparent
        pixels or several pages.

    Examples
    --------
    >>> from pyimgano.datasets import read_mask
    >>> read_mask(0, (2, 3))
    array([[0, 0, 0],
           [0, 0, 0]], dtype=uint8)
    """
    if item is None:
        raise DatasetError(
            "this defective image has no mask: leave the images listed in `missing_masks` out "
            "of pixel metrics, or add their masks to ground_truth."
        )
    if isinstance(item, np.ndarray):
        mask = (item != 0).astype(np.uint8)
        _check_size("the mask", mask, size)
        return mask
    if isinstance(item, (str, Path)):
        return _read_file(str(item), size)[1]
    if isinstance(item, (tuple, list)) and item:
        _, union = _read_file(str(item[0]), size)
        for path in item[1:]:
            union |= _read_file(str(path), union.shape)[1]
        return union
    if item == 0:
        if size is None:
            raise ValueError("size=(height, width) is needed for the mask of a good image.")
        return np.zeros(size, np.uint8)
    raise TypeError(f"item must be a path, an array, 0 or None, or several paths; got {item!r}.")


def read_channel(
    path: str | Path, size: tuple[int, int] | None, allowed: Collection[int]
) -> tuple[NDArray[np.uint8], list[int]]:
    """Read a mask file whose values mean something, and the values of its defective pixels.

    Parameters
    ----------
    path : str or Path
    size : (int, int) or None
        Height and width of the image, which the mask must have.
    allowed : collection of int
        Values that defective pixels may have.

    Returns
    -------
    mask : ndarray of shape (H, W), uint8
        1 on the defect, 0 elsewhere.
    values : list of int
        Sorted values of the defective pixels; of a color, its largest channel.

    Raises
    ------
    DatasetError
        If the mask does not fit its image, marks nothing or everything, or has other values.
    ImageReadError
        If the file cannot be read as an image can.
    """
    pixels, mask = _read_file(str(path), size)
    values = np.unique(pixels[mask > 0]).tolist()
    odd = [value for value in values if value not in allowed]
    if odd:
        raise DatasetError(
            f"{path}: has pixels of the value {', '.join(map(str, odd[:5]))}"
            f"{', ...' if len(odd) > 5 else ''}. Allowed are 0 for good pixels and, for "
            f"defective ones, {', '.join(map(str, sorted(allowed)))}: take the mask as it was "
            f"published, neither resized nor compressed."
        )
    return mask, values


def marks_nothing(path: str | Path) -> bool:
    """Tell whether a mask file has no defective pixel.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    bool
    """
    return not _decode(str(path))[1].any()


def read_region(path: str | Path) -> NDArray[np.bool_]:
    """Read a region of interest from a picture that is black outside of it.

    Parameters
    ----------
    path : str or Path
        As for :func:`read_mask`: pixels that are not black are inside, in a file of lossy
        compression those above 127.

    Returns
    -------
    ndarray of shape (H, W), bool
        True inside.

    Raises
    ------
    DatasetError
        If every pixel is inside, or none.
    ImageReadError
        If the file cannot be read as an image can.
    """
    _, mask, rule = _decode(str(path))
    if mask.min() == mask.max():
        raise DatasetError(
            f"{path}: {'every pixel' if mask.min() else 'no pixel'} is inside the region; inside "
            f"are those {rule}. Draw a picture of the size of the images, white where the part is "
            "and black elsewhere."
        )
    return mask.astype(bool)


def _read_file(path: str, size: tuple[int, ...] | None) -> tuple[np.ndarray, NDArray[np.uint8]]:
    """Give the pixels of a mask file and the mask in them, which must mark a part of its image."""
    pixels, mask, rule = _decode(path)
    _check_size(path, mask, size)
    if mask.min() == mask.max():
        raise DatasetError(
            f"{path}: every pixel counts as {'defective' if mask.min() else 'good'}; defective "
            f"are those {rule}. The mask of a defective image must be white on the defect and "
            f"black elsewhere, with pixels of both kinds: draw it again, or remove it to leave "
            f"its image out of pixel metrics."
        )
    return pixels, mask


def _decode(path: str) -> tuple[np.ndarray, NDArray[np.uint8], str]:
    """Give the pixels of a file, the mask in them, and the rule that makes a pixel defective."""
    pixels, lossy, _ = decode_file(path)
    if pixels.ndim == 3:
        pixels = pixels.max(axis=2)
    if lossy:  # around an edge there are pixels that are no longer black
        half = np.iinfo(pixels.dtype).max // 2
        rule = f"above {half}, since its compression is lossy"
        return pixels, (pixels > half).astype(np.uint8), rule
    return pixels, (pixels != 0).astype(np.uint8), "that are not black"


def _check_size(name: str, mask: NDArray[np.uint8], size: tuple[int, ...] | None) -> None:
    if mask.ndim != 2 or (size is not None and mask.shape != tuple(size)):
        raise DatasetError(
            f"{name} has shape {mask.shape}, its image is {size} (height, width): a mask must "
            f"have one value for each pixel of its image."
        )
