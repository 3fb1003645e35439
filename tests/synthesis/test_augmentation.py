"""Varied images: bounds of each amount, and what the draws depend on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils._param_validation import InvalidParameterError

from pyimgano.inputs import ImageSequence
from pyimgano.synthesis import ImageAugmentation

NOTHING = dict.fromkeys(("shift", "rotation", "brightness", "gradient", "gamma", "noise"), 0)


def varied(images, **amounts):
    return ImageAugmentation(**{**NOTHING, **amounts}).transform(images)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), np.uint8)


def test_nothing_is_changed_by_nothing(images):
    assert np.array_equal(varied(images), images)


@pytest.mark.parametrize("amount", NOTHING)
def test_each_amount_acts_alone(images, amount):
    strengths = {"shift": 0.2, "rotation": 20, "noise": 250}
    one = varied(images, **{amount: strengths.get(amount, 0.5)})
    assert one.shape == images.shape and one.dtype == np.uint8
    assert not any(np.array_equal(*pair) for pair in zip(one, images))


@pytest.mark.parametrize("seed", range(5))
def test_light_stays_within_its_bounds(seed):
    flat = np.full((1, 8, 8, 3), 100, np.uint8)
    brighter = varied(flat, brightness=0.2, random_state=seed)
    assert 80 <= brighter.min() == brighter.max() <= 120
    curved = varied(flat, gamma=0.5, random_state=seed)
    low, high = (255 * (100 / 255) ** exponent for exponent in (1.5, 1 / 1.5))
    assert low - 1 <= curved.min() == curved.max() <= high + 1
    graded = varied(flat, gradient=0.4, random_state=seed)
    assert 60 <= graded.min() < graded.max() <= 100
    noisy = varied(np.full((1, 64, 64, 3), 100, np.uint8), noise=6.0, random_state=seed)
    assert 0 < np.std(noisy.astype(float)) < 6.2 and abs(noisy.mean() - 100) < 0.5


def test_a_part_moves_by_no_more_than_the_shift():
    dot = np.zeros((1, 40, 60, 3), np.uint8)
    dot[0, 20, 30] = 255
    for seed in range(6):
        rows, columns = np.nonzero(varied(dot, shift=0.1, random_state=seed)[0, ..., 0])
        assert (abs(rows - 20) <= 5).all() and (abs(columns - 30) <= 5).all()
        assert len(rows) > 0


def test_draws_depend_on_seed_and_image_alone(images, tmp_path):
    whole = ImageAugmentation().transform(images)
    assert np.array_equal(ImageAugmentation().transform(images[[4, 1]]), whole[[4, 1]])
    assert not np.array_equal(ImageAugmentation(random_state=1).transform(images), whole)
    paths = [str(tmp_path / f"{k}.png") for k in range(6)]
    for path, image in zip(paths, images):
        cv2.imwrite(path, image[..., ::-1])
    lazy = ImageAugmentation().transform(ImageSequence(paths))
    assert all(np.array_equal(*pair) for pair in zip(lazy, whole))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_images_of_any_size(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    (made,) = ImageAugmentation(shift=0.5, rotation=180, random_state=seed).transform([image])
    assert made.shape == image.shape and made.dtype == np.uint8


def test_amounts_out_of_range_are_named(images):
    for name, wrong in (("shift", 0.6), ("brightness", 1.0), ("noise", -1), ("random_state", None)):
        with pytest.raises(InvalidParameterError, match=name):
            ImageAugmentation(**{name: wrong}).transform(images)
