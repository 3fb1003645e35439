"""``pyimgano benchmark``: fit on good parts, judge a test set, write a run directory."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyimgano import _defaults
from pyimgano.cli import _common, _data, _options, _targets
from pyimgano.cli._report_text import report_text

__all__ = ["main"]

_PROG = "pyimgano-benchmark"
_DESCRIPTION = """\
Fit an anomaly detector on the good training images of a dataset, put its threshold
where the false-alarm rate asks for it, judge the test images, and write a run
directory with reports, one record per image, the fitted pipeline, and pictures of
the worst, the best and the closest calls of each kind.

Standard output holds the summary as JSON and nothing else; on a terminal it is left
out unless --json asks for it. The table and all messages go to standard error.
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
  pyimgano benchmark --dataset mvtec_ad --root mvtec_anomaly_detection --jobs 4
  pyimgano benchmark --dataset mvtec_ad --root mvtec_anomaly_detection --resume
  pyimgano benchmark --dataset manifest --root parts.csv
  pyimgano benchmark --config screw.json
  pyimgano benchmark --dataset synthetic --model vision_patchcore \\
      --features filterbank --set coreset_ratio=0.05
  pyimgano benchmark --dataset folder --root data --pipeline line3.joblib
      the same estimator with the same parameters, fitted on each category

""" + _common.exit_statuses(
    {
        _common.EXIT_ERRORS: "done, but some test images or masks could not be read, or some of "
        "the categories failed"
    }
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _benchmark(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = f"{prog} --dataset NAME [--root DIR] [options]"

    _data.add_data_options(parser, of_benchmark=True)
    _options.add_model_options(parser, of_benchmark=True)
    _options.add_threads_option(parser)
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_common.count,
        help="categories to run side by side (default: one, with dask as many as it has workers)",
    )
    parser.add_argument(
        "--joblib-backend",
        choices=("loky", "dask"),
        default="loky",
        help="where --jobs run: in processes of this machine, or on the workers of a Dask cluster, "
        "which must have the images and the run directory under the same paths (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--dask-scheduler", metavar="ADDRESS", help="of the cluster, such as tcp://10.0.0.5:8786"
    )

    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir",
        metavar="DIR",
        default=_defaults.OUTPUT_DIR,
        help="where to make the run directory (default: %(default)s)",
    )
    output.add_argument(
        "--save-run",
        action="switch",
        default=True,
        help="write a run directory (default: yes)",
    )
    output.add_argument(
        "--resume",
        metavar="DIR",
        nargs="?",
        const=True,
        default=False,
        help="go on with a run that was interrupted, without repeating the categories that are "
        "finished: that in DIR, or the newest in --output-dir with the same options, or a new one "
        "if there is none",
    )
    output.add_argument(
        "--per-image-jsonl",
        action="switch",
        default=True,
        help="write a record for each test image (default: yes)",
    )
    output.add_argument(
        "--output", metavar="FILE", help="write the summary to FILE as well, as JSON"
    )
    output.add_argument(
        "--json",
        action="switch",
        help="print the summary as JSON, also on a terminal",
    )
    output.add_argument(
        "--overlays",
        metavar="N",
        type=_common.count_or_zero,
        default=_defaults.N_OVERLAYS,
        help="at most N pictures: of each kind of test image the one judged worst, the one judged "
        "best and the one closest to the threshold (default: %(default)s)",
    )
    output.add_argument(
        "--save", action="switch", default=True, help="save the fitted pipeline (default: yes)"
    )

    discovery = parser.add_argument_group(
        "discovery", "print what there is, as JSON, and do nothing else"
    )
    one = discovery.add_mutually_exclusive_group()
    one.add_argument("--list-models", action="store_true", help="names of models")
    one.add_argument("--model-info", metavar="NAME", help="all about a model")
    one.add_argument("--list-datasets", action="store_true", help="names of datasets")
    one.add_argument(
        "--list-categories",
        action="store_true",
        help="names of the categories of --dataset below --root",
    )
    _options.add_model_filters(discovery)
    # They ask about something else than a run.
    parser.command_line_only.update(action.dest for action in discovery._group_actions)
    return parser


def _benchmark(options: argparse.Namespace) -> int:
    found = _discover(options)
    if found is not None:
        _common.answer(json.dumps(found, indent=2, ensure_ascii=False))
        return _common.EXIT_OK
    _check(options)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _run_checked(options)


def _run_checked(options: argparse.Namespace) -> int:
    described, evaluated = _what_to_evaluate(options)
    from pyimgano.benchmark import run_benchmark
    from pyimgano.utils._json import json_text, write_json

    progress = _common.on_terminal()
    _common.say(f"{options.dataset}: fitting {described} ...")
    with _backend(options):
        result = _run(
            run_benchmark,
            options.dataset,
            root=options.root,
            category=options.category[0] if options.category == ["all"] else options.category,
            **evaluated,
            quantile=options.quantile,
            u16_max=options.u16_max,
            limit_train=options.limit_train,
            limit_test=options.limit_test,
            synthetic_defects=options.synthetic_defects,
            output_dir=options.output_dir if options.save_run else None,
            resume=options.resume,
            save_pipeline=options.save,
            save_records=options.per_image_jsonl,
            n_overlays=options.overlays,
            random_state=options.seed,
            n_jobs=options.jobs if options.joblib_backend == "loky" else None,
            dataset_options=_data.dataset_options(options),
            progress=progress,
        )
    _common.say(f"\n{report_text(result.report, result.categories)}")
    if result.path is not None:
        _common.say(f"\nrun directory: {result.path}")
    status = _problems(result, options.prog)
    nowhere = "there is no run directory" if result.path is None else ""
    there = nowhere or f"the run directory is {result.path}"
    failed = None
    if options.output is not None:
        try:
            with _common.stopping(there):
                write_json(options.output, result.report)
        except _common.StoppedError as error:
            failed = error  # told after the report was printed, which may be all that is left of it
    if options.json or (sys.stdout is not None and not sys.stdout.isatty()):
        try:
            _common.answer(json_text(result.report))
        except _common.StoppedError as error:
            failed = _common.StoppedError(f"{error}; {there}")
    if failed is not None:
        raise failed
    return status


def _what_to_evaluate(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The model or pipeline in words, and as arguments of ``run_benchmark``."""
    if options.pipeline is not None:
        from pyimgano.benchmark._pipelines import given_pipeline

        try:
            given_pipeline(options.pipeline, options.quantile)
        except (TypeError, ValueError) as error:
            raise _common.UsageError(f"--pipeline {options.pipeline}: {error}") from error
        return f"copies of {options.pipeline}", {"pipeline": options.pipeline}
    name, described = _options.name_model(options)
    model = _options.make_model_as_asked(options, name, _common.on_terminal())
    return described, {"model": model, "model_name": name}


