"""``pyimgano models``: the names of all models, and what there is to know about one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from pyimgano.cli import _common, _options

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
    return _common.run(prog, lambda: _models(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG, takes_config=False)
    jobs = parser.add_subparsers(dest="job", metavar="list|info", required=True)
    what = "print the names of all models, sorted"
    listing = jobs.add_parser("list", help=what, description=f"{what}.", allow_abbrev=False)
    _options.add_model_filters(listing)
    what = "print what there is to know about one model"
    info = jobs.add_parser("info", help=what, description=f"{what}.", allow_abbrev=False)
    info.add_argument("name", metavar="NAME", help='a name that "pyimgano models list" prints')
    return parser


def _models(options: argparse.Namespace) -> int:
    from pyimgano.registry import list_models, model_info

    if options.job == "info":
        answer: object = model_info(options.name)
    else:
        answer = list_models(**_options.model_filters(options))
    _common.answer(json.dumps(answer, indent=2, ensure_ascii=False))
    return _common.EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
