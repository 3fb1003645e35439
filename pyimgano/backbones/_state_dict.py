"""Reading files of network weights: arrays by name, and never code."""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pyimgano.exceptions import WeightsError
from pyimgano.utils._optional import import_optional

__all__ = ["read_state_dict"]

# torch's storages of values that numpy has as well.
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# A tensor may stand for more values than are stored, but not for any number.
_MOST_REPEATED = 2**24
# How files begin that torch wrote before 1.6.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# What the readers raise on a damaged file depends on where the damage is.
_DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
_HOW = "Expected what torch.save(model.state_dict(), path) writes."


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a state-dict file by name; only tensors are unpickled, never code.

    Files of plain tensors are read without torch, in the format before its version 1.6 as well;
    tensors of other kinds than numpy's, bfloat16 among them, by torch.

    Parameters
    ----------
    path : str or path-like
        File written by ``torch.save(model.state_dict(), path)``, or one that holds this
        dict under the key ``"state_dict"``, or a safetensors file.

    Returns
    -------
    dict of str to ndarray
        Of the dtypes in the file; bfloat16, which numpy lacks, becomes float32.

    Raises
    ------
    WeightsError
        When there is no such file, or when it is not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"the weights file {path} {what}. Give the path of a state dict, leave weights out "
            "for the published ones, or set weights=None for a random network."
        )
    if path.suffix == ".safetensors" or _begins_like_safetensors(path):
        return _read_safetensors(path)
    _check_kind(path)
    try:
        content = _read_plain(path)
        if content is None:
            content = _read_by_torch(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged or holds other objects than tensors, which are not loaded "
            f"because they could run code. {_HOW}"
        ) from error
    except _DAMAGE as error:
        raise WeightsError(f"{path} cannot be read as network weights. {_HOW}") from error
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict. {_HOW}")
    strangers = [key for key, value in content.items() if not isinstance(value, np.ndarray)]
    if strangers:
        raise WeightsError(
            f"{path} is not a state dict: {strangers[0]!r} is no tensor. {_HOW} "
            'A checkpoint may hold that dict under the key "state_dict".'
        )
    return dict(content)


def _check_kind(path: Path) -> None:
    """Raise if a file is none of torch's: an archive (zip, or tar before 1.0) or a pickle."""
    with open(path, "rb") as file:
        head = file.read(262)
    if not head.startswith((b"PK", b"\x80")) and head[257:] != b"ustar":
        raise WeightsError(f"{path} is no file of network weights. {_HOW}")


def _begins_like_safetensors(path: Path) -> bool:
    """Tell by the first bytes, the length of a JSON header: caches keep files without suffix."""
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and 2 <= length <= path.stat().st_size - 8


def _state_of(content: Any, arrays: Callable[[Any], Any]) -> Any:
    """The state dict in what a file holds, its tensors made arrays."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        return content
    return {key: arrays(value) for key, value in content.items()}


# ---- files of plain tensors, without torch --------------------------------------------


class _NotPlain(Exception):
    """The file holds more than plain tensors, or is of another format."""


class _Storage(NamedTuple):
    """Reference to a block of values in the file; the pickle itself gets no access to memory."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """Description of a tensor in a file; every number in it is checked before use."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _read_plain(path: Path) -> Any:
    """State dict of a file that holds plain tensors, or None."""
    try:
        if zipfile.is_zipfile(path):
            return _read_zipped(path)
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                raise zipfile.BadZipFile("the file has lost its end")
            file.seek(0)
            return _read_legacy(file)
    except _NotPlain:
        return None


