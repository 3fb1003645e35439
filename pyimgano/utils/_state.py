"""The state of saved objects: declared by their classes, and checked before it is used.

A class says in ``_fitted_state`` which attributes ``fit`` gives it, and of what kind, shape and
range each is; ``_check_fitted_state`` says how they go together. Parameters are checked by
``_parameter_constraints``. Compiled code indexes by what is stored, so wrong state could read
memory that it has no business in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np

from pyimgano.exceptions import UntrustedFileError
from pyimgano.utils._words import printable

__all__ = [
    "Array",
    "Either",
    "Flag",
    "ListOf",
    "Map",
    "MayLack",
    "Maybe",
    "Names",
    "Number",
    "Object",
    "OneOf",
    "Plain",
    "Rule",
    "Sizes",
    "State",
    "Text",
    "TupleOf",
    "are_in_range",
    "check_finite_array",
    "fail",
    "is_plain",
]

# Magnitude up to which stored numbers are taken: squares and sums of squares stay finite.
LARGEST = 1e100
LARGEST_FLOAT32 = 1e18


def fail(where: str, why: str) -> NoReturn:
    """Refuse a state.

    Parameters
    ----------
    where : str
        Class and attribute.
    why : str
        What is wrong with it.

    Raises
    ------
    UntrustedFileError
    """
    what = printable(f"{where} {why}")  # the file may have chosen names in it
    raise UntrustedFileError(
        f"{what}. The file is damaged, or was not written by this library: copy it anew, or fit "
        "and save the model again."
    )


class Sizes(dict[str, int]):
    """Lengths that several attributes of an object share, by the name their rules give them.

    Attributes
    ----------
    thorough : bool
        Whether all numbers are looked at; otherwise only those that something is found by.
    in_range : dict of int to ndarray
        Arrays of floats that have been looked at, by their ids. Objects that share an array
        share this as well.
    """

    def __init__(self, thorough: bool, in_range: dict[int, np.ndarray] | None = None) -> None:
        super().__init__()
        self.thorough = thorough
        self.in_range: dict[Any, np.ndarray] = {} if in_range is None else in_range
        self._later: list[Callable[[], None]] = []

    def of_a_part(self) -> Sizes:
        """Lengths of a part, which are its own."""
        return Sizes(self.thorough, self.in_range)

    def is_new(self, check: str, array: np.ndarray) -> bool:
        """Tell whether an array has not been through some check yet.

        Parameters
        ----------
        check : str
            Name of the check, which raises if the array does not pass.
        array : ndarray

        Returns
        -------
        bool
        """
        if (check, id(array)) in self.in_range:
            return False
        self.in_range[check, id(array)] = array  # kept, so that its id is its own
        return True

    def bind(self, name: str, size: int, where: str) -> None:
        """Give a length its value, or check that it has this one."""
        known = self.setdefault(name, size)
        if known != size:
            fail(where, f"has length {size}, and others of its object have {known}")

    def later(self, check: Callable[[], None]) -> None:
        """Do a check when all lengths are known."""
        self._later.append(check)

    def finish(self) -> None:
        """Do those checks."""
        for check in self._later:
            check()


class Rule:
    """Condition on the value of an attribute."""

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        """Raise :class:`~pyimgano.exceptions.UntrustedFileError` if the value breaks the rule.

        Parameters
        ----------
        value : object
        where : str
            Class and attribute, for the message.
        sizes : Sizes
        """
        raise NotImplementedError


class Array(Rule):
    """A numpy array, ``Array("float32", "n", 3)``.

    Parameters
    ----------
    dtypes : str
        Names of dtypes, separated by spaces; ``"int"`` is any integer, ``"float"`` any float.
    *shape : int, str or None
        A string names a length that others share; None is any length.
    low, high : number, default=None
        Smallest and largest value.
    below : str, default=None
        Name of a length: the values are indices of that many things.
    contiguous : bool, default=False
        Whether the array must be C-contiguous, as compiled code asks for it.
    infinite : bool, default=False
        Whether the class looks for infinity and NaN itself.
    """

    def __init__(
        self,
        dtypes: str,
        *shape: int | str | None,
        low: float | None = None,
        high: float | None = None,
        below: str | None = None,
        contiguous: bool = False,
        infinite: bool = False,
    ) -> None:
        self._dtypes, self._shape = dtypes.split(), shape
        self._exact = frozenset(
            np.dtype(name) for name in self._dtypes if name not in ("int", "float")
        )
        self._low, self._high, self._below = low, high, below
        self._contiguous, self._infinite = contiguous, infinite

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if not isinstance(value, np.ndarray):
            fail(where, f"is a {type(value).__name__}, not an array")
        if value.dtype not in self._exact:
            kind = {"i": "int", "u": "int", "f": "float"}.get(value.dtype.kind)
            if value.dtype.name not in self._dtypes and kind not in self._dtypes:
                fail(where, f"has dtype {value.dtype}, not {' or '.join(self._dtypes)}")
            if not value.dtype.isnative:
                fail(where, "has bytes in another order than this machine's")
        if value.ndim != len(self._shape):
            fail(where, f"has shape {value.shape}, not one of {len(self._shape)} dimensions")
        for have, wanted in zip(value.shape, self._shape):
            if isinstance(wanted, str):
                sizes.bind(wanted, have, where)
            elif wanted is not None and have != wanted:
                fail(where, f"has shape {value.shape}, where one side should be {wanted}")
        if self._contiguous and not value.flags.c_contiguous:
            fail(where, "is not contiguous")
        self._check_range(value, where, sizes)

    def _check_range(self, value: np.ndarray, where: str, sizes: Sizes) -> None:
        if value.size == 0 or value.dtype.kind not in "iuf":
            return
        finite = value.dtype.kind == "f" and sizes.thorough and not self._infinite
        if finite and id(value) not in sizes.in_range:
            check_finite_array(value, where)
            sizes.in_range[id(value)] = value  # kept, so that its id is its own
        if self._low is None and self._high is None and self._below is None:
            return
        if value.dtype.kind == "f" and not sizes.thorough:
            return
        low, high = value.min(), value.max()
        if self._low is not None and low < self._low:
            fail(where, f"holds {low}, below {self._low}")
        if self._high is not None and high > self._high:
            fail(where, f"holds {high}, above {self._high}")
        if self._below is not None:
            sizes.later(lambda: _check_below(int(high), self._below, where, sizes))


def _check_below(value: int, name: str | None, where: str, sizes: Sizes) -> None:
    n = sizes.get(name or "")
    if n is not None and value >= n:
        fail(where, f"holds the index {value}, and there are {n}")


def check_finite_array(value: np.ndarray, where: str) -> None:
    """Refuse an array that holds NaN, infinity or numbers whose squares would overflow.

    Parameters
    ----------
    value : ndarray of floats
    where : str
        Class and attribute, for the message.
    """
    if value.size == 0:
        return
    if value.dtype.itemsize in (4, 8) and are_in_range(value.ravel(order="K")):  # often a view
        return
    largest = LARGEST if value.dtype.itemsize > 4 else LARGEST_FLOAT32
    low, high = float(value.min()), float(value.max())
    if not (-largest <= low and high <= largest):
        fail(where, f"holds NaN, infinity or a number beyond {largest:g}")


def are_in_range(values: np.ndarray) -> bool:
    """Tell in one pass that numbers are finite and their squares as well.

    Parameters
    ----------
    values : ndarray of shape (n,), float32 or float64

    Returns
    -------
    bool
        False if they are not, or if there are so many large ones that it takes a closer look.
    """
    largest = LARGEST if values.dtype.itemsize > 4 else LARGEST_FLOAT32
    with np.errstate(all="ignore"):
        # Where the sum of the squares is in range, each of them is.
        return bool(np.dot(values, values) <= largest**2)


class Number(Rule):
    """An integer, or with ``whole=False`` any finite number.

    Parameters
    ----------
    low, high : number, default=None
        Smallest and largest.
    whole : bool, default=False
        Whether only integers count.
    below : str, default=None
        Name of a length: the number is an index of that many things.
    equals : str, default=None
        Name of a length that the number states.
    """

    def __init__(
        self,
        low: float | None = None,
        high: float | None = None,
        *,
        whole: bool = False,
        below: str | None = None,
        equals: str | None = None,
    ) -> None:
        self._low, self._high = low, high
        self._kind: Any = Integral if whole or below or equals else Real
        self._below, self._equals = below, equals

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        exact = type(value) is int or (type(value) is float and self._kind is Real)
        if not exact and (not isinstance(value, self._kind) or isinstance(value, bool)):
            what = "number" if self._kind is Real else "integer"
            fail(where, f"is {_short(value)}, not a {what}".replace("a integer", "an integer"))
        if self._kind is Real and not (abs(float(value)) <= LARGEST):
            fail(where, f"is {value}, not a finite number of ordinary size")
        if self._kind is Integral and abs(value) > 2**62:
            fail(where, f"is {_short(value)}, too large an integer")
        if self._low is not None and value < self._low:
            fail(where, f"is {value}, below {self._low}")
        if self._high is not None and value > self._high:
            fail(where, f"is {value}, above {self._high}")
        if self._equals is not None:
            sizes.bind(self._equals, int(value), where)
        if self._below is not None:
            sizes.later(lambda: _check_below(int(value), self._below, where, sizes))


class Flag(Rule):
    """True or False."""

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if not isinstance(value, (bool, np.bool_)):
            fail(where, f"is {_short(value)}, neither True nor False")


class Text(Rule):
    """A string.

    Parameters
    ----------
    pattern : callable, default=None
        Tells whether a string will do.
    """

    def __init__(self, pattern: Callable[[str], Any] | None = None) -> None:
        self._pattern = pattern

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if not isinstance(value, str) or (self._pattern is not None and not self._pattern(value)):
            fail(where, f"is {_short(value)}, not the text it should be")


class OneOf(Rule):
    """One of some strings, numbers, tuples of strings, or None."""

    def __init__(self, *values: Any) -> None:
        self._values = values
        self._types = frozenset(map(type, values))
        self._known = frozenset((type(one), one) for one in values)

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        try:
            known = type(value) in self._types and (type(value), value) in self._known
        except TypeError:  # what cannot be a key is none of them
            known = False
        if not known:
            fail(where, f"is {_short(value)}, none of {', '.join(map(repr, self._values))}")


class Either(Rule):
    """Whichever of several rules fits; they share no lengths."""

    def __init__(self, *rules: Rule) -> None:
        self._rules = rules

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        problems = []
        for rule in self._rules:
            own = sizes.of_a_part()
            try:
                rule.check(value, where, own)
                own.finish()
            except UntrustedFileError as error:
                problems.append(error)
                continue
            for name, size in own.items():
                sizes.bind(name, size, where)
            rule.check(value, where, sizes)
            return
        raise problems[-1]


class Maybe(Rule):
    """None, or what another rule says."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if value is not None:
            self._rule.check(value, where, sizes)


