"""Bars of long stages: shown also where nothing is reported, gone afterwards."""

from __future__ import annotations

import threading
import time

import pytest

from pyimgano.utils import _progress
from pyimgano.utils._progress import progress_callback


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_progress, "_DELAY", 0.02)
    monkeypatch.setattr(_progress, "_TICK", 0.02)


def wait_for(text, capsys):
    """What was written to stderr until the text was."""
    seen, until = "", time.monotonic() + 30
    while text not in seen and time.monotonic() < until:
        time.sleep(0.01)
        seen += capsys.readouterr().err
    assert text in seen
    return seen


def test_a_stage_that_reports_nothing_says_what_it_is(impatient, capsys):
    with progress_callback("metric learning", True):
        seen = wait_for("metric learning [", capsys)
    assert "it/s" not in seen
    end = capsys.readouterr().err
    assert end.endswith("\r") and "\n" not in seen + end  # cleared
    assert not any(thread.name == "pyimgano-progress" for thread in threading.enumerate())


def test_a_stage_that_reports_shows_how_far_it_is(impatient, capsys):
    with progress_callback("coreset", True) as progress:
        progress(1, 4)
        wait_for("coreset:  25%", capsys)
        progress(3, 4)
        wait_for("coreset:  75%", capsys)


def test_short_stages_and_unwanted_bars_write_nothing(capsys):
    with progress_callback("coreset", True) as progress:
        progress(1, 2)
    with progress_callback("coreset", False) as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


def test_an_error_ends_the_bar(impatient, capsys):
    with pytest.raises(KeyError), progress_callback("coreset", True):
        wait_for("coreset", capsys)
        raise KeyError
    assert not any(thread.name == "pyimgano-progress" for thread in threading.enumerate())
