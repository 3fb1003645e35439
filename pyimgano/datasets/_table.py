"""Datasets by name: open one, list them and their categories, add one."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, overload

from pyimgano._dataset_table import ALIASES, DATASETS, DatasetInfo
from pyimgano.datasets._folder import categories as folder_categories
from pyimgano.datasets._record import InspectionDataset
from pyimgano.exceptions import DatasetError, DuplicateImagesWarning, PluginError, PluginWarning
from pyimgano.utils._plugins import entry_points
from pyimgano.utils._words import did_you_mean

__all__ = [
    "dataset_info",
    "list_categories",
    "list_datasets",
    "load_dataset",
    "register_dataset",
]

_GROUP = "pyimgano.datasets"
_ROOTS = ("folder", "file", "none")
_DUPLICATES = ("warn", "error", "ignore")

_registered: dict[str, DatasetInfo] = {}


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    category: str | None = None,
    split: str | None = None,
    duplicates: str = "warn",
) -> InspectionDataset:
    """Open a dataset by its name; nothing is downloaded, and no image is decoded.

    Masks are read only where they alone say which images are good: those of KolektorSDD and
    KolektorSDD2.

    Parameters
    ----------
    name : str
        One of :func:`list_datasets`, or an alias such as ``"mvtec"``.
    root : str or Path, default=None
        Folder that the dataset was unpacked to; for ``"manifest"`` the file. ``"synthetic"``
        has none.
    category : str, default=None
        One of :func:`list_categories`; None if the dataset has no categories, or if ``root``
        is the folder of a category.
    split : str, default=None
        Name of one of the published divisions into training and test images, where there are
        several: ``dataset_info(name).splits``. None is the standard one. Training, validation
        and test images are attributes of what is returned.
    duplicates : {"warn", "error", "ignore"}, default="warn"
        What to do about equal files in different parts, such as training and test. Only files
        of equal size are compared. :meth:`InspectionDataset.duplicates` finds all of them.

    Returns
    -------
    InspectionDataset
        Its :meth:`~InspectionDataset.to_bunch` has the fields of :func:`load_folder`.

    Raises
    ------
    DatasetError
        If there is no such dataset, category or split, or if the files are not those that were
        published: with what was expected, what was found, and the official page.
    PluginError
        If the dataset is that of a plug-in which cannot be loaded.

    Warns
    -----
    DuplicateImagesWarning
        If a picture is in two parts.

    Examples
    --------
    >>> import tempfile
    >>> from pyimgano.datasets import load_dataset, write_inspection_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_inspection_dataset(
    ...         folder, "screw", n_train=3, n_test_good=1, n_test_defect=2, size=64, random_state=0
    ...     )
    ...     parts = load_dataset("mvtec_ad", folder, category="screw")
    >>> parts
    <InspectionDataset mvtec_ad, screw: 3 train, 0 validation, 3 test>
    >>> [image.kind for image in parts.test]
    ['good', 'bent_tip', 'damaged_thread']
    """
    if duplicates not in _DUPLICATES:
        raise ValueError(
            f"duplicates must be one of {', '.join(map(repr, _DUPLICATES))}, got {duplicates!r}."
        )
    info = dataset_info(name)
    loaded = _resolve(info.loader)(_check_root(info, root), category, _check_split(info, split))
    if not isinstance(loaded, InspectionDataset):
        raise PluginError(
            f"the loader of the dataset {info.name!r} returned a {type(loaded).__name__}; it must "
            "return an InspectionDataset."
        )
    if duplicates != "ignore":
        _report_duplicates(loaded, duplicates)
    return loaded


def list_datasets() -> list[str]:
    """Names of all datasets that :func:`load_dataset` can open, sorted.

    Returns
    -------
    list of str
        Without aliases; with those of plug-ins, which are not loaded for it.

    Warns
    -----
    PluginWarning
        For each plug-in that is left out because there is a dataset of its name.

    Examples
    --------
    >>> from pyimgano.datasets import list_datasets
    >>> "mvtec_ad" in list_datasets()
    True
    """
    plugins, problems = _entry_points()
    for problem in problems:
        warnings.warn(problem, PluginWarning, stacklevel=2)
    return sorted({*DATASETS, *plugins, *_registered})


def dataset_info(name: str) -> DatasetInfo:
    """Title, layout, license, official page and splits of a dataset.

    Parameters
    ----------
    name : str
        One of :func:`list_datasets`, or an alias.

    Returns
    -------
    DatasetInfo

    Raises
    ------
    DatasetError
        If there is no dataset of that name.
    PluginError
        If it is that of a plug-in which cannot be loaded.

    Examples
    --------
    >>> from pyimgano.datasets import dataset_info
    >>> dataset_info("mvtec").name, dataset_info("mvtec").license
    ('mvtec_ad', 'CC BY-NC-SA 4.0')
    """
    for known in (_registered, DATASETS):
        if name in known:
            return known[name]
    if name in ALIASES:
        return DATASETS[ALIASES[name]]
    plugins, _ = _entry_points()
    if name in plugins:
        return _plugin(name)
    names = [*_registered, *DATASETS, *ALIASES, *plugins]
    raise DatasetError(
        f"there is no dataset {name!r}.{did_you_mean(name, names)} There are "
        f"{', '.join(sorted({*_registered, *DATASETS, *plugins}))}."
    )


@overload
def list_categories(root: str | os.PathLike[str], /) -> list[str]: ...
@overload
def list_categories(*, root: str | os.PathLike[str]) -> list[str]: ...
@overload
def list_categories(name: str, root: str | os.PathLike[str] | None) -> list[str]: ...
def list_categories(
    name: str | os.PathLike[str] | None = None, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Names of the categories of a dataset.

    Parameters
    ----------
    name : str
        One of :func:`list_datasets`. With a single argument it is left out: the argument is
        ``root``, and the categories are the folders that :func:`load_folder` can open.
    root : str or Path
        Folder that the dataset was unpacked to.

    Returns
    -------
    list of str
        Empty for a dataset that is not divided into categories.

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
    >>> list_categories("synthetic", None)[:3]
    ['bottle_cap', 'brushed_metal', 'circuit_board']
    """
    if name is None and root is None:
        raise TypeError("list_categories needs the name of a dataset and its root, or a folder.")
    if name is None:
        return folder_categories(Path(str(root)))
    # A lone argument is a folder, also where a dataset has its name.
    if root is None and (Path(name).is_dir() or dataset_name_or_none(name) is None):
        return folder_categories(Path(name))
    info = dataset_info(str(name))
    where = _check_root(info, root)
    return [] if info.categories is None else _resolve(info.categories)(where)


