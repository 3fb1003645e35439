"""``pyimgano train`` with recipes, datasets and run directories."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyimgano.benchmark import RunDirectory
from pyimgano.cli import export, infer, recalibrate, runs, train
from pyimgano.cli import main as umbrella
from pyimgano.cli._options import model_options
from pyimgano.datasets import write_inspection_dataset
from pyimgano.recipes import list_recipes, recipe_info
from tests.extras import needs_extra

pytestmark = pytest.mark.usefixtures("short_runs")

SMALL = (
    *("--model", "industrial-fast-filterbank", "--resize", "64", "--quantile", "0.9"),
    *("--set", "features__n_components=8"),
)
ADAPT = ("--recipe", "industrial-adapt", *SMALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("screw", "wood"):
        write_inspection_dataset(
            root, name, random_state=0, n_train=14, n_test_good=3, n_test_defect=4, size=64
        )
    return root


def call(*words):
    return train.main([str(word) for word in words])


def everything(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


# ---- the daily loop ---------------------------------------------------------------------
def test_from_a_dataset_to_a_run_that_infer_runs_and_export_take(root, tmp_path, capsys):
    data = "--dataset", "folder", "--root", root, "--category", "wood"
    assert call(*ADAPT, *data, "--output-dir", tmp_path / "runs") == 0
    said = capsys.readouterr().out
    assert "wood, training: 14 images: PNG; 64 x 64 pixels" in said
    assert "model: industrial-fast-filterbank, as asked for" in said
    assert "image AUROC" in said and "of new good parts will show a defect" in said
    (path,) = (tmp_path / "runs").iterdir()
    assert f"next: pyimgano infer --from-run {path} NEW_IMAGES" in said
    assert path.name.endswith("_folder_industrial-adapt")
    records = tmp_path / "verdicts.jsonl"
    words = "--from-run", path, root / "wood" / "test", "--defects", "--save-jsonl", records
    assert infer.main([str(word) for word in words]) == 0
    by_name = {
        Path(one["path"]).relative_to(root / "wood").as_posix(): one
        for one in map(json.loads, records.read_text().splitlines())
        if "path" in one
    }
    judged = RunDirectory(path).artifacts.read_per_image()
    assert len(judged) == len(by_name) == 7
    for one in judged:
        other = by_name[one["input"]]
        assert {k: one[k] for k in ("score", "pred", "p_value", "defects")} == {
            k: other[k] for k in ("score", "pred", "p_value", "defects")
        }
    capsys.readouterr()
    assert runs.main(["show", str(path)]) == 0
    assert "industrial-fast-filterbank on folder" in capsys.readouterr().out
    assert runs.main(["compare", str(path), str(path)]) == 0
    assert export.main(["--from-run", str(path), "-o", str(tmp_path / "bundle")]) == 0
    # The same again is there already, and other images are another run.
    capsys.readouterr()
    assert call(*ADAPT, *data, "--output-dir", tmp_path / "runs", "--resume") == 0
    assert f"{path} is complete; nothing is fitted again" in capsys.readouterr().out
    other = "--dataset", "folder", "--root", root, "--category", "screw"
    assert call(*ADAPT, *other, "--resume", path) == 2
    assert "was asked for something else: categories, recipe.images.t" in capsys.readouterr().err


def test_without_a_recipe_there_is_a_run_as_well(root, tmp_path, capsys):
    good = root / "wood" / "train" / "good"
    words = *SMALL, good, "--output-dir", tmp_path / "runs", "-o", tmp_path / "line.joblib"
    assert call(*words) == 0
    (path,) = (tmp_path / "runs").iterdir()
    report = json.loads((path / "report.json").read_text())
    assert report["training"]["recipe"] is None
    assert report["categories"]["good"]["n_train"] == 14
    copies = (path / "artifacts" / "pipeline.joblib"), tmp_path / "line.joblib"
    verdicts = []
    for one in copies:
        assert infer.main([str(one), str(root / "wood" / "test"), "--save-csv", "-"]) == 0
        verdicts.append([line.split(",")[:4] for line in capsys.readouterr().out.splitlines()][-7:])
    assert verdicts[0] == verdicts[1]


def test_train_names_images_to_look_at(root, tmp_path, capsys):
    good = tmp_path / "good"
    shutil.copytree(root / "wood" / "train" / "good", good)
    image = cv2.imread(str(good / "004.png"))
    image[20:40, 20:40] = 255, 0, 255
    cv2.imwrite(str(good / "004.png"), image)
    assert call(*SMALL, good, "-o", tmp_path / "line.joblib") == 0
    said = capsys.readouterr().out.splitlines()
    (start,) = (i for i, line in enumerate(said) if line.startswith("look at these"))
    assert said[start + 1].endswith(str(good / "004.png"))
    assert said[start + 2] == f"saved: {tmp_path / 'line.joblib'}"


def test_one_image_is_enough_for_verdicts_without_a_rate(root, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    shutil.copy(root / "wood" / "train" / "good" / "000.png", tmp_path / "one")
    words = "--recipe", "few-shot", tmp_path / "one", "--features", "filterbank"
    file = tmp_path / "line.joblib"
    assert call(*words, "-o", file, "--recipe-option", "n_rotations=2") == 0
    said, err = capsys.readouterr()
    assert "one good image does not tell what share of new good parts" in said
    assert "it will call bad is not known" in err
    assert infer.main([str(file), str(root / "wood" / "test"), "--save-jsonl", "-"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["p_value"] for one in records if "path" in one} == {1.0}
    assert export.main(["--pipeline", str(file), "-o", str(tmp_path / "bundle")]) == 0
    (card,) = (path for path in (tmp_path / "bundle").iterdir() if path.suffix == ".md")
    assert "does not tell what share of new good parts" in card.read_text()
    assert "images of good parts; their scores" not in card.read_text()
    capsys.readouterr()
    images = root / "wood" / "test" / "good"
    assert infer.main([str(file), str(images), "--threshold", "7"]) == 0
    assert recalibrate.main([str(file), "--threshold", "7", "-o", str(tmp_path / "by_hand")]) == 0
    said, err = capsys.readouterr()
    assert "threshold 7 in place of the pipeline's" in err and "put by hand" in said
    assert "the threshold was " in said and "0 good images" not in said + err


# ---- trials -----------------------------------------------------------------------------
def test_a_dry_run_checks_everything_and_changes_nothing(root, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(root / "wood", data)
    words = *ADAPT, "--dataset", "folder", "--root", data, "--output-dir", tmp_path / "runs"
    before = everything(tmp_path)
    assert call(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "would fit industrial-fast-filterbank:" in said and "ok: masks of 7 test" in said
    assert "nothing was kept or written" in said
    assert everything(tmp_path) == before
    (data / "test" / "good" / "000.png").write_bytes(b"junk")
    (data / "train" / "good" / "000.png").write_bytes(b"junk")
    mask = next((data / "ground_truth").rglob("*.png"))
    cv2.imwrite(str(mask), np.zeros((64, 64), np.uint8))
    before = everything(tmp_path)
    assert call(*words, "--dry-run") == 1
    said, err = capsys.readouterr()
    assert "left out: 1 of 7 test images cannot be used; the first: " in said
    assert "left out: 1 of 7 masks cannot be used; the first: " in said
    assert f"left out: {data / 'train' / 'good' / '000.png'}: " in err
    assert call(*words, "--dry-run", "--recipe-option", "confidence=0.99") == 2
    said, err = capsys.readouterr()
    assert "wrong: industrial-fast-filterbank: method=" in said
    assert "1 thing would keep the run from succeeding" in err
    assert everything(tmp_path) == before


def test_a_dry_run_downloads_nothing(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("pyimgano.backbones._weights._download", None)
    good = root / "wood" / "train" / "good"
    words = good, "--features", "wide_resnet50_2", "--output-dir", tmp_path / "runs", "--dry-run"
    assert call("--recipe", "industrial-adapt", *words) == 2
    assert "wrong: vision_patchcore: there are no pretrained weights of" in capsys.readouterr().out
    assert call("--resize", "64", *words) == 2
    assert "no pretrained weights of wide_resnet50_2 on this machine" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- what is refused --------------------------------------------------------------------
def test_recipes_are_listed(capsys):
    assert umbrella.main(["train", "--list-recipes"]) == 0
    assert json.loads(capsys.readouterr().out) == list_recipes()
    assert umbrella.main(["train", "--recipe-info", "industrial-adapt"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_info("industrial-adapt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--recipe-info industrial-adpat", "Did you mean 'industrial-adapt'?"),
        (
            "--recipe industrial-adpt {good}",
            "there is no recipe 'industrial-adpt'. Did you mean 'industrial-adapt'?",
        ),
        ("--recipe industrial-adapt", "give DIR, the folder of the images of good parts, or"),
        ("--recipe industrial-adapt {tmp}/no", "{tmp}/no does not exist; give the folder"),
        ("--recipe industrial-adapt {tmp}/empty", "there is no image in this folder"),
        ("--recipe industrial-adapt {tmp}/one", "at least 2 different good images are needed"),
        ("--recipe industrial-adapt {good} --dataset folder", "both name the images"),
        ("--recipe industrial-adapt {good} --category a", "--category belongs to --dataset NAME"),
        ("--recipe industrial-adapt {good} --recipe-option tlie=3", "Did you mean 'tile'?"),
        (
            "--recipe industrial-adapt {good} --tile 32 --recipe-option tile=64",
            "--tile and --recipe-option tile are the same",
        ),
        ("--recipe industrial-adapt {good} --output-dir {good}/runs", "lies in the folder of"),
        ("--recipe industrial-adapt --dataset folder --root {root}", "one of screw, wood"),
        ("--recipe industrial-adapt --dataset folder --root {tmp}/empty", "{tmp}/empty"),
        (
            "--recipe industrial-adapt --dataset folder --root {root} --category screw wood",
            "one pipeline is trained on one category",
        ),
        ("{good}", "-o/--output FILE is missing"),
        ("{good} -o {tmp}/a.joblib --resume", "--resume looks for a run in --output-dir"),
        ("{good} --resume {tmp}/empty", "is no run directory: it has no config.json"),
        ("--recipe industrial-adapt {good} --model padim", "Did you mean 'vision_padim'?"),
    ],
)
def test_train_refuses_what_cannot_work(words, message, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "one"):
        (tmp_path / name).mkdir()
    good = root / "wood" / "train" / "good"
    shutil.copy(good / "000.png", tmp_path / "one")
    places = {"good": good, "tmp": tmp_path, "root": root}
    assert call(*words.format(**places).split()) == 2
    err = capsys.readouterr().err
    assert message.format(**places) in err and len(err.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["empty", "one"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model vision_stfpm --features filterbank", "FilterBankFeatures has none"),
        ("--model vision_dinomaly --features filterbank", "FilterBankFeatures is none"),
        ("--model vision_ssim_template --set window=4", "window=4 must be odd"),
        ("--model vision_ssim_template --set resize=32 --roi 0,0,1,1", "no working pixel lies in"),
        ("--model vision_spade --features filterbank --set n_image_features=9999", "is more than"),
        ("--model vision_patchcore --features filterbank --roi 0,0,1,1", "no patch lies in the"),
        (
            "--features filterbank --quantile 0.8 --defects --defect-option border_ignore_px=99",
            "border_ignore_px=99 leaves nothing of a map",
        ),
    ],
)
def test_what_fits_neither_model_nor_images_is_no_fault_of_the_program(
    words, message, root, tmp_path, capsys
):
    if "stfpm" in words or "dinomaly" in words:
        needs_extra("torch")
    good = root / "wood" / "train" / "good"
    assert call(str(good), "-o", str(tmp_path / "line.joblib"), *words.split()) == 2
    err = capsys.readouterr().err
    assert message in err and "fault of the program" not in err
    assert not os.listdir(tmp_path)


def test_layers_of_a_transformer_are_numbers():
    options = train._parser().parse_args(["x", "--layers", "2", "-1", "layer3"])
    assert model_options(options)["features__layers"] == (2, -1, "layer3")
