"""3 x 3 convolutions by Winograd's minimal filtering: a quarter of the multiplications.

Nearly all of a residual network's time on a CPU goes into 3 x 3 convolutions, which torch
computes directly and at close to the processor's peak. ``F(4 x 4, 3 x 3)`` [1]_ gets 4 x 4 outputs
from 6 x 6 inputs with 36 multiplications in place of 144, and its transforms are few additions:
the whole convolution takes less than half the time. It stays in float32; results differ from the
direct sum's by a few 1e-6 of the largest.

Importing this module imports torch.

References
----------
.. [1] A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import numba
import numpy as np
import torch

from pyimgano.utils._threads import in_threads, ranges

__all__ = ["WinogradConv2d", "use_winograd"]

# Transform of the kernel; those of input and output are written out below.
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
# Below so many channels the transforms cost more than the multiplications they save.
_FEWEST_CHANNELS = 32
# Tiles times channels worked on at a time: both transforms of them stay in the cache (1 MiB).
_BLOCK = 4096


class WinogradConv2d(torch.nn.Module):
    """What a 3 x 3 convolution, and what may follow it, computes: for inference on a CPU.

    Parameters
    ----------
    conv : torch.nn.Conv2d
        A convolution that ``WinogradConv2d.fits``, with values.
    relu : bool, default=False
        Whether negative results become zero.
    """

    def __init__(self, conv: Any, *, relu: bool = False) -> None:
        super().__init__()
        kernel = conv.weight.detach().numpy().astype(np.float64)
        outputs, inputs = kernel.shape[:2]
        spectrum = np.einsum("ij,ocjk,lk->ilco", _KERNEL, kernel, _KERNEL, optimize=True)
        self._spectrum = np.ascontiguousarray(
            spectrum.reshape(36, inputs, outputs), dtype=np.float32
        )
        self._bias = np.zeros(outputs, np.float32)
        if conv.bias is not None:
            self._bias[:] = conv.bias.detach().numpy()
        self._relu = relu

    @staticmethod
    def fits(conv: Any) -> bool:
        """Whether a module is a convolution that this one can stand in for, and profitably."""
        return (
            type(conv) is torch.nn.Conv2d
            and conv.kernel_size == (3, 3)
            and conv.stride == (1, 1)
            and conv.padding in ((1, 1), "same")
            and conv.padding_mode == "zeros"
            and conv.dilation == (1, 1)
            and conv.groups == 1
            and conv.weight.dtype == torch.float32
            and min(conv.in_channels, conv.out_channels) >= _FEWEST_CHANNELS
        )

    def forward(self, x: Any, added: Any = None) -> Any:
        """Convolve; add ``added``, of the shape of the result, before negatives become zero."""
        n, channels, height, width = x.shape
        result = torch.empty((n, len(self._bias), height, width), memory_format=torch.channels_last)
        tiles = -(-height // 4) * -(-width // 4)
        block = -(-tiles // -(-tiles * channels // _BLOCK))
        cuts = ranges(-(-tiles // block), torch.get_num_threads())
        for i in range(n):
            inputs, out = _rows(x, i), _rows(result, i)
            others = out if added is None else _rows(added, i)  # read before it is written

            def convolve(
                part: slice,
                inputs: np.ndarray = inputs,
                others: np.ndarray = others,
                out: np.ndarray = out,
            ) -> None:
                first, last = part.start * block, min(part.stop * block, tiles)
                _convolve(
                    inputs, self._spectrum, self._bias, others, added is not None, self._relu,
                    first, last, block, out,
                )  # fmt: skip

            in_threads(convolve, cuts, len(cuts))
        return result


def use_winograd(graph: Any) -> None:
    """Replace the convolutions of a filled ``torch.fx`` graph that gain by it.

    A sum with another branch and a ReLU that follow a convolution are computed with it.
    """
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not WinogradConv2d.fits(modules[node.target]):
            continue
        if calls[node.target] != 1:  # one module, several places: they may end differently
            continue
        last, added = node, ()
        follower = _only_user(last)
        if follower is not None and _is_sum(follower):
            added = tuple(other for other in follower.args if other is not node)
            last, follower = follower, _only_user(follower)
        relu = follower is not None and _is_relu(follower, modules)
        if relu:
            last = follower
        parent, _, child = node.target.rpartition(".")
        setattr(modules[parent], child, WinogradConv2d(modules[node.target], relu=relu))
        with graph.graph.inserting_after(last):
            fused = graph.graph.call_module(node.target, (*node.args, *added))
        last.replace_all_uses_with(fused)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _only_user(node: Any) -> Any:
    """The one node that uses this one, or None."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_sum(node: Any) -> bool:
    """Whether a node adds two different maps."""
    return (
        node.op == "call_function"
        and node.target in (operator.add, operator.iadd, torch.add)
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(one, torch.fx.Node) for one in node.args)
        and node.args[0] is not node.args[1]
    )


def _is_relu(node: Any, modules: dict[str, Any]) -> bool:
    if node.op == "call_module":
        return type(modules[node.target]) is torch.nn.ReLU
    return node.op == "call_function" and node.target in (
        torch.relu,
        torch.nn.functional.relu,
    )


