"""Steps that remove uneven light: what varies slowly over the image."""

from __future__ import annotations

from numbers import Real

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.inputs._formats import resize_image
from pyimgano.preprocessing._base import BasePreprocessor
from pyimgano.preprocessing._intensity import as_uint8

__all__ = ["BackgroundFlattening", "HomomorphicFilter"]

# Gaussians are computed at a scale at which their standard deviation is about so many pixels:
# the time of a wide one would grow with its width.
_FINE_SIGMA = 8.0


def slow_part(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a float32 plane with a Gaussian of ``sigma`` pixels; the border is mirrored."""
    height, width = plane.shape
    factor = max(1, int(sigma / _FINE_SIGMA))
    small = (max(1, round(height / factor)), max(1, round(width / factor)))
    blurred = cv2.GaussianBlur(
        resize_image(plane, small),
        (0, 0),
        sigmaX=sigma * small[1] / width,
        sigmaY=sigma * small[0] / height,
        borderType=cv2.BORDER_REFLECT,
    )
    return resize_image(blurred, (height, width))


class HomomorphicFilter(BasePreprocessor):
    r"""Weaken uneven light and keep, or strengthen, what the surface reflects.

    An image is the product of the light and of what the surface reflects. On the logarithm
    :math:`f = \log(1 + Y)` of the luminance :math:`Y` it is a sum, and light varies slowly over the
    image [1]_: its share is :math:`s = G_\sigma * f`, blurred with a Gaussian. With the mean
    :math:`m` of :math:`s` the filtered luminance is

    .. math:: \log(1 + Y') = m + \gamma_L\,(s - m) + \gamma_H\,(f - s)

    and each channel :math:`c` is brightened like it, :math:`1 + c' = (1 + c)(1 + Y') / (1 + Y)`,
    rounded and cut off at 255. The image keeps its mean (logarithmic) brightness.

    Parameters
    ----------
    sigma : float, default=32.0
        Standard deviation of the Gaussian in pixels, above 0 and at most 10000. Variations much
        wider than it count as light, so it must be larger than the part's own shading and any
        defect.
    low_gain : float, default=0.5
        Factor :math:`\gamma_L` of the slow variations, from 0, which removes them, to 1, which
        keeps them.
    high_gain : float, default=1.0
        Factor :math:`\gamma_H` of the details, from 1, which keeps them, to 10.

    Notes
    -----
    Nothing is learned; each image is filtered by itself.

    References
    ----------
    .. [1] A. V. Oppenheim, R. W. Schafer, T. G. Stockham, "Nonlinear Filtering of Multiplied and
       Convolved Signals", Proceedings of the IEEE 56(8), 1968.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.preprocessing import HomomorphicFilter
    >>> ramp = np.linspace(40, 200, 128).astype(np.uint8)  # a gray wall, lit from the right
    >>> lit = np.broadcast_to(ramp[:, None], (1, 128, 128, 3)).copy()
    >>> flat = HomomorphicFilter(sigma=8, low_gain=0).fit_transform(lit)
    >>> bool(flat.std() < 0.1 * lit.std())
    True
    """

    _step_name = "homomorphic"
    _parameter_constraints: dict = {
        "sigma": [Interval(Real, 0, 10000, closed="right")],
        "low_gain": [Interval(Real, 0, 1, closed="both")],
        "high_gain": [Interval(Real, 1, 10, closed="both")],
    }

    def __init__(
        self, sigma: float = 32.0, *, low_gain: float = 0.5, high_gain: float = 1.0
    ) -> None:
        self.sigma = sigma
        self.low_gain = low_gain
        self.high_gain = high_gain

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        values = image.astype(np.float32)
        logs = np.log1p(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY))
        slow = slow_part(logs, float(self.sigma))
        mean = np.float32(slow.mean(dtype=np.float64))
        filtered = mean + self.low_gain * (slow - mean) + self.high_gain * (logs - slow)
        return as_uint8((values + 1.0) * np.exp(filtered - logs)[..., None] - 1.0)


class BackgroundFlattening(BasePreprocessor):
    r"""Even out the brightness of the background.

    The background :math:`B = G_\sigma * Y` is the luminance :math:`Y` blurred with a wide Gaussian.
    It is brought to one gray level :math:`l`: each channel :math:`c` becomes

    .. math:: c' = c\,l / B \quad \text{or} \quad c' = c + l - B

    rounded and cut off at 0 and 255. To divide, the background counts as at least 1 gray level.

    Parameters
    ----------
    sigma : float, default=32.0
        Standard deviation of the Gaussian in pixels, above 0 and at most 10000. It must be larger
        than the part's details and any defect: what is wider is flattened away.
    method : {"divide", "subtract"}, default="divide"
        ``"divide"`` undoes light that falls unevenly, and shading of the lens; ``"subtract"``
        undoes stray light that is added, and does not raise the noise of dark regions.
    level : float, default=None
        Gray level :math:`l` of the background, above 0 and at most 255. None is the mean of
        :math:`B`: the image keeps its brightness. A number brings all images to the same, so that
        light that becomes weaker as a whole is made up for as well.

    Notes
    -----
    Nothing is learned; the background of each image is its own.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.preprocessing import BackgroundFlattening
    >>> ramp = np.linspace(40, 200, 128).astype(np.uint8)
    >>> lit = np.broadcast_to(ramp[:, None], (1, 128, 128, 3)).copy()
    >>> flat = BackgroundFlattening(sigma=8).fit_transform(lit)
    >>> bool(flat.std() < 0.1 * lit.std())
    True
    """

    _step_name = "flatten_background"
    _parameter_constraints: dict = {
        "sigma": [Interval(Real, 0, 10000, closed="right")],
        "method": [StrOptions({"divide", "subtract"})],
        "level": [Interval(Real, 0, 255, closed="right"), None],
    }

    def __init__(
        self, sigma: float = 32.0, *, method: str = "divide", level: float | None = None
    ) -> None:
        self.sigma = sigma
        self.method = method
        self.level = level

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        values = image.astype(np.float32)
        background = slow_part(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY), float(self.sigma))
        if self.method == "divide":
            background = np.maximum(background, np.float32(1.0))
        level = background.mean(dtype=np.float64) if self.level is None else self.level
        if self.method == "subtract":
            return as_uint8(values + (np.float32(level) - background)[..., None])
        return as_uint8(values * (np.float32(level) / background)[..., None])
