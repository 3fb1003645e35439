"""Base of the patch feature steps: images in, blocks of ``PatchGrids`` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from pyimgano.exceptions import ImageFormatError
from pyimgano.grids import PatchGrids
from pyimgano.inputs import check_images
from pyimgano.inputs._placement import Placement
from pyimgano.utils._columns import NoColumnsMixin
from pyimgano.utils._fitting import (
    RUNTIME_PARAMETERS,
    FittedParametersMixin,
    restored_on_error,
)
from pyimgano.utils._stages import timed
from pyimgano.utils._tags import ImageInputMixin
from pyimgano.utils._versions import VersionStampMixin


class BasePatchFeatures(
    FittedParametersMixin,
    NoColumnsMixin,
    ImageInputMixin,
    VersionStampMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Base of the steps that turn images into patch features.

    A subclass writes ``_extract`` and, if it learns something from the training images,
    ``_fit_images``. It has a ``batch_size`` parameter: the number of images decoded and
    held at a time. An image that ``_extract`` cannot take is an
    :class:`~pyimgano.exceptions.ImageFormatError`.

    A step that learns from so few images that it suits them better than others has a fitted
    attribute ``overfits_``, True or False. Detectors score their training images in folds where
    it is True, or where a step that writes ``_fit_images`` has no such attribute.

    After ``fit`` the features are those of the parameters it was called with, until the next
    one. Those that say where and how to compute, such as ``batch_size`` and ``device``, take
    effect at once.
    """

    _runtime_parameters = RUNTIME_PARAMETERS

    batch_size: int

    @restored_on_error
    def fit(self, X: object, y: object = None) -> BasePatchFeatures:
        """Check the parameters and learn what the features need from the images.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            Training images, see :func:`pyimgano.inputs.check_images`.
        y : ignored

        Returns
        -------
        self
        """
        self._validate_params()
        images = check_images(X)
        self._fit_images(images)
        self._keep_parameters()
        return self

    def transform(self, X: object) -> PatchGrids:
        """Compute the patch features of all images.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, or uint8 RGB images
            The images.

        Returns
        -------
        PatchGrids
        """
        images = check_images(X)
        blocks: list[PatchGrids] = []
        placements: list[Placement | None] = []
        for block in self.iter_grids(images):
            blocks.append(block)
            start = len(placements)
            placements += [images.placement(i) for i in range(start, start + len(block))]
        grids = PatchGrids.concatenate(blocks)
        if any(placement is not None for placement in placements):
            grids = grids.with_placements(placements)
        return grids if images.index is None else grids.with_index(images.index)

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
        fitted = self._as_fitted()
        images = check_images(X)
        start = 0
        for block in images.iter_blocks(self.batch_size):
            try:
                with timed("features"):
                    grids = fitted._extract(block)
            except ImageFormatError:
                for i, image in enumerate(block, start):
                    try:
                        fitted._extract([image])
                    except ImageFormatError as error:
                        raise ImageFormatError(f"{images.name(i)}: {error}") from None
                raise
            yield grids
            start += len(block)

    @property
    def _needs_fit(self) -> bool:
        return type(self)._fit_images is not BasePatchFeatures._fit_images

    def _fit_images(self, images: object) -> None:
        """Learn from the training images; most features have nothing to learn."""

    def _extract(self, images: Sequence[np.ndarray]) -> PatchGrids:
        """Features of a few uint8 RGB images of any sizes."""
        raise NotImplementedError
