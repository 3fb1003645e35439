"""PatchGrids: rows, slices and the way back to pixels."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.utils import _safe_indexing

from pyimgano.grids import PatchGrids


def ragged():
    rows = np.arange(22, dtype=np.float32).reshape(11, 2)
    return PatchGrids(rows, [(2, 3), (1, 1), (2, 2)], image_sizes=[(8, 12), (5, 5), (6, 4)])


def test_array_round_trip():
    features = np.random.RandomState(0).rand(3, 4, 5, 2).astype(np.float32)
    grids = PatchGrids.from_array(features)
    np.testing.assert_array_equal(grids.features, features)
    assert (len(grids), grids.shape, grids.n_features) == (3, (3,), 2)
    np.testing.assert_array_equal(grids.image_of_row, np.repeat([0, 1, 2], 20))


def test_slices_keep_rows_and_geometry_together():
    grids = ragged()
    for index in ([2, 0], np.array([True, False, True])):
        part = grids[index]
        chosen = np.arange(3)[index]
        np.testing.assert_array_equal(part.grid_shapes, grids.grid_shapes[chosen])
        np.testing.assert_array_equal(part.image_sizes, grids.image_sizes[chosen])
    np.testing.assert_array_equal(grids[[2, 0]].rows, grids.rows[[7, 8, 9, 10, 0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(grids[1].rows, grids.rows[6:7])
    np.testing.assert_array_equal(grids[1:].rows, grids.rows[6:])
    assert len(grids[[]]) == 0
    assert len(_safe_indexing(grids, np.array([0, 2]))) == 2


def test_concatenate_undoes_slicing():
    grids = ragged()
    again = PatchGrids.concatenate([grids[:1], grids[1:]])
    np.testing.assert_array_equal(again.rows, grids.rows)
    np.testing.assert_array_equal(again.boxes, grids.boxes)
    with pytest.raises(ValueError, match="no block"):
        PatchGrids.concatenate([])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="add up to 6 patches"):
        PatchGrids(np.zeros((5, 2)), [(2, 3)])
    with pytest.raises(ValueError, match="boxes describes 2 images"):
        PatchGrids(np.zeros((6, 2)), [(2, 3)], boxes=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="one value per patch"):
        ragged().as_grid(np.zeros(10))
    with pytest.raises(ValueError, match="different shapes"):
        _ = ragged().features


def test_maximum_per_image():
    np.testing.assert_array_equal(ragged().image_max(np.arange(11)), [5, 6, 10])


def test_map_has_the_size_of_each_image():
    maps = ragged().to_pixels(np.arange(11.0), sigma=0)
    assert [m.shape for m in maps] == [(8, 12), (5, 5), (6, 4)]
    assert all(m.dtype == np.float32 for m in maps)
    assert (maps[1] == 6).all()


def test_interpolation_is_centered_on_the_patches():
    # Two patches over four pixels: centers at 0.5 and 2.5, so pixels 0..3 get 0, .25, .75, 1.
    grids = PatchGrids.from_array(np.zeros((1, 1, 2, 1)), image_sizes=[(1, 4)], work_size=(1, 4))
    np.testing.assert_allclose(
        grids.to_pixels(np.array([0.0, 1.0]), sigma=0)[0], [[0, 0.25, 0.75, 1]]
    )


def test_pixels_outside_the_crop_get_the_minimum():
    grids = PatchGrids.from_array(
        np.zeros((1, 2, 2, 1)), image_sizes=[(10, 10)], boxes=[(2, 4, 6, 6)], work_size=(6, 6)
    )
    heat = grids.to_pixels(np.array([1.0, 2.0, 3.0, 4.0]), sigma=0)[0]
    assert (heat[:2] == 1).all() and (heat[8:] == 1).all() and (heat[:, :4] == 1).all()
    assert heat[7, 9] == 4
    assert np.unravel_index(heat.argmax(), heat.shape)[0] in (6, 7)


def test_smoothing_keeps_the_mean_and_lowers_the_peak():
    grids = PatchGrids.from_array(np.zeros((1, 16, 16, 1)), work_size=(64, 64))
    values = np.zeros(256)
    values[120] = 1.0
    sharp, soft = (grids.smooth(values, sigma=s)[0] for s in (0, 4))
    assert soft.max() < sharp.max()
    assert soft.mean() == pytest.approx(sharp.mean(), rel=1e-4)


@given(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1.5, 4.0]))
def test_a_constant_map_stays_constant(value, sigma):
    grids = PatchGrids.from_array(
        np.zeros((1, 3, 4, 1)), image_sizes=[(20, 31)], boxes=[(1, 2, 15, 28)], work_size=(24, 32)
    )
    heat = grids.to_pixels(np.full(12, value), sigma=sigma)[0]
    np.testing.assert_allclose(heat, np.float32(value), rtol=1e-5, atol=1e-6)


def test_shrinking_averages():
    grids = PatchGrids.from_array(np.zeros((1, 4, 4, 1)), image_sizes=[(2, 2)])
    values = np.zeros(16)
    values[5] = 4.0
    np.testing.assert_allclose(grids.to_pixels(values, sigma=0)[0], [[1, 0], [0, 0]])


def test_a_side_that_shrinks_is_averaged_though_the_other_grows():
    grids = PatchGrids.from_array(np.zeros((1, 8, 2, 1)), image_sizes=[(2, 8)])
    for row in range(8):
        values = np.zeros((8, 2))
        values[row] = 4.0
        heat = grids.to_pixels(values.ravel(), sigma=0)[0]
        # Four rows become one: whichever row is hot, a quarter of it is seen.
        np.testing.assert_allclose(heat.max(axis=1), [1, 0] if row < 4 else [0, 1], atol=1e-6)


def test_geometry_without_features_does_not_keep_them_in_memory():
    grids = PatchGrids.from_array(np.ones((2, 3, 4, 5)), image_sizes=[(30, 40), (60, 80)])
    bare = grids.without_features()
    rows = weakref.ref(grids.rows)
    assert bare.n_features == 0
    values = np.arange(24.0)
    for one, other in zip(bare.to_pixels(values, sigma=2), grids.to_pixels(values, sigma=2)):
        np.testing.assert_array_equal(one, other)
    del grids
    assert rows() is None


def test_an_estimator_of_tables_is_told_what_comes_before_it():
    grids = PatchGrids.from_array(np.zeros((4, 2, 2, 3)))
    with pytest.raises(TypeError, match=r"PatchGrids\(n_images=4.* is no array.*PatchPooling\(\)"):
        PCA().fit(grids)
