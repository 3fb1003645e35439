"""From anomaly scores and maps to verdicts and defects at a stated false-positive rate."""

from __future__ import annotations

from pyimgano.calibration._calibrator import ThresholdCalibrator
from pyimgano.calibration._out_of_sample import out_of_sample_scores, own_scores
from pyimgano.calibration._pixels import PixelThresholdCalibrator
from pyimgano.calibration._selection import benjamini_hochberg

__all__ = [
    "PixelThresholdCalibrator",
    "ThresholdCalibrator",
    "benjamini_hochberg",
    "out_of_sample_scores",
    "own_scores",
]
