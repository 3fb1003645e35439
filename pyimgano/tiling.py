"""Large images as tiles: cut before a detector, stitched after it.

An image and its tiles stay one sample. ``TilingTransformer`` hands a detector a
``TiledImages``: the images, and how to cut them. Nothing is cut before the detector asks for
it, so that one decoded image, one block of tiles and one stitched map are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.inputs import check_images
from pyimgano.inputs._placement import Placement
from pyimgano.inputs._sequence import _Collection
from pyimgano.utils._columns import NoColumnsMixin
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._fitting import FittedParametersMixin
from pyimgano.utils._pairs import check_pair, check_pair_or_none
from pyimgano.utils._tags import ImageInputMixin
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["ImageTiles", "TiledImages", "TilingTransformer"]

_BLENDS = ("hann", "gaussian", "mean", "max")
_REDUCTIONS = ("max", "mean", "topk_mean")


class _Tiling(NamedTuple):
    """The parameters of a ``TilingTransformer``, checked; sizes are (height, width)."""

    tile: tuple[int, int]
    stride: tuple[int, int]
    pad_mode: str
    blend: str
    score_reduce: str
    topk: int

    def reduce(self, scores: np.ndarray) -> float:
        """Score of an image from those of its tiles."""
        if self.score_reduce == "max":
            return float(scores.max())
        if self.score_reduce == "topk_mean":
            scores = np.sort(scores)[-self.topk :]
        return float(scores.mean())


class _Layout(NamedTuple):
    """Positions of the tiles of images of one size, row by row."""

    size: tuple[int, int]
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def n_tiles(self) -> int:
        return len(self.tops) * len(self.lefts)

    def window(self, k: int) -> tuple[slice, slice]:
        """The part of the image under tile ``k``; smaller than a tile if the image is."""
        top, left = self.tops[k // len(self.lefts)], self.lefts[k % len(self.lefts)]
        height, width = self.tile
        return slice(top, min(top + height, self.size[0])), slice(
            left, min(left + width, self.size[1])
        )


@lru_cache(maxsize=64)
def _layout(size: tuple[int, int], tile: tuple[int, int], stride: tuple[int, int]) -> _Layout:
    return _Layout(size, tile, *map(_starts, size, tile, stride))


def _starts(length: int, tile: int, stride: int) -> tuple[int, ...]:
    """Every ``stride`` pixels, and the last one where it ends with the image."""
    last = max(0, length - tile)
    return (*range(0, last, stride), last)


@lru_cache(maxsize=16)
def _weights(layout: _Layout, blend: str) -> tuple[np.ndarray, np.ndarray]:
    """Share of each row and column of tiles in the pixels it covers, ``(n, tile)`` each.

    A tile's weight is the product of a profile down and one across, and the tiles lie on a
    grid, so the sum of all weights at a pixel is a product as well. Two short arrays are
    therefore all that blending needs, for an image of any size.
    """
    return (
        _shares(layout.size[0], layout.tile[0], layout.tops, blend),
        _shares(layout.size[1], layout.tile[1], layout.lefts, blend),
    )


def _shares(length: int, tile: int, starts: tuple[int, ...], blend: str) -> np.ndarray:
    profile = _profile(tile, blend)
    total = np.zeros(max(length, tile))
    for start in starts:
        total[start : start + tile] += profile
    shares = np.stack([profile / total[start : start + tile] for start in starts])
    return shares.astype(np.float32)


def _profile(tile: int, blend: str) -> np.ndarray:
    """Weight along one side of a tile, positive at every pixel."""
    at = (np.arange(tile) + 0.5) / tile
    if blend == "hann":
        return np.sin(np.pi * at) ** 2
    if blend == "gaussian":
        return np.exp(-0.5 * ((at - 0.5) / 0.25) ** 2)
    return np.ones(tile)


class _Canvas:
    """One image, or one map, that its tiles are laid on in their order."""

    def __init__(self, layout: _Layout, blend: str, dtype: Any, channels: Sequence[int]) -> None:
        self._layout = layout
        self._shares = None if blend == "max" else _weights(layout, blend)
        self._dtype = np.dtype(dtype)
        working = np.result_type(self._dtype, np.float32)
        start = 0.0 if self._shares else -np.inf
        self._values = np.full((*layout.size, *channels), start, dtype=working)
        self._n_laid = 0

    def lay(self, tiles: Iterable[np.ndarray]) -> None:
        for tile in tiles:
            rows, columns = self._layout.window(self._n_laid)
            part = self._values[rows, columns]
            tile = np.asarray(tile)[: part.shape[0], : part.shape[1]]
            if self._shares is None:
                np.maximum(part, tile, out=part)
            else:
                down, across = self._shares
                n_across = len(self._layout.lefts)
                row = down[self._n_laid // n_across, : part.shape[0]]
                column = across[self._n_laid % n_across, : part.shape[1]]
                share = row[:, None] * column
                part += tile * share.reshape(share.shape + (1,) * (tile.ndim - 2))
            self._n_laid += 1

    def finish(self) -> np.ndarray:
        if self._n_laid != self._layout.n_tiles:
            raise ValueError(
                f"an image of {self._layout.size[0]} x {self._layout.size[1]} pixels has "
                f"{self._layout.n_tiles} tiles, got {self._n_laid}."
            )
        if self._dtype.kind in "ui":
            np.rint(self._values, out=self._values)
        return self._values.astype(self._dtype, copy=False)


class ImageTiles:
    """The tiles of one image, cut when they are asked for.

    Made by :meth:`TiledImages.iter_images`.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
        The image.
    tiling : tuple
        How it is cut.
    """

    def __init__(self, image: np.ndarray, tiling: _Tiling) -> None:
        self.image = image
        self._tiling = tiling
        height, width = image.shape[:2]
        self._layout = _layout((height, width), tiling.tile, tiling.stride)

    def __len__(self) -> int:
        return self._layout.n_tiles

    @cached_property
    def digest(self) -> bytes:
        """Fingerprint of the whole image."""
        return digest(self.image)

    def __getitem__(self, k: int) -> np.ndarray:
        return _cut(self.image, self._layout.window(k), self._tiling)

    def iter_tiles(self, batch_size: int) -> Iterator[tuple[list[np.ndarray], bytes, int]]:
        """Cut all tiles in order, ``batch_size`` of them at a time.

        Parameters
        ----------
        batch_size : int
            Number of tiles at a time.

        Yields
        ------
        tiles : list of ndarray of shape (tile_height, tile_width, 3), uint8
        image_digest : bytes
            Fingerprint of the whole image.
        first : int
            Number of the first of these tiles in the image.
        """
        for first in range(0, len(self), batch_size):
            last = min(first + batch_size, len(self))
            yield [self[k] for k in range(first, last)], self.digest, first

    def corner(self, k: int) -> tuple[int, int]:
        """Row and column of the image at which tile ``k`` begins.

        Parameters
        ----------
        k : int

        Returns
        -------
        top, left : int
        """
        rows, columns = self._layout.window(k)
        return rows.start, columns.start

    def canvas(self) -> _Canvas:
        """An empty map in the image's pixels, for the maps of the tiles."""
        return _Canvas(self._layout, self._tiling.blend, np.float32, ())

    def reduce(self, scores: np.ndarray) -> float:
        """Score of the image from those of its tiles.

        Parameters
        ----------
        scores : ndarray of shape (n_tiles,)
            Anomaly scores of the tiles, in order.

        Returns
        -------
        float
        """
        return self._tiling.reduce(scores)