def _rows(maps: Any, i: int) -> np.ndarray:
    """Map ``i`` as a C-contiguous array (height, width, channels)."""
    one = maps[i : i + 1].contiguous(memory_format=torch.channels_last)
    return one.permute(0, 2, 3, 1)[0].numpy()


# The loops over channels are the innermost everywhere and run along memory: each becomes a
# handful of vector operations. They are kept short, with few arrays each, because the compiler
# vectorises a loop only if it can check at little cost that its arrays do not overlap.


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def _input_transform(a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5):
    four, five, two = np.float32(4), np.float32(5), np.float32(2)
    for c in range(b0.shape[0]):
        b0[c] = four * a0[c] - five * a2[c] + a4[c]
        b5[c] = four * a1[c] - five * a3[c] + a5[c]
    for c in range(b0.shape[0]):
        even, odd = a4[c] - four * a2[c], a3[c] - four * a1[c]
        b1[c], b2[c] = even + odd, even - odd
    for c in range(b0.shape[0]):
        even, odd = a4[c] - a2[c], two * (a3[c] - a1[c])
        b3[c], b4[c] = even + odd, even - odd


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def _output_transform(a0, a1, a2, a3, a4, a5, b0, b1, b2, b3):
    four, eight, two = np.float32(4), np.float32(8), np.float32(2)
    for c in range(b0.shape[0]):
        b0[c] = a0[c] + (a1[c] + a2[c]) + (a3[c] + a4[c])
        b1[c] = (a1[c] - a2[c]) + two * (a3[c] - a4[c])
    for c in range(b0.shape[0]):
        b2[c] = (a1[c] + a2[c]) + four * (a3[c] + a4[c])
        b3[c] = (a1[c] - a2[c]) + eight * (a3[c] - a4[c]) + a5[c]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _read_tiles(x, first, last, half, zero, spectrum):
    """Transform the 6 x 6 inputs of some tiles: ``spectrum (36, tiles, channels)``."""
    height, width, _ = x.shape
    across = (width + 3) // 4
    for t in range(first, last):
        top, left = t // across * 4 - 1, t % across * 4 - 1
        for j in range(6):
            column = left + j
            if column < 0 or column >= width:
                half[:, j] = 0
                continue
            _input_transform(
                x[top, column] if top >= 0 else zero,
                x[top + 1, column],
                x[top + 2, column] if top + 2 < height else zero,
                x[top + 3, column] if top + 3 < height else zero,
                x[top + 4, column] if top + 4 < height else zero,
                x[top + 5, column] if top + 5 < height else zero,
                half[0, j], half[1, j], half[2, j], half[3, j], half[4, j], half[5, j],
            )  # fmt: skip
        k = t - first
        for i in range(6):
            row = half[i]
            at = 6 * i
            _input_transform(
                row[0], row[1], row[2], row[3], row[4], row[5],
                spectrum[at, k], spectrum[at + 1, k], spectrum[at + 2, k],
                spectrum[at + 3, k], spectrum[at + 4, k], spectrum[at + 5, k],
            )  # fmt: skip


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _write_tiles(spectrum, bias, others, add, relu, first, last, half, line, out):
    """Bring products ``(36, tiles, channels)`` back to 4 x 4 outputs each, and finish them."""
    height, width, channels = out.shape
    across = (width + 3) // 4
    zero = np.float32(0)
    for t in range(first, last):
        k = t - first
        for j in range(6):
            _output_transform(
                spectrum[j, k], spectrum[6 + j, k], spectrum[12 + j, k],
                spectrum[18 + j, k], spectrum[24 + j, k], spectrum[30 + j, k],
                half[0, j], half[1, j], half[2, j], half[3, j],
            )  # fmt: skip
        top, left = t // across * 4, t % across * 4
        for i in range(min(4, height - top)):
            row = half[i]
            _output_transform(
                row[0], row[1], row[2], row[3], row[4], row[5],
                line[0], line[1], line[2], line[3],
            )  # fmt: skip
            for j in range(min(4, width - left)):
                value, target = line[j], out[top + i, left + j]
                for c in range(channels):
                    value[c] += bias[c]
                if add:
                    other = others[top + i, left + j]
                    for c in range(channels):
                        value[c] += other[c]
                if relu:
                    for c in range(channels):
                        # Not max(): what is no number must stay none.
                        target[c] = zero if value[c] < zero else value[c]
                else:
                    for c in range(channels):
                        target[c] = value[c]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _convolve(x, kernel, bias, others, add, relu, first, last, block, out):
    """Tiles ``first`` to ``last``, ``block`` at a time."""
    inputs, outputs = kernel.shape[1:]
    before = np.empty((36, block, inputs), np.float32)
    after = np.empty((36, block, outputs), np.float32)
    half = np.empty((6, 6, inputs), np.float32)
    half_out = np.empty((4, 6, outputs), np.float32)
    line = np.empty((4, outputs), np.float32)
    zero = np.zeros(inputs, np.float32)
    for start in range(first, last, block):
        stop = min(start + block, last)
        n = stop - start
        _read_tiles(x, start, stop, half, zero, before)
        for k in range(36):
            np.dot(before[k, :n], kernel[k], after[k, :n])
        _write_tiles(after, bias, others, add, relu, start, stop, half_out, line, out)
