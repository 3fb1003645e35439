"""``pyimgano models``: the names of all models, and what there is to know about one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from pyimgano.cli import _common

__all__ = ["main"]

_PROG = "pyimgano-models"
_DESCRIPTION = """\
Print the names of all models, or what there is to know about one of them, as JSON.
"""
_EPILOG = """\
examples:
  pyimgano models list
  pyimgano models list --tag pyod --family neighbors
  pyimgano models list --no-checkpoint
      models that need no pretrained weights
  pyimgano models info vision_patchcore

""" + _common.exit_statuses({_common.EXIT_USAGE: "wrong options, or no such model"})


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _models(_parser(prog).parse_args(argv)))


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    jobs = parser.add_subparsers(dest="job", metavar="list|info", required=True)
    listing = jobs.add_parser("list", help="names, sorted", allow_abbrev=False)
    listing.add_argument(
        "--tag", metavar="TAG", action="append", help="only models with this tag; may be repeated"
    )
    listing.add_argument("--family", metavar="NAME", help="only models of this family")
    for option, name, what in (
        ("maps", "supports_pixel_map", "make anomaly maps"),
        ("checkpoint", "requires_checkpoint", "need pretrained weights"),
    ):
        either = listing.add_mutually_exclusive_group()
        for prefix, wanted in (("", True), ("no-", False)):
            either.add_argument(
                f"--{prefix}{option}",
                dest=name,
                action="store_const",
                const=wanted,
                help=f"only models that {'' if wanted else 'do not '}{what}",
            )
    info = jobs.add_parser("info", help="one model", allow_abbrev=False)
    info.add_argument("name", metavar="NAME", help='one of "list"')
    return parser


def _models(options: argparse.Namespace) -> int:
    from pyimgano.registry import list_models, model_info

    if options.job == "info":
        answer: object = model_info(options.name)
    else:
        answer = list_models(
            tags=options.tag,
            family=options.family,
            supports_pixel_map=options.supports_pixel_map,
            requires_checkpoint=options.requires_checkpoint,
        )
    _common.answer(json.dumps(answer, indent=2, ensure_ascii=False))
    return _common.EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
