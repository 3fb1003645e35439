"""Detectors with a feature step in front: the parameter ``features``, and its fitted copy."""

from __future__ import annotations

from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods

from pyimgano._nesting import steps_before
from pyimgano.features import BasePatchFeatures, make_features
from pyimgano.utils._fitting import set_on_fitted_copy
from pyimgano.utils._state import MayLack, Object, Rule

__all__ = ["FeatureHolderMixin", "feature_step_of", "overfits"]


class FeatureHolderMixin:
    """Holds the parameter ``features`` and fits the step that it stands for.

    Attributes
    ----------
    features_ : transformer
        The fitted feature step; absent when fitted on patch grids or rows.
    """

    _parameter_constraints: dict = {"features": [str, HasMethods(["fit", "transform"])]}
    _fitted_state: dict[str, Rule] = {"features_": MayLack(Object(methods=("transform",)))}

    # What a network given by name is asked for: the layers and neighborhood of the paper.
    _feature_defaults: dict[str, Any] = {"layers": None, "pool": 3}

    features: str | BasePatchFeatures
    input_kind_: str

    def set_params(self, **params: Any) -> Any:
        """Set parameters; those that say how the feature step computes take effect at once.

        Parameters
        ----------
        **params : dict
            By name, ``features__name`` for those of the feature step. Its ``weights``,
            ``device``, ``batch_size`` and ``threads_per_image`` also reach the fitted
            ``features_``; all others take effect in the next ``fit``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no parameter of that name, or ``features`` is a name, which has none.
        """
        nested = [key for key in params if key.startswith("features__")]
        features = params.get("features", self.features)
        if nested and isinstance(features, str):
            raise ValueError(
                f"{nested[0]} cannot be set: features={features!r} of {type(self).__name__} is a "
                "name, and a name has no parameters. Give the feature step itself first: "
                f"features=make_features({features!r}), from pyimgano.features."
            )
        super().set_params(**params)  # type: ignore[misc]
        set_on_fitted_copy(vars(self).get("features_"), params, "features__")
        return self

    def _make_features(self) -> BasePatchFeatures:
        """Make the step that ``features`` stands for, not fitted."""
        return make_features(self.features, **self._feature_defaults)

    def _fit_steps(self, data: Any) -> None:
        self.__dict__.pop("features_", None)
        if self.input_kind_ == "images":
            self._fit_features(data)

    def _fit_features(self, data: Any) -> None:
        """Make the step and fit it on images."""
        self.features_ = self._make_features()
        self.features_.fit(data, None)  # FrozenEstimator.fit asks for y


def feature_step_of(estimator: Any) -> Any:
    """Make the step that the parameter ``features`` of an estimator stands for, not fitted.

    Parameters
    ----------
    estimator : estimator
        A detector or a pipeline.

    Returns
    -------
    transformer or None
        None if there is no such parameter.
    """
    if isinstance(estimator, FeatureHolderMixin):
        return estimator._make_features()
    # A pipeline names its steps among the parameters of all depths.
    features = estimator.get_params(deep=isinstance(estimator, Pipeline)).get("features")
    return None if features is None else make_features(features)


def overfits(step: Any) -> bool:
    """Tell whether a fitted feature step suits the images it was fitted on better than others."""
    if isinstance(step, FrozenEstimator):
        return False
    if isinstance(step, Pipeline):
        before, last = steps_before(step)
        return any(map(overfits, [*before, last]))
    return bool(getattr(step, "overfits_", get_tags(step).requires_fit))
