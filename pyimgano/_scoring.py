"""Scikit-learn's methods, the threshold and anomaly maps, as they follow from anomaly scores.

``OutlierScoreMixin`` derives scikit-learn's outlier-detection methods from anomaly scores.
``AnomalyMapMixin`` adds heat maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import OutlierMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from pyimgano._decision import as_labels, check_finite, flip, is_anomalous, refuse_nan
from pyimgano.exceptions import DeviceError, MissingExtraError, WeightsError
from pyimgano.utils._arrays import stack_if_same_size
from pyimgano.utils._columns import with_index
from pyimgano.utils._fitting import FittedParametersMixin
from pyimgano.utils._state import Array, MayLack, Names, Number, Rule

__all__ = [
    "MODEL_ERRORS",
    "AnomalyMapMixin",
    "OutlierScoreMixin",
    "ScoredBlock",
    "robust_threshold",
]

# ``contamination="auto"`` puts the threshold at this quantile of the out-of-sample scores.
_AUTO_QUANTILE = 0.995

# A score is suspicious that lies so many robust standard deviations above the median.
_ROBUST_DEVIATIONS = 3.0
# Standard deviations of a normal distribution in its median and mean absolute deviation.
_PER_MEDIAN, _PER_MEAN = 1.4826, 1.2533

# Errors that concern the whole model: always raised, never recorded for one sample.
MODEL_ERRORS = (DeviceError, MissingExtraError, NotFittedError, WeightsError)


def robust_threshold(scores: np.ndarray) -> float:
    """Put a threshold on scores of which fewer than half may be those of anomalies.

    It is three robust standard deviations above the median. The deviation comes from the median
    of the distances to the median [1]_, which a few anomalies hardly move, however far they lie;
    from the mean of these distances where more than half of the scores are equal.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Anomaly scores.

    Returns
    -------
    float

    References
    ----------
    .. [1] B. Iglewicz and D. C. Hoaglin, "How to Detect and Handle Outliers", ASQC 1993.
    """
    scores = np.asarray(scores, dtype=np.float64)
    middle = float(np.median(scores))
    off = np.abs(scores - middle)
    deviation = _PER_MEDIAN * float(np.median(off)) or _PER_MEAN * float(off.mean())
    return middle + _ROBUST_DEVIATIONS * deviation


class ScoredBlock(NamedTuple):
    """Scores of a few consecutive samples.

    Parameters
    ----------
    start : int
        Index of the block's first sample.
    scores : ndarray of shape (n,), float64
        Anomaly scores, higher = more anomalous; NaN where there is an error.
    maps : list of ndarray of shape (height, width), float32
        Anomaly maps; None where there is an error. Empty if no maps were asked for.
    errors : dict of int to Exception
        Maps a position in the block to the error that prevented scoring.
    """

    start: int
    scores: np.ndarray
    maps: list[Any]
    errors: dict[int, Exception]


class OutlierScoreMixin(FittedParametersMixin, TransformerMixin, OutlierMixin):
    """Derives scikit-learn's outlier-detection methods from anomaly scores.

    A subclass has a ``contamination`` parameter, calls ``_set_offset`` at the end of ``fit``,
    and implements

    ``_anomaly_scores(data) -> scores (n,)``
        Anomaly scores of checked input, higher = more anomalous.
    ``_fit_and_score_all(X, y, **metadata) -> scores (n,)``
        Fit and return one anomaly score per sample: out-of-sample for training samples,
        ordinary for samples with ``y == -1``.
    ``_validate_new_input(X)``
        Validate the input of a fitted estimator.
    """

    _fitted_state: dict[str, Rule] = {
        "training_scores_": Array("float64", "n"),
        "offset_": Number(),
        "n_features_in_": MayLack(Number(1, whole=True)),
        "feature_names_in_": MayLack(Names()),
    }

    contamination: str | float
    offset_: float
    training_scores_: np.ndarray

    def _anomaly_scores(self, data: Any) -> np.ndarray:
        raise NotImplementedError

    def _fit_and_score_all(self, X: Any, y: Any, **metadata: Any) -> np.ndarray:
        raise NotImplementedError

    def _validate_new_input(self, X: Any) -> Any:
        raise NotImplementedError

    def _set_offset(self, training_scores: np.ndarray) -> None:
        """Store the out-of-sample scores, set ``offset_`` from them, and record the parameters."""
        name = type(self).__name__
        self.training_scores_ = check_finite(training_scores, name, "out-of-sample scores")
        if self.contamination == "auto":
            # Scores of images that networks were trained on are too low for it.
            new = vars(self).get("held_out_", slice(None))
            self.offset_ = float(flip(self._auto_threshold(training_scores[new])))
        else:
            share = 100.0 * float(self.contamination)
            self.offset_ = float(np.percentile(flip(training_scores), share))
        self._keep_parameters()

    def _auto_threshold(self, training_scores: np.ndarray) -> float:
        """Threshold that ``contamination="auto"`` stands for, on scores of good samples."""
        return float(np.quantile(training_scores, _AUTO_QUANTILE))

    def score_samples(self, X: Any) -> np.ndarray:
        """Compute normality scores; higher means more normal.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return flip(self._validate_and_score(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute ``score_samples(X) - offset_``; negative values are anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Label samples +1 for normal and -1 for anomalous (``decision_function`` below 0).

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
        """
        return as_labels(is_anomalous(self._validate_and_score(X), float(flip(self.offset_))))

    def _validate_and_score(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        fitted = self._as_fitted()
        scores = fitted._anomaly_scores(fitted._validate_new_input(X))
        return refuse_nan(scores, type(self).__name__)

    def fit_predict(self, X: Any, y: Any = None, **metadata: Any) -> np.ndarray:
        """Fit and label the training samples by their out-of-sample scores.

        Samples with ``y == -1`` are labeled as in ``predict``.

        Parameters
        ----------
        X, y, **metadata : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
            +1 for normal, -1 for anomalous.
        """
        scores = self._fit_and_score_all(X, y, **metadata)
        return as_labels(is_anomalous(scores, float(flip(self.offset_))))

    def transform(self, X: Any) -> np.ndarray:
        """Return the anomaly scores as a column; higher means more anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, 1), float64
            ``-score_samples(X)``.
        """
        return with_index(self, flip(self.score_samples(X)).reshape(-1, 1), X)

    def fit_transform(self, X: Any, y: Any = None, **metadata: Any) -> np.ndarray:
        """Fit, and return the out-of-sample anomaly scores of the training samples.

        Samples with ``y == -1`` are left out of training and scored as in ``transform``.

        Parameters
        ----------
        X, y, **metadata : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, 1), float64
        """
        rows = self._fit_and_score_all(X, y, **metadata).reshape(-1, 1)
        return with_index(self, rows, X)


class AnomalyMapMixin:
    """Adds anomaly maps to detectors whose ``iter_scores`` supports ``maps=True``."""

    iter_scores: Callable[..., Iterator[ScoredBlock]]

    def anomaly_map(self, X: Any) -> np.ndarray | list[np.ndarray]:
        """Compute anomaly maps; higher means more anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, height, width), float32
            Maps have the size of the input images; a list of arrays is returned if sizes
            differ. Each feature row has a map of one pixel. Pixels outside ``roi_mask_`` are
            set to the minimum of the map.
        """
        return self.score_and_map(X)[1]

    def score_and_map(self, X: Any) -> tuple[np.ndarray, np.ndarray | list[np.ndarray]]:
        """Compute ``score_samples(X)`` and ``anomaly_map(X)`` in one pass.

        Parameters
        ----------
        X : input of the detector

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            As from ``score_samples``: higher = more normal.
        maps : ndarray of shape (n_samples, height, width), float32, or list of such arrays
        """
        scores, maps = [], []
        for block in self.iter_scores(X, maps=True):
            scores.append(block.scores)
            maps += block.maps
        return flip(np.concatenate(scores)), stack_if_same_size(maps)
