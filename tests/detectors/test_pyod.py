"""PyOD's models as detectors here, and the way back."""

from __future__ import annotations

import random
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pyod.models.base import BaseDetector
from pyod.models.cblof import CBLOF
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.inne import INNE
from pyod.models.kde import KDE
from pyod.models.knn import KNN
from pyod.models.loda import LODA
from pyod.models.mcd import MCD
from pyod.models.ocsvm import OCSVM
from pyod.models.pca import PCA
from pyod.utils.utility import precision_n_scores
from scipy.special import erf
from scipy.stats import binom
from sklearn.base import clone, is_outlier_detector
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import threadpool_limits

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector, PyODDetector
from pyimgano.exceptions import ImageFormatError, TooFewImagesError
from pyimgano.inference import infer
from pyimgano.inputs import check_images
from pyimgano.interop import PyODView, as_pyod
from pyimgano.registry import create_model, list_models
from pyimgano.testing import make_check_images


def rows(n=60, seed=0):
    return np.random.RandomState(seed).normal(size=(n, 4))


def draw_by_numpy(n):
    return np.random.random_sample(n)  # noqa: NPY002


class Noise(BaseDetector):
    """Draws its scores from a global generator; keeps and then spoils what it is given."""

    def __init__(self, draw=draw_by_numpy, contamination=0.1):
        super().__init__(contamination=contamination)
        self.draw = draw

    def fit(self, X, y=None):
        self.weights_ = self.draw(X.shape[1])
        X[:] = 0
        return self

    def decision_function(self, X):
        scores = X @ self.weights_ + self.draw(len(X))
        X[:] = 0
        return scores


class Transductive(BaseDetector):
    """Scores rows by their distance to the mean of the batch."""

    def __init__(self, contamination=0.1):
        super().__init__(contamination=contamination)

    def fit(self, X, y=None):
        return self

    def decision_function(self, X):
        return np.linalg.norm(X - X.mean(axis=0), axis=1)


