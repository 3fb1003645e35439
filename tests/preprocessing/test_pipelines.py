"""Preprocessing in pipelines: lazy on files, one error per image, searched, calibrated, saved."""

from __future__ import annotations

import cv2
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, ThresholdCalibrator
from pyimgano.detectors import PixelGaussianDetector
from pyimgano.exceptions import ImageReadError, PreprocessingError
from pyimgano.features import ColorMoments
from pyimgano.inference import infer, iter_scores
from pyimgano.inputs import ImageSequence
from pyimgano.preprocessing import (
    CLAHE,
    ContrastStretch,
    GammaCorrection,
    ImageAlignment,
    PreparedImages,
    RegionCrop,
    WhiteBalance,
)

X = np.random.RandomState(0).randint(60, 180, size=(10, 24, 32, 3)).astype(np.uint8)


@pytest.fixture
def paths(tmp_path):
    found = [str(tmp_path / f"{i}.png") for i in range(len(X))]
    for path, image in zip(found, X):
        cv2.imwrite(path, image[..., ::-1])
    return found


def small():
    return PixelGaussianDetector(resize=(12, 16), smoothing_sigma=1)


def share_passed(estimator, X, y=None):
    return np.mean(estimator.predict(X) == 1)


def test_kinds_of_input_and_output(paths):
    step = GammaCorrection(2.0)
    by_hand = np.rint(X.astype(float) ** 2 / 255).astype(np.uint8)
    found = step.transform(X)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, by_hand)
    found = step.transform([*X[:2], X[2, :9]])
    assert isinstance(found, list) and found[2].shape == (9, 32, 3)
    for files in (paths, ImageSequence(paths), ImageFormatNormalizer().transform(paths)):
        found = step.transform(files)
        assert isinstance(found, PreparedImages) and found.shape == (10,)
        np.testing.assert_array_equal(np.stack(list(found)), by_hand)
        assert found[2:4].paths == tuple(paths[2:4])
        np.testing.assert_array_equal(found[np.array([5, 1])][1], by_hand[1])
    names = [f"part {i}" for i in range(10)]
    column = pd.Series(list(X), index=names)
    rows = make_pipeline(step, ColorMoments()).set_output(transform="pandas").fit_transform(column)
    assert list(rows.index) == names


def test_files_are_decoded_only_when_they_are_asked_for(paths, monkeypatch):
    read, held = [], []
    real = ImageSequence._read

    def counting(self, path):
        read.append(path)
        return real(self, path)

    monkeypatch.setattr(ImageSequence, "_read", counting)
    pipe = make_pipeline(
        ImageFormatNormalizer(), WhiteBalance(), CLAHE(tiles=2), RegionCrop(2, 2), small()
    ).fit(X)
    assert not read
    steps = pipe[:-1].transform(paths)
    assert not read
    for block in steps[:6].iter_blocks(2):
        held.append(len(block))
    assert held == [2, 2, 2] and len(read) == 6
    read.clear()
    blocks = iter_scores(pipe, paths * 4, maps=True)
    next(blocks)
    assert len(read) < 40  # and not all of them
    blocks.close()


def test_scores_of_files_and_of_arrays_are_the_same(paths):
    pipe = make_pipeline(
        ImageFormatNormalizer(), ContrastStretch(limits="training"), CLAHE(tiles=2), small()
    )
    expected = pipe.fit(X).score_samples(X[::-1])
    np.testing.assert_array_equal(pipe.fit(paths).score_samples(paths[::-1]), expected)
    alone = np.concatenate([pipe.score_samples([path]) for path in paths[::-1]])
    np.testing.assert_array_equal(alone, expected)


