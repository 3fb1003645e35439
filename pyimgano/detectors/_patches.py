"""``PatchStore``: all training patches, and which image each came from."""

from __future__ import annotations

import tempfile
from threading import Lock
from types import TracebackType

import numpy as np

from pyimgano.grids import PatchGrids
from pyimgano.utils._outputs import naming_temporary_files
from pyimgano.utils._threads import one_blas_thread

__all__ = ["PatchStore", "Projection"]

# Patches are kept in memory up to this many bytes, in a file beyond.
_IN_MEMORY = 32 * 2**20


class PatchStore:
    """Patches of all training images, to be read again image by image.

    What does not fit in a few MiB lies in an unnamed temporary file, where :mod:`tempfile` puts
    it (the environment variable ``TMPDIR``): the features of a few hundred images are many
    times what choosing a bank needs in memory. The file is gone when the context ends.

    Attributes
    ----------
    n_patches, n_features : int
    starts : ndarray of shape (n_images + 1,), int
        Row at which each image's patches begin.
    geometry : PatchGrids
        The grids of all images, without features.
    """

    def __init__(self) -> None:
        self.n_patches = self.n_features = 0
        self._starts = [0]
        self._geometry: list[PatchGrids] = []
        self._lock = Lock()

    def __enter__(self) -> PatchStore:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="pyimgano-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def starts(self) -> np.ndarray:
        return np.array(self._starts, dtype=np.int64)

    @property
    def geometry(self) -> PatchGrids:
        return PatchGrids.concatenate(self._geometry)

    def append(self, grids: PatchGrids) -> None:
        """Write the patches of some more images."""
        self.n_features = grids.n_features
        rows = np.ascontiguousarray(grids.rows, dtype=np.float32)
        n_bytes = self.n_patches * self.n_features * 4 + rows.nbytes
        with naming_temporary_files("the training patches", n_bytes):
            if n_bytes > _IN_MEMORY:
                self._file.rollover()  # before a large block is copied into memory
            self._file.write(rows.data)
            self._file.flush()
        for size in np.diff(grids.starts).tolist():
            self.n_patches += size
            self._starts.append(self.n_patches)
        self._geometry.append(grids.without_features())

    def rows_of(self, i: int, part: slice = slice(None)) -> np.ndarray:
        """Patches of image ``i``, or a part of them, ``(n, n_features)``, float32.

        Any thread may ask.
        """
        # Plain reads, not a memory map: mapped pages would count as this process's memory.
        width = self.n_features * 4
        begin, stop, _ = part.indices(self._starts[i + 1] - self._starts[i])
        with self._lock:
            self._file.seek((self._starts[i] + begin) * width)
            content = self._file.read((stop - begin) * width)
        return np.frombuffer(content, np.float32).reshape(stop - begin, self.n_features)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Patches by their row among all, ``(len(index), n_features)``, in that order."""
        out = np.empty((len(index), self.n_features), np.float32)
        order = np.argsort(index, kind="stable")
        ends = np.searchsorted(index[order], self._starts)
        for i in np.flatnonzero(np.diff(ends)).tolist():
            some = order[ends[i] : ends[i + 1]]
            out[some] = self.rows_of(i)[index[some] - self._starts[i]]
        return out

    def project(self, projection: Projection) -> np.ndarray:
        """All patches projected, image after image."""
        out = np.empty((self.n_patches, projection.n_dims), np.float32)
        for i, (begin, stop) in enumerate(zip(self._starts[:-1], self._starts[1:])):
            out[begin:stop] = projection(self.rows_of(i))
        return out


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
        if self.basis is None:
            return rows
        with one_blas_thread:
            return rows @ self.basis