def _discover(options: argparse.Namespace) -> Any:
    """Find what the options of discovery ask for; None if they do not ask for anything."""
    filters = _options.model_filters(options)
    if options.list_models:
        from pyimgano.registry import list_models

        return list_models(**filters)
    for name, value in filters.items():
        if value is not None:
            raise _common.UsageError(f"{_options.MODEL_FILTERS[name]} belongs to --list-models")
    if options.model_info is not None:
        from pyimgano.registry import model_info

        return model_info(options.model_info)
    if options.list_datasets:
        from pyimgano.datasets import list_datasets

        return list_datasets()
    if options.list_categories:
        from pyimgano.datasets import list_categories

        if options.dataset is None:
            raise _common.UsageError("--list-categories needs --dataset NAME")
        _data.check_root(options)
        return list_categories(options.dataset, options.root)
    return None


@contextmanager
def _backend(options: argparse.Namespace) -> Iterator[None]:
    """Let joblib run categories on a cluster where the options ask for one."""
    if options.joblib_backend != "dask":
        yield
        return
    from joblib import parallel_config

    from pyimgano.utils._optional import import_optional

    distributed = import_optional("distributed", "dask", "--joblib-backend dask")
    try:
        client = distributed.Client(options.dask_scheduler)
    except (OSError, ValueError) as error:
        raise _common.UsageError(
            f"--dask-scheduler {options.dask_scheduler}: {error}; give the address of a scheduler "
            "that runs, such as tcp://10.0.0.5:8786"
        ) from error
    with client:  # noqa: SIM117 (joblib needs the client)
        with parallel_config("dask", n_jobs=options.jobs or -1):
            yield


def _run(run_benchmark: Any, *arguments: Any, **options: Any) -> Any:
    from pyimgano.benchmark._opening import RunStoppedError
    from pyimgano.exceptions import DatasetError

    try:
        return run_benchmark(*arguments, **options)
    except DatasetError as error:
        if arguments[0] not in ("folder", "custom"):
            raise
        raise _common.UsageError(
            f"{str(error).rstrip('.')}. To train on a folder of good images alone, without a test "
            "set, there is pyimgano train; --synthetic-defects N tests with painted defects."
        ) from error
    except RunStoppedError as error:
        raise _common.StoppedError(_common.message(error)) from error


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
            "metrics; the categories' report.json says which and why"
        )
    for line in lines:
        _common.say(f"{prog}: {line}")
    return _common.EXIT_ERRORS if lines else _common.EXIT_OK


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is imported or read."""
    _data.check_data_options(options)
    if options.json and sys.stdout is None:
        raise _common.UsageError("--json: standard output is closed, and the report goes there")
    _options.check_model_options(options)
    if (options.joblib_backend == "dask") != (options.dask_scheduler is not None):
        raise _common.UsageError("--joblib-backend dask and --dask-scheduler ADDRESS go together")
    if (options.jobs or 1) > 1 and options.threads is not None:
        raise _common.UsageError(
            "--threads is for one process; with --jobs set OMP_NUM_THREADS, which all of them obey"
        )
    if options.resume and not options.save_run:
        raise _common.UsageError(
            "--resume goes on with a run directory, and --no-save-run has none"
        )
    if options.save_run and options.root is not None and os.path.isdir(options.root):
        data, runs = (os.path.realpath(one) for one in (options.root, options.output_dir))
        if data == runs or runs.startswith(os.path.join(data, "")):
            raise _common.UsageError(
                f"--output-dir {options.output_dir}: lies in the folder of the dataset, "
                f"{options.root}, where pictures of a run could be taken for images of the "
                "dataset; give a folder elsewhere"
            )
    if options.output is not None:
        files = [
            one for one in (options.root, options.weights, options.pipeline) if one is not None
        ]
        _targets.check_file("--output", options.output, _targets.real_paths(files))


if __name__ == "__main__":
    sys.exit(main())
