"""Files for ``pyimgano.load`` as somebody with bad intentions makes them."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import joblib

from pyimgano.persistence._checksum import Checksum

__all__ = ["Assembler", "vouch_for", "write"]


def vouch_for(path: Path) -> Path:
    """Write a side file that fits."""
    content, checksum = path.read_bytes(), Checksum()
    checksum.update(memoryview(content))
    entry = {"checksum": checksum.text(), "sha256": hashlib.sha256(content).hexdigest()}
    path.with_name(f"{path.name}.json").write_text(json.dumps(entry))
    return path


def write(content: Any, path: Path, **options: Any) -> Path:
    """Write bytes, or what joblib makes of an object, with a side file that fits."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        joblib.dump(content, path, **options)
    return vouch_for(path)


class Assembler:
    """Pickles, protocol 4, piece by piece; each method returns bytes that push one value."""

    START = b"\x80\x04"
    MARK, STOP, POP = b"(", b".", b"0"

    @classmethod
    def file(cls, *pieces: bytes) -> bytes:
        return cls.START + b"".join(pieces) + cls.STOP

    @staticmethod
    def value(plain: Any) -> bytes:
        """Numbers, strings, bytes, None, and containers of them, without use of the memo."""
        return pickletools.optimize(pickle.dumps(plain, protocol=3))[2:-1]

    @classmethod
    def name(cls, full_name: str) -> bytes:
        module, _, name = full_name.rpartition(".")
        return cls.text(module) + cls.text(name) + b"\x93"

    @staticmethod
    def text(value: str) -> bytes:
        content = value.encode()
        return b"X" + struct.pack("<I", len(content)) + content

    @classmethod
    def call(cls, function: str | bytes, *args: bytes) -> bytes:
        """The result of calling a function with some values."""
        named = cls.name(function) if isinstance(function, str) else function
        return named + cls.MARK + b"".join(args) + b"tR"

    @classmethod
    def new(cls, function: str) -> bytes:
        """An empty object of a class."""
        return cls.name(function) + b")\x81"

    @classmethod
    def with_state(cls, made: bytes, state: bytes) -> bytes:
        return made + state + b"b"

    @classmethod
    def dict(cls, **items: bytes) -> bytes:
        inner = b"".join(cls.text(key) + item for key, item in items.items())
        return b"}" + cls.MARK + inner + b"u"

    @classmethod
    def pairs(cls, **items: bytes) -> bytes:
        """A list of (key, value), which is no dict and can become one."""
        inner = b"".join(cls.text(key) + item + b"\x86" for key, item in items.items())
        return b"]" + cls.MARK + inner + b"e"
