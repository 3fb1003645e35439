"""Corruption: bits, strengths, draws, laziness, and masks that move along."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import InvalidParameterError

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector
from pyimgano._kernels.corruptions import Draw, cosines
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import anomaly_scores, iter_scores
from pyimgano.inputs import ImageSequence
from pyimgano.robustness import CORRUPTIONS, Corruption
from tests.robustness.checksums import checksum, tiny

KINDS = list(CORRUPTIONS)
MOVING = [kind for kind, known in CORRUPTIONS.items() if known.moves_masks]


def scene(side: int = 96) -> np.ndarray:
    """A bright part with a grain on a dark ground."""
    y, x = np.indices((side, side))
    part = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2
    grain = np.random.RandomState(0).randint(0, 40, size=(side, side, 1))
    return (np.where(part, 150, 60)[..., None] + grain * [1, 1, 1]).astype(np.uint8)


def corrupted(image: np.ndarray, kind: str, severity: int, **parameters) -> np.ndarray:
    return Corruption(kind, severity, **parameters).transform([image])[0]


# Of every kind at severity 4. They must not depend on the machine; whoever changes a corruption on
# purpose changes them, and the tables of the documentation with them.
CHECKSUMS = {
    "illumination_gradient": "e5418c8b80d5ed4a",
    "vignetting": "f6a04de4c8c364df",
    "brightness": "c6a6cc136849a260",
    "contrast": "d2184c9493415a7e",
    "gamma": "42fb501c1a945910",
    "white_balance": "5b9f9ceda9179e47",
    "glare": "501de754dc67859e",
    "gaussian_noise": "cf8457a2570c204d",
    "shot_noise": "1465bfd6154dc17a",
    "salt_and_pepper": "2f8accfbcbbafdd0",
    "dust": "8822e9f83d01fe6e",
    "defocus": "ec6e7bd9394d5537",
    "motion_blur": "fa9a63630f0b1cb6",
    "jpeg": "1fe7da51341f11b7",
    "shift": "0f201467b4dc201f",
    "rotation": "aa72ddfa7a4ac60b",
    "scale": "3d59f66bb2eaf750",
}


@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_written_down(kind):
    found = corrupted(tiny(), kind, 4)
    assert found.shape == (12, 16, 3) and found.dtype == np.uint8
    assert checksum(kind) == CHECKSUMS[kind]


def test_bits_do_not_depend_on_the_processor_or_the_process():
    # Without its vector units NumPy computes by other code, and OpenBLAS as on an old processor.
    slow = {
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX2 FMA3",
        "OPENBLAS_CORETYPE": "Prescott",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.robustness.checksums"],
        env={**os.environ, **slow, "PYTHONHASHSEED": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == CHECKSUMS


def test_rounded_functions_are_far_from_where_rounding_turns():
    # So an error in the last bits of pow, cos and sin, where systems differ, is rounded off.
    def margin(values):
        values = np.asarray(values, dtype=float)
        return np.abs(values - np.floor(values) - 0.5).min()

    exponents = CORRUPTIONS["gamma"].strengths
    assert (
        margin([255 * (i / 255) ** e for g in exponents for e in (g, 1 / g) for i in range(256)])
        > 1e-6
    )
    raw = [
        8192 * math.cos((2 * x + 1) * u * math.pi / 16) / (2 if u else math.sqrt(8))
        for u in range(8)
        for x in range(8)
    ]
    assert margin(raw) > 1e-3 and np.array_equal(np.rint(raw).reshape(8, 8), cosines())
    angles = [math.radians(degrees) for degrees in CORRUPTIONS["rotation"].strengths]
    assert margin([of(angle) * 2**30 for angle in angles for of in (math.cos, math.sin)]) > 1e-3


# ---- what each kind does, by hand ------------------------------------------------------
def flat(value, height=4, width=8):
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize("severity, expected", [(1, {95, 105}), (5, {70, 130})])
def test_brightness(severity, expected):
    found = {
        int(corrupted(flat(100), "brightness", severity, random_state=seed)[0, 0, 0])
        for seed in range(8)
    }
    assert found == expected


def test_contrast():
    image = np.concatenate([flat(40), flat(120)])
    found = corrupted(image, "contrast", 5)  # half way to the mean of 80
    assert np.array_equal(found, np.concatenate([flat(60), flat(100)]))


def test_white_balance():
    found = {
        tuple(corrupted(flat(100), "white_balance", 5, random_state=seed)[0, 0])
        for seed in range(8)
    }
    assert found == {(120, 100, 80), (80, 100, 120)}


def test_gamma():
    found = {int(corrupted(flat(64), "gamma", 5, random_state=s)[0, 0, 0]) for s in range(8)}
    assert found == {16, 128}  # 64 / 255 is about a quarter: its square and its root


def test_illumination_gradient():
    # 200 loses half of its light over 4 rows or 8 columns, one of eight ways.
    rows = {200 - round(100 * (i + 0.5) / 4) for i in range(4)}
    found = [corrupted(flat(200), "illumination_gradient", 5, random_state=s) for s in range(40)]
    straight = [one for one in found if len(np.unique(one, axis=1)[0]) == 1]
    assert straight and all(set(one[:, 0, 0].tolist()) == rows for one in straight)
    assert all(one.min() >= 100 and one.max() <= 200 for one in found)


def test_vignetting():
    found = corrupted(flat(200, 101, 101), "vignetting", 5)
    assert found[50, 50, 0] == 200
    # The center of the corner pixel is 50 of 50.5 pixels away on each axis.
    assert found[0, 0, 0] == round(200 * (1 - 0.75 * (50 / 50.5) ** 2))


def test_glare():
    found = corrupted(flat(50, 100, 100), "glare", 3)  # radius of 15 pixels
    changed = (found != 50).any(axis=-1)
    assert found.max() > 250 and 0.75 * np.pi * 15**2 < changed.sum() <= np.pi * 15.5**2
    centers = np.argwhere(found[..., 0] == found.max())
    assert (centers >= 25).all() and (centers < 75).all()


def test_noise_has_the_stated_deviation():
    difference = corrupted(flat(128, 200, 200), "gaussian_noise", 3).astype(int) - 128
    assert abs(difference.std() - 8) < 0.1 and abs(difference.mean()) < 0.1
    for value in (40, 160):
        found = corrupted(flat(value, 200, 200), "shot_noise", 3).astype(float)
        electrons = value / 255 * 1000
        assert abs(found.std() / (255 / 1000) - math.sqrt(electrons)) < 0.02 * math.sqrt(electrons)


def test_salt_and_pepper():
    found = corrupted(flat(128, 200, 200), "salt_and_pepper", 5)
    hit = (found != 128).any(axis=-1)
    assert abs(hit.mean() - 0.01) < 0.002
    assert set(np.unique(found[hit])) == {0, 255} and (found[hit] == found[hit][:, :1]).all()
    assert abs((found[hit][:, 0] == 255).mean() - 0.5) < 0.1


def test_dust():
    found = corrupted(flat(200, 300, 300), "dust", 5)
    area = (found < 200).any(axis=-1).sum()
    # 40 disks of radius 0.9 to 3 pixels, with a rim of half a pixel.
    assert 40 * np.pi * 1.0 < area < 40 * np.pi * 3.5**2 and found.min() == 80


def test_blur_spreads_a_point_evenly_over_its_disk():
    image = np.zeros((101, 101, 3), dtype=np.uint8)
    image[50, 50] = 255
    found = corrupted(image, "defocus", 5)[..., 0].astype(float)  # radius of 1.01 pixels
    assert np.array_equal(found, found.T) and np.array_equal(found, found[::-1])
    assert abs(found.sum() - 255) < 10 and not found[[47, 53]].any()
    wide = np.zeros((1000, 1000, 3), dtype=np.uint8)
    wide[490:511, 490:511] = 255
    disk = corrupted(wide, "defocus", 5)[..., 0].astype(float)  # radius of 10 pixels
    assert abs(disk.sum() / wide[..., 0].sum() - 1) < 0.01
    assert disk[500, 500] == 255 and not disk[500, 521:].any() and disk[500, 519] > 0


def test_motion_blur_is_a_line():
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[50, 50] = 255
    shapes = set()
    for seed in range(20):
        y, x = np.nonzero(corrupted(image, "motion_blur", 5, random_state=seed)[..., 0])
        shapes.add((np.ptp(y) > 1, np.ptp(x) > 1))
        assert max(np.ptp(y), np.ptp(x)) <= 4  # 3 pixels, between pixels
    assert shapes == {(False, True), (True, False), (True, True)}


@pytest.mark.parametrize("kind", ["defocus", "motion_blur", "jpeg", *MOVING])
def test_flat_images_stay_as_they_are(kind):
    assert np.array_equal(corrupted(flat(128, 20, 30), kind, 5), flat(128, 20, 30))


def through_jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality), subsampling="4:2:0")
    return np.asarray(Image.open(buffer)).astype(float)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_jpeg_loses_what_jpeg_loses(severity):
    quality = CORRUPTIONS["jpeg"].strengths[severity - 1]
    gray = scene(70)
    real, ours = through_jpeg(gray, quality), corrupted(gray, "jpeg", severity)
    assert np.abs(ours - real).mean() < 0.1 * np.abs(real - gray).mean()  # rounding of halves
    y, x = np.indices((64, 80))
    image = np.stack([120 + 60 * np.sin(x / 7), 90 + y, 160 - x], axis=-1).astype(np.uint8)
    real, ours = (
        one.reshape(32, 2, 40, 2, 3).mean(axis=(1, 3))
        for one in (through_jpeg(image, quality), corrupted(image, "jpeg", severity))
    )
    # Colors of half the resolution are brought back in ways that the standard leaves open.
    assert np.abs(ours - real).mean() < 1


# ---- severities and draws --------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_stronger_than_the_last(kind):
    strengths = CORRUPTIONS[kind].strengths
    rising = np.diff(strengths) > 0
    assert rising.all() or (not rising.any() and len(set(strengths)) == 5)
    image = scene()
    for seed in range(3):
        change = [
            np.abs(corrupted(image, kind, s, random_state=seed).astype(int) - image).mean()
            for s in range(1, 6)
        ]
        assert change[0] > 0 and (np.diff(change) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_corrupted_alike_in_any_company(kind):
    images = [scene(), tiny(), scene(40), flat(9)]
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    step = Corruption(kind, 4)
    together = step.transform(images)
    for order in ([3, 1, 0, 2], [2], [1, 1]):
        for i, one in zip(order, step.transform([images[i] for i in order])):
            assert np.array_equal(one, together[i])
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert np.array_equal(images[1], tiny())  # and is left as it is


def test_draws_differ_between_images_kinds_and_seeds():
    def words(*of):
        return tuple(Draw(*of).words(2).tolist())

    drawn = [words(b"a", "shift", 0), words(b"b", "shift", 0), words(b"a", "scale", 0)]
    drawn += [words(b"a", "shift", 1), words(b"a", "shift", 10)]
    assert len(set(drawn)) == 5 and words(b"a", "shift", 0) == drawn[0]
    draw = Draw(b"", "", 0)
    assert {draw.below(8) for _ in range(200)} == set(range(8))
    assert {draw.sign() for _ in range(20)} == {-1, 1}


@pytest.mark.parametrize(
    "parameters",
    [{"severity": 0}, {"severity": 6}, {"severity": 1.5}, {"kind": "fog"}, {"random_state": None}],
)
def test_parameters_are_checked(parameters):
    with pytest.raises(InvalidParameterError, match=next(iter(parameters))):
        Corruption(**parameters).transform([tiny()])
    with pytest.raises(InvalidParameterError, match=next(iter(parameters))):
        Corruption(**parameters).fit([tiny()])


def test_the_table_of_the_user_guide_has_the_strengths():
    page = Path(__file__).parents[2] / "doc" / "user_guide" / "robustness.rst"
    rows = page.read_text(encoding="utf-8").split("   * - ")[2:]
    cells = [[cell.strip() for cell in row.split("\n\n")[0].split("\n     - ")] for row in rows]
    assert cells == [
        [f"`{kind}`", known.unit, *(f"{one:g}" for one in known.strengths)]
        for kind, known in CORRUPTIONS.items()
    ]


# ---- masks -----------------------------------------------------------------------------
def square() -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[30:50, 40:70] = 1
    return np.repeat(mask[..., None] * 200, 3, axis=2).astype(np.uint8), mask


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("severity", [1, 5])
def test_masks_move_with_the_part(kind, severity):
    image, mask = square()
    step = Corruption(kind, severity)
    seen = step.transform([image])[0][..., 0] > 100
    moved = step.transform_masks([image], [mask])[0]
    assert moved.dtype == np.uint8 and set(np.unique(moved)) == {0, 1}
    assert (moved.astype(bool) ^ seen).sum() <= 2  # where the edge is half way in a pixel
    if severity == 5:
        assert (moved != mask).any()
    coarse = step.transform_masks([image], [mask[::2, ::2]])[0]
    assert (coarse.repeat(2, 0).repeat(2, 1) != moved).mean() < 0.02


def test_a_shift_moves_a_square_by_the_stated_way():
    image, mask = square()
    ways = set()
    for seed in range(40):
        moved = Corruption("shift", 5, seed).transform_masks([image], [mask])[0]
        y, x = np.nonzero(moved)
        assert moved.sum() == mask.sum()
        ways.add((int(y.min()) - 30, int(x.min()) - 40))
    # 5 % of 100 pixels; on the diagonals 3.5 down and across.
    diagonal = {(a, b) for a, b in ways if a and b}
    assert ways - diagonal == {(5, 0), (-5, 0), (0, 5), (0, -5)}
    assert len(diagonal) == 4 and all(abs(a) in (3, 4) and abs(b) in (3, 4) for a, b in diagonal)


def test_other_masks_stay_and_their_images_are_not_read():
    _, mask = square()
    assert Corruption("dust").transform_masks(["nowhere.png"], [mask])[0] is mask
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        Corruption("shift").transform_masks(["nowhere.png"], [mask, mask])


# ---- collections -----------------------------------------------------------------------
@pytest.fixture
def files(tmp_path):
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.roll(scene(48), i, axis=1)).save(paths[-1])
    return paths


def test_files_stay_lazy(files):
    step = Corruption("rotation")
    images = ImageSequence(files)
    array = np.stack(list(images))
    assert isinstance(step.transform(array), np.ndarray)
    assert isinstance(step.transform(list(array)), list)
    lazy = step.transform(images)
    assert tuple(lazy.paths) == images.paths and lazy.size(0) == (48, 48)
    for i in range(3):
        assert np.array_equal(lazy[i], step.transform(array)[i])
    assert np.array_equal(lazy[1:][0], lazy[1])
    assert len(step.transform(["nowhere.png"])) == 1  # nothing is read yet


def test_what_is_lazy_stays_what_it_was_when_parameters_change(files):
    step = Corruption("brightness", 5)
    lazy = step.transform(files)
    expected = lazy[0]
    step.set_params(severity=1)
    assert np.array_equal(lazy[0], expected)


def test_corruptions_follow_one_another(files):
    first, second = Corruption("rotation", 4), Corruption("shift", 4)
    image = ImageSequence(files)[0]
    lazy = second.transform(first.transform(files))
    assert np.array_equal(lazy[0], corrupted(corrupted(image, "rotation", 4), "shift", 4))
    resized = make_pipeline(ImageFormatNormalizer(resize=(20, 30)), first)
    assert np.array_equal(resized.transform(files)[0], resized.transform([image])[0])


def test_a_pipeline_with_a_corruption_reads_files_one_at_a_time(files, tmp_path, monkeypatch):
    images = np.stack(list(ImageSequence(files)))
    steps = ImageFormatNormalizer(), Corruption("gamma", 5)
    pipe = make_pipeline(*steps, PatchCoreDetector(FilterBankFeatures(resize=32))).fit(images)
    expected = anomaly_scores(pipe, images)
    assert np.array_equal(anomaly_scores(pipe, files), expected)
    pyimgano.save(pipe, tmp_path / "pipe.joblib")
    assert np.array_equal(anomaly_scores(pyimgano.load(tmp_path / "pipe.joblib"), files), expected)
    seen = []
    monkeypatch.setattr(
        type(pipe[-1]), "iter_scores", lambda self, X, **options: seen.append(X) or iter(())
    )
    list(iter_scores(pipe, files))
    assert len(seen) == 1 and tuple(seen[0].paths) == tuple(map(str, files))
