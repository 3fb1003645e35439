"""``pyimgano recalibrate``: move the threshold of a saved pipeline, without fitting it again."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from pyimgano import _defaults
from pyimgano.cli import _common, _options
from pyimgano.cli._images import find_images, look_at
from pyimgano.cli._saved import (
    add_loading_options,
    add_pipeline_and_images,
    check_output,
    load_pipeline,
    prepare_networks,
)

__all__ = ["main"]

_PROG = "pyimgano recalibrate"
_DESCRIPTION = """\
Put the threshold of a saved pipeline somewhere else, and save the result. What the pipeline
has learned stays as it is, and so does the score of each image.

With images, all of them of good parts as they come now, the threshold is put where the
false-alarm rate asks for it among their scores, and the pixel threshold of defects, where there
is one, by their heat maps. Without images, --quantile puts the threshold by the scores that the
pipeline has, and --threshold puts it at a score.
"""
_EPILOG = """\
examples:
  pyimgano recalibrate line3.joblib photos/new_good -o line3b.joblib
  pyimgano recalibrate line3.joblib photos/new_good -o line3b.joblib --quantile 0.95
  pyimgano recalibrate line3.joblib -o line3b.joblib --quantile 0.99
  pyimgano recalibrate line3.joblib -o line3b.joblib --threshold 31.5
  pyimgano infer line3b.joblib photos/new

""" + _common.exit_statuses(
    {_common.EXIT_ERRORS: "done, but some images could not be read and were left out"}
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _recalibrate(_parser(prog).parse_intermixed_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = f"{prog} PIPELINE [INPUT ...] -o FILE [options]"
    add_pipeline_and_images(parser, "images of good parts")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="where to save the pipeline with the new threshold; replaced if it exists",
    )
    parser.add_argument(
        "--quantile",
        metavar="SHARE",
        type=_common.fraction,
        help="share of good parts that shall pass (default: as before)",
    )
    parser.add_argument(
        "--threshold",
        metavar="SCORE",
        type=_common.number,
        help="images with a higher score fail; takes no images",
    )
    _options.add_threads_option(parser)
    add_loading_options(parser)
    return parser


def _recalibrate(options: argparse.Namespace) -> int:
    _check(options)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _move_threshold(options)


def _check(options: argparse.Namespace) -> None:
    if options.pipeline is None:
        raise _common.UsageError(
            f"give a pipeline and images: {options.prog} line3.joblib photos/new_good -o FILE"
        )
    _options.check_quantile(options.quantile)
    if options.threshold is not None and (options.input or options.quantile is not None):
        raise _common.UsageError(
            "--threshold puts the threshold at a score, whatever images and rates say; leave out "
            "--quantile and the images, or --threshold"
        )
    if not options.input and options.threshold is None and options.quantile is None:
        raise _common.UsageError(
            f"{options.pipeline} alone is not enough; give images of good parts, --quantile or "
            "--threshold"
        )
    for name in ("weights", "device", "engine"):
        if getattr(options, name) is not None and not options.input:
            raise _common.UsageError(
                f"--{name} belongs to a network that looks at images, and without images none "
                f"runs; give images, or leave out --{name}"
            )
    check_output(options.output, [options.weights] if options.weights is not None else [])


def _move_threshold(options: argparse.Namespace) -> int:
    paths = find_images(options.input)[0]
    check_output(options.output, paths)
    pipeline = load_pipeline(options.pipeline, options.trust)
    from pyimgano._nesting import find_calibrator, find_defects
    from pyimgano.persistence import read_map_range, save

    calibrator = find_calibrator(pipeline)
    if calibrator is None:
        raise _common.UsageError(
            f"{options.pipeline} holds no ThresholdCalibrator, whose threshold could be moved. In "
            "Python: ThresholdCalibrator(FrozenEstimator(pipeline)).fit(good_images), then save it"
        )
    before, pixels = calibrator.threshold_, find_defects(pipeline)
    pixel_before = None if pixels is None else pixels.pixel_threshold_
    n_errors = 0
    if options.threshold is not None:
        calibrator.set_threshold(options.threshold)
    elif not paths:
        calibrator.set_quantile(options.quantile)
    else:
        n_errors = _by_images(options, pipeline, calibrator, pixels, paths)
    from pyimgano.calibration._words import pixel_threshold_in_words, threshold_in_words

    for line in threshold_in_words(calibrator.provenance_):
        _common.tell(line)
    scores = calibrator.calibration_scores_
    if len(scores):
        above = [int((scores > cut).sum()) for cut in (before, calibrator.threshold_)]
        _common.tell(
            f"of {'these' if paths else 'the'} {len(scores)} good images, {above[0]} were called "
            f"bad before (threshold {before:.4g}), and {above[1]} now"
        )
    else:
        _common.tell(f"the threshold was {before:.4g} before")
    if pixels is not None and paths:
        _common.tell(
            f"{pixel_threshold_in_words(pixels.pixel_provenance_)}; it was {pixel_before:.4g}"
        )
    elif pixels is not None:
        _common.tell(
            f"the pixel threshold of its defects stays at {pixels.pixel_threshold_:.4g}; images "
            "move it as well, and in Python set_pixel_quantile does"
        )
    with _common.stopping("the pipeline with the new threshold was not saved"):
        save(pipeline, options.output, map_range=read_map_range(options.pipeline))
    _common.tell(f"saved: {options.output}")
    _common.tell(f"next: pyimgano infer {shlex.quote(options.output)} NEW_IMAGES")
    return _common.EXIT_ERRORS if n_errors else _common.EXIT_OK


def _by_images(
    options: argparse.Namespace, pipeline: Any, calibrator: Any, pixels: Any, paths: list[str]
) -> int:
    """Recalibrate on images; return the number of those that could not be read."""
    from pyimgano._nesting import find_calibrator, input_of
    from pyimgano.inputs import ImageSequence

    before = prepare_networks(pipeline, options)
    found = look_at(
        options.prog,
        ", ".join(options.input),
        ImageSequence(paths),
        _defaults.U16_MAX,
        _common.on_terminal(),
    )
    if not len(found.images):
        raise _common.UsageError("none of the images can be read")
    images = found.images.paths
    if pixels is not None:
        pixels.recalibrate(input_of(pixels, pipeline, images), options.quantile)
    # One around the calibrator of pixels is not moved along with it.
    if pixels is None or find_calibrator(pixels) is not calibrator:
        calibrator.recalibrate(input_of(calibrator, pipeline, images), options.quantile)
    for step, parameters in before:  # the options are for this run, not for the saved pipeline
        step.set_params(**parameters)
    return found.n_errors


if __name__ == "__main__":
    sys.exit(main())
