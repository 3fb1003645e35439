"""The record of a dataset: for each image a path, a label, a kind and its masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from pyimgano.datasets._duplicates import duplicates_between
from pyimgano.datasets._masks import read_channel, read_mask
from pyimgano.exceptions import DatasetError
from pyimgano.inputs import ImageSequence
from pyimgano.inputs._reading import read_size

__all__ = ["Defect", "DefectType", "InspectionDataset", "InspectionImage", "read_defects"]

_PARTS = ("train", "validation", "test")


class InspectionImage(NamedTuple):
    """One image of an :class:`InspectionDataset`.

    Parameters
    ----------
    path : str or None
        The file; None for a picture in memory.
    label : {1, -1} or None
        +1 good, -1 defective; None where it is not known, or not published.
    kind : str, default="good"
        Kind of defect; ``"good"`` for good images.
    masks : tuple of str or of ndarray, default=()
        Mask files, or masks in memory. Good images have none; a defective image without masks
        is one whose mask is missing.
    group : str or None, default=None
        The part that was photographed, where there are several images of one.
    condition : str or None, default=None
        Lighting or view under which the image was taken, where there are several.
    pixels : ndarray of shape (H, W, 3), uint8, or None, default=None
        The picture, where it is in memory.
    """

    path: str | None
    label: int | None
    kind: str = "good"
    masks: tuple[str | NDArray[np.uint8], ...] = ()
    group: str | None = None
    condition: str | None = None
    pixels: NDArray[np.uint8] | None = None


class DefectType(NamedTuple):
    """A type of defect and the area from which it counts as found (MVTec LOCO).

    Parameters
    ----------
    name : str
    pixel_value : int
        Value of its pixels in masks, 1 to 255.
    saturation_threshold : int or float
        Pixels, or share of the defect, that are enough.
    relative_saturation : bool
        Whether the threshold is a share.
    """

    name: str
    pixel_value: int
    saturation_threshold: float
    relative_saturation: bool

    def saturation_area(self, area: int) -> int:
        """Give the number of pixels from which a defect counts as found.

        Parameters
        ----------
        area : int
            Number of pixels of the defect.

        Returns
        -------
        int
        """
        if self.relative_saturation:
            return int(self.saturation_threshold * area)
        return int(min(self.saturation_threshold, area))


class Defect(NamedTuple):
    """One defect of an image, as :meth:`InspectionDataset.read_defects` reads it.

    Parameters
    ----------
    name : str
        Type of the defect; its kind, where there are no types.
    mask : ndarray of shape (H, W), uint8
        1 on the defect, 0 elsewhere.
    saturation_area : int
        Number of its pixels from which it counts as found; all of them where the dataset
        does not say.
    """

    name: str
    mask: NDArray[np.uint8]
    saturation_area: int


@dataclass(frozen=True, repr=False)
class InspectionDataset:
    """A dataset as a list of its images; none of them is decoded.

    Parameters
    ----------
    name : str
        Name of the dataset, such as ``"mvtec_ad"``.
    category : str
        Its category.
    train, test : tuple of InspectionImage
        The training images, among them defective ones where the dataset has any, and the test
        images.
    validation : tuple of InspectionImage, default=()
        The validation images, where the dataset has any.
    defect_types : tuple of DefectType, default=()
        Types of defects, where the masks tell them apart by their pixel values.
    description : str, default=""
        The images in a sentence.

    Examples
    --------
    >>> from pyimgano.datasets import InspectionDataset, InspectionImage
    >>> parts = InspectionDataset(
    ...     "ours",
    ...     "bolt",
    ...     train=(InspectionImage("a.png", 1), InspectionImage("b.png", 1)),
    ...     test=(InspectionImage("c.png", -1, "scratch", ("c_mask.png",)),),
    ... )
    >>> parts
    <InspectionDataset ours, bolt: 2 train, 0 validation, 1 test>
    >>> parts.to_bunch().masks_test
    ['c_mask.png']
    """

    name: str
    category: str
    train: tuple[InspectionImage, ...]
    test: tuple[InspectionImage, ...]
    validation: tuple[InspectionImage, ...] = ()
    defect_types: tuple[DefectType, ...] = ()
    description: str = ""

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, part))} {part}" for part in _PARTS)
        return f"<InspectionDataset {self.name}, {self.category}: {counts}>"

    def images(self, part: str = "train") -> ImageSequence | NDArray[np.uint8]:
        """Give the images of a part as detectors take them.

        Parameters
        ----------
        part : {"train", "validation", "test"}, default="train"

        Returns
        -------
        ImageSequence or ndarray of shape (n, H, W, 3)
            The latter for pictures in memory.

        Raises
        ------
        DatasetError
            If there are none.
        """
        return _pictures(self._part(part), f"{self!r} has no {part} images.")

    def to_bunch(self) -> Bunch:
        """Give training, validation and test set in the fields of :func:`load_folder`.

        Returns
        -------
        Bunch
            As from :func:`load_folder`; a test image without a label has 0 in ``y_test``. Where
            an image has several masks, its entry in
            ``masks_test`` is the tuple of them; :func:`read_mask` reads it.

        Raises
        ------
        DatasetError
            If there are no training or no test images, or training images without a label.
        """
        for part in ("train", "test"):
            if not self._part(part):
                raise DatasetError(f"{self!r} has no {part} images.")
        if any(image.label is None for image in self.train):
            raise DatasetError(
                f"{self!r}: there are training images without a label; +1 is that of a good one."
            )
        n_train, every = len(self.train), self.train + self.test
        target = np.array([image.label or 0 for image in every], int)
        data = _pictures(every, "")
        masks = _mask_entries(every)
        kinds = [image.kind for image in every]
        defects = dict.fromkeys(i.kind for i in self.test + self.train if i.label == -1)
        good = [image for image in self.validation if image.label == 1]
        return Bunch(
            X_train=data[:n_train],
            X_test=data[n_train:],
            y_train=target[:n_train],
            y_test=target[n_train:],
            masks_test=masks[n_train:],
            kinds_test=kinds[n_train:],
            X_validation=_pictures(good, "") if good else None,
            defect_types=self.defect_types,
            data=data,
            target=target,
            masks=masks,
            split=np.array(["train"] * n_train + ["test"] * len(self.test), dtype="<U5"),
            target_names=["good", *defects],
            missing_masks=[i.path for i in self.test if i.label == -1 and not i.masks],
            category=self.category,
            DESCR=self.description,
        )

    def read_defects(self, image: InspectionImage) -> list[Defect]:
        """Read the masks of an image, each by itself.

        Parameters
        ----------
        image : InspectionImage
            One of this dataset.

        Returns
        -------
        list of Defect
            One for each mask; empty for a good image, and where the mask is missing.

        Raises
        ------
        DatasetError
            If a mask has another size than the image, marks nothing or everything, or has pixel
            values that no type of defect has, or those of several.
        ImageReadError
            If the image or a mask cannot be read.
        """
        size = image.pixels.shape[:2] if image.pixels is not None else None
        if image.masks and image.path is not None:
            size = read_size(image.path)
        return read_defects(image.masks, size, image.kind, self.defect_types)

    def check_masks(self) -> None:
        """Read every mask once, so that what is wrong with one is known.

        Raises
        ------
        DatasetError, ImageReadError
            As from :meth:`read_defects`, for the first mask that cannot be used.
        """
        for part in _PARTS:
            for image in self._part(part):
                self.read_defects(image)

    def duplicates(self, *, decode: bool = False) -> list[tuple[str, str]]:
        """Find pictures that are in more than one part, by their content.

        Parameters
        ----------
        decode : bool, default=False
            Compare decoded pixels, which also finds pictures that were saved anew without loss.
            It decodes every image. Otherwise files are compared byte by byte, and only those of
            equal size are read.

        Returns
        -------
        list of (str, str)
            The two files, or places such as ``"train[3]"`` of pictures in memory.
        """
        return duplicates_between({part: self._part(part) for part in _PARTS}, decode=decode)

    def _part(self, part: str) -> tuple[InspectionImage, ...]:
        if part not in _PARTS:
            raise ValueError(f"part must be one of {', '.join(map(repr, _PARTS))}, got {part!r}.")
        return getattr(self, part)


def read_defects(
    masks: Sequence[str | NDArray[np.uint8]],
    size: tuple[int, int] | None,
    kind: str,
    defect_types: Sequence[DefectType],
) -> list[Defect]:
    """Read the masks of an image, each by itself.

    Parameters
    ----------
    masks : sequence of str or ndarray
        One for each defect of the image.
    size : (int, int) or None
        Height and width of the image.
    kind : str
        What defects are called where there are no types.
    defect_types : sequence of DefectType
        Types of defects by their pixel values; empty if values mean nothing.

    Returns
    -------
    list of Defect

    Raises
    ------
    DatasetError, ImageReadError
        As from :meth:`InspectionDataset.read_defects`.
    """
    types = {one.pixel_value: one for one in defect_types}
    found = []
    for mask in masks:
        if not types or not isinstance(mask, str):
            read = read_mask(mask, size)
            found.append(Defect(kind, read, int(read.sum())))
            continue
        read, values = read_channel(mask, size, types)
        if len(values) > 1:
            raise DatasetError(
                f"{mask}: has pixels of the values {', '.join(map(str, values))}; each mask is "
                f"of one defect and has one value beside 0. Take it as it was published."
            )
        one = types[values[0]]
        found.append(Defect(one.name, read, one.saturation_area(int(read.sum()))))
    return found


def _pictures(images: Sequence[InspectionImage], if_none: str) -> ImageSequence | NDArray[np.uint8]:
    if not images:
        raise DatasetError(if_none)
    pixels = [image.pixels for image in images if image.pixels is not None]
    if pixels:
        return np.stack(pixels)
    return ImageSequence([image.path for image in images if image.path is not None])


def _mask_entries(images: Sequence[InspectionImage]) -> NDArray[np.uint8] | list[Any]:
    """Give the entries of a Bunch that :func:`read_mask` reads."""
    sizes = [image.pixels.shape[:2] for image in images if image.pixels is not None]
    if sizes:
        return np.stack([read_mask(_mask_entry(i), size) for i, size in zip(images, sizes)])
    return [_mask_entry(image) for image in images]


def _mask_entry(image: InspectionImage) -> Any:
    if image.label == 1:
        return 0
    if not image.masks:
        return None
    return image.masks[0] if len(image.masks) == 1 else image.masks
