"""Files below a folder: listed in natural order, and named in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from pyimgano._dataset_table import DATASETS
from pyimgano.datasets._record import InspectionImage
from pyimgano.exceptions import DatasetError
from pyimgano.inputs._reading import PICTURES, READABLE
from pyimgano.utils._files import natural

__all__ = [
    "category_folder",
    "check_has_no_categories",
    "counted",
    "existing_file",
    "files_by_stem",
    "folders",
    "found",
    "images",
    "images_beside_folders",
    "layout_error",
    "listed",
    "missing_mask",
    "need_images",
]

# Images that cannot be read from files: leaving them out in silence would lose data.
_UNREADABLE = (PICTURES - READABLE) | {".npy", ".npz"}


# ------------------------------------------------------------------------------ files
def visible(folder: Path) -> list[Path]:
    """List what lies in a folder and is not hidden, in natural order."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: natural(entry.name))


def folders(folder: Path) -> list[str]:
    """List the names of the folders in a folder; a folder that does not exist has none."""
    if not folder.is_dir():
        return []
    return [entry.name for entry in visible(folder) if entry.is_dir()]


def images(folder: Path) -> list[Path]:
    """List the images of a folder in natural order; other files are left out.

    Raises
    ------
    DatasetError
        If there are folders among the images, or images that cannot be read.
    """
    for entry in visible(folder):
        if entry.is_dir():
            raise DatasetError(
                f"{entry}: a folder where image files should be. Move the images up into {folder}."
            )
    return images_beside_folders(folder)


def images_beside_folders(folder: Path) -> list[Path]:
    """List the images of a folder in natural order, whatever folders there are beside them.

    Raises
    ------
    DatasetError
        If there are images that cannot be read.
    """
    found_images = []
    for entry in visible(folder):
        suffix = entry.suffix.lower()
        if entry.is_dir():
            continue
        if suffix in _UNREADABLE:
            raise DatasetError(
                f"{entry}: images with the suffix {entry.suffix} cannot be read. Convert them to "
                f"PNG or TIFF, or move them elsewhere. Read are {listed(READABLE)}."
            )
        if suffix in READABLE:
            found_images.append(entry)
    return found_images


def files_by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by their names without the suffix."""
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(path.stem, []).append(path)
    return by_stem


# ---------------------------------------------------------------- published datasets
def category_folder(
    name: str, root: Path, category: str | None, is_category: Callable[[Path], bool]
) -> Path:
    """Find the folder of a category of a published dataset.

    Parameters
    ----------
    name : str
        Name of the dataset.
    root : Path
        The folder above the categories, or, without ``category``, that of a category.
    category : str or None
    is_category : callable
        Tells of a folder whether it has the layout of a category.

    Raises
    ------
    DatasetError
        If it is not there: with what was found, what is expected, and where it is to be had.
    """
    names = [one for one in folders(root) if is_category(root / one)]
    if category is None:
        if is_category(root):
            return root if root.name not in ("", "..") else root.resolve()
        if names:
            raise DatasetError(
                f"{root} holds several categories: open one with category={names[0]!r}; there "
                f"are {', '.join(names)}."
            )
        raise layout_error(name, root)
    if category in names:
        return root / category
    if category in folders(root):
        raise layout_error(name, root / category)
    if names:
        raise DatasetError(
            f"{root} has no category {category!r}. Its categories: {', '.join(names)}."
        )
    raise layout_error(name, root)


def check_has_no_categories(name: str, category: str | None) -> None:
    """Refuse a category where the dataset is not divided."""
    if category is not None:
        raise DatasetError(
            f"{DATASETS[name].title} is not divided into categories: leave "
            f"category={category!r} out."
        )


def need_images(name: str, folder: Path) -> list[Path]:
    """List the images of a folder that the published dataset has."""
    if not folder.is_dir():
        raise layout_error(name, folder.parent, f"there is no folder {folder.name}")
    paths = images(folder)
    if not paths:
        raise layout_error(name, folder, "there are no images")
    return paths


def layout_error(name: str, folder: Path, problem: str = "") -> DatasetError:
    """Make the error for files that are not those of a published dataset.

    Parameters
    ----------
    name : str
        Name of the dataset.
    folder : Path
        Where the difference was noticed; the message says what lies there.
    problem : str, default=""
        The difference, in a few words.
    """
    info = DATASETS[name]
    problem = f"{problem}; " if problem else ""
    content = f"found {found(folder)}" if folder.is_dir() else "it is no folder"
    return DatasetError(
        f"{folder}: {problem}{content}. The layout of {info.title} is {info.layout}. "
        f"Its official page is {info.page}; download it there and give the folder it was "
        f"unpacked to."
    )


def missing_mask(name: str, image: Path | str, expected: Path | str) -> DatasetError:
    """Make the error for a defective image without the mask that was published with it."""
    return DatasetError(
        f"{image}: its mask is missing, expected is {expected}. {DATASETS[name].title} has a mask "
        f"for every defective image: unpack it again. Where masks are not needed, list the "
        f"images in a manifest."
    )


def existing_file(name: str, folder: Path, relative: object, where: str) -> str:
    """Check that a file that a table names is there.

    Parameters
    ----------
    name : str
        Name of the dataset.
    folder : Path
        The folder that the table's paths start at.
    relative : object
        The entry of the table.
    where : str
        The place in the table, for the message.

    Returns
    -------
    str
        Path of the file.

    Raises
    ------
    DatasetError
        If the entry is no path, or there is no such file.
    """
    if not isinstance(relative, str) or not relative:
        raise DatasetError(f"{where}: {relative!r} is not the path of a file.")
    path = folder / relative
    if not path.is_file():
        info = DATASETS[name]
        page = f" Unpack it again; its official page is {info.page}." if info.page else ""
        raise DatasetError(f"{where}: there is no file {path}.{page}")
    return str(path)


# --------------------------------------------------------------------------- messages
def counted(images: Iterable[InspectionImage]) -> str:
    """Say how many images of each kind there are."""
    numbers = Counter(image.kind for image in images)
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items())


def listed(names: Iterable[str]) -> str:
    """Join names for a message."""
    return " ".join(sorted(names))


def found(folder: Path) -> str:
    """Describe the content of a folder in a few words."""
    names = folders(folder)
    files = Counter(
        entry.suffix.lower() or "no suffix" for entry in visible(folder) if not entry.is_dir()
    )
    shown = [f"{name}/" for name in names[:12]] + ["..."] * (len(names) > 12)
    shown += [
        f"{count} file{'s' * (count > 1)} ({suffix})" for suffix, count in sorted(files.items())
    ]
    return ", ".join(shown) or "nothing"
