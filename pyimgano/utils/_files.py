"""The order of file names."""

from __future__ import annotations

import re

__all__ = ["natural"]


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
