"""``pyimgano recalibrate``: the threshold of a saved pipeline, moved by images or by hand."""

from __future__ import annotations

import re
import shutil

import cv2
import joblib
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.calibration import PixelThresholdCalibrator
from pyimgano.cli import infer, recalibrate
from pyimgano.cli import main as umbrella
from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import SSIMTemplateDetector
from pyimgano.features import FilterBankFeatures
from pyimgano.persistence import read_map_range

pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Good images: 12 of the first day, 12 darker ones of the second."""
    folder = tmp_path_factory.mktemp("photos")
    images = make_inspection_dataset(n_train=24, size=64, random_state=0).X_train
    for day, some, gain in (("first", images[:12], 1.0), ("second", images[12:], 0.8)):
        (folder / day).mkdir()
        for i, image in enumerate(some):
            cv2.imwrite(str(folder / day / f"{i:02d}.png"), (image * gain).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def line3(photos, tmp_path_factory):
    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.05)
    pipe = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.9))
    pipe.fit(sorted(map(str, (photos / "first").iterdir())))
    path = tmp_path_factory.mktemp("saved") / "line3.joblib"
    return pyimgano.save(pipe, path, map_range=(0.5, 7.0))


def call(*arguments):
    try:
        return recalibrate.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def test_a_json_file_of_something_else_is_not_replaced(line3, tmp_path, capsys):
    other = tmp_path / "config.json"
    other.write_text('{"exposure": 3}')
    assert call(line3, "--threshold", 3, "-o", tmp_path / "config") == 2
    assert "config.json exists and is not the side file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [other] and other.read_text() == '{"exposure": 3}'


def test_new_good_images_move_the_threshold_and_nothing_else(line3, photos, tmp_path, capsys):
    new = tmp_path / "line3b.joblib"
    assert call(line3, photos / "second", "-o", new) == 0
    out = capsys.readouterr().out
    old, moved = pyimgano.load(line3), pyimgano.load(new)
    paths = sorted(map(str, (photos / "second").iterdir()))
    cut = old[-1].threshold_
    old[-1].recalibrate(old[:-1].transform(paths))
    assert moved[-1].threshold_ == old[-1].threshold_ != pyimgano.load(line3)[-1].threshold_
    np.testing.assert_array_equal(moved.score_samples(paths), old.score_samples(paths))
    assert read_map_range(new) == (0.5, 7.0)
    (entry,) = moved[-1].provenance_["history"]
    assert (entry["call"], entry["after"]["n_images"]) == ("recalibrate", 12)
    assert "12 images: PNG; 64 x 64 pixels" in out
    n_now = (moved.predict(paths) == -1).sum()
    n_before = (-moved.score_samples(paths) > cut).sum()
    assert f"of these 12 good images, {n_before} were called bad before" in out
    assert n_now == 1
    assert f"threshold {moved[-1].threshold_:.4g}: about 7.7% of new good parts" in out
    assert infer.main([str(new), str(photos / "second"), "--save-jsonl", str(tmp_path / "o")]) == 0


def test_without_images_the_threshold_goes_by_a_rate_or_by_hand(line3, tmp_path, capsys):
    new = tmp_path / "line3b.joblib"
    assert call(line3, "-o", new, "--quantile", "0.5") == 0
    assert pyimgano.load(new)[-1].quantile == 0.5
    assert call(new, "-o", new, "--threshold", "31.5") == 0  # over the one it was read from
    assert "set by hand" in capsys.readouterr().out
    calibrator = pyimgano.load(new)[-1]
    assert calibrator.threshold_ == 31.5
    assert [e["call"] for e in calibrator.provenance_["history"]] == [
        "set_quantile",
        "set_threshold",
    ]


def test_copies_and_unreadable_images_are_left_out(line3, photos, tmp_path, capsys):
    shutil.copytree(photos / "second", tmp_path / "new")
    shutil.copy(photos / "second" / "03.png", tmp_path / "new" / "copy.png")
    (tmp_path / "new" / "broken.png").write_bytes(b"none")
    assert call(line3, tmp_path / "new", "-o", tmp_path / "b.joblib") == 1
    out, err = capsys.readouterr()
    assert "12 images" in out and "copy.png" in err + out and "broken.png" in err
    assert pyimgano.load(tmp_path / "b.joblib")[-1].provenance_["n_images"] == 12
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"none")
    assert call(line3, tmp_path / "bad", "-o", tmp_path / "c.joblib") == 2
    assert "none of the images can be read" in capsys.readouterr().err
    assert not (tmp_path / "c.joblib").exists()


def test_the_threshold_of_a_score_column_moves_as_well(photos, tmp_path):
    detector = SSIMTemplateDetector(resize=32)
    pipe = make_pipeline(ImageFormatNormalizer(), detector, ThresholdCalibrator(quantile=0.9))
    pipe.fit(sorted(map(str, (photos / "first").iterdir())))
    pyimgano.save(pipe, tmp_path / "a.joblib")
    assert call(tmp_path / "a.joblib", photos / "second", "-o", tmp_path / "b.joblib") == 0
    paths = sorted(map(str, (photos / "second").iterdir()))
    moved = pyimgano.load(tmp_path / "b.joblib")
    np.testing.assert_array_equal(moved[-1].calibration_scores_, -moved.score_samples(paths))


def test_what_cannot_be_done_is_one_line_and_no_file(line3, photos, tmp_path, capsys):
    bare = PatchCoreDetector().fit(np.random.RandomState(0).normal(size=(20, 3)))
    pyimgano.save(bare, tmp_path / "bare.joblib")
    joblib.dump([1], tmp_path / "list.joblib")
    second = photos / "second"
    out = tmp_path / "out.joblib"
    cases = [
        ((line3, second, "-o", out, "--quantile", "0.98"), "at least 49 .*n_samples=12"),
        ((line3, "-o", out, "--quantile", "0.999"), "at least 999"),
        ((line3, "-o", out, "--threshold", "3", "--device", "cpu"), "--device belongs to a net"),
        ((line3, "-o", out, "--quantile", "0.9", "--weights", "no.pth"), "leave out --weights"),
        ((line3, "-o", out), "alone is not enough"),
        (("-o", out), "give a pipeline and images"),
        ((line3, second, "-o", out, "--threshold", "3"), "leave out --quantile and the images"),
        ((line3, "-o", out, "--threshold", "nan"), "not finite"),
        ((line3, "-o", out, "--quantile", "1"), "no false alarm ever"),
        ((line3, second, "-o", tmp_path / "none" / "x.joblib"), "no such folder"),
        ((line3, second, "-o", tmp_path), "is a folder"),
        ((line3, second, "-o", second / "03.png"), "would overwrite .*03.png"),
        ((line3, tmp_path / "nowhere", "-o", out), "no such file or folder"),
        ((tmp_path / "bare.joblib", second, "-o", out), "holds no ThresholdCalibrator"),
        ((tmp_path / "list.joblib", second, "-o", out), r"list\.joblib"),
        ((second, second, "-o", out), "is a folder; give first the pipeline"),
    ]
    for arguments, message in cases:
        assert call(*arguments) == 2, arguments
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert re.search(message, err), (arguments, err)
        assert not out.exists()


def test_it_is_one_of_the_commands(capsys):
    assert umbrella.main(["recalibrate", "nothing.joblib", "-o", "x", "--quantile", "0.9"]) == 2
    assert "pyimgano recalibrate: error: nothing.joblib" in capsys.readouterr().err


def test_new_good_images_move_the_pixel_threshold_as_well(photos, tmp_path, capsys):
    first, second = (sorted(map(str, (photos / day).iterdir())) for day in ("first", "second"))
    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.05)
    model = PixelThresholdCalibrator(ThresholdCalibrator(detector, quantile=0.9), quantile=0.9)
    pipe = make_pipeline(ImageFormatNormalizer(), model).fit(first)
    old = pyimgano.save(pipe, tmp_path / "line3.joblib")
    assert call(old, photos / "second", "-o", tmp_path / "line3b.joblib", "--quantile", 0.8) == 0
    before, after = pipe[-1].pixel_threshold_, pyimgano.load(tmp_path / "line3b.joblib")[-1]
    pipe[-1].recalibrate(pipe[:-1].transform(second), 0.8)
    assert after.pixel_threshold_ == pipe[-1].pixel_threshold_ != before
    assert after.threshold_ == pipe[-1].threshold_
    assert (after.quantile, after.estimator_.quantile) == (0.8, 0.8)
    told = capsys.readouterr().out
    assert f"pixel threshold {after.pixel_threshold_:.4g}: about" in told
    assert f"; it was {before:.4g}" in told
