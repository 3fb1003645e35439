"""Engines of network features: time per image, and whether scores and verdicts are the same.

    python benchmarks/bench_engines.py time --weights r18.pth --batches 1 8 32
    python benchmarks/bench_engines.py time --features efficientnet_lite0 --batches 1 --cores 1
    python benchmarks/bench_engines.py scores ROOT bottle screw --weights r18.pth

``time``: the feature step, uint8 pixels of 224 x 224 to patch features. The engines take turns, so
that a busy machine slows all of them. Prints a Markdown table of milliseconds per image, wall and
processor time of all threads, minimum and median of the turns. ``bare onnxruntime`` runs the file
that the step has written in a session of its own, one image at a time, without what the step does
to its maps: averages of 3 x 3, and one grid of all layers. ``--network-alone`` leaves that out for
all engines.

``scores``: fits PatchCore once for each precision on categories in MVTec AD's layout, with the
engine that ``"auto"`` stands for where it has that precision, scores the test images by every
engine, and prints AUROC, the largest relative difference of scores, and the verdicts that differ.
The end-to-end time is from file to score.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from pyimgano.backbones._onnx import INPUT
from pyimgano.datasets import load_folder
from pyimgano.detectors import PatchCoreDetector
from pyimgano.features import BackbonePatchFeatures, ViTPatchFeatures
from pyimgano.utils._environment import environment
from pyimgano.utils._threads import limit_threads, one_blas_thread

SIZE = 224
ENGINES = (
    ("native", "float32"),
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
LAYERS = {
    "efficientnet_lite0": ("layer2", "layer1", "layer3"),
    "mobilenet_v2": ("features.6", "features.13"),
}


def make_step(args: argparse.Namespace, engine: str, precision: str, **options: object):
    weights = None if args.weights == "none" else args.weights
    options |= {"resize": SIZE, "precision": precision, "engine": engine, "device": "cpu"}
    if args.features.startswith(("timm:", "dinov2")):
        return ViTPatchFeatures(args.features, weights, **options)
    layers = LAYERS.get(args.features, ("layer2", "layer3"))
    return BackbonePatchFeatures(args.features, layers, weights, **options)


def runnable(args: argparse.Namespace) -> list[tuple[str, str]]:
    missing = "torch" if args.features == "efficientnet_lite0" else "native"
    if args.features.startswith(("resnet", "wide_resnet")):
        return list(ENGINES)
    return [one for one in ENGINES if one[0] != missing]


def clocked(function: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds on the wall and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def bare_onnxruntime(args: argparse.Namespace) -> Callable[[np.ndarray], object]:
    import onnxruntime

    model = make_step(args, "onnxruntime", "float32")._network().module._onnx((SIZE, SIZE))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    return lambda images: [session.run(None, {INPUT: one[None]}) for one in images]


def network_alone(
    step: BackbonePatchFeatures | ViTPatchFeatures, threads: int
) -> Callable[[np.ndarray], object]:
    network = step._network().module

    def run(images: np.ndarray) -> None:
        with network.settings, one_blas_thread:
            for image in images:
                network.maps(image, threads)

    return run


def measure_time(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(args.batches), SIZE, SIZE, 3), dtype=np.uint8)
    runs: dict[tuple[str, int], Callable[[np.ndarray], object]] = {}
    for engine, precision in runnable(args):
        for threads in args.threads_per_image:
            step = make_step(args, engine, precision, threads_per_image=threads)
            run = step.transform
            if args.network_alone:
                run = network_alone(step, threads)
            runs[f"{engine}, {precision}", threads] = run
    runs["bare onnxruntime, float32", 1] = bare_onnxruntime(args)
    print(f"{args.features}, {SIZE} x {SIZE}, {args.cores} cores, {environment()['cpu']}")
    print(
        "| engine | threads per image | images at a time | wall ms: min | median | "
        "processor ms: min | median |\n|---|---|---|---|---|---|---|"
    )
    with limit_threads(args.cores):
        for batch in args.batches:
            part = images[:batch]
            turns: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in runs}
            for run in runs.values():  # compiled, and in memory
                run(part)
                run(part)
            load = os.getloadavg()[0]
            for _ in range(max(args.turns // batch, 5)):
                for key, run in runs.items():
                    turns[key].append(clocked(lambda run=run, part=part: run(part)))
            for (name, threads), values in turns.items():
                each = np.array(values) / batch
                shown = [each[:, 0].min(), np.median(each[:, 0])]
                shown += [each[:, 1].min(), np.median(each[:, 1])]
                cells = [name, str(threads), str(batch), *(f"{one:.2f}" for one in shown)]
                print("| " + " | ".join(cells) + " |")
            print(f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after")
            first = np.array(turns["bare onnxruntime, float32", 1])[:, 1]
            for (name, threads), values in turns.items():
                ratio = np.median(np.array(values)[:, 1] / first)
                print(f"  {name}, {threads} threads: {ratio:.2f} of bare onnxruntime's processor")


def measure_scores(args: argparse.Namespace) -> None:
    print(
        "| category | engine | image AUROC | largest relative difference of scores | "
        "verdicts that differ | wall ms/image | processor ms/image |\n|---|---|---|---|---|---|---|"
    )
    for category in args.category:
        data = load_folder(args.root, category)
        defective = data.y_test == -1
        for precision in ("float32", "bfloat16"):
            engines = [engine for engine, of in runnable(args) if of == precision]
            first = make_step(args, engines[0], precision)
            detector = PatchCoreDetector(first, coreset_ratio=args.coreset_ratio)
            detector.fit(data.X_train)
            expected = None
            for engine in engines:
                detector.set_params(features__engine=engine)
                detector.score_samples(data.X_test[:2])
                found = {}
                wall, cpu = clocked(
                    lambda d=detector, f=found, x=data.X_test: f.update(s=d.score_samples(x))
                )
                scores = found["s"]
                verdicts = scores < detector.offset_
                if expected is None:
                    expected = scores, verdicts
                difference = np.max(np.abs(scores / expected[0] - 1))
                cells = [
                    category,
                    f"{engine}, {precision}",
                    f"{roc_auc_score(defective, -scores):.4f}",
                    f"{difference:.1e}",
                    f"{np.count_nonzero(verdicts != expected[1])} of {len(scores)}",
                    f"{wall / len(scores):.1f}",
                    f"{cpu / len(scores):.1f}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="resnet18")
    parser.add_argument("--weights", default="imagenet")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("time")
    command.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    command.add_argument("--threads-per-image", type=int, nargs="+", default=[1])
    command.add_argument("--cores", type=int, default=2)
    command.add_argument("--turns", type=int, default=60, help="with one image; fewer with more")
    command.add_argument("--network-alone", action="store_true")
    command = commands.add_parser("scores")
    command.add_argument("root", type=Path)
    command.add_argument("category", nargs="+")
    command.add_argument("--coreset-ratio", type=float, default=0.01)
    for one in commands.choices.values():
        one.add_argument("--features", default=argparse.SUPPRESS)
        one.add_argument("--weights", default=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    {"time": measure_time, "scores": measure_scores}[args.command](args)


if __name__ == "__main__":
    main()
