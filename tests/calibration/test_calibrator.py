"""ThresholdCalibrator: order statistics by hand, sources of scores, reachability."""

from __future__ import annotations

import pickle
import re
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, genpareto
from sklearn import config_context
from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from pyimgano.calibration import ThresholdCalibrator, out_of_sample_scores
from pyimgano.detectors import PatchCoreDetector
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import anomaly_scores, infer, threshold
from pyimgano.interop import as_pyod
from pyimgano.model_selection import (
    OneClassKFold,
    anomaly_average_precision,
    anomaly_roc_auc,
    balanced_accuracy,
    neg_false_positive_rate,
    true_positive_rate,
)
from pyimgano.persistence import load, save
from pyimgano.testing import make_check_images


def column(values):
    return np.asarray(values, dtype=float).reshape(-1, 1)


class CountingDetector(OutlierMixin, TransformerMixin, BaseEstimator):
    """Score = the first feature; counts its fits through all clones and copies."""

    fits = 0

    def fit(self, X, y=None):
        type(self).fits += 1
        self.training_scores_ = np.asarray(X)[:, 0] * 1.0
        self.offset_ = 0.0
        return self

    def score_samples(self, X):
        return -np.asarray(X)[:, 0] * 1.0

    def predict(self, X):
        return np.where(self.score_samples(X) < self.offset_, -1, 1)


# ---- the threshold itself ---------------------------------------------------------------
def test_conformal_takes_the_order_statistic():
    # (99 + 1) * 0.95 = 95: the 95th smallest of 1..99.
    calibrator = ThresholdCalibrator(quantile=0.95).fit(column(range(1, 100)))
    assert calibrator.threshold_ == pytest.approx(95, rel=1e-14)
    assert calibrator.offset_ == -calibrator.threshold_
    assert calibrator.expected_false_positive_rate_ == pytest.approx(0.05)
    np.testing.assert_array_equal(
        calibrator.predict(column([94, 94.999, 95.001, 96])), [1, 1, -1, -1]
    )
    np.testing.assert_allclose(
        calibrator.false_positive_rate_interval_, beta.ppf([0.025, 0.975], 5, 95)
    )


def test_conformal_rounds_the_rank_up():
    # 101 * 0.95 = 95.95 -> the 96th of 100, expected rate 5 / 101.
    calibrator = ThresholdCalibrator(quantile=0.95).fit(column(range(1, 101)))
    assert calibrator.threshold_ == pytest.approx(96, rel=1e-14)
    assert calibrator.expected_false_positive_rate_ == pytest.approx(5 / 101)


def test_too_few_images_say_what_they_support():
    with pytest.warns(TooFewImagesWarning, match=r"9 good images .* 10.00% at best, 0.50%.* 199"):
        calibrator = ThresholdCalibrator(quantile=0.995).fit(column(range(9)))
    assert calibrator.threshold_ == pytest.approx(8)
    assert calibrator.expected_false_positive_rate_ == pytest.approx(0.1)
    assert calibrator.provenance_["lowest_supported_rate"] == pytest.approx(0.1)


def test_exactly_enough_images_do_not_warn(recwarn):
    ThresholdCalibrator(quantile=0.995).fit(column(range(199)))
    assert not [w for w in recwarn if issubclass(w.category, TooFewImagesWarning)]


def test_a_calibration_image_is_judged_as_without_itself():
    calibrator = ThresholdCalibrator(quantile=0.9).fit(column(range(1, 20)))  # k = 18
    assert calibrator.predict(column([18]))[0] == -1
    assert calibrator.p_value(column([18]))[0] == pytest.approx(2 / 20)
    assert calibrator.predict(column([17]))[0] == 1


def test_ties_at_the_threshold_pass():
    calibrator = ThresholdCalibrator(quantile=0.9).fit(column([5.0] * 30))
    assert (calibrator.predict(column([5.0] * 4)) == 1).all()
    assert calibrator.threshold_ == 5.0


scores = st.lists(st.integers(-50, 50), min_size=3, max_size=60)


@given(scores, st.lists(st.integers(-55, 55), min_size=1, max_size=20), st.floats(0.3, 0.97))
def test_verdict_and_p_value_agree(known, new, quantile):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewImagesWarning)
        calibrator = ThresholdCalibrator(quantile=quantile).fit(column(known))
    level = max(1 - quantile, 1 / (len(known) + 1))
    X = column(list(new) + known)
    expected = calibrator.p_value(X) <= level * (1 + 1e-12)
    np.testing.assert_array_equal(calibrator.predict(X) == -1, expected)


