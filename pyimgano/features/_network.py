"""Base of the steps with a pretrained network: loading it, checking it, running it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.backbones._network import Network, WeightsSource, load_network, read_network
from pyimgano.backbones._torch_module import resolve_device
from pyimgano.exceptions import DeviceError, RandomWeightsWarning, WeightsError
from pyimgano.features._base import BasePatchFeatures
from pyimgano.utils._state import Array, Map, Maybe, MayLack, Plain, Sizes, State, Text, fail

__all__ = ["BaseNetworkFeatures"]


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

    # Any of them may be missing: transform works without fit.
    _fitted_state = {
        "weights_sha256_": MayLack(Text(re.compile("[0-9a-f]{64}").fullmatch)),
        "weights_file_": MayLack(Text()),
        "embedded_weights_": MayLack(Map(str, Plain())),
        "_channels": MayLack(Maybe(Array("int", None, low=0))),
    }

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

    def _device(self) -> str:
        """Find the device to run on now."""
        return resolve_device(self.device)

    @property
    def needs_extra(self) -> str | None:
        """The extra of pyimgano without which these parameters do not work; None for none."""
        return "torch"

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
            If this machine has no such device.
        """
        self._as_fitted()._network()
        return self

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
            "embedded_weights_",
            "_loaded",
            "_channels",
        ):
            self.__dict__.pop(name, None)  # of an earlier fit
        self._check_parameters()
        self.weights_sha256_ = self._network().sha256
        given = self._given_file()
        if given is not None:
            self.weights_file_ = os.path.abspath(given)  # a relative path works here only
        if self.embed_weights:
            key = (self.backbone, self._layers(), self._source())
            _, self.embedded_weights_ = read_network(type(self), *key, "cpu", self.precision)

    def _network(self) -> Network:
        """Return the network these parameters describe, loaded if that was not done yet."""
        names = ("backbone", "layers", "weights", "precision", "device", "random_state")
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
            network = load_network(step, *key)
        if expected is not None and network.sha256 != expected:
            raise WeightsError(self._other_weights_message(network.sha256))
        self._loaded = (parameters, network)
        return network

    def _source(self) -> WeightsSource:
        """Describe the current source of the weights; equal sources give equal weights."""
        if self.weights is None:
            return WeightsSource(None, 0, 0, int(self.random_state))
        path = self._weights_path()
        if not path.exists():
            return WeightsSource(str(path), 0, 0, 0)  # reading it says what is wrong
        stat = path.stat()
        return WeightsSource(str(path.resolve()), stat.st_size, stat.st_mtime_ns, 0)

    def _given_file(self) -> Path | None:
        """Path in ``weights``; None if it holds none."""
        if self.weights is None or self.weights == self._published:
            return None
        return Path(self.weights).expanduser()

    def _weights_path(self) -> Path:
        """Find the file of the weights, which for a fitted step is one it has seen before."""
        fitted = hasattr(self, "weights_sha256_")
        given = self._given_file()
        if given is None:
            try:
                return self._find_published(self.backbone)
            except WeightsError as error:
                if not fitted:
                    raise
                reason = str(error).partition("\n")[0]
                raise WeightsError(
                    f"this model runs {self.backbone} with its published weights, and {reason}\n"
                    f"{self._how_to_find()}"
                ) from error
        places = [given]
        if hasattr(self, "weights_file_") and self.weights_file_ != os.path.abspath(given):
            places.append(Path(self.weights_file_))
        found = [place for place in places if place.exists()]
        if fitted and not found:
            raise WeightsError(
                f"this model runs {self.backbone} with the weights of a file that is not here: "
                f"looked for at {' and '.join(str(place) for place in places)}.\n"
                f"{self._how_to_find()}"
            )
        return found[0] if found else given

    def _how_to_find(self) -> str:
        return (
            f"If you have the file: {_how_to_set(self, 'weights', 'FILE')} It is recognized by the "
            "sha256 of its values, so its name does not matter. A model that was fitted with "
            "embed_weights=True needs no file."
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
        state.pop("_loaded", None)  # a network is found again, never pickled
        return state

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
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
