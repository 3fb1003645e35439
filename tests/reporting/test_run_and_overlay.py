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
from pyimgano.benchmark._run_dir import SCHEMA_VERSION
from pyimgano.detectors import PaDiMDetector, SPADEDetector, SSIMTemplateDetector
from pyimgano.exceptions import ImageFormatError, RunError
from pyimgano.features import FilterBankFeatures
from pyimgano.reporting import (
    _drawing,
    heat_range,
    map_range,
    overlay,
    picture_grid,
    range_of_maps,
    write_overlay,
)
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
    assert run.category("aux").path.name.startswith("aux-_")  # a device on Windows
    wide = RunDirectory.create(tmp_path, "\u6728" * 90, "\u6728" * 90, now=NOW).category(
        "\U00020000" * 70
    )
    picture = wide.create().overlay(1, "missed", "\u6728" * 80, "worst", "\u6728" * 80)
    picture.touch()  # names of any length fit
    alike = ["a-b", "a b", "a/b", "a:b", "-a-b", "a" * 90, "a" * 91, "..", "."]
    assert len({run.category(name).path.name for name in alike}) == len(alike)


def test_what_is_written_can_be_read(tmp_path):
    run = RunDirectory.create(tmp_path, "d", "m", now=NOW)
    version = {"schema_version": SCHEMA_VERSION}
    run.write_report({"b": 1, "a": np.float64(0.5), "c": np.arange(2), "path": tmp_path, **version})
    assert run.read_report() == {"a": 0.5, "b": 1, "c": [0, 1], "path": str(tmp_path), **version}
    assert run.report.read_text().index('"a"') < run.report.read_text().index('"b"')
    category = run.category("screw").create()
    assert run.categories() == []  # without a report it is not finished
    with category.writing_per_image() as write:
        write({"index": 0, "path": "b\u00e4d \udcff.png"})
        write({"index": 1})
        assert not category.per_image.exists()
    assert category.read_per_image()[0]["path"] == "b\u00e4d \udcff.png"
    category.write_report({})
    with pytest.raises(RunError, match="has schema_version None"):
        category.read_report()
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
    heat = np.zeros((300, 400), np.float32)
    heat[100:150, 200:260] = 9.0
    picture = overlay(image, heat, (1.0, 8.0), "scratch\nscore 9", mask=heat > 5)
    assert picture.shape[1] == 10 + 400 + 12 + 400 + 10
    top, left = np.argwhere((picture == image[0, 0]).all(axis=2))[0]
    assert left == 10
    assert (picture[top : top + 300, 10:410] == image).all()
    cold, hot = picture[top + 250, 422 + 50].astype(int), picture[top + 125, 422 + 230].astype(int)
    assert np.ptp(cold) == 0  # gray
    assert hot[0] > hot[1] + 50 and hot[0] > hot[2] + 50  # red
    path = tmp_path / "\u00fcber.png"
    write_overlay(path, picture)
    read = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert (read[..., ::-1] == picture).all()


def has_color(picture, color, tolerance=0):
    return bool((np.abs(picture.astype(int) - color).max(axis=2) <= tolerance).any())


BLUE, VERMILION, MAGENTA = (0, 114, 178), (213, 94, 0), (200, 0, 200)


@pytest.fixture
def words(monkeypatch):
    """All that is written into pictures: text, its left end, right end, and picture's width."""
    written = []
    put = _drawing.cv2.putText

    def record(picture, text, at, font, scale, color, thickness, *rest):
        wide = cv2.getTextSize(text, font, scale, thickness)[0][0]
        written.append((text, at[0], at[0] + wide, picture.shape[1]))
        return put(picture, text, at, font, scale, color, thickness, *rest)

    monkeypatch.setattr(_drawing.cv2, "putText", record)
    return written


@pytest.mark.parametrize(
    "score, badge, color, other, reason",
    [
        (0.5, "FAIL", VERMILION, BLUE, "score 0.5 is above the threshold 0.4"),
        (0.4, "PASS", BLUE, VERMILION, "score 0.4 is not above the threshold 0.4"),
        (0.4000001, "FAIL", VERMILION, BLUE, "score 0.4 is just above the threshold 0.4"),
        (-7.0, "PASS", BLUE, VERMILION, "score -7 is not above the threshold 0.4"),
        (4e9, "FAIL", VERMILION, BLUE, "score 4e+09 is above the threshold 0.4"),
    ],
)
def test_overlay_gives_the_verdict_in_words_and_in_color(words, score, badge, color, other, reason):
    gray = np.full((64, 64), 99, np.uint8)
    picture = overlay(gray, score=score, threshold=0.4, good_scores=[0.1, 0.2])
    assert has_color(picture, color) and not has_color(picture, other)
    texts = {text for text, *_ in words}
    assert texts == {badge, reason, "threshold", "this part", "2 good parts", "image"}


