"""Accuracy and cost of detectors on categories in MVTec AD's layout.

    python benchmarks/accuracy.py ROOT [CATEGORY ...] --features resnet18 --weights r18.pth

ROOT holds one folder per category. Prints a Markdown table: image AUROC, pixel AUROC over whole
images and inside the crop alone (as papers measure it), seconds to fit (features, coreset and
out-of-sample scores), milliseconds per test image from file to score and map, peak memory.
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from pyimgano.datasets import list_categories, load_folder, read_mask
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector
from pyimgano.features import FilterBankFeatures, TorchPatchFeatures


def build(args: argparse.Namespace, seed: int):
    patchcore = args.detector == "patchcore"
    if args.features == "filterbank":
        features = FilterBankFeatures()
    else:
        features = TorchPatchFeatures(
            args.features,
            layers=("layer2", "layer3") if patchcore else ("layer1", "layer2", "layer3"),
            pool=3 if patchcore else 1,
            weights=args.weights or "imagenet",
            resize=256,
            crop=224,
            precision=args.precision,
            device=args.device,
        )
    if patchcore:
        return PatchCoreDetector(
            features, coreset_ratio=args.coreset_ratio, random_state=seed, verbose=True
        )
    return PaDiMDetector(features, random_state=seed)


def measure(args: argparse.Namespace, category: str, seed: int) -> dict[str, float]:
    data = load_folder(args.root, category)
    detector = build(args, seed)
    start = time.perf_counter()
    detector.fit(data.X_train)
    fit_s = time.perf_counter() - start
    start = time.perf_counter()
    scores, maps = detector.score_and_map(data.X_test)
    ms = (time.perf_counter() - start) / len(scores) * 1e3
    masks = [read_mask(mask, m.shape) > 0 for mask, m in zip(data.masks_test, maps)]
    margin = 0 if args.features == "filterbank" else 16  # resize 256, crop 224
    inner = [np.s_[margin : m.shape[0] - margin, margin : m.shape[1] - margin] for m in maps]

    def pixels(cut):
        truth = np.concatenate([mask[c].ravel() for mask, c in zip(masks, cut)])
        values = np.concatenate([m[c].ravel() for m, c in zip(maps, cut)])
        return roc_auc_score(truth, values)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "image AUROC": roc_auc_score(data.y_test == -1, -scores),
        "pixel AUROC": pixels([np.s_[:, :]] * len(maps)),
        "pixel AUROC in crop": pixels(inner),
        "fit s": fit_s,
        "ms/image": ms,
        "peak MiB": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category", nargs="*")
    parser.add_argument("--detector", choices=["patchcore", "padim"], default="patchcore")
    parser.add_argument("--features", default="filterbank", help="filterbank or a backbone")
    parser.add_argument("--weights", help="state dict of the backbone")
    parser.add_argument("--coreset-ratio", type=float, default=0.1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    print(f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    header = None
    for category in args.category or list_categories(args.root):
        for seed in range(args.seeds):
            row = measure(args, category, seed)
            if header is None:
                header = ["category", "seed", *row]
                print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
            values = [f"{v:.4f}" if v <= 1 else f"{v:.1f}" for v in row.values()]
            print("| " + " | ".join([category, str(seed), *values]) + " |", flush=True)


if __name__ == "__main__":
    main()
