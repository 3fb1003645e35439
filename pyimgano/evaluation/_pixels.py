"""The pixels of maps and masks, collected image by image for the pixel metrics.

Defective pixels are few, so all of them are held. The other pixels are held, too, until there
are too many, and counted in bins from then on. A metric depends on them through one thing alone:
how many of them score higher than a defective pixel. With bins that number lies between two
bounds, so every metric has two as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np

from pyimgano.datasets import Defect
from pyimgano.evaluation._resampling import ImageSummaries, rank_steps

__all__ = [
    "PixelCounts",
    "Reached",
    "ValueCounts",
    "Weighing",
    "WeightedValues",
    "as_map",
    "weigh_components",
    "weigh_saturated",
]

# Of n values, a new bin holds at most n / _N_BINS, and at most 1 / _N_SINGLE of those above it:
# the highest _N_SINGLE values have a bin each.
_N_BINS = 16_384
_N_SINGLE = 2_048
# Values that are put into bins at a time.
_N_TOGETHER = 1 << 20


class Reached(NamedTuple):
    """Numbers of values above thresholds, and at or above them.

    Parameters
    ----------
    above, at_least : ndarray of shape (2, n_thresholds), int64
        The least and the largest number that is possible; equal if the counts are exact.
    """

    above: np.ndarray
    at_least: np.ndarray


class ValueCounts:
    """Counts of values above thresholds, exact or between two bounds.

    Values are held until :meth:`compress` puts them into bins. A bin is an interval between two
    values that occurred. Bins are disjoint, values that come later are counted by the bin they
    fall into, and those that fall between bins are held again. The number of values above a
    threshold is exact unless the threshold lies within a bin; then it is uncertain by the values
    in this one bin. Only the order of values matters.

    Attributes
    ----------
    n_values : int
        Values added so far.
    n_held : int
        Values that are held one by one.
    """

    def __init__(self) -> None:
        self.n_values = 0
        self.n_held = 0
        self._held: list[np.ndarray] = []
        self._is_sorted = True
        self._low = self._high = np.empty(0, np.float32)  # of the bins, ascending
        self._counts = np.empty(0, np.int64)

    @property
    def exact(self) -> bool:
        """True if all counts are exact."""
        return bool((self._low == self._high).all())

    def add(self, values: np.ndarray) -> None:
        """Add values.

        Parameters
        ----------
        values : ndarray of shape (n,), floating point
            Kept as it is; must not be changed afterwards.
        """
        self.n_values += len(values)
        if len(self._counts):
            place = np.searchsorted(self._high, values)
            inside = place < len(self._high)
            inside[inside] = self._low[place[inside]] <= values[inside]
            self._counts += np.bincount(place[inside], minlength=len(self._counts))
            values = values[~inside]
        if len(values):
            self._held.append(values)
            self.n_held += len(values)
            self._is_sorted = False

    def reached(self, thresholds: np.ndarray) -> Reached:
        """Count the values above thresholds, and those at or above them.

        Parameters
        ----------
        thresholds : ndarray of shape (n_thresholds,)

        Returns
        -------
        Reached
        """
        held = self._sort()
        tails = np.append(np.cumsum(self._counts[::-1])[::-1], 0)
        counts = []
        for side in ("right", "left"):
            single = len(held) - np.searchsorted(held, thresholds, side)
            edges = (np.searchsorted(edge, thresholds, side) for edge in (self._low, self._high))
            counts.append(np.array([single + tails[edge] for edge in edges]))
        return Reached(*counts)

    def smallest_exceeded_by(self, n: int) -> float:
        """Find the smallest value that certainly at most ``n`` values exceed.

        Parameters
        ----------
        n : int
            Less than ``n_values``.

        Returns
        -------
        float
        """
        held = self._sort()
        if not len(self._counts):
            return float(held[len(held) - 1 - n])
        candidates = np.sort(np.concatenate([held, self._high]))
        most = self.reached(candidates).above[1]
        return float(candidates[np.argmax(most <= n)])

    def compress(self) -> None:
        """Put all values that are held into bins."""
        held = self._sort()
        steps = rank_steps(self.n_values, _N_BINS, _N_SINGLE)
        widths = np.diff(steps, append=self.n_values)
        parts: list[tuple[np.ndarray, ...]] = []
        n_above, before, stop, last_bin = 0, (-1, True), len(held), len(self._low)
        # From the highest value down and a part at a time, which saves memory.
        while stop or last_bin:
            start = max(stop - _N_TOGETHER, 0)
            # Equal values stay together.
            start = int(np.searchsorted(held, held[start])) if start else 0
            first_bin = int(np.searchsorted(self._low, held[start])) if start else 0
            values, times = np.unique(held[start:stop], return_counts=True)
            low, high, counts = (
                np.concatenate([of_bins[first_bin:last_bin], of_values])
                for of_bins, of_values in (
                    (self._low, values),
                    (self._high, values),
                    (self._counts, times),
                )
            )
            falling = np.argsort(low)[::-1]
            low, high, counts = low[falling], high[falling], counts[falling]
            step = np.searchsorted(steps, n_above + np.cumsum(counts) - counts, side="right")
            # A value that occurs often stays a bin of its own, which is exact.
            often = counts >= widths[step - 1]
            opens = (np.diff(step, prepend=before[0]) != 0) | often
            opens |= np.append(before[1], often[:-1])
            if not opens[0]:  # it belongs to the last bin of the part above
                n_more = int(np.argmax(opens)) if opens.any() else len(opens)
                parts[-1][0][-1] = low[n_more - 1]
                parts[-1][2][-1] += counts[:n_more].sum()
            n_above += int(counts.sum())
            before = (int(step[-1]), bool(often[-1]))
            first = np.flatnonzero(opens)
            if len(first):
                end = np.append(first[1:], len(counts)) - 1
                parts.append((low[end], high[first], np.add.reduceat(counts, first)))
            stop, last_bin = start, first_bin
        self._low, self._high, self._counts = (
            np.concatenate(column)[::-1] for column in zip(*parts)
        )
        self._held, self.n_held, self._is_sorted = [], 0, True

    def _sort(self) -> np.ndarray:
        if len(self._held) != 1 or not self._is_sorted:
            self._held = [np.concatenate([np.empty(0, np.float32), *self._held])]
            self._held[0].sort()
            self._is_sorted = True
        return self._held[0]


class WeightedValues(NamedTuple):
    """The defective pixels of one image, as a metric counts them.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Their anomaly scores.
    weights : ndarray of shape (n,), float64
        Their shares of their region; those of a region add up to 1.
    """

    values: np.ndarray
    weights: np.ndarray


# Of a map, its masks and their saturation areas.
Weighing = Callable[[np.ndarray, np.ndarray, np.ndarray], WeightedValues]


def weigh_components(
    values: np.ndarray, masks: np.ndarray, saturation_areas: np.ndarray
) -> WeightedValues:
    """Weigh defective pixels by the connected components of the masks' union.

    Parameters
    ----------
    values : ndarray of shape (height, width)
        Anomaly map.
    masks : ndarray of shape (n_masks, height, width)
        Not 0 = defective. Diagonal neighbors touch.
    saturation_areas : ndarray of shape (n_masks,)
        Not used.

    Returns
    -------
    WeightedValues
    """
    union = (masks != 0).any(axis=0)
    _, labels = cv2.connectedComponents(union.astype(np.uint8), connectivity=8)
    labels = labels[union]
    return WeightedValues(values[union], 1.0 / np.bincount(labels)[labels])


def weigh_saturated(
    values: np.ndarray, masks: np.ndarray, saturation_areas: np.ndarray
) -> WeightedValues:
    """Weigh defective pixels by their masks, where a part of each is enough.

    If n pixels are enough, the n that score highest count 1 / n each and the others nothing: that
    is min(number of pixels found / n, 1) at every threshold.

    Parameters
    ----------
    values : ndarray of shape (height, width)
        Anomaly map.
    masks : ndarray of shape (n_masks, height, width)
        Not 0 = defective.
    saturation_areas : ndarray of shape (n_masks,)
        The number of pixels that is enough in each.

    Returns
    -------
    WeightedValues
    """
    highest = [np.sort(values[mask != 0])[::-1][:n] for mask, n in zip(masks, saturation_areas)]
    weights = [np.full(len(part), 1.0 / len(part)) for part in highest]
    return WeightedValues(np.concatenate(highest), np.concatenate(weights))


class PixelCounts:
    """The pixels of maps, as far as pixel metrics need them.

    Parameters
    ----------
    weighings : iterable of callable, default=()
        The functions that weigh defective pixels as metrics need it.
    max_exact : int, default=50_000_000
        How many values of defect-free pixels are held.

    Attributes
    ----------
    n_images, n_pixels : int
        Added so far.
    defective : list of ndarray
        Per defective image the values of its defective pixels.
    weighted : dict of callable to list of WeightedValues
        What each function found, per defective image.
    summaries : ImageSummaries
        Per image a few values of its defect-free pixels.
    """

    def __init__(self, weighings: Iterable[Weighing] = (), max_exact: int = 50_000_000) -> None:
        self.max_exact = max_exact
        self.n_images = 0
        self.n_pixels = 0
        self.defective: list[np.ndarray] = []
        self.weighted: dict[Weighing, list[WeightedValues]] = {weigh: [] for weigh in weighings}
        self._good: dict[int, ValueCounts] = {}  # of good images, by their number of pixels
        self._around = ValueCounts()  # of the other images, beside the defects
        self.summaries = ImageSummaries()

    def update(self, anomaly_map: Any, masks: Any, label: int | None) -> None:
        """Add the pixels of one image.

        Parameters
        ----------
        anomaly_map : array-like of shape (height, width)
        masks : 0, or array-like of shape ([n_masks,] height, width), or list of Defect
        label : {1, -1} or None
        """
        where = f"image {self.n_images}"
        values = as_map(anomaly_map, where)
        masks, areas = _as_masks(masks, values.shape, label, where)
        if not len(masks):
            normal = np.sort(values, axis=None)
            self._good.setdefault(values.size, ValueCounts()).add(normal)
        else:
            union = (masks != 0).any(axis=0)
            normal = np.sort(values[~union])
            self._around.add(normal)
            self.defective.append(values[union])
            for weigh, found in self.weighted.items():
                found.append(weigh(values, masks, areas))
        self.summaries.add(normal, not len(masks))
        self.n_images += 1
        self.n_pixels += values.size
        counts = [*self._good.values(), self._around]
        # Once counts are no longer exact, there is no reason to hold that many.
        most = self.max_exact if self.exact else self.max_exact // 4
        while sum(one.n_held for one in counts) > most:
            max(counts, key=lambda one: one.n_held).compress()

    @property
    def exact(self) -> bool:
        """True if all counts are exact."""
        return all(one.exact for one in [*self._good.values(), self._around])

    @property
    def n_good_images(self) -> int:
        """Number of images without a defect."""
        return sum(one.n_values // size for size, one in self._good.items())

    @property
    def n_normal(self) -> int:
        """Number of pixels without a defect, in images of both kinds."""
        return sum(one.n_values for one in [*self._good.values(), self._around])

    @property
    def n_good_pixels(self) -> int:
        """Number of pixels of the images without a defect."""
        return sum(one.n_values for one in self._good.values())

    def normal_reached(self, thresholds: np.ndarray) -> Reached:
        """Count the pixels without a defect, in images of both kinds, that reach thresholds.

        Parameters
        ----------
        thresholds : ndarray of shape (n_thresholds,)

        Returns
        -------
        Reached
        """
        parts = [one.reached(thresholds) for one in [*self._good.values(), self._around]]
        return Reached(*(sum(part) for part in zip(*parts)))  # type: ignore[arg-type]

    def good_rates(self, thresholds: np.ndarray) -> Reached:
        """Average, over good images, the share of pixels that reach thresholds.

        Parameters
        ----------
        thresholds : ndarray of shape (n_thresholds,)

        Returns
        -------
        Reached
            Shares in place of counts.
        """
        totals = [np.zeros((2, len(thresholds))) for _ in range(2)]
        for size, one in self._good.items():
            for total, counts in zip(totals, one.reached(thresholds)):
                total += counts / size
        return Reached(*(total / self.n_good_images for total in totals))


def as_map(anomaly_map: Any, where: str) -> np.ndarray:
    """Check an anomaly map; integers and half precision become floats that hold them.

    Parameters
    ----------
    anomaly_map : array-like of shape (height, width)
    where : str
        Which image this is, for error messages.

    Returns
    -------
    ndarray of shape (height, width), float32 or float64
    """
    values = np.asarray(anomaly_map)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    elif values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"{where}: an anomaly map has shape (height, width), got {values.shape}. Give the maps "
            "of several images one at a time."
        )
    if np.isnan(values).any():
        raise ValueError(
            f"{where}: {int(np.isnan(values).sum())} of {values.size} values of the anomaly map "
            "are NaN, which has no place in an order. Leave the image out, or give these pixels "
            "a value."
        )
    return values


def _as_masks(
    masks: Any, size: tuple[int, ...], label: int | None, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of shape (n_masks, height, width), none for a good image; their saturation areas."""
    if label not in (None, 1, -1):
        raise ValueError(f"{where}: label must be +1 (normal) or -1 (anomalous), got {label!r}.")
    areas = None
    if isinstance(masks, (list, tuple)) and all(isinstance(one, Defect) for one in masks):
        if not masks and label == 1:
            masks = 0
        elif masks:
            areas = np.array([int(one.saturation_area) for one in masks])
            masks = np.array([one.mask for one in masks])
    if masks is None or np.shape(masks) == (0,):
        raise ValueError(
            f"{where} has no mask. Give 0 for a good image; leave a defective image whose mask is "
            "missing out of pixel metrics."
        )
    masks = np.asarray(masks)
    if masks.ndim:
        if masks.ndim == 2:
            masks = masks[np.newaxis]
        if masks.shape[1:] != size:
            raise ValueError(
                f"{where}: the map has shape {size}, its mask {masks.shape[1:]}. Resize the map to "
                "the pixels of the mask."
            )
    elif masks != 0:
        raise ValueError(f"{where}: masks must be 0 or arrays, got {masks}.")
    is_good = not masks.any()
    if label is not None and is_good != (label == 1):
        raise ValueError(
            f"{where} has label {label:+d}, but its mask says that "
            f"{'no pixel is' if is_good else 'some pixels are'} defective. Correct the label, or "
            "leave the image out."
        )
    if is_good:
        return np.empty((0, *size), np.uint8), np.empty(0, np.int64)
    pixels = np.count_nonzero(masks, axis=(1, 2))
    if not pixels.all():
        raise ValueError(
            f"{where}: mask {int(np.argmin(pixels))} of {len(masks)} is empty; give one mask per "
            "defect."
        )
    # A share of a small defect can round to no pixel at all.
    return masks, pixels if areas is None else np.clip(areas, 1, pixels)
