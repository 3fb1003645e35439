"""The threshold of a fitted calibrator in the user's hands: set, asked for anew, recalibrated."""

from __future__ import annotations

import json
import pickle
import warnings
from datetime import datetime, timezone

import cv2
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ScoreEnsemble, load, save
from pyimgano.calibration import ThresholdCalibrator, own_scores
from pyimgano.detectors import PaDiMDetector, PyODDetector, SSIMTemplateDetector
from pyimgano.exceptions import (
    TooFewImagesError,
    TooFewImagesWarning,
    TrainingImagesError,
    UntrustedFileError,
)
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import infer, threshold
from pyimgano.monitoring import DriftMonitor
from pyimgano.testing import make_check_images
from pyimgano.tiling import TilingTransformer


def rows(n=120, seed=0):
    return np.random.RandomState(seed).normal(size=(n, 4))


def column(values):
    return np.asarray(values, dtype=float).reshape(-1, 1)


def fitted(quantile=0.95, **params):
    return ThresholdCalibrator(quantile=quantile, **params).fit(column(range(1, 200)))


def moves(calibrator):
    return [entry["call"] for entry in calibrator.provenance_["history"]]


# ---- what moves it --------------------------------------------------------------------
def test_set_threshold_is_the_same_as_assigning_it():
    by_call, assigned = fitted().set_threshold(30), fitted()
    assigned.threshold_ = 30
    assert by_call.threshold_ == assigned.threshold_ == threshold(by_call) == 30
    assert by_call.expected_false_positive_rate_ == assigned.expected_false_positive_rate_
    assert (moves(by_call), moves(assigned)) == (["set_threshold"], ["assignment of threshold_"])
    for wrong in (np.nan, np.inf, "30", None, True):
        with pytest.raises(ValueError, match="finite number"):
            by_call.set_threshold(wrong)
    with pytest.raises(NotFittedError):
        ThresholdCalibrator().set_threshold(1.0)


