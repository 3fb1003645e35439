"""Patch features of torchvision networks, against plain torch written out here."""

from __future__ import annotations

import pickle
import random
import sys
import warnings

import cv2
import joblib
import numpy as np
import pytest
from sklearn.base import clone

from pyimgano.backbones import _torchvision
from pyimgano.backbones._network import load_network
from pyimgano.detectors import PaDiMDetector
from pyimgano.exceptions import MissingExtraError, RandomWeightsWarning, WeightsError
from pyimgano.features import BackbonePatchFeatures, make_features
from pyimgano.grids import PatchGrids

torch = pytest.importorskip("torch", reason="BackbonePatchFeatures needs torch")
models = pytest.importorskip("torchvision.models", reason="BackbonePatchFeatures needs torchvision")
F = torch.nn.functional

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
SMALL = {"resize": (48, 64), "crop": (32, 48)}  # fast, and not square


@pytest.fixture(scope="module")
def network():
    """A ResNet-18 whose batch norms do something."""
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = models.get_model("resnet18", weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack(
        [cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (90, 70)) for _ in range(8)]
    )


def written_out(network, work: np.ndarray, pool: int = 3) -> np.ndarray:
    """Layer 2 and 3 of one image that is already resized and cropped, (h, w, 384)."""
    x = torch.from_numpy(((work.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None])
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        second = network.layer2(network.layer1(x))
        third = network.layer3(second)
        second = F.avg_pool2d(second, pool, 1, pool // 2)
        third = F.avg_pool2d(third, pool, 1, pool // 2)
        third = F.interpolate(third, second.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([second, third], 1)[0].permute(1, 2, 0).numpy()


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for float32 rounding, which folding the batch norms moves a little."""
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max() * 5)


@pytest.mark.parametrize("pool", [1, 3, 5])
def test_features_are_the_papers(network, weights, images, pool):
    step = BackbonePatchFeatures("resnet18", weights=weights, pool=pool, **SMALL)
    grids = step.fit_transform(images)
    assert isinstance(grids, PatchGrids)
    assert grids.features.shape == (8, 4, 6, 384)
    for image, features in zip(images, grids.features):
        work = cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA)[8:40, 8:56]
        assert_close(features, written_out(network, work, pool))


def test_enlarged_bilinearly_without_crop(network, weights, images):
    step = BackbonePatchFeatures("resnet18", weights=weights, resize=96, crop=None)
    work = cv2.resize(images[0], (96, 96), interpolation=cv2.INTER_LINEAR)
    assert_close(step.transform(images[:1]).features[0], written_out(network, work))


def test_geometry(weights, images):
    grids = BackbonePatchFeatures("resnet18", weights=weights, **SMALL).transform(images[:2])
    np.testing.assert_array_equal(grids.image_sizes, [[70, 90]] * 2)
    np.testing.assert_array_equal(grids.work_sizes, [[32, 48]] * 2)
    np.testing.assert_array_equal(grids.grid_shapes, [[4, 6]] * 2)
    # 8 of 48 rows are cut away above, 8 of 64 columns on the left.
    box = [8 * 70 / 48, 8 * 90 / 64, 32 * 70 / 48, 48 * 90 / 64]
    np.testing.assert_allclose(grids.boxes, [box] * 2)
    assert [m.shape for m in grids.to_pixels(np.ones(48))] == [(70, 90)] * 2


def test_images_of_several_sizes_without_resize(network, weights, images):
    ragged = [images[0], images[1][:40], images[2], images[3][:, :64]]
    step = BackbonePatchFeatures("resnet18", weights=weights, resize=None, crop=None)
    grids = step.transform(ragged)
    np.testing.assert_array_equal(grids.grid_shapes, [[9, 12], [5, 12], [9, 12], [9, 8]])
    np.testing.assert_array_equal(grids.work_sizes, grids.image_sizes)
    for i, image in enumerate(ragged):
        features = grids[i].features[0]
        assert_close(features, written_out(network, image))
        np.testing.assert_array_equal(features, step.transform([image]).features[0])


@pytest.mark.parametrize(
    ("precision", "layers"),
    [
        ("float32", ("layer2", "layer3")),
        ("float32", ("layer1.0.conv1", "layer2")),  # inside a block: by torch
        ("bfloat16", ("layer2", "layer3")),
    ],
)
def test_an_image_has_the_same_features_in_any_batch(weights, images, precision, layers):
    step = BackbonePatchFeatures(
        "resnet18", weights=weights, layers=layers, precision=precision, **SMALL
    )
    alone = np.concatenate([step.transform(images[i : i + 1]).rows for i in range(8)])
    for batch_size in (2, 3, 5, 8):
        step.set_params(batch_size=batch_size)
        np.testing.assert_array_equal(step.transform(images).rows, alone)
    backwards = step.transform(images[::-1])
    np.testing.assert_array_equal(backwards[np.arange(8)[::-1]].rows, alone)


def test_kept_channels_are_the_same_and_the_only_ones_until_the_next_fit(weights, images):
    step = BackbonePatchFeatures("resnet18", weights=weights, **SMALL).fit(images)
    everything, chosen = step.transform(images).rows, [3, 120, 128, 380]
    step.keep_channels(chosen)
    np.testing.assert_array_equal(step.transform(images).rows, everything[:, chosen])
    again = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(again.transform(images).rows, everything[:, chosen])
    step.keep_channels(None)
    np.testing.assert_array_equal(step.transform(images).rows, everything)
    step.keep_channels(chosen)
    np.testing.assert_array_equal(step.fit(images).transform(images).rows, everything)


@pytest.mark.parametrize(
    "channels", [[150, 3], [3, 3], [-1, 4], [], [[1, 2]], [0.5], [True, False]]
)
def test_channels_that_are_no_ascending_indices_are_refused(channels):
    with pytest.raises(ValueError, match="indices of features"):
        BackbonePatchFeatures("resnet18").keep_channels(channels)


def test_channels_that_are_not_there_are_refused(weights, images):
    step = BackbonePatchFeatures("resnet18", weights=weights, **SMALL)
    step.keep_channels([3, 384])
    with pytest.raises(ValueError, match="384 features, and number 384"):
        step.transform(images[:1])


def test_padim_computes_only_the_channels_it_selects_with_the_same_result(weights, images):
    step = BackbonePatchFeatures("resnet18", weights=weights, batch_size=3, **SMALL)
    selecting = PaDiMDetector(step, n_channels=20).fit(images)
    assert selecting.features_.transform(images[:1]).n_features == 20
    everything = step.fit_transform(images)
    plain = PaDiMDetector(n_channels=20).fit(everything)
    np.testing.assert_array_equal(selecting.channels_, plain.channels_)
    np.testing.assert_array_equal(selecting.training_scores_, plain.training_scores_)
    new = images[:, ::-1]
    np.testing.assert_array_equal(
        selecting.score_samples(new), plain.score_samples(step.transform(new))
    )


def test_bfloat16_is_close(weights, images):
    step = BackbonePatchFeatures("resnet18", weights=weights, **SMALL)
    exact = step.transform(images[:2]).rows
    coarse = clone(step).set_params(precision="bfloat16").transform(images[:2]).rows
    assert coarse.dtype == np.float32
    error = np.linalg.norm(coarse - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.02


def test_layers_by_any_name_and_in_any_order(network, weights, images):
    step = BackbonePatchFeatures("resnet18", ["layer1.0.conv1", "bn1"], weights, pool=1, **SMALL)
    features = step.transform(images[:1]).features[0]
    assert features.shape == (8, 12, 128)
    work = cv2.resize(images[0], (64, 48), interpolation=cv2.INTER_AREA)[8:40, 8:56]
    x = torch.from_numpy(((work.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None])
    with torch.no_grad():
        first = network.bn1(network.conv1(x))
        inner = network.layer1[0].conv1(network.maxpool(F.relu(first)))
        first = F.interpolate(first, inner.shape[2:], mode="bilinear", align_corners=False)
    assert_close(features[..., :64], inner[0].permute(1, 2, 0).numpy())
    # The ReLU that follows in torchvision works in place; it must not reach this output.
    assert first.min() < 0
    assert_close(features[..., 64:], first[0].permute(1, 2, 0).numpy())


def test_only_the_layers_needed_are_run_and_needed(network, weights, images, tmp_path):
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(("layer4", "fc"))}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "short.pth")
    whole = BackbonePatchFeatures("resnet18", weights=weights, **SMALL).fit(images)
    short = BackbonePatchFeatures("resnet18", weights=tmp_path / "short.pth", **SMALL).fit(images)
    np.testing.assert_array_equal(whole.transform(images).rows, short.transform(images).rows)
    assert whole.weights_sha256_ == short.weights_sha256_
    names = list(short._network().module.shapes)
    assert any(name.startswith("layer3") for name in names)
    assert not any(name.startswith(("layer4", "fc")) for name in names)


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("mobilenet_v3_small", ("features.2", "features.4")),
        ("vgg11_bn", ("features.6",)),
        ("densenet121", ("features.pool0",)),
        ("regnet_y_400mf", ("trunk_output.block1",)),
    ],
)
def test_other_networks(backbone, layers, images):
    step = BackbonePatchFeatures(backbone, layers, weights=None, **SMALL)
    with pytest.warns(RandomWeightsWarning):
        grids = step.fit_transform(images[:1])
    assert np.isfinite(grids.rows).all()
    assert grids.rows.std() > 0


def test_real_weights_on_bottles(shared_data):
    files = sorted((shared_data / "data" / "bottle256" / "train" / "good").iterdir())[:2]
    path = shared_data / "weights" / "resnet18_imagenet_to_layer3.pth"
    step = BackbonePatchFeatures("resnet18", weights=path, crop=224)  # as in the papers
    grids = step.fit_transform([str(f) for f in files])
    assert grids.features.shape == (2, 28, 28, 384)
    model = models.get_model("resnet18", weights=None).eval()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state, strict=False)
    for file, features in zip(files, grids.features):
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        assert image.shape == (256, 256, 3)
        assert_close(features, written_out(model, image[16:240, 16:240]))


# --- state ---------------------------------------------------------------------------------


def test_saved_without_network_and_loaded_again(weights, images, tmp_path):
    steps = {
        "file": BackbonePatchFeatures("resnet18", weights=weights, **SMALL).fit(images),
        "random": BackbonePatchFeatures("resnet18", weights=None, random_state=4, **SMALL),
    }
    with pytest.warns(RandomWeightsWarning, match="filterbank"):
        steps["random"].fit(images)
    rows = {name: step.transform(images[:2]).rows for name, step in steps.items()}
    assert all(len(pickle.dumps(step)) < 2000 for step in steps.values())
    joblib.dump(steps, tmp_path / "steps.joblib")
    load_network.cache_clear()  # as in another process; tests/golden has files of another machine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, step in joblib.load(tmp_path / "steps.joblib").items():
            np.testing.assert_array_equal(step.transform(images[:2]).rows, rows[name])
    # The random network was drawn at all, and not the one of the file.
    assert rows["random"].std() > 0 and not np.allclose(rows["random"], rows["file"])


def test_other_weights_after_loading_are_refused(network, weights, images, tmp_path):
    state = dict(network.state_dict())
    path = tmp_path / "w.pth"
    torch.save(state, path)
    step = BackbonePatchFeatures("resnet18", weights=str(path), **SMALL).fit(images)
    rows = step.transform(images[:1]).rows
    saved = pickle.dumps(step)
    state["conv1.weight"] = state["conv1.weight"] * 2
    torch.save(state, path)
    np.testing.assert_array_equal(step.transform(images[:1]).rows, rows)  # still in memory
    loaded = pickle.loads(saved)
    with pytest.raises(WeightsError, match="not those this step was fitted with"):
        loaded.transform(images[:1])
    path.unlink()
    with pytest.raises(
        WeightsError, match=r"that this model was fitted with are not here. Wanted is w\.pth"
    ):
        loaded.transform(images[:1])
    loaded.set_params(weights=weights)  # the same numbers from another file
    np.testing.assert_array_equal(loaded.transform(images[:1]).rows, rows)
    loaded.set_params(weights=str(path))
    torch.save(state, path)
    other = loaded.fit(images).transform(images[:1]).rows  # fitted again: the new ones
    assert not np.array_equal(other, rows)


def test_embedded_weights_need_no_file(network, images, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    step = BackbonePatchFeatures(
        "resnet18", weights=tmp_path / "w.pth", embed_weights=True, **SMALL
    )
    rows = step.fit(images).transform(images[:2]).rows
    assert all(isinstance(value, np.ndarray) for value in step.embedded_weights_.values())
    assert not any(name.startswith(("layer4", "fc")) for name in step.embedded_weights_)
    joblib.dump(step, tmp_path / "step.joblib")
    (tmp_path / "w.pth").unlink()
    for mmap_mode in (None, "r"):
        loaded = joblib.load(tmp_path / "step.joblib", mmap_mode=mmap_mode)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(loaded.transform(images[:2]).rows, rows)
    loaded = joblib.load(tmp_path / "step.joblib")
    loaded.embedded_weights_["conv1.weight"] += 1
    with pytest.raises(WeightsError, match="not those this step was fitted with"):
        loaded.transform(images[:2])


def test_random_weights_are_seeded(images):
    step = BackbonePatchFeatures("resnet18", weights=None, random_state=4, **SMALL)
    with pytest.warns(RandomWeightsWarning, match="filterbank"):
        rows = step.fit(images).transform(images[:2]).rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who fitted it was told
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(step)).transform(images[:2]).rows, rows
        )
    with pytest.warns(RandomWeightsWarning):
        other = clone(step).set_params(random_state=5).fit_transform(images[:2]).rows
    assert not np.allclose(other, rows)
    step.set_params(random_state=5)  # fitted with 4
    with pytest.warns(UserWarning, match=r"changed after fit \(random_state\)"):
        np.testing.assert_array_equal(step.transform(images[:2]).rows, rows)
    step.weights_sha256_ = "of another version of the library"
    step.__dict__.pop("_loaded")
    with pytest.warns(UserWarning), pytest.raises(WeightsError, match="=4 are not those of fit"):
        step.transform(images)


def test_global_state_stays_untouched(weights, images):
    def seen() -> tuple:
        return (
            torch.get_rng_state().numpy().tobytes(),
            str(np.random.get_state()),  # noqa: NPY002
            random.getstate(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            cv2.getNumThreads(),
        )

    before = seen()
    read_only = images[:2].copy()
    read_only.setflags(write=False)
    BackbonePatchFeatures("resnet18", weights=weights, **SMALL).fit_transform(read_only)
    with pytest.warns(RandomWeightsWarning):
        BackbonePatchFeatures("resnet18", weights=None, random_state=7, **SMALL).fit(read_only)
    assert seen() == before
    np.testing.assert_array_equal(read_only, images[:2])


def test_hash_and_clone(weights, images):
    step = BackbonePatchFeatures("resnet18", weights=weights, **SMALL)
    blank = joblib.hash(step)
    step.transform(images[:1])
    assert joblib.hash(step) == blank  # the network is no part of the state
    step.fit(images)
    fitted = joblib.hash(step)
    step.transform(images[:1])
    assert joblib.hash(step) == fitted == joblib.hash(pickle.loads(pickle.dumps(step)))
    assert joblib.hash(clone(step)) == blank
    assert sorted(k for k in vars(step) if k.endswith("_")) == [
        "weights_file_",
        "weights_file_sha256_",
        "weights_file_size_",
        "weights_sha256_",
    ]


def test_clones_share_one_network(weights, images):
    first = BackbonePatchFeatures("resnet18", weights=weights, **SMALL).fit(images)
    assert clone(first).fit(images)._network() is first._network()


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "resnet81"}, "'resnet81' is no convolutional.*resnet18"),
        ({"backbone": "swin_t"}, "'swin_t' is no convolutional"),
        ({"layers": ("layer22",)}, r"no layer 'layer22'.*nearest.*layer2.*outermost.*layer4"),
        ({"layers": ()}, "one or more"),
        ({"layers": "layer2"}, "'layers' parameter"),
        ({"layers": ("layer2", "layer2")}, "twice"),
        ({"layers": ("flatten",)}, "is no map"),
        ({"resize": 64, "crop": 96}, "crop=96 is larger than resize=64"),
        ({"resize": (64, 96), "crop": 80}, r"crop=80 is larger than resize=\(64, 96\)"),
        ({"resize": None, "crop": 80}, "larger than an image of 70 x 90"),
        ({"resize": (64,)}, r"resize=\(64,\) must be"),
        ({"crop": (3, 0.5)}, r"crop=\(3, 0.5\) must be"),
        ({"pool": 2}, "pool=2 has no center"),
        ({"precision": "float16"}, "'precision' parameter"),
        ({"device": "gpu"}, "device='gpu': expected"),
        ({"device": "cuda:99"}, r"torch sees \d+ CUDA devices"),
        ({"random_state": None}, "'random_state' parameter"),
    ],
)
@pytest.mark.parametrize("fitted", [True, False])
def test_parameters_that_do_not_work(weights, images, parameters, message, fitted):
    step = BackbonePatchFeatures("resnet18", weights=weights, **SMALL).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        (step.fit(images) if fitted else step).transform(images)


def test_weights_that_do_not_fit(network, images, tmp_path):
    path = tmp_path / "w.pth"
    state = network.state_dict()

    def message(content: dict, backbone: str = "resnet18") -> str:
        torch.save(content, path)
        with pytest.raises(WeightsError) as caught:
            BackbonePatchFeatures(backbone, weights=path, **SMALL).fit(images)
        return str(caught.value)

    lacking = {k: v for k, v in state.items() if k != "layer3.1.bn2.running_var"}
    assert "lacks 1 of the 75 weights" in message(lacking)
    assert "layer3.1.bn2.running_var" in message(lacking)
    renamed = {f"module.{k}": v for k, v in state.items()}
    assert "none of the weights of resnet18" in message(renamed)
    assert "module.conv1.weight" in message(renamed)
    assert "layer2.0.conv1.weight has shape (64,), expected (128, 64, 3, 3)" in message(
        {**state, "layer2.0.conv1.weight": torch.zeros(64)}
    )
    assert "lacks" in message(state, "resnet34")


def test_imagenet_without_network_names_the_ways_out(monkeypatch, images, tmp_path):
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(WeightsError, match="Three ways out") as caught:
        BackbonePatchFeatures("resnet18").fit(images)
    assert "network is unreachable" in str(caught.value)
    assert f"put resnet18-f37072fd.pth into {tmp_path / 'weights'}" in str(caught.value)


def test_imagenet_from_the_cache(monkeypatch, network, images, tmp_path):
    """The published file in the cache folder is used, found by its published name."""
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    torch.save(network.state_dict(), tmp_path / "any.pth")
    expected = BackbonePatchFeatures("resnet18", weights=tmp_path / "any.pth", **SMALL)
    rows = expected.fit_transform(images[:2]).rows
    (tmp_path / "weights").mkdir()
    name = ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "any.pth").rename(tmp_path / "weights" / name)
    step = BackbonePatchFeatures("resnet18", weights="imagenet", **SMALL)
    with pytest.raises(WeightsError, match="the name of the file says f37072fd"):
        step.fit(images)
    monkeypatch.setattr(
        "pyimgano.backbones._weights.file_sha256", lambda path: "f37072fd" + "0" * 56
    )
    np.testing.assert_array_equal(step.fit_transform(images[:2]).rows, rows)


def test_what_is_no_parameter_cannot_be_drawn(images, monkeypatch):
    def small(name, weights, **options):  # torchvision's own takes seconds to follow
        return models.MaxVit((64, 64), 8, 2, [8], [1], 8, 0.0)

    monkeypatch.setattr(models, "get_model", small)
    step = BackbonePatchFeatures("maxvit_t", layers=("blocks.0",), weights=None)
    _torchvision._graph.cache_clear()
    try:
        with pytest.raises(ValueError, match="which cannot be drawn at random"):
            step.fit(images)
    finally:
        _torchvision._graph.cache_clear()


def test_torch_is_imported_only_when_used_and_missed_with_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    step = BackbonePatchFeatures("vgg11", layers=("features.6",), weights="vgg11.pth")
    with pytest.raises(MissingExtraError, match=r'pip install "pyimgano\[torch\]"'):
        step.fit(np.zeros((1, 8, 8, 3), np.uint8))


# --- features by name ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "wide_resnet50_2"])
def test_named_networks(name):
    step = make_features(name)
    assert isinstance(step, BackbonePatchFeatures)
    assert step.backbone == name
    assert step.layers == ("layer2", "layer3")
    assert step.weights == "imagenet"


def test_named_filter_bank_and_clone_of_a_step(weights, images):
    assert type(make_features("filterbank")).__name__ == "FilterBankFeatures"
    fitted = BackbonePatchFeatures("resnet18", weights=weights, **SMALL).fit(images)
    made = make_features(fitted)
    assert made is not fitted
    assert made.get_params() == fitted.get_params()
    assert not hasattr(made, "weights_sha256_")


@pytest.mark.parametrize(
    ("name", "message"),
    [("ResNet_18", "Did you mean 'resnet18'"), ("filter_bank", "'filterbank'"), ("?", "names are")],
)
def test_unknown_name(name, message):
    with pytest.raises(ValueError, match=message):
        make_features(name)


@pytest.mark.parametrize("thing", [BackbonePatchFeatures, None, 3, np.zeros(3)])
def test_neither_name_nor_step(thing):
    with pytest.raises(TypeError, match="neither a name nor a feature step"):
        make_features(thing)


@pytest.mark.parametrize("layers", [("layer2", "layer3"), ("layer1.0.conv1", "layer2")])
def test_features_do_not_depend_on_the_number_of_cores(weights, images, layers):
    """Of a layer inside a block, torch computes the network."""
    before = torch.get_num_threads()
    step = BackbonePatchFeatures("resnet18", weights=weights, layers=layers, **SMALL)
    rows = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            rows.append(step.transform(images).rows)
            assert torch.get_num_threads() == n  # others' work goes on as before
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*rows)
    together = step.set_params(threads_per_image=2).transform(images).rows
    np.testing.assert_allclose(together, rows[0], rtol=0, atol=1e-5 * np.abs(rows[0]).max())
