"""``pyimgano train``: fit and calibrate a pipeline on a folder of good images, and save it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from pyimgano import _defaults
from pyimgano.cli import _common, _options, _training
from pyimgano.cli._saved import check_output

__all__ = ["main"]

_PROG = "pyimgano-train"
_DESCRIPTION = """\
Fit an anomaly detector on a folder of images of good parts, put its threshold where the
false-alarm rate asks for it, and save the pipeline for pyimgano infer. No images of
defects, no test set and no particular names of folders are needed.
"""
_EPILOG = """\
examples:
  pyimgano train photos/good -o line3.joblib
  pyimgano train photos/good -o line3.joblib --quantile 0.99 --model vision_padim \\
      --features resnet18 --weights resnet18.pth
  pyimgano train photos/good -o line3.joblib --roi 40,20,600,460
      only this part of the picture counts
  pyimgano train photos/good -o line3.joblib --defects --defect-option min_area=30
      also find the places of defects
  pyimgano train photos/good -o line3.joblib --tile 512
      large images with small defects
  pyimgano train photos/good -o line3.joblib --preprocess align --preprocess clahe:clip_limit=3
      parts that do not lie exactly alike, in weak contrast
  pyimgano train --config line3.json
      all of it in a file
  pyimgano infer line3.joblib photos/new

""" + _common.exit_statuses(
    {_common.EXIT_ERRORS: "done, but some images could not be read and were left out"}
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _train(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = f"{prog} DIR -o FILE [options]"
    parser.add_argument(
        "folder",
        metavar="DIR",
        help="images of good parts, with all folders below it; in a configuration file, folder",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="where to save the pipeline, such as line3.joblib; replaced if it exists",
    )
    parser.add_argument(
        "--embed-weights",
        action="switch",
        help="put the weights of the network into the file, so that it needs nothing else where it "
        "is used (11 MB for resnet18, 3 MB for efficientnet_lite0)",
    )
    _options.add_threads_option(parser)
    images = parser.add_argument_group("images")
    _training.add_training_options(parser, images)
    images.add_argument(
        "--input-format",
        metavar="NAME",
        type=_options.input_format,
        default=_defaults.INPUT_FORMAT,
        help="format of frames that the saved pipeline is given as arrays in Python, such as "
        "bgr_u8_hwc for those of OpenCV; files tell theirs themselves (default: %(default)s)",
    )
    defects = parser.add_argument_group("defects")
    defects.add_argument(
        "--defects",
        action="switch",
        help="save with the pipeline how to find regions that are defective, with a pixel "
        "threshold that leaves none in as many good parts as --quantile says",
    )
    _training.add_defect_option(defects)
    _options.add_model_options(parser)
    return parser


def _train(options: argparse.Namespace) -> int:
    _check(options)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _train_checked(options)


def _train_checked(options: argparse.Namespace) -> int:
    from pyimgano.persistence import save

    trained = _training.train_on(
        options,
        options.folder,
        find_defects=options.defects,
        needs_maps=["defects"] * options.defects,
    )
    with _common.stopping("the pipeline was fitted, but not saved"):
        limits = _training.scale_of_maps(trained)
        save(
            trained.pipeline,
            options.output,
            map_range=limits,
            embed_weights=options.embed_weights,
        )
    _training.say_thresholds(trained)
    _common.tell(f"saved: {options.output}")
    _common.tell(f"next: pyimgano infer {shlex.quote(options.output)} NEW_IMAGES")
    return _common.EXIT_ERRORS if trained.n_errors else _common.EXIT_OK


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before hours are spent on it."""
    _training.check_training(options, options.folder)
    if options.defect_option and not options.defects:
        raise _common.UsageError(
            "--defect-option says how defects are found: give --defects as well"
        )
    given = (options.weights, options.roi)
    check_output(options.output, [one for one in given if isinstance(one, str)])


if __name__ == "__main__":
    sys.exit(main())
