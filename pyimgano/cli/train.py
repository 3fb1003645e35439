"""``pyimgano train``: fit and calibrate a pipeline on a folder of good images, and save it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from pyimgano import _defaults
from pyimgano.cli import _common, _data, _options, _training
from pyimgano.cli._saved import check_output

__all__ = ["main"]

_PROG = "pyimgano-train"
_DESCRIPTION = """\
Fit an anomaly detector on a folder of images of good parts, put its threshold where the
false-alarm rate asks for it, and save the pipeline for pyimgano infer. No images of
defects, no test set and no particular names of folders are needed.

With --recipe the images decide on the rest. With --output-dir there is a run directory
with the pipeline, pictures and a report; where a dataset has a test set, it is judged.
"""
_EPILOG = """\
examples:
  pyimgano train photos/good -o line3.joblib
  pyimgano train photos/good -o line3.joblib --quantile 0.99 --model vision_padim \\
      --features resnet18 --weights resnet18.pth
  pyimgano train photos/good -o line3.joblib --roi 40,20,600,460
      only this part of the picture counts
  pyimgano train photos/good -o line3.joblib --defects --defect-option min_area=30
      also find the places of defects
  pyimgano train photos/good -o line3.joblib --tile 512
      large images with small defects
  pyimgano train photos/good -o line3.joblib --preprocess align --preprocess clahe:clip_limit=3
      parts that do not lie exactly alike, in weak contrast
  pyimgano train photos/good --recipe industrial-adapt --output-dir runs
      features, tiles, thresholds and defects as the images want them, in a run directory
  pyimgano train --recipe industrial-adapt --dataset folder --root data --category bottle
      the test images are judged as well
  pyimgano train photos/good --recipe industrial-adapt --dry-run
      check everything, do nothing
  pyimgano train --config line3.json
      all of it in a file
  pyimgano infer line3.joblib photos/new

