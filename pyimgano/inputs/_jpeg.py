"""Check that a JPEG holds all of its pixels: its codes are counted against its header."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from pyimgano._kernels.entropy_codes import (
    COMPLETE,
    ENDS_EARLY,
    TOO_LONG,
    HuffmanTables,
    walk_progressive_ac,
    walk_sequential,
)

__all__ = ["JpegFrame", "check_jpeg"]

_UNCOUNTED = {
    0xC3: "lossless compression",
    0xC5: "hierarchical compression",
    0xC6: "hierarchical compression",
    0xC7: "hierarchical compression",
    0xC9: "arithmetic coding",
    0xCA: "arithmetic coding",
    0xCB: "lossless compression",
    0xCD: "hierarchical compression",
    0xCE: "hierarchical compression",
    0xCF: "hierarchical compression",
}
_END = "ends before its end marker"


class JpegError(ValueError):
    """A JPEG is not complete, or it cannot be told; the message says so after "the JPEG"."""


class _Component(NamedTuple):
    across: int  # sampling factors
    down: int
    nonzero: np.ndarray  # by block, a bit for each coefficient, for progressive scans
    precision: np.ndarray  # by coefficient, the lowest bit given so far; -1 for none


class JpegFrame:
    """The frame of a JPEG, and which of its coefficients have come.

    Attributes
    ----------
    width, height : int
    """

    def __init__(self, segment: bytes, progressive: bool, most_pixels: int) -> None:
        depth, self.height, self.width, count = struct.unpack_from(">BHHB", segment)
        self.progressive = progressive
        if depth != 8:
            raise JpegError(f"has {depth} bits per value; readable are 8")
        if not self.height or not self.width or count not in (1, 3, 4):
            raise JpegError("has a damaged header")
        if self.width * self.height > most_pixels:  # before there is memory for all of them
            raise JpegError(f"claims {self.width} x {self.height} pixels, more than there can be")
        if len(segment) < 6 + 3 * count:
            raise JpegError("has a damaged header")
        sampling = {segment[6 + 3 * k]: segment[7 + 3 * k] for k in range(count)}
        factors = [(value >> 4, value & 15) for value in sampling.values()]
        if len(sampling) != count or not all(1 <= a <= 4 and 1 <= d <= 4 for a, d in factors):
            raise JpegError("has a damaged header")
        self.most_across = max(a for a, _ in factors)
        self.most_down = max(d for _, d in factors)
        self.components = {}
        for name, (across, down) in zip(sampling, factors):
            columns, rows = self._blocks(across, down)
            nonzero = np.zeros(columns * rows if progressive else 0, np.uint64)
            self.components[name] = _Component(across, down, nonzero, np.full(64, -1))

    def _blocks(self, across: int, down: int) -> tuple[int, int]:
        """Blocks of a component that hold pixels, along both sides."""
        samples = -(-self.width * across // self.most_across)
        lines = -(-self.height * down // self.most_down)
        return -(-samples // 8), -(-lines // 8)

    def units(self, names: list[int]) -> tuple[int, list[int]]:
        """Number of coded units of a scan, and the component of each block in one."""
        if len(names) == 1:
            one = self.components[names[0]]
            columns, rows = self._blocks(one.across, one.down)
            return columns * rows, names
        columns = -(-self.width // (8 * self.most_across))
        rows = -(-self.height // (8 * self.most_down))
        blocks = []
        for name in names:
            blocks += [name] * (self.components[name].across * self.components[name].down)
        return columns * rows, blocks

    def missing(self) -> str:
        """Describe the coefficients that have not come; empty if all have."""
        for one in self.components.values():
            if one.precision[0] < 0:
                return "lacks a color"
            if self.progressive and one.precision.any():
                return "lacks scans that refine it"
        return ""


def check_jpeg(data: bytes, tables: bytes = b"", *, most_pixels: int) -> JpegFrame:
    """Walk through all scans of a JPEG.

    Parameters
    ----------
    data : bytes
        The JPEG; what follows its end marker is not looked at.
    tables : bytes, default=b""
        A JPEG of tables alone that come before, as in a TIFF.
    most_pixels : int
        More than so many are an error.

    Returns
    -------
    JpegFrame

    Raises
    ------
    JpegError
        If pixels are missing or cannot be counted.
    """
    huffman = HuffmanTables()
    array = np.frombuffer(data, np.uint8)
    if tables:
        _walk(tables, np.frombuffer(tables, np.uint8), huffman, most_pixels, tables_only=True)
    frame = _walk(data, array, huffman, most_pixels)
    if frame is None:
        raise JpegError("holds no pixels")
    missing = frame.missing()
    if missing:
        raise JpegError(missing)
    return frame


def _walk(
    data: bytes,
    array: np.ndarray,
    huffman: HuffmanTables,
    most_pixels: int,
    tables_only: bool = False,
) -> JpegFrame | None:
    frame, interval, at = None, 0, 2
    while True:
        if at + 2 > len(data):
            raise JpegError(_END)
        if data[at] != 0xFF:
            raise JpegError(f"is damaged at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        at += 2
        if marker == 0xD9:
            return frame
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        if at + 2 > len(data):
            raise JpegError(_END)
        length = int.from_bytes(data[at : at + 2], "big")
        segment = data[at + 2 : at + length]
        if length < 2 or len(segment) != length - 2:
            raise JpegError(_END)
        at += length
        if marker in _UNCOUNTED:
            raise JpegError(
                f"has {_UNCOUNTED[marker]}, in which missing pixels cannot be noticed; convert it "
                "to PNG"
            )
        if marker in (0xC0, 0xC1, 0xC2) and not tables_only:
            if frame is not None:
                raise JpegError("has two headers")
            frame = JpegFrame(segment, marker == 0xC2, most_pixels)
        elif marker == 0xC4:
            _define(huffman, segment)
        elif marker == 0xDD:
            interval = int.from_bytes(segment[:2], "big")
        elif marker == 0xDA:
            if frame is None:
                raise JpegError("has no header before its pixels")
            at = _scan(array, at, segment, frame, interval, huffman)


def _define(huffman: HuffmanTables, segment: bytes) -> None:
    at = 0
    while at < len(segment):
        counts = segment[at + 1 : at + 17]
        symbols = segment[at + 17 : at + 17 + sum(counts)]
        place = segment[at]
        known = place & 0xEC == 0 and len(symbols) == sum(counts) <= 256
        if not known or not huffman.define(4 * (place >> 4) + (place & 3), counts, symbols):
            raise JpegError("has a damaged Huffman table")
        at += 17 + len(symbols)


def _scan(
    array: np.ndarray,
    at: int,
    segment: bytes,
    frame: JpegFrame,
    interval: int,
    huffman: HuffmanTables,
) -> int:
    """Walk through one scan; return where it ends."""
    count = segment[0] if segment else 0
    if not 1 <= count <= 4 or len(segment) != 4 + 2 * count:
        raise JpegError("has a damaged scan header")
    slots = {segment[1 + 2 * k]: segment[2 + 2 * k] for k in range(count)}
    names = list(slots)
    first, last, precision = segment[-3:]
    before, precision = precision >> 4, precision & 15
    if len(names) != count or not all(name in frame.components for name in names):
        raise JpegError("has a damaged scan header")
    if not frame.progressive:
        first, last, before, precision = 0, 63, 0, 0
    ac_scan = frame.progressive and first > 0
    spectrum_fits = first <= last < 64 if ac_scan else last == (0 if frame.progressive else 63)
    refines = before == precision + 1
    if not spectrum_fits or (ac_scan and count > 1) or (before and not refines):
        raise JpegError("has a damaged scan header")
    for name in names:  # each bit of a coefficient comes once, the highest first
        come = frame.components[name].precision[first : last + 1]
        if (come != (before if before else -1)).any():
            raise JpegError("has a scan that does not go with those before")
        come[:] = precision

    dc = np.array([slots[name] >> 4 & 3 for name in names])
    ac = np.array([4 + (slots[name] & 3) for name in names])
    needed = ac if ac_scan else dc[:0] if refines else dc
    if not frame.progressive:
        needed = np.concatenate([dc, ac])
    if not huffman.defined[needed].all():
        raise JpegError("lacks a Huffman table")
    if ac_scan:
        nonzero = frame.components[names[0]].nonzero
        n_units = len(nonzero)
        at, outcome, done = walk_progressive_ac(
            array, at, nonzero, interval, ac[0], first, last, refines, *huffman.arrays
        )
    else:
        n_units, blocks = frame.units(names)
        which = [names.index(name) for name in blocks]
        kind = 0 if not frame.progressive else 2 if refines else 1
        at, outcome, done = walk_sequential(
            array, at, n_units, interval, dc[which], ac[which], kind, *huffman.arrays
        )
    if outcome == COMPLETE:
        return at
    size = f"its header says {frame.width} x {frame.height} pixels"
    if outcome == ENDS_EARLY:
        raise JpegError(f"ends after {done} of {n_units} blocks of pixels; {size}")
    if outcome == TOO_LONG:
        raise JpegError(f"is damaged: it holds more pixels than there should be; {size}")
    raise JpegError(f"is damaged after {done} of {n_units} blocks of pixels; {size}")
