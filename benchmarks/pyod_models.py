"""scikit-learn's contract over PyOD's models in PyODDetector.

    python benchmarks/pyod_models.py [MODULE ...]

Prints a Markdown table: whether the model is accepted, whether rows are scored one at a time,
how many checks of check_estimator passed, which failed, and seconds taken. MODULE is the name of
a module of pyod.models, such as knn; by default all that run on a table without extras. Half an
hour for all of them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import time
import warnings

import numpy as np
from sklearn.utils.estimator_checks import check_estimator

from pyimgano.detectors import PyODDetector

# Module, class, parameters where the defaults do not fit the battery's small tables.
MODELS = [
    ("abod", "ABOD", {}),
    ("cblof", "CBLOF", {"n_clusters": 2, "alpha": 0.5, "beta": 2}),
    ("cd", "CD", {}),
    ("cof", "COF", {}),
    ("copod", "COPOD", {}),
    ("dif", "DIF", {"n_ensemble": 2, "n_estimators": 2}),
    ("ecod", "ECOD", {}),
    ("gmm", "GMM", {}),
    ("hbos", "HBOS", {}),
    ("hdbscan", "HDBSCAN", {}),
    ("iforest", "IForest", {"n_estimators": 10}),
    ("inne", "INNE", {"n_estimators": 20}),
    ("kde", "KDE", {}),
    ("knn", "KNN", {}),
    ("kpca", "KPCA", {}),
    ("lmdd", "LMDD", {}),
    ("loci", "LOCI", {}),
    ("loda", "LODA", {}),
    ("lof", "LOF", {}),
    ("lunar", "LUNAR", {"n_neighbors": 3, "n_epochs": 5}),
    ("mad", "MAD", {}),
    ("mcd", "MCD", {}),
    ("ocsvm", "OCSVM", {}),
    ("pca", "PCA", {}),
    ("qmcd", "QMCD", {}),
    ("rod", "ROD", {}),
    ("sampling", "Sampling", {"subset_size": 5}),
    ("sod", "SOD", {}),
    ("sos", "SOS", {}),
    ("auto_encoder", "AutoEncoder", {"epoch_num": 1, "batch_size": 4, "verbose": 0}),
    ("vae", "VAE", {"epoch_num": 1, "batch_size": 4, "verbose": 0}),
]


def measure(module: str, name: str, parameters: dict) -> str:
    start = time.perf_counter()
    try:
        model = getattr(importlib.import_module(f"pyod.models.{module}"), name)(**parameters)
    except ImportError as error:
        return f"| {name} | not installed | | {error} | |"
    rows = np.random.RandomState(0).normal(size=(60, 1 if name == "MAD" else 4))
    with contextlib.ExitStack() as quiet:
        quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
        quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
        quiet.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            detector = PyODDetector(model).fit(rows)
        except ValueError as error:
            return f"| {name} | refused | | {str(error)[:200]} | |"
        results = check_estimator(PyODDetector(model), on_fail=None)
    failed = sorted({r["check_name"] for r in results if r["status"] == "failed"})
    reasons = {str(r["exception"]).strip()[:120] for r in results if r["status"] == "failed"}
    passed = sum(r["status"] == "passed" for r in results)
    way = "one by one" if detector.one_by_one_ else "together"
    said = "; ".join([*failed, *sorted(reasons)[:2]]).replace("\n", " ")
    return f"| {name} | {way} | {passed} | {said} | {time.perf_counter() - start:.0f} |"


def main() -> None:
    wanted = sys.argv[1:]
    print("| model | rows scored | checks passed | failed or refused, and why | s |")
    print("|---|---|---|---|---|")
    for module, name, parameters in MODELS:
        if not wanted or module in wanted:
            print(measure(module, name, parameters), flush=True)


if __name__ == "__main__":
    main()
