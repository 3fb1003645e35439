"""Lazy files, checked images, and what scikit-learn and joblib do with them."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils import _safe_indexing

from pyimgano.exceptions import ImageFormatError, ImageReadError
from pyimgano.inputs import ImageSequence, _sequence, check_images


def write(path, value=0, size=(4, 5)):
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture
def paths(tmp_path):
    """Ten files; all pixels of file i have the value i."""
    return [write(tmp_path / f"{i}.png", i) for i in range(10)]


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files decoded so far, in any order."""
    names = []
    read_image = _sequence.read_image

    def counting(path, *args):
        names.append(Path(path).stem)
        return read_image(path, *args)

    monkeypatch.setattr(_sequence, "read_image", counting)
    return names


def values(images):
    return [int(image[0, 0, 0]) for image in images]


def decoding_threads():
    return [t for t in threading.enumerate() if t.name.startswith("pyimgano-decode")]


class MeanImage(BaseEstimator):
    """The smallest estimator that reads images."""

    def __init__(self, scale=1):
        self.scale = scale

    def fit(self, X, y=None):
        self.mean_ = np.mean([image.mean() for image in check_images(X)])
        return self

    def score(self, X, y=None):
        return -abs(self.scale * self.mean_ - np.mean([image.mean() for image in check_images(X)]))


# Indexing


def test_items_slices_masks_and_arrays(paths, decoded):
    images = ImageSequence(paths)
    assert len(images) == 10
    assert images.shape == (10,)
    assert images[2:4].paths == tuple(paths[2:4])
    assert images[::-1].paths == tuple(paths[::-1])
    assert images[[3, 1]].paths == (paths[3], paths[1])
    assert images[np.array([-1])].paths == (paths[9],)
    assert images[np.arange(10) % 2 == 0].paths == tuple(paths[::2])
    assert images[[]].paths == ()
    assert images[[3, 1], ...].paths == (paths[3], paths[1])
    assert not decoded
    assert values([images[3], images[-1], images[np.int64(4)]]) == [3, 9, 4]
    assert images[0].shape == (4, 5, 3)
    assert values(images) == list(range(10))


@pytest.mark.parametrize(
    "key", [10, -11, [0, 10], np.ones(3, bool), [[0, 1]], (0, 1), True, "a", 1.5, None]
)
def test_wrong_indices(paths, key):
    for images in (ImageSequence(paths), check_images([np.zeros((2, 2, 3), np.uint8)] * 10)):
        with pytest.raises(IndexError):
            images[key]


def test_settings_follow_the_slices(paths):
    images = ImageSequence(paths, resize=(2, 3), u16_max=4095, n_threads=1)[3:][[1]]
    assert (images.resize, images.u16_max, images.n_threads) == ((2, 3), 4095, 1)
    assert images[0].shape == (2, 3, 3)
    assert images.read_raw(0).shape == (4, 5, 3)