@given(scores, st.floats(-1e3, 1e3), st.floats(0.1, 10))
def test_threshold_moves_with_the_scores(known, shift, scale):
    a = ThresholdCalibrator(quantile=0.6, method="quantile").fit(column(known))
    b = ThresholdCalibrator(quantile=0.6, method="quantile").fit(column(known) * scale + shift)
    assert b.threshold_ == pytest.approx(a.threshold_ * scale + shift, rel=1e-9, abs=1e-9)


def test_quantile_method_is_the_empirical_quantile():
    values = np.random.RandomState(0).exponential(size=150)
    calibrator = ThresholdCalibrator(method="quantile", quantile=0.98).fit(column(values))
    assert calibrator.threshold_ == np.quantile(values, 0.98)


def test_pot_extrapolates_a_known_tail():
    rng = np.random.RandomState(0)
    values = genpareto.rvs(0.1, scale=2.0, size=4000, random_state=rng)
    calibrator = ThresholdCalibrator(method="pot", quantile=0.9999).fit(column(values))
    # The true 0.9999 quantile; 4000 images alone end at about 0.99975.
    assert calibrator.threshold_ == pytest.approx(genpareto.ppf(0.9999, 0.1, scale=2), rel=0.25)
    low, high = calibrator.false_positive_rate_interval_
    assert low < 1e-4 < high
    assert calibrator.expected_false_positive_rate_ == pytest.approx(1e-4)


def test_pot_inside_the_body_is_the_quantile():
    values = np.random.RandomState(0).normal(size=200)
    pot = ThresholdCalibrator(method="pot", quantile=0.8).fit(column(values))
    assert pot.threshold_ == np.quantile(values, 0.8)


def test_pot_needs_a_tail():
    with pytest.raises(TooFewImagesError, match=r"needs 10 .* n_samples=60 .* at least 91"):
        ThresholdCalibrator(method="pot").fit(column(range(60)))
    ThresholdCalibrator(method="pot").fit(column(range(91)))


@pytest.mark.parametrize("method", ["conformal", "quantile", "pot"])
def test_realized_rate_is_the_target(method):
    rng = np.random.RandomState(1)
    rates = []
    for _ in range(80 if method == "pot" else 200):  # fitting a tail takes its time
        known, new = rng.gamma(2.0, size=200), rng.gamma(2.0, size=500)
        calibrator = ThresholdCalibrator(method=method, quantile=0.95).fit(column(known))
        rates.append(np.mean(calibrator.predict(column(new)) == -1))
    assert np.mean(rates) == pytest.approx(0.05, abs=0.006)


