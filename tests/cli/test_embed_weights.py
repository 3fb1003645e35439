"""Commands with networks: weights inside the file, beside it, or asked for."""

from __future__ import annotations

import json
import shutil
import warnings

import cv2
import numpy as np
import pytest

from pyimgano import load
from pyimgano.cli import infer, recalibrate, train
from pyimgano.datasets import make_inspection_dataset
from pyimgano.features import BackbonePatchFeatures

torch = pytest.importorskip("torch")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Photos of good parts, a file of weights, and a machine with nothing in its caches."""
    for name in ("HOME", "PYIMGANO_CACHE_DIR", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.delenv("PYIMGANO_WEIGHTS", raising=False)
    (tmp_path / "good").mkdir()
    images = make_inspection_dataset(n_train=12, size=64, random_state=0).X_train
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / "good" / f"{i:02d}.png"), image)
    step = BackbonePatchFeatures("resnet18", ("layer1",), None, embed_weights=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step.fit(np.zeros((1, 64, 64, 3), np.uint8))
    state = {name: torch.tensor(values) for name, values in step.embedded_weights_.items()}
    torch.save(state, tmp_path / "net.pth")
    return tmp_path


def call(command, *arguments):
    try:
        return command.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def trained(shop, *options):
    network = ("--features", "resnet18", "--layers", "layer1", "--resize", "64", "--device", "cpu")
    arguments = (shop / "good", "-o", shop / "line3.joblib", "--quantile", "0.9", *network)
    assert call(train, *arguments, "--weights", shop / "net.pth", *options) == 0
    (shop / "line").mkdir()
    for name in ("line3.joblib", "line3.joblib.json"):
        shutil.move(shop / name, shop / "line" / name)
    return shop / "line" / "line3.joblib"


def scores(shop, pipeline, *options):
    out = shop / "out.jsonl"
    assert call(infer, pipeline, shop / "good", "--save-jsonl", out, *options) == 0
    return [json.loads(line).get("score") for line in out.read_text().splitlines()]


def test_train_embeds_weights_and_recalibrate_keeps_them(shop, capsys):
    pipeline = trained(shop, "--embed-weights")
    expected = scores(shop, pipeline)
    (shop / "net.pth").unlink()
    assert scores(shop, pipeline, "--weights", "nothing.pth") == expected
    assert "holds its weights, and --weights nothing.pth is not read" in capsys.readouterr().err
    moved = shop / "line" / "line3b.joblib"
    assert call(recalibrate, pipeline, shop / "good", "-o", moved, "--quantile", "0.8") == 0
    assert "12 of them training images" in load(moved)[-1].provenance_["scores"]
    assert scores(shop, moved) == expected


def test_without_them_the_file_is_found_or_asked_for(shop, capsys, monkeypatch):
    pipeline = trained(shop)
    expected = scores(shop, pipeline)
    weights = (shop / "net.pth").rename(shop / "elsewhere.pth")
    capsys.readouterr()
    assert call(infer, pipeline, shop / "good") == 2
    err = capsys.readouterr().err
    assert "Wanted is net.pth" in err and "pyimgano infer --weights FILE" in err
    assert call(recalibrate, pipeline, shop / "good", "-o", shop / "b.joblib") == 2
    assert not (shop / "b.joblib").exists()
    assert scores(shop, pipeline, "--weights", weights) == expected
    moved = shop / "line" / "b.joblib"
    options = "--weights", weights, "--device", "auto", "--quantile", "0.8"
    assert call(recalibrate, pipeline, shop / "good", "-o", moved, *options) == 0
    before, after = (load(path)[-1].estimator_.features for path in (pipeline, moved))
    assert (
        (before.weights, before.device)
        == (after.weights, after.device)
        == (*(str(shop / "net.pth"), "cpu"),)
    )
    shutil.copy(weights, shop / "line" / "any name")
    assert scores(shop, pipeline) == expected
    assert scores(shop, pipeline, "--trust") == expected
