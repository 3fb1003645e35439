"""Fuzz ``pyimgano.load``: mutated and truncated pipelines, in processes with limits.

Each saved pipeline is mutated: bytes of its pickle are changed, removed, doubled, exchanged for
those of another, or an attribute of one of its parts is changed or filled with odd numbers. A
worker loads it and scores with it, twice:

- with the side file of the pipeline that was saved: everything must be refused;
- with a side file made to fit: refused with ``UntrustedFileError``, equal scores, or other scores
  that are finite numbers (another number in a model is another model).

What must not be: another exception of ``load``, an exception while scoring, scores that are not
finite, a crash, more than 5 seconds of processor time, more than 1 GiB of memory.

    python benchmarks/fuzz_load.py                  # 2000 mutated, 500 truncated
    python benchmarks/fuzz_load.py --mutated 200 --truncated 50 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from pyimgano.persistence._checksum import Checksum

LIMIT_SECONDS, LIMIT_MEMORY = 5, 2**30
SHORT = ("another exception", "error in scoring", "crash")
GOOD = {"as saved": {"refused"}, "made to fit": {"refused", "equal", "other scores"}}


# ---- pipelines ------------------------------------------------------------------------
def pipelines() -> dict[str, Any]:
    """Small fitted pipelines of every kind, on rows of 4 numbers."""
    from sklearn.frozen import FrozenEstimator
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pyimgano import create_model, list_models
    from pyimgano.calibration import ThresholdCalibrator
    from pyimgano.detectors import PaDiMDetector, PatchCoreDetector
    from pyimgano.ensemble import ScoreEnsemble
    from pyimgano.model_selection import OneClassKFold, anomaly_roc_auc

    rows = data()
    found = {}
    for name in list_models():
        model = create_model(name)
        detector = model[-1] if hasattr(model, "steps") else model
        try:
            found[name] = make_pipeline(StandardScaler(), detector).fit(rows)
        except (ImportError, ValueError, TypeError) as error:
            sys.stderr.write(f"{name} is left out: {error}\n")
    two = [("bank", PatchCoreDetector()), ("gauss", PaDiMDetector())]
    found["ensemble"] = ThresholdCalibrator(ScoreEnsemble(two), quantile=0.9).fit(rows)
    found["frozen"] = FrozenEstimator(PatchCoreDetector().fit(rows))
    search = GridSearchCV(
        PatchCoreDetector(), {"n_neighbors": [1, 3]}, scoring=anomaly_roc_auc, cv=OneClassKFold(2)
    )
    found["search"] = search.fit(rows, np.repeat([1, -1], [30, 10]))
    return found


def data() -> np.ndarray:
    return np.random.RandomState(0).normal(size=(40, 4))


# ---- mutations ------------------------------------------------------------------------
ODD = (np.nan, np.inf, -np.inf, 1e300, -1.0, 0.0, 2**62, -(2**31))


def mutate(content: bytes, others: list[bytes], rng: np.random.RandomState) -> bytes:
    """One to three changes of the bytes of a file."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        kind, n = rng.randint(8), len(found)
        at = rng.randint(n)
        length = int(rng.choice([1, 1, 2, 4, 8, 16, 64]))
        if kind == 0:
            found[at] = rng.randint(256)
        elif kind == 1:
            found[at] ^= 1 << rng.randint(8)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = found[at : at + length]
        elif kind == 4:
            other = others[rng.randint(len(others))]
            start = rng.randint(len(other))
            found[at : at + length] = other[start : start + length]
        elif kind == 5:
            found[at : at + 8] = np.float64(ODD[rng.randint(len(ODD))]).tobytes()
        elif kind == 6:
            value = int(rng.choice([-1, 0, 2**31 - 1, 10**6]))
            found[at : at + 8] = np.int64(value).tobytes()
        else:
            ops = b"(.012abcdeghjlopqrstuGIJKLMNQRSTUVX\x80\x81\x85\x86\x87\x8c\x93\x94]})"
            found[at] = ops[rng.randint(len(ops))]
    return bytes(found)


def mutate_state(model: Any, rng: np.random.RandomState) -> bytes | None:
    """A file of the model with one attribute of one of its parts changed."""
    waiting, parts, seen = [model], [], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
        elif (
            hasattr(one, "__dict__") and not isinstance(one, type) and not callable(one)
        ) or hasattr(one, "get_params"):
            parts.append(one)
            waiting += vars(one).values()
    part = parts[rng.randint(len(parts))]
    names = sorted(vars(part))
    if not names:
        return None
    name = names[rng.randint(len(names))]
    value = vars(part)[name]
    if isinstance(value, np.ndarray) and value.size and rng.randint(2):
        wrong = value.copy()
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            odd = np.array(ODD[rng.randint(len(ODD))]).astype(value.dtype)
        wrong.flat[rng.randint(value.size)] = odd
    else:
        choices = [None, "text", -1, 10**9, float("nan"), [], {}, (), np.zeros((2, 2)), 0.5, True]
        if isinstance(value, np.ndarray):
            choices += [value[:-1], value[None], value.astype("float32", copy=True)]
        wrong = choices[rng.randint(len(choices))]
    vars(part)[name] = wrong
    try:
        with tempfile.TemporaryFile() as file:
            joblib.dump(model, file)
            file.seek(0)
            return file.read()
    finally:
        vars(part)[name] = value


