"""The robustness of a model on the categories of a dataset, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch

from pyimgano import _defaults
from pyimgano._corruptions import SEVERITIES
from pyimgano._nesting import find_calibrator
from pyimgano._version import __version__
from pyimgano.benchmark._benchmark import ends_all, pipeline_of_model
from pyimgano.benchmark._fitting import fit
from pyimgano.benchmark._pipelines import open_pipeline, repr_of
from pyimgano.benchmark._run_dir import SCHEMA_VERSION
from pyimgano.benchmark._sources import dataset_name, sources
from pyimgano.benchmark._split import InputNames, fingerprint, without_folders
from pyimgano.datasets import InspectionDataset
from pyimgano.robustness._report import (
    FIGURES,
    check_corruptions,
    check_severities,
    figure_of,
    robustness_report,
)
from pyimgano.utils._json import as_plain_json
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._stopwatch import Stopwatch

__all__ = ["run_robust_benchmark"]


def run_robust_benchmark(
    dataset: str | Bunch | InspectionDataset = "synthetic",
    *,
    root: str | Path | None = None,
    category: str | Sequence[str] | None = None,
    model: Any = _defaults.MODEL,
    model_name: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    estimator: Any = None,
    corruptions: str | Sequence[str] = "all",
    severities: int | Sequence[int] = SEVERITIES,
    quantile: float | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    u16_max: int = _defaults.U16_MAX,
    random_state: int = _defaults.RANDOM_STATE,
    batch_size: int = 8,
    dataset_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Fit on the clean training images of a dataset, and judge its test images corrupted.

    For each category a pipeline is fitted and its threshold put as
    :func:`~pyimgano.benchmark.run_benchmark` does, then :func:`robustness_report` measures it.
    Training images are never corrupted, and the threshold stays where it is.

    Parameters
    ----------
    dataset, root, category : str, Bunch or InspectionDataset
        As for :func:`~pyimgano.benchmark.run_benchmark`.
    model, model_name, model_options : str, estimator, dict
        As for :func:`~pyimgano.benchmark.run_benchmark`.
    estimator : str, Path or fitted estimator, default=None
        A fitted detector with its threshold, or the file that :func:`~pyimgano.persistence.save`
        wrote of it: judged as it is, in place of a model that is fitted; for a single category.
    corruptions, severities : str, int, or sequence of such
        As for :func:`robustness_report`.
    quantile : float in (0, 1), default=None
        Share of good images that shall pass; None is 0.98.
    limit_train, limit_test : int, default=None
        Numbers of images to take of each category, drawn at random.
    u16_max : int, default=65535
        Value of full scale in 16-bit files.
    random_state : int, default=0
        Seeds the synthetic images, a model given by name, the images that are taken, and the
        corruptions.
    batch_size : int, default=8
        Test images in memory that are judged at a time.
    dataset_options : dict, default=None
        As for :func:`~pyimgano.benchmark.run_benchmark`.
    progress : bool, default=False
        Show progress bars where something takes more than two seconds.

    Returns
    -------
    dict
        In plain JSON types; ``pyimgano.benchmark.json_schema("robustness")`` describes it.
        ``pipeline`` says what was judged: its parameters, and name and SHA-256 of the file it was
        loaded from. ``categories`` holds the report of each, with its ``split`` (fingerprints of
        the images) and ``provenance`` (of the threshold); ``failed`` the reasons of those that
        could not be run; ``mean`` the mean figures over the categories, ``clean`` and
        ``corrupted``.

    Raises
    ------
    DatasetError
        If there is no such dataset, or the files do not have its layout.
    TypeError
        If ``estimator`` is no outlier detector.
    ValueError
        If arguments do not go together.

    Examples
    --------
    >>> from pyimgano.robustness import run_robust_benchmark
    >>> report = run_robust_benchmark(
    ...     category="wood",
    ...     dataset_options={"n_train": 12, "n_test_good": 4, "n_test_defect": 4, "size": 64},
    ...     model="industrial-fast-filterbank",
    ...     model_options={"features__resize": 64},
    ...     corruptions=["gaussian_noise"],
    ...     severities=5,
    ...     quantile=0.9,
    ... )
    >>> sorted(report["mean"])
    ['clean', 'corrupted']
    """
    kinds, levels = check_corruptions(corruptions), check_severities(severities)
    found = sources(
        dataset, root, category, random_state, dataset_options or {}, (limit_train, limit_test)
    )
    if estimator is None:
        given = pipeline_of_model(model, model_options, quantile, u16_max, random_state, progress)
    else:
        fitting = (quantile, limit_train) != (None, None) or u16_max != _defaults.U16_MAX
        if model != _defaults.MODEL or model_options or fitting:
            raise ValueError(
                "estimator is fitted and brings its own threshold and input format: leave out "
                "model, model_options, quantile, limit_train and u16_max."
            )
        if len(found) > 1:
            raise ValueError(
                f"estimator is fitted on one category, and {dataset_name(dataset)!r} has "
                f"{len(found)} here ({', '.join(one.name for one in found)}): name one."
            )
        given = open_pipeline(estimator, "estimator")
    folders = [] if root is None else [str(root)]
    categories: dict[str, Any] = {}
    failed: dict[str, str] = {}
    times: dict[str, Any] = {}
    first_error: Exception | None = None
    for source in found:
        shorten: Callable[[Any], Any] = partial(without_folders, folders=folders)
        try:
            data = source.open()
            shorten = InputNames(data, folders).shorten
            fitted, seconds = given.pipeline, None
            if estimator is None:
                fitted = clone(given.pipeline)
                with progress_callback(f"{source.name}: fit", progress):
                    seconds = fit(fitted, data).seconds
            with Stopwatch() as watch:
                report = robustness_report(
                    fitted,
                    data.X_test,
                    data.y_test,
                    masks=data.masks_test,
                    corruptions=kinds,
                    severities=levels,
                    random_state=random_state,
                    batch_size=batch_size,
                    progress=progress,
                )
        except Exception as error:  # whatever it is, the other categories may be all right
            if ends_all(error):
                raise
            first_error = first_error or error
            failed[source.name] = shorten(f"{type(error).__name__}: {error}")
            continue
        calibrator = find_calibrator(fitted)
        provenance = getattr(calibrator, "provenance_", None)
        categories[source.name] = {
            "split": fingerprint(data),
            "provenance": None if provenance is None else shorten(provenance),
            **report,
        }
        times[source.name] = {"fit_seconds": seconds, "test_seconds": watch.seconds}
    if first_error is not None and not categories:
        raise first_error
    return as_plain_json(
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": dataset_name(dataset),
            "model": given.name if model_name is None else model_name,
            "pipeline": {
                "file": given.file,
                "sha256": given.sha256,
                "estimator": without_folders(repr_of(given.pipeline), folders),
            },
            "pyimgano": __version__,
            "severities": levels,
            "categories": categories,
            "failed": failed,
            "mean": {
                "clean": _mean([one["clean"] for one in categories.values()]),
                "corrupted": _mean([one["mean"] for one in categories.values()]),
            },
            "times": {
                "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
                "categories": times,
            },
        }
    )


def _mean(conditions: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    mean: dict[str, float | None] = {}
    for name in FIGURES:
        known = [one for found in conditions if (one := figure_of(found, name)) is not None]
        mean[name] = float(np.mean(known)) if known else None
    return mean
