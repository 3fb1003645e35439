"""Collections of images: lazy files, arrays in memory, and the door they come through."""

from __future__ import annotations

import fnmatch
import itertools
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyimgano.exceptions import ImageFormatError, ImageReadError
from pyimgano.inputs._containers import (
    as_list,
    first_index,
    is_path,
    refuse_names_in_a_cache,
)
from pyimgano.inputs._formats import (
    check_u16_max,
    describe,
    ensure_rgb_u8_hwc,
    is_torch_tensor,
    way_out,
)
from pyimgano.inputs._placement import Placement
from pyimgano.inputs._reading import (
    PICTURES,
    as_canonical,
    pil_pixels,
    read_image,
    read_raw,
    read_size,
)
from pyimgano.utils._columns import index_of, take_index
from pyimgano.utils._files import natural
from pyimgano.utils._pairs import check_pair_or_none
from pyimgano.utils._threads import n_decoding_threads

_BLOCKS_AHEAD = 2
# Folders of masks and thumbnails, which are no images to judge. Hidden ones go anyway.
_NOT_PARTS = frozenset(("ground_truth", "@eaDir", ".thumbnails", "__MACOSX"))


class _Collection:
    """Images by position: what the kinds of collection share."""

    #: What stands where single images are needed, and what to do about it; None for images.
    why_not_images: str | None = None
    #: Why the format of these images can no longer be declared; None if it can.
    why_no_format: str | None = None
    # Index of the table the images came from, which their features go back to; None for others.
    index: Any = None

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        raise NotImplementedError

    def size(self, i: int) -> tuple[int, int]:
        raise NotImplementedError

    def _get(self, i: int) -> np.ndarray:
        raise NotImplementedError

    def _take(self, indices: np.ndarray) -> _Collection:
        raise NotImplementedError

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
        return None

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int]:
        """``(n,)``: scikit-learn slices what has a shape by ``X[indices]``."""
        return (len(self),)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # scikit-learn's X[indices, ...]
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            n = len(self)
            if not -n <= key < n:
                raise IndexError(f"image {key} of {n}")
            return self._get(int(key) % n)
        if isinstance(key, slice):
            return self._take(np.arange(len(self))[key])
        if isinstance(key, tuple):
            raise IndexError("images are indexed by an integer, a slice or a 1-D array")
        key = np.asarray(key)
        if key.size == 0 and key.dtype != bool:
            key = key.astype(np.intp)  # [] would be an array of floats
        if key.ndim != 1:
            raise IndexError("images are indexed by an integer, a slice or a 1-D array")
        return self._take(np.arange(len(self))[key])

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(len(self)):
            yield self._get(i)


