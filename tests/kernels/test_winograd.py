"""Winograd's convolutions against torch's own, alone and inside networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="networks need torch")
models = pytest.importorskip("torchvision.models", reason="networks need torchvision")

from pyimgano.backbones._torch_winograd import use_winograd, winograd_conv2d  # noqa: E402
from pyimgano.backbones._torchvision import build_graph, fold_batch_norms  # noqa: E402

WinogradConv2d = winograd_conv2d()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values).contiguous(memory_format=torch.channels_last)


def convolution(inputs: int, outputs: int, *, bias: bool = True, **options) -> torch.nn.Conv2d:
    conv = torch.nn.Conv2d(inputs, outputs, 3, bias=bias, **{"padding": 1, **options})
    conv.requires_grad_(False)
    conv.weight.copy_(drawn(*conv.weight.shape, seed=1) / (3 * inputs**0.5))
    if bias:
        conv.bias.copy_(drawn(outputs, 1, 1, 1, seed=2).ravel())
    return conv


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to what float32 leaves of sums of some hundred products."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    inputs=st.sampled_from([32, 40, 64, 130]),
    outputs=st.sampled_from([32, 64, 96, 128]),
    bias=st.booleans(),
    relu=st.booleans(),
    add=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_direct_convolution(height, width, inputs, outputs, bias, relu, add):
    conv = convolution(inputs, outputs, bias=bias)
    x, added = drawn(1, inputs, height, width), drawn(1, outputs, height, width, seed=3)
    expected = conv(x) + added if add else conv(x)
    found = WinogradConv2d(conv, relu=relu)(x, *[added] * add)
    close(found, expected.relu() if relu else expected)


@pytest.mark.parametrize(("height", "width"), [(61, 67), (130, 9)])
def test_maps_of_many_tiles_and_a_batch_with_another_branch(height, width):
    conv = convolution(48, 64)
    x, added = drawn(2, 48, height, width), drawn(2, 64, height, width, seed=3)
    close(WinogradConv2d(conv, relu=True)(x, added), (conv(x) + added).relu())


def test_what_is_added_may_have_one_value_for_a_channel():
    conv, x, added = convolution(32, 64), drawn(1, 32, 9, 9), drawn(1, 64, 1, 1, seed=3)
    close(WinogradConv2d(conv)(x, added), conv(x) + added)


class Block(torch.nn.Module):
    """Two convolutions, put together in a way of one's own."""

    def __init__(self, body):
        super().__init__()
        self.first, self.second = convolution(32, 32), convolution(32, 32)
        self._body = body

    def forward(self, x):
        return self._body(self, x)


@pytest.mark.parametrize(
    ("body", "replaced"),
    [
        (lambda s, x: s.first(torch.relu(s.first(x))), 0),  # one module, two places
        (lambda s, x: s.first(x) + s.second(x), 2),  # the input has two users
        (lambda s, x: torch.relu(s.first(x) + 1.0), 1),
        (lambda s, x: torch.add(s.first(x), x, alpha=2.0), 1),
        (lambda s, x: (lambda y: torch.relu(y + y))(s.first(x)), 1),
        (lambda s, x: (lambda y: torch.relu(y) - y)(s.first(x)), 1),
        (lambda s, x: (lambda y, z: y + z)(s.first(x), torch.relu_(x)), 1),  # x is changed
        (lambda s, x: torch.relu(s.second(torch.relu(s.first(x * 1.0))) + x), 2),
    ],
)
def test_a_graph_computes_what_it_did(body, replaced):
    graph = torch.fx.symbolic_trace(Block(body))
    x = drawn(1, 32, 10, 11)
    expected = graph(x.clone())
    use_winograd(graph)
    assert sum(isinstance(one, WinogradConv2d) for one in graph.modules()) == replaced
    close(graph(x.clone()), expected)


def test_a_kernel_with_one_weight_moves_the_map():
    conv = convolution(32, 32, bias=False)
    conv.weight.zero_()
    for channel in range(32):
        conv.weight[channel, channel, 0, 2] = 1.0  # what lies above, to the right
    x = drawn(1, 32, 6, 9)
    found = WinogradConv2d(conv)(x)
    moved = torch.zeros_like(x)
    moved[:, :, 1:, :-1] = x[:, :, :-1, 1:]
    assert float((found - moved).abs().max()) < 1e-5


def test_one_map_is_the_same_bit_for_bit_in_any_batch_layout_and_number_of_threads():
    conv = WinogradConv2d(convolution(64, 96), relu=True)
    maps = drawn(3, 64, 37, 30)
    together = conv(maps)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for i in range(3):
                alone = conv(maps[i : i + 1].contiguous(memory_format=torch.contiguous_format))
                assert torch.equal(alone[0], together[i])
    finally:
        torch.set_num_threads(before)


def test_what_is_no_number_stays_none():
    maps = drawn(1, 32, 8, 8)
    maps[0, 5, 6, 6] = float("nan")
    assert not torch.isfinite(WinogradConv2d(convolution(32, 32), relu=True)(maps)).all()


@pytest.mark.parametrize(
    "conv",
    [
        convolution(32, 64, stride=2),
        convolution(32, 64, padding=0),
        convolution(32, 64, dilation=2, padding=2),
        convolution(64, 64, groups=2),
        convolution(32, 32, padding_mode="reflect"),
        convolution(3, 64),
        convolution(64, 16),
        convolution(32, 32).to(torch.bfloat16),
        torch.nn.Conv2d(64, 64, 1),
        torch.nn.ConvTranspose2d(64, 64, 3, padding=1),
        torch.nn.ReLU(),
    ],
    ids=repr,
)
def test_other_modules_are_left_alone(conv):
    assert not WinogradConv2d.fits(conv)


def test_padding_by_name_fits():
    conv = convolution(32, 32, padding="same")
    assert WinogradConv2d.fits(conv)
    x = drawn(1, 32, 5, 7)
    close(WinogradConv2d(conv)(x), conv(x))


@pytest.mark.parametrize(
    ("backbone", "layers", "replaced"),
    [
        ("resnet18", ("layer1", "layer2", "layer3"), 10),
        ("resnet18", ("layer1.0.conv1", "layer1.0.relu", "layer1.0.bn2"), 2),
        ("resnet50", ("layer1", "layer2"), 6),
        ("vgg11_bn", ("features.14", "features.21"), 5),
        ("densenet121", ("features.denseblock1",), 6),
        ("squeezenet1_1", ("features.7",), 2),
        ("mobilenet_v3_small", ("features.4",), 0),
    ],
)
def test_networks_compute_what_they_did(backbone, layers, replaced):
    generator = torch.Generator().manual_seed(0)
    plain, fast = (build_graph(backbone, layers).to_empty(device="cpu") for _ in range(2))
    plain.requires_grad_(False)
    fast.requires_grad_(False)
    for name, tensor in plain.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.uniform_(0.0, 0.2, generator=generator)
    fast.load_state_dict(plain.state_dict())
    fold_batch_norms(fast)
    use_winograd(fast)
    assert sum(isinstance(one, WinogradConv2d) for one in fast.modules()) == replaced
    x = drawn(1, 3, 60, 44)
    with torch.inference_mode():
        for found, expected in zip(fast(x), plain(x)):
            assert found.shape == expected.shape
            assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