@pytest.mark.parametrize(
    ("move", "call"),
    [
        (lambda c: c.set_quantile(0.9), "set_quantile"),
        (lambda c: c.set_params(quantile=0.9), "set_params"),
        (lambda c: setattr(c, "quantile", 0.9), "assignment of quantile"),
    ],
)
@pytest.mark.parametrize("method", ["conformal", "conditional", "quantile", "pot"])
def test_another_quantile_is_as_if_it_had_been_there_in_fit(move, call, method):
    calibrator = fitted(method=method)
    move(calibrator)
    other = fitted(0.9, method=method)
    assert (calibrator.quantile, calibrator.threshold_) == (0.9, other.threshold_)
    assert calibrator.false_positive_rate_interval_ == other.false_positive_rate_interval_
    assert moves(calibrator) == [call]
    without = [{**one.provenance_, "history": None} for one in (calibrator, other)]
    assert without[0] == without[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrator.predict(column([1]))


@pytest.mark.parametrize(
    "move", [lambda c: c.set_params(method="quantile"), lambda c: setattr(c, "method", "quantile")]
)
def test_another_method_moves_the_threshold_at_once(move):
    calibrator = fitted()
    move(calibrator)
    assert calibrator.threshold_ == np.quantile(np.arange(1, 200), 0.95)
    assert calibrator.provenance_["method"] == "quantile"


def test_a_parameter_that_stays_as_it_is_moves_nothing():
    calibrator = fitted().set_threshold(7.0)
    calibrator.set_params(quantile=0.95, method="conformal")
    calibrator.quantile = 0.95
    assert calibrator.threshold_ == 7.0 and moves(calibrator) == ["set_threshold"]
    assert calibrator.set_quantile(0.95).threshold_ == fitted().threshold_  # asked for by name


@pytest.mark.parametrize(
    "move",
    [
        lambda c: c.set_quantile(1.0),
        lambda c: c.set_quantile("much"),
        lambda c: c.set_params(quantile=-1),
        lambda c: c.set_params(quantile=0.9, method="best"),
        lambda c: setattr(c, "quantile", 2),
        lambda c: setattr(c, "method", None),
        lambda c: c.recalibrate(column(range(60)), quantile=0.0),
        lambda c: c.recalibrate(column([*range(60), np.nan])),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(move):
    calibrator = fitted()
    before = pickle.dumps(calibrator)
    with pytest.raises(ValueError, match=r"quantile|method|NaN"):
        move(calibrator)
    assert pickle.dumps(calibrator) == before


def test_a_quantile_that_the_scores_cannot_support_is_refused_with_what_would_do():
    calibrator = fitted()
    with pytest.raises(TooFewImagesError, match=r"at least 999 .*n_samples=199.*800 more.*0\.995"):
        calibrator.set_quantile(0.999)
    assert (calibrator.quantile, moves(calibrator)) == (0.95, [])
    assert calibrator.set_quantile(0.995).threshold_ == pytest.approx(199)
    # A parameter is for the next fit as well, so it may wait for more images.
    with pytest.warns(TooFewImagesWarning, match="at the largest score"):
        calibrator.set_params(quantile=0.999)
    assert calibrator.fit(column(range(1, 1000))).threshold_ == pytest.approx(999)


def test_parameters_of_an_unfitted_calibrator_are_only_kept():
    calibrator = ThresholdCalibrator()
    calibrator.quantile = 0.5
    calibrator.set_params(method="pot")
    assert calibrator.get_params()["quantile"] == 0.5
    assert clone(calibrator).get_params()["method"] == "pot"
    for call in (calibrator.set_quantile, calibrator.recalibrate):
        with pytest.raises(NotFittedError):
            call(0.9)


# ---- other images ---------------------------------------------------------------------
def test_recalibrate_is_as_if_the_model_were_calibrated_on_these_images():
    X, new = rows(), rows(80, seed=1) + 0.5
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.95).fit(X)
    strict, model = calibrator.threshold_, calibrator.estimator_
    assert calibrator.recalibrate(new) is calibrator
    held_out = ThresholdCalibrator(FrozenEstimator(model), quantile=0.95).fit(new)
    assert calibrator.estimator_ is model
    assert calibrator.threshold_ == held_out.threshold_ > strict
    np.testing.assert_array_equal(calibrator.p_value(new), held_out.p_value(new))
    np.testing.assert_array_equal(calibrator.calibration_scores_, -model.score_samples(new))
    assert calibrator.expected_false_positive_rate_ == held_out.expected_false_positive_rate_
    assert (calibrator.provenance_["n_images"], calibrator.quantile) == (80, 0.95)
    assert calibrator.recalibrate(new, quantile=0.8).quantile == 0.8
    assert calibrator.threshold_ == held_out.set_quantile(0.8).threshold_


@pytest.mark.parametrize(
    ("method", "quantile", "n"),
    [
        ("conformal", 0.98, 49),
        ("conditional", 0.98, 149),
        ("quantile", 0.9, 9),
        ("pot", 0.9, 91),
    ],
)
def test_too_few_images_are_refused_with_the_number_needed(method, quantile, n):
    calibrator = fitted(quantile, method=method)
    before = calibrator.threshold_
    with pytest.raises(TooFewImagesError, match=rf"at least {n} .*n_samples={n - 1}.*1 more"):
        calibrator.recalibrate(column(range(n - 1)))
    assert calibrator.threshold_ == before and moves(calibrator) == []
    calibrator.recalibrate(column(range(n)))
    assert calibrator.provenance_["n_images"] == n
    with pytest.raises(TooFewImagesError):
        calibrator.recalibrate(column([1.0]), quantile=0.01)


def test_training_images_count_by_their_out_of_sample_scores():
    X, new = rows(), rows(60, seed=1)
    calibrator = ThresholdCalibrator(PatchCoreDetector(coreset_ratio=1.0), quantile=0.9).fit(X)
    out_of_sample = calibrator.calibration_scores_
    calibrator.recalibrate(np.vstack([X[:40], new]))
    np.testing.assert_array_equal(calibrator.calibration_scores_[:40], out_of_sample[:40])
    assert calibrator.provenance_["scores"].startswith("images given to recalibrate, 40 of them")
    calibrator.recalibrate(new)
    assert calibrator.provenance_["scores"] == "images given to recalibrate"
    # They are no longer those of the training samples, which a view would take them for.
    assert own_scores(calibrator) is None


def test_training_images_are_recognized_in_files_tiles_regions_and_templates(tmp_path):
    images = make_check_images(6)
    paths = [str(tmp_path / f"{i}.png") for i in range(6)]
    for path, image in zip(paths, images):
        cv2.imwrite(path, image[..., ::-1])
    detector = PatchCoreDetector(FilterBankFeatures(resize=32, n_components=3))
    tiled = make_pipeline(ImageFormatNormalizer(), TilingTransformer(tile=48), detector)
    half = np.zeros(images.shape[1:3], dtype=bool)
    half[: len(half) // 2] = True
    in_half = images.copy()
    in_half[:, ~half] = 0  # what lies outside is not looked at
    models = [
        (detector, {}, images),
        (detector, {"roi_mask": half}, in_half),
        (tiled, {}, images),
        (SSIMTemplateDetector(resize=32), {}, images),
        (ScoreEnsemble([("a", detector), ("b", SSIMTemplateDetector(resize=32))]), {}, images),
    ]
    for model, metadata, again in models:
        calibrator = ThresholdCalibrator(model, quantile=0.5).fit(images, **metadata)
        known = calibrator.calibration_scores_
        calibrator.recalibrate([*again[2:], *make_check_images(3, random_state=5)])
        np.testing.assert_allclose(calibrator.calibration_scores_[:4], known[2:], rtol=1e-9)
        assert "4 of them training images" in calibrator.provenance_["scores"], model
    calibrator = ThresholdCalibrator(detector, quantile=0.5).fit(paths)
    calibrator.recalibrate(images)
    assert "6 of them training images" in calibrator.provenance_["scores"]


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), PatchCoreDetector()),
        IsolationForest(n_estimators=10, random_state=0),
    ],
    ids=["learned step", "other package"],
)
def test_training_images_that_would_score_too_low_are_refused(model, ensemble):
    X, new = rows(), rows(60, seed=1)
    calibrator = ThresholdCalibrator(model, quantile=0.9, ensemble=ensemble).fit(X)
    calibrator = pickle.loads(pickle.dumps(calibrator))
    before = calibrator.threshold_
    mixed = np.vstack([new, X[7:10]])
    with pytest.raises(TrainingImagesError, match=r"3 of the 63 images .* first is at index 60"):
        calibrator.recalibrate(mixed)
    with pytest.raises(TrainingImagesError, match="trained on"):
        calibrator.recalibrate(mixed.tolist())  # in whatever container
    assert calibrator.threshold_ == before and moves(calibrator) == []
    calibrator.recalibrate(new)
    np.testing.assert_array_equal(calibrator.calibration_scores_, -calibrator.score_samples(new))


