"""Descriptions of parameters and their values, in words and in JSON's types."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

__all__ = ["as_json", "did_you_mean", "printable", "readable"]

_TYPES: dict[type, str] = {Integral: "int", Real: "float"}
_WORDS = {"boolean": ["bool"], "random_state": ["int", "RandomState", "None"]}


def readable(constraint: Any) -> list[str]:
    """List in words what one of scikit-learn's parameter constraints accepts."""
    if isinstance(constraint, StrOptions):
        return [repr(option) for option in sorted(constraint.options)]
    if isinstance(constraint, Interval):
        low = "(-inf" if constraint.left is None else f"({constraint.left}"
        high = "inf)" if constraint.right is None else f"{constraint.right})"
        if constraint.closed in ("left", "both") and constraint.left is not None:
            low = f"[{constraint.left}"
        if constraint.closed in ("right", "both") and constraint.right is not None:
            high = f"{constraint.right}]"
        return [f"{_TYPES.get(constraint.type, 'float')} in {low}, {high}"]
    if isinstance(constraint, HasMethods):
        return [f"object with {' and '.join(constraint.methods)}"]
    if isinstance(constraint, type):
        return [_TYPES.get(constraint, constraint.__name__)]
    return _WORDS.get(constraint, [str(constraint)])


def as_json(value: Any) -> Any:
    """Turn a value into JSON's types, or into its repr."""
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and value - value != 0:  # JSON has no infinity and no NaN
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def printable(text: str) -> str:
    """Write as escapes what is not printed: control characters, line ends, turns of direction.

    Parameters
    ----------
    text : str
        From a file, which may hold anything, on its way to a terminal or a log.

    Returns
    -------
    str
    """
    if text.isprintable():
        return text
    letters = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(letters)


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Make a sentence with the nearest known name, to stand after another sentence.

    Names that have less than ``cutoff`` of their characters in common are not near.
    """
    nearest = difflib.get_close_matches(str(name).lower(), list(known), n=1, cutoff=cutoff)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
