"""Corruptions of inspection images: a worse lamp, lens, camera or mount than that of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._kernels.corruptions import GEOMETRIC, PHOTOMETRIC, Draw, moved, moved_mask
from pyimgano.inputs import check_images
from pyimgano.preprocessing._base import BasePreprocessor
from pyimgano.utils._fingerprint import digest

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "CorruptionKind"]

#: From hardly visible to what nobody would overlook.
SEVERITIES = (1, 2, 3, 4, 5)


class CorruptionKind(NamedTuple):
    """One kind of corruption and its strengths.

    Parameters
    ----------
    unit : str
        Unit of the strengths.
    strengths : tuple of 5 float
        Strength at the severities 1 to 5.
    moves_masks : bool
        True if the part moves, and masks with it.
    """

    unit: str
    strengths: tuple[float, float, float, float, float]
    moves_masks: bool = False


#: All kinds by name, in the order of the documentation's table.
CORRUPTIONS: Mapping[str, CorruptionKind] = MappingProxyType(
    {
        "illumination_gradient": CorruptionKind(
            "% of the light lost at the far side", (10, 20, 30, 40, 50)
        ),
        "vignetting": CorruptionKind("% of the light lost in the corners", (15, 30, 45, 60, 75)),
        "brightness": CorruptionKind("% more or less light", (5, 10, 15, 20, 30)),
        "contrast": CorruptionKind("% of the contrast lost", (10, 20, 30, 40, 50)),
        "gamma": CorruptionKind("exponent of the curve, or its inverse", (1.1, 1.2, 1.4, 1.6, 2.0)),
        "white_balance": CorruptionKind(
            "% more red and less blue, or the reverse", (3, 6, 10, 15, 20)
        ),
        "glare": CorruptionKind("radius in % of the shorter side", (5, 10, 15, 20, 30)),
        "gaussian_noise": CorruptionKind("standard deviation in gray levels", (2, 4, 8, 12, 16)),
        "shot_noise": CorruptionKind("electrons at full white", (4000, 2000, 1000, 500, 250)),
        "salt_and_pepper": CorruptionKind("% of the pixels", (0.05, 0.1, 0.2, 0.5, 1.0)),
        "dust": CorruptionKind("number of specks", (2, 5, 10, 20, 40)),
        "defocus": CorruptionKind(
            "radius of the blur disk in % of the shorter side", (0.2, 0.4, 0.6, 0.8, 1.0)
        ),
        "motion_blur": CorruptionKind(
            "length of the path in % of the shorter side", (0.5, 1.0, 1.5, 2.0, 3.0)
        ),
        "jpeg": CorruptionKind("quality, 100 is best", (80, 60, 40, 20, 10)),
        "shift": CorruptionKind("% of the shorter side", (0.5, 1.0, 2.0, 3.0, 5.0), True),
        "rotation": CorruptionKind("degrees, either way", (0.5, 1.0, 2.0, 3.0, 5.0), True),
        "scale": CorruptionKind("% larger or smaller", (1.0, 2.0, 3.0, 5.0, 8.0), True),
    }
)


class Corruption(BasePreprocessor):
    """Corrupt images as a worse lamp, lens, camera or mount would.

    For tests of a fitted pipeline, see :func:`~pyimgano.robustness.robustness_report`, and to
    train on images that vary more than those at hand.

    Parameters
    ----------
    kind : str, default="brightness"
        A name in ``pyimgano.robustness.CORRUPTIONS``, which holds strengths and units as well.
    severity : {1, 2, 3, 4, 5}, default=3
        The strength, from hardly visible to what nobody would overlook. The user guide has the
        strengths and their units.
    random_state : int, default=0
        Seeds what is drawn for each image: directions, places and noise. Only an integer is
        possible, since nothing else would give the same images again.

    Notes
    -----
    Stateless: nothing is learned in ``fit``, and it need not be called. Files stay lazy: each is
    corrupted when it is decoded. Anomaly maps are those of the corrupted images, also where the
    part has moved in them; :meth:`transform_masks` moves masks to the same place.

    The result depends on the pixels of the image and on the parameters alone, not on other
    images, their order, the processor or the version of a library. What is drawn for an image is
    the same at all severities, so a larger one is more of the same. Global random generators are
    not used.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.robustness import Corruption
    >>> images = np.full((2, 4, 6, 3), 100, dtype=np.uint8)
    >>> darker_to_one_side = Corruption("illumination_gradient", 5).transform(images)
    >>> darker_to_one_side.shape, darker_to_one_side.dtype.name
    ((2, 4, 6, 3), 'uint8')
    >>> int(darker_to_one_side.min()), int(darker_to_one_side.max())
    (56, 94)
    """

    _parameter_constraints: dict = {
        "kind": [StrOptions(set(CORRUPTIONS))],
        "severity": [Interval(Integral, 1, 5, closed="both")],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(self, kind: str = "brightness", severity: int = 3, random_state: int = 0) -> None:
        self.kind = kind
        self.severity = severity
        self.random_state = random_state

    def transform_masks(self, X: Any, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Move masks as the parts in their images are moved.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            The images before the corruption. They are read only if masks have to move.
        masks : sequence of ndarray of shape (height, width)
            A mask for each image, of its size or of another. Each pixel takes the value of the
            nearest one; at the border the mask is mirrored as the image is.

        Returns
        -------
        list of ndarray of shape (height, width)
            The masks as they are where no part moves.
        """
        step = self._as_fitted()
        step._check_parameters()
        images = check_images(X)
        check_consistent_length(images, masks)
        if not CORRUPTIONS[step.kind].moves_masks:
            return list(masks)
        return [step._move_mask(mask, image) for mask, image in zip(masks, images)]

    @property
    def _strength(self) -> float:
        return CORRUPTIONS[self.kind].strengths[self.severity - 1]

    def _draw(self, image: np.ndarray) -> Draw:
        return Draw(digest(image), self.kind, self.random_state)

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        draw = self._draw(image)
        if self.kind in PHOTOMETRIC:
            return PHOTOMETRIC[self.kind](image, self._strength, draw)
        height, width = image.shape[:2]
        return moved(image, GEOMETRIC[self.kind]((height, width), self._strength, draw))

    def _move_mask(self, mask: np.ndarray, image: np.ndarray) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        motion = GEOMETRIC[self.kind](size, self._strength, self._draw(image))
        return moved_mask(np.asarray(mask), motion, size)
