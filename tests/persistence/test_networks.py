"""Saved models with networks: their weights inside the file, or found again by their SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from pyimgano import (
    ImageFormatNormalizer,
    PatchCoreDetector,
    ScoreEnsemble,
    ThresholdCalibrator,
    load,
    save,
)
from pyimgano.backbones import _weights
from pyimgano.backbones._efficientnet_lite import EfficientNetLite
from pyimgano.exceptions import RandomWeightsWarning, TooFewImagesWarning, WeightsError
from pyimgano.features import BackbonePatchFeatures, BasePatchFeatures, ViTPatchFeatures
from tests.extras import needs_extra

torch = pytest.importorskip("torch")

IMAGES = np.random.RandomState(0).randint(0, 256, (6, 64, 64, 3)).astype(np.uint8)
NEW = IMAGES[:2] // 2
SMALL = {"layers": ("layer1",), "resize": 32, "device": "cpu"}


def write_state(path, step):
    """A state dict of a step's network, as torch.save writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        step = step.set_params(weights=None, embed_weights=True).fit(IMAGES[:1])
    torch.save({name: torch.tensor(v) for name, v in step.embedded_weights_.items()}, path)
    return path


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A machine without any weights and without a network."""
    for name in ("HOME", "PYIMGANO_CACHE_DIR", "TORCH_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere" / name))
    monkeypatch.delenv("PYIMGANO_WEIGHTS", raising=False)

    def offline(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    return tmp_path / "elsewhere"


@pytest.fixture
def net(tmp_path):
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / "net.pth"
    return write_state(path, BackbonePatchFeatures("resnet18", random_state=3, **SMALL))


def calibrated(step, **params):
    detector = PatchCoreDetector(step, coreset_ratio=0.1)
    pipe = make_pipeline(
        ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.7, **params)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewImagesWarning)
        return pipe.fit(IMAGES)


def step_of(weights, **params):
    return BackbonePatchFeatures("resnet18", weights=weights, **{**SMALL, **params})


# ---- weights inside the file ----------------------------------------------------------
STEPS = {
    "resnet": BackbonePatchFeatures("resnet18", **SMALL),
    "wide resnet": BackbonePatchFeatures("wide_resnet50_2", **SMALL),
    "efficientnet": BackbonePatchFeatures("efficientnet_lite0", **SMALL),
    "by torch": BackbonePatchFeatures("mobilenet_v2", ("features.2",), resize=32, device="cpu"),
    "bfloat16": BackbonePatchFeatures("resnet18", precision="bfloat16", **SMALL),
    "vit": ViTPatchFeatures("timm:test_vit", resize=32, device="cpu"),
}
WITHOUT_TORCH = ("resnet", "wide resnet", "efficientnet")


def test_files_with_their_weights_need_nothing_else(tmp_path, elsewhere):
    """In a new process, which takes seconds to start: one for all networks, torch's at the end."""
    elsewhere.mkdir()
    expected = {}
    for name, step in STEPS.items():
        if name == "vit" and find_spec("timm") is None:
            continue
        weights = write_state(tmp_path / "w.pth", step)
        pipe = calibrated(step.set_params(weights=str(weights), embed_weights=False))
        expected[name] = pipe.score_samples(NEW).tobytes().hex()
        before = joblib.hash(pipe)
        path = save(pipe, tmp_path / f"{name}.joblib", embed_weights=True)
        assert joblib.hash(pipe) == before  # the model in memory is not changed
        weights.unlink()
        for file in (path, Path(f"{path}.json")):
            shutil.move(file, elsewhere / file.name)
    np.save(elsewhere / "new.npy", NEW)
    code = (
        "import json, sys, warnings, urllib.request, joblib, numpy, pyimgano\n"
        "warnings.simplefilter('error')\n"
        "urllib.request.urlopen = None\n"
        "new = numpy.load('new.npy')\n"
        "found, by_torch = {}, {}\n"
        "for name in sys.argv[1:]:\n"
        "    loaded = [load(name + '.joblib') for load in (pyimgano.load, joblib.load)]\n"
        "    found[name] = [pipe.score_samples(new).tobytes().hex() for pipe in loaded]\n"
        "    by_torch[name] = 'torch' in sys.modules\n"
        "print(json.dumps([found, by_torch]))\n"
    )
    command = [sys.executable, "-c", code, *expected]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, by_torch = json.loads(done.stdout)
    assert found == {name: [scores] * 2 for name, scores in expected.items()}
    assert by_torch == {name: name not in WITHOUT_TORCH for name in expected}
    if len(expected) < len(STEPS):
        pytest.skip("timm is not installed: checked without its network")


