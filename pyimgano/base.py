"""The contract that all detectors keep: input, signs, threshold, maps and saved state.

Three classes, each with one job. ``OutlierScoreMixin`` turns anomaly scores and a threshold
into scikit-learn's methods. ``AnomalyMapMixin`` adds heat maps. ``BaseImageDetector`` is the
template of a detector: it validates input, leaves known anomalies out, recognizes training
images, and cuts the work into blocks. A detector writes ``_fit`` and ``_score``, little else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from pyimgano._checks import input_kind, kind_in_words, normal_samples
from pyimgano._decision import as_labels, check_finite, flip, is_anomalous
from pyimgano._moved import moved_names
from pyimgano._training import SampleKey, TrainingStream
from pyimgano.exceptions import (
    DeviceError,
    ImageFormatError,
    ImageReadError,
    MissingExtraError,
    TooFewImagesError,
    WeightsError,
)
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageSequence, check_images
from pyimgano.tiling import TiledImages
from pyimgano.utils._arrays import stack_if_same_size
from pyimgano.utils._columns import with_index
from pyimgano.utils._fitting import FittedParametersMixin, restored_on_error
from pyimgano.utils._threads import prefetch
from pyimgano.utils._versions import VersionStampMixin

__all__ = [
    "NOT_ABOUT_A_SAMPLE",
    "AnomalyMapMixin",
    "BaseDetector",
    "BaseImageDetector",
    "OutlierScoreMixin",
    "ScoredBlock",
]

# What "auto" flags: one training image in two hundred.
_AUTO_QUANTILE = 0.995
# Images held at a time when the detector or its feature step does not say.
_BLOCK = 8

# A block of samples as a detector works on it, and what its scores say about each pixel.
Block = TypeVar("Block")
Values = TypeVar("Values")

# These are about the model, not about one of its samples.
NOT_ABOUT_A_SAMPLE = (DeviceError, MissingExtraError, NotFittedError, WeightsError)

__getattr__ = moved_names(
    __name__,
    {
        "BasePatchDetector": ("pyimgano.detectors", "BasePatchDetector"),
        "Fingerprint": ("pyimgano._training", "SampleKey"),
        "TrainingBlocks": ("pyimgano._training", "TrainingStream"),
        "fingerprints": ("pyimgano._training", "sample_keys"),
        "normal_rows": ("pyimgano._checks", "normal_samples"),
    },
)


class ScoredBlock(NamedTuple):
    """Scores of a few consecutive samples.

    Parameters
    ----------
    start : int
        Index of the first of them.
    scores : ndarray of shape (n,), float64
        Anomaly scores, higher = more anomalous; NaN where there is an error.
    maps : list of ndarray of shape (height, width), float32
        Anomaly maps; None where there is an error. Empty if no maps were asked for.
    errors : dict of int to Exception
        By position in the block, why a sample has no score.
    """

    start: int
    scores: np.ndarray
    maps: list[Any]
    errors: dict[int, Exception]


class OutlierScoreMixin(FittedParametersMixin, TransformerMixin, OutlierMixin):
    """Methods of a scikit-learn outlier detector, on top of anomaly scores.

    A subclass has ``contamination``, calls ``_set_offset`` at the end of ``fit`` and writes

    ``_anomaly_scores(X) -> scores (n,)``
        Anomaly scores of checked input, higher = more anomalous.
    ``_fit_anomaly_scores(X, y, **metadata) -> scores (n,)``
        Fit, and return the out-of-sample anomaly scores of all samples.
    ``_check_fitted_input(X)``
        Validate the input of a fitted estimator.
    """

    contamination: str | float
    offset_: float
    training_scores_: np.ndarray

    def _anomaly_scores(self, data: Any) -> np.ndarray:
        raise NotImplementedError

    def _fit_anomaly_scores(self, X: Any, y: Any, **metadata: Any) -> np.ndarray:
        raise NotImplementedError

    def _check_fitted_input(self, X: Any) -> Any:
        raise NotImplementedError

    def _set_offset(self, training_scores: np.ndarray) -> None:
        """Store the out-of-sample scores and put the threshold on them."""
        name = type(self).__name__
        self.training_scores_ = check_finite(training_scores, name, "out-of-sample scores")
        if self.contamination == "auto":
            self.offset_ = float(flip(np.quantile(training_scores, _AUTO_QUANTILE)))
        else:
            share = 100.0 * float(self.contamination)
            self.offset_ = float(np.percentile(flip(training_scores), share))
        self._keep_parameters()

    def score_samples(self, X: Any) -> np.ndarray:
        """Score samples; the higher, the more normal.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return flip(self._scores_of(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute ``score_samples(X) - offset_``; negative values are anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Label samples +1 for normal and -1 for anomalous (``decision_function`` below 0).

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
        """
        return as_labels(is_anomalous(self._scores_of(X), -self.offset_))

    def _scores_of(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        fitted = self._as_fitted()
        return fitted._anomaly_scores(fitted._check_fitted_input(X))

    def fit_predict(self, X: Any, y: Any = None, **metadata: Any) -> np.ndarray:
        """Fit, and label the training samples by their out-of-sample scores.

        Parameters
        ----------
        X, y, **metadata : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
            +1 for normal, -1 for anomalous.
        """
        scores = self._fit_anomaly_scores(X, y, **metadata)
        return as_labels(is_anomalous(scores, -self.offset_))

    def transform(self, X: Any) -> np.ndarray:
        """Return the anomaly scores as a column; the higher, the more anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, 1), float64
            ``-score_samples(X)``.
        """
        return with_index(self, flip(self.score_samples(X)).reshape(-1, 1), X)

    def fit_transform(self, X: Any, y: Any = None, **metadata: Any) -> np.ndarray:
        """Fit, and return the out-of-sample anomaly scores of the training samples.

        Samples with ``y == -1`` were not learned from; their scores are those of
        ``transform``.

        Parameters
        ----------
        X, y, **metadata : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, 1), float64
        """
        rows = self._fit_anomaly_scores(X, y, **metadata).reshape(-1, 1)
        return with_index(self, rows, X)


class AnomalyMapMixin:
    """Heat maps, for detectors whose ``iter_scores`` can make them."""

    iter_scores: Callable[..., Iterator[ScoredBlock]]

    def anomaly_map(self, X: Any) -> np.ndarray | list[np.ndarray]:
        """Compute how anomalous each pixel is; the higher, the more anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, height, width), float32
            In the pixels of the input images; a list of arrays when sizes differ. Feature
            rows have maps of one pixel. Outside ``roi_mask_`` a map has its minimum.
        """
        return self.score_and_map(X)[1]

    def score_and_map(self, X: Any) -> tuple[np.ndarray, np.ndarray | list[np.ndarray]]:
        """Compute ``score_samples(X)`` and ``anomaly_map(X)`` in one pass.

        Parameters
        ----------
        X : input of the detector

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            As from ``score_samples``: higher = more normal.
        maps : ndarray of shape (n_samples, height, width), float32, or list of such arrays
        """
        scores, maps = [], []
        for block in self.iter_scores(X, maps=True):
            scores.append(block.scores)
            maps += block.maps
        return flip(np.concatenate(scores)), stack_if_same_size(maps)


class BaseDetector(
    ClassNamePrefixFeaturesOutMixin,
    VersionStampMixin,
    OutlierScoreMixin,
    BaseEstimator,
    Generic[Block, Values],
):
    """Template of a detector that recognizes its training samples.

    A model scores what it was trained on better than anything new, so a threshold put on such
    scores flags good parts. Every detector therefore keeps, for each training sample, the
    score it has when the model has not seen it (``training_scores_``), and gives that score
    whenever it meets the very same content again. Copies of one image are left out together.
    ``fit_predict(X)``, ``fit(X).predict(X)`` and a quantile of ``score_samples(X_train)`` are
    hence all honest.

    A subclass has the parameters ``contamination`` and ``random_state`` and writes

    ``_fit(stream) -> scores (n,)``
        Learn from the ``TrainingStream`` of ``pyimgano._training``; return the out-of-sample
        anomaly scores of the training samples.
    ``_score(block, train_group) -> (values, scores)``
        ``scores (n,)`` are the anomaly scores of the block's samples, ``values`` whatever
        ``_to_pixels`` turns into maps. ``train_group (n,)`` is the training image each sample
        is known to be, or -1; what the model learned from that image should be left out.
    ``_blocks(data)``
        Cut validated input into blocks, each with the keys of its samples.
    """

    _parameter_constraints: dict = {
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state"],
    }

    # For the registry, pyimgano.registry. The name is each class's own, None for what is no
    # model by itself; family and tags are inherited. The paper need only be given, by each
    # class for itself, where it is not the first reference of the docstring.
    _registry_name: str | None
    _family: str
    _tags: tuple[str, ...]
    _paper: str | None

    random_state: Any
    input_kind_: str
    tiled_: bool

    # ---- what a subclass writes -----------------------------------------------------
    def _fit(self, stream: TrainingStream[Block]) -> np.ndarray:
        raise NotImplementedError

    def _score(self, block: Block, train_group: np.ndarray) -> tuple[Values, np.ndarray]:
        raise NotImplementedError

    def _blocks(self, data: Any) -> Iterator[tuple[Block, list[SampleKey]]]:
        raise NotImplementedError

    def _validate(self, X: Any, *, reset: bool) -> Any:
        raise NotImplementedError

    def _training_blocks(self, data: Any) -> Iterator[tuple[Block, list[SampleKey]]]:
        """Cut training samples into blocks; by default as any others.

        A detector that also learns from other views of an image, such as rotations, yields
        them after all images, under the key of the image they show.
        """
        return self._blocks(data)

    def _fit_steps(self, data: Any) -> None:
        """Fit what stands before the detector's own algorithm; by default nothing."""

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
            The pixels that count, the same in all images, which must have the mask's size;
            with None all do. Needs images, not cut into tiles. In scikit-learn's
            cross-validation use the second shape if there are as many images as the mask has
            rows: metadata as long as ``X`` is cut like ``X``.

        Returns
        -------
        self

        Raises
        ------
        ImageFormatError
            If ``X`` is neither canonical images nor feature rows, or an image has another
            size than ``roi_mask``.
        TooFewImagesError
            If fewer than two samples are left to learn from.
        """
        self._fit_scores(X, y, roi_mask=roi_mask)
        return self

    @restored_on_error
    def _fit_scores(self, X: Any, y: Any, **metadata: Any) -> tuple[Any, np.ndarray]:
        """Fit; return the validated input and the mask of samples learned from."""
        self._validate_params()
        data = self._training_input(X, **metadata)
        keep = normal_samples(y, len(data))
        train = data if keep.all() else data[np.flatnonzero(keep)]
        if len(train) < 2:
            raise TooFewImagesError(
                f"{type(self).__name__} needs at least 2 training samples to tell how far an "
                f"unseen good one may lie, got n_samples={len(train)}."
            )
        self._fit_samples(train)
        return data, keep

    def _fit_samples(self, train: Any) -> None:
        """Fit on validated good samples."""
        self._fit_steps(train)
        self._set_offset(self._fit_stream(train, len(train)))

    def _fit_stream(self, train: Any, n_samples: int) -> np.ndarray:
        """Fit the detector's own algorithm; return the out-of-sample scores."""
        stream = TrainingStream(
            partial(self._training_blocks, train), n_samples, getattr(self, "verbose", False)
        )
        scores = np.asarray(self._fit(stream), dtype=np.float64)
        self._known = stream.group_of_image
        return scores

    def _training_input(self, X: Any, *, roi_mask: Any = None) -> Any:
        """Validate training samples and the metadata passed along with them."""
        if roi_mask is not None:
            self._refuse_roi_mask()
        return self._validate(X, reset=True)

    def _refuse_roi_mask(self) -> None:
        raise ValueError(
            f"{type(self).__name__} takes no roi_mask: crop the images to the region in a step "
            "before it."
        )

    def _fit_anomaly_scores(self, X: Any, y: Any, **metadata: Any) -> np.ndarray:
        data, keep = self._fit_scores(X, y, **metadata)
        scores = np.empty(len(data))
        scores[keep] = self.training_scores_
        if not keep.all():
            scores[~keep] = self._anomaly_scores(data[np.flatnonzero(~keep)])
        return scores

    # ---- scoring --------------------------------------------------------------------
    def iter_scores(
        self, X: Any, *, maps: bool = False, on_error: str = "raise"
    ) -> Iterator[ScoredBlock]:
        """Score samples block by block; memory does not grow with their number.

        Parameters
        ----------
        X : same kinds of input as in ``fit``
        maps : bool, default=False
            Also compute anomaly maps, which only detectors with ``anomaly_map`` have.
        on_error : {"raise", "record"}, default="raise"
            What to do about a sample that cannot be scored, such as an image file that is
            truncated or too small. ``"record"`` goes on and puts the error into the block.

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
            data = self._check_fitted_input(X)
        except (ImageFormatError, ImageReadError):
            if not record or not _is_a_list_of_images(X):
                raise
            yield from self._score_items(X, maps)
            return
        start, n = 0, len(data)
        while start < n:
            try:
                for scores, some_maps in self._score_batches(data[start:] if start else data, maps):
                    yield ScoredBlock(start, scores, some_maps, {})
                    start += len(scores)
            except NOT_ABOUT_A_SAMPLE:
                raise
            except Exception:  # whatever it is: it is found out which sample it is about
                if not record:
                    raise
                stop = min(n, start + self._block_size())
                for i in range(start, stop):
                    yield self._score_alone(data[i : i + 1], i, maps)
                start = stop

    def _score_items(self, X: Any, maps: bool) -> Iterator[ScoredBlock]:
        """Score a list of images of which some are not what they should be."""
        n_wrong = 0
        for i in range(len(X)):
            try:
                data = self._check_fitted_input(X[i : i + 1])
            except (ImageFormatError, ImageReadError) as error:
                n_wrong += 1
                if n_wrong == len(X):
                    raise  # all of them: a mistake in the call, not in an image
                yield ScoredBlock(i, np.full(1, np.nan), [None] * maps, {0: error})
            else:
                yield self._score_alone(data, i, maps)

    def _score_alone(self, data: Any, i: int, maps: bool) -> ScoredBlock:
        """Score one sample; whatever goes wrong is about this sample."""
        try:
            ((scores, some_maps),) = self._score_batches(data, maps)
        except NOT_ABOUT_A_SAMPLE:
            raise
        except Exception as error:
            return ScoredBlock(i, np.full(1, np.nan), [None] * maps, {0: error})
        return ScoredBlock(i, scores, some_maps, {})

    def _block_size(self) -> int:
        """Return the largest number of samples in a block."""
        return _BLOCK

    def _anomaly_scores(self, data: Any) -> np.ndarray:
        return np.concatenate([scores for scores, _ in self._score_batches(data, maps=False)])

    def _score_batches(
        self, data: Any, maps: bool
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Score validated samples; yield anomaly scores and, if wanted, maps of a few at a time."""
        for block, train_group, values, scores in self._score_blocks(data):
            known = self._replay_training_scores(scores, train_group)
            yield known, self._to_pixels(block, values) if maps else []

    def _score_blocks(self, data: Any) -> Iterator[tuple[Block, np.ndarray, Values, np.ndarray]]:
        for block, keys in prefetch(self._blocks(data)):
            train_group = np.array([self._known.get(key.image, -1) for key in keys], dtype=np.int64)
            values, scores = self._score(block, train_group)
            yield block, train_group, values, scores

    def _to_pixels(self, block: Block, values: Values) -> list[np.ndarray]:
        raise NotImplementedError

    def _replay_training_scores(self, scores: np.ndarray, train_group: np.ndarray) -> np.ndarray:
        """Put the out-of-sample score in the place of each recognized training sample's."""
        scores = np.asarray(scores, np.float64)
        return np.where(train_group >= 0, self.training_scores_[train_group], scores)

    # ---- input ----------------------------------------------------------------------
    def _check_fitted_input(self, X: Any) -> Any:
        return self._validate(X, reset=False)

    def _forget_columns(self) -> None:
        # Images have no columns; what an earlier fit on a table left would contradict that.
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)

    @property
    def _n_features_out(self) -> int:
        return 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def _is_a_list_of_images(X: Any) -> bool:
    """Tell whether one item may be wrong while the others are right, unlike in one array."""
    if isinstance(X, np.ndarray):
        return X.dtype.kind in "OU"
    return isinstance(X, (list, tuple, ImageSequence))


