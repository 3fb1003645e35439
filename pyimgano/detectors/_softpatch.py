"""SoftPatch: PatchCore on training images of which some are defective."""

from __future__ import annotations

from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.neighbors import NearestNeighbors
from pyimgano.detectors._bank import PatchWeights
from pyimgano.detectors._patchcore import PatchCoreDetector
from pyimgano.detectors._patches import PatchStore
from pyimgano.exceptions import ParameterError, TooFewImagesError
from pyimgano.utils._state import Array, MayLack, OneOf
from pyimgano.utils._threads import even_slices, map_in_threads, n_threads, one_blas_thread

__all__ = ["SoftPatchDetector"]

# Added to the diagonal of a covariance, as a share of the position's mean variance.
_RIDGE = 0.01
# Equal patches have no spread of their own; this share of the position's mean stands in.
_SMALLEST = 1e-3


class SoftPatchDetector(PatchCoreDetector):
    """SoftPatch: PatchCore that learns from images of which some are defective.

    Each training patch is compared with the patches at the same position of all other
    training images and gets an outlier score. The worst ones never enter the bank. The score of
    those that do stays with them as a weight: distances to a bank patch that looks like noise
    count more. The image's score is that of its worst patch, lowered where the bank is sparse
    as in PatchCore.

    For parts that lie still, at least roughly: noise is what is unusual at its position. Where
    parts are turned at random, good patches are unusual too and are lost with the noise;
    PatchCore does better there even with some defective training images. On feature rows there
    is one position: a k-NN novelty detector for tables with outliers.

    Parameters
    ----------
    features : str or transformer, default="wide_resnet50_2"
        Name of a feature step (see :func:`pyimgano.features.make_features`) or a transformer
        that returns :class:`~pyimgano.grids.PatchGrids` of one shape for all training
        images. ``"filterbank"`` needs no weights. Not used when fitted on patch grids or rows.
    discriminator : {"lof", "nearest", "gaussian"}, default="lof"
        The outlier score of a patch among those of its position: the local outlier factor
        [2]_, the distance to the nearest, or the Mahalanobis distance.
    lof_neighbors : int, default=6
        Neighbors of the local outlier factor; all others if there are fewer.
    drop_ratio : float in [0, 1), default=0.15
        Share of the training patches, those of the highest weights, that are left out. 0 leaves
        out none.
    coreset_ratio : float in (0, 1], default=0.1
        Share of the remaining patches kept in the bank.
    n_neighbors : int, default=9
        Bank patches around the nearest one that enter the re-weighting of the image's score; 1
        leaves it out.
    projection_dim : int, default=128
        Dimensions of the random projection that the coreset is chosen on.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution
        the features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged. Defective
        training images have high scores, so give the share of them, if known, or more.
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
    bank_weight_ : ndarray of shape (n_bank,), float64
        Factor of the distances to each bank patch.
    patch_weight_ : ndarray of shape (n_images, n_positions), float32
        Weight of each training patch, position by position and row by row in the image (of
        positions inside ``roi_mask_``). High values show what the training images have that
        the others have not.
    dropped_ : ndarray of shape (n_images, n_positions), bool
        Training patches that were left out.
    coreset_radius_ : float
        Largest distance of a remaining training patch to the bank, in the projection.
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

    Raises
    ------
    ValueError
        If training images have grids of different shapes: they have no common positions.
    TooFewImagesError
        If what is left after dropping stems from one image alone.

    Notes
    -----
    A patch's outlier score is divided by the median of its position, so that busy positions do
    not count as noise as a whole; the share that is dropped is taken over all positions. A
    ratio of densities can be used as it is. The two distances ``r`` become ``(1 + r) / 2``,
    because a factor must not vanish where two images agree. Equal images count once: copies
    of a defect do not vouch for each other.

    For ``training_scores_`` the image's own patches leave the bank, and the selection goes on
    among the others' remaining patches, those that remain when all images are there. Their
    weights are estimated without the image, which would vouch for what looks like it; those of
    ``"gaussian"`` from all images.

    The outlier scores cost one product of all patches of a position with each other:
    ``n_images ** 2`` distances for each position; those without each image, once more about
    ``lof_neighbors * n_images ** 2`` operations. Meanwhile each patch's neighbors are held, 12
    bytes for each of ``lof_neighbors + 1`` of them (more by the tiles of an image).

    References
    ----------
    .. [1] X. Jiang et al., "SoftPatch: Unsupervised Anomaly Detection with Noisy Data",
       NeurIPS 2022.
    .. [2] M. M. Breunig et al., "LOF: Identifying Density-Based Local Outliers", SIGMOD 2000.

    Examples
    --------
    Six of 106 training rows lie where no good one does. They are not learned.

    >>> import numpy as np
    >>> from pyimgano.detectors import PatchCoreDetector, SoftPatchDetector
    >>> rng = np.random.RandomState(0)
    >>> good, noise = rng.normal(size=(100, 3)), rng.normal(size=(6, 3)) * 3 + [9, 0, 0]
    >>> mixed = np.concatenate([good, noise])
    >>> soft = SoftPatchDetector(coreset_ratio=1.0, contamination=0.1).fit(mixed)
    >>> soft.predict([[9.0, 0.0, 0.0]])
    array([-1])
    >>> int(soft.dropped_[100:].sum())
    6
    """

    _registry_name = "vision_softpatch"
    _tags = ("fixed pose", "noisy training")
    _parameter_constraints: dict = {
        **{
            name: constraint
            for name, constraint in PatchCoreDetector._parameter_constraints.items()
            if name != "max_bank_patches"  # its weights compare all images at each position
        },
        "discriminator": [StrOptions({"lof", "nearest", "gaussian"})],
        "lof_neighbors": [Interval(Integral, 1, None, closed="left")],
        "drop_ratio": [Interval(Real, 0, 1, closed="left")],
    }
    _fitted_state = {
        "patch_weight_": Array("float32", "samples", "positions", low=0.0),
        "dropped_": Array("bool", "samples", "positions"),
        "max_bank_patches": MayLack(OneOf(None)),  # no parameter, and set by the base class
    }

    # The weight of a patch depends on those at its position in all images.
    _learns_in_parts = False

    def __init__(
        self,
        features: Any = "wide_resnet50_2",
        *,
        discriminator: str = "lof",
        lof_neighbors: int = 6,
        drop_ratio: float = 0.15,
        coreset_ratio: float = 0.1,
        n_neighbors: int = 9,
        projection_dim: int = 128,
        smoothing_sigma: float = 4.0,
        contamination: str | float = "auto",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            features,
            coreset_ratio=coreset_ratio,
            n_neighbors=n_neighbors,
            projection_dim=projection_dim,
            smoothing_sigma=smoothing_sigma,
            contamination=contamination,
            random_state=random_state,
            verbose=verbose,
        )
        self.discriminator = discriminator
        self.lof_neighbors = lof_neighbors
        self.drop_ratio = drop_ratio

    @property
    def bank_weight_(self) -> np.ndarray:
        return self._bank_weight

    def _weigh(self, patches: PatchStore, groups: np.ndarray, copy_of: np.ndarray) -> PatchWeights:
        grids = patches.geometry
        shape = grids.grid_shapes[0]
        others = np.flatnonzero((grids.grid_shapes != shape).any(axis=1))
        if len(others):
            raise ParameterError(
                f"{type(self).__name__} compares positions, so all training images need the "
                f"grid {tuple(shape.tolist())} of the first, image {others[0]} has "
                f"{tuple(grids.grid_shapes[others[0]].tolist())}: give the feature step a fixed "
                "resize."
            )
        if not grids.same_mask(grids.mask_of(0)):
            raise ParameterError(
                f"{type(self).__name__} compares positions, so all training images need the "
                "patches that the first has in the region, and some have others: let the "
                "feature step look at the same part of all images."
            )
        samples = np.unique(copy_of)
        of_sample = groups[samples]
        n_positions = int(grids.starts[1])
        grid = np.empty((len(samples), n_positions, patches.n_features), np.float32)
        for row, i in enumerate(samples.tolist()):
            grid[row] = patches.rows_of(i)
        fewest = len(samples) - np.bincount(of_sample).max()
        if self.discriminator == "gaussian":
            outlier = np.empty(grid.shape[:2])
            for position in range(grid.shape[1]):
                with one_blas_thread:
                    outlier[:, position] = _mahalanobis(grid[:, position])
            weight = self._weights(outlier)
        else:
            k = 1 if self.discriminator == "nearest" else self.lof_neighbors
            near = _Neighbors(grid, of_sample, min(k, fewest), self.discriminator == "lof")
            weight = self._weights(near.outliers())
        del grid
        dropped = np.zeros(weight.size, dtype=bool)
        worst_first = np.argsort(-weight, axis=None, kind="stable")
        dropped[worst_first[: int(self.drop_ratio * weight.size)]] = True
        sample = np.searchsorted(samples, copy_of)
        self.patch_weight_ = weight[sample]
        self.dropped_ = dropped.reshape(weight.shape)[sample]
        kept = np.flatnonzero(~self.dropped_)
        if len(np.unique(np.repeat(groups, np.diff(patches.starts))[kept])) < 2:
            raise TooFewImagesError(
                f"drop_ratio={self.drop_ratio} leaves patches of less than two of the "
                f"{len(np.unique(of_sample))} different training images: use a lower one or more "
                "images."
            )
        of_each = self.patch_weight_.ravel().astype(np.float64)
        if self.discriminator == "gaussian":  # one of many images moves a covariance little
            return PatchWeights(kept, of_each, lambda group: of_each)

        @lru_cache(maxsize=1)  # asked for again by each tile of an image
        def without(group: int) -> np.ndarray:
            rest = of_sample != group
            weight = np.ones((len(samples), n_positions), np.float32)
            weight[rest] = self._weights(near.outliers(group)[rest])
            return weight[sample].ravel().astype(np.float64)

        return PatchWeights(kept, of_each, without)

    def _weights(self, outlier: np.ndarray) -> np.ndarray:
        """Weights ``(n_images, n_positions)``, the median of a position's being 1 as a rule."""
        level = np.maximum(np.median(outlier, axis=0), _SMALLEST * outlier.mean(axis=0))
        # Where all are equal there is no level, and nothing out of the ordinary.
        relative = np.where(level > 0, outlier / np.where(level > 0, level, 1.0), 1.0)
        relative = relative if self.discriminator == "lof" else (1.0 + relative) / 2.0
        return relative.astype(np.float32)


