"""Saved pipelines, for the commands that load one."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from pyimgano import _defaults
from pyimgano.cli import _common, _targets

__all__ = [
    "Repeated",
    "add_loading_options",
    "add_pipeline_and_images",
    "check_output",
    "files_of_pipeline",
    "load_pipeline",
    "open_pipeline",
    "pipeline_of_run",
    "prepare_networks",
]


# Errors of joblib.load by what is in a file. ValueError and ImportError have kinds of their own.
_OF_DAMAGED_PICKLES = (
    *(AttributeError, EOFError, ImportError, LookupError, OverflowError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zlib.error),
)


class Repeated(argparse.Action):
    """An option with several values that may be given several times."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        # In place of the default, which may be that of a configuration file.
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def add_pipeline_and_images(
    parser: _common.CommandParser, images: str, *, stream: bool = False
) -> Any:
    """Add the pipeline and the images, which stand without names or have an option each.

    Parameters
    ----------
    parser : CommandParser
        Of a command that parses arguments without names intermixed with options.
    images : str
        What the images are, for ``--help``.
    stream : bool, default=False
        Names of images may also come on standard input.

    Returns
    -------
    group
        The ways to name the pipeline, which exclude each other.
    """
    parser.add_argument(
        "positional",
        metavar="PIPELINE INPUT ...",
        nargs="*",
        help="the pipeline, as pyimgano train or pyimgano.save wrote it; then "
        f"{images}: folders (with all below them), files or glob patterns",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--pipeline", metavar="FILE", help="another way to name the pipeline")
    if stream:
        _add_deliveries(parser, either)
    names = '; "-" reads names of files from standard input, a line each' if stream else ""
    parser.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        action=Repeated,
        default=[],
        help=f"another way to name the images; may be repeated{names}",
    )
    parser.command_line_only.add("positional")
    parser.arrange = _tell_pipeline_from_images
    return either


def _add_deliveries(parser: argparse.ArgumentParser, either: Any) -> None:
    """Add what a pipeline can be taken out of."""
    either.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="take the pipeline out of a folder or .zip that pyimgano export made; the arguments "
        "without names are then images",
    )
    either.add_argument(
        "--infer-config",
        metavar="FILE",
        help="take the pipeline that an infer_config.json names, which lies beside it",
    )
    either.add_argument(
        "--from-run",
        metavar="RUN",
        help="take the pipeline out of a run directory of pyimgano benchmark or train",
    )
    parser.add_argument(
        "--category", metavar="NAME", help="with --from-run, which of the run's pipelines"
    )


def _tell_pipeline_from_images(options: argparse.Namespace, from_file: Mapping[str, Any]) -> None:
    words = list(options.positional)
    named = _delivery(options) is not None or getattr(options, "model", None) is not None
    if options.pipeline is None and not named and words:
        options.pipeline = words.pop(0)
    if words and options.input is from_file.get("input"):
        options.input = words  # in place of those of the configuration file
    else:
        options.input = [*words, *options.input]


def add_loading_options(parser: argparse.ArgumentParser, *, trains: bool = False) -> None:
    """Add the group of options that say how a pipeline is loaded, and where it computes.

    With ``trains`` the command may also train the pipeline, by a network of these options.
    """
    network = parser.add_argument_group("loading")
    network.add_argument(
        "--weights",
        metavar="FILE",
        help="state dict of the pipeline's network, where it is not found by itself: at the place "
        "it had when the pipeline was fitted, beside the pipeline, in the folders that "
        "PYIMGANO_WEIGHTS names, or in the cache"
        + ('; with --model also "imagenet" (default) or "none"' if trains else ""),
    )
    network.add_argument(
        "--device",
        help='where the pipeline\'s network runs: "cpu", "cuda", "cuda:1" or "auto" for CUDA where '
        "there is one (default: as when it was fitted)",
    )
    network.add_argument(
        "--engine",
        choices=_defaults.ENGINES,
        help="library that runs the pipeline's network; scores of engines differ in their sixth "
        "digit (default: as when it was fitted)",
    )
    network.add_argument(
        "--trust",
        action="switch",
        help="load the pipeline with joblib.load, which runs any code in it; only for files from "
        "people you trust",
    )


def _delivery(options: argparse.Namespace) -> str | None:
    """Name of the option that the pipeline is taken out of, if any."""
    for name in ("bundle", "infer_config", "from_run"):
        if getattr(options, name, None) is not None:
            return name
    return None


def open_pipeline(options: argparse.Namespace) -> Any:
    """Load the pipeline that the options name, and note the scale of colors saved with it.

    Parameters
    ----------
    options : Namespace
        Of a command with :func:`add_pipeline_and_images` and :func:`add_loading_options`. Its
        ``pipeline`` becomes a name for messages, and its ``map_range`` the scale, or None.

    Returns
    -------
    estimator
    """
    name = _delivery(options)
    if name == "from_run":
        options.pipeline = pipeline_of_run(options.from_run, options.category)
    elif name is not None:
        if options.trust:
            raise _common.UsageError(
                f"--trust goes with a pipeline file, not with --{name.replace('_', '-')}"
            )
        from pyimgano.export import open_bundle

        options.pipeline = getattr(options, name)
        bundle = open_bundle(options.pipeline)
        options.map_range = bundle.map_range
        return bundle.estimator
    from pyimgano.persistence import read_map_range

    _refuse_delivery(options.pipeline)
    pipeline = load_pipeline(options.pipeline, options.trust)
    options.map_range = read_map_range(options.pipeline)
    return pipeline


