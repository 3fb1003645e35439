"""Whole jobs in one call: fit on good parts, judge the test set, write down what came out."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import Bunch, _safe_indexing

from pyimgano._nesting import innermost
from pyimgano._version import __version__
from pyimgano.benchmark._run_dir import CategoryDirectory, RunDirectory
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import (
    list_categories,
    load_folder,
    make_inspection_dataset,
    read_mask,
)
from pyimgano.evaluation import PixelAUROC, image_metrics, rate
from pyimgano.exceptions import TooFewImagesError
from pyimgano.inference import infer
from pyimgano.inputs import ImageFormatNormalizer, check_images
from pyimgano.persistence import save
from pyimgano.registry import create_model, model_info
from pyimgano.reporting import heat_range, overlay, write_overlay
from pyimgano.utils import environment
from pyimgano.utils._progress import progress_callback

__all__ = ["BenchmarkResult", "run_benchmark"]

# One good part in fifty may be called bad: a rate that a test set of usual size can check.
_QUANTILE = 0.98
_MODEL = "industrial-fast"
_CATEGORY = "brushed_metal"
_DATASETS = ("synthetic", "folder")


@dataclass
class BenchmarkResult:
    """What :func:`run_benchmark` found.

    Parameters
    ----------
    report : dict
        The content of ``report.json``: each category in short, and their mean.
    categories : dict of str to dict
        The content of each category's ``report.json``.
    records : dict of str to list of dict
        The records of each category's test images.
    pipelines : dict of str to estimator
        The fitted pipelines.
    path : Path or None
        The run directory.
    """

    report: dict[str, Any] = field(default_factory=dict)
    categories: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pipelines: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


def run_benchmark(
    dataset: str | Bunch = "synthetic",
    *,
    root: str | Path | None = None,
    category: str | Sequence[str] | None = None,
    model: Any = _MODEL,
    model_name: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    quantile: float | None = None,
    output_dir: str | Path | None = "runs",
    save_pipeline: bool = True,
    n_overlays: int = 8,
    u16_max: int = 65535,
    random_state: int | None = 0,
    batch_size: int = 8,
    dataset_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> BenchmarkResult:
    """Fit on the good training images of a dataset, judge its test images, report.

    For each category the pipeline ``ImageFormatNormalizer``, ``ThresholdCalibrator`` of the
    model is fitted and the threshold put where ``quantile`` asks for it, without a look at the
    test set. Everything found is returned and, in ``output_dir``, written to a new directory.

    Parameters
    ----------
    dataset : {"synthetic", "folder"} or Bunch, default="synthetic"
        ``"synthetic"``: :func:`~pyimgano.datasets.make_inspection_dataset`; nothing is needed.
        ``"folder"``: images below ``root``, see :func:`~pyimgano.datasets.load_folder`. A Bunch
        as these two return it is used as it is.
    root : str or Path, default=None
        For ``"folder"``: a category's folder, or the folder above several.
    category : str or sequence of str, default=None
        What to run. None is, for ``"synthetic"``, ``"brushed_metal"``, and for ``"folder"``,
        every category below ``root``.
    model : str or estimator, default="industrial-fast"
        A name of :func:`~pyimgano.registry.list_models`; the default needs no weights. Or an
        unfitted outlier detector for images; a ``ThresholdCalibrator`` brings its own quantile.
    model_name : str, default=None
        What to call the model in reports; None is its name or its class.
    model_options : dict, default=None
        Parameters of a model given by name, as :func:`~pyimgano.registry.create_model` takes
        them.
    quantile : float in (0, 1), default=None
        Share of good images that shall pass; None is 0.98.
    output_dir : str, Path or None, default="runs"
        Where to make the run directory; None writes nothing.
    save_pipeline : bool, default=True
        Save the fitted pipelines in the run directory.
    n_overlays : int, default=8
        Pictures per category of the test images that were judged worst: misses and false
        alarms, then the closest calls.
    u16_max : int, default=65535
        Value of full scale in 16-bit files: 4095 for a 12-bit camera.
    random_state : int or None, default=0
        Seeds the synthetic images and a model given by name.
    batch_size : int, default=8
        Test images held at a time.
    dataset_options : dict, default=None
        Further arguments of :func:`~pyimgano.datasets.make_inspection_dataset`.
    progress : bool, default=False
        Show progress bars where something takes more than two seconds.

    Returns
    -------
    BenchmarkResult

    Raises
    ------
    DatasetError
        If the folder has none of the known layouts.
    ImageReadError
        If a training image cannot be read. Such a test image has a record with an error.
    TooFewImagesError
        If there are too few good training images, or no test image can be judged.

    Examples
    --------
    >>> from pyimgano import run_benchmark
    >>> result = run_benchmark(
    ...     category="brushed_metal",
    ...     output_dir=None,
    ...     dataset_options={"n_train": 12, "n_test_good": 4, "n_test_defect": 4, "size": 64},
    ...     model_options={"features__resize": 64},
    ...     quantile=0.9,
    ... )
    >>> list(result.categories), len(result.records["brushed_metal"])
    (['brushed_metal'], 8)
    """
    if isinstance(model, str):
        name, model = model, make_model(model, model_options, random_state, progress)
    elif model_options:
        raise ValueError(
            "model_options belong to a model given by name; this model is an estimator and has "
            "its own parameters: set them there."
        )
    else:
        name = type(innermost(model)[0]).__name__
    pipeline = _make_pipeline(model, quantile, u16_max)
    sources = list(_sources(dataset, root, category, random_state, dataset_options))
    dataset_name = dataset if isinstance(dataset, str) else "custom"
    model_name = name if model_name is None else model_name
    result = BenchmarkResult()
    run = None
    if output_dir is not None:
        run = RunDirectory.create(output_dir, dataset_name, model_name)
        result.path = run.path
    try:
        if run is not None:
            run.write_config(
                {
                    "dataset": dataset_name,
                    "root": None if root is None else str(root),
                    "categories": [name for name, _ in sources],
                    "dataset_options": dict(dataset_options or {}),
                    "pipeline": _describe(pipeline),
                    "random_state": random_state,
                    "batch_size": batch_size,
                }
            )
            run.write_environment(environment())
        for name, make in sources:
            folder = None if run is None else run.category(name).create()
            try:
                job = _CategoryRun(name, make(), clone(pipeline), batch_size, n_overlays, progress)
                job.run()
                if folder is not None:
                    job.write(folder, save_pipeline)
            except BaseException:  # Ctrl-C as well
                if folder is not None:
                    folder.discard()
                raise
            result.categories[name] = job.report
            result.records[name] = job.records
            result.pipelines[name] = job.pipeline
        result.report = _summary(dataset_name, model_name, result.categories)
        if run is not None:
            run.write_report(result.report)
    except BaseException:
        if run is not None and not run.categories():
            run.discard()
        raise
    return result


# ---- what to run ----------------------------------------------------------------------
def make_model(
    name: str, options: Mapping[str, Any] | None, random_state: Any, progress: bool
) -> Any:
    """A model by name; seed and progress bars go to models that have such parameters."""
    parameters = model_info(name)["parameters"]
    given = {}
    if "random_state" in parameters:
        given["random_state"] = random_state
    if parameters.get("verbose", {}).get("accepts") == ["bool"]:
        given["verbose"] = progress
    return create_model(name, **{**given, **(options or {})})


def _make_pipeline(model: Any, quantile: float | None, u16_max: int) -> Pipeline:
    if not isinstance(model, ThresholdCalibrator):
        model = ThresholdCalibrator(model, quantile=_QUANTILE if quantile is None else quantile)
    elif quantile is not None:
        raise ValueError("the model is a ThresholdCalibrator: give the quantile there.")
    return make_pipeline(ImageFormatNormalizer(u16_max=u16_max), model)


def _sources(
    dataset: str | Bunch,
    root: str | Path | None,
    category: str | Sequence[str] | None,
    random_state: int | None,
    options: Mapping[str, Any] | None,
) -> Iterator[tuple[str, Any]]:
    """Name of each category, and the function that makes or opens it."""
    names = [category] if isinstance(category, str) else category
    if not isinstance(dataset, str):
        if names is not None or root is not None:
            raise ValueError("a dataset given as a Bunch takes neither root nor category.")
        yield str(dataset.get("category", "custom")), lambda: dataset
    elif dataset == "synthetic":
        if root is not None:
            raise ValueError('root belongs to dataset="folder"; "synthetic" reads no files.')
        arguments = {"random_state": random_state, **(options or {})}
        for name in [_CATEGORY] if names is None else names:
            yield name, lambda name=name: make_inspection_dataset(name, **arguments)
    elif dataset == "folder":
        if root is None:
            raise ValueError('dataset="folder" needs root, the folder of the images.')
        if options:
            raise ValueError('dataset_options belong to dataset="synthetic".')
        folder = Path(root)
        # Opened now, which reads no image: a wrong name is better said before the first fit.
        if names is None and (folder / "train").is_dir():
            opened = [(folder.resolve().name, load_folder(folder))]
        else:
            names = list_categories(folder) if names is None else names
            opened = [(name, load_folder(folder, name)) for name in names]
        for name, data in opened:
            yield name, lambda data=data: data
    else:
        raise ValueError(f"dataset={dataset!r} is not one of {', '.join(map(repr, _DATASETS))}.")


def _describe(value: Any) -> Any:
    """An estimator as class and parameters, in plain JSON types."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        params = value.get_params(deep=False)
        if isinstance(value, Pipeline):
            params = dict(value.steps)
        return {
            "class": f"{type(value).__module__}.{type(value).__qualname__}",
            "params": {name: _describe(param) for name, param in params.items()},
        }
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value) if isinstance(value, Path) else repr(value)


