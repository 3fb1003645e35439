"""Verdicts on new images from any fitted detector.

:func:`infer` judges images and returns a list of :class:`InferenceResult`; :func:`iter_infer` does
so one image at a time, for more images than fit into memory and for streams without an end.
:func:`calibrate_threshold` puts the threshold. The other functions give scores, maps, and the
threshold alone, all of them higher for anomalies. Every function finds the detector inside
pipelines, calibrators, and searches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Callable

import numpy as np
from PIL import Image
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from pyimgano import _defaults
from pyimgano._any_estimator import (
    Scored,
    anomaly_map,
    anomaly_scores,
    image_paths,
    iter_scores,
    score_with_maps,
    threshold,
)
from pyimgano._any_estimator import (
    score as score,  # deprecated
)
from pyimgano._decision import as_labels, is_anomalous
from pyimgano._nesting import find_calibrator, find_defects, find_parts, first_step
from pyimgano.base import ScoredBlock
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.defects import DefectRegion
from pyimgano.exceptions import ImageFormatError
from pyimgano.inputs import ImageFormat, ImageFormatNormalizer, ImageSequence
from pyimgano.inputs._containers import counted_from, first_index, is_path
from pyimgano.inputs._formats import DECLARED, check_format, is_torch_tensor
from pyimgano.inputs._reading import read_size
from pyimgano.utils._stages import timed

__all__ = [
    "InferenceResult",
    "Scored",
    "anomaly_map",
    "anomaly_scores",
    "calibrate_threshold",
    "infer",
    "iter_infer",
    "iter_scores",
    "score_with_maps",
    "threshold",
]

_threshold_of = threshold  # which is also the name of a parameter


@dataclass(frozen=True, eq=False)
class InferenceResult:
    """Verdict on one image.

    Parameters
    ----------
    index : int
        Position of the image in the input, from 0.
    path : str or None
        The file; None for an image in memory.
    score : float or None
        Anomaly score, higher = more anomalous; None if the image could not be scored.
    threshold : float or None
        Score above which an image is anomalous; None if this one could not be scored.
    label : int or None
        As from ``predict``: +1 for normal, -1 for anomalous; None if the image could not be
        scored.
    p_value : float or None
        Share of good images that score as high; only where a
        :class:`~pyimgano.calibration.ThresholdCalibrator` knows their scores.
    anomaly_map : ndarray of shape (height, width), float32, or None
        Higher = more anomalous; only where maps were asked for and the detector makes any.
    defects : list of DefectRegion, or None
        Regions of the map, empty if there is none; None unless they were asked for. They are in
        pixels of the map; where the pipeline resizes images, in an
        :class:`~pyimgano.inputs.ImageFormatNormalizer`, also in pixels of the image.
    error : str or None
        Reason why the image could not be scored.
    """

    index: int
    path: str | None = None
    score: float | None = None
    threshold: float | None = None
    label: int | None = None
    p_value: float | None = None
    anomaly_map: np.ndarray | None = field(default=None, repr=False)
    defects: list[DefectRegion] | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the record of the image, in plain JSON types.

        This is a line of the files that ``pyimgano infer --save-jsonl`` writes.

        Returns
        -------
        dict
            ``index``, ``path`` (for files), and either ``score``, ``threshold``, ``pred``
            (1 = anomalous, 0 = normal), ``p_value`` for a calibrated estimator, and
            ``defects`` where they were asked for; or ``error``. The map is left out.
        """
        record: dict[str, Any] = {"index": self.index}
        if self.path is not None:
            record["path"] = self.path
        if self.error is not None:
            return {**record, "error": self.error}
        record.update(score=self.score, threshold=self.threshold, pred=int(self.label == -1))
        if self.p_value is not None:
            record["p_value"] = self.p_value
        if self.defects is not None:
            record["defects"] = [region.to_dict() for region in self.defects]
        return record


