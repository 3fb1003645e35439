"""The one way down through pipelines and meta-estimators."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyimgano import PatchCoreDetector, ScoreEnsemble, ThresholdCalibrator
from pyimgano._nesting import find_calibrator, first_step, innermost, makes_maps, walk
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import anomaly_map
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.testing import make_check_images

IMAGES = make_check_images(8)
LABELS = np.repeat([1, -1], [6, 2])


def patch_core():
    return PatchCoreDetector(FilterBankFeatures(resize=32, n_components=4))


def search(estimator, name="coreset_ratio"):
    def all_alike(estimator, X, y=None):
        return 0.0

    return GridSearchCV(estimator, {name: [0.5]}, scoring=all_alike, cv=2)


NESTED = {
    "pipeline": lambda: make_pipeline(ImageFormatNormalizer(), "passthrough", patch_core()),
    "frozen": lambda: FrozenEstimator(patch_core().fit(IMAGES)),
    "search": lambda: search(patch_core()),
    "calibrator": lambda: ThresholdCalibrator(patch_core()),
    "calibrator as last step": lambda: make_pipeline(patch_core(), ThresholdCalibrator()),
    "search over a pipeline": lambda: search(
        make_pipeline(ImageFormatNormalizer(), patch_core()), "patchcoredetector__coreset_ratio"
    ),
    "calibrator of a frozen search": lambda: ThresholdCalibrator(
        FrozenEstimator(search(patch_core()).fit(IMAGES, LABELS))
    ),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
def test_every_nesting_leads_to_the_detector_and_its_map(name):
    estimator = NESTED[name]()
    for one in (estimator, estimator.fit(IMAGES, LABELS)):
        outer_to_inner = [part for part, _ in walk(one)]
        assert outer_to_inner[0] is one
        assert type(outer_to_inner[-1]) is PatchCoreDetector
        assert makes_maps(one)
        assert (find_calibrator(one) is not None) == ("calibrator" in name)
    detector, _ = innermost(estimator)
    np.testing.assert_array_equal(anomaly_map(estimator, IMAGES), detector.anomaly_map(IMAGES))


def test_input_is_taken_through_the_steps_before_each_estimator():
    scaler, forest = StandardScaler(), IsolationForest(n_estimators=3, random_state=0)
    rows = np.random.RandomState(0).normal(size=(20, 3))
    pipe = make_pipeline(scaler, forest).fit(rows)
    (outer, whole), (inner, scaled) = walk(FrozenEstimator(pipe).estimator, rows)
    assert outer is pipe and whole is rows
    assert inner is forest
    np.testing.assert_array_equal(scaled, scaler.transform(rows))
    # The forest's own base estimator, a tree, is no detector to go on to.
    assert innermost(pipe)[0] is forest
    assert not makes_maps(pipe)


def test_the_first_step_is_found_in_any_nesting():
    normalizer = ImageFormatNormalizer()
    pipe = make_pipeline(make_pipeline(normalizer, FilterBankFeatures()), patch_core())
    for estimator in (pipe, ThresholdCalibrator(pipe), search(pipe)):
        assert first_step(estimator) is normalizer
    detector = patch_core()
    assert first_step(ThresholdCalibrator(detector)) is detector
    pipe = make_pipeline(ImageFormatNormalizer(), PatchCoreDetector(FilterBankFeatures(resize=32)))
    kept = ThresholdCalibrator(pipe, quantile=0.7, cv=2, ensemble=True).fit(make_check_images(4))
    assert isinstance(first_step(kept), ImageFormatNormalizer)
    assert makes_maps(kept) and anomaly_map(kept, make_check_images(1)).ndim == 3


def test_a_search_inside_an_ensemble_has_its_map():
    member = search(patch_core())
    ensemble = ScoreEnsemble([("alone", member)], normalization="z")
    assert makes_maps(ensemble)
    found = ensemble.fit(IMAGES, LABELS).anomaly_map(IMAGES)
    of_member = anomaly_map(member.fit(IMAGES[LABELS == 1]), IMAGES)
    # On a scale of the ensemble's own, the member's map.
    assert np.corrcoef(found.ravel(), of_member.ravel())[0, 1] == pytest.approx(1, abs=1e-6)
