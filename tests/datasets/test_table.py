"""Datasets by name: opening, listing, adding; the record and its Bunch."""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyimgano._dataset_table import ALIASES, DATASETS
from pyimgano.datasets import (
    InspectionDataset,
    InspectionImage,
    _duplicates,
    _table,
    dataset_info,
    list_categories,
    list_datasets,
    load_dataset,
    load_folder,
    make_inspection_dataset,
    read_mask,
    register_dataset,
)
from pyimgano.exceptions import (
    DatasetError,
    DuplicateImagesWarning,
    ImageReadError,
    PluginError,
    PluginWarning,
)
from pyimgano.inputs import ImageSequence
from tests.datasets import layouts


@pytest.fixture(autouse=True)
def own_datasets(monkeypatch):
    """Keep apart what each test registers, and what examples have registered before."""
    monkeypatch.setattr(_table, "_registered", {})


def equal(a, b):
    if isinstance(a, ImageSequence):
        return a.paths == b.paths
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


# ---- the table ------------------------------------------------------------------------
def test_every_loader_and_alias_of_the_table_is_there():
    assert list_datasets() == sorted(DATASETS)
    for info in DATASETS.values():
        assert callable(_table._resolve(info.loader))
        assert info.categories is None or callable(_table._resolve(info.categories))
        assert info.title and info.layout
        if info.name not in ("folder", "manifest", "synthetic"):
            assert info.license and info.page.startswith("https://")
    for alias, name in ALIASES.items():
        assert alias not in DATASETS
        assert dataset_info(alias) is DATASETS[name]