def _refuse_delivery(path: str) -> None:
    """Refuse a bundle, or the configuration in one, in place of the file of a pipeline."""
    if os.path.basename(path) == "infer_config.json":
        option = "infer-config"
    elif os.path.isfile(os.path.join(path, "manifest.json")) or zipfile.is_zipfile(path):
        option = "bundle"
    else:
        return
    raise _common.UsageError(
        f"{path}: is no saved pipeline, but holds one; put --{option} before it"
    )


def files_of_pipeline(options: argparse.Namespace) -> list[str]:
    """Files that the pipeline is read from or trained on, which must not be written to."""
    if getattr(options, "train_dir", None) is not None:
        return _files_of_training(options)
    name = _delivery(options)
    path = options.pipeline if name is None else getattr(options, name)
    files = [path, f"{path}.json"]
    folder = os.path.dirname(path) or "." if name == "infer_config" else path
    if name is not None and os.path.isdir(folder):
        for place, _, names in os.walk(folder):
            files += [os.path.join(place, one) for one in names]
    return files if options.weights is None else [*files, options.weights]


def _files_of_training(options: argparse.Namespace) -> list[str]:
    from pyimgano.inputs import ImageSequence

    files = [one for one in (options.weights, options.roi) if isinstance(one, str)]
    for folder in (options.train_dir, options.val_dir):
        if folder is not None:
            files += ImageSequence.from_folder(folder, recursive=True).paths
    return files


def pipeline_of_run(run: str, category: str | None) -> str:
    """Find the pipeline that a run of the benchmark, or of training, has saved.

    Parameters
    ----------
    run : str
        Run directory.
    category : str or None
        None is for runs of one category.

    Returns
    -------
    str
    """
    from pyimgano.benchmark import RunDirectory

    found = {one.read_report()["category"]: one for one in RunDirectory(run).categories()}
    if not found:
        raise _common.UsageError(f"{run}: is no run directory with a complete category")
    if category is None and len(found) > 1:
        raise _common.UsageError(
            f"{run} has several pipelines; give --category, one of {', '.join(sorted(found))}"
        )
    if category is not None and category not in found:
        raise _common.UsageError(
            f"{run} has no category {category!r}; there are {', '.join(sorted(found))}"
        )
    path = found[category or next(iter(found))].pipeline
    if not path.is_file():
        raise _common.UsageError(f"{path}: there is no such file, the run kept no pipeline")
    return str(path)


def load_pipeline(path: str, trust: bool) -> Any:
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "there is no such file"
        raise _common.UsageError(
            f"{path}: {what}; give first the pipeline, a file that pyimgano train or pyimgano.save "
            "wrote, then the images"
        )
    if not trust:
        from pyimgano.persistence import load

        pipeline = load(path)
    else:
        import joblib

        from pyimgano.persistence._networks import look_beside

        try:
            pipeline = joblib.load(path)
        except _OF_DAMAGED_PICKLES as error:
            raise _common.UsageError(
                f"{path}: is no joblib file, or is damaged, or needs a package that is not "
                f"installed ({type(error).__name__}: {error})"
            ) from error
        look_beside(pipeline, os.path.dirname(os.path.realpath(path)))
    if not hasattr(pipeline, "score_samples"):
        raise _common.UsageError(
            f"{path}: holds a {type(pipeline).__name__}, which is no fitted detector"
        )
    return pipeline


def prepare_networks(
    pipeline: Any, options: argparse.Namespace
) -> list[tuple[Any, dict[str, Any]]]:
    """Set what the options say, and load the networks before any result file is touched.

    Parameters
    ----------
    pipeline : estimator
    options : Namespace
        Of a command with :func:`add_loading_options`.

    Returns
    -------
    list of (step, dict)
        The networks, and what the parameters that were set had been before.
    """
    from pyimgano._nesting import find_parts
    from pyimgano.features._network import BaseNetworkFeatures

    networks = find_parts(pipeline, BaseNetworkFeatures)
    asked = {name: getattr(options, name) for name in ("weights", "device", "engine")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and not networks:
        raise _common.UsageError(
            f"--{next(iter(asked))} belongs to a network, and {options.pipeline} has none"
        )
    if "weights" in asked and len({step.backbone for step in networks}) > 1:
        raise _common.UsageError(
            "--weights is one file, and this pipeline has several networks: load it in Python and "
            "use set_params(weights=...) on each"
        )
    if "weights" in asked and any(hasattr(step, "embedded_weights_") for step in networks):
        _common.say(
            f"{options.prog}: warning: {options.pipeline} holds its weights, and --weights "
            f"{options.weights} is not read"
        )
        del asked["weights"]
    before = [(step, {name: getattr(step, name) for name in asked}) for step in networks]
    for step in networks:
        step.set_params(**asked)
    for step in networks:
        if hasattr(step, "weights_sha256_"):
            step.load_network()
    return before


def check_output(path: str, files: Sequence[str]) -> None:
    """Refuse to save a pipeline, or its side file, over files that are read or unrelated.

    Parameters
    ----------
    path : str
        Value of ``--output``.
    files : sequence of str
        The files.
    """
    from pyimgano.persistence._saving import check_side_file

    used = _targets.real_paths(files)
    # A link stays, and the file that it leads to is replaced.
    for target in (path, f"{os.path.realpath(path)}.json"):
        _targets.check_file("--output", target, used, replaces_link=False)
    try:
        check_side_file(path)
    except FileExistsError as error:
        raise _common.UsageError(f"--output {error}") from error
