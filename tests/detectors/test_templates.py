"""Template detectors: known z-scores, exact leaving out, forgiven shifts, maps in place."""

from __future__ import annotations

import os
import tempfile
import warnings

import cv2
import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors import (
    NCCTemplateDetector,
    PixelGaussianDetector,
    PixelMADDetector,
    SSIMTemplateDetector,
)
from pyimgano.exceptions import AlignmentWarning, TooFewImagesError
from pyimgano.grids import PatchGrids
from pyimgano.inputs import ImageSequence
from pyimgano.tiling import TilingTransformer

PIXEL = [PixelGaussianDetector, PixelMADDetector]
WINDOW = [SSIMTemplateDetector, NCCTemplateDetector]
PLAIN = {"resize": None, "max_shift": 0, "smoothing_sigma": 0}


def flat(*levels, size=(8, 10)):
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


def scene(size=(64, 64), seed=0, blur=2.0):
    """A part full of pattern, gray levels 0 to 255 in three equal channels."""
    noise = np.random.RandomState(seed).normal(size=size).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), blur)
    gray = (noise - noise.min()) / np.ptp(noise) * 255
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def noisy(image, n, sigma=2.0, seed=0):
    noise = np.random.RandomState(seed).normal(0, sigma, size=(n, *image.shape))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def moved(image, dx, dy, angle=0.0):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    matrix[:, 2] += dx, dy
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize("detector", [*PIXEL, *WINDOW])
def test_a_full_folder_of_temporary_files_is_named(detector, monkeypatch, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")

    def full(buffering=-1):
        return open("/dev/full", "r+b", buffering=buffering)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(
        OSError, match=r"No space left.*training images.*MiB so far.*TMPDIR"
    ) as caught:
        detector(**PLAIN).fit(flat(90, 100, 110))
    assert str(tmp_path) in str(caught.value)


# ---- known values -------------------------------------------------------------------


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_gaussian_z_score_of_a_flat_image(color):
    # Mean 100, variance (100 + 0 + 100) / 2; with the noise 100 + 9.
    detector = PixelGaussianDetector(color=color, noise_sigma=3, **PLAIN).fit(flat(90, 100, 110))
    z = 21 / np.sqrt(109)
    np.testing.assert_allclose(detector.score_samples(flat(121, 79)), -z, rtol=1e-6)
    np.testing.assert_allclose(detector.anomaly_map(flat(121)), z, rtol=1e-6)
    # Without 90: mean 105, variance 50; without 100: mean 100, variance 200.
    expected = [15 / np.sqrt(59), 0, 15 / np.sqrt(59)]
    np.testing.assert_allclose(detector.training_scores_, expected, rtol=1e-6)


def test_mad_z_score_of_a_flat_image():
    detector = PixelMADDetector(color="gray", noise_sigma=0, **PLAIN)
    detector.fit(flat(90, 98, 100, 104, 250))  # median 100, deviations 0 2 4 10 150
    z = 20 / (1.4826022185 * 4)
    np.testing.assert_allclose(detector.score_samples(flat(120)), -z, rtol=1e-6)
    # Without 250: median 99, deviations 1 1 5 9, MAD 3.
    np.testing.assert_allclose(detector.training_scores_[4], 151 / (1.4826022185 * 3), rtol=1e-6)


def test_channels_count_by_their_mean_square():
    detector = PixelGaussianDetector(color="rgb", noise_sigma=0, **PLAIN).fit(flat(49, 50, 51))
    image = flat(50)
    image[..., 0] = 56
    image[..., 1] = 47
    np.testing.assert_allclose(-detector.score_samples(image), np.sqrt((36 + 9) / 3), rtol=1e-6)


@pytest.mark.parametrize("cls", WINDOW)
@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_an_image_equal_to_the_template_scores_zero(cls, color):
    image = scene()
    train = np.stack([image] * 3)
    for i in range(3):  # each differs from the median image at a place of its own
        train[i, 20 * i : 20 * i + 8] = 255 - train[i, 20 * i : 20 * i + 8]
    detector = cls(
        color=color,
        window=7,
        **PLAIN,
    ).fit(train)
    np.testing.assert_allclose(detector.anomaly_map(image[None]), 0, atol=1e-5)
    tolerant = cls(color=color, window=7, resize=None, max_shift=1).fit(train)
    np.testing.assert_allclose(tolerant.anomaly_map(image[None]), 0, atol=1e-5)
    assert -detector.score_samples(image[None, :, ::-1])[0] > 0.5


def test_ssim_of_flat_images_is_luminance():
    detector = SSIMTemplateDetector(**PLAIN).fit(flat(99, 100, 101))
    c1 = 2.55**2
    expected = 1 - (2 * 100 * 140 + c1) / (100**2 + 140**2 + c1)
    np.testing.assert_allclose(-detector.score_samples(flat(140)), expected, rtol=1e-4)


def test_ncc_forgets_gain_and_offset_and_ssim_does_not():
    image = scene()
    dim = (0.6 * image + 30).astype(np.uint8)[None]
    for cls, low, high in ((NCCTemplateDetector, 0, 0.1), (SSIMTemplateDetector, 0.1, 1)):
        detector = cls(window=11, **PLAIN).fit(noisy(image, 6))
        assert low <= -detector.score_samples(dim)[0] < high
        inverted = -detector.score_samples(255 - image[None])[0]
        assert inverted > 1.5


def test_top_fraction_is_the_mean_of_the_largest():
    good = flat(99, 100, 101, size=(10, 10))
    image = good[1:2].copy()
    image[0, 0, :4] = [[110], [120], [130], [140]]
    for fraction, expected in ((0, 40), (0.01, 40), (0.04, 25), (0.1, 10), (1, 1)):
        detector = PixelGaussianDetector(
            color="gray", noise_sigma=0, top_fraction=fraction, **PLAIN
        ).fit(good)
        np.testing.assert_allclose(-detector.score_samples(image), expected, rtol=1e-6)


# ---- leaving one out ----------------------------------------------------------------


@pytest.mark.parametrize("cls", PIXEL + WINDOW)
@pytest.mark.parametrize("n", [4, 5, 8, 9])
@pytest.mark.parametrize(
    "parameters",
    [{}, {"color": "rgb", "max_shift": 2, "smoothing_sigma": 0, "top_fraction": 0.1}],
)
def test_training_scores_are_those_of_a_detector_fitted_without_the_image(cls, n, parameters):
    X = noisy(scene((20, 24)), n, sigma=20)

    def make():
        return cls(resize=20, **parameters)

    expected = [-make().fit(np.delete(X, i, 0)).score_samples(X[[i]])[0] for i in range(n)]
    detector = make().fit(X)
    np.testing.assert_allclose(detector.training_scores_, expected, rtol=1e-5)
    refitted = make().fit(X[1:]).anomaly_map(X[:1])
    np.testing.assert_allclose(detector.anomaly_map(X[:1]), refitted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", PIXEL + WINDOW)
@pytest.mark.parametrize("n", [5, 6])
def test_training_scores_of_rows(cls, n):
    X = np.random.RandomState(0).normal(size=(n, 4)).astype(np.float32)
    X[:, 2] = 3  # constant but for one
    X[0, 2] = 4
    expected = [-cls().fit(np.delete(X, i, 0)).score_samples(X[[i]])[0] for i in range(n)]
    np.testing.assert_allclose(cls().fit(X).training_scores_, expected, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 255), min_size=4, max_size=9))
