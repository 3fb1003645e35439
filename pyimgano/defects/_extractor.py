"""``DefectExtractor``: from anomaly maps to defects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from pyimgano._roi import roi_in_pixels, roi_kind
from pyimgano.defects import _steps
from pyimgano.defects._region import DefectRegion
from pyimgano.exceptions import ParameterError
from pyimgano.utils._fitting import FittedParametersMixin, restored_on_error
from pyimgano.utils._state import Number
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["DefectExtractor", "check_map"]

_SHAPE_FILTERS = ("max_aspect_ratio", "min_compactness", "min_fill_ratio", "min_solidity")
_SCORE_FILTERS = ("min_score_max", "min_score_mean")
# Chosen on the maps of training images alone, of two parts and two kinds of features: a pixel that
# a hundredth of the good ones exceed is at about 0.55 of the way to the threshold.
_PRESETS: dict[str, dict[str, Any]] = {
    "inspection": {"hysteresis": (0.55, 1.0), "fill_holes": True},
}
# Where a higher threshold may bring back a region, thresholds are tried in steps of 1.1 %.
_STEPS_PER_DOUBLING = 64
# Otherwise the threshold is found by bisection, up to this share of the way it has to go.
_PRECISION = 1e-6


class DefectExtractor(FittedParametersMixin, VersionStampMixin, TransformerMixin, BaseEstimator):
    """Turn anomaly maps into defects: regions with a position, a size and a score.

    ``fit`` puts the pixel threshold by the maps of good images; it should not have been fitted
    on the same images as the detector, see
    :class:`~pyimgano.calibration.PixelThresholdCalibrator`, which takes care of that.

    By default a defect is an 8-connected region of pixels above the threshold. All parameters
    but ``pixel_quantile`` are off by default. The steps are taken in this order:

    ====  ======================  ==============================================================
    step  parameter               effect
    ====  ======================  ==============================================================
    1     ``roi``                 pixels outside are as if they did not exist
    2     ``border_ignore_px``    so are those near the border of the image
    3     ``map_smoothing``       the map is smoothed inside of what is left
    4     ``threshold_``          pixels above it are marked
    5     ``hysteresis``          marked regions grow into pixels above a lower threshold
    6     ``opening``             marks in which the square does not fit are removed
    7     ``closing``             gaps in which the square does not fit are closed
    8     ``fill_holes``          what a region surrounds is added to it
    9     ``merge_nearby``        fragments are joined
    10    ``min_area``            small regions are dropped
    11    ``score_filters``       weak regions are dropped
    12    ``shape_filters``       regions of other shapes than those of defects are dropped
    13    (order and ids)         by score, then area, then position
    14    ``max_regions``         only the first ones are kept
    ====  ======================  ==============================================================

    Parameters
    ----------
    roi : array-like, default=None
        Region of interest: a box ``(x0, y0, x1, y1)`` or a polygon ``[(x, y), ...]`` in shares of
        the width and height of the map, or a mask of its size that is True inside. A pixel counts
        by its center; the left and upper edge of a box are inside, the right and lower are not,
        and the outline of a polygon is.
    border_ignore_px : int, default=0
        Number of pixels along each side of the map that are left out.
    map_smoothing : (str, int), default=None
        ``"median"``, ``"gaussian"`` or ``"box"``, and the side of its square window, any odd
        number. Beyond the border and outside the region of interest the value of the nearest
        pixel inside is taken. The standard deviation of the Gaussian is
        ``0.3 * ((size - 1) / 2 - 1) + 0.8``. Medians of more than 5 pixels are slow.
    hysteresis : (float, float), default=None
        Low and high, as shares of the way from ``base_`` to ``threshold_``: pixels above the high
        level are marked, and so is every pixel above the low one that is 8-connected to them
        through others above the low one. (0.6, 1) keeps the threshold and lets regions grow.
    opening, closing : int, default=1
        Side of the square in pixels; 1 changes nothing.
    fill_holes : bool, default=False
        Whether holes are filled. A hole is 4-connected, and does not touch the border of the map.
    merge_nearby : int, default=None
        Largest number of pixels between two fragments, in rows or columns, whichever is more,
        that makes one region of them; 0 is for those that touch, which always are one.
    min_area : int, default=1
        Smallest area in pixels of the map of regions that are kept.
    score_filters : dict, default=None
        ``"min_score_max"`` and ``"min_score_mean"``: least value that a region has at its highest
        pixel, and on average. Both are given like the levels of ``hysteresis``: at 1.2 it must be
        a fifth farther above ``base_`` than the threshold is.
    shape_filters : dict, default=None
        ``"max_aspect_ratio"``, ``"min_solidity"``, ``"min_compactness"`` and
        ``"min_fill_ratio"``, compared with what :class:`DefectRegion` says. A region that has
        just the value asked for is kept, as for all filters.
    max_regions : int, default=None
        Largest number of regions of an image; those with the largest ``max_regions_key`` are
        kept, and of equal ones those that come first.
    max_regions_key : {"score_max", "score_mean", "area"}, default="score_max"
        See ``max_regions``.
    pixel_quantile : float in (0, 1), default=0.999
        Share of the pixels of good maps that ``fit`` puts at or below the threshold.

    Attributes
    ----------
    threshold_ : float
        Pixel threshold: what is above it is anomalous. It may be set by hand after ``fit``.
    base_ : float
        Median of the medians of the good maps, inside the region of interest.
    spread_ : float
        Median of the 0.99 quantiles of the good maps above ``base_``.

    See Also
    --------
    pyimgano.calibration.PixelThresholdCalibrator : The threshold by a rate of good images.

    Notes
    -----
    Regions are ordered by ``score_max``, the highest first; of equal ones the larger ``area``
    comes first, then the one whose first pixel, row by row, is further up, then further left.
    ``id`` counts from 1 in this order, after ``max_regions``.

    Values of maps are taken as float32. Multiplying all maps by a power of two, or another change
    of scale that rounding does not spoil, changes scores and thresholds, and no region.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.defects import DefectExtractor
    >>> good = np.random.RandomState(0).uniform(size=(20, 32, 32))
    >>> bad = good[:1].copy()
    >>> bad[0, 4:9, 4:9] = 3.0
    >>> extractor = DefectExtractor(min_area=4).fit(good)
    >>> [(region.area, region.bbox_xyxy) for region in extractor.transform(bad)[0]]
    [(25, (4, 4, 9, 9))]
    """

    _parameter_constraints: dict = {
        "roi": ["array-like", None],
        "border_ignore_px": [Interval(Integral, 0, None, closed="left")],
        "map_smoothing": [tuple, list, None],
        "hysteresis": [tuple, list, None],
        "opening": [Interval(Integral, 1, None, closed="left")],
        "closing": [Interval(Integral, 1, None, closed="left")],
        "fill_holes": ["boolean"],
        "merge_nearby": [Interval(Integral, 0, None, closed="left"), None],
        "min_area": [Interval(Integral, 1, None, closed="left")],
        "score_filters": [dict, None],
        "shape_filters": [dict, None],
        "max_regions": [Interval(Integral, 1, None, closed="left"), None],
        "max_regions_key": [StrOptions({"area", "score_max", "score_mean"})],
        "pixel_quantile": [Interval(Real, 0, 1, closed="neither")],
    }
    _fitted_state = {"threshold_": Number(), "base_": Number(), "spread_": Number(0)}

    threshold_: float
    base_: float
    spread_: float

    def __init__(
        self,
        *,
        roi: Any = None,
        border_ignore_px: int = 0,
        map_smoothing: tuple[str, int] | None = None,
        hysteresis: tuple[float, float] | None = None,
        opening: int = 1,
        closing: int = 1,
        fill_holes: bool = False,
        merge_nearby: int | None = None,
        min_area: int = 1,
        score_filters: dict[str, float] | None = None,
        shape_filters: dict[str, float] | None = None,
        max_regions: int | None = None,
        max_regions_key: str = "score_max",
        pixel_quantile: float = 0.999,
    ) -> None:
        self.roi = roi
        self.border_ignore_px = border_ignore_px
        self.map_smoothing = map_smoothing
        self.hysteresis = hysteresis
        self.opening = opening
        self.closing = closing
        self.fill_holes = fill_holes
        self.merge_nearby = merge_nearby
        self.min_area = min_area
        self.score_filters = score_filters
        self.shape_filters = shape_filters
        self.max_regions = max_regions
        self.max_regions_key = max_regions_key
        self.pixel_quantile = pixel_quantile

    @classmethod
    def from_preset(cls, name: str = "inspection", **params: Any) -> DefectExtractor:
        """Make an extractor with parameters that are a good start.

        Parameters
        ----------
        name : {"inspection"}, default="inspection"
            ``"inspection"``: ``hysteresis=(0.55, 1.0)`` and ``fill_holes=True``. Regions grow from
            pixels above the threshold to a level that about one in a hundred pixels of good
            images exceeds, so that they cover the defect rather than its worst spot.
        **params
            Further parameters, or others than those of the preset.

        Returns
        -------
        DefectExtractor

        Examples
        --------
        >>> from pyimgano.defects import DefectExtractor
        >>> DefectExtractor.from_preset(min_area=20)
        DefectExtractor(fill_holes=True, hysteresis=(0.55, 1.0), min_area=20)
        """
        if name not in _PRESETS:
            raise ValueError(f"there is no preset {name!r}; there are {', '.join(_PRESETS)}.")
        return cls(**{**_PRESETS[name], **params})

    # ---- fitting ----------------------------------------------------------------------
    @restored_on_error
    def fit(self, X: Any, y: Any = None) -> DefectExtractor:
        """Put the threshold at a quantile of the pixels of good maps.

        Parameters
        ----------
        X : array-like of shape (n_maps, height, width), or list of arrays (height, width)
            Anomaly maps of good images, higher = more anomalous.
        y : ignored

        Returns
        -------
        self
        """
        maps = check_maps(X)
        if len(maps) == 0:
            raise ValueError("X holds no maps; give those of some good images.")
        self._fit_base(maps)
        self.threshold_ = self._pixel_threshold(maps, float(self.pixel_quantile))
        self._check_threshold(self.threshold_)
        return self

    def _fit_base(self, maps: Iterable[np.ndarray]) -> None:
        """Learn what good maps look like below any threshold."""
        self.check()
        middles, highs = [], []
        for one in self._prepared(maps):
            middle, high = np.quantile(one.values, [0.5, 0.99], method="lower")
            middles.append(middle)
            highs.append(high)
        self.base_ = float(np.median(middles))
        self.spread_ = max(0.0, float(np.median(highs)) - self.base_)
        self._keep_parameters()

    def _pixel_threshold(self, maps: Iterable[np.ndarray], quantile: float) -> float:
        n = sum(one.values.size for one in self._prepared(maps))
        rank = math.ceil(round(n * quantile, 9))
        return _steps.rank_value(lambda: (one.values for one in self._prepared(maps)), rank)

    def check(self) -> None:
        """Raise a ``ValueError`` if the parameters are wrong, which ``fit`` does as well."""
        self._validate_params()
        self._check_options()

    def _check_options(self) -> None:
        """Refuse parameters that hold more than one value, where these do not go together."""
        if self.roi is not None:
            roi_kind(self.roi)
        smoothing = self.map_smoothing
        if smoothing is not None and not (
            len(smoothing) == 2
            and smoothing[0] in _steps.SMOOTHING
            and isinstance(smoothing[1], Integral)
            and smoothing[1] > 0
            and smoothing[1] % 2
        ):
            raise ValueError(
                f"map_smoothing={smoothing!r} must be a kind ({', '.join(_steps.SMOOTHING)}) and "
                'an odd number of pixels, such as ("median", 5).'
            )
        levels = self.hysteresis
        if levels is not None and not (
            len(levels) == 2
            and all(isinstance(level, Real) for level in levels)
            and 0 < levels[0] <= levels[1] < math.inf
        ):
            raise ValueError(
                f"hysteresis={levels!r} must be two numbers, 0 < low <= high: shares of the way "
                "from base_ to threshold_, such as (0.6, 1.0)."
            )
        for name, known in (("score_filters", _SCORE_FILTERS), ("shape_filters", _SHAPE_FILTERS)):
            for key, value in (getattr(self, name) or {}).items():
                if key not in known:
                    raise ValueError(f"{name} has no filter {key!r}; there are {', '.join(known)}.")
                if not (isinstance(value, Real) and math.isfinite(value)):
                    raise ValueError(f"{name}[{key!r}] must be a finite number, got {value!r}.")

    def _uses_levels(self) -> bool:
        return self.hysteresis is not None or bool(self.score_filters)

    def _check_threshold(self, threshold: float) -> None:
        if not (isinstance(threshold, Real) and math.isfinite(threshold)):
            raise ValueError(f"threshold_ must be a finite number, got {threshold!r}.")
        if self._uses_levels() and not threshold > self.base_:
            raise ValueError(
                f"threshold_={threshold:g} is not above base_={self.base_:g}, so levels between "
                "them, as hysteresis and score_filters have, mean nothing: give a higher "
                "threshold, or maps that are not constant."
            )

    # ---- extraction -------------------------------------------------------------------
    def transform(self, X: Any) -> list[list[DefectRegion]]:
        """Find the defects in anomaly maps.

        Parameters
        ----------
        X : array-like of shape (n_maps, height, width), or list of arrays (height, width)
            Anomaly maps, higher = more anomalous.

        Returns
        -------
        list of lists of DefectRegion
            The regions of each map, in their order; empty for a map without any.
        """
        return [self.extract(one) for one in check_maps(X)]

    def extract(
        self, anomaly_map: Any, image_size: tuple[int, int] | None = None
    ) -> list[DefectRegion]:
        """Find the defects in one anomaly map.

        Parameters
        ----------
        anomaly_map : array-like of shape (height, width)
            Higher = more anomalous.
        image_size : (int, int), default=None
            Height and width of the image, if the map has another size. Regions then also say
            where they are in the image.

        Returns
        -------
        list of DefectRegion
            In their order; empty if there is none.
        """
        check_is_fitted(self)
        fitted = self._as_fitted()
        fitted._check_options()
        fitted._check_threshold(self.threshold_)
        prepared = fitted._prepare(check_map(anomaly_map, "the map"))
        found = list(fitted._regions(prepared, float(self.threshold_)))
        found.sort(key=lambda part: part.place)
        if fitted.max_regions is not None and len(found) > fitted.max_regions:
            key = fitted.max_regions_key
            found.sort(key=lambda part: part.measures[key], reverse=True)  # stable
            found = sorted(found[: fitted.max_regions], key=lambda part: part.place)
        scale = _scale(prepared.heat.shape, image_size)
        return [_described(i, part, scale) for i, part in enumerate(found, start=1)]

    def region_scores(self, X: Any) -> np.ndarray:
        """Find for each map the smallest threshold from which on it has no region.

        An image has a region exactly where its region score exceeds the threshold, so these are
        to regions what anomaly scores are to images. Without other steps it is the largest value
        of the map; filters and openings lower it.

        Parameters
        ----------
        X : array-like of shape (n_maps, height, width), or list of arrays (height, width)
            Anomaly maps.

        Returns
        -------
        ndarray of shape (n_maps,), float64

        Notes
        -----
        It is exact where only the threshold itself marks pixels. With ``hysteresis`` or a score
        filter it is up to a millionth of its distance from ``base_`` too large. With
        ``shape_filters`` or ``"min_score_mean"`` a region may vanish and come back as the
        threshold rises: thresholds above ``base_ + spread_`` are then tried in steps of 1.1 %,
        from the highest down, and the score is the one above the first at which there is a region.
        """
        check_is_fitted(self)
        return np.array([self._region_score(one) for one in self._prepared(check_maps(X))])

    def _region_score(self, one: _Prepared) -> float:
        if self.shape_filters or "min_score_mean" in (self.score_filters or {}):
            return self._score_by_steps(one)
        if self._uses_levels():
            return self._score_by_bisection(one)
        values = np.unique(one.values)
        low, high = -1, len(values) - 1  # at the largest value, no pixel is above
        step = 1  # the score is mostly near the top: steps down double until there is a region
        while high - low > 1:
            middle = max(high - step, (low + high) // 2)
            if self._has_region(one, float(values[middle])):
                low = middle
            else:
                high, step = middle, 2 * step
        return float(values[high])

    def _score_by_bisection(self, one: _Prepared) -> float:
        low = self.base_
        reach = max(0.0, float(one.values.max()) - low)
        reach /= self.hysteresis[1] if self.hysteresis else 1.0
        high = low + reach * (1 + _PRECISION / 2)  # no pixel is above, however levels are rounded
        least = step = _PRECISION * (high - low)
        while high - low > least:
            middle = max(high - step, (low + high) / 2)
            if self._has_region(one, middle):
                low = middle
            else:
                high, step = middle, 4 * step
        return high

    def _score_by_steps(self, one: _Prepared) -> float:
        unit = self.spread_ or 1.0
        reach = float(one.values.max()) - self.base_
        reach /= self.hysteresis[1] if self.hysteresis else 1.0
        if not reach > unit:
            return self.base_ + unit
        for step in range(math.ceil(_STEPS_PER_DOUBLING * math.log2(reach / unit)), -1, -1):
            if self._has_region(one, self.base_ + unit * 2.0 ** (step / _STEPS_PER_DOUBLING)):
                return self.base_ + unit * 2.0 ** ((step + 1) / _STEPS_PER_DOUBLING)
        return self.base_ + unit

    def _has_region(self, one: _Prepared, threshold: float) -> bool:
        return next(self._regions(one, threshold), None) is not None

    # ---- the steps --------------------------------------------------------------------
    def _prepared(self, maps: Iterable[np.ndarray]) -> Iterator[_Prepared]:
        return map(self._prepare, maps)

    def _prepare(self, heat: np.ndarray) -> _Prepared:
        """Steps 1 to 3, which do not depend on the threshold."""
        inside = np.ones(heat.shape, dtype=bool)
        if self.roi is not None:
            inside = roi_in_pixels(self.roi, heat.shape)
        border = self.border_ignore_px
        if border:
            if 2 * border >= min(heat.shape):
                raise ParameterError(
                    f"border_ignore_px={border} leaves nothing of a map of {heat.shape[0]} x "
                    f"{heat.shape[1]} pixels."
                )
            kept = np.zeros_like(inside)
            kept[border:-border, border:-border] = True
            inside &= kept
            if not inside.any():
                raise ParameterError(
                    f"border_ignore_px={border} leaves nothing of the region of interest."
                )
        if self.map_smoothing is not None:
            kind, size = self.map_smoothing
            heat = _steps.smooth(_steps.fill_from_inside(heat, inside), kind, int(size))
        return _Prepared(heat, inside, heat[inside])

    def _level(self, share: float, threshold: float) -> float:
        return self.base_ + share * (threshold - self.base_)

    def _regions(self, one: _Prepared, threshold: float) -> Iterator[_Part]:
        """Steps 4 to 12: the regions that are kept, in no particular order."""
        heat, inside, _ = one
        if self.hysteresis is None:
            mask = _steps.above(heat, threshold) & inside
        else:
            low, high = (
                _steps.above(heat, self._level(share, threshold)) & inside
                for share in self.hysteresis
            )
            mask = _steps.grown_from(high & low, low)
        if np.count_nonzero(mask) == 0:
            return
        mask = _steps.clean(mask, inside, self.opening, self.closing, self.fill_holes)
        if self.merge_nearby:
            labels, n = _steps.join_nearby(mask, self.merge_nearby)
        else:
            labels, n = _steps.label(mask)
        if n == 0:
            return
        areas = np.bincount(labels.ravel(), minlength=n + 1)
        areas[0] = 0
        if areas.max() < self.min_area:
            return
        from skimage.measure import regionprops

        labels = np.where(areas >= self.min_area, np.arange(n + 1), 0)[labels]
        for properties in regionprops(labels):
            part = _Part(properties, heat)
            if self._passes(part, threshold):
                yield part

    def _passes(self, part: _Part, threshold: float) -> bool:
        for name, level in (self.score_filters or {}).items():
            if part.measures[name[len("min_") :]] < self._level(level, threshold):
                return False
        for name, limit in (self.shape_filters or {}).items():
            kind, _, measure = name.partition("_")
            value = part.shape(measure)
            if (value > limit) if kind == "max" else (value < limit):
                return False
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags


class _Prepared(NamedTuple):
    """A map after the steps that do not depend on the threshold."""

    heat: np.ndarray
    inside: np.ndarray
    values: np.ndarray


class _Part:
    """A region under way: what is costly is computed when it is asked for."""

    def __init__(self, properties: Any, heat: np.ndarray) -> None:
        self.properties = properties
        values = heat[properties.slice][properties.image].astype(np.float64)
        self.measures = {
            "area": int(properties.area),
            "score_max": float(values.max()),
            "score_mean": float(values.mean()),
        }
        top, left = properties.bbox[:2]
        first = (top, left + int(properties.image[0].argmax()))
        self.place = (-values.max(), -self.measures["area"], *first)
        self._shapes: dict[str, float] = {}

    def shape(self, name: str) -> float:
        if name not in self._shapes:
            if name == "solidity":
                self._shapes[name] = float(self.properties.solidity)
            elif name == "fill_ratio":
                self._shapes[name] = float(self.properties.extent)
            else:
                aspect_ratio, compactness = _steps.shape_of(self.properties.image)
                self._shapes.update(aspect_ratio=aspect_ratio, compactness=compactness)
        return self._shapes[name]


def _scale(
    map_size: tuple[int, ...], image_size: tuple[int, int] | None
) -> tuple[float, float, int, int] | None:
    if image_size is None or tuple(image_size) == tuple(map_size):
        return None
    height, width = (int(side) for side in image_size)
    if min(height, width) < 1:
        raise ValueError(f"image_size={tuple(image_size)} must be a height and a width of pixels.")
    return width / map_size[1], height / map_size[0], width, height


def _described(
    number: int, part: _Part, scale: tuple[float, float, int, int] | None
) -> DefectRegion:
    properties = part.properties
    y0, x0, y1, x1 = (int(edge) for edge in properties.bbox)
    y, x = (float(value) for value in properties.centroid)
    in_image: dict[str, Any] = {}
    if scale is not None:
        across, down, width, height = scale
        in_image = {
            "image_bbox_xyxy": (
                math.floor(x0 * across),
                math.floor(y0 * down),
                min(width, math.ceil(x1 * across)),
                min(height, math.ceil(y1 * down)),
            ),
            "image_area": part.measures["area"] * across * down,
            "image_centroid": ((x + 0.5) * across - 0.5, (y + 0.5) * down - 0.5),
        }
    return DefectRegion(
        id=number,
        bbox_xyxy=(x0, y0, x1, y1),
        area=int(part.measures["area"]),
        centroid=(x, y),
        score_max=part.measures["score_max"],
        score_mean=part.measures["score_mean"],
        aspect_ratio=part.shape("aspect_ratio"),
        solidity=part.shape("solidity"),
        compactness=part.shape("compactness"),
        fill_ratio=part.shape("fill_ratio"),
        mask=np.ascontiguousarray(properties.image),
        **in_image,
    )


def check_maps(X: Any) -> Sequence[np.ndarray]:
    """Check anomaly maps; each is looked at when it is asked for.

    Parameters
    ----------
    X : array-like of shape (n_maps, height, width), or list of arrays (height, width)

    Returns
    -------
    sequence of ndarray of shape (height, width), float32
    """
    if not hasattr(X, "__len__") or np.ndim(X[0] if len(X) else np.empty((0, 0))) != 2:
        found = f"shape {X.shape}" if hasattr(X, "shape") else type(X).__name__
        raise ValueError(
            f"X must be maps of shape (n_maps, height, width), or a list of arrays of shape "
            f"(height, width), got {found}. For one map, give [map]."
        )
    return _Maps(X)


class _Maps(Sequence):
    def __init__(self, maps: Any) -> None:
        self._maps = maps

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return check_map(self._maps[i], f"map {i}")


def check_map(anomaly_map: Any, name: str) -> np.ndarray:
    """Check one anomaly map.

    Parameters
    ----------
    anomaly_map : array-like of shape (height, width)
    name : str
        What to call it in messages.

    Returns
    -------
    ndarray of shape (height, width), float32
    """
    heat = np.asarray(anomaly_map)
    if heat.ndim != 2 or heat.size == 0 or heat.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} has shape {heat.shape} and dtype {heat.dtype}; an anomaly map has the shape "
            "(height, width) and holds numbers."
        )
    heat = np.ascontiguousarray(heat, dtype=np.float32)
    if not np.isfinite(heat).all():
        raise ValueError(f"{name} holds NaN or infinity, which have no side of a threshold.")
    return heat
