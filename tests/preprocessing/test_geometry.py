"""Cropped and moved images: what detectors see, and maps in the pixels that came in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline

from pyimgano import PatchCoreDetector, ScoreEnsemble, TilingTransformer, anomaly_map
from pyimgano.detectors import PixelGaussianDetector, PixelMADDetector, nearest_normal
from pyimgano.exceptions import ImageFormatError, PreprocessingError
from pyimgano.features import FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inference import score_with_maps
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.inputs._placement import Placement
from pyimgano.preprocessing import GammaCorrection, ImageAlignment, RegionCrop

RNG = np.random.RandomState(0)
GOOD = RNG.randint(90, 110, size=(8, 40, 56, 3)).astype(np.uint8)
CROP = RegionCrop(top=8, left=12, height=24, width=30)
INSIDE = (slice(8, 32), slice(12, 42))


def detector():
    return PixelGaussianDetector(resize=None, smoothing_sigma=1)


def scene(size=(80, 96), seed=0):
    pattern = np.random.RandomState(seed).randint(0, 256, size=(*size, 3)).astype(np.float32)
    pattern = cv2.GaussianBlur(pattern, (0, 0), 2)
    return cv2.normalize(pattern, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def views(*corners, size=(48, 64)):
    """The same scene, seen from (row, column) on."""
    whole = scene()
    return np.stack([whole[r : r + size[0], c : c + size[1]] for r, c in corners])


# ---- placements -----------------------------------------------------------------------
@given(st.integers(-3, 6), st.integers(-3, 6), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_whole_pixels_are_put_where_they_were(top, left, height, width):
    heat = np.arange(1, height * width + 1, dtype=np.float32).reshape(height, width)
    placement = Placement(np.array([[1.0, 0, left], [0, 1, top]]), (5, 7))
    back = placement.put_back(heat)
    expected = np.full((5, 7), 1, dtype=np.float32)
    for r in range(height):
        for c in range(width):
            if 0 <= top + r < 5 and 0 <= left + c < 7:
                expected[top + r, left + c] = heat[r, c]
    np.testing.assert_array_equal(back, expected)


def test_a_quarter_turn_is_put_back():
    # (x, y) of the made image was at (2 - y, x) of the original.
    placement = Placement(np.array([[0.0, -1, 2], [1, 0, 0]]), (3, 3))
    heat = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.float32)
    np.testing.assert_allclose(placement.put_back(heat), [[7, 4, 1], [8, 5, 2], [9, 6, 3]])


# ---- crop -----------------------------------------------------------------------------
def test_crop_offsets_by_hand():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    prepared = RegionCrop(top=1, left=2, height=2).transform([image])
    np.testing.assert_array_equal(prepared[0], image[1:3, 2:])
    assert prepared.size(0) == (2, 3)
    placement = prepared.placement(0)
    np.testing.assert_array_equal(placement.motion, [[1, 0, 2], [0, 1, 1]])
    assert placement.size == (4, 5)
    assert RegionCrop().transform([image])[0].shape == (4, 5, 3)


def test_maps_of_a_crop_are_put_back():
    pipe = make_pipeline(CROP, detector()).fit(GOOD)
    by_hand = detector().fit(GOOD[:, 8:32, 12:42])
    X = GOOD.copy()
    X[1, 20:24, 30:33] = 255
    X[2, 2:6, 2:6] = 255  # outside: nobody sees it
    scores, maps = score_with_maps(pipe, X)
    np.testing.assert_array_equal(scores, -by_hand.score_samples(X[:, 8:32, 12:42]))
    inner = by_hand.anomaly_map(X[:, 8:32, 12:42])
    assert maps.shape == (8, 40, 56)
    for heat, part in zip(maps, inner):
        np.testing.assert_array_equal(heat[INSIDE], part)
        outside = np.ones((40, 56), dtype=bool)
        outside[INSIDE] = False
        assert (heat[outside] == part.min()).all()
    row, column = np.unravel_index(maps[1].argmax(), maps[1].shape)
    assert 20 <= row < 24 and 30 <= column < 33


BANK = FilterBankFeatures(resize=32)


@pytest.mark.parametrize(
    "steps",
    [
        [CROP, PatchCoreDetector(BANK)],
        [CROP, BANK, PatchCoreDetector()],  # patch grids carry the way back
        [PatchCoreDetector(make_pipeline(CROP, BANK))],
        [CROP, GammaCorrection(1.0), PatchCoreDetector(BANK)],
        [RegionCrop(3, 5), RegionCrop(5, 7, 24, 30), PatchCoreDetector(BANK)],
        [CROP, ScoreEnsemble([("one", PatchCoreDetector(BANK))])],
    ],
    ids=["images", "grids", "inside", "step between", "two", "ensemble"],
)
def test_every_way_leads_to_the_same_map(steps):
    by_hand = PatchCoreDetector(BANK).fit(GOOD[:, 8:32, 12:42])
    X = GOOD[:2].copy()
    X[:, 18:22, 20:25] = 255
    heat = anomaly_map(make_pipeline(*steps).fit(GOOD), X)
    inner = by_hand.anomaly_map(X[:, 8:32, 12:42])
    if isinstance(steps[-1], ScoreEnsemble):  # on a scale of its own
        assert np.corrcoef(heat[0][INSIDE].ravel(), inner[0].ravel())[0, 1] > 0.999
        assert (heat[:, :8] == heat.min(axis=(1, 2), keepdims=True)).all()
        return
    np.testing.assert_array_equal(heat[(slice(None), *INSIDE)], inner)
    assert (heat[:, 32:] == inner.min(axis=(1, 2), keepdims=True)).all()


@pytest.mark.parametrize("crop_first", [True, False])
def test_the_nearest_normal_place_of_a_crop(crop_first):
    inside = PatchCoreDetector(make_pipeline(CROP, BANK))
    model = make_pipeline(CROP, PatchCoreDetector(BANK)) if crop_first else inside
    X = GOOD[:1].copy()
    X[0, 18:22, 20:25] = 255
    found = nearest_normal(model.fit(GOOD), X, GOOD)
    top, left, height, width = found.place
    shift = (8, 12) if crop_first else (0, 0)  # a step before the detector: in its pixels
    assert found.pixels.shape == ((24, 30, 3) if crop_first else (40, 56, 3))
    assert top <= 20 - shift[0] < top + height and left <= 22 - shift[1] < left + width
    again = nearest_normal(model, X, place=(20 - shift[0], 22 - shift[1]))
    assert again.place == found.place
    if not crop_first:
        with pytest.raises(ValueError, match="there is no patch at place"):
            nearest_normal(model, X, place=(3, 3))


def test_tiles_of_a_crop():
    tiling = TilingTransformer(tile=16, stride=12)
    by_hand = make_pipeline(tiling, detector()).fit(GOOD[:, 8:32, 12:42])
    heat = anomaly_map(make_pipeline(CROP, tiling, detector()).fit(GOOD), GOOD)
    inner = anomaly_map(by_hand, GOOD[:, 8:32, 12:42])
    np.testing.assert_array_equal(heat[(slice(None), *INSIDE)], inner)


def test_a_region_of_interest_is_in_the_pixels_of_the_crop():
    mask = np.zeros((24, 30), dtype=bool)
    mask[4:20, 4:26] = True
    pipe = make_pipeline(CROP, detector()).fit(GOOD, pixelgaussiandetector__roi_mask=mask)
    heat = anomaly_map(pipe, GOOD)
    outside = np.ones((40, 56), dtype=bool)
    outside[12:28, 16:38] = False
    assert (heat[:, outside] == heat.min(axis=(1, 2))[:, None]).all()
    assert (heat[:, ~outside] > heat.min(axis=(1, 2))[:, None]).mean() > 0.9


def test_a_crop_that_lies_outside_is_an_error_of_that_image():
    small = np.zeros((31, 56, 3), dtype=np.uint8)
    prepared = CROP.transform([GOOD[0], small])
    message = (
        r"image 1: the region, rows 8 to 31 and columns 12 to 41, does not lie in an image of "
        r"31 x 56 pixels \(height x width\)"
    )
    for ask in (lambda: prepared[1], lambda: prepared.size(1), lambda: list(prepared)):
        with pytest.raises(ImageFormatError, match=message):
            ask()
    with pytest.raises(ImageFormatError, match=r"rows 40 on and columns 0 on"):
        RegionCrop(top=40).transform(GOOD)[0]


# ---- alignment ------------------------------------------------------------------------
def test_the_reference_is_the_image_most_like_the_mean():
    X = views((8, 8), (8, 8), (8, 8), (14, 3))
    step = ImageAlignment().fit(X[[3, 0, 1, 2]])
    np.testing.assert_array_equal(step.reference_, cv2.cvtColor(X[0], cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize(("method", "close"), [("ecc", 0.1), ("phase_correlation", 0.5)])
def test_alignment_undoes_a_shift_and_maps_follow_it_back(method, close):
    X = views((8, 8), (8, 8), (8, 8), (11, 6))
    step = ImageAlignment(method, "translation").fit(X)
    aligned = step.transform(X)
    np.testing.assert_array_equal(aligned[0], X[0])
    assert aligned.placement(0) is None
    motion, size = aligned.placement(3)
    np.testing.assert_allclose(motion, [[1, 0, 2], [0, 1, -3]], atol=close)
    assert size == (48, 64)
    # Rows 3 to 47 of the frame are in view.
    off = np.abs(aligned[3][4:, :60].astype(int) - X[0][4:, :60])
    assert off.mean() < 6 < 20 < np.abs(X[3].astype(int) - X[0]).mean()

    noise = np.random.RandomState(1).randint(0, 9, size=(6, *X[0].shape)).astype(np.uint8)
    train = X[[0, 0, 0, 3, 3, 3]] // 2 + noise
    pipe = make_pipeline(step, PixelMADDetector(resize=None, smoothing_sigma=1)).fit(train)
    bad = X[3:] // 2
    bad[0, 20:24, 30:34] = 255
    heat = anomaly_map(pipe, bad)[0]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 19 <= row <= 24 and 29 <= column <= 34


def test_grids_of_aligned_images_carry_the_way_back():
    X = views((8, 8), (8, 8), (9, 8), (8, 7))
    pipe = make_pipeline(ImageAlignment(), FilterBankFeatures(resize=48), PatchCoreDetector())
    inside = make_pipeline(ImageAlignment(), PatchCoreDetector(FilterBankFeatures(resize=48)))
    expected = anomaly_map(inside.fit(X), X)
    np.testing.assert_array_equal(anomaly_map(pipe.fit(X), X), expected)
    grids = pipe[:-1].transform(X)
    assert grids.motions.shape == (4, 2, 3)
    assert (grids.motions == np.eye(2, 3)).all(axis=(1, 2)).sum() == 2  # the reference, twice
    values = np.arange(len(grids.rows), dtype=np.float32)
    whole = grids.to_pixels(values, sigma=0)
    parts = [grids[np.array([3, 1])], PatchGrids.concatenate([grids[3:], grids[1:2]])]
    for part in parts:
        rows = np.concatenate([grids.as_grid(values)[i].ravel() for i in (3, 1)])
        for heat, one in zip(part.without_features().to_pixels(rows, sigma=0), (3, 1)):
            np.testing.assert_array_equal(heat, whole[one])


def test_parts_in_any_direction():
    whole = scene((64, 64), seed=3)
    center = (31.5, 31.5)
    turned = [
        cv2.warpAffine(
            whole, cv2.getRotationMatrix2D(center, a, 1), (64, 64), borderMode=cv2.BORDER_REPLICATE
        )
        for a in (0, 0, 0, 97, 200)
    ]
    step = ImageAlignment(n_directions=24).fit(turned[:3])
    yy, xx = np.mgrid[:64, :64] - 31.5
    disk = yy**2 + xx**2 < 28**2
    for image in turned[3:]:
        off = np.abs(step.transform([image])[0].astype(int) - whole)[disk]
        assert off.mean() < 8 < 30 < np.abs(image.astype(int) - whole)[disk].mean()
    lost = ImageAlignment().fit(turned[:3]).transform(turned)
    with pytest.raises(PreprocessingError, match="image 3: the image could not be aligned"):
        lost[3]


def test_what_cannot_be_aligned_is_an_error_of_that_image():
    step = ImageAlignment().fit(views((8, 8), (8, 8), (9, 9)))
    prepared = step.transform([*views((8, 8)), np.full((48, 64, 3), 128, np.uint8), GOOD[0]])
    assert prepared[0].shape == (48, 64, 3)
    with pytest.raises(PreprocessingError, match=r"image 1: the image could not be aligned"):
        prepared[1]
    message = r"image 2: the image has 40 x 56 pixels .* reference 48 x 64: .*resize=\(48, 64\)"
    with pytest.raises(ImageFormatError, match=message):
        prepared[2]
    with pytest.raises(ImageFormatError, match=r"image 1: the image has 40 x 56"):
        step.fit([*views((8, 8)), GOOD[0]])
    other = cv2.addWeighted(views((8, 8))[0], 0.6, scene(size=(48, 64), seed=5), 0.4, 0)
    with pytest.raises(PreprocessingError, match=r"correlation .* below min_correlation=0.99"):
        step.set_params(min_correlation=0.99).fit(views((8, 8), (8, 8))).transform([other])[0]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (ImageAlignment("phase_correlation"), "needs method='ecc': phase correlation finds"),
        (ImageAlignment(motion="translation", n_directions=4), "does not turn images"),
        (ImageAlignment(n_directions=0), "n_directions"),
        (ImageAlignment(min_correlation=2), "min_correlation"),
        (RegionCrop(top=-1), "top"),
        (RegionCrop(height=0), "height"),
    ],
)
def test_parameters_out_of_range_are_refused(step, message):
    with pytest.raises(ValueError, match=message):
        step.fit(GOOD)


def test_placements_are_found_again_once_forgotten(monkeypatch):
    monkeypatch.setattr("pyimgano.preprocessing._base._MOST_PLACEMENTS", 2)
    prepared = CROP.transform(GOOD)
    assert len([one for block in prepared.iter_blocks(3) for one in block]) == 8
    assert len(prepared._placements) == 2
    assert [prepared.placement(i).size for i in range(8)] == [(40, 56)] * 8


def test_a_format_step_comes_first():
    with pytest.raises(ImageFormatError, match="put the ImageFormatNormalizer before"):
        make_pipeline(CROP, ImageFormatNormalizer(resize=16), detector()).fit(GOOD)
