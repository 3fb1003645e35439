"""Every class of the package declares its state, and wrong state is refused, never computed with.

An attribute that a class sets and does not declare fails here by name.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import pyimgano
from pyimgano._pyod_models import PYOD
from pyimgano.detectors import PyODDetector
from pyimgano.exceptions import UntrustedFileError
from pyimgano.features import FilterBankFeatures
from pyimgano.persistence._admitted import _OWN, admitted_class
from pyimgano.utils import all_estimators
from pyimgano.utils._schema import CheckedStateMixin
from tests.attack.files import write
from tests.instances import (
    ALIGNMENT_INSTANCES,
    IMAGE_INSTANCES,
    MAP_INSTANCES,
    POOLING_INSTANCES,
    ROW_INSTANCES,
    SYNTHESIZER_INSTANCES,
    TABLE_INSTANCES,
    TRANSFORMER_INSTANCES,
)

pytestmark = [pytest.mark.usefixtures("metrics_kept"), pytest.mark.filterwarnings("ignore")]

ROWS = np.random.RandomState(0).normal(size=(30, 4))
IMAGES = np.random.RandomState(1).randint(0, 256, size=(8, 64, 64, 3)).astype(np.uint8)
NEEDS = {"ViTPatchFeatures": "timm", "PyODDetector": "pyod", "DinomalyDetector": "timm"}


def cases(table: dict[str, list[Any]], kind: str) -> list[Any]:
    return [
        pytest.param(one, id=f"{name}-{i}-{kind}")
        for name, instances in table.items()
        for i, one in enumerate(instances)
    ]


def fitted(estimator: Any, X: Any) -> Any:
    pytest.importorskip(NEEDS.get(type(estimator).__name__, "numpy"))
    return clone(estimator).fit(X)


def results(estimator: Any, X: Any) -> np.ndarray:
    if hasattr(estimator, "score_samples"):
        return np.asarray(estimator.score_samples(X))
    if hasattr(estimator, "decision_function"):
        return np.asarray(estimator.decision_function(X))
    found = estimator.transform(X)
    return np.asarray(found.rows if hasattr(found, "rows") else [found[i] for i in range(len(X))])


def loaded(estimator: Any, path: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # save says so where load will refuse
        pyimgano.save(estimator, path)
    return pyimgano.load(path)


# ---- what fitted estimators hold ------------------------------------------------------
@pytest.mark.parametrize("estimator", cases(TABLE_INSTANCES, "rows"))
def test_fitted_on_rows(estimator, tmp_path):
    model = fitted(estimator, ROWS)
    again = loaded(model, tmp_path / "a.joblib")
    np.testing.assert_array_equal(results(again, ROWS + 0.1), results(model, ROWS + 0.1))


@pytest.mark.parametrize(
    "estimator",
    [
        *cases(IMAGE_INSTANCES, "images"),
        *cases(TRANSFORMER_INSTANCES, "images"),
        *cases(ROW_INSTANCES, "images"),
    ],
)
def test_fitted_on_images(estimator, tmp_path):
    model = fitted(estimator, IMAGES)
    again = loaded(model, tmp_path / "a.joblib")
    np.testing.assert_array_equal(results(again, IMAGES[::-1]), results(model, IMAGES[::-1]))


@pytest.mark.parametrize("estimator", cases(ALIGNMENT_INSTANCES, "images"))
def test_fitted_on_images_of_one_part(estimator, tmp_path):
    scene = cv2.GaussianBlur(IMAGES[0], (0, 0), 2)
    X = np.stack([np.roll(scene, shift, axis=1) for shift in (0, 0, 1, 2)])
    model = fitted(estimator, X)
    again = loaded(model, tmp_path / "a.joblib")
    np.testing.assert_array_equal(results(again, X), results(model, X))
    assert again.transform(X).placement(3) is not None


def pyods(name: str) -> Any:
    """A model of PyOD; a few trees of a forest are written and read as many are."""
    module = pytest.importorskip(f"pyod.models.{name.lower()}")
    return getattr(module, name)(**({"n_estimators": 10} if name in ("IForest", "INNE") else {}))


@pytest.mark.parametrize("name", PYOD)
@pytest.mark.parametrize("ensemble", [True, False])
def test_models_of_pyod(name, ensemble, tmp_path):
    rows = np.random.RandomState(2).normal(size=(60, 4))
    model = PyODDetector(pyods(name), ensemble=ensemble, cv=2).fit(rows)
    again = loaded(model, tmp_path / "a.joblib")
    np.testing.assert_array_equal(results(again, rows * 1.5), results(model, rows * 1.5))


@pytest.mark.parametrize("estimator", cases(POOLING_INSTANCES, "grids"))
def test_fitted_on_grids(estimator, tmp_path):
    model = fitted(make_pipeline(FilterBankFeatures(resize=32), estimator), IMAGES)
    again = loaded(model, tmp_path / "a.joblib")
    np.testing.assert_array_equal(again.transform(IMAGES), model.transform(IMAGES))


@pytest.mark.parametrize("estimator", cases(MAP_INSTANCES, "maps"))
def test_fitted_on_maps(estimator, tmp_path):
    maps = np.random.RandomState(0).uniform(size=(3, 12, 16))
    model = clone(estimator).fit(maps[:2])
    again = loaded(model, tmp_path / "a.joblib")
    assert again.transform(2 * maps) == model.transform(2 * maps) != [[], [], []]


def test_every_class_of_the_table_exists_and_declares_its_state():
    for module, names in _OWN.items():
        for name in names.split():
            assert admitted_class(module, name).cls.__name__ == name


def test_every_class_of_the_package_is_in_the_table_and_in_these_tests():
    tables = (
        TABLE_INSTANCES,
        IMAGE_INSTANCES,
        TRANSFORMER_INSTANCES,
        ROW_INSTANCES,
        POOLING_INSTANCES,
        MAP_INSTANCES,
        ALIGNMENT_INSTANCES,
        SYNTHESIZER_INSTANCES,
    )
    tried = {type(one).__name__ for table in tables for each in table.values() for one in each}
    for name, cls in all_estimators():
        assert admitted_class(cls.__module__, name), f"add {name} to _OWN in _admitted.py"
        assert name in tried, f"add {name} to a table of tests/instances.py"
    waiting = [CheckedStateMixin]
    while waiting:  # those that other classes of the package derive from are bases
        cls = waiting.pop()
        derived = [one for one in cls.__subclasses__() if one.__module__.startswith("pyimgano.")]
        waiting += derived
        if not derived:
            found = admitted_class(cls.__module__, cls.__name__)
            assert found, f"add {cls.__module__}.{cls.__name__} to _OWN in _admitted.py"


def test_an_attribute_that_is_not_declared_is_refused_by_name(tmp_path):
    model = pyimgano.PatchCoreDetector().fit(ROWS)
    model.new_ = 1
    write(model, tmp_path / "a.joblib")
    with pytest.raises(UntrustedFileError, match=r"PatchCoreDetector\.new_ is no attribute"):
        pyimgano.load(tmp_path / "a.joblib")


FILES = sorted((Path(__file__).parents[1] / "golden" / "files").glob("*.joblib"))
# Sequences of image files and tiles are no estimators.
NO_ESTIMATORS = {"object-paths", "object-tiles"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_earlier_versions_are_admitted(path, tmp_path):
    copy = write(path.read_bytes(), tmp_path / "a.joblib")
    if path.stem in NO_ESTIMATORS:
        with pytest.raises(UntrustedFileError, match=r"trusted=\["):
            pyimgano.load(copy)
        return
    by_joblib, here = joblib.load(path), pyimgano.load(copy)
    assert type(here) is type(by_joblib)
    # Networks are told where the file lies, to look for their weights there.
    assert vars(here).keys() - {"_beside"} == vars(by_joblib).keys()


# ---- wrong state ----------------------------------------------------------------------
GONE = object()


def parts(model: Any, packages: tuple[str, ...] = ("pyimgano.",)) -> Iterator[Any]:
    """The model and all objects of some packages in it.

    Of a list that holds many objects of one class, checked by one rule, the first and the last.
    """
    waiting, seen = [model], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            alike = len({type(each) for each in one}) == 1 and hasattr(one[0], "__dict__")
            waiting += (one[0], one[-1]) if alike else one
        elif type(one).__module__.startswith(packages) and hasattr(one, "__dict__"):
            yield one
            waiting += vars(one).values()


def test_parts_are_those_of_each_step_of_a_pipeline():
    steps = [make_pipeline(PCA(), StandardScaler(), MinMaxScaler())]
    found = {type(one).__name__ for one in parts(steps, ("sklearn.",))}
    assert found == {"Pipeline", "PCA", "StandardScaler", "MinMaxScaler"}
    trees = [StandardScaler() for _ in range(9)]
    assert {id(one) for one in parts(trees, ("sklearn.",))} == {id(trees[0]), id(trees[-1])}


def wrong_values(value: Any) -> Iterator[tuple[str, Any]]:
    yield "dropped", GONE
    yield "text", "text"
    yield "none", None
    yield "list", [1.5, "text"]
    if isinstance(value, np.ndarray):
        yield "scalar", 1.0
        yield "shorter", value[:-1]
        yield "longer", np.concatenate([value, value[-1:]])
        yield "narrower", value[..., :-1]
        yield "deeper", value[None]
        yield "retyped", value.astype(complex)
        yield "empty", value[:0]
        if value.dtype.kind == "f":
            for odd in (np.nan, np.inf, -np.inf):
                yield f"filled with {odd}", np.full_like(value, odd)
            with np.errstate(over="ignore"):
                yield "huge", np.full_like(value, 1e300)
        if value.dtype.kind in "iu":
            yield "beyond", np.full_like(value, np.iinfo(value.dtype).max)
            yield "below", np.full_like(value, np.iinfo(value.dtype).min)
        if value.dtype == bool:
            yield "turned", ~value
    elif isinstance(value, bool):
        yield "a number", 7
    elif isinstance(value, (int, float)):
        for odd in (-(10**30), 10**30, np.nan, np.inf, -1, 0, 1e300):
            yield repr(odd), odd
    elif isinstance(value, tuple):
        yield "shorter", value[:-1]
        yield "beyond", tuple(10**9 for _ in value)
    elif isinstance(value, dict):
        yield "emptied", {}
        if value:
            yield "beyond", dict.fromkeys(value, 10**9)
            yield "below", dict.fromkeys(value, -1)
    elif isinstance(value, list):
        yield "shorter", value[:-1]
        yield "doubled", value + value


@pytest.mark.parametrize("name", PYOD)
def test_wrong_state_of_pyods_models_is_refused_or_another_model(name, tmp_path):
    """A part of all changes; ``benchmarks/fuzz_load.py`` makes more of them."""
    rows = np.random.RandomState(2).normal(size=(60, 4))
    model = PyODDetector(pyods(name), cv=2).fit(rows)
    inner = [
        one
        for one in parts(model.detector_, ("pyod.", "sklearn."))
        if type(one).__name__ not in ("ExtraTreeRegressor", "Tree")
    ]
    changes = [
        (one, attribute, what, wrong)
        for one in inner
        for attribute, value in vars(one).items()
        for what, wrong in wrong_values(value)
    ]
    rng, path, problems = np.random.RandomState(0), tmp_path / "a.joblib", []
    for k in rng.choice(len(changes), min(15, len(changes)), replace=False):
        one, attribute, what, wrong = changes[k]
        value = vars(one)[attribute]
        if wrong is GONE:
            del vars(one)[attribute]
        else:
            vars(one)[attribute] = wrong
        try:
            write(model, path)
        finally:
            vars(one)[attribute] = value
        try:
            found = results(pyimgano.load(path), rows[:4] + 0.1)
            assert np.isfinite(found).all(), "not finite"
        except UntrustedFileError:
            continue
        except Exception as error:
            where = f"{type(one).__name__}.{attribute} {what}"
            problems.append(f"{where}: {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)


def check_wrong_states(model: Any, X: Any, tmp_path: Any) -> int:
    expected, path, n = results(model, X), tmp_path / "a.joblib", 0
    # In thousands of files: as pickle writes them, ten times as fast as joblib does.
    np.testing.assert_array_equal(
        results(pyimgano.load(write(pickle.dumps(model), path)), X), expected
    )
    problems = []
    for part in parts(model):
        for name in list(vars(part)):
            if name.startswith("_parameters_at_fit"):
                continue  # they are compared with the parameters themselves
            value = vars(part)[name]
            for what, wrong in wrong_values(value):
                if wrong is GONE:
                    del vars(part)[name]
                else:
                    vars(part)[name] = wrong
                try:
                    write(pickle.dumps(model), path)
                finally:
                    vars(part)[name] = value
                n += 1
                try:
                    again = pyimgano.load(path)
                except UntrustedFileError:
                    continue
                where = f"{type(part).__name__}.{name} {what}"
                try:
                    found = results(again, X)
                except NotFittedError:
                    assert wrong is GONE  # what is left is an object that was never fitted
                    continue
                except Exception as error:
                    problems.append(f"{where}: {type(error).__name__}: {error}")
                    continue
                if not np.isfinite(found).all() or not np.array_equal(found, expected):
                    problems.append(f"{where}: scores differ")
    assert not problems, "\n".join(problems)
    return n


@pytest.mark.parametrize("estimator", cases(TABLE_INSTANCES, "rows"))
def test_wrong_state_is_refused_or_without_effect(estimator, tmp_path):
    model = fitted(estimator, ROWS)
    assert check_wrong_states(model, ROWS[:4] + 0.1, tmp_path) > 20
