"""Detectors as code written for PyOD expects them."""

from __future__ import annotations

import sys
from numbers import Real
from typing import Any

import numpy as np
from scipy.special import erf
from scipy.stats import beta, binom
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.metrics import precision_score, roc_auc_score
from sklearn.utils.validation import check_is_fitted

from pyimgano._decision import is_anomalous
from pyimgano._nesting import find_calibrator, innermost
from pyimgano.calibration._out_of_sample import out_of_sample_scores, own_scores
from pyimgano.inference import anomaly_scores, threshold
from pyimgano.utils._fitting import FittedParametersMixin
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import Array, Maybe, Object, TupleOf

__all__ = ["PyODView", "as_pyod"]


def as_pyod(detector: Any) -> PyODView:
    """Show a detector to code that is written for PyOD's models.

    Parameters
    ----------
    detector : estimator
        An outlier detector with scikit-learn's signs: those of this package and of
        scikit-learn, a pipeline or a :class:`~pyimgano.calibration.ThresholdCalibrator`;
        fitted or not.

    Returns
    -------
    PyODView

    Raises
    ------
    TypeError
        If ``detector`` is none.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano import PatchCoreDetector
    >>> from pyimgano.interop import as_pyod
    >>> rows = np.random.RandomState(0).normal(size=(100, 3))
    >>> view = as_pyod(PatchCoreDetector(contamination=0.1)).fit(rows)
    >>> int(view.labels_.sum()), view.predict([[9.0, 9.0, 9.0]])
    (10, array([1]))
    """
    _check_is_detector(detector)
    return PyODView(detector)


def _check_is_detector(detector: Any) -> None:
    name = type(detector).__name__
    if isinstance(detector, type):
        raise TypeError(
            f"as_pyod needs a detector, and {detector.__name__} is a class; give an instance of "
            f"it: as_pyod({detector.__name__}())."
        )
    base = sys.modules.get("pyod.models.base")
    if base is not None and isinstance(detector, base.BaseDetector):
        raise TypeError(
            f"{name} is a PyOD model already and needs no as_pyod. For an honest threshold in "
            f"PyOD's terms: as_pyod(PyODDetector({name}())), from pyimgano.detectors."
        )
    if not hasattr(detector, "fit") or not hasattr(detector, "score_samples"):
        hint = " It has them with novelty=True." if hasattr(detector, "novelty") else ""
        raise TypeError(
            f"as_pyod needs an outlier detector that scores new samples (fit and score_samples), "
            f"and {name} is none.{hint}"
        )


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


