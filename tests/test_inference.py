"""Scores, maps and records through any nesting."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pyod.models.knn import KNN
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import OneClassSVM

from pyimgano.calibration import PixelThresholdCalibrator, ThresholdCalibrator
from pyimgano.detectors import (
    PaDiMDetector,
    PatchCoreDetector,
    PyODDetector,
    SSIMTemplateDetector,
)
from pyimgano.ensemble import ScoreEnsemble
from pyimgano.exceptions import (
    ImageFormatError,
    ImageReadError,
    TooFewImagesWarning,
    UndefinedScoreError,
)
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import (
    anomaly_map,
    anomaly_scores,
    calibrate_threshold,
    infer,
    iter_infer,
    iter_scores,
    score_with_maps,
    threshold,
)
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence
from pyimgano.testing import make_check_images

pytestmark = pytest.mark.usefixtures("metrics_kept")

TRAIN = make_check_images(10)
NEW = np.concatenate(
    [make_check_images(2, random_state=1), make_check_images(1, defect=True, random_state=2)]
)


@pytest.fixture(scope="module")
def detector():
    return PatchCoreDetector(FilterBankFeatures(resize=64)).fit(TRAIN)


def nestings(detector):
    frozen = FrozenEstimator(detector)
    normalizer = ImageFormatNormalizer()
    yield make_pipeline(normalizer, detector)
    yield make_pipeline(normalizer, "passthrough", make_pipeline(normalizer, detector))
    yield ThresholdCalibrator(frozen, quantile=0.5).fit(TRAIN)
    yield make_pipeline(normalizer, ThresholdCalibrator(frozen, quantile=0.5)).fit(TRAIN)
    yield ThresholdCalibrator(make_pipeline(normalizer, frozen), quantile=0.5).fit(TRAIN)
    yield make_pipeline(frozen, ThresholdCalibrator(quantile=0.5)).fit(TRAIN)
    yield GridSearchCV(
        ThresholdCalibrator(frozen), {"quantile": [0.5]}, cv=2, scoring=lambda e, X, y=None: 0.0
    ).fit(TRAIN)


def test_every_nesting_gives_the_same_scores_and_maps(detector):
    maps, scores = detector.anomaly_map(NEW), -detector.score_samples(NEW)
    for estimator in nestings(detector):
        np.testing.assert_array_equal(anomaly_map(estimator, NEW), maps)
        found = score_with_maps(estimator, NEW)
        np.testing.assert_array_equal(found.scores, scores)
        np.testing.assert_array_equal(found.maps, maps)
        assert np.isfinite(threshold(estimator))
        np.testing.assert_array_equal(anomaly_scores(estimator, NEW), scores)


def test_verdicts_agree_with_predict(detector):
    for estimator in nestings(detector):
        if isinstance(estimator, GridSearchCV):
            continue
        found = anomaly_scores(estimator, NEW) > threshold(estimator)
        np.testing.assert_array_equal(found, estimator.predict(NEW) == -1)


def test_a_detector_without_maps_says_so():
    forest = IsolationForest().fit(np.random.RandomState(0).normal(size=(50, 2)))
    with pytest.raises(TypeError, match="IsolationForest makes no anomaly maps"):
        anomaly_map(forest, np.zeros((2, 2)))
    assert score_with_maps(forest, np.zeros((2, 2))).maps is None
    with pytest.raises(TypeError, match="no threshold"):
        threshold(FilterBankFeatures())


def test_records(detector):
    model = ThresholdCalibrator(FrozenEstimator(detector), quantile=0.8).fit(TRAIN)
    results = infer(model, NEW, return_maps=True, batch_size=2)
    labels = model.predict(NEW)
    for i, result in enumerate(results):
        record = result.to_dict()
        assert record["index"] == i
        assert result.label == labels[i]
        assert record["score"] == anomaly_scores(model, NEW)[i]
        assert record["pred"] == int(record["score"] > record["threshold"])
        assert record["p_value"] == model.p_value(NEW[i : i + 1])[0]
        assert result.anomaly_map.shape == NEW.shape[1:3]
        assert json.loads(json.dumps(record)) == record
    assert [result.anomaly_map for result in infer(model, NEW)] == [None] * 3


def test_an_unreadable_file_never_gets_a_score(detector, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, NEW):
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    paths[3].write_bytes(paths[0].read_bytes()[:200])
    results = infer(detector, [str(p) for p in paths], batch_size=3, on_error="record")
    np.testing.assert_array_equal([r.score for r in results[:3]], -detector.score_samples(NEW))
    assert set(results[3].to_dict()) == {"index", "path", "error"}
    assert "3.png" in results[3].error
    assert (results[3].score, results[3].threshold, results[3].label) == (None, None, None)
    with pytest.raises(ImageReadError, match=r"3\.png"):
        infer(detector, paths)
    # in the middle of a block, too
    mixed = [str(paths[i]) for i in (0, 3, 1)]
    results = infer(detector, mixed, on_error="record")
    assert [result.error is not None for result in results] == [False, True, False]


def test_arrays_of_the_wrong_kind_are_an_error_not_records(detector):
    with pytest.raises(ImageFormatError):
        infer(detector, NEW / 255.0, on_error="record")


def test_an_odd_image_in_a_list_is_its_own_record():
    images = list(make_check_images(5, random_state=1))
    images[2] = images[2].astype(np.float32)
    for estimator in (
        PatchCoreDetector(FilterBankFeatures(resize=32)),
        make_pipeline(ImageFormatNormalizer(), PatchCoreDetector(FilterBankFeatures(resize=32))),
    ):
        estimator.fit(make_check_images(8))
        results = infer(estimator, images, return_maps=True, batch_size=4, on_error="record")
        assert [result.index for result in results if result.error is not None] == [2]
        assert "float32" in results[2].error
        expected = -estimator.score_samples(images[:2])
        assert [result.score for result in results[:2]] == expected.tolist()
        with pytest.raises(ImageFormatError, match="float32"):  # all of them: a wrong call
            infer(estimator, np.stack(images).astype(np.float32), on_error="record")


def _by_size():
    return FilterBankFeatures(resize=None)


def _kinds():
    """Estimators that cannot score a wide image, and how they are fitted."""
    padim = PaDiMDetector(_by_size())
    ssim = SSIMTemplateDetector(resize=None)
    roi = np.zeros((48, 64), bool)
    roi[8:40, 8:56] = True
    yield "positions", padim, {}
    yield "template", ssim, {}
    yield "feature step", make_pipeline(_by_size(), PaDiMDetector()), {}
    yield "region", PatchCoreDetector(_by_size()), {"roi_mask": roi}
    yield "ensemble", ScoreEnsemble([("a", padim), ("b", ssim)]), {}
    yield (
        "calibrator",
        make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(padim, quantile=0.5)),
        {},
    )
    yield (
        "search",
        GridSearchCV(padim, {"contamination": [0.2]}, cv=2, scoring=lambda e, X, y=None: 0.0),
        {},
    )
    yield "rows", make_pipeline(_by_size(), FunctionTransformer(_flat), PyODDetector(KNN())), {}
    yield "scikit-learn", make_pipeline(_by_size(), FunctionTransformer(_flat), OneClassSVM()), {}


def _flat(grids):
    return grids.features.reshape(len(grids), -1)


@pytest.mark.parametrize("kind", list(_kinds()), ids=lambda kind: kind[0])
@pytest.mark.parametrize("as_input", [list, ImageSequence, np.array], ids=lambda f: f.__name__)
def test_an_image_that_cannot_be_scored_is_a_record_whatever_the_reason(kind, as_input, tmp_path):
    _, estimator, params = kind
    train = make_check_images(8)
    estimator = clone(estimator).fit(train, **params)
    paths = [str(tmp_path / f"{i:02}.png") for i in range(20)]
    for path, image in zip(paths, make_check_images(20, random_state=3)):
        cv2.imwrite(path, image)
    cv2.imwrite(paths[9], np.zeros((64, 80, 3), np.uint8))
    Path(paths[17]).unlink()
    found = infer(estimator, as_input(paths), return_maps=True, on_error="record")
    assert [result.path for result in found] == paths
    assert [result.index for result in found if result.error is not None] == [9, 17]
    others = [path for i, path in enumerate(paths) if i not in (9, 17)]
    scores = [result.score for result in found if result.error is None]
    # PyOD's neighbors differ in the last bit with the number of rows.
    np.testing.assert_allclose(scores, anomaly_scores(estimator, others), rtol=1e-12)
    heats = [result.anomaly_map for result in found if result.error is None]
    with_maps = score_with_maps(estimator, others[:2]).maps
    if with_maps is None:
        assert heats == [None] * 18
    else:
        np.testing.assert_array_equal(heats[:2], with_maps)


def test_records_name_the_files_of_a_directory_listing(tmp_path):
    for i, image in enumerate(NEW):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    pipe = make_pipeline(ImageFormatNormalizer(), PatchCoreDetector(FilterBankFeatures(resize=32)))
    pipe.fit(TRAIN)
    entries = sorted(os.scandir(tmp_path), key=lambda entry: entry.name)
    assert [result.path for result in infer(pipe, entries)] == [entry.path for entry in entries]


class Log(MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    """A meta-estimator of somebody else, which changes the scores of the detector inside."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y=None):
        self.estimator_ = clone(self.estimator).fit(X)
        self.offset_ = -1.0
        return self

    def score_samples(self, X):
        return -np.log1p(-self.estimator_.score_samples(X))

    def predict(self, X):
        return np.where(self.score_samples(X) < self.offset_, -1, 1)


