"""The pixels of maps and masks, collected image by image for the pixel metrics.

Defective pixels are few, so all of them are held. The other pixels are held, too, until there
are too many, and counted in bins from then on. A metric depends on them through one thing alone:
how many of them score higher than a defective pixel. With bins that number lies between two
bounds, so every metric has two as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from pyimgano.evaluation._resampling import SUMMARY_STEPS, ImageSummary

__all__ = [
    "Components",
    "PixelCounts",
    "Reached",
    "Regions",
    "Saturation",
    "ValueCounts",
    "WeightedValues",
    "as_map",
    "rank_steps",
]

# Of n values, a new bin holds at most n / _N_BINS, and at most 1 / _N_SINGLE of those above it:
# the highest _N_SINGLE values have a bin each.
_N_BINS = 16_384
_N_SINGLE = 2_048


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
        values, times = np.unique(self._sort(), return_counts=True)
        low, high = (np.concatenate([edge, values]) for edge in (self._low, self._high))
        counts = np.concatenate([self._counts, times])
        falling = np.argsort(low)[::-1]
        low, high, counts = low[falling], high[falling], counts[falling]
        steps = rank_steps(self.n_values, _N_BINS, _N_SINGLE)
        step = np.searchsorted(steps, np.cumsum(counts) - counts, side="right")
        room = np.diff(steps, append=self.n_values)[step - 1]
        # A value that occurs often stays a bin of its own, which is exact.
        often = counts >= room
        opens = np.append(True, (step[1:] != step[:-1]) | often[1:] | often[:-1])
        first = np.flatnonzero(opens)
        last = np.append(first[1:], len(counts)) - 1
        self._counts = np.add.reduceat(counts, first)[::-1]
        self._low, self._high = low[last][::-1], high[first][::-1]
        self._held, self.n_held, self._is_sorted = [], 0, True

    def _sort(self) -> np.ndarray:
        if len(self._held) != 1 or not self._is_sorted:
            self._held = [np.concatenate([np.empty(0, np.float32), *self._held])]
            self._held[0].sort()
            self._is_sorted = True
        return self._held[0]


@lru_cache(maxsize=16)  # images of one size have as many defect-free pixels
def rank_steps(n: int, n_steps: int, n_single: int) -> np.ndarray:
    """Choose ranks of ``n`` values, dense among the highest and at even steps below.

    Parameters
    ----------
    n : int
        Number of values.
    n_steps : int
        Two ranks are at most ``n / n_steps`` apart.
    n_single : int
        Nor are they further apart than their rank divided by this.

    Returns
    -------
    ndarray of int64
        Ascending, counted from 0 for the highest value.
    """
    singles = np.arange(n_single, dtype=np.float64)
    growth = 1.0 + 1.0 / n_single
    widest = max(n / n_steps, 1.0)
    growing = n_single * growth ** np.arange(np.ceil(np.log(widest) / np.log(growth)))
    rest = np.arange(n_single * widest, n, widest)
    steps = np.unique(np.concatenate([singles, growing, rest]).astype(np.int64))
    return steps[steps < n]


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


class Regions:
    """A way to divide the defective pixels of an image into regions that count alike."""

    def weigh(self, values: np.ndarray, masks: np.ndarray, where: str) -> WeightedValues:
        """Find the regions, and the share that each of their pixels has.

        Parameters
        ----------
        values : ndarray of shape (height, width)
            Anomaly map.
        masks : ndarray of shape (n_masks, height, width)
            Not 0 = defective.
        where : str
            Which image this is, for error messages.

        Returns
        -------
        WeightedValues
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Components(Regions):
    """Regions are the connected components of the masks' union; diagonal neighbors touch."""

    def weigh(self, values: np.ndarray, masks: np.ndarray, where: str) -> WeightedValues:
        union = (masks != 0).any(axis=0)
        _, labels = cv2.connectedComponents(union.astype(np.uint8), connectivity=8)
        labels = labels[union]
        return WeightedValues(values[union], 1.0 / np.bincount(labels)[labels])


