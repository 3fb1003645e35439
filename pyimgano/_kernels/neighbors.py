"""Exact nearest neighbors in a bank of float32 rows, for less than the cost of one GEMM.

Every answer comes from direct subtraction in float64. What makes it fast is how few bank rows are
measured so: cheap float32 numbers, less than a distance by more than they can be wrong, tell
that the others are too far away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.sketches import (
    UNDERFLOW,
    check_range,
    principal_axes,
    squared_norms,
    squared_rest,
)
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import (
    LARGEST_FLOAT32,
    Array,
    Maybe,
    Number,
    Object,
    Sizes,
    State,
    check_finite_array,
    fail,
)
from pyimgano.utils._threads import even_slices, map_in_threads, n_threads

__all__ = ["NearestNeighbors", "read_only", "row_distances", "squared_distance"]

# Rows and bank rows multiplied at a time. Whole rows: a float32 product of 4 MiB stays in the
# processor's cache until it has been looked through.
_BLOCKS = (512, 2048)
# Bounds are looked through in pieces, most of which are passed over by their smallest one.
_LOOK = 256

# Banks of so many wide rows are cut into leaves of similar rows, each so many.
_LARGE = 1024
_LEAF = 64
# Numbers of a row's sketch, of which so many bound a leaf, in steps of so many: after each
# step the leaf is left if all its rows are too far away already.
_SKETCH = 64
_IN_BOX = 16
_STEP = 8
_WIDE = 2 * _SKETCH

# Sums in any order, with fused operations: for bounds, never for results.
_LOOSE = {"nnan", "nsz", "reassoc", "contract"}


@kernel()
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


@kernel()
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


@kernel()
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


@kernel(fastmath={"nnan", "nsz", "reassoc"})
def _smallest(product, bias):
    smallest = np.float32(np.inf)
    for j in range(product.shape[0]):
        smallest = min(smallest, product[j] + bias[j])
    return smallest


@kernel()
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


@kernel(fastmath=_LOOSE)
def _bound_leaves(query, low, high, bound):
    """Squared distance of a sketch to each leaf's box, in the leading numbers."""
    for part in range(low.shape[0]):
        for i in range(bound.shape[0]):
            total = np.float32(0.0) if part == 0 else bound[i]
            for k in range(_STEP):
                below = low[part, k, i] - query[part, k]
                above = query[part, k] - high[part, k, i]
                t = max(max(below, above), np.float32(0.0))
                total += t * t
            bound[i] = total


@kernel(fastmath=_LOOSE)
def _bound_rows(query, leaf, reach, bound):
    """Squared distances of a sketch to a leaf's; returns how many are within reach.

    0 as soon as none can be any more, whatever ``bound`` holds then.
    """
    n = 0
    for part in range(leaf.shape[0]):
        n = 0
        for i in range(bound.shape[0]):
            total = np.float32(0.0) if part == 0 else bound[i]
            for k in range(_STEP):
                t = query[part, k] - leaf[part, k, i]
                total += t * t
            bound[i] = total
            n += total <= reach
        if n == 0:
            break
    return n


@kernel(fastmath=_LOOSE)
def _roughly(a, b):
    """Squared distance in float32; rounding changes it by at most ``(d + 2) / 2**24`` of it."""
    total = np.float32(0.0)
    for k in range(a.shape[0]):
        t = a[k] - b[k]
        total += t * t
    return np.float64(total)


