"""Metrics of maps against definitions written out pixel by pixel, and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label as connected
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from pyimgano.datasets import Defect, DefectType
from pyimgano.evaluation import (
    AUPIMO,
    AUPRO,
    SPRO,
    OracleSegmentationF1,
    PixelAUROC,
    PixelAveragePrecision,
    PixelMetrics,
    SegmentationF1,
    _pixels,
    _resampling,
    aupro,
    pixel_auroc,
    pixel_threshold,
)
from pyimgano.evaluation._pixels import ValueCounts
from pyimgano.evaluation._resampling import draw_images
from pyimgano.exceptions import TooFewImagesError, TooFewImagesWarning

SIZES = [(4, 5), (3, 3), (4, 5), (1, 7)]


def metrics(**options):
    return PixelMetrics(
        {
            "auroc": PixelAUROC(),
            "ap": PixelAveragePrecision(),
            "aupro": AUPRO(0.3),
            "aupro_0.05": AUPRO(0.05),
            "aupro_1": AUPRO(1),
            "spro": SPRO(limit=0.4),
            "aupimo": AUPIMO((0.02, 0.5)),
            "f1": SegmentationF1(4.5),
        },
        **options,
    )


def scene(seed, n_values=8):
    """Four images with many ties: maps, and the masks of none, one or two defects each."""
    rng = np.random.RandomState(seed)
    maps = [rng.randint(0, n_values, size).astype(np.float32) for size in SIZES]
    masks = []
    for i, size in enumerate(SIZES):
        some = (rng.rand(2 if i == 2 else 1, *size) < 0.3).astype(np.uint8)
        some[:, 0, 0] = 1
        names = ["any two pixels", "half of it"]
        areas = [min(2, int(some[0].sum())), some[-1].sum() // 2]
        defects = [Defect(name, mask, area) for name, mask, area in zip(names, some, areas)]
        masks.append(0 if i == 1 else defects)
    return maps, masks


def unions(maps, masks):
    return [
        np.any([one.mask for one in k], axis=0) if k else np.zeros(m.shape, bool)
        for m, k in zip(maps, masks)
    ]


def area_by_definition(points, limit):
    """Area under straight lines between points, up to the limit, divided by it."""
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def curve_by_definition(maps, free, overlap):
    """(FPR, overlap) at every threshold, from nothing to everything."""
    cuts = sorted({float(v) for m in maps for v in m.ravel()}, reverse=True)
    n_free = sum(f.sum() for f in free)
    points = [(0.0, 0.0)]
    for cut in cuts:
        flagged = [m >= cut for m in maps]
        points.append(
            (sum((f & g).sum() for f, g in zip(flagged, free)) / n_free, overlap(flagged))
        )
    return points


def aupro_by_definition(maps, masks, limit):
    defects = unions(maps, masks)
    regions = []
    for i, defect in enumerate(defects):
        labels, n = connected(defect, structure=np.ones((3, 3)))
        regions += [(i, labels == k) for k in range(1, n + 1)]

    def overlap(flagged):
        return np.mean([flagged[i][region].mean() for i, region in regions])

    return area_by_definition(curve_by_definition(maps, [~d for d in defects], overlap), limit)


def spro_by_definition(maps, masks, limit):
    channels = [(i, one) for i, defects in enumerate(masks) if defects for one in defects]

    def overlap(flagged):
        found = [(flagged[i] & (one.mask == 1)).sum() for i, one in channels]
        needed = [max(one.saturation_area, 1) for _, one in channels]
        return np.mean(np.minimum(np.divide(found, needed), 1))

    free = [~d for d in unions(maps, masks)]
    return area_by_definition(curve_by_definition(maps, free, overlap), limit)


def aupimo_by_definition(maps, masks, low, high):
    defects = unions(maps, masks)
    good = [m for m, d in zip(maps, defects) if not d.any()]
    cuts = sorted({float(v) for m in maps for v in m.ravel()}, reverse=True)
    x = np.array([0, *(np.mean([(g >= cut).mean() for g in good]) for cut in cuts)])
    values = []
    # midpoints of many steps of equal width on the logarithmic axis
    at = np.exp(np.log(low) + (np.arange(20_000) + 0.5) / 20_000 * np.log(high / low))
    for m, d in zip(maps, defects):
        if d.any():
            y = np.array([0, *((m[d] >= cut).mean() for cut in cuts)])
            k = np.searchsorted(x, at)  # x[k - 1] < at <= x[k]
            share = (at - x[k - 1]) / (x[k] - x[k - 1])
            values.append(np.mean(y[k - 1] + share * (y[k] - y[k - 1])))
    return np.array(values)


def feed(total, maps, masks):
    for anomaly_map, mask in zip(maps, masks):
        total.update(anomaly_map, mask)
    return total


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8, 1000]))
def test_values_are_those_of_the_definitions(seed, n_values):
    maps, masks = scene(seed, n_values)
    defects = np.concatenate([d.ravel() for d in unions(maps, masks)])
    scores = np.concatenate([m.ravel() for m in maps])
    found = feed(metrics(), maps, masks)
    values = found.compute()
    assert found.exact and found.n_images == 4 and found.n_pixels == 56
    expected = {
        "auroc": roc_auc_score(defects, scores),
        "ap": average_precision_score(defects, scores),
        "aupro": aupro_by_definition(maps, masks, 0.3),
        "aupro_0.05": aupro_by_definition(maps, masks, 0.05),
        "aupro_1": aupro_by_definition(maps, masks, 1.0),
        "spro": spro_by_definition(maps, masks, 0.4),
        "f1": f1_score(defects, scores > 4.5),
    }
    per_image = found["aupimo"].per_image()
    assert values.pop("aupimo") == pytest.approx(per_image.mean(), abs=1e-12)
    assert values == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(per_image, aupimo_by_definition(maps, masks, 0.02, 0.5), atol=2e-4)


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_only_the_order_of_the_scores_matters(seed):
    maps, masks = scene(seed)
    values = feed(metrics(), maps, masks).compute()
    f1 = values.pop("f1")
    for a, b in ((1e6, 1e6), (1e-30, 0.0), (3.0, -1e3)):
        moved = [a * m.astype(np.float64) + b for m in maps]
        other = feed(metrics(), moved, masks).compute()
        del other["f1"]
        assert other == values
        assert feed(SegmentationF1(a * 4.5 + b), moved, masks).compute() == f1


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 10, 25]), st.sampled_from([(1, 1), (8, 4)]))
def test_bounds_hold_the_value_and_close_when_nothing_is_compressed(seed, max_exact, bins):
    maps, masks = scene(seed, 1000)
    exact = feed(metrics(), maps, masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyimgano.evaluation._pixels._N_BINS", bins[0])
        patch.setattr("pyimgano.evaluation._pixels._N_SINGLE", bins[1])
        counted = feed(metrics(max_exact=max_exact), maps, masks)
    for name in exact:
        value, bounds = exact[name].compute(), counted[name].bounds()
        assert exact[name].bounds() == (value, value)
        assert bounds[0] - 1e-12 <= value <= bounds[1] + 1e-12
        assert bounds[0] <= counted[name].compute() <= bounds[1]


def test_perfect_maps_have_1_and_inverse_ones_0():
    mask = np.zeros((20, 30), np.uint8)
    mask[3:6, 4:9] = mask[15, 20] = 255
    for scale, offset in ((1.0, 0.0), (1e6, 1e6)):
        perfect = scale * (mask != 0).astype(np.float32) + offset
        inverse = scale * (mask == 0).astype(np.float32) + offset
        for limit in (0.05, 0.3, 1.0):
            assert aupro([perfect, 0 * mask], [mask, 0], limit=limit) == 1.0
        for limit in (0.05, 0.3):
            assert aupro([inverse], [mask], limit=limit) == 0.0
        assert pixel_auroc([perfect], [mask]) == 1.0
        assert pixel_auroc([inverse], [mask]) == 0.0
    assert aupro([np.ones((20, 30))], [mask], limit=0.3) == pytest.approx(0.15)  # chance


def test_small_defects_count_as_much_as_large_ones():
    mask = np.zeros((10, 10), np.uint8)
    mask[:8, :8] = 1
    mask[9, 9] = 1
    large, small = np.zeros((2, 10, 10))
    large[:8, :8] = 1
    small[9, 9] = 1
    # one of two is found at once, the other on the straight line to the end
    expected = 0.5 + 0.5 * 0.3 / 2
    assert aupro([large], [mask]) == pytest.approx(expected)
    assert aupro([small], [mask]) == pytest.approx(expected)
    # one mask is one defect for sPRO
    assert feed(SPRO(limit=1.0), [large], [mask]).compute() > 0.9


def test_pixels_that_touch_diagonally_are_one_defect():
    mask = np.eye(3, dtype=np.uint8)
    found = np.zeros((3, 3))
    found[0, 0] = 1
    assert aupro([found], [mask], limit=1.0) == pytest.approx(1 / 3 + 2 / 3 / 2)


def test_saturation_areas_of_loco():
    pin = DefectType("pushpin missing", 255, saturation_threshold=2, relative_saturation=False)
    label = DefectType("label", 254, saturation_threshold=0.5, relative_saturation=True)
    masks = np.zeros((2, 2, 6), np.uint8)
    masks[0, 0], masks[1, 1, :4] = 1, 1
    defects = [
        Defect(one.name, mask, one.saturation_area(int(mask.sum())))
        for one, mask in zip((pin, label), masks)
    ]
    anomaly_map = np.zeros((2, 6))
    anomaly_map[0, :2] = anomaly_map[1, :2] = 9  # 2 of 6, and half of 4
    assert feed(SPRO(), [anomaly_map], [defects]).compute() == 1.0
    assert feed(SPRO(limit=0.5), [anomaly_map], [masks]).compute() < 0.7  # all of both
    anomaly_map[0, 1] = 0
    assert feed(SPRO(limit=1e-9), [anomaly_map], [defects]).compute() == pytest.approx(0.75)


def test_metrics_take_what_datasets_read():
    mask = np.array([[0, 1, 1]], np.uint8)
    total = PixelMetrics()
    total.update([[1, 2, 3]], [Defect("scratch", mask, 2)], -1)
    total.update([[1, 2, 1]], [], 1)
    expected = PixelMetrics()
    expected.update([[1, 2, 3]], mask)
    expected.update([[1, 2, 1]], 0)
    assert total.compute() == expected.compute()
    # a list that is empty because the mask is missing is no good image
    for label in (None, -1):
        with pytest.raises(ValueError, match="image 2 has no mask"):
            total.update([[1, 2, 1]], [], label)


# ---- intervals --------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from([0, 10**6]))
def test_a_draw_has_the_value_of_the_images_drawn(seed, draw_seed, max_exact):
    maps, masks = scene(seed, 30)
    found = feed(metrics(max_exact=max_exact), maps, masks)
    labels = np.array([-1, 1, -1, -1])  # as scene makes them
    (drawn,) = draw_images(labels, 1, draw_seed)
    again = feed(metrics(), [maps[i] for i in drawn], [masks[i] for i in drawn]).compute()
    for name, value in again.items():
        interval = found[name].bootstrap_interval(n_resamples=1, random_state=draw_seed)
        assert interval == pytest.approx((value, value), abs=1e-12)


def test_intervals_are_seeded_and_hold_the_value():
    rng = np.random.RandomState(0)
    total = PixelMetrics()
    for i in range(30):
        anomaly_map = rng.normal(size=(32, 32))
        mask = np.zeros((32, 32), bool)
        if i % 2:
            mask[4:8, 4 : 6 + i % 5] = True
            anomaly_map[mask] += rng.normal(2, 1)
        total.update(anomaly_map, mask)
    for name, value in total.compute().items():
        low, high = total[name].bootstrap_interval(n_resamples=100)
        assert low < value < high
        assert (low, high) == total[name].bootstrap_interval(n_resamples=100)
        assert (low, high) != total[name].bootstrap_interval(n_resamples=100, random_state=1)
        narrow = total[name].bootstrap_interval(n_resamples=100, confidence_level=0.5)
        assert low < narrow[0] < narrow[1] < high


def test_there_is_no_interval_of_what_is_not_defined():
    for metric in (AUPRO(), AUPIMO(), SegmentationF1(1.0)):
        with pytest.raises(TooFewImagesError, match=r"is not defined.*0 images have been added"):
            metric.bootstrap_interval()


def test_sizes_of_good_images_do_not_weigh_in_aupimo():
    metric = AUPIMO((0.01, 0.5))
    metric.update(np.arange(1000.0).reshape(10, 100), 0)
    metric.update(np.zeros((3, 3)), 0)
    metric.update([[949.5]], [[1]])  # 5 % of one image, 0 % of the other
    expected = np.log(0.5 / 0.025) / np.log(0.5 / 0.01)
    assert metric.compute() == pytest.approx(expected, abs=1e-12)


def test_aupimo_says_when_good_pixels_are_too_few():
    metric = AUPIMO()
    with pytest.raises(TooFewImagesError, match="a good and a defective image"):
        metric.per_image()
    metric.update(np.zeros((9, 9)), 0)
    assert metric.compute() is None
    metric.update(np.ones((9, 9)), np.eye(9))
    with pytest.warns(TooFewImagesWarning, match="81 pixels in all.*at least 333334 pixels"):
        assert metric.compute() == 1.0


def test_metrics_without_defective_pixels_are_undefined():
    total = metrics()
    total.update(np.zeros((2, 2)), 0, 1)
    assert set(total.compute().values()) == {None}
    assert pixel_auroc([[[1.0]]], [[[0]]]) is None
    assert pixel_auroc([[[1.0]]], [[[1]]]) is None
    assert feed(SegmentationF1(0.5), [[[1.0]]], [[[1]]]).compute() == 1.0


def test_maps_are_not_changed_and_can_be_overwritten():
    frame, total, kept = np.empty((20, 20), np.float32), PixelMetrics(), PixelMetrics()
    rng = np.random.RandomState(0)
    for i in range(3):
        frame[:] = rng.rand(20, 20)
        before = frame.copy()
        mask = 0 if i == 0 else (rng.rand(20, 20) < 0.1)
        total.update(frame, mask)
        kept.update(frame.copy(), mask)
        np.testing.assert_array_equal(frame, before)
        total.compute()  # in between changes nothing
    frame[:] = 0
    assert total.compute() == kept.compute()


def test_integers_and_half_precision_are_maps():
    mask = np.array([[0, 1, 0, 1]])
    values = np.array([[3, 5, 5, 7]])
    expected = pixel_auroc([values.astype(float)], [mask])
    for dtype in (np.uint8, np.int64, np.float16, np.float32):
        assert pixel_auroc([values.astype(dtype)], [mask]) == expected
    # float64 is not rounded
    assert pixel_auroc([[[1.0, 1.0 + 1e-12]]], [[[0, 1]]]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2]], [[1], [2]]), r"image 1: the map has shape \(1, 2\), its mask \(2, 1\)"),
        (([1, 2], [0, 1]), r"image 1: an anomaly map has shape \(height, width\), got \(2,\)"),
        (([[1, np.nan]], [[0, 1]]), "image 1: 1 of 2 values of the anomaly map are NaN"),
        (([[1, 2]], None), "image 1 has no mask"),
        (([[1, 2]], [[[0, 1]], [[0, 0]]]), "image 1: mask 1 of 2 is empty"),
        (([[1, 2]], 1), "image 1: masks must be 0 or arrays, got 1"),
        (([[1, 2]], [[0, 1]], 0), r"image 1: label must be \+1 \(normal\)"),
        (([[1, 2]], [[0, 1]], 1), r"image 1 has label \+1, but its mask says that some pixels are"),
        (([[1, 2]], 0, -1), "image 1 has label -1, but its mask says that no pixel is"),
    ],
)
def test_images_that_cannot_be_counted_are_refused_and_change_nothing(arguments, message):
    total = PixelMetrics()
    total.update([[1, 2, 3]], [[0, 1, 0]])
    before = total.compute()
    with pytest.raises(ValueError, match=message):
        total.update(*arguments)
    assert (total.n_images, total.n_pixels, total.compute()) == (1, 3, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AUPRO(0), "limit=0 must be a false-positive rate"),
        (lambda: AUPRO("0.3"), "limit='0.3' must be a false-positive rate"),
        (lambda: AUPIMO((1e-4, 1e-5)), "0 < low < high <= 1"),
        (lambda: SegmentationF1(float("nan")), "threshold must be a number, got nan"),
        (lambda: PixelMetrics({"a": "aupro"}), r"metrics\['a'\] must be a pixel metric"),
        (lambda: pixel_threshold([[[1]]], false_positive_rate=1), "a share in"),
    ],
)
def test_parameters_are_checked(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_threshold_is_not_rounded_to_the_precision_of_the_map():
    just_above = np.float32(0.1)  # 0.100000001...
    f1 = feed(SegmentationF1(0.1), [np.array([[just_above, just_above, 0.0]])], [[[1, 0, 0]]])
    f1.update(np.array([[just_above, 0]], np.float32), [[0, 1]])
    assert f1.compute() == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    at = pixel_threshold([np.array([[just_above, 0.0]], np.float32)], false_positive_rate=0)
    assert feed(SegmentationF1(at), [[[just_above, just_above]]], [[[1, 0]]]).compute() == 0.0


def test_metrics_that_hold_images_cannot_be_combined():
    used = feed(AUPRO(), [[[1, 2]]], [[[0, 1]]])
    with pytest.raises(ValueError, match=r"metrics\['aupro'\] holds 1 images already"):
        PixelMetrics({"aupro": used})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 9))
def test_pixel_threshold_is_the_smallest_that_keeps_the_rate(values, tenths):
    found = pixel_threshold(np.array(values, float)[:, None, None], false_positive_rate=tenths / 10)
    allowed = tenths * len(values)
    assert 10 * sum(v > found for v in values) <= allowed
    smaller = [v for v in values if v < found]
    if smaller:
        assert 10 * sum(v > max(smaller) for v in values) > allowed


# ---- counts in bins ---------------------------------------------------------------------
def reached_by_definition(values, thresholds):
    above = [(values > t).sum() for t in thresholds]
    return np.array(above), np.array([(values >= t).sum() for t in thresholds])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-5, 60), max_size=40), min_size=1, max_size=6),
    st.integers(0, 5),
    st.sampled_from([(1, 1), (4, 2), (1000, 1000)]),
)
def test_bins_bound_the_counts(chunks, compress_after, bins):
    counts, values = ValueCounts(), np.concatenate(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyimgano.evaluation._pixels._N_BINS", bins[0])
        patch.setattr("pyimgano.evaluation._pixels._N_SINGLE", bins[1])
        for i, chunk in enumerate(chunks):
            counts.add(np.array(chunk, np.float32))
            if i % (compress_after + 1) == 0 and counts.n_held:
                counts.compress()
    thresholds = np.arange(-6, 62, dtype=np.float32)
    found, exact = counts.reached(thresholds), reached_by_definition(values, thresholds)
    for (least, most), expected in zip(found, exact):
        assert (least <= expected).all() and (expected <= most).all()
    assert counts.n_values == len(values)
    if counts.exact:
        np.testing.assert_array_equal(found.above[0], found.above[1])
        np.testing.assert_array_equal(found.at_least[0], found.at_least[1])
    for n in range(0, len(values), 7):
        cut = counts.smallest_exceeded_by(n)
        assert (values > cut).sum() <= n


def test_many_pixels_are_counted_closely_and_in_bounded_memory():
    rng = np.random.RandomState(0)
    exact, counted = PixelMetrics(), PixelMetrics(max_exact=200_000)
    for i in range(24):
        anomaly_map = rng.gamma(2.0, 1.0, (256, 256)).astype(np.float32)
        anomaly_map[:40] = 0.25  # a flat margin: very many ties
        mask = np.zeros((256, 256), bool)
        if i >= 12:  # what comes late differs from what came first
            mask[100:120, 50 : 55 + 5 * i] = True
            anomaly_map[mask] += 2
            anomaly_map *= 1.1
        for total in (exact, counted):
            total.update(anomaly_map, mask)
    assert exact.exact and not counted.exact
    held = [*counted._pixels._good.values(), counted._pixels._around]
    assert sum(one.n_held for one in held) <= 200_000
    assert sum(len(one._counts) for one in held) < 100_000
    for name, value in exact.compute().items():
        low, high = counted[name].bounds()
        assert low <= value <= high
        assert 0 < high - low < 1e-3
        (all_images,) = exact[name]._image_curves(np.arange(24)).of_draws([np.arange(24)])
        assert exact[name]._of_curve(*all_images) == pytest.approx(value, abs=1e-3)


def test_values_are_put_into_the_same_bins_a_part_at_a_time(monkeypatch):
    rng = np.random.RandomState(0)
    values = [np.sort(rng.normal(size=3000).astype(np.float32)) for _ in range(4)]
    values[1][500:900] = values[1][500]  # one value more often than a bin is wide
    found = []
    for n_together in (1 << 20, 700, 1):
        monkeypatch.setattr(_pixels, "_N_TOGETHER", n_together)
        monkeypatch.setattr(_pixels, "_N_BINS", 40)
        monkeypatch.setattr(_pixels, "_N_SINGLE", 10)
        counts = ValueCounts()
        for some in values:
            counts.add(some)
            counts.compress()
        found.append((counts._low, counts._high, counts._counts))
    assert len(found[0][0]) < 200 and found[0][2].sum() == 12_000
    for other in found[1:]:
        for one, two in zip(found[0], other):
            np.testing.assert_array_equal(one, two)


def test_intervals_of_very_many_images_take_bounded_memory(monkeypatch):
    def intervals():
        rng = np.random.RandomState(0)
        metrics = PixelMetrics()
        for i in range(120):
            heat = rng.normal(size=(24, 24)) + 0.3 * rng.normal()
            mask = np.zeros((24, 24), np.uint8)
            mask[4:8, 6:12] = i % 3 == 0
            metrics.update(heat + 1.5 * mask, mask)
        summaries = metrics._pixels.summaries
        found = {name: metrics[name].bootstrap_interval() for name in metrics}
        return found, len(summaries.all_values()), metrics.compute()

    exact, n_exact, values = intervals()
    monkeypatch.setattr(_resampling, "_MAX_SUMMARY_VALUES", 12_000)
    monkeypatch.setattr(_resampling, "_MAX_UNITS", 30)  # of 80 good and 40 defective images
    found, n_held, _ = intervals()
    assert n_held <= 12_000 < n_exact / 3
    for name, (low, high) in exact.items():
        width = high - low
        assert found[name] == pytest.approx((low, high), abs=0.35 * width), name
        assert found[name][0] < values[name] < found[name][1]


def test_segmentation_at_a_threshold_and_by_an_oracle():
    rng = np.random.RandomState(0)
    heat = rng.normal(size=(20, 30))
    mask = (rng.uniform(size=(20, 30)) < 0.2).astype(np.uint8)
    heat += mask
    metrics = PixelMetrics({"f1": SegmentationF1(0.7), "oracle": OracleSegmentationF1()})
    metrics.update(heat, mask)
    judged = heat.ravel() > 0.7
    truth = mask.ravel() > 0
    assert metrics["f1"].at_threshold() == pytest.approx(
        {
            "f1": f1_score(truth, judged),
            "precision": precision_score(truth, judged),
            "recall": recall_score(truth, judged),
            "iou": jaccard_score(truth, judged),
        }
    )
    best = max(f1_score(truth, heat.ravel() >= cut) for cut in heat.ravel())
    assert metrics["oracle"].compute() == pytest.approx(best)
    low, high = metrics["oracle"].bootstrap_interval(n_resamples=20)
    assert low == high == pytest.approx(best, abs=0.02)  # of a single image
    nothing = SegmentationF1(0.7)
    nothing.update(heat, 0)
    assert set(nothing.at_threshold().values()) == {None}
    above_all = SegmentationF1(99)
    above_all.update(heat, mask)
    assert above_all.at_threshold() == {"f1": 0, "precision": None, "recall": 0, "iou": 0}
