"""Out-of-sample scores of any outlier detector: its own, or those of folds."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer, get_scorer_names, roc_auc_score
from sklearn.model_selection import BaseCrossValidator, GroupKFold, KFold, check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length, get_tags
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_memory

from pyimgano._decision import flip
from pyimgano._nesting import innermost, is_calibrator, steps_before, walk
from pyimgano.calibration._fold_ensemble import _FoldEnsemble
from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.inputs._containers import is_path
from pyimgano.inputs._sequence import size_and_mtime

__all__ = [
    "OWN_SCORES",
    "automatic_splitter",
    "file_stamps",
    "fit_fold",
    "fit_labeled",
    "folds_of_normal_samples",
    "held_out",
    "index_metadata",
    "learns_from_known_anomalies",
    "learns_nothing",
    "out_of_sample_scores",
    "own_scores",
]

# The source that out_of_sample_scores names for scores that the detector itself keeps.
OWN_SCORES = "the detector's own out-of-sample scores"
# Folds used by cv="auto" when the estimator has no out-of-sample scores of its own.
_AUTO_FOLDS = 5


def out_of_sample_scores(
    estimator: Any,
    X: Any,
    *,
    cv: Any = "auto",
    ensemble: str | bool = "auto",
    memory: Any = None,
    n_jobs: int | None = None,
    params: dict[str, Any] | None = None,
    groups: Any = None,
    normal: np.ndarray | None = None,
) -> tuple[Any, np.ndarray, str]:
    """Fit an outlier detector, and score its training samples as if it had not seen them.

    Parameters
    ----------
    estimator : estimator
        An outlier detector with ``score_samples``, or a pipeline that ends in one. A clone of
        it is fitted; a ``FrozenEstimator`` stays as it is.
    X : indexable input of the estimator
        Good samples.
    cv : "auto", int, splitter or iterable of splits, default="auto"
        As in :class:`ThresholdCalibrator`.
    ensemble : "auto" or bool, default="auto"
        As in :class:`ThresholdCalibrator`.
    memory : str or joblib.Memory, default=None
        Cache for fitted estimators.
    n_jobs : int, default=None
        Number of folds fitted at a time.
    params : dict, default=None
        Metadata for the estimator's ``fit``.
    groups : array-like of shape (n_samples,), default=None
        Samples of one group, such as several photos of one part, are tested together. With
        ``cv="auto"`` that takes folds, since the scores a detector keeps leave out one image.
    normal : ndarray of shape (n_samples,), bool, default=None
        False for known anomalies, which an estimator that ``learns_from_known_anomalies`` is
        given in every fit. By default all samples are good.

    Returns
    -------
    estimator : estimator
        Fitted on all of ``X``, or the median of those of the folds.
    scores : ndarray of shape (n_good,), float64
        Anomaly scores (``-score_samples``) of the good samples, in the order of ``X``. If they
        are the detector's own, those of samples that it has trained networks on are not out of
        sample, see ``held_out``.
    source : str
        Where they come from, in words.

    Raises
    ------
    ValueError
        If the folds of ``cv`` do not test every sample exactly once, or a search inside has no
        best candidate because its scorer needs anomalies.
    """
    stamps = None if memory is None else file_stamps(X)
    memory = check_memory(memory)
    params = params or {}
    if params and isinstance(estimator, FrozenEstimator):
        raise TypeError(f"{', '.join(sorted(params))} is for a fit, and the estimator is frozen.")
    forced = not isinstance(ensemble, str) and bool(ensemble)
    if isinstance(estimator, FrozenEstimator):
        if forced:
            raise ValueError(
                "ensemble=True keeps the models of folds, and the estimator is frozen."
            )
        frozen = clone(estimator)
        return frozen, flip(frozen.score_samples(X)), "images given to a frozen model"
    _refuse_scorers_of_anomalies(estimator)
    _refuse_fitted_warm_start(estimator)
    automatic = isinstance(cv, str)
    if normal is None:
        normal = np.ones(_num_samples(X), dtype=bool)
    kept, known = np.flatnonzero(normal), np.flatnonzero(~normal)
    labels = np.where(normal, 1, -1)
    if automatic:
        of_kept = None if groups is None else np.asarray(groups)[kept]
        cv = automatic_splitter(len(kept), of_kept)
    folds = folds_of_normal_samples(
        cv, X, normal, groups
    )  # unsuitable folds are refused before any fit
    fitted = memory.cache(fit_labeled)(clone(estimator), X, labels, params, stamps)
    _check_search(fitted)
    if automatic and groups is None and not forced:
        own = own_scores(fitted)
        if own is not None:
            return fitted, own.copy(), OWN_SCORES
    keep = forced or (isinstance(ensemble, str) and scale_depends_on_n(fitted))
    fit_and_score = memory.cache(_fit_and_score)
    models, parts = zip(
        *Parallel(n_jobs=n_jobs)(
            delayed(fit_and_score)(
                clone(estimator),
                X,
                labels,
                np.concatenate([kept[train], known]),
                kept[test],
                params,
                keep,
                stamps,
            )
            for train, test in folds
        )
    )
    order = np.concatenate([test for _, test in folds])
    scores = np.concatenate(parts)[np.argsort(order, kind="stable")]
    if keep:
        return _FoldEnsemble(list(models)), scores, f"{len(folds)} folds, whose models are kept"
    return fitted, scores, f"{len(folds)} folds"


def scale_depends_on_n(estimator: Any) -> bool:
    """Tell whether a fitted detector scores lower or higher for the number of its samples alone.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or any nesting that ends in one.

    Returns
    -------
    bool
        What the detector inside says of itself; False if it says nothing.
    """
    return bool(getattr(innermost(estimator)[0], "_scale_depends_on_n", False))


def automatic_splitter(n: int, groups: Any) -> BaseCrossValidator:
    """Make the folds of ``cv="auto"``.

    Parameters
    ----------
    n : int
        Number of samples.
    groups : array-like of shape (n,) or None
        Samples of one group are tested together.

    Returns
    -------
    BaseCrossValidator
    """
    n_parts = n if groups is None else len(np.unique(groups))
    if n_parts < 2:
        what = "parts" if groups is not None else "samples"
        raise TooFewImagesError(
            f"out-of-sample scores need at least 2 different {what}, one to learn from and one to "
            f"score, got n_samples={n} of {n_parts} {what}."
        )
    if groups is not None:
        return GroupKFold(min(_AUTO_FOLDS, n_parts))
    if n < _AUTO_FOLDS:
        return KFold(n)
    return KFold(_AUTO_FOLDS, shuffle=True, random_state=0)


def folds_of_normal_samples(
    cv: Any, X: Any, normal: np.ndarray, groups: Any = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make folds that train and test on normal samples only.

    Parameters
    ----------
    cv : int, splitter or iterable of splits
        A splitter is given the normal samples, with labels +1; it may be one that stratifies.
        Splits hold indices into ``X``, of which those of known anomalies are dropped.
    X : indexable of length n_samples
        All samples, known anomalies among them.
    normal : ndarray of shape (n_samples,), bool
        The samples to learn from.
    groups : array-like of shape (n_samples,), default=None
        For splitters that keep groups together.

    Returns
    -------
    list of (train, test)
        Indices into the normal samples, ndarrays of int.

    Raises
    ------
    ValueError
        If they do not test every normal sample exactly once, or a fold has samples on both sides.
    """
    kept = np.flatnonzero(normal)
    n = len(kept)
    if groups is not None:
        check_consistent_length(normal, groups)
        groups = _safe_indexing(np.asarray(groups), kept)
    if isinstance(cv, Integral) or hasattr(cv, "split"):
        splitter = check_cv(cv)
        routing = get_routing_for_object(splitter)
        if groups is None and routing.consumes("split", ["groups"]):
            raise ValueError(
                f"cv={cv!r} needs groups: pass fit(X, groups=...), one value per image, the same "
                "for images that belong together, such as photos of one part."
            )
        samples = X if n == len(normal) else _safe_indexing(X, kept)
        folds = [
            (np.asarray(train), np.asarray(test))
            for train, test in splitter.split(samples, np.ones(n, dtype=int), groups)
        ]
    else:
        folds = [_within(kept, len(normal), *split) for split in cv]
    n_tests = np.bincount(np.concatenate([test for _, test in folds]), minlength=n)
    if (n_tests != 1).any():
        wrong = int(np.flatnonzero(n_tests != 1)[0])
        raise ValueError(
            f"cv={cv!r} does not test every sample exactly once (sample {kept[wrong]} of X "
            f"{n_tests[wrong]} times), but one score per image is needed: use folds, such as "
            "KFold(5, shuffle=True). Splits hold indices into X as given, known anomalies included."
        )
    for number, (train, test) in enumerate(folds):
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"fold {number} of cv trains on {len(both)} of the samples it tests, so their "
                "scores would not be out of sample: use folds, such as KFold(5, shuffle=True)."
            )
    return folds