def test_interval_covers_the_true_rate():
    rng = np.random.RandomState(2)
    covered = []
    for _ in range(400):
        calibrator = ThresholdCalibrator(quantile=0.9).fit(column(rng.uniform(size=80)))
        low, high = calibrator.false_positive_rate_interval_
        covered.append(low <= 1 - calibrator.threshold_ <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_several_score_columns_count_by_the_largest():
    X = np.array([[1.0, 5.0], [4.0, 2.0], [3.0, 3.0]])
    calibrator = ThresholdCalibrator(quantile=0.5).fit(X)
    np.testing.assert_array_equal(calibrator.calibration_scores_, [5, 4, 3])


# ---- where the scores come from ---------------------------------------------------------
def rows(n=120, seed=0):
    return np.random.RandomState(seed).normal(size=(n, 4))


def test_auto_takes_the_detectors_own_scores_with_one_fit():
    CountingDetector.fits = 0
    X = rows()
    calibrator = ThresholdCalibrator(CountingDetector(), quantile=0.9).fit(X)
    assert CountingDetector.fits == 1
    np.testing.assert_array_equal(calibrator.calibration_scores_, X[:, 0])
    assert "own" in calibrator.provenance_["scores"]


def test_auto_looks_through_steps_that_learn_nothing():
    CountingDetector.fits = 0
    pipe = make_pipeline(FunctionTransformer(), CountingDetector())
    ThresholdCalibrator(pipe, quantile=0.9).fit(rows())
    assert CountingDetector.fits == 1


def test_auto_folds_when_an_earlier_step_has_learned_from_the_images():
    CountingDetector.fits = 0
    pipe = make_pipeline(StandardScaler(), CountingDetector())
    calibrator = ThresholdCalibrator(pipe, quantile=0.9).fit(rows())
    assert CountingDetector.fits == 6
    assert calibrator.provenance_["scores"] == "5 folds"


def test_auto_folds_for_a_detector_without_own_scores():
    X, forest = rows(), IsolationForest(n_estimators=20, random_state=0)
    calibrator = ThresholdCalibrator(forest, quantile=0.9).fit(X)
    expected = np.empty(len(X))
    for train, test in KFold(5, shuffle=True, random_state=0).split(X):
        expected[test] = -forest.fit(X[train]).score_samples(X[test])
    np.testing.assert_allclose(calibrator.calibration_scores_, expected)


def test_int_and_splitter_and_pairs_give_folds():
    X = rows(30)
    for cv in (3, KFold(3), list(KFold(3).split(X))):
        CountingDetector.fits = 0
        calibrator = ThresholdCalibrator(CountingDetector(), cv=cv, quantile=0.9).fit(X)
        assert CountingDetector.fits == 4
        np.testing.assert_array_equal(calibrator.calibration_scores_, X[:, 0])


def test_prefit_does_not_fit_and_scores_what_it_is_given():
    detector = CountingDetector().fit(rows())
    CountingDetector.fits = 0
    held_out = rows(seed=1)
    calibrator = ThresholdCalibrator(detector, cv="prefit", quantile=0.9).fit(held_out)
    assert CountingDetector.fits == 0
    assert calibrator.estimator_ is not detector
    np.testing.assert_array_equal(calibrator.calibration_scores_, held_out[:, 0])


@pytest.mark.parametrize("before", [[], [StandardScaler()]])
def test_prefit_judges_by_what_the_estimator_was_when_it_was_calibrated(before):
    estimator = make_pipeline(*before, PatchCoreDetector(coreset_ratio=0.5)).fit(rows())
    calibrator = ThresholdCalibrator(estimator, cv="prefit", quantile=0.9).fit(rows(seed=1))
    expected, p_values = calibrator.score_samples(rows(seed=2)), calibrator.p_value(rows(seed=2))
    estimator.fit(rows(seed=3) + 100)
    np.testing.assert_array_equal(calibrator.score_samples(rows(seed=2)), expected)
    np.testing.assert_array_equal(calibrator.p_value(rows(seed=2)), p_values)
    assert (clone(calibrator).estimator is not estimator) and calibrator.estimator is estimator


def test_a_frozen_model_is_not_copied_even_with_prefit():
    frozen = FrozenEstimator(PatchCoreDetector().fit(rows()))
    calibrator = ThresholdCalibrator(frozen, cv="prefit", quantile=0.9).fit(rows(seed=1))
    assert calibrator.estimator_ is frozen


def test_frozen_model_is_scored_not_fitted():
    detector = CountingDetector().fit(rows())
    CountingDetector.fits = 0
    held_out = rows(seed=1)
    calibrator = ThresholdCalibrator(FrozenEstimator(detector), quantile=0.9).fit(held_out)
    assert CountingDetector.fits == 0
    np.testing.assert_array_equal(calibrator.calibration_scores_, held_out[:, 0])


def test_prefit_on_the_training_images_is_still_honest():
    X = rows()
    detector = PatchCoreDetector(coreset_ratio=1.0).fit(X)
    calibrator = ThresholdCalibrator(detector, cv="prefit", quantile=0.95).fit(X)
    new = calibrator.predict(rows(2000, seed=3))
    assert np.mean(new == -1) < 0.12  # in-sample scores of a full bank are 0: 100 %


def test_known_anomalies_are_left_out():
    X = np.vstack([rows(), rows(5, seed=2) + 50])
    y = np.r_[np.ones(120, int), -np.ones(5, int)]
    with_anomalies = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(X, y)
    without = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(X[:120])
    assert with_anomalies.threshold_ == without.threshold_


def test_last_step_after_a_detector():
    X = rows(200)
    detector = PatchCoreDetector()
    pipe = make_pipeline(detector, ThresholdCalibrator(quantile=0.95)).fit(X)
    np.testing.assert_array_equal(pipe[-1].calibration_scores_, detector.fit(X).training_scores_)
    nested = ThresholdCalibrator(PatchCoreDetector(), quantile=0.95).fit(X)
    assert pipe[-1].threshold_ == nested.threshold_
    np.testing.assert_array_equal(pipe.predict(rows(50, 1)), nested.predict(rows(50, 1)))
    assert threshold(pipe) == nested.threshold_
    np.testing.assert_array_equal(
        anomaly_scores(pipe, rows(9, 1)), anomaly_scores(nested, rows(9, 1))
    )


def test_grid_over_quantiles_fits_the_detector_once_per_fold(tmp_path):
    X = np.vstack([rows(60), rows(12, seed=1) + 4])
    y = np.r_[np.ones(60, int), -np.ones(12, int)]
    CountingDetector.fits = 0
    search = GridSearchCV(
        ThresholdCalibrator(CountingDetector(), memory=str(tmp_path)),
        {"quantile": [0.7, 0.8, 0.9, 0.92, 0.95]},
        cv=StratifiedKFold(3),
        scoring=anomaly_roc_auc,
    ).fit(X, y)
    assert CountingDetector.fits <= 4
    assert search.cv_results_["mean_test_score"].shape == (5,)


# ---- the wrapped estimator stays reachable ----------------------------------------------
def test_attributes_and_methods_of_the_detector_are_reachable():
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(rows())
    assert calibrator.bank_.shape == (12, 4)
    assert calibrator.anomaly_map(rows(3)).shape == (3, 1, 1)
    assert calibrator.transform(rows(3)).shape == (3, 1)
    assert calibrator.n_features_in_ == 4
    assert not hasattr(calibrator, "coreset_ratio")  # a parameter of the detector, not ours
    assert not hasattr(ThresholdCalibrator(PatchCoreDetector()), "bank_")


def test_nested_parameters_are_set():
    calibrator = ThresholdCalibrator(make_pipeline(FunctionTransformer(), PatchCoreDetector()))
    calibrator.set_params(estimator__patchcoredetector__coreset_ratio=0.5)
    assert calibrator.fit(rows()).estimator_[-1].bank_.shape == (60, 4)


def test_pickle_keeps_the_verdicts():
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(rows())
    loaded = pickle.loads(pickle.dumps(calibrator))
    np.testing.assert_array_equal(loaded.p_value(rows(9, 1)), calibrator.p_value(rows(9, 1)))
    assert loaded.provenance_ == calibrator.provenance_


def test_provenance_is_plain_json():
    import json

    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(rows())
    assert json.loads(json.dumps(calibrator.provenance_)) == calibrator.provenance_


# ---- refusals ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "wrong", [{"quantile": 1.0}, {"quantile": 0}, {"method": "max"}, {"cv": 1}, {"cv": "best"}]
)
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ThresholdCalibrator(**wrong).fit(column(range(30)))


