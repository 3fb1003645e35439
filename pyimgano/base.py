"""The contract every detector keeps: what goes in, which sign comes out, what is stored.

``BaseImageDetector`` owns validation, the rule for labels, the offset, recognition of
training images, scikit-learn's methods and the state that is saved. ``BasePatchDetector``
adds the feature step in front. A detector writes ``_fit`` and ``_score``, little else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.features import BasePatchFeatures, PatchGrids, make_features
from pyimgano.inputs import ImageSequence, check_images
from pyimgano.tiling import TileBlock, TiledImages
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._progress import progress_callback
from pyimgano.utils._threads import ahead, in_threads, n_threads
from pyimgano.utils._versions import VersionStampMixin

__all__ = [
    "BaseImageDetector",
    "BasePatchDetector",
    "Fingerprint",
    "TrainingBlocks",
    "VersionStampMixin",
    "fingerprints",
    "input_kind",
    "lowest_outside",
    "normal_rows",
]

# What "auto" flags: one training image in two hundred.
_AUTO_QUANTILE = 0.995
# Images held at a time when the feature step does not say.
_BLOCK = 8


def input_kind(X: object) -> str:
    """Say what kind of input ``X`` is, from its type alone, never from its values.

    Parameters
    ----------
    X : object
        What a user handed to an estimator.

    Returns
    -------
    {"images", "grids", "rows"}
        ``"grids"`` for :class:`~pyimgano.features.PatchGrids`; ``"images"`` for paths, an
        :class:`~pyimgano.inputs.ImageSequence` and anything made of arrays with two or more
        dimensions; ``"rows"`` for everything else, which scikit-learn's own validation
        then accepts (a numeric table) or refuses.
    """
    if isinstance(X, PatchGrids):
        return "grids"
    if isinstance(X, (ImageSequence, str, Path)) or hasattr(X, "iter_blocks"):
        return "images"
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.ndim == 1):
        if len(X) == 0:
            return "rows"
        first = X[0]
        return "images" if isinstance(first, (str, Path)) or _n_dims(first) >= 2 else "rows"
    return "images" if _n_dims(X) >= 3 else "rows"


def _n_dims(x: object) -> int:
    # Nested lists are tables or images spelled out by hand; only real arrays are images.
    return len(getattr(x, "shape", ()))


def normal_rows(y: Any, n: int) -> np.ndarray:
    """Which samples to learn from: all but the known anomalies, ``y == -1``.

    Parameters
    ----------
    y : array-like of shape (n,) or None
        +1 for normal, -1 for anomalous. Labels of any other kind say nothing about that and
        are ignored with a ``UserWarning``.
    n : int
        Number of samples.

    Returns
    -------
    ndarray of shape (n,), bool
    """
    if y is None:
        return np.ones(n, dtype=bool)
    labels = np.asarray(y)
    check_consistent_length(np.empty(n), labels)
    if labels.ndim != 1 or not np.isin(labels, (1, -1)).all():
        warnings.warn(
            "y is ignored: only labels +1 (normal) and -1 (anomalous, left out of training) "
            f"have a meaning here, got {_preview(labels)}.",
            UserWarning,
            stacklevel=3,
        )
        return np.ones(n, dtype=bool)
    keep = labels == 1
    if not keep.any():
        raise ValueError("every label in y is -1: there is no normal sample (+1) to learn from.")
    return keep


def _preview(labels: np.ndarray) -> str:
    values = ", ".join(repr(v) for v in list(dict.fromkeys(labels.ravel().tolist()))[:4])
    return f"{values}, ..." if labels.size > 4 else values


class Fingerprint(NamedTuple):
    """What a sample is recognised by: the content of its image, and which tile of it it is.

    Parameters
    ----------
    image : bytes
        Digest of the whole image, or of the row.
    tile : int, default=0
        Number of the tile in its image.
    """

    image: bytes
    tile: int = 0


def fingerprints(images: list[np.ndarray], region: np.ndarray | None = None) -> list[Fingerprint]:
    """Fingerprints of a block of images, or of a block of tiles of one image.

    A tile goes by its whole image: tiles that look alike, such as empty background, say
    nothing about whether the image was among the training images.

    Parameters
    ----------
    images : list of ndarray of shape (height, width, 3), uint8
        A block of images, or of tiles.
    region : ndarray of shape (height, width), bool, default=None
        The pixels that count; all by default. Images that differ elsewhere are the same.

    Returns
    -------
    list of Fingerprint
    """
    if isinstance(images, TileBlock):
        return [Fingerprint(images.digest, images.first + k) for k in range(len(images))]

    def seen(image: np.ndarray) -> bytes:
        return digest(image if region is None else image[region])

    return [Fingerprint(one) for one in in_threads(seen, images, n_threads())]


def lowest_outside(heat: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Give a map its minimum outside a region, in place; what is inside decides which.

    Parameters
    ----------
    heat : ndarray of shape (height, width)
        Map of an image.
    region : ndarray of shape (height, width), bool
        Pixels that keep their values.

    Returns
    -------
    ndarray of shape (height, width)
        ``heat``.
    """
    heat[~region] = heat[region].min()
    return heat


