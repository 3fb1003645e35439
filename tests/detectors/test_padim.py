"""PaDiMDetector: the paper's Gaussians, and exact scores without each image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from pyimgano.detectors import PaDiMDetector
from pyimgano.exceptions import TooFewImagesError
from pyimgano.features import BackbonePatchFeatures
from pyimgano.grids import PatchGrids


def grids(n=12, shape=(3, 4), d=6, seed=0):
    return PatchGrids.from_array(np.random.RandomState(seed).normal(size=(n, *shape, d)))


def paper_distance(train, new, ridge=0.01):
    """Distance of each position of ``new (h, w, d)`` to its Gaussian, from the definition."""
    d = train.shape[-1]
    out = np.empty(new.shape[:2])
    for r, c in np.ndindex(*out.shape):
        covariance = np.cov(train[:, r, c], rowvar=False) + ridge * np.eye(d)
        out[r, c] = mahalanobis(new[r, c], train[:, r, c].mean(axis=0), np.linalg.inv(covariance))
    return out


def as_array(X):
    return X.rows.reshape(len(X), 3, 4, -1).astype(np.float64)


def test_maps_and_scores_are_the_papers():
    X, new = grids(), grids(3, seed=1)
    detector = PaDiMDetector(smoothing_sigma=0).fit(X)
    expected = np.stack([paper_distance(as_array(X), one) for one in as_array(new)])
    np.testing.assert_allclose(detector.anomaly_map(new), expected, rtol=1e-5)
    np.testing.assert_allclose(-detector.score_samples(new), expected.max(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("ridge", [0.001, 0.5])
def test_regularization_is_added_to_the_diagonal(ridge):
    X, new = grids(), grids(3, seed=1)
    detector = PaDiMDetector(smoothing_sigma=0, regularization=ridge).fit(X)
    expected = np.stack([paper_distance(as_array(X), one, ridge) for one in as_array(new)])
    np.testing.assert_allclose(detector.anomaly_map(new), expected, rtol=1e-5)


def test_any_number_of_channels_and_images_at_a_time():
    X, new = grids(30, d=23), grids(11, d=23, seed=1)
    detector = PaDiMDetector(smoothing_sigma=0).fit(X)
    expected = np.stack([paper_distance(as_array(X), one) for one in as_array(new)])
    np.testing.assert_allclose(detector.anomaly_map(new), expected, rtol=1e-5)


def test_training_scores_are_those_of_a_fit_without_the_image():
    X = grids()
    detector = PaDiMDetector(smoothing_sigma=0).fit(X)
    for i in range(len(X)):
        rest = np.delete(as_array(X), i, axis=0)
        expected = paper_distance(rest, as_array(X)[i]).max()
        assert detector.training_scores_[i] == pytest.approx(expected, rel=1e-5)


def test_copies_of_an_image_are_left_out_together():
    order = [0, 1, 2, 3, 4, 3, 5, 6, 7, 3, 0, 8]
    X = grids()[order]
    scores = PaDiMDetector(smoothing_sigma=0).fit(X).training_scores_
    for i, image in enumerate(order):
        rest = as_array(X)[[j for j, other in enumerate(order) if other != image]]
        expected = paper_distance(rest, as_array(X)[i]).max()
        assert scores[i] == pytest.approx(expected, rel=1e-5)


def test_maps_of_recognized_images_leave_all_their_copies_out():
    order = [0, 1, 2, 3, 4, 3, 5, 6, 7, 3, 0, 8, 9, 10, 11]
    X, n = grids()[order], len(order)
    # Next to no ridge: what is left of the covariance's factor can then be told exactly.
    detector = PaDiMDetector(smoothing_sigma=0, regularization=1e-9).fit(X)
    for image, k in ((3, 3), (0, 2), (5, 1)):
        others = as_array(X)[[i for i in range(n) if order[i] != image]]
        expected = paper_distance(others, as_array(grids())[image], ridge=1e-9)
        found = detector.anomaly_map(grids()[[image]])[0]
        np.testing.assert_allclose(found, expected * ((n - 1) / (n - k - 1)) ** 0.5, rtol=1e-4)


def test_maps_of_recognized_images_far_from_all_others_are_finite():
    X = PatchGrids.from_array(np.random.RandomState(0).normal(scale=1e3, size=(12, 3, 4, 60)))
    detector = PaDiMDetector(smoothing_sigma=0).fit(X)
    assert np.isfinite(detector.anomaly_map(X)).all()


def test_fitted_again_on_other_features():
    detector = PaDiMDetector(n_channels=5).fit(grids(d=6))
    again = detector.fit(grids(d=9)).score_samples(grids(2, d=9, seed=1))
    fresh = PaDiMDetector(n_channels=5).fit(grids(d=9)).score_samples(grids(2, d=9, seed=1))
    np.testing.assert_array_equal(again, fresh)


def test_smoothing_comes_before_the_score():
    X, new = grids(), grids(3, seed=1)
    rough = PaDiMDetector(smoothing_sigma=0).fit(X)
    smooth = PaDiMDetector(smoothing_sigma=1.0).fit(X)
    maps = smooth.anomaly_map(new)
    np.testing.assert_allclose(-smooth.score_samples(new), maps.max(axis=(1, 2)), rtol=1e-5)
    assert (maps.max(axis=(1, 2)) < rough.anomaly_map(new).max(axis=(1, 2))).all()


def test_channels_are_a_seeded_choice_and_nothing_else_counts():
    X, new = grids(d=9), grids(4, d=9, seed=1)
    first = PaDiMDetector(n_channels=4, random_state=0).fit(X)
    again = PaDiMDetector(n_channels=4, random_state=0).fit(X)
    other = PaDiMDetector(n_channels=4, random_state=1).fit(X)
    np.testing.assert_array_equal(first.channels_, again.channels_)
    np.testing.assert_array_equal(first.score_samples(new), again.score_samples(new))
    assert len(np.unique(first.channels_)) == 4
    assert not np.array_equal(first.channels_, other.channels_)
    ignored = np.setdiff1d(np.arange(9), first.channels_)
    changed = as_array(new)
    changed[..., ignored] = 1e3
    np.testing.assert_array_equal(
        first.score_samples(PatchGrids.from_array(changed.astype(np.float32))),
        first.score_samples(new),
    )


def test_the_papers_numbers_of_channels():
    assert len(PaDiMDetector().fit(grids(5, shape=(1, 1), d=448)).channels_) == 100
    assert len(PaDiMDetector().fit(grids(5, shape=(1, 1), d=1792)).channels_) == 550
    assert len(PaDiMDetector().fit(grids(5, shape=(1, 1), d=7)).channels_) == 7


def test_one_image_alone_scores_as_in_a_batch():
    detector = PaDiMDetector().fit(grids())
    new = grids(5, seed=1)
    alone = np.concatenate([detector.score_samples(new[[i]]) for i in range(5)])
    np.testing.assert_array_equal(alone, detector.score_samples(new))


def test_a_large_offset_of_the_features_costs_no_digits():
    X = np.random.RandomState(0).normal(size=(30, 3))
    scores = PaDiMDetector(smoothing_sigma=0).fit(X + 1000).training_scores_
    np.testing.assert_allclose(
        scores, PaDiMDetector(smoothing_sigma=0).fit(X).training_scores_, rtol=1e-3
    )


def test_another_grid_is_an_error_that_says_both():
    detector = PaDiMDetector().fit(grids())
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4, 4\)"):
        detector.score_samples(grids(2, shape=(4, 4)))


def test_too_few_different_images():
    with pytest.raises(TooFewImagesError, match="different"):
        PaDiMDetector().fit(grids(4)[[0, 1, 1, 1]])


@pytest.mark.filterwarnings("ignore:BackbonePatchFeatures")
def test_a_network_may_leave_out_channels_after_the_first_of_several_blocks():
    images = np.random.RandomState(0).randint(0, 255, size=(20, 48, 48, 3)).astype(np.uint8)
    features = BackbonePatchFeatures("resnet18", weights=None, resize=48, batch_size=4)
    detector = PaDiMDetector(features, n_channels=20).fit(images)
    assert len(detector.channels_) == 20
    all_at_once = PaDiMDetector(
        BackbonePatchFeatures("resnet18", weights=None, resize=48, batch_size=20), n_channels=20
    ).fit(images)
    np.testing.assert_array_equal(detector.training_scores_, all_at_once.training_scores_)
    np.testing.assert_array_equal(detector._composition.bank, all_at_once._composition.bank)
    np.testing.assert_array_equal(detector.predict(images * 0), -1)
