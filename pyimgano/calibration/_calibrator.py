"""From anomaly scores to a verdict at a stated false-positive rate."""

from __future__ import annotations

import os
from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _is_fitted, _num_samples, check_is_fitted, validate_data

from pyimgano import _defaults
from pyimgano._any_estimator import anomaly_map, score_with_maps
from pyimgano._checks import normal_samples
from pyimgano._decision import as_labels, check_finite, flip, is_anomalous
from pyimgano._nesting import find_parts, innermost, no_detector
from pyimgano.calibration._copies import as_put, fit_with_copies, is_of_copies
from pyimgano.calibration._metadata import FitMetadataMixin, is_prefit
from pyimgano.calibration._moving import AT_ONCE, MovableThresholdMixin, as_asked, as_stated
from pyimgano.calibration._out_of_sample import (
    OWN_SCORES,
    folds_of_normal_samples,
    held_out,
    index_metadata,
    learns_from_known_anomalies,
    out_of_sample_scores,
    own_scores,
)
from pyimgano.calibration._recognition import refuse_trained_on
from pyimgano.calibration._selection import (
    check_selection,
    conformal_p_values,
    select_by_p_values,
)
from pyimgano.calibration._tails import METHODS, put_cut
from pyimgano.exceptions import TooFewImagesError
from pyimgano.features import BasePatchFeatures
from pyimgano.inputs._containers import sliceable
from pyimgano.utils._fitting import (
    RUNTIME_PARAMETERS,
    differ,
    restored_on_error,
    set_on_fitted_copy,
)
from pyimgano.utils._state import (
    Array,
    Map,
    Maybe,
    MayLack,
    Names,
    Number,
    Object,
    Plain,
    Sizes,
    State,
    TupleOf,
    fail,
)
from pyimgano.utils._versions import VersionStampMixin
from pyimgano.utils._warning import warn_user

__all__ = ["ThresholdCalibrator"]


def _learns_in_parts(calibrator: Any) -> bool:
    fitted = vars(calibrator).get("estimator_")
    inner = calibrator.estimator if fitted is None else fitted
    return inner is not None and hasattr(innermost(inner)[0], "partial_fit")


