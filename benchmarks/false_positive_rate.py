"""Realized false-positive rates: does a threshold keep what it promises?

    python benchmarks/false_positive_rate.py ROOT CATEGORY --features resnet18 --weights r18.pth

Detectors and features are chosen as for ``accuracy.py``; several ``--coreset-ratio`` are compared.
Splits the good training images at random, fits and calibrates on one part, and counts how many of
the held-out ones are judged anomalous. Features are computed once for all splits, so this measures
the thresholds alone. Prints a Markdown table of the means over all splits, and each split's rates
on standard error.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from _detectors import add_options, make_detector, setting
from _figures import add_figures_option, record
from sklearn.model_selection import ShuffleSplit

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import load_folder
from pyimgano.exceptions import TooFewImagesWarning
from pyimgano.features import make_features

TARGETS = (0.1, 0.05, 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    add_options(parser)
    parser.add_argument(
        "--coreset-ratio", type=float, nargs="+", default=[None], help="default: the detector's"
    )
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--held-out", type=float, default=0.3)
    add_figures_option(parser)
    args = parser.parse_args()

    images = load_folder(args.root, args.category).X_train
    # A filter bank is learned once from all images here; in use, from the training images alone.
    step = make_features(make_detector(args).features)
    grids = step.fit(images).transform(images)
    warnings.simplefilter("ignore", TooFewImagesWarning)
    head = [f"at {t:.0%}" for t in TARGETS]
    print("| detector | " + " | ".join(head) + " | spread at 5% |\n|---|" + "---|" * 4)
    for ratio in args.coreset_ratio:
        detector = make_detector(args, coreset_ratio=ratio)
        name = args.detector if ratio is None else f"{args.detector} {ratio:.0%}"
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
            cells = ", ".join(f"{rate:.1%}" for rate in rates[-1])
            print(f"{name}, split {seed}: {cells}", file=sys.stderr, flush=True)
            if args.figures:
                key = f"false positive rate/{args.category}/{setting(args, coreset_ratio=ratio)}"
                record(args.figures, key, [dict(zip(head, row)) for row in rates])
        mean, spread = np.mean(rates, axis=0), np.std(rates, axis=0)[1]
        cells = [f"{m:.1%}" for m in mean]
        print(f"| {name} | " + " | ".join(cells) + f" | {spread:.1%} |", flush=True)


if __name__ == "__main__":
    main()
