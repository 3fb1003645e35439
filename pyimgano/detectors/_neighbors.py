"""Exact nearest neighbours in a bank of float32 rows, for less than the cost of one GEMM."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from pyimgano.utils._threads import in_threads, n_threads, ranges

__all__ = ["NearestNeighbors", "read_only", "row_distances", "squared_distance"]

# Rows and bank rows multiplied at a time. Whole rows: a float32 product of 4 MiB stays in the
# processor's cache until it has been looked through. Sketches: a row meets much of the bank at
# once, so that its nearest is known before others are measured (16 MiB).
_BLOCKS = (512, 2048)
_SKETCH_BLOCKS = (128, 32_768)
# Bounds are looked through in pieces, most of which are passed over by their smallest one.
_LOOK = 256

# Of rows of many numbers, in a large bank, only a sketch is multiplied: so many leading principal
# coordinates, and the norm of the rest. On network features that leaves some dozens of
# candidates to measure, for a sixth of the product.
_SKETCH = 64
_WIDE = 2 * _SKETCH
_LARGE = 1024

# Values whose squares leave float32's range cannot be compared in it.
_LARGEST_NORM = 1e18
# Below this, float32 products lose their relative precision.
_UNDERFLOW = 1e-36


@numba.njit(cache=True, nogil=True)
def squared_distance(a, b):
    """Squared Euclidean distance of two float32 rows, summed in float64.

    The order of the operations is fixed (four partial sums, no fused operations), so the
    result depends on the two rows alone: not on the batch, the caller or the processor.
    """
    s0 = s1 = s2 = s3 = 0.0
    whole = a.shape[0] & ~3
    for k in range(0, whole, 4):
        t0 = np.float64(a[k]) - np.float64(b[k])
        t1 = np.float64(a[k + 1]) - np.float64(b[k + 1])
        t2 = np.float64(a[k + 2]) - np.float64(b[k + 2])
        t3 = np.float64(a[k + 3]) - np.float64(b[k + 3])
        s0 += t0 * t0
        s1 += t1 * t1
        s2 += t2 * t2
        s3 += t3 * t3
    for k in range(whole, a.shape[0]):
        t0 = np.float64(a[k]) - np.float64(b[k])
        s0 += t0 * t0
    return (s0 + s1) + (s2 + s3)


@numba.njit(cache=True, nogil=True)
def row_distances(points, rows, others):
    """Squared distances between ``points[rows[i]]`` and ``points[others[i]]``, float64."""
    out = np.empty(rows.shape[0], np.float64)
    for i in range(rows.shape[0]):
        out[i] = squared_distance(points[rows[i]], points[others[i]])
    return out


def read_only(array: NDArray) -> NDArray:
    """Return a read-only view; numba then compiles one version for memmaps and arrays."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def _smallest(product, bias):
    smallest = np.float32(np.inf)
    for j in range(product.shape[0]):
        smallest = min(smallest, product[j] + bias[j])
    return smallest


@numba.njit(cache=True, nogil=True)
def _insert(distance, index, value, position):
    """Insert one candidate into the k best of a row; ties go to the lowest index."""
    k = distance.shape[0] - 1
    if value > distance[k] or (value == distance[k] and position > index[k] >= 0):
        return
    while k > 0 and (
        value < distance[k - 1]
        or (value == distance[k - 1] and (index[k - 1] < 0 or position < index[k - 1]))
    ):
        distance[k] = distance[k - 1]
        index[k] = index[k - 1]
        k -= 1
    distance[k] = value
    index[k] = position


@numba.njit(cache=True, nogil=True)
def _take_candidates(rows, bank, offset, product, bias, floor, group, exclude, distance, index):
    """Settle one block: measure exactly every bank row that may be among the k best.

    ``product[q, j] + bias[j] + floor[q]`` is a lower bound of the squared distance.
    """
    last = distance.shape[1] - 1
    m = bank.shape[0]
    n_looks = (m + _LOOK - 1) // _LOOK
    smallest = np.empty(n_looks, np.float32)
    for q in range(rows.shape[0]):
        values = product[q]
        if exclude[q] >= 0:
            for j in range(m):
                if group[j] == exclude[q]:
                    values[j] = np.inf
        best = 0
        for look in range(n_looks):
            part = slice(look * _LOOK, min(m, (look + 1) * _LOOK))
            smallest[look] = _smallest(values[part], bias[part])
            if smallest[look] < smallest[best]:
                best = look
        if smallest[best] == np.inf or smallest[best] + floor[q] > distance[q, last]:
            continue
        # The best candidate goes first: it makes the limit tight for all others.
        first = -1
        for j in range(best * _LOOK, min(m, (best + 1) * _LOOK)):
            if values[j] + bias[j] == smallest[best]:
                first = j
                break
        if first >= 0:
            exact = squared_distance(rows[q], bank[first])
            _insert(distance[q], index[q], exact, offset + first)
        limit = distance[q, last] - floor[q]
        for look in range(n_looks):
            if smallest[look] > limit:
                continue
            for j in range(look * _LOOK, min(m, (look + 1) * _LOOK)):
                bound = values[j] + bias[j]
                if bound <= limit and j != first and bound < np.inf:
                    exact = squared_distance(rows[q], bank[j])
                    _insert(distance[q], index[q], exact, offset + j)
                    limit = distance[q, last] - floor[q]


