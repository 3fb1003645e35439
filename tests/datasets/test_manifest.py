"""Manifests: tables of images of one's own."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from pyimgano.datasets import InspectionImage, list_categories, load_dataset
from pyimgano.exceptions import DatasetError
from tests.datasets import layouts

COLUMNS = ("path", "split", "label", "mask", "kind")


@pytest.fixture
def root(tmp_path):
    for name in "abcde":
        layouts.picture(tmp_path / f"photos/{name}.png")
    layouts.mask(tmp_path / "masks/d.png", 255)
    layouts.mask(tmp_path / "masks/d2.png", 0, 255)
    return tmp_path


def write_lines(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_csv_file_is_read_by_its_columns(root):
    table = layouts.table(
        root / "parts.csv",
        [
            ("photos/a.png", "train", "good", "", ""),
            (str(root / "photos/b.png"), "validation", "+1", "", "good"),
            ("photos/c.png", "test", "Normal", "", ""),
            ("photos/d.png", "test", "-1", "masks/d.png", "scratch"),
            ("photos/e.png", "test", "anomaly", "", ""),
        ],
        columns=COLUMNS,
    )
    parts = load_dataset("manifest", table)
    assert (parts.name, parts.category) == ("manifest", "parts")
    place = {name: str(root / "photos" / f"{name}.png") for name in "abcde"}
    assert parts.train == (InspectionImage(place["a"], 1),)
    assert parts.validation == (InspectionImage(place["b"], 1),)
    assert parts.test == (
        InspectionImage(place["c"], 1),
        InspectionImage(place["d"], -1, "scratch", (str(root / "masks/d.png"),)),
        InspectionImage(place["e"], -1, "defect"),
    )
    assert parts.to_bunch().missing_masks == [place["e"]]
    assert list_categories("manifest", table) == []


def test_json_lines_may_have_several_masks_groups_and_conditions(root):
    table = write_lines(
        root / "parts.jsonl",
        {"path": "photos/a.png", "split": "train", "label": 1, "group": "p7", "condition": "dark"},
        {"path": "photos/b.png", "split": "test", "label": None},
        {
            "path": "photos/d.png",
            "split": "test",
            "label": -1,
            "mask": ["masks/d.png", "masks/d2.png"],
            "note": "a column of somebody else",
        },
    )
    parts = load_dataset("manifest", table)
    assert (parts.train[0].group, parts.train[0].condition) == ("p7", "dark")
    assert (parts.test[0].label, parts.test[0].kind) == (None, "unknown")
    assert [defect.saturation_area for defect in parts.read_defects(parts.test[1])] == [5, 5]


def test_categories_are_those_of_the_column(root):
    rows = [
        {"path": f"photos/{name}.png", "split": part, "label": 1, "category": category}
        for name, part, category in (
            ("a", "train", "nut"),
            ("b", "test", "nut"),
            ("c", "train", "bolt"),
        )
    ]
    table = write_lines(root / "parts.jsonl", *rows)
    assert list_categories("manifest", table) == ["nut", "bolt"]
    nut = load_dataset("manifest", table, category="nut")
    assert (nut.category, len(nut.train), len(nut.test)) == ("nut", 1, 1)
    with pytest.raises(DatasetError, match="several categories: open one with category='nut'"):
        load_dataset("manifest", table)
    with pytest.raises(DatasetError, match=r"no category 'screw'\. Its categories: nut, bolt"):
        load_dataset("manifest", table, category="screw")
    one = write_lines(root / "one.jsonl", *rows[:2])
    assert load_dataset("manifest", one).category == "nut"
    del rows[1]["category"]
    mixed = write_lines(root / "mixed.jsonl", *rows[:2])
    with pytest.raises(DatasetError, match=r"line 2: category must be given in all lines"):
        load_dataset("manifest", mixed)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("photos/a.png", "val", "good"), "split 'val' is not one of 'train', 'validation'"),
        (("photos/a.png", "train", "0"), r"label '0' is not one of .* never 0\."),
        (("photos/a.png", "train", "scratch"), "label 'scratch' .* goes into the column kind"),
        (("photos/a.png", "train", ""), "label is empty; only test images"),
        (
            ("photos/z.png", "train", "good"),
            r"path: there is no file .*z\.png.*relative to the folder of the manifest",
        ),
        (("photos", "train", "good"), "path: there is no file .*photos"),
        (("", "train", "good"), "path: '' is not the path of a file"),
        (("photos/a.png", "train", "good", "masks/d.png"), "a mask belongs to a defective image"),
        (("photos/a.png", "test", "-1", "masks/z.png"), r"mask: there is no file .*z\.png"),
        (("photos/a.png", "test", "-1", "", "good"), "the label says defective, the kind 'good'"),
        (("photos/a.png", "test", "good", "", "dent"), "the label says good, the kind 'dent'"),
        (("photos/a.png", "test", "good", "", "", "x"), "has more cells than there are columns"),
    ],
)
def test_a_wrong_cell_is_named_by_its_line(row, message, root):
    good = ("photos/b.png", "train", "good", "", "")
    table = layouts.table(root / "parts.csv", [good, row], columns=COLUMNS)
    with pytest.raises(DatasetError, match=rf"(?s)parts\.csv, line 3(: |, ){message}"):
        load_dataset("manifest", table)


def test_a_path_may_be_once_in_a_part(root):
    rows = [("photos/a.png", "train", "good"), ("photos/../photos/a.png", "train", "good")]
    table = layouts.table(root / "parts.csv", rows, columns=COLUMNS[:3])
    with pytest.raises(DatasetError, match=r"line 3: .*a\.png is in train already, by line 2"):
        load_dataset("manifest", table)
    rows[1] = ("photos/a.png", "test", "good")
    table = layouts.table(root / "parts.csv", rows, columns=COLUMNS[:3])
    with pytest.raises(DatasetError, match="the same picture in different parts"):
        load_dataset("manifest", table, duplicates="error")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "path and split and label are missing; found nothing"),
        ("a.csv", b"path;split;label\n", "path and split and label are missing.*by commas"),
        ("a.csv", b"path,split,label,masks\n", "no column 'masks'. Did you mean 'mask'"),
        ("a.csv", b"path,split,label\n", "lists no images"),
        ("a.csv", b'path,split,label\n"a"b,train,1\n', "line 2: is not CSV"),
        ("a.csv", "path,split,label\ngrün.png,train,1\n".encode("latin-1"), "is not UTF-8"),
        ("a.jsonl", b'{"path": "a.png"\n', "line 1: is not JSON"),
        ("a.jsonl", b'["a.png"]\n', "line 1: must be a JSON object"),
        ("a.jsonl", b'\n{"path": "a.png"}\n', "line 2: split and label are missing"),
        ("a.txt", b"", r"a manifest is a file that ends in \.csv, or in \.jsonl"),
    ],
)
def test_files_that_are_no_manifest(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_dataset("manifest", tmp_path / name)


def test_a_mark_of_the_encoding_is_no_part_of_a_column(root):
    (root / "excel.csv").write_bytes(b"\xef\xbb\xbfpath,split,label\r\nphotos/a.png,train,good\r\n")
    assert len(load_dataset("manifest", root / "excel.csv").train) == 1


def test_only_paths_are_held(tmp_path):
    def held_per_row(n_rows):
        for i in range(n_rows):
            with open(tmp_path / f"{i}.png", "wb") as file:
                file.truncate(100_000)
        rows = [(f"{i}.png", "train" if i % 2 else "test", "good") for i in range(n_rows)]
        table = layouts.table(tmp_path / f"{n_rows}.csv", rows, columns=COLUMNS[:3])
        tracemalloc.start()
        parts = load_dataset("manifest", table, duplicates="ignore")
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(parts.train) + len(parts.test) == n_rows
        return held / n_rows, peak / n_rows

    held_per_row(10)  # what is imported on the first call
    (few, _), (many, peak) = held_per_row(100), held_per_row(1000)
    assert many < 1.2 * few and many < 600 and peak < 1500