def test_scores_that_are_not_finite_are_refused():
    class Broken(CountingDetector):
        def fit(self, X, y=None):
            super().fit(X)
            self.training_scores_[3] = np.nan
            return self

    with pytest.raises(ValueError, match="1 of 120 calibration scores"):
        ThresholdCalibrator(Broken()).fit(rows())


def test_one_good_image_is_too_few():
    with pytest.raises(TooFewImagesError, match="n_samples=1"):
        ThresholdCalibrator().fit(column([1.0, 2.0]), [1, -1])


# ---- whose out-of-sample scores ---------------------------------------------------------
def test_a_calibrated_detector_is_scored_by_its_calibration_scores():
    X = np.random.RandomState(0).normal(size=(40, 3))
    calibrated = ThresholdCalibrator(make_pipeline(StandardScaler(), PatchCoreDetector()), cv=4)
    fitted, scores, _ = out_of_sample_scores(calibrated.set_params(quantile=0.9), X)
    np.testing.assert_array_equal(scores, fitted.calibration_scores_)


def test_scores_a_frozen_model_keeps_of_other_images_are_not_taken():
    rng = np.random.RandomState(0)
    frozen = FrozenEstimator(PatchCoreDetector().fit(rng.normal(size=(30, 3))))
    passthrough = FunctionTransformer()
    X = rng.normal(size=(20, 3))
    for estimator in (frozen, make_pipeline(passthrough, frozen)):
        _, scores, _ = out_of_sample_scores(estimator, X)
        np.testing.assert_allclose(scores, -frozen.score_samples(X))


def test_folds_must_test_every_image_once():
    with pytest.raises(ValueError, match="every sample exactly once"):
        ThresholdCalibrator(CountingDetector(), cv=ShuffleSplit(4, test_size=0.5)).fit(rows(40))


def test_a_fitted_calibrator_does_not_offer_the_fits_of_its_detector():
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(rows())
    assert not hasattr(calibrator, "fit_transform")
    before = calibrator.predict(rows(9, 1))
    np.testing.assert_array_equal(calibrator.predict(rows(9, 1)), before)


def test_maps_through_a_pipeline_inside():
    pipe = make_pipeline(FunctionTransformer(), PatchCoreDetector())
    calibrator = ThresholdCalibrator(pipe, quantile=0.9).fit(rows())
    assert calibrator.anomaly_map(rows(3)).shape == (3, 1, 1)
    samples, maps = calibrator.score_and_map(rows(3, 1))
    np.testing.assert_array_equal(samples, calibrator.score_samples(rows(3, 1)))
    assert maps.shape == (3, 1, 1)
    alone = ThresholdCalibrator(quantile=0.5).fit(column(range(9)))
    with pytest.raises(TypeError, match="makes no anomaly maps"):
        alone.anomaly_map(column([1.0]))


