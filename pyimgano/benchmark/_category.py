"""One category of a benchmark: fit, judge, measure, write."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import _num_samples

from pyimgano import _defaults
from pyimgano._any_estimator import image_paths
from pyimgano._nesting import find_calibrator, find_defects, first_step, makes_maps
from pyimgano.benchmark._fitting import fit, put_pixel_threshold, uses_validation
from pyimgano.benchmark._pictures import PictureChoice
from pyimgano.benchmark._records import Verdicts
from pyimgano.benchmark._run_dir import SCHEMA_VERSION, CategoryDirectory
from pyimgano.benchmark._split import InputNames, fingerprint
from pyimgano.benchmark._synthetic_defects import ImagesWithDefects
from pyimgano.benchmark._test_masks import TestMasks
from pyimgano.evaluation import (
    AUPIMO,
    AUPRO,
    SPRO,
    OracleSegmentationF1,
    PixelAUROC,
    PixelAveragePrecision,
    PixelMetric,
    PixelMetrics,
    SegmentationF1,
    image_metrics,
    rate,
    threshold_metrics,
)
from pyimgano.evaluation._score_draws import image_intervals
from pyimgano.exceptions import ImageFormatError, ImageReadError, TooFewImagesError
from pyimgano.inference import iter_infer
from pyimgano.inputs import ImageFormatNormalizer, check_images
from pyimgano.inputs._formats import resize_image
from pyimgano.inputs._sequence import KeptImages
from pyimgano.persistence import save
from pyimgano.reporting import map_range, overlay, write_overlay
from pyimgano.utils._outputs import is_out_of_room
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._stopwatch import Stopwatch

__all__ = [
    "CategoryOptions",
    "CategoryOutcome",
    "Judged",
    "draw_pictures",
    "judge",
    "measure",
    "run_category",
]

_ROLES = {
    "worst": "the one judged worst",
    "best": "the one judged best",
    "closest": "the closest to the threshold",
}
# Pixels without a defect up to which pixel metrics are exact: 180 images of 256 x 256, in 48 MB.
_MAX_EXACT = 12_000_000
# By truth, None without a label, and verdict.
_VERDICTS: dict[tuple[int | None, int], str] = {
    (0, 0): "passed",
    (0, 1): "false alarm",
    (1, 0): "missed",
    (1, 1): "found",
    (None, 0): "judged good",
    (None, 1): "judged anomalous",
}


@dataclass(frozen=True)
class CategoryOptions:
    """Options that hold for all categories of a run.

    Parameters
    ----------
    dataset : str
        Name of the dataset.
    pipeline : mapping
        What reports say of the pipeline: ``file``, ``sha256`` and ``estimator``.
    batch_size : int
        Test images held at a time.
    n_overlays : int
        Largest number of pictures of test images.
    save_pipeline : bool
        Save the fitted pipeline.
    save_records : bool
        Write the records of the test images.
    progress : bool
        Show progress bars.
    embed_weights : bool, default=False
        Save the weights of networks with the pipeline.
    """

    dataset: str
    pipeline: Mapping[str, str | None]
    batch_size: int
    n_overlays: int
    save_pipeline: bool
    save_records: bool
    progress: bool
    embed_weights: bool = False


def _pixel_metrics(threshold: float | None = None) -> PixelMetrics:
    metrics: dict[str, PixelMetric] = {
        "auroc": PixelAUROC(),
        "average_precision": PixelAveragePrecision(),
        "aupro": AUPRO(),
        "aupro_0.05": AUPRO(limit=0.05),
        "aupimo": AUPIMO(),
        "oracle_f1_max": OracleSegmentationF1(),
    }
    if threshold is not None:
        metrics["f1"] = SegmentationF1(threshold)
    return PixelMetrics(metrics, max_exact=_MAX_EXACT)


@dataclass
class Judged:
    """Results for the test images.

    Parameters
    ----------
    verdicts : Verdicts
        On the test images.
    pixels : PixelMetrics
        Over the images with a mask.
    saturated : dict of str to SPRO
        By kind of defect, over its images and all good ones; empty where defects have no
        saturation areas.
    pictures : PictureChoice
        The images to draw.
    seconds, compile_seconds : float
        Time it took, and what numba spent on compiling besides.
    """

    verdicts: Verdicts
    pixels: PixelMetrics = field(default_factory=_pixel_metrics)
    saturated: dict[str, SPRO] = field(default_factory=dict)
    pictures: PictureChoice = field(default_factory=lambda: PictureChoice(0))
    seconds: float = 0.0
    compile_seconds: float = 0.0


@dataclass
class CategoryOutcome:
    """A finished category.

    Parameters
    ----------
    report : dict
        The content of its ``report.json``.
    records : list of dict or None
        One per test image; None if they were written.
    pipeline : Pipeline
        Fitted.
    """

    report: dict[str, Any]
    records: list[dict[str, Any]] | None
    pipeline: Pipeline


def run_category(
    name: str,
    data: Bunch,
    names: InputNames,
    pipeline: Pipeline,
    options: CategoryOptions,
    folder: CategoryDirectory | None,
    fit_params: Mapping[str, Any] | None = None,
) -> CategoryOutcome:
    """Fit, judge and measure one category, and write what came out.

    Parameters
    ----------
    name : str
        Name of the category.
    data : Bunch
        A dataset, as :func:`~pyimgano.datasets.load_folder` returns it. There may be no test
        images; the report then has no figures.
    names : InputNames
        Of the images of ``data``.
    pipeline : Pipeline
        Not fitted; ends in a ``ThresholdCalibrator``, or a ``PixelThresholdCalibrator`` of one.
    options : CategoryOptions
    folder : CategoryDirectory or None
        Where to write. The fitted pipeline is saved there before anything is judged.
    fit_params : mapping, default=None
        As for :func:`fit`.

    Returns
    -------
    CategoryOutcome
        Pictures that cannot be drawn are a note in the report, ``overlay_error``.
    """
    _check_format(pipeline, data)
    masks = TestMasks(data)
    with progress_callback(f"{name}: masks", options.progress):
        masks.check()
    if masks.left_out:
        first = next(iter(masks.left_out.values()))
        warnings.warn(
            f"{name}: {len(masks.left_out)} test images are left out of the pixel metrics, since "
            f"their masks cannot be used; the first: {first}",
            stacklevel=3,
        )
    with progress_callback(f"{name}: fingerprint of the images", options.progress):
        split = fingerprint(data)
    part = "validation" if uses_validation(find_calibrator(pipeline), data) else "train"
    unfitted = clone(pipeline)
    fitted = fit(pipeline, data, fit_params)
    limits = None
    if folder is not None and (options.save_pipeline or options.n_overlays):
        with progress_callback(f"{name}: color scale of maps", options.progress):
            limits = _color_scale(pipeline, data)
    if folder is not None and options.save_pipeline:
        with progress_callback(f"{name}: saving the pipeline", options.progress):
            save(
                pipeline,
                folder.pipeline,
                map_range=limits,
                embed_weights=options.embed_weights,
            )
    with (
        Stopwatch() as pixel_watch,
        progress_callback(f"{name}: pixel threshold", options.progress),
    ):
        at_pixels = put_pixel_threshold(pipeline, unfitted, data)
    records: list[dict[str, Any]] | None = None
    writing: AbstractContextManager[Any]
    if folder is not None and options.save_records and len(data.y_test):
        writing = folder.writing_per_image()
    else:
        records = []
        writing = nullcontext(records.append)
    with writing as write:
        verdicts = Verdicts(write, find_calibrator(pipeline).threshold_)
        judged = judge(name, data, names, pipeline, masks, options, verdicts, at_pixels.threshold)
    with progress_callback(f"{name}: metrics", options.progress):
        measured = measure(name, data, names, judged, masks)
    measured["pixel"]["threshold"] = {
        "value": at_pixels.threshold,
        "part": at_pixels.part,
        "n_images": at_pixels.n_images,
        "false_positive_rate": at_pixels.rate,
        "reason": at_pixels.reason,
    }
    own = find_defects(pipeline)
    if own is not None:
        measured["defects"] = {
            "threshold": names.shorten(own.pixel_provenance_),
            **_images_with_defects(judged.verdicts),
        }
    report = {
        "schema_version": SCHEMA_VERSION,
        "dataset": options.dataset,
        "category": name,
        "pipeline": dict(options.pipeline),
        "split": split,
        "synthetic_defects": data.get("synthetic_defects"),
        **measured,
        "threshold": {**names.shorten(find_calibrator(pipeline).provenance_), "part": part},
        "map_range": None if limits is None else list(limits),
        "overlay_error": None,
        "times": {
            "fit_seconds": fitted.seconds,
            "pixel_threshold_seconds": pixel_watch.seconds,
            "test_seconds": judged.seconds,
            "compile_seconds": (
                fitted.compile_seconds + pixel_watch.compile_seconds + judged.compile_seconds
            ),
            "ms_per_image": 1000.0 * judged.seconds / max(1, judged.verdicts.n_images),
        },
    }
    if folder is not None:
        try:
            with progress_callback(f"{name}: pictures", options.progress):
                draw_pictures(folder, data, pipeline, judged, masks, limits)
        except Exception as error:  # whatever it is, all else is all right
            if is_out_of_room(error):
                raise
            report["overlay_error"] = names.shorten(f"{type(error).__name__}: {error}")
        folder.write_report(report)
    return CategoryOutcome(report, records, pipeline)


def _check_format(pipeline: Pipeline, data: Bunch) -> None:
    """Refuse images in memory where the pipeline expects others than those of datasets."""
    first = first_step(pipeline)
    declared = getattr(first, "input_format", _defaults.INPUT_FORMAT)
    painted = isinstance(data.X_test, ImagesWithDefects)
    in_memory = painted or image_paths(data.X_train)[0] is None
    if in_memory and declared != _defaults.INPUT_FORMAT:
        raise ImageFormatError(
            f"the pipeline takes images in memory as input_format={declared!r}, and those of "
            f"datasets, and painted ones, are {_defaults.INPUT_FORMAT!r}: write them to files "
            "(pyimgano.datasets.write_inspection_dataset), which say their own format, or give "
            "the pipeline with that input_format."
        )


def _color_scale(pipeline: Pipeline, data: Bunch) -> tuple[float, float] | None:
    if not makes_maps(pipeline):
        return None
    good = np.flatnonzero(np.asarray(data.y_train) == 1)
    return map_range(pipeline, _safe_indexing(data.X_train, good))


def judge(
    name: str,
    data: Bunch,
    names: InputNames,
    pipeline: Pipeline,
    masks: TestMasks,
    options: CategoryOptions,
    verdicts: Verdicts,
    threshold: float | None,
) -> Judged:
    """Judge the test images, one at a time.

    Parameters
    ----------
    name : str
        Name of the category.
    data : Bunch
    names : InputNames
    pipeline : Pipeline
        Fitted.
    masks : TestMasks
    options : CategoryOptions
    verdicts : Verdicts
        Takes the record of each image.
    threshold : float or None
        Of the pixels of maps.

    Returns
    -------
    Judged
    """
    judged = Judged(
        verdicts, pixels=_pixel_metrics(threshold), pictures=PictureChoice(options.n_overlays)
    )
    n_test = len(data.y_test)
    if not n_test:
        return judged
    if data.get("defect_types"):
        defective = np.asarray(data.y_test) == -1
        kinds = sorted({kind for kind, bad in zip(data.kinds_test, defective) if bad})
        judged.saturated = {kind: SPRO() for kind in kinds}
    kept = KeptImages.of(data.X_test) if options.n_overlays else None
    images = data.X_test if kept is None else kept
    results = iter_infer(
        pipeline,
        images,
        return_maps=True,
        return_defects=find_defects(pipeline) is not None,
        on_error="record",
        batch_size=options.batch_size,
    )
    label = f"{name}: test images"
    with Stopwatch() as watch, progress_callback(label, options.progress) as progress:
        for result in results:
            record, index = result.to_dict(), result.index
            path, error = record.pop("path", None), record.pop("error", None)
            image = kept.take(path) if kept is not None else None
            if error is not None:
                record["error"] = names.shorten(error)
            record = {
                "schema_version": SCHEMA_VERSION,
                "index": index,
                "dataset": options.dataset,
                "category": name,
                "input": names.name(path, _name_in_records(data.X_test, index)),
                "kind": data.kinds_test[index],
                "y_true": {1: 0, -1: 1, 0: None}[int(data.y_test[index])],
                **record,
            }
            verdicts.add(record)
            if error is None and result.anomaly_map is not None:
                _take(judged, record, result.anomaly_map, image, masks)
            if progress is not None:
                progress(index + 1, n_test)
    judged.seconds, judged.compile_seconds = watch.seconds, watch.compile_seconds
    return judged


def _name_in_records(images: Any, i: int) -> str:
    """Name of a test image that is no file."""
    painted = images.input_name(i) if isinstance(images, ImagesWithDefects) else None
    return painted or f"test[{i}]"


def _take(
    judged: Judged,
    record: Mapping[str, Any],
    anomaly_map: np.ndarray,
    image: np.ndarray | None,
    masks: TestMasks,
) -> None:
    """Add the map of an image."""
    index, defective, kind = (record[key] for key in ("index", "y_true", "kind"))
    found = masks.defects(index)
    if found is not None:
        # A pipeline that resizes images has maps of that size; the mask is of the image's.
        anomaly_map = resize_image(anomaly_map, found[0].mask.shape)
        judged.pixels.update(anomaly_map, found)
        for its_kind, metric in judged.saturated.items():
            if defective == 0 or kind == its_kind:
                metric.update(anomaly_map, found)
    wrong = (record["threshold"] - record["score"]) * (1 if defective else -1)
    judged.pictures.add(kind, wrong, index, anomaly_map, image, record)


def measure(
    name: str, data: Bunch, names: InputNames, judged: Judged, masks: TestMasks
) -> dict[str, Any]:
    """Compute what the report of a category says about its test images.

    Parameters
    ----------
    name : str
    data : Bunch
    names : InputNames
    judged : Judged
    masks : TestMasks

    Returns
    -------
    dict
        In plain JSON types.

    Raises
    ------
    TooFewImagesError
        If no test image could be judged.
    """
    verdicts = judged.verdicts
    scores, y, flagged = verdicts.scores, verdicts.y, verdicts.flagged
    if not len(scores) and verdicts.n_images:
        raise TooFewImagesError(
            f"{name}: none of the {verdicts.n_errors} test images could be judged"
            + (f"; the first: {verdicts.first_error}" if verdicts.first_error else ".")
        )
    threshold, unlabeled = verdicts.threshold, y == 0
    n_unlabeled, n_unlabeled_anomalous = int(unlabeled.sum()), int(flagged[unlabeled].sum())
    scores, y, flagged, kinds = (
        column[~unlabeled] for column in (scores, y, flagged, verdicts.kinds)
    )
    paths = image_paths(data.X_test)
    validation = data.get("X_validation")
    return {
        "n_train": int(np.sum(np.asarray(data.y_train) == 1)),
        "n_validation": 0 if validation is None else _num_samples(validation),
        "n_test_good": int((y == 1).sum()),
        "n_test_defect": int((y == -1).sum()),
        "n_test_unlabeled": n_unlabeled,
        "n_unlabeled_anomalous": n_unlabeled_anomalous,
        "n_errors": verdicts.n_errors,
        "image": {
            **image_metrics(scores, y),
            **threshold_metrics(scores, y, threshold),
            "interval_95": image_intervals(scores, y, threshold),
        },
        "pixel": {
            **_pixel_values(judged),
            "n_pixels": judged.pixels.n_pixels,
            "exact": judged.pixels.exact,
            "n_images_without_mask": sum(
                mask is None and label == -1 for mask, label in zip(data.masks_test, data.y_test)
            ),
            "masks_left_out": [
                {
                    "index": i,
                    "input": names.name(paths[i], _name_in_records(data.X_test, i)),
                    "reason": names.shorten(reason),
                }
                for i, reason in sorted(masks.left_out.items())
            ],
        },
        "false_positive_rate": rate(int(flagged[y == 1].sum()), int((y == 1).sum())),
        "true_positive_rate": rate(int(flagged[y == -1].sum()), int((y == -1).sum())),
        "kinds": _kinds(kinds, scores, y, flagged),
    }


def _kinds(
    kinds: np.ndarray, scores: np.ndarray, y: np.ndarray, flagged: np.ndarray
) -> dict[str, Any]:
    """For each kind of defect how many were found, and its AUROC against all good images."""
    found = {}
    for kind in sorted(set(kinds[y == -1].tolist())):
        own = (kinds == kind) & (y == -1)
        chosen = own | (y == 1)
        auroc = image_metrics(scores[chosen], y[chosen])["auroc"]
        found[kind] = {**rate(int(flagged[own].sum()), int(own.sum())), "auroc": auroc}
    return found


def _images_with_defects(verdicts: Verdicts) -> dict[str, Any]:
    """Count the good and defective images that show a defect, whatever the verdict on them."""
    shown = verdicts.with_defects
    return {
        what: rate(int(shown[verdicts.y == label].sum()), int((verdicts.y == label).sum()))
        for what, label in (("good_images", 1), ("defective_images", -1))
    }


def _pixel_values(judged: Judged) -> dict[str, Any]:
    """Values of all pixel metrics and their intervals; None where one is not defined."""
    values, intervals = {}, {}
    for name in judged.pixels:
        values[name], intervals[name] = _value_and_interval(judged.pixels[name])
    by_kind, found = {}, []
    for kind, metric in judged.saturated.items():
        value, interval = _value_and_interval(metric)
        by_kind[kind] = {"value": value, "interval_95": interval}
        if value is not None:
            found.append(value)
    # The headline figure of MVTec LOCO AD is the mean of its two kinds.
    spro = float(np.mean(found)) if found and len(found) == len(by_kind) else None
    f1 = judged.pixels["f1"] if "f1" in values else None
    at_threshold = dict.fromkeys(("f1", "precision", "recall", "iou"))
    if isinstance(f1, SegmentationF1):
        at_threshold = f1.at_threshold()
    return {
        **values,
        **at_threshold,
        "spro_0.05": spro,
        "spro_0.05_by_kind": by_kind,
        "interval_95": {"f1": None, **intervals},
    }


def _value_and_interval(metric: PixelMetric) -> tuple[float | None, list[float] | None]:
    if isinstance(metric, AUPIMO) and not metric.has_enough_pixels:
        return None, None  # its value would depend on single pixels
    value = metric.compute()
    return value, None if value is None else list(metric.bootstrap_interval())


def draw_pictures(
    folder: CategoryDirectory | None,
    data: Bunch,
    pipeline: Pipeline,
    judged: Judged,
    masks: TestMasks,
    limits: tuple[float, float] | None,
) -> None:
    """Write pictures of the images that were chosen.

    Parameters
    ----------
    folder : CategoryDirectory or None
        None draws nothing.
    data : Bunch
    pipeline : Pipeline
        Fitted.
    judged : Judged
    masks : TestMasks
    limits : (float, float) or None
        Map values of the cold and the hot end of the colors.
    """
    if folder is None or limits is None:
        return
    for rank, (role, chosen) in enumerate(judged.pictures.chosen(), start=1):
        record, image = chosen.record, chosen.image
        verdict = _VERDICTS[record["y_true"], record["pred"]]
        truth = "not labeled" if record["y_true"] is None else f"in truth {record['kind']}"
        caption = f"{verdict}: {truth}, {_ROLES[role]} of this kind\n{record['input']}"
        try:
            if image is None:  # it is in memory, or a cache has answered for its file
                one = _safe_indexing(data.X_test, [record["index"]])
                first = first_step(pipeline)
                if isinstance(first, ImageFormatNormalizer):
                    one = first.transform(one)
                image = check_images(one)[0]
            mask = masks.read(record["index"])
        except ImageReadError as error:  # it was there when it was judged
            warnings.warn(f"no picture of it is drawn: {error}", stacklevel=3)
            continue
        picture = overlay(
            image,
            chosen.anomaly_map,
            limits,
            caption,
            mask=mask,
            score=record["score"],
            threshold=record["threshold"],
            good_scores=find_calibrator(pipeline).calibration_scores_,
        )
        name = Path(record["input"]).stem
        target = folder.overlay(rank, verdict.replace(" ", "-"), record["kind"], role, name)
        write_overlay(target, picture)
