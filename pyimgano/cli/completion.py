"""``pyimgano completion``: a script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pyimgano.cli import _common

__all__ = ["main"]

_PROG = "pyimgano completion"
_DESCRIPTION = """\
Print a script by which a shell completes the commands of pyimgano, their options, and the names
of models and datasets. Needs the extra completion. The script is made once and starts nothing;
make it again after an update.
"""
_EPILOG = """\
examples:
  pyimgano completion bash > ~/.local/share/bash-completion/completions/pyimgano
  pyimgano completion zsh > ~/.zfunc/_pyimgano
      with "fpath+=(~/.zfunc)" before compinit in ~/.zshrc
  pyimgano completion fish > ~/.config/fish/completions/pyimgano.fish

""" + _common.exit_statuses()
_SHELLS = ("bash", "fish", "zsh")


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _completion(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> _common.CommandParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG, takes_config=False)
    parser.add_argument(
        "shell", metavar="SHELL", choices=_SHELLS, help=f"one of {', '.join(_SHELLS)}"
    )
    return parser


def _completion(options: argparse.Namespace) -> int:
    from pyimgano.cli.main import all_parsers
    from pyimgano.utils._optional import import_optional

    shtab = import_optional("shtab", "completion", "pyimgano completion")
    parser = all_parsers()
    for action in _actions(parser):
        word = action.metavar if isinstance(action.metavar, str) else ""
        completes: Any = action  # shtab reads its attribute "complete"
        if re.search(r"\b(BUNDLE|FILE|INPUT|PATH)\b", word):
            completes.complete = shtab.FILE
        elif re.search(r"\b(DIR|RUN)\b", word):
            completes.complete = shtab.DIRECTORY
        elif action.choices is None:
            action.choices = _names(action)
    _common.answer(shtab.complete(parser, options.shell).rstrip("\n"))
    return _common.EXIT_OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


def _names(action: argparse.Action) -> list[str] | None:
    """List the names that an option takes; None if they are not known."""
    from pyimgano._corruptions import CORRUPTIONS
    from pyimgano.datasets import list_datasets
    from pyimgano.inputs import ImageFormat
    from pyimgano.registry import list_models

    known: dict[str, Callable[[], list[str]]] = {
        "--preset": lambda: list_models(tags="preset"),
        "corruptions": lambda: ["all", *CORRUPTIONS],
        "dataset": list_datasets,
        "input_format": lambda: [one.value for one in ImageFormat],
        "model": list_models,
        "model_info": list_models,
    }
    for key in (*action.option_strings, action.dest):
        if key in known:
            return known[key]()
    return None


if __name__ == "__main__":
    sys.exit(main())
