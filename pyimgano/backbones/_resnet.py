"""ResNets on a CPU without torch: the networks most anomaly detectors take their features from.

torch takes seconds and half a gigabyte to be imported, more than everything else these features
need. What a ResNet computes is little: convolutions, sums, a maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from pyimgano._kernels.convolution import convolution, max_pool
from pyimgano.backbones._onnx import GraphWriter

__all__ = ["RESNETS", "ResNet"]

# PyTorch's epsilon under the root of a batch norm.
_EPSILON = 1e-5
_PUBLISHED = "https://download.pytorch.org/models/"


class _Layout(NamedTuple):
    """Sizes in which the ResNets differ.

    Attributes
    ----------
    blocks : tuple of int
        Number of blocks of each of the four layers.
    bottleneck : int
        Channels between the 1 x 1 convolutions of the first layer's blocks; 0 where blocks are
        two 3 x 3 convolutions.
    title, published : str
        torchvision's name for the network in those of its weights, and the file name of the first
        that it published.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: int
    title: str
    published: str


_LAYOUTS = {
    "resnet18": _Layout((2, 2, 2, 2), 0, "ResNet18", "resnet18-f37072fd.pth"),
    "resnet34": _Layout((3, 4, 6, 3), 0, "ResNet34", "resnet34-b627a593.pth"),
    "resnet50": _Layout((3, 4, 6, 3), 64, "ResNet50", "resnet50-0676ba61.pth"),
    "resnet101": _Layout((3, 4, 23, 3), 64, "ResNet101", "resnet101-63fe2227.pth"),
    "resnet152": _Layout((3, 8, 36, 3), 64, "ResNet152", "resnet152-394f9c45.pth"),
    "wide_resnet50_2": _Layout(
        (3, 4, 6, 3), 128, "Wide_ResNet50_2", "wide_resnet50_2-95faca4d.pth"
    ),
    "wide_resnet101_2": _Layout(
        (3, 4, 23, 3), 128, "Wide_ResNet101_2", "wide_resnet101_2-32ee1156.pth"
    ),
}

# Names of the networks offered here.
RESNETS = tuple(_LAYOUTS)


class _Convolution(NamedTuple):
    """A convolution and the batch norm after it, by their names in a state dict."""

    name: str
    norm: str
    inputs: int
    outputs: int
    size: int
    stride: int
    relu: bool


class _Block(NamedTuple):
    """A residual block: convolutions one after the other, and what their result is added to.

    Attributes
    ----------
    name : str
        ``"layer2.0"``.
    body : tuple of _Convolution
        The last one's result is what the rest is added to.
    shortcut : _Convolution or None
        What the block's input goes through before it is added; None for nothing.
    """

    name: str
    body: tuple[_Convolution, ...]
    shortcut: _Convolution | None


_STEM = _Convolution("conv1", "bn1", 3, 64, 7, 2, True)


