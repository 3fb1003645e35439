"""The options that several commands share: one place for names, meanings and defaults."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pyimgano import _defaults
from pyimgano.cli import _common

__all__ = [
    "MODEL_FILTERS",
    "Rectangle",
    "add_model_filters",
    "add_model_options",
    "add_threads_option",
    "add_u16_max_option",
    "check_model_options",
    "check_quantile",
    "input_format",
    "is_no_path",
    "make_model_as_asked",
    "make_step",
    "model_filters",
    "model_options",
    "name_model",
    "preprocessing_step",
    "region",
    "seed",
    "setting",
    "weights_missing",
    "with_model_defaults",
]


def setting(text: str) -> tuple[str, Any]:
    """A parameter and its value from NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    try:
        return name, _common.strict_json(value)
    except json.JSONDecodeError:
        return name, value
    except _common.NotStrictError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def _settings(text: str) -> list[tuple[str, Any]]:
    """Parameters and their values from an object in JSON."""
    try:
        found = _common.strict_json(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    except _common.NotStrictError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an object in JSON, such as '{{\"coreset_ratio\": 0.05}}'"
        )
    return list(found.items())


def _preset(text: str) -> str:
    """Option value that is the name of a preset."""
    from pyimgano.registry import list_models
    from pyimgano.utils._words import did_you_mean

    known = list_models(tags="preset")
    if text not in known:
        raise argparse.ArgumentTypeError(
            f"there is no preset {text!r}.{did_you_mean(text, known)} There are "
            f"{', '.join(known)}; --model takes the names of all models"
        )
    return text


#: What --pipeline does in a command that fits a copy of it.
_FITS_PIPELINE = (
    "a saved pipeline in place of a model, with its own parameters: whether it is fitted or not, "
    "a copy of it is fitted on the training images of each category, threshold included"
)


_MODEL_HELP = (
    'a name that "pyimgano models list" prints (default: %(default)s, which is '
    "%(default)s-imagenet if the extra imagenet is installed, otherwise "
    "%(default)s-filterbank, which needs no weights)"
)


def add_model_options(
    parser: argparse.ArgumentParser,
    *,
    of_benchmark: bool = False,
    pipeline_help: str = _FITS_PIPELINE,
    beside_pipelines: Any = None,
    default: str = _defaults.MODEL,
    judges: bool = True,
) -> None:
    """Add the group of options that describe a model, its threshold and its seed.

    ``default`` is the name of a model that stands for one of two presets. A command that does not
    judge, ``judges=False``, has no ``--quantile``.

    With ``of_benchmark`` there are ``--preset``, ``--pipeline`` and ``--model-kwargs`` as well,
    and ``--resize`` takes a height and a width; a command that has arguments without a name could
    not tell them from a width.

    ``beside_pipelines`` is the group of options that exclude each other of a command which judges
    by a saved pipeline unless ``--model`` is given. The command has ``--weights``, ``--device``,
    ``--engine`` and ``--seed`` of its own then, and what is not given is None, so that it can be
    told from what is: see :func:`with_model_defaults`.
    """
    model = parser.add_argument_group("model")
    alone = beside_pipelines is None
    either = model.add_mutually_exclusive_group() if alone else beside_pipelines
    either.add_argument(
        "--model",
        metavar="NAME",
        default=default if alone else None,
        help=_MODEL_HELP
        if alone
        else "train a model on the good images of --train-dir in place of loading one: a name that "
        '"pyimgano models list" prints; what was trained is not kept',
    )
    if of_benchmark:
        either.add_argument(
            "--preset",
            metavar="NAME",
            dest="model",
            type=_preset,
            default=argparse.SUPPRESS,  # that of --model
            help='a model with parameters for a purpose ("pyimgano models list --tag preset")',
        )
        either.add_argument(
            "--pipeline",
            metavar="FILE",
            help=pipeline_help,
        )
    model.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=setting,
        help="a parameter of the model; VALUE in JSON, or else taken as text; may be repeated "
        '("pyimgano models info NAME" prints the parameters)',
    )
    if of_benchmark:
        model.add_argument(
            "--model-kwargs",
            metavar="JSON",
            dest="set",
            action="extend",
            type=_settings,
            default=argparse.SUPPRESS,
            help="several parameters of the model, as an object in JSON; of a parameter that is "
            "given twice, also by --set, the last value counts",
        )
    model.add_argument(
        "--features",
        metavar="NAME",
        help='in place of the model\'s own features: "filterbank", which needs no weights; '
        "efficientnet_lite0, whose weights come with the extra imagenet; or a network of "
        "torchvision: resnet18, wide_resnet50_2, ... (others than ResNets need the extra torch)",
    )
    model.add_argument(
        "--layers",
        metavar="NAME",
        nargs="+",
        type=layer,
        help="layers of the network to use, of a transformer the numbers of blocks (default: those "
        "of the model's paper)",
    )
    model.add_argument(
        "--resize",
        metavar="PIXELS",
        nargs="+" if of_benchmark else None,
        type=_common.side,
        help="side to which images are brought for the features"
        + (", or height and width" if of_benchmark else "")
        + f" (default: {_defaults.RESIZE}, or that of the preset)",
    )
    model.add_argument(
        "--crop",
        metavar="PIXELS",
        type=_crop,
        help="side of a center crop for a network, 0 for none (default: the whole image)",
    )
    model.add_argument(
        "--amp",
        action="switch",
        help="compute a network in bfloat16, which is faster on processors and GPUs with matrix "
        "units for it; scores differ by about 1 %% from those in float32",
    )
    if judges:
        model.add_argument(
            "--quantile",
            "--calibration-quantile",
            metavar="SHARE",
            type=_common.fraction,
            default=_defaults.QUANTILE if alone and not of_benchmark else None,
            help="share of good parts that shall pass; 0.98 asks for 2 %% false alarms "
            f"(default: {_defaults.QUANTILE}{', or that of --pipeline' if of_benchmark else ''})",
        )
    add_u16_max_option(model, _defaults.U16_MAX if alone else None)
    if alone:
        _add_network_and_seed(model)


