"""STFPM: a student that learns a teacher's features of good images."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone

from pyimgano.backbones._efficientnet_lite import EfficientNetLite
from pyimgano.backbones._engines import CPU_ENGINES
from pyimgano.backbones._network import digest
from pyimgano.backbones._torch_module import torch_module
from pyimgano.backbones._torchvision import IMAGENET_COLORS, build_graph
from pyimgano.detectors.trained._base import BaseFeatureTrainedDetector, Prepared, Shapes
from pyimgano.detectors.trained._layers import contents_of, network_step, normalized, on_grid
from pyimgano.detectors.trained._loop import Step, initialize
from pyimgano.detectors.trained._samples import Sample, compact
from pyimgano.exceptions import ParameterError
from pyimgano.features import BackbonePatchFeatures
from pyimgano.utils._threads import map_in_threads, n_threads

__all__ = ["STFPMDetector"]

# Steps over which the learning rate rises from almost nothing, or a tenth of all if that is less.
_WARM_UP = 50


class STFPMDetector(BaseFeatureTrainedDetector):
    """STFPM: distance between the features of a teacher and of a student trained on good images.

    The student has the teacher's architecture and begins with random weights. On good images it
    learns to give the outputs that a pretrained teacher gives at several layers; on defects,
    which it has not seen, the two differ. The map is the geometric mean over the layers of the
    squared distance of their normalized features, between 0 and 4. The image's score is the
    largest value of the map.

    Parameters
    ----------
    features : str or BackbonePatchFeatures, default="resnet18"
        The teacher: name of a network of torchvision (its layers 1 to 3), or the step itself
        with ``layers`` and image size. Its ``pool`` is not used.
    max_steps : int, default=700
        Steps of training. The paper's 100 epochs of 209 bottles are about 700.
    batch_size : int, default=32
        Images in a step.
    learning_rate : float, default=0.4
        Of stochastic gradient descent with momentum 0.9 and weight decay 1e-4. It rises over the
        first 50 steps.
    max_grad_norm : float or None, default=1.0
        Largest norm of the gradient, which is scaled down to it. Without that, some seeds diverge
        at the paper's learning rate.
    validation_fraction : float, default=0.2
        Share of the good images that are held out of training. The threshold rests on their
        scores; see :class:`BaseTrainedDetector`.
    early_stopping : bool, default=False
        End the training once the loss of the held-out images has not fallen by 1 % in a quarter
        of ``max_steps``. The networks are those of the last step in any case.
    warm_start : bool, default=False
        Go on with the networks of the last ``fit`` instead of new ones.
    smoothing_sigma : float, default=0.0
        Standard deviation of the Gaussian smoothing of the maps, in pixels of the resolution the
        features are computed at. The paper has none.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` puts the threshold at the 0.995 quantile of the scores of the held-out images;
        a float has that share of the training images flagged.
    device : str, default="auto"
        Where the student runs: ``"cpu"``, ``"cuda"``, ... or ``"auto"`` for CUDA where there is
        one.
    precision : {"float32", "bfloat16"}, default="float32"
        Arithmetic of the training.
    verbose : bool, default=False
        Show a progress bar with the loss.
    random_state : int, RandomState or None, default=0
        Seeds the student, the choice of the images held out, and the order of the others. On one
        machine, with one number of threads, equal seeds give equal networks, bit for bit.

    Attributes
    ----------
    features_ : BackbonePatchFeatures
        The teacher.
    networks_ : dict of str to dict of str to ndarray
        The values of the ``"student"``.
    training_scores_ : ndarray of shape (n_images,), float64
        Anomaly score of each training image: those of ``held_out_`` are scores of new images, the
        others, which the student has learned, are lower.
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
    A step costs about three times what scoring as many images by the teacher would in torch; the
    teacher itself runs once for each image, and its features are kept in float16. Scoring runs
    teacher and student by the engine of ``features``, and takes twice the teacher's time.

    References
    ----------
    .. [1] G. Wang et al., "Student-Teacher Feature Pyramid Matching for Anomaly Detection",
       BMVC 2021.

    Examples
    --------
    >>> from pyimgano.detectors import STFPMDetector
    >>> from pyimgano.features import BackbonePatchFeatures
    >>> layers = ("layer1", "layer2", "layer3")
    >>> teacher = BackbonePatchFeatures("resnet18", layers, weights="resnet18.pth", resize=128)
    >>> detector = STFPMDetector(teacher, max_steps=300, verbose=True)
    >>> detector.fit(good_images).predict(new_images)  # doctest: +SKIP
    """

    _registry_name = "vision_stfpm"
    _feature_defaults = {"layers": ("layer1", "layer2", "layer3"), "pool": 1}

    def __init__(
        self,
        features: Any = "resnet18",
        *,
        max_steps: int = 700,
        batch_size: int = 32,
        learning_rate: float = 0.4,
        max_grad_norm: float | None = 1.0,
        validation_fraction: float = 0.2,
        early_stopping: bool = False,
        warm_start: bool = False,
        smoothing_sigma: float = 0.0,
        contamination: str | float = "auto",
        device: str = "auto",
        precision: str = "float32",
        verbose: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.features = features
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
        teacher = self._teacher()
        maps, grids = teacher.layer_maps(images)
        samples = [
            (pixels, *(compact(normalized(one)) for one in of_image))
            for pixels, of_image in zip(teacher.working_images(images), maps)
        ]
        return Prepared(samples, grids.without_features(), list(map(contents_of, maps)))

    def _teacher(self) -> BackbonePatchFeatures:
        teacher = network_step(self.features_, type(self).__name__)
        if EfficientNetLite.offers(teacher.backbone):
            raise ParameterError(
                f"{type(self).__name__} trains a network like that of features, and "
                f"{teacher.backbone} cannot be trained here: give features the name of a network "
                "of torchvision, such as 'resnet18'."
            )
        return teacher

    def _build(self, shapes: Shapes, rng: np.random.Generator) -> dict[str, Any]:
        teacher = self._teacher()
        torch = torch_module()
        student = initialize(build_graph(teacher.backbone, teacher._layers()), rng)
        return {"student": student.to(memory_format=torch.channels_last)}

    def _optimizer(self, networks: dict[str, Any]) -> Any:
        return torch_module().optim.SGD(
            networks["student"].parameters(), self.learning_rate, momentum=0.9, weight_decay=1e-4
        )

    def _rate(self, step: int, n_steps: int) -> float:
        return min(1.0, (step + 1) / max(1, min(_WARM_UP, n_steps // 10)))

    def _loss(self, networks: dict[str, Any], batch: tuple[Any, ...], step: Step) -> Any:
        torch = torch_module()
        pixels, *teacher = batch
        mean, std = (
            torch.tensor(values, device=pixels.device).mul_(255) for values in IMAGENET_COLORS
        )
        student = networks["student"](((pixels.float() - mean) / std).permute(0, 3, 1, 2))
        loss = 0.0
        for ours, theirs in zip(student, teacher):
            ours = torch.nn.functional.normalize(ours.float(), dim=1)
            # Both have length one, so this is half of their squared distance.
            cosine = (ours * theirs.permute(0, 3, 1, 2)).sum(dim=1)
            loss = loss + 2.0 * (1.0 - cosine).mean()
        return loss

    def trained_steps(self) -> list[BackbonePatchFeatures]:
        """List the trained networks that any engine runs, as feature steps.

        Returns
        -------
        list of BackbonePatchFeatures
            The student, once it is trained.
        """
        return [self._student()] if "networks_" in vars(self) else []

    def _student(self) -> BackbonePatchFeatures:
        """The student as a feature step, which runs by the engine that the teacher has now."""
        teacher = self._teacher()
        kept = vars(self).get("_loaded")
        if kept is None or kept.networks is not self.networks_:
            step = clone(teacher)
            step.embedded_weights_ = {
                name: value
                for name, value in self.networks_["student"].items()
                if not name.endswith("num_batches_tracked")  # only training needs it
            }
            step.weights_sha256_ = digest(step.embedded_weights_)
            kept = self.__dict__["_loaded"] = _Student(self.networks_, step)
        kept.step.set_params(
            engine=teacher.engine,
            precision=teacher.precision,
            device="auto" if teacher.engine in CPU_ENGINES else self.device,
        )
        return kept.step

    def _map_all(self, samples: list[Sample]) -> list[tuple[np.ndarray, float | None]]:
        network = self._student()._network()
        pixels = [np.asarray(sample[0]) for sample in samples]
        # On a GPU one by one: an image's score does not depend on those beside it.
        groups = [pixels] if network.device == "cpu" else [[one] for one in pixels]
        maps = [of_one for group in groups for of_one in network.layer_maps(group, _as_it_is)]

        def compare(pair: tuple[Sample, list[np.ndarray]]) -> tuple[np.ndarray, None]:
            (_, *teacher), student = pair
            product = np.ones(teacher[0].shape[:2], np.float32)
            for ours, theirs in zip(student, teacher):
                distance = np.square(normalized(ours) - theirs.astype(np.float32)).sum(axis=2)
                product *= on_grid(distance, product.shape)
            return product ** (1.0 / len(teacher)), None

        return map_in_threads(compare, list(zip(samples, maps)), n_threads())


class _Student:
    """Keeps the student's step out of sight of what looks for steps inside an estimator."""

    def __init__(self, networks: dict[str, Any], step: BackbonePatchFeatures) -> None:
        self.networks, self.step = networks, step


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image
