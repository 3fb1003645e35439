"""The options that say on which images a command works, for the commands that run a dataset."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pyimgano import _defaults
from pyimgano._dataset_table import ALIASES, DATASETS
from pyimgano.cli import _common

__all__ = ["add_data_options", "check_data_options", "check_root", "dataset_options"]

# Options of synthetic images, and the arguments they are.
_SYNTHETIC = {"image_size": "size", "n_train": "n_train"}


def add_data_options(parser: argparse.ArgumentParser, *, of_benchmark: bool = False) -> None:
    """Add the group of options that name a dataset and what to take of it."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        metavar="NAME",
        type=_dataset,
        help=f"one of {', '.join(DATASETS)}: synthetic is pictures made by a program, folder and "
        "manifest are images of your own, the others are public datasets as they were published",
    )
    data.add_argument(
        "--root",
        metavar="DIR",
        help="folder the dataset was unpacked to, or that of a category; for a manifest its file",
    )
    data.add_argument(
        "--category",
        metavar="NAME",
        nargs="+",
        help='what to run, "all" for every category; by default all categories below --root, or '
        f"the synthetic {_defaults.CATEGORY}",
    )
    data.add_argument(
        "--limit-train",
        metavar="N",
        type=_common.count,
        help="take N good training images of each category, drawn at random",
    )
    data.add_argument(
        "--limit-test",
        metavar="N",
        type=_common.count,
        help="take N test images of each category, drawn at random, of each kind its share",
    )
    if of_benchmark:
        data.add_argument(
            "--synthetic-defects",
            metavar="N",
            type=_common.count,
            help="for a dataset without a defective image: paint N defects on copies of its good "
            "test images, or of a fifth of its good training images, which are then not trained "
            "on; --root may then be a folder of good images alone",
        )
    data.add_argument(
        "--split",
        metavar="NAME",
        help="division into training and test images, where several are published; "
        + "; ".join(f"{i.name}: {', '.join(i.splits)}" for i in DATASETS.values() if i.splits),
    )
    data.add_argument(
        "--image-size",
        metavar="PIXELS",
        type=_common.side,
        help=f"side of the synthetic pictures (default: {_defaults.IMAGE_SIDE})",
    )
    data.add_argument(
        "--n-train",
        metavar="N",
        type=_common.count,
        help=f"number of synthetic training pictures (default: {_defaults.N_TRAIN})",
    )


def check_data_options(options: argparse.Namespace) -> None:
    """Refuse data options that do not go together, before anything is imported or read."""
    if options.dataset is None:
        raise _common.UsageError(
            f'--dataset NAME is missing; there are {", ".join(DATASETS)}, and "--dataset '
            'synthetic" needs nothing else'
        )
    synthetic_only = [f"--{n.replace('_', '-')}" for n in _SYNTHETIC if _given(options, n)]
    synthetic = options.dataset == "synthetic"
    info = check_root(options)
    if not synthetic and synthetic_only:
        raise _common.UsageError(f"{synthetic_only[0]} belongs to --dataset synthetic")
    if options.split is not None and info is not None and options.split not in info.splits:
        there_are = f"there are {', '.join(info.splits)}" if info.splits else "it has none"
        raise _common.UsageError(
            f"--dataset {options.dataset} has no --split {options.split}; {there_are}"
        )
    if synthetic:
        from pyimgano.datasets import list_inspection_categories

        known = list_inspection_categories()
        for name in options.category or ():
            if name not in known and options.category != ["all"]:
                raise _common.UsageError(f"--category {name} is not one of {', '.join(known)}")
        if options.image_size is not None and options.image_size < 64:
            raise _common.UsageError(f"--image-size {options.image_size} is below 64")
    repeated = [n for n in options.category or () if options.category.count(n) > 1]
    if repeated:
        raise _common.UsageError(f"--category names {repeated[0]} twice")


def check_root(options: argparse.Namespace) -> Any:
    """Refuse a root that does not fit the dataset; return what is known of the dataset."""
    # None for the dataset of a plug-in, which is not loaded yet.
    info = DATASETS.get(ALIASES.get(options.dataset, options.dataset))
    if info is not None and info.root != "none" and options.root is None:
        what = "DIR, the folder of the images" if info.root == "folder" else "FILE"
        raise _common.UsageError(f"--dataset {options.dataset} needs --root {what}")
    if options.root is not None:
        if options.dataset == "synthetic":
            raise _common.UsageError("--root belongs to a dataset of files; synthetic reads none")
        exists = {"folder": os.path.isdir, "file": os.path.isfile}
        if info is not None and not exists[info.root](options.root):
            raise _common.UsageError(f"--root {options.root}: there is no such {info.root}")
    return info


def _given(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name) is not None


def dataset_options(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments for the dataset, of the options that were given."""
    return {
        argument: getattr(options, name)
        for name, argument in {**_SYNTHETIC, "split": "split"}.items()
        if _given(options, name)
    }


def _dataset(name: str) -> str:
    """Option value that is the name of a dataset, which may be that of a plug-in."""
    if name in DATASETS or name in ALIASES:
        return name
    from pyimgano.datasets import list_datasets
    from pyimgano.utils._words import did_you_mean

    known = list_datasets()
    if name not in known:
        raise argparse.ArgumentTypeError(
            f"there is no dataset {name!r}.{did_you_mean(name, [*known, *ALIASES])} There are "
            f"{', '.join(known)}"
        )
    return name
