"""Figures that pages quote come from one file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITH_UNITS = (
    "CPU s",
    "good images",
    "held out",
    "fit CPU s",
    "last rank",
    "ms/image",
    "peak MiB",
    "seconds",
)
FIGURES = json.loads((ROOT / "benchmarks" / "figures.json").read_text(encoding="utf-8"))


def test_tables_of_readme_and_documentation_are_those_of_the_file_of_figures():
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_figure_says_how_it_was_measured():
    for key, record in FIGURES.items():
        script, category, *_ = key.split("/")
        assert record["command"].startswith(f"python benchmarks/{script.replace(' ', '_')}"), key
        assert category in record["command"], key
        assert record["runs"] >= 1 and record["date"] and record["machine"], key
        for name, value in record["values"].items():
            top = float("inf") if name in WITH_UNITS else 1  # all others are shares
            assert 0 <= value["min"] <= value["mean"] <= value["max"] <= top, key