# benchmarks/pyod_models.py runs the battery over every model there is.
@pytest.mark.parametrize("model", [PCA(), KDE()], ids=lambda m: type(m).__name__)
def test_scikit_learn_contract(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(PyODDetector(model, cv=2), on_fail=None)
    assert not [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert sum(r["status"] == "passed" for r in results) >= 40


def test_signs_and_scores_are_those_of_the_model():
    X, new = rows(), rows(10, seed=1)
    detector = PyODDetector(KNN(n_neighbors=3), ensemble=False).fit(X)
    expected = KNN(n_neighbors=3).fit(X).decision_function(new)
    np.testing.assert_array_equal(-detector.score_samples(new), expected)
    assert detector.predict([[0.0] * 4, [50.0] * 4]).tolist() == [1, -1]
    assert is_outlier_detector(detector) and not detector.one_by_one_


def test_training_rows_are_scored_by_a_model_that_has_not_seen_them():
    # Within a fold's model the nearest neighbor is another row; in-sample it is the row itself.
    X = rows()
    detector = PyODDetector(KNN(n_neighbors=1), cv=60).fit(X)
    gaps = np.linalg.norm(X[:, None] - X, axis=2) + np.diag(np.full(60, np.inf))
    np.testing.assert_allclose(detector.training_scores_, gaps.min(axis=1))
    np.testing.assert_array_equal(-detector.score_samples(X[5:7]), detector.training_scores_[5:7])
    np.testing.assert_array_equal(detector.predict(X), clone(detector).fit_predict(X))


def test_copies_of_a_row_stay_in_one_fold():
    X = np.repeat(rows(20), 2, axis=0)
    detector = PyODDetector(KNN(n_neighbors=1), cv=4).fit(X)
    assert detector.training_scores_.min() > 0.0
    with pytest.raises(TooFewImagesError, match="copies of one"):
        PyODDetector(KNN()).fit(np.ones((10, 3)))


def test_false_positive_rate_on_new_rows_is_near_the_target():
    X, new = rows(300), rows(3000, seed=1)
    detector = PyODDetector(KNN(), contamination=0.1).fit(X)
    assert (detector.predict(X) == -1).mean() == pytest.approx(0.1)
    assert 0.06 < (detector.predict(new) == -1).mean() < 0.14


@pytest.mark.parametrize("model", [ECOD(), COPOD()], ids=lambda m: type(m).__name__)
def test_models_that_rank_the_batch_score_rows_one_at_a_time(model):
    X, new = rows(), rows(8, seed=1)
    together = clone(model).fit(X).decision_function(new)
    detector = PyODDetector(model).fit(X)
    assert detector.one_by_one_
    scores = -detector.score_samples(new)
    alone = [-detector.score_samples(new[i : i + 1])[0] for i in range(8)]
    np.testing.assert_array_equal(scores, alone)
    assert np.abs(scores - together).max() > 1e-3


def test_models_without_a_score_for_one_row_are_refused():
    with pytest.raises(ValueError, match=r"Transductive .* same score when it comes alone"):
        PyODDetector(Transductive()).fit(rows())


def test_what_is_not_pyod_is_refused():
    with pytest.raises(TypeError, match=r"PyOD model.*got IsolationForest"):
        PyODDetector(IsolationForest()).fit(rows())
    with pytest.raises(TypeError, match=r"KNN is a class.*PyODDetector\(KNN\(\)\)"):
        PyODDetector(KNN).fit(rows())
    with pytest.raises(ValueError, match="detector"):
        PyODDetector(StandardScaler()).fit(rows())


def test_global_generators_and_input_stay_untouched_and_scores_repeat():
    check_that_scores_repeat(draw_by_numpy, lambda: np.random.get_state()[1].copy())  # noqa: NPY002


def test_so_does_the_generator_of_torch():
    torch = pytest.importorskip("torch")

    def draw(n):
        return torch.rand(n, dtype=torch.float64).numpy()

    check_that_scores_repeat(draw, lambda: torch.get_rng_state().numpy())


def check_that_scores_repeat(draw, state):
    X, new = rows(), rows(5, seed=1)
    before, state_before = X.copy(), state()
    detector = PyODDetector(Noise(draw)).fit(X)
    first = detector.score_samples(new)
    np.testing.assert_array_equal(state(), state_before)
    draw(1)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(detector.score_samples(new), first)
    np.testing.assert_array_equal(detector.score_samples(new[2:3]), first[2:3])
    np.testing.assert_array_equal(clone(detector).fit(X).score_samples(new), first)


class Sketch(BaseDetector):
    """Seeds the generators when made, and keeps what it works on, as some of PyOD's models do."""

    def __init__(self, contamination=0.1):
        super().__init__(contamination=contamination)
        np.random.seed(42)  # noqa: NPY002

    def fit(self, X, y=None):
        time.sleep(0.001)  # lets another thread in
        self.weights_ = np.random.random_sample(X.shape[1])  # noqa: NPY002
        return self

    def decision_function(self, X):
        self.batch = X
        time.sleep(0.001)
        return self.batch @ self.weights_ + 0.1 * np.random.random_sample()  # noqa: NPY002


def _models_of_the_registry():
    for name in list_models(tags="pyod"):
        settings = {"n_clusters": 2, "alpha": 0.5, "beta": 2} if name == "vision_cblof" else {}
        model = create_model(name, **settings)[-1].detector
        if "n_estimators" in model.get_params():
            model.set_params(n_estimators=10)
        yield pytest.param(model, id=name)


@pytest.mark.parametrize("model", [*_models_of_the_registry(), Sketch()])
def test_threads_share_a_model_and_the_generators(model):
    X, new = rows(40), rows(12, seed=1)
    fit = lambda seed: PyODDetector(model, cv=2, random_state=seed).fit(X)  # noqa: E731
    one, two = fit(1), fit(2)
    expected = one.score_samples(new)
    in_turn = [one.score_samples(block) for block in np.split(new, 6)]
    before = dict(vars(one.detector_))
    np.random.seed(9)  # noqa: NPY002
    states = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(one.score_samples, np.split(new, 6)))
        again = list(pool.map(fit, [1, 2, 1, 2]))
        clones = list(pool.map(clone, again))
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(blocks, in_turn)
    # Some sums differ in the last bit with the number of rows scored at a time.
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-9)
    scores = expected, two.score_samples(new)
    for refitted, first, found in zip(again, (one, two) * 2, scores * 2):
        np.testing.assert_array_equal(refitted.training_scores_, first.training_scores_)
        np.testing.assert_array_equal(refitted.score_samples(new), found)
    after = vars(one.detector_)  # scoring writes nothing into the model
    assert after.keys() == before.keys() and all(after[k] is before[k] for k in before)
    assert len(clones) == 4


