"""The part in an image, told from a plain ground."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pyimgano.exceptions import ImageFormatError
from pyimgano.inputs import check_images

__all__ = ["foreground_mask", "foreground_of"]

# Images that the median is taken of; more of them do not change it.
_ENOUGH_IMAGES = 64
# What differs from a plain ground takes at most this share of the border of the image, and at
# most half of the share that it takes of the whole: a texture is on the border as anywhere.
_MOST_OF_BORDER, _RARER_ON_BORDER = 0.25, 0.5


def foreground_mask(X: Any) -> NDArray[np.bool_]:
    """Find the part in the median of images that show it in one place.

    The ground is what the border of the image shows. Pixels are told from it by their color:
    the distance from the median color of the border, in CIE Lab, is divided by Otsu's threshold.
    What the part encloses belongs to it, and so does a deep shadow that it casts.

    Parameters
    ----------
    X : sequence of paths, ImageSequence, or uint8 RGB images
        Images of one size; of more than 64, so many are looked at, evenly spread.

    Returns
    -------
    ndarray of shape (height, width), bool
        True everywhere if there is no plain ground: on a texture that fills the image, or where
        more than a quarter of the border shows something else.

    Raises
    ------
    ImageFormatError
        If images differ in size.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.synthesis import foreground_mask
    >>> images = np.full((3, 32, 32, 3), 200, dtype=np.uint8)
    >>> images[:, 8:24, 12:20] = 40
    >>> int(foreground_mask(images).sum())
    128
    """
    images = check_images(X)
    chosen = np.unique(np.linspace(0, len(images) - 1, _ENOUGH_IMAGES).round().astype(int))
    pixels = [images[int(i)] for i in chosen]
    for i, image in zip(chosen, pixels):
        if image.shape != pixels[0].shape:
            raise ImageFormatError(
                f"{images.name(int(i))} has {image.shape[0]} x {image.shape[1]} pixels, and "
                f"{images.name(0)} {pixels[0].shape[0]} x {pixels[0].shape[1]}: the median needs "
                "images of one size. Resize them, or have the part found in each image "
                'by itself: DefectSynthesizer(mask="foreground").'
            )
    return foreground_of(np.median(pixels, axis=0).round().astype(np.uint8))


def foreground_of(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find the part in one image, as :func:`foreground_mask` does in the median of several."""
    height, width = image.shape[:2]
    smooth = cv2.GaussianBlur(image, (0, 0), max(min(height, width) / 256, 0.5))
    lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    border = np.zeros((height, width), bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    distance = np.linalg.norm(lab - np.median(lab[border], axis=0), axis=2)
    levels = np.rint(distance / max(float(distance.max()), 1.0) * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    apart = levels > threshold
    most = min(_MOST_OF_BORDER, _RARER_ON_BORDER * float(apart.mean()))
    if not apart.any() or apart[border].mean() > most:
        return np.ones((height, width), bool)
    # What is enclosed, from where the border is not reached, belongs to the part.
    outside = np.pad((~apart).astype(np.uint8), 1, constant_values=1)
    _, labels = cv2.connectedComponents(outside, connectivity=4)
    return np.asarray(labels[1:-1, 1:-1] != labels[0, 0])
