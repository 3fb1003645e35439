"""What a first user waits for: import, main job with nothing compiled, large images in tiles.

    python benchmarks/bench_first_minute.py [import] [main-job] [tiles] [--before CHECKOUT] \
        [--repeats 3] [--threads 2]

Each measurement is a process of its own. ``import``: ``import pyimgano`` and the names that the
first example of README.md takes from it; compiled Python files (``.pyc``) exist. ``main-job``:
``pyimgano benchmark --dataset synthetic`` with an empty folder of numba's compiled code, and once
more with the filled one. ``tiles``: PatchCore on the filter bank with ``max_bank_patches=50000``,
fitted on 4 images of 3648 x 5472 pixels in 352 tiles of 512 pixels; everything is compiled before.

With ``--before``, the root of a checkout of an earlier version, each measurement is made with that
one and with this one by turns. Prints wall time and CPU time (user and system) in seconds, the
least of the repetitions, and a checksum of bank and scores of the tiles: equal checksums are equal
results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TILES = {"n": 4, "size": (3648, 5472), "tile": 512, "max_bank_patches": 50_000}


def child_import() -> dict[str, object]:
    from pyimgano import (  # noqa: F401
        ImageFormatNormalizer,
        PatchCoreDetector,
        ThresholdCalibrator,
        anomaly_map,
    )

    return {}


def child_main_job() -> dict[str, object]:
    from pyimgano.cli.benchmark import main

    with tempfile.TemporaryDirectory() as folder:
        if main(["--dataset", "synthetic", "--output-dir", folder]) != 0:
            raise SystemExit(1)
    return {}


def child_tiles() -> dict[str, object]:
    from sklearn.pipeline import make_pipeline

    from pyimgano import ImageFormatNormalizer, PatchCoreDetector, TilingTransformer
    from pyimgano.testing import make_check_images

    small = make_check_images(40, size=(256, 256))
    PatchCoreDetector("filterbank", coreset_ratio=0.2, max_bank_patches=4000).fit(small)
    images = make_check_images(TILES["n"], size=TILES["size"])
    detector = PatchCoreDetector("filterbank", max_bank_patches=TILES["max_bank_patches"])
    pipe = make_pipeline(ImageFormatNormalizer(), TilingTransformer(tile=TILES["tile"]), detector)
    wall, cpu = time.perf_counter(), time.process_time()
    pipe.fit(images)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = hashlib.sha256(detector.bank_.tobytes() + detector.training_scores_.tobytes())
    return {"wall s": wall, "CPU s": cpu, "result": result.hexdigest()[:12]}


CHILDREN = {"import": child_import, "main-job": child_main_job, "tiles": child_tiles}


def measure(what: str, checkout: Path, compiled: Path, threads: int) -> dict[str, object]:
    """Run one measurement in a process of its own."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= {
        "PYTHONPATH": str(checkout),
        "PYTHONPYCACHEPREFIX": str(compiled / "python"),
        "NUMBA_CACHE_DIR": str(compiled / "numba"),
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, __file__, "--child", what]
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        command, env=environment, cwd=compiled, stdout=subprocess.PIPE, check=True
    )
    wall, after = time.perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user
    values = {"wall s": wall, "CPU s": cpu - before.children_system}
    return values | json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="import, main-job, tiles; default: all")
    parser.add_argument("--before", type=Path, help="root of a checkout of an earlier version")
    parser.add_argument("--repeats", type=int, default=3, help="of import and main job")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child]()))
        return
    if unknown := set(args.what) - set(CHILDREN):
        parser.error(f"no such measurement: {', '.join(unknown)}; there are {', '.join(CHILDREN)}")
    versions = {"this version": ROOT}
    if args.before:
        versions = {"before": args.before.resolve(), **versions}
    print("| measurement | version | wall s | CPU s | result |\n|---|---|---|---|---|", flush=True)
    for what in args.what or CHILDREN:
        runs: dict[tuple[str, str], list[dict[str, object]]] = {}
        for _ in range(1 if what == "tiles" else args.repeats):
            for version, checkout in versions.items():
                with tempfile.TemporaryDirectory() as folder:
                    passes = ["first", "again"]
                    if what == "tiles":
                        passes = ["once"]
                    for which in passes:
                        run = measure(what, checkout, Path(folder), args.threads)
                        runs.setdefault((which, version), []).append(run)
        for (which, version), values in runs.items():
            if what == "import" and which == "first":
                continue  # it also writes the .pyc files
            name = {"first": "nothing compiled", "again": "compiled", "once": "once"}[which]
            least = [min(run[key] for run in values) for key in ("wall s", "CPU s")]
            cells = [f"{what}, {name}", version, *(f"{value:.2f}" for value in least)]
            print("| " + " | ".join([*cells, values[0].get("result", "")]) + " |", flush=True)


if __name__ == "__main__":
    main()