def test_generators_are_left_alone_for_models_that_never_draw(monkeypatch):
    X = rows()

    def refuse(seed=None):
        raise AssertionError("the global generator was seeded")

    never, draws = PyODDetector(KNN()).fit(X), PyODDetector(Noise()).fit(X)
    with monkeypatch.context() as patched:  # plug-ins seed it between the phases of a test
        patched.setattr(np.random, "seed", refuse)
        never.score_samples(X + 1)
        with pytest.raises(AssertionError, match="was seeded"):
            draws.score_samples(X + 1)


@pytest.mark.parametrize("n_clusters", [2, 3, 4])
def test_cblof_takes_clusters_of_one_size(n_clusters):
    centers = 100.0 * np.eye(8)[:n_clusters]
    X = np.repeat(centers, 12, axis=0) + np.random.RandomState(0).normal(size=(12 * n_clusters, 8))
    detector = PyODDetector(CBLOF(n_clusters=n_clusters, random_state=0)).fit(X)
    scores = detector.decision_function(np.r_[centers, np.full((1, 8), 50.0)])
    assert scores[:-1].min() > 0 > scores[-1]


def test_the_models_own_random_state_is_seeded_unless_given():
    X, new = rows(), rows(5, seed=1)
    fit = lambda model: PyODDetector(model, random_state=1).fit(X).score_samples(new)  # noqa: E731
    np.testing.assert_array_equal(fit(IForest(n_estimators=5)), fit(IForest(n_estimators=5)))
    given = PyODDetector(IForest(n_estimators=5, random_state=7)).fit(X)
    assert given.detector_.random_state == 7
    assert given.detector.random_state == 7


def test_images_need_a_step_before():
    with pytest.raises(ImageFormatError, match="turns each image into one row"):
        PyODDetector(KNN()).fit(make_check_images(6))


def _tints(images):
    return np.stack([image.reshape(-1, 3).std(axis=0) for image in check_images(images)])


def test_behind_a_step_that_makes_rows_of_images():
    detector = make_pipeline(FunctionTransformer(_tints), PyODDetector(KDE()))
    calibrated = ThresholdCalibrator(detector, quantile=0.9).fit(make_check_images(20))
    assert calibrated.provenance_["scores"] == "the detector's own out-of-sample scores"
    X = make_check_images(3, defect=True, random_state=2)
    assert (calibrated.predict(X) == -1).all()
    result = infer(calibrated, X, return_maps=True)[0]
    assert result.label == -1 and result.anomaly_map is None
    assert not hasattr(PyODDetector(KDE()), "anomaly_map")


# ---- the way back -----------------------------------------------------------------------
def test_view_in_pyods_terms():
    X, new = rows(), rows(20, seed=1)
    detector = PatchCoreDetector(contamination=0.1)
    view = as_pyod(detector).fit(X, np.zeros(60))
    np.testing.assert_array_equal(view.decision_scores_, view.detector_.training_scores_)
    assert view.threshold_ == -view.detector_.offset_
    assert view.labels_.sum() == 6 and set(view.labels_) == {0, 1}
    scores = view.decision_function(new)
    np.testing.assert_array_equal(scores, -view.detector_.score_samples(new))
    np.testing.assert_array_equal(view.predict(new), (view.detector_.predict(new) == -1) * 1)
    np.testing.assert_array_equal(clone(view).fit_predict(X), view.labels_)
    assert not hasattr(detector, "offset_")
    assert not is_outlier_detector(view)


