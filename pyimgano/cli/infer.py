"""``pyimgano infer``: judge images with a saved pipeline."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pyimgano import _defaults
from pyimgano.cli import _common, _monitoring, _options, _targets, _training
from pyimgano.cli._judging import Run, finds_defects
from pyimgano.cli._pictures import WRITERS, MapWriter
from pyimgano.cli._saved import (
    add_loading_options,
    add_pipeline_and_images,
    files_of_pipeline,
    open_pipeline,
    prepare_networks,
)
from pyimgano.cli._sources import FilesSource, HotFolder, NamesOnInput

__all__ = ["main"]

_PROG = "pyimgano-infer"
_DESCRIPTION = """\
Judge images with a saved pipeline: PASS, FAIL, or ERROR for an image that cannot be read.
With --model and --train-dir a model is trained first, as pyimgano train does, and not kept.

On a terminal the verdicts are a table. Elsewhere, and in --save-jsonl, each image is a line
of JSON: index, path, score (higher = more anomalous), threshold, pred (1 = anomalous) and
p_value (how often a good part scores as high), or an error in place of the score. The last
line holds the counts and says that all are there.
"""
_EPILOG = """\
examples:
  pyimgano infer line3.joblib photos/new
  pyimgano infer line3.joblib "line3/*.png" --save-csv verdicts.csv --save-maps maps
  pyimgano infer line3.joblib photos/new --threshold 31.5
  pyimgano infer line3.joblib photos/new > verdicts.jsonl
  pyimgano infer --config line3.json photos/new
  pyimgano infer --bundle line3.zip photos/new
  pyimgano infer --model industrial-fast --train-dir photos/good photos/new --tile 512
  pyimgano infer line3.joblib part.png --fail-on-anomaly || echo stop the line

""" + _common.exit_statuses(
    {
        _common.EXIT_OK: "all images judged",
        _common.EXIT_ERRORS: "some images could not be judged, or their maps not written, whatever "
        "the verdicts on the others; or some in --train-dir could not be read",
        _common.EXIT_ANOMALY: "with --fail-on-anomaly: all images judged, and a part is bad",
    }
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    # Intermixed: inputs may stand before, between and after the options.
    return _common.run(prog, lambda: _infer(_parser(prog).parse_intermixed_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = (
        f"{prog} PIPELINE|--bundle BUNDLE|--model NAME --train-dir DIR INPUT [INPUT ...] [options]"
    )
    either = add_pipeline_and_images(parser, "images to judge", stream=True)
    parser.add_argument(
        "--watch",
        metavar="DIR",
        help="judge the images that come into a folder, or below it, each once, until Ctrl-C or "
        "SIGTERM; with --save-jsonl FILE, to which records are appended and by which a restart "
        "knows what is done. Files that are still being written are waited for",
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=_common.number,
        help="images with a higher score fail, in place of the pipeline's own threshold",
    )
    parser.add_argument(
        "--fail-on-anomaly",
        action="switch",
        help="exit with status 3 if a part is bad, and all images could be judged",
    )
    _options.add_threads_option(parser)
    _add_running_options(parser)
    _monitoring.add_monitor_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--save-jsonl", metavar="FILE", help='records as JSON lines; "-" is standard output'
    )
    output.add_argument(
        "--save-csv",
        metavar="FILE",
        help="a table for spreadsheet programs, one row per image; a cell that they would take "
        "for a formula begins with an apostrophe",
    )
    output.add_argument(
        "--decimal-comma",
        action="switch",
        help="in --save-csv decimal commas, and semicolons between the cells, as Excel expects "
        "them in many countries",
    )
    output.add_argument(
        "--save-maps",
        metavar="DIR",
        help="a picture of each verdict: the image, and its heat map beside it",
    )
    output.add_argument(
        "--defects",
        action="switch",
        help="records have the defects of each image, for a pipeline with a "
        "PixelThresholdCalibrator, as pyimgano train --defects makes them, or with --model",
    )
    output.add_argument(
        "--save-masks",
        metavar="DIR",
        help="the defects of each image as a mask: a PNG with 255 where one is",
    )
    output.add_argument(
        "--save-overlays",
        metavar="DIR",
        help="each image with the outlines and numbers of its defects; --save-maps draws heat maps",
    )
    output.add_argument(
        "--save-npy",
        action="switch",
        help="with --save-maps, also the numbers of each map: float32 .npy in the pixels of the "
        "image (after the pipeline's own resize, if it has one)",
    )
    add_loading_options(parser, trains=True)
    _options.add_model_options(parser, beside_pipelines=either)
    training = parser.add_argument_group("training, with --model")
    training.add_argument(
        "--train-dir",
        metavar="DIR",
        help="images of good parts to train the model of --model on, with all folders below it",
    )
    _training.add_training_options(training, training)
    _training.add_defect_option(training)
    return parser


def _add_running_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of options that say how a long run goes, and when it stops."""
    running = parser.add_argument_group("long runs")
    running.add_argument(
        "--batch-size",
        metavar="N",
        type=_common.count,
        default=_defaults.BATCH_SIZE,
        help="images judged at a time (default: %(default)s); the verdicts do not depend on it",
    )
    running.add_argument(
        "--num-workers",
        metavar="N",
        type=_common.count_or_zero,
        default=_defaults.N_WORKERS,
        help="threads that read images ahead, 0 for none (default: %(default)s)",
    )
    running.add_argument(
        "--on-error",
        choices=("record", "raise"),
        default="record",
        help="an image that cannot be judged has a record with an error, or stops the run "
        "(default: %(default)s)",
    )
    running.add_argument(
        "--max-errors",
        metavar="N",
        type=_common.count_or_zero,
        help="stop when more images than that cannot be judged",
    )
    running.add_argument(
        "--time-limit",
        metavar="SECONDS",
        type=_seconds,
        help="an image that takes longer to read or to judge has an error in place of a score",
    )
    running.add_argument(
        "--resume",
        action="switch",
        help="go on with the records of --save-jsonl where an earlier run was ended, or with more "
        "images; pipeline and options must be the same",
    )
    running.add_argument(
        "--seed",
        metavar="N",
        type=_options.seed,
        help="seed of the global random generators, for models of other packages that draw random "
        "numbers when they score; those of this package do not. With --model also that of "
        f"training (default: {_defaults.RANDOM_STATE})",
    )
    running.add_argument(
        "--profile",
        action="switch",
        help="tell at the end how long images took in each stage: median and percentiles",
    )
    running.add_argument(
        "--save-profile", metavar="FILE", help="write the numbers of --profile as JSON"
    )


