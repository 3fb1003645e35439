"""A picture of a verdict: the image, its heat map on top, and the score in words."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Optional

import cv2
import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from pyimgano._decision import is_anomalous
from pyimgano._nesting import innermost
from pyimgano.exceptions import ImageFormatError
from pyimgano.inference import anomaly_map
from pyimgano.reporting._drawing import (
    FAIL,
    GAP,
    INK,
    LINE,
    MARGIN,
    PALE,
    PAPER,
    PASS,
    QUERY,
    blank,
    dashes,
    fit_size,
    put_text,
    resize_pixels,
    stack,
    text_strip,
    text_width,
)
from pyimgano.utils._outputs import atomic_write

__all__ = [
    "fit_map",
    "heat_range",
    "map_range",
    "overlay",
    "picture_grid",
    "picture_size",
    "range_of_maps",
    "write_overlay",
]

# Good images whose maps give the scale of colors: enough to see how high the peaks of ordinary
# maps are, few enough for detectors that need seconds for a map.
_N_GOOD = 8
# Where the highest peak of the good images stands between the cold end, 0, and the hot end, 1.
_GOOD_PEAK = 0.5

# No narrower, so that every line of text fits.
_MIN_WIDTH = 420
_EDGE = 8
# Panels that are so many times as wide as high stand below one another.
_WIDE = 1.8
_BADGE = 0.7, 2  # scale and thickness of the verdict

# What an outline means, and how it is drawn; None for words alone.
_LegendEntry = tuple[str, Optional[Callable[[np.ndarray, list[np.ndarray]], None]]]


def map_range(estimator: Any, good_images: Any) -> tuple[float, float]:
    """Find the map values to show as the cold and the hot end of the colors.

    The scale is the same for all images of a pipeline, so that colors can be compared. It comes
    from the maps of good images: their usual values are cold, their highest peak is not yet
    warm, and what rises far above it is hot.

    Parameters
    ----------
    estimator : fitted estimator
        A detector with ``anomaly_map``, or a nesting of pipelines and meta-estimators around
        one.
    good_images : input of the estimator
        Good images, at most eight of which are used, evenly spaced. They can be the training
        images: these are recognized, and their maps are those of a model that has not learned
        from them, the feature step included. (In a ``ScoreEnsemble`` a step that overfits has.)

    Returns
    -------
    low, high : float
        ``low < high``.

    Raises
    ------
    TypeError
        If the detector makes no maps.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano import PatchCoreDetector
    >>> from pyimgano.features import FilterBankFeatures
    >>> from pyimgano.reporting import map_range
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(12, 64, 64, 3)).astype(np.uint8)
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(good)
    >>> low, high = map_range(detector, good)
    >>> bool(low < detector.anomaly_map(good[:1]).max() < high)
    True
    """
    n = _num_samples(good_images)
    chosen = np.unique(np.linspace(0, n - 1, min(n, _N_GOOD)).round().astype(int))
    levels = [_levels(estimator, _safe_indexing(good_images, [i])) for i in chosen.tolist()]
    return _range_of_levels(levels, _GOOD_PEAK)


def _levels(estimator: Any, image: Any) -> tuple[float, float]:
    """Median and largest value of the map of one image by a model that has not seen it."""
    (heat,) = anomaly_map(estimator, image)
    detector, data = innermost(estimator, image)
    held_out = getattr(detector, "held_out_map_levels", None)
    known = None if held_out is None else held_out(data)[0]
    return known or (float(np.median(heat)), float(np.max(heat)))


def range_of_maps(maps: Any, *, peak_at: float = _GOOD_PEAK) -> tuple[float, float]:
    """Find the cold and the hot end of the colors for maps that are at hand.

    Parameters
    ----------
    maps : sequence of ndarray of shape (height, width)
        Anomaly maps of good images.
    peak_at : float in (0, 1], default=0.5
        Where their highest peak stands between the cold end, 0, and the hot end, 1.

    Returns
    -------
    low, high : float
        ``low < high``; they follow any change of the maps' unit or zero.

    Examples
    --------
    >>> from pyimgano.reporting import range_of_maps
    >>> range_of_maps([[[0.0, 1.0, 1.0, 3.0]]])
    (1.0, 5.0)
    """
    levels = [(float(np.median(one)), float(np.max(one))) for one in maps]
    return _range_of_levels(levels, peak_at)


def _range_of_levels(levels: list[tuple[float, float]], peak_at: float) -> tuple[float, float]:
    medians, peaks = np.transpose(levels)
    low, peak = float(np.median(medians)), float(peaks.max())
    # Zero only where the maps are flat.
    reach = (peak - low) or abs(peak) or 1.0
    return low, low + reach / peak_at


def heat_range(calibration_scores: Any, threshold: float) -> tuple[float, float]:
    """Guess the ends of the colors from scores alone, as earlier versions did.

    Parameters
    ----------
    calibration_scores : array-like of shape (n_images,) or None
        Anomaly scores of unseen good images.
    threshold : float
        Anomaly score above which an image is judged anomalous.

    Returns
    -------
    low, high : float
        ``low < high``. They fit maps only where a score is the peak of its map, which is not
        so for SPADE and others: :func:`map_range` looks at maps.
    """
    warnings.warn(
        "heat_range takes scores for peaks of maps, which they need not be: use "
        "map_range(estimator, good_images). heat_range will be removed in the next release.",
        FutureWarning,
        stacklevel=2,
    )
    scores = np.asarray([] if calibration_scores is None else calibration_scores, dtype=float)
    ordinary = float(np.median(scores)) if len(scores) else 0.0
    # Zero only where the scores of good images do not differ at all.
    reach = abs(threshold - ordinary) or abs(threshold) or 1.0
    return threshold - 1.5 * reach, threshold + 1.5 * reach


def overlay(
    image: np.ndarray,
    anomaly_map: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    caption: str = "",
    *,
    mask: np.ndarray | None = None,
    score: float | None = None,
    threshold: float | None = None,
    good_scores: Any = None,
    good_peak: float | str | None = "middle",
) -> np.ndarray:
    """Draw an image, its heat map beside it, and the verdict with its reasons.

    From top to bottom: PASS or FAIL in words and color; the score on a line with the threshold
    and the scores of good images; the image, and again under its anomaly map; the scale of the
    map's colors; what the outlines mean; the caption. What is not given is left out.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3) or (H, W), uint8
        RGB or gray, of any size.
    anomaly_map : ndarray of shape (h, w), default=None
        Higher = more anomalous; stretched to the image.
    limits : (float, float), default=None
        Map values of the cold and the hot end, see :func:`map_range`. Needed with a map.
    caption : str, default=""
        Lines of text to put below. Characters other than ASCII show as ``?``.
    mask : ndarray of shape (h, w), default=None
        The true defect, not 0 = defective. It is outlined on the map in black and white dashes.
    score : float, default=None
        The image's anomaly score.
    threshold : float, default=None
        Images with a larger score fail.
    good_scores : array-like of shape (n,), default=None
        Scores of good images that the model has not seen, such as ``calibration_scores_`` of a
        :class:`~pyimgano.calibration.ThresholdCalibrator`.
    good_peak : float, "middle" or None, default="middle"
        Largest map value of good images. Where the map is above it, there is a magenta outline.
        ``"middle"`` is the middle of ``limits``, where :func:`map_range` puts the peak of the
        good images it looks at. None draws no outline.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        RGB.

    Notes
    -----
    The threshold applies to scores, not to the map: a score is rarely the peak of its map, and for
    some detectors not even in the same unit. So the outline does not show where the threshold
    is exceeded, but where the map is higher than anywhere in the good images that set the
    scale. A part may pass with an outline, or fail without one.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.reporting import overlay
    >>> image, heat = np.full((64, 96, 3), 128, np.uint8), np.zeros((64, 96))
    >>> heat[20:30, 40:60] = 9.0
    >>> picture = overlay(image, heat, (0.0, 8.0), "part 17", score=8.7, threshold=4.1)
    >>> picture.dtype, picture.shape[2]
    (dtype('uint8'), 3)
    """
    image = _as_rgb(image)
    if anomaly_map is not None and limits is None:
        raise ValueError(
            "anomaly_map is given without limits; give the map values of the cold and the hot end "
            "of the colors, limits=map_range(estimator, good_images)."
        )
    panels = [("image", _draw_image(image))]
    key: list[np.ndarray] = []  # to the colors and the outlines
    if anomaly_map is not None and limits is not None:
        low, high = limits
        if not low < high:
            raise ValueError(f"limits must be two numbers, low < high, got {limits!r}.")
        peak = (low + high) / 2 if good_peak == "middle" else good_peak
        fine = fit_map(anomaly_map, panels[0][1].shape[:2])
        drawn, legend = _draw_map(panels[0][1], fine, (low, high), peak, mask)
        panels.append(("anomaly map", drawn))
        body, width = _arrange(panels)
        key = [_color_bar(width, limits, peak), _legend(width, legend)]
    else:
        body, width = _arrange(panels)
    head = [] if score is None else _verdict(width, score, threshold, good_scores)
    foot = [text_strip(caption, width)] if caption else []
    edge = blank(_EDGE, width)
    return stack([edge, *head, body, *key, *foot, edge], width)


def fit_map(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a map to (height, width) so that no peak is lost between the pixels of a smaller one.

    Parameters
    ----------
    anomaly_map : ndarray of shape (h, w)
    size : (int, int)

    Returns
    -------
    ndarray of shape ``size``, float32
    """
    heat: Any = np.asarray(anomaly_map, np.float32)
    # The largest value of what lies between two pixels of the smaller map, and one pixel more.
    reach = [-(-have // want) + 1 if have > want else 1 for have, want in zip(heat.shape, size)]
    if max(reach) > 1:
        heat = cv2.dilate(heat, np.ones(reach, np.uint8))
    return cv2.resize(heat, size[::-1], interpolation=cv2.INTER_LINEAR)


def picture_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which :func:`overlay` draws an image of a size.

    Parameters
    ----------
    image_size : (int, int)
        Height and width in pixels.

    Returns
    -------
    height, width : int
    """
    height, width = image_size
    return fit_size(height, width, least=256, most=640, thin=96, longest=1600)


def picture_grid(pictures: Sequence[np.ndarray], n_columns: int = 2) -> np.ndarray:
    """Put pictures beside and below one another, with room between them.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, 3), uint8
        RGB, of any sizes.
    n_columns : int, default=2
        Pictures in a row.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        RGB.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.reporting import picture_grid
    >>> picture_grid([np.zeros((40, 60, 3), np.uint8)] * 3).shape
    (104, 144, 3)
    """
    if not len(pictures):
        raise ValueError("pictures is empty; at least one picture is needed.")
    if n_columns < 1:
        raise ValueError(f"n_columns={n_columns} must be at least 1.")
    height, width = np.max([picture.shape[:2] for picture in pictures], axis=0).tolist()
    n_columns = min(n_columns, len(pictures))
    n_rows = -(-len(pictures) // n_columns)
    room = 2 * GAP
    grid = blank(n_rows * (height + room) - room, n_columns * (width + room) - room)
    for i, picture in enumerate(pictures):
        top, left = i // n_columns * (height + room), i % n_columns * (width + room)
        grid[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return grid


def write_overlay(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write an RGB picture as PNG, atomically.

    Parameters
    ----------
    path : str or Path
        The file; replaced if it exists.
    picture : ndarray of shape (height, width, 3), uint8
        RGB.
    """
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with atomic_write(path) as file:  # by Python: OpenCV cannot open every path on Windows
        file.write(encoded.tobytes())


def _as_rgb(image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    ):
        raise ImageFormatError(
            f"image has shape {image.shape} and dtype {image.dtype}; a picture is drawn of uint8 "
            "(height, width, 3) in RGB or uint8 (height, width) in gray, which "
            "ImageFormatNormalizer(input_format=...) makes of any other format."
        )
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image


def _draw_image(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return resize_pixels(image, picture_size((height, width)))


def _draw_map(
    plain: np.ndarray,
    fine: np.ndarray,
    limits: tuple[float, float],
    peak: Any,
    mask: np.ndarray | None,
) -> tuple[np.ndarray, list[_LegendEntry]]:
    """Draw the image under its map, both of one size, and say what the outlines mean."""
    # Cold parts show the image in gray, so that the colors stand out on any product.
    gray = cv2.cvtColor(cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    hot = _colored(gray, fine, limits)
    legend: list[_LegendEntry] = []
    # Around a region, and on the map alone: an outline hides the faint defect one looks for.
    if mask is not None:
        defect = fit_map(np.asarray(mask) != 0, fine.shape) > 0.5
        if defect.any():
            _draw_true(hot, _outline(defect, 7))
            legend.append(("true defect", _draw_true))
    if peak is not None:
        above = fine > peak
        if above.any():
            _draw_hot(hot, _outline(above, 3))
            legend.append(("hotter than the good parts that set the scale", _draw_hot))
        else:
            legend.append(("Nothing is hotter than the good parts that set the scale.", None))
    return hot, legend


def _colored(gray: np.ndarray, fine: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    heat = np.clip((fine - low) / (high - low), 0.0, 1.0)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    opacity = np.clip(2.0 * heat, 0.0, 0.75)[..., None]
    return np.ascontiguousarray((opacity * colors + (1.0 - opacity) * gray).astype(np.uint8))


def _outline(region: np.ndarray, reach: int) -> list[np.ndarray]:
    """Contours around a region, ``reach // 2`` pixels away from it."""
    grown = cv2.dilate(region.astype(np.uint8), np.ones((reach, reach), np.uint8))
    return list(cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2])


def _draw_true(picture: np.ndarray, contours: list[np.ndarray]) -> None:
    cv2.polylines(picture, contours, True, INK, 3, cv2.LINE_AA)
    cv2.polylines(picture, dashes(contours), False, PAPER, 2, cv2.LINE_AA)


def _draw_hot(picture: np.ndarray, contours: list[np.ndarray]) -> None:
    cv2.polylines(picture, contours, True, PAPER, 3, cv2.LINE_AA)
    cv2.polylines(picture, contours, True, QUERY, 1, cv2.LINE_8)


def _arrange(panels: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, int]:
    """Panels under their titles, beside or below one another, and the width of the picture."""
    titled = []
    for title, panel in panels:
        room = max(panel.shape[1], text_width(title))
        heading = blank(LINE, room)
        put_text(heading, title, 0, LINE - 6, PALE)
        titled.append(stack([heading, panel], room))
    height, width = panels[0][1].shape[:2]
    if width > _WIDE * height:
        body = stack(titled, max(one.shape[1] for one in titled))
    else:
        gap = blank(titled[0].shape[0], GAP)
        body = np.concatenate([part for one in titled for part in (gap, one)][1:], axis=1)
    margin = blank(len(body), MARGIN)
    body = np.concatenate([margin, body, margin], axis=1)
    return body, max(body.shape[1], _MIN_WIDTH)


def _verdict(
    width: int, score: float, threshold: float | None, good_scores: Any
) -> list[np.ndarray]:
    """PASS or FAIL, the reason in words, and the score on a line with the threshold."""
    if threshold is None:
        return [text_strip(f"score {score:.4g}; no threshold, so no verdict", width)]
    fails = is_anomalous(score, threshold)
    badge, color = ("FAIL", FAIL) if fails else ("PASS", PASS)
    room = text_width(badge, *_BADGE) + 20
    strip = blank(34, width)
    cv2.rectangle(strip, (MARGIN, 2), (MARGIN + room, 30), color, cv2.FILLED)
    put_text(strip, badge, MARGIN + 10, 24, PAPER, *_BADGE)
    shown, limit = f"{score:.4g}", f"{threshold:.4g}"
    # The threshold lies a hair below the largest good score where too few images set it.
    above = "just above" if shown == limit else "above"
    relation = above if fails else "not above"
    words = f"score {shown} is {relation} the threshold {limit}"
    put_text(strip, words, MARGIN + room + GAP, 22)
    return [strip, _score_line(width, score, threshold, good_scores, color)]


def _score_line(
    width: int, score: float, threshold: float, good_scores: Any, color: tuple[int, int, int]
) -> np.ndarray:
    good = np.asarray([] if good_scores is None else good_scores, float)
    low = float(min(good.min(), threshold)) if len(good) else min(0.0, score, threshold)
    # A score far above the threshold must not press everything else into one place.
    reach = (threshold - low) or abs(threshold) or 1.0
    high = threshold + reach * min(max(1.0, 1.1 * (score - threshold) / reach), 3.0)
    left, right, middle = MARGIN + 6, width - MARGIN - 6, 26
    strip = blank(56, width)

    def at(value: float) -> int:
        return round(left + (right - left) * float(np.clip((value - low) / (high - low), 0, 1)))

    cv2.line(strip, (left, middle), (right, middle), PALE, 1)
    for value in good.tolist():
        cv2.line(strip, (at(value), middle - 5), (at(value), middle), PALE, 1)
    x, here = at(threshold), at(score)
    cv2.line(strip, (x, middle - 9), (x, middle + 9), INK, 2)
    _put_around(strip, "threshold", x, middle - 14, INK)
    outside = low > score or score > high
    if outside:  # an arrow head that points beyond the end
        turn = 1 if score > high else -1
        corners = [(here + turn * 5, middle), (here - turn * 5, middle - 6)]
        corners.append((here - turn * 5, middle + 6))
    else:
        corners = [(here, middle - 6), (here + 6, middle), (here, middle + 6), (here - 6, middle)]
    cv2.fillPoly(strip, [np.array(corners, np.int32)], color, cv2.LINE_AA)
    _put_around(strip, "this part", here, middle + 20, color)
    if len(good):
        words = f"{len(good)} good parts"
        start = left if here > width / 2 else right - text_width(words)
        put_text(strip, words, start, middle + 20, PALE)
    return strip


def _put_around(
    strip: np.ndarray, text: str, x: int, baseline: int, color: tuple[int, int, int]
) -> tuple[int, int]:
    """Write text around a position, inside the strip; return its ends."""
    wide = text_width(text)
    left = int(np.clip(x - wide // 2, MARGIN, strip.shape[1] - MARGIN - wide))
    put_text(strip, text, left, baseline, color)
    return left, left + wide


def _color_bar(width: int, limits: tuple[float, float], peak: Any) -> np.ndarray:
    low, high = limits
    strip = blank(46, width)
    left, right = MARGIN, width - MARGIN
    ramp = np.tile(np.linspace(low, high, right - left, dtype=np.float32), (12, 1))
    gray = np.full((*ramp.shape, 3), 128, np.uint8)
    strip[10:22, left:right] = _colored(gray, ramp, limits)
    free = left, right
    if peak is not None and low <= peak <= high:
        x = round(left + (right - left - 1) * (peak - low) / (high - low))
        cv2.line(strip, (x, 6), (x, 25), INK, 2)
        free = _put_around(strip, f"good parts up to {peak:.3g}", x, 40, INK)
        free = free[0] - GAP, free[1] + GAP
    else:
        free = right, left
    cold, warm = f"{low:.3g}", f"{high:.3g}"
    if left + text_width(cold) <= free[0]:
        put_text(strip, cold, left, 40, PALE)
    if right - text_width(warm) >= free[1]:
        put_text(strip, warm, right - text_width(warm), 40, PALE)
    return strip


def _legend(width: int, entries: list[_LegendEntry]) -> np.ndarray:
    """Entries in as few rows as they fit in."""
    rows, x = [blank(LINE, width)], MARGIN
    for text, draw in entries:
        swatch = 0 if draw is None else 28
        need = swatch + text_width(text)
        if x > MARGIN and x + need > width - MARGIN:
            rows.append(blank(LINE, width))
            x = MARGIN
        if draw is not None:
            corners = np.array([(x + 1, 4), (x + 21, 4), (x + 21, 15), (x + 1, 15)], np.int32)
            rows[-1][2:18, x - 1 : x + 24] = 128
            draw(rows[-1], [_all_pixels(corners)])
        put_text(rows[-1], text, x + swatch, LINE - 6)
        x += need + 2 * GAP
    return np.concatenate(rows, axis=0)


def _all_pixels(corners: np.ndarray) -> np.ndarray:
    """Pixels of a closed line through corners, in the form of a contour."""
    canvas = np.zeros((corners[:, 1].max() + 2, corners[:, 0].max() + 2), np.uint8)
    cv2.fillPoly(canvas, [corners], 1)
    return cv2.findContours(canvas, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2][0]
