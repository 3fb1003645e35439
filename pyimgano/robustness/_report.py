"""One fitted estimator on clean and on corrupted test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_consistent_length, column_or_1d

from pyimgano import _defaults
from pyimgano._corruptions import CORRUPTIONS, SEVERITIES, Corruption
from pyimgano._nesting import first_step
from pyimgano.benchmark._test_masks import TestMasks
from pyimgano.evaluation import (
    AUPRO,
    PixelAUROC,
    PixelMetrics,
    image_metrics,
    rate,
    threshold_metrics,
)
from pyimgano.exceptions import TooFewImagesError
from pyimgano.inference import InferenceResult, iter_infer, threshold
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence, check_images
from pyimgano.inputs._formats import resize_image
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._warning import warn_user

__all__ = ["FIGURES", "check_corruptions", "check_severities", "figure_of", "robustness_report"]

#: The figures of each condition, and whether a large value is a good one.
FIGURES = {
    "image_auroc": True,
    "pixel_auroc": True,
    "aupro": True,
    "false_positive_rate": False,
    "miss_rate": False,
}


def robustness_report(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    masks: Sequence[Any] | None = None,
    corruptions: str | Sequence[str] = "all",
    severities: int | Sequence[int] = SEVERITIES,
    random_state: int = 0,
    batch_size: int = 8,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure a fitted estimator on corrupted test images, at the threshold that it has.

    A threshold was put on clean images. On a line the lamp ages, the lens gets dirty and the mount
    loosens, and nobody puts it anew. The false-positive and miss rates here are those of the
    estimator's own threshold throughout; the areas under curves say how well the scores would
    still separate if someone did.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector for images with a threshold, such as a pipeline that ends in a
        :class:`~pyimgano.calibration.ThresholdCalibrator`. It is not changed.
    X : sequence of paths, ImageSequence, or uint8 RGB images
        The test images, such as ``X_test`` of a dataset. They are corrupted in their own size,
        before they reach the first step of the estimator. Arrays are RGB also where that step
        declares another format.
    y : array-like of shape (n_images,)
        +1 for good images, -1 for defective ones; images with 0 count in no figure.
    masks : sequence of length n_images, default=None
        Per image the mask of its defects, as ``masks_test`` of a dataset has them: a file, an
        array, 0 for a good image, None if there is none. They move along with parts that a
        corruption moves.
    corruptions : "all" or sequence of str, default="all"
        Names in ``pyimgano.robustness.CORRUPTIONS``.
    severities : int or sequence of int, default=(1, 2, 3, 4, 5)
        Severities from 1 to 5.
    random_state : int, default=0
        As for :class:`Corruption`.
    batch_size : int, default=8
        Images in memory that are judged at a time. Of files, a few are held anyway.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    dict
        In plain JSON types. ``threshold``; the numbers of images ``n_good``, ``n_defect`` and
        ``n_unlabeled``, and of masks that cannot be used, ``n_masks_left_out``; ``random_state``;
        and what was measured:

        - ``clean``: the figures of the images as they are, see below.
        - ``corruptions``: per name its ``unit`` and ``conditions``, a list of the figures with the
          ``severity`` and ``strength`` of each.
        - ``mean``: per figure the mean over all corruptions and severities.
        - ``worst``: per figure the worst ``value``, and ``corruption`` and ``severity`` where it
          was reached.

        The figures are ``image_auroc``, ``pixel_auroc``, ``aupro`` (up to a false-positive rate of
        0.3), ``false_positive_rate`` and ``miss_rate``, both with count and 95 % interval as in
        :func:`~pyimgano.evaluation.rate`, and ``n_errors``, the number of images that could not be
        judged. A figure is None where it is not defined: without masks, without maps, or without
        one of the two kinds of images.

    Raises
    ------
    TooFewImagesError
        If none of the images can be judged.

    Examples
    --------
    >>> from pyimgano import PatchCoreDetector, ThresholdCalibrator
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> from pyimgano.features import FilterBankFeatures
    >>> from pyimgano.robustness import robustness_report
    >>> data = make_inspection_dataset(
    ...     "wood", n_train=12, n_test_good=4, n_test_defect=4, size=64
    ... )
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64))
    >>> pipe = ThresholdCalibrator(detector, quantile=0.9).fit(data.X_train)
    >>> report = robustness_report(
    ...     pipe, data.X_test, data.y_test, corruptions=["defocus", "dust"], severities=[1, 5]
    ... )
    >>> report["corruptions"]["dust"]["conditions"][1]["strength"]
    40.0
    >>> sorted(report["worst"]["miss_rate"])
    ['corruption', 'severity', 'value']
    """
    kinds = check_corruptions(corruptions)
    levels = check_severities(severities)
    images = _canonical(estimator, X)
    y = column_or_1d(y)
    check_consistent_length(images, y)
    if not np.isin(y, (1, -1, 0)).all():
        raise ValueError("y must hold +1 (good), -1 (defective) and 0 (without label) only.")
    truth = _Truth(images, y, masks)
    conditions: list[Corruption | None] = [None]
    conditions += [Corruption(kind, level, random_state) for kind in kinds for level in levels]
    found = []
    with progress_callback("clean and corrupted images", progress) as report_progress:
        for i, corruption in enumerate(conditions):
            done = None
            if report_progress is not None:
                done = _counter(report_progress, i * len(images), len(conditions) * len(images))
            found.append(_measure(estimator, images, truth, corruption, batch_size, done))
    clean, rest = found[0], iter(found[1:])
    report: dict[str, Any] = {
        "threshold": threshold(estimator),
        "n_good": int((y == 1).sum()),
        "n_defect": int((y == -1).sum()),
        "n_unlabeled": int((y == 0).sum()),
        "n_masks_left_out": truth.n_masks_left_out,
        "random_state": int(random_state),
        "clean": clean,
        "corruptions": {},
    }
    for kind in kinds:
        known = CORRUPTIONS[kind]
        report["corruptions"][kind] = {
            "unit": known.unit,
            "conditions": [
                {"severity": level, "strength": float(known.strengths[level - 1]), **next(rest)}
                for level in levels
            ],
        }
    return {**report, **_mean_and_worst(report["corruptions"])}


