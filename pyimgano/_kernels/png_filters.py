"""The filters of PNG, undone."""

from __future__ import annotations

import numpy as np

from pyimgano._kernels.compiling import kernel

__all__ = ["unfilter"]


@kernel()
def unfilter(filtered: np.ndarray, step: int, out: np.ndarray) -> bool:
    """Undo the filters of the rows of a PNG.

    Parameters
    ----------
    filtered : ndarray of shape (height, 1 + n_bytes), uint8
        The first byte of each row is its filter.
    step : int
        Bytes of a pixel.
    out : ndarray of shape (height, n_bytes), uint8
        Takes the pixels.

    Returns
    -------
    bool
        False if a row has a filter that there is not.
    """
    height, n_bytes = out.shape
    for i in range(height):
        kind = filtered[i, 0]
        row, here = filtered[i, 1:], out[i]
        if kind == 0:
            here[:] = row
        elif kind == 1:
            here[:step] = row[:step]
            for k in range(step, n_bytes):
                here[k] = (np.int64(row[k]) + here[k - step]) & 255
        elif kind == 2:
            if i == 0:
                here[:] = row
            else:
                above = out[i - 1]
                for k in range(n_bytes):
                    here[k] = (np.int64(row[k]) + above[k]) & 255
        elif kind == 3:
            for k in range(n_bytes):
                left = np.int64(here[k - step]) if k >= step else 0
                up = np.int64(out[i - 1, k]) if i else 0
                here[k] = (row[k] + (left + up) // 2) & 255
        elif kind == 4:
            for k in range(n_bytes):
                left = np.int64(here[k - step]) if k >= step else 0
                up = np.int64(out[i - 1, k]) if i else 0
                corner = np.int64(out[i - 1, k - step]) if i and k >= step else 0
                to_left, to_up = abs(up - corner), abs(left - corner)
                to_corner = abs(left + up - 2 * corner)
                if to_left <= to_up and to_left <= to_corner:
                    best = left
                elif to_up <= to_corner:
                    best = up
                else:
                    best = corner
                here[k] = (row[k] + best) & 255
        else:
            return False
    return True
