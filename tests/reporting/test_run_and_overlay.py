"""Run directories, JSON files, the environment and the pictures."""

from __future__ import annotations

import io
import json
from datetime import datetime

import cv2
import numpy as np
import pytest

import pyimgano
from pyimgano.benchmark import RunDirectory
from pyimgano.reporting import heat_range, overlay, write_overlay
from pyimgano.utils import environment
from pyimgano.utils._atomic import json_line, write_json
from pyimgano.utils._files import atomic_write

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
    assert run.category("..").path.name == "unnamed"


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


def test_heat_range_follows_unit_and_zero_of_the_scores():
    scores, threshold = np.array([1.0, 2.0, 3.0]), 4.0
    low, high = heat_range(scores, threshold)
    assert low < np.median(scores) < threshold < high
    moved = heat_range(10 * scores - 70, 10 * threshold - 70)
    assert moved == pytest.approx((10 * low - 70, 10 * high - 70))
    for degenerate in (heat_range([2.0, 2.0], 2.0), heat_range(None, 0.0), heat_range(None, -1.0)):
        assert degenerate[0] < degenerate[1]


def test_overlay_shows_the_image_and_colours_what_is_hot(tmp_path):
    image = np.full((300, 400, 3), (200, 100, 50), np.uint8)
    anomaly_map = np.zeros((300, 400), np.float32)
    anomaly_map[100:150, 200:260] = 9.0
    picture = overlay(image, anomaly_map, (1.0, 8.0), "scratch\nscore 9", mask=anomaly_map > 5)
    assert picture.shape == (300 + 46, 2 * 400 + 4, 3)
    assert (picture[:300, :400] == image).all()
    cold, hot = picture[250, 404 + 50].astype(int), picture[125, 404 + 230].astype(int)
    assert np.ptp(cold) == 0  # grey
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
