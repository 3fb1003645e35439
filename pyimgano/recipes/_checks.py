"""Checks before hours are spent: a trial that fits nothing and writes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from pyimgano._nesting import find_calibrator, find_defects, find_parts, innermost
from pyimgano.backbones._weights import MissingWeightsError, without_downloads
from pyimgano.benchmark._category import TestMasks, uses_validation
from pyimgano.calibration._tails import check_enough
from pyimgano.detectors import BaseTrainedDetector
from pyimgano.detectors._feature_holder import feature_step_of
from pyimgano.exceptions import (
    DeviceError,
    ImageFormatError,
    ImageReadError,
    MissingExtraError,
    TooFewImagesError,
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

# Images that are taken through the features for an estimate.
_N_TRIED = 3
_MIB = 2**20


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
        yield from _networks(name, pipeline)
        yield from _thresholds(name, pipeline, config)
        yield from _sizes(name, pipeline, config)
        yield from _training(name, pipeline)
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
    images = _safe_indexing(good_images(config.data), np.arange(min(_N_TRIED, config.data.n_good)))
    n_tried, n = len(images), config.data.n_good
    before = Pipeline([(key, clone(one)) for key, one in pipeline.steps[:-1]])
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
    except (DeviceError, MissingExtraError, WeightsError):
        return  # told already
    yield Check(
        "ok",
        f"{name}: images and their features take about {1000 * seconds:.0f} ms each, measured on "
        f"{n_tried}: {n} of them {_duration(seconds * n)} for each time that all are looked at",
    )
    n_bytes = 0
    if isinstance(grids, PatchGrids):
        n_bytes = grids.rows.size // n_tried * n_tiles * n * 4
    if find_defects(pipeline) is not None:
        n_bytes += 4 * n * config.data.longest_side**2
    yield _room(name, n_bytes)


def _training(name: str, pipeline: Pipeline) -> Iterator[Check]:
    """Say how much training there is; trying a step would take networks and memory of a run."""
    detector, _ = innermost(pipeline)
    if isinstance(detector, BaseTrainedDetector):
        yield Check(
            "ok",
            f"{name}: {detector.max_steps} steps of training on {detector.batch_size} images each "
            "come on top, whose time is not estimated here",
        )


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
