"""What an attack has found: reading a file opens, starts and imports nothing, and it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import pyimgano
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector
from pyimgano.exceptions import UntrustedFileError, VersionDriftWarning
from tests.attack import hostile
from tests.attack.files import Assembler as A
from tests.attack.files import vouch_for, write

ROOT = Path(__file__).resolve().parents[2]


def test_hostile_files_do_nothing_but_be_read(tmp_path):
    """In a process of its own, which takes seconds to start: one test for all."""
    command = [sys.executable, "-m", "tests.attack.hostile", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    last = outcomes[-1]["name"] if outcomes else "the start"
    assert done.returncode == 0, f"after {last}: {done.stderr}"
    expected = hostile.pipeline().score_samples(hostile.ROWS).tolist()
    for name in hostile.HOSTILE:
        found = [o for o in outcomes if o["name"] == name or o["name"].startswith(f"{name}_")]
        assert found, name
        for one in found:
            assert one["events"] == [] and one["new"] == [], one
            most = 2**19 if name in hostile.ALONE else 2**20
            assert one["seconds"] < 5 and one["kilobytes"] < most, one
            if one["error"]:
                assert not one["error"].startswith("!"), one  # always an UntrustedFileError
            else:  # nothing is made of what is thrown away
                assert one["name"].endswith("_thrown_away") and one["scores"] == expected, one


# ---- wrong state through the other door -------------------------------------------------
@pytest.mark.parametrize(
    "make",
    [
        hostile.a_mean_too_short,
        hostile.a_factor_too_short,
        hostile.members_of_leaves_out_of_range,
        hostile.members_of_leaves_twice,
        hostile.bounds_of_another_bank,
        hostile.groups_of_half_the_bank,
        hostile.known_images_that_there_are_not,
    ],
    ids=lambda make: make.__name__,
)
def test_what_compiled_code_indexes_by_is_checked_by_joblib_load_too(make, tmp_path):
    path = write(make(tmp_path), tmp_path / "a.joblib")
    with pytest.raises(UntrustedFileError, match="The file is damaged"):
        joblib.load(path)


def test_good_state_comes_through_the_other_door(tmp_path):
    for model in (PaDiMDetector().fit(hostile.ROWS), hostile.large_bank()):
        joblib.dump(model, tmp_path / "a.joblib")
        again = joblib.load(tmp_path / "a.joblib", mmap_mode="r")
        rows = np.random.RandomState(1).normal(size=(5, model.n_features_in_))
        np.testing.assert_array_equal(again.score_samples(rows), model.score_samples(rows))


@pytest.mark.parametrize("seed", range(40))
def test_random_dtypes_are_read_as_numpy_reads_them_or_refused(seed, tmp_path):
    rng = np.random.RandomState(seed)
    kinds = ["?", "i1", "<u2", ">i4", "<f4", ">f8", "<c8", "S3", "<U2", "V5"]

    def some_dtype(depth: int) -> np.dtype:
        if depth > rng.randint(3):
            return np.dtype(kinds[rng.randint(len(kinds))])
        if rng.randint(2) and depth:
            shape = tuple(int(n) for n in rng.randint(1, 4, size=rng.randint(1, 3)))
            return np.dtype((some_dtype(depth + 1), shape))
        inner = [some_dtype(depth + 1) for _ in range(rng.randint(1, 5))]
        starts = np.cumsum([rng.randint(3), *(one.itemsize + rng.randint(3) for one in inner)])
        return np.dtype(
            {
                "names": [f"f{i}" for i in range(len(inner))],
                "formats": inner,
                "offsets": starts[:-1].tolist(),
                "itemsize": int(starts[-1]) + int(rng.randint(1, 4)),
            }
        )

    array = np.zeros((2, 3), some_dtype(0))
    path = write(FunctionTransformer(kw_args={"v": array}), tmp_path / "a.joblib")
    again = pyimgano.load(path).kw_args["v"]
    # joblib writes anything into holes between fields.
    assert again.shape == array.shape and repr(again.tolist()) == repr(array.tolist())
    assert again.dtype.fields == array.dtype.fields or again.dtype == array.dtype.newbyteorder("=")


# ---- what is said of it -----------------------------------------------------------------
@pytest.mark.parametrize(
    "content",
    [
        A.file(A.new("evil\x1b]0;title\x07.\u202e\nname")),
        A.file(A.with_state(A.new(hostile.SCALER), A.dict(**{"a\x1b[2J\r\nb": A.value(1)}))),
        A.file(A.with_state(A.new(hostile.SCALER), A.dict(with_mean=A.value("\x1b[31m\x9b")))),
        hostile.array_of(hostile.dtype("\x1b[5m"), (1,)),
        b"L\x1b[5mL\n.",
    ],
    ids=["class", "attribute", "value", "dtype", "number"],
)
def test_errors_hold_no_control_characters_of_the_files(content, tmp_path):
    path = write(content, tmp_path / "a.joblib")
    with pytest.raises(UntrustedFileError) as refusal:
        pyimgano.load(path)
    assert str(refusal.value).isprintable()


def test_warnings_and_side_files_hold_none_either(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        wrong = {"numpy": "1.\x1b[2J" + "9" * 1000}
        patch.setattr("pyimgano.utils._versions.scoring_versions", lambda: wrong)
        path = write(PatchCoreDetector().fit(hostile.ROWS), tmp_path / "a.joblib")
    with pytest.warns(VersionDriftWarning) as caught:
        pyimgano.load(path)
    assert all(str(one.message).isprintable() and len(str(one.message)) < 400 for one in caught)
    path.with_name("a.joblib.json").write_text(json.dumps({"size": "\x1b[2J", "sha256": ""}))
    with pytest.raises(UntrustedFileError, match="is not the file that") as refusal:
        pyimgano.load(path)
    assert str(refusal.value).isprintable()


# ---- what is no file --------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    return pyimgano.save(StandardScaler(), tmp_path / "a.joblib")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no FIFOs")
@pytest.mark.parametrize("which", ["a.joblib", "a.joblib.json"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "device"])
def test_what_is_no_regular_file_is_refused_at_once(which, kind, saved):
    place = saved.with_name(which)
    place.unlink()
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "loop":
        place.symlink_to(place.name)
    else:
        place.symlink_to("/dev/zero")
    start = time.monotonic()
    with pytest.raises(UntrustedFileError, match=r"not a regular file|circle"):
        pyimgano.load(saved)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "content, match",
    [
        (b"[" * 10**5, "other JSON"),
        (b'{"a":' * 10**5, "other JSON"),
        (b"{" + b" " * 2**21, "too many"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not JSON"),
        (b"1" * 10**4, "not JSON"),
        (b'{"sha256": NaN, "previous": 3}', "is not the file that"),
    ],
    ids=["lists", "dicts", "large", "bytes", "a list", "a number", "other values"],
)
def test_side_files_of_any_content_are_refused(content, match, saved):
    saved.with_name("a.joblib.json").write_bytes(content)
    with pytest.raises(UntrustedFileError, match=match):
        pyimgano.load(saved)


def test_what_was_hashed_is_what_is_loaded(tmp_path):
    # Another process overwrites the file in place, again and again, by one that has no side file.
    good = pyimgano.save(PatchCoreDetector().fit(hostile.ROWS), tmp_path / "a.joblib")
    contents = [good.read_bytes()]
    write(PatchCoreDetector().fit(hostile.ROWS + 1), tmp_path / "other.joblib")
    contents.append((tmp_path / "other.joblib").read_bytes())
    length = max(map(len, contents))
    contents = [content.ljust(length, b"\0") for content in contents]
    expected = pyimgano.load(good).score_samples(hostile.ROWS)
    stop = threading.Event()

    def overwrite() -> None:
        with open(good, "r+b", buffering=0) as file:
            while not stop.is_set():
                for content in contents:
                    file.seek(0)
                    file.write(content)
        good.write_bytes(contents[0])

    thread = threading.Thread(target=overwrite)
    thread.start()
    try:
        for _ in range(200):
            try:
                again = pyimgano.load(good)
            except UntrustedFileError:
                continue
            np.testing.assert_array_equal(again.score_samples(hostile.ROWS), expected)
    finally:
        stop.set()
        thread.join()


# ---- damage -----------------------------------------------------------------------------
def test_every_truncation_is_refused(tmp_path):
    path = write(hostile.pipeline(), tmp_path / "a.joblib")
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        vouch_for(path)
        with pytest.raises(UntrustedFileError):
            pyimgano.load(path)


class _Array:
    """An array made of bytes in the pickle."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self):
        make = np.zeros(0).__reduce__()[0]
        state = (1, (len(self.content),), np.dtype("u1"), False, self.content)
        return make, (np.ndarray, (0,), b"b"), state


def test_many_arrays_of_the_same_bytes_are_refused(tmp_path):
    path = tmp_path / "a.joblib"
    content = bytes(2**25)
    joblib.dump([_Array(content) for _ in range(40)], path)  # 32 MiB, and 1.25 GiB once made
    assert path.stat().st_size < 2**26
    vouch_for(path)
    with pytest.raises(UntrustedFileError, match="far larger arrays than there are in it"):
        pyimgano.load(path)
