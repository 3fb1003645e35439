"""Images to numbers: steps that turn images into grids of patch features, or into rows."""

from __future__ import annotations

from pyimgano._moved import moved_names
from pyimgano.features._backbone import BackbonePatchFeatures
from pyimgano.features._base import BasePatchFeatures
from pyimgano.features._color import ColorHistogram, ColorMoments, PatchStatistics
from pyimgano.features._filterbank import FilterBankFeatures
from pyimgano.features._gradients import EdgeFeatures, HOGFeatures
from pyimgano.features._pooling import PatchPooling
from pyimgano.features._registry import make_features
from pyimgano.features._rows import BaseRowFeatures
from pyimgano.features._texture import FFTBandFeatures, GaborFeatures, GLCMFeatures, LBPFeatures
from pyimgano.features._vit import ViTPatchFeatures

__all__ = [
    "BackbonePatchFeatures",
    "BasePatchFeatures",
    "BaseRowFeatures",
    "ColorHistogram",
    "ColorMoments",
    "EdgeFeatures",
    "FFTBandFeatures",
    "FilterBankFeatures",
    "GLCMFeatures",
    "GaborFeatures",
    "HOGFeatures",
    "LBPFeatures",
    "PatchPooling",
    "PatchStatistics",
    "ViTPatchFeatures",
    "make_features",
]

__getattr__ = moved_names(
    __name__,
    {
        "PatchGrids": ("pyimgano.grids", "PatchGrids"),
        "TorchPatchFeatures": ("pyimgano.features", "BackbonePatchFeatures"),
    },
)
