"""Classical descriptors of texture: local patterns, co-occurrence, filters and spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
from scipy import fft
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.features._rows import BaseRowFeatures, each_of, gray, numbers_of

__all__ = ["FFTBandFeatures", "GLCMFeatures", "GaborFeatures", "LBPFeatures"]

_LARGEST = 10_000  # pixels: no image here is larger than this times its descriptor's reach
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "ASM", "energy", "correlation")
_ANGLES = (0, 45, 90, 135)


class LBPFeatures(BaseRowFeatures):
    """Histogram of local binary patterns.

    Each pixel is described by which of the points on a circle around it are at least as
    bright as itself [1]_. The shares of these patterns describe fine texture and do not change
    with brightness and contrast.

    Parameters
    ----------
    radius : float or sequence of float, default=(1, 2, 3)
        Radius of the circle in working pixels; one histogram for each. Only pixels whose
        whole circle lies in the image count.
    n_points : int, default=8
        Number of points on the circle.
    method : {"uniform", "nri_uniform"}, default="uniform"
        ``"uniform"``: patterns with at most two changes around the circle are told apart by
        their number of bright points, whatever their direction; all others share a bin.
        ``n_points + 2`` bins. ``"nri_uniform"``: by direction too,
        ``n_points * (n_points - 1) + 3`` bins.
    resize : int, (height, width) or None, default=256
        Working size in pixels; an integer is both sides. None keeps each image's own size.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    Notes
    -----
    scikit-image finds the patterns. The time grows with ``n_points`` and the number of radii.

    References
    ----------
    .. [1] T. Ojala, M. Pietikäinen and T. Mäenpää, "Multiresolution Gray-Scale and Rotation
       Invariant Texture Classification with Local Binary Patterns", PAMI 24(7), 2002.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import LBPFeatures
    >>> plain = np.full((1, 32, 32, 3), 90, dtype=np.uint8)
    >>> LBPFeatures(radius=1, n_points=4, resize=None).transform(plain)  # all 4 points
    array([[0., 0., 0., 0., 1., 0.]])
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "radius": [Interval(Real, 0, None, closed="neither"), tuple, list],
        "n_points": [Interval(Integral, 4, 32, closed="both")],
        "method": [StrOptions({"uniform", "nri_uniform"})],
    }

    def __init__(
        self,
        radius: float | Sequence[float] = (1, 2, 3),
        *,
        n_points: int = 8,
        method: str = "uniform",
        resize: int | tuple[int, int] | None = 256,
        batch_size: int = 8,
    ) -> None:
        self.radius = radius
        self.n_points = n_points
        self.method = method
        self.resize = resize
        self.batch_size = batch_size

    def _radii(self) -> list[float]:
        return numbers_of(self.radius, "radius", 0.5, _LARGEST)

    def _n_patterns(self) -> int:
        n = self.n_points
        return n + 2 if self.method == "uniform" else n * (n - 1) + 3

    def _least_size(self) -> tuple[int, int]:
        side = 2 * math.ceil(max(self._radii())) + 1
        return side, side

    def _names(self) -> list[str]:
        patterns = range(self._n_patterns())
        return [f"radius{radius:g}_pattern{p}" for radius in self._radii() for p in patterns]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        from skimage.feature import local_binary_pattern

        brightness, n_patterns = gray(image), self._n_patterns()
        histograms = []
        for radius in self._radii():
            codes = local_binary_pattern(brightness, self.n_points, radius, self.method)
            edge = math.ceil(radius)  # scikit-image takes what lies outside for black
            inside = codes[edge:-edge, edge:-edge].astype(np.intp)
            histograms.append(np.bincount(inside.ravel(), minlength=n_patterns) / inside.size)
        return np.concatenate(histograms)