""" + _common.exit_statuses(
    {_common.EXIT_ERRORS: "done, but some images could not be read and were left out"}
)


def main(argv: Sequence[str] | None = None, prog: str = _PROG) -> int:
    """Entry point of the command; returns its exit status."""
    return _common.run(prog, lambda: _train(_parser(prog).parse_args(argv)), argv)


def _parser(prog: str = _PROG) -> argparse.ArgumentParser:
    parser = _common.make_parser(prog, _DESCRIPTION, _EPILOG)
    parser.usage = f"{prog} DIR -o FILE [options]"
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        help="images of good parts, with all folders below it, in place of --dataset; in a "
        "configuration file, folder",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to save the pipeline, such as line3.joblib; replaced if it exists",
    )
    parser.add_argument(
        "--embed-weights",
        action="switch",
        help="put the weights of the network into the file, so that it needs nothing else where it "
        "is used (11 MB for resnet18, 3 MB for efficientnet_lite0)",
    )
    _options.add_threads_option(parser)
    _add_recipe_options(parser)
    _data.add_data_options(parser)
    images = parser.add_argument_group("images")
    _training.add_training_options(parser, images)
    images.add_argument(
        "--input-format",
        metavar="NAME",
        type=_options.input_format,
        default=_defaults.INPUT_FORMAT,
        help="format of frames that the saved pipeline is given as arrays in Python, such as "
        "bgr_u8_hwc for those of OpenCV; files tell theirs themselves (default: %(default)s)",
    )
    defects = parser.add_argument_group("defects")
    defects.add_argument(
        "--defects",
        action="switch",
        help="save with the pipeline how to find regions that are defective, with a pixel "
        "threshold that leaves none in as many good parts as --quantile says",
    )
    _training.add_defect_option(defects)
    _options.add_model_options(parser)
    return parser


def _add_recipe_options(parser: _common.CommandParser) -> None:
    recipe = parser.add_argument_group("recipes and run directories")
    recipe.add_argument(
        "--recipe",
        metavar="NAME",
        help="let a recipe decide by the images, one of --list-recipes; options that are given "
        "have the last word",
    )
    recipe.add_argument(
        "--recipe-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_options.setting,
        help="a parameter of the recipe (--recipe-info NAME prints them); VALUE in JSON, or else "
        "taken as text; may be repeated",
    )
    recipe.add_argument(
        "--output-dir",
        metavar="DIR",
        help="make a run directory in DIR, with report, pipeline and pictures (default: none, with "
        f"--recipe and without --output {_defaults.OUTPUT_DIR})",
    )
    recipe.add_argument(
        "--resume",
        metavar="DIR",
        nargs="?",
        const=True,
        default=False,
        help="go on with a run that was interrupted: that in DIR, or the newest in --output-dir "
        "with the same options and images, or a new one if there is none",
    )
    recipe.add_argument(
        "--checkpoint-every",
        metavar="N",
        type=_common.count,
        default=_defaults.CHECKPOINT_EVERY,
        help="steps from one checkpoint of networks that are trained to the next, in a run "
        "directory (default: %(default)s)",
    )
    recipe.add_argument(
        "--overlays",
        metavar="N",
        type=_common.count_or_zero,
        default=_defaults.N_OVERLAYS,
        help="at most N pictures of test images (default: %(default)s)",
    )
    recipe.add_argument(
        "--dry-run",
        action="switch",
        help="read all images, check all that a run would need, take a few steps where networks "
        "are trained, print the plan and the time, and stop: nothing is kept, downloaded or "
        "written",
    )
    either = recipe.add_mutually_exclusive_group()
    asked = (
        either.add_argument(
            "--list-recipes", action="store_true", help="print the names of recipes and stop"
        ),
        either.add_argument(
            "--recipe-info", metavar="NAME", help="print all about a recipe and stop"
        ),
    )
    parser.command_line_only.update(action.dest for action in asked)


def _train(options: argparse.Namespace) -> int:
    if options.list_recipes or options.recipe_info is not None:
        from pyimgano.recipes import list_recipes, recipe_info

        name = options.recipe_info
        found = list_recipes() if name is None else recipe_info(name)
        _common.answer(json.dumps(found, indent=2, ensure_ascii=False))
        return _common.EXIT_OK
    if options.recipe is not None and options.output is None and options.output_dir is None:
        options.output_dir = _defaults.OUTPUT_DIR
    _check(options)
    from pyimgano.utils._threads import limit_threads

    with limit_threads(options.threads):
        return _train_checked(options)


def _train_checked(options: argparse.Namespace) -> int:
    from pyimgano.backbones._weights import without_downloads
    from pyimgano.recipes import Plan, RecipeConfig

    with without_downloads() if options.dry_run else nullcontext():
        # A wrong parameter or a missing file of weights is better said before images are read.
        asked: dict[str, Any] = {}
        given = recipe = None
        if options.recipe is None:
            given = _training.pipeline_as_asked(
                options,
                find_defects=options.defects,
                needs_maps=["defects"] * options.defects,
            )
        else:
            recipe, asked = _recipe_as_asked(options)
        if options.dataset is None:
            images = _training.find_good_images(options, options.folder)
        else:
            images = _training.find_images_of_dataset(options)
        config = RecipeConfig(images.data, asked, _training.fit_params(options, images.sizes))
        if given is None:
            plan = _plan(recipe, config)
            described = ", ".join(plan.pipelines)
        else:
            plan, described = Plan({given.name: given.pipeline}), given.described
        _training.check_enough(options.folder or images.data.category, images.data, plan.pipelines)
    for decision in plan.decisions:
        _common.tell(decision)
    if options.dry_run:
        return _dry_run(options, images, plan, config, described)
    return _carry_out(options, images, plan, config, described)


def _carry_out(
    options: argparse.Namespace,
    images: _training.TrainingImages,
    plan: Any,
    config: Any,
    described: str,
) -> int:
    from pyimgano.benchmark._opening import RunStoppedError, open_run
    from pyimgano.recipes._running import carry_out, config_of, good_images

    progress, run, asked = _common.on_terminal(), None, None
    if options.output_dir is not None or not isinstance(options.resume, bool):
        asked = config_of(plan, config, options.recipe, options.overlays, options.embed_weights)
        name = options.recipe or next(iter(plan.pipelines))
        run = open_run(options.output_dir, options.resume, asked, name)
    if run is not None and run.is_complete:
        _common.tell(f"{run.path} is complete; nothing is fitted again")
    else:
        _common.tell(f"fitting {described} ...")
    try:
        result = carry_out(
            plan,
            config,
            run,
            asked=asked,
            recipe=options.recipe,
            n_overlays=options.overlays,
            embed_weights=options.embed_weights,
            checkpoint_every=options.checkpoint_every,
            progress=progress,
        )
    except RunStoppedError as error:
        raise _common.StoppedError(_common.message(error)) from error
    if options.output is not None:
        _save(options, result, good_images(images.data))
    _say_result(options, images, result)
    n_errors = images.n_errors + result.details["n_errors"]
    return _common.EXIT_ERRORS if n_errors else _common.EXIT_OK


def _save(options: argparse.Namespace, result: Any, good: Any) -> None:
    from pyimgano.persistence import save

    limits = result.details["map_range"]
    with _common.stopping("the pipeline was fitted, but not saved"):
        if limits is None:
            limits = _training.scale_of_maps(result.pipeline, good)
        save(
            result.pipeline,
            options.output,
            map_range=None if limits is None else tuple(limits),
            embed_weights=options.embed_weights,
        )


def _say_result(options: argparse.Namespace, images: _training.TrainingImages, result: Any) -> None:
    """Tell what there is now, and what to look at."""
    from pyimgano._any_estimator import image_paths
    from pyimgano.recipes._running import good_images

    _training.say_thresholds(result.pipeline)
    if len(images.data.images.y_test):
        from pyimgano.cli._report_text import comparison_text, report_text

        if "comparison" in result.report["training"]:
            _common.tell(f"\n{comparison_text(result.report)}")
        table = report_text(result.report, {images.data.category: result.details})
        _common.tell(f"\n{table}\n")
    suspects = result.suspects
    if suspects.indices:
        paths = image_paths(good_images(images.data))
        where = "training images"
        if suspects.n_looked_at < images.data.n_good:
            where = f"images among the {suspects.n_looked_at} held out of the training"
        _common.tell(
            f"look at these {where}, which are unlike the others (their scores are above "
            f"{suspects.limit:.4g}, which a few good parts reach as well); if they are no good "
            "parts, take them out and train again:"
        )
        for i, score in zip(suspects.indices, suspects.scores):
            _common.tell(f"  {score:.4g}  {paths[i] or f'training image {i}'}")
        if suspects.n_more:
            _common.tell(f"  and {suspects.n_more} more")
    if options.output is not None:
        _common.tell(f"saved: {options.output}")
    source = shlex.quote(options.output or "")
    if result.path is not None:
        _common.tell(f"run directory: {result.path}")
        source = f"--from-run {shlex.quote(str(result.path))}"
    _common.tell(f"next: pyimgano infer {source} NEW_IMAGES")


def _dry_run(
    options: argparse.Namespace,
    images: _training.TrainingImages,
    plan: Any,
    config: Any,
    described: str,
) -> int:
    """Check what a run would need, and tell it."""
    from pyimgano.recipes._checks import check_plan

    _common.tell(f"would fit {described}:")
    for name, pipeline in plan.pipelines.items():
        steps = " -> ".join(type(step).__name__ for _, step in pipeline.steps)
        _common.tell(f"  {name}: {steps}")
    states = []
    for check in check_plan(plan, config, options.output_dir):
        states.append(check.state)
        _common.tell(f"  {check.state}: {check.text}")
    if "wrong" in states:
        raise _common.UsageError(
            f"--dry-run: {_common.several(states.count('wrong'), 'thing')} would keep the run "
            "from succeeding; they are marked wrong above"
        )
    _common.tell("nothing was kept or written; without --dry-run this is done")
    return _common.EXIT_ERRORS if images.n_errors or "left out" in states else _common.EXIT_OK


# ---- what to fit ----------------------------------------------------------------------
# Options that a recipe may take under another name or in another form, each with its default.
_FOR_RECIPES: dict[str, tuple[str, Any]] = {
    "confidence": ("confidence", None),
    "defect_option": ("defect_options", []),
    "defects": ("defects", False),
    "input_format": ("input_format", _defaults.INPUT_FORMAT),
    "model": ("model", _defaults.MODEL),
    "preprocess": ("preprocessing", []),
    "quantile": ("quantile", _defaults.QUANTILE),
    "seed": ("random_state", _defaults.RANDOM_STATE),
    "tile": ("tile", None),
    "tile_overlap": ("tile_overlap", None),
    "u16_max": ("u16_max", _defaults.U16_MAX),
}


def _recipe_as_asked(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Find the recipe, and the options for it."""
    from pyimgano.recipes._recipe import find_recipe

    recipe = find_recipe(options.recipe)
    takes, asked = recipe.parameters, dict(options.recipe_option)
    recipe.check_options(asked)
    given: dict[str, tuple[str, Any]] = {}
    for dest, (parameter, default) in _FOR_RECIPES.items():
        value = getattr(options, dest)
        if value != default:
            given[dest] = parameter, value
    model_options = _options.model_options(options)
    if model_options:
        given["features" if options.set == [] else "set"] = "model_options", model_options
    for dest, (parameter, value) in given.items():
        if parameter not in takes:
            raise _common.UsageError(
                f"--{dest.replace('_', '-')} does not go with --recipe {recipe.name}, which takes "
                f"{', '.join(takes)}; --recipe-info {recipe.name} tells what they are"
            )
        if parameter in asked:
            raise _common.UsageError(
                f"--{dest.replace('_', '-')} and --recipe-option {parameter} are the same; give "
                "one of them"
            )
        if dest == "preprocess":
            value = [_options.make_step(text) for text in value]
        asked[parameter] = dict(value) if dest == "defect_option" else value
    if "defect_options" in asked:
        _training.check_defect_options(options)
    if options.roi is not None and "tile" in takes:
        asked["tile"] = None
    if "verbose" in takes:
        asked["verbose"] = _common.on_terminal()

    return recipe, asked


