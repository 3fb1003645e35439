"""Walks through entropy-coded pixels that count them instead of decoding them.

Decoders fill up what is missing and say nothing. A walk reads the same codes and stops where they
end, which takes a part of the time of decoding.
"""

from __future__ import annotations

import functools

import numpy as np

from pyimgano._kernels.compiling import kernel

__all__ = [
    "COMPLETE",
    "ENDS_EARLY",
    "INVALID",
    "TOO_LONG",
    "HuffmanTables",
    "count_bmp_rle",
    "count_fax_rows",
    "count_gif_lzw",
    "walk_progressive_ac",
    "walk_sequential",
]

# How a walk ends.
COMPLETE = 0
ENDS_EARLY = 1  # the codes end before the pixels
INVALID = 2  # a code that does not exist, or a restart marker where none belongs
TOO_LONG = 3  # there are more codes than pixels

_FAST_BITS = 10
_BLOCK_ENDS = 128


class HuffmanTables:
    """The Huffman tables of a JPEG, four for DC and four for AC coefficients.

    Attributes
    ----------
    fast : ndarray of shape (8, 1024), uint16
        For the next 10 bits, 256 times the length of the code they begin with, plus its symbol;
        0 where the code is longer.
    steps : ndarray of shape (8, 1024), uint16
        The same for whole blocks: 256 times the coefficients to go on by (``_BLOCK_ENDS`` if
        there are no more), plus the bits of the code and of the value behind it.
    largest, shift : ndarray of shape (8, 17), int32
        By length of code: its largest value (-1 for none), and what to add for its place among
        ``symbols``.
    symbols : ndarray of shape (8, 256), uint8
    defined : ndarray of shape (8,), bool
    """

    def __init__(self) -> None:
        self.fast = np.zeros((8, 1 << _FAST_BITS), np.uint16)
        self.steps = np.zeros_like(self.fast)
        self.largest = np.full((8, 17), -1, np.int32)
        self.shift = np.zeros((8, 17), np.int32)
        self.symbols = np.zeros((8, 256), np.uint8)
        self.defined = np.zeros(8, bool)

    def define(self, slot: int, counts: bytes, symbols: bytes) -> bool:
        """Set one table; tell whether there is such a prefix code.

        Parameters
        ----------
        slot : int
            0 to 3 for DC, 4 to 7 for AC.
        counts : bytes of length 16
            Number of codes of 1 to 16 bits.
        symbols : bytes
            Symbols in the order of their codes.
        """
        rows = _rows_of_table(counts, symbols)
        if rows is None:
            return False
        for array, row in zip(self.arrays, rows):
            array[slot] = row
        self.defined[slot] = True
        return True

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Arrays of the tables, in the order in which the walks take them."""
        return self.fast, self.steps, self.largest, self.shift, self.symbols


@functools.lru_cache(maxsize=64)  # most files have the tables that the standard suggests
def _rows_of_table(counts: bytes, symbols: bytes) -> tuple[np.ndarray, ...] | None:
    """The rows of ``HuffmanTables.arrays`` for one table; None if it is no prefix code."""
    largest, shift = np.full(17, -1, np.int32), np.zeros(17, np.int32)
    code = place = 0
    for length, count in enumerate(counts, 1):
        if code + count > 1 << length:
            return None
        shift[length] = place - code
        if count:
            largest[length] = code + count - 1
        code, place = (code + count) << 1, place + count
    all_symbols = np.zeros(256, np.uint8)
    all_symbols[: len(symbols)] = np.frombuffer(symbols, np.uint8)
    lengths = np.repeat(np.arange(1, 17), np.frombuffer(counts, np.uint8))
    lengths = lengths[lengths <= _FAST_BITS]
    values = all_symbols[: len(lengths)].astype(np.int64)
    ends = (values & 15 == 0) & (values != 0xF0)
    go_on = np.where(ends, _BLOCK_ENDS, (values >> 4) + 1)
    fast, steps = np.zeros((2, 1 << _FAST_BITS), np.uint16)
    widths = 1 << (_FAST_BITS - lengths)
    n = int(widths.sum())
    fast[:n] = np.repeat(lengths << 8 | values, widths)
    steps[:n] = np.repeat(go_on << 8 | lengths + (values & 15), widths)
    return fast, steps, largest, shift, all_symbols


@kernel()
def _fill(data, at, bits, n):
    """Take bytes in until 32 bits are there or a marker comes; the last ``n`` bits are valid."""
    if n < 32 and at + 4 <= len(data):
        word = (
            np.uint64(data[at]) << np.uint64(24)
            | np.uint64(data[at + 1]) << np.uint64(16)
            | np.uint64(data[at + 2]) << np.uint64(8)
            | np.uint64(data[at + 3])
        )
        inverse = word ^ np.uint64(0xFFFFFFFF)
        if ((inverse - np.uint64(0x01010101)) & word & np.uint64(0x80808080)) == 0:  # no 0xFF
            return at + 4, (bits << np.uint64(32)) | word, n + 32
    while n <= 48 and at < len(data):
        byte = np.uint64(data[at])
        if byte == 0xFF:
            if at + 1 >= len(data) or data[at + 1] != 0:
                break
            at += 1  # a zero is stuffed after each 0xFF that is no marker
        at += 1
        bits = (bits << np.uint64(8)) | byte
        n += 8
    return at, bits, n


@kernel()
def _ahead(bits, n):
    """The next 16 bits, with zeros for those that are not there."""
    if n >= 16:
        return (bits >> np.uint64(n - 16)) & np.uint64(0xFFFF)
    return (bits << np.uint64(16 - n)) & np.uint64(0xFFFF)


@kernel()
def _long_symbol(ahead, slot, largest, shift, symbols):
    """Length and value of a code of more than 10 bits; length 0 if there is no such code."""
    for length in range(_FAST_BITS + 1, 17):
        code = np.int64(ahead) >> (16 - length)
        if code <= largest[slot, length]:
            return length, np.int64(symbols[slot, code + shift[slot, length]])
    return 0, 0


@kernel()
def _symbol(bits, n, slot, fast, largest, shift, symbols):
    """Length and value of the code that comes next; length 0 if there is no such code."""
    ahead = _ahead(bits, n)
    entry = np.int64(fast[slot, ahead >> np.uint64(16 - _FAST_BITS)])
    if entry:
        return entry >> 8, entry & 255
    return _long_symbol(ahead, slot, largest, shift, symbols)


@kernel()
def _skip(data, at, bits, n, count):
    """Pass over ``count`` bits; ``n`` is negative if there are not so many."""
    while count > n:
        count -= n
        n = 0
        at, bits, n = _fill(data, at, bits, n)
        if n == 0:
            return at, bits, -1
    return at, bits, n - count


@kernel()
def _restart(data, at, n, number):
    """Pass a restart marker; a negative place if it is not the next thing in the data."""
    if n >= 8:
        return -1
    while at + 1 < len(data) and data[at] == 0xFF and data[at + 1] == 0xFF:
        at += 1
    if at + 1 >= len(data) or data[at] != 0xFF or data[at + 1] != 0xD0 + number % 8:
        return -1
    return at + 2


@kernel()
def _rest(data, at, bits, n):
    """Tell whether nothing but padding lies before the next marker, and where that is."""
    whole = n // 8 * 8
    padded = bits & ((np.uint64(1) << np.uint64(whole)) - np.uint64(1)) == 0
    while at < len(data) and data[at] == 0:
        at += 1
    return padded and (at >= len(data) or data[at] == 0xFF), at


@kernel()
def walk_sequential(
    data, at, n_units, interval, dc, ac, kind, fast, steps, largest, shift, symbols
):
    """Walk through a scan of whole blocks, or of the DC coefficients of a progressive JPEG.

    Parameters
    ----------
    data : ndarray of uint8
        The file.
    at : int
        Where the codes begin.
    n_units : int
        Minimum coded units of the scan.
    interval : int
        Units between restart markers; 0 for none.
    dc, ac : ndarray of int64
        Slots of the tables of each block of a unit.
    kind : int
        0 for whole blocks, 1 for DC alone, 2 for a further bit of DC.
    fast, steps, largest, shift, symbols
        ``HuffmanTables.arrays``.

    Returns
    -------
    at : int
        Where the next marker begins.
    outcome : int
        ``COMPLETE`` or what is wrong.
    done : int
        Units walked through.
    """
    bits = np.uint64(0)
    n = 0
    for unit in range(n_units):
        if interval and unit and unit % interval == 0:
            behind = _restart(data, at, n, unit // interval - 1)
            if behind < 0:
                return at, INVALID, unit
            at, n = behind, 0
        for block in range(len(dc)):
            if n < 32:
                at, bits, n = _fill(data, at, bits, n)
            if kind == 2:
                n -= 1
                if n < 0:
                    return at, ENDS_EARLY, unit
                continue
            length, size = _symbol(bits, n, dc[block], fast, largest, shift, symbols)
            if length == 0 or size > 15:
                return at, INVALID if n >= 16 else ENDS_EARLY, unit
            n -= length + size
            if n < 0:
                return at, ENDS_EARLY, unit
            slot = ac[block]
            k = 1 if kind == 0 else 64
            while k < 64:
                if n < 32:
                    at, bits, n = _fill(data, at, bits, n)
                ahead = _ahead(bits, n)
                entry = np.int64(steps[slot, ahead >> np.uint64(16 - _FAST_BITS)])
                if entry == 0:
                    length, symbol = _long_symbol(ahead, slot, largest, shift, symbols)
                    if length == 0:
                        return at, INVALID if n >= 16 else ENDS_EARLY, unit
                    ends = symbol & 15 == 0 and symbol != 0xF0
                    step = _BLOCK_ENDS if ends else (symbol >> 4) + 1
                    entry = step << 8 | length + (symbol & 15)
                n -= entry & 255
                if n < 0:
                    return at, ENDS_EARLY, unit
                k += entry >> 8
            if 64 < k < _BLOCK_ENDS:
                return at, INVALID, unit
    padded, at = _rest(data, at, bits, n)
    return at, COMPLETE if padded else TOO_LONG, n_units


@kernel()
def walk_progressive_ac(
    data, at, nonzero, interval, slot, first, last, refining, fast, steps, largest, shift, symbols
):
    """Walk through a scan of AC coefficients of one component of a progressive JPEG.

    Parameters
    ----------
    data, at, interval
        As in :func:`walk_sequential`; a unit is one block.
    nonzero : ndarray of shape (n_blocks,), uint64
        A bit for each coefficient of each block that is not zero so far; updated.
    slot : int
        The table.
    first, last : int
        The coefficients, in zigzag order.
    refining : bool
        Whether this scan gives one more bit to coefficients that came before.
    fast, steps, largest, shift, symbols
        ``HuffmanTables.arrays``.

    Returns
    -------
    at, outcome, done
        As in :func:`walk_sequential`.
    """
    bits = np.uint64(0)
    n = 0
    one = np.uint64(1)
    to_skip = 0  # blocks, this one included, in which nothing new begins
    for block in range(len(nonzero)):
        if interval and block and block % interval == 0:
            behind = _restart(data, at, n, block // interval - 1)
            if behind < 0 or to_skip:
                return at, INVALID, block
            at, n = behind, 0
        k = first
        known = nonzero[block]
        while k <= last and to_skip == 0:
            if n < 32:
                at, bits, n = _fill(data, at, bits, n)
            length, symbol = _symbol(bits, n, slot, fast, largest, shift, symbols)
            if length == 0:
                return at, INVALID if n >= 16 else ENDS_EARLY, block
            n -= length
            run, size = symbol >> 4, symbol & 15
            if size == 0 and run < 15:
                n -= run
                if n < 0:
                    return at, ENDS_EARLY, block
                to_skip = (1 << run) + np.int64(
                    (bits >> np.uint64(n)) & ((one << np.uint64(run)) - one)
                )
                break
            n -= 1 if refining and size else size
            if n < 0:
                return at, ENDS_EARLY, block
            if refining:
                corrections = 0
                while k <= last:
                    if (known >> np.uint64(k)) & one:
                        corrections += 1
                    else:
                        run -= 1
                        if run < 0:
                            break
                    k += 1
                at, bits, n = _skip(data, at, bits, n, corrections)
                if n < 0:
                    return at, ENDS_EARLY, block
            else:
                k += run
            if size:
                if k > last:
                    return at, INVALID, block
                nonzero[block] |= one << np.uint64(k)
            k += 1
        if to_skip:
            if refining:
                corrections = 0
                while k <= last:
                    if (known >> np.uint64(k)) & one:
                        corrections += 1
                    k += 1
                at, bits, n = _skip(data, at, bits, n, corrections)
                if n < 0:
                    return at, ENDS_EARLY, block
            to_skip -= 1
    padded, at = _rest(data, at, bits, n)
    return at, COMPLETE if padded and to_skip == 0 else TOO_LONG, len(nonzero)


@kernel()
def count_gif_lzw(codes, min_bits, n_wanted):
    """Count the pixels in the LZW codes of a GIF.

    Parameters
    ----------
    codes : ndarray of uint8
        The data of the sub-blocks, joined.
    min_bits : int
        Size of a pixel in bits, 1 to 8 (the first byte of the data).
    n_wanted : int
        Pixels of the frame; counting stops when there are more.

    Returns
    -------
    n_pixels : int
    outcome : int
        ``COMPLETE`` if the codes are valid up to the end code or ``n_wanted``, ``INVALID``
        at a code that does not exist.
    """
    clear = 1 << min_bits
    lengths = np.ones(4096, np.int64)
    free, width, previous = clear + 2, min_bits + 1, -1
    bits, n, total = 0, 0, 0
    at = 0
    while True:
        while n < width:
            if at >= len(codes):
                return total, COMPLETE
            bits |= np.int64(codes[at]) << n
            at += 1
            n += 8
        code = bits & ((1 << width) - 1)
        bits >>= width
        n -= width
        if code == clear:
            free, width, previous = clear + 2, min_bits + 1, -1
            continue
        if code == clear + 1:
            return total, COMPLETE
        if previous < 0:
            if code >= clear:
                return total, INVALID
        elif code > free or (code == free and free == 4096):
            return total, INVALID
        elif free < 4096:
            lengths[free] = lengths[previous] + 1
            free += 1
            if free == 1 << width and width < 12:
                width += 1
        total += lengths[code]
        if total > n_wanted:
            return total, COMPLETE
        previous = code


@kernel()
def count_bmp_rle(codes, width, height, nibbles):
    """Count the pixels that the run-length codes of a BMP set.

    Parameters
    ----------
    codes : ndarray of uint8
    width, height : int
        Size of the image.
    nibbles : bool
        Whether a pixel has four bits and not eight.

    Returns
    -------
    n_pixels : int
    outcome : int
        ``COMPLETE`` at the end code, ``ENDS_EARLY`` without one, ``INVALID`` where pixels lie
        above the image.
    """
    total = x = y = at = 0
    while at + 1 < len(codes):
        count, value = np.int64(codes[at]), np.int64(codes[at + 1])
        at += 2
        if count == 0 and value == 0:
            x, y = 0, y + 1
            continue
        if count == 0 and value == 1:
            return total, COMPLETE
        if count == 0 and value == 2:
            if at + 1 >= len(codes):
                return total, ENDS_EARLY
            x, y = x + np.int64(codes[at]), y + np.int64(codes[at + 1])
            at += 2
            continue
        if count == 0:
            count = value
            n_bytes = (count + 1) // 2 if nibbles else count
            at += n_bytes + n_bytes % 2
            if at > len(codes):
                return total, ENDS_EARLY
        if y >= height:
            return total, INVALID
        count = min(count, width - x)  # what is beyond the end of a row is padding
        if count > 0:
            x += count
            total += count
    return total, ENDS_EARLY


# The codes of runs in fax compression (ITU-T T.4), by length of run: 0 to 63, then 64, 128 and so
# on up to 1728, for white and for black; then 1792 to 2560 for both.
_WHITE_RUNS = """
00110101 000111 0111 1000 1011 1100 1110 1111 10011 10100 00111 01000 001000 000011 110100 110101
101010 101011 0100111 0001100 0001000 0010111 0000011 0000100 0101000 0101011 0010011 0100100
0011000 00000010 00000011 00011010 00011011 00010010 00010011 00010100 00010101 00010110 00010111
00101000 00101001 00101010 00101011 00101100 00101101 00000100 00000101 00001010 00001011 01010010
01010011 01010100 01010101 00100100 00100101 01011000 01011001 01011010 01011011 01001010 01001011
00110010 00110011 00110100
11011 10010 010111 0110111 00110110 00110111 01100100 01100101 01101000 01100111 011001100
011001101 011010010 011010011 011010100 011010101 011010110 011010111 011011000 011011001
011011010 011011011 010011000 010011001 010011010 011000 010011011
"""
_BLACK_RUNS = """
0000110111 010 11 10 011 0011 0010 00011 000101 000100 0000100 0000101 0000111 00000100 00000111
000011000 0000010111 0000011000 0000001000 00001100111 00001101000 00001101100 00000110111
00000101000 00000010111 00000011000 000011001010 000011001011 000011001100 000011001101
000001101000 000001101001 000001101010 000001101011 000011010010 000011010011 000011010100
000011010101 000011010110 000011010111 000001101100 000001101101 000011011010 000011011011
000001010100 000001010101 000001010110 000001010111 000001100100 000001100101 000001010010
000001010011 000000100100 000000110111 000000111000 000000100111 000000101000 000001011000
000001011001 000000101011 000000101100 000001011010 000001100110 000001100111
0000001111 000011001000 000011001001 000001011011 000000110011 000000110100 000000110101
0000001101100 0000001101101 0000001001010 0000001001011 0000001001100 0000001001101 0000001110010
0000001110011 0000001110100 0000001110101 0000001110110 0000001110111 0000001010010 0000001010011
0000001010100 0000001010101 0000001011010 0000001011011 0000001100100 0000001100101
"""
_LONG_RUNS = """
00000001000 00000001100 00000001101 000000010010 000000010011 000000010100 000000010101
000000010110 000000010111 000000011100 000000011101 000000011110 000000011111
"""


@functools.lru_cache(maxsize=1)
def _fax_tables() -> np.ndarray:
    """By color and the next 13 bits: 4096 times the length of the code, plus the run; or 0."""
    table = np.zeros((2, 1 << 13), np.int64)
    for row, codes in zip(table, (_WHITE_RUNS, _BLACK_RUNS)):
        for k, code in enumerate(codes.split() + _LONG_RUNS.split()):
            run = k if k < 64 else 64 * (k - 63)
            free = 13 - len(code)
            row[int(code, 2) << free : (int(code, 2) + 1) << free] = len(code) << 12 | run
    return table


def count_fax_rows(
    codes: np.ndarray, width: int, n_rows: int, *, group: int, two_dimensional: bool
) -> int:
    """Count the rows in data of fax compression.

    Parameters
    ----------
    codes : ndarray of uint8
        The data, the first bit of each byte being the highest.
    width, n_rows : int
        Size of the image.
    group : int
        3 or 4; 2 for the rows of group 3 that each begin at a byte and have no marks between.
    two_dimensional : bool
        Whether rows of group 3 may refer to the row before; those of group 4 do.

    Returns
    -------
    int
        Whole rows, up to the end, the first invalid code, or ``n_rows``.
    """
    return _count_fax_rows(codes, width, n_rows, group, two_dimensional, _fax_tables())


@kernel()
def _peek(codes, at, count):
    """The next bits, with zeros for those that are not there."""
    value = 0
    first = at >> 3
    for k in range(first, first + 4):
        value = value << 8 | (np.int64(codes[k]) if k < len(codes) else 0)
    return (value >> (32 - (at & 7) - count)) & ((1 << count) - 1)


@kernel()
def _fax_run(codes, at, color, table):
    """The length of a run and where its codes end; -1 for an invalid code."""
    total = 0
    while True:
        entry = table[color, _peek(codes, at, 13)]
        if entry == 0:
            return -1, at
        at += entry >> 12
        run = entry & 4095
        total += run
        if run < 64:
            return total, at


@kernel()
def _count_fax_rows(codes, width, n_rows, group, two_dimensional, table):
    n_bits = 8 * len(codes)
    before = np.full(width + 16, width, np.int64)  # where the color changes in the row before
    now = np.empty(width + 16, np.int64)
    at = 0
    for row in range(n_rows):
        one_dimensional = group != 4
        if group == 3:
            n_ends = 0
            while _peek(codes, at, 11) == 0:
                while at < n_bits and _peek(codes, at, 1) == 0:
                    at += 1
                at += 1
                n_ends += 1
                if two_dimensional:
                    one_dimensional = _peek(codes, at, 1) == 1
                    at += 1
                if n_ends > 5 or at >= n_bits:
                    return row
        a0, color, n, i = -1, 0, 0, 0
        while a0 < width:
            if at >= n_bits or n + 2 > width + 12:
                return row
            if one_dimensional or _peek(codes, at, 3) == 1:  # two runs
                if not one_dimensional:
                    at += 3
                place = max(a0, 0)
                for k in range(2):
                    run, at = _fax_run(codes, at, (color + k) % 2, table)
                    place += run
                    if run < 0 or place > width:
                        return row
                    now[n] = place
                    n += 1
                    if one_dimensional and place == width:
                        break
                a0 = place
                continue
            while i > 0 and before[i - 1] > a0:
                i -= 1
            while before[i] < width and (before[i] <= a0 or i % 2 != color):
                i += 1
            b1 = before[i]
            ahead = _peek(codes, at, 7)
            if ahead >> 3 == 1:  # pass
                at += 4
                a0 = before[i + 1] if b1 < width else width
                continue
            if ahead >> 6 == 1:
                length, way = 1, 0
            elif ahead >> 4 == 3:
                length, way = 3, 1
            elif ahead >> 4 == 2:
                length, way = 3, -1
            elif ahead >> 1 == 3:
                length, way = 6, 2
            elif ahead >> 1 == 2:
                length, way = 6, -2
            elif ahead == 3:
                length, way = 7, 3
            elif ahead == 2:
                length, way = 7, -3
            else:
                return row
            at += length
            if b1 + way > width or b1 + way < max(a0, 0):
                return row
            a0 = b1 + way
            now[n] = a0
            n += 1
            color = 1 - color
        if at > n_bits:
            return row
        if group == 2:
            at = (at + 7) // 8 * 8
        now[n:] = width
        before, now = now, before
    return n_rows
