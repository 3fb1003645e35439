"""Compare the windows of each image with those of the median image: SSIM, correlation."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from pyimgano.detectors.templates._base import (
    BaseTemplateDetector,
    check_middle,
    median_of,
    median_without,
    middle_of,
    sorted_positions,
)
from pyimgano.exceptions import ParameterError
from pyimgano.utils._state import Array, Sizes, State

__all__ = ["NCCTemplateDetector", "SSIMTemplateDetector"]


class _Similarity(BaseTemplateDetector):
    """One minus a similarity of windows to those of the median image."""

    _parameter_constraints: dict = {
        **BaseTemplateDetector._parameter_constraints,
        "window": [Interval(Integral, 1, None, closed="left")],
    }
    window: int

    def __init__(
        self,
        *,
        resize: int | tuple[int, int] | None = 256,
        color: str = "gray",
        window: int = 15,
        max_shift: int = 1,
        alignment: str | None = None,
        motion: str = "translation",
        smoothing_sigma: float = 4.0,
        top_fraction: float = 0.0,
        contamination: str | float = "auto",
        random_state: Any = None,
    ) -> None:
        self.resize = resize
        self.color = color
        self.window = window
        self.max_shift = max_shift
        self.alignment = alignment
        self.motion = motion
        self.smoothing_sigma = smoothing_sigma
        self.top_fraction = top_fraction
        self.contamination = contamination
        self.random_state = random_state

    _fitted_state = {"middle_": Array("uint8 float32", "middle", "planes", "height", "width")}

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        check_middle(cls.__name__, state, sizes)

    def _similarity(
        self,
        mx: np.ndarray,
        my: np.ndarray,
        xx: np.ndarray,
        yy: np.ndarray,
        xy: np.ndarray,
        span: Any,
    ) -> np.ndarray:
        """Similarity from windows' means, variances and covariance, and the range of values."""
        raise NotImplementedError

    def _fit_steps(self, data: Any) -> None:
        super()._fit_steps(data)
        if self.window % 2 == 0:
            raise ParameterError(f"window={self.window} must be odd, so that it has a center.")

    def _learn(self, stack: np.ndarray) -> None:
        shape = stack.shape[1:]
        parts = [middle_of(ordered) for _, ordered in sorted_positions(stack)]
        self.middle_ = np.concatenate(parts, axis=1).reshape(-1, *shape)

    @property
    def template_(self) -> np.ndarray:
        """The median image, ``shape_``, float32."""
        check_is_fitted(self)
        return median_of(self.middle_).astype(np.float32)

    def _model(self, planes: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The template at each shift, with the mean and variance of its windows."""
        template = self.template_ if planes is None else median_without(self.middle_, planes)
        if self.input_kind_ != "images":
            template = template.astype(np.float64)
            mean = self._window_mean(template)
            return [(template, mean, self._window_mean((template - mean) ** 2))]
        k, (height, width) = self.max_shift, self.shape_[1:]
        wide = np.pad(template.astype(np.float32), ((0, 0), (k, k), (k, k)), mode="edge")
        model = []
        for down in range(2 * k + 1):
            for right in range(2 * k + 1):
                shifted = wide[:, down : down + height, right : right + width]
                mean = self._window_mean(shifted)
                model.append((shifted, mean, self._window_mean(shifted * shifted) - mean * mean))
        return model

    def _window_mean(self, planes: np.ndarray) -> np.ndarray:
        if self.input_kind_ != "images":  # a patch is one window over its features
            return planes.mean(axis=0, keepdims=True)
        size = (self.window, self.window)
        return np.stack([cv2.blur(p, size, borderType=cv2.BORDER_REFLECT) for p in planes])

    def _deviation(self, planes: np.ndarray, model: Any) -> np.ndarray:
        template, my, yy = model[0]
        x = planes.astype(template.dtype)
        mx = self._window_mean(x)
        if self.input_kind_ != "images":
            span = np.abs(template).max(axis=0, keepdims=True)
            span[span == 0] = 1.0
            xx, xy = self._window_mean((x - mx) ** 2), self._window_mean((x - mx) * (template - my))
            return 1.0 - self._similarity(mx, my, xx, yy, xy, span)[0]
        xx = self._window_mean(x * x) - mx * mx
        best = np.full(x.shape[1:], -np.inf, dtype=np.float32)
        for template, my, yy in model:
            xy = self._window_mean(x * template) - mx * my
            similarity = self._similarity(mx, my, xx, yy, xy, 255.0)
            np.maximum(best, similarity.mean(axis=0), out=best)
        return 1.0 - best

    def _lack(self, deviation: np.ndarray, model: Any) -> tuple[float, float]:
        """Sum of the deviations, each by the variance of the template's window, and of variances.

        An image without any pattern has a deviation of about 1 wherever the template has one, and
        good images have that in places: the largest deviation does not tell them apart, the
        average does.
        """
        if self.input_kind_ != "images":
            return 0.0, 0.0
        weight = np.maximum(self._unmoved(model)[2].mean(axis=0, dtype=np.float64), 0.0)
        if self._region is not None:
            weight *= self._region
        # Less than a gray level: nothing but rounding and noise.
        weight[weight < 1.0] = 0.0
        return float((deviation * weight).sum()), float(weight.sum())

    def _lack_of_blank(self, model: Any) -> tuple[float, float]:
        if self.input_kind_ != "images":
            return 0.0, 0.0
        _, mean, variance = self._unmoved(model)
        nothing = np.zeros_like(mean)
        similarity = self._similarity(mean, mean, nothing, variance, nothing, 255.0)
        return self._lack(1.0 - similarity.mean(axis=0), model)

    def _unmoved(self, model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return model[len(model) // 2]  # of all shifts, the one by nothing


class SSIMTemplateDetector(_Similarity):
    """Structural similarity to the median image: one minus SSIM at every pixel.

    Compares mean, contrast and pattern of small windows [1]_ with those of the median of the good
    images; unlike pixel statistics it does not learn how much good parts vary. For parts in
    a fixed pose with much texture, print or edges. The map is the mean of 1 - SSIM over the
    channels: 0 for windows that equal the template's, 1 for unrelated ones, up to 2 for
    inverted ones.

    On feature rows, the row is one window over its features, whose constants follow from the
    largest absolute value of the template: right for profiles, spectra and histograms, not for
    tables of unlike columns. On patch grids each patch is such a window.

    Parameters
    ----------
    resize : int, (int, int) or None, default=256
        Working height and width in pixels; an int gives both. None compares the images as they
        are, which must then all have one size. Maps come back in the pixels of the input.
    color : {"lab", "rgb", "gray"}, default="gray"
        Channels that are compared, each with 256 levels: CIE Lab keeps lightness apart from
        color, so that a stain shows that is no brighter than the part.
    window : int, default=15
        Side of the square windows, odd, in working pixels. They are averaged by running sums
        [2]_, so that their size costs no time.
    max_shift : int, default=1
        Small shifts to forgive, in working pixels: the best similarity over all whole shifts
        within this distance counts, pixel by pixel. Time grows as ``(2 * max_shift + 1) ** 2``.
    alignment : {"phase_correlation", "ecc"} or None, default=None
        How to move an image to the reference before it is compared [3]_ [4]_: by phase
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
    template_ : ndarray of shape (n_planes, height, width), float32
        The median image.
    shape_ : tuple of int
        Number of planes (channels, or features of a patch), height and width compared.
    reference_ : ndarray of shape (height, width), uint8
        What images are aligned to; absent without alignment.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image against the median of the others.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    The paper's constants are used (0.01 and 0.03 of 255 levels), with square windows in place of
    Gaussian ones. Training scores are those of a detector fitted without the image, exactly.
    Training images wait on disk at working size, a byte per pixel and channel.

    An image that lacks the template's pattern as a whole, such as a black, white or noisy one, may
    deviate nowhere more than good images do somewhere, since maps end at about 1 for unrelated
    windows. The deviation averaged over the template's windows, each by its variance, tells them
    apart. Where it is above half way between the highest of the training images and that of a
    blank image, the score is at least twice the highest training score, and so is the whole map,
    unless the score was as high by itself.

    Alignment is that of :class:`~pyimgano.detectors.PixelGaussianDetector`, see its Notes.

    On MVTec AD's bottle, 209 training images of 256 x 256 pixels, image AUROC is 0.987 and pixel
    AUROC 0.945; ``fit`` takes 2 s of CPU time and an image 6 ms; without ``max_shift`` 0.925 and
    0.918 in 2 ms. On its screw, which lies in any direction, image AUROC is 0.44: no better than
    guessing. ``window`` and ``max_shift`` were chosen on bottle: sharp edges that are off by less
    than a pixel ruin the similarity of windows as small as the paper's. Larger windows do better
    still there, but blur the maps.

    References
    ----------
    .. [1] Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image Quality Assessment: From
       Error Visibility to Structural Similarity", IEEE Transactions on Image Processing 13(4),
       2004.
    .. [2] J. P. Lewis, "Fast Template Matching", Vision Interface, 1995.
    .. [3] C. D. Kuglin, D. C. Hines, "The Phase Correlation Image Alignment Method", IEEE
       Conference on Cybernetics and Society, 1975.
    .. [4] G. D. Evangelidis, E. Z. Psarakis, "Parametric Image Alignment Using Enhanced
       Correlation Coefficient Maximization", PAMI 30(10), 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import SSIMTemplateDetector
    >>> rng = np.random.RandomState(0)
    >>> part = rng.randint(0, 200, size=(32, 32, 3))
    >>> good = (part + rng.randint(0, 9, size=(20, 32, 32, 3))).astype(np.uint8)
    >>> detector = SSIMTemplateDetector(resize=None, window=7).fit(good)
    >>> detector.predict([good[0], good[0][::-1]])
    array([ 1, -1])
    """

    _registry_name = "vision_ssim_template"

    def _similarity(self, mx, my, xx, yy, xy, span) -> np.ndarray:
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
        structure = (2 * xy + c2) / (xx + yy + c2)
        ssim = luminance * structure
        if self.input_kind_ != "images":  # features can be negative: two wrongs make no right
            ssim = np.where(luminance < 0, -np.abs(ssim), ssim)
        return ssim


class NCCTemplateDetector(_Similarity):
    """Normalized cross-correlation with the median image: one minus the local coefficient.

    Compares the pattern of small windows with that of the median of the good images, whatever
    their brightness and contrast, so that changing light does no harm. Uniformly darker
    stains, which leave the pattern as it is, show at their rims only. The map is the mean of
    1 - NCC over the channels: 0 for the same pattern, 1 for unrelated, 2 for inverted ones.

    On feature rows, the row is one window over its features: correlation with the median row, right
    for profiles, spectra and histograms, not for tables of unlike columns, and blind with a
    single feature. On patch grids each patch is such a window.

    Parameters
    ----------
    resize : int, (int, int) or None, default=256
        Working height and width in pixels; an int gives both. None compares the images as they
        are, which must then all have one size. Maps come back in the pixels of the input.
    color : {"lab", "rgb", "gray"}, default="gray"
        Channels that are compared, each with 256 levels: CIE Lab keeps lightness apart from
        color, so that a stain shows that is no brighter than the part.
    window : int, default=15
        Side of the square windows, odd, in working pixels. They are averaged by running sums
        [1]_, so that their size costs no time.
    max_shift : int, default=1
        Small shifts to forgive, in working pixels: the best similarity over all whole shifts
        within this distance counts, pixel by pixel. Time grows as ``(2 * max_shift + 1) ** 2``.
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
    template_ : ndarray of shape (n_planes, height, width), float32
        The median image.
    shape_ : tuple of int
        Number of planes (channels, or features of a patch), height and width compared.
    reference_ : ndarray of shape (height, width), uint8
        What images are aligned to; absent without alignment.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image against the median of the others.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    Variances and covariance are raised by the square of 0.02 times 255, about 5 gray levels (times
    the largest absolute value of the template on rows and grids): pattern fainter than that is
    noise, and two flat windows are alike. Gain and offset cancel where contrast is well above.
    Training scores are those of a detector fitted without the image, exactly. Training
    images wait on disk at working size, a byte per pixel and channel.

    An image that lacks the template's pattern as a whole, such as a black, white or noisy one, may
    deviate nowhere more than good images do somewhere, since maps end at about 1 for unrelated
    windows. The deviation averaged over the template's windows, each by its variance, tells them
    apart. Where it is above half way between the highest of the training images and that of a
    blank image, the score is at least twice the highest training score, and so is the whole map,
    unless the score was as high by itself.

    Alignment is that of :class:`~pyimgano.detectors.PixelGaussianDetector`, see its Notes.

    On MVTec AD's bottle, 209 training images of 256 x 256 pixels, image AUROC is 0.982 and pixel
    AUROC 0.935; ``fit`` takes 2 s of CPU time and an image 6 ms; without ``max_shift`` 0.931 and
    0.904 in 2 ms. On its screw, which lies in any direction, image AUROC is 0.45: no better than
    guessing. Defaults are those of :class:`SSIMTemplateDetector`.

    References
    ----------
    .. [1] J. P. Lewis, "Fast Template Matching", Vision Interface, 1995.
    .. [2] C. D. Kuglin, D. C. Hines, "The Phase Correlation Image Alignment Method", IEEE
       Conference on Cybernetics and Society, 1975.
    .. [3] G. D. Evangelidis, E. Z. Psarakis, "Parametric Image Alignment Using Enhanced
       Correlation Coefficient Maximization", PAMI 30(10), 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import NCCTemplateDetector
    >>> rng = np.random.RandomState(0)
    >>> part = rng.randint(0, 200, size=(32, 32, 3))
    >>> good = (part + rng.randint(0, 9, size=(20, 32, 32, 3))).astype(np.uint8)
    >>> detector = NCCTemplateDetector(resize=None, window=7).fit(good)
    >>> dim = (0.7 * good[0] + 10).astype(np.uint8)
    >>> -detector.score_samples([dim, good[0][::-1]]).round(1)
    array([0. , 0.8])
    """

    _registry_name = "vision_ncc_template"

    def _similarity(self, mx, my, xx, yy, xy, span) -> np.ndarray:
        floor = (0.02 * span) ** 2
        return (xy + floor) / np.sqrt((np.maximum(xx, 0) + floor) * (np.maximum(yy, 0) + floor))