def _plan(recipe: Any, config: Any) -> Any:
    from pyimgano.backbones._weights import MissingWeightsError

    try:
        return recipe.plan(config)
    except MissingWeightsError as error:
        raise _common.UsageError(_options.weights_missing(error)) from error
    except ValueError as error:
        raise _common.UsageError(f"--recipe {recipe.name}: {error}") from error


# ---- checks ---------------------------------------------------------------------------
def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before hours are spent on it."""
    _training.check_training(options, options.folder)
    _check_source(options)
    _check_places(options)
    if options.defect_option and not options.defects and options.recipe is None:
        raise _common.UsageError(
            "--defect-option says how defects are found: give --defects as well"
        )
    given = (options.weights, options.roi)
    if options.output is not None:
        check_output(options.output, [one for one in given if isinstance(one, str)])


def _check_source(options: argparse.Namespace) -> None:
    """Refuse images that are named in two ways, or in none."""
    if options.folder is not None and options.dataset is not None:
        raise _common.UsageError(
            f"{options.folder} and --dataset {options.dataset} both name the images; give one of "
            "them"
        )
    if options.folder is not None:
        for dest in ("root", "category", "split", "limit_train", "limit_test", "n_train"):
            if getattr(options, dest) is not None:
                raise _common.UsageError(
                    f"--{dest.replace('_', '-')} belongs to --dataset NAME, which is not given"
                )
        return
    if options.dataset is None:
        raise _common.UsageError(
            "give DIR, the folder of the images of good parts, or --dataset NAME --root DIR"
        )
    _data.check_data_options(options)
    if options.val_dir is not None:
        raise _common.UsageError("--val-dir goes with DIR; a dataset has its own validation images")
    if options.category is not None and (options.category == ["all"] or len(options.category) > 1):
        raise _common.UsageError("--category: one pipeline is trained on one category; name one")


def _check_places(options: argparse.Namespace) -> None:
    """Refuse to write nowhere, or among the images."""
    if options.output is None and options.output_dir is None and options.resume in (True, False):
        raise _common.UsageError(
            "-o/--output FILE is missing, where to save the pipeline, such as line3.joblib; or "
            "give --output-dir DIR for a run directory"
        )
    if options.resume and options.output_dir is None and options.resume is True:
        raise _common.UsageError("--resume looks for a run in --output-dir, which is not given")
    images = options.folder or options.root
    if options.output_dir is None or images is None or not os.path.isdir(images):
        return
    real, runs = (os.path.realpath(one) for one in (images, options.output_dir))
    if real == runs or runs.startswith(os.path.join(real, "")):
        raise _common.UsageError(
            f"--output-dir {options.output_dir}: lies in the folder of the images, {images}, where "
            "pictures of a run could be taken for images; give a folder elsewhere"
        )


if __name__ == "__main__":
    sys.exit(main())
