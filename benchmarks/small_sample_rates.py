"""Realized false-positive rates of thresholds from few images, with features learned from them.

    python benchmarks/small_sample_rates.py ROOT CATEGORY --resize 96 --n-images 8 15 30 60
    python benchmarks/small_sample_rates.py --noise 48 --resize 48 --n-images 24

Each detector is fitted on ``n`` good images drawn at random, with a filter bank whose metric is
learned from the very same images, and calibrated by its own out-of-sample scores. Good images that
were not drawn are judged. Prints a Markdown table: for each ``n`` and each rate asked for, the rate
that the calibrator states and the mean of the realized ones, and how long a fit takes.
``--noise SIZE`` takes images of independent pixels instead, as unlike each other as can be.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from _detectors import DETECTORS
from _figures import add_figures_option, record

from pyimgano import create_model
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import load_folder
from pyimgano.exceptions import TooFewImagesWarning
from pyimgano.features import FilterBankFeatures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?")
    parser.add_argument("category", nargs="?")
    parser.add_argument("--noise", type=int, metavar="SIZE")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=DETECTORS)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--n-images", type=int, nargs="+", default=[8, 15, 30, 60])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.2])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=60, help="judged in each draw")
    add_figures_option(parser)
    args = parser.parse_args()
    images = good_images(args)
    warnings.simplefilter("ignore", TooFewImagesWarning)
    rates = ["lowest", *args.rates]
    head = [r if r == "lowest" else f"{r:.0%}" for r in rates]
    print("| detector | n | " + " | ".join(f"{h}: stated | realized" for h in head) + " | fit, s |")
    print("|---|---:|" + "---:|---:|" * len(rates) + "---:|")
    for name in args.detectors:
        for n in args.n_images:
            results = [one_draw(name, images, n, seed, args) for seed in range(args.draws)]
            row = np.mean(results, axis=0)
            cells = [f"{100 * value:.1f} %" for value in row[:-1]]
            print(f"| {name} | {n} | {' | '.join(cells)} | {row[-1]:.2f} |", flush=True)
            if args.figures:
                names = [f"{h}: {kind}" for h in head for kind in ("stated", "realized")]
                where = f"noise{args.noise}" if args.noise else args.category
                key = f"small sample rates/{where}/{name} at {args.resize} pixels/{n} images"
                record(args.figures, key, [dict(zip(names, draw)) for draw in results])
            spread = np.std(results, axis=0)[1:-1:2]
            print(f"{name}, {n}: spread of realized rates {np.round(spread, 3)}", file=sys.stderr)


def good_images(args: argparse.Namespace) -> np.ndarray:
    """Good images, ``(n, height, width, 3)``."""
    if args.noise:
        shape = (max(args.n_images) + args.held_out, args.noise, args.noise, 3)
        return np.random.RandomState(0).randint(0, 256, size=shape).astype(np.uint8)
    data = load_folder(args.root, args.category)
    good = [data.X_train[i] for i in range(len(data.X_train))]
    good += [data.X_test[i] for i in np.flatnonzero(np.asarray(data.y_test) == 1)]
    return np.stack(good)


def one_draw(
    name: str, images: np.ndarray, n: int, seed: int, args: argparse.Namespace
) -> list[float]:
    """Stated and realized rate for each rate asked for, and the seconds of the fit."""
    order = np.random.RandomState(seed).permutation(len(images))
    detector = create_model(f"vision_{name}", features=FilterBankFeatures(args.resize))
    start = time.perf_counter()
    detector.fit(images[order[:n]])
    seconds = time.perf_counter() - start
    scores = -detector.score_samples(images[order[n : n + args.held_out]])
    found: list[float] = []
    for rate in (1 / (n + 1), *args.rates):
        calibrator = ThresholdCalibrator(quantile=1 - rate).fit(detector.training_scores_[:, None])
        found.append(calibrator.expected_false_positive_rate_)
        found.append(float(np.mean(scores > calibrator.threshold_)))
    return [*found, seconds]


if __name__ == "__main__":
    main()
