"""``pyimgano robust-benchmark``: what corrupted images do to the verdicts of a model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pyimgano.cli import _common, _data, _options, _targets
from pyimgano.cli._report_text import robustness_text

__all__ = ["main"]

_PROG = "pyimgano-robust-benchmark"
_DESCRIPTION = """\
Fit an anomaly detector on the clean training images of a dataset, or take a fitted
pipeline, and judge the test images as they are and as a worse lamp, lens, camera or
mount would have shown them. The threshold stays where the clean images have put it.

Standard output holds the report as JSON and nothing else; on a terminal it is left
out unless --json asks for it. The table and all messages go to standard error.
"""
_EPILOG = """\
examples:
  pyimgano robust-benchmark --dataset synthetic
      needs no weights, no download and no data
  pyimgano robust-benchmark --dataset folder --root data/bottle \\
      --corruptions brightness defocus dust --severities 1 3 5
  pyimgano robust-benchmark --dataset folder --root data/bottle \\
      --pipeline bottle.joblib --save-picture bottle.png --output bottle.json
      a pipeline as it is used, with its own threshold

""" + _common.exit_statuses(
    {
        _common.EXIT_ERRORS: "done, but some test images or masks could not be read, or some of "
        "the categories failed"
    }
)
_PICTURES = (".png", ".pdf", ".svg")


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _robust(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = f"{prog} --dataset NAME [--root DIR] [options]"
    _data.add_data_options(parser)
    _options.add_model_options(
        parser,
        of_benchmark=True,
        pipeline_help="a fitted pipeline in place of a model: it is judged as it is, at its own "
        "threshold; --category names the one that it is for",
    )
    _options.add_threads_option(parser)
    corrupt = parser.add_argument_group("corruptions")
    corrupt.add_argument(
        "--corruptions",
        metavar="NAME",
        nargs="+",
        type=_corruption,
        default=["all"],
        help='what to do to the test images, "all" for everything (default: all); '
        "--list-corruptions names them",
    )
    corrupt.add_argument(
        "--severities",
        metavar="N",
        nargs="+",
        type=int,
        choices=(1, 2, 3, 4, 5),
        default=[1, 2, 3, 4, 5],
        help="from 1, hardly visible, to 5 (default: all five)",
    )
    corrupt.add_argument(
        "--list-corruptions",
        action="store_true",
        help="print the corruptions with their strengths and units, as JSON, and do nothing else",
    )
    parser.command_line_only.add("list_corruptions")
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="FILE", help="write the report to FILE as well")
    output.add_argument(
        "--json", action="switch", help="print the report as JSON, also on a terminal"
    )
    output.add_argument(
        "--save-picture",
        metavar="FILE",
        help=f"draw heat maps to FILE ({', '.join(_PICTURES)}); needs the extra report",
    )
    return parser


def _corruption(text: str) -> str:
    """Option value that is the name of a corruption."""
    if text == "all":  # argparse asks for the default as well
        return text
    from pyimgano._corruptions import CORRUPTIONS
    from pyimgano.utils._words import did_you_mean

    if text not in CORRUPTIONS:
        raise argparse.ArgumentTypeError(
            f"there is no corruption {text!r}.{did_you_mean(text, list(CORRUPTIONS))} There are "
            f"{', '.join(CORRUPTIONS)}"
        )
    return text


def _robust(options: argparse.Namespace) -> int:
    if options.list_corruptions:
        from pyimgano._corruptions import CORRUPTIONS
        from pyimgano.utils._json import json_text

        _common.answer(json_text({name: one._asdict() for name, one in CORRUPTIONS.items()}))
        return _common.EXIT_OK
    _check(options)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _run_checked(options)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is read or fitted."""
    _data.check_data_options(options)
    _options.check_model_options(options)
    if options.pipeline is not None:
        for name in ("quantile", "limit_train"):
            if getattr(options, name) is not None:
                raise _common.UsageError(
                    f"--{name.replace('_', '-')} belongs to a model that is fitted, and "
                    "--pipeline is judged as it is: leave it out"
                )
    for option in ("corruptions", "severities"):
        given = getattr(options, option)
        repeated = [one for one in given if given.count(one) > 1]
        if repeated:
            raise _common.UsageError(f"--{option} names {repeated[0]} twice")
    if "all" in options.corruptions and len(options.corruptions) > 1:
        raise _common.UsageError('--corruptions: "all" holds the others; give one or the other')
    if options.json and sys.stdout is None:
        raise _common.UsageError("--json: standard output is closed, and the report goes there")
    files = [one for one in (options.root, options.weights, options.pipeline) if one is not None]
    for option, path in (("--output", options.output), ("--save-picture", options.save_picture)):
        if path is not None:
            _targets.check_file(option, path, _targets.real_paths(files))
    if options.save_picture is not None:
        from pyimgano.utils._optional import import_optional

        if os.path.splitext(options.save_picture)[1].lower() not in _PICTURES:
            raise _common.UsageError(
                f"--save-picture {options.save_picture}: the name has to end in one of "
                f"{', '.join(_PICTURES)}"
            )
        if options.output is not None and _targets.real_paths([options.output]) == (
            _targets.real_paths([options.save_picture])
        ):
            raise _common.UsageError("--output and --save-picture are the same file; give two")
        import_optional("matplotlib", "report", "--save-picture")


