"""Choice of the test images that a benchmark draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pyimgano.reporting._drawing import resize_pixels
from pyimgano.reporting._overlay import fit_map, picture_size

__all__ = ["Picture", "PictureChoice"]

# In the order in which kinds take turns to fill up the number of pictures.
_ROLES = ("worst", "best", "closest")


class Picture(NamedTuple):
    """A test image that may be drawn.

    Attributes
    ----------
    wrong : float
        How far its score is on the wrong side of the threshold; negative on the right side.
    sample : int
        Index of the test image.
    anomaly_map : ndarray of shape (height, width)
        At most of the size at which it is drawn.
    image : ndarray of shape (height, width, 3), uint8, or None
        Likewise; None if it has to be read when it is drawn.
    record : mapping
        The record of the image.
    """

    wrong: float
    sample: int
    anomaly_map: np.ndarray
    image: np.ndarray | None
    record: Mapping[str, Any]


class PictureChoice:
    """Collects the test images to draw while these are judged one after the other.

    Of each kind of image, good ones and each kind of defect, it keeps the one judged worst, the
    one judged best and the one closest to the threshold. Kinds take turns, first with the worst
    of each, until there are as many pictures as asked for.

    Parameters
    ----------
    n_pictures : int
        How many there may be.
    """

    def __init__(self, n_pictures: int) -> None:
        self._n_pictures = n_pictures
        self._of_kind: dict[str, dict[str, Picture]] = {}

    def add(
        self,
        kind: str,
        wrong: float,
        sample: int,
        anomaly_map: np.ndarray,
        image: np.ndarray | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in a judged image; map and pixels are kept only as long as it may be drawn.

        Parameters
        ----------
        kind : str
            Kind of defect, or of good image.
        wrong, sample, anomaly_map, image, record
            As for :class:`Picture`.
        """
        if self._n_pictures == 0:
            return
        kept = self._of_kind.setdefault(kind, {})
        beaten = [
            role
            for role in _ROLES
            if role not in kept or _rank(role, wrong) > _rank(role, kept[role].wrong)
        ]
        if beaten:
            if image is not None:
                image = resize_pixels(image, _at_most_drawn(image))
            heat = fit_map(anomaly_map, _at_most_drawn(anomaly_map))
            picture = Picture(wrong, sample, heat, image, record or {})
            kept.update(dict.fromkeys(beaten, picture))

    def chosen(self) -> list[tuple[str, Picture]]:
        """The images to draw, each with its role in its kind, the worst judged first.

        Returns
        -------
        list of (str, Picture)
            The role is "worst", "best" or "closest"; of an image with several, the first.
        """
        found: dict[int, tuple[str, Picture]] = {}
        for role in _ROLES:
            of_role = [kept[role] for kept in self._of_kind.values()]
            for picture in sorted(of_role, key=_worst_first):
                if len(found) < self._n_pictures:
                    found.setdefault(picture.sample, (role, picture))
        return sorted(found.values(), key=lambda pair: _worst_first(pair[1]))


def _at_most_drawn(pixels: np.ndarray) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    drawn = picture_size((height, width))
    return min(height, drawn[0]), min(width, drawn[1])


def _rank(role: str, wrong: float) -> float:
    return {"worst": wrong, "best": -wrong, "closest": -abs(wrong)}[role]


def _worst_first(picture: Picture) -> tuple[float, int]:
    return -picture.wrong, picture.sample
