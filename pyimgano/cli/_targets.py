"""Files that a command is about to write, refused where they would harm what is there."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Sequence

from pyimgano.cli import _common

__all__ = ["check_file", "check_pictures_folder", "check_records_file", "real_paths"]

# By these endings a file is something else than records.
_NO_RECORDS = (".joblib", ".pkl", ".pth", ".pt", ".npz")


def real_paths(paths: Iterable[str]) -> set[str]:
    """Give the files that paths lead to, links followed.

    Parameters
    ----------
    paths : iterable of str

    Returns
    -------
    set of str
    """
    return {os.path.realpath(path) for path in paths}


def check_file(option: str, path: str, used: set[str], *, replaces_link: bool = True) -> None:
    """Refuse a file that cannot be written, or that must not be.

    Parameters
    ----------
    option : str
        The option that names it, for messages.
    path : str
    used : set of str
        :func:`real_paths` of what the command reads.
    replaces_link : bool, default=True
        A link would be replaced, which is refused; False is for a writer that follows it.
    """
    from pyimgano.utils._files import kind_of
    from pyimgano.utils._outputs import part_of

    if os.path.isdir(path):
        raise _common.UsageError(f"{option} {path}: is a folder; give a file in it")
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise _common.UsageError(f"{option} {path}: there is no such folder; make it first")
    if os.path.exists(path) and not os.path.isfile(path):
        kind = kind_of(os.stat(path).st_mode)
        raise _common.UsageError(f"{option} {path}: is {kind}, no file; give a file")
    target = path if replaces_link else os.path.realpath(path)
    for one in (target, str(part_of(target))):
        if os.path.realpath(one) in used:
            raise _common.UsageError(
                f"{option} {path}: would overwrite {os.path.realpath(one)}, which is read; "
                "give another file"
            )
    if os.path.islink(target):
        raise _common.UsageError(
            f"{option} {path}: is a link, and links are not followed; give the file itself, "
            f"{os.path.realpath(path)}"
        )
    if not os.access(folder, os.W_OK):
        raise _common.UsageError(f"{option} {path}: nothing may be written in {folder}")


def check_records_file(option: str, path: str, used: set[str], inputs: Sequence[str]) -> None:
    """Refuse to write records where :func:`check_file` objects, or over what is none.

    Parameters
    ----------
    option, path, used
        As in :func:`check_file`.
    inputs : sequence of str
        Folders, files and patterns of images, as the user gave them. None of the patterns may
        match the file.
    """
    from pyimgano.inputs._reading import PICTURES
    from pyimgano.utils._files import kind_of

    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise _common.UsageError(
            f"{option} {path}: is {kind_of(os.stat(path).st_mode)}, and records are kept in a "
            "file, which is renamed when it is complete; give a file, or write to standard output "
            f"and lead that there: {option} - > {path}"
        )
    check_file(option, path, used)
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isfile(path) and suffix in {*PICTURES, *_NO_RECORDS}:
        raise _common.UsageError(
            f"{option} {path}: is there already and by its name no file of records; give "
            "another file, or remove it"
        )
    for item in _patterns(inputs):
        if _matches(_parts(os.path.realpath(path)), _parts(_real_pattern(item))):
            raise _common.UsageError(
                f"{option} {path}: would be taken for an image of {item} the next time; give a "
                "file elsewhere"
            )


def check_pictures_folder(
    option: str, folder: str, inputs: Sequence[str], pictures: Iterable[str]
) -> None:
    """Refuse a folder for pictures in which they would be taken for images the next time.

    Parameters
    ----------
    option : str
        The option that names it, for messages.
    folder : str
    inputs : sequence of str
        Folders, files and patterns, as the user gave them.
    pictures : iterable of str
        Files that will be written, relative to ``folder``.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise _common.UsageError(f"{option} {folder}: is a file, not a folder")
    real = os.path.realpath(folder)
    folders = [(item, os.path.realpath(item)) for item in inputs if os.path.isdir(item)]
    patterns = [(item, _parts(_real_pattern(item))) for item in _patterns(inputs)]
    if not folders and not patterns:
        return
    for name in pictures:
        path = os.path.join(real, name)
        taken = [item for item, one in folders if _lies_in(path, one)]
        taken += [item for item, pattern in patterns if _matches(_parts(path), pattern)]
        if taken:
            raise _common.UsageError(
                f"{option} {folder}: the pictures would be taken for images of {taken[0]} the "
                "next time; give a folder elsewhere"
            )


def _patterns(inputs: Sequence[str]) -> list[str]:
    return [item for item in inputs if glob.has_magic(item) and not os.path.lexists(item)]


def _real_pattern(pattern: str) -> str:
    """The pattern with the links before its first wildcard followed, as those of files are."""
    fixed, rest = pattern, ""
    while glob.has_magic(fixed):
        fixed, name = os.path.split(fixed)
        rest = os.path.join(name, rest) if rest else name
    return os.path.join(os.path.realpath(fixed), rest)


def _parts(path: str) -> list[str]:
    return os.path.normcase(path).replace(os.sep, "/").split("/")


def _lies_in(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a recursive glob would find a file."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return (
        bool(parts)
        and fnmatch.fnmatchcase(parts[0], pattern[0])
        and _matches(parts[1:], pattern[1:])
    )
