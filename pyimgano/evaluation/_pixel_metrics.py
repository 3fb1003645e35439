"""Metrics of anomaly maps, as accumulators that take one image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pyimgano.evaluation._pixels import (
    PixelCounts,
    Reached,
    Weighing,
    weigh_components,
    weigh_saturated,
)
from pyimgano.evaluation._resampling import (
    ImageCurves,
    draw_images,
    drawn_together,
    percentile_interval,
)
from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.utils._warning import warn_user

__all__ = [
    "AUPIMO",
    "AUPRO",
    "MAX_EXACT",
    "SPRO",
    "OracleSegmentationF1",
    "PixelAUROC",
    "PixelAveragePrecision",
    "PixelMetric",
    "SegmentationF1",
]

# Pixels without a defect that are held for exact values: 200 MB of float32.
MAX_EXACT = 50_000_000
# Fewer pixels of good images between AUPIMO's limits make its values jump.
_ENOUGH_PIXELS = 30
# Defective pixels whose curves are computed at a time.
_N_TOGETHER = 100_000


class PixelMetric:
    """Base of the pixel metrics: an accumulator that takes one image at a time.

    Results depend on the order of the pixels by their scores and on nothing else, so they are
    the same for ``a * map + b`` with ``a > 0`` as long as the numbers are exact enough to keep
    different scores different. Equal scores are never put in any order.

    Parameters
    ----------
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact. Of more, bins are
        counted: :meth:`bounds` has two values that the exact one lies between, and
        :meth:`compute` their mean.

    Attributes
    ----------
    n_images : int
        Images added so far.
    n_pixels : int
        Pixels added so far.
    exact : bool
        Whether the value is exact.
    """

    def __init__(self, *, max_exact: int = MAX_EXACT) -> None:
        self.max_exact = max_exact
        self._pixels = PixelCounts(self._weighings(), max_exact)

    @property
    def n_images(self) -> int:
        return self._pixels.n_images

    @property
    def n_pixels(self) -> int:
        return self._pixels.n_pixels

    @property
    def exact(self) -> bool:
        return self._pixels.exact

    def update(self, anomaly_map: Any, masks: Any, label: int | None = None) -> None:
        """Add one image.

        Parameters
        ----------
        anomaly_map : array-like of shape (height, width)
            Higher = more anomalous.
        masks : array-like of shape (height, width) or (n_masks, height, width), or list, or 0
            In the pixels of the map, not 0 = defective; 0 for an image without a defect. A list
            can hold :class:`~pyimgano.datasets.Defect`, as ``read_defects`` of an
            :class:`~pyimgano.datasets.InspectionDataset` gives it.
        label : {1, -1}, default=None
            +1 for a good image, -1 for a defective one, checked against the mask. None takes
            it from the mask.
        """
        self._pixels.update(anomaly_map, masks, label)

    def compute(self) -> float | None:
        """Compute the metric of all images so far.

        Returns
        -------
        float or None
            None if it is not defined, for instance without a defective pixel.
        """
        low, high = self.bounds()
        return None if low is None or high is None else low + (high - low) / 2

    def bounds(self) -> tuple[float, float] | tuple[None, None]:
        """Compute two values that the exact one lies between.

        Returns
        -------
        low, high : float, or None if the metric is not defined
            Equal if ``exact``.
        """
        if not self._is_defined():
            return None, None
        # The more pixels without a defect reach a threshold, the worse.
        low = self._value(1)
        # Where no bin matters the two are equal, up to rounding.
        return low, low if self.exact else max(low, self._value(0))

    def bootstrap_interval(
        self, *, confidence_level: float = 0.95, n_resamples: int = 1000, random_state: Any = 0
    ) -> tuple[float, float]:
        """Estimate an interval by drawing the images anew (stratified bootstrap).

        Good and defective images are drawn with replacement, each from their own and as many as
        there are. Draws are computed from a summary of each image, in which the share of its
        defect-free pixels above a threshold is known to 1 / 512. Of more than 500 images of a
        kind, as many random groups of equal size are drawn in place of images, and summaries
        have less detail where those of all images would take more than 16 MB.

        Parameters
        ----------
        confidence_level : float in (0, 1), default=0.95
            Share of the draws within the interval.
        n_resamples : int, default=1000
            Number of draws.
        random_state : int, RandomState or None, default=0
            Seeds the draws.

        Returns
        -------
        low, high : float

        Raises
        ------
        TooFewImagesError
            If the metric is not defined.
        """
        if not self._is_defined():
            raise TooFewImagesError(
                f"{type(self).__name__} is not defined without good and defective pixels, and so "
                f"has no interval; {self.n_images} images have been added."
            )
        unit_of, y = drawn_together(self._pixels.summaries.is_good)
        curves = self._image_curves(unit_of)
        draws = draw_images(y, n_resamples, random_state)
        values = [self._of_curve(*curve) for curve in curves.of_draws(draws)]
        return percentile_interval(values, confidence_level)

    def _image_curves(self, unit_of: np.ndarray) -> ImageCurves:
        parts = [(one, None) for one in self._pixels.defective]
        return ImageCurves(self._pixels.summaries, unit_of, parts)

    def _of_curve(self, x: np.ndarray, y: np.ndarray, n_normal: float, n_defective: float) -> float:
        """The metric, from shares of normal and of defective pixels at falling thresholds."""
        raise NotImplementedError

    def _weighings(self) -> tuple[Weighing, ...]:
        """Functions that weigh defective pixels as the metric needs it."""
        return ()

    def _is_defined(self) -> bool:
        return bool(self._pixels.defective) and self._pixels.n_normal > 0

    def _value(self, which: int) -> float:
        """The metric, if the least (0) or the most (1) pixels without a defect reach thresholds."""
        raise NotImplementedError

    def _all_defective(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct scores of the defective pixels, falling, and how often they occur."""
        values, times = np.unique(np.concatenate(self._pixels.defective), return_counts=True)
        return values[::-1], times[::-1]


