"""Contract checks: run them over a detector or a feature step of your own."""

from __future__ import annotations

from pyimgano.testing._image_checks import check_image_detector, yield_image_checks
from pyimgano.testing._images import make_check_images, make_check_parts, make_gross_anomalies
from pyimgano.testing._transformer_checks import (
    yield_image_row_checks,
    yield_image_transformer_checks,
)

__all__ = [
    "check_image_detector",
    "make_check_images",
    "make_check_parts",
    "make_gross_anomalies",
    "yield_image_checks",
    "yield_image_row_checks",
    "yield_image_transformer_checks",
]
