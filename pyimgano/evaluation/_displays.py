"""Plots of maps, scores and thresholds, in the manner of scikit-learn's displays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pyimgano._decision import is_anomalous
from pyimgano._nesting import first_step
from pyimgano.datasets import read_mask
from pyimgano.evaluation._image_metrics import check_scores_and_labels, clopper_pearson
from pyimgano.inference import anomaly_scores, score_with_maps
from pyimgano.inference import threshold as threshold_of
from pyimgano.inputs import ImageFormatNormalizer, check_images
from pyimgano.utils._optional import import_optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AnomalyMapDisplay", "ScoreHistogramDisplay", "ThresholdDisplay"]

_GOOD, _DEFECTIVE, _THRESHOLD = "tab:blue", "tab:red", "black"
# How opaque the hottest map values are, so that the part stays visible below.
_OPACITY = 0.75


class AnomalyMapDisplay:
    """Images, and below each the same image under its anomaly map.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one, and :meth:`plot` to draw
    it again.

    Parameters
    ----------
    images : sequence of ndarray of shape (height, width, 3), uint8
        RGB.
    maps : sequence of ndarray of shape (height, width)
        Higher = more anomalous; stretched to the images.
    masks : sequence, default=None
        Per image the mask of its defects, as a dataset's ``masks_test`` has them: a file, an
        array, 0 for a good image, None if there is none. It is outlined.
    scores : array-like of shape (n_images,), default=None
        Anomaly scores, for the titles.
    threshold : float, default=None
        Images with a larger score are anomalous, which the titles say.
    limits : (float, float), default=None
        Map values of the cold and the hot end of the colors, for instance from
        :func:`~pyimgano.reporting.map_range`. None is the smallest and largest value of these
        maps, which makes something hot in any image.

    Attributes
    ----------
    axes_ : ndarray of shape (2, n_images) of matplotlib Axes
        Images above, maps below.
    figure_ : matplotlib Figure
    colorbar_ : matplotlib Colorbar

    Examples
    --------
    >>> import numpy as np
    >>> from pyimgano import PatchCoreDetector
    >>> from pyimgano.datasets import make_inspection_dataset
    >>> from pyimgano.evaluation import AnomalyMapDisplay
    >>> from pyimgano.features import FilterBankFeatures
    >>> data = make_inspection_dataset("wood", n_train=8, n_test_good=1, n_test_defect=1, size=64)
    >>> detector = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(data.X_train)
    >>> display = AnomalyMapDisplay.from_estimator(
    ...     detector, data.X_test, masks=data.masks_test
    ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        maps: Sequence[np.ndarray],
        *,
        masks: Sequence[Any] | None = None,
        scores: Any = None,
        threshold: float | None = None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        self.images = images
        self.maps = maps
        self.masks = masks
        self.scores = scores
        self.threshold = threshold
        self.limits = limits

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        masks: Sequence[Any] | None = None,
        limits: tuple[float, float] | None = None,
        axes: Any = None,
    ) -> AnomalyMapDisplay:
        """Draw the anomaly maps that an estimator makes of images.

        Parameters
        ----------
        estimator : fitted estimator
            A detector with ``anomaly_map``, or a nesting of pipelines and meta-estimators
            around one.
        X : input of the estimator
            A few images, for instance ``X_test[:4]``.
        masks : sequence, default=None
            As for the class.
        limits : (float, float), default=None
            As for the class.
        axes : array-like of shape (2, n_images) of matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        AnomalyMapDisplay
        """
        found = score_with_maps(estimator, X)
        if found.maps is None:
            raise TypeError(
                f"{type(estimator).__name__} makes no anomaly maps here: it gives one score per "
                "image. ScoreHistogramDisplay shows scores."
            )
        step = first_step(estimator)
        if isinstance(step, ImageFormatNormalizer):
            X = step.transform(X)
        images = [image for block in check_images(X).iter_blocks(8) for image in block]
        return cls.from_predictions(
            images,
            list(found.maps),
            masks=masks,
            scores=found.scores,
            threshold=threshold_of(estimator),
            limits=limits,
            axes=axes,
        )

    @classmethod
    def from_predictions(
        cls,
        images: Sequence[np.ndarray],
        maps: Sequence[np.ndarray],
        *,
        masks: Sequence[Any] | None = None,
        scores: Any = None,
        threshold: float | None = None,
        limits: tuple[float, float] | None = None,
        axes: Any = None,
    ) -> AnomalyMapDisplay:
        """Draw anomaly maps that are at hand.

        Parameters
        ----------
        images, maps, masks, scores, threshold, limits
            As for the class.
        axes : array-like of shape (2, n_images) of matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        AnomalyMapDisplay
        """
        if not len(images):
            raise ValueError("images is empty; at least one image is needed.")
        for name, given in (("maps", maps), ("masks", masks), ("scores", scores)):
            if given is not None and len(given) != len(images):
                raise ValueError(
                    f"{name} has {len(given)} entries for {len(images)} images; it needs one each."
                )
        display = cls(images, maps, masks=masks, scores=scores, threshold=threshold, limits=limits)
        return display.plot(axes)

    def plot(self, axes: Any = None, *, cmap: Any = "turbo") -> AnomalyMapDisplay:
        """Draw the images and their maps.

        Parameters
        ----------
        axes : array-like of shape (2, n_images) of matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str or Colormap, default="turbo"
            Colors from cold to hot.

        Returns
        -------
        AnomalyMapDisplay
        """
        n = len(self.images)
        low, high = self._limits()
        if axes is None:
            pyplot = _pyplot(self)
            _, axes = pyplot.subplots(
                2, n, squeeze=False, figsize=(2.6 * n + 1.2, 5.4), layout="constrained"
            )
        axes = np.asarray(axes, dtype=object)
        if axes.shape != (2, n):
            raise ValueError(f"axes must have shape (2, {n}) for {n} images, got {axes.shape}.")
        for k, (upper, lower) in enumerate(axes.T):
            image = np.asarray(self.images[k])
            height, width = image.shape[:2]
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            upper.imshow(image)
            lower.imshow(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cmap="gray", vmin=0, vmax=255)
            heat = np.clip((np.asarray(self.maps[k], float) - low) / (high - low), 0, 1)
            # Cold parts show the image in gray.
            drawn = lower.imshow(
                np.asarray(self.maps[k], float),
                alpha=np.clip(2 * heat, 0, _OPACITY),
                cmap=cmap,
                vmin=low,
                vmax=high,
                extent=extent,
            )
            mask = None if self.masks is None else self.masks[k]
            if mask is not None:
                self._outline(lower, mask, extent, (height, width))
            upper.set_title(self._title(k), fontsize="medium")
            for ax in (upper, lower):
                ax.set(xticks=[], yticks=[])
        self.axes_ = axes
        self.figure_ = axes[0, 0].figure
        self.colorbar_ = self.figure_.colorbar(
            drawn, ax=axes.ravel().tolist(), label="anomaly map", alpha=1, shrink=0.9
        )
        return self

    def _limits(self) -> tuple[float, float]:
        if self.limits is not None:
            low, high = self.limits
            if not low < high:
                raise ValueError(f"limits must be two numbers, low < high, got {self.limits!r}.")
            return float(low), float(high)
        low = float(min(np.min(one) for one in self.maps))
        high = float(max(np.max(one) for one in self.maps))
        return low, high if high > low else low + 1.0  # flat maps are cold

    def _outline(self, ax: Axes, mask: Any, extent: tuple, size: tuple[int, int]) -> None:
        defective = read_mask(mask, size if np.ndim(mask) == 0 and mask == 0 else None)
        if not defective.any():
            return
        # White on black shows on any color.
        for color, width in (("black", 2.5), ("white", 1.0)):
            ax.contour(
                defective,
                levels=[0.5],
                colors=color,
                linewidths=width,
                origin="upper",
                extent=extent,
            )

    def _title(self, k: int) -> str:
        if self.scores is None:
            return ""
        title = f"score {self.scores[k]:.4g}"
        if self.threshold is not None:
            is_bad = is_anomalous(self.scores[k], self.threshold)
            verdict = "anomalous" if is_bad else "normal"
            title += f"\n{verdict} (threshold {self.threshold:.4g})"
        return title