def _add_network_and_seed(model: Any) -> None:
    """Add what a command that judges by a saved pipeline has in another meaning."""
    model.add_argument(
        "--weights",
        metavar="FILE",
        help='state dict of the network; "imagenet" (default) takes or downloads the published '
        'one, "none" uses a random network',
    )
    model.add_argument(
        "--device", help='where a network runs: "cpu", "cuda", ... (default: cuda if there is one)'
    )
    model.add_argument(
        "--engine",
        choices=_defaults.ENGINES,
        help="library that runs a network (default: auto, this package's own code where it has it "
        "and torch elsewhere)",
    )
    model.add_argument(
        "--seed",
        metavar="N",
        type=seed,
        default=_defaults.RANDOM_STATE,
        help="random seed (default: %(default)s)",
    )


def with_model_defaults(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in what a command with ``beside_pipelines`` leaves open where it trains a model.

    Parameters
    ----------
    options : Namespace

    Returns
    -------
    Namespace
        A copy.
    """
    defaults = {
        "input_format": _defaults.INPUT_FORMAT,
        "quantile": _defaults.QUANTILE,
        "seed": _defaults.RANDOM_STATE,
        "u16_max": _defaults.U16_MAX,
    }
    given = {name: value for name, value in vars(options).items() if value is not None}
    return argparse.Namespace(**{**vars(options), **defaults, **given})


#: The option that says what each filter of ``list_models`` is.
MODEL_FILTERS = {
    "tags": "--tag",
    "family": "--family",
    "supports_pixel_map": "--maps",
    "requires_checkpoint": "--checkpoint",
}


def add_model_filters(parser: Any) -> None:
    """Add the options by which models are chosen from the list of all, see ``model_filters``."""
    parser.add_argument(
        "--tag",
        metavar="TAG",
        dest="tags",
        action="append",
        help="only models with this tag; may be repeated",
    )
    parser.add_argument("--family", metavar="NAME", help="only models of this family")
    for name, what in (
        ("supports_pixel_map", "make anomaly maps"),
        ("requires_checkpoint", "need pretrained weights"),
    ):
        option = MODEL_FILTERS[name].lstrip("-")
        either = parser.add_mutually_exclusive_group()
        for prefix, wanted in (("", True), ("no-", False)):
            either.add_argument(
                f"--{prefix}{option}",
                dest=name,
                action="store_const",
                const=wanted,
                help=f"only models that {'' if wanted else 'do not '}{what}",
            )


def model_filters(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``list_models``; None for what was not asked for."""
    return {name: getattr(options, name) for name in MODEL_FILTERS}


def add_u16_max_option(parser: Any, default: int | None = _defaults.U16_MAX) -> None:
    """Add ``--u16-max`` to a parser or to a group of options."""
    parser.add_argument(
        "--u16-max",
        metavar="VALUE",
        type=_full_scale,
        default=default,
        help=f"full scale of 16-bit files; 4095 for a 12-bit camera (default: {_defaults.U16_MAX})",
    )


def add_threads_option(parser: Any) -> None:
    """Add ``--threads`` to a parser or to a group of options."""
    parser.add_argument(
        "--threads",
        metavar="N",
        type=_threads,
        help="processor cores to use at most (default: all, or OMP_NUM_THREADS where that is set)",
    )


def _threads(text: str) -> int:
    value, cores = _common.count(text), os.cpu_count() or 1
    if value > cores:
        raise argparse.ArgumentTypeError(f"{text}: this machine has {cores} cores")
    return value


def _crop(text: str) -> int:
    return 0 if text == "0" else _common.side(text)


def seed(text: str) -> int:
    """Option value that seeds random generators."""
    value = _common.count_or_zero(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not below 2**32 = {2**32}")
    return value


def _full_scale(text: str) -> int:
    value = _common.count(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(
            f"{text} is more than 16 bits hold; it is 65535, 4095 for 12 bits or 1023 for 10"
        )
    return value


class Rectangle(NamedTuple):
    """A rectangle in pixels, from the top left corner of an image."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __str__(self) -> str:
        """As ``region`` reads it."""
        return ",".join(map(str, self))


def _numbers(text: str) -> list[int] | None:
    """The four numbers of a rectangle; None if the text is something else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.lstrip("-").isdecimal() for part in parts):
        return None
    return [int(part) for part in parts]


def region(text: str) -> str | Rectangle:
    """Option value that is a rectangle in pixels, ``x0,y0,x1,y1``, or else a file."""
    numbers = _numbers(text)
    if numbers is None:
        if os.path.isfile(text):
            return text
        raise argparse.ArgumentTypeError(
            f"{text} is no file and no rectangle; give a picture of the size of the images, white "
            "where the part is and black elsewhere, or x0,y0,x1,y1 in pixels, such as "
            "40,20,600,460"
        )
    found = Rectangle(*numbers)
    for axis, low, high in (("x", found.x0, found.x1), ("y", found.y0, found.y1)):
        if not 0 <= low < high:
            raise argparse.ArgumentTypeError(
                f"{text}: {axis} goes from {low} to {high}; give x0,y0,x1,y1 in pixels from the "
                f"top left corner, with 0 <= {axis}0 < {axis}1"
            )
    return found


def layer(text: str) -> int | str:
    """Option value that is the name of a layer; the blocks of a transformer have numbers."""
    return int(text) if text.removeprefix("-").isdecimal() else text


# Words that options for files take beside files: networks' weights, standard input and output.
_NO_PATHS = {
    "input": ("-",),
    "save_csv": ("-",),
    "save_jsonl": ("-",),
    "weights": ("imagenet", "none"),
}


def is_no_path(dest: str, text: str) -> bool:
    """Tell whether a value of an option for files is something else.

    Parameters
    ----------
    dest : str
        Destination of the option.
    text : str

    Returns
    -------
    bool
    """
    if dest == "roi":
        return _numbers(text) is not None
    return text in _NO_PATHS.get(dest, ())


def preprocessing_step(text: str) -> str:
    """Option value that is a preprocessing step with parameters, ``NAME:PARAM=VALUE,...``."""
    make_step(text)
    return text


def make_step(text: str) -> Any:
    """The preprocessing step that such a value asks for, not fitted."""
    from pyimgano.preprocessing import make_preprocessor

    name, colon, rest = text.partition(":")
    # Commas within a value, such as those of a list, are followed by no name.
    settings = re.split(r",(?=\s*\w+=)", rest) if colon else []
    given: dict[str, Any] = {}
    for one in settings:
        param, value = setting(one.strip())
        if param in given:
            raise argparse.ArgumentTypeError(f"{text!r} gives {param} twice")
        given[param] = value
    try:
        return make_preprocessor(name, given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def input_format(text: str) -> str:
    """Option value that is one of the formats of images in arrays."""
    if text == _defaults.INPUT_FORMAT:  # argparse asks for the default as well
        return text
    from pyimgano.inputs import ImageFormat
    from pyimgano.utils._words import did_you_mean

    known = [one.value for one in ImageFormat]
    if text not in known:
        raise argparse.ArgumentTypeError(
            f"there is no format {text!r}.{did_you_mean(text, known)} There are {', '.join(known)}"
        )
    return text


def check_quantile(quantile: float | None) -> None:
    """Refuse a share of good parts that no threshold can promise."""
    if quantile == 1:
        raise _common.UsageError("--quantile 1 asks for no false alarm ever; give less than 1")


def check_model_options(options: argparse.Namespace) -> None:
    """Refuse what no model can do, before anything is imported."""
    if isinstance(options.resize, list) and len(options.resize) > 2:
        raise _common.UsageError(
            f"--resize takes one side or height and width, got {len(options.resize)} numbers"
        )
    check_quantile(getattr(options, "quantile", None))
    if getattr(options, "pipeline", None) is not None:
        _check_pipeline(options)


def _check_pipeline(options: argparse.Namespace) -> None:
    """Refuse options of models beside a pipeline, which has parameters of its own."""
    given = [
        name
        for name in ("set", "features", "amp", *_FEATURE_OPTIONS)
        # 0 is a value that was given, and equal to False.
        if (value := getattr(options, name)) is not None and value is not False and value != []
    ]
    if options.u16_max != _defaults.U16_MAX:
        given.append("u16_max")
    if given:
        option = "--set or --model-kwargs" if given[0] == "set" else f"--{given[0]}"
        raise _common.UsageError(
            f"{option.replace('_', '-')} belongs to a model, and --pipeline brings its own "
            "parameters: leave it out, or set them in Python and save the pipeline again"
        )
    if not os.path.isfile(options.pipeline):
        what = "is a folder" if os.path.isdir(options.pipeline) else "there is no such file"
        raise _common.UsageError(
            f"--pipeline {options.pipeline}: {what}; give a file that pyimgano train or "
            "pyimgano.save wrote"
        )


def _one_or_two(sides: list[int]) -> int | tuple[int, ...]:
    return sides[0] if len(sides) == 1 else tuple(sides)


# Options for the feature step, and what an option's value means to it.
_FEATURE_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "weights": lambda text: None if text == "none" else text,
    "layers": tuple,
    "resize": lambda sides: _one_or_two(sides) if isinstance(sides, list) else sides,
    "crop": lambda side: side or None,
    "device": str,
    "engine": str,
}


def name_model(options: argparse.Namespace) -> tuple[str, str]:
    """Name the model that the options ask for, and describe it for people to read.

    A name that stands for one of two presets becomes that preset's, unless features are given:
    these are all that they differ in.
    """
    from pyimgano.registry import resolve_model

    name, reason = resolve_model(options.model)
    if not reason or options.features is not None or "features" in dict(options.set):
        return options.model, options.model
    return name, f"{name} ({options.model}: {reason})"


def make_model_as_asked(options: argparse.Namespace, name: str, progress: bool) -> Any:
    """Make the unfitted model of a name with the other options."""
    from pyimgano.benchmark._benchmark import make_model

    chosen = dict(options.set)
    if options.features is not None:
        chosen["features"] = _named_features(options.features)
    asked = {
        name: meaning(getattr(options, name))
        for name, meaning in _FEATURE_OPTIONS.items()
        if getattr(options, name) is not None
    }
    if options.amp:
        asked["precision"] = "bfloat16"
    from pyimgano.backbones._weights import MissingWeightsError

    try:
        model = make_model(name, chosen, options.seed, progress)
        step = _feature_step(model, asked)
    except ValueError as error:
        raise _common.UsageError(str(error)) from error
    except MissingWeightsError as error:
        raise _common.UsageError(weights_missing(error)) from error
    return model if step is None else model.set_params(features=step)


def weights_missing(error: Any) -> str:
    """Say what to do on the command line about weights that are not here.

    Parameters
    ----------
    error : MissingWeightsError

    Returns
    -------
    str
    """
    return (
        f"{error.reason} Give a state dict of this network, --weights FILE; or "
        f"{error.where_to_put_it()}; or take --features filterbank, which needs no weights, "
        "with a model that does not train on the layers of a network"
    )


def model_options(options: argparse.Namespace) -> dict[str, Any]:
    """Give parameters of the model, those of its features among them, as create_model takes them.

    Parameters
    ----------
    options : Namespace
        Of a command with :func:`add_model_options`.

    Returns
    -------
    dict
        Of what was given.
    """
    chosen = dict(options.set)
    if options.features is not None:
        chosen["features"] = _named_features(options.features)
    for name, meaning in _FEATURE_OPTIONS.items():
        if getattr(options, name) is not None:
            chosen[f"features__{name}"] = meaning(getattr(options, name))
    if options.amp:
        chosen["features__precision"] = "bfloat16"
    return chosen


def _named_features(name: str) -> Any:
    from pyimgano.features import BackbonePatchFeatures, make_features

    try:
        make_features(name)
    except ValueError as error:
        # No name of ours: one of torchvision's other networks, or of none.
        if importlib.util.find_spec("torchvision") is None:
            raise _common.UsageError(
                f"{str(error).partition(' Another')[0]} Torchvision's other networks need the "
                'extra torch: python -m pip install "pyimgano[torch]"'
            ) from error
        return BackbonePatchFeatures(name)
    return name


def _feature_step(model: Any, asked: Mapping[str, Any]) -> Any:
    """The model's feature step as asked for; its network is loaded, which finds mistakes early."""
    import numpy as np

    from pyimgano.detectors._feature_holder import feature_step_of

    step = feature_step_of(model)
    for name in asked:
        option = "--amp" if name == "precision" else f"--{name}"
        if step is None:
            raise _common.UsageError(f"{option} belongs to features, and this model has none")
        if name not in step.get_params():
            raise _common.UsageError(
                f"{option} belongs to a network; give one, such as --features resnet18"
            )
    if asked:
        step.set_params(**asked)
    if hasattr(step, "weights"):
        step.fit(np.zeros((1, 64, 64, 3), np.uint8))
    return step
