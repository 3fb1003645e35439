"""Declared formats: hand-worked values, exact rounding, and refusing everything else."""

from __future__ import annotations

import sys
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyimgano.exceptions import ImageFormatError
from pyimgano.inputs import (
    ImageFormat,
    ensure_rgb_u8_hwc,
    normalize_numpy_image,
    to_torch_chw_float,
)

# One row of two pixels in canonical form: what every format below must become.
TWO_PIXELS = np.array([[[255, 0, 51], [0, 102, 255]]], dtype=np.uint8)
GRAY = np.array([[[255, 255, 255], [51, 51, 51]]], dtype=np.uint8)

RGB_F32 = np.array([[[1.0, 0.0, 0.2], [0.0, 0.4, 1.0]]], dtype=np.float32)
RGB_U16 = np.array([[[65535, 0, 13107], [0, 26214, 65535]]], dtype=np.uint16)
HAND_WORKED = {
    "rgb_u8_hwc": (TWO_PIXELS.copy(), TWO_PIXELS),
    "bgr_u8_hwc": (
        np.array([[[51, 0, 255], [255, 102, 0]]], dtype=np.uint8),
        TWO_PIXELS,
    ),
    "rgb_f32_hwc": (RGB_F32, TWO_PIXELS),
    "rgb_f32_chw": (
        np.array([[[1.0, 0.0]], [[0.0, 0.4]], [[0.2, 1.0]]], dtype=np.float32),
        TWO_PIXELS,
    ),
    "rgb_u16_hwc": (RGB_U16, TWO_PIXELS),
    "bgr_u16_hwc": (
        np.array([[[13107, 0, 65535], [65535, 26214, 0]]], dtype=np.uint16),
        TWO_PIXELS,
    ),
    "gray_u8_hw": (np.array([[255, 51]], dtype=np.uint8), GRAY),
    "gray_u16_hw": (np.array([[65535, 13107]], dtype=np.uint16), GRAY),
    "gray_f32_hw": (np.array([[1.0, 0.2]], dtype=np.float32), GRAY),
}


def test_every_format_has_a_hand_worked_example():
    assert set(HAND_WORKED) == {f.value for f in ImageFormat}


@pytest.mark.parametrize("name", sorted(HAND_WORKED))
@pytest.mark.parametrize("as_enum", [False, True])
def test_hand_worked_values(name, as_enum):
    image, expected = HAND_WORKED[name]
    out = normalize_numpy_image(image, ImageFormat(name) if as_enum else name)
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


