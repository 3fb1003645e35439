"""Benchmarks of datasets without a defective image: painted defects, named as such."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from pyimgano import ImageFormatNormalizer, PatchCoreDetector, run_benchmark
from pyimgano._any_estimator import image_paths
from pyimgano.benchmark import json_schema
from pyimgano.benchmark._sources import sources
from pyimgano.benchmark._split import fingerprint, limited
from pyimgano.cli import benchmark
from pyimgano.datasets import (
    InspectionDataset,
    InspectionImage,
    load_folder,
    make_inspection_dataset,
    write_inspection_dataset,
)
from pyimgano.exceptions import ImageFormatError, RunError, TooFewImagesError
from pyimgano.features import FilterBankFeatures
from pyimgano.inputs import ImageSequence

pytestmark = pytest.mark.usefixtures("short_runs")

MODEL = PatchCoreDetector(FilterBankFeatures(resize=32), coreset_ratio=0.05)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_inspection_dataset(
        root, "flange", random_state=0, n_train=20, n_test_good=3, n_test_defect=0, size=64
    )
    return root


def opened(dataset, root=None, n=9, limits=(None, None), seed=0, **options):
    (source,) = sources(dataset, root, None, seed, options, limits, n)
    return source.open()


def check_defects(data, n, whole=None):
    """Painted images differ from a good test image where their masks say so, and only there."""
    whole = data if whole is None else whole
    good = [whole.X_test[i] for i in np.flatnonzero(whole.y_test == 1)]
    painted = np.flatnonzero(data.y_test == -1)
    assert len(painted) == n
    for i in painted:
        mask, image = data.masks_test[i], data.X_test[i]
        assert mask.any() and data.kinds_test[i].startswith("synthetic/")
        assert any(np.array_equal((image != one).any(axis=-1), mask) for one in good)


def test_defects_are_painted_on_the_good_test_images(root):
    data = opened("folder", root / "flange")
    assert len(data.X_train) == 20 and data.kinds_test[:3] == ["good"] * 3
    check_defects(data, 9)
    assert set(data.kinds_test[3:]) >= {"synthetic/scratch", "synthetic/missing_part"}
    assert data.synthetic_defects["held_out_from"] == "test"
    assert data.synthetic_defects["n_held_out"] == 3
    # Files stay files, and painted images are in none.
    paths = image_paths(data.X_test)
    assert paths[:3] == list(load_folder(root, "flange").X_test.paths) and set(paths[3:]) == {None}
    again, other = opened("folder", root / "flange"), opened("folder", root / "flange", seed=1)
    assert fingerprint(again) == fingerprint(data) != fingerprint(other)


@pytest.mark.parametrize("layout", ["images", "train/good", "train/normal"])
def test_without_a_test_set_a_fifth_is_held_out(root, tmp_path, layout):
    folder = tmp_path / "parts"
    shutil.copytree(root / "flange/train/good", folder / ("" if layout == "images" else layout))
    data = opened("folder", folder)
    assert data.category == "parts" and data.synthetic_defects["held_out_from"] == "train"
    trained, tested = set(data.X_train.paths), set(image_paths(data.X_test)) - {None}
    assert len(trained) == 15 and len(tested) == 5 and not trained & tested
    assert len(data.y_train) == 15
    check_defects(data, 9)


def test_equal_images_are_held_out_together():
    images = make_inspection_dataset("flange", n_train=12, n_test_good=0, n_test_defect=0, size=64)
    pixels = np.repeat(images.X_train, 3, axis=0)
    parts = InspectionDataset(
        "ours", "flange", tuple(InspectionImage(None, 1, pixels=one) for one in pixels), ()
    )
    data = opened(parts, n=2)
    trained = {one.tobytes() for one in data.X_train}
    tested = {data.X_test[i].tobytes() for i in np.flatnonzero(data.y_test == 1)}
    assert len(trained) + len(tested) == 12 and not trained & tested
    check_defects(data, 2)


def test_limits_keep_what_is_synthetic(root):
    whole = opened("folder", root / "flange")
    data = limited(whole, 8, 10, 0)
    assert len(data.X_train) == 8 and len(data.X_test) == len(data.kinds_test) == 10
    check_defects(data, int((data.y_test == -1).sum()), whole)
    assert data.synthetic_defects["n_defects"] == 9
    batches = [one for block in data.X_test.iter_blocks(4) for one in block]
    assert all(np.array_equal(one, data.X_test[i]) for i, one in enumerate(batches))


def test_a_run_says_everywhere_that_defects_are_synthetic(root, tmp_path, capsys):
    arguments = ["--dataset", "folder", "--root", str(root), "--synthetic-defects", "8"]
    arguments += ["--model", "vision_patchcore", "--features", "filterbank", "--resize", "32"]
    arguments += ["--quantile", "0.9", "--overlays", "12", "--output-dir", str(tmp_path / "runs")]
    assert benchmark.main(arguments) == 0
    told = capsys.readouterr()
    assert "SYNTHETIC DEFECTS: 8 defects were painted" in told.err
    assert "synthetic/missing_part" in told.err
    (run,) = (tmp_path / "runs").iterdir()
    report = json.loads(told.out)
    assert report["synthetic_defects"] == 8
    assert json.loads((run / "config.json").read_text())["synthetic_defects"] == 8
    category = json.loads((run / "categories/flange/report.json").read_text())
    assert category["synthetic_defects"]["n_defects"] == 8
    assert category["pixel"]["auroc"] is not None and category["pixel"]["aupro"] is not None
    assert set(category["kinds"]) == {kind for kind in category["kinds"] if "synthetic/" in kind}
    lines = (run / "categories/flange/per_image.jsonl").read_text().splitlines()
    bad = [record for record in map(json.loads, lines) if record["y_true"] == 1]
    assert len(bad) == 8
    for record in bad:
        assert record["input"].startswith(record["kind"] + "/")
        assert record["kind"].startswith("synthetic/")
    drawn = [path.name for path in (run / "categories/flange/overlays").iterdir()]
    assert sum("synthetic-" in name for name in drawn) >= 8
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(report, json_schema("report"))
    jsonschema.validate(category, json_schema("category_report"))
    # A run that is gone on with paints the same defects.
    assert benchmark.main([*arguments, "--resume"]) == 0


def test_what_cannot_be_done_is_said(root, tmp_path):
    with pytest.raises(RunError, match=r"has 2 defective images, and synthetic_defects=3"):
        run_benchmark(
            synthetic_defects=3,
            output_dir=None,
            dataset_options={"n_train": 4, "n_test_defect": 2, "size": 64},
        )
    few = tmp_path / "few"
    few.mkdir()
    for k, path in enumerate(sorted((root / "flange/train/good").iterdir())[:9]):
        shutil.copy(path, few / f"{k}.png")
    with pytest.raises(TooFewImagesError, match=r"9 different good training images.*needs 10"):
        run_benchmark("folder", root=few, synthetic_defects=3, output_dir=None)
    with pytest.raises(ValueError, match="synthetic_defects=0 must be a number of images"):
        run_benchmark(synthetic_defects=0, output_dir=None)
    bgr = make_pipeline(ImageFormatNormalizer("bgr_u8_hwc"), MODEL)
    with pytest.raises(ImageFormatError, match="painted ones, are 'rgb_u8_hwc'"):
        run_benchmark("folder", root=root, pipeline=bgr, synthetic_defects=3, output_dir=None)
    unlabeled = tmp_path / "parts"
    shutil.copytree(root / "flange/train", unlabeled / "train")
    shutil.copytree(root / "flange/test/good", unlabeled / "test")
    with pytest.raises(RunError, match="3 test images without a label and no good ones"):
        opened("folder", unlabeled)


def test_images_of_16_bits_are_scaled_before_they_are_painted_on(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(10):
        pixels = rng.integers(1000, 4096, (48, 48), np.uint16)
        cv2.imwrite(str(tmp_path / f"{k}.png"), pixels)
    (source,) = sources("folder", tmp_path, None, 0, {}, (None, None), 2, 4095)
    data = source.open()
    expected = ImageSequence([image_paths(data.X_test)[0]], u16_max=4095)[0]
    assert expected.max() > 250 and np.array_equal(data.X_test[0], expected)
