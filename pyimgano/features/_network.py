"""What the steps with a pretrained network share: loading it, checking it, running it."""

from __future__ import annotations

import ctypes
import difflib
import hashlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.exceptions import RandomWeightsWarning, WeightsError
from pyimgano.features._base import BasePatchFeatures
from pyimgano.features._joining import join_maps
from pyimgano.features._state_dict import read_state_dict
from pyimgano.utils._optional import import_optional
from pyimgano.utils._threads import Shared, in_pool, in_threads, n_threads, one_blas_thread

__all__ = ["BaseNetworkFeatures", "TorchModule"]


class BaseNetworkFeatures(BasePatchFeatures):
    """Base of the steps that run a pretrained network.

    The network is no part of the object's state. It is loaded at first use, shared by all
    steps of one process with the same settings, and found again after unpickling, when the
    sha256 of its weights must be the one seen in ``fit``.

    A subclass has the parameters listed in ``_parameter_constraints`` and ``layers``, and
    writes ``_extract`` and

    ``_build(backbone, layers, device, precision) -> module``
        The network from its input to the layers, without weights: a ``TorchModule``, or what has
        the same methods.
    ``_find_published(backbone) -> Path``
        Local file of the published weights, downloaded first if need be.

    and, where the defaults do not do, the other methods of that section.
    """

    _parameter_constraints: dict = {
        "backbone": [str],
        "weights": [str, os.PathLike, None],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "threads_per_image": [Interval(Integral, 1, None, closed="left")],
        "embed_weights": ["boolean"],
        "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
    }

    # The word that ``weights`` has for the published ones, and whose names files must have.
    _published = "pretrained"
    _names_of = "torchvision"

    backbone: str
    layers: Any
    weights: str | os.PathLike[str] | None
    precision: str
    threads_per_image: int
    device: str
    embed_weights: bool
    random_state: int
    _channels: np.ndarray | None

    # ---- what a subclass writes -----------------------------------------------------
    @classmethod
    def _build(cls, backbone: str, layers: tuple, device: str, precision: str) -> Any:
        raise NotImplementedError

    @classmethod
    def _find_published(cls, backbone: str) -> Path:
        raise NotImplementedError

    @classmethod
    def _convert(cls, module: Any, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Bring the arrays of a file to the names and shapes of the module."""
        return state

    def _check_parameters(self) -> None:
        """Refuse parameters that do not go together."""

    def _layers(self) -> tuple:
        """Return ``layers`` as a tuple, checked."""
        return tuple(self.layers)

    @property
    def needs_extra(self) -> str | None:
        """The extra of pyimgano without which these parameters do not work; None for none."""
        return "torch"

    # ---- shared machinery -----------------------------------------------------------
    def keep_channels(self, channels: ArrayLike | None) -> None:
        """Return only some of the features from now on, until the next ``fit``.

        For detectors that use a selection: the others then cost nothing beyond the network.

        Parameters
        ----------
        channels : array-like of shape (n_kept,), int, or None
            Ascending indices of the features to return, each of which is the same as before,
            bit for bit. None returns all.

        Raises
        ------
        ValueError
            If ``channels`` are not ascending indices, or, in ``transform``, if there are not so
            many features.
        """
        if channels is None:
            self._channels = None
            return
        chosen = np.asarray(channels)
        if (
            chosen.ndim != 1
            or not len(chosen)
            or not np.issubdtype(chosen.dtype, np.integer)
            or chosen[0] < 0
            or (np.diff(chosen) <= 0).any()
        ):
            raise ValueError(
                f"channels={channels!r}: expected indices of features, each larger than the one "
                "before, such as numpy.flatnonzero gives for a mask."
            )
        self._channels = chosen.astype(np.intp)

    def _patch_maps(
        self,
        images: Sequence[np.ndarray],
        prepare: Callable[[np.ndarray], np.ndarray],
        pool: int = 1,
    ) -> list[np.ndarray]:
        """Features (h, w, d) of each image, whose pixels for the network ``prepare`` makes."""
        return self._network().patch_maps(
            images,
            prepare,
            pool=pool,
            channels=getattr(self, "_channels", None),
            threads_per_image=self.threads_per_image,
        )

    def _fit_images(self, images: object) -> None:
        """Load the network and note what identifies its weights."""
        for name in ("weights_sha256_", "embedded_weights_", "_loaded", "_channels"):
            self.__dict__.pop(name, None)  # of an earlier fit
        self._check_parameters()
        self.weights_sha256_ = self._network().sha256
        if self.embed_weights:
            key = (self.backbone, self._layers(), self._source())
            _, self.embedded_weights_ = _read(type(self), *key, "cpu", self.precision)

    def _network(self) -> Network:
        """Return the network these parameters describe, loaded if that was not done yet."""
        names = ("backbone", "layers", "weights", "precision", "device", "random_state")
        parameters = repr([getattr(self, name) for name in names])
        loaded = self.__dict__.get("_loaded")
        if loaded is not None and loaded[0] == parameters:
            return loaded[1]
        self._validate_params()  # transform works without fit
        layers = self._layers()
        device = resolve_device(self.device)
        expected = getattr(self, "weights_sha256_", None)
        if hasattr(self, "embedded_weights_"):
            module = self._build(self.backbone, layers, device, self.precision)
            network = Network(module, self.embedded_weights_, device)
        else:
            if self.weights is None and expected is None:
                warnings.warn(
                    f"{type(self).__name__}(weights=None): {self.backbone} gets random weights. "
                    "It shows that a pipeline runs; its features find few defects. Without "
                    'pretrained weights features="filterbank" is the better choice.',
                    RandomWeightsWarning,
                    stacklevel=2,
                )
            step: Any = type(self)
            key = (self.backbone, layers, self._source(), device, self.precision)
            network = _load(step, *key)
        if expected is not None and network.sha256 != expected:
            raise WeightsError(self._other_weights_message(network.sha256))
        self._loaded = (parameters, network)
        return network

    def _source(self) -> _Source:
        """Where the weights come from now; equal sources give equal weights."""
        if self.weights is None:
            return _Source(None, 0, 0, int(self.random_state))
        if self.weights == self._published:
            path = self._find_published(self.backbone)
        else:
            path = Path(self.weights).expanduser()
        if not path.exists():
            return _Source(str(path), 0, 0, 0)  # reading it says what is wrong
        stat = path.stat()
        return _Source(str(path.resolve()), stat.st_size, stat.st_mtime_ns, 0)

    def _other_weights_message(self, found: str) -> str:
        if self.weights is None:
            return (
                f"the random weights of {self.backbone} drawn from "
                f"random_state={self.random_state} are not those of fit: this version of "
                f"{self._names_of} or numpy builds another network. Fit again, or fit with "
                "embed_weights=True to keep the weights in the saved file."
            )
        return (
            f"the weights of {self.backbone} from weights={os.fspath(self.weights)!r} are not "
            f"those this step was fitted with: sha256 {found}, expected "
            f"{self.weights_sha256_}. Put the file of that time back, point at it with "
            "set_params(weights=...), or fit again."
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # it may be the very __dict__
        state.pop("_loaded", None)  # a network is found again, never pickled
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class _Source(NamedTuple):
    """Identity of a set of weights before it is read: a file as it is now, or a seed."""

    path: str | None
    size: int
    mtime_ns: int
    seed: int


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
_keep_torch_threads = Shared(_remember_torch_threads)


class Network:
    """A frozen network ready to run, with the digest of the weights it was made of.

    Parameters
    ----------
    module : TorchModule or alike
        Without weights.
    state : dict of str to ndarray
        Its weights.
    device : str
        The device it runs on.
    """

    def __init__(self, module: Any, state: dict[str, np.ndarray], device: str) -> None:
        if state.keys() != module.shapes.keys():
            raise WeightsError(
                "the weights kept since fit (embed_weights=True) are those of another backbone or "
                "of other layers. Set the parameters back, or fit again."
            )
        self.module = module
        self.module.fill(state)
        self.sha256 = _digest(state)
        self.device = device

    def patch_maps(
        self,
        images: Sequence[np.ndarray],
        prepare: Callable[[np.ndarray], np.ndarray],
        *,
        pool: int = 1,
        channels: np.ndarray | None = None,
        threads_per_image: int = 1,
    ) -> list[np.ndarray]:
        """Features (h, w, d), float32, of each uint8 RGB image.

        ``prepare`` brings an image to the pixels (height, width, 3), uint8, that the network
        sees; ``pool`` and ``channels`` are those of ``join_maps``.
        """
        if self.device == "cpu":
            # The CPU's convolutions choose their algorithm by the size of the batch and the
            # number of threads, and each rounds in its own way. One by one, and on a stated
            # number of threads, an image is the same in any company.
            def features(image: np.ndarray) -> np.ndarray:
                maps = self.module.maps(prepare(image), threads_per_image)
                return join_maps(maps, pool, channels)

            # Not in the caller's own thread, which may have another number for torch.
            side_by_side = max(1, n_threads() // threads_per_image)
            with self.module.settings, one_blas_thread:  # not for every convolution anew
                return in_pool(features, images, side_by_side)
        prepared = [prepare(image) for image in images]
        maps: list[Any] = [None] * len(images)
        for size in {image.shape: None for image in prepared}:  # images of one size go together
            members = [i for i, image in enumerate(prepared) if image.shape == size]
            layers = self.module.run(np.stack([prepared[i] for i in members]))
            joined = in_threads(
                lambda of_one: join_maps(of_one, pool, channels), zip(*layers), n_threads()
            )
            for i, one in zip(members, joined):
                maps[i] = one
        return maps


class TorchModule:
    """A torch module as the network of a feature step.

    Parameters
    ----------
    graph : torch.nn.Module
        Returns the maps of the layers. Its values do not matter, it may lie on the meta device.
    colours : (sequence of float, sequence of float)
        Mean and standard deviation of the colours the network was trained with.
    device : str
    precision : {"float32", "bfloat16"}
    optimise : callable, default=None
        Makes the filled graph faster without changing what it computes.

    Attributes
    ----------
    settings : context manager
        To be held while many images are run.
    """

    settings = _keep_torch_threads

    def __init__(
        self,
        graph: Any,
        colours: tuple[Sequence[float], Sequence[float]],
        device: str,
        precision: str,
        optimise: Callable[[Any], None] | None = None,
    ) -> None:
        self.graph = graph
        self._colours, self._device, self._optimise = colours, device, optimise
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
        if self._optimise is not None:
            self._optimise(graph)
        if self._bfloat16:
            # Autocast would convert these weights again for every image.
            for module in graph.modules():
                if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                    module.to(torch.bfloat16)
        self.graph = graph.to(device=self._device, memory_format=torch.channels_last)
        # Normalises values 0-255 at once: (x / 255 - mean) / std.
        self._mean, self._std = (
            torch.tensor(values, device=self._device).mul_(255) for values in self._colours
        )

    def maps(self, image: np.ndarray, threads: int) -> list[np.ndarray]:
        """The map (h, w, d) of each layer for one uint8 RGB image."""
        _use_torch_threads(threads)
        return [layer[0] for layer in self.run(image[None])]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The maps of each layer, (n, h, w, d), float32, for images (n, height, width, 3)."""
        torch = torch_module()
        cuda = self._device.startswith("cuda")
        # TF32 would cost half the digits; the other flags are their usual values.
        flags = (
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            )
            if cuda
            else nullcontext()
        )
        autocast = (
            torch.autocast("cuda" if cuda else "cpu", dtype=torch.bfloat16)
            if self._bfloat16
            else nullcontext()
        )
        with torch.inference_mode(), flags:
            # (n, height, width, 3) in memory is what torch calls channels-last.
            # torch wants to own what it could write to, even where nothing writes.
            x = torch.from_numpy(np.require(images, requirements=("C", "W")))
            x = x.to(self._mean.device)  # "cuda" alone may be another one in this thread
            # Whole rows of pixels: torch is slow where its innermost loop is over three colours.
            width = x.shape[2]
            rows = x.flatten(2).float().sub_(self._mean.repeat(width)).div_(self._std.repeat(width))
            x = rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)
            with autocast:
                outputs = self.graph(x)
            for i, output in enumerate(outputs):
                if output.ndim != 4:
                    raise ValueError(
                        f"layers[{i}] gives an output of shape {tuple(output.shape)}, which is no "
                        "map; choose layers with outputs (n, channels, height, width)."
                    )
            return [
                output.float().permute(0, 2, 3, 1).contiguous().cpu().numpy() for output in outputs
            ]


