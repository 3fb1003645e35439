"""The recipe ``micro-finetune``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pyimgano import _defaults
from pyimgano._nesting import innermost
from pyimgano.benchmark._benchmark import make_model
from pyimgano.detectors import BaseTrainedDetector
from pyimgano.exceptions import RunError
from pyimgano.persistence import load
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.recipes._building import calibrated, has_cuda, supported_quantile
from pyimgano.recipes._recipe import Plan, RecipeData

# Side to which a CPU brings images: a quarter of the work of 256.
_CPU_SIDE = 128


def micro_finetune(
    data: RecipeData,
    *,
    model: str = "vision_stfpm",
    model_options: Mapping[str, Any] | None = None,
    start_from: str | os.PathLike[str] | None = None,
    max_steps: int | None = None,
    preprocessing: Sequence[BasePreprocessor] = (),
    defects: bool = True,
    defect_options: Mapping[str, Any] | None = None,
    quantile: float = _defaults.QUANTILE,
    input_format: str = _defaults.INPUT_FORMAT,
    u16_max: int = _defaults.U16_MAX,
    random_state: int = _defaults.RANDOM_STATE,
    verbose: bool = False,
) -> Plan:
    """Train a small network on top of frozen features, or go on with one that is trained.

    A share of the good images is held out of the training; the thresholds rest on them. There are
    checkpoints: a run that was killed goes on from the last one with resume. Needs the extra
    torch, and weights of the frozen network.

    Parameters
    ----------
    data : RecipeData
    model : str, default="vision_stfpm"
        A name of the registry, of a detector that trains networks.
    model_options : mapping, default=None
        Parameters of the detector, such as features__weights. Without a GPU, and without
        features__resize, images are brought to 128 pixels.
    start_from : str or Path, default=None
        Saved pipeline with such a detector. Its networks are trained further on the images at
        hand, with its own parameters; model and model_options are not used then.
    max_steps : int, default=None
        Steps of training; None is the detector's own number.
    preprocessing : sequence of BasePreprocessor, default=()
        Steps that prepare the images.
    defects : bool, default=True
        Find the places of defects.
    defect_options : mapping, default=None
        Parameters of DefectExtractor.
    quantile : float in (0, 1), default=0.98
        Share of good parts that shall pass, and that shall show no defect; lowered where there
        are too few good images held out for it.
    input_format : str, default="rgb_u8_hwc"
        Format of images in arrays.
    u16_max : int, default=65535
        Full scale of 16-bit files.
    random_state : int, default=0
        Seeds the networks and the choice of images.
    verbose : bool, default=False
        Show a progress bar with the loss.

    Returns
    -------
    Plan
    """
    if start_from is not None:
        detector, _ = innermost(load(start_from))
        decisions = [f"model: the {type(detector).__name__} of {start_from}, trained further"]
    else:
        options = dict(model_options or {})
        if not has_cuda() and not {"features", "features__resize"} & set(options):
            options["features__resize"] = _CPU_SIDE
        detector = make_model(model, options, random_state, verbose)
        decisions = [f"model: {model}"]
    if not isinstance(detector, BaseTrainedDetector):
        raise RunError(
            f"micro-finetune trains networks, and {type(detector).__name__} has none: take a model "
            'of those that "pyimgano models list --tag trained" prints.'
        )
    detector.set_params(warm_start=start_from is not None)
    if max_steps is not None:
        detector.set_params(max_steps=max_steps)
    n_held_out = max(1, round(detector.validation_fraction * data.n_good))
    decisions.append(
        f"training: {detector.max_steps} steps of {detector.batch_size} images, on "
        f"{data.n_good - n_held_out} of {data.n_good}; the others are held out for the thresholds"
    )
    lowered, more = supported_quantile(quantile, data, n_held_out)
    pipeline = calibrated(
        detector,
        quantile=lowered,
        defects=defects,
        defect_options=defect_options,
        input_format=input_format,
        u16_max=u16_max,
        preprocessing=preprocessing,
    )
    name = detector._registry_name or type(detector).__name__
    return Plan({name: pipeline}, (*decisions, *more))