def test_median_and_mad_without_one_follow_from_the_middle(levels):
    detector = PixelMADDetector(color="gray", noise_sigma=1, **PLAIN)
    X = flat(*levels, size=(1, 1))
    if max(levels.count(v) for v in levels) > len(levels) - 2:
        with pytest.raises(TooFewImagesError, match="different"):
            detector.fit(X)
        return
    scores = detector.fit(X).training_scores_
    for i, level in enumerate(levels):
        rest = np.array([v for v in levels if v != level], float)  # copies go together
        mad = 1.4826022185 * np.median(np.abs(rest - np.median(rest)))
        expected = abs(level - np.median(rest)) / np.hypot(mad, 1)
        np.testing.assert_allclose(scores[i], expected, rtol=1e-5)


@pytest.mark.parametrize("cls", PIXEL + WINDOW)
def test_copies_of_an_image_are_left_out_together(cls):
    X = noisy(scene((20, 24)), 6)
    doubled = cls(resize=None).fit(X[[0, 1, 2, 3, 4, 5, 2]])
    alone = cls(resize=None).fit(np.delete(X, 2, 0)).score_samples(X[[2]])
    np.testing.assert_allclose(doubled.training_scores_[[2, 6]], -alone[[0, 0]], rtol=1e-5)


def test_too_few_images():
    X = noisy(scene((20, 24)), 3)
    for cls in PIXEL:
        with pytest.raises(TooFewImagesError, match="n_samples=1"):
            cls().fit(X[:1])
        with pytest.raises(TooFewImagesError, match="2 different training"):
            cls().fit(X[:2])
        assert np.isfinite(cls().fit(X).training_scores_).all()
    for cls in WINDOW:
        assert np.isfinite(cls().fit(X[:2]).training_scores_).all()
        with pytest.raises(TooFewImagesError, match="different"):
            cls().fit(X[[0, 0, 0]])


