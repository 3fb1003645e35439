"""A region of interest: what lies outside neither enters a model nor its scores and maps."""

from __future__ import annotations

import cv2
import joblib
import numpy as np
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from pyod.models.knn import KNN
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ScoreEnsemble, ThresholdCalibrator, TilingTransformer, anomaly_map
from pyimgano.base import BaseImageDetector
from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    PixelGaussianDetector,
    PixelMADDetector,
    PyODDetector,
    SoftPatchDetector,
    SPADEDetector,
)
from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.features import BasePatchFeatures, FilterBankFeatures
from pyimgano.grids import PatchGrids, cells_inside, smooth_inside
from pyimgano.inference import infer
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.persistence import save

pytestmark = pytest.mark.usefixtures("metrics_kept")

HEIGHT, WIDTH = 32, 40


class Cells(BasePatchFeatures):
    """Mean and standard deviation of the colors of cells of 8 x 8 pixels, and of no more."""

    _parameter_constraints: dict = {}

    def __init__(self, batch_size=3):
        self.batch_size = batch_size

    def _extract(self, images):
        grids = []
        for image in images:
            h, w = (side // 8 for side in image.shape[:2])
            cells = image.reshape(h, 8, w, 8, 3).transpose(0, 2, 1, 3, 4).reshape(1, h, w, 64, 3)
            features = np.concatenate([cells.mean(axis=3), cells.std(axis=3)], axis=3)
            grids.append(
                PatchGrids.from_array(features, [image.shape[:2]], work_size=image.shape[:2])
            )
        return PatchGrids.concatenate(grids)


class Center(Cells):
    """The same of the part of each image that its first pixel says."""

    def _extract(self, images):
        whole, grids = super()._extract(images), []
        for image, rows in zip(images, whole.as_image_rows()):
            h, w = (side // 8 for side in image.shape[:2])
            left = 8.0 * (image[0, 0, 0] > 127)
            features = rows.reshape(1, h, w, -1)[:, :, :4]
            box = [(0, left, image.shape[0], 32)]
            grids.append(PatchGrids.from_array(features, [image.shape[:2]], boxes=box))
        return PatchGrids.concatenate(grids)


def images(n, seed=0, size=(HEIGHT, WIDTH)):
    return np.random.RandomState(seed).randint(60, 120, (n, *size, 3)).astype(np.uint8)


def region(top=8, left=0, bottom=32, right=24):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


GOOD, NEW = images(9), images(4, seed=1)
NEW[2:, 10:14, 10:14] = 250  # inside region()


# ---- grids --------------------------------------------------------------------------
def test_a_cell_is_inside_by_half():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :2] = True  # half of the left cells
    mask[4:, 6:] = True  # half of the lower right one
    mask[4, 6] = False  # less
    np.testing.assert_array_equal(cells_inside(mask, (2, 2)), [[1, 0], [1, 0]])


def test_cells_that_end_within_a_pixel():
    # Three cells of 4/3 pixels: the middle one covers a third of pixel 1 and all but a
    # third of pixel 2, and so on.
    for pixel, expected in enumerate([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]):
        mask = np.zeros((1, 4), dtype=bool)
        mask[0, pixel] = True
        np.testing.assert_array_equal(cells_inside(mask, (1, 3))[0], expected)


def test_cells_of_a_box_in_and_over_the_image():
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4, 4:] = True
    np.testing.assert_array_equal(cells_inside(mask, (2, 2), (2, 2, 4, 4)), [[0, 1], [0, 0]])
    # Cells of 8 pixels from -4 on: of the first only 4 x 4 pixels are in the image, the last
    # is beyond it.
    over = cells_inside(mask, (1, 3), (-4, -4, 8, 24))
    np.testing.assert_array_equal(over, [[0, 1, 0]])


def test_half_a_large_cell_is_not_lost_to_rounding():
    mask = np.zeros((2001, 3000), dtype=bool)
    mask[:, ::2] = True
    assert cells_inside(mask, (3, 3)).all()


def some_grids():
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    grids = PatchGrids(rows, [(2, 3), (2, 2)], image_sizes=[(12, 12)] * 2)
    mask = np.zeros((12, 12), dtype=bool)
    mask[:, 6:] = True
    return grids, mask


