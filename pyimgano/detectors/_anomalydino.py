"""AnomalyDINO: cosine distance of each transformer token to the nearest token of a good image."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
from scipy.linalg import eigh
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._training import SampleKey, TrainingStream
from pyimgano.detectors._bank import HeldOutImage, check_bank, choose_bank
from pyimgano.detectors._nearest_normal import FoundPatch, NearestNormalMixin
from pyimgano.detectors._patch_base import BasePatchDetector
from pyimgano.detectors._patches import PatchStore
from pyimgano.exceptions import ParameterError
from pyimgano.grids import PatchGrids
from pyimgano.utils._state import Object, Sizes, State
from pyimgano.utils._threads import one_blas_thread

__all__ = ["AnomalyDINODetector"]

# Dimensions of the random projection that a coreset is chosen on, as in PatchCore.
_PROJECTION_DIM = 128


class AnomalyDINODetector(NearestNormalMixin, BasePatchDetector):
    """AnomalyDINO: a bank of all good patch tokens of a vision transformer.

    Each patch is as anomalous as its token is far, in cosine distance, from the nearest token
    of a good image. The image's score is the mean over its most anomalous patches, by default
    one in a hundred. Nothing is trained; a single good image with its rotations is a start.

    On feature rows, each row is one patch: a k-NN novelty detector in cosine distance.

    Parameters
    ----------
    features : str or transformer, default="dinov2_vits14"
        Name of a feature step (see :func:`pyimgano.features.make_features`) or a transformer
        that returns :class:`~pyimgano.grids.PatchGrids`, such as
        :class:`~pyimgano.features.ViTPatchFeatures`. Not used when fitted on patch grids or
        feature rows.
    coreset_ratio : float in (0, 1], default=1.0
        Share of the training patches kept in the bank. The paper keeps all, for a few
        training images; with hundreds of them, 0.1 is ten times faster to search. Less than
        1 chooses a greedy k-center coreset, as PatchCore does.
    top_fraction : float in (0, 1], default=0.01
        Share of an image's patches, the most anomalous ones, whose mean is its score; at
        least one patch.
    mask : {"none", "pca"}, default="none"
        ``"pca"`` splits each image into object and background by the first principal
        component of its tokens. Background patches enter neither the bank nor the score, and
        their distance is 0. For objects before a plain background, not for textures. A
        region of interest (``roi_mask`` of ``fit``) is split as if it was the image.
    n_rotations : int, default=1
        Views of each training image in the bank, at multiples of 360 / ``n_rotations``
        degrees. For parts that lie at any angle and few training images; the paper takes 8.
        1 takes each image as it is. Needs images.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution
        the features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged.
    random_state : int, RandomState or None, default=0
        Seeds the coreset; not used with ``coreset_ratio=1.0``.
    verbose : bool, default=False
        Show a progress bar where fitting takes more than two seconds.

    Attributes
    ----------
    bank_ : ndarray of shape (n_bank, n_features), float32
        The tokens, scaled to length 1.
    bank_image_ : ndarray of shape (n_bank,), int
        Training image each token came from (of equal images, the first).
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image against the bank without it, its copies and
        their rotations. A coreset is filled up with other images' tokens to its size.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.
    features_ : transformer
        The fitted feature step, when fitted on images.
    n_features_in_ : int
        Length of the feature vectors, when fitted on patch grids or rows.

    Notes
    -----
    Cosine distance is half the squared Euclidean distance of vectors of length 1, so the
    search is an exact Euclidean one. A vector of zeros stays one.

    The mask follows the paper but for its threshold, which there is a fixed value on the
    scale of DINOv2's tokens. Here it is Otsu's [2]_, which has no scale. The side with more
    of the image's middle is the object; it is then dilated and its holes are closed.

    Images that consist of something else than good images as a whole, such as black, white or
    noisy ones, are flagged by their average token, as by
    :class:`~pyimgano.detectors.PatchCoreDetector`, see its Notes.

    Rotations by right angles are exact. By others, the image keeps its size and is continued
    by its mirror image at the corners.

    References
    ----------
    .. [1] S. Damm et al., "AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with
       DINOv2", WACV 2025.
    .. [2] N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions
       on Systems, Man, and Cybernetics 9, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano.detectors import AnomalyDINODetector
    >>> from pyimgano.features import FilterBankFeatures
    >>> rng = np.random.RandomState(0)
    >>> good = rng.randint(90, 110, size=(12, 64, 64, 3)).astype(np.uint8)
    >>> detector = AnomalyDINODetector(FilterBankFeatures(resize=64)).fit(good)
    >>> bad = rng.randint(90, 110, size=(1, 64, 64, 3)).astype(np.uint8)
    >>> bad[0, 20:30, 20:30] = 255
    >>> detector.predict(bad)
    array([-1])
    >>> detector.anomaly_map(bad).shape
    (1, 64, 64)
    """

    _registry_name = "vision_anomalydino"
    _family = "memory bank"
    _tags = ("any pose", "few-shot")
    _parameter_constraints: dict = {
        **BasePatchDetector._parameter_constraints,
        "coreset_ratio": [Interval(Real, 0, 1, closed="right")],
        "top_fraction": [Interval(Real, 0, 1, closed="right")],
        "mask": [StrOptions({"none", "pca"})],
        "n_rotations": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["boolean"],
    }
    _fitted_state = {"_search": Object("NearestNeighbors")}

    @classmethod
    def _width(cls, state: State) -> int:
        return int(state["_search"].bank.shape[1])

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        check_bank(cls.__name__, state["_search"], state.get("n_features_in_"))

    def __init__(
        self,
        features: Any = "dinov2_vits14",
        *,
        coreset_ratio: float = 1.0,
        top_fraction: float = 0.01,
        mask: str = "none",
        n_rotations: int = 1,
        smoothing_sigma: float = 4.0,
        contamination: str | float = "auto",
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.features = features
        self.coreset_ratio = coreset_ratio
        self.top_fraction = top_fraction
        self.mask = mask
        self.n_rotations = n_rotations
        self.smoothing_sigma = smoothing_sigma
        self.contamination = contamination
        self.random_state = random_state
        self.verbose = verbose

    @property
    def bank_(self) -> np.ndarray:
        return self._search.bank

    @property
    def bank_image_(self) -> Any:
        return self._search.bank_group

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        if self.n_rotations > 1 and self.input_kind_ != "images":
            raise ParameterError(
                f"n_rotations={self.n_rotations} rotates images, and X holds their features "
                "already: fit on images, or set n_rotations=1."
            )
        with PatchStore() as patches:
            bank = choose_bank(
                stream,
                patches,
                ratio=self.coreset_ratio,
                projection_dim=_PROJECTION_DIM,
                rng=check_random_state(self.random_state),
                verbose=self.verbose,
            )
            self._search = bank.search
            n = stream.n_samples  # the rotations come after them
            return bank.out_of_sample(
                self._score_without, stream.group_of[:n], stream.duplicate_of[:n], self.verbose
            )

    def _training_blocks(self, data: Any) -> Iterator[tuple[PatchGrids, list[SampleKey]]]:
        all_keys: list[SampleKey] = []
        for grids, keys in self._blocks(data):
            all_keys += keys
            yield self._foreground_tokens(grids), keys
        for turn in range(1, self.n_rotations):
            done = 0
            angle = 360.0 * turn / self.n_rotations
            region = self.roi_mask_
            if region is not None:
                region = _rotate(region.astype(np.uint8) * 255, angle) > 127
            for images, _ in self._keyed_images(data):
                grids = self._grids([_rotate(image, angle) for image in images], region)
                yield self._foreground_tokens(grids), all_keys[done : done + len(images)]
                done += len(images)

    def _foreground_tokens(self, grids: PatchGrids) -> PatchGrids:
        """Select the patches that enter the bank, in a column for each image."""
        inside = self._inside(grids)
        counts = np.add.reduceat(inside, grids.starts[:-1], dtype=np.int64)
        return PatchGrids(
            _unit_length(grids.rows[inside]), np.column_stack([counts, np.ones_like(counts)])
        )

    def _inside(self, grids: PatchGrids) -> np.ndarray:
        """Mask of the patches that count, ``(n_patches,)``."""
        if self.mask == "none":
            return np.ones(len(grids.rows), dtype=bool)
        return np.concatenate(
            [
                _foreground(rows, grids.mask_of(i).reshape(grids.grid_shapes[i]))
                for i, rows in enumerate(grids.as_image_rows())
            ]
        )

    def _score(self, block: PatchGrids, train_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A bank that stems from one image alone cannot do without it.
        only = int(self.bank_image_[0]) if np.ptp(self.bank_image_) == 0 else -2
        exclude = np.where(train_group == only, -1, train_group)[block.image_of_row]
        inside = self._inside(block)
        found, _ = self._search.query(_unit_length(block.rows[inside]), exclude=exclude[inside])
        distance = np.zeros(len(block.rows))
        distance[inside] = _cosine_distance(found[:, 0])
        scores = []
        for a, b in zip(block.starts[:-1], block.starts[1:]):
            counted = distance[a:b][inside[a:b]]
            scores.append(_mean_of_worst(counted, self._n_worst(len(counted))))
        return distance, np.array(scores)

    def _see_training_block(self, block: PatchGrids, groups: np.ndarray) -> None:
        # With a mask the bank holds no background, and no image of nothing else resembles it.
        if self.mask == "none":
            super()._see_training_block(block, groups)

    def _as_whole(self, block: PatchGrids, values: Any) -> np.ndarray | None:
        return super()._as_whole(block.with_rows(_unit_length(block.rows)), values)

    def _as_in_bank(self, rows: np.ndarray) -> np.ndarray:
        return _unit_length(rows)

    def _nearest_patches(
        self, block: PatchGrids, row: int, left_out: int, n: int
    ) -> list[FoundPatch]:
        found = super()._nearest_patches(block, row, left_out, n)
        return [one._replace(distance=one.distance**2 / 2) for one in found]  # 1 - cos

    def _n_worst(self, n_patches: int) -> int:
        return max(1, round(self.top_fraction * n_patches))

    def _score_without(self, image: HeldOutImage) -> float:
        """Score of a training image against the bank without it.

        The score needs the image's worst patches only: patches are measured in the order of
        their bounds until none that is left can be among the worst.
        """
        n_worst = self._n_worst(len(image.rows))
        order = np.argsort(-image.bound, kind="stable")
        measured = np.empty(0)
        step = max(16, 2 * n_worst)
        while len(measured) < len(order):
            part = order[len(measured) : len(measured) + step]
            measured = np.concatenate([measured, image.nearest(part)[0]])
            rest = image.bound[order[len(measured) :]]
            if len(measured) >= n_worst and (rest <= np.sort(measured)[-n_worst]).all():
                break
        return _mean_of_worst(_cosine_distance(measured), n_worst)


def _mean_of_worst(distance: np.ndarray, n_worst: int) -> float:
    return float(np.sort(distance)[-n_worst:].mean())


def _unit_length(rows: np.ndarray) -> np.ndarray:
    """Scale rows to Euclidean length 1, float32; zeros stay zeros."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    length[length == 0] = 1.0
    return (rows / length[:, None]).astype(np.float32)


