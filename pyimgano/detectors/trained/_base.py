"""Base of the detectors whose networks are trained on the good images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from numbers import Integral, Real
from typing import Any, NamedTuple

import cv2
import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from pyimgano._checks import input_kind, kind_in_words
from pyimgano._training import SampleKey, TrainingStream, iter_keyed_images
from pyimgano._version import __version__
from pyimgano.backbones._network import digest as digest_of_weights
from pyimgano.backbones._torch_module import (
    deterministic,
    map_one_by_one,
    resolve_device,
    torch_module,
)
from pyimgano.base import BaseImageDetector
from pyimgano.detectors._composition import CompositionMixin
from pyimgano.detectors._feature_holder import FeatureHolderMixin, overfits
from pyimgano.detectors.trained._loop import Plan, Step, as_arrays, fill, train
from pyimgano.detectors.trained._samples import Sample, SampleStore
from pyimgano.exceptions import ImageFormatError, ParameterError, TooFewImagesError
from pyimgano.grids import MAX_SMOOTHING_SIGMA, PatchGrids, lowest_outside
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._fitting import RUNTIME_PARAMETERS, differ
from pyimgano.utils._optional import import_optional
from pyimgano.utils._stages import timed
from pyimgano.utils._state import (
    Array,
    Map,
    Plain,
    Rule,
    Sizes,
    State,
    check_finite_array,
    fail,
)

__all__ = ["BaseFeatureTrainedDetector", "BaseTrainedDetector", "Prepared", "Shapes"]

#: Type and shape of each array of a sample.
Shapes = list[tuple[str, tuple[int, ...]]]


# Value of all pixels outside a region of interest.
_GRAY = 128


class Prepared(NamedTuple):
    """A few images as the networks see them.

    Attributes
    ----------
    samples : list of tuple of ndarray
        The arrays of each image, float16 (see ``compact``) or integers.
    grids : PatchGrids
        Where the values of the anomaly maps lie in the images; its features do not matter.
    contents : list of ndarray of shape (h, w, n_features)
        Features of each image on some grid over the same part of it, by whose average an image is
        told that has little in common with the training images.
    """

    samples: list[Sample]
    grids: PatchGrids
    contents: list[np.ndarray]


class BaseTrainedDetector(CompositionMixin, BaseImageDetector[Prepared, Any]):
    """Base of detectors that train networks on the good images.

    A subclass has the parameters of ``_parameter_constraints`` and writes

    ``_prepare(images) -> Prepared``
        What the networks see of some uint8 RGB images. It is computed once for each training
        image and kept, so nothing may be random in it.
    ``_build(shapes, rng) -> dict of str to torch.nn.Module``
        The networks to train, for samples of these (dtype, shape), their values drawn from
        ``rng``; see ``initialize``.
    ``_optimizer(networks) -> torch.optim.Optimizer``
        With the learning rates at the start.
    ``_loss(networks, batch, step) -> tensor``
        Loss of a batch; ``step`` has the sources of randomness.
    ``_map(networks, sample) -> ndarray (h, w) or (ndarray (h, w), float)``
        Anomaly map of one sample, a tuple of tensors with a first axis of length one, on the grid
        of ``_prepare``; with a score where the smoothed map does not tell all that the image's
        score is made of.

    and, where the defaults do not do,

    ``_collate(samples, step) -> tuple of ndarray``
        The arrays of a batch; by default they are stacked.
    ``_rate(step, n_steps) -> float``
        Factor on the learning rates; by default 1.
    ``_summarize(heat, own) -> float``
        Score of an image from the values of its smoothed map inside the region, and from the score
        that ``_map`` gave it, or None. By default the latter, and where there is none the largest
        value.
    ``_after_training(held_out) -> None``
        Called between training and scoring with an iterator over ``(heat, own)``, as above, of the
        images that are held out. By default it does nothing.
    ``_map_all(samples) -> list of (ndarray (h, w), float or None)``
        Instead of ``_map``, where torch is not what runs the networks: maps of samples of arrays.
    ``_prepare_grids(grids) -> Prepared``
        The same for patch grids and feature rows. By default they are refused.

    A share of the good images, ``validation_fraction``, is held out of training. Their scores
    are those of new images, and the threshold is put on them alone. The scores of the images
    that were trained on are those that the networks give them: they are lower than those of new
    images, the more so the longer the training.

    Attributes
    ----------
    networks_ : dict of str to dict of str to ndarray
        The values of the trained networks.
    held_out_ : ndarray of shape (n_images,), bool
        The training images that were held out.
    history_ : dict of str to ndarray
        ``step`` and ``loss``, ``held_out_step`` and ``held_out_loss``.
    """

    _parameter_constraints: dict = {
        **BaseImageDetector._parameter_constraints,
        "max_steps": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "early_stopping": ["boolean"],
        "warm_start": ["boolean"],
        "smoothing_sigma": [Interval(Real, 0, MAX_SMOOTHING_SIGMA, closed="both")],
        "device": [str],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "verbose": ["boolean"],
    }
    _runtime_parameters = frozenset({"n_jobs", "verbose", "device"})
    # Parameters that may name a folder, whose content training depends on.
    _folder_parameters: frozenset[str] = frozenset()
    _fitted_state: dict[str, Rule] = {
        "networks_": Map(str, Map(str, Plain())),
        "held_out_": Array("bool", "n"),
        "history_": Map(str, Array("float64", None)),
        "_shapes": Plain(),
        "_trained_on": Map(bytes, below="n"),
    }
    _family = "trained network"
    _tags: tuple[str, ...] = ("trained",)
    _takes_roi_mask = True
    # Extra of the package that training takes, whatever the features need.
    _needs_extra = "torch"
    # Scores and maps of images that were trained on are lower than those of new ones; held_out_
    # says which are not.
    _maps_own_out_of_sample = False
    _scores_own_out_of_sample = False

    # Set to True if _prepare_grids takes patch grids and feature rows.
    _takes_grids = False

    max_steps: int
    batch_size: int
    learning_rate: float
    max_grad_norm: float | None
    validation_fraction: float
    early_stopping: bool
    warm_start: bool
    smoothing_sigma: float
    device: str
    precision: str
    verbose: bool
    held_out_: np.ndarray
    networks_: dict[str, dict[str, np.ndarray]]
    _trained_on: dict[bytes, int]

    # ---- what a subclass writes -----------------------------------------------------
    def _prepare(self, images: list[np.ndarray]) -> Prepared:
        raise NotImplementedError

    def _prepare_grids(self, grids: PatchGrids) -> Prepared:
        raise NotImplementedError

    def _build(self, shapes: Shapes, rng: np.random.Generator) -> dict[str, Any]:
        raise NotImplementedError

    def _optimizer(self, networks: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _loss(self, networks: dict[str, Any], batch: tuple[Any, ...], step: Step) -> Any:
        raise NotImplementedError

    def _map(self, networks: dict[str, Any], sample: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def _collate(self, samples: list[Sample], step: Step) -> tuple[np.ndarray, ...]:
        return tuple(np.stack(arrays) for arrays in zip(*samples))

    def _rate(self, step: int, n_steps: int) -> float:
        return 1.0

    def _summarize(self, heat: np.ndarray, own: float | None) -> float:
        return float(heat.max()) if own is None else own

    def _after_training(self, held_out: Iterator[tuple[np.ndarray, float | None]]) -> None:
        return

    # ---- input ----------------------------------------------------------------------
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self._takes_grids
        return tags

    def _validate(self, X: Any, *, reset: bool) -> Any:
        kind = input_kind(X)
        if reset and kind != "images" and not self._takes_grids:
            raise ImageFormatError(
                f"{type(self).__name__} trains its networks on images, and was given "
                f"{kind_in_words(kind)} ({type(X).__name__}). Give it paths or uint8 RGB images; "
                "PatchCoreDetector, among others, takes features that are computed already."
            )
        return super()._validate(X, reset=reset)

    def _blocks(self, data: Any) -> Iterator[tuple[Prepared, list[SampleKey]]]:
        if self.input_kind_ != "images":
            cuts = data.starts
            keys = [SampleKey(digest(data.rows[a:b])) for a, b in zip(cuts[:-1], cuts[1:])]
            yield self._prepare_grids(data), keys
            return
        for images, keys in self._keyed_images(data):
            with timed("features"):
                block = self._prepare(self._within_region(images))
            if self.roi_mask_ is not None:
                block = block._replace(grids=block.grids.within(self.roi_mask_))
            yield block, keys

    def _within_region(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Images that are gray outside the region: networks may see all of an image at once."""
        if self.roi_mask_ is None:
            return images
        inside = self.roi_mask_[:, :, None]
        return [np.where(inside, image, np.uint8(_GRAY)) for image in images]

    def _keyed_images(self, data: Any) -> Iterator[tuple[list[np.ndarray], list[SampleKey]]]:
        return iter_keyed_images(data, self._block_size(), self.roi_mask_)

    def _sample_keys(self, data: Any) -> Iterator[SampleKey]:
        if self.tiled_ or self.input_kind_ != "images":
            yield from super()._sample_keys(data)
            return
        for _, keys in self._keyed_images(data):  # the networks are not needed for it
            yield from keys

    def _contents(self, block: Prepared) -> list[np.ndarray]:
        return [one.reshape(-1, one.shape[2]) for one in block.contents]

    def _as_whole(self, block: Prepared, values: Any) -> np.ndarray | None:
        # In a region of interest, which may be small, a defect can be much of what there is.
        return None if self.roi_mask_ is not None else super()._as_whole(block, values)

    # ---- training -------------------------------------------------------------------
    def _validate_training_input(self, X: Any, *, roi_mask: Any = None) -> Any:
        before = vars(self).get("roi_mask_"), vars(self).get("tiled_")
        data = super()._validate_training_input(X, roi_mask=roi_mask)
        if self.warm_start and "networks_" in vars(self):
            mask, tiled = before
            if not _are_equal(mask, self.roi_mask_) or tiled != self.tiled_:
                raise ValueError(
                    "warm_start=True goes on with networks that have learned from "
                    f"{'tiles' if tiled else 'whole images'} "
                    f"{'without a' if mask is None else 'within another'} region of interest. Give "
                    "the same kind of images and the same roi_mask as in the last fit, or set "
                    "warm_start=False to train new networks."
                )
        return data

    def _recognize_trained(self, X: Any) -> np.ndarray:
        """Tell which samples the networks have been trained on, in any fit; bool, (n,)."""
        check_is_fitted(self)
        fitted = self._as_fitted()
        keys = fitted._sample_keys(fitted._validate_new_input(X))
        return np.array([key.image in self._trained_on for key in keys], dtype=bool)

    def _fit_validated(self, train: Any) -> None:
        self._go_on = self.warm_start and "networks_" in vars(self)
        if not self._go_on:
            self._trained_on = {}
        self._whole_images = train
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        super()._fit_validated(train)
        for name in ("_go_on", "_seed", "_whole_images"):
            del self.__dict__[name]

    def _choose_held_out(self, group_of_image: dict[bytes, int]) -> np.ndarray:
        """Draw the groups that are held out, none of which a network has seen."""
        n = len(group_of_image)
        if n < 2:
            raise TooFewImagesError(
                f"{type(self).__name__} needs 2 different training images, one to train on and "
                f"one to hold out, got {n}."
            )
        new = [g for image, g in group_of_image.items() if image not in self._trained_on]
        if not new:
            raise TooFewImagesError(
                "warm_start=True: the networks have been trained on every one of these images, so "
                "none tells how a new one scores. Add images that they have not seen, or those "
                "that were held out."
            )
        # Two at least, of which a threshold can be made, but for two images.
        n_held_out = min(max(2, round(self.validation_fraction * n)), n - 1)
        drawn = np.random.default_rng([self._seed, 3]).permutation(sorted(new))
        return np.sort(drawn[:n_held_out])

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        import_optional("torch", "torch", type(self).__name__)
        geometry = []
        with SampleStore(type(self).__name__) as store:
            for block in stream:
                store.append(block.samples)
                geometry.append(block.grids.without_features())
            groups = stream.group_of
            held_out = np.isin(groups, self._choose_held_out(stream.group_of_image))
            self._held_out_samples = held_out
            self._shapes = [(dtype.name, shape) for dtype, shape in store.shapes]
            self._train(store, held_out)
            grids = PatchGrids.concatenate(geometry)
            self._after_training(
                self._judge([store[i]], grids[i : i + 1])[1][0]
                for i in np.flatnonzero(held_out).tolist()
            )
            scores = [
                self._score_samples_alone([store[i]], grids[i : i + 1])[1]
                for i in range(stream.n_samples)
            ]
        images = stream.group_of_image
        known = set(groups[held_out].tolist())
        self._trained_on = {
            **self._trained_on,
            **{image: 0 for image, group in images.items() if group not in known},
        }
        return np.concatenate(scores)

    def _train(self, store: SampleStore, held_out: np.ndarray) -> None:
        device = resolve_device(self.device)
        networks = self._build(self._shapes, np.random.default_rng([self._seed, 4]))
        before = self.networks_ if self._go_on else {}
        for name, arrays in before.items():
            try:
                fill(networks[name], arrays)
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"warm_start=True: the networks of the last fit do not go with the parameters "
                    f"or the size of the images of this one ({error}). Set them back, or set "
                    "warm_start=False to train new networks."
                ) from error
        for network in networks.values():
            network.to(device)
        plan = Plan(
            self.max_steps,
            self.batch_size,
            self._seed,
            device,
            self.precision,
            self.max_grad_norm,
            self.early_stopping,
            self._rate,
            self.verbose,
        )
        with deterministic(device):
            self.history_ = train(
                networks,
                self._optimizer(networks),
                lambda batch, step: self._loss(networks, batch, step),
                lambda indices, step: self._collate([store[i] for i in indices], step),
                np.flatnonzero(~held_out),
                np.flatnonzero(held_out),
                plan,
                self._identity(store, held_out, before),
            )
        self.networks_ = {name: as_arrays(network) for name, network in networks.items()}
        self.__dict__.pop("_loaded", None)

    def _identity(
        self,
        store: SampleStore,
        held_out: np.ndarray,
        before: dict[str, dict[str, np.ndarray]],
    ) -> str:
        """Text that says all that the networks depend on."""
        parts = [type(self).__module__, type(self).__qualname__, str(self._seed)]
        parts += [__version__, torch_module().__version__]
        without = {"contamination", "random_state", "smoothing_sigma", "verbose"}
        parts += [
            f"{name}={value!r}"
            for name, value in sorted(self.get_params(deep=True).items())
            if name not in without
        ]
        parts.append(store.sha256)
        parts.append("" if self.roi_mask_ is None else digest(self.roi_mask_).hex())
        parts.append(np.packbits(held_out).tobytes().hex())
        parts += [digest_of_weights(arrays) for arrays in before.values()]
        return "\n".join(parts)

    def _run_fit(self, train: Any, n_samples: int) -> np.ndarray:
        scores = super()._run_fit(train, n_samples)
        held_out = self.__dict__.pop("_held_out_samples")
        if self.tiled_:  # the tiles of an image are held out together
            held_out = held_out[np.concatenate([[0], np.cumsum(train.counts)[:-1]])]
        self.held_out_ = held_out
        return scores

    def trained_steps(self) -> list[Any]:
        """List the trained networks that any engine runs, as feature steps.

        Returns
        -------
        list of BaseNetworkFeatures
            None by default: torch runs them. The steps stay the same until the next ``fit``.
        """
        return []

    # ---- scoring --------------------------------------------------------------------
    def _score(self, block: Prepared, train_group: np.ndarray) -> tuple[list[np.ndarray], Any]:
        return self._score_samples_alone(block.samples, block.grids)

    def _score_samples_alone(
        self, samples: list[Sample], grids: PatchGrids
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Smoothed maps, at the resolution of the networks, and scores of some samples."""
        fine, seen = self._judge(samples, grids)
        return fine, np.array([self._summarize(heat, own) for heat, own in seen])

    def _judge(
        self, samples: list[Sample], grids: PatchGrids
    ) -> tuple[list[np.ndarray], list[tuple[np.ndarray, float | None]]]:
        """Smoothed maps, and of each its values inside the region beside ``_map``'s own score."""
        shapes = [(name, tuple(shape)) for name, shape in self._shapes]
        for sample in samples:
            found = [(np.asarray(one).dtype.name, np.asarray(one).shape) for one in sample]
            if found != shapes:
                raise ImageFormatError(
                    f"{type(self).__name__} was trained on images that become arrays of shapes "
                    f"{[s for _, s in shapes]}, and this one becomes {[s for _, s in found]}: give "
                    "the feature step a fixed resize."
                )
        judged = self._map_all(samples)
        masks = [grids.mask_of(i).reshape(heat.shape) for i, (heat, _) in enumerate(judged)]
        values = np.concatenate([heat[mask] for (heat, _), mask in zip(judged, masks)])
        fine = grids.smooth(values, self.smoothing_sigma)
        seen = []
        for heat, (_, own), mask in zip(fine, judged, masks):
            size = heat.shape[::-1]
            inside = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            seen.append((heat[inside.view(bool)], own))
        return fine, seen

    def _map_all(self, samples: list[Sample]) -> list[tuple[np.ndarray, float | None]]:
        """Map of each sample, with its score where ``_map`` gives one."""
        torch = torch_module()
        device = resolve_device(self.device)
        networks = self._ready_networks(device)

        def judge(sample: Sample) -> tuple[np.ndarray, float | None]:
            tensors = tuple(
                tensor.float() if tensor.is_floating_point() else tensor
                for tensor in (torch.from_numpy(np.array(one)[None]).to(device) for one in sample)
            )
            autocast = (
                torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
                if self.precision == "bfloat16"
                else nullcontext()
            )
            with torch.inference_mode(), autocast:
                found = self._map(networks, tensors)
            heat, score = found if isinstance(found, tuple) else (found, None)
            return np.asarray(heat, dtype=np.float32), score

        with deterministic(device):
            return map_one_by_one(judge, samples, device)

    def _ready_networks(self, device: str) -> dict[str, Any]:
        """The trained networks, in eval mode, on a device."""
        loaded = vars(self).get("_loaded")
        if loaded is not None and loaded[0] is self.networks_ and loaded[1] == device:
            return loaded[2]
        networks = self._build(self._shapes, np.random.default_rng(0))
        if set(networks) != set(self.networks_):
            fail(f"{type(self).__name__}.networks_", "are not those that its parameters stand for")
        for name, network in networks.items():
            try:
                fill(network, self.networks_[name])
            except ValueError as error:
                fail(f"{type(self).__name__}.networks_[{name!r}]", str(error))
            network.requires_grad_(False).eval().to(device)
        self._loaded = (self.networks_, device, networks)
        return networks

    def _to_pixels(self, block: Prepared, values: list[np.ndarray]) -> list[np.ndarray]:
        maps = block.grids.place(values)
        return maps if self.roi_mask_ is None else [lowest_outside(m, self.roi_mask_) for m in maps]

    # ---- state ----------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_loaded", None)  # built again from the arrays
        return state

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        where = cls.__name__
        if state["tiled_"] and state["input_kind_"] != "images":
            fail(f"{where}.tiled_", "does not go with input_kind_")
        if not state["held_out_"].any():
            fail(f"{where}.held_out_", "holds out nothing")
        for name, arrays in state["networks_"].items():
            for key, values in arrays.items():
                kinds = ("float32", "int64")
                if not isinstance(values, np.ndarray) or values.dtype.name not in kinds:
                    fail(f"{where}.networks_[{name!r}]", f"holds {key}, which is no such array")
                if values.dtype.kind == "f" and sizes.thorough:
                    check_finite_array(values, f"{where}.networks_[{name!r}][{key!r}]")
        for one in state["_shapes"]:
            if (
                type(one) is not tuple
                or len(one) != 2
                or one[0] not in ("float16", "uint8", "int64")
                or type(one[1]) is not tuple
                or not all(type(side) is int and 0 < side < 2**20 for side in one[1])
            ):
                fail(f"{where}._shapes", "are no shapes of samples")


def _are_equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Tell whether two regions of interest are the same."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


class BaseFeatureTrainedDetector(FeatureHolderMixin, BaseTrainedDetector):
    """Base of detectors that train networks on frozen features.

    Where the feature step learns from the training images in a way that suits them better than
    others, it is fitted without those that are held out.
    """

    _parameter_constraints: dict = {
        **BaseTrainedDetector._parameter_constraints,
        **FeatureHolderMixin._parameter_constraints,
    }
    _feature_defaults: dict[str, Any] = {"layers": None, "pool": 1}

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        if ("features_" in state) != (state["input_kind_"] == "images"):
            fail(f"{cls.__name__}.features_", "does not go with input_kind_")

    def _fit_steps(self, data: Any) -> None:
        """Fit the feature step; one that would know the held-out images, on the others alone."""
        if self._go_on:
            self._refuse_other_features()
            return  # the networks go on with the features that they know
        super()._fit_steps(data)
        if "features_" not in vars(self) or not overfits(self.features_):
            return
        # By image, as the stream of training samples counts them.
        group_of_image: dict[bytes, int] = {}
        groups: list[int] = []
        images = self._whole_images
        for _, keys in iter_keyed_images(images, self._block_size(), self.roi_mask_):
            for key in keys:
                if key.tile == 0:
                    groups.append(group_of_image.setdefault(key.image, len(groups)))
        rest = images[np.flatnonzero(~np.isin(groups, self._choose_held_out(group_of_image)))]
        self._fit_features(rest.side_by_side() if self.tiled_ else rest)

    def _refuse_other_features(self) -> None:
        at_fit = self._parameters_at_fit
        if "features" not in at_fit:
            return
        changed = ["features"] if differ(self.features, at_fit["features"]) else []
        if not changed and not isinstance(self.features, str):
            # Parameters of the step are set in place, and its fitted copy has those of the fit.
            one, other = (step.get_params() for step in (self.features, self.features_))
            changed = [f"features__{name}" for name in _changed(one, other)]
        if changed:
            raise ParameterError(
                f"warm_start=True goes on with the networks of this {type(self).__name__}, which "
                f"know the features of the last fit, and {', '.join(changed)} has been changed "
                "since. Set it back, or set warm_start=False to train new networks."
            )


def _changed(params: dict[str, Any], at_fit: dict[str, Any]) -> list[str]:
    """Names of the parameters that say what is computed and have other values than in the fit."""
    return [
        name
        for name, value in params.items()
        if name.rpartition("__")[2] not in RUNTIME_PARAMETERS
        and differ(value, at_fit.get(name))
        and not differ(value, clone(value, safe=False))  # a copy is known by its value
    ]
