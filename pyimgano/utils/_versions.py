"""``show_versions``: what to paste into a bug report."""

from __future__ import annotations

import sys
from typing import TextIO

__all__ = ["show_versions"]


def show_versions(file: TextIO | None = None) -> None:
    """Print the versions of Python, the machine and pyimgano's dependencies.

    Parameters
    ----------
    file : text file, default=None
        Where to print; None is the standard output.

    Examples
    --------
    >>> from pyimgano.utils import show_versions
    >>> show_versions()  # doctest: +ELLIPSIS
    <BLANKLINE>
    System
    ...
    """
    from pyimgano.delivery import environment

    found = environment()
    packages = found.pop("packages")
    assert isinstance(packages, dict)
    lines = []
    for title, rows in (("System", found), ("Packages", packages)):
        lines += ["", title]
        lines += [f"  {name:>32}  {value}" for name, value in rows.items() if value != {}]
    (file or sys.stdout).write("\n".join(lines) + "\n")
