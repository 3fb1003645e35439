"""Files: the order of their names, and writing them whole."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_write", "exclusive_write", "natural", "short_name"]

# Bytes of a file name that leave room for endings and for the name of a temporary file.
_LONGEST_NAME = 200


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
    except BaseException as error:  # Ctrl-C as well
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            # Of a write that fails, the system does not say which file it was.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


@contextmanager
def exclusive_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file over a long time: ``path`` keeps its old content until all is written.

    What is written goes to ``<path>.part``, which takes the place of ``path`` at the end. After
    an error or an interrupt it stays, so that what was done can be looked at; the next writer
    begins it anew.

    Parameters
    ----------
    path : str or Path
        The file to create or to replace. Its folder must exist.

    Yields
    ------
    binary file, not buffered

    Raises
    ------
    BlockingIOError
        If another process is writing the same file.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(part, flags, 0o666), "r+b", buffering=0) as file:
        _lock(file, part)
        file.truncate()
        try:
            yield file
            os.fsync(file.fileno())
        except BaseException:
            if os.name == "posix" and not os.fstat(file.fileno()).st_size:
                os.unlink(part)  # nothing was done
            raise
        if os.name == "posix":  # while the lock is held: another writer must not come between
            os.replace(part, path)
    if os.name != "posix":  # Windows does not rename an open file
        os.replace(part, path)
    _sync_folder(path.parent)


def _lock(file: BinaryIO, part: Path) -> None:
    busy = BlockingIOError(11, "another run is writing this file", str(part))
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        try:
            same = os.path.samestat(os.fstat(file.fileno()), os.stat(part))
        except FileNotFoundError:
            same = False
        if not same:  # the other run has just ended and renamed it
            raise busy
    else:
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            raise busy from None


def short_name(name: str) -> str:
    """Shorten the parts of a relative path that are too long for names of files made from it.

    Parameters
    ----------
    name : str
        Relative path.

    Returns
    -------
    str
        The same where every part is short; else with a digest in place of the end of a part, so
        that different names stay different.
    """
    parts = []
    for part in Path(name).parts:
        encoded = os.fsencode(part)
        if len(encoded) > _LONGEST_NAME:
            digest = hashlib.sha256(encoded).hexdigest()[:16]
            kept = encoded[: _LONGEST_NAME - 17].decode(errors="ignore")
            part = f"{kept}~{digest}"
        parts.append(part)
    return os.path.join(*parts)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
