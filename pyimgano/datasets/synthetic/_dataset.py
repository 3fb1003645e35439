"""Procedural inspection images with exact masks: no download, no license, any number of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch, check_random_state

from pyimgano import _defaults
from pyimgano.datasets.synthetic import _flaws, _scenes
from pyimgano.datasets.synthetic._circuit_board import circuit_board
from pyimgano.datasets.synthetic._painting import Camera, Canvas, Fault, Scene, visible_change
from pyimgano.utils._outputs import atomic_write
from pyimgano.utils._pairs import check_pair

SceneFunction = Callable[[Canvas, np.random.Generator, "Fault | None"], Scene]


@dataclass(frozen=True)
class _Category:
    draw: SceneFunction
    surface: tuple[str, ...]  # flaws painted on the finished part
    structure: tuple[str, ...] = ()  # flaws the part is drawn with

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.structure + self.surface


_PAINTERS: dict[str, _flaws.Painter] = {
    "contamination": _flaws.contamination,
    "crack": _flaws.crack,
    "dent": _flaws.dent,
    "discoloration": _flaws.discoloration,
    "fibre": _flaws.fiber,
    "hole": _flaws.hole,
    "rust": _flaws.rust,
    "scratch": _flaws.scratch,
    "stain": _flaws.stain,
}

_CATEGORIES: dict[str, _Category] = {
    "bottle_cap": _Category(
        _scenes.bottle_cap,
        ("scratch", "dent", "contamination", "rust"),
        ("misprint", "bent_edge"),
    ),
    "brushed_metal": _Category(
        _scenes.brushed_metal, ("scratch", "dent", "stain", "rust", "contamination")
    ),
    "circuit_board": _Category(
        circuit_board,
        ("scratch", "contamination", "discoloration"),
        ("missing_component", "misplaced_component", "solder_bridge", "open_trace"),
    ),
    "flange": _Category(
        _scenes.flange,
        ("scratch", "dent", "rust", "contamination"),
        ("missing_hole", "chipped_edge"),
    ),
    "printed_grid": _Category(
        _scenes.printed_grid,
        ("scratch", "stain", "contamination", "fibre"),
        ("misprint", "smear"),
    ),
    "screw": _Category(
        _scenes.screw,
        ("scratch", "rust", "contamination"),
        ("damaged_thread", "bent_tip", "broken_tip"),
    ),
    "terrazzo": _Category(_scenes.terrazzo, ("crack", "hole", "stain", "scratch", "discoloration")),
    "wood": _Category(_scenes.wood, ("crack", "hole", "scratch", "stain", "discoloration")),
    "woven_fabric": _Category(
        _scenes.woven_fabric,
        ("hole", "stain", "discoloration", "fibre"),
        ("broken_thread",),
    ),
}

# Part of the seed of an image: which row of images it stands in.
_TRAIN, _TEST_GOOD, _TEST_DEFECT = range(3)
_MAX_SHARE = 0.3  # of the picture that a defect may cover
_ATTEMPTS = 20


def list_inspection_categories() -> dict[str, tuple[str, ...]]:
    """The parts that can be made, each with the kinds of defect that it can have.

    Returns
    -------
    dict of str to tuple of str
        Category to defect kinds.

    Examples
    --------
    >>> from pyimgano.datasets import list_inspection_categories
    >>> list_inspection_categories()["wood"]
    ('crack', 'hole', 'scratch', 'stain', 'discoloration')
    """
    return {name: category.kinds for name, category in _CATEGORIES.items()}


def make_inspection_dataset(
    category: str = "flange",
    *,
    n_train: int = _defaults.N_TRAIN,
    n_test_good: int = 20,
    n_test_defect: int = 30,
    size: int | tuple[int, int] = (_defaults.IMAGE_SIDE, _defaults.IMAGE_SIDE),
    defect_kinds: Sequence[str] | None = None,
    random_state: int | np.random.RandomState | None = None,
    return_pristine: bool = False,
) -> Bunch:
    """Make pictures of an industrial part, good and defective, with exact defect masks.

    Good parts differ as real ones do: in position, rotation, texture, color, illumination,
    sharpness and sensor noise. Comparing pixels with the mean picture does not find the
    defects; features that know texture and shape do, but for the faintest.

    Parameters
    ----------
    category : str, default="flange"
        What to make. Textures: ``"brushed_metal"``, ``"printed_grid"``, ``"terrazzo"``,
        ``"wood"``, ``"woven_fabric"``; objects: ``"bottle_cap"``, ``"circuit_board"``,
        ``"flange"``, ``"screw"``.
    n_train, n_test_good, n_test_defect : int, default=60, 20, 30
        Number of good training pictures, and of good and defective test pictures.
    size : int or (int, int), default=(256, 256)
        Height and width in pixels, at least 64 each. Parts scale with the shorter side.
    defect_kinds : sequence of str, default=None
        Kinds of defect to make, in turn. ``None`` takes all the category has, see
        :func:`list_inspection_categories`.
    random_state : int, RandomState instance or None, default=None
        An int gives the same pictures every time. Each picture has a seed of its own: it
        does not depend on how many others are made.
    return_pristine : bool, default=False
        Also return the test parts as they were before the defect.

    Returns
    -------
    Bunch
        The same fields as :func:`load_folder`, here as arrays:

        - ``X_train``, ``X_test`` : uint8 RGB of shape (n, H, W, 3). In ``X_test`` the good
          pictures come first.
        - ``y_train``, ``y_test`` : int of shape (n,), +1 good and -1 defective.
        - ``masks_test`` : uint8 of shape (n_test, H, W), 1 on the defect. Outside the mask the
          picture equals its pristine picture bit for bit. Inside it differs noticeably, but
          for gaps of a few pixels, which are closed.
        - ``kinds_test`` : list of str, the kind of defect, ``"good"`` for good ones.
        - ``data``, ``target``, ``masks``, ``split`` : training and test set one after the
          other; ``split`` holds ``"train"`` and ``"test"``. ``X_train`` and ``X_test`` are
          views of ``data``.
        - ``target_names`` : ``["good"]`` and the kinds of defect in use.
        - ``missing_masks`` : empty list.
        - ``category``, ``DESCR`` : str.
        - ``X_test_pristine`` : only with ``return_pristine``; like ``X_test``.

    Raises
    ------
    ValueError
        For an unknown category or a kind of defect that the category does not have.

    Notes
    -----
    Equal seeds give equal bits on one installation; another version of NumPy or OpenCV may
    round a few pixels differently.

    Examples
    --------
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> parts = make_inspection_dataset(
    ...     "flange", n_train=4, n_test_good=2, n_test_defect=3, size=96, random_state=0
    ... )
    >>> parts.X_train.shape, parts.X_test.shape
    ((4, 96, 96, 3), (5, 96, 96, 3))
    >>> parts.y_test
    array([ 1,  1, -1, -1, -1])
    >>> parts.kinds_test
    ['good', 'good', 'missing_hole', 'chipped_edge', 'scratch']
    """
    plan = _Plan(category, n_train, n_test_good, n_test_defect, size, defect_kinds, random_state)
    height, width = plan.size
    number = len(plan.jobs)
    data = np.empty((number, height, width, 3), np.uint8)
    masks = np.zeros((number, height, width), np.uint8)
    pristine = np.empty((number - n_train if return_pristine else 0, height, width, 3), np.uint8)
    for index, job in enumerate(plan.jobs):
        data[index], masks[index], sound = plan.make(job)
        if return_pristine and index >= n_train:
            pristine[index - n_train] = sound
    kinds = [job.kind for job in plan.jobs]
    target = np.array([1 if kind == "good" else -1 for kind in kinds], dtype=int)
    bunch = Bunch(
        X_train=data[:n_train],
        X_test=data[n_train:],
        y_train=target[:n_train],
        y_test=target[n_train:],
        masks_test=masks[n_train:],
        kinds_test=kinds[n_train:],
        X_validation=None,
        defect_types=(),
        data=data,
        target=target,
        masks=masks,
        split=np.array(["train"] * n_train + ["test"] * (number - n_train), dtype="<U5"),
        target_names=["good", *plan.kinds],
        missing_masks=[],
        category=category,
        DESCR=plan.describe(),
    )
    if return_pristine:
        bunch.X_test_pristine = pristine
    return bunch


def write_inspection_dataset(
    folder: str | Path,
    category: str = "flange",
    *,
    n_train: int = _defaults.N_TRAIN,
    n_test_good: int = 20,
    n_test_defect: int = 30,
    size: int | tuple[int, int] = (_defaults.IMAGE_SIDE, _defaults.IMAGE_SIDE),
    defect_kinds: Sequence[str] | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Path:
    """Write the pictures of :func:`make_inspection_dataset` as PNG files in MVTec's layout.

    Parameters
    ----------
    folder : str or Path
        Where to put the category's folder; created if need be.
    category, n_train, n_test_good, n_test_defect, size, defect_kinds, random_state
        As in :func:`make_inspection_dataset`; the files hold the same pixels.

    Returns
    -------
    Path
        ``folder / category``, which holds ``train/good``, ``test/good``, ``test/<kind>`` and
        ``ground_truth/<kind>``: ready for :func:`load_folder`.

    Raises
    ------
    FileExistsError
        If the category's folder exists already and is not empty.
    ValueError
        For an unknown category or a kind of defect that the category does not have.

    Examples
    --------
    >>> import tempfile
    >>> from pyimgano.datasets import load_folder, write_inspection_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_inspection_dataset(
    ...         folder, "wood", n_train=2, n_test_good=1, n_test_defect=1, size=64, random_state=0
    ...     )
    ...     load_folder(path).kinds_test
    ['good', 'crack']
    """
    plan = _Plan(category, n_train, n_test_good, n_test_defect, size, defect_kinds, random_state)
    root = Path(folder) / category
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(
            f"{root} is not empty: choose another folder, or remove what is there, so that "
            f"old and new pictures do not mix."
        )
    counts: dict[str, int] = {}
    for job in plan.jobs:
        image, mask, _ = plan.make(job)
        place = f"{'train' if job.row == _TRAIN else 'test'}/{job.kind}"
        number = counts.get(place, 0)
        counts[place] = number + 1
        _write_png(root / place / f"{number:03d}.png", image[..., ::-1])
        if job.row == _TEST_DEFECT:
            _write_png(
                root / f"ground_truth/{job.kind}/{number:03d}_mask.png", mask * np.uint8(255)
            )
    return root


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Encoded here and written by Python: OpenCV cannot open every path on Windows.
    encoded = cv2.imencode(".png", np.ascontiguousarray(image))[1]
    with atomic_write(path, durable=False) as file:
        file.write(encoded.tobytes())


@dataclass(frozen=True)
class _Job:
    """One picture to make: its row of pictures, its place in the row, what is wrong with it."""

    row: int
    index: int
    kind: str


class _Plan:
    """The checked arguments and the list of pictures they ask for."""

    def __init__(
        self,
        category: str,
        n_train: int,
        n_test_good: int,
        n_test_defect: int,
        size: int | tuple[int, int],
        defect_kinds: Sequence[str] | None,
        random_state: int | np.random.RandomState | None,
    ) -> None:
        if category not in _CATEGORIES:
            raise ValueError(
                f"category={category!r} is not one of {', '.join(map(repr, _CATEGORIES))}."
            )
        for name, count in (
            ("n_train", n_train),
            ("n_test_good", n_test_good),
            ("n_test_defect", n_test_defect),
        ):
            if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
                raise ValueError(f"{name} must be an int of at least 0, got {count!r}.")
        self.category = category
        self.size = check_pair(size, "size", least=64)
        self.kinds = _check_kinds(category, defect_kinds)
        self.entropy = _entropy(random_state)
        self.jobs = [_Job(_TRAIN, index, "good") for index in range(n_train)]
        self.jobs += [_Job(_TEST_GOOD, index, "good") for index in range(n_test_good)]
        self.jobs += [
            _Job(_TEST_DEFECT, index, self.kinds[index % len(self.kinds)])
            for index in range(n_test_defect)
        ]

    def make(self, job: _Job) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """One picture, its mask, and the picture before the defect."""
        key = (zlib.crc32(self.category.encode()), job.row, job.index)
        part, shot, flaw = np.random.SeedSequence(self.entropy, spawn_key=key).spawn(3)
        canvas = Canvas(*self.size)
        camera = Camera(canvas, np.random.default_rng(shot))
        draw = _CATEGORIES[self.category].draw
        scene = draw(canvas, np.random.default_rng(part), None)
        sound = camera.shoot(scene.image)
        if job.kind == "good":
            return sound, np.zeros(self.size, np.uint8), sound
        rng = np.random.default_rng(flaw)
        strength = max(float(rng.beta(2.0, 1.5)), 0.12)
        # A flaw can fall where it does not show, a scratch on a black chip say: try elsewhere.
        for _ in range(_ATTEMPTS):
            if job.kind in _CATEGORIES[self.category].structure:
                fault = Fault(job.kind, rng, strength)
                flawed = draw(canvas, np.random.default_rng(part), fault).image
            else:
                flawed = _PAINTERS[job.kind](scene, canvas, rng, strength)
            seen = camera.shoot(flawed)
            mask = visible_change(sound, seen, canvas.scale)
            if mask.any() and mask.mean() <= _MAX_SHARE:
                return np.where(mask[..., None] > 0, seen, sound), mask, sound
            strength = min(1.15 * strength, 1.0)
        raise RuntimeError(
            f"no visible {job.kind} could be placed on {self.category} number {job.index} at "
            f"size={self.size}: choose a larger size."
        )

    def describe(self) -> str:
        height, width = self.size
        rows = [job.row for job in self.jobs]
        return (
            f"Synthetic inspection dataset {self.category!r}: {rows.count(_TRAIN)} good training "
            f"pictures, {rows.count(_TEST_GOOD)} good and {rows.count(_TEST_DEFECT)} defective "
            f"test pictures of {height} x {width} pixels; defects: {', '.join(self.kinds)}. "
            f"Drawn by pyimgano.datasets.make_inspection_dataset."
        )


def _check_kinds(category: str, defect_kinds: Sequence[str] | None) -> tuple[str, ...]:
    known = _CATEGORIES[category].kinds
    if defect_kinds is None:
        return known
    if isinstance(defect_kinds, str) or len(defect_kinds) == 0:
        raise ValueError(
            f"defect_kinds must be a non-empty list of names such as {list(known[:2])}, "
            f"got {defect_kinds!r}."
        )
    for kind in defect_kinds:
        if kind not in known:
            raise ValueError(
                f"category {category!r} has no defect kind {kind!r}; it has {', '.join(known)}."
            )
    return tuple(defect_kinds)


def _entropy(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, Integral):
        if random_state < 0:
            raise ValueError(f"random_state must not be negative, got {random_state!r}.")
        return int(random_state)
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    return int(check_random_state(random_state).randint(2**31 - 1))
