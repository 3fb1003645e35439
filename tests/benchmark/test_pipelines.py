"""Benchmarks of a pipeline of one's own: what is fitted, what is refused, what reports say."""

from __future__ import annotations

import hashlib

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import (
    ImageFormatNormalizer,
    PatchCoreDetector,
    ThresholdCalibrator,
    run_benchmark,
)
from pyimgano.benchmark import RunDirectory
from pyimgano.cli import benchmark
from pyimgano.datasets import load_folder, write_inspection_dataset
from pyimgano.exceptions import ImageFormatError
from pyimgano.features import FilterBankFeatures
from tests.datasets import layouts

pytestmark = pytest.mark.usefixtures("short_runs")

SMALL = {"n_train": 10, "n_test_good": 3, "n_test_defect": 3, "size": 64}
MODEL = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.02)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("brushed_metal", "wood"):
        write_inspection_dataset(root, name, random_state=0, **SMALL)
    return root


@pytest.fixture(scope="module")
def fitted(root):
    """A pipeline whose threshold was put by other images than those it was fitted on."""
    images = load_folder(root, "wood").X_train
    detector = FrozenEstimator(clone(MODEL).fit(images[:8]))
    calibrator = ThresholdCalibrator(detector, quantile=0.5, cv="prefit")
    return make_pipeline(ImageFormatNormalizer("bgr_u8_hwc"), calibrator).fit(images[8:])


@pytest.fixture(scope="module")
def expected(root):
    return run_benchmark("folder", root=root, model=MODEL, quantile=0.5, output_dir=None)


def test_a_saved_pipeline_is_fitted_on_each_category(root, fitted, expected, tmp_path):
    file = pyimgano.save(fitted, tmp_path / "line3.joblib")
    before = fitted.score_samples(load_folder(root, "wood").X_test)
    result = run_benchmark("folder", root=root, pipeline=file, output_dir=tmp_path / "runs")
    assert result.records == expected.records
    assert {name: one["pixel"] for name, one in result.categories.items()} == {
        name: one["pixel"] for name, one in expected.categories.items()
    }
    about = {"file": "line3.joblib", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert RunDirectory(result.path).read_config()["pipeline_file"] == about
    for report in (result.report, *result.categories.values()):
        text = report["pipeline"]["estimator"]
        assert report["pipeline"] == {**about, "estimator": text}
        assert "bgr_u8_hwc" in text and "coreset_ratio=0.02" in text and "Frozen" not in text
    assert result.report["model"] == "line3.joblib"
    assert str(tmp_path) not in result.path.joinpath("report.json").read_text()
    assert type(fitted[-1].estimator) is FrozenEstimator  # it is left as it was
    np.testing.assert_array_equal(fitted.score_samples(load_folder(root, "wood").X_test), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: model,
        lambda model: ThresholdCalibrator(model, quantile=0.9),
        lambda model: make_pipeline(ImageFormatNormalizer(), model),
        lambda model: make_pipeline(ImageFormatNormalizer(), model, ThresholdCalibrator()),
    ],
    ids=["detector", "calibrator", "no calibrator", "calibrator of a column"],
)
def test_what_a_pipeline_lacks_is_put_around_it(root, make, expected, tmp_path):
    result = run_benchmark(
        "folder", root=root, category="wood", pipeline=make(MODEL), quantile=0.5, output_dir=None
    )
    assert result.records["wood"] == expected.records["wood"]
    synthetic = run_benchmark(
        category="wood", pipeline=make(MODEL), quantile=0.5, output_dir=tmp_path,
        dataset_options=SMALL, n_overlays=2,
    )  # fmt: skip
    scores = [record["score"] for record in synthetic.records["wood"]]
    assert scores == [record["score"] for record in expected.records["wood"]]
    assert synthetic.categories["wood"]["overlay_error"] is None