def check_corruptions(corruptions: str | Sequence[str]) -> list[str]:
    """Check names of corruptions.

    Parameters
    ----------
    corruptions : "all" or sequence of str

    Returns
    -------
    list of str
    """
    if isinstance(corruptions, str):
        corruptions = list(CORRUPTIONS) if corruptions == "all" else [corruptions]
    kinds = list(corruptions)
    for kind in kinds:
        if kind not in CORRUPTIONS:
            raise ValueError(
                f"there is no corruption {kind!r}. There are {', '.join(CORRUPTIONS)}."
            )
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"corruptions={kinds!r} must name at least one, and each of them once.")
    return kinds


def check_severities(severities: int | Sequence[int]) -> list[int]:
    """Check severities.

    Parameters
    ----------
    severities : int or sequence of int

    Returns
    -------
    list of int
        Ascending.
    """
    levels = np.atleast_1d(np.asarray(severities))
    whole = levels.dtype.kind in "iu" and np.isin(levels, SEVERITIES).all()
    if levels.ndim != 1 or not levels.size or not whole or len(set(levels.tolist())) < levels.size:
        raise ValueError(
            f"severities={severities!r} must be numbers from 1 to 5, each of them once."
        )
    return sorted(levels.tolist())


def figure_of(condition: dict[str, Any], name: str) -> float | None:
    """Give a figure of a condition as a number.

    Parameters
    ----------
    condition : dict
        Such as ``clean`` of a report.
    name : str
        One of ``FIGURES``.

    Returns
    -------
    float or None
    """
    value = condition[name]
    return value["value"] if isinstance(value, dict) else value


def _canonical(estimator: Any, X: Any) -> Any:
    """The test images as they are corrupted: of their own size, and of the declared full scale."""
    images = check_images(X)
    first = first_step(estimator)
    if isinstance(images, ImageSequence) and isinstance(first, ImageFormatNormalizer):
        return images.declare(resize=None, u16_max=first.u16_max)
    return images


class _CorruptedFiles(ImageSequence):
    """Image files that are corrupted in their own size, before a pipeline resizes them."""

    def __init__(self, files: ImageSequence, corruption: Corruption) -> None:
        self.__dict__.update(files.__dict__)
        self._files = files
        self._corruption = corruption

    def _read(self, path: str) -> np.ndarray:
        image = self._corruption.transform([self._files._read(path)])[0]
        if self.resize not in (None, self._files.resize):  # declared by the pipeline
            image = resize_image(image, self.resize)
        return image


