"""Containers of paths and images, the index of a table, and stale caches."""

from __future__ import annotations

import os
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import Pipeline, make_pipeline

from pyimgano import ThresholdCalibrator
from pyimgano.detectors import PixelGaussianDetector
from pyimgano.exceptions import ImageFormatError
from pyimgano.features import ColorMoments, FilterBankFeatures, PatchPooling
from pyimgano.inference import infer
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence, check_images
from pyimgano.tiling import TilingTransformer


@pytest.fixture
def paths(tmp_path):
    """Twelve noisy files, each brighter than the one before."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 50, (12, 32, 32, 3))
    for i, pixels in enumerate(noise):
        Image.fromarray((pixels + 15 * i).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return sorted(str(path) for path in folder.iterdir())


def alone():
    return PixelGaussianDetector()


def after_a_step():
    return make_pipeline(ImageFormatNormalizer(), PixelGaussianDetector())


CONTAINERS = {
    "column": lambda paths: pd.Series(paths, index=range(5, 17)),
    "column of objects": lambda paths: pd.Series(paths, dtype=object),
    "column of strings": lambda paths: pd.Series(paths, dtype="string"),
    "index": pd.Index,
    "categories": pd.Categorical,
    "table of one column": lambda paths: pd.DataFrame({"path": paths}),
    "entries of a folder": lambda paths: sorted(
        os.scandir(Path(paths[0]).parent), key=lambda entry: entry.name
    ),
    "array of one column": lambda paths: np.array(paths)[:, None],
    "objects of one column": lambda paths: np.array(paths, dtype=object)[:, None],
    "values of a dict": lambda paths: dict(enumerate(paths)).values(),
    "keys of a dict": lambda paths: dict.fromkeys(paths).keys(),
}


@pytest.mark.parametrize("make", [alone, after_a_step])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_paths_in_what_people_keep_them_in(paths, kind, make):
    X = CONTAINERS[kind](paths)
    expected = make().fit(paths).score_samples(paths)
    model = make().fit(X)
    np.testing.assert_array_equal(model.score_samples(X), expected)
    Path(paths[3]).write_bytes(b"broken")
    results = infer(model, X, on_error="record")
    assert [result.path for result in results] == paths
    assert [result.index for result in results if result.error] == [3]


@pytest.mark.parametrize("make", [alone, after_a_step])
@pytest.mark.parametrize(
    ("container", "parts"),
    [
        (lambda paths: (path for path in paths), ["generator", "X = list(...)"]),
        (lambda paths: map(str, paths), ["map", "X = list(...)"]),
        (lambda paths: Path(paths[0]).parent.glob("*.png"), ["X = sorted(...)"]),
        (set, ["no order", "X = sorted(...)"]),
        (lambda paths: {"a": paths[0]}, ["dict", "list(X.values())"]),
        (lambda paths: Image.open(paths[0]), ["a PIL image of mode RGB", "[image]"]),
        (lambda paths: [], ["no images"]),
        (lambda paths: np.array([], dtype=object), ["no images"]),
        (lambda paths: paths[0], ["[path]"]),
    ],
)
def test_what_is_no_sequence_of_images_says_the_way_out(paths, container, parts, make):
    with pytest.raises(ImageFormatError) as caught:
        make().fit(container(paths))
    for part in parts:
        assert part in str(caught.value)


def test_pil_images_say_their_own_layout(paths):
    rgb = Image.open(paths[4])
    gray = rgb.convert("L")
    turned = rgb.copy()
    turned.getexif()[274] = 6  # to be turned clockwise
    pixels = np.asarray(rgb)
    for images in (
        check_images([rgb, gray, turned]),
        ImageFormatNormalizer("bgr_u8_hwc").transform([rgb, gray, turned]),
    ):
        np.testing.assert_array_equal(images[0], pixels)
        np.testing.assert_array_equal(images[1], np.dstack([np.asarray(gray)] * 3))
        np.testing.assert_array_equal(images[2], np.rot90(pixels, -1))
    deep = Image.fromarray(np.full((4, 5), 4095, np.uint16))
    (white,) = ImageFormatNormalizer(u16_max=4095).transform([deep])
    assert white.shape == (4, 5, 3) and white.min() == 255
    with pytest.raises(ImageFormatError, match=r"image 0 .*I;16.*ImageFormatNormalizer\(u16_max"):
        check_images([deep])
    with pytest.raises(ImageFormatError, match=r"image 1 .*transparent pixels"):
        check_images([rgb, Image.new("RGBA", (4, 4))])
    with pytest.raises(ImageFormatError, match=r"mode CMYK.*Convert it to RGB"):
        check_images([Image.new("CMYK", (4, 4))])


# A table's index


@pytest.mark.parametrize("column", ["path", ["path"], "image"])
@pytest.mark.parametrize(
    "steps",
    [
        [ColorMoments()],
        [ImageFormatNormalizer(), ColorMoments()],
        [FilterBankFeatures(n_components=4, resize=32), PatchPooling("mean")],
        [
            ImageFormatNormalizer(),
            FilterBankFeatures(n_components=4, resize=32),
            PatchPooling("mean"),
        ],
        [ImageFormatNormalizer(resize=16), PixelGaussianDetector()],
        [PixelGaussianDetector()],
        [TilingTransformer(tile=16), PixelGaussianDetector()],
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)
def test_rows_of_a_shuffled_table_stay_with_their_images(paths, steps, column):
    table = pd.DataFrame({"path": paths, "at": range(12)})
    table["image"] = pd.Series([np.asarray(Image.open(path)) for path in paths], dtype=object)
    table = table.sample(frac=1, random_state=0)
    columns = [("of_image", make_pipeline(*steps), column), ("at", "passthrough", ["at"])]
    plain = ColumnTransformer(columns).fit_transform(table)
    framed = ColumnTransformer(columns).set_output(transform="pandas").fit_transform(table)
    assert framed.index.equals(table.index)
    np.testing.assert_array_equal(framed.to_numpy(), plain)
    half = ColumnTransformer(columns).set_output(transform="pandas").fit(table)
    assert half.transform(table[6:]).index.equals(table.index[6:])


def test_parts_of_images_and_grids_keep_their_part_of_the_index(paths):
    column = pd.Series(paths, index=[f"part {i}" for i in range(12)])
    images = check_images(column)
    assert list(images[[3, 1]].index) == ["part 3", "part 1"]
    grids = FilterBankFeatures(n_components=4, resize=32).fit(column).transform(images[2:8])
    assert list(grids[1:3].index) == ["part 3", "part 4"]
    mask = np.zeros((32, 32), bool)
    mask[:, 16:] = True
    assert list(grids[[5]].within(mask).without_features().index) == ["part 7"]
    assert list(grids.concatenate([grids[:1], grids[2:3]]).index) == ["part 2", "part 4"]


# Caches


def overwrite(path):
    pixels = np.random.default_rng(9).integers(0, 256, (32, 32, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    "step",
    [
        ColorMoments(),
        FilterBankFeatures(n_components=4, resize=32),
        TilingTransformer(tile=16),
        make_pipeline(ImageFormatNormalizer(), ColorMoments()),
    ],
)
def test_a_cached_step_does_not_take_bare_paths(paths, tmp_path, step):
    pipe = Pipeline([("a", step), ("b", "passthrough")], memory=str(tmp_path / "cache"))
    for X in (paths, tuple(paths), np.array(paths), pd.Series(paths)):
        with pytest.raises(ImageFormatError, match=r"changed file. Pass ImageSequence\(paths\)"):
            pipe.fit(X)
    pipe.set_params(memory=None).fit(paths)


@pytest.mark.parametrize("first", [[], [("convert", ImageFormatNormalizer())]])
def test_a_cached_pipeline_notices_a_changed_file(paths, tmp_path, first):
    steps = [*first, ("rows", ColorMoments()), ("forest", IsolationForest(random_state=0))]
    pipe = Pipeline(steps, memory=str(tmp_path / "cache"))
    X = paths if first else ImageSequence(paths)
    pipe.fit(X)
    overwrite(paths[3])
    cached = pipe.fit(X).score_samples(X)
    np.testing.assert_array_equal(cached, pipe.set_params(memory=None).fit(X).score_samples(X))


@pytest.mark.parametrize("kind", ["column", "index", "table of one column", "values of a dict"])
def test_a_cached_calibration_notices_a_changed_file(paths, tmp_path, kind):
    X = CONTAINERS[kind](paths)
    calibrator = ThresholdCalibrator(
        PixelGaussianDetector(), quantile=0.5, memory=str(tmp_path / "cache")
    )
    before = calibrator.fit(X).calibration_scores_
    overwrite(paths[3])
    after = calibrator.fit(X).calibration_scores_
    assert before[3] != after[3]
    calibrator.set_params(memory=None).fit(X)
    np.testing.assert_array_equal(calibrator.calibration_scores_, after)


def test_a_cache_of_the_users_own_does_not_take_bare_paths(paths, tmp_path):
    first_pixel = joblib.Memory(tmp_path / "cache", verbose=0).cache(lambda X: check_images(X)[0])
    with pytest.raises(ImageFormatError, match="changed file"):
        first_pixel(paths)
    assert first_pixel(ImageSequence(paths)).shape == (32, 32, 3)


def test_masked_images_say_what_to_do_with_the_mask():
    masked = np.ma.masked_less(np.zeros((3, 8, 8, 3), np.uint8), 1)
    for call in (check_images, ImageFormatNormalizer().transform):
        for X in (masked, list(masked)):
            with pytest.raises(ImageFormatError, match=r"a masked array .*x\.filled\(0\)"):
                call(X)


def test_the_advice_for_channels_first_runs_on_what_came():
    torch = pytest.importorskip("torch")
    with pytest.raises(ImageFormatError, match=r"X\.permute\(0, 2, 3, 1\)\.cpu\(\)\.numpy\(\)"):
        check_images(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))
    with pytest.raises(ImageFormatError, match=r"image\.permute\(1, 2, 0\)\.cpu\(\)\.numpy\(\)"):
        check_images([torch.zeros(3, 8, 9, dtype=torch.uint8)])
    with pytest.raises(ImageFormatError, match=r"X\.transpose\(0, 2, 3, 1\)"):
        check_images(np.zeros((2, 3, 8, 9), np.uint8))