def test_grids_within_a_mask():
    grids, mask = some_grids()
    part = grids.within(mask)
    np.testing.assert_array_equal(part.rows[:, 0] / 2, [1, 2, 4, 5, 7, 9])
    np.testing.assert_array_equal(part.starts, [0, 4, 6])
    np.testing.assert_array_equal(part.image_of_row, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(part.mask_of(0), [0, 1, 1, 0, 1, 1])
    assert [len(rows) for rows in part.as_image_rows()] == [4, 2]
    values = np.array([5.0, 3.0, 4.0, 9.0, 7.0, 8.0])
    np.testing.assert_array_equal(part.image_max(values), [9, 8])
    one, other = part.as_grid(values)
    np.testing.assert_array_equal(one, [[3, 5, 3], [3, 4, 9]])
    np.testing.assert_array_equal(other, [[7, 7], [7, 8]])
    with pytest.raises(ValueError, match="hold only some of their patches"):
        _ = part.features


def test_grids_within_everything_are_themselves():
    grids, mask = some_grids()
    assert grids.within(np.ones_like(mask)) is grids


def test_grids_within_two_masks():
    grids, mask = some_grids()
    top = np.zeros_like(mask)
    top[:6] = True
    both = grids.within(mask).within(top)
    np.testing.assert_array_equal(both.rows, grids.within(mask & top).rows)
    np.testing.assert_array_equal(both.mask, grids.within(mask & top).mask)
    with pytest.raises(ValueError, match="no patch of image 1"):
        grids.within(mask).within(~mask)


def test_pieces_of_grids_within_a_mask_come_together_again():
    grids, mask = some_grids()
    part = grids.within(mask)
    for joined in (
        PatchGrids.concatenate([part[:1], part[1]]),
        part[np.array([True, True])],
        part[[1, 0]][::-1],
    ):
        np.testing.assert_array_equal(joined.rows, part.rows)
        np.testing.assert_array_equal(joined.mask, part.mask)
    mixed = PatchGrids.concatenate([grids, part, grids[:0]])
    assert mixed.mask.tolist() == [True] * 10 + part.mask.tolist()
    assert part[:0].within(mask).rows.shape == (0, 2)
    bare, values = part.without_features(), np.arange(6.0)
    for one, other in zip(bare.to_pixels(values), part.to_pixels(values)):
        np.testing.assert_array_equal(one, other)


def test_grids_that_do_not_fit_are_refused():
    grids, mask = some_grids()
    with pytest.raises(ValueError, match="mask has 8 x 12 pixels, but image 0 has 12 x 12"):
        grids.within(mask[:8])
    little = np.zeros_like(mask)
    little[:2] = True
    with pytest.raises(ValueError, match=r"region of 24 of 144 .* cell is 6 x 6 pixels"):
        grids.within(little)
    with pytest.raises(ValueError, match="mask has shape"):
        PatchGrids(np.zeros((3, 1)), [(2, 2)], mask=[True, True, True])
    with pytest.raises(ValueError, match="grid shapes and mask add up to 2"):
        PatchGrids(np.zeros((3, 1)), [(2, 2)], mask=[True, True, False, False])


def test_the_former_names_of_the_mask_warn_and_files_with_them_load():
    grids, region = some_grids()
    part = grids.within(region)
    with pytest.warns(FutureWarning, match="called mask"):
        built = PatchGrids(part.rows, part.grid_shapes, inside=part.mask)
    np.testing.assert_array_equal(built.mask, part.mask)
    with pytest.warns(FutureWarning, match="called mask"):
        np.testing.assert_array_equal(part.inside, part.mask)
    with pytest.warns(FutureWarning, match="called mask_of"):
        np.testing.assert_array_equal(part.held(1), part.mask_of(1))
    with pytest.warns(FutureWarning, match="called same_mask"):
        assert part[:1].all_hold(part.mask_of(0))
    with pytest.raises(TypeError, match="give only mask"):
        PatchGrids(part.rows, part.grid_shapes, mask=part.mask, inside=part.mask)

    state = dict(vars(part))
    state["inside"] = state.pop("mask")  # as older versions wrote it
    old = PatchGrids.__new__(PatchGrids)
    old.__setstate__(state)
    np.testing.assert_array_equal(old[1:].mask, part[1:].mask)
    assert "inside" not in vars(old)


# ---- smoothing ----------------------------------------------------------------------
def test_nothing_bleeds_over_the_border():
    inside = np.zeros((40, 60), dtype=bool)
    inside[:, :20] = True
    values = np.where(inside, np.float32(2), np.float32(1e6))
    values[:, :10] = 5
    smooth = smooth_inside(values, inside, 3.0)
    assert smooth.max() <= 5 and smooth.min() >= 2
    np.testing.assert_allclose(smooth[:, 19], 2, atol=0.02)  # no image of zeros mixes in
    np.testing.assert_allclose(smooth[20, 9:11].mean(), 3.5, atol=0.01)
    assert (smooth[~inside] == smooth[inside].min()).all()


def test_interpolation_takes_no_value_from_outside():
    grids = PatchGrids.from_array(np.zeros((1, 1, 3, 1)), [(8, 24)], work_size=(8, 24))
    mask = np.zeros((8, 24), dtype=bool)
    mask[:, :16] = True
    heat = grids.within(mask).to_pixels(np.array([1.0, 3.0]), sigma=0)[0]
    np.testing.assert_allclose(heat[0, [0, 4, 7, 8, 12, 15]], [1, 1.125, 1.875, 2.125, 3, 3])
    assert (heat[:, 16:] == 1).all()


@given(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1.5, 4.0]), st.integers(1, 2**12 - 1))
def test_a_constant_map_stays_constant(value, sigma, code):
    inside = np.array([code >> k & 1 for k in range(12)], dtype=bool)
    grids = PatchGrids(
        np.zeros((inside.sum(), 1)), [(3, 4)], [(20, 31)], work_sizes=[(24, 32)], mask=inside
    )
    heat = grids.to_pixels(np.full(inside.sum(), value), sigma=sigma)[0]
    np.testing.assert_allclose(heat, np.float32(value), rtol=1e-5, atol=1e-6)


