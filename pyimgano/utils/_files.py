"""The order of file names; what a name stands for; opening without waiting."""

from __future__ import annotations

import os
import re
import stat

__all__ = ["kind_of", "natural", "open_at_once"]

_AT_ONCE = os.O_RDONLY
for _name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):  # not on every system
    _AT_ONCE |= getattr(os, _name, 0)


def open_at_once(path: str | os.PathLike[str]) -> int:
    """Open a file for reading: a pipe without waiting for a writer, a terminal without taking it.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    int
        The descriptor; :func:`kind_of` tells what was opened.
    """
    return os.open(path, _AT_ONCE)


def kind_of(mode: int) -> str | None:
    """Say in words what something other than a regular file is.

    Parameters
    ----------
    mode : int
        ``st_mode`` of :func:`os.stat`.

    Returns
    -------
    str or None
        Such as ``"a pipe"``; None for a regular file.
    """
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


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
