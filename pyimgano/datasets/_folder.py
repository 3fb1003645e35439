"""Datasets that lie in folders: MVTec's layout and the plain normal/anomaly layout."""

from __future__ import annotations

from pathlib import Path

from sklearn.utils import Bunch

from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets._tree import (
    counted,
    files_by_stem,
    folders,
    found,
    images,
    images_beside_folders,
    listed,
)
from pyimgano.exceptions import DatasetError
from pyimgano.inputs._reading import READABLE

__all__ = [
    "categories",
    "good_images",
    "load",
    "load_folder",
    "load_good_images",
    "match_masks",
]

# Folders of test images that nobody has labeled; others are kinds of defect.
_NO_LABEL = ("unknown", "unlabeled", "unlabelled")

_LAYOUTS = (
    "The layouts are that of MVTec: train/good, test/<kind of defect>, test/good, and the masks in "
    "ground_truth/<kind>/<stem>_mask.png or <stem>.png; and normal/anomaly: train/normal, "
    "test/normal, test/anomaly, and the masks, if any, in ground_truth/anomaly/<stem>_mask.png or "
    "<stem>.png; in both test/unknown, or images in test itself, for those without labels"
)


def load_folder(root: str | Path, category: str | None = None) -> Bunch:
    """Open a folder of images in one of two layouts; no image is decoded.

    ``MVTec``: ``train/good``, ``test/good``, ``test/<kind of defect>`` and masks in
    ``ground_truth/<kind>``, named like the image with or without ``_mask`` after the stem.
    ``normal/anomaly``: ``train/normal``, ``test/normal``, ``test/anomaly`` and, if there are
    masks, ``ground_truth/anomaly``. The folder names alone say which one it is.

    Test images without labels are in ``test`` itself, or in ``test/unknown`` (``unlabeled``).
    They can be judged, but say nothing about how good the judgment is.

    Files whose suffix is not that of an image are left out; suffixes may be in upper case.
    Images are in natural order (``2.png`` before ``10.png``), in the test set the good ones
    first, then the kinds of defect.

    Parameters
    ----------
    root : str or Path
        Folder that holds ``train`` and ``test``, or the folder above it with ``category``.
    category : str, default=None
        Name of the folder inside ``root`` to open, see :func:`list_categories`.

    Returns
    -------
    Bunch
        The same fields as :func:`make_inspection_dataset`, here as files:

        - ``X_train``, ``X_test`` : :class:`pyimgano.inputs.ImageSequence`.
        - ``y_train``, ``y_test`` : int of shape (n,), +1 good, -1 defective, and 0 without a label.
        - ``masks_test`` : list with, for each test image, the path of its mask (str), 0 for a
          good image (no pixel is defective), or None when a defective image has no mask or an
          image no label. :func:`read_mask` reads an entry.
        - ``kinds_test`` : list of str, the kind of defect; ``"good"`` for good images in both
          layouts, ``"unknown"`` without a label.
        - ``X_validation`` : the good validation images, as ``X_train``; None where there are none.
        - ``defect_types`` : tuple of :class:`DefectType`, where masks tell them apart.
        - ``data``, ``target``, ``masks``, ``split`` : training and test set one after the
          other; ``split`` holds ``"train"`` and ``"test"``.
        - ``target_names`` : ``["good"]`` and the kinds of defect found.
        - ``missing_masks`` : list of str, the defective images without a mask.
        - ``category``, ``DESCR`` : str.

    Raises
    ------
    DatasetError
        If the folder has neither layout, or a mixture, or files that do not fit together; the
        message says what was found and the nearest remedy.

    Examples
    --------
    >>> import tempfile
    >>> from pyimgano.datasets import load_folder, write_inspection_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_inspection_dataset(
    ...         folder, "screw", n_train=3, n_test_good=1, n_test_defect=2, size=64, random_state=0
    ...     )
    ...     parts = load_folder(folder, "screw")
    >>> len(parts.X_train), parts.kinds_test
    (3, ['good', 'bent_tip', 'damaged_thread'])
    >>> parts.y_test
    array([ 1, -1, -1])
    """
    return load(Path(root), category).to_bunch()


