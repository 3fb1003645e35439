"""A frozen network: its weights found, checked, loaded once and shared."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from pyimgano._kernels.joining import join_maps
from pyimgano.backbones._state_dict import read_state_dict
from pyimgano.exceptions import WeightsError
from pyimgano.utils._threads import map_in_threads, map_on_workers, n_threads, one_blas_thread

__all__ = [
    "Network",
    "NetworkBuilder",
    "WeightsSource",
    "digest",
    "kept_network",
    "load_network",
    "nearest_names",
    "read_network",
]

Result = TypeVar("Result")


class NetworkBuilder(Protocol):
    """Builds the networks of one family; a feature step's class is one."""

    _names_of: str

    @classmethod
    def _build(
        cls, backbone: str, layers: tuple, device: str, precision: str, engine: str
    ) -> Any: ...

    @classmethod
    def _convert(cls, module: Any, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


class WeightsSource(NamedTuple):
    """Identity of a set of weights before it is read: a file as it is now, or a seed."""

    path: str | None
    size: int
    mtime_ns: int
    seed: int


class Network:
    """A frozen network ready to run, with the digest of the weights it was made of.

    Parameters
    ----------
    module : TorchModule or alike
        With its weights, if it needs any.
    sha256 : str
        Digest of the weights.
    device : str
        The device it runs on.

    Attributes
    ----------
    sizes : set of (int, int)
        Height and width of the images that it has seen, on a CPU.
    """

    def __init__(self, module: Any, sha256: str, device: str) -> None:
        self.module = module
        self.sha256 = sha256
        self.device = device
        self.sizes: set[tuple[int, int]] = set()

    @classmethod
    def filled(cls, module: Any, state: dict[str, np.ndarray], device: str) -> Network:
        """Give a module its weights."""
        module.fill(state)
        return cls(module, digest(state), device)

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

        def join(maps: Sequence[np.ndarray]) -> np.ndarray:
            return join_maps(maps, pool, channels)

        return self._run(images, prepare, join, threads_per_image)

    def layer_maps(
        self,
        images: Sequence[np.ndarray],
        prepare: Callable[[np.ndarray], np.ndarray],
        *,
        threads_per_image: int = 1,
    ) -> list[list[np.ndarray]]:
        """Output (h, w, d) of each layer, float32, of each uint8 RGB image."""
        return self._run(images, prepare, list, threads_per_image)

    def _run(
        self,
        images: Sequence[np.ndarray],
        prepare: Callable[[np.ndarray], np.ndarray],
        finish: Callable[[Sequence[np.ndarray]], Result],
        threads_per_image: int,
    ) -> list[Result]:
        """``finish`` of the outputs of the layers, for each image."""
        if self.device == "cpu":
            # The CPU's convolutions choose their algorithm by the size of the batch and the
            # number of threads, and each rounds in its own way. One by one, and on a stated
            # number of threads, an image is the same in any company.
            def features(image: np.ndarray) -> Result:
                pixels = prepare(image)
                self.sizes.add((pixels.shape[0], pixels.shape[1]))
                return finish(self.module.maps(pixels, threads_per_image))

            # Not in the caller's own thread, which may have another number for torch.
            side_by_side = max(1, n_threads() // threads_per_image)
            with self.module.settings, one_blas_thread:  # not for every convolution anew
                return map_on_workers(features, images, side_by_side)
        prepared = [prepare(image) for image in images]
        results: list[Any] = [None] * len(images)
        for size in {image.shape: None for image in prepared}:  # images of one size go together
            members = [i for i, image in enumerate(prepared) if image.shape == size]
            layers = self.module.run(np.stack([prepared[i] for i in members]))
            finished = map_in_threads(finish, zip(*layers), n_threads())
            for i, one in zip(members, finished):
                results[i] = one
        return results


# Two are enough for a teacher beside a student, or for a grid over two backbones.
@lru_cache(maxsize=2)
def load_network(
    builder: type[NetworkBuilder],
    backbone: str,
    layers: tuple,
    source: WeightsSource,
    device: str,
    precision: str,
    engine: str,
) -> Network:
    read = read_network(builder, backbone, layers, source, device, precision, engine)
    return Network.filled(*read, device)


# Networks of weights that estimators keep themselves, as long as one of them runs it.
_kept_networks: WeakValueDictionary[tuple, Network] = WeakValueDictionary()


def kept_network(
    builder: type[NetworkBuilder],
    backbone: str,
    layers: tuple,
    state: dict[str, np.ndarray],
    device: str,
    precision: str,
    engine: str,
) -> Network:
    """The network of weights that come with an estimator; equal ones share one."""
    module = builder._build(backbone, layers, device, precision, engine)
    _check_kept(module, state, backbone)
    key = (builder, backbone, layers, digest(state), device, precision, engine)
    network = _kept_networks.get(key)
    if network is None:
        network = _kept_networks[key] = Network.filled(module, state, device)
    return network


def _check_kept(module: Any, state: dict[str, np.ndarray], backbone: str) -> None:
    """Refuse weights from a saved estimator that are not those of the network.

    They may come from anywhere, and compiled code takes their shapes for granted.
    """
    shapes = {name: getattr(value, "shape", None) for name, value in state.items()}
    if shapes != module.shapes:
        raise WeightsError(
            "the weights kept since fit (embed_weights=True) are those of another backbone or "
            "of other layers. Set the parameters back, or fit again."
        )
    for name, value in state.items():
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise WeightsError(
                f"the weights of {backbone} kept since fit (embed_weights=True) are damaged: "
                f"{name} holds other values than finite numbers. Copy the file anew, or fit again."
            )


def read_network(
    builder: type[NetworkBuilder],
    backbone: str,
    layers: tuple,
    source: WeightsSource,
    device: str,
    precision: str,
    engine: str,
) -> tuple[Any, dict[str, np.ndarray]]:
    """The module of a network, and its weights from the file or drawn at random."""
    module = builder._build(backbone, layers, device, precision, engine)
    needed = module.shapes
    if source.path is None:
        return module, _random_state(module, backbone, source.seed)
    state = builder._convert(module, read_state_dict(source.path))
    missing = [name for name in needed if name not in state]
    if len(missing) == len(needed):
        raise WeightsError(
            f"{source.path} holds none of the weights of {backbone}, but those of another "
            f"network or under other names. Its first names are {_some(state)}; expected "
            f"are {builder._names_of}'s: {_some(needed)}."
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
    """He initialization drawn by numpy, which gives the same numbers on every machine."""
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


def digest(state: dict[str, np.ndarray]) -> str:
    """sha256 over names, shapes and values, whatever order or file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())  # in C order, whatever the layout in memory
    return digest.hexdigest()


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Sentence with the known names that look most like ``name``, or nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f" The nearest names are {', '.join(close)}." if close else ""


def _some(names: Iterable[str], n: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")
