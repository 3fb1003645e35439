"""From anomaly scores to a verdict at a stated false-positive rate."""

from __future__ import annotations

from pyimgano.calibration._calibrator import ThresholdCalibrator
from pyimgano.calibration._out_of_sample import out_of_sample_scores, own_scores

__all__ = ["ThresholdCalibrator", "out_of_sample_scores", "own_scores"]
