"""Time that images take in each stage of inference, and a limit to it.

Code that does a stage's work runs inside :func:`timed`. Outside of :meth:`StageTimes.unit` and
:func:`time_limit` that does nothing.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import numpy as np

__all__ = ["STAGES", "StageTimes", "TimeLimitError", "time_limit", "timed"]

#: The stages, in their order.
STAGES = ("load", "preprocess", "features", "score", "postprocess", "save")

# Histograms over the logarithm: 1 microsecond to a day in steps of 2 %, whatever comes in.
_SHORTEST, _STEP = 1e-6, math.log(1.02)
_N_BINS = math.ceil(math.log(86400 / _SHORTEST) / _STEP)


class TimeLimitError(Exception):
    """The time limit is over; no SampleError, so that nothing takes it for one and goes on."""


class _Unit:
    """Seconds of each stage for a few images that go through the stages together."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()  # the next block's features are computed in another thread

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] += seconds


_unit: ContextVar[_Unit | None] = ContextVar("unit", default=None)
# Seconds of the stages inside the one that is running in this thread.
_inside: ContextVar[list[float] | None] = ContextVar("inside", default=None)
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Count the time of the block for a stage, less that of stages inside it.

    Parameters
    ----------
    stage : str
        One of ``STAGES``.

    Raises
    ------
    TimeLimitError
        If the limit of :func:`time_limit` is over, before or after the block.
    """
    unit, deadline = _unit.get(), _deadline.get()
    if unit is None and deadline == math.inf:
        yield
        return
    _check(deadline)
    inside = [0.0]
    token = _inside.set(inside)
    started = time.perf_counter()
    try:
        yield
    finally:
        elapsed = time.perf_counter() - started
        _inside.reset(token)
        outer = _inside.get()
        if outer is not None:
            outer[0] += elapsed
        if unit is not None:
            unit.add(stage, elapsed - inside[0])
    _check(deadline)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the wall time of a block, as far as it has stages: one that runs is not cut short.

    Parameters
    ----------
    seconds : float

    Raises
    ------
    TimeLimitError
        At the beginning or the end of the first stage after that time.
    """
    token = _deadline.set(time.perf_counter() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def _check(deadline: float) -> None:
    if time.perf_counter() > deadline:
        raise TimeLimitError


class StageTimes:
    """Percentiles of the time per image in each stage, in memory that does not grow."""

    def __init__(self) -> None:
        self._counts = {stage: np.zeros(_N_BINS, dtype=np.int64) for stage in STAGES}
        self._totals = dict.fromkeys(STAGES, 0.0)
        self._lock = Lock()

    @contextmanager
    def unit(self, n_images: int) -> Iterator[None]:
        """Take the block's stages for those of ``n_images`` images, in equal parts.

        Parameters
        ----------
        n_images : int
        """
        unit = _Unit()
        token = _unit.set(unit)
        try:
            yield
        finally:
            _unit.reset(token)
            for stage, seconds in unit.seconds.items():
                self._add(stage, seconds, n_images)

    def _add(self, stage: str, seconds: float, n_images: int) -> None:
        per_image = max(seconds / n_images, _SHORTEST)
        at = min(int(math.log(per_image / _SHORTEST) / _STEP), _N_BINS - 1)
        with self._lock:
            self._counts[stage][at] += n_images
            self._totals[stage] += seconds

    def summary(self) -> dict[str, dict[str, float]]:
        """Summarize the stages that there were.

        Returns
        -------
        dict
            For each stage ``n_images``, ``seconds`` in all, ``mean_ms``, and the percentiles
            ``p50_ms``, ``p95_ms`` and ``p99_ms`` of the time per image, true to 1 %.
        """
        found = {}
        for stage, counts in self._counts.items():
            n = int(counts.sum())
            if not n:
                continue
            seconds = self._totals[stage]
            row = {"n_images": n, "seconds": seconds, "mean_ms": 1e3 * seconds / n}
            cumulative = np.cumsum(counts)
            for percent in (50, 95, 99):
                at = int(np.searchsorted(cumulative, n * percent / 100))
                row[f"p{percent}_ms"] = 1e3 * _SHORTEST * math.exp((at + 0.5) * _STEP)
            found[stage] = row
        return found
