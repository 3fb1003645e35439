"""Every model of the registry, without weights: gross anomalies, threads, degenerate tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from pyimgano import create_model, list_models
from pyimgano.features import FilterBankFeatures, PatchPooling
from pyimgano.inference import threshold
from pyimgano.testing import make_check_parts, make_gross_anomalies
from tests.instances import TABLE_INSTANCES

pytestmark = [
    pytest.mark.usefixtures("metrics_kept"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
]

OF_PYOD = list_models(tags="pyod")
# Those that train networks have these checks in tests/test_common.py, with tiny ones.
TRAINED = list_models(family="trained network")
OTHERS = [name for name in list_models() if name not in (*OF_PYOD, *TRAINED)]
# What a model needs for 20 images; of the slowest forest, fewer trees do.
FOR_FEW_IMAGES = {"vision_sampling": {"subset_size": 10}, "vision_inne": {"n_estimators": 20}}
# For degenerate tables: that a score is no number would show in any tree.
FOR_FEW_ROWS = {
    "vision_sampling": {"subset_size": 10},
    "vision_iforest": {"n_estimators": 10},
    "vision_inne": {"n_estimators": 10},
}
STRANGERS = make_gross_anomalies()


def check(model, train, strangers, good):
    """Fit, and score one by one, in turn and from four threads."""
    model.fit(train)
    samples = [*np.split(strangers, len(strangers)), *np.split(good, len(good))]
    in_turn = [model.score_samples(sample)[0] for sample in samples]
    with ThreadPoolExecutor(4) as pool:
        at_once = [scores[0] for scores in pool.map(model.score_samples, samples)]
    assert at_once == in_turn
    passed = [name for name, label in zip(STRANGERS, model.predict(strangers)) if label != -1]
    assert not passed, f"passed as good: {passed}"


@pytest.mark.parametrize("name", OTHERS)
def test_gross_anomalies_are_flagged_from_any_thread(name):
    model = create_model(name)
    if "features" in model.get_params() and name not in ("embedded", "industrial-fast-imagenet"):
        model.set_params(features=FilterBankFeatures(resize=64))
    strangers = np.stack(list(STRANGERS.values()))
    check(model, make_check_parts(20), strangers, make_check_parts(4, random_state=1))


@pytest.fixture(scope="module")
def rows():
    """Rows of 20 parts, of what is none, and of four new parts."""
    steps = make_pipeline(FilterBankFeatures(resize=64), PatchPooling("max"))
    train = steps.fit_transform(make_check_parts(20))
    strangers = steps.transform(np.stack(list(STRANGERS.values())))
    return train, strangers, steps.transform(make_check_parts(4, random_state=1))


@pytest.mark.parametrize("name", OF_PYOD)
def test_gross_anomalies_as_rows_are_flagged_from_any_thread(name, rows):
    check(create_model(name, **FOR_FEW_IMAGES.get(name, {}))[-1], *rows)


def normal(n, seed=0):
    return np.random.RandomState(seed).normal(size=(n, 4))


def degenerate_tables():
    X = normal(30)
    constant, outlier, mostly = X.copy(), X.copy(), np.zeros_like(X)
    constant[:, 1:] = 5.0
    outlier[-1] = 1e300
    mostly[-1] = 1.0
    return {
        "one column constant": np.c_[X[:, :3], np.ones(30)],
        "one column varies": constant,
        "five different rows": np.repeat(X[:5], 6, axis=0),
        "two different rows": np.repeat(X[:2], 15, axis=0),
        "one row differs": mostly,
        "three rows": X[:3],
        "four rows": X[:4],
        "whole numbers": np.round(X),
        "one direction": X[:, :1] * np.arange(1, 5),
        "far from the origin": X * 1e-9 + 1e6,
        "tiny": X * 1e-300,
        "small": X * 1e-12,
        "large": X * 3e38,
        "huge": X * 1e300,
        "one huge outlier": outlier,
    }


DETECTORS = [
    pytest.param(instance, id=f"{name}-{i}")
    for name, several in TABLE_INSTANCES.items()
    if name not in ("PyODDetector", "PyODView")
    for i, instance in enumerate(several)
]
MODELS = [
    pytest.param(create_model(name, detector__cv=3, **FOR_FEW_ROWS.get(name, {}))[-1], id=name)
    for name in OF_PYOD
]


@pytest.mark.parametrize("table", degenerate_tables())
@pytest.mark.parametrize("detector", [*MODELS, *DETECTORS])
def test_no_threshold_and_no_verdict_is_nan(detector, table):
    try:
        detector = clone(detector).fit(degenerate_tables()[table])
    except ValueError as error:  # refused, with a reason
        assert len(str(error)) > 30
        return
    assert np.isfinite(threshold(detector))
    assert np.isfinite(getattr(detector, "training_scores_", 0.0)).all()
    # In three blocks: what is refused of one is scored of the others.
    for rows in (normal(3, seed=1), np.full((1, 4), 50.0), np.full((1, 4), 1e300)):
        try:
            scores = detector.score_samples(rows)
        except ValueError:
            continue
        assert not np.isnan(scores).any()


@pytest.mark.parametrize("detector", [*MODELS, *DETECTORS])
def test_some_degenerate_tables_are_learned_from(detector):
    fitted = clone(detector).fit(degenerate_tables()["whole numbers"])
    assert np.isfinite(fitted.offset_)
