"""A 12-pixel defect in 4096 x 4096 images: PatchCore in tiles against PatchCore on the whole.

    python benchmarks/tiling.py [--size 4096] [--train 3] [--test 4] [--contrast 40]

Images are a striped, noisy surface made on the spot; half of the test images have one square of
12 x 12 pixels that is brighter by ``contrast`` of 255 gray values. Both detectors use the
weight-free features at 256 x 256 pixels. Prints the scores, whether the map peaks at the defect,
and what it cost.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from pyimgano import ImageFormatNormalizer, PatchCoreDetector, TilingTransformer
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import score_with_maps
from pyimgano.testing import make_check_images

DEFECT = 12


def build(args: argparse.Namespace, *, tiled: bool):
    detector = PatchCoreDetector(
        FilterBankFeatures(resize=256), coreset_ratio=args.coreset_ratio if tiled else 0.1
    )
    if not tiled:
        return make_pipeline(ImageFormatNormalizer(), detector)
    return make_pipeline(ImageFormatNormalizer(), TilingTransformer(tile=256), detector)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--train", type=int, default=3)
    parser.add_argument("--test", type=int, default=4)
    parser.add_argument("--contrast", type=int, default=40)
    parser.add_argument("--coreset-ratio", type=float, default=0.002)
    args = parser.parse_args()

    rng = np.random.RandomState(0)
    size = (args.size, args.size)
    train = make_check_images(args.train, size=size, random_state=rng)
    test = make_check_images(args.test, size=size, random_state=rng)
    corners = []
    for image in test[args.test // 2 :]:
        top, left = rng.randint(0, args.size - DEFECT, size=2)
        spot = image[top : top + DEFECT, left : left + DEFECT]
        spot[:] = np.minimum(spot.astype(int) + args.contrast, 255)
        corners.append((top, left))
    y = np.arange(args.test) >= args.test // 2

    for tiled in (False, True):
        pipe = build(args, tiled=tiled)
        start = time.perf_counter()
        pipe.fit(train)
        fit_s = time.perf_counter() - start
        start = time.perf_counter()
        scores = np.empty(args.test)
        found = 0
        for i in range(args.test):
            one, maps = score_with_maps(pipe, test[i : i + 1])
            scores[i] = one[0]
            if y[i]:
                row, column = np.unravel_index(maps[0].argmax(), size)
                top, left = corners[i - args.test // 2]
                found += abs(row - top) < 32 and abs(column - left) < 32
        seconds = (time.perf_counter() - start) / args.test
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{'tiles of 256' if tiled else 'whole image at 256'}: "
            f"good {np.round(scores[~y], 3)}, defective {np.round(scores[y], 3)}, "
            f"AUROC {roc_auc_score(y, scores):.3f}, map peaks at the defect in {found} of "
            f"{y.sum()}; fit {fit_s:.1f} s, {seconds:.2f} s per image, peak {peak:.2f} GiB"
        )


if __name__ == "__main__":
    main()
