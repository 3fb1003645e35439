"""The recipe ``few-shot``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyimgano import _defaults
from pyimgano.benchmark._benchmark import make_model
from pyimgano.detectors import AnomalyDINODetector
from pyimgano.detectors._feature_holder import feature_step_of
from pyimgano.features import ViTPatchFeatures
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.recipes._building import calibrated, is_loadable, supported_quantile
from pyimgano.recipes._recipe import Plan, RecipeData

# Images from which on other recipes have enough to choose from.
_MOST = 16
# Who gives one of these has a network in mind: the model's own, where features does not name it.
_OF_FEATURES = frozenset({"features", "features__weights", "features__layers"})


def few_shot(
    data: RecipeData,
    *,
    model_options: Mapping[str, Any] | None = None,
    n_rotations: int = 8,
    defects: bool = True,
    defect_options: Mapping[str, Any] | None = None,
    quantile: float = _defaults.QUANTILE,
    input_format: str = _defaults.INPUT_FORMAT,
    u16_max: int = _defaults.U16_MAX,
    random_state: int = _defaults.RANDOM_STATE,
    verbose: bool = False,
) -> Plan:
    """Begin with 1 to 16 good images: all their patches, turned by several angles.

    AnomalyDINO on a vision transformer where its weights are on this machine, else the same bank
    of patches on a convolutional network or the filter bank. So few images support only a high
    rate of false alarms, and the threshold is at the largest score that a good image has against
    the others; put it anew when there are more (pyimgano recalibrate). Of one image there are
    scores, maps and verdicts, and nothing is known of the rate of false alarms: the threshold is
    at the largest score of varied copies of it, and no defects are marked.

    Parameters
    ----------
    data : RecipeData
    model_options : mapping, default=None
        Parameters of vision_anomalydino, such as features. Without that, these are DINOv2,
        EfficientNet-Lite0, ResNet-18 or the filter bank, the first whose weights are on this
        machine.
    n_rotations : int, default=8
        Views of each training image in the bank; 1 for parts that always lie in the same way.
    defects : bool, default=True
        Find the places of defects.
    defect_options : mapping, default=None
        Parameters of DefectExtractor.
    quantile : float in (0, 1), default=0.98
        Share of good parts that shall pass; lowered to what so few images support. With one
        image it has no part until the pipeline is recalibrated with more.
    input_format : str, default="rgb_u8_hwc"
        Format of images in arrays.
    u16_max : int, default=65535
        Full scale of 16-bit files.
    random_state : int, default=0
        Seeds the model.
    verbose : bool, default=False
        Show progress bars of the model.

    Returns
    -------
    Plan
    """
    one = data.n_good == 1
    if one and data.images.get("X_validation") is not None:
        raise ValueError(
            "few-shot with one image to train on takes no validation images: put them beside it, "
            "each is then judged by the others."
        )
    if data.n_good > _MOST:
        raise ValueError(
            f"few-shot is for up to {_MOST} good images, and there are {data.n_good}: take the "
            f"recipe industrial-adapt, which learns more from them, or {_MOST} of "
            f"them (of a dataset, pyimgano train --limit-train {_MOST})."
        )
    options = {"n_rotations": n_rotations, **(model_options or {})}
    if options.keys().isdisjoint(_OF_FEATURES):
        options["features"] = _first_loadable()
    model = make_model("vision_anomalydino", options, random_state, verbose)
    step = feature_step_of(model)
    what = step.backbone if isinstance(step, BaseNetworkFeatures) else type(step).__name__
    if one:  # the quantile waits for recalibrate
        more = ["threshold: by varied copies of the one image; the rate of false alarms is unknown"]
        more += ["no defects: one image does not tell where their threshold is"] * defects
    else:
        quantile, more = supported_quantile(quantile, data, model)
    pipeline = calibrated(
        model,
        quantile=quantile,
        defects=defects and not one,
        defect_options=defect_options,
        input_format=input_format,
        u16_max=u16_max,
        cv="copies" if one else "auto",
    )
    turned, n_turned = "as they are", model.n_rotations - 1
    if n_turned:
        turned = f"each as it is and in {n_turned} turned view{'s' if n_turned > 1 else ''}"
    images = "one good image and a varied copy" if one else f"{data.n_good} good images"
    decisions = (
        f"features: {what}",
        f"bank: all patches of {images}, {turned}",
    )
    name = "AnomalyDINO" if isinstance(step, ViTPatchFeatures) else "bank of all patches"
    return Plan({f"{name} ({what})": pipeline}, (*decisions, *more))


def _first_loadable() -> str:
    """Name of the best features whose weights are here."""
    for name in ("dinov2_vits14", "efficientnet_lite0", "resnet18"):
        if is_loadable(AnomalyDINODetector(name)):
            return name
    return "filterbank"
