"""Detectors that train networks on the good images."""

from __future__ import annotations

from pyimgano.detectors.trained._base import (
    BaseFeatureTrainedDetector,
    BaseTrainedDetector,
    Prepared,
)
from pyimgano.detectors.trained._dinomaly import DinomalyDetector
from pyimgano.detectors.trained._draem import DRAEMDetector
from pyimgano.detectors.trained._loop import checkpoints, initialize
from pyimgano.detectors.trained._reverse_distillation import ReverseDistillationDetector
from pyimgano.detectors.trained._samples import compact
from pyimgano.detectors.trained._stfpm import STFPMDetector
from pyimgano.detectors.trained._supersimplenet import SuperSimpleNetDetector

__all__ = [
    "BaseFeatureTrainedDetector",
    "BaseTrainedDetector",
    "DRAEMDetector",
    "DinomalyDetector",
    "Prepared",
    "ReverseDistillationDetector",
    "STFPMDetector",
    "SuperSimpleNetDetector",
    "checkpoints",
    "compact",
    "initialize",
]
