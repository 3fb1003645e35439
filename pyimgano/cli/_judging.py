"""The run of ``pyimgano infer``: batch after batch, record after record."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from pyimgano._signals import Terminated
from pyimgano.cli import _common, _monitoring, _records
from pyimgano.cli._sources import FilesSource

__all__ = ["Run", "finds_defects", "shows_table"]

# How far a score may be from that in the log of a run that is gone on with, on another machine.
_SAME = 1e-6


class Run:
    """Judges the images of a source with a pipeline and writes what comes of it.

    Parameters
    ----------
    options : Namespace
        Of ``pyimgano infer``.
    source : FilesSource
    pipeline : estimator
    writers : list
        Write pictures, maps and masks; of :mod:`pyimgano.cli._pictures`.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        source: FilesSource,
        pipeline: Any,
        writers: Sequence[Any],
    ) -> None:
        from pyimgano.inference import threshold
        from pyimgano.utils._stages import StageTimes

        self.options = options
        self.source = source
        self.pipeline = pipeline
        self.writers = writers
        self.cut = threshold(pipeline) if options.threshold is None else options.threshold
        self.log = _records.Log(options.save_jsonl or "-")
        self.n_before = 0  # records of an earlier run
        self.n_undrawn = 0
        profiled = options.profile or options.save_profile
        self.times = StageTimes() if profiled else None
        self._alarms: Any = None  # of the monitor, if there is one
        self.seconds = 0.0

    # ---- the whole run ----------------------------------------------------------------
    def judge(self) -> None:
        """Judge all images; an error says how far it came.

        Raises
        ------
        StoppedError
            If the run cannot go on.
        """
        begun = False
        started = time.perf_counter()
        try:
            with self._outputs() as write, self._progress() as step:
                begun = True
                step()
                try:
                    for images in self._batches():
                        self._judge_batch(images, write)
                        step()
                except (KeyboardInterrupt, Terminated):
                    if self.options.watch is None:
                        raise
                    # Nothing else ends the watch: what is written is whole, and all there is.
        except BrokenPipeError:
            raise
        except (KeyboardInterrupt, Terminated) as error:
            there = self._where_records_are()
            if there:
                note = f"{self._how_many()} were judged{there}"
                vars(error).setdefault("__notes__", []).append(note)
            raise
        except (OSError, MemoryError, _common.StoppedError) as error:
            if not begun:
                raise
            raise _common.StoppedError(
                f"{_common.message(error)}; stopped after {self._how_many()}"
                f"{self._where_records_are()}"
            ) from error
        finally:
            self.seconds = time.perf_counter() - started

    def _how_many(self) -> str:
        n = self.log.n_records
        if self.source.paths is None:
            return _common.several(n, "image")
        return f"{n} of {len(self.source.paths)} images"

    def _where_records_are(self) -> str:
        """Name the files that hold the records of an unfinished run, to end a sentence."""
        from pyimgano.utils._outputs import part_of

        options = self.options
        files = [one for one in (options.save_jsonl, options.save_csv) if one not in (None, "-")]
        parts = files if options.watch is not None else [str(part_of(one)) for one in files]
        parts = [part for part in parts if os.path.exists(part)]
        if not self.log.n_records or not parts:
            return ""
        more = "; --resume goes on" if options.save_jsonl not in (None, "-") else ""
        return f", whose records are in {' and '.join(parts)}{more}"

    def _check_errors(self, record: dict[str, Any]) -> None:
        most = self.options.max_errors
        if "error" in record and most is not None and self.log.n_errors > most:
            raise _common.StoppedError(
                f"{record['error']}: {_common.several(self.log.n_errors, 'image')} could not be "
                f"judged, and --max-errors is {most}"
            )

    # ---- images -----------------------------------------------------------------------
    def _batches(self) -> Iterable[Any]:
        """Read the images that have no record yet."""
        from pyimgano.inputs._read_ahead import ReadAhead

        options = self.options
        resize, u16_max = _declared(self.pipeline)
        return ReadAhead(
            self.source.iterate(self.log.names),
            batch_size=options.batch_size,
            n_workers=options.num_workers,
            resize=resize,
            u16_max=u16_max,
            time_limit=options.time_limit,
            times=self.times,
        )

    def _judge_batch(self, images: Any, write: _records.Write) -> None:
        from pyimgano.inputs._containers import counted_from
        from pyimgano.utils._stages import timed

        unit = nullcontext() if self.times is None else self.times.unit(len(images))
        with unit, counted_from(self.log.n_records):
            for result in self._results(images):
                if result.error is not None and self.options.on_error == "raise":
                    raise _common.StoppedError(result.error)
                with timed("save"):
                    record = result.to_dict()
                    if self.writers and result.anomaly_map is not None:
                        pixels = images.pixels(result.path)
                        name = self.source.name(result.path)
                        for writer in self.writers:
                            self.n_undrawn += not writer.add(name, record, result, pixels)
                    write(record)
                    if self._alarms is not None:
                        self._alarms.see(result, images)
                self._check_errors(record)

    def _results(self, images: Any) -> Iterator[Any]:
        seconds = self.options.time_limit
        if seconds is None:
            return self._infer(images)
        return iter(self._in_time(images, seconds))

    def _in_time(self, images: Any, seconds: float) -> list[Any]:
        """Judge images; one that takes longer than that has an error."""
        from pyimgano.inference import InferenceResult
        from pyimgano.inputs._containers import counted_from, first_index
        from pyimgano.utils._stages import TimeLimitError, time_limit

        results: list[Any] = []
        with suppress(TimeLimitError), time_limit(seconds * len(images)):
            for result in self._infer(images):
                results.append(result)
        first = first_index()
        for i in range(len(results), len(images)):  # one by one, each with its own limit
            try:
                with time_limit(seconds), counted_from(first + i):
                    (result,) = self._infer(images[i : i + 1])
            except TimeLimitError:
                path = images.paths[i]
                error = f"{path}: was not judged within the time limit of {seconds:g} s"
                result = InferenceResult(first + i, path, error=error)
            results.append(result)
        return results

    def _infer(self, images: Any) -> Iterator[Any]:
        from pyimgano.inference import iter_infer

        return iter_infer(
            self.pipeline,
            images,
            return_maps=bool(self.writers),
            return_defects=finds_defects(self.options),
            on_error="record",
            batch_size=self.options.batch_size,
            threshold=self.cut,
        )

    # ---- records ----------------------------------------------------------------------
    @contextmanager
    def _outputs(self) -> Iterator[_records.Write]:
        """Give a function that writes a record wherever it shall go, and counts it."""
        options, in_place = self.options, self.options.watch is not None
        jsonl, csv = options.save_jsonl, options.save_csv
        table = shows_table(options)
        if jsonl is None and csv is None and not table:
            jsonl = "-"
        with ExitStack() as stack:
            self._alarms = stack.enter_context(
                _monitoring.alarms_of_run(options, self.pipeline, *_declared(self.pipeline))
            )
            writers, lines = [], None
            if jsonl is not None:
                log = self.log if options.resume or in_place else None
                lines = stack.enter_context(_records.json_lines(jsonl, log, in_place=in_place))
                writers.append(lines)
                # A line goes on with one log for years; each record has its own threshold.
                if self.log.last is not None and not in_place:
                    self._check_log(self.log.last)
            if csv is not None:
                names = None
                if self.source.paths is not None:
                    folders = [options.save_maps, options.save_masks, options.save_overlays]
                    names = [*self.source.paths, *filter(None, folders)]
                row = stack.enter_context(
                    _records.csv_file(
                        csv, names, decimal_comma=options.decimal_comma, in_place=in_place
                    )
                )
                for record in self._earlier():
                    row(record)
                writers.append(row)
            if table:
                writers.append(stack.enter_context(_records.table()))

            def write(record: Mapping[str, Any]) -> None:
                for writer in writers:
                    writer(record)
                self.log.take(record)

            self.n_before = self.log.n_records
            yield write
            if lines is not None and not in_place:
                # Whoever reads the lines knows by this one that they are all there.
                lines({"complete": True, **self.counts()})

    def counts(self) -> dict[str, int]:
        """Count the images, those of an earlier run included."""
        log = self.log
        return {
            "n_images": log.n_records,
            "n_anomalous": log.n_anomalous,
            "n_errors": log.n_errors,
        }

    def _earlier(self) -> Iterator[Mapping[str, Any]]:
        """Read the records of the run that this one goes on with."""
        from pyimgano.utils._outputs import part_of

        if not self.log.n_records:
            return iter(())
        path = self.options.save_jsonl
        return _records.records_in(
            path if self.options.watch is not None else str(part_of(path)), self.log.n_records
        )

    def _check_log(self, last: Mapping[str, Any]) -> None:
        """Refuse to go on with records of another pipeline, threshold or image."""
        from pyimgano.inference import infer

        what = f"{self.log.path}: cannot be gone on with:"
        if not math.isclose(last["threshold"], self.cut, rel_tol=_SAME):
            raise _common.UsageError(
                f"{what} its records have the threshold {last['threshold']:.6g}, and this run has "
                f"{self.cut:.6g}; give the same pipeline and --threshold, or another file"
            )
        if not os.path.isfile(last["path"]):
            return  # it has been moved away since, as images in a hot folder are
        (again,) = infer(self.pipeline, last["path"], on_error="record", threshold=self.cut)
        if again.score is None or not math.isclose(again.score, last["score"], rel_tol=_SAME):
            found = again.error if again.score is None else f"{again.score:.6g}"
            raise _common.UsageError(
                f"{what} {last['path']} has the score {last['score']:.6g} there, and now "
                f"{found}; give the pipeline and images of that run, or another file"
            )

    @contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        from pyimgano.utils._progress import progress_callback

        paths = self.source.paths
        # A bar would be in the way of the table, and there is none for a stream.
        shown = _common.on_terminal() and not shows_table(self.options) and paths is not None
        with progress_callback("images", shown) as progress:

            def step() -> None:
                if progress is not None and paths is not None:
                    progress(self.log.n_records, len(paths))

            yield step


def finds_defects(options: argparse.Namespace) -> bool:
    """Tell whether the defects of the images are asked for.

    Parameters
    ----------
    options : Namespace
        Of ``pyimgano infer``.

    Returns
    -------
    bool
    """
    return bool(options.defects or options.save_masks or options.save_overlays)


def shows_table(options: argparse.Namespace) -> bool:
    """Tell whether verdicts are shown to somebody who watches.

    Parameters
    ----------
    options : Namespace
        Of ``pyimgano infer``.

    Returns
    -------
    bool
    """
    taken = "-" in (options.save_jsonl, options.save_csv)
    return not taken and sys.stdout is not None and sys.stdout.isatty()


def _declared(pipeline: Any) -> tuple[tuple[int, int] | None, int | None]:
    """Size and full scale of 16 bits to which a pipeline has files read."""
    from pyimgano._nesting import first_step
    from pyimgano.inputs import ImageFormatNormalizer

    step = first_step(pipeline)
    if not isinstance(step, ImageFormatNormalizer):
        return None, None
    images = step.transform(["image.png"])  # is not opened
    return images.resize, images.u16_max
