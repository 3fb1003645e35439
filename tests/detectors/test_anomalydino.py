"""AnomalyDINODetector: the paper's score, its mask and rotations, honest training scores."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from pyimgano.detectors import AnomalyDINODetector
from pyimgano.exceptions import TooFewImagesError
from pyimgano.features import BasePatchFeatures, FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.testing import make_check_images
from pyimgano.tiling import TilingTransformer


def grids(n=10, shape=(3, 4), d=6, seed=0):
    return PatchGrids.from_array(np.random.RandomState(seed).normal(size=(n, *shape, d)))


def paper_score(rows, bank, n_worst):
    distance = cdist(rows, bank, "cosine").min(axis=1)
    return np.sort(distance)[-n_worst:].mean()


@pytest.mark.parametrize(("fraction", "n_worst"), [(0.01, 1), (0.25, 3), (1.0, 12)])
def test_score_is_the_mean_of_the_worst_cosine_distances(fraction, n_worst):
    X, new = grids(), grids(4, seed=1)
    detector = AnomalyDINODetector(top_fraction=fraction).fit(X)
    expected = [paper_score(rows, X.rows, n_worst) for rows in new.as_image_rows()]
    np.testing.assert_allclose(-detector.score_samples(new), expected, rtol=1e-5)


def test_length_of_a_token_does_not_matter():
    X, new = grids(), grids(4, seed=1)
    detector = AnomalyDINODetector().fit(X)
    scaled = PatchGrids(new.rows * 4, new.grid_shapes)
    np.testing.assert_array_equal(detector.score_samples(scaled), detector.score_samples(new))


def test_map_holds_the_cosine_distances():
    X, new = grids(), grids(2, seed=1)
    detector = AnomalyDINODetector(smoothing_sigma=0).fit(X)
    expected = cdist(new.rows, X.rows, "cosine").min(axis=1).reshape(2, 3, 4)
    np.testing.assert_allclose(detector.anomaly_map(new), expected, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.01, 0.25, 1.0])
def test_training_scores_are_against_the_bank_without_the_image(fraction):
    X = grids(30, shape=(8, 8))
    n_worst = max(1, round(fraction * 64))
    detector = AnomalyDINODetector(top_fraction=fraction).fit(X)
    of = X.image_of_row
    expected = [paper_score(X.rows[of == i], X.rows[of != i], n_worst) for i in range(30)]
    np.testing.assert_allclose(detector.training_scores_, expected, rtol=1e-5)
    np.testing.assert_array_equal(detector.score_samples(X), -detector.training_scores_)


def test_a_coreset_without_the_image_has_its_full_size():
    X = grids(8)
    detector = AnomalyDINODetector(coreset_ratio=0.25).fit(X)
    assert detector.bank_.shape == (24, 6)
    unit = X.rows / np.linalg.norm(X.rows, axis=1, keepdims=True)
    for i in range(8):
        picks = [int(cdist(unit, row[None]).argmin()) for row in detector.bank_]
        picks = [p for p in picks if X.image_of_row[p] != i]
        others = np.flatnonzero(X.image_of_row != i)
        while len(picks) < 24:
            picks.append(others[cdist(unit[others], unit[picks]).min(axis=1).argmax()])
        expected = paper_score(X.rows[X.image_of_row == i], X.rows[picks], 1)
        assert detector.training_scores_[i] == pytest.approx(expected, rel=1e-4)


def test_copies_of_an_image_are_left_out_together():
    doubled = grids(9)[[0, 1, 2, 3, 4, 5, 6, 7, 8, 3]]
    for ratio in (1.0, 0.5):
        scores = AnomalyDINODetector(coreset_ratio=ratio).fit(doubled).training_scores_
        assert scores[3] == scores[9]
        assert scores[3] > 0.5 * np.median(scores)  # one copy beside the other would score 0


def test_all_images_equal_is_an_error():
    with pytest.raises(TooFewImagesError, match="copies of one"):
        AnomalyDINODetector().fit(grids(4)[[0, 0, 0]])


def test_training_scores_look_like_those_of_unseen_images():
    rows = np.random.RandomState(0).normal(size=(600, 6))
    for ratio in (0.1, 1.0):
        detector = AnomalyDINODetector(coreset_ratio=ratio).fit(rows[:300])
        level = np.quantile(detector.training_scores_, 0.9)
        assert 0.05 <= np.mean(-detector.score_samples(rows[300:]) > level) <= 0.16, ratio


# --- rotations -----------------------------------------------------------------------------


class Cells(BasePatchFeatures):
    """All pixels of each 8 x 8 cell, halved in resolution: nothing learned, nothing pooled."""

    batch_size = 4
    _parameter_constraints: dict = {}

    def _extract(self, images):
        blocks = []
        for image in images:
            h, w = image.shape[0] // 8, image.shape[1] // 8
            small = cv2.resize(image, (4 * w, 4 * h), interpolation=cv2.INTER_AREA)[..., 0]
            cells = small.reshape(h, 4, w, 4).transpose(0, 2, 1, 3).reshape(1, h, w, 16)
            blocks.append(PatchGrids.from_array(cells, image_sizes=[image.shape[:2]]))
        return PatchGrids.concatenate(blocks)


def disc_images(n=6, seed=0):
    """Discs with a bar in one direction: known upright only."""
    rng = np.random.RandomState(seed)
    images = rng.randint(100, 110, size=(n, 64, 64, 3)).astype(np.uint8)
    for image in images:
        cv2.circle(image, (32, 32), 20, (30, 30, 30), -1)
        cv2.rectangle(image, (28, 12), (34, 52), (230, 230, 230), -1)
    return images


def test_rotated_views_enter_the_bank_under_their_image():
    images = disc_images()
    step = Cells()
    plain = AnomalyDINODetector(step).fit(images)
    turned = AnomalyDINODetector(step, n_rotations=4).fit(images)
    assert turned.bank_.shape[0] == 4 * plain.bank_.shape[0]
    np.testing.assert_array_equal(turned.bank_image_, np.tile(plain.bank_image_, 4))
    assert turned.training_scores_.shape == (6,)
    new = np.ascontiguousarray(np.rot90(disc_images(2, seed=1), axes=(1, 2)))
    assert (turned.score_samples(new) > 0.5 * plain.score_samples(new)).all()  # half as bad
    # Views of the image itself are left out with it: its score is no better than a new one's.
    np.testing.assert_allclose(turned.score_samples(images), -turned.training_scores_, rtol=0)
    assert np.median(turned.training_scores_) > 0.5 * np.median(
        -turned.score_samples(disc_images(6, seed=2))
    )


def test_rotations_of_ragged_images_and_odd_angles():
    images = [image[: 48 + 8 * (i % 2)] for i, image in enumerate(disc_images())]
    detector = AnomalyDINODetector(Cells(), n_rotations=3).fit(images)
    assert len(detector.bank_) % 3 == 0
    assert np.isfinite(detector.score_samples(images)).all()


def test_tiles_of_an_image_and_their_rotations_are_left_out_together():
    images = disc_images(5)
    images[4] = images[1]  # a copy
    pipe = make_pipeline(TilingTransformer(32), AnomalyDINODetector(Cells(), n_rotations=2))
    scores = pipe.fit(images).score_samples(images)
    detector = pipe[-1]
    np.testing.assert_array_equal(scores, -detector.training_scores_)
    assert scores[1] == scores[4] < -1e-5
    assert sorted(set(detector.bank_image_)) == [0, 1, 2, 3]


def test_rotations_need_images():
    with pytest.raises(ValueError, match="n_rotations=2 rotates images"):
        AnomalyDINODetector(n_rotations=2).fit(grids())


# --- mask ----------------------------------------------------------------------------------


def object_grids(n=6, seed=0):
    """A 4 x 5 object in the middle of 10 x 12 patches, tokens apart from the background's."""
    rng = np.random.RandomState(seed)
    features = rng.normal(scale=0.1, size=(n, 10, 12, 5))
    features[..., 0] += 1.0
    features[:, 3:7, 4:9, 1] += 3.0
    return features


