"""The data sets by name: what they are, where they are to be had, and what opens them.

A module of its own, which imports nothing heavy, so that ``--help`` of the commands answers at
once. Functions, commands and the user guide read the names here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["ALIASES", "DATASETS", "DatasetInfo"]


@dataclass(frozen=True)
class DatasetInfo:
    """A data set as :func:`pyimgano.datasets.load_dataset` knows it.

    Parameters
    ----------
    name : str
        Its name.
    loader : str or callable
        ``loader(root, category, split)`` returns an
        :class:`~pyimgano.datasets.InspectionDataset`; or ``"module:function"``.
    title : str, default=""
        Its name in text.
    categories : str, callable or None, default=None
        ``categories(root)`` returns the names of the categories; or ``"module:function"``. None
        is for a data set that is not divided into categories.
    layout : str, default=""
        The files below ``root``, for error messages.
    license : str, default=""
        License of the images.
    page : str, default=""
        Address of the official page.
    aliases : tuple of str, default=()
        Further names.
    splits : tuple of str, default=()
        The divisions into training and test images that are published, the standard one first.
    root : {"folder", "file", "none"}, default="folder"
        What ``root`` is.
    """

    name: str
    loader: str | Callable[..., Any]
    title: str = ""
    categories: str | Callable[..., list[str]] | None = None
    layout: str = ""
    license: str = ""
    page: str = ""
    aliases: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    root: str = "folder"


_BY_NC_SA = "CC BY-NC-SA 4.0"
_HERE = "pyimgano.datasets."

_ROWS = (
    DatasetInfo(
        "folder",
        _HERE + "_folder:load",
        "A folder of your own",
        _HERE + "_folder:categories",
        layout="train/good, test/good, test/<kind>, ground_truth/<kind>; or train/normal, "
        "test/normal, test/anomaly, ground_truth/anomaly",
        aliases=("custom",),
    ),
    DatasetInfo(
        "mvtec_ad",
        _HERE + "_mvtec:load_mvtec_ad",
        "MVTec AD",
        _HERE + "_mvtec:mvtec_ad_categories",
        layout="<category>/train/good, <category>/test/good, <category>/test/<kind>, "
        "<category>/ground_truth/<kind>/<stem>_mask.png",
        license=_BY_NC_SA,
        page="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        aliases=("mvtec",),
    ),
    DatasetInfo(
        "synthetic",
        _HERE + "_synthetic:load",
        "Pictures made by a program",
        _HERE + "_synthetic:categories",
        layout="no files",
        root="none",
    ),
)

#: Data sets by name.
DATASETS = {info.name: info for info in _ROWS}
#: Further names, and the names they stand for.
ALIASES = {alias: info.name for info in _ROWS for alias in info.aliases}
