"""From anomaly maps to defects: regions that can be counted, measured and written to files."""

from __future__ import annotations

from pyimgano.defects._extractor import DefectExtractor
from pyimgano.defects._region import DefectRegion, to_pandas

__all__ = ["DefectExtractor", "DefectRegion", "to_pandas"]