@kernel()
def _search_leaves(
    rows, sketches, wrong, bank, members, leaves, low, high, group, exclude, distance, index
):
    """Find the k best of each row; ``wrong`` is how far off sketches may be, see ``_Leaves``."""
    k = distance.shape[1]
    n_leaves, n_members = members.shape
    of_leaf = np.empty(n_leaves, np.float32)
    of_row = np.empty(n_members, np.float32)
    wider = 1.0 + (rows.shape[1] + 8) * 2.0**-23
    for q in range(rows.shape[0]):
        # Views once for each row: each costs as much as a distance.
        row, sketch, best, position = rows[q], sketches[q], distance[q], index[q]
        skip = exclude[q]
        # Rows in sequence are often alike: the k-th best cannot be farther away than the
        # farthest of the k best before.
        known = 0.0
        for i in range(k):
            j = index[q - 1, i] if q > 0 else -1
            if j < 0 or (skip >= 0 and group[j] == skip):
                known = np.inf
                break
            known = max(known, _roughly(row, bank[j]))
        known = known * wider + UNDERFLOW
        _bound_leaves(sketch, low, high, of_leaf)
        nearest = np.argmin(of_leaf)
        limit = min(known, best[k - 1])
        reach = np.float32((np.sqrt(limit) + wrong[q]) ** 2 * (1.0 + 2.0**-14) + UNDERFLOW)
        for visit in range(-1, n_leaves):
            leaf = nearest if visit < 0 else visit
            if of_leaf[leaf] > reach or visit == nearest:
                continue
            if _bound_rows(sketch, leaves[leaf], reach, of_row) == 0:
                continue
            for i in range(n_members):
                if of_row[i] > reach:
                    continue
                j = members[leaf, i]
                if j < 0 or (skip >= 0 and group[j] == skip):
                    continue
                other = bank[j]
                if _roughly(row, other) > limit * wider + UNDERFLOW:
                    continue
                _insert(best, position, squared_distance(row, other), j)
                limit = min(known, best[k - 1])
                reach = np.float32((np.sqrt(limit) + wrong[q]) ** 2 * (1.0 + 2.0**-14) + UNDERFLOW)


