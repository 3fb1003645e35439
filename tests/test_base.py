"""Common behavior of all detectors: kinds of input, labels, state."""

from __future__ import annotations

import gc
import pickle
import warnings
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from pyimgano._checks import input_kind, normal_samples
from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    PixelGaussianDetector,
    SoftPatchDetector,
    SPADEDetector,
)
from pyimgano.exceptions import (
    IgnoredLabelsWarning,
    ImageFormatError,
    RandomWeightsWarning,
    TooFewImagesError,
    VersionDriftWarning,
)
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inference import threshold
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence
from pyimgano.testing import make_check_images
from pyimgano.utils import all_estimators
from pyimgano.utils._environment import scoring_versions
from pyimgano.utils._versions import VersionStampMixin


@pytest.mark.parametrize(
    ("X", "kind"),
    [
        (["a.png"], "images"),
        (np.array(["a.png"]), "images"),
        ([Path("a.png")], "images"),
        (("a.png",), "images"),
        ("a.png", "images"),
        (ImageSequence(["a.png"]), "images"),
        (np.zeros((2, 4, 4, 3), np.uint8), "images"),
        (np.zeros((4, 4, 3)), "images"),
        ([np.zeros((4, 4, 3), np.uint8)], "images"),
        ([np.zeros((4, 4))], "images"),
        (PatchGrids.from_array(np.zeros((1, 2, 2, 3))), "grids"),
        (np.zeros((4, 3)), "rows"),
        ([[1.0, 2.0]], "rows"),
        ([np.zeros(3)], "rows"),
        (np.zeros((4, 3), dtype=object), "rows"),
        (np.zeros(3), "rows"),
    ],
)
def test_kind_of_input_follows_from_its_type(X, kind):
    assert input_kind(X) == kind


def test_object_array_of_images():
    X = np.empty(2, dtype=object)
    X[:] = list(make_check_images(2))
    assert input_kind(X) == "images"


def test_labels():
    np.testing.assert_array_equal(normal_samples([1, -1, 1], 3), [True, False, True])
    np.testing.assert_array_equal(normal_samples(None, 2), [True, True])
    for other in ([0, 1, 0], ["good", "bad", "good"], [1, 1, 2]):
        with pytest.warns(UserWarning, match=r"only labels \+1"):
            assert normal_samples(other, 3).all()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        normal_samples([1, -1], 3)


def test_fit_transform_scores_every_sample():
    X = np.vstack([np.random.RandomState(0).normal(size=(30, 2)), [[9.0, 9.0]]])
    y = np.r_[np.ones(30, int), -1]
    detector = PatchCoreDetector()
    column = detector.fit_transform(X, y)
    assert column.shape == (31, 1)
    np.testing.assert_array_equal(column[:30, 0], detector.training_scores_)
    assert column[30] > column[:30].max()
    np.testing.assert_array_equal(column, detector.transform(X))
    assert detector.fit_predict(X, y)[30] == -1
    assert list(detector.get_feature_names_out()) == ["patchcoredetector0"]


def test_an_image_of_the_wrong_kind_names_the_way_out():
    detector = PatchCoreDetector(FilterBankFeatures(resize=64))
    with pytest.raises(ImageFormatError, match="rgb_f32_chw"):
        detector.fit(np.zeros((3, 3, 64, 64), np.float32))
    with pytest.raises(ImageFormatError, match="gray_u8_hw"):
        detector.fit(np.zeros((5, 64, 64), np.uint8))
    with pytest.raises(ImageFormatError, match=r"\["):
        detector.fit("part.png")


def test_one_out_of_sample_score_that_is_not_finite_is_an_error(monkeypatch):
    fit = PatchCoreDetector._fit

    def broken(self, *args):
        scores = fit(self, *args)
        scores[3] = np.nan
        return scores

    monkeypatch.setattr(PatchCoreDetector, "_fit", broken)
    rows = np.random.RandomState(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match=r"1 of 20 out-of-sample scores .* nan at index 3"):
        PatchCoreDetector().fit(rows)


def test_one_sample_is_too_few():
    with pytest.raises(TooFewImagesError, match="n_samples=1"):
        PatchCoreDetector().fit([[1.0, 2.0], [3.0, 4.0]], [1, -1])


def test_refit_on_images_forgets_the_columns():
    detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(np.random.rand(9, 2))  # noqa: NPY002
    assert detector.n_features_in_ == 2
    detector.fit(make_check_images(4))
    assert not hasattr(detector, "n_features_in_")
    detector.fit(np.arange(18.0).reshape(9, 2))
    assert not hasattr(detector, "features_")


def test_state_holds_arrays_and_plain_python_only(tmp_path):
    detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(make_check_images(6))
    joblib.dump(detector, tmp_path / "d.joblib")
    loaded = joblib.load(tmp_path / "d.joblib", mmap_mode="r")
    new = make_check_images(3, random_state=1)
    np.testing.assert_array_equal(loaded.score_samples(new), detector.score_samples(new))
    np.testing.assert_array_equal(loaded.anomaly_map(new), detector.anomaly_map(new))