def _cut(image: np.ndarray, window: tuple[slice, slice], tiling: _Tiling) -> np.ndarray:
    part = image[window]
    missing = [side - have for side, have in zip(tiling.tile, part.shape)]
    if any(missing):
        mode: Any = tiling.pad_mode
        return np.pad(part, [(0, missing[0]), (0, missing[1]), (0, 0)], mode=mode)
    return np.ascontiguousarray(part)


class _TileList(_Collection):
    """Single tiles of many images by position, for a step that learns from any of them."""

    def __init__(
        self,
        images: _Collection,
        tiling: _Tiling,
        image_of: np.ndarray,
        windows: Sequence[tuple[slice, slice]],
    ) -> None:
        self._images = images
        self._tiling = tiling
        self._image_of = image_of
        self._windows = windows

    def __len__(self) -> int:
        return len(self._image_of)

    def name(self, i: int) -> str:
        rows, columns = self._windows[i]
        image = self._images.name(int(self._image_of[i]))
        return f"{image} from row {rows.start} and column {columns.start}"

    def size(self, i: int) -> tuple[int, int]:
        return self._tiling.tile

    def _get(self, i: int) -> np.ndarray:
        return _cut(self._images[int(self._image_of[i])], self._windows[i], self._tiling)

    def _take(self, indices: np.ndarray) -> _TileList:
        windows = [self._windows[i] for i in indices]
        return _TileList(self._images, self._tiling, self._image_of[indices], windows)

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        block: list[np.ndarray] = []
        at, image = -1, np.empty(0)
        for i, window in zip(self._image_of.tolist(), self._windows):
            if i != at:  # one decoded image at a time, however many of its tiles are next
                at, image = i, self._images[i]
            block.append(_cut(image, window, self._tiling))
            if len(block) == batch_size:
                yield block
                block = []
        if block:
            yield block


