"""Run directories, JSON files, the environment and the pictures."""

from __future__ import annotations

import io
import json
from datetime import datetime

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import pyimgano
from pyimgano import (
    AnomalyDINODetector,
    ImageFormatNormalizer,
    PatchCoreDetector,
    ScoreEnsemble,
    ThresholdCalibrator,
    anomaly_map,
)
from pyimgano.benchmark import RunDirectory
from pyimgano.detectors import PaDiMDetector, SPADEDetector, SSIMTemplateDetector
from pyimgano.features import FilterBankFeatures
from pyimgano.reporting import heat_range, map_range, overlay, range_of_maps, write_overlay
from pyimgano.utils import environment
from pyimgano.utils._json import json_line, write_json
from pyimgano.utils._outputs import atomic_write

NOW = datetime(2026, 1, 31, 14, 25, 7)


def test_run_directories_of_one_second_do_not_meet(tmp_path):
    names = [
        RunDirectory.create(tmp_path / "runs", "synthetic", "patchcore", now=NOW).path.name
        for _ in range(3)
    ]
    assert names == [
        "20260131-142507_synthetic_patchcore",
        "20260131-142507_synthetic_patchcore_2",
        "20260131-142507_synthetic_patchcore_3",
    ]


def test_names_cannot_leave_the_directory(tmp_path):
    run = RunDirectory.create(tmp_path, "../up", "a b:c", now=NOW)
    assert run.path.name == "20260131-142507_up_a-b-c"
    assert run.category("../../x").path.parent == run.path / "categories"
    assert run.category("..").path.name.startswith("unnamed_")
    assert run.category("a-b").path.name == "a-b"
    alike = ["a-b", "a b", "a/b", "a:b", "-a-b", "a" * 90, "a" * 91, "..", "."]
    assert len({run.category(name).path.name for name in alike}) == len(alike)


def test_what_is_written_can_be_read(tmp_path):
    run = RunDirectory.create(tmp_path, "d", "m", now=NOW)
    run.write_report({"b": 1, "a": np.float64(0.5), "c": np.arange(2), "path": tmp_path})
    assert run.read_report() == {"a": 0.5, "b": 1, "c": [0, 1], "path": str(tmp_path)}
    assert run.report.read_text().index('"a"') < run.report.read_text().index('"b"')
    category = run.category("screw").create()
    assert run.categories() == []  # without a report it is not finished
    category.write_per_image([{"index": 0, "path": "b\u00e4d \udcff.png"}, {"index": 1}])
    assert category.read_per_image()[0]["path"] == "b\u00e4d \udcff.png"
    category.write_report({})
    assert [c.path for c in run.categories()] == [category.path]


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_line({"a": float("inf")})
    with pytest.raises(TypeError, match="object has no JSON form"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_environment_is_plain_and_complete():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["numpy"] == np.__version__
    assert found["packages"]["pyimgano"] == pyimgano.__version__


def test_show_versions_prints_them():
    out = io.StringIO()
    pyimgano.show_versions(out)
    assert f"numpy  {np.__version__}" in out.getvalue()


def test_heat_range_goes_on_working_for_one_release():
    with pytest.warns(FutureWarning, match="use map_range"):
        assert heat_range([1.0, 2.0, 3.0], 4.0) == (1.0, 7.0)


def test_map_range_follows_unit_and_zero_of_the_maps():
    maps = np.random.RandomState(0).gamma(2.0, size=(5, 8, 9))
    low, high = range_of_maps(maps)
    assert low < maps.max() < high
    assert range_of_maps(10 * maps - 70) == pytest.approx((10 * low - 70, 10 * high - 70))
    for flat in (np.zeros((1, 2, 2)), np.full((2, 2, 2), -3.0)):
        assert np.less(*range_of_maps(flat))


FEATURES = FilterBankFeatures(resize=64)
MAP_MAKERS = {
    "SPADE": lambda: SPADEDetector(FEATURES, n_neighbors=5),
    "PatchCore": lambda: PatchCoreDetector(FEATURES, coreset_ratio=0.05),
    "PaDiM": lambda: PaDiMDetector(FEATURES),
    "AnomalyDINO": lambda: AnomalyDINODetector(FEATURES),
    "template": lambda: SSIMTemplateDetector(resize=64),
    "ensemble": lambda: ScoreEnsemble(
        [("a", PatchCoreDetector(FEATURES)), ("b", SSIMTemplateDetector(resize=64))]
    ),
    "calibrated pipeline": lambda: make_pipeline(
        ImageFormatNormalizer(), ThresholdCalibrator(SPADEDetector(FEATURES), quantile=0.9)
    ),
}


@pytest.mark.parametrize("name", MAP_MAKERS)
def test_good_parts_stay_below_the_hot_end_that_defects_reach(name):
    rng = np.random.RandomState(0)
    parts = np.full((18, 64, 64, 3), 120.0) + rng.normal(0, 4, (18, 64, 64, 3))
    parts[:, 20:44, 20:44] += 60 + rng.normal(0, 5, (18, 1, 1, 1))
    parts[17, 28:38, 28:38] = (250, 0, 0)
    parts = parts.clip(0, 255).astype(np.uint8)
    detector = MAP_MAKERS[name]().fit(parts[:12])
    low, high = map_range(detector, parts[:12])
    heat = (anomaly_map(detector, parts[12:]) - low) / (high - low)
    assert heat[:-1].max() < 0.75  # yellow at most
    assert heat[-1, 30:36, 30:36].max() > 0.9  # red
    assert np.median(heat) < 0.25


def test_map_range_needs_maps():
    detector = PatchCoreDetector().fit(np.random.RandomState(0).normal(size=(30, 3)))
    frozen = make_pipeline(StandardScaler(), OneClassSVM()).fit(np.zeros((3, 2)))
    assert map_range(detector, np.zeros((2, 3)))[0] > 0
    with pytest.raises(TypeError, match="OneClassSVM makes no anomaly maps"):
        map_range(frozen, np.zeros((3, 2)))


def test_overlay_shows_the_image_and_colors_what_is_hot(tmp_path):
    image = np.full((300, 400, 3), (200, 100, 50), np.uint8)
    anomaly_map = np.zeros((300, 400), np.float32)
    anomaly_map[100:150, 200:260] = 9.0
    picture = overlay(image, anomaly_map, (1.0, 8.0), "scratch\nscore 9", mask=anomaly_map > 5)
    assert picture.shape == (300 + 46, 2 * 400 + 4, 3)
    assert (picture[:300, :400] == image).all()
    cold, hot = picture[250, 404 + 50].astype(int), picture[125, 404 + 230].astype(int)
    assert np.ptp(cold) == 0  # gray
    assert hot[0] > hot[1] + 50 and hot[0] > hot[2] + 50  # red
    path = tmp_path / "\u00fcber.png"
    write_overlay(path, picture)
    read = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert (read[..., ::-1] == picture).all()


@pytest.mark.parametrize("shape", [(8, 8), (3000, 100), (100, 3000), (1, 2000)])
def test_overlay_takes_any_size(shape):
    image, anomaly_map = np.zeros((*shape, 3), np.uint8), np.zeros((5, 7))
    picture = overlay(image, anomaly_map, (0, 1), "x" * 300 + "\n\u00e4", mask=np.ones((5, 7)))
    assert picture.dtype == np.uint8
    assert max(picture.shape[:2]) <= 2 * 640 + 4
