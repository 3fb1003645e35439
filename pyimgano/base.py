"""Base classes of all detectors: input validation, training samples, scoring block by block.

``BaseDetector`` is the template of a detector: it leaves out known anomalies, recognizes training
samples, and scores block by block. ``BaseImageDetector`` adds images, tiles, and regions of
interest. A detector implements ``_fit`` and ``_score``, and little else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from numbers import Real
from typing import Any, Generic, TypeVar

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
)
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from pyimgano._checks import input_kind, kind_in_words, normal_samples
from pyimgano._decision import refuse_nan
from pyimgano._moved import moved_names
from pyimgano._scoring import MODEL_ERRORS, AnomalyMapMixin, OutlierScoreMixin, ScoredBlock
from pyimgano._training import SampleKey, TrainingStream, sample_keys
from pyimgano.exceptions import (
    ImageFormatError,
    ImageReadError,
    SampleError,
    TooFewImagesError,
)
from pyimgano.grids import PatchGrids, lowest_outside
from pyimgano.inputs import ImageSequence, check_images
from pyimgano.inputs._containers import counted_from, first_index
from pyimgano.preprocessing import PreparedImages
from pyimgano.tiling import TiledImages
from pyimgano.utils._fitting import restored_on_error
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._stages import timed
from pyimgano.utils._state import Array, Flag, Map, Maybe, OneOf, Rule
from pyimgano.utils._threads import prefetch
from pyimgano.utils._versions import VersionStampMixin

__all__ = [
    "MODEL_ERRORS",
    "AnomalyMapMixin",
    "BaseDetector",
    "BaseImageDetector",
    "OutlierScoreMixin",
    "SampleKey",
    "ScoredBlock",
    "TrainingStream",
    "normal_samples",
    "sample_keys",
]

# Default number of samples per block.
_DEFAULT_BLOCK_SIZE = 8

# ``Block`` is what ``_blocks`` yields; ``Values`` is what ``_score`` returns for ``_to_pixels``.
Block = TypeVar("Block")
Values = TypeVar("Values")

# What the checks of the input raise, those of scikit-learn for tables among them.
_INPUT_ERRORS = (SampleError, ValueError, OSError)

__getattr__ = moved_names(
    __name__,
    {
        "BasePatchDetector": ("pyimgano.detectors", "BasePatchDetector"),
        "Fingerprint": ("pyimgano.base", "SampleKey"),
        "TrainingBlocks": ("pyimgano.base", "TrainingStream"),
        "fingerprints": ("pyimgano.base", "sample_keys"),
        "normal_rows": ("pyimgano.base", "normal_samples"),
    },
)


class BaseDetector(
    ClassNamePrefixFeaturesOutMixin,
    VersionStampMixin,
    OutlierScoreMixin,
    BaseEstimator,
    Generic[Block, Values],
):
    """Template of a detector that recognizes its training samples.

    A model scores its own training samples as more normal than new ones, so a threshold
    computed from those scores would flag good parts. Every detector therefore stores, for each
    training sample, the score it gets from a model that has not seen it
    (``training_scores_``), and returns that score whenever identical content is scored again.
    Identical images are left out together. As a result, ``fit_predict(X)``,
    ``fit(X).predict(X)``, and quantiles of ``score_samples(X_train)`` are unbiased.

    A subclass has the parameters ``contamination`` and ``random_state`` and implements

    ``_fit(stream) -> scores (n,)``
        Learn from the ``TrainingStream`` of ``pyimgano._training``; return the out-of-sample
        anomaly scores of the training samples.
    ``_score(block, train_group) -> (values, scores)``
        ``scores (n,)`` are the anomaly scores of the block's samples, ``values`` whatever
        ``_to_pixels`` turns into maps. ``train_group (n,)`` is the group of the training
        image that each sample was recognized as, or -1. Scores of recognized samples are
        replaced by their stored scores afterwards; maps are not, so for maps leave out what was
        learned from that group.
    ``_blocks(data) -> iterator of (block, list of SampleKey)``
        Split validated input into blocks, each with the keys of its samples.
    ``_validate(X, reset) -> data``
        Check the input; with ``reset`` also record its kind.
    """

    _parameter_constraints: dict = {
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state"],
    }
    _fitted_state: dict[str, Rule] = {
        "input_kind_": OneOf("images", "grids", "rows"),
        "tiled_": Flag(),
        "_known": Map(bytes, below="n"),
    }

    # Read by pyimgano.registry. The name and the paper are not inherited; family and tags are.
    # A name of None keeps a class out of the registry. The paper defaults to the first
    # reference of the docstring.
    _registry_name: str | None
    _family: str
    _tags: tuple[str, ...]
    _paper: str | None

    # Whether scores are on another scale for the number of training samples alone: a threshold
    # from models of other numbers of samples does not fit then. A class says it of all its
    # models, or ``fit`` of one of them. Read by pyimgano.calibration.
    _scale_depends_on_n: bool = False
    # Training samples are recognized, and scored as by a model that has not seen them. Read by
    # pyimgano.calibration.
    _scores_own_out_of_sample: bool = True
    # So are their maps; a property where that depends on what was fitted.
    _maps_own_out_of_sample: bool = True

    random_state: Any
    input_kind_: str
    tiled_: bool

    # ---- subclass hooks -------------------------------------------------------------
    def _fit(self, stream: TrainingStream[Block]) -> np.ndarray:
        raise NotImplementedError

    def _score(self, block: Block, train_group: np.ndarray) -> tuple[Values, np.ndarray]:
        raise NotImplementedError

    def _blocks(self, data: Any) -> Iterator[tuple[Block, list[SampleKey]]]:
        raise NotImplementedError

    def _validate(self, X: Any, *, reset: bool) -> Any:
        raise NotImplementedError

    def _training_blocks(self, data: Any) -> Iterator[tuple[Block, list[SampleKey]]]:
        """Split training samples into blocks; defaults to ``_blocks``.

        Augmented views, such as rotations, must come after all original images and reuse the
        keys of their originals.
        """
        return self._blocks(data)

    def _fit_steps(self, data: Any) -> None:
        """Fit the inner feature step; called before the first block is read."""

    def _take_known_anomalies(self, data: Any, keep: np.ndarray) -> None:
        """See all validated samples and which are normal, before ``_fit``; they are left out."""

    def _see_training_block(self, block: Block, groups: np.ndarray) -> None:
        """Look at a block of the first pass through the training samples; nothing by default."""

    # ---- fitting --------------------------------------------------------------------
    def fit(self, X: Any, y: Any = None, *, roi_mask: Any = None) -> BaseDetector:
        """Learn what good parts look like.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, uint8 RGB images, TiledImages, PatchGrids or rows
            Training samples, see the user guide for each kind. Feature rows are an
            array-like of shape (n_samples, n_features).
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies, which are left out of training. Other
            labels are ignored with an
            :class:`~pyimgano.exceptions.IgnoredLabelsWarning`.
        roi_mask : array-like of shape (height, width) or (1, height, width), bool, default=None
            True for the pixels to inspect. One mask for all images, which must have its size;
            None inspects all pixels. Not supported for tiled images, patch grids, and feature
            rows. If ``len(X) == height``, scikit-learn's cross-validation would split the mask
            like ``X``; pass ``roi_mask[None]`` to prevent that.

        Returns
        -------
        self

        Raises
        ------
        ImageFormatError
            If ``X`` is not one of the supported kinds, or the size of an image differs from
            that of ``roi_mask``.
        TooFewImagesError
            If fewer than two samples are left to learn from.
        """
        self._validate_and_fit(X, y, roi_mask=roi_mask)
        return self

    @restored_on_error
    def _validate_and_fit(self, X: Any, y: Any, **metadata: Any) -> tuple[Any, np.ndarray]:
        """Validate and fit; return the validated samples and a mask of those learned from."""
        self._validate_params()
        data = self._validate_training_input(X, **metadata)
        keep = normal_samples(y, len(data))
        self._take_known_anomalies(data, keep)
        train = data if keep.all() else data[np.flatnonzero(keep)]
        if len(train) < 2:
            raise TooFewImagesError(
                f"{type(self).__name__} needs at least 2 training samples to tell how far an "
                f"unseen good one may lie, got n_samples={len(train)}."
            )
        self._fit_validated(train)
        return data, keep

    def _fit_validated(self, train: Any) -> None:
        """Fit on validated samples, known anomalies already removed."""
        self._learn_steps(train)
        self._set_offset(self._run_fit(train, len(train)))

    def _learn_steps(self, data: Any) -> None:
        with progress_callback("feature step", getattr(self, "verbose", False)):
            self._fit_steps(data)

    def _run_fit(self, train: Any, n_samples: int) -> np.ndarray:
        """Run ``_fit`` and remember which images it saw; return the out-of-sample scores."""
        stream = TrainingStream(
            partial(self._training_blocks, train),
            n_samples,
            getattr(self, "verbose", False),
            self._see_training_block,
        )
        scores = np.asarray(self._fit(stream), dtype=np.float64)
        self._known = stream.group_of_image
        return scores

    def _validate_training_input(self, X: Any, *, roi_mask: Any = None) -> Any:
        """Validate training samples and the metadata passed along with them."""
        if roi_mask is not None:
            self._refuse_roi_mask()
        return self._validate(X, reset=True)

    def _refuse_roi_mask(self) -> None:
        raise ValueError(
            f"{type(self).__name__} takes no roi_mask: crop the images to the region in a step "
            "before it."
        )

    def _fit_and_score_all(self, X: Any, y: Any, **metadata: Any) -> np.ndarray:
        data, keep = self._validate_and_fit(X, y, **metadata)
        scores = np.empty(len(data))
        scores[keep] = self.training_scores_
        if not keep.all():
            scores[~keep] = self._anomaly_scores(data[np.flatnonzero(~keep)])
        return scores

    # ---- scoring --------------------------------------------------------------------
    def iter_scores(
        self, X: Any, *, maps: bool = False, on_error: str = "raise"
    ) -> Iterator[ScoredBlock]:
        """Yield anomaly scores block by block, higher = more anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``
        maps : bool, default=False
            Also compute anomaly maps; only for detectors with an ``anomaly_map`` method.
        on_error : {"raise", "record"}, default="raise"
            How to handle a sample that cannot be scored, such as a truncated image file.
            ``"record"`` stores the error, a :class:`~pyimgano.exceptions.SampleError` or what
            the check of a table's row raises, in the block and continues. Errors of other kinds
            are not about the sample and are raised.

        Yields
        ------
        ScoredBlock
            In the order of the samples.
        """
        if on_error not in ("raise", "record"):
            raise ValueError(f'on_error must be "raise" or "record", got {on_error!r}.')
        check_is_fitted(self)
        return self._as_fitted()._iter_scores(X, maps, record=on_error == "record")

    def _iter_scores(self, X: Any, maps: bool, record: bool) -> Iterator[ScoredBlock]:
        try:
            data = self._validate_new_input(X)
        except _INPUT_ERRORS:
            # It may concern one sample only: NaN in a row, an image of a wrong dtype in a list.
            if not record or not (self.input_kind_ == "rows" or _is_a_list_of_images(X)):
                raise
            yield from self._score_one_by_one(X, maps)
            return
        start, n = 0, len(data)
        while start < n:
            try:
                for scores, some_maps in self._score_batches(data[start:] if start else data, maps):
                    yield ScoredBlock(start, scores, some_maps, {})
                    start += len(scores)
            except SampleError as error:  # the block is scored again, one sample at a time
                if not record:
                    raise self._naming_the_sample(data, start, error) from None
                stop = min(n, start + self._block_size())
                for i in range(start, stop):
                    yield self._score_one(data[i : i + 1], i, maps)
                start = stop

    def _score_one_by_one(self, X: Any, maps: bool) -> Iterator[ScoredBlock]:
        """Validate and score samples one at a time, after validating them together failed."""
        for i in range(len(X)):
            try:
                with counted_from(first_index() + i):
                    data = self._validate_new_input(X[i : i + 1])
            except _INPUT_ERRORS as error:
                yield ScoredBlock(i, np.full(1, np.nan), [None] * maps, {0: error})
            else:
                yield self._score_one(data, i, maps)

    def _score_one(self, data: Any, i: int, maps: bool) -> ScoredBlock:
        """Score one sample; record what is wrong with it."""
        with counted_from(first_index() + i):
            try:
                ((scores, some_maps),) = self._score_batches(data, maps)
            except SampleError as error:
                named = _naming(error, data)
                return ScoredBlock(i, np.full(1, np.nan), [None] * maps, {0: named})
        return ScoredBlock(i, scores, some_maps, {})

    def _naming_the_sample(self, data: Any, start: int, error: SampleError) -> SampleError:
        """Find out which sample of a block an error is about, and say so in its message."""
        if isinstance(error, ImageReadError):
            return error
        for i in range(start, min(len(data), start + self._block_size())):
            named = self._score_one(data[i : i + 1], i, maps=False).errors.get(0)
            if isinstance(named, SampleError):
                return named
        return error

    def _block_size(self) -> int:
        """Return how many samples to score one at a time after a block failed."""
        return _DEFAULT_BLOCK_SIZE

    def _anomaly_scores(self, data: Any) -> np.ndarray:
        found: list[np.ndarray] = []
        try:
            for scores, _ in self._score_batches(data, maps=False):
                found.append(scores)
        except SampleError as error:
            start = sum(map(len, found))
            raise self._naming_the_sample(data, start, error) from None
        return np.concatenate(found)

    def _score_batches(
        self, data: Any, maps: bool
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Yield (scores, maps) of validated samples; ``maps`` is empty unless requested."""
        for block, train_group, values, scores in self._score_blocks(data):
            known = self._substitute_training_scores(scores, train_group)
            refuse_nan(known, type(self).__name__)
            with timed("postprocess"):
                heat = self._to_pixels(block, values) if maps else []
            yield known, heat

    def _score_blocks(self, data: Any) -> Iterator[tuple[Block, np.ndarray, Values, np.ndarray]]:
        for block, keys in prefetch(self._blocks(data)):
            train_group = np.array([self._known.get(key.image, -1) for key in keys], dtype=np.int64)
            with timed("score"):
                values, scores = self._score(block, train_group)
            yield block, train_group, values, scores

    def _to_pixels(self, block: Block, values: Values) -> list[np.ndarray]:
        raise NotImplementedError

    def _substitute_training_scores(
        self, scores: np.ndarray, train_group: np.ndarray
    ) -> np.ndarray:
        """Replace the scores of recognized training samples by their out-of-sample scores."""
        scores = np.asarray(scores, np.float64)
        return np.where(train_group >= 0, self.training_scores_[train_group], scores)

    def _recognize(self, X: Any) -> np.ndarray:
        """Tell which samples have the content of a training sample; bool, of shape (n,)."""
        check_is_fitted(self)
        fitted = self._as_fitted()
        keys = fitted._sample_keys(fitted._validate_new_input(X))
        return np.array([key.image in self._known for key in keys], dtype=bool)

    def _sample_keys(self, data: Any) -> Iterator[SampleKey]:
        """Yield one key for each sample of validated input."""
        for _, keys in self._blocks(data):
            yield from keys

    # ---- input ----------------------------------------------------------------------
    def _validate_new_input(self, X: Any) -> Any:
        return self._validate(X, reset=False)

    def _forget_columns(self) -> None:
        # Images have no columns: remove what an earlier fit on a table has set.
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)

    @property
    def _n_features_out(self) -> int:
        return 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def _naming(error: SampleError, data: Any) -> SampleError:
    """Say in an error which sample it is about, the only one of ``data``."""
    name = data.name(0) if hasattr(data, "name") else f"sample {first_index()}"
    if isinstance(error, ImageReadError) or re.search(rf"{re.escape(name)}\b", str(error)):
        return error
    return type(error)(f"{name}: {error}").with_traceback(error.__traceback__)


