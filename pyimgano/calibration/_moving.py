"""Moving the threshold of a fitted calibrator: by hand, by another rate, by other good images."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import indexable
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import _num_samples, check_is_fitted

from pyimgano._decision import check_finite, flip
from pyimgano.calibration._copies import is_of_copies
from pyimgano.calibration._metadata import is_prefit
from pyimgano.calibration._recognition import (
    content_keys,
    recognized,
    recognizes,
    refuse_trained_on,
    scores_own_out_of_sample,
)
from pyimgano.calibration._tails import (
    Cut,
    check_enough,
    cut_by_hand,
    lowest_supported_rate,
    put_cut,
)
from pyimgano.exceptions import TrainingImagesError
from pyimgano.inputs._containers import sliceable
from pyimgano.utils._clock import utc_now
from pyimgano.utils._fitting import FittedParametersMixin, differ

__all__ = ["AT_ONCE", "BY_HAND", "MovableThresholdMixin", "as_asked", "as_stated", "target_rate"]

Self = TypeVar("Self", bound="MovableThresholdMixin")

# The method in ``provenance_`` of a threshold that was assigned.
BY_HAND = "set by hand"
# Parameters that only say where the threshold is put: they move it at once.
AT_ONCE = ("quantile", "method", "confidence")
# What an entry of the history says of the threshold before and after a change.
_AUDITED = (
    "threshold",
    "method",
    "scores",
    "n_images",
    "target_false_positive_rate",
    "confidence",
    "expected_false_positive_rate",
    "false_positive_rate_interval_95",
)


def target_rate(quantile: float) -> float:
    return round(1.0 - float(quantile), 12)


def as_asked(method: str, quantile: float, confidence: float, n: int) -> dict[str, Any]:
    """Describe in the words of ``provenance_`` where a threshold was asked to be put."""
    return {
        "method": method,
        "n_images": n,
        "target_false_positive_rate": target_rate(quantile),
        "confidence": float(confidence) if method == "conditional" else None,
        "lowest_supported_rate": lowest_supported_rate(n, method, confidence),
    }


def as_stated(cut: Cut) -> dict[str, Any]:
    """Describe a threshold in the words of ``provenance_``."""
    return {
        "expected_false_positive_rate": cut.rate,
        "false_positive_rate_interval_95": list(cut.interval),
        "threshold": cut.threshold,
    }


class MovableThresholdMixin(FittedParametersMixin):
    """Threshold, quantile, method and confidence of a calibrator, which move without a fit.

    Whatever moves the threshold extends ``provenance_["history"]``.
    """

    _parameter_constraints: dict
    estimator: Any
    cv: Any
    estimator_: Any
    provenance_: dict[str, Any]
    calibration_scores_: np.ndarray
    score_samples: Callable[[Any], np.ndarray]

    def _keep_scores(self, scores: np.ndarray) -> None:
        self.calibration_scores_ = scores
        self._sorted_scores = np.sort(scores)

    def _put(self, cut: Cut) -> None:
        self.__dict__["threshold_"] = cut.threshold
        self.expected_false_positive_rate_ = cut.rate
        self.false_positive_rate_interval_ = cut.interval

    def _move(self, cut: Cut, call: str, **changes: Any) -> None:
        """Put the threshold somewhere else, and write down what was changed by which call."""
        before = self.provenance_
        after = {**before, **changes, **as_stated(cut)}
        entry = {
            "call": call,
            "time": utc_now(),
            "before": {name: before.get(name) for name in _AUDITED},
            "after": {name: after[name] for name in _AUDITED},
        }
        self.provenance_ = {**after, "history": [*before["history"], entry]}
        self._put(cut)

    # ---- moving the threshold of a fitted model ---------------------------------------
    def set_threshold(self: Self, threshold: float) -> Self:
        """Put the threshold at a given anomaly score; the model stays as it is.

        The same as assigning ``threshold_``.

        Parameters
        ----------
        threshold : float
            Anomaly score, on the scale of ``calibration_scores_``, above which an image is
            judged anomalous.

        Returns
        -------
        self
            The expected rate follows, and ``provenance_["history"]`` has one entry more.
        """
        self._set_by_hand(threshold, "set_threshold")
        return self

    def set_quantile(self: Self, quantile: float) -> Self:
        """Put the threshold where another false-positive rate asks for it; nothing is fitted.

        Parameters
        ----------
        quantile : float in (0, 1)
            Share of good images that shall pass. It becomes the parameter ``quantile``.

        Returns
        -------
        self
            ``provenance_["history"]`` has one entry more.

        Raises
        ------
        TooFewImagesError
            If the calibration scores are too few for this quantile; nothing is changed then.
        """
        check_is_fitted(self)
        self._check_changes({"quantile": quantile})
        check_enough(len(self._sorted_scores), float(quantile), self.method, self.confidence)
        self._recut({"quantile": quantile}, "set_quantile")
        return self

    def recalibrate(self: Self, X_good: Any, quantile: float | None = None) -> Self:
        """Put the threshold on the scores of other good images; the model stays as it is.

        Their scores replace ``calibration_scores_``. Images that the model was trained on are
        recognized: they get their out-of-sample scores where the detector keeps these and no
        earlier step has learned from them, and are refused otherwise.

        Parameters
        ----------
        X_good : input of the estimator
            Good images, such as those of the first days at a new place. For a calibrator at the
            end of a pipeline: what the steps before it make of them,
            ``pipe[:-1].transform(images)``.
        quantile : float in (0, 1), default=None
            Share of good images that shall pass, which becomes the parameter ``quantile``. None
            leaves it as it is.

        Returns
        -------
        self
            ``provenance_["history"]`` has one entry more.

        Raises
        ------
        TooFewImagesError
            If there are too few images for the quantile; nothing is changed then.
        TrainingImagesError
            If some are training images that this model cannot score as new ones.
        """
        check_is_fitted(self)
        changes = {} if quantile is None else {"quantile": quantile}
        self._check_changes(changes)
        if self.estimator_ is not None:
            (X_good,) = indexable(sliceable(X_good))
        share = self.quantile if quantile is None else quantile
        check_enough(_num_samples(X_good), float(share), self.method, self.confidence)
        n_known = self._refuse_or_count_training_images(X_good)
        scores = flip(self.score_samples(X_good))
        check_finite(scores, type(self).__name__, "scores of the images given to recalibrate")
        self._keep_scores(scores)
        among = f", {n_known} of them training images by their out-of-sample scores"
        self._recut(
            changes,
            "recalibrate",
            scores="images given to recalibrate" + among * (n_known > 0),
        )
        return self

    def _refuse_or_count_training_images(self, X: Any) -> int:
        if self.estimator_ is None:
            return 0  # the steps before have scored them
        if refuse_trained_on(self.estimator_, X, "to recalibrate"):
            return 0
        of_copies = is_of_copies(self._parameters_at_fit["cv"])
        if not of_copies and scores_own_out_of_sample(self.estimator_):
            return int(recognized(self.estimator_, X).sum())
        again = self._trained_on(X)
        if len(again):
            raise TrainingImagesError(
                f"{len(again)} of the {_num_samples(X)} images given to recalibrate were trained "
                f"on, the first is at index {again[0]}. This model scores them as more normal than "
                "new ones: a step before its detector has learned from them, the detector does not "
                "recognize them, or it has learned from copies of them. Nothing was changed. Leave "
                "them out, or fit again on all images."
            )
        return 0

    def _trained_on(self, X: Any) -> np.ndarray:
        """Indices of training images, as far as they are known."""
        known = vars(self).get("_training_keys")
        if known is None:  # fitted before it came here, or by an earlier version
            found = recognizes(self.estimator_)
            seen: Any = recognized(self.estimator_, X) if found else []
        else:
            keys = content_keys(X) or []
            seen = [key in known for key in keys]
        return np.flatnonzero(seen)

    def _keys_of(self, X: Any) -> dict[bytes, int] | None:
        """Keys of the training images where the estimator does not score them as new ones.

        It is called in ``fit``, where the parameters are those of the fit.
        """
        if self.estimator is None or is_prefit(self.cv):
            return None
        if isinstance(self.estimator, FrozenEstimator):  # these are not its training images
            return None
        if not is_of_copies(self.cv) and scores_own_out_of_sample(self.estimator_):
            return None
        keys = content_keys(X)
        return None if keys is None else {key: i for i, key in enumerate(keys)}

    @property
    def _recalibrated(self) -> bool:
        """Tell whether the calibration scores are of other images than ``fit`` was given."""
        return any(entry["call"] == "recalibrate" for entry in self.provenance_["history"])

    @property
    def _calibrated_on_new_images(self) -> bool:
        """Tell whether the calibration scores are of images that the model has not seen."""
        estimator, cv = (self._parameters_at_fit[name] for name in ("estimator", "cv"))
        given = estimator is None or isinstance(estimator, FrozenEstimator) or is_prefit(cv)
        return given or self._recalibrated

    def _check_changes(self, changes: dict[str, Any]) -> None:
        constraints = {name: self._parameter_constraints[name] for name in changes}
        validate_parameter_constraints(constraints, changes, type(self).__name__)

    def _recut(self, changes: dict[str, Any], call: str, **provenance: Any) -> None:
        """Apply ``quantile``, ``method`` and ``confidence``, some of them new, to the scores."""
        new = {name: vars(self)[name] for name in AT_ONCE} | changes
        method, quantile, confidence = new["method"], float(new["quantile"]), new["confidence"]
        cut = put_cut(self._sorted_scores, method, quantile, confidence)
        self.__dict__.update(new)
        self._parameters_at_fit = {**self._parameters_at_fit, **new}
        provenance.update(as_asked(method, quantile, confidence, len(self._sorted_scores)))
        self._move(cut, call, **provenance)

    def _set_at_once(self, changes: dict[str, Any], call: str) -> None:
        """Set parameters that move the threshold of a fitted calibrator at once."""
        if "threshold_" not in vars(self):
            self.__dict__.update(changes)
            return
        new = {n: value for n, value in changes.items() if differ(vars(self)[n], value)}
        if not new:
            return
        self._check_changes(new)
        if set(new) == {"confidence"} and self.method != "conditional":
            # The other methods do not use it: the threshold stays where it is.
            self.__dict__.update(new)
            self._parameters_at_fit = {**self._parameters_at_fit, **new}
            return
        self._recut(new, call)

    @property
    def quantile(self) -> float:
        return self.__dict__["quantile"]

    @quantile.setter
    def quantile(self, quantile: float) -> None:
        self._set_at_once({"quantile": quantile}, "assignment of quantile")

    @property
    def method(self) -> str:
        return self.__dict__["method"]

    @method.setter
    def method(self, method: str) -> None:
        self._set_at_once({"method": method}, "assignment of method")

    @property
    def confidence(self) -> float:
        return self.__dict__["confidence"]

    @confidence.setter
    def confidence(self, confidence: float) -> None:
        self._set_at_once({"confidence": confidence}, "assignment of confidence")

    @property
    def threshold_(self) -> float:
        if "threshold_" not in vars(self):
            raise AttributeError  # __getattr__ then raises the error that says why
        if self.provenance_["method"] != BY_HAND:
            self._as_fitted()  # warns if parameters were changed after fit
        return vars(self)["threshold_"]

    @threshold_.setter
    def threshold_(self, threshold: float) -> None:
        self._set_by_hand(threshold, "assignment of threshold_")

    def _set_by_hand(self, threshold: float, call: str) -> None:
        check_is_fitted(self)
        number = isinstance(threshold, Real) and not isinstance(threshold, (bool, np.bool_))
        if not number or not np.isfinite(threshold):
            raise ValueError(
                f"threshold_ must be a finite number, an anomaly score as in "
                f"calibration_scores_, got {threshold!r}."
            )
        cut = cut_by_hand(self._sorted_scores, float(threshold))
        self._move(cut, call, method=BY_HAND, target_false_positive_rate=None, confidence=None)

    @property
    def offset_(self) -> float:
        return float(flip(self.threshold_))

    @offset_.setter
    def offset_(self, offset: float) -> None:
        self.threshold_ = float(flip(offset))
