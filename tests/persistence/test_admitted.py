"""A saved file may hold all that fitted estimators are made of, and nothing that acts."""

from __future__ import annotations

import os
import re
import warnings

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.metrics import make_scorer, recall_score, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.neighbors import KDTree, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM

import pyimgano
from pyimgano import PatchCoreDetector, ThresholdCalibrator
from pyimgano.detectors import PyODDetector
from pyimgano.exceptions import UntrustedFileError
from pyimgano.model_selection import OneClassKFold, anomaly_roc_auc
from tests.persistence.test_saving import OwnStep, save_raw

ROWS = np.random.RandomState(0).normal(size=(50, 4))
LABELS = np.repeat([1, -1], [44, 6])


def saved_and_loaded(estimator, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # save would say that load refuses
        path = pyimgano.save(estimator, tmp_path / "a.joblib")
    return pyimgano.load(path)


# ---- what fitted estimators are made of ---------------------------------------------
@pytest.mark.parametrize(
    "detector",
    [
        make_pipeline(StandardScaler(), IsolationForest(n_estimators=10, random_state=0)),
        LocalOutlierFactor(novelty=True, algorithm="kd_tree", leaf_size=5),
        LocalOutlierFactor(novelty=True, algorithm="ball_tree", metric="minkowski", p=3),
        OneClassSVM(),
        make_pipeline(ColumnTransformer([("few", PCA(2), [0, 1, 2])]), PatchCoreDetector()),
        make_pipeline(FunctionTransformer(np.abs), PatchCoreDetector()),
    ],
    ids=["forest", "kd_tree", "ball_tree", "svm", "columns", "ufunc"],
)
def test_detectors_of_scikit_learn_score_alike(detector, tmp_path):
    detector.fit(ROWS)
    again = saved_and_loaded(detector, tmp_path)
    new = ROWS + 0.1
    np.testing.assert_array_equal(again.score_samples(new), detector.score_samples(new))


# The others are saved and loaded in tests/test_models.py.
@pytest.mark.parametrize("name", ["ECOD", "IForest", "KNN", "KPCA", "Sampling"])
def test_pyods_models_in_the_registry_score_alike(name, tmp_path):
    module = pytest.importorskip(f"pyod.models.{name.lower()}")
    detector = PyODDetector(getattr(module, name)(), cv=2).fit(ROWS)
    again = saved_and_loaded(detector, tmp_path)
    new = ROWS + 0.1
    np.testing.assert_array_equal(again.score_samples(new), detector.score_samples(new))


@pytest.mark.parametrize(
    "scoring",
    [anomaly_roc_auc, "roc_auc", make_scorer(recall_score, pos_label=-1), ["accuracy", "f1"]],
    ids=["own", "by name", "made", "several"],
)
def test_a_fitted_search_comes_back_with_its_results(scoring, tmp_path):
    detector, grid = PatchCoreDetector(), {"contamination": [0.1, 0.2]}
    refit = "f1" if isinstance(scoring, list) else True
    search = GridSearchCV(detector, grid, scoring=scoring, cv=OneClassKFold(2), refit=refit)
    search.fit(ROWS, LABELS)
    again = saved_and_loaded(search, tmp_path)
    assert again.best_params_ == search.best_params_
    column = f"param_{next(iter(grid))}"
    np.testing.assert_array_equal(again.cv_results_[column], search.cv_results_[column])
    np.testing.assert_array_equal(again.predict(ROWS), search.predict(ROWS))
    assert again.score(ROWS, LABELS) == search.score(ROWS, LABELS)


@pytest.mark.parametrize(
    "cv",
    [
        KFold(2, shuffle=True, random_state=0),
        RepeatedKFold(n_splits=2, n_repeats=1, random_state=0),
        PredefinedSplit(np.arange(50) % 2),
        [(np.arange(25), np.arange(25, 50)), (np.arange(25, 50), np.arange(25))],
    ],
    ids=["KFold", "Repeated", "Predefined", "list"],
)
def test_a_calibrator_with_folds(cv, tmp_path):
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9, cv=cv).fit(ROWS)
    again = saved_and_loaded(calibrator, tmp_path)
    assert again.threshold_ == calibrator.threshold_
    assert again.fit(ROWS).threshold_ == calibrator.threshold_  # the splitter still works


@pytest.mark.parametrize("memory", ["cache", "object"])
def test_caches_are_refused_with_the_way_out(memory, tmp_path):
    # The next fit would read the cache with joblib.load.
    cache = str(tmp_path / "cache") if memory == "cache" else joblib.Memory(tmp_path / "cache")
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9, memory=cache).fit(ROWS)
    with pytest.warns(UserWarning, match=r"memory=None|joblib\.memory\.Memory"):
        path = pyimgano.save(calibrator, tmp_path / "a.joblib")
    with pytest.raises(UntrustedFileError, match=r"memory=None|joblib\.memory\.Memory"):
        pyimgano.load(path)
    saved_and_loaded(calibrator.set_params(memory=None), tmp_path)


