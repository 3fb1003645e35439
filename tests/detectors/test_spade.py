"""SPADEDetector: nearest images by their averages, nearest patches among those, exactly."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pyimgano.detectors import SPADEDetector
from pyimgano.detectors import _spade as module
from pyimgano.exceptions import TooFewImagesError
from pyimgano.grids import PatchGrids


def grids(n=10, shape=(3, 4), d=6, seed=0):
    return PatchGrids.from_array(np.random.RandomState(seed).normal(size=(n, *shape, d)))


def averages(X, n_last=None):
    n_last = n_last or X.n_features
    return np.stack([rows[:, -n_last:].mean(axis=0, dtype=float) for rows in X.as_image_rows()])


@pytest.mark.parametrize(("k", "n_last"), [(1, None), (4, 2), (50, None)])
def test_image_score_is_the_mean_distance_to_the_nearest_images(k, n_last):
    X, new = grids(), grids(5, seed=1)
    detector = SPADEDetector(n_neighbors=k, n_image_features=n_last or "all").fit(X)
    distance = np.sort(cdist(averages(new, n_last), averages(X, n_last)), axis=1)
    np.testing.assert_allclose(-detector.score_samples(new), distance[:, :k].mean(axis=1))


@pytest.mark.parametrize("k", [1, 4, 50])
def test_training_scores_leave_the_image_out(k):
    X = grids()
    detector = SPADEDetector(n_neighbors=k).fit(X)
    distance = np.sort(cdist(averages(X), averages(X)), axis=1)[:, 1:]
    np.testing.assert_allclose(detector.training_scores_, distance[:, :k].mean(axis=1))


def plain_map(rows, nearest, X, k):
    """Mean distance of each row to its k nearest rows of some images of X."""
    gallery = np.concatenate([X.as_image_rows()[i] for i in nearest])
    return np.sort(cdist(rows, gallery), axis=1)[:, :k].mean(axis=1)


@pytest.mark.parametrize(("k", "kappa", "d"), [(1, 1, 6), (3, 2, 6), (3, 1, 90), (20, 500, 6)])
def test_map_is_the_distance_to_the_nearest_patches_of_the_nearest_images(k, kappa, d):
    X, new = grids(d=d), grids(3, shape=(5, 4), d=d, seed=1)
    detector = SPADEDetector(n_neighbors=k, n_pixel_neighbors=kappa, smoothing_sigma=0).fit(X)
    order = np.argsort(cdist(averages(new), averages(X)), axis=1)[:, :k]
    expected = [
        plain_map(rows, nearest, X, kappa).reshape(5, 4)
        for rows, nearest in zip(new.as_image_rows(), order)
    ]
    np.testing.assert_allclose(detector.anomaly_map(new), expected, rtol=2e-3)  # float16


def test_map_of_a_training_image_leaves_it_out():
    X = grids()
    doubled = X[[*range(10), 3]]
    detector = SPADEDetector(n_neighbors=4, smoothing_sigma=0).fit(doubled)
    order = np.argsort(cdist(averages(X[[3]]), averages(X)), axis=1)[0, 1:5]
    expected = plain_map(X.as_image_rows()[3], order, X, 1).reshape(3, 4)
    np.testing.assert_allclose(detector.anomaly_map(doubled[[10]])[0], expected, rtol=2e-3)


def test_no_candidate_is_lost(monkeypatch):
    # Long rows with structure, blocks that end within an image: as good as measuring all.
    rng = np.random.RandomState(0)
    basis = rng.normal(size=(300, 300)) * np.exp(-np.arange(300) / 40)[:, None]
    X, new = (PatchGrids.from_array(rng.normal(size=(n, 9, 11, 300)) @ basis + 5) for n in (7, 2))
    monkeypatch.setattr(module, "_QUERY_BLOCK", 40)
    monkeypatch.setattr(module, "_GALLERY_BLOCK", 150)
    detector = SPADEDetector(n_neighbors=6, n_pixel_neighbors=3, smoothing_sigma=0).fit(X)
    for rows, got in zip(new.as_image_rows(), detector.anomaly_map(new)):
        queries = (rows - detector.center_) @ detector.axes_
        order = np.argsort(cdist(averages(PatchGrids(rows, [(9, 11)])), averages(X)))[0, :6]
        stored = np.concatenate(
            [detector.gallery_[i].astype(np.float32) * detector.scale_[i] for i in order]
        )
        expected = np.sort(cdist(queries, stored), axis=1)[:, :3].mean(axis=1)
        np.testing.assert_allclose(got.ravel(), expected, rtol=2e-5)


def test_principal_coordinates_keep_distances():
    X = grids(d=30)
    detector = SPADEDetector().fit(X)
    stored = np.concatenate(
        [g.astype(np.float32) * s for g, s in zip(detector.gallery_, detector.scale_)]
    )
    np.testing.assert_allclose(cdist(stored, stored), cdist(X.rows, X.rows), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_features_of_any_size(size):
    X, new = grids(), grids(3, seed=1)
    scaled = [PatchGrids(g.rows * size, g.grid_shapes) for g in (X, new)]
    expected = SPADEDetector(n_neighbors=3).fit(X).score_and_map(new)
    got = SPADEDetector(n_neighbors=3).fit(scaled[0]).score_and_map(scaled[1])
    np.testing.assert_allclose(got[0] / size, expected[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(got[1]) / size, expected[1], rtol=2e-3)


def test_grids_of_different_shapes():
    X = PatchGrids.concatenate([grids(4), grids(4, shape=(2, 5), seed=2)])
    detector = SPADEDetector(n_neighbors=3).fit(X)
    assert [m.shape for m in detector.anomaly_map(X)] == [(3, 4)] * 4 + [(2, 5)] * 4


def test_on_rows_it_is_a_nearest_neighbor_detector():
    rows = np.random.RandomState(0).normal(size=(100, 3))
    new = np.random.RandomState(1).normal(size=(20, 3))
    detector = SPADEDetector(n_neighbors=5).fit(rows)
    expected = np.sort(cdist(new, rows), axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(-detector.score_samples(new), expected, rtol=1e-6)


def test_a_file_read_as_a_memory_map_gives_the_same_maps(tmp_path):
    detector, new = SPADEDetector(n_neighbors=3).fit(grids()), grids(2, seed=1)
    joblib.dump(detector, tmp_path / "spade.joblib")
    for mode in (None, "r"):
        loaded = joblib.load(tmp_path / "spade.joblib", mmap_mode=mode)
        np.testing.assert_array_equal(loaded.score_samples(new), detector.score_samples(new))
        np.testing.assert_array_equal(loaded.anomaly_map(new), detector.anomaly_map(new))


def test_copies_of_an_image_are_left_out_together():
    doubled = grids()[[*range(10), 3]]
    scores = SPADEDetector(n_neighbors=2).fit(doubled).training_scores_
    assert scores[3] == scores[10]
    assert scores[3] > 0.5 * np.median(scores)
    with pytest.raises(TooFewImagesError, match="copies of one"):
        SPADEDetector().fit(grids()[[0, 0, 0]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_neighbors": 0},
        {"n_pixel_neighbors": 0},
        {"n_image_features": 0},
        {"n_image_features": "deep"},
        {"n_image_features": 7},
    ],
)
def test_wrong_parameters_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SPADEDetector(**wrong).fit(grids())


def test_real_bottles(shared_data):
    from pyimgano.datasets import load_folder
    from pyimgano.features import BackbonePatchFeatures
    from pyimgano.model_selection import anomaly_roc_auc

    data = load_folder(shared_data / "data", "bottle256")
    weights = shared_data / "weights" / "resnet18_imagenet_to_layer3.pth"
    step = BackbonePatchFeatures(
        "resnet18", layers=("layer1", "layer2", "layer3"), pool=1, weights=weights
    )
    test = np.r_[0:5, 20:22, 42:44, 62:64]
    detector = SPADEDetector(step, n_neighbors=10).fit(data.X_train[:20])
    assert anomaly_roc_auc(detector, data.X_test[test], data.y_test[test]) >= 0.95
