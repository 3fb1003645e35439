"""Metrics of many draws at once equal those of one draw at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pyimgano.evaluation import _score_draws, bootstrap_interval, threshold_metrics
from pyimgano.evaluation._resampling import draw_images
from pyimgano.evaluation._score_draws import image_intervals, metrics_of_draws


@pytest.fixture
def images():
    rng = np.random.RandomState(0)
    scores = np.round(rng.normal(size=60), 1)  # with ties
    return scores, np.where(rng.uniform(size=60) < 0.4, -1, 1)


def test_each_draw_has_the_values_of_its_images(images, monkeypatch):
    scores, y = images
    monkeypatch.setattr(_score_draws, "_N_TOGETHER", 60 * 7)  # 7 draws together, then 6
    drawn = metrics_of_draws(scores, y, 0.5, n_resamples=20, random_state=3)
    for k, index in enumerate(draw_images(y, 20, 3)):
        one, anomalous = scores[index], y[index] == -1
        found = threshold_metrics(one, y[index], 0.5)
        confusion = found["confusion"]
        expected = {
            "auroc": roc_auc_score(anomalous, one),
            "average_precision": average_precision_score(anomalous, one),
            "f1": found["f1"],
            "false_positive_rate": confusion["false_positives"] / (~anomalous).sum(),
            "true_positive_rate": found["recall"],
        }
        assert {name: values[k] for name, values in drawn.items()} == pytest.approx(expected)


def test_intervals_are_those_of_bootstrap_interval(images):
    scores, y = images
    found = image_intervals(scores, y, 0.5)
    for name, metric in (
        ("auroc", lambda s, y: roc_auc_score(y == -1, s)),
        ("average_precision", lambda s, y: average_precision_score(y == -1, s)),
        ("f1", lambda s, y: threshold_metrics(s, y, 0.5)["f1"]),
    ):
        assert found[name] == pytest.approx(bootstrap_interval(metric, scores, y))


def test_images_of_one_kind_have_no_intervals():
    assert image_intervals([1.0, 2.0], [1, 1], 0.5) == {
        "auroc": None,
        "average_precision": None,
        "f1": None,
    }