def test_a_meta_estimator_that_changes_scores_is_not_bypassed():
    rows = np.random.RandomState(0).normal(size=(40, 3))
    wrapped = Log(PatchCoreDetector()).fit(rows)
    new = np.linspace(0.5, 3.0, 20)[:, None] * np.random.RandomState(1).normal(size=(20, 3))
    np.testing.assert_array_equal(anomaly_scores(wrapped, new), -wrapped.score_samples(new))
    labels = [result.label for result in infer(wrapped, new)]
    assert labels == wrapped.predict(new).tolist()
    assert set(labels) == {1, -1}


def test_a_score_that_is_no_number_is_never_good(monkeypatch):
    rows = np.random.RandomState(0).normal(size=(20, 3))
    detector = PatchCoreDetector().fit(rows)
    score = PatchCoreDetector._score

    def broken(self, block, train_group):
        values, scores = score(self, block, train_group)
        return values, np.where(block.rows[:, 0] > 5, np.nan, scores)

    monkeypatch.setattr(PatchCoreDetector, "_score", broken)
    new = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"sample 1: .*1 of 1 anomaly scores are NaN"):
        detector.predict(new)
    good, bad = infer(detector, new, on_error="record")
    assert good.error is None and "NaN" in bad.error and bad.label is None


def test_a_row_with_nan_is_its_own_record():
    detector = PatchCoreDetector().fit(np.random.RandomState(0).normal(size=(20, 3)))
    new = np.array([[0.0, 0.0, 0.0], [np.nan, 0.0, 0.0], [1.0, 0.0, 0.0]])
    results = infer(detector, new, on_error="record")
    assert [result.error is not None for result in results] == [False, True, False]


