"""The split of a dataset: what it is called, what it consists of, and parts of it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch, _safe_indexing, check_random_state

from pyimgano._any_estimator import image_paths
from pyimgano.exceptions import RunError
from pyimgano.inputs._sequence import image_files
from pyimgano.utils._fingerprint import digest

__all__ = [
    "InputNames",
    "content_of_images",
    "encodable",
    "fingerprint",
    "limited",
    "of_file",
    "of_folder",
    "without_folders",
]

_BLOCK = 1 << 20
# The folders of an absolute path, which is no part of an address such as https://host/page.
_FOLDERS = re.compile(r"(?<![\w.:/\\~-])(?:[A-Za-z]:)?[\\/](?:[^\s'\"<>|:*?\\/]+[\\/])+")


class InputNames:
    """Names of images and masks that hold neither the machine's folders nor its users.

    Parameters
    ----------
    data : Bunch
        A dataset, as :func:`~pyimgano.datasets.load_folder` returns it.
    folders : iterable of str or Path or None, default=()
        Further folders that texts must not name.
    """

    def __init__(self, data: Bunch, folders: Iterable[Any] = ()) -> None:
        parts = (data.X_train, data.get("X_validation"), data.X_test)
        paths = [path for part in parts if part is not None for path in image_paths(part)]
        within = {os.path.dirname(os.path.abspath(path)) for path in paths if path is not None}
        self._folder = os.path.commonpath(within) if within else None
        # As they were given and as they are: messages name files in either way.
        given = [os.fspath(folder) for folder in folders if folder is not None]
        if self._folder is not None:
            given += [self._folder, os.path.relpath(self._folder)]
        known = {os.path.normpath(one) for one in given}
        known |= {os.path.abspath(one) for one in known}
        self._known = sorted((one for one in known if one not in (".", os.sep)), key=len)[::-1]

    def name(self, path: str | None, otherwise: str) -> str:
        """Name of a file below the folder of all images.

        Parameters
        ----------
        path : str or None
        otherwise : str
            Its name if it is no file.

        Returns
        -------
        str
            With ``/`` between folders on all systems.
        """
        if path is None or self._folder is None:
            return otherwise
        name = Path(os.path.relpath(os.path.abspath(path), self._folder)).as_posix()
        return encodable(name)

    def shorten(self, content: Any) -> Any:
        """Remove the folders of the dataset, and those of absolute paths, from texts.

        Parameters
        ----------
        content : str, or nesting of dict and list
            Such as an error message.

        Returns
        -------
        as ``content``
        """
        if isinstance(content, dict):
            return {key: self.shorten(value) for key, value in content.items()}
        if isinstance(content, (list, tuple)):
            return [self.shorten(value) for value in content]
        return without_folders(content, self._known) if isinstance(content, str) else content


def without_folders(text: str, folders: Iterable[str]) -> str:
    """Remove folders from the paths in a text; of other absolute paths the last part stays.

    Parameters
    ----------
    text : str
    folders : iterable of str
        The longest first.

    Returns
    -------
    str
    """
    for folder in folders:
        text = re.sub(r"(?<![\w/.-])" + re.escape(folder + os.sep), "", text)
    return encodable(_FOLDERS.sub("", text))


def encodable(text: str) -> str:
    """Escape what is no valid Unicode: names of files need not be, JSON files must be."""
    return text.encode(errors="backslashreplace").decode()


# ---- fingerprints ---------------------------------------------------------------------
def fingerprint(data: Bunch) -> dict[str, str | None]:
    """Compute what the parts of a split are recognized by, wherever their files lie.

    Parameters
    ----------
    data : Bunch
        A dataset, as :func:`~pyimgano.datasets.load_folder` returns it.

    Returns
    -------
    dict
        ``train``, ``validation`` (None where there is none) and ``test``: SHA-256 of the contents
        of all files, labels, kinds and masks in their order.
    """
    validation = data.get("X_validation")
    return {
        "train": _sha256(content_of_images(data.X_train), data.y_train),
        "validation": None if validation is None else _sha256(content_of_images(validation)),
        "test": _sha256(
            content_of_images(data.X_test),
            data.y_test,
            data.kinds_test,
            map(_of_mask, data.masks_test),
        ),
    }


def _sha256(*columns: Any) -> str:
    hashed = hashlib.sha256()
    for row in zip(*columns):
        for cell in row:
            content = cell if isinstance(cell, bytes) else str(cell).encode()
            hashed.update(len(content).to_bytes(8, "little"))
            hashed.update(content)
    return hashed.hexdigest()


def content_of_images(X: Any) -> Iterator[bytes]:
    """Fingerprint of each image: of the content of a file, or of pixels in memory."""
    for i, path in enumerate(image_paths(X)):
        if path is None:
            yield digest(np.asarray(_safe_indexing(X, [i])[0]))
        else:
            yield of_file(path)


def _of_mask(mask: Any) -> bytes:
    if isinstance(mask, (str, Path)):
        return of_file(mask)
    if isinstance(mask, (tuple, list)):
        return b"".join(map(_of_mask, mask))
    if isinstance(mask, np.ndarray):
        return digest(mask)
    return str(mask).encode()


def of_file(path: str | os.PathLike[str]) -> bytes:
    """SHA-256 of the content of a file, and a remark in its place if the file cannot be read."""
    hashed = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                hashed.update(block)
    except OSError:  # the fit, or the record of the image, says what is wrong with it
        return b"cannot be read"
    return hashed.digest()


def of_folder(path: Any) -> str | None:
    """SHA-256 of the names and contents of the images in a folder; None if it is no folder."""
    if not isinstance(path, (str, os.PathLike)) or not os.path.isdir(path):
        return None
    files = image_files(Path(path), recursive=False)
    return _sha256([one.name for one in files], map(of_file, files))


# ---- parts of a split -----------------------------------------------------------------
def limited(
    data: Bunch, limit_train: int | None, limit_test: int | None, random_state: Any
) -> Bunch:
    """Take some of the images of a dataset, drawn at random and in their order.

    Parameters
    ----------
    data : Bunch
        A dataset, as :func:`~pyimgano.datasets.load_folder` returns it.
    limit_train : int or None
        Number of good training images; those with a defect are left out.
    limit_test : int or None
        Number of test images. Kinds keep their shares, and at least one image of each stays.
    random_state : int, RandomState or None
        Seeds the draw.

    Returns
    -------
    Bunch
        ``data`` itself if nothing is left out.

    Raises
    ------
    RunError
        If ``limit_test`` is less than the number of kinds.
    """
    fields = {}
    if limit_train is not None:
        good = np.flatnonzero(np.asarray(data.y_train) == 1)
        if limit_train < len(good):
            chosen = check_random_state(random_state).permutation(good)[:limit_train]
            fields.update(_some(data, np.sort(chosen), "X_train", "y_train"))
    if limit_test is not None and limit_test < len(data.y_test):
        chosen = _of_each_kind(np.asarray(data.kinds_test), limit_test, random_state)
        fields.update(_some(data, chosen, "X_test", "y_test", "masks_test", "kinds_test"))
    if not fields:
        return data
    kept = ("X_validation", "defect_types", "category", "synthetic_defects")
    names = ("X_train", "y_train", "X_test", "y_test", "masks_test", "kinds_test")
    return Bunch(
        **{
            **{name: data[name] for name in names},
            **{name: data[name] for name in kept if name in data},
            **fields,
        }
    )


def _some(data: Bunch, chosen: np.ndarray, *names: str) -> dict[str, Any]:
    return {name: _safe_indexing(data[name], chosen) for name in names}


def _of_each_kind(kinds: np.ndarray, limit: int, random_state: Any) -> np.ndarray:
    """Indices of ``limit`` images, as many of each kind as it has a share of all."""
    names, counts = np.unique(kinds, return_counts=True)
    if limit < len(names):
        raise RunError(
            f"limit_test={limit} is less than the {len(names)} kinds of test images, of each of "
            f"which at least one is taken ({', '.join(names)}); give {len(names)} or more."
        )
    shares = limit * counts / len(kinds)
    taken = np.ones(len(names), int)
    for _ in range(limit - len(names)):
        missing = np.where(taken < counts, shares - taken, -np.inf)
        taken[np.argmax(missing)] += 1
    rng = check_random_state(random_state)
    drawn = [
        rng.permutation(np.flatnonzero(kinds == name))[:count] for name, count in zip(names, taken)
    ]
    return np.sort(np.concatenate(drawn))
