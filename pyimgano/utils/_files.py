"""Files: the order of their names, and writing them whole."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_write", "natural"]


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key: runs of digits by their value, letters without case, ties by the name itself.

    Parameters
    ----------
    name : str
        Name or path of a file.

    Returns
    -------
    tuple
        To be compared with others of its kind: ``2.png`` comes before ``10.png``.
    """
    pieces = re.findall(r"\d+|\D+", name)
    key = [(0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in pieces]
    return key, name


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file so that ``path`` holds the old content or the new, never a part of it.

    What is written goes to a temporary file beside ``path``, reaches the disk, and then
    takes the place of ``path`` in one step. On an error the temporary file is removed; a
    process that is killed leaves it behind, as ``.<name>.<random>.tmp``.

    Parameters
    ----------
    path : str or Path
        The file to create or to replace. Its folder must exist.

    Yields
    ------
    binary file, open for reading and writing
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Not tempfile's: that one is readable by its owner alone, and so would the result be.
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C as well
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
