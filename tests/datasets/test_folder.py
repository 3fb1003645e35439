"""Datasets in folders: both layouts, and every way to get them wrong."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from pyimgano.datasets import list_categories, load_folder, read_mask
from pyimgano.exceptions import DatasetError, ImageReadError
from pyimgano.inputs import ImageSequence

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()


def fill(root, *names, content=PNG):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def mvtec(root):
    return fill(
        root,
        "train/good/000.png",
        "train/good/001.png",
        "test/good/000.png",
        "test/scratch/000.png",
        "test/scratch/001.png",
        "test/dent/000.png",
        "ground_truth/scratch/000_mask.png",
        "ground_truth/scratch/001_mask.png",
        "ground_truth/dent/000.png",
    )


def plain(root):
    return fill(root, "train/normal/a.png", "test/normal/b.png", "test/anomaly/c.png")


def relative(root, paths):
    return [str(path)[len(str(root)) + 1 :].replace("\\", "/") for path in paths]


def test_mvtec_layout(tmp_path):
    root = mvtec(tmp_path / "part")
    parts = load_folder(root)
    assert isinstance(parts.X_train, ImageSequence) and isinstance(parts.X_test, ImageSequence)
    assert relative(root, parts.X_train.paths) == ["train/good/000.png", "train/good/001.png"]
    assert relative(root, parts.X_test.paths) == [
        "test/good/000.png",
        "test/dent/000.png",
        "test/scratch/000.png",
        "test/scratch/001.png",
    ]
    assert parts.y_train.tolist() == [1, 1] and parts.y_test.tolist() == [1, -1, -1, -1]
    assert parts.kinds_test == ["good", "dent", "scratch", "scratch"]
    assert parts.masks_test[0] == 0
    assert relative(root, parts.masks_test[1:]) == [
        "ground_truth/dent/000.png",
        "ground_truth/scratch/000_mask.png",
        "ground_truth/scratch/001_mask.png",
    ]
    assert parts.missing_masks == []
    assert parts.target_names == ["good", "dent", "scratch"]
    assert parts.data.paths == parts.X_train.paths + parts.X_test.paths
    assert parts.target.tolist() == [1, 1, 1, -1, -1, -1]
    assert parts.masks == [0, 0, *parts.masks_test]
    assert parts.split.tolist() == ["train"] * 2 + ["test"] * 4
    assert parts.category == "part" and "MVTec" in parts.DESCR
    assert np.array_equal(parts.X_test[0], PIXELS[..., ::-1])


def test_normal_anomaly_layout(tmp_path):
    parts = load_folder(plain(tmp_path / "part"))
    assert parts.kinds_test == ["good", "anomaly"]
    assert parts.y_test.tolist() == [1, -1]
    assert parts.target_names == ["good", "anomaly"]
    assert parts.masks_test == [0, None]
    assert parts.missing_masks == [str(tmp_path / "part" / "test" / "anomaly" / "c.png")]
    assert "1 defective images have no mask" in parts.DESCR

    fill(tmp_path / "part", "ground_truth/anomaly/c.png")
    parts = load_folder(tmp_path / "part")
    assert parts.masks_test == [0, str(tmp_path / "part" / "ground_truth" / "anomaly" / "c.png")]
    assert parts.missing_masks == []


def test_a_missing_mask_is_listed_and_not_taken_for_an_empty_one(tmp_path):
    root = mvtec(tmp_path)
    (root / "ground_truth" / "scratch" / "000_mask.png").unlink()
    parts = load_folder(root)
    assert parts.masks_test[2] is None and parts.masks_test[3] is not None
    assert parts.missing_masks == [str(root / "test" / "scratch" / "000.png")]
    with pytest.raises(DatasetError, match="missing_masks"):
        read_mask(parts.masks_test[2], (4, 6))


def test_nothing_is_decoded(tmp_path):
    root = mvtec(tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image at all")
    assert len(load_folder(root).data) == 6


def test_natural_order_and_suffixes(tmp_path):
    root = mvtec(tmp_path)
    fill(root, "train/good/10.PNG", "train/good/9.JPG", "train/good/b2.tiff", "train/good/b10.bmp")
    fill(root, "train/good/Thumbs.db", "train/good/.DS_Store", "train/good/notes.txt")
    fill(root, "train/good/._9.JPG", ".git/x/y.png", "test/notes.txt", "license.txt")
    found = relative(root / "train" / "good", load_folder(root).X_train.paths)
    assert found == ["000.png", "001.png", "9.JPG", "10.PNG", "b2.tiff", "b10.bmp"]


def test_a_category_inside_a_folder(tmp_path):
    mvtec(tmp_path / "screw10")
    plain(tmp_path / "screw9")
    fill(tmp_path, "readme/notes.txt", "license.txt")
    assert list_categories(tmp_path) == ["screw9", "screw10"]
    assert list_categories(str(tmp_path)) == ["screw9", "screw10"]
    assert load_folder(tmp_path, "screw10").category == "screw10"
    assert load_folder(str(tmp_path), category="screw9").category == "screw9"
    with pytest.raises(DatasetError, match=r"no folder 'nut'.*screw9, screw10"):
        load_folder(tmp_path, "nut")


def test_an_unused_folder_is_mentioned(tmp_path):
    root = fill(mvtec(tmp_path), "validation/good/000.png")
    assert "not used: validation" in load_folder(root).DESCR


def expect(root, *messages):
    with pytest.raises(DatasetError) as caught:
        load_folder(root)
    for message in messages:
        assert message in str(caught.value)


def test_folder_above_the_category(tmp_path):
    mvtec(tmp_path / "bottle")
    mvtec(tmp_path / "screw")
    expect(tmp_path, "several categories", "category='bottle'", "bottle, screw")


@pytest.mark.parametrize("inside", ["train", "test", "train/good", "test/scratch"])
def test_folder_inside_the_category(tmp_path, inside):
    root = mvtec(tmp_path / "part")
    expect(root / inside, "Give the folder above it", str(root.resolve()))


def test_root_is_missing_or_a_file_or_empty(tmp_path):
    expect(tmp_path / "nowhere", "does not exist")
    expect(fill(tmp_path, "a.png") / "a.png", "is a file")
    (tmp_path / "empty").mkdir()
    expect(tmp_path / "empty", "found nothing", "Missing: train and test", "train/good")


def test_images_straight_in_the_root(tmp_path):
    expect(fill(tmp_path, "a.png", "b.png", "c.jpg"), "1 file (.jpg), 2 files (.png)", "Missing")


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("train", "Train", ("Rename 'Train' to 'train'", "case-sensitive")),
        ("train/good", "train/Good", ("Rename 'Good' to 'good'", "case-sensitive")),
        ("test/good", "test/GOOD", ("Rename 'GOOD' to 'good'", "case-sensitive")),
        ("test/good", "test/normal", ("Both 'good' and 'normal' occur",)),
        ("train/good", "train/normal", ("Both 'good' and 'normal' occur",)),
        ("train/good", "train/ok", ("train/good or train/normal", "ok/")),
        ("test", "testing", ("Missing: test", "testing/")),
        ("test/dent", "train/dent", ("move dent from train to test",)),
        ("test/dent", "elsewhere", ("ground_truth", "there is no folder test/dent")),
        ("ground_truth/dent", "ground_truth/good", ("good images have no masks",)),
    ],
)
def test_folder_names_that_fit_no_layout(tmp_path, old, new, messages):
    root = mvtec(tmp_path / "part")
    (root / old).rename(root / "aside")  # in two steps: some file systems ignore case
    (root / "aside").rename(root / new)
    expect(root, *messages)


def test_normal_anomaly_layout_with_other_test_folders(tmp_path):
    root = fill(plain(tmp_path), "test/dent/d.png")
    expect(root, "test must hold normal and anomaly", "dent/", "rename both 'normal'")


@pytest.mark.parametrize("place", ["test", "test/unknown", "test/unlabeled"])
@pytest.mark.parametrize("good", ["good", "normal"])
def test_test_images_without_labels_are_no_kind_of_defect(tmp_path, place, good):
    root = fill(tmp_path, f"train/{good}/a.png", f"{place}/b.png", f"{place}/c.png")
    parts = load_folder(root)
    assert relative(root, parts.X_test.paths) == [f"{place}/b.png", f"{place}/c.png"]
    assert parts.y_test.tolist() == [0, 0] and parts.kinds_test == ["unknown"] * 2
    assert parts.masks_test == [None, None] and parts.missing_masks == []
    assert parts.target_names == ["good"]
    assert "test: 2 unknown" in parts.DESCR


def test_images_beside_the_folders_of_kinds_have_no_label(tmp_path):
    root = fill(mvtec(tmp_path), "test/x.png", "test/notes.txt")
    parts = load_folder(root)
    assert parts.y_test.tolist() == [1, -1, -1, -1, 0]
    assert relative(root, parts.X_test.paths)[-1] == "test/x.png"
    fill(root, "test/y.heif")
    expect(root, "y.heif", "cannot be read")


def test_a_test_folder_that_holds_nothing(tmp_path):
    root = fill(tmp_path, "train/good/a.png", "test/notes.txt")
    expect(root, "one folder per kind", "or images without labels", "1 file (.txt)")


def test_no_images(tmp_path):
    root = fill(tmp_path, "train/good/notes.txt", "test/good/a.png")
    expect(root, "no images for the training set", "1 file (.txt)", ".png")
    fill(root, "train/good/a.png")
    (root / "test" / "dent").mkdir()
    expect(root, "no images for the test images 'dent'", "found nothing")


def test_images_that_cannot_be_read_are_not_left_out_in_silence(tmp_path):
    root = fill(mvtec(tmp_path), "train/good/002.pgm")
    assert len(load_folder(root).X_train) == 3
    fill(root, "train/good/003.heif")
    expect(root, "003.heif", "cannot be read", ".png")


def test_folders_between_the_images(tmp_path):
    root = fill(mvtec(tmp_path), "test/scratch/line2/a.png")
    expect(root, "line2", "Move the images up")


def test_mask_without_image(tmp_path):
    root = fill(mvtec(tmp_path), "ground_truth/scratch/007_mask.png")
    expect(root, "007_mask.png", "a mask without an image", "000.png")


def test_two_masks_for_an_image(tmp_path):
    root = fill(mvtec(tmp_path), "ground_truth/scratch/000.png")
    expect(root, "several masks", "000_mask.png")


def test_two_images_for_a_mask(tmp_path):
    root = fill(mvtec(tmp_path), "test/scratch/000.bmp")
    expect(root, "is the mask of both", "000.bmp")


def test_list_categories_without_any(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        list_categories(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no folder in it is a category"):
        list_categories(tmp_path)
    with pytest.raises(DatasetError, match="It is a category itself: give the folder above"):
        list_categories(mvtec(tmp_path / "part"))


# ------------------------------------------------------------------------------- masks


def write(path, pixels):
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def test_every_pixel_that_is_not_black_is_defective(tmp_path):
    expected = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    gray = write(tmp_path / "gray.png", np.array([[0, 1, 255], [0, 0, 7]], np.uint8))
    deep = write(tmp_path / "deep.png", np.array([[0, 1, 65535], [0, 0, 256]], np.uint16))
    color = np.zeros((2, 3, 3), np.uint8)
    color[0, 1], color[0, 2], color[1, 2] = (0, 0, 9), (255, 255, 255), (1, 0, 0)
    opaque = np.dstack([color, np.full((2, 3), 255, np.uint8)])
    for path in (
        gray,
        deep,
        write(tmp_path / "color.png", color),
        write(tmp_path / "opaque.png", opaque),
    ):
        for item in (path, str(path)):
            mask = read_mask(item, (2, 3))
            assert mask.dtype == np.uint8 and np.array_equal(mask, expected)
    assert np.array_equal(read_mask(np.array([[0, 255]], np.uint8)), [[0, 1]])
    assert np.array_equal(read_mask(0, (2, 3)), np.zeros((2, 3)))


def test_masks_that_do_not_fit_or_cannot_be_read(tmp_path):
    path = write(tmp_path / "mask.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"mask\.png has shape \(2, 3\).*\(3, 2\)"):
        read_mask(path, (3, 2))
    with pytest.raises(DatasetError, match="shape"):
        read_mask(np.zeros((2, 3), np.uint8), (3, 2))
    with pytest.raises(ImageReadError, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png")
    path.write_bytes(b"junk")
    with pytest.raises(ImageReadError, match=r"mask\.png: is not an image file"):
        read_mask(path)
    with pytest.raises(ValueError, match="size="):
        read_mask(0)
    with pytest.raises(TypeError, match="path, an array, 0 or None"):
        read_mask(3, (2, 2))


def square():
    """A mask of 64 x 48 pixels, 14 x 14 of them defective."""
    pixels = np.zeros((64, 48), np.uint8)
    pixels[21:35, 23:37] = 255
    return pixels


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask.jpg", {"quality": 30}),
        ("mask.webp", {"quality": 50}),
        ("mask.tif", {"compression": "jpeg"}),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_masks_do_not_grow_by_lossy_compression(tmp_path, name, options, mode):
    Image.fromarray(square()).convert(mode).save(tmp_path / name, **options)
    stored = np.asarray(Image.open(tmp_path / name).convert("RGB")).max(axis=2)
    assert np.count_nonzero(stored) > 14 * 14
    assert np.array_equal(read_mask(tmp_path / name, (64, 48)), square() > 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask.webp", {"lossless": True}),
        ("mask.webp", {"lossless": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
        ("mask.tif", {"compression": "tiff_lzw"}),
        ("mask.bmp", {}),
    ],
)
def test_faint_pixels_count_where_nothing_is_lost(tmp_path, name, options):
    Image.fromarray(square() // 255).convert("RGB").save(tmp_path / name, **options)
    assert np.array_equal(read_mask(tmp_path / name, (64, 48)), square() > 0)


def test_a_palette_is_read_by_its_colors(tmp_path):
    path = tmp_path / "mask.png"
    image = Image.fromarray(np.array([[0, 1, 1], [1, 2, 1]], np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 90])
    image.save(path)
    assert np.array_equal(read_mask(path, (2, 3)), [[1, 0, 0], [0, 1, 0]])
    image.putpalette([255, 255, 255, 255, 0, 0, 0, 0, 90])  # a white background
    image.save(path)
    with pytest.raises(DatasetError, match="every pixel counts as defective"):
        read_mask(path, (2, 3))


def test_a_mask_is_turned_like_its_image(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("image.png", "mask.png"):
        Image.fromarray(square()).save(tmp_path / name, exif=exif)
    (image,) = ImageSequence([tmp_path / "image.png"])
    mask = read_mask(tmp_path / "mask.png", image.shape[:2])
    assert mask.shape == (48, 64)
    assert np.array_equal(mask, image[..., 0] > 0)


def test_masks_that_are_not_clear_are_errors(tmp_path):
    path = tmp_path / "mask.png"
    cut_out = np.dstack([np.full((64, 48, 3), 255, np.uint8), square()])
    Image.fromarray(cut_out).save(path)
    with pytest.raises(ImageReadError, match=r"mask\.png: has transparent pixels"):
        read_mask(path)
    pages = tmp_path / "mask.tif"
    page = Image.fromarray(square())
    page.save(pages, save_all=True, append_images=[page])
    with pytest.raises(ImageReadError, match=r"mask\.tif: holds 2 pages"):
        read_mask(pages)
    Image.fromarray(square()).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageReadError, match=r"mask\.png: is truncated"):
        read_mask(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask.png", 0, "every pixel counts as good; defective are those that are not black"),
        ("mask.png", 255, "every pixel counts as defective; defective are those that are not"),
        ("mask.jpg", 100, "every pixel counts as good; defective are those above 127"),
        ("mask.jpg", 255, "every pixel counts as defective; defective are those above 127"),
    ],
)
def test_a_mask_of_nothing_or_everything_is_an_error(tmp_path, name, value, message):
    Image.fromarray(np.full((64, 48), value, np.uint8)).save(tmp_path / name)
    expected = rf"mask\.\w+: {message}.*must be white on the defect and black elsewhere"
    with pytest.raises(DatasetError, match=expected):
        read_mask(tmp_path / name, (64, 48))


# --------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("category", "n_train", "n_good", "n_defect", "n_kinds"),
    [("bottle256", 209, 20, 63, 3), ("screw256", 320, 41, 119, 5)],
)
def test_real_folders(shared_data, category, n_train, n_good, n_defect, n_kinds):
    assert category in list_categories(shared_data / "data")
    parts = load_folder(shared_data / "data", category)
    assert len(parts.X_train) == n_train
    assert np.sum(parts.y_test == 1) == n_good and np.sum(parts.y_test == -1) == n_defect
    assert len(parts.target_names) == 1 + n_kinds
    assert parts.missing_masks == []
    masks = [mask for mask in parts.masks_test if mask != 0]
    assert len(masks) == len(set(masks)) == n_defect
    worst = int(np.flatnonzero(parts.y_test == -1)[-1])
    image = parts.X_test[worst]
    mask = read_mask(parts.masks_test[worst], image.shape[:2])
    assert 0 < mask.mean() < 0.5