class ScoreHistogramDisplay:
    """Histogram of the anomaly scores of good and defective images, and the threshold.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one, and :meth:`plot` to draw
    it again.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
        Anomaly scores, higher = more anomalous.
    anomalous : ndarray of shape (n_images,), bool
        True for defective images.
    threshold : float, default=None
        Largest score of a normal image.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    edges_ : ndarray
        Edges of the bins, the same for both kinds.

    Examples
    --------
    >>> from pyimgano.evaluation import ScoreHistogramDisplay
    >>> scores, y = [0.1, 0.2, 0.3, 0.8], [1, 1, 1, -1]
    >>> display = ScoreHistogramDisplay.from_predictions(
    ...     scores, y, threshold=0.4
    ... )  # doctest: +SKIP
    """

    def __init__(
        self, scores: np.ndarray, anomalous: np.ndarray, *, threshold: float | None = None
    ) -> None:
        self.scores = scores
        self.anomalous = anomalous
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any = None, *, bins: int = 30, ax: Axes | None = None
    ) -> ScoreHistogramDisplay:
        """Draw the scores that an estimator gives, and its threshold.

        Parameters
        ----------
        estimator : fitted estimator
            An outlier detector with ``score_samples`` and ``offset_``, or a nesting of such.
        X : input of the estimator
        y : array-like of shape (n_images,), default=None
            +1 for normal, -1 for anomalous; None if all are normal.
        bins : int, default=30
            Number of bins.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ScoreHistogramDisplay
        """
        scores, cut = anomaly_scores(estimator, X), threshold_of(estimator)
        return cls.from_predictions(scores, y, threshold=cut, bins=bins, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        scores: Any,
        y: Any = None,
        *,
        threshold: float | None = None,
        bins: int = 30,
        ax: Axes | None = None,
    ) -> ScoreHistogramDisplay:
        """Draw scores that are at hand.

        Parameters
        ----------
        scores : array-like of shape (n_images,)
            Anomaly scores, higher = more anomalous.
        y : array-like of shape (n_images,), default=None
            +1 for normal, -1 for anomalous; None if all are normal.
        threshold : float, default=None
            Largest score of a normal image.
        bins : int, default=30
            Number of bins.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ScoreHistogramDisplay
        """
        scores, anomalous = _scores_and_labels(scores, y)
        return cls(scores, anomalous, threshold=threshold).plot(ax, bins=bins)

    def plot(self, ax: Axes | None = None, *, bins: int = 30) -> ScoreHistogramDisplay:
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        bins : int, default=30
            Number of bins.

        Returns
        -------
        ScoreHistogramDisplay
        """
        ax = _axes(self, ax)
        self.edges_ = np.histogram_bin_edges(self.scores, bins)
        for kind, name, color in ((False, "good", _GOOD), (True, "defective", _DEFECTIVE)):
            chosen = self.scores[self.anomalous == kind]
            if len(chosen):
                label = f"{name} ({len(chosen)})"
                ax.hist(chosen, bins=self.edges_.tolist(), color=color, alpha=0.6, label=label)
        _mark_threshold(ax, self.threshold)
        ax.set(xlabel="anomaly score", ylabel="images")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class ThresholdDisplay:
    """False-positive rate against the threshold, with its 95 % interval.

    The rate is the share of good images with a score above the threshold. The interval is Clopper
    and Pearson's, for each threshold by itself. With defective images, the share of them above
    the threshold is drawn too.

    Use :meth:`from_estimator` or :meth:`from_predictions` to make one, and :meth:`plot` to draw
    it again.

    Parameters
    ----------
    thresholds : ndarray of shape (n_thresholds,)
        Ascending; from each to the next the rates do not change.
    false_positive_rate : ndarray of shape (n_thresholds,)
        At these thresholds.
    interval : ndarray of shape (2, n_thresholds)
        Lower and upper ends of its 95 % intervals.
    true_positive_rate : ndarray of shape (n_thresholds,), default=None
        Share of defective images that are found.
    threshold : float, default=None
        The threshold in use.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from pyimgano.evaluation import ThresholdDisplay
    >>> scores, y = [0.1, 0.2, 0.3, 0.8], [1, 1, 1, -1]
    >>> display = ThresholdDisplay.from_predictions(scores, y, threshold=0.4)  # doctest: +SKIP
    """

    def __init__(
        self,
        thresholds: np.ndarray,
        false_positive_rate: np.ndarray,
        interval: np.ndarray,
        *,
        true_positive_rate: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> None:
        self.thresholds = thresholds
        self.false_positive_rate = false_positive_rate
        self.interval = interval
        self.true_positive_rate = true_positive_rate
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any = None, *, ax: Axes | None = None
    ) -> ThresholdDisplay:
        """Draw the rates of images that the estimator was not fitted on, and its threshold.

        Parameters
        ----------
        estimator : fitted estimator
            An outlier detector with ``score_samples`` and ``offset_``, or a nesting of such.
        X : input of the estimator
        y : array-like of shape (n_images,), default=None
            +1 for normal, -1 for anomalous; None if all are normal.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ThresholdDisplay
        """
        scores, cut = anomaly_scores(estimator, X), threshold_of(estimator)
        return cls.from_predictions(scores, y, threshold=cut, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        scores: Any,
        y: Any = None,
        *,
        threshold: float | None = None,
        ax: Axes | None = None,
    ) -> ThresholdDisplay:
        """Draw the rates that follow from scores.

        Parameters
        ----------
        scores : array-like of shape (n_images,)
            Anomaly scores, higher = more anomalous, such as ``calibration_scores_`` of a
            :class:`~pyimgano.calibration.ThresholdCalibrator`.
        y : array-like of shape (n_images,), default=None
            +1 for normal, -1 for anomalous; None if all are normal.
        threshold : float, default=None
            The threshold in use.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ThresholdDisplay
        """
        scores, anomalous = _scores_and_labels(scores, y)
        good, defective = np.sort(scores[~anomalous]), np.sort(scores[anomalous])
        if not len(good):
            raise ValueError("a false-positive rate needs good images: y holds no normal (+1) one.")
        thresholds = np.unique(scores)
        # One more on the left, where all images are flagged.
        reach = (thresholds[-1] - thresholds[0]) or abs(thresholds[0]) or 1.0
        thresholds = np.append(thresholds[0] - 0.05 * reach, thresholds)
        above = len(good) - np.searchsorted(good, thresholds, side="right")
        found = None
        if len(defective):
            found = 1.0 - np.searchsorted(defective, thresholds, side="right") / len(defective)
        return cls(
            thresholds,
            above / len(good),
            np.array(clopper_pearson(above, len(good))),
            true_positive_rate=found,
            threshold=threshold,
        ).plot(ax)

    def plot(self, ax: Axes | None = None) -> ThresholdDisplay:
        """Draw the rates.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        ThresholdDisplay
        """
        ax = _axes(self, ax)
        # The last rates hold to the right of all scores.
        beyond = self.thresholds[-1] + 0.05 * (self.thresholds[-1] - self.thresholds[0])
        x = np.append(self.thresholds, beyond)
        low, high = (100 * np.append(end, end[-1]) for end in self.interval)
        ax.fill_between(x, low, high, step="post", color=_GOOD, alpha=0.2, linewidth=0,
                        label="95 % interval")  # fmt: skip
        rates = [(self.false_positive_rate, _GOOD, "false-positive rate")]
        if self.true_positive_rate is not None:
            rates.append((self.true_positive_rate, _DEFECTIVE, "defective images found"))
        for values, color, label in rates:
            ax.step(x, 100 * np.append(values, values[-1]), where="post", color=color, label=label)
        _mark_threshold(ax, self.threshold)
        ax.set(xlabel="threshold on the anomaly score", ylabel="images above it (%)")
        ax.set_ylim(-2, 102)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _scores_and_labels(scores: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    return check_scores_and_labels(scores, np.ones(len(scores), dtype=int) if y is None else y)


def _pyplot(display: Any) -> Any:
    return import_optional("matplotlib.pyplot", "report", type(display).__name__)


def _axes(display: Any, ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    _, new = _pyplot(display).subplots(layout="constrained")
    return new


def _mark_threshold(ax: Axes, threshold: float | None) -> None:
    if threshold is not None:
        label = f"threshold {threshold:.4g}"
        ax.axvline(threshold, color=_THRESHOLD, linestyle="--", label=label)
