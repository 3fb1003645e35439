"""Several detectors, one score: each on the scale of its own good images, then combined."""

from __future__ import annotations

from contextvars import copy_context
from numbers import Integral
from typing import Any

import numpy as np
import sklearn
from scipy.special import logsumexp
from scipy.stats import rankdata
from sklearn.base import ClassNamePrefixFeaturesOutMixin, MetaEstimatorMixin, is_outlier_detector
from sklearn.utils import Bunch, _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import _BaseComposition, available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_is_fitted

from pyimgano._any_estimator import anomaly_scores, score_with_maps
from pyimgano._checks import normal_samples
from pyimgano._decision import check_finite, flip
from pyimgano._nesting import makes_maps, no_detector
from pyimgano.base import BaseDetector, OutlierScoreMixin
from pyimgano.calibration._out_of_sample import (
    OWN_SCORES,
    held_out,
    index_metadata,
    out_of_sample_scores,
)
from pyimgano.calibration._recognition import (
    maps_own_out_of_sample,
    recognized,
    scores_own_out_of_sample,
)
from pyimgano.exceptions import TooFewImagesError
from pyimgano.inputs._containers import sliceable
from pyimgano.utils._arrays import stack_if_same_size
from pyimgano.utils._fitting import restored_on_error, set_on_fitted_copy
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._state import (
    Array,
    Either,
    ListOf,
    Map,
    MayLack,
    Number,
    Object,
    OneOf,
    Sizes,
    State,
    Text,
    TupleOf,
    fail,
)
from pyimgano.utils._versions import VersionStampMixin

__all__ = ["ScoreEnsemble"]

# Training scores are normalized by the others in this many turns: leave-one-out up to there.
_MOST_TURNS = 200


class _Samples:
    """Any input that scikit-learn can index, as the base class wants to see it."""

    def __init__(self, X: Any, params: dict[str, dict[str, Any]] | None = None) -> None:
        self.X = X
        self.params = params or {}  # metadata for each member's fit

    def __len__(self) -> int:
        return _num_samples(self.X)

    def __getitem__(self, index: np.ndarray) -> _Samples:
        params = {n: index_metadata(p, len(self), index) for n, p in self.params.items()}
        return _Samples(_safe_indexing(self.X, index), params)


def _some_member_makes_maps(ensemble: ScoreEnsemble) -> bool:
    fitted = vars(ensemble).get("estimators_")  # what is dropped since is there until the next fit
    members = fitted or [e for _, e in ensemble.estimators if e != "drop"]
    if any(makes_maps(member) for member in members):
        return True
    raise AttributeError("no member of this ScoreEnsemble makes anomaly maps.")


