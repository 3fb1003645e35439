"""Names of the previous release: they give what they gave, and say where it is now."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest

import pyimgano
from pyimgano import PatchCoreDetector, _moved, inference
from pyimgano.features import FilterBankFeatures
from pyimgano.testing import make_check_images


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("pyimgano.base", "BasePatchDetector", "pyimgano.detectors.BasePatchDetector"),
        ("pyimgano.base", "Fingerprint", "pyimgano.base.SampleKey"),
        ("pyimgano.base", "TrainingBlocks", "pyimgano.base.TrainingStream"),
        ("pyimgano.base", "fingerprints", "pyimgano.base.sample_keys"),
        ("pyimgano.base", "normal_rows", "pyimgano.base.normal_samples"),
        ("pyimgano.delivery", "load", "pyimgano.persistence.load"),
        ("pyimgano.delivery", "save", "pyimgano.persistence.save"),
        ("pyimgano.delivery", "overlay", "pyimgano.reporting.overlay"),
        ("pyimgano.delivery", "show_versions", "pyimgano.utils.show_versions"),
        ("pyimgano.detectors", "PyODView", "pyimgano.interop.PyODView"),
        ("pyimgano.detectors", "as_pyod", "pyimgano.interop.as_pyod"),
        ("pyimgano.features", "PatchGrids", "pyimgano.grids.PatchGrids"),
        ("pyimgano.features", "TorchPatchFeatures", "pyimgano.features.BackbonePatchFeatures"),
        ("pyimgano.models", "create_model", "pyimgano.registry.create_model"),
        ("pyimgano.pipelines", "run_benchmark", "pyimgano.benchmark.run_benchmark"),
        (
            "pyimgano.utils.estimator_checks",
            "make_check_images",
            "pyimgano.testing.make_check_images",
        ),
    ],
)
def test_an_old_name_is_the_same_object_and_warns_once(module, name, now):
    place, _, attribute = now.rpartition(".")
    expected = getattr(importlib.import_module(place), attribute)
    old = importlib.import_module(module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = getattr(old, name)
    assert found is expected
    (warning,) = caught
    assert warning.category is FutureWarning
    assert warning.filename == __file__  # it points at the line that uses the name
    assert str(warning.message).startswith(f"{module}.{name} is now {now};")
    assert attribute in importlib.import_module(place).__all__  # a name to rely on


@pytest.mark.parametrize("module", sorted(_moved._PUBLIC_MODULES))
def test_an_old_module_lists_the_names_it_has(module):
    old = importlib.import_module(module)
    assert old.__all__ == sorted(old.__all__) and set(old.__all__) <= set(dir(old))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in old.__all__:
            place, now = _moved.current_name(module, name)
            assert getattr(old, name) is getattr(importlib.import_module(place), now)
        names: dict[str, object] = {}
        exec(f"from {module} import *", names)
    assert set(old.__all__) <= set(names)
    assert caught and not [w for w in caught if "._" in str(w.message)]


def test_score_gives_scores_and_maps_and_warns_once():
    detector = PatchCoreDetector(FilterBankFeatures(resize=32)).fit(make_check_images(4))
    new = make_check_images(2, random_state=1)
    with pytest.warns(FutureWarning, match="is now anomaly_scores, and score_with_maps") as caught:
        scores, maps = inference.score(detector, new, maps=True)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(scores, inference.anomaly_scores(detector, new))
    np.testing.assert_array_equal(maps, detector.anomaly_map(new))


@pytest.mark.parametrize("name", ["delivery", "models", "pipelines"])
def test_an_old_module_is_still_an_attribute_of_the_package(name):
    assert getattr(pyimgano, name) is importlib.import_module(f"pyimgano.{name}")


@pytest.mark.parametrize("module", ["pyimgano.base", "pyimgano.features", "pyimgano.models"])
def test_a_name_that_never_was_is_an_error(module):
    old = importlib.import_module(module)
    with pytest.raises(AttributeError, match=rf"module '{module}' has no attribute 'nothing'"):
        _ = old.nothing