def test_a_grid_that_shrinks():
    inside = np.zeros((6, 6), dtype=bool)
    inside[1, 1] = True  # of a 2 x 2 grid no nearest cell
    smooth = smooth_inside(np.full((6, 6), 7, np.float32), inside, 0, (2, 2))
    np.testing.assert_array_equal(smooth, np.full((2, 2), 7))


# ---- detectors ----------------------------------------------------------------------
# On a region of whole cells, what is local is as if the images had been cropped to it.
DETECTORS = {
    "PatchCore": PatchCoreDetector(Cells(), coreset_ratio=0.3, smoothing_sigma=0),
    "PatchCore streamed": PatchCoreDetector(
        Cells(), coreset_ratio=0.3, max_bank_patches=20, smoothing_sigma=0
    ),
    "SoftPatch": SoftPatchDetector(Cells(), coreset_ratio=0.3, smoothing_sigma=0),
    "PaDiM": PaDiMDetector(Cells(), n_channels=4, smoothing_sigma=0),
    "SPADE": SPADEDetector(Cells(), n_neighbors=3, smoothing_sigma=0),
    "AnomalyDINO": AnomalyDINODetector(Cells(), smoothing_sigma=0),
    "AnomalyDINO on the object": AnomalyDINODetector(
        Cells(), coreset_ratio=0.5, mask="pca", smoothing_sigma=0
    ),
    "AnomalyDINO turned": AnomalyDINODetector(Cells(), n_rotations=2, smoothing_sigma=0),
    "PixelGaussian": PixelGaussianDetector(resize=None, smoothing_sigma=0),
    "PixelMAD": PixelMADDetector(resize=None, smoothing_sigma=0, top_fraction=0.05),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_rectangle_is_as_if_the_images_were_cropped(name):
    inside = (slice(8, 32), slice(0, 24))
    whole = clone(DETECTORS[name]).fit(GOOD, roi_mask=region())
    cropped = clone(DETECTORS[name]).fit([image[inside] for image in GOOD])
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(whole.training_scores_, cropped.training_scores_, **close)
    assert whole.offset_ == pytest.approx(cropped.offset_, rel=1e-5)
    crops = [image[inside] for image in NEW]
    np.testing.assert_allclose(whole.score_samples(NEW), cropped.score_samples(crops), **close)
    maps, crop_maps = whole.anomaly_map(NEW), cropped.anomaly_map(crops)
    for heat, crop_heat in zip(maps, crop_maps):
        np.testing.assert_allclose(heat[inside], crop_heat, rtol=1e-5, atol=1e-6)
        assert (heat[~region()] == heat.min()).all()
    assert (whole.predict(NEW) == [1, 1, -1, -1]).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_what_lies_outside_changes_nothing(name):
    detector = clone(DETECTORS[name]).set_params(smoothing_sigma=4.0)
    expected = clone(detector).fit(GOOD, roi_mask=region())
    good, new = GOOD.copy(), NEW.copy()
    for some in (good, new):
        some[:, ~region()] = np.random.RandomState(5).randint(0, 256, (len(some), 704, 3))
    detector.fit(good, roi_mask=region())
    np.testing.assert_array_equal(detector.training_scores_, expected.training_scores_)
    np.testing.assert_array_equal(detector.score_samples(new), expected.score_samples(NEW))
    np.testing.assert_array_equal(detector.anomaly_map(new), expected.anomaly_map(NEW))
    # Training images are recognized by what is inside.
    np.testing.assert_array_equal(detector.score_samples(GOOD), -expected.training_scores_)


def test_padim_has_the_gaussians_of_the_positions_inside():
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[8:16, 24:] = mask[24:, :8] = True  # positions 8, 9 and 15 of 4 x 5
    detector = PaDiMDetector(Cells(), n_channels=3, random_state=1).fit(GOOD, roi_mask=mask)
    grids = Cells().fit_transform(GOOD)
    rows = np.stack(grids.as_image_rows())
    for at, position in enumerate([8, 9, 15]):
        alone = PaDiMDetector(n_channels=3, random_state=1).fit(rows[:, position])
        np.testing.assert_allclose(detector.mean_[at], alone.mean_[0], rtol=1e-6)
        np.testing.assert_allclose(detector.factor_[at], alone.factor_[0], rtol=1e-5)
    assert detector.mean_.shape == (3, 3) and detector.grid_shape_ == (4, 5)


def test_banks_hold_patches_inside_only():
    mask = region()
    mask[16:24, 8:16] = False  # a ring of 8 cells
    rows = Cells().fit_transform(GOOD).within(mask).rows
    assert len(rows) == 8 * len(GOOD)
    bank = PatchCoreDetector(Cells(), coreset_ratio=1.0).fit(GOOD, roi_mask=mask).bank_
    np.testing.assert_array_equal(bank, rows)
    dino = AnomalyDINODetector(Cells(), mask="pca").fit(GOOD, roi_mask=mask)
    assert len(dino.bank_) == len(rows)  # a ring has no middle: all of it counts
    soft = SoftPatchDetector(Cells()).fit(GOOD, roi_mask=mask)
    assert soft.dropped_.shape == (len(GOOD), 8)


def test_spade_averages_over_the_region():
    detector = SPADEDetector(Cells(), n_neighbors=3).fit(GOOD, roi_mask=region())
    inside = GOOD[:, 8:, :24].astype(np.float64)
    np.testing.assert_allclose(detector.image_features_[:, :3], inside.mean(axis=(1, 2)), rtol=1e-5)


def test_the_region_turns_with_the_views_of_a_training_image():
    square = images(4, size=(32, 32))
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16, :8] = True
    detector = AnomalyDINODetector(Cells(), n_rotations=4).fit(square, roi_mask=mask)
    for i in range(4):
        views = detector.bank_[detector.bank_image_ == i].reshape(4, 2, 6)
        for view in views[1:]:  # the same two cells each time, in another order
            same = np.isclose(view[:, None], views[0], atol=1e-6).all(axis=2)
            assert (same.sum(axis=0) == 1).all() and (same.sum(axis=1) == 1).all()


