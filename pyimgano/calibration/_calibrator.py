"""From anomaly scores to a verdict at a stated false-positive rate."""

from __future__ import annotations

import math
import os
import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy.stats import beta, genpareto
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import BaseCrossValidator, KFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    _num_samples,
    check_is_fitted,
    check_memory,
    validate_data,
)

from pyimgano.base import normal_rows
from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.inference import anomaly_map, score
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["ThresholdCalibrator", "index_metadata", "out_of_sample_scores", "own_scores"]

# What out_of_sample_scores calls training_scores_ and their like.
OWN_SCORES = "the detector's own out-of-sample scores"
# Folds used by cv="auto" when the estimator has no out-of-sample scores of its own.
_AUTO_FOLDS = 5
# Peaks over threshold: the share of the scores that counts as tail, and how many it takes.
_TAIL_SHARE = 0.1
_MIN_TAIL = 10


class ThresholdCalibrator(VersionStampMixin, MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    """Put the threshold of an outlier detector where a stated false-positive rate asks for it.

    The threshold comes from scores of good images that the model has not seen. With
    ``method="conformal"`` the rate then holds on average for any detector and any
    distribution of scores, as long as future good parts look like the ones calibrated on.

    Parameters
    ----------
    estimator : estimator, default=None
        An outlier detector with ``score_samples``, or a pipeline that ends in one. With None
        this is the last step of a pipeline, after a detector whose ``transform`` gives the
        anomaly score as a column; several columns count by their largest value.
    quantile : float in (0, 1), default=0.995
        Share of good images that shall pass: 1 minus the target false-positive rate.
    method : {"conformal", "quantile", "pot"}, default="conformal"
        ``"conformal"``: the order statistic of the scores that keeps the target for finitely
        many images; it can promise no rate below ``1 / (n_images + 1)``. ``"quantile"``: the
        plain empirical quantile. ``"pot"``: peaks over threshold, a generalised Pareto tail
        fitted to the largest tenth of the scores, which extrapolates to rates that the images
        alone cannot support; it needs 10 scores in the tail.
    cv : "auto", "prefit", int, splitter or iterable of splits, default="auto"
        Where the scores come from. ``"auto"`` uses the out-of-sample scores the detector
        itself keeps (``training_scores_``), provided no earlier step of the pipeline learned
        from the same images, and 5 shuffled folds otherwise. An int or a splitter: folds of
        clones of the estimator; the final estimator is fitted on all images. ``"prefit"``:
        the estimator is fitted already and ``X`` are held-out good images.
    memory : str or joblib.Memory, default=None
        Cache for fitted estimators, so that a search over ``quantile`` or ``method`` fits each
        of them once.
    n_jobs : int, default=None
        Number of folds fitted at a time.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator; None if ``estimator`` is None.
    threshold_ : float
        Anomaly score (``-score_samples``) above which an image is judged anomalous.
    offset_ : float
        ``-threshold_``.
    calibration_scores_ : ndarray of shape (n_images,)
        Out-of-sample anomaly scores of the good images, in their order.
    expected_false_positive_rate_ : float
        Share of good images expected above the threshold.
    false_positive_rate_interval_ : tuple of float
        Interval that holds the true rate with 95 % probability, given that many images.
    provenance_ : dict
        Where the threshold comes from, in plain JSON types.

    Notes
    -----
    The conformal threshold is the ``k``-th smallest of the ``n`` scores,
    ``k = ceil((n + 1) * quantile)``; a new good image exceeds it with probability at most
    ``1 - k / (n + 1)``, and the rate of a given threshold follows a Beta(n + 1 - k, k)
    distribution. The stored threshold is the next smaller float, unless two scores tie there:
    an image of the calibration set is thereby judged as it would be without itself, and new
    images are judged no differently.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005.
    .. [2] J. Pickands, "Statistical inference using extreme order statistics", Annals of
       Statistics 3(1), 1975.
    .. [3] R. L. Smith, "Estimating tails of probability distributions", Annals of
       Statistics 15(3), 1987.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.calibration import ThresholdCalibrator
    >>> from pyimgano.detectors import PatchCoreDetector
    >>> rows = np.random.RandomState(0).normal(size=(400, 5))
    >>> calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.95).fit(rows)
    >>> round(calibrator.expected_false_positive_rate_, 3)
    0.05
    >>> calibrator.predict(np.full((1, 5), 9.0))
    array([-1])
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "score_samples"]), None],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
        "method": [StrOptions({"conformal", "quantile", "pot"})],
        "cv": [StrOptions({"auto", "prefit"}), "cv_object"],
        "memory": [str, HasMethods(["cache"]), None],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        quantile: float = 0.995,
        method: str = "conformal",
        cv: Any = "auto",
        memory: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.quantile = quantile
        self.method = method
        self.cv = cv
        self.memory = memory
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None, **params: Any) -> ThresholdCalibrator:
        """Fit the estimator and put the threshold.

        Parameters
        ----------
        X : input of the estimator
            Good images (with ``cv="prefit"``: ones the estimator was not fitted on).
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies, which are left out. Other labels are ignored
            with a ``UserWarning``.
        **params
            Metadata for the estimator's ``fit``, such as ``roi_mask`` of a detector or
            ``patchcoredetector__roi_mask`` of a pipeline; with
            ``sklearn.set_config(enable_metadata_routing=True)`` what its ``set_fit_request``
            asks for. What holds one value per sample is cut like ``X``.

        Returns
        -------
        self

        Raises
        ------
        TooFewImagesError
            If fewer than two good images are left, or too few for ``method="pot"``.

        Warns
        -----
        TooFewImagesWarning
            If that many images cannot support the rate asked for.
        """
        self._validate_params()
        if self.estimator is None:
            X = validate_data(self, X, dtype=np.float64)
        else:
            (X,) = indexable(X)
        keep = normal_rows(y, _num_samples(X))
        if keep.sum() < 2:
            raise TooFewImagesError(
                f"a threshold needs at least 2 good images, got n_samples={keep.sum()}."
            )
        params = self._params_of_estimator(params)
        if not keep.all():
            kept = np.flatnonzero(keep)
            X, params = _safe_indexing(X, kept), index_metadata(params, len(keep), kept)
        scores, source = self._out_of_sample(X, params)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{(~np.isfinite(scores)).sum()} of {len(scores)} calibration scores are not "
                "finite; no threshold can be put on them."
            )
        self.calibration_scores_ = scores
        self._sorted_scores = np.sort(scores)
        cut = _METHODS[self.method](self._sorted_scores, float(self.quantile))
        self.threshold_ = cut.threshold
        self.offset_ = -cut.threshold
        self.expected_false_positive_rate_ = cut.rate
        self.false_positive_rate_interval_ = cut.interval
        self.provenance_ = {
            "method": self.method,
            "scores": source,
            "n_images": len(scores),
            "target_false_positive_rate": round(1.0 - float(self.quantile), 12),
            "expected_false_positive_rate": cut.rate,
            "false_positive_rate_interval_95": list(cut.interval),
            "lowest_supported_rate": 1.0 / (len(scores) + 1),
            "threshold": cut.threshold,
            "estimator": None if self.estimator is None else type(self.estimator).__name__,
        }
        return self

    def _params_of_estimator(self, params: dict[str, Any]) -> dict[str, Any]:
        """What of the metadata goes to the estimator's fit."""
        prefit = isinstance(self.cv, str) and self.cv == "prefit"
        if params and (self.estimator is None or prefit):
            why = "is fitted already" if prefit else "is None"
            raise TypeError(
                f"{', '.join(sorted(params))} is for the fit of the estimator, and that {why}."
            )
        if not sklearn.get_config()["enable_metadata_routing"]:
            return params
        return process_routing(self, "fit", **params)["estimator"]["fit"]

    def get_metadata_routing(self) -> MetadataRouter:
        """Say that metadata of ``fit`` is for the estimator's ``fit``.

        Returns
        -------
        MetadataRouter
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping.add(caller="fit_predict", callee="fit")
        router = MetadataRouter(owner=type(self).__name__)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def _out_of_sample(self, X: Any, params: dict[str, Any]) -> tuple[np.ndarray, str]:
        """Anomaly scores of good images that the model has not seen, and their source."""
        if self.estimator is None:
            self.estimator_ = None
            return self._column(X), "the score column as given"
        if isinstance(self.cv, str) and self.cv == "prefit":  # an array must not be compared
            check_is_fitted(self.estimator)
            self.estimator_ = self.estimator
            return -np.asarray(self.estimator_.score_samples(X)), "held-out images (prefit)"
        self.estimator_, scores, source = out_of_sample_scores(
            self.estimator,
            X,
            cv=self.cv,
            memory=self.memory,
            n_jobs=self.n_jobs,
            params=params,
        )
        return scores, source

    def _column(self, X: np.ndarray) -> np.ndarray:
        return X.max(axis=1)

    def score_samples(self, X: Any) -> np.ndarray:
        """Scores of the wrapped estimator; the higher, the more normal.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        check_is_fitted(self)
        if self.estimator_ is None:
            return -self._column(validate_data(self, X, dtype=np.float64, reset=False))
        return np.asarray(self.estimator_.score_samples(X), dtype=np.float64)

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples(X) - offset_``: negative = anomalous.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """+1 for normal, -1 for anomalous samples.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), int
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_value(self, X: Any) -> np.ndarray:
        """How likely a good image scores at least as high, from the calibration scores.

        With ``method="conformal"``, ``predict`` is -1 exactly where this is at most
        ``1 - quantile`` (or at most ``1 / (n_images + 1)``, where that is larger). A score
        equal to a calibration score is taken to be that image, which does not count against
        itself.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In ``[1 / (n_images + 1), 1]``.
        """
        return self.p_value_of_scores(-self.score_samples(X))

    def p_value_of_scores(self, scores: Any) -> np.ndarray:
        """``p_value`` for anomaly scores (higher = worse) that are known already.

        Parameters
        ----------
        scores : array-like of shape (n_samples,)

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        check_is_fitted(self)
        known = self._sorted_scores
        at_least = len(known) - np.searchsorted(known, scores, side="left")
        above = len(known) - np.searchsorted(known, scores, side="right")
        return (1.0 + np.maximum(above, at_least - 1)) / (len(known) + 1.0)

    def anomaly_map(self, X: Any) -> Any:
        """Anomaly maps of the detector inside, see :func:`pyimgano.inference.anomaly_map`.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples, height, width), float32, or list of such arrays
            Higher = more anomalous.
        """
        return anomaly_map(self, X)

    def score_and_map(self, X: Any) -> tuple[np.ndarray, Any]:
        """``score_samples(X)`` and ``anomaly_map(X)`` in one pass.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
        maps : as from ``anomaly_map``, or None if the detector makes none
        """
        found = score(self, X, maps=True)
        return -found.scores, found.maps

    def __getattr__(self, name: str) -> Any:
        # Banks, training scores: whatever the fitted estimator offers, except for its
        # parameters, which belong to it alone (estimator__...), and for its fits, which would
        # leave the threshold behind.
        inner = self.__dict__.get("estimator_")
        if (
            inner is None
            or name.startswith(("_", "fit", "partial_fit"))
            or name in inner.get_params(deep=False)
        ):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(inner, name)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self.estimator is not None:
            tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def out_of_sample_scores(
    estimator: Any,
    X: Any,
    *,
    cv: Any = "auto",
    memory: Any = None,
    n_jobs: int | None = None,
    params: dict[str, Any] | None = None,
) -> tuple[Any, np.ndarray, str]:
    """Fit an outlier detector, and score its training samples as if it had not seen them.

    Parameters
    ----------
    estimator : estimator
        An outlier detector with ``score_samples``, or a pipeline that ends in one. A clone of
        it is fitted; a ``FrozenEstimator`` stays as it is.
    X : indexable input of the estimator
        Good samples.
    cv : "auto", int, splitter or iterable of splits, default="auto"
        As in :class:`ThresholdCalibrator`.
    memory : str or joblib.Memory, default=None
        Cache for fitted estimators.
    n_jobs : int, default=None
        Number of folds fitted at a time.
    params : dict, default=None
        Metadata for the estimator's ``fit``.

    Returns
    -------
    estimator : estimator
        Fitted on all of ``X``.
    scores : ndarray of shape (n_samples,), float64
        Anomaly scores (``-score_samples``), in the order of ``X``.
    source : str
        Where they come from, in words.
    """
    stamps = None if memory is None else _file_stamps(X)
    memory = check_memory(memory)
    params = params or {}
    if params and isinstance(estimator, FrozenEstimator):
        raise TypeError(f"{', '.join(sorted(params))} is for a fit, and the estimator is frozen.")
    fitted = memory.cache(_fit)(clone(estimator), X, params, stamps)
    if isinstance(fitted, FrozenEstimator):
        return fitted, -np.asarray(fitted.score_samples(X)), "images given to a frozen model"
    if isinstance(cv, str):
        own = own_scores(fitted)
        if own is not None:
            return fitted, own.copy(), OWN_SCORES
        splitter: BaseCrossValidator = KFold(_AUTO_FOLDS, shuffle=True, random_state=0)
        if _num_samples(X) < _AUTO_FOLDS:
            splitter = KFold(_num_samples(X))
    else:
        splitter = check_cv(cv)
    fit_and_score = memory.cache(_fit_and_score)
    folds = list(splitter.split(X))
    parts = Parallel(n_jobs=n_jobs)(
        delayed(fit_and_score)(clone(estimator), X, train, test, params, stamps)
        for train, test in folds
    )
    order = np.concatenate([test for _, test in folds])
    if not np.array_equal(np.sort(order), np.arange(_num_samples(X))):
        raise ValueError(
            f"cv={cv!r} does not test every sample exactly once, so its scores are not those of "
            "so many images: use folds, such as KFold(5, shuffle=True)."
        )
    scores = np.concatenate(parts)[np.argsort(order, kind="stable")]
    return fitted, scores, f"{len(folds)} folds"


def _file_stamps(X: Any) -> list[tuple[int, int]] | None:
    """Size and modification time of each file, if ``X`` are paths.

    An argument of the cached functions only: a path stays the same when its file changes.
    """
    if not isinstance(X, (list, tuple, np.ndarray)):
        return None
    if not all(isinstance(x, (str, os.PathLike)) and os.path.isfile(x) for x in X):
        return None
    return [(status.st_size, status.st_mtime_ns) for status in map(os.stat, X)]


def index_metadata(params: dict[str, Any], n: int, index: np.ndarray) -> dict[str, Any]:
    """Metadata of some of the samples.

    Parameters
    ----------
    params : dict
        Metadata of ``n`` samples. What has one dimension and that length holds one value per
        sample; all else, such as a mask of pixels, is common to all samples, however long.
    n : int
        Number of samples.
    index : ndarray of int
        Samples to keep.

    Returns
    -------
    dict
    """
    return {
        name: _safe_indexing(value, index) if np.shape(value) == (n,) else value
        for name, value in params.items()
    }


def _fit(estimator: Any, X: Any, params: dict[str, Any], stamps: Any = None) -> Any:
    return estimator.fit(X, None, **params)  # FrozenEstimator.fit asks for y


def _fit_and_score(
    estimator: Any,
    X: Any,
    train: np.ndarray,
    test: np.ndarray,
    params: dict[str, Any],
    stamps: Any = None,
) -> np.ndarray:
    params = index_metadata(params, _num_samples(X), train)
    fitted = _fit(estimator, _safe_indexing(X, train), params)
    return -np.asarray(fitted.score_samples(_safe_indexing(X, test)), dtype=np.float64)


def own_scores(estimator: Any) -> np.ndarray | None:
    """Out-of-sample scores the fitted estimator keeps, if nothing before it spoils them.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or a pipeline that ends in one.

    Returns
    -------
    ndarray of shape (n_samples,), float64, or None
        Anomaly scores of its training samples; None if an earlier step learned from the same
        samples, or the detector keeps none.
    """
    if isinstance(estimator, Pipeline):
        before, last = [step for _, step in estimator.steps[:-1]], estimator.steps[-1][1]
        return own_scores(last) if all(_learns_nothing(step) for step in before) else None
    if isinstance(estimator, ThresholdCalibrator):
        return estimator.calibration_scores_
    if isinstance(estimator, FrozenEstimator):
        return None  # what it keeps belongs to the images it was once fitted on
    return getattr(estimator, "training_scores_", None)


def _learns_nothing(step: Any) -> bool:
    if step is None or step == "passthrough" or isinstance(step, FrozenEstimator):
        return True
    return not get_tags(step).requires_fit


class _Cut(NamedTuple):
    threshold: float
    rate: float
    interval: tuple[float, float]


def _cut_at_rank(threshold: float, rank: float, n: int) -> _Cut:
    """The rate of good images above the rank-th smallest of n scores is Beta distributed."""
    low, high = beta.ppf([0.025, 0.975], n + 1 - rank, rank)
    return _Cut(float(threshold), (n + 1 - rank) / (n + 1), (float(low), float(high)))


def _conformal(scores: np.ndarray, quantile: float) -> _Cut:
    n = len(scores)
    # Rounded first: (n + 1) * quantile may miss a whole number by one bit.
    rank = math.ceil(round((n + 1) * quantile, 9))
    if rank > n:
        asked = 1.0 - quantile
        warnings.warn(
            f"{n} good images support a false-positive rate of {1 / (n + 1):.2%} at best, "
            f"{asked:.2%} was asked for: the threshold is at the largest score. Calibrate on at "
            f"least {math.ceil(round(1 / asked, 9)) - 1} images, lower the quantile, or "
            'extrapolate with method="pot".',
            TooFewImagesWarning,
            stacklevel=3,
        )
        rank = n
    threshold = scores[rank - 1]
    if rank == 1 or scores[rank - 2] < threshold:
        threshold = np.nextafter(threshold, -np.inf)  # see Notes
    return _cut_at_rank(threshold, rank, n)


def _quantile(scores: np.ndarray, quantile: float) -> _Cut:
    n = len(scores)
    return _cut_at_rank(np.quantile(scores, quantile), 1 + (n - 1) * quantile, n)


def _peaks_over_threshold(scores: np.ndarray, quantile: float) -> _Cut:
    n = len(scores)
    n_tail = math.ceil(_TAIL_SHARE * n)
    if n_tail < _MIN_TAIL:
        raise TooFewImagesError(
            f'method="pot" fits a tail to the largest tenth of the scores and needs {_MIN_TAIL} '
            f"of them, so n_samples={n} is too few: calibrate on at least "
            f"{math.floor((_MIN_TAIL - 1) / _TAIL_SHARE) + 1} good images or use "
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
    return _Cut(float(start + reach * scale_unit), target, (float(low), float(high)))


_METHODS = {"conformal": _conformal, "quantile": _quantile, "pot": _peaks_over_threshold}