# ---- what becomes a record, and what it says ---------------------------------------------
def _small(resize=32):
    return PatchCoreDetector(FilterBankFeatures(resize=resize, n_components=8))


def _wide():
    return np.zeros((64, 80, 3), np.uint8)


@pytest.mark.parametrize("kind", [TypeError, AttributeError, IndexError, KeyError, ValueError])
def test_a_fault_in_a_detector_is_no_record(kind, monkeypatch):
    def broken(self, block, train_group):
        raise kind("a fault in the program")

    detector = _small().fit(TRAIN)
    pipe = make_pipeline(ImageFormatNormalizer(), detector)
    monkeypatch.setattr(PatchCoreDetector, "_score", broken)
    with pytest.raises(kind, match="a fault in the program"):
        infer(detector, NEW, on_error="record")
    with pytest.raises(kind, match="a fault in the program"):
        list(iter_scores(detector, list(NEW), on_error="record"))
    if kind is not ValueError:  # which is how estimators of others refuse an input
        with pytest.raises(kind, match="a fault in the program"):
            infer(pipe, NEW, on_error="record")


def test_errors_of_samples_are_of_one_class():
    from pyimgano.exceptions import DeviceError, SampleError, TooFewImagesError, WeightsError

    for kind in (ImageFormatError, ImageReadError, UndefinedScoreError):
        assert issubclass(kind, SampleError)
    for kind in (DeviceError, TooFewImagesError, WeightsError):
        assert not issubclass(kind, SampleError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PaDiMDetector(FilterBankFeatures(resize=None, n_components=8)),
        lambda: make_pipeline(ImageFormatNormalizer(), SSIMTemplateDetector(resize=None)),
        lambda: ScoreEnsemble([("a", SSIMTemplateDetector(resize=None))], n_jobs=2),
    ],
    ids=["detector", "pipeline", "ensemble"],
)
@pytest.mark.parametrize("odd", [_wide(), _wide().astype(np.float32), None], ids=["wide", "f", "0"])
def test_errors_name_the_image_by_its_index_in_the_input(make, odd):
    estimator = make().fit(make_check_images(8))
    images = list(make_check_images(20, random_state=3))
    images[13] = odd
    results = infer(estimator, images, return_maps=True, batch_size=4, on_error="record")
    assert [result.index for result in results if result.error is not None] == [13]
    assert "image 13" in results[13].error
    if odd is None:
        assert "is None" in results[13].error and "cv2.imread" in results[13].error
    for use in (estimator.predict, lambda X: list(iter_scores(estimator, X, batch_size=4))):
        with pytest.raises(ImageFormatError, match=r"image 13\b"):
            use(images)


