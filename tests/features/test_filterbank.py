"""The weight-free features: hand-worked responses, geometry, what is learned, and errors."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from pyimgano.features import FilterBankFeatures, make_features
from pyimgano.features._filterbank import _DESCRIPTOR, _describe, _learn_metric
from pyimgano.grids import PatchGrids

# Layout of a descriptor: windows, then 3 colors and octave x channel x response.
N_WINDOWS = 3
N_PER_WINDOW = _DESCRIPTOR // N_WINDOWS
WIDEST = 40  # pixels


def textured(n, height=64, width=64, seed=0):
    """Images of smooth blobs, every one different."""
    rng = np.random.RandomState(seed)
    noise = rng.normal(size=(n, height, width, 3))
    smooth = [cv2.GaussianBlur(image, (0, 0), 3) for image in noise]
    return np.stack([np.clip(128 + 300 * image, 0, 255) for image in smooth]).astype(np.uint8)


def responses(image):
    """Color means (window, 3) and squared pooled responses of the patch in the middle."""
    grid = _describe(image)
    patch = grid[grid.shape[0] // 2, grid.shape[1] // 2].reshape(N_WINDOWS, N_PER_WINDOW)
    return patch[:, :3], patch[:, 3:].reshape(N_WINDOWS, 3, 3, 16) ** 2


def lightness(gray):
    pixel = np.full((1, 1, 3), gray / 255, dtype=np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_RGB2Lab)[0, 0, 0]


def vertical_edge(dark=60, bright=180, size=128):
    image = np.full((size, size, 3), dark, dtype=np.uint8)
    image[:, size // 2 + 4 :] = bright  # through the middle of a patch
    return image


@pytest.fixture(scope="module")
def good():
    return textured(6)


@pytest.fixture(scope="module")
def step(good):
    return FilterBankFeatures(resize=64, n_components=24).fit(good)


# -- the filters ---------------------------------------------------------------------------


def test_vertical_edge_answers_in_its_direction_at_every_octave():
    _, pooled = responses(vertical_edge())
    height = lightness(180) - lightness(60)
    for octave in range(3):
        toward_right = pooled[2, octave, 0, 0]
        # The differences along a row add up to the height of the edge, whatever the blur.
        # The cubes leave out the flanks, where second derivatives take their share.
        whole = height * 2**octave / WIDEST
        assert 0.6 * whole < toward_right < whole
        odd = pooled[2, octave, 0, :8]
        assert odd.argmax() == 0
        assert odd[4] < 1e-4 * whole and odd[2] < 1e-4 * whole  # to the left, downward
        # cos(45 degrees) cubed, in the two neighboring directions
        np.testing.assert_allclose(odd[[1, 7]] / toward_right, 0.5**1.5, rtol=1e-3)
    # Gray: nothing in the two chroma channels.
    assert pooled[:, :, 1:].max() < 0.02


@pytest.mark.parametrize(
    ("turns", "direction"),
    [(0, 0), (1, 6), (2, 4), (3, 2)],  # np.rot90 turns counterclockwise; y points down
)
def test_direction_follows_the_edge(turns, direction):
    _, pooled = responses(np.rot90(vertical_edge(), turns).copy())
    for octave in range(3):
        assert pooled[2, octave, 0, :8].argmax() == direction


def test_reversed_edge_and_stronger_edge():
    _, pooled = responses(vertical_edge())
    _, reverse = responses(vertical_edge(dark=180, bright=60))
    np.testing.assert_allclose(reverse[2, 0, 0, 4], pooled[2, 0, 0, 0], rtol=1e-4)
    _, faint = responses(vertical_edge(dark=118, bright=122))
    ratio = (lightness(122) - lightness(118)) / (lightness(180) - lightness(60))
    np.testing.assert_allclose(faint[2, 0, 0, 0] / pooled[2, 0, 0, 0], ratio, rtol=0.01)


def test_lines_excite_the_second_derivatives():
    dark = np.full((128, 128, 3), 180, dtype=np.uint8)
    dark[:, 67:69] = 60
    _, pooled = responses(dark)
    even = pooled[2, 0, 0, 8:].reshape(2, 4)  # dark and bright lines, across 0 45 90 135
    assert even.argmax() == 0  # dark, gray values bend across x
    assert even[0, 0] > 1.5 * even[1, 0]  # its flanks bend the other way, but less
    assert even[:, 2].max() < 0.02 * even[0, 0]  # nothing along the line
    _, pooled = responses(255 - dark)
    assert pooled[2, 0, 0, 8:].reshape(2, 4).argmax() == 4
    # A line has two edges, alike.
    np.testing.assert_allclose(pooled[2, 0, 0, 0], pooled[2, 0, 0, 4], rtol=1e-3)


def test_color_edge_without_lightness_is_seen():
    image = np.full((128, 128, 3), (150, 100, 100), dtype=np.uint8)
    image[:, 68:] = (100, 118, 150)
    _, pooled = responses(image)
    assert pooled[2, 0, 2, 4] > 10 * pooled[2, 0, 0, :8].max()  # b falls: to the left


def test_constant_image_has_color_and_nothing_else():
    color = (200, 30, 90)
    means, pooled = responses(np.full((64, 64, 3), color, dtype=np.uint8))
    lab = cv2.cvtColor(np.full((1, 1, 3), color, np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
    np.testing.assert_allclose(means, np.tile(0.1 * lab[0, 0], (3, 1)), rtol=1e-4)
    assert pooled.max() < 1e-6
    grid = _describe(np.full((64, 64, 3), color, dtype=np.uint8))
    np.testing.assert_allclose(grid, np.broadcast_to(grid[0, 0], grid.shape), atol=1e-4)


def test_mirroring_and_turning_an_image_only_permutes_its_descriptors():
    image = textured(1, 96, 64)[0]
    grid = _describe(image).reshape(12, 8, N_WINDOWS, N_PER_WINDOW)
    mirrored = _describe(image[:, ::-1].copy()).reshape(12, 8, N_WINDOWS, N_PER_WINDOW)[:, ::-1]
    turned = _describe(image[::-1, ::-1].copy()).reshape(12, 8, N_WINDOWS, N_PER_WINDOW)
    turned = turned[::-1, ::-1]
    mirror = [4, 3, 2, 1, 0, 7, 6, 5, 8, 11, 10, 9, 12, 15, 14, 13]
    half_turn = [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15]
    for moved, order in ((mirrored, mirror), (turned, half_turn)):
        np.testing.assert_allclose(moved[..., :3], grid[..., :3], atol=1e-3)
        a = moved[..., 3:].reshape(-1, 16)
        b = grid[..., 3:].reshape(-1, 16)[:, order]
        np.testing.assert_allclose(a, b, atol=2e-3)


# -- geometry ------------------------------------------------------------------------------


def test_grid_covers_the_whole_image_with_a_patch_every_8_pixels(good):
    step = FilterBankFeatures(resize=(64, 96), n_components=5).fit(good)
    grids = step.transform([textured(1, 50, 70)[0], textured(1, 128, 192)[0]])
    assert isinstance(grids, PatchGrids)
    assert grids.features.shape == (2, 8, 12, 5)
    assert grids.rows.dtype == np.float32
    np.testing.assert_array_equal(grids.image_sizes, [(50, 70), (128, 192)])
    np.testing.assert_array_equal(grids.work_sizes, [(64, 96)] * 2)
    np.testing.assert_array_equal(grids.boxes, [(0, 0, 50, 70), (0, 0, 128, 192)])


def test_patches_lie_where_the_pixels_are(step):
    plain = np.full((64, 64, 3), 128, dtype=np.uint8)
    dotted = plain.copy()
    dotted[32:40, 48:56] = 30  # row 4, column 6 of the grid
    difference = step.transform([dotted]).features - step.transform([plain]).features
    strength = np.linalg.norm(difference[0], axis=2)
    assert np.unravel_index(strength.argmax(), strength.shape) == (4, 6)
    np.testing.assert_allclose(strength[0, :2], 0, atol=1e-3)


def test_own_size_of_each_image():
    images = [textured(1, 40, 64)[0], textured(1, 67, 45)[0], textured(1, 9, 100)[0]]
    step = FilterBankFeatures(resize=None, n_components=7).fit(images)
    grids = step.transform(images)
    np.testing.assert_array_equal(grids.work_sizes, [(40, 64), (64, 48), (32, 104)])
    np.testing.assert_array_equal(grids.grid_shapes, [(5, 8), (8, 6), (4, 13)])
    np.testing.assert_array_equal(grids.image_sizes, [(40, 64), (67, 45), (9, 100)])
    one = step.transform(images[1:2])
    np.testing.assert_array_equal(one.rows, grids[1].rows)


# -- what is learned -----------------------------------------------------------------------


def test_metric_ignores_what_like_patches_differ_in():
    # Two kinds of patches, 4 apart in the first column. Like patches differ by 3 in the
    # second column and by 0.1 in the first.
    rng = np.random.RandomState(0)
    n = 2000
    kind = rng.randint(2, size=n)
    rows = np.column_stack([20 * kind + rng.normal(size=n), rng.normal(size=n), np.zeros(n)])
    rows[:, 0] *= 0.2
    rows[:, 1] *= 0.3
    owner = np.arange(n) // 100
    mean, projection = _learn_metric(rows.astype(np.float32), owner, 2)
    assert mean.shape == (3,) and projection.shape == (3, 2)
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=1e-4)
    assert np.abs(projection[0]).max() > 10 * np.abs(projection[2]).max()
    assert abs(projection[0, 0]) > abs(projection[1, 0])  # the kinds come first


def test_lighting_that_varies_among_good_images_counts_less():
    base = textured(1, 64, 64, seed=3)[0].astype(np.float32)
    gains = np.linspace(0.7, 1.2, 8)
    steady = [
        np.clip(base + n, 0, 255) for n in np.random.RandomState(0).normal(0, 2, (8, 64, 64, 1))
    ]
    varied = [image * gain for image, gain in zip(steady, gains)]
    test = [base * 0.8, base * 1.1]

    def distance(train):
        train = [np.clip(image, 0, 255).astype(np.uint8) for image in train]
        step = FilterBankFeatures(resize=64, n_components=16).fit(train)
        dark, bright = step.transform([np.clip(t, 0, 255).astype(np.uint8) for t in test]).features
        return np.linalg.norm(dark - bright, axis=2).mean()

    assert distance(varied) < 0.6 * distance(steady)


def test_fit_is_repeatable_and_leaves_the_global_generator_alone(good):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a = FilterBankFeatures(resize=64, random_state=3).fit(good)
    b = clone(a).fit(good)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(a.projection_, b.projection_)
    np.testing.assert_array_equal(a.mean_, b.mean_)
    assert a.fit(good) is a
    np.testing.assert_array_equal(a.projection_, b.projection_)


def test_learning_takes_a_sample_of_many_images():
    images = textured(12, 32, 32)
    many = [images[i % 12] for i in range(400)]
    step = FilterBankFeatures(resize=32, n_components=4).fit(many)
    assert np.isfinite(step.projection_).all()


@pytest.mark.parametrize("n", [1, 2])
def test_few_images_and_images_without_variation(n):
    flat = np.full((n, 32, 32, 3), 77, dtype=np.uint8)
    step = FilterBankFeatures(resize=32, n_components=4).fit(flat)
    np.testing.assert_allclose(step.transform(flat).rows, 0, atol=1e-2)
    step = FilterBankFeatures(resize=32, n_components=4).fit(textured(n, 32, 32))
    rows = step.transform(textured(n, 32, 32)).rows
    assert np.isfinite(rows).all() and rows.std() > 0


# -- one image alone -----------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=4),
    batch_size=st.integers(1, 3),
    own_size=st.booleans(),
)
def test_an_image_has_the_same_features_in_any_batch(step, sides, batch_size, own_size):
    images = [textured(1, h, w, seed=h + w)[0] for h, w in sides]
    other = pickle.loads(pickle.dumps(step))
    other.set_params(batch_size=batch_size, resize=None if own_size else 64)
    grids = other.transform(images)
    assert len(grids) == len(images) and np.isfinite(grids.rows).all()
    assert (grids.work_sizes % 8 == 0).all() and (grids.work_sizes >= 32).all()
    for i, image in enumerate(images):
        np.testing.assert_array_equal(other.transform([image]).rows, grids[i].rows)


def test_pickled_step_gives_the_same_bits(step, good):
    again = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(again.transform(good).rows, step.transform(good).rows)
    assert {name for name in vars(step) if not name.startswith("_")} == {
        *step.get_params(),
        "mean_",
        "overfits_",
        "projection_",
    }
    assert type(step.projection_) is np.ndarray and step.projection_.dtype == np.float32


def test_files_give_what_arrays_give(step, good, tmp_path):
    paths = []
    for i, image in enumerate(good[:3]):
        paths.append(str(tmp_path / f"{i}.png"))
        cv2.imwrite(paths[-1], image[:, :, ::-1])
    np.testing.assert_array_equal(step.transform(paths).rows, step.transform(good[:3]).rows)


def test_by_name():
    assert isinstance(make_features("filterbank"), FilterBankFeatures)


# -- errors --------------------------------------------------------------------------------


def test_transform_before_fit(good):
    with pytest.raises(NotFittedError, match="FilterBankFeatures"):
        FilterBankFeatures().transform(good)


@pytest.mark.parametrize(
    "parameters",
    [
        {"resize": 31},
        {"resize": (64,)},
        {"resize": (64, 16)},
        {"resize": (64.0, 64.0)},
        {"resize": "256"},
        {"n_components": 0},
        {"n_components": 442},
        {"batch_size": 0},
    ],
)
def test_wrong_parameters_are_named(good, parameters):
    (name,) = parameters
    with pytest.raises(ValueError, match=name):
        FilterBankFeatures(**parameters).fit(good)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_what_is_learned_is_the_same_on_any_number_of_blas_threads(n_threads):
    images = textured(6, 128, 128)  # enough rows for BLAS to spread its work
    with threadpool_limits(1):
        alone = FilterBankFeatures(resize=None).fit(images)
    with threadpool_limits(n_threads):
        together = FilterBankFeatures(resize=None).fit(images)
    np.testing.assert_array_equal(together.projection_, alone.projection_)


# -- real images ---------------------------------------------------------------------------


def test_broken_bottles(shared_data):
    folder = shared_data / "data" / "bottle256"

    def paths(kind, n):
        return [str(path) for path in sorted((folder / kind).glob("*.png"))[:n]]

    step = FilterBankFeatures(resize=128).fit(paths("train/good", 30))
    bank = step.transform(paths("train/good", 30)).rows
    good, bad = (step.transform(paths(f"test/{k}", 8)) for k in ("good", "broken_small"))
    rows = np.concatenate([good.rows, bad.rows])
    squared = (rows**2).sum(1)[:, None] - 2 * rows @ bank.T + (bank**2).sum(1)
    scores = squared.min(axis=1).reshape(16, -1).max(axis=1)
    assert roc_auc_score([0] * 8 + [1] * 8, scores) >= 0.95