def _cosine_distance(distance: np.ndarray) -> np.ndarray:
    """1 - cos of vectors of length 1, from their Euclidean distance."""
    return distance**2 / 2


def _rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate an image counterclockwise about its center."""
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, int(degrees // 90)))
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)


def _foreground(tokens: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Find the patches that show the object, ``(n_patches,)``, bool.

    ``held (h, w)`` says where in the grid the patches are, all of it or a region. The region
    is looked at as if the image was cropped to it. All patches count where it has no middle
    (fewer than 3 rows or columns, a ring) or nothing but a middle, or the tokens do not differ.
    """
    everything = np.ones(len(tokens), dtype=bool)
    rows, columns = (at - at.min() for at in np.nonzero(held))
    height, width = int(rows.max()) + 1, int(columns.max()) + 1
    if min(height, width) < 3:
        return everything
    top, left = -(-height // 4), -(-width // 4)
    middle = (rows >= top) & (rows < height - top) & (columns >= left) & (columns < width - left)
    if middle.all() or not middle.any():
        return everything
    centered = tokens.astype(np.float64)
    centered -= centered.mean(axis=0)
    d = centered.shape[1]
    with one_blas_thread:
        _, axis = eigh(centered.T @ centered, subset_by_index=[d - 1, d - 1])
        component = centered @ axis
    low, spread = component.min(), np.ptp(component)
    if spread == 0:
        return everything
    levels = np.round((component - low) * (255 / spread)).astype(np.uint8)
    _, high = cv2.threshold(levels[:, None], 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # An eigenvector has no sign: the object is what fills more of the middle than of the rim.
    if high[middle].mean() < high[~middle].mean():
        high = 1 - high
    square = np.ones((3, 3), dtype=np.uint8)
    grown: Any = np.zeros((height, width), dtype=np.uint8)
    grown[rows, columns] = high.ravel()
    grown = cv2.morphologyEx(cv2.dilate(grown, square), cv2.MORPH_CLOSE, square)
    return grown[rows, columns].astype(bool)