def _run_checked(options: argparse.Namespace) -> int:
    from pyimgano.robustness import run_robust_benchmark
    from pyimgano.utils._json import json_text, write_json

    progress = _common.on_terminal()
    described, judged = _what_to_judge(options, progress)
    _common.say(f"{options.dataset}: {described} ...")
    report = run_robust_benchmark(
        options.dataset,
        root=options.root,
        category=options.category[0] if options.category == ["all"] else options.category,
        corruptions="all" if options.corruptions == ["all"] else options.corruptions,
        severities=options.severities,
        limit_train=options.limit_train,
        limit_test=options.limit_test,
        u16_max=options.u16_max,
        random_state=options.seed,
        dataset_options=_data.dataset_options(options),
        progress=progress,
        **judged,
    )
    _common.say(f"\n{robustness_text(report)}")
    status = _problems(report, options.prog)
    failed = None
    try:
        with _common.stopping("the report is complete"):
            if options.output is not None:
                write_json(options.output, report)
            if options.save_picture is not None:
                _draw(options.save_picture, report["categories"])
    except _common.StoppedError as error:
        failed = error  # told after the report was printed, which may be all that is left of it
    if options.json or (sys.stdout is not None and not sys.stdout.isatty()):
        _common.answer(json_text(report))
    if failed is not None:
        raise failed
    return status


def _what_to_judge(options: argparse.Namespace, progress: bool) -> tuple[str, dict[str, Any]]:
    """The model or pipeline in words, and as arguments of ``run_robust_benchmark``."""
    if options.pipeline is not None:
        from pyimgano.benchmark._pipelines import open_pipeline

        try:
            open_pipeline(options.pipeline, "pipeline")
        except (TypeError, ValueError) as error:
            raise _common.UsageError(f"--pipeline {options.pipeline}: {error}") from error
        return f"judging by {options.pipeline}", {"estimator": options.pipeline}
    name, described = _options.name_model(options)
    return f"fitting {described}", {
        "model": _options.make_model_as_asked(options, name, progress),
        "model_name": name,
        "quantile": options.quantile,
    }


def _draw(path: str, categories: dict[str, Any]) -> None:
    import matplotlib

    from pyimgano.robustness import RobustnessDisplay
    from pyimgano.utils._outputs import atomic_write

    kind = os.path.splitext(path)[1].lstrip(".").lower()
    with matplotlib.rc_context({"figure.max_open_warning": 0}), atomic_write(path) as file:
        figure = RobustnessDisplay.from_reports(categories).figure_
        figure.savefig(file, format=kind, dpi=150)


def _problems(report: dict[str, Any], prog: str) -> int:
    """Say what was left out; return the exit status."""
    lines = [f"{name} failed: {reason}" for name, reason in report["failed"].items()]
    categories = report["categories"].values()
    for what, n in (
        ("test images could not be judged", sum(one["clean"]["n_errors"] for one in categories)),
        ("masks could not be used", sum(one["n_masks_left_out"] for one in categories)),
    ):
        if n:
            lines.append(f"{n} {what} and were left out")
    for line in lines:
        _common.say(f"{prog}: {line}")
    return _common.EXIT_ERRORS if lines else _common.EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
