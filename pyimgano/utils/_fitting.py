"""Fits that change nothing unless they succeed, and hold until the next one."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import Map, MayLack, Rule
from pyimgano.utils._warning import warn_user

__all__ = [
    "RUNTIME_PARAMETERS",
    "FittedParametersMixin",
    "differ",
    "restored_on_error",
    "set_on_fitted_copy",
]

# They say where and how a fitted feature step computes, not what.
RUNTIME_PARAMETERS = frozenset({"batch_size", "device", "engine", "threads_per_image", "weights"})

Method = TypeVar("Method", bound=Callable[..., Any])
Self = TypeVar("Self", bound="FittedParametersMixin")


def restored_on_error(fit: Method) -> Method:
    """Decorate a ``fit`` method: if it raises, the estimator is as it was before the call.

    A fitted model whose refit fails, because of a truncated file or Ctrl-C, goes on scoring as
    before. Fits must replace fitted attributes and never change them in place.

    Parameters
    ----------
    fit : callable
        Method of an estimator.

    Returns
    -------
    callable
    """

    @wraps(fit)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:  # Ctrl-C as well
            vars(self).clear()
            vars(self).update(before)
            raise

    return guarded  # type: ignore[return-value]


def set_on_fitted_copy(fitted: Any, params: dict[str, Any], prefix: str) -> None:
    """Set run-time parameters of an inner estimator on its fitted copy as well.

    Estimators fit clones of what they are given. What was set on the original after ``fit``
    would not reach the clone that computes, and a loaded model could not be told where its
    weights are or which device to take.

    Parameters
    ----------
    fitted : estimator or None
        The fitted copy; None if there is none.
    params : dict
        Parameters given to ``set_params`` of the outer estimator.
    prefix : str
        Name of the inner estimator among them, such as ``"features__"``.
    """
    chosen = {
        name[len(prefix) :]: value
        for name, value in params.items()
        if name.startswith(prefix) and name.rpartition("__")[2] in RUNTIME_PARAMETERS
    }
    if fitted is None or not chosen:
        return
    for one in getattr(fitted, "fold_estimators", [fitted]):  # an ensemble of folds
        known = one.get_params(deep=True)
        one.set_params(**{name: value for name, value in chosen.items() if name in known})


def differ(one: Any, other: Any) -> bool:
    """Tell whether two values of a parameter differ.

    Parameters
    ----------
    one, other : object
        Numbers, strings, paths, arrays, and containers of such are compared by value; numpy's
        numbers count as Python's, and a list counts as a tuple. Other objects, such as
        estimators, are equal to themselves only.

    Returns
    -------
    bool
    """
    if one is other:
        return False
    one, other = (v.item() if isinstance(v, np.generic) else v for v in (one, other))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) != len(other) or any(map(differ, one, other))
    if type(one) is not type(other):
        return True  # 1 may be a count where 1.0 is a share
    if isinstance(one, np.ndarray):
        same_kind = one.dtype == other.dtype and one.shape == other.shape
        return not same_kind or differ(one.ravel().tolist(), other.ravel().tolist())
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(differ(one[key], other[key]) for key in one)
    if isinstance(one, float) and one != one:
        return other == other  # NaN is what it was
    comparable = (bool, int, float, complex, str, bytes, set, frozenset, slice, os.PathLike)
    return not isinstance(one, comparable) or one != other


def _own(value: Any) -> Any:
    """Copy what could be changed in place, but not the estimators in it."""
    if type(value) in (list, tuple):
        return type(value)(_own(item) for item in value)
    if type(value) is dict:
        return {key: _own(item) for key, item in value.items()}
    return value.copy() if isinstance(value, (np.ndarray, set)) else value


class FittedParametersMixin(CheckedStateMixin):
    """Parameters that stay as they were in ``fit`` until the next one.

    What was learned, such as a threshold, belongs to the parameters it was learned with. A
    subclass calls ``_keep_parameters`` at the end of ``fit`` and computes with what
    ``_as_fitted`` returns.
    """

    # Parameters that say how to compute, not what: they take effect at once.
    _runtime_parameters: frozenset[str] = frozenset({"n_jobs", "verbose", "batch_size"})

    # Ways to have at once, without a fit, what some parameters are for.
    _at_once: dict[str, str] = {
        "contamination": "To move the threshold at once, set offset_ = -threshold."
    }
    _fitted_state: dict[str, Rule] = {"_parameters_at_fit": MayLack(Map(str))}

    _parameters_at_fit: dict[str, Any]

    def _keep_parameters(self) -> None:
        """Remember the parameters that results depend on, as they were in ``fit``."""
        self._parameters_at_fit = self._lasting_parameters(vars(self))

    @classmethod
    def _lasting_parameters(cls, state: dict[str, Any]) -> dict[str, Any]:
        names = set(cls._get_param_names()) - cls._runtime_parameters  # type: ignore[attr-defined]
        return {name: _own(value) for name, value in state.items() if name in names}

    def _as_fitted(self: Self) -> Self:
        """Return this estimator with the parameters it was fitted with.

        Parameters that were set since take effect in the next ``fit``, which a ``UserWarning``
        says. A step that needs no ``fit``, and had none, computes with those it has now.
        """
        at_fit = vars(self).get("_parameters_at_fit", {})
        changed = [name for name, value in at_fit.items() if differ(getattr(self, name), value)]
        if not changed:
            return self
        ways = dict.fromkeys(self._at_once[name] for name in changed if name in self._at_once)
        at_once = "".join(f" {way}" for way in ways)
        warn_user(
            f"parameters of this {type(self).__name__} changed after fit ({', '.join(changed)}): "
            "they take effect in the next fit, and until then results are those of the fitted "
            f"model.{at_once}",
            UserWarning,
        )
        fitted = object.__new__(type(self))
        fitted.__dict__.update(self.__dict__, **at_fit)
        return fitted

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        state = super()._upgraded_state(state)
        fitted = any(name.endswith("_") and not name.startswith("_") for name in state)
        if fitted and "_parameters_at_fit" not in state:  # of an earlier version
            state["_parameters_at_fit"] = cls._lasting_parameters(state)
        return state
