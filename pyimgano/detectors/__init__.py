"""Numbers to "how abnormal": the detectors."""

from __future__ import annotations

from pyimgano._moved import moved_names
from pyimgano.detectors._anomalydino import AnomalyDINODetector
from pyimgano.detectors._musc import MutualScoringDetector
from pyimgano.detectors._nearest_normal import NearestNormal, NormalPatch, nearest_normal
from pyimgano.detectors._padim import PaDiMDetector
from pyimgano.detectors._patch_base import BasePatchDetector
from pyimgano.detectors._patchcore import PatchCoreDetector
from pyimgano.detectors._pyod import PyODDetector
from pyimgano.detectors._softpatch import SoftPatchDetector
from pyimgano.detectors._spade import SPADEDetector
from pyimgano.detectors.templates import (
    NCCTemplateDetector,
    PixelGaussianDetector,
    PixelMADDetector,
    SSIMTemplateDetector,
)
from pyimgano.detectors.trained import (
    BaseFeatureTrainedDetector,
    BaseTrainedDetector,
    DinomalyDetector,
    DRAEMDetector,
    ReverseDistillationDetector,
    STFPMDetector,
    SuperSimpleNetDetector,
    checkpoints,
)

__all__ = [
    "AnomalyDINODetector",
    "BaseFeatureTrainedDetector",
    "BasePatchDetector",
    "BaseTrainedDetector",
    "DRAEMDetector",
    "DinomalyDetector",
    "MutualScoringDetector",
    "NCCTemplateDetector",
    "NearestNormal",
    "NormalPatch",
    "PaDiMDetector",
    "PatchCoreDetector",
    "PixelGaussianDetector",
    "PixelMADDetector",
    "PyODDetector",
    "ReverseDistillationDetector",
    "SPADEDetector",
    "SSIMTemplateDetector",
    "STFPMDetector",
    "SoftPatchDetector",
    "SuperSimpleNetDetector",
    "checkpoints",
    "nearest_normal",
]

__getattr__ = moved_names(
    __name__,
    {
        "PyODView": ("pyimgano.interop", "PyODView"),
        "as_pyod": ("pyimgano.interop", "as_pyod"),
    },
)
