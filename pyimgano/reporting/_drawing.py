"""Text, bars and lines on RGB pictures, with OpenCV alone.

A picture is put together from strips of one width, each drawn by a function of its own, so that
no text can run into another.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

__all__ = [
    "FAIL",
    "GAP",
    "INK",
    "LINE",
    "MARGIN",
    "PALE",
    "PAPER",
    "PASS",
    "QUERY",
    "blank",
    "dashes",
    "fit_size",
    "keep_end",
    "put_text",
    "resize_pixels",
    "stack",
    "text_strip",
    "text_width",
]

INK, PALE, PAPER = (32, 32, 32), (140, 140, 140), (255, 255, 255)
# Blue and vermilion of Okabe and Ito, which any kind of color vision tells apart.
PASS, FAIL = (0, 114, 178), (213, 94, 0)
# No color of the heat maps, for what the detector points at.
QUERY = (200, 0, 200)
MARGIN, GAP, LINE = 10, 12, 20
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
# Dashes and the gaps between them, in pixels along a line.
_DASH = 6


def blank(height: int, width: int) -> np.ndarray:
    """White paper."""
    # Paper is gray: to fill in one value takes a tenth of the time of three.
    return np.full((height, width, 3), PAPER[0], np.uint8)


def text_width(text: str, scale: float = _SCALE, thickness: int = 1) -> int:
    """Width of a line of text in pixels."""
    return cv2.getTextSize(_ascii(text), _FONT, scale, thickness)[0][0]


def put_text(
    picture: np.ndarray,
    text: str,
    left: int,
    baseline: int,
    color: tuple[int, int, int] = INK,
    scale: float = _SCALE,
    thickness: int = 1,
) -> None:
    """Write a line of text; characters other than ASCII show as ``?``."""
    at = (left, baseline)
    cv2.putText(picture, _ascii(text), at, _FONT, scale, color, thickness, cv2.LINE_AA)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def keep_end(text: str, width: int) -> str:
    """Shorten a line of text to a width; the end of a path tells more than its beginning."""
    if text_width(text) <= width:
        return text
    keep = len(text)
    while keep > 1 and text_width(f"...{text[-keep:]}") > width:
        keep -= 1
    return f"...{text[-keep:]}"


def text_strip(text: str, width: int, color: tuple[int, int, int] = INK) -> np.ndarray:
    """Lines of text, each shortened to the width."""
    lines = text.splitlines()
    strip = blank(LINE * len(lines), width)
    for i, line in enumerate(lines):
        put_text(strip, keep_end(line, width - 2 * MARGIN), MARGIN, LINE * (i + 1) - 6, color)
    return strip


def stack(strips: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Strips one below the other, each filled up with white to the width."""
    rows = []
    for strip in strips:
        row = blank(len(strip), width)
        row[:, : strip.shape[1]] = strip
        rows.append(row)
    return np.concatenate(rows, axis=0)


def fit_size(
    height: int, width: int, *, least: int, most: int, thin: int = 0, longest: int = 0
) -> tuple[int, int]:
    """Size at which an image is drawn.

    Parameters
    ----------
    height, width : int
        Of the image.
    least, most : int
        Bounds of the longer side.
    thin, longest : int, default=0
        An image whose shorter side would be less than ``thin`` is drawn larger, up to a longer
        side of ``longest``.

    Returns
    -------
    height, width : int
    """
    long, short = max(height, width), min(height, width)
    scale = min(max(long, least), most) / long
    if short * scale < thin:
        scale = max(scale, min(thin / short, longest / long))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_pixels(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring an image to (height, width)."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, size[::-1], interpolation=how)


def dashes(contours: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cut contours, pixel after pixel, into the dashes of a dashed line."""
    step = 2 * _DASH
    return [one[k : k + _DASH] for one in contours for k in range(0, len(one), step)]
