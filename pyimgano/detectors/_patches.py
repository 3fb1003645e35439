"""``PatchStore``: all training patches in one array, and which image each came from."""

from __future__ import annotations

import numpy as np

from pyimgano.base import TrainingBlocks

__all__ = ["PatchStore"]

# Rows projected at a time: a few MiB of temporaries whatever the number of patches.
_CHUNK = 16_384


class PatchStore:
    """Patches of all training images, gathered block by block.

    Parameters
    ----------
    blocks : TrainingBlocks
        Blocks of :class:`~pyimgano.features.PatchGrids`; read through once.

    Attributes
    ----------
    rows : ndarray of shape (n_patches, n_features), float32
    starts : ndarray of shape (n_images + 1,), int
        Row at which each image's patches begin.
    grid_shapes : ndarray of shape (n_images, 2), int
        Rows and columns of each image's grid.
    groups, copy_of : ndarray of shape (n_images,), int
        Who is left out together and who equals whom, see :class:`TrainingBlocks`.
    """

    def __init__(self, blocks: TrainingBlocks) -> None:
        shapes: list[np.ndarray] = []
        rows = np.empty((0, 0), dtype=np.float32)
        filled = 0
        for grids in blocks:
            shapes.append(grids.grid_shapes)
            if filled == 0:
                # One array for all, sized by the first block: no second copy at the end.
                per_image = -(-len(grids.rows) // len(grids))
                rows = np.empty((per_image * blocks.n_images, grids.n_features), np.float32)
            needed = filled + len(grids.rows)
            if needed > len(rows):  # grids of different shapes: grow by half
                grown = np.empty((max(needed, len(rows) * 3 // 2), rows.shape[1]), np.float32)
                grown[:filled] = rows[:filled]
                rows = grown
            rows[filled:needed] = grids.rows
            filled = needed
        self.rows = rows[:filled]
        self.grid_shapes = np.concatenate(shapes)
        self.starts = np.concatenate([[0], np.cumsum(self.grid_shapes.prod(axis=1))])
        self.groups = blocks.groups
        self.copy_of = blocks.copy_of

    @property
    def group_of_row(self) -> np.ndarray:
        """``(n_patches,)`` group of the image each row came from."""
        return np.repeat(self.groups, np.diff(self.starts))

    def project(self, n_dims: int, rng: np.random.RandomState) -> np.ndarray:
        """Gaussian random projection of all rows; the rows themselves if that saves nothing.

        Distances survive with a relative error of about ``1 / sqrt(n_dims)`` (Johnson and
        Lindenstrauss, 1984), which is all that choosing a coreset needs.
        """
        d = self.rows.shape[1]
        if d <= n_dims:
            return self.rows
        basis = (rng.standard_normal((d, n_dims)) / np.sqrt(n_dims)).astype(np.float32)
        out = np.empty((len(self.rows), n_dims), dtype=np.float32)
        for start in range(0, len(out), _CHUNK):
            stop = start + _CHUNK
            np.matmul(self.rows[start:stop], basis, out=out[start:stop])
        return out
