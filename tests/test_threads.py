"""Work spread over cores: the same results, in order, and errors where they belong."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pyimgano.detectors import PatchCoreDetector
from pyimgano.utils._threads import Shared, in_threads, one_blas_thread, ranges
from pyimgano.utils.estimator_checks import make_check_images


def test_results_come_in_the_order_of_the_items():
    def slow_when_small(i):
        time.sleep(0.002 * (5 - i))
        return i * i

    for n in (1, 2, 4):
        assert in_threads(slow_when_small, range(5), n) == [0, 1, 4, 9, 16]


def test_blas_uses_one_thread_inside_and_its_own_number_afterwards():
    def blas_threads(_=None):
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before = blas_threads()
    assert all(set(found) == {1} for found in in_threads(blas_threads, range(3), 2))
    assert blas_threads() == before


def test_blas_uses_one_thread_whichever_thread_asks_and_whoever_asked_before():
    def blas_threads():
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    def ask_in_another_thread():
        found = []

        def ask():
            with one_blas_thread:
                found.extend(blas_threads())

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return set(found)

    before = blas_threads()
    with one_blas_thread:
        pass
    assert ask_in_another_thread() == {1}
    limit = threadpool_limits(2, user_api="blas")  # this thread keeps hold of BLAS's number
    assert ask_in_another_thread() == {1}
    assert set(blas_threads()) == {2}
    limit.restore_original_limits()
    with threadpool_limits(2, user_api="blas"):
        assert ask_in_another_thread() == {1}
    assert blas_threads() == before


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda i: 1 // i, [1, 0, 1], 2)


@pytest.mark.parametrize(("n", "parts"), [(10, 3), (2, 5), (1, 1), (7, 7), (100, 1)])
def test_ranges_cover_everything_once_in_nearly_equal_parts(n, parts):
    cut = ranges(n, parts)
    assert [i for part in cut for i in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in cut]
    assert len(cut) == min(n, parts)
    assert max(sizes) - min(sizes) <= 1


def test_overlapping_users_leave_a_shared_setting_as_it_was():
    log = []

    def change():
        log.append("changed")
        return lambda: log.append("undone")

    shared, inside = Shared(change), threading.Barrier(2)

    def use(wait):
        with shared:
            inside.wait(5)  # both are inside
            if wait:
                first.join(5)  # and this one leaves last

    first = threading.Thread(target=use, args=(False,))
    second = threading.Thread(target=use, args=(True,))
    first.start()
    second.start()
    second.join(5)
    assert log == ["changed", "undone"]
    with shared:
        assert log == ["changed", "undone", "changed"]
    assert log[-1] == "undone"


def test_a_score_is_the_same_in_any_batch_on_two_cores():
    images, new = make_check_images(12), make_check_images(16, random_state=3)
    detector = PatchCoreDetector("filterbank").fit(images)
    together = detector.score_samples(new)
    alone = np.concatenate([detector.score_samples(new[i : i + 1]) for i in range(16)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(detector.score_samples(new), together)
