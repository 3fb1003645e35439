"""Both batteries of contract tests over every estimator the package has."""

from __future__ import annotations

import warnings
from collections import defaultdict

import cv2
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import has_fit_parameter

from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import BaseTrainedDetector, PatchCoreDetector
from pyimgano.features import FilterBankFeatures
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.preprocessing import BasePreprocessor
from pyimgano.testing import _image_checks as checks
from pyimgano.testing import (
    yield_image_checks,
    yield_image_row_checks,
    yield_image_transformer_checks,
)
from pyimgano.testing._transformer_checks import check_rows_are_finite_numbers
from pyimgano.utils import all_estimators
from tests.instances import (
    ALIGNMENT_INSTANCES,
    IMAGE_INSTANCES,
    IMAGE_ONLY_INSTANCES,
    MAP_INSTANCES,
    POOLING_INSTANCES,
    ROW_DETECTORS,
    ROW_INSTANCES,
    SYNTHESIZER_INSTANCES,
    TABLE_INSTANCES,
    TRAINED_LONGER,
    TRANSFORMER_INSTANCES,
)

pytestmark = pytest.mark.usefixtures("metrics_kept")

# Checks that may fail, with the reason. Nothing else may.
EXPECTED_FAILURES: dict[str, dict[str, str]] = {}

# A battery that skips itself looks green: this many checks must really have passed.
LEAST_CHECKS = {"outlier_detector": 40}

# Checks scikit-learn itself skips without these.
ENVIRONMENT_SKIPS = ("SCIPY_ARRAY_API", "pandas", "polars", "pyarrow")


def _ids(instances):
    return [
        pytest.param(name, instance, id=f"{name}-{i}")
        for name, several in instances.items()
        for i, instance in enumerate(several)
    ]


def test_every_estimator_is_on_the_lists():
    assert {name for name, _ in all_estimators()} == {
        *TABLE_INSTANCES,
        *IMAGE_ONLY_INSTANCES,
        *TRANSFORMER_INSTANCES,
        *ROW_INSTANCES,
        *POOLING_INSTANCES,
        *MAP_INSTANCES,
        *ALIGNMENT_INSTANCES,
        *SYNTHESIZER_INSTANCES,
    }
    assert {name for name, _ in all_estimators("outlier_detector")} == {
        *IMAGE_INSTANCES,
        *ROW_DETECTORS,
    }


@pytest.mark.parametrize(("name", "instance"), _ids(TABLE_INSTANCES))
def test_scikit_learn_contract(name, instance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            clone(instance), expected_failed_checks=EXPECTED_FAILURES.get(name), on_fail=None
        )
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, failed
    skipped = [r for r in results if r["status"] == "skipped"]
    for result in skipped:
        assert any(word in str(result["exception"]) for word in ENVIRONMENT_SKIPS), result
    if name in dict(all_estimators("outlier_detector")):
        passed = [r for r in results if r["status"] == "passed"]
        assert len(passed) >= LEAST_CHECKS["outlier_detector"], len(passed)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    ("name", "instance"),
    _ids(
        {
            **IMAGE_ONLY_INSTANCES,
            **TRANSFORMER_INSTANCES,
            **ROW_INSTANCES,
            **POOLING_INSTANCES,
            **MAP_INSTANCES,
            **ALIGNMENT_INSTANCES,
            **SYNTHESIZER_INSTANCES,
        }
    ),
)
def test_scikit_learn_contract_of_what_takes_images_only(name, instance):
    # Their tags say that they take no tables, which leaves scikit-learn with the clone check.
    results = check_estimator(clone(instance), on_fail=None)
    assert {r["check_name"]: r["status"] for r in results} == {
        "check_estimator_cloneable": "passed"
    }


@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.RandomWeightsWarning")
@pytest.mark.parametrize("check", list(yield_image_transformer_checks()))
@pytest.mark.parametrize(("name", "instance"), _ids(TRANSFORMER_INSTANCES))
def test_image_transformer_contract(name, instance, check):
    if name == "ViTPatchFeatures":
        pytest.importorskip("timm", reason="timm is not installed")
    check(clone(instance))


