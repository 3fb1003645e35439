"""Mutual scoring: images of an unlabeled set score each other."""

from __future__ import annotations

import numpy as np
import pytest

from pyimgano.detectors import MutualScoringDetector
from pyimgano.detectors._musc import _averaged
from pyimgano.exceptions import TooFewImagesError
from pyimgano.features import FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.tiling import TilingTransformer

WHOLE = {"coreset_ratio": 1.0, "projection_dim": None}


def make_grids(n=10, seed=0, shape=(4, 5), width=3):
    features = np.random.RandomState(seed).normal(size=(n, *shape, width))
    return PatchGrids.from_array(features.astype(np.float32))


def by_definition(grids, own, references, fraction, neighborhoods):
    """The paper's formula, in plain loops over one image's patches and the references."""
    total = np.zeros(len(grids[own].rows))
    for size in neighborhoods:
        h, w = grids.grid_shapes[0]
        means = []
        for image in grids.features.astype(np.float64):
            half = size // 2
            means.append(
                [
                    image[max(0, r - half) : r + half + 1, max(0, c - half) : c + half + 1].mean(
                        axis=(0, 1)
                    )
                    for r in range(h)
                    for c in range(w)
                ]
            )
        means = np.array(means)
        others = [j for j in references if j != own]
        nearest = [
            np.linalg.norm(means[own][:, None] - means[j][None], axis=2).min(axis=1) for j in others
        ]
        k = max(3, round(fraction * len(others)))
        total += np.sort(nearest, axis=0)[:k].mean(axis=0)
    return total / len(neighborhoods)


@pytest.mark.parametrize("max_references", [10, 6])
def test_scores_follow_the_definition(max_references):
    grids = make_grids()
    detector = MutualScoringDetector(
        nearest_fraction=0.4, neighborhoods=(1, 3), max_references=max_references, **WHOLE
    ).fit(grids)
    assert len(detector.references_) == max_references
    heat = detector.set_params(smoothing_sigma=0).fit(grids).anomaly_map(grids)
    for i in range(10):
        expected = by_definition(grids, i, detector.references_, 0.4, (1, 3))
        assert detector.training_scores_[i] == pytest.approx(expected.max(), rel=1e-5)
        np.testing.assert_allclose(heat[i].ravel(), expected, rtol=1e-5)
    new = make_grids(1, seed=1)
    both = PatchGrids.concatenate([grids, new])
    expected = by_definition(both, 10, detector.references_, 0.4, (1, 3)).max()
    assert -detector.score_samples(new)[0] == pytest.approx(expected, rel=1e-5)


def test_copies_do_not_vouch_for_each_other():
    grids = make_grids(12)
    odd = PatchGrids(grids.rows[:20] + 5.0, grids.grid_shapes[:1])
    once = MutualScoringDetector(**WHOLE).fit(PatchGrids.concatenate([grids, odd]))
    twice = MutualScoringDetector(**WHOLE).fit(PatchGrids.concatenate([odd, grids, odd, odd]))
    assert len(twice.references_) == 13
    assert twice.training_scores_[0] == twice.training_scores_[13] == twice.training_scores_[14]
    assert twice.training_scores_[0] == pytest.approx(once.training_scores_[12])


def test_a_few_alike_do_not_pass_as_good_and_many_do():
    rng = np.random.RandomState(0)
    good, kind = rng.normal(size=(40, 2)), rng.normal(size=(4, 2)) * 0.01 + [9.0, 0.0]
    few = MutualScoringDetector(nearest_fraction=0.2).fit(np.concatenate([good, kind[:4]]))
    assert set(np.argsort(few.training_scores_)[-4:]) == {40, 41, 42, 43}
    many = MutualScoringDetector(nearest_fraction=0.05).fit(np.concatenate([good, kind]))
    assert not set(np.argsort(many.training_scores_)[-4:]) & {40, 41, 42, 43}


def test_the_threshold_is_not_moved_by_defects():
    rng = np.random.RandomState(0)
    good, bad = rng.normal(size=(60, 4)), rng.normal(size=(12, 4)) * 3 + rng.choice([-20, 20], 4)
    detector = MutualScoringDetector(nearest_fraction=0.3)
    labels = detector.fit_predict(np.concatenate([good, bad]))
    assert (labels[60:] == -1).all() and (labels[:60] == -1).mean() < 0.1
    detector.set_params(contamination=0.25)
    share = detector.fit_predict(np.concatenate([good, bad]))
    assert (share == -1).sum() == 18


def test_neighborhoods_end_at_the_border_and_at_the_region():
    values = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    mask = np.ones((3, 4), bool)
    mask[0, 1] = mask[2, 2] = False
    grids = PatchGrids.from_array(values).within(mask)
    found = grids.as_grid(_averaged(grids, 3)[:, 0])[0]
    assert found[0, 0] == pytest.approx((0 + 4 + 5) / 3)
    assert found[1, 1] == pytest.approx((0 + 2 + 4 + 5 + 6 + 8 + 9) / 7)
    assert found[2, 3] == pytest.approx((6 + 7 + 11) / 3)


def test_tiles_are_compared_with_whole_images():
    images = np.random.RandomState(0).randint(0, 255, size=(6, 24, 48, 3)).astype(np.uint8)
    tiles = TilingTransformer(tile=24, stride=24).fit(images).transform(images)
    step = FilterBankFeatures(resize=32, n_components=4)
    detector = MutualScoringDetector(step, neighborhoods=(1,), **WHOLE).fit(tiles)
    assert len(detector.references_) == 6 == len(detector.training_scores_)
    # Two tiles of 24 pixels, so a reference holds the patches of both.
    one_tile = detector.features_.transform(images[:1, :, :24]).rows
    assert {len(search.bank) for search in detector._searches[0]} == {2 * len(one_tile)}


@pytest.mark.parametrize("neighborhoods", [(), (2,), (1, 0), (1.0,), ("3",)])
def test_neighborhoods_are_odd_numbers(neighborhoods):
    with pytest.raises(ValueError, match="odd numbers of patches"):
        MutualScoringDetector(neighborhoods=neighborhoods).fit(np.eye(4))


def test_copies_of_one_image_are_too_few():
    with pytest.raises(TooFewImagesError, match="copies of one"):
        MutualScoringDetector().fit(np.ones((5, 3)))
