"""Synthetic inspection images: reproducible, with exact masks, and not too easy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pyimgano.datasets import (
    list_inspection_categories,
    load_folder,
    make_inspection_dataset,
    read_mask,
    write_inspection_dataset,
)

CATEGORIES = list_inspection_categories()
TEXTURES = ["brushed_metal", "printed_grid", "terrazzo", "wood", "woven_fabric"]
OBJECTS = ["bottle_cap", "circuit_board", "flange", "screw"]
KINDS = [(category, kind) for category, kinds in CATEGORIES.items() for kind in kinds]


def test_there_are_several_textures_and_objects_with_several_defects_each():
    assert sorted(CATEGORIES) == sorted(TEXTURES + OBJECTS)
    assert all(len(kinds) >= 5 for kinds in CATEGORIES.values())


@pytest.mark.parametrize("category", CATEGORIES)
def test_one_layout_with_flat_and_split_views(category):
    parts = make_inspection_dataset(
        category, n_train=3, n_test_good=2, n_test_defect=4, size=(64, 80), random_state=0
    )
    kinds = list(CATEGORIES[category][:4])
    assert parts.X_train.shape == (3, 64, 80, 3) and parts.X_train.dtype == np.uint8
    assert parts.X_test.shape == (6, 64, 80, 3) and parts.X_test.dtype == np.uint8
    assert parts.y_train.tolist() == [1, 1, 1]
    assert parts.y_test.tolist() == [1, 1, -1, -1, -1, -1]
    assert parts.kinds_test == ["good", "good", *kinds]
    assert parts.masks_test.shape == (6, 64, 80) and parts.masks_test.dtype == np.uint8
    assert parts.target_names == ["good", *CATEGORIES[category]]
    assert parts.split.tolist() == ["train"] * 3 + ["test"] * 6
    assert parts.target.tolist() == [1] * 5 + [-1] * 4
    assert np.shares_memory(parts.data, parts.X_train)
    assert np.array_equal(parts.data, np.concatenate([parts.X_train, parts.X_test]))
    assert np.array_equal(parts.masks[3:], parts.masks_test) and not parts.masks[:3].any()
    assert parts.category == category and category in parts.DESCR
    assert parts.missing_masks == []


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_seed_gives_the_same_pictures_however_many_are_made(category):
    few = make_inspection_dataset(
        category, n_train=1, n_test_good=1, n_test_defect=2, size=64, random_state=7
    )
    many = make_inspection_dataset(
        category, n_train=3, n_test_good=2, n_test_defect=3, size=64, random_state=7
    )
    other = make_inspection_dataset(
        category, n_train=1, n_test_good=1, n_test_defect=2, size=64, random_state=8
    )
    assert np.array_equal(few.X_train, many.X_train[:1])
    assert np.array_equal(few.X_test[:1], many.X_test[:1])
    assert np.array_equal(few.X_test[1:], many.X_test[2:4])
    assert np.array_equal(few.masks_test[1:], many.masks_test[2:4])
    assert not np.array_equal(few.data, other.data)
    # No picture is made twice: not within the training set, nor in training and test.
    pictures = {picture.tobytes() for picture in many.data}
    assert len(pictures) == len(many.data)


def test_the_kinds_of_defect_do_not_change_the_parts():
    first, second = (
        make_inspection_dataset(
            "wood",
            n_train=0,
            n_test_good=0,
            n_test_defect=2,
            size=64,
            defect_kinds=[kind],
            random_state=1,
            return_pristine=True,
        )
        for kind in ("hole", "stain")
    )
    assert np.array_equal(first.X_test_pristine, second.X_test_pristine)
    assert not np.array_equal(first.X_test, second.X_test)
    assert first.kinds_test == ["hole", "hole"] and first.target_names == ["good", "hole"]


@pytest.mark.parametrize(("category", "kind"), KINDS)
def test_the_mask_is_what_the_defect_changed(category, kind):
    parts = make_inspection_dataset(
        category,
        n_train=0,
        n_test_good=1,
        n_test_defect=3,
        size=96,
        defect_kinds=[kind],
        random_state=3,
        return_pristine=True,
    )
    assert np.array_equal(parts.X_test[0], parts.X_test_pristine[0])
    assert not parts.masks_test[0].any()
    change = np.abs(parts.X_test.astype(int) - parts.X_test_pristine).max(axis=-1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    for picture_change, mask in zip(change[1:], parts.masks_test[1:]):
        assert set(np.unique(mask)) == {0, 1}
        assert not picture_change[mask == 0].any()
        # Inside, all is noticeably changed but for gaps of a pixel to the next changed one.
        changed = (picture_change >= 10).astype(np.uint8)
        assert not (mask & ~cv2.dilate(changed, disc)).any()
        assert changed.sum() >= 0.5 * mask.sum()
        assert 4 <= mask.sum() <= 0.3 * mask.size


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_mean_picture_does_not_solve_it(category):
    parts = make_inspection_dataset(
        category, n_train=20, n_test_good=25, n_test_defect=35, size=64, random_state=0
    )
    train, test = parts.X_train.astype(np.float32), parts.X_test.astype(np.float32)
    mean, spread = train.mean(axis=0), train.std(axis=0) + 1
    distance = np.sqrt(((test - mean) ** 2).sum(axis=-1))
    standardized = (np.abs(test - mean) / spread).max(axis=-1)
    defective = parts.y_test == -1
    for image_distance in (distance, standardized):
        for score in (image_distance.max(axis=(1, 2)), image_distance.mean(axis=(1, 2))):
            assert roc_auc_score(defective, score) < 0.8


def test_parts_scale_with_the_picture():
    small, large = (
        make_inspection_dataset(
            "flange", n_train=4, n_test_good=0, n_test_defect=0, size=size, random_state=0
        ).X_train.mean()
        for size in (64, 192)
    )
    assert small == pytest.approx(large, rel=0.1)


def test_random_state_takes_what_scikit_learn_takes():
    options = {"n_train": 1, "n_test_good": 0, "n_test_defect": 0, "size": 64}
    one = make_inspection_dataset("wood", random_state=np.random.RandomState(5), **options)
    two = make_inspection_dataset("wood", random_state=np.random.RandomState(5), **options)
    assert np.array_equal(one.data, two.data)
    three = make_inspection_dataset("wood", random_state=None, **options)
    four = make_inspection_dataset("wood", random_state=None, **options)
    assert not np.array_equal(three.data, four.data)


def test_global_generators_stay_untouched():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    make_inspection_dataset("screw", n_train=1, n_test_good=1, n_test_defect=1, size=64)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "gear"}, "'flange'"),
        ({"category": "wood", "defect_kinds": ["missing_hole"]}, "has no defect kind"),
        ({"category": "wood", "defect_kinds": []}, "non-empty list"),
        ({"category": "wood", "defect_kinds": "crack"}, "non-empty list"),
        ({"n_train": -1}, "n_train must be an int of at least 0"),
        ({"n_test_defect": 2.5}, "n_test_defect must be an int"),
        ({"size": 32}, "at least 64"),
        ({"size": (64, 64, 3)}, "height, width"),
        ({"size": "256"}, "height, width"),
        ({"size": 96.0}, "height, width"),
        ({"random_state": -1}, "must not be negative"),
    ],
)
def test_wrong_arguments_say_what_would_be_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_inspection_dataset(**arguments)


def test_written_files_hold_the_same_pixels(tmp_path):
    options = {
        "n_train": 2,
        "n_test_good": 1,
        "n_test_defect": 7,
        "size": (64, 72),
        "random_state": 4,
    }
    made = make_inspection_dataset("screw", **options)
    root = write_inspection_dataset(tmp_path / "set", "screw", **options)
    assert root == tmp_path / "set" / "screw"
    found = load_folder(root)
    assert found.missing_masks == []
    assert [image.shape for image in found.X_train] == [(64, 72, 3)] * 2
    assert all(np.array_equal(a, b) for a, b in zip(found.X_train, made.X_train))
    assert sorted(found.kinds_test) == sorted(made.kinds_test)
    # The folder sorts by kind: pair the pictures by their pixels.
    by_pixels = {image.tobytes(): index for index, image in enumerate(made.X_test)}
    for image, mask, kind in zip(found.X_test, found.masks_test, found.kinds_test):
        index = by_pixels.pop(image.tobytes())
        assert kind == made.kinds_test[index]
        assert np.array_equal(read_mask(mask, (64, 72)), made.masks_test[index])
    assert not by_pixels


def test_writing_does_not_mix_old_and_new_pictures(tmp_path):
    (tmp_path / "wood").mkdir()
    (tmp_path / "wood" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_inspection_dataset(tmp_path, "wood", n_train=1, n_test_good=1, n_test_defect=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["wood", "notes.txt"]
