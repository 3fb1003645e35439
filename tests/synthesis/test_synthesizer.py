"""Painted defects: exact masks, what they depend on, and images of any kind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from pyimgano.exceptions import ImageFormatError, ImageReadError, SynthesisError
from pyimgano.synthesis import (
    DEFECT_KINDS,
    DefectSynthesizer,
    foreground_mask,
    procedural_texture,
)

DEFAULT = DEFECT_KINDS[:8]


def part(side: int = 64, seed: int = 0) -> np.ndarray:
    """A bright disk with a grain on a dark ground."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side)) - (side - 1) / 2
    image = np.where((np.hypot(y, x) < side / 3)[..., None], [170, 160, 140], [50, 52, 60])
    return np.clip(image + rng.integers(-12, 13, (side, side, 3)), 0, 255).astype(np.uint8)


def check_masks(images, made):
    for good, bad, mask in zip(images, made.images, made.masks):
        assert bad.shape == good.shape and bad.dtype == np.uint8 and mask.dtype == bool
        assert np.array_equal(mask, (bad != good).any(axis=-1))
        assert mask.any() and mask.sum() <= max(0.3 * mask.size, 4)


@st.composite
def pictures(draw):
    height, width = draw(st.integers(1, 48)), draw(st.integers(1, 48))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    gray = draw(st.booleans())
    image = rng.integers(0, 256, (height, width, 1 if gray else 3), np.uint8)
    contrast = draw(st.sampled_from([0.0, 0.2, 1.0]))
    image = (128 + contrast * (image.astype(float) - 128)).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if gray else image


