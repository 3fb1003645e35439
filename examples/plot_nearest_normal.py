"""
Why a place is an anomaly
=========================

A detector with a memory bank calls a place anomalous because no good patch is like it. Look at
those that come closest.
"""

import sys

import numpy as np

from pyimgano import PatchCoreDetector, ThresholdCalibrator
from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import nearest_normal
from pyimgano.inference import anomaly_scores
from pyimgano.reporting import nearest_normal_picture, write_overlay

data = make_inspection_dataset(
    "bottle_cap", n_train=40, n_test_good=2, n_test_defect=8, random_state=0
)
model = ThresholdCalibrator(PatchCoreDetector("filterbank"), quantile=0.97).fit(data.X_train)
worst = int(np.argmax(anomaly_scores(model, data.X_test)))

# %%
# The bank holds features, not pixels. Given the training images, the places can be shown too.
found = nearest_normal(model, data.X_test[worst : worst + 1], data.X_train)
print(f"{data.kinds_test[worst]}: anomaly {found.anomaly:.3g} at {found.place[:2]}")
for match in found.matches:
    print(f"good part {match.image_index}, at {match.place[:2]}: distance {match.distance:.3g}")

# %%
# Left the place in question, then the nearest place of each of three good parts; below, where in
# its image it lies.
path = sys.argv[1] if len(sys.argv) > 1 else "nearest_normal.png"
write_overlay(path, nearest_normal_picture(found))