class NearestNeighbors(CheckedStateMixin):
    """Exact Euclidean nearest neighbors in a bank of float32 rows.

    Distances are first bounded from below in float32: by a matrix product, or in a large bank of
    wide rows by sketches of leaves, of leaves' rows, and of rows. Every bank row that might be
    among the k best is measured by direct subtraction in float64. The answer for a row therefore
    depends on that row and the bank alone, bit for bit, and never on the batch it came with, on
    the axes of the sketches or on the number of threads.

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
    >>> from pyimgano._kernels.neighbors import NearestNeighbors
    >>> search = NearestNeighbors(np.array([[0.0, 0.0], [3.0, 4.0]]), bank_group=[0, 1])
    >>> distance, index = search.query(np.array([[0.0, 1.0]]))
    >>> distance, index
    (array([[1.]]), array([[0]]))
    >>> search.query(np.array([[3.0, 4.0]]), exclude=[1])
    (array([[5.]]), array([[0]]))
    """

    _fitted_state = {
        "bank": Array("float32", "m", "d", contiguous=True),
        "bank_group": Maybe(Array("int64", "m", contiguous=True)),
        "_bounds": Object("_Products", "_Leaves"),
    }

    @staticmethod
    def _check_fitted_state(state: State, sizes: Sizes) -> None:
        bank, bounds = state["bank"], state["_bounds"]
        if bank.shape[1] == 0 or bounds.shape != bank.shape:
            fail("NearestNeighbors.bank", "does not go with what bounds its distances")

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
        # Subtracting the bank's mean keeps the bounds' digits when the rows lie far from the
        # origin. It is a float32 vector, so that it is the same for both sides.
        mean = np.zeros(d, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # refused below
            if m:
                mean = self.bank.mean(axis=0, dtype=np.float64).astype(np.float32)
        large = m >= _LARGE and d >= _WIDE
        self._bounds = _Leaves(self.bank, mean) if large else _Products(self.bank, mean)

    def query(
        self, rows: ArrayLike, k: int = 1, exclude: ArrayLike | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find the k nearest bank rows of each row.

        Parameters
        ----------
        rows : array-like of shape (q, d)
            Query rows, used as float32.
        k : int, default=1
            Neighbors per row.
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
        n_rows = _BLOCKS[0]

        def search(some: slice) -> None:
            for start in range(some.start, some.stop, n_rows):
                part = slice(start, min(start + n_rows, some.stop))
                block = read_only(queries[part])
                centered = _centered(block, self._bounds.mean, "rows", start)
                self._bounds.search(
                    self.bank, block, *centered, group, skip[part], distance[part], index[part]
                )

        parts = even_slices(n, min(n_threads(), -(-n // n_rows)))
        map_in_threads(search, parts, len(parts))
        return np.sqrt(distance, out=distance), index


class _Products(CheckedStateMixin):
    """Bounds from the float32 matrix product of rows and bank, ``|q|^2 - 2 q.c + |c|^2``."""

    _fitted_state = {
        "mean": Array("float32", "d"),
        "_gamma": Number(0, 1),
        "_squared_norm": Array("float64", "m", low=0.0, high=LARGEST_FLOAT32**2),
    }

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        state.pop("bank", None)  # earlier versions kept a second reference to it
        return state

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the bank."""
        return len(self._squared_norm), len(self.mean)

    def __init__(self, bank: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        self.mean = mean
        # Rounding changes the bound by at most gamma (|q|^2 + |c|^2), a part for each side: d
        # for a sum of d products in any order (2 |q| |c| <= |q|^2 + |c|^2), 4 for centering both
        # sides, 4 for norms and sums.
        self._gamma = (bank.shape[1] + 8) * 2.0**-24
        self._squared_norm = np.empty(len(bank), np.float64)
        for start in range(0, len(bank), _BLOCKS[1]):
            part = slice(start, start + _BLOCKS[1])
            self._squared_norm[part] = _centered(bank[part], mean, "bank", start)[1]

    def search(
        self,
        bank: NDArray[np.float32],
        rows: NDArray[np.float32],
        centered: NDArray[np.float32],
        squared_norm: NDArray[np.float64],
        group: NDArray[np.int64],
        skip: NDArray[np.int64],
        distance: NDArray[np.float64],
        index: NDArray[np.int64],
    ) -> None:
        """Fill ``distance`` (squared) and ``index`` for one block of rows."""
        floor = squared_norm * (1.0 - self._gamma) - UNDERFLOW
        bias = (self._squared_norm * (1.0 - self._gamma)).astype(np.float32)
        factors = np.float32(-2.0) * centered
        product = np.empty(len(rows) * min(len(bank), _BLOCKS[1]), np.float32)
        for start in range(0, len(bank), _BLOCKS[1]):
            part = slice(start, start + _BLOCKS[1])
            some = bank[part]
            out = product[: len(rows) * len(some)].reshape(len(rows), len(some))
            np.matmul(factors, (some - self.mean).T, out=out)
            _take_candidates(
                rows,
                read_only(some),
                start,
                out,
                bias[part],
                floor,
                group[part],
                skip,
                distance,
                index,
            )


class _Leaves(CheckedStateMixin):
    """Bounds from sketches of rows, with similar rows of the bank side by side.

    See ``pyimgano._kernels.sketches``; here the norm of the rest comes first. The bank is cut in
    two at the median of its widest coordinate until no leaf has more than ``_LEAF`` rows. A row
    is compared with the box around each leaf, with the sketches of leaves that it may have a
    neighbor in, and with the rows whose sketches are near enough; what is left, a few, is
    measured.

    Notes
    -----
    The bank's sketches come from float64 and are off by less than ``e = 2**-18`` of the row's
    norm, most of it from the norm of the rest, the root of a difference. A query q's come from
    a float32 product. Each coordinate, a sum of d products with an axis of length 1, is off by
    at most ``(d + 2) / 2**24 |q|``, all together by ``a |q|``. So the square of the rest is
    off by ``2.1 a |q|^2`` at most, and the rest by that divided by the rest, or by its root.

    Let ``a`` be ``e`` more. Then the sketches of rows q and c at distance r, for which
    ``|c| <= |q| + r``, are at most ``r (1 + e) + w / sqrt(max(rest^2, w))`` apart, with
    ``w = 3 a |q|^2``. Boxes are made of the sketches' own numbers, and differences are rounded
    relative to themselves; a factor of ``1 + 2**-14`` covers that.
    """

    # The compiled search takes what is in these for the numbers of rows.
    _fitted_state = {
        "mean": Array("float32", "d"),
        "_axes": Array("float32", "d", "sketch"),
        "_a": Number(0, 1),
        "_members": Array("int64", "leaves", "leaf", low=-1, contiguous=True),
        "_leaves": Array("float32", "leaves", "sketch", "leaf", infinite=True, contiguous=True),
        "_low": Array("float32", "box", "leaves", contiguous=True),
        "_high": Array("float32", "box", "leaves", contiguous=True),
    }

    @staticmethod
    def _check_fitted_state(state: State, sizes: Sizes) -> None:
        members = state["_members"]
        n_sketch = -(-_SKETCH // _STEP) * _STEP
        wanted = (n_sketch, min(_IN_BOX, n_sketch), _LEAF)
        if (sizes["sketch"], sizes["box"], sizes["leaf"]) != wanted:
            fail("_Leaves._leaves", "has sketches of another length")
        taken = np.sort(members[members >= 0])
        if not np.array_equal(taken, np.arange(len(taken))):
            fail("_Leaves._members", "does not hold each row of the bank once")
        if not sizes.thorough:
            return
        # Infinitely far away are the places that no row takes, which only the last leaf has.
        leaves, taken = state["_leaves"], members[-1] >= 0
        if not (members[:-1] >= 0).all() or not np.isinf(leaves[-1][:, ~taken]).all():
            fail("_Leaves._members", "has gaps")
        check_finite_array(leaves[:-1], "_Leaves._leaves")
        check_finite_array(leaves[-1][:, taken], "_Leaves._leaves")

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        state.pop("bank", None)  # earlier versions kept a second reference to it
        return state

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the bank."""
        return int(np.count_nonzero(self._members >= 0)), len(self.mean)

    def __init__(self, bank: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        self.mean = mean
        n_parts = -(-_SKETCH // _STEP)  # of which zeros fill the last
        axes = np.zeros((bank.shape[1], n_parts * _STEP))
        axes[:, 1:_SKETCH] = principal_axes(bank, mean, _SKETCH - 1)
        sketches = np.empty((len(bank), n_parts * _STEP), np.float32)
        for start in range(0, len(bank), _BLOCKS[1]):
            part = slice(start, start + _BLOCKS[1])
            centered, squared_norm = _centered(bank[part], mean, "bank", start)
            sketches[part] = _sketch(centered.astype(np.float64), squared_norm, axes)[0]
        self._axes = axes.astype(np.float32)
        self._a = np.sqrt(_SKETCH) * (bank.shape[1] + 2) * 2.0**-24 + 2.0**-18
        leaves = _cut(sketches[:, :_IN_BOX])
        n_leaves = len(leaves)
        # Places that no row takes are infinitely far away.
        self._members = np.full((n_leaves, _LEAF), -1)
        self._leaves = np.full((n_leaves, n_parts * _STEP, _LEAF), np.inf, np.float32)
        n_boxed = min(_IN_BOX, n_parts * _STEP)
        self._low, self._high = np.empty((2, n_boxed, n_leaves), np.float32)
        for i, members in enumerate(leaves):
            some = sketches[members]
            self._members[i, : len(members)] = members
            self._leaves[i, :, : len(members)] = some.T
            self._low[:, i] = some[:, :n_boxed].min(axis=0)
            self._high[:, i] = some[:, :n_boxed].max(axis=0)

    def search(
        self,
        bank: NDArray[np.float32],
        rows: NDArray[np.float32],
        centered: NDArray[np.float32],
        squared_norm: NDArray[np.float64],
        group: NDArray[np.int64],
        skip: NDArray[np.int64],
        distance: NDArray[np.float64],
        index: NDArray[np.int64],
    ) -> None:
        """Fill ``distance`` (squared) and ``index`` for one block of rows."""
        sketches, rest = _sketch(centered, squared_norm, self._axes)
        w = 3.0 * self._a * squared_norm
        _search_leaves(
            rows,
            sketches.reshape(len(rows), -1, _STEP),
            w / np.sqrt(np.maximum(rest, w) + UNDERFLOW),
            read_only(bank),
            read_only(self._members),
            read_only(self._leaves.reshape(len(self._leaves), -1, _STEP, _LEAF)),
            read_only(self._low.reshape(-1, _STEP, len(self._leaves))),
            read_only(self._high.reshape(-1, _STEP, len(self._leaves))),
            group,
            skip,
            distance,
            index,
        )


def _sketch(
    centered: NDArray[Any], squared_norm: NDArray[np.float64], axes: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Sketches of some rows, and the squares of their first numbers: of the rows' rest."""
    sketch = centered @ axes  # the first axis is zero
    rest = squared_rest(sketch, squared_norm)
    sketch[:, 0] = np.sqrt(rest)
    return sketch, rest


def _cut(points: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """Cut points into leaves of at most ``_LEAF``, all but the last of them full."""
    whole: list[NDArray[np.intp]] = [np.arange(len(points))]
    leaves = []
    while whole:
        some = whole.pop()
        if len(some) <= _LEAF:
            leaves.append(some)
            continue
        own = points[some]
        values = own[:, np.argmax(own.var(axis=0, dtype=np.float64))]
        half = -(-len(some) // _LEAF) // 2 * _LEAF
        some = some[np.argpartition(values, half)]
        whole += [some[half:], some[:half]]
    return leaves


def _centered(
    rows: NDArray[np.float32], mean: NDArray[np.float32], name: str, start: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Rows less the mean, and their squared norms; refused if they are out of range."""
    with np.errstate(invalid="ignore", over="ignore"):
        centered = rows - mean
        squared_norm = squared_norms(centered)
    check_range(squared_norm, name, start)
    return centered, squared_norm
