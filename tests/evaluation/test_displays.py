"""Displays: what they draw is what was measured."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.evaluation import (
    AnomalyMapDisplay,
    ScoreHistogramDisplay,
    ThresholdDisplay,
    rate,
)
from pyimgano.exceptions import MissingExtraError
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import anomaly_scores, score_with_maps
from pyimgano.testing import make_check_images

SCORES, Y = [1.0, 2.0, 2.0, 3.0, 2.5, 4.0], [1, 1, 1, 1, -1, -1]


@pytest.fixture(autouse=True)
def pyplot():
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


@pytest.fixture(scope="module")
def pipeline():
    detector = PatchCoreDetector(FilterBankFeatures(resize=32))
    calibrator = ThresholdCalibrator(detector, quantile=0.8)
    return make_pipeline(ImageFormatNormalizer(input_format="bgr_u8_hwc"), calibrator).fit(
        make_check_images(8)
    )


def drawn(image):
    """Values of what imshow has drawn, without those that are cut off by the mask of a plot."""
    return np.asarray(image.get_array())


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_maps_are_drawn_below_their_images(pipeline, pyplot):
    frames = make_check_images(3, random_state=1)
    display = AnomalyMapDisplay.from_estimator(pipeline, frames, limits=(0.0, 2.0))
    scores, maps = score_with_maps(pipeline, frames)
    assert display.axes_.shape == (2, 3)
    for k, (upper, lower) in enumerate(display.axes_.T):
        np.testing.assert_array_equal(drawn(upper.images[0]), frames[k][..., ::-1])  # RGB
        heat = lower.images[1]
        np.testing.assert_array_equal(drawn(heat), maps[k])
        assert heat.get_clim() == (0.0, 2.0)
        verdict = "anomalous" if scores[k] > pipeline[-1].threshold_ else "normal"
        assert upper.get_title().startswith(f"score {scores[k]:.4g}\n{verdict} (threshold ")
    assert len(display.figure_.axes) == 7  # and one for the colors


def test_a_mask_is_outlined_where_it_is_and_cold_parts_show_the_image(tmp_path):
    image, anomaly_map = np.full((40, 60, 3), 90, np.uint8), np.zeros((20, 30))
    anomaly_map[2:4, 3:9] = 5
    mask = np.zeros((40, 60), np.uint8)
    mask[4:8, 6:18] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    display = AnomalyMapDisplay.from_predictions(
        [image] * 4, [anomaly_map] * 4, masks=[tmp_path / "mask.png", mask, 0, None]
    )
    for ax in display.axes_[1, :2]:
        outline = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
        np.testing.assert_allclose(outline.min(axis=0), [5.5, 3.5])
        np.testing.assert_allclose(outline.max(axis=0), [17.5, 7.5])
    assert [len(ax.collections) for ax in display.axes_[1, 2:]] == [0, 0]
    heat = display.axes_[1, 0].images[1]
    assert heat.get_extent() == display.axes_[1, 0].images[0].get_extent()  # stretched
    opacity = heat.get_alpha()
    assert opacity[0, 0] == 0 and opacity[2, 3] == 0.75
    assert display.axes_[0, 0].get_title() == ""


def test_maps_are_drawn_on_given_axes_and_flat_ones_are_cold(pyplot):
    figure, axes = pyplot.subplots(2, 1)
    image = np.zeros((8, 8, 3), np.uint8)
    display = AnomalyMapDisplay([image], [np.full((8, 8), 3.0)])
    assert display.plot(axes[:, None], cmap="viridis") is display
    assert display.figure_ is figure
    heat = axes[1].images[1]
    assert heat.get_cmap().name == "viridis"
    assert (heat.get_alpha() == 0).all()
    with pytest.raises(ValueError, match=r"axes must have shape \(2, 1\) for 1 images, got \(2,\)"):
        display.plot(axes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": []}, "images is empty"),
        ({"maps": []}, "maps has 0 entries for 1 images"),
        ({"masks": [0, 0]}, "masks has 2 entries for 1 images"),
        ({"limits": (2, 1)}, "low < high, got"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    arguments = {"images": [np.zeros((8, 8, 3), np.uint8)], "maps": [np.zeros((8, 8))], **options}
    with pytest.raises(ValueError, match=message):
        AnomalyMapDisplay.from_predictions(**arguments)


def test_a_detector_without_maps_has_none_to_draw():
    from sklearn.neighbors import LocalOutlierFactor

    rows = np.random.RandomState(0).normal(size=(30, 3))
    with pytest.raises(TypeError, match="makes no anomaly maps here"):
        AnomalyMapDisplay.from_estimator(LocalOutlierFactor(novelty=True).fit(rows), rows)


def test_histogram_counts_all_images_of_both_kinds():
    display = ScoreHistogramDisplay.from_predictions(SCORES, Y, threshold=2.25, bins=6)
    good, defective = display.ax_.containers
    np.testing.assert_allclose(display.edges_, np.linspace(1, 4, 7))
    assert [bar.get_height() for bar in good] == [1, 0, 2, 0, 1, 0]
    assert [bar.get_height() for bar in defective] == [0, 0, 0, 1, 0, 1]
    assert texts(display.ax_) == ["good (4)", "defective (2)", "threshold 2.25"]
    np.testing.assert_array_equal(display.ax_.lines[0].get_xdata(), [2.25, 2.25])
    alone = ScoreHistogramDisplay.from_predictions(SCORES)
    assert texts(alone.ax_) == ["good (6)"]


def test_rates_are_those_above_each_threshold():
    display = ThresholdDisplay.from_predictions(SCORES, Y, threshold=2.25)
    np.testing.assert_allclose(display.thresholds, [0.85, 1, 2, 2.5, 3, 4])
    np.testing.assert_allclose(display.false_positive_rate, [1, 0.75, 0.25, 0.25, 0, 0])
    np.testing.assert_allclose(display.true_positive_rate, [1, 1, 1, 0.5, 0.5, 0])
    for k, count in enumerate([4, 3, 1, 1, 0, 0]):
        assert display.interval[:, k].tolist() == rate(count, 4)["interval_95"]
    blue, red, _ = display.ax_.lines
    assert blue.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(blue.get_ydata()[:-1], 100 * display.false_positive_rate)
    np.testing.assert_allclose(red.get_ydata()[:-1], 100 * display.true_positive_rate)
    assert texts(display.ax_)[-1] == "threshold 2.25"
    alone = ThresholdDisplay.from_predictions(SCORES)
    assert alone.true_positive_rate is None and len(alone.ax_.lines) == 1


def test_one_score_is_enough_to_draw():
    for display in (ScoreHistogramDisplay, ThresholdDisplay):
        display.from_predictions([0.0]).figure_.canvas.draw()


def test_scores_and_threshold_come_from_the_estimator(pipeline, pyplot):
    frames = make_check_images(4, random_state=1)
    _, ax = pyplot.subplots()
    histogram = ScoreHistogramDisplay.from_estimator(pipeline, frames, [1, 1, 1, -1], ax=ax)
    assert histogram.ax_ is ax
    np.testing.assert_array_equal(histogram.scores, anomaly_scores(pipeline, frames))
    assert histogram.anomalous.tolist() == [False, False, False, True]
    _, ax = pyplot.subplots()
    rates = ThresholdDisplay.from_estimator(pipeline, frames, [1, 1, 1, -1], ax=ax)
    assert rates.ax_ is ax
    assert histogram.threshold == rates.threshold == pipeline[-1].threshold_
    assert rates.plot().ax_ is not ax


def test_labels_and_rates_without_good_images_are_refused():
    for display in (ScoreHistogramDisplay, ThresholdDisplay):
        with pytest.raises(ValueError, match=r"\+1 \(normal\) and -1"):
            display.from_predictions([1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"y holds no normal \(\+1\) one"):
        ThresholdDisplay.from_predictions([1, 2], [-1, -1])


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(
        MissingExtraError, match=r'ThresholdDisplay needs matplotlib.*"pyimgano\[report\]"'
    ):
        ThresholdDisplay.from_predictions([1, 2])
