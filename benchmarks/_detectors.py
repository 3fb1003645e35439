"""The detectors that accuracy and false-positive rates are measured of, by command-line options."""

from __future__ import annotations

import argparse
from typing import Any

from pyimgano import create_model
from pyimgano.detectors import BasePatchDetector
from pyimgano.features import BackbonePatchFeatures, make_features

DETECTORS = ("patchcore", "padim", "spade", "softpatch", "anomalydino")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detector", choices=DETECTORS, default=DETECTORS[0])
    parser.add_argument(
        "--features", default="filterbank", help="resnet18, timm:NAME, ...; default: filterbank"
    )
    parser.add_argument("--weights", help="state dict of the network; default: published ones")
    parser.add_argument("--resize", type=int, help="smaller side in pixels; default: the step's")
    parser.add_argument(
        "--crop",
        type=int,
        default=224,
        help="side of the center crop for a convolutional network, 0 for none; default: 224, the "
        "papers' setting",
    )
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")


def make_detector(args: argparse.Namespace, **params: Any) -> BasePatchDetector:
    """The detector asked for; the layers of a network given by name are those of its paper.

    Parameters that are None are left at the detector's defaults.
    """
    step = {"resize": args.resize, "weights": args.weights}
    if args.features != "filterbank":
        step |= {"precision": args.precision, "device": args.device}
    if isinstance(make_features(args.features), BackbonePatchFeatures):
        step["crop"] = args.crop or None
    params |= {f"features__{name}": value for name, value in step.items()}
    given = {name: value for name, value in params.items() if value is not None}
    return create_model(f"vision_{args.detector}", features=args.features, **given)


def setting(args: argparse.Namespace, coreset_ratio: float | None = None) -> str:
    """The key in the file of figures of the detector asked for: ``patchcore 10%/resnet18``.

    Networks for which ``--crop 0`` was given end in ``", whole image"``, and a filter bank for
    which ``--resize`` was given in ``", 320 pixels"``.
    """
    detector = make_detector(args, coreset_ratio=coreset_ratio)
    params = detector.get_params()
    ratio = params.get("coreset_ratio")
    name = args.detector if ratio is None else f"{args.detector} {ratio:.0%}"
    whole = isinstance(params["features"], BackbonePatchFeatures) and args.crop == 0
    more = ", whole image" if whole else ""
    if args.features == "filterbank" and args.resize is not None:
        more += f", {args.resize} pixels"
    return f"{name}/{args.features.removeprefix('timm:')}{more}"
