"""Parameters that are one integer for both sides, or a pair such as (height, width)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

__all__ = ["check_pair", "check_pair_or_none"]


def check_pair(
    value: int | Sequence[int], name: str, *, sides: str = "height, width", least: int = 1
) -> tuple[int, int]:
    """Return a parameter that is an integer or a pair of integers as a pair.

    Parameters
    ----------
    value : int, or tuple or list of 2 int
        What a user gave; an integer stands for both sides.
    name : str
        Name of the parameter, for the message.
    sides : str, default="height, width"
        Names of the two numbers, for the message.
    least : int, default=1
        Smallest value of each.

    Returns
    -------
    (int, int)

    Raises
    ------
    ValueError
        If it is anything else, booleans included.
    """
    return _checked(value, name, f"an integer or ({sides})", least)


def check_pair_or_none(
    value: int | Sequence[int] | None,
    name: str,
    *,
    sides: str = "height, width",
    least: int = 1,
) -> tuple[int, int] | None:
    """Return a parameter that is None, an integer or a pair of integers as None or a pair.

    Parameters
    ----------
    value : int, tuple or list of 2 int, or None
    name, sides, least
        As in :func:`check_pair`.

    Returns
    -------
    (int, int) or None

    Raises
    ------
    ValueError
        If it is anything else, booleans included.
    """
    if value is None:
        return None
    return _checked(value, name, f"an integer, ({sides}) or None", least)


def _checked(value: Any, name: str, wanted: str, least: int) -> tuple[int, int]:
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    whole = [isinstance(side, Integral) and not isinstance(side, bool) for side in pair]
    if len(pair) != 2 or not all(whole) or min(pair) < least:
        raise ValueError(f"{name}={value!r} must be {wanted}, of at least {least}.")
    return int(pair[0]), int(pair[1])
