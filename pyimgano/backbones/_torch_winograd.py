"""Winograd's convolutions in the place of torch's, in graphs that run on a CPU."""

from __future__ import annotations

import operator
from collections import Counter
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np

from pyimgano._kernels.winograd import Winograd
from pyimgano.backbones._torch_module import torch_module

__all__ = ["use_winograd", "winograd_conv2d"]


@lru_cache(maxsize=1)
def winograd_conv2d() -> Any:
    """``WinogradConv2d``, a class that cannot be made before torch is imported."""
    torch = torch_module()
    module: Any = torch.nn.Module

    class WinogradConv2d(module):
        """``Winograd`` in the place of a module of torch: for inference on a CPU.

        Parameters
        ----------
        conv : torch.nn.Conv2d
            A convolution that ``WinogradConv2d.fits``, with values.
        relu : bool, default=False
            Whether negative results become zero.
        """

        def __init__(self, conv: Any, *, relu: bool = False) -> None:
            super().__init__()
            kernel = conv.weight.detach().numpy()
            bias = np.zeros(len(kernel), np.float32)
            if conv.bias is not None:
                bias[:] = conv.bias.detach().numpy()
            self._convolve = Winograd(kernel, bias, relu=relu)

        @staticmethod
        def fits(conv: Any) -> bool:
            """Return True if this class can replace the convolution and is faster."""
            return (
                type(conv) is torch.nn.Conv2d
                and conv.stride == (1, 1)
                and conv.padding in ((1, 1), "same")
                and conv.padding_mode == "zeros"
                and conv.dilation == (1, 1)
                and conv.groups == 1
                and conv.weight.dtype == torch.float32
                and Winograd.pays(conv.weight.shape)
            )

        def forward(self, x: Any, added: Any = None) -> Any:
            """Convolve, and add ``added`` before negatives become zero."""
            others: Any = repeat(None)
            if added is not None:
                n = self._convolve.n_outputs
                others = _maps(added.expand(len(x), n, *x.shape[2:]))
            threads = torch.get_num_threads()
            results = [self._convolve(*pair, threads) for pair in zip(_maps(x), others)]
            stacked = results[0][None] if len(results) == 1 else np.stack(results)
            return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    return WinogradConv2d


def use_winograd(graph: Any) -> None:
    """Replace the convolutions of a filled ``torch.fx`` graph that gain by it.

    A sum with another branch and a ReLU that follow a convolution are computed with it: later
    than it was, so only where nobody else uses, and might change, what it reads.
    """
    WinogradConv2d = winograd_conv2d()
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not WinogradConv2d.fits(modules[node.target]):
            continue
        if calls[node.target] != 1:  # one module, several places: they may end differently
            continue
        last, added = node, ()
        follower = _follower(node, last)
        if follower is not None and _is_sum(follower):
            added = tuple(other for other in follower.args if other is not node)
            last, follower = follower, _follower(node, follower)
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


def _follower(conv: Any, last: Any) -> Any:
    """The one node that uses ``last``, if the convolution may be put off until then, or None."""
    if len(last.users) != 1:
        return None
    (follower,) = last.users
    alone = len(conv.args[0].users) == 1
    return follower if alone or follower is last.next else None


def _is_sum(node: Any) -> bool:
    """Return True if a node adds two different maps."""
    torch = torch_module()
    return (
        node.op == "call_function"
        and node.target in (operator.add, operator.iadd, torch.add)
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(one, torch.fx.Node) for one in node.args)
        and node.args[0] is not node.args[1]
    )


def _is_relu(node: Any, modules: dict[str, Any]) -> bool:
    torch = torch_module()
    if node.op == "call_module":
        return type(modules[node.target]) is torch.nn.ReLU
    return node.op == "call_function" and node.target in (
        torch.relu,
        torch.nn.functional.relu,
    )


def _maps(batch: Any) -> np.ndarray:
    """A batch of torch's as maps (n, height, width, channels), C-contiguous."""
    torch = torch_module()
    return batch.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).numpy()


# Each loop over channels below writes one array, reads few, and runs along memory: of others the
# compiler cannot tell at little cost that no arrays overlap, and makes no vector operations.
