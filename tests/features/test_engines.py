"""Engines of network features: the same features, scores and verdicts, live and saved."""

from __future__ import annotations

import copy
import pickle
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import cv2
import numpy as np
import pytest
from sklearn.base import clone

import pyimgano
from pyimgano.backbones import _engines, _network
from pyimgano.backbones._efficientnet_lite import EfficientNetLite
from pyimgano.backbones._engines import OnnxNetwork
from pyimgano.detectors import (
    AnomalyDINODetector,
    PaDiMDetector,
    PatchCoreDetector,
    SoftPatchDetector,
    SPADEDetector,
)
from pyimgano.exceptions import DeviceError, MissingExtraError
from pyimgano.export import export_bundle, open_bundle, validate
from pyimgano.features import BackbonePatchFeatures, ViTPatchFeatures
from pyimgano.utils._threads import limit_threads
from tests.extras import needs_extra

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights", "ignore:.*images are few")

EXTERNAL = {"onnxruntime": "onnx", "openvino": "openvino"}


@pytest.fixture(params=EXTERNAL)
def engine(request) -> str:
    needs_extra(EXTERNAL[request.param])
    return request.param


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """The cache folder, empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYIMGANO_CACHE_DIR", str(folder))
        yield folder / "onnx"


def pictures(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (64, 48)) for one in small])


IMAGES = pictures(8)
STEPS = {
    "resnet18": lambda **options: BackbonePatchFeatures(
        "resnet18", ("layer2", "layer1"), None, resize=(48, 70), **options
    ),
    "resnet50": lambda **options: BackbonePatchFeatures(
        "resnet50", ("layer2.0", "layer1.1"), None, resize=None, **options
    ),
    "efficientnet_lite0": lambda **options: BackbonePatchFeatures(
        "efficientnet_lite0", ("layer2", "blocks.7"), None, resize=(48, 70), **options
    ),
    "mobilenet_v2": lambda **options: BackbonePatchFeatures(
        "mobilenet_v2", ("features.3",), None, resize=32, **options
    ),
    "vit": lambda **options: ViTPatchFeatures(
        "timm:test_vit", None, resize=32, layers=(-1, 1), **options
    ),
}
OF_TORCH = {"mobilenet_v2": "torch", "vit": "timm"}


def step_of(name: str, **options):
    if name in OF_TORCH:
        needs_extra(OF_TORCH[name])
    return STEPS[name](**options)


@pytest.mark.parametrize("name", [name for name in STEPS if name != "resnet18"])
def test_features_are_those_of_the_usual_engine(name, engine):
    step = step_of(name).fit(IMAGES)
    expected = step.transform(IMAGES[:3])
    step.set_params(engine=engine)
    found = step.transform(IMAGES[:3])
    np.testing.assert_array_equal(found.grid_shapes, expected.grid_shapes)
    largest = np.abs(expected.rows).max()
    np.testing.assert_allclose(found.rows, expected.rows, atol=5e-6 * largest)
    # Alone, and beside one of another size, an image is the same, bit for bit.
    mixed = [IMAGES[2], IMAGES[0][:40], IMAGES[1]]
    rows = step.transform(mixed).as_image_rows()
    for image, of_image in zip(mixed, rows):
        np.testing.assert_array_equal(step.transform([image]).rows, of_image)


DETECTORS = {
    "patchcore": lambda: PatchCoreDetector(step_of("resnet18"), coreset_ratio=0.2),
    "padim": lambda: PaDiMDetector(step_of("efficientnet_lite0")),
    "spade": lambda: SPADEDetector(step_of("resnet18"), n_neighbors=2),
    "softpatch": lambda: SoftPatchDetector(step_of("efficientnet_lite0"), coreset_ratio=0.2),
    "anomalydino": lambda: AnomalyDINODetector(step_of("vit")),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_agree_over_engines_saved_files_and_bundles(name, tmp_path):
    detector = DETECTORS[name]().fit(IMAGES)
    new = pictures(6, seed=1)
    scores = detector.score_samples(new)
    detector.offset_ = float(np.median(scores))
    verdicts = detector.predict(new)
    assert set(verdicts) == {-1, 1}
    for engine, extra in EXTERNAL.items():
        needs_extra(extra)
        detector.set_params(features__engine=engine)
        of_engine = detector.score_samples(new)
        np.testing.assert_allclose(of_engine, scores, rtol=1e-4)
        np.testing.assert_array_equal(detector.predict(new), verdicts)
        path = pyimgano.save(detector, tmp_path / f"{engine}.joblib", embed_weights=True)
        bundle = export_bundle(detector, tmp_path / engine)
        for loaded in (pyimgano.load(path), open_bundle(bundle).estimator):
            assert loaded.features_.engine == engine
            np.testing.assert_array_equal(loaded.score_samples(new), of_engine)


def test_which_engine_runs_depends_on_the_parameters_alone(engine):
    step = step_of("efficientnet_lite0").fit(IMAGES)
    assert isinstance(step._network().module, EfficientNetLite)
    step.set_params(engine=engine)
    network = step._network().module
    assert isinstance(network, OnnxNetwork)
    assert step.weights_sha256_ == step._network().sha256
    step.set_params(engine="native")
    assert isinstance(step._network().module, EfficientNetLite)
    assert step.set_params(engine=engine, weights="imagenet").needs_extra == "imagenet"
    assert step.set_params(weights=None).needs_extra == EXTERNAL[engine]
    assert step.set_params(engine="auto").needs_extra is None


def test_sessions_are_no_part_of_the_state(engine):
    step = step_of("efficientnet_lite0").fit(IMAGES)
    size = len(pickle.dumps(step))
    step.set_params(engine=engine)
    rows = step.transform(IMAGES).rows
    saved = pickle.dumps(step)
    assert len(saved) < size + 20
    np.testing.assert_array_equal(pickle.loads(saved).transform(IMAGES).rows, rows)
    np.testing.assert_array_equal(copy.deepcopy(step).transform(IMAGES).rows, rows)


def test_threads_share_a_network(engine):
    step = step_of("efficientnet_lite0", engine=engine, batch_size=1).fit(IMAGES)
    alone = [step.transform([image]).rows for image in IMAGES]
    with limit_threads(3), ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda image: step.transform([image]).rows, [*IMAGES] * 3))
    np.testing.assert_array_equal(together, alone * 3)
    step.set_params(threads_per_image=2)
    rows = step.transform(IMAGES).rows
    np.testing.assert_allclose(rows, np.concatenate(alone), atol=5e-6 * np.abs(rows).max())


def test_only_so_many_sizes_are_kept_ready(engine, monkeypatch):
    monkeypatch.setattr(_engines, "_MOST_SIZES", 2)
    step = step_of("efficientnet_lite0", engine=engine).set_params(resize=None)
    images = [IMAGES[0][:side] for side in (40, 41, 42, 40)]
    rows = step.fit(images).transform(images).as_image_rows()
    np.testing.assert_array_equal(rows[0], rows[3])
    assert len(step._network().module._runs) == 2


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("resnet18", {"engine": "tensorrt"}, ValueError, "The 'engine' parameter"),
        ("resnet18", {"engine": "onnxruntime", "device": "cuda"}, DeviceError, "on the CPU only"),
        ("resnet18", {"engine": "native", "device": "cuda"}, DeviceError, 'or use engine="torch"'),
        (
            "resnet18",
            {"engine": "onnxruntime", "precision": "bfloat16"},
            DeviceError,
            "float32 only, got precision='bfloat16'",
        ),
        (
            "resnet18",
            {"engine": "native", "precision": "bfloat16"},
            DeviceError,
            'engine="native" does not run resnet18 .*precision=\'bfloat16\'.*engine="torch"',
        ),
        ("efficientnet_lite0", {"engine": "torch"}, DeviceError, "torchvision does not have"),
        ("vit", {"engine": "native"}, DeviceError, 'engine="native" does not run timm:test_vit'),
    ],
)
def test_what_an_engine_does_not_offer(name, options, error, message):
    with pytest.raises(error, match=message):
        step_of(name, **options).fit(IMAGES)


def test_a_network_that_is_too_large_for_a_file(engine, monkeypatch):
    monkeypatch.setattr(_engines, "_MOST_BYTES", 1000)
    with pytest.raises(DeviceError, match=r'are 0\.0 GB, and an ONNX file .*engine="torch"'):
        step_of("efficientnet_lite0", engine=engine, random_state=80).fit(IMAGES)


def test_a_missing_engine_is_named_with_both_ways_out(engine, monkeypatch):
    step = step_of("efficientnet_lite0").fit(IMAGES)
    saved = pickle.dumps(step.set_params(engine=engine))
    _network.load_network.cache_clear()
    monkeypatch.setitem(sys.modules, engine, None)  # as if it was not installed
    loaded = pickle.loads(saved)
    with pytest.raises(
        MissingExtraError,
        match=rf'(?s)needs {engine}.*"pyimgano\[{EXTERNAL[engine]}\]".*features__engine="auto"',
    ):
        loaded.transform(IMAGES)
    assert loaded.set_params(engine="auto").transform(IMAGES).rows.size


def test_a_bundle_says_that_its_engine_is_missing(engine, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "part.png"), IMAGES[0])
    step = step_of("efficientnet_lite0", engine=engine)
    detector = PatchCoreDetector(step, coreset_ratio=0.2).fit(IMAGES)
    bundle = export_bundle(detector, tmp_path / "line3", golden=[tmp_path / "part.png"])
    assert validate(bundle).ok
    _network._kept_networks.clear()
    monkeypatch.setitem(sys.modules, engine, None)  # as if it was not installed
    failed = [check for check in validate(bundle).checks if not check.ok]
    assert [check.name for check in failed] == ["golden"]
    assert f'pip install "pyimgano[{EXTERNAL[engine]}]"' in failed[0].detail


def test_bfloat16_of_openvino_or_its_absence(monkeypatch):
    needs_extra("openvino")
    openvino = pytest.importorskip("openvino")
    step = step_of("efficientnet_lite0", engine="openvino").fit(IMAGES)
    exact = step.transform(IMAGES).rows
    step = step_of("efficientnet_lite0", engine="openvino", precision="bfloat16")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        rough = step.fit(IMAGES).transform(IMAGES).rows
        difference = np.abs(rough - exact).max() / np.abs(exact).max()
        assert 1e-4 < difference < 0.05
    monkeypatch.setattr(openvino.Core, "get_property", lambda *names: ["FP32", "INT8"])
    _network.load_network.cache_clear()
    with pytest.raises(DeviceError, match="no instructions for bfloat16"):
        step_of("efficientnet_lite0", engine="openvino", precision="bfloat16").fit(IMAGES)


def test_openvino_leaves_the_stack_for_signals_in_place():
    # As a process of its own: with the stack of a network that is gone, the signal would kill it.
    needs_extra("openvino")
    code = """
