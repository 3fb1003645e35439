"""``pyimgano benchmark``: fit on good parts, judge a test set, write a run directory."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pyimgano import _defaults
from pyimgano._dataset_table import ALIASES, DATASETS
from pyimgano.cli import _common, _options

__all__ = ["main"]

_PROG = "pyimgano-benchmark"
_DESCRIPTION = """\
Fit an anomaly detector on the good training images of a dataset, put its threshold
where the false-alarm rate asks for it, judge the test images, and write a run
directory with reports, one record per image, the fitted pipeline, and pictures of
the worst, the best and the closest calls of each kind.
"""
_EPILOG = """\
examples:
  pyimgano benchmark --dataset synthetic
      needs no weights, no download and no data
  pyimgano benchmark --dataset folder --root data/bottle
      a folder with train/good, test/good, test/<kind of defect> and, for pixel
      metrics, ground_truth/<kind of defect>
  pyimgano benchmark --dataset folder --root data --category screw \\
      --model vision_padim --features resnet18 --weights resnet18.pth
  pyimgano benchmark --dataset mvtec_ad --root mvtec_anomaly_detection
  pyimgano benchmark --dataset manifest --root parts.csv
  pyimgano benchmark --dataset synthetic --model vision_patchcore \\
      --features filterbank --set coreset_ratio=0.05

""" + _common.exit_statuses(
    {
        _common.EXIT_ERRORS: "done, but some test images or masks could not be read, or some of "
        "the categories failed"
    }
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _benchmark(_parser(prog).parse_args(argv)))


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)

    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        metavar="NAME",
        type=_dataset,
        required=True,
        help=f"one of {', '.join(DATASETS)}: synthetic is pictures made by a program, folder and "
        "manifest are images of your own, the others are public datasets as they were published",
    )
    data.add_argument(
        "--root",
        metavar="DIR",
        help="folder the dataset was unpacked to, or that of a category; for a manifest its file",
    )
    data.add_argument(
        "--category",
        metavar="NAME",
        nargs="+",
        help="what to run; by default all categories below --root, or the synthetic "
        f"{_defaults.CATEGORY}",
    )
    data.add_argument(
        "--split",
        metavar="NAME",
        help="division into training and test images, where several are published; "
        + "; ".join(f"{i.name}: {', '.join(i.splits)}" for i in DATASETS.values() if i.splits),
    )
    data.add_argument(
        "--image-size",
        metavar="PIXELS",
        type=_common.count,
        help=f"side of the synthetic pictures (default: {_defaults.IMAGE_SIDE})",
    )
    data.add_argument(
        "--n-train",
        metavar="N",
        type=_common.count,
        help=f"number of synthetic training pictures (default: {_defaults.N_TRAIN})",
    )

    _options.add_model_options(parser)
    _options.add_threads_option(parser)

    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir",
        metavar="DIR",
        default=_defaults.OUTPUT_DIR,
        help="where to make the run directory (default: %(default)s)",
    )
    output.add_argument(
        "--overlays",
        metavar="N",
        type=_common.count_or_zero,
        default=_defaults.N_OVERLAYS,
        help="at most N pictures: of each kind of test image the one judged worst, the one judged "
        "best and the one closest to the threshold (default: %(default)s)",
    )
    output.add_argument("--no-save", action="store_true", help="do not save the fitted pipeline")
    return parser


def _benchmark(options: argparse.Namespace) -> int:
    _check(options)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _run_checked(options)


def _run_checked(options: argparse.Namespace) -> int:
    name, described = _options.name_model(options)
    _common.tell(f"{options.dataset}: fitting {described} ...")
    from pyimgano.benchmark import run_benchmark

    progress = _common.on_terminal()
    result = _run(
        run_benchmark,
        options.dataset,
        root=options.root,
        category=options.category,
        model=_options.make_model_as_asked(options, name, progress),
        model_name=name,
        quantile=options.quantile,
        u16_max=options.u16_max,
        output_dir=options.output_dir,
        save_pipeline=not options.no_save,
        n_overlays=options.overlays,
        random_state=options.seed,
        dataset_options=_dataset_options(options),
        progress=progress,
    )
    _common.tell(_text(result.report, result.categories))
    _common.tell(f"\nrun directory: {result.path}")
    return _problems(result, options.prog)


def _run(run_benchmark: Any, *arguments: Any, **options: Any) -> Any:
    from pyimgano.exceptions import DatasetError

    try:
        return run_benchmark(*arguments, **options)
    except DatasetError as error:
        raise _common.UsageError(
            f"{error}\nTo train on a folder of good images alone, without a test set, there is "
            "pyimgano train."
        ) from error


def _problems(result: Any, prog: str) -> int:
    """Say what was left out; return the exit status."""
    lines = [f"{name} failed: {reason}" for name, reason in result.report["failed"].items()]
    n_errors = sum(report["n_errors"] for report in result.categories.values())
    if n_errors:
        lines.append(
            f"{n_errors} test images could not be read and were left out; "
            "per_image.jsonl says which and why"
        )
    n_masks = sum(len(r["pixel"]["masks_left_out"]) for r in result.categories.values())
    if n_masks:
        lines.append(
            f"{n_masks} masks could not be used, and their images were left out of the pixel "
            "AUROC; the categories' report.json says which and why"
        )
    for line in lines:
        _common.say(f"{prog}: {line}")
    return _common.EXIT_ERRORS if lines else _common.EXIT_OK


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is imported or read."""
    synthetic_only = [f"--{n.replace('_', '-')}" for n in _SYNTHETIC if _given(options, n)]
    synthetic = options.dataset == "synthetic"
    # None for the dataset of a plug-in, which is not loaded yet.
    info = DATASETS.get(ALIASES.get(options.dataset, options.dataset))
    if info is not None and info.root != "none" and options.root is None:
        what = "DIR, the folder of the images" if info.root == "folder" else "FILE"
        raise _common.UsageError(f"--dataset {options.dataset} needs --root {what}")
    if options.root is not None:
        if synthetic:
            raise _common.UsageError("--root belongs to a dataset of files; synthetic reads none")
        exists = {"folder": os.path.isdir, "file": os.path.isfile}
        if info is not None and not exists[info.root](options.root):
            raise _common.UsageError(f"--root {options.root}: there is no such {info.root}")
    if not synthetic and synthetic_only:
        raise _common.UsageError(f"{synthetic_only[0]} belongs to --dataset synthetic")
    if options.split is not None and info is not None and options.split not in info.splits:
        there_are = f"there are {', '.join(info.splits)}" if info.splits else "it has none"
        raise _common.UsageError(
            f"--dataset {options.dataset} has no --split {options.split}; {there_are}"
        )
    _options.check_model_options(options)
    if synthetic:
        from pyimgano.datasets import list_inspection_categories

        known = list_inspection_categories()
        for name in options.category or ():
            if name not in known:
                raise _common.UsageError(f"--category {name} is not one of {', '.join(known)}")
        if options.image_size is not None and options.image_size < 64:
            raise _common.UsageError(f"--image-size {options.image_size} is below 64")
    repeated = [n for n in options.category or () if options.category.count(n) > 1]
    if repeated:
        raise _common.UsageError(f"--category names {repeated[0]} twice")


