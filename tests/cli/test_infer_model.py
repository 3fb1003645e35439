"""``pyimgano infer --model --train-dir``: a model that is trained for one run."""

from __future__ import annotations

import json

import pytest

import pyimgano
from pyimgano.cli import infer, train
from pyimgano.datasets import write_inspection_dataset
from tests.extras import needs_extra

pytestmark = pytest.mark.usefixtures("short_runs")

MODEL = "--model", "vision_patchcore", "--features", "filterbank", "--resize", "32"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    write_inspection_dataset(
        folder, "wood", n_train=8, n_test_good=2, n_test_defect=2, size=64, random_state=0
    )
    (folder / "wood" / "train" / "good").rename(folder / "good")
    (folder / "wood" / "test").rename(folder / "new")
    return folder


def call(main, *words):
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_model_is_trained_as_train_does_and_not_kept(photos, tmp_path, capsys):
    options = [
        *(*MODEL, "--quantile", 0.8, "--tile", 48, "--tile-overlap", 16, "--seed", 3),
        *("--preprocess", "gamma:gamma=0.8", "--defect-option", "min_area=2"),
    ]
    saved = tmp_path / "line.joblib"
    assert call(train.main, photos / "good", "-o", saved, "--defects", *options) == 0
    pipeline = pyimgano.load(saved)
    assert (pipeline[2].tile, pipeline[2].stride) == (48, 32)
    assert pipeline[-1].estimator.estimator.random_state == 3
    expected, found = tmp_path / "expected.jsonl", tmp_path / "found.jsonl"
    judged = "--input", photos / "new", "--defects", "--save-jsonl"
    assert call(infer.main, saved, *judged, expected) == 0
    capsys.readouterr()
    words = "--train-dir", photos / "good", *options, *judged, found
    assert call(infer.main, *words, "--save-maps", tmp_path / "maps") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "fitting vision_patchcore ..." in err and "images support no rate below" in err
    pictures = [one.pop("picture") for one in records(found)[:-1]]
    assert len(pictures) == 4
    stripped = [{k: v for k, v in one.items() if k != "picture"} for one in records(found)]
    assert stripped == records(expected) and len(stripped) == 5
    assert all("defects" in one for one in stripped[:-1]) and "pixel threshold" in err
    # Another seed draws another coreset; the same one continues where a run was ended.
    assert call(infer.main, *words, "--resume", "--seed", 4) == 2
    assert "cannot be gone on with" in capsys.readouterr().err
    assert call(infer.main, *words, "--resume") == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"line.joblib", "line.joblib.json", "expected.jsonl", "found.jsonl", "maps"}


def test_a_configuration_trains_and_names_unreadable_training_images(photos, tmp_path, capsys):
    good = tmp_path / "good"
    good.mkdir()
    for path in (photos / "good").iterdir():
        (good / path.name).write_bytes(path.read_bytes())
    (good / "999.png").write_bytes(b"junk")
    config = {"model": "vision_patchcore", "features": "filterbank", "resize": 32, "quantile": 0.8}
    config.update({"train-dir": "good", "input": [str(photos / "new")], "tile": 48})
    (tmp_path / "line.json").write_text(json.dumps(config))
    assert call(infer.main, "--config", tmp_path / "line.json") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line).get("pred") for line in out.splitlines()][-1] is None
    assert len(out.splitlines()) == 5
    assert f"left out: {good / '999.png'}" in err and "left out: 1 unreadable" in err


@pytest.mark.parametrize(
    "words, message",
    [
        ("--model vision_patchcore {new}", "--model vision_patchcore needs images of good parts"),
        ("--train-dir {good} {file} {new}", "needs a model to train: give --model NAME"),
        ("{file} {new} --tile 32", "--tile belongs to --model and --train-dir: how images are cut"),
        ("--bundle b.zip {new} --tile-overlap 8", "is fixed by fit: b.zip has learned from"),
        ("{file} {new} --quantile 0.98", "--quantile belongs to --model and --train-dir: {file} w"),
        ("{file} {new} --set k=3", "or train another with pyimgano train --set"),
        ("{file} {new} --amp", "--amp belongs to a network, and {file} has none"),
        ("{model} --train-dir {good} {new} --tile-overlap 8", "give their side, --tile, as well"),
        ("{model} --train-dir {good} {new} --tile 8 --tile-overlap 8", "must be less than the si"),
        ("{model} --train-dir {new}/no {new}", "--train-dir {new}/no does not exist"),
        ("{model} --train-dir {good} {new} --trust", "--trust goes with a pipeline file"),
        ("{model} --train-dir {good} {new} --category wood", "--category names a pipeline of"),
        ("{model} --train-dir {good} {new} --defect-option min_area=2", "give --defects, --save-m"),
        ("{model} --train-dir {good}", "vision_patchcore alone is not enough; give images"),
        ("{model} --train-dir {good} {new} --pipeline {file}", "not allowed with argument"),
        ("{model} --train-dir {good} {new} --save-csv {good}/000.png", "000.png, which is read"),
        ("{model} --train-dir {good} {new} --save-maps {good}", "taken for images of {good} the"),
        (
            "--model vision_knn --train-dir {good} {new} --save-masks {tmp}/m",
            "--save-masks: vision_knn judges images as a whole",
        ),
    ],
)
def test_what_cannot_be_trained_or_set_is_refused(words, message, photos, tmp_path, capsys):
    places = {"good": photos / "good", "new": photos / "new", "model": " ".join(MODEL)}
    places.update(tmp=tmp_path, file=tmp_path / "line.joblib")
    if "{file} {new} --amp" in words:
        call(train.main, photos / "good", "-o", places["file"], *MODEL, "--quantile", 0.8)
        capsys.readouterr()
    assert call(infer.main, *words.format(**places).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(**places) in line


def test_bfloat16_is_trained_in(photos, tmp_path, capsys):
    needs_extra("torch")
    network = [
        *("--model", "vision_patchcore", "--features", "resnet18", "--weights", "none"),
        *("--layers", "layer1", "--resize", 32, "--quantile", 0.8),
    ]
    full, half = tmp_path / "full.joblib", tmp_path / "half.joblib"
    assert call(train.main, photos / "good", "-o", full, *network) == 0
    assert call(train.main, photos / "good", "-o", half, *network, "--amp") == 0
    assert pyimgano.load(half)[-1].estimator.features.precision == "bfloat16"
    capsys.readouterr()
    assert call(infer.main, full, photos / "new", "--amp") == 2
    assert "calibrated in float32" in capsys.readouterr().err
    assert call(infer.main, half, photos / "new", "--amp", "--save-jsonl", tmp_path / "a") == 0
    words = *network, "--amp", "--train-dir", photos / "good", "--input", photos / "new"
    assert call(infer.main, *words, "--save-jsonl", tmp_path / "b") == 0
    assert records(tmp_path / "a") == records(tmp_path / "b")
