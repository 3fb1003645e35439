"""The masks of a test set, and which of them cannot be used."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, _safe_indexing

from pyimgano.datasets import Defect, read_mask
from pyimgano.datasets._record import read_defects
from pyimgano.exceptions import DatasetError, ImageFormatError, ImageReadError
from pyimgano.inputs import check_images

__all__ = ["TestMasks"]


class TestMasks:
    """The masks of a test set, and which of them cannot be used.

    A mask that is missing, damaged, all black, all defective or of another size than its image,
    or that has values which no type of defect has, leaves that image out of the pixel metrics. It
    does not end a run.

    Parameters
    ----------
    data : Bunch
        With ``X_test``, ``masks_test``, ``kinds_test`` and, where masks tell types of defects
        apart, ``defect_types``.

    Attributes
    ----------
    left_out : dict of int to str
        By index of the test image, why its mask cannot be used.
    """

    __test__ = False  # no test class

    def __init__(self, data: Bunch) -> None:
        self._images, self._items, self._kinds = data.X_test, data.masks_test, data.kinds_test
        self._types = data.get("defect_types", ())
        self.left_out: dict[int, str] = {}

    def check(self) -> None:
        """Read all masks once, so that what is wrong is known before the fit."""
        for i, item in enumerate(self._items):
            if not isinstance(item, (str, Path, tuple, np.ndarray)):
                continue
            # An image that cannot be read has a record that says so.
            with suppress(ImageReadError, ImageFormatError):
                self.read(i)

    def image_size(self, i: int) -> tuple[int, int]:
        """Return height and width of test image ``i``; of a file only the header is read.

        Parameters
        ----------
        i : int

        Returns
        -------
        height, width : int
        """
        if hasattr(self._images, "size") and callable(self._images.size):
            return self._images.size(i)
        one = _safe_indexing(self._images, [i])
        if isinstance(one[0], np.ndarray):
            height, width = one[0].shape[:2]
            return height, width
        return check_images(one).size(0)

    def read(self, i: int) -> np.ndarray | None:
        """Read the mask of test image ``i``.

        Parameters
        ----------
        i : int

        Returns
        -------
        ndarray of shape (height, width), uint8, or None
            As from :meth:`defects`, all in one.
        """
        defects = self.defects(i)
        return None if defects is None else np.maximum.reduce([one.mask for one in defects])

    def defects(self, i: int) -> list[Defect] | None:
        """Read the defects of test image ``i``.

        Parameters
        ----------
        i : int

        Returns
        -------
        list of Defect, or None
            With masks in the pixels of the image. One for each mask where these tell types of
            defects apart, else one with the union of all; of a good image one with an empty
            mask. None where there is no mask to be used.

        Raises
        ------
        ImageReadError
            If it is the image that cannot be read.
        """
        item, kind = self._items[i], self._kinds[i]
        if item is None or i in self.left_out:
            return None
        size = self.image_size(i)
        try:
            if self._types and isinstance(item, (str, Path, tuple)):
                paths = item if isinstance(item, tuple) else (item,)
                return read_defects([str(path) for path in paths], size, kind, self._types)
            mask = read_mask(item, size)
        except (DatasetError, ImageReadError, ImageFormatError) as error:
            self.left_out[i] = str(error)
            return None
        return [Defect(kind, mask, int(mask.sum()))]
