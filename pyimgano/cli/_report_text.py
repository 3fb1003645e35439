"""Reports of benchmarks for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["aligned", "report_text"]


def report_text(report: Mapping[str, Any], categories: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of all categories, and a few lines about each.

    Parameters
    ----------
    report : mapping
        Of a run.
    categories : mapping of str to mapping
        The reports of its categories.

    Returns
    -------
    str
    """
    from pyimgano.benchmark._summary import COLUMNS, TIMES

    times = report["times"]["categories"]
    lines = {name: {**row, **times[name]} for name, row in report["categories"].items()}
    if len(categories) > 1:
        lines["mean"] = report["mean"]
        lines["std. deviation"] = report["standard_deviation"]
    # A column without a single value would only make the table wider.
    columns = [
        column
        for column in (*COLUMNS, *TIMES)
        if column.title and any(values.get(column.key) is not None for values in lines.values())
    ]
    rows = [["category", *(column.title for column in columns)]]
    for name, values in lines.items():
        found = [(column.form, values.get(column.key)) for column in columns]
        rows.append(
            [name, *("-" if value is None else form.format(value) for form, value in found)]
        )
    parts = [aligned(rows)]
    parts += [_details(name, category) for name, category in categories.items()]
    return "\n\n".join(parts)


def _details(name: str, report: Mapping[str, Any]) -> str:
    threshold = report["threshold"]
    images = {"train": "training", "validation": "validation"}[threshold["part"]]
    asked = threshold["target_false_positive_rate"]
    lines = [
        f"{name}: threshold {threshold['threshold']:.4g}, set on {threshold['n_images']} good "
        f"{images} images; false alarms asked for {asked:.1%}, "
        f"expected {threshold['expected_false_positive_rate']:.1%}"
    ]
    realized, kinds = report["false_positive_rate"], report["kinds"]
    width = max(15, *map(len, kinds)) if kinds else 15
    for title, part, key in (
        ("image AUROC", "image", "auroc"),
        ("pixel AUROC", "pixel", "auroc"),
        ("AUPRO", "pixel", "aupro"),
    ):
        interval = report[part]["interval_95"].get(key)
        if interval is not None:
            low, high = interval
            lines.append(
                f"  {title:<{width}} {report[part][key]:.3f}        "
                f"(95 % interval {low:.3f} to {high:.3f})"
            )
    if realized["value"] is not None:
        low, high = realized["interval_95"]
        lines.append(
            f"  {'false alarms':<{width}} {realized['count']:>4} of {realized['n']:<4} "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )
    lines += [
        f"  {kind:<{width}} {found['count']:>4} of {found['n']:<4} found"
        for kind, found in kinds.items()
    ]
    if report["n_test_unlabeled"]:
        lines.append(
            f"  {'without label':<{width}} {report['n_unlabeled_anomalous']:>4} of "
            f"{report['n_test_unlabeled']:<4} judged anomalous; they count in no figure"
        )
    compiled = report["times"]["compile_seconds"]
    if compiled >= 0.5:
        lines.append(
            f"  compiled for {compiled:.1f} s, which is no part of the times above and falls to "
            "the first run only"
        )
    return "\n".join(line.rstrip() for line in lines)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under one another: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]))
    return "\n".join(lines)
