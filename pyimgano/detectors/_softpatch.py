"""SoftPatch: PatchCore on training images of which some are defective."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.detectors._neighbors import NearestNeighbors
from pyimgano.detectors._patchcore import PatchCoreDetector
from pyimgano.detectors._patches import PatchStore
from pyimgano.exceptions import TooFewImagesError
from pyimgano.utils._threads import one_blas_thread

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
        that returns :class:`~pyimgano.features.PatchGrids` of one shape for all training
        images. ``"filterbank"`` needs no weights. Not used when fitted on patch grids or rows.
    discriminator : {"lof", "nearest", "gaussian"}, default="lof"
        The outlier score of a patch among those of its position: the local outlier factor
        [2]_, the distance to the nearest, or the Mahalanobis distance.
    lof_neighbors : int, default=6
        Neighbours of the local outlier factor; all others if there are fewer.
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
    among the others' remaining patches; the weights of those are the ones estimated from all
    images.

    The outlier scores cost one product of all patches of a position with each other:
    ``n_images ** 2`` distances for each position.

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

    def _weigh(
        self, patches: PatchStore, groups: np.ndarray, copy_of: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        grids = patches.geometry
        shape = grids.grid_shapes[0]
        others = np.flatnonzero((grids.grid_shapes != shape).any(axis=1))
        if len(others):
            raise ValueError(
                f"{type(self).__name__} compares positions, so all training images need the "
                f"grid {tuple(shape.tolist())} of the first, image {others[0]} has "
                f"{tuple(grids.grid_shapes[others[0]].tolist())}: give the feature step a fixed "
                "resize."
            )
        if not grids.all_hold(grids.held(0)):
            raise ValueError(
                f"{type(self).__name__} compares positions, so all training images need the "
                "patches that the first has in the region, and some have others: let the "
                "feature step look at the same part of all images."
            )
        samples = np.unique(copy_of)
        of_sample = groups[samples]
        first = patches.rows_of(0)
        grid = np.empty((len(samples), *first.shape), np.float32)
        for row, i in enumerate(samples.tolist()):
            grid[row] = patches.rows_of(i)
        weight = np.empty((len(samples), grid.shape[1]), dtype=np.float32)
        for position in range(grid.shape[1]):
            weight[:, position] = self._weights_at(grid[:, position], of_sample)
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
        return kept, self.patch_weight_.ravel().astype(np.float64)

    def _weights_at(self, rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Weights of one position's patches, ``(n_images,)``, with median 1 as a rule."""
        if self.discriminator == "gaussian":
            with one_blas_thread:
                outlier = _mahalanobis(rows)
        else:
            k = 1 if self.discriminator == "nearest" else self.lof_neighbors
            k = min(k, len(rows) - np.bincount(groups).max())
            search = NearestNeighbors(rows, bank_group=groups)
            distance, index = search.query(rows, k=k, exclude=groups)
            outlier = _lof(distance, index) if self.discriminator == "lof" else distance[:, 0]
        level = max(np.median(outlier), _SMALLEST * outlier.mean())
        relative = outlier / level if level > 0 else np.ones(len(rows))
        return relative if self.discriminator == "lof" else (1.0 + relative) / 2.0


def _lof(distance: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Local outlier factors from the k nearest others of each row, both ``(n, k)``."""
    reach = np.maximum(distance, distance[index, -1]).mean(axis=1)  # 1 / density
    if not reach.any():
        return np.ones(len(reach))  # all rows are equal
    reach = np.maximum(reach, _SMALLEST * reach.mean())
    return reach * (1.0 / reach[index]).mean(axis=1)


def _mahalanobis(rows: np.ndarray) -> np.ndarray:
    """Distance of each row to the mean under the regularised covariance of all, ``(n,)``."""
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
