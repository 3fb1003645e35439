"""SoftPatchDetector: what is unusual at its position is not learned, or learned with a weight."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.neighbors import LocalOutlierFactor

from pyimgano.detectors import PatchCoreDetector, SoftPatchDetector
from pyimgano.detectors._softpatch import _Neighbors
from pyimgano.exceptions import TooFewImagesError
from pyimgano.grids import PatchGrids


def grids(n=20, shape=(3, 4), d=6, seed=0):
    return PatchGrids.from_array(np.random.RandomState(seed).normal(size=(n, *shape, d)))


def noisy_grids(n=30, n_noise=3, seed=0):
    """Each position has a level of its own; noise is three defective patches in some images."""
    rng = np.random.RandomState(seed)
    features = rng.normal(size=(1, 3, 4, 5)) * 5 + rng.normal(size=(n, 3, 4, 5))
    features[n - n_noise :, 1, :3] += 8
    return PatchGrids.from_array(features)


def relative(outlier):
    """Outlier scores over the median of their position; ``outlier (n, n_positions)``."""
    return outlier / np.median(outlier, axis=0)


def by_position(X, score):
    return np.stack(
        [score(X.features.reshape(len(X), -1, X.n_features)[:, p]) for p in range(12)], axis=1
    )


@pytest.mark.parametrize("k", [1, 3, 6])
def test_lof_weights_are_scikit_learns(k):
    X = grids()

    def score(rows):
        return -LocalOutlierFactor(n_neighbors=k).fit(rows).negative_outlier_factor_

    detector = SoftPatchDetector(lof_neighbors=k).fit(X)
    np.testing.assert_allclose(detector.patch_weight_, relative(by_position(X, score)), rtol=1e-5)


def test_nearest_weights_are_distances_to_the_nearest_other():
    X = grids()

    def score(rows):
        return np.sort(cdist(rows, rows), axis=1)[:, 1]

    detector = SoftPatchDetector(discriminator="nearest").fit(X)
    expected = (1 + relative(by_position(X, score))) / 2
    np.testing.assert_allclose(detector.patch_weight_, expected, rtol=1e-5)


@pytest.mark.parametrize("n", [4, 20])  # fewer and more images than features
def test_gaussian_weights_are_mahalanobis_distances(n):
    X = grids(n)

    def score(rows):
        away = rows - rows.mean(axis=0)
        covariance = np.cov(rows, rowvar=False)
        covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        return np.sqrt(np.einsum("ij,jk,ik->i", away, np.linalg.inv(covariance), away))

    detector = SoftPatchDetector(discriminator="gaussian").fit(X)
    expected = (1 + relative(by_position(X, score))) / 2
    np.testing.assert_allclose(detector.patch_weight_, expected, rtol=1e-4)


def test_the_worst_patches_are_dropped():
    X = grids()
    detector = SoftPatchDetector(drop_ratio=0.15, coreset_ratio=1.0).fit(X)
    assert detector.dropped_.sum() == int(0.15 * 240)
    assert (
        detector.patch_weight_[detector.dropped_].min()
        >= detector.patch_weight_[~detector.dropped_].max()
    )
    kept = X.rows[~detector.dropped_.ravel()]
    assert {tuple(row) for row in detector.bank_} == {tuple(row) for row in kept}


def test_the_bank_keeps_the_weights():
    X = grids()
    detector = SoftPatchDetector(coreset_ratio=0.3).fit(X)
    row = [int(np.flatnonzero((X.rows == patch).all(axis=1))[0]) for patch in detector.bank_]
    np.testing.assert_array_equal(detector.bank_weight_, detector.patch_weight_.ravel()[row])


def soft_score(rows, bank, weight, b):
    """Patch scores, and the image's score as in PatchCore, from the definitions."""
    distance = cdist(rows, bank)
    nearest = distance.argmin(axis=1)
    patch = distance.min(axis=1) * weight[nearest]
    worst = patch.argmax()
    around = np.argsort(cdist(bank[nearest[worst]][None], bank)[0], kind="stable")[:b]
    away = distance[worst, around] - distance[worst].min()
    return patch, patch[worst] * (1 - 1 / np.exp(away).sum() if b > 1 else 1)