@given(pictures(), st.sampled_from(["foreground", None]), st.integers(0, 40), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_masks_are_where_the_image_differs(image, mask, index, seed):
    made = DefectSynthesizer(DEFECT_KINDS, mask=mask, random_state=seed).synthesize(
        [image], indices=[index]
    )
    check_masks([image], made)
    again = DefectSynthesizer(DEFECT_KINDS, mask=mask, random_state=seed).synthesize(
        np.stack([image, image]), indices=[index + 1, index]
    )
    assert np.array_equal(again.images[1], made.images[0]) and again.kinds[1] == made.kinds[0]


@pytest.mark.parametrize("kind", DEFECT_KINDS)
@pytest.mark.parametrize("severity", [0.05, 1.0])
def test_every_kind_can_be_painted_on_a_part_and_on_a_texture(kind, severity):
    texture = procedural_texture(64, np.random.default_rng(2), pattern="value_noise")
    images = np.stack([part(), texture])
    made = DefectSynthesizer([kind], severity).synthesize(images)
    assert made.kinds == [kind] * 2 and isinstance(made.images, np.ndarray)
    check_masks(images, made)


def test_more_severe_defects_change_more():
    image = part(96)
    change = {
        severity: [
            np.abs(made.astype(int) - image).sum()
            for made in DefectSynthesizer(severity=severity).synthesize([image] * 24).images
        ]
        for severity in (0.1, 1.0)
    }
    assert np.mean(change[1.0]) > 1.5 * np.mean(change[0.1])


def test_a_defect_depends_on_seed_index_and_image_alone():
    images = np.stack([part(seed=seed) for seed in range(9)])
    synthesizer = DefectSynthesizer(random_state=4)
    made = synthesizer.synthesize(images)
    assert made.kinds == [*DEFAULT, DEFAULT[0]]
    order = np.array([5, 0, 8])
    some = clone(synthesizer).synthesize(images[order], indices=order)
    assert np.array_equal(some.images, made.images[order])
    assert np.array_equal(some.masks, made.masks[order])
    assert some.kinds == [made.kinds[i] for i in order]
    other = DefectSynthesizer(random_state=5).synthesize(images)
    assert not any(np.array_equal(*pair) for pair in zip(other.masks, made.masks))


def test_images_of_several_sizes_and_files_come_back_as_lists(tmp_path):
    images = [part(40), part(56)]
    paths = [str(tmp_path / f"{k}.png") for k in range(2)]
    for path, image in zip(paths, images):
        cv2.imwrite(path, image[..., ::-1])
    made, read = (DefectSynthesizer().synthesize(X) for X in (images, paths))
    assert isinstance(made.images, list) and [m.shape for m in made.masks] == [(40, 40), (56, 56)]
    assert all(np.array_equal(*pair) for pair in zip(made.images, read.images))


def test_defects_stay_where_the_mask_allows_them():
    image = part()
    allowed = np.zeros((64, 64), bool)
    allowed[24:40, 20:44] = True
    made = DefectSynthesizer(DEFECT_KINDS, mask=allowed).synthesize([image] * 26)
    check_masks([image] * 26, made)
    assert not (np.array(made.masks) & ~allowed).any()
    on_part = np.array(DefectSynthesizer(DEFECT_KINDS).synthesize([image] * 26).masks)
    near = cv2.dilate(foreground_mask([image]).astype(np.uint8), np.ones((5, 5))) > 0
    assert not (on_part & ~near).any()


def test_a_missing_part_shows_the_ground():
    image = part(128)
    made = DefectSynthesizer(["missing_part"], 1.0).synthesize([image] * 4)
    for bad, mask in zip(made.images, made.masks):
        gone = mask & foreground_mask([image])
        assert gone.sum() > 50
        assert np.median(bad[gone], axis=0) == pytest.approx([50, 52, 60], abs=25)


def test_a_kind_that_does_not_show_gives_way_to_the_next():
    blank = np.full((32, 32, 3), 90, np.uint8)
    made = DefectSynthesizer(["blur_spot", "stain"]).synthesize([blank] * 2)
    assert made.kinds == ["stain", "stain"]
    with pytest.raises(SynthesisError, match=r"image 1.*blur_spot.*32 x 32.*such as \"stain\""):
        DefectSynthesizer(["blur_spot"]).synthesize([part(), blank])
    only = np.zeros((32, 32), bool)
    only[0, 0] = True
    for kinds, message in (
        (["stain"], 'add kinds, such as "scratch", or widen mask'),
        (DEFECT_KINDS, "pixels; widen mask"),
    ):
        with pytest.raises(SynthesisError, match=message):
            DefectSynthesizer(kinds, mask=only).synthesize([blank])


def test_textures_from_files_images_and_the_image_itself(tmp_path):
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    cv2.imwrite(str(tmp_path / "red.png"), red[..., ::-1])
    image = part()
    for source in ("procedural", "own", tmp_path, str(tmp_path), [red], red[None]):
        made = DefectSynthesizer(["perlin_texture"], 1.0, textures=source).synthesize([image] * 3)
        check_masks([image] * 3, made)
        colors = {tuple(color) for bad, mask in zip(*made[:2]) for color in bad[mask]}
        # A texture of one color stays one of one color, whatever is done to it.
        assert (len(colors) <= 3) == (
            source not in ("procedural", "own") if isinstance(source, str) else True
        )
    with pytest.raises(ImageReadError, match="does not exist"):
        DefectSynthesizer(textures=tmp_path / "none").synthesize([image])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kinds": ["scratch", "scar"]}, "kinds.*scar.*'scratch', 'stain'"),
        ({"kinds": "scratch"}, "kinds"),
        ({"kinds": []}, "kinds"),
        ({"severity": (0.5, 0.2)}, r"severity=\(0.5, 0.2\).*lowest, highest"),
        ({"severity": (0.0, 0.2)}, "severity"),
        ({"severity": 1.5}, "severity"),
        ({"mask": "part"}, "mask"),
        ({"mask": np.zeros((64, 64), bool)}, "True somewhere"),
        ({"mask": np.ones((64, 64))}, "booleans"),
        ({"mask": np.ones((8, 9), bool)}, "8 x 9 pixels, and image 0 64 x 64"),
        ({"random_state": None}, "random_state"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises((ValueError, InvalidParameterError), match=message):
        DefectSynthesizer(**parameters).synthesize([part()])


def test_wrong_images_and_indices_are_named():
    for indices in ([0.5], [-1], [[0]], [0, 1]):
        with pytest.raises(ValueError, match=r"indices|inconsistent"):
            DefectSynthesizer().synthesize([part()], indices=indices)
    with pytest.raises(ImageFormatError):
        DefectSynthesizer().synthesize(np.zeros((2, 8, 8, 3)))


# ---- the part -------------------------------------------------------------------------
def test_the_part_is_told_from_the_ground_whichever_is_brighter():
    image = np.full((40, 60, 3), 200, np.uint8)
    image[10:30, 15:45] = 60
    image[15:20, 20:30] = 200  # enclosed
    expected = np.zeros((40, 60), bool)
    expected[10:30, 15:45] = True
    assert np.array_equal(foreground_mask([image]), expected)
    assert np.array_equal(foreground_mask([255 - image]), expected)
    # The median does not show what is in few images.
    dirty = image.copy()
    dirty[2:6, 2:6] = 0
    assert np.array_equal(foreground_mask([image, dirty, image]), expected)


def test_without_a_plain_ground_all_is_foreground():
    texture = procedural_texture(64, np.random.default_rng(1), pattern="voronoi")
    for image in (texture, np.full((9, 5, 3), 7, np.uint8), np.zeros((1, 1, 3), np.uint8)):
        assert foreground_mask([image]).all()


def test_a_median_needs_images_of_one_size():
    with pytest.raises(ImageFormatError, match=r"image 1 has 40 x 40.*image 0 64 x 64"):
        foreground_mask([part(), part(40)])


# ---- textures ---------------------------------------------------------------------------
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([None, "value_noise", "voronoi", "stripes"]),
    st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_textures_of_any_size(height, width, pattern, seed):
    made, again = (
        procedural_texture((height, width), np.random.default_rng(seed), pattern=pattern)
        for _ in range(2)
    )
    assert made.shape == (height, width, 3) and made.dtype == np.uint8
    assert np.array_equal(made, again)


def test_an_unknown_pattern_is_named():
    with pytest.raises(ValueError, match=r"'value_noise'.*got 'dots'"):
        procedural_texture(8, np.random.default_rng(0), pattern="dots")
