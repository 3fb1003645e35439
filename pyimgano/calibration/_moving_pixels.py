"""The threshold of pixels of a fitted calibrator, which moves without a fit."""

from __future__ import annotations

from copy import deepcopy
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import indexable
from sklearn.utils.validation import _num_samples, check_is_fitted

from pyimgano._nesting import find_calibrator, input_of
from pyimgano.calibration._map_file import MapFile
from pyimgano.calibration._moving import BY_HAND, as_stated, target_rate
from pyimgano.calibration._recognition import (
    content_keys,
    maps_own_out_of_sample,
    recognized,
    recognizes,
    refuse_trained_on,
)
from pyimgano.calibration._tails import (
    Cut,
    check_enough,
    cut_by_hand,
    lowest_supported_rate,
    put_cut,
)
from pyimgano.defects import DefectExtractor
from pyimgano.exceptions import TooFewImagesError, TrainingImagesError
from pyimgano.inputs._containers import sliceable
from pyimgano.utils._clock import utc_now

__all__ = ["MovablePixelThresholdMixin"]

Self = TypeVar("Self", bound="MovablePixelThresholdMixin")

# The part of a provenance that an entry of its history repeats.
_AUDITED = (
    *("threshold", "method", "maps", "n_images", "target_rate"),
    "expected_false_positive_rate",
)


