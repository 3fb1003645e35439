"""What a name stands for, and opening it without waiting."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from pyimgano.utils._files import kind_of, open_at_once

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, sockets and devices of POSIX")


def test_what_is_no_regular_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        names = {"file": None, "pipe": "a pipe", "socket": "a socket", ".": "a folder"}
        names["/dev/null"] = "a device"
        assert {name: kind_of(os.stat(name).st_mode) for name in names} == names


def test_a_pipe_is_opened_without_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    handle = open_at_once(tmp_path / "pipe")  # os.open would wait for ever
    try:
        assert stat.S_ISFIFO(os.fstat(handle).st_mode)
        assert not os.get_inheritable(handle)
    finally:
        os.close(handle)
