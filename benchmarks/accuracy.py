"""Accuracy and cost of detectors on categories in MVTec AD's layout.

    python benchmarks/accuracy.py ROOT [CATEGORY ...] --features resnet18 --weights r18.pth
    python benchmarks/accuracy.py ROOT [CATEGORY ...] --detector anomalydino \
        --features timm:vit_tiny_patch16_224 --weights vit.pth --resize 224

ROOT holds one folder per category. Prints a Markdown table: image AUROC, pixel AUROC over whole
images and inside the crop alone (as papers measure it), seconds to fit (features, coreset and
out-of-sample scores), milliseconds per test image from file to score and map, peak memory.

``--noise 0.1`` adds a tenth of the defective test images, chosen at random, to the training images
as if they were good. They stay in the test set: a detector recognizes images it was trained on and
scores them as if it had not seen them. ``--no-overlap`` takes them out of it.
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
from _detectors import add_options, make_detector, setting
from _figures import add_figures_option, record
from sklearn.metrics import roc_auc_score

from pyimgano.datasets import list_categories, load_folder, read_mask

AREAS = ("image AUROC", "pixel AUROC", "pixel AUROC in crop")  # what does not depend on the machine


def split(args: argparse.Namespace, category: str, seed: int):
    """Training images, test images, which of these are defective, and their masks."""
    data = load_folder(args.root, category)
    n_train = len(data.X_train)
    defective = n_train + np.flatnonzero(data.y_test == -1)
    n_noise = round(args.noise * len(defective))
    noise = np.random.RandomState(seed).choice(defective, n_noise, replace=False)
    train = np.concatenate([np.arange(n_train), noise])
    test = np.arange(n_train, len(data.data))
    if args.no_overlap:
        test = np.setdiff1d(test, noise)
    if n_noise:
        where = "not in the test set" if args.no_overlap else "in the test set as well (overlap)"
        print(
            f"{category}: {n_noise} of {len(defective)} defective test images are among the "
            f"{len(train)} training images, {where}",
            file=sys.stderr,
        )
    return data.data[train], data.data[test], data.target[test] == -1, [data.masks[i] for i in test]


def measure(args: argparse.Namespace, category: str, seed: int) -> dict[str, float]:
    train, test, defective, masks = split(args, category, seed)
    detector = make_detector(args, coreset_ratio=args.coreset_ratio, random_state=seed)
    start = time.perf_counter()
    detector.fit(train)
    fit_s = time.perf_counter() - start
    start = time.perf_counter()
    scores, maps = detector.score_and_map(test)
    ms = (time.perf_counter() - start) / len(scores) * 1e3
    truth = [read_mask(mask, m.shape) > 0 for mask, m in zip(masks, maps)]
    step = detector.features_
    crop = getattr(step, "crop", None)
    rim = (1 - crop / step.resize) / 2 if crop else 0  # share of a side that the network misses

    def pixels(rim):
        cuts = [tuple(slice(round(n * rim), n - round(n * rim)) for n in m.shape) for m in maps]
        return roc_auc_score(
            np.concatenate([one[cut].ravel() for one, cut in zip(truth, cuts)]),
            np.concatenate([one[cut].ravel() for one, cut in zip(maps, cuts)]),
        )

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "image AUROC": roc_auc_score(defective, -scores),
        "pixel AUROC": pixels(0),
        "pixel AUROC in crop": pixels(rim),
        "fit s": fit_s,
        "ms/image": ms,
        "peak MiB": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category", nargs="*")
    add_options(parser)
    parser.add_argument("--coreset-ratio", type=float, help="default: the detector's")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="share of the defective test images to train on"
    )
    parser.add_argument(
        "--no-overlap", action="store_true", help="take the noise out of the test set"
    )
    parser.add_argument("--seeds", type=int, default=1)
    add_figures_option(parser)
    args = parser.parse_args()
    print(f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    header = None
    for category in args.category or list_categories(args.root):
        rows = []
        for seed in range(args.seeds):
            row = measure(args, category, seed)
            rows.append({name: row[name] for name in AREAS})
            if header is None:
                header = ["category", "seed", *row]
                print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
            values = [f"{v:.4f}" if v <= 1 else f"{v:.1f}" for v in row.values()]
            print("| " + " | ".join([category, str(seed), *values]) + " |", flush=True)
            if args.figures:
                key = f"accuracy/{category}/{setting(args, coreset_ratio=args.coreset_ratio)}"
                if args.noise:
                    key += f"/noise {args.noise:.0%}" + ", no overlap" * args.no_overlap
                record(args.figures, key, rows)


if __name__ == "__main__":
    main()
