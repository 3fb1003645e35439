"""Plans carried out: fitted, judged where there are test images, and written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from pyimgano import _defaults
from pyimgano._any_estimator import anomaly_map, image_paths
from pyimgano._nesting import find_calibrator, find_parts, makes_maps
from pyimgano.benchmark import RunDirectory, compare_runs
from pyimgano.benchmark._category import CategoryOptions, run_category
from pyimgano.benchmark._opening import open_run, running
from pyimgano.benchmark._pipelines import describe, repr_of
from pyimgano.benchmark._run_dir import SCHEMA_VERSION, CategoryDirectory
from pyimgano.benchmark._split import InputNames, fingerprint, of_file, without_folders
from pyimgano.benchmark._summary import summarize
from pyimgano.detectors import BaseTrainedDetector, checkpoints
from pyimgano.inputs import check_images
from pyimgano.persistence import load
from pyimgano.recipes._recipe import Plan, RecipeConfig, RecipeData, find_recipe
from pyimgano.recipes._suspects import RULE, Suspects, suspicious_images
from pyimgano.reporting import overlay, write_overlay
from pyimgano.utils._json import as_plain_json
from pyimgano.utils._outputs import atomic_folder

__all__ = ["RecipeResult", "carry_out", "config_of", "run_recipe"]

_BATCH_SIZE = 8


@dataclass
class RecipeResult:
    """Result of :func:`run_recipe`.

    Parameters
    ----------
    report : dict
        The content of ``report.json``. Under ``training`` it has the decisions of the recipe and
        the training images to look at.
    details : dict
        The content of ``artifacts/report.json``: the threshold and where it comes from, and what
        the test images, if any, show.
    pipeline : Pipeline
        Fitted.
    suspects : Suspects
        The training images to look at.
    path : Path or None
        The run directory.
    """

    report: dict[str, Any]
    details: dict[str, Any]
    pipeline: Any
    suspects: Suspects
    path: Path | None = None


def run_recipe(
    name: str,
    data: Any,
    *,
    X_validation: Any = None,
    output_dir: str | os.PathLike[str] | None = _defaults.OUTPUT_DIR,
    resume: bool | str | os.PathLike[str] = False,
    n_overlays: int = _defaults.N_OVERLAYS,
    embed_weights: bool = False,
    checkpoint_every: int = _defaults.CHECKPOINT_EVERY,
    progress: bool = False,
    fit_params: Mapping[str, Any] | None = None,
    **options: Any,
) -> RecipeResult:
    """Go from images to a fitted, calibrated and judged pipeline, by a recipe.

    Parameters
    ----------
    name : str
        One of :func:`list_recipes`.
    data : str, Path, collection of images, Bunch or InspectionDataset
        A folder of images of good parts, good images themselves, or a dataset with a test set.
    X_validation : collection of images, default=None
        Other good images, to put thresholds by, where ``data`` has no test set.
    output_dir : str, Path or None, default="runs"
        Where to make the run directory; None writes nothing.
    resume : bool, str or Path, default=False
        Go on with a run that was interrupted. True takes the newest run in ``output_dir`` that was
        asked for the same with the same images, and starts a new one if there is none. A path is
        that of a run directory.
    n_overlays : int, default=12
        Largest number of pictures of test images.
    embed_weights : bool, default=False
        Save the weights of networks with the pipeline.
    checkpoint_every : int, default=100
        Steps from one checkpoint of networks that are trained to the next.
    progress : bool, default=False
        Show progress bars where something takes more than two seconds.
    fit_params : mapping, default=None
        Further arguments for ``fit`` of the detector, such as ``roi_mask``.
    **options
        Parameters of the recipe; :func:`recipe_info` lists them.

    Returns
    -------
    RecipeResult

    Raises
    ------
    UnknownRecipeError
        If there is no recipe of that name.
    UnknownParameterError
        If the recipe has no such parameter.
    RunError
        If the run to go on with was asked for something else.

    Examples
    --------
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> from pyimgano.recipes import run_recipe
    >>> parts = make_inspection_dataset(
    ...     n_train=24, n_test_good=3, n_test_defect=3, size=64, random_state=0
    ... )
    >>> result = run_recipe(
    ...     "industrial-adapt",
    ...     parts,
    ...     output_dir=None,
    ...     quantile=0.9,
    ...     model="industrial-fast-filterbank",
    ...     model_options={"features__resize": 64},
    ... )
    >>> result.report["training"]["decisions"][0]
    'model: industrial-fast-filterbank, as asked for'
    """
    recipe = find_recipe(name)
    config = RecipeConfig(RecipeData.of(data, X_validation), options, dict(fit_params or {}))
    plan = recipe.plan(config)
    run = asked = None
    if output_dir is not None or not isinstance(resume, bool):
        asked = config_of(plan, config, name, n_overlays, embed_weights)
        run = open_run(output_dir, resume, asked, name)
    return carry_out(
        plan,
        config,
        run,
        asked=asked,
        recipe=name,
        n_overlays=n_overlays,
        embed_weights=embed_weights,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )


def config_of(
    plan: Plan, config: RecipeConfig, recipe: str | None, n_overlays: int, embed_weights: bool
) -> dict[str, Any]:
    """Note what a run is asked for, as its ``config.json`` has it.

    It reads all images, so that a run calls it once.

    Parameters
    ----------
    plan : Plan
    config : RecipeConfig
    recipe : str or None
    n_overlays : int
    embed_weights : bool

    Returns
    -------
    dict
        In plain JSON types. It holds the fingerprints of the images and of the region of
        interest, so that a run is gone on with for the same ones only.
    """
    pipelines = {name: describe(pipeline) for name, pipeline in plan.pipelines.items()}
    options = {
        key: _of_option(value)
        for key, value in config.options.items()
        if key != "verbose"  # a bar on a terminal makes no other run
    }
    return as_plain_json(
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": config.data.dataset,
            "model": ", ".join(plan.pipelines),
            "categories": [config.data.category],
            "dataset_options": {},
            "limit_train": None,
            "limit_test": None,
            "pipeline": next(iter(pipelines.values()))
            if len(pipelines) == 1
            else {"class": "several", "params": pipelines},
            "pipeline_file": {"file": None, "sha256": None},
            "random_state": config.options.get("random_state"),
            "batch_size": _BATCH_SIZE,
            "n_overlays": n_overlays,
            "save_pipeline": True,
            "save_records": True,
            "embed_weights": embed_weights,
            "fit_params": {
                key: describe(np.squeeze(value) if isinstance(value, np.ndarray) else value)
                for key, value in plan.params_with(config.fit_params).items()
            },
            "recipe": {
                "name": recipe,
                "options": options,
                "images": fingerprint(config.data.images),
            },
        }
    )


def _of_option(value: Any) -> Any:
    """Describe an option; a file by its name and content, which may change under the same name."""
    if isinstance(value, (str, os.PathLike)) and os.path.isfile(value):
        return {"file": os.path.basename(value), "sha256": of_file(value).hex()}
    return describe(value)


def carry_out(
    plan: Plan,
    config: RecipeConfig,
    run_dir: RunDirectory | str | os.PathLike[str] | None,
    *,
    asked: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    n_overlays: int = _defaults.N_OVERLAYS,
    embed_weights: bool = False,
    checkpoint_every: int = _defaults.CHECKPOINT_EVERY,
    progress: bool = False,
) -> RecipeResult:
    """Fit what was planned, judge the test images if there are any, and write it all.

    Parameters
    ----------
    plan : Plan
    config : RecipeConfig
    run_dir : RunDirectory, str, Path or None
        An existing folder: a new one, or that of a run to go on with. None writes nothing.
    asked : mapping, default=None
        The content of the run's ``config.json``, where the caller has it already; otherwise it is
        made, which reads all images.
    recipe : str, default=None
        Name of the recipe, for the report.
    n_overlays, embed_weights, checkpoint_every, progress
        As for :func:`run_recipe`.

    Returns
    -------
    RecipeResult
        Of a run that is complete already, what is there.
    """
    run = run_dir if run_dir is None or isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
    arguments: dict[str, Any] = {
        "recipe": recipe,
        "n_overlays": n_overlays,
        "embed_weights": embed_weights,
        "checkpoint_every": checkpoint_every,
        "progress": progress,
    }
    alone = len(plan.pipelines) == 1
    if run is None and alone:
        return _run_one(plan, config, None, **arguments)
    if asked is None:
        asked = config_of(plan, config, recipe, n_overlays, embed_weights)
    if run is None:
        with tempfile.TemporaryDirectory(prefix="pyimgano-") as folder:
            result = _run_several(plan, config, RunDirectory(folder), asked, **arguments)
            return replace(result, path=None)
    with running(run, asked):
        if alone:
            return _run_one(plan, config, run, **arguments)
        return _run_several(plan, config, run, asked, **arguments)


def _run_one(
    plan: Plan,
    config: RecipeConfig,
    run: RunDirectory | None,
    *,
    recipe: str | None,
    n_overlays: int,
    embed_weights: bool,
    checkpoint_every: int,
    progress: bool,
) -> RecipeResult:
    config = replace(config, fit_params=plan.params_with(config.fit_params))
    data = config.data.images
    folders = () if run is None else (str(run.path.parent),)
    names = InputNames(data, folders)
    ((name, pipeline),) = plan.pipelines.items()
    options = CategoryOptions(
        dataset=config.data.dataset,
        pipeline={
            "file": None,
            "sha256": None,
            "estimator": without_folders(repr_of(pipeline), folders),
        },
        batch_size=_BATCH_SIZE,
        n_overlays=n_overlays,
        save_pipeline=True,
        save_records=True,
        progress=progress,
        embed_weights=embed_weights,
    )
    folder = None if run is None else run.artifacts
    if folder is not None and folder.is_complete:
        details, fitted = folder.read_report(), load(folder.pipeline)
    else:
        details, fitted = _fit_and_judge(pipeline, config, names, options, run, checkpoint_every)
    suspects = suspicious_images(fitted, config.data.n_good)
    if run is not None and run.is_complete:
        return RecipeResult(run.read_report(), details, fitted, suspects, run.path)
    if folder is not None:
        _draw_suspects(folder, config.data, names, fitted, details, suspects)
    report = {
        **summarize(config.data.dataset, name, {config.data.category: details}, {}),
        "pipeline": dict(options.pipeline),
        "training": {
            "recipe": recipe,
            "decisions": [names.shorten(one) for one in plan.decisions],
            "look_at": {
                "rule": RULE,
                "images": [
                    {"input": _input(config.data, names, i), "score": score}
                    for i, score in zip(suspects.indices, suspects.scores)
                ],
            },
        },
    }
    if run is not None:
        run.write_report(report)
    return RecipeResult(report, details, fitted, suspects, None if run is None else run.path)


def _fit_and_judge(
    pipeline: Any,
    config: RecipeConfig,
    names: InputNames,
    options: CategoryOptions,
    run: RunDirectory | None,
    checkpoint_every: int,
) -> tuple[dict[str, Any], Any]:
    """Give the report of the category, and the fitted pipeline."""
    folder = None if run is None else run.artifacts
    if folder is not None:
        folder.create()
    trains = bool(find_parts(pipeline, BaseTrainedDetector))
    keeping: Any = nullcontext()
    if run is not None and trains:
        run.checkpoints.mkdir(exist_ok=True)
        keeping = checkpoints(run.checkpoints, every=checkpoint_every)
    try:
        with keeping:
            outcome = run_category(
                config.data.category,
                config.data.images,
                names,
                deepcopy(pipeline),  # a detector in it may go on with what it has learned
                options,
                folder,
                config.fit_params,
            )
    finally:
        if folder is not None:
            folder.discard_if_empty()
    return outcome.report, outcome.pipeline


# ---- several models -------------------------------------------------------------------
def _run_several(
    plan: Plan,
    config: RecipeConfig,
    run: RunDirectory,
    asked: Mapping[str, Any],
    **arguments: Any,
) -> RecipeResult:
    """Run each model in a directory of its own, and keep the best one's artifacts."""
    results = {}
    for number, (name, pipeline) in enumerate(plan.pipelines.items(), start=1):
        one = run.candidate(number, name)
        one.path.mkdir(parents=True, exist_ok=True)
        alone = Plan({name: pipeline}, plan.decisions, plan.fit_params)
        own = {**asked, "model": name, "pipeline": asked["pipeline"]["params"][name]}
        results[name] = carry_out(alone, config, one, asked=own, **arguments)

    def auroc(name: str) -> float:
        return results[name].details["image"]["auroc"]

    best = max(results, key=auroc)  # of equal ones the first
    won = results[best]
    if run.is_complete:
        return replace(won, report=run.read_report(), path=run.path)
    if not run.artifacts.is_complete:
        assert won.path is not None
        shutil.rmtree(run.artifacts.path, ignore_errors=True)
        with atomic_folder(run.artifacts.path) as part:
            shutil.copytree(RunDirectory(won.path).artifacts.path, part, dirs_exist_ok=True)
    comparison = [
        _compared(name, result, None if name == best else won) for name, result in results.items()
    ]
    times = {name: one.details["times"]["ms_per_image"] for name, one in results.items()}
    report = {
        **won.report,
        "training": {**won.report["training"], "comparison": comparison},
        "times": {**won.report["times"], "candidates": times},
    }
    run.write_report(report)
    return replace(won, report=report, path=run.path)


