"""Fitting that changes nothing unless it succeeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

__all__ = ["RUNTIME_PARAMETERS", "restored_on_error", "set_on_fitted_copy"]

# They say where and how a fitted feature step computes, not what.
RUNTIME_PARAMETERS = frozenset({"batch_size", "device", "threads_per_image", "weights"})

Method = TypeVar("Method", bound=Callable[..., Any])


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
    known = fitted.get_params(deep=True)
    fitted.set_params(**{name: value for name, value in chosen.items() if name in known})
