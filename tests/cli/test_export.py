"""The commands that make and check bundles."""

from __future__ import annotations

import json

import cv2
import jsonschema
import pytest

import pyimgano
from pyimgano import PatchCoreDetector
from pyimgano.benchmark import run_benchmark
from pyimgano.cli import main
from pyimgano.datasets import make_inspection_dataset
from pyimgano.export import json_schema, open_bundle
from pyimgano.features import FilterBankFeatures

pytestmark = pytest.mark.usefixtures("short_runs")

DATA = make_inspection_dataset(n_train=8, n_test_good=2, n_test_defect=2, size=64, random_state=0)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "golden").mkdir()
    for i, image in enumerate(DATA.X_test[:2]):
        cv2.imwrite(f"golden/{i}.png", image)
    detector = PatchCoreDetector(FilterBankFeatures(resize=32), coreset_ratio=0.05)
    pyimgano.save(detector.fit(DATA.X_train), "line3.joblib", map_range=(0.0, 2.0))
    return tmp_path


def call(*arguments):
    try:
        return main.main([str(one) for one in arguments])
    except SystemExit as stop:
        return stop.code


def test_export_and_validate(shop, capsys):
    export = ("export", "--pipeline", "line3.joblib")
    golden = [word for one in (shop / "golden").iterdir() for word in ("--golden", one)]
    assert call(*export, "-o", "b.zip", *golden) == 0
    out, err = capsys.readouterr()
    assert "saved: b.zip (2 golden images)" in out and err == ""
    assert open_bundle("b.zip").map_range == (0.0, 2.0)
    assert call("validate-infer-config", "b.zip") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    jsonschema.validate(result, json_schema("validation"))
    assert result["ok"] and result["target"] == "b.zip"
    assert "2 images score as they did" in err and "all checks passed" in err

    assert call(*export, "-o", "b", "--notes", "Bolts") == 0
    assert "without --golden" in capsys.readouterr().err
    assert "Bolts" in (shop / "b" / "model_card.md").read_text()
    (shop / "b" / "model_card.md").write_text("other")
    assert call("validate-infer-config", "b") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is False
    assert "FAIL  files" in err and "model_card.md was changed" in err


def test_infer_takes_the_pipeline_out_of_a_delivery(shop, capsys):
    export = ("export", "--pipeline", "line3.joblib", "--golden", "golden", "-o")
    assert call(*export, "b") == call(*export, "b.zip") == 0

    def records(*source):
        assert call("infer", *source, "golden", "--save-jsonl", "out.jsonl") == 0, source
        return (shop / "out.jsonl").read_text()

    expected = records("line3.joblib")
    assert '"score"' in expected
    for source in (
        ("--bundle", "b"),
        ("--bundle", "b.zip"),
        ("--infer-config", "b/infer_config.json"),
    ):
        assert records(*source) == expected
    capsys.readouterr()
    assert call("infer", "--bundle", "b", "golden", "--save-maps", "maps") == 0
    assert "scale of colors" not in capsys.readouterr().err  # it came with the bundle
    for wrong, message in (
        (("--bundle", "b"), "b alone is not enough; give images"),
        (("--bundle", "b", "--pipeline", "line3.joblib", "golden"), "not allowed with"),
        (("--bundle", "b", "--trust", "golden"), "--trust goes with a pipeline file"),
        (("--bundle", "b", "--category", "x", "golden"), "--category names a pipeline of"),
        (("--bundle", "b", "golden", "--save-csv", "b/manifest.json"), "which is read"),
        (("--bundle", "golden", "golden"), "golden: is no bundle"),
        (("b", "golden"), "b: is no saved pipeline, but holds one; put --bundle before it"),
        (("b.zip", "golden"), "put --bundle before it"),
        (("b/infer_config.json", "golden"), "put --infer-config before it"),
    ):
        assert call("infer", *wrong) == 2, wrong
        assert message in capsys.readouterr().err
    (shop / "b" / "pipeline.joblib").write_bytes(b"other")
    assert call("infer", "--bundle", "b", "golden") == 2
    assert "pipeline.joblib was changed" in capsys.readouterr().err


def test_a_pipeline_of_a_run(shop, capsys):
    run = run_benchmark(
        dataset="synthetic",
        category=["screw", "wood"],
        model="vision_pixel_mad",
        dataset_options={"n_train": 4, "n_test_good": 3, "n_test_defect": 4, "size": 64},
        output_dir="runs",
    ).path
    assert call("export", "--from-run", run, "-o", "b") == 2
    assert "several pipelines; give --category, one of screw, wood" in capsys.readouterr().err
    assert call("export", "--from-run", run, "--category", "screw", "-o", "b") == 0
    assert call("validate-infer-config", "b/infer_config.json") == 0
    judge = ("infer", "--from-run", run, "--category", "screw", "golden", "--save-jsonl", "-")
    assert call(*judge) == 0
    capsys.readouterr()
    assert call("export", "--from-run", run, "--category", "nut", "-o", "c") == 2
    assert "no category 'nut'" in capsys.readouterr().err
    assert call("export", "--from-run", "golden", "-o", "c") == 2
    assert "no run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "-o", "b"), "give a pipeline"),
        (("export", "--pipeline", "line3.joblib"), "--output"),
        (("export", "--pipeline", "nothing.joblib", "-o", "b"), "nothing.joblib: there is no"),
        (("export", "--pipeline", "line3.joblib", "-o", "golden"), "golden exists; give another"),
        (("export", "--pipeline", "line3.joblib", "-o", "line3.joblib"), "exists; give another"),
        (("export", "--pipeline", "line3.joblib", "-o", "no/b"), "this folder does not exist"),
        (("export", "--pipeline", "line3.joblib", "-o", "b", "--golden", "x"), "x: there is no"),
        (("export", "--pipeline", "line3.joblib", "-o", "b", "--category", "a"), "--from-run"),
        (("validate-infer-config", "nothing.zip"), "nothing.zip: there is no such file"),
        (("validate-infer-config", "golden"), "golden: is no bundle"),
        (("validate-infer-config", "line3.joblib"), "line3.joblib: is no bundle"),
    ],
)
def test_wrong_options_are_one_line(shop, capsys, arguments, message):
    assert call(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not (shop / "b").exists()
