"""Kill a benchmark at random moments, resume it each time, and compare its report.

A run of several categories is started in a process of its own, killed with SIGKILL after a random
time and resumed, as often as asked for; then it is left to finish. Its files have to equal those
of a run that nobody disturbed, but for times::

    python benchmarks/kill_and_resume.py --kills 10

The exit status is 1 if they do not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyimgano.datasets import write_inspection_dataset

CATEGORIES = ("brushed_metal", "printed_grid", "terrazzo", "wood", "woven_fabric")


def main() -> int:
    """Run the experiment; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=96)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # also into a file
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        for name in CATEGORIES:
            write_inspection_dataset(
                root, name, n_train=20, n_test_good=8, n_test_defect=8, size=options.size,
                random_state=0,
            )  # fmt: skip
        started = time.perf_counter()
        finish(start(root, Path(folder) / "undisturbed", options))
        whole = time.perf_counter() - started
        print(f"undisturbed: {whole:.1f} s")
        killed = Path(folder) / "killed-1"
        moments = random.Random(options.seed)
        n_kills, n_runs, n_complete = 0, 1, []
        while n_kills < options.kills:
            process = start(root, killed, options)
            # Some die before their first file, some in the middle of a category.
            try:
                process.wait(moments.uniform(0.1, 0.5) * whole)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                n_kills += 1
                n_complete.append(len(list(killed.glob("*/categories/*/report.json"))))
            else:
                if process.returncode:
                    raise SystemExit(f"a resumed run ended with {process.returncode}")
                # It is complete: what is left of the kills goes to a run that begins anew.
                same = files_of(killed) == files_of(Path(folder) / "undisturbed")
                print(f"complete after {n_kills} kills: {'equal' if same else 'DIFFERENT'}")
                if not same:
                    return 1
                n_runs += 1
                killed = Path(folder) / f"killed-{n_runs}"
        finish(start(root, killed, options))
        print(f"complete categories after each of {n_kills} kills: {n_complete}")
        same = files_of(killed) == files_of(Path(folder) / "undisturbed")
        print("equal but for times" if same else "DIFFERENT")
        return 0 if same else 1


def start(root: Path, output: Path, options: argparse.Namespace) -> subprocess.Popen:
    """Start or resume a run."""
    command = [
        *(sys.executable, "-m", "pyimgano", "benchmark", "--dataset", "folder", "--root", root),
        *("--category", "all", "--model", "industrial-fast-filterbank", "--quantile", "0.9"),
        *("--resize", str(options.size), "--output-dir", output, "--resume"),
    ]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([str(one) for one in command], stdout=quiet, stderr=quiet)


def finish(process: subprocess.Popen) -> None:
    """Wait for a run to come to its end."""
    if process.wait():
        raise SystemExit(f"a run ended with {process.returncode}")


def files_of(output: Path) -> dict[str, object]:
    """Read the files of the complete run: JSON without times, pictures, of others the names."""
    (report,) = output.glob("*/report.json")
    found: dict[str, object] = {}
    for file in sorted(report.parent.rglob("*")):
        name = file.relative_to(report.parent).as_posix()
        if file.suffix in (".json", ".jsonl") and ".joblib" not in name:
            content = (
                [json.loads(line) for line in file.read_text().splitlines()]
                if (file.suffix == ".jsonl")
                else json.loads(file.read_text())
            )
            if isinstance(content, dict):
                content.pop("times", None)
            found[name] = content
        elif file.is_file():
            found[name] = file.read_bytes() if file.suffix == ".png" else None
    return found


if __name__ == "__main__":
    sys.exit(main())