class GLCMFeatures(BaseRowFeatures):
    """Haralick's properties of the gray-level co-occurrence matrix.

    The matrix says how often two gray levels stand side by side, at a given distance and in a
    given direction; a few properties of it sum up how coarse, regular and rich in contrast a
    texture is [1]_.

    Parameters
    ----------
    distances : int or sequence of int, default=(1, 3)
        Distances of the pairs in working pixels.
    levels : int, default=32
        Number of equal gray levels that brightness is divided into.
    properties : str or sequence of str, default=("contrast", "homogeneity", "energy", \
"correlation")
        Among ``"contrast"``, ``"dissimilarity"``, ``"homogeneity"``, ``"ASM"`` (angular second
        moment), ``"energy"`` (its square root) and ``"correlation"`` (1 where all pixels have
        one level).
    pool_angles : bool, default=True
        True gives mean and range (largest minus smallest) of each property over the
        directions 0, 45, 90 and 135 degrees, as in the paper; False gives the four.
    resize : int, (height, width) or None, default=256
        Working size in pixels; an integer is both sides. None keeps each image's own size.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    Notes
    -----
    scikit-image counts the pairs, each in both orders. Angles run from the x axis (to the
    right) to the y axis (down).

    References
    ----------
    .. [1] R. M. Haralick, K. Shanmugam and I. Dinstein, "Textural Features for Image
       Classification", IEEE Transactions on Systems, Man, and Cybernetics 3(6), 1973.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import GLCMFeatures
    >>> stripes = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    >>> stripes[:, :, ::2] = 255  # upright, one pixel wide
    >>> step = GLCMFeatures(1, levels=2, properties="contrast", pool_angles=False, resize=None)
    >>> step.transform(stripes)  # at 0, 45, 90 and 135 degrees
    array([[1., 1., 0., 1.]])
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "distances": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "levels": [Interval(Integral, 2, 256, closed="both")],
        "properties": [str, tuple, list],
        "pool_angles": ["boolean"],
    }

    def __init__(
        self,
        distances: int | Sequence[int] = (1, 3),
        *,
        levels: int = 32,
        properties: str | Sequence[str] = ("contrast", "homogeneity", "energy", "correlation"),
        pool_angles: bool = True,
        resize: int | tuple[int, int] | None = 256,
        batch_size: int = 8,
    ) -> None:
        self.distances = distances
        self.levels = levels
        self.properties = properties
        self.pool_angles = pool_angles
        self.resize = resize
        self.batch_size = batch_size

    def _pixels(self) -> list[int]:
        return numbers_of(self.distances, "distances", 1, _LARGEST, whole=True)

    def _least_size(self) -> tuple[int, int]:
        side = max(self._pixels()) + 1
        return side, side

    def _names(self) -> list[str]:
        ends = ["mean", "range"] if self.pool_angles else [f"{angle}deg" for angle in _ANGLES]
        return [
            f"{name}_{distance}px_{end}"
            for name in each_of(self.properties, "properties", _PROPERTIES)
            for distance in self._pixels()
            for end in ends
        ]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        from skimage.feature import graycomatrix, graycoprops

        coarse = (gray(image).astype(np.uint16) * self.levels >> 8).astype(np.uint8)
        pairs = graycomatrix(
            coarse,
            self._pixels(),
            np.deg2rad(_ANGLES),
            levels=self.levels,
            symmetric=True,
            normed=True,
        )
        parts = []
        for name in each_of(self.properties, "properties", _PROPERTIES):
            values = graycoprops(pairs, name)  # (n_distances, 4)
            if self.pool_angles:
                values = np.stack([values.mean(axis=1), np.ptp(values, axis=1)], axis=1)
            parts.append(values.ravel())
        return np.concatenate(parts)


class GaborFeatures(BaseRowFeatures):
    """Mean and standard deviation of Gabor filter responses.

    A Gabor filter answers to stripes of one frequency and direction; how strongly an image
    answers to each of a bank of them, and how unevenly, describes its texture [1]_.

    Parameters
    ----------
    frequencies : float or sequence of float, default=(0.1, 0.2, 0.4)
        Frequencies in cycles per working pixel, from 0.02 to 0.5: 0.1 is a period of 10
        pixels.
    n_orientations : int, default=4
        Number of directions from 0 to 180 degrees.
    bandwidth : float, default=1.0
        Bandwidth of the filters in octaves.
    resize : int, (height, width) or None, default=256
        Working size in pixels; an integer is both sides. None keeps each image's own size.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    Notes
    -----
    Responses are amplitudes: magnitudes of the complex response in gray levels (0 to 255),
    a stripe pattern ``a * sin`` at a filter's frequency and direction having about ``a / 2``.
    The filters are those of scikit-image with the response to plain brightness taken out, as
    in the paper. Their directions are those in which the stripes change: 0 degrees is the x
    axis, for upright stripes, 90 degrees the y axis. OpenCV filters; the image is mirrored at
    its border.

    References
    ----------
    .. [1] B. S. Manjunath and W. Y. Ma, "Texture Features for Browsing and Retrieval of Image
       Data", PAMI 18(8), 1996.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import GaborFeatures
    >>> wave = 128 + 100 * np.sin(2 * np.pi * 0.2 * np.arange(64))
    >>> stripes = np.tile(wave.astype(np.uint8)[None, :, None], (64, 1, 3))  # upright
    >>> step = GaborFeatures(0.2, n_orientations=2, resize=None)
    >>> [str(name) for name in step.get_feature_names_out()[::2]]
    ['frequency0.2_0deg_mean', 'frequency0.2_90deg_mean']
    >>> step.transform([stripes])[0, ::2].round()
    array([49.,  0.])
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "frequencies": [Interval(Real, 0, 0.5, closed="right"), tuple, list],
        "n_orientations": [Interval(Integral, 1, None, closed="left")],
        "bandwidth": [Interval(Real, 0.1, 4, closed="both")],
    }

    def __init__(
        self,
        frequencies: float | Sequence[float] = (0.1, 0.2, 0.4),
        *,
        n_orientations: int = 4,
        bandwidth: float = 1.0,
        resize: int | tuple[int, int] | None = 256,
        batch_size: int = 8,
    ) -> None:
        self.frequencies = frequencies
        self.n_orientations = n_orientations
        self.bandwidth = bandwidth
        self.resize = resize
        self.batch_size = batch_size

    def _cycles(self) -> list[float]:
        return numbers_of(self.frequencies, "frequencies", 0.02, 0.5)

    def _names(self) -> list[str]:
        angles = [180 * k / self.n_orientations for k in range(self.n_orientations)]
        return [
            f"frequency{cycles:g}_{angle:g}deg_{statistic}"
            for cycles in self._cycles()
            for angle in angles
            for statistic in ("mean", "std")
        ]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        brightness = gray(image).astype(np.float32)
        out = []
        bank = _gabor_bank(tuple(self._cycles()), self.n_orientations, float(self.bandwidth))
        for even, odd in bank:
            cosine, sine = (
                cv2.filter2D(brightness, cv2.CV_32F, part, borderType=cv2.BORDER_REFLECT)
                for part in (even, odd)
            )
            amplitude = np.hypot(cosine, sine)
            out += [amplitude.mean(dtype=np.float64), amplitude.std(dtype=np.float64)]
        return np.array(out)


