"""Common parts of the commands: exit statuses, errors in a line, checks of options.

Imports nothing heavy: ``--help`` has to answer at once.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

__all__ = [
    "EXIT_ERRORS",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_USAGE",
    "UsageError",
    "count",
    "count_or_zero",
    "fraction",
    "make_parser",
    "run",
]

EXIT_OK = 0
EXIT_ERRORS = 1  # done, but some images could not be judged
EXIT_USAGE = 2  # wrong options, wrong files: nothing was done
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells report it


class UsageError(Exception):
    """Something the user has to put right; the message says what."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line: the many options before it would hide it.
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser with what all commands have."""
    from pyimgano._version import __version__

    parser = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyimgano {__version__}")
    parser.set_defaults(prog=prog)  # a command may be called by its long or its short name
    return parser


def run(prog: str, job: Callable[[], int]) -> int:
    """Run a command; what its user can put right becomes a message and an exit status.

    Any other exception is a bug and keeps its traceback.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning(prog)
        try:
            return job()
        except KeyboardInterrupt:
            print(f"\n{prog}: interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:  # the reader of our output went away: "| head"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_ERRORS
        except _user_errors() as error:
            print(f"{prog}: error: {_message(error)}", file=sys.stderr)
            return EXIT_USAGE


def _user_errors() -> tuple[type[BaseException], ...]:
    # Evaluated when something has been raised, so the imports cost nothing before.
    from pyimgano import exceptions

    found: list[type[BaseException]] = [UsageError, OSError]
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if not issubclass(kind, Warning):
            found.append(kind)
    if "sklearn" in sys.modules:
        from sklearn.utils._param_validation import InvalidParameterError

        found.append(InvalidParameterError)
    return tuple(found)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _show_warning(prog: str) -> Callable[..., None]:
    def show(message: Warning | str, *where: object, **more: object) -> None:
        print(f"{prog}: warning: {message}", file=sys.stderr)

    return show


def fraction(text: str) -> float:
    """Option value above 0 and at most 1."""
    value = _number(text, float)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def count(text: str) -> int:
    """Option value that is an integer of at least 1."""
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def count_or_zero(text: str) -> int:
    """Option value that is an integer of at least 0."""
    return 0 if text == "0" else count(text)


def _number(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value
