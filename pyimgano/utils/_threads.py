"""Threads over independent pieces of work, each of which uses one processor core.

Numeric libraries spread single operations over all cores and wait for the slowest after each.
Whole images, or whole blocks of rows, on a core of their own wait for nobody: faster on an idle
machine and many times faster on a busy one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from threadpoolctl import ThreadpoolController

__all__ = ["ahead", "in_threads", "n_threads", "ranges"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def n_threads() -> int:
    """Cores to use: what OpenMP would, hence ``OMP_NUM_THREADS`` where that is set."""
    return _openmp_effective_n_threads()


def in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    n: int,
    *,
    begin: Callable[[], Any] | None = None,
) -> list[Result]:
    """``function`` of each item, in order, on ``n`` threads at once.

    It has to release the interpreter's lock where it works. BLAS uses one thread meanwhile.
    ``begin`` is called first in every thread.
    """
    if n <= 1:
        return [function(item) for item in items]
    with (
        _libraries().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(n, "pyimgano", begin) as pool,
    ):
        return list(pool.map(function, items))


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Items as they come, each made while the one before is worked on, if there are two cores."""
    if n_threads() == 1:
        yield from items
        return
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "pyimgano-ahead") as executor:
        coming: Future[Any] = executor.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = executor.submit(next, iterator, end)
            yield item


def ranges(n: int, parts: int) -> list[slice]:
    """Cut ``range(n)`` into at most ``parts`` slices of nearly equal length, none empty."""
    parts = max(1, min(n, parts))
    cuts = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:])]


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    # Looking for all loaded libraries takes milliseconds; numpy and scipy are loaded by now.
    return ThreadpoolController()
