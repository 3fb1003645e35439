"""Names of the images to judge: of files that are there, on standard input, or in a hot folder."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pyimgano.cli import _common
from pyimgano.cli._images import find_images

__all__ = ["FilesSource", "HotFolder", "NamesOnInput"]


class FilesSource:
    """Files that are there when the command begins.

    Parameters
    ----------
    inputs : list of str
        Folders, files and patterns.

    Attributes
    ----------
    paths : list of str or None
        All files; None where they are not known beforehand.
    """

    paths: list[str] | None

    def __init__(self, inputs: list[str]) -> None:
        self.paths, names = find_images(inputs)
        self._names = dict(zip(self.paths, names))

    def name(self, path: str) -> str:
        """Give the relative name of a file, after which those made from it are called."""
        return self._names[path]

    def iterate(self, done: Collection[str]) -> Iterator[str | None]:
        """Yield the paths of the files that are not done; None where there is none yet."""
        assert self.paths is not None
        for path in self.paths:
            if path not in done:
                yield path


class NamesOnInput(FilesSource):
    """Files whose names come on standard input, a line each."""

    def __init__(self) -> None:
        if sys.stdin is None or sys.stdin.isatty():
            raise _common.UsageError(
                "-: names of images are read from standard input, and nothing writes there; pipe "
                "them in, such as find photos -name '*.png' | pyimgano infer line3.joblib -"
            )
        self.paths = None

    def name(self, path: str) -> str:
        # A colon cannot be in a file name everywhere.
        return re.sub(r"[:\\/]+", "/", os.path.abspath(path)).lstrip("/")

    def iterate(self, done: Collection[str]) -> Iterator[str | None]:
        from queue import Empty, Queue
        from threading import Thread

        lines: Queue[str | None] = Queue(maxsize=1024)

        def read() -> None:
            # Names are bytes, which need not be those of the locale's encoding.
            for line in sys.stdin.buffer:
                lines.put(os.fsdecode(line.rstrip(b"\r\n")))
            lines.put(None)

        # In a thread, since a name that has come must not wait for the next one.
        Thread(target=read, name="pyimgano-names", daemon=True).start()
        seen: set[str] = set()
        while True:
            try:
                path = lines.get_nowait()
            except Empty:
                yield None
                path = lines.get()
            if path is None:
                return
            if path and path not in done and path not in seen:
                seen.add(path)
                yield path


# Seconds between two looks into the folder, for which a file must stay as it is, and for which one
# that does not decode is waited for.
_POLL, _SETTLED, _PATIENCE = 0.25, 1.0, 10.0


class HotFolder(FilesSource):
    """Images that come into a folder, or a folder below it, while the command runs.

    A file is taken when its size and modification time have stayed the same for a second, and it
    decodes whole or has not changed for ten seconds. What counts is its path: it is taken
    once.

    Parameters
    ----------
    folder : str
    """

    def __init__(self, folder: str) -> None:
        if not os.path.isdir(folder):
            raise _common.UsageError(f"--watch {folder}: there is no such folder; make it first")
        # Absolute: after a restart elsewhere, the log must still know the files.
        self.folder = os.path.abspath(folder)
        self.paths = None

    def name(self, path: str) -> str:
        return os.path.relpath(path, self.folder)

    def iterate(self, done: Collection[str]) -> Iterator[str | None]:
        from pyimgano.inputs._sequence import image_files, size_and_mtime

        taken = set(done)
        waiting: dict[str, tuple[Any, float]] = {}  # what a file was like, and since when
        while True:
            now, before, waiting = time.monotonic(), waiting, {}
            for path in map(str, image_files(Path(self.folder))):
                if path in taken:
                    continue
                state = size_and_mtime(path)
                if state is None:  # it has been moved away
                    continue
                old, since = before.get(path, (None, now))
                if state != old:
                    since = now
                if self._is_ready(path, now - since):
                    taken.add(path)
                    yield path
                else:
                    waiting[path] = state, since
            yield None
            time.sleep(_POLL)

    @staticmethod
    def _is_ready(path: str, unchanged: float) -> bool:
        from pyimgano.exceptions import ImageReadError
        from pyimgano.inputs._reading import read_raw

        if unchanged < _SETTLED:
            return False
        if unchanged > _PATIENCE:
            return True  # nobody writes it any more: if it is damaged, that is its record
        try:
            read_raw(path)
        except ImageReadError:
            return False
        return True
