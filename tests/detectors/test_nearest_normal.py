"""nearest_normal: which good patches a place is compared with, and where they lie."""

from __future__ import annotations

import cv2
import joblib
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, ThresholdCalibrator
from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    SoftPatchDetector,
    SPADEDetector,
    nearest_normal,
)
from pyimgano.features import FilterBankFeatures
from pyimgano.reporting import nearest_normal_picture
from pyimgano.tiling import TilingTransformer

pytestmark = pytest.mark.usefixtures("metrics_kept")

FEATURES = FilterBankFeatures(resize=64)
DETECTORS = {
    "PatchCore": lambda **options: PatchCoreDetector(FEATURES, coreset_ratio=0.2, **options),
    "SoftPatch": lambda **options: SoftPatchDetector(FEATURES, coreset_ratio=0.5, **options),
    "AnomalyDINO": lambda **options: AnomalyDINODetector(FEATURES, **options),
    "SPADE": lambda **options: SPADEDetector(FEATURES, n_neighbors=7, **options),
}


@pytest.fixture(scope="module")
def images():
    rng = np.random.RandomState(0)
    parts = np.full((10, 64, 96, 3), 120.0) + rng.normal(0, 6, (10, 64, 96, 3))
    for part in parts:
        y, x = rng.randint(8, 40), rng.randint(8, 70)
        part[y : y + 16, x : x + 20] += rng.uniform(30, 90, 3)
    parts[9, 40:52, 60:76] = (250, 0, 0)
    return parts.clip(0, 255).astype(np.uint8)


def cells(detector, image):
    """Patches of an image in the bank's form, and the box of each in its pixels."""
    (grids,) = [detector.features_.transform(image[None])]
    n_rows, n_columns = grids.grid_shapes[0]
    down, across = image.shape[0] / n_rows, image.shape[1] / n_columns
    boxes = [
        tuple(round(float(v)) for v in (r * down, c * across, down, across))
        for r in range(n_rows)
        for c in range(n_columns)
    ]
    return detector._as_in_bank(grids.rows).astype(np.float64), boxes


@pytest.mark.parametrize("name", DETECTORS)
def test_matches_are_those_of_a_search_by_hand(name, images):
    train, bad = images[:9], images[9]
    detector = DETECTORS[name]().fit(train)
    found = nearest_normal(detector, images[9:], train, n_matches=4)
    assert len({one.image_index for one in found.matches}) == 4
    distances = [one.distance for one in found.matches]
    assert distances == sorted(distances)
    np.testing.assert_array_equal(found.pixels, bad)
    top, left, height, width = found.place
    assert 36 <= top + height / 2 <= 56 and 56 <= left + width / 2 <= 80  # the red square
    own_rows, own_boxes = cells(detector, bad)
    row = own_rows[own_boxes.index(found.place)]
    for one in found.matches:
        np.testing.assert_array_equal(one.pixels, train[one.image_index])
        rows, boxes = cells(detector, train[one.image_index])
        distance = np.linalg.norm(rows[boxes.index(one.place)] - row)
        expected = distance**2 / 2 if name == "AnomalyDINO" else distance
        assert one.distance == pytest.approx(expected, rel=2e-3)


