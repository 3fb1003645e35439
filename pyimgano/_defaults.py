"""Defaults that functions and commands share.

They stand in a module of their own, which imports nothing, so that ``--help`` answers at once:
the signatures of the functions and the options of the commands both take them from here.
"""

from __future__ import annotations

# The preset that fits what is installed; both that it can be need nothing else.
MODEL = "industrial-fast"
# Likewise, for images that do not belong in a folder.
CLEANING_MODEL = "industrial-clean"
# One good part in fifty may be called bad: a rate that 49 good images support, and that a test set
# of usual size can check. The reason in full is in doc/user_guide/thresholds.rst.
QUANTILE = 0.98
# Of the synthetic images: what run_benchmark makes of them, how many, and their side in pixels.
CATEGORY = "brushed_metal"
N_TRAIN = 60
IMAGE_SIDE = 256
# Libraries that run a network; "native" is this package's own code.
ENGINES = ("auto", "native", "torch", "onnxruntime", "openvino")
# Side in pixels that feature steps bring images to.
RESIZE = 256
OUTPUT_DIR = "runs"
# Steps of training: half a minute to some minutes.
CHECKPOINT_EVERY = 100
# Enough for the worst, the best and the closest of good parts and three kinds of defects.
N_OVERLAYS = 12
# Format of images in arrays.
INPUT_FORMAT = "rgb_u8_hwc"
# Full scale of 16-bit files.
U16_MAX = 65535
RANDOM_STATE = 0
# Of pyimgano infer: images judged at a time, and threads that read those to come.
BATCH_SIZE = 16
N_WORKERS = 2
