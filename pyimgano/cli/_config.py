"""Configuration files: the options of a command, read from a file and printed for one.

A key is the long name of an option without its dashes, a value is what the option takes, in the
types of JSON. What an option takes is known from its parser: the type of a value from the return
annotation of the option's ``type``, and that it is a path from the word for it in ``--help``.
"""

from __future__ import annotations

import argparse
import difflib
import glob
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyimgano.cli import _common, _options

__all__ = ["collects", "config_text", "is_asked_for", "is_empty_path", "read_config", "take_config"]

_PATH = re.compile(r"\b(BUNDLE|DIR|FILE|INPUT|PATH|RUN)\b")
# Types of values, by the return annotations of the functions that parse them.
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "bool": ("true or false", (bool,)),
    "float": ("a number", (int, float)),
    "int": ("an integer", (int,)),
    "int | str": ("an integer or a string", (int, str)),
    "str": ("a string", (str,)),
    "table": ("a table of names and values", (dict,)),
}
# Characters of a wrong value that a message shows.
_SHOWN = 60


def is_asked_for(words: Sequence[str]) -> bool:
    """Tell whether options are to be read from a file, or to be printed.

    Parameters
    ----------
    words : sequence of str
        The command line.

    Returns
    -------
    bool
    """
    return "--dump-config" in words or bool(list(_files(words)))


def _files(words: Sequence[str]) -> Iterator[str]:
    """Values of --config, which must be known before the other options are parsed."""
    for i, word in enumerate(words):
        if word == "--":
            return
        name, equals, value = word.partition("=")
        if name != "--config":
            continue
        if equals:
            yield value
        elif i + 1 < len(words) and not words[i + 1].startswith("-"):
            yield words[i + 1]


# ---- from a file to the parser ----------------------------------------------------------
def take_config(parser: _common.CommandParser, words: Sequence[str]) -> dict[str, Any]:
    """Make the values of a configuration file the defaults of a parser.

    Parameters
    ----------
    parser : CommandParser
        What the file or a request to print the options leaves open is no longer required.
    words : sequence of str
        The command line, with ``--config FILE`` or without.

    Returns
    -------
    dict
        The values, by the destination of their option.
    """
    files = list(_files(words))
    if len(files) > 1:
        raise _common.UsageError(f"--config is given {len(files)} times; give one file")
    given = _values(parser, files[0]) if files else {}
    for group in parser._mutually_exclusive_groups:
        _keep_one(group._group_actions, given, words, files)
    for action in parser._actions:
        # That of a second name for an option stays: its value is parsed in another way.
        if action.dest in given and action.default is not argparse.SUPPRESS:
            action.default = given[action.dest]
        if action.dest in given or "--dump-config" in words:
            action.required = False
            if not action.option_strings:
                action.nargs = "?" if action.nargs in (None, "?") else "*"
    return given


def _keep_one(
    actions: Sequence[argparse.Action],
    given: dict[str, Any],
    words: Sequence[str],
    files: Sequence[str],
) -> None:
    """Of options that exclude each other, let that of the command line override all of the file."""
    names = {word.partition("=")[0] for word in words}
    here = {action.dest for action in actions if names & set(action.option_strings)}
    if here:
        for action in actions:
            if action.dest not in here:
                given.pop(action.dest, None)
    several = {
        action.dest: _names(action)[0]
        for action in actions
        if given.get(action.dest, action.default) != action.default
        and action.default is not argparse.SUPPRESS
    }
    if len(several) > 1:
        raise _common.UsageError(
            f"{files[0]}: {' and '.join(several.values())} exclude each other; give one of them"
        )


def _values(parser: _common.CommandParser, path: str) -> dict[str, Any]:
    known = _keys(parser)
    given: dict[str, Any] = {}
    key_of: dict[str, str] = {}
    content = read_config(path)
    if "schema_version" in content:
        raise _common.UsageError(
            f"{path}: notes what a run was asked for, without its folders, and is no "
            "configuration; --dump-config prints one"
        )
    for key, value in content.items():
        if key not in known:
            raise _common.UsageError(_of_unknown(parser, path, key, known))
        action = known[key]
        other = key_of.setdefault(action.dest, key)
        if other != key:
            raise _common.UsageError(
                f"{path}: {other} and {key} stand for the same; give one of them"
            )
        if value is None and action.default is None:
            continue  # as printed for what is not set
        given[action.dest] = _Reader(action, key, path).value(value)
    return given


