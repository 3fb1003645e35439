"""From anomaly maps to defects: regions that can be counted, measured and written to files."""

from __future__ import annotations

from pyimgano.defects._extractor import DefectExtractor
from pyimgano.defects._masks import (
    from_rle,
    to_coco,
    to_labelme,
    to_mask,
    to_rle,
    write_mask,
)
from pyimgano.defects._region import DefectRegion, to_pandas

__all__ = [
    "DefectExtractor",
    "DefectRegion",
    "from_rle",
    "to_coco",
    "to_labelme",
    "to_mask",
    "to_pandas",
    "to_rle",
    "write_mask",
]