def test_memory_notices_a_changed_file(tmp_path):
    from pyimgano.features import FilterBankFeatures
    from pyimgano.testing import make_check_images

    paths = [str(tmp_path / f"{i}.png") for i in range(6)]

    def write(images):
        for path, image in zip(paths, images):
            with open(path, "wb") as file:
                file.write(cv2.imencode(".png", image)[1].tobytes())

    calibrator = ThresholdCalibrator(
        PatchCoreDetector(FilterBankFeatures(resize=64)), quantile=0.5, memory=str(tmp_path / "m")
    )
    write(make_check_images(6))
    first = calibrator.fit(paths).threshold_
    write(make_check_images(6, defect=True, random_state=9))
    assert calibrator.fit(paths).threshold_ != first


# ---- the threshold by hand, and parameters changed after fit -----------------------------
def test_a_threshold_set_by_hand_counts_everywhere():
    X = column(range(1, 101))
    calibrator = ThresholdCalibrator(quantile=0.95).fit(X)
    calibrator.threshold_ = 30
    assert (calibrator.threshold_, calibrator.offset_, threshold(calibrator)) == (30, -30, 30)
    np.testing.assert_array_equal(calibrator.predict(column([29, 30, 31])), [1, 1, -1])
    np.testing.assert_array_equal(calibrator.decision_function(column([29, 31])), [1, -1])
    results = infer(calibrator, column([30, 31]))
    assert [(r.threshold, r.label) for r in results] == [(30, 1), (30, -1)]
    assert calibrator.expected_false_positive_rate_ == pytest.approx(71 / 101)
    assert calibrator.provenance_["method"] == "set by hand"
    assert calibrator.provenance_["threshold"] == 30
    loaded = pickle.loads(pickle.dumps(calibrator))
    assert (loaded.threshold_, loaded.provenance_) == (30, calibrator.provenance_)
    calibrator.offset_ = -0.5
    assert (calibrator.threshold_, calibrator.expected_false_positive_rate_) == (0.5, 1.0)
    for wrong in (np.nan, np.inf, "30", None):
        with pytest.raises(ValueError, match=r"finite number|by hand"):
            calibrator.threshold_ = wrong
    assert calibrator.fit(X).threshold_ == pytest.approx(96)
    assert calibrator.provenance_["method"] == "conformal"
    with pytest.raises(NotFittedError):
        ThresholdCalibrator().threshold_ = 1.0
    for name in ("threshold_", "offset_"):
        for unfitted in (ThresholdCalibrator(), ThresholdCalibrator(PatchCoreDetector())):
            with pytest.raises(NotFittedError, match=f"not fitted and has no {name}. Call fit"):
                getattr(unfitted, name)
    assert not hasattr(ThresholdCalibrator(), "offset_")


def test_a_calibrator_of_an_earlier_version_keeps_its_offset():
    calibrator = ThresholdCalibrator(quantile=0.95).fit(column(range(1, 101)))
    old = {**calibrator.__getstate__(), "offset_": -42.0}  # it could be set apart then
    loaded = ThresholdCalibrator.__new__(ThresholdCalibrator)
    loaded.__setstate__(old)
    assert (loaded.offset_, loaded.threshold_) == (-42.0, 42.0)


@pytest.mark.parametrize("change", [{"cv": 3}, {"estimator__n_neighbors": 2}])
def test_parameters_set_after_fit_are_said_to_wait(change):
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.95).fit(rows())
    before = calibrator.threshold_
    with pytest.warns(UserWarning, match=rf"{next(iter(change))} .*next fit.*set_threshold"):
        calibrator.set_params(**change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a parameter that waits
        assert calibrator.threshold_ == before


@pytest.mark.parametrize(("name", "value"), [("cv", 3), ("estimator", None)])
def test_parameters_assigned_after_fit_are_said_to_wait(name, value):
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.95).fit(rows())
    expected = calibrator.predict(rows(seed=1))
    setattr(calibrator, name, value)
    for use in (
        lambda: calibrator.predict(rows(seed=1)),
        lambda: np.where(calibrator.decision_function(rows(seed=1)) < 0, -1, 1),
        lambda: [result.label for result in infer(calibrator, rows(seed=1))],
    ):
        with pytest.warns(UserWarning, match=rf"changed after fit \({name}\).*next fit"):
            np.testing.assert_array_equal(use(), expected)
    calibrator.threshold_ = 1.0  # no parameter is behind it any more
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrator.predict(rows(seed=1))