class BaseImageDetector(AnomalyMapMixin, BaseDetector[Block, Values]):
    """Base of the detectors that work on images and make heat maps.

    Signs are scikit-learn's on scikit-learn's names (``score_samples``,
    ``decision_function``: higher = more normal; ``predict``: -1 = anomalous) and the reverse
    on everything with *anomaly* in its name (``anomaly_map``) and in ``transform``. Training
    images are recognized, see :class:`BaseDetector`.

    **Images in tiles** (:class:`~pyimgano.tiling.TiledImages`) are samples like others. A
    subclass sees their tiles as so many images, told apart by nothing but ``group_of`` and
    ``train_group``: all tiles of an image are left out together. Scores are reduced and maps
    stitched here.

    **A region of interest**, where camera and part are fixed, goes into ``fit`` as
    ``roi_mask``, one mask of pixels for all images, and stays with the model as ``roi_mask_``.
    What lies outside neither enters the model nor the scores, maps have their minimum there,
    and images that differ nowhere else are the same image. A patch or a working pixel is
    inside if at least half of its cell is. What it is computed from reaches farther, by the
    receptive field of a network or the window of a filter: a change outside can be felt
    within that distance of the border. A feature step that learns something of its own, and
    the alignment of a template, see whole images. The mask is metadata in scikit-learn's sense:
    ``make_pipeline(ImageFormatNormalizer(), PatchCoreDetector()).fit(X,
    patchcoredetector__roi_mask=mask)`` hands it over as it stands, and under
    ``sklearn.set_config(enable_metadata_routing=True)`` searches and ensembles too give it to
    every detector that asks for it by ``set_fit_request(roi_mask=True)``.

    Besides ``_fit`` and ``_score`` a subclass writes ``_to_pixels``, which turns the values of
    a block into maps. If its methods keep to ``roi_mask_``, it says so by
    ``_takes_roi_mask = True``.
    """

    # Whether _blocks, _score and _to_pixels keep to roi_mask_.
    _takes_roi_mask = False

    roi_mask_: np.ndarray | None

    def _fit_samples(self, train: Any) -> None:
        if not self.tiled_:
            super()._fit_samples(train)
            return
        self._fit_steps(train.side_by_side())
        scores = self._fit_stream(train, int(train.counts.sum()))
        self._set_offset(train.reduce(scores))

    def _score_batches(
        self, data: Any, maps: bool
    ) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        if not self.tiled_:
            yield from super()._score_batches(data, maps)
            return
        for tiles in data.iter_images():
            canvas = tiles.canvas() if maps else None
            parts = []
            for block, _, values, tile_scores in self._score_blocks(tiles):
                parts.append(tile_scores)
                if canvas is not None:
                    canvas.lay(self._to_pixels(block, values))
            scores = np.array([tiles.reduce(np.concatenate(parts))])
            train_group = np.array([self._known.get(tiles.digest, -1)])
            known = self._replay_training_scores(scores, train_group)
            yield known, [canvas.finish()] if canvas else []

    # ---- input and region of interest -----------------------------------------------
    def _training_input(self, X: Any, *, roi_mask: Any = None) -> Any:
        self.roi_mask_ = None
        data = self._validate(X, reset=True)
        if roi_mask is not None:
            mask = self._check_roi_mask(roi_mask)
            self._check_sizes(data, mask)
            self.roi_mask_ = mask
        return data

    def _check_roi_mask(self, roi_mask: Any) -> np.ndarray:
        mask = np.array(roi_mask)  # a copy: it belongs to the model
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
        """All images must have the size of the mask, whose pixels are theirs."""
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