def test_published_weights_from_a_package_are_embedded_as_well(tmp_path, elsewhere, monkeypatch):
    needs_extra("imagenet")
    pipe = calibrated(BackbonePatchFeatures("efficientnet_lite0", **SMALL))
    scores = pipe.score_samples(NEW)
    save(pipe, tmp_path / "with.joblib", embed_weights=True)
    save(pipe, tmp_path / "without.joblib")

    def missing(backbone):
        raise WeightsError("there is no such package")

    monkeypatch.setattr(EfficientNetLite, "find_published", staticmethod(missing))
    np.testing.assert_array_equal(load(tmp_path / "with.joblib").score_samples(NEW), scores)
    without = load(tmp_path / "without.joblib")  # found where it was, by its sha256
    np.testing.assert_array_equal(without.score_samples(NEW), scores)


def test_equal_weights_are_stored_once_and_run_once(net, tmp_path):
    members = [(name, PatchCoreDetector(step_of(net), coreset_ratio=0.1)) for name in "abc"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewImagesWarning)
        ensemble = ScoreEnsemble(members).fit(IMAGES)
    several = [calibrated(step_of(net), ensemble=True, cv=3), ensemble]
    size = save(calibrated(step_of(net)), tmp_path / "one.joblib", embed_weights=True)
    plain = save(several[0], tmp_path / "plain.joblib")
    n_weights = (
        size.stat().st_size
        - save(calibrated(step_of(net)), tmp_path / "none.joblib").stat().st_size
    )
    assert n_weights > 0.5 * net.stat().st_size
    for model in several:
        path = save(model, tmp_path / "several.joblib", embed_weights=True)
        if model is several[0]:
            assert path.stat().st_size - plain.stat().st_size < 1.1 * n_weights
        loaded = load(path)
        np.testing.assert_array_equal(loaded.score_samples(NEW), model.score_samples(NEW))
        steps = [s for s in parts(loaded) if hasattr(s, "embedded_weights_")]
        assert len(steps) >= 3
        assert len({id(s.embedded_weights_) for s in steps}) == 1
        assert len({id(s._network()) for s in steps}) == 1
        again = save(loaded, tmp_path / "again.joblib")  # the weights stay with it
        assert again.stat().st_size == pytest.approx(path.stat().st_size, rel=0.02)


def parts(estimator):
    from pyimgano._nesting import find_parts

    return find_parts(estimator, BackbonePatchFeatures)


def test_a_frozen_step_that_was_never_fitted_is_embedded(net, tmp_path, elsewhere):
    detector = PatchCoreDetector(FrozenEstimator(step_of(net))).fit(IMAGES)
    scores = detector.score_samples(NEW)
    save(detector, tmp_path / "line.joblib", embed_weights=True)
    net.unlink()
    np.testing.assert_array_equal(load(tmp_path / "line.joblib").score_samples(NEW), scores)


def test_without_a_network_there_is_nothing_to_embed(tmp_path):
    rows = np.random.RandomState(0).normal(size=(30, 3))
    detector = PatchCoreDetector().fit(rows)
    sizes = [
        save(detector, tmp_path / "d.joblib", embed_weights=embed).stat().st_size
        for embed in (False, True)
    ]
    assert sizes[0] == sizes[1]


def test_weights_that_are_not_those_of_fit_are_never_embedded(net, tmp_path):
    pipe = calibrated(step_of(net))
    write_state(net, BackbonePatchFeatures("resnet18", random_state=4, **SMALL))
    with pytest.raises(WeightsError, match="not those this step was fitted with"):
        save(pipe, tmp_path / "line.joblib", embed_weights=True)
    net.unlink()
    with pytest.raises(WeightsError, match=r"not here\. Wanted is net\.pth"):
        save(pipe, tmp_path / "line.joblib", embed_weights=True)
    assert not list(tmp_path.glob("line.joblib*"))


