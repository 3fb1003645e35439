"""The feature step inside a detector: what it has learned does not spoil the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    SoftPatchDetector,
    SPADEDetector,
)
from pyimgano.exceptions import TooFewImagesWarning
from pyimgano.features import FilterBankFeatures

pytestmark = pytest.mark.usefixtures("cross_fit")

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
