"""False alarms, misses and AUROC on corrupted test images, at the threshold of clean ones.

    python benchmarks/robustness.py ROOT bottle256 --coreset-ratio 0.01
    python benchmarks/robustness.py ROOT bottle256 screw256 --coreset-ratio 0.01 --crop 0 \
        --features resnet18 --weights resnet18.pth --severities 1 3 --limit-test 80

ROOT holds folders in MVTec's layout. ``pyimgano robust-benchmark`` measures the same; a report that
it has written is read with ``--report FILE`` in place of measuring once more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _detectors import add_options, make_detector, setting
from _figures import add_figures_option, record

from pyimgano.benchmark._benchmark import make_pipeline_of
from pyimgano.benchmark._fitting import fit
from pyimgano.benchmark._split import limited
from pyimgano.datasets import load_folder
from pyimgano.robustness import CORRUPTIONS, robustness_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("category", nargs="+")
    add_options(parser)
    parser.add_argument("--coreset-ratio", type=float, help="default: the detector's")
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--limit-test", type=int, help="take so many test images, default: all")
    parser.add_argument("--report", type=Path, help="read what the command has measured")
    add_figures_option(parser)
    args = parser.parse_args()
    for category in args.category:
        for report in reports(args, category):
            for severity, row in rows(report):
                print(category, "severity", severity, json.dumps(row, indent=1), flush=True)
                if args.figures is not None:
                    key = f"robustness/{category}/{setting(args, args.coreset_ratio)}/{severity}"
                    record(args.figures, key, [row])


def reports(args: argparse.Namespace, category: str) -> Iterator[dict[str, Any]]:
    """Reports of one severity after the other, so that the first is there early."""
    if args.report is not None:
        yield json.loads(args.report.read_text(encoding="utf-8"))["categories"][category]
        return
    data = limited(load_folder(args.root / category), None, args.limit_test, 0)
    detector = make_detector(args, coreset_ratio=args.coreset_ratio, random_state=0)
    pipeline = make_pipeline_of(detector, None, 65535)
    fit(pipeline, data)
    for severity in args.severities:
        yield robustness_report(
            pipeline, data.X_test, data.y_test, masks=data.masks_test, severities=severity
        )


def rows(report: dict[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """The figures of each severity; those of the clean images are the same in all."""
    found: dict[int, dict[str, float]] = {}
    for kind in (kind for kind in CORRUPTIONS if kind in report["corruptions"]):
        for one in report["corruptions"][kind]["conditions"]:
            row = found.setdefault(one["severity"], figures("clean", report["clean"]))
            row.update(figures(kind, one))
    yield from found.items()


def figures(name: str, condition: dict[str, Any]) -> dict[str, float]:
    return {
        f"{name}: image AUROC": condition["image_auroc"],
        f"{name}: false alarms": condition["false_positive_rate"]["value"],
        f"{name}: misses": condition["miss_rate"]["value"],
    }


if __name__ == "__main__":
    main()
