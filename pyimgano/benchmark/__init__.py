"""A whole benchmark in one call: fit on good parts, judge the test set, write a report."""

from __future__ import annotations

from pyimgano.benchmark._benchmark import BenchmarkResult, run_benchmark
from pyimgano.benchmark._run_dir import RunDirectory

__all__ = ["BenchmarkResult", "RunDirectory", "run_benchmark"]
