"""Saving a fitted pipeline as one joblib file, and the safe door back."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np

from pyimgano._nesting import all_parts
from pyimgano.exceptions import UntrustedFileError
from pyimgano.persistence._reading import read_saved
from pyimgano.persistence._source import open_regular, read_small
from pyimgano.utils._clock import utc_now
from pyimgano.utils._environment import package_versions
from pyimgano.utils._json import write_json
from pyimgano.utils._outputs import atomic_write

__all__ = ["load", "read_map_range", "save"]


def save(
    estimator: Any,
    path: str | os.PathLike[str],
    *,
    compress: int = 0,
    map_range: tuple[float, float] | None = None,
) -> Path:
    """Save a fitted estimator as one joblib file, and what proves it whole beside it.

    The file is an ordinary one: ``joblib.load(path)`` returns the estimator. A second file,
    ``<path>.json``, holds its SHA-256, size, class names and library versions;
    :func:`load` asks for it.

    Whatever interrupts a save, a power cut or ``kill -9`` included, ``path`` holds the old
    estimator or the new one, whole, and the side file vouches for the one that is there. An
    interrupted save can leave a file ``.<name>.<random>.tmp`` behind, which may be deleted.
    Two processes must not save to one path at the same time.

    Parameters
    ----------
    estimator : estimator
        Usually a fitted pipeline.
    path : str or Path
        The file to create or to replace, such as ``"line3.joblib"``. Its folder must exist. A
        symbolic link stays, and what it points to is replaced.
    compress : int from 0 to 9, default=0
        zlib level. 0 loads fastest; a bank of features shrinks by about a tenth at 3.
    map_range : (float, float), default=None
        Scale of the colors of heat maps, from :func:`pyimgano.reporting.map_range`. It is kept
        beside the file, where ``pyimgano-infer --save-maps`` finds it.

    Returns
    -------
    Path
        ``path`` as given.

    Warns
    -----
    UserWarning
        If the estimator holds types that :func:`load` refuses, such as classes of your own.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pyimgano
    >>> rows = np.random.RandomState(0).normal(size=(50, 4))
    >>> detector = pyimgano.PatchCoreDetector().fit(rows)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pyimgano.save(detector, f"{folder}/line3.joblib")
    ...     again = pyimgano.load(path)
    >>> bool((again.score_samples(rows) == detector.score_samples(rows)).all())
    True
    """
    if isinstance(compress, bool) or compress not in range(10):
        raise ValueError(f"compress={compress!r} must be an integer from 0 to 9 (zlib's levels).")
    given, target = Path(path), _resolve(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: this folder does not exist; create it first.")
    side = _side_file(target)
    with atomic_write(target) as file:
        joblib.dump(estimator, file, compress=compress)
        file.flush()
        entry = _entry(file)
        file.seek(0)
        try:  # what was written is read back before it replaces anything
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_saved(file.fileno(), target, (), lambda entry: None)
        except UntrustedFileError as error:
            warnings.warn(f"saved, but pyimgano.load will refuse it: {error}", stacklevel=2)
        about = {
            "file": target.name,
            "classes": _class_names(estimator),
            "created": utc_now(),
            "versions": package_versions(),
            **({} if map_range is None else {"map_range": [float(v) for v in map_range]}),
            **entry,
        }
        # Two files cannot be replaced in one step. So the side file first vouches for both
        # the old content and the new, then the content changes, then the old one is dropped:
        # whichever step is the last to happen, the side file vouches for what is there.
        old = _entry_of_existing(target)
        write_json(side, {**about, "previous": old} if old else about)
    write_json(side, about)
    return given


def load(path: str | os.PathLike[str], *, trusted: Sequence[str] = ()) -> Any:
    """Load a saved estimator, provided it is whole and holds known types in a possible state.

    ``joblib.load`` runs whatever a file tells it to run. This reads the file as data: nothing
    that it names is imported or called. Objects are made of that data by functions of this
    package alone, for the estimators of pyimgano, those of scikit-learn that its guide uses, and
    the PyOD models that :func:`~pyimgano.registry.list_models` knows. Each of them has declared
    which attributes it has, and of what type, shape and range; anything else is refused.

    Parameters
    ----------
    path : str or Path
        A file written by :func:`save`.
    trusted : sequence of str, default=()
        Further classes and functions to admit, by their full names, such as
        ``["mylab.steps.Deskew"]``. They are imported, which runs their module; classes are made
        by ``__new__`` and filled by their own ``__setstate__`` or into ``__dict__``, functions
        are called, with arguments and state that the file chooses. What is inside them is read
        as everywhere else. The error for a file that holds any names all it asks for.

    Returns
    -------
    estimator

    Raises
    ------
    UntrustedFileError
        If the side file is missing or does not match, if the file is no saved estimator, is
        larger or deeper than any, or holds a type that is not admitted or a state that it cannot
        have.
    FileNotFoundError
        If there is no such file.

    Notes
    -----
    The SHA-256 finds damage and mix-ups; whoever can replace both files can make it fit. What
    :func:`load` promises of a hostile file is that reading it opens no other file, runs nothing
    and ends. The numbers and parameters in it are still its author's choice: such an estimator
    can give any score. A path in ``weights`` of a feature step is opened when images are scored.

    A ``pathlib.Path`` comes back as text. A pipeline with a cache (``memory``) is refused, since
    the next fit would read the cache with ``joblib.load``.
    """
    target = _resolve(path)
    with open_regular(target) as descriptor:
        about = _read_side_file(_side_file(target), target)
        return read_saved(
            descriptor, target, trusted, lambda entry: _check_entry(about, entry, target)
        )


def read_map_range(path: str | os.PathLike[str]) -> tuple[float, float] | None:
    """Read the scale of colors that was saved with an estimator.

    Parameters
    ----------
    path : str or Path
        The file that :func:`save` wrote.

    Returns
    -------
    (float, float) or None
        None if there is none.
    """
    try:
        target = _resolve(path)
        found = _read_side_file(_side_file(target), target).get("map_range")
    except UntrustedFileError:  # no side file of ours
        return None
    if not isinstance(found, list) or len(found) != 2:
        return None
    if not all(type(value) in (int, float) and abs(value) < 1e100 for value in found):
        return None
    if not -np.inf < found[0] < found[1] < np.inf:
        return None
    return float(found[0]), float(found[1])


def _resolve(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


def _side_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


# ---- the side file --------------------------------------------------------------------
# A side file has about one kilobyte. JSON of a few hundred levels is more than it ever has, and
# less than what Python's parser runs out of stack for.
_LARGEST_SIDE_FILE = 2**20
_DEEPEST_SIDE_FILE = 100


def _entry(file: BinaryIO) -> dict[str, Any]:
    """Size and SHA-256 of an open file."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    return {"sha256": digest.hexdigest(), "size": size}