def test_without_a_threshold_there_is_no_verdict(words):
    picture = overlay(np.full((64, 64), 99, np.uint8), score=0.5)
    assert not has_color(picture, BLUE) and not has_color(picture, VERMILION)
    assert [text for text, *_ in words] == ["image", "score 0.5; no threshold, so no verdict"]


def test_outlines_of_the_detector_and_of_the_mask_are_told_apart(words):
    image, heat = np.full((256, 256, 3), 128, np.uint8), np.zeros((256, 256))
    heat[30:60, 30:60] = 6.0
    defect = np.zeros((256, 256), bool)
    defect[180:220, 180:220] = True

    def drawn(**options):
        words.clear()
        picture = overlay(image, heat, (0.0, 10.0), **options)
        return has_color(picture, MAGENTA), {text for text, *_ in words}

    hotter = "hotter than the good parts that set the scale"
    nothing = "Nothing is hotter than the good parts that set the scale."
    found, texts = drawn(mask=defect)
    assert found and {"true defect", hotter, "good parts up to 5"} <= texts
    found, texts = drawn(mask=np.zeros_like(defect), good_peak=6.5)
    assert not found and nothing in texts and "true defect" not in texts
    found, texts = drawn(good_peak=None)
    assert not found and not {nothing, hotter} & texts
    assert not any(text.startswith("good parts") for text in texts)
    picture = overlay(image, heat, (0.0, 10.0), mask=defect)
    rows, columns = np.nonzero(np.abs(picture.astype(int) - MAGENTA).max(axis=2) == 0)
    inside = rows < 250  # the legend is below
    left = 10 + 256 + 12
    assert abs(rows[inside].mean() - (28 + 44.5)) < 1  # edge and title above
    assert abs(columns[inside].mean() - (left + 44.5)) < 1


@pytest.mark.parametrize("place", [(0, 0), (1713, 2640), (3647, 5471)])
def test_one_hot_pixel_of_twenty_million_is_seen(words, place):
    heat, image = np.zeros((3648, 5472), np.float32), np.zeros((3648, 5472, 3), np.uint8)
    heat[place] = 9.0
    picture = overlay(image, heat, (0.0, 10.0), mask=heat > 0)
    assert has_color(picture, MAGENTA)
    assert {"true defect", "hotter than the good parts that set the scale"} <= {w[0] for w in words}


@pytest.mark.parametrize(
    "shape", [(8, 8), (32, 32), (3000, 100), (100, 3000), (1, 2000), (2000, 1), (640, 480)]
)
def test_overlay_takes_any_size_and_no_text_is_cut_or_overlaps(words, shape):
    image, heat = np.zeros((*shape, 3), np.uint8), np.linspace(0, 1, 35).reshape(5, 7)
    picture = overlay(
        image,
        heat,
        (0, 1),
        "x" * 300 + "\n\u00e4",
        mask=heat > 0.7,
        score=1234.5678,
        threshold=1234.1,
        good_scores=np.arange(1000.0),
    )
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 420 and max(picture.shape) <= 2 * 1600
    for text, start, end, width in words:
        assert start >= 0 and end <= width, text
    below = {text: (start, end) for text, start, end, _ in words}
    assert below["this part"][1] < below["1000 good parts"][0]
    assert below["0"][1] < below["good parts up to 0.5"][0]
    assert below["good parts up to 0.5"][1] < below["1"][0]


def test_overlay_says_what_is_wrong_with_what_it_is_given():
    image, heat = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8))
    with pytest.raises(ValueError, match="without limits; give"):
        overlay(image, heat)
    with pytest.raises(ValueError, match=r"low < high, got \(1, 1\)"):
        overlay(image, heat, (1, 1))
    with pytest.raises(ImageFormatError, match=r"shape \(8, 8, 3\) and dtype float64"):
        overlay(image.astype(float))


def test_picture_grid_leaves_room():
    grid = picture_grid([np.zeros((10, 30, 3), np.uint8), np.zeros((20, 10, 3), np.uint8)])
    assert grid.shape == (20, 30 + 24 + 30, 3)
    assert (grid[:, 30:54] == 255).all() and (grid[10:, :30] == 255).all()
    assert (grid[:10, :30] == 0).all() and (grid[:20, 54:64] == 0).all()
    assert picture_grid([grid], n_columns=4).shape == grid.shape
    with pytest.raises(ValueError, match="at least one picture"):
        picture_grid([])
