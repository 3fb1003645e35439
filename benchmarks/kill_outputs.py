"""End ``infer``, ``benchmark`` and ``save`` at random moments, and look at what they leave.

Each program runs over and over in processes of its own, and replaces a complete result of an
earlier run: records with maps and pictures, run directories, a saved pipeline. At a random moment
it is ended by ``kill -9`` or by SIGTERM, or its disk is full after a random number of bytes. Then
every file under a final name must be whole, the last complete result must be there (the earlier
one, or the new one), and the program must run through when it is called again.

The full disk is a file system in memory of a few megabytes, which needs Linux and the right to
mount one; without it the script starts itself anew in a name space where it has that right.

    python benchmarks/kill_outputs.py                       # 30 moments each, about 10 minutes
    python benchmarks/kill_outputs.py --moments 5 --program save
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import cv2
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.benchmark import RunDirectory
from pyimgano.cli import benchmark as benchmark_command
from pyimgano.cli import infer as infer_command
from pyimgano.datasets import load_folder, write_inspection_dataset
from pyimgano.features import FilterBankFeatures
from pyimgano.utils._outputs import is_out_of_room

HEADINGS = [
    *("program", "event", "moments", "ended early", "half or lost", "rerun failed", ".part left"),
    "exit statuses (- = signal)",
]
EVENTS = ("kill -9", "SIGTERM", "full disk")
PAGE = 4096
SIDE, N_TRAIN = 64, 12
N_OVERLAYS = 3


class Broken(Exception):
    """A result is not as it must be; the message says which file and why."""


# ---- processes ------------------------------------------------------------------------
def in_process(job: Callable[[], int], log: Path, ready: int | None = None) -> int:
    """Start a process that runs ``job``; its exit status is what ``job`` returns."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if ready is not None:
            os.write(ready, b".")
        status = job()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(child: int, seconds: float) -> str:
    """Wait until a process has ended; say how it did."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


def run(job: Callable[[], int], log: Path, seconds: float = 120) -> str:
    """Run a job in a process to its end."""
    return wait_for(in_process(job, log), seconds)


def run_timed(job: Callable[[], int], log: Path, place: Path) -> tuple[str, float, float, int]:
    """Run a job; say when it began to write, in seconds, when it ended, and most pages it used."""
    before = most = used_pages(place)
    started = time.monotonic()
    child = in_process(job, log)
    begun = None
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        now = time.monotonic() - started
        if begun is None and next(place.rglob("*.part"), None) is not None:
            begun = now
        most = max(most, used_pages(place))
        if found:
            return str(os.waitstatus_to_exitcode(status)), begun or 0.0, now, most - before
        time.sleep(0.001)


def run_on_full_disk(job: Callable[[], int], log: Path, place: Path, pages: int) -> str:
    """Run a job while so many pages are free where it writes."""
    ballast = place / "ballast"
    with open(ballast, "wb") as file:
        file.write(bytes(PAGE) * max(0, os.statvfs(place).f_bfree - pages))
    status = run(job, log)
    ballast.unlink()
    return status


def run_until(job: Callable[[], int], log: Path, delay: float, number: int) -> str:
    """Run a job, and send it a signal after a while."""
    told, tell = os.pipe()
    child = in_process(job, log, tell)
    os.read(told, 1)
    os.close(told)
    os.close(tell)
    time.sleep(delay)
    os.kill(child, number)
    return wait_for(child, 60)


# ---- programs -------------------------------------------------------------------------
class Program:
    """A program that writes, and what its results must be.

    Parameters
    ----------
    inputs : Path
        Folder with the data set and a saved pipeline.
    place : Path
        Folder for its outputs.
    """

    stopped = "4"  # exit status of a full disk

    def __init__(self, inputs: Path, place: Path) -> None:
        self.inputs, self.place = inputs, place

    def earlier(self) -> int:
        """Make the earlier result."""
        raise NotImplementedError

    def job(self) -> int:
        """Make the new result in its place."""
        raise NotImplementedError

    def check(self) -> bool:
        """Look at all files under final names; tell whether the new result is complete."""
        raise NotImplementedError

    def forget_new(self) -> None:
        """Take what there is for earlier results."""


class Infer(Program):
    def call(self, which: str) -> int:
        return infer_command.main(
            [
                *("--pipeline", str(self.inputs / "line3.joblib"), "--input", which),
                *("--save-jsonl", str(self.place / "verdicts.jsonl"), "--save-npy"),
                *("--save-csv", str(self.place / "verdicts.csv")),
                *("--save-maps", str(self.place / "maps")),
            ]
        )

    def earlier(self) -> int:
        return self.call(str(self.inputs / "data" / "wood" / "test" / "good"))

    def job(self) -> int:
        return self.call(str(self.inputs / "data" / "wood" / "test"))

    def check(self) -> bool:
        n_good, n_all = (
            len(list((self.inputs / "data" / "wood" / "test").glob(pattern)))
            for pattern in ("good/*.png", "*/*.png")
        )
        lines = (self.place / "verdicts.jsonl").read_text().splitlines()
        *records, last = map(json.loads, lines)
        if not last.get("complete") or last["n_images"] != len(records):
            raise Broken("verdicts.jsonl is not complete")
        if len(records) not in (n_good, n_all):
            raise Broken(f"verdicts.jsonl holds {len(records)} records")
        rows = (self.place / "verdicts.csv").read_text().splitlines()
        if len(rows) - 1 not in (n_good, n_all):
            raise Broken(f"verdicts.csv holds {len(rows) - 1} rows")
        for path in (self.place / "maps").rglob("*.npy"):
            if np.load(path).shape != (SIDE, SIDE):
                raise Broken(f"{path} is no map")
        for path in (self.place / "maps").rglob("*.png"):
            content = path.read_bytes()
            if not content.endswith(b"IEND\xaeB`\x82") or _picture(content) is None:
                raise Broken(f"{path} is no picture")
        return len(records) == n_all


class Benchmark(Program):
    def __init__(self, inputs: Path, place: Path) -> None:
        super().__init__(inputs, place)
        self.before: dict[str, str] = {}
        self.known: set[Path] = set()

    def job(self) -> int:
        return benchmark_command.main(
            [
                *("--dataset", "folder", "--root", str(self.inputs / "data")),
                *("--set", "coreset_ratio=0.02", "--resize", str(SIDE), "--quantile", "0.9"),
                *("--output-dir", str(self.place), "--overlays", str(N_OVERLAYS)),
            ]
        )

    earlier = job

    def check(self) -> bool:
        (first, *others) = sorted(path for path in self.place.iterdir() if path.is_dir())
        hashes = {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in first.rglob("*")
            if path.is_file()
        }
        self.before = self.before or hashes
        if hashes != self.before:
            raise Broken("the earlier run has changed")
        return [_check_run(path) for path in others if path not in self.known][-1:] == [True]

    def forget_new(self) -> None:
        self.known = set(self.place.iterdir())


class Save(Program):
    stopped = "28"  # the error itself, by its number

    def save(self, versions: range) -> int:
        step = FunctionTransformer(kw_args={"ballast": np.zeros(500_000)})
        for step.kw_args["version"] in versions:
            try:
                pyimgano.save(make_pipeline(step), self.place / "line3.joblib")
            except OSError as error:
                if is_out_of_room(error):
                    return error.errno or 0
                raise
        return 0

    def earlier(self) -> int:
        return self.save(range(1))

    def job(self) -> int:
        return self.save(range(1, 11))

    def check(self) -> bool:
        (step,) = pyimgano.load(self.place / "line3.joblib")
        return step.kw_args["version"] == 10


PROGRAMS = {"infer": Infer, "benchmark": Benchmark, "save": Save}


def _check_run(path: Path) -> bool:
    """Check the files of a run directory; tell whether it is complete."""
    directory = RunDirectory(path)
    for file in path.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text())
        if file.suffix == ".jsonl":
            [json.loads(line) for line in file.read_text().splitlines()]
        if file.suffix == ".png" and _picture(file.read_bytes()) is None:
            raise Broken(f"{file} is no picture")
        if file.suffix == ".joblib":
            pyimgano.load(file)
    for category in directory.categories():
        report = category.read_report()
        n = report["n_test_good"] + report["n_test_defect"]
        if len(category.read_per_image()) != n:
            raise Broken(f"{category.path} lacks records")
        if len(list(category.overlays.glob("*.png"))) != N_OVERLAYS:
            raise Broken(f"{category.path} lacks pictures")
        pyimgano.load(category.pipeline)
    if not directory.is_complete:
        return False
    if len(directory.categories()) != len(directory.read_report()["categories"]):
        raise Broken(f"{path} says that it is complete, and lacks a category")
    return True


def _picture(content: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


# ---- moments --------------------------------------------------------------------------
def make_inputs(folder: Path) -> None:
    """Write a data set of two categories, and a pipeline for one of them."""
    for name in ("wood", "screw"):
        write_inspection_dataset(
            folder / "data",
            name,
            n_train=N_TRAIN,
            n_test_good=8,
            n_test_defect=8,
            size=SIDE,
            random_state=0,
        )
    detector = PatchCoreDetector(FilterBankFeatures(resize=SIDE), coreset_ratio=0.3)
    pipeline = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector, quantile=0.9))
    pipeline.fit(load_folder(folder / "data", "wood").X_train)
    pyimgano.save(pipeline, folder / "line3.joblib", map_range=(0.0, 1.0))


def used_pages(place: Path) -> int:
    about = os.statvfs(place)
    return about.f_blocks - about.f_bfree


def clear(place: Path) -> None:
    for path in place.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def examine(kind: str, event: str, n: int, inputs: Path, place: Path, log: Path) -> list[str]:
    """Let an event come at ``n`` moments; give a row of the table."""
    clear(place)
    program = PROGRAMS[kind](inputs, place)
    if run(program.earlier, log) != "0" or program.check():
        raise Broken(f"{kind}: the earlier result could not be made, see {log}")
    found: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=inputs) as earlier:
        shutil.copytree(place, earlier, dirs_exist_ok=True)
        # Undisturbed: when it begins to write, how long it takes, and how much room it needs.
        status, begun, seconds, pages = run_timed(program.job, log, place)
        if status != "0" or not program.check():
            raise Broken(f"{kind}: the undisturbed program ended with {status}, see {log}")
        dice = random.Random(f"{kind} {event}")
        for _ in range(n):
            clear(place)
            shutil.copytree(earlier, place, dirs_exist_ok=True)
            program = PROGRAMS[kind](inputs, place)
            program.check()
            if event == "full disk":
                status = run_on_full_disk(program.job, log, place, dice.randrange(pages + 1))
                early = status == program.stopped
            else:
                number = signal.SIGKILL if event == "kill -9" else signal.SIGTERM
                moment = dice.uniform(0.9 * begun, seconds)
                status = run_until(program.job, log, moment, number)
                early = status != "0"
            statuses[status] += 1
            found["early"] += early
            found["part"] += any(place.rglob("*.part"))
            try:
                program.check()
            except (Broken, ValueError, OSError, pyimgano.exceptions.UntrustedFileError) as error:
                print(f"{kind}, {event}: {type(error).__name__}: {error}", file=sys.stderr)
                found["broken"] += 1
                continue
            program.forget_new()
            again = run(program.job, log)
            if again != "0" or not program.check():
                print(f"{kind}, {event}: called again: {again}, see {log}", file=sys.stderr)
                found["again"] += 1
    ends = ", ".join(f"{status} x {count}" for status, count in sorted(statuses.items()))
    numbers = (found[key] for key in ("early", "broken", "again", "part"))
    return [kind, event, str(n), *map(str, numbers), ends]


def table(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def _start_anew_if_needed() -> None:
    """Start this script with one thread, since threads do not survive a fork, as who may mount."""
    command = [sys.executable, *sys.argv]
    if os.geteuid() != 0:
        command = ["unshare", "-rm", *command]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if os.geteuid() != 0 or any(os.environ.get(name) != "1" for name in one):
        os.execvpe(command[0], command, {**os.environ, **one})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=30, help="of each event for each program")
    parser.add_argument("--program", choices=PROGRAMS, action="append")
    parser.add_argument("--event", choices=EVENTS, action="append")
    options = parser.parse_args()
    _start_anew_if_needed()
    rows = [HEADINGS]
    with tempfile.TemporaryDirectory() as folder:
        inputs, place, log = (Path(folder) / name for name in ("inputs", "outputs", "log"))
        inputs.mkdir()
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=True)
        try:
            make_inputs(inputs)
            with open(log, "w") as out, redirect_stdout(out), redirect_stderr(out):
                for kind in PROGRAMS:  # compiled code is loaded once, and is there after a fork
                    clear(place)
                    PROGRAMS[kind](inputs, place).earlier()
            for kind in options.program or PROGRAMS:
                for event in options.event or EVENTS:
                    rows.append(examine(kind, event, options.moments, inputs, place, log))
                    print(table([rows[0], rows[-1]]), flush=True)
        finally:
            subprocess.run(["umount", place], check=True)
    print(f"\n{table(rows)}")
    return int(any(row[4] != "0" or row[5] != "0" for row in rows[1:]))


if __name__ == "__main__":
    sys.exit(main())
