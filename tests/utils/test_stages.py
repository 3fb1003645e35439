"""Time per image in each stage, and its limit."""

from __future__ import annotations

import time

import pytest

from pyimgano.utils._stages import StageTimes, TimeLimitError, time_limit, timed
from pyimgano.utils._threads import limit_threads, prefetch


def test_percentiles_are_of_the_time_per_image():
    times = StageTimes()
    for milliseconds, n_images in ((8.0, 90), (40.0, 10)):
        times._add("score", 1e-3 * milliseconds * n_images, n_images)
    row = times.summary()["score"]
    assert row["n_images"] == 100 and row["mean_ms"] == pytest.approx(11.2)
    assert row["p50_ms"] == pytest.approx(8.0, rel=0.01)
    assert row["p95_ms"] == row["p99_ms"] == pytest.approx(40.0, rel=0.01)
    assert list(times.summary()) == ["score"]


def test_a_stage_inside_another_counts_for_itself_in_any_thread():
    times = StageTimes()

    def blocks():
        for _ in range(2):
            with timed("features"), timed("load"):
                time.sleep(0.03)
            yield

    with limit_threads(2), times.unit(2):
        for _ in prefetch(blocks()):
            with timed("score"):
                pass
    found = times.summary()
    assert found["load"]["seconds"] >= 0.06 > 0.03 > found["features"]["seconds"]
    with timed("save"):  # of no unit
        pass
    assert times.summary() == found


def test_a_time_limit_is_looked_at_between_stages():
    with time_limit(60), timed("load"):
        pass
    with pytest.raises(TimeLimitError), time_limit(0.01), timed("load"):
        time.sleep(0.02)
    with timed("load"):  # it is over
        pass
