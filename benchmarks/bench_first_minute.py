"""What a first user waits for: import, main job with nothing compiled, large images in tiles.

    python benchmarks/bench_first_minute.py [import] [main-job] [tiles] [--before CHECKOUT] \
        [--repeats 3] [--threads 2]

Each measurement is a process of its own. ``import``: ``import pyimgano`` and the names that the
first example of README.md takes from it; compiled Python files (``.pyc``) exist. ``main-job``:
``pyimgano benchmark --dataset synthetic`` on the weight-free features (which it takes where the
extra ``imagenet`` is missing) with an empty folder of numba's compiled code, and once more with the
filled one. ``tiles``: PatchCore on the filter bank with ``max_bank_patches=50000``, fitted on 4
images of 3648 x 5472 pixels in 352 tiles of 512 pixels; everything is compiled before.
``--tile-shrink 2`` halves the sides of the images and takes a quarter of the bank.

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


def child_import() -> dict[str, object]:
    began = time.perf_counter()
    from pyimgano import (  # noqa: F401
        ImageFormatNormalizer,
        PatchCoreDetector,
        ThresholdCalibrator,
        anomaly_map,
    )

    # CPU time since the interpreter started, without that of its end.
    return {"wall s": time.perf_counter() - began, "CPU s": time.process_time()}


def child_main_job() -> dict[str, object]:
    from pyimgano.cli.benchmark import main

    model = [
        "--model",
        "vision_patchcore",
        "--features",
        "filterbank",
        "--set",
        "coreset_ratio=0.01",
    ]
    with tempfile.TemporaryDirectory() as folder:
        if main(["--dataset", "synthetic", *model, "--output-dir", folder]) != 0:
            raise SystemExit(1)
    return {}


def child_tiles(shrink: int) -> dict[str, object]:
    from sklearn.pipeline import make_pipeline

    from pyimgano import ImageFormatNormalizer, PatchCoreDetector, TilingTransformer
    from pyimgano.testing import make_check_images

    small = make_check_images(40, size=(256, 256))
    PatchCoreDetector("filterbank", coreset_ratio=0.2, max_bank_patches=4000).fit(small)
    images = make_check_images(4, size=(3648 // shrink, 5472 // shrink))
    detector = PatchCoreDetector("filterbank", max_bank_patches=50_000 // shrink**2)
    pipe = make_pipeline(ImageFormatNormalizer(), TilingTransformer(tile=512), detector)
    wall, cpu = time.perf_counter(), time.process_time()
    pipe.fit(images)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = hashlib.sha256(detector.bank_.tobytes() + detector.training_scores_.tobytes())
    return {"wall s": wall, "CPU s": cpu, "result": result.hexdigest()[:12]}


MEASUREMENTS = ("import", "main-job", "tiles")


def child(args: argparse.Namespace) -> dict[str, object]:
    if args.child == "tiles":
        return child_tiles(args.tile_shrink)
    return child_import() if args.child == "import" else child_main_job()


def measure(
    what: str, checkout: Path, compiled: Path, args: argparse.Namespace
) -> dict[str, object]:
    """Run one measurement in a process of its own."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= {
        "PYTHONPATH": str(checkout),
        "NUMBA_CACHE_DIR": str(compiled),
        "OMP_NUM_THREADS": str(args.threads),
    }
    command = [sys.executable, __file__, "--child", what, "--tile-shrink", str(args.tile_shrink)]
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=compiled, capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr.decode())
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
    parser.add_argument("--tile-shrink", type=int, default=1, help="sides of the large images")
    parser.add_argument("--child", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    if unknown := set(args.what) - set(MEASUREMENTS):
        known = ", ".join(MEASUREMENTS)
        parser.error(f"no such measurement: {', '.join(unknown)}; there are {known}")
    versions = {"this version": ROOT}
    if args.before:
        versions = {"before": args.before.resolve(), **versions}
    print("| measurement | version | wall s | CPU s | result |\n|---|---|---|---|---|", flush=True)
    for what in args.what or MEASUREMENTS:
        runs: dict[tuple[str, str], list[dict[str, object]]] = {}
        for _ in range(1 if what == "tiles" else args.repeats):
            for version, checkout in versions.items():
                with tempfile.TemporaryDirectory() as folder:
                    if what == "main-job":  # .pyc files are there after an installation
                        measure("import", checkout, Path(folder), args)
                    for which in ("once",) if what == "tiles" else ("first", "again"):
                        run = measure(what, checkout, Path(folder), args)
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
