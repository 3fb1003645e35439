"""The pictures of :func:`make_inspection_dataset` as a record."""

from __future__ import annotations

from pathlib import Path

from pyimgano import _defaults
from pyimgano.datasets._record import InspectionDataset, InspectionImage
from pyimgano.datasets.synthetic import list_inspection_categories, make_inspection_dataset
from pyimgano.exceptions import DatasetError

__all__ = ["categories", "load"]


def load(
    root: Path | None = None, category: str | None = None, split: str | None = None
) -> InspectionDataset:
    """Make pictures of a category, always the same ones."""
    name = _defaults.CATEGORY if category is None else category
    if name not in categories():
        raise DatasetError(
            f"there is no synthetic category {name!r}; there are {', '.join(categories())}."
        )
    made = make_inspection_dataset(name, random_state=_defaults.RANDOM_STATE)
    n_train = len(made.X_train)
    kinds = ["good"] * n_train + made.kinds_test
    images = tuple(
        InspectionImage(None, int(label), kind, (mask,) if label == -1 else (), pixels=pixels)
        for pixels, label, kind, mask in zip(made.data, made.target, kinds, made.masks)
    )
    return InspectionDataset(
        "synthetic", name, images[:n_train], images[n_train:], description=made.DESCR
    )


def categories(root: Path | None = None) -> list[str]:
    """List the parts that can be made."""
    return list(list_inspection_categories())
