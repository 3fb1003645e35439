"""Feature steps by name."""

from __future__ import annotations

import difflib

from sklearn.base import clone

from pyimgano.backbones._efficientnet_lite import EFFICIENTNETS
from pyimgano.backbones._resnet import RESNETS
from pyimgano.features._backbone import BackbonePatchFeatures
from pyimgano.features._base import BasePatchFeatures
from pyimgano.features._filterbank import FilterBankFeatures
from pyimgano.features._vit import DINOV2, ViTPatchFeatures

__all__ = ["make_features"]

_OF_PATCHCORE = ("layer2", "layer3")
# Layers with far fewer channels than a ResNet's: a third one found more on bottles and screws.
_OF_EFFICIENTNET = ("layer2", "layer1", "layer3")
_NAMES = ("filterbank", *EFFICIENTNETS, *RESNETS, *DINOV2)


def make_features(
    features: str | BasePatchFeatures,
    *,
    layers: tuple[str, ...] | None = None,
    pool: int = 3,
) -> BasePatchFeatures:
    """Make the feature step that a ``features`` parameter stands for.

    Parameters
    ----------
    features : str or transformer
        A name, or a transformer that returns :class:`~pyimgano.grids.PatchGrids`, which is
        cloned. The names are ``"filterbank"`` (:class:`FilterBankFeatures`, needs no weights);
        ``"efficientnet_lite0"`` (:class:`BackbonePatchFeatures` with the ImageNet weights of the
        extra ``imagenet``); ``"resnet18"``, ``"resnet34"``, ``"resnet50"``, ``"resnet101"``,
        ``"resnet152"``, ``"wide_resnet50_2"``, ``"wide_resnet101_2"``
        (:class:`BackbonePatchFeatures` with torchvision's ImageNet weights);
        ``"dinov2_vits14"`` and its larger kin, and ``"timm:NAME"`` (:class:`ViTPatchFeatures`
        with published weights).
    layers : tuple of str, default=None
        Layers of a convolutional network given by name. None takes PatchCore's,
        ``("layer2", "layer3")``, and of EfficientNet-Lite0 ``("layer2", "layer1", "layer3")``.
    pool : int, default=3
        Neighborhood of a convolutional network given by name, likewise.

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
    BackbonePatchFeatures(backbone='resnet18')
    """
    if hasattr(features, "transform") and not isinstance(features, type):
        return clone(features)
    if not isinstance(features, str):
        hint = " It is a class; give an instance of it." if isinstance(features, type) else ""
        raise TypeError(
            f"features={features!r} is neither a name nor a feature step.{hint} The names are "
            f"{', '.join(map(repr, _NAMES))}; a feature step is a BasePatchFeatures such as "
            'BackbonePatchFeatures("resnet18", weights="file.pth").'
        )
    if features in DINOV2 or features.startswith("timm:"):
        return ViTPatchFeatures(features)
    if features not in _NAMES:
        nearest = difflib.get_close_matches(features.lower(), _NAMES, n=1, cutoff=0.5)
        guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"features={features!r} is no known name.{guess} The names are "
            f"{', '.join(map(repr, _NAMES))}. Another network of torchvision: "
            "features=BackbonePatchFeatures(backbone, layers=...); a transformer of timm: "
            '"timm:NAME".'
        )
    if features == "filterbank":
        return FilterBankFeatures()
    if layers is None:
        layers = _OF_EFFICIENTNET if features in EFFICIENTNETS else _OF_PATCHCORE
    return BackbonePatchFeatures(features, layers=layers, pool=pool)
