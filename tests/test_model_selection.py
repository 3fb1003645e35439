"""Scorers and the one-class splitter."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import GridSearchCV, cross_validate

from pyimgano import model_selection as ms


class Fixed(OutlierMixin, BaseEstimator):
    """Its input is its score (higher = more normal); below 0 is anomalous."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return np.asarray(X, dtype=float)

    def predict(self, X):
        return np.where(self.score_samples(X) < 0, -1, 1)


# four normal (one of them below 0), two anomalous (one of them above 0)
X = np.array([3.0, 2.0, 1.0, -1.0, 0.5, -2.0])
Y = np.array([1, 1, 1, 1, -1, -1])


def test_scorers_by_hand():
    est = Fixed()
    # pairs (normal, anomalous): 0.5 loses to -1 only; -2 is below all: 7 of 8.
    assert ms.anomaly_roc_auc(est, X, Y) == pytest.approx(7 / 8)
    # ranking, worst first: -2 (A), -1, 0.5 (A): precision 1/1 and 2/3.
    assert ms.anomaly_average_precision(est, X, Y) == pytest.approx((1 + 2 / 3) / 2)
    assert ms.false_positive_rate(est, X, Y) == 0.25
    assert ms.neg_false_positive_rate(est, X, Y) == -0.25
    assert ms.true_positive_rate(est, X, Y) == 0.5
    assert ms.balanced_accuracy(est, X, Y) == pytest.approx((0.75 + 0.5) / 2)


SCORERS = [
    ms.anomaly_roc_auc,
    ms.anomaly_average_precision,
    ms.false_positive_rate,
    ms.neg_false_positive_rate,
    ms.true_positive_rate,
    ms.balanced_accuracy,
]


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(
    "labels",
    [np.array([0, 0, 0, 0, 1, 1]), np.array(list("nnnnaa")), np.array([1, 1, 1, 1, -1, 2]), None],
)
def test_other_labels_are_refused_with_a_sentence(scorer, labels):
    with pytest.raises(ValueError, match=r"\+1|shape"):
        scorer(Fixed(), X, labels)


@pytest.mark.parametrize("scorer", SCORERS[:2])
def test_one_class_only_is_refused(scorer):
    with pytest.raises(ValueError, match=r"no anomalous \(-1\) sample"):
        scorer(Fixed(), X, np.ones(6))


def test_scorers_work_in_a_search():
    rng = np.random.RandomState(0)
    data = np.vstack([rng.normal(size=(60, 2)), rng.normal(size=(15, 2)) + 6])
    y = np.r_[np.ones(60), -np.ones(15)].astype(int)
    search = GridSearchCV(
        IsolationForest(random_state=0),
        {"n_estimators": [5, 20]},
        scoring=ms.anomaly_roc_auc,
        cv=ms.OneClassKFold(3),
    ).fit(data, y)
    assert search.best_score_ > 0.9
    results = cross_validate(
        IsolationForest(random_state=0),
        data,
        y,
        cv=ms.OneClassKFold(3),
        scoring={"fpr": ms.false_positive_rate, "tpr": ms.true_positive_rate},
    )
    assert set(results) >= {"test_fpr", "test_tpr"}


def test_one_class_folds():
    y = np.array([1, -1, 1, 1, -1, 1, 1, 1, -1])
    folds = list(ms.OneClassKFold(3).split(np.zeros(9), y))
    assert len(folds) == ms.OneClassKFold(3).get_n_splits() == 3
    tested = np.concatenate([test for _, test in folds])
    for train, test in folds:
        assert (y[train] == 1).all()
        assert set(np.flatnonzero(y == -1)) <= set(test)
        assert not set(train) & set(test)
    np.testing.assert_array_equal(np.sort(tested[y[tested] == 1]), np.flatnonzero(y == 1))


def test_anomalies_can_be_dealt_out():
    y = np.array([1] * 6 + [-1] * 5)
    folds = list(ms.OneClassKFold(3, all_anomalies=False).split(y, y))
    dealt = np.concatenate([test[y[test] == -1] for _, test in folds])
    np.testing.assert_array_equal(np.sort(dealt), np.arange(6, 11))


def test_folds_are_reproducible_and_refuse_too_little():
    y = np.array([1] * 10 + [-1] * 2)
    first, second = (list(ms.OneClassKFold(5).split(y, y)) for _ in range(2))
    for (a, b), (c, d) in zip(first, second):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    with pytest.raises(ValueError, match="at least that many normal"):
        list(ms.OneClassKFold(11).split(y, y))
    with pytest.raises(ValueError, match=r"no normal .* min_resources"):
        list(ms.OneClassKFold(2).split(y[10:], y[10:]))
    with pytest.raises(ValueError, match="needs y"):
        list(ms.OneClassKFold(2).split(y))
