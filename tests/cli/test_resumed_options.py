"""Options that change the result of a run are in its ``config.json``, which ``--resume`` reads."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from pyimgano import save
from pyimgano.cli import benchmark, train
from pyimgano.datasets import write_inspection_dataset
from pyimgano.exceptions import RunError
from pyimgano.recipes._building import calibrated
from pyimgano.registry import create_model
from tests.datasets import layouts
from tests.golden._cases import write_weights

MODEL = "--model industrial-fast-filterbank --set features__resize=32 "
NETWORK = (
    "--model vision_patchcore --features resnet18 --layers layer1 --resize 32 --weights "
    "{tmp}/weights.pth "
)
FOLDER = "--dataset folder --root {root} --category wood "
SYNTHETIC = "--dataset synthetic --image-size 64 --n-train 4 "
VISA = "--dataset visa --root {visa} --category pcb1 --split 1cls "
GOOD = f"{MODEL}{{good}} "

# For each option words of a command, and other words in which it is the only thing that differs.
OF_MODELS = {
    "amp": (NETWORK, NETWORK + "--amp"),
    "crop": (NETWORK, NETWORK + "--crop 16"),
    "device": (NETWORK, NETWORK + "--device cpu"),
    "engine": (NETWORK, NETWORK + "--engine native"),
    "features": ("--model vision_patchcore --features filterbank --resize 32", NETWORK),
    "layers": (NETWORK, NETWORK + "--layers layer2"),
    "model": (
        "--model vision_patchcore --features filterbank",
        "--model vision_padim --features filterbank",
    ),
    "quantile": (MODEL, MODEL + "--quantile 0.7"),
    "resize": (NETWORK, NETWORK + "--resize 64"),
    "set": (MODEL, MODEL + "--set coreset_ratio=0.5"),
    "seed": (MODEL, MODEL + "--seed 1"),
    "u16_max": (MODEL, MODEL + "--u16-max 4095"),
    "weights": (NETWORK, NETWORK + "--weights {tmp}/other.pth"),
}
OF_DATASETS = {
    "category": (MODEL + FOLDER, MODEL + FOLDER.replace("wood", "screw")),
    "dataset": (MODEL + FOLDER, MODEL + FOLDER.replace("folder", "mvtec_ad")),
    "image_size": (MODEL + SYNTHETIC, MODEL + SYNTHETIC + "--image-size 65"),
    "limit_test": (MODEL + FOLDER, MODEL + FOLDER + "--limit-test 5"),
    "limit_train": (MODEL + FOLDER, MODEL + FOLDER + "--limit-train 3"),
    "n_train": (MODEL + SYNTHETIC, MODEL + SYNTHETIC + "--n-train 5"),
    "split": (MODEL + VISA, MODEL + VISA.replace("1cls", "2cls_fewshot")),
}
TRAIN = {
    **{name: tuple(f"{{good}} {words}" for words in pair) for name, pair in OF_MODELS.items()},
    **OF_DATASETS,
    "confidence": (GOOD, GOOD + "--confidence 0.9"),
    "defect_option": (GOOD + "--defects", GOOD + "--defects --defect-option min_area=3"),
    "defects": (GOOD, GOOD + "--defects"),
    "embed_weights": (GOOD, GOOD + "--embed-weights"),
    "folder": (GOOD, GOOD.replace("{good}", "{other}")),
    "input_format": (GOOD, GOOD + "--input-format bgr_u8_hwc"),
    "overlays": (GOOD, GOOD + "--overlays 3"),
    "preprocess": (GOOD + "--preprocess gamma", GOOD + "--preprocess gamma:gamma=2"),
    "recipe": (GOOD, GOOD + "--recipe industrial-adapt"),
    "recipe_option": (
        GOOD + "--recipe industrial-adapt --recipe-option defects=true",
        GOOD + "--recipe industrial-adapt --recipe-option defects=false",
    ),
    "roi": (GOOD + "--roi 4,4,40,40", GOOD + "--roi 4,4,40,41"),
    "root": (MODEL + FOLDER, MODEL + FOLDER.replace("{root}", "{tmp}/data")),
    "tile": (GOOD + "--tile 32", GOOD + "--tile 48"),
    "tile_overlap": (GOOD + "--tile 32", GOOD + "--tile 32 --tile-overlap 8"),
    "val_dir": (GOOD, GOOD + "--val-dir {other}"),
}
BENCHMARK = {
    **{name: tuple(f"{words} {FOLDER}" for words in pair) for name, pair in OF_MODELS.items()},
    **OF_DATASETS,
    "overlays": (MODEL + FOLDER, MODEL + FOLDER + "--overlays 3"),
    "per_image_jsonl": (MODEL + FOLDER, MODEL + FOLDER + "--no-per-image-jsonl"),
    "pipeline": tuple(f"--pipeline {{tmp}}/{n}.joblib {FOLDER}" for n in ("one", "other")),
    "save": (MODEL + FOLDER, MODEL + FOLDER + "--no-save"),
    "synthetic_defects": tuple(
        f"{MODEL} --dataset folder --root {{good}} --synthetic-defects {n}" for n in (2, 3)
    ),
}
# Options that change nothing in a run, or how long it takes and where it goes alone.
WITHOUT_RESULT = {
    *("config", "debug", "dump_config", "help", "threads", "version"),
    *("output", "output_dir", "resume"),
}
TRAIN_WITHOUT = {
    *WITHOUT_RESULT,
    *("checkpoint_every", "dry_run", "list_recipes", "recipe_info"),
}
BENCHMARK_WITHOUT = {
    *WITHOUT_RESULT,
    # Of a category that is complete, the images have to be those of its report.
    "root",
    *("dask_scheduler", "jobs", "joblib_backend", "json", "save_run"),
    *("list_categories", "list_datasets", "list_models", "model_info"),
    *("family", "requires_checkpoint", "supports_pixel_map", "tags"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folders and files that words name."""
    tmp = tmp_path_factory.mktemp("places")
    data = tmp / "given"
    for name in ("screw", "wood"):
        write_inspection_dataset(
            data, name, random_state=0, n_train=6, n_test_good=2, n_test_defect=4, size=64
        )
    shutil.copytree(data, tmp / "data")
    (tmp / "data" / "wood" / "train" / "good" / "000.png").unlink()
    write_weights(tmp)
    for name in ("weights.pth", "other.pth"):
        shutil.copy(tmp / "golden-resnet18.pth", tmp / name)
    for name, ratio in {"one": 0.1, "other": 0.2}.items():
        save(
            calibrated(
                create_model("industrial-fast-filterbank", coreset_ratio=ratio), quantile=0.9
            ),
            tmp / f"{name}.joblib",
        )
    good = data / "wood" / "train" / "good"
    other = tmp / "data" / "screw" / "train" / "good"
    visa = layouts.visa(tmp / "visa")
    return {"tmp": tmp, "root": data, "good": good, "other": other, "visa": visa}


