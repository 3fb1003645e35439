"""Realized false-positive rates of PyOD's models of the registry, calibrated on few images.

    python benchmarks/pyod_rates.py ROOT CATEGORY --resize 96 --n-images 8 15 30 60

A filter bank is fitted on good images kept apart, and each other good image becomes one row: the
maximum of each feature over its patches, as the registry's models have it. Each model is fitted
on the rows of ``n`` images drawn at random and calibrated by its own out-of-sample scores; rows
that were not drawn are judged. Prints a Markdown table: for each ``n`` and each rate asked for,
the rate that the calibrator states and the mean of the realized ones, and the milliseconds that
one row takes to score.

``--learned`` fits the whole pipeline on the ``n`` images instead, the filter bank included, so
that the calibrator has to take folds; that takes long. ``--ensemble false`` scores with the model
of all rows. A model that refuses so few rows has its reason in the row.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from small_sample_rates import good_images

from pyimgano import create_model
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.features import FilterBankFeatures, PatchPooling
from pyimgano.registry import list_models

MODELS = [name.removeprefix("vision_") for name in list_models(tags="pyod")]
# Good images that the filter bank is fitted on.
KEPT_APART = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--n-images", type=int, nargs="+", default=[8, 15, 30, 60])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.2])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=60, help="judged in each draw")
    parser.add_argument("--learned", action="store_true")
    parser.add_argument("--ensemble", choices=["auto", "true", "false"], default="auto")
    parser.set_defaults(noise=None)
    args = parser.parse_args()
    samples: Any = good_images(args)
    if not args.learned:
        order = np.random.RandomState(99).permutation(len(samples))
        bank = FilterBankFeatures(args.resize).fit(samples[order[:KEPT_APART]])
        grids = bank.transform(samples[order[KEPT_APART:]])
        samples = np.asarray(PatchPooling("max").fit_transform(grids))
    warnings.simplefilter("ignore", TooFewImagesWarning)
    warnings.simplefilter("ignore", RuntimeWarning)  # of singular covariances, inside scikit-learn
    head = ["lowest", *(f"{rate:.0%}" for rate in args.rates)]
    print("| model | n | " + " | ".join(f"{h}: stated | realized" for h in head) + " | ms |")
    print("|---|---:|" + "---:|---:|" * len(head) + "---:|")
    for name in args.models:
        for n in args.n_images:
            try:
                results = [one_draw(name, samples, n, seed, args) for seed in range(args.draws)]
            except TooFewImagesError as error:
                print(f"| {name} | {n} | {error} |" + " |" * (2 * len(head)), flush=True)
                continue
            row = np.mean(results, axis=0)
            cells = [f"{100 * value:.1f} %" for value in row[:-1]]
            print(f"| {name} | {n} | {' | '.join(cells)} | {row[-1]:.1f} |", flush=True)
            spread = np.std(results, axis=0)[1:-1:2]
            print(f"{name}, {n}: spread of realized rates {np.round(spread, 3)}", file=sys.stderr)


def one_draw(name: str, samples: Any, n: int, seed: int, args: argparse.Namespace) -> list[float]:
    """Stated and realized rate for each rate asked for, and milliseconds to score a sample."""
    order = np.random.RandomState(seed).permutation(len(samples))
    ensemble = {"auto": "auto", "true": True, "false": False}[args.ensemble]
    model = create_model(f"vision_{name}", features=FilterBankFeatures(args.resize))
    detector = model if args.learned else model[-1]
    detector.set_params(**{("detector__ensemble" if args.learned else "ensemble"): ensemble})
    calibrator = ThresholdCalibrator(
        detector, quantile=0.5, ensemble=ensemble if args.learned else "auto"
    ).fit(samples[order[:n]])
    start = time.perf_counter()
    scores = -calibrator.score_samples(samples[order[n : n + args.held_out]])
    each = 1000 * (time.perf_counter() - start) / len(scores)
    found: list[float] = []
    for rate in (1 / (n + 1), *args.rates):
        threshold = ThresholdCalibrator(quantile=1 - rate)
        threshold.fit(calibrator.calibration_scores_[:, None])
        found.append(threshold.expected_false_positive_rate_)
        found.append(float(np.mean(scores > threshold.threshold_)))
    return [*found, each]


if __name__ == "__main__":
    main()
