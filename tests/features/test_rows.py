"""Descriptors as steps: sizes, files, names, pipelines, searches, saving."""

from __future__ import annotations

import cv2
import joblib
import numpy as np
import pytest
from pyod.models.knn import KNN
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import pyimgano
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import PaDiMDetector, PyODDetector
from pyimgano.exceptions import ImageFormatError, ImageReadError
from pyimgano.features import (
    ColorHistogram,
    ColorMoments,
    EdgeFeatures,
    FFTBandFeatures,
    FilterBankFeatures,
    GaborFeatures,
    GLCMFeatures,
    HOGFeatures,
    LBPFeatures,
    PatchPooling,
    PatchStatistics,
)
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence
from pyimgano.model_selection import OneClassKFold, anomaly_roc_auc

STEPS = [
    ColorHistogram(),
    ColorMoments(),
    EdgeFeatures(resize=64),
    FFTBandFeatures(resize=64),
    GLCMFeatures(resize=64),
    GaborFeatures(0.4, resize=64),
    HOGFeatures(64),
    LBPFeatures(1, resize=64),
    PatchStatistics(),
]


def names(steps):
    return [type(step).__name__ for step in steps]


@pytest.fixture(scope="module")
def data():
    return make_inspection_dataset(
        "wood", n_train=16, n_test_good=4, n_test_defect=4, size=64, random_state=0
    )


def write(image, path):
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    return str(path)


# ---- sizes and files ----------------------------------------------------------------
@pytest.mark.parametrize("step", STEPS, ids=names(STEPS))
def test_images_of_any_size_have_rows_of_one_length(step, data):
    images = [data.X_test[0], data.X_test[1][:40], cv2.resize(data.X_test[2], (100, 90))]
    rows = step.transform(images)
    assert rows.shape == (3, len(step.get_feature_names_out()))
    np.testing.assert_array_equal(rows[1], step.transform([images[1]])[0])


