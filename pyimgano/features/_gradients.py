"""Classical descriptors of shape: histograms of gradients and statistics of edges."""

from __future__ import annotations

from numbers import Integral, Real

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.features._rows import BaseRowFeatures, gray
from pyimgano.utils._pairs import check_pair

__all__ = ["EdgeFeatures", "HOGFeatures"]


class HOGFeatures(BaseRowFeatures):
    """Histograms of oriented gradients on a grid of cells.

    Describes the outlines of a part and where they lie, whatever the brightness and, within a
    block of cells, the contrast [1]_. The part has to lie in the same place and in the same
    direction in all images.

    Parameters
    ----------
    resize : int or (height, width), default=128
        Working size in pixels; an integer is both sides. It fixes the number of cells, so
        images of all sizes have rows of one length.
    orientations : int, default=9
        Number of directions from 0 to 180 degrees.
    pixels_per_cell : int or (height, width), default=16
        Size of a cell in working pixels. Pixels that do not fill a cell are left out.
    cells_per_block : int or (rows, columns), default=2
        Cells whose contrast is normalized together. Blocks overlap.
    block_norm : {"L2-Hys", "L2", "L1", "L1-sqrt"}, default="L2-Hys"
        How, see the paper.
    transform_sqrt : bool, default=False
        Take the square root of the pixels first.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    Notes
    -----
    scikit-image computes them. At each pixel the color channel with the strongest gradient
    counts. With the defaults an image has 7 x 7 blocks of 2 x 2 cells of 9 directions: 1764
    numbers. The first direction begins at a gradient along the x axis, an upright edge, and
    they turn towards the y axis (down).

    References
    ----------
    .. [1] N. Dalal and B. Triggs, "Histograms of Oriented Gradients for Human Detection",
       CVPR 2005.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> from pyimgano.features import HOGFeatures
    >>> from pyimgano.inputs import ImageFormatNormalizer
    >>> data = make_inspection_dataset("screw", n_train=20, size=64, random_state=0)
    >>> pipe = make_pipeline(
    ...     ImageFormatNormalizer(),
    ...     HOGFeatures(resize=64),
    ...     StandardScaler(),
    ...     IsolationForest(random_state=0),
    ... ).fit(data.X_train)
    >>> pipe.score_samples(data.X_test).shape
    (50,)
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "resize": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "orientations": [Interval(Integral, 1, 180, closed="both")],
        "pixels_per_cell": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "cells_per_block": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "block_norm": [StrOptions({"L1", "L1-sqrt", "L2", "L2-Hys"})],
        "transform_sqrt": ["boolean"],
    }

    resize: int | tuple[int, int]

    def __init__(
        self,
        resize: int | tuple[int, int] = 128,
        *,
        orientations: int = 9,
        pixels_per_cell: int | tuple[int, int] = 16,
        cells_per_block: int | tuple[int, int] = 2,
        block_norm: str = "L2-Hys",
        transform_sqrt: bool = False,
        batch_size: int = 8,
    ) -> None:
        self.resize = resize
        self.orientations = orientations
        self.pixels_per_cell = pixels_per_cell
        self.cells_per_block = cells_per_block
        self.block_norm = block_norm
        self.transform_sqrt = transform_sqrt
        self.batch_size = batch_size

    def _cell(self) -> tuple[int, int]:
        return check_pair(self.pixels_per_cell, "pixels_per_cell")

    def _block(self) -> tuple[int, int]:
        return check_pair(self.cells_per_block, "cells_per_block", sides="rows, columns")

    def _least_size(self) -> tuple[int, int]:
        # One block; and scikit-image's gradient needs 3 pixels.
        cell, block = self._cell(), self._block()
        return max(3, cell[0] * block[0]), max(3, cell[1] * block[1])

    def _names(self) -> list[str]:
        cell, block, size = self._cell(), self._block(), check_pair(self.resize, "resize")
        blocks = [max(0, size[axis] // cell[axis] - block[axis] + 1) for axis in (0, 1)]
        angles = [180 * k / self.orientations for k in range(self.orientations)]
        return [
            f"block{r}_{c}_cell{i}_{j}_{angle:.4g}deg"
            for r in range(blocks[0])
            for c in range(blocks[1])
            for i in range(block[0])
            for j in range(block[1])
            for angle in angles
        ]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        from skimage.feature import hog

        return hog(
            image,
            orientations=self.orientations,
            pixels_per_cell=self._cell(),
            cells_per_block=self._block(),
            block_norm=self.block_norm,
            transform_sqrt=self.transform_sqrt,
            channel_axis=-1,
        )


class EdgeFeatures(BaseRowFeatures):
    """Statistics of the edges in an image: how many, how strong, in which directions.

    Scratches, cracks and burrs add edges; blur and wear take them away.

    Parameters
    ----------
    n_orientations : int, default=8
        Number of directions from 0 to 180 degrees.
    thresholds : (float, float), default=(50, 150)
        Lower and upper threshold of the Canny detector [1]_ on the gradient, which OpenCV
        measures in such units that a step of ``s`` gray levels has ``4 * s``.
    resize : int, (height, width) or None, default=256
        Working size in pixels; an integer is both sides. None keeps each image's own size.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    Notes
    -----
    ``density`` is the share of pixels that are edges to the Canny detector; ``gradient_mean``,
    ``_std``, ``_p50``, ``_p90`` and ``_p99`` (percentiles) are of the Sobel gradient's
    magnitude in gray levels per pixel; ``laplacian_std`` is the standard deviation of the
    Laplacian, a measure of sharpness. ``direction_..deg`` is the share of the gradient that
    points in each direction: the first one is centered on the x axis, for upright edges, and
    they turn towards the y axis (down). All are 0 in an image without edges.

    References
    ----------
    .. [1] J. Canny, "A Computational Approach to Edge Detection", PAMI 8(6), 1986.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import EdgeFeatures
    >>> image = np.zeros((32, 32, 3), dtype=np.uint8)
    >>> image[16:] = 100  # a level edge
    >>> step = EdgeFeatures(n_orientations=2, resize=None)
    >>> values = dict(zip(step.get_feature_names_out(), step.transform([image])[0]))
    >>> for name in ("density", "direction_0deg", "direction_90deg"):
    ...     print(name, values[name])
    density 0.03125
    direction_0deg 0.0
    direction_90deg 1.0
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "n_orientations": [Interval(Integral, 1, 180, closed="both")],
        "thresholds": [tuple, list],
    }

    def __init__(
        self,
        n_orientations: int = 8,
        *,
        thresholds: tuple[float, float] = (50, 150),
        resize: int | tuple[int, int] | None = 256,
        batch_size: int = 8,
    ) -> None:
        self.n_orientations = n_orientations
        self.thresholds = thresholds
        self.resize = resize
        self.batch_size = batch_size

    def _least_size(self) -> tuple[int, int]:
        return 3, 3

    def _names(self) -> list[str]:
        limits = self.thresholds
        if len(limits) != 2 or not all(isinstance(v, Real) for v in limits):
            raise ValueError(f"thresholds={limits!r} should be two numbers, (lower, upper).")
        if not 0 <= limits[0] <= limits[1]:
            raise ValueError(f"thresholds={limits!r}: needed is 0 <= lower <= upper.")
        angles = [180 * k / self.n_orientations for k in range(self.n_orientations)]
        gradient = [f"gradient_{name}" for name in ("mean", "std", "p50", "p90", "p99")]
        directions = [f"direction_{angle:.4g}deg" for angle in angles]
        return ["density", *gradient, "laplacian_std", *directions]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        brightness = gray(image)
        low, high = self.thresholds
        edges = cv2.Canny(brightness, float(low), float(high))
        # The Sobel kernel's sides add up to 4, twice a central difference's 2 pixels.
        dx, dy = (cv2.Sobel(brightness, cv2.CV_32F, *d, scale=1 / 8) for d in ((1, 0), (0, 1)))
        magnitude = np.hypot(dx, dy).ravel()
        laplacian = cv2.Laplacian(brightness, cv2.CV_32F)
        direction = np.arctan2(dy, dx).ravel() * np.float32(self.n_orientations / np.pi)
        index = np.floor(direction + 0.5).astype(np.intp) % self.n_orientations
        shares = np.bincount(index, weights=magnitude, minlength=self.n_orientations)
        return np.concatenate(
            [
                [np.count_nonzero(edges) / edges.size],
                [magnitude.mean(dtype=np.float64), magnitude.std(dtype=np.float64)],
                np.percentile(magnitude, (50, 90, 99)),
                [laplacian.std(dtype=np.float64)],
                shares / (shares.sum() or 1.0),
            ]
        )