class PixelAUROC(PixelMetric):
    """Area under the ROC curve over all pixels of all images, defective ones as positives.

    Parameters
    ----------
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact; see
        :class:`PixelMetric`.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the value is exact.

    Examples
    --------
    >>> from pyimgano.evaluation import PixelAUROC
    >>> auroc = PixelAUROC()
    >>> auroc.update([[0.1, 0.2], [0.4, 0.3]], [[0, 0], [0, 1]])
    >>> auroc.compute()
    0.6666666666666667
    """

    def _value(self, which: int) -> float:
        values, times = self._all_defective()
        reached = self._pixels.normal_reached(values)
        lost = times * (reached.above[which] + reached.at_least[which])
        n_pairs = float(times.sum()) * float(self._pixels.n_normal)
        return 1.0 - 0.5 * float(lost.sum()) / n_pairs

    def _of_curve(self, x: np.ndarray, y: np.ndarray, n_normal: float, n_defective: float) -> float:
        return _area_up_to(x, y, 1.0)


class PixelAveragePrecision(PixelMetric):
    """Average precision over all pixels of all images, defective ones as positives.

    Parameters
    ----------
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact; see
        :class:`PixelMetric`.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the value is exact.

    Examples
    --------
    >>> from pyimgano.evaluation import PixelAveragePrecision
    >>> precision = PixelAveragePrecision()
    >>> precision.update([[0.1, 0.2], [0.4, 0.3]], [[0, 0], [0, 1]])
    >>> precision.compute()
    0.5
    """

    def _value(self, which: int) -> float:
        values, times = self._all_defective()
        found = np.cumsum(times)
        precision = found / (found + self._pixels.normal_reached(values).at_least[which])
        return float(times @ precision) / float(found[-1])

    def _of_curve(self, x: np.ndarray, y: np.ndarray, n_normal: float, n_defective: float) -> float:
        found = n_defective * y[1:]
        precision = found / np.maximum(found + n_normal * x[1:], 1.0)
        return float(np.diff(y) @ precision)