def test_mask_keeps_the_object_and_its_rim():
    detector = AnomalyDINODetector(mask="pca", smoothing_sigma=0)
    detector.fit(PatchGrids.from_array(object_grids()))
    assert detector.bank_.shape == (6 * 6 * 7, 5)  # 4 x 5 grown by one patch
    new = object_grids(1, seed=1)
    clean = detector.score_samples(PatchGrids.from_array(new))
    new[0, 0, 0] = (0, 0, 5, 5, 5)  # a flaw in the background
    (values,) = detector.anomaly_map(PatchGrids.from_array(new))
    inside = np.zeros((10, 12), bool)
    inside[2:8, 3:10] = True
    assert (values[~inside] == 0).all() and (values[inside] > 0).all()
    assert detector.score_samples(PatchGrids.from_array(new)) == pytest.approx(clean)
    new[0, 5, 6] = (0, 3, 5, 5, 5)  # and one in the object
    assert (detector.score_samples(PatchGrids.from_array(new)) < 3 * clean).all()


def test_mask_does_not_depend_on_the_sign_of_the_component():
    for sign in (1, -1):
        detector = AnomalyDINODetector(mask="pca")
        detector.fit(PatchGrids.from_array(sign * object_grids()))
        assert len(detector.bank_) == 6 * 6 * 7


def test_mask_leaves_rows_and_uniform_images_whole():
    rows = np.random.RandomState(0).normal(size=(20, 3))
    with_mask = AnomalyDINODetector(mask="pca").fit(rows)
    np.testing.assert_array_equal(
        with_mask.training_scores_, AnomalyDINODetector().fit(rows).training_scores_
    )
    flat = PatchGrids.from_array(
        np.ones((4, 5, 5, 3)) * np.arange(1, 5)[:, None, None, None] ** np.arange(3)
    )
    assert len(AnomalyDINODetector(mask="pca").fit(flat).bank_) == 100


# --- real images ---------------------------------------------------------------------------


def test_bottles_with_a_small_transformer(shared_data):
    pytest.importorskip("timm", reason="timm is not installed")
    from pyimgano.features import ViTPatchFeatures

    root = shared_data / "data" / "bottle256"
    step = ViTPatchFeatures(
        "timm:vit_tiny_patch16_224",
        shared_data / "weights" / "vit_tiny_patch16_224_finetuned200_timm_named.pth",
        resize=224,
    )
    train = sorted(str(f) for f in (root / "train" / "good").iterdir())[::20]
    test = sorted(str(f) for f in (root / "test").glob("*/*"))[::7]
    scores = AnomalyDINODetector(step).fit(train).score_samples(test)
    assert roc_auc_score(["good" in f for f in test], scores) > 0.9


def test_state_has_no_network_and_scores_survive(tmp_path):
    import joblib

    images = make_check_images(8)
    detector = AnomalyDINODetector(FilterBankFeatures(resize=64)).fit(images)
    joblib.dump(detector, tmp_path / "d.joblib")
    new = make_check_images(3, random_state=1)
    np.testing.assert_array_equal(
        joblib.load(tmp_path / "d.joblib").score_samples(new), detector.score_samples(new)
    )
