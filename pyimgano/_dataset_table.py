"""The datasets by name: what they are, where they are to be had, and what opens them.

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
    """A dataset as :func:`pyimgano.datasets.load_dataset` knows it.

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
        is for a dataset that is not divided into categories.
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
        "mvtec_ad_2",
        _HERE + "_mvtec:load_mvtec_ad_2",
        "MVTec AD 2",
        _HERE + "_mvtec:mvtec_ad_2_categories",
        layout="<category>/train/good, <category>/validation/good, "
        "<category>/test_public/good, <category>/test_public/bad, "
        "<category>/test_public/ground_truth/bad/<stem>_mask.png, "
        "<category>/test_private, <category>/test_private_mixed",
        license=_BY_NC_SA,
        page="https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
        splits=("test_public", "test_private", "test_private_mixed"),
    ),
    DatasetInfo(
        "mvtec_loco",
        _HERE + "_loco:load",
        "MVTec LOCO AD",
        _HERE + "_loco:categories",
        layout="<category>/train/good, <category>/validation/good, <category>/test/good, "
        "<category>/test/logical_anomalies, <category>/test/structural_anomalies, "
        "<category>/ground_truth/<kind>/<stem>/000.png, <category>/defects_config.json",
        license=_BY_NC_SA,
        page="https://www.mvtec.com/company/research/datasets/mvtec-loco",
    ),
    DatasetInfo(
        "visa",
        _HERE + "_visa:load",
        "VisA",
        _HERE + "_visa:categories",
        layout="split_csv/1cls.csv, <category>/Data/Images/Normal, "
        "<category>/Data/Images/Anomaly, <category>/Data/Masks/Anomaly",
        license="CC BY 4.0",
        page="https://github.com/amazon-science/spot-diff",
        splits=("1cls", "2cls_fewshot", "2cls_highshot"),
    ),
    DatasetInfo(
        "btad",
        _HERE + "_btad:load",
        "BTAD",
        _HERE + "_btad:categories",
        layout="<category>/train/ok, <category>/test/ok, <category>/test/ko, "
        "<category>/ground_truth/ko/<stem>.png or .bmp",
        license="CC BY-SA",
        page="https://github.com/pankajmishra000/VT-ADL",
    ),
    DatasetInfo(
        "kolektor_sdd",
        _HERE + "_kolektor:load_kolektor_sdd",
        "KolektorSDD",
        layout="kos01/Part0.jpg, kos01/Part0_label.bmp, ...",
        license=_BY_NC_SA,
        page="https://www.vicos.si/resources/kolektorsdd/",
        splits=("fold_0", "fold_1", "fold_2"),
    ),
    DatasetInfo(
        "kolektor_sdd2",
        _HERE + "_kolektor:load_kolektor_sdd2",
        "KolektorSDD2",
        layout="train/10000.png, train/10000_GT.png, ..., test/20000.png, test/20000_GT.png, ...",
        license=_BY_NC_SA,
        page="https://www.vicos.si/resources/kolektorsdd2/",
    ),
    DatasetInfo(
        "mpdd",
        _HERE + "_mvtec:load_mpdd",
        "MPDD",
        _HERE + "_mvtec:mvtec_ad_categories",
        layout="<category>/train/good, <category>/test/good, <category>/test/<kind>, "
        "<category>/ground_truth/<kind>/<stem>_mask.png",
        license="not stated on the page",
        page="https://github.com/stepanje/MPDD",
    ),
    DatasetInfo(
        "real_iad",
        _HERE + "_real_iad:load",
        "Real-IAD",
        _HERE + "_real_iad:categories",
        layout="realiad_jsons/realiad_jsons/<category>.json, "
        "realiad_1024/<category>/OK/S0001/*.jpg, "
        "realiad_1024/<category>/NG/<kind>/S0001/*.jpg and *_mask.png",
        license=_BY_NC_SA,
        page="https://realiad4ad.github.io/Real-IAD/",
        splits=(
            "realiad_jsons",
            "realiad_jsons_sv",
            "realiad_jsons_fuiad_0.0",
            "realiad_jsons_fuiad_0.1",
            "realiad_jsons_fuiad_0.2",
            "realiad_jsons_fuiad_0.4",
        ),
    ),
    DatasetInfo(
        "manifest",
        _HERE + "_manifest:load",
        "A table of your own images",
        _HERE + "_manifest:categories",
        layout="a .csv or .jsonl file with path, split, label and, if you like, mask, kind, "
        "category, group and condition",
        root="file",
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

#: Datasets by name.
DATASETS = {info.name: info for info in _ROWS}
#: Further names, and the names they stand for.
ALIASES = {alias: info.name for info in _ROWS for alias in info.aliases}
