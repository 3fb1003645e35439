"""Speed and agreement of AUPRO beside anomalib's, on the same maps.

    python benchmarks/bench_aupro.py [--images 150] [--size 256] [--runs 3]

Random smooth maps, two thirds of them with one to three defects. Needs anomalib in the same
environment; without it, ours alone are timed. Prints the CPU seconds of this process, on one
thread, from the first map to the value: the least of the runs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2  # after the variable
import numpy as np

from pyimgano.evaluation import AUPRO, PixelMetrics

cv2.setNumThreads(1)


def make_maps(n_images: int, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Anomaly maps and masks; the first third are of good images."""
    rng = np.random.RandomState(0)
    maps, masks = [], []
    for i in range(n_images):
        anomaly_map = cv2.GaussianBlur(rng.gamma(2, 1, (size, size)), (0, 0), 4)
        mask = np.zeros((size, size), np.uint8)
        if i >= n_images // 3:
            for _ in range(rng.randint(1, 4)):
                y, x = rng.randint(0, size * 6 // 7, 2)
                height, width = rng.randint(5, size // 6, 2)
                mask[y : y + height, x : x + width] = 1
            anomaly_map += 0.6 * rng.rand() * cv2.GaussianBlur(mask.astype(float), (0, 0), 6)
        maps.append(anomaly_map.astype(np.float32))
        masks.append(mask)
    return maps, masks


def timed(name: str, compute: Callable[[], object], n_runs: int) -> None:
    seconds = []
    for _ in range(n_runs):
        start = time.process_time()
        value = compute()
        seconds.append(time.process_time() - start)
    print(f"{name:34} {min(seconds):7.2f} s   {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    maps, masks = make_maps(args.images, args.size)

    def ours(metric: AUPRO | PixelMetrics) -> object:
        for anomaly_map, mask in zip(maps, masks):
            metric.update(anomaly_map, mask)
        return metric.compute()

    timed("AUPRO", lambda: ours(AUPRO()), args.runs)
    timed("four metrics in one pass", lambda: ours(PixelMetrics()), args.runs)
    try:
        import torch
        from anomalib.metrics.aupro import _AUPRO
    except ImportError as error:
        print(f"anomalib's is left out: {error}")
        return
    torch.set_num_threads(1)

    def theirs() -> float:
        metric = _AUPRO(fpr_limit=0.3)
        for anomaly_map, mask in zip(maps, masks):
            metric.update(torch.from_numpy(anomaly_map)[None], torch.from_numpy(mask)[None])
        return float(metric.compute())

    timed("anomalib's AUPRO", theirs, args.runs)


if __name__ == "__main__":
    main()
