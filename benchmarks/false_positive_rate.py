"""Realised false-positive rates: does a threshold keep what it promises?

    python benchmarks/false_positive_rate.py ROOT CATEGORY --features resnet18 --weights r18.pth

Splits the good training images at random, fits and calibrates on one part, and counts how many of
the held-out ones are judged anomalous. Features are computed once for all splits, so this measures
the thresholds alone. Prints a Markdown table of the means over all splits.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.model_selection import ShuffleSplit

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import load_folder
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector
from pyimgano.exceptions import TooFewImagesWarning
from pyimgano.features import FilterBankFeatures, TorchPatchFeatures

TARGETS = (0.1, 0.05, 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    parser.add_argument("--detector", choices=["patchcore", "padim"], default="patchcore")
    parser.add_argument("--features", default="filterbank", help="filterbank or a backbone")
    parser.add_argument("--weights", help="state dict of the backbone")
    parser.add_argument("--coreset-ratio", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--held-out", type=float, default=0.3)
    args = parser.parse_args()

    images = load_folder(args.root, args.category).X_train
    if args.features == "filterbank":
        # Learned once from all images here; in use, from the training images alone.
        step = FilterBankFeatures()
    else:
        layers = ("layer2", "layer3") if args.detector == "patchcore" else None
        step = TorchPatchFeatures(
            args.features,
            layers=layers or ("layer1", "layer2", "layer3"),
            pool=3 if layers else 1,
            weights=args.weights or "imagenet",
        )
    grids = step.fit(images).transform(images)
    warnings.simplefilter("ignore", TooFewImagesWarning)
    head = [f"at {t:.0%}" for t in TARGETS]
    print("| detector | " + " | ".join(head) + " | spread at 5% |\n|---|" + "---|" * 4)
    detectors = (
        [(f"PatchCore {r:.0%}", PatchCoreDetector(coreset_ratio=r)) for r in args.coreset_ratio]
        if args.detector == "patchcore"
        else [("PaDiM", PaDiMDetector())]
    )
    for name, detector in detectors:
        rates = []
        splits = ShuffleSplit(args.splits, test_size=args.held_out, random_state=0)
        for seed, (train, test) in enumerate(splits.split(grids)):
            detector.set_params(random_state=seed).fit(grids[train])
            scores = -detector.score_samples(grids[test])
            column = detector.training_scores_[:, None]
            rates.append(
                [
                    np.mean(scores > ThresholdCalibrator(quantile=1 - t).fit(column).threshold_)
                    for t in TARGETS
                ]
            )
        mean, spread = np.mean(rates, axis=0), np.std(rates, axis=0)[1]
        cells = [f"{m:.1%}" for m in mean]
        print(f"| {name} | " + " | ".join(cells) + f" | {spread:.1%} |", flush=True)


if __name__ == "__main__":
    main()
