"""From rules to schemas: all that an object of a class may hold, and the check on loading it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import make_constraint

from pyimgano.utils._state import Map, MayLack, OneOf, Rule, Sizes, fail

__all__ = ["CheckedStateMixin", "Schema", "check_state", "schema_of"]

# What scikit-learn adds to any estimator.
_OF_ESTIMATORS: dict[str, Rule] = {
    "_sklearn_output_config": Map(str, OneOf("default", "pandas", "polars")),
}

_ATOMS = frozenset({type(None), bool, int, float, str})
_MOST_REMEMBERED = 1000


class Schema:
    """State of the objects of a class: parameters, fitted attributes, and how they go together.

    Parameters
    ----------
    name : str
        Of the class, for messages.
    parameters : sequence of str
        Attributes that every object has.
    constraints : dict of str to list, default=None
        scikit-learn's constraints of parameters, by name.
    parameter_rules : dict of str to Rule, default=None
        Further rules of parameters.
    fitted : dict of str to Rule, default=None
        Attributes of fitted objects: all are there, but those that ``MayLack``, or none is.
    relations : callable, default=None
        Gets the state and the Sizes of a fitted object, and raises if they do not go together.
    always : bool, default=False
        Whether there are no unfitted objects.
    """

    def __init__(
        self,
        name: str,
        parameters: tuple[str, ...] = (),
        constraints: Mapping[str, Any] | None = None,
        parameter_rules: Mapping[str, Rule] | None = None,
        fitted: Mapping[str, Rule] | None = None,
        relations: Callable[[Mapping[str, Any], Sizes], None] | None = None,
        always: bool = False,
    ) -> None:
        self.name, self.parameters, self.always = name, parameters, always
        self._constraints = {
            key: [make_constraint(one) for one in wanted]
            for key, wanted in (constraints or {}).items()
            if key in parameters and wanted != "no_validation"
        }
        # Values of parameters that satisfy the constraints: the trees of a forest are alike.
        self._right: set[Any] = set()
        self.parameter_rules = dict(parameter_rules or {})
        self.fitted = dict(fitted or {})
        self.relations = relations
        self.required = frozenset(
            name for name, rule in self.fitted.items() if not isinstance(rule, MayLack)
        )
        self._needed = frozenset(parameters)
        self._known = self._needed.union(self.fitted, self.parameter_rules, _OF_ESTIMATORS)

    def knows(self, attribute: str) -> bool:
        """Tell whether objects may have this attribute.

        Parameters
        ----------
        attribute : str

        Returns
        -------
        bool
        """
        return attribute in self._known

    def check_parameters(self, values: Mapping[str, Any], sizes: Sizes, where: str) -> None:
        """Check parameters, all or some of them.

        Parameters
        ----------
        values : dict
        sizes : Sizes
        where : str
            Whose they are, for messages.
        """
        for name, constraints in self._constraints.items():
            if name not in values:
                continue
            value = values[name]
            key = (name, type(value), value) if type(value) in _ATOMS else None
            if key in self._right:
                continue
            if not any(one.is_satisfied_by(value) for one in constraints):
                wanted = " or ".join(str(one) for one in constraints)
                fail(f"{where}.{name}", f"should be {wanted}, and is {_word(value)}")
            short = not isinstance(value, str) or len(value) < 100
            if key is not None and short and len(self._right) < _MOST_REMEMBERED:
                self._right.add(key)
        for name, rule in self.parameter_rules.items():
            if name in values:
                rule.check(values[name], f"{where}.{name}", sizes)

    def check(
        self,
        state: Mapping[str, Any],
        *,
        thorough: bool,
        closed: bool,
        in_range: dict[int, np.ndarray] | None = None,
    ) -> None:
        """Check a state.

        Parameters
        ----------
        state : dict
        thorough : bool
            Look at all numbers, not only at those that something is found by.
        closed : bool
            Refuse attributes that are not declared, and ask for all that are.
        in_range : dict of int to ndarray, default=None
            Arrays that need not be looked at again, see :class:`~pyimgano.utils._state.Sizes`.
        """
        sizes = Sizes(thorough, in_range)
        where = self.name
        if closed:
            if not self._known.issuperset(state):
                name = next(name for name in state if not self.knows(name))
                fail(f"{where}.{name}", "is no attribute that this class has")
            if not self._needed.issubset(state):
                name = next(name for name in self.parameters if name not in state)
                fail(where, f"lacks its parameter {name}")
        self.check_parameters(state, sizes, where)
        at_fit = state.get("_parameters_at_fit")
        if isinstance(at_fit, dict):
            if not all(type(name) is str and name in self.parameters for name in at_fit):
                fail(f"{where}._parameters_at_fit", "names what are no parameters")
            self.check_parameters(at_fit, sizes.of_a_part(), f"{where}._parameters_at_fit")
        found = [name for name in self.fitted if name in state]
        whole = self.required.issubset(state)
        # A class of which every attribute may be missing is fitted if it has any.
        has_some = not self.required.isdisjoint(state) if self.required else bool(found)
        is_fitted = self.always or has_some
        if closed and is_fitted and not whole:
            fail(where, f"lacks {min(self.required.difference(state))}")
        for name in found:
            self.fitted[name].check(state[name], f"{where}.{name}", sizes)
        for name, rule in _OF_ESTIMATORS.items():
            if name in state:
                rule.check(state[name], f"{where}.{name}", sizes)
        sizes.finish()
        if self.relations is not None and is_fitted and whole:
            try:
                self.relations(state, sizes)
            except (KeyError, AttributeError, IndexError, TypeError) as error:
                fail(where, f"has attributes that do not go together ({error})")


def _word(value: Any) -> str:
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)[:60]
    return f"a {type(value).__name__}"


@cache
def schema_of(cls: type) -> Schema:
    """Schema of a class that declares its state, see ``CheckedStateMixin``.

    Parameters
    ----------
    cls : type

    Returns
    -------
    Schema
    """
    rules: dict[str, Rule] = {}
    parameter_rules: dict[str, Rule] = {}
    for base in reversed(cls.__mro__):
        rules.update(vars(base).get("_fitted_state", {}))
        parameter_rules.update(vars(base).get("_parameter_rules", {}))
    parameters: tuple[str, ...] = ()
    if issubclass(cls, BaseEstimator):
        parameters = tuple(cls._get_param_names())  # type: ignore[attr-defined]
    return Schema(
        cls.__name__,
        parameters,
        getattr(cls, "_parameter_constraints", None),
        parameter_rules,
        rules,
        getattr(cls, "_check_fitted_state", None),
        always=not parameters,
    )


def check_state(
    cls: type,
    state: Mapping[str, Any],
    *,
    thorough: bool,
    closed: bool,
    in_range: dict[int, np.ndarray] | None = None,
) -> None:
    """Check the state of an object against what its class declares.

    Parameters
    ----------
    cls : type
    state : dict
    thorough, closed, in_range : bool, bool, dict
        See :meth:`Schema.check`.

    Raises
    ------
    UntrustedFileError
        If it is no state that an object of this class can have.
    """
    schema_of(cls).check(state, thorough=thorough, closed=closed, in_range=in_range)


class CheckedStateMixin:
    """Objects that look at their state before they use it, however they were loaded.

    A subclass declares ``_fitted_state``, a dict of attribute names and rules, for the attributes
    that it sets itself; those of its bases are added. ``_check_fitted_state(state, sizes)``, a
    static or class method, raises (:func:`~pyimgano.utils._state.fail`) if the attributes of a
    fitted object do not go together; ``sizes`` holds the lengths that rules name.
    ``_upgraded_state(state)``, a class method, brings the state of an earlier version up to date.
    """

    _fitted_state: dict[str, Rule] = {}

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        return state

    @classmethod
    def _restored_state(
        cls,
        state: Any,
        *,
        thorough: bool,
        closed: bool,
        in_range: dict[int, np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """Check the state in a file, and return what ``__dict__`` is to be filled with."""
        if type(state) is not dict or not all(type(name) is str for name in state):
            fail(cls.__name__, "has a state that is no dict of attributes")
        state = cls._upgraded_state(dict(state))
        check_state(cls, state, thorough=thorough, closed=closed, in_range=in_range)
        return state

    def __copy__(self) -> Any:
        # The state of a living object needs no check, and may be that of a fit under way.
        new = object.__new__(type(self))
        get_state = getattr(self, "__getstate__", None)  # Python 3.11 gives one to any object
        state = dict(vars(self) if get_state is None else get_state())
        state.pop("_versions", None)
        new.__dict__.update(state)
        return new

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(self._restored_state(state, thorough=False, closed=False))
