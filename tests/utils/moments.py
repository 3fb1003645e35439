"""Moments at which a program may end, for tests of what it leaves."""

from __future__ import annotations

import sys
from contextlib import contextmanager

__all__ = ["before_every_line", "files_of_at_most"]


@contextmanager
def before_every_line(check, *modules):
    """Call ``check`` before each line that the modules run: kill -9 would leave what is there."""
    files = {module.__file__ for module in modules}

    def each(frame, event, argument):
        if event == "line":
            check()
        return each

    before = sys.gettrace()
    sys.settrace(lambda frame, event, arg: each if frame.f_code.co_filename in files else None)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def files_of_at_most(n_bytes):
    """Let files grow no further, as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
