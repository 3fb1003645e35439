"""PatchCoreDetector: faithful to the paper, honest about its training images."""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline

from pyimgano.detectors import PatchCoreDetector, _bank, _patches
from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.features import FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.model_selection import anomaly_roc_auc
from pyimgano.testing import make_check_images
from pyimgano.utils import _progress

pytestmark = pytest.mark.usefixtures("metrics_kept")


def grids(n=10, shape=(3, 4), d=6, seed=0):
    return PatchGrids.from_array(np.random.RandomState(seed).normal(size=(n, *shape, d)))


def paper_score(rows, bank, b):
    """Image score as in the paper's equations 6 and 7, from the definition."""
    distance = cdist(rows, bank)
    worst = distance.min(axis=1).argmax()
    nearest = distance[worst].argmin()
    around = np.argsort(cdist(bank[nearest][None], bank)[0], kind="stable")[:b]
    soft = np.exp(distance[worst, nearest]) / np.exp(distance[worst, around]).sum()
    return (1 - soft) * distance[worst, nearest]


@pytest.mark.parametrize("b", [2, 9])
def test_score_is_the_papers(b):
    detector = PatchCoreDetector(coreset_ratio=0.3, n_neighbors=b).fit(grids())
    new = grids(4, seed=1)
    expected = [paper_score(rows, detector.bank_, b) for rows in new.as_image_rows()]
    np.testing.assert_allclose(-detector.score_samples(new), expected, rtol=1e-6)


def test_without_reweighting_the_score_is_the_largest_distance():
    detector = PatchCoreDetector(coreset_ratio=0.3, n_neighbors=1).fit(grids())
    new = grids(4, seed=1)
    expected = [cdist(rows, detector.bank_).min(axis=1).max() for rows in new.as_image_rows()]
    np.testing.assert_allclose(-detector.score_samples(new), expected, rtol=1e-6)


def test_map_holds_the_patch_distances():
    detector = PatchCoreDetector(coreset_ratio=0.3, smoothing_sigma=0).fit(grids())
    new = grids(2, seed=1)
    expected = cdist(new.rows, detector.bank_).min(axis=1).reshape(2, 3, 4)
    np.testing.assert_allclose(detector.anomaly_map(new), expected, rtol=1e-6)


def plain_greedy(points, n_picks, kept, candidates):
    """Indices of a greedy k-center selection among ``candidates`` that goes on from ``kept``."""
    picks = list(kept)
    while len(picks) < n_picks:
        distance = cdist(points[candidates], points[picks]).min(axis=1)
        picks.append(candidates[int(distance.argmax())])
    return picks


def test_bank_is_the_greedy_selection():
    X = grids()
    detector = PatchCoreDetector(coreset_ratio=0.2).fit(X)
    first = np.flatnonzero((X.rows == detector.bank_[0]).all(axis=1))[0]
    expected = plain_greedy(X.rows, 24, [first], list(range(120)))
    np.testing.assert_array_equal(detector.bank_, X.rows[expected])
    np.testing.assert_array_equal(detector.bank_image_, X.image_of_row[expected])
    radius = cdist(X.rows, detector.bank_).min(axis=1).max()
    assert detector.coreset_radius_ == pytest.approx(radius, rel=1e-5)


@pytest.mark.parametrize(
    ("X", "ratio"),
    [
        (grids(8), 0.25),
        # Patches are measured in the order of bounds, until none is above the worst one found.
        # In these the worst is neither among the first measured nor far above them.
        (grids(6, (8, 8), 3, seed=2), 0.05),
        (grids(6, (8, 8), 6, seed=1), 0.05),
    ],
    ids=["few patches", "many patches", "many features"],
)
def test_training_scores_are_against_a_refilled_bank_without_the_image(X, ratio):
    detector = PatchCoreDetector(coreset_ratio=ratio).fit(X)
    picks = [int(np.flatnonzero((X.rows == row).all(axis=1))[0]) for row in detector.bank_]
    for i in range(len(X)):
        others = np.flatnonzero(X.image_of_row != i)
        kept = [p for p in picks if X.image_of_row[p] != i]
        bank = X.rows[plain_greedy(X.rows, len(picks), kept, list(others))]
        expected = paper_score(X.rows[X.image_of_row == i], bank, 9)
        assert detector.training_scores_[i] == pytest.approx(expected, rel=1e-6)


def test_copies_of_an_image_are_left_out_together():
    X = grids(9)
    doubled = X[[0, 1, 2, 3, 4, 5, 6, 7, 8, 3]]
    scores = PatchCoreDetector(coreset_ratio=1.0).fit(doubled).training_scores_
    assert scores[3] == scores[9]
    assert scores[3] > 0.5 * np.median(scores)  # one copy beside the other would score 0


