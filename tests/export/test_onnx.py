"""Networks as ONNX in bundles: used from there, verified before an engine reads them."""

from __future__ import annotations

import json
import sys

import cv2
import jsonschema
import numpy as np
import pytest

import pyimgano
from pyimgano.backbones import _network
from pyimgano.cli import main
from pyimgano.detectors import PatchCoreDetector, STFPMDetector
from pyimgano.exceptions import BundleError, DeviceError
from pyimgano.export import export_bundle, json_schema, open_bundle, read_infer_config, validate
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures, ViTPatchFeatures
from tests.extras import needs_extra

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights", "ignore:.*images are few")

EXTERNAL = {"onnxruntime": "onnx", "openvino": "openvino"}


@pytest.fixture(params=EXTERNAL)
def engine(request) -> str:
    needs_extra(EXTERNAL[request.param])
    return request.param


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of the place where bundles are made, empty at first."""
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def at_the_line(tmp_path, monkeypatch):
    """Call it to be where bundles are used: no cache, no onnx, no torch, no network in memory."""

    def go(*absent):
        monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path / "line_cache"))
        for name in ("onnx", *absent):
            monkeypatch.setitem(sys.modules, name, None)
        _network.load_network.cache_clear()
        _network._kept_networks.clear()

    yield go
    assert not (tmp_path / "line_cache").exists()  # nothing was written anew


def pictures(n, seed, size=(48, 48)):
    small = np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, size) for one in small])


IMAGES, NEW = pictures(8, seed=0), pictures(6, seed=1)


def fitted(step):
    detector = PatchCoreDetector(step, coreset_ratio=0.2).fit(IMAGES)
    scores = detector.score_samples(NEW)
    detector.offset_ = float(np.median(scores))
    return detector, scores


def lite(**options):
    return BackbonePatchFeatures("efficientnet_lite0", ("layer1",), None, resize=None, **options)


def test_the_command_delivers_a_network_that_the_line_need_not_write(
    engine, tmp_path, at_the_line, capsys
):
    detector, scores = fitted(lite())
    verdicts = detector.predict(NEW)
    assert set(verdicts) == {-1, 1}
    pyimgano.save(detector, tmp_path / "line3.joblib")
    golden = str(tmp_path / "golden.png")
    cv2.imwrite(golden, NEW[0][..., ::-1])
    bundle = tmp_path / "line3.zip"
    words = ["export", "--pipeline", tmp_path / "line3.joblib", "--engine", engine, "-o", bundle]
    assert main.main([*map(str, words), "--golden", golden]) == 0
    at_the_line()
    result = validate(bundle)
    assert result.ok and "bit for bit" in result.checks[-1].detail
    opened = open_bundle(bundle)
    (network,) = opened.config["model"]["onnx"]
    assert [one["file"] for one in network["files"]] == ["onnx/01_efficientnet_lite0.onnx"]
    assert network["files"][0]["image_size"] is None  # for all sizes
    assert opened.estimator.features_.engine == engine
    np.testing.assert_allclose(opened.estimator.score_samples(NEW), scores, rtol=1e-4)
    np.testing.assert_array_equal(opened.estimator.predict(NEW), verdicts)
    opened.estimator.score_samples(NEW[:1, :40])  # another size, the same file
    # By the command as well, and the native engine still has its weights.
    capsys.readouterr()
    for chosen in (engine, "native"):
        assert main.main(["infer", "--bundle", str(bundle), golden, "--engine", chosen]) == 0
        record = json.loads(capsys.readouterr().out.splitlines()[0])
        assert record["score"] == pytest.approx(-scores[0], rel=1e-4)


def test_a_changed_byte_is_refused_by_name_before_an_engine_reads_it(
    engine, tmp_path, monkeypatch, at_the_line
):
    detector, _ = fitted(lite(engine=engine))
    bundle = export_bundle(detector, tmp_path / "line3")
    jsonschema.validate(
        read_infer_config(bundle / "infer_config.json"), json_schema("infer_config")
    )
    file = bundle / "onnx" / "01_efficientnet_lite0.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    at_the_line()

    def read(*arguments, **options):
        raise AssertionError("an engine read the file")

    monkeypatch.setattr("pyimgano.backbones._engines._onnxruntime", lambda: read)
    monkeypatch.setattr("pyimgano.backbones._engines._openvino", lambda precision: read)
    with pytest.raises(BundleError, match=r"onnx/01_efficientnet_lite0\.onnx was changed"):
        open_bundle(bundle)
    assert "files" in {check.name for check in validate(bundle).checks if not check.ok}
    (bundle / "manifest.json").unlink()  # the configuration has the SHA-256 as well
    with pytest.raises(BundleError, match=r"onnx/01_efficientnet_lite0\.onnx was changed: infer_"):
        open_bundle(bundle / "infer_config.json")
    (check,) = [check for check in validate(bundle / "infer_config.json").checks if not check.ok]
    assert check.name == "pipeline" and "01_efficientnet_lite0.onnx was changed" in check.detail
    file.unlink()
    with pytest.raises(BundleError, match=r"onnx/01_efficientnet_lite0\.onnx' is missing"):
        open_bundle(bundle / "infer_config.json")


def test_a_network_of_torch_runs_without_torch_for_the_sizes_it_was_written_for(
    tmp_path, at_the_line
):
    for extra in ("timm", "onnx"):
        needs_extra(extra)
    golden = tmp_path / "part.png"
    cv2.imwrite(str(golden), NEW[0][..., ::-1])
    detector, scores = fitted(ViTPatchFeatures("timm:test_vit", None, resize=32))
    with pytest.raises(BundleError, match="give golden images of the sizes"):
        export_bundle(detector, tmp_path / "line3", onnx=True)
    bundle = export_bundle(detector, tmp_path / "line3", golden=[golden], onnx=True)
    at_the_line("torch", "timm")
    (network,) = read_infer_config(bundle / "infer_config.json")["model"]["onnx"]
    assert [one["image_size"] for one in network["files"]] == [[32, 32]]
    opened = open_bundle(bundle).estimator.set_params(features__engine="onnxruntime")
    np.testing.assert_allclose(opened.score_samples(NEW), scores, rtol=1e-4)
    with pytest.raises(DeviceError, match="brought to 32 x 32 pixels, and this one is brought to"):
        opened.score_samples(pictures(1, seed=2, size=(96, 48)))


def test_the_student_of_stfpm_is_delivered_beside_its_teacher(tmp_path, at_the_line):
    for extra in ("torch", "onnx"):
        needs_extra(extra)
    teacher = BackbonePatchFeatures("resnet18", ("layer1",), None, resize=32)
    detector = STFPMDetector(teacher, max_steps=1, batch_size=2, device="cpu").fit(IMAGES)
    scores = detector.score_samples(NEW)
    bundle = export_bundle(detector, tmp_path / "line3", onnx=True)
    at_the_line("torch", "torchvision")
    opened = open_bundle(bundle)
    assert len({one["weights_sha256"] for one in opened.config["model"]["onnx"]}) == 2
    estimator = opened.estimator.set_params(features__engine="onnxruntime")
    np.testing.assert_allclose(estimator.score_samples(NEW), scores, rtol=1e-3)


def test_what_is_written_is_what_was_asked_for(tmp_path):
    needs_extra("onnx")
    detector, _ = fitted(lite(engine="onnxruntime"))
    bundle = export_bundle(detector, tmp_path / "without", onnx=False)
    assert read_infer_config(bundle / "infer_config.json")["model"]["onnx"] == []
    assert not (bundle / "onnx").exists()
    plain, _ = fitted(FilterBankFeatures(resize=32))
    with pytest.raises(BundleError, match="has no network"):
        export_bundle(plain, tmp_path / "plain", onnx=True)
    with pytest.raises(ValueError, match="onnx must be True, False"):
        export_bundle(plain, tmp_path / "plain", onnx="yes")
    assert not (tmp_path / "plain").exists()