@pytest.mark.parametrize(
    "make",
    [
        lambda model: ThresholdCalibrator(make_pipeline(ImageFormatNormalizer(), model)),
        lambda model: make_pipeline(ImageFormatNormalizer(), model, ThresholdCalibrator()),
    ],
)
def test_validation_images_put_the_threshold_of_any_pipeline(tmp_path, make):
    root = layouts.mvtec_ad_2(tmp_path)
    for i in range(2, 6):
        layouts.picture(root / f"can/train/good/{i:03d}_regular.png")
    arguments = {"root": root, "quantile": 0.5, "output_dir": None}
    usual = run_benchmark("mvtec_ad_2", model=MODEL, **arguments)
    result = run_benchmark("mvtec_ad_2", pipeline=make(MODEL), **arguments)
    assert result.records == usual.records
    assert result.categories["can"]["threshold"]["part"] == "validation"


def test_what_a_copy_would_lose_is_refused(root, fitted):
    images = load_folder(root, "wood").X_train
    region = np.zeros((1, 64, 64), bool)
    region[:, 8:40] = True
    with_region = clone(MODEL).fit(images, roi_mask=region)
    frozen = make_pipeline(ImageFormatNormalizer(), FrozenEstimator(clone(MODEL).fit(images)))
    arguments = {"root": root, "category": "wood", "output_dir": None}
    for pipeline, message in ((with_region, "a region of interest"), (frozen, "FrozenEstimator")):
        with pytest.raises(ValueError, match=message):
            run_benchmark("folder", pipeline=pipeline, **arguments)
    with pytest.raises(ValueError, match="leave out model, model_options and u16_max"):
        run_benchmark("folder", pipeline=fitted, model="vision_padim", **arguments)
    with pytest.raises(TypeError, match="no outlier detector"):
        run_benchmark("folder", pipeline=FilterBankFeatures(), **arguments)
    # Pictures in memory are RGB, and this pipeline would take them for BGR.
    with pytest.raises(ImageFormatError, match="takes images in memory as input_format='bgr"):
        run_benchmark(pipeline=fitted, output_dir=None, dataset_options=SMALL)


@pytest.mark.parametrize(
    "options, message",
    [
        ("--model vision_padim", "argument --model: not allowed with argument --pipeline"),
        ("--preset industrial-fast-filterbank", "--preset: not allowed with argument --pipeline"),
        ("--set coreset_ratio=0.1", "--set or --model-kwargs belongs to a model, and --pipeline"),
        ("--features filterbank", "--features belongs to a model, and --pipeline brings its own"),
        ("--crop 0", "--crop belongs to a model, and --pipeline brings its own"),
        ("--u16-max 4095", "--u16-max belongs to a model"),
        ("--pipeline no.joblib", "--pipeline no.joblib: there is no such file; give a file that"),
    ],
)
def test_options_of_models_are_refused_beside_a_pipeline(options, message, tmp_path, capsys):
    (tmp_path / "a.joblib").touch()
    command = ["--dataset", "synthetic", "--pipeline", str(tmp_path / "a.joblib")]
    try:
        status = benchmark.main([*command, *options.split()])
    except SystemExit as error:
        status = error.code
    assert status == 2
    said = capsys.readouterr()
    assert message in said.err and said.out == ""


def test_a_file_that_holds_no_detector_is_refused(tmp_path, capsys):
    joblib.dump({"a": 1}, tmp_path / "dict.joblib")
    command = ["--dataset", "synthetic", "--no-save-run", "--pipeline"]
    assert benchmark.main([*command, str(tmp_path / "dict.joblib")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"error: --pipeline {tmp_path / 'dict.joblib'}: pipeline (dict) is no outlier" in last


def test_the_command_takes_the_quantile_of_the_pipeline(root, fitted, expected, tmp_path, capsys):
    file = pyimgano.save(fitted, tmp_path / "a.joblib")
    command = ["--dataset", "folder", "--root", root, "--category", "wood", "--pipeline", file]
    for more, target in (([], 0.5), (["--quantile", 0.7], 0.3)):
        arguments = [*command, "--output-dir", tmp_path / f"runs{target}", *more]
        assert benchmark.main([str(one) for one in arguments]) == 0
        ((run),) = (tmp_path / f"runs{target}").iterdir()
        threshold = RunDirectory(run).category("wood").read_report()["threshold"]
        assert threshold["target_false_positive_rate"] == pytest.approx(target)
    capsys.readouterr()
