"""Classical descriptors of color and brightness, over the image and over its parts."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.features._rows import (
    CHANNELS,
    BaseRowFeatures,
    each_of,
    in_color_space,
)
from pyimgano.utils._pairs import check_pair

__all__ = ["ColorHistogram", "ColorMoments", "PatchStatistics"]

# Value at which each channel's last bin ends; all begin at 0.
_CHANNEL_ENDS = {"hsv": (360.0, 1.0, 1.0), "rgb": (256.0, 256.0, 256.0)}
_STATISTICS = {
    "mean": lambda pixels: pixels.mean(axis=0, dtype=np.float64),
    "std": lambda pixels: pixels.std(axis=0, dtype=np.float64),
    "min": lambda pixels: pixels.min(axis=0),
    "max": lambda pixels: pixels.max(axis=0),
    "median": lambda pixels: np.median(pixels, axis=0),
}


class ColorHistogram(BaseRowFeatures):
    """Share of the pixels in each bin of color.

    Says which colors an image has and how much of each, not where [1]_. It finds parts of the
    wrong color and discolorations of some size.

    Parameters
    ----------
    bins : int, default=8
        Number of equal bins per channel.
    color_space : {"rgb", "hsv"}, default="rgb"
        ``"hsv"`` keeps hue apart from brightness, but the hue of nearly gray pixels is
        noise. Pixels that are exactly gray count as hue 0.
    joint : bool, default=False
        False makes one histogram per channel, ``3 * bins`` numbers; True one of all three
        together, ``bins ** 3`` numbers.
    resize : int, (height, width) or None, default=None
        Working size in pixels; an integer is both sides. None keeps each image's own size,
        which the shares do not depend on.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    References
    ----------
    .. [1] M. J. Swain and D. H. Ballard, "Color Indexing", International Journal of Computer
       Vision 7(1), 1991.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import ColorHistogram
    >>> image = np.zeros((4, 4, 3), dtype=np.uint8)
    >>> image[:1] = (255, 0, 0)  # a quarter of it red, the rest black
    >>> step = ColorHistogram(bins=2)
    >>> [str(name) for name in step.get_feature_names_out()[:3]]
    ['red_0', 'red_1', 'green_0']
    >>> step.transform([image])
    array([[0.75, 0.25, 1.  , 0.  , 1.  , 0.  ]])
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "bins": [Interval(Integral, 2, 256, closed="both")],
        "color_space": [StrOptions(set(_CHANNEL_ENDS))],
        "joint": ["boolean"],
    }

    def __init__(
        self,
        bins: int = 8,
        *,
        color_space: str = "rgb",
        joint: bool = False,
        resize: int | tuple[int, int] | None = None,
        batch_size: int = 8,
    ) -> None:
        self.bins = bins
        self.color_space = color_space
        self.joint = joint
        self.resize = resize
        self.batch_size = batch_size

    def _names(self) -> list[str]:
        channels, bins = CHANNELS[self.color_space], range(self.bins)
        if not self.joint:
            return [f"{channel}_{b}" for channel in channels for b in bins]
        if self.bins > 32:
            raise ValueError(
                f"bins={self.bins} with joint=True would make {self.bins**3} numbers per image; "
                "32 bins at most, or joint=False."
            )
        return [f"{'_'.join(channels)}_{a}_{b}_{c}" for a in bins for b in bins for c in bins]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        pixels = in_color_space(image, self.color_space).reshape(-1, 3)
        scale = self.bins / np.array(_CHANNEL_ENDS[self.color_space], dtype=np.float32)
        bins = np.minimum((pixels * scale).astype(np.intp), self.bins - 1)
        if self.joint:
            index, n_bins = (bins[:, 0] * self.bins + bins[:, 1]) * self.bins + bins[:, 2], 3
        else:
            index, n_bins = (bins + self.bins * np.arange(3)).ravel(), 1
        n_numbers = self.bins**3 if n_bins == 3 else 3 * self.bins
        return np.bincount(index, minlength=n_numbers) / len(pixels)


