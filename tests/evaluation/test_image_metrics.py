"""Metrics of scores and verdicts against hand-worked values and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from pyimgano.evaluation import (
    bootstrap_interval,
    fpr_at_tpr,
    image_metrics,
    oracle_f1_max,
    rate,
    threshold_metrics,
)

NAMES = ["auroc", "average_precision", "fpr_at_95_tpr", "oracle_f1_max"]


@st.composite
def scores_and_labels(draw):
    n = draw(st.integers(2, 12))
    scores = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    labels = draw(st.lists(st.sampled_from([1, -1]), min_size=n - 2, max_size=n - 2))
    return np.array(scores, dtype=float), np.array([1, -1, *labels])


def test_image_metrics_count_anomalies_as_positives():
    assert image_metrics([1, 2, 3, 4], [1, 1, -1, -1]) == dict(zip(NAMES, [1.0, 1.0, 0.0, 1.0]))
    assert image_metrics([4, 3, 2, 1], [1, 1, -1, -1])["auroc"] == 0.0
    assert image_metrics([4, 3, 2, 1], [1, 1, -1, -1])["fpr_at_95_tpr"] == 1.0


def test_image_metrics_of_one_kind_are_undefined():
    assert image_metrics([1.0, 2.0], [1, 1]) == dict.fromkeys(NAMES)
    for metric in (fpr_at_tpr, oracle_f1_max):
        with pytest.raises(ValueError, match=r"y holds no anomalous \(-1\) image"):
            metric([1.0, 2.0], [1, 1])


def test_image_metrics_refuse_other_labels_and_nan():
    with pytest.raises(ValueError, match=r"\+1 \(normal\) and -1"):
        image_metrics([1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"scores\[1\] is NaN"):
        image_metrics([1, np.nan], [1, -1])


@settings(max_examples=25, deadline=None)
@given(scores_and_labels(), st.sampled_from([0.05, 0.5, 0.95, 1.0]), st.integers(-1, 6))
def test_image_metrics_equal_definitions(data, recall, threshold):
    scores, y = data
    anomalous = y == -1
    found = image_metrics(scores, y)
    assert found["auroc"] == pytest.approx(roc_auc_score(anomalous, scores), abs=1e-12)
    precision = average_precision_score(anomalous, scores)
    assert found["average_precision"] == pytest.approx(precision, abs=1e-12)
    cuts = np.unique(scores)
    enough = [cut for cut in cuts if np.mean(scores[anomalous] >= cut) >= recall]
    expected = np.mean(scores[~anomalous] >= max(enough))
    assert fpr_at_tpr(scores, y, true_positive_rate=recall) == pytest.approx(expected, abs=1e-12)
    best = oracle_f1_max(scores, y)
    f1 = [f1_score(anomalous, scores >= cut) for cut in cuts]
    assert best["f1"] == pytest.approx(max(f1), abs=1e-12)
    at_best = f1_score(anomalous, scores >= best["lowest_anomalous_score"])
    assert at_best == pytest.approx(best["f1"], abs=1e-12)
    at = threshold_metrics(scores, y, threshold)
    assert at["f1"] == pytest.approx(f1_score(anomalous, scores > threshold), abs=1e-12)
    assert at["f1"] <= best["f1"] + 1e-12
    assert image_metrics(1e6 * scores + 1e6, y) == found


def test_scikit_learns_false_positive_rate_at_95_percent():
    rng = np.random.RandomState(0)
    scores, y = (
        np.append(rng.normal(0, 1, 200), rng.normal(1, 1, 100)),
        np.repeat([1, -1], [200, 100]),
    )
    fpr, tpr, _ = roc_curve(y == -1, scores)
    assert fpr_at_tpr(scores, y) == fpr[tpr >= 0.95].min()
    assert tpr[tpr >= 0.95].min() == 0.95  # 95 of 100 are enough


def test_verdicts_at_a_threshold():
    found = threshold_metrics([1, 2, 3, 2, 3, 3], [1, 1, 1, -1, -1, -1], threshold=2)
    assert found["confusion"] == {
        "true_negatives": 2,
        "false_positives": 1,
        "false_negatives": 1,
        "true_positives": 2,
    }
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(2 / 3)
    nothing = threshold_metrics([1, 2], [1, 1], threshold=5)
    assert [nothing[k] for k in ("f1", "precision", "recall")] == [None, None, None]
    assert nothing["confusion"]["true_negatives"] == 2
    with pytest.raises(ValueError, match="threshold must be a number, got nan"):
        threshold_metrics([1, 2], [1, 1], float("nan"))


def test_bootstrap_draws_images_of_each_kind():
    seen = set()

    def metric(scores, y):
        assert (y == 1).sum() == 3 and (y == -1).sum() == 2
        # scores say which image they belong to
        assert set(scores[y == 1]) <= {0, 1, 2} and set(scores[y == -1]) <= {10, 11}
        seen.update(scores)
        return scores.mean()

    assert bootstrap_interval(metric, [0, 10, 1, 11, 2], [1, -1, 1, -1, 1], n_resamples=50)
    assert seen == {0, 1, 2, 10, 11}


def test_bootstrap_interval_is_that_of_the_mean():
    rng = np.random.RandomState(0)
    scores, y = rng.normal(5, 2, 400), np.ones(400, dtype=int)
    low, high = bootstrap_interval(lambda s, _: s.mean(), scores, y, n_resamples=2000)
    half = 1.96 * scores.std() / 20  # the central limit theorem's
    assert low == pytest.approx(scores.mean() - half, abs=0.02)
    assert high == pytest.approx(scores.mean() + half, abs=0.02)


def test_bootstrap_is_seeded_and_leaves_the_global_generator_alone():
    rng = np.random.RandomState(1)
    scores, y = rng.normal(size=40), np.repeat([1, -1], 20)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, again, other = (
        bootstrap_interval(lambda s, _: s.mean(), scores, y, n_resamples=50, random_state=seed)
        for seed in (3, 3, 4)
    )
    assert one == again != other
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    wide = bootstrap_interval(fpr_at_tpr, scores, y, n_resamples=50, confidence_level=0.99)
    narrow = bootstrap_interval(fpr_at_tpr, scores, y, n_resamples=50, confidence_level=0.5)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert wide != narrow


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence_level": 95}, "0.95 for 95 %"),
        ({"n_resamples": 0}, "n_resamples=0 must be an int of at least 1"),
        ({"metric": lambda s, y: np.nan}, "metric returned NaN for 5 of 5 draws"),
        ({"y": [0, 1]}, r"\+1 \(normal\) and -1"),
    ],
)
def test_bootstrap_refuses(options, message):
    arguments = {"metric": fpr_at_tpr, "scores": [1, 2], "y": [1, -1], "n_resamples": 5, **options}
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_rate_has_clopper_pearsons_interval():
    # the "rule of three" and its mirror image: 1 - 0.025 ** (1 / 20)
    assert rate(0, 20)["interval_95"] == pytest.approx([0, 1 - 0.025 ** (1 / 20)])
    assert rate(20, 20)["interval_95"] == pytest.approx([0.025 ** (1 / 20), 1])
    assert rate(1, 4)["value"] == 0.25
    assert rate(0, 0) == {"value": None, "interval_95": None, "count": 0, "n": 0}
    with pytest.raises(ValueError, match="must lie between 0 and n=3"):
        rate(4, 3)