@dataclass(frozen=True)
class Saturation(Regions):
    """Regions are the masks, and finding part of one may count as finding all of it.

    Of a region that saturates at n pixels, the n that score highest count 1 / n each and the
    others nothing: that is min(number of pixels found / n, 1) at every threshold.

    Parameters
    ----------
    needed : tuple of (int, (float, bool)), or None
        Per value of a mask, its saturation threshold and whether that is relative to the area.
        None saturates at the whole area.
    """

    needed: tuple[tuple[int, tuple[float, bool]], ...] | None = None

    @classmethod
    def from_config(cls, config: Any) -> Saturation:
        """Read saturation thresholds from what the user gave.

        Parameters
        ----------
        config : None, dict of int to int or float, or list of dict
            None; or per value of a mask a number of pixels (int) or a share of the area (float);
            or what ``defects_config.json`` of MVTec LOCO AD holds.

        Returns
        -------
        Saturation
        """
        if config is None:
            return cls()
        if isinstance(config, Mapping):
            entries = [
                (key, value, not isinstance(value, (int, np.integer)))
                for key, value in config.items()
            ]
        else:
            keys = ("pixel_value", "saturation_threshold", "relative_saturation")
            for i, entry in enumerate(config):
                missing = [key for key in keys if key not in entry]
                if missing:
                    raise ValueError(
                        f"saturation[{i}] has no {', '.join(missing)}; each entry needs "
                        f"{', '.join(keys)}, as in defects_config.json of MVTec LOCO AD."
                    )
            entries = [tuple(entry[key] for key in keys) for entry in config]
        for key, value, relative in entries:
            if not isinstance(key, (int, np.integer)) or not 1 <= key <= 255:
                raise ValueError(f"saturation: {key!r} is no value of a mask, an int in 1..255.")
            limit = 1 if relative else np.inf
            is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not is_number or not 0 < value <= limit:
                what = "a share of the area in (0, 1]" if relative else "a number of pixels >= 1"
                raise ValueError(
                    f"saturation of mask value {key} must be {what}, got {value!r}. An int is a "
                    "number of pixels, a float a share."
                )
        return cls(tuple((int(k), (float(v), bool(relative))) for k, v, relative in entries))

    def weigh(self, values: np.ndarray, masks: np.ndarray, where: str) -> WeightedValues:
        parts = []
        for k, mask in enumerate(masks):
            found = np.sort(values[mask != 0])[::-1]
            n = self._n_needed(mask, len(found), f"{where}: mask {k}")
            parts.append((found[:n], np.full(n, 1.0 / n)))
        return WeightedValues(*(np.concatenate(part) for part in zip(*parts)))

    def _n_needed(self, mask: np.ndarray, area: int, where: str) -> int:
        if area == 0:
            raise ValueError(f"{where} is empty; sPRO needs one mask per defect, none without.")
        if self.needed is None:
            return area
        needed = dict(self.needed)
        kinds = np.unique(mask[mask != 0]).tolist()
        if len(kinds) > 1 or kinds[0] not in needed:
            raise ValueError(
                f"{where} holds the values {', '.join(map(str, kinds))} beside 0. It must hold one "
                f"for which there is a saturation threshold: {', '.join(map(str, needed))}. Read "
                "masks without changing their values."
            )
        threshold, relative = needed[kinds[0]]
        return max(1, int(threshold * area) if relative else min(int(threshold), area))


class PixelCounts:
    """The pixels of maps, as far as pixel metrics need them.

    Parameters
    ----------
    regions : iterable of Regions, default=()
        The divisions into regions that are needed.
    max_exact : int, default=50_000_000
        How many values of defect-free pixels are held.

    Attributes
    ----------
    n_images, n_pixels : int
        Added so far.
    defective : list of ndarray
        Per defective image the values of its defective pixels.
    regions : dict of Regions to list of WeightedValues
        Per defective image.
    summaries : list of ImageSummary
        Per image a few values of its defect-free pixels.
    """

    def __init__(self, regions: Iterable[Hashable] = (), max_exact: int = 50_000_000) -> None:
        self.max_exact = max_exact
        self.n_images = 0
        self.n_pixels = 0
        self.defective: list[np.ndarray] = []
        self.regions: dict[Any, list[WeightedValues]] = {one: [] for one in regions}
        self._good: dict[int, ValueCounts] = {}  # of good images, by their number of pixels
        self._around = ValueCounts()  # of the other images, beside the defects
        self.summaries: list[ImageSummary] = []

    def update(self, anomaly_map: Any, masks: Any, label: int | None) -> None:
        """Add the pixels of one image.

        Parameters
        ----------
        anomaly_map : array-like of shape (height, width)
        masks : array-like of shape (height, width) or (n_masks, height, width), or 0
        label : {1, -1} or None
        """
        where = f"image {self.n_images}"
        values = as_map(anomaly_map, where)
        masks = _as_masks(masks, values.shape, label, where)
        if masks is None:
            normal = np.sort(values, axis=None)
            self._good.setdefault(values.size, ValueCounts()).add(normal)
        else:
            weighed = [regions.weigh(values, masks, where) for regions in self.regions]
            union = (masks != 0).any(axis=0)
            normal = np.sort(values[~union])
            self._around.add(normal)
            self.defective.append(values[union])
            for found, one in zip(self.regions.values(), weighed):
                found.append(one)
        steps = rank_steps(len(normal), *SUMMARY_STEPS)
        self.summaries.append(ImageSummary.of(normal, masks is None, steps))
        self.n_images += 1
        self.n_pixels += values.size
        counts = [*self._good.values(), self._around]
        while sum(one.n_held for one in counts) > self.max_exact:
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
) -> np.ndarray | None:
    """Masks as one array of shape (n_masks, height, width); None for a good image."""
    if label not in (None, 1, -1):
        raise ValueError(f"{where}: label must be +1 (normal) or -1 (anomalous), got {label!r}.")
    if masks is None:
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
    return None if is_good else masks
