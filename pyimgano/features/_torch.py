"""Patch features from the layers of a pretrained network."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.exceptions import RandomWeightsWarning, WeightsError
from pyimgano.features._base import BasePatchFeatures
from pyimgano.features._grids import PatchGrids
from pyimgano.features._weights import find_weights, read_state_dict
from pyimgano.utils._optional import import_optional

__all__ = ["TorchPatchFeatures"]

# The colour statistics every torchvision classification network was trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# These rescale their input themselves when they hold the published weights.
_BUILD_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}


class TorchPatchFeatures(BasePatchFeatures):
    """Patch features from the layers of a torchvision network for classification.

    Each image is resized, center-cropped, normalised with the ImageNet mean and standard
    deviation and sent through the network as far as the last layer asked for. The map of
    each layer is averaged over ``pool`` x ``pool`` neighbourhoods, interpolated to the grid
    of the first layer, and joined along the features: the locally aware patch features of
    PatchCore [1]_.

    The network is no part of this object's state. It is loaded at first use, shared by all
    steps of one process with the same settings, and found again after unpickling, when the
    sha256 of its weights must be the one seen in ``fit``.

    Parameters
    ----------
    backbone : str, default="wide_resnet50_2"
        Name of a convolutional classification network of torchvision, such as
        ``"resnet18"``.
    layers : tuple of str, default=("layer2", "layer3")
        Names of the layers whose output is used. What follows the last of them is neither
        run nor needed in a weights file. The first one sets the grid.
    weights : {"imagenet"}, path or None, default="imagenet"
        ``"imagenet"``: torchvision's first published weights (``IMAGENET1K_V1``, those of
        the papers), from the cache folder or downloaded into it. The folder is
        ``$PYIMGANO_CACHE_DIR/weights``, else ``$TORCH_HOME/hub/checkpoints``, else the
        user's cache folder.
        A path: a state dict with torchvision's names, loaded with ``weights_only=True``.
        ``None``: random weights drawn from ``random_state``, with a
        :class:`~pyimgano.exceptions.RandomWeightsWarning`.
    resize : int, (int, int) or None, default=256
        Height and width in pixels to which each image is brought before the crop. An int
        gives both sides, so that the image becomes square and its aspect ratio is not kept.
        ``None`` leaves each image its size. Pixels are averaged where an image shrinks and
        interpolated bilinearly where it grows.
    crop : int, (int, int) or None, default=224
        Height and width in pixels of the center crop; ``None`` crops nothing.
    pool : int, default=3
        Odd side length of the neighbourhood each patch is averaged over, in patches of its
        layer. Border patches average zeros in, as in PatchCore's reference. 1 leaves it out.
    precision : {"float32", "bfloat16"}, default="float32"
        Arithmetic of the network. ``"bfloat16"`` is several times faster on processors and
        GPUs with bfloat16 matrix units, slower on others, and changes features by about 1 %.
        The features returned are float32 in any case.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... or ``"auto"`` for CUDA where there is one.
        It is looked up when the network is loaded, so that a model fitted on a GPU works
        on a machine without when it says ``"auto"``.
    batch_size : int, default=8
        Images decoded at a time, and on a GPU computed at a time. The CPU computes one
        after another, so that an image has the same features, bit for bit, in any batch.
    embed_weights : bool, default=False
        Keep the weights in the state from ``fit`` on, so that one joblib file holds all
        there is. Otherwise the file stays small and needs the weights where it is loaded.
    random_state : int, default=0
        Seed of the random weights; used for ``weights=None`` only. An int is required,
        because the network is drawn again after unpickling.

    Attributes
    ----------
    weights_sha256_ : str
        sha256 over the names, shapes and float32 values of the weights that are used. It
        does not depend on the file they came in.
    embedded_weights_ : dict of str to ndarray
        The weights themselves; only with ``embed_weights=True``.

    Notes
    -----
    Batch norms are folded into the convolutions when the network is loaded, and it runs in
    the channels-last layout.

    ``fit`` learns nothing from the images; it loads the network and notes its sha256.
    ``transform`` works without it.

    References
    ----------
    .. [1] K. Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from pyimgano.features import TorchPatchFeatures
    >>> images = np.zeros((2, 80, 100, 3), dtype=np.uint8)
    >>> step = TorchPatchFeatures("resnet18", weights=None, resize=(64, 96), crop=None)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # random weights
    ...     grids = step.fit_transform(images)
    >>> grids.features.shape  # an eighth of 64 x 96; 128 + 256 channels
    (2, 8, 12, 384)
    """

    _parameter_constraints: dict = {
        "backbone": [str],
        "layers": [tuple, list],
        "weights": [str, os.PathLike, None],
        "resize": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "crop": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "pool": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "embed_weights": ["boolean"],
        "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
    }

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] = ("layer2", "layer3"),
        weights: str | os.PathLike[str] | None = "imagenet",
        *,
        resize: int | Sequence[int] | None = 256,
        crop: int | Sequence[int] | None = 224,
        pool: int = 3,
        precision: str = "float32",
        device: str = "auto",
        batch_size: int = 8,
        embed_weights: bool = False,
        random_state: int = 0,
    ) -> None:
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.resize = resize
        self.crop = crop
        self.pool = pool
        self.precision = precision
        self.device = device
        self.batch_size = batch_size
        self.embed_weights = embed_weights
        self.random_state = random_state

    def _fit_images(self, images: object) -> None:
        """Load the network and note what identifies its weights."""
        for name in ("weights_sha256_", "embedded_weights_", "_loaded"):
            self.__dict__.pop(name, None)  # of an earlier fit
        _check_sizes(self.resize, self.crop, self.pool)
        self.weights_sha256_ = self._network().sha256
        if self.embed_weights:
            _, self.embedded_weights_ = _read(self.backbone, tuple(self.layers), self._source())

    def _extract(self, images: Sequence[np.ndarray]) -> PatchGrids:
        network = self._network()
        resize, crop = _check_sizes(self.resize, self.crop, self.pool)
        prepared, boxes = zip(*(_prepare(image, resize, crop) for image in images))
        maps = network.patch_maps(prepared, self.pool)
        return PatchGrids(
            np.concatenate([one.reshape(-1, one.shape[-1]) for one in maps]),
            [one.shape[:2] for one in maps],
            image_sizes=[image.shape[:2] for image in images],
            boxes=boxes,
            work_sizes=[image.shape[:2] for image in prepared],
        )

    def _network(self) -> _Network:
        """Return the network these parameters describe, loaded if that was not done yet."""
        names = ("backbone", "layers", "weights", "precision", "device", "random_state")
        parameters = repr([getattr(self, name) for name in names])
        loaded = self.__dict__.get("_loaded")
        if loaded is not None and loaded[0] == parameters:
            return loaded[1]
        self._validate_params()  # transform works without fit
        _check_layers(self.layers)
        device = _resolve_device(self.device)
        expected = getattr(self, "weights_sha256_", None)
        if hasattr(self, "embedded_weights_"):
            graph = _build(self.backbone, tuple(self.layers))
            network = _assemble(graph, self.embedded_weights_, device, self.precision)
        else:
            if self.weights is None and expected is None:
                warnings.warn(
                    f"TorchPatchFeatures(weights=None): {self.backbone} gets random weights. "
                    "It shows that a pipeline runs; its features find few defects. Without "
                    'pretrained weights features="filterbank" is the better choice.',
                    RandomWeightsWarning,
                    stacklevel=2,
                )
            network = _load(
                self.backbone, tuple(self.layers), self._source(), device, self.precision
            )
        if expected is not None and network.sha256 != expected:
            raise WeightsError(self._other_weights_message(network.sha256))
        self._loaded = (parameters, network)
        return network

    def _source(self) -> _Source:
        """Where the weights come from now; equal sources give equal weights."""
        if self.weights is None:
            return _Source(None, 0, 0, int(self.random_state))
        if self.weights == "imagenet":
            path = _find_imagenet(self.backbone)
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
                "torchvision or numpy builds another network. Fit again, or fit with "
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


class _Network:
    """A frozen network ready to run, with the digest of the weights it was made of."""

    def __init__(self, module: Any, sha256: str, device: str, bfloat16: bool) -> None:
        torch = _torch()
        self.module = module
        self.sha256 = sha256
        self.device = device
        self.bfloat16 = bfloat16
        # Normalises values 0-255 at once: (x / 255 - mean) / std.
        self._mean = torch.tensor(_MEAN, device=device).mul_(255).view(1, 3, 1, 1)
        self._std = torch.tensor(_STD, device=device).mul_(255).view(1, 3, 1, 1)

    def patch_maps(self, images: Sequence[np.ndarray], pool: int) -> list[np.ndarray]:
        """Features (h, w, d), float32, of each uint8 image (height, width, 3)."""
        if not self.device.startswith("cuda"):
            # The CPU's convolutions choose their algorithm by the size of the batch, and each
            # rounds in its own way. One by one, an image is the same in any company.
            return [self._run(image[None], pool)[0] for image in images]
        maps: list[Any] = [None] * len(images)
        for size in {image.shape: None for image in images}:  # images of one size go together
            members = [i for i, image in enumerate(images) if image.shape == size]
            for i, one in zip(members, self._run(np.stack([images[i] for i in members]), pool)):
                maps[i] = one
        return maps

    def _run(self, images: np.ndarray, pool: int) -> np.ndarray:
        torch = _torch()
        cuda = self.device.startswith("cuda")
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
            if self.bfloat16
            else nullcontext()
        )
        with torch.inference_mode(), flags:
            # (n, height, width, 3) in memory is what torch calls channels-last.
            x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            x = x.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)
            with autocast:
                outputs = self.module(x)
            maps = _join(outputs, pool)
            return maps.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _join(outputs: tuple[Any, ...], pool: int) -> Any:
    """Average each layer's map over neighbourhoods and bring it to the grid of the first."""
    torch = _torch()
    functional = torch.nn.functional
    joined: list[Any] = []
    for i, output in enumerate(outputs):
        if output.ndim != 4:
            raise ValueError(
                f"layers[{i}] gives an output of shape {tuple(output.shape)}, which is no map; "
                "choose layers with outputs (n, channels, height, width)."
            )
        output = output.float()
        if pool > 1:
            output = functional.avg_pool2d(output, pool, stride=1, padding=pool // 2)
        if joined and output.shape[2:] != joined[0].shape[2:]:
            output = functional.interpolate(
                output, size=joined[0].shape[2:], mode="bilinear", align_corners=False
            )
        joined.append(output)
    return torch.cat(joined, dim=1)


def _torch() -> Any:
    return import_optional("torch", "torch", "TorchPatchFeatures")


def _models(backbone: str) -> Any:
    """Return ``torchvision.models``, which must know the backbone."""
    models = import_optional("torchvision.models", "torch", "TorchPatchFeatures")
    # Swin's maps have their channels last, which nothing in their shape would tell.
    known = [name for name in models.list_models(module=models) if not name.startswith("swin")]
    if backbone not in known:
        raise ValueError(
            f"backbone={backbone!r} is no convolutional classification network of torchvision."
            + _nearest(backbone, known)
        )
    return models


# Two are enough for a teacher beside a student, or for a grid over two backbones.
@lru_cache(maxsize=2)
def _load(
    backbone: str, layers: tuple[str, ...], source: _Source, device: str, precision: str
) -> _Network:
    return _assemble(*_read(backbone, layers, source), device, precision)


def _assemble(graph: Any, state: dict[str, np.ndarray], device: str, precision: str) -> _Network:
    """Fill the graph with its weights and make it fast."""
    torch = _torch()
    graph = graph.to_empty(device="cpu")
    for name, target in graph.state_dict().items():
        if name in state:
            target.copy_(torch.tensor(state[name]))
        else:  # the batch norms' counters, see _needed
            target.zero_()
    graph.requires_grad_(False)
    _fold_batch_norms(graph)
    bfloat16 = precision == "bfloat16"
    if bfloat16:
        # Autocast would convert these weights again for every image.
        for module in graph.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.to(torch.bfloat16)
    graph = graph.to(device=device, memory_format=torch.channels_last)
    return _Network(graph, _digest(state), device, bfloat16)


def _build(backbone: str, layers: tuple[str, ...]) -> Any:
    """Graph of the network from its input to the layers, and nothing else; without values."""
    torch = _torch()
    models = _models(backbone)
    feature_extraction = import_optional(
        "torchvision.models.feature_extraction", "torch", "TorchPatchFeatures"
    )
    options = _BUILD_OPTIONS.get(backbone, {})
    try:  # the meta device has shapes but no values: nothing is drawn, no time is spent
        with torch.device("meta"):
            model = models.get_model(backbone, weights=None, **options).eval()
    except NotImplementedError:  # RegNet computes its widths with tensors
        with torch.random.fork_rng(devices=[]):
            model = models.get_model(backbone, weights=None, **options).eval()
    try:
        extractor = feature_extraction.create_feature_extractor(
            model, list(layers), suppress_diff_warning=True
        )
    except ValueError as error:
        _, nodes = feature_extraction.get_graph_node_names(model, suppress_diff_warning=True)
        available = _layer_names(nodes)
        for layer in layers:
            if layer not in available:
                top = list(dict.fromkeys(name.split(".")[0] for name in nodes))
                raise ValueError(
                    f"layers: {backbone} has no layer {layer!r}."
                    + _nearest(layer, available)
                    + f" Its outermost layers are {', '.join(top)}."
                ) from error
        raise
    # Of its two graphs, for training and for evaluation, only the second is wanted, and a
    # plain module of it can be edited.
    graph = torch.fx.GraphModule(extractor, extractor.eval_graph).eval()
    # Outputs in the order of ``layers``, and copied: what follows a layer may work in place.
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    copies = []
    for layer in layers:
        node = output.args[0][layer]
        with graph.graph.inserting_after(node):
            copies.append(graph.graph.call_method("clone", (node,)))
    output.args = (tuple(copies),)
    graph.recompile()
    return graph


def _layer_names(nodes: Iterable[str]) -> set[str]:
    """All names a layer goes by: "layer2.0.conv1" is also in "layer2.0" and "layer2"."""
    names: set[str] = set()
    for node in nodes:
        parts = node.split(".")
        names.update(".".join(parts[:k]) for k in range(1, len(parts) + 1))
    return names


def _needed(graph: Any) -> dict[str, Any]:
    """Tensors of the graph that matter for its output."""
    return {
        name: tensor
        for name, tensor in graph.state_dict().items()
        if not name.endswith("num_batches_tracked")  # counts training steps
    }


def _read(
    backbone: str, layers: tuple[str, ...], source: _Source
) -> tuple[Any, dict[str, np.ndarray]]:
    """Graph of the network, and its weights from the file or drawn at random."""
    graph = _build(backbone, layers)
    if source.path is None:
        return graph, _random_state(graph, backbone, source.seed)
    needed = _needed(graph)
    state = read_state_dict(source.path)
    missing = [name for name in needed if name not in state]
    if len(missing) == len(needed):
        raise WeightsError(
            f"{source.path} holds none of the weights of {backbone}, but those of another "
            f"network or under other names. Its first names are {_some(state)}; expected "
            f"are torchvision's: {_some(needed)}."
        )
    if missing:
        raise WeightsError(
            f"{source.path} lacks {len(missing)} of the {len(needed)} weights that {backbone} "
            f"needs for layers={layers}: {_some(missing, 10)}."
        )
    for name, tensor in needed.items():
        if state[name].shape != tensor.shape:
            raise WeightsError(
                f"{source.path} is not of {backbone}: {name} has shape "
                f"{tuple(state[name].shape)}, expected {tuple(tensor.shape)}."
            )
    used = {name: state[name].detach().to(tensor.dtype).numpy() for name, tensor in needed.items()}
    return graph, used


def _random_state(graph: Any, backbone: str, seed: int) -> dict[str, np.ndarray]:
    """He initialisation drawn by numpy, which gives the same numbers on every machine."""
    rng = np.random.default_rng(seed)
    parameters = {name for name, _ in graph.named_parameters()}
    state = {}
    for name, tensor in _needed(graph).items():
        shape = tuple(tensor.shape)
        if name in parameters and len(shape) > 1:
            fan_out = shape[0] * int(np.prod(shape[2:]))
            value = rng.standard_normal(shape) * np.sqrt(2 / fan_out)
        elif name.endswith(("bias", "running_mean")):
            value = np.zeros(shape)
        elif name in parameters or name.endswith("running_var"):
            value = np.ones(shape)
        else:
            raise ValueError(
                f"weights=None: {backbone} keeps {name}, which cannot be drawn at random; "
                "give the path of a state dict."
            )
        state[name] = value.astype(np.float32)
    return state


def _fold_batch_norms(graph: Any) -> None:
    """Merge each batch norm into the convolution before it, where nothing else uses that."""
    torch = _torch()
    fusion = import_optional("torch.nn.utils.fusion", "torch", "TorchPatchFeatures")
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) is not torch.nn.BatchNorm2d:
            continue
        before = node.args[0]
        if (
            before.op != "call_module"
            or type(modules[before.target]) is not torch.nn.Conv2d
            or len(before.users) != 1
            or calls[before.target] != 1
        ):
            continue
        folded = fusion.fuse_conv_bn_eval(modules[before.target], modules[node.target])
        parent, _, child = before.target.rpartition(".")
        setattr(modules[parent], child, folded)
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def _digest(state: dict[str, np.ndarray]) -> str:
    """sha256 over names, shapes and values, whatever order or file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())  # in C order, whatever the layout in memory
    return digest.hexdigest()


def _find_imagenet(backbone: str) -> Path:
    models = _models(backbone)
    # The first published weights are those the papers used; "best" ones came later.
    first = next(iter(models.get_model_weights(backbone)))
    return find_weights(backbone, str(first), first.url)


def _resolve_device(device: str) -> str:
    torch = _torch()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f'device={device!r}: expected "auto", "cpu", "cuda" or "cuda:0", ...')
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if count else "cpu"
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        raise ValueError(
            f"device={device!r}: torch sees {count} CUDA devices on this machine"
            + (f", numbered from 0 to {count - 1}." if count else ".")
            + ' device="auto" takes what there is, device="cpu" always works.'
        )
    return device


def _check_layers(layers: Sequence[str]) -> None:
    if not layers or not all(isinstance(layer, str) for layer in layers):
        raise ValueError(f"layers={layers!r}: expected one or more names of layers.")
    if len(set(layers)) != len(layers):
        raise ValueError(f"layers={layers!r} names a layer twice.")


def _check_sizes(
    resize: int | Sequence[int] | None, crop: int | Sequence[int] | None, pool: int
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """``resize`` and ``crop`` as (height, width), if they go together."""
    if pool % 2 == 0:
        raise ValueError(f"pool={pool} has no center patch; it must be odd.")
    resize_to, crop_to = _pair("resize", resize), _pair("crop", crop)
    if resize_to and crop_to and (crop_to[0] > resize_to[0] or crop_to[1] > resize_to[1]):
        raise ValueError(
            f"crop={crop!r} is larger than resize={resize!r}: a crop is cut out of the resized "
            "image. Make resize at least as large, or set crop=None."
        )
    return resize_to, crop_to


def _pair(name: str, value: int | Sequence[int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, Integral):
        return int(value), int(value)
    sides = list(value)  # type: ignore[arg-type]
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(
            f"{name}={value!r}: expected a number of pixels, a pair (height, width), or None."
        )
    return int(sides[0]), int(sides[1])


def _prepare(
    image: np.ndarray, resize: tuple[int, int] | None, crop: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Resize and crop an image; also the box of the crop in pixels of the input."""
    height, width = image.shape[:2]
    work_h, work_w = resize or (height, width)
    if (work_h, work_w) != (height, width):
        shrinks = work_h <= height and work_w <= width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, (work_w, work_h), interpolation=method)
    if crop is None:
        return image, (0.0, 0.0, float(height), float(width))
    crop_h, crop_w = crop
    if crop_h > work_h or crop_w > work_w:
        raise ValueError(
            f"crop={crop} is larger than an image of {height} x {width} pixels, and "
            "resize=None leaves it that size. Set resize, or a smaller crop, or crop=None."
        )
    top, left = (work_h - crop_h) // 2, (work_w - crop_w) // 2
    scale_y, scale_x = height / work_h, width / work_w
    box = (top * scale_y, left * scale_x, crop_h * scale_y, crop_w * scale_x)
    return image[top : top + crop_h, left : left + crop_w], box


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f" The nearest names are {', '.join(close)}." if close else ""


def _some(names: Iterable[str], n: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:n]) + (", ..." if len(names) > n else "")
