"""Models trained on a folder of good images: ``pyimgano train``, and ``infer --train-dir``."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyimgano.cli import _common, _data, _options
from pyimgano.cli._images import Found, counted, look_at
from pyimgano.cli._saved import check_output

__all__ = [
    "Asked",
    "Trained",
    "TrainingImages",
    "add_defect_option",
    "add_training_options",
    "check_defect_options",
    "check_enough",
    "check_training",
    "find_good_images",
    "find_images_of_dataset",
    "fit_params",
    "pipeline_as_asked",
    "say_thresholds",
    "scale_of_maps",
    "train_on",
]

# Folders whose images are those of good parts, and hardly those of good parts, in lower case.
_GOOD_NAMES = ("good", "normal", "ok")
_BAD_NAMES = frozenset(
    (
        *("anomalies", "anomalous", "anomaly", "bad", "broken", "defect", "defective", "defects"),
        *("fail", "failed", "faulty", "ko", "ng", "nio", "nok", "not_ok", "reject", "rejected"),
        *("rejects", "scrap"),
    )
)


class TrainingImages(NamedTuple):
    """The images that a model is trained on.

    Parameters
    ----------
    data : RecipeData
        Without those that cannot be used.
    sizes : Counter of (int, int)
        How many of them have each width and height.
    n_errors : int
        Number of files that were left out because they could not be read.
    """

    data: Any
    sizes: Counter[tuple[int, int]]
    n_errors: int


class Asked(NamedTuple):
    """A pipeline that options ask for.

    Parameters
    ----------
    pipeline : Pipeline
        Not fitted.
    name : str
        Of its model.
    described : str
        The same for people to read.
    """

    pipeline: Any
    name: str
    described: str


class Trained(NamedTuple):
    """A pipeline that was fitted, and the images that it was fitted on.

    Parameters
    ----------
    pipeline : Pipeline
    images : ImageSequence
        Those that could be used.
    n_errors : int
        Number of files that were left out because they could not be read.
    """

    pipeline: Any
    images: Any
    n_errors: int


# ---- options --------------------------------------------------------------------------
def add_training_options(parser: Any, images: Any) -> None:
    """Add what is asked about the images that a model is trained on, and about its threshold.

    Parameters
    ----------
    parser : CommandParser or group
        For ``--val-dir`` and ``--confidence``.
    images : group
        For how the images are cut and prepared.
    """
    parser.add_argument(
        "--val-dir",
        metavar="DIR",
        help="other images of good parts, to put the threshold by; without them it is put by the "
        "images trained on, each judged as if it had been left out of training",
    )
    parser.add_argument(
        "--confidence",
        metavar="SHARE",
        type=_common.fraction,
        help="promise with this confidence, such as 0.95, that no more good parts fail than "
        "--quantile asks for; without it the rate is kept on average",
    )
    images.add_argument(
        "--roi",
        metavar="FILE|X0,Y0,X1,Y1",
        type=_options.region,
        help="region of interest, where the camera and the parts stand still: a picture of the "
        "size of the images, white where to look, or a rectangle in pixels from the top left",
    )
    images.add_argument(
        "--tile",
        metavar="PIXELS",
        type=_common.count,
        help="cut images into tiles of this side, for defects that are small against the image",
    )
    images.add_argument(
        "--tile-overlap",
        metavar="PIXELS",
        type=_common.count_or_zero,
        help="pixels that neighboring tiles share, so that a defect on a seam is seen whole; half "
        "of --tile takes four times as long (default: 0)",
    )
    images.add_argument(
        "--preprocess",
        metavar="NAME[:PARAM=VALUE,...]",
        action="append",
        default=[],
        type=_options.preprocessing_step,
        help="prepare the images before they are judged, such as white_balance or "
        "clahe:clip_limit=3; may be repeated, and is done in this order. There are align, clahe, "
        "contrast_stretch, crop, flatten_background, gamma, homomorphic, unsharp_mask and "
        "white_balance; maps of cropped and aligned images are put back",
    )


def add_defect_option(group: Any) -> None:
    """Add ``--defect-option`` to a group of options."""
    group.add_argument(
        "--defect-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_options.setting,
        help="a parameter of DefectExtractor, such as min_area=30 or "
        "'shape_filters={\"max_aspect_ratio\": 8}'; VALUE in JSON, or else taken as text; may be "
        "repeated",
    )


# ---- the whole way --------------------------------------------------------------------
def train_on(
    options: argparse.Namespace,
    folder: str,
    *,
    find_defects: bool,
    needs_maps: Sequence[str],
    tell: Callable[[str], None] = _common.tell,
) -> Trained:
    """Fit and calibrate the pipeline that the options ask for on a folder of good images.

    Parameters
    ----------
    options : Namespace
        Of a command with :func:`add_training_options`, :func:`add_defect_option` and
        ``add_model_options``.
    folder : str
    find_defects : bool
        Calibrate a pixel threshold as well.
    needs_maps : sequence of str
        Destinations of the options that ask for something which only models with maps have.
    tell : callable, default=tell
        Writes a line for people.

    Returns
    -------
    Trained
    """
    from pyimgano.benchmark._fitting import fit

    # A wrong parameter or a missing file of weights is better said before images are looked for.
    asked = pipeline_as_asked(options, find_defects=find_defects, needs_maps=needs_maps)
    images = find_good_images(options, folder, tell)
    params = fit_params(options, images.sizes, tell)
    tell(f"fitting {asked.described} ...")
    fit(asked.pipeline, images.data.images, params)
    return Trained(asked.pipeline, images.data.images.X_train, images.n_errors)


def pipeline_as_asked(
    options: argparse.Namespace, *, find_defects: bool, needs_maps: Sequence[str]
) -> Asked:
    """Make the pipeline that the options ask for.

    Parameters
    ----------
    options, find_defects, needs_maps
        As for :func:`train_on`.

    Returns
    -------
    Asked
    """
    from pyimgano.recipes._building import calibrated

    name, described = _options.name_model(options)
    model = _options.make_model_as_asked(options, name, _common.on_terminal())
    _check_model(options, model, needs_maps)
    if find_defects:
        check_defect_options(options)
    pipeline = calibrated(
        model,
        quantile=options.quantile,
        confidence=options.confidence,
        defects=find_defects,
        defect_options=dict(options.defect_option),
        input_format=options.input_format,
        u16_max=options.u16_max,
        preprocessing=[_options.make_step(text) for text in options.preprocess],
        tile=options.tile,
        tile_overlap=options.tile_overlap or 0,
    )
    return Asked(pipeline, name, described)


def find_good_images(
    options: argparse.Namespace, folder: str, tell: Callable[[str], None] = _common.tell
) -> TrainingImages:
    """Read the images of a folder, and those of ``--val-dir``, and leave out what is no use.

    Parameters
    ----------
    options, folder, tell
        As for :func:`train_on`.

    Returns
    -------
    TrainingImages
    """
    from pyimgano.recipes import RecipeData

    progress, held_out = _common.on_terminal(), Found(None)
    # A recipe may do with one, which is known when it has decided: check_enough.
    least = 2 if getattr(options, "recipe", None) is None else 1
    good = _look_at(options, folder, progress, tell)
    if options.val_dir is not None:
        held_out = _look_at(options, options.val_dir, progress, tell, known=good)
    if len(good.images) < least:
        raise _too_few(folder, "good images")
    if held_out.images is not None and len(held_out.images) < 2:
        raise _common.UsageError(
            f"--val-dir {options.val_dir}: at least 2 good images are needed that are not in "
            f"{folder}, better 50 or more"
        )
    name = os.path.basename(os.path.abspath(folder)) or "custom"
    data = RecipeData.of(good.images, held_out.images, category=name)
    return TrainingImages(data, good.sizes + held_out.sizes, good.n_errors + held_out.n_errors)


def find_images_of_dataset(options: argparse.Namespace) -> TrainingImages:
    """Open the dataset that the options name, read the images to train on, and leave out others.

    Parameters
    ----------
    options : Namespace
        Of a command with ``add_data_options``.

    Returns
    -------
    TrainingImages
        With the test images, which are not read yet.
    """
    import numpy as np

    from pyimgano.benchmark._sources import dataset_name, sources
    from pyimgano.inputs import ImageSequence
    from pyimgano.recipes import RecipeData

    found = sources(
        options.dataset,
        options.root,
        options.category,
        options.seed,
        _data.dataset_options(options),
        (options.limit_train, options.limit_test),
    )
    if len(found) > 1:
        raise _common.UsageError(
            f"--root {options.root} has several categories, and one pipeline is trained on one; "
            f"give --category, one of {', '.join(one.name for one in found)}"
        )
    name, images = found[0].name, found[0].open()
    images["category"] = name
    seen, more = Found(None), Found(None)
    if isinstance(images.X_train, ImageSequence):
        progress = _common.on_terminal()
        label_of = dict(zip(images.X_train.paths, np.asarray(images.y_train).tolist()))
        what, u16_max = f"{name}, training", options.u16_max
        seen = look_at(options.prog, what, images.X_train, u16_max, progress)
        images["X_train"] = seen.images
        images["y_train"] = np.array([label_of[path] for path in seen.images.paths], int)
        if images.get("X_validation") is not None:
            what = f"{name}, validation"
            more = look_at(options.prog, what, images.X_validation, u16_max, progress, seen)
            images["X_validation"] = more.images if len(more.images) else None
    data = RecipeData(images, dataset_name(options.dataset))
    if data.n_good < (2 if options.recipe is None else 1):
        raise _too_few(name, "good training images")
    return TrainingImages(
        data, seen.sizes + more.sizes or data.sizes, seen.n_errors + more.n_errors
    )


def check_enough(where: str, data: Any, pipelines: Mapping[str, Any]) -> None:
    """Refuse one image to train on where a pipeline needs more.

    Parameters
    ----------
    where : str
        The folder or category, for the message.
    data : RecipeData
    pipelines : mapping of str to Pipeline
        Not fitted.
    """
    from pyimgano._nesting import find_calibrator
    from pyimgano.calibration._copies import is_of_copies

    if data.n_good < 2 and not all(
        is_of_copies(find_calibrator(one).cv) for one in pipelines.values()
    ):
        raise _too_few(where, "good images")


def _too_few(where: str, what: str) -> _common.UsageError:
    return _common.UsageError(f"{where}: at least 2 different {what} are needed, better 50 or more")


def scale_of_maps(pipeline: Any, images: Any) -> tuple[float, float] | None:
    """Map values of the cold and the hot end of the colors; None for a model without maps."""
    from pyimgano._nesting import makes_maps
    from pyimgano.reporting import map_range
    from pyimgano.utils._progress import progress_callback

    if not makes_maps(pipeline):
        return None
    with progress_callback("color scale of maps", _common.on_terminal()):
        return map_range(pipeline, images)


def say_thresholds(pipeline: Any, tell: Callable[[str], None] = _common.tell) -> None:
    """Tell where the thresholds of a fitted pipeline are, and what they promise."""
    from pyimgano._nesting import find_calibrator, find_defects
    from pyimgano.calibration._words import pixel_threshold_in_words, threshold_in_words

    for line in threshold_in_words(find_calibrator(pipeline).provenance_):
        tell(line)
    defects = find_defects(pipeline)
    if defects is not None:
        tell(pixel_threshold_in_words(defects.pixel_provenance_))


# ---- checks ---------------------------------------------------------------------------
def check_training(options: argparse.Namespace, folder: str | None, option: str = "") -> None:
    """Refuse what cannot work before hours are spent on it.

    Parameters
    ----------
    options : Namespace
    folder : str or None
        Of the good images; None for those of a dataset.
    option : str, default=""
        The option that names it, for messages; empty if it has none.
    """
    _options.check_model_options(options)
    if options.confidence == 1:
        raise _common.UsageError("--confidence 1 asks for certainty; give less than 1")
    if folder is not None:
        _check_folder(folder, f"{option} " if option else "")
    if folder is not None and options.val_dir is not None:
        _check_folder(options.val_dir, "--val-dir ")
        real, held_out = (Path(one).resolve() for one in (folder, options.val_dir))
        if real == held_out or real in held_out.parents or held_out in real.parents:
            raise _common.UsageError(
                f"--val-dir {options.val_dir}: one of this folder and {folder} lies in the "
                "other; images to put the threshold by must not be trained on: move them elsewhere"
            )
    if options.tile_overlap is not None:
        _check_overlap(options)
    crops = any(text.startswith("crop") for text in options.preprocess)
    placed = [name for name, _ in options.defect_option if name in ("roi", "border_ignore_px")]
    if crops and placed:
        raise _common.UsageError(
            f"--defect-option {placed[0]} and --preprocess crop do not go together: it would be "
            "one of the crop when the threshold is put, and of the whole image afterwards; leave "
            "one of them out"
        )
    if options.roi is not None and options.tile is not None:
        raise _common.UsageError(
            "--roi and --tile do not go together: a region is one for whole images; crop the "
            "images, or leave one of the options out"
        )
    if options.roi is not None and crops:
        raise _common.UsageError(
            "--roi and --preprocess crop do not go together: the region would have to be drawn in "
            "the pixels of the crop; leave one of the options out"
        )


def _check_overlap(options: argparse.Namespace) -> None:
    if options.tile is None:
        raise _common.UsageError(
            "--tile-overlap says how far tiles overlap: give their side, --tile, as well"
        )
    if options.tile_overlap >= options.tile:
        raise _common.UsageError(
            f"--tile-overlap {options.tile_overlap}: must be less than the side of the tiles, "
            f"--tile {options.tile}; half of it is usual"
        )


def _check_folder(folder: str, option: str) -> None:
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.isfile(folder) else "does not exist"
        raise _common.UsageError(f"{option}{folder} {what}; give the folder of the good images")
    for place in (Path(folder), *sorted(one for one in Path(folder).iterdir() if one.is_dir())):
        for name in ("good", "normal"):
            if (place / "train" / name).is_dir() and (place / "test").is_dir():
                raise _common.UsageError(
                    f"{option}{folder}: {place} is a dataset with defects in its test images; "
                    f"give the folder of the good ones, {place / 'train' / name}"
                )


def _check_model(options: argparse.Namespace, model: Any, needs_maps: Sequence[str]) -> None:
    from pyimgano._nesting import makes_maps
    from pyimgano.base import BaseImageDetector

    takes = {
        "roi": getattr(model, "_takes_roi_mask", False),
        "tile": isinstance(model, BaseImageDetector),
        **dict.fromkeys(needs_maps, makes_maps(model)),
    }
    for name, possible in takes.items():
        if (name in needs_maps or getattr(options, name) is not None) and not possible:
            raise _common.UsageError(
                f"--{name.replace('_', '-')}: {options.model} judges images as a whole; take a "
                'model with heat maps ("pyimgano models list --maps"), or crop the images'
            )


# ---- images ---------------------------------------------------------------------------
def _look_at(
    options: argparse.Namespace,
    folder: str,
    progress: bool,
    tell: Callable[[str], None],
    known: Found | None = None,
) -> Found:
    """Read all images of a folder once, say what there is, and leave out what cannot be used."""
    from pyimgano.inputs import ImageSequence

    images = ImageSequence.from_folder(folder, recursive=True, u16_max=options.u16_max)
    if getattr(options, "output", None) is not None:
        check_output(options.output, images.paths)
    _warn_of_names(options, folder, images.paths)
    found = look_at(options.prog, folder, images, options.u16_max, progress, known, tell=tell)
    deepest = found.highest_u16
    if 0 < deepest <= options.u16_max // 4:
        _common.say(
            f"{options.prog}: warning: no value in the 16-bit files is above {deepest}, and full "
            f"scale is {options.u16_max}: the images are nearly black. Give --u16-max 4095 for a "
            "12-bit camera, 1023 for 10 bits"
        )
    return found


def _warn_of_names(options: argparse.Namespace, folder: str, paths: Sequence[str]) -> None:
    """Warn of folders whose names say that their images are not, or may not be, of good parts."""
    inner = [Path(path).relative_to(folder).parts[:-1] for path in paths]
    bad = Counter(part for parts in inner for part in parts if part.lower() in _BAD_NAMES)
    for name, count in bad.items():
        _common.say(
            f"{options.prog}: warning: {_common.several(count, 'image')} in folders called {name}: "
            "counted as good parts; if they are not, move them out of the folder"
        )
    top = Counter(parts[0] for parts in inner if parts)
    good = [name for name in top if name.lower() in _GOOD_NAMES]
    others = [name for name in top if name.lower() not in (*_GOOD_NAMES, *_BAD_NAMES)]
    if good and others:
        _common.say(
            f"{options.prog}: warning: {folder} holds {good[0]} beside {', '.join(others)}, and "
            f"all images are counted as good parts; if not all are, give {Path(folder, good[0])}"
        )


# ---- fitting --------------------------------------------------------------------------
def fit_params(
    options: argparse.Namespace,
    sizes: Counter[tuple[int, int]],
    tell: Callable[[str], None] = _common.tell,
) -> dict[str, Any]:
    """Give arguments for ``fit`` of the detector; refuse a region or tiles that do not fit.

    Parameters
    ----------
    options, tell
        As for :func:`train_on`.
    sizes : Counter of (int, int)
        Widths and heights of the images.

    Returns
    -------
    dict
    """
    if options.tile is not None and all(max(size) <= options.tile for size in sizes):
        raise _common.UsageError(
            f"--tile {options.tile}: no image is larger than a tile ({counted(sizes)} pixels); "
            "give less, or leave --tile out"
        )
    if options.roi is None:
        return {}
    if len(sizes) > 1:
        raise _common.UsageError(
            f"--roi needs images of one size, and there are {counted(sizes)} pixels"
        )
    ((width, height),) = sizes
    mask = _mask(options.roi, width, height)
    tell(f"region of interest: {mask.mean():.2%} of the pixels")
    return {"roi_mask": mask[None]}  # so that it is never taken for one value per image


def _mask(roi: str | _options.Rectangle, width: int, height: int) -> Any:
    from pyimgano._roi import roi_in_pixels
    from pyimgano.datasets._masks import read_region

    if isinstance(roi, str):
        mask = read_region(roi)
        if mask.shape != (height, width):
            raise _common.UsageError(
                f"--roi {roi} has {mask.shape[1]} x {mask.shape[0]} pixels, and the images "
                f"{width} x {height}: draw it in the pixels of the images"
            )
        return mask
    x0, y0, x1, y1 = roi
    if x1 > width or y1 > height:
        raise _common.UsageError(
            f"--roi {roi} reaches beyond the images of {width} x {height} pixels"
        )
    return roi_in_pixels((x0 / width, y0 / height, x1 / width, y1 / height), (height, width))


def check_defect_options(options: argparse.Namespace) -> None:
    """Refuse parameters that the extractor of defects does not take."""
    from pyimgano.exceptions import UnknownParameterError
    from pyimgano.recipes._building import make_extractor

    try:
        make_extractor(dict(options.defect_option))
    except UnknownParameterError as error:
        raise _common.UsageError(f"--defect-option {error}") from error
    except ValueError as error:
        raise _common.UsageError(f"--defect-option: {error}") from error
