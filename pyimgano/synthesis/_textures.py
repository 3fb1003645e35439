"""Textures that are foreign to the part: from files, from images, or made by a formula."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pyimgano.datasets.synthetic._painting import Canvas, Picture, smoothstep, to_sheet
from pyimgano.inputs import ImageSequence, check_images
from pyimgano.utils._pairs import check_pair

__all__ = ["TEXTURE_SOURCES", "Textures", "procedural_texture"]

#: What a texture can be made of where no files or images are given.
TEXTURE_SOURCES = ("procedural", "own")
_PATTERNS = ("value_noise", "voronoi", "stripes")
# A texture from the image itself is cut into this many pieces each way and shuffled, so that the
# part cannot be made out in it.
_PIECES = 4


def procedural_texture(
    shape: Any, rng: np.random.Generator, *, pattern: str | None = None
) -> NDArray[np.uint8]:
    """Make a texture by a formula, in random colors.

    Parameters
    ----------
    shape : int or (int, int)
        Height and width in pixels.
    rng : numpy.random.Generator
        Draws the texture.
    pattern : {"value_noise", "voronoi", "stripes"}, default=None
        Clouds, cells, or bands. None draws one of them.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        RGB.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.synthesis import procedural_texture
    >>> texture = procedural_texture((48, 64), np.random.default_rng(0), pattern="voronoi")
    >>> texture.shape, texture.dtype.name
    ((48, 64, 3), 'uint8')
    """
    height, width = check_pair(shape, "shape")
    if pattern is None:
        pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    if pattern not in _PATTERNS:
        raise ValueError(
            f"pattern must be one of {', '.join(map(repr, _PATTERNS))} or None, got {pattern!r}."
        )
    canvas = Canvas(height, width)
    colors = rng.random((3, 3))
    if pattern == "voronoi":
        tones, grain = _voronoi(canvas, rng), 0.04
    elif pattern == "stripes":
        tones, grain = _stripes(canvas, rng), 0.06
    else:
        cell = float(np.exp(rng.uniform(np.log(3), np.log(40))))
        stretch, angle = float(rng.uniform(1, 6)), float(rng.uniform(0, np.pi))
        noise = canvas.noise(rng, cell, 4, stretch, angle)
        tones, grain = smoothstep(noise, -1.5, 1.5), 0.0
    # From the first color to the second and on to the third.
    ramp = np.stack([np.interp(tones, [0, 0.5, 1], column) for column in colors.T], axis=2)
    ramp += grain * canvas.noise(rng, 2.0, 2)[..., None]
    return np.rint(np.clip(ramp, 0, 1) * 255).astype(np.uint8)


def _voronoi(canvas: Canvas, rng: np.random.Generator) -> Picture:
    """Cells around random points, each of its own tone, darker towards their borders."""
    height, width = canvas.shape
    seeds = np.ones(canvas.shape, np.uint8)
    cell = float(rng.uniform(8, 40)) * canvas.scale
    number = int(np.clip(height * width / max(cell, 1) ** 2, 2, 4000))
    seeds[rng.integers(0, height, number), rng.integers(0, width, number)] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    tones = rng.random(int(labels.max()) + 1).astype(np.float32)[labels]
    return np.asarray(tones * (1 - 0.4 * distance / max(float(distance.max()), 1.0)), np.float32)


def _stripes(canvas: Canvas, rng: np.random.Generator) -> Picture:
    """Bands of one period and direction that waver a little."""
    along, _ = canvas.turned((0, 0), float(rng.uniform(0, np.pi)))
    period = float(np.exp(rng.uniform(np.log(4), np.log(40))))
    waver = float(rng.uniform(0, 0.15)) * period * canvas.noise(rng, 30, 2)
    wave = np.sin((along + waver) * np.float32(2 * np.pi / period))
    sharpness = float(rng.uniform(0.3, 1.0))
    return smoothstep(wave.astype(np.float32), -sharpness, sharpness)


class Textures:
    """A source of foreign textures, opened once.

    Parameters
    ----------
    source : {"procedural", "own"}, str, Path, or images
        See :class:`DefectSynthesizer`.
    """

    def __init__(self, source: Any = "procedural") -> None:
        self._images: Any = None
        self._own = isinstance(source, str) and source == "own"
        if isinstance(source, str) and source in TEXTURE_SOURCES:
            return
        if isinstance(source, (str, os.PathLike)):
            source = ImageSequence.from_folder(source)
        self._images = check_images(source)

    def draw(self, image: Picture, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Make a texture of the size of an image.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), float32
            What the texture is for, and made of with the source ``"own"``; in [0, 1].
        rng : numpy.random.Generator
            Draws the texture.

        Returns
        -------
        ndarray of shape (height, width, 3), uint8
        """
        size = image.shape[0], image.shape[1]
        if self._own:
            return _recolored(_shuffled(_cut(to_sheet(image), size, rng), rng), rng)
        if self._images is None:
            return procedural_texture(size, rng)
        chosen = self._images[int(rng.integers(len(self._images)))]
        return _recolored(_cut(chosen, size, rng), rng)


def _cut(
    image: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Cut a random piece out of an image, turn it by right angles, and bring it to a size."""
    share = float(rng.uniform(0.4, 1.0))
    cut = [max(round(side * share), 1) for side in image.shape[:2]]
    top, left = (int(rng.integers(n - c + 1)) for n, c in zip(image.shape, cut))
    piece = np.rot90(image[top : top + cut[0], left : left + cut[1]], int(rng.integers(4)))
    shrinks = piece.shape[0] > size[0]
    return np.asarray(
        cv2.resize(
            np.ascontiguousarray(piece),
            size[::-1],
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
    )


def _shuffled(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = (side // _PIECES for side in image.shape[:2])
    if not height or not width:
        return image
    out = image.copy()
    for target, source in enumerate(rng.permutation(_PIECES**2)):
        (row, column), (from_row, from_column) = (divmod(int(k), _PIECES) for k in (target, source))
        out[row * height : (row + 1) * height, column * width : (column + 1) * width] = image[
            from_row * height : (from_row + 1) * height,
            from_column * width : (from_column + 1) * width,
        ]
    return out


def _recolored(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast and hue, in some draws to the negative."""
    values = image[..., rng.permutation(3)] if rng.random() < 0.5 else image
    values = values.astype(np.float32) * np.float32(rng.uniform(0.6, 1.4))
    values += np.float32(rng.uniform(-40, 40))
    values = 255 - values if rng.random() < 0.2 else values
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