def _read_zipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: one for one in archive.infolist()}

        def read(name: str) -> bytes:
            # torch compresses nothing; a small file could unfold to any size.
            if members[name].compress_type != zipfile.ZIP_STORED:
                raise _NotPlain
            return archive.read(name)

        (pickled,) = (name for name in members if name.endswith("/data.pkl"))
        folder = pickled[: -len("data.pkl")]
        if f"{folder}byteorder" in members and read(f"{folder}byteorder") != b"little":
            raise _NotPlain
        content = _Unpickler(io.BytesIO(read(pickled))).load()
        stored: dict[_Storage, np.ndarray] = {}

        def array(value: Any) -> Any:
            if not isinstance(value, _Tensor):
                return value
            storage = value.storage
            if storage not in stored:
                values = np.frombuffer(read(f"{folder}data/{storage.key}"), storage.dtype)
                stored[storage] = values
            return _array(value, stored[storage])

        return _state_of(content, array)


def _read_legacy(file: BinaryIO) -> Any:
    """State dict of a file of the format before torch 1.6: pickles, then the values."""
    try:
        begin = [_Unpickler(file).load() for _ in range(3)]
    except (*_DAMAGE, pickle.UnpicklingError) as error:
        raise _NotPlain from error
    if begin[:2] != [_MAGIC, _PROTOCOL] or not begin[2].get("little_endian"):
        raise _NotPlain
    unpickler = _Unpickler(file)
    content = unpickler.load()
    known = {storage.key: storage for storage in unpickler.storages}
    stored = {}
    for key in _Unpickler(file).load():
        size = int.from_bytes(file.read(8), "little", signed=True)
        length = size * np.dtype(known[key].dtype).itemsize
        if size != known[key].size:
            raise ValueError(f"storage {key} has {size} values, not {known[key].size}")
        stored[known[key]] = np.frombuffer(file.read(length), known[key].dtype)
    return _state_of(
        content, lambda one: _array(one, stored[one.storage]) if isinstance(one, _Tensor) else one
    )


# In Python, which lets one step be guarded; the pickles themselves are short.
_PyUnpickler: Any = pickle._Unpickler


class _Unpickler(_PyUnpickler):
    """Makes placeholders of tensors and the containers around them; anything else ends it."""

    dispatch = _PyUnpickler.dispatch.copy()

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: list[_Storage] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise _NotPlain

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or dtype not in _DTYPES.values() or any(one for one in view):
            raise _NotPlain
        self.storages.append(_Storage(str(key), dtype, int(size)))
        return self.storages[-1]

    def load_build(self) -> None:
        # It would set attributes of whatever is there, our own functions among it.
        if type(self.stack[-2]) is not OrderedDict:
            raise _NotPlain
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if type(storage) is not _Storage:
        raise ValueError("a tensor without a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if type(tensor) is not _Tensor:
        raise ValueError("a parameter that is no tensor")
    return tensor


def _array(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """The array that a tensor stands for, which must lie within its storage."""
    storage, offset, shape, strides = tensor
    if len(values) != storage.size:
        raise ValueError(f"storage {storage.key} has {len(values)} of {storage.size} values")
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError("a tensor of impossible shape")
    if 0 in shape:
        return np.empty(shape, values.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if last >= len(values) or math.prod(shape) > max(len(values), _MOST_REPEATED):
        raise ValueError("a tensor beyond its storage")
    in_bytes = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, in_bytes, writeable=False)


# ---- everything else, by torch ----------------------------------------------------------


def _read_by_torch(path: Path) -> Any:
    torch = import_optional("torch", "torch", f"reading {path.name}, no plain file of tensors,")
    return _state_of(torch.load(path, map_location="cpu", weights_only=True), _by_torch)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    safetensors = import_optional("safetensors", "timm", f"reading {path.name}")
    tensors = import_optional("safetensors.torch", "timm", f"reading {path.name}")
    try:
        return _state_of(tensors.load_file(path), _by_torch)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}") from error


def _by_torch(value: Any) -> Any:
    """The array of a tensor of torch's; anything else as it is."""
    torch = import_optional("torch", "torch", "a file that only torch reads")
    if not torch.is_tensor(value):
        return value
    # numpy has no bfloat16 and no float8.
    return (value.float() if value.is_floating_point() else value).detach().numpy()
