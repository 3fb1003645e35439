"""
Small defects in large images
=============================

A detector that shrinks an image to its working size loses what is small. On tiles it sees every
pixel, while a sample stays an image: one score, one verdict, one map in the image's own pixels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline

from pyimgano import ImageFormatNormalizer, PatchCoreDetector, TilingTransformer
from pyimgano.datasets import make_inspection_dataset
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import score_with_maps

# %%
# Brushed metal in 384 x 384 pixels, with two defects of seven pixels: a dark spot and a scratch.
data = make_inspection_dataset(
    "brushed_metal", n_train=6, n_test_good=2, n_test_defect=0, size=384, random_state=0
)
good, bad = data.X_test[0], data.X_test[1].copy()
spots = [(90, 300), (285, 76)]  # row and column
bad[87:94, 297:304] = 0.4 * bad[87:94, 297:304]
for step in range(7):
    bad[282 + step, 73 + step : 75 + step] = 40

# %%
# The same detector three times: on the whole image, shrunk to 128 pixels; on tiles of 128
# pixels; and on tiles that overlap by a half, so that what lies on a seam of some tiles is in
# the middle of another.
detector = PatchCoreDetector(FilterBankFeatures(resize=128), coreset_ratio=0.01)
pipelines = {
    "whole image": make_pipeline(ImageFormatNormalizer(), detector),
    "tiles": make_pipeline(ImageFormatNormalizer(), TilingTransformer(128), detector),
    "overlapping tiles": make_pipeline(
        ImageFormatNormalizer(), TilingTransformer(128, stride=64), detector
    ),
}
found = {}
for name, pipe in pipelines.items():
    pipe.fit(data.X_train)
    found[name] = score_with_maps(pipe, np.stack([good, bad]))
    one, other = found[name].scores
    print(f"{name:18} score of the good image {one:.1f}, of the defective one {other:.1f}")

# %%
# The maps of the defective image, on one scale of colors: 0 is the median of the good image's
# map, 1 its largest value.
figure, axes = plt.subplots(2, 2, figsize=(8, 7.6), layout="constrained")
axes[0, 0].imshow(bad)
axes[0, 0].set_title("the image, both defects circled")
for axis, (name, (_, maps)) in zip(axes.flat[1:], found.items()):
    ordinary, most = np.median(maps[0]), maps[0].max()
    picture = axis.imshow((maps[1] - ordinary) / (most - ordinary), "turbo", vmin=-1, vmax=3)
    axis.set_title(name)
for seam in (128, 256):
    axes[1, 0].axvline(seam - 0.5, color="white", alpha=0.4)
    axes[1, 0].axhline(seam - 0.5, color="white", alpha=0.4)
for axis in axes.flat:
    for row, column in spots:
        axis.plot(column, row, "o", markersize=26, fillstyle="none", color="white")
    axis.set(xticks=[], yticks=[])
figure.colorbar(picture, ax=axes, shrink=0.5, label="1 = most that the good image shows")
plt.show()
