"""Perlin noise by its definition, and the masks that are cut from it."""

from __future__ import annotations

import numpy as np
import pytest

from pyimgano.synthesis import perlin_mask, perlin_noise


def by_definition(shape, cells, rng):
    """Perlin noise, pixel by pixel."""
    angles = rng.random((cells[0] + 1, cells[1] + 1)) * 2 * np.pi
    out = np.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            y, x = (i + 0.5) * cells[0] / shape[0], (j + 0.5) * cells[1] / shape[1]
            for row in (int(y), int(y) + 1):
                for column in (int(x), int(x) + 1):
                    weight = 1.0
                    for way in (abs(y - row), abs(x - column)):
                        weight *= 1 - way**3 * (6 * way**2 - 15 * way + 10)
                    angle = angles[row, column]
                    slope = np.cos(angle) * (x - column) + np.sin(angle) * (y - row)
                    out[i, j] += weight * slope
    return np.sqrt(2) * out


@pytest.mark.parametrize(
    ("shape", "cells"), [((12, 18), (3, 2)), ((5, 7), (1, 1)), ((4, 6), (8, 6)), ((1, 1), (2, 1))]
)
def test_noise_is_that_of_the_definition(shape, cells):
    found = perlin_noise(shape, cells, np.random.default_rng(3))
    assert found.shape == shape and found.dtype == np.float32
    expected = by_definition(shape, cells, np.random.default_rng(3))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found).max() <= 1


def test_one_number_stands_for_both_sides():
    one, pair = (
        perlin_noise(*sizes, np.random.default_rng(0)) for sizes in ((8, 2), ((8, 8), (2, 2)))
    )
    assert np.array_equal(one, pair)
    for wrong in (0, 2.0, (1, 2, 3)):
        with pytest.raises(ValueError, match="cells"):
            perlin_noise(8, wrong, np.random.default_rng(0))


def test_masks_hold_what_is_above_the_threshold():
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    mask = perlin_mask((40, 30), rng, max_exponent=2, threshold=0.2)
    cells = 2 ** same.integers(0, 3, 2)
    noise = perlin_noise((40, 30), tuple(int(n) for n in cells), same)
    assert mask.dtype == bool and np.array_equal(mask, noise > 0.2) and mask.any()
    shares = [perlin_mask(64, rng, threshold=low).mean() for low in (-1.1, 0.2, 0.5, 1.1)]
    assert shares[0] == 1 and shares[-1] == 0


def test_masks_are_often_empty_at_half_and_seldom_large():
    rng = np.random.default_rng(0)
    shares = np.array([perlin_mask(64, rng, max_rotation=90.0).mean() for _ in range(100)])
    assert 0 < np.mean(shares == 0) < 0.5
    assert 0.01 < shares.mean() < 0.2
