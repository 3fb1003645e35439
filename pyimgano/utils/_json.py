"""JSON as this package writes it: strict, and whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyimgano.utils._outputs import atomic_write

__all__ = [
    "as_plain_json",
    "json_line",
    "json_text",
    "read_json",
    "read_json_lines",
    "write_json",
    "writing_json_lines",
]


def json_text(content: Any) -> str:
    """Strict JSON: sorted keys, indented; NaN is a ``ValueError``."""
    return json.dumps(
        content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False, default=_plain
    )


def as_plain_json(content: Any) -> Any:
    """Content as it will be when it is read back."""
    return json.loads(json_text(content))


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write the text of :func:`json_text` atomically, as UTF-8."""
    with atomic_write(path) as file:
        file.write(f"{json_text(content)}\n".encode())


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def json_line(record: Mapping[str, Any]) -> str:
    """One record as one line of strict JSON, with its line end; the keys keep their order."""
    # ASCII: file names that are not valid Unicode survive as escapes.
    return json.dumps(record, allow_nan=False, default=_plain) + "\n"


@contextmanager
def writing_json_lines(
    path: str | os.PathLike[str],
) -> Iterator[Callable[[Mapping[str, Any]], Any]]:
    """Write records as JSON lines, one at a time; the file is there when all of them are."""
    with atomic_write(path) as file:
        yield lambda record: file.write(json_line(record).encode())


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
