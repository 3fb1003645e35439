"""Time ``pyimgano.load`` against ``joblib.load`` on saved pipelines of several kinds and sizes.

Both are called in turn in one process, with the files in the system's page cache. Times are
processor time of the calling thread, so that other processes count for little, and each is given
as the best and the median of many.

    OMP_NUM_THREADS=1 python benchmarks/bench_load.py
    OMP_NUM_THREADS=1 python benchmarks/bench_load.py --weights resnet18.pth --repeats 200
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyimgano
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector, PyODDetector
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures

BANK = (20_000, 384)


def pipelines(weights: Path | None) -> dict[str, Any]:
    """Fitted pipelines by name."""
    from pyod.models.ecod import ECOD
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN

    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, size=(30, 96, 96, 3)).astype(np.uint8)
    rows = rng.normal(size=(100, 20))
    steps = {"filter bank": FilterBankFeatures(resize=96)}
    if weights is not None:
        steps["ResNet-18"] = BackbonePatchFeatures("resnet18", weights=str(weights))
    found = {}
    for name, step in steps.items():
        for short, detector in (("PatchCore 1 %", PatchCoreDetector()), ("PaDiM", PaDiMDetector())):
            model = make_pipeline(step, ThresholdCalibrator(detector, quantile=0.9))
            found[f"{short}, {name}"] = model.fit(images)
    two = [("bank", PatchCoreDetector()), ("gauss", PaDiMDetector())]
    on_rows = {
        "ensemble of two": ScoreEnsemble(two),
        "ECOD": PyODDetector(ECOD()),
        "KNN": PyODDetector(KNN()),
        "IForest": PyODDetector(IForest()),
    }
    for name, detector in on_rows.items():
        calibrator = ThresholdCalibrator(detector, quantile=0.9)
        found[name] = make_pipeline(StandardScaler(), calibrator).fit(rows)
    # Fitting a bank of this size takes minutes; searching is what makes its file large.
    large = PatchCoreDetector(coreset_ratio=1.0).fit(rng.normal(size=(200, BANK[1])))
    bank = rng.normal(size=BANK).astype(np.float32)
    large._search = type(large._search)(bank, np.arange(len(bank)) % 200)
    large._bank_weight = np.ones(len(bank))
    found[f"bank of {BANK[0]} x {BANK[1]}"] = large
    return found


def times(path: Path, repeats: int) -> np.ndarray:
    """Milliseconds of joblib's load and of ours, one row each."""
    found = np.empty((2, repeats))
    for i in range(repeats):
        for j, load in enumerate((joblib.load, pyimgano.load)):
            start = time.thread_time()
            load(path)
            found[j, i] = time.thread_time() - start
    return 1000 * found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--weights", type=Path, help="of a ResNet-18: with its features as well")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("best/median in ms               size     joblib.load    pyimgano.load   ratio")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in pipelines(options.weights).items():
            path = pyimgano.save(model, Path(folder) / "model.joblib")
            found = times(path, options.repeats)
            best, median = found.min(axis=1), np.median(found, axis=1)
            print(
                f"{name:27}{path.stat().st_size / 1e6:6.2f} MB"
                + "".join(f"{best[j]:8.2f} /{median[j]:6.2f}" for j in (0, 1))
                + f"{best[1] / best[0]:7.2f} /{median[1] / median[0]:5.2f}"
            )


if __name__ == "__main__":
    main()
