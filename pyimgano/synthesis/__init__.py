"""Defects painted on images of good parts, with masks, and the noise that they are cut from."""

from __future__ import annotations

from pyimgano.synthesis._foreground import foreground_mask
from pyimgano.synthesis._noise import perlin_mask, perlin_noise
from pyimgano.synthesis._synthesizer import DEFECT_KINDS, DefectSynthesizer, SynthesizedDefects
from pyimgano.synthesis._textures import procedural_texture

__all__ = [
    "DEFECT_KINDS",
    "DefectSynthesizer",
    "SynthesizedDefects",
    "foreground_mask",
    "perlin_mask",
    "perlin_noise",
    "procedural_texture",
]
