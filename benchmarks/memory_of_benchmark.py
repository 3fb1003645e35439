"""Compare the peak memory of benchmarks of a few and of very many test images.

Small pictures are generated, a third of them with a defect and a mask, and listed in manifests
that have the same training images. ``pyimgano benchmark`` runs on each of them in a process of its
own, whose peak memory is reported::

    python benchmarks/memory_of_benchmark.py --images 1000 100000

The exit status is 1 if the last run needs more than 1.5 times as much memory as the first one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

SIDE = 32
N_TRAIN = 20
MOST = 1.5


def main() -> int:
    """Run the experiment; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", metavar="N", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--folder", help="where the pictures go (default: a temporary folder)")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # also into a file
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = make_pictures(Path(folder), max(options.images))
        peaks = []
        for n in options.images:
            manifest = Path(folder) / f"{n}.csv"
            with manifest.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("path", "split", "label", "mask", "kind"))
                writer.writerows(rows[: N_TRAIN + n])
            peak, seconds, report = measure(manifest, Path(folder) / f"runs-{n}")
            peaks.append(peak)
            row = report["categories"][str(n)]
            print(
                f"{n:>7} test images: peak {peak / 1e6:.0f} MB, {peak / peaks[0]:.2f} times that "
                f"of {options.images[0]}; {seconds:.0f} s; image AUROC {row['image_auroc']:.4f}, "
                f"pixel AUROC {row['pixel_auroc']:.4f}, AUPRO {row['aupro']:.4f}"
            )
    return int(peaks[-1] > MOST * peaks[0])


def make_pictures(folder: Path, n_test: int) -> list[tuple[str, ...]]:
    """Write pictures of noise, some with a bright spot; return their lines of a manifest."""
    rng = np.random.RandomState(0)
    rows = []
    started = time.perf_counter()
    for i in range(N_TRAIN + n_test):
        picture = rng.randint(90, 130, (SIDE, SIDE, 3), np.uint8)
        name, mask_name, part = f"images/{i // 1000:03d}/{i:06d}.png", "", "train"
        if i % 1000 == 0:
            for kind in ("images", "masks"):
                (folder / kind / f"{i // 1000:03d}").mkdir(parents=True)
        if i >= N_TRAIN:
            part = "test"
            if i % 3 == 0:
                mask = np.zeros((SIDE, SIDE), np.uint8)
                x, y = rng.randint(4, SIDE - 4, 2)
                cv2.circle(mask, (int(x), int(y)), int(rng.randint(2, 5)), 255, -1)
                picture[mask > 0] += np.uint8(rng.randint(5, 60))
                mask_name = name.replace("images", "masks")
                cv2.imwrite(str(folder / mask_name), mask)
        cv2.imwrite(str(folder / name), picture)
        label, kind = ("-1", "spot") if mask_name else ("1", "good")
        rows.append((name, part, label, mask_name, kind))
    print(f"{len(rows)} pictures made in {time.perf_counter() - started:.0f} s")
    return rows


def measure(manifest: Path, output: Path) -> tuple[int, float, dict]:
    """Run the command; return its peak memory in bytes, its time, and its report."""
    command = [
        *(sys.executable, "-m", "pyimgano", "benchmark", "--dataset", "manifest"),
        *("--root", str(manifest), "--model", "industrial-fast-filterbank"),
        *("--resize", str(SIDE), "--quantile", "0.9", "--output-dir", str(output)),
    ]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit, time.perf_counter() - started, json.loads(text)


if __name__ == "__main__":
    sys.exit(main())
