"""Common parts of the commands: exit statuses, errors in a line, checks of options.

Imports nothing heavy: ``--help`` has to answer at once.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

__all__ = [
    "EXIT_BUG",
    "EXIT_ERRORS",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_STOPPED",
    "EXIT_TERMINATED",
    "EXIT_USAGE",
    "NO_ROOM",
    "StoppedError",
    "UsageError",
    "count",
    "count_or_zero",
    "fraction",
    "make_parser",
    "run",
    "say",
]

EXIT_OK = 0
EXIT_ERRORS = 1  # done, but some images could not be judged
EXIT_USAGE = 2  # wrong options, wrong files: nothing was done
EXIT_STOPPED = 4  # stopped half-way: disk or memory full, or nobody reads the output
EXIT_BUG = 70  # a fault of this program, with its traceback
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells report it
EXIT_TERMINATED = 143  # SIGTERM, as shells report it

#: Errors of the system that end a run wherever they come: nothing more can be written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class UsageError(Exception):
    """Something the user has to put right; the message says what."""


class StoppedError(Exception):
    """The work had begun and could not go on; the message says why and what there is."""


class _Terminated(BaseException):
    """SIGTERM has come; not an Exception, so that nothing takes it for an error of an image."""


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


def say(text: str) -> None:
    """Write a line to standard error, wherever that leads: it may be closed, or a full disk."""
    if sys.stderr is None:  # closed; print would take standard output instead
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _give_up(sys.stderr)


def _give_up(stream: Any) -> None:
    """Lead a stream nowhere: at the end of the program, what it still holds is an error again."""
    if stream is None:
        return
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(prog: str, job: Callable[[], int]) -> int:
    """Run a command; what its user can put right becomes a message and an exit status.

    Any other exception is a bug: its traceback is shown, with an exit status of its own.
    """
    with warnings.catch_warnings(), _terminating():
        warnings.showwarning = _show_warning(prog)
        try:
            return job()
        except KeyboardInterrupt:
            say(f"\n{prog}: interrupted")
            return EXIT_INTERRUPTED
        except _Terminated:
            say(f"{prog}: terminated")
            return EXIT_TERMINATED
        except BrokenPipeError:  # the reader of our output went away: "| head"
            _give_up(sys.stdout)
            return EXIT_STOPPED
        except (StoppedError, MemoryError) as error:
            say(f"{prog}: error: {_message(error) or 'the memory is used up'}")
            try:
                print(end="", flush=True)
            except OSError:  # it was standard output that could not be written
                _give_up(sys.stdout)
            return EXIT_STOPPED
        except _user_errors() as error:
            say(f"{prog}: error: {_message(error)}")
            return EXIT_STOPPED if getattr(error, "errno", None) in NO_ROOM else EXIT_USAGE
        except Exception:
            say(f"{traceback.format_exc()}{prog}: this is a fault of the program, please report it")
            return EXIT_BUG


@contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM unwind the program as Ctrl-C does, so that nothing half-written stays."""

    def stop(number: int, frame: object) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # may not set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


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
        say(f"{prog}: warning: {message}")

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