# ---- maps ---------------------------------------------------------------------------


@pytest.mark.parametrize("cls", PIXEL + WINDOW)
def test_the_map_is_hot_at_the_defect_in_input_pixels(cls):
    part = scene((96, 128), blur=3)
    good, bad = noisy(part, 12), noisy(part, 1, seed=1)
    bad[0, 20:44, 80:104] = noisy(scene((24, 24), seed=5, blur=1), 1)[0]
    detector = cls(resize=(48, 64), smoothing_sigma=1).fit(good)
    heat = detector.anomaly_map(bad)[0]
    assert heat.shape == (96, 128)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 20 <= row < 44 and 80 <= column < 104
    far = np.ones(heat.shape, bool)
    far[4:60, 64:120] = False
    assert heat[20:44, 80:104].mean() > 3 * heat[far].mean()
    assert detector.predict(bad)[0] == -1


def test_images_of_different_sizes():
    good = list(noisy(scene(), 6))
    good[2] = cv2.resize(good[2], (100, 80))
    detector = PixelGaussianDetector(resize=32).fit(good)
    assert [m.shape for m in detector.anomaly_map(good)][1:4] == [(64, 64), (80, 100), (64, 64)]
    with pytest.raises(ValueError, match=r"\(64, 64\).*\(80, 100\): set resize"):
        PixelGaussianDetector(resize=None).fit(good)
    fitted = PixelGaussianDetector(resize=None).fit(good[3:])
    with pytest.raises(ValueError, match="set resize"):
        fitted.predict([good[2]])


# ---- tolerance for shifts -----------------------------------------------------------


@pytest.mark.parametrize("cls", PIXEL + WINDOW)
def test_a_shift_is_forgiven_up_to_max_shift(cls):
    part = scene((72, 72), blur=3)
    good, shifted = noisy(part[4:68, 4:68], 10), noisy(part[6:70, 2:66], 1, seed=1)
    unmoved = noisy(part[4:68, 4:68], 1, seed=1)

    def scores(max_shift):
        detector = cls(resize=None, max_shift=max_shift, smoothing_sigma=1, top_fraction=0.5)
        return -detector.fit(good).score_samples([*unmoved, *shifted])

    strict, tolerant = scores(0), scores(2)
    assert strict[1] > 3 * strict[0]
    assert tolerant[1] < 1.5 * max(tolerant[0], 0.01) + 0.05
    assert (tolerant <= strict + 1e-6).all()


