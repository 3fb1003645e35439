"""Preprocessing steps by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pyimgano.preprocessing._base import BasePreprocessor
from pyimgano.preprocessing._geometry import ImageAlignment, RegionCrop
from pyimgano.preprocessing._illumination import BackgroundFlattening, HomomorphicFilter
from pyimgano.preprocessing._intensity import (
    CLAHE,
    ContrastStretch,
    GammaCorrection,
    UnsharpMask,
    WhiteBalance,
)
from pyimgano.utils._words import did_you_mean

__all__ = ["PREPROCESSORS", "make_preprocessor"]

_CLASSES: tuple[type[BasePreprocessor], ...] = (
    CLAHE,
    BackgroundFlattening,
    ContrastStretch,
    GammaCorrection,
    HomomorphicFilter,
    ImageAlignment,
    RegionCrop,
    UnsharpMask,
    WhiteBalance,
)

#: The classes of all steps by the names they have on the command line.
PREPROCESSORS: Mapping[str, type[BasePreprocessor]] = MappingProxyType(
    {cls._step_name: cls for cls in sorted(_CLASSES, key=lambda cls: cls._step_name)}
)


def make_preprocessor(name: str, params: Mapping[str, Any] | None = None) -> BasePreprocessor:
    """Make the preprocessing step of a name, and check its parameters.

    Parameters
    ----------
    name : str
        ``"align"`` (:class:`ImageAlignment`), ``"clahe"`` (:class:`CLAHE`),
        ``"contrast_stretch"`` (:class:`ContrastStretch`), ``"crop"`` (:class:`RegionCrop`),
        ``"flatten_background"`` (:class:`BackgroundFlattening`), ``"gamma"``
        (:class:`GammaCorrection`), ``"homomorphic"`` (:class:`HomomorphicFilter`),
        ``"unsharp_mask"`` (:class:`UnsharpMask`) or ``"white_balance"`` (:class:`WhiteBalance`).
    params : dict, default=None
        Parameters of the step; those left out have their defaults.

    Returns
    -------
    BasePreprocessor
        Not fitted.

    Raises
    ------
    ValueError
        If there is no step of that name, or it has no such parameter, or a value is out of range.

    Examples
    --------
    >>> from pyimgano.preprocessing import make_preprocessor
    >>> make_preprocessor("clahe", {"clip_limit": 3.0})
    CLAHE(clip_limit=3.0)
    """
    if name not in PREPROCESSORS:
        raise ValueError(
            f"there is no preprocessing step {name!r}.{did_you_mean(name, PREPROCESSORS)} There "
            f"are {', '.join(PREPROCESSORS)}."
        )
    cls, params = PREPROCESSORS[name], params or {}
    known = cls._get_param_names()
    for param in params:
        if param not in known:
            raise ValueError(
                f"the preprocessing step {name} has no parameter {param!r}."
                f"{did_you_mean(param, known)} It has {', '.join(known)}."
            )
    step = cls(**params)
    step._check_parameters()
    return step