def test_unfitted_splitters(tmp_path):
    for splitter in (ShuffleSplit(2, random_state=0), StratifiedKFold(2), OneClassKFold(2)):
        expected = [test.tolist() for _, test in splitter.split(ROWS, LABELS)]
        again = saved_and_loaded(GridSearchCV(PatchCoreDetector(), {}, cv=splitter), tmp_path).cv
        assert [test.tolist() for _, test in again.split(ROWS, LABELS)] == expected


def test_requests_for_metadata(tmp_path):
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        again = saved_and_loaded(scaler, tmp_path)
        assert again.get_metadata_routing().fit.requests == {"sample_weight": True}


@pytest.mark.parametrize(
    "dtype",
    [
        [("a", "<i4"), ("b", ">f8")],
        np.dtype([("a", "u1"), ("b", "f8")], align=True),
        {"names": ["b", "a"], "formats": ["f4", "i2"], "offsets": [4, 0], "itemsize": 16},
        [("a", [("x", "f4", (2, 3)), ("y", "U3")])],
        [("empty", "f8", (0,)), ("a", "S2")],
    ],
    ids=["packed", "aligned", "holes", "nested", "empty"],
)
def test_structured_arrays_come_back(dtype, tmp_path):
    array = np.zeros(3, dtype)
    array["a"] = np.ones(3, array.dtype["a"])
    for value in (array, [array[0]], np.array([array, None], dtype=object)):
        estimator = FunctionTransformer(kw_args={"v": value})
        again = saved_and_loaded(estimator, tmp_path).kw_args["v"]
        again, expected = (again[0], value[0]) if len(value) < 3 else (again, value)
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, expected)


# ---- nothing that acts --------------------------------------------------------------
class Recipe:
    """Is pickled as ``function(*args)``, the state for it, and the items to append to it."""

    def __init__(self, *recipe):
        self.recipe = recipe

    def __reduce__(self):
        return self.recipe


def refuses(content, tmp_path, match):
    path = tmp_path / "evil.joblib"
    save_raw([content], path)
    with pytest.raises(UntrustedFileError, match=rf"evil\.joblib: it {match}"):
        pyimgano.load(path)


def test_what_may_be_stored_may_not_be_called(tmp_path):
    folder = str(tmp_path / "cache")
    for function, args in [
        (joblib.Memory, (folder,)),
        (roc_auc_score, ([0, 1], [0, 1])),
        (anomaly_roc_auc, (None, None, None)),
        (np.exp, (1.0,)),
    ]:
        refuses(Recipe(function, args), tmp_path, "holds .* not on the list")
    make, (scaler, cache) = KDTree(ROWS).__reduce__()[0], (StandardScaler, joblib.Memory)
    for recipe in [
        (make, (scaler,), {"append": cache}, iter([folder])),
        (make, (scaler,), {"__setstate__": cache}),
        (make, (scaler,), (None, {"__class__": cache})),
        (make, (scaler(),)),
    ]:
        refuses(Recipe(*recipe), tmp_path, "(holds|calls) ")
    assert not os.path.exists(folder)


def test_functions_are_stored_only_where_they_are_scorers(tmp_path):
    for function in (sklearn.clone, sklearn.datasets.load_iris, pyimgano.show_versions, np.save):
        refuses(function, tmp_path, r"holds .* not on the list")


@pytest.mark.parametrize("package", ["cli", "datasets", "detectors", "persistence", "utils"])
def test_only_classes_of_the_table_are_admitted(package, tmp_path, monkeypatch):
    made = type("Innocent", (), {"__module__": f"pyimgano.{package}"})
    monkeypatch.setattr(f"pyimgano.{package}.Innocent", made, raising=False)
    refuses(made(), tmp_path, rf"holds pyimgano\.{package}\.Innocent, which is not on the list")


@pytest.mark.parametrize(
    "fields, size",
    [
        ({"a": (np.dtype("O"), 0)}, 8),
        ({"a": (np.dtype([("b", "O")]), 0)}, 8),
        ({"a": (np.dtype("f8"), 4)}, 8),
        ({"a": (np.dtype("f8"), -8)}, 8),
    ],
    ids=["object", "nested object", "beyond", "before"],
)
def test_structured_dtypes_cannot_lie(fields, size, tmp_path):
    state = (3, "|", None, ("a",), fields, size, 1, 0)
    path = tmp_path / "evil.joblib"
    save_raw([Recipe(np.dtype, ("V8", False, True), state)], path)
    with pytest.raises(UntrustedFileError, match=r"holds an array of dtype"):
        pyimgano.load(path)


def test_object_arrays_are_as_long_as_they_say(tmp_path):
    function, args, state = np.array([None]).__reduce__()
    long = (*state[:1], (10**6,), *state[2:])  # numpy would read beyond the one object
    refuses(Recipe(function, args, long), tmp_path, "holds an array of shape .* with 1 objects")
    function, args, state = np.ma.array([None]).__reduce__()
    long = (*state[:1], (10**6,), *state[2:])
    refuses(Recipe(function, args, long), tmp_path, "holds an array of shape .* with 1 objects")