@pytest.mark.parametrize("b", [1, 9])
@pytest.mark.parametrize("discriminator", ["lof", "nearest", "gaussian"])
def test_weights_scale_the_distances(discriminator, b):
    detector = SoftPatchDetector(
        discriminator=discriminator, coreset_ratio=0.3, n_neighbors=b, smoothing_sigma=0
    ).fit(grids())
    new = grids(4, seed=1)
    patch, score = zip(
        *(
            soft_score(rows, detector.bank_, detector.bank_weight_, b)
            for rows in new.as_image_rows()
        )
    )
    np.testing.assert_allclose(-detector.score_samples(new), score, rtol=1e-6)
    np.testing.assert_allclose(detector.anomaly_map(new), np.reshape(patch, (4, 3, 4)), rtol=1e-5)


@pytest.mark.parametrize("ratio", [0.1, 1.0])
@pytest.mark.parametrize("discriminator", ["lof", "nearest"])
def test_training_scores_are_those_of_a_refilled_bank_without_the_image(discriminator, ratio):
    X = noisy_grids()
    detector = SoftPatchDetector(discriminator=discriminator, coreset_ratio=ratio).fit(X)
    kept = ~detector.dropped_.ravel()
    picks = [int(np.flatnonzero((X.rows == row).all(axis=1))[0]) for row in detector.bank_]
    for i in range(len(X)):
        rest = np.delete(np.arange(len(X)), i)
        weight = np.empty((len(X), 12))  # the image has no say in the weights of the others
        weight[rest] = clone(detector).fit(X[rest]).patch_weight_
        others = np.flatnonzero(kept & (X.image_of_row != i))
        bank = [p for p in picks if X.image_of_row[p] != i]
        while len(bank) < min(len(picks), len(others)):
            bank.append(others[cdist(X.rows[others], X.rows[bank]).min(axis=1).argmax()])
        rows = X.rows[X.image_of_row == i]
        _, expected = soft_score(rows, X.rows[bank], weight.ravel()[bank], 9)
        assert detector.training_scores_[i] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_training_scores_where_hardly_an_image_is_left_to_compare_with(n):
    detector = SoftPatchDetector(coreset_ratio=1.0, drop_ratio=0.0).fit(noisy_grids(n, 1))
    assert np.isfinite(detector.training_scores_).all()
    assert (detector.training_scores_ > 0).all()


@pytest.mark.parametrize("lof", [True, False])
@pytest.mark.parametrize("sizes", [(20, 4, 4), (1, 1, 1, 1), (3, 1, 5, 2)])
def test_outliers_without_a_group_are_those_of_the_rest_alone(sizes, lof):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    grid = np.random.RandomState(0).normal(size=(len(groups), 4, 3)).astype(np.float32)
    k = min(6, len(groups) - max(sizes))
    all_of_them = _Neighbors(grid, groups, k, lof)
    for group in range(len(sizes)):
        rest = groups != group
        expected = _Neighbors(grid[rest], groups[rest], k, lof).outliers()
        np.testing.assert_allclose(all_of_them.outliers(group)[rest], expected, rtol=1e-12)


def test_copies_are_left_out_of_the_weights_together():
    """Two copies of each of some images: scores without one are those without both."""
    X = noisy_grids(12, 2)
    twice = PatchGrids.concatenate([X, X[[3, 5]]])
    alone, copied = (
        SoftPatchDetector(coreset_ratio=1.0, drop_ratio=0.0, n_neighbors=1)
        .fit(one)
        .training_scores_
        for one in (X, twice)
    )
    np.testing.assert_allclose(copied, np.concatenate([alone, alone[[3, 5]]]), rtol=1e-6)