def _entry_of_existing(target: Path) -> dict[str, Any] | None:
    """Entry of the file that is about to be replaced, if its side file vouches for it."""
    try:
        with open_regular(target) as descriptor, open(descriptor, "rb", closefd=False) as file:
            entry = _entry(file)
        _check_entry(_read_side_file(_side_file(target), target), entry, target)
    except (FileNotFoundError, UntrustedFileError):
        return None
    return entry


def _read_side_file(side: Path, target: Path) -> dict[str, Any]:
    try:
        content = read_small(side, _LARGEST_SIDE_FILE)
    except FileNotFoundError:
        raise UntrustedFileError(
            f"{target}: there is no {side.name} beside it, which says what the file must be. "
            "Copy both files; or, if you trust whoever made the file, use joblib.load(path) "
            "(pyimgano-infer --trust)."
        ) from None
    if content.count(b"[") + content.count(b"{") > _DEEPEST_SIDE_FILE:
        raise UntrustedFileError(f"{side}: is no side file of a saved pipeline, but other JSON.")
    try:
        about = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise UntrustedFileError(f"{side}: is damaged, not JSON ({error}).") from error
    if not isinstance(about, dict):
        raise UntrustedFileError(f"{side}: is damaged, not JSON of a saved pipeline.")
    return about


def _check_entry(about: dict[str, Any], entry: dict[str, Any], target: Path) -> None:
    vouched = [about, about.get("previous")]
    if not any(isinstance(v, dict) and v.get("sha256") == entry["sha256"] for v in vouched):
        raise UntrustedFileError(
            f"{target}: is not the file that {_side_file(target).name} describes "
            f"({str(about.get('size'))[:20]} bytes, here are {entry['size']} bytes with another "
            "SHA-256): it was damaged, cut short or replaced. Copy both files anew."
        )


def _class_names(estimator: Any) -> list[str]:
    return list(dict.fromkeys(type(part).__name__ for part in all_parts(estimator)))
