"""Defects painted on images of good parts."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length

from pyimgano.datasets.synthetic._painting import Canvas, to_sheet, upper_left, visible_change
from pyimgano.exceptions import SynthesisError
from pyimgano.inputs import check_images
from pyimgano.synthesis._foreground import foreground_of
from pyimgano.synthesis._painters import OUTLINE, PAINTERS, Photo, widened
from pyimgano.synthesis._textures import Textures
from pyimgano.utils._tags import ImageInputMixin
from pyimgano.utils._threads import map_in_threads, n_threads
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["DEFECT_KINDS", "DefectSynthesizer", "SynthesizedDefects"]

#: Names of all kinds of defect.
DEFECT_KINDS = tuple(PAINTERS)
# Those that are plausible on whatever part.
_DEFAULT_KINDS = DEFECT_KINDS[:8]
_MAX_SHARE = 0.3  # of the image that a defect may cover; a few pixels in any case
_FEW_PIXELS = 4
_ATTEMPTS = 20
# Levels of 255 by which a pixel differs that belongs to a defect which shows next to it.
_FAINT = 4


class SynthesizedDefects(NamedTuple):
    """Images with defects, as :meth:`DefectSynthesizer.synthesize` returns them.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, 3), uint8, or list of ndarray of shape (H, W, 3)
        The images with a defect each; an array if one array was given.
    masks : ndarray of shape (n, H, W), bool, or list of ndarray of shape (H, W)
        True for the pixels that differ from the good image, and for no others.
    kinds : list of str
        The kind of each defect.
    """

    images: Any
    masks: Any
    kinds: list[str]


class DefectSynthesizer(ImageInputMixin, VersionStampMixin, BaseEstimator):
    """Paint defects on images of good parts.

    For training detectors that learn from examples of defects, and for tuning and first
    measurements where no real defects are at hand. How well a model finds painted defects says
    little about how well it finds real ones: see the user guide.

    Parameters
    ----------
    kinds : sequence of str, default=None
        Kinds of defect, of ``pyimgano.synthesis.DEFECT_KINDS``, painted in turn. None stands for
        ``"scratch"``, ``"stain"``, ``"dent"``, ``"crack"``, ``"missing_part"``, ``"cut_paste"``,
        ``"perlin_texture"`` and ``"blur_spot"``; there are also ``"contamination"``,
        ``"discoloration"``, ``"fibre"``, ``"hole"`` and ``"rust"``.
    severity : float or (float, float), default=(0.2, 1.0)
        From hardly visible, near 0, to what nobody would overlook, 1. Of a pair, each defect
        draws its own, uniformly between the two. Where a defect does not show it is made more
        severe.
    mask : "foreground", ndarray of shape (H, W) of bool, or None, default="foreground"
        Where defects may be. ``"foreground"`` is the part with its outline, found in each image by
        itself as :func:`foreground_mask` does, and the whole image where there is no plain ground.
        An array is for images of its size. None is the whole image.
    textures : {"procedural", "own"}, str, Path, or images, default="procedural"
        Where the textures of ``"perlin_texture"`` come from: a formula, see
        :func:`procedural_texture`; shuffled pieces of the image itself; the images of a folder;
        or images, as :func:`pyimgano.inputs.check_images` takes them.
    random_state : int, default=0
        Seeds what is drawn for each image. Only an integer is possible, since nothing else would
        give the same defects again.

    Notes
    -----
    Nothing is learned and there is no ``fit``. The defect of an image depends on that image, on
    its index and on the parameters alone, not on the images beside it. Outside the mask the image
    is what it was, bit for bit. Sizes are in shares of the shorter side of the image, so defects
    look the same in small and in large images. No defect covers more than 30 % of the image. Global
    random generators are not used. Equal seeds give equal bits on one installation; another
    version of NumPy or OpenCV may round a few pixels differently.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.synthesis import DefectSynthesizer
    >>> good = np.full((3, 64, 64, 3), 150, dtype=np.uint8)
    >>> images, masks, kinds = DefectSynthesizer(["scratch", "dent"]).synthesize(good)
    >>> kinds
    ['scratch', 'dent', 'scratch']
    >>> bool(np.array_equal(masks, (images != good).any(axis=-1)))
    True
    """

    _parameter_constraints: dict = {
        "kinds": ["array-like", None],
        "severity": [Interval(Real, 0, 1, closed="right"), tuple, list],
        "mask": [StrOptions({"foreground"}), np.ndarray, None],
        "textures": "no_validation",
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        kinds: Sequence[str] | None = None,
        severity: float | tuple[float, float] = (0.2, 1.0),
        mask: Any = "foreground",
        *,
        textures: Any = "procedural",
        random_state: int = 0,
    ) -> None:
        self.kinds = kinds
        self.severity = severity
        self.mask = mask
        self.textures = textures
        self.random_state = random_state

    def synthesize(self, X: Any, *, indices: Any = None) -> SynthesizedDefects:
        """Paint one defect on each image.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            Images of good parts, of any sizes, see :func:`pyimgano.inputs.check_images`.
        indices : array-like of int of shape (n,), default=None
            The index of each image, which decides about its defect together with
            ``random_state``. None counts from 0. With other indices the same images get other
            defects; the index also says which of ``kinds`` is its turn.

        Returns
        -------
        SynthesizedDefects
            ``images``, ``masks`` and ``kinds``.

        Raises
        ------
        ImageFormatError
            If ``X`` is no sequence of images.
        SynthesisError
            If no defect of these kinds shows on an image, such as a blurred spot on a blank one.
            As long as another of the kinds does, that one is taken.
        """
        self._validate_params()
        kinds, limits = self._checked_kinds(), self._checked_severity()
        images, textures = check_images(X), Textures(self.textures)
        numbers = _checked_indices(indices, len(images))

        def paint(pair: tuple[int, NDArray[np.uint8]]) -> tuple[Any, Any, str]:
            i, image = pair
            photo = self._photo(image, textures, images.name(i))
            found = _paint(image, photo, kinds, limits, (self.random_state, numbers[i]))
            if found is None:
                raise SynthesisError(
                    f"{images.name(i)}: none of the kinds {', '.join(kinds)} leaves a visible "
                    f"trace on this image of {image.shape[0]} x {image.shape[1]} pixels; "
                    f"{_ways_out(kinds, self.mask)}."
                )
            return found

        (block,) = images.iter_blocks(len(images))
        made = list(map_in_threads(paint, enumerate(block), n_threads()))
        pixels, masks = [one[0] for one in made], [one[1] for one in made]
        as_array = isinstance(X, np.ndarray) and X.ndim == 4
        return SynthesizedDefects(
            np.stack(pixels) if as_array else pixels,
            np.stack(masks) if as_array else masks,
            [one[2] for one in made],
        )

    def _photo(self, image: NDArray[np.uint8], textures: Textures, name: str) -> Photo:
        size = image.shape[:2]
        part = foreground_of(image)
        surface = allowed = np.ones(size, bool)
        if isinstance(self.mask, str):
            surface, allowed = part, widened(part, OUTLINE * min(size) / 256)
        elif self.mask is not None:
            surface = allowed = self.mask
            if surface.dtype != bool or surface.ndim != 2 or not surface.any():
                raise ValueError(
                    f"mask is an array of shape {surface.shape} and dtype {surface.dtype} with "
                    f"{np.count_nonzero(surface)} pixels; give a mask of shape (height, width) "
                    "that holds booleans and is True somewhere."
                )
            if surface.shape != size:
                raise ValueError(
                    f"mask has {surface.shape[0]} x {surface.shape[1]} pixels, and {name} "
                    f'{size[0]} x {size[1]}: give mask="foreground" or None, or images of one size.'
                )
        whole = None if part.all() else part
        return Photo(image / np.float32(255), surface, 0.0, allowed, whole, textures)

    def _checked_kinds(self) -> tuple[str, ...]:
        if self.kinds is None:
            return _DEFAULT_KINDS
        unknown = [kind for kind in self.kinds if kind not in DEFECT_KINDS]
        if isinstance(self.kinds, str) or unknown or not len(self.kinds):
            raise ValueError(
                f"kinds={self.kinds!r} must be a sequence of one or more of "
                f"{', '.join(map(repr, DEFECT_KINDS))}."
            )
        return tuple(self.kinds)

    def _checked_severity(self) -> tuple[float, float]:
        given: Any = self.severity
        if isinstance(given, Real):
            return float(given), float(given)
        pair = tuple(given)
        real = all(isinstance(one, Real) for one in pair)
        if len(pair) != 2 or not real or not 0 < pair[0] <= pair[1] <= 1:
            raise ValueError(
                f"severity={self.severity!r} must be a number above 0 and at most 1, or a pair "
                "(lowest, highest) of such numbers."
            )
        return float(pair[0]), float(pair[1])


def _ways_out(kinds: Sequence[str], mask: Any) -> str:
    """Say what lets more defects show."""
    other = next((kind for kind in ("stain", *DEFECT_KINDS) if kind not in kinds), None)
    ways = [] if other is None else [f'add kinds, such as "{other}"']
    if mask is not None:
        ways.append("widen mask")
    return ", or ".join(ways) or "leave it out, or take larger images"


def _checked_indices(indices: Any, n: int) -> list[int]:
    if indices is None:
        return list(range(n))
    values = np.asarray(indices)
    if values.ndim != 1 or values.dtype.kind not in "iu" or (len(values) and values.min() < 0):
        raise ValueError(
            f"indices has shape {values.shape} and dtype {values.dtype}; give one integer of at "
            "least 0 for each image."
        )
    check_consistent_length(values, np.empty(n))
    return [int(value) for value in values]


def _paint(
    image: NDArray[np.uint8],
    photo: Photo,
    kinds: tuple[str, ...],
    severity: tuple[float, float],
    seed: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], str] | None:
    """Paint a defect that shows: the image, its mask and the kind; None if none does."""
    entropy, index = seed
    rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(index,)))
    canvas = Canvas(image.shape[0], image.shape[1])
    photo.light = upper_left(rng)
    drawn = float(rng.uniform(*severity))
    most = max(_MAX_SHARE * photo.surface.size, _FEW_PIXELS)
    for turn in range(len(kinds)):
        kind, strength = kinds[(index + turn) % len(kinds)], drawn
        # A defect can fall where it does not show, a scratch on a glare say: try elsewhere.
        for _ in range(_ATTEMPTS):
            painted = PAINTERS[kind](photo, canvas, rng, strength)
            seen = to_sheet(painted)
            seen = np.where(photo.allowed[..., None], seen, image)
            mask = visible_change(image, seen, canvas.scale, _FAINT) > 0
            mask &= (seen != image).any(axis=2)
            if mask.any() and np.count_nonzero(mask) <= most:
                return np.where(mask[..., None], seen, image), mask, kind
            strength = min(1.15 * strength, 1.0)
    return None
