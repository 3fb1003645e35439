"""Good images as a slightly different lamp, mount or camera would have shown them."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval

from pyimgano._kernels.corruptions import Draw, Motion, moved
from pyimgano.preprocessing._base import BasePreprocessor
from pyimgano.utils._fingerprint import digest

__all__ = ["ImageAugmentation"]


class ImageAugmentation(BasePreprocessor):
    """Vary training images as light, position and sensor vary on a line.

    Each image is shifted, rotated, lit and made noisy anew, by random amounts up to those given;
    0 leaves that out. Use it on training images **before** a model is fitted::

        more = [*good, *ImageAugmentation(random_state=1).transform(good)]
        detector.fit(more)
        calibrator = ThresholdCalibrator(FrozenEstimator(detector), cv="prefit").fit(held_out)

    A varied image is not recognized as a copy of its original, so out-of-sample scores of a
    training set that holds both come out too low: put the threshold on good images that were held
    out, as here. As a step of a pipeline it would vary the images to be judged as well; what
    varied images do to the scores of a fitted pipeline is what
    :func:`~pyimgano.robustness.robustness_report` measures, by stronger corruptions of single
    kinds.

    Parameters
    ----------
    shift : float, default=0.01
        Largest shift along each axis, as a share of the shorter side of the image. What comes in
        from outside is mirrored.
    rotation : float, default=1.0
        Largest angle in degrees, either way, about the center of the image.
    brightness : float, default=0.1
        Largest share of light more or less.
    gradient : float, default=0.1
        Largest share of light lost at the far side, in any direction.
    gamma : float, default=0.1
        The exponent of the gray-level curve lies between ``1 / (1 + gamma)`` and ``1 + gamma``.
    noise : float, default=2.0
        Largest standard deviation of the noise in gray levels.
    random_state : int, default=0
        Seeds what is drawn for each image; another number gives another variation. Only an integer
        is possible, since nothing else would give the same images again.

    See Also
    --------
    pyimgano.robustness.Corruption : One kind of disturbance at a stated strength.

    Notes
    -----
    Stateless: nothing is learned in ``fit``, and it need not be called. Files stay lazy. The
    result depends on the pixels of the image and on the parameters alone, not on other images or
    their order. Global random generators are not used.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.synthesis import ImageAugmentation
    >>> good = np.full((2, 16, 16, 3), 120, dtype=np.uint8)
    >>> varied = ImageAugmentation(noise=0).transform(good)
    >>> varied.shape, bool(abs(varied.astype(int) - 120).max() <= 40)
    ((2, 16, 16, 3), True)
    >>> bool(np.array_equal(ImageAugmentation(0, 0, 0, 0, 0, 0).transform(good), good))
    True
    """

    _parameter_constraints: dict = {
        "shift": [Interval(Real, 0, 0.5, closed="both")],
        "rotation": [Interval(Real, 0, 180, closed="both")],
        "brightness": [Interval(Real, 0, 1, closed="left")],
        "gradient": [Interval(Real, 0, 1, closed="both")],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        shift: float = 0.01,
        rotation: float = 1.0,
        brightness: float = 0.1,
        gradient: float = 0.1,
        gamma: float = 0.1,
        noise: float = 2.0,
        *,
        random_state: int = 0,
    ) -> None:
        self.shift = shift
        self.rotation = rotation
        self.brightness = brightness
        self.gradient = gradient
        self.gamma = gamma
        self.noise = noise
        self.random_state = random_state

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        draw = Draw(digest(image), "augmentation", self.random_state)
        # All are drawn, whichever are left out, so that each stays the same without the others.
        down, across, turn, light, curve = (2 * draw.share() - 1 for _ in range(5))
        towards, loss, grain = (draw.share() for _ in range(3))
        height, width = image.shape[:2]
        values = image
        if self.shift or self.rotation:
            reach, angle = self.shift * min(height, width), math.radians(self.rotation * turn)
            motion = Motion((reach * down, reach * across), math.cos(angle), math.sin(angle))
            values = moved(values, motion)
        factor = (1 + self.brightness * light) * (1 - self.gradient * loss * _way(image, towards))
        out = np.clip(values * factor[..., None], 0, 255)
        if self.gamma:
            out = 255 * (out / 255) ** ((1 + self.gamma) ** curve)
        if self.noise:
            out += self.noise * grain * draw.normal(*image.shape)
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def _way(image: np.ndarray, towards: float) -> np.ndarray:
    """Position of each pixel along a direction: 0 at the near side, 1 at the far side."""
    height, width = image.shape[:2]
    angle = 2 * math.pi * towards
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    along = math.sin(angle) * y[:, None] + math.cos(angle) * x
    return along / (abs(math.sin(angle)) + abs(math.cos(angle))) + 0.5
