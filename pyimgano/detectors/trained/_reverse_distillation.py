"""Reverse distillation: a decoder that rebuilds a teacher's features from a small embedding."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano.backbones._torch_module import torch_module
from pyimgano.detectors.trained._base import BaseFeatureTrainedDetector, Prepared, Shapes
from pyimgano.detectors.trained._layers import contents_of, network_step, on_grid
from pyimgano.detectors.trained._loop import Step, initialize
from pyimgano.detectors.trained._residual import build_bottleneck, build_decoder
from pyimgano.detectors.trained._samples import compact
from pyimgano.exceptions import ImageFormatError

__all__ = ["ReverseDistillationDetector"]

# Blocks of the decoder's stages and of the bottleneck: for ResNets of two convolutions in a block
# and of three.
_BLOCKS = {False: ((2, 2, 2), 2), True: ((3, 4, 6), 3)}


class ReverseDistillationDetector(BaseFeatureTrainedDetector):
    """Reverse distillation: distance of a teacher's features to what a decoder makes of them.

    The outputs of three layers of a pretrained encoder are joined and squeezed into a small
    embedding, from which a decoder rebuilds them. Trained on good images, it knows how to rebuild
    those alone. The map is the sum over the layers of one minus the cosine of the features and
    what was rebuilt, smoothed. The image's score is its largest value.

    Parameters
    ----------
    features : str or BackbonePatchFeatures, default="wide_resnet50_2"
        The encoder: name of a ResNet of torchvision (its layers 1 to 3), or the step itself with
        three ``layers``, each of half the size of the one before, and an image size that is a
        multiple of 32. Its ``pool`` is not used.
    n_blocks : "auto" or int, default="auto"
        Residual blocks in each stage of the decoder and in the bottleneck; ``"auto"`` takes the
        paper's, (2, 2, 2) and 2 for ResNet-18 and 34, (3, 4, 6) and 3 for larger ones.
    max_steps : int, default=2600
        Steps of training. The paper's 200 epochs of 209 bottles are 2600.
    batch_size : int, default=16
        Images in a step.
    learning_rate : float, default=0.005
        Of Adam with betas (0.5, 0.999).
    max_grad_norm : float or None, default=None
        Largest norm of the gradient, which is scaled down to it; None leaves it as it is.
    validation_fraction : float, default=0.2
        Share of the good images that are held out of training. The threshold rests on their
        scores; see :class:`BaseTrainedDetector`.
    early_stopping : bool, default=False
        End the training once the loss of the held-out images has not fallen by 1 % in a quarter
        of ``max_steps``. The networks are those of the last step in any case.
    warm_start : bool, default=False
        Go on with the networks of the last ``fit`` instead of new ones.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution the
        features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the scores of the held-out images;
        a float has that share of the training images flagged.
    device : str, default="auto"
        Where the decoder runs: ``"cpu"``, ``"cuda"``, ... or ``"auto"`` for CUDA where there is
        one.
    precision : {"float32", "bfloat16"}, default="float32"
        Arithmetic of the decoder.
    verbose : bool, default=False
        Show a progress bar with the loss.
    random_state : int, RandomState or None, default=0
        Seeds the decoder, the choice of the images held out, and the order of the others. On one
        machine, with one number of threads, equal seeds give equal networks, bit for bit.

    Attributes
    ----------
    features_ : BackbonePatchFeatures
        The encoder.
    networks_ : dict of str to dict of str to ndarray
        The values of the ``"bottleneck"`` and the ``"decoder"``.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image: those of ``held_out_`` are scores of new images, the
        others, which the decoder has learned, are lower.
    held_out_ : ndarray of shape (n_images,), bool
        The training images that were held out.
    history_ : dict of str to ndarray
        Losses: ``step`` and ``loss``, ``held_out_step`` and ``held_out_loss``.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    The encoder runs once for each training image, and its features are kept in float16: 0.9 MB
    for 256 x 256 pixels and ResNet-18. A step costs about six times what the encoder would take for
    as many images in torch; scoring, about three times.

    The loss of a layer is one minus the cosine of its whole map as one vector, as in the authors'
    code, not the mean over the positions of the paper's formula.

    References
    ----------
    .. [1] H. Deng, X. Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding",
       CVPR 2022.

    Examples
    --------
    >>> from pyimgano.detectors import ReverseDistillationDetector
    >>> from pyimgano.features import BackbonePatchFeatures
    >>> layers = ("layer1", "layer2", "layer3")
    >>> encoder = BackbonePatchFeatures("resnet18", layers, weights="resnet18.pth", resize=128)
    >>> detector = ReverseDistillationDetector(encoder, max_steps=300, verbose=True)
    >>> detector.fit(good_images).predict(new_images)  # doctest: +SKIP
    """

    _registry_name = "vision_reverse_distillation"
    _parameter_constraints: dict = {
        **BaseFeatureTrainedDetector._parameter_constraints,
        "n_blocks": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    }
    _feature_defaults = {"layers": ("layer1", "layer2", "layer3"), "pool": 1}

    def __init__(
        self,
        features: Any = "wide_resnet50_2",
        *,
        n_blocks: str | int = "auto",
        max_steps: int = 2600,
        batch_size: int = 16,
        learning_rate: float = 0.005,
        max_grad_norm: float | None = None,
        validation_fraction: float = 0.2,
        early_stopping: bool = False,
        warm_start: bool = False,
        smoothing_sigma: float = 4.0,
        contamination: str | float = "auto",
        device: str = "auto",
        precision: str = "float32",
        verbose: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.features = features
        self.n_blocks = n_blocks
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.smoothing_sigma = smoothing_sigma
        self.contamination = contamination
        self.device = device
        self.precision = precision
        self.verbose = verbose
        self.random_state = random_state

    def _prepare(self, images: list[np.ndarray]) -> Prepared:
        encoder = network_step(self.features_, type(self).__name__)
        maps, grids = encoder.layer_maps(images)
        samples = [tuple(map(compact, of_image)) for of_image in maps]
        return Prepared(samples, grids.without_features(), list(map(contents_of, maps)))

    def _build(self, shapes: Shapes, rng: np.random.Generator) -> dict[str, Any]:
        encoder = network_step(self.features_, type(self).__name__)
        sizes = [shape[:2] for _, shape in shapes]
        height, width = sizes[-1]
        if sizes != [(s * height, s * width) for s in (4, 2, 1)] or height % 2 or width % 2:
            raise ImageFormatError(
                f"{type(self).__name__} needs three layers, each of half the size of the one "
                "before, the last of even height and width, and those of "
                f"{encoder.backbone} with layers={encoder.layers!r} have {sizes} here: give the "
                "feature step layers=('layer1', 'layer2', 'layer3') and a resize (and crop) that "
                "is a multiple of 32."
            )
        widths = [shape[2] for _, shape in shapes]
        wide = encoder.backbone not in ("resnet18", "resnet34")
        blocks, n_embedding = _BLOCKS[wide]
        if self.n_blocks != "auto":
            blocks, n_embedding = (int(self.n_blocks),) * 3, int(self.n_blocks)
        factor = (2 if encoder.backbone.startswith("wide_") else 1) if wide else 0
        networks = {
            "bottleneck": build_bottleneck(widths, n_embedding, wide=wide),
            "decoder": build_decoder(widths, blocks, factor),
        }
        last = torch_module().channels_last
        return {
            name: initialize(network, rng).to(memory_format=last)
            for name, network in networks.items()
        }

    def _optimizer(self, networks: dict[str, Any]) -> Any:
        parameters = [p for network in networks.values() for p in network.parameters()]
        return torch_module().optim.Adam(parameters, self.learning_rate, betas=(0.5, 0.999))

    def _rebuilt(self, networks: dict[str, Any], batch: tuple[Any, ...]) -> Any:
        """Features as the encoder gave them, and as the decoder makes them."""
        given = [one.permute(0, 3, 1, 2) for one in batch]
        return zip(given, networks["decoder"](networks["bottleneck"](*given)))

    def _loss(self, networks: dict[str, Any], batch: tuple[Any, ...], step: Step) -> Any:
        cosine = torch_module().nn.functional.cosine_similarity
        return sum(
            (1.0 - cosine(ours.float().flatten(1), given.flatten(1), dim=1)).mean()
            for given, ours in self._rebuilt(networks, batch)
        )

    def _map(self, networks: dict[str, Any], sample: tuple[Any, ...]) -> np.ndarray:
        cosine = torch_module().nn.functional.cosine_similarity
        distances = [
            (1.0 - cosine(ours.float(), given, dim=1))[0].cpu().numpy()
            for given, ours in self._rebuilt(networks, sample)
        ]
        total = np.zeros(distances[0].shape, np.float32)
        for one in distances:
            total += on_grid(one, total.shape)
        return total
