"""MVTec AD; MPDD, which has the same layout; and MVTec AD 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pyimgano.datasets import _folder
from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets._tree import (
    category_folder,
    counted,
    folders,
    missing_mask,
    need_images,
)

__all__ = [
    "load_mpdd",
    "load_mvtec_ad",
    "load_mvtec_ad_2",
    "mvtec_ad_2_categories",
    "mvtec_ad_categories",
]


def load_mvtec_ad(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of MVTec AD."""
    return _load("mvtec_ad", root, category)


def load_mpdd(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of MPDD."""
    return _load("mpdd", root, category)


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


# ------------------------------------------------------------------------- MVTec AD 2
def load_mvtec_ad_2(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open a category of MVTec AD 2; ``split`` is the set of test images.

    Only ``"test_public"`` has labels and masks.
    """
    folder = category_folder("mvtec_ad_2", root, category, _is_ad_2_category)
    chosen = folder / str(split)
    if split == "test_public":
        test = _ad_2_images(chosen / "good", 1)
        paths = need_images("mvtec_ad_2", chosen / "bad")
        masks = _folder.match_masks(paths, chosen / "ground_truth" / "bad")
        for path, mask in zip(paths, masks):
            if not mask:
                expected = chosen / "ground_truth" / "bad" / f"{path.stem}_mask.png"
                raise missing_mask("mvtec_ad_2", path, expected)
            test.append(InspectionImage(str(path), -1, "bad", mask, condition=_lighting(path)))
    else:
        test = _ad_2_images(chosen, None)
    train, validation = (_ad_2_images(folder / one / "good", 1) for one in ("train", "validation"))
    return InspectionDataset(
        "mvtec_ad_2",
        folder.name,
        tuple(train),
        tuple(test),
        validation=tuple(validation),
        description=f"MVTec AD 2 in {folder}: {len(train)} training and {len(validation)} "
        f"validation images, all of them good; {split}: {counted(test)}.",
    )


def mvtec_ad_2_categories(root: Path) -> list[str]:
    """List the categories of MVTec AD 2."""
    return [name for name in folders(root) if _is_ad_2_category(root / name)]


def _is_ad_2_category(folder: Path) -> bool:
    return "good" in folders(folder / "train") and "test_public" in folders(folder)


def _ad_2_images(folder: Path, label: int | None) -> list[InspectionImage]:
    kind = "unknown" if label is None else "good"
    return [
        InspectionImage(str(path), label, kind, condition=_lighting(path))
        for path in need_images("mvtec_ad_2", folder)
    ]


def _lighting(path: Path) -> str | None:
    """Lighting in the name of a file: ``overexposed`` in ``012_overexposed.png``."""
    return path.stem.partition("_")[2] or None
