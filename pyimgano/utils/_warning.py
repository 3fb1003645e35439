"""Warnings that point at the line of the user, however deep they arise."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import joblib
import sklearn

__all__ = ["warn_user"]

# Frames of these are passed over: a pipeline or a search stands between the user and a detector.
_INNER = tuple(
    f"{Path(file).resolve().parent}{os.sep}"
    for file in (Path(__file__).parent, joblib.__file__, sklearn.__file__)
)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is none of this package, scikit-learn or joblib.

    Parameters
    ----------
    message : str
        The text of the warning.
    category : type of Warning, default=UserWarning
        Its class.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