def infer(
    estimator: Any,
    images: Any,
    *,
    input_format: str | ImageFormat | None = None,
    return_maps: bool = False,
    return_defects: bool = False,
    on_error: str = "raise",
    batch_size: int = 8,
    threshold: float | None = None,
) -> list[InferenceResult]:
    """Judge images.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector with ``score_samples`` and ``offset_``, or a nesting of such.
    images : paths, arrays, tensors, PIL images, one of them, or an iterator over them
        Paths of image files; images in memory in one array or tensor of shape (n, ...) or in a
        list; PIL images; an :class:`~pyimgano.inputs.ImageSequence`; or any other input of the
        estimator. A single path, PIL image, array or tensor is one image: a uint8 array of shape
        (height, width, 3) is one frame, not ``height`` rows. An iterator, such as a generator
        over the frames of a video, is read to its end.
    input_format : str, default=None
        Format of images in arrays and tensors, see :class:`~pyimgano.inputs.ImageFormat`:
        ``"bgr_u8_hwc"`` for frames of OpenCV. None takes the one that the estimator's own
        :class:`~pyimgano.inputs.ImageFormatNormalizer` declares, or canonical RGB uint8 where it
        has none. Files and PIL images say their own format.
    return_maps : bool, default=False
        Also compute the anomaly map of each image, where the detector makes any.
    return_defects : bool, default=False
        Also find the defects in the map of each image. The estimator must contain a
        :class:`~pyimgano.calibration.PixelThresholdCalibrator`, which says what a defect is.
    on_error : {"raise", "record"}, default="raise"
        How to handle an image that cannot be scored, such as a truncated file. ``"record"``
        gives it a result with an ``error`` and goes on. Errors that are not about one image are
        always raised: missing weights, an array of the wrong type, a fault in the program.
    batch_size : int, default=8
        Number of images to take from an iterator, to convert, or to transform at a time. Scores
        do not depend on it.
    threshold : float, default=None
        Anomaly score above which an image is judged anomalous, in place of the estimator's own.

    Returns
    -------
    list of InferenceResult
        One for each image, in the order of the images.

    See Also
    --------
    iter_infer : The same, one image at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PatchCoreDetector
    >>> from pyimgano.features import FilterBankFeatures
    >>> from pyimgano.inference import infer
    >>> from pyimgano.testing import make_check_images
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(make_check_images(8))
    >>> frame = make_check_images(1, defect=True, random_state=1)[0]  # height, width, 3
    >>> (result,) = infer(detector, frame)
    >>> result.label, result.score > result.threshold
    (-1, True)
    >>> sorted(result.to_dict())
    ['index', 'pred', 'score', 'threshold']
    """
    results = iter_infer(
        estimator,
        images,
        input_format=input_format,
        return_maps=return_maps,
        return_defects=return_defects,
        on_error=on_error,
        batch_size=batch_size,
        threshold=threshold,
    )
    return list(results)


def iter_infer(
    estimator: Any,
    images: Any,
    *,
    input_format: str | ImageFormat | None = None,
    return_maps: bool = False,
    return_defects: bool = False,
    on_error: str = "raise",
    batch_size: int = 8,
    threshold: float | None = None,
) -> Iterator[InferenceResult]:
    """Judge images one after the other; memory does not grow with their number.

    Parameters
    ----------
    estimator, images, input_format, return_maps, return_defects, on_error, batch_size, threshold
        As in :func:`infer`. ``images`` may be an iterator without an end; ``batch_size`` images
        are taken from it at a time.

    Yields
    ------
    InferenceResult
        In the order of the images. Arguments are checked before the iterator is returned.

    Examples
    --------
    Frames of a video, which OpenCV gives as BGR arrays:

    >>> import cv2
    >>> from pyimgano.inference import iter_infer
    >>> def frames(path):
    ...     video = cv2.VideoCapture(path)
    ...     while (found := video.read())[0]:
    ...         yield found[1]
    >>> verdicts = iter_infer(pipe, frames("line.mp4"), input_format="bgr_u8_hwc")  # doctest: +SKIP
    """
    if on_error not in ("raise", "record"):
        raise ValueError(f'on_error must be "raise" or "record", got {on_error!r}.')
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold!r}.")
    if hasattr(estimator, "score_samples"):
        check_is_fitted(estimator)
    cut = _threshold_of(estimator) if threshold is None else float(threshold)
    estimator = _declaring(estimator, input_format)
    calibrator = find_calibrator(estimator)
    extractor = _extractor(estimator) if return_defects else None
    maps = return_maps or return_defects

    def judged(X: Any) -> Iterator[InferenceResult]:
        blocks = iter_scores(estimator, X, maps=maps, on_error=on_error, batch_size=batch_size)
        found = _results(blocks, cut, calibrator, image_paths(X), first_index())
        if extractor is None:
            return found
        size = _size_before_resizing(estimator, X, first_index())
        return _with_defects(found, extractor, size, return_maps)

    if _is_one_image(images, estimator):
        images = [images]
    if isinstance(images, Iterator):
        return _by_batches(images, batch_size, judged)
    return judged(images)