def _keys(parser: _common.CommandParser) -> dict[str, argparse.Action]:
    return {
        name: action
        for action in parser._actions
        if action.dest not in parser.command_line_only
        for name in _names(action)
    }


def _names(action: argparse.Action) -> list[str]:
    """The keys that an option has in a configuration."""
    if not action.option_strings:
        return [action.dest.replace("_", "-")]
    names = [one[2:] for one in action.option_strings if one.startswith("--")]
    if isinstance(action, argparse.BooleanOptionalAction):
        return [name for name in names if not name.startswith("no-")]
    return names


def _of_unknown(
    parser: _common.CommandParser, path: str, key: object, known: Mapping[str, argparse.Action]
) -> str:
    dashed = str(key).lower().replace("_", "-")
    if dashed in {name for action in parser._actions for name in _names(action)} - set(known):
        return f"{path}: {key} belongs on the command line, --{dashed}, and not into a file"
    near = difflib.get_close_matches(dashed, known, n=1)
    guess = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
    table = "; parameters of the model stand in the table set" if "set" in known else ""
    return f"{path}: {parser.prog} has no option {key}{guess}{table}"


def _kind(action: argparse.Action) -> str:
    """The type of an option's values: a key of ``_KINDS``."""
    if action.nargs == 0:
        return "bool"
    if action.type is None:
        return "str"
    if isinstance(action.type, type):
        return action.type.__name__
    returned = str(action.type.__annotations__["return"])
    if "tuple[str, Any]" in returned:
        return "table"
    return returned if returned in _KINDS else returned.split(" | ")[0]


def collects(action: argparse.Action) -> bool:
    """Tell whether an option may be repeated, and its values make a list.

    Parameters
    ----------
    action : Action

    Returns
    -------
    bool
    """
    return isinstance(action, argparse._AppendAction) and _kind(action) != "table"


