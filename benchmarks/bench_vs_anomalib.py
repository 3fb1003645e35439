"""Speed, memory and accuracy beside anomalib's models, on the same files and weights.

    python -m venv peer && peer/bin/pip install anomalib
    python benchmarks/bench_vs_anomalib.py ROOT CATEGORY --weights resnet18.pth \
        --anomalib-python peer/bin/python

ROOT/CATEGORY is a folder in MVTec AD's layout. Each model runs in a process of its own, one after
the other, with the same number of threads: ResNet-18, images resized to 256, the middle 224
pixels, layers 2 and 3 (PatchCore) or 1 to 3 (PaDiM), files to scores and maps. Fitting ours
includes the out-of-sample scores that its threshold comes from; anomalib's has no counterpart.

``--models stfpm reverse_distillation`` trains students and decoders for ``--steps`` steps of 16
images of ``--size`` pixels, whole ones, with the settings that each library has by default. Ours
hold out a fifth of the images, for the threshold; anomalib's train on all.

``--features efficientnet_lite0`` has our PatchCore run on that network, anomalib's on ResNet-18.

Prints a Markdown table: seconds to fit, milliseconds per test image, both by the clock and of
processor time, which a busy machine changes less, peak memory of the whole process and what of it
came after the imports, AUROCs. Pixel AUROC is taken over the 224 x 224 pixels that the network saw.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

SIZE, CROP = 256, 224
MODELS = ("patchcore-0.1", "patchcore-0.01", "padim")
TRAINED = ("stfpm", "reverse_distillation")
BATCH = 16
TIMES = ("fit", "fit cpu", "predict", "predict cpu")


def geometry(args: argparse.Namespace, model: str) -> tuple[int, int]:
    """Side of the resized image, and of what the network sees of it."""
    return (args.size, args.size) if model in TRAINED else (SIZE, CROP)


class Instant(NamedTuple):
    """Seconds by the clock, and of processor time of this process on all its cores."""

    clock: float
    processor: float


def now() -> Instant:
    return Instant(time.perf_counter(), time.process_time())


def timings(start: Instant, fitted: Instant, began: Instant, done: Instant, n: int) -> dict:
    """Seconds to fit, and for each of ``n`` images, in both kinds of time."""
    return {
        "fit": fitted.clock - start.clock,
        "fit cpu": fitted.processor - start.processor,
        "predict": (done.clock - began.clock) / n,
        "predict cpu": (done.processor - began.processor) / n,
    }


def listing(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Training and test files, sorted."""
    category = args.root / args.category
    return (
        sorted(str(p) for p in (category / "train" / "good").iterdir())[: args.train],
        sorted(str(p) for p in (category / "test").glob("*/*")),
    )


def peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss starts with the peak of the process that forked
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run_ours(args: argparse.Namespace) -> dict:
    from pyimgano.detectors import (
        PaDiMDetector,
        PatchCoreDetector,
        ReverseDistillationDetector,
        STFPMDetector,
    )
    from pyimgano.features import BackbonePatchFeatures, make_features

    if args.precision != "float32":  # imported when it is needed, which is not what is timed
        import torchvision.models  # noqa: F401
    imported = peak_mib()
    name, _, ratio = args.model.partition("-")
    size, crop = geometry(args, args.model)
    if args.features == "resnet18":
        features = BackbonePatchFeatures(
            "resnet18",
            layers=("layer2", "layer3") if ratio else ("layer1", "layer2", "layer3"),
            pool=3 if ratio else 1,
            weights=args.weights,
            resize=size,
            crop=crop,
            precision=args.precision,
            device="cpu",
        )
    else:  # with the weights of its extra
        features = make_features(args.features).set_params(resize=SIZE, crop=CROP)
    if name == "patchcore":
        detector = PatchCoreDetector(
            features, coreset_ratio=float(ratio), max_bank_patches=args.max_bank_patches
        )
    elif name == "padim":
        detector = PaDiMDetector(features)
    else:
        kind = STFPMDetector if name == "stfpm" else ReverseDistillationDetector
        detector = kind(features, max_steps=args.steps, batch_size=BATCH, random_state=args.seed)
    train, test = listing(args)
    features.fit(train[:1])  # loads the network, which anomalib's model has by then as well
    start = now()
    detector.fit(train)
    fitted = now()
    scores, maps = detector.score_and_map(test)
    return {
        **timings(start, fitted, fitted, now(), len(test)),
        "imported": imported,
        "scores": -scores,
        "maps": np.asarray(maps),
    }


