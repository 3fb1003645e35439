"""The way back from an image that a step has cropped or moved to the image it was made of."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

__all__ = ["Placement"]


class Placement(NamedTuple):
    """Position of a cropped or moved image in the image it was made of.

    Parameters
    ----------
    motion : ndarray of shape (2, 3), float64
        Takes positions (x, y, 1) of the made image to positions (x, y) of the original, both in
        pixels, with the center of the first pixel at (0, 0).
    size : (int, int)
        Height and width of the original in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.inputs._placement import Placement
    >>> crop = Placement(np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]), (3, 5))  # 2 right, 1 down
    >>> crop.put_back(np.array([[7, 8], [9, 6]], dtype=np.float32))
    array([[6., 6., 6., 6., 6.],
           [6., 6., 7., 8., 6.],
           [6., 6., 9., 6., 6.]], dtype=float32)
    """

    motion: np.ndarray
    size: tuple[int, int]

    def within(self, outer: Placement | None) -> Placement:
        """The placement in the image that the original was itself made of.

        Parameters
        ----------
        outer : Placement or None
            That of the original; None if it came in as it is.

        Returns
        -------
        Placement
        """
        if outer is None:
            return self
        return Placement(outer.motion @ np.vstack([self.motion, [0.0, 0.0, 1.0]]), outer.size)

    def put_back(self, heat: np.ndarray) -> np.ndarray:
        """Bring a map of the made image to the pixels of the original.

        Parameters
        ----------
        heat : ndarray of shape (height, width), float32
            Anomaly map of the made image.

        Returns
        -------
        ndarray of shape ``size``, float32
            The map, interpolated unless it moves by whole pixels. Pixels that the made image does
            not show get its minimum.
        """
        lowest = float(heat.min())
        offset = self.motion[:, 2]
        if np.array_equal(self.motion[:, :2], np.eye(2)) and (offset == np.rint(offset)).all():
            return self._pasted(heat, lowest)
        return cv2.warpAffine(
            heat,
            self.motion,
            self.size[::-1],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=lowest,
        )

    def _pasted(self, heat: np.ndarray, lowest: float) -> np.ndarray:
        left, top = self.motion[:, 2].astype(int)
        canvas = np.full(self.size, lowest, dtype=heat.dtype)
        y0, x0 = max(0, top), max(0, left)
        y1 = max(y0, min(top + heat.shape[0], self.size[0]))
        x1 = max(x0, min(left + heat.shape[1], self.size[1]))
        canvas[y0:y1, x0:x1] = heat[y0 - top : y1 - top, x0 - left : x1 - left]
        return canvas
