"""Defects found as regions: good images that have any, and defects that a region overlaps.

    python benchmarks/defect_regions.py ROOT CATEGORY --features resnet18 --weights r18.pth

Detectors and features are chosen as for ``accuracy.py``. Fits the detector on the good training
images and compares a plain pixel threshold with the preset of ``DefectExtractor``, at two
thresholds: the one that ``PixelThresholdCalibrator`` puts by the training images alone, and the one
at which regions remain in at most the same share of the good *test* images, which is how the maps
compare, and could not be had without these. Prints a Markdown table: the share of good test images
with any region, the share of defective ones with a region that overlaps the mask, and of the pixels
the shares of regions that are defective and of defects that are covered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _detectors import add_options, make_detector, setting
from _figures import add_figures_option, record
from sklearn.frozen import FrozenEstimator

from pyimgano.calibration import PixelThresholdCalibrator
from pyimgano.datasets import load_folder, read_mask
from pyimgano.defects import DefectExtractor, to_mask

HEADER = ("good images with a region", "defects overlapped", "precision", "recall")
EXTRACTORS = {"plain threshold": DefectExtractor(), "preset": DefectExtractor.from_preset()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    add_options(parser)
    parser.add_argument("--coreset-ratio", type=float)
    parser.add_argument("--rate", type=float, default=0.05, help="of good images with any region")
    add_figures_option(parser)
    args = parser.parse_args()

    data = load_folder(args.root, args.category)
    detector = make_detector(args, coreset_ratio=args.coreset_ratio).fit(data.X_train)
    maps = list(detector.anomaly_map(data.X_test))
    is_good = np.asarray(data.y_test) == 1
    good = [heat for heat, one in zip(maps, is_good) if one]
    bad = [heat for heat, one in zip(maps, is_good) if not one]
    masks = [
        read_mask(mask, heat.shape) > 0
        for mask, heat, one in zip(data.masks_test, maps, is_good)
        if not one
    ]

    print(f"| {args.category} | " + " | ".join(HEADER) + " |\n|---|" + "---|" * len(HEADER))
    for name, extractor in EXTRACTORS.items():
        # The maps of training images are those of a model that has not seen them.
        model = PixelThresholdCalibrator(
            FrozenEstimator(detector), extractor, quantile=1.0 - args.rate
        ).fit(data.X_train)
        fitted = model.extractor_
        report(args, f"{name}, by training images", fitted, good, bad, masks)
        fitted.threshold_ = lowest_threshold(fitted, good, args.rate)
        report(args, f"{name}, by good test images", fitted, good, bad, masks)


def lowest_threshold(extractor: DefectExtractor, good: list[np.ndarray], rate: float) -> float:
    """Lowest threshold at which at most that share of the images has a region."""
    scores = np.sort(extractor.region_scores(good))
    return float(scores[len(scores) - 1 - int(rate * len(scores))])


def report(
    args: argparse.Namespace,
    name: str,
    extractor: DefectExtractor,
    good: list[np.ndarray],
    bad: list[np.ndarray],
    masks: list[np.ndarray],
) -> None:
    found = [to_mask(extractor.extract(heat), heat.shape) > 0 for heat in bad]
    both = sum(int((one & mask).sum()) for one, mask in zip(found, masks))
    values = (
        np.mean([len(extractor.extract(heat)) > 0 for heat in good]),
        np.mean([(one & mask).any() for one, mask in zip(found, masks)]),
        both / max(1, sum(int(one.sum()) for one in found)),
        both / sum(int(mask.sum()) for mask in masks),
    )
    print(f"| {name} | " + " | ".join(f"{value:.1%}" for value in values) + " |", flush=True)
    if args.figures:
        key = f"defect regions/{args.category}/{setting(args, args.coreset_ratio)}/{name}"
        record(args.figures, key, [dict(zip(HEADER, map(float, values)))])


if __name__ == "__main__":
    main()
