"""PyOD's models as detectors."""

from __future__ import annotations

import copy
import importlib
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from numbers import Integral
from threading import RLock
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import validate_data

from pyimgano._checks import input_kind
from pyimgano._moved import current_name
from pyimgano._pyod_models import PYOD, SCALE_SETTLES, PyODRow, check_pyod_parameters
from pyimgano._training import SampleKey, TrainingStream
from pyimgano.base import BaseDetector
from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._state import Flag, ListOf, MayLack, Number, Object, OneOf, Sizes, State, fail
from pyimgano.utils._threads import one_blas_thread

__all__ = ["PyODDetector"]

# Training rows that tell at fit whether scores depend on the rows scored along.
_PROBES = 6
# Models that rank the rows of a batch among themselves, by design.
_BATCH_MODELS = ("COPOD", "ECOD")
# Share of the variance that a principal component must hold to be kept.
_LEAST_VARIANCE = 1e-3
# Models of the registry that draw from numpy's global generator when they are fitted.
_DRAW_AT_FIT = ("CBLOF", "OCSVM")


class PyODDetector(BaseDetector[np.ndarray, None]):
    """Any PyOD model as a detector with scikit-learn's signs and an honest threshold.

    Takes feature rows; a step before it makes them of images. PyOD's own threshold,
    ``decision_scores_`` and ``contamination`` play no part: the training rows are scored by
    clones of the model fitted on the other folds.

    Parameters
    ----------
    detector : PyOD model
        An instance, such as ``pyod.models.knn.KNN(n_neighbors=3)``. A clone of it is fitted.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training rows'
        out-of-sample scores; a float has that share of the training rows flagged.
    cv : int, default=5
        Number of folds for the out-of-sample scores; the model is fitted once more than that.
    ensemble : "auto" or bool, default="auto"
        Whether the models of the folds are kept, and new rows are scored with the median of
        their scores; False scores them with the model fitted on all rows. The former takes ``cv``
        times as long. ``"auto"`` does so where the scale of the scores depends on the number of
        rows that a model was fitted on, see the notes.
    n_jobs : int, default=None
        Number of folds fitted at a time.
    random_state : int, RandomState or None, default=0
        Seeds the folds, the model's own ``random_state`` where that is None, and the global
        generators while a model runs that draws from them; they are put back afterwards.

    Attributes
    ----------
    detector_ : PyOD model
        The model fitted on all training rows.
    detectors_ : list of PyOD models
        Those that score new rows: the models of the folds, or ``detector_`` alone.
    one_by_one_ : bool
        Whether rows are scored one at a time because the model's scores depend on the rows
        scored along with them.
    training_scores_ : ndarray of shape (n_samples,), float64
        Anomaly score of each training row under the model fitted without its fold.
    offset_ : float
        Threshold on ``score_samples``.
    n_features_in_ : int
        Number of columns.

    Notes
    -----
    A model fitted on few rows scores on another scale than one fitted on some more: the
    covariance of a Gaussian is not known yet, a tail reaches as far as there are rows. A threshold
    from the scores of folds then does not fit the model of all rows. Below 100 training rows,
    below 20 for each column with GMM, MCD and PCA, and always with OCSVM, whose scores are a sum
    over training rows, new rows are therefore scored with the median of the folds' models; see
    :doc:`/user_guide/thresholds` for what came of it.

    Four models differ from PyOD's own. PCA keeps the components that hold more than a thousandth
    of the variance, unless ``n_components`` says otherwise: it divides by the variance of each.
    LODA finds the bin that a row lies in, and takes the bins beyond its histograms for empty: PyOD
    takes the next bin, and the outermost ones. INNE goes on growing outside all of its
    hyperspheres, where its score ends at 1. CBLOF takes all clusters for large where none
    is small; PyOD gives up.

    A score must not depend on the batch. ECOD and COPOD rank rows among the training rows
    *and the batch*; scored one at a time, each new row is ranked among the training rows and
    itself, at the cost of a pass over the training rows for each. Sums of GMM, INNE, KNN, KPCA and
    LOF may differ in their last bits with the number of rows scored at a time, as matrix products
    do. Whether any other model does
    the like is tried at fit on a few training rows. Models without a score for a single row
    (COF, ROD, SOS, ... compare the rows of a batch with each other) are refused.

    :func:`~pyimgano.persistence.load` admits the PyOD models that have a name in
    :mod:`pyimgano.registry`; others are to be named in its ``trusted``.

    References
    ----------
    .. [1] Y. Zhao, Z. Nasrullah, Z. Li, "PyOD: A Python Toolbox for Scalable Outlier
       Detection", Journal of Machine Learning Research 20(96), 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pyod.models.knn import KNN
    >>> from pyimgano.detectors import PyODDetector
    >>> rows = np.random.RandomState(0).normal(size=(100, 3))
    >>> detector = PyODDetector(KNN(n_neighbors=3)).fit(rows)
    >>> detector.predict([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0]])
    array([ 1, -1])
    """

    _registry_name = None  # pyimgano.registry has a name for each of PyOD's models
    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "detector": [HasMethods(["fit", "decision_function"])],
        "cv": [Interval(Integral, 2, None, closed="left")],
        "ensemble": [StrOptions({"auto"}), "boolean"],
        "n_jobs": [Integral, None],
    }
    _fitted_state = {
        "detector_": Object(methods=("decision_function",)),
        "one_by_one_": Flag(),
        "_seed": Number(0, 2**32 - 1, whole=True),
        "_draws": Flag(),
        "_scale_depends_on_n": MayLack(Flag()),  # earlier versions did not say
        "detectors_": ListOf(Object(methods=("decision_function",)), least=1),
        "roi_mask_": MayLack(OneOf(None)),  # earlier versions had one
    }

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        if state["input_kind_"] != "rows" or state["tiled_"] or "n_features_in_" not in state:
            fail(cls.__name__, "was fitted on what is no table of rows")
        if {type(one) for one in (state["detector_"], *state["detectors_"])} != {
            type(state["detector"])
        }:
            fail(f"{cls.__name__}.detector_", "is of another class than detector")
        n_folds = min(state["_parameters_at_fit"]["cv"], len(state["_known"]))
        models = state["detectors_"]
        if len(models) != n_folds and not (len(models) == 1 and models[0] is state["detector_"]):
            fail(f"{cls.__name__}.detectors_", f"are not those of {n_folds} folds, nor detector_")

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        # Earlier versions had one model, and did not say whether it draws.
        state = super()._upgraded_state({"ensemble": "auto", **state})
        if "detector_" in state and "_scale_depends_on_n" not in state:
            state = {"detectors_": [state["detector_"]], "_draws": True, **state}
        return state

    def __init__(
        self,
        detector: Any,
        *,
        contamination: str | float = "auto",
        cv: int = 5,
        ensemble: str | bool = "auto",
        n_jobs: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.detector = detector
        self.contamination = contamination
        self.cv = cv
        self.ensemble = ensemble
        self.n_jobs = n_jobs
        self.random_state = random_state

    def __sklearn_clone__(self) -> PyODDetector:
        with _generators_kept():  # some of PyOD's models seed them when they are constructed
            return super().__sklearn_clone__()

    def _validate_params(self) -> None:
        super()._validate_params()
        _check_is_pyod(self.detector)
        if _row_of(self.detector) is not None:
            parameters = self.detector.get_params(deep=False)
            check_pyod_parameters(type(self.detector).__name__, parameters)

    def _validate(self, X: Any, *, reset: bool) -> np.ndarray:
        kind = input_kind(X)
        if kind != "rows":
            raise ImageFormatError(
                f"PyODDetector takes a table of feature rows, (n_samples, n_features), and was "
                f"given {kind} ({type(X).__name__}); put a step before it that turns each image "
                "into one row."
            )
        if reset:
            self.input_kind_, self.tiled_ = kind, False
        return validate_data(self, X, reset=reset, dtype=np.float64)

    def _blocks(self, data: np.ndarray) -> Iterator[tuple[np.ndarray, list[SampleKey]]]:
        yield data, [SampleKey(digest(row)) for row in data]

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        (rows,) = stream
        n_different = len(np.unique(stream.group_of))
        n_folds = _check_enough_rows(self.detector, len(rows), n_different, self.cv)
        self._scale_depends_on_n = _scale_depends_on_n(self.detector, *rows.shape)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        keep = self._scale_depends_on_n if self.ensemble == "auto" else bool(self.ensemble)
        folds = GroupKFold(n_folds, shuffle=True, random_state=self._seed)
        tests = [test for _, test in folds.split(rows, groups=stream.group_of)]
        model = self.detector
        if not keep:  # models of the folds then stand in for the model of all rows
            model = _with_same_components(model, rows, tests)
        self.detector_ = _fit_model(model, rows, self._seed)
        self.one_by_one_ = _needs_one_by_one(self.detector_, rows, self._seed)
        self._draws = _draws_when_scoring(self.detector_, rows[:1], self._seed)
        models, parts = zip(
            *Parallel(n_jobs=self.n_jobs)(
                delayed(_score_fold)(model, rows, test, self._seed, self.one_by_one_, keep)
                for test in tests
            )
        )
        self.detectors_ = list(models) if keep else [self.detector_]
        scores = np.empty(len(rows))
        scores[np.concatenate(tests)] = np.concatenate(parts)
        return scores

    def _score(self, block: np.ndarray, train_group: np.ndarray) -> tuple[None, np.ndarray]:
        new = np.flatnonzero(train_group < 0)  # the others' scores are known
        scores = np.zeros(len(block))
        if len(new):
            found = [
                _scores(model, block[new], self._seed, self.one_by_one_, self._draws)
                for model in self.detectors_
            ]
            scores[new] = np.median(found, axis=0)
        return None, scores


def _check_enough_rows(model: Any, n_rows: int, n_different: int, cv: int) -> int:
    """Return the number of folds; refuse too few rows for the fit of a fold."""
    if n_different < 2:
        raise TooFewImagesError(
            f"all {n_rows} training samples are copies of one: there is no second good one to "
            "tell how much good ones differ."
        )
    n_folds = min(cv, n_different)
    about = _row_of(model)
    counted = about.counts_rows if about else ""
    value = getattr(model, counted) if counted else 0
    if isinstance(value, Integral):
        least = int(value) + (counted == "n_neighbors")  # a row is no neighbor of its own
        if n_rows - -(-n_rows // n_folds) < least:
            raise TooFewImagesError(
                f"{type(model).__name__}({counted}={value}) has to be fitted on at least {least} "
                f"images of good parts, and each of {n_folds} folds leaves some of the "
                f"n_samples={n_rows} out: train on at least {_enough_in_folds(least, cv)} images, "
                f"or lower {counted}."
            )
    least = about.least_rows if about else 2
    if n_different - -(-n_different // n_folds) < least:
        raise TooFewImagesError(
            f"{type(model).__name__} has to be fitted on at least {least} different images of good "
            f"parts, and each of {n_folds} folds leaves some of the {n_different} different ones "
            f"(n_samples={n_rows}) out: train on at least "
            f"{_enough_in_folds(least, cv)} different ones."
        )
    return n_folds


def _enough_in_folds(least: int, cv: int) -> int:
    """Smallest number of rows of which each fold leaves at least so many."""
    n = least + 1
    while n - -(-n // min(cv, n)) < least:
        n += 1
    return n


def _scale_depends_on_n(model: Any, n_rows: int, n_columns: int) -> bool:
    """Tell whether a model of some more rows would score on another scale."""
    about = _row_of(model)
    if about is None:
        return n_rows < SCALE_SETTLES
    return n_rows < max(about.scale_settles, about.rows_per_column * n_columns)


def _check_is_pyod(model: Any) -> None:
    base = sys.modules.get("pyod.models.base")  # loaded, if this is one of its models
    if base is not None and isinstance(model, type) and issubclass(model, base.BaseDetector):
        raise TypeError(
            f"detector={model.__name__} is a class; give an instance of it: "
            f"PyODDetector({model.__name__}())."
        )
    if base is None or not isinstance(model, base.BaseDetector):
        raise TypeError(
            f"detector must be a PyOD model, such as pyod.models.knn.KNN(), got "
            f"{type(model).__name__}. A detector with score_samples needs no wrapper."
        )


def _row_of(model: Any) -> PyODRow | None:
    """Find the row of a model of PyOD; a model of another package may have the same name."""
    cls = type(model)
    return PYOD.get(cls.__name__) if cls.__module__.startswith("pyod.models.") else None


# The global generators belong to the whole process: one thread at a time may lend them to a model.
_generators_lock = RLock()


def _new_lock() -> None:
    global _generators_lock
    _generators_lock = RLock()


if hasattr(os, "register_at_fork"):  # a thread that held it does not live on in a forked process
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def _generators_kept(seed: int | None = None) -> Iterator[None]:
    """Put the global generators back afterwards; seed them meanwhile unless ``seed`` is None."""
    with _generators_lock:
        torch = sys.modules.get("torch")
        before = _generator_states()
        if seed is not None:
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            if torch is not None:
                torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before[0])  # noqa: NPY002
            random.setstate(before[1])
            if torch is not None:
                torch.set_rng_state(before[2])


def _generator_states() -> tuple[Any, Any, Any]:
    torch = sys.modules.get("torch")
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return numpy_state, random.getstate(), None if torch is None else torch.get_rng_state()


def _draws_when_fitted(model: Any) -> bool:
    """Return True if the model's ``fit`` may draw from the global random generators.

    Most models of the registry draw from their own ``random_state`` alone; what is passed to
    one of them in a parameter may do otherwise.
    """
    if _row_of(model) is None or type(model).__name__ in _DRAW_AT_FIT:
        return True
    return any(hasattr(value, "fit") for value in model.get_params(deep=False).values())


def _draws_when_scoring(model: Any, rows: np.ndarray, seed: int) -> bool:
    """Try whether scoring a row touches the global generators."""
    with _generators_kept(seed):
        before = _generator_states()
        copy.copy(model).decision_function(rows.copy())
        after = _generator_states()
    same = np.array_equal(before[0][1], after[0][1]) and before[0][2:] == after[0][2:]
    same = same and before[1] == after[1]
    if before[2] is not None:
        return not (same and bool((before[2] == after[2]).all()))
    return not same or after[2] is not None  # a model that brought torch along may draw from it


def _fit_model(model: Any, rows: np.ndarray, seed: int) -> Any:
    with _generators_kept(seed) if _draws_when_fitted(model) else nullcontext():
        fresh = clone(model)  # some draw already when they are constructed
        parameters = fresh.get_params(deep=False)
        if "random_state" in parameters and parameters["random_state"] is None:
            fresh.set_params(random_state=seed)
        if _chooses_components(model):
            fresh.set_params(n_components=_n_components(model, rows))
        if type(fresh).__module__ == "pyod.models.cblof":
            fresh._set_small_large_clusters = partial(_separate_clusters, fresh)
        try:
            with one_blas_thread:
                fresh.fit(rows.copy())  # models keep what they are given
        except ZeroDivisionError as error:  # ABOD, of rows whose distances vanish
            raise _cannot_compute(model, rows, error) from error
    if type(fresh).__module__ == "pyod.models.cblof":
        del fresh._set_small_large_clusters  # of the instance: nothing is left of it in a file
    if type(fresh).__module__ == "pyod.models.loda":
        _mend_bins(fresh)
    if type(fresh).__module__ == "pyod.models.inne":
        fresh.graded_outside_ = True  # models that were saved before go on as they were
    return fresh


def _mend_bins(loda: Any) -> None:
    """Make a fitted LODA look rows up in the right bins, and rows beyond them in empty ones.

    PyOD looks them up among all edges but the last two, the lowest one included: a row gets the
    bin after its own, and one that lies outside the histogram gets the outermost bin, as if it
    were among the training rows. With an empty bin on either side that search is right.
    """
    automatic = isinstance(loda.n_bins, str)
    histograms, limits = [], []
    for histogram, edges in zip(loda.histograms_, loda.limits_):
        empty = 1e-12 / (len(loda.decision_scores_) + 1e-12 * len(histogram))  # as PyOD has it
        histograms.append(np.concatenate([[empty], histogram, [empty]]))
        lowest = np.nextafter(edges[0], -np.inf)  # the lowest training row is in the first bin
        limits.append(np.concatenate([[lowest], edges[1:], [edges[-1]] * 2]))
    if automatic:
        loda.histograms_, loda.limits_ = histograms, limits
        loda.n_bins_ = [len(histogram) for histogram in histograms]
    else:
        loda.histograms_, loda.limits_ = np.array(histograms), np.array(limits)
        loda.n_bins = len(histograms[0])


def _graded_outside(inne: Any, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores of a fitted INNE that go on growing outside all of its hyperspheres.

    They end at 1 there. A good part that lies outside sets the threshold to 1, and then nothing
    would ever be flagged. So to that 1 is added how many radii a row lies outside the nearest
    hypersphere, in the mean over the estimators.
    """
    outside = np.flatnonzero(scores >= 1.0)
    if not len(outside):
        return scores
    n_estimators, n_spheres, n_columns = inne._centroids.shape
    radii = np.sqrt(inne._centroids_radius).ravel()  # they are kept as squares
    # Copies among the training rows have a radius of zero, of which nothing is a multiple.
    positive = radii[radii > 0]
    radii = np.maximum(radii, 1e-3 * positive.min() if len(positive) else 1.0)
    distances = cdist(rows[outside], inne._centroids.reshape(-1, n_columns))
    nearest = (distances / radii).reshape(-1, n_estimators, n_spheres).min(axis=2)
    scores = scores.copy()
    scores[outside] = np.maximum(nearest.mean(axis=1), 1.0)
    return scores


def _chooses_components(model: Any) -> bool:
    """Return True for a PCA whose number of components is chosen here."""
    parameters = model.get_params(deep=False)
    return (
        type(model).__name__ == "PCA"
        and parameters.get("n_components", 0) is None
        and parameters.get("svd_solver") != "arpack"
    )


def _separate_clusters(cblof: Any, n_samples: int) -> None:
    """Tell large clusters from small ones as PyOD does; all are large where none are small.

    PyOD looks for the last large cluster among all but the smallest, and gives up where clusters
    have about the same size. In the paper it may be the smallest as well.
    """
    sizes = np.bincount(cblof.cluster_labels_)
    order = np.argsort(-sizes)
    held = np.cumsum(sizes[order])[:-1] >= n_samples * cblof.alpha
    with np.errstate(divide="ignore"):
        drops = sizes[order][:-1] / sizes[order][1:] >= cblof.beta
    if held.any() or drops.any():
        type(cblof)._set_small_large_clusters(cblof, n_samples)
        return
    cblof._clustering_threshold = len(order)
    cblof.small_cluster_labels_, cblof.large_cluster_labels_ = order[:0], order
    cblof._large_cluster_centers = cblof.cluster_centers_[order]


def _with_same_components(model: Any, rows: np.ndarray, tests: list[np.ndarray]) -> Any:
    """The model with one number of components for all folds and all rows.

    A score is a sum over the components: one more, and scores are on another scale.
    """
    if not _chooses_components(model):
        return model
    parts = [rows, *(np.delete(rows, test, axis=0) for test in tests)]
    return clone(model).set_params(n_components=min(_n_components(model, part) for part in parts))


def _n_components(model: Any, rows: np.ndarray) -> int:
    """Number of principal components that hold more than a thousandth of the variance each.

    PyOD's PCA divides by the variance of each component it keeps, by default all of them. Where
    rows are not many more than columns the last ones hold next to nothing, or nothing but rounding:
    scores then consist of them alone, and differ by orders of magnitude from fold to fold.
    """
    parameters = model.get_params(deep=False)
    scaler = StandardScaler(with_std=parameters["standardization"])  # as the model does
    scaled = scaler.fit_transform(rows)
    try:
        with one_blas_thread:
            variances = np.linalg.svd(scaled, compute_uv=False) ** 2
    except np.linalg.LinAlgError as error:  # squares are infinite
        raise _cannot_compute(model, rows, error) from error
    n_large = int(np.count_nonzero(variances > _LEAST_VARIANCE * variances.sum()))
    return max(1, n_large, parameters["n_selected_components"] or 1)


def _cannot_compute(model: Any, rows: np.ndarray, error: Exception) -> ValueError:
    return ValueError(
        f"{type(model).__name__} cannot be fitted on these {len(rows)} rows, whose distances are "
        f"too small or too large to compute with ({error}): scale the columns."
    )


def _scores(
    model: Any, rows: np.ndarray, seed: int, one_by_one: bool, draws: bool = True
) -> np.ndarray:
    """Anomaly scores ``(n,)``; a model that draws at random draws the same every time."""
    parts = []
    for part in np.split(rows, len(rows)) if one_by_one else [rows]:
        own = copy.copy(model)  # some keep intermediate results of the batch in themselves
        with one_blas_thread, _generators_kept(seed) if draws else nullcontext():
            found = np.asarray(own.decision_function(part.copy()), np.float64).ravel()
        if getattr(model, "graded_outside_", False):
            found = _graded_outside(model, part, found)
        parts.append(found)
    scores = np.concatenate(parts)
    if np.isnan(scores).any():
        raise ValueError(
            f"{type(model).__name__} gave no number for {np.isnan(scores).sum()} of "
            f"{len(scores)} rows (NaN); too few training rows, or columns that are constant, "
            "are the usual causes."
        )
    return scores


def _score_fold(
    model: Any, rows: np.ndarray, test: np.ndarray, seed: int, one_by_one: bool, keep: bool
) -> tuple[Any, np.ndarray]:
    """Model of all rows but a fold's, None unless it is to be kept, and the fold's scores."""
    fitted = _fit_model(model, np.delete(rows, test, axis=0), seed)
    return fitted if keep else None, _scores(fitted, rows[test], seed, one_by_one)


def _needs_one_by_one(model: Any, rows: np.ndarray, seed: int) -> bool:
    """Return True if a row's score depends on the rows beside it; refuse models without another."""
    probes = rows[np.linspace(0, len(rows) - 1, min(_PROBES, len(rows))).astype(int)]
    name = type(model).__name__
    try:
        together = _scores(model, probes, seed, one_by_one=False)
        alone = _scores(model, probes, seed, one_by_one=True)
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{name} cannot score a few rows, or one, by themselves, and a score must not depend "
            f"on the rows that come with it; choose a model that can score new rows. ({error})"
        ) from error
    if name not in _BATCH_MODELS and np.allclose(together, alone, rtol=1e-6, atol=1e-9):
        return False
    if np.ptp(alone) <= 1e-9 * np.abs(alone).max() < np.ptp(together):
        raise ValueError(
            f"{name} gives every row the same score when it comes alone: it compares the rows "
            "of a batch with each other. A score must not depend on the rows that come with it; "
            "choose a model that can score new rows."
        )
    return True


def __getattr__(name: str) -> Any:
    """Find what files of earlier versions have here."""
    place, now = current_name(__name__, name)
    if place == __name__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(place), now)