class PyODView(CheckedStateMixin, BaseEstimator):
    """A detector in PyOD's terms: 1 = outlier, higher = worse. Made by :func:`as_pyod`.

    It does not claim to be an outlier detector of scikit-learn's, whose tools would read its
    labels the wrong way round.

    Parameters
    ----------
    detector : estimator
        The detector; if it is fitted, the view can be used without ``fit``.

    Attributes
    ----------
    detector_ : estimator
        The fitted detector.
    decision_scores_ : ndarray of shape (n_samples,), float64
        Out-of-sample anomaly scores of the training samples.
    threshold_ : float
        Anomaly score above which a sample is an outlier.
    labels_ : ndarray of shape (n_samples,), int
        0 or 1 for the training samples.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PaDiMDetector
    >>> from pyimgano.interop import as_pyod
    >>> rows = np.random.RandomState(0).normal(size=(100, 3))
    >>> view = as_pyod(PaDiMDetector().fit(rows))
    >>> bool((view.decision_function(rows) == view.decision_scores_).all())
    True
    """

    _fitted_state = {
        "_fitted": TupleOf(Object(methods=("score_samples",)), Maybe(Array("float64", "n")))
    }

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    def fit(self, X: Any, y: Any = None) -> PyODView:
        """Fit a clone of the detector.

        Parameters
        ----------
        X : input of the detector
        y : ignored
            As PyOD's unsupervised models do: their labels mean the opposite of ours.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If ``detector`` is no outlier detector that scores new samples.
        """
        _check_is_detector(self.detector)
        detector, scores, _ = out_of_sample_scores(self.detector, X)
        self._fitted = detector, scores
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "_fitted" in self.__dict__ or _is_fitted(self.detector)

    @property
    def detector_(self) -> Any:
        check_is_fitted(self)
        return self._fitted[0] if "_fitted" in self.__dict__ else self.detector

    @property
    def n_features_in_(self) -> int:
        return self.detector_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        return self.detector_.feature_names_in_

    @property
    def decision_scores_(self) -> np.ndarray:
        check_is_fitted(self)
        scores = self._fitted[1] if "_fitted" in self.__dict__ else own_scores(self.detector)
        if scores is None:
            raise AttributeError(
                f"the fitted {type(self.detector).__name__} keeps no out-of-sample scores of its "
                "training samples; fit the view itself and it finds them."
            )
        return scores

    @property
    def threshold_(self) -> float:
        return threshold(self.detector_)

    @property
    def labels_(self) -> np.ndarray:
        return is_anomalous(self.decision_scores_, self.threshold_).astype(int)

    @property
    def contamination(self) -> float:
        """Share of training samples that the threshold is meant to flag.

        The detector's own ``contamination`` where that is a number, the false-positive rate a
        calibrator aims at, and otherwise the share of ``labels_``, which needs a fit. After
        ``fit`` it is that of the fit, whatever has been set since.
        """
        fitted = self.__sklearn_is_fitted__()
        detector = self.detector_ if fitted else self.detector
        calibrator = find_calibrator(detector)
        if calibrator is not None and not fitted:
            return float(1.0 - calibrator.quantile)
        if calibrator is not None:
            stated = calibrator.provenance_["target_false_positive_rate"]
        else:
            inner = innermost(detector)[0]
            if isinstance(inner, FittedParametersMixin):
                inner = inner._as_fitted()
            stated = getattr(inner, "contamination", None)
        return float(stated) if isinstance(stated, Real) else float(self.labels_.mean())

    def decision_function(self, X: Any) -> np.ndarray:
        """Anomaly scores, the higher the more abnormal (scikit-learn's have the other sign).

        Parameters
        ----------
        X : input of the detector

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        check_is_fitted(self)
        return anomaly_scores(self.detector_, X)

    def predict(self, X: Any, return_confidence: bool = False) -> Any:
        """1 for outliers, 0 for inliers.

        Parameters
        ----------
        X : input of the detector
        return_confidence : bool, default=False
            Return ``predict_confidence`` of the samples as well.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int
        confidence : ndarray of shape (n_samples,), float64
            Only with ``return_confidence``.
        """
        scores = self.decision_function(X)
        labels = is_anomalous(scores, self.threshold_).astype(int)
        return (labels, self._confidence(scores)) if return_confidence else labels

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and return ``labels_``.

        Parameters
        ----------
        X, y : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
        """
        return self.fit(X, y).labels_

    def fit_predict_score(self, X: Any, y: Any, scoring: str = "roc_auc_score") -> float:
        """Fit, and rate ``decision_scores_`` by known labels.

        Parameters
        ----------
        X : input of the detector
        y : array-like of shape (n_samples,)
            1 = outlier, 0 = inlier. Nothing is learned from them.
        scoring : {"roc_auc_score", "prc_n_score"}, default="roc_auc_score"
            ``"prc_n_score"``: precision among as many of the highest scores as there are
            outliers.

        Returns
        -------
        float
        """
        if scoring not in ("roc_auc_score", "prc_n_score"):
            raise ValueError(f"scoring must be 'roc_auc_score' or 'prc_n_score', got {scoring!r}.")
        scores = self.fit(X).decision_scores_
        if scoring == "roc_auc_score":
            return float(roc_auc_score(y, scores))
        return float(precision_score(y, scores > np.quantile(scores, 1.0 - np.mean(y))))

    def predict_with_rejection(
        self,
        X: Any,
        T: float = 32,
        return_stats: bool = False,
        delta: float = 0.1,
        c_fp: float = 1,
        c_fn: float = 1,
        c_r: float = -1,
    ) -> Any:
        """Label samples 1 or 0, and -2 where the verdict is not stable enough.

        A sample is rejected where ``predict_confidence`` is nearer than ``exp(-T)`` to neither
        0 nor 1 [1]_.

        Parameters
        ----------
        X : input of the detector
        T : float, default=32
            The larger, the more samples are rejected.
        return_stats : bool, default=False
            Return what is to be expected of new samples as well.
        delta : float in (0, 1), default=0.1
            Chance that the bound on the rejection rate fails.
        c_fp, c_fn : float, default=1
            Costs of a false alarm and of a missed outlier.
        c_r : float, default=-1
            Cost of a rejection; a negative one stands for ``contamination``.

        Returns
        -------
        labels : ndarray of shape (n_samples,), int
        stats : list of float
            Only with ``return_stats``: expected rejection rate, upper bound of the rejection
            rate, upper bound of the cost per sample.

        References
        ----------
        .. [1] L. Perini, J. Davis, "Unsupervised Anomaly Detection with Rejection", NeurIPS 2023.
        """
        if not 0.0 < delta < 1.0:
            raise ValueError(f"delta must lie between 0 and 1, got {delta!r}.")
        labels, confidence = self.predict(X, return_confidence=True)
        labels[2.0 * np.abs(confidence - 0.5) <= 1.0 - 2.0 * np.exp(-T)] = -2
        if not return_stats:
            return labels
        share = self.contamination
        return labels, _rejection_stats(
            len(self.decision_scores_), share, T, delta, c_fp, c_fn, share if c_r < 0 else c_r
        )

    def predict_proba(self, X: Any, method: str = "linear", return_confidence: bool = False) -> Any:
        """Scores turned into numbers from 0 to 1.

        Parameters
        ----------
        X : input of the detector
        method : {"linear", "unify"}, default="linear"
            ``"linear"``: from the smallest to the largest of ``decision_scores_``.
            ``"unify"``: Gaussian scaling [1]_ by their mean and standard deviation.
        return_confidence : bool, default=False
            Return ``predict_confidence`` of the samples as well.

        Returns
        -------
        probability : ndarray of shape (n_samples, 2), float64
            Of being an inlier and an outlier.
        confidence : ndarray of shape (n_samples,), float64
            Only with ``return_confidence``.

        References
        ----------
        .. [1] H.-P. Kriegel, P. Kröger, E. Schubert, A. Zimek, "Interpreting and Unifying
           Outlier Scores", SIAM International Conference on Data Mining 2011.
        """
        if method not in ("linear", "unify"):
            raise ValueError(f"method must be 'linear' or 'unify', got {method!r}.")
        scores, known = self.decision_function(X), self.decision_scores_
        if method == "linear":
            outlier = (scores - known.min()) / (np.ptp(known) or 1.0)
        else:
            outlier = erf((scores - known.mean()) / ((known.std() or 1.0) * np.sqrt(2.0)))
        outlier = np.clip(outlier, 0.0, 1.0)
        both = np.column_stack([1.0 - outlier, outlier])
        return (both, self._confidence(scores)) if return_confidence else both

    def predict_confidence(self, X: Any) -> np.ndarray:
        """Estimate how likely the verdict stays the same under other training sets of this size.

        Parameters
        ----------
        X : input of the detector

        Returns
        -------
        ndarray of shape (n_samples,), float64
            From 0 to 1 [1]_.

        References
        ----------
        .. [1] L. Perini, V. Vercruyssen, J. Davis, "Quantifying the Confidence of Anomaly
           Detectors in Their Example-Wise Predictions", ECML PKDD 2020.
        """
        return self._confidence(self.decision_function(X))

    def _confidence(self, scores: np.ndarray) -> np.ndarray:
        known = np.sort(self.decision_scores_)
        n, n_outliers = len(known), int(self.labels_.sum())
        not_above = np.searchsorted(known, scores, side="right")
        # Chance that a new training set puts fewer than n_outliers samples above this one.
        outlier = binom.sf(n - max(n_outliers, 1), n, (1 + not_above) / (2 + n))
        return np.where(is_anomalous(scores, self.threshold_), outlier, 1.0 - outlier)


