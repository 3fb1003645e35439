"""Defects painted on images of good parts, and good parts under varied light and position."""

from __future__ import annotations

from pyimgano.synthesis._augmentation import ImageAugmentation
from pyimgano.synthesis._foreground import foreground_mask
from pyimgano.synthesis._noise import perlin_mask, perlin_noise
from pyimgano.synthesis._synthesizer import DEFECT_KINDS, DefectSynthesizer, SynthesizedDefects
from pyimgano.synthesis._textures import procedural_texture

__all__ = [
    "DEFECT_KINDS",
    "DefectSynthesizer",
    "ImageAugmentation",
    "SynthesizedDefects",
    "foreground_mask",
    "perlin_mask",
    "perlin_noise",
    "procedural_texture",
]
