"""The average patch of each training image, and how far that of another may lie.

Patches are compared one by one, and an image may consist of ordinary ones in shares that no good
image has: before a white table, a white image has no patch that good images lack.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyimgano._kernels.neighbors import NearestNeighbors
from pyimgano.utils._state import Maybe, MayLack, Number, Object, Rule

__all__ = ["CompositionMixin", "ImageAverages", "average_patch"]

# An image consists of something else than the training images if its average patch is farther
# from each of theirs than this many times the largest distance of one of theirs to the others,
# and than this share of the spread of patches within an image. On bottles and screws, with three
# feature steps and 20 training images: good images reach 1.35 times and 0.26, defects 6.2 times
# and 0.28, and black, white, gray and noisy images have at least 2.8 times and 0.52.
_TIMES_LARGEST, _SHARE_OF_SPREAD = 2.0, 0.5
# Images whose average patch is kept at most, and patches that the spread is taken from.
_MOST_IMAGES = 8192
_SPREAD_SAMPLE = 64


def average_patch(patches: np.ndarray) -> np.ndarray:
    """Average of some patches, ``(n_features,)``, float64; the same bits in any batch."""
    return patches.mean(axis=0, dtype=np.float64)


class ImageAverages:
    """Collects the average patch of each training image, and how far patches lie from it.

    Memory does not grow with the number of images: of more than a few thousand, every second,
    fourth, ... is kept. Tiles of an image follow one another and count as one image.
    """

    def __init__(self) -> None:
        self._n, self._step = 0, 1
        self._kept: list[tuple[np.ndarray, int]] = []
        self._squares: np.ndarray | float = 0.0  # of each feature
        self._squares_before = 0.0  # of all features, from images that are no longer at hand
        self._tiles: list[np.ndarray] = []
        self._within: np.ndarray | float = 0.0
        self._group = -1

    @classmethod
    def resumed(cls, search: NearestNeighbors, spread: float, n_images: int) -> ImageAverages:
        """Go on where ``reference`` has finished.

        Parameters
        ----------
        search : NearestNeighbors
            From ``reference``.
        spread : float
            From ``spread``.
        n_images : int
            Number of images that were added.
        """
        assert search.bank_group is not None
        averages = cls()
        averages._n = n_images
        while -(-n_images // averages._step) > _MOST_IMAGES:
            averages._step *= 2
        averages._kept = list(zip(search.bank, search.bank_group.tolist()))
        averages._squares_before = n_images * spread**2
        return averages

    def add(self, patches: np.ndarray, group: int) -> None:
        """Add the next image or tile.

        Parameters
        ----------
        patches : ndarray of shape (n, n_features)
        group : int
            Training image that it is, or is a tile of.
        """
        if group != self._group:
            self._finish_image()
            self._group = group
        average = average_patch(patches)
        some = patches[:: max(1, len(patches) // _SPREAD_SAMPLE)].astype(np.float64)
        self._within += np.square(some - average).mean(axis=0)
        self._tiles.append(average)

    def _finish_image(self) -> None:
        if not self._tiles:
            return
        average = np.mean(self._tiles, axis=0)
        between = np.square(self._tiles - average).sum(axis=0)
        self._squares += (self._within + between) / len(self._tiles)
        if self._n % self._step == 0:
            self._kept.append((average.astype(np.float32), self._group))
        self._n += 1
        if len(self._kept) > _MOST_IMAGES:
            self._kept, self._step = self._kept[::2], 2 * self._step
        self._tiles, self._within = [], 0.0

    def spread(self) -> float:
        """Finish, and return the distance of patches to their image's average; 0 if unknown."""
        self._finish_image()
        if self._n == 0:  # nothing was added
            return 0.0
        return float(np.sqrt((np.sum(self._squares) + self._squares_before) / self._n))

    def reference(self) -> tuple[NearestNeighbors | None, float]:
        """Finish, and return what the averages of other images are compared with.

        Returns
        -------
        search : NearestNeighbors or None
            The averages, and the images they are of; None if each image is a single patch.
        limit : float
            Distance to the nearest average beyond which an image consists of something else.
        """
        spread = self.spread()
        if spread == 0:
            return None, 0.0
        rows = np.array([row for row, _ in self._kept])
        group = [group for _, group in self._kept]
        search = NearestNeighbors(rows, bank_group=group)
        to_others = search.query(rows, exclude=group)[0][:, 0]
        largest = float(to_others.max(initial=0.0, where=np.isfinite(to_others)))
        return search, max(_TIMES_LARGEST * largest, _SHARE_OF_SPREAD * spread)


class CompositionMixin:
    """Compares the average patch of an image with those of the training images.

    For image detectors whose blocks hold patches: a subclass says which in ``_contents``.
    """

    # Absent from files of earlier versions; None where each image is one patch.
    _fitted_state: dict[str, Rule] = {
        "_composition": MayLack(Maybe(Object("NearestNeighbors"))),
        "_composition_limit": MayLack(Number(0)),
    }

    # Average patch of each training image, and how far another one's may be from the nearest.
    _composition: NearestNeighbors | None = None
    _composition_limit: float = 0.0

    def _contents(self, block: Any) -> list[np.ndarray]:
        """Return the patches ``(n_patches, n_features)`` of each sample of a block."""
        raise NotImplementedError

    def _run_fit(self, train: Any, n_samples: int) -> np.ndarray:
        self._averages = ImageAverages()
        scores = super()._run_fit(train, n_samples)  # type: ignore[misc]
        self._finish_averages()
        return scores

    def _finish_averages(self) -> None:
        self._composition, self._composition_limit = self._averages.reference()
        del self._averages

    def _see_training_block(self, block: Any, groups: np.ndarray) -> None:
        for patches, group in zip(self._contents(block), groups.tolist()):
            self._averages.add(patches, group)

    def _as_whole(self, block: Any, values: Any) -> np.ndarray | None:
        if self._composition is None:
            return None
        return np.array([average_patch(patches) for patches in self._contents(block)])

    def _excess(self, whole: np.ndarray) -> np.ndarray:
        assert self._composition is not None
        return self._composition.query(whole)[0][:, 0] / self._composition_limit
