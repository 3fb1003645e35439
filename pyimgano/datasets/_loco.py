"""MVTec LOCO AD: logical and structural anomalies, with a mask for each defect."""

from __future__ import annotations

import json
from numbers import Real
from pathlib import Path
from typing import Any

from pyimgano.datasets._record import DefectType, InspectionDataset, InspectionImage
from pyimgano.datasets._tree import (
    category_folder,
    counted,
    folders,
    images,
    layout_error,
    missing_mask,
    need_images,
)
from pyimgano.exceptions import DatasetError

__all__ = ["categories", "load"]

_NAME = "mvtec_loco"
_KINDS = ("logical_anomalies", "structural_anomalies")
_CONFIG = "defects_config.json"


def load(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of MVTec LOCO AD."""
    folder = category_folder(_NAME, root, category, _is_category)
    train = _good(folder / "train" / "good")
    validation = _good(folder / "validation" / "good")
    test = _good(folder / "test" / "good")
    for kind in _KINDS:
        paths = need_images(_NAME, folder / "test" / kind)
        truth = folder / "ground_truth" / kind
        stems = {path.stem for path in paths}
        for name in folders(truth):
            if name not in stems:
                raise DatasetError(
                    f"{truth / name} holds masks, but there is no image {name} in "
                    f"{folder / 'test' / kind}."
                )
        for path in paths:
            own = truth / path.stem
            masks = tuple(str(mask) for mask in images(own)) if own.is_dir() else ()
            if not masks:
                raise missing_mask(_NAME, path, own / "000.png")
            test.append(InspectionImage(str(path), -1, kind, masks))
    return InspectionDataset(
        _NAME,
        folder.name,
        tuple(train),
        tuple(test),
        validation=tuple(validation),
        defect_types=_defect_types(folder / _CONFIG),
        description=f"MVTec LOCO AD in {folder}: {len(train)} training and {len(validation)} "
        f"validation images, all of them good; test: {counted(test)}.",
    )


def categories(root: Path) -> list[str]:
    """List the categories of MVTec LOCO AD."""
    return [name for name in folders(root) if _is_category(root / name)]


def _is_category(folder: Path) -> bool:
    return "good" in folders(folder / "train") and (folder / _CONFIG).is_file()


def _good(folder: Path) -> list[InspectionImage]:
    return [InspectionImage(str(path), 1) for path in need_images(_NAME, folder)]


def _defect_types(path: Path) -> tuple[DefectType, ...]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise layout_error(_NAME, path.parent, f"{path.name} is not JSON ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise layout_error(_NAME, path.parent, f"{path.name} is not a list of defect types")
    types = tuple(_defect_type(path, i, entry) for i, entry in enumerate(entries))
    by_value = {one.pixel_value: one for one in types}
    for one in types:
        if by_value[one.pixel_value] is not one:
            raise DatasetError(
                f"{path}: {one.name} and {by_value[one.pixel_value].name} have the same "
                f"pixel_value {one.pixel_value}, so masks do not tell them apart."
            )
    return types


def _defect_type(path: Path, index: int, entry: Any) -> DefectType:
    keys = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")
    if not isinstance(entry, dict) or not set(keys) <= set(entry):
        raise DatasetError(f"{path}: entry {index} must have {', '.join(keys)}; got {entry!r}.")
    name, value, threshold, relative = (entry[key] for key in keys)
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not isinstance(value, int) or not 1 <= value <= 255:
        wrong = f"pixel_value {value!r} is not an integer from 1 to 255"
    elif not isinstance(relative, bool):
        wrong = f"relative_saturation {relative!r} is neither true nor false"
    elif not is_number or not threshold > 0 or (relative and threshold > 1):
        wrong = f"saturation_threshold {threshold!r} is not a number above 0" + (
            " and at most 1" if relative else ""
        )
    else:
        return DefectType(str(name), value, threshold, relative)
    raise DatasetError(f"{path}: {wrong}, in the entry of {name!r}.")