def load(root: Path, category: str | None = None, split: str | None = None) -> InspectionDataset:
    """Open a folder of images in one of two layouts, as a record."""
    folder = _category_folder(root, category)
    good = _good_name(folder)
    train = images(folder / "train" / good)
    if not train:
        raise DatasetError(_no_images(folder / "train" / good, "the training set"))

    kinds = _test_kinds(folder, good)
    test: list[InspectionImage] = []
    for kind in kinds:
        paths = images(folder / "test" / kind)
        if not paths:
            raise DatasetError(_no_images(folder / "test" / kind, f"the test images {kind!r}"))
        if kind == good:
            test += [InspectionImage(str(path), 1) for path in paths]
        elif kind in _NO_LABEL:
            test += _unlabeled(paths)
        else:
            masks = match_masks(paths, folder / "ground_truth" / kind)
            test += [InspectionImage(str(p), -1, kind, m) for p, m in zip(paths, masks)]
    test += _unlabeled(images_beside_folders(folder / "test"))
    _check_stray_masks(folder, [kind for kind in kinds if kind not in (good, *_NO_LABEL)], good)
    return InspectionDataset(
        name="folder",
        category=folder.name if folder.name not in ("", "..") else folder.resolve().name,
        train=tuple(InspectionImage(str(path), 1) for path in train),
        test=tuple(test),
        description=_describe(folder, good, len(train), test),
    )


def good_images(folder: Path) -> list[Path]:
    """List the images of a folder without a test set: ``train/good``, or the folder itself.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
        Empty if there is a test set, or no image.
    """
    if not folder.is_dir():
        return []
    names = folders(folder)
    if not names:
        return images(folder)
    if "train" not in names or "test" in names:
        return []
    good = [name for name in folders(folder / "train") if name in ("good", "normal")]
    return images(folder / "train" / good[0]) if len(good) == 1 else []


def load_good_images(folder: Path) -> InspectionDataset | None:
    """Open a folder of good images without a test set.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    InspectionDataset or None
        Without test images; None if the folder is another one, see :func:`good_images`.
    """
    found = good_images(folder)
    if not found:
        return None
    return InspectionDataset(
        name="folder",
        category=folder.resolve().name,
        train=tuple(InspectionImage(str(path), 1) for path in found),
        test=(),
        description=f"{len(found)} good images in {folder}.",
    )


def _unlabeled(paths: list[Path]) -> list[InspectionImage]:
    return [InspectionImage(str(path), None, "unknown") for path in paths]


def categories(root: Path) -> list[str]:
    """List the folders inside ``root`` that :func:`load_folder` can open, in natural order."""
    folder = root
    _check_is_folder(folder)
    names = _categories(folder)
    if not names:
        remedy = "It is a category itself: give the folder above. " if _has_layout(folder) else ""
        raise DatasetError(
            f"{folder}: no folder in it is a category; found {found(folder)}. {remedy}{_LAYOUTS}"
        )
    return names


# --------------------------------------------------------------- which layout is it?


def _category_folder(root: Path, category: str | None) -> Path:
    _check_is_folder(root)
    if category is None:
        return root
    if category not in folders(root):
        known = _categories(root)
        raise DatasetError(
            f"{root} has no folder {category!r}. "
            + (f"Its categories: {', '.join(known)}." if known else f"Found {found(root)}.")
        )
    return root / category


def _check_is_folder(folder: Path) -> None:
    if not folder.exists():
        raise DatasetError(f"{folder} does not exist: give the folder that holds train and test.")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is a file: give the folder that holds train and test.")


def _good_name(folder: Path) -> str:
    """``"good"`` for MVTec's layout, ``"normal"`` for normal/anomaly; anything else is an error."""
    names = folders(folder)
    if "train" not in names or "test" not in names:
        raise DatasetError(f"{folder}: found {found(folder)}. {_remedy(folder)}{_LAYOUTS}")
    train, test = folders(folder / "train"), folders(folder / "test")
    both = f"found train with {found(folder / 'train')}; test with {found(folder / 'test')}"
    for name in [*train, *test]:
        if name not in ("good", "normal", "anomaly") and name.lower() in (
            "good",
            "normal",
            "anomaly",
        ):
            raise DatasetError(
                f"{folder}: {both}. Rename {name!r} to {name.lower()!r}: names are "
                f"case-sensitive. {_LAYOUTS}"
            )
    has = {name: name in train or name in test for name in ("good", "normal")}
    if has["good"] and has["normal"]:
        raise DatasetError(
            f"{folder}: {both}. Both 'good' and 'normal' occur, so the layout is not clear: use "
            f"one name for both. {_LAYOUTS}"
        )
    good = "normal" if "normal" in train else "good"
    if good not in train:
        raise DatasetError(
            f"{folder}: {both}. The training images must lie in train/good or train/normal. "
            f"{_LAYOUTS}"
        )
    strangers = [name for name in train if name != good]
    if strangers:
        raise DatasetError(
            f"{folder}: {both}. Training uses good images alone: move {', '.join(strangers)} "
            f"from train to test. {_LAYOUTS}"
        )
    return good


