"""``PatchGrids``: feature vectors on a grid per image, and the way back to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pyimgano.inputs._formats import resize_image

__all__ = ["PatchGrids"]


class PatchGrids:
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

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import PatchGrids
    >>> grids = PatchGrids.from_array(np.zeros((2, 4, 5, 3)), image_sizes=[(32, 40), (64, 80)])
    >>> len(grids), grids.n_features, grids.rows.shape
    (2, 3, (40, 3))
    >>> [m.shape for m in grids.to_pixels(np.ones(40), sigma=0)]
    [(32, 40), (64, 80)]
    """

    def __init__(
        self,
        rows: np.ndarray,
        grid_shapes: np.ndarray | Sequence[tuple[int, int]],
        image_sizes: np.ndarray | Sequence[tuple[int, int]] | None = None,
        boxes: np.ndarray | Sequence[tuple[float, float, float, float]] | None = None,
        work_sizes: np.ndarray | Sequence[tuple[int, int]] | None = None,
    ) -> None:
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
        self._starts = np.concatenate([[0], np.cumsum(self.grid_shapes.prod(axis=1))])
        if self.rows.ndim != 2 or len(self.rows) != self._starts[-1]:
            raise ValueError(
                f"rows has shape {self.rows.shape}, but the grid shapes add up to "
                f"{self._starts[-1]} patches; expected ({self._starts[-1]}, n_features)."
            )
        for name in ("image_sizes", "boxes", "work_sizes"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} describes {len(getattr(self, name))} images, not {n}.")

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
        return cls(
            *(
                np.concatenate([getattr(block, name) for block in blocks])
                for name in ("rows", "grid_shapes", "image_sizes", "boxes", "work_sizes")
            )
        )

    def __len__(self) -> int:
        return len(self.grid_shapes)

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
        return np.repeat(np.arange(len(self)), self.grid_shapes.prod(axis=1))

    @property
    def starts(self) -> np.ndarray:
        """``(n + 1,)`` row at which each image's patches begin, and the total at the end."""
        return self._starts

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> PatchGrids:
        chosen = np.atleast_1d(np.arange(len(self))[index])
        pieces = [self.rows[self._starts[i] : self._starts[i + 1]] for i in chosen]
        rows = np.concatenate(pieces) if pieces else self.rows[:0]
        return PatchGrids(
            rows,
            self.grid_shapes[chosen],
            self.image_sizes[chosen],
            self.boxes[chosen],
            self.work_sizes[chosen],
        )

    def without_features(self) -> PatchGrids:
        """The same grids with no feature left: what is needed to bring values to pixels."""
        nothing = np.empty((len(self.rows), 0), np.float32)  # a view would keep the features alive
        return PatchGrids(nothing, self.grid_shapes, self.image_sizes, self.boxes, self.work_sizes)

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
        """
        values = np.asarray(values)
        if values.shape != (len(self.rows),):
            raise ValueError(
                f"expected one value per patch, ({len(self.rows)},), got {values.shape}."
            )
        return [
            values[self._starts[i] : self._starts[i + 1]].reshape(self.grid_shapes[i])
            for i in range(len(self))
        ]

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
            A grid of one patch stays one value: it is constant however fine.
        """
        maps = []
        for grid, (height, width) in zip(
            self.as_grid(np.asarray(values, dtype=np.float32)), self.work_sizes
        ):
            if grid.size > 1:
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
        maps = []
        for i, fine in enumerate(self.smooth(values, sigma)):
            height, width = (int(s) for s in self.image_sizes[i])
            if fine.size == 1:
                maps.append(np.full((height, width), fine.flat[0], dtype=np.float32))
                continue
            top, left, box_h, box_w = self.boxes[i]
            y0, x0 = max(0, round(top)), max(0, round(left))
            y1, x1 = min(height, round(top + box_h)), min(width, round(left + box_w))
            inside = resize_image(fine, (y1 - y0, x1 - x0))
            if inside.shape == (height, width):
                maps.append(inside)
                continue
            canvas = np.full((height, width), inside.min(), dtype=np.float32)
            canvas[y0:y1, x0:x1] = inside
            maps.append(canvas)
        return maps
