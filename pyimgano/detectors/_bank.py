"""Selection of the memory bank, and of the bank that would result without each training image.

``choose_bank`` selects from all patches. ``stream_bank`` selects at most ``max_patches`` while
images are read, in memory that does not grow with their number. ``grow_bank`` goes on from a
bank with the patches of more images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pyimgano._kernels.coreset import greedy_k_center
from pyimgano._kernels.leave_out import leave_one_group_out_banks
from pyimgano._kernels.neighbors import NearestNeighbors
from pyimgano._training import TrainingStream
from pyimgano.detectors._patches import PatchStore, Projection
from pyimgano.exceptions import TooFewImagesError
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._state import fail

__all__ = [
    "HeldOutImage",
    "MemoryBank",
    "PatchWeights",
    "check_bank",
    "choose_bank",
    "grow_bank",
    "stream_bank",
]

# Distances to every 17th row of the bank are upper bounds of distances to the bank. A prime, so
# that these rows do not all come from the same columns of the grids.
_PROBE_STRIDE = 17
# Candidates that stream_bank holds: max_patches times the first number, at least the second.
_CANDIDATES = 4
_FEWEST_CANDIDATES = 16_384


def check_bank(name: str, search: NearestNeighbors, n_features: int | None) -> None:
    """Refuse a stored bank that a detector cannot score by.

    Parameters
    ----------
    name : str
        The detector's class, for the message.
    search : NearestNeighbors
        The bank, whose own state has been checked.
    n_features : int or None
        Length of the feature vectors, as far as the detector knows.
    """
    if len(search.bank) == 0 or search.bank_group is None or (search.bank_group < 0).any():
        fail(f"{name}._search", "holds no patches, or does not say which images they are from")
    if n_features is not None and search.bank.shape[1] != n_features:
        fail(f"{name}._search", f"holds patches of other than {n_features} features")


class HeldOutImage(NamedTuple):
    """A training image and the bank that would have been chosen without it.

    Attributes
    ----------
    rows : ndarray of shape (n, d), float32
        The image's patches.
    bound : ndarray of shape (n,), float64
        Upper bound of each patch's distance to that bank; infinite if unknown.
    group : int
        Group of the image, whose patches are not in that bank.
    bank : MemoryBank
        The bank of all images.
    weight : ndarray of shape (n_bank,), float64
        Distance factors of the full bank's patches, estimated without the group.
    added : NearestNeighbors or None
        Patches of other images that replace those left out; None if there are none.
    added_weight : ndarray of shape (r,), float64
        Distance factors of ``added``.
    """

    rows: np.ndarray
    bound: np.ndarray
    group: int
    bank: MemoryBank
    weight: np.ndarray
    added: NearestNeighbors | None
    added_weight: np.ndarray

    @property
    def largest_weight(self) -> float:
        return float(max(self.weight.max(), self.added_weight.max(initial=0.0)))

    def nearest(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the nearest patch in the bank without the group, for each of ``rows[part]``.

        Returns distances, neighbors, and the neighbors' weights.
        """
        search = self.bank.search
        found = search.query(self.rows[part], k=1, exclude=np.full(len(part), self.group))
        distance, index = found[0][:, 0], found[1][:, 0]
        neighbor, weight = search.bank[index], self.weight[index]
        if self.added is not None:
            found = self.added.query(self.rows[part], k=1)
            closer = found[0][:, 0] < distance
            distance = np.where(closer, found[0][:, 0], distance)
            neighbor[closer] = self.added.bank[found[1][closer, 0]]
            weight[closer] = self.added_weight[found[1][closer, 0]]
        return distance, neighbor, weight

    def around(self, row: np.ndarray, k: int) -> np.ndarray:
        """Return up to k patches of the bank without the group, those nearest to ``row`` first."""
        _, index = self.bank.search.query(row[None], k=k, exclude=[self.group])
        near = self.bank.search.bank[index[0][index[0] >= 0]]
        if self.added is not None:
            _, index = self.added.query(row[None], k=k)
            near = np.concatenate([near, self.added.bank[index[0][index[0] >= 0]]])
        to_it = np.linalg.norm(near.astype(np.float64) - row, axis=1)
        return near[np.argsort(to_it, kind="stable")[:k]]


