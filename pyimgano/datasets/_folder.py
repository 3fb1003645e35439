"""Datasets that lie in folders: MVTec's layout and the plain normal/anomaly layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from pyimgano.exceptions import DatasetError
from pyimgano.inputs import ImageSequence
from pyimgano.inputs._reading import PICTURES, READABLE, read_raw_and_loss
from pyimgano.utils._files import natural

# Images that cannot be read from files: leaving them out in silence would lose data.
_UNREADABLE = (PICTURES - READABLE) | {".npy", ".npz"}

_LAYOUTS = (
    "The layouts are\n"
    "  MVTec:          train/good, test/<kind of defect>, test/good, and the masks in "
    "ground_truth/<kind>/<stem>_mask.png or <stem>.png\n"
    "  normal/anomaly: train/normal, test/normal, test/anomaly, and the masks, if any, in "
    "ground_truth/anomaly/<stem>_mask.png or <stem>.png"
)


def load_folder(root: str | Path, category: str | None = None) -> Bunch:
    """Open a folder of images in one of two layouts; no image is decoded.

    ``MVTec``: ``train/good``, ``test/good``, ``test/<kind of defect>`` and masks in
    ``ground_truth/<kind>``, named like the image with or without ``_mask`` after the stem.
    ``normal/anomaly``: ``train/normal``, ``test/normal``, ``test/anomaly`` and, if there are
    masks, ``ground_truth/anomaly``. The folder names alone say which one it is.

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
        - ``y_train``, ``y_test`` : int of shape (n,), +1 good and -1 defective.
        - ``masks_test`` : list with, for each test image, the path of its mask (str), 0 for a
          good image (no pixel is defective), or None when a defective image has no mask.
          :func:`read_mask` reads an entry.
        - ``kinds_test`` : list of str, the kind of defect; ``"good"`` for good images in both
          layouts.
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
    folder = _category_folder(Path(root), category)
    good = _good_name(folder)
    train = _images(folder / "train" / good)
    if not train:
        raise DatasetError(_no_images(folder / "train" / good, "the training set"))

    kinds = _test_kinds(folder, good)
    test: list[Path] = []
    kinds_test: list[str] = []
    masks_test: list[str | int | None] = []
    for kind in kinds:
        images = _images(folder / "test" / kind)
        if not images:
            raise DatasetError(_no_images(folder / "test" / kind, f"the test images {kind!r}"))
        test += images
        kinds_test += ["good" if kind == good else kind] * len(images)
        masks_test += [0] * len(images) if kind == good else _masks(folder, kind, images)
    _check_stray_masks(folder, [kind for kind in kinds if kind != good], good)

    y_train = np.ones(len(train), int)
    y_test = np.array([1 if kind == "good" else -1 for kind in kinds_test], int)
    missing = [str(path) for path, mask in zip(test, masks_test) if mask is None]
    name = folder.name or folder.resolve().name
    paths = [str(path) for path in train + test]
    return Bunch(
        X_train=ImageSequence(paths[: len(train)]),
        X_test=ImageSequence(paths[len(train) :]),
        y_train=y_train,
        y_test=y_test,
        masks_test=masks_test,
        kinds_test=kinds_test,
        data=ImageSequence(paths),
        target=np.concatenate([y_train, y_test]),
        masks=[0] * len(train) + masks_test,
        split=np.array(["train"] * len(train) + ["test"] * len(test), dtype="<U5"),
        target_names=["good", *(kind for kind in kinds if kind != good)],
        missing_masks=missing,
        category=name,
        DESCR=_describe(folder, good, len(train), kinds_test, len(missing)),
    )


def list_categories(root: str | Path) -> list[str]:
    """Names of the folders inside ``root`` that :func:`load_folder` can open, in natural order.

    Parameters
    ----------
    root : str or Path
        Folder that holds one folder per category.

    Returns
    -------
    list of str

    Raises
    ------
    DatasetError
        If ``root`` is not a folder or holds no category.

    Examples
    --------
    >>> import tempfile
    >>> from pyimgano.datasets import list_categories, write_inspection_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("wood", "screw"):
    ...         _ = write_inspection_dataset(
    ...             folder, name, n_train=1, n_test_good=1, n_test_defect=0, size=64
    ...         )
    ...     list_categories(folder)
    ['screw', 'wood']
    """
    folder = Path(root)
    _check_is_folder(folder)
    names = _categories(folder)
    if not names:
        remedy = "It is a category itself: give the folder above. " if _has_layout(folder) else ""
        raise DatasetError(
            f"{folder}: no folder in it is a category; found {_found(folder)}. {remedy}{_LAYOUTS}"
        )
    return names


