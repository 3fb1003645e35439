"""``pyimgano export``: make a bundle of a saved pipeline, to be delivered and checked."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from pyimgano.cli import _common
from pyimgano.cli._images import find_images
from pyimgano.cli._saved import (
    Repeated,
    add_loading_options,
    load_pipeline,
    pipeline_of_run,
    prepare_networks,
)

__all__ = ["main"]

_PROG = "pyimgano-export"
_DESCRIPTION = """\
Make a bundle of a saved pipeline: a folder or .zip with the pipeline and its network's weights,
a configuration that says what it is, a model card for people, images whose scores are known,
and the SHA-256 of every file.
"""
_EPILOG = """\
examples:
  pyimgano export --pipeline line3.joblib -o line3.zip
  pyimgano export --pipeline line3.joblib -o line3 --golden photos/golden
  pyimgano export --pipeline line3.joblib -o line3.zip --engine openvino
      the network as ONNX within, which OpenVINO runs at the line
  pyimgano export --from-run runs/20260131-142507_mvtec_ad_vision_padim --category bottle -o bottle
  pyimgano validate-infer-config line3.zip
  pyimgano infer --bundle line3.zip photos/new

""" + _common.exit_statuses()


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _export(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--pipeline", metavar="FILE", help="as pyimgano train or pyimgano.save wrote it"
    )
    source.add_argument(
        "--from-run",
        metavar="RUN",
        help="run directory of pyimgano benchmark or train, whose pipeline it is",
    )
    parser.add_argument(
        "--category", metavar="NAME", help="which of the run's pipelines, if it has several"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="BUNDLE",
        required=True,
        help="folder to create, or a name that ends in .zip; must not exist",
    )
    parser.add_argument(
        "--golden",
        metavar="PATH",
        nargs="+",
        action=Repeated,
        default=[],
        help="images to deliver with their scores, by which the receiver can check the bundle: "
        "files, folders or patterns. Some good parts and some bad ones are best",
    )
    parser.add_argument(
        "--embed-weights",
        action="switch",
        default=True,
        help="put the network's weights into the bundle (default: yes); without them they are "
        "looked for by their SHA-256 where the bundle is used",
    )
    parser.add_argument(
        "--onnx",
        action="switch",
        default=None,
        help="put the network into the bundle as ONNX, so that --engine onnxruntime and openvino "
        "need neither the package onnx nor torch where it is used (default: if the engine is one "
        "of these)",
    )
    parser.add_argument("--title", metavar="TEXT", help="first line of the model card")
    parser.add_argument(
        "--notes",
        metavar="TEXT",
        default="",
        help="text for the model card, such as which parts, which camera, and who made it",
    )
    add_loading_options(parser)
    return parser


def _export(options: argparse.Namespace) -> int:
    if options.pipeline is None and options.from_run is None:
        raise _common.UsageError(
            f"give a pipeline: {options.prog} --pipeline line3.joblib -o BUNDLE, or --from-run RUN"
        )
    if options.category is not None and options.from_run is None:
        raise _common.UsageError("--category names a pipeline of --from-run, which is not given")
    if options.from_run is not None:
        options.pipeline = pipeline_of_run(options.from_run, options.category)
    golden = find_images(options.golden)[0]
    if options.golden and not golden:
        raise _common.UsageError(f"--golden {options.golden[0]}: there are no images in it")
    if os.path.lexists(options.output) and not os.path.isdir(options.output):
        raise _common.UsageError(f"--output {options.output}: exists; give another name")
    pipeline = load_pipeline(options.pipeline, options.trust)
    prepare_networks(pipeline, options)
    from pyimgano.export import export_bundle
    from pyimgano.persistence import read_map_range

    with _common.stopping("no bundle was made"):
        export_bundle(
            pipeline,
            options.output,
            golden=golden,
            embed_weights=options.embed_weights,
            title=options.title,
            notes=options.notes,
            map_range=read_map_range(options.pipeline),
            onnx="auto" if options.onnx is None else options.onnx,
        )
    what = _common.several(len(golden), "golden image") if golden else "no golden images"
    _common.tell(f"saved: {options.output} ({what})")
    if not golden:
        _common.say(
            f"{options.prog}: warning: without --golden the receiver cannot check that scores are "
            "the same there"
        )
    _common.tell(f"next: pyimgano validate-infer-config {shlex.quote(options.output)}")
    return _common.EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
