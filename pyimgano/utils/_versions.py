"""Versions: in what is saved, and in what to paste into a bug report."""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

from pyimgano.exceptions import VersionDriftWarning
from pyimgano.utils._environment import environment, scoring_versions

__all__ = ["VersionStampMixin", "show_versions"]


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
    found = environment()
    packages = found.pop("packages")
    assert isinstance(packages, dict)
    lines = []
    for title, rows in (("System", found), ("Packages", packages)):
        lines += ["", title]
        lines += [f"  {name:>32}  {value}" for name, value in rows.items() if value != {}]
    (file or sys.stdout).write("\n".join(lines) + "\n")


class VersionStampMixin:
    """Stamp library versions into the saved state and warn when they have drifted.

    The versions are those of pyimgano and of the installed dependencies that can change a score.
    A difference in the patch version is not reported.
    """

    def __getstate__(self) -> dict:
        state = super().__getstate__()  # type: ignore[misc]
        return {**state, "_versions": scoring_versions()}

    def __setstate__(self, state: dict) -> None:
        state = dict(state)
        saved = state.pop("_versions", {})
        drifted = {
            name: (version, now)
            for name, now in scoring_versions().items()
            if _minor(version := saved.get(name, now)) != _minor(now)
        }
        if drifted:
            changes = ", ".join(f"{n} {old} (now {new})" for n, (old, new) in drifted.items())
            warnings.warn(
                f"this {type(self).__name__} was saved under {changes}; scores may differ. "
                "Fit and save it again under these versions, or install the old ones.",
                VersionDriftWarning,
                stacklevel=2,
            )
        super().__setstate__(state)  # type: ignore[misc]


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
