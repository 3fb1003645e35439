"""DRAEM: two networks that learn to undo and to find synthetic defects."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval

from pyimgano.backbones._torch_module import resolve_device, torch_module
from pyimgano.detectors.trained._base import BaseTrainedDetector, Prepared, Shapes
from pyimgano.detectors.trained._draem_networks import (
    LEAST_SIDE,
    discriminative_network,
    focal_loss,
    reconstruct,
    reconstructive_network,
    segment,
    structural_similarity,
)
from pyimgano.detectors.trained._loop import Step
from pyimgano.detectors.trained._samples import Sample
from pyimgano.grids import PatchGrids, cells_inside
from pyimgano.inputs._formats import resize_image
from pyimgano.inputs._sequence import image_files
from pyimgano.utils._pairs import check_pair
from pyimgano.utils._state import Sizes, State, fail
from pyimgano.utils._warning import warn_user

# The synthesis loads the synthetic datasets, whose drawing it shares: imported where it is used,
# since this module is imported with every other detector.
if TYPE_CHECKING:
    from pyimgano.synthesis._textures import Textures

__all__ = ["DRAEMDetector"]

# Textures that are not in a folder, by the names that the synthesis has for them.
_SOURCES: dict[Any, tuple[str, ...]] = {
    "mixed": ("procedural", "own"),
    "procedural": ("procedural",),
    "training": ("own",),
}
# Share of the training images that get a defect, and of those that are rotated.
_DEFECTIVE, _ROTATED = 0.5, 0.3
# The largest share of the image that shines through a defect.
_MOST_OF_IMAGE = 0.8
# Masks are rotated by up to so many degrees, and drawn until one has a pixel on the part.
_MASK_ROTATION, _ATTEMPTS = 90.0, 10
# An image's score is the largest mean of its map in a square of this share of its shorter side:
# 21 pixels at 256.
_WINDOW = 21 / 256
# Share of the steps over which the learning rate rises, and what is left of it at the end.
_WARM_UP, _LEAST_RATE = 0.05, 0.01
# Seconds that a training step takes for each image, pixel and square of the width on one core.
_SECONDS = 1.5e-8
# An image is compared with others as a whole by the colors of about so many pixels a side. Each
# color is a mixture of the nearest two of five levels, so that a small defect weighs no more than
# its area, however bright it is, and a little more light makes a little difference.
_SAMPLED = 64
_LEVELS = np.maximum(
    0, 1 - np.abs(np.arange(256)[:, None] / 255 * 4 - np.arange(5)), dtype=np.float32
)


class DefectPainter(NamedTuple):
    """Makes batches of images, some of them with a synthetic defect.

    Attributes
    ----------
    textures : tuple of Textures
        What the defects show, one of these each.
    foreground_only : bool
        Whether defects are on the part alone where an image shows one on a plain ground.
    max_rotation : float
        Some of the images are rotated by up to so many degrees.
    brightness : float
        All of them are made brighter or darker by up to this share.
    region : ndarray of shape (height, width), bool, or None
        The pixels that may be defective; None for all of them.
    """

    textures: tuple[Textures, ...]
    foreground_only: bool
    max_rotation: float
    brightness: float
    region: np.ndarray | None

    def batch(
        self, images: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Paint defects on half of some images.

        Parameters
        ----------
        images : sequence of ndarray of shape (height, width, 3), uint8
            Good ones.
        rng : numpy.random.Generator

        Returns
        -------
        seen : ndarray of shape (n, height, width, 3), float32
            The images with their defects, in [0, 1].
        good : ndarray of shape (n, height, width, 3), uint8
            The same without.
        masks : ndarray of shape (n, height, width), bool
            The pixels of the defects.
        """
        seen, good, masks = [], [], []
        for k, pixels in enumerate(images):
            image = self._lit(self._rotated(pixels, rng), rng)
            damaged, mask = image, np.zeros(image.shape[:2], bool)
            if rng.random() < _DEFECTIVE:
                # Of its own pieces a defect would be too easy to undo.
                damaged, mask = self._damaged(image, images[(k + 1) % len(images)], rng)
            seen.append(damaged.astype(np.float32) / np.float32(255))
            good.append(image)
            masks.append(mask)
        return np.stack(seen), np.stack(good), np.stack(masks)

    def _rotated(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= _ROTATED or self.max_rotation == 0:
            return image
        angle = float(rng.uniform(-self.max_rotation, self.max_rotation))
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        turned = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        return np.asarray(turned, np.uint8)

    def _lit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.brightness == 0:
            return image
        factor = np.float32(1 + rng.uniform(-self.brightness, self.brightness))
        return np.rint(np.clip(image * factor, 0, 255)).astype(np.uint8)

    def _damaged(
        self, image: np.ndarray, other: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paint a defect; return the image and the defect's mask, which may be empty."""
        from pyimgano.synthesis import foreground_mask, perlin_mask

        allowed = foreground_mask(image[None]) if self.foreground_only else None
        if self.region is not None:
            both = self.region if allowed is None else allowed & self.region
            allowed = both if both.any() else self.region
        for _ in range(_ATTEMPTS):
            mask = perlin_mask(image.shape[:2], rng, max_rotation=_MASK_ROTATION)
            if allowed is not None:
                mask &= allowed
            if mask.any():
                break
        source = self.textures[int(rng.integers(len(self.textures)))]
        texture = source.draw(other.astype(np.float32) / np.float32(255), rng)
        kept = np.float32(rng.uniform(0, _MOST_OF_IMAGE))
        mixed = kept * image + (1 - kept) * texture
        return np.where(mask[:, :, None], mixed, image), mask


class DRAEMDetector(BaseTrainedDetector):
    """DRAEM: two networks trained to remove synthetic defects and to find where they were.

    Half of the training images get a synthetic defect: a foreign texture, more or less opaque,
    inside a random mask of Perlin noise. The first network, an autoencoder, learns to paint
    the image as it was before. The second, a U-Net, sees both that and the image, and learns
    where the defect is. It has seen no real defect, and finds those because the first network
    does not reproduce them either. The map is the probability of a defect, between 0 and 1. The
    image's score is the largest mean of the map in a square of 21 pixels, at 256 x 256 pixels;
    the square grows with the image.

    No pretrained weights are needed. Colors are scaled to [0, 1] and not by the statistics of
    ImageNet.

    Parameters
    ----------
    resize : int or (int, int), default=256
        Working height and width in pixels, which are brought to the nearest multiple of 32.
    width : int or (int, int), default=(128, 64)
        Channels at full resolution of the reconstructive and of the discriminative network; an
        integer is for both. The time of a step grows with their square and with the area of the
        image.
    textures : {"mixed", "procedural", "training"}, str or Path, default="mixed"
        Source of the textures of the synthetic defects: formulas, see
        :func:`~pyimgano.synthesis.procedural_texture`; shuffled pieces of other training images;
        half of each (``"mixed"``); or the images in a folder. The paper has photographs, those of
        the Describable Textures Dataset.
    foreground_only : bool, default=False
        Paint defects on the part alone where an image shows one on a plain ground, see
        :func:`~pyimgano.synthesis.foreground_mask`. For small parts, which few defects would hit
        otherwise. The networks then know no defects of the ground.
    max_rotation : float, default=90.0
        Three in ten training images are rotated by an angle between minus and plus this many
        degrees. Take 0 for parts that always lie in one direction and for textures whose
        direction matters.
    brightness : float, default=0.1
        Each training image is made brighter or darker by up to this share, drawn anew every time,
        so that the networks do not take other light for a defect. The paper does not;
        0 leaves it out.
    max_steps : int, default=18_000
        Steps of training. The paper's 700 epochs of 209 images are about 18 000.
    batch_size : int, default=8
        Images in a step.
    learning_rate : float, default=0.0001
        Of Adam. It rises over the first twentieth of the steps and falls to a hundredth along a
        cosine, where the paper multiplies it by 0.2 after 80 % and 90 % of the steps.
    max_grad_norm : float or None, default=None
        Largest norm of the gradient, which is scaled down to it.
    validation_fraction : float, default=0.2
        Share of the good images that are held out of training. The threshold rests on their
        scores; see :class:`BaseTrainedDetector`.
    early_stopping : bool, default=False
        End the training once the loss of the held-out images, with synthetic defects, has not
        fallen by 1 % in a quarter of ``max_steps``. The networks are those of the last step in
        any case.
    warm_start : bool, default=False
        Go on with the networks of the last ``fit`` instead of new ones.
    smoothing_sigma : float, default=0.0
        Standard deviation of the Gaussian smoothing of the maps, in working pixels. The paper
        has none. The scores do not depend on it.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the scores of the held-out images;
        a float has that share of the training images flagged.
    device : str, default="auto"
        Where the networks run: ``"cpu"``, ``"cuda"``, ... or ``"auto"`` for CUDA where there is
        one.
    precision : {"float32", "bfloat16"}, default="float32"
        Arithmetic of the networks.
    verbose : bool, default=False
        Show a progress bar with the loss.
    random_state : int, RandomState or None, default=0
        Seeds the networks, the choice of the images held out, and the defects. On one machine,
        with one number of threads, equal seeds give equal networks, bit for bit.

    Attributes
    ----------
    networks_ : dict of str to dict of str to ndarray
        The values of the ``"reconstructive"`` and of the ``"discriminative"`` network.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image: those of ``held_out_`` are scores of new images, the
        others, which were trained on, may be lower.
    held_out_ : ndarray of shape (n_images,), bool
        The training images that were held out.
    history_ : dict of str to ndarray
        Losses: ``step`` and ``loss``, ``held_out_step`` and ``held_out_loss``.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    The loss is the sum of the mean squared error of the reconstruction, one minus its structural
    similarity to the image without defect, and the focal loss of the map.

    The defaults are the paper's and need a GPU. On a CPU their training would take weeks, of which
    a ``UserWarning`` tells; smaller networks on smaller images, as in the example, take a quarter
    of a second for a step on one core (AMD EPYC).

    References
    ----------
    .. [1] V. Zavrtanik, M. Kristan, D. Skočaj, "DRAEM: A discriminatively trained reconstruction
       embedding for surface anomaly detection", ICCV 2021.

    Examples
    --------
    >>> from pyimgano.detectors import DRAEMDetector
    >>> detector = DRAEMDetector(
    ...     128, width=16, max_steps=600, batch_size=4, learning_rate=1e-3, verbose=True
    ... )
    >>> detector.fit(good_images).predict(new_images)  # doctest: +SKIP
    """

    _registry_name = "vision_draem"
    _folder_parameters = frozenset({"textures"})
    _parameter_constraints: dict = {
        **BaseTrainedDetector._parameter_constraints,
        "resize": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "width": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "textures": [str, os.PathLike],
        "foreground_only": ["boolean"],
        "max_rotation": [Interval(Real, 0, 180, closed="both")],
        "brightness": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        resize: int | Sequence[int] = 256,
        *,
        width: int | Sequence[int] = (128, 64),
        textures: str | os.PathLike[str] = "mixed",
        foreground_only: bool = False,
        max_rotation: float = 90.0,
        brightness: float = 0.1,
        max_steps: int = 18_000,
        batch_size: int = 8,
        learning_rate: float = 1e-4,
        max_grad_norm: float | None = None,
        validation_fraction: float = 0.2,
        early_stopping: bool = False,
        warm_start: bool = False,
        smoothing_sigma: float = 0.0,
        contamination: str | float = "auto",
        device: str = "auto",
        precision: str = "float32",
        verbose: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.resize = resize
        self.width = width
        self.textures = textures
        self.foreground_only = foreground_only
        self.max_rotation = max_rotation
        self.brightness = brightness
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.smoothing_sigma = smoothing_sigma
        self.contamination = contamination
        self.device = device
        self.precision = precision
        self.verbose = verbose
        self.random_state = random_state

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        (kind, shape), *others = state["_shapes"] or [("", ())]
        if others or kind != "uint8" or len(shape) != 3 or shape[2] != 3:
            fail(f"{cls.__name__}._shapes", "are not those of an image")
        if any(side % LEAST_SIDE for side in shape[:2]):
            fail(f"{cls.__name__}._shapes", "cannot be halved as often as the networks do it")

    # ---- images -----------------------------------------------------------------------
    def _work_size(self) -> tuple[int, int]:
        height, width = check_pair(self.resize, "resize")
        return _whole_levels(height), _whole_levels(width)

    def _prepare(self, images: list[np.ndarray]) -> Prepared:
        size = self._work_size()
        pixels = [resize_image(image, size) for image in images]
        grids = PatchGrids(
            np.empty((len(images) * size[0] * size[1], 0), np.float32),
            np.tile(size, (len(images), 1)),
            image_sizes=[image.shape[:2] for image in images],
        )
        return Prepared([(one,) for one in pixels], grids, list(map(_colors_of, pixels)))

    def _identity(self, *args: Any) -> str:
        parts = [super()._identity(*args)]
        if self.textures not in _SOURCES:
            parts += [
                f"{one.name} {one.stat().st_size} {one.stat().st_mtime_ns}"
                for one in image_files(Path(self.textures), recursive=False)
                if one.is_file()
            ]
        return "\n".join(parts)

    # ---- training ---------------------------------------------------------------------
    def _fit_validated(self, train: Any) -> None:
        from pyimgano.synthesis._textures import Textures

        region = None
        if self.roi_mask_ is not None:
            region = cells_inside(self.roi_mask_, self._work_size())
        self._painter = DefectPainter(
            tuple(map(Textures, _SOURCES.get(self.textures) or [Path(self.textures)])),
            self.foreground_only,
            self.max_rotation,
            self.brightness,
            region,
        )
        self._warn_if_slow()
        super()._fit_validated(train)
        del self.__dict__["_painter"]

    def _warn_if_slow(self) -> None:
        height, width = self._work_size()
        squares = np.square(self._widths(), dtype=np.float64).mean()
        seconds = _SECONDS * height * width * squares * self.batch_size * self.max_steps
        if seconds > 3600 and resolve_device(self.device) == "cpu":
            warn_user(
                f"training these networks will take about {seconds / 3600:.0f} hours of one CPU "
                "core. Take a GPU, or smaller networks on smaller images: DRAEMDetector(128, "
                "width=16, max_steps=600, batch_size=4, learning_rate=1e-3) takes minutes."
            )

    def _widths(self) -> tuple[int, int]:
        return check_pair(self.width, "width", sides="reconstructive, discriminative")

    def _build(self, shapes: Shapes, rng: np.random.Generator) -> dict[str, Any]:
        reconstructive, discriminative = self._widths()
        return {
            "reconstructive": reconstructive_network(reconstructive, rng),
            "discriminative": discriminative_network(discriminative, rng),
        }

    def _optimizer(self, networks: dict[str, Any]) -> Any:
        parameters = [p for network in networks.values() for p in network.parameters()]
        return torch_module().optim.Adam(parameters, self.learning_rate)

    def _rate(self, step: int, n_steps: int) -> float:
        rising = max(1, round(_WARM_UP * n_steps))
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, n_steps - rising)
        return _LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))

    def _collate(self, samples: list[Sample], step: Step) -> tuple[np.ndarray, ...]:
        return self._painter.batch([pixels for (pixels,) in samples], step.rng)

    def _loss(self, networks: dict[str, Any], batch: tuple[Any, ...], step: Step) -> Any:
        damaged, good, mask = batch
        damaged = damaged.permute(0, 3, 1, 2)
        good = good.permute(0, 3, 1, 2).float() / 255
        painted = reconstruct(networks["reconstructive"], damaged)
        logits = segment(networks["discriminative"], painted, damaged).float()
        painted = painted.float()
        error = (painted - good).square().mean()
        likeness = structural_similarity(painted, good).mean()
        return error + (1 - likeness) + focal_loss(logits, mask)

    # ---- scoring ----------------------------------------------------------------------
    def _map(self, networks: dict[str, Any], sample: tuple[Any, ...]) -> tuple[np.ndarray, float]:
        torch = torch_module()
        image = sample[0].permute(0, 3, 1, 2).float() / 255
        logits = segment(
            networks["discriminative"], reconstruct(networks["reconstructive"], image), image
        )
        heat = torch.softmax(logits.float(), dim=1)[0, 1].cpu().numpy()
        return heat, self._score_of(heat)

    def _score_of(self, heat: np.ndarray) -> float:
        """Largest mean of the map in a square; zero counts around the image and the region."""
        inside = heat
        if self.roi_mask_ is not None:
            inside = np.where(cells_inside(self.roi_mask_, heat.shape), heat, np.float32(0))
        half = int(_WINDOW * min(heat.shape) / 2)
        side = 2 * half + 1
        means = cv2.blur(inside, (side, side), borderType=cv2.BORDER_CONSTANT)
        return float(means.max())


def _whole_levels(side: int) -> int:
    """Nearest length that can be halved as often as the networks do it."""
    return max(1, (side + LEAST_SIDE // 2) // LEAST_SIDE) * LEAST_SIDE


def _colors_of(pixels: np.ndarray) -> np.ndarray:
    """Shares of the levels of each color in some pixels, ``(h, w, 3 * n_levels)``."""
    some = pixels[tuple(slice(None, None, max(1, n // _SAMPLED)) for n in pixels.shape[:2])]
    return _LEVELS[some].reshape(*some.shape[:2], -1)