def _by_batches(
    images: Iterator[Any], batch_size: int, judged: Callable[[Any], Iterator[InferenceResult]]
) -> Iterator[InferenceResult]:
    start = first_index()
    while batch := list(itertools.islice(images, batch_size)):
        with counted_from(start):
            # All of them now: what the caller does between two results must not count from here.
            results = list(judged(batch))
        yield from results
        start += len(batch)


def _results(
    blocks: Iterable[ScoredBlock], cut: float, calibrator: Any, paths: Any, first: int
) -> Iterator[InferenceResult]:
    for block in blocks:
        labels = as_labels(is_anomalous(block.scores, cut)).tolist()
        p_values: list[float | None] = [None] * len(labels)
        if calibrator is not None:
            p_values = calibrator.p_value_of_scores(block.scores).tolist()
        for i, value in enumerate(block.scores.tolist()):
            at = block.start + i
            if i in block.errors:
                yield InferenceResult(first + at, paths[at], error=str(block.errors[i]))
                continue
            yield InferenceResult(
                first + at,
                paths[at],
                score=value,
                threshold=cut,
                label=labels[i],
                p_value=p_values[i],
                anomaly_map=block.maps[i] if block.maps else None,
            )


def _extractor(estimator: Any) -> Any:
    found = find_defects(estimator)
    if found is None:
        raise ValueError(
            f"return_defects=True, but {type(estimator).__name__} contains no "
            "PixelThresholdCalibrator, which says from which value of a map on a pixel is "
            "defective: wrap the detector in one and fit it on good images."
        )
    return found.extractor_


def _size_before_resizing(
    estimator: Any, X: Any, first: int
) -> Callable[[int], tuple[int, int]] | None:
    """Give what tells the size of an image from its index, if the pipeline resizes images."""
    resizing = [
        one for one in find_parts(estimator, ImageFormatNormalizer) if one.resize is not None
    ]
    if not resizing:
        return None
    axes = DECLARED[check_format(resizing[0].input_format)].axes
    paths = image_paths(X)

    def size(index: int) -> tuple[int, int]:
        path = paths[index - first]
        if path is not None:
            return read_size(path)
        image = X[index - first]
        if isinstance(image, Image.Image):
            return image.height, image.width
        height, width = image.shape[1:] if axes == "chw" else image.shape[:2]
        return int(height), int(width)

    return size


def _with_defects(
    results: Iterator[InferenceResult],
    extractor: Any,
    size: Callable[[int], tuple[int, int]] | None,
    return_maps: bool,
) -> Iterator[InferenceResult]:
    for result in results:
        if result.anomaly_map is None:
            yield result
            continue
        with timed("postprocess"):
            image_size = None if size is None else size(result.index)
            defects = extractor.extract(result.anomaly_map, image_size)
        heat = result.anomaly_map if return_maps else None
        yield replace(result, anomaly_map=heat, defects=defects)