class _Reader:
    """Turns a value of a configuration into that of an option."""

    def __init__(self, action: argparse.Action, key: str, path: str) -> None:
        self.action, self.key, self.path = action, key, path
        self.kind = _kind(action)

    def value(self, value: Any) -> Any:
        action = self.action
        if self.kind == "table":
            self._check_type(value)
            self._check_json(value)
            return list(value.items())
        if action.nargs == "?" and action.const is not None and isinstance(value, bool):
            return action.const if value else action.default
        if action.nargs not in ("+", "*") and not collects(action):
            return self._one(value)
        values = value if isinstance(value, list) else [value]
        if not values and action.nargs == "+" and action.default != []:
            raise self._error("must not be empty; leave it out for the default")
        return [self._one(one) for one in values]

    def _one(self, value: Any) -> Any:
        self._check_type(value)
        if self.kind == "bool":
            return value
        text = value if isinstance(value, str) else json.dumps(value)
        if _is_path(self.action, text):
            text = _joined(os.path.dirname(self.path), text)
        parse = self.action.type
        try:
            found = parse(text) if callable(parse) else text
        except argparse.ArgumentTypeError as error:
            raise self._error(f": {error}") from None
        choices = self.action.choices
        if choices is not None and found not in choices:
            raise self._error(f": {text!r} is none of {', '.join(map(str, choices))}")
        return found

    def _check_type(self, value: Any) -> None:
        right, types = _KINDS[self.kind]
        if not isinstance(value, types) or (isinstance(value, bool) and self.kind != "bool"):
            if self.action.nargs == "?" and self.action.const is not None:
                right = f"true, false or {right}"
            elif self.action.nargs in ("+", "*") or collects(self.action):
                right = f"{right} or a list of them"
            default = self.action.default
            if value is None and default is not None:
                right += ", and is left out for the default"
            raise self._error(f"must be {right}, not {_shown(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(f": {value} is not finite")

    def _check_json(self, value: Any) -> None:
        """Refuse what no option in JSON could hold, such as the dates of TOML."""
        if isinstance(value, dict):
            for name, one in value.items():
                if not isinstance(name, str):
                    raise self._error(f": {_shown(name)} is no string; put it into quotes")
                self._check_json(one)
        elif isinstance(value, list):
            for one in value:
                self._check_json(one)
        elif not isinstance(value, (str, int, float, type(None))):
            raise self._error(f": {_shown(value)} has no type of JSON; put it into quotes")
        elif isinstance(value, float) and not math.isfinite(value):
            raise self._error(f": {value} is not finite")

    def _error(self, what: str) -> _common.UsageError:
        return _common.UsageError(
            f"{self.path}: {self.key}{'' if what.startswith(':') else ' '}{what}"
        )


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date
        text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def is_empty_path(action: argparse.Action, value: Any) -> bool:
    """Tell whether an option for paths is given an empty one, which would be the current folder.

    Parameters
    ----------
    action : Action
    value : object
        Its value, or values.

    Returns
    -------
    bool
    """
    word = action.metavar if isinstance(action.metavar, str) else ""
    return bool(_PATH.search(word)) and (value == "" or (isinstance(value, list) and "" in value))


def _is_path(action: argparse.Action, text: str) -> bool:
    """Tell whether a value of an option is a path, and not a word that may stand for one."""
    word = action.metavar if isinstance(action.metavar, str) else ""
    return bool(text) and bool(_PATH.search(word)) and not _options.is_no_path(action.dest, text)


def _joined(folder: str, path: str) -> str:
    """A path, or a pattern, that is relative to a folder."""
    if not folder or os.path.isabs(path):
        return path
    joined = os.path.join(folder, path)
    if glob.has_magic(path) and not os.path.lexists(joined):
        return os.path.join(glob.escape(folder), path)
    return joined


# ---- reading ----------------------------------------------------------------------------
def read_config(path: str) -> dict[str, Any]:
    """Read a configuration file.

    Parameters
    ----------
    path : str
        Its ending says what it is: ``.json``, ``.toml``, ``.yaml`` or ``.yml``.

    Returns
    -------
    dict
        The table that it holds, with the types of its format.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _READERS:
        raise _common.UsageError(
            f"--config {path}: its name must end in {', '.join(_READERS)}, which says how to read "
            "it"
        )
    with open(path, "rb") as file:
        content = file.read()
    try:
        found = _READERS[suffix](content, path)
    except UnicodeDecodeError as error:
        raise _common.UsageError(f"{path}: is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _common.UsageError(f"{path}: is nested too deeply") from None
    if not isinstance(found, dict):
        raise _common.UsageError(
            f"{path}: holds {'nothing' if found is None else _shown(found)}, and must hold a table "
            "of options and their values, as --dump-config prints it"
        )
    return found


def _read_json(content: bytes, path: str) -> Any:
    try:
        return _common.strict_json(content)  # bytes: PowerShell writes UTF-16
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _common.UsageError(f"{path}: is not JSON: {error.msg}, {where}") from None
    except _common.NotStrictError as error:
        raise _common.UsageError(f"{path}: {error}") from None


def _read_toml(content: bytes, path: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise _common.UsageError(f"{path}: is not TOML: {error}") from None


def _read_yaml(content: bytes, path: str) -> Any:
    from pyimgano.utils._optional import import_optional

    yaml: Any = import_optional("yaml", "yaml", f"--config {path}")

    class Loader(yaml.SafeLoader):
        """YAML's loader takes the last of two equal keys."""

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _common.check_no_key_twice(names)
            return node

    try:
        return yaml.load(content.decode("utf-8-sig"), Loader=Loader)
    except _common.NotStrictError as error:
        raise _common.UsageError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise _common.UsageError(f"{path}: is not YAML: {error}") from None


_READERS: dict[str, Callable[[bytes, str], Any]] = {
    ".json": _read_json,
    ".toml": _read_toml,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}


# ---- printing ---------------------------------------------------------------------------
def config_text(parser: _common.CommandParser, options: argparse.Namespace) -> str:
    """Write options as a configuration file in JSON, with absolute paths.

    Parameters
    ----------
    parser : CommandParser
    options : Namespace
        What it has parsed.

    Returns
    -------
    str
        In ASCII, so that it can be read back whatever the encoding of standard output.
    """
    keys: dict[str, str] = {}
    content = {}
    for key, action in _keys(parser).items():
        if keys.setdefault(action.dest, key) == key:
            content[key] = _as_json(action, getattr(options, action.dest))
    return json.dumps(content, indent=2, allow_nan=False)


def _as_json(action: argparse.Action, value: Any) -> Any:
    if _kind(action) == "table":
        return dict(value)
    if isinstance(value, list):
        return [_as_json(action, one) for one in value]
    if isinstance(value, str) and _is_path(action, value):
        return _joined(os.getcwd(), value)
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
