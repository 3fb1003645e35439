"""Metrics for scores, maps and verdicts."""

from __future__ import annotations

from pyimgano.evaluation._metrics import PixelAUROC, image_metrics, pixel_auroc, rate

__all__ = ["PixelAUROC", "image_metrics", "pixel_auroc", "rate"]
