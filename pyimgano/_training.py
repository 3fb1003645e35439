"""Streams training samples in blocks and records which of them come from the same image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Callable, Generic, NamedTuple, TypeVar

import numpy as np

from pyimgano.tiling import ImageTiles, TiledImages
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._threads import map_in_threads, n_threads, prefetch

__all__ = ["SampleKey", "TrainingStream", "iter_keyed_images", "sample_keys"]

Block = TypeVar("Block")


class SampleKey(NamedTuple):
    """Identifies a sample by the content of its image and its tile number.

    Parameters
    ----------
    image : bytes
        Digest of the whole image, or of the feature row.
    tile : int, default=0
        Position of the tile in its image, from 0.
    """

    image: bytes
    tile: int = 0


def sample_keys(images: list[np.ndarray], region: np.ndarray | None = None) -> list[SampleKey]:
    """Compute the keys of whole images.

    Parameters
    ----------
    images : list of ndarray of shape (height, width, 3), uint8
        The images.
    region : ndarray of shape (height, width), bool, default=None
        The pixels that count; all by default. Images that differ only elsewhere have the same
        key.

    Returns
    -------
    list of SampleKey
    """

    def key(image: np.ndarray) -> SampleKey:
        return SampleKey(digest(image if region is None else image[region]))

    return map_in_threads(key, images, n_threads())


def iter_keyed_images(
    images: Any, batch_size: int, region: np.ndarray | None = None
) -> Iterator[tuple[list[np.ndarray], list[SampleKey]]]:
    """Read images, or tiles of images, in blocks together with their keys.

    A tile's key is the digest of its whole image plus the tile's number. The tile's own content
    would not do: identical background tiles occur in different images.

    Parameters
    ----------
    images : collection of images
        What :func:`~pyimgano.inputs.check_images` returns, or tiled images.
    batch_size : int
        Number of images or tiles at a time.
    region : ndarray of shape (height, width), bool, default=None
        The pixels of whole images that count; all by default.

    Yields
    ------
    images : list of ndarray of shape (height, width, 3), uint8
    keys : list of SampleKey
    """
    if isinstance(images, (TiledImages, ImageTiles)):
        for tiles, image_digest, first in images.iter_tiles(batch_size):
            yield tiles, [SampleKey(image_digest, first + k) for k in range(len(tiles))]
    else:
        for block in images.iter_blocks(batch_size):
            yield block, sample_keys(block, region)


class TrainingStream(Generic[Block]):
    """Iterates over the training samples in blocks and records which share a source image.

    A sample is an image, or a tile where images are cut into tiles. The stream
    can be iterated over once, which fills the attributes below. For further passes, such as
    those of a training loop, call :meth:`replay`.

    Parameters
    ----------
    read_blocks : callable
        Returns an iterator over (block, list of SampleKey); called anew for every pass.
    n_samples : int
        Number of training samples.
    verbose : bool, default=False
        Show a progress bar where reading takes more than two seconds.
    on_block : callable, default=None
        ``on_block(block, groups)`` is called with each block of the first pass and the groups of
        its samples, before the block is yielded; not with augmented views.
    known : mapping of bytes to int, default=None
        ``group_of_image`` of images that were learned from earlier: a copy of one of them joins
        its group.
    n_known : int, default=0
        Number of those images; the groups of others are counted from it on.

    Attributes
    ----------
    n_samples : int
        Number of training samples.
    group_of : ndarray of shape (n_samples,), int
        Index of the training image that each sample is, or was cut from. Identical images share
        the index of the first. A group is left out as a whole. Augmented views, if any, follow
        the samples. Complete once the first pass is over.
    duplicate_of : ndarray of shape (n_samples,), int
        Index of the first sample with the same key: same image content, same tile number.
        Complete once the first pass is over.
    group_of_image : dict of bytes to int
        Maps an image digest to its group, with those known before. Complete once the first pass
        is over.
    image_groups : ndarray of shape (n_images,), int
        Group of each image, of one in tiles as well. Complete once the first pass is over.

    Raises
    ------
    RuntimeError
        If the stream is iterated over a second time.
    """

    def __init__(
        self,
        read_blocks: Callable[[], Iterator[tuple[Block, list[SampleKey]]]],
        n_samples: int,
        verbose: bool = False,
        on_block: Callable[[Block, np.ndarray], None] | None = None,
        known: Mapping[bytes, int] | None = None,
        n_known: int = 0,
    ) -> None:
        self.n_samples = n_samples
        self._on_block = on_block
        self._read_blocks = read_blocks
        self._verbose = verbose
        self._begun = False
        self._group_of_image: dict[bytes, int] = dict(known or {})
        self._group_of: list[int] = []
        self._image_groups: list[int] = []
        self._duplicate_of: list[int] = []
        self._first_with_key: dict[SampleKey, int] = {}
        self._n_images = n_known

    def __iter__(self) -> Iterator[Block]:
        if self._begun:
            raise RuntimeError(
                "the training stream can be iterated over only once; use replay() for another pass."
            )
        self._begun = True
        return self._first_pass()

    def _first_pass(self) -> Iterator[Block]:
        with progress_callback("training images", self._verbose) as progress:
            for block, keys in prefetch(self._read_blocks()):
                n_before = len(self._group_of)
                for key in keys:
                    self._n_images += key.tile == 0  # each image begins with its first tile
                    group = self._group_of_image.setdefault(key.image, self._n_images - 1)
                    self._group_of.append(group)
                    if key.tile == 0:
                        self._image_groups.append(group)
                    self._duplicate_of.append(
                        self._first_with_key.setdefault(key, len(self._duplicate_of))
                    )
                if progress is not None:
                    progress(len(self._group_of), self.n_samples)
                if self._on_block is not None and n_before < self.n_samples:
                    self._on_block(block, self.groups_since(n_before))
                yield block

    def replay(self) -> Iterator[Block]:
        """Read the training samples once more, in the same order.

        Images are decoded and features computed again.

        Yields
        ------
        block
            The same blocks as in the first pass.
        """
        for block, _ in prefetch(self._read_blocks()):
            yield block

    @property
    def group_of(self) -> np.ndarray:
        return np.array(self._group_of, dtype=np.int64)

    @property
    def image_groups(self) -> np.ndarray:
        return np.array(self._image_groups, dtype=np.int64)

    @property
    def duplicate_of(self) -> np.ndarray:
        return np.array(self._duplicate_of, dtype=np.int64)

    @property
    def group_of_image(self) -> dict[bytes, int]:
        return dict(self._group_of_image)

    def groups_since(self, first: int) -> np.ndarray:
        """Return the groups of the samples from index ``first`` on.

        The same as ``group_of[first:]``, without copying all of them for every block.

        Parameters
        ----------
        first : int
            Number of samples to leave out.

        Returns
        -------
        ndarray of shape (n_read - first,), int
        """
        return np.array(self._group_of[first:], dtype=np.int64)
