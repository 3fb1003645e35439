"""Dinomaly: a decoder that learns to rebuild a vision transformer's tokens of good images."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import Interval

from pyimgano.backbones._torch_module import torch_module
from pyimgano.detectors.trained._base import BaseFeatureTrainedDetector, Prepared, Shapes
from pyimgano.detectors.trained._loop import Step, initialize
from pyimgano.detectors.trained._samples import compact
from pyimgano.detectors.trained._stable_adamw import stable_adamw
from pyimgano.exceptions import ParameterError
from pyimgano.features import ViTPatchFeatures
from pyimgano.features._vit import DINOV2
from pyimgano.utils._state import Sizes, State, fail

__all__ = ["DinomalyDetector"]

# What a transformer given by name is asked for: its middle blocks, at the paper's image size.
_BLOCKS, _BLOCKS_OF_24 = tuple(range(2, 10)), tuple(range(4, 20, 2))
_RESIZE = 392
# Inputs of an attention head, as in every network of DINOv2.
_HEAD = 64
# The learning rate rises over the first steps, and ends at this share of its highest value.
_WARM_UP, _LAST_RATE = 100, 0.1
# Over the first steps the share of easy positions rises, whose gradients count this much.
_RISE, _EASY_WEIGHT = 1000, 0.1
_WEIGHT_SPREAD = 0.01


class DinomalyDetector(BaseFeatureTrainedDetector):
    """Dinomaly: distance between a transformer's tokens and those that a decoder rebuilds.

    The tokens of several blocks of a frozen vision transformer are averaged, passed through a
    small network with dropout, and decoded by a few transformer blocks. The decoder learns to
    rebuild the tokens of good images, those of the earlier blocks and those of the later ones;
    what it has not seen, it cannot rebuild. The map is the mean over the two of one minus the
    cosine between token and rebuilt token, from 0 to 2. The image's score is the mean of the
    highest values of the smoothed map, by default one pixel in a hundred.

    Three things keep the decoder from learning to copy its input [1]_: the dropout, linear
    attention, which cannot look at single tokens, and a loss that counts little where tokens are
    already rebuilt well.

    Parameters
    ----------
    features : str or ViTPatchFeatures, default="dinov2_vitb14_reg"
        The transformer: a name of :class:`~pyimgano.features.ViTPatchFeatures`, or the step
        itself with at least two ``layers``, in the order of the network. A name stands for blocks
        2 to 9 (of 24 in DINOv2's large network, 4, 6, ... 18), and images of 392 by 392 pixels.
    n_blocks : int, default=8
        Transformer blocks of the decoder, at least 2. Training time grows with it.
    dropout : float in [0, 1), default=0.2
        Share of values that are set to zero before, within and behind the network in front of the
        decoder. 0.4 suits parts that vary much.
    easy_fraction : float in [0, 1), default=0.9
        Share of the positions of a batch, those that are rebuilt best, whose gradients count a
        tenth. It rises from zero over the first 1000 steps, or a fifth of ``max_steps`` if that
        is less.
    top_fraction : float in (0, 1], default=0.01
        Share of an image's pixels, those with the highest values in the smoothed map, whose mean
        is its score; at least one pixel.
    max_steps : int, default=5000
        Steps of training. A small network is useful after 300.
    batch_size : int, default=16
        Images in a step.
    learning_rate : float, default=0.002
        Highest learning rate of StableAdamW [2]_ with weight decay 1e-4. It rises over the first
        100 steps, or a tenth of ``max_steps`` if that is less, and falls to a tenth along a
        cosine.
    max_grad_norm : float or None, default=0.1
        Largest norm of the gradient, which is scaled down to it.
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
        Seeds the decoder, the dropout, the choice of the images held out, and the order of the
        others. On one machine, with one number of threads, equal seeds give equal networks, bit
        for bit.

    Attributes
    ----------
    features_ : ViTPatchFeatures
        The transformer.
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
    The accuracy is that of the features. The published one is of DINOv2; with transformers
    trained on labels it is lower, above all on small defects of parts that lie in any direction.

    The defaults need a GPU. A ViT-Tiny at 224 pixels with ``n_blocks=2, batch_size=8,
    max_steps=400`` trains in a minute and a half of one core: trained to classify, it has an image
    AUROC of 0.993 and a pixel AUROC of 0.981 on MVTec AD's bottles, and 0.69 and 0.97 on its
    screws.

    The class and register tokens, which the authors' code decodes together with the others, are
    left out, and tokens are normalized by the network's last layer norm. With a region of
    interest the pixels outside are gray, and the decoder sees the tokens inside alone. Images are
    resized as a whole, where the paper crops them to their middle.

    References
    ----------
    .. [1] J. Guo et al., "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised
       Anomaly Detection", CVPR 2025.
    .. [2] M. Wortsman et al., "Stable and low-precision training for large-scale vision-language
       models", NeurIPS 2023.

    Examples
    --------
    >>> from pyimgano.detectors import DinomalyDetector
    >>> from pyimgano.features import ViTPatchFeatures
    >>> layers = tuple(range(2, 10))
    >>> step = ViTPatchFeatures("dinov2_vits14", resize=224, keep_aspect=False, layers=layers)
    >>> detector = DinomalyDetector(step, n_blocks=2, max_steps=300, verbose=True)
    >>> detector.fit(good_images).predict(new_images)  # doctest: +SKIP
    """

    _registry_name = "vision_dinomaly"
    _parameter_constraints: dict = {
        **BaseFeatureTrainedDetector._parameter_constraints,
        "n_blocks": [Interval(Integral, 2, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "easy_fraction": [Interval(Real, 0, 1, closed="left")],
        "top_fraction": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(
        self,
        features: Any = "dinov2_vitb14_reg",
        *,
        n_blocks: int = 8,
        dropout: float = 0.2,
        easy_fraction: float = 0.9,
        top_fraction: float = 0.01,
        max_steps: int = 5000,
        batch_size: int = 16,
        learning_rate: float = 0.002,
        max_grad_norm: float | None = 0.1,
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
        self.dropout = dropout
        self.easy_fraction = easy_fraction
        self.top_fraction = top_fraction
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

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        shapes = [shape for _, shape in state["_shapes"]]
        if (
            [kind for kind, _ in state["_shapes"]] != ["float16", "float16", "uint8"]
            or [len(shape) for shape in shapes] != [2, 2, 2]
            or shapes[0] != shapes[1]
            or shapes[0][0] > math.prod(shapes[2])
        ):
            fail(f"{cls.__name__}._shapes", "are not those of tokens in a grid")

    # ---- features -------------------------------------------------------------------
    def _make_features(self) -> Any:
        name = self.features
        if isinstance(name, str) and (name in DINOV2 or name.startswith("timm:")):
            layers = _BLOCKS_OF_24 if "_vitl14" in name else _BLOCKS
            return ViTPatchFeatures(name, resize=_RESIZE, keep_aspect=False, layers=layers)
        return super()._make_features()

    def _fit_features(self, data: Any) -> None:
        _n_layers(self._make_features(), type(self).__name__)  # refuses others before they learn
        super()._fit_features(data)

    def _prepare(self, images: list[np.ndarray]) -> Prepared:
        n_layers = _n_layers(self.features_, type(self).__name__)
        grids = self.features_.transform(images)
        seen = grids if self.roi_mask_ is None else grids.within(self.roi_mask_)
        samples, contents = [], []
        for i, rows in enumerate(grids.as_image_rows()):
            layers = rows.reshape(len(rows), n_layers, -1)
            early, late = _halves(list(layers.transpose(1, 0, 2)))
            mask = seen.mask_of(i)
            shape = tuple(grids.grid_shapes[i].tolist())
            inside = mask.reshape(shape).astype(np.uint8)
            samples.append((compact(early[mask]), compact(late[mask]), inside))
            contents.append(layers.mean(axis=1).reshape(*shape, -1))
        return Prepared(samples, grids.without_features(), contents)

    # ---- networks -------------------------------------------------------------------
    def _build(self, shapes: Shapes, rng: np.random.Generator) -> dict[str, Any]:
        nn = torch_module().nn
        width = shapes[0][1][1]

        def mlp() -> Any:
            return nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )

        def block() -> Any:
            return nn.ModuleDict(
                {
                    "attention_norm": nn.LayerNorm(width, eps=1e-8),
                    "query_key_value": nn.Linear(width, 3 * width),
                    "projection": nn.Linear(width, width),
                    "mlp_norm": nn.LayerNorm(width, eps=1e-8),
                    "mlp": mlp(),
                }
            )

        with torch_module().device("meta"):
            networks = {
                "bottleneck": mlp(),
                "decoder": nn.ModuleList([block() for _ in range(self.n_blocks)]),
            }
        return {
            name: initialize(network, rng, _truncated_normal) for name, network in networks.items()
        }

    def _optimizer(self, networks: dict[str, Any]) -> Any:
        parameters = [p for network in networks.values() for p in network.parameters()]
        return stable_adamw(parameters, self.learning_rate)

    def _rate(self, step: int, n_steps: int) -> float:
        n_rising = min(_WARM_UP, n_steps // 10)
        if step < n_rising:
            return (step + 1) / n_rising
        done = (step - n_rising) / (n_steps - n_rising)
        return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2

    def _loss(self, networks: dict[str, Any], batch: tuple[Any, ...], step: Step) -> Any:
        cosine = torch_module().nn.functional.cosine_similarity
        *tokens, _ = batch
        share = self.easy_fraction * min(1.0, step.number / max(1, min(_RISE, step.n_steps // 5)))
        loss = 0.0
        for rebuilt, target in zip(self._rebuild(networks, tokens, step.generator), tokens):
            if rebuilt.requires_grad:
                _weigh_gradient(rebuilt, target, share)
            # All tokens of an image are one vector.
            loss = loss + (1.0 - cosine(rebuilt.flatten(1), target.flatten(1))).mean() / 2
        return loss

    def _rebuild(
        self, networks: dict[str, Any], tokens: list[Any], generator: Any
    ) -> tuple[Any, Any]:
        """Rebuild the mean tokens (n, n_tokens, width) of the earlier and of the later blocks."""
        early, late = tokens
        n_layers = _n_layers(self.features_, type(self).__name__)
        n_early = n_layers // 2
        x = (early * n_early + late * (n_layers - n_early)) / n_layers
        p = self.dropout if networks["bottleneck"].training else 0.0
        enter, gelu, leave = networks["bottleneck"]
        hidden = _drop(gelu(enter(_drop(x, p, generator))), p, generator)
        x = _drop(leave(hidden), p, generator)
        outputs = []
        for block in networks["decoder"]:
            x = x + _linear_attention(block, block["attention_norm"](x))
            x = x + block["mlp"](block["mlp_norm"](x))
            outputs.append(x.float())
        # What is decoded first is closest to what the network sees last.
        rebuilt_late, rebuilt_early = _halves(outputs)
        return rebuilt_early, rebuilt_late

    def _map(self, networks: dict[str, Any], sample: tuple[Any, ...]) -> np.ndarray:
        cosine = torch_module().nn.functional.cosine_similarity
        *tokens, mask = sample
        rebuilt = self._rebuild(networks, tokens, None)
        distances = [1.0 - cosine(ours, theirs, dim=2)[0] for ours, theirs in zip(rebuilt, tokens)]
        heat = np.zeros(mask.shape[1:], np.float32)
        heat[mask[0].bool().cpu().numpy()] = ((distances[0] + distances[1]) / 2).cpu().numpy()
        return heat

    def _summarize(self, heat: np.ndarray, own: float | None) -> float:
        n = max(1, round(self.top_fraction * heat.size))
        return float(np.partition(heat.ravel(), -n)[-n:].mean(dtype=np.float64))


def _n_layers(features: Any, owner: str) -> int:
    """Return how many blocks' tokens a feature step joins, which must be a transformer's."""
    step = features.estimator if isinstance(features, FrozenEstimator) else features
    if not isinstance(step, ViTPatchFeatures):
        raise ParameterError(
            f"{owner} rebuilds the tokens of a vision transformer, and {type(step).__name__} is "
            "none: give features a name such as 'dinov2_vitb14_reg', or "
            "ViTPatchFeatures('dinov2_vits14', layers=(2, 3, 4, 5, 6, 7, 8, 9), ...)."
        )
    n = len(step._layers())
    if n < 2:
        raise ParameterError(
            f"{owner} rebuilds the tokens of earlier and of later blocks, and features has "
            f"layers={step.layers!r}: give at least two, such as layers=(2, 3, 4, 5, 6, 7, 8, 9)."
        )
    return n


def _halves(layers: list[Any]) -> tuple[Any, Any]:
    """Mean of the first half of some arrays or tensors, and of the others."""
    half = len(layers) // 2
    return sum(layers[:half]) / half, sum(layers[half:]) / (len(layers) - half)


def _truncated_normal(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw weights from a normal distribution that is cut at three standard deviations."""
    return _WEIGHT_SPREAD * ndtri(rng.uniform(ndtr(-3.0), ndtr(3.0), shape))


def _drop(x: Any, p: float, generator: Any) -> Any:
    """Set values to zero with probability ``p``, and scale up the others."""
    if p == 0:
        return x
    kept = torch_module().rand(x.shape, generator=generator, device=x.device) >= p
    return x * kept / (1.0 - p)


def _linear_attention(block: Any, x: Any) -> Any:
    """Attention whose weights are products of positive features of query and key."""
    elu = torch_module().nn.functional.elu
    n, n_tokens, width = x.shape
    n_heads = max(1, width // _HEAD)
    while width % n_heads:
        n_heads -= 1
    parts = block["query_key_value"](x).reshape(n, n_tokens, 3, n_heads, width // n_heads)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    query, key = elu(query) + 1.0, elu(key) + 1.0
    weighted = query @ (key.transpose(-1, -2) @ value)
    total = (query * key.sum(dim=2, keepdim=True)).sum(dim=-1, keepdim=True)
    return block["projection"]((weighted / (total + 1e-6)).transpose(1, 2).reshape(x.shape))


def _weigh_gradient(rebuilt: Any, target: Any, share: float) -> None:
    """Scale down the gradient of a share of the positions, those that are rebuilt best."""
    torch = torch_module()
    with torch.no_grad():
        distance = 1.0 - torch.nn.functional.cosine_similarity(rebuilt, target, dim=2)
        n_easy = int(share * distance.numel())
        if n_easy == 0:
            return
        easy = distance <= distance.flatten().kthvalue(n_easy).values
        weight = torch.where(easy, _EASY_WEIGHT, 1.0)[:, :, None]
    rebuilt.register_hook(lambda gradient: gradient * weight)
