"""MuSc: the images of an unlabeled set score each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from pyimgano._kernels.coreset import greedy_k_center
from pyimgano._kernels.neighbors import NearestNeighbors
from pyimgano._scoring import robust_threshold
from pyimgano._training import TrainingStream
from pyimgano.detectors._patch_base import BasePatchDetector
from pyimgano.detectors._patches import PatchStore, Projection
from pyimgano.exceptions import ParameterError, TooFewImagesError
from pyimgano.grids import PatchGrids
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._state import Array, ListOf, Maybe, Object, Sizes, State, fail
from pyimgano.utils._threads import one_blas_thread

__all__ = ["MutualScoringDetector"]

# Images whose distances are averaged at least, so that two with one defect do not pass.
_FEWEST = 3
# Patches of training images that are scored at a time.
_BLOCK = 1024


class MutualScoringDetector(BasePatchDetector):
    """MuSc: the images of an unlabeled set score each other, so the set may hold defects.

    A patch of a good image has a similar one in most other images of the set; a patch of a defect
    has not, even if a few other images show the same kind of defect. For each patch, the distance
    to the nearest patch of every *other* image is taken, and the smallest 3 % of these
    distances are averaged. This is done at several sizes of the patch's neighborhood, and
    averaged again. The image's score is that of its worst patch.

    ``fit_predict`` of a folder of images of which nobody has said which are good tells the ones
    that do not belong, and ``training_scores_`` ranks them.

    On feature rows, each row is one patch: the average distance to the nearest 3 % of the rows.

    Parameters
    ----------
    features : str or transformer, default="wide_resnet50_2"
        Name of a feature step (see :func:`pyimgano.features.make_features`) or a transformer
        that returns :class:`~pyimgano.grids.PatchGrids`. ``"filterbank"`` needs no weights.
        Not used when fitted on patch grids or feature rows.
    neighborhoods : sequence of int, default=(1, 3, 5)
        Sides of the neighborhoods, in patches, over which features are averaged; odd numbers.
        Large ones see large defects. Each costs the same time.
    nearest_fraction : float in (0, 1], default=0.03
        Share of the other images, those with the nearest patches, whose distances are averaged;
        at least three images. A defect that more of the images have passes as good, and so does a
        good variant; one that fewer have looks like a defect. The paper's 0.3 is for sets of
        which most images are defective, and flags good variants in others.
    max_references : int, default=200
        Largest number of images that all are compared with. From a larger set so many are drawn
        at random. Parts in any pose need more than parts in one, which do with 50.
    coreset_ratio : float in (0, 1], default=0.1
        Share of the patches of each reference image that others are compared with, chosen as in
        :class:`PatchCoreDetector`. The paper takes all, in ten times the memory.
    projection_dim : int or None, default=128
        Dimensions of the random projection in which distances are taken, which changes them by
        about 6 %; None takes them between the features themselves.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution
        the features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold three robust standard deviations above the median of the
        training images' scores, whatever share of them is defective; a float has that share of
        the training images flagged.
    random_state : int, RandomState or None, default=0
        Seeds the projection and the choice of the reference images.
    verbose : bool, default=False
        Show a progress bar where fitting takes more than two seconds.

    Attributes
    ----------
    references_ : ndarray of shape (n_references,), int
        Training images that all images are compared with (of equal images, the first).
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image by the other ones: it is never compared with itself
        or its copies.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.
    features_ : transformer
        The fitted feature step, when fitted on images.
    n_features_in_ : int
        Length of the feature vectors, when fitted on patch grids or rows.

    Raises
    ------
    ValueError
        If ``neighborhoods`` holds something else than odd numbers.
    TooFewImagesError
        If all images are copies of one.

    Notes
    -----
    A new image is compared with the same reference images as the training images, and its score
    depends on it and on them alone, not on other new images. Since an average over a *share* of
    the references is taken, scores of training images, which have one reference less where they
    are one themselves, are on the same scale.

    Equal images are one: they are not compared with each other, so a defective image and its copy
    do not vouch for each other.

    The threshold by ``"auto"`` allows for a set of which almost half is defective. If all are
    good, it flags some of them all the same, the ones to look at first. Where the false-positive
    rate matters, put the threshold by good images: :class:`~pyimgano.calibration.\
ThresholdCalibrator`.

    Fitting compares ``n_images * max_references`` pairs of images. A pair of ``t`` patches each
    takes ``coreset_ratio * t ** 2 * projection_dim`` multiplications for each neighborhood; so do
    each new image and reference. The model keeps ``max_references * coreset_ratio * t *
    projection_dim`` numbers of 4 bytes for each neighborhood: 31 MB in all at 1 024 patches.

    The paper weighs an image's score anew by those of the images most like it, which is left out
    here.

    The paper averages scores of four layers of a vision transformer. Here the layers are joined
    by the feature step, as for all detectors. The paper divides a large set into groups whose
    images are compared with each other; here all are compared with the same references, as new
    images are.

    Images that consist of something else than the training images as a whole, such as black,
    white or noisy ones, are flagged by their average patch, as by
    :class:`PatchCoreDetector`, see its Notes.

    References
    ----------
    .. [1] X. Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with
       Mutual Scoring of the Unlabeled Images", ICLR 2024.

    Examples
    --------
    Two of 22 images have the same defect, and nobody has said which.

    >>> import numpy as np
    >>> from pyimgano.detectors import MutualScoringDetector
    >>> from pyimgano.features import FilterBankFeatures
    >>> rng = np.random.RandomState(0)
    >>> images = rng.randint(90, 110, size=(22, 64, 64, 3)).astype(np.uint8)
    >>> images[[4, 13], 20:30, 20:30] = 255
    >>> detector = MutualScoringDetector(FilterBankFeatures(resize=64))
    >>> np.flatnonzero(detector.fit_predict(images) == -1)
    array([ 4, 13])
    """

    _registry_name = "vision_musc"
    _family = "memory bank"
    _tags = ("any pose", "noisy training")
    _parameter_constraints: dict = {
        **BasePatchDetector._parameter_constraints,
        "neighborhoods": [tuple, list, np.ndarray],
        "nearest_fraction": [Interval(Real, 0, 1, closed="right")],
        "max_references": [Interval(Integral, 2, None, closed="left")],
        "coreset_ratio": [Interval(Real, 0, 1, closed="right")],
        "projection_dim": [Interval(Integral, 1, None, closed="left"), None],
        "verbose": ["boolean"],
    }
    # The neighborhoods take the place of the network's own.
    _feature_defaults = {"layers": None, "pool": 1}

    _fitted_state = {
        "references_": Array("int64", "references", low=0),
        "_basis": Maybe(Array("float32", "features", "dims")),
        # For each neighborhood, a search of each reference image's patches.
        "_searches": ListOf(ListOf(Object("NearestNeighbors"), least=2), least=1),
    }

    @classmethod
    def _width(cls, state: State) -> int:
        if state["_basis"] is not None:
            return len(state["_basis"])
        return int(state["_searches"][0][0].bank.shape[1])

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        width = cls._width(state)
        if state.get("n_features_in_") not in (None, width):
            fail(f"{cls.__name__}._basis", "does not go with n_features_in_")
        if len(state["_searches"]) != len(state["_parameters_at_fit"]["neighborhoods"]):
            fail(f"{cls.__name__}._searches", "do not go with neighborhoods")
        if len(np.unique(state["references_"])) != sizes["references"]:
            fail(f"{cls.__name__}.references_", "holds an image twice")
        dims = width if state["_basis"] is None else state["_basis"].shape[1]
        for searches in state["_searches"]:
            if len(searches) != sizes["references"]:
                fail(f"{cls.__name__}._searches", "do not go with references_")
            if any(one.bank.shape[1] != dims or not len(one.bank) for one in searches):
                fail(f"{cls.__name__}._searches", f"hold patches of other than {dims} numbers")

    def __init__(
        self,
        features: Any = "wide_resnet50_2",
        *,
        neighborhoods: Sequence[int] = (1, 3, 5),
        nearest_fraction: float = 0.03,
        max_references: int = 200,
        coreset_ratio: float = 0.1,
        projection_dim: int | None = 128,
        smoothing_sigma: float = 4.0,
        contamination: str | float = "auto",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.neighborhoods = neighborhoods
        self.nearest_fraction = nearest_fraction
        self.max_references = max_references
        self.coreset_ratio = coreset_ratio
        self.projection_dim = projection_dim
        self.smoothing_sigma = smoothing_sigma
        self.contamination = contamination
        self.random_state = random_state
        self.verbose = verbose

    def _validate_params(self) -> None:
        super()._validate_params()
        odd = [n for n in self.neighborhoods if isinstance(n, Integral) and n > 0 and n % 2 == 1]
        if len(odd) != len(self.neighborhoods) or not odd:
            raise ParameterError(
                f"neighborhoods={self.neighborhoods!r} of {type(self).__name__} must hold odd "
                "numbers of patches, such as (1, 3, 5): a neighborhood has a patch in its middle."
            )

    def _auto_threshold(self, training_scores: np.ndarray) -> float:
        # A high quantile of them would be the score of a defect.
        return robust_threshold(training_scores)

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        rng = check_random_state(self.random_state)
        projection = None
        with PatchStore() as patches:
            for grids in stream:
                if projection is None:
                    n = grids.n_features
                    projection = Projection(n, self.projection_dim or n, rng)
                    self._basis = projection.basis
                patches.append(self._projected(grids))
            self.references_ = self._choose_references(stream.group_of, rng)
            self._searches = self._banks(patches, stream)
            scores = np.empty(len(stream.group_of))
            with progress_callback("mutual scores", self.verbose) as progress:
                for part in _parts(patches.starts):
                    block = _images(patches, part)
                    values = self._mutual_scores(block, stream.group_of[part])
                    scores[part] = block.image_max(values)
                    if progress is not None:
                        progress(part.stop, len(scores))
        return scores

    def _choose_references(self, groups: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        different = np.unique(groups)
        if len(different) < 2:
            raise TooFewImagesError(
                f"all {len(groups)} training samples are copies of one: there is no second image "
                "to compare it with."
            )
        if len(different) > self.max_references:
            different = rng.choice(different, self.max_references, replace=False)
        return np.sort(different).astype(np.int64)

    def _banks(self, patches: PatchStore, stream: TrainingStream) -> list[list[NearestNeighbors]]:
        """For each neighborhood, a search of the patches of each reference image."""
        groups, first_of = stream.group_of, stream.duplicate_of
        searches: list[list[NearestNeighbors]] = [[] for _ in self.neighborhoods]
        with progress_callback("reference images", self.verbose) as progress:
            for done, group in enumerate(self.references_.tolist()):
                # An image, or its tiles.
                own = np.flatnonzero((groups == group) & (first_of == np.arange(len(groups))))
                grids = [_images(patches, slice(i, i + 1)) for i in own.tolist()]
                for size, found in zip(self.neighborhoods, searches):
                    found.append(self._bank([_averaged(one, size) for one in grids]))
                if progress is not None:
                    progress(done + 1, len(self.references_))
        return searches

    def _bank(self, rows_of_tiles: list[np.ndarray]) -> NearestNeighbors:
        rows = np.concatenate(rows_of_tiles)
        n_picks = max(1, round(self.coreset_ratio * len(rows)))
        if n_picks < len(rows):
            rows = rows[np.sort(greedy_k_center(rows, n_picks, first=0).picks)]
        return NearestNeighbors(rows)

    def _score(self, block: PatchGrids, train_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = self._mutual_scores(self._projected(block), train_group)
        return values, block.image_max(values)

    def _projected(self, block: PatchGrids) -> PatchGrids:
        if self._basis is None:
            return block
        with one_blas_thread, np.errstate(over="ignore", invalid="ignore"):  # refused by searches
            # Image by image: the last bits of a product depend on its shape.
            rows = [rows @ self._basis for rows in block.as_image_rows()]
        return block.with_rows(np.concatenate(rows))

    def _mutual_scores(self, block: PatchGrids, left_out: np.ndarray) -> np.ndarray:
        """Score of each patch of a projected block, ``(n_patches,)``.

        ``left_out (n_images,)`` are the groups of training images with which the images are not
        compared.
        """
        own = (left_out[:, None] == self.references_)[block.image_of_row]
        n_others = len(self.references_) - own.sum(axis=1)
        n_nearest = np.maximum(_FEWEST, np.round(self.nearest_fraction * n_others))
        n_nearest = np.minimum(n_nearest, n_others)[:, None]
        counts = np.arange(len(self.references_)) < n_nearest
        total = np.zeros(len(block.rows))
        for size, searches in zip(self.neighborhoods, self._searches):
            rows = _averaged(block, size)
            distance = np.empty((len(rows), len(searches)))
            for j, search in enumerate(searches):
                distance[:, j] = search.query(rows)[0][:, 0]
            distance[own] = np.inf
            distance.sort(axis=1)
            total += np.where(counts, distance, 0.0).sum(axis=1) / n_nearest[:, 0]
        return total / len(self._searches)


def _parts(starts: np.ndarray) -> Iterator[slice]:
    """Consecutive images, as many at a time as have about ``_BLOCK`` patches."""
    first, n_images = 0, len(starts) - 1
    while first < n_images:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _BLOCK, "right")) - 1)
        yield slice(first, last)
        first = last


def _images(patches: PatchStore, part: slice) -> PatchGrids:
    """Some consecutive images of a store."""
    rows = [patches.rows_of(i) for i in range(part.start, part.stop)]
    return patches.geometry[part].with_rows(np.concatenate(rows))


def _averaged(block: PatchGrids, size: int) -> np.ndarray:
    """Average of each patch's neighborhood, as far as it lies in the grid and in the region."""
    if size == 1:
        return block.rows
    return np.concatenate(
        [
            rows if len(rows) == 1 else _box_means(rows, block.mask_of(i), shape, size)
            for i, (rows, shape) in enumerate(zip(block.as_image_rows(), block.grid_shapes))
        ]
    )


def _box_means(rows: np.ndarray, inside: np.ndarray, shape: np.ndarray, size: int) -> np.ndarray:
    grid = np.zeros((len(inside), rows.shape[1] + 1), np.float32)
    grid[inside, :-1] = rows
    grid[inside, -1] = 1.0  # the sums of which are how many patches there are
    sums = _box_sums(_box_sums(grid.reshape(*shape, -1), size, 0), size, 1)
    sums = sums.reshape(grid.shape)[inside]
    return sums[:, :-1] / sums[:, -1:]


def _box_sums(grid: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Sums over ``size`` places along an axis, with zeros around the grid."""
    n = grid.shape[axis]
    margin = [(0, 0)] * grid.ndim
    margin[axis] = (size // 2, size // 2)
    padded = np.moveaxis(np.pad(grid, margin), axis, 0)
    total = padded[:n].copy()
    for k in range(1, size):
        total += padded[k : k + n]
    return np.moveaxis(total, 0, axis)
