"""``DefectRegion``: one defect of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pyimgano.defects._outline import outlines

__all__ = ["DefectRegion", "to_pandas"]

_PAIRS = {
    "bbox_xyxy": ("x0", "y0", "x1", "y1"),
    "centroid": ("centroid_x", "centroid_y"),
    "image_bbox_xyxy": ("image_x0", "image_y0", "image_x1", "image_y1"),
    "image_centroid": ("image_centroid_x", "image_centroid_y"),
}


@dataclass(frozen=True)
class DefectRegion:
    """A region of an image that is anomalous.

    Parameters
    ----------
    id : int
        Number of the region in its image, from 1 on.
    bbox_xyxy : (int, int, int, int)
        Bounding box ``(x0, y0, x1, y1)`` in pixels of the map. The first column and row belong
        to it, the last do not: it is ``x1 - x0`` pixels wide.
    area : int
        Number of pixels of the map.
    centroid : (float, float)
        Mean ``(x, y)`` of the pixels; the center of the first pixel of the map is ``(0, 0)``.
    score_max, score_mean : float
        Largest and mean value of the map in the region, after ``map_smoothing``.
    aspect_ratio : float
        Long side by short side of the smallest rectangle, in any direction, around the squares of
        the pixels. It is at least 1; a line of ``n`` pixels has ``n``, a diagonal one as well.
    solidity : float
        Area by that of the convex hull, counted in pixels whose centers lie in it. A scratch one
        pixel wide that is straight has 1.
    compactness : float
        ``16 * area / perimeter ** 2``, with the perimeter counted in edges of pixels: 1 for a
        square, less for all else.
    fill_ratio : float
        Area by that of ``bbox_xyxy``.
    mask : ndarray of shape (y1 - y0, x1 - x0), bool
        The pixels of the region inside its bounding box.
    image_bbox_xyxy : (int, int, int, int), default=None
        The bounding box in pixels of the image: the smallest one of whole pixels around it. None
        where the image has the size of the map, or its size is not known; so the others.
    image_area : float, default=None
        Area in pixels of the image.
    image_centroid : (float, float), default=None
        Centroid in pixels of the image; the center of its first pixel is ``(0, 0)``.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.defects import DefectExtractor
    >>> good, bad = np.zeros((4, 8, 8)), np.zeros((1, 8, 8))
    >>> bad[0, 2:5, 1:3] = 1.0
    >>> ((region,),) = DefectExtractor().fit(good).transform(bad)
    >>> region.bbox_xyxy, region.area, region.aspect_ratio
    ((1, 2, 3, 5), 6, 1.5)
    """

    id: int
    bbox_xyxy: tuple[int, int, int, int]
    area: int
    centroid: tuple[float, float]
    score_max: float
    score_mean: float
    aspect_ratio: float
    solidity: float
    compactness: float
    fill_ratio: float
    mask: np.ndarray = field(repr=False, compare=False)
    image_bbox_xyxy: tuple[int, int, int, int] | None = None
    image_area: float | None = None
    image_centroid: tuple[float, float] | None = None

    def contour(self) -> list[np.ndarray]:
        """Trace the outer edges of the pixels of the region; holes are left out.

        Returns
        -------
        list of ndarray of shape (n_corners, 2), int
            A closed polygon for each connected part, its corners ``(x, y)`` in pixels of the map,
            where ``(0, 0)`` is the upper left corner of the first pixel. Pixels that touch at a
            corner are connected.
        """
        corner = np.array(self.bbox_xyxy[:2])
        return [ring + corner for ring in outlines(self.mask)]

    def to_dict(self, *, contour: bool = False) -> dict[str, Any]:
        """Describe the region in plain JSON types.

        Parameters
        ----------
        contour : bool, default=False
            Add the ``"contour"`` as lists of ``[x, y]``.

        Returns
        -------
        dict
            All but the mask, and without what is None.
        """
        described: dict[str, Any] = {}
        for name in _NAMES:
            value = getattr(self, name)
            if value is not None:
                described[name] = list(value) if isinstance(value, tuple) else value
        if contour:
            described["contour"] = [ring.tolist() for ring in self.contour()]
        return described


_NAMES = tuple(one.name for one in fields(DefectRegion) if one.name != "mask")


def to_pandas(results: Sequence[Sequence[DefectRegion]], names: Sequence[Any] | None = None) -> Any:
    """Put the regions of several images into one table.

    Parameters
    ----------
    results : list of lists of DefectRegion
        Regions of each image, as :meth:`DefectExtractor.transform` returns them.
    names : sequence, default=None
        A name for each image, such as its path; its position by default.

    Returns
    -------
    pandas.DataFrame
        A row for each region, with the name of the image in the column ``image``. Boxes and
        centroids have a column for each number.
    """
    import pandas as pd

    if names is None:
        names = range(len(results))
    if len(names) != len(results):
        raise ValueError(f"there are {len(names)} names for the regions of {len(results)} images.")
    scaled = any(region.image_area is not None for regions in results for region in regions)
    kept = [name for name in _NAMES if scaled or not name.startswith("image_")]
    columns = ["image"]
    for name in kept:
        columns += _PAIRS.get(name, (name,))
    rows = []
    for name, regions in zip(names, results):
        for region in regions:
            row = [name]
            for one in kept:
                value = getattr(region, one)
                if one in _PAIRS:
                    row += value or [None] * len(_PAIRS[one])
                else:
                    row.append(value)
            rows.append(row)
    return pd.DataFrame(rows, columns=columns)
