"""Defects that are painted on photographs, beside those of the synthetic scenes.

As there, a painter takes the picture, the canvas, a random generator and a strength in (0, 1],
and returns the picture with the defect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from pyimgano.datasets.synthetic import _flaws
from pyimgano.datasets.synthetic._flaws import pick_place
from pyimgano.datasets.synthetic._painting import Canvas, Picture, Scene, bell, blend, smoothstep
from pyimgano.synthesis._noise import perlin_mask
from pyimgano.synthesis._textures import Textures

__all__ = ["OUTLINE", "PAINTERS", "Photo", "widened"]

#: Width in units of the outline of a part: its blur and the shade next to it.
OUTLINE = 3.0


@dataclass
class Photo(Scene):
    """A photograph of a good part.

    Attributes
    ----------
    allowed : ndarray of shape (H, W), bool, or None
        The pixels that may change: the surface, and the outline of the part where that is not
        forbidden.
    part : ndarray of shape (H, W), bool, or None
        The pixels that show the part; None where no plain ground is to be seen around it.
    textures : Textures
        Where foreign textures come from.
    """

    allowed: NDArray[np.bool_]
    part: NDArray[np.bool_] | None
    textures: Textures


def widened(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """A mask with all that is less than so many pixels away, and at least the next pixel."""
    reach = max(round(pixels), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


def dent(photo: Photo, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """A pressed-in spot, flatter than those of the synthetic scenes, which are lit harder."""
    return _flaws.dent(photo, canvas, rng, 0.4 * strength)


def missing_part(
    photo: Photo, canvas: Canvas, rng: np.random.Generator, strength: float
) -> Picture:
    """A piece broken off the rim; a hole where there is no ground that could show."""
    if photo.part is None:
        return _flaws.hole(photo, canvas, rng, strength)
    part = photo.part.astype(np.uint8)
    inner = cv2.erode(part, np.ones((3, 3), np.uint8), borderValue=1)
    rim = (part > inner) & photo.surface
    if not rim.any():
        return photo.image
    rows, columns = np.nonzero(rim)
    at = int(rng.integers(len(rows)))
    center = float(canvas.x[0, columns[at]]), float(canvas.y[rows[at], 0])
    edge = canvas.blob(rng, center, rng.uniform(7, 11) + 14 * strength * rng.random(), 0.3)
    edge = edge + np.float32(0.8) * canvas.noise(rng, 4, 2)
    # The outline of the part and its shadow go as well.
    around = widened(photo.part, OUTLINE * canvas.scale)
    near = cv2.GaussianBlur(around.astype(np.float32), (0, 0), max(0.8 * canvas.scale, 0.3))
    ground = _ground(photo.image, ~around, canvas, rng)
    fracture = np.exp(-((edge - 1) ** 2) / np.float32(2.5)) * inner
    image = photo.image * (1 - np.float32(0.35) * fracture[..., None])
    return blend(image, ground, canvas.cover(edge, 0.5) * near)


def _ground(
    image: Picture, seen: NDArray[np.bool_], canvas: Canvas, rng: np.random.Generator
) -> Picture:
    """The ground as it would look behind the part: what is near, and the grain of the rest."""
    if not seen.any():
        return image
    sigma = 12 * canvas.scale
    weight = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), max(sigma, 0.3))[..., None]
    mean = cv2.GaussianBlur(image * seen[..., None], (0, 0), max(sigma, 0.3))
    everywhere = np.median(image[seen], axis=0)
    smooth = (mean + np.float32(1e-3) * everywhere) / (weight + np.float32(1e-3))
    grain = (image - smooth)[seen]
    return np.asarray(smooth + grain[rng.integers(len(grain), size=canvas.shape)], np.float32)


def cut_paste(photo: Photo, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """A piece of the picture that lies in another place, or a narrow strip of it."""
    place = pick_place(photo, canvas, rng, 8)
    origin = pick_place(photo, canvas, rng, 8)
    angle = rng.uniform(-45, 45)
    if rng.random() < 0.5:
        edge = canvas.blob(rng, place, rng.uniform(6, 10) + 12 * strength * rng.random(), 0.15)
    else:  # a strip
        x, y = canvas.turned(place, rng.uniform(0, np.pi))
        half = rng.uniform(10, 18) + 14 * strength * rng.random(), rng.uniform(1.5, 4)
        edge = np.maximum(np.abs(x) - np.float32(half[0]), np.abs(y) - np.float32(half[1]))
    middle = canvas.middle + np.asarray(place) * canvas.scale
    turn = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), angle, 1.0)
    turn[:, 2] += turn[:, :2] @ ((np.asarray(place) - np.asarray(origin)) * canvas.scale)
    moved = cv2.warpAffine(
        photo.image, turn, (canvas.width, canvas.height), borderMode=cv2.BORDER_REFLECT
    )
    tone = 1 + strength * (rng.uniform(-0.2, 0.2) + rng.normal(0, 0.04, 3))
    moved = np.clip(moved * tone.astype(np.float32), 0, 1)
    opacity = np.float32(0.6 + 0.4 * strength)
    return blend(photo.image, moved, canvas.cover(edge.astype(np.float32), 0.7) * opacity)


def perlin_texture(
    photo: Photo, canvas: Canvas, rng: np.random.Generator, strength: float
) -> Picture:
    """A foreign texture that shows through in the places of a Perlin mask, as in DRAEM."""
    mask = perlin_mask(canvas.shape, rng, max_rotation=90.0)
    texture = photo.textures.draw(photo.image, rng) / np.float32(255)
    alpha = mask.astype(np.float32) * np.float32(0.2 + 0.8 * strength)
    return blend(photo.image, texture, alpha)


def blur_spot(photo: Photo, canvas: Canvas, rng: np.random.Generator, strength: float) -> Picture:
    """A spot without detail, as if smeared or under a film of grease."""
    center = pick_place(photo, canvas, rng, 4)
    edge = canvas.blob(rng, center, rng.uniform(10, 16) + 10 * strength * rng.random(), 0.15)
    sigma = (1.5 + 4.5 * strength) * canvas.scale
    blurred = cv2.GaussianBlur(photo.image, (0, 0), max(sigma, 0.5))
    # The grain of the sensor is in front of the lens and stays.
    grain = photo.image - cv2.GaussianBlur(photo.image, (0, 0), max(canvas.scale, 0.5))
    noise = bell(rng, photo.image.shape) * np.median(np.abs(grain))
    return blend(photo.image, blurred + noise, smoothstep(-edge, 0, 4))


Painter = Callable[[Photo, Canvas, np.random.Generator, float], Picture]

#: The kinds of defect by name; those of the synthetic scenes are painted as there.
PAINTERS: Mapping[str, Painter] = MappingProxyType(
    {
        "scratch": _flaws.scratch,
        "stain": _flaws.stain,
        "dent": dent,
        "crack": _flaws.crack,
        "missing_part": missing_part,
        "cut_paste": cut_paste,
        "perlin_texture": perlin_texture,
        "blur_spot": blur_spot,
        "contamination": _flaws.contamination,
        "discoloration": _flaws.discoloration,
        "fibre": _flaws.fiber,
        "hole": _flaws.hole,
        "rust": _flaws.rust,
    }
)
