"""Patch grids to rows: statistics of an image's patches, for detectors that take tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from pyimgano.exceptions import ImageFormatError
from pyimgano.features._rows import each_of
from pyimgano.grids import PatchGrids
from pyimgano.utils._columns import with_index
from pyimgano.utils._fitting import FittedParametersMixin, restored_on_error
from pyimgano.utils._state import Number
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["PatchPooling"]

_STATISTICS = ("mean", "max", "min", "std")


class PatchPooling(FittedParametersMixin, VersionStampMixin, TransformerMixin, BaseEstimator):
    """Pool each image's patch features into one row.

    Stands between a step that makes :class:`~pyimgano.grids.PatchGrids` and an estimator that
    takes tables. Where a patch lies is lost, so what comes after it has no anomaly maps.

    Parameters
    ----------
    statistics : str or sequence of str, default=("mean", "max", "std")
        What to take of each feature over the patches of an image, one after the other: among
        ``"mean"``, ``"max"``, ``"min"`` and ``"std"``.

    Attributes
    ----------
    n_features_in_ : int
        Length of the patches' feature vectors.

    Notes
    -----
    The grids of all images are in memory at once: 784 patches of 384 float32 numbers, those of
    a ResNet-18 at 224 pixels, are 1.2 MB per image.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> from pyimgano.features import FilterBankFeatures, PatchPooling
    >>> data = make_inspection_dataset("wood", n_train=8, size=64, random_state=0)
    >>> pipe = make_pipeline(
    ...     FilterBankFeatures(resize=64, n_components=16),
    ...     PatchPooling(),
    ...     StandardScaler(),
    ...     IsolationForest(random_state=0),
    ... ).fit(data.X_train)
    >>> pipe[:2].transform(data.X_test).shape  # mean, max and std of 16 features
    (50, 48)
    """

    _parameter_constraints: dict = {"statistics": [str, tuple, list]}
    _fitted_state = {"n_features_in_": Number(1, whole=True)}

    def __init__(self, statistics: str | Sequence[str] = ("mean", "max", "std")) -> None:
        self.statistics = statistics

    @restored_on_error
    def fit(self, X: PatchGrids, y: Any = None) -> PatchPooling:
        """Remember how long the feature vectors are.

        Parameters
        ----------
        X : PatchGrids
            Patch features of the training images.
        y : ignored

        Returns
        -------
        self
        """
        self._validate_params()
        each_of(self.statistics, "statistics", _STATISTICS)
        self.n_features_in_ = self._check(X).n_features
        self._keep_parameters()
        return self

    def transform(self, X: PatchGrids) -> np.ndarray:
        """Pool the patches of each image.

        Parameters
        ----------
        X : PatchGrids
            Patch features, with as many features as in ``fit``; grids of any shapes.

        Returns
        -------
        ndarray of shape (n_images, n_statistics * n_features), float64
            A DataFrame after ``set_output(transform="pandas")`` or ``"polars"``.
        """
        check_is_fitted(self)
        grids = self._check(X)
        if grids.n_features != self.n_features_in_:
            raise ValueError(
                f"X has {grids.n_features} features per patch, but PatchPooling was fitted on "
                f"{self.n_features_in_}."
            )
        statistics = each_of(self._as_fitted().statistics, "statistics", _STATISTICS)
        rows = np.empty((len(grids), len(statistics), grids.n_features))
        for row, patches in zip(rows, grids.as_image_rows()):
            for pooled, statistic in zip(row, statistics):
                # float32 sums of a thousand patches would lose digits.
                doubles = {"dtype": np.float64} if statistic in ("mean", "std") else {}
                pooled[:] = getattr(patches, statistic)(axis=0, **doubles)
        return with_index(self, rows.reshape(len(grids), -1), grids)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns: ``mean_0``, ``mean_1``, ... by statistic and feature.

        Parameters
        ----------
        input_features : ignored
            Patch features have no names.

        Returns
        -------
        ndarray of shape (n_statistics * n_features,), object
        """
        check_is_fitted(self)
        statistics = each_of(self._as_fitted().statistics, "statistics", _STATISTICS)
        names = [f"{s}_{d}" for s in statistics for d in range(self.n_features_in_)]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check(self, X: Any) -> PatchGrids:
        if not isinstance(X, PatchGrids):
            raise ImageFormatError(
                f"PatchPooling takes PatchGrids and was given {type(X).__name__}; put a step "
                "before it that makes them of images, such as FilterBankFeatures or "
                "BackbonePatchFeatures."
            )
        if not len(X):
            raise ImageFormatError("X holds no images; at least one is needed")
        return X
