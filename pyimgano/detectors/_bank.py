"""The memory bank: which training patches are kept, and what it is without each image.

All patches may be at hand, or only as many as fit: a bank with a stated largest size is
chosen while the images stream by, in memory that does not grow with their number.
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

__all__ = ["HeldOutImage", "MemoryBank", "PatchWeights", "choose_bank", "stream_bank"]

# Every so many rows of a bank bound the distances to all of it; a prime, so that the rows do
# not all come from the same columns of the grids.
_PROBE_STRIDE = 17
# Candidates held while images stream by: this many times the bank, but not fewer than this.
_CANDIDATES = 4
_FEWEST_CANDIDATES = 16_384


class HeldOutImage(NamedTuple):
    """A training image and the bank that would have been chosen without it.

    Attributes
    ----------
    rows : ndarray of shape (n, d), float32
        The image's patches.
    bound : ndarray of shape (n,), float64
        At least each patch's distance to that bank; infinite where nothing is known.
    group : int
        Its group, whose patches are not in that bank.
    bank : MemoryBank
        The bank of all images.
    weight : ndarray of shape (n_bank,), float64
        Factors of distances to its patches, as known without the image.
    added : ndarray of shape (r, d), float32
        Patches of other images that fill the bank up to its size.
    added_weight : ndarray of shape (r,), float64
    """

    rows: np.ndarray
    bound: np.ndarray
    group: int
    bank: MemoryBank
    weight: np.ndarray
    added: np.ndarray
    added_weight: np.ndarray

    @property
    def largest_weight(self) -> float:
        return float(max(self.weight.max(), self.added_weight.max(initial=0.0)))

    def nearest(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance of the rows ``part`` to the bank without the image, neighbor and weight."""
        search = self.bank.search
        found = search.query(self.rows[part], k=1, exclude=np.full(len(part), self.group))
        distance, index = found[0][:, 0], found[1][:, 0]
        neighbor, weight = search.bank[index], self.weight[index]
        if len(self.added):
            found = NearestNeighbors(self.added).query(self.rows[part], k=1)
            closer = found[0][:, 0] < distance
            distance = np.where(closer, found[0][:, 0], distance)
            neighbor[closer] = self.added[found[1][closer, 0]]
            weight[closer] = self.added_weight[found[1][closer, 0]]
        return distance, neighbor, weight

    def around(self, row: np.ndarray, k: int) -> np.ndarray:
        """Return the at most k rows of the bank without the image that are nearest to ``row``."""
        _, index = self.bank.search.query(row[None], k=k, exclude=[self.group])
        near = np.concatenate([self.bank.search.bank[index[0][index[0] >= 0]], self.added])
        to_it = np.linalg.norm(near.astype(np.float64) - row, axis=1)
        return near[np.argsort(to_it, kind="stable")[:k]]


class BankPatches(NamedTuple):
    """Where the images' patches are, and which bank patch each is (about) nearest to.

    Attributes
    ----------
    rows_of : callable
        ``rows_of(i)`` are the patches of image i.
    nearest : callable
        ``nearest(i, rows)`` is, for each of them, a position in the bank, or None.
    pool : ndarray of shape (r, d), float32
        Patches that fill the bank up, group after group.
    starts : ndarray of shape (g + 1,), int
        Where each group's begin in ``pool``.
    weights : callable
        ``weights(group)`` are the factors of the bank's patches and of those in ``pool``, as known
        without the group.
    """

    rows_of: Callable[[int], np.ndarray]
    nearest: Callable[[int, np.ndarray], np.ndarray | None]
    pool: np.ndarray
    starts: np.ndarray
    weights: Callable[[int], tuple[np.ndarray, np.ndarray]]


