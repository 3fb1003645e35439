"""Tables of all that a saved file may name: classes with schemas, functions that are only stored.

Names in a file are looked up in these tables and nowhere else. Classes of pyimgano declare their
state themselves; those of scikit-learn and PyOD that the registry, the guide and the examples
use are declared here and in :mod:`._admitted_pyod`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from pyimgano._moved import former_places
from pyimgano._pyod_models import PYOD
from pyimgano.persistence import _admitted_pyod
from pyimgano.utils._schema import Schema, schema_of
from pyimgano.utils._state import (
    Array,
    Either,
    Flag,
    ListOf,
    Map,
    Maybe,
    MayLack,
    Names,
    Number,
    Object,
    OneOf,
    Plain,
    Rule,
    Sizes,
    State,
    Text,
    TupleOf,
    fail,
)

__all__ = ["Admitted", "admitted_class", "stored_value"]

# Classes of this package, by the module that defines them.
_OWN = {
    "pyimgano._corruptions": "Corruption",
    "pyimgano._kernels.neighbors": "NearestNeighbors _Leaves _Products",
    "pyimgano.calibration._calibrator": "ThresholdCalibrator",
    "pyimgano.calibration._fold_ensemble": "_FoldEnsemble",
    "pyimgano.calibration._pixels": "PixelThresholdCalibrator",
    "pyimgano.defects._extractor": "DefectExtractor",
    "pyimgano.detectors._anomalydino": "AnomalyDINODetector",
    "pyimgano.detectors._musc": "MutualScoringDetector",
    "pyimgano.detectors._padim": "PaDiMDetector",
    "pyimgano.detectors._patchcore": "PatchCoreDetector",
    "pyimgano.detectors._pyod": "PyODDetector",
    "pyimgano.detectors._softpatch": "SoftPatchDetector",
    "pyimgano.detectors._spade": "SPADEDetector",
    "pyimgano.detectors.templates._pixel": "PixelGaussianDetector PixelMADDetector",
    "pyimgano.detectors.templates._window": "NCCTemplateDetector SSIMTemplateDetector",
    "pyimgano.detectors.trained._dinomaly": "DinomalyDetector",
    "pyimgano.detectors.trained._reverse_distillation": "ReverseDistillationDetector",
    "pyimgano.detectors.trained._draem": "DRAEMDetector",
    "pyimgano.detectors.trained._stfpm": "STFPMDetector",
    "pyimgano.detectors.trained._supersimplenet": "SuperSimpleNetDetector",
    "pyimgano.ensemble": "ScoreEnsemble _Affine _Ecdf",
    "pyimgano.features._backbone": "BackbonePatchFeatures",
    "pyimgano.features._color": "ColorHistogram ColorMoments PatchStatistics",
    "pyimgano.features._filterbank": "FilterBankFeatures",
    "pyimgano.features._gradients": "EdgeFeatures HOGFeatures",
    "pyimgano.features._pooling": "PatchPooling",
    "pyimgano.features._texture": "FFTBandFeatures GLCMFeatures GaborFeatures LBPFeatures",
    "pyimgano.features._vit": "ViTPatchFeatures",
    "pyimgano.grids": "PatchGrids",
    "pyimgano.inputs._normalizer": "ImageFormatNormalizer",
    "pyimgano.interop": "PyODView",
    "pyimgano.monitoring": "DriftMonitor",
    "pyimgano.model_selection": "OneClassKFold",
    "pyimgano.preprocessing._geometry": "ImageAlignment RegionCrop",
    "pyimgano.preprocessing._illumination": "BackgroundFlattening HomomorphicFilter",
    "pyimgano.preprocessing._intensity": "CLAHE ContrastStretch GammaCorrection UnsharpMask "
    "WhiteBalance",
    "pyimgano.synthesis._augmentation": "ImageAugmentation",
    "pyimgano.synthesis._synthesizer": "DefectSynthesizer",
    "pyimgano.tiling": "TilingTransformer",
}
# Functions that may be stored, as scorers and as the function of a FunctionTransformer are.
_FUNCTIONS = {
    "pyimgano.model_selection": "anomaly_average_precision anomaly_roc_auc balanced_accuracy "
    "false_positive_rate neg_false_positive_rate true_positive_rate",
    "sklearn.metrics._classification": "accuracy_score balanced_accuracy_score f1_score "
    "matthews_corrcoef precision_score recall_score",
    "sklearn.metrics._ranking": "average_precision_score roc_auc_score",
    "sklearn.metrics._scorer": "_passthrough_scorer",
}
_UFUNCS = "absolute cbrt exp expm1 fabs log log10 log1p log2 negative sqrt square tanh"
_NUMBER_TYPES = "bool_ float16 float32 float64 int16 int32 int64 int8 uint16 uint32 uint64 uint8"
_UFUNC_MODULES = ("numpy", "numpy._core._multiarray_umath", "numpy.core._multiarray_umath")


class Admitted(NamedTuple):
    """A class that a file may hold an object of.

    Attributes
    ----------
    cls : type
    schema : Schema
        What its objects hold.
    """

    cls: Any
    schema: Schema


def admitted_class(module: str, name: str) -> Admitted | None:
    """Find a class by the name that a file has for it.

    Parameters
    ----------
    module, name : str
        Earlier names are known as well.

    Returns
    -------
    Admitted or None
        None if there is no such class in the tables.
    """
    for place in former_places(module, name):
        if name in _OWN.get(place[0], "").split() or place[1] in _OWN.get(place[0], "").split():
            return _own(*place)
        if place in _LIBRARY:
            return _of_library(*place)
    return None


@cache
def _own(module: str, name: str) -> Admitted:
    cls = getattr(importlib.import_module(module), name)
    return Admitted(cls, schema_of(cls))


@cache
def _of_library(module: str, name: str) -> Admitted | None:
    about = _LIBRARY[module, name]
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except ImportError:  # PyOD is not needed for anything else
        return None
    if cls is None:  # this version of the library has no such class
        return None
    parameters: dict[str, Any] = {}
    if about.has_parameters:
        signature = inspect.signature(cls.__init__).parameters.values()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = {p.name: p.default for p in signature if p.kind in named and p.name != "self"}
    constraints: Any = getattr(cls, "_parameter_constraints", None)
    rules = dict(about.parameter_rules)
    if not about.constrained:
        constraints = None
        rules = {**{key: _like(key, default) for key, default in parameters.items()}, **rules}
    return Admitted(
        cls,
        Schema(
            name,
            tuple(parameters),
            constraints,
            rules,
            about.fitted,
            about.relations,
            always=not about.has_parameters,
        ),
    )


def _like(name: str, default: Any) -> Rule:
    """Rule for a parameter that its class does not constrain, by its default."""
    if isinstance(default, bool):
        return Flag()
    if isinstance(default, (int, float)):
        return Maybe(Number()) if name == "n_jobs" else Number()
    if isinstance(default, str):
        return Either(Text(), Number())
    return _PARAMETER


def stored_value(module: str, name: str) -> Any:
    """Find a function, ufunc, type of numbers or class that a file only refers to.

    Parameters
    ----------
    module, name : str

    Returns
    -------
    object or None
        None if it is not in the tables.
    """
    if module in ("numpy", "numpy.core.numerictypes") and name in _NUMBER_TYPES.split():
        return getattr(np, name)
    if module in _UFUNC_MODULES and name in _UFUNCS.split():
        return getattr(np, name)
    for place in former_places(module, name):
        if place[1] in _FUNCTIONS.get(place[0], "").split():
            return getattr(importlib.import_module(place[0]), place[1])
    if module == _SPLITTERS and name in ("KFold", "StratifiedKFold"):
        return getattr(importlib.import_module(module), name)
    return None


# ---- rules of what is stored by reference ----------------------------------------------
class _Scorer(Rule):
    """A function of the table or a scorer object, alone or by name."""

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        for one in value.values() if isinstance(value, dict) else [value]:
            if not callable(one) or isinstance(one, type):
                fail(where, f"holds a {type(one).__name__}, which is no scorer")


class _Functions(Rule):
    """A ufunc of the table."""

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if not isinstance(value, np.ufunc):
            fail(where, "is no numpy function of one array")


class _ClassOf(Rule):
    """A class of splitters of the table."""

    def check(self, value: Any, where: str, sizes: Sizes) -> None:
        if not isinstance(value, type) or not hasattr(value, "split"):
            fail(where, "is no class of splitters")


# ---- scikit-learn ---------------------------------------------------------------------
class _Library(NamedTuple):
    """State of the objects of a class of another library, see Schema."""

    fitted: Mapping[str, Rule] = {}
    parameter_rules: Mapping[str, Rule] = {}
    relations: Callable[[State, Sizes], None] | None = None
    constrained: bool = True
    has_parameters: bool = True


# A parameter that its class does not constrain: a plain value, or a model.
_PARAMETER = Either(Plain(), Object(methods=("fit",)))
_SPLITTERS = "sklearn.model_selection._split"

_COLUMNS: dict[str, Rule] = {
    "n_features_in_": Number(1, equals="d"),
    "feature_names_in_": MayLack(Names()),
}
_SEED = Maybe(Either(Number(0, 2**32 - 1, whole=True), Object("RandomState")))
# Distances that need nothing but a power; others read matrices whose shape they do not check.
_METRIC = OneOf(
    "chebyshev",
    "cityblock",
    "cosine",
    "euclidean",
    "l1",
    "l2",
    "manhattan",
    "minkowski",
    "sqeuclidean",
)
_METRIC_RULES: dict[str, Rule] = {
    "metric": _METRIC,
    "metric_params": Maybe(Map(str, Number(1))),
}
_STEP = Maybe(Either(Object(methods=("get_params",)), OneOf("drop", "passthrough")))
_STEPS = ListOf(TupleOf(Text(), _STEP), least=1)
_PART = TupleOf(Text(), Either(Object(methods=("fit",)), OneOf("drop", "passthrough")), Plain())


def _numbers(*shape: Any, **ranges: Any) -> Array:
    return Array("float64 float32", *shape, **ranges)


def _scaler(**fitted: Rule) -> _Library:
    return _Library({**_COLUMNS, **fitted}, relations=_check_scaler)


def _check_scaler(state: State, sizes: Sizes) -> None:
    wanted = {
        "mean_": state.get("with_mean"),
        "scale_": state.get("with_std", state.get("with_scaling")),
        "center_": state.get("with_centering"),
    }
    for name, used in wanted.items():
        if used and name in state and state[name] is None:
            fail(f"the scaler's {name}", "is missing")


# Rows are shifted and scaled by them. Values of an image's features are far from these limits, with
# which rows of ordinary size stay such, also as float32.
_SHIFT = _numbers("d", low=-1e18, high=1e18)
_SCALE = _numbers("d", low=1e-15, high=1e18)
_SEEN = MayLack(Either(Number(1), Array("int float", "d", low=0)))

_NEIGHBORS: dict[str, Rule] = {
    **_COLUMNS,
    "effective_metric_": _METRIC,
    "effective_metric_params_": Map(str, Maybe(Number(1))),
    "_fit_method": OneOf("brute", "kd_tree", "ball_tree"),
    "_fit_X": _numbers("rows", "d", contiguous=True),
    "n_samples_fit_": Number(1, equals="rows"),
    "_tree": Maybe(Object("KDTree", "BallTree")),
}


def _check_points(state: State) -> None:
    tree, method = state["_tree"], state["_fit_method"]
    wanted = {"kd_tree": "KDTree", "ball_tree": "BallTree", "brute": "NoneType"}[method]
    if type(tree).__name__.rstrip("0123456789") != wanted:
        fail("NearestNeighbors._tree", "does not go with _fit_method")
    if tree is not None and tree.data.shape != state["_fit_X"].shape:
        fail("NearestNeighbors._tree", "holds other points than _fit_X")


def _check_neighbors(state: State, sizes: Sizes) -> None:
    _check_points(state)
    if state["n_neighbors"] > sizes["rows"]:
        fail("NearestNeighbors.n_neighbors", "are more than there are points")


def _check_density(state: State, sizes: Sizes) -> None:
    if state["tree_"].data.shape[1] != sizes["d"]:
        fail("KernelDensity.tree_", "holds points of other columns")


def _check_svd(state: State, sizes: Sizes) -> None:
    if sizes["components"] > sizes["d"]:
        fail("PCA.components_", "are more than there are columns")
    if state["whiten"] and not (state["explained_variance_"] > 0).all():
        fail("PCA.explained_variance_", "is not positive")


def _check_kernel(state: State, sizes: Sizes) -> None:
    if state["_centerer"].n_features_in_ != sizes["rows"]:
        fail("PyODKernelPCA._centerer", "is of other rows than X_fit_")
    for name in ("degree", "coef0"):
        if not abs(state[name]) <= 100:
            fail(f"PyODKernelPCA.{name}", "is too large to compute with")


def _check_covariance(state: State, sizes: Sizes) -> None:
    if state["store_precision"] != (state["precision_"] is not None):
        fail("MinCovDet.precision_", "does not go with store_precision")
    used = "precision_" if state["store_precision"] else "covariance_"
    if sizes["d"] > _MOST_COLUMNS:
        fail(f"MinCovDet.{used}", f"is of {sizes['d']} columns; at most {_MOST_COLUMNS} are read")
    matrix = state[used]
    # Distances are roots. Many objects may share one matrix, which takes long to look at.
    if sizes.is_new("semidefinite", matrix) and not _is_semidefinite(matrix):
        fail(f"MinCovDet.{used}", "is not that of a covariance")


# Columns of a covariance. Fitting one robustly to more would take hours, and checking it here
# takes time by their third power.
_MOST_COLUMNS = 2048


def _is_semidefinite(matrix: np.ndarray) -> bool:
    """Tell whether a matrix is symmetric and has no eigenvalue below zero, up to rounding."""
    largest = float(np.abs(matrix).max(initial=1e-300))
    scaled = matrix.astype(np.float64) / largest
    if not np.allclose(scaled, scaled.T, atol=1e-6):
        return False
    try:
        np.linalg.cholesky(scaled + 1e-6 * np.eye(len(scaled)))
    except np.linalg.LinAlgError:
        return False
    return True


def _check_factor(state: State, sizes: Sizes) -> None:
    _check_points(state)
    if state["_distances_fit_X_"].shape[1] < state["n_neighbors_"]:
        fail("LocalOutlierFactor._distances_fit_X_", "lacks neighbors")
    if not (state["_lrd"] > 0).all():
        fail("LocalOutlierFactor._lrd", "is not positive")
    if not 1 <= state["n_neighbors_"] < max(2, sizes["rows"]):
        fail("LocalOutlierFactor.n_neighbors_", "are more than there are points")


def _check_mixture(state: State, sizes: Sizes) -> None:
    k, d = sizes["components"], sizes["d"]
    shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
    for name in ("covariances_", "precisions_cholesky_", "precisions_"):
        if state[name].shape != shape[state["covariance_type"]]:
            fail(f"GaussianMixture.{name}", "does not go with covariance_type")
    factor = state["precisions_cholesky_"]
    if state["covariance_type"] in ("full", "tied"):
        factor = factor[..., np.arange(d), np.arange(d)]
    if not (factor > 0).all():  # their logarithms are taken
        fail("GaussianMixture.precisions_cholesky_", "is no factor of a covariance")
    if not abs(state["weights_"].sum() - 1) < 0.1:
        fail("GaussianMixture.weights_", "do not add up to one")


_COVARIANCE: dict[str, Rule] = {
    **_COLUMNS,
    "raw_location_": MayLack(_numbers("d")),
    "raw_covariance_": MayLack(_numbers("d", "d")),
    "raw_support_": MayLack(Array("bool", "rows")),
    "location_": _numbers("d"),
    "support_": Array("bool", "rows"),
    "dist_": _numbers("rows"),
    "covariance_": _numbers("d", "d"),
    "precision_": Maybe(_numbers("d", "d")),
}
_SVM: dict[str, Rule] = {
    **_COLUMNS,
    # Not parameters of its constructor, and there before fit.
    "C": MayLack(Number(0)),
    "epsilon": MayLack(Number(0)),
    "probability": MayLack(OneOf(False)),
    "class_weight": MayLack(OneOf(None)),
    "random_state": MayLack(OneOf(None)),
    "_sparse": OneOf(False),
    "_effective_probability": MayLack(OneOf(False)),
    "class_weight_": MayLack(Array("float", 0)),
    "_gamma": Number(0),
    "support_": Array("int32", "vectors", low=0),
    "support_vectors_": Array("float64", "vectors", "d", contiguous=True),
    "_n_support": Array("int32", 2, low=0),
    "dual_coef_": Array("float64", 1, "vectors"),
    "_dual_coef_": Array("float64", 1, "vectors", contiguous=True),
    "intercept_": Array("float64", 1),
    "_intercept_": Array("float64", 1),
    "_probA": Array("float64", 0),
    "_probB": Array("float64", 0),
    "fit_status_": Number(0, 1),
    "_num_iter": MayLack(Array("int32", 1)),
    "n_iter_": Number(0),
    "shape_fit_": TupleOf(Number(1, equals="rows"), Number(1, equals="d")),
    "offset_": Array("float64", 1),
}


def _check_svm(state: State, sizes: Sizes) -> None:
    if sizes["vectors"] == 0 or state["_n_support"][0] > sizes["vectors"]:
        fail("OneClassSVM._n_support", "counts other vectors than there are")
    if state["support_"].max() >= sizes["rows"]:
        fail("OneClassSVM.support_", "names rows that there are not")


_FOREST: dict[str, Rule] = {
    **_COLUMNS,
    # Not parameters of its constructor, and there before fit.
    "estimator": MayLack(OneOf(None)),
    "estimator_params": MayLack(OneOf(())),
    "bootstrap_features": MayLack(OneOf(False)),
    "oob_score": MayLack(OneOf(False)),
    "max_samples_": Number(1, 2**40, whole=True),
    "_max_samples": Number(1, 2**40, whole=True),
    "_n_samples": Number(1, whole=True),
    "_max_features": Number(1, whole=True),
    "_sample_weight": MayLack(OneOf(None)),
    "estimator_": Object("ExtraTreeRegressor"),
    "estimators_": ListOf(Object("ExtraTreeRegressor"), "trees"),
    "estimators_features_": ListOf(Array("int", None, low=0), "trees"),
    "_seeds": Array("int", "trees"),
    "_average_path_length_per_tree": ListOf(_numbers(None, low=0.0), "trees", kind=tuple),
    "_decision_path_lengths": ListOf(Array("int", None, low=0), "trees", kind=tuple),
    "offset_": Number(),
}


def _check_forest(state: State, sizes: Sizes) -> None:
    if sizes["trees"] == 0:
        fail("IsolationForest.estimators_", "are none")
    for i, (tree, columns) in enumerate(zip(state["estimators_"], state["estimators_features_"])):
        where = f"IsolationForest.estimators_[{i}]"
        if not hasattr(tree, "tree_") or len(columns) != tree.n_features_in_:
            fail(where, "does not have the columns of estimators_features_")
        if len(columns) == 0 or columns.max() >= sizes["d"]:
            fail(where, f"looks at columns beyond the {sizes['d']} there are")
        lengths = {
            len(state[name][i])
            for name in ("_average_path_length_per_tree", "_decision_path_lengths")
        }
        if lengths != {tree.tree_.node_count}:
            fail(where, "has other nodes than there are path lengths")


def _check_tree(state: State, sizes: Sizes) -> None:
    tree = state["tree_"]
    if (tree.n_features, tree.n_outputs) != (state["n_features_in_"], 1):
        fail("ExtraTreeRegressor.tree_", "is of other columns")


_RESULTS: dict[str, Rule] = {
    "_checked_cv_orig": MayLack(Object(methods=("split",))),
    "n_splits_": Number(1, whole=True),
    "multimetric_": Flag(),
    "best_index_": MayLack(Number(0, whole=True)),
    "best_score_": MayLack(Plain()),
    "best_params_": MayLack(Map(str)),
    "best_estimator_": MayLack(Object(methods=("fit",))),
    "refit_time_": MayLack(Number(0)),
    "scorer_": _Scorer(),
    "cv_results_": Map(str),
    "feature_names_in_": MayLack(Names()),
}


def _check_search(state: State, sizes: Sizes) -> None:
    if state["refit"] and "best_estimator_" not in state:
        fail("the search", "lacks best_estimator_")


_COUNT, _SHARE = Number(1, whole=True), Maybe(Number(0))
_FOLDS: dict[str, Rule] = {
    "n_splits": Number(2, whole=True),
    "shuffle": Flag(),
    "random_state": _SEED,
}
_DRAWN: dict[str, Rule] = {
    "n_splits": _COUNT,
    "test_size": _SHARE,
    "train_size": _SHARE,
    "random_state": _SEED,
    "_default_test_size": Number(0, 1),
}
_REPEATED: dict[str, Rule] = {
    "cv": _ClassOf(),
    "n_repeats": _COUNT,
    "random_state": _SEED,
    "cvargs": Map(str, Plain()),
}


def _splitter(rules: Mapping[str, Rule]) -> _Library:
    return _Library(rules, has_parameters=False, constrained=False)


# What scorers call on an estimator; a name of the file's own is looked up nowhere.
_RESPONSES = OneOf(
    "predict",
    "decision_function",
    "predict_proba",
    ("decision_function", "predict_proba"),
    ("predict_proba", "decision_function"),
)

_LIBRARY: dict[tuple[str, str], _Library] = {
    # Composition.
    ("sklearn.pipeline", "Pipeline"): _Library(parameter_rules={"steps": _STEPS}),
    ("sklearn.pipeline", "FeatureUnion"): _Library(
        parameter_rules={
            "transformer_list": _STEPS,
            "transformer_weights": Maybe(Map(str, Number())),
        },
        constrained=False,
    ),
    ("sklearn.compose._column_transformer", "ColumnTransformer"): _Library(
        {
            **_COLUMNS,
            "_columns": MayLack(Plain()),
            "_transformer_to_input_indices": Map(str, Plain()),
            "_remainder": ListOf(Either(_STEP, Plain()), 3, kind=tuple),
            "sparse_output_": Flag(),
            "transformers_": ListOf(_PART),
            "output_indices_": Map(str, Plain()),
            "_name_to_fitted_passthrough": MayLack(Map(str, Object(methods=("transform",)))),
            "_n_features": MayLack(Number(1, whole=True)),
        },
        {"transformers": ListOf(_PART)},
    ),
    ("sklearn.frozen._frozen", "FrozenEstimator"): _Library(
        parameter_rules={"estimator": Object(methods=("fit",))}, constrained=False
    ),
    ("sklearn.model_selection._search", "GridSearchCV"): _Library(
        _RESULTS, relations=_check_search
    ),
    ("sklearn.model_selection._search", "RandomizedSearchCV"): _Library(
        _RESULTS, relations=_check_search
    ),
    # Preprocessing.
    ("sklearn.preprocessing._data", "StandardScaler"): _scaler(
        n_samples_seen_=_SEEN,
        mean_=Maybe(_SHIFT),
        var_=Maybe(_numbers("d", low=0.0)),
        scale_=Maybe(_SCALE),
    ),
    ("sklearn.preprocessing._data", "MinMaxScaler"): _scaler(
        n_samples_seen_=_SEEN,
        **dict.fromkeys(("scale_", "min_", "data_min_", "data_max_", "data_range_"), _SHIFT),
    ),
    ("sklearn.preprocessing._data", "MaxAbsScaler"): _scaler(
        n_samples_seen_=_SEEN, max_abs_=_numbers("d"), scale_=_SCALE
    ),
    ("sklearn.preprocessing._data", "RobustScaler"): _scaler(
        center_=Maybe(_SHIFT), scale_=Maybe(_SCALE)
    ),
    ("sklearn.preprocessing._data", "KernelCenterer"): _scaler(
        K_fit_rows_=_numbers("d"), K_fit_all_=Number()
    ),
    ("sklearn.preprocessing._function_transformer", "FunctionTransformer"): _Library(
        {name: MayLack(rule) for name, rule in _COLUMNS.items()},
        {
            "func": Maybe(_Functions()),
            "inverse_func": Maybe(_Functions()),
            "kw_args": Maybe(Map(str, Plain())),
            "inv_kw_args": Maybe(Map(str, Plain())),
            "feature_names_out": OneOf(None, "one-to-one"),
        },
    ),
    ("sklearn.decomposition._pca", "PCA"): _Library(
        {
            **_COLUMNS,
            "_fit_svd_solver": Text(),
            "mean_": _numbers("d"),
            "noise_variance_": Number(),
            "n_samples_": Number(1, whole=True),
            "n_components_": Number(1, equals="components"),
            "components_": _numbers("components", "d"),
            "explained_variance_": _numbers("components"),
            "explained_variance_ratio_": _numbers("components"),
            "singular_values_": _numbers("components"),
        },
        relations=_check_svd,
    ),
    # Detectors and what they are made of.
    ("sklearn.cluster._kmeans", "KMeans"): _Library(
        {
            **_COLUMNS,
            "_tol": Number(0),
            "_n_init": Number(1, whole=True),
            "_algorithm": OneOf("lloyd", "elkan"),
            "_n_threads": Number(1, 1024, whole=True),
            "cluster_centers_": _numbers("clusters", "d", contiguous=True),
            "_n_features_out": Number(1, equals="clusters"),
            "labels_": Array("int", None, low=0, below="clusters"),
            "inertia_": Number(),
            "n_iter_": Number(0),
        },
        {"init": OneOf("k-means++", "random")},
    ),
    ("sklearn.covariance._robust_covariance", "MinCovDet"): _Library(
        _COVARIANCE, relations=_check_covariance
    ),
    ("sklearn.covariance._elliptic_envelope", "EllipticEnvelope"): _Library(
        {**_COVARIANCE, "offset_": Number()}, relations=_check_covariance
    ),
    ("sklearn.ensemble._iforest", "IsolationForest"): _Library(_FOREST, relations=_check_forest),
    ("sklearn.tree._classes", "ExtraTreeRegressor"): _Library(
        {
            **_COLUMNS,
            "class_weight": MayLack(OneOf(None)),
            "n_outputs_": OneOf(1),
            "max_features_": Number(1, whole=True),
            "tree_": Object("Tree"),
        },
        relations=_check_tree,
    ),
    ("sklearn.mixture._gaussian_mixture", "GaussianMixture"): _Library(
        {
            **_COLUMNS,
            "converged_": Flag(),
            "weights_": _numbers("components", low=0.0),
            "means_": _numbers("components", "d"),
            "covariances_": Either(*(_numbers(*[None] * k) for k in (1, 2, 3))),
            "precisions_cholesky_": Either(*(_numbers(*[None] * k) for k in (1, 2, 3))),
            "precisions_": Either(*(_numbers(*[None] * k) for k in (1, 2, 3))),
            "n_iter_": Number(0),
            "lower_bound_": Number(),
            "lower_bounds_": MayLack(Plain()),
        },
        relations=_check_mixture,
    ),
    ("sklearn.neighbors._unsupervised", "NearestNeighbors"): _Library(
        _NEIGHBORS, _METRIC_RULES, _check_neighbors
    ),
    ("sklearn.neighbors._lof", "LocalOutlierFactor"): _Library(
        {
            **_NEIGHBORS,
            "radius": MayLack(OneOf(None)),
            "n_neighbors_": Number(1, whole=True),
            "_distances_fit_X_": _numbers("rows", None),
            "_lrd": _numbers("rows"),
            "negative_outlier_factor_": _numbers("rows"),
            "offset_": Number(),
        },
        _METRIC_RULES,
        _check_factor,
    ),
    ("sklearn.neighbors._kde", "KernelDensity"): _Library(
        {**_COLUMNS, "bandwidth_": Number(1e-15, 1e18), "tree_": Object("KDTree", "BallTree")},
        _METRIC_RULES,
        _check_density,
    ),
    ("sklearn.svm._classes", "OneClassSVM"): _Library(
        _SVM, {"kernel": OneOf("linear", "poly", "rbf", "sigmoid")}, _check_svm
    ),
    # Splitters.
    **{
        (_SPLITTERS, name): _splitter(_FOLDS)
        for name in ("KFold", "StratifiedKFold", "GroupKFold", "StratifiedGroupKFold")
    },
    **{
        (_SPLITTERS, name): _splitter(_DRAWN)
        for name in ("ShuffleSplit", "StratifiedShuffleSplit", "GroupShuffleSplit")
    },
    **{
        (_SPLITTERS, name): _splitter(_REPEATED)
        for name in ("RepeatedKFold", "RepeatedStratifiedKFold")
    },
    (_SPLITTERS, "LeaveOneOut"): _splitter({}),
    (_SPLITTERS, "LeaveOneGroupOut"): _splitter({}),
    (_SPLITTERS, "PredefinedSplit"): _splitter(
        {"test_fold": Array("int", None), "unique_folds": Array("int", None)}
    ),
    (_SPLITTERS, "_CVIterableWrapper"): _splitter({"cv": Plain()}),
    # Scorers.
    ("sklearn.metrics._scorer", "_Scorer"): _splitter(
        {
            "_score_func": _Scorer(),
            "_sign": OneOf(1, -1),
            "_kwargs": Map(str, Plain()),
            "_response_method": _RESPONSES,
            "_deprecation_msg": MayLack(OneOf(None)),  # of scikit-learn 1.6
        }
    ),
    ("sklearn.metrics._scorer", "_PassthroughScorer"): _splitter(
        {"_estimator": Object(methods=("fit",))}
    ),
    ("sklearn.metrics._scorer", "_MultimetricScorer"): _splitter(
        {"_scorers": _Scorer(), "_raise_exc": Flag()}
    ),
    # PyOD.
    **{
        (f"pyod.models.{name.lower()}", name): _Library(fitted, rules, relations, constrained=False)
        for name in PYOD
        for fitted, rules, relations in [_admitted_pyod.declared(name)]
    },
    ("pyod.models.kpca", "PyODKernelPCA"): _Library(
        parameter_rules={"kernel": _admitted_pyod.KERNEL},
        fitted={
            **_COLUMNS,
            "iterated_power": MayLack(OneOf("auto")),
            "gamma_": Number(0, 1e18),
            "_centerer": Object("KernelCenterer"),
            "eigenvalues_": _numbers("components", low=0.0),
            "eigenvectors_": _numbers("rows", "components"),
            "X_fit_": _numbers("rows", "d"),
        },
        relations=_check_kernel,
        constrained=False,
    ),
}
