"""A checksum that keeps up with memory: sums of columns of words, and a hash of the sums.

SHA-256 takes several times as long as reading a file that the system holds in memory already. The
checksum here is to find damage and mix-ups, nothing more, in a fraction of the time that reading
takes. It is defined as follows, so that any program can compute it:

The file is cut into blocks of 256 rows of 509 words. A word is 8 bytes, a little-endian integer;
the last block is filled up with zeros. In each block, the words of each column are added modulo
2**64. The checksum is the SHA-256 of all these sums, as little-endian words in the order of the
blocks and columns, followed by the size of the file in bytes as one more word.

A change of up to 4064 bytes in a row always changes a sum, and with it the checksum. Zeros or other
content in place of a disk sector or page, and content that is cut off, doubled, moved or exchanged,
change it unless the sums of some 500 columns happen to agree. 509 is a prime, so pages of 4096
bytes that change places do not keep their columns. It is no signature: files that agree can be
made.
"""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["BLOCK", "PREFIX", "Checksum"]

_ROWS, _COLUMNS = 256, 509
# Bytes of a block, which stay in the processor's cache while they are added.
BLOCK = _ROWS * _COLUMNS * 8
# How a side file says which checksum it holds.
PREFIX = "columns509:"


class Checksum:
    """Checksum of bytes that come piece by piece."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._block: memoryview | None = None  # of what does not come a block at a time
        self._filled = 0
        self.size = 0

    @property
    def room(self) -> int:
        """Bytes until the block is full; a piece of so many is not copied."""
        return BLOCK - self._filled

    def update(self, piece: memoryview) -> None:
        """Add bytes.

        Parameters
        ----------
        piece : memoryview of bytes
        """
        self.size += len(piece)
        while piece:
            if len(piece) >= BLOCK and not self._filled:
                self._add(piece[:BLOCK])
                piece = piece[BLOCK:]
                continue
            if self._block is None:
                self._block = memoryview(bytearray(BLOCK))
            some = piece[: self.room]
            self._block[self._filled : self._filled + len(some)] = some
            self._filled += len(some)
            piece = piece[len(some) :]
            if self._filled == BLOCK:
                self._add(self._block)
                self._filled = 0

    def text(self) -> str:
        """Give the checksum of all bytes so far, after which there can be no more."""
        if self._filled and self._block is not None:
            row = _COLUMNS * 8
            end = -(-self._filled // row) * row
            self._block[self._filled : end] = bytes(end - self._filled)
            self._add(self._block[:end])
            self._filled = 0
        self._digest.update(self.size.to_bytes(8, "little"))
        return f"{PREFIX}{self._digest.hexdigest()}"

    def _add(self, rows: memoryview) -> None:
        words = np.frombuffer(rows, "<u8").reshape(-1, _COLUMNS)
        self._digest.update(words.sum(axis=0, dtype="<u8").data)