def test_the_region_at_the_size_a_template_works_at():
    detector = PixelGaussianDetector(resize=(4, 5), color="gray", smoothing_sigma=0)
    detector.set_params(top_fraction=1.0).fit(GOOD, roi_mask=region())
    # Score: the mean over 3 x 3 working pixels of 8 x 8 pixels.
    small = np.array([cv2.resize(g, (5, 4), interpolation=cv2.INTER_AREA) for g in [*GOOD, *NEW]])
    gray = np.array([cv2.cvtColor(g, cv2.COLOR_RGB2GRAY) for g in small]).astype(np.float64)
    good, new = gray[:9, 1:, :3], gray[9:, 1:, :3]
    z = np.abs(new - good.mean(axis=0)) / np.sqrt(good.var(axis=0, ddof=1) + 16)
    np.testing.assert_allclose(-detector.score_samples(NEW), z.mean(axis=(1, 2)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"no working pixel .* 8 x 8 .* larger mask"):
        detector.fit(GOOD, roi_mask=region(8, 0, 10, 3))


def test_the_region_of_a_template_moves_with_the_part():
    rng = np.random.RandomState(3)
    part = cv2.GaussianBlur(rng.normal(size=(40, 40, 3)), (0, 0), 1)
    part = 128 + 40 * part / part.std()

    def view(top, left, n):
        scene = np.full((64, 64, 3), 90.0)
        scene[top : top + 40, left : left + 40] = part
        return np.clip(scene + rng.randint(-3, 4, (n, 64, 64, 3)), 0, 255).astype(np.uint8)

    mask = np.zeros((64, 64), dtype=bool)
    mask[16:48, 16:48] = True  # all but a rim of 4 pixels
    detector = PixelGaussianDetector(
        resize=None, alignment="phase_correlation", smoothing_sigma=1, noise_sigma=8
    ).fit(view(12, 12, 8), roi_mask=mask)
    moved = view(7, 16, 3)  # 5 pixels higher and 4 further right
    bad = moved.copy()
    bad[0, 12:15, 30:33] ^= 128  # rows 17 to 19 of the region: inside
    bad[1, 45:47, 30:33] ^= 128  # rows 50 and 51, on the rim: outside
    inside, outside, clean = -detector.score_samples(bad)
    whole = -clone(detector).fit(view(12, 12, 8)).score_samples(bad)
    assert whole[1] > 4 * clean  # it would be found
    assert inside > 4 * outside and inside > 4 * clean
    heat = detector.anomaly_map(bad)[0]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 11 <= row <= 15 and 29 <= column <= 33
    assert (heat[:10] == heat.min()).all() and (heat[:, 55:] == heat.min()).all()


def test_images_that_differ_outside_only_are_copies():
    twin = GOOD[:1].copy()
    twin[0, 0, 30] += 1
    both = np.concatenate([GOOD[:1], twin])
    detector = PatchCoreDetector(Cells())
    with pytest.raises(TooFewImagesError, match="copies of one"):
        clone(detector).fit(both, roi_mask=region())
    assert len(detector.fit(both).training_scores_) == 2


def test_maps_are_exact_where_the_mask_cuts_through_patches():
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    mask[(yy - 16) ** 2 + (xx - 14) ** 2 < 150] = True
    for heat in PatchCoreDetector(Cells()).fit(GOOD, roi_mask=mask).anomaly_map(NEW):
        assert (heat[~mask] == heat.min()).all() and heat[mask].max() > heat.min()


def test_a_refit_without_a_mask_forgets_it():
    detector = PatchCoreDetector(Cells()).fit(GOOD, roi_mask=region())
    expected = PatchCoreDetector(Cells()).fit(GOOD)
    assert detector.fit(GOOD).roi_mask_ is None
    np.testing.assert_array_equal(detector.score_samples(NEW), expected.score_samples(NEW))


def test_a_mask_of_everything_changes_nothing():
    for detector in (PatchCoreDetector(Cells()), PixelGaussianDetector(resize=16)):
        expected = clone(detector).fit(GOOD).anomaly_map(NEW)
        everything = np.ones((1, HEIGHT, WIDTH), dtype=bool)
        detector.fit(GOOD, roi_mask=everything)
        np.testing.assert_array_equal(detector.anomaly_map(NEW), expected)


def test_the_mask_belongs_to_the_model(tmp_path):
    mask = region()
    detector = PatchCoreDetector(FilterBankFeatures(resize=32)).fit(GOOD, roi_mask=mask)
    scores, maps = detector.score_samples(NEW), detector.anomaly_map(NEW)
    mask[:] = False
    np.testing.assert_array_equal(detector.roi_mask_, region())
    save(detector, tmp_path / "detector.joblib")
    for loaded in (
        pyimgano.load(tmp_path / "detector.joblib"),
        joblib.load(tmp_path / "detector.joblib", mmap_mode="r"),
    ):
        np.testing.assert_array_equal(loaded.roi_mask_, region())
        np.testing.assert_array_equal(loaded.score_samples(NEW), scores)
        np.testing.assert_array_equal(loaded.anomaly_map(NEW), maps)
    assert not hasattr(clone(detector), "roi_mask_")


def test_every_fit_takes_the_mask():
    detector = PatchCoreDetector(Cells())
    expected = clone(detector).fit(GOOD, roi_mask=region())
    judged = clone(detector).fit_predict(GOOD, roi_mask=region())
    np.testing.assert_array_equal(judged, expected.predict(GOOD))
    y = [1] * len(GOOD) + [-1] * len(NEW)
    column = detector.fit_transform(np.concatenate([GOOD, NEW]), y, roi_mask=region())
    np.testing.assert_array_equal(column[: len(GOOD), 0], expected.training_scores_)
    np.testing.assert_array_equal(column[len(GOOD) :, 0], -expected.score_samples(NEW))


# ---- errors -------------------------------------------------------------------------
def test_input_without_pixels_is_refused():
    rows, grids = np.random.RandomState(0).rand(9, 3), Cells().fit_transform(GOOD)
    for detector in (PatchCoreDetector(), PixelGaussianDetector()):
        with pytest.raises(ValueError, match="X holds a table of feature rows: fit"):
            detector.fit(rows, roi_mask=region())
        with pytest.raises(ValueError, match=r"X holds patch grids: fit .* on images"):
            detector.fit(grids, roi_mask=region())
    with pytest.raises(ValueError, match="PyODDetector takes no roi_mask: crop"):
        PyODDetector(KNN()).fit(rows, roi_mask=region())


def test_tiles_are_refused():
    tiles = TilingTransformer(tile=16).transform(GOOD)
    with pytest.raises(ValueError, match="cut into tiles: leave out the TilingTransformer"):
        PatchCoreDetector(Cells()).fit(tiles, roi_mask=region())


def test_a_detector_that_does_not_keep_to_a_region_refuses_it():
    class Plain(BaseImageDetector):
        def __init__(self, contamination="auto", random_state=None):
            self.contamination = contamination
            self.random_state = random_state

    with pytest.raises(ValueError, match="Plain takes no roi_mask"):
        Plain().fit(GOOD, roi_mask=region())


def test_images_of_another_size_are_refused(tmp_path):
    paths = []
    for i, size in enumerate([(HEIGHT, WIDTH)] * 3 + [(WIDTH, HEIGHT)]):
        paths.append(str(tmp_path / f"{i}.png"))
        cv2.imwrite(paths[-1], images(1, seed=i, size=size)[0])
    detector = PatchCoreDetector(Cells())
    with pytest.raises(ImageFormatError, match=r"32 x 40 pixels and .*3\.png has 40 x 32"):
        detector.fit(paths, roi_mask=region())
    with pytest.raises(ImageFormatError, match="image 1 has 32 x 48"):
        clone(detector).fit([GOOD[0], images(1, size=(32, 48))[0]], roi_mask=region())
    detector.fit(paths[:3], roi_mask=region())
    with pytest.raises(ImageFormatError, match=r"3\.png has 40 x 32"):
        detector.predict(paths)
    results = infer(detector, paths, on_error="record")
    assert [result.error is not None for result in results] == [False, False, False, True]


def test_no_patch_in_the_region():
    with pytest.raises(ValueError, match="cell is 8 x 8 pixels"):
        PatchCoreDetector(Cells()).fit(GOOD, roi_mask=region(0, 0, 3, 3))


@pytest.mark.parametrize("detector", [PaDiMDetector(Center()), SoftPatchDetector(Center())])
def test_positions_must_hold_the_same_patches(detector):
    moving = GOOD.copy()
    moving[::2, 0, 0], moving[1::2, 0, 0] = 0, 255  # what the feature step looks at moves
    mask = region(0, 0, 32, 16)
    with pytest.raises(ValueError, match=r"compares positions.*same part"):
        detector.fit(moving, roi_mask=mask)
    PatchCoreDetector(Center()).fit(moving, roi_mask=mask)  # positions are nothing to it


def test_grids_within_a_mask_as_input():
    grids = Cells().fit_transform(GOOD).within(region())
    expected = PatchCoreDetector(Cells()).fit(GOOD, roi_mask=region())
    scores = PatchCoreDetector().fit(grids).training_scores_
    np.testing.assert_array_equal(scores, expected.training_scores_)
    padim = PaDiMDetector().fit(grids)
    with pytest.raises(ValueError, match="compares positions"):
        padim.predict(Cells().fit_transform(NEW))
    with pytest.raises(ValueError, match="needs whole grids"):
        PixelGaussianDetector().fit(grids)


# ---- metadata -----------------------------------------------------------------------
def small():
    return PixelGaussianDetector(resize=(4, 5), smoothing_sigma=1)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def reference():
    return small().fit(GOOD, roi_mask=region()).training_scores_


def share_passed(estimator, X, y=None):
    return np.mean(estimator.predict(X) == 1)


def test_a_pipeline_passes_the_mask_on():
    pipe = make_pipeline(ImageFormatNormalizer(), small())
    pipe.fit(GOOD, pixelgaussiandetector__roi_mask=region())
    np.testing.assert_array_equal(pipe[-1].training_scores_, reference())
    assert (anomaly_map(pipe, NEW)[:, ~region()].max(axis=1) == anomaly_map(pipe, NEW).min()).any()


def test_a_calibrator_passes_the_mask_on():
    calibrator = ThresholdCalibrator(small(), quantile=0.8).fit(GOOD, roi_mask=region())
    np.testing.assert_array_equal(calibrator.calibration_scores_, reference())
    pipe = make_pipeline(ImageFormatNormalizer(), small())
    calibrator = ThresholdCalibrator(pipe, quantile=0.8)
    calibrator.fit(GOOD, pixelgaussiandetector__roi_mask=region())
    np.testing.assert_array_equal(calibrator.calibration_scores_, reference())


def test_folds_share_the_mask_even_if_it_is_as_high_as_there_are_images():
    X = images(HEIGHT + 2)
    y = np.ones(HEIGHT + 2, dtype=int)
    y[[3, 7]] = -1
    calibrator = ThresholdCalibrator(small(), quantile=0.8, cv=4).fit(X, y, roi_mask=region())
    np.testing.assert_array_equal(calibrator.estimator_.roi_mask_, region())
    by_hand = np.empty(HEIGHT)
    kept = X[y == 1]
    for test in np.array_split(np.arange(HEIGHT), 4):  # KFold's
        fold = small().fit(np.delete(kept, test, axis=0), roi_mask=region())
        by_hand[test] = -fold.score_samples(kept[test])
    np.testing.assert_array_equal(calibrator.calibration_scores_, by_hand)


def test_one_value_per_sample_is_cut_like_the_samples():
    rows = np.random.RandomState(0).normal(size=(40, 2))
    rows[20:30] += 9
    y, weight = np.r_[np.ones(30, int), -np.ones(10, int)], np.r_[np.ones(20), np.full(20, 0.1)]
    forest = IsolationForest(n_estimators=9, max_samples=9, random_state=0)
    for cv in ("auto", 3):
        calibrator = ThresholdCalibrator(forest, quantile=0.8, cv=cv)
        calibrator.fit(rows, y, sample_weight=weight)
        expected = clone(forest).fit(rows[:30], sample_weight=weight[:30])
        np.testing.assert_array_equal(
            calibrator.estimator_.score_samples(rows), expected.score_samples(rows)
        )
        assert len(calibrator.calibration_scores_) == 30


def test_a_cache_tells_masks_apart(tmp_path):
    calibrator = ThresholdCalibrator(small(), quantile=0.8, memory=str(tmp_path))
    scores = [
        calibrator.fit(GOOD, roi_mask=mask).calibration_scores_
        for mask in (region(), region(right=16), region())
    ]
    np.testing.assert_array_equal(scores[0], scores[2])
    assert (scores[0] != scores[1]).any()


def test_metadata_for_what_is_not_fitted_is_refused():
    fitted = small().fit(GOOD)
    with pytest.raises(TypeError, match=r"roi_mask .* is fitted already"):
        ThresholdCalibrator(fitted, cv="prefit").fit(NEW, roi_mask=region())
    with pytest.raises(TypeError, match=r"roi_mask .* is frozen"):
        ThresholdCalibrator(FrozenEstimator(fitted)).fit(NEW, roi_mask=region())
    with pytest.raises(TypeError, match=r"roi_mask .* is None"):
        ThresholdCalibrator().fit(np.zeros((9, 1)), roi_mask=region())


def test_a_search_passes_the_mask_on():
    search = GridSearchCV(
        ThresholdCalibrator(small(), cv=3), {"quantile": [0.7, 0.8]}, scoring=share_passed, cv=3
    )
    search.fit(GOOD, roi_mask=region())
    np.testing.assert_array_equal(search.best_estimator_.roi_mask_, region())
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_mask_cut_by_cross_validation_is_an_error_that_says_so():
    search = GridSearchCV(
        small(), {"color": ["gray", "rgb"]}, scoring=share_passed, cv=2, error_score="raise"
    )
    X = images(HEIGHT)
    with pytest.raises(ImageFormatError, match=r"16 x 40 pixels and image 0 .* roi_mask\[None\]"):
        search.fit(X, roi_mask=region())
    search.fit(X, roi_mask=region()[None])  # the way out
    np.testing.assert_array_equal(search.best_estimator_.roi_mask_, region())


@pytest.mark.usefixtures("routing")
def test_routing_through_everything():
    asking = small().set_fit_request(roi_mask=True)
    ensemble = ScoreEnsemble(
        [
            ("pixels", asking),
            ("patches", PatchCoreDetector(Cells()).set_fit_request(roi_mask=True)),
            ("all", small().set_fit_request(roi_mask=False)),
            ("gone", "drop"),
        ]
    )
    pipe = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(ensemble, quantile=0.8))
    name = "thresholdcalibrator__estimator__patches__coreset_ratio"
    search = GridSearchCV(pipe, {name: [0.1, 1.0]}, scoring=share_passed, cv=3)
    search.fit(GOOD, roi_mask=region())
    members = search.best_estimator_[-1].estimator_.named_estimators_
    for name in ("pixels", "patches"):
        np.testing.assert_array_equal(members[name].roi_mask_, region())
    np.testing.assert_array_equal(members["pixels"].training_scores_, reference())
    assert members["all"].roi_mask_ is None
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    # A detector, and a calibrator of its scores as the next step.
    pipe = make_pipeline(ImageFormatNormalizer(), asking, ThresholdCalibrator(quantile=0.8))
    pipe.fit(GOOD, roi_mask=region())
    np.testing.assert_array_equal(pipe[-1].calibration_scores_, reference())
    calibrator = ThresholdCalibrator(asking, quantile=0.8)
    np.testing.assert_array_equal(
        calibrator.fit_predict(GOOD, roi_mask=region()), calibrator.predict(GOOD)
    )