_SYNTHETIC = {"image_size": "size", "n_train": "n_train"}


def _given(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name) is not None


def _dataset_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        argument: getattr(options, name)
        for name, argument in {**_SYNTHETIC, "split": "split"}.items()
        if _given(options, name)
    }


def _dataset(name: str) -> str:
    """Option value that is the name of a dataset, which may be that of a plug-in."""
    if name in DATASETS or name in ALIASES:
        return name
    from pyimgano.datasets import list_datasets
    from pyimgano.utils._words import did_you_mean

    known = list_datasets()
    if name not in known:
        raise argparse.ArgumentTypeError(
            f"there is no dataset {name!r}.{did_you_mean(name, [*known, *ALIASES])} There are "
            f"{', '.join(known)}"
        )
    return name


# ---- the table ------------------------------------------------------------------------
def _text(report: Mapping[str, Any], categories: Mapping[str, Mapping[str, Any]]) -> str:
    from pyimgano.benchmark._summary import COLUMNS

    lines = dict(report["categories"])
    if len(categories) > 1:
        lines["mean"] = report["mean"]
    # A column without a single value would only make the table wider.
    columns = [
        column
        for column in COLUMNS
        if column.title and any(values.get(column.key) is not None for values in lines.values())
    ]
    rows = [["category", *(column.title for column in columns)]]
    for name, values in lines.items():
        found = [(column.form, values.get(column.key)) for column in columns]
        rows.append(
            [name, *("-" if value is None else form.format(value) for form, value in found)]
        )
    parts = ["\n" + _aligned(rows)]
    parts += [_details(name, category) for name, category in categories.items()]
    return "\n\n".join(parts)


def _details(name: str, report: Mapping[str, Any]) -> str:
    threshold = report["threshold"]
    images = {"train": "training", "validation": "validation"}[threshold["part"]]
    asked = threshold["target_false_positive_rate"]
    lines = [
        f"{name}: threshold {threshold['threshold']:.4g}, set on {threshold['n_images']} good "
        f"{images} images; false alarms asked for {asked:.1%}, "
        f"expected {threshold['expected_false_positive_rate']:.1%}"
    ]
    realized, kinds = report["false_positive_rate"], report["kinds"]
    width = max(15, *map(len, kinds)) if kinds else 15
    for title, part, key in (
        ("image AUROC", "image", "auroc"),
        ("pixel AUROC", "pixel", "auroc"),
        ("AUPRO", "pixel", "aupro"),
    ):
        interval = report[part]["interval_95"].get(key)
        if interval is not None:
            low, high = interval
            lines.append(
                f"  {title:<{width}} {report[part][key]:.3f}        "
                f"(95 % interval {low:.3f} to {high:.3f})"
            )
    if realized["value"] is not None:
        low, high = realized["interval_95"]
        lines.append(
            f"  {'false alarms':<{width}} {realized['count']:>4} of {realized['n']:<4} "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )
    lines += [
        f"  {kind:<{width}} {found['count']:>4} of {found['n']:<4} found"
        for kind, found in kinds.items()
    ]
    if report["n_test_unlabeled"]:
        lines.append(
            f"  {'without label':<{width}} {report['n_unlabeled_anomalous']:>4} of "
            f"{report['n_test_unlabeled']:<4} judged anomalous; they count in no figure"
        )
    compiled = report["seconds"]["compile"]
    if compiled >= 0.5:
        lines.append(
            f"  compiled for {compiled:.1f} s, which is no part of the times above and falls to "
            "the first run only"
        )
    return "\n".join(line.rstrip() for line in lines)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
