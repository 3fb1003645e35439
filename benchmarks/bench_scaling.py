"""Growth of PatchCore's fit with the number of training images, with and without a largest bank.

    python benchmarks/bench_scaling.py [--images 100 320 1000] [--max-bank-patches 8000] \
        [--backbone resnet18 --weights r18.pth]

Training images are procedural screws, written as PNG files before anything is measured. For each
number of images, in processes of their own, the bank is chosen with all patches at hand
(``coreset_ratio`` set so that it has as many patches) and while the images stream by
(``max_bank_patches``). Prints a Markdown table: CPU seconds and peak memory of the fit (above what
the process needs to start and load the network), milliseconds per image scored, the coverage
radius, and the median out-of-sample score. ``--exact-up-to`` bounds the first of the two.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pyimgano.datasets import write_inspection_dataset
from pyimgano.detectors import PatchCoreDetector
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures


def peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss starts with the peak of the process that forked
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def cpu_s() -> float:
    return time.process_time()


def child(args: argparse.Namespace) -> None:
    if args.backbone == "filterbank":
        features = FilterBankFeatures(resize=256)
    else:
        features = BackbonePatchFeatures(
            args.backbone, weights=args.weights, resize=256, crop=224, random_state=0
        )
    every = sorted(str(path) for path in Path(args.folder, "train", "good").iterdir())
    train, new = every[: args.n], every[-20:]
    # The first fit loads the network and compiles what has to be compiled.
    small = PatchCoreDetector(features, coreset_ratio=0.01, max_bank_patches=10).fit(train[:4])
    n_patches = len(small.features_.transform(train[:1]).rows) * args.n
    before, began = peak_mib(), cpu_s()
    detector = PatchCoreDetector(
        features,
        coreset_ratio=min(1.0, args.bank / n_patches),
        max_bank_patches=args.bank if args.streamed else None,
    ).fit(train)
    fitted = cpu_s()
    scores = detector.score_samples(new)
    assert np.isfinite(scores).all()
    print(
        json.dumps(
            {
                "bank": len(detector.bank_),
                "fit CPU s": fitted - began,
                "peak MiB": peak_mib(),
                "of it by fitting": peak_mib() - before,
                "CPU ms/image": (cpu_s() - fitted) / len(new) * 1e3,
                "radius": detector.coreset_radius_,
                "median score": float(np.median(detector.training_scores_)),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100, 320, 1000])
    parser.add_argument("--max-bank-patches", dest="bank", type=int, default=8000)
    parser.add_argument("--exact-up-to", type=int, default=1000, help="images")
    parser.add_argument("--backbone", default="filterbank", help="filterbank or a backbone")
    parser.add_argument("--weights", help="state dict of the backbone; random by default")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--streamed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        return child(args)
    header = None
    with tempfile.TemporaryDirectory() as folder:
        place = write_inspection_dataset(
            folder,
            "screw",
            n_train=max(args.images) + 20,
            n_test_good=0,
            n_test_defect=0,
            random_state=0,
        )
        command = [sys.executable, __file__, "--folder", str(place), "--backbone", args.backbone]
        command += ["--max-bank-patches", str(args.bank)]
        command += ["--weights", args.weights] if args.weights else []
        for n in args.images:
            for bank in ("exact", "streamed"):
                if bank == "exact" and n > args.exact_up_to:
                    continue
                extra = ["--n", str(n)] + ["--streamed"] * (bank == "streamed")
                done = subprocess.run(command + extra, stdout=subprocess.PIPE, check=True)
                row = json.loads(done.stdout)
                if header is None:
                    header = ["images", "selection", *row]
                    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
                cells = [f"{v:.3f}" if 0 < v < 10 else f"{v:.0f}" for v in row.values()]
                print("| " + " | ".join([str(n), bank, *cells]) + " |", flush=True)
    return None


if __name__ == "__main__":
    main()
