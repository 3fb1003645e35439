"""Recipes: what they decide, what a run of one leaves, and recipes of others."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator, registry
from pyimgano._models import Model
from pyimgano._nesting import find_calibrator, find_defects, innermost
from pyimgano.benchmark import json_schema
from pyimgano.benchmark._split import fingerprint, limited
from pyimgano.cleaning import RULE, rank_suspects, suspicion_limit
from pyimgano.cli._report_text import comparison_text, report_text
from pyimgano.datasets import (
    load_dataset,
    make_inspection_dataset,
    write_inspection_dataset,
)
from pyimgano.detectors import DRAEMDetector, STFPMDetector, SuperSimpleNetDetector, checkpoints
from pyimgano.exceptions import (
    DatasetError,
    PluginError,
    PluginWarning,
    RunError,
    TooFewImagesWarning,
    UnknownParameterError,
    UnknownRecipeError,
)
from pyimgano.features import BackbonePatchFeatures, FilterBankFeatures
from pyimgano.inference import iter_infer
from pyimgano.preprocessing import GammaCorrection
from pyimgano.recipes import (
    Plan,
    RecipeConfig,
    RecipeData,
    _recipe,
    list_recipes,
    recipe_info,
    register_recipe,
    run_recipe,
)
from pyimgano.recipes._building import calibrated
from pyimgano.recipes._checks import check_plan
from pyimgano.recipes._running import config_of
from pyimgano.recipes._shipped import SHIPPED
from pyimgano.recipes._suspects import suspicious_images

SMALL = {
    "model": "industrial-fast-filterbank",
    "model_options": {"features__resize": 64, "features__n_components": 8},
    "quantile": 0.9,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_inspection_dataset(
        root, "wood", n_train=14, n_test_good=3, n_test_defect=4, size=64, random_state=0
    )
    return root


@pytest.fixture(scope="module")
def adapted(root, tmp_path_factory):
    data = load_dataset("folder", root, category="wood")
    return run_recipe("industrial-adapt", data, output_dir=tmp_path_factory.mktemp("runs"), **SMALL)


def files_of(path):
    return sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())


# ---- the run directory ------------------------------------------------------------------
def test_a_run_holds_report_pipeline_pictures_and_defects(root, adapted):
    names = files_of(adapted.path)
    assert [name for name in names if "/overlays/" not in name] == [
        "artifacts/per_image.jsonl",
        "artifacts/pipeline.joblib",
        "artifacts/pipeline.joblib.json",
        "artifacts/report.json",
        "config.json",
        "environment.json",
        "report.json",
    ]
    assert any("/overlays/" in name for name in names)
    for name, schema in {
        "report.json": "report",
        "config.json": "config",
        "environment.json": "environment",
        "artifacts/report.json": "category_report",
    }.items():
        jsonschema.validate(json.loads((adapted.path / name).read_text()), json_schema(schema))
    assert json.loads((adapted.path / "report.json").read_text()) == adapted.report
    assert adapted.report["training"]["recipe"] == "industrial-adapt"
    assert adapted.details["defects"]["threshold"]["target_rate"] == 0.1
    lines = (adapted.path / "artifacts" / "per_image.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        jsonschema.validate(record, json_schema("record"))
    pipeline = pyimgano.load(adapted.path / "artifacts" / "pipeline.joblib")
    assert find_defects(pipeline).quantile == find_calibrator(pipeline).quantile == 0.9
    images = load_dataset("folder", root, category="wood").to_bunch().X_test
    for record, result in zip(records, iter_infer(pipeline, images, return_defects=True)):
        assert record["score"] == result.score
        assert record["defects"] == result.to_dict()["defects"]


def test_a_run_without_test_images_has_no_figures(root, tmp_path):
    good = root / "wood" / "train" / "good"
    result = run_recipe("industrial-adapt", good, output_dir=tmp_path, **SMALL)
    assert files_of(result.path) == [
        "artifacts/pipeline.joblib",
        "artifacts/pipeline.joblib.json",
        "artifacts/report.json",
        "config.json",
        "environment.json",
        "report.json",
    ]
    for name, schema in {"report": "report", "artifacts/report": "category_report"}.items():
        content = json.loads((result.path / f"{name}.json").read_text())
        jsonschema.validate(content, json_schema(schema))
    assert result.report["categories"]["good"]["image_auroc"] is None
    assert result.details["n_train"] == 14


def test_a_complete_run_is_not_fitted_again(root, adapted, monkeypatch):
    monkeypatch.setattr("pyimgano.recipes._running.run_category", None)
    data = load_dataset("folder", root, category="wood")
    again = run_recipe(
        "industrial-adapt", data, output_dir=adapted.path.parent, resume=True, verbose=True, **SMALL
    )
    assert (again.path, again.report) == (adapted.path, adapted.report)
    assert (
        find_calibrator(again.pipeline).threshold_ == find_calibrator(adapted.pipeline).threshold_
    )


def test_other_images_of_the_same_name_are_another_run(root, adapted, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data" / "wood" / "train" / "good" / "000.png").unlink()
    data = load_dataset("folder", tmp_path / "data", category="wood")
    with pytest.raises(RunError, match=r"asked for something else: recipe\.images\.train differ"):
        run_recipe("industrial-adapt", data, resume=adapted.path, **SMALL)


def test_nothing_is_not_the_same_as_what_is_not_said(root, adapted, tmp_path):
    shutil.copytree(adapted.path, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    assert config.pop("limit_train", 0) is None
    file.write_text(json.dumps(config))
    data = load_dataset("folder", root, category="wood")
    with pytest.raises(RunError, match="asked for something else: limit_train differ"):
        run_recipe("industrial-adapt", data, resume=tmp_path / "run", **SMALL)


# ---- training images to look at ---------------------------------------------------------
def test_a_defect_among_the_training_images_is_named(root, tmp_path):
    data = load_dataset("folder", root, category="wood").to_bunch()
    images = np.stack([data.X_train[i] for i in range(len(data.X_train))])
    images[4, 20:40, 20:40] = 255, 0, 255
    result = run_recipe("industrial-adapt", images, output_dir=tmp_path, **SMALL)
    look = result.report["training"]["look_at"]
    assert [one["input"] for one in look["images"]] == ["train[4]"] and look["rule"] == RULE
    scores = innermost(result.pipeline)[0].training_scores_
    marked = [one.index for one in rank_suspects(scores) if one.suspicious]
    assert result.suspects.indices == marked and result.suspects.n_more == 0
    assert [one for one in files_of(result.path) if "look_at" in one] == [
        "artifacts/look_at/01_train-4.png"
    ]


# ---- what is decided --------------------------------------------------------------------
def plan_of(data, **options):
    config = RecipeConfig(RecipeData.of(data), options)
    return _recipe.find_recipe("industrial-adapt").plan(config)


@pytest.mark.parametrize(
    ("loadable", "model"),
    [
        ({"industrial-fast-imagenet", "industrial-balanced"}, "industrial-fast-imagenet"),
        ({"industrial-balanced"}, "industrial-balanced"),
        (set(), "industrial-fast-filterbank"),
    ],
)
def test_the_preset_is_one_whose_weights_are_here(loadable, model, monkeypatch):
    from pyimgano.recipes import _building

    steps = {"efficientnet_lite0": "industrial-fast-imagenet", "resnet18": "industrial-balanced"}
    monkeypatch.setattr(_building, "has_cuda", lambda: False)
    monkeypatch.setattr(
        "pyimgano.features._network.BaseNetworkFeatures.can_be_loaded",
        lambda step: steps[step.backbone] in loadable,
    )
    plan = plan_of(np.zeros((60, 64, 64, 3), np.uint8))
    assert list(plan.pipelines) == [model]
    assert plan.decisions[0].startswith(f"model: {model}, ")


def test_large_images_are_cut_and_few_images_lower_the_quantile():
    options = {**SMALL, "quantile": 0.98}
    small = plan_of(np.zeros((60, 256, 256, 3), np.uint8), **options)
    assert [name for name, _ in small.pipelines["industrial-fast-filterbank"].steps][1:] == [
        "pixelthresholdcalibrator"
    ]
    large = plan_of(np.zeros((10, 64, 257, 3), np.uint8), **options)
    pipeline = large.pipelines["industrial-fast-filterbank"]
    assert pipeline[1].tile == 128 and find_calibrator(pipeline).quantile == 0.909
    assert find_calibrator(pipeline).estimator.max_bank_patches == 20_000
    assert len(large.decisions) == 4
    without = plan_of(np.zeros((10, 64, 257, 3), np.uint8), tile=None, **options)
    assert len(without.pipelines["industrial-fast-filterbank"]) == 2


def test_a_model_without_maps_finds_no_defects():
    plan = plan_of(np.zeros((60, 64, 64, 3), np.uint8), model="vision_knn")
    assert plan.decisions[-1] == "no defects: vision_knn makes no maps to find them in"
    assert find_defects(plan.pipelines["vision_knn"]) is None


def test_highres_takes_tiles_that_overlap_and_are_not_shrunk():
    recipe = _recipe.find_recipe("industrial-highres")
    data = RecipeData.of(np.zeros((60, 200, 100, 3), np.uint8))
    pipeline = recipe.plan(RecipeConfig(data, SMALL)).pipelines["industrial-fast-filterbank"]
    assert (pipeline[1].tile, pipeline[1].stride) == (64, 48)
    assert find_calibrator(pipeline).estimator.max_bank_patches == 20_000
    for options, message in (
        ({"tile": 200}, "no image is larger than a tile"),
        ({"tile": 32, "tile_overlap": 32}, "must be less than the tile"),
        ({"model": "vision_knn", "model_options": None}, "makes no maps"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe.plan(RecipeConfig(data, {**SMALL, **options}))


def test_few_shot_takes_the_best_features_that_are_here(monkeypatch):
    recipe = _recipe.find_recipe("few-shot")
    images = np.random.RandomState(0).randint(90, 110, (4, 64, 64, 3)).astype(np.uint8)
    data = RecipeData.of(images)
    here = {"resnet18", "efficientnet_lite0"}
    monkeypatch.setattr(
        "pyimgano.features._network.BaseNetworkFeatures.can_be_loaded",
        lambda step: step.backbone in here,
    )
    for name in ("efficientnet_lite0", "resnet18", "FilterBankFeatures"):
        (found,) = recipe.plan(RecipeConfig(data)).pipelines
        assert found == f"bank of all patches ({name})"
        here.discard(name)
    here.add("dinov2_vits14")
    assert list(recipe.plan(RecipeConfig(data)).pipelines) == ["AnomalyDINO (dinov2_vits14)"]
    here.clear()
    small = RecipeConfig(data, {"model_options": {"features__resize": 32}})
    assert list(recipe.plan(small).pipelines) == ["bank of all patches (FilterBankFeatures)"]
    options = {"features": FilterBankFeatures(resize=32), "n_rotations": 4}
    result = run_recipe("few-shot", images, output_dir=None, model_options=options)
    detector = innermost(result.pipeline)[0]
    assert len(detector.bank_) == 4 * len(detector.bank_image_[detector.bank_image_ == 0])
    assert find_calibrator(result.pipeline).quantile == 0.8
    assert "each as it is and in 3 turned views" in result.report["training"]["decisions"][1]
    with pytest.raises(ValueError, match="up to 16 good images"):
        recipe.plan(RecipeConfig(RecipeData.of(np.zeros((17, 64, 64, 3), np.uint8))))


def test_few_shot_with_one_image_promises_no_rate(root):
    data = limited(load_dataset("folder", root, category="wood").to_bunch(), 1, None, 0)
    options = {"features": FilterBankFeatures(resize=32), "n_rotations": 2}
    with pytest.warns(TooFewImagesWarning, match="is not known") as caught:
        result = run_recipe("few-shot", data, output_dir=None, model_options=options)
    assert len(caught) == 1  # and none that counts the copy
    assert result.report["training"]["decisions"][1:] == [
        "bank: all patches of one good image and a varied copy, each as it is and in 1 turned view",
        "threshold: by varied copies of the one image; the rate of false alarms is unknown",
        "no defects: one image does not tell where their threshold is",
    ]
    jsonschema.validate(result.report, json_schema("report"))
    jsonschema.validate(result.details, json_schema("category_report"))
    threshold = result.details["threshold"]
    assert threshold["n_images"] == 0 and result.details["n_train"] == 1
    assert threshold["target_false_positive_rate"] is None
    assert threshold["expected_false_positive_rate"] is None
    text = report_text(result.report, {"wood": result.details})
    assert "set on copies of one good image, which promises no rate of false alarms" in text
    assert len(result.pipeline.score_samples(data.X_test)) == 7
    calibrator = find_calibrator(result.pipeline)
    assert calibrator.quantile == 0.98
    good = np.random.RandomState(0).randint(90, 110, (49, 32, 32, 3)).astype(np.uint8)
    calibrator.recalibrate(result.pipeline[:-1].transform(good))
    assert calibrator.expected_false_positive_rate_ == pytest.approx(0.02)
    recipe = _recipe.find_recipe("few-shot")
    alone = RecipeData.of(data.X_train, data.X_test[:3])
    with pytest.raises(ValueError, match="takes no validation images: put them beside it"):
        recipe.plan(RecipeConfig(alone))
    config = RecipeConfig(RecipeData.of(data.X_train), {"model_options": options})
    said = [check.text for check in check_plan(recipe.plan(config), config, None)]
    assert any("by copies of one image, without a promise" in text for text in said)


# ---- several models ---------------------------------------------------------------------
def test_models_are_compared_and_the_best_is_kept(root, tmp_path, monkeypatch):
    for name, side in (("small", 32), ("large", 64)):
        detector = PatchCoreDetector(FilterBankFeatures(resize=side, n_components=8))
        monkeypatch.setitem(registry._registered, name, Model(name, lambda one=detector: one))
    data = load_dataset("folder", root, category="wood")
    options = {"models": ["small", "large"], "quantile": 0.9, "n_overlays": 1}
    looked_at = []  # all images are read for it

    def noting(images):
        looked_at.append(images)
        return fingerprint(images)

    monkeypatch.setattr("pyimgano.recipes._running.fingerprint", noting)
    result = run_recipe("compare", data, output_dir=tmp_path, **options)
    assert len(looked_at) == 1
    jsonschema.validate(result.report, json_schema("report"))
    table = result.report["training"]["comparison"]
    assert [one["model"] for one in table] == ["small", "large"]
    best = max(table, key=lambda one: one["image_auroc"])
    (other,) = (one for one in table if one is not best)
    assert best["best"] and best["against_best"] is None
    difference = other["image_auroc"] - best["image_auroc"]
    assert other["against_best"]["auroc"]["difference"] == pytest.approx(difference)
    assert comparison_text(result.report).splitlines()[0].startswith("model  image AUROC")
    kept = (result.path / "artifacts" / "pipeline.joblib").read_bytes()
    whole = json.loads((result.path / "config.json").read_text())
    for one in table:
        config = json.loads((result.path / one["run"] / "config.json").read_text())
        pipeline = whole["pipeline"]["params"][one["model"]]
        assert pipeline["class"].endswith("Pipeline")
        assert config == {**whole, "model": one["model"], "pipeline": pipeline}
        own = (result.path / one["run"] / "artifacts" / "pipeline.joblib").read_bytes()
        assert (own == kept) == one["best"]
    # A run that was ended before the table was made goes on from its candidates.
    monkeypatch.setattr("pyimgano.recipes._running.run_category", None)
    (result.path / "report.json").unlink()
    again = run_recipe("compare", data, output_dir=tmp_path, resume=True, **options)
    assert again.path == result.path
    assert again.report["training"] == result.report["training"]


def test_compare_needs_two_models_and_defects(root):
    recipe = _recipe.find_recipe("compare")
    good = RecipeData.of(root / "wood" / "train" / "good")
    with pytest.raises(DatasetError, match="compare compares models on test images"):
        recipe.plan(RecipeConfig(good))
    data = RecipeData.of(load_dataset("folder", root, category="wood"))
    with pytest.raises(ValueError, match="two models or more are compared, got vision_padim"):
        recipe.plan(RecipeConfig(data, {"models": "vision_padim"}))


# ---- all recipes ------------------------------------------------------------------------
def test_every_recipe_is_described_and_short():
    import inspect

    assert set(SHIPPED) <= set(list_recipes())
    for name, function in SHIPPED.items():
        info = recipe_info(name)
        assert info["summary"] and info["parameters"]
        for parameter, about in info["parameters"].items():
            assert about["description"], f"{name}: {parameter}"
        assert len(inspect.getsource(function).splitlines()) <= 100


def test_unknown_names_are_mended():
    with pytest.raises(UnknownRecipeError, match="Did you mean 'industrial-adapt'"):
        recipe_info("industrial-adpat")
    with pytest.raises(UnknownParameterError, match="Did you mean 'tile'"):
        plan_of(np.zeros((6, 64, 64, 3), np.uint8), tlie=3)


def test_a_region_of_interest_is_refused_before_any_model_is_fitted():
    parts = make_inspection_dataset(
        n_train=4, n_test_good=2, n_test_defect=2, size=64, random_state=0
    )
    models = ["vision_ssim_template", "vision_ecod"]
    config = RecipeConfig(
        RecipeData.of(parts), {"models": models}, {"roi_mask": np.ones((1, 64, 64), bool)}
    )
    with pytest.raises(RunError, match="vision_ecod judges images as a whole"):
        _recipe.find_recipe("compare").plan(config)


def own_recipe(data, *, ratio=0.05):
    """PatchCore as it runs on line 3.

    Parameters
    ----------
    ratio : float, default=0.05
        Of the coreset.
    """
    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=ratio)
    model = ThresholdCalibrator(detector, quantile=0.9)
    return Plan({"ours": make_pipeline(ImageFormatNormalizer(), model)}, ("as ever",))


def test_a_recipe_of_ones_own(monkeypatch):
    monkeypatch.setattr(_recipe, "_registered", {})
    assert register_recipe("line3")(own_recipe) is own_recipe
    assert "line3" in list_recipes()
    assert recipe_info("line3")["parameters"]["ratio"] == {
        "required": False,
        "default": 0.05,
        "description": "Of the coreset.",
    }
    with pytest.raises(ValueError, match="there is a recipe 'line3' already"):
        register_recipe("line3", own_recipe)
    with pytest.raises(ValueError, match="there is a recipe 'industrial-adapt' already"):
        register_recipe("industrial-adapt", own_recipe)
    images = np.random.RandomState(0).randint(90, 110, (12, 64, 64, 3)).astype(np.uint8)
    result = run_recipe("line3", images, output_dir=None, ratio=0.1)
    assert result.report["model"] == "ours" and result.path is None
    assert find_calibrator(result.pipeline).estimator.coreset_ratio == 0.1
    register_recipe("line3", lambda data: None, overwrite=True)
    with pytest.raises(PluginError, match="it must return a Plan"):
        run_recipe("line3", images, output_dir=None)


def test_an_installed_package_adds_recipes(tmp_path, monkeypatch):
    info = tmp_path / "lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pyimgano.recipes]\nlab = lab_recipes:lab\nbroken = lab_recipes:no\n"
        "industrial-adapt = lab_recipes:lab\n"
    )
    (tmp_path / "lab_recipes.py").write_text(
        'def lab(data, *, share=0.5):\n    """What the lab does."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert metadata.version("lab") == "1.0"
    with pytest.warns(PluginWarning, match="there is a recipe of that name of pyimgano"):
        assert {"lab", "broken"} <= set(list_recipes())
    assert recipe_info("lab")["summary"] == "What the lab does."
    with pytest.raises(PluginError, match=r"'broken' .*cannot be used: AttributeError"):
        recipe_info("broken")


