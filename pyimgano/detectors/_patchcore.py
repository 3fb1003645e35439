"""PatchCore: distance of each patch to the nearest patch of a good image."""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from pyimgano._kernels.neighbors import NearestNeighbors
from pyimgano._training import TrainingStream
from pyimgano.detectors._bank import (
    HeldOutImage,
    MemoryBank,
    check_bank,
    choose_bank,
    grow_bank,
    stream_bank,
)
from pyimgano.detectors._incremental import BaseIncrementalPatchDetector
from pyimgano.detectors._nearest_normal import NearestNormalMixin
from pyimgano.detectors._patches import PatchStore
from pyimgano.grids import PatchGrids
from pyimgano.utils._state import Array, MayLack, Number, Object, Sizes, State, fail

__all__ = ["PatchCoreDetector"]

# Patches of each training image that are kept for partial_fit, at most.
_N_KEPT = 32


class PatchCoreDetector(NearestNormalMixin, BaseIncrementalPatchDetector):
    """PatchCore: a memory bank of good patches, thinned to a coreset, and its nearest neighbors.

    Each patch of an image is as anomalous as it is far from the nearest patch in the bank. The
    image's score is that of its worst patch, lowered where the bank is sparse around that
    patch's neighbor (the paper's re-weighting). The bank is a greedy k-center coreset of all
    training patches, chosen on a random projection, so that every good patch has a
    representative nearby.

    On feature rows, each row is one patch: a k-NN novelty detector on a coreset.

    Parameters
    ----------
    features : str or transformer, default="wide_resnet50_2"
        Name of a feature step (see :func:`pyimgano.features.make_features`) or a transformer
        that returns :class:`~pyimgano.grids.PatchGrids`. ``"filterbank"`` needs no weights.
        Not used when fitted on patch grids or feature rows.
    coreset_ratio : float in (0, 1], default=0.1
        Share of the training patches kept in the bank. 0.01 is ten times faster to search and
        nearly as accurate on most data.
    max_bank_patches : int or None, default=None
        Largest size of the bank. A number also bounds the memory that fitting needs to about
        four times as many patches, however many training images there are; see the notes.
    n_neighbors : int, default=9
        Bank patches around the nearest one that enter the re-weighting; 1 leaves it out.
    projection_dim : int, default=128
        Dimensions of the random projection that the coreset is chosen on.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution
        the features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged.
    random_state : int, RandomState or None, default=0
        Seeds the projection and the first pick.
    verbose : bool, default=False
        Show a progress bar where fitting takes more than two seconds.

    Attributes
    ----------
    bank_ : ndarray of shape (n_bank, n_features), float32
        The coreset.
    bank_image_ : ndarray of shape (n_bank,), int
        Training image each bank patch came from (of equal images, the first).
    coreset_radius_ : float
        Largest distance of a training patch to the bank, in the projection; after
        ``partial_fit`` an upper bound of it.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image against a bank of the same size chosen without it.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.
    features_ : transformer
        The fitted feature step, when fitted on images.
    n_features_in_ : int
        Length of the feature vectors, when fitted on patch grids or rows.

    Notes
    -----
    ``training_scores_`` are those of a leave-one-image-out bank: the image's own patches are
    taken out of the bank, and the greedy selection goes on among the other images' patches
    until the bank has its size again. Without the refill the holes that the image's patches
    leave make every image look unlike the others. All of it costs about as much as one more
    coreset.

    An image that consists of something else than good images as a whole, such as a black, white
    or noisy one, is not left to the bank alone, which may hold every one of its patches: where a
    part lies before a white table, a white image has no patch that good images lack. If its
    average patch is more than twice as far from each training image's as any of those from the
    others, and than half the spread of patches within an image, its score is at least twice the
    highest training score, and so is its whole map, unless the bank gave a score as high by itself.
    All other images keep the paper's scores, among them those that lack a part which fills little
    of the image.

    Choosing m of n patches costs O(n m) distances at worst; the triangle inequality spares
    most of them, without changing a pick. Scoring costs O(m) distances per patch.

    While fitting, all training patches lie in a temporary file of ``4 * n_patches *
    n_features`` bytes in the folder of :mod:`tempfile` (set ``TMPDIR`` to choose it). In memory are
    their projections and some hundred bytes for each. With ``max_bank_patches`` only ``4 *
    max_bank_patches`` (at least 16 384) candidates are, and each time they have filled up, a
    coreset of half of them remains. As long as all patches fit, the bank is the one chosen
    with all at hand; beyond that it covers them less evenly, which ``coreset_radius_`` tells.

    :meth:`partial_fit` goes on with the greedy selection from the bank, among the new patches,
    until the bank has its share of all patches again; with a bank of ``max_bank_patches`` already,
    it selects anew among the bank and the new patches. ``coreset_radius_`` is then an upper bound.
    For the scores of earlier images the model keeps, from ``fit`` on, the up to 32 patches of each
    that are farthest from the bank without it (fewer with ``max_bank_patches``): ``128 *
    n_features`` bytes an image, of a feature row the row itself. Their distances are those of then,
    or those to what the bank would have gained since without the image. A score is too low if
    another patch has become the worst, and its re-weighting may miss neighbors that the bank has
    no more.

    References
    ----------
    .. [1] K. Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PatchCoreDetector
    >>> from pyimgano.features import FilterBankFeatures
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(12, 64, 64, 3)).astype(np.uint8)
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(good)
    >>> bad = good[:1] // 2 + rng.randint(90, 110, size=(1, 64, 64, 3)).astype(np.uint8) // 2
    >>> bad[0, 20:30, 20:30] = 255
    >>> detector.predict(bad)
    array([-1])
    >>> detector.anomaly_map(bad).shape
    (1, 64, 64)
    """

    _registry_name = "vision_patchcore"
    _family = "memory bank"
    _tags: tuple[str, ...] = ("any pose",)
    _parameter_constraints: dict = {
        **BaseIncrementalPatchDetector._parameter_constraints,
        "coreset_ratio": [Interval(Real, 0, 1, closed="right")],
        "max_bank_patches": [Interval(Integral, 1, None, closed="left"), None],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["boolean"],
    }
    _fitted_state = {
        "_search": Object("NearestNeighbors"),
        "_bank_weight": Array("float64", "bank", low=0.0),
        "coreset_radius_": Number(0),
        "_n_patches": MayLack(Number(1, whole=True)),
        "_kept_rows": MayLack(Array("float32", "kept patches", None)),
        "_kept_distance": MayLack(Array("float64", "kept patches", low=0.0)),
        "_kept_sample": MayLack(Array("int64", "kept patches", low=0, below="kept samples")),
    }

    _for_more = (
        *BaseIncrementalPatchDetector._for_more,
        "_kept_distance",
        "_kept_sample",
        "_n_patches",
    )

    # A subclass that has to see all patches at once does not take it.
    max_bank_patches: int | None = None
    # What a subclass does to the patches before the bank is chosen, see choose_bank.
    _weigh: Any = None

    @classmethod
    def _width(cls, state: State) -> int:
        return int(state["_search"].bank.shape[1])

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        check_bank(cls.__name__, state["_search"], state.get("n_features_in_"))
        if len(state["_search"].bank) != sizes["bank"]:
            fail(f"{cls.__name__}._bank_weight", "does not go with the bank")
        kept = state.get("_kept_rows")
        if kept is not None:
            of_samples = state["_kept_sample"]
            if kept.shape[1] != cls._width(state):
                fail(f"{cls.__name__}._kept_rows", "do not go with the bank")
            if not np.array_equal(np.unique(of_samples), np.arange(len(state["_kept_group"]))):
                fail(f"{cls.__name__}._kept_sample", "leaves out a sample")
            if (np.diff(of_samples) < 0).any():
                fail(f"{cls.__name__}._kept_sample", "is not in order")

    def __init__(
        self,
        features: Any = "wide_resnet50_2",
        *,
        coreset_ratio: float = 0.1,
        max_bank_patches: int | None = None,
        n_neighbors: int = 9,
        projection_dim: int = 128,
        smoothing_sigma: float = 4.0,
        contamination: str | float = "auto",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.coreset_ratio = coreset_ratio
        self.max_bank_patches = max_bank_patches
        self.n_neighbors = n_neighbors
        self.projection_dim = projection_dim
        self.smoothing_sigma = smoothing_sigma
        self.contamination = contamination
        self.random_state = random_state
        self.verbose = verbose

    @property
    def bank_(self) -> np.ndarray:
        return self._search.bank

    @property
    def bank_image_(self) -> Any:
        return self._search.bank_group

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        options: dict[str, Any] = {
            "ratio": self.coreset_ratio,
            "projection_dim": self.projection_dim,
            "rng": check_random_state(self.random_state),
            "verbose": self.verbose,
        }
        with PatchStore() as patches:
            if self.max_bank_patches is None:
                bank = choose_bank(stream, patches, weigh=self._weigh, **options)
            else:
                options["max_patches"] = self.max_bank_patches
                bank = stream_bank(stream, patches, **options)
            self._search, self._bank_weight = bank.search, bank.weight
            kept = self._kept_of(stream.n_samples)
            groups, copy_of = stream.group_of, stream.duplicate_of
            scores = bank.out_of_sample(
                partial(self._score_without, kept=kept), groups, copy_of, self.verbose
            )
            n_patches = patches.n_patches
        self.coreset_radius_ = bank.radius  # known for certain once every patch has been met
        if kept is not None:
            self._n_patches = n_patches
            self._image_groups = stream.image_groups
            self._kept_group = groups[copy_of == np.arange(len(copy_of))]
            self._kept_rows, self._kept_distance, self._kept_sample = kept.finish()
        return scores

    def _kept_of(self, n_samples: int) -> _KeptPatches | None:
        if not self._learns_in_parts:
            return None
        most = self.max_bank_patches
        share = _N_KEPT if most is None else max(1, most // n_samples)
        return _KeptPatches(min(_N_KEPT, share))

    def _fit_more(self, stream: TrainingStream) -> tuple[np.ndarray, np.ndarray]:
        n_known = len(self.training_scores_)
        with PatchStore() as patches:
            n_read, n_patches, samples = 0, self._n_patches, []
            for grids in stream:
                new = np.flatnonzero(stream.groups_since(n_read) >= n_known)
                if len(new):
                    patches.append(grids if len(new) == len(grids) else grids[new])
                samples.append(n_read + new)
                n_read += len(grids)
                n_patches += len(grids.rows)
            self._n_patches = n_patches
            self._image_groups = np.concatenate([self._image_groups, stream.image_groups])
            fresh = np.concatenate(samples)
            scores = np.zeros(stream.n_samples)
            lost, kept = 0.0, self._kept_of(stream.n_samples + len(self._kept_group))
            assert kept is not None
            if not len(fresh):  # copies of known images: nothing new to learn
                return self._score_kept(None, lost), scores
            groups = stream.group_of[fresh]
            copy_of = np.searchsorted(fresh, stream.duplicate_of[fresh])
            wanted = max(len(self._search.bank), round(self.coreset_ratio * n_patches))
            before = self._search.bank
            bank, dropped = grow_bank(
                self._search,
                patches,
                groups,
                n_patches=min(wanted, self.max_bank_patches or wanted),
                projection_dim=self.projection_dim,
                rng=check_random_state(self.random_state),
                verbose=self.verbose,
            )
            self._search, self._bank_weight = bank.search, bank.weight
            if len(dropped):
                lost = float(bank.search.query(before[dropped])[0].max())
            # An upper bound, because the old images' patches are no longer there.
            self.coreset_radius_ = max(self.coreset_radius_ + lost, bank.radius)
            old = self._score_kept(bank, lost)
            scores[fresh] = bank.out_of_sample(
                partial(self._score_without, kept=kept), groups, copy_of, self.verbose
            )
        rows, distance, of_sample = kept.finish()
        n_kept = len(self._kept_group)
        self._kept_rows = np.concatenate([self._kept_rows, rows])
        self._kept_distance = np.concatenate([self._kept_distance, distance])
        self._kept_sample = np.concatenate([self._kept_sample, n_kept + of_sample])
        first = copy_of == np.arange(len(copy_of))
        self._kept_group = np.concatenate([self._kept_group, groups[first]])
        return old, scores

    def _score_kept(self, bank: MemoryBank | None, lost: float) -> np.ndarray:
        """Scores of earlier samples by the bank without their image, from the patches kept.

        The bank without an image was that of then, refilled, and has grown by what the bank has
        grown by: a distance is the old one or that to a patch of the bank. ``lost`` is how much
        farther it may have become where the bank was thinned.
        """
        groups = self._kept_group[self._kept_sample]
        to_bank, nearest = self._search.query(self._kept_rows, k=1, exclude=groups)
        distance = np.minimum(self._kept_distance + lost, to_bank[:, 0])
        starts = np.searchsorted(self._kept_sample, np.arange(len(self._kept_group) + 1))
        if bank is not None:
            for group, a, b in zip(self._kept_group.tolist(), starts[:-1], starts[1:]):
                refills = bank.refills_of(group)
                if len(refills):
                    to_refills, _ = NearestNeighbors(refills).query(self._kept_rows[a:b])
                    distance[a:b] = np.minimum(distance[a:b], to_refills[:, 0])
        worst = _row_of_max(distance, starts)
        scores = distance[worst]
        self._kept_distance = distance
        b = min(self.n_neighbors, len(self.bank_))
        if b == 1:
            return scores
        of_worst = nearest[worst, 0]
        left_out = np.where(of_worst < 0, -1, self._kept_group)
        around, index = self._search.query(self.bank_[of_worst], k=b, exclude=left_out)
        to_neighbors = np.linalg.norm(
            self._kept_rows[worst][:, None, :].astype(np.float64) - self.bank_[index], axis=2
        )
        to_neighbors[np.isinf(around)] = -np.inf
        to_neighbors[:, 0] = np.minimum(to_neighbors[:, 0], scores)  # a patch that is not kept
        weight = _density_weight(scores, to_neighbors)
        return scores * np.where(np.isfinite(around).sum(axis=1) > 1, weight, 1.0)

    def _score(self, block: PatchGrids, train_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A bank that stems from one image alone cannot do without it.
        left_out = np.where(train_group == self._only_image(), -1, train_group)
        exclude = np.repeat(left_out, np.diff(block.starts))
        found = self._search.query(block.rows, k=1, exclude=exclude)
        distance, nearest = found[0][:, 0], found[1][:, 0]
        anomaly = distance * self._bank_weight[nearest]
        worst = _row_of_max(anomaly, block.starts)
        scores = anomaly[worst]
        b = min(self.n_neighbors, len(self.bank_))
        if b > 1:
            around, index = self._search.query(self.bank_[nearest[worst]], k=b, exclude=left_out)
            to_neighbors = np.linalg.norm(
                block.rows[worst][:, None, :].astype(np.float64) - self.bank_[index], axis=2
            )
            to_neighbors[np.isinf(around)] = -np.inf  # fewer than b are left: no such one
            weight = _density_weight(distance[worst], to_neighbors)
            # Of one neighbor alone nothing tells how dense the bank is there.
            scores = scores * np.where(np.isfinite(around).sum(axis=1) > 1, weight, 1.0)
        return anomaly, scores

    def _only_image(self) -> int:
        first = int(self.bank_image_[0])
        return first if (self.bank_image_ == first).all() else -2

    def _score_without(self, image: HeldOutImage, kept: _KeptPatches | None) -> float:
        """Score of a training image against the bank chosen without it.

        The score needs the image's worst patch only. A patch's bound, times the largest weight,
        is at least its anomaly, so patches are measured in the order of these bounds until no
        bound is left above the worst found.
        """
        bound = image.bound * image.largest_weight
        order = np.argsort(-bound, kind="stable")
        worst, worst_distance, worst_row, neighbor = -1.0, 0.0, -1, image.rows[0]
        done, step = 0, 16
        measured = []
        while done < len(order) and bound[order[done]] > worst:
            part = order[done : done + step]
            distance, nearest, weight = image.nearest(part)
            measured.append(distance)
            anomaly = distance * weight
            at = int(np.argmax(anomaly))
            if anomaly[at] > worst:
                worst, worst_distance = float(anomaly[at]), float(distance[at])
                worst_row, neighbor = int(part[at]), nearest[at]
            done, step = done + len(part), 2 * step
        if kept is not None:
            kept.add(image, order, np.concatenate(measured))
        b = min(self.n_neighbors, len(self.bank_))
        if b == 1:
            return worst
        around = image.around(neighbor, b)
        if len(around) < 2:
            return worst  # nothing to tell how dense the bank is there
        to_neighbors = np.linalg.norm(image.rows[worst_row].astype(np.float64) - around, axis=1)
        return worst * float(_density_weight(np.array([worst_distance]), to_neighbors[None])[0])


class _KeptPatches:
    """Collects the patches of each training sample that lie farthest from the bank without it.

    Parameters
    ----------
    n_most : int
        Patches of each sample, at most.
    """

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._rows: list[np.ndarray] = []
        self._distance: list[np.ndarray] = []

    def add(self, image: HeldOutImage, order: np.ndarray, measured: np.ndarray) -> None:
        """Add the next sample.

        ``measured`` are distances of its first patches in ``order``, that of their bounds.
        """
        k = min(self._n_most, len(order))
        bound = image.bound[order]
        while len(measured) < len(order) and (
            len(measured) < k or bound[len(measured)] > np.partition(measured, -k)[-k]
        ):
            part = order[len(measured) : len(measured) + max(k, len(measured))]
            measured = np.concatenate([measured, image.nearest(part)[0]])
        top = np.argsort(-measured, kind="stable")[:k]
        self._rows.append(image.rows[order[top]])
        self._distance.append(measured[top])

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Patches of all samples, their distances, and the sample that each is of."""
        counts = [len(distance) for distance in self._distance]
        return (
            np.concatenate(self._rows),
            np.concatenate(self._distance),
            np.repeat(np.arange(len(counts)), counts),
        )


def _row_of_max(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Row of each image's largest value, ``(n_images,)``; the first of equals."""
    return np.array([a + np.argmax(values[a:b]) for a, b in zip(starts[:-1], starts[1:])])


def _density_weight(distance: np.ndarray, to_neighbors: np.ndarray) -> np.ndarray:
    """The paper's weight, one minus a soft maximum, ``(n,)``.

    ``distance (n,)`` is that of the worst patch to its nearest bank patch, ``to_neighbors
    (n, b)`` are those to the bank patches around that one, itself among them.
    """
    with np.errstate(over="ignore"):  # a neighbor far away: the weight is 1
        return 1.0 - 1.0 / np.exp(to_neighbors - distance[:, None]).sum(axis=1)