class BankPatches(NamedTuple):
    """Lookups that a bank without one group is built from.

    Attributes
    ----------
    rows_of : callable
        ``rows_of(i)`` returns the patches of image i.
    nearest : callable
        ``nearest(i, rows)`` returns, for each patch of image i, the index of the bank patch
        nearest in the projection, -1 if unknown, or None if there is no such record.
    pool : ndarray of shape (r, d), float32
        Replacements of the patches left out, group after group.
    starts : ndarray of shape (g + 1,), int
        ``pool[starts[g]:starts[g + 1]]`` replaces group g; later groups have no replacements.
    weights : callable
        ``weights(group)`` returns the distance factors of the bank and of ``pool``, estimated
        without the group.
    """

    rows_of: Callable[[int], np.ndarray]
    nearest: Callable[[int, np.ndarray], np.ndarray | None]
    pool: np.ndarray
    starts: np.ndarray
    weights: Callable[[int], tuple[np.ndarray, np.ndarray]]


class MemoryBank:
    """Selected bank and its leave-one-image-out scores; used during ``fit`` only.

    Attributes
    ----------
    search : NearestNeighbors
        Search index over the bank; its groups are the images the rows came from.
    weight : ndarray of shape (n_bank,), float64
        Distance factor of each bank patch.
    radius : float
        Largest distance of a training patch to the bank, in the projection. Of a bank that was
        streamed it is final once ``out_of_sample`` has run; 0 if all patches are kept.
    """

    def __init__(
        self,
        search: NearestNeighbors,
        weight: np.ndarray,
        radius: float,
        elsewhere: np.ndarray | None,
        sources: BankPatches,
    ) -> None:
        self.search, self.weight, self.radius = search, weight, radius
        self._elsewhere, self._sources = elsewhere, sources
        self._probe: NearestNeighbors | None = None
        self._replacements: tuple[int, NearestNeighbors | None] = (-1, None)

    def out_of_sample(
        self,
        score: Callable[[HeldOutImage], float],
        groups: np.ndarray,
        copy_of: np.ndarray,
        verbose: bool,
    ) -> np.ndarray:
        """Return ``score(held_out)`` for each training image, ``(n_images,)``."""
        scores = np.empty(len(groups))
        with progress_callback("out-of-sample scores", verbose) as progress:
            for i, group in enumerate(groups.tolist()):
                first = copy_of[i]
                # Identical images are left out together, so they have the same score.
                scores[i] = scores[first] if first != i else score(self._without(i, group))
                if progress is not None:
                    progress(i + 1, len(groups))
        return scores

    def _refills(self, group: int) -> slice:
        starts = self._sources.starts
        # ``starts`` may end before the last groups, which have no replacements.
        return slice(starts[group], starts[group + 1]) if group + 1 < len(starts) else slice(0)

    def refills_of(self, group: int) -> np.ndarray:
        """Patches that replace those of a group in the bank without it, ``(r, d)``."""
        return self._sources.pool[self._refills(group)]

    def _without(self, i: int, group: int) -> HeldOutImage:
        source = self._sources
        added = self._refills(group)
        if self._replacements[0] != group:  # tiles of one image follow one another
            pool = source.pool[added]
            self._replacements = group, NearestNeighbors(pool) if len(pool) else None
        rows = source.rows_of(i)
        nearest = source.nearest(i, rows)
        if nearest is None:
            bound = self._probed(rows, group)
        else:
            assert self._elsewhere is not None
            known = nearest >= 0
            own = known & (self._image[nearest] == group)
            other = np.where(own, self._elsewhere[nearest], nearest)
            bound = _row_distances(rows, self.search.bank, other)
        weight, of_pool = source.weights(group)
        replacements = self._replacements[1]
        return HeldOutImage(rows, bound, group, self, weight, replacements, of_pool[added])

    @property
    def _image(self) -> np.ndarray:
        assert self.search.bank_group is not None
        return self.search.bank_group

    def _probed(self, rows: np.ndarray, group: int) -> np.ndarray:
        if self._probe is None:
            some = slice(None, None, _PROBE_STRIDE)
            self._probe = NearestNeighbors(self.search.bank[some], bank_group=self._image[some])
        return self._probe.query(rows, exclude=np.full(len(rows), group))[0][:, 0]