def run_anomalib(args: argparse.Namespace) -> dict:
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    import torch
    from anomalib.data import PredictDataset
    from anomalib.data.datasets.image.folder import FolderDataset
    from anomalib.engine import Engine
    from anomalib.models import Padim, Patchcore, ReverseDistillation, Stfpm
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import seed_everything
    from torch.utils.data import DataLoader
    from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

    for logger in ("anomalib", "lightning", "lightning.pytorch"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    imported = peak_mib()
    seed_everything(args.seed, workers=True, verbose=False)
    size, crop = geometry(args, args.model)
    normalize = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    options = {
        "backbone": "resnet18",
        "pre_trained": False,
        "pre_processor": PreProcessor(
            transform=Compose([Resize((size, size), antialias=True), CenterCrop(crop), normalize])
        ),
        "post_processor": False,
        "evaluator": False,
        "visualizer": False,
    }
    name, _, ratio = args.model.partition("-")
    if name == "patchcore":
        model = Patchcore(
            layers=("layer2", "layer3"), coreset_sampling_ratio=float(ratio), **options
        )
    elif name == "padim":
        model = Padim(**options)
    elif name == "stfpm":
        # It has no switch for it, and must not look for weights on the network.
        import timm

        create = timm.create_model
        timm.create_model = lambda *a, **kw: create(*a, **{**kw, "pretrained": False})
        model = Stfpm(**{k: v for k, v in options.items() if k != "pre_trained"})
    else:
        model = ReverseDistillation(**options)
    state = torch.load(args.weights, map_location="cpu", weights_only=True)
    inner = {"stfpm": "teacher_model", "reverse_distillation": "encoder"}
    network = getattr(model.model, inner.get(name, "feature_extractor")).feature_extractor
    missing, _ = network.load_state_dict(state, strict=False)
    if missing:
        raise SystemExit(f"{args.weights} lacks {missing[:3]}")
    train, test = listing(args)
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder, "good")
        good.mkdir()
        for path in train:
            (good / Path(path).name).symlink_to(Path(path).resolve())
        train_set = FolderDataset(name="category", normal_dir=good, split="train")
        engine = Engine(
            accelerator="cpu",
            devices=1,
            max_epochs=1 if name not in TRAINED else -1,
            max_steps=args.steps if name in TRAINED else -1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        loader = DataLoader(
            train_set,
            batch_size=BATCH if name in TRAINED else 32,
            shuffle=name in TRAINED,
            collate_fn=train_set.collate_fn,
        )
        start = now()
        engine.fit(model=model, train_dataloaders=loader)
        fitted = now()
        links = Path(folder, "test")  # one flat folder is what it predicts on
        links.mkdir()
        for i, path in enumerate(test):
            (links / f"{i:06d}{Path(path).suffix}").symlink_to(Path(path).resolve())
        test_set = PredictDataset(path=links, image_size=(size, size))
        loader = DataLoader(test_set, batch_size=8, collate_fn=test_set.collate_fn)
        began = now()
        batches = engine.predict(model=model, dataloaders=loader)
        done = now()
    order = [int(Path(p).stem) for batch in batches for p in batch.image_path]
    assert order == list(range(len(test)))
    return {
        **timings(start, fitted, began, done, len(test)),
        "imported": imported,
        "scores": torch.cat([b.pred_score.float().reshape(-1) for b in batches]).numpy(),
        "maps": torch.cat([b.anomaly_map.float().reshape(-1, crop, crop) for b in batches]).numpy(),
    }


def child(args: argparse.Namespace) -> None:
    result = (run_ours if args.child == "ours" else run_anomalib)(args)
    peak = peak_mib()
    np.savez(args.out, scores=result["scores"], maps=result["maps"].astype(np.float32))
    numbers = {name: result[name] for name in TIMES} | {"peak": peak}
    numbers["work"] = peak - result["imported"]
    Path(args.out).with_suffix(".json").write_text(json.dumps(numbers))


def start_child(args: argparse.Namespace, who: str, model: str, folder: str) -> dict:
    """Run one model in a process of its own; its numbers, scores and maps."""
    out = str(Path(folder, f"{who}-{model}.npz"))
    python = sys.executable if who == "ours" else str(args.anomalib_python)
    command = [python, __file__, str(args.root), args.category, "--weights", args.weights]
    command += ["--child", who, "--model", model, "--out", out, "--threads", str(args.threads)]
    command += ["--precision", args.precision, "--features", args.features]
    command += ["--size", str(args.size), "--steps", str(args.steps), "--seed", str(args.seed)]
    command += ["--train", str(args.train)] if args.train else []
    if args.max_bank_patches and who == "ours":
        command += ["--max-bank-patches", str(args.max_bank_patches)]
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(
        command,
        env={**os.environ, **threads, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{who} {model} failed:\n{done.stderr[-3000:]}")
    with np.load(out) as arrays:
        return {**json.loads(Path(out).with_suffix(".json").read_text()), **arrays}


def accuracy(args: argparse.Namespace, model: str, result: dict) -> tuple[float, float]:
    import cv2
    from sklearn.metrics import roc_auc_score

    from pyimgano.datasets import load_folder, read_mask

    data = load_folder(args.root, args.category)
    _, test = listing(args)
    place = {str(Path(p).resolve()): i for i, p in enumerate(test)}
    order = [place[str(Path(p).resolve())] for p in data.X_test.paths]
    size, crop = geometry(args, model)
    cut = slice((size - crop) // 2, (size + crop) // 2)
    truth, values = [], []
    for i, mask in zip(order, data.masks_test):
        one = result["maps"][i]
        if one.shape != (crop, crop):  # ours are in the pixels of the file
            one = cv2.resize(one, (size, size), interpolation=cv2.INTER_LINEAR)[cut, cut]
        values.append(one.ravel())
        good = isinstance(mask, (int, np.integer))
        full = read_mask(mask, (size, size) if good else None)
        small = cv2.resize(full, (size, size), interpolation=cv2.INTER_NEAREST)
        truth.append(small[cut, cut].ravel() > 0)
    return (
        roc_auc_score(data.y_test == -1, result["scores"][order]),
        roc_auc_score(np.concatenate(truth), np.concatenate(values)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    parser.add_argument("--weights", required=True, help="state dict of torchvision's ResNet-18")
    parser.add_argument("--anomalib-python", type=Path, help="interpreter that has anomalib")
    parser.add_argument(
        "--features",
        default="resnet18",
        choices=["resnet18", "efficientnet_lite0"],
        help="of our models; anomalib's run on ResNet-18",
    )
    parser.add_argument("--models", nargs="+", choices=MODELS + TRAINED, default=list(MODELS))
    parser.add_argument("--train", type=int, help="only the first so many training images")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--max-bank-patches", type=int)
    parser.add_argument("--steps", type=int, default=200, help="of training, default: 200")
    parser.add_argument("--size", type=int, default=128, help="of training images, default: 128")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--child", choices=["ours", "anomalib"], help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)
    print(
        f"{args.category}, {len(listing(args)[0])} training images, {platform.machine()}, "
        f"{args.threads} threads, {args.precision}, Python {platform.python_version()}\n"
    )
    head = ["model", "library", "fit s", "CPU s", "ms/image", "CPU ms", "peak MiB", "above imports"]
    head += ["image AUROC", "pixel AUROC"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    who = ["ours"] + ["anomalib"] * bool(args.anomalib_python)
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            rows = {}
            for library in who:
                rows[library] = row = start_child(args, library, model, folder)
                image, pixel = accuracy(args, model, row)
                cells = [f"{row[k] * (1e3 if 'predict' in k else 1):.1f}" for k in TIMES]
                cells += [f"{row['peak']:.0f}", f"{row['work']:.0f}"]
                name = "pyimgano" if library == "ours" else library
                print(
                    "| " + " | ".join([model, name, *cells, f"{image:.4f}", f"{pixel:.4f}"]) + " |",
                    flush=True,
                )
            if len(rows) == 2:
                keys = (*TIMES, "peak", "work")
                ratio = [rows["anomalib"][k] / rows["ours"][k] for k in keys]
                cells = [f"{r:.1f}x" for r in ratio]
                print("| " + " | ".join([model, "ratio", *cells, "", ""]) + " |", flush=True)
    return None


if __name__ == "__main__":
    main()