def _compared(name: str, result: RecipeResult, won: RecipeResult | None) -> dict[str, Any]:
    """Figures of a model, and its differences from the best one; None is for that itself."""
    assert result.path is not None
    against = None
    if won is not None:
        assert won.path is not None
        (found,) = compare_runs(won.path, result.path)["categories"].values()
        against = found["metrics"]
    image, pixel = result.details["image"], result.details["pixel"]
    return {
        "model": name,
        "run": f"candidates/{result.path.name}",
        "best": won is None,
        "image_auroc": image["auroc"],
        "image_auroc_interval_95": image["interval_95"]["auroc"],
        "pixel_auroc": pixel["auroc"],
        "false_positive_rate": result.details["false_positive_rate"]["value"],
        "true_positive_rate": result.details["true_positive_rate"]["value"],
        "against_best": against,
    }


def good_images(data: RecipeData) -> Any:
    """The good training images, in their order."""
    chosen = np.flatnonzero(np.asarray(data.images.y_train) == 1)
    return _safe_indexing(data.images.X_train, chosen)


def _input(data: RecipeData, names: InputNames, i: int) -> str:
    return names.name(image_paths(good_images(data))[i], f"train[{i}]")


def _draw_suspects(
    folder: CategoryDirectory,
    data: RecipeData,
    names: InputNames,
    pipeline: Any,
    details: Mapping[str, Any],
    suspects: Suspects,
) -> None:
    """Draw the training images to look at, with their maps."""
    if not suspects.indices or not makes_maps(pipeline) or details["map_range"] is None:
        return
    good = good_images(data)
    calibrator = find_calibrator(pipeline)
    for rank, (i, score) in enumerate(zip(suspects.indices, suspects.scores), start=1):
        one, name = _safe_indexing(good, [i]), _input(data, names, i)
        picture = overlay(
            check_images(one)[0],
            anomaly_map(pipeline, one)[0],
            tuple(details["map_range"]),
            f"training image, unlike the others: look at it\n{name}",
            score=score,
            threshold=calibrator.threshold_,
            good_scores=calibrator.calibration_scores_,
        )
        write_overlay(folder.look_at(rank, Path(name).stem), picture)
