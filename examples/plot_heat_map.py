"""
Heat map of a defect
====================

Fit PatchCore on synthetic good parts, with a threshold at a false-positive rate of 2 %, and look
at what it says of new ones. No weights, no download, no data at hand.
"""

import sys

import numpy as np

from pyimgano import PatchCoreDetector, ThresholdCalibrator
from pyimgano.datasets import make_inspection_dataset
from pyimgano.inference import score_with_maps
from pyimgano.reporting import map_range, overlay, picture_grid, write_overlay

data = make_inspection_dataset(
    "bottle_cap", n_train=60, n_test_good=2, n_test_defect=12, random_state=0
)
model = ThresholdCalibrator(PatchCoreDetector("filterbank"), quantile=0.98).fit(data.X_train)
scores, maps = score_with_maps(model, data.X_test)

# %%
# One scale of colors for all pictures of a pipeline, from the maps of good parts: what rises above
# all of them is warm, and outlined in magenta. The dashes are the true defect.
limits = map_range(model, data.X_train)
shown = [0, *np.flatnonzero(data.y_test == -1)[:3]]
pictures = [
    overlay(
        data.X_test[i],
        maps[i],
        limits,
        f"in truth: {data.kinds_test[i]}",
        mask=data.masks_test[i],
        score=scores[i],
        threshold=model.threshold_,
        good_scores=model.calibration_scores_,
    )
    for i in shown
]
write_overlay(sys.argv[1] if len(sys.argv) > 1 else "heat_map.png", picture_grid(pictures))
