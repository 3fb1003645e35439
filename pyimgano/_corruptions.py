"""Corruptions of inspection images: a worse lamp, lens, camera or mount than that of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._kernels.corruptions import GEOMETRIC, PHOTOMETRIC, Draw, moved, moved_mask
from pyimgano.inputs import ImageSequence, check_images
from pyimgano.inputs._formats import resize_image
from pyimgano.utils._columns import NoColumnsMixin, as_column
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._fitting import FittedParametersMixin
from pyimgano.utils._tags import ImageInputMixin
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["CORRUPTIONS", "SEVERITIES", "CorruptedFiles", "Corruption", "CorruptionKind"]

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


class CorruptedFiles(ImageSequence):
    """Image files that are corrupted after they were decoded; made by :class:`Corruption`.

    Parameters
    ----------
    files : ImageSequence
        The files.
    corruption : Corruption
        What is done to them.
    """

    def __init__(self, files: ImageSequence, corruption: Corruption) -> None:
        self.__dict__.update(files.__dict__)
        self._files = files
        self._corruption = corruption

    def declare(self, *, resize: tuple[int, int] | None, u16_max: int) -> ImageSequence:
        """The same files, with what an ``ImageFormatNormalizer`` declares about them.

        A size is that of the corrupted images.

        Parameters
        ----------
        resize : (height, width) or None
        u16_max : int

        Returns
        -------
        CorruptedFiles
        """
        new = super().declare(resize=resize, u16_max=u16_max)
        return new._with(_files=self._files.declare(resize=None, u16_max=u16_max))

    def _read(self, path: str) -> np.ndarray:
        image = self._corruption._corrupt(self._files._read(path))
        if self.resize not in (None, self._files.resize):
            image = resize_image(image, self.resize)
        return image


class Corruption(
    FittedParametersMixin,
    NoColumnsMixin,
    ImageInputMixin,
    VersionStampMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Corrupt images as a worse lamp, lens, camera or mount would.

    For tests of a fitted pipeline, see :func:`~pyimgano.robustness.robustness_report`, and to
    train on images that vary more than those at hand.

    Parameters
    ----------
    kind : str, default="brightness"
        One of :data:`~pyimgano.robustness.CORRUPTIONS`.
    severity : {1, 2, 3, 4, 5}, default=3
        The strength, from hardly visible to what nobody would overlook. The user guide has the
        strengths and their units.
    random_state : int, default=0
        Seeds what is drawn for each image: directions, places and noise. Only an integer is
        possible, since nothing else would give the same images again.

    Notes
    -----
    Stateless: nothing is learned in ``fit``, and it need not be called. Files stay lazy: each is
    corrupted when it is decoded.

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

    def fit(self, X: object, y: object = None) -> Corruption:
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X : images
            Not looked at.
        y : ignored

        Returns
        -------
        self
        """
        self._validate_params()
        self._keep_parameters()
        return self

    def transform(self, X: Any) -> Any:
        """Corrupt images.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            The images, of any sizes, see :func:`pyimgano.inputs.check_images`.

        Returns
        -------
        ndarray of shape (n, H, W, 3), uint8
            For one array.
        list of ndarray of shape (H, W, 3), uint8
            For a list or an object array; for a column of a pandas table a column with its index.
        ImageSequence
            For files: lazy.
        """
        step = self._checked()
        images = check_images(X)
        if isinstance(images, ImageSequence):
            return CorruptedFiles(images, clone(step))  # parameters may be set later
        corrupted = [step._corrupt(image) for image in images]
        if isinstance(X, np.ndarray) and X.dtype != object:
            return np.stack(corrupted)
        return as_column(corrupted, images)

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
        step = self._checked()
        images = check_images(X)
        check_consistent_length(images, masks)
        if not CORRUPTIONS[step.kind].moves_masks:
            return list(masks)
        return [step._move_mask(mask, image) for mask, image in zip(masks, images)]

    def _checked(self) -> Corruption:
        step = self._as_fitted()
        step._validate_params()
        return step

    @property
    def _strength(self) -> float:
        return CORRUPTIONS[self.kind].strengths[self.severity - 1]

    def _draw(self, image: np.ndarray) -> Draw:
        return Draw(digest(image), self.kind, self.random_state)

    def _corrupt(self, image: np.ndarray) -> np.ndarray:
        draw = self._draw(image)
        if self.kind in PHOTOMETRIC:
            return PHOTOMETRIC[self.kind](image, self._strength, draw)
        height, width = image.shape[:2]
        return moved(image, GEOMETRIC[self.kind]((height, width), self._strength, draw))

    def _move_mask(self, mask: np.ndarray, image: np.ndarray) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        motion = GEOMETRIC[self.kind](size, self._strength, self._draw(image))
        return moved_mask(np.asarray(mask), motion, size)