# ---- alignment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alignment", "motion", "angle"),
    [
        ("phase_correlation", "translation", 0),
        ("ecc", "translation", 0),
        ("ecc", "euclidean", 4),
        ("ecc", "affine", 4),
    ],
)
def test_alignment_undoes_a_known_motion(alignment, motion, angle):
    part = scene((96, 96), blur=3)
    good = noisy(part, 8)
    new = noisy(moved(part, 5, -3, angle), 1, seed=1)
    bad = part.copy()
    bad[30:46, 50:66] = 128
    bad = noisy(moved(bad, 5, -3, angle), 1, seed=2)
    parameters = {"resize": None, "smoothing_sigma": 1, "top_fraction": 0.05}
    plain = PixelGaussianDetector(**parameters).fit(good)
    aligned = PixelGaussianDetector(alignment=alignment, motion=motion, **parameters).fit(good)
    assert -plain.score_samples(new)[0] > 5
    assert -aligned.score_samples(new)[0] < 3
    heat = aligned.anomaly_map(bad)[0]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    mask = np.zeros((96, 96), np.uint8)
    mask[30:46, 50:66] = 255
    assert moved(mask, 5, -3, angle)[row, column] > 0  # in the input's pixels


def test_the_training_images_are_aligned_too():
    part = scene((80, 80), blur=3)
    rng = np.random.RandomState(0)
    good = np.stack([moved(part, *rng.uniform(-4, 4, size=2)) for _ in range(12)])
    plain = PixelGaussianDetector(resize=None).fit(good)
    aligned = PixelGaussianDetector(resize=None, alignment="phase_correlation").fit(good)
    inner = np.s_[:, 8:-8, 8:-8]
    assert aligned.variance_[inner].mean() < 0.1 * plain.variance_[inner].mean()
    assert aligned.reference_.shape == (80, 80)


def test_what_cannot_be_aligned_is_compared_as_it_lies_with_a_warning():
    part = scene((64, 64), blur=3)
    good = noisy(part, 6)
    detector = PixelGaussianDetector(resize=None, alignment="ecc", motion="affine").fit(good)
    plain = PixelGaussianDetector(resize=None).fit(good)
    blank = flat(90, size=(64, 64))
    with pytest.warns(AlignmentWarning, match="1 of 2 images could not be aligned .*as they lie"):
        scores = detector.score_samples([blank[0], good[0]])
    assert scores[0] < 2 * plain.offset_  # the score of something quite different
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.score_samples(noisy(part, 1, seed=1))


