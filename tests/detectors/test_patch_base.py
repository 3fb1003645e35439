"""The feature step inside a detector: what it has learned does not spoil the threshold."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold
from sklearn.utils._param_validation import InvalidParameterError

from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    PixelGaussianDetector,
    SoftPatchDetector,
    SPADEDetector,
)
from pyimgano.exceptions import TooFewImagesWarning
from pyimgano.features import FilterBankFeatures
from pyimgano.reporting import map_range, range_of_maps

pytestmark = pytest.mark.usefixtures("metrics_kept", "cross_fit")

BANK = FilterBankFeatures(resize=48)
DETECTORS = [
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    SoftPatchDetector,
    SPADEDetector,
]


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Images that have nothing in common but their distribution."""
    return np.random.RandomState(0).randint(0, 256, size=(60, 48, 48, 3)).astype(np.uint8)


@pytest.mark.parametrize("cls", DETECTORS)
def test_training_scores_are_like_those_of_new_images(cls, noise):
    good, new = noise[:20], noise[20:]
    detector = cls(BANK).fit(good)
    assert detector.features_.overfits_
    above = np.mean(-detector.score_samples(new) > np.sort(detector.training_scores_)[-4])
    assert above <= 1.5 * 4 / 21  # each of 21 images is as likely as any to be among the worst 4


def test_the_model_itself_learns_from_all_images(noise):
    good, new = noise[:8], noise[20:24]
    detector = PatchCoreDetector(BANK).fit(good)
    step = clone(BANK).fit(good)
    alone = PatchCoreDetector().fit(step.transform(good))
    assert np.array_equal(detector.score_samples(new), alone.score_samples(step.transform(new)))
    assert (detector.training_scores_ > alone.training_scores_).all()
    assert np.array_equal(-detector.score_samples(good), detector.training_scores_)


def test_copies_of_an_image_are_left_out_together(noise):
    copies = noise[[0, 1, 2, 3, 4, 5, 0, 0]]
    scores = SPADEDetector(BANK).fit(copies).training_scores_
    assert scores[0] == scores[6] == scores[7]
    alone = SPADEDetector(BANK).fit(noise[:6]).training_scores_
    assert scores[0] > 0.8 * alone[0]  # near 0 if a copy was learned from


def test_a_frozen_step_has_not_seen_the_images(noise):
    step = clone(BANK).fit(noise[30:])
    detector = PatchCoreDetector(FrozenEstimator(step)).fit(noise[:6])
    alone = PatchCoreDetector().fit(step.transform(noise[:6]))
    assert np.array_equal(detector.training_scores_, alone.training_scores_)


def test_too_few_images_to_leave_any_out(noise):
    with pytest.warns(TooFewImagesWarning, match="has learned from the 3 different .* at least 4"):
        PatchCoreDetector(BANK).fit(noise[[0, 1, 2, 2]])


def test_a_metric_of_many_patches_is_fitted_once(noise):
    step = FilterBankFeatures(resize=96, n_components=8)
    good = noise[:32]  # of 144 patches each
    detector = SPADEDetector(step).fit(good)
    assert not detector.features_.overfits_
    alone = SPADEDetector().fit(clone(step).fit(good).transform(good))
    assert np.array_equal(detector.training_scores_, alone.training_scores_)


@pytest.mark.parametrize("cls", DETECTORS)
def test_the_scale_of_maps_is_that_of_images_the_step_has_not_seen(cls, noise):
    good, new = noise[:8], noise[20:28]
    detector = cls(BANK).fit(good)
    hot, expected = map_range(detector, good)[1], map_range(detector, new)[1]
    without = range_of_maps(detector.anomaly_map(good))[1]
    assert abs(hot - expected) < 0.75 * abs(without - expected)
    loaded = pickle.loads(pickle.dumps(detector))
    assert map_range(loaded, good)[1] == hot


def test_levels_of_maps_are_those_of_the_folds(noise):
    copies = noise[[0, 1, 2, 3, 4, 5, 0]]
    detector = PatchCoreDetector(BANK).fit(copies)
    levels = detector.held_out_map_levels(noise[[0, 3, 9]])
    assert levels[2] is None  # not a training image
    assert levels[0] == detector.held_out_map_levels(copies)[6]
    folds = GroupKFold(5, shuffle=True, random_state=0)
    groups = [0, 1, 2, 3, 4, 5, 0]
    rest = next(rest for rest, test in folds.split(groups, groups=groups) if 3 in test)
    frozen = FrozenEstimator(clone(BANK).fit(copies[rest]))
    (heat,) = PatchCoreDetector(frozen).fit(copies[rest]).anomaly_map(noise[[3]])
    assert levels[1] == (np.median(heat), heat.max())
    detector.set_params(features=FrozenEstimator(detector.features_)).fit(noise[:6])
    assert detector.held_out_map_levels(noise[:2]) == [None, None]
    rows = np.random.RandomState(0).normal(size=(9, 3))
    assert detector.fit(rows).held_out_map_levels(rows) == [None] * 9


def test_levels_of_maps_after_a_copy(noise):
    detector = PatchCoreDetector(BANK).fit(noise[[0, 0, 1, 2, 3, 4, 5]])
    levels = detector.held_out_map_levels(noise[:6])
    assert np.isfinite(levels).all() and np.shape(levels) == (6, 2)
    assert levels[0] == detector.held_out_map_levels(noise[[0, 0]])[1]
    assert len(set(levels)) == 6


def test_scores_of_folds_do_not_depend_on_the_batches(noise):
    images = noise[:12]  # 3 to a fold
    whole = PatchCoreDetector(clone(BANK).set_params(batch_size=8)).fit(images)
    single = PatchCoreDetector(clone(BANK).set_params(batch_size=1)).fit(images)
    np.testing.assert_array_equal(single.training_scores_, whole.training_scores_)
    assert single.held_out_map_levels(images) == whole.held_out_map_levels(images)


@pytest.mark.parametrize(
    "detector, parameter",
    [
        (PatchCoreDetector(BANK), "smoothing_sigma"),
        (PixelGaussianDetector(), "smoothing_sigma"),
        (PixelGaussianDetector(), "noise_sigma"),
    ],
)
def test_a_standard_deviation_beyond_all_images_is_refused(detector, parameter, noise):
    with pytest.raises(InvalidParameterError, match=f"'{parameter}' parameter of .* in the range"):
        detector.set_params(**{parameter: 1e300}).fit(noise[:4])