def test_parameters_that_change_nothing_or_are_set_before_fit_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.95).fit(rows())
        calibrator.set_params(quantile=0.95, n_jobs=1, memory=None)
        clone(calibrator).set_params(quantile=0.9)
        GridSearchCV(
            calibrator, {"quantile": [0.8, 0.9]}, scoring=neg_false_positive_rate, cv=2
        ).fit(rows(), np.ones(120, int))


def test_a_parameter_of_no_estimator_cannot_be_set():
    for estimator in (None, "vision_patchcore"):
        with pytest.raises(ValueError, match=r"estimator__n_neighbors cannot be set"):
            ThresholdCalibrator(estimator).set_params(estimator__n_neighbors=3)


def test_what_is_no_detector_names_the_way_to_one():
    with pytest.raises(TypeError, match=r"create_model\('vision_patchcore'\)"):
        ThresholdCalibrator("vision_patchcore").fit(rows())
    with pytest.raises(TypeError, match=r"PatchCoreDetector\(\.\.\.\)"):
        ThresholdCalibrator(PatchCoreDetector).fit(rows())
    knn = pytest.importorskip("pyod.models.knn").KNN()
    with pytest.raises(TypeError, match=r"PyODDetector\(KNN\(\.\.\.\)\)"):
        ThresholdCalibrator(knn).fit(rows())