import gc, signal
import numpy as np
from pyimgano.backbones import _network
from pyimgano.features import BackbonePatchFeatures

def fitted(seed):
    step = BackbonePatchFeatures("efficientnet_lite0", ("layer1",), None, resize=None,
                                 engine="openvino", random_state=seed)
    _network.load_network.cache_clear()
    return step.fit(np.zeros((2, 48, 64, 3), np.uint8))

first, second = fitted(1), fitted(2)
_network.load_network.cache_clear()
for name in ("first", "second"):
    del globals()[name]
    gc.collect()
signal.signal(signal.SIGTERM, lambda number, frame: print("came", number))
signal.raise_signal(signal.SIGTERM)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"came {int(signal.SIGTERM)}\n"), done.stderr


def test_threads_share_one_core_of_openvino(monkeypatch):
    cores = []

    class Core:
        def __init__(self):
            cores.append(self)
            time.sleep(0.1)  # the others ask meanwhile

        def get_property(self, *names):
            return ["FP32"]

    fake = types.ModuleType("openvino")
    fake.Core = Core
    monkeypatch.setitem(sys.modules, "openvino", fake)
    module = types.SimpleNamespace(shapes={}, tables=set())
    together = Barrier(3)

    def load(_):
        together.wait(60)
        return OnnxNetwork(module, "openvino", "float32", "any", ())

    with ThreadPoolExecutor(3) as threads:
        assert len(list(threads.map(load, range(3)))) == 3
    assert len(cores) == 1


