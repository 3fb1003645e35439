"""What an image consists of as a whole: banks and windowed templates look at it, too."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from pyimgano.detectors import (
    AnomalyDINODetector,
    NCCTemplateDetector,
    PatchCoreDetector,
    SoftPatchDetector,
    SSIMTemplateDetector,
)
from pyimgano.detectors._composition import ImageAverages
from pyimgano.exceptions import PoseWarning
from pyimgano.features import FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.testing import make_check_images, make_check_parts
from pyimgano.tiling import TilingTransformer

pytestmark = pytest.mark.usefixtures("metrics_kept")


def two_kinds(shares, seed=0):
    """Grids of ten patches, of which a share lies near (10, 0) and the rest near (0, 0)."""
    rng = np.random.RandomState(seed)
    grids = rng.normal(0, 0.01, size=(len(shares), 2, 5, 2))
    for grid, share in zip(grids, shares):
        grid.reshape(10, 2)[: round(10 * share), 0] += 10.0
    return PatchGrids.from_array(grids.astype(np.float32))


def test_the_limit_is_half_the_spread_or_twice_the_largest_distance():
    # Patches lie at 0 and 10 in equal numbers: 5 from their average. Averages hardly differ.
    alike = PatchCoreDetector(coreset_ratio=1.0).fit(two_kinds([0.5] * 6))
    assert alike._composition_limit == pytest.approx(2.5, abs=0.05)
    # Averages are 4 and 7, each two times: 3 apart, but 0 from one another's copies' kin.
    apart = PatchCoreDetector(coreset_ratio=1.0).fit(two_kinds([0.4, 0.4, 0.9]))
    assert apart._composition_limit == pytest.approx(2 * 5, abs=0.1)


def test_beyond_the_limit_score_and_map_rise_with_the_distance():
    detector = PatchCoreDetector(coreset_ratio=1.0, n_neighbors=1, smoothing_sigma=0)
    detector.fit(two_kinds([0.5] * 6))
    top, limit = detector.training_scores_.max(), detector._composition_limit
    new = two_kinds([0.5, 0.3, 0.2, 1.0], seed=1)
    score, maps = detector.score_and_map(new)
    plain = np.linalg.norm(new.rows[:, None].astype(float) - detector.bank_[None], axis=2).min(
        axis=1
    )
    np.testing.assert_allclose(-score[:2], plain[:20].reshape(2, 10).max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.ravel(maps[:2]), plain[:20], rtol=1e-6)
    # Their averages are 2, 3 and 5 from 5; 2 is inside the limit of 2.5.
    np.testing.assert_allclose(-score[2:], top + top * np.array([3, 5]) / limit, rtol=2e-2)
    np.testing.assert_allclose(maps[2], -score[2], rtol=1e-6)
    np.testing.assert_allclose(maps[3], -score[3], rtol=1e-6)


def test_scores_grow_with_the_distance_whatever_the_bank_sees():
    detector = PatchCoreDetector(coreset_ratio=1.0, n_neighbors=1).fit(two_kinds([0.5] * 6))
    # All patches move away from both kinds, by more and more.
    far = [two_kinds([0.5], seed=1).rows + np.float32([0, y]) for y in (0, 2, 3, 6, 12, 60, 600)]
    grids = PatchGrids.from_array(np.stack(far).reshape(-1, 2, 5, 2))
    assert (np.diff(-detector.score_samples(grids)) > 0).all()


class Shifted(PatchCoreDetector):
    """A detector with negative scores."""

    _registry_name = None

    def _fit(self, stream):
        return super()._fit(stream) - 100.0

    def _score(self, block, train_group):
        values, scores = super()._score(block, train_group)
        return values - 100.0, scores - 100.0


def test_negative_scores_are_raised_too():
    detector = Shifted(coreset_ratio=1.0, n_neighbors=1).fit(two_kinds([0.5] * 6))
    assert detector.training_scores_.max() < 0
    assert -detector.score_samples(two_kinds([1.0], seed=1))[0] > 0


def test_what_the_bank_sees_by_itself_keeps_its_map():
    detector = PatchCoreDetector(coreset_ratio=1.0, n_neighbors=1, smoothing_sigma=0)
    detector.fit(two_kinds([0.5] * 6))
    new = two_kinds([1.0], seed=1)
    new.rows[3] = 30.0, 0.0  # 20 from the nearest patch, of which training images have none
    score, (heat,) = detector.score_and_map(new)
    assert -score[0] == pytest.approx(20.0, abs=0.1)
    assert np.sort(heat.ravel())[-2] < 0.1


def test_training_images_and_rows_are_left_as_they_are():
    grids = two_kinds([0.5, 0.5, 0.5, 0.5, 1.0])
    detector = PatchCoreDetector(coreset_ratio=1.0).fit(grids)
    np.testing.assert_array_equal(-detector.score_samples(grids), detector.training_scores_)
    rows = PatchCoreDetector().fit(np.random.RandomState(0).normal(size=(20, 3)))
    assert rows._composition is None


@pytest.mark.parametrize(("n", "step"), [(8192, 1), (8193, 2), (40_000, 8)])
def test_averages_take_no_more_memory_for_more_images(n, step):
    averages = ImageAverages()
    for i in range(n):
        averages.add(np.array([[i, 1.0], [i, 3.0]], np.float32), group=i)
    search, limit = averages.reference()
    np.testing.assert_array_equal(search.bank_group, np.arange(0, n, step))
    np.testing.assert_array_equal(search.bank[:, 0], search.bank_group)
    np.testing.assert_array_equal(search.bank[:, 1], 2.0)
    assert limit == 2.0 * step  # the distance between those kept; half the spread of 1 is less


def test_tiles_of_an_image_are_one_image():
    # Two tiles of each image: patches at 0 and 2 in one, at 6 and 8 in the other.
    tiles, averages = np.array([[[0.0], [2.0]], [[6.0], [8.0]]], np.float32), ImageAverages()
    for group in (0, 3, 5):
        for tile in tiles:
            averages.add(tile, group)
    search, limit = averages.reference()
    np.testing.assert_array_equal(search.bank, [[4.0]] * 3)
    np.testing.assert_array_equal(search.bank_group, [0, 3, 5])
    assert limit == pytest.approx(0.5 * np.sqrt(1 + 9))  # within a tile, and between tiles


def test_a_tiled_image_is_looked_at_as_a_whole():
    """Some tiles of each good image show nothing but the table."""
    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.1)
    model = make_pipeline(TilingTransformer(tile=64), detector)
    model.fit(enlarged(make_check_parts(12)))
    table = enlarged(make_check_parts(1, missing=True))
    new = enlarged(make_check_parts(3, random_state=1))
    assert model.predict(table) == [-1]
    (_, (heat,)) = model[-1].score_and_map(model[:-1].transform(table))
    assert heat.min() >= 2 * detector.training_scores_.max() * (1 - 1e-6)
    good = model.score_samples(new)
    detector._composition = None
    np.testing.assert_array_equal(model.score_samples(new), good)
    assert model.predict(table) == [1]


def enlarged(parts):
    """Four times the size, with noise of the new size: patches of the table see nothing else."""
    noise = np.random.RandomState(len(parts)).normal(0, 2, size=(len(parts), 192, 256, 1))
    large = [cv2.resize(cv2.GaussianBlur(part, (0, 0), 2), (256, 192)) for part in parts]
    return np.clip(np.stack(large) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "detector",
    [
        PatchCoreDetector("filterbank", coreset_ratio=0.1),
        SoftPatchDetector("filterbank", coreset_ratio=0.1),
        AnomalyDINODetector("filterbank", coreset_ratio=0.1),
    ],
)
def test_a_table_without_the_part_holds_nothing_that_the_bank_does_not(detector):
    detector.fit(enlarged(make_check_parts(20)))
    table = enlarged(make_check_parts(1, missing=True))
    assert detector.predict(table) == [-1]
    detector._composition = None  # as in files of earlier versions
    assert detector.predict(table) == [1]


def labeled_parts(n, seed=0):
    """Parts with a white label somewhere on them: of each window, some lack all pattern."""
    rng = np.random.RandomState(seed)
    parts = make_check_parts(n, random_state=seed)
    for part in parts:
        top, left = rng.randint(10, 28), rng.randint(18, 36)
        part[top : top + 10, left : left + 10] = 255
    return parts


@pytest.mark.parametrize("kind", [NCCTemplateDetector, SSIMTemplateDetector])
def test_templates_flag_images_that_lack_the_pattern_as_a_whole(kind):
    detector = kind(window=7, resize=None, smoothing_sigma=1).fit(labeled_parts(30))
    top = detector.training_scores_.max()
    flat = np.full((1, 48, 64, 3), 160, np.uint8)
    score, (heat,) = detector.score_and_map(flat)
    assert -score[0] >= 2 * top and heat.min() >= 2 * top * (1 - 1e-6)
    new = labeled_parts(10, seed=1)
    good = detector.score_samples(new)
    detector._lack_limit = None  # as in files of earlier versions
    np.testing.assert_array_equal(detector.score_samples(new), good)
    assert detector.predict(flat) == [1]


@pytest.mark.parametrize("kind", [NCCTemplateDetector, SSIMTemplateDetector])
def test_templates_say_so_when_parts_lie_in_no_fixed_pose(kind):
    with pytest.warns(PoseWarning, match="one fixed pose"):
        kind().fit(make_check_images(12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = kind().fit(make_check_parts(20))
    # A blank image lacks all of the template, good ones next to nothing.
    assert 0.4 < detector._lack_limit < 0.6


@pytest.mark.parametrize("kind", [NCCTemplateDetector, SSIMTemplateDetector])
def test_a_template_without_any_pattern_has_nothing_to_lack(kind):
    rng = np.random.RandomState(0)
    plain = (128 + rng.randint(0, 2, size=(12, 32, 32, 3))).astype(np.uint8)
    assert kind(resize=None, window=9).fit(plain)._lack_limit is None
