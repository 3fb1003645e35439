"""Pretrained weights: where the files are kept, how they get there, how they are checked."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

from pyimgano.exceptions import WeightsError
from pyimgano.utils._outputs import atomic_write

_TIMEOUT = 30.0  # seconds without a byte before a download counts as failed
_BLOCK = 1 << 20


_NO_DOWNLOADS: ContextVar[bool] = ContextVar("no_downloads", default=False)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Let published weights that are not on this machine be missing, instead of downloading them.

    For questions, such as which networks could be used, and for trials that change nothing.
    """
    token = _NO_DOWNLOADS.set(True)
    try:
        yield
    finally:
        _NO_DOWNLOADS.reset(token)


def check_downloads_allowed(name: str, file_name: str) -> None:
    """Refuse a download within :func:`without_downloads`.

    Parameters
    ----------
    name : str
        Name of the network.
    file_name : str
        Name of the published file.

    Raises
    ------
    MissingWeightsError
    """
    if _NO_DOWNLOADS.get():
        raise MissingWeightsError(
            f"there are no pretrained weights of {name} on this machine.",
            file_name,
        )


def cache_dir() -> Path:
    """Folder in which downloaded weights are kept; it need not exist yet.

    ``$PYIMGANO_CACHE_DIR/weights`` where that variable is set, else
    ``$TORCH_HOME/hub/checkpoints`` (shared with torchvision), else ``pyimgano/weights`` in
    the user's cache folder of the operating system.
    """
    if os.environ.get("TORCH_HOME") and not os.environ.get("PYIMGANO_CACHE_DIR"):
        return Path(os.environ["TORCH_HOME"]).expanduser() / "hub" / "checkpoints"
    return own_cache_dir() / "weights"


def own_cache_dir() -> Path:
    """Folder for all that this package keeps; it need not exist yet.

    ``$PYIMGANO_CACHE_DIR`` where that variable is set, else ``pyimgano`` in the user's cache
    folder of the operating system.
    """
    if os.environ.get("PYIMGANO_CACHE_DIR"):
        return Path(os.environ["PYIMGANO_CACHE_DIR"]).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = _xdg_cache()
    return base / "pyimgano"


# Names further folders with files of weights, separated as in PATH.
_FOLDERS_VARIABLE = "PYIMGANO_WEIGHTS"


class MissingWeightsError(WeightsError):
    """Published weights are not on this machine; the message tells what to do in Python.

    Parameters
    ----------
    reason : str
        Why they are missing: one or more sentences.
    file_name : str
        Name of the published file.
    """

    def __init__(self, reason: str, file_name: str) -> None:
        self.reason = " ".join(reason.split())
        self.file_name = file_name
        super().__init__(
            f"{self.reason}\nThree ways out:\n"
            '  - you have a state dict of this network: weights="path/to/file.pth";\n'
            f"  - you can copy files to this machine: {self.where_to_put_it()};\n"
            '  - no pretrained weights: features="filterbank" (made for this case), or '
            "weights=None for a random network."
        )

    def where_to_put_it(self) -> str:
        """Say in words where the file is looked for."""
        return (
            f"put {self.file_name} into {cache_dir()}, or into a folder that {_FOLDERS_VARIABLE} "
            "names"
        )

    def __reduce__(self) -> tuple:  # both arguments survive a trip between processes
        return type(self), (self.reason, self.file_name)


class Place(NamedTuple):
    """A folder or a file in which weights are looked for, and what it is, in words."""

    path: Path
    what: str


def weights_folders() -> list[Place]:
    """Folders in which weights are looked for on this machine, in this order.

    Returns
    -------
    list of Place
        Those that ``PYIMGANO_WEIGHTS`` names, :func:`cache_dir`, and that of torchvision's own
        downloads (``hub/checkpoints`` of ``TORCH_HOME``, by default ``~/.cache/torch``). None
        of them need exist.
    """
    named = [one for one in os.environ.get(_FOLDERS_VARIABLE, "").split(os.pathsep) if one]
    places = [Place(Path(one).expanduser(), f"named by {_FOLDERS_VARIABLE}") for one in named]
    places.append(Place(cache_dir(), "the cache"))
    if _torch_hub_dir() != cache_dir():
        places.append(Place(_torch_hub_dir(), "torchvision's cache"))
    return places