@pytest.mark.parametrize("files", [True, False])
def test_an_image_that_cannot_be_prepared_is_one_record(paths, files):
    pipe = make_pipeline(ImageFormatNormalizer(), ContrastStretch(), RegionCrop(2, 2), small())
    pipe.fit(X)
    cv2.imwrite(paths[3], np.full((24, 32, 3), 80, np.uint8))  # no contrast
    cv2.imwrite(paths[5], np.full((1, 32, 3), [[[0], [90], [200]] * 10 + [[1]] * 2], np.uint8))
    images = paths if files else [cv2.imread(path)[..., ::-1] for path in paths]
    results = infer(pipe, images, return_maps=True, on_error="record")
    wrong = {result.index: result.error for result in results if result.error is not None}
    assert all((result.anomaly_map is None) == (result.index in wrong) for result in results)
    assert sorted(wrong) == [3, 5]
    name = {i: paths[i] if files else f"image {i}" for i in wrong}
    assert wrong[3].startswith(f"{name[3]}: the image has no contrast to stretch")
    assert wrong[5].startswith(f"{name[5]}: the region, rows 2 on and columns 2 on, does not lie")
    with pytest.raises(PreprocessingError, match="no contrast"):
        pipe.predict(images)
    with pytest.raises(PreprocessingError, match="no contrast"):
        pipe.fit(images)


def test_a_missing_file_stays_a_reading_error(paths):
    found = RegionCrop(1, 1).transform([paths[0], "nowhere/b.png"])
    for ask in (lambda: found[1], lambda: found.size(1)):
        with pytest.raises(ImageReadError, match=r"^nowhere/b.png: ") as caught:
            ask()
        assert caught.value.path == "nowhere/b.png"


def test_searches_and_calibrators(paths):
    pipe = make_pipeline(ImageFormatNormalizer(), CLAHE(tiles=2), small())
    search = GridSearchCV(
        ThresholdCalibrator(pipe, quantile=0.7),
        {"estimator__clahe__clip_limit": [1.0, 4.0]},
        scoring=share_passed,
        cv=2,
    ).fit(ImageSequence(paths))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert pyimgano.anomaly_map(search, paths).shape == (10, 24, 32)
    by_hand = make_pipeline(CLAHE(4.0, tiles=2), small()).fit(X)
    pipe.set_params(clahe__clip_limit=4.0).fit(paths)
    np.testing.assert_array_equal(pipe.score_samples(X), by_hand.score_samples(X))
    assert (
        pipe.set_params(clahe__clip_limit=1.0).fit(X)[-1].training_scores_
        != by_hand[-1].training_scores_
    ).any()


def test_a_cache_keeps_what_was_prepared_and_notices_a_changed_file(paths, tmp_path):
    memory = joblib.Memory(tmp_path / "cache", verbose=0)
    steps = [ImageFormatNormalizer(), ContrastStretch(limits="training"), RegionCrop(2, 3), small()]
    pipe = make_pipeline(*steps, memory=memory)
    first = pipe.fit(ImageSequence(paths))[-1].training_scores_
    np.testing.assert_array_equal(pipe.fit(ImageSequence(paths))[-1].training_scores_, first)
    cv2.imwrite(paths[0], 255 - X[0])
    assert (pipe.fit(ImageSequence(paths))[-1].training_scores_ != first).any()


def test_saved_pipelines_prepare_alike(paths, tmp_path):
    scene = cv2.GaussianBlur(X[0], (0, 0), 2)
    images = np.stack([np.roll(scene, k, axis=1) for k in (0, 0, 1, 2)])
    pipe = make_pipeline(
        ImageFormatNormalizer(),
        WhiteBalance(),
        ContrastStretch(limits="training"),
        ImageAlignment(motion="translation"),
        RegionCrop(2, 2, 20, 26),
        small(),
    ).fit(images)
    pyimgano.save(pipe, tmp_path / "a.joblib")
    again = pyimgano.load(tmp_path / "a.joblib")
    np.testing.assert_array_equal(again.score_samples(images), pipe.score_samples(images))
    np.testing.assert_array_equal(
        pyimgano.anomaly_map(again, images), pyimgano.anomaly_map(pipe, images)
    )


def test_what_was_learned_is_needed_and_stays_as_it_was(paths):
    for step in (ImageAlignment(), ContrastStretch(limits="training")):
        with pytest.raises(NotFittedError):
            step.transform(X)
    step = ContrastStretch(0, 100, limits="training").fit(X)
    prepared = step.transform(paths)
    expected = prepared[0]
    step.fit(X // 2)
    np.testing.assert_array_equal(prepared[0], expected)
    assert (step.transform(paths)[0] != expected).any()
    with pytest.raises(PreprocessingError):
        step.fit(np.full_like(X, 7))  # and a fit that fails leaves it as it is
    np.testing.assert_array_equal(step.limits_, [30, 89])
