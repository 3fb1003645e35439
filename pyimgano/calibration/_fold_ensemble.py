"""The models of several folds as one detector."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if

from pyimgano._any_estimator import score_with_maps, threshold
from pyimgano._decision import flip
from pyimgano._nesting import innermost, makes_maps
from pyimgano.utils._arrays import stack_if_same_size
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import ListOf, Object

__all__ = ["_FoldEnsemble"]


def _all_make_maps(self: _FoldEnsemble) -> bool:
    return all(map(makes_maps, self.fold_estimators))


class _FoldEnsemble(CheckedStateMixin, MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    """Score samples with the median of what the estimators of all folds give them.

    A threshold from scores of the folds fits this median, which is one of models of as many
    samples. A fold whose scores are on a scale of their own, such as one with a covariance that is
    nearly singular, does not move it. It is made of fitted estimators and not fitted itself.

    Parameters
    ----------
    fold_estimators : list of estimators
        Outlier detectors, or pipelines that end in one, each fitted on the samples of all folds
        but one.

    Attributes
    ----------
    offset_ : float
        Median of the estimators' thresholds on ``score_samples``.
    """

    _scale_depends_on_n = True  # or it would not have been made
    _parameter_rules = {
        "fold_estimators": ListOf(Object(methods=("score_samples",)), least=1),
    }

    def __init__(self, fold_estimators: list[Any]) -> None:
        self.fold_estimators = fold_estimators

    def fit(self, X: Any, y: Any = None) -> _FoldEnsemble:
        """Refuse; the estimators are fitted each on its own samples.

        Parameters
        ----------
        X, y : ignored
        """
        raise TypeError(
            "this holds the fitted models of folds; fit the ThresholdCalibrator around it."
        )

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def score_samples(self, X: Any) -> np.ndarray:
        """Median of the estimators' scores; the higher, the more normal.

        Parameters
        ----------
        X : input of the estimators

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return np.median([one.score_samples(X) for one in self.fold_estimators], axis=0)

    @available_if(_all_make_maps)
    def anomaly_map(self, X: Any) -> Any:
        """Median of the estimators' anomaly maps.

        Parameters
        ----------
        X : input of the estimators

        Returns
        -------
        ndarray of shape (n_samples, height, width), float32, or list of such arrays
        """
        return self.score_and_map(X)[1]

    @available_if(_all_make_maps)
    def score_and_map(self, X: Any) -> tuple[np.ndarray, Any]:
        """``score_samples(X)`` and ``anomaly_map(X)`` in one pass.

        Parameters
        ----------
        X : input of the estimators

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
        maps : ndarray of shape (n_samples, height, width), float32, or list of such arrays
        """
        scores, maps = zip(*(score_with_maps(one, X) for one in self.fold_estimators))
        medians = [np.median(of_one_image, axis=0) for of_one_image in zip(*maps)]
        return flip(np.median(scores, axis=0)), stack_if_same_size(medians)

    @property
    def offset_(self) -> float:
        return float(flip(np.median([threshold(one) for one in self.fold_estimators])))

    @property
    def input_kind_(self) -> str:
        return innermost(self.fold_estimators[0])[0].input_kind_

    @property
    def n_features_in_(self) -> int:
        return self.fold_estimators[0].n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        return self.fold_estimators[0].feature_names_in_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.fold_estimators[0]).input_tags
        return tags
