"""AUROC on painted defects and on real ones: do both prefer the same settings?

    python benchmarks/synthetic_defects.py ROOT bottle256 screw256 --seeds 3

ROOT holds folders in MVTec's layout. Of each seed, 60 good training images are fitted on, and 48
defects are painted on 30 others. Good images of either comparison are new to the model: those 30,
and the good test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _figures import add_figures_option, record
from sklearn.metrics import roc_auc_score

from pyimgano import PatchCoreDetector
from pyimgano.datasets import load_folder
from pyimgano.detectors import PaDiMDetector
from pyimgano.features import FilterBankFeatures
from pyimgano.synthesis import DefectSynthesizer

N_FITTED, N_PAINTED_ON, N_DEFECTS = 60, 30, 48


def detectors() -> dict[str, Any]:
    found = {
        f"patchcore 5%/filterbank, {side} pixels": PatchCoreDetector(
            FilterBankFeatures(resize=side), coreset_ratio=0.05
        )
        for side in (64, 128, 192)
    }
    padim = PaDiMDetector(FilterBankFeatures(resize=64))
    return {"padim/filterbank, 64 pixels": padim, **found}


def auroc(good: np.ndarray, defective: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(good), len(defective)])
    return float(roc_auc_score(labels, -np.concatenate([good, defective])))


def measure(data: Any, seed: int) -> dict[str, dict[str, float]]:
    """Both figures of each detector."""
    order = np.random.default_rng(seed).permutation(len(data.X_train))
    fitted, kept = order[:N_FITTED], order[N_FITTED : N_FITTED + N_PAINTED_ON]
    held_out = list(data.X_train[kept])
    indices = np.arange(N_DEFECTS)
    painted = DefectSynthesizer(random_state=seed).synthesize(
        [held_out[i % N_PAINTED_ON] for i in indices], indices=indices
    )
    rows = {}
    for name, detector in detectors().items():
        detector.fit(data.X_train[fitted])
        tested = detector.score_samples(data.X_test)
        rows[name] = {
            "painted": auroc(
                detector.score_samples(held_out), detector.score_samples(painted.images)
            ),
            "real": auroc(tested[data.y_test == 1], tested[data.y_test == -1]),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    add_figures_option(parser)
    args = parser.parse_args()
    for category in args.category:
        data = load_folder(args.root / category)
        runs = [measure(data, seed) for seed in range(args.seeds)]
        for name in detectors():
            rows = [run[name] for run in runs]
            print(category, name, rows, flush=True)
            if args.figures is not None:
                record(args.figures, f"synthetic defects/{category}/{name}", rows)


if __name__ == "__main__":
    main()
