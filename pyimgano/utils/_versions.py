"""Versions: in what is saved, and in what to paste into a bug report."""

from __future__ import annotations

import sys
import warnings
from typing import Any, TextIO

import numpy as np

from pyimgano.exceptions import VersionDriftWarning
from pyimgano.utils._environment import environment, scoring_versions
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import fail
from pyimgano.utils._words import printable

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


class VersionStampMixin(CheckedStateMixin):
    """Stamp library versions into the saved state and warn when they have drifted.

    The versions are those of pyimgano and of the installed dependencies that can change a score.
    A difference in the patch version is not reported.
    """

    def __getstate__(self) -> dict:
        state = super().__getstate__()  # type: ignore[misc]
        return {**state, "_versions": scoring_versions()}

    @classmethod
    def _restored_state(
        cls,
        state: Any,
        *,
        thorough: bool,
        closed: bool,
        in_range: dict[int, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        saved = state.get("_versions", {}) if type(state) is dict else {}
        if type(saved) is not dict or not all(type(text) is str for text in saved.values()):
            fail(f"{cls.__name__}._versions", "is no dict of versions")
        if type(state) is dict:
            state = {name: value for name, value in state.items() if name != "_versions"}
        state = super()._restored_state(state, thorough=thorough, closed=closed, in_range=in_range)
        here = scoring_versions()
        drifted = {}
        if saved != here:
            drifted = {
                name: (version, now)
                for name, now in here.items()
                if _minor(version := saved.get(name, now)) != _minor(now)
            }
        if drifted:
            changes = ", ".join(
                f"{n} {printable(old[:40])} (now {new})" for n, (old, new) in drifted.items()
            )
            warnings.warn(
                f"this {cls.__name__} was saved under {changes}; scores may differ. "
                "Fit and save it again under these versions, or install the old ones.",
                VersionDriftWarning,
                stacklevel=3,
            )
        return state


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