def test_the_nearest_patch_gives_the_anomaly(images):
    train = images[:9]
    for name in ("PatchCore", "AnomalyDINO"):
        detector = DETECTORS[name]().fit(train)
        found = nearest_normal(detector, images[9:], n_matches=9)
        assert found.matches[0].distance == found.anomaly
        if name == "AnomalyDINO":  # all patches are in its bank: none is nearer
            rows, boxes = cells(detector, images[9])
            row = rows[boxes.index(found.place)]
            for one in found.matches:
                others, _ = cells(detector, train[one.image_index])
                least = np.linalg.norm(others - row, axis=1).min()
                assert one.distance == pytest.approx(least**2 / 2, rel=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
def test_through_pipelines_files_and_memory(name, images, tmp_path):
    paths = []
    for i, image in enumerate(images):
        paths.append(str(tmp_path / f"{i}.png"))
        cv2.imwrite(paths[-1], image[..., ::-1])
    pipe = make_pipeline(
        ImageFormatNormalizer(), ThresholdCalibrator(DETECTORS[name](), quantile=0.8)
    ).fit(paths[:9])
    expected = nearest_normal(pipe[-1].estimator_, images[9:], images[:9])
    pyimgano.save(pipe, tmp_path / "pipe.joblib")
    for saved in (pyimgano.load(tmp_path / "pipe.joblib"), joblib.load(tmp_path / "pipe.joblib")):
        # In another order, and others among them.
        found = nearest_normal(saved, paths[9], paths[::-1])
        assert (found.place, found.anomaly) == (expected.place, expected.anomaly)
        for one, other in zip(found.matches, expected.matches):
            assert (one.image_index, one.distance) == (other.image_index, other.distance)
            assert one.place == other.place
            assert one.path == paths[one.image_index]


def test_what_cannot_be_told_is_none(images):
    detector = DETECTORS["PatchCore"]().fit(images[:9])
    for training in (None, images[9:]):
        (one,) = nearest_normal(detector, images[9:], training, n_matches=1).matches
        assert one.path is one.place is one.pixels is None
    turned = DETECTORS["AnomalyDINO"](n_rotations=8).fit(images[:9])
    found = nearest_normal(turned, images[9:], images[:9], n_matches=9)
    assert len(found.matches) == 9
    places = [one.place for one in found.matches]
    assert None in places and all(one.pixels is not None for one in found.matches)


def test_a_training_image_is_explained_by_the_others(images):
    train = images[[0, 1, 2, 3, 0, 4]]
    for name in DETECTORS:
        detector = DETECTORS[name]().fit(train)
        found = nearest_normal(detector, train[4:5], train, n_matches=9)
        indices = {one.image_index for one in found.matches}
        assert indices and indices <= {1, 2, 3, 5}
        assert found.matches[0].distance > 0


def test_a_given_place(images):
    detector = DETECTORS["PatchCore"]().fit(images[:9])
    for row, column in [(0, 0), (63, 95), (33, 41)]:
        found = nearest_normal(detector, images[9:], place=(row, column))
        top, left, height, width = found.place
        assert top <= row < top + height and left <= column < left + width
        assert found.anomaly == pytest.approx(found.matches[0].distance)
    with pytest.raises(ValueError, match=r"\(64, 3\) is outside the image.* 64 x 96 pixels"):
        nearest_normal(detector, images[9:], place=(64, 3))
    region = np.zeros((64, 96), dtype=bool)
    region[:, 48:] = True
    inside = DETECTORS["PatchCore"]().fit(images[:9], roi_mask=region)
    found = nearest_normal(inside, images[9:], images[:9], place=(20, 60))
    top, left, height, width = found.place
    assert top <= 20 < top + height and left <= 60 < left + width
    assert all(one.place[1] >= 44 for one in found.matches)
    with pytest.raises(ValueError, match="region of interest leaves it out"):
        nearest_normal(inside, images[9:], place=(20, 10))


def test_tiles_are_parts_of_their_image(images):
    pipe = make_pipeline(
        TilingTransformer(tile=48, stride=32),
        PatchCoreDetector(FilterBankFeatures(resize=48), coreset_ratio=0.2),
    ).fit(images[:9])
    found = nearest_normal(pipe, images[9:], images[:9])
    top, left, height, width = found.place
    assert 36 <= top + height / 2 <= 56 and 56 <= left + width / 2 <= 80
    detector, tiles = pipe[-1], pipe[0].transform(images)
    query = next(iter(tiles[9:].iter_images()))
    rows = {}
    for i, one in [(9, query), *enumerate(tiles[:9].iter_images())]:
        for k in range(len(one)):
            y, x = one.corner(k)
            patches, boxes = cells(detector, one[k])
            for row, (a, b, h, w) in zip(patches, boxes):
                rows.setdefault((i, (y + a, x + b, h, w)), []).append(row)
    for one in found.matches:
        np.testing.assert_array_equal(one.pixels, images[one.image_index])
        # Overlapping tiles see a place with different surroundings.
        distances = [
            np.linalg.norm(a - b)
            for a in rows[9, found.place]
            for b in rows[one.image_index, one.place]
        ]
        assert np.isclose(distances, one.distance, rtol=1e-5).any()
    there = nearest_normal(pipe, images[9:], place=(63, 0)).place
    assert there[0] + there[2] == 64 and there[1] == 0


def test_a_crop_is_explained_in_pixels_of_the_image(images):
    features = pyimgano.features.BackbonePatchFeatures(
        "resnet18", weights=None, resize=(64, 96), crop=32, layers=("layer1",)
    )
    detector = PatchCoreDetector(features, coreset_ratio=0.5).fit(images[:9])
    found = nearest_normal(detector, images[9:], images[:9])
    for top, left, height, width in [found.place, *(one.place for one in found.matches)]:
        assert top >= 16 and top + height <= 48 and left >= 32 and left + width <= 64
    with pytest.raises(ValueError, match="a crop of the feature step"):
        nearest_normal(detector, images[9:], place=(2, 50))


def test_what_has_no_patches_is_refused(images):
    detector = DETECTORS["PatchCore"]().fit(images[:9])
    with pytest.raises(ValueError, match="image holds 2 samples; give one image"):
        nearest_normal(detector, images[8:])
    with pytest.raises(ValueError, match="n_matches=0"):
        nearest_normal(detector, images[9:], n_matches=0)
    with pytest.raises(TypeError, match="PaDiMDetector keeps none"):
        nearest_normal(PaDiMDetector(FEATURES).fit(images[:9]), images[9:])
    rows = np.random.RandomState(0).normal(size=(30, 3))
    with pytest.raises(TypeError, match="was fitted on rows"):
        nearest_normal(PatchCoreDetector().fit(rows), rows[:1])


@pytest.mark.parametrize("shape", [(32, 32), (40, 400), (400, 40), (500, 700)])
def test_picture_of_any_size(shape):
    rng = np.random.RandomState(1)
    train = rng.randint(90, 110, size=(5, *shape, 3)).astype(np.uint8)
    train[:, ::7] = 200
    detector = PatchCoreDetector(FilterBankFeatures(resize=32)).fit(train[:4])
    for given in (train, train[:2], None):
        picture = nearest_normal_picture(nearest_normal(detector, train[4:], given))
        assert picture.dtype == np.uint8 and picture.shape == (506, 4 * 200 + 3 * 12 + 20, 3)
