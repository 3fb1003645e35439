"""Parameters that count as they were in fit, compared by value."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from pyimgano import PatchCoreDetector
from pyimgano.features import ColorMoments, FilterBankFeatures, GLCMFeatures
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.testing import make_check_images
from pyimgano.tiling import TilingTransformer
from pyimgano.utils._fitting import differ

EQUAL = [
    (5, np.int64(5)),
    (0.5, np.float64(0.5)),
    (True, np.bool_(True)),
    (["a", 2], ["a", 2]),
    (["a", 2], ("a", np.int32(2))),
    ([[1, 2], [3]], [[1, 2], [3]]),
    ({"a": [1]}, {"a": [1]}),
    ({1, 2}, {2, 1}),
    (np.arange(3), np.arange(3)),
    (np.array(["a", None], dtype=object), np.array(["a", None], dtype=object)),
    (np.array([1.0, np.nan]), np.array([1.0, np.nan])),
    (float("nan"), float("nan")),
    (Path("a/b"), Path("a/b")),
    (None, None),
]
DIFFERENT = [
    (5, 6),
    (1, 1.0),
    (1, True),
    ("a", None),
    ([1, 2], [1]),
    ([1, [2]], [1, [3]]),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, {"a": 2}),
    (np.arange(3), np.arange(4)),
    (np.arange(3), np.arange(3.0)),
    (np.array([1.0, np.nan]), np.array([np.nan, 1.0])),
    (float("nan"), 1.0),
    (ColorMoments(), ColorMoments()),
]


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=repr)
def test_equal_values_do_not_differ(one, other):
    assert not differ(one, other)
    assert not differ(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=repr)
def test_other_values_differ(one, other):
    assert differ(one, other)
    assert differ(other, one)


def test_a_parameter_set_to_an_equal_value_is_no_change():
    X = np.random.RandomState(0).normal(size=(30, 3))
    detector = PatchCoreDetector(coreset_ratio=0.5, random_state=3).fit(X)
    expected = detector.score_samples(X)
    detector.set_params(coreset_ratio=np.float64(0.5), random_state=np.int64(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(detector.score_samples(X), expected)


def test_a_parameter_changed_in_place_counts_as_it_was_in_fit():
    X, new = make_check_images(6), make_check_images(3, defect=True, random_state=1)
    distances = [1]
    step = GLCMFeatures(distances=distances).fit(X)
    expected = step.transform(new)
    distances.append(2)
    with pytest.warns(UserWarning, match=r"changed after fit \(distances\)"):
        np.testing.assert_array_equal(step.transform(new), expected)


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (ColorMoments(resize=32), {"resize": None}),
        (ImageFormatNormalizer(resize=32), {"resize": None}),
        (TilingTransformer(32), {"tile": 16}),
    ],
    ids=repr,
)
def test_steps_that_need_no_fit_follow_their_parameters_until_fit(step, change):
    X = make_check_images(3)

    def shape():
        found = step.transform(X)
        return found[0].shape if isinstance(step, TilingTransformer) else found.tolist()

    def expected(**params):
        other = clone(step).set_params(**params).transform(X)
        return other[0].shape if isinstance(step, TilingTransformer) else other.tolist()

    before = step.get_params()
    assert shape() == expected()
    step.set_params(**change)
    assert shape() == expected() != expected(**before)
    step.fit(X).set_params(**before)
    with pytest.warns(UserWarning, match="changed after fit"):
        assert shape() == expected(**change)


def test_the_declared_format_of_new_images_takes_effect_at_once():
    X = make_check_images(3)
    step = ImageFormatNormalizer().fit(X).set_params(input_format="bgr_u8_hwc")
    np.testing.assert_array_equal(step.transform(X), X[..., ::-1])


def test_runtime_parameters_of_a_feature_step_take_effect_at_once():
    X = make_check_images(3)
    step = FilterBankFeatures(resize=32, batch_size=2).fit(X).set_params(batch_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(grids) for grids in step.iter_grids(X)] == [1, 1, 1]