def test_pot_is_advised_only_where_it_works():
    for n, advised in ((90, False), (91, True)):
        with pytest.warns(TooFewImagesWarning) as caught:
            ThresholdCalibrator(quantile=0.995).fit(column(range(n)))
        message = str(caught[0].message)
        assert ("pot" in message) == advised
        # The quantile it names is one that many images support.
        quantile = float(re.search(r"quantile to (0\.\d+)", message)[1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ThresholdCalibrator(quantile=quantile).fit(column(range(n)))


# ---- folds of all kinds ----------------------------------------------------------------
def with_anomalies():
    X = np.vstack([rows(5, seed=2) + 50, rows(30)])
    return X, np.r_[-np.ones(5, int), np.ones(30, int)]


@pytest.mark.parametrize("cv", [StratifiedKFold(3), OneClassKFold(3), KFold(3)])
def test_splitters_see_good_images_with_their_labels(cv):
    X, y = with_anomalies()
    for data, labels in ((X, y), (X[5:], None)):
        calibrator = ThresholdCalibrator(CountingDetector(), cv=cv, quantile=0.9).fit(data, labels)
        np.testing.assert_array_equal(calibrator.calibration_scores_, X[5:, 0])
        assert calibrator.provenance_["scores"] == "3 folds"


def test_groups_stay_together():
    X, y = with_anomalies()
    parts = np.r_[np.full(5, -1), np.repeat(np.arange(10), 3)]
    tested = []

    class Recording(CountingDetector):
        def score_samples(self, X):
            tested.append(X[:, 0])
            return super().score_samples(X)

    for cv in (GroupKFold(4), "auto"):
        tested.clear()
        calibrator = ThresholdCalibrator(Recording(), cv=cv, quantile=0.9)
        calibrator.fit(X, y, groups=parts)
        folds = [set(parts[np.isin(X[:, 0], values)]) for values in tested]
        assert sum(len(fold) for fold in folds) == len(set().union(*folds)) == 10
        np.testing.assert_array_equal(calibrator.calibration_scores_, X[5:, 0])
    with config_context(enable_metadata_routing=True):
        ThresholdCalibrator(Recording(), cv=GroupKFold(4), quantile=0.9).fit(X, y, groups=parts)
    with pytest.raises(ValueError, match=r"needs groups: pass fit\(X, groups="):
        ThresholdCalibrator(CountingDetector(), cv=GroupKFold(4)).fit(X, y)
    with pytest.raises(TypeError, match="groups is for folds"):
        ThresholdCalibrator().fit(column(range(9)), groups=np.arange(9))


def test_splits_hold_indices_of_all_samples():
    X, y = with_anomalies()
    splits = list(OneClassKFold(3, random_state=1).split(X, y))
    calibrator = ThresholdCalibrator(CountingDetector(), cv=splits, quantile=0.9).fit(X, y)
    np.testing.assert_array_equal(calibrator.calibration_scores_, X[5:, 0])


@pytest.mark.parametrize(
    ("cv", "words"),
    [
        (RepeatedStratifiedKFold(n_splits=3, n_repeats=2), r"2 times"),
        (list(KFold(3).split(np.zeros(30))), r"sample 30 of X 0 times"),
        ([(np.arange(20), np.arange(20, 36))], r"indices from 20 to 35, and X has 35 samples"),
        ([(np.arange(35), np.arange(35))], r"trains on 30 of the samples it tests"),
    ],
)
def test_folds_that_are_none_are_refused_before_any_fit(cv, words):
    CountingDetector.fits = 0
    with pytest.raises(ValueError, match=words):
        ThresholdCalibrator(CountingDetector(), cv=cv).fit(*with_anomalies())
    assert CountingDetector.fits == 0


# ---- searches inside, and refits that fail -----------------------------------------------
def test_a_search_inside_is_told_that_all_images_are_good():
    def search(scoring):
        grid = {"coreset_ratio": [0.1, 1.0]}
        return GridSearchCV(PatchCoreDetector(), grid, scoring=scoring, cv=2)

    X, y = with_anomalies()
    calibrator = ThresholdCalibrator(search(neg_false_positive_rate), quantile=0.9).fit(X, y)
    assert -1 <= calibrator.estimator_.best_score_ <= 0
    assert as_pyod(search(neg_false_positive_rate)).fit(X).labels_.shape == (35,)
    ensemble = ScoreEnsemble([("a", search(neg_false_positive_rate))]).fit(X, y)
    assert np.isfinite(ensemble.offset_)


def _search_that_counts(scoring, **params):
    return GridSearchCV(CountingDetector(), {}, scoring=scoring, cv=2, **params)


@pytest.mark.parametrize(
    ("scoring", "refit"),
    [
        (anomaly_roc_auc, True),
        (anomaly_average_precision, True),
        (true_positive_rate, True),
        (balanced_accuracy, True),
        ("roc_auc", True),
        ({"fpr": neg_false_positive_rate, "auc": anomaly_roc_auc}, "auc"),
        (["roc_auc", "accuracy"], "roc_auc"),
    ],
)
def test_a_search_inside_whose_scorer_needs_anomalies_is_refused_before_it_fits(scoring, refit):
    search = _search_that_counts(scoring, refit=refit)
    CountingDetector.fits = 0
    for model in (
        ThresholdCalibrator(search),
        ThresholdCalibrator(make_pipeline(StandardScaler(), search)),
        ScoreEnsemble([("a", search)]),
        as_pyod(search),
    ):
        with pytest.raises(ValueError, match=r"no best candidate.*neg_false_positive_rate"):
            model.fit(rows())
    assert CountingDetector.fits == 0


def test_a_search_that_turns_out_to_need_anomalies_is_refused_after_it():
    def no_value(estimator, X, y):
        return float("nan")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="its score is nan"):
            ThresholdCalibrator(_search_that_counts(no_value)).fit(rows())


def test_only_the_scorer_that_chooses_counts_and_only_where_there_is_a_fit():
    both = {"fpr": neg_false_positive_rate, "auc": anomaly_roc_auc}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ThresholdCalibrator(_search_that_counts(both, refit="fpr")).fit(rows())
    X, y = with_anomalies()
    search = _search_that_counts(anomaly_roc_auc).set_params(cv=StratifiedKFold(2)).fit(X, y)
    CountingDetector.fits = 0
    ThresholdCalibrator(FrozenEstimator(search), quantile=0.9).fit(rows())
    ThresholdCalibrator(make_pipeline(StandardScaler(), FrozenEstimator(search)), cv=3).fit(rows())
    assert CountingDetector.fits == 0


def test_a_refit_that_fails_at_the_threshold_leaves_the_calibrator_as_it_was():
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9, method="pot").fit(rows())
    before = dict(vars(calibrator))
    with pytest.raises(TooFewImagesError):
        calibrator.fit(rows(30) + 100)
    assert before == vars(calibrator)


def test_labels_of_fit_predict_are_not_forgotten():
    X, y = with_anomalies()
    labels = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit_predict(X, y)
    np.testing.assert_array_equal(labels[:5], -1)


# ---- models of the folds are kept -----------------------------------------------------
class Grows(PatchCoreDetector):
    """Says that its scores grow with the number of its training samples, as they do."""

    _registry_name = None
    _scale_depends_on_n = True

    def _score(self, block, train_group):
        values, scores = super()._score(block, train_group)
        return values, scores * len(self.training_scores_)


