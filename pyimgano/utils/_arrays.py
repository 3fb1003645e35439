"""Arrays of results."""

from __future__ import annotations

import numpy as np

__all__ = ["stack_if_same_size"]


def stack_if_same_size(maps: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """Join maps into one array if they all have the same size.

    Parameters
    ----------
    maps : list of ndarray of shape (height, width)

    Returns
    -------
    ndarray of shape (n, height, width), or the list
    """
    if len(maps) == 1:
        return maps[0][None]  # it may be large: no copy
    return np.stack(maps) if len({one.shape for one in maps}) == 1 else maps