class MayLack(Rule):
    """A rule for an attribute that not every fitted object has."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        self._rule.check(value, where, sizes)


class Names(Rule):
    """An array of strings, such as the names of columns."""

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        array = isinstance(value, np.ndarray) and value.ndim == 1
        if not array or not (value.dtype.kind == "U" or all(type(n) is str for n in value)):
            fail(where, "is no array of names")


class ListOf(Rule):
    """A list (or with ``kind=tuple`` a tuple) of things alike.

    Parameters
    ----------
    rule : Rule
        Of each item. Lengths it names are the item's own.
    length : int or str, default=None
    kind : type, default=list
    least : int, default=0
        Smallest length.
    """

    def __init__(
        self, rule: Rule, length: int | str | None = None, kind: Any = list, least: int = 0
    ) -> None:
        self._rule, self._length, self._kind, self._least = rule, length, kind, least

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if type(value) is not self._kind:
            fail(where, f"is a {type(value).__name__}, not a {self._kind.__name__}")
        if isinstance(self._length, str):
            sizes.bind(self._length, len(value), where)
        elif self._length is not None and len(value) != self._length:
            fail(where, f"has length {len(value)}, not {self._length}")
        if len(value) < self._least:
            fail(where, f"has length {len(value)}, less than {self._least}")
        for i, item in enumerate(value):
            own = sizes.of_a_part()
            self._rule.check(item, f"{where}[{i}]", own)
            own.finish()


class TupleOf(Rule):
    """A tuple of so many things, each with a rule of its own."""

    def __init__(self, *rules: Rule) -> None:
        self._rules = rules

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if type(value) is not tuple or len(value) != len(self._rules):
            fail(where, f"is not a tuple of {len(self._rules)}")
        for i, (rule, item) in enumerate(zip(self._rules, value)):
            rule.check(item, f"{where}[{i}]", sizes)


class Map(Rule):
    """A dict whose keys are alike and whose values are alike.

    Parameters
    ----------
    key : type
        Of the keys, exactly.
    rule : Rule
        Of each value.
    below : str, default=None
        Name of a length: all values are indices of that many things.
    """

    def __init__(self, key: type, rule: Rule | None = None, *, below: str | None = None) -> None:
        self._key, self._rule, self._below = key, rule, below

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if not isinstance(value, dict):
            fail(where, f"is a {type(value).__name__}, not a dict")
        if any(type(key) is not self._key for key in value):
            fail(where, f"has keys that are no {self._key.__name__}")
        if self._below is not None and value:
            if any(type(index) is not int for index in value.values()):
                fail(where, "holds values that are no integers")
            low, high = min(value.values()), max(value.values())
            if low < 0:
                fail(where, f"holds the index {low}")
            sizes.later(lambda: _check_below(high, self._below, where, sizes))
        if self._rule is not None:
            for key, item in value.items():
                self._rule.check(item, f"{where}[{_short(key)}]", sizes)


class Object(Rule):
    """An object of one of some classes, by name, or with some methods.

    Parameters
    ----------
    *classes : str
        Names of classes of pyimgano or of the libraries it builds on; any if none is given.
    methods : sequence of str, default=()
        Methods that its class must have.
    """

    def __init__(self, *classes: str, methods: tuple[str, ...] = ()) -> None:
        self._classes, self._methods = classes, methods

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        cls = type(value)
        known = not self._classes or any(base.__name__ in self._classes for base in cls.__mro__)
        if not known or cls.__module__ == "builtins":
            fail(where, f"is a {cls.__name__}, not a {' or '.join(self._classes) or 'model'}")
        if not all(hasattr(value, method) for method in self._methods):
            fail(where, f"is a {cls.__name__}, which has no {' and '.join(self._methods)}")


class Plain(Rule):
    """Numbers, strings, None, arrays of them, and containers of all that."""

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if not is_plain(value):
            fail(where, "holds more than numbers, strings and containers of them")


_ATOMS = (type(None), bool, int, float, complex, str, bytes)


def is_plain(value: Any) -> bool:
    """Tell whether a value is made of numbers, strings, arrays and containers alone.

    Parameters
    ----------
    value : object

    Returns
    -------
    bool
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind in _ATOMS or isinstance(one, (np.generic, np.dtype, np.random.RandomState)):
            continue
        if kind in (list, tuple, set, frozenset):
            waiting += one
        elif kind is dict:
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, np.ndarray):
            if one.dtype.hasobject:
                waiting += one.ravel().tolist()
        elif kind is slice:
            waiting += (one.start, one.stop, one.step)
        elif kind is not bytearray and not (isinstance(one, type) and issubclass(one, np.generic)):
            return False
    return True


def _short(value: Any) -> str:
    # Not structures: they may have as many fields as a long list has items.
    shown = isinstance(value, (str, bytes, int, float, np.generic, type(None)))
    if shown and not isinstance(value, np.void):
        if isinstance(value, int) and abs(value) > 10**30:
            return "a huge integer"
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"a {type(value).__name__}"


State = Mapping[str, Any]
