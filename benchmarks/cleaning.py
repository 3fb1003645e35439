"""Ranks of defective images that were mixed into a folder of good ones.

    python benchmarks/cleaning.py ROOT bottle256 --features resnet18 --weights FILE --draws 10

For each draw some defective test images join all good training images, and the ranks that
``MutualScoringDetector`` gives them are printed; the kinds of defects take turns, so that each is
there. Features are computed once. A draw of 214 images, 256 pixels each, takes about two minutes of
one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _figures import add_figures_option, record

from pyimgano.cleaning import rank_suspects
from pyimgano.detectors import MutualScoringDetector
from pyimgano.features import make_features
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageSequence


def draws(kinds: np.ndarray, n_draws: int, n_defects: int) -> Iterator[np.ndarray]:
    """Indices of defective images, the kinds in turn."""
    rng = np.random.RandomState(0)
    for _ in range(n_draws):
        pools = [rng.permutation(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)]
        rng.shuffle(pools)
        yield np.array([pools[k % len(pools)][k // len(pools)] for k in range(n_defects)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("categories", nargs="+")
    parser.add_argument("--features", default="filterbank")
    parser.add_argument("--weights")
    parser.add_argument("--resize", type=int)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--defects", type=int, default=5)
    add_figures_option(parser)
    args = parser.parse_args()
    chosen = {"weights": args.weights, "resize": args.resize}
    step = make_features(args.features, pool=1).set_params(
        **{name: value for name, value in chosen.items() if value is not None}
    )
    for category in args.categories:
        folder = args.root / category
        good = ImageSequence.from_folder(folder / "train" / "good")
        paths = [p for p in sorted(folder.glob("test/*/*")) if p.parent.name != "good"]
        bad = ImageSequence([str(path) for path in paths])
        grids = step.fit(good).transform(good), step.transform(bad)
        rows = []
        for chosen_ones in draws(
            np.array([path.parent.name for path in paths]), args.draws, args.defects
        ):
            mixed = PatchGrids.concatenate([grids[0], grids[1][chosen_ones]])
            start = time.process_time()
            ranked = rank_suspects(MutualScoringDetector().fit(mixed).training_scores_)
            seconds = time.process_time() - start
            ranks = [k for k, one in enumerate(ranked, start=1) if one.index >= len(good)]
            names = ", ".join(f"{paths[i].parent.name}/{paths[i].stem}" for i in chosen_ones)
            print(f"{category}: ranks {ranks} of {len(ranked)} ({names}), {seconds:.0f} s")
            flagged = sum(one.suspicious and one.index < len(good) for one in ranked)
            rows.append(
                {
                    "last rank": ranks[-1],
                    "all within first 8": float(ranks[-1] <= 8),
                    "good images that stand out": flagged / len(good),
                    "seconds": seconds,
                }
            )
        if args.figures:
            record(args.figures, f"cleaning/{category}/{args.features}", rows)


if __name__ == "__main__":
    main()