def test_errors_name_the_file(tmp_path):
    paths = [str(tmp_path / f"{i:02}.png") for i in range(12)]
    for path, image in zip(paths, make_check_images(12, random_state=3)):
        cv2.imwrite(path, image)
    cv2.imwrite(paths[10], _wide())
    step = FilterBankFeatures(resize=None, n_components=8)
    for estimator in (PaDiMDetector(step), SSIMTemplateDetector(resize=None)):
        estimator.fit(make_check_images(8))
        with pytest.raises(ImageFormatError, match=r"10\.png: "):
            estimator.predict(paths)
        assert "10.png: " in infer(estimator, paths, on_error="record")[10].error


def test_none_among_images_or_before_them_is_called_none():
    detector = _small().fit(TRAIN)
    with pytest.raises(ImageFormatError, match=r"image 0 of X is None.*cv2\.imread"):
        detector.predict([None, *NEW])
    with pytest.raises(ImageFormatError, match=r"item 0 is None|image 0 of X is None"):
        detector.predict([None, "a.png"])
    with pytest.raises(ImageFormatError, match=r"item 1 is None"):
        detector.predict(["a.png", None])
    with pytest.raises(ImageFormatError, match=r"image 0 of X is None.*cv2\.imread"):
        detector.predict([None, None])


