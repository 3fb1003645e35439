"""
Several detectors, one score
============================

Detectors that look at different things miss different defects. `ScoreEnsemble` puts each one's
scores on the scale of its own good images, which it has not seen, and then combines them: a
distance, a likelihood and a correlation can be averaged.
"""

import matplotlib.pyplot as plt
import numpy as np
from pyod.models.knn import KNN
from sklearn.pipeline import make_pipeline

from pyimgano import PatchCoreDetector, ScoreEnsemble
from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import PyODDetector, SSIMTemplateDetector
from pyimgano.evaluation import image_metrics
from pyimgano.features import FilterBankFeatures, HOGFeatures
from pyimgano.inference import score_with_maps

data = make_inspection_dataset(
    "flange", n_train=40, n_test_good=25, n_test_defect=35, size=128, random_state=1
)

# %%
# Patches against a memory bank, windows against a template, and the nearest neighbors of the
# whole picture's gradient histograms. Each sees less than all of them together. That is the rule
# for members that are about as good as each other, not for a good one among poor ones.
ensemble = ScoreEnsemble(
    [
        ("patches", PatchCoreDetector(FilterBankFeatures(resize=128), coreset_ratio=0.02)),
        ("template", SSIMTemplateDetector(resize=128)),
        ("gradients", make_pipeline(HOGFeatures(), PyODDetector(KNN(n_neighbors=3)))),
    ]
).fit(data.X_train)
members = {**ensemble.named_estimators_, "ensemble": ensemble}
scores = {name: -member.score_samples(data.X_test) for name, member in members.items()}
for name, some in scores.items():
    print(f"{name:10} image AUROC {image_metrics(some, data.y_test)['auroc']:.3f}")

# %%
# Members are set and left out by name, as in scikit-learn's ensembles, and a search can try it.
smaller = ScoreEnsemble(ensemble.estimators).set_params(patches="drop").fit(data.X_train)
auroc = image_metrics(-smaller.score_samples(data.X_test), data.y_test)["auroc"]
print(f"without the patches: image AUROC {auroc:.3f}")

# %%
# Two of the members against each other. Each axis is in units of that member's own threshold:
# 0 is its median good training image, 1 its threshold. Defects that are ordinary to one are
# seen by the other; what the ensemble flags is filled.


def in_thresholds(values, detector):
    ordinary, threshold = np.median(detector.training_scores_), -detector.offset_
    return (values - ordinary) / (threshold - ordinary)


fitted = {"patches": members["patches"], "gradients": members["gradients"][-1]}
x, y = (in_thresholds(scores[name], detector) for name, detector in fitted.items())
flagged = ensemble.predict(data.X_test) == -1
figure, axes = plt.subplots(figsize=(6.5, 5), layout="constrained")
for label, name, color in ((1, "good", "tab:green"), (-1, "defective", "tab:red")):
    for chosen, fill, what in ((flagged, "full", "flagged"), (~flagged, "none", "passed")):
        some = (data.y_test == label) & chosen
        style = {"color": color, "fillstyle": fill, "linestyle": "none", "alpha": 0.8}
        axes.plot(x[some], y[some], "o", label=f"{name}, {what} ({some.sum()})", **style)
axes.axvline(1, color="gray", linewidth=1)
axes.axhline(1, color="gray", linewidth=1)
axes.set_xscale("symlog", linthresh=2)
axes.set_xticks([-1, 0, 1, 2, 5, 10, 20], [-1, 0, 1, 2, 5, 10, 20])
axes.set(xlabel="patches", ylabel="gradients", title="Scores in units of each member's threshold")
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

# %%
# Maps are fused in the same way by those members that make any. Gradient histograms do not.
worst = int(np.argmax(np.where(data.y_test == -1, scores["ensemble"], -np.inf)))
figure, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained")
axes[0].imshow(data.X_test[worst])
axes[0].contour(data.masks_test[worst], levels=[0.5], colors="white", linewidths=1)
axes[0].set_title(f"{data.kinds_test[worst]}, outlined")
for axis, name in zip(axes[1:], ("patches", "template", "ensemble")):
    heat = score_with_maps(members[name], data.X_test[worst : worst + 1]).maps[0]
    picture = axis.imshow(in_thresholds(heat, members[name]), "turbo", vmin=-2, vmax=3)
    axis.set_title(name)
for axis in axes:
    axis.set(xticks=[], yticks=[])
figure.colorbar(picture, ax=axes, shrink=0.8, label="1 = threshold")
plt.show()
