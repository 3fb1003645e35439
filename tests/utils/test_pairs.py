"""Parameters that are an integer or a pair: the same values and message everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from pyimgano.datasets import make_inspection_dataset
from pyimgano.detectors.templates import PixelGaussianDetector
from pyimgano.features import (
    BackbonePatchFeatures,
    ColorMoments,
    FilterBankFeatures,
    HOGFeatures,
    PatchStatistics,
)
from pyimgano.inputs import ImageFormatNormalizer, ImageSequence
from pyimgano.tiling import TilingTransformer
from pyimgano.utils._pairs import check_pair, check_pair_or_none

IMAGES = np.zeros((2, 80, 80, 3), dtype=np.uint8)
USERS = {
    "normalizer": lambda value: ImageFormatNormalizer(resize=value).fit(IMAGES),
    "sequence": lambda value: ImageSequence(["a.png"], resize=value),
    "rows": lambda value: ColorMoments(resize=value).fit(IMAGES),
    "hog": lambda value: HOGFeatures(resize=value).fit(IMAGES),
    "cell": lambda value: HOGFeatures(pixels_per_cell=value).fit(IMAGES),
    "block": lambda value: HOGFeatures(cells_per_block=value).fit(IMAGES),
    "grid": lambda value: PatchStatistics(value).fit(IMAGES),
    "filterbank": lambda value: FilterBankFeatures(resize=value).fit(IMAGES),
    "network": lambda value: BackbonePatchFeatures(weights=None, crop=value).fit(IMAGES),
    "tile": lambda value: TilingTransformer(value).fit(IMAGES),
    "stride": lambda value: TilingTransformer(64, stride=value).fit(IMAGES),
    "template": lambda value: PixelGaussianDetector(resize=value).fit(IMAGES),
    "synthetic": lambda value: make_inspection_dataset("wood", n_train=1, size=value),
}


@pytest.mark.parametrize("value", [3, np.int64(3), (3, 3), [3, np.int16(3)]])
def test_one_number_or_two_become_a_pair_of_int(value):
    pair = check_pair(value, "size")
    assert pair == (3, 3) and {type(side) for side in pair} == {int}
    assert check_pair_or_none(value, "size") == (3, 3)


def test_none_only_where_it_has_a_meaning():
    assert check_pair_or_none(None, "size") is None
    with pytest.raises(ValueError, match=r"size=None must be an integer or \(height, width\)"):
        check_pair(None, "size")


@pytest.mark.parametrize("value", [0, True, 2.0, "ab", (), (3,), (3, 3, 3), (3, 0), (3, 4.0)])
def test_anything_else_is_an_error(value):
    with pytest.raises(ValueError, match=r"size=.* must be .*\(rows, columns\).* at least 1\."):
        check_pair(value, "size", sides="rows, columns")
    with pytest.raises(ValueError, match=r"size=.* must be .* or None"):
        check_pair_or_none(value, "size")


def test_the_least_value_counts_for_both_sides():
    assert check_pair((64, 64), "size", least=64) == (64, 64)
    with pytest.raises(ValueError, match="at least 64"):
        check_pair((64, 63), "size", least=64)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("value", [(70,), (70, 0), (70, 70.0)])
def test_all_who_take_such_a_parameter_say_the_same(user, value):
    with pytest.raises(ValueError, match=r"\w+=\(70,.* must be an integer.*of at least"):
        USERS[user](value)