def test_view_of_a_fitted_detector_needs_no_fit():
    X = rows()
    view = as_pyod(PaDiMDetector().fit(X))
    np.testing.assert_array_equal(view.decision_function(X), view.decision_scores_)
    with pytest.raises(NotFittedError):
        _ = as_pyod(PaDiMDetector()).decision_scores_
    scaled = make_pipeline(StandardScaler(), PatchCoreDetector()).fit(X)
    with pytest.raises(AttributeError, match="fit the view itself"):
        _ = as_pyod(scaled).labels_
    view = as_pyod(scaled).fit(X)
    assert len(view.decision_scores_) == 60 and view.threshold_ > 0


def test_view_of_a_calibrator_has_its_scores_and_threshold():
    X = rows(100)
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(X)
    view = as_pyod(calibrator)
    np.testing.assert_array_equal(view.decision_scores_, calibrator.calibration_scores_)
    assert view.threshold_ == calibrator.threshold_


def test_probabilities_and_confidence_follow_pyods_definitions():
    X, new = rows(), rows(20, seed=1)
    view = as_pyod(PatchCoreDetector(contamination=0.1)).fit(X)
    known, scores = view.decision_scores_, view.decision_function(new)
    linear = view.predict_proba(new)
    expected = np.clip((scores - known.min()) / (known.max() - known.min()), 0, 1)
    np.testing.assert_allclose(linear, np.column_stack([1 - expected, expected]))
    unified = view.predict_proba(new, method="unify")[:, 1]
    expected = erf((scores - known.mean()) / (known.std() * np.sqrt(2))).clip(0, 1)
    np.testing.assert_allclose(unified, expected)
    with pytest.raises(ValueError, match="softmax"):
        view.predict_proba(new, method="softmax")
    labels, confidence = view.predict(new, return_confidence=True)
    for score, label, value in zip(scores, labels, confidence):
        chance = 1 - binom.cdf(60 - 6, 60, (1 + (known <= score).sum()) / 62)
        assert value == pytest.approx(chance if label else 1 - chance)


def test_view_agrees_with_pyods_own_formulas():
    # KNN's own methods, given the same training scores and threshold.
    X, new = rows(), rows(20, seed=1)
    model = KNN(contamination=0.1).fit(X)
    view = as_pyod(PyODDetector(KNN(), contamination=0.1, ensemble=False)).fit(X)
    model.decision_scores_, model.threshold_ = view.decision_scores_, view.threshold_
    model._mu, model._sigma = view.decision_scores_.mean(), view.decision_scores_.std()
    np.testing.assert_array_equal(model.predict(new), view.predict(new))
    for method in ("linear", "unify"):
        np.testing.assert_allclose(
            model.predict_proba(new, method=method), view.predict_proba(new, method=method)
        )
    np.testing.assert_allclose(model.predict_confidence(new), view.predict_confidence(new))


def test_pyods_numbers_about_a_contaminated_training_set():
    X, new = rows(), rows(200, seed=1)
    y = (X[:, 0] > 1).astype(int)
    model = KNN(contamination=0.1).fit(X)
    view = as_pyod(PyODDetector(KNN(), contamination=0.1, ensemble=False)).fit(X)
    model.decision_scores_, model.threshold_ = view.decision_scores_, view.threshold_
    assert view.contamination == model.contamination
    for T in (0.05, 4, 12):  # at 32, 1 - exp(-T) has few digits left
        labels, stats = view.predict_with_rejection(new, T=T, return_stats=True)
        expected, wanted = model.predict_with_rejection(new, T=T, return_stats=True, c_r=0.1)
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_allclose(stats, wanted, rtol=1e-6)
    assert -2 in view.predict_with_rejection(new)
    assert view.fit_predict_score(X, y) == roc_auc_score(y, view.decision_scores_)
    at_rank = view.fit_predict_score(X, y, scoring="prc_n_score")
    assert at_rank == precision_n_scores(y, view.decision_scores_)
    with pytest.raises(ValueError, match="prc_n_score"):
        view.fit_predict_score(X, y, scoring="f1")


def test_contamination_of_what_states_none():
    X = rows(100)
    assert as_pyod(ThresholdCalibrator(PatchCoreDetector(), quantile=0.9)).contamination == (
        pytest.approx(0.1)
    )
    view = as_pyod(PatchCoreDetector()).fit(X)
    assert view.contamination == view.labels_.mean() == 0.01


