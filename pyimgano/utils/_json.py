"""JSON as this package writes it: strict, and whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyimgano.utils._outputs import atomic_write

__all__ = ["json_line", "read_json", "read_json_lines", "write_json", "write_json_lines"]


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
