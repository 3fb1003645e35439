"""Image files that are read ahead of their use, a batch at a time, from a list or a stream."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import numpy as np

from pyimgano.exceptions import ImageReadError
from pyimgano.inputs._formats import resize_image
from pyimgano.inputs._reading import read_image
from pyimgano.inputs._sequence import ImageSequence, _check_batch_size
from pyimgano.utils._stages import StageTimes, timed

__all__ = ["ReadAhead", "ReadImages"]

_FULL_U16 = 65535


class _Reading:
    """One file, and what came of reading it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.started = 0.0
        self.begun, self.done = Event(), Event()
        self.image: np.ndarray | None = None
        self.error: BaseException | None = None


class ReadAhead:
    """Read image files in threads while those before them are worked on.

    Threads, not processes: decoders release the interpreter's lock, and pixels need not be
    copied from one process to another.

    Parameters
    ----------
    paths : iterable of str or None
        The files. None says that there is no further one at the moment, so that those read by
        then are handed out; the iterator is asked again afterwards, and may then wait.
    batch_size : int
        Files handed out at a time.
    n_workers : int
        Number of threads. With 0, a file is read when its pixels are asked for.
    resize : (height, width), default=None
        Size to which the images are brought, as in :class:`ImageSequence`.
    u16_max : int, default=None
        Value of full white in 16-bit files, as in :class:`ImageSequence`.
    time_limit : float, default=None
        Seconds that reading a file may take; it is then an error of that file. Needs a thread at
        least, of which one that hangs is left behind.
    times : StageTimes, default=None
        Takes the time of the stages of reading.
    """

    def __init__(
        self,
        paths: Iterable[str | None],
        *,
        batch_size: int,
        n_workers: int,
        resize: tuple[int, int] | None = None,
        u16_max: int | None = None,
        time_limit: float | None = None,
        times: StageTimes | None = None,
    ) -> None:
        self.paths = paths
        self.batch_size = batch_size
        self.n_workers = n_workers if time_limit is None else max(n_workers, 1)
        self.resize = resize
        self.u16_max = u16_max
        self.time_limit = time_limit
        self._times = times
        self._lock = Lock()
        self._waiting: SimpleQueue[_Reading | None] = SimpleQueue()

    def __iter__(self) -> Iterator[ReadImages]:
        """Yield the files, ``batch_size`` at a time, or fewer if no more are there yet."""
        source, at_end = iter(self.paths), object()
        # While one batch is worked on, the next is read, and the one after it begun.
        n_ahead = 2 * self.batch_size if self.n_workers else 0
        pending: deque[_Reading] = deque()
        for _ in range(self.n_workers):
            self._start_thread()
        try:
            ended = False
            while not ended or pending:
                while not ended and len(pending) < self.batch_size + n_ahead:
                    path: Any = next(source, at_end)
                    ended = path is at_end
                    if ended or path is None:
                        break
                    reading = _Reading(path)
                    pending.append(reading)
                    if self.n_workers:
                        self._waiting.put(reading)
                if pending:
                    n = min(self.batch_size, len(pending))
                    yield ReadImages([pending.popleft() for _ in range(n)], self)
        finally:
            with suppress(Empty):  # the threads are taking them, too
                while True:
                    self._waiting.get_nowait()
            for _ in range(self.n_workers):
                self._waiting.put(None)

    def wait_for(self, reading: _Reading) -> np.ndarray:
        """Give the pixels of a file, once they are there.

        Parameters
        ----------
        reading : _Reading

        Returns
        -------
        ndarray of shape (height, width, 3), uint8

        Raises
        ------
        ImageReadError
            If it cannot be read, or not within the time limit.
        ImageFormatError
            If it holds no image of a kind that can be judged.
        """
        if not self.n_workers and not reading.done.is_set():
            self._read(reading)
        reading.begun.wait()
        left = None
        if self.time_limit is not None:
            left = max(0.0, reading.started + self.time_limit - time.monotonic())
        if not reading.done.wait(left) and self._abandon(reading):
            self._start_thread()  # in place of the one that hangs
        if reading.error is not None:
            raise reading.error.with_traceback(None)
        assert reading.image is not None
        return reading.image

    def _start_thread(self) -> None:
        # Daemons: one that waits for a dead network drive must not keep the program from ending.
        Thread(target=self._work, name="pyimgano-read", daemon=True).start()

    def _work(self) -> None:
        while (reading := self._waiting.get()) is not None:
            if not self._read(reading):
                return  # another thread has taken the place of this one

    def _read(self, reading: _Reading) -> bool:
        """Read a file; False if nobody waits for it any more."""
        image = error = None
        reading.started = time.monotonic()
        reading.begun.set()
        try:
            with self._times.unit(1) if self._times is not None else nullcontext():
                image = read_image(reading.path, self.u16_max or _FULL_U16, self.resize)
        except BaseException as found:  # a fault of the program: of the thread that asks for it
            error = found
        with self._lock:
            if reading.done.is_set():
                return False
            reading.image, reading.error = image, error
            reading.done.set()
        return True

    def _abandon(self, reading: _Reading) -> bool:
        """Wait no longer for a file; False if it is there after all."""
        with self._lock:
            if reading.done.is_set():
                return False
            reading.error = ImageReadError(
                reading.path, f"was not read within the time limit of {self.time_limit:g} s"
            )
            reading.done.set()
        return True


class ReadImages(ImageSequence):
    """Some of the files that a :class:`ReadAhead` reads; their pixels are kept as long as this is.

    Parameters
    ----------
    readings : sequence of _Reading
    reader : ReadAhead
    """

    def __init__(self, readings: Sequence[_Reading], reader: ReadAhead) -> None:
        super().__init__(
            [one.path for one in readings], resize=reader.resize, u16_max=reader.u16_max
        )
        self._reader: ReadAhead | None = reader
        self._readings = {one.path: one for one in readings}

    def pixels(self, path: str) -> np.ndarray:
        """Give the pixels of a file that could be read, at the size that the reader was given.

        Parameters
        ----------
        path : str

        Returns
        -------
        ndarray of shape (height, width, 3), uint8
            Those that were judged, whatever has become of the file since.
        """
        assert self._reader is not None
        return self._reader.wait_for(self._readings[path])

    def iter_blocks(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        _check_batch_size(batch_size)
        for start in range(0, len(self), batch_size):
            yield [self._read(path) for path in self.paths[start : start + batch_size]]

    def _read(self, path: str) -> np.ndarray:
        reader = self._reader
        if (
            reader is None
            or reader.resize not in (None, self.resize)
            or (reader.u16_max or _FULL_U16) != (self.u16_max or _FULL_U16)
        ):
            return super()._read(path)  # a later step declares something else
        image = reader.wait_for(self._readings[path])
        if self.resize == reader.resize or self.resize is None:
            return image
        with timed("preprocess"):
            return resize_image(image, self.resize)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reader": None, "_readings": {}}
