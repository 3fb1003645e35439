"""A whole benchmark in one call: fit on good parts, judge the test set, write a report."""

from __future__ import annotations

from pyimgano.benchmark._benchmark import BenchmarkResult, run_benchmark
from pyimgano.benchmark._compare import compare_runs
from pyimgano.benchmark._run_dir import RunDirectory, json_schema

__all__ = [
    "BenchmarkResult",
    "RunDirectory",
    "compare_runs",
    "json_schema",
    "run_benchmark",
]
