"""Images corrupted as on a bad day of a line, and what that does to scores and verdicts."""

from __future__ import annotations

from pyimgano._corruptions import CORRUPTIONS, Corruption
from pyimgano.robustness._benchmark import run_robust_benchmark
from pyimgano.robustness._display import RobustnessDisplay
from pyimgano.robustness._report import robustness_report

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "RobustnessDisplay",
    "robustness_report",
    "run_robust_benchmark",
]
