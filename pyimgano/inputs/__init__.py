"""Images: declared formats, lazy files, and the check that every estimator uses."""

from pyimgano.inputs._formats import (
    ImageFormat,
    ensure_rgb_u8_hwc,
    normalize_numpy_image,
    to_torch_chw_float,
)
from pyimgano.inputs._normalizer import ImageFormatNormalizer
from pyimgano.inputs._reading import MAX_PIXELS
from pyimgano.inputs._sequence import ImageSequence, check_images

__all__ = [
    "MAX_PIXELS",
    "ImageFormat",
    "ImageFormatNormalizer",
    "ImageSequence",
    "check_images",
    "ensure_rgb_u8_hwc",
    "normalize_numpy_image",
    "to_torch_chw_float",
]