class NearestNeighbors:
    """Exact Euclidean nearest neighbours in a bank of float32 rows.

    Candidates come from a float32 matrix product of the rows, or of sketches of them, which
    bounds each distance from below; every bank row that might be among the k best is
    measured by direct subtraction in float64. The answer for a row therefore depends on
    that row and the bank alone, bit for bit, and never on the batch it came with, on the
    axes of the sketch or on the number of threads.

    Parameters
    ----------
    bank : array-like of shape (m, d)
        Reference rows, used as float32. A C-contiguous float32 array (also a read-only
        memory map) is used in place, not copied.
    bank_group : array-like of int of shape (m,), default=None
        The group (for patches: the image, >= 0) each bank row comes from; needed for
        ``query(..., exclude=...)``.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors._neighbors import NearestNeighbors
    >>> search = NearestNeighbors(np.array([[0.0, 0.0], [3.0, 4.0]]), bank_group=[0, 1])
    >>> distance, index = search.query(np.array([[0.0, 1.0]]))
    >>> distance, index
    (array([[1.]]), array([[0]]))
    >>> search.query(np.array([[3.0, 4.0]]), exclude=[1])
    (array([[5.]]), array([[0]]))
    """

    def __init__(self, bank: ArrayLike, bank_group: ArrayLike | None = None) -> None:
        self.bank = np.ascontiguousarray(bank, dtype=np.float32)
        if self.bank.ndim != 2 or self.bank.shape[1] == 0:
            raise ValueError(f"bank must have shape (m, d) with d >= 1, got {self.bank.shape}")
        if bank_group is None:
            self.bank_group = None
        else:
            self.bank_group = np.ascontiguousarray(bank_group, dtype=np.int64)
            if self.bank_group.shape != self.bank.shape[:1]:
                raise ValueError(
                    f"bank_group must have shape {self.bank.shape[:1]} like the rows of "
                    f"bank, got {self.bank_group.shape}"
                )
        m, d = self.bank.shape
        # Subtracting the bank's mean keeps the product's digits when the rows lie far
        # from the origin. It is a float32 vector, so that it is the same for both sides.
        self._mean = np.zeros(d, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # refused below
            if m:
                self._mean = self.bank.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._axes: NDArray[np.float64] | None = None
        self._sketches: NDArray[np.float32] | None = None
        self._squared_norm = np.empty(m, np.float64)
        if d >= _WIDE and m >= _LARGE:
            self._axes = _principal_axes(self.bank, self._mean)
            self._sketches = np.empty((m, _SKETCH), np.float32)
        for start in range(0, m, _BLOCKS[1]):
            part = slice(start, start + _BLOCKS[1])
            block, self._squared_norm[part] = self._prepare(self.bank[part], "bank", start)
            if self._sketches is not None:
                self._sketches[part] = block
        # Rounding changes |c|^2 - 2 q.c + |q|^2 by at most gamma (|q|^2 + |c|^2), a part for
        # each side: d for a sum of d products in any order (2 |q| |c| <= |q|^2 + |c|^2), 4 for
        # centring both sides, 4 for norms and sums. A sketch may be off by 2^-20 of its norm
        # (the square root of what float64 leaves of the rest), which the distance of two
        # sketches, squared, feels four times.
        terms = d if self._axes is None else _SKETCH + 64
        self._gamma = (terms + 8) * 2.0**-24

    def query(
        self, rows: ArrayLike, k: int = 1, exclude: ArrayLike | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find the k nearest bank rows of each row.

        Parameters
        ----------
        rows : array-like of shape (q, d)
            Query rows, used as float32.
        k : int, default=1
            Neighbours per row.
        exclude : array-like of int of shape (q,), default=None
            The group whose bank rows are skipped for each query row; -1 skips none.

        Returns
        -------
        distance : ndarray of shape (q, k), float64
            Euclidean distances, ascending; ``inf`` where fewer than k bank rows are left.
        index : ndarray of shape (q, k), int64
            Rows of the bank; equal distances in ascending order of index, -1 where fewer
            than k bank rows are left.

        Raises
        ------
        ValueError
            If shapes do not fit, a row is not finite, ``k < 1``, or ``exclude`` is given
            to a bank without groups.
        """
        queries = np.ascontiguousarray(rows, dtype=np.float32)
        d = self.bank.shape[1]
        if queries.ndim != 2 or queries.shape[1] != d:
            raise ValueError(f"rows must have shape (q, {d}) like the bank, got {queries.shape}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        n = len(queries)
        skip = np.full(n, -1, np.int64)
        group = np.empty(0, np.int64)
        if exclude is not None:
            if self.bank_group is None:
                raise ValueError(
                    "exclude needs the groups of the bank's rows: pass bank_group to "
                    "NearestNeighbors"
                )
            skip = np.ascontiguousarray(exclude, dtype=np.int64)
            group = self.bank_group
            if skip.shape != (n,):
                raise ValueError(f"exclude must have shape ({n},) like rows, got {skip.shape}")
        distance = np.full((n, k), np.inf)
        index = np.full((n, k), -1, np.int64)
        n_rows, n_bank = _BLOCKS if self._sketches is None else _SKETCH_BLOCKS

        def search(some: slice) -> None:
            product = np.empty((n_rows, max(1, min(len(self.bank), n_bank))), np.float32)
            for start in range(some.start, some.stop, n_rows):
                part = slice(start, min(start + n_rows, some.stop))
                self._query_block(
                    queries[part],
                    part.start,
                    product,
                    group,
                    skip[part],
                    distance[part],
                    index[part],
                )

        parts = ranges(n, min(n_threads(), -(-n // n_rows)))
        in_threads(search, parts, len(parts))
        return np.sqrt(distance, out=distance), index

    def _query_block(
        self,
        rows: NDArray[np.float32],
        start: int,
        product: NDArray[np.float32],
        group: NDArray[np.int64],
        skip: NDArray[np.int64],
        distance: NDArray[np.float64],
        index: NDArray[np.int64],
    ) -> None:
        """Fill ``distance`` (squared) and ``index`` for one block of rows."""
        prepared, squared_norm = self._prepare(rows, "rows", start)
        prepared *= np.float32(-2.0)
        floor = squared_norm * (1.0 - self._gamma) - _UNDERFLOW
        bias = (self._squared_norm * (1.0 - self._gamma)).astype(np.float32)
        rows = read_only(rows)
        n_bank = product.shape[1]
        for start in range(0, len(self.bank), n_bank):
            part = slice(start, start + n_bank)
            bank = self.bank[part]
            out = product.reshape(-1)[: len(rows) * len(bank)].reshape(len(rows), len(bank))
            others = bank - self._mean if self._sketches is None else self._sketches[part]
            np.matmul(prepared, others.T, out=out)
            _take_candidates(
                rows,
                read_only(bank),
                start,
                out,
                bias[part],
                floor,
                group[part],
                skip,
                distance,
                index,
            )

    def _prepare(
        self, rows: NDArray[np.float32], name: str, start: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """What of a block of rows is multiplied, and the squared norm of that."""
        with np.errstate(invalid="ignore", over="ignore"):
            centred = rows - self._mean
            squared_norm = _squared_norms(centred)
        _check_range(squared_norm, name, start)
        if self._axes is None:
            return centred, squared_norm
        lead = centred.astype(np.float64) @ self._axes
        rest = squared_norm - np.einsum("ij,ij->i", lead, lead)
        sketch = np.column_stack([lead, np.sqrt(np.maximum(rest, 0.0))]).astype(np.float32)
        return sketch, _squared_norms(sketch)


def _principal_axes(bank: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float64]:
    """Orthonormal axes of the bank's largest variance, ``(d, _SKETCH - 1)``.

    Any orthonormal axes give a valid bound; these a tight one.
    """
    sample = bank[:: -(-len(bank) // 8192)].astype(np.float64) - mean
    # Rows out of range are refused elsewhere; here they must not upset the axes.
    sample = sample[np.abs(sample).max(axis=1) <= _LARGEST_NORM]
    d = bank.shape[1]
    return eigh(sample.T @ sample, subset_by_index=[d - _SKETCH + 1, d - 1])[1]


def _squared_norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared norm of each row, float64; the rows are one block."""
    wide = rows.astype(np.float64)
    return np.einsum("ij,ij->i", wide, wide)


def _check_range(squared_norm: NDArray[np.float64], name: str, start: int = 0) -> None:
    """Refuse rows that are not finite or whose squares overflow float32."""
    bad = np.flatnonzero(~(squared_norm <= _LARGEST_NORM**2))
    if len(bad):
        raise ValueError(
            f"{name} must be finite with norms below {_LARGEST_NORM:g}; row {start + bad[0]} is not"
        )
