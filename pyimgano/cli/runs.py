"""``pyimgano runs``: what run directories hold, and how they compare."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyimgano import _defaults
from pyimgano.cli import _common
from pyimgano.cli._report_text import aligned, report_text

__all__ = ["main"]

_PROG = "pyimgano-runs"
_DESCRIPTION = """\
List the runs of "pyimgano benchmark" and "pyimgano train", show one, or compare two of
them image by image.
"""
_EPILOG = """\
examples:
  pyimgano runs list
  pyimgano runs show runs/20260131-142507_mvtec_ad_vision_padim
  pyimgano runs compare runs/20260131-142507_mvtec_ad_vision_padim \\
      runs/20260131-153012_mvtec_ad_vision_patchcore
      says of each metric whether the second run is better or worse than the first, or
      whether other images of the same kind might as well show the opposite

""" + _common.exit_statuses()


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _runs(_parser(prog).parse_args(argv)), argv)


def _runs(options: argparse.Namespace) -> int:
    return options.job(options)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG, takes_config=False)
    jobs = parser.add_subparsers(metavar="list|show|compare", required=True)

    what = "list the runs in folders, the newest last"
    listing = jobs.add_parser("list", help=what, description=f"{what}.", allow_abbrev=False)
    listing.add_argument(
        "folders",
        metavar="DIR",
        nargs="*",
        default=[_defaults.OUTPUT_DIR],
        help=f"folder of runs, or a run (default: {_defaults.OUTPUT_DIR})",
    )
    listing.set_defaults(job=_list)

    what = "print the tables of runs"
    show = jobs.add_parser("show", help=what, description=f"{what}.", allow_abbrev=False)
    show.add_argument("runs", metavar="DIR", nargs="+", help="run directory")
    show.set_defaults(job=_show)

    what = "print the differences of runs from the first, and whether they may be chance"
    compare = jobs.add_parser("compare", help=what, description=f"{what}.", allow_abbrev=False)
    compare.add_argument("baseline", metavar="DIR", help="run to compare with")
    compare.add_argument("others", metavar="DIR", nargs="+", help="runs to compare with it")
    compare.add_argument(
        "--allow-different-splits",
        action="store_true",
        help="compare runs whose images differ, by the test images that both have",
    )
    compare.set_defaults(job=_compare)

    for one in (listing, show, compare):
        one.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _print_json(content: object) -> int:
    _common.answer(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False))
    return _common.EXIT_OK


# ---- list -----------------------------------------------------------------------------
def _list(options: argparse.Namespace) -> int:
    found = []
    for folder in options.folders:
        if not os.path.isdir(folder):
            raise _common.UsageError(
                f"{folder}: there is no such folder; give one of runs, such as the --output-dir of "
                "pyimgano benchmark or train"
            )
        inside = (
            [folder]
            if os.path.isfile(os.path.join(folder, "config.json"))
            else sorted(str(path.parent) for path in Path(folder).glob("*/config.json"))
        )
        found += [_summary(path) for path in inside]
    if options.json:
        return _print_json(found)
    rows = [["run", "state", "categories", "failed", "image AUROC", "pixel AUROC"]]
    for one in found:
        cells = [
            "-" if one[key] is None else f"{one[key]:.3f}" for key in ("image_auroc", "pixel_auroc")
        ]
        counts = [str(len(one["categories"])), str(len(one["failed"]))]
        rows.append([one["run"], one["state"], *counts, *cells])
    _common.answer(aligned(rows) if found else f"no runs in {', '.join(options.folders)}")
    return _common.EXIT_OK


def _summary(path: str) -> dict[str, Any]:
    from pyimgano.benchmark import RunDirectory
    from pyimgano.exceptions import RunError

    run = RunDirectory(path)
    report: Mapping[str, Any] = {"mean": {}, "failed": {}}
    state = "unfinished"
    if run.is_complete:
        try:
            report, state = run.read_report(), "complete"
        except RunError:
            state = "of another version"
    return {
        "run": path,
        "state": state,
        "categories": sorted(report["categories"])
        if state == "complete"
        else [one.path.name for one in run.categories()],
        "failed": sorted(report["failed"]),
        "image_auroc": report["mean"].get("image_auroc"),
        "pixel_auroc": report["mean"].get("pixel_auroc"),
    }


# ---- show -----------------------------------------------------------------------------
def _show(options: argparse.Namespace) -> int:
    from pyimgano.benchmark import RunDirectory

    runs = [_complete(RunDirectory(path)) for path in options.runs]
    reports = [run.read_report() for run in runs]
    if options.json:
        return _print_json(reports[0] if len(reports) == 1 else reports)
    parts = []
    for run, report in zip(runs, reports):
        categories = [category.read_report() for category in run.categories()]
        text = report_text(report, {one["category"]: one for one in categories})
        failed = [f"{name} failed: {reason}" for name, reason in report["failed"].items()]
        head = f"{run.path}: {report['model']} on {report['dataset']}"
        parts.append("\n\n".join([head, text, *failed]))
    _common.answer("\n\n".join(parts))
    return _common.EXIT_OK


def _complete(run: Any) -> Any:
    if not run.is_complete:
        state, way = "is no run directory", f"pyimgano runs list {run.path} lists those in it"
        if run.config.exists():
            command = "train" if "recipe" in run.read_config() else "benchmark"
            state, way = "is an unfinished run", f"pyimgano {command} --resume goes on with it"
        raise _common.UsageError(f"{run.path} {state}: it has no {run.report.name}; {way}")
    return run


# ---- compare --------------------------------------------------------------------------
_TITLES = {
    "auroc": "image AUROC",
    "average_precision": "AP",
    "f1": "F1",
    "false_positive_rate": "false alarms",
    "true_positive_rate": "found",
}
_WORDS = {"better": "better", "worse": "worse", "chance": "may be chance"}


def _compare(options: argparse.Namespace) -> int:
    from pyimgano.benchmark import compare_runs

    found = [
        compare_runs(options.baseline, other, allow_different_splits=options.allow_different_splits)
        for other in options.others
    ]
    if options.json:
        return _print_json(found[0] if len(found) == 1 else found)
    _common.answer("\n\n".join(_comparison_text(one) for one in found))
    return _common.EXIT_OK


def _comparison_text(found: Mapping[str, Any]) -> str:
    lines = [f"{found[which]['run']} ({found[which]['model']})" for which in ("other", "baseline")]
    rows = [["category", "metric", "baseline", "other", "difference", "95 % interval", ""]]
    parts = {name: one["metrics"] for name, one in found["categories"].items()}
    if len(parts) > 1:
        parts["mean"] = found["mean"]
    for name, metrics in parts.items():
        for metric, one in metrics.items():
            low, high = one["interval"]
            rows.append(
                [
                    name,
                    _TITLES[metric],
                    f"{one['baseline']:.3f}",
                    f"{one['other']:.3f}",
                    f"{one['difference']:+.3f}",
                    f"{low:+.3f} to {high:+.3f}",
                    "the same" if low == high == 0 else _WORDS[one["verdict"]],
                ]
            )
            name = ""
    text = f"{lines[0]}\nagainst {lines[1]}\n\n{aligned(rows)}"
    if found["left_out"]:
        text += f"\n\nonly in one of the runs: {', '.join(found['left_out'])}"
    return text


if __name__ == "__main__":
    sys.exit(main())