def _rejection_stats(
    n: int, share: float, T: float, delta: float, c_fp: float, c_fn: float, c_r: float
) -> list[float]:
    """Compute the expected rejection rate, its upper bound, and the upper bound of the cost."""
    k = int(n * share) - 1
    if k < 0:  # nothing is ever flagged, and nothing rejected
        low = high = 0.0
    else:  # where a binomial's chance of at most k is 1 - exp(-T) and exp(-T)
        low = float(beta.ppf(np.exp(-T), k + 1, n - k))
        high = float(beta.isf(np.exp(-T), k + 1, n - k))
    good = 1.0 - share
    right = (1.0 + good * n - 2.0 * share) / n + T * (n + 2) / np.sqrt(2.0 * n**3 * T)
    inner = -3.0 * share**2 - 2.0 * n * good**2 + 4.0 * share - 3.0
    root = 0.5 * float(n) ** 5 * (2.0 * n * inner + T * (n + 2) ** 2 - 8.0)
    left = (2.0 + n * good * (n + 1)) / n**2 - np.sqrt(root) / n**4 if root > 0.0 else 0.0
    bound = min(1.0, right) - max(0.0, left) + 2.0 * np.sqrt(np.log(2.0 / delta) / (2.0 * n))
    cost = min(share, low) * c_fp + min(1.0 - high, share) * c_fn + (high - low) * c_r
    return [high - low, float(bound), float(cost)]
