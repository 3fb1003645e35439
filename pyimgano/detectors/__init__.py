"""Numbers to "how abnormal": the detectors."""

from __future__ import annotations

from pyimgano.detectors._anomalydino import AnomalyDINODetector
from pyimgano.detectors._padim import PaDiMDetector
from pyimgano.detectors._patchcore import PatchCoreDetector
from pyimgano.detectors._pyod import PyODDetector, PyODView, as_pyod
from pyimgano.detectors._softpatch import SoftPatchDetector
from pyimgano.detectors._spade import SPADEDetector

__all__ = [
    "AnomalyDINODetector",
    "PaDiMDetector",
    "PatchCoreDetector",
    "PyODDetector",
    "PyODView",
    "SPADEDetector",
    "SoftPatchDetector",
    "as_pyod",
]
