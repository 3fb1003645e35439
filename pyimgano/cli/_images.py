"""The images that commands are given: found, read once, and described."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyimgano.cli import _common

__all__ = ["Found", "counted", "find_images", "look_at"]

# Copies that are named; of more, their number is told.
_N_NAMED = 5


def find_images(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths of all images, and a name for each, relative to what was asked for."""
    from pyimgano.inputs import ImageSequence
    from pyimgano.utils._files import natural

    paths: list[str] = []
    for item in inputs:
        if os.path.isdir(item):
            paths += ImageSequence.from_folder(item, recursive=True).paths
        elif os.path.lexists(item):
            paths.append(item)
        elif glob.has_magic(item):
            found = [path for path in glob.glob(item, recursive=True) if not os.path.isdir(path)]
            if not found:
                raise _common.UsageError(f"{item}: no file matches this pattern")
            paths += sorted(found, key=natural)
        else:
            raise _common.UsageError(f"{item}: there is no such file or folder")
    paths = list(dict.fromkeys(paths))
    absolute = [os.path.abspath(path) for path in paths]
    try:
        common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    except ValueError:  # several drives
        common = None
    # A colon cannot be in a file name everywhere.
    names = [
        os.path.relpath(path, common) if common else re.sub(r"[:\\/]+", "/", path)
        for path in absolute
    ]
    return paths, names


@dataclass
class Found:
    """The images of a folder that can be used, and what was seen of all of them."""

    images: Any
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    by_digest: dict[bytes, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)  # what is wrong with a file, by path
    copy_of: dict[str, str] = field(default_factory=dict)  # the first with a copy's picture
    highest_u16: int = 0  # largest value in files of 16 bits

    @property
    def n_errors(self) -> int:
        return len(self.errors)

    def in_words(self) -> str:
        text = _common.several(len(self.images), "image")
        if len(self.images):
            text += f": {counted(self.kinds)}; {counted(self.sizes)} pixels"
        left_out = [f"{len(self.copy_of)} the same as another"] * bool(self.copy_of)
        left_out += [f"{self.n_errors} unreadable"] * bool(self.n_errors)
        return f"{text}; left out: {', '.join(left_out)}" if left_out else text


def counted(counts: Counter[Any]) -> str:
    """``PNG``, or ``50 PNG, 3 JPEG``."""
    names = {one: f"{one[0]} x {one[1]}" if isinstance(one, tuple) else str(one) for one in counts}
    if len(counts) == 1:
        return next(iter(names.values()))
    of = "of " if any(isinstance(one, tuple) for one in counts) else ""
    most = counts.most_common(3)
    parts = [f"{count} {of}{names[one]}" for one, count in most]
    others = sum(counts.values()) - sum(count for _, count in most)
    return ", ".join(parts + [f"{others} of {len(counts) - 3} other kinds"] * (others > 0))


def look_at(
    prog: str,
    what: str,
    images: Any,
    u16_max: int,
    progress: bool,
    known: Found | None = None,
    tell: Callable[[str], None] = _common.tell,
) -> Found:
    """Read images once, say what there is, and leave out copies and what cannot be read.

    Parameters
    ----------
    prog : str
        Name of the command.
    what : str
        Name for all of the images, such as their folder.
    images : ImageSequence
    u16_max : int
        Full scale of 16-bit files.
    progress : bool
        Whether to draw a bar.
    known : Found, default=None
        Images of which these must be no copies.
    tell : callable, default=tell
        Writes a line for people.

    Returns
    -------
    Found
    """
    found, usable = Found(images), []
    seen = {} if known is None else dict(known.by_digest)
    for i, content in enumerate(_contents(images, u16_max, progress)):
        path = images.paths[i]
        if isinstance(content, Exception):
            found.errors[path] = str(content)
            _common.say(f"{prog}: left out: {content}")
            continue
        first = seen.setdefault(content.digest, path)
        if first != path:
            found.copy_of[path] = first
            continue
        found.by_digest[content.digest] = path
        usable.append(i)
        found.sizes[content.size] += 1
        found.kinds[content.kind] += 1
        found.highest_u16 = max(found.highest_u16, content.highest_u16)
    for path, first in list(found.copy_of.items())[:_N_NAMED]:
        _common.say(f"{prog}: left out: {path}: the same picture as {first}")
    if len(found.copy_of) > _N_NAMED:
        _common.say(f"{prog}: left out: {len(found.copy_of) - _N_NAMED} more copies")
    found.images = images[usable]
    tell(f"{what}: {found.in_words()}")
    return found


@dataclass
class _Content:
    digest: bytes
    size: tuple[int, int]  # width, height
    kind: str
    highest_u16: int  # 0 for files of 8 bits


def _contents(images: Any, u16_max: int, progress: bool) -> Iterator[_Content | Exception]:
    """Look into each image; give what it holds, or the error that keeps it from being used."""
    import numpy as np

    from pyimgano.exceptions import ImageFormatError, ImageReadError
    from pyimgano.inputs._reading import as_canonical, decode_file
    from pyimgano.utils._fingerprint import digest
    from pyimgano.utils._progress import progress_callback

    with progress_callback("looking at images", progress) as step:
        for i, path in enumerate(images.paths):
            try:
                file = decode_file(path)
                as_canonical(file.pixels, u16_max, f"file {path}")
            except (ImageReadError, ImageFormatError) as error:
                yield error
            else:
                pixels = file.pixels
                deep = pixels.dtype == np.uint16
                kind = f"{'16-bit ' if deep else ''}{'gray ' if pixels.ndim == 2 else ''}"
                height, width = pixels.shape[:2]
                yield _Content(
                    digest(pixels),
                    (width, height),
                    kind + file.kind,
                    int(pixels.max()) if deep else 0,
                )
            if step is not None:
                step(i + 1, len(images))