def torch_module() -> Any:
    """``torch``, imported when it is needed."""
    return import_optional("torch", "torch", "a network")


# Two are enough for a teacher beside a student, or for a grid over two backbones.
@lru_cache(maxsize=2)
def _load(
    step: type[BaseNetworkFeatures],
    backbone: str,
    layers: tuple,
    source: _Source,
    device: str,
    precision: str,
) -> Network:
    return Network(*_read(step, backbone, layers, source, device, precision), device)


def _read(
    step: type[BaseNetworkFeatures],
    backbone: str,
    layers: tuple,
    source: _Source,
    device: str,
    precision: str,
) -> tuple[Any, dict[str, np.ndarray]]:
    """The module of a network, and its weights from the file or drawn at random."""
    module = step._build(backbone, layers, device, precision)
    needed = module.shapes
    if source.path is None:
        return module, _random_state(module, backbone, source.seed)
    state = step._convert(module, read_state_dict(source.path))
    missing = [name for name in needed if name not in state]
    if len(missing) == len(needed):
        raise WeightsError(
            f"{source.path} holds none of the weights of {backbone}, but those of another "
            f"network or under other names. Its first names are {_some(state)}; expected "
            f"are {step._names_of}'s: {_some(needed)}."
        )
    if missing:
        raise WeightsError(
            f"{source.path} lacks {len(missing)} of the {len(needed)} weights that {backbone} "
            f"needs for layers={layers}: {_some(missing, 10)}."
        )
    for name, shape in needed.items():
        if state[name].shape != shape:
            raise WeightsError(
                f"{source.path} is not of {backbone}: {name} has shape "
                f"{state[name].shape}, expected {shape}."
            )
    used = {}
    for name in needed:
        kind = np.float32 if state[name].dtype.kind == "f" else state[name].dtype
        used[name] = np.array(state[name], kind, order="C")
    for name, values in used.items():
        if not np.isfinite(values).all():
            raise WeightsError(
                f"{source.path} is damaged: {name} holds NaN or infinity. Replace the file."
            )
    return module, used