@pytest.mark.parametrize("name", sorted(HAND_WORKED))
def test_result_is_new_and_the_callers_array_untouched(name):
    image = HAND_WORKED[name][0].copy()
    before = image.copy()
    image.setflags(write=False)
    out = normalize_numpy_image(image, name)
    assert not np.shares_memory(out, image)
    out[:] = 7
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", sorted(HAND_WORKED))
def test_memory_layout_does_not_matter(name):
    image, expected = HAND_WORKED[name]
    strided = np.repeat(np.asfortranarray(image), 2, axis=0)[::2]
    np.testing.assert_array_equal(normalize_numpy_image(strided, name), expected)
    swapped = image.astype(image.dtype.newbyteorder())
    np.testing.assert_array_equal(normalize_numpy_image(swapped, name), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_256_values_survive_the_way_through_floats(dtype):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    out = normalize_numpy_image(values.astype(dtype) / dtype(255), "gray_f32_hw")
    np.testing.assert_array_equal(out[..., 0], values)


@given(st.floats(0, 1, width=32))
def test_floats_round_to_nearest(value):
    image = np.full((1, 1), value, dtype=np.float32)
    got = int(normalize_numpy_image(image, "gray_f32_hw")[0, 0, 0])
    assert abs(Fraction(float(np.float32(value))) * 255 - got) <= Fraction(1, 2)


@given(st.integers(1, 65535), st.data())
def test_u16_rounds_exactly(u16_max, data):
    value = data.draw(st.integers(0, u16_max))
    image = np.full((1, 1), value, dtype=np.uint16)
    got = int(normalize_numpy_image(image, "gray_u16_hw", u16_max=u16_max)[0, 0, 0])
    # nearest; exact halves go up
    assert got == (Fraction(value * 255, u16_max) + Fraction(1, 2)).__floor__()


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_bgr_is_its_own_inverse_and_matches_reversal(image):
    out = normalize_numpy_image(image, "bgr_u8_hwc")
    np.testing.assert_array_equal(out, image[..., ::-1])
    np.testing.assert_array_equal(normalize_numpy_image(out, "bgr_u8_hwc"), image)


def test_twelve_bit_full_white():
    image = np.array([[0, 4095, 2048]], dtype=np.uint16)  # 2048 * 255 / 4095 = 127.53
    out = normalize_numpy_image(image, "gray_u16_hw", u16_max=4095)
    assert out[0, :, 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize(
    ("image", "name", "parts"),
    [
        (np.zeros((2, 2, 3)), "rgb_u8_hwc", ["float64", "rgb_u8_hwc", "'rgb_f32_hwc'"]),
        (np.zeros((2, 2, 3), np.uint8), "rgb_f32_hwc", ["uint8", "rgb_f32_hwc"]),
        (np.zeros((2, 2, 3), np.int64), "rgb_u8_hwc", ["int64", "No input_format"]),
        (np.zeros((2, 2, 3), np.float16), "rgb_f32_hwc", ["float16", "No input_format"]),
        (np.zeros((2, 2, 3), bool), "rgb_u8_hwc", ["bool"]),
        (np.zeros((2, 2), np.uint8), "rgb_u8_hwc", ["(2, 2)", "(H, W, 3)", "'gray_u8_hw'"]),
        (np.zeros((2, 2, 3), np.uint8), "gray_u8_hw", ["(2, 2, 3)", "'bgr_u8_hwc'"]),
        (np.zeros((2, 2, 1), np.uint8), "gray_u8_hw", ["image[..., 0]"]),
        (np.zeros((2, 2, 4), np.uint8), "rgb_u8_hwc", ["fourth channel"]),
        (np.zeros((3, 5, 5), np.uint8), "rgb_u8_hwc", ["transpose(1, 2, 0)"]),
        (np.zeros((5, 5, 3), np.float32), "rgb_f32_chw", ["(3, H, W)", "'rgb_f32_hwc'"]),
        (np.zeros((0, 5, 3), np.uint8), "rgb_u8_hwc", ["at least one pixel"]),
        (np.ma.masked_array(np.zeros((2, 2), np.uint8)), "gray_u8_hw", ["declares uint8"]),
        ([[1, 2], [3, 4]], "gray_u8_hw", ["list of length 2"]),
        (None, "gray_u8_hw", ["None"]),
        ("a.png", "rgb_u8_hwc", ["'a.png'"]),
    ],
)
def test_anything_else_is_refused(image, name, parts):
    with pytest.raises(ImageFormatError) as caught:
        normalize_numpy_image(image, name, where="image 7 of X")
    for part in ["image 7 of X", name, *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (np.nan, "1 values that are NaN or infinite"),
        (np.inf, "1 values that are NaN or infinite"),
        (-0.1, "from -0.1 to 0"),
        (1.5, "from 0 to 1.5"),
        (255.0, "from 0 to 255"),
    ],
)
def test_float_values_outside_the_unit_interval(value, part):
    image = np.zeros((3, 4, 5), dtype=np.float32)
    image[1, 2, 3] = value
    with pytest.raises(ImageFormatError, match="rgb_f32_chw") as caught:
        normalize_numpy_image(image, "rgb_f32_chw")
    assert part in str(caught.value)


def test_u16_above_full_white():
    image = np.array([[4096]], dtype=np.uint16)
    with pytest.raises(ImageFormatError, match=r"up to 4096.*u16_max=4095"):
        normalize_numpy_image(image, "gray_u16_hw", u16_max=4095)


@pytest.mark.parametrize("u16_max", [0, -1, 65536, 255.0, True, None])
def test_u16_max_is_checked(u16_max):
    with pytest.raises(ImageFormatError, match="u16_max"):
        normalize_numpy_image(np.zeros((1, 1), np.uint16), "gray_u16_hw", u16_max=u16_max)


def test_unknown_format_lists_the_known_ones():
    with pytest.raises(ImageFormatError, match=r"'rgb'.*bgr_u8_hwc.*gray_f32_hw"):
        normalize_numpy_image(TWO_PIXELS, "rgb")


def test_ensure_returns_the_image_itself():
    assert ensure_rgb_u8_hwc(TWO_PIXELS) is TWO_PIXELS
    with pytest.raises(ImageFormatError, match=r"frame 3 .*'rgb_f32_chw'"):
        ensure_rgb_u8_hwc(np.zeros((3, 8, 9), np.float32), "frame 3")


def test_torch_tensors_pass_for_chw_only():
    torch = pytest.importorskip("torch")
    image, expected = HAND_WORKED["rgb_f32_chw"]
    tensor = torch.from_numpy(image.copy()).requires_grad_()
    np.testing.assert_array_equal(normalize_numpy_image(tensor, "rgb_f32_chw"), expected)
    with pytest.raises(ImageFormatError, match="torch tensor"):
        normalize_numpy_image(torch.zeros(2, 2, 3), "rgb_f32_hwc")
    with pytest.raises(ImageFormatError, match=r"torch\.uint8"):
        normalize_numpy_image(torch.zeros(3, 2, 2, dtype=torch.uint8), "rgb_f32_chw")
    with pytest.raises(ImageFormatError, match=r"torch\.float16"):
        normalize_numpy_image(torch.zeros(3, 2, 2, dtype=torch.half), "rgb_f32_chw")


def test_to_torch_and_back():
    torch = pytest.importorskip("torch")
    image = np.arange(2 * 43 * 3, dtype=np.uint8).reshape(2, 43, 3)
    image.setflags(write=False)
    tensor = to_torch_chw_float(image)
    assert tensor.shape == (3, 2, 43)
    assert tensor.dtype == torch.float32
    assert float(tensor[1, 0, 2]) == pytest.approx(7 / 255)
    np.testing.assert_array_equal(normalize_numpy_image(tensor, "rgb_f32_chw"), image)
    with pytest.raises(ImageFormatError):
        to_torch_chw_float(image.astype(np.float32))


@settings(max_examples=30)
@given(
    arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4))),
)
def test_u8_to_float_chw_and_back_is_the_identity(chw):
    out = normalize_numpy_image(chw.astype(np.float32) / np.float32(255), "rgb_f32_chw")
    np.testing.assert_array_equal(out, chw.transpose(1, 2, 0))


def test_torch_that_another_thread_is_just_importing_has_no_tensors_yet(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    found = normalize_numpy_image(RGB_F32, input_format="rgb_f32_hwc")
    np.testing.assert_array_equal(found, TWO_PIXELS)
