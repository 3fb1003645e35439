"""Where training patches are kept: all in one array, or in a file beside it."""

from __future__ import annotations

import tempfile
from types import TracebackType

import numpy as np

from pyimgano.base import TrainingBlocks
from pyimgano.features import PatchGrids

__all__ = ["PatchFile", "PatchStore", "Projection"]

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

    def rows_of(self, i: int) -> np.ndarray:
        """Patches of image ``i``."""
        return self.rows[self.starts[i] : self.starts[i + 1]]

    def project(self, projection: Projection) -> np.ndarray:
        """All rows projected; the rows themselves if that saves nothing."""
        if projection.basis is None:
            return self.rows
        out = np.empty((len(self.rows), projection.n_dims), dtype=np.float32)
        for start in range(0, len(out), _CHUNK):
            stop = start + _CHUNK
            np.matmul(self.rows[start:stop], projection.basis, out=out[start:stop])
        return out


class PatchFile:
    """Patches in an unnamed temporary file, to be read again image by image.

    The file lies where :mod:`tempfile` puts it (the environment variable ``TMPDIR``) and is
    gone when the context ends.

    Attributes
    ----------
    n_patches : int
        Patches written so far.
    """

    def __init__(self) -> None:
        self.n_patches = 0
        self._starts = [0]
        self._n_features = 0

    def __enter__(self) -> PatchFile:
        self._file = tempfile.TemporaryFile(prefix="pyimgano-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, grids: PatchGrids) -> None:
        """Write the patches of some more images."""
        self._n_features = grids.n_features
        try:
            self._file.write(np.ascontiguousarray(grids.rows, dtype=np.float32).data)
            self._file.flush()
        except OSError as error:
            size = (self.n_patches + len(grids.rows)) * self._n_features * 4 / 2**30
            raise OSError(
                error.errno,
                f"{error.strerror}: max_bank_patches keeps the training patches in a temporary "
                f"file, {size:.1f} GiB so far, in {tempfile.gettempdir()}. Set the environment "
                "variable TMPDIR to a folder with more room",
            ) from error
        for size in grids.grid_shapes.prod(axis=1).tolist():
            self.n_patches += size
            self._starts.append(self.n_patches)

    def rows_of(self, i: int) -> np.ndarray:
        """Patches of image ``i``, ``(n, n_features)``, float32."""
        # Plain reads, not a memory map: mapped pages would count as this process's memory.
        begin, stop = self._starts[i], self._starts[i + 1]
        self._file.seek(begin * self._n_features * 4)
        rows = np.empty((stop - begin, self._n_features), np.float32)
        self._file.readinto(rows.data)
        return rows


class Projection:
    """Gaussian random projection; nothing at all where it would save nothing.

    Distances survive with a relative error of about ``1 / sqrt(n_dims)`` (Johnson and
    Lindenstrauss, 1984), which is all that choosing a coreset needs.

    Parameters
    ----------
    n_features, n_dims : int
        Dimensions before and, at most, after.
    rng : RandomState
    """

    def __init__(self, n_features: int, n_dims: int, rng: np.random.RandomState) -> None:
        self.n_features = n_features
        self.n_dims = min(n_features, n_dims)
        self.basis = None
        if n_dims < n_features:
            basis = rng.standard_normal((n_features, n_dims)) / np.sqrt(n_dims)
            self.basis = basis.astype(np.float32)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.basis is None else rows @ self.basis
