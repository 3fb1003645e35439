"""Run ``pyimgano infer`` over thousands of generated images: memory, speed, ends, hot folders.

``memory`` judges many 256 x 256 images and compares the resident memory of the process in the
second and the last quarter of the run, and the images per second with those of the model alone:
``score_samples`` on decoded images, with the same batch size. ``kill`` ends a run by ``kill -9`` at
random moments and goes on with ``--resume`` until it is complete. ``disk`` lets the records meet a
full disk (a small file system in memory, which needs Linux and the right to mount one) and goes
on. ``watch`` writes files into a hot folder, slowly or by renaming, while the command is
restarted.

    python benchmarks/stream.py memory --images 20000      # about 15 minutes on two cores
    python benchmarks/stream.py kill disk watch
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano._nesting import find_parts
from pyimgano.datasets import make_inspection_dataset
from pyimgano.features import BackbonePatchFeatures, BasePatchFeatures
from pyimgano.inputs import ImageSequence
from pyimgano.utils._threads import n_threads

SIDE = 256
# Parts that are drawn, and images that are made of them with noise; the others are copies.
N_DRAWN, N_MADE = 40, 500
COMMAND = [sys.executable, "-m", "pyimgano", "infer"]


# ---- what is judged -------------------------------------------------------------------
def make_pipeline_file(folder: Path, features: str, weights: str | None = None) -> Path:
    """Fit and save a pipeline; one that an earlier run has saved is taken as it is."""
    path = folder / f"{features}.joblib"
    if not path.exists():
        good = make_inspection_dataset("bottle_cap", n_train=60, size=SIDE).X_train
        step = features if weights is None else BackbonePatchFeatures(features, weights=weights)
        detector = PatchCoreDetector(step, coreset_ratio=0.01)
        pipeline = make_pipeline(ImageFormatNormalizer(), ThresholdCalibrator(detector))
        pyimgano.save(pipeline.fit(good), path)
    return path


def write_images(folder: Path, n: int, kind: str = "png") -> Path:
    """Write images, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = make_inspection_dataset("bottle_cap", n_train=N_DRAWN, size=SIDE).X_train
    for i in range(n):
        path = folder / f"{i:06}.{kind}"
        if not path.exists() and i >= N_MADE:
            shutil.copy(folder / f"{i % N_MADE:06}.{kind}", path)
        elif not path.exists():
            noise = np.random.default_rng(i).integers(0, 4, size=drawn[0].shape, dtype=np.uint8)
            image = cv2.add(drawn[i % N_DRAWN], noise)
            cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_once(records: list[dict], images: Path, n: int) -> None:
    """Raise unless each image has one record."""
    paths = [record["path"] for record in records if "path" in record]
    missing = {str(path) for path in images.iterdir()} - set(paths)
    assert len(paths) == len(set(paths)) == n and not missing, (len(paths), n, len(missing))
    assert [record["index"] for record in records if "path" in record] == list(range(n))


# ---- memory and speed -----------------------------------------------------------------
def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def count_records(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def memory(options: argparse.Namespace, place: Path) -> None:
    n, batch_size, workers = options.images, options.batch_size, options.num_workers
    pipeline = make_pipeline_file(place, options.features, options.weights)
    images = write_images(place / f"{options.kind}{n}", n, options.kind)
    out, profile = place / "verdicts.jsonl", place / "profile.json"
    how = ["--batch-size", str(batch_size), "--num-workers", str(workers)]
    how += ["--save-profile", str(profile), "--save-jsonl", str(out)]
    cpu = -children_cpu()
    few = sorted(images.iterdir())[:batch_size]  # for the time that it takes to start
    subprocess.run([*COMMAND, str(pipeline), *map(str, few), *how], check=True)
    started = cpu + children_cpu()
    found: list[tuple[int, int]] = []
    cpu = -children_cpu()
    with subprocess.Popen([*COMMAND, str(pipeline), str(images), *how, "--profile"]) as process:
        while process.poll() is None:
            time.sleep(0.5)
            try:
                size = resident(process.pid)
            except (FileNotFoundError, IndexError):
                break
            found.append((count_records(Path(f"{out}.part")), size))
    assert process.returncode == 0, process.returncode
    cpu = (cpu + children_cpu() - started) / (n - batch_size)
    check_once(lines(out), images, n)
    quarters = [
        [size for done, size in found if k * n / 4 <= done < (k + 1) * n / 4] for k in range(4)
    ]
    mib = [np.median(quarter) / 2**20 for quarter in quarters if quarter]
    print(
        f"median resident memory by quarter: {', '.join(f'{one:.0f}' for one in mib)} MiB; ", end=""
    )
    print(f"last / second {mib[-1] / mib[1]:.3f}")
    result = json.loads(profile.read_text())
    alone, cpu_alone = model_alone(pipeline, images, batch_size)
    streamed = result["images_per_second"]
    print(f"{streamed:.1f} images/s, model alone {alone:.1f}, ratio {streamed / alone:.3f}")
    print(
        f"processor time per image {1e3 * cpu:.1f} ms, model alone {1e3 * cpu_alone:.1f} ms, "
        f"ratio {cpu_alone / cpu:.3f}"
    )


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def model_alone(pipeline: Path, images: Path, batch_size: int, n: int = 512) -> tuple[float, float]:
    """Images per second of the model on decoded images, and its processor time per image."""
    model = pyimgano.load(pipeline)
    for step in find_parts(model, BasePatchFeatures):
        step.set_params(batch_size=batch_size)
    decoded = list(ImageSequence.from_folder(images)[:n])
    model.score_samples(decoded[:batch_size])
    started, cpu = time.perf_counter(), time.process_time()
    model.score_samples(decoded)
    cpu = time.process_time() - cpu
    return len(decoded) / (time.perf_counter() - started), cpu / len(decoded)


# ---- ends -----------------------------------------------------------------------------
def kill(place: Path, moments: int) -> None:
    n = 300
    pipeline, images = make_pipeline_file(place, "filterbank"), write_images(place / "some", n)
    out, whole = place / "killed.jsonl", place / "whole.jsonl"
    base = [*COMMAND, str(pipeline), str(images)]
    subprocess.run([*base, "--save-jsonl", str(whole)], check=True)
    dice = random.Random(0)
    out.unlink(missing_ok=True)
    part = Path(f"{out}.part")
    part.unlink(missing_ok=True)
    at = []
    for moment in range(moments):
        more = ["--save-jsonl", str(out), "--resume", "--batch-size", str(dice.choice([1, 7, 32]))]
        with subprocess.Popen([*base, *more]) as process:
            target = count_records(part) + dice.randrange(n // moments)
            while count_records(part) < target and process.poll() is None:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.02))
            process.kill()
        at.append(count_records(part))
        assert process.returncode == -signal.SIGKILL, (moment, process.returncode)
    subprocess.run([*base, "--save-jsonl", str(out), "--resume"], check=True)
    check_once(lines(out), images, n)
    assert out.read_bytes() == whole.read_bytes()
    print(f"killed {moments} times, after {at} records; the same bytes as undisturbed")