class TrainingBlocks:
    """The training samples in blocks, to be read through once, and who must not vouch for whom.

    A sample is an image, or a tile where images are cut into tiles.

    Parameters
    ----------
    blocks : iterator of (block, list of Fingerprint)
        The samples, some at a time.
    n_images : int
        Number of training samples, known from the start.
    verbose : bool, default=False
        Show a progress bar where reading takes more than two seconds.

    Attributes
    ----------
    groups : ndarray of shape (n_images,), int
        Training image that each sample is or was cut from; of images with the same content,
        the first. Complete once all blocks are read. A group is left out as a whole.
    copy_of : ndarray of shape (n_images,), int
        Index of the first sample that equals each sample because their images are equal.
    """

    def __init__(
        self,
        blocks: Iterator[tuple[Any, list[Fingerprint]]],
        n_images: int,
        verbose: bool = False,
    ) -> None:
        self.n_images = n_images
        self._verbose = verbose
        self.known: dict[bytes, int] = {}
        self._blocks = blocks
        self._groups: list[int] = []
        self._copy_of: list[int] = []
        self._first: dict[Fingerprint, int] = {}
        self._n_begun = 0

    def __iter__(self) -> Iterator[Any]:
        with progress_callback("training images", self._verbose) as progress:
            for block, samples in ahead(self._blocks):
                for sample in samples:
                    self._n_begun += sample.tile == 0
                    self._groups.append(self.known.setdefault(sample.image, self._n_begun - 1))
                    self._copy_of.append(self._first.setdefault(sample, len(self._copy_of)))
                if progress is not None:
                    progress(len(self._groups), self.n_images)
                yield block

    @property
    def groups(self) -> np.ndarray:
        return np.array(self._groups, dtype=np.int64)

    def groups_since(self, first: int) -> np.ndarray:
        """Groups of the samples from one on, without the cost of all when few are new.

        Parameters
        ----------
        first : int
            Number of samples to leave out.

        Returns
        -------
        ndarray of shape (n_read - first,), int
            ``groups[first:]``.
        """
        return np.array(self._groups[first:], dtype=np.int64)

    @property
    def copy_of(self) -> np.ndarray:
        return np.array(self._copy_of, dtype=np.int64)