# ---- workers --------------------------------------------------------------------------
def work(folder: Path) -> None:
    """Load and score the files that are named on standard input."""
    import pyimgano
    from pyimgano.exceptions import UntrustedFileError

    warnings.simplefilter("ignore")
    rows = data()[:5] + 0.05
    expected = json.loads((folder / "expected.json").read_text())
    for name in expected:  # what is imported or compiled is so before the clock runs
        pyimgano.load(folder / f"{name}.joblib").score_samples(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        name, origin = line.split()
        try:
            model = pyimgano.load(folder / name)
        except UntrustedFileError:
            outcome = "refused"
        except BaseException as error:
            outcome = f"another exception {type(error).__name__}: {error}"
        else:
            outcome = score(model, rows, expected[origin])
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > LIMIT_MEMORY // 1024:
            outcome = "memory"
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


def score(model: Any, rows: np.ndarray, expected: list[float]) -> str:
    try:
        scores = np.asarray(model.score_samples(rows.copy()))  # a scaler may have copy=False
    except Exception as error:
        return f"error in scoring {type(error).__name__}: {str(error)[:80]}"
    if not np.isfinite(scores).all():
        return "not finite"
    return "equal" if scores.tolist() == expected else "other scores"


class Worker:
    """A process that loads files one by one; made anew when it dies or hangs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Any = None

    def outcome(self, name: str, origin: str) -> str:
        if self._process is None:
            self._start()
        process = self._process
        process.stdin.write(f"{name} {origin}\n")
        process.stdin.flush()
        line = self._line(4 * LIMIT_SECONDS, name)
        return line

    def _start(self) -> None:
        command = [sys.executable, __file__, "--work", str(self._folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout.readline() == "ready\n"

    def _line(self, seconds: float, name: str) -> str:
        process, start = self._process, time.monotonic()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while not ready.select(0.5):
                used = cpu_seconds(process.pid, self._used) if hasattr(self, "_used") else 0.0
                if used > LIMIT_SECONDS or time.monotonic() - start > 60:
                    self.stop()
                    return "hang"
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._process = None
            return f"crash {code}"
        self._used = cpu_seconds(process.pid, 0.0)
        return json.loads(line)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def cpu_seconds(pid: int, before: float) -> float:
    """Processor time of a process beyond some earlier value: other processes do not count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") - before


def write(path: Path, content: bytes, vouched: bytes) -> None:
    """Write a file, and a side file that describes a content."""
    checksum = Checksum()
    checksum.update(memoryview(vouched))
    entry = {"checksum": checksum.text(), "sha256": hashlib.sha256(vouched).hexdigest()}
    path.write_bytes(content)
    path.with_name(f"{path.name}.json").write_text(json.dumps(entry))


def mutated(kind: str, origin: str, models: Any, files: Any, rng: np.random.RandomState) -> bytes:
    """A content that is not the one that was saved."""
    content = found = files[origin]
    while found == content:
        if kind == "truncated":
            found = content[: rng.randint(len(content))]
        elif kind == "bytes":
            found = mutate(content, list(files.values()), rng)
        else:
            found = mutate_state(models[origin], rng) or content
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutated", type=int, default=2000)
    parser.add_argument("--truncated", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    warnings.simplefilter("ignore")
    rng = np.random.RandomState(options.seed)
    kept = Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models, files, expected = pipelines(), {}, {}
        for name, model in models.items():
            joblib.dump(model, folder / f"{name}.joblib")
            files[name] = (folder / f"{name}.joblib").read_bytes()
            write(folder / f"{name}.joblib", files[name], files[name])
            expected[name] = np.asarray(model.score_samples(data()[:5] + 0.05)).tolist()
        (folder / "expected.json").write_text(json.dumps(expected))
        names, worker = sorted(files), Worker(folder)
        counts: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for i in range(options.mutated + options.truncated):
            origin = names[rng.randint(len(names))]
            kind = "truncated" if i >= options.mutated else ("bytes", "state")[i % 2]
            content = mutated(kind, origin, models, files, rng)
            for side, good in GOOD.items():
                vouched = files[origin] if side == "as saved" else content
                write(folder / "mutated.joblib", content, vouched)
                outcome = worker.outcome("mutated.joblib", origin)
                short = next((one for one in SHORT if outcome.startswith(one)), outcome)
                counts[f"side file {side}, {kind}: {short}"] += 1
                if short not in good:
                    examples.setdefault(f"side file {side}: {short}", []).append(
                        f"{i} {kind} {origin}: {outcome}"
                    )
                    (kept / f"fuzz-{options.seed}-{i}.joblib").write_bytes(content)
        worker.stop()
    for name, n in sorted(counts.items()):
        print(f"{n:6}  {name}")
    for name, found in sorted(examples.items()):
        print(f"{name}:")
        print("\n".join(f"    {one[:220]}" for one in found[:40]))
    if examples:
        raise SystemExit(f"load has let something through; the files are {kept}/fuzz-*.joblib")


if __name__ == "__main__":
    main()