# ---- trials -----------------------------------------------------------------------------
def test_a_trial_finds_what_would_go_wrong(root, tmp_path):
    data = load_dataset("folder", root, category="wood")
    config = RecipeConfig(RecipeData.of(data), {**SMALL, "quantile": 0.9})
    plan = _recipe.find_recipe("industrial-adapt").plan(config)
    checks = list(check_plan(plan, config, tmp_path / "new" / "runs"))
    assert {check.state for check in checks} == {"ok"}
    assert any("images and their features take about" in check.text for check in checks)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    options = {"model": "vision_patchcore", "model_options": {"features": "wide_resnet50_2"}}
    config = RecipeConfig(RecipeData.of(data), {**options, "confidence": 0.99})
    plan = _recipe.find_recipe("industrial-adapt").plan(config)
    wrong = [c.text for c in check_plan(plan, config, tmp_path / "file") if c.state == "wrong"]
    assert len(wrong) == 3
    assert "no pretrained weights of wide_resnet50_2 on this machine" in wrong[0]
    assert "promises with 0.99 confidence" in wrong[1]
    assert "is a file, not a folder" in wrong[2]


# ---- networks that are trained ----------------------------------------------------------
class Killed(BaseException):
    """Ends a training as a kill would: nothing handles it."""


@pytest.fixture(scope="module")
def tiny():
    pytest.importorskip("torch")
    step = BackbonePatchFeatures("resnet18", ("layer1",), weights=None, resize=32)
    return {
        "model_options": {"features": step, "batch_size": 4, "validation_fraction": 0.5},
        "max_steps": 6,
        "quantile": 0.8,
        "checkpoint_every": 2,
    }


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")
def test_a_killed_training_is_resumed_with_equal_scores(root, tiny, tmp_path, monkeypatch):
    data = load_dataset("folder", root, category="wood")
    calls, loss = [], STFPMDetector._loss

    def counted(self, networks, batch, step):
        calls.append(len(calls))
        if calls[-1] == last:
            raise Killed
        return loss(self, networks, batch, step)

    last = None
    monkeypatch.setattr(STFPMDetector, "_loss", counted)
    whole = run_recipe("micro-finetune", data, output_dir=tmp_path / "whole", **tiny)
    last, n_calls = 2 * len(calls) - 2, len(calls)
    with pytest.raises(Killed):
        run_recipe("micro-finetune", data, output_dir=tmp_path / "killed", **tiny)
    (path,) = (tmp_path / "killed").iterdir()
    assert [name.split("/")[0] for name in files_of(path)] == [
        "checkpoints",
        "config.json",
        "environment.json",
    ]
    last, before = None, len(calls)
    resumed = run_recipe(
        "micro-finetune", data, output_dir=tmp_path / "killed", resume=True, **tiny
    )
    assert resumed.path == path and len(calls) - before < n_calls
    images = data.to_bunch().X_test
    np.testing.assert_array_equal(
        resumed.pipeline.score_samples(images), whole.pipeline.score_samples(images)
    )
    assert (
        find_calibrator(resumed.pipeline).threshold_ == find_calibrator(whole.pipeline).threshold_
    )


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")
def test_a_trained_network_is_trained_further(root, tiny, tmp_path):
    images = load_dataset("folder", root, category="wood").to_bunch().X_train
    first = run_recipe("micro-finetune", images[:10], output_dir=tmp_path, **tiny)
    assert first.report["training"]["decisions"][1].startswith(
        "training: 6 steps of 4 images, on 5"
    )
    file = first.path / "artifacts" / "pipeline.joblib"
    second = run_recipe(
        "micro-finetune", images, output_dir=None, start_from=file, max_steps=1, quantile=0.8
    )
    one, two = (innermost(result.pipeline)[0] for result in (first, second))
    assert len(two.history_["loss"]) == 1
    moved = [
        np.abs(two.networks_["student"][key] - values).max()
        for key, values in one.networks_["student"].items()
        if values.dtype == np.float32 and "running" not in key
    ]
    assert 0 < max(moved) < 0.5  # a step away, and no new network
    held_out = set(np.flatnonzero(two.held_out_).tolist())
    assert held_out <= {10, 11, 12, 13} | set(np.flatnonzero(one.held_out_).tolist())
    calibrator = find_calibrator(second.pipeline)
    np.testing.assert_array_equal(
        np.sort(calibrator.calibration_scores_), np.sort(two.training_scores_[two.held_out_])
    )
    assert second.report["training"]["decisions"][1].startswith(
        "training: 1 step of 4 images, on 14,"
    )
    with pytest.raises(RunError, match="micro-finetune trains networks, and PatchCoreDetector"):
        run_recipe("micro-finetune", images, output_dir=None, model="industrial-fast-filterbank")


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")
def test_training_further_keeps_steps_and_region(root, tiny, tmp_path):
    images = load_dataset("folder", root, category="wood").to_bunch().X_train
    region = np.zeros((64, 64), bool)
    region[16:48, 8:56] = True
    options = {**tiny, "max_steps": 1, "preprocessing": [GammaCorrection(0.5)]}
    first = run_recipe(
        "micro-finetune",
        images[:10],
        output_dir=tmp_path,
        fit_params={"roi_mask": region[None]},
        **options,
    )
    further = {
        "output_dir": None,
        "start_from": first.path / "artifacts" / "pipeline.joblib",
        "max_steps": 1,
        "quantile": 0.8,
    }
    second = run_recipe(
        "micro-finetune", images, fit_params={"roi_mask": region}, u16_max=65535, **further
    )
    assert second.pipeline[1].gamma == 0.5 and isinstance(second.pipeline[1], GammaCorrection)
    np.testing.assert_array_equal(innermost(second.pipeline)[0].roi_mask_, region)
    for name, value in {
        "model": "vision_padim",
        "model_options": {"batch_size": 2},
        "preprocessing": [GammaCorrection(0.6)],
        "input_format": "bgr_u8_hwc",
        "u16_max": 4095,
        "random_state": 3,
    }.items():
        with pytest.raises(RunError, match=f"has a {name} of its own"):
            run_recipe("micro-finetune", images, **{name: value}, **further)
    with pytest.raises(RunError, match="roi_mask: the recipe takes what the saved pipeline"):
        run_recipe("micro-finetune", images, fit_params={"roi_mask": ~region}, **further)


