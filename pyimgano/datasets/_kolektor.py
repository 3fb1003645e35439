"""KolektorSDD and KolektorSDD2: every image has a mask, which is all black for a good one."""

from __future__ import annotations

import re
from pathlib import Path

from pyimgano.datasets._masks import marks_nothing
from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets._tree import (
    check_has_no_categories,
    counted,
    files_by_stem,
    folders,
    layout_error,
    missing_mask,
    need_images,
)

__all__ = ["load_kolektor_sdd", "load_kolektor_sdd2"]

_KIND = "defect"
_N_FOLDS = 3


def load_kolektor_sdd(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open KolektorSDD; ``split`` is the fold of items that is tested.

    It is published without a division. All images of an item are in the same part, defective
    ones of the training items with the label -1.
    """
    name = "kolektor_sdd"
    check_has_no_categories(name, category)
    items = [item for item in folders(root) if re.fullmatch(r"kos\d+", item)]
    if not items:
        raise layout_error(name, root, "there are no folders kos01, kos02, ...")
    fold = int(str(split)[-1])
    parts: dict[bool, list[InspectionImage]] = {False: [], True: []}
    for i, item in enumerate(items):
        by_stem = files_by_stem(need_images(name, root / item))
        for stem, paths in by_stem.items():
            if not stem.endswith("_label"):
                mask = by_stem.get(f"{stem}_label")
                if mask is None:
                    raise missing_mask(name, paths[0], root / item / f"{stem}_label.bmp")
                image = _labeled(paths[0], mask[0], group=item)
                parts[i % _N_FOLDS == fold].append(image)
    train, test = parts[False], parts[True]
    if not train or not test:
        raise layout_error(
            name, root, f"{len(items)} items are too few to train on some and test on others"
        )
    return InspectionDataset(
        name,
        name,
        tuple(train),
        tuple(test),
        description=f"KolektorSDD in {root}, {len(items)} items, every third of them tested "
        f"({split}): training: {counted(train)}; test: {counted(test)}.",
    )


def load_kolektor_sdd2(root: Path, category: str | None, split: str | None) -> InspectionDataset:
    """Open KolektorSDD2; defective training images have the label -1.

    Two files of the published archive, ``10301 (copy).png`` and its mask, are copies of others
    and are left out; so is every file that is not named like an image or its mask.
    """
    name = "kolektor_sdd2"
    check_has_no_categories(name, category)
    parts: dict[str, list[InspectionImage]] = {}
    n_left_out = 0
    for part in ("train", "test"):
        by_stem = files_by_stem(need_images(name, root / part))
        found = parts[part] = []
        for stem, paths in by_stem.items():
            if re.fullmatch(r"\d+", stem):
                mask = by_stem.get(f"{stem}_GT")
                if mask is None:
                    raise missing_mask(name, paths[0], root / part / f"{stem}_GT.png")
                found.append(_labeled(paths[0], mask[0]))
            elif not re.fullmatch(r"\d+_GT", stem):
                n_left_out += len(paths)
        if not found:
            raise layout_error(name, root / part, "there are no images such as 10000.png")
    left_out = f" {n_left_out} files with other names were left out." if n_left_out else ""
    return InspectionDataset(
        name,
        name,
        tuple(parts["train"]),
        tuple(parts["test"]),
        description=f"KolektorSDD2 in {root}: training: {counted(parts['train'])}; test: "
        f"{counted(parts['test'])}.{left_out}",
    )


def _labeled(path: Path, mask: Path, group: str | None = None) -> InspectionImage:
    if marks_nothing(mask):
        return InspectionImage(str(path), 1, group=group)
    return InspectionImage(str(path), -1, _KIND, (str(mask),), group=group)
