"""Images of good and defective parts: made by a program, or found in a folder."""

from pyimgano.datasets._folder import list_categories, load_folder, read_mask
from pyimgano.datasets.synthetic import (
    list_inspection_categories,
    make_inspection_dataset,
    write_inspection_dataset,
)

__all__ = [
    "list_categories",
    "list_inspection_categories",
    "load_folder",
    "make_inspection_dataset",
    "read_mask",
    "write_inspection_dataset",
]