class PatchWeights(NamedTuple):
    """Training patches that may enter the bank, and their distance factors.

    Attributes
    ----------
    kept : ndarray of int
        Indices of the patches that may enter the bank, ascending.
    weight : ndarray of shape (n_patches,), float64
        Distance factor of each patch.
    without : callable
        ``without(group)`` returns the factors estimated without the group.
    """

    kept: np.ndarray
    weight: np.ndarray
    without: Callable[[int], np.ndarray]


Weigh = Callable[[PatchStore, np.ndarray, np.ndarray], PatchWeights]


def choose_bank(
    stream: TrainingStream,
    patches: PatchStore,
    *,
    ratio: float,
    projection_dim: int,
    rng: np.random.RandomState,
    verbose: bool,
    weigh: Weigh | None = None,
) -> MemoryBank:
    """Select a coreset from all training patches, all of them if ``ratio`` is 1.

    Reads the stream and fills ``patches``. The optional ``weigh(patches, groups, duplicate_of)``
    returns :class:`PatchWeights`; its arguments hold one entry per image.
    """
    for grids in stream:
        patches.append(grids)
    groups, n = stream.group_of, patches.n_patches
    _check_distinct_images(groups)
    starts = patches.starts
    group = np.repeat(groups, np.diff(starts))
    alike = np.ones(n)
    weighed = PatchWeights(np.arange(n), alike, lambda group: alike)
    if weigh is not None:
        with progress_callback("weights of patches", verbose):
            weighed = weigh(patches, groups, stream.duplicate_of)
    kept, weight = weighed.kept, weighed.weight

    def weights(left_out: int, picks: np.ndarray, refill: np.ndarray) -> Any:
        known = weighed.without(left_out)
        return known[picks], known[refill]

    if ratio == 1.0:
        with progress_callback("memory bank", verbose):
            bank = NearestNeighbors(patches.take(kept), bank_group=group[kept])
        none = np.empty((0, patches.n_features), np.float32)
        of_each = partial(weights, picks=kept, refill=np.empty(0, np.intp))
        sources = BankPatches(patches.rows_of, lambda i, rows: None, none, np.zeros(1), of_each)
        return MemoryBank(bank, weight[kept], 0.0, None, sources)
    with progress_callback("projection of patches", verbose):
        points = patches.project(Projection(patches.n_features, projection_dim, rng))
        if len(kept) < n:
            points = points[kept]
    n_picks = max(1, round(ratio * len(points)))
    first = rng.randint(len(points))
    chosen = CoresetWithRefills(points, group[kept], n_picks, first, verbose)
    del points
    nearest = np.full(n, -1)
    nearest[kept] = chosen.nearest
    picks, refill = kept[chosen.picks], kept[chosen.refills.refill]
    with progress_callback("memory bank", verbose):
        sources = BankPatches(
            patches.rows_of,
            lambda i, rows: nearest[starts[i] : starts[i + 1]],
            patches.take(refill),
            chosen.refills.starts,
            partial(weights, picks=picks, refill=refill),
        )
        search = NearestNeighbors(patches.take(picks), bank_group=group[picks])
    return MemoryBank(search, weight[picks], chosen.radius, chosen.elsewhere, sources)


