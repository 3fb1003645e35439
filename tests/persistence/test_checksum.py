"""The checksum that load compares: as documented, in any pieces, and changed by any damage."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

import pyimgano
from pyimgano.exceptions import UntrustedFileError
from pyimgano.persistence._checksum import BLOCK, PREFIX, Checksum
from pyimgano.persistence._source import Source


def checksum(content: bytes) -> str:
    found = Checksum()
    found.update(memoryview(content))
    return found.text()


def by_definition(content: bytes) -> str:
    """Word by word, in Python's integers."""
    digest = hashlib.sha256()
    for start in range(0, len(content), 256 * 509 * 8):
        block = content[start : start + 256 * 509 * 8]
        sums = [0] * 509
        for i in range(0, len(block), 8):
            word = int.from_bytes(block[i : i + 8], "little")
            sums[i // 8 % 509] = (sums[i // 8 % 509] + word) % 2**64
        digest.update(b"".join(one.to_bytes(8, "little") for one in sums))
    digest.update(len(content).to_bytes(8, "little"))
    return "columns509:" + digest.hexdigest()


@pytest.mark.parametrize("length", [0, 1, 8, 4071, 4072, 4073, BLOCK - 1, BLOCK, BLOCK + 5])
def test_it_is_what_the_documentation_says(length):
    assert checksum(os.urandom(length)) != checksum(bytes(length)) or not length
    content = np.random.RandomState(length % 1000).bytes(length)
    assert checksum(content) == by_definition(content)


def test_pieces_do_not_matter():
    rng = np.random.RandomState(0)
    content = rng.bytes(3 * BLOCK + 12345)
    expected = checksum(content)
    for sizes in ([1, BLOCK - 1, BLOCK, 7], [BLOCK, BLOCK + 1], [2**16] * 40, [3 * BLOCK]):
        found, at = Checksum(), 0
        for size in [*sizes, len(content)]:
            found.update(memoryview(content)[at : at + size])
            at += size
        assert found.text() == expected


def changed_contents(content: bytes, rng: np.random.RandomState):
    n = len(content)
    for _ in range(200):
        at = rng.randint(n)
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.randint(8)
        yield "a bit", bytes(flipped)
        size = int(rng.choice([1, 3, 8, 16, 512, 4072, 4096]))
        yield "cut out", content[:at] + content[at + size :]
        yield "doubled", content[: at + size] + content[at:]
        if content[at : at + size].strip(b"\0"):
            yield "zeros", content[:at] + bytes(size) + content[at + size :]
        yield "cut short", content[:at]
    for size in (8, 512, 4096, 2**16):  # words, sectors and pages that change places
        places = rng.choice(n // size, 2, replace=False) * size
        first, second = sorted(int(place) for place in places)
        one, two = content[first : first + size], content[second : second + size]
        yield (
            f"exchanged {size}",
            content[:first] + two + content[first + size : second] + one + content[second + size :],
        )
    yield "blocks exchanged", content[BLOCK : 2 * BLOCK] + content[:BLOCK] + content[2 * BLOCK :]
    yield "longer by zeros", content + bytes(8)


def test_damage_changes_it():
    rng = np.random.RandomState(1)
    content = rng.normal(size=3 * BLOCK // 8).astype(np.float32).tobytes()
    content += rng.bytes(BLOCK // 2)
    expected = checksum(content)
    for what, damaged in changed_contents(content, rng):
        assert damaged == content or checksum(damaged) != expected, what


def test_a_source_reports_it_for_the_file_on_disk(tmp_path):
    # Arrays of several sizes: read in place, through buffers, and over the borders of blocks.
    rng = np.random.RandomState(0)
    arrays = [rng.normal(size=n) for n in (3, 10, BLOCK // 8, 300_000, 1, 64, 200_001)]
    bank = {"kw_args": {str(i): array for i, array in enumerate(arrays)}}
    from sklearn.preprocessing import FunctionTransformer

    for compress in (0, 3):
        path = pyimgano.save(FunctionTransformer(**bank), tmp_path / "a.joblib", compress=compress)
        content = path.read_bytes()
        descriptor = os.open(path, os.O_RDONLY)
        try:
            source = Source(descriptor, with_sha256=True)
            source.skip_rest()
            entry = source.entry()
        finally:
            os.close(descriptor)
        assert entry == {
            "size": len(content),
            "checksum": checksum(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        assert entry["checksum"].startswith(PREFIX)
        again = pyimgano.load(path).kw_args
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(again[str(i)], array)
        for at in (len(content) // 3, len(content) - 100):
            damaged = bytearray(content)
            damaged[at] ^= 16
            path.write_bytes(damaged)
            with pytest.raises(UntrustedFileError, match=r"is not the file that|damaged"):
                pyimgano.load(path)
