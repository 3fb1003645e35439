"""``pyimgano clean``: list the images of a training folder that may not belong there."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyimgano import _defaults
from pyimgano.cli import _common, _options, _records, _targets
from pyimgano.cli._images import Found, look_at

__all__ = ["CSV_COLUMNS", "main"]

_PROG = "pyimgano-clean"
_DESCRIPTION = """\
List the images of a folder of good parts that may not belong there, the most suspicious
first: defective parts, other parts, bad pictures. The images are compared with one another,
so no images that are known to be good are needed. A person has to look at them; nothing in
the folder is changed.
"""
_EPILOG = """\
examples:
  pyimgano clean photos/good
  pyimgano clean photos/good --save-overlays suspects --save-csv suspects.csv
      also pictures of where they are unlike the others, and a table of all images
  pyimgano clean photos/good --features resnet18 --weights resnet18.pth

""" + _common.exit_statuses(
    {_common.EXIT_ERRORS: "done, but some images could not be read and were left out"}
)

#: Columns of the CSV file, in their order.
CSV_COLUMNS = ("image", "rank", "score", "suspicious", "overlay", "same_as", "error")
# Images that are listed, and drawn.
_TOP = 20


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _clean(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = f"{prog} DIR [options]"
    parser.add_argument(
        "folder",
        metavar="DIR",
        help="images of good parts, with all folders below it; in a configuration file, folder",
    )
    parser.add_argument(
        "--top",
        metavar="N",
        type=_common.count,
        default=_TOP,
        help="images to list, and to draw (default: %(default)s)",
    )
    parser.add_argument(
        "--save-csv",
        metavar="FILE",
        help='write a table of all images, unreadable ones and copies too; "-" is standard output',
    )
    parser.add_argument(
        "--save-overlays",
        metavar="DIR",
        help="draw the images that are listed, with heat maps of where they are unlike the others",
    )
    _options.add_threads_option(parser)
    _options.add_model_options(parser, default=_defaults.CLEANING_MODEL, judges=False)
    return parser


def _clean(options: argparse.Namespace) -> int:
    _check(options)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _rank(options)


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is computed."""
    _options.check_model_options(options)
    folder = options.folder
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.isfile(folder) else "does not exist"
        raise _common.UsageError(f"{folder} {what}; give a folder of images")
    for option in ("save_csv", "save_overlays"):
        path = getattr(options, option)
        if path in (None, "-"):
            continue
        real, root = os.path.realpath(path), os.path.realpath(folder)
        if real == root or real.startswith(os.path.join(root, "")):
            raise _common.UsageError(
                f"--{option.replace('_', '-')} {path}: lies in {folder}, in which nothing is "
                "changed; give a place elsewhere"
            )
    if options.save_overlays is not None and os.path.isfile(options.save_overlays):
        raise _common.UsageError(
            f"--save-overlays {options.save_overlays}: is a file, not a folder"
        )