class ResNet:
    """A ResNet from its input to the layers asked for.

    Parameters
    ----------
    backbone : str
    layers : sequence of str
        ``ResNet.offers(backbone, layers)`` says which there are.
    colors : (sequence of float, sequence of float)
        Mean and standard deviation of the colors it was trained with.

    Attributes
    ----------
    settings : context manager
        To be held while many images are run.
    shapes : dict of str to tuple of int
        Names and shapes of the tensors it takes from a state dict of torchvision's, those of the
        layers that are run, in the order in which they are used.
    tables : set of str
        Those of them that are no parameters, nor statistics: none.
    any_size : bool
        Whether one ONNX file serves images of all sizes.
    onnx_writers : tuple of str
        Packages on whose version that file depends.
    """

    tables: frozenset[str] = frozenset()
    any_size = True
    onnx_writers: tuple[str, ...] = ()

    settings = nullcontext()

    def __init__(
        self,
        backbone: str,
        layers: Sequence[str],
        colors: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        # Normalizes values 0-255 at once: (x / 255 - mean) / std.
        self._mean, self._std = (255 * np.array(values, np.float32) for values in colors)
        blocks = _blocks(_LAYOUTS[backbone])
        last = _last_blocks(blocks)
        self._ends = [last[layer] for layer in layers]
        self._blocks = blocks[: max(self._ends) + 1]
        self.shapes = {
            name: shape for one in self._convolutions() for name, shape in _shapes(one).items()
        }

    @staticmethod
    def offers(backbone: str, layers: Sequence[str] = ()) -> bool:
        """Return True if it has the outputs of these layers: whole layers or their blocks."""
        if backbone not in _LAYOUTS:
            return False
        return set(layers) <= _last_blocks(_blocks(_LAYOUTS[backbone])).keys()

    @staticmethod
    def published(backbone: str) -> tuple[str, str]:
        """Name and address of the first published weights of a network it knows."""
        layout = _LAYOUTS[backbone]
        return f"{layout.title}_Weights.IMAGENET1K_V1", _PUBLISHED + layout.published

    def fill(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over the weights, batch norms merged into the convolutions before them."""
        self._filled = {}
        for one in self._convolutions():
            self._filled[one.name] = convolution(
                *_merged(one, state), stride=one.stride, padding=one.size // 2, relu=one.relu
            )

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
        height, width, _ = image.shape
        x = image.reshape(height, -1).astype(np.float32)  # whole rows: three values are too few
        x -= np.tile(self._mean, width)
        x /= np.tile(self._std, width)
        filled = self._filled
        x = max_pool(filled[_STEM.name](x.reshape(image.shape), None, threads))
        wanted: dict[int, np.ndarray] = {}
        for number, block in enumerate(self._blocks):
            shortcut = block.shortcut
            added = x if shortcut is None else filled[shortcut.name](x, None, threads)
            for one in block.body[:-1]:
                x = filled[one.name](x, None, threads)
            x = filled[block.body[-1].name](x, added, threads)
            if number in self._ends:  # of a large image, all would be a gigabyte
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

        def convolved(x: str, one: _Convolution) -> str:
            kernel, bias = _merged(one, state)
            padding = one.size // 2
            return graph.convolution(x, one.name, kernel, bias, stride=one.stride, padding=padding)

        x = graph.max_pool(graph.rectified(convolved(graph.pixels(self._mean, self._std), _STEM)))
        wanted: dict[int, tuple[str, int]] = {}
        for number, block in enumerate(self._blocks):
            added = x if block.shortcut is None else convolved(x, block.shortcut)
            for one in block.body[:-1]:
                x = graph.rectified(convolved(x, one))
            x = convolved(x, block.body[-1])
            x = graph.rectified(graph.sum(x, added, f"{block.name}.sum"))
            wanted[number] = x, block.body[-1].outputs
        return graph.finished([wanted[end] for end in self._ends])

    def _convolutions(self) -> list[_Convolution]:
        parts = [(*block.body, block.shortcut) for block in self._blocks]
        return [_STEM, *(one for block in parts for one in block if one is not None)]


def _blocks(layout: _Layout) -> list[_Block]:
    """All residual blocks, first to last."""
    blocks = []
    inputs = _STEM.outputs
    for number, n_blocks in enumerate(layout.blocks):
        width = 64 << number  # doubled from layer to layer, while the map is halved
        for index in range(n_blocks):
            name = f"layer{number + 1}.{index}"
            stride = 2 if number > 0 and index == 0 else 1
            if layout.bottleneck:
                inner, outputs = layout.bottleneck << number, 4 * width
                plan = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
            else:
                outputs = width
                plan = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
            body = tuple(
                _Convolution(f"{name}.conv{k}", f"{name}.bn{k}", *sizes, True)
                for k, sizes in enumerate(plan, start=1)
            )
            shortcut = None
            if stride != 1 or inputs != outputs:
                names = f"{name}.downsample.0", f"{name}.downsample.1"
                shortcut = _Convolution(*names, inputs, outputs, 1, stride, False)
            blocks.append(_Block(name, body, shortcut))
            inputs = outputs
    return blocks


def _last_blocks(blocks: list[_Block]) -> dict[str, int]:
    """For each layer and each block, the number of the block whose output is its own."""
    layers = {one.name.partition(".")[0]: i for i, one in enumerate(blocks)}
    return {**layers, **{one.name: i for i, one in enumerate(blocks)}}


def _merged(one: _Convolution, state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution with its batch norm."""
    weight, gain, shift, mean, variance = (state[name].astype(np.float64) for name in _shapes(one))
    gain = gain / np.sqrt(variance + _EPSILON)
    return (
        (weight * gain[:, None, None, None]).astype(np.float32),
        (shift - mean * gain).astype(np.float32),
    )


def _shapes(one: _Convolution) -> dict[str, tuple[int, ...]]:
    """Tensors of a convolution and its batch norm: kernel, gain, shift, mean and variance."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{one.name}.weight": (one.outputs, one.inputs, one.size, one.size),
        **{f"{one.norm}.{part}": (one.outputs,) for part in parts},
    }
