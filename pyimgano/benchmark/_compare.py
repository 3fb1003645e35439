"""Comparison of runs: how much better one is, and whether by more than chance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyimgano.benchmark._run_dir import CategoryDirectory, RunDirectory
from pyimgano.evaluation import image_metrics, threshold_metrics
from pyimgano.evaluation._resampling import percentile_interval
from pyimgano.evaluation._score_draws import DRAWN_METRICS, metrics_of_draws
from pyimgano.exceptions import RunError

__all__ = ["compare_runs"]

# The metrics of which less is better.
_LESS = ("false_positive_rate",)


def compare_runs(
    baseline: str | os.PathLike[str],
    other: str | os.PathLike[str],
    *,
    allow_different_splits: bool = False,
    confidence_level: float = 0.95,
    n_resamples: int = 2000,
    random_state: int = 0,
) -> dict[str, Any]:
    """Compare two benchmark runs on the same images, by a paired bootstrap.

    Images are drawn with replacement, good and defective ones of each category separately, and
    the same ones for both runs [1]_. A difference is more than chance if the interval that holds
    most of the differences of these draws leaves out 0. It tells whether other images of these
    categories would show it too; that another seed or other training images would is not tested.

    Parameters
    ----------
    baseline, other : str or Path
        Run directories with records.
    allow_different_splits : bool, default=False
        Compare categories whose training or test images differ as well. Of test images, those
        that both runs have are compared, by their names.
    confidence_level : float in (0, 1), default=0.95
        Share of the draws within the interval.
    n_resamples : int, default=2000
        Number of draws.
    random_state : int, default=0
        Seeds the draws.

    Returns
    -------
    dict
        ``baseline`` and ``other``, the names and models of the runs; ``categories`` and ``mean``,
        over the categories, with for each metric ``baseline``, ``other``, ``difference``,
        ``interval`` and ``verdict``: ``"better"``, ``"worse"`` or ``"chance"``. The
        metrics are those of images, at the runs' own thresholds where they need one. Plain JSON
        types.

    Raises
    ------
    RunError
        If a run is not complete, has no records, or no category or split in common.

    References
    ----------
    .. [1] B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall, 1993.

    Examples
    --------
    >>> import tempfile
    >>> from pyimgano import run_benchmark
    >>> from pyimgano.benchmark import compare_runs
    >>> some = {"n_train": 12, "n_test_good": 4, "n_test_defect": 4, "size": 64}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = [
    ...         run_benchmark(
    ...             model="industrial-fast-filterbank",
    ...             model_options={"features__resize": side},
    ...             quantile=0.9,
    ...             output_dir=folder,
    ...             dataset_options=some,
    ...         ).path
    ...         for side in (64, 48)
    ...     ]
    ...     found = compare_runs(*runs)
    >>> sorted(found["mean"])[:2]
    ['auroc', 'average_precision']
    """
    runs = [_open(path) for path in (baseline, other)]
    names = [set(run) for run in runs]
    common = sorted(names[0] & names[1])
    if not common:
        raise RunError(
            f"the runs have no category in common: {os.fspath(baseline)} has "
            f"{', '.join(sorted(names[0]))}, {os.fspath(other)} has {', '.join(sorted(names[1]))}."
        )
    categories: dict[str, Any] = {}
    drawn: list[dict[str, np.ndarray]] = []
    for name in common:
        folders = [run[name] for run in runs]
        if not allow_different_splits:
            _check_splits(name, folders)
        pairs = _paired_records(name, folders)
        figures = [_figures(records) for records in pairs]
        draws = [_draws(records, n_resamples, random_state) for records in pairs]
        difference = {metric: draws[1][metric] - draws[0][metric] for metric in DRAWN_METRICS}
        drawn.append(difference)
        categories[name] = {
            "n_good": sum(r["y_true"] == 0 for r in pairs[0]),
            "n_defect": sum(r["y_true"] == 1 for r in pairs[0]),
            "metrics": {
                metric: _compared(
                    figures[0][metric], figures[1][metric], difference[metric], metric,
                    confidence_level,
                )
                for metric in DRAWN_METRICS
            },
        }  # fmt: skip
    mean = {}
    for metric in DRAWN_METRICS:
        before, after = (
            float(np.mean([one["metrics"][metric][which] for one in categories.values()]))
            for which in ("baseline", "other")
        )
        # Categories are drawn independently, so the draws of their mean are means of theirs.
        difference_of_mean = np.mean([one[metric] for one in drawn], axis=0)
        mean[metric] = _compared(before, after, difference_of_mean, metric, confidence_level)
    return {
        "baseline": _describe(baseline),
        "other": _describe(other),
        "confidence_level": confidence_level,
        "n_resamples": n_resamples,
        "left_out": sorted(names[0] ^ names[1]),
        "categories": categories,
        "mean": mean,
    }


def _open(path: str | os.PathLike[str]) -> dict[str, CategoryDirectory]:
    """The categories of a run by their names."""
    run = RunDirectory(path)
    if not run.report.is_file():
        reason = (
            "the run did not come to its end; go on with it by resume"
            if run.config.is_file()
            else "it is no run directory"
        )
        raise RunError(f"{os.fspath(path)} has no {run.report.name}: {reason}.")
    found = {category.read_report()["category"]: category for category in run.categories()}
    for name, category in found.items():
        if not category.per_image.is_file():
            raise RunError(
                f"{os.fspath(path)} has no records of {name}, by which images are compared; run "
                "it with save_records=True (--per-image-jsonl)."
            )
    return found


def _describe(path: str | os.PathLike[str]) -> dict[str, str]:
    report = RunDirectory(path).read_report()
    return {"run": Path(path).name, "dataset": report["dataset"], "model": report["model"]}


def _check_splits(name: str, folders: Sequence[CategoryDirectory]) -> None:
    one, two = (folder.read_report()["split"] for folder in folders)
    differing = [part for part in one if one[part] != two[part]]
    if differing:
        raise RunError(
            f"{name}: the {' and '.join(differing)} images of the runs differ, so that a "
            "difference of the results need not be one of the models. Run both on the same images, "
            "or allow different splits."
        )


def _paired_records(name: str, folders: Sequence[CategoryDirectory]) -> list[list[dict[str, Any]]]:
    """Records of the images that both runs have judged, in the same order."""
    by_input: list[dict[str, dict[str, Any]]] = [
        {
            r["input"]: r
            for r in folder.read_per_image()
            if "error" not in r and r["y_true"] is not None
        }
        for folder in folders
    ]
    shared = [one for one in by_input[0] if one in by_input[1]]
    pairs = [[of_run[one] for one in shared] for of_run in by_input]
    for one, two in zip(*pairs):
        if one["y_true"] != two["y_true"]:
            raise RunError(
                f"{name}: {one['input']} is good in one run and defective in the other. The runs "
                "are of different images."
            )
    if len({record["y_true"] for record in pairs[0]}) < 2:
        raise RunError(
            f"{name}: the runs share {len(shared)} judged test images, which are not of both "
            "kinds. Compare runs of the same test images."
        )
    return pairs


def _columns(records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, float]:
    scores = np.array([record["score"] for record in records])
    y = np.array([-1 if record["y_true"] else 1 for record in records])
    return scores, y, records[0]["threshold"]


def _figures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scores, y, threshold = _columns(records)
    found = image_metrics(scores, y)
    at_threshold = threshold_metrics(scores, y, threshold)
    confusion = at_threshold["confusion"]
    n_good = confusion["true_negatives"] + confusion["false_positives"]
    values = {
        "auroc": found["auroc"],
        "average_precision": found["average_precision"],
        "f1": at_threshold["f1"],
        "false_positive_rate": confusion["false_positives"] / n_good,
        "true_positive_rate": at_threshold["recall"],
    }
    return {name: float(value) for name, value in values.items()}


def _draws(
    records: Sequence[Mapping[str, Any]], n_resamples: int, random_state: int
) -> dict[str, np.ndarray]:
    return metrics_of_draws(*_columns(records), n_resamples=n_resamples, random_state=random_state)


def _compared(
    baseline: float, other: float, drawn: np.ndarray, metric: str, confidence_level: float
) -> dict[str, Any]:
    low, high = percentile_interval(drawn, confidence_level)
    verdict = "chance"
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) != (metric in _LESS) else "worse"
    return {
        "baseline": baseline,
        "other": other,
        "difference": other - baseline,
        "interval": [low, high],
        "verdict": verdict,
    }
