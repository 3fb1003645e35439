"""Work spread over cores: the same results, in order, and errors where they belong."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref

import cv2
import numpy as np
import pytest
import sklearn
from threadpoolctl import threadpool_info, threadpool_limits

from pyimgano.detectors import PatchCoreDetector
from pyimgano.features import FilterBankFeatures
from pyimgano.testing import make_check_images
from pyimgano.utils import _threads
from pyimgano.utils._threads import (
    RefCountedSetting,
    even_slices,
    map_in_threads,
    map_on_workers,
    one_blas_thread,
    prefetch,
)


def test_results_come_in_the_order_of_the_items():
    def slow_when_small(i):
        time.sleep(0.002 * (5 - i))
        return i * i

    for n in (1, 2, 4):
        assert map_in_threads(slow_when_small, range(5), n) == [0, 1, 4, 9, 16]


def test_blas_uses_one_thread_inside_and_its_own_number_afterwards():
    def blas_threads(_=None):
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before = blas_threads()
    assert all(set(found) == {1} for found in map_in_threads(blas_threads, range(3), 2))
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
    held = blas_threads()  # 1 in a library that was built for one thread
    assert max(held) == 2
    assert ask_in_another_thread() == {1}
    assert blas_threads() == held
    limit.restore_original_limits()
    with threadpool_limits(2, user_api="blas"):
        assert ask_in_another_thread() == {1}
    assert blas_threads() == before


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda i: 1 // i, [1, 0, 1], 2)


@pytest.mark.parametrize(("n", "parts"), [(10, 3), (2, 5), (1, 1), (7, 7), (100, 1)])
def test_ranges_cover_everything_once_in_nearly_equal_parts(n, parts):
    cut = even_slices(n, parts)
    assert [i for part in cut for i in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in cut]
    assert len(cut) == min(n, parts)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("cores", [1, 2])
def test_ahead_gives_all_items_and_is_one_ahead_with_two_cores(cores, monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: cores)
    begun = []
    wanted = threading.Event()

    def items():
        for i in range(4):
            begun.append(i)
            if i == 2:
                wanted.set()
            yield i

    got = []
    for item in prefetch(items()):
        if item == 1 and cores == 2:
            assert wanted.wait(5)  # the next one is being made meanwhile
        assert begun[-1] <= item + cores - 1
        got.append(item)
    assert got == [0, 1, 2, 3]


@pytest.mark.parametrize("cores", [1, 2])
def test_ahead_passes_an_error_on_after_the_items_before_it(cores, monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: cores)

    def items():
        yield 1
        raise KeyError("broken")

    seen = prefetch(items())
    assert next(seen) == 1
    with pytest.raises(KeyError, match="broken"):
        next(seen)


def test_ahead_makes_items_under_the_callers_configuration(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)

    def items():
        for _ in range(2):
            yield sklearn.get_config()["assume_finite"], np.geterr()["over"]

    with sklearn.config_context(assume_finite=True), np.errstate(over="raise"):
        assert list(prefetch(items())) == [(True, "raise")] * 2
    assert list(prefetch(items())) == [(False, "warn")] * 2


def test_ahead_may_be_left_early(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    source = items()
    for item in prefetch(source):
        if item == 3:
            break
    source.close()
    assert closed == [True]


class Watched(FilterBankFeatures):
    """Says which block of images it is asked for."""

    asked: list = []

    def _extract(self, images):
        self.asked.append(threading.Event())
        self.asked[-1].set()
        return super()._extract(images)


def test_detectors_work_ahead_while_they_score(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)
    images = make_check_images(12)
    detector = PatchCoreDetector(Watched(resize=32, batch_size=4)).fit(images)
    score, ahead_of = detector._score, []

    def slowly(block, own):
        deadline = time.monotonic() + (0.05 if ahead_of else 5)  # there are two blocks
        while len(Watched.asked) < len(ahead_of) + 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        ahead_of.append(len(Watched.asked) - len(ahead_of) - 1)
        return score(block, own)

    Watched.asked.clear()
    monkeypatch.setattr(detector, "_score", slowly)
    detector.score_samples(images[:8])
    assert ahead_of == [1, 0]  # the second block was there before the first one was scored


def test_threads_are_used_again_and_are_never_the_callers():
    used = set()
    for _ in range(100):
        used |= set(map_on_workers(lambda _: threading.get_ident(), range(6), 3))
    assert len(used) < 30  # a thread that is just done may come too late for the next round
    assert threading.get_ident() not in used
    assert (
        map_in_threads(lambda _: threading.get_ident(), range(2), 1) == [threading.get_ident()] * 2
    )


def test_threads_may_wait_for_threads():
    def outer(i):
        return sum(map_on_workers(lambda j: i * j, range(5), 2))

    assert map_on_workers(outer, range(20), 8) == [10 * i for i in range(20)]


def test_nothing_is_begun_after_an_error_and_the_first_one_is_raised():
    begun = []

    def fail(i):
        begun.append(i)
        time.sleep(0.02 * (2 - i))
        raise KeyError(i)

    with pytest.raises(KeyError, match="0"):
        map_on_workers(fail, range(10), 2)
    assert sorted(begun) == [0, 1]
    assert map_on_workers(abs, [-1, -2], 2) == [1, 2]


def test_no_work_goes_on_where_threads_cannot_be_had(monkeypatch):
    pool, started, done = _threads._threads(), [], []

    class Few:
        def submit(self, work):
            if started:
                raise RuntimeError("can't start new thread")
            started.append(pool.submit(work))
            return started[0]

    monkeypatch.setattr(_threads, "_threads", Few)
    with pytest.raises(RuntimeError, match="new thread"):
        map_on_workers(lambda i: (time.sleep(0.01), done.append(i)), range(50), 2)
    before = len(done)
    time.sleep(0.05)
    assert len(done) == before < 50


def test_an_error_leaves_nothing_behind():
    class Item:
        pass

    item = Item()
    gone = weakref.ref(item)
    gc.disable()
    try:
        with pytest.raises(AttributeError):
            map_on_workers(lambda one: one.missing, [item], 2)
        del item
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_threads_of_its_own():
    assert map_on_workers(abs, [-1, -2], 2) == [1, 2]
    child = os.fork()
    if child == 0:  # it must leave without pytest's own cleaning up
        os._exit(0 if map_on_workers(abs, [-3, -4], 2) == [3, 4] else 1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the forked process waited for threads it does not have")
    assert status == 0


def test_overlapping_users_leave_a_shared_setting_as_it_was():
    log = []

    def change():
        log.append("changed")
        return lambda: log.append("undone")

    shared, inside = RefCountedSetting(change), threading.Barrier(2)

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


def test_weight_free_features_are_the_same_whatever_else_goes_on():
    images = make_check_images(6)
    step = FilterBankFeatures(resize=64).fit(images)
    quiet = step.transform(images).rows
    stop = threading.Event()

    def keep_changing_the_limit():
        while not stop.is_set():
            map_in_threads(lambda _: time.sleep(0.001), range(2), 2)

    other = threading.Thread(target=keep_changing_the_limit)
    other.start()
    try:
        for _ in range(5):
            np.testing.assert_array_equal(step.transform(images).rows, quiet)
    finally:
        stop.set()
        other.join()


def test_a_score_is_the_same_in_any_batch_on_two_cores():
    images, new = make_check_images(12), make_check_images(16, random_state=3)
    detector = PatchCoreDetector(FilterBankFeatures(resize=128)).fit(images)
    together = detector.score_samples(new)
    alone = np.concatenate([detector.score_samples(new[i : i + 1]) for i in range(16)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(detector.score_samples(new), together)


def test_a_limit_of_threads_holds_in_every_thread_and_ends():
    def found():
        blas = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        return _threads.n_threads(), _threads.n_decoding_threads(), cv2.getNumThreads(), *blas

    before = found()
    with _threads.limit_threads(3):
        assert set(found()) == {3}
        assert map_on_workers(lambda _: _threads.n_threads(), range(2), 2) == [3, 3]
        with one_blas_thread:
            pass
        assert set(found()) == {3}
    assert found() == before
    with _threads.limit_threads(None):
        assert found() == before
    with pytest.raises(ZeroDivisionError), _threads.limit_threads(2):
        raise ZeroDivisionError
    assert found() == before