def stream_bank(
    stream: TrainingStream,
    patches: PatchStore,
    *,
    ratio: float,
    max_patches: int,
    projection_dim: int,
    rng: np.random.RandomState,
    verbose: bool,
) -> MemoryBank:
    """Select a coreset of at most ``max_patches`` patches while reading the stream.

    A buffer holds several times ``max_patches`` candidates. When it is full, a greedy k-center
    coreset half its size replaces its contents (merge-and-reduce [1]_). The bank is a coreset of
    the final buffer. If all patches fit in the buffer, it is the bank of :func:`choose_bank`.

    References
    ----------
    .. [1] S. Har-Peled and S. Mazumdar, "On coresets for k-means and k-median clustering",
       STOC 2004.
    """
    capacity = max(_CANDIDATES * max_patches, _FEWEST_CANDIDATES)
    candidates: _Candidates | None = None
    projection: Projection | None = None
    n_samples = 0
    for grids in stream:
        if candidates is None or projection is None:
            projection = Projection(grids.n_features, projection_dim, rng)
            candidates = _Candidates(capacity, projection, verbose)
        patches.append(grids)
        groups = stream.groups_since(n_samples)
        for one, group in zip(grids.as_image_rows(), groups.tolist()):
            candidates.add(one, group)
        n_samples += len(grids)
    assert candidates is not None and projection is not None
    _check_distinct_images(stream.group_of)
    rows, group_of_row = candidates.rows, candidates.group
    if (group_of_row == group_of_row[0]).all():
        raise TooFewImagesError(
            f"max_bank_patches={max_patches} left candidates of one training image only: the "
            "others look like it everywhere. Use a larger one, or None."
        )
    n_picks = min(max(1, round(ratio * patches.n_patches)), max_patches)
    first = rng.randint(len(rows))
    chosen = CoresetWithRefills(candidates.points, group_of_row, n_picks, first, verbose)
    with progress_callback("memory bank", verbose):
        in_projection = NearestNeighbors(candidates.points[chosen.picks])
        search = NearestNeighbors(rows[chosen.picks], bank_group=group_of_row[chosen.picks])

    def nearest(i: int, image: np.ndarray) -> np.ndarray:
        distance, index = in_projection.query(projection(image), k=1)
        # Dropped patches can be farther from the bank than any candidate.
        bank.radius = max(bank.radius, float(distance.max(initial=0.0)))
        return index[:, 0]

    added = rows[chosen.refills.refill]
    alike = np.ones(n_picks), np.ones(len(added))
    bank = MemoryBank(
        search,
        alike[0],
        chosen.radius,
        chosen.elsewhere,
        BankPatches(patches.rows_of, nearest, added, chosen.refills.starts, lambda group: alike),
    )
    return bank


def grow_bank(
    old: NearestNeighbors,
    patches: PatchStore,
    groups: np.ndarray,
    *,
    n_patches: int,
    projection_dim: int,
    rng: np.random.RandomState,
    verbose: bool,
) -> tuple[MemoryBank, np.ndarray]:
    """Go on with the greedy selection from a bank, among the patches of new images.

    Parameters
    ----------
    old : NearestNeighbors
        The bank.
    patches : PatchStore
        Patches of the new images.
    groups : ndarray of shape (n_images,), int
        Group of each of them, above those of the bank.
    n_patches : int
        Size of the new bank. If the old one is as large already, all of it is selected anew.
    projection_dim, rng, verbose
        As in :func:`choose_bank`.

    Returns
    -------
    bank : MemoryBank
        With the banks that would result without each image, among the new images' patches.
    dropped : ndarray of int
        Rows of the old bank that the new one lacks.
    """
    n_old, starts = len(old.bank), patches.starts
    assert old.bank_group is not None
    group = np.concatenate([old.bank_group, np.repeat(groups, np.diff(starts))])
    if n_patches >= len(group):
        with progress_callback("memory bank", verbose):
            rows = np.concatenate([old.bank, patches.take(np.arange(patches.n_patches))])
            search = NearestNeighbors(rows, bank_group=group)
        return _bank_of_all(search, patches), np.empty(0, np.int64)
    goes_on = n_patches > n_old
    with progress_callback("projection of patches", verbose):
        projection = Projection(patches.n_features, projection_dim, rng)
        points = np.concatenate([projection(old.bank), patches.project(projection)])
    chosen = CoresetWithRefills(
        points,
        group,
        n_patches,
        np.arange(n_old) if goes_on else 0,
        verbose,
    )

    def take(index: np.ndarray) -> np.ndarray:
        rows = np.empty((len(index), patches.n_features), np.float32)
        kept = index < n_old
        rows[kept] = old.bank[index[kept]]
        rows[~kept] = patches.take(index[~kept] - n_old)
        return rows

    with progress_callback("memory bank", verbose):
        search = NearestNeighbors(take(chosen.picks), bank_group=group[chosen.picks])
        refills = take(chosen.refills.refill)
    alike = np.ones(len(chosen.picks)), np.ones(len(refills))
    sources = BankPatches(
        patches.rows_of,
        lambda i, rows: chosen.nearest[n_old + starts[i] : n_old + starts[i + 1]],
        refills,
        chosen.refills.starts,
        lambda group: alike,
    )
    bank = MemoryBank(search, alike[0], chosen.radius, chosen.elsewhere, sources)
    return bank, np.setdiff1d(np.arange(n_old), chosen.picks)


