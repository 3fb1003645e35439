"""Estimators put together: what scikit-learn's tools do with whole pipelines of them."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import Memory
from pyod.models.knn import KNN
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from pyimgano import (
    PatchCoreDetector,
    ScoreEnsemble,
    ThresholdCalibrator,
    TilingTransformer,
    create_model,
    list_models,
)
from pyimgano.detectors import NCCTemplateDetector, PaDiMDetector, PyODDetector
from pyimgano.features import (
    ColorMoments,
    FFTBandFeatures,
    FilterBankFeatures,
    HOGFeatures,
    LBPFeatures,
    PatchPooling,
)
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.model_selection import balanced_accuracy
from pyimgano.testing import make_check_images
from tests import instances

IMAGES = make_check_images(8)
ROWS = np.random.RandomState(0).normal(size=(60, 4))


def patch_core():
    return PatchCoreDetector(FilterBankFeatures(resize=32, n_components=8))


# ---- tables -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("steps", "first_column"),
    [
        ([HOGFeatures(32)], "block0_0_cell0_0_0deg"),
        ([FilterBankFeatures(resize=32, n_components=4), PatchPooling("mean")], "mean_0"),
        (
            [TilingTransformer(tile=40), PatchCoreDetector(FilterBankFeatures(resize=32))],
            "patchcoredetector0",
        ),
    ],
    ids=["descriptor", "patch grids", "tiles"],
)
def test_data_frames_come_out_of_whole_pipelines(steps, first_column):
    pd = pytest.importorskip("pandas")
    pipe = make_pipeline(ImageFormatNormalizer(), *steps, StandardScaler())
    expected = pipe.fit_transform(IMAGES)
    frame = pipe.set_output(transform="pandas").fit_transform(IMAGES)
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_array_equal(frame.to_numpy(), expected)
    assert frame.columns[0] == first_column
    assert list(frame.columns) == list(pipe.get_feature_names_out())


def test_images_and_grids_stay_what_they_are_under_set_output():
    normalizer = ImageFormatNormalizer().set_output(transform="pandas")
    assert normalizer.transform(IMAGES).shape == IMAGES.shape
    grids = FilterBankFeatures(resize=32, n_components=4).set_output(transform="pandas")
    assert grids.fit_transform(IMAGES).n_features == 4
    assert list(normalizer.get_feature_names_out()) == []


# ---- nested parameters --------------------------------------------------------------
def test_parameters_are_set_at_any_depth():
    members = [
        ("bank", make_pipeline(StandardScaler(), PatchCoreDetector())),
        ("forest", IsolationForest(n_estimators=5, random_state=0)),
    ]
    calibrator = ThresholdCalibrator(make_pipeline(StandardScaler(), ScoreEnsemble(members)))
    changes = {
        "quantile": 0.9,
        "estimator__scoreensemble__combination": "max",
        "estimator__scoreensemble__bank__patchcoredetector__coreset_ratio": 0.5,
        "estimator__scoreensemble__forest": PaDiMDetector(),
    }
    changed = clone(calibrator).set_params(**changes)
    params = changed.get_params()
    assert all(params[name] is value for name, value in changes.items())
    assert members[0][1][-1].coreset_ratio != 0.5  # of another object
    ensemble = changed.fit(ROWS).estimator_[-1]
    assert ensemble.named_estimators_["bank"][-1].bank_.shape == (30, 4)
    assert isinstance(ensemble.named_estimators_["forest"], PaDiMDetector)
    with pytest.raises(ValueError, match="Invalid parameter 'coreset'"):
        calibrator.set_params(estimator__scoreensemble__bank__patchcoredetector__coreset=0.5)


# ---- searches -----------------------------------------------------------------------
GRID = {
    "tilingtransformer__tile": [32, 48],
    "patchcoredetector__coreset_ratio": [0.1, 0.5],
    "thresholdcalibrator__quantile": [0.5, 0.7, 0.9],
}


@pytest.fixture
def fits(monkeypatch):
    """A list that grows with every PatchCore that is fitted."""
    found, fit = [], PatchCoreDetector._fit
    monkeypatch.setattr(PatchCoreDetector, "_fit", lambda *args: found.append(1) or fit(*args))
    return found


@pytest.mark.parametrize("calibrator", ["last step", "around the pipeline"])
@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
def test_a_search_over_tiles_bank_and_threshold_fits_each_bank_once(calibrator, fits, tmp_path):
    X = np.concatenate([IMAGES, make_check_images(2, defect=True, random_state=1)])
    y = np.repeat([1, -1], [8, 2])
    cache = Memory(tmp_path, verbose=0)
    steps = ImageFormatNormalizer(), TilingTransformer(), patch_core()
    if calibrator == "last step":
        pipe, grid = make_pipeline(*steps, ThresholdCalibrator(), memory=cache), GRID
    else:
        pipe = ThresholdCalibrator(make_pipeline(*steps), memory=cache)
        grid = {f"estimator__{name}": values for name, values in GRID.items()}
        grid["quantile"] = grid.pop("estimator__thresholdcalibrator__quantile")
    search = GridSearchCV(
        pipe, grid, scoring=balanced_accuracy, cv=StratifiedKFold(2), error_score="raise"
    ).fit(X, y)
    assert len(search.cv_results_["params"]) == 12
    # 2 tiles x 2 ratios x 2 folds, and the best one on all images
    assert len(fits) == 9
    assert search.best_score_ > 0.8
    best = search.best_estimator_
    expected = clone(best).set_params(memory=None).fit(X, y)
    np.testing.assert_array_equal(best.score_samples(X), expected.score_samples(X))
    np.testing.assert_array_equal(best.predict(X)[8:], [-1, -1])


def test_a_cached_pipeline_notices_a_changed_file(fits, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, IMAGES):
        cv2.imwrite(path, image)
    pipe = make_pipeline(
        ImageFormatNormalizer(),
        TilingTransformer(tile=32),
        patch_core(),
        ThresholdCalibrator(quantile=0.5),
        memory=str(tmp_path / "cache"),
    )
    before = pipe.fit(paths)[-1].threshold_
    assert pipe.fit(paths)[-1].threshold_ == before and len(fits) == 1
    cv2.imwrite(paths[0], make_check_images(1, defect=True)[0])
    assert pipe.fit(paths)[-1].threshold_ != before and len(fits) == 2


# ---- side by side -------------------------------------------------------------------
def test_a_detector_on_the_union_of_descriptors():
    steps = [ColorMoments(), LBPFeatures(1, resize=32), FFTBandFeatures(2, resize=32)]
    pipe = make_pipeline(make_union(*steps), StandardScaler(), PatchCoreDetector()).fit(IMAGES)
    rows = np.hstack([step.transform(IMAGES) for step in steps])
    expected = make_pipeline(StandardScaler(), PatchCoreDetector()).fit(rows)
    np.testing.assert_array_equal(pipe.score_samples(IMAGES), expected.score_samples(rows))


def test_detectors_on_columns_of_a_table():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(ROWS, columns=["width", "height", "red", "green"])
    bank, neighbors = PatchCoreDetector(), PyODDetector(KNN(n_neighbors=3))
    columns = ColumnTransformer(
        [("size", bank, ["width", "height"]), ("color", neighbors, ["red", "green"])]
    )
    pipe = make_pipeline(columns, ThresholdCalibrator(quantile=0.9)).fit(table)
    assert list(columns.get_feature_names_out()) == [
        "size__patchcoredetector0",
        "color__pyoddetector0",
    ]
    # Each column holds out-of-sample scores, as each detector alone finds them.
    own = np.column_stack(
        [bank.fit(ROWS[:, :2]).training_scores_, neighbors.fit(ROWS[:, 2:]).training_scores_]
    )
    np.testing.assert_array_equal(clone(columns).fit_transform(table), own)
    np.testing.assert_array_equal(pipe[-1].calibration_scores_, own.max(axis=1))
    odd = pd.DataFrame([[0.0, 0, 9, 9], [0, 0, 0, 0]], columns=table.columns)
    np.testing.assert_array_equal(pipe.predict(odd), [-1, 1])


# ---- pictures of estimators ---------------------------------------------------------
def _every_estimator():
    tables = (
        instances.TABLE_INSTANCES,
        instances.TRANSFORMER_INSTANCES,
        instances.ROW_INSTANCES,
        instances.POOLING_INSTANCES,
        instances.ALIGNMENT_INSTANCES,
        instances.IMAGE_INSTANCES,
    )
    for table in tables:
        for several in table.values():
            yield from several


def test_every_estimator_and_model_has_a_picture():
    for estimator in _every_estimator():
        assert type(estimator).__name__ in estimator_html_repr(estimator)
    for name in list_models():
        model = create_model(name)
        assert type(model).__name__ in estimator_html_repr(model)


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
def test_the_picture_of_a_pipeline_shows_what_is_inside():
    pipe = make_pipeline(
        ImageFormatNormalizer(),
        make_union(ColorMoments(), HOGFeatures(32)),
        ThresholdCalibrator(
            ScoreEnsemble([("bank", PatchCoreDetector()), ("gauss", PaDiMDetector())])
        ),
    )
    for estimator in (pipe, clone(pipe).fit(IMAGES)):
        html = estimator_html_repr(estimator)
        for name in ("ImageFormatNormalizer", "HOGFeatures", "PatchCoreDetector", "PaDiMDetector"):
            assert name in html


# ---- properties ---------------------------------------------------------------------
@lru_cache
def fitted_detectors():
    """Pairs of a fitted detector and a dozen new samples for it."""
    members = [("bank", PatchCoreDetector()), ("gauss", PaDiMDetector())]
    rows, small = np.random.RandomState(1).normal(size=(12, 4)), make_check_images(6, size=(24, 32))
    images = make_check_images(12, size=(24, 32), random_state=2)
    return [
        (ThresholdCalibrator(ScoreEnsemble(members), quantile=0.9).fit(ROWS), rows),
        (PyODDetector(KNN(), cv=2).fit(ROWS), rows),
        (NCCTemplateDetector(resize=16, window=5).fit(small), images),
        (make_pipeline(HOGFeatures(32), PatchCoreDetector()).fit(small), images),
    ]


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 11))
def test_scores_follow_their_samples_in_any_order_and_company(order, cut):
    order = np.array(order)
    for detector, X in fitted_detectors():
        parts = [detector.score_samples(X[part]) for part in (order[:cut], order[cut:])]
        expected = detector.score_samples(X)[order]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-9)
