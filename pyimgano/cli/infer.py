"""``pyimgano infer``: judge images with a saved pipeline."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyimgano._signals import Terminated
from pyimgano.cli import _common, _options, _records, _targets
from pyimgano.cli._images import find_images
from pyimgano.cli._saved import (
    add_loading_options,
    add_pipeline_and_images,
    files_of_pipeline,
    load_pipeline,
    prepare_networks,
)

__all__ = ["main"]

_PROG = "pyimgano-infer"
_DESCRIPTION = """\
Judge images with a saved pipeline: PASS, FAIL, or ERROR for an image that cannot be read.

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
  pyimgano infer line3.joblib part.png --fail-on-anomaly || echo stop the line

""" + _common.exit_statuses(
    {
        _common.EXIT_OK: "all images judged",
        _common.EXIT_ERRORS: "some images could not be judged, or their maps not written, whatever "
        "the verdicts on the others",
        _common.EXIT_ANOMALY: "with --fail-on-anomaly: all images judged, and a part is bad",
    }
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    # Intermixed: inputs may stand before, between and after the options.
    return _common.run(prog, lambda: _infer(_parser(prog).parse_intermixed_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = f"{prog} PIPELINE INPUT [INPUT ...] [options]"
    add_pipeline_and_images(parser, "images to judge")
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
        "--save-npy",
        action="switch",
        help="with --save-maps, also the numbers of each map: float32 .npy in the pixels of the "
        "image (after the pipeline's own resize, if it has one)",
    )
    add_loading_options(parser)
    return parser


def _infer(options: argparse.Namespace) -> int:
    _check(options)
    images, names = find_images(options.input)
    maps = None if options.save_maps is None else Path(options.save_maps)
    if maps is not None:
        pictures = (_picture_name(name) for name in names)
        _targets.check_maps_folder(options.save_maps, options.input, pictures)
    _check_outputs(options, images)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _judge(options, images, names, maps)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    example = f"{options.prog} line3.joblib photos/new"
    if options.pipeline is None:
        raise _common.UsageError(f"give a pipeline and images: {example}")
    if not options.input:
        what = "images" if os.path.isfile(options.pipeline) else "a pipeline and images"
        raise _common.UsageError(f"{options.pipeline} alone is not enough; give {what}: {example}")
    for needed, name in (("save_maps", "save_npy"), ("save_csv", "decimal_comma")):
        if getattr(options, name) and getattr(options, needed) is None:
            name, needed = (f"--{one.replace('_', '-')}" for one in (name, needed))
            raise _common.UsageError(f"{name} belongs to {needed}; give that as well")
    files = [options.save_jsonl, options.save_csv]
    if None not in files and os.path.realpath(files[0]) == os.path.realpath(files[1]):
        raise _common.UsageError(f"--save-jsonl and --save-csv are both {files[0]}; give two files")


def _judge(
    options: argparse.Namespace, images: list[str], names: list[str], maps: Path | None
) -> int:
    pipeline = load_pipeline(options.pipeline, options.trust)
    if maps is not None and not _makes_maps(pipeline):
        raise _common.UsageError(
            f"--save-maps: {options.pipeline} makes no heat maps; leave --save-maps out"
        )
    prepare_networks(pipeline, options)

    from pyimgano.inference import iter_infer, threshold
    from pyimgano.inputs._sequence import KeptImages

    if options.threshold is not None:
        _common.say(f"{options.prog}: {_of_threshold(pipeline, options.threshold)}")
    cut = threshold(pipeline) if options.threshold is None else options.threshold
    writer = None
    if maps is not None:
        kept = KeptImages(images)
        writer = _MapWriter(maps, pipeline, options, kept)
    counts = {"n_images": len(images), "n_anomalous": 0, "n_errors": 0}
    n_undrawn = done = 0
    started = time.perf_counter()
    begun = False
    try:
        with _outputs(options, images) as outputs, _progress(options, len(images)) as step:
            begun = True
            for result in iter_infer(
                pipeline,
                images if writer is None else kept,
                return_maps=writer is not None,
                on_error="record",
                threshold=cut,
            ):
                record = result.to_dict()
                if writer is not None:
                    n_undrawn += not writer.add(names[result.index], record, result.anomaly_map)
                for write in outputs.all:
                    write(record)
                counts["n_errors"] += "error" in record
                counts["n_anomalous"] += record.get("pred", 0)
                done = record["index"] + 1
                step(done, len(images))
            # Whoever reads the lines knows by this one that they are all there.
            for write in outputs.json:
                write({"complete": True, **counts})
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, Terminated) as error:
        there = _where_records_are(options, done)
        if there:
            note = f"{done} of {len(images)} images were judged{there}"
            vars(error).setdefault("__notes__", []).append(note)
        raise
    except (OSError, MemoryError, _common.StoppedError) as error:
        if not begun:
            raise
        raise _common.StoppedError(_where_it_stopped(options, error, done, images)) from error
    seconds = time.perf_counter() - started
    n_pass = len(images) - counts["n_anomalous"] - counts["n_errors"]
    undrawn = f"{_common.several(n_undrawn, 'map')} not written; " if n_undrawn else ""
    _common.say(
        f"{options.prog}: {_common.several(len(images), 'image')}: {n_pass} PASS, "
        f"{counts['n_anomalous']} FAIL, {counts['n_errors']} ERROR; {undrawn}threshold {cut:.4g}; "
        f"{len(images) / seconds:.1f} images/s"
    )
    if counts["n_errors"] or n_undrawn:
        return _common.EXIT_ERRORS
    if options.fail_on_anomaly and counts["n_anomalous"]:
        return _common.EXIT_ANOMALY
    return _common.EXIT_OK


def _of_threshold(pipeline: Any, asked: float) -> str:
    """Say what a threshold given by hand means."""
    from pyimgano._nesting import find_calibrator
    from pyimgano.inference import threshold

    text = f"threshold {asked:.4g} in place of the pipeline's {threshold(pipeline):.4g}"
    scores = getattr(find_calibrator(pipeline), "calibration_scores_", None)
    if scores is None:
        return text
    return (
        f"{text}; {(scores > asked).sum()} of the {len(scores)} good images that it was calibrated "
        "on would fail"
    )


def _where_it_stopped(
    options: argparse.Namespace, error: BaseException, done: int, images: Sequence[str]
) -> str:
    there = _where_records_are(options, done)
    return f"{_common.message(error)}; stopped after {done} of {len(images)} images{there}"


def _where_records_are(options: argparse.Namespace, done: int) -> str:
    """Name the files that hold the records of an unfinished run, to end a sentence."""
    from pyimgano.utils._outputs import part_of

    files = [one for one in (options.save_jsonl, options.save_csv) if one not in (None, "-")]
    parts = [str(part_of(one)) for one in files]
    parts = [part for part in parts if os.path.exists(part)]
    if not done or not parts:
        return ""
    return f", whose records are in {' and '.join(parts)}"


# ---- input ----------------------------------------------------------------------------
def _makes_maps(pipeline: Any) -> bool:
    from pyimgano._nesting import makes_maps

    return makes_maps(pipeline)


def _check_outputs(options: argparse.Namespace, images: Sequence[str]) -> None:
    """Refuse to write records over anything that is needed, or to nowhere."""
    used = _targets.real_paths([*images, *files_of_pipeline(options)])
    files = {"--save-jsonl": options.save_jsonl, "--save-csv": options.save_csv}
    for option, path in files.items():
        if path not in (None, "-"):
            _targets.check_records_file(option, path, used, options.input)
    if sys.stdout is None and ("-" in files.values() or not any(files.values())):
        raise _common.UsageError(
            "standard output is closed, and the records would go there; give --save-jsonl FILE"
        )


# Images whose maps give the scale of colors where none was saved.
_N_FOR_SCALE = 8


# ---- output ---------------------------------------------------------------------------
class _Outputs(NamedTuple):
    all: list[_records.Write]
    json: list[_records.Write]


def _shows_table(options: argparse.Namespace) -> bool:
    """Tell whether verdicts are shown to somebody who watches."""
    taken = "-" in (options.save_jsonl, options.save_csv)
    return not taken and sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def _outputs(options: argparse.Namespace, images: Sequence[str]) -> Iterator[_Outputs]:
    """The functions that write a record wherever it shall go."""
    jsonl, csv = options.save_jsonl, options.save_csv
    table = _shows_table(options)
    if jsonl is None and csv is None and not table:
        jsonl = "-"
    with ExitStack() as stack:
        json = [] if jsonl is None else [stack.enter_context(_records.json_lines(jsonl))]
        others = []
        if csv is not None:
            names = [*images, options.save_maps or ""]
            spreadsheet = _records.csv_file(csv, names, decimal_comma=options.decimal_comma)
            others.append(stack.enter_context(spreadsheet))
        if table:
            others.append(stack.enter_context(_records.table()))
        yield _Outputs([*json, *others], json)


@contextmanager
def _progress(options: argparse.Namespace, n: int) -> Iterator[Any]:
    from pyimgano.utils._progress import progress_callback

    # A bar would be in the way of the table.
    shown = _common.on_terminal() and not _shows_table(options)
    with progress_callback("images", shown) as progress:
        yield progress or (lambda done, total: None)


def _as_normalized(pipeline: Any, path: str) -> Any:
    """The image as the pipeline's ImageFormatNormalizer declares it, or as the file says."""
    from pyimgano._nesting import first_step
    from pyimgano.inputs import ImageFormatNormalizer, ImageSequence

    step = first_step(pipeline)
    if isinstance(step, ImageFormatNormalizer):
        return step.transform([path])[0]
    return ImageSequence([path])[0]


