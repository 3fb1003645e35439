"""Defects as masks and annotations: PNG, run lengths and polygons."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pyimgano.defects._region import DefectRegion
from pyimgano.utils._outputs import atomic_write

__all__ = ["from_rle", "to_coco", "to_labelme", "to_mask", "to_rle", "write_mask"]

_LARGEST_ID = np.iinfo(np.uint16).max


def to_mask(
    regions: Sequence[DefectRegion], size: tuple[int, int], *, ids: bool = False
) -> NDArray[Any]:
    """Draw the regions of an image into one mask.

    Parameters
    ----------
    regions : list of DefectRegion
        Regions of one image.
    size : (int, int)
        Height and width of the anomaly map they were found in.
    ids : bool, default=False
        Whether the pixels of a region hold its ``id`` rather than 255.

    Returns
    -------
    ndarray of shape ``size``, uint8, or uint16 with ``ids``
        0 where there is no region.
    """
    if ids and any(region.id > _LARGEST_ID for region in regions):
        raise ValueError(
            f"{len(regions)} regions are more than the ids of a mask of 16 bits: find fewer, with "
            "DefectExtractor(max_regions=...) or min_area."
        )
    mask: NDArray[Any] = np.zeros(size, dtype=np.uint16 if ids else np.uint8)
    for region in regions:
        x0, y0, x1, y1 = region.bbox_xyxy
        if x1 > size[1] or y1 > size[0]:
            raise ValueError(
                f"region {region.id} has bbox_xyxy={region.bbox_xyxy}, beyond size={tuple(size)}: "
                "give the height and width of the anomaly map."
            )
        mask[y0:y1, x0:x1][region.mask] = region.id if ids else 255
    return mask


def write_mask(
    path: str | os.PathLike[str],
    regions: Sequence[DefectRegion],
    size: tuple[int, int],
    *,
    ids: bool = False,
) -> None:
    """Write the regions of an image as a mask in a PNG file, also where there are none.

    Parameters
    ----------
    path : str or Path
        The file to create or to replace.
    regions, size, ids : as in :func:`to_mask`
    """
    done, content = cv2.imencode(".png", to_mask(regions, size, ids=ids))
    if not done:
        raise ValueError(f"{os.fspath(path)}: a mask of size={tuple(size)} is no PNG.")
    with atomic_write(path) as file:
        file.write(content.tobytes())


def to_rle(mask: Any) -> dict[str, Any]:
    """Encode a mask as the run lengths of COCO, not compressed.

    Parameters
    ----------
    mask : array-like of shape (height, width)
        Pixels other than 0 are inside.

    Returns
    -------
    dict
        ``"size"``, height and width, and ``"counts"``: the lengths of runs outside and inside in
        turn, the first one outside and maybe 0, column by column.
    """
    inside = np.asarray(mask) != 0
    flat = inside.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": list(inside.shape), "counts": counts}


def from_rle(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """Decode what :func:`to_rle` returns.

    Parameters
    ----------
    rle : dict
        ``"size"`` and ``"counts"``.

    Returns
    -------
    ndarray of shape (height, width), bool
    """
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, str) or sum(counts) != height * width:
        raise ValueError(
            f'rle["counts"] must be a list of numbers that add up to {height} x {width}; '
            "compressed ones are decoded by pycocotools."
        )
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def to_labelme(
    regions: Sequence[DefectRegion],
    size: tuple[int, int],
    image_path: str,
    *,
    label: str = "defect",
) -> dict[str, Any]:
    """Describe the regions of an image as LabelMe does, in plain JSON types.

    Parameters
    ----------
    regions : list of DefectRegion
    size : (int, int)
        Height and width of the anomaly map.
    image_path : str
        Name of the image, as seen from the folder of the file.
    label : str, default="defect"
        Label of all polygons.

    Returns
    -------
    dict
        A polygon for each connected part, without holes. The parts of one region share its ``id``
        as their ``"group_id"``.
    """
    shapes = [
        {
            "label": label,
            "points": [[float(x), float(y)] for x, y in ring],
            "group_id": region.id,
            "description": f"score_max={region.score_max:.6g}",
            "shape_type": "polygon",
            "flags": {},
        }
        for region in regions
        for ring in region.contour()
    ]
    return {
        "version": "5.0.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": int(size[0]),
        "imageWidth": int(size[1]),
    }


def to_coco(
    results: Sequence[Sequence[DefectRegion]],
    sizes: Sequence[tuple[int, int]],
    names: Sequence[str],
    *,
    label: str = "defect",
    rle: bool = False,
) -> dict[str, Any]:
    """Describe the regions of several images as COCO does, in plain JSON types.

    Parameters
    ----------
    results : list of lists of DefectRegion
        Regions of each image.
    sizes : sequence of (int, int)
        Height and width of each anomaly map.
    names : sequence of str
        File name of each image.
    label : str, default="defect"
        Name of the only category.
    rle : bool, default=False
        Whether regions are written as run lengths, which keep holes, rather than polygons, which
        do not.

    Returns
    -------
    dict
        ``"images"``, ``"annotations"`` and ``"categories"``. Annotations have a ``"score"``, the
        ``score_max`` of their region.
    """
    if not len(results) == len(sizes) == len(names):
        raise ValueError(
            f"there are the regions of {len(results)} images, {len(sizes)} sizes and "
            f"{len(names)} names: give one of each for every image."
        )
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (regions, size, name) in enumerate(zip(results, sizes, names), start=1):
        height, width = int(size[0]), int(size[1])
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for region in regions:
            x0, y0, x1, y1 = region.bbox_xyxy
            segmentation: Any = (
                to_rle(to_mask([region], (height, width)))
                if rle
                else [ring.ravel().astype(float).tolist() for ring in region.contour()]
            )
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": region.area,
                    "segmentation": segmentation,
                    "iscrowd": 0,
                    "score": region.score_max,
                }
            )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": label, "supercategory": ""}],
    }
