"""DRAEM: its losses, the defects that it is trained on, and its score."""

from __future__ import annotations

import math
import warnings

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from skimage.metrics import structural_similarity as by_skimage

from pyimgano.detectors import DRAEMDetector
from pyimgano.detectors.trained._draem import DefectPainter
from pyimgano.detectors.trained._draem_networks import (
    discriminative_network,
    focal_loss,
    reconstruct,
    reconstructive_network,
    segment,
    structural_similarity,
)
from pyimgano.exceptions import ImageReadError
from pyimgano.synthesis._textures import Textures

SIZE = (40, 48)


def images(n: int, *, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A gray square in the middle of a white ground."""
    rng = np.random.default_rng(seed)
    made = np.full((n, *size, 3), 235, np.uint8)
    height, width = size
    made[:, height // 4 : -height // 4, width // 4 : -width // 4] = 90
    return made + rng.integers(0, 12, made.shape, dtype=np.uint8)


def tiny(**options) -> DRAEMDetector:
    return DRAEMDetector(
        **{"resize": 32, "width": 2, "max_steps": 2, "batch_size": 2, "device": "cpu", **options}
    )


def painter(**options) -> DefectPainter:
    return DefectPainter(
        **{
            "textures": (Textures("procedural"),),
            "foreground_only": False,
            "max_rotation": 0.0,
            "brightness": 0.0,
            "region": None,
            **options,
        }
    )


# ---- networks and losses ---------------------------------------------------------------
def test_structural_similarity_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    first = cv2.GaussianBlur(rng.random((24, 40, 3)), (0, 0), 1)
    second = np.clip(first + rng.normal(0, 0.1, first.shape), 0, 1)
    _, expected = by_skimage(
        first,
        second,
        gaussian_weights=True,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=2,
        full=True,
    )
    ours = structural_similarity(
        *(
            torch.from_numpy(one.astype(np.float32)).permute(2, 0, 1)[None]
            for one in (first, second)
        )
    )
    np.testing.assert_allclose(
        ours[0].permute(1, 2, 0).numpy(), expected[5:-5, 5:-5], atol=2e-4, rtol=0
    )


def test_focal_loss_counts_sure_pixels_little():
    logits = torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 2)
    good = 1 / (1 + math.exp(2))  # the probability of the first class
    expected = [-((1 - p) ** 2) * math.log(p) for p in (good, 1 - good)]
    mask = torch.tensor([[[False, True]]])
    assert float(focal_loss(logits, mask)) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert math.isfinite(float(focal_loss(1000 * logits, mask)))


def test_networks_have_the_papers_sizes():
    rng = np.random.default_rng(0)
    networks = reconstructive_network(2, rng).eval(), discriminative_network(1, rng).eval()
    widths = [
        [m.out_channels for m in net["down"].modules() if isinstance(m, torch.nn.Conv2d)][1::2]
        for net in networks
    ]
    assert widths == [[2, 4, 8, 16, 16], [1, 2, 4, 8, 8, 8]]
    batch = torch.rand(2, 3, 64, 32)
    with torch.inference_mode():
        painted = reconstruct(networks[0], batch)
        assert painted.shape == (2, 3, 64, 32)
        assert segment(networks[1], painted, batch).shape == (2, 2, 64, 32)


def test_nothing_bypasses_the_narrowest_level_of_the_reconstruction():
    network = reconstructive_network(2, np.random.default_rng(0)).eval()
    with torch.inference_mode():
        network["down"][-1][3].weight.zero_()  # the last convolution of the encoder
        first, second = reconstruct(network, torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# ---- synthetic defects -----------------------------------------------------------------
def test_a_batch_is_good_outside_its_defects():
    good = images(64)
    seen, clean, masks = painter().batch(good, np.random.default_rng(0))
    np.testing.assert_array_equal(clean, good)
    np.testing.assert_array_equal(seen[~masks], clean[~masks].astype(np.float32) / 255)
    assert np.abs(seen[masks] - clean[masks] / 255).mean() > 0.1
    assert 0.25 < masks.any(axis=(1, 2)).mean() < 0.75  # half of the images, but by chance
    assert seen.dtype == np.float32
    assert 0 <= seen.min() < seen.max() <= 1


def test_defects_keep_to_the_part_and_to_the_region():
    good = images(24)
    rng = np.random.default_rng(0)
    *_, masks = painter(foreground_only=True).batch(good, rng)
    part = good[0].mean(axis=2) < 170
    # The outline is found to within a pixel.
    near = cv2.dilate(part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert masks.any()
    assert not masks[:, ~near].any()
    region = np.zeros(SIZE, bool)
    region[:8, :8] = True  # nothing of the part
    *_, masks = painter(foreground_only=True, region=region).batch(good, rng)
    assert masks.any()
    assert not masks[:, ~region].any()


def test_some_images_are_rotated():
    good = images(60)
    _, clean, _ = painter(max_rotation=90.0).batch(good, np.random.default_rng(0))
    changed = (clean != good).any(axis=(1, 2, 3)).mean()
    assert 0.1 < changed < 0.5


def test_light_varies_and_is_no_defect():
    good = np.full((60, *SIZE, 3), 200, np.uint8)
    seen, clean, masks = painter(brightness=0.2).batch(good, np.random.default_rng(0))
    levels = clean[:, 0, 0, 0]
    assert (clean == levels[:, None, None, None]).all()  # each image as a whole
    assert 160 <= levels.min() < 165 and 235 < levels.max() <= 240
    outside = ~masks
    np.testing.assert_array_equal(seen[outside], clean[outside] / np.float32(255))
    assert masks.any(axis=(1, 2)).sum() < 60  # in other light and without a defect
    bright = np.full((4, *SIZE, 3), 250, np.uint8)  # does not wrap around
    _, clean, _ = painter(brightness=0.2).batch(bright, np.random.default_rng(0))
    assert clean.min() >= 200


def test_the_detector_varies_the_light_as_it_is_told():
    good = images(6)
    losses = [
        tiny(batch_size=6, max_steps=1, **options).fit(good).history_["loss"][0]
        for options in ({}, {"brightness": 0.1}, {"brightness": 0.5})
    ]
    assert losses[0] == losses[1] != losses[2]


def test_textures_come_from_where_they_are_asked_for(tmp_path):
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    assert cv2.imwrite(str(tmp_path / "red.png"), red)
    good = images(8)
    fitted = [
        tiny(textures=textures, batch_size=6).fit(good)
        for textures in ("mixed", "procedural", "training", tmp_path)
    ]
    losses = {float(detector.history_["loss"][0]) for detector in fitted}
    assert len(losses) == 4
    with pytest.raises(ImageReadError, match="does not exist"):
        tiny(textures=str(tmp_path / "nowhere")).fit(good)


# ---- the detector ----------------------------------------------------------------------
def test_a_discriminative_network_of_zeros_knows_nothing():
    detector = tiny().fit(images(6))
    for name in ("last.weight", "last.bias"):
        detector.networks_["discriminative"][name] = np.zeros_like(
            detector.networks_["discriminative"][name]
        )
    detector.networks_ = dict(detector.networks_)  # not the one that is loaded
    new = images(2, seed=1)
    np.testing.assert_array_equal(detector.anomaly_map(new), np.full((2, *SIZE), 0.5, np.float32))
    np.testing.assert_allclose(detector.score_samples(new), -0.5, rtol=1e-6)


@pytest.mark.parametrize(("side", "window"), [(256, 21), (128, 11), (32, 3)])
def test_the_score_is_a_mean_over_a_square_that_grows_with_the_image(side, window):
    detector = tiny()
    detector.roi_mask_ = None
    heat = np.zeros((side, side + 32), np.float32)
    heat[side // 2, side // 2] = 1
    assert detector._score_of(heat) == pytest.approx(window**-2, rel=1e-5)
    detector.roi_mask_ = np.zeros(heat.shape, bool)
    detector.roi_mask_[:8] = True
    assert detector._score_of(heat) == 0


def test_sides_are_brought_to_what_can_be_halved_five_times():
    detector = tiny(resize=(50, 20)).fit(images(4))
    assert detector._shapes == [("uint8", (64, 32, 3))]
    assert detector.anomaly_map(images(1))[0].shape == SIZE


def test_pixels_outside_the_region_have_no_influence():
    good, region = images(6), np.zeros(SIZE, bool)
    region[10:31, 12:37] = True
    other = np.where(region[:, :, None], good, np.uint8(3))
    first, second = (tiny().fit(X, roi_mask=region) for X in (good, other))
    for name, arrays in first.networks_.items():
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, second.networks_[name][key])
    np.testing.assert_array_equal(first.score_samples(good[:1]), first.score_samples(other[:1]))


def test_equal_seeds_give_equal_bits_and_others_do_not():
    good = images(6)
    first, second, third = (tiny(random_state=seed).fit(good) for seed in (0, 0, 1))
    new = images(3, seed=1)
    np.testing.assert_array_equal(first.score_samples(new), second.score_samples(new))
    assert (first.score_samples(new) != third.score_samples(new)).all()


def test_widths_are_of_one_network_each():
    networks = tiny(width=(3, 2))._build([], np.random.default_rng(0))
    assert networks["reconstructive"]["last"].in_channels == 3
    assert networks["discriminative"]["last"].in_channels == 2


def test_training_that_would_take_hours_warns():
    with pytest.warns(UserWarning, match="about [0-9]+ hours") as caught:
        DRAEMDetector(device="cpu")._warn_if_slow()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DRAEMDetector(128, width=16, max_steps=600, batch_size=4, device="cpu")._warn_if_slow()
