"""Accuracy, false-positive rate and cost of detectors that train networks.

    python benchmarks/trained.py ROOT CATEGORY --detector stfpm --weights resnet18.pth --seeds 3

Settings are those that two cores train in minutes (``SETTINGS``); an option changes them. Each seed
trains once, inside a calibrator for 5 % of false alarms, whose threshold rests on the images that
were held out of training. The model of the last step is measured: image and pixel AUROC over whole
images, the share of good test images that are flagged, processor seconds of the training, wall
milliseconds per test image, peak memory.

With ``--known-defects`` 10 defective test images, others with each seed, are trained on with their
masks, and the rest is measured. Without it, AUROC of that rest is stated as well, to compare with.

A share of a few dozen good test images says little about a rate of 5 %, and they may have been
taken in another light than those that the threshold rests on. With ``--spare N``, N good training
images, others with each seed, are left out of training, and false alarms are counted on them as
well. AUROC is that of the test images in any case, but of a model that has seen fewer images.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _figures import add_figures_option, record
from sklearn.metrics import roc_auc_score

from pyimgano import create_model
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import load_folder, read_mask
from pyimgano.features import BackbonePatchFeatures, ViTPatchFeatures

LAYERS, BLOCKS = ("layer1", "layer2", "layer3"), tuple(range(2, 10))
# Image size and parameters that two cores train in minutes, by detector and category.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "stfpm": {
        "*": {"resize": 128, "max_steps": 200, "batch_size": 16},
    },
    "reverse_distillation": {
        "*": {"resize": 128, "max_steps": 300, "batch_size": 16},
        "screw": {"resize": 160, "max_steps": 600, "batch_size": 16},
    },
    "dinomaly": {
        "*": {"resize": 224, "n_blocks": 2, "max_steps": 400, "batch_size": 8},
    },
    "supersimplenet": {
        "*": {"resize": 256, "hidden_width": 512, "max_steps": 600, "batch_size": 16},
        "screw": {
            "resize": 256,
            "hidden_width": 512,
            "max_steps": 1000,
            "batch_size": 16,
            "paint_defects": True,
            "map_loss": "cross_entropy",
        },
    },
    "draem": {
        "*": {
            "resize": 128,
            "width": 16,
            "max_steps": 600,
            "batch_size": 4,
            "learning_rate": 1e-3,
        },
    },
}
RATE = 0.05
N_KNOWN = 10


def settings(args: argparse.Namespace) -> dict[str, Any]:
    table = SETTINGS[args.detector]
    params = {**table["*"], **table.get(args.category.rstrip("0123456789"), {})}
    for name in ("resize", "max_steps", "batch_size", "learning_rate", "layers", "upsample"):
        if getattr(args, name) is not None:
            params[name] = getattr(args, name)
    return params


def make(args: argparse.Namespace, seed: int) -> Any:
    params = settings(args)
    weights = {} if args.weights is None else {"weights": args.weights}
    if args.detector in ("stfpm", "reverse_distillation"):
        resize = params.pop("resize")
        params["features"] = BackbonePatchFeatures("resnet18", LAYERS, resize=resize, **weights)
    if args.detector == "supersimplenet":
        resize, layers = params.pop("resize"), params.pop("layers", LAYERS[1:])
        params["features"] = BackbonePatchFeatures(
            "resnet18", layers, resize=resize, pool=1, **weights
        )
    if args.detector == "dinomaly":
        resize = params.pop("resize")
        params["features"] = ViTPatchFeatures(
            "timm:vit_tiny_patch16_224", resize=resize, layers=BLOCKS, **weights
        )
    return create_model(
        f"vision_{args.detector}", precision=args.precision, random_state=seed, **params
    )


def pixel_auroc(truth: list[np.ndarray], maps: Any, chosen: np.ndarray) -> float:
    index = np.flatnonzero(chosen)
    return roc_auc_score(
        np.concatenate([truth[i].ravel() for i in index]),
        np.concatenate([maps[i].ravel() for i in index]),
    )


def measure(args: argparse.Namespace, seed: int) -> dict[str, float]:
    data = load_folder(args.root, args.category)
    n_train = len(data.X_train)
    defects = n_train + np.flatnonzero(data.y_test == -1)
    known = np.random.default_rng(seed).choice(defects, N_KNOWN, replace=False)
    spare = np.random.default_rng([seed, 1]).permutation(n_train)[: args.spare]
    good = np.setdiff1d(np.arange(n_train), spare)
    pipeline = ThresholdCalibrator(make(args, seed), quantile=1 - RATE)
    train, labels, more = data.data[good], np.ones(len(good), dtype=int), {}
    if args.known_defects:
        train = data.data[[*good, *known]]
        labels = np.concatenate([labels, -np.ones(N_KNOWN, dtype=int)])
        masks = [read_mask(data.masks[i], data.data.size(i)) > 0 for i in known]
        more = {"masks": [None] * len(good) + masks}
    start = time.process_time()
    pipeline.fit(train, labels, **more)
    fit_s = time.process_time() - start
    test = np.arange(n_train, len(data.data))
    rest = ~np.isin(test, known)
    if args.known_defects:
        test, rest = test[rest], rest[rest]
    defective = np.isin(test, defects)
    start = time.perf_counter()
    scores, maps = pipeline.estimator_.score_and_map(data.data[test])
    ms = (time.perf_counter() - start) / len(scores) * 1e3
    truth = [read_mask(data.masks[i], m.shape) > 0 for i, m in zip(test, maps)]
    of_spare = {}
    if len(spare):
        flagged = -pipeline.estimator_.score_samples(data.data[spare]) > pipeline.threshold_
        of_spare["false alarms of spare"] = float(np.mean(flagged))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "image AUROC": roc_auc_score(defective, -scores),
        "pixel AUROC": pixel_auroc(truth, maps, np.ones(len(test), dtype=bool)),
        "image AUROC of the rest": roc_auc_score(defective[rest], -scores[rest]),
        "pixel AUROC of the rest": pixel_auroc(truth, maps, rest),
        "false alarms": float(np.mean(-scores[~defective] > pipeline.threshold_)),
        **of_spare,
        "held out": float(pipeline.estimator_.held_out_.sum()),
        "fit CPU s": fit_s,
        "ms/image": ms,
        "peak MiB": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category")
    parser.add_argument("--detector", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--weights", help="state dict; default: published ones")
    parser.add_argument("--resize", type=int)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--layers", nargs="+", help="of SuperSimpleNet's network")
    parser.add_argument("--upsample", type=int, help="of SuperSimpleNet")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--known-defects",
        action="store_true",
        help=f"train on {N_KNOWN} of the test images as well",
    )
    parser.add_argument(
        "--spare",
        type=int,
        default=0,
        metavar="N",
        help="leave N good training images out, and count false alarms on them, too",
    )
    add_figures_option(parser)
    args = parser.parse_args()
    if args.detector != "supersimplenet" and (args.layers or args.upsample or args.known_defects):
        parser.error("--layers, --upsample and --known-defects are for SuperSimpleNet")
    n_train = len(load_folder(args.root, args.category).X_train)
    if not 0 <= args.spare <= n_train - 2:
        parser.error(f"--spare must be in 0 to {n_train - 2}, for {n_train} training images")
    print(f"{args.detector}, {args.category}, {settings(args)}, {args.precision}")
    rows: list[dict[str, float]] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        rows.append(measure(args, seed))
        values = ", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items())
        print(f"seed {seed}: {values}", flush=True)
        if args.figures:
            name = args.detector + ", known defects" * args.known_defects
            name += f", {' '.join(args.layers)}" if args.layers else ""
            name += f", {args.spare} spare" if args.spare else ""
            record(args.figures, f"trained/{args.category}/{name}", rows)


if __name__ == "__main__":
    main()
