"""Compare each pixel of an image with those of the good images: Gaussian, median and MAD."""

from __future__ import annotations

from numbers import Real
from typing import Any

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval

from pyimgano.detectors.templates._base import (
    BaseTemplateDetector,
    check_middle,
    median_of,
    median_without,
    middle_of,
    nearest,
    sorted_positions,
)
from pyimgano.utils._state import Array, Number, Sizes, State, fail

__all__ = ["PixelGaussianDetector", "PixelMADDetector"]

# A normal distribution's standard deviation in units of its median absolute deviation.
_SIGMAS_PER_MAD = 1.4826022185056018


class _PixelStatistics(BaseTemplateDetector):
    """Deviation from a location in units of a scale, at every pixel."""

    _parameter_constraints: dict = {
        **BaseTemplateDetector._parameter_constraints,
        "noise_sigma": [Interval(Real, 0, 255, closed="both")],
    }
    noise_sigma: float

    def __init__(
        self,
        *,
        resize: int | tuple[int, int] | None = 256,
        color: str = "lab",
        noise_sigma: float = 4.0,
        max_shift: int = 0,
        alignment: str | None = None,
        motion: str = "translation",
        smoothing_sigma: float = 4.0,
        top_fraction: float = 0.0,
        contamination: str | float = "auto",
        random_state: Any = None,
    ) -> None:
        self.resize = resize
        self.color = color
        self.noise_sigma = noise_sigma
        self.max_shift = max_shift
        self.alignment = alignment
        self.motion = motion
        self.smoothing_sigma = smoothing_sigma
        self.top_fraction = top_fraction
        self.contamination = contamination
        self.random_state = random_state

    def _location_and_variance(self, planes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _model(self, planes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Range of the template and scale that a pixel is compared with."""
        location, variance = self._location_and_variance(planes)
        if self.input_kind_ == "images":
            dtype: Any = np.float32
            scale = np.sqrt(variance + max(self.noise_sigma, 1e-6) ** 2).astype(dtype)
        else:
            dtype = np.float64  # squares of features of any size
            scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        lower = upper = np.ascontiguousarray(location, dtype=dtype)
        if self.max_shift and lower[0].size > 1:
            around = np.ones((2 * self.max_shift + 1,) * 2, dtype=np.uint8)
            lower = np.stack([cv2.erode(plane, around) for plane in lower])
            upper = np.stack([cv2.dilate(plane, around) for plane in upper])
            scale = np.stack([cv2.dilate(plane, around) for plane in scale])
        return lower, upper, 1.0 / scale

    def _deviation(self, planes: np.ndarray, model: Any) -> np.ndarray:
        lower, upper, per_scale = model
        values = planes.astype(lower.dtype)
        if lower is upper:
            z = np.subtract(values, lower, out=values)
        else:
            z = lower - values
            np.subtract(values, upper, out=values)
            np.maximum(z, values, out=z)
            np.maximum(z, 0, out=z)
        z *= per_scale
        np.multiply(z, z, out=z)
        total = z.mean(axis=0)
        return np.sqrt(total, out=total)


class PixelGaussianDetector(_PixelStatistics):
    """A normal distribution at every pixel: how many standard deviations it is off.

    For parts that lie in a fixed pose under constant light, such as those in a fixture: fitted in
    a second, a millisecond or two per image, no weights. Parts that turn or come in
    several kinds need another detector. A pixel's deviation is the root mean square
    of its channels' z-scores.

    On feature rows it is the root mean square of the features' z-scores, that is a Gaussian with
    diagonal covariance; on patch grids the same at each position. Features that do not vary
    have scale 1 there, as in scikit-learn's ``StandardScaler``.

    Parameters
    ----------
    resize : int, (int, int) or None, default=256
        Working height and width in pixels; an int gives both. None compares the images as they
        are, which must then all have one size. Maps come back in the pixels of the input.
    color : {"lab", "rgb", "gray"}, default="lab"
        Channels that are compared, each with 256 levels: CIE Lab keeps lightness apart from
        color, so that a stain shows that is no brighter than the part.
    noise_sigma : float, default=4.0
        Standard deviation in gray levels that no pixel of an image is trusted to fall below;
        added in quadrature. It stands for the camera's noise and keeps calm background
        from making an alarm of a level or two. Not applied to patch grids and rows.
    max_shift : int, default=0
        Small shifts to forgive, in working pixels: a pixel is compared with the range of the
        template, and the largest scale, within this distance. This forgives parts of a pixel
        too, and costs nothing; thin lines narrower than the shift are lost.
    alignment : {"phase_correlation", "ecc"} or None, default=None
        How to move an image to the reference before it is compared [1]_ [2]_: by phase
        correlation, which finds translations, or by maximizing the correlation coefficient
        (ECC) step by step, for any ``motion``. See Notes.
    motion : {"translation", "euclidean", "affine"}, default="translation"
        What ECC may do to an image: shift it, turn it as well, or shear and scale it too.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in working pixels; 0 leaves
        it out.
    top_fraction : float in [0, 1], default=0
        The image's score is the mean of this fraction of the smoothed map's largest values; 0 is
        the largest value.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged.
    random_state : ignored
        Nothing is random here.

    Attributes
    ----------
    mean_, variance_ : ndarray of shape (n_planes, height, width), float64
        Mean and variance (of n - 1 degrees of freedom) of each pixel.
    n_samples_ : int
        Number of training samples.
    shape_ : tuple of int
        Number of planes (channels, or features of a patch), height and width compared.
    reference_ : ndarray of shape (height, width), uint8
        What images are aligned to; absent without alignment.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image under mean and variance without it.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    Mean and variance without one image follow from those of all in closed form; training scores
    are those of a detector fitted without the image, up to rounding. Training images wait on
    disk at working size; memory does not depend on their number. Copies of one image, and the
    tiles that a :class:`~pyimgano.tiling.TilingTransformer` cuts one into, are left out by
    learning anew from the others, which takes as long as ``fit`` for each.

    **Alignment.** The reference is the training image nearest to the mean of all. A motion is
    used only if it raises the correlation with the reference and leaves half of it in view.
    Where ECC does not converge, which a damaged part can bring about, or a motion takes most of
    the part out of view, the image is compared as it lies, with an
    :class:`~pyimgano.exceptions.AlignmentWarning`: it gets the score of a part in the wrong place,
    not that of a good one, and the line does not stop. Of what a motion brings into the frame
    from outside the image nothing is known; it does not count, and where the map has nothing
    to say it has its minimum. A region of interest (``roi_mask`` of ``fit``) belongs to the
    template and moves with the part; the whole image is aligned. Out-of-sample scores are given
    the reference: when its own image is left out, the others remain aligned to it.

    On MVTec AD's bottle, 209 training images of 256 x 256 pixels, image AUROC is 0.979 and pixel
    AUROC 0.935; ``fit`` takes 1.3 s of CPU time and an image 1.5 ms (3 ms from a PNG file). On its
    screw, which lies in any direction, image AUROC is 0.35: worse than guessing. The defaults
    are the plain method. Lab instead of RGB was chosen on synthetic parts, where it finds
    more, and ``noise_sigma`` as a few times a camera's noise; on bottle 2 does a little worse
    and 8 a little better.

    References
    ----------
    .. [1] C. D. Kuglin, D. C. Hines, "The Phase Correlation Image Alignment Method", IEEE
       Conference on Cybernetics and Society, 1975.
    .. [2] G. D. Evangelidis, E. Z. Psarakis, "Parametric Image Alignment Using Enhanced
       Correlation Coefficient Maximization", PAMI 30(10), 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PixelGaussianDetector
    >>> rng = np.random.RandomState(0)
    >>> good = rng.normal(100, 3, size=(30, 32, 32, 3)).astype(np.uint8)
    >>> bad = good[:1].copy()
    >>> bad[0, 10:16, 20:26] += 40
    >>> detector = PixelGaussianDetector(resize=None, smoothing_sigma=1).fit(good)
    >>> detector.predict(bad)
    array([-1])
    >>> np.unravel_index(detector.anomaly_map(bad)[0].argmax(), (32, 32)) > np.array([9, 19])
    array([ True,  True])
    """

    _registry_name = "vision_pixel_gaussian"
    _paper = None  # its references are those of the alignment

    _n_others = 2

    _fitted_state = {
        "n_samples_": Number(3, whole=True),
        "mean_": Array("float64", "planes", "height", "width"),
        "variance_": Array("float64", "planes", "height", "width", low=0.0),
    }

    def _learn(self, stack: np.ndarray) -> None:
        n = len(stack)
        mean = np.zeros(stack.shape[1:])
        for planes in stack:
            mean += planes
        mean /= n
        squares = np.zeros_like(mean)
        for planes in stack:
            away = planes - mean
            away *= away
            squares += away
        self.n_samples_, self.mean_ = n, mean
        self.variance_ = _variance(squares, squares, mean, n)

    def _location_and_variance(self, planes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        n, mean, variance = self.n_samples_, self.mean_, self.variance_
        if planes is None:
            return mean, variance
        away = planes - mean
        squares = variance * (n - 1)
        rest = squares - away * away * (n / (n - 1))
        return mean - away / (n - 1), _variance(rest, squares, mean, n - 1)


def _variance(squares: np.ndarray, before: np.ndarray, mean: np.ndarray, n: int) -> np.ndarray:
    """Sum of squared deviations to variance; 0 where it is all rounding error."""
    epsilon = np.finfo(np.float64).eps * (n + 1)
    rounding = epsilon * (before + epsilon * mean * mean)
    return np.where(squares > rounding, squares, 0.0) / (n - 1)


class PixelMADDetector(_PixelStatistics):
    """Median and median absolute deviation at every pixel: robust z-scores.

    :class:`PixelGaussianDetector` for training sets that may hold a few bad images: up to half of
    the values at a pixel can be anything without moving median and MAD [1]_ far. MAD is scaled
    to a normal distribution's standard deviation.

    On feature rows it is the root mean square of the features' robust z-scores; on patch grids the
    same at each position. Features whose MAD is 0 have scale 1 there.

    Parameters
    ----------
    resize : int, (int, int) or None, default=256
        Working height and width in pixels; an int gives both. None compares the images as they
        are, which must then all have one size. Maps come back in the pixels of the input.
    color : {"lab", "rgb", "gray"}, default="lab"
        Channels that are compared, each with 256 levels: CIE Lab keeps lightness apart from
        color, so that a stain shows that is no brighter than the part.
    noise_sigma : float, default=4.0
        Standard deviation in gray levels that no pixel of an image is trusted to fall below;
        added in quadrature. It stands for the camera's noise and keeps calm background
        from making an alarm of a level or two. Not applied to patch grids and rows.
    max_shift : int, default=0
        Small shifts to forgive, in working pixels: a pixel is compared with the range of the
        template, and the largest scale, within this distance. This forgives parts of a pixel
        too, and costs nothing; thin lines narrower than the shift are lost.
    alignment : {"phase_correlation", "ecc"} or None, default=None
        How to move an image to the reference before it is compared [2]_ [3]_: by phase
        correlation, which finds translations, or by maximizing the correlation coefficient
        (ECC) step by step, for any ``motion``. See Notes.
    motion : {"translation", "euclidean", "affine"}, default="translation"
        What ECC may do to an image: shift it, turn it as well, or shear and scale it too.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in working pixels; 0 leaves
        it out.
    top_fraction : float in [0, 1], default=0
        The image's score is the mean of this fraction of the smoothed map's largest values; 0 is
        the largest value.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged.
    random_state : ignored
        Nothing is random here.

    Attributes
    ----------
    middle_ : ndarray of shape (2 or 3, n_planes, height, width)
        The values in the middle of each pixel's sorted ones, two of an even number, three of an
        odd one: the median, and what it is without any one image.
    spread_ : ndarray of shape (3 or 4, 2 or 3, n_planes, height, width)
        The same for the absolute deviations from the median and from each of those.
    shape_ : tuple of int
        Number of planes (channels, or features of a patch), height and width compared.
    reference_ : ndarray of shape (height, width), uint8
        What images are aligned to; absent without alignment.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image under median and MAD without it.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    Leaving one image out moves a median to a neighbor in rank, so that the few values in the
    middle are all that exact out-of-sample scores need. Training images wait on disk at
    working size, ``n_images * height * width * 3`` bytes; memory does not depend on their
    number. The state has about 14 bytes per value of the template for an odd number of images.

    Alignment is that of :class:`~pyimgano.detectors.PixelGaussianDetector`, see its Notes.

    On MVTec AD's bottle, 209 training images of 256 x 256 pixels, image AUROC is 0.959 and pixel
    AUROC 0.924; ``fit`` takes 3.5 s of CPU time and an image 1.3 ms. On its screw, which lies in
    any direction, image AUROC is 0.28: worse than guessing. Defaults are those of
    :class:`~pyimgano.detectors.PixelGaussianDetector`.

    References
    ----------
    .. [1] F. R. Hampel, "The Influence Curve and Its Role in Robust Estimation", JASA 69, 1974.
    .. [2] C. D. Kuglin, D. C. Hines, "The Phase Correlation Image Alignment Method", IEEE
       Conference on Cybernetics and Society, 1975.
    .. [3] G. D. Evangelidis, E. Z. Psarakis, "Parametric Image Alignment Using Enhanced
       Correlation Coefficient Maximization", PAMI 30(10), 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import PixelMADDetector
    >>> rng = np.random.RandomState(0)
    >>> images = rng.normal(100, 3, size=(30, 32, 32, 3)).astype(np.uint8)
    >>> images[:4, 10:16, 20:26] += 40  # the same scratch on four images that went unnoticed
    >>> detector = PixelMADDetector(resize=None, contamination=0.2).fit(images)
    >>> detector.predict(images[:6])
    array([-1, -1, -1, -1,  1,  1])
    """

    _registry_name = "vision_pixel_mad"

    _n_others = 2

    _fitted_state = {
        "middle_": Array("uint8 float32", "middle", "planes", "height", "width"),
        "spread_": Array("float16 float32", None, "middle", "planes", "height", "width", low=0.0),
    }

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        check_middle(cls.__name__, state, sizes)
        if len(state["spread_"]) != sizes["middle"] + 1:
            fail(f"{cls.__name__}.spread_", "does not go with middle_")

    def _learn(self, stack: np.ndarray) -> None:
        n, shape = len(stack), stack.shape[1:]
        size = int(np.prod(shape))
        small = np.float16 if stack.dtype == np.uint8 else np.float32  # halves to 255: exact
        n_middle = 3 if n % 2 else 2
        middle = np.empty((n_middle, size), dtype=stack.dtype)
        # First index: around the median of all, and around each median without one.
        spread = np.empty((n_middle + 1, n_middle, size), dtype=small)
        ranks = range(1, n + 1)[(n - 1) // 2 - n % 2 : n // 2 + 1 + n % 2]
        for part, ordered in sorted_positions(stack):
            ordered = ordered.astype(np.float32)
            middle[:, part] = central = middle_of(ordered)
            for j, center in enumerate([median_of(central), *_medians_without_one(central)]):
                for rank, k in enumerate(ranks):
                    spread[j, rank, part] = nearest(ordered, center, k)
        self.middle_ = middle.reshape(-1, *shape)
        self.spread_ = spread.reshape(n_middle + 1, n_middle, *shape)

    def _location_and_variance(self, planes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        middle = self.middle_.astype(np.float32)
        if planes is None:
            median = median_of(middle)
            mad = median_of(self.spread_[0].astype(np.float32))
        else:
            median = median_without(middle, planes)
            which = _which_median(middle, planes)[None, None]
            spread = np.take_along_axis(self.spread_[1:], which, axis=0)[0].astype(np.float32)
            mad = median_without(spread, np.abs(planes - median))
        return median, (_SIGMAS_PER_MAD * mad.astype(np.float64)) ** 2


def _medians_without_one(middle: np.ndarray) -> list[np.ndarray]:
    """The values that the median can take when one member is left out."""
    if len(middle) == 2:
        return [middle[1], middle[0]]
    low, mid, high = middle
    return [median_of(np.stack(pair)) for pair in ((mid, high), (low, high), (low, mid))]


def _which_median(middle: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Index into ``_medians_without_one`` of the median without ``value``."""
    if len(middle) == 2:
        return (value > middle[0]).astype(np.intp)
    return 1 + (value > middle[1]).astype(np.intp) - (value < middle[1])
