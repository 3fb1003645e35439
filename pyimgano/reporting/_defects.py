"""An image with the outlines of its defects."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pyimgano.defects import DefectRegion
from pyimgano.reporting._drawing import FAIL, PAPER, put_text

__all__ = ["outline_defects"]

# Pixels along the longer side of an image for each pixel of the width of a line.
_PER_PIXEL = 500


def outline_defects(
    image: np.ndarray, defects: Sequence[DefectRegion], map_size: tuple[int, int]
) -> np.ndarray:
    """Draw the outlines of the defects of an image, each with its number.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
        RGB.
    defects : list of DefectRegion
        Its defects, as :func:`pyimgano.inference.infer` finds them.
    map_size : (int, int)
        Height and width of the anomaly map that they were found in.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        The image itself is not changed.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.defects import DefectExtractor
    >>> from pyimgano.reporting import outline_defects
    >>> maps = np.zeros((1, 32, 32))
    >>> maps[0, 8:20, 8:20] = 1.0
    >>> (defects,) = DefectExtractor().fit(np.zeros((2, 32, 32))).transform(maps)
    >>> picture = outline_defects(np.zeros((64, 64, 3), np.uint8), defects, (32, 32))
    >>> picture.shape, bool(picture.any())
    ((64, 64, 3), True)
    """
    picture = np.array(image)
    height, width = picture.shape[:2]
    scale = np.array([width / map_size[1], height / map_size[0]])
    thickness = 1 + max(height, width) // _PER_PIXEL
    for region in defects:
        # Corners of pixels, and OpenCV draws through the centers of pixels.
        rings = [np.rint(ring * scale - 0.5).astype(np.int32) for ring in region.contour()]
        for color, more in ((PAPER, 2), (FAIL, 0)):  # to be seen on any ground
            cv2.polylines(picture, rings, True, color, thickness + more)
    for region in defects:
        left, top, _, bottom = (np.array(region.bbox_xyxy) * np.tile(scale, 2)).astype(int)
        # Above the defect, or below it where there is no room.
        baseline = top - 5 if top > 20 else min(bottom + 17, height - 4)
        for color, weight in ((PAPER, 3), (FAIL, 1)):
            put_text(picture, str(region.id), int(left), int(baseline), color, thickness=weight)
    return picture