def test_all_images_equal_is_an_error():
    with pytest.raises(TooFewImagesError, match="copies of one"):
        PatchCoreDetector().fit(grids(4)[[0, 0, 0]])


def test_training_scores_look_like_those_of_unseen_images():
    rng = np.random.RandomState(0)
    rows = rng.normal(size=(600, 4))
    for ratio in (0.02, 0.1, 0.5):
        detector = PatchCoreDetector(coreset_ratio=ratio).fit(rows[:300])
        unseen = -detector.score_samples(rows[300:])
        level = np.quantile(detector.training_scores_, 0.9)
        assert 0.05 <= np.mean(unseen > level) <= 0.16, ratio


def test_a_known_image_is_recognized_in_any_guise():
    images = make_check_images(8)
    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=1.0).fit(images)
    expected = -detector.training_scores_[2]
    assert detector.score_samples([images[2].copy()])[0] == expected
    changed = images[2].copy()
    changed[0, 0] ^= 1
    assert detector.score_samples([changed])[0] > expected  # one bit off: scored as new


def test_contamination_is_met_on_the_training_images():
    rows = np.random.RandomState(0).normal(size=(200, 3))
    assert (PatchCoreDetector(contamination=0.1).fit_predict(rows) == -1).sum() == 20
    auto = PatchCoreDetector().fit(rows)
    assert auto.offset_ == -np.quantile(auto.training_scores_, 0.995)


def test_step_of_its_own_equals_step_inside():
    images = make_check_images(8)
    inside = PatchCoreDetector(FilterBankFeatures(resize=64)).fit(images)
    pipe = make_pipeline(FilterBankFeatures(resize=64), PatchCoreDetector()).fit(images)
    new = make_check_images(3, random_state=1)
    np.testing.assert_array_equal(inside.score_samples(new), pipe.score_samples(new))


def test_grid_search_over_a_pipeline():
    images = np.concatenate([make_check_images(12), make_check_images(6, defect=True)])
    y = np.array([1] * 12 + [-1] * 6)
    search = GridSearchCV(
        make_pipeline(
            ImageFormatNormalizer(input_format="bgr_u8_hwc"),
            PatchCoreDetector(FilterBankFeatures(resize=64)),
        ),
        {"patchcoredetector__coreset_ratio": [0.01, 0.1]},
        scoring=anomaly_roc_auc,
        cv=StratifiedKFold(3),
    ).fit(images, y)
    assert search.best_score_ > 0.9


def test_bank_of_one_patch_works():
    detector = PatchCoreDetector(coreset_ratio=1e-9).fit(grids())
    assert detector.bank_.shape == (1, 6)
    assert np.isfinite(detector.score_samples(grids())).all()
    assert np.isfinite(detector.anomaly_map(grids())).all()


def test_far_away_rows_get_finite_scores():
    rows = np.random.RandomState(0).normal(size=(60, 3)) * 1e4
    scores = PatchCoreDetector().fit(rows).score_samples(rows + 1e6)
    assert np.isfinite(scores).all()


def test_grids_of_different_shapes():
    X = PatchGrids.concatenate([grids(4), grids(4, shape=(2, 5), seed=2)])
    detector = PatchCoreDetector(coreset_ratio=0.5).fit(X)
    assert [m.shape for m in detector.anomaly_map(X)] == [(3, 4)] * 4 + [(2, 5)] * 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"coreset_ratio": 0},
        {"coreset_ratio": 1.5},
        {"n_neighbors": 0},
        {"projection_dim": 0},
        {"smoothing_sigma": -1},
        {"contamination": 0.6},
        {"features": 3},
    ],
)
def test_wrong_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PatchCoreDetector(**wrong).fit(grids())


def test_wrong_number_of_features_is_an_error():
    detector = PatchCoreDetector().fit(grids())
    with pytest.raises(ValueError, match="5 features per patch"):
        detector.score_samples(grids(d=5))
    with pytest.raises(ImageFormatError, match="fitted on patch grids"):
        detector.score_samples(np.zeros((3, 6)))