def test_arguments_are_checked_at_the_call():
    detector = _small().fit(TRAIN)
    pipe = make_pipeline(ImageFormatNormalizer(), detector)
    for estimator in (detector, pipe):
        with pytest.raises(ValueError, match="on_error"):
            iter_scores(estimator, NEW, on_error="ignore")
        for wrong, match in (
            ({"batch_size": 0}, "batch_size"),
            ({"on_error": "ignore"}, "on_error"),
            ({"threshold": np.nan}, "threshold"),
            ({"input_format": "bgr"}, "input_format"),
        ):
            with pytest.raises(ValueError, match=match):
                iter_infer(estimator, iter(NEW), **wrong)
        with pytest.raises(NotFittedError):
            iter_scores(clone(estimator), NEW)
        with pytest.raises(NotFittedError):
            iter_infer(clone(estimator), iter(NEW))
    with pytest.raises(TypeError, match="no threshold"):
        infer(FilterBankFeatures(), NEW)
    with pytest.raises(ValueError, match="on_error"):
        detector.iter_scores(NEW, on_error="ignore")


# ---- images of every kind ----------------------------------------------------------------
@pytest.fixture(scope="module")
def small():
    return _small().fit(TRAIN)


def _frames():
    yield from NEW


def test_images_of_every_kind_have_the_same_scores(small, tmp_path):
    torch = pytest.importorskip("torch")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, NEW):
        cv2.imwrite(str(path), image[..., ::-1])
    expected = (-small.score_samples(NEW)).tolist()
    floats = torch.from_numpy(NEW.transpose(0, 3, 1, 2)).float() / 255
    for images, input_format in (
        (NEW, None),
        (_frames(), None),
        (iter(paths), None),
        (ImageSequence(paths), None),
        ([Image.fromarray(image) for image in NEW], None),
        ([Image.fromarray(image) for image in NEW], "gray_u16_hw"),
        (NEW[..., ::-1], "bgr_u8_hwc"),
        ((image[..., ::-1] for image in NEW), "bgr_u8_hwc"),
        (floats, "rgb_f32_chw"),
        (paths, "bgr_u8_hwc"),
    ):
        results = list(iter_infer(small, images, input_format=input_format, batch_size=2))
        assert [result.score for result in results] == expected
        assert [result.index for result in results] == [0, 1, 2]


def test_one_image_is_one_image(small, tmp_path):
    path = tmp_path / "0.png"
    cv2.imwrite(str(path), NEW[0][..., ::-1])
    expected = -small.score_samples(NEW[:1])[0]
    for image in (NEW[0], str(path), path, Image.fromarray(NEW[0])):
        (result,) = infer(small, image)
        assert result.score == expected
    gray = make_pipeline(ImageFormatNormalizer("gray_u8_hw"), small)
    (result,) = infer(gray, NEW[0][..., 0])
    assert result.score == infer(gray, NEW[:1, ..., 0])[0].score


