"""A picture of a verdict: the image, its heat map on top, and the score in words."""

from __future__ import annotations

import os
import warnings
from typing import Any

import cv2
import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from pyimgano._nesting import innermost
from pyimgano.inference import anomaly_map
from pyimgano.utils._outputs import atomic_write

__all__ = ["heat_range", "map_range", "overlay", "range_of_maps", "write_overlay"]

# Good images whose maps give the scale of colors: enough to see how high the peaks of ordinary
# maps are, few enough for detectors that need seconds for a map.
_N_GOOD = 8
# Where the highest peak of the good images stands between the cold end, 0, and the hot end, 1.
_GOOD_PEAK = 0.5

_MIN_SIDE, _MAX_SIDE = 256, 640  # of a panel, in pixels
_GAP = 4
_LINE = 20
_INK, _PAPER, _OUTLINE = (32, 32, 32), (255, 255, 255), (255, 255, 255)


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
    >>> from pyimgano.reporting import map_range
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(12, 64, 64, 3)).astype(np.uint8)
    >>> detector = PatchCoreDetector("filterbank").fit(good)
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
    anomaly_map: np.ndarray,
    limits: tuple[float, float],
    caption: str = "",
    *,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Draw an image, and beside it the same image under its heat map.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8
        RGB.
    anomaly_map : ndarray of shape (h, w)
        Higher = more anomalous; stretched to the image.
    limits : (float, float)
        Map values of the cold and the hot end, see :func:`map_range`.
    caption : str, default=""
        Lines of text to put below. Characters other than ASCII show as ``?``.
    mask : ndarray of shape (h, w), default=None
        The true defect, not 0 = defective; outlined on the heat map.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        RGB.
    """
    scale = _scale(*image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])  # width, height
    plain = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    fine = cv2.resize(np.asarray(anomaly_map, np.float32), size, interpolation=cv2.INTER_LINEAR)
    low, high = limits
    heat = np.clip((fine - low) / (high - low), 0.0, 1.0)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    # Cold parts show the image in gray, so that the colors stand out on any product.
    gray = cv2.cvtColor(cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    opacity = np.clip(2.0 * heat, 0.0, 0.75)[..., None]
    hot = (opacity * colors + (1.0 - opacity) * gray).astype(np.uint8)
    if mask is not None:
        outline = cv2.resize(
            (np.asarray(mask) != 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST
        )
        found = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[-2]
        # Around it, and on the map alone: an outline hides the faint defect one looks for.
        outline = cv2.dilate(outline, np.ones((7, 7), np.uint8))
        cv2.drawContours(hot, found, -1, _INK, 3, cv2.LINE_AA)
        cv2.drawContours(hot, found, -1, _OUTLINE, 1, cv2.LINE_AA)
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    picture = np.concatenate([plain, gap, hot], axis=1)
    return np.concatenate([picture, _text(caption, picture.shape[1])], axis=0)


def write_overlay(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write an RGB picture as PNG, atomically.

    Parameters
    ----------
    path : str or Path
        The file; replaced if it exists.
    picture : ndarray of shape (height, width, 3), uint8
        RGB.
    """
    encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1]
    with atomic_write(path) as file:  # by Python: OpenCV cannot open every path on Windows
        file.write(encoded.tobytes())


def _scale(height: int, width: int) -> float:
    if max(height, width) > _MAX_SIDE:
        return _MAX_SIDE / max(height, width)
    return max(1.0, _MIN_SIDE / max(height, width))


def _text(caption: str, width: int) -> np.ndarray:
    lines = caption.encode("ascii", "replace").decode().splitlines()
    strip = np.full((_LINE * len(lines) + (6 if lines else 0), width, 3), _PAPER, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    for i, line in enumerate(lines):
        scale = 0.45
        wide = cv2.getTextSize(line, font, scale, 1)[0][0]
        if wide > width - 8:  # a long path: its end tells more than its beginning
            keep = max(4, int(len(line) * (width - 8) / wide) - 4)
            line = f"...{line[-keep:]}"
        at = (4, _LINE * (i + 1) - 4)
        cv2.putText(strip, line, at, font, scale, _INK, 1, cv2.LINE_AA)
    return strip
