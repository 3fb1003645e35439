"""Test sets for datasets without a defective image: defects are painted on good ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, _safe_indexing, check_random_state

from pyimgano._any_estimator import image_paths
from pyimgano.benchmark._split import content_of_images
from pyimgano.exceptions import RunError, TooFewImagesError
from pyimgano.inputs import ImageSequence, check_images
from pyimgano.inputs._sequence import _Collection
from pyimgano.synthesis import DefectSynthesizer

__all__ = ["PREFIX", "ImagesWithDefects", "with_synthetic_defects"]

#: What the kinds of painted defects begin with in records and reports.
PREFIX = "synthetic/"
# Share of the good training images that are held out where there are no good test images, and
# their least number.
_HELD_OUT, _LEAST_HELD_OUT = 0.2, 5


class ImagesWithDefects(_Collection):
    """Test images, followed by copies of some of them with a defect.

    Files stay lazy: of a painted image the pixels that differ are kept, and put in when it is
    decoded.

    Parameters
    ----------
    images : collection of images
        See :func:`pyimgano.inputs.check_images`.
    base : sequence of int
        Index of the image that each test image shows.
    defects : sequence of (ndarray of bool, ndarray of uint8, str) or None
        For each, the pixels that differ, their colors and its name in records; None for an image
        without a painted defect.
    """

    def __init__(self, images: _Collection, base: Any, defects: Any) -> None:
        self._images, self._base, self._defects = images, list(base), list(defects)

    def __len__(self) -> int:
        return len(self._base)

    def __repr__(self) -> str:
        painted = sum(one is not None for one in self._defects)
        return f"<ImagesWithDefects: {len(self)} images, {painted} of them with a painted defect>"

    @property
    def paths(self) -> list[str | None]:
        """The image files; None for painted images, which are in no file."""
        paths = getattr(self._images, "paths", None)
        return [
            paths[base] if paths and defect is None else None
            for base, defect in zip(self._base, self._defects)
        ]

    def input_name(self, i: int) -> str | None:
        """Name of painted image ``i`` in records; None for other images."""
        return None if self._defects[i] is None else self._defects[i][2]

    def name(self, i: int) -> str:
        """Name of image ``i`` for messages."""
        name = self._images.name(self._base[i])
        return name if self._defects[i] is None else f"{name} with a painted defect"

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image ``i`` in pixels."""
        return self._images.size(self._base[i])

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        """Give the images in order, a block at a time."""
        start = 0
        for block in self._images[np.array(self._base)].iter_blocks(batch_size):
            yield [self._painted(image, i) for i, image in enumerate(block, start)]
            start += len(block)

    def _get(self, i: int) -> np.ndarray:
        return self._painted(self._images[self._base[i]], i)

    def _painted(self, image: np.ndarray, i: int) -> np.ndarray:
        defect = self._defects[i]
        if defect is None:
            return image
        image = image.copy()
        image[defect[0]] = defect[1]
        return image

    def _take(self, indices: np.ndarray) -> ImagesWithDefects:
        return ImagesWithDefects(
            self._images,
            [self._base[i] for i in indices],
            [self._defects[i] for i in indices],
        )