class _Neighbors:
    """For each patch of each sample, the nearest others at its position.

    Some more of them are held than are asked for: when a group is left out, the next take the
    place of its members.

    Parameters
    ----------
    grid : ndarray of shape (n_samples, n_positions, d), float32
    groups : ndarray of shape (n_samples,), int
        Samples of one group are no neighbors of each other.
    k : int
        Neighbors that count.
    lof : bool
        Whether ``outliers`` are local outlier factors, or distances to the nearest.
    """

    def __init__(self, grid: np.ndarray, groups: np.ndarray, k: int, lof: bool) -> None:
        n, n_positions, _ = grid.shape
        sizes = np.unique(groups, return_counts=True)[1]
        held = int(min(k + sizes.max(), n - sizes.min()))
        self._groups, self._k, self._lof = groups, k, lof
        self._distance = np.empty((n_positions, n, held))
        self._index = np.empty((n_positions, n, held), np.int32)
        for position in range(n_positions):
            search = NearestNeighbors(grid[:, position], bank_group=groups)
            found = search.query(grid[:, position], k=held, exclude=groups)
            self._distance[position], self._index[position] = found

    def outliers(self, without: int = -1) -> np.ndarray:
        """Outlier score of each patch, ``(n_samples, n_positions)``, as if a group was not there.

        The group's own are zero.
        """
        out = np.empty(self._distance.shape[:2])
        parts = even_slices(len(out), n_threads())

        def measure(part: slice) -> None:
            _outliers(
                self._distance[part],
                self._index[part],
                self._groups,
                without,
                self._k,
                self._lof,
                out[part],
            )

        map_in_threads(measure, parts, len(parts))
        return out.T