def _seconds(text: str) -> float:
    value = _common.number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _infer(options: argparse.Namespace) -> int:
    _check(options)
    source = _source(options)
    # Of a stream the names are not known, and any name will do.
    names = ["image"] if source.paths is None else [source.name(path) for path in source.paths]
    for kind in _asked(options):
        _targets.check_pictures_folder(
            f"--{kind.option.replace('_', '-')}",
            getattr(options, kind.option),
            _folders(options),
            map(kind.file_of, names),
        )
    _check_outputs(options, source.paths or [])
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _judge(options, source)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    example = f"{options.prog} line3.joblib photos/new"
    delivered = options.bundle or options.infer_config or options.from_run or options.model
    if options.pipeline is None and delivered is None:
        raise _common.UsageError(f"give a pipeline and images: {example}")
    if options.category is not None and options.from_run is None:
        raise _common.UsageError("--category names a pipeline of --from-run, which is not given")
    _check_training(options)
    if not options.input and options.watch is None:
        given = options.pipeline or delivered
        what = "images" if delivered or os.path.isfile(given) else "a pipeline and images"
        raise _common.UsageError(f"{given} alone is not enough; give {what}: {example}")
    for needed, name in (("save_maps", "save_npy"), ("save_csv", "decimal_comma")):
        if getattr(options, name) and getattr(options, needed) is None:
            name, needed = (f"--{one.replace('_', '-')}" for one in (name, needed))
            raise _common.UsageError(f"{name} belongs to {needed}; give that as well")
    files = [options.save_jsonl, options.save_csv]
    if None not in files and os.path.realpath(files[0]) == os.path.realpath(files[1]):
        raise _common.UsageError(f"--save-jsonl and --save-csv are both {files[0]}; give two files")
    _monitoring.check_monitor_options(options)
    for name in ("watch", "resume"):
        if getattr(options, name) and options.save_jsonl in (None, "-"):
            raise _common.UsageError(
                f"--{name} needs --save-jsonl FILE, whose records tell which images are done"
            )
    if options.watch is not None and options.input:
        raise _common.UsageError(
            f"--watch {options.watch} and {options.input[0]} do not go together; judge what is "
            "there in a run of its own"
        )
    if "-" in options.input and len(options.input) > 1:
        raise _common.UsageError("- takes names from standard input, and goes with no other input")


# Options that say how a model is trained, beside --train-dir; those of loading are for both.
_OF_TRAINING = (
    *("tile", "tile_overlap", "preprocess", "roi", "val_dir", "confidence", "defect_option"),
    *("set", "features", "layers", "resize", "crop", "quantile", "u16_max"),
)


