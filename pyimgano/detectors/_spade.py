"""SPADE: nearest training images first, then nearest patches among those."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._kernels.patch_matches import keep_nearest, match_sketches, rest_norms
from pyimgano._kernels.sketches import (
    check_range,
    in_range_sample,
    principal_axes,
    squared_norms,
)
from pyimgano._training import TrainingStream
from pyimgano.detectors._nearest_normal import FoundPatch, NearestNormalMixin
from pyimgano.detectors._patch_base import BasePatchDetector
from pyimgano.exceptions import ParameterError, TooFewImagesError
from pyimgano.grids import PatchGrids
from pyimgano.utils._state import Array, ListOf, Sizes, State, fail
from pyimgano.utils._threads import even_slices, map_in_threads, n_threads

__all__ = ["SPADEDetector"]

# Bounds the temporaries: one float32 product of 256 x 4096 is 4 MiB.
_QUERY_BLOCK = 256
_GALLERY_BLOCK = 4096


class SPADEDetector(NearestNormalMixin, BasePatchDetector):
    """SPADE: k nearest training images, and correspondences with their patches.

    An image is as anomalous as it is far, on average, from the most similar training images, by
    features averaged over the image. Each of its patches is as anomalous as it is far from the
    nearest patch, at any position, of those same images. So parts may lie anywhere in the
    image, and a defect is what no similar good image has.

    Image scores come from averages over whole images and overlook small defects, which the
    maps show: take another detector where only scores are needed. On feature rows it is a k-NN
    novelty detector.

    Parameters
    ----------
    features : str or transformer, default="wide_resnet50_2"
        Name of a feature step (layers 1 to 3 of a network) or a transformer that returns
        :class:`~pyimgano.grids.PatchGrids`. Not used when fitted on patch grids or rows.
    n_neighbors : int, default=50
        Training images an image is compared with; all of them if there are fewer.
    n_pixel_neighbors : int, default=1
        Nearest patches whose distances are averaged into the map.
    n_image_features : "all" or int, default="all"
        How many of the last features of a patch are averaged over the image to find the
        nearest training images. The features of a step that joins several layers end with those
        of the deepest: 256 are layer 3 of ResNet-18, 1024 that of WideResNet-50. The deepest
        layer says most about the whole image.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution
        the features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged.
    random_state : int, RandomState or None, default=0
        Has no effect: nothing is random. It is there as in all other detectors.

    Attributes
    ----------
    image_features_ : ndarray of shape (n_images, n_image_features), float64
        Averages over each training image.
    gallery_ : list of ndarray of shape (n_patches, n_features), float16
        Patches of each training image in principal coordinates, divided by ``scale_``.
    scale_ : ndarray of shape (n_images,), float32
        Powers of two that keep each image's patches in the range of float16.
    axes_ : ndarray of shape (n_features, n_features), float32
        Orthonormal principal axes in columns, those of largest variance first.
    center_ : ndarray of shape (n_features,), float32
        Origin of the principal coordinates.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image by the other ones.
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
    Leaving a training image out is exact: it (with its copies) is no neighbor of its own. The
    scores, those of training images included, cost next to nothing; only ``anomaly_map``
    compares patches.

    All patches of all training images are kept, two bytes a number: 0.9 GB for 320 images of
    56 x 56 patches with 448 features. ``joblib.load(file, mmap_mode="r")`` leaves them on disk
    until they are needed. Rounding to float16 moves a patch by 0.03 % of its distance from
    the center.

    The nearest patches are found exactly. A distance in the leading principal coordinates
    never exceeds the whole one, so few of the ``n_neighbors * n_patches ** 2`` pairs, half a
    billion for 56 x 56 patches, are measured in full. A map still costs one to two seconds of
    one core at that size, most of it for defective images, whose patches have no near
    neighbor.

    References
    ----------
    .. [1] N. Cohen, Y. Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid
       Correspondences", arXiv:2005.02357, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import SPADEDetector
    >>> from pyimgano.features import FilterBankFeatures
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(12, 64, 64, 3)).astype(np.uint8)
    >>> detector = SPADEDetector(FilterBankFeatures(resize=64), n_neighbors=5).fit(good)
    >>> bad = rng.randint(90, 110, size=(1, 64, 64, 3)).astype(np.uint8)
    >>> bad[0, 20:30, 20:30] = 255
    >>> detector.predict(bad)
    array([-1])
    >>> detector.anomaly_map(bad).shape
    (1, 64, 64)
    """

    _registry_name = "vision_spade"
    _family = "memory bank"
    _tags = ("any pose",)
    _parameter_constraints: dict = {
        **BasePatchDetector._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_pixel_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_image_features": [StrOptions({"all"}), Interval(Integral, 1, None, closed="left")],
    }
    _feature_defaults = {"layers": ("layer1", "layer2", "layer3"), "pool": 1}

    _fitted_state = {
        "gallery_": ListOf(Array("float16", None, None), "samples"),
        "_rest": ListOf(Array("float32", None), "samples"),
        "center_": Array("float32", "d"),
        "axes_": Array("float32", "d", "d"),
        "image_features_": Array("float64", "samples", "features"),
        "scale_": Array("float32", "samples", low=0.0),
        "_groups": Array("int64", "samples", low=0),
    }

    @classmethod
    def _width(cls, state: State) -> int:
        return len(state["axes_"])

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        d, n_features = sizes["d"], state.get("n_features_in_")
        wanted = state["_parameters_at_fit"]["n_image_features"]
        if sizes["features"] != (d if wanted == "all" else wanted) or n_features not in (None, d):
            fail(f"{cls.__name__}.image_features_", f"do not go with {d} features per patch")
        for patches, rest in zip(state["gallery_"], state["_rest"]):
            if patches.shape != (len(rest), d) or len(rest) == 0:
                fail(f"{cls.__name__}.gallery_", f"holds patches of other than {d} features")
        if len(np.unique(state["_groups"])) < 2:
            fail(f"{cls.__name__}._groups", "are those of one image")

    def __init__(
        self,
        features: Any = "wide_resnet50_2",
        *,
        n_neighbors: int = 50,
        n_pixel_neighbors: int = 1,
        n_image_features: str | int = "all",
        smoothing_sigma: float = 4.0,
        contamination: str | float = "auto",
        random_state: Any = 0,
    ) -> None:
        self.features = features
        self.n_neighbors = n_neighbors
        self.n_pixel_neighbors = n_pixel_neighbors
        self.n_image_features = n_image_features
        self.smoothing_sigma = smoothing_sigma
        self.contamination = contamination
        self.random_state = random_state

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        self.gallery_: list[np.ndarray] = []
        self._rest: list[np.ndarray] = []
        averages, scales = [], []
        for block in stream:
            if not self.gallery_:
                self.center_, self.axes_ = _own_coordinates(block.rows)
            averages.append(self._average(block))
            for rows in block.as_image_rows():
                half, scale = _to_half(self._rotate(rows, "the training patches"))
                self.gallery_.append(half)
                self._rest.append(rest_norms(half.astype(np.float32) * scale))
                scales.append(scale)
        self.image_features_ = np.concatenate(averages)
        self.scale_ = np.array(scales, dtype=np.float32)
        self._groups = stream.group_of
        if (self._groups == self._groups[0]).all():
            raise TooFewImagesError(
                f"all {len(self._groups)} training samples are copies of one: there is no "
                "second good one to tell how much good ones differ."
            )
        distance, neighbors = self._nearest_images(self.image_features_, self._groups)
        return _mean_distance(distance, neighbors)

    def _score(self, block: PatchGrids, train_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance, neighbors = self._nearest_images(self._average(block), train_group)
        # The neighbors stand for the map until someone asks for it.
        return neighbors, _mean_distance(distance, neighbors)

    def _to_pixels(self, block: PatchGrids, values: np.ndarray) -> list[np.ndarray]:
        return super()._to_pixels(block, self._distances_to(values, block))

    def _distances_to(self, neighbors: np.ndarray, block: PatchGrids) -> np.ndarray:
        """Distance of each patch to those of its image's neighbors, ``(n_patches,)``."""
        distance = [
            self._patch_distances(rows, near[near >= 0])
            for rows, near in zip(block.as_image_rows(), neighbors)
        ]
        return np.concatenate(distance)

    def _patch_anomaly(self, block: PatchGrids, train_group: np.ndarray) -> np.ndarray:
        _, neighbors = self._nearest_images(self._average(block), train_group)
        return self._distances_to(neighbors, block)

    def _as_in_bank(self, rows: np.ndarray) -> np.ndarray:
        return self._rotate(rows, "the patches")

    def _nearest_patches(
        self, block: PatchGrids, row: int, left_out: int, n: int
    ) -> list[FoundPatch]:
        """Of the images that the map compares with, the nearest patch of each."""
        _, neighbors = self._nearest_images(self._average(block), np.array([left_out]))
        query = self._as_in_bank(block.rows[row : row + 1])
        found: dict[int, FoundPatch] = {}
        for i in neighbors[0][neighbors[0] >= 0].tolist():
            patches = self.gallery_[i].astype(np.float32) * self.scale_[i]
            off = np.linalg.norm(patches - query, axis=1)
            nearest, group = int(np.argmin(off)), int(self._groups[i])
            one = FoundPatch(float(off[nearest]), group, patches[nearest])
            if group not in found or one.distance < found[group].distance:
                found[group] = one
        return sorted(found.values(), key=lambda one: one.distance)[:n]

    def _average(self, block: PatchGrids) -> np.ndarray:
        """Features averaged over each image, ``(n, n_image_features)``, float64."""
        d = block.n_features
        n = d if self.n_image_features == "all" else int(self.n_image_features)
        if n > d:
            raise ParameterError(
                f"n_image_features={n} is more than the {d} features of a patch: take at most that "
                'many, or "all".'
            )
        return np.stack(
            [rows[:, d - n :].mean(axis=0, dtype=np.float64) for rows in block.as_image_rows()]
        )

    def _nearest_images(
        self, averages: np.ndarray, left_out: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nearest training images without group ``left_out (n,)``: distances and indices.

        Both ``(n, k)``, the nearest first; infinite and -1 where fewer are left.
        """
        k = min(self.n_neighbors, len(self.image_features_))
        distance = np.empty((len(averages), k))
        neighbors = np.empty((len(averages), k), dtype=np.int64)
        for start in range(0, len(averages), _QUERY_BLOCK):
            part = slice(start, start + _QUERY_BLOCK)
            every = cdist(averages[part], self.image_features_)
            every[self._groups == left_out[part, None]] = np.inf
            nearest = np.argsort(every, axis=1, kind="stable")[:, :k]
            distance[part] = np.take_along_axis(every, nearest, axis=1)
            neighbors[part] = np.where(np.isinf(distance[part]), -1, nearest)
        return distance, neighbors

    def _rotate(self, rows: np.ndarray, what: str) -> np.ndarray:
        centered = rows - self.center_
        check_range(squared_norms(centered), what)
        return centered @ self.axes_

    def _patch_distances(self, rows: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
        """Mean distance of each row to its nearest patches of the images ``neighbors``."""
        queries = self._rotate(rows, "the patches")
        available = sum(len(self.gallery_[i]) for i in neighbors)
        best = np.full((len(rows), min(self.n_pixel_neighbors, available)), np.inf)
        sketch, floor = match_sketches(queries, rest_norms(queries))
        sketch[:, -1] = 1.0  # so that the product adds the gallery's part of the bound
        for gallery, rest in self._gallery_blocks(neighbors):
            candidates, candidates_floor = match_sketches(gallery, rest)
            candidates *= np.float32(-2.0)
            candidates[:, -1] = candidates_floor

            def measure(
                part: slice, gallery: np.ndarray = gallery, candidates: np.ndarray = candidates
            ) -> None:
                bound = sketch[part] @ candidates.T
                keep_nearest(queries[part], gallery, bound, floor[part], best[part])

            parts = even_slices(len(rows), -(-len(rows) // _QUERY_BLOCK))
            map_in_threads(measure, parts, min(n_threads(), len(parts)))
        return np.sqrt(best).mean(axis=1)

    def _gallery_blocks(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Patches of training images, in order, as float32, and the norm of each one's rest."""
        first = 0
        while first < len(images):
            last, n = first, 0
            while last < len(images) and (
                last == first or n + len(self.gallery_[images[last]]) <= _GALLERY_BLOCK
            ):
                n += len(self.gallery_[images[last]])
                last += 1
            chosen = images[first:last]
            rows = [self.gallery_[i] for i in chosen]
            joined = rows[0] if len(rows) == 1 else np.concatenate(rows)
            scale = np.repeat(self.scale_[chosen], [len(one) for one in rows])[:, None]
            rest = np.concatenate([self._rest[i] for i in chosen])
            for start in range(0, n, _GALLERY_BLOCK):
                part = slice(start, start + _GALLERY_BLOCK)
                yield joined[part].astype(np.float32) * scale[part], rest[part]
            first = last


def _own_coordinates(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and principal axes of some of the rows; any axes would give correct distances."""
    check_range(squared_norms(rows), "the training patches")
    center = in_range_sample(rows).mean(axis=0).astype(np.float32)
    return center, principal_axes(rows, center, rows.shape[1]).astype(np.float32)


def _to_half(rows: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Rows as float16 after division by a power of two that makes them fit."""
    largest = max(float(np.abs(rows).max()), 1e-30)
    scale = np.float32(2.0 ** (np.ceil(np.log2(largest)) - 10))
    return (rows / scale).astype(np.float16), scale


def _mean_distance(distance: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    found = neighbors >= 0
    return np.where(found, distance, 0.0).sum(axis=1) / found.sum(axis=1)
