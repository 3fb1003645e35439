"""Base of the template detectors: the working image, leaving out, shifts, maps, scores."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from copy import copy
from numbers import Integral, Real
from typing import Any, NamedTuple

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._training import SampleKey, TrainingStream, iter_keyed_images
from pyimgano.base import BaseImageDetector
from pyimgano.exceptions import (
    AlignmentWarning,
    ImageFormatError,
    ParameterError,
    PoseWarning,
    TooFewImagesError,
)
from pyimgano.grids import (
    MAX_SMOOTHING_SIGMA,
    PatchGrids,
    cells_inside,
    lowest_outside,
    smooth_inside,
)
from pyimgano.inputs._formats import resize_image
from pyimgano.inputs._placement import Placement
from pyimgano.preprocessing._registration import ALIGNMENTS, MOTIONS, Registrar, covered, warp
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._outputs import PieceWriter, naming_temporary_files
from pyimgano.utils._pairs import check_pair_or_none
from pyimgano.utils._state import Array, Maybe, MayLack, Number, Sizes, State, TupleOf, fail
from pyimgano.utils._warning import warn_user

__all__ = [
    "BaseTemplateDetector",
    "check_middle",
    "median_of",
    "median_without",
    "middle_of",
    "nearest",
    "sorted_positions",
]

# Values sorted at a time; bounds the temporaries.
_CHUNK = 4_000_000
# Training images lack this share of what a blank image lacks, or more, if their parts lie in any
# direction: screws 1.0, bottles 0.02.
_NO_TEMPLATE = 0.9


class _Block(NamedTuple):
    """A few samples as planes (n, n_planes, height, width), and the way back to pixels."""

    planes: list[np.ndarray]
    sizes: list[tuple[int, int]]
    grids: PatchGrids | None


class _Heat(NamedTuple):
    """Deviation of a sample in the frame of the template, and the move that took it there."""

    values: np.ndarray
    motion: np.ndarray | None
    lack: tuple[float, float]  # of the template's pattern, and all of that


class BaseTemplateDetector(BaseImageDetector[_Block, list[_Heat]]):
    """Base of the detectors that compare an image with a template, pixel by pixel.

    Works on planes ``(n_planes, height, width)``: the channels of the working image, uint8, or
    the features of a patch grid, float32. A subclass writes

    ``_learn(stack) -> None``
        Set the fitted attributes from ``(n, n_planes, height, width)``, which may lie on disk.
    ``_model(planes) -> model``
        What ``_deviation`` compares with, as learned from all training samples (``planes``
        None) or from all but the one that has these planes.
    ``_deviation(planes, model) -> (height, width)``, float32
        How far each pixel deviates, higher = more anomalous, before any smoothing.

    and says in ``_n_others`` how many samples it needs beside the one left out. A subclass whose
    deviations end somewhere, however wrong an image is, also writes

    ``_lack(deviation, model) -> (lack, pattern)``
        How much an image lacks of the template's pattern, and how much that is; zeros where the
        template has none. Tiles of an image are added up.
    ``_lack_of_blank(model) -> (lack, pattern)``
        The same of an image without any pattern. Images whose share is more than half way between
        those of the training images and of a blank one are unlike them as a whole.
    """

    _family = "template"
    _tags: tuple[str, ...] = ("fixed pose",)
    _parameter_constraints: dict = {
        **BaseImageDetector._parameter_constraints,
        "resize": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "color": [StrOptions({"gray", "rgb", "lab"})],
        "max_shift": [Interval(Integral, 0, None, closed="left")],
        "alignment": [StrOptions(set(ALIGNMENTS)), None],
        "motion": [StrOptions(set(MOTIONS))],
        "smoothing_sigma": [Interval(Real, 0, MAX_SMOOTHING_SIGMA, closed="both")],
        "top_fraction": [Interval(Real, 0, 1, closed="both")],
    }
    _fitted_state = {
        "shape_": TupleOf(
            Number(1, equals="planes"), Number(1, equals="height"), Number(1, equals="width")
        ),
        "_region": Maybe(Array("bool", "height", "width")),
        "reference_": MayLack(Array("uint8", "height", "width", contiguous=True)),
        # Absent from files of earlier versions.
        "_lack_limit": MayLack(Maybe(Number(0))),
    }
    _n_others = 1
    _lack_limit: float | None = None
    _takes_roi_mask = True

    resize: int | tuple[int, int] | None
    color: str
    max_shift: int
    alignment: str | None
    motion: str
    smoothing_sigma: float
    top_fraction: float
    shape_: tuple[int, int, int]

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        if state["tiled_"] and state["input_kind_"] != "images":
            fail(f"{cls.__name__}.tiled_", "does not go with input_kind_")
        at_fit = state["_parameters_at_fit"]
        if (at_fit["alignment"] is not None) != ("reference_" in state):
            fail(f"{cls.__name__}.reference_", "does not go with alignment")
        if at_fit["alignment"] is not None and state["input_kind_"] != "images":
            fail(f"{cls.__name__}.input_kind_", "does not go with alignment")
        if state["input_kind_"] == "images":
            if sizes["planes"] != (1 if at_fit["color"] == "gray" else 3):
                fail(f"{cls.__name__}.shape_", "does not go with color")
        elif "n_features_in_" not in state or state["n_features_in_"] != sizes["planes"]:
            fail(f"{cls.__name__}.shape_", "does not go with n_features_in_")
        if (state["_region"] is None) != (state["roi_mask_"] is None) or (
            state["_region"] is not None and not state["_region"].any()
        ):
            fail(f"{cls.__name__}._region", "does not go with roi_mask_")

    # ---- what a subclass writes -----------------------------------------------------
    def _learn(self, stack: np.ndarray) -> None:
        raise NotImplementedError

    def _model(self, planes: np.ndarray | None) -> Any:
        raise NotImplementedError

    def _deviation(self, planes: np.ndarray, model: Any) -> np.ndarray:
        raise NotImplementedError

    def _lack(self, deviation: np.ndarray, model: Any) -> tuple[float, float]:
        return 0.0, 0.0

    def _lack_of_blank(self, model: Any) -> tuple[float, float]:
        return 0.0, 0.0

    # ---- from input to planes -------------------------------------------------------
    def _fit_steps(self, data: Any) -> None:
        for name in ("shape_", "reference_", "_region", "_registrar", "_whole"):
            self.__dict__.pop(name, None)
        if self.alignment == "phase_correlation" and self.motion != "translation":
            raise ParameterError(
                f"motion={self.motion!r} needs alignment='ecc': phase correlation finds "
                "translations only."
            )
        if self.alignment and self.input_kind_ != "images":
            raise ParameterError(
                f"alignment={self.alignment!r} moves images; patch grids and feature rows take "
                "alignment=None."
            )

    def _blocks(self, data: Any) -> Iterator[tuple[_Block, list[SampleKey]]]:
        if self.input_kind_ == "images":
            size = check_pair_or_none(self.resize, "resize")
            # Alignment looks at all of an image, and takes the region along with the part.
            region = None if self.alignment else self.roi_mask_
            for images, keys in iter_keyed_images(data, self._block_size(), region):
                planes = [self._working(image, size) for image in images]
                sizes = [image.shape[:2] for image in images]
                yield self._checked(_Block(planes, sizes, None)), keys
            return
        if data.mask is not None:
            raise ValueError(
                f"{type(self).__name__} needs whole grids, and these hold some of their patches "
                "only: fit it on images with roi_mask."
            )
        for start in range(0, len(data), 1024):
            grids = data[start : start + 1024]
            rows = grids.as_image_rows()
            planes = [r.T.reshape(-1, h, w) for r, (h, w) in zip(rows, grids.grid_shapes.tolist())]
            block = _Block(planes, [], grids.without_features())
            yield self._checked(block), [SampleKey(digest(r)) for r in rows]

    def _working(self, image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
        image = resize_image(image, size) if size else image
        if self.color == "gray":
            return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[None]
        if self.color == "lab":
            image = cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
        return np.stack(cv2.split(image))

    def _checked(self, block: _Block) -> _Block:
        shape = self.__dict__.setdefault("shape_", block.planes[0].shape)
        for planes in block.planes:
            if planes.shape != shape:
                way_out = (
                    "set resize, so that all images have one working size"
                    if block.grids is None
                    else "give the feature step a fixed resize"
                )
                raise ImageFormatError(
                    f"{type(self).__name__} compares positions, so all samples need the height "
                    f"and width {shape[1:]} of the first training sample, got "
                    f"{planes.shape[1:]}: {way_out}."
                )
        return block

    # ---- learning -------------------------------------------------------------------
    def _fit(self, stream: TrainingStream) -> np.ndarray:
        # Every training image is needed again once the template is known, so they wait on
        # disk at working size.
        with tempfile.TemporaryFile(buffering=0) as spill:
            dtype, writer = np.dtype(np.uint8), PieceWriter(spill)
            for block in stream:
                dtype = block.planes[0].dtype
                for planes in block.planes:
                    n_bytes = writer.n_bytes + planes.nbytes
                    with naming_temporary_files("the training images", n_bytes):
                        writer.write(planes.tobytes())
            groups = stream.group_of
            others = stream.n_samples - int(np.bincount(groups).max())
            if others < self._n_others:
                raise TooFewImagesError(
                    f"{type(self).__name__} needs {self._n_others} different training sample(s) "
                    f"beside the one it leaves out, got n_samples={stream.n_samples} with "
                    f"{others} different from one of them."
                )
            shape = (stream.n_samples, *self.shape_)
            self._region = self._working_region()
            stack = np.memmap(spill, dtype=dtype, mode="r+", shape=shape)
            motions = self._align_all(stack)
            self._learn(stack)
            scores = self._left_out_scores(stack, motions, groups)
            del stack  # unmapped before the file goes
        return scores

    def _working_region(self) -> np.ndarray | None:
        """Working pixels of the template that count; None for all of them."""
        if self.roi_mask_ is None:
            return None
        region = cells_inside(self.roi_mask_, self.shape_[1:])
        if not region.any():
            height, width = (a / b for a, b in zip(self.roi_mask_.shape, self.shape_[1:]))
            raise ParameterError(
                f"no working pixel lies in roi_mask: it stands for {height:.3g} x {width:.3g} "
                f"pixels of the image at resize={self.resize!r}, and of none at least half is "
                "True. Draw a larger mask, or use a larger resize."
            )
        return None if region.all() else region

    def _left_out_scores(
        self, stack: np.ndarray, motions: list[np.ndarray | None], groups: np.ndarray
    ) -> np.ndarray:
        members = np.bincount(groups)[groups]
        scores = np.empty(len(stack))
        lacks = []
        # Copies of an image, and tiles of one, go together: learn anew from the others.
        order, last, model = np.argsort(groups, kind="stable"), -1, None
        for i in order:
            planes = np.asarray(stack[i])
            if members[i] == 1:
                model = self._model(planes)
            elif groups[i] != last:
                rest, last = copy(self), groups[i]
                rest._learn(stack[groups != last])
                model = rest._model(None)
            heat = self._heat(planes, motions[i], model)
            lacks.append(heat.lack)
            if self.input_kind_ == "images":
                scores[i] = self._reduce(self._smooth(heat.values))
            else:
                scores[i] = self._reduce(heat.values)
        self._limit_lack(np.array(lacks), groups)
        return scores

    def _limit_lack(self, lacks: np.ndarray, groups: np.ndarray) -> None:
        """Say how much of the template an image may lack, from ``lacks (n_samples, 2)``."""
        shares = _ratio(np.array([lacks[groups == group].sum(axis=0) for group in set(groups)]))
        blank = float(_ratio(np.array([self._lack_of_blank(self._model(None))]))[0])
        self._lack_limit = None
        if blank == 0:
            return
        if float(np.median(shares)) <= _NO_TEMPLATE * blank:
            most = float(shares.max())
            self._lack_limit = max(most, (most + blank) / 2.0)
        else:
            warn_user(
                f"{type(self).__name__}: most training images are as unlike their median image as "
                "a blank image is, so this template cannot tell a part from its absence. "
                "Templates are for parts in one fixed pose: align the images (alignment='ecc', "
                "motion='euclidean'), or take a detector for any pose, such as PatchCoreDetector.",
                PoseWarning,
            )

    # ---- alignment ------------------------------------------------------------------
    def _align_all(self, stack: np.ndarray) -> list[np.ndarray | None]:
        """Move the training images in place to the one that is most like their mean."""
        if not self.alignment:
            return [None] * len(stack)
        mean = np.zeros(stack.shape[2:])
        for planes in stack:
            mean += self._gray(planes)
        mean /= len(stack)
        away = [np.abs(self._gray(planes) - mean).mean() for planes in stack]
        self.reference_ = self._gray(stack[int(np.argmin(away))]).copy()
        motions, problems = [], []
        for i in range(len(stack)):
            stack[i], motion, problem = self._aligned(np.asarray(stack[i]))
            motions.append(motion)
            problems.append(problem)
        self._complain(problems, "training images")
        return motions

    def _gray(self, planes: np.ndarray) -> np.ndarray:
        if self.color == "rgb":
            return cv2.cvtColor(cv2.merge(list(planes)), cv2.COLOR_RGB2GRAY)
        return planes[0]  # gray, or the lightness of Lab

    def _aligned(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, str]:
        if "_registrar" not in self.__dict__:
            self._registrar = Registrar(self.reference_, str(self.alignment), self.motion)
        motion, problem, _ = self._registrar.register(self._gray(planes))
        return (planes if motion is None else warp(planes, motion)), motion, problem

    def _complain(self, problems: list[str], what: str) -> None:
        found = [problem for problem in problems if problem]
        if found:
            warnings.warn(
                f"{type(self).__name__}: {len(found)} of {len(problems)} {what} could not be "
                f"aligned ({', '.join(sorted(set(found)))}) and are compared as they lie.",
                AlignmentWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict:
        state = super().__getstate__()
        for name in ("_registrar", "_whole"):  # made again from what is stored
            state.pop(name, None)
        return state

    # ---- scoring --------------------------------------------------------------------
    def _score(self, block: _Block, train_group: np.ndarray) -> tuple[list[_Heat], np.ndarray]:
        heats, problems = [], []
        for planes, training_image in zip(block.planes, train_group):
            motion = None
            if self.alignment:
                planes, motion, problem = self._aligned(planes)
                problems.append(problem)
            if training_image >= 0:
                model = self._model(planes)
            else:
                model = self._whole = self.__dict__.get("_whole") or self._model(None)
            heats.append(self._heat(planes, motion, model))
        self._complain(problems, "images")
        if block.grids is None:
            return heats, np.array([self._reduce(self._smooth(h.values)) for h in heats])
        return heats, np.array([self._reduce(h.values) for h in heats])

    def _heat(self, planes: np.ndarray, motion: np.ndarray | None, model: Any) -> _Heat:
        values = self._deviation(planes, model)
        if motion is not None:
            # Of what moved into the frame from outside the image nothing is known.
            values[~covered(motion, values.shape)] = 0.0
        return _Heat(values, motion, self._lack(values, model))

    def _as_whole(self, block: _Block, values: list[_Heat]) -> np.ndarray | None:
        if self._lack_limit is None:
            return None
        return np.array([heat.lack for heat in values])

    def _excess(self, whole: np.ndarray) -> np.ndarray:
        assert self._lack_limit is not None
        return _ratio(whole) / self._lack_limit

    def _smooth(self, values: np.ndarray) -> np.ndarray:
        if values.size == 1 or (self.smoothing_sigma == 0 and self._region is None):
            return values
        sigma = float(self.smoothing_sigma)
        if self._region is not None:
            return smooth_inside(values, self._region, sigma)
        return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)

    def _reduce(self, heat: np.ndarray) -> float:
        if self._region is not None:
            heat = heat[self._region]
        n_top = round(self.top_fraction * heat.size)
        if n_top <= 1:
            return float(heat.max())
        return float(np.partition(heat.ravel(), -n_top)[-n_top:].mean(dtype=np.float64))

    def _to_pixels(self, block: _Block, values: list[_Heat]) -> list[np.ndarray]:
        if block.grids is not None:
            flat = np.concatenate([heat.values.ravel() for heat in values])
            return block.grids.to_pixels(flat, sigma=self.smoothing_sigma)
        maps = []
        for heat, size in zip(values, block.sizes):
            fine = self._smooth(heat.values)
            if heat.motion is not None:
                fine = Placement(heat.motion, fine.shape).put_back(fine)
            maps.append(resize_image(fine, size))
            if self.roi_mask_ is not None and heat.motion is None:
                maps[-1] = lowest_outside(maps[-1], self.roi_mask_)
        return maps


def _ratio(lacks: np.ndarray) -> np.ndarray:
    """Share of the pattern that is lacking, ``(n,)``, of ``(n, 2)``; 0 where there is none."""
    return np.divide(lacks[:, 0], lacks[:, 1], out=np.zeros(len(lacks)), where=lacks[:, 1] > 0)


# ---- the median, and the median without one member ----------------------------------
def sorted_positions(stack: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Sort ``(n, ...)`` along its first axis, some positions at a time.

    Yields the positions as a slice of the flattened others, and ``(n, some)`` sorted values.
    """
    flat = stack.reshape(len(stack), -1)
    step = max(1, _CHUNK // len(stack))
    for start in range(0, flat.shape[1], step):
        part = slice(start, min(start + step, flat.shape[1]))
        columns = np.array(flat[:, part].T, order="C")  # a copy in any case: it is sorted
        columns.sort(axis=1, kind="stable")  # radix sort where values have 8 bits
        yield part, np.ascontiguousarray(columns.T)


def check_middle(name: str, state: State, sizes: Sizes) -> None:
    """Refuse stored middles of sorted values that are neither two nor three of the right kind."""
    kind = "u" if state["input_kind_"] == "images" else "f"
    # Two of an even number; of tiles, it is not known how many there were.
    known = (2, 3) if state["tiled_"] else (2 + sizes["n"] % 2,)
    if sizes["middle"] not in known or state["middle_"].dtype.kind != kind:
        fail(f"{name}.middle_", "does not hold the middle of sorted values")


def middle_of(ordered: np.ndarray) -> np.ndarray:
    """The two values in the middle of an even number of sorted ones, the three of an odd."""
    n = len(ordered)
    return ordered[(n - 1) // 2 - n % 2 : n // 2 + 1 + n % 2]


def median_of(middle: np.ndarray) -> np.ndarray:
    """Median, from the middle of the sorted values."""
    return middle[len(middle) // 2] if len(middle) % 2 else _half_way(middle[0], middle[1])


def median_without(middle: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Median of the others, from the middle of all sorted values and the one left out."""
    if len(middle) == 2:
        return np.where(value <= middle[0], middle[1], middle[0])
    low, mid, high = middle
    return _half_way(
        np.where(value > mid, low, np.where(value < mid, mid, low)),
        np.where(value > mid, mid, high),
    )


def _half_way(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + (b - a) * 0.5


def nearest(ordered: np.ndarray, center: np.ndarray, k: int) -> np.ndarray:
    """Distance of the k-th nearest of sorted values ``(n, m)`` to ``center (m,)``.

    The k nearest are neighbors in rank: it is the smallest reach of any k in a row.
    """
    return np.maximum(center - ordered[: len(ordered) - k + 1], ordered[k - 1 :] - center).min(0)
