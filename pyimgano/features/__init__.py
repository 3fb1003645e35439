"""Images to numbers: steps that turn images into grids of patch features."""

from __future__ import annotations

from pyimgano.features._base import BasePatchFeatures
from pyimgano.features._filterbank import FilterBankFeatures
from pyimgano.features._grids import PatchGrids
from pyimgano.features._registry import make_features
from pyimgano.features._torch import TorchPatchFeatures
from pyimgano.features._vit import ViTPatchFeatures

__all__ = [
    "BasePatchFeatures",
    "FilterBankFeatures",
    "PatchGrids",
    "TorchPatchFeatures",
    "ViTPatchFeatures",
    "make_features",
]