class MovablePixelThresholdMixin:
    """Threshold of pixels and its rate, which move without a fit.

    Whatever moves the threshold extends ``pixel_provenance_["history"]``.
    """

    quantile: float
    target: str
    method: str
    confidence: float
    estimator_: Any
    extractor_: DefectExtractor
    region_scores_: np.ndarray
    pixel_provenance_: dict[str, Any]
    _parameters_at_fit: dict[str, Any]

    def _fitted_extractor(
        self, extractor: DefectExtractor, maps: MapFile, order: np.ndarray, quantile: float
    ) -> tuple[DefectExtractor, np.ndarray, Cut]:
        raise NotImplementedError

    @property
    def pixel_threshold_(self) -> float:
        if "extractor_" not in vars(self):
            raise AttributeError  # __getattr__ then raises the error that says why
        return self.extractor_.threshold_

    @pixel_threshold_.setter
    def pixel_threshold_(self, pixel_threshold: float) -> None:
        check_is_fitted(self)
        self.extractor_._check_threshold(pixel_threshold)
        cut = cut_by_hand(np.sort(self.region_scores_), float(pixel_threshold))
        self._move(cut, "assignment of pixel_threshold_", method=BY_HAND, target_rate=None)

    def set_pixel_quantile(self: Self, quantile: float) -> Self:
        """Put the pixel threshold where another rate of images asks for it; nothing is fitted.

        Parameters
        ----------
        quantile : float in (0, 1)
            Share of good images in which there shall be no region. It becomes the parameter
            ``quantile``, and ``target`` becomes ``"images"``.

        Returns
        -------
        self
            ``pixel_provenance_["history"]`` has one entry more.

        Raises
        ------
        TooFewImagesError
            If the good images were too few for this rate; nothing is changed then.
        """
        check_is_fitted(self)
        if not (isinstance(quantile, Real) and 0.0 < quantile < 1.0):
            raise ValueError(f"quantile must be a number in (0, 1), got {quantile!r}.")
        how = self.method, float(quantile), float(self.confidence)
        check_enough(len(self.region_scores_), how[1], how[0], how[2])
        cut = put_cut(np.sort(self.region_scores_), *how)
        self.extractor_._check_threshold(cut.threshold)
        new = {"quantile": quantile, "target": "images"}
        vars(self).update(new)
        self._parameters_at_fit = {**self._parameters_at_fit, **new}
        self._move(
            cut,
            "set_pixel_quantile",
            target="images",
            method=self.method,
            target_rate=target_rate(quantile),
        )
        return self

    def recalibrate(self: Self, X_good: Any, quantile: float | None = None) -> Self:
        """Put the thresholds on the maps and scores of other good images; the model stays as it is.

        The pixel threshold is put as ``fit`` puts it, by the parameters of ``fit`` and the
        ``extractor_``, and a ``ThresholdCalibrator`` inside, unless it is frozen, is recalibrated
        on the same images. If one of the two cannot be moved, neither is.

        Parameters
        ----------
        X_good : input of the estimator
            Good images, such as those of the first days at a new place. For a calibrator at the
            end of a pipeline: what the steps before it make of them,
            ``pipe[:-1].transform(images)``. Images that the model was trained on count by their
            out-of-sample maps where the detector makes such, and are refused otherwise.
        quantile : float in (0, 1), default=None
            As the parameter ``quantile``, which it becomes; for ``target="images"`` also that of
            the ``ThresholdCalibrator`` inside. None leaves both as they are.

        Returns
        -------
        self
            ``pixel_provenance_["history"]`` has one entry more.

        Raises
        ------
        TooFewImagesError
            If there are too few images for the rate; nothing is changed then.
        TrainingImagesError
            If some are training images that this model does not map as new ones.
        """
        check_is_fitted(self)
        if quantile is not None and not (isinstance(quantile, Real) and 0.0 < quantile < 1.0):
            raise ValueError(f"quantile must be a number in (0, 1), got {quantile!r}.")
        (X_good,) = indexable(sliceable(X_good))
        n = _num_samples(X_good)
        share = float(self.quantile if quantile is None else quantile)
        if n < 2:
            raise TooFewImagesError(f"a pixel threshold needs at least 2 good images, got {n}.")
        if self.target == "images":
            check_enough(n, share, self.method, float(self.confidence))
        n_known = self._refuse_or_count_training_images(X_good)
        with MapFile() as maps:
            maps.add_all(self.estimator_, X_good)
            fitted = self._fitted_extractor(self.extractor_, maps, np.arange(n), share)
        frozen = isinstance(self.estimator_, FrozenEstimator)
        inner = None if frozen else find_calibrator(self.estimator_)
        if inner is not None:
            of_images = quantile if self.target == "images" else None
            inner.recalibrate(input_of(inner, self.estimator_, X_good), of_images)
        extractor, self.region_scores_, cut = fitted
        if quantile is not None:
            self.quantile = quantile
            self._parameters_at_fit = {**self._parameters_at_fit, "quantile": quantile}
        among = f", {n_known} of them training images by their out-of-sample maps"
        self._move(
            cut,
            "recalibrate",
            extractor,
            method=self.method if self.target == "images" else "quantile of pixels",
            maps="images given to recalibrate" + among * (n_known > 0),
            n_images=n,
            target_rate=target_rate(share),
            lowest_supported_rate=lowest_supported_rate(n, self.method, float(self.confidence)),
            base=extractor.base_,
        )
        return self

    def _refuse_or_count_training_images(self, X: Any) -> int:
        if refuse_trained_on(self.estimator_, X, "to recalibrate"):
            return 0
        if maps_own_out_of_sample(self.estimator_):
            return int(recognized(self.estimator_, X).sum())
        known = vars(self).get("_training_keys")
        seen: Any = []
        if known is not None:
            seen = [key in known for key in content_keys(X) or []]
        elif recognizes(self.estimator_):
            seen = recognized(self.estimator_, X)
        again = np.flatnonzero(seen)
        if len(again):
            raise TrainingImagesError(
                f"{len(again)} of the {_num_samples(X)} images given to recalibrate were trained "
                f"on, the first is at index {again[0]}. The maps that this model makes of them are "
                "more normal than those of new ones. Nothing was changed. Leave them out, or fit "
                "again on all images."
            )
        return 0

    def _move(
        self, cut: Cut, call: str, extractor: DefectExtractor | None = None, **changes: Any
    ) -> None:
        before = self.pixel_provenance_
        after = {**before, **changes, **as_stated(cut)}
        entry = {
            "call": call,
            "time": utc_now(),
            "before": {name: before.get(name) for name in _AUDITED},
            "after": {name: after[name] for name in _AUDITED},
        }
        self.pixel_provenance_ = {**after, "history": [*before["history"], entry]}
        moved = deepcopy(self.extractor_) if extractor is None else extractor
        moved.threshold_ = cut.threshold
        self.extractor_ = moved