def _check_training(options: argparse.Namespace) -> None:
    """Refuse options of training that are incomplete, or for a pipeline that is fitted."""
    if options.model is None:
        if options.train_dir is not None:
            raise _common.UsageError(
                f"--train-dir {options.train_dir} needs a model to train: give --model NAME, such "
                f"as {_defaults.MODEL}"
            )
        for name in _OF_TRAINING:
            if getattr(options, name) not in (None, []):
                raise _common.UsageError(_of_fitted(options, name))
        return
    if options.train_dir is None:
        raise _common.UsageError(
            f"--model {options.model} needs images of good parts to train on: give --train-dir DIR"
        )
    if options.trust:
        raise _common.UsageError("--trust goes with a pipeline file, not with --model")
    _training.check_training(
        _options.with_model_defaults(options), options.train_dir, "--train-dir"
    )
    if options.defect_option and not finds_defects(options):
        raise _common.UsageError(
            "--defect-option says how defects are found: give --defects, --save-masks or "
            "--save-overlays as well"
        )


def _of_fitted(options: argparse.Namespace, name: str) -> str:
    """Say why an option of training does nothing to a pipeline that is fitted already."""
    given = options.pipeline or options.bundle or options.infer_config or options.from_run
    option = f"--{name.replace('_', '-')}"
    why = f"{given} was fitted with its own, by which its threshold was put"
    if name in ("tile", "tile_overlap"):
        why = (
            f"how images are cut is fixed by fit: {given} has learned from images cut, or not, in "
            "its own way, and its threshold is for the scores of such images"
        )
    return (
        f"{option} belongs to --model and --train-dir: {why}. Leave it out, or train another with "
        f"pyimgano train {option}"
    )


def _source(options: argparse.Namespace) -> FilesSource:
    if options.watch is not None:
        return HotFolder(options.watch)
    return NamesOnInput() if options.input == ["-"] else FilesSource(options.input)


def _folders(options: argparse.Namespace) -> list[str]:
    """Folders, files and patterns in which the next run will look for images."""
    trained_on = [one for one in (options.train_dir, options.val_dir) if one is not None]
    if options.watch is not None:
        return [options.watch, *trained_on]
    return [*([] if options.input == ["-"] else options.input), *trained_on]


def _judge(options: argparse.Namespace, source: FilesSource) -> int:
    from pyimgano._nesting import find_defects, makes_maps

    trained = None if options.model is None else _train(options)
    pipeline = open_pipeline(options) if trained is None else trained.pipeline
    if options.save_maps is not None and not makes_maps(pipeline):
        raise _common.UsageError(
            f"--save-maps: {options.pipeline} makes no heat maps; leave --save-maps out"
        )
    if finds_defects(options) and find_defects(pipeline) is None:
        raise _common.UsageError(
            f"--defects, --save-masks, --save-overlays: {options.pipeline} does not say from which "
            "value of a heat map on a pixel is defective; train it with --defects, or fit it "
            "within a PixelThresholdCalibrator"
        )
    if trained is None:
        _check_precision(pipeline, options)
        prepare_networks(pipeline, options)
    _set_batch_size(pipeline, options.batch_size)
    if options.seed is not None:
        _seed_generators(options.seed)
    if options.threshold is not None:
        _common.say(f"{options.prog}: {_of_threshold(pipeline, options.threshold)}")
    writers = [
        MapWriter(options, source.paths, pipeline)
        if kind is MapWriter
        else kind(options, source.paths)
        for kind in _asked(options)
    ]
    run = Run(options, source, pipeline, writers)
    if options.watch is not None:
        _common.say(
            f"{options.prog}: watching {options.watch}; records go to {options.save_jsonl}. "
            "Ctrl-C or SIGTERM ends it"
        )
    run.judge()
    _say_counts(options, run)
    if run.times is not None:
        _tell_times(options, run)
    counts = run.counts()
    if counts["n_errors"] or run.n_undrawn or (trained is not None and trained.n_errors):
        return _common.EXIT_ERRORS
    if options.fail_on_anomaly and counts["n_anomalous"]:
        return _common.EXIT_ANOMALY
    return _common.EXIT_OK


def _train(options: argparse.Namespace) -> _training.Trained:
    """Train the model, and note in the options what ``open_pipeline`` notes of a saved one."""

    def tell(text: str) -> None:  # standard output is for the records
        _common.say(f"{options.prog}: {text}")

    for_maps = ("save_maps", "save_masks", "save_overlays", "defects")
    trained = _training.train_on(
        _options.with_model_defaults(options),
        options.train_dir,
        find_defects=finds_defects(options),
        needs_maps=[name for name in for_maps if getattr(options, name)],
        tell=tell,
    )
    options.pipeline = options.model  # a name for messages
    options.map_range = None
    if options.save_maps is not None:
        options.map_range = _training.scale_of_maps(trained.pipeline, trained.images)
    _training.say_thresholds(trained.pipeline, tell)
    return trained


