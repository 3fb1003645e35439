"""``pyimgano robust-benchmark``: one document on standard output, a table, a picture."""

from __future__ import annotations

import hashlib
import inspect
import json

import pytest

import pyimgano
from pyimgano.benchmark import json_schema
from pyimgano.cli import robust_benchmark
from pyimgano.datasets import load_folder, write_inspection_dataset
from pyimgano.robustness import CORRUPTIONS, robustness_report, run_robust_benchmark
from tests.cli.test_commands import call

pytestmark = pytest.mark.usefixtures("short_runs")

MODEL = ["--model", "industrial-fast-filterbank", "--resize", "32", "--quantile", "0.8"]
CORRUPT = ["--corruptions", "dust", "shift", "--severities", "5", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_inspection_dataset(
        root, "wood", n_train=12, n_test_good=4, n_test_defect=4, size=64, random_state=0
    )
    return root


def test_report_table_and_picture(root, tmp_path, capsys):
    arguments = ["--dataset", "folder", "--root", root, *MODEL, *CORRUPT]
    out, picture = tmp_path / "report.json", tmp_path / "heat.png"
    status = call(robust_benchmark.main, *arguments, "--output", out, "--save-picture", picture)
    stdout, stderr = capsys.readouterr()
    assert status == 0
    report = json.loads(stdout)
    assert stdout == out.read_text()
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(report, json_schema("robustness"))
    assert report["severities"] == [1, 5] and report["model"] == "industrial-fast-filterbank"
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = stderr.split("\n\n")[1].splitlines()
    wood = report["categories"]["wood"]
    assert table[0].startswith("wood: 4 good and 4 defective images, threshold ")
    assert [line[:8].strip() for line in table[2:]] == ["clean", "dust", "shift"]
    rates = [
        round(100 * one["false_positive_rate"]["value"])
        for one in wood["corruptions"]["dust"]["conditions"]
    ]
    assert [int(word) for word in table[3].split()[3:5]] == rates
    # The second run is the first.
    call(robust_benchmark.main, *arguments)
    again = json.loads(capsys.readouterr().out)
    assert {**again, "times": 0} == {**report, "times": 0}


def test_a_saved_pipeline_is_judged_as_it_is(root, tmp_path, capsys):
    data = load_folder(root / "wood")
    model = pyimgano.create_model("industrial-fast-filterbank", features__resize=32)
    pipe = pyimgano.ThresholdCalibrator(model, quantile=0.8).fit(data.X_train)
    file = tmp_path / "wood.joblib"
    pyimgano.save(pipe, file)
    before = file.read_bytes()
    arguments = ["--dataset", "folder", "--root", root, *CORRUPT, "--pipeline", file]
    assert call(robust_benchmark.main, *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    expected = robustness_report(
        pipe,
        data.X_test,
        data.y_test,
        masks=data.masks_test,
        corruptions=["dust", "shift"],
        severities=[1, 5],
    )
    wood = report["categories"]["wood"]
    assert report["model"] == report["pipeline"]["file"] == "wood.joblib"
    assert report["pipeline"]["sha256"] == hashlib.sha256(before).hexdigest()
    assert "PatchCoreDetector" in report["pipeline"]["estimator"]
    assert {name: wood[name] for name in expected} == json.loads(json.dumps(expected))
    assert file.read_bytes() == before
    for more in (["--quantile", "0.9"], ["--limit-train", "9"], ["--features", "resnet18"]):
        assert call(robust_benchmark.main, *arguments, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"error: {more[0]} belongs to a model" in line


def test_what_was_left_out_is_told(root, tmp_path, capsys):
    import shutil

    shutil.copytree(root, tmp_path / "data")
    next((tmp_path / "data" / "wood" / "test" / "good").iterdir()).write_bytes(b"junk")
    arguments = ["--dataset", "folder", "--root", tmp_path / "data", *MODEL]
    more = ["--corruptions", "gamma", "--severities", "1"]
    assert call(robust_benchmark.main, *arguments, *more) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(": 1 test images could not be judged and were left out")
    )


def test_corruptions_are_listed(capsys):
    assert call(robust_benchmark.main, "--list-corruptions") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == CORRUPTIONS.keys()
    assert found["shift"]["strengths"] == [0.5, 1, 2, 3, 5] and found["shift"]["moves_masks"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corruptions", "dusk"], "there is no corruption 'dusk'. Did you mean 'dust'?"),
        (["--corruptions", "dust", "dust"], "--corruptions names dust twice"),
        (["--corruptions", "all", "dust"], '"all" holds the others'),
        (["--severities", "6"], "invalid choice: 6"),
        (["--severities", "2", "2"], "--severities names 2 twice"),
        (["--save-picture", "heat.bmp"], "has to end in one of .png, .pdf, .svg"),
        (["--save-picture", "nowhere/heat.png"], "there is no such folder"),
        (["--save-picture", "a.svg", "--output", "a.svg"], "are the same file"),
        (["--pipeline", "nowhere.joblib"], "there is no such file"),
        (["--root", "data"], "synthetic reads none"),
    ],
)
def test_wrong_options_are_a_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(robust_benchmark.main, "--dataset", "synthetic", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pyimgano-robust-benchmark: error: ") and message in line


def test_defaults_are_the_functions():
    options = robust_benchmark._parser().parse_args(["--dataset", "synthetic"])
    function = inspect.signature(run_robust_benchmark).parameters
    for option, parameter in {
        "category": "category",
        "limit_test": "limit_test",
        "limit_train": "limit_train",
        "model": "model",
        "pipeline": "estimator",
        "quantile": "quantile",
        "root": "root",
        "seed": "random_state",
        "u16_max": "u16_max",
    }.items():
        assert getattr(options, option) == function[parameter].default, option
    assert options.corruptions == [function["corruptions"].default]
    assert tuple(options.severities) == function["severities"].default
