"""Layer maps joined to one grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from pyimgano._kernels.joining import join_maps


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_maps_of_one_shape_stand_side_by_side():
    maps = [drawn(3, 4, 2), drawn(3, 4, 5, seed=1)]
    np.testing.assert_array_equal(join_maps(maps), np.concatenate(maps, axis=2))


@pytest.mark.parametrize("pool", [3, 5])
def test_a_cell_is_averaged_over_its_neighborhood_with_zeros_beyond_the_border(pool):
    one = drawn(6, 7, 3)
    expected = uniform_filter(one.astype(float), (pool, pool, 1), mode="constant")
    np.testing.assert_allclose(join_maps([one], pool), expected, atol=1e-6)


def test_a_coarser_map_is_interpolated_between_the_centers_of_its_cells():
    fine, coarse = np.zeros((1, 4, 1), np.float32), np.array([[[0.0], [1.0]]], np.float32)
    # Centers of the coarse cells lie at 1 and 3 of 4; beyond them nothing changes.
    np.testing.assert_allclose(join_maps([fine, coarse])[0, :, 1], [0, 0.25, 0.75, 1])


def test_a_finer_map_is_read_at_the_centers_of_the_grid():
    coarse, fine = np.zeros((2, 1, 1), np.float32), np.arange(8, dtype=np.float32)[:, None, None]
    np.testing.assert_allclose(join_maps([coarse, fine])[:, 0, 1], [1.5, 5.5])


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=3
    ),
    pool=st.sampled_from([1, 3]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_chosen_features_are_the_same_bit_for_bit(shapes, pool, data):
    maps = [drawn(*shape, seed=i) for i, shape in enumerate(shapes)]
    n = sum(shape[2] for shape in shapes)
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))))
    everything = join_maps(maps, pool)
    assert everything.shape == (*shapes[0][:2], n)
    np.testing.assert_array_equal(join_maps(maps, pool, chosen), everything[:, :, chosen])