def test_training_images_of_a_model_that_was_fitted_before_are_refused_where_they_are_known():
    X, new = rows(), rows(60, seed=1)
    pipe = make_pipeline(StandardScaler(), PatchCoreDetector()).fit(X)
    for calibrator in (
        ThresholdCalibrator(pipe, cv="prefit", quantile=0.9),
        ThresholdCalibrator(FrozenEstimator(pipe), quantile=0.9),
    ):
        calibrator.fit(rows(50, seed=2))
        with pytest.raises(TrainingImagesError, match=r"2 of the 62 images .* index 60"):
            calibrator.recalibrate(np.vstack([new, X[4:6]]))
        calibrator.recalibrate(new)
    frozen = FrozenEstimator(PatchCoreDetector(coreset_ratio=1.0).fit(X))
    calibrator = ThresholdCalibrator(frozen, quantile=0.9).fit(new).recalibrate(X)
    assert "120 of them training images" in calibrator.provenance_["scores"]
    assert calibrator.calibration_scores_.min() > 0


def test_files_that_were_trained_on_are_refused_under_any_name(tmp_path):
    def write(name, image):
        cv2.imwrite(str(tmp_path / name), image)
        return str(tmp_path / name)

    def flatten(images):
        return np.array([np.asarray(image)[::8, ::8].ravel() for image in images], dtype=float)

    from sklearn.preprocessing import FunctionTransformer

    pipe = make_pipeline(
        ImageFormatNormalizer(), FunctionTransformer(flatten), IsolationForest(n_estimators=5)
    )
    old = [write(f"{i}.png", image) for i, image in enumerate(make_check_images(8))]
    new = [
        write(f"new{i}.png", image) for i, image in enumerate(make_check_images(3, random_state=4))
    ]
    calibrator = ThresholdCalibrator(pipe, quantile=0.5).fit(old)
    (tmp_path / "copy.png").write_bytes((tmp_path / "2.png").read_bytes())
    with pytest.raises(TrainingImagesError, match="1 of the 4 images"):
        calibrator.recalibrate([*new, str(tmp_path / "copy.png")])
    calibrator.recalibrate(new)


