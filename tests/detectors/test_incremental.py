"""``partial_fit``: good images in parts are learned as all at once, and scores stay honest."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

import pyimgano
from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    SoftPatchDetector,
    SPADEDetector,
)
from pyimgano.exceptions import ImageFormatError, ImageReadError, UntrustedFileError
from pyimgano.features import FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.model_selection import anomaly_roc_auc
from pyimgano.testing import make_check_images
from pyimgano.tiling import TilingTransformer

pytestmark = pytest.mark.usefixtures("metrics_kept")

BOTH = pytest.mark.parametrize("cls", [PatchCoreDetector, PaDiMDetector])
# Copies of images within a part and of images of an earlier part.
COPIES = [0, 1, 2, 3, 4, 5, 6, 7, 2, 8, 9, 2, 0, 10, 11, 10, 12, 13]


def grids(n=30, shape=(3, 4), d=6, seed=0):
    return PatchGrids.from_array(np.random.RandomState(seed).normal(size=(n, *shape, d)))


def in_parts(detector, X, *ends):
    for start, stop in zip((0, *ends), (*ends, len(X))):
        detector.partial_fit(X[start:stop])
    return detector


# ---- PaDiM ----------------------------------------------------------------------------
@pytest.mark.parametrize("sigma", [0, 1.0])
@pytest.mark.parametrize("order", [range(18), COPIES], ids=["all different", "copies"])
def test_gaussians_in_parts_are_those_of_all_images(sigma, order):
    X, new = grids()[list(order)], grids(4, seed=1)
    once = PaDiMDetector(smoothing_sigma=sigma).fit(X)
    parts = in_parts(PaDiMDetector(smoothing_sigma=sigma), X, 9, 12)
    np.testing.assert_allclose(parts.training_scores_, once.training_scores_, rtol=1e-5)
    np.testing.assert_allclose(parts.score_samples(new), once.score_samples(new), rtol=1e-5)
    # Maps of recognized images leave all of their copies out, the old and the new ones.
    np.testing.assert_allclose(parts.anomaly_map(X), once.anomaly_map(X), rtol=1e-4)
    assert parts.offset_ == pytest.approx(once.offset_, rel=1e-5)
    assert parts._known == once._known


def test_few_kept_positions_say_nearly_what_all_say(monkeypatch):
    from pyimgano.detectors import _padim

    monkeypatch.setattr(_padim, "_FEWEST_KEPT", 16)
    rng = np.random.RandomState(0)
    X = PatchGrids.from_array(rng.normal(size=(60, 16, 16, 3)) * (1 + rng.rand(60, 1, 1, 1)))
    once = PaDiMDetector(smoothing_sigma=1).fit(X)
    parts = in_parts(PaDiMDetector(smoothing_sigma=1), X, 30)
    assert parts._kept_positions.shape == (60, 16)
    ratio = parts.training_scores_ / once.training_scores_
    assert 0.9 < ratio.min() <= ratio.max() < 1.05
    np.testing.assert_allclose(ratio[30:], 1, rtol=1e-5)  # the new ones are all there


def test_padim_takes_no_tiles_in_parts():
    tiles = TilingTransformer(tile=32).fit_transform(make_check_images(6, size=(64, 64)))
    detector = PaDiMDetector(FilterBankFeatures(resize=32)).fit(make_check_images(9)).fit(tiles)
    assert not any(name in vars(detector) for name in detector._for_more)
    with pytest.raises(ValueError, match="no images in tiles"):
        detector.partial_fit(tiles)


# ---- PatchCore ------------------------------------------------------------------------
def test_a_bank_grows_by_the_greedy_selection_among_new_patches():
    X = grids(12)
    detector = PatchCoreDetector(coreset_ratio=0.2).fit(X[:8])
    old = detector.bank_
    detector.partial_fit(X[8:])
    np.testing.assert_array_equal(detector.bank_[: len(old)], old)
    bank, new = list(old), X[8:].rows
    while len(bank) < round(0.2 * len(X.rows)):
        bank.append(new[cdist(new, bank).min(axis=1).argmax()])
    np.testing.assert_array_equal(detector.bank_, bank)
    for row, image in zip(detector.bank_, detector.bank_image_):
        assert (X[int(image)].rows == row).all(axis=1).any()
    assert detector.coreset_radius_ >= cdist(X.rows, detector.bank_).min(axis=1).max() - 1e-6


def test_scores_are_those_of_a_model_in_parts_without_the_image():
    rng = np.random.RandomState(0)
    # Images of which each has a look of its own, some more than others.
    own = rng.normal(size=(24, 1, 1, 4)) * rng.rand(24, 1, 1, 1)
    X = PatchGrids.from_array(rng.normal(size=(24, 6, 6, 4)) / 2 + own)
    detector = in_parts(PatchCoreDetector(coreset_ratio=0.2), X, 8, 16)
    honest = []
    for i in range(24):
        rest = [X[[j for j in range(a, a + 8) if j != i]] for a in (0, 8, 16)]
        without = PatchCoreDetector(coreset_ratio=0.2)
        for part in rest:
            without.partial_fit(part)
        honest.append(-without.score_samples(X[[i]])[0])
    ratio = detector.training_scores_ / honest
    assert np.corrcoef(detector.training_scores_, honest)[0, 1] > 0.95
    assert 0.95 < ratio.mean() < 1.05
    assert ratio.std() < 0.1


def test_bank_of_all_patches_in_parts():
    X, new = grids(12), grids(4, seed=1)
    once = PatchCoreDetector(coreset_ratio=1.0).fit(X)
    parts = in_parts(PatchCoreDetector(coreset_ratio=1.0), X, 5, 6)
    np.testing.assert_array_equal(parts.bank_, once.bank_)
    np.testing.assert_array_equal(parts.score_samples(new), once.score_samples(new))
    np.testing.assert_allclose(parts.training_scores_, once.training_scores_, rtol=1e-6)


def test_a_full_bank_is_selected_anew():
    X = grids(40, seed=3)
    detector = in_parts(PatchCoreDetector(coreset_ratio=0.5, max_bank_patches=30), X, 10, 20, 30)
    assert len(detector.bank_) == 30
    assert (detector.bank_image_ >= 10).any()
    assert detector.coreset_radius_ >= cdist(X.rows, detector.bank_).min(axis=1).max() - 1e-6
    unseen = -detector.score_samples(grids(200, seed=4))
    level = np.quantile(detector.training_scores_, 0.8)
    assert 0.1 < np.mean(unseen > level) < 0.3


def test_rows_one_at_a_time():
    rows = np.random.RandomState(0).normal(size=(60, 3))
    detector = PatchCoreDetector(coreset_ratio=0.2).fit(rows[:30])
    for i in range(30, 60):
        detector.partial_fit(rows[i : i + 1])
    once = PatchCoreDetector(coreset_ratio=0.2).fit(rows)
    assert len(detector.bank_) == len(once.bank_) == 12
    found = np.sort(detector.training_scores_) / np.sort(once.training_scores_)
    assert 0.8 < np.median(found) < 1.2


def test_images_in_tiles_in_parts():
    images = make_check_images(16, size=(64, 64))
    step = FrozenEstimator(FilterBankFeatures(resize=32).fit(images))
    tiles = TilingTransformer(tile=32, score_reduce="mean").fit_transform(images)
    detector = PatchCoreDetector(step, coreset_ratio=1.0).fit(tiles[:8])
    detector.partial_fit(tiles[[8, 3, 9]]).partial_fit(tiles[10:])
    # Counted as they came: the image 3 once more as number 9.
    order = [*range(9), 3, *range(9, 16)]
    once = PatchCoreDetector(step, coreset_ratio=1.0).fit(tiles[order])
    np.testing.assert_allclose(detector.training_scores_, once.training_scores_, rtol=0.02)
    assert detector.training_scores_[9] == detector.training_scores_[3]
    assert -detector.score_samples(tiles[[3]])[0] == detector.training_scores_[3]


# ---- both -----------------------------------------------------------------------------
@BOTH
def test_copies_of_known_images_join_them(cls):
    X = grids()[COPIES]
    parts = in_parts(cls(), X, 9, 12)
    for copy, first in ((8, 2), (11, 2), (12, 0), (15, 13)):
        assert parts.training_scores_[copy] == parts.training_scores_[first]
    np.testing.assert_array_equal(-parts.score_samples(X), parts.training_scores_)
    assert sorted(set(parts._known.values())) == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 14, 16, 17]
    # The reference of images as a whole counts copies as well, as after a fit.
    once = cls().fit(X)
    assert parts._composition_limit == pytest.approx(once._composition_limit)
    np.testing.assert_array_equal(parts._composition.bank_group, once._composition.bank_group)


@BOTH
def test_new_images_that_are_all_known_change_no_bank(cls):
    X = grids(12)
    detector = cls().fit(X)
    before = detector.training_scores_.copy()
    detector.partial_fit(X[[3, 4]])
    np.testing.assert_array_equal(
        detector.training_scores_[[12, 13]], detector.training_scores_[[3, 4]]
    )
    if cls is PatchCoreDetector:
        np.testing.assert_allclose(detector.training_scores_[:12], before, rtol=0.2)


@BOTH
def test_known_anomalies_are_left_out(cls):
    X = grids(14)
    labeled = cls().fit(X[:8]).partial_fit(X[8:], [1, -1, 1, -1, 1, 1])
    plain = cls().fit(X[:8]).partial_fit(X[[8, 10, 12, 13]])
    np.testing.assert_array_equal(labeled.training_scores_, plain.training_scores_)
    with pytest.raises(ValueError, match="no normal sample"):
        labeled.partial_fit(X[:2], [-1, -1])


@BOTH
def test_an_error_leaves_the_model_as_it_was(cls, tmp_path):
    images = make_check_images(8)
    detector = cls(FilterBankFeatures(resize=32)).fit(images)
    new = make_check_images(3, random_state=1)
    before, state = detector.score_samples(new), dict(vars(detector))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageReadError):
        detector.partial_fit([str(broken)])
    assert all(vars(detector)[name] is value for name, value in state.items())
    np.testing.assert_array_equal(detector.score_samples(new), before)


@BOTH
def test_input_is_of_the_kind_of_fit(cls):
    detector = cls().fit(grids())
    with pytest.raises(ImageFormatError, match="fitted on patch grids"):
        detector.partial_fit(np.zeros((3, 6)))
    with pytest.raises(ValueError, match="5 features per patch"):
        detector.partial_fit(grids(d=5))


@BOTH
def test_the_region_of_fit_holds(cls):
    images, mask = make_check_images(12), np.zeros((48, 64), bool)
    mask[:, 32:] = True
    detector = cls(FilterBankFeatures(resize=32)).fit(images[:8], roi_mask=mask)
    outside = images[8:].copy()
    outside[:, :, :16] = 0
    found = [
        clone(detector).fit(images[:8], roi_mask=mask).partial_fit(X) for X in (images[8:], outside)
    ]
    assert [len(one._known) for one in found] == [12, 12]
    assert found[0]._known == found[1]._known  # what lies outside is not looked at
    with pytest.raises(ImageFormatError, match="roi_mask has 48 x 64 pixels"):
        detector.partial_fit(make_check_images(2, size=(32, 32)))


@BOTH
def test_parameters_set_after_fit_wait_for_the_next_fit(cls):
    X = grids()
    detector = cls(contamination=0.1).fit(X[:15]).set_params(contamination=0.5)
    with pytest.warns(UserWarning, match="contamination"):
        detector.partial_fit(X[15:])
    assert detector.offset_ == -np.percentile(detector.training_scores_, 90)
    assert detector.contamination == 0.5


@BOTH
def test_a_loaded_model_goes_on_where_the_saved_one_does(cls, tmp_path):
    X = grids()
    detector = in_parts(cls(), X[:20], 10)
    pyimgano.save(detector, tmp_path / "a.joblib")
    again = pyimgano.load(tmp_path / "a.joblib").partial_fit(X[20:])
    np.testing.assert_array_equal(
        again.training_scores_, detector.partial_fit(X[20:]).training_scores_
    )


@BOTH
def test_a_file_with_half_of_what_is_kept_is_refused(cls, tmp_path):
    detector = cls().fit(grids())
    del detector._kept_group
    with pytest.raises(UntrustedFileError, match="lacks the rest"):
        pickle.loads(pickle.dumps(detector))
    pyimgano.save(cls().fit(grids(9, d=3)), tmp_path / "a.joblib")
    # Nothing of an earlier fit is left over.
    assert len(pyimgano.load(tmp_path / "a.joblib").fit(grids())._kept_group) == 30


@BOTH
def test_a_model_of_an_earlier_version_says_what_it_lacks(cls):
    detector = cls().fit(grids())
    for name in list(vars(detector)):
        if name in detector._for_more:
            delattr(detector, name)
    detector.score_samples(grids(2))
    with pytest.raises(ValueError, match="without partial_fit"):
        detector.partial_fit(grids(2, seed=1))


@pytest.mark.usefixtures("cross_fit")
def test_a_step_that_has_learned_from_old_images_suits_no_new_ones():
    noise = np.random.RandomState(0).randint(0, 256, size=(60, 48, 48, 3)).astype(np.uint8)
    detector = PatchCoreDetector(FilterBankFeatures(resize=48)).fit(noise[:10])
    assert detector.features_.overfits_
    detector.partial_fit(noise[10:20])
    unseen = -detector.score_samples(noise[20:])
    old, new = detector.training_scores_[:10], detector.training_scores_[10:]
    assert np.mean(old) == pytest.approx(np.mean(unseen), rel=0.05)
    assert np.mean(new) == pytest.approx(np.mean(unseen), rel=0.05)
    levels = detector.held_out_map_levels(noise[[0, 15]])
    assert levels[0] is not None and levels[1] is None


@pytest.mark.parametrize("cls", [SoftPatchDetector, SPADEDetector, AnomalyDINODetector])
def test_other_detectors_have_no_partial_fit(cls):
    assert not hasattr(cls(), "partial_fit")


@BOTH
def test_real_parts_in_five_parts(cls, shared_data):
    from pyimgano.datasets import load_folder

    data = load_folder(shared_data / "data", "bottle256")
    step = FilterBankFeatures(resize=48).fit(data.X_train[:40])
    train = step.transform(data.X_train[:60])
    test = np.r_[0:12, 30:42, 50:56]
    X, y = step.transform(data.X_test[test]), data.y_test[test]
    once, parts = cls().fit(train), in_parts(cls(), train, 12, 24, 36, 48)
    assert anomaly_roc_auc(parts, X, y) >= anomaly_roc_auc(once, X, y) - 0.02
    assert np.corrcoef(once.score_samples(X), parts.score_samples(X))[0, 1] > 0.99
    # Two banks from other seeds agree little better: 0.83.
    assert np.corrcoef(once.training_scores_, parts.training_scores_)[0, 1] > 0.7
    ratio = parts.training_scores_.mean() / once.training_scores_.mean()
    assert ratio == pytest.approx(1, abs=0.08)
    assert parts.offset_ / once.offset_ == pytest.approx(1, abs=0.1)
