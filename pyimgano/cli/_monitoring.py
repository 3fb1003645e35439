"""Drift on the line: what ``pyimgano infer --monitor`` watches, and where it writes alarms."""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from pyimgano.cli import _common
from pyimgano.cli._images import find_images
from pyimgano.cli._saved import Repeated

__all__ = [
    "add_monitor_options",
    "alarms_of_run",
    "check_monitor_options",
    "journal_of",
    "state_of",
]

# Least seconds between two times that the state is written, if there is no alarm.
_SECONDS_BETWEEN = 5.0


def add_monitor_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the drift monitor.

    Parameters
    ----------
    parser : ArgumentParser
    """
    group = parser.add_argument_group("drift")
    group.add_argument(
        "--monitor",
        metavar="FILE",
        help="watch whether good parts are still those calibrated on, and append a line of JSON "
        "for each alarm; what was seen so far is kept beside it, in FILE.joblib",
    )
    group.add_argument(
        "--monitor-good",
        metavar="PATH",
        nargs="+",
        action=Repeated,
        default=[],
        help="good images to compare with, as the camera gave them in calibration: brightness, "
        "contrast and sharpness are watched as well; the first time only",
    )


def state_of(options: argparse.Namespace) -> str | None:
    """Give the file that keeps what the monitor has seen; None without a monitor."""
    return None if options.monitor is None else f"{options.monitor}.joblib"


def journal_of(options: argparse.Namespace) -> str | None:
    """Give the file of the parts since that was written; None without a monitor."""
    return None if options.monitor is None else f"{options.monitor}.journal"


def check_monitor_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is loaded.

    Parameters
    ----------
    options : Namespace
        Of ``pyimgano infer``.
    """
    if options.monitor_good and options.monitor is None:
        raise _common.UsageError("--monitor-good belongs to --monitor; give that as well")
    state = state_of(options)
    if options.monitor_good and state is not None and os.path.exists(state):
        raise _common.UsageError(
            f"--monitor-good: {state} goes on with what it compared with before; leave the option "
            "out, or remove that file to begin anew"
        )


class _Alarms:
    """Feeds a monitor, and writes its alarms and its state.

    The state is written now and then, and each part since then into a journal, from which the next
    run takes it if this one is killed.
    """

    def __init__(self, monitor: Any, state: str, file: Any, journal: Any) -> None:
        from pyimgano.monitoring import IMAGE_STATISTICS

        self._monitor, self._state, self._file, self._journal = monitor, state, file, journal
        self._watched = ["score", "error"]
        if IMAGE_STATISTICS[0] in monitor.statistics_:
            self._watched += IMAGE_STATISTICS
        self._saved = time.monotonic()

    def see(self, result: Any, images: Any) -> None:
        """Take the next result, and write a line for each alarm.

        Parameters
        ----------
        result : InferenceResult
        images : batch of images
            ``images.pixels(path)`` are those of a file.
        """
        from pyimgano.monitoring import image_statistics
        from pyimgano.utils._json import json_line

        record = result.to_dict()
        if len(self._watched) > 2 and result.error is None:
            record.update(image_statistics(images.pixels(result.path)))
        part = {name: record[name] for name in self._watched if name in record}
        line = json_line({"part": self._monitor.n_parts_, **part})
        self._journal.write(line.encode("utf-8", "backslashreplace"))
        alarms = self._take(part, ())
        if alarms or time.monotonic() - self._saved >= _SECONDS_BETWEEN:
            self.save()

    def _take(self, part: dict[str, Any], told: Collection[tuple[Any, ...]]) -> bool:
        """Let the monitor see a part; tell whether there were alarms."""
        from pyimgano.utils._json import json_line

        alarms = self._monitor.update([part])
        for alarm in alarms:
            if (alarm["statistic"], alarm["part"], alarm["evidence"]) not in told:
                self._file.write(json_line(alarm).encode("utf-8"))
                _common.say(f"drift: {alarm['message']}; points to: {alarm['points_to']}")
        return bool(alarms)

    def catch_up(self, parts: Sequence[dict[str, Any]], alarms: Sequence[dict[str, Any]]) -> None:
        """See the parts of a run that was killed after its state had been written.

        Parameters
        ----------
        parts : sequence of dict
            Content of the journal.
        alarms : sequence of dict
            Those that are written already.
        """
        told = {tuple(map(one.get, ("statistic", "part", "evidence"))) for one in alarms}
        for part in parts:
            # Older ones are there where the run was killed before it could empty the journal.
            if part.get("part") == self._monitor.n_parts_:
                self._take(part, told)

    def save(self) -> None:
        """Write the state, and empty the journal."""
        from pyimgano.persistence import save

        save(self._monitor, self._state)
        self._journal.clear()
        self._saved = time.monotonic()


