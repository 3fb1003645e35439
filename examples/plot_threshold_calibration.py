"""
The rate asked for and the rate one gets
========================================

A threshold at a false-positive rate of 5 % should flag one good part in twenty. Put on the wrong
scores, it flags most of them.
"""

import matplotlib.pyplot as plt
import numpy as np

from pyimgano import PatchCoreDetector, ThresholdCalibrator
from pyimgano.datasets import make_inspection_dataset
from pyimgano.features import FilterBankFeatures

data = make_inspection_dataset(
    "bottle_cap", n_train=120, n_test_good=300, n_test_defect=0, size=64, random_state=0
)
detector = PatchCoreDetector(FilterBankFeatures(resize=64))
calibrator = ThresholdCalibrator(detector, quantile=0.95).fit(data.X_train)
low, high = calibrator.false_positive_rate_interval_
print(f"asked for 5 %; what {len(data.X_train)} images support: {low:.1%} to {high:.1%}")
print(f"300 new good parts: {np.mean(calibrator.predict(data.X_test) == -1):.1%} flagged")

# %%
# Where does the threshold come from? A detector with a memory bank has seen the training images:
# many of their own patches are in the bank, at distance 0. So detectors here recognize a training
# image and score it as if it had been left out. One bit of one pixel is enough for an image not
# to be recognized, and shows what a bank says that does not care.
unrecognized = data.X_train.copy()
unrecognized[:, 0, 0, 0] ^= 1
in_sample = -calibrator.score_samples(unrecognized)
out_of_sample = calibrator.calibration_scores_
new = -calibrator.score_samples(data.X_test)

# %%
# All rates at once. The p-value of a part says how often a good one scores as high: flagging
# all p-values up to 5 % is the threshold for 5 %. The band holds the true rate with 95 %
# probability for that many calibration images, the diagonal is what was asked for. At large rates
# these parts get somewhat fewer false alarms than that; in-sample scores flag most of them.
asked = np.linspace(0.01, 0.2, 39)
p_values = calibrator.p_value_of_scores(new)
honest = [np.mean(p_values <= rate) for rate in asked]
naive = [np.mean(new > np.quantile(in_sample, 1 - rate)) for rate in asked]
band = np.array(
    [
        ThresholdCalibrator(quantile=1 - rate)
        .fit(out_of_sample[:, None])
        .false_positive_rate_interval_
        for rate in asked
    ]
)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
bins = np.linspace(min(in_sample.min(), new.min()), np.quantile(new, 0.995), 28)
for scores, name, color in (
    (in_sample, "training parts, in sample", "tab:red"),
    (out_of_sample, "training parts, out of sample", "tab:blue"),
    (new, "new good parts", "black"),
):
    left.hist(scores, bins, density=True, histtype="step", linewidth=2, color=color, label=name)
left.axvline(calibrator.threshold_, ymax=0.66, color="tab:blue", linestyle="--")
left.axvline(np.quantile(in_sample, 0.95), ymax=0.66, color="tab:red", linestyle="--")
left.set(xlabel="anomaly score", ylabel="density", title="Scores, and thresholds for 5 %")
left.set_ylim(top=1.5 * left.get_ylim()[1])
left.legend(loc="upper right")

right.plot(asked, asked, color="black", linewidth=1)
right.fill_between(asked, *band.T, color="tab:blue", alpha=0.2, linewidth=0)
right.plot(asked, honest, color="tab:blue", linewidth=2, label="out of sample")
right.plot(asked, naive, color="tab:red", linewidth=2, label="in sample")
right.set(xlabel="rate asked for", ylabel="rate on new good parts", title="False positives")
right.set(xlim=(0, 0.2), ylim=(0, 1))
right.set_xticks(np.arange(0, 0.21, 0.05))
right.xaxis.set_major_formatter("{x:.0%}")
right.yaxis.set_major_formatter("{x:.0%}")
right.legend(loc="upper left")
plt.show()
