"""Arithmetic of image corruptions, with the same bits on every machine.

Only operations whose result the standards fix are used: integers, and float64 additions,
products, quotients and square roots of single elements. Sums are sums of integers, which are exact
in any order. Random numbers are the raw output of PCG64, which NumPy keeps stable. Where a
function of ``libm`` is needed, as for a gamma curve, its result is rounded so coarsely that the
last bit of it does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2

__all__ = ["GEOMETRIC", "PHOTOMETRIC", "Draw", "Motion", "moved", "moved_mask"]

# Standard deviation of the sum of 8 bytes, and its mean; the sum is nearly normal.
_BYTES_MEAN, _BYTES_DEVIATION = 1020.0, math.sqrt(8 * 65535 / 12)
# The 8 neighbors of a pixel: (row, column) of a direction.
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
# Steps of a pixel in which kernels and positions are known.
_KERNEL_STEPS, _POSITION_STEPS = 16, 256
# Sine and cosine are rounded to this many bits.
_ANGLE_BITS = 30
# A speck of dust takes this share of the light, and has a radius in this range, in percent of the
# shorter side.
_DUST_OPACITY, _DUST_RADII = 0.6, (0.3, 1.0)


class Draw:
    """Random numbers that depend on nothing but what they are drawn for.

    Parameters
    ----------
    fingerprint : bytes
        Of the image.
    kind : str
        Name of the corruption.
    random_state : int
        Another number, another draw.
    """

    def __init__(self, fingerprint: bytes, kind: str, random_state: int) -> None:
        drawn_for = fingerprint + f"{kind} {random_state}".encode()
        seed = blake2b(drawn_for, digest_size=16)
        self._bits = np.random.PCG64(int.from_bytes(seed.digest(), "little"))

    def words(self, *shape: int) -> np.ndarray:
        """Random 64-bit integers.

        Parameters
        ----------
        *shape : int

        Returns
        -------
        ndarray of uint64
        """
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def share(self) -> float:
        """A number in [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) / 2.0**53

    def below(self, n: int) -> int:
        """An integer from 0 to ``n - 1``."""
        return int(self.share() * n)

    def sign(self) -> int:
        """1 or -1."""
        return 1 if self.below(2) else -1

    def normal(self, *shape: int) -> np.ndarray:
        """Nearly normal numbers of mean 0 and variance 1: sums of 8 bytes."""
        words = self.words(*shape)
        total = words.view(np.uint8).reshape(*shape, 8).sum(axis=-1, dtype=np.int64)
        return (total - _BYTES_MEAN) / _BYTES_DEVIATION


Photometric = Callable[[np.ndarray, float, Draw], np.ndarray]


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _centers(n: int) -> np.ndarray:
    """Centers of ``n`` pixels, from 0 to 1."""
    return (np.arange(n) + 0.5) / n


def _percent_of_side(image: np.ndarray, percent: float) -> float:
    return percent * min(image.shape[:2]) / 100