class WantedFile(NamedTuple):
    """A file of weights that was used once, as far as it is known.

    Parameters
    ----------
    name : str
        The name it had.
    size : int or None
        In bytes; None if the model was saved by a version that did not note it.
    sha256 : str or None
        Of its content.
    """

    name: str
    size: int | None
    sha256: str | None

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is this one: by its content, or by its name if that is all."""
        if not path.is_file():
            return False
        if self.sha256 is None:
            return path.name == self.name
        return path.stat().st_size == self.size and file_sha256(path) == self.sha256

    def find(self, folders: Sequence[Place]) -> Path | None:
        """Find it in one of some folders, under any name."""
        for folder, _ in folders:
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
            for path in entries:
                if self.is_at(path):
                    return path
        return None

    def __str__(self) -> str:
        about = [self.name]
        if self.size is not None:
            about.append(f"{self.size} bytes")
        if self.sha256 is not None:
            about.append(f"sha256 {self.sha256}")
        return ", ".join(about)


def listed(places: Sequence[Place]) -> str:
    """List places that were looked at in vain, one a line, for an error message."""
    lines = []
    for path, what in places:
        missing = "" if path.exists() else "; there is no such file or folder"
        lines.append(f"  - {path} ({what}{missing})")
    if not os.environ.get(_FOLDERS_VARIABLE):
        lines.append(
            f"  - {_FOLDERS_VARIABLE}, which names more folders, separated by {os.pathsep!r}, is "
            "not set"
        )
    return "\n".join(lines)


def find_weights(name: str, version: str, url: str) -> Path:
    """Local file of published weights, downloaded first if need be.

    Looked for in :func:`weights_folders`. Whatever is found is checked before it is used:
    against the sha256 in the json file beside it where there is one, and against the start of
    the sha256 that torchvision writes into the names of its files.

    Parameters
    ----------
    name : str
        Name of the network, for messages and the json file.
    version : str
        Name of this set of weights, such as ``"ResNet18_Weights.IMAGENET1K_V1"``.
    url : str
        Where the file can be downloaded (``https``, ``http`` or ``file``).

    Returns
    -------
    pathlib.Path

    Raises
    ------
    WeightsError
        When a file does not have the sha256 it must have, or when there is no file and the
        download fails.
    """
    file_name = Path(urlparse(url).path).name
    found = find_by_name(file_name)
    if found is not None:
        return found
    check_downloads_allowed(name, file_name)
    cached = cache_dir() / file_name
    failure: Exception | None = None
    try:
        _download(url, cached, {"name": name, "version": version, "url": url})
    except WeightsError:
        raise
    except urllib.error.HTTPError as error:  # holds an open reply, and could not be pickled
        failure = OSError(str(error))
        error.close()
    except (OSError, http.client.HTTPException) as error:
        failure = error
    if failure is not None:
        raise MissingWeightsError(
            f"there are no pretrained weights of {name} on this machine, and downloading {url} "
            f"failed: {failure or type(failure).__name__}.",
            file_name,
        ) from failure
    return cached


def find_by_name(file_name: str) -> Path | None:
    """Find a published file in :func:`weights_folders`, and check it.

    Raises
    ------
    WeightsError
        If the file there does not have the sha256 it must have.
    """
    for folder, _ in weights_folders():
        path = folder / file_name
        if path.is_file():
            check_file(path)
            return path
    return None


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of a file; computed once for a file as it is now."""
    stat = os.stat(path)
    return _sha256_of(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def _xdg_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _torch_hub_dir() -> Path:
    home = os.environ.get("TORCH_HOME")
    return (Path(home).expanduser() if home else _xdg_cache() / "torch") / "hub" / "checkpoints"


def side_file(path: Path) -> Path:
    """Path of the json file that holds the sha256 of a file."""
    return path.with_name(path.name + ".json")


_ANEW = "Delete the file; the weights are then downloaded again."


def check_file(path: Path, way_out: str = _ANEW) -> None:
    """Compare a file with its json file and with the hash in its name."""
    side = side_file(path)
    expected: list[tuple[str, str]] = []
    if side.is_file():
        try:
            expected.append((str(json.loads(side.read_text("utf-8"))["sha256"]), str(side)))
        except (ValueError, LookupError, TypeError) as error:
            raise WeightsError(
                f"{side} should hold the sha256 of {path.name}, but cannot be read as such. "
                "Delete both files; the weights are then downloaded again."
            ) from error
    in_name = _hash_in_name(path.name)
    if in_name:
        expected.append((in_name, "the name of the file"))
    if not expected:
        return
    actual = file_sha256(path)
    for digest, source in expected:
        if not actual.startswith(digest):
            raise WeightsError(
                f"{path} is damaged or was replaced: its sha256 is {actual}, but {source} "
                f"says {digest}. {way_out}"
            )


def _hash_in_name(file_name: str) -> str | None:
    found = re.search(r"-([0-9a-f]{8,64})\.", file_name)
    return found.group(1) if found else None


def _download(url: str, target: Path, record: dict[str, str]) -> None:
    """Fetch ``url``; ``target`` appears whole and checked, or not at all."""
    from tqdm import tqdm

    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    received = 0
    with atomic_write(target) as out:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as reply:
            length = reply.headers.get("Content-Length")
            total = int(length) if length else None
            # disable=None: no bar where stderr is not a terminal
            with tqdm(
                total=total, desc=target.name, unit="B", unit_scale=True, disable=None
            ) as bar:
                for block in iter(lambda: reply.read(_BLOCK), b""):
                    out.write(block)
                    digest.update(block)
                    received += len(block)
                    bar.update(len(block))
        # A connection that breaks may end the stream without an error.
        if total is not None and received != total:
            raise ConnectionError(f"the connection broke after {received} of {total} bytes")
        expected = _hash_in_name(target.name)
        if expected and not digest.hexdigest().startswith(expected):
            raise MissingWeightsError(
                f"what {url} delivered is not the published file: its sha256 is "
                f"{digest.hexdigest()}, which should begin with {expected}. Nothing was kept; "
                "a proxy may have answered in its place.",
                target.name,
            )
    with atomic_write(side_file(target)) as out:
        out.write(json.dumps({**record, "sha256": digest.hexdigest()}, indent=1).encode())
