"""Metrics against hand-worked values and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pyimgano.evaluation import PixelAUROC, image_metrics, pixel_auroc, rate


def test_image_metrics_count_anomalies_as_positives():
    assert image_metrics([1, 2, 3, 4], [1, 1, -1, -1]) == {"auroc": 1.0, "average_precision": 1.0}
    assert image_metrics([4, 3, 2, 1], [1, 1, -1, -1])["auroc"] == 0.0


def test_image_metrics_of_one_kind_are_undefined():
    assert image_metrics([1.0, 2.0], [1, 1]) == {"auroc": None, "average_precision": None}


def test_image_metrics_refuse_other_labels():
    with pytest.raises(ValueError, match=r"\+1 \(normal\) and -1"):
        image_metrics([1, 2], [0, 1])


def test_pixel_auroc_by_hand():
    # The defective pixel (3) wins against 1 and 2, ties with 3, loses to none: (1 + 1 + .5) / 3
    assert pixel_auroc([[[1, 2], [3, 3]]], [[[0, 0], [0, 255]]]) == pytest.approx(2.5 / 3)
    assert pixel_auroc([[[1.0]]], [[[0]]]) is None
    with pytest.raises(ValueError, match=r"shape \(1, 2\), its mask \(2, 1\)"):
        pixel_auroc([[[1, 2]]], [[[1], [2]]])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, -3.0, 1000.0]))
def test_pixel_auroc_equals_sklearns(seed, offset):
    rng = np.random.RandomState(seed)
    maps = [(rng.randint(0, 9, s) + offset).astype(np.float32) for s in [(4, 5), (3, 3)]]
    masks = [rng.rand(*m.shape) < 0.4 for m in maps]
    masks[0][0, :2] = True, False
    expected = roc_auc_score(
        np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    )
    assert pixel_auroc(maps, masks) == pytest.approx(expected, abs=1e-12)
    counted = PixelAUROC(max_exact=20)
    for anomaly_map, mask in zip(maps, masks):
        counted.add(anomaly_map, mask)
    # these small numbers survive the rounding to 12 bits
    assert not counted.exact
    assert counted.n_pixels == 29
    assert counted.value() == pytest.approx(expected, abs=1e-12)


def test_counted_pixel_auroc_is_close():
    rng = np.random.RandomState(0)
    values, mask = rng.normal(5, 1, (200, 500)), np.arange(100_000).reshape(200, 500) < 3000
    values[mask] += 1.5
    counted = PixelAUROC(max_exact=0)
    counted.add(values, mask)
    assert counted.value() == pytest.approx(roc_auc_score(mask.ravel(), values.ravel()), abs=1e-4)


def test_rate_has_clopper_pearsons_interval():
    # the "rule of three" and its mirror image: 1 - 0.025 ** (1 / 20)
    assert rate(0, 20)["interval_95"] == pytest.approx([0, 1 - 0.025 ** (1 / 20)])
    assert rate(20, 20)["interval_95"] == pytest.approx([0.025 ** (1 / 20), 1])
    assert rate(1, 4)["value"] == 0.25
    assert rate(0, 0) == {"value": None, "interval_95": None, "count": 0, "n": 0}
    with pytest.raises(ValueError, match="must lie between 0 and n=3"):
        rate(4, 3)
