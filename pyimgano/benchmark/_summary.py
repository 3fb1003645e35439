"""All categories of a run in short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from pyimgano._version import __version__
from pyimgano.benchmark._run_dir import SCHEMA_VERSION

__all__ = ["COLUMNS", "TIMES", "Column", "summarize"]


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
    interval : str
        Its name among the intervals of its part of the report; empty if it has none there.
    """

    key: str
    place: tuple[str, ...]
    title: str
    form: str
    averaged: bool = True
    interval: str = ""


# The order is that of printed tables.
COLUMNS = (
    Column("n_train", ("n_train",), "train", "{:d}", averaged=False),
    Column("n_test_good", ("n_test_good",), "good", "{:d}", averaged=False),
    Column("n_test_defect", ("n_test_defect",), "defective", "{:d}", averaged=False),
    Column("n_test_unlabeled", ("n_test_unlabeled",), "", "{:d}", averaged=False),
    Column("n_errors", ("n_errors",), "", "{:d}", averaged=False),
    Column("image_auroc", ("image", "auroc"), "image AUROC", "{:.3f}", interval="auroc"),
    Column(
        "average_precision",
        ("image", "average_precision"),
        "AP",
        "{:.3f}",
        interval="average_precision",
    ),
    Column("f1", ("image", "f1"), "F1", "{:.3f}", interval="f1"),
    Column("fpr_at_95_tpr", ("image", "fpr_at_95_tpr"), "", "{:.1%}"),
    Column("pixel_auroc", ("pixel", "auroc"), "pixel AUROC", "{:.3f}", interval="auroc"),
    Column(
        "pixel_average_precision",
        ("pixel", "average_precision"),
        "",
        "{:.3f}",
        interval="average_precision",
    ),
    Column("aupro", ("pixel", "aupro"), "AUPRO", "{:.3f}", interval="aupro"),
    Column("aupro_0.05", ("pixel", "aupro_0.05"), "", "{:.3f}", interval="aupro_0.05"),
    Column("aupimo", ("pixel", "aupimo"), "AUPIMO", "{:.3f}", interval="aupimo"),
    Column("spro_0.05", ("pixel", "spro_0.05"), "sPRO", "{:.3f}"),
    Column("pixel_f1", ("pixel", "f1"), "pixel F1", "{:.3f}", interval="f1"),
    Column("false_positive_rate", ("false_positive_rate", "value"), "false alarms", "{:.1%}"),
    Column("true_positive_rate", ("true_positive_rate", "value"), "found", "{:.1%}"),
)
# They differ between two equal runs, and stand by themselves.
TIMES = (
    Column("fit_seconds", ("times", "fit_seconds"), "fit s", "{:.1f}"),
    Column("ms_per_image", ("times", "ms_per_image"), "ms/image", "{:.0f}"),
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
        In plain JSON types. ``standard_deviation`` is that of the categories, divided by their
        number.
    """
    rows = {
        name: {**_row(report, COLUMNS), "interval_95": _intervals(report)}
        for name, report in categories.items()
    }
    times = {name: _row(report, TIMES) for name, report in categories.items()}
    mean, deviation = {}, {}
    for column in COLUMNS:
        if column.averaged:
            values = [row[column.key] for row in rows.values() if row[column.key] is not None]
            mean[column.key] = float(np.mean(values)) if values else None
            deviation[column.key] = float(np.std(values)) if values else None
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset,
        "model": model,
        "pyimgano": __version__,
        "categories": rows,
        "failed": dict(failed),
        "mean": mean,
        "standard_deviation": deviation,
        "times": {
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
            "categories": times,
        },
    }


def _row(report: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, Any]:
    return {column.key: _look_up(report, column.place) for column in columns}


def _intervals(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        column.key: report[column.place[0]]["interval_95"][column.interval]
        for column in COLUMNS
        if column.interval
    }


def _look_up(report: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = report
    for key in place:
        value = value[key]
    return value
