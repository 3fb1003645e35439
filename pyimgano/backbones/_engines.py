"""Engines: the libraries that can run a network, and networks run by other than their own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from threading import Lock, local
from typing import Any

import numpy as np

from pyimgano.backbones._network import digest
from pyimgano.backbones._onnx import INPUT, OnnxFiles, cached_onnx
from pyimgano.exceptions import DeviceError
from pyimgano.utils._environment import package_versions
from pyimgano.utils._optional import import_optional
from pyimgano.utils._threads import n_threads

__all__ = ["CPU_ENGINES", "ENGINE_EXTRAS", "BundledNetwork", "OnnxNetwork"]

# Engines that extras of their own install.
ENGINE_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
# Those that run on nothing but the CPU.
CPU_ENGINES = frozenset({"native", "onnxruntime", "openvino"})

# Bytes of an ONNX file: its format has no larger numbers.
_MOST_BYTES = 2**31 - 2**20
# Sizes of images that a network is kept ready for.
_MOST_SIZES = 8

# The maps (1, h, w, d) of each layer for one image (1, height, width, 3).
Run = Callable[[np.ndarray], Sequence[np.ndarray]]
# Makes a model ready: its ONNX file, the images' size, threads for one, images at once.
Start = Callable[[bytes, tuple[int, int], int, int], Run]


class _OnnxRunner:
    """A network that onnxruntime or OpenVINO runs, as ONNX files from wherever they come.

    Parameters
    ----------
    engine : {"onnxruntime", "openvino"}
    precision : {"float32", "bfloat16"}

    Attributes
    ----------
    settings : context manager
        To be held while many images are run.
    """

    settings = nullcontext()

    def __init__(self, engine: str, precision: str) -> None:
        self._lock = Lock()
        self._runs: dict[tuple, Run] = {}
        # Imported now: what is missing is told before any image is read.
        self._start = _onnxruntime() if engine == "onnxruntime" else _openvino(precision)

    def as_onnx(self, size: tuple[int, int]) -> bytes:
        """Return the ONNX file for images of a height and width."""
        raise NotImplementedError

    def maps(self, image: np.ndarray, threads: int) -> list[np.ndarray]:
        """The map (h, w, d), float32, of each layer for one uint8 RGB image.

        Any number of threads may call it at once.
        """
        size = image.shape[0], image.shape[1]
        at_once = max(1, n_threads() // threads)
        # A forked process has none of the threads that an engine has started.
        key = (os.getpid(), size, threads, at_once)
        with self._lock:
            run = self._runs.pop(key, None)
            if run is None:
                run = self._start(self.as_onnx(size), size, threads, at_once)
            self._runs[key] = run  # the last one used is the last of all
            while len(self._runs) > _MOST_SIZES:
                del self._runs[next(iter(self._runs))]
        return [one[0] for one in run(np.ascontiguousarray(image[None]))]


class OnnxNetwork(_OnnxRunner):
    """A network whose ONNX files are written from its weights, and kept in the cache.

    Parameters
    ----------
    module : ResNet, EfficientNetLite or TorchModule
        The network, without weights, which writes itself as ONNX.
    engine : {"onnxruntime", "openvino"}
    precision : {"float32", "bfloat16"}
    backbone, layers : str, tuple
        For the file in the cache.

    Attributes
    ----------
    shapes, tables : dict, set
        Those of the module.
    """

    def __init__(
        self, module: Any, engine: str, precision: str, backbone: str, layers: Sequence[Any]
    ) -> None:
        self.module = module
        self.shapes, self.tables = module.shapes, module.tables
        self._backbone, self._layers = backbone, list(layers)
        n_bytes = sum(4 * math.prod(shape) for shape in self.shapes.values())
        if n_bytes > _MOST_BYTES:
            raise DeviceError(
                f'engine="{engine}": the weights of {backbone} are {n_bytes / 1e9:.1f} GB, and an '
                'ONNX file holds 2 GB. Use engine="torch".'
            )
        super().__init__(engine, precision)

    @property
    def graph(self) -> Any:
        """The module's graph, of those of torch."""
        return self.module.graph

    @property
    def any_size(self) -> bool:
        """True if one ONNX file serves images of all sizes."""
        return bool(self.module.any_size)

    def fill(self, state: dict[str, np.ndarray]) -> None:
        """Take over the weights."""
        self._state, self._sha256 = state, digest(state)
        self._runs.clear()

    def as_onnx(self, size: tuple[int, int]) -> bytes:
        """Return the ONNX file for images of a height and width, from the cache or written."""
        module = self.module
        identity = {
            "weights": self._sha256,
            "network": type(module).__name__,
            "backbone": self._backbone,
            "layers": self._layers,
            "size": None if module.any_size else list(size),
            "versions": {name: package_versions().get(name) for name in module.onnx_writers},
        }
        return cached_onnx(self._backbone, identity, partial(module.write_onnx, self._state, size))


