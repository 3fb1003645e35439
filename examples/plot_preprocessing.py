"""
Before and after: preparing images
==================================

What each preprocessing step does to a picture of a circuit board that was taken under poor
conditions. All of them work on each image by itself, and stand in a pipeline before any detector.
"""

import sys

import cv2
import numpy as np
from sklearn.pipeline import make_pipeline

from pyimgano import anomaly_map
from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import PixelGaussianDetector
from pyimgano.preprocessing import (
    CLAHE,
    BackgroundFlattening,
    ContrastStretch,
    GammaCorrection,
    HomomorphicFilter,
    ImageAlignment,
    RegionCrop,
    UnsharpMask,
    WhiteBalance,
)
from pyimgano.reporting import picture_grid, write_overlay

SIZE = 160
data = make_inspection_dataset(
    "circuit_board", n_train=20, n_test_good=1, n_test_defect=12, size=SIZE, random_state=3
)
board = data.X_train[0]

# %%
# The board in warm light, in the dark, in haze, out of focus, lit from one side and from the
# middle, and turned on the table.
rows, columns = np.mgrid[:SIZE, :SIZE] / (SIZE - 1)
values = board.astype(float)
turn = cv2.getRotationMatrix2D((SIZE / 2 - 9, SIZE / 2 + 6), 8, 1.0)


def as_uint8(light):
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


warm = as_uint8(values * [1.15, 1.0, 0.55])
dark = as_uint8(255 * (values / 255) ** 2.2)
haze = as_uint8(110 + 0.3 * values)
blurred = cv2.GaussianBlur(board, (0, 0), 1.6)
sideways = as_uint8(values * (1.3 - 1.05 * columns[..., None]))
spot = as_uint8(values * (1.3 - 2.2 * ((rows - 0.5) ** 2 + (columns - 0.5) ** 2))[..., None])
turned = cv2.warpAffine(board, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)

# %%
# Alignment is the one step here that learns something: the reference, from good boards.
pairs = [
    ("warm light", warm, WhiteBalance("white_patch")),
    ("dark", dark, GammaCorrection(0.45)),
    ("haze", haze, ContrastStretch()),
    ("haze", haze, CLAHE(clip_limit=4)),
    ("out of focus", blurred, UnsharpMask(sigma=1.6, amount=2)),
    ("lit from the left", sideways, BackgroundFlattening(sigma=25)),
    ("lit from the middle", spot, HomomorphicFilter(sigma=10, low_gain=0)),
    ("turned", turned, ImageAlignment().fit(data.X_train)),
]


def titled(picture, text):
    strip = np.full((18, picture.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(strip, text, (1, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


pictures = []
for what, before, step in pairs:
    pictures.append(titled(before, what))
    pictures.append(titled(step.transform([before])[0], type(step).__name__))

# %%
# A board without one of its parts, aligned and cropped: that is all that the detector sees. Its map
# is put back into the picture as it was taken.
pipe = make_pipeline(
    ImageAlignment(),
    RegionCrop(top=40, left=35, height=80, width=90),
    PixelGaussianDetector(resize=None),
).fit(data.X_train)
bad = data.X_test[8:9]
heat = anomaly_map(pipe, bad)[0]
seen = np.full_like(board, 255)
seen[40:120, 35:125] = pipe[:-1].transform(bad)[0]
glow = cv2.applyColorMap(as_uint8(255 * heat / heat.max()), cv2.COLORMAP_INFERNO)[..., ::-1]
pictures.append(titled(seen, "aligned and cropped"))
pictures.append(titled(as_uint8(0.4 * bad[0] + 0.6 * glow), "map, put back"))

write_overlay(
    sys.argv[1] if len(sys.argv) > 1 else "preprocessing.png", picture_grid(pictures, n_columns=6)
)
