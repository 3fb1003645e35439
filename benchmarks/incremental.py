"""Training images in parts, by ``partial_fit``, against all of them at once.

    python benchmarks/incremental.py ROOT CATEGORY --features resnet18 --weights r18.pth

Detectors and features are chosen as for ``accuracy.py``. In each split, 200 good training images
are drawn at random, and a detector is fitted on all of them, and another one on the first 40 and
then on 40 more at a time. Both score the test images and the training images that were not drawn.
Features are computed once for all splits. Prints a Markdown table of the means over all splits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _detectors import add_options, make_detector, setting
from _figures import add_figures_option, record
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import load_folder
from pyimgano.features import make_features
from pyimgano.grids import PatchGrids

_QUANTILE = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    add_options(parser)
    parser.add_argument("--coreset-ratio", type=float, help="default: the detector's")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--part", type=int, default=40)
    parser.add_argument("--splits", type=int, default=5)
    add_figures_option(parser)
    args = parser.parse_args()

    data = load_folder(args.root, args.category)
    step = make_features(make_detector(args).features)
    train = step.fit(data.X_train).transform(data.X_train)
    test = step.transform(data.X_test)
    rows = []
    for seed in range(args.splits):
        detector = make_detector(args, coreset_ratio=args.coreset_ratio, random_state=seed)
        order = np.random.RandomState(seed).permutation(len(train))
        good, unseen = train[order[: args.images]], train[order[args.images :]]
        rows.append(compare(detector, good, unseen, test, data.y_test == -1, args.part))
        print(seed, {name: round(float(value), 4) for name, value in rows[-1].items()}, flush=True)
        if args.figures:
            key = f"incremental/{args.category}/{setting(args, coreset_ratio=args.coreset_ratio)}"
            record(args.figures, key, rows)
    print("| | " + " | ".join(rows[0]) + " |\n|---|" + "---|" * len(rows[0]))
    means = [f"{np.mean([row[name] for row in rows]):.4f}" for name in rows[0]]
    print(f"| {args.detector} | " + " | ".join(means) + " |")


def compare(
    detector: object,
    good: PatchGrids,
    unseen: PatchGrids,
    test: PatchGrids,
    defective: np.ndarray,
    part: int,
) -> dict[str, float]:
    once, parts = clone(detector).fit(good), clone(detector)
    for start in range(0, len(good), part):
        parts.partial_fit(good[start : start + part])
    models = {"at once": once, "in parts": parts}
    found = {}
    scores = {name: -model.score_samples(test) for name, model in models.items()}
    new = {name: -model.score_samples(unseen) for name, model in models.items()}
    threshold = {
        name: ThresholdCalibrator(quantile=_QUANTILE).fit(model.training_scores_[:, None])
        for name, model in models.items()
    }
    for name in models:
        found[f"AUROC {name}"] = roc_auc_score(defective, scores[name])
    found["correlation"] = np.corrcoef(scores["at once"], scores["in parts"])[0, 1]
    own = [model.training_scores_ for model in models.values()]
    found["correlation of training scores"] = np.corrcoef(*own)[0, 1]
    first = np.mean(own[1][:part]) / np.mean(own[0][:part])
    found["first part's scores, off by"] = abs(first - 1)
    moved = threshold["in parts"].threshold_ / threshold["at once"].threshold_
    found["threshold, off by"] = abs(moved - 1)
    for name in models:
        above = new[name] > threshold[name].threshold_
        found[f"false positives {name}"] = np.mean(above)
    return found


if __name__ == "__main__":
    main()
