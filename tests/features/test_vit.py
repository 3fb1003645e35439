"""Patch features of vision transformers, against timm's own forward pass."""

from __future__ import annotations

import pickle
import sys

import cv2
import joblib
import numpy as np
import pytest
from sklearn.base import clone

from pyimgano.exceptions import MissingExtraError, RandomWeightsWarning, WeightsError
from pyimgano.features import ViTPatchFeatures, make_features

torch = pytest.importorskip("torch", reason="ViTPatchFeatures needs torch")
timm = pytest.importorskip("timm", reason="ViTPatchFeatures needs timm")

NAME = "test_vit"  # 6 blocks of 64 features, patches of 16 pixels, made for 160 x 160
BACKBONE = f"timm:{NAME}"


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = timm.create_model(NAME, pretrained=False, dynamic_img_size=True)
        torch.nn.init.normal_(model.norm.weight)
        torch.nn.init.normal_(model.pos_embed)
    return model.eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack(
        [cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (90, 60)) for _ in range(5)]
    )


def normalized(network, work: np.ndarray):
    mean, std = (np.array(network.pretrained_cfg[k], np.float32) for k in ("mean", "std"))
    return torch.from_numpy(((work.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None])


def test_tokens_are_those_of_the_final_norm_without_prefix(network, weights, images):
    grids = ViTPatchFeatures(BACKBONE, weights, resize=64).fit_transform(images)
    # 60 x 90 -> 64 x 96: six patches on the longer side.
    assert grids.features.shape == (5, 4, 6, 64)
    for image, features in zip(images, grids.features):
        work = cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR)
        with torch.no_grad():
            tokens = network.forward_features(normalized(network, work))[0]
        expected = tokens[network.num_prefix_tokens :].reshape(4, 6, 64).numpy()
        np.testing.assert_allclose(features, expected, atol=2e-5 * np.abs(expected).max())


def test_layers_are_joined_in_the_order_asked_for(network, weights, images):
    step = ViTPatchFeatures(BACKBONE, weights, resize=64, layers=(4, -4))
    both = step.fit_transform(images[:1]).rows
    for part, layer in ((both[:, :64], 4), (both[:, 64:], 2)):
        alone = clone(step).set_params(layers=layer).fit_transform(images[:1]).rows
        np.testing.assert_array_equal(part, alone)
    assert len(step._network().module.graph.blocks) == 5  # what follows block 4 is not there


def test_blocks_that_are_not_used_are_not_needed(network, weights, images, tmp_path):
    state = {
        k: v for k, v in network.state_dict().items() if not k.startswith(("blocks.5", "head"))
    }
    torch.save(state, tmp_path / "short.pth")
    short = ViTPatchFeatures(BACKBONE, tmp_path / "short.pth", resize=32, layers=3).fit(images)
    whole = ViTPatchFeatures(BACKBONE, weights, resize=32, layers=3).fit(images)
    assert short.weights_sha256_ == whole.weights_sha256_
    np.testing.assert_array_equal(short.transform(images).rows, whole.transform(images).rows)
    with pytest.raises(WeightsError, match=r"lacks 12 of .* blocks\.5"):
        short.set_params(layers=-1).fit(images)


