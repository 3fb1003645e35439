"""A picture of a verdict: the image, its heat map on top, and the score in words."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from pyimgano.utils._files import atomic_write

__all__ = ["heat_range", "overlay", "write_overlay"]

_MIN_SIDE, _MAX_SIDE = 256, 640  # of a panel, in pixels
_GAP = 4
_LINE = 20
_INK, _PAPER, _OUTLINE = (32, 32, 32), (255, 255, 255), (255, 255, 255)


def heat_range(calibration_scores: Any, threshold: float) -> tuple[float, float]:
    """Map values shown as the cold and the hot end of the colours.

    The same for all images of a pipeline, so that colours can be compared. A score is about
    the peak of its map, so the scores of good images say what is ordinary: what no good image
    reaches is warm, its usual ups and downs stay cold.

    Parameters
    ----------
    calibration_scores : array-like of shape (n_images,) or None
        Anomaly scores of unseen good images.
    threshold : float
        Anomaly score above which an image is judged anomalous.

    Returns
    -------
    low, high : float
        ``low < high``; they follow any change of the scores' unit or zero.
    """
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
        Map values of the cold and the hot end, see :func:`heat_range`.
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
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    # Cold parts show the image in grey, so that the colours stand out on any product.
    gray = cv2.cvtColor(cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    opacity = np.clip(2.0 * heat, 0.0, 0.75)[..., None]
    hot = (opacity * colours + (1.0 - opacity) * gray).astype(np.uint8)
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
