"""One pass over a saved file: what is interpreted is what was checked.

A file is opened once, must be a regular one, and is read from start to end through that one
descriptor. Every byte enters the checksum as it is read, so that a file which another process
overwrites meanwhile cannot be vouched for by one content and interpreted by another.
Decompression is done here as well, and stops at a limit.
"""

from __future__ import annotations

import bz2
import errno
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyimgano.exceptions import UntrustedFileError
from pyimgano.persistence._checksum import BLOCK, Checksum
from pyimgano.utils._files import kind_of, open_at_once
from pyimgano.utils._state import are_in_range

__all__ = ["AHEAD", "Source", "open_regular", "read_small"]

_LARGEST_FILE = 2**35
# What a compressed file may become: so many times its size, or this if it is more. Arrays of real
# features shrink to about nine tenths, images kept as floats to a quarter.
_MOST_TIMES, _AT_LEAST = 8, 2**28
# Steps that the pickles of a file may have: a saved pipeline needs a few thousand, and a dozen for
# each training image. Each may make an object of some hundred bytes, so for more than this many the
# file must have so many bytes for each.
_MOST_OPERATIONS, _SIZE_OF_OPERATION = 500_000, 8
# Bytes of strings, but short ones; in memory they may be four times as large.
_MOST_TEXT = 2**25
# Bytes of compressed content, or of an uncompressed one outside of arrays, read at a time.
_PIECE = 2**16
# What a Source holds ready unless its end is near; short operations need no more.
AHEAD = 300
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# Memory of an LZMA stream; its highest preset has a window of 64 MiB.
_LZMA_MEMORY = 80 * 2**20


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open a regular file for reading; never wait for a FIFO or a device.

    Parameters
    ----------
    path : Path

    Yields
    ------
    int
        The descriptor.

    Raises
    ------
    FileNotFoundError
        If there is none.
    UntrustedFileError
        If it is a folder, a FIFO, a device, a loop of links, or cannot be opened.
    """
    try:
        descriptor = open_at_once(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        loop = " (links that lead in a circle)" if error.errno == errno.ELOOP else ""
        raise UntrustedFileError(f"{path}: cannot be opened: {error.strerror}{loop}.") from error
    try:
        kind = kind_of(os.fstat(descriptor).st_mode)
        if kind is not None:
            raise UntrustedFileError(f"{path}: is not a regular file but {kind}.")
        yield descriptor
    finally:
        os.close(descriptor)


def read_small(path: Path, most: int) -> bytes:
    """Read a regular file of limited size.

    Parameters
    ----------
    path : Path
    most : int
        Bytes it may have.

    Returns
    -------
    bytes

    Raises
    ------
    FileNotFoundError
        If there is none.
    UntrustedFileError
        If it is no regular file, or larger.
    """
    with open_regular(path) as descriptor:
        content = b""
        while len(content) <= most:
            piece = os.read(descriptor, most + 1 - len(content))
            if not piece:
                return content
            content += piece
    raise UntrustedFileError(f"{path}: has more than {most:,} bytes, too many for what it is.")


class _Watched(io.RawIOBase):
    """The bytes of a descriptor, which enter the checksums as they are read."""

    def __init__(self, descriptor: int, with_sha256: bool) -> None:
        self._descriptor = descriptor
        self._checksum = Checksum()
        self._sha256 = hashlib.sha256() if with_sha256 else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # At most to the end of a block, which is then added up in place and in the cache.
        view = memoryview(buffer).cast("B")[: self._checksum.room]
        n = os.readv(self._descriptor, [view]) if _READV else self._read_into(view)
        self._checksum.update(view[:n])
        if self._sha256 is not None:
            self._sha256.update(view[:n])
        return n

    def _read_into(self, view: memoryview) -> int:
        piece = os.read(self._descriptor, len(view))
        view[: len(piece)] = piece
        return len(piece)

    def entry(self) -> dict[str, Any]:
        """Describe all that has been read, as a side file does."""
        found: dict[str, Any] = {"size": self._checksum.size, "checksum": self._checksum.text()}
        if self._sha256 is not None:
            found["sha256"] = self._sha256.hexdigest()
        return found


_READV = hasattr(os, "readv")


class _Decompressed(io.RawIOBase):
    """Content of a compressed stream, up to a limit."""

    def __init__(self, raw: Any, make: Callable[[], Any], most: int) -> None:
        self._raw, self._most = raw, most
        self._inner: Any = make()
        self._waiting = b""  # compressed bytes that zlib has handed back
        self._n = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            content = self._some(len(view))
        except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError) as error:
            raise UntrustedFileError(f"its compressed content is damaged ({error}).") from None
        self._n += len(content)
        if self._n > self._most:
            raise UntrustedFileError(
                f"it is compressed, and becomes more than {self._most:,} bytes, out of proportion "
                "to its size."
            )
        view[: len(content)] = content
        return len(content)

    def _some(self, n: int) -> bytes:
        inner = self._inner
        while not inner.eof:
            held = hasattr(inner, "unconsumed_tail")  # zlib hands back what it has no room for
            feed = self._waiting
            if not feed and (held or inner.needs_input):
                feed = self._raw.read1(_PIECE)
                if not feed:
                    raise EOFError("it ends too early")
            content = inner.decompress(feed, n)
            self._waiting = inner.unconsumed_tail if held else b""
            if content:
                return content
        if inner.unused_data or self._raw.peek(1):
            raise ValueError("something follows its end")
        return b""


def _lz4() -> Any:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError:
        raise UntrustedFileError(
            "it is compressed by lz4, which is not installed: python -m pip install lz4."
        ) from None
    return LZ4FrameDecompressor()


# By how a file begins, as joblib tells them apart.
_COMPRESSIONS: list[tuple[bytes, Callable[[], Any]]] = [
    (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    (b"BZ", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)),
    (b"\x5d\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY)),
    (b"\x04\x22\x4d\x18", _lz4),
    (b"\x78", lambda: zlib.decompressobj()),
]


class Source:
    """The content of an open file, decompressed, from start to end.

    Parameters
    ----------
    descriptor : int
        Of a regular file; read from its start.
    with_sha256 : bool, default=False
        Compute the SHA-256 of the file as well, which takes several times as long as reading it.

    Attributes
    ----------
    data : bytes
        The piece of the content that is read next, followed by zeros where the content ends.
    at : int
        How much of it has been read.
    size : int
        Of the file, as it lies on the disk.
    most_operations, operations_left : int
        Steps that the pickles in it may have, all together and from here on.
    """

    def __init__(self, descriptor: int, with_sha256: bool = False) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        size = os.fstat(descriptor).st_size
        if size > _LARGEST_FILE:
            raise UntrustedFileError(
                f"it has {size:,} bytes; files of at most {_LARGEST_FILE:,} are read."
            )
        self._watched = _Watched(descriptor, with_sha256)
        raw = io.BufferedReader(self._watched, min(BLOCK, size + 1))
        begin = raw.peek(6)[:6]
        self._most = size
        content: Any = raw
        for prefix, make in _COMPRESSIONS:
            if begin.startswith(prefix):
                self._most = max(_MOST_TIMES * size, _AT_LEAST)
                content = io.BufferedReader(_Decompressed(raw, make, self._most), _PIECE)
                break
        self._raw, self._content = raw, content
        self.size = size
        self.most_operations = max(_MOST_OPERATIONS, size // _SIZE_OF_OPERATION)
        self.operations_left = self.most_operations
        self._text_left = _MOST_TEXT
        self.data, self.at = b"", 0
        self._end: int | None = None  # of the content in data, once that is known

    # ---- for the interpreter -------------------------------------------------------------
    def refill(self) -> tuple[bytes, int]:
        """Have at least ``AHEAD`` bytes ready, if need be zeros behind the end; ``data, at``."""
        rest = self.data[self.at :]
        if self._end is not None:
            self._end -= self.at
            if self._end < 0:  # beyond the end, in the zeros
                raise _too_short()
        self.at = 0
        pieces, n = [rest], len(rest)
        while self._end is None and n < AHEAD:
            piece = self._content.read1(_PIECE)
            pieces.append(piece)
            n += len(piece)
            if not piece:
                self._end = n
        if self._end is not None:
            if self._end == 0:
                raise _too_short()
            pieces.append(bytes(2 * AHEAD))
        self.data = b"".join(pieces)
        return self.data, 0

    def take(self, n: int) -> bytes:
        """Read exactly so many bytes."""
        there = len(self.data) - self.at if self._end is None else self._end - self.at
        if n <= there:
            content = self.data[self.at : self.at + n]
            self.at += n
            return content
        if self._end is not None:
            raise _too_short()
        self.check_room(n)
        begin = self.data[self.at :]
        self.data, self.at = b"", 0
        content = begin + self._content.read(n - len(begin))
        if len(content) != n:
            raise _too_short()
        return content

    def line(self, longest: int) -> bytes:
        """Read up to the end of a line, and leave that out."""
        end = self.data.find(b"\n", self.at)
        while end < 0 and self._end is None and len(self.data) - self.at <= longest:
            piece = self._content.read1(_PIECE)
            if not piece:
                raise _too_short()
            self.data, self.at = self.data[self.at :] + piece, 0
            end = self.data.find(b"\n")
        if end < 0 or end - self.at > longest:
            raise UntrustedFileError("it is damaged: a line does not end.")
        content = self.data[self.at : end]
        self.at = end + 1
        return content

    def numbers(self, count: int, dtype: np.dtype) -> tuple[np.ndarray, bool]:
        """Read the items of an array.

        Parameters
        ----------
        count : int
        dtype : dtype
            Without objects.

        Returns
        -------
        array : ndarray of shape (count,)
        in_range : bool
            Whether they are floats that are known to be in range, see
            :func:`~pyimgano.utils._state.are_in_range`: those of large arrays are looked at while
            they are in the processor's cache.
        """
        size = count * dtype.itemsize
        self.check_room(size)
        there = (len(self.data) if self._end is None else self._end) - self.at
        if 0 < size <= there:
            array = np.frombuffer(self.data, dtype, count, self.at).copy()
            self.at += size
            return array, False
        array = np.empty(count, dtype)
        if size > there and self._end is not None:
            raise _too_short()
        view = memoryview(array.view(np.uint8))  # type: ignore[arg-type]
        done = min(size, there)
        view[:done] = self.data[self.at : self.at + done]
        self.at += done
        seen, in_range = 0, dtype in _FLOATS
        while True:
            if in_range:
                whole = done // dtype.itemsize
                in_range = are_in_range(array[seen:whole])
                seen = whole
            if done == size:
                return array, in_range
            n = self._content.readinto1(view[done:])
            if not n:
                raise _too_short()
            done += n

    def check_room(self, n_bytes: int) -> None:
        """Refuse to make room for more than the file can hold."""
        if n_bytes > self._most:
            raise UntrustedFileError(
                f"it announces an array of {n_bytes:,} bytes, and holds {self._most:,} at most."
            )

    def text(self, content: bytes) -> bytes:
        """Count what is about to become a string."""
        self._text_left -= len(content)
        if self._text_left < 0:
            raise UntrustedFileError(f"it holds more than {_MOST_TEXT:,} bytes of text.")
        return content

    def finish(self) -> dict[str, Any]:
        """Read the rest; refuse content behind the end of the pickle.

        Returns
        -------
        dict
            See :meth:`entry`.
        """
        there = len(self.data) if self._end is None else self._end
        if there < self.at:
            raise _too_short()
        more = there > self.at or self._content.read(1)
        self.skip_rest()
        if more:
            raise UntrustedFileError("something follows the end of its pickle.")
        return self.entry()

    def skip_rest(self) -> None:
        """Read the rest of the file for its checksum."""
        while self._raw.read(_PIECE):
            pass

    def entry(self) -> dict[str, Any]:
        """Describe what has been read of the file: size and checksums, as a side file does."""
        return self._watched.entry()


def _too_short() -> UntrustedFileError:
    return UntrustedFileError("it is cut short, or damaged.")