def _put_back(maps: list[np.ndarray], data: Any, first: int) -> list[np.ndarray]:
    """Bring maps of images that a step has cropped or moved to the pixels that came in.

    ``first`` is the index of the first one's image in ``data``. Patch grids do it themselves.
    """
    if isinstance(data, PatchGrids):
        return maps
    placements = [data.placement(i) for i in range(first, first + len(maps))]
    return [
        heat if placement is None else placement.put_back(heat)
        for heat, placement in zip(maps, placements)
    ]


def _is_a_list_of_images(X: Any) -> bool:
    """Tell whether one item may be wrong while the others are right, unlike in one array."""
    if isinstance(X, np.ndarray):
        return X.dtype.kind in "OU"
    return isinstance(X, (list, tuple, ImageSequence, PreparedImages))


class BaseImageDetector(AnomalyMapMixin, BaseDetector[Block, Values]):
    """Base class of detectors that score images and make anomaly maps.

    ``score_samples``, ``score_and_map``, and ``decision_function`` follow scikit-learn: higher
    means more normal; ``predict`` returns -1 for anomalies. Everything else (``transform``,
    ``iter_scores``, ``training_scores_``, ``anomaly_map``) is higher for anomalies. Training
    images are recognized, see :class:`BaseDetector`.

    **Images in tiles** (:class:`~pyimgano.tiling.TiledImages`) are accepted as well. A subclass
    sees each tile as an image; ``group_of`` and ``train_group`` mark the tiles of one image,
    which are left out together. This class combines the scores of tiles and stitches maps.

    **A region of interest** is for setups with a fixed camera and a fixed part position.
    ``fit`` takes it as ``roi_mask``, one mask for all images, and the model stores it as
    ``roi_mask_``. Pixels outside affect neither the model nor the scores, maps are set to their
    minimum there, and images that differ only outside count as identical. A patch or a working
    pixel is inside if at least half of its area is. Features near the border still see pixels
    outside, within the receptive field of a network or the window of a filter. Feature steps
    that learn, and the alignment of a template, see whole images. The mask is metadata in
    scikit-learn's sense: pass it to a pipeline as ``make_pipeline(ImageFormatNormalizer(),
    PatchCoreDetector()).fit(X, patchcoredetector__roi_mask=mask)``. Under
    ``sklearn.set_config(enable_metadata_routing=True)`` searches and ensembles pass it on to
    every detector with ``set_fit_request(roi_mask=True)``.

    Besides ``_fit`` and ``_score`` a subclass implements ``_to_pixels(block, values) -> maps``,
    which turns the values of a block into one map per sample. It may implement ``_as_whole`` and
    ``_excess``: images beyond the limit get at least twice the highest training score, and their
    maps everywhere, unless they had a score as high by themselves. Set
    ``_takes_roi_mask = True`` if ``_blocks``, ``_score``, and ``_to_pixels`` respect
    ``roi_mask_``.
    """

    # Set to True if _blocks, _score, and _to_pixels respect roi_mask_.
    _takes_roi_mask = False
    _fitted_state = {"roi_mask_": Maybe(Array("bool", None, None))}

    roi_mask_: np.ndarray | None

    def _as_whole(self, block: Block, values: Values) -> np.ndarray | None:
        """Numbers ``(n, k)`` that say what each sample is as a whole; None if there are none.

        Of the tiles of an image their mean is taken.
        """
        return None

    def _excess(self, whole: np.ndarray) -> np.ndarray:
        """Distance of images to the training images as a whole, ``(n,)``; 1 is the limit."""
        raise NotImplementedError

    def _fit_validated(self, train: Any) -> None:
        if not self.tiled_:
            try:
                super()._fit_validated(train)
            except TooFewImagesError as error:
                if self.roi_mask_ is None:
                    raise
                raise TooFewImagesError(
                    f"{error} Images that differ only outside the region of interest count as one."
                ) from error
            return
        self._learn_steps(train.side_by_side())
        scores = self._run_fit(train, int(train.counts.sum()))
        self._set_offset(train.reduce(scores))

    def _score_batches(
        self, data: Any, maps: bool
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        if not self.tiled_:
            n_done = 0
            for block, train_group, values, scores in self._score_blocks(data):
                known = self._substitute_training_scores(scores, train_group)
                refuse_nan(known, type(self).__name__)
                with timed("postprocess"):
                    heat = self._to_pixels(block, values) if maps else []
                    self._raise_if_unlike(self._as_whole(block, values), train_group, known, heat)
                    heat = _put_back(heat, data, n_done)
                yield known, heat
                n_done += len(known)
            return
        for i, tiles in enumerate(data.iter_images()):
            canvas = tiles.canvas() if maps else None
            parts, whole = [], []
            for block, _, values, tile_scores in self._score_blocks(tiles):
                parts.append(tile_scores)
                whole.append(self._as_whole(block, values))
                if canvas is not None:
                    with timed("postprocess"):
                        canvas.lay(self._to_pixels(block, values))
            scores = np.array([tiles.reduce(np.concatenate(parts))])
            train_group = np.array([self._known.get(tiles.digest, -1)])
            known = self._substitute_training_scores(scores, train_group)
            refuse_nan(known, type(self).__name__)
            heat = [canvas.finish()] if canvas else []
            seen = [one for one in whole if one is not None]
            mean = np.concatenate(seen).mean(axis=0, keepdims=True) if seen else None
            self._raise_if_unlike(mean, train_group, known, heat)
            yield known, _put_back(heat, data, i)

    def _raise_if_unlike(
        self,
        whole: np.ndarray | None,
        train_group: np.ndarray,
        scores: np.ndarray,
        maps: list[np.ndarray],
    ) -> None:
        """Raise in place scores and maps of images that are unlike the training images as a whole.

        Where the score is high by itself, the map tells more than one that is raised everywhere,
        and stays.
        """
        if whole is None:
            return
        top = float(self.training_scores_.max())
        excess = self._excess(whole)
        for i in np.flatnonzero((excess > 1.0) & (train_group < 0)).tolist():
            # At least twice the highest training score, where that is positive.
            level = top + abs(top) * excess[i]
            if scores[i] >= level:
                continue
            seen_by_itself = scores[i] >= top + abs(top)
            scores[i] = level
            if maps and not seen_by_itself:
                maps[i] = np.maximum(maps[i], np.float32(level))
                if self.roi_mask_ is not None:
                    maps[i] = lowest_outside(maps[i], self.roi_mask_)

    def _sample_keys(self, data: Any) -> Iterator[SampleKey]:
        if not self.tiled_:
            yield from super()._sample_keys(data)
            return
        for tiles in data.iter_images():
            yield SampleKey(tiles.digest)

    # ---- input and region of interest -----------------------------------------------
    def _validate_training_input(self, X: Any, *, roi_mask: Any = None) -> Any:
        self.roi_mask_ = None
        data = self._validate(X, reset=True)
        if roi_mask is not None:
            mask = self._check_roi_mask(roi_mask)
            self._check_sizes(data, mask)
            self.roi_mask_ = mask
        return data

    def _check_roi_mask(self, roi_mask: Any) -> np.ndarray:
        mask = np.array(roi_mask)  # copy: the model keeps it
        if mask.ndim == 3 and len(mask) == 1:
            mask = mask[0]
        if mask.ndim != 2:
            one = " The mask belongs to the model: it is one for all images." * (mask.ndim == 3)
            raise ValueError(f"roi_mask must have shape (height, width), got {mask.shape}.{one}")
        if mask.dtype != bool:
            raise ValueError(
                f"roi_mask must hold booleans, True for the pixels that count, got {mask.dtype}: "
                "pass roi_mask > 0, or whatever says which pixels are inside."
            )
        if not mask.any():
            raise ValueError("roi_mask is False everywhere: no pixel is left to look at.")
        name = type(self).__name__
        if not self._takes_roi_mask:
            self._refuse_roi_mask()
        if self.tiled_:
            raise ValueError(
                "roi_mask is for whole images, and X holds images cut into tiles: leave out the "
                "TilingTransformer, or crop the images to the region before it."
            )
        if self.input_kind_ != "images":
            raise ValueError(
                f"roi_mask is a mask of pixels, and X holds {kind_in_words(self.input_kind_)}: fit "
                f"{name} on images, with the feature step as its parameter features where it has "
                "one."
            )
        return mask

    def _check_sizes(self, data: Any, mask: np.ndarray) -> None:
        """Raise if an image differs from the mask in size."""
        for i in range(len(data)):
            size = data.size(i)
            if size == mask.shape:
                continue
            message = (
                f"roi_mask has {mask.shape[0]} x {mask.shape[1]} pixels and {data.name(i)} has "
                f"{size[0]} x {size[1]}: the mask is drawn in the pixels of the images, which must "
                "all have its size."
            )
            if size[0] > mask.shape[0] and size[1] == mask.shape[1]:
                message += (
                    " If the mask was whole, scikit-learn's cross-validation has cut it, as it "
                    "does with metadata that is as long as X: pass roi_mask[None], of shape "
                    "(1, height, width), which is not."
                )
            raise ImageFormatError(message)

    def _validate(self, X: Any, *, reset: bool) -> Any:
        kind, tiled = input_kind(X), isinstance(X, TiledImages)
        if not reset and (kind, tiled) != (self.input_kind_, self.tiled_):
            raise ImageFormatError(
                f"this {type(self).__name__} was fitted on "
                f"{kind_in_words(self.input_kind_, self.tiled_)} and was given "
                f"{kind_in_words(kind, tiled)} ({type(X).__name__}); give it the kind of input it "
                "was fitted on, or fit it anew."
            )
        data: Any
        if kind == "rows":
            table = validate_data(self, X, reset=reset, dtype=(np.float64, np.float32))
            if np.abs(table).max() > np.finfo(np.float32).max:
                raise ValueError("X holds values too large for dtype('float32').")
            data = PatchGrids.from_array(np.asarray(table, dtype=np.float32)[:, None, None, :])
        elif kind == "grids":
            data = X
            if not np.isfinite(data.rows).all():
                raise ValueError("the patch grids hold NaN or infinity.")
            if reset:
                self._forget_columns()
                self.n_features_in_ = data.n_features
            elif data.n_features != self.n_features_in_:
                raise ValueError(
                    f"X has {data.n_features} features per patch, but {type(self).__name__} "
                    f"was fitted on {self.n_features_in_}."
                )
        else:
            data = check_images(X) if not isinstance(X, TiledImages) else X
            if reset:
                self._forget_columns()
        if reset:
            self.input_kind_, self.tiled_ = kind, tiled
        elif self.roi_mask_ is not None:
            self._check_sizes(data, self.roi_mask_)
        return data
