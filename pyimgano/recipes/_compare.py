"""The recipe ``compare``."""

from __future__ import annotations

from collections.abc import Sequence

from pyimgano import _defaults
from pyimgano._nesting import makes_maps
from pyimgano.benchmark._benchmark import make_model
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.recipes._building import calibrated, is_loadable, supported_quantile
from pyimgano.recipes._recipe import Plan, RecipeData, need_test_defects

# In the order of their time on a CPU.
_PRESETS = ("industrial-fast-imagenet", "industrial-fast-filterbank", "industrial-balanced")


def compare(
    data: RecipeData,
    *,
    models: Sequence[str] | None = None,
    preprocessing: Sequence[BasePreprocessor] = (),
    quantile: float = _defaults.QUANTILE,
    input_format: str = _defaults.INPUT_FORMAT,
    u16_max: int = _defaults.U16_MAX,
    random_state: int = _defaults.RANDOM_STATE,
    verbose: bool = False,
) -> Plan:
    """Compare models on the same images, and keep the one with the highest image AUROC.

    Each is fitted on the good training images and judges the test images. The table has intervals,
    and says of each model whether it is worse than the best by more than chance. The best one is
    chosen by these test images, so its figures are a little too good; check it on others.

    Parameters
    ----------
    data : RecipeData
    models : sequence of str, default=None
        Names of the registry; None is every preset for a CPU whose weights are on this machine.
    preprocessing : sequence of BasePreprocessor, default=()
        Steps that prepare the images.
    quantile : float in (0, 1), default=0.98
        Share of good parts that shall pass, and that shall show no defect; lowered where there
        are too few good images for it.
    input_format : str, default="rgb_u8_hwc"
        Format of images in arrays.
    u16_max : int, default=65535
        Full scale of 16-bit files.
    random_state : int, default=0
        Seeds the models.
    verbose : bool, default=False
        Show progress bars of the models.

    Returns
    -------
    Plan
    """
    need_test_defects(data, "compare")
    if models is None:
        made = {name: make_model(name, None, random_state, verbose) for name in _PRESETS}
        made = {name: model for name, model in made.items() if is_loadable(model)}
        why = "the presets for a CPU whose weights are here"
    else:
        names = [models] if isinstance(models, str) else list(models)
        made = {name: make_model(name, None, random_state, verbose) for name in names}
        why = "as asked for"
    if len(made) < 2:
        raise ValueError(
            f"two models or more are compared, got {', '.join(made) or 'none'}: give their names, "
            "such as models=['industrial-fast-filterbank', 'vision_padim']."
        )
    supported = {name: supported_quantile(quantile, data, one) for name, one in made.items()}
    pipelines = {
        name: calibrated(
            model,
            quantile=supported[name][0],
            defects=makes_maps(model),
            input_format=input_format,
            u16_max=u16_max,
            preprocessing=preprocessing,
        )
        for name, model in made.items()
    }
    more = [f"{name}, {line}" for name, (_, lines) in supported.items() for line in lines]
    return Plan(pipelines, (f"models: {', '.join(made)}, {why}", *more))
