"""Steps that change brightness, contrast, and color of an image as a whole."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.exceptions import ImageFormatError, PreprocessingError
from pyimgano.inputs._sequence import _Collection
from pyimgano.preprocessing._base import BasePreprocessor
from pyimgano.utils._pairs import check_pair
from pyimgano.utils._state import Array, MayLack, Sizes, State, fail

__all__ = ["CLAHE", "ContrastStretch", "GammaCorrection", "UnsharpMask", "WhiteBalance"]

_LEVELS = np.arange(256, dtype=np.float64)
# Pixels counted at a time: counting makes 8 bytes of each.
_CHUNK = 1 << 20
_FIT_BLOCK = 8


def as_uint8(values: np.ndarray) -> np.ndarray:
    """Round to whole gray levels, and cut off what is below 0 or above 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _counts(values: np.ndarray) -> np.ndarray:
    """Number of pixels of each of the 256 gray levels, ``(256,)``."""
    flat = values.reshape(-1)
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, flat.size, _CHUNK):
        counts += np.bincount(flat[start : start + _CHUNK], minlength=256)
    return counts


def _percentile(counts: np.ndarray, percent: float) -> int:
    """Smallest gray level that at least ``percent`` % of the pixels do not exceed."""
    rank = max(1, math.ceil(percent / 100 * counts.sum()))
    return int(np.searchsorted(np.cumsum(counts), rank))


class WhiteBalance(BasePreprocessor):
    r"""Remove the color cast of the light by a gain for each color channel.

    Each channel :math:`c` is multiplied by

    .. math:: g_c = \max_k(w_k) / w_c \quad \text{or} \quad g_c = \bar{w} / w_c

    where :math:`w_c` is what the method takes for the light's share in the channel. Results are
    rounded, and cut off at 255.

    Parameters
    ----------
    method : {"gray_world", "white_patch"}, default="gray_world"
        ``"gray_world"`` [1]_ takes the mean of each channel and makes all channels equal to their
        common mean :math:`\bar{w}`, the second formula. It assumes that the scene is gray on
        average: a part that fills the picture with one color loses that color.
        ``"white_patch"`` [2]_ takes the ``percentile`` of each channel, and raises all channels to
        the brightest one, the first formula. It needs something white in the picture that is not
        overexposed.
    percentile : float, default=99.0
        Percentile of a channel's gray levels that counts as its white, above 0 and at most 100.
        Used by ``"white_patch"`` alone. Below 100, single bright pixels have no influence.

    Raises
    ------
    PreprocessingError
        From ``transform``, for an image with a channel without any light where others have some:
        no gain balances it.

    Notes
    -----
    Gains are found for each image by itself; nothing is learned from the training images. A defect
    that is large and colored changes the gains of its image.

    References
    ----------
    .. [1] G. Buchsbaum, "A spatial processor model for object colour perception", Journal of the
       Franklin Institute 310(1), 1980.
    .. [2] E. H. Land, J. J. McCann, "Lightness and Retinex Theory", Journal of the Optical Society
       of America 61(1), 1971.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.preprocessing import WhiteBalance
    >>> reddish = np.full((1, 4, 4, 3), (120, 100, 80), dtype=np.uint8)
    >>> WhiteBalance().fit_transform(reddish)[0, 0, 0]
    array([100, 100, 100], dtype=uint8)
    """

    _step_name = "white_balance"
    _parameter_constraints: dict = {
        "method": [StrOptions({"gray_world", "white_patch"})],
        "percentile": [Interval(Real, 0, 100, closed="right")],
    }

    def __init__(self, method: str = "gray_world", *, percentile: float = 99.0) -> None:
        self.method = method
        self.percentile = percentile

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        counts = np.stack([_counts(image[..., c]) for c in range(3)])
        if self.method == "gray_world":
            whites = counts @ _LEVELS / counts.sum(axis=1)
            target = whites.mean()
        else:
            whites = np.array([float(_percentile(one, self.percentile)) for one in counts])
            target = whites.max()
        if not whites.any():
            return image.copy()  # black everywhere: no cast
        if not whites.all():
            dark = ", ".join(np.array(["red", "green", "blue"])[whites == 0])
            what = "mean" if self.method == "gray_world" else f"{self.percentile:g}th percentile"
            raise PreprocessingError(
                f"the {what} of {dark} is 0, and other channels are brighter: no gain balances "
                "that. White balance needs light in all three channels; leave the step out for "
                "images of one color."
            )
        tables = as_uint8(_LEVELS[:, None] * target / whites)
        return cv2.LUT(image, tables[None])


