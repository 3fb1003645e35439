"""Real-IAD: five views of each part, divided by JSON files."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets._tree import counted, existing_file, folders, layout_error
from pyimgano.exceptions import DatasetError
from pyimgano.utils._files import natural

__all__ = ["categories", "load"]

_NAME = "real_iad"
_STANDARD = "realiad_jsons"
_PICTURES = re.compile(r"realiad_(\d+|raw)")
_VIEW = re.compile(r"_(C\d+)_")


def load(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of Real-IAD; ``split`` is the name of a folder of JSON files.

    ``root`` holds these and one folder of images, or is one of several folders of images.
    """
    pictures, tables = _pictures(root), _tables(root, str(split))
    names = _names(tables)
    if category is None or category not in names:
        problem = "holds several categories" if category is None else f"has no {category!r}"
        raise DatasetError(
            f"{tables} {problem}: open one with category={names[0]!r}; there are "
            f"{', '.join(names)}."
        )
    table = tables / f"{category}.json"
    content = _read(table)
    meta = content.get("meta", {})
    base = pictures / meta.get("prefix", category)
    good = meta.get("normal_class", "OK")
    train, test = (
        tuple(_image(base, good, f"{table}, {part}[{i}]", e) for i, e in enumerate(content[part]))
        for part in ("train", "test")
    )
    return InspectionDataset(
        _NAME,
        category,
        train,
        test,
        description=f"Real-IAD in {pictures}, divided as in {table}: training: {counted(train)}; "
        f"test: {counted(test)}.",
    )


def categories(root: Path) -> list[str]:
    """List the categories of Real-IAD."""
    return _names(_tables(root, _STANDARD))


def _pictures(root: Path) -> Path:
    """Find the folder of images: ``root`` itself, or the only one in it."""
    if _PICTURES.fullmatch(root.resolve().name):
        return root
    found = [name for name in folders(root) if _PICTURES.fullmatch(name)]
    if len(found) > 1:
        raise DatasetError(
            f"{root} holds images of several sizes: give the folder of one of them as root, "
            f"{', '.join(str(root / name) for name in found)}."
        )
    if not found:
        raise layout_error(_NAME, root, "there is no folder of images such as realiad_1024")
    return root / found[0]


def _tables(root: Path, split: str) -> Path:
    above = root.parent if _PICTURES.fullmatch(root.resolve().name) else root
    for folder in (above / "realiad_jsons" / split, above / split):
        if folder.is_dir() and any(folder.glob("*.json")):
            return folder
    raise layout_error(_NAME, above, f"there is no folder realiad_jsons/{split} of JSON files")


def _names(tables: Path) -> list[str]:
    return sorted((path.stem for path in tables.glob("*.json")), key=natural)


def _read(table: Path) -> dict[str, Any]:
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{table} is not JSON ({error}): download it again.") from error
    for part in ("train", "test"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise DatasetError(f"{table}: must be an object with the lists train and test.")
    return content


def _image(base: Path, good: str, where: str, entry: Any) -> InspectionImage:
    if not isinstance(entry, dict) or not {"image_path", "anomaly_class"} <= set(entry):
        raise DatasetError(f"{where} must have image_path and anomaly_class; got {entry!r}.")
    path = existing_file(_NAME, base, entry["image_path"], where)
    view = _VIEW.search(Path(path).name)
    group = PurePosixPath(entry["image_path"]).parent.as_posix()  # such as OK/S0001
    condition = view.group(1) if view else None
    kind, mask = str(entry["anomaly_class"]), entry.get("mask_path")
    if kind == good:
        return InspectionImage(path, 1, group=group, condition=condition)
    # The published table itself may have none.
    masks = () if mask is None else (existing_file(_NAME, base, mask, where),)
    return InspectionImage(path, -1, kind, masks, group, condition)
