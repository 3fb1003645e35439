"""``pyimgano``: all commands under one name."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from pyimgano.cli import _common

__all__ = ["COMMANDS", "all_parsers", "main"]

_PROG = "pyimgano"

# What each command does, in the order in which one needs them; its module has the same name,
# with underscores.
COMMANDS = {
    "clean": "list the images of a folder of good ones that may not belong there",
    "train": "fit and calibrate a pipeline on a folder of good images, and save it",
    "infer": "judge images with a saved pipeline",
    "recalibrate": "move the threshold of a saved pipeline, by new good images or by hand",
    "export": "make a bundle of a saved pipeline, to be delivered and checked",
    "validate-infer-config": "check that a bundle is whole and scores as it did",
    "benchmark": "fit, judge and measure on a dataset with known defects",
    "robust-benchmark": "judge corrupted images at the threshold of clean ones",
    "runs": "list, show and compare the runs of benchmark and train",
    "models": "list the models, or tell all about one",
    "doctor": "check this installation: versions, extras, weights, threads",
    "completion": "print a script by which a shell completes all of this",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        return _module(name).main(arguments[1:], prog=f"{_PROG} {name}")
    return _common.run(_PROG, lambda: _without_command(name, arguments), arguments)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"pyimgano.cli.{name.replace('-', '_')}")


def all_parsers() -> _common.CommandParser:
    """Make a parser of all commands with all their options, to be looked at."""
    parser = _parser()
    commands: Any = parser.add_subparsers(metavar="COMMAND")
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what)
        commands.choices[name] = _module(name)._parser(f"{_PROG} {name}")
    return parser


def _parser() -> _common.CommandParser:
    description = "Visual anomaly detection for industry."
    parser = _common.make_parser(_PROG, description, _epilog(), takes_config=False)
    parser.usage = f"{_PROG} COMMAND [options]"
    return parser


def _without_command(name: str, arguments: Sequence[str]) -> NoReturn:
    parser = _parser()
    if name.startswith("-"):
        command = next((word for word in arguments if word in COMMANDS), None)
        if command is not None:
            parser.error(f"options stand after the command: {_PROG} {command} {name}")
        parser.parse_args(arguments)  # ends the program for --help and --version
        name = ""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    what = f"there is no command {name!r}" if name else "which command"
    guess = f", did you mean {near[0]!r}?" if near else f": {', '.join(COMMANDS)}"
    parser.error(what + guess)


def _epilog() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["commands:", *lines, "", f"{_PROG} COMMAND --help tells more."])
