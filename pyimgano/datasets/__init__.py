"""Images of good and defective parts: made by a program, or found in files."""

from __future__ import annotations

from pyimgano._dataset_table import DatasetInfo
from pyimgano.datasets._folder import load_folder
from pyimgano.datasets._masks import read_mask
from pyimgano.datasets._record import Defect, DefectType, InspectionDataset, InspectionImage
from pyimgano.datasets._table import (
    dataset_info,
    list_categories,
    list_datasets,
    load_dataset,
    register_dataset,
)
from pyimgano.datasets.synthetic import (
    list_inspection_categories,
    make_inspection_dataset,
    write_inspection_dataset,
)

__all__ = [
    "DatasetInfo",
    "Defect",
    "DefectType",
    "InspectionDataset",
    "InspectionImage",
    "dataset_info",
    "list_categories",
    "list_datasets",
    "list_inspection_categories",
    "load_dataset",
    "load_folder",
    "make_inspection_dataset",
    "read_mask",
    "register_dataset",
    "write_inspection_dataset",
]
