"""``SampleStore``: what a training loop reads again and again, computed once."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from pyimgano.exceptions import ImageFormatError
from pyimgano.utils._outputs import naming_temporary_files

__all__ = ["Sample", "SampleStore", "compact"]

#: What is known of one image: a few arrays, float16 or integers.
Sample = tuple[Any, ...]

# Samples are kept in memory up to this many bytes, in a file beyond.
_IN_MEMORY = 256 * 2**20
_LARGEST = float(np.finfo(np.float16).max)


def compact(values: np.ndarray) -> np.ndarray:
    """Round features to float16, in which they are kept.

    An image that is scored goes through the same rounding as one that is kept for training, so
    both have the same features, bit for bit. The rounding is by at most 0.05 % of a value.

    Parameters
    ----------
    values : ndarray, float

    Returns
    -------
    ndarray, float16
        Values beyond 65504, the largest of the type, become that.
    """
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)


class SampleStore:
    """Samples of all training images, to be read again in any order.

    Up to 256 MiB are kept in memory. More lies in an unnamed temporary file, where :mod:`tempfile`
    puts it (the environment variable ``TMPDIR``), which is gone when the context ends.

    Parameters
    ----------
    owner : str
        Name of the estimator, for errors.

    Attributes
    ----------
    shapes : list of (dtype, shape)
        Of the arrays of each sample, which are those of the first.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._n, self._sha256 = 0, hashlib.sha256()
        self.shapes: list[tuple[np.dtype, tuple[int, ...]]] = []

    def __enter__(self) -> SampleStore:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="pyimgano-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._n

    @property
    def n_bytes(self) -> int:
        """Bytes of one sample."""
        return sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in self.shapes)

    @property
    def sha256(self) -> str:
        """sha256 of all samples, in order."""
        return self._sha256.hexdigest()

    def append(self, samples: Sequence[Sample]) -> None:
        """Keep some more samples."""
        for sample in samples:
            shapes = [(np.asarray(one).dtype, np.asarray(one).shape) for one in sample]
            if not self.shapes:
                self.shapes = shapes
            if shapes != self.shapes:
                raise ImageFormatError(
                    f"{self._owner} trains on images of one working size, and sample {self._n} "
                    f"becomes arrays of shapes {[s for _, s in shapes]} where the first became "
                    f"{[s for _, s in self.shapes]}: give the feature step a fixed resize."
                )
            with naming_temporary_files("the training samples", self.n_bytes * (self._n + 1)):
                for one in sample:
                    content = np.ascontiguousarray(one).tobytes()
                    self._sha256.update(content)
                    self._file.write(content)
            self._n += 1

    def __getitem__(self, i: int) -> Sample:
        self._file.seek(i * self.n_bytes)
        content = self._file.read(self.n_bytes)
        sample, start = [], 0
        for dtype, shape in self.shapes:
            count = int(np.prod(shape))
            sample.append(np.frombuffer(content, dtype, count, start).reshape(shape))
            start += count * dtype.itemsize
        return tuple(sample)