class TiledImages(_Collection):
    """Images and how they are cut: what :class:`TilingTransformer` returns.

    One sample is still one image: ``len``, ``shape == (n,)`` and slicing are those of the
    images, and slicing stays lazy. ``tiled[i]`` is an array of the tiles of image ``i``, of
    shape (n_tiles, tile_height, tile_width, 3). Iterating over a large image's tiles in
    blocks (:meth:`iter_images`) needs less memory than the array of them.

    Parameters
    ----------
    images : collection of images
        See :func:`pyimgano.inputs.check_images`.
    tiling : tuple
        How they are cut.

    Attributes
    ----------
    images : collection of images
        The whole images.
    """

    why_not_images = (
        "The images are cut into tiles, which a detector takes, but no step that treats images "
        "one by one: put the feature step inside the detector, "
        "make_pipeline(TilingTransformer(), PatchCoreDetector(features=...)), and other steps "
        "before the TilingTransformer."
    )

    def __init__(self, images: _Collection, tiling: _Tiling) -> None:
        self.images = images
        self._tiling = tiling

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self._tiling.tile
        return f"<TiledImages: {len(self)} images in tiles of {height} x {width} pixels>"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(f"{self!r} is no array. {self.why_not_images}")

    @property
    def paths(self) -> Sequence[str | None]:
        """The image files; None for images in memory."""
        return getattr(self.images, "paths", (None,) * len(self))

    def name(self, i: int) -> str:
        """Return the name of image ``i`` for messages.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        str
        """
        return self.images.name(i)

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image ``i`` in pixels.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        height, width : int
        """
        return self.images.size(i)

    def placement(self, i: int) -> Placement | None:
        """Say where image ``i`` lies in the image that came in.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        Placement or None
            None, unless a step has cropped or moved the image.
        """
        return self.images.placement(i)

    def _get(self, i: int) -> np.ndarray:
        tiles = ImageTiles(self.images[i], self._tiling)
        return np.stack([tiles[k] for k in range(len(tiles))])

    def _take(self, indices: np.ndarray) -> TiledImages:
        return TiledImages(self.images[indices], self._tiling)

    @property
    def index(self) -> Any:
        """Index of the table the images came from; None for others."""
        return self.images.index

    def iter_images(self) -> Iterator[ImageTiles]:
        """The images one by one, each as its tiles. No file is decoded ahead."""
        for i in range(len(self)):
            yield ImageTiles(self.images[i], self._tiling)

    def iter_tiles(self, batch_size: int) -> Iterator[tuple[list[np.ndarray], bytes, int]]:
        """Cut all tiles in order, image after image; no block holds tiles of two images.

        Parameters
        ----------
        batch_size : int
            Number of tiles at a time, at most.

        Yields
        ------
        tiles, image_digest, first
            As from :meth:`ImageTiles.iter_tiles`.
        """
        for tiles in self.iter_images():
            yield from tiles.iter_tiles(batch_size)

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        """Cut all tiles in order, without what they were cut from.

        Parameters
        ----------
        batch_size : int
            Number of tiles at a time, at most.

        Yields
        ------
        list of ndarray of shape (tile_height, tile_width, 3), uint8
        """
        for tiles, _, _ in self.iter_tiles(batch_size):
            yield tiles

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of tiles of each image, ``(n,)``. Of files only the header is read."""
        return np.array([self._layout_of(i).n_tiles for i in range(len(self))], dtype=np.int64)

    def _layout_of(self, i: int) -> _Layout:
        return _layout(self.size(i), self._tiling.tile, self._tiling.stride)

    def reduce(self, scores: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Scores of the images ``(n,)`` from those of all tiles.

        Parameters
        ----------
        scores : ndarray of shape (n_tiles,)
            Anomaly scores of all tiles of all images, in order.
        counts : ndarray of shape (n,), int, default=None
            Number of tiles of each image, where the scores are those of other images.

        Returns
        -------
        ndarray of shape (n,)
        """
        counts = self.counts if counts is None else counts
        if len(scores) != counts.sum():
            raise ValueError(f"expected a score for each of {counts.sum()} tiles.")
        parts = np.split(scores, np.cumsum(counts)[:-1])
        return np.array([self._tiling.reduce(part) for part in parts])

    def side_by_side(self) -> _Collection:
        """Tiles that do not overlap, as a collection of single images.

        For a step that learns what differs between images: of two tiles that overlap it would
        learn that nothing does. What a last tile would have to overlap for is left out.
        """
        image_of: list[int] = []
        windows: list[tuple[slice, slice]] = []
        (height, width), tile = self._tiling.tile, self._tiling.tile
        for i in range(len(self)):
            size = self.size(i)
            whole = (max(size[0] // height * height, 1), max(size[1] // width * width, 1))
            layout = _Layout(
                size, tile, tuple(range(0, whole[0], height)), tuple(range(0, whole[1], width))
            )
            windows += [layout.window(k) for k in range(layout.n_tiles)]
            image_of += [i] * layout.n_tiles
        return _TileList(self.images, self._tiling, np.array(image_of), windows)


class TilingTransformer(
    FittedParametersMixin,
    NoColumnsMixin,
    ImageInputMixin,
    VersionStampMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Cut large images into tiles for a detector, which stitches its maps back.

    A step between :class:`~pyimgano.inputs.ImageFormatNormalizer` and a detector. A detector
    that shrinks an image to its working size loses what is small; on tiles it sees every
    pixel. It learns from the tiles as from so many images, but a sample stays an image: one
    score, one label, one map in the image's own pixels, and where a training image is left
    out, all of its tiles are.

    Parameters
    ----------
    tile : int or (height, width), default=256
        Size of the tiles in pixels; an integer is both sides.
    stride : int or (height, width), default=None
        Pixels from one tile to the next, at most ``tile``; None is ``tile``, no overlap. The
        last tile of a row or column is moved back so that it ends with the image. With an
        overlap, such as half a tile, a defect on a seam is seen whole by some tile.
    pad_mode : {"reflect", "symmetric", "edge", "constant"}, default="reflect"
        How an image smaller than a tile is filled up, at the bottom and on the right:
        mirrored without or with its last pixel repeated, that pixel continued, or black. The
        map is cropped back.
    blend : {"hann", "gaussian", "mean", "max"}, default="hann"
        How overlapping tiles are put together. ``"hann"`` and ``"gaussian"`` (standard
        deviation a quarter of the tile) give a tile's middle more weight than its border,
        where a detector sees less; ``"mean"`` does not; ``"max"`` takes the largest value. The
        weights at each pixel add up to one.
    score_reduce : {"max", "mean", "topk_mean"}, default="max"
        Score of an image: the largest, the mean, or the mean of the ``topk`` largest scores
        of its tiles.
    topk : int, default=3
        Tiles that count for ``score_reduce="topk_mean"``; all if there are fewer.

    Raises
    ------
    ValueError
        If the stride is larger than the tile: there would be holes.

    Notes
    -----
    Stateless: nothing is learned in ``fit``, and it need not be called. If it was, images are cut
    with the parameters of that call until the next one. ``transform`` cuts nothing yet: the
    detector decodes one image at a time and cuts a block of tiles from it, and the stitched map
    is the only other array of the image's size.

    A feature step inside the detector learns from tiles that lie side by side, whatever the
    stride.

    Examples
    --------
    A spot of 6 pixels, invisible when the image is shrunk to 64 pixels:

    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from pyimgano import PatchCoreDetector, TilingTransformer, anomaly_map
    >>> from pyimgano.features import FilterBankFeatures
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(6, 128, 128, 3)).astype(np.uint8)
    >>> pipe = make_pipeline(
    ...     TilingTransformer(tile=64), PatchCoreDetector(FilterBankFeatures(resize=64))
    ... ).fit(good)
    >>> bad = rng.randint(90, 110, size=(1, 128, 128, 3)).astype(np.uint8)
    >>> bad[0, 80:86, 40:46] = 200
    >>> pipe.predict(bad)
    array([-1])
    >>> heat = anomaly_map(pipe, bad)[0]
    >>> row, column = np.unravel_index(heat.argmax(), heat.shape)
    >>> heat.shape, bool(abs(row - 83) < 16), bool(abs(column - 43) < 16)
    ((128, 128), True, True)

    Tiles and back:

    >>> tiles = TilingTransformer(tile=100, stride=80).transform(good)
    >>> len(tiles), tiles[0].shape
    (6, (4, 100, 100, 3))
    >>> images = TilingTransformer(tile=100, stride=80).inverse_transform(tiles)
    >>> bool((images == good).all())
    True
    """

    _parameter_constraints: dict = {
        "tile": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "stride": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "pad_mode": [StrOptions({"reflect", "symmetric", "edge", "constant"})],
        "blend": [StrOptions(set(_BLENDS))],
        "score_reduce": [StrOptions(set(_REDUCTIONS))],
        "topk": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        tile: int | tuple[int, int] = 256,
        *,
        stride: int | tuple[int, int] | None = None,
        pad_mode: str = "reflect",
        blend: str = "hann",
        score_reduce: str = "max",
        topk: int = 3,
    ) -> None:
        self.tile = tile
        self.stride = stride
        self.pad_mode = pad_mode
        self.blend = blend
        self.score_reduce = score_reduce
        self.topk = topk

    def fit(self, X: object, y: object = None) -> TilingTransformer:
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X : images
            Not looked at.
        y : ignored

        Returns
        -------
        self
        """
        self._tiling()
        self._keep_parameters()
        return self

    def transform(self, X: object) -> TiledImages:
        """Give the images together with how they are cut.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            The images, of any sizes, see :func:`pyimgano.inputs.check_images`.

        Returns
        -------
        TiledImages
            As many samples as there are images. Nothing is decoded or copied yet.
        """
        return TiledImages(check_images(X), self._as_fitted()._tiling())

    def inverse_transform(
        self, X: Any, image_sizes: Sequence[tuple[int, int]] | None = None
    ) -> np.ndarray | list[np.ndarray]:
        """Stitch tiles to images, or maps of tiles to maps of images.

        Parameters
        ----------
        X : TiledImages, or sequence of ndarray of shape (n_tiles, tile_height, tile_width, ...)
            What ``transform`` returned, or the tiles of each image in the same order: pixels,
            or a map per tile. Of any real dtype.
        image_sizes : sequence of (height, width), default=None
            Size of each image in pixels. Needed unless ``X`` is a :class:`TiledImages`.

        Returns
        -------
        ndarray of shape (n_images, height, width, ...)
            A list of arrays when sizes differ. Of the dtype of the tiles; integers are
            rounded.

        Raises
        ------
        ValueError
            When the number or the size of the tiles is not that of the images' sizes.
        """
        tiling = self._as_fitted()._tiling()
        if isinstance(X, TiledImages):
            tiling = X._tiling  # parameters may have been set since
            sizes = [X.size(i) for i in range(len(X))]
        elif image_sizes is None:
            raise ValueError(
                "image_sizes is needed: arrays of tiles do not say how large the images are. "
                "Give (height, width) of each."
            )
        else:
            sizes = [(int(height), int(width)) for height, width in image_sizes]
        if len(sizes) != len(X):
            raise ValueError(f"there are tiles of {len(X)} images, but {len(sizes)} image_sizes.")
        stitched = []
        for i, size in enumerate(sizes):
            tiles = np.asarray(X[i])
            layout = _layout(size, tiling.tile, tiling.stride)
            expected = (layout.n_tiles, *tiling.tile)
            if tiles.shape[:3] != expected:
                raise ValueError(
                    f"the tiles of image {i} have shape {tiles.shape}; an image of {size[0]} x "
                    f"{size[1]} pixels has tiles of shape {expected}."
                )
            canvas = _Canvas(layout, tiling.blend, tiles.dtype, tiles.shape[3:])
            canvas.lay(tiles)
            stitched.append(canvas.finish())
        return np.stack(stitched) if len(set(sizes)) == 1 else stitched

    def _tiling(self) -> _Tiling:
        self._validate_params()
        tile = check_pair(self.tile, "tile")
        stride = check_pair_or_none(self.stride, "stride") or tile
        if stride[0] > tile[0] or stride[1] > tile[1]:
            raise ValueError(
                f"stride={self.stride!r} is larger than tile={self.tile!r}: pixels between the "
                "tiles would never be looked at. Use a stride of at most the tile."
            )
        return _Tiling(tile, stride, self.pad_mode, self.blend, self.score_reduce, int(self.topk))