class ScoreEnsemble(
    ClassNamePrefixFeaturesOutMixin,
    VersionStampMixin,
    OutlierScoreMixin,
    MetaEstimatorMixin,
    _BaseComposition,
):
    """Fuse the scores and maps of several detectors.

    Every member's scores are put on the scale of that member's own *out-of-sample* training
    scores before they are combined, so that a distance and a likelihood can be averaged, and
    an image alone scores as it does in any batch.

    Parameters
    ----------
    estimators : list of (str, estimator) tuples
        Outlier detectors with ``score_samples``: those of this package, of scikit-learn, or
        pipelines that end in one. ``"drop"`` in place of a detector leaves it out; one wrapped
        in ``FrozenEstimator`` is used as fitted. Each is given ``X`` as it comes.
    combination : {"mean", "median", "max", "trimmed_mean", "rank_mean"}, default="mean"
        ``"trimmed_mean"`` leaves out the lowest and the highest of at least three members.
        ``"rank_mean"`` averages the image's ranks among each member's training scores; it
        asks for ``normalization="ecdf"``.
    weights : array-like of shape (n_members,), default=None
        Weight of each entry of ``estimators``, dropped ones included; equal by default. The
        maximum knows no weights.
    normalization : {"ecdf", "z", "robust_z"}, default="ecdf"
        ``"ecdf"``: the negative logarithm of the share of training scores above, see Notes.
        ``"z"``: distance to the mean in standard deviations. ``"robust_z"``: distance to the
        median in median absolute deviations times 1.4826.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the training images'
        out-of-sample scores; a float has that share of the training images flagged.
    n_jobs : int, default=None
        Number of members fitted at a time.

    Attributes
    ----------
    estimators_ : list of estimators
        The fitted members, without dropped ones.
    named_estimators_ : Bunch
        Fitted members by name; ``"drop"`` for dropped ones.
    held_out_ : ndarray of shape (n_images,), bool
        Training images that all members which train networks have held out; absent where no member
        does.
    training_scores_ : ndarray of shape (n_images,), float64
        Out-of-sample anomaly score of each training image: its members' out-of-sample
        scores, each normalized by those of the other images, combined.
    offset_ : float
        Threshold on ``score_samples``.
    n_features_in_ : int
        Number of columns, when the members were fitted on a table.

    Notes
    -----
    With ``"ecdf"`` the ``k``-th smallest of ``n`` training scores becomes
    ``-log(1 - k / (n + 1))``, and scores between two of them are interpolated. Their mean over
    members is the statistic of Fisher's method [1]_. Beyond the largest and below the
    smallest training score the line goes on with the slope of an exponential tail, one unit
    per mean excess over the median: no two anomalies are tied for being worse than all
    training images. ``"rank_mean"`` is the negative logarithm of the mean share above, which
    puts images in the order of their mean rank.

    The members' out-of-sample scores are ``training_scores_`` where they have them and come
    from 5 folds otherwise, as in :class:`~pyimgano.calibration.ThresholdCalibrator`. Up to 200
    images, each is normalized by all others; more take turns in 200 groups.

    A training image is recognized by the members that recognize it, those of this package,
    when all of them give exactly the scores they have for it. An ensemble of scikit-learn's
    detectors alone recognizes none.

    Anomaly maps go through the same normalization, pixel by pixel, and the same combination.
    Members that make no maps have no part in them.

    References
    ----------
    .. [1] R. A. Fisher, "Statistical Methods for Research Workers", 4th ed., 1932.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from pyimgano.detectors import PaDiMDetector, PatchCoreDetector
    >>> from pyimgano.ensemble import ScoreEnsemble
    >>> rows = np.random.RandomState(0).normal(size=(60, 3))
    >>> ensemble = ScoreEnsemble(
    ...     [
    ...         ("bank", PatchCoreDetector()),
    ...         ("gauss", PaDiMDetector()),
    ...         ("forest", IsolationForest(n_estimators=20, random_state=0)),
    ...     ]
    ... ).fit(rows)
    >>> ensemble.predict([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0]])
    array([ 1, -1])
    >>> ensemble.set_params(forest="drop", bank__coreset_ratio=0.5).fit(rows).estimators_
    [PatchCoreDetector(coreset_ratio=0.5), PaDiMDetector()]
    """

    _parameter_constraints: dict = {
        "estimators": [list],
        "combination": [StrOptions({"mean", "median", "max", "trimmed_mean", "rank_mean"})],
        "weights": ["array-like", None],
        "normalization": [StrOptions({"ecdf", "z", "robust_z"})],
        "contamination": BaseDetector._parameter_constraints["contamination"],
        "n_jobs": [Integral, None],
    }

    _parameter_rules = {
        "estimators": ListOf(TupleOf(Text(), Either(Object(methods=("fit",)), OneOf("drop"))))
    }
    _fitted_state = {
        "estimators_": ListOf(Object(methods=("score_samples",)), "members"),
        "named_estimators_": Map(str),
        "_weights": Array("float64", "members", low=0.0),
        "_member_scores": Array("float64", "members", "n"),
        "_knows_own": Array("bool", "members"),
        "_scales": ListOf(Object("_Ecdf", "_Affine"), "members"),
        "_own_index": Map(bytes, below="n"),
        "held_out_": MayLack(Array("bool", "n")),
        "_known": MayLack(Map(bytes, below="n")),  # earlier versions had it
    }

    @staticmethod
    def _check_fitted_state(state: State, sizes: Sizes) -> None:
        active = [one for _, one in state["estimators"] if not isinstance(one, str)]
        if len(active) != sizes["members"] or sizes["n"] == 0:
            fail("ScoreEnsemble.estimators_", "are not as many as estimators")
        if not state["_weights"].any():
            fail("ScoreEnsemble._weights", "are all 0")
        named = [one for one in state["named_estimators_"].values() if not isinstance(one, str)]
        if [id(one) for one in named] != [id(one) for one in state["estimators_"]]:
            fail("ScoreEnsemble.named_estimators_", "are not the members")

    def __init__(
        self,
        estimators: list[tuple[str, Any]],
        *,
        combination: str = "mean",
        weights: Any = None,
        normalization: str = "ecdf",
        contamination: str | float = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.estimators = estimators
        self.combination = combination
        self.weights = weights
        self.normalization = normalization
        self.contamination = contamination
        self.n_jobs = n_jobs

    # ---- named access ---------------------------------------------------------------
    @property
    def named_estimators(self) -> Bunch:
        """The members as given, by name."""
        return Bunch(**dict(self.estimators))

    def get_params(self, deep: bool = True) -> dict:
        """Parameters of the ensemble and, with ``deep``, its members and theirs.

        Parameters
        ----------
        deep : bool, default=True

        Returns
        -------
        dict
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> ScoreEnsemble:
        """Set parameters; a member by its name, a member's as ``name__parameter``.

        Parameters
        ----------
        **params
            Names as in ``get_params``. ``name="drop"`` leaves a member out. ``weights``,
            ``device``, ``batch_size`` and ``threads_per_image`` of a member's feature step
            also reach the fitted member; all others take effect in the next ``fit``.

        Returns
        -------
        self
        """
        self._set_params("estimators", **params)
        for name, member in vars(self).get("named_estimators_", {}).items():
            if member != "drop":
                set_on_fitted_copy(member, params, f"{name}__")
        return self

    # ---- metadata -------------------------------------------------------------------
    def fit(self, X: Any, y: Any = None, **params: Any) -> ScoreEnsemble:
        """Fit the members.

        Parameters
        ----------
        X : input of the members
            Training samples.
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known anomalies, which are left out of training. Other
            labels are ignored with an
            :class:`~pyimgano.exceptions.IgnoredLabelsWarning`.
        **params
            Metadata for the members that ask for it by ``set_fit_request``, such as
            ``roi_mask``; needs ``sklearn.set_config(enable_metadata_routing=True)``.

        Returns
        -------
        self

        Raises
        ------
        TooFewImagesError
            If fewer than two samples are left to learn from.
        """
        self._validate_and_fit(X, y, **params)
        return self

    @property
    def set_fit_request(self) -> Any:
        """Not here: each member has a request of its own."""
        raise AttributeError(
            "metadata goes to the members: set the request of each of them, such as "
            "PatchCoreDetector().set_fit_request(roi_mask=True)."
        )

    def get_metadata_routing(self) -> MetadataRouter:
        """Say that metadata of ``fit`` is for the members' ``fit``.

        Returns
        -------
        MetadataRouter
        """
        router = MetadataRouter(owner=type(self).__name__)
        for name, estimator in self.estimators:
            if estimator != "drop":
                mapping = MethodMapping()
                for caller in ("fit", "fit_predict", "fit_transform"):
                    mapping.add(caller=caller, callee="fit")
                router.add(**{name: estimator}, method_mapping=mapping)
        return router

    # ---- fitting ----------------------------------------------------------------------
    @restored_on_error
    def _validate_and_fit(self, X: Any, y: Any, **params: Any) -> tuple[_Samples, np.ndarray]:
        """Fit; return the samples and the mask of those learned from."""
        self._validate_params()
        (X,) = indexable(sliceable(X))  # what it holds is the members' business
        if params and not sklearn.get_config()["enable_metadata_routing"]:
            raise ValueError(
                f"which member is {', '.join(sorted(params))} for? Call "
                "sklearn.set_config(enable_metadata_routing=True) and set_fit_request(...=True) of "
                "the members that are to get it, False of the others."
            )
        self._check_members()
        routed = process_routing(self, "fit", **params)
        data = _Samples(X, {name: routed[name]["fit"] for name in self._names()})
        keep = normal_samples(y, len(data))
        train = data if keep.all() else data[np.flatnonzero(keep)]
        if len(train) < 2:
            raise TooFewImagesError(
                f"{type(self).__name__} needs at least 2 training samples to tell how far an "
                f"unseen good one may lie, got n_samples={len(train)}."
            )
        self._fit_members(train)
        self._set_offset(self._fit_scales())
        return data, keep

    def _fit_and_score_all(self, X: Any, y: Any, **params: Any) -> np.ndarray:
        data, keep = self._validate_and_fit(X, y, **params)
        scores = np.empty(len(data))
        scores[keep] = self.training_scores_
        if not keep.all():
            scores[~keep] = self._anomaly_scores(data[np.flatnonzero(~keep)])
        return scores

    def _fit_members(self, data: _Samples) -> None:
        active = [i for i, (name, _) in enumerate(self.estimators) if name in data.params]
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        found = Parallel(n_jobs=self.n_jobs)(
            delayed(out_of_sample_scores)(
                self.estimators[i][1], data.X, params=data.params[self.estimators[i][0]]
            )
            for i in active
        )
        self.estimators_ = [estimator for estimator, _, _ in found]
        fitted = iter(self.estimators_)
        self.named_estimators_ = Bunch(
            **{name: "drop" if e == "drop" else next(fitted) for name, e in self.estimators}
        )
        weights = np.ones(len(self.estimators)) if self.weights is None else self.weights
        self._weights = np.asarray(weights, dtype=np.float64)[active]
        self._member_scores = np.stack([scores for _, scores, _ in found])
        self._knows_own = np.array([source == OWN_SCORES for _, _, source in found])
        self.__dict__.pop("held_out_", None)
        masks = [held_out(one) for one, _, source in found if source == OWN_SCORES]
        known = [mask for mask in masks if mask is not None]
        if known:
            self.held_out_ = np.all(known, axis=0)
            if self.held_out_.sum() < 2:
                raise TooFewImagesError(
                    f"only {self.held_out_.sum()} of the {len(self.held_out_)} training images are "
                    "held out of training by all members that train networks, and it takes 2 to "
                    "put their scores on one scale. Give the members one random_state and one "
                    "validation_fraction, or train on more images."
                )
        for member in self.estimators_:
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(member, name) and name not in self.__dict__:
                    setattr(self, name, getattr(member, name))

    def _fit_scales(self) -> np.ndarray:
        """Put each member's scores on a scale; return the combined out-of-sample scores."""
        for name, scores in zip(self._names(), self._member_scores):
            check_finite(scores, f"the member {name!r}", "out-of-sample scores")
        make = _NORMALIZERS[self.normalization]
        new = vars(self).get("held_out_", np.ones(self._member_scores.shape[1], dtype=bool))
        self._scales = [make(scores[new]) for scores in self._member_scores]
        normalized = np.stack(
            [scale(scores) for scale, scores in zip(self._scales, self._member_scores)]
        )
        normalized[:, new] = [_by_the_others(make, scores[new]) for scores in self._member_scores]
        combined = self._combine(normalized, self._weights)
        recognizing = self._member_scores[self._knows_own]
        self._own_index = {
            column.tobytes(): i for i, column in reversed(list(enumerate(recognizing.T.copy())))
        }
        return combined

    # ---- scoring ----------------------------------------------------------------------
    def _validate_new_input(self, X: Any) -> _Samples:
        return _Samples(*indexable(sliceable(X)))

    def _anomaly_scores(self, data: _Samples) -> np.ndarray:
        scores = Parallel(n_jobs=self.n_jobs, require="sharedmem")(
            # Threads count images in messages as this one does.
            delayed(copy_context().run)(anomaly_scores, member, data.X)
            for member in self.estimators_
        )
        return self._fuse_scores(np.stack(scores))

    def _fuse_scores(self, scores: np.ndarray) -> np.ndarray:
        """Member scores ``(n_members, n)`` to scores ``(n,)``."""
        normalized = np.stack([scale(s) for scale, s in zip(self._scales, scores)])
        fused = self._combine(normalized, self._weights)
        if self._knows_own.any():
            columns = scores[self._knows_own].T.copy()
            own = [self._own_index.get(column.tobytes(), -1) for column in columns]
            known = np.array(own, dtype=np.int64)
            fused = np.where(known >= 0, self.training_scores_[known], fused)
        return fused

    def _recognizing(self) -> list[Any]:
        """Members by whose scores training samples are found; the fused score is replaced then."""
        return [
            member
            for member, knows_own in zip(self.estimators_, self._knows_own)
            if knows_own and scores_own_out_of_sample(member)
        ]

    @property
    def _scores_own_out_of_sample(self) -> bool:
        # Where a member has trained networks, its scores of what they have seen are in sample.
        return bool(self._recognizing()) and not hasattr(self, "held_out_")

    @property
    def _maps_own_out_of_sample(self) -> bool:
        return all(maps_own_out_of_sample(one) for one in self.estimators_ if makes_maps(one))

    def _recognize(self, X: Any) -> np.ndarray:
        """Tell which samples have the content of a training sample; bool, of shape (n,)."""
        return recognized(self._recognizing()[0], X)

    @available_if(_some_member_makes_maps)
    def anomaly_map(self, X: Any) -> np.ndarray | list[np.ndarray]:
        """Compute fused anomaly maps; higher means more anomalous.

        Parameters
        ----------
        X : same kinds of input as in ``fit``

        Returns
        -------
        ndarray of shape (n_samples, height, width), float32
            The members' normalized maps, combined; a list of arrays when sizes differ.
        """
        return self.score_and_map(X)[1]

    @available_if(_some_member_makes_maps)
    def score_and_map(self, X: Any) -> tuple[np.ndarray, np.ndarray | list[np.ndarray]]:
        """``score_samples(X)`` and ``anomaly_map(X)`` for the price of one of them.

        Parameters
        ----------
        X : input of the members

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
        maps : ndarray of shape (n_samples, height, width), float32, or list of such arrays
        """
        check_is_fitted(self)
        return self._as_fitted()._score_and_map(self._validate_new_input(X))

    def _score_and_map(self, data: _Samples) -> tuple[np.ndarray, Any]:
        found = [score_with_maps(member, data.X) for member in self.estimators_]
        makers = [k for k, member in enumerate(found) if member.maps is not None]
        if not makers:
            raise TypeError("no member of this ScoreEnsemble makes anomaly maps of this input.")
        maps = []
        for i in range(len(data)):
            shapes = {found[k].maps[i].shape for k in makers}
            if len(shapes) > 1:
                sizes = ", ".join(f"{self._names()[k]} {found[k].maps[i].shape}" for k in makers)
                raise ValueError(
                    f"the members' maps of image {i} differ in size ({sizes}): they cannot be "
                    "fused. Let one step before the ensemble resize the images, not steps "
                    "inside its members."
                )
            normalized = np.stack([self._scales[k](found[k].maps[i]) for k in makers])
            maps.append(self._combine(normalized, self._weights[makers]).astype(np.float32))
        scores = self._fuse_scores(np.stack([member.scores for member in found]))
        return flip(scores), stack_if_same_size(maps)

    # ---- checks and combinations ------------------------------------------------------
    def _names(self) -> list[str]:
        return [name for name, estimator in self.estimators if estimator != "drop"]

    def _check_members(self) -> None:
        items = self.estimators
        if not items or not all(
            isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)
            for item in items
        ):
            raise ValueError("estimators must be a non-empty list of (name, detector) tuples.")
        self._validate_names([name for name, _ in items])
        for name, estimator in items:
            if estimator == "drop":
                continue
            if (
                isinstance(estimator, (str, type))  # scikit-learn has an error of its own for these
                or not is_outlier_detector(estimator)
                or not hasattr(estimator, "score_samples")
            ):
                raise TypeError(no_detector(estimator, f"the member {name!r}"))
        active = [i for i, (_, estimator) in enumerate(items) if estimator != "drop"]
        if not active:
            raise ValueError("all estimators are dropped; at least one member is needed.")
        if self.combination == "trimmed_mean" and len(active) < 3:
            raise ValueError(
                'combination="trimmed_mean" leaves out two members and needs at least 3, got '
                f'{len(active)}; use "mean" or "median".'
            )
        if self.combination == "rank_mean" and self.normalization != "ecdf":
            raise ValueError(
                'combination="rank_mean" averages ranks and asks for normalization="ecdf", got '
                f"{self.normalization!r}."
            )
        if self.weights is not None:
            self._check_weights(active)

    def _check_weights(self, active: list[int]) -> None:
        if self.combination == "max":
            raise ValueError('combination="max" knows no weights; leave weights=None.')
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (len(self.estimators),):
            raise ValueError(
                f"weights must hold one number for each of the {len(self.estimators)} "
                f"estimators, got shape {weights.shape}."
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights[active].any()):
            raise ValueError(
                "weights must be finite, not negative, and not all 0 for the members that "
                f"are not dropped, got {weights.tolist()}."
            )

    def _combine(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Normalized scores or maps ``(n_members, ...)`` to ``(...)``."""
        if self.combination == "max":
            return values.max(axis=0)
        weights = weights.reshape(-1, *[1] * (values.ndim - 1))
        if not weights.any():  # of maps: those who make them have no weight
            weights = np.ones_like(weights)
        if self.combination == "rank_mean":
            return -logsumexp(-values, axis=0, b=weights / weights.sum())
        if self.combination in ("median", "trimmed_mean"):
            order = np.argsort(values, axis=0, kind="stable")
            values = np.take_along_axis(values, order, axis=0)
            weights = np.take_along_axis(np.broadcast_to(weights, values.shape), order, axis=0)
            if self.combination == "median":
                return _weighted_median(values, weights)
            if len(values) >= 3:
                values, weights = values[1:-1], weights[1:-1]
        total = weights.sum(axis=0)
        # Where all that is left has no weight, the members left count alike.
        weights = np.where(total > 0, weights, 1.0)
        return (weights * values).sum(axis=0) / weights.sum(axis=0)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        members = self.estimators if isinstance(self.estimators, list) else []
        inner = [get_tags(item[1]).input_tags for item in members if _is_estimator(item)]
        tags.input_tags.allow_nan = bool(inner) and all(t.allow_nan for t in inner)
        tags.input_tags.sparse = bool(inner) and all(t.sparse for t in inner)
        return tags


def _is_estimator(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and hasattr(item[-1], "__sklearn_tags__")


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of values ascending along axis 0; the middle of the lower and the upper median."""
    below = np.cumsum(weights, axis=0)
    half = 0.5 * below[-1]
    low = np.argmax(below >= half * (1 - 1e-12), axis=0)[None]
    high = np.argmax(below > half * (1 + 1e-12), axis=0)[None]
    pick = np.take_along_axis
    return (0.5 * (pick(values, low, axis=0) + pick(values, high, axis=0)))[0]


class _Ecdf(CheckedStateMixin):
    """Negative log share of training scores above, going on linearly outside their range."""

    _fitted_state = {
        "knots": Array("float64", "knots"),
        "values": Array("float64", "knots"),
        "spread": Number(1e-100),
    }

    @staticmethod
    def _check_fitted_state(state: State, sizes: Sizes) -> None:
        if len(state["knots"]) == 0 or (np.diff(state["knots"]) <= 0).any():
            fail("_Ecdf.knots", "are not ascending")

    def __init__(self, scores: np.ndarray) -> None:
        n = len(scores)
        self.knots, first = np.unique(scores, return_index=True)
        self.values = -np.log1p(-rankdata(scores)[first] / (n + 1))
        median = float(np.median(scores))
        above = scores[scores > median]
        self.spread = _spread(scores, median, (above - median).mean() if len(above) else 0.0)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        scores = np.asarray(scores, dtype=np.float64)
        inside = np.interp(scores, self.knots, self.values)
        outside = scores - np.clip(scores, self.knots[0], self.knots[-1])
        return inside + outside / self.spread


class _Affine(CheckedStateMixin):
    """Distance to a center in units of a spread."""

    _fitted_state = {"center": Number(), "spread": Number(1e-100)}

    def __init__(self, center: float, spread: float) -> None:
        self.center = center
        self.spread = spread

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return (np.asarray(scores, dtype=np.float64) - self.center) / self.spread


def _z(scores: np.ndarray) -> _Affine:
    center = float(scores.mean())
    return _Affine(center, _spread(scores, center, scores.std()))


def _robust_z(scores: np.ndarray) -> _Affine:
    median = float(np.median(scores))
    spread = 1.4826 * np.median(np.abs(scores - median))
    # More than half of the scores may be equal.
    return _Affine(median, _spread(scores, median, spread, scores.std()))


def _spread(scores: np.ndarray, location: float, *measured: float) -> float:
    """First measured spread to divide by; scores that are all equal have none of their own.

    What lies within the rounding of the scores is none, nor what quotients would overflow by.
    """
    least = max(4 * np.finfo(np.float64).eps * np.abs(scores).max(), 1e-100)
    return float(next((one for one in (*measured, abs(location)) if one > least), 1.0))


def _by_the_others(make: Any, scores: np.ndarray) -> np.ndarray:
    """Normalize each training score on the scale of the others."""
    turns = min(len(scores), _MOST_TURNS)
    order = np.argsort(scores, kind="stable")
    out = np.empty(len(scores))
    for turn in range(turns):
        part = order[turn::turns]  # spread over the range: what is left keeps its shape
        out[part] = make(np.delete(scores, part))(scores[part])
    return out


_NORMALIZERS: dict[str, Any] = {"ecdf": _Ecdf, "z": _z, "robust_z": _robust_z}