class _Truth:
    """Labels and masks of the test images."""

    def __init__(self, images: Any, y: np.ndarray, masks: Sequence[Any] | None) -> None:
        self.y = y
        self._images = images
        self._masks = None
        if masks is not None:
            check_consistent_length(images, masks)
            data = Bunch(
                X_test=images, masks_test=masks, kinds_test=np.where(y == -1, "defect", "good")
            )
            self._masks = TestMasks(data)
            self._masks.check()
            if self._masks.left_out:
                first = next(iter(self._masks.left_out.values()))
                warn_user(
                    f"{len(self._masks.left_out)} images are left out of the pixel metrics, since "
                    f"their masks cannot be used; the first: {first}",
                    UserWarning,
                )

    @property
    def n_masks_left_out(self) -> int:
        return 0 if self._masks is None else len(self._masks.left_out)

    def mask(self, i: int, corruption: Corruption | None) -> np.ndarray | None:
        """The mask of image ``i`` where the corruption has left it; None if there is none."""
        mask = None if self._masks is None else self._masks.read(i)
        if mask is None or corruption is None or not mask.any():
            return mask
        return corruption.transform_masks(self._images[i : i + 1], [mask])[0]


def _counter(report: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda done: report(before + done, total)


def _judged(
    estimator: Any, images: Any, corruption: Corruption | None, batch_size: int
) -> Iterator[InferenceResult]:
    options: dict[str, Any] = {"return_maps": True, "on_error": "record", "batch_size": batch_size}
    if isinstance(images, ImageSequence):
        X = images if corruption is None else _CorruptedFiles(images, corruption)
        return iter_infer(estimator, X, **options)
    if corruption is None:
        stream = iter(images)
    else:  # one at a time, not a copy of all
        stream = (corruption.transform([image])[0] for image in images)
    return iter_infer(estimator, stream, input_format=_defaults.INPUT_FORMAT, **options)


def _measure(
    estimator: Any,
    images: Any,
    truth: _Truth,
    corruption: Corruption | None,
    batch_size: int,
    done: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Judge all images under one condition; one map is held at a time."""
    pixels = PixelMetrics({"auroc": PixelAUROC(), "aupro": AUPRO()})
    scores, labels, errors = [], [], []
    for i, result in enumerate(_judged(estimator, images, corruption, batch_size)):
        heat = result.anomaly_map
        if result.error is not None:
            errors.append(result.error)
        else:
            scores.append(result.score)
            labels.append(int(truth.y[i]))
            if heat is not None and (mask := truth.mask(i, corruption)) is not None:
                # A pipeline that resizes images has maps of that size.
                pixels.update(resize_image(heat, mask.shape), mask)
        if done is not None:
            done(i + 1)
    if not scores:
        raise TooFewImagesError(
            f"none of the {len(errors)} test images could be judged; the first: {errors[0]}"
        )
    if errors and corruption is None:
        warn_user(
            f"{len(errors)} test images cannot be judged and count in no figure; the first: "
            f"{errors[0]}",
            UserWarning,
        )
    labeled = np.array(labels) != 0
    y, values = np.array(labels)[labeled], np.array(scores)[labeled]
    confusion = threshold_metrics(values, y, threshold(estimator))["confusion"]
    return {
        "image_auroc": image_metrics(values, y)["auroc"],
        "pixel_auroc": pixels["auroc"].compute(),
        "aupro": pixels["aupro"].compute(),
        "false_positive_rate": rate(confusion["false_positives"], int((y == 1).sum())),
        "miss_rate": rate(confusion["false_negatives"], int((y == -1).sum())),
        "n_errors": len(errors),
    }


def _mean_and_worst(corruptions: dict[str, Any]) -> dict[str, Any]:
    rows = [
        (kind, condition)
        for kind, found in corruptions.items()
        for condition in found["conditions"]
    ]
    mean: dict[str, Any] = {}
    worst: dict[str, Any] = {}
    for name, large_is_good in FIGURES.items():
        known = [
            (value, kind, condition["severity"])
            for kind, condition in rows
            if (value := figure_of(condition, name)) is not None
        ]
        if not known:
            mean[name] = worst[name] = None
            continue
        mean[name] = float(np.mean([value for value, _, _ in known]))
        value, kind, severity = (min if large_is_good else max)(known, key=lambda one: one[0])
        worst[name] = {"value": value, "corruption": kind, "severity": severity}
    return {"mean": mean, "worst": worst}
