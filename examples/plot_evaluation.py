"""
Measuring scores, verdicts and maps
===================================

A test set of good and defective parts says how well a model separates them, what its threshold
makes of that, and whether it finds the defects where they are.
"""

import matplotlib.pyplot as plt
import numpy as np

from pyimgano import PatchCoreDetector, ThresholdCalibrator
from pyimgano.datasets import make_inspection_dataset, read_mask
from pyimgano.evaluation import (
    AUPRO,
    AnomalyMapDisplay,
    PixelAveragePrecision,
    PixelMetrics,
    ScoreHistogramDisplay,
    ThresholdDisplay,
    bootstrap_interval,
    fpr_at_tpr,
    image_metrics,
    rate,
    threshold_metrics,
)
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import score_with_maps
from pyimgano.reporting import map_range

data = make_inspection_dataset(
    "wood", n_train=40, n_test_good=40, n_test_defect=30, size=96, random_state=0
)
detector = PatchCoreDetector(FilterBankFeatures(resize=96), coreset_ratio=0.05)
calibrator = ThresholdCalibrator(detector, quantile=0.95).fit(data.X_train)
scores, maps = score_with_maps(calibrator, data.X_test)

# %%
# Scores first, whatever the threshold. The interval says how much the rate would vary with other
# test images.
for name, value in image_metrics(scores, data.y_test).items():
    print(f"{name:18} {value:.3f}")
low, high = bootstrap_interval(fpr_at_tpr, scores, data.y_test, n_resamples=300)
print(f"fpr_at_95_tpr, 95 % interval: {low:.2f} to {high:.2f}")

# %%
# Then the verdicts. The threshold comes from the training images alone, and 40 good test images
# say little about a rate of 5 %.
found = threshold_metrics(scores, data.y_test, calibrator.threshold_)
print(f"F1 {found['f1']:.3f}", found["confusion"])
false_alarms = rate(found["confusion"]["false_positives"], 40)
low, high = false_alarms["interval_95"]
print(f"false alarms {false_alarms['value']:.1%}, 95 % interval {low:.1%} to {high:.1%}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
cut = calibrator.threshold_
ScoreHistogramDisplay.from_predictions(scores, data.y_test, threshold=cut, ax=left)
ThresholdDisplay.from_predictions(scores, data.y_test, threshold=cut, ax=right)
plt.show()

# %%
# Then the maps. One pass over them serves all metrics.
metrics = PixelMetrics(
    {"AUPRO": AUPRO(), "AUPRO, limit 0.05": AUPRO(limit=0.05), "pixel AP": PixelAveragePrecision()}
)
for anomaly_map, mask in zip(maps, data.masks_test):
    metrics.update(anomaly_map, read_mask(mask, anomaly_map.shape))
for name, value in metrics.compute().items():
    print(f"{name:18} {value:.3f}")

# %%
# Some of them, from the lowest score to nearly the highest. The scale of colors is taken from good
# images, so that a good part does not glow.
chosen = np.argsort(scores)[::17]
display = AnomalyMapDisplay.from_estimator(
    calibrator,
    data.X_test[chosen],
    masks=[data.masks_test[i] for i in chosen],
    limits=map_range(calibrator, data.X_train),
)
plt.show()