@pytest.mark.parametrize("params", [{"resize": 0}, {"u16_max": 0}, {"n_threads": 0}])
def test_parameters_are_checked(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        ImageSequence(["a.png"], **params)


# Reading ahead


@pytest.mark.parametrize("n_threads", [None, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 99])
def test_blocks_are_in_order_and_threads_end(paths, n_threads, batch_size):
    blocks = list(ImageSequence(paths, n_threads=n_threads).iter_blocks(batch_size))
    assert [len(block) for block in blocks[:-1]] == [batch_size] * (len(blocks) - 1)
    assert values(image for block in blocks for image in block) == list(range(10))
    assert not decoding_threads()


def test_reading_ahead_is_bounded(paths, decoded):
    blocks = ImageSequence(paths, n_threads=2).iter_blocks(2)
    assert not decoded
    next(blocks)
    assert "0" in decoded
    assert set(decoded) <= {"0", "1", "2", "3", "4", "5"}  # this block and two more
    blocks.close()
    assert len(decoded) <= 6
    assert not decoding_threads()


def test_an_unreadable_file_is_raised_with_its_block(paths):
    Path(paths[5]).write_bytes(b"")
    blocks = ImageSequence(paths).iter_blocks(2)
    assert values(next(blocks)) == [0, 1]
    assert values(next(blocks)) == [2, 3]
    with pytest.raises(ImageReadError, match=r"5\.png: is empty"):
        next(blocks)
    assert not decoding_threads()
    assert list(blocks) == []


def test_an_interrupt_ends_the_threads(paths):
    def consume():
        for _ in ImageSequence(paths).iter_blocks(1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not decoding_threads()


def test_batch_size_is_checked(paths):
    for images in (ImageSequence(paths), check_images([np.zeros((2, 2, 3), np.uint8)])):
        with pytest.raises(ValueError, match="batch_size=0"):
            next(images.iter_blocks(0))


def test_blocks_of_arrays():
    X = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((4, 5, 3), np.uint8)
    blocks = list(check_images(X).iter_blocks(2))
    assert [values(block) for block in blocks] == [[0, 1], [2, 3], [4]]


# Folders


def test_folder_in_natural_order(tmp_path):
    for name in ("10.png", "2.PNG", "1.jpg", "b.tif", ".hidden.png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "3.png")
    (tmp_path / "folder.png").mkdir()

    def names(**kwargs):
        images = ImageSequence.from_folder(tmp_path, **kwargs)
        return [Path(p).relative_to(tmp_path).as_posix() for p in images.paths]

    assert names() == ["1.jpg", "2.PNG", "10.png", "b.tif"]
    assert names(pattern="*.jpg") == ["1.jpg"]
    assert names(recursive=True) == ["1.jpg", "2.PNG", "10.png", "b.tif", "sub/3.png"]
    images = ImageSequence.from_folder(str(tmp_path), "*.jpg", resize=3, u16_max=9, n_threads=1)
    assert (images.resize, images.u16_max, images.n_threads) == ((3, 3), 9, 1)


def test_no_picture_of_a_folder_is_left_out(tmp_path):
    for name in ("1.pgm", "2.jfif", "3.JP2", "4.gif", "5.dib"):
        write(tmp_path / name)
    (tmp_path / "6.heic").write_bytes(b"\0\0\0\x1cftypheic")
    (tmp_path / "7.png").symlink_to(tmp_path / "gone.png")
    images = ImageSequence.from_folder(tmp_path)
    assert [Path(path).name for path in images.paths] == sorted(os.listdir(tmp_path))
    assert [image.shape for image in images[:5]] == [(4, 5, 3)] * 5
    with pytest.raises(ImageReadError, match=r"6\.heic: is a HEIC image.*Convert it to PNG"):
        images[5]
    with pytest.raises(
        ImageReadError, match=r"7\.png: is a link to .*gone\.png, which does not exist"
    ):
        images[6]


def test_folders_of_masks_and_thumbnails_are_left_out(tmp_path):
    for name in ("good", "ground_truth", "@eaDir", ".thumbnails", "__MACOSX"):
        (tmp_path / name / "sub").mkdir(parents=True)
        write(tmp_path / name / "sub" / "a.png")
    for pattern in (None, "*.png"):
        images = ImageSequence.from_folder(tmp_path, pattern, recursive=True)
        assert images.paths == (str(tmp_path / "good" / "sub" / "a.png"),)
    assert len(ImageSequence.from_folder(tmp_path / "ground_truth", recursive=True)) == 1


def test_folder_errors(tmp_path):
    with pytest.raises(ImageReadError, match="does not exist"):
        ImageSequence.from_folder(tmp_path / "none")
    with pytest.raises(ImageReadError, match="no image in this folder"):
        ImageSequence.from_folder(tmp_path)
    path = write(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match=r"is a file.*\[path\]"):
        ImageSequence.from_folder(path)
    with pytest.raises(ImageReadError, match=r"no file matches '\*\.jpg'"):
        ImageSequence.from_folder(tmp_path, "*.jpg")


# scikit-learn and joblib


@pytest.mark.parametrize("kind", ["files", "arrays", "ragged"])
def test_cross_validation_slices_stay_lazy(paths, decoded, kind):
    if kind == "files":
        X = ImageSequence(paths)
    elif kind == "arrays":
        X = check_images(np.stack([np.full((2, 2, 3), i, np.uint8) for i in range(10)]))
    else:
        X = check_images([np.full((2, 2 + i, 3), i, np.uint8) for i in range(10)])
    decoded.clear()
    for train, test in KFold(5).split(X):
        assert type(_safe_indexing(X, train)) is type(X)
        assert not decoded
        assert values(_safe_indexing(X, test)) == test.tolist()
        decoded.clear()


def test_grid_search_in_processes_equals_a_list_of_paths(paths):
    def search(X, n_jobs):
        grid = GridSearchCV(MeanImage(), {"scale": [1, 2]}, cv=3, n_jobs=n_jobs)
        return grid.fit(X).cv_results_["mean_test_score"]

    np.testing.assert_array_equal(search(ImageSequence(paths), 2), search(list(paths), 1))


def test_pickle_and_copy(paths):
    images = ImageSequence(paths, resize=3)
    next(blocks := images.iter_blocks(2))  # a running reader is not part of the state
    for other in (pickle.loads(pickle.dumps(images)), copy.copy(images), copy.deepcopy(images)):
        assert other.paths == images.paths
        assert other.resize == (3, 3)
        assert values(other) == list(range(10))
    blocks.close()


def test_unpickling_where_the_files_are_missing(paths):
    data = pickle.dumps(ImageSequence(paths))
    os.remove(paths[4])
    images = pickle.loads(data)
    assert images.paths[4] == paths[4]
    with pytest.raises(ImageReadError, match="does not exist"):
        images[4]
    pickle.dumps(images)


def test_caches_notice_a_changed_file(paths, tmp_path):
    calls = []

    def first_value(images):
        calls.append(1)
        return values(images)[0]

    cached = joblib.Memory(tmp_path / "cache", verbose=0).cache(first_value)
    assert cached(ImageSequence(paths)) == cached(ImageSequence(paths)) == 0
    assert len(calls) == 1
    write(paths[0], 77)
    os.utime(paths[0], ns=(1, 1))  # same size perhaps, another time for sure
    assert cached(ImageSequence(paths)) == 77
    assert len(calls) == 2
    images = ImageSequence(paths)
    before = joblib.hash(images)
    os.remove(paths[3])
    assert joblib.hash(images) != before


# check_images


def test_paths_in_every_container(paths):
    containers = [
        paths,
        tuple(paths),
        np.array(paths),
        np.array(paths, dtype=object),
        [Path(p) for p in paths],
        np.array([Path(p) for p in paths]),
        pd.Series(paths, index=range(5, 15)),
        ImageSequence(paths),
    ]
    for X in containers:
        images = check_images(X)
        assert images.paths == tuple(paths)
        assert images.name(3) == paths[3]
        assert check_images(images) is images


def test_arrays_in_every_container():
    X = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    objects = np.empty(3, dtype=object)
    objects[:] = list(X)
    for container in (X, list(X), tuple(X), objects, check_images(X)):
        images = check_images(container)
        assert len(images) == 3
        assert images.shape == (3,)
        assert images.name(2) == "image 2"
        np.testing.assert_array_equal(np.stack(list(images)), X)
        assert np.shares_memory(images[1], X)  # checking copies nothing
        assert np.shares_memory(images[1:][0], X)
        assert check_images(images) is images


def batch(shape, dtype=np.uint8):
    return np.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("X", "parts"),
    [
        (batch((2, 8, 9, 3), np.float32), ["float32", "(2, 8, 9, 3)", "'rgb_f32_hwc'"]),
        (batch((2, 8, 9, 3), np.float64), ["float64", "'rgb_f32_hwc'"]),
        (batch((2, 3, 8, 9), np.float32), ["(2, 3, 8, 9)", "'rgb_f32_chw'"]),
        (batch((2, 3, 8, 9)), ["Move the channels last"]),
        (batch((2, 8, 9)), ["(2, 8, 9)", "'gray_u8_hw'"]),
        (batch((2, 8, 9), np.uint16), ["uint16", "'gray_u16_hw'"]),
        (batch((2, 8, 9, 3), np.uint16), ["'bgr_u16_hwc'", "'rgb_u16_hwc'"]),
        (batch((2, 8, 9, 4)), ["fourth channel"]),
        (batch((2, 8, 9, 1)), ["X[..., 0]", "'gray_u8_hw'"]),
        (batch((8, 9, 3)), ["(8, 9, 3)", "[image]"]),
        (batch((8, 9, 3), np.float32), ["[image]", "'rgb_f32_hwc'"]),
        (batch((8, 9)), ["Rows of numbers"]),
        (batch((8,)), ["(8,)"]),
        (batch(()), ["shape ()"]),
        (batch((2, 0, 9, 3)), ["at least one pixel"]),
        (batch((0, 8, 9, 3)), ["no images"]),
        (batch((2, 8, 9, 3), np.int64), ["int64", "No input_format"]),
        (batch((2, 8, 9, 3), object), ["object"]),
        ([], ["no images"]),
        ((), ["no images"]),
        (None, ["None"]),
        ("a.png", ["'a.png'", "[path]", "from_folder"]),
        (Path("a.png"), ["'a.png'", "[path]"]),
        (7, ["7 of type int"]),
        ({"a": 1}, ["dict"]),
        ([None], ["image 0", "None"]),
        ([b"a.png"], ["image 0", "bytes"]),
        ([batch((4, 4, 3)), batch((4, 4, 3), np.float32)], ["image 1", "'rgb_f32_hwc'"]),
        ([batch((4, 4, 3)), "a.png"], ["image 1", "'a.png'", "either paths or arrays"]),
        (["a.png", batch((4, 4, 3))], ["item 1", "(4, 4, 3)", "either paths"]),
        (["a.png", None], ["item 1", "None"]),
        ([[1, 2], [3, 4]], ["image 0", "list of length 2"]),
        (pd.DataFrame({"path": ["a.png"], "n": [1]}), ["DataFrame"]),
    ],
)
def test_everything_else_is_refused_with_the_way_out(X, parts):
    with pytest.raises(ImageFormatError) as caught:
        check_images(X)
    for part in parts:
        assert part in str(caught.value)


def test_torch_tensors_are_sent_to_the_normalizer():
    torch = pytest.importorskip("torch")
    with pytest.raises(ImageFormatError, match=r"torch\.float32.*'rgb_f32_chw'"):
        check_images(torch.zeros(2, 3, 8, 9))
    with pytest.raises(ImageFormatError, match=r"image 0 .*torch\.float32.*'rgb_f32_chw'"):
        check_images([torch.zeros(3, 8, 9)])


def test_single_path_and_no_paths_for_a_sequence():
    with pytest.raises(ImageFormatError, match=r"\[path\]"):
        ImageSequence("a.png")
    with pytest.raises(ImageFormatError, match="at least one"):
        ImageSequence([])
    with pytest.raises(ImageFormatError, match="no images"):
        check_images(ImageSequence(["a.png"])[:0])


def test_real_images(shared_data):
    images = ImageSequence.from_folder(shared_data / "data" / "screw256" / "train" / "good")
    block = next(images[:4].iter_blocks(4))
    assert [image.shape for image in block] == [(256, 256, 3)] * 4
    np.testing.assert_array_equal(block[2], images[2])


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions of POSIX")
@pytest.mark.parametrize("recursive", [False, True])
def test_what_cannot_be_opened_is_listed_and_an_error_each(tmp_path, recursive):
    folder = tmp_path / "sub"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "good.png")
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "closed.png").write_bytes(b"x")
    (folder / "closed.png").chmod(0)
    reasons = {
        "closed.png": "cannot be read|is not an image file",  # root may read it
        "dangling.png": r"is a link to .*nowhere\.png, which does not exist",
        "device.png": "is not a regular file but a device",
        "loop.png": "cannot be read .*symbolic links",
        "pipe.png": "is not a regular file but a pipe",
    }
    for pattern in (None, "*.png"):
        root = tmp_path if recursive else folder
        images = ImageSequence.from_folder(root, pattern, recursive)
        assert [Path(path).name for path in images.paths] == sorted([*reasons, "good.png"])
        for path in images.paths:
            if Path(path).name != "good.png":
                with pytest.raises(ImageReadError, match=reasons[Path(path).name]):
                    ImageSequence([path])[0]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    list_folder = os.scandir

    def scandir(path):  # root may list any folder, so permissions are no test
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ImageReadError, match="closed: this folder cannot be listed"):
        ImageSequence.from_folder(tmp_path, recursive=True)
    assert len(ImageSequence.from_folder(tmp_path)) == 1


def test_a_folder_removed_while_others_are_listed_is_none(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    (tmp_path / "a.png").touch()
    list_folder = os.scandir

    def scandir(path):
        if str(path).endswith("gone"):
            os.rmdir(path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(ImageSequence.from_folder(tmp_path, recursive=True)) == 1