class BaseImageDetector(
    ClassNamePrefixFeaturesOutMixin,
    VersionStampMixin,
    TransformerMixin,
    OutlierMixin,
    BaseEstimator,
):
    """Base of all detectors.

    Signs are scikit-learn's on scikit-learn's names (``score_samples``,
    ``decision_function``: higher = more normal; ``predict``: -1 = anomalous) and the reverse
    on everything with *anomaly* in its name (``anomaly_map``) and in ``transform``.

    **Training images are recognised.** A model scores what it was trained on better than
    anything new, so a threshold put on such scores flags good parts. Every detector
    therefore keeps, for each training image, the score it has when the model has not seen
    it (``training_scores_``), and gives that score whenever it meets the very same pixels
    again. Copies of one image are left out together. ``fit_predict(X)``, ``fit(X).predict(X)``
    and a quantile of ``score_samples(X_train)`` are hence all honest.

    **Images in tiles** (:class:`~pyimgano.tiling.TiledImages`) are samples like others. A
    subclass sees their tiles as so many images, told apart by nothing but ``groups`` and
    ``own``: all tiles of an image are left out together. Scores are reduced and maps stitched
    here.

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

    A subclass has the parameters ``contamination`` and ``random_state`` and writes

    ``_fit(blocks) -> scores (n,)``
        Learn from the :class:`TrainingBlocks`; return the out-of-sample anomaly scores of
        the training samples.
    ``_score(block, own) -> (values, scores)``
        ``scores (n,)`` are the anomaly scores of the block's images, ``values`` whatever
        ``_to_pixels`` turns into maps. ``own (n,)`` is the training image each image is
        known to be, or -1; what the model learned from that image should be left out.

    and, unless it works on patch grids, ``_blocks`` and ``_to_pixels``. If these keep to
    ``roi_mask_``, it says so by ``_takes_roi_mask = True``.
    """

    _parameter_constraints: dict = {
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state"],
    }

    # For the registry, pyimgano.models. The name is each class's own, None for what is no model
    # by itself; family and tags are inherited. The paper need only be said, by each class for
    # itself, where it is not the first reference of the docstring.
    _registry_name: str | None
    _family: str
    _tags: tuple[str, ...]
    _paper: str | None

    # Whether _blocks, _score and _to_pixels keep to roi_mask_.
    _takes_roi_mask = False

    contamination: str | float
    random_state: Any
    input_kind_: str
    tiled_: bool
    roi_mask_: np.ndarray | None

    # ---- what a subclass writes -----------------------------------------------------
    def _fit(self, blocks: TrainingBlocks) -> np.ndarray:
        raise NotImplementedError

    def _score(self, block: Any, own: np.ndarray) -> tuple[Any, np.ndarray]:
        raise NotImplementedError

    def _blocks(self, data: Any) -> Iterator[tuple[Any, list[Fingerprint]]]:
        """Cut validated input into blocks, each with the fingerprints of its images."""
        raise NotImplementedError

    def _to_pixels(self, block: Any, values: Any) -> list[np.ndarray]:
        raise NotImplementedError

    def _training_blocks(self, data: Any) -> Iterator[tuple[Any, list[Fingerprint]]]:
        """Blocks to learn from; by default those of the images themselves.

        A detector that also learns from other views of an image, such as rotations, yields
        them when all images have come, under the fingerprint of the image they show.
        """
        return self._blocks(data)

    def _fit_steps(self, data: Any) -> None:
        """Fit what stands before the detector's own algorithm; by default nothing."""

    # ---- scikit-learn's methods -----------------------------------------------------
    def fit(self, X: Any, y: Any = None, *, roi_mask: Any = None) -> BaseImageDetector:
        """Learn what good parts look like.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, uint8 RGB images, TiledImages, PatchGrids or rows
            Training samples, see the user guide for each kind. Feature rows are an
            array-like of shape (n_samples, n_features).
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies, which are left out of training. Other
            labels are ignored with a ``UserWarning``.
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

    def _fit_scores(self, X: Any, y: Any, **metadata: Any) -> tuple[Any, np.ndarray]:
        """Fit; return the validated input and the mask of samples learned from."""
        self._validate_params()
        data = self._training_input(X, **metadata)
        keep = normal_rows(y, len(data))
        train = data if keep.all() else data[np.flatnonzero(keep)]
        if len(train) < 2:
            raise TooFewImagesError(
                f"{type(self).__name__} needs at least 2 training samples to tell how far an "
                f"unseen good one may lie, got n_samples={len(train)}."
            )
        self._fit_steps(train.side_by_side() if self.tiled_ else train)
        n_samples = int(train.counts.sum()) if self.tiled_ else len(train)
        blocks = TrainingBlocks(
            self._training_blocks(train), n_samples, getattr(self, "verbose", False)
        )
        scores = np.asarray(self._fit(blocks), dtype=np.float64)
        self.training_scores_ = train.reduce(scores) if self.tiled_ else scores
        self._known = blocks.known
        if self.contamination == "auto":
            self.offset_ = -float(np.quantile(self.training_scores_, _AUTO_QUANTILE))
        else:
            share = 100.0 * float(self.contamination)
            self.offset_ = float(np.percentile(-self.training_scores_, share))
        return data, keep

    def score_samples(self, X: Any) -> np.ndarray:
        """Score samples; the higher, the more normal.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return -self._anomaly_scores(self._check_fitted_input(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples(X) - offset_``: negative = anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), float64
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """+1 for normal, -1 for anomalous samples (``decision_function`` below 0).

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def fit_predict(self, X: Any, y: Any = None, *, roi_mask: Any = None) -> np.ndarray:
        """Fit, and judge the training samples by their out-of-sample scores.

        Parameters
        ----------
        X, y, roi_mask : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples,), int
            +1 for normal, -1 for anomalous.
        """
        scores = self._fit_anomaly_scores(X, y, roi_mask=roi_mask)
        return np.where(-scores - self.offset_ < 0, -1, 1)

    def transform(self, X: Any) -> np.ndarray:
        """Anomaly score as a column, the higher the more anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, 1), float64
            ``-score_samples(X)``.
        """
        return -self.score_samples(X).reshape(-1, 1)

    def fit_transform(self, X: Any, y: Any = None, *, roi_mask: Any = None) -> np.ndarray:
        """Fit, and return the out-of-sample anomaly scores of the training samples.

        Samples with ``y == -1`` were not learned from; their scores are those of
        ``transform``.

        Parameters
        ----------
        X, y, roi_mask : as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, 1), float64
        """
        return self._fit_anomaly_scores(X, y, roi_mask=roi_mask).reshape(-1, 1)

    def anomaly_map(self, X: Any) -> np.ndarray | list[np.ndarray]:
        """How anomalous each pixel is, the higher the more anomalous.

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
        """``score_samples(X)`` and ``anomaly_map(X)`` for the price of one of them.

        Parameters
        ----------
        X : input of the detector

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
        maps : ndarray of shape (n_samples, height, width), float32, or list of such arrays
        """
        data = self._check_fitted_input(X)
        scores, maps = [], []
        for some_scores, some_maps in self._judge(data, maps=True):
            scores.append(some_scores)
            maps += some_maps
        if len(maps) == 1:
            return -np.concatenate(scores), maps[0][None]  # it may be large: no copy
        same_size = len({m.shape for m in maps}) == 1
        return -np.concatenate(scores), np.stack(maps) if same_size else maps

    # ---- shared machinery -----------------------------------------------------------
    def _fit_anomaly_scores(self, X: Any, y: Any, **metadata: Any) -> np.ndarray:
        data, keep = self._fit_scores(X, y, **metadata)
        scores = np.empty(len(data))
        scores[keep] = self.training_scores_
        if not keep.all():
            scores[~keep] = self._anomaly_scores(data[np.flatnonzero(~keep)])
        return scores

    def _anomaly_scores(self, data: Any) -> np.ndarray:
        return np.concatenate([scores for scores, _ in self._judge(data, maps=False)])

    def _judge(self, data: Any, *, maps: bool) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Anomaly scores and, if wanted, maps of some images at a time."""
        if not self.tiled_:
            for block, own, values, scores in self._score_blocks(data):
                yield self._settle(scores, own), self._to_pixels(block, values) if maps else []
            return
        for tiles in data.iter_images():
            canvas = tiles.canvas() if maps else None
            parts = []
            for block, _, values, tile_scores in self._score_blocks(tiles):
                parts.append(tile_scores)
                if canvas is not None:
                    canvas.lay(self._to_pixels(block, values))
            scores = np.array([tiles.reduce(np.concatenate(parts))])
            own = np.array([self._known.get(tiles.digest, -1)])
            yield self._settle(scores, own), [canvas.finish()] if canvas else []

    def _score_blocks(self, data: Any) -> Iterator[tuple[Any, np.ndarray, Any, np.ndarray]]:
        for block, samples in ahead(self._blocks(data)):
            own = np.array([self._known.get(s.image, -1) for s in samples], dtype=np.int64)
            values, scores = self._score(block, own)
            yield block, own, values, scores

    def _settle(self, scores: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Give recognised training images their out-of-sample score."""
        return np.where(own >= 0, self.training_scores_[own], np.asarray(scores, np.float64))

    def _training_input(self, X: Any, *, roi_mask: Any = None) -> Any:
        """Validate training samples and what was passed along with them."""
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
            raise ValueError(
                f"{name} takes no roi_mask: crop the images to the region in a step before it."
            )
        if self.tiled_:
            raise ValueError(
                "roi_mask is for whole images, and X holds images cut into tiles: leave out the "
                "TilingTransformer, or crop the images to the region before it."
            )
        if self.input_kind_ != "images":
            raise ValueError(
                f"roi_mask is a mask of pixels, and X holds {_KIND_NAMES[self.input_kind_]}: fit "
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

    def _check_fitted_input(self, X: Any) -> Any:
        check_is_fitted(self)
        return self._validate(X, reset=False)

    def _validate(self, X: Any, *, reset: bool) -> Any:
        kind, tiled = input_kind(X), isinstance(X, TiledImages)
        if not reset and (kind, tiled) != (self.input_kind_, self.tiled_):
            raise ImageFormatError(
                f"this {type(self).__name__} was fitted on "
                f"{_kind_name(self.input_kind_, self.tiled_)} and was given "
                f"{_kind_name(kind, tiled)} ({type(X).__name__}); give it the kind of input it "
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


_KIND_NAMES = {"images": "images", "grids": "patch grids", "rows": "a table of feature rows"}


def _kind_name(kind: str, tiled: bool) -> str:
    return _KIND_NAMES[kind] + " cut into tiles" * tiled


class BasePatchDetector(BaseImageDetector):
    """Base of detectors that work on patch features.

    Holds the ``features`` step and turns any input into blocks of
    :class:`~pyimgano.features.PatchGrids`; feature rows are grids of one patch. A subclass
    also has the parameter ``smoothing_sigma``.

    Attributes
    ----------
    features_ : transformer
        The fitted feature step; absent when fitted on patch grids or rows.
    """

    _parameter_constraints: dict = {
        **BaseImageDetector._parameter_constraints,
        "features": [str, HasMethods(["fit", "transform"])],
        "smoothing_sigma": [Interval(Real, 0, None, closed="left")],
    }

    _takes_roi_mask = True

    # What a network given by name is asked for: the layers and neighbourhood of the paper.
    _feature_defaults: dict[str, Any] = {"layers": ("layer2", "layer3"), "pool": 3}

    features: str | BasePatchFeatures
    smoothing_sigma: float

    def _fit_steps(self, data: Any) -> None:
        self.__dict__.pop("features_", None)
        if self.input_kind_ == "images":
            self.features_ = make_features(self.features, **self._feature_defaults).fit(data)

    def _blocks(self, data: Any) -> Iterator[tuple[PatchGrids, list[Fingerprint]]]:
        if self.input_kind_ == "images":
            for images in self._image_blocks(data):
                yield self._grids(images, self.roi_mask_), fingerprints(images, self.roi_mask_)
        else:
            cuts = data.starts
            yield data, [Fingerprint(digest(data.rows[a:b])) for a, b in zip(cuts[:-1], cuts[1:])]

    def _image_blocks(self, data: Any) -> Iterator[list[np.ndarray]]:
        return data.iter_blocks(getattr(self.features_, "batch_size", _BLOCK))

    def _grids(self, images: list[np.ndarray], region: np.ndarray | None) -> PatchGrids:
        """Patches of a block of images, as far as they lie in the region."""
        grids = self.features_.transform(images)
        if not isinstance(grids, PatchGrids):
            raise TypeError(
                f"the feature step {type(self.features_).__name__} returned "
                f"{type(grids).__name__}; a patch detector needs PatchGrids."
            )
        return grids if region is None else grids.within(region)

    def _to_pixels(self, block: PatchGrids, values: Any) -> list[np.ndarray]:
        return self._within_region(block.to_pixels(values, sigma=self.smoothing_sigma))

    def _within_region(self, maps: list[np.ndarray]) -> list[np.ndarray]:
        """Maps with their minimum outside ``roi_mask_``."""
        return maps if self.roi_mask_ is None else [lowest_outside(m, self.roi_mask_) for m in maps]
