"""The recipe ``micro-finetune``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sklearn.pipeline import Pipeline, make_pipeline

from pyimgano import _defaults
from pyimgano._nesting import first_step, innermost, steps_before, walk
from pyimgano.benchmark._benchmark import make_model
from pyimgano.detectors import BaseTrainedDetector
from pyimgano.exceptions import RunError
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.persistence import load
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.recipes._building import (
    calibrated,
    has_cuda,
    n_held_out_by,
    supported_quantile,
)
from pyimgano.recipes._recipe import Plan, RecipeData
from pyimgano.registry import model_info
from pyimgano.utils._fitting import differ

_MODEL = "vision_stfpm"
# Side to which a CPU brings images: a quarter of the work of 256.
_CPU_SIDE = 128


def micro_finetune(
    data: RecipeData,
    *,
    model: str | None = None,
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
    model : str, default=None
        A name of the registry, of a detector that trains networks; None is vision_stfpm.
    model_options : mapping, default=None
        Parameters of the detector, such as features__weights. Without a GPU, and where no size
        is given, images are brought to 128 pixels.
    start_from : str or Path, default=None
        Saved pipeline with such a detector. Its networks are trained further on the images at
        hand. Its parameters, format of images, steps before it and region of interest stay as
        they are, so other ones are refused. Thresholds and defects are as asked for here.
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
    before: list[Any] | None = None
    fit_params: dict[str, Any] = {}
    if start_from is not None:
        given: dict[str, Any] = {
            "model": model,
            "model_options": model_options,
            "preprocessing": preprocessing,
        }
        given |= {"input_format": input_format, "u16_max": u16_max, "random_state": random_state}
        earlier = _Earlier.of(start_from)
        earlier.refuse_others(given, start_from)
        detector, before = earlier.detector, earlier.before
        region = getattr(detector, "roi_mask_", None)
        fit_params = {"roi_mask": None if region is None else region[None]}
        decisions = [f"model: the {type(detector).__name__} of {start_from}, trained further"]
    else:
        name, options = model or _MODEL, dict(model_options or {})
        detector = make_model(name, _sized(name, options), random_state, verbose)
        decisions = [f"model: {name}"]
    if not isinstance(detector, BaseTrainedDetector):
        raise RunError(
            f"micro-finetune trains networks, and {type(detector).__name__} has none: take a model "
            'of those that "pyimgano models list --tag trained" prints.'
        )
    detector.set_params(warm_start=start_from is not None, verbose=verbose)
    if max_steps is not None:
        detector.set_params(max_steps=max_steps)
    decisions.append(_training_in_words(detector, data))
    lowered, more = supported_quantile(quantile, data, detector)
    pipeline = calibrated(
        detector,
        quantile=lowered,
        defects=defects,
        defect_options=defect_options,
        input_format=input_format,
        u16_max=u16_max,
        preprocessing=preprocessing,
    )
    if before is not None:
        pipeline = make_pipeline(*before, pipeline[-1])
    name = detector._registry_name or type(detector).__name__
    return Plan({name: pipeline}, (*decisions, *more), fit_params)


def _sized(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Add the smaller size of images that a CPU needs, where the options have none."""
    size = "features__resize" if "features" in model_info(model)["parameters"] else "resize"
    return (
        options if has_cuda() or {"features", size} & set(options) else {**options, size: _CPU_SIDE}
    )


def _training_in_words(detector: BaseTrainedDetector, data: RecipeData) -> str:
    """Say how long the networks are trained, on which images, and what the others are for."""
    n_held_out = n_held_out_by(detector, data.n_good)
    n, what = detector.max_steps, "step" if detector.max_steps == 1 else "steps"
    steps = f"training: {n} {what} of {detector.batch_size} images"
    if detector.warm_start:  # which images are new is known when all have been read
        shares = (
            f"on {data.n_good}, without up to {n_held_out} that are held out, all of them images "
            "that the networks have not been trained on before"
        )
    else:
        shares = f"on {data.n_good - n_held_out} of {data.n_good}; the others are held out"
    if data.images.get("X_validation") is None:
        return f"{steps}, {shares} for the thresholds"
    return f"{steps}, {shares}; the thresholds rest on {data.n_calibration} validation images"


class _Earlier(NamedTuple):
    """A saved pipeline: its detector, and the steps before it."""

    detector: Any
    before: list[Any]

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> _Earlier:
        pipeline = load(path)
        detector, _ = innermost(pipeline)
        pipelines = [one for one, _ in walk(pipeline) if isinstance(one, Pipeline)]
        steps = [step for one in pipelines for step in steps_before(one)[0]]
        starts = isinstance(first_step(pipeline), ImageFormatNormalizer)
        before = [one for one in steps if one is not detector]
        return cls(detector, before if starts else [ImageFormatNormalizer(), *before])

    def refuse_others(self, given: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
        """Refuse options for what is taken from the pipeline, unless they say the same."""
        normalizer = self.before[0]
        same = {
            "input_format": (_defaults.INPUT_FORMAT, normalizer.input_format),
            "u16_max": (_defaults.U16_MAX, normalizer.u16_max),
            "random_state": (
                _defaults.RANDOM_STATE,
                getattr(self.detector, "random_state", _defaults.RANDOM_STATE),
            ),
        }
        for name, value in given.items():
            wanted: tuple[Any, ...] = same.get(name, (None, {}, (), []))
            if all(differ(value, one) for one in wanted):
                raise RunError(
                    f"start_from={os.fspath(path)} has a {name} of its own, and its networks go on "
                    f"with that: leave {name} out, or leave start_from out to train new networks."
                )