class ColorMoments(BaseRowFeatures):
    """Mean, standard deviation and skewness of each color channel.

    Nine numbers that sum up a color distribution without the borders of bins [1]_. The
    skewness is the cube root of the third central moment, so that all three are in the units
    of the channel.

    Parameters
    ----------
    color_space : {"lab", "rgb", "hsv"}, default="lab"
        ``"lab"``: CIE lightness from 0 to 100 and the two color axes, in which equal
        distances look about equally different. ``"rgb"``: from 0 to 255. ``"hsv"``, that of
        the paper: hue in degrees, saturation and value from 0 to 1; as hue is an angle, its
        moments jump where a red part lies at 0 and 360 degrees.
    resize : int, (height, width) or None, default=None
        Working size in pixels; an integer is both sides. None keeps each image's own size.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    References
    ----------
    .. [1] M. Stricker and M. Orengo, "Similarity of Color Images", Storage and Retrieval for
       Image and Video Databases III, SPIE 2420, 1995.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import ColorMoments
    >>> image = np.zeros((2, 2, 3), dtype=np.uint8)
    >>> image[0, :, 0] = 200  # red is 200 in one half and 0 in the other
    >>> step = ColorMoments(color_space="rgb")
    >>> [str(name) for name in step.get_feature_names_out()[:3]]
    ['red_mean', 'red_std', 'red_skewness']
    >>> step.transform([image])
    array([[100., 100.,   0.,   0.,   0.,   0.,   0.,   0.,   0.]])
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "color_space": [StrOptions({"hsv", "lab", "rgb"})],
    }

    def __init__(
        self,
        color_space: str = "lab",
        *,
        resize: int | tuple[int, int] | None = None,
        batch_size: int = 8,
    ) -> None:
        self.color_space = color_space
        self.resize = resize
        self.batch_size = batch_size

    def _names(self) -> list[str]:
        moments = ("mean", "std", "skewness")
        return [f"{channel}_{m}" for channel in CHANNELS[self.color_space] for m in moments]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        pixels = in_color_space(image, self.color_space).reshape(-1, 3).astype(np.float64)
        mean = pixels.mean(axis=0)
        pixels -= mean
        squares = pixels * pixels
        third = np.einsum("ij,ij->j", squares, pixels) / len(pixels)
        return np.stack([mean, np.sqrt(squares.mean(axis=0)), np.cbrt(third)], axis=1).ravel()


class PatchStatistics(BaseRowFeatures):
    """Statistics of the pixels in each cell of a grid laid over the image.

    The plainest description that knows where: for parts that always lie in the same place.

    Parameters
    ----------
    grid : int or (rows, columns), default=4
        Number of cells; an integer is both. Cells differ by one pixel at most where the size
        of the image is not a multiple of it.
    statistics : str or sequence of str, default=("mean", "std")
        Among ``"mean"``, ``"std"``, ``"min"``, ``"max"`` and ``"median"``.
    color_space : {"rgb", "gray", "lab"}, default="rgb"
        Channels the statistics are taken of: from 0 to 255, and for ``"lab"`` CIE lightness
        from 0 to 100 and the two color axes.
    resize : int, (height, width) or None, default=None
        Working size in pixels; an integer is both sides. None keeps each image's own size.
    batch_size : int, default=8
        Images decoded at a time.

    See Also
    --------
    BaseRowFeatures : What the descriptors are worth on real parts, and what they cost.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.features import PatchStatistics
    >>> ramp = np.repeat(np.arange(4, dtype=np.uint8)[:, None, None], 3, axis=2)
    >>> image = np.repeat(ramp, 6, axis=1)  # rows of 0, 1, 2 and 3
    >>> step = PatchStatistics((2, 1), color_space="gray")
    >>> for name, value in zip(step.get_feature_names_out(), step.transform([image])[0]):
    ...     print(name, value)
    row0_column0_gray_mean 0.5
    row0_column0_gray_std 0.5
    row1_column0_gray_mean 2.5
    row1_column0_gray_std 0.5
    """

    _parameter_constraints: dict = {
        **BaseRowFeatures._parameter_constraints,
        "grid": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "statistics": [str, tuple, list],
        "color_space": [StrOptions({"gray", "lab", "rgb"})],
    }

    def __init__(
        self,
        grid: int | tuple[int, int] = 4,
        *,
        statistics: str | Sequence[str] = ("mean", "std"),
        color_space: str = "rgb",
        resize: int | tuple[int, int] | None = None,
        batch_size: int = 8,
    ) -> None:
        self.grid = grid
        self.statistics = statistics
        self.color_space = color_space
        self.resize = resize
        self.batch_size = batch_size

    def _least_size(self) -> tuple[int, int]:
        return self._cells()  # a pixel for each

    def _cells(self) -> tuple[int, int]:
        return check_pair(self.grid, "grid", sides="rows, columns")

    def _names(self) -> list[str]:
        rows, columns = self._cells()
        statistics = each_of(self.statistics, "statistics", list(_STATISTICS))
        return [
            f"row{row}_column{column}_{channel}_{statistic}"
            for row in range(rows)
            for column in range(columns)
            for channel in CHANNELS[self.color_space]
            for statistic in statistics
        ]

    def _describe(self, image: np.ndarray) -> np.ndarray:
        pixels = in_color_space(image, self.color_space)
        rows, columns = self._cells()
        statistics: list[Any] = [
            _STATISTICS[name] for name in each_of(self.statistics, "statistics", list(_STATISTICS))
        ]
        out = []
        for band in np.array_split(pixels, rows, axis=0):
            for cell in np.array_split(band, columns, axis=1):
                flat = cell.reshape(-1, cell.shape[2])
                out.append(np.stack([statistic(flat) for statistic in statistics], axis=1))
        return np.concatenate(out).ravel()