class MemoryBank:
    """A chosen bank; it lives as long as the fit.

    Attributes
    ----------
    search : NearestNeighbors
        Over the bank's rows, with the image each came from as their group.
    weight : ndarray of shape (n_bank,), float64
        Factor of distances to each.
    radius : float
        Largest distance of a training patch to the bank, in the projection.
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

    def out_of_sample(
        self,
        score: Callable[[HeldOutImage], float],
        groups: np.ndarray,
        copy_of: np.ndarray,
        verbose: bool,
    ) -> np.ndarray:
        """Score each image by ``score`` against the bank without it, ``(n_images,)``."""
        scores = np.empty(len(groups))
        with progress_callback("out-of-sample scores", verbose) as progress:
            for i, group in enumerate(groups.tolist()):
                first = copy_of[i]
                # Of equal images the bank loses all: the same bank, the same score.
                scores[i] = scores[first] if first != i else score(self._without(i, group))
                if progress is not None:
                    progress(i + 1, len(groups))
        return scores

    def _without(self, i: int, group: int) -> HeldOutImage:
        source = self._sources
        # The last groups may have no patch that was to be picked: nothing to fill up.
        last = group + 1 < len(source.starts)
        added = slice(source.starts[group], source.starts[group + 1]) if last else slice(0)
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
        return HeldOutImage(rows, bound, group, self, weight, source.pool[added], of_pool[added])

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
    """What is known of the training patches before the bank is chosen.

    Attributes
    ----------
    kept : ndarray of int
        Rows that can enter the bank, ascending.
    weight : ndarray of shape (n_patches,), float64
        Factor of distances to each row.
    without : callable
        ``without(group)`` are the factors as they would be without the group.
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
    """Choose a coreset of all patches; all of them if ``ratio`` is 1.

    ``weigh(patches, groups, copy_of)`` may say which rows can enter the bank, and give a factor
    for the distances to each row.
    """
    for grids in stream:
        patches.append(grids)
    groups, n = stream.group_of, patches.n_patches
    _check_not_one(groups)
    starts = patches.starts
    group = np.repeat(groups, np.diff(starts))
    alike = np.ones(n)
    weighed = PatchWeights(np.arange(n), alike, lambda group: alike)
    if weigh is not None:
        weighed = weigh(patches, groups, stream.duplicate_of)
    kept, weight = weighed.kept, weighed.weight

    def weights(left_out: int, picks: np.ndarray, refill: np.ndarray) -> Any:
        known = weighed.without(left_out)
        return known[picks], known[refill]

    if ratio == 1.0:
        bank = NearestNeighbors(patches.take(kept), bank_group=group[kept])
        none = np.empty((0, patches.n_features), np.float32)
        of_each = partial(weights, picks=kept, refill=np.empty(0, np.intp))
        sources = BankPatches(patches.rows_of, lambda i, rows: None, none, np.zeros(1), of_each)
        return MemoryBank(bank, weight[kept], 0.0, None, sources)
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
    """Choose a coreset of at most ``max_patches`` patches while the blocks stream by.

    A few times as many candidates are held. When there is no more room, a greedy k-center
    coreset of them, half as many, takes their place (merge and reduce [1]_); the bank is the
    coreset of the last candidates. While everything fits, it is the one that is chosen with all
    patches at hand.

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
            candidates = _Candidates(capacity, projection)
        patches.append(grids)
        groups = stream.groups_since(n_samples)
        for one, group in zip(grids.as_image_rows(), groups.tolist()):
            candidates.add(one, group)
        n_samples += len(grids)
    assert candidates is not None and projection is not None
    _check_not_one(stream.group_of)
    rows, group_of_row = candidates.rows, candidates.group
    if (group_of_row == group_of_row[0]).all():
        raise TooFewImagesError(
            f"max_bank_patches={max_patches} left candidates of one training image only: the "
            "others look like it everywhere. Use a larger one, or None."
        )
    n_picks = min(max(1, round(ratio * patches.n_patches)), max_patches)
    first = rng.randint(len(rows))
    chosen = CoresetWithRefills(candidates.points, group_of_row, n_picks, first, verbose)
    in_projection = NearestNeighbors(candidates.points[chosen.picks])

    def nearest(i: int, image: np.ndarray) -> np.ndarray:
        distance, index = in_projection.query(projection(image), k=1)
        # What candidates stood for may lie farther away than any of them.
        bank.radius = max(bank.radius, float(distance.max(initial=0.0)))
        return index[:, 0]

    added = rows[chosen.refills.refill]
    alike = np.ones(n_picks), np.ones(len(added))
    bank = MemoryBank(
        NearestNeighbors(rows[chosen.picks], bank_group=group_of_row[chosen.picks]),
        alike[0],
        chosen.radius,
        chosen.elsewhere,
        BankPatches(patches.rows_of, nearest, added, chosen.refills.starts, lambda group: alike),
    )
    return bank


class CoresetWithRefills:
    """A coreset of points, what fills it up without each group, and neighbors elsewhere."""

    def __init__(
        self, points: np.ndarray, group: np.ndarray, n_picks: int, first: int, verbose: bool
    ) -> None:
        with progress_callback("coreset", verbose) as progress:
            coreset = greedy_k_center(points, n_picks, first=first, progress=progress)
        self.picks, self.nearest, self.radius = coreset.picks, coreset.nearest, coreset.radius
        with progress_callback("banks without each image", verbose) as progress:
            self.refills = leave_one_group_out_banks(points, coreset, group, progress=progress)
        image = group[self.picks]
        search = NearestNeighbors(points[self.picks], bank_group=image)
        # For each pick the nearest one of another group; -1 if there is none.
        self.elsewhere = search.query(search.bank, k=1, exclude=image)[1][:, 0]


class _Candidates:
    """At most ``capacity`` patches that stand for all that were added."""

    def __init__(self, capacity: int, projection: Projection) -> None:
        self._capacity, self._projection = capacity, projection
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
        picks = np.sort(greedy_k_center(self.points, half, first=0).picks)
        for values in (self._rows, self._points, self._group):
            for start in range(0, half, 4096):  # picks ascend: nothing unread is overwritten
                some = picks[start : start + 4096]
                values[start : start + len(some)] = values[some]
        self._n = half


def _check_not_one(groups: np.ndarray) -> None:
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