def with_synthetic_defects(data: Bunch, n_defects: int, random_state: Any, u16_max: int) -> Bunch:
    """Paint defects on copies of good images that are not trained on.

    They are the good test images where there are any, and else a fifth of the good training
    images, which become test images. Equal images are held out together.

    Parameters
    ----------
    data : Bunch
        A dataset, as :func:`~pyimgano.datasets.load_folder` returns it; ``X_test`` may be None.
    n_defects : int
        Number of defective test images to make.
    random_state : int, RandomState or None
        Seeds which images are held out, and the defects.
    u16_max : int
        Value of full scale in 16-bit files.

    Returns
    -------
    Bunch
        With masks of the defects, their kinds as ``"synthetic/scratch"``, and
        ``synthetic_defects``, which says how they were made.

    Raises
    ------
    RunError
        If there are defective images.
    TooFewImagesError
        If there are too few images to hold some out.
    """
    category = data.get("category", "the dataset")
    y_train = np.asarray(data.y_train)
    y_test = np.asarray([] if data.X_test is None else data.y_test, dtype=int)
    n_real = int((y_test == -1).sum() + (y_train == -1).sum())
    if n_real:
        raise RunError(
            f"{category} has {n_real} defective images, and synthetic_defects={n_defects} is for "
            "datasets without any: leave it out, and the real ones are what is measured with."
        )
    rng = check_random_state(random_state)
    seed = int(rng.randint(2**31 - 1))
    fields: dict[str, Any] = {}
    held_out_from, tested = "test", data.X_test
    if not (y_test == 1).any():
        if len(y_test):
            raise RunError(
                f"{category} has {len(y_test)} test images without a label and no good ones: put "
                "good images into test/good, or take those without a label out of test, and a "
                "fifth of the training images is held out."
            )
        held_out_from = "train"
        chosen = _held_out(data.X_train, y_train, category, n_defects, rng)
        rest = np.setdiff1d(np.arange(len(y_train)), chosen)
        tested, y_test = _safe_indexing(data.X_train, chosen), y_train[chosen]
        fields = {"X_train": _safe_indexing(data.X_train, rest), "y_train": y_train[rest]}
        kinds, masks = ["good"] * len(chosen), [0] * len(chosen)
    else:
        kinds, masks = list(data.kinds_test), list(data.masks_test)
    images = check_images(tested)
    if isinstance(images, ImageSequence) and images.u16_max is None:
        images = images.declare(resize=None, u16_max=u16_max)
    good = np.flatnonzero(y_test == 1)
    base = np.concatenate([rng.permutation(good) for _ in range(-(-n_defects // len(good)))])
    base = base[:n_defects]
    painted = [_painted(images, int(at), i, seed) for i, at in enumerate(base)]
    return Bunch(
        **{
            **data,
            **fields,
            "X_test": ImagesWithDefects(
                images, [*range(len(images)), *base], [*[None] * len(images), *painted]
            ),
            "y_test": np.concatenate([y_test, np.full(n_defects, -1)]),
            "kinds_test": kinds + [name.rpartition("/")[0] for _, _, name in painted],
            "masks_test": masks + [mask.astype(np.uint8) for mask, _, _ in painted],
            "synthetic_defects": {
                "n_defects": n_defects,
                "n_held_out": len(good),
                "held_out_from": held_out_from,
                "random_state": seed,
            },
        }
    )


def _held_out(
    X: Any, y: NDArray[np.int_], category: str, n_defects: int, rng: np.random.RandomState
) -> NDArray[np.int_]:
    """Indices of a fifth of the good training images, equal ones together."""
    good = np.flatnonzero(y == 1)
    wanted = max(_LEAST_HELD_OUT, round(_HELD_OUT * len(good)))
    contents = list(content_of_images(X))
    places: dict[bytes, list[int]] = {}
    for i in good:
        places.setdefault(contents[i], []).append(int(i))
    groups = list(places.values())
    chosen: list[int] = []
    for k in rng.permutation(len(groups)):
        if len(chosen) < wanted:
            chosen += groups[k]
    if len(groups) < 2 * _LEAST_HELD_OUT or len(good) - len(chosen) < _LEAST_HELD_OUT:
        raise TooFewImagesError(
            f"{category} has {len(groups)} different good training images and no good test "
            f"images, and synthetic_defects={n_defects} needs {2 * _LEAST_HELD_OUT}: a fifth of "
            f"them, at least {_LEAST_HELD_OUT}, is held out from training to paint on. Add "
            "images, or put good ones into test/good."
        )
    return np.sort(chosen)


def _painted(
    images: _Collection, at: int, i: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.uint8], str]:
    made = DefectSynthesizer(random_state=seed).synthesize(
        images[np.array([at])], indices=np.array([i])
    )
    (image,), (mask,), (kind,) = made
    path = image_paths(images)[at]
    stem = f"test_{at}" if path is None else Path(path).stem
    return mask, image[mask], f"{PREFIX}{kind}/{i:03d}_{stem}"
