"""Running a torch module as a frozen network, on a CPU or a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from pyimgano.backbones._onnx import INPUT, OPSET
from pyimgano.exceptions import DeviceError
from pyimgano.utils._optional import import_optional
from pyimgano.utils._threads import (
    RefCountedSetting,
    map_on_workers,
    n_threads,
    one_blas_thread,
)

__all__ = [
    "TorchModule",
    "deterministic",
    "map_one_by_one",
    "resolve_device",
    "torch_module",
    "torch_threads",
]


def torch_module() -> Any:
    """``torch``, imported when it is needed."""
    return import_optional("torch", "torch", "a network")


def _remember_torch_threads() -> Any:
    torch = torch_module()
    before = torch.get_num_threads()
    return lambda: torch.set_num_threads(before)


def _use_torch_threads(n: int) -> None:
    torch = torch_module()
    # A new thread takes over the process's number when it first asks for its own, which would
    # undo what was set before.
    if torch.get_num_threads() != n:  # setting it makes torch forget prepared convolutions
        torch.set_num_threads(n)


# Telling one thread how many to use also tells all that are yet to come.
_keep_torch_threads = RefCountedSetting(_remember_torch_threads)


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch use ``n`` threads in this thread; afterwards it has the number of before."""
    with _keep_torch_threads:
        _use_torch_threads(n)
        yield


def deterministic(device: str) -> Any:
    """Context in which a GPU computes the same bits every time, with all digits."""
    if not device.startswith("cuda"):
        return nullcontext()
    # TF32 would cost half the digits; the other flags are their usual values.
    return torch_module().backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


def map_one_by_one(function: Callable[[Any], Any], items: Sequence[Any], device: str) -> list[Any]:
    """``function`` of each item, in order, where torch has one thread for each item.

    The CPU's convolutions choose their algorithm by the number of threads, and each rounds in its
    own way: so the result of an item is the same in any company.
    """

    def alone(item: Any) -> Any:
        _use_torch_threads(1)
        return function(item)

    if device != "cpu":
        return [function(item) for item in items]
    with _keep_torch_threads, one_blas_thread:
        return map_on_workers(alone, items, n_threads())