class Printed(BasePreprocessor):
    """Print one pattern on images of any kind, by which they can be aligned."""

    def _prepare_pixels(self, image):
        pattern = np.random.RandomState(0).randint(0, 256, size=image.shape).astype(np.uint8)
        pattern = cv2.normalize(cv2.GaussianBlur(pattern, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
        return cv2.addWeighted(pattern, 0.9, image, 0.1, 0)


@pytest.mark.parametrize("check", list(yield_image_transformer_checks()))
@pytest.mark.parametrize(("name", "instance"), _ids(ALIGNMENT_INSTANCES))
def test_alignment_contract(name, instance, check):
    check(make_pipeline(ImageFormatNormalizer(resize=(48, 64)), Printed(), clone(instance)))


@pytest.mark.parametrize("check", list(yield_image_row_checks()))
@pytest.mark.parametrize(("name", "instance"), _ids(ROW_INSTANCES))
def test_image_row_contract(name, instance, check):
    check(clone(instance))


@pytest.mark.parametrize(
    "check", [*yield_image_transformer_checks(), check_rows_are_finite_numbers]
)
@pytest.mark.parametrize(("name", "instance"), _ids(POOLING_INSTANCES))
def test_pooled_row_contract(name, instance, check):
    check(make_pipeline(FilterBankFeatures(resize=32, n_components=8), clone(instance)))


def test_the_batteries_of_image_transformers_are_not_empty():
    assert len(list(yield_image_transformer_checks())) == 10
    assert len(list(yield_image_row_checks())) == 14


NEEDS_TRAINING = (
    checks.check_finds_a_defect,
    checks.check_map_peaks_at_the_defect,
    checks.check_only_the_region_of_interest_counts,
)


def _image_checks():
    for name, several in IMAGE_INSTANCES.items():
        for i, instance in enumerate(several):
            for check in yield_image_checks(instance):
                if name in TRAINED_LONGER and check in NEEDS_TRAINING:
                    continue
                yield pytest.param(instance, check, id=f"{name}-{i}-{check.__name__}")


@pytest.fixture(scope="session")
def learned():
    """What each instance has learned from the check images, by its identity."""
    return defaultdict(dict)


@pytest.mark.parametrize(("instance", "check"), list(_image_checks()))
def test_image_contract(instance, check, learned):
    if isinstance(instance, BaseTrainedDetector):
        pytest.importorskip("torch", reason="torch is not installed")
    with warnings.catch_warnings(), checks.fitted_once(learned[id(instance)]):
        warnings.simplefilter("ignore")
        check(clone(instance))


@pytest.mark.parametrize("name", TRAINED_LONGER)
def test_image_contract_of_what_needs_training(name):
    pytest.importorskip("torch", reason="torch is not installed")
    with checks.fitted_once({}):
        for check in NEEDS_TRAINING:
            check(clone(TRAINED_LONGER[name]))
        if name != "DRAEMDetector":  # of which the battery has long enough a training
            # What has hardly been trained remembers no image.
            checks.check_training_images_are_scored_out_of_sample(clone(TRAINED_LONGER[name]))


@pytest.mark.parametrize(
    ("name", "instance"),
    _ids({name: TABLE_INSTANCES[name] for name in ROW_DETECTORS}),
)
def test_a_score_of_rows_at_the_threshold_is_normal(name, instance):
    rows = np.random.RandomState(0).normal(size=(16, 3))
    checks.check_ties(clone(instance), rows[:11], rows[11:])


def test_the_image_battery_is_not_empty():
    for name, several in IMAGE_INSTANCES.items():
        for instance in several:
            n_checks = 33 if hasattr(type(instance), "anomaly_map") else 30
            n_checks += 2 * has_fit_parameter(instance, "roi_mask")
            assert len(list(yield_image_checks(instance))) == n_checks, name
    assert hasattr(ThresholdCalibrator, "anomaly_map")
    assert has_fit_parameter(PatchCoreDetector(), "roi_mask")


def test_the_image_battery_catches_a_detector_that_looks_at_the_batch():
    class Relative(PatchCoreDetector):
        def score_samples(self, X):
            scores = super().score_samples(X)
            return scores - scores.mean()

    with pytest.raises(AssertionError):
        checks.check_batch_equals_one_by_one(Relative(FilterBankFeatures(resize=64)))


def test_the_image_battery_catches_in_sample_training_scores():
    class InSample(PatchCoreDetector):
        def _substitute_training_scores(self, scores, train_group):
            return np.where(train_group >= 0, 0.0, scores)

    with pytest.raises(AssertionError):
        checks.check_training_images_are_scored_out_of_sample(
            InSample(FilterBankFeatures(resize=64))
        )


def test_the_image_battery_catches_float32_scores():
    class Single(PatchCoreDetector):
        def score_samples(self, X):
            return super().score_samples(X).astype(np.float32)

    with pytest.raises(AssertionError, match="float32"):
        checks.check_scores_are_float64(Single(FilterBankFeatures(resize=64)))


def test_checks_of_one_detector_share_a_fit():
    fits = []

    class Counted(PatchCoreDetector):
        def fit(self, X, y=None, **metadata):
            fits.append(len(X))
            return super().fit(X, y, **metadata)

    detector = Counted(FilterBankFeatures(resize=32))
    with checks.fitted_once({}):
        for check in (checks.check_signs_agree, checks.check_scores_are_float64):
            check(clone(detector))
        assert fits == [12]
        checks.check_parameters_are_not_changed_by_fit(clone(detector))  # a check of fit itself
        assert fits == [12, 12]
    checks.check_signs_agree(clone(detector))
    assert fits == [12, 12, 12]


def test_checks_that_share_a_fit_keep_the_parameters_that_they_have_set():
    detector, learned = PatchCoreDetector(FilterBankFeatures(resize=32)), {}
    with checks.fitted_once(learned):
        checks.check_signs_agree(clone(detector))
        other = clone(detector).set_params(smoothing_sigma=1.5)
        checks.check_scores_are_float64(other)
    assert other.smoothing_sigma == 1.5 and other.offset_ == learned["offset_"]
