"""Threads over independent pieces of work, each of which uses one processor core.

Numeric libraries spread single operations over all cores and wait for the slowest after each.
Whole images, or whole blocks of rows, on a core of their own wait for nobody: faster on an idle
machine and many times faster on a busy one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import lru_cache
from threading import Lock
from typing import Any, TypeVar

import joblib
import numpy as np
from sklearn import config_context, get_config
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from threadpoolctl import ThreadpoolController, threadpool_limits

__all__ = [
    "RefCountedSetting",
    "even_slices",
    "limit_threads",
    "map_in_threads",
    "map_on_workers",
    "n_decoding_threads",
    "n_threads",
    "one_blas_thread",
    "prefetch",
]

Item = TypeVar("Item")
Result = TypeVar("Result")


# Set by limit_threads, for all threads of the process: OpenMP's own limit holds in one of them.
_limit: int | None = None


def n_threads() -> int:
    """Cores to use: as many as OpenMP would, hence ``OMP_NUM_THREADS`` where that is set.

    Inside :func:`limit_threads` its number.
    """
    return _limit or _openmp_effective_n_threads()


def n_decoding_threads() -> int:
    """Threads that decode files, which wait for the disk as well: at most 8."""
    return min(_limit or joblib.cpu_count(), 8)


@contextmanager
def limit_threads(n: int | None) -> Iterator[None]:
    """Set the number of threads of everything that runs inside: this package, BLAS, OpenCV.

    Parameters
    ----------
    n : int or None
        At least 1. None changes nothing.
    """
    global _limit
    if n is None:
        yield
        return
    import cv2

    limit, opencv = _limit, cv2.getNumThreads()
    blas = [(library, library.num_threads) for library in _blas_libraries()]
    try:
        _limit = n
        cv2.setNumThreads(n)
        _set_blas_threads((library, n) for library, _ in blas)
        with threadpool_limits(n, user_api="openmp"):
            yield
    finally:
        _limit = limit
        cv2.setNumThreads(opencv)
        _set_blas_threads(blas)


class RefCountedSetting:
    """A setting of the whole process, in force while anyone is inside.

    Threads come and go in any order: the first one in changes the setting, the last one out
    changes it back.

    Parameters
    ----------
    change : callable
        Changes the setting and returns what changes it back.
    """

    def __init__(self, change: Callable[[], Callable[[], Any]]) -> None:
        self._change = change
        self._lock = Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._undo = self._change()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo()


def _one_blas_thread() -> Callable[[], Any]:
    numbers = ((library, library.num_threads) for library in _blas_libraries())
    before = [(library, n) for library, n in numbers if n != 1]  # setting takes long
    _set_blas_threads((library, 1) for library, _ in before)
    return lambda: _set_blas_threads(before)


def _set_blas_threads(numbers: Iterable[tuple[Any, int]]) -> None:
    for library, n in numbers:
        # From 3.8 on threadpoolctl obeys the thread that first set OpenBLAS's number, and
        # silently no other as long as that one lives. Here any thread may be the first in or
        # the last out.
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:
            release(force=True)
        library.set_num_threads(n)
        if release is not None:
            release(force=True)


# BLAS rounds otherwise on another number of threads: what must not depend on the number of
# cores, or on what else is going on, is multiplied in here.
one_blas_thread = RefCountedSetting(_one_blas_thread)


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], n: int
) -> list[Result]:
    """``function`` of each item, in order, on ``n`` threads at once.

    It has to release the interpreter's lock where it works. BLAS uses one thread meanwhile.
    """
    with one_blas_thread:
        if n <= 1:
            return [function(item) for item in items]
        return map_on_workers(function, items, n)


def map_on_workers(
    function: Callable[[Item], Result], items: Iterable[Item], n: int
) -> list[Result]:
    """``function`` of each item, in order, on ``n`` threads that are never the caller's own.

    They are the same ones again and again, and stay: what they keep for themselves (memory,
    settings of libraries) is not set up anew. After an error no item is begun any more; that of
    the first item that has one is raised.
    """
    items = list(items)
    results: list[Any] = [None] * len(items)
    errors: dict[int, BaseException] = {}
    waiting = iter(range(len(items)))  # the interpreter's lock gives each number to one thread

    def stop() -> None:
        for _ in waiting:
            pass

    def work() -> None:
        for i in waiting:
            try:
                results[i] = function(items[i])
            except BaseException as error:
                errors[i] = error
                stop()

    futures: list[Future[None]] = []
    try:
        for _ in range(max(1, min(n, len(items)))):
            futures.append(_threads().submit(work))
        wait(futures)
    finally:  # Ctrl-C as well leaves nothing running behind
        stop()
        wait(futures)
    if errors:
        try:
            raise errors[min(errors)]
        finally:
            errors.clear()  # it refers to itself by way of its traceback, and to all items
    return results


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    # A thread is started only where all others are busy. No limit: those that wait for others
    # would keep them from ever starting.
    return ThreadPoolExecutor(2**16, "pyimgano")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_threads.cache_clear)


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Items as they come, each made while the one before is worked on, if there are two cores.

    They are made in another thread, under scikit-learn's configuration, numpy's error state and the
    context variables of this one.
    """
    if n_threads() == 1:
        yield from items
        return
    iterator, end = iter(items), object()
    config, errors, context = get_config(), np.geterr(), copy_context()

    def advance() -> Any:
        with config_context(**config), np.errstate(**errors):
            return next(iterator, end)

    with ThreadPoolExecutor(1, "pyimgano-ahead") as executor:
        coming: Future[Any] = executor.submit(context.run, advance)
        while (item := coming.result()) is not end:
            coming = executor.submit(context.run, advance)
            yield item


def even_slices(n: int, parts: int) -> list[slice]:
    """Cut ``range(n)``, n >= 1, into at most ``parts`` slices of nearly equal length."""
    parts = max(1, min(n, parts))
    cuts = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:])]


@lru_cache(maxsize=1)
def _blas_libraries() -> list[Any]:
    # Looking for all loaded libraries takes milliseconds; numpy and scipy are loaded by now.
    return ThreadpoolController().select(user_api="blas").lib_controllers