def read_mask(
    item: str | Path | NDArray[np.uint8] | int | None, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Read one entry of ``masks`` or ``masks_test`` of any dataset of this module.

    Parameters
    ----------
    item : str, Path, ndarray of shape (H, W), 0 or None
        The entry: a mask file, a mask, or 0 for a good image. A file is gray or color, is read
        like an image, and every pixel that is not black is defective. Lossy compression blurs
        edges: in a JPEG, JPEG 2000 or lossy WebP the pixels above 127 in any channel are. In an
        array the values other than 0 are.
    size : (int, int), default=None
        Height and width of the image; needed for 0, checked for the others.

    Returns
    -------
    ndarray of shape (H, W), uint8
        1 on the defect, 0 elsewhere.

    Raises
    ------
    DatasetError
        If the mask has another size than its image; if no pixel of a file is defective, or
        every one; or if the entry is None: a defective image whose mask is missing must be left
        out of pixel metrics, it is not free of defects.
    ImageReadError
        If the mask file cannot be read as an image can: it is missing, damaged, has transparent
        pixels or several pages.

    Examples
    --------
    >>> from pyimgano.datasets import read_mask
    >>> read_mask(0, (2, 3))
    array([[0, 0, 0],
           [0, 0, 0]], dtype=uint8)
    """
    if item is None:
        raise DatasetError(
            "this defective image has no mask: leave the images listed in `missing_masks` out "
            "of pixel metrics, or add their masks to ground_truth."
        )
    if isinstance(item, np.ndarray):
        name, mask, rule = "the mask", (item != 0).astype(np.uint8), None
    elif isinstance(item, (str, Path)):
        name = str(item)
        mask, rule = _decode_mask(name)
    elif item == 0:
        if size is None:
            raise ValueError("size=(height, width) is needed for the mask of a good image.")
        return np.zeros(size, np.uint8)
    else:
        raise TypeError(f"item must be a path, an array, 0 or None, got {item!r}.")
    if mask.ndim != 2 or (size is not None and mask.shape != tuple(size)):
        raise DatasetError(
            f"{name} has shape {mask.shape}, its image is {size} (height, width): a mask must "
            f"have one value for each pixel of its image."
        )
    if rule is not None:
        _check_marks_a_part(name, mask, rule)
    return mask


def _decode_mask(path: str) -> tuple[NDArray[np.uint8], str]:
    """Give the mask in a file, and the rule by which its pixels are defective."""
    pixels, lossy = read_raw_and_loss(path)
    if pixels.ndim == 3:
        pixels = pixels.max(axis=2)
    if lossy:  # around an edge there are pixels that are no longer black
        half = np.iinfo(pixels.dtype).max // 2
        return (pixels > half).astype(np.uint8), f"above {half}, since its compression is lossy"
    return (pixels != 0).astype(np.uint8), "that are not black"


def _check_marks_a_part(path: str, mask: NDArray[np.uint8], rule: str) -> None:
    if mask.min() == mask.max():
        raise DatasetError(
            f"{path}: every pixel counts as {'defective' if mask.min() else 'good'}; defective "
            f"are those {rule}. The mask of a defective image must be white on the defect and "
            f"black elsewhere, with pixels of both kinds: draw it again, or remove it to leave "
            f"its image out of pixel metrics."
        )


# --------------------------------------------------------------- which layout is it?


def _category_folder(root: Path, category: str | None) -> Path:
    _check_is_folder(root)
    if category is None:
        return root
    if category not in _folders(root):
        known = _categories(root)
        raise DatasetError(
            f"{root} has no folder {category!r}. "
            + (f"Its categories: {', '.join(known)}." if known else f"Found {_found(root)}.")
        )
    return root / category


def _check_is_folder(folder: Path) -> None:
    if not folder.exists():
        raise DatasetError(f"{folder} does not exist: give the folder that holds train and test.")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is a file: give the folder that holds train and test.")


def _good_name(folder: Path) -> str:
    """``"good"`` for MVTec's layout, ``"normal"`` for normal/anomaly; anything else is an error."""
    names = _folders(folder)
    if "train" not in names or "test" not in names:
        raise DatasetError(f"{folder}: found {_found(folder)}. {_remedy(folder)}{_LAYOUTS}")
    train, test = _folders(folder / "train"), _folders(folder / "test")
    both = f"found train with {_found(folder / 'train')}; test with {_found(folder / 'test')}"
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
    kinds = _folders(folder / "test")
    if good == "normal" and set(kinds) != {"normal", "anomaly"}:
        raise DatasetError(
            f"{folder}: train holds 'normal', so test must hold normal and anomaly and nothing "
            f"else; found {_found(folder / 'test')}. For several kinds of defect rename both "
            f"'normal' folders to 'good'. {_LAYOUTS}"
        )
    if not kinds:
        raise DatasetError(
            f"{folder}: test must hold one folder per kind, such as test/good and test/scratch; "
            f"found {_found(folder / 'test')}. {_LAYOUTS}"
        )
    return [kind for kind in kinds if kind == good] + [kind for kind in kinds if kind != good]


def _has_layout(folder: Path) -> bool:
    names = _folders(folder)
    if "train" not in names or "test" not in names:
        return False
    return bool({"good", "normal"} & set(_folders(folder / "train")))


def _categories(folder: Path) -> list[str]:
    return [name for name in _folders(folder) if _has_layout(folder / name)]


def _remedy(folder: Path) -> str:
    """The nearest way out when ``train`` and ``test`` are not there."""
    names = _folders(folder)
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


def _visible(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: natural(entry.name))


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def _images(folder: Path) -> list[Path]:
    """The images of a folder in natural order."""
    images = []
    for entry in _visible(folder):
        if entry.is_dir():
            raise DatasetError(
                f"{entry}: a folder where image files should be. Move the images up into {folder}."
            )
        suffix = entry.suffix.lower()
        if suffix in _UNREADABLE:
            raise DatasetError(
                f"{entry}: images with the suffix {entry.suffix} cannot be read. Convert them to "
                f"PNG or TIFF, or move them elsewhere. Read are {_listed(READABLE)}."
            )
        if suffix in READABLE:
            images.append(entry)
    return images


def _masks(folder: Path, kind: str, images: list[Path]) -> list[str | int | None]:
    """The mask file of each image of a kind, None where there is none."""
    truth = folder / "ground_truth"
    if "ground_truth" not in _folders(folder) or kind not in _folders(truth):
        return [None] * len(images)
    by_stem: dict[str, list[Path]] = {}
    for path in _images(truth / kind):
        by_stem.setdefault(path.stem, []).append(path)
    masks: list[str | int | None] = []
    used: dict[Path, Path] = {}
    for image in images:
        found = by_stem.get(f"{image.stem}_mask", []) + by_stem.get(image.stem, [])
        if len(found) > 1:
            raise DatasetError(
                f"{image} has several masks, keep one: {', '.join(str(path) for path in found)}."
            )
        for path in found:
            if path in used:
                raise DatasetError(
                    f"{path} is the mask of both {used[path]} and {image}: give the images "
                    f"different names."
                )
            used[path] = image
        masks.append(str(found[0]) if found else None)
    left = [path for paths in by_stem.values() for path in paths if path not in used]
    if left:
        raise DatasetError(
            f"{left[0]}: a mask without an image ({len(left)} in this folder). It should be "
            f"named like an image of {folder / 'test' / kind}, with or without '_mask' after the "
            f"stem; images there are, for example, {images[0].name}."
        )
    return masks


def _check_stray_masks(folder: Path, kinds: list[str], good: str) -> None:
    """Masks of a kind that has no images would be lost without a word."""
    if "ground_truth" not in _folders(folder):
        return
    for name in _folders(folder / "ground_truth"):
        if name not in kinds and _images(folder / "ground_truth" / name):
            reason = (
                "good images have no masks: remove the folder"
                if name == good
                else f"there is no folder test/{name}; kinds of defect in test: "
                + (", ".join(kinds) or "none")
            )
            raise DatasetError(f"{folder / 'ground_truth' / name} holds masks, but {reason}.")


# -------------------------------------------------------------------------- messages


def _listed(names: Iterable[str]) -> str:
    return " ".join(sorted(names))


def _found(folder: Path) -> str:
    """Describe the content of a folder in a few words."""
    names = _folders(folder)
    files = Counter(
        entry.suffix.lower() or "no suffix" for entry in _visible(folder) if not entry.is_dir()
    )
    shown = [f"{name}/" for name in names[:12]] + ["..."] * (len(names) > 12)
    shown += [
        f"{count} file{'s' * (count > 1)} ({suffix})" for suffix, count in sorted(files.items())
    ]
    return ", ".join(shown) or "nothing"


def _no_images(folder: Path, purpose: str) -> str:
    return (
        f"{folder} holds no images for {purpose}; found {_found(folder)}. Read are "
        f"{_listed(READABLE)}."
    )


def _describe(folder: Path, good: str, n_train: int, kinds_test: list[str], n_missing: int) -> str:
    counts = ", ".join(f"{number} {kind}" for kind, number in Counter(kinds_test).items())
    layout = "MVTec" if good == "good" else "normal/anomaly"
    unused = [n for n in _folders(folder) if n not in ("train", "test", "ground_truth")]
    text = f"Images in {folder} ({layout} layout): {n_train} for training; test: {counts}."
    if n_missing:
        text += f" {n_missing} defective images have no mask."
    if unused:
        text += f" Folders that were not used: {', '.join(unused)}."
    return text
