"""The anomalous images of a batch, at a stated share of false alarms among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyimgano.exceptions import TooFewImagesError

__all__ = ["benjamini_hochberg", "check_selection", "conformal_p_values", "select_by_p_values"]

CONTROLS = ("fdr", "fpr")


def benjamini_hochberg(p_values: Any, rate: float) -> np.ndarray:
    """Select the small p-values of a batch; few of those selected belong to good parts.

    Parameters
    ----------
    p_values : array-like of shape (n_samples,)
        One for each image of the batch, in ``[0, 1]``.
    rate : float in (0, 1)
        Largest expected share of good parts among the selected images.

    Returns
    -------
    ndarray of shape (n_samples,), bool
        True for the selected images.

    Notes
    -----
    Let ``p_(1) <= ... <= p_(m)`` be the sorted p-values and ``k`` the largest index with
    ``p_(k) <= rate * k / m``. The images with the ``k`` smallest p-values are selected, none if
    there is no such ``k`` [1]_. The expected share of good parts among them is at most ``rate``
    if the p-values of good parts are independent, or if they depend on each other positively,
    as conformal p-values from the same calibration scores do [2]_. An empty selection counts
    as a share of 0.

    References
    ----------
    .. [1] Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", Journal of the
       Royal Statistical Society B 57(1), 1995.
    .. [2] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with conformal
       p-values", Annals of Statistics 51(1), 2023.

    Examples
    --------
    >>> from pyimgano.calibration import benjamini_hochberg
    >>> benjamini_hochberg([0.01, 0.8, 0.04, 0.3, 0.02], rate=0.1)
    array([ True, False,  True, False,  True])
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1:
        raise ValueError(f"p_values must have shape (n_samples,), got {p_values.shape}.")
    _check_rate(rate)
    wrong = np.flatnonzero(~((p_values >= 0) & (p_values <= 1)))
    if len(wrong):
        raise ValueError(
            f"p_values must be in [0, 1]; the one at index {wrong[0]} is {p_values[wrong[0]]}."
        )
    m = len(p_values)
    ordered = np.sort(p_values)
    # Compared with some room: rate * k / m may miss a p-value of i / (n + 1) by one bit.
    small = np.flatnonzero(ordered <= rate * np.arange(1, m + 1) / m * (1 + 1e-12))
    if len(small) == 0:
        return np.zeros(m, dtype=bool)
    return p_values <= ordered[small[-1]]


def conformal_p_values(scores: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compute p-values of new images, for which an equal calibration score counts against them.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Anomaly scores of new images.
    known : ndarray of shape (n,)
        Those of the good images that were calibrated on, sorted.

    Returns
    -------
    ndarray of shape (n_samples,), float64
        A good image has one of at most ``t`` with probability at most ``t``, also where scores
        repeat.
    """
    at_least = len(known) - np.searchsorted(known, scores, side="left")
    return (1.0 + at_least) / (len(known) + 1.0)


def select_by_p_values(p_values: np.ndarray, rate: float, control: str) -> np.ndarray:
    """Select by one of the ways of ``ThresholdCalibrator.select``.

    Parameters
    ----------
    p_values : ndarray of shape (n_samples,)
    rate : float in (0, 1)
    control : {"fdr", "fpr"}

    Returns
    -------
    ndarray of shape (n_samples,), bool
    """
    if control == "fdr":
        return benjamini_hochberg(p_values, rate)
    return p_values <= rate * (1 + 1e-12)


def check_selection(rate: float, control: str, n: int) -> None:
    """Refuse a rate at which so many calibration scores could never select an image.

    Parameters
    ----------
    rate : float
    control : str
    n : int
        Number of calibration scores.

    Raises
    ------
    TooFewImagesError
    """
    if control not in CONTROLS:
        raise ValueError(f'control must be "fdr" or "fpr", got {control!r}.')
    _check_rate(rate)
    if rate * (n + 1) * (1 + 1e-12) < 1:
        needed = int(np.ceil(round(1 / rate, 9))) - 1
        raise TooFewImagesError(
            f"rate={rate:g} is below the smallest p-value that n_images={n} calibration scores "
            f"give, 1 / {n + 1}: no image could ever be selected. Calibrate on at least {needed} "
            f"good images, or take a rate of at least {np.ceil(1e4 / (n + 1)) / 1e4:g}."
        )


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"rate must be between 0 and 1, both excluded, got {rate!r}.")