# ---- light and color ------------------------------------------------------------------
def _illumination_gradient(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    row, column = _DIRECTIONS[draw.below(8)]
    down, across = (_centers(n) for n in image.shape[:2])
    along = [axis if step > 0 else 1 - axis for step, axis in ((row, down), (column, across))]
    if row and column:
        way = (along[0][:, None] + along[1]) / 2
    else:
        way = np.broadcast_to(along[0][:, None] if row else along[1], image.shape[:2])
    return _pixels(image * (1 - percent / 100 * way)[..., None])


def _vignetting(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    height, width = image.shape[:2]
    y = np.arange(height) - (height - 1) / 2
    x = np.arange(width) - (width - 1) / 2
    # The corners of the image, half a pixel beyond the centers of its corner pixels, are at 1.
    squared = (y[:, None] * y[:, None] + x * x) / ((height * height + width * width) / 4)
    return _pixels(image * (1 - percent / 100 * squared)[..., None])


def _brightness(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    return _pixels(image * (1 + draw.sign() * percent / 100))


def _contrast(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    mean = int(image.sum(dtype=np.int64)) / image.size
    return _pixels(mean + (image - mean) * (1 - percent / 100))


def _gamma(image: np.ndarray, exponent: float, draw: Draw) -> np.ndarray:
    return gamma_curve(exponent if draw.sign() > 0 else 1 / exponent)[image]


@cache
def gamma_curve(exponent: float) -> np.ndarray:
    """The 256 values of a gamma curve.

    Parameters
    ----------
    exponent : float

    Returns
    -------
    ndarray of shape (256,), uint8
    """
    return _pixels(np.array([255 * math.pow(value / 255, exponent) for value in range(256)]))


def _white_balance(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    step = draw.sign() * percent / 100
    return _pixels(image * np.array([1 + step, 1.0, 1 - step]))


def _glare(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    radius = _percent_of_side(image, percent)
    height, width = image.shape[:2]
    # In the middle half of the image, where the part is.
    y = np.arange(height) + 0.5 - (0.25 + draw.share() / 2) * height
    x = np.arange(width) + 0.5 - (0.25 + draw.share() / 2) * width
    squared = (y[:, None] * y[:, None] + x * x) / (radius * radius)
    left = np.maximum(1 - squared, 0)
    return _pixels(image + (255.0 - image) * (left * left)[..., None])


# ---- noise and dirt -------------------------------------------------------------------
def _gaussian_noise(image: np.ndarray, deviation: float, draw: Draw) -> np.ndarray:
    return _pixels(image + deviation * draw.normal(*image.shape))


def _shot_noise(image: np.ndarray, electrons: float, draw: Draw) -> np.ndarray:
    # The number of electrons varies by its square root.
    deviation = np.sqrt(image * (255 / electrons))
    return _pixels(image + deviation * draw.normal(*image.shape))


def _salt_and_pepper(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    words = draw.words(*image.shape[:2])
    hit = (words >> np.uint64(11)) / 2.0**53 < percent / 100
    out = image.copy()
    out[hit] = np.where(words[hit] & np.uint64(1), 255, 0)[:, None]
    return out


def _dust(image: np.ndarray, number: float, draw: Draw) -> np.ndarray:
    height, width = image.shape[:2]
    covered = np.zeros((height, width))
    low, high = _DUST_RADII
    for _ in range(int(number)):
        center_y, center_x = draw.share() * height, draw.share() * width
        radius = _percent_of_side(image, low + (high - low) * draw.share())
        rows = slice(max(int(center_y - radius - 1), 0), int(center_y + radius + 2))
        columns = slice(max(int(center_x - radius - 1), 0), int(center_x + radius + 2))
        y = np.arange(height)[rows] + 0.5 - center_y
        x = np.arange(width)[columns] + 0.5 - center_x
        distance = np.sqrt(y[:, None] * y[:, None] + x * x)
        # Less than a pixel wide, a speck takes less than the light of a pixel.
        speck = np.clip(radius - distance + 0.5, 0, min(1.0, 2 * radius))
        covered[rows, columns] = np.maximum(covered[rows, columns], speck)
    return _pixels(image * (1 - _DUST_OPACITY * covered)[..., None])


# ---- blur -----------------------------------------------------------------------------
def _defocus(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    radius = _percent_of_side(image, percent)
    n = max(4, math.ceil(2 * radius))  # points within half a pixel of one another
    steps = np.arange(-n, n + 1)
    y, x = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    within = y * y + x * x <= n * n
    return _blurred(image, radius * (y[within] / n), radius * (x[within] / n))


def _motion_blur(image: np.ndarray, percent: float, draw: Draw) -> np.ndarray:
    length = _percent_of_side(image, percent)
    row, column = _DIRECTIONS[draw.below(4)]
    n = max(4, math.ceil(length))
    along = length / 2 * (np.arange(-n, n + 1) / n) / math.sqrt(row * row + column * column)
    return _blurred(image, row * along, column * along)


def _blurred(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The mean of copies of an image, moved by fractions of pixels; mirrored at the border."""
    kernel = _kernel(y, x)
    pad = [(n // 2, n // 2) for n in kernel.shape]
    shape = [next_fast_len(side + 2 * more, real=True) for side, (more, _) in zip(image.shape, pad)]
    transformed = rfft2(kernel, shape)
    out = np.empty_like(image)
    total = int(kernel.sum())
    for channel in range(3):
        plane = np.pad(image[..., channel].astype(np.float64), pad, mode="symmetric")
        sums = irfft2(rfft2(plane, shape) * transformed, shape)
        part = sums[kernel.shape[0] - 1 :, kernel.shape[1] - 1 :]
        # The true sums are integers, so rounding removes the error of the transform.
        exact = np.rint(part[: image.shape[0], : image.shape[1]]).astype(np.int64)
        out[..., channel] = (exact + total // 2) // total
    return out


def _kernel(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weights of the pixels around one, by linear interpolation; integers, symmetric."""
    top, left = (np.floor(axis).astype(np.int64) for axis in (y, x))
    below = np.rint((y - top) * _KERNEL_STEPS).astype(np.int64)
    right = np.rint((x - left) * _KERNEL_STEPS).astype(np.int64)
    reach_y, reach_x = (int(np.abs(axis).max()) + 1 for axis in (top, left))
    kernel = np.zeros((2 * reach_y + 1, 2 * reach_x + 1), dtype=np.int64)
    for step_y, weight_y in ((0, _KERNEL_STEPS - below), (1, below)):
        for step_x, weight_x in ((0, _KERNEL_STEPS - right), (1, right)):
            at = (top + step_y + reach_y, left + step_x + reach_x)
            np.add.at(kernel, at, weight_y * weight_x)
    return kernel.astype(np.float64)


# ---- compression ----------------------------------------------------------------------
# Quantization tables K.1 and K.2 of the JPEG standard.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# Bits of the cosines: products of two of them and of coefficients are integers below 2**53.
_COSINE_BITS = 13


@cache
def cosines() -> np.ndarray:
    """The basis of the cosine transform of 8 values, times 2**13 and rounded.

    Returns
    -------
    ndarray of shape (8, 8), float64
        A frequency in each row.
    """
    rows = [
        [math.cos((2 * x + 1) * u * math.pi / 16) / (2 if u else math.sqrt(8)) for x in range(8)]
        for u in range(8)
    ]
    return np.rint(np.array(rows) * 2.0**_COSINE_BITS)


def _jpeg(image: np.ndarray, quality: float, draw: Draw) -> np.ndarray:
    """Lose what JPEG with colors at half the resolution (4:2:0) loses; its other steps keep all."""
    height, width = image.shape[:2]
    pad = [(0, -height % 16), (0, -width % 16), (0, 0)]
    red, green, blue = np.moveaxis(np.pad(image, pad, mode="edge").astype(np.float64), 2, 0)
    luma = np.rint(0.299 * red + 0.587 * green + 0.114 * blue)
    blue_excess = np.rint(-0.168736 * red - 0.331264 * green + 0.5 * blue)
    red_excess = np.rint(0.5 * red - 0.418688 * green - 0.081312 * blue)
    luma = _through_blocks(luma - 128, _LUMA, quality) + 128
    chroma = []
    for plane in (blue_excess, red_excess):
        quarter = plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]
        coarse = _through_blocks(np.rint(quarter / 4), _CHROMA, quality)
        chroma.append(coarse.repeat(2, axis=0).repeat(2, axis=1))
    out = np.stack(
        [
            luma + 1.402 * chroma[1],
            luma - 0.344136 * chroma[0] - 0.714136 * chroma[1],
            luma + 1.772 * chroma[0],
        ],
        axis=-1,
    )
    return _pixels(out[:height, :width])


def _through_blocks(plane: np.ndarray, table: np.ndarray, quality: float) -> np.ndarray:
    scale = int(5000 // quality if quality < 50 else 200 - 2 * quality)
    steps = np.clip((table * scale + 50) // 100, 1, 255)
    rows, columns = (side // 8 for side in plane.shape)
    blocks = plane.reshape(rows, 8, columns, 8).swapaxes(1, 2)
    basis, unit = cosines(), 4.0**_COSINE_BITS
    kept = np.rint(basis @ blocks @ basis.T / unit / steps) * steps
    restored = np.rint(basis.T @ kept @ basis / unit)
    return np.clip(restored, -128, 127).swapaxes(1, 2).reshape(plane.shape)


#: What becomes of pixels that stay where they are, by the name of the corruption.
PHOTOMETRIC: dict[str, Photometric] = {
    "illumination_gradient": _illumination_gradient,
    "vignetting": _vignetting,
    "brightness": _brightness,
    "contrast": _contrast,
    "gamma": _gamma,
    "white_balance": _white_balance,
    "glare": _glare,
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "salt_and_pepper": _salt_and_pepper,
    "dust": _dust,
    "defocus": _defocus,
    "motion_blur": _motion_blur,
    "jpeg": _jpeg,
}


# ---- position -------------------------------------------------------------------------
class Motion(NamedTuple):
    """A motion of the part in the image, of which one kind is used at a time.

    Parameters
    ----------
    shift : (float, float), default=(0.0, 0.0)
        Pixels down and to the right by which the part moves.
    cosine, sine : float
        Of the angle by which it turns clockwise.
    zoom : float, default=1.0
        Factor by which it grows, about the center of the image.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    cosine: float = 1.0
    sine: float = 0.0
    zoom: float = 1.0

    def sources(self, size: tuple[int, int], y: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
        """Rows and columns that pixels at rows ``y`` and columns ``x`` of the result show.

        Parameters
        ----------
        size : (int, int)
            Height and width of the image.
        y : ndarray of shape (n_rows, 1)
        x : ndarray of shape (n_columns,)

        Returns
        -------
        list of two ndarray of shape (n_rows, n_columns)
        """
        middle_y, middle_x = ((side - 1) / 2 for side in size)
        y, x = (
            (y - self.shift[0] - middle_y) / self.zoom,
            (x - self.shift[1] - middle_x) / self.zoom,
        )
        return [
            self.cosine * y - self.sine * x + middle_y,
            self.sine * y + self.cosine * x + middle_x,
        ]


def _shift(size: tuple[int, int], percent: float, draw: Draw) -> Motion:
    row, column = _DIRECTIONS[draw.below(8)]
    pixels = percent * min(size) / 100 / math.sqrt(row * row + column * column)
    return Motion(shift=(row * pixels, column * pixels))


def _rotation(size: tuple[int, int], degrees: float, draw: Draw) -> Motion:
    angle, unit = math.radians(degrees), 2.0**_ANGLE_BITS
    cosine, sine = (round(of(angle) * unit) / unit for of in (math.cos, math.sin))
    return Motion(cosine=cosine, sine=draw.sign() * sine)


def _scale(size: tuple[int, int], percent: float, draw: Draw) -> Motion:
    return Motion(zoom=1 + draw.sign() * percent / 100)


#: How the part moves, by the name of the corruption; masks move along.
GEOMETRIC: dict[str, Callable[[tuple[int, int], float, Draw], Motion]] = {
    "shift": _shift,
    "rotation": _rotation,
    "scale": _scale,
}


def moved(image: np.ndarray, move: Motion) -> np.ndarray:
    """Move the part in an image: linear interpolation, mirrored at the border.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
    move : Motion

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    height, width = image.shape[:2]
    y, x = move.sources((height, width), np.arange(height)[:, None], np.arange(width))
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    below = np.rint((y - top) * _POSITION_STEPS).astype(np.int32)
    right = np.rint((x - left) * _POSITION_STEPS).astype(np.int32)
    rows = [_mirrored(top + step, height) for step in (0, 1)]
    columns = [_mirrored(left + step, width) for step in (0, 1)]
    out = np.zeros(image.shape, dtype=np.int32)
    for row, weight_y in zip(rows, (_POSITION_STEPS - below, below)):
        for column, weight_x in zip(columns, (_POSITION_STEPS - right, right)):
            out += image[row, column] * (weight_y * weight_x)[..., None]
    unit = _POSITION_STEPS * _POSITION_STEPS
    return ((out + unit // 2) // unit).astype(np.uint8)


def moved_mask(mask: np.ndarray, move: Motion, size: tuple[int, int]) -> np.ndarray:
    """Move a mask as :func:`moved` moves its image: each pixel takes the nearest one.

    Parameters
    ----------
    mask : ndarray of shape (mask_height, mask_width)
        Of the size of the image or of another.
    move : Motion
    size : (int, int)
        Height and width of the image.

    Returns
    -------
    ndarray of shape (mask_height, mask_width), of the dtype of ``mask``
    """
    centers = [_centers(n) * side - 0.5 for n, side in zip(mask.shape, size)]
    found = move.sources(size, centers[0][:, None], centers[1])
    row, column = (
        _mirrored(np.floor((at + 0.5) * n / side).astype(np.int64), n)
        for at, n, side in zip(found, mask.shape, size)
    )
    return mask[row, column]


def _mirrored(index: np.ndarray, n: int) -> np.ndarray:
    index = index % (2 * n)
    return np.minimum(index, 2 * n - 1 - index)
