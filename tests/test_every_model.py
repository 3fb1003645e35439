"""Every model of the registry, without weights: gross anomalies, and threads that share it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from pyimgano import create_model, list_models
from pyimgano.features import FilterBankFeatures, PatchPooling
from pyimgano.testing import make_check_parts, make_gross_anomalies

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")

OF_PYOD = list_models(tags="pyod")
OTHERS = [name for name in list_models() if name not in OF_PYOD]
# What a model needs for 20 images.
FOR_FEW_IMAGES = {"vision_sampling": {"subset_size": 10}}
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
