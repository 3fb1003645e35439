"""The paint box of the synthetic dataset: coordinates, noise, soft shapes and a camera.

Pictures are float32 RGB in [0, 1] until the camera turns them into uint8. Lengths are in
*units*: the shorter side of a picture is 256 units long whatever its size in pixels, so a
part looks the same in a small and in a large picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]  # (H, W, 3) in [0, 1], or (H, W) for one quantity per pixel
Point = tuple[float, float]  # x, y in units, from the middle of the picture

_FIXED_POINT_BITS = 4  # OpenCV draws at 1/16 pixel
_MIN_CHANGE = 10  # levels of 255 in at least one channel


class Canvas:
    """The pixel raster of one picture and its coordinates in units.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self.scale = min(height, width) / 256.0  # pixels per unit
        self.middle = np.array([(width - 1) / 2, (height - 1) / 2])
        x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / self.scale
        y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / self.scale
        self.x, self.y = np.meshgrid(x, y)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def turned(self, center: Point, angle: float) -> tuple[Picture, Picture]:
        """Coordinates of every pixel in a frame moved to ``center`` and turned by ``angle``."""
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        x, y = self.x - np.float32(center[0]), self.y - np.float32(center[1])
        return cos * x + sin * y, cos * y - sin * x

    def cover(self, distance: Picture, softness: float = 0.0) -> Picture:
        """Share of each pixel that a shape covers, from its signed distance (negative inside)."""
        ramp = np.float32(1.0 / self.scale + softness)
        return np.clip(np.float32(0.5) - distance / ramp, 0, 1, dtype=np.float32)

    def noise(
        self,
        rng: np.random.Generator,
        cell: float,
        octaves: int = 1,
        stretch: float = 1.0,
        angle: float = 0.0,
    ) -> Picture:
        """Smooth noise of about unit variance whose grains are ``cell`` units wide.

        ``stretch`` makes the grains that many times longer along ``angle``. Every octave adds
        grains of half the size and half the height.
        """
        total = np.zeros(self.shape, np.float32)
        height, variance = 1.0, 0.0
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        for octave in range(octaves):
            step = max(cell * self.scale / 2**octave, 1.0)
            along, across = 1 / (step * stretch), 1 / step
            turn = np.array([[cos * along, sin * along], [-sin * across, cos * across]])
            corners = turn @ np.array(
                [[0, self.width, 0, self.width], [0, 0, self.height, self.height]]
            )
            low = corners.min(axis=1)
            columns, rows = np.ceil(corners.max(axis=1) - low).astype(int) + 5
            lattice = bell(rng, (rows, columns))
            shift = 2 + rng.random(2) - low
            total += np.float32(height) * cv2.warpAffine(
                lattice,
                np.column_stack([turn, shift]),
                (self.width, self.height),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT,
            )
            variance += height**2
            height /= 2
        return total / np.float32(np.sqrt(variance))

    def blob(
        self, rng: np.random.Generator, center: Point, radius: float, roughness: float = 0.2
    ) -> Picture:
        """Signed distance (about) to an irregular, rather round patch."""
        x, y = self.turned(center, rng.uniform(0, np.pi))
        flat = np.float32(rng.uniform(1.0, 1.6))
        x, y = x / flat, y * flat
        around = bearing(x, y)
        outline = np.ones_like(around)
        for wave in range(2, 7):
            outline += np.float32(roughness * rng.normal() / wave**0.8) * np.cos(
                wave * around + np.float32(rng.uniform(0, 2 * np.pi))
            )
        return length(x, y) - np.float32(radius) * np.clip(outline, 0.35, 2.0)

    def stroke(self, points: NDArray[np.float64], width: float, fade: bool = True) -> Picture:
        """A pen line through ``points`` (n, 2): opacity in [0, 1], thinning out at its ends."""
        ink = np.zeros(self.shape, np.uint8)
        pixels = self.to_pixels(points)
        # OpenCV's lines have whole widths: the missing fraction is made up by the opacity.
        thickness = max(int(np.ceil(width * self.scale)), 1)
        opacity = min(width * self.scale / thickness, 1.0)
        pieces = len(points) - 1
        for piece in range(pieces):
            place = (piece + 0.5) / pieces
            taper = min(1.0, 5 * place + 0.15, 5 * (1 - place) + 0.15) if fade else 1.0
            one = np.zeros_like(ink) if piece == 0 else ink
            cv2.line(
                one,
                tuple(int(v) for v in pixels[piece]),
                tuple(int(v) for v in pixels[piece + 1]),
                round(255 * taper),
                thickness,
                cv2.LINE_AA,
                _FIXED_POINT_BITS,
            )
            ink = one
        return ink.astype(np.float32) * np.float32(opacity / 255)

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        """Points in units to OpenCV's fixed-point pixel coordinates."""
        pixels = np.asarray(points, float) * self.scale + self.middle
        return np.rint(pixels * 2**_FIXED_POINT_BITS).astype(np.int32)

    def polygon(
        self, sheet: NDArray[np.uint8], points: NDArray[np.float64], color: Sequence[float] | float
    ) -> None:
        """Fill a polygon with smooth edges on a uint8 sheet, in place."""
        cv2.fillPoly(sheet, [self.to_pixels(points)], color, cv2.LINE_AA, _FIXED_POINT_BITS)

    def line(
        self,
        sheet: NDArray[np.uint8],
        points: NDArray[np.float64],
        color: Sequence[float] | float,
        width: float,
    ) -> None:
        """Draw an open polyline with smooth edges on a uint8 sheet, in place."""
        thickness = max(round(width * self.scale), 1)
        cv2.polylines(
            sheet,
            [self.to_pixels(points)],
            False,
            color,
            thickness,
            cv2.LINE_AA,
            _FIXED_POINT_BITS,
        )

    def disc(
        self,
        sheet: NDArray[np.uint8],
        center: Point,
        radius: float,
        color: Sequence[float] | float,
    ) -> None:
        """Fill a disc with smooth edges on a uint8 sheet, in place."""
        x, y = self.to_pixels(np.array([center]))[0]
        size = round(radius * self.scale * 2**_FIXED_POINT_BITS)
        cv2.circle(sheet, (int(x), int(y)), size, color, -1, cv2.LINE_AA, _FIXED_POINT_BITS)

    def moved(self, picture: Picture, dx: float, dy: float) -> Picture:
        """A picture shifted by ``dx`` and ``dy`` units, black where nothing came from."""
        shift = np.array([[1, 0, dx * self.scale], [0, 1, dy * self.scale]], np.float32)
        moved = cv2.warpAffine(picture, shift, (self.width, self.height))
        return np.asarray(moved, np.float32)

    def slope(self, relief: Picture, light: float) -> Picture:
        """Brightness change of a relief (heights in units) lit from the direction ``light``."""
        dx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=self.scale / 8)
        dy = cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=self.scale / 8)
        return -np.float32(np.cos(light)) * dx - np.float32(np.sin(light)) * dy


