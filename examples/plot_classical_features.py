"""
What classical descriptors see
==============================

One row of numbers per image, and any of scikit-learn's or PyOD's detectors behind it: no weights,
milliseconds per image, no heat map. Which defects do the rows tell from good parts?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import PaDiMDetector
from pyimgano.features import (
    ColorHistogram,
    ColorMoments,
    EdgeFeatures,
    FFTBandFeatures,
    GaborFeatures,
    GLCMFeatures,
    HOGFeatures,
    LBPFeatures,
    PatchStatistics,
)
from pyimgano.inputs import ImageFormatNormalizer

data = make_inspection_dataset(
    "bottle_cap", n_train=60, n_test_good=20, n_test_defect=30, size=96, random_state=0
)

# %%
# A whole detector is a pipeline. The forest knows nothing of images; the step before it does.
pipe = make_pipeline(
    ImageFormatNormalizer(input_format="rgb_u8_hwc"),
    HOGFeatures(),
    StandardScaler(),
    IsolationForest(random_state=0),
).fit(data.X_train)
print(pipe.predict(data.X_test)[:5])

# %%
# Every column has a name, so that a finding can be explained.
colors = ColorMoments(color_space="rgb")
for name, value in zip(colors.get_feature_names_out(), colors.transform(data.X_test[:1])[0]):
    print(f"{name:>14} {value:6.1f}")

# %%
# Each descriptor alone, and two side by side. Behind all of them stands a Gaussian: on rows, PaDiM
# is the Mahalanobis distance. One number is the ROC AUC of one kind of defect against the good
# parts, 0.5 being a coin toss. That of all kinds together is on the right.
steps = {
    "color histogram": ColorHistogram(),
    "color moments": ColorMoments(),
    "patch statistics": PatchStatistics(),
    "HOG": HOGFeatures(96),
    "edges": EdgeFeatures(resize=None),
    "LBP": LBPFeatures(resize=None),
    "GLCM": GLCMFeatures(resize=None),
    "Gabor": GaborFeatures(resize=None),
    "FFT bands": FFTBandFeatures(resize=None),
    "Gabor + HOG": make_union(GaborFeatures(resize=None), HOGFeatures(96)),
}
kinds = np.array(data.kinds_test)
columns = [kind for kind in data.target_names if kind != "good"]
table = np.empty((len(steps), len(columns) + 1))
for row, step in zip(table, steps.values()):
    detector = make_pipeline(step, StandardScaler(), PaDiMDetector()).fit(data.X_train)
    scores = -detector.score_samples(data.X_test)
    for j, kind in enumerate(columns):
        chosen = np.isin(kinds, ["good", kind])
        row[j] = roc_auc_score(kinds[chosen] == kind, scores[chosen])
    row[-1] = roc_auc_score(kinds != "good", scores)

# %%
# No descriptor sees everything, none says where, and more columns are not always better. Choose by
# what the defects change; where the part itself varies, take a patch detector such as PatchCore.
figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
axes.imshow(table, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
axes.set_xticks(range(len(columns) + 1), [*columns, "all kinds"], rotation=30, ha="right")
axes.set_yticks(range(len(steps)), list(steps))
for (i, j), value in np.ndenumerate(table):
    axes.text(j, i, f"{value:.2f}", ha="center", va="center")
axes.set_title("ROC AUC on synthetic bottle caps")
plt.show()
