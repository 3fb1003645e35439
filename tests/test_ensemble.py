"""ScoreEnsemble: normalization and combination by hand, named access, recognition, maps."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.features import ColorMoments, FilterBankFeatures
from pyimgano.inference import anomaly_map, infer
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.model_selection import anomaly_roc_auc
from pyimgano.testing import make_check_images


class Column(OutlierMixin, BaseEstimator):
    """Anomaly score = one column; its maps are the score at every one of 2 x 2 pixels."""

    def __init__(self, column=0, maps=True):
        self.column = column
        self.maps = maps

    def fit(self, X, y=None):
        assert (y == 1).all()  # good samples only, and labelled so
        self.training_scores_ = np.asarray(X)[:, self.column] * 1.0
        self.offset_ = 0.0
        return self

    def score_samples(self, X):
        return -np.asarray(X)[:, self.column] * 1.0

    def predict(self, X):
        return np.where(self.score_samples(X) < self.offset_, -1, 1)

    def score_and_map(self, X):
        scores = self.score_samples(X)
        return scores, np.tile(-scores[:, None, None], (1, 2, 2)).astype(np.float32)

    def anomaly_map(self, X):
        return self.score_and_map(X)[1]


def columns(n, **parameters):
    return ScoreEnsemble([(f"c{k}", Column(k)) for k in range(n)], **parameters)


def anomaly(ensemble, X):
    return -ensemble.score_samples(np.asarray(X, dtype=float))


# ---- normalization ----------------------------------------------------------------------
def test_ecdf_is_the_negative_log_share_above_and_goes_on_linearly():
    ensemble = columns(1).fit(np.array([[1.0], [2.0], [3.0], [5.0]]))
    # Ranks 1..4 of 4: -log(1 - k / 5). A training score met exactly is that image itself, so
    # a hair beside it is what shows the scale.
    beside = [[1.0 + 1e-12], [2.0 + 1e-12], [3.0 + 1e-12], [5.0 + 1e-12]]
    expected = -np.log([0.8, 0.6, 0.4, 0.2])
    np.testing.assert_allclose(anomaly(ensemble, beside), expected, atol=1e-10)
    assert anomaly(ensemble, [[2.5]])[0] == pytest.approx(expected[1:3].mean())
    # Median 2.5; mean excess over it (0.5 + 2.5) / 2 = 1.5.
    assert anomaly(ensemble, [[8.0]])[0] == pytest.approx(expected[3] + 3.0 / 1.5)
    assert anomaly(ensemble, [[-2.0]])[0] == pytest.approx(expected[0] - 3.0 / 1.5)


def test_training_scores_are_normalized_by_the_other_images():
    ensemble = columns(1).fit(np.array([[1.0], [2.0], [3.0], [5.0]]))
    third = -np.log([0.75, 0.5, 0.25])  # ranks 1..3 of 3
    expected = [
        third[0] - (2 - 1) / 2.0,  # below 2, 3, 5: median 3, mean excess 2
        third[:2].mean(),  # halfway between 1 and 3
        third[1] + (third[2] - third[1]) * (3 - 2) / (5 - 2),
        third[2] + (5 - 3) / 1.0,  # above 1, 2, 3: median 2, mean excess 1
    ]
    np.testing.assert_allclose(ensemble.training_scores_, expected)


@pytest.mark.parametrize(
    ("normalization", "center", "spread"),
    # Squares 4 1 1 0 16 have the mean 4.4; distances to the median 2, 1 0 0 1 5, the median 1.
    [("z", 3.0, np.sqrt(4.4)), ("robust_z", 2.0, 1.4826)],
)
def test_z_and_robust_z(normalization, center, spread):
    train = np.array([[1.0], [2.0], [2.0], [3.0], [7.0]])
    ensemble = columns(1, normalization=normalization).fit(train)
    assert anomaly(ensemble, [[9.0]])[0] == pytest.approx((9.0 - center) / spread)


@pytest.mark.parametrize("normalization", ["ecdf", "z", "robust_z"])
def test_equal_training_scores_still_order_anomalies(normalization):
    ensemble = columns(1, normalization=normalization).fit(np.full((6, 1), 4.0))
    scores = anomaly(ensemble, [[4.5], [5.0], [50.0]])
    assert np.isfinite(scores).all() and (np.diff(scores) > 0).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=3, max_size=30),
    st.lists(st.integers(-60, 60), min_size=2, max_size=8, unique=True),
    st.sampled_from(["ecdf", "z", "robust_z"]),
)
@example([0.0, 1.0, 2.225073858507203e-309], [1, 2], "robust_z")
@example([1.0, 1.0, 1.0 + 2**-52], [1, 2], "z")
@example([1e-310, 1e-310, 2e-310], [1, 2], "ecdf")
@example([1.8832020801205713] * 7, [1, 2], "z")
def test_one_member_keeps_its_order(train, new, normalization):
    ensemble = columns(1, normalization=normalization).fit(np.array(train)[:, None])
    new = np.sort(np.array(new) + 0.123456789)
    scores = anomaly(ensemble, new[:, None])
    outside = (new > max(train)) | (new < min(train))
    assert (np.diff(scores) >= 0).all()
    assert (np.diff(scores[outside]) > 0).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4),
    st.lists(st.floats(-100, 100), min_size=4, max_size=4),
    st.sampled_from(["ecdf", "z", "robust_z"]),
    st.sampled_from(["mean", "median", "max", "trimmed_mean"]),
)
def test_scores_of_members_on_any_scale_count_alike(stretch, shift, normalization, combination):
    rng = np.random.RandomState(0)
    train, new = rng.normal(size=(40, 4)), rng.normal(size=(20, 4))
    one = columns(4, normalization=normalization, combination=combination).fit(train)
    other = clone(one).fit(train * stretch + shift)
    np.testing.assert_allclose(
        anomaly(other, new * stretch + shift), anomaly(one, new), rtol=1e-6, atol=1e-6
    )


# ---- combination ------------------------------------------------------------------------
def z_of(X, combination, weights=None):
    train = np.array([[-1.0] * X.shape[1], [1.0] * X.shape[1]])  # mean 0, deviation 1
    ensemble = columns(X.shape[1], combination=combination, weights=weights, normalization="z")
    return anomaly(ensemble.fit(train), X)


def test_combinations_by_hand():
    X = np.array([[0.5, 4.0, 3.0, 9.5]])
    assert z_of(X, "mean")[0] == pytest.approx(17.0 / 4)
    assert z_of(X, "median")[0] == pytest.approx(3.5)
    assert z_of(X, "max")[0] == pytest.approx(9.5)
    assert z_of(X, "trimmed_mean")[0] == pytest.approx(3.5)
    assert z_of(X, "mean", [1, 1, 0, 2])[0] == pytest.approx(23.5 / 4)
    assert z_of(X, "median", [5, 1, 1, 1])[0] == pytest.approx(0.5)
    assert z_of(X, "trimmed_mean", [1, 3, 1, 1])[0] == pytest.approx((3 * 4 + 3) / 4)


def test_rank_mean_orders_by_the_mean_rank_and_never_saturates():
    train = np.column_stack([np.arange(1.0, 10), np.arange(1.0, 10)])
    ensemble = columns(2, combination="rank_mean").fit(train)
    scores = anomaly(ensemble, [[2.5, 8.5], [6.5, 6.5], [90.0, 90.0], [900.0, 900.0]])
    # Survival at 6.5 lies between 0.4 and 0.3; the mean of those at 2.5 and 8.5 above 0.4.
    assert 0.3 < np.exp(-scores[1]) < 0.4 < np.exp(-scores[0])
    assert scores[3] > scores[2] > scores[1] > scores[0]


# ---- honest -----------------------------------------------------------------------------
def test_training_samples_get_their_own_score_whoever_comes_along():
    X = np.random.RandomState(0).normal(size=(60, 4))
    members = [
        ("bank", PatchCoreDetector()),
        ("gauss", PaDiMDetector()),
        ("scaled", make_pipeline(StandardScaler(), PatchCoreDetector(coreset_ratio=0.5))),
    ]
    ensemble = ScoreEnsemble(members[:2], contamination=0.1).fit(X)
    np.testing.assert_array_equal(-ensemble.score_samples(X), ensemble.training_scores_)
    np.testing.assert_array_equal(-ensemble.score_samples(X[7:8]), ensemble.training_scores_[7:8])
    assert (ensemble.predict(X) == -1).sum() == 6
    np.testing.assert_array_equal(clone(ensemble).fit_predict(X), ensemble.predict(X))
    assert len(ScoreEnsemble(members).fit(X).training_scores_) == 60


def test_realized_false_positive_rate_is_near_the_target():
    rng = np.random.RandomState(0)
    X, new = rng.normal(size=(300, 4)), rng.normal(size=(2000, 4))
    members = [
        ("bank", PatchCoreDetector(coreset_ratio=0.5)),
        ("gauss", PaDiMDetector()),
        ("forest", IsolationForest(n_estimators=20, random_state=0)),
    ]
    ensemble = ScoreEnsemble(members, contamination=0.1).fit(X)
    assert 0.06 < (ensemble.predict(new) == -1).mean() < 0.14


def test_many_training_images_take_turns():
    X = np.random.RandomState(0).exponential(size=(1000, 1))
    scores = columns(1).fit(X).training_scores_
    # -log of a share that is uniform: an exponential distribution, its mean and median.
    assert scores.mean() == pytest.approx(1.0, abs=0.05)
    assert np.median(scores) == pytest.approx(np.log(2), abs=0.05)


def test_the_calibrator_takes_the_ensembles_own_scores():
    X = np.random.RandomState(0).normal(size=(120, 2))
    calibrator = ThresholdCalibrator(columns(2), quantile=0.9).fit(X)
    assert calibrator.provenance_["scores"] == "the detector's own out-of-sample scores"
    np.testing.assert_array_equal(
        calibrator.calibration_scores_, columns(2).fit(X).training_scores_
    )


def test_known_anomalies_are_left_out_for_every_member():
    X = np.random.RandomState(0).normal(size=(30, 2))
    X[:2] = 99.0
    y = np.where(np.arange(30) < 2, -1, 1)
    expected = columns(2).fit(X[2:])
    fitted = columns(2).fit(X, y)
    np.testing.assert_array_equal(fitted.training_scores_, expected.training_scores_)
    scores = clone(fitted).fit_transform(X, y)[:, 0]
    np.testing.assert_array_equal(scores[:2], anomaly(expected, X[:2]))


# ---- VotingClassifier's manners ---------------------------------------------------------
def test_named_access_drop_and_nested_parameters():
    X = np.random.RandomState(0).normal(size=(40, 3))
    ensemble = columns(3, weights=[1, 2, 3])
    assert ensemble.get_params()["c1__column"] == 1
    ensemble.set_params(c0="drop", c2__column=0).fit(X)
    assert ensemble.named_estimators_["c0"] == "drop"
    assert ensemble.named_estimators_["c2"].column == 0
    assert ensemble.named_estimators["c2"] is ensemble.estimators[2][1]
    assert [m.column for m in ensemble.estimators_] == [1, 0]
    same = ScoreEnsemble([("a", Column(1)), ("b", Column(0))], weights=[2, 3]).fit(X)
    np.testing.assert_array_equal(same.training_scores_, ensemble.training_scores_)


def test_frozen_members_are_used_as_fitted():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(40, 3))
    fitted = PatchCoreDetector().fit(rng.normal(size=(50, 3)))
    bank = fitted.bank_
    ensemble = ScoreEnsemble([("old", FrozenEstimator(fitted)), ("new", PaDiMDetector())]).fit(X)
    assert fitted.bank_ is bank and len(ensemble.training_scores_) == 40
    assert ensemble.score_samples(X[:5]).shape == (5,)


def test_grid_search_over_members_and_combination():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(size=(40, 2)), rng.normal(4, 1, size=(10, 2))])
    y = np.repeat([1, -1], [40, 10])
    grid = {"combination": ["mean", "max"], "c0": ["drop", Column(1)]}
    search = GridSearchCV(columns(2), grid, scoring=anomaly_roc_auc, cv=StratifiedKFold(3))
    search.fit(X, y)
    assert search.best_score_ > 0.9
    assert search.best_estimator_.decision_function(X).shape == (50,)


def test_fits_in_parallel_alike_and_survives_pickling():
    X = np.random.RandomState(0).normal(size=(40, 3))
    one = ScoreEnsemble([("a", PatchCoreDetector()), ("b", PaDiMDetector())]).fit(X)
    with parallel_config(backend="threading"):
        two = clone(one).set_params(n_jobs=2).fit(X)
    new = X[:5] + 0.1
    np.testing.assert_array_equal(one.score_samples(new), two.score_samples(new))
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.score_samples(X), one.score_samples(X))
    assert one.n_features_in_ == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ScoreEnsemble([]), ValueError, "non-empty list"),
        (lambda: ScoreEnsemble([("a", "drop")]), ValueError, "all estimators are dropped"),
        (lambda: ScoreEnsemble([("a", Column()), ("a", Column())]), ValueError, "not unique"),
        (lambda: ScoreEnsemble([("weights", Column())]), ValueError, "conflict"),
        (lambda: ScoreEnsemble([("a", Column)]), TypeError, r"Column\(\.\.\.\)"),
        (lambda: ScoreEnsemble([("a", StandardScaler())]), TypeError, "no outlier detector"),
        (lambda: ScoreEnsemble([("a", LocalOutlierFactor())]), TypeError, "novelty=True"),
        (lambda: columns(2, combination="trimmed_mean"), ValueError, "at least 3"),
        (lambda: columns(2, combination="rank_mean", normalization="z"), ValueError, "ecdf"),
        (lambda: columns(2, combination="max", weights=[1, 2]), ValueError, "no weights"),
        (lambda: columns(2, weights=[1, 2, 3]), ValueError, "each of the 2"),
        (lambda: columns(2, weights=[1, -1]), ValueError, "not negative"),
        (lambda: columns(2, combination="vote"), ValueError, "combination"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make().fit(np.random.RandomState(0).normal(size=(10, 3)))


def test_a_member_without_finite_scores_is_named():
    with pytest.raises(ValueError, match="'c1'"):
        columns(2).fit(np.array([[0.0, 1.0], [1.0, np.nan], [2.0, 3.0]]))


def test_unfitted_is_an_error():
    with pytest.raises(NotFittedError):
        columns(1).score_samples(np.zeros((3, 1)))


# ---- maps -------------------------------------------------------------------------------
def test_maps_go_through_the_same_scale_and_combination():
    X = np.random.RandomState(0).normal(size=(30, 2))
    new = np.array([[0.3, 2.0], [5.0, -4.0]])
    ensemble = columns(2).fit(X)
    scores, maps = ensemble.score_and_map(new)
    np.testing.assert_array_equal(scores, ensemble.score_samples(new))
    assert maps.shape == (2, 2, 2) and maps.dtype == np.float32
    np.testing.assert_allclose(maps[:, 0, 0], -scores, rtol=1e-6)


def test_members_without_maps_have_no_part_in_them():
    X = np.random.RandomState(0).normal(size=(30, 2))
    forest = IsolationForest(n_estimators=5, random_state=0)
    both = ScoreEnsemble([("forest", forest), ("column", Column(1))]).fit(X)
    alone = ScoreEnsemble([("column", Column(1))]).fit(X)
    np.testing.assert_array_equal(both.anomaly_map(X), alone.anomaly_map(X))
    assert not hasattr(ScoreEnsemble([("forest", forest)]), "anomaly_map")


def test_images_pipelines_and_maps_of_a_whole_ensemble():
    bank = FilterBankFeatures(resize=64)
    ensemble = ScoreEnsemble(
        [
            ("bank", PatchCoreDetector(bank, coreset_ratio=0.05)),
            ("gauss", make_pipeline(ImageFormatNormalizer(), PaDiMDetector(bank))),
        ]
    ).fit(make_check_images(12))
    X = np.concatenate(
        [make_check_images(6, random_state=1), make_check_images(6, defect=True, random_state=2)]
    )
    scores, maps = ensemble.score_and_map(X)
    assert roc_auc_score(np.repeat([1, 0], 6), scores) == 1.0
    assert maps.shape == X.shape[:3]
    results = infer(ensemble, X, return_maps=True, batch_size=5)
    np.testing.assert_allclose([result.score for result in results], -scores, rtol=1e-9)
    np.testing.assert_allclose(results[7].anomaly_map, maps[7], rtol=1e-4, atol=1e-4)


def test_maps_of_different_sizes_are_refused_by_name():
    bank = FilterBankFeatures(resize=64)
    resized = make_pipeline(ImageFormatNormalizer(resize=(24, 32)), PatchCoreDetector(bank))
    ensemble = ScoreEnsemble([("full", PatchCoreDetector(bank)), ("small", resized)])
    ensemble.fit(make_check_images(6))
    with pytest.raises(ValueError, match=r"small \(24, 32\)"):
        ensemble.anomaly_map(make_check_images(1, random_state=3))


def test_a_member_that_sees_one_row_of_each_image_has_no_part_in_maps():
    bank = FilterBankFeatures(resize=64)
    rows = make_pipeline(ColorMoments(), StandardScaler(), PaDiMDetector())
    ensemble = ScoreEnsemble([("maps", PatchCoreDetector(bank)), ("rows", rows)])
    images = make_check_images(8)
    maps = ensemble.fit(images).anomaly_map(images[:2])
    alone = ScoreEnsemble([("maps", PatchCoreDetector(bank))]).fit(images)
    np.testing.assert_array_equal(maps, alone.anomaly_map(images[:2]))
    with pytest.raises(TypeError, match="one score per image"):
        anomaly_map(ensemble.estimators_[1], images[:2])
    blind = ScoreEnsemble([("rows", rows)]).fit(images)
    with pytest.raises(TypeError, match="no member"):
        blind.anomaly_map(images[:2])
