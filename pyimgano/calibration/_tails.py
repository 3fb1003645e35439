"""Thresholds on sorted scores, and what is known of the rate of good images above them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, genpareto

from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.utils._warning import warn_user

__all__ = ["METHODS", "Cut", "check_enough", "cut_by_hand"]

# Peaks over threshold: the share of the scores that counts as tail, and how many it takes.
_TAIL_SHARE = 0.1
_MIN_TAIL = 10
_LEAST_FOR_TAIL = math.floor((_MIN_TAIL - 1) / _TAIL_SHARE) + 1


class Cut(NamedTuple):
    threshold: float
    rate: float
    interval: tuple[float, float]


def _cut_at_rank(threshold: float, rank: float, n: int) -> Cut:
    """The rate of good images above the rank-th smallest of n scores is Beta distributed."""
    low, high = beta.ppf([0.025, 0.975], n + 1 - rank, rank)
    return Cut(float(threshold), (n + 1 - rank) / (n + 1), (float(low), float(high)))


def cut_by_hand(scores: np.ndarray, threshold: float) -> Cut:
    """Say what sorted scores of good images tell of a threshold they had no part in."""
    n = len(scores)
    rank = int(np.searchsorted(scores, threshold, side="right"))
    if rank == 0:
        return Cut(threshold, 1.0, (float(beta.ppf(0.025, n, 1)), 1.0))
    return _cut_at_rank(threshold, rank, n)


def _largest_supported(n: int) -> str:
    """Largest quantile that n images support, n / (n + 1), rounded down."""
    unit = 10 ** (1 + len(str(n)))
    return f"{n * unit // (n + 1) / unit:g}"


def _least_for(quantile: float) -> int:
    """Return the smallest n for which 1 / (n + 1) is at most 1 - quantile."""
    return math.ceil(round(1 / (1.0 - quantile), 9)) - 1


def check_enough(n: int, quantile: float, method: str) -> None:
    """Refuse a quantile that so many scores do not support.

    Parameters
    ----------
    n : int
        Number of scores of good images.
    quantile : float in (0, 1)
    method : {"conformal", "quantile", "pot"}
        ``"pot"`` extrapolates, and needs so many for its tail, whatever the quantile.

    Raises
    ------
    TooFewImagesError
    """
    needed = _LEAST_FOR_TAIL if method == "pot" else max(2, _least_for(quantile))
    if n >= needed:
        return
    lower = ""
    if method != "pot" and n >= 2:
        lower = f", or take a quantile of at most {_largest_supported(n)}"
    raise TooFewImagesError(
        f'quantile={quantile:g} with method="{method}" needs the scores of at least {needed} good '
        f"images, got n_samples={n}: nothing was changed. Give {needed - n} more{lower}."
    )


def _conformal(scores: np.ndarray, quantile: float) -> Cut:
    n = len(scores)
    # Rounded first: (n + 1) * quantile may miss a whole number by one bit.
    rank = math.ceil(round((n + 1) * quantile, 9))
    if rank > n:
        asked = 1.0 - quantile
        extrapolate = ""
        if n >= _LEAST_FOR_TAIL:
            extrapolate = ', or extrapolate with ThresholdCalibrator(method="pot")'
        warn_user(
            f"{n} good images support a false-positive rate of {1 / (n + 1):.2%} at best, "
            f"{asked:.2%} was asked for: the threshold is at the largest score. Calibrate on at "
            f"least {_least_for(quantile)} images, or lower the quantile to "
            f"{_largest_supported(n)}{extrapolate}.",
            TooFewImagesWarning,
        )
        rank = n
    threshold = scores[rank - 1]
    if rank == 1 or scores[rank - 2] < threshold:
        threshold = np.nextafter(threshold, -np.inf)  # see Notes
    return _cut_at_rank(threshold, rank, n)


def _quantile(scores: np.ndarray, quantile: float) -> Cut:
    n = len(scores)
    return _cut_at_rank(np.quantile(scores, quantile), 1 + (n - 1) * quantile, n)


def _peaks_over_threshold(scores: np.ndarray, quantile: float) -> Cut:
    n = len(scores)
    n_tail = math.ceil(_TAIL_SHARE * n)
    if n_tail < _MIN_TAIL:
        raise TooFewImagesError(
            f'method="pot" fits a tail to the largest tenth of the scores and needs {_MIN_TAIL} '
            f"of them, so n_samples={n} is too few: calibrate on at least "
            f"{_LEAST_FOR_TAIL} good images or use "
            'method="conformal".'
        )
    start = scores[n - n_tail - 1]
    excess = scores[n - n_tail :] - start
    target, share = 1.0 - quantile, n_tail / n
    if target >= share or not excess.any():  # not in the tail: the images themselves suffice
        return _quantile(scores, quantile)
    scale_unit = excess.mean()  # fitted in units of the mean excess: scores have any scale
    shape, _, scale = genpareto.fit(excess / scale_unit, floc=0)
    reach = genpareto.ppf(1.0 - target / share, shape, scale=scale)
    # What the rate at this threshold may be, under the estimates' asymptotic distribution [3].
    rng = np.random.RandomState(0)
    bounded = max(shape, -0.49)
    covariance = (1 + bounded) / n_tail * np.array([[1 + bounded, -scale], [-scale, 2 * scale**2]])
    shapes, scales = rng.multivariate_normal((shape, scale), covariance, size=4000).T
    shares = rng.beta(n_tail + 0.5, n - n_tail + 0.5, size=4000)
    rates = shares * genpareto.sf(reach, shapes, scale=np.maximum(scales, 1e-3 * scale))
    low, high = np.quantile(rates, [0.025, 0.975])
    return Cut(float(start + reach * scale_unit), target, (float(low), float(high)))


METHODS = {"conformal": _conformal, "quantile": _quantile, "pot": _peaks_over_threshold}