@dataclass
class Scene:
    """A drawn part before it is photographed.

    Attributes
    ----------
    image : ndarray of shape (H, W, 3), float32
        The colors.
    surface : ndarray of shape (H, W), bool
        Where surface flaws can sit.
    light : float
        Direction the light comes from, in radians.
    """

    image: Picture
    surface: NDArray[np.bool_]
    light: float

    def __post_init__(self) -> None:
        self.image = np.clip(self.image, 0, 1).astype(np.float32, copy=False)


@dataclass
class Fault:
    """A structural defect to draw into a part: its kind, and what makes each one different."""

    kind: str
    rng: np.random.Generator
    strength: float


class Camera:
    """Illumination, lens and sensor of one shot: the same for the good and the flawed part.

    Parameters
    ----------
    canvas : Canvas
        The raster.
    rng : numpy.random.Generator
        Draws brightness, light falloff, color cast, blur and noise.
    """

    def __init__(self, canvas: Canvas, rng: np.random.Generator) -> None:
        extent = np.float32(256.0)
        gain = rng.uniform(0.82, 1.14)
        tilt = rng.uniform(-0.28, 0.28, 2)
        vignette = rng.uniform(0.0, 0.5)
        x, y = canvas.x / extent, canvas.y / extent
        light = np.float32(gain) * (
            1
            + np.float32(tilt[0]) * x
            + np.float32(tilt[1]) * y
            - np.float32(vignette) * (x * x + y * y)
        )
        cast = 1 + rng.normal(0, 0.008, 3)
        self.light = light[..., None] * cast.astype(np.float32)
        self.blur = float(rng.uniform(0.45, 0.8)) * max(canvas.scale, 0.6)
        grain = rng.uniform(0.008, 0.016)
        self.noise = bell(rng, (*canvas.shape, 3)) * np.float32(grain)

    def shoot(self, image: Picture) -> NDArray[np.uint8]:
        """Photograph a picture: uint8 RGB of the same size."""
        seen = cv2.GaussianBlur(image, (0, 0), self.blur) * self.light
        np.clip(seen, 0, 1, out=seen)
        seen += self.noise * (np.float32(0.4) + np.sqrt(seen))  # photons: more signal, more noise
        return np.rint(np.clip(seen, 0, 1) * 255).astype(np.uint8)