@pytest.mark.usefixtures("routing")
def test_an_ensemble_routes_in_every_fit():
    ensemble = ScoreEnsemble([("pixels", small().set_fit_request(roi_mask="where"))])
    scores = ensemble.fit(GOOD, where=region()).training_scores_
    np.testing.assert_array_equal(ensemble.estimators_[0].roi_mask_, region())
    np.testing.assert_array_equal(ensemble.fit_transform(GOOD, where=region())[:, 0], scores)
    judged = ensemble.fit_predict(GOOD, where=region())
    np.testing.assert_array_equal(judged, ensemble.predict(GOOD))
    tall, y = images(HEIGHT + 1), np.r_[np.ones(HEIGHT, int), -1]
    ensemble.fit(tall, y, where=region())  # the mask is not cut with the samples
    pipe = make_pipeline(ImageFormatNormalizer(), ensemble)
    np.testing.assert_array_equal(pipe.fit_predict(GOOD, where=region()), judged)


def test_an_ensemble_asks_for_whom_the_mask_is():
    ensemble = ScoreEnsemble([("pixels", small())])
    with pytest.raises(ValueError, match=r"which member is roi_mask for.*enable_metadata_routing"):
        ensemble.fit(GOOD, roi_mask=region())
    with pytest.raises(AttributeError, match="goes to the members"):
        ensemble.set_fit_request(roi_mask=True)
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="roi_mask"):
            ensemble.fit(GOOD, roi_mask=region())
        with pytest.raises(TypeError, match="mask"):
            ensemble.fit(GOOD, mask=region())


def test_images_that_are_equal_in_the_region_are_told_to_count_as_one():
    images = np.zeros((6, 32, 32, 3), np.uint8)
    images[:, 16:] = np.arange(6)[:, None, None, None]
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    with pytest.raises(TooFewImagesError, match="only outside the region of interest"):
        PixelGaussianDetector(resize=32).fit(images, roi_mask=mask)
