"""``pyimgano infer --monitor``: alarms of drift, and what goes on from one run to the next."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import pyimgano
from pyimgano import ImageFormatNormalizer, PatchCoreDetector, ThresholdCalibrator
from pyimgano.cli import _monitoring, infer
from pyimgano.features import FilterBankFeatures
from pyimgano.monitoring import image_statistics
from pyimgano.testing import make_check_images

DETECTOR = PatchCoreDetector(FilterBankFeatures(resize=32, n_components=4))


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A pipeline, the images it was fitted on, and a stream that becomes brighter at part 20."""
    root = tmp_path_factory.mktemp("line")
    images = make_check_images(70)
    for folder, some in (("good", images[:30]), ("new", images[30:])):
        (root / folder).mkdir()
        for i, image in enumerate(some):
            brighter = 1.25 if folder == "new" and i >= 20 else 1.0
            pixels = np.clip(image[..., ::-1] * brighter, 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / folder / f"{i:02d}.png"), pixels)
    calibrator = ThresholdCalibrator(DETECTOR, quantile=0.9)
    pipe = make_pipeline(ImageFormatNormalizer(resize=48), calibrator)
    pipe.fit(sorted(map(str, (root / "good").iterdir())))
    pyimgano.save(pipe, root / "line.joblib")
    return root


def call(*arguments):
    try:
        return infer.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def test_alarms_are_lines_of_json_and_the_next_run_goes_on(line, tmp_path, capsys):
    alarms, out = tmp_path / "alarms.jsonl", tmp_path / "o.jsonl"
    monitored = (line / "line.joblib", "--save-jsonl", out, "--monitor", alarms)
    files = sorted((line / "new").iterdir())
    assert call(*monitored, *files[:25], "--monitor-good", line / "good") == 0
    assert alarms.read_text() == ""
    half = pyimgano.load(f"{alarms}.joblib")
    assert half.n_parts_ == 25
    assert half.threshold_ == pyimgano.load(line / "line.joblib")[-1].threshold_
    assert "trained on, by their out-of-sample scores" in capsys.readouterr().err
    # The images as the pipeline has them read: the sharpness depends on the size.
    small = ImageFormatNormalizer(resize=48).transform([str(path) for path in files[:1]])
    assert half.calibration_quantiles_["sharpness"][1] == pytest.approx(
        image_statistics(small[0])["sharpness"], rel=0.2
    )
    assert call(*monitored, *files[25:]) == 0
    (alarm,) = [json.loads(one) for one in alarms.read_text().splitlines()]
    assert (alarm["statistic"], alarm["direction"]) == ("brightness", "higher")
    assert 20 <= alarm["part"] < 40
    said = capsys.readouterr().err
    assert f"drift: {alarm['message']}; points to: camera" in said
    # The same parts in one run have the same evidence, whatever the batches.
    whole = tmp_path / "whole.jsonl"
    arguments = ("--monitor", whole, "--monitor-good", line / "good", "--batch-size", 3)
    assert call(line / "line.joblib", line / "new", "--save-jsonl", out, *arguments) == 0
    at_once, in_turns = (pyimgano.load(f"{one}.joblib") for one in (whole, alarms))
    assert at_once.evidence_ == in_turns.evidence_
    again = json.loads(whole.read_text())
    assert {**again, "time": None} == {**alarm, "time": None}


def test_a_run_that_is_killed_loses_no_part(line, tmp_path, monkeypatch, capsys):
    def run(alarms, *arguments):
        out = tmp_path / f"{alarms.name}.out"
        words = (line / "line.joblib", "--save-jsonl", out, "--monitor", alarms, *arguments)
        assert call(*words) == 0
        return pyimgano.load(f"{alarms}.joblib")

    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    files, good = sorted((line / "new").iterdir()), ("--monitor-good", line / "good")
    expected = run(whole, line / "new", *good)
    (alarm,) = whole.read_text().splitlines()
    n = json.loads(alarm)["part"] + 1
    with monkeypatch.context() as patch:
        # Killed: the state of the beginning is all that has been written.
        save, calls = _monitoring._Alarms.save, []

        def save_once(alarms):
            if not calls:
                save(alarms)
            calls.append(alarms)

        patch.setattr(_monitoring._Alarms, "save", save_once)
        assert run(killed, *files[:n], *good).n_parts_ == 0
        assert len(killed.read_text().splitlines()) == 1
    journal = Path(f"{killed}.journal")
    assert len(journal.read_text().splitlines()) == n
    journal.write_text(journal.read_text() + '{"part": 999')  # half a line
    found = run(killed, *files[n:])
    assert (found.n_parts_, found.evidence_) == (expected.n_parts_, expected.evidence_)
    assert len(killed.read_text().splitlines()) == 1  # the alarm is there once
    assert journal.read_text() == ""
    # Parts of a monitor whose state was removed are not those of the next one.
    journal.write_text('{"part": 0, "score": 1.0}\n')
    Path(f"{killed}.joblib").unlink()
    assert run(killed, files[0]).n_parts_ == 1
    capsys.readouterr()
    journal.write_text("my notes\n")
    assert call(line / "line.joblib", files[0], "--monitor", killed) == 2
    assert "holds something else than lines of JSON" in capsys.readouterr().err
    assert journal.read_text() == "my notes\n"


def test_without_good_images_the_scores_alone_are_watched(line, tmp_path, capsys):
    alarms = tmp_path / "alarms.jsonl"
    arguments = ("--monitor", alarms, "--save-jsonl", tmp_path / "o.jsonl")
    assert call(line / "line.joblib", line / "new" / "00.png", *arguments) == 0
    assert "watches the scores alone; --monitor-good" in capsys.readouterr().err
    assert pyimgano.load(f"{alarms}.joblib").statistics_ == ["score"]


def test_what_does_not_go_together_is_refused(line, tmp_path, capsys):
    alarms, part = tmp_path / "alarms.jsonl", line / "new" / "00.png"
    arguments = ("--monitor", alarms, "--save-jsonl", tmp_path / "o.jsonl")

    def refused(*options):
        assert call(*options) == 2
        return capsys.readouterr().err

    said = refused(line / "line.joblib", part, "--monitor-good", line / "good")
    assert "--monitor-good belongs to --monitor" in said
    assert call(line / "line.joblib", part, *arguments) == 0
    said = refused(line / "line.joblib", part, *arguments, "--monitor-good", line / "good")
    assert "goes on with what it compared with before" in said
    pipe = pyimgano.load(line / "line.joblib")
    pipe[-1].set_quantile(0.8)
    pyimgano.save(pipe, tmp_path / "strict.joblib")
    assert "for another pipeline or threshold" in refused(
        tmp_path / "strict.joblib", part, *arguments
    )
    pyimgano.save(DETECTOR, f"{alarms}.joblib")
    assert "holds no fitted DriftMonitor" in refused(line / "line.joblib", part, *arguments)
    plain = make_pipeline(ImageFormatNormalizer(), DETECTOR).fit(make_check_images(8))
    pyimgano.save(plain, tmp_path / "plain.joblib")
    said = refused(tmp_path / "plain.joblib", part, *arguments)
    assert "has no ThresholdCalibrator" in said
    said = refused(line / "line.joblib", part, "--monitor", part)
    assert str(part) in said and Path(part).stat().st_size > 100
