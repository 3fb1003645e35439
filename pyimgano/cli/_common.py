"""Common parts of the commands: exit statuses, errors in a line, checks of options.

Imports nothing heavy: ``--help`` has to answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, NoReturn

from pyimgano._signals import Terminated, raising_on_sigterm

__all__ = [
    "EXIT_ANOMALY",
    "EXIT_BUG",
    "EXIT_ERRORS",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_STOPPED",
    "EXIT_TERMINATED",
    "EXIT_USAGE",
    "CommandParser",
    "NotStrictError",
    "StoppedError",
    "Switch",
    "UsageError",
    "answer",
    "check_no_key_twice",
    "count",
    "count_or_zero",
    "exit_statuses",
    "fraction",
    "make_parser",
    "message",
    "number",
    "on_terminal",
    "one_line",
    "run",
    "say",
    "several",
    "side",
    "stopping",
    "strict_json",
    "tell",
]

EXIT_OK = 0
EXIT_ERRORS = 1
EXIT_USAGE = 2
EXIT_ANOMALY = 3
EXIT_STOPPED = 4
EXIT_BUG = 70
EXIT_INTERRUPTED = 130  # 128 and the number of the signal, as shells report it
EXIT_TERMINATED = 143

# What every command means by them; of 1 and 3 each says what they mean to it.
_STATUSES = {
    EXIT_OK: "done",
    EXIT_USAGE: "wrong options or files; nothing was done",
    EXIT_STOPPED: "stopped half-way: the disk or the memory is full, results cannot be written, or "
    "nobody reads the output; the message says what there is",
    EXIT_BUG: "a fault of this program; --debug shows its traceback",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
    EXIT_TERMINATED: "terminated by SIGTERM",
}


# Pixels along a side to which images can be brought; beyond it memory is the question.
_LONGEST_SIDE = 8192


class UsageError(Exception):
    """Something the user has to put right; the message says what."""


class _WrongOptionsError(UsageError):
    """Options that cannot be parsed, with the command that has said so."""

    def __init__(self, prog: str, message: str) -> None:
        super().__init__(message)
        self.prog = prog


class NotStrictError(ValueError):
    """A text is JSON to Python and not to others, or has no single meaning."""


class StoppedError(Exception):
    """The work had begun and could not go on; the message says why and what there is."""


class Switch(argparse.BooleanOptionalAction):
    """An option that is on or off, ``action="switch"``.

    Unlike one of ``store_true`` it has a ``--no-NAME``, by which the command line overrides what a
    configuration file has turned on.
    """

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        default: bool = False,
        required: bool = False,
        help: str | None = None,
    ) -> None:
        super().__init__(option_strings, dest, default=default, required=required)
        self.help = help  # some versions of Python add the default to it


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are those of all commands. So are the parsers of subcommands.

    Attributes
    ----------
    takes_config : bool
        There are ``--config`` and ``--dump-config``.
    command_line_only : set of str
        Destinations of options that have no place in a configuration file.
    arrange : callable or None
        Called with the parsed options and a mapping of those from a configuration file, to bring
        what was given without names to its place.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", "switch", Switch)
        self.takes_config = False
        self.command_line_only = {"config", "debug", "dump_config", "help", "version"}
        self.arrange: Callable[[argparse.Namespace, Mapping[str, Any]], None] | None = None
        self.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,  # not to undo, in a subcommand, that of the command
            help="show the traceback of an error",
        )

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            known = [one for one in self._option_string_actions if one.startswith("--")]
            near = difflib.get_close_matches(unknown[1], known, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        # One line: the many options before it would hide it.
        raise _WrongOptionsError(self.prog, f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Help goes to standard output, what is wrong to standard error; either may be closed.
        if message:
            (tell if file is sys.stdout else say)(message.rstrip("\n"))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._parse(super().parse_args, args, namespace)

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._parse(super().parse_intermixed_args, args, namespace)

    def _parse(self, parse: Callable[..., Any], args: Any, namespace: Any) -> Any:
        """Parse over the values of a configuration file, and print what comes of it if asked to."""
        words = list(sys.argv[1:] if args is None else args)
        from pyimgano.cli import _config

        asked = self.takes_config and _config.is_asked_for(words)
        from_file = _config.take_config(self, words) if asked else {}
        options = parse(words) if namespace is None else parse(words, namespace)
        for action in self._actions:
            if _config.is_empty_path(action, getattr(options, action.dest, None)):
                name = "/".join(action.option_strings) or action.metavar
                self.error(f"argument {name}: is empty; give a path")
            if _config.collects(action) and action.dest in from_file:
                # What is added on the command line takes the place of what the file holds.
                found, of_file = getattr(options, action.dest), from_file[action.dest]
                setattr(options, action.dest, found[len(of_file) :] or of_file)
        if self.arrange is not None:
            self.arrange(options, from_file)
        if self.takes_config and options.dump_config:
            answer(_config.config_text(self, options))
            self.exit(EXIT_OK)
        return options


def make_parser(
    prog: str, description: str, epilog: str, *, takes_config: bool = True
) -> CommandParser:
    """Make a parser with what all commands have.

    Parameters
    ----------
    prog, description, epilog : str
        Name of the command, and what ``--help`` prints before and after the options.
    takes_config : bool, default=True
        Add ``--config`` and ``--dump-config``; False for a command that only looks at things.

    Returns
    -------
    CommandParser
    """
    from pyimgano._version import __version__

    parser = CommandParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyimgano {__version__}")
    parser.set_defaults(prog=prog)  # a command may be called by its long or its short name
    parser.takes_config = takes_config
    if takes_config:
        group = parser.add_argument_group("configuration")
        group.add_argument(
            "--config",
            metavar="FILE",
            help="take options from FILE: .json, .toml, or .yaml with the extra yaml; its keys are "
            "the long names of options without dashes, its paths are relative to its folder, and "
            "options given here override it",
        )
        group.add_argument(
            "--dump-config",
            action="store_true",
            help="print the options in effect as JSON, which --config takes, and do nothing else",
        )
    return parser


def exit_statuses(own: Mapping[int, str] = MappingProxyType({})) -> str:
    """Text of the end of ``--help``: the exit statuses of a command.

    Parameters
    ----------
    own : mapping of int to str
        What a status means to this command, where that is not what it means to all.

    Returns
    -------
    str
    """
    lines = ["exit status:"]
    for status, meaning in sorted({**_STATUSES, **own}.items()):
        lines += textwrap.wrap(
            meaning, 88, initial_indent=f"  {status:<5}", subsequent_indent=" " * 7
        )
    return "\n".join(lines) + "\n"


# ---- standard output and standard error -----------------------------------------------
def say(text: str) -> None:
    """Write a line to standard error, wherever that leads: it may be closed, or a full disk.

    Control characters are escaped: names of files could steer the terminal with them.
    """
    _write_if_possible(text, sys.stderr)


def tell(text: str) -> None:
    """Write a line for people to standard output, as ``say`` does to standard error."""
    _write_if_possible(text, sys.stdout)


def answer(text: str) -> None:
    """Write a result to standard output.

    Parameters
    ----------
    text : str
        A line, or several.

    Raises
    ------
    UsageError
        If standard output is closed.
    StoppedError
        If it cannot be written to, being led to a full disk.
    """
    if sys.stdout is None:
        raise UsageError("standard output is closed, and the result is written there")
    try:
        _write(text, sys.stdout)
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up(sys.stdout)
        raise StoppedError(f"standard output: {error.strerror}") from error


def on_terminal() -> bool:
    """Tell whether somebody watches standard error, so that bars are worth drawing."""
    return sys.stderr is not None and sys.stderr.isatty()


def _write_if_possible(text: str, stream: Any) -> None:
    if stream is None:  # closed; print would take standard output instead
        return
    try:
        _write("\n".join(map(_printable, text.split("\n"))), stream)
    except (OSError, ValueError):
        _give_up(stream)


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    from pyimgano.utils._words import printable  # imports scikit-learn

    return printable(line)


def _write(text: str, stream: Any) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # A file name may hold what the terminal's encoding has no characters for.
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, flush=True)


def _give_up(stream: Any) -> None:
    """Lead a stream nowhere: at the end of the program, what it still holds is an error again."""
    if stream is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _occupy_standard_descriptors() -> None:
    """Lead closed standard descriptors nowhere.

    Else the next file that is opened gets such a number, and what a decoder of images written in
    C prints to standard error goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def run(prog: str, job: Callable[[], int], argv: Sequence[str] | None = None) -> int:
    """Run a command; an error becomes one line on standard error and an exit status.

    Parameters
    ----------
    prog : str
        Name of the command, for messages.
    job : callable
        Parses the options and does the work; returns the exit status.
    argv : sequence of str, default=None
        The words that ``job`` parses, by default those of the command line. With ``--debug`` among
        them the traceback of an error stands before its line.

    Returns
    -------
    int
        Exit status. What the user cannot put right is a fault of the program, which has a status
        of its own.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    _occupy_standard_descriptors()
    with warnings.catch_warnings(), raising_on_sigterm():
        warnings.showwarning = _show_warning(prog)
        try:
            return job()
        except KeyboardInterrupt as error:
            say("")  # after the ^C that the terminal shows
            _say_notes(prog, error)
            say(f"{prog}: interrupted")
            return EXIT_INTERRUPTED
        except Terminated as error:
            _say_notes(prog, error)
            say(f"{prog}: terminated")
            return EXIT_TERMINATED
        except BrokenPipeError:  # the reader of our output went away: "| head"
            _give_up(sys.stdout)
            return EXIT_STOPPED
        except (StoppedError, MemoryError) as error:
            _say_error(prog, message(error), debug)
            return EXIT_STOPPED
        except _user_errors() as error:
            if not _is_out_of_room(error):
                _say_error(getattr(error, "prog", prog), message(error), debug)
                return EXIT_USAGE
            _say_error(prog, message(error), debug)
            return EXIT_STOPPED
        except Exception as error:
            _say_error(prog, _of_fault(error, debug), debug)
            return EXIT_BUG


def _say_error(prog: str, text: str, debug: bool) -> None:
    """Tell an error in one line; with ``debug``, what is being handled stands before it."""
    if debug:
        say(traceback.format_exc().rstrip("\n"))
    say(f"{prog}: error: {one_line(text)}")


def _of_fault(error: BaseException, debug: bool) -> str:
    """Describe an error that no user can put right, and say how to report it."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(os.path.join(package, ""))]
    frame = (own or frames)[-1]
    way = (
        "please report it, with the traceback above"
        if debug
        else "run the command again with --debug, and report what it prints"
    )
    return (
        f"this is a fault of the program: {type(error).__name__}: {error} "
        f"({frame.filename}, line {frame.lineno}); {way}"
    )


