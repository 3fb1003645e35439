"""``partial_fit`` of detectors on patch features: more good images for a fitted model."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _is_fitted

from pyimgano._checks import normal_samples
from pyimgano._training import TrainingStream
from pyimgano.detectors._composition import ImageAverages
from pyimgano.detectors._patch_base import BasePatchDetector
from pyimgano.utils._fitting import restored_on_error
from pyimgano.utils._state import Array, Maybe, MayLack, Number, Rule, Sizes, State, fail

__all__ = ["BaseIncrementalPatchDetector"]

Self = TypeVar("Self", bound="BaseIncrementalPatchDetector")


def _has_partial_fit(detector: Any) -> bool:
    if detector._learns_in_parts:
        return True
    raise AttributeError(
        f"{type(detector).__name__} has no partial_fit: what it has learned from one image depends "
        "on all others. Fit it on all images at once."
    )


class BaseIncrementalPatchDetector(BasePatchDetector):
    """Base of the detectors that take more good images after ``fit``.

    For the out-of-sample scores of images that are no longer there, a detector keeps the few
    patches of each that its score depends on. A subclass implements

    ``_fit_more(stream) -> (old, new)``
        Learn from more samples, of which ``stream`` may hold copies of old ones. ``old
        (n_kept,)`` are the out-of-sample scores of the samples whose groups are in
        ``_kept_group``, as it was before; ``new (n_samples,)`` those of the samples of the
        stream, anything for copies of old ones.

    and sets ``_image_groups`` and ``_kept_group`` in ``_fit``, and both anew in ``_fit_more``.
    """

    _fitted_state: dict[str, Rule] = {
        # Absent from files of earlier versions, which no partial_fit can go on from.
        "_image_groups": MayLack(Array("int64", "n", low=0, below="n")),
        "_kept_group": MayLack(Array("int64", "kept samples", low=0, below="n")),
        "_composition_spread": MayLack(Number(0)),
        "_fold_factor": MayLack(Maybe(Array("float64", "n", low=0))),
    }

    # A subclass that has to see all images at once says no.
    _learns_in_parts: bool = True
    # Attributes that partial_fit goes on from: all of them are there, or none.
    _for_more: tuple[str, ...] = ("_image_groups", "_kept_group", "_kept_rows")

    # Group of each training image; of each sample whose patches are kept.
    _image_groups: np.ndarray
    _kept_group: np.ndarray
    # How far patches lie from the average of their image, which the limit of _composition is
    # made of.
    _composition_spread: float = 0.0
    # Where the feature step overfits: the score in the folds, as a multiple of the score by the
    # model without the image.
    _fold_factor: np.ndarray | None = None

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        n_found = sum(name in state for name in cls._for_more)
        if n_found not in (0, len(cls._for_more)):
            fail(cls.__name__, "holds some of what partial_fit goes on from, and lacks the rest")
        if n_found and (np.diff(state["_kept_group"]) < 0).any():
            fail(f"{cls.__name__}._kept_group", "is not in order")

    def _fit_more(self, stream: TrainingStream) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _fit_validated(self, train: Any) -> None:
        for name in self._for_more:  # of an earlier fit
            self.__dict__.pop(name, None)
        self._fold_factor = None
        super()._fit_validated(train)

    def _cross_fit(self, train: Any) -> None:
        without = self.training_scores_
        super()._cross_fit(train)
        if self.training_scores_ is not without:
            self._fold_factor = _ratio(self.training_scores_, without)

    def _finish_averages(self) -> None:
        self._composition_spread = self._averages.spread()
        super()._finish_averages()

    @available_if(_has_partial_fit)
    @restored_on_error
    def partial_fit(self: Self, X: Any, y: Any = None) -> Self:
        """Learn from more good images; the first call is ``fit``.

        The feature step stays as it was fitted. ``training_scores_`` has an entry more for each
        new image, the entries of earlier images follow what was learned since, and ``offset_``
        is put anew by all of them. A ``roi_mask`` that ``fit`` was given holds for the new
        images, too.

        Parameters
        ----------
        X : same kind of input as in ``fit``
            Good images, one or more. Copies of images that were learned from are recognized,
            and are left out together with them.
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies, which are left out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no good image among them, or the model comes from an earlier version and
            lacks what this needs.
        """
        if not _is_fitted(self):
            self.fit(X, y)
            return self
        fitted = self._as_fitted()
        fitted._learn_more(X, y)
        if fitted is not self:  # parameters that were set since fit stay for the next one
            parameters = set(self._get_param_names())
            learned = {n: value for n, value in vars(fitted).items() if n not in parameters}
            self.__dict__.update(learned)
        return self

    def _learn_more(self, X: Any, y: Any) -> None:
        name = type(self).__name__
        if not all(name in vars(self) for name in self._for_more):
            raise ValueError(
                f"this {name} was fitted by a version of pyimgano without partial_fit, and lacks "
                "the patches of its training images that their scores depend on: fit it once more "
                "on those images."
            )
        data = self._validate_new_input(X)
        keep = normal_samples(y, len(data))
        train = data if keep.all() else data[np.flatnonzero(keep)]
        n_before = len(self.training_scores_)
        compared = self._composition
        self._averages = ImageAverages()
        if compared is not None:
            self._averages = ImageAverages.resumed(compared, self._composition_spread, n_before)
        stream: TrainingStream = TrainingStream(
            partial(self._training_blocks, train),
            int(train.counts.sum()) if self.tiled_ else len(train),
            getattr(self, "verbose", False),
            self._see_training_block,
            known=self._known,
            n_known=n_before,
        )
        old_groups = self._kept_group
        old, new = self._fit_more(stream)
        self._known = stream.group_of_image
        if compared is not None:
            self._finish_averages()
        else:  # each image is a single patch, or all of its patches were alike
            del self._averages
        groups, counts = np.unique(old_groups, return_counts=True)
        if self.tiled_:
            old, new = train.reduce(old, counts), train.reduce(new)
        before = np.zeros(n_before)
        before[groups] = old
        self._follow(np.concatenate([before, new]), n_before)

    def _follow(self, without: np.ndarray, n_before: int) -> None:
        """Put the threshold by scores of all groups of images, the old ones first.

        ``without (n,)`` are scores by the model without the image; those of a copy do not matter.
        """
        factor = np.ones(len(without))
        if self._fold_factor is not None:
            # The step suits its own images better than others, as before; the new ones are no
            # images of its own.
            factor[:n_before] = self._fold_factor
            self._fold_factor = factor[self._image_groups]
        scores = (without * factor)[self._image_groups]
        if self._held_out_levels is not None:
            levels = np.full((len(scores), 2), np.nan)
            change = _ratio(scores[:n_before], self.training_scores_)
            levels[:n_before] = self._held_out_levels * change[:, None]
            self._held_out_levels = levels
        self._set_offset(scores)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients; 1 where there is none."""
    return np.divide(
        numerator, denominator, out=np.ones(len(numerator)), where=np.asarray(denominator) > 0
    )
