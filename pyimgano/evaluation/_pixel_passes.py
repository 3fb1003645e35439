"""Several pixel metrics from one pass, and single values from maps that are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any

from sklearn.utils import check_consistent_length

from pyimgano.evaluation._pixel_metrics import (
    AUPRO,
    MAX_EXACT,
    PixelAUROC,
    PixelAveragePrecision,
    PixelMetric,
)
from pyimgano.evaluation._pixels import PixelCounts, ValueCounts, as_map
from pyimgano.exceptions import TooFewImagesError

__all__ = ["PixelMetrics", "aupro", "pixel_auroc", "pixel_threshold"]


class PixelMetrics:
    """Several pixel metrics from one pass over the maps.

    The pixels are held once for all metrics.

    Parameters
    ----------
    metrics : dict of str to PixelMetric, default=None
        By the names of the results. None is ``auroc``, ``average_precision``, ``aupro`` (limit
        0.3) and ``aupro_0.05``.
    max_exact : int, default=50_000_000
        Number of pixels without a defect up to which the values are exact; see
        :class:`PixelMetric`. It takes the place of the metrics' own.

    Attributes
    ----------
    n_images, n_pixels : int
        Images and pixels added so far.
    exact : bool
        Whether the values are exact.

    Examples
    --------
    >>> from pyimgano.evaluation import AUPRO, PixelAUROC, PixelMetrics
    >>> metrics = PixelMetrics({"auroc": PixelAUROC(), "aupro": AUPRO(limit=0.5)})
    >>> metrics.update([[9, 8, 1, 0, 5]], [[1, 0, 0, 0, 1]])
    >>> metrics.update([[2, 1, 1, 2, 3]], 0, label=1)
    >>> metrics.compute()
    {'auroc': 0.9375, 'aupro': 0.875}
    """

    def __init__(
        self, metrics: Mapping[str, PixelMetric] | None = None, *, max_exact: int = MAX_EXACT
    ) -> None:
        if metrics is None:
            metrics = {
                "auroc": PixelAUROC(),
                "average_precision": PixelAveragePrecision(),
                "aupro": AUPRO(),
                "aupro_0.05": AUPRO(limit=0.05),
            }
        for name, metric in metrics.items():
            if not isinstance(metric, PixelMetric):
                raise TypeError(
                    f"metrics[{name!r}] must be a pixel metric such as AUPRO(), got {metric!r}."
                )
            if metric.n_images:
                raise ValueError(
                    f"metrics[{name!r}] holds {metric.n_images} images already: give new ones."
                )
        weighings = dict.fromkeys(one for metric in metrics.values() for one in metric._weighings())
        self.max_exact = max_exact
        self._pixels = PixelCounts(weighings, max_exact)
        self._metrics = {name: copy(metric) for name, metric in metrics.items()}
        for metric in self._metrics.values():
            metric.max_exact = max_exact
            metric._pixels = self._pixels

    @property
    def n_images(self) -> int:
        return self._pixels.n_images

    @property
    def n_pixels(self) -> int:
        return self._pixels.n_pixels

    @property
    def exact(self) -> bool:
        return self._pixels.exact

    def __getitem__(self, name: str) -> PixelMetric:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def update(self, anomaly_map: Any, masks: Any, label: int | None = None) -> None:
        """Add one image to all metrics.

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

    def compute(self) -> dict[str, float | None]:
        """Compute all metrics of all images so far.

        Returns
        -------
        dict of str to float or None
            None where a metric is not defined.
        """
        return {name: metric.compute() for name, metric in self._metrics.items()}


def pixel_auroc(maps: Iterable[Any], masks: Iterable[Any]) -> float | None:
    """Area under the ROC curve over all pixels of all images, defective ones as positives.

    Parameters
    ----------
    maps : iterable of array-like of shape (height, width)
        Anomaly maps, higher = more anomalous; sizes may differ.
    masks : iterable of array-like of shape (height, width), or 0
        Masks of the same sizes, not 0 = defective.

    Returns
    -------
    float or None
        None if all pixels are of one kind. See :class:`PixelAUROC` about very many pixels.

    Examples
    --------
    >>> from pyimgano.evaluation import pixel_auroc
    >>> pixel_auroc([[[0.1, 0.2], [0.4, 0.3]]], [[[0, 0], [0, 1]]])
    0.6666666666666667
    """
    return _of_all(PixelAUROC(), maps, masks)


def aupro(maps: Iterable[Any], masks: Iterable[Any], *, limit: float = 0.3) -> float | None:
    """Area under the per-region overlap curve, up to a limit of the false-positive rate.

    Parameters
    ----------
    maps : iterable of array-like of shape (height, width)
        Anomaly maps, higher = more anomalous; sizes may differ.
    masks : iterable of array-like of shape (height, width), or 0
        Masks of the same sizes, not 0 = defective.
    limit : float in (0, 1], default=0.3
        Largest false-positive rate.

    Returns
    -------
    float or None
        None if all pixels are of one kind. See :class:`AUPRO`.

    Examples
    --------
    >>> from pyimgano.evaluation import aupro
    >>> aupro([[[9, 8, 1, 0, 5]]], [[[1, 0, 0, 0, 1]]], limit=0.5)
    0.6666666666666667
    """
    return _of_all(AUPRO(limit), maps, masks)


def _of_all(metric: PixelMetric, maps: Iterable[Any], masks: Iterable[Any]) -> float | None:
    maps, masks = list(maps), list(masks)
    check_consistent_length(maps, masks)
    for anomaly_map, mask in zip(maps, masks):
        metric.update(anomaly_map, mask)
    return metric.compute()


def pixel_threshold(maps: Iterable[Any], *, false_positive_rate: float) -> float:
    """Find the pixel threshold that a stated share of the pixels of good images exceeds.

    Parameters
    ----------
    maps : iterable of array-like of shape (height, width)
        Anomaly maps of good images that the detector was not fitted on, one at a time.
    false_positive_rate : float in [0, 1)
        Largest share of pixels above the threshold.

    Returns
    -------
    float
        The smallest score that at most this share of the pixels exceeds. Beyond 50 million
        pixels it can be one of the next larger scores.

    Examples
    --------
    >>> from pyimgano.evaluation import pixel_threshold
    >>> pixel_threshold([[[1, 2, 3, 4, 5]], [[6, 7, 8, 9, 10]]], false_positive_rate=0.2)
    8.0
    """
    if not 0 <= false_positive_rate < 1:
        raise ValueError(
            f"false_positive_rate={false_positive_rate!r} must be a share in [0, 1), 0.01 for 1 %."
        )
    counts = ValueCounts()
    for i, anomaly_map in enumerate(maps):
        counts.add(as_map(anomaly_map, f"image {i}").flatten())
        if counts.n_held > MAX_EXACT:
            counts.compress()
    if not counts.n_values:
        raise TooFewImagesError("a pixel threshold needs the anomaly map of a good image.")
    # 1e-9 of a pixel makes up for the rounding of, say, 0.29 * 100.
    return counts.smallest_exceeded_by(int(false_positive_rate * counts.n_values + 1e-9))
