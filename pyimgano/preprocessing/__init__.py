"""Steps that prepare images before a detector sees them: light, contrast, position, region."""

from pyimgano.preprocessing._base import BasePreprocessor, PreparedImages
from pyimgano.preprocessing._geometry import ImageAlignment, RegionCrop
from pyimgano.preprocessing._illumination import BackgroundFlattening, HomomorphicFilter
from pyimgano.preprocessing._intensity import (
    CLAHE,
    ContrastStretch,
    GammaCorrection,
    UnsharpMask,
    WhiteBalance,
)
from pyimgano.preprocessing._registry import PREPROCESSORS, make_preprocessor

__all__ = [
    "CLAHE",
    "PREPROCESSORS",
    "BackgroundFlattening",
    "BasePreprocessor",
    "ContrastStretch",
    "GammaCorrection",
    "HomomorphicFilter",
    "ImageAlignment",
    "PreparedImages",
    "RegionCrop",
    "UnsharpMask",
    "WhiteBalance",
    "make_preprocessor",
]
