"""``pyimgano validate-infer-config``: check that a delivered bundle is whole and scores alike."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pyimgano.cli import _common

__all__ = ["main"]

_PROG = "pyimgano-validate-infer-config"
_DESCRIPTION = """\
Check a bundle that "pyimgano export" made, or an infer_config.json with the pipeline that it
names: files and their SHA-256, the schema, versions, that the configuration says what the
pipeline is, and the scores of the golden images. Standard output is the result as JSON; on a
terminal it is left out unless --json asks for it. What was found goes to standard error.
"""
_EPILOG = """\
examples:
  pyimgano validate-infer-config line3.zip
  pyimgano validate-infer-config line3/infer_config.json --json

""" + _common.exit_statuses({_common.EXIT_ERRORS: "done, and a check failed"})


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _validate(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG, takes_config=False)
    parser.add_argument(
        "target",
        metavar="BUNDLE|FILE",
        help="folder or .zip of a bundle, or an infer_config.json",
    )
    parser.add_argument("--json", action="store_true", help="print the result on a terminal too")
    return parser


def _validate(options: argparse.Namespace) -> int:
    from pyimgano.export import validate
    from pyimgano.utils._json import json_text

    found = validate(options.target)
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        _common.say(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:{width}}  {check.detail}")
    _common.say(f"{options.target}: {'all checks passed' if found.ok else 'a check failed'}")
    if options.json or not (sys.stdout is not None and sys.stdout.isatty()):
        _common.answer(json_text(found.to_dict()))
    return _common.EXIT_OK if found.ok else _common.EXIT_ERRORS


if __name__ == "__main__":
    sys.exit(main())
