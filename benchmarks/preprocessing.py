"""What preprocessing steps do to weight-free PatchCore: alignment, and light that changes.

    python benchmarks/preprocessing.py ROOT align [CATEGORY ...]
    python benchmarks/preprocessing.py ROOT light [CATEGORY ...]

ROOT holds one folder per category in MVTec AD's layout. ``align`` compares the images as they lie
with those that ``ImageAlignment`` has brought to a reference, from any direction. ``light`` trains
on the images as they are and tests on images under other light: each step against no step. Prints
a Markdown table with the mean over seeds of image AUROC (and its range), pixel AUROC, and the share
of good test images above the highest out-of-sample score of a training image.

An image that cannot be prepared is left out of training, counts as flagged in the image AUROC, and
has no part in the pixel AUROC; their number is in the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from pyimgano import PatchCoreDetector
from pyimgano.datasets import list_categories, load_folder, read_mask
from pyimgano.exceptions import SampleError
from pyimgano.preprocessing import (
    CLAHE,
    BackgroundFlattening,
    ContrastStretch,
    HomomorphicFilter,
    ImageAlignment,
    WhiteBalance,
)
from pyimgano.robustness import Corruption

ALIGNMENTS = {"none": [], "ImageAlignment(n_directions=36)": [ImageAlignment(n_directions=36)]}
LIGHT_STEPS = {
    "none": [],
    "WhiteBalance()": [WhiteBalance()],
    "CLAHE()": [CLAHE()],
    "ContrastStretch()": [ContrastStretch()],
    "HomomorphicFilter(low_gain=0)": [HomomorphicFilter(low_gain=0.0)],
    "BackgroundFlattening()": [BackgroundFlattening()],
    "BackgroundFlattening(level=150)": [BackgroundFlattening(level=150)],
}
LIGHTS = ("illumination_gradient", "brightness", "white_balance")


def prepare(before, images):
    """Prepared images, where they lie in those that came in, and which could be prepared."""
    prepared = before.transform(images)
    pixels, placements, usable = [], [], []
    for i in range(len(prepared)):
        try:
            pixels.append(prepared[i])
        except SampleError:
            continue
        placements.append(prepared.placement(i))
        usable.append(i)
    return pixels, placements, usable


def measure(detector, prepared, truth, masks):
    """Image and pixel AUROC, and the share of good images above all training scores."""
    test, placements, usable = prepared
    scores = np.full(len(truth), 1e30)  # one that cannot be prepared is flagged
    found, maps = detector.score_and_map(test)
    scores[usable] = -found
    rows = []
    for i, heat, placement in zip(usable, maps, placements):
        heat = heat if placement is None else placement.put_back(heat)
        rows.append((read_mask(masks[i], heat.shape).ravel() > 0, heat.ravel()))
    pixels = [np.concatenate(column) for column in zip(*rows)]
    flagged = (scores[~truth] > detector.training_scores_.max()).mean()
    return [roc_auc_score(truth, scores), roc_auc_score(*pixels), flagged]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("what", choices=["align", "light"])
    parser.add_argument("category", nargs="*")
    parser.add_argument("--severity", type=int, default=3, help="of the changes of light")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-train", type=int, help="training images, the first ones by name")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th test image")
    args = parser.parse_args()
    lights = {"as they are": None}
    if args.what == "light":
        lights.update((kind, Corruption(kind, args.severity)) for kind in LIGHTS)
    print("| category | step | test images | image AUROC | pixel AUROC | good flagged | left out |")
    print("|---|---|---|---|---|---|---|")
    for category in args.category or list_categories(args.root):
        data = load_folder(args.root, category)
        train, chosen = data.X_train[: args.n_train], slice(None, None, args.every)
        test, truth = data.X_test[chosen], data.y_test[chosen] == -1
        masks = data.masks[len(data.X_train) :][chosen]
        for name, steps in (ALIGNMENTS if args.what == "align" else LIGHT_STEPS).items():
            before = make_pipeline("passthrough", *steps).fit(train)
            learned_from = prepare(before, train)[0]
            seen = {
                light: prepare(before, test if kind is None else kind.fit_transform(test))
                for light, kind in lights.items()
            }
            rows = {light: [] for light in lights}
            for seed in range(args.seeds):
                detector = PatchCoreDetector("filterbank", coreset_ratio=0.01, random_state=seed)
                detector.fit(learned_from)
                for light, prepared in seen.items():
                    rows[light].append(measure(detector, prepared, truth, masks))
            for light, values in rows.items():
                n_lost = len(train) - len(learned_from) + len(test) - len(seen[light][0])
                cells = [f"{value:.3f}" for value in np.mean(values, axis=0)]
                if args.seeds > 1:
                    low, high = (pick(row[0] for row in values) for pick in (min, max))
                    cells[0] += f" ({low:.3f} to {high:.3f})"
                print(f"| {category} | `{name}` | {light} | {' | '.join(cells)} | {n_lost} |")
                print(end="", flush=True)


if __name__ == "__main__":
    main()
