"""TrainingStream: one pass that learns which samples belong together, and replays after it."""

from __future__ import annotations

import numpy as np
import pytest

from pyimgano._training import SampleKey, TrainingStream


def stream_of(*blocks):
    """A stream over blocks of (image, tile), whose values are the blocks' numbers."""
    passes = []

    def read_blocks():
        passes.append(len(passes))
        for number, block in enumerate(blocks):
            yield number, [SampleKey(image, tile) for image, tile in block]

    return TrainingStream(read_blocks, sum(map(len, blocks))), passes


def test_samples_of_equal_images_are_one_group():
    stream, _ = stream_of([(b"a", 0), (b"a", 1)], [(b"b", 0), (b"b", 1), (b"a", 0)], [(b"a", 1)])
    assert stream.n_samples == 6
    assert list(stream) == [0, 1, 2]
    # The third image equals the first: its tiles have the first one's group and are its copies.
    np.testing.assert_array_equal(stream.group_of, [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(stream.duplicate_of, [0, 1, 2, 3, 0, 1])
    np.testing.assert_array_equal(stream.groups_since(3), [1, 0, 0])
    assert stream.group_of_image == {b"a": 0, b"b": 1}


def test_a_second_pass_is_an_error_that_names_the_way_out():
    stream, _ = stream_of([(b"a", 0)], [(b"b", 0)])
    for _ in stream:
        break  # a pass that was begun counts
    with pytest.raises(RuntimeError, match=r"use replay\(\) for another pass"):
        iter(stream)


def test_replay_repeats_the_blocks_and_leaves_the_groups_alone():
    stream, passes = stream_of([(b"a", 0)], [(b"b", 0), (b"a", 0)])
    first = list(stream)
    groups = stream.group_of
    assert list(stream.replay()) == list(stream.replay()) == first == [0, 1]
    assert len(passes) == 3  # the samples are read anew each time
    np.testing.assert_array_equal(stream.group_of, groups)
