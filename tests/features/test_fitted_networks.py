"""Fitted networks on another machine or in another folder: weights, device, run-time parameters."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import warnings

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import (
    ImageFormatNormalizer,
    PatchCoreDetector,
    ScoreEnsemble,
    ThresholdCalibrator,
)
from pyimgano._nesting import find_parts
from pyimgano.backbones._network import load_network
from pyimgano.cli import infer as infer_command
from pyimgano.exceptions import (
    DeviceError,
    RandomWeightsWarning,
    TooFewImagesWarning,
    WeightsError,
)
from pyimgano.features import BackbonePatchFeatures
from pyimgano.inference import infer
from tests.extras import needs_extra


def write_state(path, seed):
    """A state dict of ResNet-18 as far as its first layer."""
    torch = pytest.importorskip("torch")
    step = BackbonePatchFeatures("resnet18", layers=("layer1",), weights=None, random_state=seed)
    step.set_params(embed_weights=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        step.fit(np.zeros((1, 64, 64, 3), np.uint8))
    torch.save({name: torch.tensor(v) for name, v in step.embedded_weights_.items()}, path)


@pytest.fixture
def fitted_with_relative_path(tmp_path, monkeypatch):
    """A calibrated pipeline and its scores; its weights were given as a relative path."""
    home = tmp_path / "home"
    home.mkdir()
    write_state(home / "net.pth", seed=3)
    monkeypatch.chdir(home)
    step = BackbonePatchFeatures(
        "resnet18", layers=("layer1",), weights="net.pth", resize=64, crop=None, device="cpu"
    )
    images = np.random.RandomState(0).randint(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    detector = PatchCoreDetector(step, coreset_ratio=0.1)
    pipe = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewImagesWarning)
        pipe.fit(images)
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    return pickle.dumps(pipe), images[:2] // 2, pipe.score_samples(images[:2] // 2)


def test_relative_path_of_weights_works_from_another_folder(fitted_with_relative_path):
    pipe, images, scores = fitted_with_relative_path
    loaded = pickle.loads(pipe)
    np.testing.assert_array_equal(loaded.score_samples(images), scores)
    assert loaded[-1].estimator_.features_.weights == "net.pth"  # as given


def test_weights_that_have_moved_are_asked_for_and_can_be_set(fitted_with_relative_path, tmp_path):
    pipe, images, scores = fitted_with_relative_path
    (tmp_path / "home" / "net.pth").rename(tmp_path / "other.pth")
    write_state(tmp_path / "wrong.pth", seed=4)
    loaded = pickle.loads(pipe)
    with pytest.raises(
        WeightsError, match=r"(?s)looked for in.* net\.pth .*home.*net\.pth .*--weights FILE"
    ) as error:
        loaded.score_samples(images)
    assert "fit again" not in str(error.value)
    name = "thresholdcalibrator__estimator__features__weights"
    loaded.set_params(**{name: str(tmp_path / "wrong.pth")})
    with pytest.raises(WeightsError, match="are not those this step was fitted with"):
        loaded.score_samples(images)
    loaded.set_params(**{name: str(tmp_path / "other.pth")})
    np.testing.assert_array_equal(loaded.score_samples(images), scores)


def test_device_that_is_not_there_is_one_error_with_the_way_out(fitted_with_relative_path):
    pipe, images, scores = fitted_with_relative_path
    loaded = pickle.loads(pipe)
    name = "thresholdcalibrator__estimator__features__device"
    loaded.set_params(**{name: "cuda:99"})
    with pytest.raises(DeviceError, match=r'features__device="cpu"\), or pyimgano infer --device'):
        infer(loaded, images, on_error="record")  # no record: it is not about an image
    loaded.set_params(**{name: "cpu"})
    np.testing.assert_array_equal(loaded.score_samples(images), scores)


def test_runtime_parameters_of_a_member_reach_the_fitted_copy(fitted_with_relative_path):
    images = np.random.RandomState(0).randint(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    step = BackbonePatchFeatures("resnet18", ("layer1",), None, resize=64, crop=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        ensemble = ScoreEnsemble([("a", PatchCoreDetector(step))]).fit(images)
    scores = ensemble.score_samples(images // 2)
    fitted = ensemble.estimators_[0].features_
    ensemble.set_params(a__features__batch_size=3, a__features__resize=32)
    assert (fitted.batch_size, fitted.resize) == (3, 64)
    np.testing.assert_array_equal(ensemble.score_samples(images // 2), scores)


def test_infer_takes_weights_device_and_engine(
    fitted_with_relative_path, tmp_path, capsys, monkeypatch
):
    pipe, images, scores = fitted_with_relative_path
    saved = pickle.loads(pipe)
    for part in find_parts(saved, BackbonePatchFeatures):
        part.set_params(device="cuda:99")
    pyimgano.save(saved, tmp_path / "line.joblib")
    (tmp_path / "attic").mkdir()
    other = (tmp_path / "home" / "net.pth").rename(tmp_path / "attic" / "other.pth")
    cv2.imwrite(str(tmp_path / "part.png"), images[0][..., ::-1])
    out = tmp_path / "out.jsonl"
    out.write_text("earlier results")
    arguments = ["--pipeline", str(tmp_path / "line.joblib"), "--save-jsonl", str(out)]
    arguments += ["--input", str(tmp_path / "part.png")]

    def message(*options):
        status = infer_command.main([*arguments, *options])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return status, err

    status, err = message()
    assert status == 2 and "pyimgano infer --device cpu" in err
    status, err = message("--device", "cpu")
    assert status == 2 and "pyimgano infer --weights FILE" in err
    assert out.read_text() == "earlier results"  # nothing was done, and nothing is lost
    status, err = message("--device", "cpu", "--weights", str(other))
    assert status == 0, err
    assert json.loads(out.read_text().splitlines()[0])["score"] == -scores[0]
    found = ("--device", "cpu", "--weights", str(other))
    needs_extra("onnx")
    status, err = message(*found, "--engine", "onnxruntime")
    assert status == 0, err
    by_engine = json.loads(out.read_text().splitlines()[0])["score"]
    assert by_engine != -scores[0] and by_engine == pytest.approx(-scores[0], rel=1e-4)
    status, err = message(*found, "--engine", "native")
    assert status == 0, err
    load_network.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it was not installed
    status, err = message(*found, "--engine", "onnxruntime")
    assert status == 2 and 'pip install "pyimgano[onnx]"' in err, err
    assert "pyimgano infer --engine auto" in err
    for part in find_parts(saved, BackbonePatchFeatures):
        part.set_params(weights=str(other), device="cpu", engine="native", precision="bfloat16")
        vars(part).get("_parameters_at_fit", {})["precision"] = "bfloat16"  # as if fitted so
    pyimgano.save(saved, tmp_path / "line.joblib")
    status, err = message()
    assert status == 2 and 'engine="native" does not run' in err, err
    assert "pyimgano infer --engine auto" in err


def test_infer_refuses_network_options_without_a_network(tmp_path, capsys):
    rows = np.random.RandomState(0).normal(size=(20, 3))
    pyimgano.save(PatchCoreDetector().fit(rows), tmp_path / "rows.joblib")
    (tmp_path / "part.png").touch()
    arguments = [
        "--pipeline",
        str(tmp_path / "rows.joblib"),
        "--save-jsonl",
        "-",
        "--device",
        "cpu",
    ]
    assert infer_command.main([*arguments, "--input", str(tmp_path / "part.png")]) == 2
    assert "--device belongs to a network, and" in capsys.readouterr().err


def test_a_copy_runs_the_network_that_is_loaded(fitted_with_relative_path, tmp_path):
    pipe, images, scores = fitted_with_relative_path
    loaded = pickle.loads(pipe)
    loaded.score_samples(images)
    (tmp_path / "home" / "net.pth").unlink()
    twin = copy.deepcopy(loaded)
    np.testing.assert_array_equal(twin.score_samples(images), scores)
    twin[-1].estimator_.features_.set_params(batch_size=1)
    assert loaded[-1].estimator_.features_.batch_size == 16
