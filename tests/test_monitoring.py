"""Drift monitors: p-values, stated false alarms, what is noticed, and state that goes on."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings

import cv2
import joblib
import numpy as np
import pytest
from scipy.stats import binom, kstest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from pyimgano import ImageFormatNormalizer, PatchCoreDetector, load, save
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.exceptions import TooFewImagesError, UntrustedFileError
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import infer
from pyimgano.monitoring import IMAGE_STATISTICS, DriftMonitor, _bet, image_statistics
from pyimgano.testing import make_check_images
from tests.attack.test_contract import GONE, write, wrong_values


def column(values):
    return np.asarray(values, dtype=float).reshape(-1, 1)


def calibrated(scores, quantile=0.9):
    return ThresholdCalibrator(quantile=quantile).fit(column(scores))


def records(scores, **others):
    rows = zip(scores, *others.values())
    return [dict(zip(("score", *others), map(float, row))) for row in rows]


def seen(rng, n, shift=0.0):
    """Records of parts whose scores and images are drawn at random, brightness shifted."""
    scores, brightness, contrast, sharpness = rng.normal(size=(4, n))
    return records(scores, brightness=brightness + shift, contrast=contrast, sharpness=sharpness)


def watching(rng, **params):
    known = seen(rng, 80)
    return DriftMonitor(**params).fit(calibrated([one["score"] for one in known]), known)


def without_time(found):
    return [{name: value for name, value in one.items() if name != "time"} for one in found]


# ---- p-values -------------------------------------------------------------------------
def test_p_values_by_hand():
    # The threshold is at the score 4: compared with are 1, 2 and 3, which leave four gaps.
    monitor = DriftMonitor().fit(calibrated([3, 1, 4, 2], quantile=0.8))

    def p_value(score, share):
        return monitor._smoothed_p_value(0, {"score": score}, 0.5, share)

    assert p_value(2.5, 0.5) == (1 / 4 + 1 / 8, 1 / 2 + 1 / 8)
    # One of the five lies in the third gap now, which has a weight of 2.
    assert p_value(0.0, 1.0) == (4 / 5, 1 / 5)
    assert p_value(2.5, 0.0) == (1 / 6 + 2 / 6, 3 / 6)
    p, q = p_value(3.5, 0.0)
    assert (p, q) == (1 / 7, 6 / 7)
    # Of the known 1, 2, 3 and the four parts so far, the p-value counts what is above.
    assert monitor._counts.tolist() == [[1, 0, 2, 1]]
    assert monitor._is_watched({"score": 3.99}) and not monitor._is_watched({"score": 4.0})


@pytest.mark.parametrize("decimals", [8, 0])  # without ties, and with hardly anything else
def test_p_values_of_exchangeable_parts_are_uniform_and_independent(decimals):
    rng, drawn = np.random.RandomState(0), []
    for seed in range(150):
        scores = rng.normal(size=60).round(decimals)
        monitor = DriftMonitor(random_state=seed).fit(calibrated(scores[:20]))
        watched = [s for s in scores[20:].tolist() if monitor._is_watched({"score": s})]
        tie, share = rng.uniform(size=(2, 30))
        drawn.append(
            [
                monitor._smoothed_p_value(0, {"score": s}, tie[i], share[i])[0]
                for i, s in enumerate(watched[:20])
            ]
        )
    short = min(map(len, drawn))
    drawn = np.array([one[:short] for one in drawn])
    assert short >= 10
    assert kstest(drawn.ravel(), "uniform").pvalue > 0.001
    # A fixed set of few calibration images would make the parts of one stream alike.
    assert np.var(drawn.mean(axis=1)) == pytest.approx(1 / 12 / short, rel=0.4)


def test_each_bet_is_fair():
    p = (np.arange(40000) + 0.5) / 40000
    factors = np.array([_bet(one, 1 - one) for one in p])
    np.testing.assert_allclose(factors.mean(axis=0), 1, atol=0.01)
    monitor = watching(np.random.RandomState(0), max_fail_rate=0.2)
    failing, passing = monitor._bet_on_failing(True), monitor._bet_on_failing(False)
    np.testing.assert_allclose(0.2 * failing + 0.8 * passing, 1)
    assert (0.1 * failing + 0.9 * passing < 1).all()
    # Nothing is left behind where the smallest p-value there is comes along.
    assert np.isfinite(_bet(2.0**-80, 1.0)).all()


# ---- alarms ---------------------------------------------------------------------------
def test_false_alarms_are_as_rare_as_stated():
    rng = np.random.RandomState(0)
    n, rate, false = 120, 0.3, 0
    for seed in range(n):
        known, parts = rng.normal(size=30), rng.normal(size=100)
        monitor = DriftMonitor(false_alarm_rate=rate, random_state=seed).fit(calibrated(known))
        false += bool(monitor.update(records(parts)))
    assert 0 < false <= binom.ppf(0.999, n, rate)


def test_brighter_images_are_noticed_and_described():
    rng = np.random.RandomState(1)
    monitor = watching(rng)
    assert monitor.statistics_ == ["score", *IMAGE_STATISTICS]
    assert monitor.limit_ == 4 / 0.01
    assert monitor.update(seen(rng, 100)) == []
    (alarm,) = monitor.update(seen(rng, 60, shift=1.5))
    assert json.loads(json.dumps(alarm)) == alarm
    assert (alarm["statistic"], alarm["direction"], alarm["points_to"]) == (
        *("brightness", "higher", "camera"),
    )
    assert 100 < alarm["part"] < 140 and abs(alarm["since"] - 100) < 12
    assert alarm["evidence"] >= alarm["limit"] == 400
    assert alarm["recent"] > alarm["calibration"][1] + 0.5
    assert "brightness of good parts is higher than in calibration since about" in alarm["message"]
    assert monitor.alarms_ == [alarm] and monitor.evidence_["brightness"] == alarm["evidence"]
    # It was said, and is not said again for each part that follows.
    assert monitor.update(seen(rng, 50, shift=1.5)) == []


def test_changes_of_other_kinds_are_noticed():
    rng = np.random.RandomState(2)
    monitor = DriftMonitor().fit(calibrated(rng.normal(size=100), quantile=0.98))
    (alarm,) = monitor.update(records(rng.normal(-1.5, size=60)))
    assert (alarm["statistic"], alarm["direction"]) == ("score", "lower")
    assert alarm["points_to"] == "unknown"  # no images were given
    parts = seen(rng, 100)
    for one in parts:
        one["sharpness"] *= 3
    (alarm,) = watching(rng).update(parts)
    assert (alarm["statistic"], alarm["direction"]) == ("sharpness", "wider")
    assert "varies more than in calibration" in alarm["message"]


def test_an_alarm_of_the_scores_points_to_what_else_has_changed():
    rng = np.random.RandomState(3)
    of_product = watching(rng).update([{**one, "score": one["score"] - 2} for one in seen(rng, 80)])
    assert [(one["statistic"], one["points_to"]) for one in of_product] == [("score", "product")]
    of_camera = watching(rng).update(
        [{**one, "score": one["score"] - 1.5} for one in seen(rng, 80, shift=2.0)]
    )
    assert {one["points_to"] for one in of_camera} == {"camera"}


def test_defective_parts_are_no_drift():
    rng = np.random.RandomState(4)
    monitor = watching(rng)
    parts = seen(rng, 200)
    for one in parts[::4]:
        one.update(score=50.0, brightness=9.0)
    assert monitor.update(parts) == []
    assert monitor.evidence_["brightness"] < 1
    # Where normal operation was said to have few of them, so many are an alarm.
    for brightness, points_to in ((9.0, "camera"), (0.0, "product")):
        strict = watching(rng, max_fail_rate=0.15)
        failing = [{**one, "score": 50.0, "brightness": brightness} for one in seen(rng, 20)]
        (alarm,) = strict.update(failing)
        assert (alarm["statistic"], alarm["points_to"]) == ("failed", points_to)
        assert alarm["part"] < 8 and alarm["calibration"] is None
        assert "more parts fail than 0.15 of them since about part 0" in alarm["message"]


def test_restart_watches_again():
    rng = np.random.RandomState(5)
    monitor = watching(rng)
    assert len(monitor.update(seen(rng, 60, shift=2.0))) == 1
    kept = copy.deepcopy(monitor)
    (again,) = monitor.restart().update(seen(rng, 60, shift=2.0))
    assert again["part"] >= 60 and len(monitor.alarms_) == 2
    # What has been seen is normal now; so many have been seen that the others are few.
    kept.update(seen(rng, 500, shift=2.0))
    assert kept.restart(keep_parts=True).update(seen(rng, 60, shift=2.0)) == []


# ---- what comes in --------------------------------------------------------------------
def test_p_values_say_as_much_as_scores():
    rng = np.random.RandomState(6)
    calibrator = calibrated(rng.normal(size=50))
    parts = rng.normal(0.3, size=120)
    by_scores, by_p_values = DriftMonitor().fit(calibrator), DriftMonitor().fit(calibrator)
    by_scores.update(records(parts))
    by_p_values.update(calibrator.p_value(column(parts)))
    assert by_p_values.evidence_ == by_scores.evidence_
    assert by_p_values._counts.tolist() == by_scores._counts.tolist()
    assert 0 < by_p_values._n_seen[0] < 120  # those that fail are left out in both
    (alarm,) = by_p_values.update(calibrator.p_value(column(rng.normal(-2, size=60))))
    assert (alarm["direction"], alarm["recent"]) == ("lower", None)
    assert alarm["message"].endswith(f"lower than in calibration since about part {alarm['since']}")
    by_p_values = copy.deepcopy(by_scores)
    with pytest.raises(ValueError, match=r"part 1 has the p-value 0\.015.* multiples of 1 / 51"):
        by_p_values.update([1.0, 0.015])
    assert by_p_values.n_parts_ == 120


def test_the_threshold_of_any_method_says_which_parts_are_watched():
    scores = np.arange(1.0, 101.0)
    monitor = DriftMonitor().fit(calibrated(scores))  # k = 91
    assert [monitor._is_watched({"score": s}) for s in (90.5, 91.0)] == [True, False]
    strict = ThresholdCalibrator(quantile=0.9, method="conditional").fit(column(scores))
    monitor = DriftMonitor().fit(strict)
    assert monitor._bound == strict.threshold_
    by_hand = calibrated(scores).set_threshold(50.5)
    assert DriftMonitor().fit(by_hand)._bound == 50.0
    with pytest.raises(TooFewImagesError, match="only 1 of 100 calibration scores"):
        DriftMonitor().fit(calibrated(scores).set_threshold(2.0))
    with pytest.raises(TooFewImagesError, match="only 0 of 100"):
        DriftMonitor().fit(calibrated(scores).set_threshold(0.5))


def test_results_and_images_of_a_pipeline(tmp_path):
    images = make_check_images(30)
    paths = [str(tmp_path / f"{i}.png") for i in range(30)]
    for path, image in zip(paths, images):
        cv2.imwrite(path, image[..., ::-1])
    detector = PatchCoreDetector(FilterBankFeatures(resize=32))
    pipe = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.8))
    pipe.fit(paths[:20])
    pipe[-1].recalibrate(pipe[:-1].transform(paths[:20]))
    monitor = DriftMonitor(block_size=10).fit(pipe, paths[:20])
    results = infer(pipe, paths[20:])
    monitor.update(results, paths[20:])
    same = DriftMonitor(block_size=10).fit(pipe[-1], images[:20])
    numbers = [
        {**result.to_dict(), **image_statistics(image)}
        for result, image in zip(results, images[20:])
    ]
    same.update(numbers)
    assert same.evidence_ == monitor.evidence_
    (block,) = monitor.blocks_
    assert (block["first_part"], block["last_part"], block["n_errors"]) == (0, 9, 0)
    brightness = [one["brightness"] for one in numbers]
    assert block["brightness"] == np.quantile(brightness, (0.05, 0.5, 0.95)).tolist()
    assert monitor.calibration_quantiles_["score"][1] == np.median(pipe[-1].calibration_scores_)
    # What could not be read is counted, and its image is not looked at.
    with_error = [{"index": 0, "error": "no image"}, numbers[0]]
    monitor.update(with_error, [str(tmp_path / "missing.png"), paths[20]])
    assert monitor.n_parts_ == 12
    monitor.update(with_error * 4)
    assert monitor.blocks_[1]["n_errors"] == 5
    with pytest.raises(ValueError, match=r"watches brightness, .* part 1 comes without"):
        monitor.update([numbers[0], {"score": 1.0}])
    with pytest.raises(ValueError, match="2 parts and 1 images"):
        monitor.update(with_error, paths[:1])
    with pytest.raises(ValueError, match="20 calibration scores and 19 images"):
        DriftMonitor().fit(pipe, paths[:19])
    assert monitor.n_parts_ == 20


def test_training_images_are_no_exact_reference():
    rows = np.random.RandomState(12).normal(size=(60, 3))
    trained = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(rows)
    with pytest.warns(UserWarning, match="out-of-sample scores of training images"):
        DriftMonitor().fit(trained)
    held_out = ThresholdCalibrator(FrozenEstimator(trained.estimator_), quantile=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DriftMonitor().fit(held_out.fit(rows + 0.1))
        DriftMonitor().fit(trained.recalibrate(rows + 0.1))


def test_what_is_wrong_is_refused():
    rng = np.random.RandomState(7)
    with pytest.raises(NotFittedError):
        DriftMonitor().update([0.5])
    with pytest.raises(NotFittedError):
        DriftMonitor().restart()
    for params, name in (
        ({"false_alarm_rate": 0}, "false_alarm_rate"),
        ({"max_fail_rate": 1.5}, "max_fail_rate"),
        ({"block_size": 0}, "block_size"),
    ):
        with pytest.raises(ValueError, match=name):
            DriftMonitor(**params).fit(calibrated(range(20)))
    with pytest.raises(TypeError, match="calibrator must be"):
        DriftMonitor().fit(PatchCoreDetector().fit(rng.normal(size=(30, 3))))
    monitor = DriftMonitor().fit(calibrated(range(20)))
    before = pickle.dumps(monitor)
    for parts, message in (
        ([{"score": 1.0}, {"score": math.nan}], "part 1 has score=nan"),
        ([{"index": 3}], "part 0 has score=None"),
        ([[0.5, 0.5]], "results of infer, or p-values"),
        (["a"], "results of infer, or p-values"),
    ):
        with pytest.raises(ValueError, match=message):
            monitor.update(parts)
    with pytest.raises(TypeError, match="give \\[result\\]"):
        monitor.update({"score": 1.0})
    assert monitor.update([]) == []
    assert pickle.dumps(monitor) == before


def test_brightness_contrast_and_sharpness_are_told_apart():
    rng = np.random.RandomState(8)
    image = cv2.GaussianBlur(rng.randint(0, 256, (64, 64, 3)).astype(np.uint8), (0, 0), 1.0)
    usual = image_statistics(image // 2)
    brighter = image_statistics((image // 2 * 1.2).round().astype(np.uint8))
    assert brighter["brightness"] == pytest.approx(1.2 * usual["brightness"], rel=0.01)
    assert brighter["contrast"] == pytest.approx(usual["contrast"], rel=0.01)
    assert brighter["sharpness"] == pytest.approx(usual["sharpness"], rel=0.02)
    blurred = image_statistics(cv2.GaussianBlur(image // 2, (0, 0), 2.0))
    assert blurred["brightness"] == pytest.approx(usual["brightness"], rel=0.02)
    assert blurred["sharpness"] < 0.5 * usual["sharpness"]
    foggy = image_statistics(image // 4 + 60)
    assert foggy["contrast"] < 0.7 * usual["contrast"]
    for level in (0, 255):
        found = image_statistics(np.full((8, 8), level, np.uint8))
        assert found == {"brightness": level / 255, "contrast": 0.0, "sharpness": 0.0}
    for wrong in (image.astype(float), image[None], image[..., :2]):
        with pytest.raises(ValueError, match="image must be uint8"):
            image_statistics(wrong)


# ---- state ----------------------------------------------------------------------------
def test_a_restarted_program_goes_on_where_it_was(tmp_path):
    rng = np.random.RandomState(9)
    whole = watching(rng, block_size=7, max_fail_rate=0.2)
    parts = seen(rng, 40) + seen(rng, 60, shift=1.5)
    pieces = copy.deepcopy(whole)
    alarms = whole.update(parts)
    assert len(alarms) == 1
    found = []
    for k, (start, stop) in enumerate([(0, 1), (1, 33), (33, 60), (60, 61), (61, 100)]):
        found += pieces.update(parts[start:stop])
        path = tmp_path / f"{k}.joblib"
        if k % 2:
            pieces = load(save(pieces, path))
        else:
            joblib.dump(pieces, path)
            pieces = joblib.load(path)
    assert without_time(found) == without_time(alarms) == without_time(pieces.alarms_)
    assert pieces.evidence_ == whole.evidence_
    assert without_time(pieces.blocks_) == without_time(whole.blocks_)
    assert len(pieces.blocks_) == 100 // 7


def test_only_the_last_blocks_are_kept(monkeypatch):
    monkeypatch.setattr("pyimgano.monitoring._MOST_BLOCKS", 3)
    rng = np.random.RandomState(10)
    monitor = watching(rng, block_size=2)
    monitor.update(seen(rng, 11))
    assert [one["first_part"] for one in monitor.blocks_] == [4, 6, 8]


def test_wrong_state_is_refused_or_without_harm(tmp_path):
    rng = np.random.RandomState(11)
    monitor = watching(rng, block_size=3, max_fail_rate=0.2)
    monitor.update(seen(rng, 4, shift=3.0))
    parts, path, n = seen(rng, 8), tmp_path / "a.joblib", 0
    for turn, (name, value) in enumerate(list(vars(monitor).items())):
        # A third of all changes, others for each attribute.
        for what, wrong in list(wrong_values(value))[turn % 3 :: 3]:
            changed = copy.copy(monitor)
            vars(changed).pop(name) if wrong is GONE else vars(changed).update({name: wrong})
            write(changed, path)
            n += 1
            try:
                again = load(path)
            except UntrustedFileError:
                continue
            again.update(parts)
            assert np.isfinite(list(again.evidence_.values())).all(), f"{name} {what}"
    assert n > 60
    unfitted = load(save(DriftMonitor(false_alarm_rate=0.2), tmp_path / "b.joblib"))
    assert unfitted.false_alarm_rate == 0.2