@pytest.mark.filterwarnings("ignore:parameters of this", "ignore:this ThresholdCal")
def test_contamination_is_that_of_the_fit():
    X = rows(100)
    detector = PatchCoreDetector(contamination=0.1)
    view = as_pyod(detector.fit(X))
    detector.set_params(contamination=0.4)
    assert view.contamination == pytest.approx(0.1)
    assert view.fit(X).contamination == pytest.approx(0.4)
    detector.set_params(contamination=0.5)
    assert view.contamination == pytest.approx(0.4)
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9)
    view = as_pyod(calibrator.fit(X))
    assert view.contamination == pytest.approx(0.1)
    calibrator.set_params(quantile=0.6)  # a calibrator's takes effect at once
    assert view.contamination == pytest.approx(0.4)
    calibrator = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(X)
    calibrator.threshold_ = np.sort(calibrator.calibration_scores_)[-4]
    assert as_pyod(calibrator).contamination == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (KNN(), "KNN is a PyOD model already"),
        (KNN, "KNN is a class"),
        (KMeans(), r"fit and score_samples\), and KMeans is none"),
        (LocalOutlierFactor(novelty=False), "novelty=True"),
    ],
    ids=["model", "class", "clusters", "novelty"],
)
def test_a_view_of_what_is_no_detector_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        as_pyod(given)
    with pytest.raises(TypeError, match=message):
        PyODView(given).fit(rows())


