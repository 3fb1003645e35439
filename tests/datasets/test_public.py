"""Public datasets, each in a small tree of its published layout."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from pyimgano._dataset_table import DATASETS
from pyimgano.datasets import list_categories, load_dataset, read_mask
from pyimgano.exceptions import DatasetError
from tests.datasets import layouts

# Dataset, how its tree is made, one of its categories.
PUBLIC = [
    ("mvtec_ad", layouts.mvtec_ad, "bottle"),
    ("mvtec_ad_2", layouts.mvtec_ad_2, "can"),
    ("mvtec_loco", layouts.mvtec_loco, "pushpins"),
    ("visa", layouts.visa, "candle"),
    ("btad", layouts.btad, "01"),
    ("kolektor_sdd", layouts.kolektor_sdd, None),
    ("kolektor_sdd2", layouts.kolektor_sdd2, None),
    ("mpdd", layouts.mpdd, "bracket_black"),
    ("real_iad", layouts.real_iad, "audiojack"),
]


def names(root, images):
    return [image.path[len(str(root)) + 1 :].replace("\\", "/") for image in images]


def summary(images):
    return [(image.label, image.kind, len(image.masks)) for image in images]


# ---- what holds for all of them -------------------------------------------------------
def test_every_public_dataset_has_a_test():
    own = {"folder", "manifest", "synthetic"}
    assert {name for name, *_ in PUBLIC} == set(DATASETS) - own


@pytest.mark.parametrize(("name", "make", "category"), PUBLIC)
def test_a_tree_as_published_opens_without_a_warning(name, make, category, tmp_path):
    root = make(tmp_path)
    for stray in ("Thumbs.db", ".DS_Store", "readme.txt"):
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            (folder / stray).write_text("no picture")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = load_dataset(name, str(root), category=category)
    assert parts.name == name and parts.category == (category or name)
    categories = list_categories(name, root)
    assert categories == [] if category is None else category in categories
    parts.check_masks()
    bunch = parts.to_bunch()
    assert bunch.y_test.tolist() == [image.label for image in parts.test]
    assert set(bunch.y_test) == {1, -1} and bunch.missing_masks == []
    assert len(bunch.data) == len(parts.train) + len(parts.test)
    for image, mask in zip(bunch.X_test, bunch.masks_test):
        assert image.shape == (32, 32, 3)
        assert read_mask(mask, (32, 32)).any() == (mask != 0)
    assert str(root) in bunch.DESCR


@pytest.mark.parametrize(("name", "make", "category"), PUBLIC)
def test_a_wrong_root_says_what_is_expected_and_where_to_get_it(name, make, category, tmp_path):
    layouts.picture(tmp_path / "photos/a.png")
    for chosen in {category, None}:
        with pytest.raises(DatasetError) as caught:
            load_dataset(name, tmp_path, category=chosen)
        message = str(caught.value)
        assert str(tmp_path) in message and "found photos/" in message
        assert DATASETS[name].page in message and DATASETS[name].layout in message


@pytest.mark.parametrize(
    ("name", "make", "category"), [one for one in PUBLIC if one[2] is not None]
)
def test_a_wrong_category_says_which_there_are(name, make, category, tmp_path):
    root = make(tmp_path)
    with pytest.raises(DatasetError, match=f"(?s)'nothing'.*{category}"):
        load_dataset(name, root, category="nothing")


@pytest.mark.parametrize(
    ("name", "make", "category"),
    [one for one in PUBLIC if one[0] not in ("visa", "real_iad", "kolektor_sdd", "kolektor_sdd2")],
)
def test_root_may_be_the_folder_of_a_category(name, make, category, tmp_path, monkeypatch):
    root = make(tmp_path)
    assert load_dataset(name, root / category) == load_dataset(name, root, category=category)
    message = r"several categories|holds several" if name == "btad" else category
    with pytest.raises(DatasetError, match=message):
        load_dataset(name, root)
    monkeypatch.chdir(root / category / "train")
    assert load_dataset(name, "..").category == category


@pytest.mark.parametrize(("name", "make", "category"), PUBLIC)
def test_a_missing_mask_is_an_error_that_names_it(name, make, category, tmp_path):
    root = make(tmp_path)
    parts = load_dataset(name, root, category=category)
    defective = [image for image in parts.test if image.label == -1]
    for mask in defective[0].masks:
        (root / mask).unlink()
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, root, category=category)
    assert defective[0].path in str(caught.value) or defective[0].masks[0] in str(caught.value)


@pytest.mark.parametrize("name", ["kolektor_sdd", "kolektor_sdd2"])
def test_datasets_without_categories_refuse_one(name, tmp_path):
    with pytest.raises(DatasetError, match="is not divided into categories"):
        load_dataset(name, tmp_path, category="kos01")


# ---- each by itself -------------------------------------------------------------------
def test_mvtec_ad(tmp_path):
    root = layouts.mvtec_ad(tmp_path)
    parts = load_dataset("mvtec", root, category="bottle")
    assert names(root, parts.train)[0] == "bottle/train/good/000.png"
    assert summary(parts.test) == [
        (1, "good", 0),
        (-1, "crack", 1),
        (-1, "crack", 1),
        (-1, "stain", 1),
    ]


def test_mvtec_ad_2_has_lighting_validation_and_sets_without_labels(tmp_path):
    root = layouts.mvtec_ad_2(tmp_path)
    parts = load_dataset("mvtec_ad_2", root, category="can")
    assert summary(parts.test) == [(1, "good", 0)] * 3 + [(-1, "bad", 1)] * 3
    assert [image.condition for image in parts.test] == ["overexposed", "regular", "shift_1"] * 2
    assert names(root, parts.validation) == [
        "can/validation/good/000_regular.png",
        "can/validation/good/001_regular.png",
    ]
    for image in parts.test[3:]:
        assert image.masks[0].endswith(f"001_{image.condition}_mask.png")
    mixed = load_dataset("mvtec_ad_2", root, category="can", split="test_private_mixed")
    assert [(image.label, image.condition) for image in mixed.test] == [
        (None, "overexposed"),
        (None, "regular"),
        (None, "shift_1"),
    ]
    assert mixed.train == parts.train and len(mixed.images("test")) == 3
    assert mixed.to_bunch().y_test.tolist() == [0, 0, 0]
    shutil.rmtree(root / "can/test_private")
    with pytest.raises(DatasetError, match="there is no folder test_private"):
        load_dataset("mvtec_ad_2", root, category="can", split="test_private")


def test_mvtec_loco_has_a_mask_and_a_saturation_for_each_defect(tmp_path):
    root = layouts.mvtec_loco(tmp_path)
    parts = load_dataset("mvtec_loco", root, category="pushpins")
    assert len(parts.validation) == 2
    assert summary(parts.test) == [
        (1, "good", 0),
        (1, "good", 0),
        (-1, "logical_anomalies", 2),
        (-1, "structural_anomalies", 1),
    ]
    assert parts.read_defects(parts.test[0]) == []
    logical, structural = (parts.read_defects(image) for image in parts.test[2:])
    assert [(one.name, one.saturation_area, one.mask.sum()) for one in logical + structural] == [
        ("additional_pushpin", 3, 5),
        ("missing_pushpin", 5, 5),  # 6300 pixels, which it does not have
        ("broken", 2, 5),  # a half of 5
    ]
    assert not (logical[0].mask & logical[1].mask).any()
    entry = parts.to_bunch().masks_test[2]
    assert np.array_equal(read_mask(entry, (32, 32)), logical[0].mask | logical[1].mask)


def test_mvtec_loco_masks_have_the_values_of_its_defects(tmp_path):
    root = layouts.mvtec_loco(tmp_path)
    parts = load_dataset("mvtec_loco", root, category="pushpins")
    path = root / "pushpins/ground_truth/structural_anomalies/000/000.png"
    layouts.mask(path, 17)
    with pytest.raises(DatasetError, match=r"000\.png: has pixels of the value 17.*253, 254, 255"):
        parts.check_masks()
    layouts.mask(path, 253, 254)
    with pytest.raises(DatasetError, match=r"000\.png: has pixels of the values 253, 254"):
        parts.check_masks()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[1, 2", "defects_config.json is not JSON"),
        ([], "defects_config.json is not a list of defect types"),
        ([{"defect_name": "a"}], "entry 0 must have defect_name, pixel_value"),
        ({"pixel_value": 0}, "pixel_value 0 is not an integer from 1 to 255"),
        ({"saturation_threshold": 1.5, "relative_saturation": True}, "above 0 and at most 1"),
        ({"saturation_threshold": True}, "saturation_threshold True is not a number"),
        ({"relative_saturation": 0}, "relative_saturation 0 is neither true nor false"),
        ({"pixel_value": 254}, "have the same pixel_value 254"),
    ],
)
def test_mvtec_loco_refuses_a_broken_config(change, message, tmp_path):
    root = layouts.mvtec_loco(tmp_path)
    path = root / "pushpins/defects_config.json"
    if isinstance(change, dict):
        entries = json.loads(path.read_text())
        entries[0].update(change)
        change = entries
    path.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(DatasetError, match=message):
        load_dataset("mvtec_loco", root, category="pushpins")


def test_mvtec_loco_refuses_masks_without_an_image(tmp_path):
    root = layouts.mvtec_loco(tmp_path)
    layouts.mask(root / "pushpins/ground_truth/logical_anomalies/007/000.png", 255)
    with pytest.raises(DatasetError, match="007 holds masks, but there is no image 007"):
        load_dataset("mvtec_loco", root, category="pushpins")


def test_visa_is_divided_as_its_table_says(tmp_path):
    root = layouts.visa(tmp_path)
    assert list_categories("visa", root) == ["candle", "pcb1"]
    parts = load_dataset("visa", root, category="pcb1")
    assert names(root, parts.train) == [f"pcb1/Data/Images/Normal/000{i}.JPG" for i in range(2)]
    assert summary(parts.test) == [(1, "good", 0), (-1, "anomaly", 1)]
    (defect,) = parts.read_defects(parts.test[1])
    assert set(np.unique(defect.mask)) == {0, 1} and defect.mask.sum() == 10
    few_shot = load_dataset("visa", root, category="pcb1", split="2cls_fewshot")
    assert few_shot.to_bunch().y_train.tolist() == [1, 1, -1]
    with pytest.raises(DatasetError, match="no file split_csv/2cls_highshot"):
        load_dataset("visa", root, category="pcb1", split="2cls_highshot")
    with pytest.raises(DatasetError, match="several categories: open one with category='candle'"):
        load_dataset("visa", root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("candle", "val", "normal", "a.JPG", ""), "line 2: split 'val' is neither 'train' nor"),
        (("candle", "test", "bad", "a.JPG", ""), "line 2: label 'bad' is neither 'normal' nor"),
        (("candle", "test", "normal", "a.JPG", ""), r"line 2: there is no file .*a\.JPG"),
        (("candle", "test", "normal"), "line 2: None is not the path of a file"),
    ],
)
def test_visa_names_the_line_that_is_wrong(row, message, tmp_path):
    layouts.table(tmp_path / "split_csv/1cls.csv", [row])
    with pytest.raises(DatasetError, match=rf"1cls\.csv, {message}"):
        load_dataset("visa", tmp_path, category="candle")


def test_visa_tables_of_other_kinds(tmp_path):
    table = tmp_path / "split_csv/1cls.csv"
    layouts.table(table, [])
    with pytest.raises(DatasetError, match=r"1cls\.csv has no rows"):
        load_dataset("visa", tmp_path, category="candle")
    layouts.table(table, [("a", "b")], columns=("image", "label"))
    with pytest.raises(DatasetError, match=r"columns must be object, split.*found image, label"):
        load_dataset("visa", tmp_path, category="candle")
    columns = ("image", "split", "label", "mask", "object")
    layouts.table(table, [("a.JPG", "test", "normal", "")], columns=columns)
    with pytest.raises(DatasetError, match=r"1cls\.csv, line 2: object is empty"):
        list_categories("visa", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"object,split,label,image,mask\n\xff,test,normal,a.JPG,\n", "is not UTF-8"),
        (b'object,split,label,image,mask\n"a"b,test,normal,a.JPG,\n', "line 2: is not CSV"),
        (b"object,split,label,image,mask\na,test,normal,a.JPG,,more\n", "line 2: has more cells"),
        (b"object,split,label,image,mask\n" + b"a" * 200_000, "line 2: is not CSV"),
    ],
    ids=["encoding", "quotes", "cells", "length"],
)
def test_visa_tables_that_are_no_csv(content, message, tmp_path):
    table = tmp_path / "split_csv/1cls.csv"
    table.parent.mkdir()
    table.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"1cls\.csv.*{message}"):
        load_dataset("visa", tmp_path, category="candle")
    with pytest.raises(DatasetError, match=rf"1cls\.csv.*{message}"):
        list_categories("visa", tmp_path)
    shutil.rmtree(tmp_path / "split_csv")
    layouts.mvtec_ad(tmp_path, "candle")
    with pytest.raises(DatasetError, match="opened with the name 'folder'"):
        load_dataset("visa", tmp_path, category="candle")


def test_btad_images_and_masks_have_suffixes_of_their_own(tmp_path):
    root = layouts.btad(tmp_path)
    for category, suffixes in (("01", (".bmp", ".png")), ("02", (".png", ".bmp"))):
        image = load_dataset("btad", root, category=category).test[-1]
        assert (image.label, image.kind) == (-1, "ko")
        assert (image.path[-4:], image.masks[0][-4:]) == suffixes


def test_kolektor_sdd_is_divided_by_items(tmp_path):
    root = layouts.kolektor_sdd(tmp_path)
    folds = [load_dataset("kolektor_sdd", root, split=f"fold_{i}") for i in range(3)]
    assert folds[0] == load_dataset("kolektor_sdd", root)
    tested = []
    for parts in folds:
        train, test = ({image.group for image in part} for part in (parts.train, parts.test))
        assert len(train) == 4 and len(test) == 2 and not train & test
        assert summary(parts.train[:3]) == [(1, "good", 0), (-1, "defect", 1), (1, "good", 0)]
        assert len(parts.train) + len(parts.test) == 18
        tested += sorted(test)
    assert sorted(tested) == [f"kos0{i}" for i in range(1, 7)]
    shutil.rmtree(root / "kos01")
    for item in range(3, 7):
        shutil.rmtree(root / f"kos0{item}")
    with pytest.raises(DatasetError, match="1 items are too few"):
        load_dataset("kolektor_sdd", root)


def test_kolektor_sdd2_leaves_the_copies_of_its_archive_out(tmp_path):
    root = layouts.kolektor_sdd2(tmp_path)
    parts = load_dataset("kolektor_sdd2", root, duplicates="error")
    assert names(root, parts.train) == [f"train/{10000 + i}.png" for i in range(3)]
    assert summary(parts.train) == [(1, "good", 0), (1, "good", 0), (-1, "defect", 1)]
    assert names(root, parts.test[-1:]) == ["test/20002.png"]
    assert "2 files with other names were left out" in parts.description


def test_real_iad_has_views_parts_and_several_divisions(tmp_path):
    root = layouts.real_iad(tmp_path)
    parts = load_dataset("real_iad", root, category="audiojack")
    assert [(image.group, image.condition) for image in parts.train] == [
        ("OK/S0001", "C1"),
        ("OK/S0001", "C2"),
    ]
    assert summary(parts.test) == [(1, "good", 0), (-1, "HS", 1), (1, "good", 0)]
    assert [image.group for image in parts.test[1:]] == ["NG/HS/S0001"] * 2
    single = load_dataset("real_iad", root, category="audiojack", split="realiad_jsons_sv")
    assert len(single.train) == 1 and single.test == parts.test


def test_real_iad_of_several_sizes_needs_one_of_them_as_root(tmp_path):
    root = layouts.real_iad(tmp_path, sizes=(256, 1024))
    with pytest.raises(DatasetError, match="images of several sizes: give the folder of one"):
        load_dataset("real_iad", root, category="audiojack")
    parts = load_dataset("real_iad", root / "realiad_1024", category="audiojack")
    assert all("realiad_1024" in image.path for image in parts.train + parts.test)
    assert list_categories("real_iad", root / "realiad_256") == ["audiojack"]


def test_real_iad_tables_say_where_the_images_are(tmp_path):
    root = layouts.real_iad(tmp_path)
    path = root / "realiad_jsons/realiad_jsons/audiojack.json"
    content = json.loads(path.read_text())
    expected = load_dataset("real_iad", root, category="audiojack")
    path.write_text(json.dumps({key: content[key] for key in ("train", "test")}))
    assert load_dataset("real_iad", root, category="audiojack").test == expected.test
    (root / "realiad_256/audiojack").rename(root / "realiad_256/moved")
    content["meta"]["prefix"] = "moved/"
    path.write_text(json.dumps(content))
    moved = load_dataset("real_iad", root, category="audiojack")
    assert names(root, moved.test) == [
        name.replace("/audiojack/", "/moved/", 1) for name in names(root, expected.test)
    ]


def test_real_iad_refuses_broken_tables(tmp_path):
    root = layouts.real_iad(tmp_path)
    path = root / "realiad_jsons/realiad_jsons/audiojack.json"
    content = json.loads(path.read_text())
    for change, message in (
        ("{", r"audiojack\.json is not JSON"),
        ("[]", "must be an object with the lists train and test"),
        (json.dumps({**content, "train": [{}]}), r"train\[0\] must have image_path"),
        (
            json.dumps({**content, "train": [{"image_path": "x.jpg", "anomaly_class": "OK"}]}),
            r"train\[0\]: there is no file .*x\.jpg",
        ),
    ):
        path.write_text(change)
        with pytest.raises(DatasetError, match=message):
            load_dataset("real_iad", root, category="audiojack")
    content["test"][1]["mask_path"] = None  # a defect without a mask
    path.write_text(json.dumps(content))
    parts = load_dataset("real_iad", root, category="audiojack")
    assert parts.to_bunch().missing_masks == [parts.test[1].path]


def test_lossy_pictures_with_other_suffixes_are_found(tmp_path):
    root = layouts.mvtec_ad(tmp_path)
    path = root / "bottle/train/good/000.png"
    Image.open(path).save(path.with_name("009.JPEG"))
    path.unlink()
    parts = load_dataset("mvtec_ad", root, category="bottle")
    assert names(root, parts.train)[-1] == "bottle/train/good/009.JPEG"