def test_the_format_that_is_given_comes_before_the_one_that_the_pipeline_declares(small):
    for own in ("rgb_u8_hwc", "bgr_u8_hwc", "gray_u16_hw"):
        pipe = make_pipeline(ImageFormatNormalizer(own, u16_max=4095), small)
        results = infer(pipe, NEW[..., ::-1], input_format="bgr_u8_hwc")
        assert [result.score for result in results] == (-small.score_samples(NEW)).tolist()
        deep = (NEW.astype(np.uint32) * 4095 // 255).astype(np.uint16)
        of_12_bits = infer(pipe, deep, input_format="rgb_u16_hwc")
        np.testing.assert_allclose([r.score for r in of_12_bits], [r.score for r in results], 0.2)


def test_an_iterator_is_read_a_batch_at_a_time_and_errors_count_from_its_beginning(small):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield NEW[0] if len(taken) != 4 else NEW[0] / 255

    results = iter_infer(small, endless(), on_error="record", batch_size=2)
    found = [next(results) for _ in range(5)]
    assert len(taken) == 6
    assert [result.index for result in found] == [0, 1, 2, 3, 4]
    assert "image 3" in found[3].error
    other = iter_infer(small, [NEW[0] / 255], on_error="record")
    assert "image 0" in next(other).error  # what is counted there does not count here
    for estimator in (small, make_pipeline(ImageFormatNormalizer(), small)):
        with pytest.raises(ImageFormatError, match="image 1"):
            list(iter_infer(estimator, iter([NEW[0], NEW[0] / 255]), batch_size=1))


def test_defects_are_those_of_the_extractor_inside(small):
    pixels = PixelThresholdCalibrator(small, quantile=0.8).fit(TRAIN)
    pixels.pixel_threshold_ = 0.9 * float(np.max(pixels.anomaly_map(NEW[2:])))
    results = infer(make_pipeline(ImageFormatNormalizer(), pixels), NEW, return_defects=True)
    assert [result.defects for result in results] == pixels.defects(NEW)
    assert [result.anomaly_map for result in results] == [None] * 3
    assert results[2].defects
    assert results[2].to_dict()["defects"] == [one.to_dict() for one in results[2].defects]
    both = infer(pixels, [NEW[0], None], return_defects=True, return_maps=True, on_error="record")
    assert both[0].anomaly_map is not None and both[1].defects is None
    with pytest.raises(ValueError, match="contains no PixelThresholdCalibrator"):
        infer(small, NEW, return_defects=True)


def test_defects_are_also_in_pixels_of_an_image_that_the_pipeline_resizes(tmp_path):
    # Half the height, a third of the width: boxes in the image are twice and three times theirs.
    resized = ImageFormatNormalizer(resize=(32, 32))
    pixels = PixelThresholdCalibrator(_small(), quantile=0.8).fit(resized.transform(TRAIN))
    large = np.repeat(np.repeat(resized.transform(NEW[2:]), 2, axis=1), 3, axis=2)
    pixels.pixel_threshold_ = 0.9 * float(np.max(pixels.anomaly_map(resized.transform(large))))
    path = tmp_path / "part.png"
    Image.fromarray(large[0]).save(path)
    pipe = make_pipeline(resized, pixels)
    chw = make_pipeline(ImageFormatNormalizer("rgb_f32_chw", resize=(32, 32)), pixels)
    floats = np.moveaxis(large, -1, 1).astype(np.float32) / 255
    for estimator, images in ((pipe, large), (pipe, [path]), (pipe, iter(large)), (chw, floats)):
        ((first, *_),) = (one.defects for one in infer(estimator, images, return_defects=True))
        x0, y0, x1, y1 = first.bbox_xyxy
        assert first.image_bbox_xyxy == (3 * x0, 2 * y0, 3 * x1, 2 * y1)
        assert first.image_area == 6 * first.area
    ((same, *_),) = (
        one.defects for one in infer(pixels, resized.transform(large), return_defects=True)
    )
    assert same.image_bbox_xyxy is None


def test_calibrate_threshold(small):
    good = make_check_images(30, random_state=5)
    calibrated = calibrate_threshold(small, iter(good), quantile=0.9)
    own = ThresholdCalibrator(FrozenEstimator(small), cv="prefit", quantile=0.9).fit(good)
    assert threshold(calibrated) == threshold(own) != threshold(small)
    assert infer(calibrated, NEW)[0].p_value is not None
    declared = calibrate_threshold(small, good[..., ::-1], input_format="bgr_u8_hwc", quantile=0.9)
    assert threshold(declared) == threshold(own)
    expected = [result.score for result in infer(calibrated, NEW)]
    for more in ({}, {"input_format": "bgr_u8_hwc"}):
        assert [r.score for r in infer(declared, NEW[..., ::-1], **more)] == expected
    with pytest.raises(ImageFormatError, match="declares 'bgr_u8_hwc'"):
        calibrate_threshold(declared, good, input_format="rgb_u8_hwc")
    with pytest.warns(TooFewImagesWarning, match="30 good images"):
        calibrate_threshold(small, good, quantile=0.999)
    with pytest.raises(NotFittedError):
        calibrate_threshold(_small(), good)
