"""
PyOD's models, and PyOD's contract
==================================

`PyODDetector` makes any PyOD model a scikit-learn outlier detector: +1 and -1, higher = more
normal, and a threshold from scores of rows that the model has not seen. `as_pyod` goes the other
way: any detector as code written for PyOD expects it.
"""

import matplotlib.pyplot as plt
import numpy as np
from pyod.models.gmm import GMM
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.ocsvm import OCSVM
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyimgano import PatchCoreDetector, as_pyod
from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import PyODDetector
from pyimgano.evaluation import image_metrics
from pyimgano.features import FilterBankFeatures, PatchPooling

data = make_inspection_dataset(
    "brushed_metal", n_train=60, n_test_good=30, n_test_defect=30, size=96, random_state=0
)

# %%
# PyOD's models take tables, so a step before them makes one row of each image: patch features,
# pooled. Two principal components of them are enough for a picture.
to_rows = make_pipeline(
    FilterBankFeatures(resize=96),
    PatchPooling(("max", "std")),
    StandardScaler(),
    PCA(2, whiten=True, random_state=0),
).fit(data.X_train)
train, test = to_rows.transform(data.X_train), to_rows.transform(data.X_test)
models = {
    "KNN": KNN(n_neighbors=5),
    "GMM": GMM(n_components=2, random_state=0),
    "OCSVM": OCSVM(nu=0.05),
    "IForest": IForest(n_estimators=50),
}
fitted = {name: PyODDetector(model).fit(train) for name, model in models.items()}

# %%
# What each of them takes to be normal. The line is the threshold: the 0.995 quantile of the
# training rows' scores under models fitted without them. PyOD's own `threshold_`, dotted, comes
# from scores of rows the model was fitted on, and from its `contamination=0.1`.
side = np.linspace(-4.5, 8, 50)
plane = np.stack(np.meshgrid(side, side), axis=-1)
figure, axes = plt.subplots(2, 2, figsize=(8, 8), sharex=True, sharey=True, layout="constrained")
for axis, (name, detector) in zip(axes.flat, fitted.items()):
    height = detector.score_samples(plane.reshape(-1, 2)).reshape(plane.shape[:2])
    good, bad = test[data.y_test == 1], test[data.y_test == -1]
    levels = np.quantile(height, np.linspace(0, 1, 12))
    axis.contourf(side, side, height, levels=np.unique(levels), cmap="Blues_r", alpha=0.8)
    axis.contour(side, side, height, levels=[detector.offset_], colors="black", linestyles="solid")
    own = detector.detector_  # PyOD's model of all rows
    scores = own.decision_function(plane.reshape(-1, 2)).reshape(height.shape)
    axis.contour(side, side, scores, levels=[own.threshold_], colors="black", linestyles="dotted")
    axis.plot(*good.T, "o", color="tab:green", markeredgecolor="white", label="new good parts")
    axis.plot(*bad.T, "o", color="tab:red", markeredgecolor="white", label="defective parts")
    auroc = image_metrics(-detector.score_samples(test), data.y_test)["auroc"]
    alarms = np.mean(detector.predict(good) == -1)
    own_alarms = np.mean(own.predict(good) == 1)
    axis.set_title(
        f"{name}: AUROC {auroc:.2f}\ngood parts flagged: {alarms:.0%} (PyOD's own {own_alarms:.0%})"
    )
    axis.set(xlim=side[[0, -1]], ylim=side[[0, -1]])
axes[0, 0].legend(loc="upper right")

# %%
# The way back. Labels are 0 and 1, `decision_function` is higher = worse, and training scores
# carry PyOD's names. They are the honest ones all the same.
view = as_pyod(PatchCoreDetector(FilterBankFeatures(resize=96), coreset_ratio=0.02))
view.fit(data.X_train)
print("training labels", np.bincount(view.labels_), "threshold", round(view.threshold_, 2))
shown = [0, 1, -2, -1]
for kind, label, probability in zip(
    np.array(data.kinds_test)[shown],
    view.predict(data.X_test[shown]),
    view.predict_proba(data.X_test[shown])[:, 1],
):
    print(f"{kind:14} label {label}, probability of being an outlier {probability:.2f}")
plt.show()