def disk(place: Path) -> None:
    n, small = 300, place / "small"
    pipeline, images = make_pipeline_file(place, "filterbank"), write_images(place / "some", n)
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        out = small / "verdicts.jsonl"
        ballast = small / "ballast"
        ballast.write_bytes(bytes(40_000))
        command = [*COMMAND, str(pipeline), str(images), "--save-jsonl", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stderr.strip())
        assert done.returncode == 4 and len(done.stderr.strip().splitlines()) == 1
        written = lines(Path(f"{out}.part"))  # whole records
        ballast.unlink()
        done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        if done.returncode == 4:  # the file system is too small for all of them
            subprocess.run(["mount", "-o", "remount,size=1m", str(small)], check=True)
            done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        check_once(lines(out), images, n)
        print(f"stopped after {len(written)} records, gone on with to {n}")
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ---- a hot folder ---------------------------------------------------------------------
def watch(place: Path) -> None:
    n = 200
    pipeline, images = (
        make_pipeline_file(place, "filterbank"),
        write_images(place / "hot_source", n),
    )
    hot, out = place / "hot", place / "hot.jsonl"
    shutil.rmtree(hot, ignore_errors=True)
    hot.mkdir()
    out.unlink(missing_ok=True)

    def write_slowly() -> None:
        for i, path in enumerate(sorted(images.iterdir())):
            content = path.read_bytes()
            target = hot / (f"{path.stem}.tmp" if i % 2 else path.name)
            with open(target, "wb", buffering=0) as file:
                third = len(content) // 3
                for begin in range(0, len(content), third):
                    file.write(content[begin : begin + third])
                    time.sleep(1.5 if i % 40 == 0 else 0.02)
            if i % 2:
                target.rename(hot / path.name)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    command = [*COMMAND, str(pipeline), "--watch", str(hot), "--save-jsonl", str(out)]
    statuses = []
    for number, share in ((signal.SIGTERM, 0.3), (signal.SIGKILL, 0.6), (signal.SIGINT, 1.0)):
        with subprocess.Popen(command) as process:
            while count_records(out) < share * n and process.poll() is None:
                time.sleep(0.05)
            if share == 1.0:
                writer.join()
                time.sleep(3)  # what might come twice
            process.send_signal(number)
        statuses.append(process.returncode)
    check_once(lines(out), hot, n)
    print(f"{n} files, restarted twice, exit statuses {statuses}: each image once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=("memory", "kill", "disk", "watch"))
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--features", default="filterbank")
    parser.add_argument("--kind", default="png", help="ending of the files")
    parser.add_argument("--weights", help="state dict of the network")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--place", type=Path, help="folder for images and results, kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if options.place is None else options.place
        place.mkdir(parents=True, exist_ok=True)
        print(f"{n_threads()} threads")
        for what in options.what:
            if what == "memory":
                memory(options, place)
            elif what == "kill":
                kill(place, options.moments)
            else:
                {"disk": disk, "watch": watch}[what](place)


if __name__ == "__main__":
    main()