# ---- one category ---------------------------------------------------------------------
class _CategoryRun:
    """Fit, judge and report one category."""

    def __init__(
        self,
        name: str,
        data: Bunch,
        pipeline: Pipeline,
        batch_size: int,
        n_overlays: int,
        progress: bool,
    ) -> None:
        self.name = name
        self.data = data
        self.pipeline = pipeline
        self.batch_size = batch_size
        self.n_overlays = n_overlays
        self.progress = progress
        self.records: list[dict[str, Any]] = []
        self.report: dict[str, Any] = {}
        # The worst so far, the least bad first: (how wrong, -index, map).
        self._worst: list[tuple[float, int, np.ndarray | None]] = []

    def run(self) -> None:
        started = time.perf_counter()
        self.pipeline.fit(self.data.X_train, self.data.y_train)
        fitted = time.perf_counter()
        pixels = PixelAUROC()
        n_test = len(self.data.X_test)
        judged = infer(self.pipeline, self.data.X_test, maps=True, batch_size=self.batch_size)
        with progress_callback(f"{self.name}: test images", self.progress) as progress:
            for record, anomaly_map in judged:
                self._take(record, anomaly_map, pixels)
                if progress is not None:
                    progress(record["index"] + 1, n_test)
        scored = time.perf_counter()
        self._make_report(pixels, fitted - started, scored - fitted)

    def _take(
        self, record: dict[str, Any], anomaly_map: np.ndarray | None, pixels: PixelAUROC
    ) -> None:
        index = record["index"]
        defective = int(self.data.y_test[index] == -1)
        path, kind = record.pop("path", None), self.data.kinds_test[index]
        verdict = {k: v for k, v in record.items() if k != "index"}
        self.records.append(
            {"index": index, "path": path, "kind": kind, "y_true": defective, **verdict}
        )
        if "error" in record:
            return
        if anomaly_map is not None and self.data.masks_test[index] is not None:
            pixels.add(anomaly_map, read_mask(self.data.masks_test[index], anomaly_map.shape))
        wrong = (record["threshold"] - record["score"]) * (1 if defective else -1)
        heapq.heappush(self._worst, (wrong, -index, anomaly_map))
        if len(self._worst) > self.n_overlays:
            heapq.heappop(self._worst)

    def _make_report(self, pixels: PixelAUROC, fit_seconds: float, test_seconds: float) -> None:
        judged = [r for r in self.records if "error" not in r]
        if not judged:
            errors = [r["error"] for r in self.records]
            raise TooFewImagesError(
                f"{self.name}: none of the {len(errors)} test images could be judged"
                + (f"; the first: {errors[0]}" if errors else ".")
            )
        scores = np.array([r["score"] for r in judged])
        y = np.array([-1 if r["y_true"] else 1 for r in judged])
        flagged = np.array([r["pred"] for r in judged], dtype=bool)
        kinds = np.array([r["kind"] for r in judged])
        self.report = {
            "category": self.name,
            "n_train": int(np.sum(np.asarray(self.data.y_train) == 1)),
            "n_test_good": int((y == 1).sum()),
            "n_test_defect": int((y == -1).sum()),
            "n_errors": len(self.records) - len(judged),
            "image": image_metrics(scores, y),
            "pixel": {
                "auroc": pixels.value(),
                "n_pixels": pixels.n_pixels,
                "exact": pixels.exact,
                "n_images_without_mask": sum(m is None for m in self.data.masks_test),
            },
            "false_positive_rate": rate(int(flagged[y == 1].sum()), int((y == 1).sum())),
            "true_positive_rate": rate(int(flagged[y == -1].sum()), int((y == -1).sum())),
            "kinds": {
                kind: rate(int(flagged[kinds == kind].sum()), int((kinds == kind).sum()))
                for kind in sorted(set(kinds[y == -1].tolist()))
            },
            "threshold": dict(self.pipeline[-1].provenance_),
            "seconds": {"fit": fit_seconds, "test": test_seconds},
            "ms_per_image": 1000.0 * test_seconds / len(self.records),
        }

    def write(self, folder: CategoryDirectory, save_pipeline: bool) -> None:
        folder.write_per_image(self.records)
        self._write_overlays(folder)
        if save_pipeline:
            save(self.pipeline, folder.pipeline)
        folder.write_report(self.report)

    def _write_overlays(self, folder: CategoryDirectory) -> None:
        calibrator = self.pipeline[-1]
        limits = heat_range(calibrator.calibration_scores_, calibrator.threshold_)
        for rank, (_, negative, anomaly_map) in enumerate(sorted(self._worst, reverse=True)):
            if anomaly_map is None:
                continue
            record = self.records[-negative]
            mask = self.data.masks_test[record["index"]]
            verdict = _VERDICTS[record["y_true"], record["pred"]]
            caption = (
                f"{record['kind']}: {verdict}\n"
                f"score {record['score']:.4g}, threshold {record['threshold']:.4g}\n"
                f"{record['path'] or 'test image ' + str(record['index'])}"
            )
            one = _safe_indexing(self.data.X_test, [record["index"]])
            picture = overlay(
                check_images(self.pipeline[0].transform(one))[0],
                anomaly_map,
                limits,
                caption,
                mask=None if mask is None else read_mask(mask, anomaly_map.shape),
            )
            name = f"{record['index']:03d}" if record["path"] is None else Path(record["path"]).stem
            target = folder.overlay(rank + 1, verdict.replace(" ", "-"), record["kind"], name)
            write_overlay(target, picture)


