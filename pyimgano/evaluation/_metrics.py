"""Metrics of anomaly scores, maps and verdicts; higher scores are more anomalous."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.utils import check_consistent_length

__all__ = ["PixelAUROC", "image_metrics", "pixel_auroc", "rate"]

# Pixels kept for the exact value: 200 MB of float32.
_MAX_EXACT = 50_000_000
# Beyond that, counts by sign, exponent and the first 11 bits of the fraction.
_DROPPED_BITS = 12


def image_metrics(scores: Any, y: Any) -> dict[str, float | None]:
    """Measure how well scores separate anomalous from normal images, at all thresholds.

    Parameters
    ----------
    scores : array-like of shape (n_images,)
        Anomaly scores, higher = more anomalous.
    y : array-like of shape (n_images,)
        +1 for normal, -1 for anomalous.

    Returns
    -------
    dict
        ``auroc`` and ``average_precision``, anomalies being the positive class. None where
        there is only one of the two kinds.

    Examples
    --------
    >>> from pyimgano.evaluation import image_metrics
    >>> image_metrics([0.1, 0.3, 0.2, 0.9], [1, 1, -1, -1])
    {'auroc': 0.75, 'average_precision': 0.8333333333333333}
    """
    scores, y = np.asarray(scores, dtype=np.float64), np.asarray(y)
    check_consistent_length(scores, y)
    if not np.isin(y, (1, -1)).all():
        raise ValueError("y must hold +1 (normal) and -1 (anomalous) only.")
    if len(np.unique(y)) < 2:
        return {"auroc": None, "average_precision": None}
    return {
        "auroc": float(roc_auc_score(y == -1, scores)),
        "average_precision": float(average_precision_score(y == -1, scores)),
    }


def pixel_auroc(maps: Iterable[Any], masks: Iterable[Any]) -> float | None:
    """Area under the ROC curve over all pixels of all images, defective ones as positives.

    Parameters
    ----------
    maps : iterable of array-like of shape (height, width)
        Anomaly maps, higher = more anomalous; sizes may differ.
    masks : iterable of array-like of shape (height, width)
        Masks of the same sizes, not 0 = defective.

    Returns
    -------
    float or None
        None if all pixels are of one kind. See :class:`PixelAUROC` about very many pixels.

    Examples
    --------
    >>> from pyimgano.evaluation import pixel_auroc
    >>> pixel_auroc([[[0.1, 0.2], [0.4, 0.3]]], [[[0, 0], [0, 1]]])
    0.6666666666666666
    """
    total = PixelAUROC()
    maps, masks = list(maps), list(masks)
    check_consistent_length(maps, masks)
    for anomaly_map, mask in zip(maps, masks):
        total.add(anomaly_map, mask)
    return total.value()


class PixelAUROC:
    """Pixel AUROC of maps that come one at a time.

    Parameters
    ----------
    max_exact : int, default=50_000_000
        Number of pixels up to which the value is exact. Beyond it pixels are counted by
        their value rounded to 12 significant bits, in constant memory, and pixels of one
        such value count as equal.

    Attributes
    ----------
    n_pixels : int
        Pixels added so far.
    exact : bool
        Whether the value is exact.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.evaluation import PixelAUROC
    >>> total = PixelAUROC()
    >>> total.add(np.array([[0.1, 0.9]]), np.array([[0, 1]]))
    >>> total.value()
    1.0
    """

    def __init__(self, max_exact: int = _MAX_EXACT) -> None:
        self.max_exact = max_exact
        self.n_pixels = 0
        self.exact = True
        self._kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])  # good, defective
        self._counts = np.zeros((2, 0), dtype=np.int64)

    def add(self, anomaly_map: Any, mask: Any) -> None:
        """Add the pixels of one image.

        Parameters
        ----------
        anomaly_map : array-like of shape (height, width)
        mask : array-like of shape (height, width)
            Not 0 = defective.
        """
        values, defective = np.asarray(anomaly_map, dtype=np.float32), np.asarray(mask) != 0
        if values.shape != defective.shape:
            raise ValueError(f"the map has shape {values.shape}, its mask {defective.shape}.")
        self.n_pixels += values.size
        parts = values[~defective], values[defective]
        if self.exact and self.n_pixels > self.max_exact:
            self.exact = False
            self._counts = np.zeros((2, 1 << (32 - _DROPPED_BITS)), dtype=np.int64)
            for kind in range(2):
                for part in self._kept[kind]:
                    self._count(kind, part)
            self._kept = ([], [])
        for kind, part in enumerate(parts):
            if self.exact:
                self._kept[kind].append(part)
            else:
                self._count(kind, part)

    def value(self) -> float | None:
        """The area under the curve so far; None if all pixels are of one kind."""
        if not self.exact:
            good, defective = self._counts
            below = np.cumsum(good) - good
            wins = float((defective * (below + 0.5 * good)).sum(dtype=np.float64))
            n_good, n_defective = float(good.sum()), float(defective.sum())
        else:
            good, defective = (
                np.concatenate([np.empty(0, np.float32), *part]) for part in self._kept
            )
            good.sort()
            below = np.searchsorted(good, defective, side="left")
            not_above = np.searchsorted(good, defective, side="right")
            wins = 0.5 * float((below + not_above).sum(dtype=np.float64))
            n_good, n_defective = float(len(good)), float(len(defective))
        if n_good == 0 or n_defective == 0:
            return None
        return wins / (n_good * n_defective)

    def _count(self, kind: int, values: np.ndarray) -> None:
        # The bits of a float, as an integer, have its order once negative ones are flipped.
        bits = np.ascontiguousarray(values).view(np.uint32)
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
        found, counts = np.unique(ordered >> np.uint32(_DROPPED_BITS), return_counts=True)
        self._counts[kind, found] += counts


def rate(count: int, n: int) -> dict[str, Any]:
    """A rate with its 95 % interval (Clopper and Pearson's, never too short).

    Parameters
    ----------
    count : int
        How often it happened.
    n : int
        How often it could have.

    Returns
    -------
    dict
        ``value``, ``interval_95`` (list of two), ``count`` and ``n``; value and interval are
        None if ``n`` is 0.

    References
    ----------
    .. [1] C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated
       in the case of the binomial", Biometrika 26(4), 1934.

    Examples
    --------
    >>> from pyimgano.evaluation import rate
    >>> low, high = rate(0, 20)["interval_95"]
    >>> low, round(high, 3)
    (0.0, 0.168)
    """
    if not 0 <= count <= n:
        raise ValueError(f"count={count} must lie between 0 and n={n}.")
    if n == 0:
        return {"value": None, "interval_95": None, "count": 0, "n": 0}
    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, n - count + 1))
    high = 1.0 if count == n else float(beta.ppf(0.975, count + 1, n - count))
    return {"value": count / n, "interval_95": [low, high], "count": count, "n": n}