# ---- input ----------------------------------------------------------------------------
def _declaring(estimator: Any, input_format: str | ImageFormat | None) -> Any:
    """Put a step before an estimator that declares the format of the images."""
    if input_format is None:
        return estimator
    wanted = check_format(input_format)
    own = first_step(estimator)
    if not isinstance(own, ImageFormatNormalizer):
        return make_pipeline(ImageFormatNormalizer(wanted.value), estimator)
    if own.input_format == wanted:
        return estimator
    steps = [ImageFormatNormalizer(wanted.value, u16_max=own.u16_max)]
    if own.input_format != ImageFormat.RGB_U8_HWC:
        steps.append(FunctionTransformer(_saying_their_format))
    return make_pipeline(*steps, estimator)


def _saying_their_format(images: Any) -> Any:
    """Make PIL images of canonical ones, to which no declared format applies."""
    return images if isinstance(images, ImageSequence) else [Image.fromarray(one) for one in images]


def _is_one_image(images: Any, estimator: Any) -> bool:
    if is_path(images) or isinstance(images, Image.Image):
        return True
    if not (isinstance(images, np.ndarray) or is_torch_tensor(images)):
        return False
    step = first_step(estimator)
    if isinstance(step, ImageFormatNormalizer):
        return images.ndim == DECLARED[check_format(step.input_format)].ndim
    return images.ndim == DECLARED[ImageFormat.RGB_U8_HWC].ndim


# ---- calibration ----------------------------------------------------------------------
def calibrate_threshold(
    estimator: Any,
    normal_images: Any,
    *,
    input_format: str | ImageFormat | None = None,
    quantile: float = _defaults.QUANTILE,
) -> ThresholdCalibrator:
    """Put the threshold of a fitted detector by good images that it was not fitted on.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector with ``score_samples``, or a pipeline that ends in one. It is used as
        it is, and not changed.
    normal_images : paths, arrays, tensors, PIL images, or an iterator over them
        Good images, as in :func:`infer`.
    input_format : str, default=None
        Format of images in arrays, as in :func:`infer`. It becomes part of the result.
    quantile : float in (0, 1), default=0.98
        Share of good images that shall pass.

    Returns
    -------
    ThresholdCalibrator
        The estimator with its threshold, ``threshold_``, where it comes from, ``provenance_``,
        and p-values; see :class:`~pyimgano.calibration.ThresholdCalibrator`. To calibrate while
        fitting, fit one of these.

    Warns
    -----
    TooFewImagesWarning
        If so few images support no threshold at this quantile; it is then at the largest score.

    Examples
    --------
    >>> from pyimgano.detectors import PatchCoreDetector
    >>> from pyimgano.features import FilterBankFeatures
    >>> from pyimgano.inference import calibrate_threshold, infer
    >>> from pyimgano.testing import make_check_images
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(make_check_images(8))
    >>> good = make_check_images(20, random_state=1)
    >>> calibrated = calibrate_threshold(detector, good, quantile=0.9)
    >>> results = infer(calibrated, make_check_images(2, random_state=2))
    >>> [result.label for result in results]
    [1, 1]
    """
    check_is_fitted(estimator)
    own = first_step(estimator)
    if input_format is not None and isinstance(own, ImageFormatNormalizer):
        if own.input_format != check_format(input_format):
            raise ImageFormatError(
                f"input_format={str(input_format)!r}, but the estimator's own "
                f"ImageFormatNormalizer declares {str(own.input_format)!r}, which its result would "
                "go on to do. Leave input_format out and give images of that format, or set the "
                "step's input_format with set_params."
            )
    else:
        estimator = _declaring(estimator, input_format)
    if isinstance(normal_images, Iterator):
        normal_images = list(normal_images)
    elif _is_one_image(normal_images, estimator):
        normal_images = [normal_images]
    return ThresholdCalibrator(FrozenEstimator(estimator), cv="prefit", quantile=quantile).fit(
        normal_images
    )
