"""Bootstrap: images drawn anew, and the curves of pixel metrics that follow."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

__all__ = [
    "SUMMARY_STEPS",
    "ImageCurves",
    "ImageSummary",
    "draw_images",
    "percentile_interval",
]

# Of the n normal pixels of an image, the numbers above thresholds are known to n / 512, and to
# 1 / 64 of themselves.
SUMMARY_STEPS = (512, 64)
# Points at which curves are computed, from defective and from normal pixels.
_N_POINTS = 768


def draw_images(y: np.ndarray, n_resamples: int, random_state: Any) -> Iterator[np.ndarray]:
    """Draw images with replacement, as many of each label as there are.

    Parameters
    ----------
    y : ndarray of shape (n_images,)
        Labels.
    n_resamples : int
    random_state : int, RandomState or None

    Yields
    ------
    ndarray of shape (n_images,), int
        Indices of images.
    """
    if not isinstance(n_resamples, Integral) or n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples!r} must be an int of at least 1.")
    rng = check_random_state(random_state)
    kinds = [np.flatnonzero(y == kind) for kind in np.unique(y)]
    for _ in range(n_resamples):
        yield np.concatenate([kind[rng.randint(len(kind), size=len(kind))] for kind in kinds])


def percentile_interval(values: Any, confidence_level: float) -> tuple[float, float]:
    """Find the quantiles of a metric that leave out equal shares of the draws on both sides.

    Parameters
    ----------
    values : array-like of shape (n_resamples,)
    confidence_level : float

    Returns
    -------
    low, high : float
    """
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level={confidence_level!r} must be in (0, 1), 0.95 for 95 %.")
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError(
            f"metric returned NaN for {int(np.isnan(values).sum())} of {len(values)} draws: it "
            "must be defined for any images, as long as there are as many of each kind as in y."
        )
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


class ImageSummary(NamedTuple):
    """Some of the values of the normal pixels of one image.

    Parameters
    ----------
    is_good : bool
        True if the image has no defective pixel.
    n_values : int
        Number of normal pixels.
    values : ndarray of shape (n,)
        Ascending, the lowest and the highest of all among them.
    counts : ndarray of shape (n,), int64
        Number of pixels from each of these to the highest, in the order of their values.
    """

    is_good: bool
    n_values: int
    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, is_good: bool, steps: np.ndarray) -> ImageSummary:
        """Pick values of an image.

        Parameters
        ----------
        values : ndarray of shape (n_values,)
            Of all its normal pixels, ascending.
        is_good : bool
        steps : ndarray of int
            Ranks from the highest value, ascending, of the values to pick.

        Returns
        -------
        ImageSummary
        """
        n = len(values)
        ranks = steps[::-1] if n == 0 or steps[-1] == n - 1 else np.append(n - 1, steps[::-1])
        return cls(is_good, n, values[n - 1 - ranks], ranks + 1)

    def reaching(self, thresholds: np.ndarray, side: Any) -> np.ndarray:
        """Estimate how many pixels lie above thresholds, or at or above them.

        Parameters
        ----------
        thresholds : ndarray of shape (n_thresholds,)
        side : {"right", "left"}
            ``"right"`` counts the pixels above, ``"left"`` those at or above.

        Returns
        -------
        ndarray of shape (n_thresholds,), float64
            In the middle of what is possible.
        """
        place = np.searchsorted(self.values, thresholds, side)
        least = np.append(self.counts, 0)
        most = np.append(self.n_values, self.counts - 1)
        return (least[place] + most[place]) / 2


class ImageCurves:
    """Curves of a metric for any draw of images, from sums over images.

    A curve has two points for each of about 1500 thresholds, the share of pixels above it and the
    share at or above it. Shares of defective pixels are exact, those of normal pixels are known to
    1 / 512, and to 1 / 64 of themselves.

    Parameters
    ----------
    summaries : list of ImageSummary
        Of all images.
    parts : list of (ndarray, ndarray)
        Per image with a defect, in their order, the scores of its defective pixels and their
        weights.
    thresholds : ndarray or None
        Thresholds; None takes scores that occur.
    per_good_image : bool
        Average the shares of good images, instead of the pixels of all.
    """

    def __init__(
        self,
        summaries: list[ImageSummary],
        parts: list[Any],
        *,
        thresholds: np.ndarray | None = None,
        per_good_image: bool = False,
    ) -> None:
        if thresholds is None:
            thresholds = _thresholds(summaries, parts)
        n, n_points = len(summaries), 2 * len(thresholds) + 2
        self._normal, self._found = np.zeros((2, n, n_points))
        self._n_normal, self._n_found = np.zeros((2, n))
        remaining = iter(parts)
        for i, one in enumerate(summaries):
            counted = one.is_good or not per_good_image
            if counted and one.n_values:
                scale = 1.0 / one.n_values if per_good_image else 1.0
                for first, side in ((1, "right"), (2, "left")):
                    self._normal[i, first:-1:2] = scale * one.reaching(thresholds, side)
                self._normal[i, -1] = self._n_normal[i] = scale * one.n_values
            if not one.is_good:
                values, weights = next(remaining)
                order = np.argsort(values)
                sums = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
                for first, side in ((1, "right"), (2, "left")):
                    place = np.searchsorted(values[order], thresholds, side)  # type: ignore[call-overload]
                    self._found[i, first:-1:2] = sums[place]
                self._found[i, -1] = self._n_found[i] = sums[0]

    def of(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Compute the curve of some images.

        Parameters
        ----------
        drawn : ndarray of int
            Indices of the images; one can occur several times.

        Returns
        -------
        x, y : ndarray of shape (n_points,)
            Shares of the normal and of the defective pixels at or above falling thresholds,
            from 0 to 1.
        n_normal, n_defective : float
            Sums of which these are the shares.
        """
        times = np.bincount(drawn, minlength=len(self._n_normal)).astype(np.float64)
        n_normal, n_found = float(times @ self._n_normal), float(times @ self._n_found)
        # Rounding must not make a share fall by a little.
        x, y = (
            np.minimum(np.maximum.accumulate(times @ sums) / n, 1.0)
            for sums, n in ((self._normal, n_normal), (self._found, n_found))
        )
        return x, y, n_normal, n_found


def _thresholds(summaries: list[ImageSummary], parts: list[Any]) -> np.ndarray:
    """Scores at even steps of the defective pixels' weight, and of the normal pixels' logarithm."""
    values = np.concatenate([part[0] for part in parts])
    order = np.argsort(values)
    share = np.cumsum(np.concatenate([part[1] for part in parts])[order])
    even = np.searchsorted(share, np.linspace(0, share[-1], _N_POINTS))
    chosen = [values[order][np.minimum(even, len(values) - 1)]]
    normal = np.sort(np.concatenate([one.values for one in summaries]))[::-1]
    if len(normal):
        ranks = np.geomspace(1, len(normal), _N_POINTS).astype(np.int64) - 1
        chosen.append(normal[ranks])
    return np.unique(np.concatenate(chosen))[::-1]
