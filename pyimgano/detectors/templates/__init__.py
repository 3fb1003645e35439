"""Detectors that compare an image with a template, pixel by pixel."""

from __future__ import annotations

from pyimgano.detectors.templates._pixel import PixelGaussianDetector, PixelMADDetector
from pyimgano.detectors.templates._window import NCCTemplateDetector, SSIMTemplateDetector

__all__ = [
    "NCCTemplateDetector",
    "PixelGaussianDetector",
    "PixelMADDetector",
    "SSIMTemplateDetector",
]
