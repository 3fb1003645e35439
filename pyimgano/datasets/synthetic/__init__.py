"""Images of parts made by a program, good ones and defective ones, with masks."""

from __future__ import annotations

from pyimgano.datasets.synthetic._dataset import (
    list_inspection_categories,
    make_inspection_dataset,
    write_inspection_dataset,
)

__all__ = [
    "list_inspection_categories",
    "make_inspection_dataset",
    "write_inspection_dataset",
]
