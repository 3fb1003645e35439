"""By default the whole image is looked at: its corners and edges as well as its center."""

from __future__ import annotations

import numpy as np
import pytest

from pyimgano import create_model, list_models
from pyimgano.features import (
    BackbonePatchFeatures,
    FilterBankFeatures,
    ViTPatchFeatures,
    make_features,
)
from tests.extras import needs_extra

pytestmark = pytest.mark.usefixtures("cross_fit")

SIDE, SQUARE = 256, 14
PLACES = [(top, left) for top in (0, 121, 242) for left in (0, 121, 242)]
PATCH_DETECTORS = (
    "vision_patchcore",
    "vision_padim",
    "vision_spade",
    "vision_softpatch",
    "vision_anomalydino",
)


def rings(n: int, seed: int) -> np.ndarray:
    """Photographs of a ring on a table, a bit off the middle, in changing light."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images = []
    for _ in range(n):
        off_y, off_x = rng.uniform(-1.5, 1.5, 2)
        radius = np.hypot(y - 128 - off_y, x - 128 - off_x)
        ring = (np.clip(90 - radius, 0, 1) - np.clip(40 - radius, 0, 1))[..., None]
        image = np.array([96.0, 100, 108]) * (1 - ring) + np.array([170.0, 165, 150]) * ring
        image = image * rng.uniform(0.97, 1.03) + rng.normal(0, 3, image.shape)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack(images)


@pytest.fixture(scope="module")
def images():
    """Good parts, and parts with a red square each."""
    bad = rings(len(PLACES), 1)
    for image, (top, left) in zip(bad, PLACES):
        image[top : top + SQUARE, left : left + SQUARE] = (190, 40, 40)
    return rings(12, 0), bad


@pytest.fixture(scope="module")
def grids(images):
    good, bad = rings(20, 0), images[1]  # SPADE needs more good parts
    step = FilterBankFeatures().fit(good)
    return step.transform(good), step.transform(bad)


def check_finds_squares(detector, good, bad):
    detector.fit(good)
    scores, maps = detector.score_and_map(bad)
    assert (scores < detector.offset_).all(), [
        at for at, score in zip(PLACES, scores) if score >= detector.offset_
    ]
    for (top, left), heat in zip(PLACES, maps):
        peak = np.unravel_index(heat.argmax(), heat.shape)
        away = np.abs(np.subtract(peak, (top + 6.5, left + 6.5))).max()
        assert away <= 16, f"the map of the square at {top}, {left} has its peak at {peak}"


@pytest.mark.parametrize("name", (*PATCH_DETECTORS, "industrial-fast"))
def test_patch_detectors_without_weights(name, grids):
    check_finds_squares(create_model(name, features="filterbank"), *grids)


def test_the_preset_on_imagenet_features(images):
    needs_extra("imagenet")
    check_finds_squares(create_model("industrial-fast-imagenet"), *images)


def test_the_preset_for_small_computers(images):
    check_finds_squares(create_model("embedded"), *images)


@pytest.mark.parametrize("name", list_models(family="template"))
def test_templates(name, images):
    check_finds_squares(create_model(name), *images)


@pytest.mark.parametrize("name", ["vision_patchcore", "vision_padim", "vision_softpatch"])
def test_networks(name, images, shared_data):
    detector = create_model(
        name,
        features="resnet18",
        features__weights=shared_data / "weights" / "resnet18_imagenet_to_layer3.pth",
    )
    check_finds_squares(detector, *images)


def test_a_vision_transformer(images, shared_data):
    pytest.importorskip("timm", reason="timm is not installed")
    weights = shared_data / "weights" / "vit_tiny_patch16_224_finetuned200_timm_named.pth"
    step = ViTPatchFeatures("timm:vit_tiny_patch16_224", weights=weights, device="cpu")
    good, bad = images
    check_finds_squares(create_model("vision_anomalydino", features=step), good[:6], bad)


@pytest.fixture(scope="module")
def rows(images):
    """What the PyOD presets make of each image, for more good parts, defects and good twins."""
    good = rings(60, 0)
    features, pooling, _ = (step for _, step in create_model("vision_knn").steps)
    features.fit(good)
    pooling.fit(features.transform(good[:1]))
    return [pooling.transform(features.transform(X)) for X in (good, images[1], rings(9, 1))]


@pytest.mark.parametrize("name", list_models(tags="pyod"))
@pytest.mark.filterwarnings("ignore::pyimgano.exceptions.TooFewImagesWarning")
def test_pyod_presets(name, rows):
    good, bad, twins = rows
    detector = create_model(name)[-1].fit(good)
    assert (detector.predict(bad) == -1).all()
    assert (detector.predict(twins) == -1).sum() <= 1


@pytest.mark.parametrize("name", ["resnet18", "filterbank", "dinov2_vits14"])
def test_no_feature_step_crops_by_default(name):
    assert getattr(make_features(name), "crop", None) is None


def test_what_a_crop_removes_is_not_seen(images, shared_data):
    weights = shared_data / "weights" / "resnet18_imagenet_to_layer3.pth"
    clean = images[0][:1]
    marked = clean.copy()
    marked[:, :SQUARE, :SQUARE] = (190, 40, 40)
    papers = BackbonePatchFeatures("resnet18", weights=weights, crop=224)
    whole = BackbonePatchFeatures("resnet18", weights=weights)
    assert np.array_equal(papers.transform(clean).rows, papers.transform(marked).rows)
    assert not np.array_equal(whole.transform(clean).rows, whole.transform(marked).rows)