def test_the_bank_is_stored_once():
    rows = np.random.RandomState(0).normal(size=(2000, 100)).astype(np.float32)
    detector = PatchCoreDetector(coreset_ratio=0.5, projection_dim=8).fit(rows)
    kept = detector._kept_rows.nbytes  # for partial_fit: of rows, which are single patches, all
    assert kept == rows.nbytes
    assert len(pickle.dumps(detector)) < 1.5 * detector.bank_.nbytes + kept


def test_drift_of_versions_warns(monkeypatch):
    detector = PatchCoreDetector().fit(np.arange(20.0).reshape(10, 2))
    saved = pickle.dumps(detector)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(saved)
    now = scoring_versions()
    for name in ("pyimgano", "numpy", "opencv-python"):  # whatever may change a score
        monkeypatch.setattr(
            "pyimgano.utils._versions.scoring_versions", lambda name=name: {**now, name: "99.0"}
        )
        with pytest.warns(VersionDriftWarning, match=rf"{name} .* \(now 99.0\)"):
            loaded = pickle.loads(saved)
        assert not hasattr(loaded, "_versions")


def test_patch_versions_and_missing_packages_are_no_drift(monkeypatch):
    detector = PatchCoreDetector().fit(np.arange(20.0).reshape(10, 2))
    saved = pickle.dumps(detector)
    now = {name: f"{version}.1" for name, version in scoring_versions().items() if name != "torch"}
    monkeypatch.setattr("pyimgano.utils._versions.scoring_versions", lambda: now)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(saved)


def test_every_estimator_has_the_stamp():
    without = [name for name, cls in all_estimators() if not issubclass(cls, VersionStampMixin)]
    assert without == ["PyODView"]  # the detector inside has it
    assert "_versions" in ImageFormatNormalizer().__getstate__()


def test_encoded_labels_are_called_by_their_name():
    X, y = np.random.RandomState(0).normal(size=(20, 3)), np.arange(20) % 2
    with pytest.warns(IgnoredLabelsWarning, match=r"(?s)LEARNED FROM.*StackingClassifier"):
        PatchCoreDetector().fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", IgnoredLabelsWarning)
        PatchCoreDetector().fit(X, np.where(y, -1, 1))
        with pytest.raises(IgnoredLabelsWarning):
            PatchCoreDetector().fit(X, y)


def test_a_threshold_of_a_detector_is_set_by_hand():
    detector = PatchCoreDetector().fit(np.random.RandomState(0).normal(size=(40, 3)))
    new = [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]
    detector.offset_ = float(detector.score_samples(new).mean())
    assert detector.predict(new).tolist() == [1, -1]
    assert threshold(detector) == -detector.offset_


def test_parameters_set_after_fit_wait_for_the_next():
    rows = np.random.RandomState(0).normal(size=(40, 3))
    detector = PatchCoreDetector(n_neighbors=1, contamination=0.1).fit(rows)
    expected = detector.predict(rows)
    detector = pickle.loads(pickle.dumps(detector))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.set_params(contamination=0.1, verbose=True).predict(rows)
    detector.set_params(contamination=0.5)
    with pytest.warns(UserWarning, match=r"\(contamination\).*next fit.*offset_"):
        np.testing.assert_array_equal(detector.predict(rows), expected)
    assert (detector.fit(rows).predict(rows) == -1).sum() == 20


def test_a_learned_feature_step_goes_by_the_parameters_it_was_fitted_with():
    images = make_check_images(4)
    step = FilterBankFeatures(resize=32, n_components=8).fit(images)
    expected = step.transform(images).features
    step = pickle.loads(pickle.dumps(step)).set_params(resize=64, n_components=4, batch_size=1)
    with pytest.warns(UserWarning, match=r"\(resize, n_components\)"):
        np.testing.assert_array_equal(step.transform(images).features, expected)
    assert step.fit(images).transform(images).features.shape == (4, 8, 8, 4)


def test_an_interrupted_fit_changes_nothing_and_leaves_no_file_open(monkeypatch, tmp_path):
    images = make_check_images(6)
    step = FilterBankFeatures(resize=32, n_components=8)
    models = [PaDiMDetector(clone(step)), PixelGaussianDetector(resize=16), step]
    before = [pickle.dumps(model.fit(images)) for model in models]
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, image in zip(paths, images):
        cv2.imwrite(path, image)

    def interrupted(self, size):
        yield images[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageSequence, "iter_blocks", interrupted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for model in models:
            with pytest.raises(KeyboardInterrupt):
                model.fit(paths)
        gc.collect()
    assert not [str(w.message) for w in caught if w.category is ResourceWarning]
    assert [pickle.dumps(model) for model in models] == before


def test_patch_detectors_take_a_frozen_step_and_leave_it_alone():
    images = make_check_images(6)
    step = FilterBankFeatures(resize=32, n_components=8).fit(images)
    network = BackbonePatchFeatures(
        "resnet18", layers=("layer1",), weights=None, resize=32, crop=None
    )
    for detector in (PatchCoreDetector, SPADEDetector, SoftPatchDetector, AnomalyDINODetector):
        model = detector(FrozenEstimator(step)).fit(images)
        assert model.features_.estimator is step
        assert model.anomaly_map(images[:1]).shape == (1, 48, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        network.fit(images)
        n_features = network.transform(images[:1]).n_features
        PaDiMDetector(FrozenEstimator(network), n_channels=5).fit(images)
    assert network.transform(images[:1]).n_features == n_features
