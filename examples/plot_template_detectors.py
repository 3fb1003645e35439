"""
Parts in a fixed pose: templates
================================

Where every part lies in the same place, a template needs no features and no network: learn what
each pixel looks like on good parts, and see which pixels of a new one differ. A millisecond or two
per image. Where parts are a little off, registering them first is what makes it work.
"""

import sys

import numpy as np

from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import PixelGaussianDetector
from pyimgano.evaluation import image_metrics
from pyimgano.reporting import map_range, overlay, picture_grid, write_overlay

# %%
# Circuit boards, each a few pixels off and slightly turned. One detector compares them as they
# lie, the other moves every image to a reference first (ECC). Both know how the training images
# score when they are left out, which is where their thresholds come from.
data = make_inspection_dataset(
    "circuit_board", n_train=30, n_test_good=10, n_test_defect=20, random_state=0
)
plain = PixelGaussianDetector().fit(data.X_train)
aligned = PixelGaussianDetector(alignment="ecc", motion="euclidean").fit(data.X_train)
for name, detector in (("as they lie", plain), ("aligned", aligned)):
    scores = -detector.score_samples(data.X_test)
    auroc = image_metrics(scores, data.y_test)["auroc"]
    print(f"{name}: image AUROC {auroc:.3f}")

# %%
# The same boards through both. Left, unaligned: edges differ on every board, and the defect is one
# deviation among many. Right: what is left after alignment is the defect.
shown = np.flatnonzero(data.y_test == -1)
shown = shown[np.argsort(aligned.score_samples(data.X_test[shown]))[[0, 3, 6]]]
limits = {
    "as it lies": map_range(plain, data.X_train),
    "aligned": map_range(aligned, data.X_train),
}
pictures = []
for i in shown:
    for name, detector in (("as it lies", plain), ("aligned", aligned)):
        scores, maps = detector.score_and_map(data.X_test[i : i + 1])
        pictures.append(
            overlay(
                data.X_test[i],
                maps[0],
                limits[name],
                name,
                mask=data.masks_test[i],
                score=-scores[0],
                threshold=-detector.offset_,
                good_scores=detector.training_scores_,
            )
        )
path = sys.argv[1] if len(sys.argv) > 1 else "template_detectors.png"
write_overlay(path, picture_grid(pictures))