_VERDICTS = {(0, 0): "passed", (0, 1): "false alarm", (1, 0): "missed", (1, 1): "found"}


# ---- all categories -------------------------------------------------------------------
def _summary(
    dataset: str, model: str, categories: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    rows = {name: _row(report) for name, report in categories.items()}
    mean = {}
    for column in ("image_auroc", "average_precision", "pixel_auroc", "false_positive_rate",
                   "true_positive_rate", "fit_seconds", "ms_per_image"):  # fmt: skip
        values = [row[column] for row in rows.values() if row[column] is not None]
        mean[column] = float(np.mean(values)) if values else None
    return {
        "dataset": dataset,
        "model": model,
        "pyimgano": __version__,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "categories": rows,
        "mean": mean,
    }


def _row(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "n_train": report["n_train"],
        "n_test_good": report["n_test_good"],
        "n_test_defect": report["n_test_defect"],
        "n_errors": report["n_errors"],
        "image_auroc": report["image"]["auroc"],
        "average_precision": report["image"]["average_precision"],
        "pixel_auroc": report["pixel"]["auroc"],
        "false_positive_rate": report["false_positive_rate"]["value"],
        "true_positive_rate": report["true_positive_rate"]["value"],
        "fit_seconds": report["seconds"]["fit"],
        "ms_per_image": report["ms_per_image"],
    }
