"""``PixelThresholdCalibrator``: whose maps, which rate, and where it is found again."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from pyod.models.knn import KNN
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import pyimgano
from pyimgano._nesting import find_calibrator, find_defects, innermost
from pyimgano.calibration import PixelThresholdCalibrator, ThresholdCalibrator
from pyimgano.calibration._recognition import maps_own_out_of_sample
from pyimgano.defects import DefectExtractor
from pyimgano.detectors import PatchCoreDetector, PixelGaussianDetector, PyODDetector
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.exceptions import TooFewImagesError, TrainingImagesError
from pyimgano.features import FilterBankFeatures
from pyimgano.inputs import ImageFormatNormalizer


class MeanImage(OutlierMixin, BaseEstimator):
    """A detector of another package: distance to the mean image, training images included."""

    fits: list = []

    def __init__(self, size=(2, 3)):
        self.size = size

    def fit(self, X, y=None):
        type(self).fits.append(len(X))
        self.mean_ = np.mean(X, axis=0)
        self.n_features_in_ = len(self.mean_)
        self.offset_ = -1.0
        return self

    def score_and_map(self, X):
        maps = np.abs(np.asarray(X) - self.mean_).reshape(-1, *self.size).astype(np.float32)
        return -maps.max(axis=(1, 2)).astype(float), maps

    def anomaly_map(self, X):
        return self.score_and_map(X)[1]

    def score_samples(self, X):
        return self.score_and_map(X)[0]

    def decision_function(self, X):
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        return np.where(self.decision_function(X) < 0, -1, 1)


class Maps(MeanImage):
    """Samples are maps already."""

    def score_and_map(self, X):
        maps = np.asarray(X, np.float32).reshape(-1, *self.size)
        return -maps.max(axis=(1, 2)).astype(float), maps


ROWS = np.random.RandomState(0).normal(size=(20, 6))
IMAGES = np.random.RandomState(1).randint(90, 110, (12, 24, 24, 3)).astype(np.uint8)
TEMPLATE = PixelGaussianDetector(resize=24, max_shift=0, smoothing_sigma=0)


def bad_image():
    image = IMAGES[:1].copy()
    image[0, 8:14, 6:16] = 255
    return image


# ---- whose maps -----------------------------------------------------------------------
def test_maps_of_a_detector_that_leaves_out_are_its_own():
    model = PixelThresholdCalibrator(clone(TEMPLATE), quantile=0.9).fit(IMAGES)
    assert model.pixel_provenance_["maps"] == "the detector's own out-of-sample maps"
    expected = model.anomaly_map(IMAGES).max(axis=(1, 2))
    np.testing.assert_array_equal(model.region_scores_, expected)
    # They are not those of a model that has seen the image, up to what makes it another one.
    nudged = IMAGES.copy()
    nudged[:, 0, 0, 0] += 1
    assert (model.anomaly_map(nudged).max(axis=(1, 2)) < expected).mean() > 0.7


def test_maps_of_other_detectors_come_from_folds():
    model = PixelThresholdCalibrator(MeanImage(), quantile=0.9).fit(ROWS)
    assert model.pixel_provenance_["maps"] == "5 folds"
    expected = np.empty(20)
    for train, test in KFold(5, shuffle=True, random_state=0).split(ROWS):
        expected[test] = -MeanImage().fit(ROWS[train]).score_samples(ROWS[test])
    np.testing.assert_array_equal(model.region_scores_, expected)
    np.testing.assert_array_equal(model.estimator_.mean_, ROWS.mean(axis=0))


def test_groups_are_left_out_together_by_both_calibrators():
    groups = np.repeat(np.arange(4), 5)
    model = PixelThresholdCalibrator(ThresholdCalibrator(MeanImage(), quantile=0.9), quantile=0.9)
    model.fit(ROWS, groups=groups)
    expected = np.empty(20)
    for train, test in GroupKFold(4).split(ROWS, groups=groups):
        expected[test] = -MeanImage().fit(ROWS[train]).score_samples(ROWS[test])
    np.testing.assert_array_equal(model.region_scores_, expected)
    np.testing.assert_array_equal(model.calibration_scores_, expected)


def test_folds_given_test_each_good_image_once_and_leave_out_anomalies():
    y = np.ones(20, dtype=int)
    y[[3, 7]] = -1
    good = np.flatnonzero(y == 1)
    model = PixelThresholdCalibrator(MeanImage(), cv=3, quantile=0.9).fit(ROWS, y)
    expected = np.empty(18)
    for train, test in KFold(3).split(good):
        expected[test] = -MeanImage().fit(ROWS[good[train]]).score_samples(ROWS[good[test]])
    np.testing.assert_array_equal(model.region_scores_, expected)


def test_a_step_that_has_learned_from_the_images_asks_for_folds():
    detector = PatchCoreDetector().fit(ROWS)
    assert maps_own_out_of_sample(detector)
    assert maps_own_out_of_sample(ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(ROWS))
    assert not maps_own_out_of_sample(
        make_pipeline(StandardScaler(), PatchCoreDetector()).fit(ROWS)
    )
    both = [("one", PatchCoreDetector()), ("other", MeanImage((1, 6)))]
    assert not maps_own_out_of_sample(ScoreEnsemble(both).fit(ROWS))


@pytest.mark.parametrize(
    ("estimator", "cv", "source"),
    [
        (Maps().fit(ROWS), "prefit", "held-out images (prefit)"),
        (FrozenEstimator(Maps().fit(ROWS)), "auto", "images given to a frozen model"),
        (
            ThresholdCalibrator(FrozenEstimator(Maps().fit(ROWS)), cv="prefit", quantile=0.9),
            "auto",
            "images given to a frozen model",
        ),
    ],
)
def test_maps_of_a_fitted_model_are_those_of_the_images_given(estimator, cv, source):
    model = PixelThresholdCalibrator(estimator, cv=cv, quantile=0.9).fit(ROWS)
    assert model.pixel_provenance_["maps"] == source
    np.testing.assert_allclose(model.region_scores_, ROWS.max(axis=1), rtol=1e-6)


def test_models_are_fitted_once_with_a_memory(tmp_path):
    made = PixelThresholdCalibrator(MeanImage(), quantile=0.9, memory=str(tmp_path))
    made.fit(ROWS)
    MeanImage.fits.clear()
    clone(made).set_params(extractor=DefectExtractor(min_area=2), quantile=0.8).fit(ROWS)
    assert MeanImage.fits == []


# ---- which rate -----------------------------------------------------------------------
def test_the_threshold_is_an_order_statistic_of_region_scores():
    model = PixelThresholdCalibrator(FrozenEstimator(Maps().fit(ROWS)), quantile=0.9).fit(ROWS)
    scores = np.sort(model.region_scores_)
    assert model.pixel_threshold_ == np.nextafter(scores[18], 0)  # ceil(21 * 0.9) = 19
    assert [len(regions) > 0 for regions in model.defects(ROWS)] == (
        (model.region_scores_ >= scores[18]).tolist()
    )
    about = model.pixel_provenance_
    assert about["expected_false_positive_rate"] == pytest.approx(2 / 21)
    assert about["lowest_supported_rate"] == pytest.approx(1 / 21)
    assert (about["target"], about["method"], about["n_images"]) == ("images", "conformal", 20)


def test_the_rate_holds_with_every_step():
    rng = np.random.RandomState(0)
    size = (12, 12)
    train, new = rng.exponential(size=(99, 144)), rng.exponential(size=(400, 144))
    extractor = DefectExtractor(
        map_smoothing=("median", 3),
        hysteresis=(0.6, 1.0),
        merge_nearby=1,
        min_area=4,
        shape_filters={"max_aspect_ratio": 2.0, "min_solidity": 0.8},
    )
    model = PixelThresholdCalibrator(
        FrozenEstimator(Maps(size).fit(train)), extractor, quantile=0.9
    ).fit(train)
    rate = np.mean([len(regions) > 0 for regions in model.defects(new)])
    assert 0.02 < rate < 0.17  # 10 % by 99 images and 400: three standard deviations


def test_a_quantile_of_pixels():
    frozen = FrozenEstimator(Maps().fit(ROWS))
    model = PixelThresholdCalibrator(frozen, target="pixels", quantile=0.95).fit(ROWS)
    pixels = ROWS.astype(np.float32)
    assert model.pixel_threshold_ == np.sort(pixels.ravel())[113]  # 6 of 120 are above
    n_above = (pixels.max(axis=1) > model.pixel_threshold_).sum()
    assert model.pixel_provenance_["expected_false_positive_rate"] == (n_above + 1) / 21


def test_a_rate_that_so_few_images_do_not_support_is_refused_before_any_fit():
    MeanImage.fits.clear()
    with pytest.raises(TooFewImagesError, match="needs the scores of at least 49 good images"):
        PixelThresholdCalibrator(MeanImage()).fit(ROWS)
    with pytest.raises(TooFewImagesError, match="conditional"):
        PixelThresholdCalibrator(MeanImage(), quantile=0.9, method="conditional").fit(ROWS)
    assert MeanImage.fits == []
    PixelThresholdCalibrator(MeanImage(), target="pixels", quantile=0.999).fit(ROWS)


# ---- moving it ------------------------------------------------------------------------
def test_the_threshold_moves_by_hand_and_by_rate():
    model = PixelThresholdCalibrator(FrozenEstimator(Maps().fit(ROWS)), quantile=0.9).fit(ROWS)
    before = model.pixel_threshold_
    model.pixel_threshold_ = 0.5
    assert model.extractor_.threshold_ == 0.5
    assert model.pixel_provenance_["method"] == "set by hand"
    n_above = (model.region_scores_ > 0.5).sum()
    assert model.pixel_provenance_["expected_false_positive_rate"] == (n_above + 1) / 21
    model.set_pixel_quantile(0.8)
    assert (model.quantile, model.pixel_provenance_["target_rate"]) == (0.8, 0.2)
    assert [entry["call"] for entry in model.pixel_provenance_["history"]] == [
        "assignment of pixel_threshold_",
        "set_pixel_quantile",
    ]
    assert model.pixel_provenance_["history"][0]["before"]["threshold"] == before
    with pytest.raises(TooFewImagesError):
        model.set_pixel_quantile(0.99)
    with pytest.raises(ValueError, match="must be a finite number"):
        model.pixel_threshold_ = np.nan
    assert len(model.pixel_provenance_["history"]) == 2


def test_other_good_images_move_both_thresholds_and_nothing_else():
    model = PixelThresholdCalibrator(
        ThresholdCalibrator(TEMPLATE, quantile=0.8),
        DefectExtractor(min_area=2, border_ignore_px=1),
        quantile=0.75,
    ).fit(IMAGES)
    new = np.random.RandomState(2).randint(80, 120, (9, 24, 24, 3)).astype(np.uint8)
    before, scores = model.pixel_provenance_, model.score_samples(new)
    cut = model.threshold_
    assert model.recalibrate(new) is model
    # The same as a calibrator of the fitted detector that is given these images.
    apart = PixelThresholdCalibrator(
        ThresholdCalibrator(FrozenEstimator(model.estimator_.estimator_), quantile=0.8),
        DefectExtractor(min_area=2, border_ignore_px=1),
        quantile=0.75,
        cv="prefit",
    )
    apart.set_params(estimator=apart.estimator.fit(new))
    apart.fit(new)
    np.testing.assert_array_equal(model.region_scores_, apart.region_scores_)
    assert model.pixel_threshold_ == apart.pixel_threshold_ != before["threshold"]
    assert model.threshold_ == apart.threshold_ != cut
    np.testing.assert_array_equal(model.score_samples(new), scores)
    (entry,) = model.pixel_provenance_["history"]
    assert entry["call"] == "recalibrate" and entry["before"]["n_images"] == 12
    told = model.pixel_provenance_
    assert (told["maps"], told["n_images"]) == ("images given to recalibrate", 9)
    assert told["base"] == model.extractor_.base_ == apart.extractor_.base_ != before["base"]
    assert told["lowest_supported_rate"] == pytest.approx(0.1)
    assert find_calibrator(model).provenance_["history"][-1]["call"] == "recalibrate"
    # A new rate is that of both; training images count by their out-of-sample maps.
    model.recalibrate(np.concatenate([new, IMAGES[:3]]), quantile=0.9)
    assert (model.quantile, find_calibrator(model).quantile) == (0.9, 0.9)
    assert model.pixel_provenance_["maps"].endswith(
        ", 3 of them training images by their out-of-sample maps"
    )
    assert model.pixel_provenance_["target_rate"] == 0.1


def test_what_no_threshold_can_be_put_on_is_refused_and_changes_nothing():
    model = PixelThresholdCalibrator(ThresholdCalibrator(MeanImage(), quantile=0.8), quantile=0.75)
    model.fit(ROWS)
    state = model.pixel_provenance_, find_calibrator(model).provenance_
    new = np.random.RandomState(3).normal(size=(8, 6))
    with pytest.raises(TrainingImagesError, match=r"1 of the 9 images .* trained on.* index 8"):
        model.recalibrate(np.concatenate([new, ROWS[:1]]))
    with pytest.raises(TooFewImagesError):
        model.recalibrate(new, quantile=0.99)
    with pytest.raises(TooFewImagesError, match="at least 2 good images, got 1"):
        model.recalibrate(new[:1])
    with pytest.raises(ValueError, match="quantile must be a number"):
        model.recalibrate(new, quantile=1)
    # Enough for the pixel threshold, and not for that of images.
    find_calibrator(model).set_quantile(0.95)
    state = model.pixel_provenance_, find_calibrator(model).provenance_
    with pytest.raises(TooFewImagesError):
        model.recalibrate(new)
    assert (model.pixel_provenance_, find_calibrator(model).provenance_) == state
    assert model.quantile == 0.75


def test_parameters_count_as_they_were_in_fit():
    model = PixelThresholdCalibrator(MeanImage(), DefectExtractor(), quantile=0.9).fit(ROWS)
    before = model.defects(ROWS)
    with pytest.warns(UserWarning, match="extractor__min_area takes effect in the next fit"):
        model.set_params(extractor__min_area=3)
    assert model.defects(ROWS) == before
    model.set_params(quantile=0.8)
    with pytest.warns(UserWarning, match="call set_pixel_quantile"):
        assert model.defects(ROWS) == before


def test_before_fit_there_is_no_threshold():
    model = PixelThresholdCalibrator(MeanImage())
    for name in ("pixel_threshold_", "threshold_", "offset_"):
        with pytest.raises(NotFittedError, match=name):
            getattr(model, name)
    with pytest.raises(NotFittedError):
        model.pixel_threshold_ = 1.0


# ---- one model with both --------------------------------------------------------------
def test_one_file_holds_verdict_and_defects(tmp_path):
    inner = ThresholdCalibrator(clone(TEMPLATE), quantile=0.9)
    model = PixelThresholdCalibrator(inner, DefectExtractor(min_area=4), quantile=0.9)
    pipe = make_pipeline(ImageFormatNormalizer(), model).fit(IMAGES)
    pyimgano.save(pipe, tmp_path / "line.joblib")
    for loaded in (pyimgano.load(tmp_path / "line.joblib"), joblib.load(tmp_path / "line.joblib")):
        found = find_defects(loaded)
        assert found is loaded[-1]
        ((region,),) = found.defects(bad_image())
        assert region.bbox_xyxy == (6, 8, 16, 14)
        assert loaded.predict(bad_image()) == [-1]
        assert found.p_value(bad_image()) == [1 / 13]
        assert found.threshold_ == find_calibrator(loaded).threshold_
        assert found.score_and_map(bad_image())[1].shape == (1, 24, 24)
        found.threshold_ = 1e9
        assert loaded.predict(bad_image()) == [1]
        assert find_calibrator(loaded).provenance_["method"] == "set by hand"


def test_defects_are_found_in_any_nesting():
    model = PixelThresholdCalibrator(MeanImage(), quantile=0.9)
    for nesting in (
        model,
        make_pipeline(FunctionTransformer(), model),
        FrozenEstimator(model),
        ThresholdCalibrator(model),
        GridSearchCV(make_pipeline(FunctionTransformer(), ThresholdCalibrator(model)), {}),
    ):
        assert find_defects(nesting) is model
        assert type(innermost(nesting)[0]) is MeanImage
    assert find_defects(ThresholdCalibrator(MeanImage())) is None
    assert find_calibrator(model) is None and not hasattr(model, "p_value")


def test_defects_come_one_image_at_a_time():
    model = PixelThresholdCalibrator(MeanImage(), quantile=0.9).fit(ROWS)
    one_by_one = model.iter_defects(ROWS[:5], batch_size=2)
    assert next(one_by_one) == model.defects(ROWS[:1])[0]
    assert list(one_by_one) == model.defects(ROWS[1:5])


def test_the_region_of_interest_of_the_detector_is_that_of_its_defects():
    mask = np.zeros((24, 24), dtype=bool)
    mask[:, :12] = True
    model = PixelThresholdCalibrator(
        clone(TEMPLATE), DefectExtractor(roi=(0, 0, 1, 0.5)), quantile=0.9
    ).fit(IMAGES, roi_mask=mask)
    mask[12:] = False
    np.testing.assert_array_equal(model.extractor_.roi, mask)
    ((region, *_),) = model.defects(bad_image())
    assert region.bbox_xyxy == (6, 8, 12, 12)
    assert model.pixel_provenance_["extractor"] == {"roi": "a mask of 24 x 24 pixels"}


def test_detectors_without_maps_are_refused():
    with pytest.raises(TypeError, match="PyODDetector makes no anomaly maps"):
        PixelThresholdCalibrator(PyODDetector(KNN()), quantile=0.9).fit(ROWS)
    pooled = make_pipeline(FunctionTransformer(_means), PatchCoreDetector())
    with pytest.raises(TypeError, match="PatchCoreDetector makes no anomaly maps"):
        PixelThresholdCalibrator(pooled, quantile=0.9).fit(IMAGES)
    with pytest.raises(TypeError, match="give an instance"):
        PixelThresholdCalibrator(PatchCoreDetector).fit(ROWS)


def _means(images):
    return np.mean(images, axis=(1, 2))


def test_a_feature_step_that_fits_its_images_better_asks_for_folds(cross_fit):
    detector = PatchCoreDetector(FilterBankFeatures(resize=32)).fit(IMAGES[:4])
    assert detector.features_.overfits_
    assert not maps_own_out_of_sample(detector)