class OwnFeatures(BasePatchFeatures):
    """A step of another package, with a network in its state."""

    def __init__(self, batch_size=2):
        self.batch_size = batch_size

    def _fit_images(self, images):
        self.net_ = torch.nn.Conv2d(3, 4, 3)


def test_networks_of_other_packages_are_refused_with_the_way_out(tmp_path):
    step = OwnFeatures()
    step.net_ = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match=r"OwnFeatures\.net_ is a network of its own \(Conv2d\).*"):
        save(make_pipeline(step), tmp_path / "own.joblib", embed_weights=True)
    assert not (tmp_path / "own.joblib").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"conv1.weight": w["conv1.weight"][:, :, :5]}), "of other layers"),
        (lambda w: w.update({"conv1.weight": np.zeros(3, np.float32)}), "of other layers"),
        (lambda w: w.pop("conv1.weight"), "of other layers"),
        (lambda w: w.update({"more": np.zeros(3, np.float32)}), "of other layers"),
        (lambda w: w.update({"conv1.weight": "text"}), "of other layers"),
        (lambda w: w.update({"bn1.bias": np.full(64, np.nan, np.float32)}), "bn1.bias holds"),
        (lambda w: w.update({"bn1.bias": np.full(64, "x")}), "bn1.bias holds"),
        (lambda w: w.update({"bn1.bias": w["bn1.bias"] + 1}), "not those this step was fitted"),
    ],
)
def test_embedded_weights_that_cannot_be_are_refused(net, tmp_path, change, message):
    pipe = calibrated(step_of(net, embed_weights=True))
    for step in parts(pipe):
        if hasattr(step, "embedded_weights_"):
            change(step.embedded_weights_)
    save(pipe, tmp_path / "line.joblib")
    loaded = load(tmp_path / "line.joblib")
    with pytest.raises(WeightsError, match=message):
        loaded.score_samples(NEW)


# ---- found again by their sha256 ------------------------------------------------------
@pytest.fixture
def saved(net, tmp_path):
    """A model without its weights, its scores, and the file of weights, which has moved."""
    pipe = calibrated(step_of(net))
    (tmp_path / "line").mkdir()
    path = save(pipe, tmp_path / "line" / "line3.joblib")
    moved = net.rename(tmp_path / "moved.pth")
    return path, pipe.score_samples(NEW), moved


def test_fit_notes_which_file_it_was(net):
    step = step_of(net).fit(IMAGES)
    assert step.weights_file_ == str(net)
    assert step.weights_file_size_ == net.stat().st_size
    assert step.weights_file_sha256_ == hashlib.sha256(net.read_bytes()).hexdigest()
    with pytest.warns(RandomWeightsWarning):
        step.set_params(weights=None).fit(IMAGES)
    assert not hasattr(step, "weights_file_") and not hasattr(step, "weights_file_sha256_")


@pytest.mark.parametrize("place", ["beside", "named", "cache", "torch"])
@pytest.mark.parametrize("name", ["net.pth", "other name.bin"])
def test_weights_are_found_by_their_sha256(saved, place, name, tmp_path, elsewhere, monkeypatch):
    path, scores, moved = saved
    folder = {
        "beside": path.parent,
        "named": tmp_path / "second",
        "cache": elsewhere / "PYIMGANO_CACHE_DIR" / "weights",
        "torch": elsewhere / "TORCH_HOME" / "hub" / "checkpoints",
    }[place]
    if place == "named":
        folders = os.pathsep.join([str(tmp_path / "none"), str(folder)])
        monkeypatch.setenv("PYIMGANO_WEIGHTS", folders)
    with pytest.raises(WeightsError, match="are not here"):
        load(path).score_samples(NEW)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.pth").write_bytes(b"\0" * moved.stat().st_size)  # as large, but not it
    shutil.copy(moved, folder / name)
    np.testing.assert_array_equal(load(path).score_samples(NEW), scores)
    # Another file in the place of the old one is no reason to fail.
    home = tmp_path / "home" / "net.pth"
    write_state(home, BackbonePatchFeatures("resnet18", random_state=4, **SMALL))
    np.testing.assert_array_equal(load(path).score_samples(NEW), scores)