def test_too_few_parts_for_a_model_are_refused():
    X = rows(8)
    with pytest.raises(TooFewImagesError, match=r"at least 6 images .* at least 8 images"):
        PyODDetector(KNN(n_neighbors=5)).fit(X[:6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PyODDetector(KNN(n_neighbors=5)).fit(X)
    with pytest.raises(TooFewImagesError, match="a fold of 4 of the 7 samples is too small"):
        ThresholdCalibrator(PyODDetector(KNN(n_neighbors=4)), cv=KFold(3)).fit(X[:7])


@pytest.mark.parametrize("name", list_models(tags="pyod"))
def test_two_images_are_refused_with_the_number_needed(name):
    X = rows(40)
    few_trees = {"n_estimators": 10} if name in ("vision_iforest", "vision_inne") else {}
    with pytest.raises(TooFewImagesError, match="train on at least") as refusal:
        create_model(name)[-1].fit(X[:2])
    enough = int(re.search(r"train on at least (\d+)", str(refusal.value)).group(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        detector = create_model(name, **few_trees)[-1].fit(X[:enough])
        with pytest.raises(TooFewImagesError):
            create_model(name)[-1].fit(X[: enough - 1])
    assert np.isfinite(detector.offset_) and np.isfinite(detector.score_samples(X)).all()


@pytest.mark.parametrize("n_bins", [7, "auto"])
def test_loda_looks_rows_up_in_their_own_bins_and_strangers_in_empty_ones(n_bins):
    X, far = rows(100), np.full((1, 4), 50.0)
    detector = PyODDetector(LODA(n_bins=n_bins, random_state=3)).fit(X)
    plain = LODA(n_bins=n_bins, random_state=3).fit(X)
    new, expected = rows(20, seed=1), np.zeros(20)
    for projection, histogram, edges in zip(plain.projections_, plain.histograms_, plain.limits_):
        where = new @ projection
        bins = (where[:, None] >= edges).sum(axis=1) - 1
        inside = (where >= edges[0]) & (where <= edges[-1])
        density = histogram[np.clip(bins, 0, len(histogram) - 1)]
        expected -= np.log(np.where(inside, density, 1e-14)) / 100 / 100
    np.testing.assert_allclose(-detector.score_samples(new), expected, rtol=1e-9)
    assert -detector.score_samples(far) > 5 * plain.decision_function(far)
    assert detector.predict(far) == -1


def test_inne_tells_how_far_outside_its_hyperspheres_a_row_lies():
    X = rows(30)
    X[-1] = 40.0  # a good part like no other: it sets the threshold
    detector = PyODDetector(INNE(n_estimators=20)).fit(X)
    at_odds = detector.training_scores_[-1]
    assert at_odds == -detector.offset_ or at_odds > -detector.offset_ > 1
    near, far, farther = -detector.score_samples([[0.0] * 4, [400.0] * 4, [4000.0] * 4])
    assert near < 1 < at_odds < far < farther
    assert detector.predict([[400.0] * 4]) == -1
    plain = INNE(n_estimators=20, random_state=3).fit(X[:-1])
    single = PyODDetector(INNE(n_estimators=20, random_state=3), ensemble=False).fit(X[:-1])
    new = rows(20, seed=1)
    expected, found = plain.decision_function(new), -single.score_samples(new)
    inside = expected < 1
    assert inside.any()
    np.testing.assert_array_equal(found[inside], expected[inside])
    assert (found[~inside] >= 1).all()


def test_pca_keeps_the_components_that_hold_variance():
    X = np.random.RandomState(0).normal(size=(20, 16))
    X[:, 3] = 7.0
    detector = PyODDetector(PCA()).fit(X)
    assert {model.n_components_ for model in detector.detectors_} <= set(range(9, 16))
    assert all(model.explained_variance_ratio_.min() > 1e-3 for model in detector.detectors_)
    assert 0 < detector.training_scores_.min() <= detector.training_scores_.max() < 1e6
    assert PyODDetector(PCA(n_components=3)).fit(X).detector_.n_components_ == 3
    many = np.random.RandomState(0).normal(size=(300, 16))
    assert PyODDetector(PCA()).fit(many).detector_.n_components_ == 16


def test_few_rows_are_scored_with_the_median_of_the_folds_models():
    X, new = rows(60), rows(20, seed=1)
    detector = PyODDetector(KNN(n_neighbors=3), cv=4).fit(X)
    assert len(detector.detectors_) == 4
    medians = np.median([model.decision_function(new) for model in detector.detectors_], axis=0)
    np.testing.assert_allclose(-detector.score_samples(new), medians, rtol=1e-12)
    single = PyODDetector(KNN(n_neighbors=3), cv=4, ensemble=False).fit(X)
    assert single.detectors_ == [single.detector_]
    np.testing.assert_array_equal(single.training_scores_, detector.training_scores_)
    assert len(PyODDetector(KNN(), ensemble=True).fit(rows(150)).detectors_) == 5


@pytest.mark.parametrize(
    ("model", "n", "n_columns", "n_models"),
    [
        (KNN(), 99, 3, 5),
        (KNN(), 100, 3, 1),
        (MCD(), 100, 3, 1),
        (MCD(), 100, 6, 5),
        (OCSVM(), 300, 3, 5),
        (Noise(), 99, 3, 5),
        (Noise(), 100, 3, 1),
    ],
)
def test_models_whose_scale_depends_on_the_number_of_rows_are_kept(model, n, n_columns, n_models):
    X = np.random.RandomState(0).normal(size=(n, n_columns))
    assert len(PyODDetector(model).fit(X).detectors_) == n_models


# With a threshold from models of 24 rows and a model of 30, MCD flags 81 % of the new rows, and
# PCA all of them.
@pytest.mark.filterwarnings("ignore:Determinant has increased")
@pytest.mark.parametrize(
    ("model", "learned"),
    [(MCD(), False), (PCA(), False), (PCA(), True)],
    ids=["MCD", "PCA", "PCA behind a scaler"],
)
def test_false_positive_rate_from_fewer_rows_than_columns(model, learned):
    realized = []
    for seed in range(4):
        X = np.random.RandomState(seed).normal(size=(30 + 200, 48))
        detector = PyODDetector(model)
        detector = make_pipeline(StandardScaler(), detector) if learned else detector
        calibrator = ThresholdCalibrator(detector, quantile=0.8).fit(X[:30])
        realized.append(np.mean(calibrator.predict(X[30:]) == -1))
    assert np.mean(realized) < 1.5 * calibrator.expected_false_positive_rate_


def test_a_calibrator_keeps_its_folds_where_the_scale_depends_on_the_number_of_rows():
    X, new = rows(60), rows(7, seed=1)
    pipe = make_pipeline(StandardScaler(), PyODDetector(KNN()))
    calibrator = ThresholdCalibrator(pipe, quantile=0.9).fit(X)
    assert calibrator.provenance_["scores"] == "5 folds, whose models are kept"
    folds = calibrator.estimator_.fold_estimators
    assert [len(one[-1].training_scores_) for one in folds] == [48] * 5
    medians = np.median([one.score_samples(new) for one in folds], axis=0)
    np.testing.assert_allclose(calibrator.score_samples(new), medians, rtol=1e-12)
    many = ThresholdCalibrator(pipe, quantile=0.9).fit(rows(130))
    assert many.provenance_["scores"] == "5 folds"
    own = ThresholdCalibrator(PyODDetector(KNN()), quantile=0.9).fit(X)
    assert own.provenance_["scores"] == "the detector's own out-of-sample scores"


@pytest.mark.parametrize("name", ["GMM", "KPCA", "MCD", "PCA"])
def test_scores_are_the_same_on_any_number_of_blas_threads(name):
    # As many columns as a filter bank has, so that BLAS spreads its work.
    rows = np.random.default_rng(0).normal(size=(200, 128))
    found = []
    for n_threads in (1, 2, 3):
        with threadpool_limits(n_threads, user_api="blas"):
            detector = create_model(f"vision_{name.lower()}", detector__cv=2)[-1].fit(rows)
            found.append(detector.score_samples(rows[:5] + 0.1))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def near_the_cut(n=300):
    """Rows whose sixth component holds about as much variance as PCA needs to keep it."""
    rng = np.random.default_rng(0)
    sizes = np.r_[np.ones(5), 0.0715, 1e-3 * np.ones(4)]
    return rng.normal(size=(n, 10)) * sizes


def test_all_models_of_a_pca_have_as_many_components():
    # A score is a sum over the components: folds with one more would be on another scale.
    X = near_the_cut()
    detector = PyODDetector(PCA(standardization=False)).fit(X)
    assert len(detector.detectors_) == 1  # so many rows need no models of folds
    own = PyODDetector(PCA(n_components=detector.detector_.n_components_, standardization=False))
    np.testing.assert_array_equal(own.fit(X).training_scores_, detector.training_scores_)


def test_the_number_of_components_heeds_the_other_parameters_of_pca():
    X = near_the_cut()
    raw = PyODDetector(PCA(standardization=False)).fit(X).detector_
    assert raw.n_components_ in (5, 6)  # scaled, all ten would count
    assert PyODDetector(PCA()).fit(X).detector_.n_components_ == 10
    selected = PCA(standardization=False, n_selected_components=8)
    assert PyODDetector(selected).fit(X).detector_.n_components_ == 8


def test_inne_of_copies_has_a_finite_threshold():
    own = np.random.default_rng(0).normal(size=(12, 4))
    X = np.repeat(own, 2, axis=0)  # hyperspheres of radius zero
    detector = PyODDetector(INNE(n_estimators=20)).fit(X)
    assert np.isfinite(detector.training_scores_).all() and np.isfinite(detector.offset_)
    assert detector.predict(own[:5] + 50).tolist() == [-1] * 5


@pytest.mark.parametrize(
    "name, parameter, value",
    [
        ("ABOD", "method", "nope"),
        ("CBLOF", "clustering_estimator", "nope"),
        ("HBOS", "n_bins", 2),
        ("INNE", "max_samples", 1.5),
        ("KNN", "method", "nope"),
        ("KPCA", "n_components", -1),
        ("LODA", "n_bins", 1.5),
        ("PCA", "n_selected_components", "nope"),
        ("Sampling", "metric", "nope"),
    ],
)
def test_parameters_that_pyod_does_not_check_are_refused(name, parameter, value):
    said = f"The '{parameter}' parameter of {name} must be"
    with pytest.raises(InvalidParameterError, match=said):
        create_model(f"vision_{name.lower()}", **{parameter: value})
    model = create_model(f"vision_{name.lower()}")[-1].detector
    model.set_params(**{parameter: value})
    with pytest.raises(InvalidParameterError, match=said):
        PyODDetector(model).fit(rows(12))


def test_parameters_of_a_model_of_another_package_are_its_own():
    class KNN(Noise):
        def __init__(self, method="mine", contamination=0.1):
            super().__init__(contamination=contamination)
            self.method = method

    assert len(PyODDetector(KNN()).fit(rows(12)).training_scores_) == 12
