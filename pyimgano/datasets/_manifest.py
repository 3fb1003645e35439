"""Images that a table lists: a CSV file, or JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyimgano.datasets._csv import csv_rows, not_utf8
from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets._tree import counted
from pyimgano.exceptions import DatasetError
from pyimgano.utils._words import did_you_mean

__all__ = ["categories", "load"]

_REQUIRED = ("path", "split", "label")
_OPTIONAL = ("mask", "kind", "category", "group", "condition")
_PARTS = ("train", "validation", "test")
_LABELS = {
    **dict.fromkeys(("good", "normal", "1", "+1"), 1),
    **dict.fromkeys(("defective", "anomaly", "-1"), -1),
}
_NO_KIND = "defect"
# Columns that are called nearly like an optional one are taken for misspelled.
_CUTOFF = 0.8


def load(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open the images that a manifest lists; only paths are held."""
    parts: dict[str, list[InspectionImage]] = {part: [] for part in _PARTS}
    seen: dict[tuple[str, str], int] = {}
    kinds: dict[str, str] = {}  # one string for each kind, not for each row
    chosen = category
    for line, row in _rows(root):
        where, own = f"{root}, line {line}", _text(row, "category")
        if category is None and not seen:
            chosen = own
        if own != chosen:
            if category is None:
                raise _several(root, where, own)
            continue
        part, image = _image(root.parent, where, row, kinds)
        before = seen.setdefault((part, str(image.path)), line)
        if before != line:
            raise DatasetError(f"{where}: {image.path} is in {part} already, by line {before}.")
        parts[part].append(image)
    if not any(parts.values()):
        names = categories(root)
        raise DatasetError(
            f"{root} has no category {category!r}. Its categories: {', '.join(names) or 'none'}."
            if category is not None
            else f"{root} lists no images."
        )
    train, validation, test = (tuple(parts[part]) for part in _PARTS)
    return InspectionDataset(
        "manifest",
        chosen or root.stem,
        train,
        test,
        validation=validation,
        description=f"Images listed in {root}: training: {counted(train) or 'none'}; validation: "
        f"{counted(validation) or 'none'}; test: {counted(test) or 'none'}.",
    )


def _several(root: Path, where: str, own: str | None) -> DatasetError:
    names = categories(root)
    if own is None or len(names) < 2:
        return DatasetError(f"{where}: category must be given in all lines or in none.")
    return DatasetError(
        f"{root} holds several categories: open one with category={names[0]!r}; there are "
        f"{', '.join(names)}."
    )


def categories(root: Path) -> list[str]:
    """List the categories that a manifest names, in its order; none if it has no such column."""
    return [
        name
        for name in dict.fromkeys(_text(row, "category") for _, row in _rows(root))
        if name is not None
    ]


# ------------------------------------------------------------------------------- rows
def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of a manifest by their numbers; one is in memory at a time."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    if path.suffix.lower() not in readers:
        raise DatasetError(
            f"{path}: a manifest is a file that ends in .csv, or in .jsonl with one JSON object "
            "a line."
        )
    checked: set[tuple[str, ...]] = set()
    try:
        # Excel begins a file with a mark of its encoding.
        with open(path, encoding="utf-8-sig", newline="") as file:
            for line, row in readers[path.suffix.lower()](path, file):
                columns = tuple(row)
                if columns not in checked:
                    _check_columns(f"{path}, line {line}", columns)
                    checked.add(columns)
                yield line, row
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def _csv_rows(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    return csv_rows(path, file, lambda columns: _check_columns(f"{path}, line 1", columns))


def _json_rows(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DatasetError(f"{path}, line {line}: is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path}, line {line}: must be a JSON object, got {row!r}.")
        yield line, row


def _check_columns(where: str, columns: tuple[str, ...]) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise DatasetError(
            f"{where}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; "
            f"found {', '.join(map(repr, columns)) or 'nothing'}. Needed are "
            f"{', '.join(_REQUIRED)}, separated by commas; there may be {', '.join(_OPTIONAL)}."
        )
    absent = [name for name in _OPTIONAL if name not in columns]
    for name in columns:
        if name not in _REQUIRED and name not in _OPTIONAL:
            guess = did_you_mean(name, absent, _CUTOFF)
            if guess:
                raise DatasetError(f"{where}: there is no column {name!r}.{guess}")


# -------------------------------------------------------------------------- an image
def _image(
    base: Path, where: str, row: dict[str, Any], kinds: dict[str, str]
) -> tuple[str, InspectionImage]:
    part, label = _text(row, "split"), _label(where, row)
    if part not in _PARTS:
        raise DatasetError(
            f"{where}: split {row['split']!r} is not one of {', '.join(map(repr, _PARTS))}."
        )
    if label is None and part != "test":
        raise DatasetError(f"{where}: label is empty; only test images may be without one.")
    kind = _kind(where, label, _text(row, "kind"))
    masks = _masks(base, where, row.get("mask"))
    if masks and label != -1:
        raise DatasetError(f"{where}: a mask belongs to a defective image; this one is {kind}.")
    path = _file(base, f"{where}, path", row["path"])
    group, condition = _text(row, "group"), _text(row, "condition")
    return part, InspectionImage(path, label, kinds.setdefault(kind, kind), masks, group, condition)


def _label(where: str, row: dict[str, Any]) -> int | None:
    text = _text(row, "label")
    if text is None:
        return None
    if text.lower() not in _LABELS:
        zero = " Good images are +1 and defective ones -1, never 0." if text == "0" else ""
        raise DatasetError(
            f"{where}: label {row['label']!r} is not one of {', '.join(_LABELS)}.{zero} What is "
            "wrong with an image goes into the column kind."
        )
    return _LABELS[text.lower()]


def _kind(where: str, label: int | None, kind: str | None) -> str:
    if label is None:
        return kind or "unknown"
    if label == 1:
        if kind not in (None, "good"):
            raise DatasetError(f"{where}: the label says good, the kind {kind!r}.")
        return "good"
    if kind == "good":
        raise DatasetError(f"{where}: the label says defective, the kind 'good'.")
    return kind or _NO_KIND


def _masks(base: Path, where: str, value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    paths = value if isinstance(value, list) else [value]
    return tuple(_file(base, f"{where}, mask", path) for path in paths)


def _file(base: Path, where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{where}: {value!r} is not the path of a file.")
    path = os.path.normpath(os.path.join(base, value))
    if not os.path.isfile(path):
        raise DatasetError(
            f"{where}: there is no file {path}. Paths are absolute, or relative to the folder of "
            "the manifest."
        )
    return path


def _text(row: dict[str, Any], column: str) -> str | None:
    """Give a cell as text, None where it is empty or there is no such column."""
    value = row.get(column)
    text = "" if value is None else str(value).strip()
    return text or None
