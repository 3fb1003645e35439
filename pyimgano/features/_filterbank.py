"""Patch features without any network weights: oriented filters in a learned metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import cv2
import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from pyimgano import _defaults
from pyimgano._kernels.compiling import kernel
from pyimgano._kernels.neighbors import NearestNeighbors
from pyimgano.features._base import BasePatchFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inputs._formats import resize_image
from pyimgano.utils._pairs import check_pair_or_none
from pyimgano.utils._state import Array, Flag, MayLack
from pyimgano.utils._threads import one_blas_thread

__all__ = ["FilterBankFeatures"]

_STRIDE = 8  # working pixels between two patches
_CELL = 4  # responses are summed per cell of this many working pixels; windows consist of cells
_OCTAVES = 3  # derivatives at 1, 2 and 4 working pixels
_WINDOWS = (4, 6, 10)  # side lengths of the windows around a patch, in cells
_SMALLEST = 32  # working pixels: below this a window would be mostly mirror image
_DIRECTIONS = 8
_RESPONSES = _OCTAVES * 3 * 2 * _DIRECTIONS  # scales, channels, odd and even filters
_DESCRIPTOR = len(_WINDOWS) * (3 + _RESPONSES)
_COLOR_WEIGHT = 0.1  # Lab spans 100; a strong edge's square root of energy is about 5

_FIT_IMAGES = 160
_FIT_PATCHES = 12_000
_SEARCH_DIMENSIONS = 128
# With fewer images, or patches per dimension of the descriptor, the metric suits the patches it
# was learned from better than others (measured by benchmarks/small_sample_rates.py).
_ENOUGH_IMAGES = 32
_ENOUGH_PATCHES = 10
# Residual variances are brought to their power 1 - _WHITENING: full whitening trusts the small
# ones too much, none lets the large ones drown the rest. Of 1/2, 3/4 and 1, this did best on
# real and synthetic parts together.
_WHITENING = 0.75
_FLOOR = 1e-3  # of the largest residual variance: smaller ones are not amplified any further
# Residual variance from rounding pixels to 8 bits. It keeps good images that hardly vary at
# all from making an alarm of the next image's rounding.
_ROUNDING = 1e-4

_COS = np.cos(np.arange(4) * np.pi / 4).astype(np.float32)
_SIN = np.sin(np.arange(4) * np.pi / 4).astype(np.float32)


class FilterBankFeatures(BasePatchFeatures):
    """Patch features from a bank of oriented filters; no weights, no download, no GPU.

    The feature step to take where no pretrained network is at hand, and a fast one where
    there is. It describes what lies around a patch as early vision does, and learns from the
    good images how much two patches that ought to be alike may differ:

    1. The image is brought to the working resolution and to CIE Lab.
    2. First and second Gaussian derivatives at 1, 2 and 4 pixels answer to edges and to
       lines [1]_. Rectified halves in each of 4 orientations keep light-to-dark apart from
       dark-to-light and bright lines apart from dark ones [2]_.
    3. Responses and colors are averaged over windows of 16, 24 and 40 pixels, every 8 pixels.
       The square root of averaged responses keeps strong edges from drowning faint ones [3]_.
       These are 441 numbers per patch.
    4. ``fit`` pairs patches of good images with the most similar patch of *another* good image.
       What differs in such pairs is what good parts are free to vary in: lighting, grain,
       the exact place. Whitening these differences is relevant component analysis [4]_ with
       pairs that need no labels. They are whitened by three quarters: a direction that
       varies 16 times more among like patches counts 8 times less. Of the result,
       the ``n_components`` directions are kept in which patches vary most.

    Parameters
    ----------
    resize : int, (int, int) or None, default=256
        Working height and width in pixels; an int gives both sides. ``None`` leaves each image
        its size. Sides are at least 32 pixels and are brought to the nearest multiple of 8.
        Pixels are averaged where an image shrinks and interpolated bilinearly where it grows.
        The filters have a fixed size in working pixels, so that a defect of 2 pixels is
        seen and one of half a pixel is not: work at the resolution that shows the defects.
    n_components : int, default=128
        Length of the feature vectors, at most 441. The search of a memory bank costs
        time in proportion to it.
    batch_size : int, default=8
        Images decoded at a time. Features are computed one image after another, so that an
        image has the same features, bit for bit, in any batch.
    random_state : int, RandomState or None, default=0
        Chooses the patches that ``fit`` learns from: about 12 000 of at most 160 images.

    Attributes
    ----------
    mean_ : ndarray of shape (441,), float32
        Mean descriptor of the good patches.
    projection_ : ndarray of shape (441, n_components), float32
        The learned metric: features are ``(descriptor - mean_) @ projection_``.
    overfits_ : bool
        Whether the metric was learned from fewer than 32 images or 4 410 patches, and so suits
        those better than others. Detectors then score their training images in folds, see
        the notes.

    Notes
    -----
    Two categories of MVTec AD [5]_ at 256 x 256 pixels, with the defaults of this class and of
    :class:`~pyimgano.detectors.PatchCoreDetector`, trained on all good training images:

    ========  =============  ===========  ===========
    category  coreset_ratio  image AUROC  pixel AUROC
    ========  =============  ===========  ===========
    bottle    0.1            0.997        0.981
    bottle    0.01           0.996        0.980
    screw     0.1            0.902        0.993
    screw     0.01           0.948        0.988
    ========  =============  ===========  ===========

    The layout of the filters, the windows and the degree of whitening were chosen on these two
    and on synthetic parts, so expect somewhat less elsewhere.

    The features of one such image take about 15 ms on one core (AMD EPYC, Zen 3), and ``fit``
    takes about 5 s for 160 images or more.

    From few images, or fewer than about ten patches for each of the 441 numbers, the metric suits
    the patches it was learned from better than those of new images, which then look unusual. A
    detector that fits this step therefore scores its training images in folds where
    ``overfits_`` says so.

    With one image there is no other one to pair its patches with; the variation of all its
    patches stands in for the differences.

    References
    ----------
    .. [1] W. T. Freeman and E. H. Adelson, "The Design and Use of Steerable Filters",
       PAMI 13(9), 1991.
    .. [2] J. Malik and P. Perona, "Preattentive Texture Discrimination with Early Vision
       Mechanisms", JOSA A 7(5), 1990.
    .. [3] R. Arandjelovic and A. Zisserman, "Three Things Everyone Should Know to Improve
       Object Retrieval", CVPR 2012.
    .. [4] A. Bar-Hillel, T. Hertz, N. Shental and D. Weinshall, "Learning a Mahalanobis Metric
       from Equivalence Constraints", JMLR 6, 2005.
    .. [5] P. Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised
       Anomaly Detection", CVPR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import FilterBankFeatures
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(4, 64, 96, 3)).astype(np.uint8)
    >>> step = FilterBankFeatures(resize=(64, 96), n_components=32).fit(good)
    >>> step.transform(good).features.shape  # a patch every 8 pixels
    (4, 8, 12, 32)
    """

    _parameter_constraints: dict = {
        "resize": [Interval(Integral, _SMALLEST, None, closed="left"), tuple, list, None],
        "n_components": [Interval(Integral, 1, _DESCRIPTOR, closed="both")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }
    _fitted_state = {
        "mean_": Array("float32", _DESCRIPTOR),
        "projection_": Array("float32", _DESCRIPTOR, None),
        "overfits_": MayLack(Flag()),  # earlier versions did not say
    }

    def __init__(
        self,
        resize: int | Sequence[int] | None = _defaults.RESIZE,
        *,
        n_components: int = 128,
        batch_size: int = 8,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.resize = resize
        self.n_components = n_components
        self.batch_size = batch_size
        self.random_state = random_state

    def _fit_images(self, images: Any) -> None:
        _work_size(self.resize, (_SMALLEST, _SMALLEST))  # a wrong pair is found before the work
        rng = check_random_state(self.random_state)
        n_images = min(len(images), _FIT_IMAGES)
        chosen = np.sort(rng.choice(len(images), n_images, replace=False))
        per_image = -(-_FIT_PATCHES // n_images)
        samples = []
        for block in images[chosen].iter_blocks(self.batch_size):
            for image in block:
                rows = _describe(self._resized(image)).reshape(-1, _DESCRIPTOR)
                take = rng.permutation(len(rows))[:per_image]
                samples.append(rows[take])
        owner = np.repeat(np.arange(n_images), [len(rows) for rows in samples])
        few_patches = len(owner) < _ENOUGH_PATCHES * _DESCRIPTOR
        self.overfits_ = n_images < _ENOUGH_IMAGES or few_patches
        with one_blas_thread:
            self.mean_, self.projection_ = _learn_metric(
                np.concatenate(samples), owner, self.n_components
            )

    def iter_grids(self, X: object) -> Iterator[PatchGrids]:
        """Compute the patch features block by block; memory does not grow with ``X``.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            See :func:`pyimgano.inputs.check_images`.

        Yields
        ------
        PatchGrids
            Of ``batch_size`` images each.
        """
        check_is_fitted(self)
        return super().iter_grids(X)

    def _extract(self, images: Sequence[np.ndarray]) -> PatchGrids:
        rows, grid_shapes, work_sizes = [], [], []
        for image in images:  # one by one: an image's features are the same in any batch
            resized = self._resized(image)
            descriptors = _describe(resized)
            grid_shapes.append(descriptors.shape[:2])
            work_sizes.append(resized.shape[:2])
            centered = descriptors.reshape(-1, _DESCRIPTOR) - self.mean_
            with one_blas_thread:
                rows.append(centered @ self.projection_)
        image_sizes = [image.shape[:2] for image in images]
        return PatchGrids(
            np.concatenate(rows), grid_shapes, image_sizes=image_sizes, work_sizes=work_sizes
        )

    def _resized(self, image: np.ndarray) -> np.ndarray:
        return resize_image(image, _work_size(self.resize, image.shape[:2]))


def _work_size(resize: int | Sequence[int] | None, image_size: tuple[int, ...]) -> tuple[int, int]:
    """The height and width nearest to what was asked for that hold whole patches."""
    pair = check_pair_or_none(resize, "resize", least=_SMALLEST)
    height, width = pair or (max(side, _SMALLEST) for side in image_size)
    return (
        (height + _STRIDE // 2) // _STRIDE * _STRIDE,
        (width + _STRIDE // 2) // _STRIDE * _STRIDE,
    )


def _learn_metric(
    rows: np.ndarray, owner: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and projection that damp the directions in which like patches differ.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Descriptors of good patches.
    owner : ndarray of shape (n,)
        The image each comes from.
    n_components : int
        Number of directions to keep: those in which all patches differ most once damped.

    Returns
    -------
    mean : ndarray of shape (d,), float32
    projection : ndarray of shape (d, n_components), float32
    """
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = rows - mean
    variance, axes = _principal_axes(centered)
    if owner[0] == owner[-1]:
        residuals = centered  # one image: its whole variation stands in
    else:
        # Half-way between the descriptor's own scale and full whitening: good enough to
        # find like patches.
        scale = np.maximum(variance + 1e-4 * variance[0], _ROUNDING) ** -0.25
        search = (centered @ (axes * scale)[:, :_SEARCH_DIMENSIONS]).astype(np.float32)
        _, nearest = NearestNeighbors(search, owner).query(search, exclude=owner)
        residuals = centered - centered[nearest[:, 0]]
    variance, axes = _principal_axes(residuals)
    floor = max(_FLOOR * variance[0], _ROUNDING)
    whitening = axes * (variance + floor) ** (-0.5 * _WHITENING)
    _, directions = _principal_axes(centered @ whitening)
    return mean, (whitening @ directions[:, :n_components]).astype(np.float32)


