"""The good patches nearest to a place of an image: the reason for its anomaly score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples, check_is_fitted

from pyimgano._nesting import innermost
from pyimgano._training import sample_keys
from pyimgano.grids import PatchGrids
from pyimgano.inputs._containers import is_path
from pyimgano.tiling import ImageTiles

__all__ = ["FoundPatch", "NearestNormal", "NearestNormalMixin", "NormalPatch", "nearest_normal"]

# A training image's patch is one of the bank if it differs by no more than this share of the
# bank patch's length: half precision, in which SPADE keeps patches, is exact to 0.0005.
_SAME = 2e-3


class FoundPatch(NamedTuple):
    """A patch of the bank.

    Attributes
    ----------
    distance : float
    group : int
        Training image that it is from.
    vector : ndarray of shape (n_features,)
        As it is kept in the bank.
    """

    distance: float
    group: int
    vector: np.ndarray


class NearestNormalMixin:
    """Makes a detector that keeps patches of good images answer :func:`nearest_normal`."""

    def _patch_anomaly(self, block: PatchGrids, train_group: np.ndarray) -> np.ndarray:
        """Anomaly of each patch, ``(n_patches,)``."""
        detector: Any = self
        return detector._score(block, train_group)[0]

    def _as_in_bank(self, rows: np.ndarray) -> np.ndarray:
        """Patches in the form in which the bank keeps them."""
        return rows

    def _nearest_patches(
        self, block: PatchGrids, row: int, left_out: int, n: int
    ) -> list[FoundPatch]:
        """The nearest patches of up to ``n`` training images, one each, without one group.

        ``block`` holds one image, ``row`` is one of its patches.
        """
        detector: Any = self
        search = detector._search
        if (search.bank_group == left_out).all():
            left_out = -1  # a bank that stems from one image alone cannot do without it
        query = self._as_in_bank(block.rows[row : row + 1])
        k, found = min(4 * n, len(search.bank)), []
        while True:
            distance, index = search.query(query, k=k, exclude=[left_out])
            known = index[0] >= 0
            groups = search.bank_group[index[0][known]]
            _, first = np.unique(groups, return_index=True)
            if len(first) >= n or k == len(search.bank):
                break
            k = min(2 * k, len(search.bank))
        for i in np.sort(first)[:n].tolist():
            found.append(FoundPatch(distance[0][i], int(groups[i]), search.bank[index[0][i]]))
        return found


@dataclass
class NormalPatch:
    """A patch of a good training image.

    Parameters
    ----------
    image_index : int
        Training image that it is from, counted without those labeled anomalous; of equal
        images, the first.
    distance : float
        Distance of its features to those of the place in question: Euclidean, and for
        ``AnomalyDINODetector`` one minus the cosine.
    path : str or None
        File of the training image; None if it is not among ``training_images``, or is an array.
    place : (int, int, int, int) or None
        Top, left, height and width of the patch in pixels of the training image. None if the
        image is not among ``training_images``, or the patch stems from a rotated copy of it.
    pixels : ndarray of shape (H, W, 3), uint8, or None
        The training image, RGB; None if it is not among ``training_images``.
    """

    image_index: int
    distance: float
    path: str | None = None
    place: tuple[int, int, int, int] | None = None
    pixels: np.ndarray | None = None


@dataclass
class NearestNormal:
    """Result of :func:`nearest_normal`.

    Parameters
    ----------
    place : (int, int, int, int)
        Top, left, height and width of the patch in pixels of the image.
    anomaly : float
        Its anomaly, before maps are smoothed.
    pixels : ndarray of shape (H, W, 3), uint8
        The image, RGB, as the detector sees it.
    matches : list of NormalPatch
        The nearest patches of good images, the nearest first, each from another image.
    """

    place: tuple[int, int, int, int]
    anomaly: float
    pixels: np.ndarray
    matches: list[NormalPatch]


def nearest_normal(
    estimator: Any,
    image: Any,
    training_images: Any = None,
    *,
    place: tuple[int, int] | None = None,
    n_matches: int = 3,
) -> NearestNormal:
    """Find the good patches that are most like a place of an image.

    For a detector with a memory bank a place is as anomalous as it is far from the nearest patch of
    a good image. This function tells which patches these are. The bank holds features, not
    pixels: which image a patch comes from is known, and where it lies in it and what it looks
    like can be told if the training images are given.

    Parameters
    ----------
    estimator : fitted estimator
        ``PatchCoreDetector``, ``SoftPatchDetector``, ``AnomalyDINODetector`` or
        ``SPADEDetector``, fitted on images, or a nesting of pipelines and meta-estimators
        around one.
    image : str, Path or input of the estimator
        One image.
    training_images : input of the estimator, default=None
        The images the estimator was fitted on, in any order, others may be among them. They
        are recognized by their pixels. None tells indices and distances alone.
    place : (int, int), default=None
        Row and column of a pixel of the image as the detector sees it, after a ``resize`` of
        the ``ImageFormatNormalizer``. None is the patch with the largest anomaly.
    n_matches : int, default=3
        Number of good images of which the nearest patch is returned.

    Returns
    -------
    NearestNormal

    Raises
    ------
    TypeError
        If the detector keeps no patches of good images, or was not fitted on images.
    ValueError
        If ``image`` is not one image, or there is no patch at ``place``.

    Notes
    -----
    A training image is explained as it is scored: by the patches of the other images.

    An image that is flagged as a whole, such as a black one, need not have an anomalous place:
    then each of its patches may be near a good one.

    The features of a patch depend on more than its own cell: on the receptive field of a network,
    or on the windows of a filter.

    Examples
    --------
    >>> from pyimgano import PatchCoreDetector
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> from pyimgano.detectors import nearest_normal
    >>> from pyimgano.features import FilterBankFeatures
    >>> data = make_inspection_dataset("wood", n_train=8, n_test_good=0, n_test_defect=1, size=64)
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(data.X_train)
    >>> found = nearest_normal(detector, data.X_test[:1], data.X_train, n_matches=2)
    >>> len(found.matches), found.matches[0].distance <= found.matches[1].distance
    (2, True)
    >>> found.matches[0].pixels.shape
    (64, 64, 3)
    """
    check_is_fitted(estimator)
    if is_path(image):
        image = [image]
    if _num_samples(image) != 1:
        raise ValueError(
            f"image holds {_num_samples(image)} samples; give one image, such as X[3:4] or [path]."
        )
    if n_matches < 1:
        raise ValueError(f"n_matches={n_matches} must be at least 1.")
    detector: Any
    detector, data = innermost(estimator, image)
    if not hasattr(detector, "_nearest_patches"):
        raise TypeError(
            f"nearest_normal needs a detector that keeps patches of good images, such as "
            f"PatchCoreDetector or SPADEDetector; {type(detector).__name__} keeps none."
        )
    if detector.input_kind_ != "images":
        raise TypeError(
            f"nearest_normal needs a detector that was fitted on images; this "
            f"{type(detector).__name__} was fitted on {detector.input_kind_}. Put the feature step "
            "inside the detector, features=..."
        )
    asked = _Image(detector, detector._validate_new_input(data))
    part, row, anomaly = asked.worst() if place is None else asked.at(place)
    found = detector._nearest_patches(part.grids, row, asked.group, n_matches)
    matches = [NormalPatch(one.group, float(one.distance)) for one in found]
    if training_images is not None:
        _, given = innermost(estimator, training_images)
        source = _TrainingImages(detector, detector._validate_new_input(given))
        for match, one in zip(matches, found):
            source.fill_in(match, one.vector)
    return NearestNormal(part.place_of(row), anomaly, asked.pixels, matches)


class _Part(NamedTuple):
    """The patches of an image, or of a tile of it."""

    grids: PatchGrids
    top: int
    left: int
    image_size: tuple[int, int]

    def place_of(self, row: int) -> tuple[int, int, int, int]:
        """Cell of a patch in pixels of the whole image: top, left, height, width."""
        (n_rows, n_columns), box = self.grids.grid_shapes[0], self.grids.boxes[0]
        r, c = divmod(int(np.flatnonzero(self.grids.mask_of(0))[row]), int(n_columns))
        y = box[0] + box[2] * np.array([r, r + 1]) / n_rows
        x = box[1] + box[3] * np.array([c, c + 1]) / n_columns
        (placement,) = self.grids.placements
        if placement is not None:  # the feature step crops or moves: what the cell covers before it
            corners = np.array([[a, b, 1] for a in x - 0.5 for b in y - 0.5])
            x, y = (corners @ placement.motion.T).T + 0.5
        height, width = self.image_size
        y0, y1 = (
            int(v) for v in np.clip(np.rint([self.top + y.min(), self.top + y.max()]), 0, height)
        )
        x0, x1 = (
            int(v) for v in np.clip(np.rint([self.left + x.min(), self.left + x.max()]), 0, width)
        )
        return y0, x0, max(1, y1 - y0), max(1, x1 - x0)

    def row_at(self, place: tuple[int, int]) -> int | None:
        """Patch whose cell holds a pixel of the whole image; None if there is none."""
        shape, box = self.grids.grid_shapes[0], self.grids.boxes[0]
        row, column = place[0] - self.top, place[1] - self.left
        (placement,) = self.grids.placements
        if placement is not None:
            matrix, offset = placement.motion[:, :2], placement.motion[:, 2]
            column, row = np.linalg.solve(matrix, [column, row] - offset)
        inside = np.array([row, column]) + 0.5 - box[:2]
        r, c = np.floor(inside / box[2:] * shape).astype(int)
        if not (0 <= r < shape[0] and 0 <= c < shape[1]):
            return None
        held = self.grids.mask_of(0)
        cell = r * shape[1] + c
        return int(held[:cell].sum()) if held[cell] else None


class _Image:
    """One image, whole or in tiles, and its patches."""

    def __init__(self, detector: Any, data: Any) -> None:
        self._detector = detector
        if detector.tiled_:
            (tiles,) = data.iter_images()
            self._tiles: ImageTiles | None = tiles
            self.pixels, self.digest = tiles.image, tiles.digest
        else:
            self._tiles, self.pixels = None, data[0]
            self.digest = sample_keys([self.pixels], detector.roi_mask_)[0].image
        self.group = detector._known.get(self.digest, -1)

    def parts(self) -> Iterator[_Part]:
        """The patches of the image, tile by tile where it is cut into tiles."""
        height, width = self.pixels.shape[:2]
        if self._tiles is None:
            grids = self._detector._grids([self.pixels], self._detector.roi_mask_)
            yield _Part(grids, 0, 0, (height, width))
            return
        for k in range(len(self._tiles)):
            top, left = self._tiles.corner(k)
            grids = self._detector._grids([self._tiles[k]], None)
            yield _Part(grids, top, left, (height, width))

    def worst(self) -> tuple[_Part, int, float]:
        """The patch with the largest anomaly: its part, its row there, and its anomaly."""
        best: tuple[_Part, int, float] | None = None
        for part in self.parts():
            values = self._values(part)
            row = int(np.argmax(values))
            if best is None or values[row] > best[2]:
                best = part, row, float(values[row])
        assert best is not None
        return best

    def at(self, place: tuple[int, int]) -> tuple[_Part, int, float]:
        """The patch at a pixel; of overlapping tiles the one in whose middle it lies."""
        height, width = self.pixels.shape[:2]
        row, column = place
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(
                f"place=({row}, {column}) is outside the image, which the detector sees with "
                f"{height} x {width} pixels: give the row and the column of one of them."
            )
        best: tuple[float, _Part, int] | None = None
        for part in self.parts():
            found = part.row_at((row, column))
            if found is not None:
                middle = part.grids.image_sizes[0] / 2 + (part.top, part.left)
                off = float(np.abs(middle - (row, column)).max())
                if best is None or off < best[0]:
                    best = off, part, found
        if best is None:
            raise ValueError(
                f"there is no patch at place=({row}, {column}): a crop of the feature step or the "
                "region of interest leaves it out."
            )
        _, part, found = best
        return part, found, float(self._values(part)[found])

    def _values(self, part: _Part) -> np.ndarray:
        return self._detector._patch_anomaly(part.grids, np.array([self.group]))


class _TrainingImages:
    """The given training images, found again by their pixels."""

    def __init__(self, detector: Any, data: Any) -> None:
        self._detector, self._data = detector, data
        self._digest_of = {group: digest for digest, group in detector._known.items()}
        self._index_of: dict[bytes, int] | None = None

    def fill_in(self, match: NormalPatch, vector: np.ndarray) -> None:
        """Say where a patch lies and what its image looks like, if that is among those given."""
        digest = self._digest_of[match.image_index]
        image = None
        index: int | None = match.image_index
        # Mostly they are given in the order in which the detector was fitted on them.
        if index is not None and index < len(self._data):
            image = self._image(index)
        if image is None or image.digest != digest:
            index = self._all().get(digest)
            if index is None:
                return
            image = self._image(index)
        assert index is not None
        paths = getattr(self._data, "paths", None)
        match.path = None if paths is None else paths[index]
        match.pixels = image.pixels
        limit = _SAME * float(np.linalg.norm(vector))
        for part in image.parts():
            rows = self._detector._as_in_bank(part.grids.rows)
            off = np.linalg.norm(rows.astype(np.float64) - vector, axis=1)
            nearest = int(np.argmin(off))
            if off[nearest] <= limit:
                match.place = part.place_of(nearest)
                return

    def _image(self, index: int) -> _Image:
        return _Image(self._detector, self._data[index : index + 1])

    def _all(self) -> dict[bytes, int]:
        if self._index_of is None:
            self._index_of = {}
            for i in range(len(self._data)):
                self._index_of.setdefault(self._image(i).digest, i)
        return self._index_of
