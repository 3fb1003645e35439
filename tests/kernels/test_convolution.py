"""Convolutions without torch, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimgano._kernels.convolution import DirectConvolution, convolution, max_pool
from pyimgano._kernels.winograd import Winograd


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def written_out(x, kernel, bias, stride, padding):
    """One product after the other, in float64."""
    size = kernel.shape[2]
    x = np.pad(x.astype(np.float64), ((padding, padding), (padding, padding), (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[:2])
    out = np.empty((height, width, len(kernel)))
    for i in range(height):
        for j in range(width):
            seen = x[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.einsum("yxc,ocyx->o", seen, kernel) + bias
    return out


def close(found, expected):
    assert found.shape == expected.shape and found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    inputs=st.sampled_from([1, 3, 8]),
    outputs=st.sampled_from([64, 128]),
    kind=st.sampled_from([(7, 2, 3), (3, 2, 1), (1, 2, 0), (1, 1, 0), (3, 1, 1), (3, 1, 0)]),
    relu=st.booleans(),
    add=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_sum(height, width, inputs, outputs, kind, relu, add):
    size, stride, padding = kind
    height, width = max(height, size - 2 * padding), max(width, size - 2 * padding)
    x, kernel = drawn(height, width, inputs), drawn(outputs, inputs, size, size, seed=1)
    bias = drawn(outputs, seed=2)
    expected = written_out(x, kernel, bias, stride, padding)
    added = drawn(*expected.shape, seed=3) if add else None
    expected = expected + added if add else expected
    before = x.copy()
    conv = convolution(kernel, bias, stride=stride, padding=padding, relu=relu)
    close(conv(x, added), np.maximum(expected, 0) if relu else expected)
    np.testing.assert_array_equal(x, before)
    if add:
        np.testing.assert_array_equal(added, drawn(*expected.shape, seed=3))


def test_the_fast_way_is_taken_where_it_pays():
    bias = np.zeros(64, np.float32)
    assert isinstance(convolution(drawn(64, 32, 3, 3), bias, padding=1), Winograd)
    for shape, options in [
        ((64, 32, 3, 3), {"padding": 1, "stride": 2}),
        ((64, 32, 3, 3), {"padding": 0}),
        ((64, 16, 3, 3), {"padding": 1}),
        ((64, 32, 1, 1), {"padding": 0}),
    ]:
        assert isinstance(convolution(drawn(*shape), bias, **options), DirectConvolution)


@pytest.mark.parametrize("kind", [(7, 2, 3, 3), (3, 1, 1, 64), (1, 1, 0, 16)])
def test_the_same_bits_on_any_number_of_threads(kind):
    size, stride, padding, inputs = kind
    conv = convolution(
        drawn(128, inputs, size, size), drawn(128), stride=stride, padding=padding, relu=True
    )
    x = drawn(37, 22, inputs)
    one = conv(x)
    for threads in (2, 3, 50):
        np.testing.assert_array_equal(conv(x, None, threads), one)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 5, 1), (7, 4, 64), (8, 9, 5)])
def test_pooling_takes_the_largest_of_nine(shape):
    x = drawn(*shape) - 3.0  # nothing beyond the border counts, zeros would
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = [
        [padded[i : i + 3, j : j + 3].max(axis=(0, 1)) for j in range(0, shape[1], 2)]
        for i in range(0, shape[0], 2)
    ]
    np.testing.assert_array_equal(max_pool(x), expected)