class BundledNetwork(_OnnxRunner):
    """A network that was delivered as ONNX files; neither its weights nor torch are needed.

    Parameters
    ----------
    delivered : OnnxFiles
    engine : {"onnxruntime", "openvino"}
    precision : {"float32", "bfloat16"}
    backbone : str
        For messages.
    """

    def __init__(self, delivered: OnnxFiles, engine: str, precision: str, backbone: str) -> None:
        self.delivered = delivered
        self._backbone = backbone
        super().__init__(engine, precision)

    def as_onnx(self, size: tuple[int, int]) -> bytes:
        """Return the delivered file for images of a height and width.

        Raises
        ------
        DeviceError
            If none was delivered for this size.
        """
        files = self.delivered.files
        found = files.get(size, files.get(None))
        if found is None:
            sizes = ", ".join(f"{one[0]} x {one[1]}" for one in files if one is not None)
            raise DeviceError(
                f"the bundle has {self._backbone} as ONNX for images that are brought to {sizes} "
                f"pixels, and this one is brought to {size[0]} x {size[1]}. Export it with a "
                "golden image of this size as well, or take another engine."
            )
        return found


def _onnxruntime() -> Start:
    runtime = import_optional("onnxruntime", "onnx", 'engine="onnxruntime"')

    def start(model: bytes, size: tuple[int, int], threads: int, at_once: int) -> Run:
        options = runtime.SessionOptions()
        # Each thread that has an image runs it in itself, with so many helpers.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors
        # Helpers that spin until the next image would keep a core busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = runtime.InferenceSession(model, options, ["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {INPUT: pixels})

    return start


@cache
def _openvino_core(openvino: Any) -> Any:
    """Return the one core of this process, which is never given up.

    Each core gives the thread that first asks it for the CPU an alternate stack for signals, and
    when it ends it puts the one back that was there before. Of two that overlap, the second would
    so leave the freed stack of the first, on which the next signal kills the process.
    """
    return openvino.Core()


# ``cache`` alone would let threads that ask at once have a core each.
_making_a_core = Lock()


def _openvino(precision: str) -> Start:
    openvino = import_optional("openvino", "openvino", 'engine="openvino"')
    with _making_a_core:
        core = _openvino_core(openvino)
    can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bfloat16" and "BF16" not in can:
        raise DeviceError(
            'engine="openvino" with precision="bfloat16": this processor has no instructions for '
            "bfloat16, and OpenVINO would compute in float32. Use another engine, or fit in "
            "float32."
        )

    def start(model: bytes, size: tuple[int, int], threads: int, at_once: int) -> Run:
        network = core.read_model(model)
        network.reshape({INPUT: [1, *size, 3]})  # a known size is up to a third faster
        settings = {
            # As many images at once as there are threads that bring one.
            "NUM_STREAMS": at_once,
            "INFERENCE_NUM_THREADS": at_once * threads,
            "ENABLE_CPU_PINNING": False,  # other programs would be pinned to the same cores
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        }
        compiled = core.compile_model(network, "CPU", settings)
        requests = local()

        def run(pixels: np.ndarray) -> list[np.ndarray]:
            if not hasattr(requests, "own"):
                requests.own = compiled.create_infer_request()
            found = requests.own.infer({INPUT: pixels}, share_inputs=True)
            return [found[i] for i in range(len(compiled.outputs))]

        return run

    return start
