"""Steps that crop or move images; maps are put back into the pixels of the image that came in."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.exceptions import ImageFormatError, PreprocessingError
from pyimgano.inputs._placement import Placement
from pyimgano.inputs._sequence import _Collection
from pyimgano.preprocessing._base import BasePreprocessor
from pyimgano.preprocessing._registration import ALIGNMENTS, MOTIONS, Registrar, warp_image
from pyimgano.utils._state import Array, MayLack, Sizes, State, fail

__all__ = ["ImageAlignment", "RegionCrop"]

_FIT_BLOCK = 8


class RegionCrop(BasePreprocessor):
    """Cut out the region to inspect, the same in all images.

    The detector sees nothing else, at the resolution that its working size gives to the region
    alone. Anomaly maps come back in the pixels of the whole image; what was cut off gets the
    map's minimum.

    Parameters
    ----------
    top, left : int, default=0
        Row and column at which the region begins, in pixels, from 0.
    height, width : int, default=None
        Size of the region in pixels, at least 1; None goes up to the border of the image.

    Raises
    ------
    ImageFormatError
        From ``transform``, for an image that the region does not lie in.

    Notes
    -----
    Nothing is learned. A crop differs from ``roi_mask`` of a detector, which compares whole images
    and ignores what is outside a region of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from pyimgano import anomaly_map
    >>> from pyimgano.detectors import PixelGaussianDetector
    >>> from pyimgano.preprocessing import RegionCrop
    >>> X = np.random.RandomState(0).randint(0, 256, size=(4, 48, 64, 3)).astype(np.uint8)
    >>> pipe = make_pipeline(
    ...     RegionCrop(top=8, left=16, height=32, width=40), PixelGaussianDetector(resize=None)
    ... ).fit(X)
    >>> heat = anomaly_map(pipe, X)
    >>> heat.shape, bool((heat[:, :8].max(axis=(1, 2)) == heat.min(axis=(1, 2))).all())
    ((4, 48, 64), True)
    """

    _step_name = "crop"
    _moves = True
    _parameter_constraints: dict = {
        "top": [Interval(Integral, 0, None, closed="left")],
        "left": [Interval(Integral, 0, None, closed="left")],
        "height": [Interval(Integral, 1, None, closed="left"), None],
        "width": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        top: int = 0,
        left: int = 0,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        self.top = top
        self.left = left
        self.height = height
        self.width = width

    def _size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        height = size[0] - self.top if self.height is None else self.height
        width = size[1] - self.left if self.width is None else self.width
        if min(height, width) < 1 or self.top + height > size[0] or self.left + width > size[1]:
            wanted = [
                f"{what} {start} {'on' if side is None else f'to {start + side - 1}'}"
                for what, start, side in (
                    ("rows", self.top, self.height),
                    ("columns", self.left, self.width),
                )
            ]
            raise ImageFormatError(
                f"the region, {' and '.join(wanted)}, does not lie in an image of {size[0]} x "
                f"{size[1]} pixels (height x width): set top, left, height and width in the pixels "
                "of the images, which must all be large enough."
            )
        return int(height), int(width)

    def _prepare(self, image: np.ndarray) -> tuple[np.ndarray, Placement | None]:
        size = image.shape[0], image.shape[1]
        height, width = self._size_of(size)
        part = image[self.top : self.top + height, self.left : self.left + width].copy()
        motion = np.array([[1.0, 0.0, self.left], [0.0, 1.0, self.top]])
        return part, Placement(motion, size)


class ImageAlignment(BasePreprocessor):
    """Move each image to where the part lies in a reference image.

    The reference is learned in ``fit``: the training image that is most like their mean. An image
    is moved if that raises its correlation with the reference, and otherwise stays as it lies.
    What is moved into view from outside repeats the border. Anomaly maps come back in the pixels
    of the image as it was before.

    Parameters
    ----------
    method : {"ecc", "phase_correlation"}, default="ecc"
        Phase correlation [1]_ finds a translation from the Fourier spectra at once. ECC [2]_
        maximizes the correlation coefficient step by step, for any ``motion``.
    motion : {"translation", "euclidean", "affine"}, default="euclidean"
        What may differ between an image and the reference: the position; the direction as
        well; or scale and shear as well. ``"phase_correlation"`` takes ``"translation"`` only.
    n_directions : int, default=1
        Directions, evenly spaced over a full turn, that are tried before ECC starts from the
        best one; from 1 to 360. ECC by itself finds rotations of some 10 to 20 degrees; 36
        directions find a part in any. Time grows with it.
    min_correlation : float, default=0.5
        Correlation coefficient with the reference, from -1 to 1, that an image must have after
        alignment, in the area common to both. An image below it was not brought to the
        reference.

    Attributes
    ----------
    reference_ : ndarray of shape (height, width), uint8
        The reference image, in gray.

    Raises
    ------
    PreprocessingError
        From ``transform``, for an image that cannot be aligned. It gets no score, and none is
        compared as it lies.
    ImageFormatError
        For an image of another size than the reference.

    See Also
    --------
    pyimgano.detectors.SSIMTemplateDetector : Template detectors align images by themselves.

    Notes
    -----
    Alignment is done on gray images and applied to all channels. ``fit`` reads the training images
    twice. One that cannot be aligned is an error in the ``fit`` of the pipeline as well.

    References
    ----------
    .. [1] C. D. Kuglin, D. C. Hines, "The Phase Correlation Image Alignment Method", IEEE
       Conference on Cybernetics and Society, 1975.
    .. [2] G. D. Evangelidis, E. Z. Psarakis, "Parametric Image Alignment Using Enhanced
       Correlation Coefficient Maximization", PAMI 30(10), 2008.

    Examples
    --------
    >>> import cv2, numpy as np
    >>> from pyimgano.preprocessing import ImageAlignment
    >>> scene = np.random.RandomState(0).randint(0, 256, size=(80, 80, 3)).astype(np.uint8)
    >>> scene = cv2.GaussianBlur(scene, (0, 0), 2)
    >>> X = np.stack([scene[k : k + 64, 8:72] for k in (8, 8, 11)])  # the last: 3 rows farther
    >>> aligned = ImageAlignment(motion="translation").fit_transform(X)
    >>> off = np.abs(aligned[2][4:-4].astype(int) - X[0][4:-4])
    >>> bool(off.mean() < 2), bool(np.abs(X[2].astype(int) - X[0]).mean() > 5)
    (True, True)
    """

    _step_name = "align"
    _moves = True
    _parameter_constraints: dict = {
        "method": [StrOptions(set(ALIGNMENTS))],
        "motion": [StrOptions(set(MOTIONS))],
        "n_directions": [Interval(Integral, 1, 360, closed="both")],
        "min_correlation": [Interval(Real, -1, 1, closed="both")],
    }
    _fitted_state = {"reference_": MayLack(Array("uint8", None, None, contiguous=True))}

    reference_: np.ndarray

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        if "reference_" in state and state["reference_"].size == 0:
            fail(f"{cls.__name__}.reference_", "has no pixels")

    def __init__(
        self,
        method: str = "ecc",
        motion: str = "euclidean",
        *,
        n_directions: int = 1,
        min_correlation: float = 0.5,
    ) -> None:
        self.method = method
        self.motion = motion
        self.n_directions = n_directions
        self.min_correlation = min_correlation

    @property
    def _needs_fit(self) -> bool:
        return True

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.method == "phase_correlation" and self.motion != "translation":
            raise ValueError(
                f"motion={self.motion!r} needs method='ecc': phase correlation finds translations "
                "only."
            )
        if self.n_directions > 1 and (self.method != "ecc" or self.motion == "translation"):
            raise ValueError(
                f"n_directions={self.n_directions} needs method='ecc' and motion='euclidean' or "
                "'affine': a translation does not turn images."
            )

    def _fit_images(self, images: _Collection) -> None:
        total: Any = None
        for start, block in _blocks_of(images):
            for i, image in enumerate(block, start):
                gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
                if total is None:
                    total = np.zeros(gray.shape)
                elif gray.shape != total.shape:
                    raise ImageFormatError(f"{images.name(i)}: {_other_size(gray, total)}")
                total += gray
        mean = total / len(images)
        lowest = np.inf
        for _, block in _blocks_of(images):
            for image in block:
                gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
                away = np.abs(gray - mean).mean()
                if away < lowest:
                    lowest, self.reference_ = away, gray

    def _size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.reference_.shape

    def _prepare(self, image: np.ndarray) -> tuple[np.ndarray, Placement | None]:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if gray.shape != self.reference_.shape:
            raise ImageFormatError(_other_size(gray, self.reference_))
        motion, problem, correlation = self._registrar().register(gray)
        if not problem and correlation < self.min_correlation:
            problem = (
                f"its correlation with the reference is {correlation:.2f}, below "
                f"min_correlation={self.min_correlation:g}"
            )
        if problem:
            raise PreprocessingError(
                f"the image could not be aligned to the reference: {problem}. It should show the "
                "same part nearly in the same place; for other directions raise n_directions, "
                "and take an affine motion where the scale differs."
            )
        if motion is None:
            return image.copy(), None
        size = image.shape[0], image.shape[1]
        return warp_image(image, motion), Placement(motion, size)

    def _registrar(self) -> Registrar:
        if "_made_registrar" not in self.__dict__:
            self._made_registrar = Registrar(
                self.reference_, self.method, self.motion, self.n_directions
            )
        return self._made_registrar

    def __getstate__(self) -> dict:
        state = super().__getstate__()
        state.pop("_made_registrar", None)  # made again from what is stored
        return state


def _blocks_of(images: _Collection) -> Any:
    """Blocks of images, each with the index of its first."""
    start = 0
    for block in images.iter_blocks(_FIT_BLOCK):
        yield start, block
        start += len(block)


def _other_size(gray: np.ndarray, reference: np.ndarray) -> str:
    (height, width), (wanted_height, wanted_width) = gray.shape, reference.shape
    return (
        f"the image has {height} x {width} pixels (height x width) and the reference "
        f"{wanted_height} x {wanted_width}: images are aligned at one size; put "
        f"ImageFormatNormalizer(resize=({wanted_height}, {wanted_width})) before this step."
    )