def _within(
    kept: np.ndarray, n_samples: int, train: Any, test: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Turn indices into all samples into indices into the kept ones; drop the others."""
    sides = []
    for side in (train, test):
        side = np.asarray(side)
        if side.dtype != bool and len(side) and not 0 <= side.min() <= side.max() < n_samples:
            raise ValueError(
                f"cv has a split with indices from {side.min()} to {side.max()}, and X has "
                f"{n_samples} samples: splits hold indices into X as given."
            )
        index = np.arange(n_samples)[side]
        sides.append(np.searchsorted(kept, index[np.isin(index, kept)]))
    return sides[0], sides[1]


def _refuse_scorers_of_anomalies(estimator: Any) -> None:
    """Refuse a search that cannot choose among candidates, before any of them is fitted."""
    for one, _ in walk(estimator):
        if isinstance(one, FrozenEstimator):
            return  # what is inside is not fitted
        scorer = _scorer_of_best(one) if isinstance(one, BaseSearchCV) else None
        if getattr(scorer, "needs_anomalies", False):
            name = getattr(scorer, "__name__", str(scorer))
            raise ValueError(_no_best_candidate(one, f"scoring={name} needs anomalies"))
        if getattr(scorer, "_score_func", None) is roc_auc_score:
            why = "scikit-learn's ROC AUC needs labels of both kinds"
            raise ValueError(_no_best_candidate(one, why))


def _refuse_fitted_warm_start(estimator: Any) -> None:
    """Refuse a fitted detector that was to go on: a copy of it would begin anew."""
    detector = innermost(estimator)[0]
    if getattr(detector, "warm_start", False) and hasattr(detector, "networks_"):
        raise ValueError(
            f"this {type(detector).__name__} is fitted and has warm_start=True, but a copy of it "
            "would be trained here, which begins with new networks. Fit it alone, and calibrate "
            'it on good images that it has not seen, such as those of held_out_, with cv="prefit" '
            "or as a FrozenEstimator; or set warm_start=False."
        )


def _scorer_of_best(search: BaseSearchCV) -> Any:
    """Return the scorer by which a search chooses its best candidate, as far as it is known."""
    scorer, name = search.scoring, search.refit
    if isinstance(scorer, (dict, list, tuple, set)):
        if not isinstance(name, str):
            return None
        scorer = scorer.get(name) if isinstance(scorer, dict) else name
    known = isinstance(scorer, str) and scorer in get_scorer_names()
    return get_scorer(scorer) if known else scorer


def _check_search(fitted: Any) -> None:
    """Refuse a search whose best candidate was chosen among NaN."""
    for one, _ in walk(fitted):
        best = getattr(one, "best_score_", 0.0) if hasattr(one, "best_estimator_") else 0.0
        if not np.isfinite(best):
            raise ValueError(_no_best_candidate(one, f"its score is {best}"))


def _no_best_candidate(search: Any, why: str) -> str:
    return (
        f"{type(search).__name__} has no best candidate: {why}. Inside a ThresholdCalibrator, a "
        "ScoreEnsemble or as_pyod a search is given good images only (labels +1), and a scorer "
        "that needs known anomalies too, such as anomaly_roc_auc, has no value there. Search "
        "outside, GridSearchCV(ThresholdCalibrator(...), ...), or use a scorer of good images, "
        "such as neg_false_positive_rate."
    )


def file_stamps(X: Any) -> list[tuple[int, int] | None] | None:
    """Size and modification time of each file that ``X`` names, wherever in it.

    Only part of a cache key: a path stays the same when its file changes.

    Parameters
    ----------
    X : input of an estimator

    Returns
    -------
    list of (int, int) or None
        None if it names no files.
    """
    if hasattr(X, "to_numpy"):  # a table, a column, an index
        X = X.to_numpy()
    if isinstance(X, np.ndarray):
        if X.dtype.kind not in "OUT":
            return None
        X = list(X.ravel())
    if not isinstance(X, (list, tuple)) or not any(is_path(x) for x in X):
        return None
    return [size_and_mtime(x) if is_path(x) else None for x in X]


def index_metadata(params: dict[str, Any], n: int, index: np.ndarray) -> dict[str, Any]:
    """Metadata of some of the samples.

    Parameters
    ----------
    params : dict
        Metadata of ``n`` samples. What has one dimension and that length holds one value per
        sample, and so does what holds that many masks; all else, such as one mask of pixels, is
        common to all samples, however long.
    n : int
        Number of samples.
    index : ndarray of int
        Samples to keep.

    Returns
    -------
    dict
    """
    return {
        name: _safe_indexing(value, index) if _is_per_sample(value, n) else value
        for name, value in params.items()
    }


def _is_per_sample(value: Any, n: int) -> bool:
    if isinstance(value, (list, tuple)) and any(np.ndim(one) == 2 for one in value):
        return len(value) == n  # masks, and None where there is none
    shape = np.shape(value)
    return shape[:1] == (n,) and len(shape) in (1, 3)


def learns_from_known_anomalies(estimator: Any) -> bool:
    """Tell whether an estimator learns from samples with the label -1, instead of dropping them.

    Parameters
    ----------
    estimator : estimator
        An outlier detector, or any nesting that ends in one.

    Returns
    -------
    bool
        False for searches, whose scorers may be for good samples only, and for frozen estimators.
    """
    several = list(walk(estimator))
    if not several or any(isinstance(one, (BaseSearchCV, FrozenEstimator)) for one, _ in several):
        return False
    return bool(getattr(several[-1][0], "_learns_from_known_anomalies", False))


def fit_labeled(
    estimator: Any, X: Any, labels: np.ndarray, params: dict[str, Any], stamps: Any = None
) -> Any:
    """Fit an estimator on samples and labels.

    Parameters
    ----------
    estimator : estimator
        Fitted in place.
    X : input of the estimator
    labels : ndarray of shape (n_samples,), int
        All +1 but for estimators that learn from known anomalies. Searches hand them to their
        scorers.
    params : dict
        Metadata for its ``fit``.
    stamps : object, default=None
        As in ``fit_fold``.

    Returns
    -------
    estimator
    """
    return estimator.fit(X, labels, **params)


def _fit_and_score(
    estimator: Any,
    X: Any,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    params: dict[str, Any],
    keep: bool,
    stamps: Any = None,
) -> tuple[Any, np.ndarray]:
    """Model of a fold, None unless it is to be kept, and its scores of the fold's samples."""
    fitted = fit_fold(estimator, X, labels, train, params)
    scores = flip(fitted.score_samples(_safe_indexing(X, test)))
    return fitted if keep else None, scores


def fit_fold(
    estimator: Any,
    X: Any,
    labels: np.ndarray,
    train: np.ndarray,
    params: dict[str, Any],
    stamps: Any = None,
) -> Any:
    """Fit an estimator on the training samples of a fold.

    Parameters
    ----------
    estimator : estimator
        Fitted in place.
    X : indexable input of the estimator
        All samples.
    labels : ndarray of shape (n_samples,), int
        +1 or -1.
    train : ndarray of int
        Indices of those to learn from.
    params : dict
        Metadata of all samples for the estimator's ``fit``.
    stamps : object, default=None
        Part of the key where the result is cached, see ``file_stamps``.

    Returns
    -------
    estimator
    """
    params = index_metadata(params, _num_samples(X), train)
    try:
        with warnings.catch_warnings():
            # If there are too few images, the fit on all of them has already warned.
            warnings.simplefilter("ignore", TooFewImagesWarning)
            return fit_labeled(estimator, _safe_indexing(X, train), labels[train], params)
    except TooFewImagesError as error:
        raise TooFewImagesError(
            f"a fold of {len(train)} of the {_num_samples(X)} samples is too small: {error}"
        ) from error


# Their cache key includes the files' stamps (the argument ``stamps``), not only their names.
fit_labeled.asks_about_files = True  # type: ignore[attr-defined]
fit_fold.asks_about_files = True  # type: ignore[attr-defined]
_fit_and_score.asks_about_files = True  # type: ignore[attr-defined]


def own_scores(estimator: Any) -> np.ndarray | None:
    """Return the out-of-sample scores that a fitted estimator keeps, if they can be used.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or a pipeline that ends in one.

    Returns
    -------
    ndarray of shape (n_samples,), float64, or None
        Anomaly scores of its training samples, of which those that ``held_out`` excludes are
        lower than scores of new ones; None if an earlier step learned from the same
        samples, the detector keeps none, or a calibrator's are those of other images
        (:meth:`ThresholdCalibrator.recalibrate`).
    """
    if isinstance(estimator, Pipeline):
        before, last = steps_before(estimator)
        return own_scores(last) if all(learns_nothing(step) for step in before) else None
    if is_calibrator(estimator):
        if estimator._recalibrated:
            return None
        if held_out(estimator) is not None:  # the calibrator keeps the scores of these alone
            return own_scores(estimator.estimator_)
        return estimator.calibration_scores_
    if isinstance(estimator, FrozenEstimator):
        return None  # what it keeps belongs to the images it was once fitted on
    return getattr(estimator, "training_scores_", None)


def held_out(estimator: Any) -> np.ndarray | None:
    """Tell which training samples the networks of a fitted detector have not been trained on.

    Parameters
    ----------
    estimator : fitted estimator
        An outlier detector, or any nesting that ends in one.

    Returns
    -------
    ndarray of shape (n_samples,), bool, or None
        The samples whose own scores and maps are those of new ones; None stands for all.
    """
    return getattr(innermost(estimator)[0], "held_out_", None)


def learns_nothing(step: Any) -> bool:
    """Tell whether a step before a detector has learned nothing from the training samples.

    Parameters
    ----------
    step : transformer
        Of a pipeline.

    Returns
    -------
    bool
        True for steps without a fit and for frozen ones, which were fitted on other samples.
    """
    return isinstance(step, FrozenEstimator) or not get_tags(step).requires_fit
