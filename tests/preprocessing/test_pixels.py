"""Steps that keep pixels in place: values worked out by hand, and what holds for all images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pyimgano.exceptions import ImageFormatError, PreprocessingError
from pyimgano.preprocessing import (
    CLAHE,
    BackgroundFlattening,
    ContrastStretch,
    GammaCorrection,
    HomomorphicFilter,
    UnsharpMask,
    WhiteBalance,
)


def gray(values):
    """An image of equal channels from a table of gray levels."""
    return np.repeat(np.array(values, dtype=np.uint8)[..., None], 3, axis=2)


def prepared(step, image):
    return step.fit([image]).transform([image])[0]


# ---- white balance --------------------------------------------------------------------
def test_gray_world_of_two_colors():
    # Means 60, 40, 20; their mean is 40: gains 2/3, 1, 2.
    image = np.array([[[30, 20, 10], [90, 60, 30]]], dtype=np.uint8)
    np.testing.assert_array_equal(prepared(WhiteBalance(), image), [[[20] * 3, [60] * 3]])
    image = np.array([[[0, 80, 10], [120, 0, 30]]], dtype=np.uint8)
    np.testing.assert_array_equal(prepared(WhiteBalance(), image), [[[0, 80, 20], [80, 0, 60]]])


def test_white_patch_raises_all_channels_to_the_brightest():
    image = np.array([[[200, 100, 50], [20, 50, 10]]], dtype=np.uint8)
    step = WhiteBalance("white_patch", percentile=100)
    np.testing.assert_array_equal(prepared(step, image), [[[200] * 3, [20, 100, 40]]])
    # A single pixel of 100 is above the 90th percentile: red counts as 10, as the others do.
    image = np.full((10, 10, 3), 10, dtype=np.uint8)
    image[0, 0, 0] = 100
    np.testing.assert_array_equal(prepared(step.set_params(percentile=90), image), image)


def test_gains_are_cut_off_at_white():
    image = np.array([[[250, 10, 250], [10, 200, 10]]], dtype=np.uint8)
    balanced = prepared(WhiteBalance(), image)  # means 130, 105, 130: green times 1.159
    np.testing.assert_array_equal(balanced[0, 1], [9, 232, 9])
    image[0, 1, 1], image[0, 0, 1] = 255, 0
    assert prepared(WhiteBalance("gray_world"), image)[0, 1, 1] == 255  # and not 3


def test_a_channel_without_light_cannot_be_balanced():
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    np.testing.assert_array_equal(prepared(WhiteBalance(), image), image)  # black has no cast
    image[..., 0] = 90
    message = r"image 1: the mean of green, blue is 0, and other channels are brighter"
    with pytest.raises(PreprocessingError, match=message):
        WhiteBalance().transform([gray([[7]]), image])
    with pytest.raises(PreprocessingError, match=r"the 50th percentile of green, blue is 0"):
        WhiteBalance("white_patch", percentile=50).transform([image])


# ---- gamma, stretch, sharpening -------------------------------------------------------
def test_gamma_by_hand():
    image = gray([[0, 1, 16, 64, 128, 255]])
    # 255 sqrt(v / 255) = 0, 15.97, 63.87, 127.75, 180.67, 255
    by_hand = gray([[0, 16, 64, 128, 181, 255]])
    np.testing.assert_array_equal(prepared(GammaCorrection(0.5), image), by_hand)
    # v^2 / 255 = 0, 0.004, 1.004, 16.06, 64.25, 255
    by_hand = gray([[0, 0, 1, 16, 64, 255]])
    np.testing.assert_array_equal(prepared(GammaCorrection(2), image), by_hand)
    np.testing.assert_array_equal(prepared(GammaCorrection(1.0), image), image)


def test_a_ramp_is_stretched():
    ramp = gray([np.arange(100, 151)])  # 51 levels, 5.1 apart
    by_hand = np.rint(np.arange(51) * 255 / 50)
    np.testing.assert_array_equal(prepared(ContrastStretch(0, 100), ramp)[0, :, 0], by_hand)
    # 10 % of 51 values are 5.1, so the 6th smallest, 105; 90 % the 46th, 145.
    cut = prepared(ContrastStretch(10, 90), ramp)[0, :, 1]
    by_hand = np.clip(np.rint((np.arange(100, 151) - 105) * 255 / 40), 0, 255)
    np.testing.assert_array_equal(cut, by_hand)


def test_limits_are_one_for_all_channels():
    image = np.array([[[50, 100, 150]]], dtype=np.uint8)
    np.testing.assert_array_equal(prepared(ContrastStretch(0, 100), image), [[[0, 128, 255]]])


def test_limits_of_the_training_images_stay():
    train = [gray([[40, 60]]), gray([[90, 140]])]
    step = ContrastStretch(0, 100, limits="training").fit(train)
    np.testing.assert_array_equal(step.limits_, [40, 140])
    np.testing.assert_array_equal(step.transform([gray([[90, 20]])])[0], gray([[128, 0]]))
    assert not hasattr(step.set_params(limits="image").fit(train), "limits_")


def test_without_contrast_there_is_nothing_to_stretch():
    flat = gray(np.full((4, 4), 9))
    with pytest.raises(PreprocessingError, match=r"image 1: the image has no contrast .* level 9"):
        ContrastStretch().transform([gray([[0, 255]]), flat])
    with pytest.raises(PreprocessingError, match="the training images have no contrast"):
        ContrastStretch(limits="training").fit([flat, flat])


def test_unsharp_mask_by_hand():
    edge = gray([[100] * 4 + [150] * 4] * 8)
    blurred = cv2.GaussianBlur(edge[4, :, 0][None].astype(np.float32), (0, 0), 1.0)[0]
    by_hand = np.rint(edge[4, :, 0] + 2.0 * (edge[4, :, 0] - blurred))
    step = UnsharpMask(1.0, amount=2.0)
    np.testing.assert_array_equal(prepared(step, edge)[4, :, 2], by_hand)
    assert by_hand[3] < 100 and by_hand[4] > 150
    # Beside the edge the difference is 15, next to it less than 4.
    kept = prepared(step.set_params(threshold=4), edge)[4, :, 0]
    np.testing.assert_array_equal(kept[[2, 5]], [100, 150])
    assert kept[3] == by_hand[3]
    np.testing.assert_array_equal(prepared(UnsharpMask(amount=0.0), edge), edge)


# ---- CLAHE ----------------------------------------------------------------------------
def test_clahe_equalizes_the_lightness_alone():
    image = np.random.RandomState(0).randint(90, 130, size=(32, 40, 3)).astype(np.uint8)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
    lab[..., 0] = cv2.createCLAHE(3.0, (5, 2)).apply(lab[..., 0].copy())  # OpenCV: width first
    expected = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)
    np.testing.assert_array_equal(prepared(CLAHE(3.0, tiles=(2, 5)), image), expected)
    assert expected.std() > 1.2 * image.std()
    with pytest.raises(ImageFormatError, match=r"image 0: .* 32 x 40 pixels .* 33 x 1 tiles"):
        CLAHE(tiles=(33, 1)).transform([image])


# ---- illumination ---------------------------------------------------------------------
def test_homomorphic_filter_by_hand():
    # One pixel is its own slow part: nothing to weaken.
    np.testing.assert_array_equal(prepared(HomomorphicFilter(), gray([[77]])), gray([[77]]))
    # Where the blur spans all, slow is the mean m of log(1 + v); details double in the logarithm.
    image = gray([[3, 15]])  # logarithms to base 2: 2 and 4, m = 3; 3 +- 2: 2^1 - 1 and 2^5 - 1
    step = HomomorphicFilter(sigma=1000, high_gain=2.0)
    np.testing.assert_array_equal(prepared(step, image), gray([[1, 31]]))


def test_background_by_hand():
    image = gray([[40, 80]])  # a wide blur takes 60 for both
    np.testing.assert_array_equal(prepared(BackgroundFlattening(1000), image), image)
    image = np.full((1, 2, 3), (30, 60, 90), dtype=np.uint8)  # color is kept as well
    for method in ("divide", "subtract"):
        step = BackgroundFlattening(2, method=method)
        np.testing.assert_array_equal(prepared(step, image), image)
    # A background of 50 is brought to 150: differences around it grow by three, or stay.
    image = gray([[40, 60]])
    step = BackgroundFlattening(1000, level=150)
    np.testing.assert_array_equal(prepared(step, image), gray([[120, 180]]))
    step.set_params(method="subtract")
    np.testing.assert_array_equal(prepared(step, image), gray([[140, 160]]))


@pytest.mark.parametrize(
    ("step", "added"),
    [
        (BackgroundFlattening(6), False),
        (BackgroundFlattening(6, method="subtract"), True),
        (HomomorphicFilter(6, low_gain=0.0), False),
    ],
)
def test_uneven_light_is_flattened_and_details_stay(step, added):
    texture = np.random.RandomState(0).choice([90.0, 110.0], size=(96, 96))
    ramp = np.linspace(0.6, 1.4, 96)
    lit = texture + 100 * (ramp - 1) if added else texture * ramp
    flat = prepared(step, gray(np.rint(lit)))[..., 0].astype(float)
    inner = slice(16, -16)
    columns = flat[:, inner].mean(axis=0)
    assert np.ptp(columns) < 12 < 50 < np.ptp(lit[:, inner].mean(axis=0))
    assert np.corrcoef(flat[:, inner].ravel(), texture[:, inner].ravel())[0, 1] > 0.95


def test_wide_blurs_are_those_of_the_full_size():
    from pyimgano.preprocessing._illumination import slow_part

    plane = np.random.RandomState(0).uniform(0, 255, size=(150, 190)).astype(np.float32)
    full = cv2.GaussianBlur(plane, (0, 0), 20, borderType=cv2.BORDER_REFLECT)
    np.testing.assert_allclose(slow_part(plane, 20.0), full, atol=0.35)


# ---- properties -----------------------------------------------------------------------
PIXEL_STEPS = [
    WhiteBalance(),
    WhiteBalance("white_patch"),
    GammaCorrection(0.4),
    ContrastStretch(0, 100),
    CLAHE(tiles=1),
    UnsharpMask(2.0, amount=3.0),
    HomomorphicFilter(3.0, low_gain=0.2, high_gain=2.0),
    BackgroundFlattening(3.0),
    BackgroundFlattening(3.0, method="subtract"),
]
# Gray levels from 1 on, so that every channel has light; two of them differ.
IMAGES = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(2, 9), st.just(3)),
    elements=st.integers(1, 255),
).map(
    lambda image: np.concatenate([image, np.full_like(image[:1], 1), np.full_like(image[:1], 200)])
)


@pytest.mark.parametrize("step", PIXEL_STEPS, ids=repr)
@given(image=IMAGES, other=IMAGES)
@settings(max_examples=15, deadline=None)
def test_images_stay_images_and_do_not_depend_on_others(step, image, other):
    before = image.copy()
    alone = step.transform([image])[0]
    assert alone.dtype == np.uint8 and alone.shape == image.shape
    np.testing.assert_array_equal(image, before)
    together = step.transform([other, image, other])
    np.testing.assert_array_equal(together[1], alone)
    np.testing.assert_array_equal(step.transform(image[None]), alone[None])


@given(image=IMAGES)
@settings(max_examples=30, deadline=None)
def test_what_is_done_is_done(image):
    stretch = ContrastStretch(0, 100)
    once = stretch.transform([image])
    assert once[0].min() == 0 and once[0].max() == 255
    np.testing.assert_array_equal(stretch.transform(once)[0], once[0])
    white = WhiteBalance("white_patch", percentile=100)
    once = white.transform([image])
    assert len(set(once[0].max(axis=(0, 1)))) == 1
    np.testing.assert_array_equal(white.transform(once)[0], once[0])


@given(image=IMAGES, gamma=st.floats(0.1, 5))
@settings(max_examples=30, deadline=None)
def test_gamma_keeps_the_order_of_gray_levels(image, gamma):
    found = GammaCorrection(gamma).transform([image])[0].ravel().astype(int)
    order = np.argsort(image.ravel(), kind="stable")
    assert (np.diff(found[order]) >= 0).all()


# ---- refusals -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (WhiteBalance("retinex"), "method"),
        (WhiteBalance(percentile=0), "percentile"),
        (GammaCorrection(0), "gamma"),
        (GammaCorrection(11), "gamma"),
        (ContrastStretch(60, 40), r"low=60 must be below high=40"),
        (ContrastStretch(-1), "low"),
        (ContrastStretch(limits="fixed"), "limits"),
        (CLAHE(0), "clip_limit"),
        (CLAHE(tiles=0), "tiles"),
        (CLAHE(tiles=(2, 0)), r"tiles=\(2, 0\) must be an integer or \(rows, columns\)"),
        (UnsharpMask(0), "sigma"),
        (UnsharpMask(amount=-1), "amount"),
        (HomomorphicFilter(low_gain=1.5), "low_gain"),
        (HomomorphicFilter(high_gain=0.5), "high_gain"),
        (BackgroundFlattening(method="multiply"), "method"),
        (BackgroundFlattening(level=0), "level"),
    ],
)
def test_parameters_out_of_range_are_refused(step, message):
    images = [gray([[1, 2], [3, 4]])]
    with pytest.raises(ValueError, match=message):
        step.fit(images)
    with pytest.raises(ValueError, match=message):
        step.transform(images)