def test_models_that_train_are_made_smaller_without_a_gpu_and_by_what_they_hold_out(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("pyimgano.recipes._micro_finetune.has_cuda", lambda: False)
    data = RecipeData.of(np.zeros((60, 64, 64, 3), np.uint8))
    for recipe, options in {
        "micro-finetune": {"model": "vision_draem"},
        "industrial-adapt": {"model": "vision_draem"},
    }.items():
        plan = _recipe.find_recipe(recipe).plan(RecipeConfig(data, options))
        calibrator = find_calibrator(plan.pipelines["vision_draem"])
        assert calibrator.quantile == 0.923  # of 12 images
        assert "12 held-out good images support" in plan.decisions[-1]
        if recipe == "micro-finetune":
            assert calibrator.estimator.resize == 128


# ---- trials of training -----------------------------------------------------------------
def noise(n, side=64):
    return np.random.RandomState(0).randint(90, 110, (n, side, side, 3)).astype(np.uint8)


def trial_of(detector, images, *, tile=None, **fit_params):
    config = RecipeConfig(RecipeData.of(images), fit_params=fit_params)
    pipeline = calibrated(detector, quantile=0.98, defects=False, tile=tile)
    return list(check_plan(Plan({"ours": pipeline}), config, None))


def test_a_trial_of_training_tells_how_long_it_takes_and_keeps_nothing(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    calls, collate = [], DRAEMDetector._collate

    def counted(self, samples, step):
        calls.append((len(samples), step.n_steps))
        return collate(self, samples, step)

    monkeypatch.setattr(DRAEMDetector, "_collate", counted)
    detector = DRAEMDetector(32, width=2, max_steps=18_000, batch_size=3, device="cpu")
    with checkpoints(tmp_path, every=1):
        *before, last = trial_of(detector, noise(14))
    assert any("it will be at the largest of their scores" in one.text for one in before)
    assert {one.state for one in before} == {"ok"} == {last.state}
    assert last.text.startswith("ours: 18000 steps of training on 3 images each take about ")
    assert ", measured on 3 steps (" in last.text
    # Three steps, and the loss of the two of four images that are held out.
    assert calls == [(3, 18_000)] * 3 + [(2, 18_000)]
    assert not list(tmp_path.iterdir()) and not hasattr(detector, "networks_")


def test_no_training_on_thousands_of_tiles_is_tried(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(DRAEMDetector, "_collate", None)
    *_, last = trial_of(DRAEMDetector(32, width=2), noise(5), tile=6)
    assert last.state == "ok"
    assert "no training was tried, which would take minutes with 121 tiles of each" in last.text


def test_a_trial_of_training_warns_as_the_training_would(monkeypatch):
    pytest.importorskip("torch")
    detector = DRAEMDetector(32, width=2, max_steps=10**9, device="cpu")
    with pytest.warns(UserWarning, match="training these networks will take about .* hours"):
        trial_of(detector, noise(4))


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")
def test_what_ends_the_first_step_ends_the_trial():
    pytest.importorskip("torch")
    teacher = BackbonePatchFeatures("resnet18", ("layer1",), weights=None, resize=None)
    two_sizes, region = [*noise(3), *noise(2, 96)], np.ones((1, 9, 9), bool)
    for detector, images, params, message in (
        (DRAEMDetector(32, width=2, textures="no/such"), noise(3), {}, "no/such"),
        (DRAEMDetector(32, width=2), noise(3), {"roi_mask": region}, "9 x 9"),
        (STFPMDetector(teacher, batch_size=2), two_sizes, {}, "images of one working size"),
    ):
        *_, last = trial_of(detector, images, **params)
        assert last.state == "wrong", last
        assert "training fails in its first step: " in last.text and message in last.text


def test_a_trial_of_training_gets_its_part_of_what_fit_gets_for_each_sample(monkeypatch):
    pytest.importorskip("torch")
    images = [*noise(6), *noise(2, 80)]  # of each size one is tried
    masks = [np.zeros(one.shape[:2], bool) for one in images]
    data, given = RecipeData.of(images), []
    data.images.y_train[1] = -1
    masks[1][:9, :9] = True
    fit = SuperSimpleNetDetector.fit

    def watching(self, X, y=None, **params):
        given.append(params)
        return fit(self, X, y, **params)

    monkeypatch.setattr(SuperSimpleNetDetector, "fit", watching)
    features = FilterBankFeatures(resize=32)
    detector = SuperSimpleNetDetector(features, upsample=1, hidden_width=8, n_positions=8)
    for some in (masks, [None] * 8):
        config = RecipeConfig(data, fit_params={"masks": some})
        plan = Plan({"ours": calibrated(detector, quantile=0.8, defects=False)})
        *_, last = check_plan(plan, config, None)
        assert last.state == "ok", last.text
        (params,) = given
        assert [id(one) for one in params["masks"]] == [id(some[i]) for i in (0, 2, 3, 6)]
        given.clear()


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")
def test_a_trial_of_further_training_takes_images_to_hold_out(root, tiny, tmp_path):
    images = load_dataset("folder", root, category="wood").to_bunch().X_train
    first = run_recipe("micro-finetune", images[:10], output_dir=tmp_path, **tiny)
    options = {"start_from": first.path / "artifacts" / "pipeline.joblib", "quantile": 0.8}
    seen = np.flatnonzero(~innermost(first.pipeline)[0].held_out_)
    for chosen, state in ((images, "ok"), (images[seen], "wrong")):
        config = RecipeConfig(RecipeData.of(chosen), options)
        plan = _recipe.find_recipe("micro-finetune").plan(config)
        *_, last = check_plan(plan, config, None)
        assert last.state == state, last.text
    assert "trained on every one of these images" in last.text


def test_a_file_given_to_a_recipe_counts_by_its_content(tmp_path):
    file = tmp_path / "pipeline.joblib"
    found = []
    for content in (b"one", b"other"):
        file.write_bytes(content)
        config = RecipeConfig(RecipeData.of(np.zeros((2, 8, 8, 3), np.uint8)), {"start_from": file})
        found.append(
            config_of(own_recipe(config.data), config, None, 0, False)["recipe"]["options"]
        )
    assert found[0]["start_from"]["file"] == "pipeline.joblib"
    assert found[0]["start_from"]["sha256"] != found[1]["start_from"]["sha256"]


def test_a_folder_of_textures_counts_by_its_content(tmp_path):
    config = RecipeConfig(RecipeData.of(np.zeros((2, 8, 8, 3), np.uint8)))
    plan = Plan({"ours": calibrated(DRAEMDetector(32, textures=str(tmp_path)), quantile=0.9)})
    found = []
    for content in (b"one", b"other", b"one"):
        (tmp_path / "texture.png").write_bytes(content)
        found.append(config_of(plan, config, None, 0, False))
    assert found[0] == found[2] != found[1]
    (tmp_path / "notes.txt").write_text("no texture")
    (tmp_path / "below").mkdir()
    shutil.copy(tmp_path / "texture.png", tmp_path / "below")  # textures are not read from there
    assert config_of(plan, config, None, 0, False) == found[0]
    assert str(tmp_path.parent) not in json.dumps(found)


def test_of_a_trained_network_the_images_held_out_are_looked_at(monkeypatch):
    held_out = np.arange(60) >= 45
    scores = np.where(held_out, 1.0, 99.0) + np.arange(60) / 1000
    scores[50] = 9.0
    detector = SimpleNamespace(training_scores_=scores, held_out_=held_out)
    monkeypatch.setattr("pyimgano.recipes._suspects.innermost", lambda one: (detector, None))
    monkeypatch.setattr("pyimgano.recipes._suspects.find_calibrator", lambda one: None)
    found = suspicious_images(None, 60)
    assert (found.indices, found.n_looked_at) == ([50], 15)
    assert found.limit == suspicion_limit(scores[held_out])


def test_an_image_is_suspicious_in_a_run_as_it_is_in_a_list(monkeypatch):
    scores = np.random.RandomState(0).normal(10.0, 1.0, size=60)
    scores[:8] = 14.0 + 0.1 * np.arange(8)  # above three deviations, within far-out quartiles
    detector = SimpleNamespace(training_scores_=scores)
    monkeypatch.setattr("pyimgano.recipes._suspects.innermost", lambda one: (detector, None))
    monkeypatch.setattr("pyimgano.recipes._suspects.find_calibrator", lambda one: None)
    found = suspicious_images(None, 60)
    ranked = rank_suspects(scores)
    marked = [one.index for one in ranked if one.suspicious]
    assert marked == [7, 6, 5, 4, 3, 2, 1, 0]
    assert (found.indices, found.n_more) == (marked[:5], 3)
    assert found.scores == [one.score for one in ranked[:5]]
    few = SimpleNamespace(training_scores_=scores[:11])
    monkeypatch.setattr("pyimgano.recipes._suspects.innermost", lambda one: (few, None))
    assert suspicious_images(None, 11).indices == []
