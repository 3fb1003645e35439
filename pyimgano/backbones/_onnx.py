"""Networks as ONNX files, which other engines read: written from arrays, kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from pyimgano.backbones._weights import own_cache_dir, side_file
from pyimgano.utils._optional import import_optional
from pyimgano.utils._outputs import atomic_write
from pyimgano.utils._warning import warn_user

__all__ = ["INPUT", "OPSET", "GraphWriter", "OnnxFiles", "cached_onnx", "output_names"]

# The operators' version: old enough for every version of the engines that the extras admit.
OPSET = 17
_IR_VERSION = 8  # the file format of that time
INPUT = "image"
# Raised when the same network is to be written in another way, so that old files are not used.
_EDITION = 1


class OnnxFiles(NamedTuple):
    """A network as ONNX files, which an engine runs without its weights.

    Parameters
    ----------
    files : dict of (int, int) or None to bytes
        By height and width of the images that a file takes; None for images of all sizes.
    patch_size : (int, int) or None
        Height and width of the patches that images are brought to multiples of, if any.
    """

    files: dict[tuple[int, int] | None, bytes]
    patch_size: tuple[int, int] | None


def output_names(n: int) -> list[str]:
    """Names of the outputs of a network with ``n`` layers."""
    return [f"map{i}" for i in range(n)]


class GraphWriter:
    """Writes the graph of a convolutional network, one operator after the other.

    The network takes uint8 RGB pixels (n, height, width, 3) of any size, and returns the map
    (n, h, w, d), float32, of each layer. What the methods take and return in between are names of
    values of shape (n, channels, h, w).
    """

    def __init__(self) -> None:
        self._onnx = import_optional("onnx", "onnx", "a network as ONNX")
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self._constants:
            value = np.ascontiguousarray(value, np.float32)
            self._constants[name] = self._onnx.numpy_helper.from_array(value, name)
        return name

    def _add(self, operator: str, inputs: Sequence[str], name: str, **options: Any) -> str:
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [name], name, **options))
        return name

    def pixels(self, mean: np.ndarray, std: np.ndarray) -> str:
        """Begin with ``(pixels - mean) / std``, both numbers or one per color."""
        floats = self._add("Cast", [INPUT], "floats", to=self._onnx.TensorProto.FLOAT)
        centered = self._add("Sub", [floats, self._constant("mean", mean)], "centered")
        scaled = self._add("Div", [centered, self._constant("std", std)], "scaled")
        return self._add("Transpose", [scaled], "input", perm=[0, 3, 1, 2])

    def convolution(
        self,
        x: str,
        name: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
    ) -> str:
        """Convolve with a kernel (outputs, inputs per group, rows, columns).

        ``padding`` is the number of zeros on each side, None for TensorFlow's "same".
        """
        options: dict[str, Any] = {"pads": [padding] * 4}
        if padding is None:
            options = {"auto_pad": "SAME_UPPER"}
        return self._add(
            "Conv",
            [x, self._constant(f"{name}.kernel", kernel), self._constant(f"{name}.bias", bias)],
            name,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            group=groups,
            **options,
        )

    def rectified(self, x: str, ceiling: float | None = None) -> str:
        """Clip at 0 and, unless it is None, at ``ceiling``."""
        if ceiling is None:
            return self._add("Relu", [x], f"{x}.rectified")
        limits = [self._constant("zero", np.array(0.0)), self._constant("top", np.array(ceiling))]
        return self._add("Clip", [x, *limits], f"{x}.rectified")

    def sum(self, x: str, y: str, name: str) -> str:
        """Add two values of the same shape."""
        return self._add("Add", [x, y], name)

    def max_pool(self, x: str) -> str:
        """Maximum of 3 x 3, at every second place."""
        options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        return self._add("MaxPool", [x], f"{x}.pooled", **options)

    def finished(self, layers: Sequence[tuple[str, int]]) -> bytes:
        """Return the file of the network.

        Parameters
        ----------
        layers : sequence of (str, int)
            The value of each layer, in their order, and its channels.
        """
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        outputs = []
        for layer, (value, channels) in zip(output_names(len(layers)), layers):
            self._add("Transpose", [value], layer, perm=[0, 2, 3, 1])
            shape = ["n", f"{layer}.height", f"{layer}.width", channels]
            outputs.append(helper.make_tensor_value_info(layer, kinds.FLOAT, shape))
        taken = helper.make_tensor_value_info(INPUT, kinds.UINT8, ["n", "height", "width", 3])
        graph = helper.make_graph(
            self._nodes, "pyimgano", [taken], outputs, list(self._constants.values())
        )
        model = helper.make_model(
            graph,
            producer_name="pyimgano",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        return model.SerializeToString()


def cached_onnx(backbone: str, identity: Mapping[str, Any], write: Callable[[], bytes]) -> bytes:
    """Return the ONNX file of a network, from the cache folder or else written into it.

    Parameters
    ----------
    backbone : str
        For the name of the file.
    identity : dict
        All that the file depends on, in JSON types.
    write : callable
        Returns the file.
    """
    text = json.dumps({**identity, "opset": OPSET, "edition": _EDITION}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    name = "".join(c if c.isalnum() else "_" for c in backbone)
    path = own_cache_dir() / "onnx" / f"{name}.{key[:32]}.onnx"
    with suppress(OSError, ValueError, LookupError, TypeError):  # else it is written again
        model = path.read_bytes()
        if json.loads(side_file(path).read_bytes())["sha256"] == hashlib.sha256(model).hexdigest():
            return model
    model = write()
    record = {"sha256": hashlib.sha256(model).hexdigest(), "of": identity}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as out:
            out.write(model)
        with atomic_write(side_file(path)) as out:
            out.write(json.dumps(record, indent=1).encode())
    except OSError as error:
        warn_user(
            f"{path} cannot be written ({error}): each process converts {backbone} to ONNX anew. "
            "Set PYIMGANO_CACHE_DIR to a folder that can be written to.",
            UserWarning,
        )
    return model