def test_ensemble_is_asked_for_or_follows_from_what_the_detector_says():
    X, new = rows(40), rows(9, seed=3)
    plain = make_pipeline(StandardScaler(), PatchCoreDetector())
    grows = make_pipeline(StandardScaler(), Grows())
    assert ThresholdCalibrator(plain, quantile=0.9).fit(X).provenance_["scores"] == "5 folds"
    asked = ThresholdCalibrator(plain, quantile=0.9, ensemble=True).fit(X)
    found = ThresholdCalibrator(grows, quantile=0.9).fit(X)
    for calibrator in (asked, found):
        assert calibrator.provenance_["scores"] == "5 folds, whose models are kept"
        folds = calibrator.estimator_.fold_estimators
        expected = np.median([one.score_samples(new) for one in folds], axis=0)
        np.testing.assert_array_equal(calibrator.score_samples(new), expected)
        np.testing.assert_array_equal(calibrator.score_samples(new[4:5]), expected[4:5])
        assert calibrator.n_features_in_ == X.shape[1]
        assert not hasattr(clone(calibrator), "threshold_")
    single = ThresholdCalibrator(grows, quantile=0.9, ensemble=False).fit(X)
    np.testing.assert_array_equal(single.calibration_scores_, found.calibration_scores_)
    assert single.provenance_["scores"] == "5 folds"
    own = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9, ensemble=True).fit(X)
    assert own.provenance_["scores"] == "5 folds, whose models are kept"


def test_ensemble_takes_known_anomalies_groups_splits_memory_and_searches(tmp_path):
    X = rows(40)
    y = np.r_[np.ones(32), -np.ones(8)]
    pipe = make_pipeline(StandardScaler(), PatchCoreDetector())
    kept = ThresholdCalibrator(pipe, quantile=0.9, ensemble=True, memory=str(tmp_path))
    one = clone(kept).fit(X, y)
    assert len(one.calibration_scores_) == 32
    assert {len(fold[-1].training_scores_) for fold in one.estimator_.fold_estimators} <= {25, 26}
    again = clone(kept).fit(X, y)
    np.testing.assert_array_equal(again.score_samples(X), one.score_samples(X))
    grouped = clone(kept).fit(X, y, groups=np.arange(40) // 4)
    assert len(grouped.estimator_.fold_estimators) == 5
    chosen = clone(kept).set_params(cv=KFold(3)).fit(X)
    assert len(chosen.estimator_.fold_estimators) == 3
    search = GridSearchCV(
        kept, {"ensemble": [False, True]}, scoring=anomaly_roc_auc, cv=StratifiedKFold(2)
    )
    assert np.isfinite(search.fit(X, y).cv_results_["mean_test_score"]).all()


def test_ensemble_has_maps_records_and_survives_a_file(tmp_path):
    images = make_check_images(8)
    step = FilterBankFeatures(resize=32, n_components=3)
    calibrator = ThresholdCalibrator(PatchCoreDetector(step), quantile=0.8, cv=4, ensemble=True)
    calibrator.fit(images)
    new = make_check_images(3, defect=True, random_state=2)
    scores, maps = calibrator.score_and_map(new)
    folds = [one.score_and_map(new) for one in calibrator.estimator_.fold_estimators]
    np.testing.assert_array_equal(scores, np.median([one for one, _ in folds], axis=0))
    np.testing.assert_array_equal(maps, np.median([one for _, one in folds], axis=0))
    assert maps.dtype == np.float32
    results = infer(calibrator, new, return_maps=True)
    np.testing.assert_array_equal([result.score for result in results], -scores)
    np.testing.assert_array_equal([result.anomaly_map for result in results], maps)
    save(calibrator, tmp_path / "kept.joblib")
    loaded = load(tmp_path / "kept.joblib")
    np.testing.assert_array_equal(loaded.score_samples(new), scores)
    loaded.set_params(estimator__features__batch_size=2)
    assert [one.features_.batch_size for one in loaded.estimator_.fold_estimators] == [2] * 4
    view = as_pyod(loaded)
    np.testing.assert_array_equal(view.decision_function(new), -scores)


def test_ensemble_needs_folds():
    X = rows(40)
    detector = PatchCoreDetector()
    with pytest.raises(ValueError, match=r"prefit.*there are none"):
        ThresholdCalibrator(clone(detector).fit(X), cv="prefit", ensemble=True).fit(X)
    with pytest.raises(ValueError, match=r"estimator is None.*there are none"):
        ThresholdCalibrator(ensemble=True).fit(X)
    frozen = FrozenEstimator(clone(detector).fit(X))
    with pytest.raises(ValueError, match="estimator is frozen"):
        ThresholdCalibrator(frozen, ensemble=True).fit(X)
    with pytest.raises(ValueError, match="ensemble"):
        ThresholdCalibrator(detector, ensemble="yes").fit(X)