def test_grids_that_are_not_finite_are_refused():
    bad = grids()
    bad.rows[7, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        PatchCoreDetector().fit(bad)


def test_real_bottles(shared_data):
    from pyimgano.datasets import load_folder

    data = load_folder(shared_data / "data", "bottle256")
    test = np.r_[0:10, 20:24, 42:46, 62:66]
    detector = PatchCoreDetector("filterbank", coreset_ratio=0.02).fit(data.X_train[:30])
    assert anomaly_roc_auc(detector, data.X_test[test], data.y_test[test]) >= 0.95


def clustered_grids(n=300, seed=0):
    """``n`` images of 100 patches in three dimensions: more than candidates are held."""
    rng = np.random.RandomState(seed)
    centers = rng.normal(size=(7, 3)) * 4
    rows = centers[rng.randint(7, size=(n, 100))] + rng.normal(size=(n, 100, 3))
    return PatchGrids.from_array(rows.reshape(n, 10, 10, 3).astype(np.float32))


def test_a_streamed_bank_is_the_exact_one_while_all_candidates_fit():
    X = grids(8)
    exact = PatchCoreDetector(coreset_ratio=0.25).fit(X)
    streamed = PatchCoreDetector(coreset_ratio=0.25, max_bank_patches=1000).fit(X)
    np.testing.assert_array_equal(streamed.bank_, exact.bank_)
    np.testing.assert_array_equal(streamed.bank_image_, exact.bank_image_)
    np.testing.assert_array_equal(streamed.training_scores_, exact.training_scores_)
    assert streamed.coreset_radius_ == pytest.approx(exact.coreset_radius_, rel=1e-6)


def test_a_streamed_bank_of_many_patches_covers_them_all():
    X = clustered_grids()
    streamed = PatchCoreDetector(coreset_ratio=0.1, max_bank_patches=500).fit(X)
    assert len(streamed.bank_) == 500
    assert len(np.unique(streamed.bank_image_)) > 200  # not just the first or the last images
    radius = cdist(X.rows, streamed.bank_).min(axis=1).max()
    assert streamed.coreset_radius_ == pytest.approx(radius, rel=1e-5)
    exact = PatchCoreDetector(coreset_ratio=500 / 30_000).fit(X)
    assert exact.coreset_radius_ < radius < 2 * exact.coreset_radius_
    for row, image in zip(streamed.bank_[:50], streamed.bank_image_[:50]):
        assert (X[int(image)].rows == row).all(axis=1).any()


def test_training_scores_of_a_streamed_bank_say_as_much_as_those_of_an_exact_one():
    both = clustered_grids(600)
    train, unseen = both[np.arange(300)], both[np.arange(300, 600)]

    def share_above_the_90_percent_quantile(detector):
        detector.fit(train)
        level = np.quantile(detector.training_scores_, 0.9)
        return np.mean(-detector.score_samples(unseen) > level)

    streamed = share_above_the_90_percent_quantile(PatchCoreDetector(max_bank_patches=500))
    exact = share_above_the_90_percent_quantile(PatchCoreDetector(coreset_ratio=500 / 30_000))
    assert streamed == pytest.approx(exact, abs=0.04)
    assert 0.02 <= streamed <= 0.16


STAGES = [
    "feature step",
    "training images",
    "coreset",
    "leave-one-image-out banks",
    "neighbors in other images",
    "memory bank",
    "out-of-sample scores",
]


@pytest.mark.usefixtures("cross_fit")
@pytest.mark.parametrize(
    ("params", "stages"),
    [
        ({}, [*STAGES, "projection of patches", "in folds"]),
        ({"max_bank_patches": 20}, [*STAGES, "coreset of the images so far", "in folds"]),
        ({"coreset_ratio": 1.0}, ["training images", "memory bank", "out-of-sample scores"]),
    ],
)
def test_every_stage_of_a_verbose_fit_has_a_bar(params, stages, monkeypatch, capsys):
    monkeypatch.setattr(_progress, "_DELAY", 0.0)
    monkeypatch.setattr(_bank, "_FEWEST_CANDIDATES", 100)
    images = make_check_images(6)
    PatchCoreDetector(FilterBankFeatures(resize=None), verbose=True, **params).fit(images)
    seen = capsys.readouterr().err
    for stage in stages:
        assert f"\r{stage} [" in seen or f"\r{stage}: " in seen, stage
    PatchCoreDetector(FilterBankFeatures(resize=None), **params).fit(images)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wrong", [0, 2.5, "many"])
def test_max_bank_patches_is_a_number_of_patches(wrong):
    with pytest.raises(ValueError, match="max_bank_patches"):
        PatchCoreDetector(max_bank_patches=wrong).fit(grids())


def test_a_full_disk_says_where_it_is_and_what_to_do(monkeypatch, tmp_path):
    full = pathlib.Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(_patches, "_IN_MEMORY", 1)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full.open("r+b", buffering=0))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match=r"No space left.*TMPDIR") as caught:
        PatchCoreDetector().fit(grids())
    assert str(tmp_path) in str(caught.value)


def test_one_patch_left_is_no_measure_of_density():
    detector = PatchCoreDetector(coreset_ratio=1.0).fit([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(detector.training_scores_, [5.0, 5.0])