def bell(rng: np.random.Generator, shape: tuple[int, ...]) -> Picture:
    """Nearly normal numbers of unit variance, an order faster than exactly normal ones."""
    # Four dice of 256 sides: mean 4 * 127.5, variance 4 * (256**2 - 1) / 12.
    dice = rng.integers(0, 256, (4, *shape), np.uint8)
    total = dice.sum(axis=0, dtype=np.int16)
    return (total - np.float32(510)) * np.float32(math.sqrt(3 / (256**2 - 1)))


def length(x: Picture, y: Picture) -> Picture:
    """Euclidean length; unlike ``np.hypot`` not guarded against overflow, so faster."""
    return np.sqrt(x * x + y * y)


def bearing(x: Picture, y: Picture) -> Picture:
    """Angle of (x, y) in [0, 2 pi), to about a hundredth of a degree."""
    return np.asarray(cv2.phase(x, y), np.float32)


def blend(image: Picture, color: object, alpha: Picture) -> Picture:
    """Lay a color, or another picture, over ``image`` with opacity ``alpha`` (H, W)."""
    return image + alpha[..., None] * (np.asarray(color, np.float32) - image)


def smoothstep(value: Picture, low: float, high: float) -> Picture:
    """0 below ``low``, 1 above ``high``, smooth in between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def jittered(rng: np.random.Generator, color: object, amount: float = 0.03) -> Picture:
    """A color that varies a little in brightness and hue from part to part."""
    base = np.asarray(color, float)
    tone, hue = 1 + rng.normal(0, amount), 1 + rng.normal(0, amount / 3, 3)
    return (base * tone * hue).astype(np.float32)


def upper_left(rng: np.random.Generator) -> float:
    """Direction of a light from the upper left, give or take."""
    return float(np.deg2rad(-135) + rng.normal(0, 0.25))


def flat_color(canvas: Canvas, color: object) -> Picture:
    """A picture of one color."""
    return np.broadcast_to(np.asarray(color, np.float32), (*canvas.shape, 3)).copy()


def to_sheet(image: Picture) -> NDArray[np.uint8]:
    """A uint8 copy for OpenCV's anti-aliased drawing."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def to_color(value: object) -> tuple[float, ...]:
    """A color in [0, 1] as OpenCV's drawing functions want it."""
    return tuple(np.minimum(np.asarray(value, float) * 255, 255).tolist())


def visible_change(
    sound: NDArray[np.uint8], seen: NDArray[np.uint8], scale: float, faint: int = _MIN_CHANGE
) -> NDArray[np.uint8]:
    """Mask of the pixels that differ noticeably, small gaps closed and lone pixels dropped.

    Pixels that differ by ``faint`` levels count where they adjoin those that differ noticeably.
    """
    change = cv2.absdiff(sound, seen).max(axis=2)
    mask = (change >= faint).astype(np.uint8)
    reach = max(round(2 * scale), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    closed = cv2.morphologyEx(np.pad(mask, 2 * reach), cv2.MORPH_CLOSE, disc)
    mask = np.ascontiguousarray(closed[2 * reach : -2 * reach, 2 * reach : -2 * reach])
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    few = min(4, max(min(mask.shape) // 2, 1))
    noticeable = np.bincount(labels[change >= _MIN_CHANGE], minlength=len(stats)) > 0
    keep = noticeable & (stats[:, cv2.CC_STAT_AREA] >= max(15 * scale**2, few))
    keep[0] = False
    return keep[labels].astype(np.uint8)