def test_unknown_names_say_what_there_is(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset 'mvtec_a'\. Did you mean 'mvtec_ad'\?"):
        load_dataset("mvtec_a", tmp_path)
    with pytest.raises(DatasetError, match=r"'folder' has no split 'train'; it has no others"):
        load_dataset("folder", tmp_path, split="train")
    with pytest.raises(ValueError, match="duplicates must be one of 'warn', 'error', 'ignore'"):
        load_dataset("folder", tmp_path, duplicates="yes")


def test_a_root_that_is_missing_or_of_the_wrong_kind(tmp_path):
    (tmp_path / "file.txt").touch()
    page = r"official page of MVTec AD is https://www\.mvtec\.com"
    for root, message in (
        (None, "'mvtec_ad' needs root, the folder it lies in"),
        (tmp_path / "nowhere", "nowhere does not exist"),
        (tmp_path / "file.txt", r"file\.txt is a file: give the folder"),
    ):
        with pytest.raises(DatasetError, match=rf"(?s){message}.*train/good.*{page}"):
            load_dataset("mvtec", root)
    with pytest.raises(DatasetError, match="'synthetic' reads no files: leave root out"):
        load_dataset("synthetic", tmp_path)


def test_categories_by_name_and_as_before(tmp_path, monkeypatch):
    layouts.mvtec_ad(tmp_path, "screw")
    layouts.mvtec_ad(tmp_path, "bottle")
    expected = ["bottle", "screw"]
    assert list_categories(tmp_path) == list_categories(str(tmp_path)) == expected
    assert list_categories(root=tmp_path) == expected
    assert list_categories("folder", tmp_path) == list_categories("mvtec", tmp_path) == expected
    assert list_categories("synthetic", None) == list_categories("synthetic")
    with pytest.raises(DatasetError, match="'mvtec_ad' needs root"):
        list_categories("mvtec")
    with pytest.raises(TypeError, match="needs the name of a dataset and its root"):
        list_categories()
    # A folder that is called like a dataset is a folder.
    shutil.copytree(tmp_path, tmp_path / "visa")
    monkeypatch.chdir(tmp_path)
    assert list_categories("visa") == expected


# ---- the record and its Bunch ---------------------------------------------------------
@pytest.mark.parametrize("category", ["bottle256", "screw256"])
def test_a_folder_is_the_bunch_of_load_folder_on_real_images(shared_data, category):
    root = shared_data / "data"
    made = load_dataset("custom", root, category=category).to_bunch()
    expected = load_folder(root, category)
    assert list(made) == list(expected)
    assert all(equal(made[key], expected[key]) for key in expected)


def test_a_record_has_the_images_of_the_folder(tmp_path):
    root = layouts.mvtec_ad(tmp_path)
    (root / "bottle/ground_truth/crack/001_mask.png").unlink()
    parts = load_dataset("folder", root, category="bottle")
    base = root / "bottle"
    assert (parts.name, parts.category, len(parts.train)) == ("folder", "bottle", 3)
    assert parts.validation == ()
    assert parts.test == (
        InspectionImage(str(base / "test/good/000.png"), 1, "good", ()),
        InspectionImage(
            str(base / "test/crack/000.png"),
            -1,
            "crack",
            (str(base / "ground_truth/crack/000_mask.png"),),
        ),
        InspectionImage(str(base / "test/crack/001.png"), -1, "crack", ()),
        InspectionImage(
            str(base / "test/stain/000.png"),
            -1,
            "stain",
            (str(base / "ground_truth/stain/000_mask.png"),),
        ),
    )
    assert parts.images("test").paths == tuple(image.path for image in parts.test)
    with pytest.raises(DatasetError, match="has no validation images"):
        parts.images("validation")
    with pytest.raises(ValueError, match="part must be one of 'train', 'validation', 'test'"):
        parts.images("val")


def test_the_synthetic_pictures_are_those_of_the_function(monkeypatch):
    monkeypatch.setattr(
        "pyimgano.datasets._synthetic.make_inspection_dataset",
        lambda name, random_state: make_inspection_dataset(
            name, n_train=3, n_test_good=1, n_test_defect=5, size=64, random_state=random_state
        ),
    )
    parts = load_dataset("synthetic", category="wood")
    expected = make_inspection_dataset(
        "wood", n_train=3, n_test_good=1, n_test_defect=5, size=64, random_state=0
    )
    made = parts.to_bunch()
    assert list(made) == list(expected)
    assert all(equal(made[key], expected[key]) for key in expected)
    assert np.array_equal(parts.images("train"), expected.X_train)
    (defect,) = parts.read_defects(parts.test[-1])
    assert np.array_equal(defect.mask, expected.masks_test[-1])
    assert defect.saturation_area == expected.masks_test[-1].sum()
    with pytest.raises(DatasetError, match="no synthetic category 'oak'; there are bottle_cap"):
        load_dataset("synthetic", category="oak")


def test_several_masks_and_training_defects_in_a_bunch(tmp_path):
    masks = tuple(str(layouts.mask(tmp_path / f"{i}.png", *[0] * i, 255)) for i in range(2))
    parts = InspectionDataset(
        "ours",
        "bolt",
        train=(InspectionImage("a.png", 1), InspectionImage("b.png", -1, "dent", masks[:1])),
        test=(
            InspectionImage("c.png", 1),
            InspectionImage("d.png", -1, "hole", masks),
            InspectionImage("e.png", -1, "hole"),
        ),
    )
    bunch = parts.to_bunch()
    assert bunch.y_train.tolist() == [1, -1]
    assert bunch.masks == [0, masks[0], 0, masks, None]
    assert bunch.masks_test == [0, masks, None] and bunch.missing_masks == ["e.png"]
    assert bunch.target_names == ["good", "hole", "dent"]
    union = read_mask(bunch.masks_test[1], (32, 32))
    assert np.array_equal(union, read_mask(masks[0]) | read_mask(masks[1]))
    assert union.sum() == 10


def test_a_union_needs_masks_of_one_size_and_each_of_them_whole(tmp_path):
    first = layouts.mask(tmp_path / "first.png", 255)
    small = layouts.mask(tmp_path / "small.png", 255, size=(16, 16))
    black = layouts.mask(tmp_path / "black.png")
    with pytest.raises(DatasetError, match=r"small\.png has shape \(16, 16\)"):
        read_mask((first, small))
    with pytest.raises(DatasetError, match=r"black\.png: every pixel counts as good"):
        read_mask([first, black])
    with pytest.raises(TypeError, match="or several paths"):
        read_mask(())


def test_what_has_no_images_makes_no_bunch_and_without_labels_only_a_test_set_does():
    good, unlabeled = (InspectionImage("a.png", 1),), (InspectionImage("b.png", None, "unknown"),)
    parts = InspectionDataset("x", "y", good, unlabeled).to_bunch()
    assert (parts.y_test.tolist(), parts.masks_test, parts.kinds_test) == ([0], [None], ["unknown"])
    assert parts.missing_masks == []
    with pytest.raises(DatasetError, match=r"there are training images without a label"):
        InspectionDataset("x", "y", unlabeled, good).to_bunch()
    with pytest.raises(DatasetError, match="has no test images"):
        InspectionDataset("x", "y", good, ()).to_bunch()


def test_masks_are_checked_with_their_names(tmp_path):
    root = layouts.mvtec_ad(tmp_path)
    parts = load_dataset("mvtec_ad", root, category="bottle")
    parts.check_masks()
    truth = root / "bottle/ground_truth/crack/001_mask.png"
    for write, message in (
        (lambda: layouts.mask(truth), r"001_mask\.png: every pixel counts as good"),
        (lambda: layouts.mask(truth, 255, size=(32, 31)), r"001_mask\.png has shape \(32, 31\)"),
    ):
        write()
        with pytest.raises(DatasetError, match=message):
            parts.check_masks()
    truth.unlink()
    with pytest.raises(ImageReadError, match=r"001_mask\.png: does not exist"):
        parts.check_masks()


# ---- the same picture twice -----------------------------------------------------------
def test_a_picture_in_training_and_test_is_reported(tmp_path):
    root = layouts.mvtec_ad(tmp_path)
    train, test = root / "bottle/train/good/001.png", root / "bottle/test/good/009.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset("mvtec_ad", root, category="bottle")
    shutil.copy(train, test)
    with pytest.warns(DuplicateImagesWarning) as caught:
        parts = load_dataset("mvtec_ad", root, category="bottle")
    assert str(train) in str(caught[0].message) and str(test) in str(caught[0].message)
    assert caught[0].filename == __file__
    assert parts.duplicates() == [(str(train), str(test))]
    with pytest.raises(DatasetError, match="are the same picture in different parts"):
        load_dataset("mvtec_ad", root, category="bottle", duplicates="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset("mvtec_ad", root, category="bottle", duplicates="ignore")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no FIFOs")
@pytest.mark.parametrize("step", [_duplicates._sample, _duplicates._content])
def test_files_that_become_pipes_are_not_waited_for(step, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    image = InspectionImage(str(tmp_path / "pipe.png"), 1)
    with pytest.raises(ImageReadError, match="is not a regular file but a pipe"):
        step(_duplicates._Picture("train", 0, image))


def test_pictures_that_were_saved_anew_are_found_by_their_pixels(tmp_path):
    root = layouts.mvtec_ad(tmp_path)
    train, test = root / "bottle/train/good/001.png", root / "bottle/test/stain/009.bmp"
    Image.open(train).save(test)
    layouts.mask(root / "bottle/ground_truth/stain/009_mask.png", 255)
    parts = load_dataset("mvtec_ad", root, category="bottle", duplicates="error")
    assert parts.duplicates() == []
    assert parts.duplicates(decode=True) == [(str(train), str(test))]


def test_files_of_equal_size_that_differ_anywhere_are_no_duplicates(tmp_path):
    content = bytearray(os.urandom(3 << 20))
    images = []
    for name, place in (("a", None), ("b", 0), ("c", len(content) // 2), ("d", -1)):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 1
        (tmp_path / name).write_bytes(changed)
        images.append(InspectionImage(str(tmp_path / name), 1))
    parts = InspectionDataset("x", "y", tuple(images[:1]), tuple(images[1:]))
    assert parts.duplicates() == []
    (tmp_path / "e").write_bytes(content)
    again = InspectionImage(str(tmp_path / "e"), 1)
    twice = InspectionDataset("x", "y", tuple(images[:1]), tuple(images[1:]), (again,))
    assert twice.duplicates() == [(images[0].path, again.path)]


def test_pictures_in_memory_are_compared_too():
    pixels = np.zeros((4, 4, 3), np.uint8)
    one, other = (InspectionImage(None, 1, pixels=pixels + i) for i in range(2))
    assert InspectionDataset("x", "y", (one,), (other, one)).duplicates() == [
        ("train[0]", "test[1]")
    ]


# ---- datasets of others ---------------------------------------------------------------
def good_only(root, category, split):
    images = tuple(InspectionImage(str(path), 1) for path in sorted(root.iterdir()))
    return InspectionDataset("line3", f"{category} {split}", images[:1], images[1:])


def test_a_registered_dataset_gets_its_arguments_checked(tmp_path):
    layouts.picture(tmp_path / "a.png")
    layouts.picture(tmp_path / "b.png")
    register_dataset("line3", good_only, splits=["early", "late"], categories=lambda root: ["m4"])
    assert "line3" in list_datasets() and list_categories("line3", tmp_path) == ["m4"]
    assert load_dataset("line3", tmp_path, category="m4").category == "m4 early"
    assert load_dataset("line3", tmp_path, split="late").category == "None late"
    with pytest.raises(DatasetError, match="there are 'early', 'late'"):
        load_dataset("line3", tmp_path, split="test")
    with pytest.raises(DatasetError, match="needs root"):
        load_dataset("line3")
    with pytest.raises(ValueError, match="there is a dataset 'line3' already"):
        register_dataset("line3", good_only)
    register_dataset("line3", good_only, overwrite=True)
    assert list_categories("line3", tmp_path) == []


def test_registering_refuses_what_cannot_work():
    for name in ("mvtec", "visa", "folder"):
        if name in DATASETS or name in ALIASES:
            with pytest.raises(ValueError, match="already"):
                register_dataset(name, good_only)
    with pytest.raises(TypeError, match="name of a dataset must be a string"):
        register_dataset("", good_only)
    with pytest.raises(TypeError, match="loader must be a function"):
        register_dataset("line3", "line3.py")
    with pytest.raises(TypeError, match="categories must be a function"):
        register_dataset("line3", good_only, categories=["m4"])
    with pytest.raises(ValueError, match="root must be one of"):
        register_dataset("line3", good_only, root="url")
    register_dataset("line3", lambda *arguments: None, root="none")
    with pytest.raises(PluginError, match="'line3' returned a NoneType"):
        load_dataset("line3")


def test_plug_ins_are_found_and_broken_ones_are_named(tmp_path, monkeypatch):
    meta = tmp_path / "plugin-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[pyimgano.datasets]\n"
        "plugged = plugin_sets:load\n"
        "told = plugin_sets:INFO\n"
        "number = plugin_sets:NUMBER\n"
        "broken = plugin_broken:load\n"
        "mvtec = plugin_sets:load\n"
    )
    (tmp_path / "plugin_broken.py").write_text("1 / 0\n")
    (tmp_path / "plugin_sets.py").write_text(
        "from pyimgano.datasets import DatasetInfo, InspectionDataset, InspectionImage\n"
        "def load(root, category, split):\n"
        "    one = (InspectionImage(str(root / 'a.png'), 1),)\n"
        "    return InspectionDataset('plugged', str(split), one, ())\n"
        "INFO = DatasetInfo('another', load, splits=('s',), license='MIT')\n"
        "NUMBER = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("_entry_points", "_plugin"):  # a process looks once
        monkeypatch.setattr(_table, name, getattr(_table, name).__wrapped__)
    with pytest.warns(PluginWarning) as caught:
        names = list_datasets()
    assert names == sorted([*DATASETS, "broken", "number", "plugged", "told"])
    (warning,) = (str(one.message) for one in caught if one.category is PluginWarning)
    assert "'mvtec' (pyimgano.datasets: plugin_sets:load) is left out" in warning
    assert not {"plugin_broken", "plugin_sets"} & set(sys.modules)
    opened = load_dataset("plugged", tmp_path)
    assert repr(opened) == "<InspectionDataset plugged, None: 1 train, 0 validation, 0 test>"
    assert load_dataset("told", tmp_path).category == "s"
    assert (dataset_info("told").name, dataset_info("told").license) == ("told", "MIT")
    with pytest.raises(PluginError, match="ZeroDivisionError") as error:
        load_dataset("broken", ".")
    assert "'broken' (pyimgano.datasets: plugin_broken:load)" in str(error.value)
    with pytest.raises(PluginError, match="is of type int; it must be a function"):
        load_dataset("number", ".")
    monkeypatch.delitem(sys.modules, "plugin_sets")


# ---- the user guide -------------------------------------------------------------------
def test_the_user_guide_has_a_row_for_every_dataset():
    guide = Path(__file__).parents[2] / "doc/user_guide/datasets.rst"
    rows = guide.read_text(encoding="utf-8").split("   * - ")[2:]  # after the header
    told = {re.findall("`([^`]+)`", row.splitlines()[0])[0]: row for row in rows}
    assert set(told) == set(DATASETS)
    for name, row in told.items():
        info = DATASETS[name]
        aliases = re.findall("`([^`]+)`", row.splitlines()[0])[1:]
        assert tuple(aliases) == info.aliases
        assert info.license in row and info.page in row
