"""One category of a benchmark: fit, judge, measure, write."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, _safe_indexing
from sklearn.utils.validation import _num_samples

from pyimgano import _defaults
from pyimgano._any_estimator import image_paths
from pyimgano._nesting import find_calibrator, find_defects, first_step, makes_maps
from pyimgano.benchmark._pictures import PictureChoice
from pyimgano.benchmark._records import Verdicts
from pyimgano.benchmark._run_dir import SCHEMA_VERSION, CategoryDirectory
from pyimgano.benchmark._split import InputNames, fingerprint
from pyimgano.benchmark._synthetic_defects import ImagesWithDefects
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.calibration._held_out_maps import hold_out, maps_in_image_pixels
from pyimgano.datasets import Defect, read_mask
from pyimgano.datasets._record import read_defects
from pyimgano.detectors import BaseTrainedDetector
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
    pixel_threshold,
    rate,
    threshold_metrics,
)
from pyimgano.evaluation._score_draws import image_intervals
from pyimgano.exceptions import DatasetError, ImageFormatError, ImageReadError, TooFewImagesError
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
    "PixelThreshold",
    "TestMasks",
    "draw_pictures",
    "fit",
    "judge",
    "measure",
    "put_pixel_threshold",
    "run_category",
]

_ROLES = {
    "worst": "the one judged worst",
    "best": "the one judged best",
    "closest": "the closest to the threshold",
}
# Share of the pixels of good images that may lie above the pixel threshold.
_PIXEL_RATE = 0.001
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


class PixelThreshold(NamedTuple):
    """A threshold on anomaly maps, and where it comes from.

    Parameters
    ----------
    threshold : float or None
        Largest value of a pixel that is judged good; None where there is none.
    part : str
        The good images it was put on: ``"validation"``, or ``"train"`` for training images that
        were held out from a copy of the model.
    n_images : int
        Their number.
    reason : str or None
        Why there is no threshold.
    rate : float or None, default=0.001
        Share of the pixels of good images that may lie above it; None if it is the pipeline's
        own, which counts images with a region.
    """

    threshold: float | None
    part: str
    n_images: int = 0
    reason: str | None = None
    rate: float | None = _PIXEL_RATE


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


class TestMasks:
    """The masks of a test set, and which of them cannot be used.

    A mask that is missing, damaged, all black, all defective or of another size than its image,
    or that has values which no type of defect has, leaves that image out of the pixel metrics. It
    does not end a run.

    Parameters
    ----------
    data : Bunch
        With ``X_test``, ``masks_test``, ``kinds_test`` and, where masks tell types of defects
        apart, ``defect_types``.

    Attributes
    ----------
    left_out : dict of int to str
        By index of the test image, why its mask cannot be used.
    """

    __test__ = False  # no test class

    def __init__(self, data: Bunch) -> None:
        self._images, self._items, self._kinds = data.X_test, data.masks_test, data.kinds_test
        self._types = data.get("defect_types", ())
        self.left_out: dict[int, str] = {}

    def check(self) -> None:
        """Read all masks once, so that what is wrong is known before the fit."""
        for i, item in enumerate(self._items):
            if not isinstance(item, (str, Path, tuple, np.ndarray)):
                continue
            # An image that cannot be read has a record that says so.
            with suppress(ImageReadError, ImageFormatError):
                self.read(i)

    def image_size(self, i: int) -> tuple[int, int]:
        """Return height and width of test image ``i``; of a file only the header is read.

        Parameters
        ----------
        i : int

        Returns
        -------
        height, width : int
        """
        if hasattr(self._images, "size") and callable(self._images.size):
            return self._images.size(i)
        one = _safe_indexing(self._images, [i])
        if isinstance(one[0], np.ndarray):
            height, width = one[0].shape[:2]
            return height, width
        return check_images(one).size(0)

    def read(self, i: int) -> np.ndarray | None:
        """Read the mask of test image ``i``.

        Parameters
        ----------
        i : int

        Returns
        -------
        ndarray of shape (height, width), uint8, or None
            As from :meth:`defects`, all in one.
        """
        defects = self.defects(i)
        return None if defects is None else np.maximum.reduce([one.mask for one in defects])

    def defects(self, i: int) -> list[Defect] | None:
        """Read the defects of test image ``i``.

        Parameters
        ----------
        i : int

        Returns
        -------
        list of Defect, or None
            With masks in the pixels of the image. One for each mask where these tell types of
            defects apart, else one with the union of all; of a good image one with an empty
            mask. None where there is no mask to be used.

        Raises
        ------
        ImageReadError
            If it is the image that cannot be read.
        """
        item, kind = self._items[i], self._kinds[i]
        if item is None or i in self.left_out:
            return None
        size = self.image_size(i)
        try:
            if self._types and isinstance(item, (str, Path, tuple)):
                paths = item if isinstance(item, tuple) else (item,)
                return read_defects([str(path) for path in paths], size, kind, self._types)
            mask = read_mask(item, size)
        except (DatasetError, ImageReadError, ImageFormatError) as error:
            self.left_out[i] = str(error)
            return None
        return [Defect(kind, mask, int(mask.sum()))]


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


def fit(pipeline: Pipeline, data: Bunch, fit_params: Mapping[str, Any] | None = None) -> Stopwatch:
    """Fit on the good training images, and put the threshold; return the time it took.

    The threshold comes from the validation images where there are any, and else from
    out-of-sample scores of the training images. So does that of pixels, if the pipeline has one.
    A detector that is fitted already and has ``warm_start=True`` goes on with its networks.

    Parameters
    ----------
    pipeline : Pipeline
        Ends in a ``ThresholdCalibrator``, or in a ``PixelThresholdCalibrator`` of one.
    data : Bunch
        With ``X_train``, ``y_train`` and, where there are validation images, ``X_validation``.
    fit_params : mapping, default=None
        Further arguments for ``fit`` of the detector, such as ``roi_mask``.

    Returns
    -------
    Stopwatch
    """
    name, last = pipeline.steps[-1]
    calibrator = find_calibrator(last)
    params = dict(fit_params or {})
    with Stopwatch() as watch:
        if not uses_validation(calibrator, data) and not _goes_on(calibrator.estimator):
            routed = {f"{name}__{key}": value for key, value in params.items()}
            pipeline.fit(data.X_train, data.y_train, **routed)
            return watch
        train, validation = data.X_train, data.get("X_validation")
        # The steps stay as the training images leave them: the detector has seen only that.
        before = pipeline[:-1] if len(pipeline) > 1 else None
        if before is not None:
            train = before.fit_transform(train, data.y_train)
        if calibrator.estimator is not None:
            model = calibrator.estimator
            model = deepcopy(model) if _goes_on(model) else clone(model)
            fitted = model.fit(train, data.y_train, **params)
            if validation is None:  # the networks have not been trained on those it held out
                good = np.flatnonzero(np.asarray(data.y_train) == 1)
                validation = _safe_indexing(data.X_train, good[fitted.held_out_])
            # Frozen, so that the fitted model is not kept twice.
            calibrator.set_params(estimator=FrozenEstimator(fitted), cv="prefit")
        last.fit(validation if before is None else before.transform(validation))
    return watch


def _goes_on(model: Any) -> bool:
    """Tell whether a model is fitted and goes on with what it has learned when it is fitted."""
    return (
        isinstance(model, BaseTrainedDetector) and model.warm_start and hasattr(model, "networks_")
    )


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


def uses_validation(calibrator: ThresholdCalibrator, data: Bunch) -> bool:
    """Tell whether the threshold comes from validation images.

    A calibrator that was told where its scores come from, by ``cv`` or ``ensemble=True``, does
    as it was told.

    Parameters
    ----------
    calibrator : ThresholdCalibrator
    data : Bunch

    Returns
    -------
    bool
    """
    told = isinstance(calibrator.estimator, FrozenEstimator) or calibrator.ensemble is True
    automatic = isinstance(calibrator.cv, str) and calibrator.cv == "auto"
    return data.get("X_validation") is not None and automatic and not told


def put_pixel_threshold(pipeline: Pipeline, unfitted: Pipeline, data: Bunch) -> PixelThreshold:
    """Put a threshold on anomaly maps, by good images that the model has not seen.

    They are the validation images where these put the threshold of the scores, too. Otherwise a
    copy of the model is fitted without some of the training images, and has the maps of these:
    those of training images differ from maps of new ones. A pipeline that has a threshold of
    pixels keeps its own.

    Parameters
    ----------
    pipeline, unfitted : Pipeline
        Fitted, and as it was before.
    data : Bunch

    Returns
    -------
    PixelThreshold
    """
    validated = uses_validation(find_calibrator(unfitted), data)
    part = "validation" if validated else "train"
    own = find_defects(pipeline)
    if own is not None:
        n_images = own.pixel_provenance_["n_images"]
        return PixelThreshold(own.pixel_threshold_, part, n_images, rate=None)
    if not len(data.y_test):
        return PixelThreshold(None, part, reason="there are no test images")
    if not makes_maps(pipeline):
        return PixelThreshold(None, part, reason="the model makes no anomaly maps")
    if validated:
        model, images = pipeline, data.X_validation
    else:
        good = np.flatnonzero(np.asarray(data.y_train) == 1)
        try:
            model, images = hold_out(
                _without_calibrator(unfitted), _safe_indexing(data.X_train, good)
            )
        except TooFewImagesError as error:
            return PixelThreshold(None, part, reason=str(error))
    maps = maps_in_image_pixels(model, images)
    threshold = pixel_threshold(maps, false_positive_rate=_PIXEL_RATE)
    return PixelThreshold(threshold, part, _num_samples(images))


def _without_calibrator(pipeline: Pipeline) -> Pipeline:
    *before, (name, calibrator) = pipeline.steps
    inner = [] if calibrator.estimator is None else [(name, calibrator.estimator)]
    return Pipeline([*before, *inner])


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