def _check_precision(pipeline: Any, options: argparse.Namespace) -> None:
    """Refuse to compute in bfloat16 what was calibrated in float32."""
    from pyimgano._nesting import find_parts
    from pyimgano.features._network import BaseNetworkFeatures

    if not options.amp:
        return
    networks = find_parts(pipeline, BaseNetworkFeatures)
    if not networks:
        raise _common.UsageError(f"--amp belongs to a network, and {options.pipeline} has none")
    if any(step.precision != "bfloat16" for step in networks):
        raise _common.UsageError(
            f"--amp: {options.pipeline} was fitted and calibrated in float32. Scores in bfloat16 "
            "differ by about 1 %, and its threshold would no longer keep the rate of false alarms "
            "that it states. Train it in bfloat16, with pyimgano train --amp, or here with --model"
        )


def _asked(options: argparse.Namespace) -> list[Any]:
    return [kind for kind in WRITERS if getattr(options, kind.option) is not None]


def _set_batch_size(pipeline: Any, batch_size: int) -> None:
    """Have feature steps take as many images at a time as are judged at a time."""
    from pyimgano._nesting import find_parts
    from pyimgano.features import BasePatchFeatures

    for step in find_parts(pipeline, BasePatchFeatures):
        step.set_params(batch_size=batch_size)


def _seed_generators(seed: int) -> None:
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global one is what such models draw from
    torch = sys.modules.get("torch")
    if torch is not None:  # else no model of the pipeline uses it
        torch.manual_seed(seed)


def _say_counts(options: argparse.Namespace, run: Run) -> None:
    counts = run.counts()
    n = counts["n_images"]
    n_pass = n - counts["n_anomalous"] - counts["n_errors"]
    undrawn = f"{_common.several(run.n_undrawn, 'map')} not written; " if run.n_undrawn else ""
    before = f", {run.n_before} of them before" if run.n_before else ""
    speed = ""
    if options.watch is None:
        speed = f"; {(n - run.n_before) / run.seconds:.1f} images/s"
    _common.say(
        f"{options.prog}: {_common.several(n, 'image')}{before}: {n_pass} PASS, "
        f"{counts['n_anomalous']} FAIL, {counts['n_errors']} ERROR; {undrawn}threshold "
        f"{run.cut:.4g}{speed}"
    )


def _tell_times(options: argparse.Namespace, run: Run) -> None:
    """Show how long images took in each stage, and write it to a file."""
    assert run.times is not None
    stages = run.times.summary()
    if options.profile:
        _common.say(f"{'stage':<12} {'mean':>9} {'p50':>9} {'p95':>9} {'p99':>9}  ms per image")
        for stage, row in stages.items():
            cells = (f"{row[f'{key}_ms']:9.3f}" for key in ("mean", "p50", "p95", "p99"))
            _common.say(f"{stage:<12} {' '.join(cells)}")
    if options.save_profile:
        from pyimgano.utils._json import write_json

        n = run.log.n_records - run.n_before
        profile = {
            "n_images": n,
            "seconds": run.seconds,
            "images_per_second": n / run.seconds,
            "batch_size": options.batch_size,
            "num_workers": options.num_workers,
            "stages": stages,
        }
        with _common.stopping("the records are written"):
            write_json(options.save_profile, profile)


def _of_threshold(pipeline: Any, asked: float) -> str:
    """Say what a threshold given by hand means."""
    from pyimgano._nesting import find_calibrator
    from pyimgano.inference import threshold

    text = f"threshold {asked:.4g} in place of the pipeline's {threshold(pipeline):.4g}"
    scores = getattr(find_calibrator(pipeline), "calibration_scores_", None)
    if scores is None or not len(scores):  # not calibrated, or on copies of one image
        return text
    return (
        f"{text}; {(scores > asked).sum()} of the {len(scores)} good images that it was calibrated "
        "on would fail"
    )


def _check_outputs(options: argparse.Namespace, images: Sequence[str]) -> None:
    """Refuse to write records over anything that is needed, or to nowhere."""
    used = _targets.real_paths([*images, *files_of_pipeline(options)])
    files = {"--save-jsonl": options.save_jsonl, "--save-csv": options.save_csv}
    for option, path in files.items():
        if path not in (None, "-"):
            _targets.check_records_file(option, path, used, _folders(options))
    if options.save_profile is not None:
        _targets.check_file("--save-profile", options.save_profile, used)
    if options.monitor is not None:
        _targets.check_records_file("--monitor", options.monitor, used, _folders(options))
        for path in (_monitoring.state_of(options), _monitoring.journal_of(options)):
            assert path is not None
            _targets.check_file("--monitor", path, used)
    if sys.stdout is None and ("-" in files.values() or not any(files.values())):
        raise _common.UsageError(
            "standard output is closed, and the records would go there; give --save-jsonl FILE"
        )


if __name__ == "__main__":
    sys.exit(main())