@pytest.mark.parametrize("step", STEPS, ids=names(STEPS))
def test_resize_is_that_of_the_normalizer(step, data):
    resized = ImageFormatNormalizer(resize=(72, 64)).transform(data.X_test[:2])
    expected = clone(step).set_params(resize=(72, 64)).transform(data.X_test[:2])
    if not isinstance(step, HOGFeatures):  # it has always got a size
        step = clone(step).set_params(resize=None)
    else:
        step = HOGFeatures((72, 64))
    np.testing.assert_array_equal(step.transform(resized), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_nothing(batch_size, data, tmp_path):
    paths = [write(image, tmp_path / f"{i}.png") for i, image in enumerate(data.X_test)]
    union = make_union(ColorMoments(batch_size=batch_size), HOGFeatures(64, batch_size=batch_size))
    expected = make_union(ColorMoments(), HOGFeatures(64)).fit_transform(data.X_test)
    np.testing.assert_array_equal(union.fit_transform(ImageSequence(paths)), expected)


@pytest.mark.parametrize(
    ("step", "side"),
    [
        (LBPFeatures((1, 2.5), resize=None), 7),
        (GLCMFeatures((1, 5), resize=None), 6),
        (FFTBandFeatures(3, resize=None), 8),
        (EdgeFeatures(resize=None), 3),
        (PatchStatistics(4), 4),
    ],
)
def test_the_smallest_image(step, side):
    image = np.random.RandomState(0).randint(0, 256, (side, side, 3)).astype(np.uint8)
    assert np.isfinite(step.transform([image])).all()
    small = image[:, 1:]
    message = f"image 1 has {side} x {side - 1} pixels.*at least {side} x {side}.*Set resize"
    with pytest.raises(ImageFormatError, match=message):
        step.transform([image, small])
    # Enlarged first, it is fine; a working size that is too small is found without images.
    assert clone(step).set_params(resize=side).transform([small]).shape[0] == 1
    with pytest.raises(ValueError, match=f"resize={side - 1} is too small"):
        clone(step).set_params(resize=side - 1).get_feature_names_out()


def test_one_pixel_has_a_color():
    red = np.full((1, 1, 3), (255, 0, 0), dtype=np.uint8)
    assert ColorMoments("rgb").transform([red])[0, 0] == 255
    assert ColorHistogram().transform([red])[0, 7] == 1
    assert np.isfinite(HOGFeatures().transform([red])).all()
    assert np.isfinite(GaborFeatures(resize=None).transform([red])).all()


def test_a_small_file_is_named(tmp_path):
    path = write(np.zeros((2, 9, 3), dtype=np.uint8), tmp_path / "tiny.png")
    with pytest.raises(ImageFormatError, match=r"tiny\.png has 2 x 9 pixels"):
        EdgeFeatures(resize=None).transform([path])


def test_an_unreadable_file_is_named(tmp_path, data):
    good = write(data.X_test[0], tmp_path / "good.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "good.png").read_bytes()[:200])
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        HOGFeatures().transform([good, str(broken)])


@pytest.mark.parametrize("X", [[], np.zeros((0, 8, 8, 3), np.uint8)], ids=["list", "array"])
def test_no_images_are_an_error(X):
    for call in (ColorMoments().fit, ColorMoments().transform):
        with pytest.raises(ImageFormatError):
            call(X)


@pytest.mark.parametrize(
    ("X", "way_out"),
    [
        (np.zeros((2, 64, 64), np.uint8), "gray_u8_hw"),
        (np.zeros((2, 64, 64, 3), np.float32), "rgb_f32_hwc"),
        (np.zeros((2, 64, 64, 3), np.uint16), "rgb_u16_hwc"),
        (np.zeros((4, 3)), "float64"),
    ],
)
def test_what_is_not_canonical_is_refused_with_the_way_out(X, way_out):
    for call in (HOGFeatures().fit, HOGFeatures().transform):
        with pytest.raises(ImageFormatError, match=way_out):
            call(X)


# ---- names and tables ---------------------------------------------------------------
@pytest.mark.parametrize("step", STEPS, ids=names(STEPS))
def test_names_need_no_fit_and_are_readable(step):
    columns = step.get_feature_names_out()
    assert columns.dtype == object
    assert all(name.replace("-", "").replace(".", "").isascii() for name in columns)
    assert not any(" " in name for name in columns)
    check_is_fitted(step)  # says of itself that it need not be


def test_a_union_as_a_data_frame(data):
    pd = pytest.importorskip("pandas")
    union = FeatureUnion([("color", ColorMoments()), ("spectrum", FFTBandFeatures(2, resize=64))])
    frame = union.set_output(transform="pandas").fit_transform(data.X_test)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns[:2]) == ["color__lightness_mean", "color__lightness_std"]
    assert list(frame.columns[-2:]) == ["spectrum__band_0-0.25", "spectrum__band_0.25-0.5"]
    np.testing.assert_array_equal(
        frame["color__lightness_mean"], ColorMoments().transform(data.X_test)[:, 0]
    )


def test_names_go_on_through_a_pipeline(data):
    pipe = make_pipeline(make_union(LBPFeatures(1, resize=64), ColorMoments()), StandardScaler())
    pipe.fit(data.X_train)
    columns = pipe.get_feature_names_out()
    assert columns[0] == "lbpfeatures__radius1_pattern0"
    assert columns[-1] == "colormoments__blue_yellow_skewness"
    assert len(columns) == pipe.transform(data.X_test).shape[1] == 19


def test_defaults_have_the_documented_lengths():
    lengths = {type(s)(): len(type(s)().get_feature_names_out()) for s in STEPS}
    assert list(lengths.values()) == [24, 9, 15, 6, 16, 24, 1764, 30, 96]


# ---- in front of detectors ----------------------------------------------------------
@pytest.mark.parametrize("step", STEPS, ids=names(STEPS))
def test_a_forest_takes_every_descriptor(step, data):
    pipe = make_pipeline(
        ImageFormatNormalizer(),
        clone(step),
        StandardScaler(),
        IsolationForest(n_estimators=5, random_state=0),
    ).fit(data.X_train)
    scores = pipe.score_samples(data.X_test)
    alone = np.concatenate([pipe.score_samples(data.X_test[i : i + 1]) for i in range(8)])
    np.testing.assert_array_equal(scores, alone)
    assert set(pipe.predict(data.X_test)) <= {-1, 1}
    assert "sk-top-container" in pipe._repr_html_()


def test_a_missing_part_is_found(tmp_path):
    rng = np.random.RandomState(0)
    good = rng.randint(90, 110, (24, 48, 48, 3)).astype(np.uint8)
    good[:, 12:36, 12:36] += 100
    bad = good[20:].copy()
    bad[:, 12:36, 24:36] -= 100
    X, y = np.concatenate([good[12:20], bad]), np.array([1] * 8 + [-1] * 4)
    for step in (HOGFeatures(48), PatchStatistics(), ColorHistogram()):
        for detector in (PaDiMDetector(), PyODDetector(KNN())):
            pipe = make_pipeline(clone(step), StandardScaler(), detector).fit(good[:12])
            assert anomaly_roc_auc(pipe, X, y) == 1


def test_a_threshold_is_calibrated_on_images(data):
    pipe = make_pipeline(
        FFTBandFeatures(resize=64),
        StandardScaler(),
        IsolationForest(n_estimators=5, random_state=0),
    )
    calibrator = ThresholdCalibrator(pipe, quantile=0.9).fit(data.X_train)
    assert calibrator.predict(data.X_test).shape == (8,)


def test_a_search_over_the_parameters_of_steps(data):
    pipe = make_pipeline(
        ImageFormatNormalizer(),
        HOGFeatures(64),
        StandardScaler(),
        IsolationForest(n_estimators=10, random_state=0),
    )
    grid = {
        "hogfeatures__pixels_per_cell": [8, (16, 16)],
        "hogfeatures__resize": [32, (48, 64)],
        "isolationforest__n_estimators": [5],
    }
    X, y = np.concatenate([data.X_train, data.X_test]), np.r_[data.y_train, data.y_test]
    search = GridSearchCV(pipe, grid, scoring=anomaly_roc_auc, cv=OneClassKFold(2)).fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["hogfeatures__resize"] in (32, (48, 64))


def test_saving(data, tmp_path):
    union = make_union(HOGFeatures(64), GaborFeatures(0.4, resize=64), LBPFeatures(resize=64))
    pipe = make_pipeline(ImageFormatNormalizer(), union, StandardScaler(), PaDiMDetector())
    expected = pipe.fit(data.X_train).score_samples(data.X_test)
    joblib.dump(pipe, tmp_path / "plain.joblib")
    again = joblib.load(tmp_path / "plain.joblib")
    np.testing.assert_array_equal(again.score_samples(data.X_test), expected)
    path = pyimgano.save(pipe, tmp_path / "line.joblib")
    np.testing.assert_array_equal(pyimgano.load(path).score_samples(data.X_test), expected)


# ---- pooling of patches -------------------------------------------------------------
def two_grids():
    rows = np.array([[1, 10], [3, 10], [5, 40], [7, 0], [2, 2]], dtype=np.float32)
    return PatchGrids(rows, [(2, 2), (1, 1)])


def test_pooling_by_hand():
    pooling = PatchPooling(("mean", "max", "min", "std")).fit(two_grids())
    assert list(pooling.get_feature_names_out()) == [
        "mean_0", "mean_1", "max_0", "max_1", "min_0", "min_1", "std_0", "std_1",
    ]  # fmt: skip
    expected = [[4, 15, 7, 40, 1, 0, 5**0.5, 225**0.5], [2, 2, 2, 2, 2, 2, 0, 0]]
    rows = pooling.transform(two_grids())
    np.testing.assert_allclose(rows, expected)
    assert rows.dtype == np.float64


def test_one_statistic_by_name():
    pooling = PatchPooling("max").fit(two_grids())
    assert pooling.transform(two_grids()).tolist() == [[7, 40], [2, 2]]


def test_pooled_rows_as_a_data_frame():
    pytest.importorskip("pandas")
    frame = PatchPooling("mean").set_output(transform="pandas").fit_transform(two_grids())
    assert frame.to_dict("list") == {"mean_0": [4, 2], "mean_1": [15, 2]}


def test_pooling_refuses_what_it_cannot_pool():
    pooling = PatchPooling().fit(two_grids())
    with pytest.raises(ImageFormatError, match="PatchGrids and was given ndarray"):
        pooling.transform(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"3 features per patch.*fitted on 2"):
        pooling.transform(PatchGrids.from_array(np.zeros((1, 2, 2, 3))))
    with pytest.raises(ImageFormatError, match="no images"):
        pooling.transform(two_grids()[:0])
    with pytest.raises(ValueError, match="'sum' is none of 'mean'"):
        PatchPooling("sum").fit(two_grids())


def test_patch_features_in_front_of_a_forest(data):
    pipe = make_pipeline(
        FilterBankFeatures(resize=64, n_components=8),
        PatchPooling(),
        StandardScaler(),
        IsolationForest(n_estimators=10, random_state=0),
    ).fit(data.X_train)
    scores = pipe.score_samples(data.X_test)
    np.testing.assert_array_equal(pipe.score_samples(data.X_test[3:4]), scores[3:4])
    search = GridSearchCV(
        pipe,
        {"patchpooling__statistics": ["max", ("mean", "std")]},
        scoring=anomaly_roc_auc,
        cv=OneClassKFold(2),
    ).fit(np.concatenate([data.X_train, data.X_test]), np.r_[data.y_train, data.y_test])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