class AUPRO(PixelMetric):
    """Area under the per-region overlap curve, up to a limit of the false-positive rate.

    The overlap is the share of a defect's pixels above the threshold, averaged over all defects
    of all images: small defects count as much as large ones. Defects are the connected components
    of the masks, of which pixels that touch diagonally are one. The false-positive rate is taken
    over all pixels without a defect, of good and of defective images. The curve has a point at
    every score that occurs, is cut at the limit by linear interpolation, and its area is divided
    by the limit [1]_.

    Parameters
    ----------
    limit : float in (0, 1], default=0.3
        Largest false-positive rate; 0.3 is usual for MVTec AD, 0.05 for MVTec AD 2.
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact; see
        :class:`PixelMetric`.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the value is exact.

    References
    ----------
    .. [1] P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger, "The MVTec Anomaly
       Detection Dataset: A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
       International Journal of Computer Vision 129, 2021.

    Examples
    --------
    >>> from pyimgano.evaluation import AUPRO
    >>> metric = AUPRO(limit=0.5)
    >>> metric.update([[9, 8, 1, 0, 5]], [[1, 0, 0, 0, 1]], label=-1)
    >>> metric.compute()  # one defect is found at once, the other after a third of the rest
    0.6666666666666667
    """

    def __init__(self, limit: float = 0.3, *, max_exact: int = MAX_EXACT) -> None:
        self.limit = _checked_limit(limit)
        super().__init__(max_exact=max_exact)

    def _weighings(self) -> tuple[Weighing, ...]:
        return (weigh_components,)

    def _value(self, which: int) -> float:
        return _area_up_to(*self._curve(which), self.limit) / self.limit

    def _image_curves(self, unit_of: np.ndarray) -> ImageCurves:
        return ImageCurves(
            self._pixels.summaries, unit_of, self._pixels.weighted[self._weighings()[0]]
        )

    def _of_curve(self, x: np.ndarray, y: np.ndarray, n_normal: float, n_defective: float) -> float:
        return _area_up_to(x, y, self.limit) / self.limit

    def _curve(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """False-positive rates and mean overlaps, straight lines between them."""
        found = self._pixels.weighted[self._weighings()[0]]
        thresholds, shares = _shares(*(np.concatenate(part) for part in zip(*found)))
        reached = self._pixels.normal_reached(thresholds)
        return _corners(reached, which, self._pixels.n_normal, shares)


class SPRO(AUPRO):
    """Area under the saturated per-region overlap curve, up to a limit of the false-positive rate.

    As :class:`AUPRO`, for defects of which a part is enough: if a part is missing, any place where
    it could be is right. Each mask is one defect, whatever the number of its places, and its
    overlap is ``min(pixels found / saturation area, 1)``. False positives are counted over the
    pixels that are free of all defects [1]_.

    Masks are given to :meth:`update` as a list of :class:`~pyimgano.datasets.Defect`, which have
    the saturation areas; a mask that is an array saturates at its whole area.

    MVTec LOCO AD has separate figures for logical and structural anomalies, each with all good
    images, and their mean as headline: use one accumulator for each.

    Parameters
    ----------
    limit : float in (0, 1], default=0.05
        Largest false-positive rate.
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact; see
        :class:`PixelMetric`.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the value is exact.

    References
    ----------
    .. [1] P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger, "Beyond Dents and
       Scratches: Logical Constraints in Unsupervised Anomaly Detection and Localization",
       International Journal of Computer Vision 130, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.datasets import Defect
    >>> from pyimgano.evaluation import SPRO
    >>> missing = Defect("missing pin", np.array([[1, 1, 0, 0]]), saturation_area=1)
    >>> metric = SPRO()
    >>> metric.update([[3, 0, 1, 2]], [missing], label=-1)
    >>> metric.compute()  # one of its two pixels is enough
    1.0
    """

    def __init__(self, limit: float = 0.05, *, max_exact: int = MAX_EXACT) -> None:
        super().__init__(limit, max_exact=max_exact)

    def _weighings(self) -> tuple[Weighing, ...]:
        return (weigh_saturated,)


class AUPIMO(PixelMetric):
    """Area under the per-image overlap curve, at very few false positives on good images.

    For each defective image, the share of its defective pixels above a threshold is integrated
    over the logarithm of the false-positive rate, between two limits, and divided by the width of
    this range. The false-positive rate is the mean over *good* images of the share of their pixels
    above the threshold [1]_. Every score that occurs is a threshold; between two of them the
    overlap is linear in the false-positive rate.

    With n pixels of good images the false-positive rate goes up in steps of 1 / n; a
    :class:`~pyimgano.exceptions.TooFewImagesWarning` says if fewer than 30 steps fall into the
    range.

    Parameters
    ----------
    limits : (float, float), default=(1e-5, 1e-4)
        Smallest and largest false-positive rate.
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact; see
        :class:`PixelMetric`.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the value is exact.

    References
    ----------
    .. [1] J. P. C. Bertoldo, D. Ameln, A. Vaidya, S. Akçay, "AUPIMO: Redefining Visual Anomaly
       Detection Benchmarks with High Speed and Low Tolerance", British Machine Vision Conference,
       2024.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.evaluation import AUPIMO
    >>> metric = AUPIMO(limits=(0.001, 0.1))
    >>> metric.update(np.arange(1000).reshape(20, 50), 0)
    >>> metric.update([[989.5, 0]], [[1, 0]])  # 10 of 1000 good pixels score higher
    >>> round(metric.compute(), 12)  # it is found from 0.01 to 0.1: half of the range
    0.5
    """

    def __init__(
        self, limits: tuple[float, float] = (1e-5, 1e-4), *, max_exact: int = MAX_EXACT
    ) -> None:
        low, high = limits
        if not 0 < low < high <= 1:
            raise ValueError(f"limits must be two rates, 0 < low < high <= 1, got {limits!r}.")
        self.limits = (float(low), float(high))
        super().__init__(max_exact=max_exact)

    def compute(self) -> float | None:
        """Compute the mean over all defective images so far.

        Returns
        -------
        float or None
            None without a good or without a defective image.
        """
        return super().compute()

    @property
    def has_enough_pixels(self) -> bool:
        """True if the false-positive rate has 30 steps or more between the limits."""
        low, high = self.limits
        return (high - low) * self._pixels.n_good_pixels >= _ENOUGH_PIXELS

    def per_image(self) -> np.ndarray:
        """Compute the value of each defective image.

        Returns
        -------
        ndarray of shape (n_defective_images,), float64
            In the order in which the images came.
        """
        if not self._is_defined():
            raise TooFewImagesError("AUPIMO needs a good and a defective image.")
        low = self._values(1)
        return low if self.exact else low + (self._values(0) - low) / 2

    def _is_defined(self) -> bool:
        return bool(self._pixels.defective) and self._pixels.n_good_images > 0

    def _value(self, which: int) -> float:
        return float(np.mean(self._values(which)))

    def _image_curves(self, unit_of: np.ndarray) -> ImageCurves:
        parts = [(one, np.full(len(one), 1.0 / len(one))) for one in self._pixels.defective]
        return ImageCurves(self._pixels.summaries, unit_of, parts, per_good_image=True)

    def _of_curve(self, x: np.ndarray, y: np.ndarray, n_normal: float, n_defective: float) -> float:
        return _log_area(x, y, *self.limits)

    def _values(self, which: int) -> np.ndarray:
        low, high = self.limits
        if not self.has_enough_pixels:
            n_good, n_needed = self._pixels.n_good_pixels, int(_ENOUGH_PIXELS / (high - low)) + 1
            warn_user(
                f"AUPIMO is computed at false-positive rates from {low:g} to {high:g}, and the "
                f"good images have {n_good} pixels in all: one of them more or less changes the "
                f"result. Use at least {n_needed} pixels of good images, or larger limits.",
                TooFewImagesWarning,
            )
        values: list[float] = []
        for some in _batches(self._pixels.defective, _N_TOGETHER):
            curves = [_shares(one, np.ones(len(one))) for one in some]
            rates = self._pixels.good_rates(np.concatenate([cuts for cuts, _ in curves]))
            ends = np.cumsum([len(cuts) for cuts, _ in curves])[:-1]
            parts = (np.split(counts, ends, axis=1) for counts in rates)
            values += [
                _log_area(*_corners(Reached(*part), which, 1, shares), low, high)
                for *part, (_, shares) in zip(*parts, curves)
            ]
        return np.array(values)


class SegmentationF1(PixelMetric):
    """F1 score over all pixels of all images, for maps cut at a threshold.

    The pixels of all images are pooled, as MVTec AD 2 does. The threshold has to come from good
    images alone, say from :func:`pixel_threshold`; pixels above it are anomalous.

    Parameters
    ----------
    threshold : float
        Largest score of a normal pixel.
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact; see
        :class:`PixelMetric`.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the value is exact.

    Examples
    --------
    >>> from pyimgano.evaluation import SegmentationF1
    >>> f1 = SegmentationF1(threshold=0.35)
    >>> f1.update([[0.1, 0.5], [0.4, 0.3]], [[0, 1], [0, 1]])
    >>> f1.compute()
    0.5
    """

    def __init__(self, threshold: float, *, max_exact: int = MAX_EXACT) -> None:
        if not isinstance(threshold, (int, float, np.number)) or np.isnan(threshold):
            raise ValueError(f"threshold must be a number, got {threshold!r}.")
        self.threshold = float(threshold)
        super().__init__(max_exact=max_exact)

    def _is_defined(self) -> bool:
        return bool(self._pixels.defective)

    def at_threshold(self) -> dict[str, float | None]:
        """Compute all that counting pixels above and below the threshold gives.

        Returns
        -------
        dict
            ``f1``, as from :meth:`compute`, ``precision``, ``recall`` and ``iou``, the
            intersection over union of the pixels above the threshold and the defective ones. None
            where one is not defined: all of them without a defective pixel, ``precision`` without
            a pixel above the threshold.
        """
        if not self._is_defined():
            return dict.fromkeys(("f1", "precision", "recall", "iou"))
        found, n_defective = self._found()
        # In the middle of what is possible, as the value itself.
        false = sum(self._false(which) for which in (0, 1)) / 2
        return {
            "f1": self.compute(),
            "precision": found / (found + false) if found + false else None,
            "recall": found / n_defective,
            "iou": found / (n_defective + false),
        }

    def _value(self, which: int) -> float:
        found, n_defective = self._found()
        return 2.0 * found / (found + n_defective + self._false(which))

    def _found(self) -> tuple[int, int]:
        """Numbers of defective pixels above the threshold, and of all."""
        # The comparison is that of the label rule: a score at the threshold is normal. The array
        # keeps NumPy from rounding the threshold to the precision of the map.
        cut = np.array([self.threshold])
        found = sum(int(np.count_nonzero(one > cut)) for one in self._pixels.defective)
        return found, sum(len(one) for one in self._pixels.defective)

    def _false(self, which: int) -> int:
        return int(self._pixels.normal_reached(np.array([self.threshold])).above[which, 0])

    def _image_curves(self, unit_of: np.ndarray) -> ImageCurves:
        parts = [(one, None) for one in self._pixels.defective]
        cut = np.array([self.threshold])
        return ImageCurves(self._pixels.summaries, unit_of, parts, thresholds=cut)

    def _of_curve(self, x: np.ndarray, y: np.ndarray, n_normal: float, n_defective: float) -> float:
        found, false = n_defective * y[1], n_normal * x[1]  # above the threshold
        return float(2.0 * found / (found + n_defective + false))


class OracleSegmentationF1(PixelMetric):
    """Largest F1 score over all pixels that any threshold gives on these very images.

    It is an oracle: the threshold is chosen by the masks of the test images, which nobody has on a
    line. Papers quote it; what a line gets is :class:`SegmentationF1`.

    Parameters
    ----------
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the value is exact; see
        :class:`PixelMetric`.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the value is exact.

    Examples
    --------
    >>> from pyimgano.evaluation import OracleSegmentationF1
    >>> f1 = OracleSegmentationF1()
    >>> f1.update([[0.1, 0.5], [0.4, 0.3]], [[0, 1], [0, 1]])
    >>> f1.compute()
    0.8
    """

    def _value(self, which: int) -> float:
        values, times = self._all_defective()
        found = np.cumsum(times)
        false = self._pixels.normal_reached(values).at_least[which]
        return float(np.max(2.0 * found / (found + found[-1] + false)))

    def _of_curve(self, x: np.ndarray, y: np.ndarray, n_normal: float, n_defective: float) -> float:
        found, false = n_defective * y, n_normal * x
        return float(np.max(2.0 * found / (found + n_defective + false)))


def _checked_limit(limit: float) -> float:
    if not isinstance(limit, (int, float, np.number)) or not 0 < limit <= 1:
        raise ValueError(f"limit={limit!r} must be a false-positive rate in (0, 1].")
    return float(limit)


def _batches(arrays: list[np.ndarray], n_together: int) -> Iterator[list[np.ndarray]]:
    """Cut a list where more values than stated come together."""
    batch: list[np.ndarray] = []
    n_values = 0
    for one in arrays:
        batch.append(one)
        n_values += len(one)
        if n_values > n_together:
            yield batch
            batch, n_values = [], 0
    if batch:
        yield batch


def _shares(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, falling, and the share of all weights at or above each."""
    falling = np.argsort(values)[::-1]
    values, sums = values[falling], np.cumsum(weights[falling])
    last = np.append(values[1:] != values[:-1], True)
    return values[last], sums[last] / sums[-1]


def _corners(
    reached: Reached, which: int, n: int, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a curve of shares over false-positive rates, straight lines between them.

    From one threshold to the next the curve runs level through the normal pixels between them,
    then up; if normal pixels have the very score of the threshold, up and to the right at once.
    """
    x = np.empty(2 * len(shares) + 2)
    x[0], x[1:-1:2], x[2:-1:2], x[-1] = 0, reached.above[which], reached.at_least[which], n
    y = np.concatenate([[0.0, 0.0], np.repeat(shares, 2)])
    return x / n, y


def _area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    k = int(np.searchsorted(x, limit, side="right"))
    if k < len(x):
        end = y[k - 1] + (y[k] - y[k - 1]) * (limit - x[k - 1]) / (x[k] - x[k - 1])
        x, y = np.append(x[:k], limit), np.append(y[:k], end)
    return float(np.diff(x) @ (y[1:] + y[:-1])) / 2


def _log_area(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Mean of the curve over the logarithm of ``x``, from ``low`` to ``high``."""
    start, stop = np.maximum(x[:-1], low), np.minimum(x[1:], high)
    inside = stop > start
    start, stop = start[inside], stop[inside]
    slope = (np.diff(y)[inside]) / (np.diff(x)[inside])
    level = y[:-1][inside] - slope * x[:-1][inside]
    area = level @ np.log(stop / start) + slope @ (stop - start)
    return float(area) / float(np.log(high / low))