def test_parameters_that_contradict_each_other():
    images, rows = noisy(scene(), 4), np.random.RandomState(0).normal(size=(9, 3))
    with pytest.raises(ValueError, match="'affine' needs alignment='ecc'"):
        PixelGaussianDetector(alignment="phase_correlation", motion="affine").fit(images)
    with pytest.raises(ValueError, match="patch grids and feature rows take alignment=None"):
        PixelGaussianDetector(alignment="ecc").fit(rows)
    with pytest.raises(ValueError, match="window=8 must be odd"):
        SSIMTemplateDetector(window=8).fit(images)
    for wrong in ({"color": "hsv"}, {"max_shift": -1}, {"noise_sigma": -1}, {"top_fraction": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PixelMADDetector(**wrong).fit(images)


# ---- properties ---------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 40), st.sampled_from(PIXEL))
def test_more_light_in_all_images_changes_no_z_score(offset, cls):
    X = np.clip(noisy(scene((12, 12)), 6), 50, 200)
    kinds = {"resize": None, "color": "rgb", "max_shift": 1}
    expected = cls(**kinds).fit(X[:5]).score_samples(X[5:])
    got = cls(**kinds).fit(X[:5] + np.uint8(offset)).score_samples(X[5:] + np.uint8(offset))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("cls", PIXEL + WINDOW)
def test_mirrored_images_have_mirrored_maps(cls):
    X = noisy(scene((24, 30)), 7, sigma=10)
    heat = cls(resize=None).fit(X[:6]).anomaly_map(X[6:])
    flipped = cls(resize=None).fit(X[:6, :, ::-1]).anomaly_map(X[6:, :, ::-1])
    np.testing.assert_allclose(flipped[:, :, ::-1], heat, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cls", PIXEL)
def test_z_scores_of_rows_do_not_depend_on_units(cls):
    X = np.random.RandomState(0).normal(size=(20, 3))
    units = np.array([1e-6, 1.0, 1e6])
    expected = cls().fit(X).score_samples(X[:5] + 1)
    np.testing.assert_allclose(
        cls().fit(X * units).score_samples((X[:5] + 1) * units), expected, rtol=1e-4
    )


def test_patch_grids_have_a_template_at_each_position():
    features = np.random.RandomState(0).normal(size=(30, 3, 4, 5))
    features[:, 1, 2] += 9  # a position of its own
    new = features[:1] + 0.01
    new[0, 0, 0] += 9
    for cls in PIXEL:
        detector = cls(smoothing_sigma=0).fit(PatchGrids.from_array(features))
        heat = detector.anomaly_map(PatchGrids.from_array(new))[0]
        assert np.unravel_index(heat.argmax(), heat.shape) == (0, 0)
    with pytest.raises(ValueError, match="give the feature step a fixed resize"):
        detector.predict(PatchGrids.from_array(new[:, :2]))


def test_tiles_are_samples_like_others():
    tiled = TilingTransformer(tile=16, stride=16).fit_transform(noisy(scene((32, 32)), 6, sigma=9))
    detector = PixelGaussianDetector(resize=None).fit(tiled)
    assert detector.training_scores_.shape == (6,)
    assert detector.anomaly_map(tiled).shape == (6, 32, 32)


# ---- files, batches, state ----------------------------------------------------------


@pytest.mark.parametrize("cls", PIXEL + WINDOW)
def test_files_and_arrays_agree_in_any_batch_after_any_dump(cls, tmp_path):
    part = scene((40, 40), blur=3)
    X, new = noisy(part, 12), noisy(part, 10, seed=1)
    paths = [str(tmp_path / f"{i}.png") for i in range(12)]
    for path, image in zip(paths, X):
        cv2.imwrite(path, image[..., ::-1])
    detector = cls(resize=32, alignment="ecc", motion="euclidean").fit(X)
    from_files = cls(resize=32, alignment="ecc", motion="euclidean").fit(ImageSequence(paths))
    scores, maps = detector.score_and_map(new)
    np.testing.assert_array_equal(from_files.training_scores_, detector.training_scores_)
    np.testing.assert_array_equal(from_files.score_samples(new), scores)
    alone = np.concatenate([detector.score_samples(new[[i]]) for i in range(10)])
    np.testing.assert_array_equal(alone, scores)
    joblib.dump(detector, tmp_path / "d.joblib")
    for mode in (None, "r"):
        loaded = joblib.load(tmp_path / "d.joblib", mmap_mode=mode)
        np.testing.assert_array_equal(loaded.score_samples(new), scores)
        np.testing.assert_array_equal(loaded.anomaly_map(new), maps)
        np.testing.assert_array_equal(loaded.anomaly_map(X[:2]), detector.anomaly_map(X[:2]))


def test_alignment_finds_what_moved_boards_hide():
    data = make_inspection_dataset(
        "circuit_board", n_train=24, n_test_good=8, n_test_defect=12, size=128, random_state=0
    )
    X, bad = np.asarray(data.X_test), np.asarray(data.y_test) == -1

    def share(**parameters):
        detector = PixelGaussianDetector(resize=128, smoothing_sigma=2, **parameters)
        scores = -detector.fit(data.X_train).score_samples(X)
        return (scores[bad][:, None] > scores[~bad]).mean()  # AUROC

    aligned = share(alignment="ecc", motion="euclidean")
    assert aligned > share() + 0.1
    assert aligned > 0.7


def test_bottle(shared_data):
    folder = shared_data / "data" / "bottle256"
    detector = PixelGaussianDetector().fit(ImageSequence.from_folder(folder / "train" / "good"))
    test = ImageSequence.from_folder(folder / "test", recursive=True)
    scores = -detector.score_samples(test)
    bad = np.array(["good" not in path for path in test.paths])
    assert (scores[bad][:, None] > scores[~bad]).mean() > 0.96
