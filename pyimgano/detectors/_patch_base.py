"""What all detectors on patch features share: the feature step in front."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval

from pyimgano._training import SampleKey, iter_keyed_images
from pyimgano.base import BaseImageDetector
from pyimgano.features import BasePatchFeatures, make_features
from pyimgano.grids import PatchGrids, lowest_outside
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._fitting import set_on_fitted_copy

__all__ = ["BasePatchDetector"]


class BasePatchDetector(BaseImageDetector[PatchGrids, Any]):
    """Base of detectors that work on patch features.

    Holds the ``features`` step and turns any input into blocks of
    :class:`~pyimgano.grids.PatchGrids`; feature rows are grids of one patch. A subclass
    also has the parameter ``smoothing_sigma``.

    Attributes
    ----------
    features_ : transformer
        The fitted feature step; absent when fitted on patch grids or rows.
    """

    _parameter_constraints: dict = {
        **BaseImageDetector._parameter_constraints,
        "features": [str, HasMethods(["fit", "transform"])],
        "smoothing_sigma": [Interval(Real, 0, None, closed="left")],
    }

    _takes_roi_mask = True

    # What a network given by name is asked for: the layers and neighborhood of the paper.
    _feature_defaults: dict[str, Any] = {"layers": ("layer2", "layer3"), "pool": 3}

    features: str | BasePatchFeatures
    smoothing_sigma: float

    def set_params(self, **params: Any) -> BasePatchDetector:
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
        super().set_params(**params)
        set_on_fitted_copy(vars(self).get("features_"), params, "features__")
        return self

    def _fit_steps(self, data: Any) -> None:
        self.__dict__.pop("features_", None)
        if self.input_kind_ == "images":
            self.features_ = make_features(self.features, **self._feature_defaults)
            self.features_.fit(data, None)  # FrozenEstimator.fit asks for y

    def _blocks(self, data: Any) -> Iterator[tuple[PatchGrids, list[SampleKey]]]:
        if self.input_kind_ == "images":
            for images, keys in self._keyed_images(data):
                yield self._grids(images, self.roi_mask_), keys
        else:
            cuts = data.starts
            yield data, [SampleKey(digest(data.rows[a:b])) for a, b in zip(cuts[:-1], cuts[1:])]

    def _keyed_images(self, data: Any) -> Iterator[tuple[list[np.ndarray], list[SampleKey]]]:
        return iter_keyed_images(data, self._block_size(), self.roi_mask_)

    def _block_size(self) -> int:
        default = super()._block_size()
        return getattr(self.__dict__.get("features_"), "batch_size", default)

    def _grids(self, images: list[np.ndarray], region: np.ndarray | None) -> PatchGrids:
        """Patches of a block of images, as far as they lie in the region."""
        step = self.features_
        if getattr(type(step), "transform", None) is BasePatchFeatures.transform:
            grids = step._extract(images)  # they have been checked, and are few enough
        else:
            grids = step.transform(images)
        if not isinstance(grids, PatchGrids):
            raise TypeError(
                f"the feature step {type(step).__name__} returned "
                f"{type(grids).__name__}; a patch detector needs PatchGrids."
            )
        return grids if region is None else grids.within(region)

    def _to_pixels(self, block: PatchGrids, values: Any) -> list[np.ndarray]:
        return self._within_region(block.to_pixels(values, sigma=self.smoothing_sigma))

    def _within_region(self, maps: list[np.ndarray]) -> list[np.ndarray]:
        """Maps with their minimum outside ``roi_mask_``."""
        return maps if self.roi_mask_ is None else [lowest_outside(m, self.roi_mask_) for m in maps]