def test_folds_that_recognize_their_images_give_them_scores_of_new_ones():
    X, new = rows(), rows(40, seed=1)
    model = PatchCoreDetector(coreset_ratio=1.0)
    calibrator = ThresholdCalibrator(model, quantile=0.9, ensemble=True).fit(X)
    calibrator.recalibrate(np.vstack([X, new]))
    folds = calibrator.estimator_.fold_estimators
    expected = -np.median([one.score_samples(X) for one in folds], axis=0)
    np.testing.assert_array_equal(calibrator.calibration_scores_[:120], expected)
    assert "120 of them training images" in calibrator.provenance_["scores"]
    # In sample, all of them would be at 0.
    assert np.median(calibrator.calibration_scores_[:120]) > 0.5 * np.median(
        calibrator.calibration_scores_[120:]
    )


def test_recalibrated_folds_keep_the_rate_that_is_stated():
    knn = pytest.importorskip("pyod.models.knn")
    rates = []
    for seed in range(12):
        X, shifted = rows(60, seed), rows(600, 100 + seed) + 1.0
        model = make_pipeline(StandardScaler(), PyODDetector(knn.KNN(), cv=2))
        calibrator = ThresholdCalibrator(model, quantile=0.9, ensemble=True).fit(X)
        assert np.mean(calibrator.predict(shifted[100:]) == -1) > 0.2  # parts have changed
        calibrator.recalibrate(shifted[:100])
        rates.append(np.mean(calibrator.predict(shifted[100:]) == -1))
    assert np.mean(rates) == pytest.approx(0.1, abs=0.02)


def test_recalibrate_at_the_end_of_a_pipeline():
    X, new = rows(), rows(60, seed=1)
    pipe = make_pipeline(PatchCoreDetector(), ThresholdCalibrator(quantile=0.9)).fit(X)
    inside = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(X).recalibrate(new)
    pipe[-1].recalibrate(pipe[:-1].transform(new))
    assert threshold(pipe) == inside.threshold_
    assert [r.label for r in infer(pipe, new)] == [r.label for r in infer(inside, new)]


def test_parameters_for_the_next_fit_leave_what_the_scores_are_of(tmp_path):
    calibrator = ThresholdCalibrator(PaDiMDetector(), quantile=0.9).fit(rows())
    with pytest.warns(UserWarning, match="takes effect in the next fit"):
        calibrator.set_params(cv="prefit", estimator=None)
    with pytest.warns(UserWarning, match="out-of-sample scores of training images"):
        DriftMonitor().fit(calibrator)
    save(calibrator, tmp_path / "model.joblib")
    again = load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(again.score_samples(rows()), calibrator.score_samples(rows()))


# ---- the history ----------------------------------------------------------------------
def test_the_history_says_what_was_changed_by_which_call(monkeypatch):
    monkeypatch.setattr("pyimgano.calibration._moving.utc_now", lambda: "2026-01-02T03:04:05")
    calibrator = fitted()
    assert calibrator.provenance_["history"] == []
    calibrator.set_threshold(100).set_quantile(0.9).recalibrate(column(range(50)), quantile=0.5)
    first, second, third = calibrator.provenance_["history"]
    assert {entry["time"] for entry in (first, second, third)} == {"2026-01-02T03:04:05"}
    assert first["before"]["threshold"] == pytest.approx(190)
    assert (first["after"]["threshold"], first["after"]["method"]) == (100, "set by hand")
    assert first["after"]["target_false_positive_rate"] is None
    assert first["before"]["target_false_positive_rate"] == 0.05
    assert first["after"]["expected_false_positive_rate"] == pytest.approx(0.5)
    assert second["call"] == "set_quantile" and second["before"] == first["after"]
    assert second["after"]["target_false_positive_rate"] == 0.1
    assert third["before"] == second["after"]
    assert (third["before"]["n_images"], third["after"]["n_images"]) == (199, 50)
    assert third["after"]["scores"] == "images given to recalibrate"
    for name in ("threshold", "expected_false_positive_rate", "n_images", "scores"):
        assert third["after"][name] == calibrator.provenance_[name]
    assert json.loads(json.dumps(calibrator.provenance_)) == calibrator.provenance_
    assert calibrator.fit(column(range(1, 200))).provenance_["history"] == []