def test_noise_in_training_is_not_learned():
    mixed, new = noisy_grids(), noisy_grids(seed=0)
    soft = SoftPatchDetector(coreset_ratio=1.0).fit(mixed)
    assert soft.dropped_.reshape(30, 3, 4)[27:, 1, :3].all()
    defect = np.random.RandomState(5).normal(size=(2, 3, 4, 5)) + new.features[:27].mean(axis=0)
    defect[:, 1, :3] += 8
    defect = PatchGrids.from_array(defect)
    plain = PatchCoreDetector(coreset_ratio=1.0).fit(mixed)
    good = PatchGrids.from_array(
        np.random.RandomState(6).normal(size=(20, 3, 4, 5)) + new.features[:27].mean(axis=0)
    )
    margins = [
        (-d.score_samples(defect)).min() - (-d.score_samples(good)).max() for d in (soft, plain)
    ]
    assert margins[0] > 0 > margins[1]


def test_without_dropping_and_equal_weights_it_is_patchcore():
    # Two images: each is the other's only neighbor, so no patch is more of an outlier.
    X = grids(2)
    soft = SoftPatchDetector(drop_ratio=0, coreset_ratio=0.5).fit(X)
    plain = PatchCoreDetector(coreset_ratio=0.5).fit(X)
    np.testing.assert_allclose(soft.bank_weight_, 1.0)
    new = grids(5, seed=1)
    np.testing.assert_allclose(soft.score_samples(new), plain.score_samples(new), rtol=1e-6)
    np.testing.assert_allclose(soft.training_scores_, plain.training_scores_, rtol=1e-6)


def test_copies_of_a_defect_do_not_vouch_for_each_other():
    X = noisy_grids(n_noise=1)
    copied = X[[*range(30), *[29] * 8]]
    once, often = SoftPatchDetector().fit(X), SoftPatchDetector().fit(copied)
    np.testing.assert_array_equal(often.patch_weight_[:30], once.patch_weight_)
    np.testing.assert_array_equal(often.patch_weight_[30:], once.patch_weight_[[29] * 8])
    assert (often.training_scores_[29:] == often.training_scores_[29]).all()
    assert often.training_scores_[29] > np.median(often.training_scores_)


@pytest.mark.parametrize("discriminator", ["lof", "nearest", "gaussian"])
def test_positions_where_all_images_agree(discriminator):
    features = np.random.RandomState(0).normal(size=(15, 2, 3, 4))
    features[:, 0, 0] = 1.0  # a saturated corner
    features[3:, 0, 1] = 2.0  # most are equal
    X = PatchGrids.from_array(features)
    detector = SoftPatchDetector(discriminator=discriminator).fit(X)
    assert np.isfinite(detector.patch_weight_).all()
    assert np.isfinite(detector.training_scores_).all()
    np.testing.assert_array_equal(detector.patch_weight_[:, 0], 1.0)
    assert detector.dropped_[:3, 1].all()


def test_grids_of_different_shapes_have_no_common_positions():
    X = PatchGrids.concatenate([grids(4), grids(4, shape=(4, 3))])  # as many patches
    with pytest.raises(ValueError, match=r"\(3, 4\).* image 4 has \(4, 3\).*fixed resize"):
        SoftPatchDetector().fit(X)


def test_new_images_may_have_other_grids():
    detector = SoftPatchDetector().fit(grids())
    assert detector.anomaly_map(grids(2, shape=(5, 2)))[0].shape == (5, 2)


def test_dropping_all_but_one_image_is_an_error():
    X = PatchGrids.from_array(np.r_[np.zeros((3, 1, 1, 2)), [[[[9.0, 9.0]]]]])
    with pytest.raises(TooFewImagesError, match="drop_ratio"):
        SoftPatchDetector(drop_ratio=0.9).fit(grids(4, shape=(1, 1)))
    with pytest.raises(TooFewImagesError, match="copies of one"):
        SoftPatchDetector().fit(X[[0, 1, 2]])


def test_repeated_fits_agree():
    X, new = noisy_grids(), grids(3, d=5, seed=3)
    first, second = (SoftPatchDetector().fit(X).score_samples(new) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "wrong", [{"discriminator": "knn"}, {"lof_neighbors": 0}, {"drop_ratio": 1.0}]
)
def test_wrong_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SoftPatchDetector(**wrong).fit(grids())
