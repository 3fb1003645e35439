"""From anomaly maps to defects at a stated rate of good images that have any."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted, check_memory

from pyimgano import _defaults
from pyimgano._any_estimator import anomaly_map, score_with_maps, threshold
from pyimgano._checks import normal_samples
from pyimgano._decision import flip
from pyimgano._nesting import (
    find_calibrator,
    innermost,
    is_calibrator,
    makes_maps,
    no_detector,
    walk,
)
from pyimgano._roi import roi_in_pixels
from pyimgano.calibration._map_file import (
    MapFile,
    add_out_of_sample_maps,
    is_given,
    maps_of,
    no_maps,
)
from pyimgano.calibration._metadata import FitMetadataMixin, is_prefit
from pyimgano.calibration._moving import as_stated, target_rate
from pyimgano.calibration._moving_pixels import MovablePixelThresholdMixin
from pyimgano.calibration._out_of_sample import (
    file_stamps,
    fit_labeled,
    folds_of_normal_samples,
    index_metadata,
    learns_from_known_anomalies,
)
from pyimgano.calibration._recognition import (
    content_keys,
    maps_own_out_of_sample,
)
from pyimgano.calibration._tails import (
    Cut,
    check_enough,
    cut_by_hand,
    lowest_supported_rate,
    put_cut,
)
from pyimgano.defects import DefectExtractor, DefectRegion
from pyimgano.exceptions import TooFewImagesError
from pyimgano.inputs._containers import sliceable
from pyimgano.utils._fitting import (
    RUNTIME_PARAMETERS,
    FittedParametersMixin,
    differ,
    restored_on_error,
    set_on_fitted_copy,
)
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


def _is_calibrated(self: PixelThresholdCalibrator) -> bool:
    return find_calibrator(self) is not None


class PixelThresholdCalibrator(
    MovablePixelThresholdMixin,
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
    >>> from pyimgano.features import FilterBankFeatures
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(24, 64, 64, 3)).astype(np.uint8)
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64))
    >>> verdict = ThresholdCalibrator(detector, quantile=0.9)
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
            raise no_maps(self.estimator)
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
        with MapFile() as maps:
            order, source = add_out_of_sample_maps(
                maps,
                self.estimator,
                self.estimator_,
                X,
                keep,
                cv=cv,
                params=params,
                groups=groups,
                memory=self.memory,
                n_jobs=self.n_jobs,
            )
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
        if is_prefit(self.cv) or is_given(self.estimator_):  # these are not what it has seen
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

    def _fitted_extractor(
        self, extractor: DefectExtractor, maps: MapFile, order: np.ndarray, quantile: float
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
        maps = maps_of(fitted.estimator_, X, batch_size=batch_size)
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
