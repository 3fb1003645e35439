"""PaDiM: a Gaussian at each position of the image."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._kernels.triangular import LANES, squared_mahalanobis, whiten
from pyimgano._training import TrainingStream
from pyimgano.detectors._incremental import BaseIncrementalPatchDetector
from pyimgano.detectors._patches import PatchStore
from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.grids import PatchGrids
from pyimgano.utils._state import Array, MayLack, Number, Sizes, State, TupleOf, fail
from pyimgano.utils._threads import even_slices, map_in_threads, n_threads

__all__ = ["PaDiMDetector"]

# The paper's numbers of channels: 100 of ResNet-18's 448, 550 of WideResNet-50's 1792.
_FEW, _MANY, _WIDE = 100, 550, 512
# Values of all training images that are read at a time (32 MiB).
_READ = 2**23
# Of them, values that are worked on at a time, in float64 (1 MiB).
_VALUES = 2**17
# Positions of each training image that are kept for partial_fit: one in so many, and at least
# the second number.
_ONE_IN, _FEWEST_KEPT = 16, 64


class PaDiMDetector(BaseIncrementalPatchDetector):
    """PaDiM: Mahalanobis distance to the Gaussian of good patches at the same position.

    For parts that lie still: every position has its own mean and full covariance over a random
    selection of feature channels. The image's score is the largest value of its smoothed map.

    On feature rows there is one position: a Gaussian with regularized covariance.

    Parameters
    ----------
    features : str or transformer, default="wide_resnet50_2"
        Name of a feature step (layers 1 to 3 of a network) or a transformer that returns
        :class:`~pyimgano.grids.PatchGrids` of one shape for all images.
    n_channels : "auto" or int, default="auto"
        Feature channels selected at random; ``"auto"`` takes the paper's 100 of up to 512
        channels and 550 of more. All of them if there are no more.
    regularization : float, default=0.01
        Added to the diagonal of each covariance.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution
        the features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged.
    random_state : int, RandomState or None, default=0
        Seeds the selection of channels.

    Attributes
    ----------
    channels_ : ndarray of shape (n_channels,), int
        The selected channels, ascending.
    features_ : transformer
        The fitted feature step, when fitted on images. If it can (``keep_channels``), it returns
        the selected channels alone.
    mean_ : ndarray of shape (n_positions, n_channels), float32
        Mean of each position (of those inside ``roi_mask_``).
    factor_ : ndarray of shape (n_positions, n_channels * (n_channels + 1) / 2), float32
        Lower Cholesky factor of each covariance, row by row, with inverted diagonal.
    grid_shape_ : tuple of int
        Rows and columns of positions.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image under the Gaussians estimated without it.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    Leaving one image out changes each covariance by a matrix of rank one, so the
    out-of-sample distance has a closed form [2]_; it is exact. Memory and the cost of scoring
    an image are ``n_positions * n_channels ** 2 / 2`` numbers.

    :meth:`partial_fit` updates means and covariances: they are those of all images at once, but
    for rounding. For the scores of earlier images the model keeps, from ``fit`` on, the selected
    channels of each at the positions with the highest values of its smoothed out-of-sample map, and
    the distances at the others. It keeps 64 positions or, if that is more, one in sixteen. There
    the closed form is as exact as for new images; at the other positions distances are taken to
    change as much as they do there on average. ``m`` kept positions cost ``4 * (m * n_channels +
    n_positions)`` bytes an image. Images in tiles cannot be learned in parts, and nothing is kept.

    References
    ----------
    .. [1] T. Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly
       Detection and Localization", ICPR Workshops 2021.
    .. [2] J. Sherman, W. J. Morrison, "Adjustment of an inverse matrix corresponding to a
       change in one element of a given matrix", Annals of Mathematical Statistics 21, 1950.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PaDiMDetector
    >>> rows = np.random.RandomState(0).normal(size=(200, 3))
    >>> PaDiMDetector().fit(rows).predict([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    array([ 1, -1])
    """

    _registry_name = "vision_padim"
    _family = "gaussian"
    _tags = ("fixed pose",)
    _parameter_constraints: dict = {
        **BaseIncrementalPatchDetector._parameter_constraints,
        "n_channels": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "regularization": [Interval(Real, 0, None, closed="neither")],
    }
    _fitted_state = {
        "channels_": Array("int64", "channels", low=0),
        "grid_shape_": TupleOf(Number(1, whole=True), Number(1, whole=True)),
        "_held": Array("bool", "cells"),
        "_n_images": Number(3, equals="trained"),
        "_n_copies": Array("int64", "trained", low=0),
        "mean_": Array("float32", "positions", "channels", contiguous=True),
        "factor_": Array("float32", "positions", None, contiguous=True),
        "_kept_rows": MayLack(Array("float32", "kept samples", "kept", "channels")),
        "_kept_positions": MayLack(
            Array("int64", "kept samples", "kept", low=0, below="positions")
        ),
        "_kept_maps": MayLack(Array("float32", "kept samples", "positions", low=0.0)),
    }
    _for_more = (*BaseIncrementalPatchDetector._for_more, "_kept_positions", "_kept_maps")
    _feature_defaults = {"layers": ("layer1", "layer2", "layer3"), "pool": 1}

    def __init__(
        self,
        features: Any = "wide_resnet50_2",
        *,
        n_channels: str | int = "auto",
        regularization: float = 0.01,
        smoothing_sigma: float = 4.0,
        contamination: str | float = "auto",
        random_state: Any = 0,
    ) -> None:
        self.features = features
        self.n_channels = n_channels
        self.regularization = regularization
        self.smoothing_sigma = smoothing_sigma
        self.contamination = contamination
        self.random_state = random_state

    @classmethod
    def _width(cls, state: State) -> int:
        return len(state["channels_"])

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        channels, held = state["channels_"], state["_held"]
        d, n = sizes["channels"], sizes["trained"]
        if d == 0 or (np.diff(channels) <= 0).any():
            fail(f"{cls.__name__}.channels_", "are not ascending")
        n_features = state.get("n_features_in_")
        if n_features is not None and channels[-1] >= n_features:
            fail(f"{cls.__name__}.channels_", f"go beyond the {n_features} features")
        if state["factor_"].shape[1] != d * (d + 1) // 2:
            fail(f"{cls.__name__}.factor_", f"has no triangle for {d} channels")
        rows, columns = state["grid_shape_"]
        if sizes["cells"] != rows * columns or held.sum() != sizes["positions"]:
            fail(f"{cls.__name__}.mean_", "does not have the positions of the grid")
        if sizes["n"] > n or (state["_n_copies"] > n - 2).any():
            fail(f"{cls.__name__}._n_copies", f"does not go with {n} training images")

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        self.__dict__.pop("channels_", None)
        # All images are needed at each position, so they wait in a file, image after image.
        with PatchStore() as store:
            for block in stream:
                rows = self._select(block).reshape(-1, len(self.channels_))
                store.append(block.with_rows(rows))
            n = stream.n_samples
            groups = _groups_by_size(stream.group_of)
            others = n - groups[-1].shape[1]
            if others < 2:
                raise TooFewImagesError(
                    f"PaDiMDetector needs 2 different training samples beside the one it leaves "
                    f"out, got n_samples={n} with {others} different from one of them."
                )
            self._n_images = n
            # How often each image is there, under the number of the first; a group of tiles is
            # one image, of whose tiles no two need be alike.
            self._n_copies = np.bincount(stream.group_of, minlength=n)
            if self.tiled_:
                self._n_copies[:] = 1
            left_out = self._estimate(store, groups)
            if self.tiled_:
                geometry = store.geometry
                return np.array([self._smooth(geometry[i], m)[0] for i, m in enumerate(left_out)])
            self._image_groups = stream.group_of
            first = stream.duplicate_of == np.arange(n)
            self._kept_group = stream.group_of[first]
            scores, kept = self._keep(store, left_out, first)
        self._kept_rows, self._kept_positions, self._kept_maps = kept
        return scores

    def _smooth(self, geometry: PatchGrids, distances: np.ndarray) -> tuple[float, np.ndarray]:
        """Score of one image, and its smoothed map at each position."""
        (smooth,) = geometry.smooth(distances, self.smoothing_sigma)
        middles = [
            ((np.arange(n) + 0.5) * side / n).astype(int)
            for n, side in zip(self.grid_shape_, smooth.shape)
        ]
        return float(smooth.max()), smooth[np.ix_(*middles)].ravel()[self._held]

    def _keep(
        self, store: PatchStore, left_out: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Scores of images, and what is kept of those that are ``first`` of their kind."""
        geometry = store.geometry
        n_positions = left_out.shape[1]
        k = min(n_positions, max(_FEWEST_KEPT, n_positions // _ONE_IN))
        scores = np.empty(len(left_out))
        positions = np.empty((int(first.sum()), k), np.int64)
        rows = np.empty((len(positions), k, store.n_features), np.float32)
        row = 0
        for i, distances in enumerate(left_out):  # maps of all images would be as large as these
            scores[i], smooth = self._smooth(geometry[i], distances)
            if first[i]:
                positions[row] = np.sort(np.argsort(-smooth, kind="stable")[:k])
                rows[row] = store.rows_of(i)[positions[row]]
                row += 1
        return scores, (rows, positions, left_out[first].astype(np.float32))

    def _learn_more(self, X: Any, y: Any) -> None:
        if self.tiled_:
            raise ValueError(
                "PaDiMDetector.partial_fit takes no images in tiles, because a tile is left out "
                "with all others of its image, which are no longer there: fit it on all images at "
                "once, or give it whole images."
            )
        super()._learn_more(X, y)

    def _fit_more(self, stream: TrainingStream) -> tuple[np.ndarray, np.ndarray]:
        n_known = len(self.training_scores_)
        with PatchStore() as store:
            for block in stream:
                rows = self._select(block).reshape(-1, len(self.channels_))
                store.append(block.with_rows(rows))
            groups = stream.group_of
            first = (stream.duplicate_of == np.arange(len(groups))) & (groups >= n_known)
            self._n_copies = np.concatenate([self._n_copies, np.zeros(len(groups), np.int64)])
            np.add.at(self._n_copies, groups, 1)
            left_out, at_kept = self._estimate_more(store, groups)
            self._n_images += len(groups)
            scores, kept = self._keep(store, left_out, first)
            geometry = store.geometry[0]
        before = np.take_along_axis(self._kept_maps, self._kept_positions, axis=1)
        total = before.sum(axis=1, dtype=np.float64)
        change = np.divide(at_kept.sum(axis=1), total, out=np.ones(len(total)), where=total > 0)
        maps = (self._kept_maps * change[:, None]).astype(np.float32)
        np.put_along_axis(maps, self._kept_positions, at_kept.astype(np.float32), axis=1)
        old = np.array([self._smooth(geometry, one)[0] for one in maps])
        self._image_groups = np.concatenate([self._image_groups, groups])
        self._kept_group = np.concatenate([self._kept_group, groups[first]])
        self._kept_rows = np.concatenate([self._kept_rows, kept[0]])
        self._kept_positions = np.concatenate([self._kept_positions, kept[1]])
        self._kept_maps = np.concatenate([maps, kept[2]])
        return old, scores

    def _see_training_block(self, block: PatchGrids, groups: np.ndarray) -> None:
        if not hasattr(self, "channels_"):
            self._choose_channels(block)
        # From here on the step may leave out the other channels, in the next block or a later one.
        rows = self._select(block).reshape(-1, len(self.channels_))
        super()._see_training_block(block.with_rows(rows), groups)

    def _choose_channels(self, block: PatchGrids) -> None:
        available = block.n_features
        wanted = self.n_channels
        if wanted == "auto":
            wanted = _FEW if available <= _WIDE else _MANY
        rng = check_random_state(self.random_state)
        n = min(int(wanted), available)
        self.channels_ = np.sort(rng.choice(available, size=n, replace=False))
        self.grid_shape_ = tuple(int(s) for s in block.grid_shapes[0])
        self._held = block.mask_of(0)
        step = getattr(self, "features_", None)
        keep = getattr(step, "keep_channels", None)
        if keep is not None and not isinstance(step, FrozenEstimator):  # that one is the user's
            keep(self.channels_)

    def _select(self, block: PatchGrids) -> np.ndarray:
        """Chosen channels of each image, ``(n, n_positions, n_channels)``."""
        if (block.grid_shapes != self.grid_shape_).any():
            other = block.grid_shapes[(block.grid_shapes != self.grid_shape_).any(axis=1)][0]
            raise ImageFormatError(
                f"PaDiMDetector compares positions, so all images need the grid "
                f"{self.grid_shape_} of the first training image, got {tuple(other.tolist())}: "
                "give the feature step a fixed resize."
            )
        if not block.same_mask(self._held):
            raise ImageFormatError(
                "PaDiMDetector compares positions, so all images need the patches that the first "
                "training image has in the region, and some have others: let the feature step "
                "look at the same part of all images."
            )
        rows = block.rows
        if block.n_features > len(self.channels_):  # the step does not select them, or not yet
            rows = rows.take(self.channels_, axis=1)
        return rows.reshape(len(block), -1, len(self.channels_))

    def _as_whole(self, block: PatchGrids, values: Any) -> np.ndarray | None:
        rows = self._select(block).reshape(-1, len(self.channels_))
        return super()._as_whole(block.with_rows(rows), values)

    def _estimate(self, store: PatchStore, groups: list[np.ndarray]) -> np.ndarray:
        """Set mean and factor of each position; return leave-one-out distances ``(n, positions)``.

        Sums run in float64 over deviations from the mean, some positions at a time.
        """
        n, positions, d = self._n_images, int(self._held.sum()), store.n_features
        rows, columns = np.tril_indices(d)
        self.mean_ = np.empty((positions, d), dtype=np.float32)
        self.factor_ = np.empty((positions, len(rows)), dtype=np.float32)
        left_out = np.empty((n, positions))
        ridge = self.regularization * np.eye(d)

        def estimate(read: tuple[slice, np.ndarray]) -> None:
            part, values = read
            deviation = np.empty((part.stop - part.start, d, n))
            deviation[:] = values.transpose(1, 2, 0)
            mean = deviation.mean(axis=2)
            deviation -= mean[:, :, None]
            scatter = deviation @ deviation.transpose(0, 2, 1)
            factor = np.linalg.cholesky(scatter / (n - 1) + ridge)
            diagonal = np.arange(d)
            factor[:, diagonal, diagonal] = 1.0 / factor[:, diagonal, diagonal]
            self.mean_[part] = mean
            self.factor_[part] = factor[:, rows, columns]
            for members in groups:
                n_groups, k = members.shape
                white = deviation.take(members.ravel(), axis=2)
                whiten(np.linalg.cholesky(scatter / (n - k - 1) + ridge), white)
                if k == 1:
                    q = np.einsum("pdn,pdn->pn", white, white)
                    q = _left_out(q, n / (n - 1), n / ((n - 1) * (n - 2)))
                else:
                    white = white.reshape(-1, d, n_groups, k).transpose(0, 2, 3, 1)
                    q = _left_out_together(white @ white.transpose(0, 1, 3, 2), n)
                    q = q.reshape(len(white), -1)
                left_out[members.ravel(), part] = q.T

        pieces = even_slices(positions, -(-positions * d * n // _READ))
        memory = np.empty((n, max(some.stop - some.start for some in pieces), d), np.float32)
        for some in pieces:
            values = memory[:, : some.stop - some.start]
            for i in range(n):
                values[i] = store.rows_of(i, some)
            parts = [
                (slice(some.start + part.start, some.start + part.stop), values[:, part])
                for part in even_slices(values.shape[1], -(-values.size // _VALUES))
            ]
            map_in_threads(estimate, parts, n_threads())
        return np.sqrt(left_out)

    def _estimate_more(
        self, store: PatchStore, groups: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bring mean and factor of each position up to date; return leave-one-out distances.

        Those of new images have shape (n, positions), those of earlier ones at the positions that
        are kept (n_kept, k).
        """
        n_old, n_new, d = self._n_images, len(groups), store.n_features
        n = n_old + n_new
        n_positions = len(self.mean_)
        rows, columns = np.tril_indices(d)
        diagonal = np.arange(d)
        mean_, factor_ = np.empty_like(self.mean_), np.empty_like(self.factor_)
        left_out = np.empty((n_new, n_positions))
        at_kept = np.empty(self._kept_positions.shape)
        # The kept patches of each position.
        order = np.argsort(self._kept_positions, axis=None, kind="stable")
        ends = np.searchsorted(self._kept_positions.ravel()[order], np.arange(n_positions + 1))
        kept_rows = self._kept_rows.reshape(-1, d)
        copies = self._n_copies[groups], self._n_copies[self._kept_group]
        copies_kept = np.repeat(copies[1], self._kept_positions.shape[1])

        def estimate(read: tuple[slice, np.ndarray]) -> None:
            part, values = read
            for i in range(part.start, part.stop):
                new = values[:, i - part.start].astype(np.float64)
                shift = new.mean(axis=0) - self.mean_[i]
                deviation = new - new.mean(axis=0)
                mean = self.mean_[i] + n_new / n * shift
                factor = np.zeros((d, d))
                factor[rows, columns] = self.factor_[i]
                factor[diagonal, diagonal] = 1.0 / factor[diagonal, diagonal]
                # The old scatter and n_old - 1 ridges, which the old covariance holds.
                scatter = (n_old - 1) * (factor @ factor.T)
                scatter += deviation.T @ deviation + n_old * n_new / n * np.outer(shift, shift)

                def root(n_rest: int, scatter: np.ndarray = scatter) -> np.ndarray:
                    """Factor of the covariance that ``n_rest`` degrees of freedom make of it."""
                    ridges = (n_rest - n_old + 1) * self.regularization
                    covariance = scatter.copy()
                    covariance[diagonal, diagonal] += ridges
                    return np.linalg.cholesky(covariance / n_rest)

                inverted = root(n - 1)
                inverted[diagonal, diagonal] = 1.0 / inverted[diagonal, diagonal]
                mean_[i], factor_[i] = mean, inverted[rows, columns]
                old = order[ends[i] : ends[i + 1]]
                points = np.concatenate([new, kept_rows[old]]) - mean
                k_of = np.concatenate([copies[0], copies_kept[old]])
                q = np.empty(len(points))
                for k in np.unique(k_of).tolist():
                    white = np.ascontiguousarray(points[k_of == k].T)[None]
                    whiten(root(n - k - 1)[None], white)
                    squared = np.einsum("dn,dn->n", white[0], white[0])
                    q[k_of == k] = _left_out(squared, n / (n - k), k * n / ((n - k) * (n - k - 1)))
                left_out[:, i] = q[:n_new]
                at_kept.ravel()[old] = q[n_new:]

        for some in even_slices(n_positions, -(-n_positions * d * n_new // _READ)):
            values = np.stack([store.rows_of(i, some) for i in range(n_new)])
            parts = [
                (slice(some.start + part.start, some.start + part.stop), values[:, part])
                for part in even_slices(values.shape[1], n_threads())
            ]
            map_in_threads(estimate, parts, len(parts))
        self.mean_, self.factor_ = mean_, factor_
        return np.sqrt(left_out), np.sqrt(at_kept)

    def _score(
        self, block: PatchGrids, train_group: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray]:
        squared = self._squared_distances(self._select(block))
        # Maps of recognized images: they and their copies taken out of mean and covariance (up to
        # a factor (n - k - 1) / (n - 1) on the latter, for which it would have to be factorized
        # anew).
        known = np.flatnonzero(train_group >= 0)
        n, k = self._n_images, self._n_copies[train_group[known], None]
        shrink = k * n / ((n - k) * (n - 1))
        # Rounding must not bring a distance to where nothing would be left of the covariance.
        q = np.minimum(squared[known], (1 - 1e-6) / shrink)
        squared[known] = _left_out(q, n / (n - k), shrink)
        maps = block.smooth(np.sqrt(squared).ravel(), self.smoothing_sigma)
        return maps, _largest(maps)

    def _to_pixels(self, block: PatchGrids, values: list[np.ndarray]) -> list[np.ndarray]:
        return self._within_region(block.place(values))

    def _squared_distances(self, selected: np.ndarray) -> np.ndarray:
        """Squared distances ``(n, n_positions)`` of ``selected (n, n_positions, n_channels)``."""
        n, positions, _ = selected.shape
        squared = np.empty((n, positions))
        parts = even_slices(positions, n_threads())
        for start in range(0, n, LANES):
            some, out = selected[start : start + LANES], squared[start : start + LANES]

            def measure(part: slice, some: np.ndarray = some, out: np.ndarray = out) -> None:
                squared_mahalanobis(some, self.mean_, self.factor_, part.start, part.stop, out)

            map_in_threads(measure, parts, len(parts))
        return squared


def _largest(maps: list[np.ndarray]) -> np.ndarray:
    return np.array([one.max() for one in maps], dtype=np.float64)


def _left_out(q: np.ndarray, away: Any, shrink: Any) -> np.ndarray:
    """Squared distance of a sample to the Gaussian without it (Sherman and Morrison).

    ``q`` is its squared distance ``v' M^-1 v`` to the full mean; without it the mean lies
    ``away`` times as far and ``M`` loses ``shrink v v'``.
    """
    return away**2 * q / (1.0 - shrink * q)


def _left_out_together(gram: np.ndarray, n: int) -> np.ndarray:
    """Squared distances of groups of k samples to the Gaussian without their group (Woodbury).

    ``gram (..., k, k)`` holds the products ``v' M^-1 w`` of the group's deviations from the mean
    of all ``n`` samples; the result is ``(..., k)``. With C the root of 1 + 11' / (n - k), the
    others' scatter is that of all less (V C)(V C)', and deviations from their mean are V C C.
    """
    k = gram.shape[-1]
    root = np.eye(k) + ((n / (n - k)) ** 0.5 - 1.0) / k
    inner = root @ gram @ root
    c = n - k - 1
    full = np.linalg.solve(c * np.eye(k) - inner, c * inner)
    return np.einsum("ij,...jl,li->...i", root, full, root)


def _groups_by_size(groups: np.ndarray) -> list[np.ndarray]:
    """Members of all groups of one size, ``(n_groups, size)``, for each size, ascending."""
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    return [order[size[group[order]] == k].reshape(-1, k) for k in np.unique(size).tolist()]