# ---- the file in the cache ------------------------------------------------------------
def test_the_network_is_written_once_and_onnx_not_needed_again(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    step = step_of("efficientnet_lite0", engine=engine)
    rows = step.set_params(random_state=77).fit(IMAGES).transform(IMAGES).rows
    (file,) = (tmp_path / "onnx").glob("*.onnx")
    assert file.name.startswith("efficientnet_lite0.")
    written, time = file.read_bytes(), file.stat().st_mtime_ns
    _network.load_network.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        np.testing.assert_array_equal(clone(step).fit(IMAGES).transform(IMAGES).rows, rows)
    assert file.stat().st_mtime_ns == time
    # Damage is found, and the file written again.
    file.write_bytes(written[:-50] + bytes(50))
    _network.load_network.cache_clear()
    np.testing.assert_array_equal(clone(step).fit(IMAGES).transform(IMAGES).rows, rows)
    assert file.read_bytes() == written
    # Other weights, other layers: other files.
    for changes in ({"random_state": 78}, {"layers": ("layer1",)}):
        clone(step).set_params(**changes).fit(IMAGES).transform(IMAGES)
    assert len(list((tmp_path / "onnx").glob("*.onnx"))) == 3


def test_a_folder_that_cannot_be_written_to_is_a_warning(engine, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path / "file"))
    step = step_of("efficientnet_lite0", engine=engine).set_params(random_state=79).fit(IMAGES)
    with pytest.warns(UserWarning, match="cannot be written .*Set PYIMGANO_CACHE_DIR"):
        rows = step.transform(IMAGES).rows
    np.testing.assert_allclose(
        rows, step.set_params(engine="auto").transform(IMAGES).rows, atol=1e-5 * np.abs(rows).max()
    )


def test_the_file_is_valid_and_takes_pixels(tmp_path):
    needs_extra("onnx")
    onnx = pytest.importorskip("onnx")
    for name in ("resnet18", "efficientnet_lite0"):
        network = step_of(name, engine="onnxruntime").fit(IMAGES)._network().module
        model = onnx.load_from_string(network.as_onnx((48, 70)))
        onnx.checker.check_model(model, full_check=True)
        (pixels,) = model.graph.input
        assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        shapes = [
            [d.dim_value for d in one.type.tensor_type.shape.dim] for one in model.graph.output
        ]
        widths = {"resnet18": [128, 64], "efficientnet_lite0": [40, 80]}
        assert [shape[-1] for shape in shapes] == widths[name]
