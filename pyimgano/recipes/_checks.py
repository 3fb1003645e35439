"""Checks before hours are spent: a trial that keeps nothing and writes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from pyimgano._nesting import find_calibrator, find_defects, find_parts, innermost
from pyimgano.backbones._weights import MissingWeightsError, without_downloads
from pyimgano.benchmark._fitting import uses_validation
from pyimgano.benchmark._test_masks import TestMasks
from pyimgano.calibration._copies import is_of_copies
from pyimgano.calibration._out_of_sample import index_metadata
from pyimgano.calibration._recognition import trained_on
from pyimgano.calibration._tails import check_enough
from pyimgano.detectors import BaseTrainedDetector
from pyimgano.detectors._feature_holder import feature_step_of
from pyimgano.detectors.trained._loop import Trial, trial
from pyimgano.exceptions import (
    DeviceError,
    DuplicateImagesWarning,
    ImageFormatError,
    ImageReadError,
    MissingExtraError,
    TooFewImagesError,
    TooFewImagesWarning,
    WeightsError,
)
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inputs import check_images
from pyimgano.recipes._building import n_held_out_by
from pyimgano.recipes._recipe import Plan, RecipeConfig
from pyimgano.recipes._running import good_images
from pyimgano.tiling import TiledImages

__all__ = ["Check", "check_plan"]

# Images that are taken through the features, and that networks are trained on, for an estimate.
_N_TRIED, _N_TRAINED_ON = 3, 4
# Tiles beyond which these take minutes, and no training is tried.
_MOST_TILES = 400
_MIB = 2**20
# What wrong parameters, images, weights, extras and devices, and a lack of memory, end a fit with.
_FAILURES = (ValueError, ImportError, OSError, RuntimeError, MemoryError)


class Check(NamedTuple):
    """A thing that was looked at.

    Parameters
    ----------
    state : {"ok", "left out", "wrong"}
        ``"left out"``: the run would go on without some images.
    text : str
    """

    state: str
    text: str


def check_plan(
    plan: Plan, config: RecipeConfig, output_dir: str | os.PathLike[str] | None
) -> Iterator[Check]:
    """Check what a run would need, one thing after the other; nothing is downloaded or written.

    Parameters
    ----------
    plan : Plan
    config : RecipeConfig
        Its training images have been looked at.
    output_dir : str, Path or None
        Where the run directory would be.

    Yields
    ------
    Check
    """
    yield from _images(config)
    for name, pipeline in plan.pipelines.items():
        networks = list(_networks(name, pipeline))
        yield from networks
        yield from _thresholds(name, pipeline, config)
        if any(check.state == "wrong" for check in networks):
            continue  # the images cannot be taken through them
        sizes = list(_sizes(name, pipeline, config))
        yield from sizes
        if all(check.state != "wrong" for check in sizes):
            yield from _training(name, pipeline, plan, config)
    if output_dir is not None:
        yield _writable(output_dir)


# ---- images ---------------------------------------------------------------------------
def _images(config: RecipeConfig) -> Iterator[Check]:
    data = config.data.images
    yield Check("ok", f"{config.data.n_good} good images to train on")
    if not len(data.y_test):
        return
    images, errors = check_images(data.X_test), []
    for i in range(len(images)):
        try:
            images[i]
        except (ImageReadError, ImageFormatError) as error:
            errors.append(str(error))
    y = np.asarray(data.y_test)
    counts = f"{int((y == 1).sum())} good and {int((y == -1).sum())} defective"
    yield _some(len(images), errors, f"{counts} test images", "test images")
    masks = TestMasks(data)
    masks.check()
    n_masks = sum(one is not None for one in data.masks_test)
    missing = sum(mask is None and label == -1 for mask, label in zip(data.masks_test, y))
    note = f"; {missing} defective images have none" if missing else ""
    left_out = list(masks.left_out.values())
    yield _some(n_masks, left_out, f"masks of {n_masks} test images{note}", "masks")


def _some(n: int, errors: list[str], good: str, what: str) -> Check:
    if not errors:
        return Check("ok", good)
    state = "left out" if len(errors) < n else "wrong"
    return Check(state, f"{len(errors)} of {n} {what} cannot be used; the first: {errors[0]}")


# ---- networks -------------------------------------------------------------------------
def _networks(name: str, pipeline: Pipeline) -> Iterator[Check]:
    """Load the networks, which finds missing weights, packages and devices."""
    detector, _ = innermost(pipeline)
    named = feature_step_of(detector) if hasattr(detector, "get_params") else None
    steps = find_parts(pipeline, BaseNetworkFeatures)
    if isinstance(named, BaseNetworkFeatures) and not any(named is one for one in steps):
        steps.append(named)
    for step in {repr(one): one for one in steps}.values():
        try:
            with without_downloads():
                step.load_network()
        except MissingWeightsError as error:
            yield Check(
                "wrong",
                f"{name}: {error.reason} A run would try to download them; to do without, "
                f"{error.where_to_put_it()}, or name a file (--weights FILE)",
            )
        except (DeviceError, MissingExtraError, WeightsError) as error:
            yield Check("wrong", f"{name}: {str(error).splitlines()[0]}")
        else:
            path = step._source().path
            where = "random weights" if path is None else path
            yield Check("ok", f"{name}: {step.backbone} can be loaded ({where})")


# ---- thresholds -----------------------------------------------------------------------
def _thresholds(name: str, pipeline: Pipeline, config: RecipeConfig) -> Iterator[Check]:
    calibrator, defects = find_calibrator(pipeline), find_defects(pipeline)
    if is_of_copies(calibrator.cv):
        yield Check(
            "ok",
            f"{name}: the threshold will be put by copies of one image, without a promise; a "
            "warning will say so",
        )
        return
    validated = uses_validation(calibrator, config.data.images)
    n = config.data.n_calibration
    if not validated:
        n = n_held_out_by(innermost(pipeline)[0], config.data.n_good)
    for one in (calibrator, defects):
        if one is None:
            continue
        try:
            check_enough(n, float(one.quantile), one.method, float(one.confidence))
        except TooFewImagesError as error:
            if one is defects or one.method != "conformal":
                yield Check("wrong", f"{name}: {error}")
            else:
                yield Check(
                    "ok",
                    f"{name}: {n} good images are too few for a threshold that lets "
                    f"{one.quantile:.4g} of them pass; it will be at the largest of their scores, "
                    "and a warning will say so",
                )
            return
    yield Check(
        "ok", f"{name}: {n} good images are enough for a threshold that lets "
        f"{calibrator.quantile:.4g} of them pass"
    )  # fmt: skip


# ---- time, memory, disk ---------------------------------------------------------------
def _sizes(name: str, pipeline: Pipeline, config: RecipeConfig) -> Iterator[Check]:
    """Take a few images through the features; say how long all take, and what they fill."""
    detector, _ = innermost(pipeline)
    step = feature_step_of(detector) if hasattr(detector, "get_params") else None
    if step is None:
        return
    n_tried, n = min(_N_TRIED, config.data.n_good), config.data.n_good
    good = check_images(good_images(config.data))
    images = good[_some_of(good, n_tried)]
    before = _steps_before(pipeline)
    try:
        with without_downloads():
            seen = before.fit_transform(images)
            n_tiles = 1
            if isinstance(seen, TiledImages):
                n_tiles, seen = len(seen[0]), [tile for one in seen for tile in one[:1]]
            step = clone(step).fit(seen)
            step.transform(seen)  # compiles
            started = time.perf_counter()
            before.transform(images)
            grids = step.transform(seen)
            seconds = (time.perf_counter() - started) / n_tried * n_tiles
    except _FAILURES as error:
        yield Check("wrong", f"{name}: a few images cannot be described: {_in_words(error)}")
        return
    tiles = f" in {n_tiles} tiles" if n_tiles > 1 else ""
    yield Check(
        "ok",
        f"{name}: images{tiles} and their features take about {1000 * seconds:.0f} ms each, "
        f"measured on {n_tried}: {n} of them {_duration(seconds * n)} for each time that all are "
        "looked at",
    )
    n_bytes = 0
    if isinstance(grids, PatchGrids):
        n_bytes = grids.rows.size // n_tried * n_tiles * n * 4
    if find_defects(pipeline) is not None:
        n_bytes += 4 * n * config.data.longest_side**2
    yield _room(name, n_bytes)


def _steps_before(pipeline: Pipeline) -> Pipeline:
    return Pipeline([(key, clone(one)) for key, one in pipeline.steps[:-1]])


def _some_of(images: Any, n: int) -> np.ndarray:
    """Choose a few images, of each size one at first: not all models take several."""
    first: dict[tuple[int, int], int] = {}
    for i in range(len(images)):
        first.setdefault(images.size(i), i)
    chosen = dict.fromkeys([*first.values(), *range(len(images))])  # in this order, each once
    return np.sort(list(chosen)[:n])


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"


def _training(name: str, pipeline: Pipeline, plan: Plan, config: RecipeConfig) -> Iterator[Check]:
    """Take a few steps of training, on a few images; say how long all of them take."""
    detector, _ = innermost(pipeline)
    if not isinstance(detector, BaseTrainedDetector):
        return
    try:
        with without_downloads(), warnings.catch_warnings():
            for category in (TooFewImagesWarning, DuplicateImagesWarning):
                warnings.simplefilter("ignore", category)  # of the few images of the trial
            tried, n_tiles = _try(detector, pipeline, plan, config)
    except _FAILURES as error:
        yield Check("wrong", f"{name}: training fails in its first step: {_in_words(error)}")
        return
    if tried is None:
        yield Check(
            "ok",
            f"{name}: no training was tried, which would take minutes with {n_tiles} tiles of each "
            "image; larger tiles make training and verdicts faster",
        )
        return
    n_held_out = n_held_out_by(detector, config.data.n_good) * n_tiles
    seconds = tried.estimate(detector.max_steps, n_held_out)
    twice = ""
    if _is_trained_again(pipeline, config):
        seconds *= 2
        twice = ", twice, since the report has a pixel threshold by a copy of the model"
    n_taken = len(tried.step_seconds)
    yield Check(
        "ok",
        f"{name}: {detector.max_steps} steps of training on {detector.batch_size} images each"
        f"{twice} take about {_duration(seconds)}"
        f"{' or less, with early_stopping' if detector.early_stopping else ''}, measured on "
        f"{n_taken} {'step' if n_taken == 1 else 'steps'} "
        f"({sum(tried.step_seconds) / n_taken:.2g} s each); features and scores come on top",
    )


def _try(
    detector: BaseTrainedDetector, pipeline: Pipeline, plan: Plan, config: RecipeConfig
) -> tuple[Trial | None, int]:
    """Begin the training of a copy; give what it took, and tiles per image.

    Of too many tiles nothing is tried.
    """
    before = _steps_before(pipeline)
    good = check_images(good_images(config.data))
    chosen = _some_of(good, _N_TRAINED_ON)
    seen = before.fit_transform(good[chosen])
    if detector.warm_start and hasattr(detector, "networks_"):
        chosen = _with_new_ones(detector, before, good, len(chosen))
        seen = before.transform(good[chosen])
    n_tiles = len(seen[0]) if isinstance(seen, TiledImages) else 1
    if n_tiles > 1 and n_tiles * len(chosen) > _MOST_TILES:
        return None, n_tiles
    tried = deepcopy(detector).set_params(verbose=False)
    labels = np.asarray(config.data.images.y_train)
    params = plan.params_with(config.fit_params)
    params = index_metadata(params, len(labels), np.flatnonzero(labels == 1)[chosen])
    with trial() as taken:
        tried.fit(seen, **params)
    return taken, n_tiles


def _with_new_ones(
    detector: BaseTrainedDetector, before: Pipeline, good: Any, n: int
) -> np.ndarray:
    """Choose images of which two have never been trained on, if there are any: to hold them out."""
    new = list[int]()
    for i in range(len(good)):
        one = before.transform(good[i : i + 1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of parameters set since the last fit
            if not np.any(trained_on(detector, one)):
                new.append(i)
        if len(new) == 2:
            break
    rest = [i for i in range(len(good)) if i not in new]
    return np.sort([*new, *rest][:n])


def _is_trained_again(pipeline: Pipeline, config: RecipeConfig) -> bool:
    """Tell whether a copy is trained on some of the images, for maps of the others."""
    data = config.data.images
    validated = uses_validation(find_calibrator(pipeline), data)
    return find_defects(pipeline) is None and bool(len(data.y_test)) and not validated


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _room(name: str, n_bytes: int) -> Check:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    text = (
        f"{name}: temporary files of up to {max(1, n_bytes // _MIB)} MiB in {folder}, where "
        f"{free // _MIB} MiB are free"
    )
    if n_bytes <= free:
        return Check("ok", text)
    return Check("wrong", f"{text}: set TMPDIR to a folder with more room")


def _writable(output_dir: str | os.PathLike[str]) -> Check:
    folder = Path(output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return Check("wrong", f"{output_dir}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        return Check("wrong", f"{output_dir}: nothing may be written in {folder}")
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        return Check("ok", f"{output_dir}: may be written to, {free // _MIB} MiB are free")
    return Check("ok", f"{output_dir}: may be written to")
