"""MVTec AD, and MPDD, which has the same layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pyimgano.datasets import _folder
from pyimgano.datasets._record import InspectionDataset
from pyimgano.datasets._tree import category_folder, folders, missing_mask

__all__ = ["load_mvtec_ad", "mvtec_ad_categories"]


def load_mvtec_ad(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of MVTec AD."""
    return _load("mvtec_ad", root, category)


def mvtec_ad_categories(root: Path) -> list[str]:
    """List the categories of MVTec AD, or of MPDD."""
    return [name for name in folders(root) if _is_category(root / name)]


def _load(name: str, root: Path, category: str | None) -> InspectionDataset:
    folder = category_folder(name, root, category, _is_category)
    found = replace(_folder.load(folder), name=name)
    for image in found.test:
        if image.label == -1 and not image.masks:
            path = Path(str(image.path))
            expected = folder / "ground_truth" / image.kind / f"{path.stem}_mask.png"
            raise missing_mask(name, path, expected)
    return found


def _is_category(folder: Path) -> bool:
    return "good" in folders(folder / "train") and "test" in folders(folder)