def _rank(options: argparse.Namespace) -> int:
    from pyimgano._nesting import innermost, makes_maps
    from pyimgano.cleaning import rank_suspects
    from pyimgano.detectors import BaseTrainedDetector
    from pyimgano.inputs import ImageSequence

    progress = _common.on_terminal()
    # A wrong parameter or a missing file of weights is better said before images are looked for.
    name, described = _options.name_model(options)
    model = _options.make_model_as_asked(options, name, progress)
    if isinstance(model, BaseTrainedDetector):
        raise _common.UsageError(
            f"--model {options.model}: networks have seen the images that they are trained on, so "
            "their scores cannot be ranked with those of images held out; take a model without "
            'the tag trained ("pyimgano models list")'
        )
    if options.save_overlays is not None and not makes_maps(model):
        raise _common.UsageError(
            f"--save-overlays: {options.model} judges images as a whole; take a model with heat "
            'maps ("pyimgano models list --maps"), or leave the option out'
        )
    images = ImageSequence.from_folder(options.folder, recursive=True, u16_max=options.u16_max)
    if options.save_csv not in (None, "-"):
        used = _targets.real_paths(images.paths)
        _targets.check_records_file("--save-csv", options.save_csv, used, [options.folder])
    # The table may be all that standard output is for.
    tell = _common.say if options.save_csv == "-" else _common.tell
    found = look_at(options.prog, options.folder, images, options.u16_max, progress, tell=tell)
    if len(found.images) < 3:
        raise _common.UsageError(
            f"{options.folder}: at least 3 different images are needed to tell which of them is "
            "unlike the others, better 50 or more"
        )
    tell(f"comparing the images: {described} ...")
    model.fit(found.images)
    ranked = rank_suspects(innermost(model)[0].training_scores_)
    listed = ranked[: options.top]
    overlays: dict[int, str] = {}
    if options.save_csv != "-":
        _print_table(found, ranked, listed)
    with _common.stopping("the suspects were found, and what could not be written is missing"):
        if options.save_overlays is not None:
            overlays = _draw(options, model, found, ranked, listed)
            tell(f"heat maps of {len(overlays)} images: {options.save_overlays}")
        if options.save_csv is not None:
            _write_table(options, found, ranked, overlays)
            if options.save_csv != "-":
                tell(f"table of all images: {options.save_csv}")
    return _common.EXIT_ERRORS if found.errors else _common.EXIT_OK


def _print_table(found: Found, ranked: Sequence[Any], listed: Sequence[Any]) -> None:
    from pyimgano.utils._words import printable

    _common.answer(f"{'rank':>5}  {'score':>10}  image")
    for rank, one in enumerate(listed, start=1):
        mark = "*" if one.suspicious else " "
        path = printable(found.images.paths[one.index])
        _common.answer(f"{rank:>4}{mark}  {one.score:>#10.4g}  {path}")
    n = sum(one.suspicious for one in ranked)
    _common.tell(
        f"images that stand out, marked *: {n} of {len(ranked)}. In a folder of good parts alone "
        "some do as well"
    )


def _draw(
    options: argparse.Namespace,
    model: Any,
    found: Found,
    ranked: Sequence[Any],
    listed: Sequence[Any],
) -> dict[int, str]:
    """Draw the images listed with their heat maps; give the pictures by index of the image."""
    from pyimgano.inference import anomaly_map
    from pyimgano.reporting import map_range, overlay, write_overlay
    from pyimgano.utils._outputs import short_name

    folder = Path(options.save_overlays)
    folder.mkdir(parents=True, exist_ok=True)
    # The colder half of the images gives the scale of colors.
    ordinary = sorted(one.index for one in ranked[len(ranked) // 2 :])
    limits = map_range(model, found.images[ordinary])
    drawn = {}
    for rank, one in enumerate(listed, start=1):
        image = found.images[[one.index]]
        name = os.path.relpath(image.paths[0], options.folder)
        picture = folder / short_name(f"{rank:03d}_{name.replace(os.sep, '_')}.overlay.png")
        stands_out = "stands out" if one.suspicious else "does not stand out"
        caption = f"{name}\nrank {rank} of {len(ranked)}, score {one.score:#.4g}, {stands_out}"
        write_overlay(picture, overlay(image[0], anomaly_map(model, image)[0], limits, caption))
        drawn[one.index] = str(picture)
    return drawn


def _write_table(
    options: argparse.Namespace, found: Found, ranked: Sequence[Any], overlays: dict[int, str]
) -> None:
    paths = found.images.paths
    names = [*paths, *found.copy_of, *found.errors]
    writing = _records.csv_table(options.save_csv, CSV_COLUMNS, names, decimal_comma=False)
    with writing as write:
        for rank, one in enumerate(ranked, start=1):
            write(
                {
                    "image": paths[one.index],
                    "rank": rank,
                    "score": one.score,
                    "suspicious": "yes" if one.suspicious else "no",
                    "overlay": overlays.get(one.index),
                }
            )
        for path, first in found.copy_of.items():
            write({"image": path, "same_as": first})
        for path, error in found.errors.items():
            write({"image": path, "error": error})


if __name__ == "__main__":
    sys.exit(main())
