"""``pyimgano-train``: fit and calibrate a pipeline on a folder of good images, and save it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyimgano.cli import _common, _options

__all__ = ["main"]

_PROG = "pyimgano-train"
_DESCRIPTION = """\
Fit an anomaly detector on a folder of images of good parts, put its threshold where the
false-alarm rate asks for it, and save the pipeline for pyimgano-infer. No images of
defects, no test set and no particular names of folders are needed.
"""
_EPILOG = """\
examples:
  pyimgano-train photos/good -o line3.joblib
  pyimgano-train photos/good -o line3.joblib --quantile 0.99 --model vision_padim \\
      --features resnet18 --weights resnet18.pth
  pyimgano-infer --pipeline line3.joblib --input photos/new --save-jsonl verdicts.jsonl

""" + _common.exit_statuses(
    {_common.EXIT_ERRORS: "done, but some images could not be read and were left out"}
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    options = _parser(prog).parse_args(argv)
    return _common.run(prog, lambda: _train(options))


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "folder", metavar="DIR", help="images of good parts, with all folders below it"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="where to save the pipeline, such as line3.joblib; replaced if it exists",
    )
    _options.add_model_options(parser)
    return parser


def _train(options: argparse.Namespace) -> int:
    _check(options)
    from pyimgano.benchmark._benchmark import make_pipeline_of
    from pyimgano.inputs import ImageSequence
    from pyimgano.persistence import save
    from pyimgano.reporting import map_range

    progress = _common.on_terminal()
    # A wrong parameter or a missing file of weights is better said before images are looked for.
    pipeline = make_pipeline_of(
        _options.make_model_as_asked(options, progress), options.quantile, options.u16_max
    )
    images = ImageSequence.from_folder(options.folder, recursive=True, u16_max=options.u16_max)
    if os.path.realpath(options.output) in map(os.path.realpath, images.paths):
        raise _common.UsageError(f"--output {options.output} is one of the images")
    good, sizes, errors = _look_at(images, progress)
    for error in errors:
        _common.say(f"{options.prog}: left out: {error}")
    _common.tell(f"{options.folder}: {_found(len(good), sizes, len(errors))}")
    if len(good) < 2:
        raise _common.UsageError(
            f"{options.folder}: at least 2 good images are needed, better 50 or more"
        )
    _common.tell(f"fitting {options.model} ...")
    pipeline.fit(good)
    limits = map_range(pipeline, good) if _makes_maps(pipeline) else None
    save(pipeline, options.output, map_range=limits)
    _common.tell(_threshold(pipeline[-1].provenance_))
    _common.tell(f"saved: {options.output}")
    quoted = shlex.quote(options.output)
    _common.tell(
        f"next: pyimgano-infer --pipeline {quoted} --input NEW_IMAGES --save-jsonl verdicts.jsonl"
    )
    return _common.EXIT_ERRORS if errors else _common.EXIT_OK


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before hours are spent on it."""
    _options.check_model_options(options)
    if not os.path.isdir(options.folder):
        what = "is a file, not a folder" if os.path.isfile(options.folder) else "does not exist"
        raise _common.UsageError(f"{options.folder} {what}; give the folder of the good images")
    output = Path(options.output)
    if output.is_dir():
        raise _common.UsageError(
            f"--output {output} is a folder; give a file, {output}/NAME.joblib"
        )
    if not output.resolve().parent.is_dir():
        raise _common.UsageError(
            f"--output {output}: the folder {output.resolve().parent} does not exist; create it "
            "first"
        )
    if not os.access(output.resolve().parent, os.W_OK):
        raise _common.UsageError(
            f"--output {output}: nothing may be written in {output.resolve().parent}"
        )


def _look_at(images: Any, progress: bool) -> tuple[Any, Counter, list[str]]:
    """Read all images once: those that can be read, their sizes, and what is wrong with others."""
    from pyimgano.exceptions import ImageFormatError, ImageReadError
    from pyimgano.utils._progress import progress_callback

    readable, sizes, errors = [], Counter(), []  # type: ignore[var-annotated]
    with progress_callback("looking at images", progress) as step:
        for i in range(len(images)):
            try:
                height, width = images[i].shape[:2]
            except (ImageReadError, ImageFormatError) as error:
                errors.append(str(error))
            else:
                readable.append(i)
                sizes[width, height] += 1
            if step is not None:
                step(i + 1, len(images))
    return images[readable], sizes, errors


def _found(n: int, sizes: Counter, n_errors: int) -> str:
    most = sizes.most_common(3)
    parts = [f"{count} of {width} x {height}" for (width, height), count in most]
    others = n - sum(count for _, count in most)
    parts += [f"{others} of {len(sizes) - 3} other sizes"] * (others > 0)
    text = f"{n} images" + (f" ({', '.join(parts)} pixels)" if parts else "")
    return text + (f"; {n_errors} could not be read and are left out" if n_errors else "")


def _makes_maps(pipeline: Any) -> bool:
    from pyimgano._nesting import makes_maps

    return makes_maps(pipeline)


def _threshold(provenance: dict[str, Any]) -> str:
    """Describe in words the false-positive rate that the threshold stands for."""
    low, high = provenance["false_positive_rate_interval_95"]
    return (
        f"threshold {provenance['threshold']:.4g}: of new good parts "
        f"{provenance['expected_false_positive_rate']:.1%} are expected to be flagged (95 % "
        f"interval {low:.1%} to {high:.1%}), "
        f"{provenance['target_false_positive_rate']:.1%} were asked for; "
        f"{provenance['n_images']} images support no rate below "
        f"{provenance['lowest_supported_rate']:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
