"""Metrics of anomaly scores, anomaly maps and verdicts."""

from __future__ import annotations

from pyimgano.evaluation._displays import (
    AnomalyMapDisplay,
    ScoreHistogramDisplay,
    ThresholdDisplay,
)
from pyimgano.evaluation._image_metrics import (
    bootstrap_interval,
    fpr_at_tpr,
    image_metrics,
    oracle_f1_max,
    rate,
    threshold_metrics,
)
from pyimgano.evaluation._pixel_metrics import (
    AUPIMO,
    AUPRO,
    SPRO,
    OracleSegmentationF1,
    PixelAUROC,
    PixelAveragePrecision,
    PixelMetric,
    SegmentationF1,
)
from pyimgano.evaluation._pixel_passes import PixelMetrics, aupro, pixel_auroc, pixel_threshold

__all__ = [
    "AUPIMO",
    "AUPRO",
    "SPRO",
    "AnomalyMapDisplay",
    "OracleSegmentationF1",
    "PixelAUROC",
    "PixelAveragePrecision",
    "PixelMetric",
    "PixelMetrics",
    "ScoreHistogramDisplay",
    "SegmentationF1",
    "ThresholdDisplay",
    "aupro",
    "bootstrap_interval",
    "fpr_at_tpr",
    "image_metrics",
    "oracle_f1_max",
    "pixel_auroc",
    "pixel_threshold",
    "rate",
    "threshold_metrics",
]
