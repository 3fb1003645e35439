"""The file of figures that README and documentation quote from, written by the benchmarks."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyimgano import __version__

FIGURES = Path(__file__).with_name("figures.json")


def add_figures_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--figures",
        type=Path,
        nargs="?",
        const=FIGURES,
        metavar="FILE",
        help="write mean and range to FILE (default: benchmarks/figures.json) as well",
    )


def read(path: Path = FIGURES) -> dict[str, dict[str, Any]]:
    """The records by key, in the order of their keys; none where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record(path: Path, key: str, rows: Sequence[Mapping[str, float]]) -> None:
    """Put the runs of one setting, one row of named values each, under `key` into the file."""
    values = {name: [row[name] for row in rows] for name in rows[0]}
    records = read(path)
    records[key] = {
        "command": _command(),
        "runs": len(rows),
        "date": datetime.date.today().isoformat(),
        "version": __version__,
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "values": {
            name: {
                "mean": round(float(np.mean(numbers)), 4),
                "min": round(float(np.min(numbers)), 4),
                "max": round(float(np.max(numbers)), 4),
                "std": round(float(np.std(numbers)), 4),
            }
            for name, numbers in values.items()
        },
    }
    text = json.dumps(dict(sorted(records.items())), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _command() -> str:
    """The command line as typed, with paths shortened to their last part and the root to ROOT."""
    script, _, *rest = sys.argv
    names = [Path(word).name if os.sep in word else word for word in rest]
    if "--figures" in names:
        at = names.index("--figures")
        given = names[at + 1 : at + 2]
        del names[at : at + 1 + bool(given and not given[0].startswith("--"))]
    return " ".join(["python", f"benchmarks/{Path(script).name}", "ROOT", *names])
