"""Saving a fitted pipeline as one joblib file, and the safe door back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np

from pyimgano._nesting import all_parts
from pyimgano.exceptions import UncheckedFileWarning, UntrustedFileError
from pyimgano.persistence._checksum import BLOCK, PREFIX, Checksum
from pyimgano.persistence._networks import look_beside, networks_embedded
from pyimgano.persistence._reading import read_saved
from pyimgano.persistence._source import open_regular, read_small
from pyimgano.utils._clock import utc_now
from pyimgano.utils._environment import package_versions
from pyimgano.utils._json import write_json
from pyimgano.utils._outputs import atomic_write
from pyimgano.utils._words import printable

__all__ = ["check_side_file", "load", "read_map_range", "save"]


def save(
    estimator: Any,
    path: str | os.PathLike[str],
    *,
    compress: int = 0,
    map_range: tuple[float, float] | None = None,
    embed_weights: bool = False,
) -> Path:
    """Save a fitted estimator as one joblib file, with its checksums in a second file beside it.

    The file is an ordinary one: ``joblib.load(path)`` returns the estimator. A second file,
    ``<path>.json``, the side file, holds its size, checksum, SHA-256, class names and library
    versions. :func:`load` compares the checksum, which is made for speed. The SHA-256 is for
    deliveries: people compare it, as does ``load(path, sha256=...)``.

    Whatever interrupts a save, a power cut or ``kill -9`` included, ``path`` holds the old
    estimator or the new one, whole, and the side file vouches for the one that is there. After
    ``kill -9`` there may be a file ``<name>.part``, which the next save takes over; an error,
    Ctrl-C and SIGTERM leave none. Two processes must not save to one path at the same time.

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
        beside the file, where ``pyimgano infer --save-maps`` finds it.
    embed_weights : bool, default=False
        Put the weights of all networks into the file, so that it needs none where it is loaded:
        11 MB for a ResNet-18, 3 MB for EfficientNet-Lite0, nothing where there is no network.
        Otherwise they are found again by their SHA-256, see :doc:`/user_guide/delivery`.

    Returns
    -------
    Path
        ``path`` as given.

    Raises
    ------
    WeightsError
        With ``embed_weights``, if the weights are not to be found, or are not those of ``fit``.
    ValueError
        With ``embed_weights``, if a step of another package holds a network of its own.
    IsADirectoryError
        If ``path`` is a folder.
    FileExistsError
        If ``<path>.json`` exists and is not a side file of a saved estimator.

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
    if target.is_dir():
        raise IsADirectoryError(
            f"{target}: is a folder; give the path of a file in it, such as "
            f"{target / 'model.joblib'}."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: this folder does not exist; create it first.")
    check_side_file(target)
    side = _side_file(target)
    embedding = networks_embedded(estimator) if embed_weights else nullcontext()
    with embedding, atomic_write(target) as file:
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
        write_json(side, about if old is None else _for_both(about, old, read_map_range(target)))
    write_json(side, about)
    return given


def load(
    path: str | os.PathLike[str], *, trusted: Sequence[str] = (), sha256: str | None = None
) -> Any:
    """Load a saved estimator, provided it is whole and holds known types in a possible state.

    ``joblib.load`` runs whatever a file tells it to run. This reads the file as data: nothing
    that it names is imported or called. Objects are made of that data by functions of this
    package alone, for the estimators of pyimgano, those of scikit-learn that its guide uses, and
    the PyOD models that :func:`~pyimgano.registry.list_models` knows. Each of them has declared
    which attributes it has, and of what type, shape and range; anything else is refused.

    Parameters
    ----------
    path : str or Path
        A file written by :func:`save`, or by ``joblib.dump``. Only beside the former lies a side
        file, ``<path>.json``, that tells whether the file is damaged.
    trusted : sequence of str, default=()
        Further classes and functions to admit, by their full names, such as
        ``["mylab.steps.Deskew"]``. They are imported, which runs their module; classes are made
        by ``__new__`` and filled by their own ``__setstate__`` or into ``__dict__``, functions
        are called, with arguments and state that the file chooses. What is inside them is read
        as everywhere else. The error for a file that holds any names all it asks for. A single
        name is given as a list of one.
    sha256 : str, default=None
        The SHA-256 that the file must have, 64 hexadecimal digits that reached you by a way of
        their own, such as a delivery note. Computing it takes several times as long as reading.

    Returns
    -------
    estimator

    Raises
    ------
    UntrustedFileError
        If the side file does not match, or ``sha256`` does not, if the file is no saved
        estimator, is larger or deeper than any, or holds a type that is not admitted or an object
        in an invalid state.
    FileNotFoundError
        If there is no such file.
    TypeError
        If ``trusted`` is a string, or holds anything but strings.

    Warns
    -----
    UncheckedFileWarning
        If there is neither a side file nor ``sha256``: the types and the state in the file are
        checked as ever, but a number that damage has changed is not noticed.

    Notes
    -----
    The checksum in the side file finds damage and mix-ups, and keeps up with reading. It is the
    SHA-256 of sums of columns of words, see ``pyimgano.persistence._checksum``; side files of
    earlier versions hold the SHA-256 of the file alone, which is then compared. Neither is a
    signature: whoever can replace both files can make them fit. What :func:`load` promises of a
    hostile file is that reading it opens no other file, runs nothing and ends. The numbers and
    parameters in it are still its author's choice: such an estimator can give any score. A path
    in ``weights`` of a feature step is opened when images are scored, and files of the size of
    its weights beside the saved file are read then.

    A ``pathlib.Path`` comes back as text. A pipeline with a cache (``memory``) is refused, since
    the next fit would read the cache with ``joblib.load``.
    """
    target = _resolve(path)
    wanted = _as_digest(sha256)
    if isinstance(trusted, str):
        raise TypeError(f"trusted={trusted!r} must be a sequence of names: trusted=[{trusted!r}].")
    trusted = tuple(trusted)
    for name in trusted:
        if not isinstance(name, str):
            raise TypeError(
                f"trusted holds {name!r}; it must hold full names of classes and functions as "
                'text, such as "mylab.steps.Deskew".'
            )
    with open_regular(target) as descriptor:
        about = _read_side_file(_side_file(target))
        vouched = [] if about is None else _vouched(about)

        def check(entry: dict[str, Any]) -> None:
            if about is not None:
                _check_entry(about, entry, target)
            if wanted is not None and entry["sha256"] != wanted:
                raise UntrustedFileError(
                    f"{target}: has the SHA-256 {entry['sha256']}, not {wanted}, which was asked "
                    "for: it is another file, or damaged."
                )

        with_sha256 = wanted is not None or not all(_has_checksum(one) for one in vouched)
        estimator = read_saved(descriptor, target, trusted, check, with_sha256)
    if about is None and wanted is None:
        warnings.warn(
            f"{target}: there is no {target.name}.json beside it, so damage is not noticed. "
            "Copy both files, or give load(path, sha256=...); pyimgano.save writes both.",
            UncheckedFileWarning,
            stacklevel=2,
        )
    look_beside(estimator, target.parent)
    return estimator


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
        found = (_read_side_file(_side_file(target)) or {}).get("map_range")
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


def check_side_file(path: str | os.PathLike[str]) -> None:
    """Refuse a path where saving would replace a file that has nothing to do with it.

    Parameters
    ----------
    path : str or Path
        Where an estimator is to be saved.

    Raises
    ------
    FileExistsError
        If ``<path>.json`` exists and is not a side file of a saved estimator.
    """
    side = _side_file(_resolve(path))
    try:
        about = _read_side_file(side)
    except UntrustedFileError as error:
        why = str(error)
    else:
        if about is None or "checksum" in about or "sha256" in about:
            return
        why = f"{side}: holds neither a checksum nor a SHA-256."
    raise FileExistsError(
        f"{side} exists and is not the side file of a saved estimator, and saving to {path} would "
        f"replace it ({why}) Save under another name, or move that file away."
    )


# ---- the side file --------------------------------------------------------------------
# A side file has about one kilobyte. JSON of a few hundred levels is more than it ever has, and
# less than what Python's parser runs out of stack for.
_LARGEST_SIDE_FILE = 2**20
_DEEPEST_SIDE_FILE = 100


def _entry(file: BinaryIO) -> dict[str, Any]:
    """Size, checksum and SHA-256 of an open file."""
    file.seek(0)
    digest, checksum = hashlib.sha256(), Checksum()
    while chunk := file.read(BLOCK):
        digest.update(chunk)
        checksum.update(memoryview(chunk))
    return {"size": checksum.size, "checksum": checksum.text(), "sha256": digest.hexdigest()}


def _entry_of_existing(target: Path) -> dict[str, Any] | None:
    """Entry of the file that is about to be replaced, unless its side file is of another one.

    A file without a side file loads, and has to until it is replaced.
    """
    try:
        about = _read_side_file(_side_file(target))
        with open_regular(target) as descriptor, open(descriptor, "rb", closefd=False) as file:
            entry = _entry(file)
        if about is not None:
            _check_entry(about, entry, target)
    except (FileNotFoundError, UntrustedFileError):
        return None
    return entry


def _for_both(
    about: dict[str, Any], old: dict[str, Any], map_range: tuple[float, float] | None
) -> dict[str, Any]:
    """Side file for the time in which a file is replaced: the old content keeps its colors."""
    both = {**about, "previous": old}
    both.pop("map_range", None)
    return both if map_range is None else {**both, "map_range": list(map_range)}


def _read_side_file(side: Path) -> dict[str, Any] | None:
    """Content of a side file; None if there is none."""
    try:
        content = read_small(side, _LARGEST_SIDE_FILE)
    except FileNotFoundError:
        return None
    if content.count(b"[") + content.count(b"{") > _DEEPEST_SIDE_FILE:
        raise UntrustedFileError(f"{side}: is no side file of a saved pipeline, but other JSON.")
    try:
        about = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise UntrustedFileError(f"{side}: is damaged, not JSON ({error}).") from error
    if not isinstance(about, dict):
        raise UntrustedFileError(f"{side}: is damaged, not JSON of a saved pipeline.")
    return about


def _vouched(about: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of the contents that a side file vouches for, during a save two."""
    return [one for one in (about, about.get("previous")) if isinstance(one, dict)]


def _has_checksum(vouched: dict[str, Any]) -> bool:
    """Tell whether an entry has the checksum of this version; if not, the SHA-256 counts."""
    checksum = vouched.get("checksum")
    return isinstance(checksum, str) and checksum.startswith(PREFIX)


def _check_entry(about: dict[str, Any], entry: dict[str, Any], target: Path) -> None:
    for one in _vouched(about):
        key = "checksum" if _has_checksum(one) else "sha256"
        if one.get(key) == entry[key]:
            return
    announced = printable(str(about.get("size"))[:20])
    raise UntrustedFileError(
        f"{target}: is not the file that {_side_file(target).name} describes "
        f"({announced} bytes, here are {entry['size']} bytes with another "
        "checksum): it was damaged, cut short or replaced. Copy both files anew."
    )


def _as_digest(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    digest = sha256.strip().lower() if isinstance(sha256, str) else ""
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(
            f"sha256={sha256!r} must be 64 hexadecimal digits, as sha256sum prints them."
        )
    return digest


def _class_names(estimator: Any) -> list[str]:
    return list(dict.fromkeys(type(part).__name__ for part in all_parts(estimator)))