def _bank_of_all(search: NearestNeighbors, patches: PatchStore) -> MemoryBank:
    """A bank that holds all patches, and none that could replace those of an image."""
    none = np.empty((0, patches.n_features), np.float32)
    alike = np.ones(len(search.bank)), np.ones(0)
    sources = BankPatches(
        patches.rows_of, lambda i, rows: None, none, np.zeros(1, int), lambda group: alike
    )
    return MemoryBank(search, alike[0], 0.0, None, sources)


class CoresetWithRefills:
    """A coreset, its replacements when a group is left out, and each pick's nearest other pick."""

    def __init__(
        self,
        points: np.ndarray,
        group: np.ndarray,
        n_picks: int,
        first: int | np.ndarray,
        verbose: bool,
    ) -> None:
        with progress_callback("coreset", verbose) as progress:
            coreset = greedy_k_center(points, n_picks, first=first, progress=progress)
        self.picks, self.nearest, self.radius = coreset.picks, coreset.nearest, coreset.radius
        with progress_callback("leave-one-image-out banks", verbose) as progress:
            self.refills = leave_one_group_out_banks(points, coreset, group, progress=progress)
        image = group[self.picks]
        with progress_callback("neighbors in other images", verbose):
            search = NearestNeighbors(points[self.picks], bank_group=image)
            # For each pick the nearest one of another group; -1 if there is none.
            self.elsewhere = search.query(search.bank, k=1, exclude=image)[1][:, 0]


class _Candidates:
    """Buffer of at most ``capacity`` patches that represents all patches added."""

    def __init__(self, capacity: int, projection: Projection, verbose: bool) -> None:
        self._capacity, self._projection, self._verbose = capacity, projection, verbose
        self._n = 0
        self._rows = np.empty((0, projection.n_features), np.float32)
        self._points = np.empty((0, projection.n_dims), np.float32)
        self._group = np.empty(0, np.int64)

    @property
    def rows(self) -> np.ndarray:
        return self._rows[: self._n]

    @property
    def points(self) -> np.ndarray:
        return self._points[: self._n]

    @property
    def group(self) -> np.ndarray:
        return self._group[: self._n]

    def add(self, rows: np.ndarray, group: int) -> None:
        done = 0
        while done < len(rows):
            if self._n == self._capacity:
                self._reduce()
            stop = min(len(rows), done + self._capacity - self._n)
            self._append(rows[done:stop], group)
            done = stop

    def _append(self, rows: np.ndarray, group: int) -> None:
        end = self._n + len(rows)
        if end > len(self._group):  # few images may not need the whole capacity
            room = min(self._capacity, max(end, 2 * len(self._group)))
            for name in ("_rows", "_points", "_group"):
                old = getattr(self, name)
                grown = np.empty((room, *old.shape[1:]), old.dtype)
                grown[: self._n] = old[: self._n]
                setattr(self, name, grown)
        self._rows[self._n : end] = rows
        self._points[self._n : end] = self._projection(rows)
        self._group[self._n : end] = group
        self._n = end

    def _reduce(self) -> None:
        half = self._capacity // 2
        with progress_callback("coreset of the images so far", self._verbose) as progress:
            coreset = greedy_k_center(self.points, half, first=0, progress=progress)
        picks = np.sort(coreset.picks)
        for values in (self._rows, self._points, self._group):
            for start in range(0, half, 4096):  # picks ascend: nothing unread is overwritten
                some = picks[start : start + 4096]
                values[start : start + len(some)] = values[some]
        self._n = half


def _check_distinct_images(groups: np.ndarray) -> None:
    if (groups == groups[0]).all():
        raise TooFewImagesError(
            f"all {len(groups)} training samples are copies of one: there is no second good one "
            "to tell how much good ones differ."
        )


def _row_distances(rows: np.ndarray, bank: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Distance of each row to one bank row; infinite where ``index`` is -1."""
    out = np.linalg.norm(rows - bank[index], axis=1)
    # Rounded up: a bound in float32 must not fall below the distance it bounds.
    return np.where(index < 0, np.inf, out * (1 + 1e-5))
