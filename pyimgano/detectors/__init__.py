"""Numbers to "how abnormal": the detectors."""

from __future__ import annotations

from pyimgano.detectors._anomalydino import AnomalyDINODetector
from pyimgano.detectors._padim import PaDiMDetector
from pyimgano.detectors._patchcore import PatchCoreDetector
from pyimgano.detectors._pixel_templates import PixelGaussianDetector, PixelMADDetector
from pyimgano.detectors._pyod import PyODDetector, PyODView, as_pyod
from pyimgano.detectors._softpatch import SoftPatchDetector
from pyimgano.detectors._spade import SPADEDetector
from pyimgano.detectors._window_templates import NCCTemplateDetector, SSIMTemplateDetector

__all__ = [
    "AnomalyDINODetector",
    "NCCTemplateDetector",
    "PaDiMDetector",
    "PatchCoreDetector",
    "PixelGaussianDetector",
    "PixelMADDetector",
    "PyODDetector",
    "PyODView",
    "SPADEDetector",
    "SSIMTemplateDetector",
    "SoftPatchDetector",
    "as_pyod",
]
