"""The first step of a pipeline: images of a declared format become canonical ones."""

from __future__ import annotations

import numbers
import os
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano import _defaults
from pyimgano.exceptions import ImageFormatError
from pyimgano.inputs._containers import (
    as_list,
    first_index,
    is_path,
    refuse_names_in_a_cache,
)
from pyimgano.inputs._formats import (
    DECLARED,
    ImageFormat,
    check_format,
    check_u16_max,
    describe,
    is_torch_tensor,
    normalize_numpy_image,
    resize_image,
)
from pyimgano.inputs._reading import as_canonical, pil_pixels
from pyimgano.inputs._sequence import ImageSequence
from pyimgano.utils._columns import NoColumnsMixin, index_of
from pyimgano.utils._fitting import FittedParametersMixin
from pyimgano.utils._pairs import check_pair_or_none
from pyimgano.utils._stages import timed
from pyimgano.utils._tags import ImageInputMixin
from pyimgano.utils._versions import VersionStampMixin


class ImageFormatNormalizer(
    FittedParametersMixin,
    NoColumnsMixin,
    ImageInputMixin,
    VersionStampMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Convert images of a declared format to canonical RGB uint8.

    The format of arrays is declared once, here, and never guessed: an array of another
    dtype, shape or value range is an error.

    Parameters
    ----------
    input_format : str or ImageFormat, default="rgb_u8_hwc"
        Format of each image in arrays, see :class:`ImageFormat`. It does not apply to
        files, which say their own layout.
    resize : int, (height, width) or None, default=None
        Size of the returned images in pixels; an integer is both sides, None keeps the
        size. Area averages when shrinking, linear interpolation when growing.
    u16_max : int, default=65535
        Value of full white in 16-bit images, in arrays and in files: 1023 for a 10-bit
        sensor, 4095 for 12 bit.

    Notes
    -----
    Stateless: nothing is learned in ``fit``, and it need not be called. If it was, ``resize``
    stays as it was then until the next ``fit``; ``input_format`` and ``u16_max`` describe what
    comes in and take effect at once.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.inputs import ImageFormatNormalizer
    >>> frames = np.full((2, 4, 5), 4095, dtype=np.uint16)
    >>> images = ImageFormatNormalizer("gray_u16_hw", u16_max=4095).transform(frames)
    >>> images.shape, images.dtype.name, int(images.min())
    ((2, 4, 5, 3), 'uint8', 255)
    """

    _parameter_constraints: dict = {
        "input_format": [StrOptions({f.value for f in ImageFormat})],
        "resize": [None, Interval(numbers.Integral, 1, None, closed="left"), tuple, list],
        "u16_max": [Interval(numbers.Integral, 1, 65535, closed="both")],
    }

    # They describe the images that come in, which may be other files or another camera.
    _runtime_parameters = frozenset({"input_format", "u16_max"})

    def __init__(
        self,
        input_format: str = _defaults.INPUT_FORMAT,
        resize: int | tuple[int, int] | None = None,
        u16_max: int = _defaults.U16_MAX,
    ) -> None:
        self.input_format = input_format
        self.resize = resize
        self.u16_max = u16_max

    def fit(self, X: object, y: object = None) -> ImageFormatNormalizer:
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X : images or paths
            Not looked at.
        y : ignored

        Returns
        -------
        self
        """
        self._validate_params()
        check_pair_or_none(self.resize, "resize")
        self._keep_parameters()
        return self

    def transform(self, X: Any) -> Any:
        """Convert a batch of images.

        Parameters
        ----------
        X : ndarray or torch.Tensor of shape (n, ...), list of images, or paths
            Images in ``input_format``: one array of them, or a list or object array of
            images of any sizes. PIL images say their own layout, as files do. Or a sequence
            of paths or an :class:`ImageSequence`.

        Returns
        -------
        ndarray of shape (n, H, W, 3), uint8
            For one array or tensor.
        list of ndarray of shape (H, W, 3), uint8
            For a list or an object array; for a column of a pandas table a column with its
            index.
        ImageSequence
            For files: lazy, with ``resize`` and ``u16_max`` applied on decoding.

        Raises
        ------
        ImageFormatError
            When an image is not in the declared format; the message names its index.
        """
        fitted = self._as_fitted()
        fitted._validate_params()
        size = check_pair_or_none(fitted.resize, "resize")
        given, X = X, as_list(X)
        if isinstance(X, (list, tuple)) and X and is_path(X[0]):
            refuse_names_in_a_cache(lazy=self)
            X = ImageSequence(X)
            index = index_of(given)
            X = X if index is None else X._with(index=index)
        if isinstance(X, ImageSequence):
            return X.declare(resize=size, u16_max=check_u16_max(self.u16_max))
        images = self._batch(X)
        if isinstance(images, list):
            converted = [self._convert(image, i, size) for i, image in enumerate(images)]
            return converted if index_of(given) is None else self._in_column(converted, given)
        first = self._convert(images[0], 0, size)
        out = np.empty((len(images), *first.shape), dtype=np.uint8)
        out[0] = first
        for i in range(1, len(images)):
            out[i] = self._convert(images[i], i, size)
        return out

    def _in_column(self, images: list[np.ndarray], given: Any) -> Any:
        """Put images of a table's column, or of a collection with an index, into a column."""
        import pandas as pd

        return pd.Series(images, index=index_of(given), dtype=object)

    def _convert(self, image: Any, i: int, size: tuple[int, int] | None) -> np.ndarray:
        where = f"image {first_index() + i} of X"
        with timed("preprocess"):
            if isinstance(image, Image.Image):
                out = as_canonical(pil_pixels(image, where), self.u16_max, where)
            else:
                out = normalize_numpy_image(
                    image, self.input_format, u16_max=self.u16_max, where=where
                )
            return out if size is None else resize_image(out, size)

    def _batch(self, X: Any) -> Any:
        """``X`` as one array or tensor of images, or as a list of images."""
        fmt = check_format(self.input_format)
        declared = DECLARED[fmt]
        wanted = f"input_format={fmt.value!r} declares a batch of images {declared.shape}"
        if isinstance(X, (str, os.PathLike)):
            raise ImageFormatError(
                f"X is the single path {os.fspath(X)!r}; pass a list, [path], or for a folder "
                "ImageSequence.from_folder(path)"
            )
        if isinstance(X, np.ndarray) or is_torch_tensor(X):
            if X.ndim == declared.ndim:
                raise ImageFormatError(
                    f"X is {describe(X)}, but {wanted}. If it is one image, pass [image]."
                )
            if X.ndim != declared.ndim + 1:
                raise ImageFormatError(f"X is {describe(X)}, but {wanted} in one array or a list.")
        elif getattr(X, "why_no_format", None):
            raise ImageFormatError(f"X is {describe(X)}. {X.why_no_format}")
        elif isinstance(X, (list, tuple)) or hasattr(X, "iter_blocks"):
            X = list(X)
        else:
            raise ImageFormatError(f"X is {describe(X)}, but {wanted} in one array or a list.")
        if not len(X):
            raise ImageFormatError("X holds no images; at least one is needed")
        return X
