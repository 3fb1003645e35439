"""From anomaly maps to defects at a stated rate of good images that have any."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_is_fitted, check_memory

from pyimgano import _defaults
from pyimgano._any_estimator import anomaly_map, iter_scores, score_with_maps, threshold
from pyimgano._checks import normal_samples
from pyimgano._decision import flip
from pyimgano._nesting import (
    find_calibrator,
    innermost,
    input_of,
    is_calibrator,
    makes_maps,
    no_detector,
    walk,
)
from pyimgano._roi import roi_in_pixels
from pyimgano.calibration._metadata import FitMetadataMixin, is_prefit
from pyimgano.calibration._moving import BY_HAND, as_stated, target_rate
from pyimgano.calibration._out_of_sample import (
    automatic_splitter,
    file_stamps,
    fit_fold,
    fit_labeled,
    folds_of_normal_samples,
    held_out,
    index_metadata,
    learns_from_known_anomalies,
)
from pyimgano.calibration._recognition import (
    content_keys,
    learns_before,
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
from pyimgano.defects import DefectExtractor, DefectRegion
from pyimgano.defects._extractor import check_map
from pyimgano.exceptions import TooFewImagesError, TrainingImagesError
from pyimgano.inputs._containers import sliceable
from pyimgano.utils._clock import utc_now
from pyimgano.utils._fitting import (
    RUNTIME_PARAMETERS,
    FittedParametersMixin,
    differ,
    restored_on_error,
    set_on_fitted_copy,
)
from pyimgano.utils._outputs import naming_temporary_files
from pyimgano.utils._state import (
    Array,
    Map,
    Maybe,
    MayLack,
    Number,
    Object,
    Plain,
    Sizes,
    State,
    fail,
)
from pyimgano.utils._versions import VersionStampMixin
from pyimgano.utils._warning import warn_user

__all__ = ["PixelThresholdCalibrator"]

# The part of a provenance that an entry of its history repeats.
_AUDITED = (
    *("threshold", "method", "maps", "n_images", "target_rate"),
    "expected_false_positive_rate",
)


def _is_calibrated(self: PixelThresholdCalibrator) -> bool:
    return find_calibrator(self) is not None


class PixelThresholdCalibrator(
    FitMetadataMixin,
    FittedParametersMixin,
    VersionStampMixin,
    MetaEstimatorMixin,
    OutlierMixin,
    BaseEstimator,
):
    """Put the threshold of pixels where a stated rate of good images with any defect asks for it.

    An image has a score and a verdict; this adds the regions that are anomalous. Their threshold
    comes from the anomaly maps of good images by models that have not seen them. Scores, verdicts
    and maps are those of the estimator inside, so one file of a fitted
    ``PixelThresholdCalibrator(ThresholdCalibrator(detector))`` has both the verdict and the
    defects, each at a rate of its own.

    Parameters
    ----------
    estimator : estimator
        An outlier detector with anomaly maps, or a ``Pipeline``, ``ThresholdCalibrator`` or other
        nesting that ends in one.
    extractor : DefectExtractor, default=None
        The way from a map to regions; None is ``DefectExtractor()``. Its ``pixel_quantile`` is
        not used.
    target : {"images", "pixels"}, default="images"
        ``"images"``: ``quantile`` is the share of good images in which there shall be no region,
        after all steps of the extractor. ``"pixels"``: the share of the pixels of good images,
        inside its region of interest, that shall be at or below the threshold.
    quantile : float in (0, 1), default=0.98
        The share that ``target`` is about.
    method : {"conformal", "conditional"}, default="conformal"
        For ``target="images"``, as in :class:`ThresholdCalibrator`: the rate on average, or with
        a stated ``confidence``.
    confidence : float in (0, 1), default=0.95
        Used by ``method="conditional"``.
    cv : "auto", "prefit", int, splitter or iterable of splits, default="auto"
        Where the maps come from. ``"auto"``: from the fitted estimator itself where it leaves out
        of its model each training image that it makes a map of, as the detectors of this package
        do; otherwise, and with ``groups``, from 5 shuffled folds. An int or a splitter: from
        folds of clones of the estimator, without the calibrators in it. ``"prefit"``: the
        estimator is fitted already, and ``X`` are other good images; it is copied, unless it is a
        ``FrozenEstimator``.
    memory : str or joblib.Memory, default=None
        Cache for fitted estimators, those of folds among them.
    n_jobs : int, default=None
        Number of folds fitted at a time.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    extractor_ : DefectExtractor
        The fitted extractor. Where the detector has a ``roi_mask_``, it is the region of interest,
        or its intersection with that of the extractor.
    pixel_threshold_ : float
        The threshold of ``extractor_``. It may be set by hand, any time after ``fit``, which
        ``pixel_provenance_`` records.
    region_scores_ : ndarray of shape (n_images,)
        For each good image the smallest threshold from which on it has no region, see
        :meth:`~pyimgano.defects.DefectExtractor.region_scores`.
    pixel_provenance_ : dict
        Where the pixel threshold comes from, in plain JSON types. Whatever the target,
        ``"expected_false_positive_rate"`` is the share of good images expected to have a region.
        ``"history"`` lists what has moved it since ``fit``.

    See Also
    --------
    ThresholdCalibrator : The threshold of images by the rate of good ones above it.

    Notes
    -----
    With ``target="images"`` the threshold is conformal, as that of
    :class:`ThresholdCalibrator` is: the ``k``-th smallest of the ``n`` region scores,
    ``k = ceil((n + 1) * quantile)``. A new good image has a region only if its region score
    exceeds the threshold, which has probability at most ``1 - k / (n + 1)``, for any detector and
    any steps of the extractor. The verdict on an image and its regions follow from different
    thresholds, and may differ: an image judged good may have a region, and the other way round.

    Maps are kept in a temporary file while fitting, 4 bytes for each pixel of the images.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano import PatchCoreDetector, ThresholdCalibrator
    >>> from pyimgano.calibration import PixelThresholdCalibrator
    >>> from pyimgano.defects import DefectExtractor
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(24, 64, 64, 3)).astype(np.uint8)
    >>> verdict = ThresholdCalibrator(PatchCoreDetector("filterbank"), quantile=0.9)
    >>> model = PixelThresholdCalibrator(verdict, DefectExtractor(min_area=9), quantile=0.9)
    >>> bad = good[:1].copy()
    >>> bad[0, 20:30, 20:30] = 255
    >>> ((region, *_), *_) = model.fit(good).defects(bad)
    >>> x0, y0, x1, y1 = region.bbox_xyxy
    >>> x0 <= 20 and y0 <= 20 and x1 >= 30 and y1 >= 30
    True
    >>> model.predict(bad)
    array([-1])
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "score_samples"])],
        "extractor": [DefectExtractor, None],
        "target": [StrOptions({"images", "pixels"})],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
        "method": [StrOptions({"conformal", "conditional"})],
        "confidence": [Interval(Real, 0, 1, closed="neither")],
        "cv": [StrOptions({"auto", "prefit"}), "cv_object"],
        "memory": [str, HasMethods(["cache"]), None],
        "n_jobs": [Integral, None],
    }
    _fitted_state = {
        "estimator_": Object(methods=("score_samples",)),
        "extractor_": Object("DefectExtractor"),
        "region_scores_": Array("float64", "n"),
        "pixel_provenance_": Map(str, Plain()),
        # Files of versions without recalibrate have none; their models are asked instead.
        "_training_keys": MayLack(Maybe(Map(bytes, Number(0, whole=True)))),
    }
    _runtime_parameters = frozenset({"memory", "n_jobs"})
    _at_once = {"quantile": "To move the pixel threshold at once, call set_pixel_quantile."}

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        if len(state["region_scores_"]) < 2:
            fail(f"{cls.__name__}.region_scores_", "are too few")
        if "threshold_" not in vars(state["extractor_"]):
            fail(f"{cls.__name__}.extractor_", "is not fitted")
        if not isinstance(state["pixel_provenance_"].get("history"), list):
            fail(f"{cls.__name__}.pixel_provenance_", "has no history")

    def __init__(
        self,
        estimator: Any,
        extractor: DefectExtractor | None = None,
        *,
        target: str = "images",
        quantile: float = _defaults.QUANTILE,
        method: str = "conformal",
        confidence: float = 0.95,
        cv: Any = "auto",
        memory: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.extractor = extractor
        self.target = target
        self.quantile = quantile
        self.method = method
        self.confidence = confidence
        self.cv = cv
        self.memory = memory
        self.n_jobs = n_jobs

    # ---- fitting ----------------------------------------------------------------------
    @restored_on_error
    def fit(self, X: Any, y: Any = None, **params: Any) -> PixelThresholdCalibrator:
        """Fit the estimator, and put the threshold of pixels.

        Parameters
        ----------
        X : input of the estimator
            Good images (with ``cv="prefit"``: ones the estimator was not fitted on).
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies, which are left out, or handed to an estimator
            that learns from them, as by :class:`ThresholdCalibrator`. Other labels are ignored
            with an :class:`~pyimgano.exceptions.IgnoredLabelsWarning`.
        **params
            As for ``fit`` of :class:`ThresholdCalibrator`; ``groups`` are also given to an
            ``estimator`` that is one.

        Returns
        -------
        self

        Raises
        ------
        TooFewImagesError
            If there are too few good images for the rate asked for.
        TypeError
            If the estimator makes no anomaly maps of this input.
        """
        if isinstance(self.estimator, type) or not hasattr(self.estimator, "score_samples"):
            raise TypeError(no_detector(self.estimator, "estimator"))
        self._validate_params()
        if not makes_maps(self.estimator):
            raise _no_maps(self.estimator)
        (X,) = indexable(sliceable(X))
        keep = normal_samples(y, _num_samples(X))
        n = int(keep.sum())
        if n < 2:
            raise TooFewImagesError(
                f"a pixel threshold needs at least 2 good images, got n_samples={n}."
            )
        if self.target == "images":
            check_enough(n, float(self.quantile), self.method, float(self.confidence))
        params, groups = self._route(params)
        cv = self.cv
        if not isinstance(cv, str):
            cv = folds_of_normal_samples(cv, X, keep, groups)
        if is_prefit(cv) or not learns_from_known_anomalies(self.estimator):
            kept = np.flatnonzero(keep)
            X, params = _safe_indexing(X, kept), index_metadata(params, len(keep), kept)
            groups = None if groups is None else np.asarray(groups)[kept]
            keep = np.ones(n, dtype=bool)
        self._fit_estimator(X, keep, params, groups)
        with _MapFile() as maps:
            order, source = self._out_of_sample_maps(X, keep, cv, params, groups, maps)
            extractor = self.extractor if self.extractor is not None else DefectExtractor()
            fitted = self._fitted_extractor(extractor, maps, order, float(self.quantile))
        self.extractor_, self.region_scores_, cut = fitted
        good = X if keep.all() else _safe_indexing(X, np.flatnonzero(keep))
        self._training_keys = self._keys_of(good)
        self._describe(cut, source)
        self._keep_parameters()
        return self

    def _keys_of(self, X: Any) -> dict[bytes, int] | None:
        """Keys of the training images where the maps of these are not as of new ones."""
        if is_prefit(self.cv) or _is_given(self.estimator_):  # these are not what it has seen
            return None
        if maps_own_out_of_sample(self.estimator_):
            return None
        keys = content_keys(X)
        return None if keys is None else {key: i for i, key in enumerate(keys)}

    def _fit_estimator(
        self, X: Any, normal: np.ndarray, params: dict[str, Any], groups: Any
    ) -> None:
        if is_prefit(self.cv):
            check_is_fitted(self.estimator)
            frozen = isinstance(self.estimator, FrozenEstimator)
            self.estimator_ = self.estimator if frozen else deepcopy(self.estimator)
            return
        if groups is not None and is_calibrator(self.estimator):
            params = {**params, "groups": groups}
        memory = check_memory(self.memory)
        stamps = None if self.memory is None else file_stamps(X)
        fit = memory.cache(fit_labeled)
        self.estimator_ = fit(clone(self.estimator), X, np.where(normal, 1, -1), params, stamps)

    def _out_of_sample_maps(
        self,
        X: Any,
        normal: np.ndarray,
        cv: Any,
        params: dict[str, Any],
        groups: Any,
        maps: _MapFile,
    ) -> tuple[np.ndarray, str]:
        """Write the maps of good images by models that have not seen them, and name the source."""
        kept, known = np.flatnonzero(normal), np.flatnonzero(~normal)
        in_order, good = np.arange(len(kept)), X if normal.all() else _safe_indexing(X, kept)
        if is_prefit(cv) or _is_given(self.estimator_):
            refuse_trained_on(self.estimator_, X, "to calibrate on")
        if is_prefit(cv):
            maps.add_all(self.estimator_, good)
            return in_order, "held-out images (prefit)"
        if _is_given(self.estimator_):
            maps.add_all(self.estimator_, good)
            return in_order, "images given to a frozen model"
        automatic = isinstance(cv, str)
        if automatic and groups is None and maps_own_out_of_sample(self.estimator_):
            maps.add_all(self.estimator_, good)
            return in_order, "the detector's own out-of-sample maps"
        new = held_out(self.estimator_)
        if automatic and groups is None and new is not None and not learns_before(self.estimator_):
            maps.add_all(self.estimator_, _safe_indexing(good, np.flatnonzero(new)))
            n = int(new.sum())
            return np.arange(n), f"{n} good images that the detector held out of its training"
        if automatic:
            of_kept = None if groups is None else np.asarray(groups)[kept]
            splitter = automatic_splitter(len(kept), of_kept)
            cv = folds_of_normal_samples(splitter, X, normal, groups)
        memory = check_memory(self.memory)
        stamps = None if self.memory is None else file_stamps(X)
        detector = _without_calibrators(self.estimator)
        fit = memory.cache(fit_fold)
        models = Parallel(n_jobs=self.n_jobs, return_as="generator")(
            delayed(fit)(
                clone(detector),
                X,
                np.where(normal, 1, -1),
                np.concatenate([kept[train], known]),
                params,
                stamps,
            )
            for train, _ in cv
        )
        for model, (_, test) in zip(models, cv):
            maps.add_all(model, _safe_indexing(good, test))
        return np.concatenate([test for _, test in cv]), f"{len(cv)} folds"

    def _fitted_extractor(
        self, extractor: DefectExtractor, maps: _MapFile, order: np.ndarray, quantile: float
    ) -> tuple[DefectExtractor, np.ndarray, Cut]:
        """Fit a copy of an extractor; give it, the region scores and where its threshold is."""
        extractor = clone(extractor)
        region = getattr(innermost(self.estimator_)[0], "roi_mask_", None)
        if region is not None:
            if extractor.roi is not None:
                region = region & roi_in_pixels(extractor.roi, region.shape)
            extractor.roi = region
        extractor._fit_base(maps)
        scores = np.empty(len(order))
        scores[order] = [extractor._region_score(one) for one in extractor._prepared(maps)]
        if self.target == "images":
            cut = put_cut(np.sort(scores), self.method, quantile, float(self.confidence))
        else:
            cut = cut_by_hand(np.sort(scores), extractor._pixel_threshold(maps, quantile))
        extractor._check_threshold(cut.threshold)
        extractor.threshold_ = cut.threshold
        return extractor, scores, cut

    def _describe(self, cut: Cut, source: str) -> None:
        self.pixel_provenance_ = {
            "target": self.target,
            "method": self.method if self.target == "images" else "quantile of pixels",
            "maps": source,
            "n_images": len(self.region_scores_),
            "target_rate": target_rate(self.quantile),
            **as_stated(cut),
            "lowest_supported_rate": lowest_supported_rate(
                len(self.region_scores_), self.method, float(self.confidence)
            ),
            "base": self.extractor_.base_,
            "extractor": _options_of(self.extractor_),
            "history": [],
        }

    # ---- the threshold ----------------------------------------------------------------
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

    def set_pixel_quantile(self, quantile: float) -> PixelThresholdCalibrator:
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

    def recalibrate(self, X_good: Any, quantile: float | None = None) -> PixelThresholdCalibrator:
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
        with _MapFile() as maps:
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

    # ---- defects ----------------------------------------------------------------------
    def defects(self, X: Any) -> list[list[DefectRegion]]:
        """Find the defects in images.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        list of lists of DefectRegion
            The regions of each image, in their order; empty for an image without any.
        """
        return list(self.iter_defects(X))

    def iter_defects(self, X: Any, *, batch_size: int = 8) -> Iterator[list[DefectRegion]]:
        """Find the defects image by image, in memory that does not grow with their number.

        Parameters
        ----------
        X : input of the estimator
        batch_size : int, default=8
            As in :func:`pyimgano.inference.iter_scores`.

        Returns
        -------
        iterator of lists of DefectRegion
        """
        check_is_fitted(self)
        fitted = self._as_fitted()
        maps = _maps_of(fitted.estimator_, X, batch_size=batch_size)
        return (fitted.extractor_.extract(one) for one in maps)

    # ---- what is passed on ------------------------------------------------------------
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
        return self.estimator_.score_samples(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples(X) - offset_``: negative = anomalous.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        check_is_fitted(self)
        return self.estimator_.decision_function(X)

    def predict(self, X: Any) -> np.ndarray:
        """Verdicts of the wrapped estimator: +1 for normal, -1 for anomalous samples.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), int
        """
        check_is_fitted(self)
        return self.estimator_.predict(X)

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

    @available_if(_is_calibrated)
    def p_value(self, X: Any) -> np.ndarray:
        """Compute the p-values of the ``ThresholdCalibrator`` inside.

        Parameters
        ----------
        X : input of the estimator

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return find_calibrator(self).p_value_of_scores(flip(self.score_samples(X)))

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
        maps : as from ``anomaly_map``
        """
        scores, maps = score_with_maps(self, X)
        return flip(scores), maps

    @property
    def threshold_(self) -> float:
        if "estimator_" not in vars(self):
            raise AttributeError  # __getattr__ then raises the error that says why
        return threshold(self.estimator_)

    @threshold_.setter
    def threshold_(self, value: float) -> None:
        self.offset_ = float(flip(value))

    @property
    def offset_(self) -> float:
        return float(flip(self.threshold_))

    @offset_.setter
    def offset_(self, offset: float) -> None:
        check_is_fitted(self)
        next(one for one, _ in walk(self.estimator_) if hasattr(one, "offset_")).offset_ = offset

    def set_params(self, **params: Any) -> PixelThresholdCalibrator:
        """Set parameters.

        Parameters
        ----------
        **params : dict
            By name, ``estimator__name`` and ``extractor__name`` for those inside. ``weights``,
            ``device``, ``batch_size`` and ``threads_per_image`` of a feature step also reach the
            fitted ``estimator_``. All others take effect in the next ``fit``, and if there was
            one a ``UserWarning`` says so.

        Returns
        -------
        self
        """
        before = self.get_params() if any("__" in name for name in params) else {}
        super().set_params(**params)
        set_on_fitted_copy(vars(self).get("estimator_"), params, "estimator__")
        # Those of its own are compared when it is used; these belong to others.
        late = [
            name
            for name, value in params.items()
            if "__" in name
            and name.rpartition("__")[2] not in RUNTIME_PARAMETERS
            and differ(before.get(name), value)
        ]
        if late and "extractor_" in vars(self):
            warn_user(
                f"this {type(self).__name__} is fitted: {', '.join(late)} takes effect in the next "
                "fit.",
                UserWarning,
            )
        return self

    def __getattr__(self, name: str) -> Any:
        # Attributes of the fitted estimator. Not its parameters, which are set as estimator__...,
        # and not its fit methods, which would not move the pixel threshold along.
        if name in ("threshold_", "offset_", "pixel_threshold_"):
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
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def _no_maps(estimator: Any) -> TypeError:
    name = type(innermost(estimator)[0]).__name__
    return TypeError(
        f"{name} makes no anomaly maps of this input, in which defects could be found: take a "
        "detector with maps, fitted on images or patch grids."
    )


def _maps_of(estimator: Any, X: Any, batch_size: int = 8) -> Iterator[np.ndarray]:
    for block in iter_scores(estimator, X, maps=True, batch_size=batch_size):
        if len(block.maps) != len(block.scores):
            raise _no_maps(estimator)
        yield from block.maps


def _is_given(estimator: Any) -> bool:
    """Tell whether the detector inside was fitted on other images than those at hand."""
    return any(
        isinstance(one, FrozenEstimator) or (is_calibrator(one) and is_prefit(one.cv))
        for one, _ in walk(estimator)
    )


def _without_calibrators(estimator: Any) -> Any:
    """Leave out of a nesting the calibrators, which would fit folds of their own."""
    if is_calibrator(estimator):
        return _without_calibrators(estimator.estimator)
    if isinstance(estimator, Pipeline):
        *before, (name, last) = estimator.steps
        if is_calibrator(last) and last.estimator is None:
            return _without_calibrators(Pipeline(before))
        return Pipeline([*before, (name, _without_calibrators(last))])
    return estimator


def _options_of(extractor: DefectExtractor) -> dict[str, Any]:
    """Name the parameters of an extractor that are not at their defaults, in plain JSON types."""
    defaults = DefectExtractor().get_params()
    options = {}
    for name, value in extractor.get_params().items():
        if name == "roi" and np.asarray(value).dtype == bool:
            height, width = np.shape(value)
            options[name] = f"a mask of {height} x {width} pixels"
        elif name != "pixel_quantile" and not (value is None or value == defaults[name]):
            options[name] = np.asarray(value).tolist() if name == "roi" else _plain(value)
    return options


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


class _MapFile:
    """Anomaly maps in a temporary file, to be gone through several times."""

    def __enter__(self) -> _MapFile:
        self._file = tempfile.TemporaryFile(prefix="pyimgano-")
        self._sizes: list[tuple[int, ...]] = []
        self._n_bytes = 0
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add_all(self, estimator: Any, X: Any) -> None:
        """Write the maps of images by a fitted estimator."""
        for one in _maps_of(estimator, X):
            heat = check_map(one, f"the map of sample {len(self._sizes)}")
            self._n_bytes += heat.nbytes
            with naming_temporary_files("the anomaly maps", self._n_bytes):
                self._file.write(heat.data)
                self._file.flush()
            self._sizes.append(heat.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        start = 0
        for size in self._sizes:
            n_bytes = 4 * math.prod(size)
            self._file.seek(start)
            yield np.frombuffer(self._file.read(n_bytes), np.float32).reshape(size)
            start += n_bytes
        self._file.seek(0, 2)