class _ImageList(_Collection):
    """Canonical images in memory; made by :func:`check_images` only."""

    def __init__(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        index: Any = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        self._images = images
        if index is not None:
            self.index = index
        # Where each image stands in what the caller gave, for messages.
        first = first_index()
        self._positions = range(first, first + len(images)) if positions is None else positions

    def __len__(self) -> int:
        return len(self._images)

    def __repr__(self) -> str:
        return f"<{len(self)} images in memory>"

    def name(self, i: int) -> str:
        return f"image {self._positions[i]}"

    def size(self, i: int) -> tuple[int, int]:
        height, width = self._images[i].shape[:2]
        return height, width

    def _get(self, i: int) -> np.ndarray:
        return self._images[i]

    def _take(self, indices: np.ndarray) -> _ImageList:
        images = [self._images[i] for i in indices]  # views, not a copy
        positions = [self._positions[i] for i in indices]
        return _ImageList(images, take_index(self.index, indices), positions)

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        _check_batch_size(batch_size)
        for start in range(0, len(self), batch_size):
            yield list(self._images[start : start + batch_size])


class ImageSequence(_Collection):
    """Image files as a sequence of images that are decoded when they are asked for.

    ``sequence[3]`` is an image; ``sequence[2:5]``, an index array or a mask gives another
    sequence and reads nothing, so that scikit-learn's splitters and searches can slice it.

    Parameters
    ----------
    paths : sequence of str, Path or os.DirEntry
        The image files, in a list, an array or a table column: PNG, JPEG, TIFF, BMP, WebP,
        PNM, GIF or JPEG 2000, each of a single image; gray, RGB or palette, 8 or 16 bit (color
        of 16 bits in PNG, TIFF and PPM). Each file says its own layout. They are looked at only
        when read.
    resize : int or (height, width), default=None
        Size of the decoded images in pixels; an integer is both sides. None keeps each
        file's own. Area averages when shrinking, linear interpolation when growing.
    u16_max : int, default=None
        Value of full white in 16-bit files, such as 4095 for a 12-bit sensor. None is
        65535, unless an :class:`ImageFormatNormalizer` that comes later says otherwise.
    n_threads : int, default=None
        Threads that decode ahead in :meth:`iter_blocks`. None takes the number of
        processors, 8 at most.

    Attributes
    ----------
    paths : tuple of str
        The files.
    shape : tuple
        ``(n,)``.

    Notes
    -----
    The orientation tag of EXIF is applied, color profiles are not. An alpha channel is
    dropped where every pixel is opaque and an error elsewhere.

    The pickled state carries size and modification time of the files, as found at that
    moment, so that ``joblib.hash`` and ``joblib.Memory`` notice a changed file.
    A file that lacks pixels is an error, and so is a PNG with a wrong checksum. The other
    formats have no checksums: altered bytes within them can go unnoticed. What follows the
    pixels, such as metadata, may be missing.

    Examples
    --------
    >>> from pyimgano.inputs import ImageSequence
    >>> images = ImageSequence(["a.png", "b.png", "c.png"], resize=256)
    >>> len(images), images[1:].paths
    (3, ('b.png', 'c.png'))
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        resize: int | tuple[int, int] | None = None,
        u16_max: int | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.paths = _check_paths(paths)
        index = index_of(paths)
        if index is not None:
            self.index = index
        self.resize = check_pair_or_none(resize, "resize")
        self.u16_max = None if u16_max is None else check_u16_max(u16_max)
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"n_threads={n_threads} must be at least 1")
        self.n_threads = n_threads

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        pattern: str | None = None,
        recursive: bool = False,
        *,
        resize: int | tuple[int, int] | None = None,
        u16_max: int | None = None,
        n_threads: int | None = None,
    ) -> ImageSequence:
        """List the images of a folder, in natural order (``2.png`` before ``10.png``).

        Parameters
        ----------
        folder : str or Path
            An existing folder.
        pattern : str, default=None
            Glob pattern of the file names, such as ``"*_top.png"``. None takes every file
            with the suffix of a picture, those of kinds that cannot be read too (HEIC, AVIF,
            camera raw): each is an error when it is read, not left out. Hidden files are left
            out.
        recursive : bool, default=False
            Whether to go into subfolders; those named ``ground_truth`` (masks), ``@eaDir``,
            ``.thumbnails`` and ``__MACOSX`` (thumbnails and the like) are left out.
        resize, u16_max, n_threads
            As in :class:`ImageSequence`.

        Returns
        -------
        ImageSequence

        Raises
        ------
        ImageReadError
            When the folder does not exist, is a file, or holds no matching image.
        """
        root = Path(folder)
        if root.is_file():
            raise ImageReadError(root, "is a file, not a folder; pass [path] for one image")
        if not root.is_dir():
            raise ImageReadError(root, "this folder does not exist")
        found = image_files(root, pattern, recursive)
        if not found:
            below = " or those below it" if recursive else ""
            what = f"no file matches {pattern!r}" if pattern else "no file has a suffix of pictures"
            files = [f"{path.name!r}" for path in _entries(root, None, recursive)]
            there = f"; there are {len(files)} files, such as {files[0]}" if files else ""
            hint = "" if recursive else "; recursive=True looks into subfolders"
            raise ImageReadError(
                root, f"there is no image in this folder{below}: {what}{there}{hint}"
            )
        return cls(found, resize=resize, u16_max=u16_max, n_threads=n_threads)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        first = f", first {self.paths[0]!r}" if self.paths else ""
        return f"<ImageSequence of {len(self)} files{first}>"

    def name(self, i: int) -> str:
        """The path of image ``i``, for messages.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        str
        """
        return self.paths[i]

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image ``i`` in pixels; of the file only the header is parsed.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        height, width : int
        """
        return self.resize or read_size(self.paths[i])

    def read_raw(self, i: int) -> np.ndarray:
        """Decode file ``i`` as it is: no scaling of 16 bits, no resizing.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        ndarray of shape (H, W) or (H, W, 3), uint8 or uint16
            Gray or RGB, upright.
        """
        return np.require(read_raw(self.paths[i]), requirements=["C", "W"])

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        """Decode all images in order, a block at a time, reading ahead in threads.

        Parameters
        ----------
        batch_size : int
            Images per block. About three blocks are in memory at a time.

        Yields
        ------
        list of ndarray of shape (H, W, 3), uint8

        Raises
        ------
        ImageReadError
            When the block that holds the unreadable file is asked for.
        """
        _check_batch_size(batch_size)
        n_threads = self.n_threads or n_decoding_threads()
        jobs = iter(self.paths)
        pending: deque[Future[np.ndarray]] = deque()
        pool = ThreadPoolExecutor(min(n_threads, max(len(self), 1)), "pyimgano-decode")
        try:
            ahead = batch_size * (1 + _BLOCKS_AHEAD)
            while True:
                for path in itertools.islice(jobs, ahead - len(pending)):
                    pending.append(pool.submit(self._read, path))
                if not pending:
                    return
                block = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
                yield [future.result() for future in block]
        finally:  # also when the caller stops early, or on Ctrl-C
            pool.shutdown(wait=True, cancel_futures=True)

    def _get(self, i: int) -> np.ndarray:
        return self._read(self.paths[i])

    def _read(self, path: str) -> np.ndarray:
        return read_image(path, self.u16_max or 65535, self.resize)

    def _take(self, indices: np.ndarray) -> ImageSequence:
        changes: dict[str, Any] = {"paths": tuple(self.paths[i] for i in indices)}
        if self.index is not None:
            changes["index"] = take_index(self.index, indices)
        return self._with(**changes)

    def declare(self, *, resize: tuple[int, int] | None, u16_max: int) -> ImageSequence:
        """The same files, with what an :class:`ImageFormatNormalizer` declares about them.

        Parameters
        ----------
        resize : (height, width) or None
            Size of the decoded images; None leaves this sequence's own.
        u16_max : int
            Value of full white in 16-bit files.

        Returns
        -------
        ImageSequence

        Raises
        ------
        ImageFormatError
            When this sequence already declares something else.
        """
        if self.u16_max not in (None, u16_max):
            raise ImageFormatError(
                f"the ImageSequence declares u16_max={self.u16_max}, the ImageFormatNormalizer "
                f"u16_max={u16_max}; declare the same in both, or only in the normalizer"
            )
        if None not in (resize, self.resize) and resize != self.resize:
            raise ImageFormatError(
                f"the ImageSequence declares resize={self.resize}, the ImageFormatNormalizer "
                f"resize={resize}; declare the same in both, or only in the normalizer"
            )
        return self._with(resize=resize or self.resize, u16_max=u16_max)

    def _with(self, **changes: Any) -> ImageSequence:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, **changes)
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "files_": tuple(size_and_mtime(path) for path in self.paths)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update((k, v) for k, v in state.items() if k != "files_")


