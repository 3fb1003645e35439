"""Large images in tiles: cutting, stitching, and what a detector makes of them."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from pyimgano import TilingTransformer
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import AnomalyDINODetector, PaDiMDetector, PatchCoreDetector
from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.features import BasePatchFeatures, FilterBankFeatures
from pyimgano.grids import PatchGrids
from pyimgano.inference import anomaly_map, infer, score_with_maps
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence, check_images
from pyimgano.testing import make_check_images, yield_image_checks
from pyimgano.tiling import TiledImages

pytestmark = pytest.mark.usefixtures("metrics_kept")

BLENDS = ("hann", "gaussian", "mean", "max")


class Means(BasePatchFeatures):
    """Mean and spread of the colors of each 8 x 8 pixels: nothing is learned or resized."""

    def __init__(self, batch_size=3):
        self.batch_size = batch_size

    def _validate_params(self):
        pass

    def _extract(self, images):
        grids = []
        for image in images:
            size = (image.shape[1] // 8, image.shape[0] // 8)
            pixels = image.astype(np.float32) / 16
            mean = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            square = cv2.resize(pixels**2, size, interpolation=cv2.INTER_AREA)
            spread = np.sqrt(np.maximum(square - mean**2, 0))
            features = np.concatenate([mean, spread], axis=2)[None]
            grids.append(PatchGrids.from_array(features, [image.shape[:2]], None, image.shape[:2]))
        return PatchGrids.concatenate(grids)


@st.composite
def tilings(draw, largest=40):
    """Parameters of a transformer and the size of an image."""
    size = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    tile = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    stride = draw(st.integers(1, tile[0])), draw(st.integers(1, tile[1]))
    stride = tuple(max(s, t // 6, n // 8) if s < t else s for s, t, n in zip(stride, tile, size))
    stride = tuple(min(s, t) for s, t in zip(stride, tile))
    return {
        "tile": tile,
        "stride": stride,
        "blend": draw(st.sampled_from(BLENDS)),
        "pad_mode": draw(st.sampled_from(("reflect", "symmetric", "edge", "constant"))),
    }, size


@settings(deadline=None, max_examples=60)
@given(tilings(), st.integers(0, 2**32 - 1))
def test_images_survive_the_round_trip(case, seed):
    parameters, size = case
    images = np.random.RandomState(seed).randint(0, 256, size=(2, *size, 3)).astype(np.uint8)
    step = TilingTransformer(**parameters)
    tiles = step.transform(images)
    assert len(tiles) == 2 and tiles.shape == (2,)
    assert tiles[1].shape[1:] == (*parameters["tile"], 3)
    assert len(tiles[1]) == tiles.counts[1]
    np.testing.assert_array_equal(step.inverse_transform(tiles), images)
    again = step.inverse_transform([tiles[0]], image_sizes=[size])
    np.testing.assert_array_equal(again, images[:1])


@settings(deadline=None, max_examples=60)
@given(tilings(), st.floats(-1e3, 1e3, width=32))
def test_a_constant_map_stays_constant_at_every_pixel(case, value):
    parameters, size = case
    step = TilingTransformer(**parameters)
    n_tiles = len(step.transform([np.zeros((*size, 3), np.uint8)])[0])
    maps = np.full((1, n_tiles, *parameters["tile"]), value, dtype=np.float32)
    (stitched,) = step.inverse_transform(maps, image_sizes=[size])
    assert stitched.shape == size and stitched.dtype == np.float32
    np.testing.assert_allclose(stitched, value, rtol=1e-6, atol=1e-30)  # subnormal numbers


@settings(deadline=None, max_examples=60)
@given(tilings(), st.integers(0, 2**32 - 1))
def test_a_map_survives_the_round_trip_and_blends_stay_within_the_tiles(case, seed):
    parameters, size = case
    step = TilingTransformer(**parameters)
    # A map cut into tiles by way of its pixels.
    image = np.random.RandomState(seed).randint(0, 256, size=(*size, 3)).astype(np.uint8)
    tiles = step.transform([image])[0][..., 0].astype(np.float32)
    (stitched,) = step.inverse_transform([tiles], image_sizes=[size])
    np.testing.assert_allclose(stitched, image[..., 0], rtol=1e-6)
    noisy = np.random.RandomState(seed).normal(size=tiles.shape).astype(np.float32)
    (stitched,) = step.inverse_transform([noisy], image_sizes=[size])
    assert np.isfinite(stitched).all()  # every pixel is covered
    assert noisy.min() - 1e-5 <= stitched.min() <= stitched.max() <= noisy.max() + 1e-5


def test_where_the_tiles_lie():
    image = np.arange(10, dtype=np.uint8)[None, :, None] * np.ones((3, 1, 3), np.uint8)
    tiles = TilingTransformer(tile=(2, 4), stride=(2, 3)).transform([image])[0]
    # Rows 0-1 and, moved back to end with the image, 1-2; columns from 0, 3 and 6.
    assert tiles.shape == (6, 2, 4, 3)
    np.testing.assert_array_equal(tiles[:, 0, 0, 0], [0, 3, 6, 0, 3, 6])
    tiles = TilingTransformer(tile=(2, 4), stride=(2, 4)).transform([image])[0]
    np.testing.assert_array_equal(tiles[:3, 0, 0, 0], [0, 4, 6])


@pytest.mark.parametrize(
    ("pad_mode", "row"),
    [
        ("reflect", [1, 2, 3, 2, 1]),
        ("symmetric", [1, 2, 3, 3, 2]),
        ("edge", [1, 2, 3, 3, 3]),
        ("constant", [1, 2, 3, 0, 0]),
    ],
)
def test_small_images_are_filled_up(pad_mode, row):
    image = np.array([1, 2, 3], np.uint8)[None, :, None] * np.ones((5, 1, 3), np.uint8)
    tiles = TilingTransformer(tile=5, pad_mode=pad_mode).transform([image])[0]
    np.testing.assert_array_equal(tiles[0, 0, :, 0], row)


@pytest.mark.parametrize(
    ("blend", "expected"),
    [
        # Two tiles of 4 pixels, 2 apart: 0 and 1. In the middle, weights of the one's third
        # and fourth pixel against the other's first and second.
        ("mean", [0, 0, 0.5, 0.5, 1, 1]),
        ("max", [0, 0, 1, 1, 1, 1]),
        # sin^2 of 22.5, 67.5, 112.5 and 157.5 degrees
        ("hann", [0, 0, 0.1464466, 0.8535534, 1, 1]),
        # exp(-z^2 / 2), z = -1.5, -0.5, 0.5, 1.5: 1 / (1 + e) and its complement
        ("gaussian", [0, 0, 0.2689414, 0.7310586, 1, 1]),
    ],
)
def test_blends_by_hand(blend, expected):
    maps = np.zeros((1, 2, 1, 4), np.float32)
    maps[0, 1] = 1
    step = TilingTransformer(tile=(1, 4), stride=(1, 2), blend=blend)
    stitched = step.inverse_transform(maps, image_sizes=[(1, 6)])
    np.testing.assert_allclose(stitched[0, 0], expected, atol=1e-6)


def test_wrong_parameters():
    X = make_check_images(2)
    for parameters, message in [
        ({"tile": 32, "stride": 33}, "never be looked at"),
        ({"tile": (32, 16), "stride": 32}, "never be looked at"),
        ({"tile": (32, 0)}, "of at least 1"),
        ({"tile": (32, 32, 3)}, "of at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            TilingTransformer(**parameters).fit(X)
        with pytest.raises(ValueError, match=message):
            TilingTransformer(**parameters).transform(X)
    for parameters in ({"blend": "median"}, {"score_reduce": "min"}, {"topk": 0}, {"tile": 0}):
        with pytest.raises(InvalidParameterError, match=next(iter(parameters))):
            TilingTransformer(**parameters).fit(X)


def test_wrong_tiles():
    step = TilingTransformer(tile=32)
    tiles = step.transform(make_check_images(2))
    with pytest.raises(ValueError, match="image_sizes is needed"):
        step.inverse_transform([tiles[0]])
    with pytest.raises(ValueError, match=r"image 0 .* \(4, 32, 32\)"):
        step.inverse_transform([tiles[0][:3]], image_sizes=[(48, 64)])
    with pytest.raises(ValueError, match="2 image_sizes"):
        step.inverse_transform([tiles[0]], image_sizes=[(48, 64)] * 2)


def test_slicing_stays_lazy(tmp_path):
    files = ImageSequence([tmp_path / "missing.png"] * 5)
    tiles = TilingTransformer().fit_transform(files)
    part = tiles[np.array([4, 2])][:1]
    assert isinstance(part, TiledImages) and len(part) == 1 and len(part.paths) == 1


def test_other_steps_refuse_tiles_and_say_why():
    tiles = TilingTransformer(tile=32).transform(make_check_images(4))
    for refuse in (
        lambda: FilterBankFeatures(resize=64).fit(tiles),
        lambda: TilingTransformer().transform(tiles),
        lambda: check_images(tiles),
    ):
        with pytest.raises(ImageFormatError, match="put the feature step inside the detector"):
            refuse()
    with pytest.raises(TypeError, match="put the feature step inside the detector"):
        StandardScaler().fit(tiles)


def _write(images, folder: Path):
    paths = []
    for i, image in enumerate(images):
        paths.append(str(folder / f"{i}.png"))
        cv2.imwrite(paths[-1], image[..., ::-1])
    return paths


def test_single_tiles_by_position(tmp_path):
    images = [make_check_images(1, size=size)[0] for size in [(70, 64), (20, 100), (64, 64)]]
    step = TilingTransformer(tile=32, stride=8)
    for X in (images, _write(images, tmp_path)):
        flat = step.transform(X).side_by_side()
        assert len(flat) == 4 + 3 + 4
        np.testing.assert_array_equal(flat[3], images[0][32:64, 32:64])
        np.testing.assert_array_equal(flat[4][:20], images[1][:, :32])
        some = flat[np.array([0, 5, 6, 10])]
        blocks = list(some.iter_blocks(3))
        assert [len(block) for block in blocks] == [3, 1]
        np.testing.assert_array_equal(blocks[1][0], images[2][32:, 32:])
        np.testing.assert_array_equal(blocks[0][1], some[1])
        assert some.size(1) == (32, 32)
        assert "column 32" in some.name(1)


def test_sizes_of_files_are_those_of_the_decoded_images(tmp_path):
    from PIL import Image

    array = make_check_images(1, size=(40, 72))[0]
    paths = []
    for suffix in ("png", "jpg", "tif", "webp", "bmp"):
        for orientation in (1, 3, 6, 8):
            path = tmp_path / f"{orientation}.{suffix}"
            exif = Image.Exif()
            exif[274] = orientation
            if suffix == "bmp":
                Image.fromarray(array).save(path)
            else:
                Image.fromarray(array).save(path, exif=exif)
            paths.append(path)
    for files in (ImageSequence(paths), ImageSequence(paths, resize=(30, 50))):
        assert [files.size(i) for i in range(len(files))] == [x.shape[:2] for x in files]


# ---- detectors --------------------------------------------------------------------------


class TiledPatchCore(PatchCoreDetector):
    """PatchCore that cuts what it is given, to put it through the image battery."""

    _takes_roi_mask = False  # a region of whole images says nothing about tiles

    def _validate(self, X, *, reset):
        return super()._validate(_tiled(X), reset=reset)


class TiledPaDiM(PaDiMDetector):
    _takes_roi_mask = False

    def _validate(self, X, *, reset):
        return super()._validate(_tiled(X), reset=reset)


def _tiled(X):
    from pyimgano._checks import input_kind

    if input_kind(X) != "images":
        return X
    return TilingTransformer(tile=32, stride=24).transform(X)


def _battery():
    for detector in (TiledPatchCore(Means()), TiledPaDiM(Means())):
        for check in yield_image_checks(detector):
            yield pytest.param(detector, check, id=f"{type(detector).__name__}-{check.__name__}")


@pytest.mark.parametrize(("detector", "check"), list(_battery()))
def test_tiled_detectors_keep_the_contract_of_images(detector, check):
    check(clone(detector))


def _good(n, seed=0, size=(64, 96)):
    return make_check_images(n, size=size, random_state=seed)


@pytest.mark.parametrize("score_reduce", ["max", "mean", "topk_mean"])
def test_a_score_is_the_reduction_of_the_scores_of_the_tiles(score_reduce):
    step = TilingTransformer(tile=32, score_reduce=score_reduce, topk=2)
    detector = PatchCoreDetector(Means()).fit(step.transform(_good(6)))
    new = _good(2, seed=1)
    whole = detector.score_samples(step.transform(new))
    for i, image in enumerate(new):
        tiles = step.transform(image[None])[0]
        single = [
            -float(detector.score_samples(TilingTransformer(tile=32).transform(t[None]))[0])
            for t in tiles
        ]
        expected = {
            "max": max(single),
            "mean": np.mean(single),
            "topk_mean": np.mean(sorted(single)[-2:]),
        }[score_reduce]
        np.testing.assert_allclose(-whole[i], expected, rtol=1e-6)


def test_maps_are_those_of_the_tiles_stitched():
    step = TilingTransformer(tile=32, stride=24)
    detector = PatchCoreDetector(Means()).fit(step.transform(_good(6)))
    new = [_good(1, seed=1)[0], _good(1, seed=2, size=(20, 80))[0]]
    maps = detector.anomaly_map(step.transform(new))
    for image, heat in zip(new, maps):
        tiles = TilingTransformer(tile=32)
        parts = np.stack(
            [detector.anomaly_map(tiles.transform(t[None]))[0] for t in step.transform([image])[0]]
        )
        expected = step.inverse_transform([parts], image_sizes=[image.shape[:2]])[0]
        np.testing.assert_allclose(heat, expected, rtol=1e-5)


def test_padims_maps_of_recognized_images_leave_each_tile_out():
    step = TilingTransformer(tile=32)
    X = _good(12, size=(64, 64))
    detector = PaDiMDetector(Means(), regularization=1e-9, smoothing_sigma=0).fit(step.transform(X))
    tiles = np.concatenate([step.transform(X)[i] for i in range(12)])
    features = Means().transform(tiles).rows.reshape(48, 16, 6).astype(np.float64)
    parts = []
    for tile in range(4 * 7, 4 * 8):
        rest = np.delete(features, tile, axis=0)
        distance = np.empty(16)
        for position in range(16):
            away = features[tile, position] - rest[:, position].mean(axis=0)
            covariance = np.cov(rest[:, position], rowvar=False) + 1e-9 * np.eye(6)
            distance[position] = away @ np.linalg.solve(covariance, away)
        # The covariance is not divided anew: that of all 48 had 47 in place of 46.
        grid = Means().transform(tiles[tile][None])
        parts.append(grid.to_pixels(np.sqrt(distance * 47 / 46), sigma=0)[0])
    expected = step.inverse_transform([np.stack(parts)], image_sizes=[(64, 64)])[0]
    found = detector.anomaly_map(step.transform(X[7:8]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "detector",
    [
        PatchCoreDetector(Means(), coreset_ratio=1.0),
        PatchCoreDetector(Means(), coreset_ratio=1.0, n_neighbors=1),
        PaDiMDetector(Means()),
        AnomalyDINODetector(Means()),
    ],
)
@pytest.mark.parametrize("score_reduce", ["max", "mean"])
def test_leaving_an_image_out_leaves_out_all_its_tiles(detector, score_reduce):
    step = TilingTransformer(tile=32, stride=24, score_reduce=score_reduce)
    X = _good(5, size=(64, 72))
    X = np.concatenate([X, X[2:3]])  # and a copy, which leaves with its original
    full = clone(detector).fit(step.transform(X))
    assert full.training_scores_.shape == (6,)
    for i in (0, 2, 5):
        others = [j for j in range(6) if (X[j] != X[i]).any()]
        left_out = clone(detector).fit(step.transform(X[others]))
        expected = -left_out.score_samples(step.transform(X[i : i + 1]))
        np.testing.assert_allclose(full.training_scores_[i], expected[0], rtol=1e-4)
    # Recognized, also through a copy, and in another order.
    np.testing.assert_array_equal(
        -full.score_samples(step.transform(X[::-1])), full.training_scores_[::-1]
    )
    np.testing.assert_array_equal(
        -clone(detector).fit(step.transform(X)).transform(step.transform(X)).ravel(),
        -full.training_scores_,
    )


def test_images_of_different_sizes_are_learned_from():
    X = [_good(1, seed=i, size=(40 + 9 * i, 70))[0] for i in range(5)]
    step = TilingTransformer(tile=32)
    detector = PatchCoreDetector(FilterBankFeatures(resize=32)).fit(step.transform(X))
    assert detector.training_scores_.shape == (5,)
    assert set(detector.bank_image_) <= set(range(5))
    np.testing.assert_array_equal(
        -detector.score_samples(step.transform(X)), detector.training_scores_
    )


def test_known_anomalies_and_counts_are_of_images():
    step = TilingTransformer(tile=32)
    X = _good(5)
    bad = X[:1].copy()
    bad[0, 10:20, 10:20] = 250
    detector = PatchCoreDetector(Means())
    labeled = step.transform(np.concatenate([X, bad]))
    column = detector.fit_transform(labeled, [1] * 5 + [-1])
    assert column.shape == (6, 1) and column[5] > column[:5].max()
    assert len(detector.training_scores_) == 5
    with pytest.raises(TooFewImagesError, match="n_samples=1"):
        detector.fit(step.transform(X[:1]))
    with pytest.raises(TooFewImagesError, match="copies of one"):
        detector.fit(step.transform(X[[0, 0, 0]]))


def test_whole_images_are_another_kind_of_input():
    step = TilingTransformer(tile=32)
    detector = PatchCoreDetector(Means()).fit(step.transform(_good(4)))
    with pytest.raises(ImageFormatError, match="fitted on images cut into tiles and was given im"):
        detector.predict(_good(2))
    detector.fit(_good(4))
    with pytest.raises(ImageFormatError, match="fitted on images and was given images cut into"):
        detector.predict(step.transform(_good(2)))


def _pipe(**parameters):
    return make_pipeline(
        ImageFormatNormalizer(input_format="bgr_u8_hwc"),
        TilingTransformer(tile=32, **parameters),
        PatchCoreDetector(FilterBankFeatures(resize=32), coreset_ratio=0.2),
    )


def test_in_pipelines_calibrators_and_searches(tmp_path):
    X, new = _good(8)[..., ::-1], _good(2, seed=1)[..., ::-1].copy()
    new[1, 30:36, 50:56] = 250
    calibrator = ThresholdCalibrator(_pipe(stride=16), quantile=0.8).fit(X)
    assert calibrator.provenance_["scores"] == "the detector's own out-of-sample scores"
    np.testing.assert_array_equal(calibrator.predict(new), [1, -1])
    maps = anomaly_map(calibrator, new)
    assert maps.shape == (2, 64, 96)
    row, column = np.unravel_index(maps[1].argmax(), maps[1].shape)
    assert 26 <= row < 40 and 46 <= column < 60
    found = score_with_maps(calibrator, new)
    np.testing.assert_array_equal(found.maps, maps)
    results = infer(calibrator, new, return_maps=True, batch_size=1)
    assert [result.label for result in results] == [1, -1]
    np.testing.assert_allclose(results[1].anomaly_map, maps[1], rtol=1e-5)

    joblib.dump(calibrator, tmp_path / "line.joblib")
    loaded = joblib.load(tmp_path / "line.joblib")
    np.testing.assert_array_equal(loaded.score_samples(new), found.scores * -1)
    np.testing.assert_array_equal(loaded.predict(X), calibrator.predict(X))

    # The calibrator may also stand after the tiling, and cross-fit on its output.
    folds = make_pipeline(
        TilingTransformer(tile=32), ThresholdCalibrator(PatchCoreDetector(Means()), cv=2)
    ).fit(X)
    assert folds[-1].calibration_scores_.shape == (8,)

    search = GridSearchCV(
        _pipe(),
        {"tilingtransformer__tile": [32, 48], "tilingtransformer__score_reduce": ["mean"]},
        scoring=lambda e, X, y=None: float(np.mean(e.predict(X) == 1)),
        cv=2,
        error_score="raise",
    ).fit(X)
    assert anomaly_map(search, new).shape == (2, 64, 96)


def test_files_equal_arrays(tmp_path):
    X, new = _good(5), _good(2, seed=1)
    (tmp_path / "x").mkdir()
    (tmp_path / "new").mkdir()
    arrays, files = _pipe(), _pipe()
    arrays.fit(X[..., ::-1])
    files.fit(_write(X, tmp_path / "x"))
    paths = _write(new, tmp_path / "new")
    np.testing.assert_array_equal(files.score_samples(paths), arrays.score_samples(new[..., ::-1]))
    results = infer(files, [*paths, str(tmp_path / "nowhere.png")], on_error="record")
    assert [result.error is None for result in results] == [True, True, False]


def test_a_stride_set_after_training_takes_effect_in_the_next_fit():
    X, new = _good(5), _good(2, seed=1)[..., ::-1]
    pipe = _pipe().fit(X[..., ::-1])
    expected, maps = pipe.score_samples(new), anomaly_map(pipe, new)
    pipe.set_params(tilingtransformer__stride=8)
    with pytest.warns(UserWarning, match=r"changed after fit \(stride\)"):
        np.testing.assert_array_equal(pipe.score_samples(new), expected)
        np.testing.assert_array_equal(anomaly_map(pipe, new), maps)


def test_the_collection_can_be_pickled():
    tiles = TilingTransformer(tile=32).transform(_good(3))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tiles))[1], tiles[1])
    assert joblib.hash(tiles) == joblib.hash(TilingTransformer(tile=32).transform(_good(3)))


def test_memory_is_bounded_by_one_map():
    detector = PatchCoreDetector(Means(batch_size=8)).fit(
        TilingTransformer(tile=64).transform(_good(3, size=(128, 128)))
    )
    large = np.zeros((1, 1024, 2048, 3), np.uint8)
    tiles = TilingTransformer(tile=64, stride=48).transform(large)
    tracemalloc.start()
    heat = detector.anomaly_map(tiles)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert heat.shape == (1, 1024, 2048)
    assert peak < 1.2 * heat.nbytes + 2**22, peak / heat.nbytes


def test_a_small_defect_in_a_large_image_is_found_only_in_tiles():
    rng = np.random.RandomState(0)

    def images(n):
        return make_check_images(n, size=(512, 512), random_state=rng)

    train, good = images(3), images(2)
    bad = good.copy()
    for image, (top, left) in zip(bad, [(200, 300), (310, 90)]):
        image[top : top + 4, left : left + 4] = 230
    detector = PatchCoreDetector(FilterBankFeatures(resize=64), coreset_ratio=0.02)
    tiled = make_pipeline(TilingTransformer(tile=64), clone(detector)).fit(train)
    scores = -tiled.score_samples(np.concatenate([good, bad]))
    assert scores[2:].min() > scores[:2].max()
    for heat, (top, left) in zip(anomaly_map(tiled, bad), [(200, 300), (310, 90)]):
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert abs(row - top) < 16 and abs(column - left) < 16
    whole = clone(detector).fit(train)
    # Shrunk to 64 pixels, the defects change no score.
    np.testing.assert_allclose(whole.score_samples(bad), whole.score_samples(good), rtol=0.05)
