"""Feature steps by name."""

from __future__ import annotations

import difflib
import importlib

from sklearn.base import clone

from pyimgano.features._base import BasePatchFeatures

__all__ = ["make_features"]

# name -> module, class, parameters. Layers 2 and 3 are what PatchCore's paper uses.
_NAMED: dict[str, tuple[str, str, dict[str, object]]] = {
    "filterbank": ("pyimgano.features._filterbank", "FilterBankFeatures", {}),
    **{
        backbone: (
            "pyimgano.features._torch",
            "TorchPatchFeatures",
            {"backbone": backbone, "layers": ("layer2", "layer3")},
        )
        for backbone in ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")
    },
}


def make_features(features: str | BasePatchFeatures) -> BasePatchFeatures:
    """Make the feature step that a ``features`` parameter stands for.

    Parameters
    ----------
    features : str or BasePatchFeatures
        A name, or a feature step, which is cloned. The names are ``"filterbank"``
        (:class:`FilterBankFeatures`, needs no weights) and ``"resnet18"``, ``"resnet34"``,
        ``"resnet50"``, ``"wide_resnet50_2"`` (:class:`TorchPatchFeatures` with ImageNet
        weights, layers 2 and 3).

    Returns
    -------
    BasePatchFeatures
        A new object, not fitted.

    Raises
    ------
    ValueError
        When there is no feature step of this name.
    TypeError
        When ``features`` is neither a name nor a feature step.

    Examples
    --------
    >>> from pyimgano.features import make_features
    >>> make_features("resnet18")
    TorchPatchFeatures(backbone='resnet18')
    """
    if isinstance(features, BasePatchFeatures):
        return clone(features)
    if not isinstance(features, str):
        hint = " It is a class; give an instance of it." if isinstance(features, type) else ""
        raise TypeError(
            f"features={features!r} is neither a name nor a feature step.{hint} The names are "
            f"{', '.join(map(repr, _NAMED))}; a feature step is a BasePatchFeatures such as "
            'TorchPatchFeatures("resnet18", weights="file.pth").'
        )
    if features not in _NAMED:
        nearest = difflib.get_close_matches(features.lower(), _NAMED, n=1, cutoff=0.5)
        guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"features={features!r} is no known name.{guess} The names are "
            f"{', '.join(map(repr, _NAMED))}. Another network of torchvision: "
            "features=TorchPatchFeatures(backbone, layers=...)."
        )
    module, class_name, parameters = _NAMED[features]
    return getattr(importlib.import_module(module), class_name)(**parameters)
