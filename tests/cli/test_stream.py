"""``pyimgano infer`` as a stream: batches, workers, resumed runs, limits, names as they come."""

from __future__ import annotations

import csv as csv_module
import io
import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.calibration import PixelThresholdCalibrator
from pyimgano.cli import _common, _judging, _records, _sources, infer
from pyimgano.features import FilterBankFeatures
from pyimgano.inference import InferenceResult
from pyimgano.inputs import _read_ahead
from pyimgano.testing import make_check_images
from pyimgano.utils._stages import STAGES, TimeLimitError
from tests.inputs import image_files

N = 9


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    detector = PatchCoreDetector(FilterBankFeatures(resize=32, n_components=4))
    calibrator = ThresholdCalibrator(detector, quantile=0.8)
    pixels = PixelThresholdCalibrator(calibrator, quantile=0.8)
    pipe = make_pipeline(ImageFormatNormalizer(), pixels).fit(make_check_images(8))
    return pyimgano.save(pipe, tmp_path_factory.mktemp("saved") / "line3.joblib", map_range=(0, 9))


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Nine files: good and bad parts, one that is no image, and one of 16 bits."""
    folder = tmp_path_factory.mktemp("ready")
    images = [
        *make_check_images(5, random_state=1),
        *make_check_images(3, defect=True, random_state=3),
    ]
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i}.png"), image[..., ::-1])
    (folder / "4.png").write_bytes(b"junk")
    cv2.imwrite(str(folder / "8.png"), images[0][..., ::-1].astype(np.uint16) * 257)
    return folder


@pytest.fixture
def photos(ready, tmp_path):
    return shutil.copytree(ready, tmp_path / "photos")


def call(*arguments):
    try:
        return infer.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def whole(pipeline, photos, tmp_path):
    """JSON lines and CSV of a run that nothing disturbed."""
    jsonl, csv = tmp_path / "whole.jsonl", tmp_path / "whole.csv"
    assert call(pipeline, photos, "--save-jsonl", jsonl, "--save-csv", csv, "--defects") == 1
    return jsonl.read_bytes(), csv.read_bytes()


def test_the_records_do_not_depend_on_batches_and_workers(pipeline, photos, tmp_path, whole):
    out = tmp_path / "o.jsonl"
    for batch_size in (1, 7, 32):
        for workers in (0, 2):
            more = ("--batch-size", batch_size, "--num-workers", workers, "--defects")
            assert call(pipeline, photos, "--save-jsonl", out, *more) == 1
            assert out.read_bytes() == whole[0]
    *records, last = lines(out)
    assert last == {"complete": True, "n_images": N, "n_anomalous": 3, "n_errors": 1}
    assert ["defects" in record for record in records] == ["score" in record for record in records]
    assert any(record.get("defects") for record in records)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_run_is_gone_on_with_where_it_was_ended(
    batch_size, pipeline, photos, tmp_path, whole, capsys
):
    jsonl, csv = tmp_path / "o.jsonl", tmp_path / "o.csv"
    options = ("--save-jsonl", jsonl, "--save-csv", csv, "--defects", "--resume")
    ends = [i + 1 for i, byte in enumerate(whole[0]) if byte == ord("\n")]
    for n_bytes in (0, ends[0], ends[3] + 1, ends[4] - 1, ends[N - 1], len(whole[0]) - 1):
        for path in (jsonl, csv):
            path.unlink(missing_ok=True)
        Path(f"{jsonl}.part").write_bytes(whole[0][:n_bytes])
        assert call(pipeline, photos, *options, "--batch-size", batch_size) == 1
        assert (jsonl.read_bytes(), csv.read_bytes()) == whole
        assert not Path(f"{jsonl}.part").exists()
    assert f"{N} images, 9 of them before: 5 PASS, 3 FAIL" in capsys.readouterr().err
    # A run that is complete goes on as well, with the images that came later.
    shutil.copy(photos / "0.png", photos / "9.png")
    assert call(pipeline, photos, *options) == 1
    records = lines(jsonl)[:-1]
    assert [Path(record["path"]).name for record in records] == [f"{i}.png" for i in range(N + 1)]
    assert [record["index"] for record in records] == list(range(N + 1))


def test_what_cannot_be_gone_on_with_is_refused_and_kept(pipeline, photos, tmp_path, capsys):
    jsonl = tmp_path / "o.jsonl"
    arguments = (pipeline, photos, "--save-jsonl", jsonl, "--resume")
    assert call(*arguments) == 1
    before = jsonl.read_bytes()
    assert call(*arguments, "--threshold", 3) == 2
    assert not Path(f"{jsonl}.part").exists()
    assert "its records have the threshold" in capsys.readouterr().err
    shutil.copy(photos / "0.png", photos / "8.png")
    shutil.copy(photos / "7.png", photos / "8.png")  # another picture under the last name
    assert call(*arguments) == 2
    assert "8.png has the score" in capsys.readouterr().err
    assert jsonl.read_bytes() == before
    assert not Path(f"{jsonl}.part").exists()
    # Records that are nowhere else stay, those of a run that was ended or refused.
    Path(f"{jsonl}.part").write_bytes(before)
    assert call(*arguments, "--threshold", 3) == 2
    assert Path(f"{jsonl}.part").read_bytes() + before.splitlines(True)[-1] == before
    Path(f"{jsonl}.part").unlink()
    for text in ("my notes", "my notes\nin two lines\n", '{"index": 0}\n{"index": 1}\n'):
        jsonl.write_text(text)
        assert call(*arguments) == 2
        assert not Path(f"{jsonl}.part").exists()
        assert "line 1: is no record of pyimgano infer" in capsys.readouterr().err
        assert jsonl.read_text() == text
    assert call(pipeline, photos, "--resume") == 2
    assert "--resume needs --save-jsonl FILE" in capsys.readouterr().err


def test_errors_stop_the_run_where_they_shall(pipeline, photos, tmp_path, capsys):
    (photos / "6.png").write_bytes(b"junk")
    jsonl = tmp_path / "o.jsonl"
    arguments = (pipeline, photos, "--save-jsonl", jsonl)
    assert call(*arguments, "--on-error", "raise") == 4
    assert "4.png: " in (err := capsys.readouterr().err) and "stopped after 4 of 9 images" in err
    assert len(lines(f"{jsonl}.part")) == 4
    assert call(*arguments, "--max-errors", 1, "--resume") == 4
    assert "2 images could not be judged, and --max-errors is 1" in capsys.readouterr().err
    assert len(lines(f"{jsonl}.part")) == 7
    assert call(*arguments, "--max-errors", 2, "--resume") == 1
    assert len(lines(jsonl)) == N + 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"index": 0, "path": ["x"], "error": "x"}',
        b'{"index": 0, "path": "x", "score": 1.0, "pred": 0}',  # without its threshold
        b'{"index": 0, "path": "x", "score": null, "threshold": 1.0, "pred": 0}',
        b'{"index": 0, "path": "x", "more": ' + b"[" * 100_000,
    ],
)
def test_lines_that_are_no_records_are_refused(line):
    log = _records.Log("o.jsonl")
    whole = b'{"index": 0, "path": "x", "error": "x: is empty"}\n'
    with pytest.raises(_common.UsageError, match=r"o\.jsonl, line 2: is no record"):
        log.read(io.BytesIO(whole + line + b"\n" + whole))
    assert log.names == {"x"}


def test_an_image_whose_time_is_over_just_after_it_was_judged_has_one_record():
    class Late(_judging.Run):
        def __init__(self):
            pass

        def _infer(self, images):
            yield from [InferenceResult(0, path, score=1.0) for path in images.paths]
            raise TimeLimitError

    class Images(SimpleNamespace):
        def __len__(self):
            return len(self.paths)

        def __getitem__(self, part):
            return Images(paths=self.paths[part])

    results = Late()._in_time(Images(paths=["a", "b"]), 9.0)
    assert [result.path for result in results] == ["a", "b"]


def test_names_on_standard_input_and_repeated_inputs(
    pipeline, photos, tmp_path, monkeypatch, capsys
):
    names = [photos / name for name in ("0.png", "5.png", "nowhere.png", "5.png")]
    text = "\n".join(map(str, names)) + "\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    jsonl, maps = tmp_path / "o.jsonl", tmp_path / "maps"
    assert call(pipeline, "-", "--save-jsonl", jsonl, "--save-maps", maps) == 1
    records = lines(jsonl)[:-1]
    assert [record["path"] for record in records] == [str(name) for name in names[:3]]
    assert [record.get("pred") for record in records] == [0, 1, None]
    assert all(Path(record["picture"]).is_file() for record in records[:2])
    two = ("--input", photos / "0.png", "--input", photos / "[56].png")
    assert call("--pipeline", pipeline, *two, "--save-jsonl", jsonl) == 0
    assert [Path(record["path"]).name for record in lines(jsonl)[:-1]] == [
        *("0.png", "5.png", "6.png")
    ]
    assert call(pipeline, "-", photos) == 2
    assert "goes with no other input" in capsys.readouterr().err


def test_pictures_of_defects(pipeline, photos, tmp_path, capsys):
    masks, overlays, csv = tmp_path / "masks", tmp_path / "overlays", tmp_path / "o.csv"
    more = ("--save-masks", masks, "--save-overlays", overlays, "--save-csv", csv)
    assert call(pipeline, photos, "--save-jsonl", tmp_path / "o.jsonl", *more) == 1
    found = {}
    for record in lines(tmp_path / "o.jsonl")[:-1]:
        if "error" in record:
            assert not {"mask", "overlay", "defects"} & set(record)
            continue
        image = cv2.imread(record["path"])
        mask = cv2.imread(record["mask"], cv2.IMREAD_UNCHANGED)
        assert mask.shape == image.shape[:2]
        assert (mask > 0).sum() == sum(region["area"] for region in record["defects"])
        drawn = cv2.imread(record["overlay"])
        assert (drawn != image).any() == bool(record["defects"])
        found[record["path"]] = len(record["defects"])
    with open(csv, newline="") as file:
        rows = {row["image"]: row["n_defects"] for row in csv_module.DictReader(file)}
    assert {path: int(rows[path]) for path in found} == found and any(found.values())
    assert call(pipeline, photos, "--save-masks", photos / "masks") == 2
    assert "--save-masks" in capsys.readouterr().err


def test_seconds_of_the_stages(pipeline, photos, tmp_path, capsys):
    out = tmp_path / "profile.json"
    more = ("--profile", "--save-profile", out, "--seed", 3)
    assert call(pipeline, photos, "--save-jsonl", tmp_path / "o.jsonl", *more) == 1
    profile = json.loads(out.read_text())
    assert profile["n_images"] == N and profile["seconds"] > 0
    assert set(profile["stages"]) == set(STAGES)
    for row in profile["stages"].values():
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert "p99  ms per image" in capsys.readouterr().err


def test_what_takes_too_long_is_an_error_of_that_image(pipeline, photos, tmp_path, monkeypatch):
    read, score = _read_ahead.read_image, PatchCoreDetector._score
    defective = cv2.imread(str(photos / "6.png"))[..., ::-1]

    def slow_read(path, *more):
        if path.endswith("2.png"):
            time.sleep(1.5)
        return read(path, *more)

    def slow_score(self, block, train_group):
        values, scores = score(self, block, train_group)
        if len(scores) == 1 and scores[0] == slow:
            time.sleep(0.8)
        elif slow in scores:
            time.sleep(0.8 * len(scores))
        return values, scores

    (slow,) = -pyimgano.load(pipeline).score_samples([defective])
    monkeypatch.setattr(_read_ahead, "read_image", slow_read)
    monkeypatch.setattr(PatchCoreDetector, "_score", slow_score)
    jsonl = tmp_path / "o.jsonl"
    more = ("--time-limit", 0.7, "--batch-size", 3, "--num-workers", 2)
    assert call(pipeline, photos, "--save-jsonl", jsonl, *more) == 1
    errors = {record["index"]: record["error"] for record in lines(jsonl)[:-1] if "error" in record}
    assert sorted(errors) == [2, 4, 6]
    assert errors[2].endswith("was not read within the time limit of 0.7 s")
    assert errors[6].endswith("was not judged within the time limit of 0.7 s")


def test_malformed_files_of_every_kind_have_an_error(pipeline, tmp_path):
    (tmp_path / "bad").mkdir()
    n = 0
    for name, sample in image_files.samples().items():
        missing = next(image_files.without_pixels(sample, step=len(sample.data) // 3))[1]
        for data in (sample.data[: 2 * len(sample.data) // 3], missing):
            n += 1
            (tmp_path / "bad" / f"{n}_{name}.png").write_bytes(data)  # the content tells the kind
    jsonl = tmp_path / "o.jsonl"
    assert call(pipeline, tmp_path / "bad", "--save-jsonl", jsonl) == 1
    records = lines(jsonl)[:-1]
    assert len(records) == n >= 70
    assert [record["path"] for record in records if "error" not in record] == []


# ---- a hot folder ------------------------------------------------------------------------
@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (("_POLL", 0.01), ("_SETTLED", 0.03), ("_PATIENCE", 0.3)):
        monkeypatch.setattr(_sources, name, seconds)


def until(source, done, seen, n):
    """Take paths until there are so many."""
    end = time.monotonic() + 20
    for path in source.iterate(done):
        if path is not None:
            seen.append(Path(path).name)
        if len(seen) == n:
            return
        assert time.monotonic() < end


def test_a_hot_folder_waits_for_files_to_be_whole(ready, tmp_path, quick):
    folder = tmp_path / "hot"
    (folder / "below").mkdir(parents=True)
    content = (ready / "0.png").read_bytes()
    source, seen = _sources.HotFolder(str(folder)), []
    paths = source.iterate(set())
    (folder / "slow.png").write_bytes(content[:100])
    (folder / "below" / "moved.tmp").write_bytes(content)
    shutil.copy(ready / "1.png", folder / "1.png")
    started = time.monotonic()
    for path in paths:
        if path is not None:
            seen.append(path)
        if len(seen) == 1 and time.monotonic() > started + 0.1:
            break  # the slow one has settled long ago, and does not decode
    assert seen == [str(folder / "1.png")]
    (folder / "slow.png").write_bytes(content)
    (folder / "below" / "moved.tmp").rename(folder / "below" / "moved.png")
    (folder / "junk.png").write_bytes(b"junk")
    while len(seen) < 4:
        path = next(paths)
        seen += [path] * (path is not None)
    # In what order depends on the clock, but the damaged one is waited for longest.
    assert sorted(seen[1:3]) == [str(folder / "below" / "moved.png"), str(folder / "slow.png")]
    assert seen[3] == str(folder / "junk.png")


def test_each_image_in_a_hot_folder_is_judged_once_across_restarts(
    pipeline, ready, tmp_path, quick, monkeypatch, capsys
):
    folder, jsonl, csv = tmp_path / "hot", tmp_path / "log.jsonl", tmp_path / "log.csv"
    folder.mkdir()
    outputs = ("--save-jsonl", jsonl, "--save-csv", csv)
    idle = []

    def sleep(seconds):
        idle.append(seconds)
        if len(idle) % 40 == 0:  # for half a second there was nothing more to do
            raise KeyboardInterrupt
        real(seconds)

    real = time.sleep
    monkeypatch.setattr(_sources.time, "sleep", sleep)
    for i in range(3):
        for k in range(3 * i, 3 * i + 3):
            shutil.copy(ready / f"{k}.png", folder)
        if i == 1:  # a crash has left half a record
            with open(jsonl, "ab") as file:
                file.write(b'{"index": 3, "pa')
        assert call(pipeline, "--watch", folder, *outputs) == (0 if i == 0 else 1)
    records = lines(jsonl)
    assert [record["index"] for record in records] == list(range(N))
    assert sorted(record["path"] for record in records) == [
        str(folder / f"{k}.png") for k in range(N)
    ]
    assert len(csv.read_text().splitlines()) == N + 1
    err = capsys.readouterr().err
    assert f"watching {folder}; records go to {jsonl}" in err
    assert "9 images, 6 of them before" in err
    assert call(pipeline, "--watch", folder) == 2
    assert call(pipeline, folder, "--watch", folder, *outputs) == 2
    assert call(pipeline, "--watch", tmp_path / "nowhere", *outputs) == 2
