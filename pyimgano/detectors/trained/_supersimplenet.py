"""SuperSimpleNet: features of good parts told from the same features with noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from pyimgano._training import TrainingStream
from pyimgano.backbones._torch_module import torch_module
from pyimgano.detectors.trained._base import BaseFeatureTrainedDetector, Prepared, Shapes
from pyimgano.detectors.trained._loop import Step
from pyimgano.detectors.trained._samples import Sample, SampleStore, compact
from pyimgano.detectors.trained._supersimplenet_networks import (
    adaptor,
    at_positions,
    focal_loss,
    judge,
    map_head,
    on_finer_grid,
    refine,
    score_head,
)
from pyimgano.exceptions import ImageFormatError, SynthesisError
from pyimgano.grids import PatchGrids
from pyimgano.utils._fingerprint import digest
from pyimgano.utils._state import Number, Sizes, State, fail

__all__ = ["SuperSimpleNetDetector"]

# Values of the map are pushed beyond plus or minus this, and no farther.
_MARGIN = 0.5
# A position shows a painted defect where the defect covers this share of it.
_SHOWN = 0.25
# Severity of painted defects, see ``DefectSynthesizer``.
_SEVERITY = (0.2, 0.8)
# Positions of a painted defect that are kept, in multiples of ``n_positions``: a step draws half as
# many as that.
_MOST_PAINTED = 4
# Label of a position of which nobody says whether it shows a defect.
_UNUSED = -1
# Images that the scale of the features is taken from, evenly among those that are trained on.
_N_MEASURED = 64
# Of the images of a step, the share that the score head sees as a whole: so many good ones, and
# as many with known defects.
_WHOLE_SHARE = 1 / 8


class SuperSimpleNetDetector(BaseFeatureTrainedDetector):
    """SuperSimpleNet: a small network that tells good features from features with noise.

    The features of a frozen network pass a linear adaptor. Gaussian noise on them stands for
    defects, and a head of two layers learns to tell features with noise from those without, at
    each position by itself: its output is the anomaly map. The largest value of the smoothed
    map is the image's score.

    **Known defects** (``y == -1``) are learned from, unlike with other detectors. A second head
    then sees the features and the map of the whole image. The image's score is the sum of the
    largest value of the map and the output of that head, multiplied so that both have the same
    standard deviation over the held-out good images; hold out ten or more, since that of two says
    little. ``masks`` say where the defects are, and the map learns from them as well. Ten pictures
    of defects are enough to be of use; the detector still finds defects of other kinds, by the
    map.

    Parameters
    ----------
    features : str or transformer, default="wide_resnet50_2"
        Name of a feature step (layers 2 and 3 of a network) or a transformer that returns
        :class:`~pyimgano.grids.PatchGrids`, of one shape for all images.
    upsample : int, default=2
        The map has so many times the rows and columns of the features, which are interpolated.
    hidden_width : int, default=1024
        Width of the layer inside the head that makes the map.
    standardize : bool, default=True
        Divide each feature by its standard deviation over the images that are trained on, so that
        the noise is in proportion to all of them, whatever the feature step. The paper does not.
    noise_std : float, default=0.3
        Standard deviation of the noise on the adapted features. The paper's 0.015 is for features
        of a ResNet that are not standardized.
    perlin_threshold : float, default=0.2
        Good images that the score head is shown as defective have noise where Perlin noise is
        above this; used with known defects only.
    paint_defects : bool, default=False
        Paint a defect on a copy of each image that is trained on, with
        :class:`~pyimgano.synthesis.DefectSynthesizer`, and let the map learn that the features
        there are no good ones either. The paper has noise alone.
    map_loss : {"margin", "cross_entropy"}, default="margin"
        Loss of the map. ``"margin"`` is the paper's, which asks for values beyond plus or minus
        1/2 and for little more; ``"cross_entropy"`` keeps widening the gap between features that
        it already separates, and goes well with painted defects.
    n_positions : int, default=128
        Positions of each image that a step trains the map on, drawn anew in every step. Of painted
        defects there are half as many, out of at most ``4 * n_positions`` of each that are kept.
    max_steps : int, default=1200
        Steps of training.
    batch_size : int, default=16
        Good images in a step.
    learning_rate : float, default=2e-4
        Of AdamW for the adaptor; twice that for the heads. It falls to 0.4 times its value after
        80 % of the steps and again after 90 %.
    max_grad_norm : float or None, default=None
        Largest norm of the gradient, which is scaled down to it. None leaves it as it is.
    validation_fraction : float, default=0.2
        Share of the good images that are held out of training. The threshold rests on their
        scores; see :class:`BaseTrainedDetector`.
    early_stopping : bool, default=False
        End the training once the loss of the held-out images has not fallen by 1 % in a quarter
        of ``max_steps``. The networks are those of the last step in any case. With
        ``paint_defects=True`` that loss is of held-out good images beside defects painted on images
        that are trained on: none are painted on held-out ones.
    warm_start : bool, default=False
        Go on with the networks of the last ``fit`` instead of new ones.
    smoothing_sigma : float, default=4.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution the
        features are computed at.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the scores of the held-out images;
        a float has that share of the training images flagged.
    device : str, default="auto"
        Where the networks run: ``"cpu"``, ``"cuda"``, ... or ``"auto"`` for CUDA where there is
        one.
    precision : {"float32", "bfloat16"}, default="float32"
        Arithmetic of the training. Scores are computed in float32 in any case.
    verbose : bool, default=False
        Show a progress bar with the loss.
    random_state : int, RandomState or None, default=0
        Seeds the networks, the choice of the images held out, the order of the others, and the
        noise. On one machine, with one number of threads, equal seeds give equal networks, bit
        for bit.

    Attributes
    ----------
    features_ : transformer
        The fitted feature step.
    n_defects_ : int
        Number of known defects that were learned from. If it is 0 there is no score head.
    networks_ : dict of str to dict of str to ndarray
        The values of ``"adaptor"`` and ``"map_head"``, and of ``"score_head"`` if there is one.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each good training image: those of ``held_out_`` are scores of new
        images, the others, which the networks have learned, are lower.
    held_out_ : ndarray of shape (n_images,), bool
        The good training images that were held out.
    history_ : dict of str to ndarray
        Losses: ``step`` and ``loss``, ``held_out_step`` and ``held_out_loss``.
    offset_ : float
        Threshold on ``score_samples``.
    roi_mask_ : ndarray of shape (height, width), bool, or None
        The pixels that count; None for all of them.

    Notes
    -----
    The map head judges each position by itself, so without known defects it makes no difference
    which of the positions with noise lie side by side. A step therefore takes positions at
    random, with and without noise, where the paper takes all positions of an image and puts noise
    on those inside a Perlin mask. That costs a small part, and a CPU can train it.

    With a ResNet-18, ``hidden_width=512`` and 600 to 1000 steps, a processor that computes in
    bfloat16 trains it in about a minute (``precision="bfloat16"``), with painted defects in two,
    and with known defects beside them in eight.

    Where parts vary much and defects are small, noise on features is a poor stand-in for them, and
    ``paint_defects=True`` with ``map_loss="cross_entropy"`` can help. No score head learns from
    painted defects: it would learn to tell how they are painted. They are painted inside
    ``roi_mask``, by default on the part as :func:`~pyimgano.synthesis.foreground_mask` finds it,
    once, before the training. What is kept of them stays in memory, in float16: of each image at
    most ``4 * n_positions`` rows of features, drawn by its number and ``random_state``.

    Features are averaged over 3 x 3 positions of the finer grid, at the border over those that
    there are.

    Scores of images that are learned from as known defects are those the networks give them, and
    higher than those of new defects of their kind.

    The score head is that of the conference version [1]_: it sees the adapted features. It sees
    them and the map at the resolution of ``features``, of the map the largest value at each
    position; the finer grid would cost four times as much and tell it no more. A few known defects
    are soon memorized: it then finds others less well than the map does, but makes different
    errors. That is why the score is the sum of both, where the paper takes its output alone, and
    why its gradient does not reach the adaptor. Without known defects there is no such head, since
    the largest value of the map is the better score then. The weights of the paper's backbone are
    torchvision's first ones (``IMAGENET1K_V1``), which are the default of
    :class:`~pyimgano.features.BackbonePatchFeatures`.

    References
    ----------
    .. [1] B. Rolih, M. Fučka, D. Skočaj, "SuperSimpleNet: Unifying unsupervised and supervised
           learning for fast and reliable surface defect detection", ICPR 2024.

    Examples
    --------
    >>> from pyimgano.detectors import SuperSimpleNetDetector
    >>> from pyimgano.features import BackbonePatchFeatures
    >>> features = BackbonePatchFeatures("resnet18", weights="resnet18.pth", pool=1)
    >>> detector = SuperSimpleNetDetector(features, verbose=True)
    >>> detector.fit(good_images).predict(new_images)  # doctest: +SKIP

    With pictures of defects, of which the first has a mask:

    >>> y = [1] * len(good_images) + [-1, -1]  # doctest: +SKIP
    >>> masks = [None] * len(good_images) + [mask, None]  # doctest: +SKIP
    >>> detector.fit(good_images + defective_images, y, masks=masks)  # doctest: +SKIP
    """

    _registry_name = "vision_supersimplenet"
    _parameter_constraints: dict = {
        **BaseFeatureTrainedDetector._parameter_constraints,
        "upsample": [Interval(Integral, 1, None, closed="left")],
        "hidden_width": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
        "noise_std": [Interval(Real, 0, None, closed="neither")],
        "perlin_threshold": [Interval(Real, -1, 1, closed="neither")],
        "paint_defects": ["boolean"],
        "map_loss": [StrOptions({"margin", "cross_entropy"})],
        "n_positions": [Interval(Integral, 1, None, closed="left")],
    }
    _fitted_state = {"n_defects_": Number(0, whole=True), "_head_weight": Number(0)}
    _learns_from_known_anomalies = True

    n_defects_: int
    # Factor on the output of the score head in the score.
    _head_weight: float

    def __init__(
        self,
        features: Any = "wide_resnet50_2",
        *,
        upsample: int = 2,
        hidden_width: int = 1024,
        standardize: bool = True,
        noise_std: float = 0.3,
        perlin_threshold: float = 0.2,
        paint_defects: bool = False,
        map_loss: str = "margin",
        n_positions: int = 128,
        max_steps: int = 1200,
        batch_size: int = 16,
        learning_rate: float = 2e-4,
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
        self.upsample = upsample
        self.hidden_width = hidden_width
        self.standardize = standardize
        self.noise_std = noise_std
        self.perlin_threshold = perlin_threshold
        self.paint_defects = paint_defects
        self.map_loss = map_loss
        self.n_positions = n_positions
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

    # ---- known defects --------------------------------------------------------------
    def fit(
        self, X: Any, y: Any = None, *, masks: Any = None, roi_mask: Any = None
    ) -> SuperSimpleNetDetector:
        """Learn what good parts look like, and from known defects what those look like.

        Parameters
        ----------
        X : sequence of paths, ImageSequence, uint8 RGB images or TiledImages
            Training samples, see the user guide for each kind.
        y : array-like of shape (n_samples,), default=None
            +1 for normal, -1 for known defects. Other labels are ignored with an
            :class:`~pyimgano.exceptions.IgnoredLabelsWarning`. Of an image in tiles nobody says
            which of them show the defect, so there known defects are left out.
        masks : sequence of length n_samples, default=None
            For each sample the pixels that are defective, ndarray of shape (height, width), bool,
            or None where they are not known. Those of good samples are None or all False. Like
            any metadata of one value per sample it is cut in cross-validation as ``X`` is; see
            ``set_fit_request`` for searches and ensembles.
        roi_mask : array-like of shape (height, width) or (1, height, width), bool, default=None
            True for the pixels to inspect. One mask for all images, which must have its size.

        Returns
        -------
        self

        Raises
        ------
        ImageFormatError
            If ``X`` is not one of the supported kinds, or the size of an image differs from
            that of its mask or of ``roi_mask``.
        TooFewImagesError
            If fewer than two different good samples are left to learn from.
        """
        self._validate_and_fit(X, y, masks=masks, roi_mask=roi_mask)
        return self

    def _validate_training_input(self, X: Any, *, roi_mask: Any = None, masks: Any = None) -> Any:
        data = super()._validate_training_input(X, roi_mask=roi_mask)
        self._masks = None if masks is None else self._check_masks(masks, data)
        return data

    def _check_masks(self, masks: Any, data: Any) -> list[np.ndarray | None]:
        if self.tiled_:
            raise ValueError(
                "masks is for whole images, and X holds images cut into tiles, of which known "
                "defects are left out: fit without masks, or without the TilingTransformer."
            )
        if len(masks) != len(data):
            raise ValueError(
                f"masks has {len(masks)} entries and X {len(data)} samples: give one mask per "
                "sample, None where it is not known."
            )
        checked: list[np.ndarray | None] = []
        for i, mask in enumerate(masks):
            if mask is None:
                checked.append(None)
                continue
            mask = np.asarray(mask)
            if mask.dtype != bool:
                what = "read the file, and pass" if mask.dtype.kind in "US" else "pass"
                raise ValueError(
                    f"masks[{i}] must hold booleans, True for the defective pixels, got "
                    f"{mask.dtype}: {what} mask > 0."
                )
            if mask.shape != tuple(data.size(i)):
                size = " x ".join(map(str, data.size(i)))
                raise ImageFormatError(
                    f"masks[{i}] has shape {mask.shape} and {data.name(i)} has {size} pixels: a "
                    "mask is drawn in the pixels of its image as the detector gets it."
                )
            checked.append(mask)
        return checked

    def _take_known_anomalies(self, data: Any, keep: np.ndarray) -> None:
        masks = self.__dict__.pop("_masks")
        if masks is not None:
            for i in np.flatnonzero(keep):
                if masks[i] is not None and masks[i].any():
                    raise ValueError(
                        f"masks[{i}] marks defective pixels, and y says that the sample is good: "
                        "give it the label -1, or no mask."
                    )
        known = np.flatnonzero(~keep)
        if self.tiled_ or not len(known):
            self._known_defects = None
        else:
            self._known_defects = (
                data[known],
                [None] * len(known) if masks is None else [masks[i] for i in known],
            )

    def _fit(self, stream: TrainingStream) -> np.ndarray:
        known = self.__dict__.pop("_known_defects")
        if known is None and self._go_on and "score_head" in self.networks_:
            raise ValueError(
                "warm_start=True: the networks of the last fit have learned from known defects, "
                "and there are none in this one. Give them again, with y == -1, or set "
                "warm_start=False to train new networks."
            )
        # Features, positions inside the region and positions of the defect, -1 if not known.
        self._defects: list[Sample] = []
        learned: dict[bytes, int] = {}
        if known is not None:
            images, masks = known
            for block, keys in self._blocks(images):
                learned.update({key.image: 0 for key in keys})
                n_before = len(self._defects)
                for i, sample in enumerate(block.samples):
                    mask = masks[n_before + i]
                    where = _defective_cells(mask, block.grids, i)
                    self._defects.append((*sample, where))
        self.n_defects_ = len(self._defects)
        try:
            scores = super()._fit(stream)
        finally:
            del self._defects
        self._trained_on = {**self._trained_on, **learned}
        return scores

    def _identity(self, *args: Any) -> str:
        defects = [digest(array) for sample in self._defects for array in sample]
        return "\n".join([super()._identity(*args), *(one.hex() for one in defects)])

    # ---- what the networks see ------------------------------------------------------
    def _prepare(self, images: list[np.ndarray]) -> Prepared:
        coarse = self.features_.transform(images)
        fine = PatchGrids(
            np.empty((int(coarse.grid_shapes.prod(axis=1).sum()) * self.upsample**2, 0)),
            coarse.grid_shapes * self.upsample,
            coarse.image_sizes,
            coarse.boxes,
            coarse.work_sizes,
        )
        held = fine if self.roi_mask_ is None else fine.within(self.roi_mask_)
        contents = [
            rows.reshape(*shape, -1)
            for rows, shape in zip(coarse.as_image_rows(), coarse.grid_shapes)
        ]
        samples = [
            (compact(rows), held.mask_of(i).reshape(fine.grid_shapes[i]).astype(np.uint8))
            for i, rows in enumerate(contents)
        ]
        return Prepared(samples, fine, contents)

    # ---- networks -------------------------------------------------------------------
    def _build(self, shapes: Shapes, rng: np.random.Generator) -> dict[str, Any]:
        width = shapes[0][1][-1]
        scale = vars(self).get("_scale", np.ones(width, np.float32))
        networks = {
            "adaptor": adaptor(scale, rng),
            "map_head": map_head(width, self.hidden_width, rng),
        }
        if self.n_defects_:
            networks["score_head"] = score_head(width, self.upsample, rng)
        return networks

    def _optimizer(self, networks: dict[str, Any]) -> Any:
        heads = [p for name, one in networks.items() if name != "adaptor" for p in one.parameters()]
        first = {"params": list(networks["adaptor"].parameters()), "lr": self.learning_rate}
        rest = {"params": heads, "lr": 2 * self.learning_rate, "weight_decay": 1e-5}
        return torch_module().optim.AdamW([first, rest], weight_decay=1e-2)

    def _rate(self, step: int, n_steps: int) -> float:
        return 0.4 ** ((step >= 0.8 * n_steps) + (step >= 0.9 * n_steps))

    # ---- training -------------------------------------------------------------------
    def _train(self, store: SampleStore, held_out: np.ndarray) -> None:
        if self.standardize:
            self._scale = _inverse_std(store, np.flatnonzero(~held_out))
        # Features at the positions of each painted defect.
        self._painted = self._paint(held_out) if self.paint_defects else []
        try:
            super()._train(store, held_out)
        finally:
            del self._painted
        self.__dict__.pop("_scale", None)

    def _paint(self, held_out: np.ndarray) -> list[np.ndarray]:
        """Paint a defect on each image that is trained on; features where they show.

        Of a large defect only some positions, so that memory is bounded by the number of images.
        """
        # It loads the synthetic datasets, which scoring has no use for.
        from pyimgano.synthesis import DefectSynthesizer

        where = "foreground" if self.roi_mask_ is None else self.roi_mask_
        painter = DefectSynthesizer(severity=_SEVERITY, mask=where, random_state=self._seed)
        found, n_read, most = [], 0, _MOST_PAINTED * self.n_positions
        for images, _ in self._keyed_images(self._whole_images):
            index = [i for i in range(len(images)) if not held_out[n_read + i]]
            numbers = [n_read + i for i in index]
            n_read += len(images)
            if not index:
                continue
            made = painter.synthesize([images[i] for i in index], indices=numbers)
            block = self._prepare(self._within_region(list(made.images)))
            for i, ((features, held), mask) in enumerate(zip(block.samples, made.masks)):
                share = np.where(held > 0, _share_of_cells(mask, block.grids, i), 0)
                if share.any():
                    shown = np.flatnonzero(share >= min(_SHOWN, share.max()))
                    if len(shown) > most:
                        rng = np.random.default_rng([self._seed, 5, numbers[i]])
                        shown = rng.choice(shown, most, replace=False)
                    rows = on_finer_grid(features, self.upsample).reshape(-1, features.shape[-1])
                    found.append(compact(rows[shown]))
        if not found:
            seen, larger = "what the features see", "Take features that see more of the image"
            if self.roi_mask_ is not None:
                seen, larger = f"roi_mask and {seen}", "Give a larger region"
            raise SynthesisError(
                f"paint_defects=True: no painted defect lies inside {seen}. {larger}, or set "
                "paint_defects=False."
            )
        return found

    def _collate(self, samples: list[Sample], step: Step) -> tuple[np.ndarray, ...]:
        features, inside = (np.stack(arrays) for arrays in zip(*samples))
        n = self.n_positions
        positions = np.stack([_draw(one, n, step.rng) for one in inside])
        batch: tuple[np.ndarray, ...] = (features, positions)
        if self._painted:
            chosen = step.rng.choice(len(self._painted), len(samples))
            size = max(1, n // 2)
            drawn = (self._painted[i] for i in chosen)
            rows = np.concatenate([one[step.rng.choice(len(one), size)] for one in drawn])
            batch = (*batch, rows)
        if self.n_defects_:
            batch = (*batch, *self._collate_defects(features, inside, step))
        return batch

    def _collate_defects(
        self, features: np.ndarray, inside: np.ndarray, step: Step
    ) -> tuple[np.ndarray, ...]:
        """Make the arrays of known defects in a batch, for the map and for the score head."""
        # It loads the synthetic datasets, which scoring has no use for.
        from pyimgano.synthesis import perlin_mask

        n = self.n_positions
        chosen = step.rng.choice(
            self.n_defects_, min(len(features), self.n_defects_), replace=False
        )
        defects = [self._defects[i] for i in chosen]
        of_defects, labels = np.zeros((2, len(defects), n), np.int64)
        for i, (_, held, where) in enumerate(defects):
            # Half of the positions show the defect, as far as it is known where it is.
            half = (n + 1) // 2
            for label, part in ((1, slice(half)), (0, slice(half, n))):
                region = (held > 0) & (where == label)
                if region.any():
                    size = labels[i, part].size
                    of_defects[i, part] = _draw(region, size, step.rng)
                    labels[i, part] = label
                else:
                    labels[i, part] = _UNUSED
        n_whole = max(1, round(self.batch_size * _WHOLE_SHARE))
        noisy = np.zeros_like(inside[:n_whole])
        for i in np.flatnonzero(step.rng.random(len(noisy)) < 0.5).tolist():
            drawn = perlin_mask(noisy.shape[1:], step.rng, threshold=self.perlin_threshold)
            noisy[i] = drawn & (inside[i] > 0)
        return (
            np.stack([one for one, _, _ in defects]),
            of_defects,
            labels,
            inside[:n_whole],
            np.stack([held for _, held, _ in defects[:n_whole]]),
            noisy,
        )

    def _loss(self, networks: dict[str, Any], batch: tuple[Any, ...], step: Step) -> Any:
        torch = torch_module()
        adapt, head = networks["adaptor"], networks["map_head"]
        good = adapt(at_positions(batch[0], batch[1], self.upsample))
        zeros = torch.zeros(len(good), device=good.device)
        parts, labels = [good, good + self._noise(good, step)], [zeros, zeros + 1]
        known = list(batch[2:])
        if self.paint_defects:
            painted = known.pop(0)
            parts.append(adapt(painted))
            labels.append(torch.ones(len(painted), device=good.device))
        if self.n_defects_:
            features, positions, of_positions = known[:3]
            of_positions = of_positions.reshape(-1)
            adapted = adapt(at_positions(features, positions, self.upsample))
            parts.append(adapted[of_positions != _UNUSED])
            labels.append(of_positions[of_positions != _UNUSED].float())
        values = head(torch.cat(parts)).float()[:, 0]
        is_defect = torch.cat(labels)
        if self.map_loss == "cross_entropy":
            logistic = torch.nn.functional.binary_cross_entropy_with_logits
            loss = logistic(values, is_defect)
        else:
            # Each kind counts as a whole, however many positions there are of it.
            beyond = torch.where(is_defect > 0, _MARGIN - values, values + _MARGIN).clamp_min(0)
            n_defects = is_defect.sum()
            loss = (beyond * (1 - is_defect)).sum() / (len(values) - n_defects)
            loss = loss + (beyond * is_defect).sum() / n_defects
            loss = loss + focal_loss(values, is_defect)
        if self.n_defects_:
            loss = loss + self._loss_of_scores(networks, batch[0], known, step)
        return loss

    def _loss_of_scores(
        self, networks: dict[str, Any], good: Any, known: Sequence[Any], step: Step
    ) -> Any:
        """Loss of the score head on some whole images."""
        torch = torch_module()
        inside, held, noisy = known[3:]
        whole = torch.cat([good[: len(inside)], known[0][: len(held)]])
        noisy = torch.cat([noisy, torch.zeros_like(held)]).float()
        defective = noisy.amax(dim=(1, 2))
        defective[len(inside) :] = 1.0
        head = networks["map_head"]
        # The other networks learn from positions alone: a few whole images, which are soon known
        # by heart, would make their features worse.
        with torch.no_grad():
            adapted = networks["adaptor"](whole.reshape(-1, whole.shape[-1]))
            adapted = refine(adapted, whole.shape, self.upsample)
            adapted = adapted + self._noise(adapted, step) * noisy[..., None]
            heat = judge(head, head[0](adapted))
        scores = networks["score_head"](adapted, heat, torch.cat([inside, held]))
        return focal_loss(scores, defective)

    def _noise(self, like: Any, step: Step) -> Any:
        draw = torch_module().randn
        return draw(like.shape, generator=step.generator, device=like.device) * self.noise_std

    # ---- scoring --------------------------------------------------------------------
    def _map(self, networks: dict[str, Any], sample: tuple[Any, ...]) -> Any:
        torch = torch_module()
        features, inside = sample
        with torch.autocast(features.device.type, enabled=False):
            rows = networks["adaptor"](features.reshape(-1, features.shape[-1]))
            head = networks["map_head"]
            heat = judge(head, refine(head[0](rows), features.shape, self.upsample))
            found = heat[0].cpu().numpy()
            if not self.n_defects_:
                return found
            adapted = refine(rows, features.shape, self.upsample)
            return found, float(networks["score_head"](adapted, heat, inside)[0])

    def _after_training(self, held_out: Iterator[tuple[np.ndarray, float | None]]) -> None:
        # In the units of the map, which images that are like no training image are given as well.
        self._head_weight = 1.0
        if self.n_defects_:
            pairs = np.array([(heat.max(), own) for heat, own in held_out], dtype=np.float64)
            of_map, of_head = pairs.std(axis=0).tolist()
            if of_map > 0 and of_head > 0:
                self._head_weight = of_map / of_head

    def _summarize(self, heat: np.ndarray, own: float | None) -> float:
        largest = float(heat.max())
        return largest if own is None else largest + self._head_weight * own

    @classmethod
    def _check_fitted_state(cls, state: State, sizes: Sizes) -> None:
        super()._check_fitted_state(state, sizes)
        if ("score_head" in state["networks_"]) != (state["n_defects_"] > 0):
            fail(f"{cls.__name__}.networks_", "does not go with n_defects_")
        if state["_head_weight"] == 0:
            fail(f"{cls.__name__}._head_weight", "leaves out what the score head says")


def _inverse_std(store: SampleStore, images: np.ndarray) -> np.ndarray:
    """One over the standard deviation of each feature; 1 where it does not vary."""
    step = -(-len(images) // _N_MEASURED)
    sums, n = np.zeros((2, store.shapes[0][1][-1])), 0
    for i in images[::step]:
        rows = store[i][0].reshape(-1, sums.shape[1]).astype(np.float64)
        sums += rows.sum(axis=0), np.square(rows).sum(axis=0)
        n += len(rows)
    mean, square = sums / n
    variance = np.maximum(square - mean**2, 0.0)
    varies = variance > 1e-6 * variance.max()
    return np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 1.0).astype(np.float32)


def _draw(region: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``n`` positions of a region, each but once if there are as many."""
    candidates = np.flatnonzero(region)
    return rng.choice(candidates, n, replace=len(candidates) < n)


def _share_of_cells(mask: np.ndarray, grids: PatchGrids, i: int) -> np.ndarray:
    """Share of each position of the grid of image ``i`` that a mask covers, float32."""
    height, width = (int(side) for side in grids.grid_shapes[i])
    top, left, tall, wide = (round(float(side)) for side in grids.boxes[i])
    seen = mask[top : top + tall, left : left + wide].astype(np.float32)
    return cv2.resize(seen, (width, height), interpolation=cv2.INTER_AREA)


def _defective_cells(mask: np.ndarray | None, grids: PatchGrids, i: int) -> np.ndarray:
    """Positions of the grid of image ``i`` that show a pixel of the mask, int8; -1 without mask."""
    if mask is None:
        return np.full([int(side) for side in grids.grid_shapes[i]], -1, np.int8)
    return (_share_of_cells(mask, grids, i) > 0).astype(np.int8)
