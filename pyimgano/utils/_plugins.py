"""Entry points of installed packages, by which they add to this one."""

from __future__ import annotations

import sys
from collections.abc import Container
from importlib import metadata

__all__ = ["entry_points"]


def entry_points(
    group: str, what: str, taken: Container[str]
) -> tuple[dict[str, metadata.EntryPoint], list[str]]:
    """Find the entry points of a group; none of them is loaded.

    Parameters
    ----------
    group : str
        Name of the group.
    what : str
        Name of what they add, for messages, such as "model".
    taken : container of str
        Names of the package itself, which no entry point can have.

    Returns
    -------
    found : dict of str to EntryPoint
    problems : list of str
        A sentence for each entry point that is left out because its name is taken.
    """
    if sys.version_info >= (3, 10):
        points = metadata.entry_points(group=group)
    else:  # a plain dict of groups
        points = metadata.entry_points().get(group, ())
    found: dict[str, metadata.EntryPoint] = {}
    problems = []
    # A distribution that lies twice on the path has its entry points twice.
    for name, value in dict.fromkeys((point.name, point.value) for point in points):
        if name in taken or name in found:
            other = "of pyimgano" if name in taken else f"in {found[name].value}"
            problems.append(
                f"the plug-in for the {what} {name!r} ({group}: {value}) is left out: there is a "
                f"{what} of that name {other}."
            )
        else:
            found[name] = metadata.EntryPoint(name, value, group)
    return found, problems
