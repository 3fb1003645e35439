"""Time of work and of compilation, apart."""

from __future__ import annotations

import time
from threading import Thread

import numba
import pytest

from pyimgano.utils._stopwatch import Stopwatch


def compiled_anew():
    def total(n):
        s = 0
        for k in range(n):
            s += k
        return s

    return numba.njit(nogil=True)(total)


def test_compilation_counts_apart():
    function = compiled_anew()
    started = time.perf_counter()
    with Stopwatch() as watch:
        assert function(5) == 10
    elapsed = time.perf_counter() - started
    assert watch.compile_seconds > 0 and watch.seconds >= 0
    assert watch.seconds + watch.compile_seconds <= elapsed
    with Stopwatch() as again:
        assert function(6) == 15
    assert again.compile_seconds == 0 and again.seconds > 0


def test_compilation_in_another_thread_counts_too():
    thread = Thread(target=compiled_anew(), args=(5,))
    with Stopwatch() as watch:
        thread.start()
        thread.join()
    assert watch.compile_seconds > 0


def test_error_leaves_no_listener_behind():
    with pytest.raises(KeyError), Stopwatch() as watch:
        raise KeyError
    assert watch.seconds >= 0
    before = watch.compile_seconds
    compiled_anew()(5)
    assert watch.compile_seconds == before == 0
