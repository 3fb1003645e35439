"""The classical descriptors: values worked out by hand, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimgano.features import (
    ColorHistogram,
    ColorMoments,
    EdgeFeatures,
    FFTBandFeatures,
    GaborFeatures,
    GLCMFeatures,
    HOGFeatures,
    LBPFeatures,
    PatchStatistics,
)


def as_rgb(gray):
    return np.repeat(np.asarray(gray, dtype=np.uint8)[:, :, None], 3, axis=2)


def described(step, image):
    """The row of one image, by column name."""
    return dict(zip(step.get_feature_names_out(), step.transform([image])[0]))


def upright_edge(size=32, dark=0, bright=100):
    gray = np.full((size, size), dark)
    gray[:, size // 2 :] = bright
    return as_rgb(gray)


def waves(frequency, size=64, amplitude=100, degrees=0):
    """Stripes that change in the given direction, from the x axis towards the y axis (down)."""
    angle = np.deg2rad(degrees)
    y, x = np.mgrid[:size, :size]
    phase = 2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle))
    return as_rgb(np.rint(128 + amplitude * np.sin(phase)))


def checkerboard(size=16):
    return as_rgb(255 * (np.indices((size, size)).sum(axis=0) % 2))


images = st.builds(
    lambda height, width, seed: (
        np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    ),
    st.integers(9, 20),
    st.integers(9, 20),
    st.integers(0, 10**6),
)


# ---- color --------------------------------------------------------------------------
def test_histogram_of_an_image_in_two_colors():
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    image[:, :2] = (255, 128, 63)  # a quarter of the pixels: bins 3, 2 and 0 of 4
    values = described(ColorHistogram(4), image)
    filled = {name: value for name, value in values.items() if value}
    assert filled == {
        "red_0": 0.75,
        "red_3": 0.25,
        "green_0": 0.75,
        "green_2": 0.25,
        "blue_0": 1.0,
    }


def test_joint_histogram_of_an_image_in_two_colors():
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    image[:, :2] = (255, 128, 63)
    values = described(ColorHistogram(4, joint=True), image)
    assert len(values) == 64
    assert {name: value for name, value in values.items() if value} == {
        "red_green_blue_0_0_0": 0.75,
        "red_green_blue_3_2_0": 0.25,
    }


def test_histogram_of_hues():
    image = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)]], dtype=np.uint8)
    values = described(ColorHistogram(6, color_space="hsv"), image)
    # 0, 120 and 240 degrees; gray counts as 0 degrees.
    assert [values[f"hue_{b}"] for b in range(6)] == [0.5, 0, 0.25, 0, 0.25, 0]
    assert values["saturation_5"] == 0.75 and values["saturation_0"] == 0.25
    assert values["value_5"] == 0.75 and values["value_0"] == 0.25


def test_too_many_joint_bins_are_an_error():
    with pytest.raises(ValueError, match="bins=64 with joint=True"):
        ColorHistogram(64, joint=True).get_feature_names_out()


@settings(max_examples=25, deadline=None)
@given(images, st.integers(2, 16), st.sampled_from(["rgb", "hsv"]))
def test_histograms_add_up_to_one(image, bins, space):
    row = ColorHistogram(bins, color_space=space).transform([image])[0]
    np.testing.assert_allclose(row.reshape(3, bins).sum(axis=1), 1)
    joint = ColorHistogram(min(bins, 6), color_space=space, joint=True).transform([image])
    np.testing.assert_allclose(joint.sum(), 1)


@settings(max_examples=25, deadline=None)
@given(images, st.integers(0, 100))
def test_colors_do_not_depend_on_where_they_are(image, seed):
    order = np.random.RandomState(seed).permutation(image.shape[0] * image.shape[1])
    mixed = image.reshape(-1, 3)[order].reshape(image.shape)
    for step in (ColorHistogram(), ColorMoments()):
        np.testing.assert_allclose(
            step.transform([mixed]), step.transform([image]), rtol=1e-7, atol=1e-6
        )


def test_moments_by_hand():
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 0, 0] = 100
    values = described(ColorMoments("rgb"), image)
    assert values["red_mean"] == 25
    assert values["red_std"] == pytest.approx(25 * 3**0.5)
    assert values["red_skewness"] == pytest.approx(((3 * (-25) ** 3 + 75**3) / 4) ** (1 / 3))
    assert values["green_mean"] == values["blue_std"] == 0


def test_moments_of_a_negative_skew_have_a_sign():
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    image[0, 0] = 0
    values = described(ColorMoments("rgb"), image)
    assert values["red_skewness"] == pytest.approx(-(((75**3 - 3 * 25**3) / 4) ** (1 / 3)))


def test_lab_moments_of_white_and_of_red():
    white = described(ColorMoments(), np.full((4, 4, 3), 255, dtype=np.uint8))
    assert white["lightness_mean"] == pytest.approx(100, abs=0.01)
    assert white["green_red_mean"] == pytest.approx(0, abs=0.1)
    red = described(ColorMoments(), np.full((4, 4, 3), (255, 0, 0), dtype=np.uint8))
    expected = {"lightness_mean": 53.2, "green_red_mean": 80.1, "blue_yellow_mean": 67.2}
    for name, value in expected.items():  # sRGB red in CIE Lab (D65)
        assert red[name] == pytest.approx(value, abs=0.3)


def test_statistics_of_a_ramp():
    ramp = as_rgb(np.tile(np.arange(8) * 10, (6, 1)))  # 0 to 70, left to right
    step = PatchStatistics(
        (1, 2), color_space="gray", statistics=("mean", "std", "min", "max", "median")
    )
    values = described(step, ramp)
    left = [values[f"row0_column0_gray_{s}"] for s in step.statistics]
    right = [values[f"row0_column1_gray_{s}"] for s in step.statistics]
    std = 10 * np.sqrt(1.25)  # of 0, 1, 2, 3
    np.testing.assert_allclose(left, [15, std, 0, 30, 15])
    np.testing.assert_allclose(right, [55, std, 40, 70, 55])


def test_cells_cover_an_image_that_cannot_be_divided_evenly():
    image = as_rgb(np.arange(35).reshape(5, 7))
    step = PatchStatistics((2, 3), statistics="max", color_space="gray")
    # 3 + 2 rows and 3 + 2 + 2 columns; the last pixel of each cell.
    assert step.transform([image]).tolist() == [[16, 18, 20, 30, 32, 34]]


def test_one_cell_equals_the_moments():
    image = np.random.RandomState(0).randint(0, 256, (12, 20, 3)).astype(np.uint8)
    cell = PatchStatistics(1, color_space="lab").transform([image]).reshape(3, 2)
    moments = ColorMoments("lab").transform([image]).reshape(3, 3)
    np.testing.assert_allclose(cell, moments[:, :2], rtol=1e-6)


# ---- gradients ----------------------------------------------------------------------
def test_hog_of_an_upright_edge():
    step = HOGFeatures(32, pixels_per_cell=8, cells_per_block=1)
    row = step.transform([upright_edge()])[0]
    cells = row.reshape(4, 4, 9)  # block row, block column, direction
    expected = np.zeros((4, 4, 9))
    expected[:, 1:3, 0] = 1  # both cells beside the edge, gradient along the x axis
    np.testing.assert_allclose(cells, expected, atol=1e-4)
    assert step.get_feature_names_out()[9] == "block0_1_cell0_0_0deg"


def test_hog_of_a_level_edge_points_down():
    level = upright_edge().transpose(1, 0, 2).copy()
    step = HOGFeatures(32, pixels_per_cell=8, cells_per_block=1, orientations=4)
    cells = step.transform([level])[0].reshape(4, 4, 4)
    np.testing.assert_allclose(cells[1:3, :, 2], 1, atol=1e-4)
    assert cells.sum() == pytest.approx(8, abs=1e-3)
    assert step.get_feature_names_out()[2].endswith("_90deg")


def test_hog_names_follow_the_order_of_scikit_image():
    from skimage.feature import hog

    image = np.random.RandomState(0).randint(0, 256, (40, 48, 3)).astype(np.uint8)
    step = HOGFeatures((40, 48), pixels_per_cell=8, cells_per_block=(2, 3), orientations=6)
    shape = {"orientations": 6, "pixels_per_cell": (8, 8), "cells_per_block": (2, 3)}
    blocks = hog(image, channel_axis=-1, feature_vector=False, **shape)
    values = described(step, image)
    assert blocks.shape == (4, 4, 2, 3, 6) and len(values) == blocks.size
    assert values["block3_1_cell1_2_150deg"] == blocks[3, 1, 1, 2, 5]
    assert values["block0_3_cell0_1_30deg"] == blocks[0, 3, 0, 1, 1]


def test_hog_does_not_depend_on_contrast():
    step = HOGFeatures(32, pixels_per_cell=8)
    faint, strong = (step.transform([upright_edge(bright=b)]) for b in (40, 200))
    np.testing.assert_allclose(faint, strong, atol=1e-3)


def test_edge_statistics_of_a_step():
    values = described(EdgeFeatures(4, resize=None), upright_edge())
    # Central differences of a step of 100: 50 in the two columns beside it.
    assert values["gradient_mean"] == pytest.approx(50 * 2 / 32)
    assert values["gradient_std"] == pytest.approx(np.std([50] * 2 + [0] * 30))
    assert (values["gradient_p50"], values["gradient_p99"]) == (0, 50)
    assert values["laplacian_std"] == pytest.approx(np.std([100, -100] + [0] * 30))
    assert values["density"] == pytest.approx(1 / 32)  # one column of edge pixels
    assert [values[f"direction_{a}deg"] for a in (0, 45, 90, 135)] == [1, 0, 0, 0]


def test_canny_thresholds_are_in_quarters_of_a_gray_level():
    for height, found in ((30, True), (20, False)):
        step = EdgeFeatures(thresholds=(100, 100), resize=None)
        assert (described(step, upright_edge(bright=height))["density"] > 0) == found


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
def test_gradients_and_spectrum_agree_on_directions(degrees):
    image = waves(0.125, degrees=degrees)
    edges = described(EdgeFeatures(4, resize=None), image)
    assert edges[f"direction_{degrees}deg"] > 0.8
    bands = described(FFTBandFeatures(2, n_orientations=4, resize=None), image)
    assert max(bands, key=bands.get) == f"band_0-0.25_{degrees}deg"
    filters = described(GaborFeatures(0.125, resize=None), image)
    means = {name: value for name, value in filters.items() if name.endswith("mean")}
    assert max(means, key=means.get) == f"frequency0.125_{degrees}deg_mean"


# ---- texture ------------------------------------------------------------------------
@pytest.mark.parametrize(("method", "pattern"), [("uniform", 8), ("nri_uniform", 57)])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_lbp_of_a_constant_image(method, pattern, value):
    step = LBPFeatures((1, 2), method=method, resize=None)
    values = described(step, np.full((12, 12, 3), value, dtype=np.uint8))
    filled = {name: value for name, value in values.items() if value}
    # Every point is as bright as the middle, up to the border of the image.
    assert filled == {f"radius1_pattern{pattern}": 1.0, f"radius2_pattern{pattern}": 1.0}


def test_lbp_of_a_checkerboard():
    values = described(LBPFeatures(1, n_points=4, resize=None), checkerboard(10))
    # White pixels have 4 darker neighbors, black ones 4 brighter.
    assert [values[f"radius1_pattern{p}"] for p in range(6)] == [0.5, 0, 0, 0, 0.5, 0]


@settings(max_examples=25, deadline=None)
@given(images, st.integers(0, 1000))
def test_lbp_does_not_change_with_any_rising_curve_of_brightness(image, seed):
    gray = image[:, :, 0] // 4
    curve = np.sort(np.random.RandomState(seed).choice(256, 64, replace=False))
    step = LBPFeatures(1, n_points=4, resize=None)  # points that need no interpolation
    np.testing.assert_array_equal(
        step.transform([as_rgb(gray)]), step.transform([as_rgb(curve[gray])])
    )


def test_lbp_bins():
    assert len(LBPFeatures(1).get_feature_names_out()) == 10
    assert len(LBPFeatures((1, 2.5), n_points=16).get_feature_names_out()) == 36
    assert len(LBPFeatures(1, method="nri_uniform").get_feature_names_out()) == 59


def test_glcm_of_a_checkerboard():
    properties = ("contrast", "dissimilarity", "homogeneity", "ASM", "energy", "correlation")
    step = GLCMFeatures(1, levels=2, properties=properties, pool_angles=False, resize=None)
    values = described(step, checkerboard())
    for angle in (0, 90):  # all pairs are black and white
        row = [values[f"{name}_1px_{angle}deg"] for name in properties]
        np.testing.assert_allclose(row, [1, 1, 0.5, 0.5, 0.5**0.5, -1])
    for angle in (45, 135):  # all pairs are alike
        row = [values[f"{name}_1px_{angle}deg"] for name in properties]
        np.testing.assert_allclose(row, [0, 0, 1, 0.5, 0.5**0.5, 1], atol=1e-4)


def test_glcm_pools_directions_as_mean_and_range():
    values = described(GLCMFeatures((1, 2), levels=2, resize=None), checkerboard())
    assert (values["contrast_1px_mean"], values["contrast_1px_range"]) == (0.5, 1)
    # Two steps apart, or one diagonally (a diagonal of 2 is rounded to 1 and 1).
    assert (values["contrast_2px_mean"], values["contrast_2px_range"]) == (0, 0)


def test_glcm_counts_levels_evenly():
    # Levels 0 and 31 of 32: the contrast is the square of their distance.
    values = described(GLCMFeatures(1, pool_angles=False, resize=None), checkerboard())
    assert values["contrast_1px_0deg"] == 31**2
    darkest = np.where(checkerboard() > 0, 7, 0).astype(np.uint8)  # 0 to 7 are one level
    assert described(GLCMFeatures(1, resize=None), darkest)["contrast_1px_mean"] == 0


@settings(max_examples=25, deadline=None)
@given(images)
def test_glcm_properties_keep_their_ranges(image):
    names = ("homogeneity", "ASM", "energy", "correlation")
    step = GLCMFeatures(1, levels=8, properties=names, pool_angles=False, resize=None)
    for name, value in described(step, image).items():
        assert (-1 if "correlation" in name else 0) - 1e-9 <= value <= 1 + 1e-9


@pytest.mark.parametrize("frequency", [0.1, 0.2, 0.4])
def test_gabor_answers_to_its_frequency(frequency):
    step = GaborFeatures(n_orientations=2, resize=None)
    values = described(step, waves(frequency, size=160))
    means = {name: value for name, value in values.items() if name.endswith("mean")}
    assert max(means, key=means.get) == f"frequency{frequency}_0deg_mean"
    assert max(means.values()) == pytest.approx(
        50, rel=0.08
    )  # half the amplitude, less at the border


def test_gabor_does_not_answer_to_plain_brightness():
    step = GaborFeatures(bandwidth=2.0, resize=None)
    np.testing.assert_allclose(step.transform([np.full((40, 40, 3), 255, np.uint8)]), 0, atol=0.01)


def test_gabor_answers_evenly_to_stripes_and_unevenly_to_one_edge():
    values = described(GaborFeatures(0.2, n_orientations=1, resize=None), waves(0.2, size=80))
    assert values["frequency0.2_0deg_std"] < 0.2 * values["frequency0.2_0deg_mean"]
    values = described(GaborFeatures(0.2, n_orientations=1, resize=None), upright_edge(80))
    assert values["frequency0.2_0deg_std"] > values["frequency0.2_0deg_mean"]


@pytest.mark.parametrize(
    ("frequency", "band"),
    [(1 / 32, "0-0.0625"), (6 / 64, "0.0625-0.125"), (10 / 64, "0.125-0.25"), (0.375, "0.25-0.5")],
)
def test_the_energy_of_a_sine_falls_into_its_band(frequency, band):
    values = described(FFTBandFeatures(4, resize=None), waves(frequency, amplitude=100))
    assert values.pop(f"band_{band}") == pytest.approx(100 / 2**0.5, rel=0.02)
    assert max(values.values()) < 12  # what the window spreads to neighboring bands


def test_linear_bands():
    step = FFTBandFeatures(5, spacing="linear", resize=None)
    assert step.get_feature_names_out()[3] == "band_0.3-0.4"
    assert described(step, waves(22 / 64))["band_0.3-0.4"] == pytest.approx(70.7, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(images, st.sampled_from(["octave", "linear"]), st.integers(1, 5))
def test_the_bands_share_out_the_variance(image, spacing, n_orientations):
    gray = image[:, :, 0].astype(float)
    height, width = gray.shape
    step = FFTBandFeatures(3, n_orientations=n_orientations, spacing=spacing, resize=None)
    row = step.transform([as_rgb(gray)])[0]
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width)))
    rest = gray - (gray * window).sum() / window.sum()
    np.testing.assert_allclose((row**2).sum(), (rest**2 * window**2).sum() / (window**2).sum())


def test_a_finer_ruling_of_sectors_loses_nothing():
    image = np.random.RandomState(0).randint(0, 256, (33, 64, 3)).astype(np.uint8)
    whole = FFTBandFeatures(3, resize=None).transform([image])[0]
    parts = FFTBandFeatures(3, n_orientations=6, resize=None).transform([image]).reshape(3, 6)
    np.testing.assert_allclose((parts**2).sum(axis=1), whole**2)


# ---- wrong parameters ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (ColorHistogram(1), "'bins' parameter of ColorHistogram"),
        (PatchStatistics(statistics=("mean", "mode")), "'mode' is none of 'mean'"),
        (PatchStatistics((2, 0)), r"grid=\(2, 0\)"),
        (PatchStatistics(statistics=()), r"statistics=\(\)"),
        (HOGFeatures((64, 64, 3)), "resize"),
        (HOGFeatures(pixels_per_cell=(8, 0)), "pixels_per_cell"),
        (HOGFeatures(16), r"resize=16 is too small.*at least 32 x 32"),
        (EdgeFeatures(thresholds=(150, 50)), "lower <= upper"),
        (EdgeFeatures(thresholds=(50,)), "lower, upper"),
        (LBPFeatures((1, 1)), r"radius=\(1, 1\).*different"),
        (LBPFeatures(("a",)), "'a' should be a number"),
        (GLCMFeatures((1, 2.5)), "2.5 should be an integer"),
        (GLCMFeatures(properties="contrasts"), "'contrasts' is none of"),
        (GaborFeatures((0.1, 0.6)), "0.6 should be a number from 0.02 to 0.5"),
        (FFTBandFeatures(20), "13 at most"),
        (FFTBandFeatures(resize=32), "resize=32 is too small.*at least 64 x 64"),
    ],
)
def test_wrong_parameters_are_errors_in_fit(step, message):
    with pytest.raises(ValueError, match=message):
        step.fit(np.zeros((2, 64, 64, 3), dtype=np.uint8))