def register_dataset(
    name: str,
    loader: Callable[..., InspectionDataset],
    *,
    categories: Callable[..., list[str]] | None = None,
    splits: Iterable[str] = (),
    root: str = "folder",
    license: str = "",
    page: str = "",
    overwrite: bool = False,
) -> None:
    """Add a dataset of your own, in this process.

    Parameters
    ----------
    name : str
        What it shall be called.
    loader : callable
        ``loader(root, category, split)`` returns an :class:`InspectionDataset`. ``root`` is a
        Path or None, ``split`` one of ``splits`` or None.
    categories : callable, default=None
        ``categories(root)`` returns their names; None if the dataset has no categories.
    splits : iterable of str, default=()
        Divisions into training and test images, the standard one first.
    root : {"folder", "file", "none"}, default="folder"
        What ``root`` is; that it exists is checked.
    license, page : str, default=""
        License, and address of the official page.
    overwrite : bool, default=False
        Replace a dataset of that name; otherwise it is an error.

    Raises
    ------
    ValueError
        If there is a dataset of that name already.

    Notes
    -----
    An installed package adds datasets to every process through entry points of the group
    ``pyimgano.datasets``: the name is that of the dataset, the object a loader as here, or a
    :class:`DatasetInfo`. It is loaded when it is needed.

    Examples
    --------
    >>> from pyimgano.datasets import InspectionDataset, InspectionImage
    >>> from pyimgano.datasets import load_dataset, register_dataset
    >>> def load(root, category, split):
    ...     good = tuple(InspectionImage(f"{i}.png", 1) for i in range(9))
    ...     return InspectionDataset("line3", "bolt", train=good[:6], test=good[6:])
    >>> register_dataset("line3", load, root="none")
    >>> load_dataset("line3")
    <InspectionDataset line3, bolt: 6 train, 0 validation, 3 test>
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a dataset must be a string, got {name!r}.")
    for what, function in (("loader", loader), ("categories", categories)):
        if not callable(function) and not (what == "categories" and function is None):
            raise TypeError(f"{name}: {what} must be a function, got {function!r}.")
    if root not in _ROOTS:
        raise ValueError(f"root must be one of {', '.join(map(repr, _ROOTS))}, got {root!r}.")
    if not overwrite and dataset_name_or_none(name) is not None:
        raise ValueError(
            f"there is a dataset {name!r} already; choose another name, or replace it with "
            "overwrite=True."
        )
    _registered[name] = DatasetInfo(
        name,
        loader,
        title=name,
        categories=categories,
        splits=tuple(splits),
        root=root,
        license=license,
        page=page,
    )


def dataset_name_or_none(name: object) -> str | None:
    """Give the name that a name or alias stands for, None if there is no such dataset."""
    for known in (_registered, DATASETS, _entry_points()[0]):
        if name in known:
            return str(name)
    return ALIASES.get(str(name))


# ------------------------------------------------------------------------- arguments
def _check_root(info: DatasetInfo, root: str | os.PathLike[str] | None) -> Path | None:
    if info.root == "none":
        if root is not None:
            raise DatasetError(f"the dataset {info.name!r} reads no files: leave root out.")
        return None
    expected = f" Expected is\n  {info.layout}" if info.layout else ""
    page = f"\nThe official page of {info.title} is {info.page}." if info.page else ""
    if root is None:
        raise DatasetError(
            f"the dataset {info.name!r} needs root, the {info.root} it lies in.{expected}{page}"
        )
    path = Path(root)
    if not path.exists():
        raise DatasetError(f"{path} does not exist.{expected}{page}")
    if info.root == "folder" and not path.is_dir():
        raise DatasetError(f"{path} is a file: give the folder it is in.{expected}{page}")
    if info.root == "file" and path.is_dir():
        raise DatasetError(f"{path} is a folder: give a file.{expected}{page}")
    return path


def _check_split(info: DatasetInfo, split: str | None) -> str | None:
    if split is None:
        return info.splits[0] if info.splits else None
    if split in info.splits:
        return split
    there_are = (
        f"there are {', '.join(map(repr, info.splits))}" if info.splits else "it has no others"
    )
    raise DatasetError(
        f"the dataset {info.name!r} has no split {split!r}; {there_are}. A split is a division "
        "into training and test images; these are attributes of what load_dataset returns."
    )


def _report_duplicates(loaded: InspectionDataset, duplicates: str) -> None:
    pairs = loaded.duplicates()
    if not pairs:
        return
    first, second = pairs[0]
    more = f" and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
    message = (
        f"{loaded!r}: {first} and {second}{more} are the same picture in different parts. What "
        "is trained on must not be tested on: remove one of them."
    )
    if duplicates == "error":
        raise DatasetError(message)
    warnings.warn(message, DuplicateImagesWarning, stacklevel=3)


# --------------------------------------------------------------------------- plug-ins
def _resolve(function: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def _entry_points() -> tuple[dict[str, Any], list[str]]:
    return entry_points(_GROUP, "dataset", {*DATASETS, *ALIASES})


@cache
def _plugin(name: str) -> DatasetInfo:
    point = _entry_points()[0][name]
    what = f"the plug-in for the dataset {name!r} ({_GROUP}: {point.value})"
    # Whatever foreign code raises, the message must say where it comes from.
    try:
        loaded = point.load()
    except Exception as error:
        raise PluginError(f"{what} cannot be used: {type(error).__name__}: {error}") from error
    if isinstance(loaded, DatasetInfo):
        return replace(loaded, name=name)
    if not callable(loaded):
        raise PluginError(
            f"{what} is of type {type(loaded).__name__}; it must be a function that opens the "
            "dataset, or a DatasetInfo."
        )
    return DatasetInfo(name, loaded, title=name)