@contextmanager
def alarms_of_run(
    options: argparse.Namespace,
    pipeline: Any,
    resize: tuple[int, int] | None,
    u16_max: int | None,
) -> Iterator[_Alarms | None]:
    """Watch the results of a run; None without ``--monitor``.

    Parameters
    ----------
    options : Namespace
        Of ``pyimgano infer``.
    pipeline : fitted estimator
    resize, u16_max
        Size and full scale to which the pipeline has files read.
    """
    state, journal = state_of(options), journal_of(options)
    if state is None or journal is None:
        yield None
        return
    from pyimgano.inputs import ImageSequence
    from pyimgano.utils._outputs import append_write

    read = functools.partial(ImageSequence, resize=resize, u16_max=u16_max)
    begins = not os.path.exists(state)
    monitor = _monitor(options, pipeline, state, read)
    told, parts = _Lines(options.monitor), _Lines(journal)
    with ExitStack() as stack:
        file = stack.enter_context(append_write(options.monitor, keep=told.read))
        unsaved = stack.enter_context(append_write(journal, keep=parts.read))
        alarms = _Alarms(monitor, state, file, unsaved)
        if not begins:  # else they are of another monitor, whose state has been removed
            alarms.catch_up(parts.found, told.found)
        alarms.save()  # from now on the journal goes with a state
        try:
            yield alarms
        finally:
            alarms.save()


def _monitor(
    options: argparse.Namespace, pipeline: Any, state: str, read: Callable[[list[str]], Any]
) -> Any:
    """Load the monitor of earlier runs, or begin with one."""
    from pyimgano._nesting import find_calibrator
    from pyimgano.monitoring import DriftMonitor
    from pyimgano.persistence import load

    calibrator = find_calibrator(pipeline)
    if calibrator is None:
        raise _common.UsageError(
            f"--monitor: {options.pipeline} has no ThresholdCalibrator, which knows the scores of "
            "good parts; fit the detector within one, as pyimgano train does"
        )
    if not os.path.exists(state):
        if options.monitor_good:
            return _of_good_images(options, pipeline, calibrator, read)
        _common.say(
            f"{options.prog}: the monitor watches the scores alone; --monitor-good IMAGES has it "
            "watch brightness, contrast and sharpness as well"
        )
        if not calibrator._calibrated_on_new_images:
            _say_trained_on(options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it has been said
            return DriftMonitor().fit(calibrator)
    monitor = load(state)
    if not isinstance(monitor, DriftMonitor) or not hasattr(monitor, "statistics_"):
        raise _common.UsageError(f"--monitor: {state} holds no fitted DriftMonitor; remove it")
    if monitor.threshold_ != calibrator.threshold_:
        raise _common.UsageError(
            f"--monitor: {state} watches parts with a threshold of {monitor.threshold_:.6g}, and "
            f"{options.pipeline} has {calibrator.threshold_:.6g}; for another pipeline or "
            "threshold give another file, or remove that one to begin anew"
        )
    return monitor


def _of_good_images(
    options: argparse.Namespace,
    pipeline: Any,
    calibrator: Any,
    read: Callable[[list[str]], Any],
) -> Any:
    """Fit a monitor to good images, which the pipeline may have been trained on or not."""
    from copy import copy

    import numpy as np

    from pyimgano._nesting import input_of
    from pyimgano.calibration import ThresholdCalibrator
    from pyimgano.monitoring import DriftMonitor

    paths, _ = find_images(options.monitor_good)
    # Training images count by their out-of-sample scores, or are refused. A copy, since the
    # threshold of the pipeline stays where it is.
    scored = copy(calibrator).recalibrate(input_of(calibrator, pipeline, paths))
    if "training images" in scored.provenance_["scores"]:
        _say_trained_on(options)
    scores = np.asarray(scored.calibration_scores_).reshape(-1, 1)
    good = ThresholdCalibrator(quantile=0.5).fit(scores).set_threshold(calibrator.threshold_)
    return DriftMonitor().fit(good, read(paths))


def _say_trained_on(options: argparse.Namespace) -> None:
    _common.say(
        f"{options.prog}: warning: parts are compared with images that the pipeline was trained "
        "on, by their out-of-sample scores; these may differ a little from the scores of new "
        "parts, which can raise an alarm after some hundred of them; give --monitor-good new good "
        "images"
    )


class _Lines:
    """The lines of JSON of a log that is gone on with."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.found: list[dict[str, Any]] = []

    def read(self, file: BinaryIO) -> int:
        """Read them, and return their bytes; a power cut can leave half of the last one."""
        content = file.read()
        n_bytes = content.rfind(b"\n") + 1
        try:
            found = [json.loads(line) for line in content[:n_bytes].splitlines()]
        except ValueError:
            found = [None]
        if not all(isinstance(one, dict) for one in found):
            raise _common.UsageError(
                f"--monitor: {self._path} holds something else than lines of JSON; move it away"
            )
        self.found = found
        return n_bytes
