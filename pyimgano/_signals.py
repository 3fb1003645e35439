"""SIGTERM unwinds the program as Ctrl-C does, so that nothing half-written stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

__all__ = ["Terminated", "cleaning_up_on_sigterm", "raising_on_sigterm"]


class Terminated(BaseException):
    """SIGTERM has come; not an Exception, so that nothing takes it for an error of an image."""


@contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """Raise :class:`Terminated` where SIGTERM meets the program.

    In any other thread than the main one this does nothing: only that one may set handlers.
    """
    handlers: list[Any] = []

    def stop(number: int, frame: object) -> NoReturn:
        # Once is enough: a second one must not cut the cleaning up short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        handlers.append(signal.SIG_IGN)
        raise Terminated

    handlers.append(stop)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        # A generator that was left within the block ends when it is collected as garbage, whenever
        # that is. By then the handler may be that of another block.
        if signal.getsignal(signal.SIGTERM) in handlers:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def cleaning_up_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process as ever, but only after the block was left as by an error.

    A program that handles SIGTERM itself is left alone.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        with raising_on_sigterm():
            yield
    except Terminated:
        os.kill(os.getpid(), signal.SIGTERM)
        raise
