"""Base of the steps with a pretrained network: loading it, checking it, running it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from copy import deepcopy
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano import _defaults
from pyimgano.backbones._engines import CPU_ENGINES, ENGINE_EXTRAS, BundledNetwork
from pyimgano.backbones._network import (
    Network,
    WeightsSource,
    digest,
    kept_network,
    load_network,
    read_network,
)
from pyimgano.backbones._onnx import OnnxFiles
from pyimgano.backbones._torch_module import resolve_device
from pyimgano.backbones._weights import (
    Place,
    WantedFile,
    file_sha256,
    listed,
    weights_folders,
    without_downloads,
)
from pyimgano.exceptions import DeviceError, MissingExtraError, RandomWeightsWarning, WeightsError
from pyimgano.features._base import BasePatchFeatures
from pyimgano.utils._optional import has_extra
from pyimgano.utils._state import (
    Array,
    Map,
    Maybe,
    MayLack,
    Number,
    Plain,
    Sizes,
    State,
    Text,
    fail,
)

__all__ = ["EMBEDDED", "BaseNetworkFeatures"]

_SHA256 = Text(re.compile("[0-9a-f]{64}").fullmatch)
# Weights that pickles of steps are to hold, by the id of the step; see pyimgano.persistence.
EMBEDDED: ContextVar[dict[int, dict[str, np.ndarray]] | None] = ContextVar("EMBEDDED", default=None)


class BaseNetworkFeatures(BasePatchFeatures):
    """Base of the steps that run a pretrained network.

    The network is no part of the object's state. It is loaded at first use, shared by all
    steps of one process with the same settings, and found again after unpickling, when the
    sha256 of its weights must be the one seen in ``fit``.

    A subclass has the parameters listed in ``_parameter_constraints`` and ``layers``, and
    writes ``_extract`` and

    ``_build(backbone, layers, device, precision, engine) -> module``
        The network from its input to the layers, without weights: a ``TorchModule``, or what has
        the same methods. ``engine`` is one that ``_engine`` has returned.
    ``_find_published(backbone) -> Path``
        Local file of the published weights, downloaded first if need be.

    and, where the defaults do not do, the other methods of that section.
    """

    _parameter_constraints: dict = {
        "backbone": [str],
        "weights": [str, os.PathLike, None],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "engine": [StrOptions(set(_defaults.ENGINES))],
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
    engine: str
    device: str
    embed_weights: bool
    random_state: int
    _channels: np.ndarray | None

    # Any of them may be missing: transform works without fit.
    _fitted_state = {
        "weights_sha256_": MayLack(_SHA256),
        "weights_file_": MayLack(Text()),
        "weights_file_size_": MayLack(Number(0, whole=True)),
        "weights_file_sha256_": MayLack(_SHA256),
        "embedded_weights_": MayLack(Map(str, Plain())),
        "_channels": MayLack(Maybe(Array("int", None, low=0))),
    }

    # ---- what a subclass writes -----------------------------------------------------
    @classmethod
    def _build(cls, backbone: str, layers: tuple, device: str, precision: str, engine: str) -> Any:
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

    def _auto_engine(self, device: str) -> str:
        """Choose the engine that ``"auto"`` stands for on a device.

        It must not depend on what is installed: a saved model has the same scores elsewhere.
        """
        return "torch"

    def _engine(self, device: str) -> str:
        """Choose the engine for a device, if it can run this network."""
        auto = self._auto_engine(device)
        if self.engine == "native" and auto != "native":
            raise DeviceError(
                f'engine="native" does not run {self.backbone} with layers={self.layers!r} and '
                f"precision={self.precision!r}: it has EfficientNet-Lite0, and ResNets as far as "
                'layers are whole layers or blocks, in float32. Use engine="torch", or "auto".'
            )
        if self.engine == "onnxruntime" and self.precision != "float32":
            raise DeviceError(
                'engine="onnxruntime" computes in float32 only, got '
                f"precision={self.precision!r}. OpenVINO and torch have both."
            )
        return auto if self.engine == "auto" else self.engine

    def _device(self) -> str:
        """Find the device to run on now."""
        if self.engine not in CPU_ENGINES:
            return resolve_device(self.device)
        if self.device not in ("auto", "cpu"):
            raise DeviceError(
                f'engine="{self.engine}" runs on the CPU only, got device={self.device!r}. '
                'Leave it at "auto", or use engine="torch".'
            )
        return "cpu"

    @property
    def needs_extra(self) -> str | None:
        """The extra of pyimgano without which these parameters do not work; None for none."""
        return ENGINE_EXTRAS.get(self.engine, "torch")

    def load_network(self) -> BaseNetworkFeatures:
        """Load the network now; otherwise the first image has to wait for it.

        Returns
        -------
        self

        Raises
        ------
        WeightsError
            If the weights are not to be found, or are not those of ``fit``.
        DeviceError
            If this machine has no such device, or the engine cannot run the network.
        MissingExtraError
            If the engine is not installed.
        """
        self._as_fitted()._network()
        return self

    def can_be_loaded(self) -> bool:
        """Tell whether the library and the weights of the network are on this machine.

        Nothing is loaded or downloaded.

        Returns
        -------
        bool
        """
        extra = self.needs_extra
        # That of the weights is one of several places in which these may be.
        if extra not in (None, "imagenet") and not has_extra(extra):
            return False
        if self.weights is None or hasattr(self, "embedded_weights_"):
            return True
        try:
            with without_downloads():
                return self._weights_path().is_file()
        except (WeightsError, MissingExtraError):
            return False

    # ---- as ONNX ----------------------------------------------------------------------
    def onnx_files(self, sizes: Iterable[tuple[int, int]] = ()) -> OnnxFiles:
        """Return the fitted network as ONNX, from the cache or written into it.

        Parameters
        ----------
        sizes : iterable of (int, int), default=()
            Height and width of the images that the network will see, as :meth:`seen_sizes` gives
            them, where it takes a file for each size and these depend on the images.

        Returns
        -------
        OnnxFiles
            Without any file where the sizes are not known.

        Raises
        ------
        MissingExtraError
            If a package is not installed that this takes.
        DeviceError
            If the parameters are not those of an engine that reads ONNX.
        """
        engine = self.engine
        if engine not in ENGINE_EXTRAS:
            engine = "openvino" if self.precision == "bfloat16" else "onnxruntime"
        network = deepcopy(self._as_fitted()).set_params(engine=engine)._network()
        module = network.module
        if isinstance(module, BundledNetwork):
            return module.delivered
        patch_size = self._patch_size(module)
        if module.any_size:
            return OnnxFiles({None: module.as_onnx((0, 0))}, patch_size)
        fixed = self._fixed_size(patch_size)
        sizes = sorted(sizes) if fixed is None else [fixed]
        return OnnxFiles({size: module.as_onnx(size) for size in sizes}, patch_size)

    def use_onnx(self, delivered: OnnxFiles) -> None:
        """Run the network from these files where the engine reads ONNX, until the next ``fit``.

        Parameters
        ----------
        delivered : OnnxFiles
            Of a network with this backbone, these layers and the weights of ``fit``.
        """
        self.__dict__.pop("_loaded", None)
        self._delivered = (self.onnx_identity(), delivered)

    def onnx_identity(self) -> dict[str, Any]:
        """Describe in JSON types by what the network is told from others."""
        return {
            "backbone": self.backbone,
            "layers": list(self._layers()),
            "weights_sha256": getattr(self, "weights_sha256_", None),
        }

    def seen_sizes(self) -> set[tuple[int, int]]:
        """Height and width of the images that the network has seen; the set itself."""
        return self._as_fitted()._network().sizes

    def _patch_size(self, module: Any) -> tuple[int, int] | None:
        """Sides of the patches to whose multiples images are brought, if they are."""
        return None

    def _fixed_size(self, patch_size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Height and width to which all images are brought; None if it depends on the image."""
        return None

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
        for name in (
            "weights_sha256_",
            "weights_file_",
            "weights_file_size_",
            "weights_file_sha256_",
            "embedded_weights_",
            "_loaded",
            "_beside",
            "_delivered",
            "_channels",
        ):
            self.__dict__.pop(name, None)  # of an earlier fit
        self._check_parameters()
        sha256 = self._network().sha256
        source = self._source()
        if source.path is not None:
            self.weights_file_ = source.path
            self.weights_file_size_ = source.size
            self.weights_file_sha256_ = file_sha256(source.path)
        if self.embed_weights:
            self.embedded_weights_ = self._read_weights(source)
        self.weights_sha256_ = sha256  # from here on it counts as fitted

    def _read_weights(self, source: WeightsSource) -> dict[str, np.ndarray]:
        key = (self.backbone, self._layers(), source)
        engine = self._auto_engine("cpu")
        return read_network(type(self), *key, "cpu", self.precision, engine)[1]

    def weights_to_embed(self) -> dict[str, np.ndarray]:
        """Return the weights, from the state or else from the file.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        WeightsError
            If they are not to be found, or are not those of ``fit``.
        """
        if hasattr(self, "embedded_weights_"):
            return self.embedded_weights_
        fitted = self._as_fitted()
        weights = fitted._read_weights(fitted._source())
        found = digest(weights)
        if found != getattr(self, "weights_sha256_", found):
            raise WeightsError(self._other_weights_message(found))
        return weights

    def _network(self) -> Network:
        """Return the network these parameters describe, loaded if that was not done yet."""
        names = ("backbone", "layers", "weights", "precision", "engine", "device", "random_state")
        parameters = repr([getattr(self, name) for name in names])
        loaded = self.__dict__.get("_loaded")
        if loaded is not None and loaded[0] == parameters:
            return loaded[1]
        self._validate_params()  # transform works without fit
        layers = self._layers()
        expected = getattr(self, "weights_sha256_", None)
        try:
            device = self._device()
        except DeviceError as error:
            if expected is None:
                raise
            raise DeviceError(f"{error} {_how_to_set(self, 'device', 'cpu')}") from error
        try:
            network = self._built_network(layers, device, self._engine(device))
        except (DeviceError, MissingExtraError) as error:
            if expected is None or self.engine in ("auto", self._auto_engine(device)):
                raise
            way_out = _how_to_set(self, "engine", "auto")
            raise type(error)(f"{error}\nOr {way_out}") from error
        if expected is not None and network.sha256 != expected:
            raise WeightsError(self._other_weights_message(network.sha256))
        self._loaded = (parameters, network)
        return network

    def _built_network(self, layers: tuple, device: str, engine: str) -> Network:
        identity, delivered = self.__dict__.get("_delivered", (None, None))
        if engine in ENGINE_EXTRAS and identity == self.onnx_identity():
            module = BundledNetwork(delivered, engine, self.precision, self.backbone)
            return Network(module, identity["weights_sha256"], device)
        if hasattr(self, "embedded_weights_"):
            kept = (self.embedded_weights_, device, self.precision, engine)
            return kept_network(type(self), self.backbone, layers, *kept)
        if self.weights is None and not hasattr(self, "weights_sha256_"):
            warnings.warn(
                f"{type(self).__name__}(weights=None): {self.backbone} gets random weights. "
                "It shows that a pipeline runs; its features find few defects. Without "
                'pretrained weights features="filterbank" is the better choice.',
                RandomWeightsWarning,
                stacklevel=3,
            )
        step: Any = type(self)
        key = (self.backbone, layers, self._source(), device, self.precision, engine)
        return load_network(step, *key)

    def _source(self) -> WeightsSource:
        """Describe the current source of the weights; equal sources give equal weights."""
        if self.weights is None:
            return WeightsSource(None, 0, 0, int(self.random_state))
        path = self._weights_path()
        if not path.exists():
            return WeightsSource(str(path), 0, 0, 0)  # reading it says what is wrong
        stat = path.stat()
        # Links are not followed: what they lead to may have a name that says nothing.
        return WeightsSource(os.path.abspath(path), stat.st_size, stat.st_mtime_ns, 0)

    def _given_file(self) -> Path | None:
        """Path in ``weights``; None if it holds none."""
        if self.weights is None or self.weights == self._published:
            return None
        return Path(self.weights).expanduser()

    def _weights_path(self) -> Path:
        """Find the file of the weights, which for a fitted step is one it has seen before."""
        given = self._given_file()
        if hasattr(self, "weights_sha256_"):
            return self._find_again(given)
        return self._find_published(self.backbone) if given is None else given

    def _find_again(self, given: Path | None) -> Path:
        """Find the file of fit: where it was, or by its sha256 wherever weights are looked for."""
        named, folders = self._places(given)
        wanted = self._wanted_file(given)
        if wanted is not None:
            for path, _ in named:
                if wanted.is_at(path):
                    return path
            found = wanted.find(folders)
            if found is not None:
                return found
        if given is not None:
            here = [path for path, _ in named if path.exists()]
            if here:  # another file may hold the same values, which are checked
                return here[0]
        why = ""
        if given is None:
            try:
                return self._find_published(self.backbone)
            except WeightsError as error:
                why = f"\nFor the published ones, {str(error).partition(chr(10))[0]}"
        raise WeightsError(self._missing_message(wanted, [*named, *folders]) + why) from None

    def _wanted_file(self, given: Path | None) -> WantedFile | None:
        """Describe the file of fit; None for published weights of an earlier version's model."""
        path = getattr(self, "weights_file_", given)
        if path is None:
            return None
        size, sha256 = (getattr(self, f"weights_file_{name}_", None) for name in ("size", "sha256"))
        return WantedFile(os.path.basename(path), size, sha256)

    def _places(self, given: Path | None) -> tuple[list[Place], list[Place]]:
        """Paths that the file of fit had, and folders in which it may be."""
        named = [] if given is None else [Place(given, "the parameter weights")]
        if hasattr(self, "weights_file_") and (
            given is None or self.weights_file_ != os.path.abspath(given)
        ):
            named.append(Place(Path(self.weights_file_), "where it was in fit"))
        folders = weights_folders()
        beside = vars(self).get("_beside")
        if beside is not None:
            folders.insert(0, Place(Path(beside), "beside the saved model"))
        return named, folders

    def _missing_message(self, wanted: WantedFile | None, places: list[Place]) -> str:
        if wanted is None:
            what = f"a file of values with sha256 {self.weights_sha256_}"
        elif wanted.sha256 is None:
            what = f"{wanted.name}, by this name"
        else:
            what = f"{wanted}; the name does not matter"
        beside = (
            ""
            if "_beside" in vars(self)
            else (
                "  - beside the saved model: not known where that is, which pyimgano.load notes\n"
            )
        )
        return (
            f"the weights of {self.backbone} that this model was fitted with are not here. "
            f"Wanted is {what}. It was looked for in\n"
            f"{beside}{listed(places)}\n"
            "Copy the file into one of these folders, or save the model anew where the weights "
            "are, with them inside: save(..., embed_weights=True). If it is elsewhere: "
            f"{_how_to_set(self, 'weights', 'FILE')}"
        )

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
            f"{self.weights_sha256_}. Put the file of that time back, or fit again. If it is "
            f"elsewhere: {_how_to_set(self, 'weights', 'FILE')}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseNetworkFeatures:
        # A copy in the same process runs the same network, and needs no weights file for it.
        twin = memo[id(self)] = object.__new__(type(self))
        for name, value in vars(self).items():
            twin.__dict__[name] = value if name == "_loaded" else deepcopy(value, memo)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # it may be the very __dict__
        for name in ("_loaded", "_beside", "_delivered"):  # found again, never pickled
            state.pop(name, None)
        embedded = EMBEDDED.get()
        if embedded is not None and id(self) in embedded:
            state["embedded_weights_"] = embedded[id(self)]
        return state

    @classmethod
    def _upgraded_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        # Earlier versions had one engine for each network, the one that "auto" stands for.
        return super()._upgraded_state({"engine": "auto", **state})

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        if "weights_file_" in state and "weights_sha256_" not in state:
            fail(f"{cls.__name__}.weights_file_", "is named without the weights_sha256_ of fit")
        channels = state.get("_channels")
        if channels is not None and (len(channels) == 0 or (np.diff(channels) <= 0).any()):
            fail(f"{cls.__name__}._channels", "are not ascending")

    @property
    def _needs_fit(self) -> bool:
        return False  # fit only records which weights were used


def _how_to_set(step: BaseNetworkFeatures, name: str, value: str) -> str:
    """Tell how a parameter of a step inside a fitted model is set."""
    return (
        f'set_params({name}="{value}") on the {type(step).__name__}, for a detector '
        f'set_params(features__{name}="{value}"), or pyimgano infer --{name} {value}.'
    )