class ThresholdCalibrator(
    MovableThresholdMixin,
    FitMetadataMixin,
    VersionStampMixin,
    MetaEstimatorMixin,
    OutlierMixin,
    BaseEstimator,
):
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
    quantile : float in (0, 1), default=0.98
        Share of good images that shall pass: 1 minus the target false-positive rate. The default
        is the highest rate of passing parts that 49 good images support. Set after ``fit``, it
        moves the threshold at once.
    method : {"conformal", "conditional", "quantile", "pot"}, default="conformal"
        ``"conformal"``: the order statistic of the scores that keeps the target for finitely
        many images, on average over calibrations; it can promise no rate below
        ``1 / (n_images + 1)``. ``"conditional"``: the order statistic whose true rate is at most
        the target with probability ``confidence``, for the threshold at hand; it refuses a rate
        below ``1 - (1 - confidence) ** (1 / n_images)``, such as 2 % for fewer than 149 images.
        ``"quantile"``: the plain empirical quantile. ``"pot"``: peaks over threshold, a
        generalized Pareto tail fitted to the largest tenth of the scores, which extrapolates to
        rates that the images alone cannot support; it needs 10 scores in the tail. Set after
        ``fit``, it moves the threshold at once.
    confidence : float in (0, 1), default=0.95
        Probability, over draws of the good images, with which ``method="conditional"`` keeps its
        promise. Not used by the other methods. Set after ``fit``, it moves the threshold at once.
    cv : "auto", "prefit", "copies", int, splitter or iterable of splits, default="auto"
        Where the scores come from. ``"auto"`` uses the out-of-sample scores the detector
        itself keeps (``training_scores_``), provided no earlier step of the pipeline learned
        from the same images, and 5 shuffled folds otherwise. Of a detector that trains networks
        it takes the scores of the images that were held out (``held_out_``) alone. An int or a
        splitter: folds of clones of the estimator; the final estimator is fitted on all images.
        Splitters see the good images alone, all with label +1, so that those that stratify work
        too; those that keep groups together take the ``groups`` of ``fit``. An iterable of splits
        holds indices into ``X`` as given, and known anomalies are dropped from them. Every good
        image must be tested exactly once.
        ``"prefit"``: the estimator is fitted already and ``X`` are held-out
        good images. Verdicts are then those of a copy, which a later fit of ``estimator`` does not
        change. To avoid the copy of a large model, give a ``FrozenEstimator``, which is used as
        it is; after another fit of the model inside it, calibrate again.
        ``"copies"``: for one image. The estimator is fitted on it and a varied copy, and the
        threshold is at the largest score of 12 further copies, varied by
        :class:`~pyimgano.synthesis.ImageAugmentation`. ``quantile``, ``method`` and
        ``confidence`` have no part in that. The copies are no good parts, so there are no
        ``calibration_scores_``, no rate is promised, and each p-value is 1, until
        :meth:`recalibrate` is given good images and puts the threshold as these three ask.
    ensemble : "auto" or bool, default="auto"
        Whether the models of the folds are kept, and new images are scored with the median of
        their scores; False scores them with the model fitted on all images. Calibration scores
        come from models of fewer images: where the scale of scores depends on the number of
        images, only the former has the rate asked for. It takes as many times longer as there
        are folds. ``"auto"`` does so where there are folds and the detector says that its scale
        depends on the number; of ours :class:`~pyimgano.detectors.PyODDetector` does, for some
        models. True also takes folds where the detector has out-of-sample scores of its own.
    memory : str or joblib.Memory, default=None
        Cache for fitted estimators, so that a search over ``quantile`` or ``method`` fits each
        of them once.
    n_jobs : int, default=None
        Number of folds fitted at a time.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator; None if ``estimator`` is None. With ``ensemble`` it scores with the
        median of the estimators in its ``fold_estimators``, one for each fold.
    threshold_ : float
        Anomaly score (``-score_samples``) above which an image is judged anomalous. It may be
        set by hand, any time after ``fit``; the expected rate and ``provenance_`` then follow.
        :meth:`set_threshold`, :meth:`set_quantile` and :meth:`recalibrate` move it as well.
    offset_ : float
        ``-threshold_``, and set along with it.
    calibration_scores_ : ndarray of shape (n_images,)
        Out-of-sample anomaly scores of the good images, in their order; after
        :meth:`recalibrate`, those of the images given to it; after :meth:`partial_fit`, those of
        all training images.
    expected_false_positive_rate_ : float or None
        Share of good images expected above the threshold; None where there are no calibration
        scores.
    false_positive_rate_interval_ : tuple of float
        Interval that holds the true rate with 95 % probability, given that many images.
    provenance_ : dict
        Where the threshold comes from, in plain JSON types. ``"features"`` names the steps of the
        estimator that make patch features, and of networks the sha256 of their weights.
        ``"history"`` lists what has moved it since ``fit``, the oldest first: the ``"call"``, its
        ``"time"`` in UTC, and ``"before"`` and ``"after"``, each with the threshold, the method,
        the source and number of the scores, the rate asked for and expected, and the confidence,
        which is None but for ``method="conditional"``.

    Notes
    -----
    The conformal threshold is the ``k``-th smallest of the ``n`` scores,
    ``k = ceil((n + 1) * quantile)``; a new good image exceeds it with probability at most
    ``1 - k / (n + 1)``, and the rate of a given threshold follows a Beta(n + 1 - k, k)
    distribution. The stored threshold is the next smaller float, unless two scores tie there:
    an image of the calibration set is thereby judged as if it were not part of the set, and the
    verdicts on new images stay the same.

    That rate is ``1 - k / (n + 1)`` on average, and above it for about half of all calibrations.
    ``method="conditional"`` takes the smallest ``k`` for which a variable with this distribution
    is at most ``1 - quantile`` with probability ``confidence`` [4]_, and puts the threshold at
    that score itself.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005.
    .. [2] J. Pickands, "Statistical inference using extreme order statistics", Annals of
       Statistics 3(1), 1975.
    .. [3] R. L. Smith, "Estimating tails of probability distributions", Annals of
       Statistics 15(3), 1987.
    .. [4] V. Vovk, "Conditional validity of inductive conformal predictors", Machine Learning
       92, 2013.

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
        "method": [StrOptions(set(METHODS))],
        "confidence": [Interval(Real, 0, 1, closed="neither")],
        "cv": [StrOptions({"auto", "copies", "prefit"}), "cv_object"],
        "ensemble": [StrOptions({"auto"}), "boolean"],
        "memory": [str, HasMethods(["cache"]), None],
        "n_jobs": [Integral, None],
    }
    _fitted_state = {
        "estimator_": Maybe(Object(methods=("score_samples",))),
        "calibration_scores_": Array("float64", "n"),
        "_training_keys": MayLack(Maybe(Map(bytes, Number(0, whole=True)))),
        "_sorted_scores": Array("float64", "n"),
        "threshold_": Number(),
        "expected_false_positive_rate_": Maybe(Number(0, 1)),
        "false_positive_rate_interval_": TupleOf(Number(0, 1), Number(0, 1)),
        "provenance_": Map(str, Plain()),
        "n_features_in_": MayLack(Number(1, whole=True)),
        "feature_names_in_": MayLack(Names()),
    }

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        scores = state["_sorted_scores"]
        least = 0 if state["provenance_"].get("n_images") == 0 else 2  # after cv="copies"
        if len(scores) < least or (np.diff(scores) < 0).any():
            fail(f"{cls.__name__}._sorted_scores", "are not in order")
        history = state["provenance_"].get("history")
        if not isinstance(history, list) or not all(map(_is_entry, history)):
            fail(f"{cls.__name__}.provenance_", "has a history that is no list of changes")
        # Parameters may have been set anew since the fit.
        estimator = state["_parameters_at_fit"].get("estimator", state["estimator"])
        if (estimator is None) != (state["estimator_"] is None):
            fail(f"{cls.__name__}.estimator_", "does not go with estimator")
        if estimator is None and "n_features_in_" not in state:
            fail(cls.__name__, "lacks n_features_in_")

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        # Earlier versions knew no ensemble and no confidence, saved both threshold and offset, and
        # used the offset.
        state = super()._upgraded_state({"ensemble": "auto", "confidence": 0.95, **state})
        offset = state.pop("offset_", None)
        if offset is not None and "threshold_" in state:
            Number().check(offset, f"{cls.__name__}.offset_", Sizes(thorough=True))
            state["threshold_"] = float(flip(offset))
        if type(state.get("provenance_")) is dict:  # earlier versions kept no history
            state["provenance_"] = {"history": [], **state["provenance_"]}
        return state

    _runtime_parameters = frozenset({"memory", "n_jobs", "verbose"})

    def __init__(
        self,
        estimator: Any = None,
        *,
        quantile: float = _defaults.QUANTILE,
        method: str = "conformal",
        confidence: float = 0.95,
        cv: Any = "auto",
        ensemble: str | bool = "auto",
        memory: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.quantile = quantile
        self.method = method
        self.confidence = confidence
        self.cv = cv
        self.ensemble = ensemble
        self.memory = memory
        self.n_jobs = n_jobs

    @restored_on_error
    def fit(self, X: Any, y: Any = None, **params: Any) -> ThresholdCalibrator:
        """Fit the estimator and put the threshold.

        Parameters
        ----------
        X : input of the estimator
            Good images (with ``cv="prefit"``: ones the estimator was not fitted on).
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies. They are left out, or handed to an estimator
            that learns from them, such as
            :class:`~pyimgano.detectors.SuperSimpleNetDetector`; the threshold is put on good
            images alone. Other labels are ignored with an
            :class:`~pyimgano.exceptions.IgnoredLabelsWarning`.
        **params
            ``groups``, of shape (n_samples,), for ``cv``: images with equal values belong
            together, such as photos of one part, and are tested in one fold; with ``cv="auto"``
            in one of 5 folds. All else is metadata for the estimator's ``fit``, such as
            ``roi_mask`` of a detector or ``patchcoredetector__roi_mask`` of a pipeline; with
            ``sklearn.set_config(enable_metadata_routing=True)`` what its ``set_fit_request``
            asks for. What holds one value per sample is cut like ``X``.

        Returns
        -------
        self

        Raises
        ------
        TooFewImagesError
            If fewer than two good images are left, or too few for ``method="pot"`` or
            ``method="conditional"``.

        Warns
        -----
        TooFewImagesWarning
            If that many images cannot support the rate asked for.
        """
        if not (self.estimator is None or _may_be_detector(self.estimator)):
            raise TypeError(no_detector(self.estimator, "estimator"))
        self._validate_params()
        if self.estimator is None:
            X = validate_data(self, X, dtype=np.float64)
        else:
            (X,) = indexable(sliceable(X))
        keep = normal_samples(y, _num_samples(X))
        if keep.sum() < (1 if is_of_copies(self.cv) else 2):
            raise TooFewImagesError(
                f"a threshold needs at least 2 good images, got n_samples={keep.sum()}."
            )
        params, groups = self._route(params)
        cv = self.cv
        if self.estimator is not None and not isinstance(cv, str):
            cv = folds_of_normal_samples(cv, X, keep, groups)
        kept = np.flatnonzero(keep)
        good = X if keep.all() else _safe_indexing(X, kept)
        if is_prefit(cv) or not learns_from_known_anomalies(self.estimator):
            X, params = good, index_metadata(params, len(keep), kept)
            groups = None if groups is None else np.asarray(groups)[kept]
            keep = np.ones(len(kept), dtype=bool)
        elif not isinstance(cv, str):
            cv = [(kept[train], kept[test]) for train, test in cv]
        asked = (self.method, float(self.quantile), float(self.confidence))
        if is_of_copies(cv):
            self._refuse_ensemble()
            self.estimator_, cut = fit_with_copies(self.estimator, X, params)
            scores, asked_for = np.empty(0), as_put()
        else:
            scores, source = self._out_of_sample(X, cv, params, groups, keep)
            check_finite(scores, type(self).__name__, "calibration scores")
            cut = put_cut(np.sort(scores), *asked)
            asked_for = {"scores": source, **as_asked(*asked, len(scores))}
        self._keep_scores(scores)
        self._training_keys = self._keys_of(good)
        self.provenance_ = {
            **asked_for,
            **as_stated(cut),
            "estimator": None if self.estimator is None else type(self.estimator).__name__,
            "features": _features_of(self.estimator_),
            "history": [],
        }
        self._put(cut)
        self._keep_parameters()
        return self

    @available_if(_learns_in_parts)
    def partial_fit(self, X: Any, y: Any = None) -> ThresholdCalibrator:
        """Have the detector learn from more good images, and put the threshold anew.

        The first call is ``fit``. The threshold is put on the out-of-sample scores that the
        detector keeps of all images, earlier and new.

        Parameters
        ----------
        X : input of the estimator
            Good images, one or more.
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies, which are left out.

        Returns
        -------
        self
            ``provenance_["history"]`` has one entry more.

        Raises
        ------
        ValueError
            If the threshold was put on other scores than those that the detector keeps: on scores
            of folds, of held-out images, or of images given to :meth:`recalibrate`.

        Examples
        --------
        >>> import numpy as np
        >>> from pyimgano.calibration import ThresholdCalibrator
        >>> from pyimgano.detectors import PaDiMDetector
        >>> rows = np.random.RandomState(0).normal(size=(500, 5))
        >>> calibrator = ThresholdCalibrator(PaDiMDetector(), quantile=0.95).fit(rows[:100])
        >>> calibrator.partial_fit(rows[100:200]).provenance_["n_images"]
        200

        Where the threshold comes from held-out images, the detector inside learns, and other
        good images say where the threshold goes:

        >>> model = ThresholdCalibrator(PaDiMDetector().fit(rows[:100]), cv="prefit", quantile=0.95)
        >>> model.fit(rows[100:200]).estimator_.partial_fit(rows[200:300])
        PaDiMDetector()
        >>> model.recalibrate(rows[300:]).provenance_["n_images"]
        200
        """
        if not _is_fitted(self):
            return self.fit(X, y)
        detector, data = innermost(self.estimator_, X)
        source, own = self.provenance_["scores"], own_scores(self.estimator_)
        if source != OWN_SCORES or own is not detector.training_scores_:
            raise ValueError(
                f"the threshold was put on other scores than {OWN_SCORES} ({source}), and does "
                "not follow them. Call partial_fit of the detector inside estimator_, then "
                "recalibrate with good images."
            )
        detector.partial_fit(data, y)
        self._keep_scores(np.array(detector.training_scores_))
        self._recut({}, "partial_fit")
        return self

    def set_params(self, **params: Any) -> ThresholdCalibrator:
        """Set parameters; what can take effect at once does.

        Parameters
        ----------
        **params : dict
            By name, ``estimator__name`` for those of the estimator. ``quantile``, ``method`` and
            ``confidence`` move the threshold of a fitted calibrator, which
            ``provenance_["history"]`` records; ``weights``, ``device``, ``batch_size`` and
            ``threads_per_image`` of a feature step also reach the fitted ``estimator_``. All
            others take effect in the next ``fit``, and if there was one a ``UserWarning`` says so.

        Returns
        -------
        self
        """
        estimator = params.get("estimator", self.estimator)
        inner = [name for name in params if name.startswith("estimator__")]
        if inner and not hasattr(estimator, "set_params"):
            raise ValueError(
                f"{inner[0]} cannot be set: estimator={estimator!r} has no parameters. Give the "
                "calibrator an estimator first; where it is the last step of a pipeline, set the "
                "parameter of the step before it by that step's name."
            )
        before = self.get_params(deep=bool(inner))
        at_once = {name: value for name, value in params.items() if name in AT_ONCE}
        self._set_at_once(at_once, "set_params")
        params = {name: value for name, value in params.items() if name not in AT_ONCE}
        super().set_params(**params)
        set_on_fitted_copy(vars(self).get("estimator_"), params, "estimator__")
        late = [
            name
            for name in params
            if name.rpartition("__")[2] not in self._runtime_parameters | RUNTIME_PARAMETERS
            and differ(before.get(name), params[name])
        ]
        if late and "threshold_" in vars(self):
            warn_user(
                f"this {type(self).__name__} is fitted: {', '.join(late)} takes effect in the next "
                "fit. set_threshold, set_quantile and recalibrate move the threshold of the model "
                "as it is.",
                UserWarning,
            )
        return self

    def fit_predict(self, X: Any, y: Any = None, **params: Any) -> np.ndarray:
        """Fit, and label the same samples.

        Parameters
        ----------
        X, y, **params : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
            +1 for normal, -1 for anomalous.
        """
        return self.fit(X, y, **params).predict(X)

    def _out_of_sample(
        self, X: Any, cv: Any, params: dict[str, Any], groups: Any, normal: np.ndarray
    ) -> tuple[np.ndarray, str]:
        """Anomaly scores of good images that the model has not seen, and their source."""
        if self.estimator is None or is_prefit(cv):
            self._refuse_ensemble()
        if self.estimator is None:
            self.estimator_ = None
            return self._column(X), "the score column as given"
        if is_prefit(cv):
            check_is_fitted(self.estimator)
            frozen = isinstance(self.estimator, FrozenEstimator)
            self.estimator_ = self.estimator if frozen else deepcopy(self.estimator)
            refuse_trained_on(self.estimator_, X, "to calibrate on")
            return flip(self.estimator_.score_samples(X)), "held-out images (prefit)"
        if isinstance(self.estimator, FrozenEstimator):
            refuse_trained_on(self.estimator, X, "to calibrate on")
        self.estimator_, scores, source = out_of_sample_scores(
            self.estimator,
            X,
            cv=cv,
            ensemble=self.ensemble,
            memory=self.memory,
            n_jobs=self.n_jobs,
            params=params,
            groups=groups if isinstance(cv, str) else None,  # folds have been made by them
            normal=normal,
        )
        new = held_out(self.estimator_) if source == OWN_SCORES else None
        if new is not None:
            scores = scores[new]
            if len(scores) < 2:
                raise TooFewImagesError(
                    f"a threshold needs at least 2 good images that the detector has held out of "
                    f"its training, and of {len(new)} it has held out {len(scores)}. Train on more "
                    "images, or raise validation_fraction."
                )
            source = f"{len(scores)} good images that the detector held out of its training"
        return scores, source

    def _refuse_ensemble(self) -> None:
        """Refuse to keep the models of folds where there are none."""
        if not isinstance(self.ensemble, str) and self.ensemble:
            why = "estimator is None" if self.estimator is None else f'cv="{self.cv}"'
            raise ValueError(
                f"ensemble=True keeps the models of folds, and with {why} there are none."
            )

    def _column(self, X: np.ndarray) -> np.ndarray:
        return X.max(axis=1)

    def score_samples(self, X: Any) -> np.ndarray:
        """Compute the scores of the wrapped estimator; higher means more normal.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        check_is_fitted(self)
        if self.estimator_ is None:
            return flip(self._column(validate_data(self, X, dtype=np.float64, reset=False)))
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
        return as_labels(is_anomalous(flip(self.score_samples(X)), self.threshold_))

    def p_value(self, X: Any) -> np.ndarray:
        """Estimate the probability that a good image scores at least as high.

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
            In ``[1 / (n_images + 1), 1]``; 1 where there are no calibration scores.
        """
        return self.p_value_of_scores(flip(self.score_samples(X)))

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
        return (1.0 + np.maximum(0, np.maximum(above, at_least - 1))) / (len(known) + 1.0)

    def select(self, X: Any, rate: float, control: str = "fdr") -> np.ndarray:
        """Select the anomalous images of a batch at a stated share of false alarms.

        Parameters
        ----------
        X : input of the estimator
            The whole batch, new images. The verdict on one depends on the others.
        rate : float in (0, 1)
            Largest expected share of false alarms, of which kind ``control`` says.
        control : {"fdr", "fpr"}, default="fdr"
            ``"fdr"``, the false discovery rate: of the images selected at most this share is
            good, by Benjamini and Hochberg's procedure [1]_. ``"fpr"``, the false-positive rate:
            of the good images at most this share is selected, each image by its own p-value.

        Returns
        -------
        ndarray of shape (n_samples,), bool
            True for the images selected as anomalous.

        Raises
        ------
        TooFewImagesError
            If ``rate`` is below ``1 / (n_images + 1)``, the smallest p-value there is, so that
            no image could be selected.

        Notes
        -----
        Rates are expectations over calibrations and batches. They hold if the good images of
        the batch and those calibrated on are exchangeable, and independent of the anomalies in
        the batch; the p-values then depend on each other positively, as the procedure asks
        [2]_. The threshold has no part in it. A score equal to a calibration score counts as
        no worse than that, unlike in :meth:`p_value`.

        For ``"fdr"`` anomalies must be numerous enough: to select ``k`` of ``m`` images takes
        ``rate * k / m >= 1 / (n_images + 1)``. With 99 calibration images, a batch of 100 and
        ``rate=0.1`` nothing is selected unless at least 10 images are worse than all of those.

        References
        ----------
        .. [1] Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", Journal of the
           Royal Statistical Society B 57(1), 1995.
        .. [2] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with
           conformal p-values", Annals of Statistics 51(1), 2023.

        Examples
        --------
        >>> import numpy as np
        >>> from pyimgano.calibration import ThresholdCalibrator
        >>> good = np.random.RandomState(0).normal(size=(199, 1))
        >>> calibrator = ThresholdCalibrator().fit(good)
        >>> calibrator.select([[0.1], [5.0], [-1.0], [6.0]], rate=0.05)
        array([False,  True, False,  True])
        """
        check_is_fitted(self)
        check_selection(rate, control, len(self._sorted_scores))
        scores = flip(self.score_samples(X))
        return select_by_p_values(conformal_p_values(scores, self._sorted_scores), rate, control)

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
        scores, maps = score_with_maps(self, X)
        return flip(scores), maps

    def __getattr__(self, name: str) -> Any:
        # Attributes of the fitted estimator, such as banks and training scores. Not its
        # parameters, which are set as estimator__..., and not its fit methods, which would not
        # move the threshold along.
        if name in ("threshold_", "offset_"):
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted and has no {name}. Call fit with good "
                "images first."
            )
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


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("call"), str)


def _may_be_detector(estimator: Any) -> bool:
    has_methods = hasattr(estimator, "fit") and hasattr(estimator, "score_samples")
    return has_methods and not isinstance(estimator, type)


def _features_of(estimator: Any) -> list[dict[str, str]]:
    """Describe the steps that make patch features in a fitted estimator, each once."""
    found: dict[str, dict[str, str]] = {}
    for step in find_parts(estimator, BasePatchFeatures):
        about = found.setdefault(" ".join(repr(_without_folder(step)).split()), {})
        if hasattr(step, "weights_sha256_"):  # of the copy that was fitted
            about["weights_sha256"] = step.weights_sha256_
    return [{"step": text, **about} for text, about in found.items()]


def _without_folder(step: Any) -> Any:
    """A feature step as another machine would have it: its weights without their folder."""
    weights = getattr(step, "weights", None)
    if weights is None or os.path.basename(weights) == os.fspath(weights):
        return step
    return clone(step).set_params(weights=os.path.basename(weights))
