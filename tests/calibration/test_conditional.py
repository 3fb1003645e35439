"""A threshold whose rate holds with a stated confidence, and selections from a batch."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from scipy.stats import binom

from pyimgano import load, save
from pyimgano.calibration import ThresholdCalibrator, benjamini_hochberg
from pyimgano.exceptions import TooFewImagesError


def column(values):
    return np.asarray(values, dtype=float).reshape(-1, 1)


def conditional(scores, quantile, **params):
    return ThresholdCalibrator(method="conditional", quantile=quantile, **params).fit(
        column(scores)
    )


# ---- the threshold --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "quantile", "confidence", "rank"),
    [
        # The rate above the k-th of n is at most 1/2 if fewer than k of n fair coins show heads:
        # k = 3 of 3 fails for HHH alone, 7/8; k = 4 of 4 for HHHH, 15/16; k = 3 of 4 for 5 of 16.
        (3, 0.5, 0.875, 3),
        (4, 0.5, 0.9375, 4),
        (4, 0.5, 0.68, 3),
        (4, 0.5, 0.69, 4),
        (2, 0.5, 0.75, 2),
        # 1 - 0.95**59 = 0.9515, and 1 - 0.98**149 = 0.9507: the largest score, and just enough.
        (59, 0.95, 0.95, 59),
        (149, 0.98, 0.95, 149),
    ],
)
def test_ranks_worked_out_by_hand(n, quantile, confidence, rank):
    scores = np.random.RandomState(0).permutation(n)
    calibrator = conditional(scores, quantile, confidence=confidence)
    assert calibrator.threshold_ == rank - 1
    assert calibrator.expected_false_positive_rate_ == pytest.approx((n + 1 - rank) / (n + 1))


def test_ranks_are_the_smallest_that_binomial_tails_allow():
    for n, quantile, confidence in [(80, 0.95, 0.95), (200, 0.9, 0.95), (300, 0.98, 0.99)]:
        rank = conditional(np.arange(1, n + 1), quantile, confidence=confidence).threshold_
        # More than n - rank of n images among the worst 1 - quantile.
        kept = binom.sf(n - np.array([rank - 1, rank]), n, 1 - quantile)
        assert kept[0] < confidence <= kept[1]


def test_with_the_stated_confidence_the_true_rate_is_at_most_the_stated_one():
    # Scores are uniform, so the true rate above a threshold t is exactly 1 - t.
    rng = np.random.RandomState(0)
    above = {"conditional": 0, "conformal": 0}
    for _ in range(2000):
        scores = column(rng.uniform(size=120))
        for method in above:
            calibrator = ThresholdCalibrator(method=method, quantile=0.95).fit(scores)
            above[method] += 1 - calibrator.threshold_ > 0.05
    assert above["conditional"] <= binom.ppf(0.999, 2000, 0.05)
    assert above["conformal"] > 600  # on average only


def test_images_that_tie_with_the_threshold_pass():
    # Three values: flagging those equal to the threshold would flag a fifth, not a tenth.
    rng = np.random.RandomState(1)
    above = 0
    for _ in range(300):
        scores = rng.choice(3, size=60, p=[0.75, 0.2, 0.05])
        cut = conditional(scores, 0.9).threshold_
        above += {0: 0.25, 1: 0.05, 2: 0.0}[int(cut)] > 0.1
    assert above <= binom.ppf(0.999, 300, 0.05)


def test_a_rate_that_so_many_images_cannot_support_is_refused():
    with pytest.raises(TooFewImagesError, match=r"at least 149 .*n_samples=148.*Give 1 more"):
        conditional(range(148), 0.98)
    with pytest.raises(TooFewImagesError, match=r"at least 299 .*lower the quantile to 0\.9704"):
        conditional(range(100), 0.99)
    conditional(range(100), 0.9704)  # it does support what it was told
    calibrator = ThresholdCalibrator(quantile=0.98).fit(column(range(100)))
    before = pickle.dumps(calibrator)
    for move in (
        lambda c: setattr(c, "method", "conditional"),
        lambda c: c.set_params(method="conditional", confidence=0.99),
    ):
        with pytest.raises(TooFewImagesError):
            move(calibrator)
    assert pickle.dumps(calibrator) == before
    calibrator.set_params(method="conditional", quantile=0.95)
    for call in (
        lambda: calibrator.set_quantile(0.99),
        lambda: calibrator.recalibrate(column(range(58))),
    ):
        with pytest.raises(TooFewImagesError, match=r"n_samples=\d+\. Give"):
            call()
    assert calibrator.recalibrate(column(range(59))).threshold_ == 58


def test_the_confidence_moves_the_threshold_at_once_and_is_written_down(tmp_path):
    calibrator = conditional(range(200), 0.9)
    strict = conditional(range(200), 0.9, confidence=0.999)
    calibrator.confidence = 0.999
    assert calibrator.threshold_ == strict.threshold_ > conditional(range(200), 0.9).threshold_
    assert calibrator.provenance_["confidence"] == 0.999
    (entry,) = calibrator.provenance_["history"]
    assert (entry["before"]["confidence"], entry["after"]["confidence"]) == (0.95, 0.999)
    lowest = calibrator.provenance_["lowest_supported_rate"]
    assert (1 - lowest) ** 200 == pytest.approx(1 - 0.999)
    assert json.loads(json.dumps(calibrator.provenance_)) == calibrator.provenance_
    save(calibrator, tmp_path / "c.joblib")
    loaded = load(tmp_path / "c.joblib")
    assert (loaded.confidence, loaded.threshold_) == (0.999, calibrator.threshold_)
    assert calibrator.set_threshold(7.0).provenance_["confidence"] is None
    for wrong in (0, 1, "high"):
        with pytest.raises(ValueError, match="confidence"):
            calibrator.confidence = wrong


def test_the_confidence_moves_nothing_where_the_method_does_not_use_it():
    calibrator = ThresholdCalibrator(quantile=0.9).fit(column(range(50))).set_threshold(7.0)
    calibrator.confidence = 0.5
    assert (calibrator.threshold_, len(calibrator.provenance_["history"])) == (7.0, 1)
    assert calibrator.predict(column([6, 8])).tolist() == [1, -1]


def test_a_calibrator_saved_before_there_was_a_confidence_has_the_usual_one():
    calibrator = ThresholdCalibrator(quantile=0.9).fit(column(range(50)))
    state = calibrator.__getstate__()
    del state["confidence"], state["_parameters_at_fit"]["confidence"]
    del state["provenance_"]["confidence"]
    old = ThresholdCalibrator.__new__(ThresholdCalibrator)
    old.__setstate__(state)
    old.set_quantile(0.8).set_params(method="conditional")
    assert old.threshold_ == conditional(range(50), 0.8).threshold_


# ---- selections -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("p_values", "selected"),
    [
        # At 0.1 and m = 5 the limits are 0.02, 0.04, 0.06, 0.08, 0.1.
        ([0.01, 0.02, 0.03, 0.5, 0.9], [0, 1, 2]),
        ([0.021, 0.041, 0.061, 0.081, 0.101], []),  # each just above its own
        ([0.03, 0.041, 0.061, 0.081, 0.1], [0, 1, 2, 3, 4]),  # the last one takes all along
        ([0.9, 0.06, 0.5, 0.06, 0.06], [1, 3, 4]),  # ties, on the limit
        ([1.0, 1.0, 1.0, 1.0, 1.0], []),
    ],
)
def test_benjamini_hochberg_by_hand(p_values, selected):
    assert np.flatnonzero(benjamini_hochberg(p_values, 0.1)).tolist() == selected


def test_benjamini_hochberg_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match="index 1 is nan"):
        benjamini_hochberg([0.1, np.nan], 0.1)
    with pytest.raises(ValueError, match="rate must be between 0 and 1"):
        benjamini_hochberg([0.1], 1.5)
    assert benjamini_hochberg([], 0.1).tolist() == []


def test_select_by_hand():
    calibrator = ThresholdCalibrator(quantile=0.9).fit(column(range(1, 20)))
    batch = column([30, 5, 19, 18.5, 18])  # p-values: 1/20, 16/20, 2/20, 2/20, 3/20
    assert calibrator.select(batch, 0.2).tolist() == [True, False, True, True, True]
    assert calibrator.select(batch, 0.15).tolist() == [False] * 5
    assert calibrator.select(batch, 0.1, control="fpr").tolist() == [True, False, True, True, False]
    with pytest.raises(ValueError, match="control"):
        calibrator.select(batch, 0.1, control="fwer")
    with pytest.raises(TooFewImagesError, match=r"1 / 20: .* at least 24 good .* 0\.05"):
        calibrator.select(batch, 0.04)
    assert calibrator.select(column([30]), 0.05).tolist() == [True]


@pytest.mark.parametrize("decimals", [8, 0])  # scores without ties, and with many
def test_the_share_of_good_parts_among_those_selected_is_as_stated(decimals):
    rng = np.random.RandomState(2)
    shares, n_found = [], 0
    for _ in range(400):
        calibrator = ThresholdCalibrator(quantile=0.9)
        calibrator.fit(column(rng.normal(size=150).round(decimals)))
        batch = np.r_[rng.normal(size=40), rng.normal(3.5, 1, size=20)].round(decimals)
        chosen = calibrator.select(column(batch), 0.2)
        shares.append(chosen[:40].sum() / max(1, chosen.sum()))
        n_found += chosen[40:].sum()
    # At most the rate times the share of good parts in the batch.
    assert np.mean(shares) <= 0.2 * 40 / 60 + 3 * np.std(shares) / np.sqrt(len(shares))
    assert n_found > 0.5 * 400 * 20
