"""Reports of benchmarks for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["aligned", "comparison_text", "report_text", "robustness_text"]


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
    if report.get("synthetic_defects") is not None:
        parts.append(
            f"SYNTHETIC DEFECTS: {report['synthetic_defects']} defects were painted on good images "
            "that were not trained on.\nAll figures about defects are about these, and say little "
            "about how real defects are found."
        )
    parts += [_details(name, category) for name, category in categories.items()]
    return "\n\n".join(parts)


def _details(name: str, report: Mapping[str, Any]) -> str:
    threshold = report["threshold"]
    images = {"train": "training", "validation": "validation"}[threshold["part"]]
    asked = threshold["target_false_positive_rate"]
    put = f"{name}: threshold {threshold['threshold']:.4g}, set on"
    lines = [
        f"{put} {threshold['n_images']} good {images} images; false alarms: target {asked:.1%}, "
        f"expected {threshold['expected_false_positive_rate']:.1%}"
        if threshold["n_images"]
        else f"{put} copies of one good image, which promises no rate of false alarms"
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


def comparison_text(report: Mapping[str, Any]) -> str:
    """A table of the models that a recipe has compared, the best one marked.

    Parameters
    ----------
    report : mapping
        Of a training run with a comparison.

    Returns
    -------
    str
    """
    rows = [["model", "image AUROC", "95 % interval", "pixel AUROC", "false alarms", "found"]]
    rows[0] += ["ms/image", "against the best"]
    words = {"better": "better", "worse": "worse", "chance": "may be chance"}
    for one in report["training"]["comparison"]:
        low, high = one["image_auroc_interval_95"]
        against = "is the best" if one["best"] else ""
        if one["against_best"] is not None:
            found = one["against_best"]["auroc"]
            a, b = found["interval"]
            verdict = "the same" if a == b == 0 else words[found["verdict"]]
            against = f"{found['difference']:+.3f} ({a:+.3f} to {b:+.3f}): {verdict}"
        pixel = one["pixel_auroc"]
        rows.append(
            [
                one["model"],
                f"{one['image_auroc']:.3f}",
                f"{low:.3f} to {high:.3f}",
                "-" if pixel is None else f"{pixel:.3f}",
                f"{one['false_positive_rate']:.1%}",
                f"{one['true_positive_rate']:.1%}",
                f"{report['times']['candidates'][one['model']]:.0f}",
                against,
            ]
        )
    return aligned(rows)


def robustness_text(report: Mapping[str, Any]) -> str:
    """A table for each category: a row per corruption, rates at each severity.

    Parameters
    ----------
    report : mapping
        As :func:`~pyimgano.robustness.run_robust_benchmark` returns it.

    Returns
    -------
    str
    """
    return "\n\n".join(
        _robustness_of(name, category, report["severities"])
        for name, category in report["categories"].items()
    )


def _robustness_of(name: str, report: Mapping[str, Any], severities: Sequence[int]) -> str:
    from pyimgano.robustness import CORRUPTIONS

    def areas(conditions: Sequence[Mapping[str, Any]], key: str) -> list[str]:
        known = [one[key] for one in conditions if one[key] is not None]
        if not known:
            return ["-", "-"]
        return [f"{sum(known) / len(known):.3f}", f"{min(known):.3f}"]

    def percents(conditions: Sequence[Mapping[str, Any]], key: str) -> str:
        values = [one[key]["value"] for one in conditions]
        return " ".join("  -" if value is None else f"{100 * value:3.0f}" for value in values)

    def row(title: str, conditions: Sequence[Mapping[str, Any]]) -> list[str]:
        return [
            title,
            *areas(conditions, "image_auroc"),
            *(percents(conditions, key) for key in ("false_positive_rate", "miss_rate")),
        ]

    levels = f"% at severity {', '.join(map(str, severities))}"
    rows = [["", "mean AUROC", "worst", f"false alarms, {levels}", f"misses, {levels}"]]
    rows.append(row("clean", [report["clean"]] * len(severities)))
    rows += [
        row(kind.replace("_", " "), report["corruptions"][kind]["conditions"])
        for kind in CORRUPTIONS
        if kind in report["corruptions"]
    ]
    head = (
        f"{name}: {report['n_good']} good and {report['n_defect']} defective images, threshold "
        f"{report['threshold']:.4g} throughout"
    )
    return f"{head}\n{aligned(rows)}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under one another: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]))
    return "\n".join(lines)
