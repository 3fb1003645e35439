"""Thresholds on sorted scores, and what is known of the rate of good images above them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, genpareto

from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.utils._warning import warn_user

__all__ = [
    "METHODS",
    "Cut",
    "check_enough",
    "cut_by_hand",
    "largest_supported",
    "lowest_supported_rate",
    "put_cut",
]

# Peaks over threshold: the share of the scores that counts as tail, and how many it takes.
_TAIL_SHARE = 0.1
_MIN_TAIL = 10
_LEAST_FOR_TAIL = math.floor((_MIN_TAIL - 1) / _TAIL_SHARE) + 1


class Cut(NamedTuple):
    threshold: float
    rate: float | None  # None where no score of a good image tells
    interval: tuple[float, float]


def _cut_at_rank(threshold: float, rank: float, n: int) -> Cut:
    """The rate of good images above the rank-th smallest of n scores is Beta distributed."""
    low, high = beta.ppf([0.025, 0.975], n + 1 - rank, rank)
    return Cut(float(threshold), (n + 1 - rank) / (n + 1), (float(low), float(high)))


def cut_by_hand(scores: np.ndarray, threshold: float) -> Cut:
    """Say what sorted scores of good images tell of a threshold they had no part in."""
    n = len(scores)
    rank = int(np.searchsorted(scores, threshold, side="right"))
    if n == 0:
        return Cut(threshold, None, (0.0, 1.0))
    if rank == 0:
        return Cut(threshold, 1.0, (float(beta.ppf(0.025, n, 1)), 1.0))
    return _cut_at_rank(threshold, rank, n)


def largest_supported(n: int) -> str:
    """Write the largest quantile that n images support, n / (n + 1), rounded down."""
    unit = 10 ** (1 + len(str(n)))
    return f"{n * unit // (n + 1) / unit:g}"


def _least_for(quantile: float) -> int:
    """Return the smallest n for which 1 / (n + 1) is at most 1 - quantile."""
    return math.ceil(round(1 / (1.0 - quantile), 9)) - 1


def _rank_for(n: int, quantile: float, confidence: float) -> int:
    """Return the smallest rank whose true rate is low enough with that confidence.

    The rate of good images above the rank-th smallest of n scores is at most 1 - quantile with
    the probability that more than n - rank of n images fall among the worst 1 - quantile.

    Parameters
    ----------
    n : int
        Number of scores of good images.
    quantile, confidence : float in (0, 1)

    Returns
    -------
    int
        In [1, n], or n + 1 if no score is high enough.
    """
    ranks = np.arange(1, n + 1)
    reached = beta.cdf(1.0 - quantile, n + 1 - ranks, ranks)  # increases with the rank
    # A confidence that is reached exactly must not be missed by one bit.
    return 1 + int(np.searchsorted(reached, confidence * (1 - 1e-12)))


def _least_with_confidence(quantile: float, confidence: float) -> int:
    """Return the smallest n whose largest score exceeds that quantile with that confidence."""
    n = math.log1p(-confidence) / math.log(quantile)
    return max(1, math.ceil(round(n, 9)))


def lowest_supported_rate(n: int, method: str, confidence: float) -> float:
    """Return the lowest false-positive rate that so many good images can vouch for.

    Parameters
    ----------
    n : int
        Number of scores of good images.
    method : {"conformal", "conditional", "quantile", "pot"}
    confidence : float in (0, 1)
        Used by ``"conditional"``.

    Returns
    -------
    float
    """
    if method == "conditional" and n:
        return -math.expm1(math.log1p(-confidence) / n)
    return 1.0 / (n + 1)


def check_enough(n: int, quantile: float, method: str, confidence: float) -> None:
    """Refuse a quantile that so many scores do not support.

    Parameters
    ----------
    n : int
        Number of scores of good images.
    quantile : float in (0, 1)
    method : {"conformal", "conditional", "quantile", "pot"}
        ``"pot"`` extrapolates, and needs so many for its tail, whatever the quantile.
    confidence : float in (0, 1)
        Used by ``"conditional"``.

    Raises
    ------
    TooFewImagesError
    """
    if method == "conditional":
        _check_enough_for_confidence(n, quantile, confidence)
        return
    needed = _LEAST_FOR_TAIL if method == "pot" else max(2, _least_for(quantile))
    if n >= needed:
        return
    lower = ""
    if method != "pot" and n >= 2:
        lower = f", or take a quantile of at most {largest_supported(n)}"
    raise TooFewImagesError(
        f'quantile={quantile:g} with method="{method}" needs the scores of at least {needed} good '
        f"images, got n_samples={n}. Give {needed - n} more{lower}."
    )


def _check_enough_for_confidence(n: int, quantile: float, confidence: float) -> None:
    needed = max(2, _least_with_confidence(quantile, confidence))
    if n >= needed:
        return
    lower = ""
    if n >= 2:
        rate = lowest_supported_rate(n, "conditional", confidence)
        supported = math.floor((1.0 - rate) * 1e4) / 1e4
        lower = f", or lower the quantile to {supported:g}"
    raise TooFewImagesError(
        f'method="conditional" promises with {confidence:.4g} confidence that at most '
        f"{1.0 - quantile:.4g} of the good parts fail. For quantile={quantile:g} that needs the "
        f"scores of at least {needed} good images, got n_samples={n}. "
        f"Give {needed - n} more{lower}."
    )


def _conditional(scores: np.ndarray, quantile: float, confidence: float) -> Cut:
    n = len(scores)
    _check_enough_for_confidence(n, quantile, confidence)
    rank = _rank_for(n, quantile, confidence)
    # The score itself, not the next smaller float: images that tie with it must pass, or the
    # promise would not hold for scores that repeat.
    return _cut_at_rank(scores[rank - 1], rank, n)


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
            f"{largest_supported(n)}{extrapolate}.",
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


_BY_QUANTILE = {"conformal": _conformal, "quantile": _quantile, "pot": _peaks_over_threshold}
METHODS = ("conformal", "conditional", "quantile", "pot")


def put_cut(scores: np.ndarray, method: str, quantile: float, confidence: float) -> Cut:
    """Put a threshold by one of the methods of ``ThresholdCalibrator``.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Anomaly scores of good images, sorted.
    method : {"conformal", "conditional", "quantile", "pot"}
    quantile : float in (0, 1)
        Share of good images that shall pass.
    confidence : float in (0, 1)
        Used by ``"conditional"``.

    Returns
    -------
    Cut
    """
    if not len(scores):
        raise TooFewImagesError(
            "there are no scores of good images to put a threshold by, so nothing was changed: "
            "recalibrate with good images first."
        )
    if method == "conditional":
        return _conditional(scores, quantile, confidence)
    return _BY_QUANTILE[method](scores, quantile)
