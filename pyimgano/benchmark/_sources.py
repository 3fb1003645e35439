"""The categories that a run is asked for, and how each is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from sklearn.utils import Bunch

from pyimgano import _defaults
from pyimgano.benchmark._split import limited
from pyimgano.benchmark._synthetic_defects import with_synthetic_defects
from pyimgano.datasets import (
    InspectionDataset,
    dataset_info,
    list_categories,
    list_inspection_categories,
    load_dataset,
    make_inspection_dataset,
)
from pyimgano.datasets._folder import good_images, load_good_images
from pyimgano.exceptions import DatasetError

__all__ = ["Source", "dataset_name", "sources"]

#: The category that stands for all of them.
_ALL = "all"
# What dataset_options may be for a dataset of files.
_FILE_OPTIONS = ("split", "duplicates")


@dataclass(frozen=True)
class Source:
    """A category of a run.

    Parameters
    ----------
    name : str
    open : callable
        Returns its images; can be sent to another process.
    error : DatasetError or None, default=None
        Why the category cannot be opened.
    """

    name: str
    open: Callable[[], Bunch]
    error: DatasetError | None = None


def dataset_name(dataset: str | Bunch | InspectionDataset) -> str:
    """Name of a dataset in reports."""
    if isinstance(dataset, str):
        return dataset_info(dataset).name
    return dataset.name if isinstance(dataset, InspectionDataset) else "custom"


def sources(
    dataset: str | Bunch | InspectionDataset,
    root: str | Path | None,
    category: str | Sequence[str] | None,
    random_state: int | None,
    options: Mapping[str, Any],
    limits: tuple[int | None, int | None],
    synthetic_defects: int | None = None,
    u16_max: int = _defaults.U16_MAX,
) -> list[Source]:
    """List the categories of a run; no image is decoded yet.

    Parameters
    ----------
    dataset, root, category, random_state : as in ``run_benchmark``
    options : mapping
        ``dataset_options`` of ``run_benchmark``.
    limits : (int or None, int or None)
        Numbers of training and test images.
    synthetic_defects : int or None, default=None
        As in ``run_benchmark``.
    u16_max : int, default=65535
        Value of full scale in 16-bit files, for the images that are painted on.

    Returns
    -------
    list of Source
        At least one of them without an error.

    Raises
    ------
    DatasetError
        If none of them can be opened, or one that was asked for by name.
    ValueError
        If arguments do not go together.
    """
    numbers = zip(("limit_train", "limit_test", "synthetic_defects"), (*limits, synthetic_defects))
    for what, value in numbers:
        if value is not None and (not isinstance(value, Integral) or value < 1):
            raise ValueError(f"{what}={value!r} must be a number of images, or None.")
    may_lack_test = synthetic_defects is not None
    found = list(_found(dataset, root, category, random_state, options, may_lack_test))
    for name, count in Counter(one.name for one in found).items():
        if count > 1:
            raise ValueError(f"category names {name!r} {count} times; name each category once.")
    by_name = category is not None and category != _ALL
    errors = [one.error for one in found if one.error is not None]
    if errors and (by_name or len(errors) == len(found)):
        raise errors[0]
    if synthetic_defects is not None:
        found = [
            Source(
                one.name,
                partial(_open_painted, one.open, synthetic_defects, random_state, u16_max),
                one.error,
            )
            for one in found
        ]
    if limits == (None, None):
        return found
    return [
        Source(one.name, partial(_open_limited, one.open, limits, random_state), one.error)
        for one in found
    ]


def _found(
    dataset: str | Bunch | InspectionDataset,
    root: str | Path | None,
    category: str | Sequence[str] | None,
    random_state: int | None,
    options: Mapping[str, Any],
    may_lack_test: bool,
) -> Iterator[Source]:
    names: Sequence[str] | None = [category] if isinstance(category, str) else category
    if not isinstance(dataset, str):
        if names is not None or root is not None or options:
            raise ValueError(
                "a dataset that is given opened takes neither root, category nor dataset_options."
            )
        opened: Any = dataset
        if isinstance(dataset, InspectionDataset):
            opened = _bunch(dataset, may_lack_test)
        yield Source(str(opened.get("category", "custom")), partial(_opened, opened))
    elif dataset == "synthetic":
        if root is not None:
            raise ValueError('root belongs to a dataset of files; "synthetic" reads none.')
        if category == _ALL:
            names = list(list_inspection_categories())
        arguments = {"random_state": random_state, **options}
        if may_lack_test:
            arguments.setdefault("n_test_defect", 0)
        for name in [_defaults.CATEGORY] if names is None else names:
            yield Source(name, partial(make_inspection_dataset, name, **arguments))
    else:
        chosen = None if category == _ALL else names
        yield from _files(dataset, root, chosen, options, may_lack_test)


def _files(
    dataset: str,
    root: str | Path | None,
    names: Sequence[str] | None,
    options: Mapping[str, Any],
    may_lack_test: bool,
) -> Iterator[Source]:
    """The categories of a dataset of files, opened: a wrong name is better said at once."""
    info = dataset_info(dataset)
    if info.root != "none" and root is None:
        raise ValueError(f"dataset={dataset!r} needs root, the {info.root} it lies in.")
    for key in options:
        if key not in _FILE_OPTIONS:
            raise ValueError(
                f"dataset_options of dataset={dataset!r} are {' and '.join(_FILE_OPTIONS)}, "
                f"got {key!r}."
            )
    chosen: Sequence[str | None] | None = names
    folder = Path(str(root))
    one = (folder / "train").is_dir() or (may_lack_test and bool(good_images(folder)))
    if chosen is None and info.name == "folder" and one:
        chosen = [None]
    if chosen is None:
        chosen = list_categories(info.name, root) or [None]
    for name in chosen:
        try:
            found = None
            if info.name == "folder" and may_lack_test:
                found = load_good_images(folder if name is None else folder / name)
            if found is None:
                found = load_dataset(info.name, root, category=name, **options)
            opened = _bunch(found, may_lack_test)
        except DatasetError as error:
            yield Source(info.name if name is None else name, partial(_raise, error), error)
        else:
            yield Source(found.category if name is None else name, partial(_opened, opened))


def _bunch(found: InspectionDataset, may_lack_test: bool) -> Bunch:
    """The fields of a dataset; where it may lack test images and does, ``X_test`` is None."""
    if found.test or not may_lack_test:
        return found.to_bunch()
    bunch = replace(found, test=found.train[:1]).to_bunch()
    bunch.update(X_test=None, y_test=bunch.y_test[:0], kinds_test=[], masks_test=[])
    return bunch


# ---- functions of the module, so that other processes can have them ------------------------
def _opened(data: Bunch) -> Bunch:
    return data


def _open_painted(
    make: Callable[[], Bunch], n_defects: int, random_state: int | None, u16_max: int
) -> Bunch:
    return with_synthetic_defects(make(), n_defects, random_state, u16_max)


def _open_limited(
    make: Callable[[], Bunch], limits: tuple[int | None, int | None], random_state: int | None
) -> Bunch:
    return limited(make(), *limits, random_state)


def _raise(error: DatasetError) -> Bunch:
    raise error