class TorchModule:
    """A torch module as the network of a feature step.

    Parameters
    ----------
    graph : torch.nn.Module
        Returns the maps of the layers. Its values do not matter, it may lie on the meta device.
    colors : (sequence of float, sequence of float)
        Mean and standard deviation of the colors the network was trained with.
    device : str
    precision : {"float32", "bfloat16"}
    optimize : callable, default=None
        Makes the filled graph faster without changing what it computes.
    for_size : callable, default=None
        Returns the filled graph for images of one height and width, computed with operators that
        ONNX has. None if the graph itself is such a one.

    Attributes
    ----------
    settings : context manager
        To be held while many images are run.
    any_size : bool
        Whether one ONNX file serves images of all sizes.
    onnx_writers : tuple of str
        Packages on whose version that file depends.
    """

    any_size = False
    onnx_writers = ("torch", "torchvision", "timm")
    settings = _keep_torch_threads

    def __init__(
        self,
        graph: Any,
        colors: tuple[Sequence[float], Sequence[float]],
        device: str,
        precision: str,
        optimize: Callable[[Any], None] | None = None,
        for_size: Callable[[Any, tuple[int, int]], Any] | None = None,
    ) -> None:
        self.graph = graph
        self._for_size = for_size
        self._is_filled = False
        self._colors, self._device, self._optimize = colors, device, optimize
        self._bfloat16 = precision == "bfloat16"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that matter for its output."""
        return {
            name: tuple(tensor.shape)
            for name, tensor in self.graph.state_dict().items()
            if not name.endswith("num_batches_tracked")  # counts training steps
        }

    @property
    def tables(self) -> set[str]:
        """Those of them that are no parameters, nor statistics of a batch norm."""
        parameters = {name for name, _ in self.graph.named_parameters()}
        statistics = ("running_mean", "running_var")
        return {one for one in self.shapes if not one.endswith(statistics)} - parameters

    def fill(self, state: dict[str, np.ndarray]) -> None:
        """Take over the weights and become fast."""
        torch = torch_module()
        graph = self.graph
        if any(tensor.is_meta for tensor in graph.state_dict().values()):
            graph = graph.to_empty(device="cpu")
        for name, target in graph.state_dict().items():
            if name in state:
                target.copy_(torch.tensor(state[name]))
            else:  # the batch norms' counters, see shapes
                target.zero_()
        graph.requires_grad_(False)
        if self._optimize is not None:
            self._optimize(graph)
        if self._bfloat16:
            # Autocast would convert these weights again for every image.
            for module in graph.modules():
                if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                    module.to(torch.bfloat16)
        self.graph = graph.to(device=self._device, memory_format=torch.channels_last)
        # Normalizes values 0-255 at once: (x / 255 - mean) / std.
        self._mean, self._std = (
            torch.tensor(values, device=self._device).mul_(255) for values in self._colors
        )
        self._is_filled = True

    def write_onnx(self, state: dict[str, np.ndarray], size: tuple[int, int]) -> bytes:
        """Write the network as ONNX, for images of one size.

        Parameters
        ----------
        state : dict of str to ndarray
            The weights.
        size : (int, int)
            Height and width of the images.
        """
        torch = torch_module()
        import_optional("onnx", "onnx", "a network as ONNX")
        if not self._is_filled:
            self.fill(state)
        mean, std = self._mean, self._std
        with torch.no_grad():
            graph = self.graph if self._for_size is None else self._for_size(self.graph, size)

        base: Any = torch.nn.Module

        class FromPixels(base):
            def forward(self, pixels: Any) -> list[Any]:
                colors = ((pixels.float() - mean) / std).permute(0, 3, 1, 2)
                return [
                    _checked_map(i, one).permute(0, 2, 3, 1) for i, one in enumerate(graph(colors))
                ]

        file = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            # That this exporter is the older one, and that sizes become constants.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                FromPixels().eval(),
                (torch.zeros((1, *size, 3), dtype=torch.uint8),),
                file,
                input_names=[INPUT],
                opset_version=OPSET,
                dynamo=False,
            )
        return file.getvalue()

    def maps(self, image: np.ndarray, threads: int) -> list[np.ndarray]:
        """The map (h, w, d) of each layer for one uint8 RGB image."""
        _use_torch_threads(threads)
        return [layer[0] for layer in self.run(image[None])]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The maps of each layer, (n, h, w, d), float32, for images (n, height, width, 3)."""
        torch = torch_module()
        cuda = self._device.startswith("cuda")
        autocast = (
            torch.autocast("cuda" if cuda else "cpu", dtype=torch.bfloat16)
            if self._bfloat16
            else nullcontext()
        )
        with torch.inference_mode(), deterministic(self._device):
            # (n, height, width, 3) in memory is what torch calls channels-last.
            # torch wants to own what it could write to, even where nothing writes.
            x = torch.from_numpy(np.require(images, requirements=("C", "W")))
            x = x.to(self._mean.device)  # "cuda" alone may be another one in this thread
            # Whole rows of pixels: torch is slow where its innermost loop is over three colors.
            width = x.shape[2]
            rows = x.flatten(2).float().sub_(self._mean.repeat(width)).div_(self._std.repeat(width))
            x = rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)
            with autocast:
                outputs = self.graph(x)
            maps = [_checked_map(i, output) for i, output in enumerate(outputs)]
            return [one.float().permute(0, 2, 3, 1).contiguous().cpu().numpy() for one in maps]


def _checked_map(i: int, output: Any) -> Any:
    if output.ndim != 4:
        raise ValueError(
            f"layers[{i}] gives an output of shape {tuple(output.shape)}, which is no map; choose "
            "layers with outputs (n, channels, height, width)."
        )
    return output


def resolve_device(device: str) -> str:
    """Find the torch device that ``device`` stands for on this machine.

    Parameters
    ----------
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:0"``, ...

    Returns
    -------
    str

    Raises
    ------
    DeviceError
        If there is no such device here.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise DeviceError(f'device={device!r}: expected "auto", "cpu", "cuda" or "cuda:0", ...')
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    torch = torch_module()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if count else "cpu"
    if int(device.partition(":")[2] or 0) >= count:
        raise DeviceError(
            f"device={device!r}: torch sees {count} CUDA devices on this machine"
            + (f", numbered from 0 to {count - 1}." if count else ".")
            + ' device="auto" takes what there is, device="cpu" always works.'
        )
    return device


def _may_have_gpu() -> bool:
    """Return True if there may be a GPU, so that importing torch, which takes seconds, pays."""
    if sys.modules.get("torch") is not None:
        return True
    if importlib.util.find_spec("torch") is None:
        return False
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        return os.path.exists("/dev/kfd")  # AMD's, which torch calls cuda as well
    return True