def change_nodes(tree, **changes):
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    for name, value in changes.items():
        state["nodes"][name][0] = value
    return (*tree.__reduce__()[:2], state)


def test_decision_trees_stay_within_themselves(tmp_path):
    tree = IsolationForest(n_estimators=1, random_state=0).fit(ROWS).estimators_[0].tree_
    function, args, state = tree.__reduce__()
    wrong = [
        change_nodes(tree, right_child=10**6),
        change_nodes(tree, left_child=-2),
        change_nodes(tree, left_child=0),  # round and round
        change_nodes(tree, feature=4),
        change_nodes(tree, feature=-1),
        (function, args, {**state, "node_count": 10**6}),
        (function, args, {**state, "max_depth": 0}),
        change_nodes(tree, left_child=2),  # two ways to one node
    ]
    for recipe in wrong:
        refuses(Recipe(*recipe), tmp_path, "holds (a decision tree|an invalid .*[Tt]ree)")
    for bad in ((4, args[1], 10**6), (0, args[1], 1)):
        refuses(Recipe(function, bad, state), tmp_path, "holds a decision tree of impossible shape")


def test_search_trees_are_built_anew(tmp_path):
    tree = KDTree(ROWS, leaf_size=5)
    function, args, state = tree.__reduce__()
    wild = (state[0], state[1] + 10**9, state[2], state[3] + np.nan, *state[4:])
    path = tmp_path / "evil.joblib"
    save_raw([Recipe(function, args, wild)], path)
    (again,) = pyimgano.load(path)
    np.testing.assert_array_equal(again.query(ROWS, k=3)[0], tree.query(ROWS, k=3)[0])


# ---- messages -----------------------------------------------------------------------
def test_all_that_is_missing_is_named_at_once_and_trusting_it_works(tmp_path):
    path = tmp_path / "a.joblib"
    estimator = make_pipeline(OwnStep(), SelectKBest(f_classif, k=2))
    with pytest.warns(UserWarning, match="load will refuse it"):
        pyimgano.save(estimator, path)
    with pytest.raises(UntrustedFileError, match="which are not on the list") as refusal:
        pyimgano.load(path)
    (names,) = re.findall(r"trusted=\[(.*?)\]", str(refusal.value))
    trusted = re.findall(r'"(.*?)"', names)
    assert len(trusted) == 3
    assert pyimgano.load(path, trusted=trusted)[1].score_func is f_classif


def test_what_cannot_be_trusted_by_name_is_not_said_to_be(tmp_path):
    path = tmp_path / "a.joblib"
    with pytest.warns(UserWarning, match="load will refuse it"):
        pyimgano.save(FunctionTransformer(kw_args={"v": np.zeros(2, [("a", "O")])}), path)
    with pytest.raises(UntrustedFileError, match=r"of dtype \[\('a', 'O'\)\]") as refusal:
        pyimgano.load(path)
    assert "trusted=" not in str(refusal.value)
    assert "joblib.load(path)" in str(refusal.value)


class OwnState(BaseEstimator):
    """A step with a state of its own."""

    def __init__(self, factor=1):
        self.factor = factor

    def fit(self, X, y=None):
        return self

    def __getstate__(self):
        return {"saved": self.factor}

    def __setstate__(self, state):
        self.factor = state["saved"]


class OwnCall(BaseEstimator):
    def __init__(self, inner):
        self.inner = inner

    def __reduce__(self):
        return OwnCall, (self.inner,)


def test_trusted_classes_are_filled_by_their_own_methods_and_may_be_called(tmp_path):
    path = tmp_path / "a.joblib"
    save_raw(make_pipeline(OwnState(3), OwnCall(np.arange(4))), path)
    names = [f"{__name__}.OwnState", f"{__name__}.OwnCall"]
    with pytest.raises(UntrustedFileError, match=r"OwnState.*OwnCall"):
        pyimgano.load(path)
    again = pyimgano.load(path, trusted=names)
    assert again[0].factor == 3
    np.testing.assert_array_equal(again[1].inner, np.arange(4))


def test_what_lies_inside_a_trusted_class_is_still_refused(tmp_path):
    path = tmp_path / "a.joblib"
    save_raw(OwnCall(Recipe(os.mkdir, (str(tmp_path / "made"),))), path)
    with pytest.raises(UntrustedFileError, match=r"holds \w+\.mkdir"):
        pyimgano.load(path, trusted=[f"{__name__}.OwnCall"])
    assert not (tmp_path / "made").exists()


def test_a_fitted_hbos_is_admitted_only_where_its_columns_are_checked(tmp_path):
    # Its compiled code reads as many histograms as a row has columns.
    from pyod.models.hbos import HBOS

    rows = np.random.default_rng(0).normal(size=(30, 4))
    path = tmp_path / "a.joblib"
    with pytest.warns(UserWarning, match="load will refuse it"):
        pyimgano.save(make_pipeline(StandardScaler(), HBOS()).fit(rows), path)
    with pytest.raises(UntrustedFileError, match="a fitted HBOS outside of a PyODDetector"):
        pyimgano.load(path)