def _color_scale(
    pipeline: Any, options: argparse.Namespace, images: Sequence[str]
) -> tuple[tuple[float, float], str | None]:
    """Map values of the cold and the hot end, and where the peak of good images is.

    As saved, or else from the images at hand. None if none of these is good.
    """
    from pyimgano._nesting import makes_maps
    from pyimgano.inference import infer
    from pyimgano.persistence import read_map_range
    from pyimgano.reporting import range_of_maps

    saved = read_map_range(options.pipeline)
    if saved is not None:
        return saved, "middle"
    judged = []
    if makes_maps(pipeline):
        some = images[:: -(-len(images) // _N_FOR_SCALE)]
        results = infer(pipeline, some, return_maps=True, on_error="record")
        judged = [result for result in results if result.anomaly_map is not None]
    if not judged:
        return (0.0, 1.0), None  # there will be no picture
    good = [result.anomaly_map for result in judged if result.label == 1]
    whose = "that are judged normal" if good else "though all are judged anomalous"
    _common.say(
        f"{options.prog}: warning: {options.pipeline} was saved without a scale of colors, so it "
        "is taken from "
        f"{len(good or judged)} of these images, {whose}. pyimgano train and "
        "pyimgano.save(..., map_range=...) keep one scale for all images"
    )
    if good:
        return range_of_maps(good), "middle"
    return range_of_maps([result.anomaly_map for result in judged], peak_at=1.0), None


def _picture_name(name: str) -> str:
    from pyimgano.utils._outputs import short_name

    return f"{short_name(name)}.overlay.png"  # the suffix stays: a.png and a.jpg are two images


class _MapWriter:
    """Writes ``<name>.overlay.png``, and ``<name>.npy`` if asked, in folders like the images'."""

    def __init__(
        self, folder: Path, pipeline: Any, options: argparse.Namespace, images: Any
    ) -> None:
        from pyimgano._nesting import find_calibrator

        self.folder = folder
        self.npy = options.save_npy
        self.pipeline = pipeline
        self.images = images
        self.limits, self.good_peak = _color_scale(pipeline, options, images.paths)
        calibrator = find_calibrator(pipeline)
        self.good_scores = None if calibrator is None else calibrator.calibration_scores_
        self.used = _targets.real_paths([*images.paths, *files_of_pipeline(options)])

    def add(self, name: str, record: dict[str, Any], anomaly_map: Any) -> bool:
        """Write what belongs to a record and note where; or note why not, and return False."""
        from pyimgano.utils._outputs import is_out_of_room

        image = self.images.take(record["path"])
        if anomaly_map is None:
            return True
        try:
            if image is None:  # a cache of the pipeline has answered for the file
                image = _as_normalized(self.pipeline, record["path"])
            record.update(self._write(name, record, anomaly_map, image))
        except OSError as error:
            if is_out_of_room(error):  # the next map will not fare better
                raise
            record["map_error"] = str(error)
            return False
        return True

    def _write(
        self, name: str, record: dict[str, Any], anomaly_map: Any, image: Any
    ) -> dict[str, str]:
        import io

        import numpy as np

        from pyimgano.reporting import overlay, write_overlay
        from pyimgano.utils._outputs import atomic_write, short_name

        path = self.folder / f"{short_name(name)}.npy"
        picture = self.folder / _picture_name(name)
        # Before any folder is made: through a link it would be made elsewhere.
        inside = os.path.join(os.path.realpath(self.folder), os.path.dirname(_picture_name(name)))
        if os.path.realpath(path.parent) != os.path.normpath(inside):
            raise OSError(f"{path.parent} is reached by a link, which is not followed")
        for target in (path, picture)[not self.npy :]:
            if os.path.realpath(target) in self.used:
                raise OSError(f"{target} is read by this run, and is not overwritten")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = {"picture": str(picture)}
        if self.npy:
            content = io.BytesIO()
            np.save(content, np.asarray(anomaly_map, np.float32))
            with atomic_write(path) as file:
                file.write(content.getvalue())
            written["map"] = str(path)
        drawn = overlay(
            image,
            anomaly_map,
            self.limits,
            name,
            score=record["score"],
            threshold=record["threshold"],
            good_scores=self.good_scores,
            good_peak=self.good_peak,
        )
        write_overlay(picture, drawn)
        return written


if __name__ == "__main__":
    sys.exit(main())
