"""Ranking of training images that do not belong."""

from __future__ import annotations

import numpy as np
import pytest

from pyimgano.cleaning import Suspect, rank_suspects


def test_all_images_come_back_the_most_suspicious_first():
    ranked = rank_suspects([1.0, 3.0, 1.0, 1.2, 0.8, 9.0, 1.0])
    assert [one.index for one in ranked] == [5, 1, 3, 0, 2, 6, 4]  # equal ones in their order
    assert [one.score for one in ranked[:2]] == [9.0, 3.0]
    # The median is 1, the median distance to it 0.2: the threshold is at 1.89.
    assert [one.suspicious for one in ranked] == [True, True, *[False] * 5]


def test_defects_do_not_hide_one_another():
    good = np.random.RandomState(0).normal(10.0, 1.0, size=60)
    ranked = rank_suspects([*good, *np.full(40, 30.0)])
    assert {one.index for one in ranked if one.suspicious} == set(range(60, 100))


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_unit_of_scores_does_not_matter(factor):
    scores = np.random.RandomState(1).gumbel(size=200)
    marked = [one.index for one in rank_suspects(scores) if one.suspicious]
    assert 1 <= len(marked) <= 12  # good images have a tail
    moved = rank_suspects(scores * factor + 7.0)
    assert [one.index for one in moved if one.suspicious] == marked


def test_one_of_equal_scores_stands_out():
    assert rank_suspects([2.0] * 9 + [2.5])[0] == Suspect(9, 2.5, True)
    assert not any(one.suspicious for one in rank_suspects([2.0] * 9))


@pytest.mark.parametrize("scores, message", [([[1.0]], r"\(1, 1\)"), ([], r"\(0,\)")])
def test_what_is_no_list_of_scores_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        rank_suspects(scores)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="index 1"):
        rank_suspects([0.0, np.nan])
