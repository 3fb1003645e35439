"""All categories of a run in short."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from pyimgano._version import __version__

__all__ = ["COLUMNS", "Column", "summarize"]


class Column(NamedTuple):
    """One figure of a category.

    Parameters
    ----------
    key : str
        Its name in the summary.
    place : tuple of str
        Where the category's report has it.
    title : str
        Heading in printed tables; empty for what these leave out.
    form : str
        Format of a printed value.
    averaged : bool
        Whether a mean over categories means something.
    """

    key: str
    place: tuple[str, ...]
    title: str
    form: str
    averaged: bool = True


# The order is that of printed tables.
COLUMNS = (
    Column("n_train", ("n_train",), "train", "{:d}", averaged=False),
    Column("n_test_good", ("n_test_good",), "good", "{:d}", averaged=False),
    Column("n_test_defect", ("n_test_defect",), "defective", "{:d}", averaged=False),
    Column("n_test_unlabeled", ("n_test_unlabeled",), "", "{:d}", averaged=False),
    Column("n_errors", ("n_errors",), "", "{:d}", averaged=False),
    Column("image_auroc", ("image", "auroc"), "image AUROC", "{:.3f}"),
    Column("average_precision", ("image", "average_precision"), "AP", "{:.3f}"),
    Column("f1", ("image", "f1"), "F1", "{:.3f}"),
    Column("fpr_at_95_tpr", ("image", "fpr_at_95_tpr"), "", "{:.1%}"),
    Column("pixel_auroc", ("pixel", "auroc"), "pixel AUROC", "{:.3f}"),
    Column("pixel_average_precision", ("pixel", "average_precision"), "", "{:.3f}"),
    Column("aupro", ("pixel", "aupro"), "AUPRO", "{:.3f}"),
    Column("aupro_0.05", ("pixel", "aupro_0.05"), "", "{:.3f}"),
    Column("aupimo", ("pixel", "aupimo"), "", "{:.3f}"),
    Column("spro_0.05", ("pixel", "spro_0.05"), "sPRO", "{:.3f}"),
    Column("false_positive_rate", ("false_positive_rate", "value"), "false alarms", "{:.1%}"),
    Column("true_positive_rate", ("true_positive_rate", "value"), "found", "{:.1%}"),
    Column("fit_seconds", ("seconds", "fit"), "fit s", "{:.1f}"),
    Column("ms_per_image", ("ms_per_image",), "ms/image", "{:.0f}"),
)


def summarize(
    dataset: str,
    model: str,
    categories: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Put the reports of all categories in short.

    Parameters
    ----------
    dataset, model : str
        What was run.
    categories : mapping of str to dict
        Report of each category.
    failed : mapping of str to str
        Categories without a report, or without pictures, and why.

    Returns
    -------
    dict
        In plain JSON types.
    """
    rows = {name: {c.key: _look_up(report, c.place) for c in COLUMNS}
            for name, report in categories.items()}  # fmt: skip
    mean = {}
    for column in COLUMNS:
        if column.averaged:
            values = [row[column.key] for row in rows.values() if row[column.key] is not None]
            mean[column.key] = float(np.mean(values)) if values else None
    return {
        "dataset": dataset,
        "model": model,
        "pyimgano": __version__,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "categories": rows,
        "failed": dict(failed),
        "mean": mean,
    }


def _look_up(report: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = report
    for key in place:
        value = value[key]
    return value
