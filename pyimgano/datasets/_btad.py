"""BTAD: three products, each with parts that are ``ok`` and ``ko``."""

from __future__ import annotations

from pathlib import Path

from pyimgano.datasets._folder import match_masks
from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets._tree import (
    category_folder,
    counted,
    folders,
    missing_mask,
    need_images,
)

__all__ = ["categories", "load"]

_NAME = "btad"


def load(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of BTAD; images and masks may be BMP or PNG, each as it likes."""
    folder = category_folder(_NAME, root, category, _is_category)
    train = [InspectionImage(str(p), 1) for p in need_images(_NAME, folder / "train" / "ok")]
    test = [InspectionImage(str(p), 1) for p in need_images(_NAME, folder / "test" / "ok")]
    paths, truth = need_images(_NAME, folder / "test" / "ko"), folder / "ground_truth" / "ko"
    for path, mask in zip(paths, match_masks(paths, truth)):
        if not mask:
            raise missing_mask(_NAME, path, f"{truth / path.stem}.png or .bmp")
        test.append(InspectionImage(str(path), -1, "ko", mask))
    return InspectionDataset(
        _NAME,
        folder.name,
        tuple(train),
        tuple(test),
        description=f"BTAD in {folder}: {len(train)} good training images; test: {counted(test)}.",
    )


def categories(root: Path) -> list[str]:
    """List the categories of BTAD."""
    return [name for name in folders(root) if _is_category(root / name)]


def _is_category(folder: Path) -> bool:
    return "ok" in folders(folder / "train") and "test" in folders(folder)