def _random_state(module: Any, backbone: str, seed: int) -> dict[str, np.ndarray]:
    """He initialisation drawn by numpy, which gives the same numbers on every machine."""
    rng = np.random.default_rng(seed)
    state = {}
    for name in sorted(module.tables):
        raise ValueError(
            f"weights=None: {backbone} keeps {name}, which cannot be drawn at random; "
            "give the path of a state dict."
        )
    for name, shape in module.shapes.items():
        if len(shape) > 1:
            fan_out = shape[0] * int(np.prod(shape[2:]))
            value = rng.standard_normal(shape) * np.sqrt(2 / fan_out)
        elif name.endswith(("bias", "running_mean")):
            value = np.zeros(shape)
        else:  # a gain or a variance
            value = np.ones(shape)
        state[name] = value.astype(np.float32)
    return state


def _digest(state: dict[str, np.ndarray]) -> str:
    """sha256 over names, shapes and values, whatever order or file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())  # in C order, whatever the layout in memory
    return digest.hexdigest()


def resolve_device(device: str) -> str:
    """Name of the torch device that ``device`` stands for on this machine."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f'device={device!r}: expected "auto", "cpu", "cuda" or "cuda:0", ...')
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    torch = torch_module()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if count else "cpu"
    if int(device.partition(":")[2] or 0) >= count:
        raise ValueError(
            f"device={device!r}: torch sees {count} CUDA devices on this machine"
            + (f", numbered from 0 to {count - 1}." if count else ".")
            + ' device="auto" takes what there is, device="cpu" always works.'
        )
    return device


def _may_have_gpu() -> bool:
    """Whether it is worth to import torch, which takes seconds, and ask it."""
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


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Sentence with the known names that look most like ``name``, or nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f" The nearest names are {', '.join(close)}." if close else ""


def _some(names: Iterable[str], n: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")
