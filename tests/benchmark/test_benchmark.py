"""run_benchmark: what it measures, what it writes, what it refuses."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import shutil
import unicodedata
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import (
    ImageFormatNormalizer,
    PatchCoreDetector,
    ThresholdCalibrator,
    anomaly_map,
    run_benchmark,
)
from pyimgano.benchmark import RunDirectory, _category
from pyimgano.benchmark._pictures import PictureChoice
from pyimgano.calibration._held_out_maps import hold_out
from pyimgano.datasets import load_dataset, load_folder, read_mask, write_inspection_dataset
from pyimgano.evaluation import (
    AUPRO,
    SPRO,
    OracleSegmentationF1,
    SegmentationF1,
    aupro,
    bootstrap_interval,
    fpr_at_tpr,
    oracle_f1_max,
    pixel_auroc,
    pixel_threshold,
)
from pyimgano.exceptions import (
    DatasetError,
    DuplicateImagesWarning,
    ImageReadError,
    ModelChoiceWarning,
    TooFewImagesError,
    UntrustedFileError,
)
from pyimgano.features import FilterBankFeatures
from pyimgano.inputs import _sequence
from tests.datasets import layouts
from tests.extras import needs_extra

pytestmark = pytest.mark.usefixtures("short_runs")

SMALL = {"n_train": 14, "n_test_good": 4, "n_test_defect": 5, "size": 64}
MODEL = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.02)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("brushed_metal", "wood"):
        write_inspection_dataset(root, name, random_state=0, **SMALL)
    return root


@pytest.fixture(scope="module")
def result(root, tmp_path_factory):
    return run_benchmark(
        "folder",
        root=root,
        model=MODEL,
        quantile=0.9,
        output_dir=tmp_path_factory.mktemp("runs"),
        n_overlays=3,
    )


def test_run_directory_holds_what_the_result_says(result):
    run = RunDirectory(result.path)
    assert run.read_report() == result.report
    assert [c.path.name for c in run.categories()] == ["brushed_metal", "wood"]
    for category in run.categories():
        name = category.path.name
        assert category.read_report() == result.categories[name]
        assert category.read_per_image() == result.records[name]
        assert len(list(category.overlays.glob("*.png"))) == 3
    assert json.loads(run.environment.read_text())["packages"]["numpy"] == np.__version__
    config = json.loads(run.config.read_text())
    assert config["categories"] == ["brushed_metal", "wood"]
    calibrator = config["pipeline"]["params"]["thresholdcalibrator"]["params"]
    assert calibrator["quantile"] == 0.9
    assert calibrator["estimator"]["params"]["coreset_ratio"] == 0.02
    assert not list(result.path.rglob("*.tmp"))


def test_records_are_the_saved_pipelines_verdicts(result, root):
    data = load_folder(root, "wood")
    records = result.records["wood"]
    pipeline = pyimgano.load(RunDirectory(result.path).category("wood").pipeline)
    scores = -pipeline.score_samples(data.X_test)
    assert [r["score"] for r in records] == scores.tolist()
    assert [r["pred"] for r in records] == (pipeline.predict(data.X_test) == -1).tolist()
    assert [r["y_true"] for r in records] == (data.y_test == -1).tolist()
    assert [r["kind"] for r in records] == data.kinds_test
    assert [str(root / "wood" / r["input"]) for r in records] == list(data.X_test.paths)
    assert list(records[0]) == [
        "schema_version", "index", "dataset", "category", "input", "kind", "y_true", "score",
        "threshold", "pred", "p_value",
    ]  # fmt: skip
    assert {(r["dataset"], r["category"]) for r in records} == {("folder", "wood")}


def test_report_agrees_with_the_records(result):
    for name, report in result.categories.items():
        records = result.records[name]
        y = np.array([r["y_true"] for r in records])
        pred = np.array([r["pred"] for r in records])
        auroc = roc_auc_score(y, [r["score"] for r in records])
        assert report["image"]["auroc"] == pytest.approx(auroc)
        assert report["false_positive_rate"]["value"] == pred[y == 0].mean()
        assert report["true_positive_rate"]["value"] == pred[y == 1].mean()
        assert sum(kind["n"] for kind in report["kinds"].values()) == y.sum()
        assert (report["n_train"], report["n_test_good"], report["n_test_defect"]) == (14, 4, 5)
        assert report["pixel"]["n_pixels"] == 9 * 64 * 64
        assert report["threshold"]["target_false_positive_rate"] == pytest.approx(0.1)
        assert result.report["categories"][name]["image_auroc"] == report["image"]["auroc"]
    means = [r["image"]["auroc"] for r in result.categories.values()]
    assert result.report["mean"]["image_auroc"] == pytest.approx(np.mean(means))
    assert result.report["standard_deviation"]["image_auroc"] == pytest.approx(np.std(means))


def test_datasets_of_files_give_the_same_run(root, tmp_path):
    parts = load_dataset("folder", root, category="wood")
    rows = [
        {"path": image.path, "split": part, "label": image.label, "kind": image.kind,
         "mask": [*image.masks, *image.masks], "category": "wood"}
        for part in ("train", "test")
        for image in getattr(parts, part)
    ]  # fmt: skip
    # Known defects may be among the training images; they are left out.
    (tmp_path / "dent.png").write_bytes(Path(parts.test[-1].path).read_bytes()[:-1] + b"x")
    rows.append({"path": "dent.png", "split": "train", "label": -1, "category": "wood"})
    rows.append({"path": parts.train[0].path, "split": "train", "label": 1, "category": "oak"})
    manifest = tmp_path / "parts.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    runs = [
        run_benchmark(dataset, model=MODEL, quantile=0.9, output_dir=None, **where)
        for dataset, where in (
            ("custom", {"root": root, "category": "wood"}),
            ("mvtec", {"root": root, "category": "wood"}),
            ("manifest", {"root": manifest, "category": "wood"}),
            (parts, {}),
        )
    ]
    names = ["folder", "mvtec_ad", "manifest", "folder"]
    assert [run.report["dataset"] for run in runs] == names
    (expected, *others) = (run.categories["wood"] for run in runs)
    assert expected["pixel"]["n_pixels"] == 9 * 64 * 64
    for report in others:
        for key in ("n_train", "image", "pixel", "kinds"):
            assert report[key] == expected[key], key


def test_a_picture_that_is_trained_on_and_tested_is_reported(tmp_path):
    folder = write_inspection_dataset(tmp_path, "wood", random_state=0, **SMALL)
    shutil.copy(next((folder / "train/good").iterdir()), folder / "test/good/leak.png")
    with pytest.warns(DuplicateImagesWarning, match=r"leak\.png are the same picture"):
        run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=None)
    options = {"duplicates": "error"}
    with pytest.raises(DatasetError, match=r"leak\.png are the same picture"):
        run_benchmark("folder", root=folder, model=MODEL, dataset_options=options)


def test_pictures_are_of_the_worst_the_best_and_the_closest_of_each_kind(root, tmp_path):
    result = run_benchmark(
        "folder", root=root, category="wood", model=MODEL, quantile=0.9, output_dir=tmp_path
    )
    category = RunDirectory(result.path).category("wood")
    margins: dict = {}
    for r in category.read_per_image():
        wrong = (r["score"] - r["threshold"]) * (-1 if r["y_true"] else 1)
        margins.setdefault(r["kind"], []).append((wrong, Path(r["input"]).stem))
    expected = set()
    for kind, some in margins.items():
        expected.add((kind, max(some)[1]))
        expected.add((kind, min(some)[1]))
        expected.add((kind, min((abs(wrong), name) for wrong, name in some)[1]))
    shown = sorted(path.stem.split("_", 2) for path in category.overlays.iterdir())
    assert [rank for rank, *_ in shown] == [f"{k:02d}" for k in range(1, len(expected) + 1)]
    assert {verdict for _, verdict, _ in shown} >= {"found", "passed"}
    for kind, name in expected:
        assert any(rest.startswith(f"{kind}_") and rest.endswith(f"_{name}") for *_, rest in shown)


def test_picture_choice_takes_turns_and_keeps_no_large_map():
    choice = PictureChoice(5)
    for index, (kind, wrong) in enumerate(
        [("good", -9.0), ("good", -1.0), ("good", 2.0), ("hole", -5.0), ("hole", -0.5), ("cut", 4)]
    ):
        choice.add(kind, wrong, index, np.full((4000, 2000), wrong, np.float32))
    found = [(role, one.sample) for role, one in choice.chosen()]
    # The worst of the three kinds, then the best of those that have another one.
    assert found == [("worst", 5), ("worst", 2), ("worst", 4), ("best", 3), ("best", 0)]
    assert {one.anomaly_map.shape for _, one in choice.chosen()} == {(640, 320)}
    assert all((one.anomaly_map == one.wrong).all() for _, one in choice.chosen())
    none = PictureChoice(0)
    none.add("good", 1.0, 0, np.zeros((4, 4), np.float32))
    assert none.chosen() == []


def test_arrays_without_files_have_no_path_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_benchmark(
        category="wood", output_dir=None, model=MODEL, quantile=0.9, dataset_options=SMALL
    )
    assert result.path is None
    assert result.records["wood"][0]["input"] == "test[0]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("installed", [False, True])
def test_the_report_names_the_preset_that_the_default_stood_for(installed, monkeypatch):
    if installed:
        needs_extra("imagenet")
    monkeypatch.setattr("pyimgano._models.has_extra", lambda extra: installed)
    arguments = {
        "category": "wood",
        "output_dir": None,
        "quantile": 0.9,
        "dataset_options": SMALL,
        "model_options": {"features__resize": 64},
    }
    if installed:
        result = run_benchmark(**arguments)
    else:
        with pytest.warns(ModelChoiceWarning, match="industrial-fast-filterbank here"):
            result = run_benchmark(**arguments)
    name, step = (
        ("industrial-fast-imagenet", "BackbonePatchFeatures(backbone='efficientnet_lite0'")
        if installed
        else ("industrial-fast-filterbank", "FilterBankFeatures(")
    )
    assert result.report["model"] == name
    (features,) = result.categories["wood"]["threshold"]["features"]
    assert features["step"].startswith(step)


def test_unreadable_test_image_is_a_record_and_counts_nowhere(root, tmp_path):
    folder = write_inspection_dataset(tmp_path, "wood", random_state=0, **SMALL)
    next((folder / "test").glob("*/*.png")).write_bytes(b"junk")
    result = run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=None)
    report = result.categories["wood"]
    assert report["n_errors"] == 1
    assert report["n_test_good"] + report["n_test_defect"] == 8
    errors = [r for r in result.records["wood"] if "error" in r]
    assert len(errors) == 1 and "score" not in errors[0]


def test_intervals_are_those_of_the_functions(result, root):
    records, image = result.records["wood"], result.categories["wood"]["image"]
    scores, y = [r["score"] for r in records], [1 - 2 * r["y_true"] for r in records]
    interval = bootstrap_interval(lambda s, y: roc_auc_score(y == -1, s), scores, y)
    assert image["interval_95"]["auroc"] == pytest.approx(interval)
    data = load_folder(root, "wood")
    metric = AUPRO()
    for one, mask in zip(anomaly_map(result.pipelines["wood"], data.X_test), data.masks_test):
        metric.update(one, read_mask(mask, one.shape))
    found = result.categories["wood"]["pixel"]
    assert found["interval_95"]["aupro"] == pytest.approx(metric.bootstrap_interval())
    # 4 good images of 64 x 64 are too few for it.
    assert found["aupimo"] is None and found["interval_95"]["aupimo"] is None


def test_each_kind_of_defect_has_an_auroc_against_all_good_images(result):
    records, found = result.records["wood"], result.categories["wood"]["kinds"]
    for kind in found:
        some = [r for r in records if r["kind"] in ("good", kind)]
        auroc = roc_auc_score([r["y_true"] for r in some], [r["score"] for r in some])
        assert found[kind]["auroc"] == pytest.approx(auroc)


def test_validation_images_put_the_threshold(tmp_path):
    root = layouts.mvtec_ad_2(tmp_path)
    for i in range(2, 6):
        layouts.picture(root / f"can/train/good/{i:03d}_regular.png")
    result = run_benchmark("mvtec_ad_2", root=root, model=MODEL, quantile=0.5, output_dir=None)
    threshold = result.categories["can"]["threshold"]
    assert (threshold["part"], threshold["n_images"]) == ("validation", 2)
    data = load_dataset("mvtec_ad_2", root, category="can").to_bunch()
    fitted = clone(MODEL).fit(data.X_train)
    alone = ThresholdCalibrator(fitted, quantile=0.5, cv="prefit").fit(data.X_validation)
    assert threshold["threshold"] == alone.threshold_
    saved = run_benchmark("mvtec_ad_2", root=root, model=MODEL, quantile=0.5, output_dir=tmp_path)
    assert saved.pipelines["can"][-1].threshold_ == alone.threshold_
    # A calibrator that was told where its scores come from keeps to it.
    model = ThresholdCalibrator(MODEL, quantile=0.5, cv=2)
    result = run_benchmark("mvtec_ad_2", root=root, model=model, output_dir=None)
    threshold = result.categories["can"]["threshold"]
    assert (threshold["part"], threshold["scores"]) == ("train", "2 folds")


def test_loco_has_saturated_overlap_for_each_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_seeds", itertools.count())  # the same pictures in any order
    root = layouts.mvtec_loco(tmp_path)
    result = run_benchmark("mvtec_loco", root=root, model=MODEL, quantile=0.5, output_dir=None)
    parts = load_dataset("mvtec_loco", root, category="pushpins")
    heat = anomaly_map(result.pipelines["pushpins"], parts.images("test"))
    values = {}
    for kind in ("logical_anomalies", "structural_anomalies"):
        metric = SPRO()
        for image, one in zip(parts.test, heat):
            if image.kind in ("good", kind):
                metric.update(one, parts.read_defects(image), label=image.label)
        values[kind] = metric.compute()
    found = result.categories["pushpins"]["pixel"]
    by_kind = found["spro_0.05_by_kind"]
    assert {kind: one["value"] for kind, one in by_kind.items()} == values
    assert found["spro_0.05"] == np.mean(list(values.values())) > 0
    assert result.report["mean"]["spro_0.05"] == found["spro_0.05"]
    # Masks that saturate early are found earlier than whole ones.
    assert values["logical_anomalies"] != pytest.approx(found["aupro_0.05"])


def test_loco_masks_with_values_of_no_defect_are_left_out(tmp_path):
    root = layouts.mvtec_loco(tmp_path)
    wrong = layouts.mask(root / "pushpins/ground_truth/logical_anomalies/000/000.png", 7)
    with pytest.warns(UserWarning, match="1 test images are left out of the pixel metrics"):
        result = run_benchmark("mvtec_loco", root=root, model=MODEL, quantile=0.5, output_dir=None)
    (left_out,) = result.categories["pushpins"]["pixel"]["masks_left_out"]
    assert "000.png: has pixels of the value 7" in left_out["reason"] and wrong.exists()
    assert result.categories["pushpins"]["pixel"]["spro_0.05"] is None  # one kind is missing


def test_image_metrics_are_those_of_the_records(result):
    for name, report in result.categories.items():
        records, found = result.records[name], report["image"]
        scores, y = [r["score"] for r in records], [1 - 2 * r["y_true"] for r in records]
        verdicts = [(r["y_true"], r["pred"]) for r in records]
        assert found["confusion"] == {
            "true_negatives": verdicts.count((0, 0)),
            "false_positives": verdicts.count((0, 1)),
            "false_negatives": verdicts.count((1, 0)),
            "true_positives": verdicts.count((1, 1)),
        }
        assert found["f1"] == f1_score(*zip(*verdicts))
        assert found["fpr_at_95_tpr"] == fpr_at_tpr(scores, y)
        assert found["oracle_f1_max"] == oracle_f1_max(scores, y)["f1"] >= found["f1"]
        short = result.report["categories"][name]
        assert (short["f1"], short["fpr_at_95_tpr"]) == (found["f1"], found["fpr_at_95_tpr"])
        for key in ("aupro", "aupro_0.05"):
            assert short[key] == report["pixel"][key]
        assert short["pixel_average_precision"] == report["pixel"]["average_precision"]


def test_good_images_alone_leave_metrics_undefined(tmp_path):
    options = {**SMALL, "n_test_defect": 0}
    result = run_benchmark(
        category="wood", model=MODEL, quantile=0.9, dataset_options=options, output_dir=tmp_path
    )
    assert result.categories["wood"]["image"]["auroc"] is None
    for key in ("pixel_auroc", "aupro", "f1", "fpr_at_95_tpr"):
        assert result.report["mean"][key] is None


def test_images_without_labels_are_judged_and_count_in_no_figure(tmp_path):
    folder = write_inspection_dataset(tmp_path / "data", "wood", random_state=0, **SMALL)
    labeled = run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=None)
    images = sorted((folder / "test").glob("*/*.png"))
    for i, path in enumerate(images):
        shutil.copy(path, folder / "test" / f"{i}.png")
    both = run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=None)
    n, n_found = len(images), sum(r["pred"] for r in labeled.records["wood"])
    expected = {**labeled.categories["wood"], "n_test_unlabeled": n}
    expected["n_unlabeled_anomalous"] = n_found
    for differs in ("times", "split"):
        expected.pop(differs)
        both.categories["wood"].pop(differs)
    assert both.categories["wood"] == expected
    for path in (folder / "test").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(folder / "ground_truth")
    alone = run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=tmp_path)
    report, records = alone.categories["wood"], alone.records["wood"]
    assert (report["n_test_good"], report["n_test_defect"], report["kinds"]) == (0, 0, {})
    assert report["image"]["auroc"] is None and report["pixel"]["auroc"] is None
    assert report["false_positive_rate"]["n"] == report["true_positive_rate"]["n"] == 0
    assert {(r["y_true"], r["kind"]) for r in records} == {(None, "unknown")}
    scores = [r["score"] for r in records]
    assert sorted(scores) == sorted(r["score"] for r in labeled.records["wood"])
    pictures = sorted((alone.path / "categories" / "wood" / "overlays").iterdir())
    assert len(pictures) == 3 and "judged-anomalous" in pictures[0].name


def test_failed_run_leaves_nothing(tmp_path):
    folder = write_inspection_dataset(tmp_path / "data", "wood", random_state=0, **SMALL)
    next((folder / "train" / "good").iterdir()).write_bytes(b"junk")
    with pytest.raises(ImageReadError):
        run_benchmark("folder", root=folder, model=MODEL, output_dir=tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_interrupted_run_keeps_the_finished_categories(root, tmp_path, monkeypatch):
    save = _category.save

    def interrupt(pipeline, path, **options):
        if "wood" in str(path):
            raise KeyboardInterrupt
        return save(pipeline, path, **options)

    monkeypatch.setattr(_category, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark("folder", root=root, model=MODEL, quantile=0.9, output_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    run = RunDirectory(path)
    assert [p.name for p in (path / "categories").iterdir()] == ["brushed_metal"]
    assert [c.path.name for c in run.categories()] == ["brushed_metal"]
    assert not run.report.exists()


def test_masks_that_cannot_be_used_leave_their_images_out_of_the_pixels(tmp_path):
    folder = write_inspection_dataset(tmp_path, "wood", random_state=0, **SMALL)
    small, damaged, black, *_ = masks = sorted((folder / "ground_truth").rglob("*.png"))
    cv2.imwrite(str(small), np.full((32, 32), 255, np.uint8))
    damaged.write_bytes(damaged.read_bytes()[:40])
    cv2.imwrite(str(black), np.zeros((64, 64), np.uint8))
    with pytest.warns(UserWarning, match="wood: 3 test images are left out of the pixel metrics"):
        result = run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=None)
    pixel = result.categories["wood"]["pixel"]
    assert pixel["n_pixels"] == (4 + len(masks) - 3) * 64 * 64
    data = load_folder(folder)
    left_out = {str(data.masks_test[one["index"]]): one for one in pixel["masks_left_out"]}
    assert set(left_out) == {str(small), str(damaged), str(black)}
    for mask, one in left_out.items():
        assert one["reason"].startswith(Path(mask).relative_to(folder).as_posix())
        assert str(folder / one["input"]) == data.X_test.paths[one["index"]]
    assert result.categories["wood"]["n_errors"] == 0
    assert result.report["mean"]["pixel_auroc"] is not None


def test_mask_that_breaks_after_the_fit_is_left_out(tmp_path, monkeypatch):
    folder = write_inspection_dataset(tmp_path, "wood", random_state=0, **SMALL)
    mask = next((folder / "ground_truth").rglob("*.png"))
    real = _category.fit

    def and_remove(pipeline, data, *more):
        seconds = real(pipeline, data, *more)
        mask.unlink()
        return seconds

    monkeypatch.setattr(_category, "fit", and_remove)
    result = run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=None)
    (left_out,) = result.categories["wood"]["pixel"]["masks_left_out"]
    assert mask.relative_to(folder).as_posix() in left_out["reason"]


def test_time_spent_on_compiling_is_no_part_of_the_others(tmp_path, monkeypatch, capsys):
    real = _category.fit

    def and_compile(pipeline, data, *more):
        watch = real(pipeline, data, *more)
        watch.compile_seconds += 100.0
        return watch

    monkeypatch.setattr(_category, "fit", and_compile)
    options = {"size": 64, "n_train": 12, "n_test_good": 4, "n_test_defect": 4}
    result = run_benchmark(model=MODEL, quantile=0.9, output_dir=None, dataset_options=options)
    (report,) = result.categories.values()
    times = report["times"]
    assert times["compile_seconds"] >= 100.0
    assert 0 < times["fit_seconds"] < 100.0 and 0 < times["test_seconds"] < 100.0
    assert times["ms_per_image"] == pytest.approx(1000 * times["test_seconds"] / 8)


def test_saved_pipelines_are_loaded_when_asked_for_and_not_held(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted, real = [], _category.fit

    def and_remember(pipeline, data, *more):
        seconds = real(pipeline, data, *more)
        fitted.append(weakref.ref(pipeline[-1].estimator_))
        return seconds

    monkeypatch.setattr(_category, "fit", and_remember)
    result = run_benchmark("folder", root=root, model=MODEL, quantile=0.9, output_dir="runs")
    gc.collect()
    assert [one() for one in fitted] == [None, None]
    monkeypatch.chdir(root)
    assert list(result.pipelines) == ["brushed_metal", "wood"] and len(result.pipelines) == 2
    folder = RunDirectory(tmp_path / result.path).category("wood")
    assert result.pipelines.paths["wood"] == folder.pipeline
    images = load_folder(root, "wood").X_test
    np.testing.assert_array_equal(
        result.pipelines["wood"].score_samples(images),
        [-record["score"] for record in result.records["wood"]],
    )
    with pytest.raises(KeyError):
        result.pipelines["screw"]


class OwnDetector(PatchCoreDetector):
    """A class that pyimgano.load does not know."""

    _registry_name = None


def test_saved_pipelines_with_own_classes_are_loaded_by_their_names(root, tmp_path):
    model = OwnDetector(FilterBankFeatures(resize=64), coreset_ratio=0.02)
    with pytest.warns(UserWarning, match="pyimgano.load will refuse it"):
        result = run_benchmark(
            "folder", root=root, category="wood", model=model, quantile=0.9, output_dir=tmp_path
        )
    with pytest.raises(UntrustedFileError, match="OwnDetector"):
        result.pipelines["wood"]
    name = f"{OwnDetector.__module__}.OwnDetector"
    loaded = pyimgano.load(result.pipelines.paths["wood"], trusted=[name])
    assert type(loaded[-1].estimator_) is OwnDetector


def test_pipelines_that_are_not_saved_are_held(root, tmp_path):
    for options in ({"output_dir": None}, {"output_dir": tmp_path, "save_pipeline": False}):
        result = run_benchmark(
            "folder", root=root, category="wood", model=MODEL, quantile=0.9, **options
        )
        assert result.pipelines.paths == {} and list(result.pipelines) == ["wood"]
        assert result.pipelines["wood"] is result.pipelines["wood"]
        assert "wood (in memory)" in repr(result)


def test_maps_of_a_resizing_model_meet_the_masks_in_the_images_pixels(root, tmp_path):
    model = make_pipeline(ImageFormatNormalizer(resize=48), MODEL)
    result = run_benchmark(
        "folder", root=root, category="wood", model=model, quantile=0.9, output_dir=tmp_path
    )
    pixel = result.categories["wood"]["pixel"]
    assert pixel["n_pixels"] == 9 * 64 * 64
    data = load_folder(root, "wood")
    maps = anomaly_map(result.pipelines["wood"], data.X_test)
    assert maps.shape == (9, 48, 48)
    maps = [cv2.resize(one, (64, 64), interpolation=cv2.INTER_LINEAR) for one in maps]
    masks = [read_mask(mask, (64, 64)) for mask in data.masks_test]
    assert pixel["auroc"] == pytest.approx(pixel_auroc(maps, masks), abs=1e-6)
    assert pixel["aupro"] == pytest.approx(aupro(maps, masks), abs=1e-6)
    assert pixel["aupro_0.05"] == pytest.approx(aupro(maps, masks, limit=0.05), abs=1e-6)
    assert 0 < pixel["average_precision"] <= 1
    assert list(RunDirectory(result.path).category("wood").overlays.iterdir())


def test_category_that_fails_does_not_stop_the_others(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    broken = next((data / "brushed_metal" / "train" / "good").iterdir())
    broken.write_bytes(b"junk")
    result = run_benchmark(
        "folder", root=data, model=MODEL, quantile=0.9, output_dir=tmp_path / "r"
    )
    assert list(result.categories) == list(result.report["categories"]) == ["wood"]
    assert list(result.report["failed"]) == ["brushed_metal"]
    reason = f"ImageReadError: train/good/{broken.name}: is not an image file"
    assert result.report["failed"]["brushed_metal"].startswith(reason)
    run = RunDirectory(result.path)
    assert run.read_report() == result.report
    assert [path.name for path in (run.path / "categories").iterdir()] == ["wood"]


def test_categories_whose_names_differ_in_characters_no_folder_may_have(root, tmp_path):
    data = tmp_path / "data"
    names = ["side  1", "side - 1"]
    for name in names:
        shutil.copytree(root / "wood", data / name)
    result = run_benchmark(
        "folder", root=data, model=MODEL, quantile=0.9, output_dir=tmp_path / "r", n_overlays=0
    )
    assert sorted(result.categories) == sorted(names) and result.report["failed"] == {}
    run = RunDirectory(result.path)
    assert [run.category(name).read_report()["category"] for name in names] == names


def test_folders_of_categories_differ_by_more_than_case(tmp_path):
    run = RunDirectory(tmp_path)
    names = ["bottle", "Bottle", "BOTTLE", "stra\u00dfe", "strasse", "caf\u00e9", "cafe\u0301"]
    folders = [run.category(name).path.name for name in names]
    same = [unicodedata.normalize("NFC", one).casefold() for one in folders]
    assert len(set(same)) == len(names) and folders[0] == "bottle" and folders[5] == "caf\u00e9"


def test_pictures_that_cannot_be_drawn_lose_nothing_else(root, tmp_path, monkeypatch):
    def broken(*args):
        raise OSError("no picture today")

    monkeypatch.setattr(_category, "write_overlay", broken)
    result = run_benchmark(
        "folder", root=root, model=MODEL, quantile=0.9, output_dir=tmp_path, category="wood"
    )
    assert result.report["failed"] == {"wood": "its pictures: OSError: no picture today"}
    category = RunDirectory(result.path).category("wood")
    assert category.read_report() == result.categories["wood"]
    assert category.read_per_image() == result.records["wood"]
    assert list(result.report["categories"]) == ["wood"]
    assert RunDirectory(result.path).read_report() == result.report


def test_pictures_are_drawn_from_the_pixels_that_were_judged(root, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(root / "wood", data)
    for path in [*(data / "test").rglob("*.png")]:  # lossless: the same pixels
        content = cv2.imencode(".webp", cv2.imread(str(path)), [cv2.IMWRITE_WEBP_QUALITY, 101])[1]
        path.with_suffix(".webp").write_bytes(content.tobytes())
        path.unlink()
    reads, real_read, real_measure = [], _sequence.read_image, _category.measure

    def counted(path, *arguments):
        reads.append(path)
        return real_read(path, *arguments)

    def removing(*arguments):
        for path in (data / "test").rglob("*.webp"):
            cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
        return real_measure(*arguments)

    monkeypatch.setattr(_sequence, "read_image", counted)
    monkeypatch.setattr(_category, "measure", removing)
    pictures = []
    for place in (data, root / "wood"):
        run = run_benchmark(
            "folder",
            root=place,
            category=None,
            model=MODEL,
            quantile=0.9,
            output_dir=tmp_path / "r",
        )
        (category,) = RunDirectory(run.path).categories()
        pictures.append([p.read_bytes() for p in sorted(category.overlays.iterdir())])
    test_images = [path for path in reads if f"{data / 'test'}" in path]
    assert len(test_images) == len(set(test_images)) == 9
    # Captions have the paths, which differ in length.
    tops = [[_decoded(one)[:256] for one in of_run] for of_run in pictures]
    np.testing.assert_array_equal(tops[0], tops[1])


def _decoded(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def test_category_is_complete_when_its_pictures_are_drawn(root, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_category, "write_overlay", interrupt)
        run_benchmark(
            "folder", root=root, category="wood", model=MODEL, quantile=0.9, output_dir=tmp_path
        )
    (path,) = tmp_path.iterdir()
    category = RunDirectory(path).category("wood")
    assert category.pipeline.exists() and not category.is_complete
    (category.overlays / "of another run.png").touch()
    assert category.create() is category  # a run that goes on finds room
    assert category.pipeline.exists() and not category.overlays.exists()
    category.write_report({})
    with pytest.raises(FileExistsError, match="holds a complete category"):
        category.create()


def test_full_disk_ends_the_run_and_says_what_there_is(root, tmp_path, monkeypatch):
    save = _category.save

    def full(pipeline, path, **options):
        if "wood" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return save(pipeline, path, **options)

    monkeypatch.setattr(_category, "save", full)
    with pytest.raises(OSError, match="No space left") as caught:
        run_benchmark("folder", root=root, model=MODEL, quantile=0.9, output_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    assert f"the complete categories are in {path}: brushed_metal" in str(caught.value)
    assert [c.path.name for c in RunDirectory(path).categories()] == ["brushed_metal"]
    assert not RunDirectory(path).is_complete


def test_fitted_pipeline_survives_a_test_set_that_cannot_be_judged(tmp_path):
    folder = write_inspection_dataset(tmp_path / "data", "wood", random_state=0, **SMALL)
    for image in (folder / "test").rglob("*.png"):
        image.write_bytes(b"junk")
    with pytest.raises(TooFewImagesError, match="none of the 9 test images could be judged"):
        run_benchmark("folder", root=folder, model=MODEL, quantile=0.9, output_dir=tmp_path / "r")
    (path,) = (tmp_path / "r").iterdir()
    pipeline = pyimgano.load(RunDirectory(path).category("wood").pipeline)
    assert len(pipeline[-1].calibration_scores_) == SMALL["n_train"]
    assert RunDirectory(path).categories() == []  # not finished


def test_model_is_left_unfitted():
    model = ThresholdCalibrator(MODEL, quantile=0.9)
    run_benchmark(category="wood", model=model, dataset_options=SMALL, output_dir=None)
    assert not hasattr(model, "threshold_")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dataset": "mvtek"}, "no dataset 'mvtek'. Did you mean 'mvtec'"),
        ({"dataset": "folder"}, "needs root"),
        ({"category": ["wood", "screw", "wood"]}, "category names 'wood' 2 times"),
        ({"root": "x"}, "root belongs to a dataset of files"),
        ({"dataset": "visa"}, "dataset='visa' needs root, the folder it lies in"),
        ({"model": "padim"}, "there is no model 'padim'. Did you mean 'vision_padim'"),
        ({"model": MODEL, "model_options": {"cv": 2}}, "model_options belong to a model given"),
        ({"model": ThresholdCalibrator(MODEL), "quantile": 0.9}, "give the quantile there"),
        ({"dataset": "folder", "root": ".", "dataset_options": {"size": 9}}, "dataset_options"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_benchmark(**{"output_dir": tmp_path, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_folder_without_a_layout_is_refused(tmp_path):
    with pytest.raises(DatasetError):
        run_benchmark("folder", root=tmp_path, output_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_pixels_are_judged_at_a_threshold_from_good_images_alone(result, root):
    data = load_folder(root, "wood")
    pixel = result.categories["wood"]["pixel"]
    about = pixel["threshold"]
    assert (about["part"], about["n_images"], about["reason"]) == ("train", 2, None)  # of 14
    whole = make_pipeline(ImageFormatNormalizer(), MODEL)
    model, held_out = hold_out(whole, data.X_train)
    seen = {path for path in data.X_train.paths if path not in held_out.paths}
    assert len(seen) == 12 and len(model[-1].training_scores_) == 12
    maps = anomaly_map(model, held_out)
    assert about["value"] == pixel_threshold(maps, false_positive_rate=0.001)
    f1, oracle = SegmentationF1(about["value"]), OracleSegmentationF1()
    for one, mask in zip(anomaly_map(result.pipelines["wood"], data.X_test), data.masks_test):
        for metric in (f1, oracle):
            metric.update(one, read_mask(mask, one.shape))
    found = f1.at_threshold()
    assert {name: pixel[name] for name in found} == found
    assert pixel["interval_95"]["f1"] == pytest.approx(f1.bootstrap_interval())
    assert pixel["f1"] <= pixel["oracle_f1_max"] == oracle.compute()
    assert result.report["categories"]["wood"]["pixel_f1"] == pixel["f1"]


def test_images_held_out_for_the_pixel_threshold_equal_none_that_were_seen(tmp_path):
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (5, 64, 64, 3)).astype(np.uint8)
    model, held_out = hold_out(MODEL, np.concatenate([images, images, images[:2]]))
    n_held_out = len(held_out)
    assert n_held_out + len(model.training_scores_) == 12 and n_held_out in (2, 3)
    assert len({one.tobytes() for one in held_out}) == 1
    with pytest.raises(TooFewImagesError, match="at least 3 different ones"):
        hold_out(MODEL, np.concatenate([images[:2], images[:2]]))
    result = run_benchmark(
        category="wood", model=MODEL, quantile=0.5, output_dir=None,
        dataset_options={**SMALL, "n_train": 2},
    )  # fmt: skip
    pixel = result.categories["wood"]["pixel"]
    assert pixel["threshold"]["value"] is pixel["f1"] is None
    assert "at least 3 different ones" in pixel["threshold"]["reason"]
    assert pixel["oracle_f1_max"] > 0
