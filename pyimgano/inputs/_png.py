"""PNGs of the usual kind, decoded in the pass that tells whether they are complete."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from pyimgano._kernels.png_filters import unfilter
from pyimgano.inputs._completeness import png_chunks

__all__ = ["TAG_CHUNKS", "read_plain_png"]

#: Chunks that may hold the orientation; they may come after the pixels.
TAG_CHUNKS = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_CHANNELS = {0: 1, 2: 3}  # gray and RGB, by their color type


def read_plain_png(path: str, data: bytes) -> np.ndarray | None:
    """Decode a PNG of 8 bits in gray or RGB, without interlacing and transparency.

    Decoders fill up missing pixels without a word. To count those that are there, the data has to
    be inflated; this goes on from there, which saves inflating it once more.

    Parameters
    ----------
    path : str
    data : bytes
        The file.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 3), uint8, or None
        None for a PNG of another kind, and for one that is damaged.

    Raises
    ------
    ImageReadError
        If the file ends early, or a checksum is wrong.
    """
    width, height, depth, color, packing, filtering, interlaced = struct.unpack_from(
        ">IIBBBBB", data, 16
    )
    if depth != 8 or color not in _CHANNELS or packing or filtering or interlaced:
        return None
    pieces: list[bytes] = []
    last = b""
    for kind, at, end in png_chunks(path, data):
        if (
            kind == b"tRNS"
            # Pillow says what is wrong with a file whose chunks are in no order there may be.
            or (kind == b"IHDR") != (at == 8)
            or (kind == b"IDAT" and pieces and last != b"IDAT")
            or (pieces and kind not in (b"IDAT", b"IEND", *TAG_CHUNKS))
        ):
            return None
        if kind == b"IDAT":
            pieces.append(data[at + 8 : end - 4])
        last = kind
    step = _CHANNELS[color]
    needed = height * (1 + width * step)
    stream = zlib.decompressobj()
    inflated = stream.decompress(b"".join(pieces), needed + 1)
    if len(inflated) != needed or not stream.eof:
        return None
    pixels = np.empty((height, width * step), np.uint8)
    rows = np.frombuffer(inflated, np.uint8).reshape(height, -1)
    if not unfilter(rows, step, pixels):
        return None
    return pixels if step == 1 else pixels.reshape(height, width, step)
