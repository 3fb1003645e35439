"""PyOD's models as detectors here, and detectors here as seen from PyOD."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import erf
from scipy.stats import binom
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from pyimgano.base import BaseImageDetector, Fingerprint, TrainingBlocks, input_kind
from pyimgano.calibration import out_of_sample_scores, own_scores
from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.inference import threshold
from pyimgano.utils._fingerprint import digest

__all__ = ["PyODDetector", "as_pyod"]

# Training rows that tell at fit whether scores depend on the rows scored along.
_PROBES = 6
# Models that rank the rows of a batch among themselves, by design.
_BATCH_MODELS = ("COPOD", "ECOD")


class PyODDetector(BaseImageDetector):
    """Any PyOD model as a detector with scikit-learn's signs and an honest threshold.

    Takes feature rows; a step before it makes them of images. PyOD's own threshold,
    ``decision_scores_`` and ``contamination`` play no part: the training rows are scored by
    clones of the model fitted on the other folds.

    Parameters
    ----------
    detector : PyOD model
        An instance, such as ``pyod.models.knn.KNN(n_neighbors=3)``. A clone of it is fitted.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training rows'
        out-of-sample scores; a float has that share of the training rows flagged.
    cv : int, default=5
        Number of folds for the out-of-sample scores; the model is fitted once more than that.
    n_jobs : int, default=None
        Number of folds fitted at a time.
    random_state : int, RandomState or None, default=0
        Seeds the folds, the model's own ``random_state`` where that is None, and the global
        generators while a model runs that draws from them; they are put back afterwards.

    Attributes
    ----------
    detector_ : PyOD model
        The model fitted on all training rows.
    one_by_one_ : bool
        Whether rows are scored one at a time because the model's scores depend on the rows
        scored along with them.
    training_scores_ : ndarray of shape (n_samples,), float64
        Anomaly score of each training row under the model fitted without its fold.
    offset_ : float
        Threshold on ``score_samples``.
    n_features_in_ : int
        Number of columns.

    Notes
    -----
    A score must not depend on the batch. ECOD and COPOD rank rows among the training rows
    *and the batch*; scored one at a time, each new row is ranked among the training rows and
    itself, at the cost of a pass over the training rows for each. Whether any other model does
    the like is tried at fit on a few training rows. Models without a score for a single row
    (COF, ROD, SOS, ... compare the rows of a batch with each other) are refused.

    :func:`~pyimgano.delivery.load` admits the PyOD models that have a name in
    :mod:`pyimgano.models`; others are to be named in its ``trusted``.

    References
    ----------
    .. [1] Y. Zhao, Z. Nasrullah, Z. Li, "PyOD: A Python Toolbox for Scalable Outlier
       Detection", Journal of Machine Learning Research 20(96), 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod.models.knn import KNN
    >>> from pyimgano.detectors import PyODDetector
    >>> rows = np.random.RandomState(0).normal(size=(100, 3))
    >>> detector = PyODDetector(KNN(n_neighbors=3)).fit(rows)
    >>> detector.predict([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0]])
    array([ 1, -1])
    """

    _registry_name = None  # pyimgano.models has a name for each of PyOD's models
    _parameter_constraints: dict = {
        **BaseImageDetector._parameter_constraints,
        "detector": [HasMethods(["fit", "decision_function"])],
        "cv": [Interval(Integral, 2, None, closed="left")],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        detector: Any,
        *,
        contamination: str | float = "auto",
        cv: int = 5,
        n_jobs: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.detector = detector
        self.contamination = contamination
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _validate(self, X: Any, *, reset: bool) -> np.ndarray:
        kind = input_kind(X)
        if kind != "rows":
            raise ImageFormatError(
                f"PyODDetector takes a table of feature rows, (n_samples, n_features), and was "
                f"given {kind} ({type(X).__name__}); put a step before it that turns each image "
                "into one row."
            )
        if reset:
            self.input_kind_, self.tiled_ = kind, False
        return validate_data(self, X, reset=reset, dtype=np.float64)

    def _blocks(self, data: np.ndarray) -> Iterator[tuple[np.ndarray, list[Fingerprint]]]:
        yield data, [Fingerprint(digest(row)) for row in data]

    def _fit(self, blocks: TrainingBlocks) -> np.ndarray:
        (rows,) = blocks
        _check_is_pyod(self.detector)
        n_folds = min(self.cv, len(np.unique(blocks.groups)))
        if n_folds < 2:
            raise TooFewImagesError(
                f"all {len(rows)} training samples are copies of one: there is no second good "
                "one to tell how much good ones differ."
            )
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.detector_ = _fit_model(self.detector, rows, self._seed)
        self.one_by_one_ = _needs_one_by_one(self.detector_, rows, self._seed)
        folds = GroupKFold(n_folds, shuffle=True, random_state=self._seed)
        tests = [test for _, test in folds.split(rows, groups=blocks.groups)]
        parts = Parallel(n_jobs=self.n_jobs)(
            delayed(_score_fold)(self.detector, rows, test, self._seed, self.one_by_one_)
            for test in tests
        )
        scores = np.empty(len(rows))
        scores[np.concatenate(tests)] = np.concatenate(parts)
        return scores

    def _score(self, block: np.ndarray, own: np.ndarray) -> tuple[None, np.ndarray]:
        new = np.flatnonzero(own < 0)  # the others' scores are known
        scores = np.zeros(len(block))
        if len(new):
            scores[new] = _scores(self.detector_, block[new], self._seed, self.one_by_one_)
        return None, scores

    @property
    def anomaly_map(self) -> Any:
        raise AttributeError("PyODDetector makes no anomaly maps: it gives one score per row.")

    @property
    def score_and_map(self) -> Any:
        raise AttributeError("PyODDetector makes no anomaly maps: it gives one score per row.")


def _check_is_pyod(model: Any) -> None:
    base = sys.modules.get("pyod.models.base")  # loaded, if this is one of its models
    if base is None or not isinstance(model, base.BaseDetector):
        raise TypeError(
            f"detector must be a PyOD model, such as pyod.models.knn.KNN(), got "
            f"{type(model).__name__}. A detector with score_samples needs no wrapper."
        )


@contextmanager
def _own_generators(seed: int) -> Iterator[None]:
    """Seed the global generators, which some models draw from, and put them back after."""
    torch = sys.modules.get("torch")
    before = np.random.get_state(), random.getstate()  # noqa: NPY002
    torch_before = None if torch is None else torch.get_rng_state()
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    if torch is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before[0])  # noqa: NPY002
        random.setstate(before[1])
        if torch is not None:
            torch.set_rng_state(torch_before)


def _fit_model(model: Any, rows: np.ndarray, seed: int) -> Any:
    with _own_generators(seed):  # some draw already when they are constructed
        fresh = clone(model)
        parameters = fresh.get_params(deep=False)
        if "random_state" in parameters and parameters["random_state"] is None:
            fresh.set_params(random_state=seed)
        fresh.fit(rows.copy())  # models keep what they are given
    return fresh


def _scores(model: Any, rows: np.ndarray, seed: int, one_by_one: bool) -> np.ndarray:
    """Anomaly scores ``(n,)``; a model that draws at random draws the same every time."""
    parts = []
    for part in np.split(rows, len(rows)) if one_by_one else [rows]:
        with _own_generators(seed):
            parts.append(np.asarray(model.decision_function(part.copy()), np.float64).ravel())
    scores = np.concatenate(parts)
    if np.isnan(scores).any():
        raise ValueError(
            f"{type(model).__name__} gave no number for {np.isnan(scores).sum()} of "
            f"{len(scores)} rows (NaN); too few training rows, or columns that are constant, "
            "are the usual causes."
        )
    return scores


def _score_fold(
    model: Any, rows: np.ndarray, test: np.ndarray, seed: int, one_by_one: bool
) -> np.ndarray:
    fitted = _fit_model(model, np.delete(rows, test, axis=0), seed)
    return _scores(fitted, rows[test], seed, one_by_one)


def _needs_one_by_one(model: Any, rows: np.ndarray, seed: int) -> bool:
    """Whether the model's scores depend on the rows scored along; refuse if it has no others."""
    probes = rows[np.linspace(0, len(rows) - 1, min(_PROBES, len(rows))).astype(int)]
    name = type(model).__name__
    try:
        together = _scores(model, probes, seed, one_by_one=False)
        alone = _scores(model, probes, seed, one_by_one=True)
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{name} cannot score a few rows, or one, by themselves, and a score must not depend "
            f"on the rows that come with it; choose a model that can score new rows. ({error})"
        ) from error
    if name not in _BATCH_MODELS and np.allclose(together, alone, rtol=1e-6, atol=1e-9):
        return False
    if np.ptp(alone) <= 1e-9 * np.abs(alone).max() < np.ptp(together):
        raise ValueError(
            f"{name} gives every row the same score when it comes alone: it compares the rows "
            "of a batch with each other. A score must not depend on the rows that come with it; "
            "choose a model that can score new rows."
        )
    return True


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

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano import PatchCoreDetector
    >>> from pyimgano.detectors import as_pyod
    >>> rows = np.random.RandomState(0).normal(size=(100, 3))
    >>> view = as_pyod(PatchCoreDetector(contamination=0.1)).fit(rows)
    >>> int(view.labels_.sum()), view.predict([[9.0, 9.0, 9.0]])
    (10, array([1]))
    """
    return PyODView(detector)


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


class PyODView(BaseEstimator):
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
    >>> from pyimgano.detectors import PaDiMDetector, as_pyod
    >>> rows = np.random.RandomState(0).normal(size=(100, 3))
    >>> view = as_pyod(PaDiMDetector().fit(rows))
    >>> bool((view.decision_function(rows) == view.decision_scores_).all())
    True
    """

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
        """
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
        return (self.decision_scores_ > self.threshold_).astype(int)

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
        return -np.asarray(self.detector_.score_samples(X), dtype=np.float64)

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
        labels = (scores > self.threshold_).astype(int)
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
        """How likely the verdict stays the same under other training sets of this size.

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
        return np.where(scores > self.threshold_, outlier, 1.0 - outlier)