def _principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Second moments of the rows and their axes (columns), the largest first."""
    rows = rows.astype(np.float64)
    moments, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    return np.maximum(moments[::-1], 0), axes[:, ::-1]


def _describe(image: np.ndarray) -> np.ndarray:
    """``(h, w, _DESCRIPTOR)`` descriptors of an RGB image with sides of whole patches."""
    lab = cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
    rows, columns = lab.shape[0] // _CELL, lab.shape[1] // _CELL
    cells = np.empty((rows, columns, 3 + _RESPONSES), dtype=np.float32)
    cells[:, :, :3] = cv2.resize(lab, (columns, rows), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0, borderType=cv2.BORDER_REFLECT)
    first = 3
    for octave in range(_OCTAVES):
        if octave:
            # The 2 x 2 means of a blur of variance 1 have variance (1 + 1/4) / 4 in the new
            # pixels; 11/16 more makes it 1 again.
            half = (smooth.shape[1] // 2, smooth.shape[0] // 2)
            smooth = cv2.resize(smooth, half, interpolation=cv2.INTER_AREA)
            sigma = (11 / 16) ** 0.5
            smooth = cv2.GaussianBlur(smooth, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        framed = cv2.copyMakeBorder(smooth, 1, 1, 1, 1, cv2.BORDER_REFLECT)
        for plane in cv2.split(framed):
            last = first + 2 * _DIRECTIONS
            _respond(plane, _CELL >> octave, cells[:, :, first:last])
            first = last
    patches_down, patches_across = (n * _CELL // _STRIDE for n in (rows, columns))
    pooled = np.empty(
        (patches_down, patches_across, len(_WINDOWS), 3 + _RESPONSES), dtype=np.float32
    )
    for i, window in enumerate(_WINDOWS):
        _pool(cells, _cells_under(rows, window), _cells_under(columns, window), pooled[:, :, i])
    pooled[..., :3] *= np.float32(_COLOR_WEIGHT)
    np.sqrt(pooled[..., 3:], out=pooled[..., 3:])
    return pooled.reshape(patches_down, patches_across, _DESCRIPTOR)


def _cells_under(n_cells: int, window: int) -> np.ndarray:
    """``(n_patches, window)`` cells under each patch's window, mirrored at the border."""
    per_patch = _STRIDE // _CELL
    index = np.pad(np.arange(n_cells), (window - per_patch) // 2, mode="symmetric")
    return np.lib.stride_tricks.sliding_window_view(index, window)[::per_patch].copy()


@kernel(fastmath=True)
def _respond(plane, cell, out):
    """Mean rectified responses of first and second derivatives in each cell.

    A derivative ``r`` counts as ``r**3 / amplitude**2``, the squared amplitude being that of
    all first and second derivatives at the pixel. The cube is a competition: it narrows the
    tuning to direction, and it leaves the middle of an edge to the first derivatives and the
    middle of a line to the second, which would otherwise answer to the flanks of both.

    Parameters
    ----------
    plane : ndarray of shape (rows * cell + 2, columns * cell + 2), float32
        A smoothed channel with a frame of one pixel.
    cell : int
        Side length of a cell in pixels.
    out : ndarray of shape (rows, columns, 16), float32
        Result, 4 orientations at a time, each 45 degrees further from the x axis towards
        the y axis. Getting brighter in that direction; getting darker; dark line across
        that direction; bright line across it.
    """
    rows, columns, _ = out.shape
    width = columns * cell
    sums = np.zeros((16, width), dtype=np.float32)
    zero = np.float32(0)
    half = np.float32(0.5)
    for r in range(rows):
        sums[:] = 0
        for i in range(r * cell + 1, (r + 1) * cell + 1):
            for j in range(width):
                here = plane[i, j + 1]
                x = half * (plane[i, j + 2] - plane[i, j])
                y = half * (plane[i + 1, j + 1] - plane[i - 1, j + 1])
                xx = plane[i, j + 2] + plane[i, j] - here - here
                yy = plane[i + 1, j + 1] + plane[i - 1, j + 1] - here - here
                xy = half * (half * (plane[i + 1, j + 2] - plane[i + 1, j]))
                xy -= half * (half * (plane[i - 1, j + 2] - plane[i - 1, j]))
                # One over the squared amplitude of all derivatives here.
                inverse = np.float32(1) / (
                    x * x + y * y + xx * xx + yy * yy + xy * xy + xy * xy + np.float32(1e-6)
                )
                for k in range(4):
                    cos, sin = _COS[k], _SIN[k]
                    slope = x * cos + y * sin
                    slope *= slope * slope * inverse
                    sums[k, j] += max(slope, zero)
                    sums[k + 4, j] -= min(slope, zero)
                    bend = xx * cos * cos + yy * sin * sin + np.float32(2) * xy * cos * sin
                    bend *= bend * bend * inverse
                    sums[k + 8, j] += max(bend, zero)
                    sums[k + 12, j] -= min(bend, zero)
        scale = np.float32(1) / np.float32(cell * cell)
        for c in range(columns):
            for k in range(16):
                total = zero
                for j in range(c * cell, (c + 1) * cell):
                    total += sums[k, j]
                out[r, c, k] = total * scale


@kernel(fastmath=True)
def _pool(cells, rows_under, columns_under, out):
    """Mean of the cells under each patch's window."""
    n_features = cells.shape[2]
    lines = np.empty(cells.shape[1:], dtype=np.float32)
    scale = np.float32(1) / np.float32(rows_under.shape[1] * columns_under.shape[1])
    for r in range(out.shape[0]):
        lines[:] = 0
        for i in rows_under[r]:
            for c in range(cells.shape[1]):
                for d in range(n_features):
                    lines[c, d] += cells[i, c, d]
        for c in range(out.shape[1]):
            for d in range(n_features):
                out[r, c, d] = 0
            for j in columns_under[c]:
                for d in range(n_features):
                    out[r, c, d] += lines[j, d]
            for d in range(n_features):
                out[r, c, d] *= scale
