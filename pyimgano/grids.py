"""``PatchGrids``: feature vectors on a grid per image, and the way back to pixels."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from sklearn.utils import deprecated

from pyimgano.exceptions import ImageFormatError, ParameterError
from pyimgano.inputs._formats import resize_image
from pyimgano.inputs._placement import Placement
from pyimgano.utils._columns import take_index
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import Array, Maybe, MayLack, OneOf, Sizes, State, fail

__all__ = ["MAX_SMOOTHING_SIGMA", "PatchGrids", "cells_inside", "lowest_outside", "smooth_inside"]

#: Longest standard deviation of maps' smoothing, in pixels: a multiple of any detector's image.
MAX_SMOOTHING_SIGMA = 1000.0


class PatchGrids(CheckedStateMixin):
    """Patch features of ``n`` images plus the geometry that leads back to their pixels.

    All patches of all images lie in one ``(n_patches, n_features)`` array, image after
    image and row by row inside an image, so that a detector works on plain rows. Images may
    have grids of different shapes. Indexing with an integer, a slice, an index array or a
    boolean mask gives the ``PatchGrids`` of the chosen images, which is what scikit-learn's
    splitters need.

    Parameters
    ----------
    rows : ndarray of shape (n_patches, n_features), float32
        The feature vectors.
    grid_shapes : array-like of shape (n, 2), int
        Rows and columns of each image's grid; their products add up to ``n_patches``.
    image_sizes : array-like of shape (n, 2), int, default=None
        Height and width of each input image in pixels. By default that of the grid itself:
        one pixel per patch.
    boxes : array-like of shape (n, 4), float, default=None
        The part of the input image that the grid covers: top, left, height, width in input
        pixels. By default the whole image.
    work_sizes : array-like of shape (n, 2), int, default=None
        Height and width in pixels at which the features were computed inside the box. Maps
        are smoothed at this resolution. By default that of the grid.
    mask : array-like of shape (n_grid_patches,), bool, default=None
        True for the patches of the grids that have a row in ``rows``, image after image and
        row by row: at least one of each image. None, the default, is all of them. See
        ``within``.
    inside : array-like, default=None
        Former name of ``mask``; deprecated, warns with a ``FutureWarning``.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.grids import PatchGrids
    >>> grids = PatchGrids.from_array(np.zeros((2, 4, 5, 3)), image_sizes=[(32, 40), (64, 80)])
    >>> len(grids), grids.n_features, grids.rows.shape
    (2, 3, (40, 3))
    >>> [m.shape for m in grids.to_pixels(np.ones(40), sigma=0)]
    [(32, 40), (64, 80)]
    """

    _fitted_state = {
        "rows": Array("float32", "rows", None, contiguous=True),
        "grid_shapes": Array("int64", "images", 2, low=1, high=2**31),
        "image_sizes": Array("int64", "images", 2, low=1, high=2**31),
        "work_sizes": Array("int64", "images", 2, low=1, high=2**31),
        "boxes": Array("float64", "images", 4),
        "_grid_starts": Array("int64", None),
        "_starts": Array("int64", None),
        "mask": Maybe(Array("bool", None)),
        "index": MayLack(OneOf(None)),
        "motions": MayLack(Maybe(Array("float64", "images", 2, 3))),
        "original_sizes": MayLack(Maybe(Array("int64", "images", 2, low=1, high=2**31))),
    }

    # Index of the table the images came from, which rows made of them go back to.
    index: Any = None
    # Placements of images that a step has cropped or moved in those that came in; see place().
    motions: np.ndarray | None = None
    original_sizes: np.ndarray | None = None

    def __init__(
        self,
        rows: np.ndarray,
        grid_shapes: np.ndarray | Sequence[tuple[int, int]],
        image_sizes: np.ndarray | Sequence[tuple[int, int]] | None = None,
        boxes: np.ndarray | Sequence[tuple[float, float, float, float]] | None = None,
        work_sizes: np.ndarray | Sequence[tuple[int, int]] | None = None,
        mask: np.ndarray | None = None,
        *,
        inside: np.ndarray | None = None,
    ) -> None:
        if inside is not None:
            if mask is not None:
                raise TypeError("inside is the former name of mask: give only mask.")
            warnings.warn(
                "the parameter inside of PatchGrids is now called mask; the old name goes with the "
                "next release.",
                FutureWarning,
                stacklevel=2,
            )
            mask = inside
        self.rows = np.ascontiguousarray(rows, dtype=np.float32)
        self.grid_shapes = np.asarray(grid_shapes, dtype=np.int64).reshape(-1, 2)
        n = len(self.grid_shapes)
        if image_sizes is None:
            image_sizes = self.grid_shapes
        if work_sizes is None:
            work_sizes = self.grid_shapes
        self.image_sizes = np.asarray(image_sizes, dtype=np.int64).reshape(-1, 2)
        self.work_sizes = np.asarray(work_sizes, dtype=np.int64).reshape(-1, 2)
        if boxes is None:
            boxes = np.column_stack([np.zeros((n, 2)), self.image_sizes])
        self.boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        self._grid_starts = np.concatenate([[0], np.cumsum(self.grid_shapes.prod(axis=1))])
        self.mask = None if mask is None else np.asarray(mask, dtype=bool)
        self._starts = self._grid_starts if self.mask is None else self._count_held()
        if self.rows.ndim != 2 or len(self.rows) != self._starts[-1]:
            raise ValueError(
                f"rows has shape {self.rows.shape}, but the grid shapes"
                f"{' and mask' if self.mask is not None else ''} add up to "
                f"{self._starts[-1]} patches; expected ({self._starts[-1]}, n_features)."
            )
        for name in ("image_sizes", "boxes", "work_sizes"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} describes {len(getattr(self, name))} images, not {n}.")

    def _count_held(self) -> np.ndarray:
        assert self.mask is not None
        if self.mask.shape != (self._grid_starts[-1],):
            raise ValueError(
                f"mask has shape {self.mask.shape}, but the grid shapes add up to "
                f"{self._grid_starts[-1]} patches."
            )
        held = np.concatenate([[0], np.cumsum(self.mask)])[self._grid_starts]
        empty = np.flatnonzero(np.diff(held) == 0)
        if len(empty):
            raise ValueError(f"mask holds no patch of image {empty[0]}.")
        return held

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        if "inside" in state:  # as older versions called the mask
            state["mask"] = state.pop("inside")
        return state

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        cells = state["grid_shapes"].prod(axis=1)
        grid_starts = np.concatenate([[0], np.cumsum(cells)])
        starts, mask = grid_starts, state["mask"]
        if not np.array_equal(state["_grid_starts"], grid_starts) or (
            mask is not None and len(mask) != grid_starts[-1]
        ):
            fail(f"{cls.__name__}.grid_shapes", "do not go with the rest")
        if mask is not None:
            starts = np.concatenate([[0], np.cumsum(mask)])[grid_starts]
        if (
            not np.array_equal(state["_starts"], starts)
            or (np.diff(starts) <= 0).any()
            or len(state["rows"]) != starts[-1]
        ):
            fail(f"{cls.__name__}.rows", "are not as many as the grids have patches")
        if (state.get("motions") is None) != (state.get("original_sizes") is None):
            fail(f"{cls.__name__}.motions", "do not go with original_sizes")

    @classmethod
    def from_array(
        cls,
        features: np.ndarray,
        image_sizes: np.ndarray | Sequence[tuple[int, int]] | None = None,
        boxes: np.ndarray | Sequence[tuple[float, float, float, float]] | None = None,
        work_size: tuple[int, int] | None = None,
    ) -> PatchGrids:
        """Wrap a ``(n, h, w, n_features)`` array whose images share one grid shape.

        Parameters
        ----------
        features : array-like of shape (n, h, w, n_features)
            The feature vectors.
        image_sizes, boxes : array-like, default=None
            As in the constructor.
        work_size : (int, int), default=None
            Height and width at which the features of all images were computed.

        Returns
        -------
        PatchGrids
        """
        features = np.asarray(features, dtype=np.float32)
        if features.ndim != 4:
            raise ValueError(f"features must be (n, h, w, n_features), got {features.shape}.")
        n, h, w, d = features.shape
        work_sizes = None if work_size is None else np.tile(work_size, (n, 1))
        return cls(
            features.reshape(n * h * w, d), np.tile((h, w), (n, 1)), image_sizes, boxes, work_sizes
        )

    @classmethod
    def concatenate(cls, blocks: Sequence[PatchGrids]) -> PatchGrids:
        """Join blocks of images, in order.

        Parameters
        ----------
        blocks : sequence of PatchGrids
            At least one.

        Returns
        -------
        PatchGrids
        """
        if not blocks:
            raise ValueError("there is no block of patch grids to concatenate.")
        if len(blocks) == 1:
            return blocks[0]  # not changed by anyone: no copy
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(block, name) for block in blocks])
            for name in ("rows", "grid_shapes", "image_sizes", "boxes", "work_sizes")
        }
        if any(block.mask is not None for block in blocks):
            joined["mask"] = np.concatenate([block._full_mask() for block in blocks])
        indices = [block.index for block in blocks]
        known = all(index is not None for index in indices)
        grids = cls(**joined).with_index(indices[0].append(indices[1:]) if known else None)
        if all(block.motions is None for block in blocks):
            return grids
        return grids.with_placements([one for block in blocks for one in block.placements])

    def _full_mask(self) -> np.ndarray:
        """Return ``mask`` as an array in any case."""
        return np.ones(self._grid_starts[-1], bool) if self.mask is None else self.mask

    def __len__(self) -> int:
        return len(self.grid_shapes)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            f"{self!r} is no array: it is patches of images, which PatchCoreDetector and its like "
            "take. For an estimator that takes a table put PatchPooling() before it, which makes "
            "one row of each image; grids.rows are all patches as an array."
        )

    @property
    def shape(self) -> tuple[int]:
        """``(n,)``: for scikit-learn this is a one-dimensional collection of images."""
        return (len(self),)

    @property
    def n_features(self) -> int:
        """Length of each feature vector."""
        return self.rows.shape[1]

    @property
    def features(self) -> np.ndarray:
        """The ``(n, h, w, n_features)`` view; needs one grid shape for all images."""
        if self.mask is not None:
            raise ValueError("these grids hold only some of their patches: there is no full array.")
        if len(np.unique(self.grid_shapes, axis=0)) != 1:
            raise ValueError(
                "these images have grids of different shapes, so there is no one "
                "(n, h, w, n_features) array; give the feature step a fixed resize."
            )
        h, w = self.grid_shapes[0]
        return self.rows.reshape(len(self), h, w, self.n_features)

    @property
    def image_of_row(self) -> np.ndarray:
        """``(n_patches,)`` index of the image each row belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self._starts))

    @property
    def starts(self) -> np.ndarray:
        """``(n + 1,)`` row at which each image's patches begin, and the total at the end."""
        return self._starts

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> PatchGrids:
        chosen = np.atleast_1d(np.arange(len(self))[index])
        pieces = [self.rows[self._starts[i] : self._starts[i + 1]] for i in chosen]
        mask = self.mask
        if mask is not None:
            mask = np.concatenate([mask[:0], *(self.mask_of(int(i)) for i in chosen)])
        rows = np.concatenate(pieces) if pieces else self.rows[:0]
        grids = PatchGrids(
            rows,
            self.grid_shapes[chosen],
            self.image_sizes[chosen],
            self.boxes[chosen],
            self.work_sizes[chosen],
            mask,
        )
        grids = grids.with_index(take_index(self.index, chosen))
        if self.motions is None:
            return grids
        placements = self.placements
        return grids.with_placements([placements[i] for i in chosen])

    def mask_of(self, i: int) -> np.ndarray:
        """Return the part of ``mask`` that belongs to image ``i``; all True without a mask.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        ndarray of shape (grid_height * grid_width,), bool
        """
        return self._full_mask()[self._grid_starts[i] : self._grid_starts[i + 1]]

    def with_index(self, index: Any) -> PatchGrids:
        """The same grids, and the index of the table that their images came from.

        Parameters
        ----------
        index : pandas.Index of length n, or None

        Returns
        -------
        PatchGrids
        """
        if index is None:
            return self
        new = copy.copy(self)
        new.index = index
        return new

    def with_placements(self, placements: Sequence[Placement | None]) -> PatchGrids:
        """The same grids of images that a step has cropped or moved, with the way back.

        Parameters
        ----------
        placements : sequence of Placement or None
            One for each image; None for an image as it came in. Maps are then brought to the
            pixels of the images before that step.

        Returns
        -------
        PatchGrids
        """
        new = copy.copy(self)
        if all(one is None for one in placements):
            new.motions = new.original_sizes = None
            return new
        whole = [
            one or Placement(np.eye(2, 3), (int(size[0]), int(size[1])))
            for one, size in zip(placements, self.image_sizes)
        ]
        new.motions = np.array([one.motion for one in whole], dtype=np.float64)
        new.original_sizes = np.array([one.size for one in whole], dtype=np.int64)
        return new

    @property
    def placements(self) -> list[Placement | None]:
        """Places of the images in those that came in; None unless a step has moved them."""
        if self.motions is None or self.original_sizes is None:
            return [None] * len(self)
        sizes = self.original_sizes.tolist()
        return [Placement(m, (height, width)) for m, (height, width) in zip(self.motions, sizes)]

    def same_mask(self, mask: np.ndarray) -> bool:
        """Tell whether every image has just these patches; the grids must have one shape.

        Parameters
        ----------
        mask : ndarray of shape (grid_height * grid_width,), bool
            Patches of a grid, see ``mask_of``.

        Returns
        -------
        bool
        """
        if self.mask is None:
            return bool(mask.all())
        return bool((self.mask.reshape(-1, len(mask)) == mask).all())

    @property
    @deprecated("PatchGrids.inside is now called mask; the old name goes with the next release.")
    def inside(self) -> np.ndarray | None:
        return self.mask

    @deprecated("PatchGrids.held is now called mask_of; the old name goes with the next release.")
    def held(self, i: int) -> np.ndarray:
        return self.mask_of(i)

    @deprecated(
        "PatchGrids.all_hold is now called same_mask; the old name goes with the next release."
    )
    def all_hold(self, held: np.ndarray) -> bool:
        return self.same_mask(held)

    def within(self, mask: np.ndarray) -> PatchGrids:
        """Keep only the patches that lie in a region of the image, the same in all images.

        A patch lies in the region if at least half of its cell, the part of the image that
        is its share of the grid, does. What its features were computed from reaches farther.

        Parameters
        ----------
        mask : ndarray of shape (height, width), bool
            The region, in pixels of the input images.

        Returns
        -------
        PatchGrids
            Of the same shapes and sizes. Patches outside have no row; on the way back to pixels
            they get the smallest value of their image.

        Raises
        ------
        ValueError
            If an image has another size than the mask, or no patch in the region.

        Examples
        --------
        >>> import numpy as np
        >>> from pyimgano.grids import PatchGrids
        >>> grids = PatchGrids.from_array(np.zeros((2, 2, 3, 5)), image_sizes=[(8, 12)] * 2)
        >>> mask = np.zeros((8, 12), dtype=bool)
        >>> mask[:, 6:] = True  # half of the patches in the middle, all of those on the right
        >>> part = grids.within(mask)
        >>> part.rows.shape
        (8, 5)
        >>> part.as_grid(np.arange(8))[0]
        array([[0, 0, 1],
               [0, 2, 3]])
        """
        mask = np.asarray(mask, dtype=bool)
        geometry = np.column_stack([self.grid_shapes, self.boxes])
        kinds, kind_of = np.unique(geometry, axis=0, return_inverse=True)
        other = np.flatnonzero((self.image_sizes != mask.shape).any(axis=1))
        if len(other):
            height, width = self.image_sizes[other[0]]
            raise ImageFormatError(
                f"the mask has {mask.shape[0]} x {mask.shape[1]} pixels, but image {other[0]} has "
                f"{height} x {width}."
            )
        regions = []
        for kind in kinds:
            shape = (int(kind[0]), int(kind[1]))
            regions.append(cells_inside(mask, shape, kind[2:]).ravel())
            if not regions[-1].any():
                raise ParameterError(
                    f"no patch lies in the region of {mask.sum()} of {mask.size} pixels: a patch's "
                    f"cell is {kind[4] / shape[0]:.3g} x {kind[5] / shape[1]:.3g} pixels, and of "
                    "none at least half is in the region. Take a larger region, or smaller patches "
                    "(a larger resize of the feature step)."
                )
        inside = np.concatenate([np.ones(0, bool), *(regions[k] for k in kind_of.ravel())])
        if inside.all():
            return self
        if self.mask is not None:
            inside &= self.mask
        return PatchGrids(
            self.rows[inside[self._full_mask()]],
            self.grid_shapes,
            self.image_sizes,
            self.boxes,
            self.work_sizes,
            inside,
        )._of(self)

    def with_rows(self, rows: np.ndarray) -> PatchGrids:
        """The same grids with other features.

        Parameters
        ----------
        rows : ndarray of shape (n_patches, n_other_features), float32

        Returns
        -------
        PatchGrids
        """
        return PatchGrids(
            rows,
            self.grid_shapes,
            self.image_sizes,
            self.boxes,
            self.work_sizes,
            self.mask,
        )._of(self)

    def _of(self, other: PatchGrids) -> PatchGrids:
        """The same grids as made of the same images as others."""
        grids = self.with_index(other.index)
        return grids if other.motions is None else grids.with_placements(other.placements)

    def without_features(self) -> PatchGrids:
        """The same grids with no feature left: what is needed to bring values to pixels."""
        # A view would keep the features alive.
        return self.with_rows(np.empty((len(self.rows), 0), np.float32))

    def __repr__(self) -> str:
        return (
            f"PatchGrids(n_images={len(self)}, n_patches={len(self.rows)}, "
            f"n_features={self.n_features})"
        )

    def as_image_rows(self) -> list[np.ndarray]:
        """The ``(n_patches, n_features)`` rows of each image."""
        return [self.rows[a:b] for a, b in zip(self._starts[:-1], self._starts[1:])]

    def as_grid(self, values: np.ndarray) -> list[np.ndarray]:
        """Cut one value per patch into one ``(h, w)`` array per image.

        Parameters
        ----------
        values : ndarray of shape (n_patches,)
            One value per patch.

        Returns
        -------
        list of ndarray of shape (h, w)
            Patches outside, of which there is no value, get the smallest of their image.
        """
        values = np.asarray(values)
        if values.shape != (len(self.rows),):
            raise ValueError(
                f"expected one value per patch, ({len(self.rows)},), got {values.shape}."
            )
        parts = [values[a:b] for a, b in zip(self._starts[:-1], self._starts[1:])]
        if self.mask is not None:
            for i, part in enumerate(parts):
                held = self.mask_of(i)
                parts[i] = np.full(len(held), part.min())
                parts[i][held] = part
        return [part.reshape(shape) for part, shape in zip(parts, self.grid_shapes)]

    def image_max(self, values: np.ndarray) -> np.ndarray:
        """Largest value of each image's patches, ``(n,)``.

        Parameters
        ----------
        values : ndarray of shape (n_patches,)
            One value per patch.

        Returns
        -------
        ndarray of shape (n,)
        """
        return np.maximum.reduceat(values, self._starts[:-1])

    def smooth(self, values: np.ndarray, sigma: float = 4.0) -> list[np.ndarray]:
        """Interpolate one value per patch to the resolution of the features, and smooth it.

        Parameters
        ----------
        values : ndarray of shape (n_patches,)
            One value per patch.
        sigma : float, default=4.0
            Standard deviation of the Gaussian in pixels of ``work_sizes``; 0 leaves it out.

        Returns
        -------
        list of ndarray of shape (work_height, work_width), float32
            A grid of one patch stays one value: it is constant however fine. Where patches
            lie outside there is the minimum of what is inside, which is averaged over values
            inside alone.
        """
        maps = []
        grids = self.as_grid(np.asarray(values, dtype=np.float32))
        for i, (grid, (height, width)) in enumerate(zip(grids, self.work_sizes)):
            if grid.size > 1 and self.mask is not None:
                held = self.mask_of(i).reshape(grid.shape)
                grid = smooth_inside(grid, held, sigma, (int(height), int(width)))
            elif grid.size > 1:
                grid = resize_image(grid, (int(height), int(width)))
                if sigma > 0:
                    grid = cv2.GaussianBlur(grid, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
            maps.append(grid)
        return maps

    def to_pixels(self, values: np.ndarray, sigma: float = 4.0) -> list[np.ndarray]:
        """Bring one value per patch back to the pixels of the input images.

        Each map is smoothed at the resolution the features were computed at (see ``smooth``)
        and put where its box lies in the input image. Pixels outside the box (a crop removed
        them) get the map's minimum.

        Parameters
        ----------
        values : ndarray of shape (n_patches,)
            One value per patch, higher = more anomalous.
        sigma : float, default=4.0
            Standard deviation of the Gaussian in pixels of ``work_sizes``; 0 leaves it out.

        Returns
        -------
        list of ndarray of shape (height, width), float32
            One map per image, in the size of that image.
        """
        return self.place(self.smooth(values, sigma))

    def place(self, fine: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Bring maps at the resolution of the features to the pixels of the input images.

        Parameters
        ----------
        fine : sequence of ndarray of shape (work_height, work_width), float32
            One map per image, see ``smooth``.

        Returns
        -------
        list of ndarray of shape (height, width), float32
            One map per image, in the size of that image; its minimum outside the box. If a
            preprocessing step has cropped or moved the images, in the size of those before it.
        """
        maps = [self._in_box(i, one) for i, one in enumerate(fine)]
        return [
            heat if placement is None else placement.put_back(heat)
            for heat, placement in zip(maps, self.placements)
        ]

    def _in_box(self, i: int, one: np.ndarray) -> np.ndarray:
        """Map of image ``i``, at the resolution of its features, in the pixels of the image."""
        height, width = (int(s) for s in self.image_sizes[i])
        if one.size == 1:
            return np.full((height, width), one.flat[0], dtype=np.float32)
        top, left, box_h, box_w = self.boxes[i]
        y0, x0 = max(0, round(top)), max(0, round(left))
        y1, x1 = min(height, round(top + box_h)), min(width, round(left + box_w))
        inside = resize_image(one, (y1 - y0, x1 - x0))
        if inside.shape == (height, width):
            return inside
        canvas = np.full((height, width), inside.min(), dtype=np.float32)
        canvas[y0:y1, x0:x1] = inside
        return canvas


def cells_inside(
    mask: np.ndarray, shape: tuple[int, int], box: np.ndarray | Sequence[float] | None = None
) -> np.ndarray:
    """Find the cells of a grid over an image of which at least half lies in a mask.

    Parameters
    ----------
    mask : ndarray of shape (height, width), bool
        Pixels of the image.
    shape : (int, int)
        Rows and columns of the grid.
    box : (top, left, height, width), default=None
        The part of the image that the grid covers, in pixels; by default all of it. Of a cell
        that reaches over the border, what is in the image counts.

    Returns
    -------
    ndarray of shape ``shape``, bool
    """
    top, left, height, width = (0.0, 0.0, *mask.shape) if box is None else box
    down = _overlap(shape[0], top, height, mask.shape[0])
    across = _overlap(shape[1], left, width, mask.shape[1])
    covered = down @ mask.astype(np.float32) @ across.T
    whole = down.sum(axis=1)[:, None] * across.sum(axis=1)
    # A cell of which exactly half is covered must not hang on the rounding of float32.
    return (covered >= (0.5 - 1e-4) * whole) & (whole > 0)


def _overlap(n_cells: int, start: float, length: float, n_pixels: int) -> np.ndarray:
    """Length that each of ``n_cells`` equal cells shares with each pixel, float32."""
    edges = start + length * np.arange(n_cells + 1) / n_cells
    pixels = np.arange(n_pixels)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(shared, 0.0).astype(np.float32)


def smooth_inside(
    values: np.ndarray, inside: np.ndarray, sigma: float, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Interpolate and smooth values of a region as if there was nothing around it.

    Each result is an average over values inside, weighted by the Gaussian at their distance
    (normalized convolution [1]_). Outside is the minimum of the results inside.

    Parameters
    ----------
    values : ndarray of shape (h, w), float32
        Outside they may be anything.
    inside : ndarray of shape (h, w), bool
        The region; not empty.
    sigma : float
        Standard deviation of the Gaussian in pixels of the result; 0 leaves it out.
    size : (height, width), default=None
        Size to interpolate to; by default that of the values.

    Returns
    -------
    ndarray of shape ``size``, float32

    References
    ----------
    .. [1] H. Knutsson, C.-F. Westin, "Normalized and differential convolution", CVPR 1993.
    """
    weight: Any = inside.astype(np.float32)
    total: Any = np.where(inside, values, np.float32(0))
    if size is not None:
        weight, total = resize_image(weight, size), resize_image(total, size)
        nearest = cv2.resize(inside.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        inside = (nearest > 0) & (weight > 0)
        if not inside.any():  # the grid has shrunk, and no nearest cell is one inside
            inside = weight > 0
    if sigma > 0:
        weight, total = (
            cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
            for plane in (weight, total)
        )
    smooth = np.empty(inside.shape, dtype=np.float32)
    smooth[inside] = total[inside] / weight[inside]
    smooth[~inside] = smooth[inside].min()
    return smooth


def lowest_outside(heat: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Give a map its minimum outside a region, in place; what is inside decides which.

    Parameters
    ----------
    heat : ndarray of shape (height, width)
        Map of an image.
    region : ndarray of shape (height, width), bool
        Pixels that keep their values.

    Returns
    -------
    ndarray of shape (height, width)
        ``heat``.
    """
    heat[~region] = heat[region].min()
    return heat
