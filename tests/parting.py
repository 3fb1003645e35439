"""Processes that part from one which has imported the package, and nothing else.

A new interpreter takes seconds of processor time to import what the package stands on, a process
that parts from such a one none. It has learned nothing of the test that asks for it, and it ends as
any interpreter does.
"""

from __future__ import annotations

import array
import contextlib
import functools
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Parted", "run"]

ROOT = Path(__file__).resolve().parents[1]
_N_FILES = 4  # what is to be done, where the end is told, standard output and standard error


@functools.cache
def _server() -> socket.socket:
    """The way to the process that others part from; it ends when this one does."""
    here, there = socket.socketpair()
    with there:
        subprocess.Popen(
            [sys.executable, "-m", "tests.parting", str(there.fileno())],
            cwd=ROOT,
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
        )
    return here


class Parted:
    """A process that runs Python code as ``python -c`` does.

    Parameters
    ----------
    code : str
        What to run.
    *arguments : str
        What ``sys.argv`` has after its first.
    stdout, stderr : str or None
        A file for what is written there, or None if it is to be closed. By default the process has
        them in files of its own, for the attributes of these names once it has ended.
    cwd : path
        Where it runs; by default, here.
    """

    def __init__(
        self,
        code: str,
        *arguments: Any,
        stdout: str | None = "",
        stderr: str | None = "",
        cwd: Any = ".",
    ) -> None:
        self.returncode: int | None = None
        self._streams = [_stream(one) for one in (stdout, stderr)]
        closed = [i for i, where in ((1, stdout), (2, stderr)) if where is None]
        self._started: subprocess.Popen[bytes] | None = None
        if sys.platform != "linux":  # elsewhere a process that parts may not be a whole one
            self._started = _start(code, map(str, arguments), self._streams, closed, cwd)
            self.pid = self._started.pid
            return
        job = {"code": code, "arguments": ["-c", *map(str, arguments)], "cwd": os.path.abspath(cwd)}
        self._end, there = os.pipe()
        with tempfile.TemporaryFile("w+") as file, contextlib.closing(_server().dup()) as server:
            json.dump({**job, "closed": closed, "environment": dict(os.environ)}, file)
            file.seek(0)
            numbers = [file.fileno(), there, *(one.fileno() for one in self._streams)]
            files = array.array("i", numbers)
            server.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        os.close(there)
        self.pid = self._told(300)  # the first one waits for all imports

    def _told(self, timeout: float) -> int:
        if not select.select([self._end], [], [], timeout)[0]:
            raise TimeoutError(f"nothing was heard of the process for {timeout} s")
        told = os.read(self._end, 8)
        assert told, "the process that others part from has ended"
        return int.from_bytes(told, "little", signed=True)

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None as long as it runs."""
        if self._started is not None:
            self.returncode = self._started.poll()
        elif self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        if self._started is not None:
            self.returncode = self._started.wait(timeout)
        elif self.returncode is None:
            self.returncode = self._told(timeout)
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return self._text(0)

    @property
    def stderr(self) -> str:
        return self._text(1)

    def _text(self, which: int) -> str:
        file = self._streams[which]
        file.seek(0)
        return file.read().decode()

    def __enter__(self) -> Parted:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            self.wait()


def _start(
    code: str, arguments: Iterable[str], streams: list[Any], closed: list[int], cwd: Any
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        stdout=streams[0],
        stderr=streams[1],
        preexec_fn=(lambda: [os.close(one) for one in closed]) if closed else None,
    )


def _stream(where: str | None) -> Any:
    return open(where, "r+b", buffering=0) if where else tempfile.TemporaryFile(buffering=0)


def run(code: str, *arguments: Any, **options: Any) -> Parted:
    """A process that has ended."""
    with Parted(code, *arguments, **options) as process:
        process.wait()
    return process


# ---- in the process that others part from ------------------------------------------------
def _next_job(server: socket.socket) -> dict[str, Any] | None:
    """What a process that has parted is to do; None where there will be nothing more."""
    while True:
        space = socket.CMSG_SPACE(_N_FILES * array.array("i").itemsize)
        message, about, *_ = server.recvmsg(1, space)
        if not message:
            return None
        files = array.array("i")
        files.frombytes(about[0][2][: _N_FILES * files.itemsize])
        child = os.fork()
        if not child:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            server.close()
            return _become(*files)
        os.write(files[1], child.to_bytes(8, "little", signed=True))
        _, status = os.waitpid(child, 0)
        ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        os.write(files[1], ended.to_bytes(8, "little", signed=True))
        for file in files:
            os.close(file)


def _become(request: int, end: int, *streams: int) -> dict[str, Any]:
    """Take over what the interpreter has by its command line and its surroundings."""
    with open(request) as file:
        job = json.load(file)
    os.close(end)
    sys.argv[:] = job["arguments"]
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    for number, name, given in zip((1, 2), ("stdout", "stderr"), streams):
        os.dup2(given, number)
        os.close(given)
        errors, by_lines = (None, False) if number == 1 else ("backslashreplace", True)
        stream: Any = os.fdopen(number, "w", errors=errors, closefd=False)
        stream.reconfigure(line_buffering=by_lines)
        if number in job["closed"]:
            os.close(number)
            stream = None
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return job


def _import_all() -> None:
    import pyimgano

    for info in pkgutil.walk_packages(pyimgano.__path__, prefix="pyimgano."):
        importlib.import_module(info.name)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as to_tests:
        todo = _next_job(to_tests)
    if todo is not None:
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(todo["code"], "<string>", "exec"), vars(sys.modules["__main__"]))
