"""Bootstrap: images drawn anew, and the curves of pixel metrics that follow."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

__all__ = [
    "ImageCurves",
    "ImageSummaries",
    "ImageSummary",
    "draw_images",
    "drawn_together",
    "percentile_interval",
    "rank_steps",
]

# Of the n normal pixels of an image, the numbers above thresholds are known to n / 512, and to
# 1 / 64 of themselves. Where the values of all images would be more than _MAX_SUMMARY_VALUES,
# both numbers are halved, up to _MAX_LEVEL times.
_SUMMARY_STEPS = (512, 64)
_MAX_SUMMARY_VALUES = 4_000_000
_MAX_LEVEL = 4
# Of more images of a kind, several are drawn together.
_MAX_UNITS = 500
# Draws of no more indices than that are kept for the next metric.
_MAX_KEPT_DRAWS = 1_000_000
# Draws whose curves are computed at a time.
_N_TOGETHER = 50
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

    Returns
    -------
    iterator of ndarray of shape (n_images,), int
        Indices of images. Not to be written to.
    """
    if not isinstance(n_resamples, Integral) or n_resamples < 1:
        raise ValueError(f"n_resamples={n_resamples!r} must be an int of at least 1.")
    _, kind_of = np.unique(y, return_inverse=True)
    if isinstance(random_state, Integral) and n_resamples * len(kind_of) <= _MAX_KEPT_DRAWS:
        return iter(_kept_draws(kind_of.tobytes(), int(n_resamples), int(random_state)))
    return _draws(kind_of, n_resamples, check_random_state(random_state))


def _draws(
    kind_of: np.ndarray, n_resamples: int, rng: np.random.RandomState
) -> Iterator[np.ndarray]:
    kinds = [np.flatnonzero(kind_of == kind) for kind in range(int(kind_of.max()) + 1)]
    for _ in range(n_resamples):
        yield np.concatenate([kind[rng.randint(len(kind), size=len(kind))] for kind in kinds])


@lru_cache(maxsize=2)  # all metrics of some images are computed from the same draws
def _kept_draws(kind_of: bytes, n_resamples: int, seed: int) -> np.ndarray:
    kinds = np.frombuffer(kind_of, np.intp)
    drawn = np.array(list(_draws(kinds, n_resamples, np.random.RandomState(seed))))
    drawn.setflags(write=False)
    return drawn


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