def test_the_time_is_that_of_the_call():
    before = datetime.now(timezone.utc).replace(microsecond=0)
    entry = fitted().set_threshold(1).provenance_["history"][0]
    assert before <= datetime.fromisoformat(entry["time"]) <= datetime.now(timezone.utc)


def test_all_of_it_survives_a_file(tmp_path):
    X, new = rows(), rows(60, seed=1)
    for model in (PatchCoreDetector(), make_pipeline(StandardScaler(), PatchCoreDetector())):
        for ensemble in (False, True):
            calibrator = ThresholdCalibrator(model, quantile=0.9, ensemble=ensemble).fit(X)
            calibrator.recalibrate(new, quantile=0.95).set_threshold(1.25).set_quantile(0.8)
            save(calibrator, tmp_path / "line.joblib")
            for loaded in (load(tmp_path / "line.joblib"), joblib.load(tmp_path / "line.joblib")):
                assert loaded.provenance_ == calibrator.provenance_
                assert (loaded.threshold_, loaded.quantile) == (calibrator.threshold_, 0.8)
                np.testing.assert_array_equal(loaded.predict(new), calibrator.predict(new))
                assert loaded.recalibrate(new).threshold_ == calibrator.threshold_
                fresh = clone(loaded)
                assert not hasattr(fresh, "threshold_") and fresh.quantile == 0.8


def test_a_calibrator_of_an_earlier_version_begins_its_history():
    calibrator = ThresholdCalibrator(IsolationForest(random_state=0), quantile=0.9).fit(rows())
    state = calibrator.__getstate__()
    del state["_training_keys"]
    state["provenance_"] = {k: v for k, v in state["provenance_"].items() if k != "history"}
    old = ThresholdCalibrator.__new__(ThresholdCalibrator)
    old.__setstate__(state)
    assert old.threshold_ == calibrator.threshold_
    assert moves(old.recalibrate(rows(60, seed=1)).set_threshold(0.5)) == [
        "recalibrate",
        "set_threshold",
    ]


@pytest.mark.parametrize("history", [None, "none", [1], [{}], [{"call": 3}]])
def test_a_file_with_a_history_that_is_none_is_refused(history, tmp_path):
    calibrator = fitted()
    calibrator.provenance_ = {**calibrator.provenance_, "history": history}
    with pytest.warns(UserWarning, match="history"):
        save(calibrator, tmp_path / "line.joblib")
    with pytest.raises(UntrustedFileError, match="history that is no list of changes"):
        load(tmp_path / "line.joblib")


# ---- more images for the detector inside ----------------------------------------------
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: make_pipeline("passthrough", d)])
def test_partial_fit_puts_the_threshold_on_the_scores_of_all_images(wrap):
    X = rows(200)
    calibrator = ThresholdCalibrator(wrap(PaDiMDetector()), quantile=0.9)
    for part in (X[:80], X[80:140], X[140:]):
        assert calibrator.partial_fit(part) is calibrator
    once = ThresholdCalibrator(wrap(PaDiMDetector()), quantile=0.9).fit(X)
    np.testing.assert_allclose(calibrator.calibration_scores_, once.calibration_scores_, rtol=1e-5)
    assert calibrator.threshold_ == pytest.approx(once.threshold_, rel=1e-5)
    assert calibrator.provenance_["n_images"] == 200
    assert moves(calibrator) == ["partial_fit", "partial_fit"]
    assert calibrator.provenance_["history"][0]["before"]["n_images"] == 80


def test_partial_fit_is_refused_where_the_threshold_would_not_follow():
    X = rows()
    in_folds = ThresholdCalibrator(make_pipeline(StandardScaler(), PaDiMDetector())).fit(X[:100])
    held_out = ThresholdCalibrator(PaDiMDetector().fit(X[:50]), cv="prefit").fit(X[50:100])
    moved = ThresholdCalibrator(PaDiMDetector()).fit(X[:50]).recalibrate(X[50:100])
    for calibrator in (in_folds, held_out, moved):
        before = calibrator.score_samples(X)
        with pytest.raises(ValueError, match="then recalibrate with good images"):
            calibrator.partial_fit(X[100:])
        np.testing.assert_array_equal(calibrator.score_samples(X), before)
    for estimator in (None, IsolationForest(), SSIMTemplateDetector()):
        assert not hasattr(ThresholdCalibrator(estimator), "partial_fit")