def _test_kinds(folder: Path, good: str) -> list[str]:
    kinds = folders(folder / "test")
    if not kinds and images_beside_folders(folder / "test"):
        return []
    labeled = set(kinds).difference(_NO_LABEL)
    if good == "normal" and labeled and labeled != {"normal", "anomaly"}:
        raise DatasetError(
            f"{folder}: train holds 'normal', so test must hold normal and anomaly and nothing "
            f"else; found {found(folder / 'test')}. For several kinds of defect rename both "
            f"'normal' folders to 'good'. {_LAYOUTS}"
        )
    if not kinds:
        raise DatasetError(
            f"{folder}: test must hold one folder per kind, such as test/good and test/scratch, or "
            f"images without labels; found {found(folder / 'test')}. {_LAYOUTS}"
        )
    return [kind for kind in kinds if kind == good] + [kind for kind in kinds if kind != good]


def _has_layout(folder: Path) -> bool:
    names = folders(folder)
    if "train" not in names or "test" not in names:
        return False
    return bool({"good", "normal"} & set(folders(folder / "train")))


def _categories(folder: Path) -> list[str]:
    return [name for name in folders(folder) if _has_layout(folder / name)]


def _remedy(folder: Path) -> str:
    """The nearest way out when ``train`` and ``test`` are not there."""
    names = folders(folder)
    for name in names:
        if name not in ("train", "test") and name.lower() in ("train", "test"):
            return f"Rename {name!r} to {name.lower()!r}: names are case-sensitive. "
    categories = _categories(folder)
    if categories:
        return (
            f"It holds several categories: open one with category={categories[0]!r}; there are "
            f"{', '.join(categories)}. "
        )
    above = folder.resolve()
    for _ in range(2):
        above = above.parent
        if _has_layout(above):
            return f"Give the folder above it, {above}. "
    missing = [name for name in ("train", "test") if name not in names]
    return f"Missing: {' and '.join(missing)}. "


# ------------------------------------------------------------------- files and masks


def match_masks(paths: list[Path], folder: Path) -> list[tuple[str, ...]]:
    """Find the mask of each image by its name, with or without ``_mask`` after the stem.

    Parameters
    ----------
    paths : list of Path
        The images.
    folder : Path
        The folder of their masks; it need not exist.

    Returns
    -------
    list of tuple of str
        For each image its mask, or nothing.

    Raises
    ------
    DatasetError
        If an image has several masks, or a mask no image or several.
    """
    if folder.name not in folders(folder.parent):
        return [()] * len(paths)
    by_stem = files_by_stem(images(folder))
    masks: list[tuple[str, ...]] = []
    used: dict[Path, Path] = {}
    for image in paths:
        own = by_stem.get(f"{image.stem}_mask", []) + by_stem.get(image.stem, [])
        if len(own) > 1:
            raise DatasetError(
                f"{image} has several masks, keep one: {', '.join(str(path) for path in own)}."
            )
        for path in own:
            if path in used:
                raise DatasetError(
                    f"{path} is the mask of both {used[path]} and {image}: give the images "
                    f"different names."
                )
            used[path] = image
        masks.append(tuple(str(path) for path in own))
    left = [path for same in by_stem.values() for path in same if path not in used]
    if left:
        raise DatasetError(
            f"{left[0]}: a mask without an image ({len(left)} in this folder). It should be "
            f"named like an image of {paths[0].parent}, with or without '_mask' after the "
            f"stem; images there are, for example, {paths[0].name}."
        )
    return masks


def _check_stray_masks(folder: Path, kinds: list[str], good: str) -> None:
    """Masks of a kind that has no images would be lost without a word."""
    if "ground_truth" not in folders(folder):
        return
    for name in folders(folder / "ground_truth"):
        if name not in kinds and images(folder / "ground_truth" / name):
            reason = (
                "good images have no masks: remove the folder"
                if name == good
                else f"there is no folder test/{name}; kinds of defect in test: "
                + (", ".join(kinds) or "none")
            )
            raise DatasetError(f"{folder / 'ground_truth' / name} holds masks, but {reason}.")


# -------------------------------------------------------------------------- messages


def _no_images(folder: Path, purpose: str) -> str:
    return (
        f"{folder} holds no images for {purpose}; found {found(folder)}. Read are "
        f"{listed(READABLE)}."
    )


def _describe(folder: Path, good: str, n_train: int, test: list[InspectionImage]) -> str:
    layout = "MVTec" if good == "good" else "normal/anomaly"
    unused = [n for n in folders(folder) if n not in ("train", "test", "ground_truth")]
    text = f"Images in {folder} ({layout} layout): {n_train} for training; test: {counted(test)}."
    n_missing = sum(image.label == -1 and not image.masks for image in test)
    if n_missing:
        text += f" {n_missing} defective images have no mask."
    if unused:
        text += f" Folders that were not used: {', '.join(unused)}."
    return text