@lru_cache(maxsize=8)
def _gabor_bank(
    frequencies: tuple[float, ...], n_orientations: int, bandwidth: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Even and odd part of each filter, float32, without response to plain brightness."""
    from skimage.filters import gabor_kernel

    bank = []
    for frequency in frequencies:
        for k in range(n_orientations):
            kernel = gabor_kernel(frequency, theta=np.pi * k / n_orientations, bandwidth=bandwidth)
            window = np.abs(kernel)
            kernel = kernel - window * (kernel.sum() / window.sum())
            bank.append((kernel.real.astype(np.float32), kernel.imag.astype(np.float32)))
    return bank


class FFTBandFeatures(BaseRowFeatures):
    """Contrast of an image in each band of spatial frequency.

    Loss of sharpness, noise and disturbed regular patterns move energy from one band to
    another, wherever in the image they are [1]_.

    Parameters
    ----------
    n_bands : int, default=6
        Number of bands from 0 to 0.5 cycles per working pixel. What lies beyond, in the
        corners of the spectrum, counts to the last one.
    n_orientations : int, default=1
        Number of sectors of 180 degrees that each band is divided into; the first one is
        centered on the x axis (upright stripes), and they turn towards the y axis (down).
    spacing : {"octave", "linear"}, default="octave"
        ``"octave"``: each band is twice as wide as the one below it; ``"linear"``: all are
        equally wide.
    resize : int, (height, width) or None, default=256
        Working size in pixels; an integer is both sides. None keeps each image's own size.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    Notes
    -----
    The numbers are root-mean-square contrasts in gray levels (0 to 255): stripes of amplitude
    ``a`` give ``a / sqrt(2)`` in their band, and the squares of all of them add up to the
    variance of the image. Its mean is left out. Variance and mean are taken under a Hann
    window, which keeps the border of the image from looking like an edge.

    References
    ----------
    .. [1] J. S. Weszka, C. R. Dyer and A. Rosenfeld, "A Comparative Study of Texture Measures
       for Terrain Classification", IEEE Transactions on Systems, Man, and Cybernetics 6(4),
       1976.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import FFTBandFeatures
    >>> wave = 128 + 100 * np.sin(2 * np.pi * 0.2 * np.arange(64))
    >>> stripes = np.tile(wave.astype(np.uint8)[None, :, None], (64, 1, 3))
    >>> step = FFTBandFeatures(3, resize=None)
    >>> [str(name) for name in step.get_feature_names_out()]
    ['band_0-0.125', 'band_0.125-0.25', 'band_0.25-0.5']
    >>> step.transform([stripes]).round()  # 100 / sqrt(2)
    array([[ 0., 71.,  0.]])
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "n_bands": [Interval(Integral, 1, 128, closed="both")],
        "n_orientations": [Interval(Integral, 1, None, closed="left")],
        "spacing": [StrOptions({"octave", "linear"})],
    }

    def __init__(
        self,
        n_bands: int = 6,
        *,
        n_orientations: int = 1,
        spacing: str = "octave",
        resize: int | tuple[int, int] | None = 256,
        batch_size: int = 8,
    ) -> None:
        self.n_bands = n_bands
        self.n_orientations = n_orientations
        self.spacing = spacing
        self.resize = resize
        self.batch_size = batch_size

    def _ends(self) -> list[float]:
        """Upper ends of the bands in cycles per pixel."""
        if self.spacing == "linear":
            return [0.5 * (k + 1) / self.n_bands for k in range(self.n_bands)]
        return [0.5 / 2**k for k in reversed(range(self.n_bands))]

    def _least_size(self) -> tuple[int, int]:
        side = max(4, math.ceil(1 / self._ends()[0]))  # one period of the lowest band
        return side, side

    def _names(self) -> list[str]:
        ends = self._ends()
        if ends[0] < 1 / _LARGEST:
            raise ValueError(
                f"n_bands={self.n_bands} octaves reach down to periods of more than "
                f"{_LARGEST} pixels; 13 at most, or spacing='linear'."
            )
        bands = [f"band_{a:.4g}-{b:.4g}" for a, b in zip([0.0, *ends[:-1]], ends)]
        if self.n_orientations == 1:
            return bands
        angles = [180 * k / self.n_orientations for k in range(self.n_orientations)]
        return [f"{band}_{angle:g}deg" for band in bands for angle in angles]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        brightness = gray(image).astype(np.float64)
        height, width = brightness.shape
        window = _hann(height)[:, None] * _hann(width)
        brightness -= np.average(brightness, weights=window)
        brightness *= window
        spectrum = fft.rfft2(brightness)
        energy = spectrum.real**2 + spectrum.imag**2
        # The other half of the spectrum mirrors this one, but for its first column and, where
        # the width is even, its last.
        energy[:, 1 : (width + 1) // 2] *= 2
        index = _band_index((height, width), tuple(self._ends()), self.n_orientations)
        n_numbers = self.n_bands * self.n_orientations
        sums = np.bincount(index.ravel(), weights=energy.ravel(), minlength=n_numbers + 1)
        return np.sqrt(sums[:n_numbers] / (height * width * np.sum(window**2)))


@lru_cache(maxsize=8)
def _hann(n: int) -> np.ndarray:
    """Hann window whose ends are not quite 0, so that every pixel counts."""
    return np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2


@lru_cache(maxsize=8)
def _band_index(shape: tuple[int, int], ends: tuple[float, ...], n_orientations: int) -> Any:
    """Band and sector of each frequency of ``rfft2``; the mean comes after the last of them."""
    rows, columns = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])
    frequency = np.hypot(rows, columns)
    # A frequency that is an end belongs below it, also after rounding.
    band = np.minimum(np.searchsorted(ends, frequency * (1 - 1e-9)), len(ends) - 1)
    sector = np.arctan2(rows, columns) * n_orientations / np.pi
    index = band * n_orientations + np.floor(sector + 0.5).astype(np.intp) % n_orientations
    index[0, 0] = len(ends) * n_orientations
    return index