@pytest.mark.parametrize(
    ("parameters", "size", "work"),
    [
        ({"resize": 64}, (60, 90), (64, 96)),
        ({"resize": 64}, (90, 60), (96, 64)),
        ({"resize": 100}, (300, 300), (96, 96)),
        ({"resize": 64, "keep_aspect": False}, (60, 90), (64, 64)),
        ({"resize": None}, (60, 90), (64, 96)),
        ({"resize": None}, (5, 40), (16, 32)),  # 2.5 patches round to even
    ],
)
def test_geometry(weights, parameters, size, work):
    image = np.zeros((*size, 3), np.uint8)
    grids = ViTPatchFeatures(BACKBONE, weights, **parameters).transform([image])
    np.testing.assert_array_equal(grids.work_sizes, [work])
    np.testing.assert_array_equal(grids.grid_shapes, [(work[0] // 16, work[1] // 16)])
    np.testing.assert_array_equal(grids.image_sizes, [size])
    np.testing.assert_array_equal(grids.boxes, [(0, 0, *size)])
    assert grids.to_pixels(np.ones(len(grids.rows)))[0].shape == size


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_image_has_the_same_features_in_any_batch(weights, images, precision):
    step = ViTPatchFeatures(BACKBONE, weights, resize=64, precision=precision)
    mixed = [images[0], images[1][:, :60], images[2], images[3]]
    alone = np.concatenate([step.transform([image]).rows for image in mixed])
    np.testing.assert_array_equal(step.transform(mixed).rows, alone)
    assert alone.dtype == np.float32


def test_files_with_dinov2s_names_and_safetensors(network, weights, images, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    expected = ViTPatchFeatures(BACKBONE, weights, resize=32).fit_transform(images).rows
    state = dict(network.state_dict())
    safetensors.save_file(state, tmp_path / "vit.safetensors")
    step = ViTPatchFeatures(BACKBONE, tmp_path / "vit.safetensors", resize=32)
    np.testing.assert_array_equal(step.fit_transform(images).rows, expected)
    # DINOv2's files have this one more.
    torch.save({**state, "mask_token": torch.zeros(1, 64)}, tmp_path / "dino.pth")
    step.set_params(weights=tmp_path / "dino.pth")
    np.testing.assert_array_equal(step.fit_transform(images).rows, expected)
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of that kind")
    with pytest.raises(WeightsError, match="cannot be read as a safetensors file"):
        step.set_params(weights=tmp_path / "bad.safetensors").fit(images)


def test_saved_without_network_and_checked_when_loaded(network, images, tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(network.state_dict(), path)
    step = ViTPatchFeatures(BACKBONE, path, resize=32).fit(images)
    rows = step.transform(images).rows
    saved = pickle.dumps(step)
    assert len(saved) < 2000
    np.testing.assert_array_equal(pickle.loads(saved).transform(images).rows, rows)
    state = dict(network.state_dict())
    state["norm.weight"] = state["norm.weight"] * 2
    torch.save(state, path)
    with pytest.raises(WeightsError, match="not those this step was fitted with"):
        pickle.loads(saved).transform(images)


def test_embedded_weights_need_no_file(network, images, tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(network.state_dict(), path)
    step = ViTPatchFeatures(BACKBONE, path, resize=32, embed_weights=True).fit(images)
    rows = step.transform(images).rows
    joblib.dump(step, tmp_path / "step.joblib")
    path.unlink()
    loaded = joblib.load(tmp_path / "step.joblib")
    np.testing.assert_array_equal(loaded.transform(images).rows, rows)


def test_random_weights_are_seeded_and_global_generators_untouched(images):
    before = torch.get_rng_state(), torch.get_num_threads()
    step = ViTPatchFeatures(BACKBONE, None, resize=32, random_state=4)
    with pytest.warns(RandomWeightsWarning, match="ViTPatchFeatures"):
        rows = step.fit(images).transform(images).rows
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(step)).transform(images).rows, rows)
    with pytest.warns(RandomWeightsWarning):
        assert not np.allclose(
            clone(step).set_params(random_state=5).fit_transform(images).rows, rows
        )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "vit_tiny_patch16_224"}, 'expected a DINOv2 network .* or "timm:NAME"'),
        ({"backbone": "timm:resnet18"}, "no plain vision transformer"),
        ({"backbone": "timm:vit_tiny_patch16_225"}, "nearest.*vit_tiny_patch16_224"),
        ({"backbone": "timm:vit_tiny_patch16_224.nope"}, "no weights 'nope'.*augreg"),
        ({"layers": 6}, "no block 6; it has 6, from 0 to 5"),
        ({"layers": (5, -1)}, "names a block twice"),
        ({"layers": ()}, "one or more numbers"),
        ({"layers": ("blocks.2",)}, "one or more numbers"),
        ({"resize": 0}, "'resize' parameter"),
    ],
)
def test_parameters_that_do_not_work(weights, images, parameters, message):
    step = ViTPatchFeatures(BACKBONE, weights, resize=32).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        step.fit(images)


def test_weights_that_do_not_fit(images, tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"none of the weights of timm:test_vit.*timm's"):
        ViTPatchFeatures(BACKBONE, tmp_path / "other.pth").fit(images)


def test_published_weights_without_network_name_the_ways_out(monkeypatch, images, tmp_path):
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    for backbone, file in (
        ("dinov2_vits14", "dinov2_vits14_pretrain.pth"),
        (BACKBONE, "test_vit.r160_in1k.safetensors"),
    ):
        with pytest.raises(WeightsError, match="unreachable") as caught:
            ViTPatchFeatures(backbone).fit(images)
        assert f"put {file} into {tmp_path / 'weights'}" in str(caught.value)


def test_published_weights_from_the_cache(monkeypatch, network, weights, images, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.setenv("PYIMGANO_CACHE_DIR", str(tmp_path))
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "test_vit.r160_in1k.safetensors"
    safetensors.save_file(dict(network.state_dict()), file)
    published = ViTPatchFeatures(BACKBONE, resize=32).fit(images)
    given = ViTPatchFeatures(BACKBONE, weights, resize=32).fit(images)
    assert published.weights_sha256_ == given.weights_sha256_


def test_by_name():
    for name in ("dinov2_vits14", "dinov2_vitb14_reg", "timm:vit_tiny_patch16_224"):
        step = make_features(name, layers=("layer2",), pool=3)  # meant for other networks
        assert isinstance(step, ViTPatchFeatures)
        assert (step.backbone, step.layers, step.weights) == (name, -1, "pretrained")


def test_timm_is_missed_with_a_way_out(monkeypatch):
    for name in ["timm", *(name for name in sys.modules if name.startswith("timm."))]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    step = make_features("dinov2_vits14")
    with pytest.raises(MissingExtraError, match=r'pip install "pyimgano\[timm\]"'):
        step.fit(np.zeros((1, 8, 8, 3), np.uint8))