def drawn_together(is_good: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Choose the units that a bootstrap draws: images, or groups where there are very many.

    The images of a group are chosen at random, so that groups vary as their images do, and their
    means by as much less as they are larger: a metric of drawn groups spreads like one of drawn
    images.

    Parameters
    ----------
    is_good : sequence of int
        1 for each good image, 0 for each defective one.

    Returns
    -------
    unit_of : ndarray of shape (n_images,), int
        The unit of each image.
    y : ndarray of shape (n_units,), int
        +1 for units of good images, -1 for those of defective ones.
    """
    good = np.asarray(is_good, dtype=bool)
    unit_of = np.arange(len(good))
    if max(np.count_nonzero(good), np.count_nonzero(~good)) <= _MAX_UNITS:
        return unit_of, np.where(good, 1, -1)
    rng = check_random_state(0)
    labels: list[int] = []
    for label, of_kind in ((1, np.flatnonzero(good)), (-1, np.flatnonzero(~good))):
        n_units = min(len(of_kind), _MAX_UNITS)
        unit_of[rng.permutation(of_kind)] = len(labels) + np.arange(len(of_kind)) % max(n_units, 1)
        labels += [label] * n_units
    return unit_of, np.array(labels)


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


@lru_cache(maxsize=1024)
def _summary_ranks(n: int, level: int) -> np.ndarray:
    """Ranks of the values that a summary of ``n`` values has, the highest value last."""
    if n == 0:
        return np.empty(0, np.int64)
    if level == 0:
        ranks = rank_steps(n, *_SUMMARY_STEPS)
        return (ranks if ranks[-1] == n - 1 else np.append(ranks, n - 1))[::-1]
    return _summary_ranks(n, level - 1)[_kept(n, level)]


@lru_cache(maxsize=1024)
def _kept(n: int, level: int) -> np.ndarray:
    """Indices of the values that a summary keeps of one with more detail.

    The highest ones stay dense: a metric depends on how few of them a threshold leaves.
    """
    finer = _summary_ranks(n, level - 1)[::-1]
    wanted = rank_steps(n, *(one >> level for one in _SUMMARY_STEPS))
    place = np.append(np.searchsorted(finer, wanted), len(finer) - 1)
    return np.unique(len(finer) - 1 - place)


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


class ImageSummaries:
    """Summaries of images, a few values of each, with less of each the more images there are.

    Attributes
    ----------
    is_good : array of int
        1 for each image without a defective pixel, 0 for the others.
    """

    def __init__(self) -> None:
        self.is_good = array("b")
        self._n_values = array("q")
        self._values: list[np.ndarray] = []
        self._level = 0
        self._n_held = 0

    def __len__(self) -> int:
        return len(self.is_good)

    def __iter__(self) -> Iterator[ImageSummary]:
        for is_good, n, values in zip(self.is_good, self._n_values, self._values):
            yield ImageSummary(bool(is_good), n, values, _summary_ranks(n, self._level) + 1)

    def add(self, values: np.ndarray, is_good: bool) -> None:
        """Add an image.

        Parameters
        ----------
        values : ndarray of shape (n_values,)
            Of all its normal pixels, ascending.
        is_good : bool
        """
        n = len(values)
        picked = values[n - 1 - _summary_ranks(n, self._level)]
        self.is_good.append(is_good)
        self._n_values.append(n)
        self._values.append(picked)
        self._n_held += len(picked)
        while self._n_held > _MAX_SUMMARY_VALUES and self._level < _MAX_LEVEL:
            self._coarsen()

    def all_values(self) -> np.ndarray:
        """Give the values of all summaries, in no order.

        Returns
        -------
        ndarray of shape (n_held,)
        """
        return np.concatenate([np.empty(0, np.float32), *self._values])

    def _coarsen(self) -> None:
        self._level += 1
        self._values = [
            values[_kept(n, self._level)] if n else values
            for n, values in zip(self._n_values, self._values)
        ]
        self._n_held = sum(map(len, self._values))


class ImageCurves:
    """Curves of a metric for any draw of images, from sums over images.

    A curve has two points for each of about 1500 thresholds, the share of pixels above it and the
    share at or above it. Shares of defective pixels are exact, those of normal pixels are known to
    1 / 512, and to 1 / 64 of themselves, of each image; to less where there are thousands.

    Parameters
    ----------
    summaries : ImageSummaries
        Of all images.
    unit_of : ndarray of shape (n_images,), int
        The unit of each image, as :func:`drawn_together` chooses it.
    parts : sequence of (ndarray, ndarray or None)
        Per image with a defect, in their order, the scores of its defective pixels and their
        weights, None for 1 each.
    thresholds : ndarray or None
        Thresholds; None takes scores that occur.
    per_good_image : bool
        Average the shares of good images, instead of the pixels of all.
    """

    def __init__(
        self,
        summaries: ImageSummaries,
        unit_of: np.ndarray,
        parts: Sequence[tuple[np.ndarray, np.ndarray | None]],
        *,
        thresholds: np.ndarray | None = None,
        per_good_image: bool = False,
    ) -> None:
        if thresholds is None:
            thresholds = _thresholds(summaries, parts)
        n, n_points = int(unit_of.max()) + 1, 2 * len(thresholds) + 2
        self._normal, self._found = np.zeros((2, n, n_points))
        self._n_normal, self._n_found = np.zeros((2, n))
        remaining = iter(parts)
        for i, one in zip(unit_of.tolist(), summaries):
            counted = one.is_good or not per_good_image
            if counted and one.n_values:
                scale = 1.0 / one.n_values if per_good_image else 1.0
                for first, side in ((1, "right"), (2, "left")):
                    self._normal[i, first:-1:2] += scale * one.reaching(thresholds, side)
                self._normal[i, -1] += scale * one.n_values
                self._n_normal[i] += scale * one.n_values
            if not one.is_good:
                values, weights = next(remaining)
                order = np.argsort(values)
                falling = np.ones(len(values)) if weights is None else weights[order][::-1]
                sums = np.append(np.cumsum(falling)[::-1], 0.0)
                for first, side in ((1, "right"), (2, "left")):
                    place = np.searchsorted(values[order], thresholds, side)  # type: ignore[call-overload]
                    self._found[i, first:-1:2] += sums[place]
                self._found[i, -1] += sums[0]
                self._n_found[i] += sums[0]

    def of_draws(
        self, draws: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, float, float]]:
        """Compute the curves of drawn units of images.

        Parameters
        ----------
        draws : iterable of ndarray of int
            Indices of units; one can occur several times.

        Yields
        ------
        x, y : ndarray of shape (n_points,)
            Shares of the normal and of the defective pixels at or above falling thresholds,
            from 0 to 1.
        n_normal, n_defective : float
            Sums of which these are the shares.
        """
        draws, n_units = iter(draws), len(self._n_normal)
        while some := list(islice(draws, _N_TOGETHER)):
            times = np.array([np.bincount(drawn, minlength=n_units) for drawn in some], np.float64)
            # Rounding must not make a share fall by a little.
            n_normal, n_found = times @ self._n_normal, times @ self._n_found
            x, y = (
                np.minimum(np.maximum.accumulate(times @ sums, axis=1) / n[:, np.newaxis], 1.0)
                for sums, n in ((self._normal, n_normal), (self._found, n_found))
            )
            yield from zip(x, y, n_normal.tolist(), n_found.tolist())


def _thresholds(
    summaries: ImageSummaries, parts: Iterable[tuple[np.ndarray, np.ndarray | None]]
) -> np.ndarray:
    """Scores at even steps of the defective pixels' weight, and of the normal pixels' logarithm."""
    values = np.concatenate([part[0] for part in parts])
    order = np.argsort(values)
    weights = [np.ones(len(part[0])) if part[1] is None else part[1] for part in parts]
    share = np.cumsum(np.concatenate(weights)[order])
    even = np.searchsorted(share, np.linspace(0, share[-1], _N_POINTS))
    chosen = [values[order][np.minimum(even, len(values) - 1)]]
    normal = summaries.all_values()
    normal.sort()
    if len(normal):
        ranks = np.geomspace(1, len(normal), _N_POINTS).astype(np.int64) - 1
        chosen.append(normal[::-1][ranks])
    return np.unique(np.concatenate(chosen))[::-1]