class KeptImages(ImageSequence):
    """Image files whose pixels are kept after they were read, until they are taken.

    A picture of a verdict is then drawn from the pixels that were judged, whatever has become
    of the file.

    Parameters
    ----------
    paths : sequence of str or Path
        The image files.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        super().__init__(paths)
        self._forget_all()

    @classmethod
    def of(cls, images: Any) -> KeptImages | None:
        """Keep the pixels of images that are files.

        Parameters
        ----------
        images : input of an estimator
            Such as an :class:`ImageSequence` or a list of paths.

        Returns
        -------
        KeptImages or None
            The same images; None if they are not files.
        """
        if isinstance(images, (list, tuple)) and images and is_path(images[0]):
            images = ImageSequence(images)
        if not isinstance(images, ImageSequence):
            return None
        new = object.__new__(cls)
        new.__dict__.update(images.__dict__)
        new._forget_all()
        return new

    def take(self, path: str) -> np.ndarray | None:
        """Give the pixels of a file as they were read last; None if it was not read.

        They are forgotten when they have been taken as often as the file is listed.

        Parameters
        ----------
        path : str

        Returns
        -------
        ndarray of shape (H, W, 3) or None
        """
        self._times[path] -= 1
        if self._times[path] > 0:
            return self._kept.get(path)
        return self._kept.pop(path, None)

    def _forget_all(self) -> None:
        self._kept: dict[str, np.ndarray] = {}
        self._times = Counter(self.paths)

    def _read(self, path: str) -> np.ndarray:
        image = super()._read(path)
        self._kept[path] = image
        return image

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": {}, "_times": Counter()}


def check_images(X: object) -> _Collection:
    """Check that ``X`` is what detectors and feature steps take as images.

    Parameters
    ----------
    X : sequence of paths, ImageSequence, or uint8 RGB images
        Paths (``str``, ``Path``, ``os.DirEntry``) in a list, an array, a column of a table, a
        table of one column, or the views of a dict; an :class:`ImageSequence`; a uint8 array
        of shape (N, H, W, 3); a list or object array of uint8 (H, W, 3) of any sizes, or of
        PIL images; or what this function returned.

    Returns
    -------
    collection
        ``len(c)``, ``c.shape == (n,)``, ``c[i]`` an image, ``c[indices]`` a collection,
        ``c.iter_blocks(batch_size)`` lists of images, ``c.size(i)`` height and width,
        ``c.name(i)`` for messages. Images in memory are not copied; do not write to them.

    Raises
    ------
    ImageFormatError
        When ``X`` is anything else; the message says what came and which
        ``ImageFormatNormalizer(input_format=...)`` accepts it, where one does.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.inputs import check_images
    >>> images = check_images(np.zeros((4, 8, 8, 3), dtype=np.uint8))
    >>> [len(block) for block in images.iter_blocks(3)]
    [3, 1]
    """
    if isinstance(X, _Collection):
        if X.why_not_images:
            raise ImageFormatError(f"X is {describe(X)}. {X.why_not_images}")
        if not len(X):
            raise ImageFormatError("X holds no images; at least one is needed")
        return X
    if isinstance(X, (str, os.PathLike)):
        raise ImageFormatError(
            f"X is the single path {os.fspath(X)!r}; pass a list, [path], or for a folder "
            "ImageSequence.from_folder(path)"
        )
    index, X = index_of(X), as_list(X)
    if isinstance(X, np.ndarray) and X.ndim >= 1:
        return _check_batch(X)
    if not isinstance(X, (list, tuple)):
        sentence = way_out(X, batch=True) if is_torch_tensor(X) else ""
        raise ImageFormatError(f"X is {describe(X)}. {_NEEDED} {sentence}".rstrip())
    if not X:
        raise ImageFormatError("X holds no images; at least one is needed")
    if is_path(X[0]):
        refuse_names_in_a_cache()
        images = ImageSequence(X)
        return images if index is None else images._with(index=index)
    return _ImageList([_check_one(image, i) for i, image in enumerate(X, first_index())], index)


_NEEDED = (
    "Images are a sequence of paths, an ImageSequence, a uint8 RGB array of shape (N, H, W, 3), "
    "or a list of uint8 RGB arrays of shape (H, W, 3)."
)


def _check_batch(X: np.ndarray) -> _ImageList:
    if isinstance(X, np.ma.MaskedArray):
        raise ImageFormatError(f"X is {describe(X)}. {way_out(X, batch=True)}")
    if X.shape[0] == 0:
        raise ImageFormatError(f"X is {describe(X)}: no images; at least one is needed")
    if X.ndim == 4 and X.dtype == np.uint8 and X.shape[3] == 3 and X.size:
        return _ImageList(X)
    if (X.ndim == 3 and X.shape[2] in (3, 4)) or (X.ndim == 3 and X.shape[0] == 3):
        sentence = f"If it is one image, pass a list, [image]. {way_out(X)}"
    elif X.ndim == 2:
        sentence = "Rows of numbers are not images; if it is one gray image, pass [image]."
    elif X.ndim == 1:
        sentence = ""
    else:
        sentence = way_out(X, batch=True)
    raise ImageFormatError(f"X is {describe(X)}. {_NEEDED} {sentence}".rstrip())


def _check_one(image: object, i: int) -> np.ndarray:
    if isinstance(image, (str, os.PathLike)):
        raise ImageFormatError(
            f"image {i} of X is the path {os.fspath(image)!r}, and others are arrays; pass "
            "either paths or arrays"
        )
    if isinstance(image, Image.Image):
        pixels = pil_pixels(image, f"image {i} of X")
        if pixels.dtype == np.uint16:
            raise ImageFormatError(
                f"image {i} of X is {describe(image)}: 16 bits, whose full white is not known. "
                "Put ImageFormatNormalizer(u16_max=...) first in the pipeline."
            )
        return as_canonical(pixels, 65535, f"image {i} of X")
    return ensure_rgb_u8_hwc(image, f"image {i} of X")  # type: ignore[arg-type]


def image_files(root: Path, pattern: str | None = None, recursive: bool = True) -> list[Path]:
    """List the images of a folder in natural order, as :meth:`ImageSequence.from_folder` does.

    Parameters
    ----------
    root : Path
        An existing folder.
    pattern, recursive
        As in :meth:`ImageSequence.from_folder`.

    Returns
    -------
    list of Path
        It may be empty.
    """
    found = [
        path
        for path in _entries(root, pattern, recursive)
        if (pattern is not None or path.suffix.lower() in PICTURES)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not (recursive and _NOT_PARTS.intersection(path.relative_to(root).parts[:-1]))
        and not os.path.isdir(path)  # a broken link is an error when it is read
    ]
    found.sort(key=lambda path: natural(path.relative_to(root).as_posix()))
    return found


def _entries(root: Path, pattern: str | None, recursive: bool) -> Iterator[Path]:
    """Files that match, whatever they are; a folder that cannot be listed is an error.

    A folder below that somebody removes meanwhile is none.
    """
    if pattern is not None and len(Path(pattern).parts) != 1:
        yield from (root.rglob if recursive else root.glob)(pattern)
        return

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and Path(error.filename) != root:
            return
        raise ImageReadError(error.filename, f"this folder cannot be listed ({error.strerror})")

    # Not rglob: it passes over folders that it may not list.
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [
            name
            for name in subfolders
            if recursive and not name.startswith(".") and name not in _NOT_PARTS
        ]
        for name in fnmatch.filter(names, pattern or "*"):
            yield Path(folder, name)


def _check_paths(paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    if isinstance(paths, (str, os.PathLike)):
        raise ImageFormatError(
            f"paths is the single path {os.fspath(paths)!r}; pass a list, [path], or for a "
            "folder use ImageSequence.from_folder(path)"
        )
    if hasattr(paths, "shape"):  # a table's first items would be the names of its columns
        paths = as_list(paths)
    checked = []
    for i, path in enumerate(paths, first_index()):
        if not isinstance(path, (str, os.PathLike)):
            raise ImageFormatError(
                f"item {i} is {describe(path)}, and others are paths; pass either paths (str or "
                "Path) or arrays"
            )
        checked.append(str(os.fspath(path)))
    if not checked:
        raise ImageFormatError("there are no paths; at least one is needed")
    return tuple(checked)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")


def size_and_mtime(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Tell how large a file is and when it was changed; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
