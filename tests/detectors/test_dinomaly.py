"""Dinomaly: its decoder, loss and optimizer by hand, and what it does with a transformer."""

from __future__ import annotations

import numpy as np
import pytest

import pyimgano
from pyimgano.detectors import DinomalyDetector
from pyimgano.detectors.trained import _dinomaly
from pyimgano.detectors.trained._loop import Step
from pyimgano.detectors.trained._stable_adamw import stable_adamw
from pyimgano.exceptions import UntrustedFileError
from pyimgano.features import FilterBankFeatures, ViTPatchFeatures

torch = pytest.importorskip("torch", reason="DinomalyDetector needs torch")
pytest.importorskip("timm", reason="DinomalyDetector needs timm")

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights")


def step(**params) -> ViTPatchFeatures:
    settings = {"weights": None, "resize": 48, "keep_aspect": False, "layers": (0, 1, 2)}
    return ViTPatchFeatures("timm:test_vit", **{**settings, **params})


def detector(**params) -> DinomalyDetector:
    settings = {"features": step(), "n_blocks": 2, "max_steps": 4, "batch_size": 4}
    return DinomalyDetector(**{**settings, **params})


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    shades = rng.integers(90, 110, (8, 1, 1, 1)) + np.arange(48)[None, :, None, None]
    return (shades + rng.integers(0, 6, (8, 48, 48, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted(images) -> DinomalyDetector:
    return detector(max_steps=40).fit(images)


# ---- optimizer ------------------------------------------------------------------------
def a_parameter(*values: float):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_optimizer_takes_the_step_worked_out_by_hand():
    p = a_parameter(1.0, 1.0)
    optimizer = stable_adamw([p], 0.1, weight_decay=0.01)
    p.grad = torch.tensor([2.0, -3.0], dtype=torch.float64)
    optimizer.step()
    # Both means, divided by what they lack, are the gradient and its square: the step is a sign.
    np.testing.assert_allclose(p.detach(), [0.999 - 0.1, 0.999 + 0.1], rtol=1e-7)
    before = p.detach().numpy().copy()
    p.grad = torch.tensor([20.0, -3.0], dtype=torch.float64)
    optimizer.step()
    mean = np.array([0.09 * 2 + 0.1 * 20, -0.19 * 3]) / 0.19
    root = np.sqrt(np.array([0.000999 * 4 + 0.001 * 400, 0.001999 * 9]) / 0.001999)
    excess = np.sqrt(np.mean(np.square([20 / root[0], 3 / root[1]])))
    assert excess > 1.2
    np.testing.assert_allclose(p.detach(), before * 0.999 - 0.1 * mean / root / excess, rtol=1e-6)


def test_optimizer_is_that_of_torch_while_gradients_shrink():
    ours, theirs = a_parameter(1.0, -2.0, 0.5), a_parameter(1.0, -2.0, 0.5)
    mine = stable_adamw([ours], 0.05)
    other = torch.optim.AdamW([theirs], 0.05, weight_decay=1e-4, amsgrad=True)
    for k in range(6):
        for p, optimizer in ((ours, mine), (theirs, other)):
            p.grad = torch.tensor([1.0, -0.3, 0.2], dtype=torch.float64) * 0.6**k
            optimizer.step()
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-6)


def test_rate_rises_and_falls():
    one = DinomalyDetector()
    assert [one._rate(k, 5000) for k in (0, 49, 99)] == [0.01, 0.5, 1.0]
    assert one._rate(100, 5000) == 1.0
    assert one._rate(2550, 5000) == pytest.approx(0.55)
    assert one._rate(5000, 5000) == pytest.approx(0.1)
    assert [one._rate(k, 5) for k in (0, 5)] == [1.0, pytest.approx(0.1)]


# ---- networks -------------------------------------------------------------------------
def test_attention_weighs_values_by_products_of_positive_features():
    width, n_tokens = 128, 5  # two heads of 64
    torch_rng = torch.Generator().manual_seed(0)
    block = torch.nn.ModuleDict(
        {"query_key_value": torch.nn.Identity(), "projection": torch.nn.Identity()}
    )
    x = torch.randn(1, n_tokens, 3 * width, generator=torch_rng, dtype=torch.float64)

    class Joined:  # takes the place of the input, whose shape is looked at
        shape = (1, n_tokens, width)

    block["query_key_value"].forward = lambda _: x
    found = _dinomaly._linear_attention(block, Joined())[0].numpy()
    positive = np.where(x > 0, x + 1, np.exp(x.numpy()))[0]
    for head in range(2):
        cut = slice(64 * head, 64 * head + 64)
        q, k = positive[:, :width][:, cut], positive[:, width : 2 * width][:, cut]
        weights = q @ k.T
        expected = (
            weights / weights.sum(axis=1, keepdims=True) @ x[0, :, 2 * width :][:, cut].numpy()
        )
        np.testing.assert_allclose(found[:, cut], expected, rtol=1e-6)


def test_gradients_of_what_is_rebuilt_well_count_a_tenth():
    target = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.linspace(0.1, 3, 10).reshape(2, 5, 1)
    rebuilt = target + noise * torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    gradients = []
    for share in (0.0, 0.45):
        leaf = rebuilt.clone().requires_grad_()
        output = leaf * 1.0
        _dinomaly._weigh_gradient(output, target, share)
        (output * target).sum().backward()
        gradients.append(leaf.grad)
    np.testing.assert_array_equal(gradients[0], target)
    ratio = (gradients[1] / gradients[0]).mean(dim=2)
    distance = 1 - torch.nn.functional.cosine_similarity(rebuilt, target, dim=2)
    easy = distance <= distance.flatten().sort().values[3]  # int(0.45 * 10) of them
    np.testing.assert_allclose(ratio, np.where(easy, 0.1, 1.0), rtol=1e-5)


def test_dropout_is_drawn_from_its_generator():
    x = torch.ones(200, 50)
    first, again = (_dinomaly._drop(x, 0.2, torch.Generator().manual_seed(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert sorted(set(first.flatten().tolist())) == [0.0, 1.25]
    assert (first == 0).float().mean() == pytest.approx(0.2, abs=0.02)
    assert _dinomaly._drop(x, 0.0, None) is x


def test_initial_weights_are_cut_at_three_deviations():
    weights = _dinomaly._truncated_normal(np.random.default_rng(0), "weight", (300, 100))
    assert np.abs(weights).max() <= 0.03
    assert weights.std() == pytest.approx(0.01, rel=0.03)


def test_early_blocks_of_the_decoder_rebuild_late_tokens(fitted):
    class Adds(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            return x * 0 + self.value

    nothing = torch.nn.Identity()

    def block(value):
        silent = {"query_key_value": Adds(0.0), "projection": Adds(0.0)}
        norms = {"attention_norm": nothing, "mlp_norm": nothing}
        parts = torch.nn.ModuleDict({**silent, **norms, "mlp": Adds(value)})
        parts["query_key_value"].forward = lambda x: torch.zeros(*x.shape[:2], 3 * x.shape[2])
        return parts

    bottleneck = torch.nn.Sequential(nothing, nothing, nothing).eval()
    networks = {"bottleneck": bottleneck, "decoder": [block(v) for v in (1.0, 10.0, 100.0)]}
    early, late = torch.full((1, 4, 64), 3.0), torch.full((1, 4, 64), 9.0)
    rebuilt_early, rebuilt_late = fitted._rebuild(networks, [early, late], None)
    # Three layers: one is early, two are late. Their mean is 7, and the outputs 8, 18, 118.
    assert rebuilt_late.unique().tolist() == [8.0]
    assert rebuilt_early.unique().tolist() == [(18.0 + 118.0) / 2]


# ---- loss, map and score --------------------------------------------------------------
def test_loss_starts_at_one_and_falls(fitted):
    loss = fitted.history_["loss"]
    assert 0.7 < loss[0] < 1.1
    assert loss[-1] < 0.1


def test_loss_is_the_cosine_of_all_tokens_of_an_image(fitted, monkeypatch):
    rng = np.random.default_rng(0)
    values = [torch.from_numpy(rng.normal(size=(2, 3, 4))) for _ in range(4)]
    monkeypatch.setattr(DinomalyDetector, "_rebuild", lambda *_: (values[0], values[1]))
    batch = (values[2], values[3], None)
    loss = fitted._loss({}, batch, Step(0, 10, rng, None))
    cosines = [
        np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
        for ours, theirs in zip(values[:2], values[2:])
        for a, b in zip(ours.numpy(), theirs.numpy())
    ]
    assert float(loss) == pytest.approx(1 - np.mean(cosines))


@pytest.mark.parametrize(("factor", "expected"), [(7.0, 0.0), (-1.0, 2.0)])
def test_map_of_tokens_rebuilt_in_their_direction_is_zero(fitted, monkeypatch, factor, expected):
    tokens = [torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    monkeypatch.setattr(DinomalyDetector, "_rebuild", lambda *_: [factor * one for one in tokens])
    mask = torch.tensor([[[1, 0], [1, 1]]], dtype=torch.uint8)
    heat = fitted._map({}, (*tokens, mask))
    np.testing.assert_allclose(heat, expected * mask[0].numpy(), atol=1e-6)


def test_score_is_the_mean_of_the_highest_pixels(fitted, images):
    new = np.roll(images[:2], 1, axis=3)  # in no training image
    heat = fitted.anomaly_map(new).reshape(2, -1)  # 48 x 48 is the working size
    expected = np.sort(heat, axis=1)[:, -23:].mean(axis=1)  # 1 % of 2304
    np.testing.assert_allclose(-fitted.score_samples(new), expected, rtol=1e-5)


def test_pixels_outside_the_region_do_not_reach_the_tokens_inside(images):
    mask = np.zeros((48, 48), dtype=bool)
    mask[:, :32] = True
    model = detector().fit(images, roi_mask=mask)
    new = np.roll(images[:2], 1, axis=3)
    other = new.copy()
    other[:, :, 32:] = 250
    np.testing.assert_array_equal(model.score_samples(new), model.score_samples(other))
    assert model._shapes[0] == ("float16", (6, 64))


def test_transformer_is_left_as_it_was(images):
    one = step().fit(images)
    before = {k: v.clone() for k, v in one._network().module.graph.state_dict().items()}
    model = detector().fit(images)
    graph = model.features_._network().module.graph
    assert not graph.training
    assert model.features_.weights_sha256_ == one.weights_sha256_
    for name, values in graph.state_dict().items():
        assert torch.equal(values, before[name]), name


# ---- features -------------------------------------------------------------------------
def test_layers_of_transformers_given_by_name():
    base = DinomalyDetector()._make_features()
    large = DinomalyDetector("dinov2_vitl14")._make_features()
    assert base.layers == (2, 3, 4, 5, 6, 7, 8, 9)
    assert large.layers == (4, 6, 8, 10, 12, 14, 16, 18)
    assert (base.resize, base.keep_aspect) == (392, False)


def test_steps_without_tokens_are_refused(images):
    with pytest.raises(TypeError, match="FilterBankFeatures is none: give features a name"):
        detector(features=FilterBankFeatures(resize=32)).fit(images)
    with pytest.raises(TypeError, match="vision transformer"):
        detector(features="filterbank").fit(images)
    with pytest.raises(ValueError, match=r"layers=\(3,\): give at least two"):
        detector(features=step(layers=(3,))).fit(images)


@pytest.mark.parametrize(
    "shapes",
    [
        [("float16", (9, 64))] * 2,
        [("float16", (9, 64)), ("float16", (9, 32)), ("uint8", (3, 3))],
        [("float16", (9, 64))] * 2 + [("uint8", (2, 3))],
    ],
)
def test_wrong_shapes_are_refused_on_loading(fitted, tmp_path, shapes):
    path = tmp_path / "model.joblib"
    pyimgano.save(fitted, path)
    assert pyimgano.load(path)._shapes == fitted._shapes
    state = dict(vars(fitted), _shapes=shapes)
    with pytest.raises(UntrustedFileError, match="_shapes"):
        DinomalyDetector().__setstate__(state)
