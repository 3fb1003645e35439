"""Base of the preprocessing steps: images in, images out, one by one and only when needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from pyimgano.exceptions import SampleError
from pyimgano.inputs import check_images
from pyimgano.inputs._placement import Placement
from pyimgano.inputs._sequence import _Collection
from pyimgano.utils._columns import NoColumnsMixin
from pyimgano.utils._fitting import FittedParametersMixin, restored_on_error
from pyimgano.utils._tags import ImageInputMixin
from pyimgano.utils._threads import map_in_threads, n_threads
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["BasePreprocessor", "PreparedImages"]

# Images whose placements are remembered between making the image and asking for its map; more
# than any block holds. A forgotten one is found again from the image.
_MOST_PLACEMENTS = 4096


class BasePreprocessor(
    FittedParametersMixin,
    NoColumnsMixin,
    ImageInputMixin,
    VersionStampMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Base of the steps that turn images into images.

    A subclass writes ``_prepare_pixels(image)``, which returns a new uint8 RGB image and raises
    a :class:`~pyimgano.exceptions.SampleError` for an image that it cannot treat. If there is
    something to learn, it writes ``_fit_images(images)`` and ``_needs_fit``.

    A step that crops or moves images sets ``_moves = True`` and writes ``_prepare(image)`` in
    place of that, which returns the image and its ``Placement``, and ``_size_of``.
    """

    # Name on the command line; see make_preprocessor.
    _step_name: str
    _parameter_constraints: dict = {}

    # Whether pixels change places, so that maps have to be put back.
    _moves = False

    @restored_on_error
    def fit(self, X: object, y: object = None) -> BasePreprocessor:
        """Check the parameters and learn what the step needs from the images, if anything.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            Training images, see :func:`pyimgano.inputs.check_images`. Not looked at by steps that
            learn nothing.
        y : ignored
            Known anomalies are learned from as well.

        Returns
        -------
        self
        """
        self._check_parameters()
        if self._needs_fit:
            self._fit_images(check_images(X))
        self._keep_parameters()
        return self

    def transform(self, X: object) -> Any:
        """Prepare images, each by itself.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            The images, of any sizes, see :func:`pyimgano.inputs.check_images`.

        Returns
        -------
        ndarray of shape (n, height, width, 3), uint8
            For one array of images.
        list of ndarray of shape (height, width, 3), uint8
            For a list of images in memory.
        PreparedImages
            For files, for what another step has made of files, and from steps that crop or move
            images: the images, prepared one by one when they are asked for.

        Raises
        ------
        SampleError
            If an image cannot be treated; the message names it. For ``PreparedImages`` it is
            raised when the image is asked for.
        """
        if self._needs_fit:
            check_is_fitted(self)
        fitted = self._as_fitted()
        fitted._check_parameters()
        prepared = PreparedImages(check_images(X), fitted)
        in_memory = isinstance(X, (list, tuple, np.ndarray)) and prepared.paths is None
        if self._moves or not in_memory:
            return prepared
        (images,) = prepared.iter_blocks(len(prepared))
        return np.stack(images) if isinstance(X, np.ndarray) and X.ndim == 4 else images

    # ---- what a subclass writes -----------------------------------------------------
    def _check_parameters(self) -> None:
        """Refuse parameters that are out of range or do not go together."""
        self._validate_params()

    def _fit_images(self, images: _Collection) -> None:
        """Learn from the training images; most steps have nothing to learn."""

    def _prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _prepare(self, image: np.ndarray) -> tuple[np.ndarray, Placement | None]:
        return self._prepare_pixels(image), None

    def _size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of this height and width gets."""
        return size


class PreparedImages(_Collection):
    """Images that a preprocessing step prepares one by one when they are asked for.

    ``prepared[3]`` is an image; ``prepared[2:5]``, an index array or a mask gives another
    collection and prepares nothing. Detectors and feature steps take it like files, and so do
    further preprocessing steps. Anomaly maps of detectors are in the pixels of the images that
    came in, before any step that crops or moves them.

    Parameters
    ----------
    images : collection of images
        See :func:`pyimgano.inputs.check_images`.
    step : BasePreprocessor
        The fitted step.
    """

    why_no_format = (
        "They are RGB images already, and may have been cropped or moved, which the way back of "
        "their maps depends on: put the ImageFormatNormalizer before the preprocessing steps."
    )

    def __init__(self, images: _Collection, step: BasePreprocessor) -> None:
        self._images = images
        # As it is now, whatever is fitted or set later.
        self._step = object.__new__(type(step))
        self._step.__dict__.update(step.__dict__)
        self._forget_placements()

    def __len__(self) -> int:
        return len(self._images)

    def __repr__(self) -> str:
        return f"<PreparedImages: {len(self)} images through {self._step!r}>"

    @property
    def paths(self) -> Sequence[str | None] | None:
        """The image files; None for images in memory."""
        return getattr(self._images, "paths", None)

    @property
    def index(self) -> Any:
        """Index of the table the images came from; None for others."""
        return self._images.index

    def name(self, i: int) -> str:
        """Return the name of image ``i`` for messages.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        str
        """
        return self._images.name(i)

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image ``i``, as it is prepared, in pixels.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        height, width : int
        """
        try:
            return self._step._size_of(self._images.size(i))
        except SampleError as error:
            raise self._named(error, i) from None

    def placement(self, i: int) -> Placement | None:
        """Say where image ``i`` lies in the image that came in.

        Parameters
        ----------
        i : int
            Index of the image.

        Returns
        -------
        Placement or None
            None, unless a step has cropped or moved the image.
        """
        outer = self._images.placement(i)
        if not self._step._moves:
            return outer
        if i in self._placements:
            own = self._placements[i]
        else:
            _, own = self._prepared(i, self._images[i])
        return outer if own is None else own.within(outer)

    def _get(self, i: int) -> np.ndarray:
        return self._keep(i, self._prepared(i, self._images[i]))

    def _take(self, indices: np.ndarray) -> PreparedImages:
        return PreparedImages(self._images[indices], self._step)

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        """Prepare all images in order, a block at a time.

        Parameters
        ----------
        batch_size : int
            Images per block.

        Yields
        ------
        list of ndarray of shape (H, W, 3), uint8
        """
        start = 0
        for block in self._images.iter_blocks(batch_size):
            made = map_in_threads(
                lambda pair: self._prepared(*pair), enumerate(block, start), n_threads()
            )
            yield [self._keep(i, one) for i, one in enumerate(made, start)]
            start += len(block)

    def _prepared(self, i: int, image: np.ndarray) -> tuple[np.ndarray, Placement | None]:
        try:
            return self._step._prepare(image)
        except SampleError as error:
            raise self._named(error, i) from None

    def _named(self, error: SampleError, i: int) -> SampleError:
        # An inner collection has named the image already, and reading errors name the file.
        name = self.name(i)
        return error if name in str(error) else type(error)(f"{name}: {error}")

    def _keep(self, i: int, made: tuple[np.ndarray, Placement | None]) -> np.ndarray:
        image, placement = made
        if self._step._moves:
            with self._lock:
                while len(self._placements) >= _MOST_PLACEMENTS:
                    del self._placements[next(iter(self._placements))]
                self._placements[i] = placement
        return image

    def _forget_placements(self) -> None:
        self._placements: dict[int, Placement | None] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_images": self._images, "_step": self._step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_placements()