def config_of(command, words, places, monkeypatch):
    """The ``config.json`` of the run that a command is about to begin; it does not."""
    seen = []

    def seeing(output_dir, resume, config, name):
        seen.append(config)
        raise RunError("seen")

    monkeypatch.setattr("pyimgano.benchmark._opening.open_run", seeing)
    monkeypatch.setattr("pyimgano.benchmark._benchmark.open_run", seeing)
    assert command.main(f"{words} --output-dir {{tmp}}/runs".format(**places).split()) == 2
    (config,) = seen
    return config


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.ModelChoiceWarning")
@pytest.mark.parametrize(
    ("command", "cases", "without"),
    [(train, TRAIN, TRAIN_WITHOUT), (benchmark, BENCHMARK, BENCHMARK_WITHOUT)],
    ids=["train", "benchmark"],
)
def test_every_option_that_changes_the_result_is_in_the_config(
    command, cases, without, places, monkeypatch
):
    options = {action.dest for action in command._parser()._actions}
    assert options == {*cases, *without}, "say of a new option what it changes"
    configs = {}
    for dest, (one, other) in cases.items():
        if one not in configs:
            configs[one] = config_of(command, one, places, monkeypatch)
            # What differs each time would make all of them differ.
            assert config_of(command, one, places, monkeypatch) == configs[one]
        assert config_of(command, other, places, monkeypatch) != configs[one], dest


def test_another_region_is_refused_by_its_name(places, tmp_path, capsys):
    runs = "--output-dir", str(tmp_path / "runs")
    words = [*MODEL.split(), str(places["good"]), *runs, "--quantile", "0.8", "--roi", "4,4,40,40"]
    assert train.main(words) == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert train.main([*words, "--resume", str(path)]) == 0  # it is complete
    region = np.zeros((64, 64), np.uint8)
    region[4:40, 4:40] = 255
    cv2.imwrite(str(tmp_path / "same.png"), region)
    assert train.main([*words, "--roi", str(tmp_path / "same.png"), "--resume", str(path)]) == 0
    capsys.readouterr()
    region[4, 4] = 0
    cv2.imwrite(str(tmp_path / "other.png"), region)
    assert train.main([*words, "--roi", str(tmp_path / "other.png"), "--resume", str(path)]) == 2
    assert "was asked for something else: fit_params.roi_mask differ" in capsys.readouterr().err
    changed = ["--tile", "32", "--quantile", "0.7"]
    assert train.main([*words[:-2], *changed, "--resume", str(path)]) == 2
    assert (
        "something else: fit_params.roi_mask, pipeline.thresholdcalibrator.quantile, "
        "pipeline.tilingtransformer differ"
    ) in capsys.readouterr().err