@kernel()
def _outliers(distance, index, groups, without, k, lof, out):
    """Distances to the nearest, or local outlier factors, of all samples at some positions."""
    positions, n, held = distance.shape
    near = np.empty((n, k), np.int64)  # who the neighbors are, by their place among those held
    n_near = np.empty(n, np.int64)
    reach = np.empty(n)  # 1 / density
    for p in range(positions):
        for i in range(n):
            m = 0
            for j in range(held):
                if m < k and index[p, i, j] >= 0 and groups[index[p, i, j]] != without:
                    near[i, m] = j
                    m += 1
            n_near[i] = m
        total, rest = 0.0, 0
        for i in range(n):
            out[p, i] = reach[i] = 0.0
            if groups[i] == without or n_near[i] == 0:
                continue
            if not lof:
                out[p, i] = distance[p, i, near[i, 0]]
                continue
            for m in range(n_near[i]):
                other = index[p, i, near[i, m]]
                farthest = 0.0
                if n_near[other] > 0:
                    farthest = distance[p, other, near[other, n_near[other] - 1]]
                reach[i] += max(distance[p, i, near[i, m]], farthest)
            reach[i] /= n_near[i]
            total += reach[i]
            rest += 1
        if not lof:
            continue
        least = _SMALLEST * total / max(rest, 1)
        for i in range(n):
            if groups[i] == without:
                continue
            if total == 0.0 or n_near[i] == 0:  # all are equal, or nobody is there to compare
                out[p, i] = 1.0
                continue
            for m in range(n_near[i]):
                out[p, i] += 1.0 / max(reach[index[p, i, near[i, m]]], least)
            out[p, i] *= max(reach[i], least) / n_near[i]


def _mahalanobis(rows: np.ndarray) -> np.ndarray:
    """Distance of each row to the mean under the regularized covariance of all, ``(n,)``."""
    deviation = rows - rows.mean(axis=0, dtype=np.float64)
    n, d = deviation.shape
    if n < d:
        # Rows in the coordinates of the space they span: the same distances, at less cost.
        deviation = np.asarray(np.linalg.qr(deviation.T, mode="r")).T
    covariance = deviation.T @ deviation / (n - 1)
    ridge = _RIDGE * np.trace(covariance) / d
    if ridge == 0:
        return np.zeros(n)  # all rows are equal
    factor = np.linalg.cholesky(covariance + ridge * np.eye(len(covariance)))
    return np.linalg.norm(solve_triangular(factor, deviation.T, lower=True), axis=0)
