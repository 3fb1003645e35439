"""ResNets without torch: torchvision's networks, by another way."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pyimgano.backbones._network import load_network
from pyimgano.backbones._resnet import ResNet
from pyimgano.backbones._torch_module import TorchModule
from pyimgano.exceptions import WeightsError
from pyimgano.features import BackbonePatchFeatures

BACKBONES = [
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2",
    "wide_resnet101_2",
]  # fmt: skip
COLORS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
pytestmark = pytest.mark.filterwarnings("ignore:.*random weights")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 70, 90, 3), dtype=np.uint8)


def step(backbone="resnet18", **options) -> BackbonePatchFeatures:
    options = {"weights": None, "resize": (48, 64), "crop": None, "device": "cpu", **options}
    return BackbonePatchFeatures(backbone, **options)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_names_shapes_and_published_weights_are_torchvisions(backbone):
    models = pytest.importorskip("torchvision.models")
    from pyimgano.backbones._torchvision import build_graph

    first = next(iter(models.get_model_weights(backbone)))
    assert ResNet.published(backbone) == (str(first), first.url)
    graph = build_graph(backbone, ("layer4", "layer1.0"))
    whole = TorchModule(graph, COLORS, "cpu", "float32").shapes
    # The shapes of shorter networks are the first of this one's; torchvision takes long to cut
    # off each.
    for layers, before in (
        (("layer4", "layer1.0"), ("",)),
        (("layer2", "layer3"), ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")),
        (("layer1.1",), ("conv1.", "bn1.", "layer1.0.", "layer1.1.")),
    ):
        expected = [(name, shape) for name, shape in whole.items() if name.startswith(before)]
        assert list(ResNet(backbone, layers, COLORS).shapes.items()) == expected


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("resnet18", ("layer1", "layer2", "layer3")),
        ("resnet34", ("layer4", "layer1.2")),
        ("resnet50", ("layer2", "layer3")),
        ("wide_resnet50_2", ("layer1.0", "layer2")),
    ],
)
def test_features_and_digest_are_those_of_torch(backbone, layers, images, monkeypatch):
    pytest.importorskip("torchvision")
    plain = step(backbone, layers=layers).fit(images)
    found = plain.transform(images).rows
    assert isinstance(plain._network().module, ResNet)
    monkeypatch.setattr(ResNet, "offers", staticmethod(lambda *_: False))
    load_network.cache_clear()
    try:
        by_torch = step(backbone, layers=layers).fit(images)
        expected = by_torch.transform(images).rows
        assert isinstance(by_torch._network().module, TorchModule)
    finally:
        load_network.cache_clear()
    assert plain.weights_sha256_ == by_torch.weights_sha256_
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    assert np.abs(expected).max() > 0


def test_batch_norms_are_merged_by_their_definition():
    network = ResNet("resnet18", ("layer1.0",), COLORS)
    rng = np.random.default_rng(0)
    state = {name: np.zeros(shape, np.float32) for name, shape in network.shapes.items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] += rng.uniform(0.5, 2, 64).astype(np.float32)
    # The first convolution passes red on to every channel; the block adds nothing to it.
    state["conv1.weight"][:, 0, 3, 3] = 1.0
    state["bn1.weight"][:] = rng.uniform(0.5, 2, 64)
    state["bn1.bias"][:] = rng.uniform(-1, 1, 64)
    state["bn1.running_mean"][:] = rng.uniform(0, 100, 64)
    network.fill(state)
    image = np.full((8, 8, 3), 51, np.uint8)
    (found,) = network.maps(image, 1)
    gain = state["bn1.weight"] / np.sqrt(state["bn1.running_var"] + 1e-5)
    expected = gain * (51 / 255 - state["bn1.running_mean"]) + state["bn1.bias"]
    assert found.shape == (2, 2, 64)
    np.testing.assert_allclose(
        found, np.broadcast_to(np.maximum(expected, 0), (2, 2, 64)), rtol=1e-5, atol=1e-5
    )


def test_an_image_is_the_same_bit_for_bit_in_any_batch_and_number_of_threads(images):
    one = step().fit(images)
    together = one.transform(images).rows
    alone = np.concatenate([one.transform(images[i : i + 1]).rows for i in range(3)])
    np.testing.assert_array_equal(together, alone)
    one.set_params(threads_per_image=2)
    np.testing.assert_array_equal(one.transform(images).rows, together)


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("resnet18", ("layer1.0.conv1",)),  # inside a block
        ("resnet18", ("layer5",)),
        ("resnet18", ("layer1.2",)),
        ("resnet18", ("layer1", "relu")),
        ("resnext50_32x4d", ("layer1",)),
        ("vgg11", ("features.6",)),
    ],
)
def test_what_it_does_not_offer(backbone, layers):
    assert not ResNet.offers(backbone, layers)


def test_weights_that_are_no_numbers_are_refused(images, tmp_path):
    torch = pytest.importorskip("torch")
    network = ResNet("resnet18", ("layer2", "layer3"), COLORS)
    state = {name: torch.ones(shape) for name, shape in network.shapes.items()}
    state["layer3.1.bn2.bias"][7] = float("nan")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"damaged: layer3\.1\.bn2\.bias holds NaN"):
        step(weights=tmp_path / "net.pth").fit(images)


def test_torch_is_not_imported(tmp_path):
    """Fitting, saving, loading and scoring leave torch alone, be it installed or not.

    So do EfficientNets, in the same processes: each takes seconds to start.
    """
    code = """
