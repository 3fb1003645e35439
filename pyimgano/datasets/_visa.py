"""VisA as it was published: its images are divided by CSV files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyimgano.datasets._csv import csv_rows, not_utf8
from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets._tree import counted, existing_file, folders, layout_error, missing_mask
from pyimgano.exceptions import DatasetError

__all__ = ["categories", "load"]

_NAME = "visa"
_COLUMNS = ("object", "split", "label", "image", "mask")
_ALLOWED = {"split": ("train", "test"), "label": ("normal", "anomaly")}
_STANDARD = "1cls"


def load(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of VisA; ``split`` is the name of a file in ``split_csv``."""
    table = _table(root, str(split))
    rows = list(_rows(table))
    names = list(dict.fromkeys(row["object"] for _, row in rows))
    if category is None:
        raise DatasetError(
            f"{root} holds several categories: open one with category={names[0]!r}; there are "
            f"{', '.join(names)}."
        )
    if category not in names:
        raise DatasetError(
            f"{table} has no category {category!r}. Its categories: {', '.join(names)}."
        )
    parts: dict[str, list[InspectionImage]] = {"train": [], "test": []}
    for line, row in rows:
        if row["object"] == category:
            parts[row["split"]].append(_image(root, f"{table}, line {line}", row))
    return InspectionDataset(
        _NAME,
        category,
        tuple(parts["train"]),
        tuple(parts["test"]),
        description=f"VisA in {root}, divided as in {table.name}: training: "
        f"{counted(parts['train'])}; test: {counted(parts['test'])}.",
    )


def categories(root: Path) -> list[str]:
    """List the categories of VisA."""
    return list(dict.fromkeys(row["object"] for _, row in _rows(_table(root, _STANDARD))))


def _table(root: Path, split: str) -> Path:
    table = root / "split_csv" / f"{split}.csv"
    if table.is_file():
        return table
    error = layout_error(_NAME, root, f"there is no file split_csv/{split}.csv")
    converted = [name for name in folders(root) if "train" in folders(root / name)]
    if converted:
        raise DatasetError(
            f"{error} {converted[0]} has a folder train: a copy that was converted to MVTec's "
            f"layout is opened with the name 'folder'."
        )
    raise error


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table and their lines, when they are as they should be."""

    def check(columns: tuple[str, ...]) -> None:
        if not set(_COLUMNS) <= set(columns):
            raise DatasetError(
                f"{table}: the columns must be {', '.join(_COLUMNS)}; found "
                f"{', '.join(columns) or 'nothing'}."
            )

    empty = True
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            for line, row in csv_rows(table, file, check):
                for column, allowed in _ALLOWED.items():
                    if row[column] not in allowed:
                        raise DatasetError(
                            f"{table}, line {line}: {column} {row[column]!r} is neither "
                            f"{' nor '.join(map(repr, allowed))}."
                        )
                if not row["object"]:
                    raise DatasetError(f"{table}, line {line}: object is empty.")
                empty = False
                yield line, row
    except UnicodeDecodeError as error:
        raise not_utf8(table, error) from error
    if empty:
        raise DatasetError(f"{table} has no rows.")


def _image(root: Path, where: str, row: dict[str, str]) -> InspectionImage:
    path = existing_file(_NAME, root, row["image"], where)
    if row["label"] == "normal":
        return InspectionImage(path, 1)
    if not row["mask"]:
        raise missing_mask(_NAME, path, f"a path in the column mask of {where}")
    return InspectionImage(path, -1, "anomaly", (existing_file(_NAME, root, row["mask"], where),))
