"""The same picture in two parts of a dataset, found by its content."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from pyimgano.inputs._reading import open_image_file, read_raw
from pyimgano.utils._fingerprint import digest

if TYPE_CHECKING:
    from pyimgano.datasets._record import InspectionImage

__all__ = ["duplicates_between"]

_SAMPLE = 4096  # bytes that tell most files of equal size apart
_BLOCK = 1 << 20


class _Picture:
    """A picture, the part it is in, and what it is called."""

    __slots__ = ("name", "part", "path", "pixels")

    def __init__(self, part: str, index: int, image: InspectionImage) -> None:
        self.part, self.path, self.pixels = part, image.path, image.pixels
        self.name = f"{part}[{index}]" if image.path is None else image.path


def duplicates_between(
    parts: Mapping[str, Sequence[InspectionImage]], *, decode: bool
) -> list[tuple[str, str]]:
    """Find pairs of equal pictures in different parts.

    Parameters
    ----------
    parts : dict of str to sequence of InspectionImage
    decode : bool
        Compare pixels, not the bytes of files.

    Returns
    -------
    list of (str, str)
        Names of a picture and of an equal one in a later part.
    """
    pictures = [
        _Picture(part, i, image) for part, found in parts.items() for i, image in enumerate(found)
    ]
    # Each step costs more than the one before, and is taken only where that one found no
    # difference.
    steps: tuple[Callable[[_Picture], Hashable], ...] = (_size, _sample, _content)
    if decode or any(picture.path is None for picture in pictures):
        steps = (_pixels,)
    groups: Iterable[list[_Picture]] = [pictures]
    for step in steps:
        groups = [same for group in groups for same in _in_several_parts(group, step)]
    return [pair for group in groups for pair in _pairs(group)]


def _in_several_parts(
    group: Sequence[_Picture], key: Callable[[_Picture], Hashable]
) -> list[list[_Picture]]:
    by_key: dict[Any, list[_Picture]] = defaultdict(list)
    for picture in group:
        value = key(picture)
        if value is not None:
            by_key[value].append(picture)
    return [same for same in by_key.values() if len({picture.part for picture in same}) > 1]


def _pairs(group: Sequence[_Picture]) -> list[tuple[str, str]]:
    first = group[0]
    return [(first.name, other.name) for other in group if other.part != first.part]


def _size(picture: _Picture) -> Hashable:
    try:
        status = os.stat(picture.name)
    except OSError:  # the file is named as soon as it is read
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _sample(picture: _Picture) -> Hashable:
    with open_image_file(picture.name) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, (size - _SAMPLE) // 2))
        return blake2b(file.read(_SAMPLE), digest_size=16).digest()


def _content(picture: _Picture) -> Hashable:
    hashed = blake2b(digest_size=16)
    with open_image_file(picture.name) as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
    return hashed.digest()


def _pixels(picture: _Picture) -> Hashable:
    if picture.pixels is not None:
        return digest(picture.pixels)
    return digest(read_raw(picture.name))