import sys, warnings
import numpy as np
class WithoutTorch:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            return None
        return self.finder.find_spec(name, path, target)
if sys.argv[2] == "missing":
    sys.meta_path[:] = map(WithoutTorch, sys.meta_path)
import pyimgano
from pyimgano.detectors import PaDiMDetector
from pyimgano.features import BackbonePatchFeatures
warnings.simplefilter("ignore")
images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
for device in sys.argv[3:]:
    step = BackbonePatchFeatures(
        "resnet18", ("layer1",), None, resize=64, crop=None, device=device
    )
    detector = PaDiMDetector(step).fit(images)
    pyimgano.save(detector, sys.argv[1])
    scores = pyimgano.load(sys.argv[1]).score_samples(images[:, ::-1])
    assert np.isfinite(scores).all()
    assert "torch" not in sys.modules and "torchvision" not in sys.modules
step = BackbonePatchFeatures("efficientnet_lite0", weights=None, resize=64)
assert np.isfinite(step.fit_transform(images[:1]).rows).all()
assert "torch" not in sys.modules and "timm" not in sys.modules
"""
    for case, *devices in (("installed", "cpu"), ("missing", "cpu", "auto")):
        path = str(tmp_path / f"{case}.joblib")
        subprocess.run([sys.executable, "-c", code, path, case, *devices], check=True)


def test_embedded_weights_of_other_layers_are_refused(images):
    one = step(layers=("layer1",), embed_weights=True).fit(images)
    other = step(layers=("layer2",), embed_weights=True).fit(images)
    one.embedded_weights_ = other.embedded_weights_
    one._loaded = None
    with pytest.raises(WeightsError, match="other layers"):
        one.transform(images)


def test_auto_asks_torch_only_where_there_may_be_a_gpu(images, monkeypatch):
    from pyimgano.backbones import _torch_module

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(_torch_module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(_torch_module.os.path, "exists", lambda path: False)

    def no_driver(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(_torch_module.ctypes, "CDLL", no_driver)
    monkeypatch.setattr(_torch_module, "torch_module", lambda: pytest.fail("torch was imported"))
    assert _torch_module.resolve_device("auto") == "cpu"

    class Torch:
        class cuda:
            is_available = staticmethod(lambda: True)
            device_count = staticmethod(lambda: 2)

    monkeypatch.setattr(_torch_module.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(_torch_module, "torch_module", lambda: Torch)
    assert _torch_module.resolve_device("auto") == "cuda"
    assert _torch_module.resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="sees 2 CUDA devices"):
        _torch_module.resolve_device("cuda:2")