class GammaCorrection(BasePreprocessor):
    r"""Brighten or darken the middle gray levels by a power law.

    Each gray level :math:`v` becomes :math:`255\,(v / 255)^\gamma`, rounded. Black and white stay.

    Parameters
    ----------
    gamma : float, default=0.5
        The exponent :math:`\gamma`, above 0 and at most 10. Below 1 dark regions become brighter
        and richer in contrast, above 1 darker; 1 changes nothing.

    Notes
    -----
    Nothing is learned: all images are treated alike.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.preprocessing import GammaCorrection
    >>> image = np.array([[[0, 64, 255]]], dtype=np.uint8)
    >>> GammaCorrection(0.5).fit_transform([image])[0]
    array([[[  0, 128, 255]]], dtype=uint8)
    """

    _step_name = "gamma"
    _parameter_constraints: dict = {"gamma": [Interval(Real, 0, 10, closed="right")]}

    def __init__(self, gamma: float = 0.5) -> None:
        self.gamma = gamma

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        return cv2.LUT(image, as_uint8(255.0 * (_LEVELS / 255.0) ** self.gamma))


class ContrastStretch(BasePreprocessor):
    r"""Stretch the range between two percentiles of the gray levels to the full range.

    Each gray level :math:`v` becomes :math:`255\,(v - l) / (h - l)`, rounded and cut off at 0 and
    255. The limits :math:`l` and :math:`h` are the same for all three channels, so that gray stays
    gray.

    Parameters
    ----------
    low, high : float, default=1.0 and 99.0
        Percentiles of the gray levels of all channels that become black and white, from 0 to 100,
        ``low`` below ``high``. A percentile is the smallest gray level that so many percent of the
        values do not exceed.
    limits : {"image", "training"}, default="image"
        ``"image"`` finds the limits of each image by itself, which makes up for light that changes
        from image to image; a large bright or dark defect changes them as well. ``"training"``
        learns them once from all training images together: every image gets the same limits, and a
        change of light stays visible.

    Attributes
    ----------
    limits_ : ndarray of shape (2,), float64
        The limits :math:`l` and :math:`h`; only with ``limits="training"``.

    Raises
    ------
    PreprocessingError
        If both percentiles are the same gray level: there is no range to stretch.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.preprocessing import ContrastStretch
    >>> image = np.repeat(np.array([[50, 75, 100]], dtype=np.uint8)[..., None], 3, axis=2)
    >>> ContrastStretch(0, 100).fit_transform([image])[0][0, :, 0]
    array([  0, 128, 255], dtype=uint8)
    """

    _step_name = "contrast_stretch"
    _parameter_constraints: dict = {
        "low": [Interval(Real, 0, 100, closed="left")],
        "high": [Interval(Real, 0, 100, closed="right")],
        "limits": [StrOptions({"image", "training"})],
    }
    _fitted_state = {"limits_": MayLack(Array("float64", 2, low=0, high=255))}

    limits_: np.ndarray

    def __init__(self, low: float = 1.0, high: float = 99.0, *, limits: str = "image") -> None:
        self.low = low
        self.high = high
        self.limits = limits

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        limits = state.get("limits_")
        if limits is not None and not limits[0] < limits[1]:
            fail(f"{cls.__name__}.limits_", "is no range")

    @property
    def _needs_fit(self) -> bool:
        return self.limits == "training"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.low < self.high:
            raise ValueError(f"low={self.low!r} must be below high={self.high!r}.")

    def fit(self, X: object, y: object = None) -> BasePreprocessor:
        """Check the parameters, and with ``limits="training"`` learn the limits.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            Training images; not looked at with ``limits="image"``.
        y : ignored

        Returns
        -------
        self
        """
        if self.limits == "image":
            self.__dict__.pop("limits_", None)
        return super().fit(X, y)

    def _fit_images(self, images: _Collection) -> None:
        counts = np.zeros(256, dtype=np.int64)
        for block in images.iter_blocks(_FIT_BLOCK):
            for image in block:
                counts += _counts(image)
        self.limits_ = self._limits_of(counts, "the training images have")

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        if self.limits == "training":
            low, high = self.limits_
        else:
            low, high = self._limits_of(_counts(image), "the image has")
        return cv2.LUT(image, as_uint8((_LEVELS - low) * 255.0 / (high - low)))

    def _limits_of(self, counts: np.ndarray, what: str) -> np.ndarray:
        low, high = (_percentile(counts, percent) for percent in (self.low, self.high))
        if low == high:
            raise PreprocessingError(
                f"{what} no contrast to stretch: the {self.low:g}th and the {self.high:g}th "
                f"percentile are both gray level {low}. Take percentiles farther apart, or look "
                "why there is nothing to see."
            )
        return np.array([low, high], dtype=np.float64)


