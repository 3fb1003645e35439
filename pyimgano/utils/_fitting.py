"""Fitting that changes nothing unless it succeeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

__all__ = ["restored_on_error"]

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
