"""Residual networks in torch: the bottleneck and the decoder of reverse distillation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pyimgano.backbones._torch_module import torch_module

__all__ = ["build_bottleneck", "build_decoder"]


@lru_cache(maxsize=1)
def _modules() -> Any:
    """Classes of the modules, defined where torch is at hand."""
    torch = torch_module()
    nn: Any = torch.nn

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        padding = size // 2
        return nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)

    def upsampling(inputs: int, outputs: int) -> Any:
        return nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)

    class Block(nn.Module):
        """Residual block; ``step`` is -1 (half the size), 1 (double the size) or 0."""

        def __init__(self, inputs: int, outputs: int, middle: int | None, step: int) -> None:
            super().__init__()

            def resizing(a: int, b: int, size: int) -> Any:
                if step > 0:
                    return upsampling(a, b)
                return convolution(a, b, size, 2 if step < 0 else 1)

            if middle is None:  # two convolutions of 3 x 3
                layers = [(resizing(inputs, outputs, 3), outputs)]
                layers.append((convolution(outputs, outputs, 3), outputs))
            else:  # 3 x 3 between two of 1 x 1
                layers = [(convolution(inputs, middle, 1), middle)]
                layers.append((resizing(middle, middle, 3), middle))
                layers.append((convolution(middle, outputs, 1), outputs))
            body = []
            for layer, width in layers:
                body += [layer, nn.BatchNorm2d(width), nn.ReLU()]
            self.body = nn.Sequential(*body[:-1])
            self.shortcut = nn.Identity()
            if step or inputs != outputs:
                self.shortcut = nn.Sequential(resizing(inputs, outputs, 1), nn.BatchNorm2d(outputs))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    class Bottleneck(nn.Module):
        """Joins the maps of three layers at the size of the last, and embeds them at half of it."""

        def __init__(self, widths: Sequence[int], n_blocks: int, wide: bool) -> None:
            super().__init__()
            a, b, c = widths

            def halving(inputs: int, outputs: int) -> list[Any]:
                return [convolution(inputs, outputs, 3, 2), nn.BatchNorm2d(outputs), nn.ReLU()]

            self.first = nn.Sequential(*halving(a, b), *halving(b, c))
            self.second = nn.Sequential(*halving(b, c))
            middle = c // 2 if wide else None
            blocks = [Block(3 * c, 2 * c, middle, -1)]
            blocks += [Block(2 * c, 2 * c, middle, 0) for _ in range(n_blocks - 1)]
            self.embed = nn.Sequential(*blocks)

        def forward(self, first: Any, second: Any, third: Any) -> Any:
            return self.embed(torch.cat([self.first(first), self.second(second), third], dim=1))

    class Decoder(nn.Module):
        """Makes the maps of three layers from an embedding; returned in the order of the layers."""

        def __init__(self, widths: Sequence[int], blocks: Sequence[int], factor: int) -> None:
            super().__init__()
            self.stages = nn.ModuleList()
            inputs = 2 * widths[-1]
            for width, n in zip(reversed(widths), blocks):
                middle = width // 4 * factor if factor else None
                stage = [Block(inputs, width, middle, 1)]
                stage += [Block(width, width, middle, 0) for _ in range(n - 1)]
                self.stages.append(nn.Sequential(*stage))
                inputs = width

        def forward(self, x: Any) -> list[Any]:
            maps = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            return maps[::-1]

    return Bottleneck, Decoder


def build_bottleneck(widths: Sequence[int], n_blocks: int, *, wide: bool) -> Any:
    """Build the one-class bottleneck embedding, on the meta device.

    Parameters
    ----------
    widths : sequence of 3 int
        Channels of the layers that come in, each of half the size of the one before.
    n_blocks : int
        Residual blocks.
    wide : bool
        Whether blocks are those of ResNet-50 and larger.

    Returns
    -------
    torch.nn.Module
        Of the three maps; its output has twice the channels of the last, at half the size.
    """
    with torch_module().device("meta"):
        return _modules()[0](widths, n_blocks, wide)


def build_decoder(widths: Sequence[int], blocks: Sequence[int], factor: int) -> Any:
    """Build the decoder that mirrors the layers of a ResNet, on the meta device.

    Parameters
    ----------
    widths : sequence of 3 int
        Channels of the layers, the first one first.
    blocks : sequence of 3 int
        Residual blocks of each stage, the deepest first.
    factor : int
        0 for blocks of two convolutions; otherwise the width of the middle one of three, in
        quarters of the channels: 1 as in ResNet-50, 2 as in WideResNet-50-2.

    Returns
    -------
    torch.nn.Module
        Of the embedding; returns the three maps, the first layer first.
    """
    with torch_module().device("meta"):
        return _modules()[1](widths, blocks, factor)
