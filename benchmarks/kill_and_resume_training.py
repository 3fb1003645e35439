"""Kill a training at random moments, resume it each time, and compare its scores.

``pyimgano train --recipe micro-finetune`` is started in a process of its own, killed with SIGKILL
a random time after one of its next checkpoints and resumed, as often as asked for; then it is left
to finish. Its files have to
equal those of a run that nobody disturbed, but for times: the score of each test image, the
thresholds, the defects and the pictures::

    python benchmarks/kill_and_resume_training.py --kills 5
    python benchmarks/kill_and_resume_training.py --root bottle --weights resnet18.pth --size 128

Without ``--root`` the images are synthetic, and without ``--weights`` the teacher is random. The
exit status is 1 if the runs differ.
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

import numpy as np
from kill_and_resume import files_of, finish

from pyimgano.datasets import write_inspection_dataset


def main() -> int:
    """Run the experiment; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="folder of a category; synthetic images without it")
    parser.add_argument("--model", default="vision_stfpm")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # also into a file
    with tempfile.TemporaryDirectory() as folder:
        if options.root is None:
            options.root = Path(folder) / "data" / "wood"
            write_inspection_dataset(
                options.root.parent, "wood", n_train=40, n_test_good=8, n_test_defect=8,
                size=options.size, random_state=0,
            )  # fmt: skip
        started = time.perf_counter()
        finish(start(Path(folder) / "undisturbed", options))
        whole = time.perf_counter() - started
        print(f"undisturbed: {whole:.1f} s")
        killed, n_kills = Path(folder) / "killed", 0
        moments = random.Random(options.seed)
        while n_kills < options.kills:
            process = start(killed, options)
            if not wait_for_checkpoints(process, killed, moments.randint(1, 2)):
                if process.returncode:
                    raise SystemExit(f"a resumed run ended with {process.returncode}")
                break
            time.sleep(moments.uniform(0, 0.5))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            n_kills += 1
            print(f"kill {n_kills}: after {n_steps(killed)} of {options.steps} steps")
        finish(start(killed, options))
        one, two = files_of(killed), files_of(Path(folder) / "undisturbed")
        differing = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
        n_scores = len(one["artifacts/per_image.jsonl"])
        print(f"{n_scores} scores and all else: {differing or 'equal but for times'}")
        for name in differing[:3]:
            print(f"{name}: {one.get(name)!s:.600}\n{two.get(name)!s:.600}")
        return 1 if differing else 0


def wait_for_checkpoints(process: subprocess.Popen, output: Path, number: int) -> bool:
    """Wait until so many checkpoints have been written; False if the run has ended before."""
    seen = set(written(output))
    n_before = len(seen)
    while process.poll() is None:
        seen.update(written(output))
        if len(seen) - n_before >= number:
            return True
        time.sleep(0.01)
    return False


def written(output: Path) -> list[int]:
    """When each checkpoint was written."""
    return [path.stat().st_mtime_ns for path in output.glob("*/checkpoints/*.npz")]


def n_steps(output: Path) -> int:
    """Steps that the last checkpoint of a run has."""
    (path,) = output.glob("*/checkpoints/*.npz")
    with np.load(path) as file:
        return int(json.loads(bytes(file["about"]))["steps"])


def start(output: Path, options: argparse.Namespace) -> subprocess.Popen:
    """Start or resume a run."""
    command = [
        *(sys.executable, "-m", "pyimgano", "train", "--recipe", "micro-finetune"),
        *("--dataset", "folder", "--root", options.root, "--output-dir", output, "--resume"),
        *("--model", options.model, "--features", "resnet18", "--weights", options.weights),
        *("--resize", options.size, "--set", "batch_size=4", "--quantile", "0.8"),
        *("--recipe-option", f"max_steps={options.steps}", "--checkpoint-every", options.every),
    ]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([str(one) for one in command], stdout=quiet, stderr=quiet)


if __name__ == "__main__":
    sys.exit(main())
