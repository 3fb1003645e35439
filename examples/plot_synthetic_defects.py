"""
Tune without a single defective part
====================================

A line makes good parts long before it makes enough bad ones to choose a model by. Painted defects
stand in for them: on good images that no model is fitted on, so that nothing but the defect is new.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV

from pyimgano import PatchCoreDetector
from pyimgano.datasets import make_inspection_dataset
from pyimgano.features import FilterBankFeatures
from pyimgano.model_selection import OneClassKFold, anomaly_roc_auc
from pyimgano.synthesis import DefectSynthesizer

data = make_inspection_dataset(
    "brushed_metal", n_train=36, n_test_good=10, n_test_defect=18, size=96, random_state=0
)
good, to_paint = data.X_train[:20], data.X_train[20:]

# %%
# One defect on each image, the kinds in turn, and exactly the pixels that were changed as mask.
images, masks, kinds = DefectSynthesizer(random_state=0).synthesize(to_paint)

figure, axes = plt.subplots(2, 8, figsize=(12, 3.4), layout="constrained")
for column, kind in enumerate(kinds[:8]):
    axes[0, column].imshow(images[column])
    axes[0, column].set_title(kind.replace("_", " "), fontsize="medium")
    axes[1, column].imshow(masks[column], cmap="gray")
for axis in axes.flat:
    axis.axis("off")
plt.show()

# %%
# Painted images go through a search as known defects do: with the label -1, which no model is
# fitted on. `OneClassKFold` puts the good ones into training folds and both kinds into test folds.
X = np.concatenate([good, images])
y = np.repeat([1, -1], [len(good), len(images)])
search = GridSearchCV(
    PatchCoreDetector(FilterBankFeatures()),
    {"features__resize": [32, 64], "coreset_ratio": [0.02, 0.2]},
    scoring=anomaly_roc_auc,
    cv=OneClassKFold(2),
)
search.fit(X, y)
print(search.best_params_)

# %%
# The test set has other defects, which nothing above has seen. Here they agree with the painted
# ones on which size is good; how many of them are found is another figure. On a line this is the
# check that remains to be done as soon as there are defective parts.
tested = np.array(
    [
        anomaly_roc_auc(
            PatchCoreDetector(FilterBankFeatures()).set_params(**params).fit(good),
            data.X_test,
            data.y_test,
        )
        for params in search.cv_results_["params"]
    ]
)
figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
axis.plot(search.cv_results_["mean_test_score"], tested, "o")
for params, x, height in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], tested
):
    label = f"{params['features__resize']} px, {params['coreset_ratio']:.0%} of the patches"
    axis.annotate(label, (x, height), xytext=(5, -3), textcoords="offset points", fontsize="small")
axis.set(xlabel="AUROC, painted defects", ylabel="AUROC, defects of the test set")
axis.margins(x=0.35, y=0.15)
plt.show()
