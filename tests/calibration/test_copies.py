"""A threshold by varied copies of one image: what it says of itself, and what moves it."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy

import numpy as np
import pytest

import pyimgano
from pyimgano import ThresholdCalibrator
from pyimgano.calibration._words import threshold_in_words
from pyimgano.detectors import AnomalyDINODetector
from pyimgano.exceptions import (
    ImageFormatError,
    TooFewImagesError,
    TooFewImagesWarning,
    TrainingImagesError,
)
from pyimgano.features import FilterBankFeatures
from pyimgano.synthesis import ImageAugmentation
from pyimgano.tiling import TilingTransformer

GOOD = np.random.RandomState(0).randint(90, 110, (12, 32, 32, 3)).astype(np.uint8)


def made(**options):
    detector = AnomalyDINODetector(FilterBankFeatures(resize=32), n_rotations=2)
    return ThresholdCalibrator(detector, quantile=0.8, cv="copies", **options)


@pytest.fixture(scope="module")
def calibrator():
    with pytest.warns(TooFewImagesWarning, match="one good image does not tell how good parts"):
        return made().fit(GOOD[:1])


def test_the_threshold_is_at_the_largest_score_of_the_copies(calibrator):
    copies = [ImageAugmentation(random_state=i).transform(GOOD[:1])[0] for i in range(13)]
    detector = made().estimator.fit([GOOD[0], copies[0]])
    assert calibrator.threshold_ == -detector.score_samples(copies[1:]).min()
    np.testing.assert_array_equal(
        calibrator.score_samples(GOOD), calibrator.estimator_.score_samples(GOOD)
    )
    assert calibrator.anomaly_map(GOOD[:1]).shape == (1, 32, 32)
    bad = GOOD[:1].copy()
    bad[0, 8:16, 8:16] = 255
    assert calibrator.predict(np.concatenate([GOOD[:1], bad])).tolist() == [1, -1]


def test_nothing_is_promised(calibrator, tmp_path):
    provenance = json.loads(json.dumps(calibrator.provenance_))
    assert provenance["n_images"] == len(calibrator.calibration_scores_) == 0
    assert provenance["scores"].startswith("none of good parts; the threshold is at the largest")
    assert provenance["method"] == "largest score of varied copies"
    assert provenance["target_false_positive_rate"] is provenance["confidence"] is None
    assert calibrator.expected_false_positive_rate_ is None
    assert provenance["expected_false_positive_rate"] is None
    assert calibrator.false_positive_rate_interval_ == (0.0, 1.0)
    assert calibrator.p_value(GOOD).tolist() == [1.0] * 12
    line, advice = threshold_in_words(provenance)
    assert line.endswith("does not tell what share of new good parts will be called bad")
    assert "recalibrate" in advice and "%" not in line
    with pytest.raises(TooFewImagesError):
        calibrator.select(GOOD, 0.2)
    pyimgano.save(calibrator, tmp_path / "one.joblib")
    loaded = pyimgano.load(tmp_path / "one.joblib")
    assert loaded.threshold_ == calibrator.threshold_
    assert loaded.provenance_ == calibrator.provenance_


def test_good_images_make_it_a_threshold_like_others(calibrator):
    moved = deepcopy(calibrator)
    for change in (
        lambda: moved.set_quantile(0.5),
        lambda: setattr(moved, "method", "quantile"),
        lambda: moved.set_params(method="conditional"),
    ):
        with pytest.raises(TooFewImagesError, match=r"nothing was changed|Give 2 more"):
            change()
    assert moved.threshold_ == calibrator.threshold_ and moved.method == "conformal"
    assert moved.set_threshold(0.5).expected_false_positive_rate_ is None
    assert "put by hand" in threshold_in_words(moved.provenance_)[0]
    with pytest.raises(TrainingImagesError, match="learned from copies of them"):
        moved.recalibrate(GOOD)
    moved.recalibrate(GOOD[1:10])
    scores = np.sort(-calibrator.score_samples(GOOD[1:10]))
    assert moved.threshold_ == np.nextafter(scores[7], -np.inf)  # the 8th of 9, for 0.8
    assert moved.expected_false_positive_rate_ == pytest.approx(0.2)
    assert moved.provenance_["method"] == "conformal"
    assert moved.provenance_["target_false_positive_rate"] == 0.2
    assert moved.p_value(GOOD[1:10]).max() < 1.0


@pytest.mark.parametrize("cv", ["auto", 5])
def test_it_stays_so_when_cv_is_set_for_the_next_fit(calibrator, cv, tmp_path):
    changed = deepcopy(calibrator)
    with pytest.warns(UserWarning, match="cv takes effect in the next fit"):
        changed.set_params(cv=cv)
    pyimgano.save(changed, tmp_path / "one.joblib")
    for again in (pyimgano.load(tmp_path / "one.joblib"), pickle.loads(pickle.dumps(changed))):
        assert again.cv == cv and len(again.calibration_scores_) == 0
        with pytest.raises(TrainingImagesError, match=r"1 of the 12 images .* first is at index 0"):
            again.recalibrate(GOOD)


@pytest.mark.parametrize(
    ("X", "error"),
    [
        (GOOD[:2], ImageFormatError),
        (np.zeros((1, 5)), ImageFormatError),
        (TilingTransformer(16).fit_transform(GOOD[:1]), ImageFormatError),
        (GOOD[:0], TooFewImagesError),
    ],
)
def test_it_is_for_one_image(X, error):
    with pytest.raises(error):
        made().fit(X)


def test_there_are_no_folds_to_keep():
    with pytest.raises(ValueError, match='with cv="copies" there are none'):
        made(ensemble=True).fit(GOOD[:1])
