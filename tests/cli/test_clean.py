"""``pyimgano clean``: the images of a training folder that may not belong there."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest

from pyimgano.cli.clean import CSV_COLUMNS, main

pytestmark = pytest.mark.usefixtures("short_runs")

SMALL = ("--features", "filterbank", "--resize", "32", "--set", "neighborhoods=[1]")


def call(*arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine good images, one defective one in a folder below, a copy, and half a file."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    (root / "late").mkdir()
    for i in range(10):
        image = rng.randint(90, 110, size=(32, 32, 3)).astype(np.uint8)
        if i == 9:
            image[10:20, 10:20] = 255
        cv2.imwrite(str(root / ("late/odd.png" if i == 9 else f"{i}.png")), image)
    (root / "copy.png").write_bytes((root / "4.png").read_bytes())
    (root / "half.png").write_bytes((root / "0.png").read_bytes()[:200])
    return root


def test_suspects_are_listed_drawn_and_written(folder, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    pictures, table = tmp_path / "suspects", tmp_path / "suspects.csv"
    options = "--top", 2, "--save-overlays", pictures, "--save-csv", table
    assert call(folder, *SMALL, *options) == 1  # a file could not be read
    out, err = capsys.readouterr()
    listed = [line for line in out.splitlines() if line[:6].strip(" *").isdigit()]
    assert len(listed) == 2
    assert listed[0].startswith("   1*") and listed[0].endswith(str(folder / "late" / "odd.png"))
    assert f"left out: {folder / 'half.png'}: " in err
    assert f"{folder / 'copy.png'}: the same picture as {folder / '4.png'}" in err

    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS and len(rows) == 12
    assert [row["rank"] for row in rows[:10]] == [str(rank) for rank in range(1, 11)]
    scores = [float(row["score"]) for row in rows[:10]]
    assert scores == sorted(scores, reverse=True)
    assert rows[0]["image"] == str(folder / "late" / "odd.png") and rows[0]["suspicious"] == "yes"
    assert rows[10]["same_as"] == str(folder / "4.png") and not rows[10]["rank"]
    assert "half.png" in rows[11]["error"] and not rows[11]["score"]

    drawn = sorted(pictures.iterdir())
    assert drawn[0].name == "001_late_odd.png.overlay.png"
    assert [row["overlay"] for row in rows[:3]] == [*map(str, drawn), ""]
    assert cv2.imread(str(drawn[0])) is not None
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_table_may_be_standard_output_and_any_model_ranks(folder, capsys):
    model = "--model", "vision_patchcore", "--features", "filterbank", "--resize", "32"
    assert call(folder, *model, "--save-csv", "-") == 1
    out = capsys.readouterr().out
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 12 and rows[0]["image"].endswith("odd.png")


@pytest.mark.parametrize(
    "options, message",
    [
        (("nowhere",), "nowhere does not exist"),
        (("{folder}", "--save-overlays", "{folder}/maps"), "in which nothing is changed"),
        (("{folder}", "--save-csv", "{folder}/late/x.csv"), "in which nothing is changed"),
        (("{folder}/late", *SMALL), "at least 3 different images"),
        (("{folder}", "--model", "vision_ecod", "--save-overlays", "{out}"), "as a whole"),
        (("{folder}", "--model", "vision_draem"), "cannot be ranked with those of images held out"),
    ],
)
def test_what_cannot_work_is_refused(folder, tmp_path, options, message, capsys):
    words = [one.format(folder=folder, out=tmp_path / "maps") for one in options]
    assert call(*words) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "maps").exists()
