"""Patch features from a vision transformer."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from copy import copy
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from pyimgano.backbones._engines import ENGINE_EXTRAS, BundledNetwork, OnnxNetwork
from pyimgano.backbones._network import nearest_names
from pyimgano.backbones._torch_module import TorchModule, torch_module
from pyimgano.backbones._weights import (
    MissingWeightsError,
    check_downloads_allowed,
    find_by_name,
    find_weights,
)
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inputs._formats import resize_image
from pyimgano.utils._optional import import_optional

__all__ = ["DINOV2", "ViTPatchFeatures"]

# The names DINOv2's authors gave their networks, and timm's.
DINOV2 = {
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_vitl14": "vit_large_patch14_dinov2.lvd142m",
    "dinov2_vitg14": "vit_giant_patch14_dinov2.lvd142m",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitg14_reg": "vit_giant_patch14_reg4_dinov2.lvd142m",
}

# Where timm keeps the transformers whose tokens form one grid at any resolution.
_MODULES = ("vision_transformer", "deit", "eva")


class ViTPatchFeatures(BaseNetworkFeatures):
    """Patch features from the tokens of a vision transformer.

    Each image is resized, normalized with the color statistics the network was trained
    with, and sent through the transformer [1]_. The tokens of its patches after the last
    block, or after the blocks asked for, are normalized by the network's final layer norm
    (DINOv2's ``x_norm_patchtokens`` [2]_). Class and register tokens are left out. The
    position embedding is interpolated to the grid of the image.

    The network is no part of this object's state. It is loaded at first use, shared by all
    steps of one process with the same settings, and found again after unpickling, when the
    sha256 of its weights must be the one seen in ``fit``.

    Parameters
    ----------
    backbone : str, default="dinov2_vits14"
        A DINOv2 network by its authors' name, ``"dinov2_vits14"`` to ``"dinov2_vitg14"``,
        with ``"_reg"`` at the end for those with registers; or ``"timm:NAME"``, where NAME
        is that of any plain vision transformer of timm, such as
        ``"timm:vit_base_patch16_224"``.
    weights : {"pretrained"}, path or None, default="pretrained"
        ``"pretrained"``: the published weights, from a cache or downloaded into it. Files
        of a plain address (DINOv2's are) are kept where ``BackbonePatchFeatures`` keeps its
        own; those of the Hugging Face hub in its cache, which timm shares.
        A path: a state dict with timm's names or DINOv2's, as ``.safetensors`` or as
        ``torch.save`` writes it, loaded with ``weights_only=True``.
        ``None``: random weights drawn from ``random_state``, with a
        :class:`~pyimgano.exceptions.RandomWeightsWarning`.
    resize : int or None, default=448
        Pixels to which the smaller side of each image is brought. ``None`` leaves each
        image its size. Both sides are then rounded to whole patches, at least one.
    keep_aspect : bool, default=True
        Whether the longer side keeps its proportion to the smaller, up to that rounding.
        Images of different proportions have grids of different shapes then. If False, both
        sides are ``resize``.
    layers : int or tuple of int, default=-1
        Blocks whose output is used, counted from 0 or, if negative, from the last. Several
        are joined along the features. Blocks after the last of them are neither run nor
        needed in a weights file.
    precision : {"float32", "bfloat16"}, default="float32"
        Arithmetic of the network. ``"bfloat16"`` is faster on processors and GPUs with matrix
        units for it, not on others, and changes features by about 1 %.
        The features returned are float32 in any case.
    engine : {"auto", "torch", "onnxruntime", "openvino"}, default="auto"
        Library that runs the network. ``"auto"`` is torch, whatever else is installed.
        onnxruntime and OpenVINO take a network that torch has converted, once for each size of
        image, and run it on the CPU. See :ref:`engines` for which is fastest where. It can be
        set after ``fit``; features then differ by a few hundred-thousandths of the largest, in
        bfloat16 by about 1 %.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... or ``"auto"`` for CUDA where there is one.
        It is looked up when the network is loaded.
    batch_size : int, default=8
        Images decoded at a time, and on a GPU computed at a time. The CPU computes each by
        itself, so that it has the same features, bit for bit, in any batch.
    threads_per_image : int, default=1
        Cores of a CPU that work on one image; as many images as there are cores left are
        computed side by side. 1 gets most images through. More give a single image its
        features sooner, for a line that inspects one part at a time. Features may differ in
        their last digits from those of another number.
    embed_weights : bool, default=False
        Keep the weights in the state from ``fit`` on, so that one joblib file holds all
        there is. ``pyimgano.save(..., embed_weights=True)`` puts them into the file of any
        fitted model.
    random_state : int, default=0
        Seed of the random weights; used for ``weights=None`` only.

    Attributes
    ----------
    weights_sha256_ : str
        sha256 over the names, shapes and float32 values of the weights that are used.
    weights_file_ : str
        Absolute path of the file they were read from; not there for random weights. After
        loading it is looked for at ``weights`` and here, and then by its sha256 beside the saved
        model, in the folders that ``PYIMGANO_WEIGHTS`` names and in the cache folder.
    weights_file_size_ : int
        Its size in bytes.
    weights_file_sha256_ : str
        The sha256 of its content, as ``sha256sum`` gives it.
    embedded_weights_ : dict of str to ndarray
        The weights themselves; only with ``embed_weights=True``, and in a model that was saved
        so.

    Notes
    -----
    Images are resized to whole patches, not cropped to them: every pixel is looked at, and
    a side changes by half a patch at most. Pixels are averaged where an image shrinks and
    interpolated bilinearly where it grows.

    Time and memory of the attention grow with the square of the number of patches: 448
    pixels are 1 024 patches of 14 pixels.

    References
    ----------
    .. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image
       Recognition at Scale", ICLR 2021.
    .. [2] M. Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision",
       TMLR 2024.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from pyimgano.features import ViTPatchFeatures
    >>> images = np.zeros((2, 80, 100, 3), dtype=np.uint8)
    >>> step = ViTPatchFeatures("timm:test_vit", weights=None, resize=64)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # random weights
    ...     grids = step.fit_transform(images)
    >>> grids.features.shape  # 64 x 80 pixels in patches of 16
    (2, 4, 5, 64)
    """

    _parameter_constraints: dict = {
        **BaseNetworkFeatures._parameter_constraints,
        "resize": [Interval(Integral, 1, None, closed="left"), None],
        "keep_aspect": ["boolean"],
        "layers": [Integral, tuple, list],
    }
    _names_of = "timm"

    def __init__(
        self,
        backbone: str = "dinov2_vits14",
        weights: str | os.PathLike[str] | None = "pretrained",
        *,
        resize: int | None = 448,
        keep_aspect: bool = True,
        layers: int | Sequence[int] = -1,
        precision: str = "float32",
        engine: str = "auto",
        device: str = "auto",
        batch_size: int = 8,
        threads_per_image: int = 1,
        embed_weights: bool = False,
        random_state: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.resize = resize
        self.keep_aspect = keep_aspect
        self.layers = layers
        self.precision = precision
        self.engine = engine
        self.device = device
        self.batch_size = batch_size
        self.threads_per_image = threads_per_image
        self.embed_weights = embed_weights
        self.random_state = random_state

    def _extract(self, images: Sequence[np.ndarray]) -> PatchGrids:
        patch = self._patch_size(self._network().module)
        sizes = [_work_size(image.shape, self.resize, self.keep_aspect, patch) for image in images]
        maps = self._patch_maps(
            images,
            lambda image: resize_image(
                image, _work_size(image.shape, self.resize, self.keep_aspect, patch)
            ),
        )
        return PatchGrids(
            np.concatenate([one.reshape(-1, one.shape[-1]) for one in maps]),
            [one.shape[:2] for one in maps],
            image_sizes=[image.shape[:2] for image in images],
            work_sizes=sizes,
        )

    def _patch_size(self, module: Any) -> tuple[int, int]:
        if isinstance(module, BundledNetwork):
            assert module.delivered.patch_size is not None
            return module.delivered.patch_size
        height, width = module.graph.patch_embed.patch_size
        return int(height), int(width)

    def _fixed_size(self, patch_size: tuple[int, int] | None) -> tuple[int, int] | None:
        assert patch_size is not None
        if self.resize is None or self.keep_aspect:
            return None
        return _work_size((1, 1), self.resize, False, patch_size)

    @property
    def needs_extra(self) -> str | None:
        """The extra of pyimgano without which these parameters do not work."""
        return "timm"

    @classmethod
    def _build(
        cls, backbone: str, layers: tuple[int, ...], device: str, precision: str, engine: str
    ) -> Any:
        torch = torch_module()
        timm = import_optional("timm", "timm", cls.__name__)
        # Not on the meta device: some keep tables that no state dict has.
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(
                _timm_name(backbone), pretrained=False, num_classes=0, dynamic_img_size=True
            ).eval()
        depth = len(model.blocks)
        for layer in layers:
            if not -depth <= layer < depth:
                raise ValueError(
                    f"layers: {backbone} has no block {layer}; it has {depth}, from 0 to "
                    f"{depth - 1} or from -{depth} to -1."
                )
        blocks = [layer % depth for layer in layers]
        if len(set(blocks)) != len(blocks):
            raise ValueError(f"layers={layers} names a block twice.")
        ascending = sorted(blocks)
        model.prune_intermediate_layers(ascending, prune_norm=False, prune_head=True)

        def tokens(network: Any, x: Any) -> list[Any]:
            maps = network.forward_intermediates(
                x, indices=ascending, norm=True, output_fmt="NCHW", intermediates_only=True
            )
            return [maps[ascending.index(block)] for block in blocks]

        def for_size(network: Any, size: tuple[int, int]) -> Any:
            twin = _for_one_size(network, size)
            twin.forward = partial(tokens, twin)
            return twin

        model.forward = partial(tokens, model)
        colors = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
        if engine in ENGINE_EXTRAS:
            module = TorchModule(model, colors, "cpu", "float32", for_size=for_size)
            return OnnxNetwork(module, engine, precision, backbone, layers)
        return TorchModule(model, colors, device, precision)

    @classmethod
    def _convert(cls, module: TorchModule, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # timm knows the names in files of other origin, DINOv2's among them, and brings a
        # position embedding to the resolution the model was built for.
        convert = getattr(sys.modules[type(module.graph).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return state
        torch = torch_module()
        tensors = {name: torch.tensor(values) for name, values in state.items()}
        return {name: one.numpy() for name, one in convert(tensors, module.graph).items()}

    @classmethod
    def _find_published(cls, backbone: str) -> Path:
        name = _timm_name(backbone)
        config = import_optional("timm.models", "timm", cls.__name__).get_pretrained_cfg(name)
        full_name = f"{config.architecture}.{config.tag}" if config.tag else name
        if config.url and config.url.endswith(".pth"):
            return find_weights(full_name, full_name, config.url)
        file_name = f"{full_name}.safetensors"
        found = find_by_name(file_name)
        if found is not None:
            return found
        if not config.hf_hub_id:
            raise MissingWeightsError(f"timm publishes no weights of {full_name}.", file_name)
        hub = import_optional("huggingface_hub", "timm", cls.__name__)
        name_there = config.hf_hub_filename or "model.safetensors"
        if not isinstance(hub.try_to_load_from_cache(config.hf_hub_id, name_there), str):
            check_downloads_allowed(full_name, file_name)
        try:
            path = hub.hf_hub_download(config.hf_hub_id, name_there)
        except OSError as error:
            raise MissingWeightsError(
                f"there are no pretrained weights of {full_name} on this machine, and "
                f"downloading {config.hf_hub_id} from the Hugging Face hub failed: {error}",
                file_name,
            ) from error
        return Path(path)

    def _layers(self) -> tuple[int, ...]:
        layers = (self.layers,) if isinstance(self.layers, Integral) else tuple(self.layers)
        if not layers or not all(isinstance(layer, Integral) for layer in layers):
            raise ValueError(f"layers={self.layers!r}: expected one or more numbers of blocks.")
        return tuple(int(layer) for layer in layers)


def _for_one_size(network: Any, size: tuple[int, int]) -> Any:
    """Copy a transformer for images of one height and width; the weights are shared.

    Its position embedding is a table for them: ONNX has no such interpolation as makes it.
    """
    torch = torch_module()
    patches = network.patch_embed(torch.zeros(1, 3, *size))
    # What it adds does not depend on what it is added to.
    added = network._pos_embed(torch.zeros_like(patches))
    table, *rest = added if isinstance(added, tuple) else (added,)  # rotations, of some
    before = torch.zeros(1, table.shape[1] - patches.flatten(1, 2).shape[1], table.shape[2])

    def embed(x: Any) -> Any:
        tokens = torch.cat([before, x.flatten(1, 2)], dim=1) + table
        return (tokens, *rest) if rest else tokens

    twin = copy(network)
    twin._pos_embed = embed
    return twin


def _timm_name(backbone: str) -> str:
    """Name by which timm knows the backbone."""
    models = import_optional("timm.models", "timm", "ViTPatchFeatures")
    if backbone in DINOV2:
        return DINOV2[backbone]
    prefix, _, name = backbone.partition(":")
    if prefix != "timm":
        raise ValueError(
            f"backbone={backbone!r}: expected a DINOv2 network ({', '.join(DINOV2)}) or "
            '"timm:NAME", such as "timm:vit_base_patch16_224".'
        )
    if not models.is_model_in_modules(name, _MODULES):
        known = [one for module in _MODULES for one in models.list_models(module=module)]
        raise ValueError(
            f"backbone={backbone!r}: {name!r} is no plain vision transformer of timm."
            + nearest_names(name, known)
        )
    try:
        models.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture, _, tag = name.partition(".")
        tags = models.list_models(f"{architecture}.*", pretrained=True)
        raise ValueError(
            f"backbone={backbone!r}: timm has no weights {tag!r} of {architecture}; it has "
            f"{', '.join(tags) or 'none'}."
        ) from error
    return name


def _work_size(
    shape: tuple[int, ...], resize: int | None, keep_aspect: bool, patch: tuple[int, int]
) -> tuple[int, int]:
    """Height and width in whole patches to which an image of this shape is resized."""
    sides: Sequence[float] = shape[:2]
    if resize is not None:
        smaller = min(sides)
        sides = [side * resize / smaller if keep_aspect else resize for side in shape[:2]]
    rows, columns = (max(1, round(side / p)) for side, p in zip(sides, patch))
    return rows * patch[0], columns * patch[1]
