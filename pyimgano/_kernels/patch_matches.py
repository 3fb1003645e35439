"""The nearest patches of one image among those of others, by float32 distances.

All pairs of patches are bounded at once, by a product of their sketches (see
``pyimgano._kernels.sketches``); only pairs that may be among the nearest are measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.sketches import squared_norms, squared_rest

__all__ = ["keep_nearest", "match_sketches", "rest_norms"]

# Leading principal coordinates that, with the norm of the rest, give the lower bound of a
# distance. More of them let fewer candidates through and make the product that bounds all
# pairs dearer.
_LEAD = 46
# Coordinates summed before a candidate is compared with the best one again.
_STEP = 32
# Bounds looked through at a time, to pass over those without a candidate at once.
_LOOK = 64
# What float32 sums may be off by, as a share of the squared norms.
_MARGIN = 1e-5


def rest_norms(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Norm of all but the leading coordinates of each row, ``(n,)``."""
    return np.sqrt(squared_rest(rows[:, :_LEAD], squared_norms(rows))).astype(np.float32)


def match_sketches(
    rows: NDArray[np.float32], rest: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Sketch rows that are given in principal coordinates.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Rows in principal coordinates, those of largest variance first.
    rest : ndarray of shape (n,)
        From :func:`rest_norms`.

    Returns
    -------
    sketches : ndarray of shape (n, n_leading + 2), float32
        Leading coordinates, norm of the rest, and a column of zeros for the caller's use.
    squared_norms : ndarray of shape (n,), float64
        Squared norms of the sketches, a bit too small by what rounding may take from a distance.
    """
    sketch = np.column_stack([rows[:, :_LEAD], rest, np.zeros(len(rows))]).astype(np.float32)
    return sketch, squared_norms(sketch) * (1.0 - _MARGIN)


@kernel(fastmath={"nnan", "nsz", "reassoc"})
def _smallest(values):
    smallest = np.float32(np.inf)
    for j in range(values.shape[0]):
        smallest = min(smallest, values[j])
    return smallest


@kernel(fastmath={"nsz", "reassoc", "contract"})
def _part_of_distance(query, row, begin, stop):
    total = np.float32(0.0)
    for k in range(begin, stop):
        t = query[k] - row[k]
        total += t * t
    return total


@kernel()
def _distance(query, row, than):
    """Squared distance of two rows, or ``than`` if it is not below."""
    d = query.shape[0]
    total = 0.0
    begin, stop = 0, min(d, _LEAD)
    while begin < d and total < than:
        total += _part_of_distance(query, row, begin, stop)
        begin, stop = stop, min(d, stop + _STEP)
    return min(total, than)


@kernel()
def keep_nearest(queries, gallery, bound, floor, best):
    """Keep each query's smallest squared distances in ``best``, ascending.

    ``bound[q, j] + floor[q]`` is a lower bound of a squared distance; only where it is not
    above the last of the best ones, the distance itself is measured.
    """
    n = gallery.shape[0]
    last = best.shape[1] - 1
    n_looks = (n + _LOOK - 1) // _LOOK
    smallest = np.empty(n_looks, np.float32)
    for q in range(queries.shape[0]):
        first = 0
        for look in range(n_looks):
            smallest[look] = _smallest(bound[q, look * _LOOK : (look + 1) * _LOOK])
            if smallest[look] < smallest[first]:
                first = look
        # The most promising ones go first: they make the limit tight for all others.
        for turn in range(n_looks + 1):
            look = first if turn == 0 else turn - 1
            limit = best[q, last] * (1.0 + _MARGIN) - floor[q]
            if smallest[look] > limit or (turn > 0 and look == first):
                continue
            for j in range(look * _LOOK, min(n, (look + 1) * _LOOK)):
                if bound[q, j] > limit:
                    continue
                total = _distance(queries[q], gallery[j], best[q, last])
                if total < best[q, last]:
                    place = last
                    while place > 0 and total < best[q, place - 1]:
                        best[q, place] = best[q, place - 1]
                        place -= 1
                    best[q, place] = total
                    limit = best[q, last] * (1.0 + _MARGIN) - floor[q]
