"""Functions in LLVM's vector operations, and their plain versions where those do not compile."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numba
import numpy as np
import pytest
from llvmlite import ir

from pyimgano._kernels import convolution, depthwise, pointwise, products, triangular
from pyimgano._kernels.vector_code import compiles

SAID = "plain version with the same results up to rounding"
# Run in a process of its own, with an empty cache: what numba has compiled stays chosen.
PROGRAM = """
import sys
import warnings
import numpy as np
from llvmlite import ir

del ir.IRBuilder.shuffle_vector  # as if a new llvmlite had it no more
from pyimgano._kernels import depthwise
from tests.kernels.test_vector_code import compute

depthwise.compiles = lambda *_: False  # it uses nothing that numba itself could do without
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = compute()
np.savez(sys.argv[1], **results)
print(*(warning.message for warning in caught))
"""


def compute():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    results = {}
    for size, stride in ((7, 2), (1, 1)):
        kernel, bias, x = draw(64, 3, size, size), draw(64), draw(15, 18, 3)
        conv = convolution.DirectConvolution(
            kernel, bias, stride=stride, padding=size // 2, relu=False
        )
        results[f"convolution_{size}"] = conv(x)
    for outputs in (16, 32, 48):
        frame = np.empty((3, 12 * outputs), np.float32)
        one = pointwise.PointwiseConvolution(draw(outputs, 5), draw(outputs))
        one.into_frame(draw(3, 12, 5), 6.0, 0, 0, frame)
        results[f"pointwise_{outputs}"] = frame
    for width in (2, 12):
        out = np.empty((2, width * 16), np.float32)
        one = depthwise.DepthwiseConvolution(draw(16, 3, 3), draw(16), 1)
        one(draw(4, (width + 2) * 16), out)
        results[f"depthwise_{width}"] = out
    for d in (1, 2, 7, 13):
        values, mean, factor = draw(5, 3, d), draw(3, d), draw(3, d * (d + 1) // 2)
        results[f"mahalanobis_{d}"] = np.empty((5, 3))
        triangular.squared_mahalanobis(values, mean, factor, 0, 3, results[f"mahalanobis_{d}"])
    return results


@pytest.mark.parametrize("module", [convolution, depthwise, products, triangular])
def test_the_vector_code_compiles_here(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiles.__wrapped__(module._vector_sums, module._SIGNATURE)


@pytest.mark.parametrize("module", [convolution, products, triangular])
def test_code_that_llvm_refuses_is_found_out(module, monkeypatch):
    wrong = lambda self, lines: lines.append("shufflevectors")  # noqa: E731
    monkeypatch.setattr(ir.instructions.ShuffleVector, "descr", wrong)
    with pytest.warns(RuntimeWarning, match=rf"{module.__name__}\._vector_sums .*{SAID}"):
        assert not compiles.__wrapped__(module._vector_sums, module._SIGNATURE)


def test_the_plain_versions_give_the_same(tmp_path):
    # Optimizing takes longest; what is compared is what is computed, not how fast.
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_OPT": "0"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "results.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused = {"convolution": 1, "products": 3, "triangular": 1}
    assert done.stdout.count(SAID) == sum(refused.values()), done.stdout
    for module, count in refused.items():
        assert done.stdout.count(f"{module}._vector_sums") == count, done.stdout
    expected, found = compute(), np.load(tmp_path / "results.npz")
    assert expected.keys() == set(found)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.skipif(
    getattr(numba.config, "CAPTURED_ERRORS", "new_style") != "new_style",
    reason="this numba makes every error one of the compiler's",
)
def test_an_error_that_is_not_the_compilers_is_not_hidden(monkeypatch):
    def interrupted(*_):
        raise KeyError("something else")

    monkeypatch.setattr(ir.IRBuilder, "shuffle_vector", interrupted)
    with pytest.raises(KeyError, match="something else"):
        compiles.__wrapped__(triangular._vector_sums, triangular._SIGNATURE)
