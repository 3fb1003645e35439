"""
A search that fits each model once
==================================

The tile, the size of the memory bank and the threshold are parameters like any others, wherever
they stand in a nesting of pipelines. With a cache, thresholds are tried without fitting again.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from pyimgano import (
    ImageFormatNormalizer,
    PatchCoreDetector,
    ThresholdCalibrator,
    TilingTransformer,
)
from pyimgano.datasets import make_inspection_dataset
from pyimgano.features import FilterBankFeatures
from pyimgano.model_selection import OneClassKFold, balanced_accuracy

data = make_inspection_dataset(
    "brushed_metal", n_train=40, n_test_good=0, n_test_defect=15, size=96, random_state=0
)

# %%
# The known defects take part: they are never learned from, but a threshold is judged by them.
# `OneClassKFold` puts good images into training folds only, and both kinds into test folds.
cache = tempfile.TemporaryDirectory()
model = ThresholdCalibrator(
    make_pipeline(
        ImageFormatNormalizer(),
        TilingTransformer(),
        PatchCoreDetector(FilterBankFeatures(resize=48)),
    ),
    memory=cache.name,
)
grid = {
    "estimator__tilingtransformer__tile": [48, 96],
    "estimator__patchcoredetector__coreset_ratio": [0.02, 0.1],
    "quantile": [0.8, 0.9, 0.95],
}
search = GridSearchCV(model, grid, scoring=balanced_accuracy, cv=OneClassKFold(2))
search.fit(data.data, data.target)
for name, value in search.best_params_.items():
    print(f"{name} = {value}")

# %%
# Twelve combinations in two folds and the best one on all images: 25 models with a threshold. But
# the quantile does not change what is fitted, so these are the detectors that were fitted and
# kept:
n_candidates = len(search.cv_results_["params"]) * search.n_splits_ + 1
n_fitted = len(list(Path(cache.name).rglob("output.pkl")))
print(f"{n_candidates} calibrated models, {n_fitted} fits")
cache.cleanup()

# %%
# The share of good and of defective parts judged rightly, by all three.
results = search.cv_results_
tiles, ratios, quantiles = grid.values()
table = results["mean_test_score"].reshape(len(ratios), len(tiles), len(quantiles))
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
for k, axis in enumerate(axes):
    picture = axis.imshow(table[:, k], vmin=0.5, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(table[:, k]):
        axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white", size="large")
    axis.set_xticks(range(len(quantiles)), quantiles)
    axis.set_yticks(range(len(ratios)), ratios)
    axis.set(title=f"tile = {tiles[k]}", xlabel="quantile")
axes[0].set_ylabel("coreset_ratio")
figure.colorbar(picture, ax=axes, label="balanced accuracy")
plt.show()