class CLAHE(BasePreprocessor):
    """Equalize the contrast of the lightness region by region.

    Contrast limited adaptive histogram equalization [1]_: each tile of the image has its own
    mapping of gray levels, which spreads those that occur often. Mappings are interpolated between
    the tiles, and limited, so that noise in even regions is not blown up. It is done on the
    lightness of CIE L*a*b*, rounded to 8 bits; colors keep their a* and b*.

    Parameters
    ----------
    clip_limit : float, default=2.0
        Most that the contrast of a gray level is raised, as a multiple of the height that a flat
        histogram has, above 0 and at most 256. 1 leaves almost everything as it is; high
        values are nearly without limit.
    tiles : int or (rows, columns), default=8
        Number of tiles down and across; an integer is both. At most the pixels of an image.

    Raises
    ------
    ImageFormatError
        From ``transform``, for an image with fewer pixels down or across than there are tiles.

    Notes
    -----
    Nothing is learned; each image is equalized by itself. Noise and texture become stronger
    together with what is to be seen.

    References
    ----------
    .. [1] K. Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV,
       1994.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.preprocessing import CLAHE
    >>> rng = np.random.RandomState(0)
    >>> dull = rng.randint(100, 120, size=(1, 64, 64, 3)).astype(np.uint8)
    >>> clear = CLAHE(clip_limit=4.0, tiles=2).fit_transform(dull)
    >>> bool(clear.std() > 2 * dull.std())
    True
    """

    _step_name = "clahe"
    _parameter_constraints: dict = {
        "clip_limit": [Interval(Real, 0, 256, closed="right")],
        "tiles": [Interval(Integral, 1, None, closed="left"), tuple, list],
    }

    def __init__(self, clip_limit: float = 2.0, *, tiles: int | tuple[int, int] = 8) -> None:
        self.clip_limit = clip_limit
        self.tiles = tiles

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_pair(self.tiles, "tiles", sides="rows, columns")

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        rows, columns = check_pair(self.tiles, "tiles", sides="rows, columns")
        height, width = image.shape[:2]
        if height < rows or width < columns:
            raise ImageFormatError(
                f"an image of {height} x {width} pixels (height x width) cannot be cut into "
                f"{rows} x {columns} tiles: set tiles to at most its size."
            )
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
        equalize = cv2.createCLAHE(float(self.clip_limit), (columns, rows))
        lab[..., 0] = equalize.apply(np.ascontiguousarray(lab[..., 0]))
        return cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)


class UnsharpMask(BasePreprocessor):
    r"""Sharpen edges by what a blurred copy of the image lacks.

    Each value :math:`v` becomes :math:`v + a\,(v - G_\sigma * v)`, rounded and cut off at 0 and
    255, where :math:`G_\sigma *` blurs with a Gaussian.

    Parameters
    ----------
    sigma : float, default=1.0
        Standard deviation of the Gaussian in pixels, above 0 and at most 100: about the width of
        the blur that is to be undone.
    amount : float, default=1.0
        Share :math:`a` of the difference that is added, from 0, which changes nothing, to 10.
    threshold : float, default=0.0
        Differences of up to so many gray levels are left as they are, from 0 to 255, so that noise
        is not sharpened.

    Notes
    -----
    Nothing is learned; each image is sharpened by itself. Sharpening raises noise too, and a light
    or dark seam appears along strong edges.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.preprocessing import UnsharpMask
    >>> edge = np.full((1, 8, 8, 3), 100, dtype=np.uint8)
    >>> edge[:, :, 4:] = 150
    >>> UnsharpMask(sigma=1.0).fit_transform(edge)[0, 4, :, 0]
    array([100, 100,  97,  85, 165, 153, 150, 150], dtype=uint8)
    """

    _step_name = "unsharp_mask"
    _parameter_constraints: dict = {
        "sigma": [Interval(Real, 0, 100, closed="right")],
        "amount": [Interval(Real, 0, 10, closed="both")],
        "threshold": [Interval(Real, 0, 255, closed="both")],
    }

    def __init__(self, sigma: float = 1.0, *, amount: float = 1.0, threshold: float = 0.0) -> None:
        self.sigma = sigma
        self.amount = amount
        self.threshold = threshold

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        values: Any = image.astype(np.float32)
        blurred = cv2.GaussianBlur(values, (0, 0), self.sigma, borderType=cv2.BORDER_REFLECT)
        difference = values - blurred
        if self.threshold > 0:
            difference[np.abs(difference) <= self.threshold] = 0.0
        return as_uint8(values + np.float32(self.amount) * difference)