def one_line(text: str) -> str:
    """Join the lines of a text by blanks.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    return " ".join(line.strip() for line in text.split("\n") if line.strip())


def _say_notes(prog: str, error: BaseException) -> None:
    """Tell what there is, as the function that was interrupted has noted it."""
    for note in getattr(error, "__notes__", ()):
        say(f"{prog}: {note}")


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


def _is_out_of_room(error: BaseException) -> bool:
    if not isinstance(error, OSError):
        return False
    # It takes a second, which an answer to wrong options is not to take.
    from pyimgano.utils._outputs import is_out_of_room

    return is_out_of_room(error)


def message(error: BaseException) -> str:
    """Put an error into words, without Python's own such as ``[Errno 28]``.

    Parameters
    ----------
    error : exception

    Returns
    -------
    str
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError) and not str(error):
        return "the memory is used up"
    return str(error)


@contextmanager
def stopping(what_there_is: str) -> Iterator[None]:
    """Make the system's errors a :class:`StoppedError`: the long work before them was done.

    Parameters
    ----------
    what_there_is : str
        Ends the message: what is lost, or where results are.

    Raises
    ------
    StoppedError
        In place of an ``OSError``.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of our output went away
        raise
    except OSError as error:
        raise StoppedError(f"{message(error)}; {what_there_is}") from error


def _show_warning(prog: str) -> Callable[..., None]:
    def show(message: Warning | str, *where: object, **more: object) -> None:
        say(f"{prog}: warning: {one_line(str(message))}")

    return show


def fraction(text: str) -> float:
    """Option value above 0 and at most 1."""
    value = _number(text, float)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def number(text: str) -> float:
    """Option value that is a finite number."""
    return _number(text, float)


def several(n: int, thing: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{n} {thing}{'s' * (n != 1)}"


def count(text: str) -> int:
    """Option value that is an integer of at least 1."""
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def side(text: str) -> int:
    """Option value that is a number of pixels along one side of an image."""
    value = count(text)
    if value > _LONGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text} is more than {_LONGEST_SIDE} pixels")
    return value


def count_or_zero(text: str) -> int:
    """Option value that is an integer of at least 0."""
    value = _number(text, int)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return value


def strict_json(text: str | bytes) -> Any:
    """Read JSON, without what Python's reader takes beyond it or takes the last of.

    Parameters
    ----------
    text : str or bytes

    Returns
    -------
    object

    Raises
    ------
    json.JSONDecodeError
        If it is not JSON.
    NotStrictError
        If a key is there twice, or a number is not finite.
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_no_key_twice([name for name, _ in pairs])
        return dict(pairs)

    def refused(word: str) -> NoReturn:
        raise NotStrictError(f"{word} is no number of JSON")

    def finite(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            refused(word)
        return value

    return json.loads(text, object_pairs_hook=table, parse_constant=refused, parse_float=finite)


def check_no_key_twice(names: Sequence[str]) -> None:
    """Refuse a table in which a key is there twice.

    Parameters
    ----------
    names : sequence of str

    Raises
    ------
    NotStrictError
    """
    for name in set(names):
        if names.count(name) > 1:
            raise NotStrictError(f"the key {name!r} is there twice; keep one")


def _number(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value