def test_published_weights_are_found_before_any_download(net, tmp_path, elsewhere, monkeypatch):
    published = classmethod(lambda cls, backbone: net)
    monkeypatch.setattr(BackbonePatchFeatures, "_find_published", published)
    pipe = calibrated(step_of("imagenet"))
    scores = pipe.score_samples(NEW)
    path = save(pipe, tmp_path / "line3.joblib")

    def missing(cls, backbone):
        raise WeightsError("downloading https://example.org/net.pth failed: unreachable\nmore")

    monkeypatch.setattr(BackbonePatchFeatures, "_find_published", classmethod(missing))
    net.rename(tmp_path / "renamed.pth")
    np.testing.assert_array_equal(load(path).score_samples(NEW), scores)
    (tmp_path / "renamed.pth").unlink()
    with pytest.raises(WeightsError, match=r"(?s)Wanted is net\.pth.*downloading https.*failed"):
        load(path).score_samples(NEW)


def test_the_error_names_the_file_its_hash_and_every_place(saved, tmp_path, elsewhere, monkeypatch):
    path, _, moved = saved
    sha256 = hashlib.sha256(moved.read_bytes()).hexdigest()
    with pytest.raises(WeightsError) as caught:
        load(path).score_samples(NEW)
    message = str(caught.value)
    wanted = f"Wanted is net.pth, {moved.stat().st_size} bytes, sha256 {sha256}"
    for part in (
        wanted,
        f"{tmp_path / 'home' / 'net.pth'} (the parameter weights; there is no such file",
        f"{path.parent} (beside the saved model)",
        f"{elsewhere / 'PYIMGANO_CACHE_DIR' / 'weights'} (the cache; there is no such",
        f"{elsewhere / 'TORCH_HOME' / 'hub' / 'checkpoints'} (torchvision's cache; there is no",
        "PYIMGANO_WEIGHTS, which names more folders",
        "save(..., embed_weights=True)",
        "pyimgano infer --weights FILE",
    ):
        assert part in message
    monkeypatch.setenv("PYIMGANO_WEIGHTS", str(tmp_path / "second"))
    with pytest.raises(WeightsError, match=r"second \(named by PYIMGANO_WEIGHTS; there is no"):
        load(path).score_samples(NEW)
    with pytest.raises(WeightsError, match="not known where that is"):
        joblib.load(path).score_samples(NEW)


def test_a_model_of_an_earlier_version_finds_its_file_by_name(
    net, tmp_path, elsewhere, monkeypatch
):
    pipe = calibrated(step_of(net))
    scores = pipe.score_samples(NEW)
    for step in parts(pipe):
        for name in ("weights_file_size_", "weights_file_sha256_"):
            vars(step).pop(name, None)
    path = save(pipe, tmp_path / "line3.joblib")
    (tmp_path / "second").mkdir()
    moved = net.rename(tmp_path / "second" / "net.pth")
    monkeypatch.setenv("PYIMGANO_WEIGHTS", str(tmp_path / "second"))
    np.testing.assert_array_equal(load(path).score_samples(NEW), scores)
    moved.rename(tmp_path / "second" / "other.pth")
    with pytest.raises(WeightsError, match=r"Wanted is net\.pth, by this name"):
        load(path).score_samples(NEW)


def test_a_file_is_hashed_once_as_long_as_it_stays_the_same(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"one")
    count = _weights._sha256_of.cache_info
    before = count().misses
    assert {_weights.file_sha256(path) for _ in range(3)} == {hashlib.sha256(b"one").hexdigest()}
    assert count().misses == before + 1
    path.write_bytes(b"three")
    assert _weights.file_sha256(path) == hashlib.sha256(b"three").hexdigest()
    assert count().misses == before + 2


def test_loading_opens_no_weights(saved, monkeypatch):
    path, _, moved = saved
    moved.rename(path.parent / "net.pth")
    monkeypatch.setattr(_weights, "_sha256_of", None)
    load(path)


def test_files_of_links_and_without_suffix_are_read_by_what_they_hold(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    write_state(tmp_path / "w.pth", BackbonePatchFeatures("resnet18", random_state=3, **SMALL))
    expected = step_of(tmp_path / "w.pth").fit(IMAGES).weights_sha256_
    safetensors.save_file(torch.load(tmp_path / "w.pth"), tmp_path / "blob")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")  # as caches of hubs keep them
    for name in ("blob", "model.safetensors"):
        assert step_of(tmp_path / name).fit(IMAGES).weights_sha256_ == expected
