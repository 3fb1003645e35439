"""Base of the detectors on patch features: the feature step in front."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from pyimgano._training import SampleKey, iter_keyed_images
from pyimgano.base import BaseImageDetector
from pyimgano.detectors._composition import CompositionMixin
from pyimgano.detectors._feature_holder import FeatureHolderMixin, overfits
from pyimgano.exceptions import TooFewImagesWarning
from pyimgano.features import BasePatchFeatures
from pyimgano.grids import MAX_SMOOTHING_SIGMA, PatchGrids, lowest_outside
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._stages import timed
from pyimgano.utils._state import Array, Maybe, MayLack, Sizes, State, fail
from pyimgano.utils._warning import warn_user

__all__ = ["BasePatchDetector"]

# Folds in which a step that overfits is fitted anew, and the different images that each of them
# has to leave: as many as the most demanding detector needs.
_FOLDS = 5
_LEFT = 3


class BasePatchDetector(CompositionMixin, FeatureHolderMixin, BaseImageDetector[PatchGrids, Any]):
    """Base of detectors that work on patch features.

    Holds the ``features`` step and turns any input into blocks of
    :class:`~pyimgano.grids.PatchGrids`; feature rows are grids of one patch. A subclass
    also has the parameter ``smoothing_sigma``.

    A step may learn from the training images, and fit them better than any others. What a
    detector then keeps as out-of-sample scores is not: the detector has not seen the image, but
    the step has. Where a fitted step says that it ``overfits_``, or learns and says nothing,
    step and detector are therefore fitted once more in each of up to 5 folds, and
    ``training_scores_`` are those of the images left out. The model itself is fitted on all.

    Patches are judged one by one, and a white image before a white table has none that good images
    lack. The average patch of each image is therefore compared with those of the training images
    as well.

    Attributes
    ----------
    features_ : transformer
        The fitted feature step; absent when fitted on patch grids or rows.
    """

    _parameter_constraints: dict = {
        **BaseImageDetector._parameter_constraints,
        **FeatureHolderMixin._parameter_constraints,
        "smoothing_sigma": [Interval(Real, 0, MAX_SMOOTHING_SIGMA, closed="both")],
    }

    _takes_roi_mask = True
    _fitted_state = {
        # NaN where an image is a copy of another, or came after the step had been fitted.
        "_held_out_levels": MayLack(Maybe(Array("float64", "n", 2, infinite=True))),
    }

    smoothing_sigma: float

    # Median and largest value of the map of each group of training images, from the folds.
    _held_out_levels: np.ndarray | None = None

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        if state["tiled_"] and state["input_kind_"] != "images":
            fail(f"{cls.__name__}.tiled_", "does not go with input_kind_")
        wanted = {"features_"} if state["input_kind_"] == "images" else {"n_features_in_"}
        if not wanted <= set(state) or ("features_" in state) != ("features_" in wanted):
            kind = state["input_kind_"]
            fail(cls.__name__, f"was fitted on {kind} and lacks what belongs to them")
        composition = state.get("_composition")
        if composition is not None and (
            not state.get("_composition_limit", 0.0) > 0
            or composition.bank.shape[1] != cls._width(state)
        ):
            fail(f"{cls.__name__}._composition", "does not go with the rest")

    @classmethod
    def _width(cls, state: State) -> int:
        """Return the number of features that a stored detector works on.

        A subclass should override it and take the number from an attribute that its ``_score``
        compares patches with. By default it is known of rows and patch grids only: a detector of
        images has no ``n_features_in_``, and its ``_composition`` is then not compared with the
        rest.
        """
        return int(state.get("n_features_in_", state["_composition"].bank.shape[1]))

    @property
    def _maps_own_out_of_sample(self) -> bool:  # type: ignore[override]
        return self.input_kind_ != "images" or not overfits(self.features_)

    def _contents(self, block: PatchGrids) -> list[np.ndarray]:
        return block.as_image_rows()

    def held_out_map_levels(self, X: Any) -> list[tuple[float, float] | None]:
        """Tell how high the maps of training images are by a model that has not seen them.

        Where the feature step suits the images it has learned from better than others, so do
        their maps: they are lower than those of new good images, with nothing of the image left
        in the detector itself.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        list of (float, float) or None
            Median and largest value of the anomaly map of each sample. None where
            ``anomaly_map`` is not too low: for other images, and for steps that do not overfit.
        """
        check_is_fitted(self)
        data = self._validate_new_input(X)
        if self._held_out_levels is None:
            return [None] * len(data)
        keys = [key for _, keys in self._keyed_images(data) for key in keys if key.tile == 0]
        groups = [self._known.get(key.image, -1) for key in keys]
        levels = self._held_out_levels
        return [None if g < 0 or np.isnan(levels[g, 0]) else tuple(levels[g]) for g in groups]

    def _fit_validated(self, train: Any) -> None:
        self._held_out_levels = None
        super()._fit_validated(train)
        if self.input_kind_ == "images" and overfits(self.features_):
            self._cross_fit(train)

    def _cross_fit(self, train: Any) -> None:
        """Put the threshold on scores of images that the feature step has not seen either."""
        groups = [
            self._known[key.image]
            for _, keys in self._keyed_images(train)
            for key in keys
            if key.tile == 0
        ]
        n_different = len(set(groups))
        if n_different <= _LEFT:
            warn_user(
                f"the feature step {type(self.features_).__name__} has learned from the "
                f"{n_different} different images that the threshold is put on, too few to leave "
                "any of them out: many more good images will be flagged than the threshold is "
                f"meant for. Train on at least {_LEFT + 1} different images, or give "
                "features=FrozenEstimator(step) with a step fitted on other good images.",
                TooFewImagesWarning,
            )
            return
        folds = GroupKFold(min(_FOLDS, n_different), shuffle=True, random_state=0)
        scores = np.empty(len(groups))
        # By group, the index of its first image; copies of it have no entry of their own.
        levels = np.full((len(groups), 2), np.nan)
        n_scored = 0
        with progress_callback("in folds", getattr(self, "verbose", False)) as progress:
            for rest, held_out in folds.split(groups, groups=groups):
                other = clone(self)
                other.input_kind_, other.tiled_ = self.input_kind_, self.tiled_
                other.roi_mask_ = self.roi_mask_
                super(BasePatchDetector, other)._fit_validated(train[rest])
                at = iter(held_out)
                for some_scores, maps in other._score_batches(train[held_out], maps=True):
                    # ``at`` comes last: zip takes nothing of it when a batch is at its end.
                    for score, heat, i in zip(some_scores, maps, at):
                        scores[i] = score
                        levels[groups[i]] = np.median(heat), np.max(heat)
                    n_scored += len(some_scores)
                    if progress is not None:
                        progress(n_scored, len(scores))
        self._set_offset(scores)
        self._held_out_levels = levels

    def _blocks(self, data: Any) -> Iterator[tuple[PatchGrids, list[SampleKey]]]:
        if self.input_kind_ == "images":
            for images, keys in self._keyed_images(data):
                with timed("features"):
                    grids = self._grids(images, self.roi_mask_)
                yield grids, keys
        else:
            cuts = data.starts
            yield data, [SampleKey(digest(data.rows[a:b])) for a, b in zip(cuts[:-1], cuts[1:])]

    def _sample_keys(self, data: Any) -> Iterator[SampleKey]:
        if self.tiled_ or self.input_kind_ != "images":
            yield from super()._sample_keys(data)
            return
        for _, keys in self._keyed_images(data):  # no features are needed for it
            yield from keys

    def _keyed_images(self, data: Any) -> Iterator[tuple[list[np.ndarray], list[SampleKey]]]:
        return iter_keyed_images(data, self._block_size(), self.roi_mask_)

    def _block_size(self) -> int:
        default = super()._block_size()
        return getattr(self.__dict__.get("features_"), "batch_size", default)

    def _grids(self, images: list[np.ndarray], region: np.ndarray | None) -> PatchGrids:
        """Patches of a block of images, as far as they lie in the region."""
        step = self.features_
        if getattr(type(step), "transform", None) is BasePatchFeatures.transform:
            grids = step._as_fitted()._extract(images)  # they have been checked, and are few enough
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
