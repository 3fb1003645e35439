"""The normalizer as a scikit-learn step."""

from __future__ import annotations

import warnings

import cv2
import joblib
import numpy as np
import pytest
import sklearn.utils.estimator_checks as sklearn_checks
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pyimgano.exceptions import ImageFormatError
from pyimgano.inputs import ImageFormat, ImageFormatNormalizer, ImageSequence, check_images


def frames(n=3, height=6, width=8):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_scikit_learn_battery():
    # Images have no 2-D form, so the data-driven part of the battery does not apply: say
    # what ran, because a battery that skips itself looks green.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        results = sklearn_checks.check_estimator(ImageFormatNormalizer(), on_fail="raise")
    assert "check_estimator_cloneable" in {r["check_name"] for r in results}
    assert {r["status"] for r in results} == {"passed"}


@pytest.mark.parametrize(
    "check",
    [
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_valid_tag_types",
        "check_estimator_repr",
        "check_mixin_order",
        "check_estimator_tags_renamed",
    ],
)
def test_scikit_learn_checks_that_need_no_data(check):
    getattr(sklearn_checks, check)("ImageFormatNormalizer", ImageFormatNormalizer())


def test_batch_of_bgr_frames():
    X = frames()
    out = ImageFormatNormalizer("bgr_u8_hwc").fit_transform(X)
    np.testing.assert_array_equal(out, X[..., ::-1])
    assert not np.shares_memory(out, X)


def test_default_copies_canonical_images():
    X = frames()
    out = ImageFormatNormalizer().transform(X)
    np.testing.assert_array_equal(out, X)
    assert not np.shares_memory(out, X)


@pytest.mark.parametrize("kind", [list, tuple, "object"])
def test_images_of_different_sizes(kind):
    X = [frames()[0], frames(height=3)[0]]
    if kind == "object":
        batch = np.empty(2, dtype=object)
        batch[:] = X
    else:
        batch = kind(X)
    out = ImageFormatNormalizer().transform(batch)
    assert isinstance(out, list)
    assert [image.shape for image in out] == [(6, 8, 3), (3, 8, 3)]


def test_checked_images_pass():
    out = ImageFormatNormalizer("bgr_u8_hwc").transform(check_images(frames()))
    np.testing.assert_array_equal(np.stack(out), frames()[..., ::-1])


def test_torch_batch():
    torch = pytest.importorskip("torch")
    X = frames()
    batch = torch.from_numpy(X).permute(0, 3, 1, 2).float() / 255
    out = ImageFormatNormalizer("rgb_f32_chw").transform(batch)
    np.testing.assert_array_equal(out, X)
    out = ImageFormatNormalizer("rgb_f32_chw").transform(list(batch))
    np.testing.assert_array_equal(np.stack(out), X)


def test_resize_averages_areas_down():
    image = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    image[0, :2, :2] = 100  # one of the four 2 x 2 blocks
    out = ImageFormatNormalizer(resize=2).transform(image)
    assert out.shape == (1, 2, 2, 3)
    assert out[0, ..., 0].tolist() == [[100, 0], [0, 0]]
    out = ImageFormatNormalizer(resize=(1, 2)).transform(image)
    assert out[0, ..., 0].tolist() == [[50, 0]]


def test_resize_of_mixed_direction_does_not_alias_the_shrinking_side():
    image = np.zeros((1, 8, 2, 3), dtype=np.uint8)
    image[0, ::2] = 200
    out = ImageFormatNormalizer(resize=(2, 4)).transform(image)
    assert (out == 100).all()


@pytest.mark.parametrize(
    ("X", "params", "parts"),
    [
        (frames()[0], {}, ["(6, 8, 3)", "[image]"]),
        (frames()[0, :, :, 0], {"input_format": "gray_u8_hw"}, ["(6, 8)", "[image]"]),
        (np.zeros((5, 4)), {}, ["(5, 4)", "rgb_u8_hwc"]),
        ("a.png", {}, ["[path]"]),
        (None, {}, ["None"]),
        ([], {}, ["no images"]),
        (frames()[:0], {}, ["no images"]),
        ([frames()[0], frames()[0].astype(float)], {}, ["image 1 of X", "float64"]),
        ([frames()[0], "a.png"], {}, ["image 1 of X", "'a.png'"]),
        (["a.png", frames()[0]], {}, ["item 1"]),
    ],
)
def test_errors_say_what_came(X, params, parts):
    with pytest.raises(ImageFormatError) as caught:
        ImageFormatNormalizer(**params).transform(X)
    for part in parts:
        assert part in str(caught.value)


def test_value_errors_name_the_image():
    X = np.zeros((3, 3, 2, 2), dtype=np.float32)
    X[2, 0, 0, 0] = 2
    with pytest.raises(ImageFormatError, match="image 2 of X has values from 0 to 2"):
        ImageFormatNormalizer("rgb_f32_chw").transform(X)


@pytest.mark.parametrize(
    "params",
    [
        {"input_format": "rgb"},
        {"resize": 0},
        {"resize": (3, 4, 5)},
        {"resize": (3, -1)},
        {"resize": 2.5},
        {"u16_max": 0},
        {"u16_max": 65536},
    ],
)
def test_parameters_are_checked(params):
    name = next(iter(params))
    with pytest.raises(ValueError, match=name):
        ImageFormatNormalizer(**params).fit(frames())
    with pytest.raises(ValueError, match=name):
        ImageFormatNormalizer(**params).transform(frames())


def test_clone_pickle_and_enum(tmp_path):
    step = clone(ImageFormatNormalizer(ImageFormat.BGR_U8_HWC, resize=(3, 4)))
    joblib.dump(step, tmp_path / "step.joblib")
    loaded = joblib.load(tmp_path / "step.joblib")
    np.testing.assert_array_equal(loaded.transform(frames()), step.transform(frames()))
    assert loaded.get_params() == step.get_params()


def test_in_a_pipeline():
    mean = FunctionTransformer(lambda X: X.reshape(len(X), -1).mean(axis=1, keepdims=True))
    pipe = make_pipeline(ImageFormatNormalizer("bgr_u8_hwc"), mean)
    assert pipe.fit(frames()).transform(frames()).shape == (3, 1)


def test_files_say_their_own_layout_and_stay_lazy(tmp_path):
    path = str(tmp_path / "deep.png")
    deep = np.array([[0, 4095], [2048, 1]], dtype=np.uint16)
    cv2.imwrite(path, deep)
    for X in ([path], np.array([path]), ImageSequence([path])):
        out = ImageFormatNormalizer("bgr_u8_hwc", u16_max=4095).transform(X)
        assert isinstance(out, ImageSequence)
        assert out[0][..., 0].tolist() == [[0, 255], [128, 0]]
    out = ImageFormatNormalizer(resize=(4, 6)).transform([path])
    assert out[0].shape == (4, 6, 3)
    assert ImageFormatNormalizer().transform(["missing.png"]).paths == ("missing.png",)


def test_two_different_declarations_are_an_error():
    images = ImageSequence(["a.png"], u16_max=4095, resize=8)
    with pytest.raises(ImageFormatError, match=r"u16_max=4095.*u16_max=65535"):
        ImageFormatNormalizer().transform(images)
    with pytest.raises(ImageFormatError, match=r"resize=\(8, 8\).*resize=\(9, 9\)"):
        ImageFormatNormalizer(u16_max=4095, resize=9).transform(images)
    assert ImageFormatNormalizer(u16_max=4095).transform(images).resize == (8, 8)
