"""Files that are whole or not there: atomic replacement, strict JSON, flushed JSON lines."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["atomic_write", "json_line", "read_json", "read_json_lines", "write_json"]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file so that ``path`` holds the old content or the new, never a part of it.

    What is written goes to a temporary file beside ``path``, reaches the disk, and then
    takes the place of ``path`` in one step. On an error the temporary file is removed; a
    process that is killed leaves it behind, as ``.<name>.<random>.tmp``.

    Parameters
    ----------
    path : str or Path
        The file to create or to replace. Its folder must exist.

    Yields
    ------
    binary file, open for reading and writing
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Not tempfile's: that one is readable by its owner alone, and so would the result be.
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C as well
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write strict JSON atomically: sorted keys, indented, UTF-8; NaN is a ``ValueError``."""
    text = json.dumps(
        content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False, default=_plain
    )
    with atomic_write(path) as file:
        file.write(f"{text}\n".encode())


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def json_line(record: Mapping[str, Any]) -> str:
    """One record as one line of strict JSON, with its line end; the keys keep their order."""
    # ASCII: file names that are not valid Unicode survive as escapes.
    return json.dumps(record, allow_nan=False, default=_plain) + "\n"


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON lines, atomically."""
    with atomic_write(path) as file:
        for record in records:
            file.write(json_line(record).encode())


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
