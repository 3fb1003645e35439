"""Reading files of network weights: arrays by name, and never code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
_HOW = "Expected what torch.save(model.state_dict(), path) writes."


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays of a state-dict file by name; only tensors are unpickled, never code.

    What torch has written since 2020 (version 1.6) is read here, without torch; older files, and
    tensors of other kinds than numpy's, by torch.

    Parameters
    ----------
    path : str or path-like
        File written by ``torch.save(model.state_dict(), path)``, or one that holds this
        dict under the key ``"state_dict"``, or a ``.safetensors`` file.

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
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = _read_plain(path)
    except _NotPlain:
        content = _read_by_torch(path)
    # What the readers raise on a damaged file depends on where the damage is.
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise WeightsError(f"{path} cannot be read as network weights. {_HOW}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict. {_HOW}")
    strangers = [key for key, value in content.items() if not isinstance(value, np.ndarray)]
    if strangers:
        raise WeightsError(
            f"{path} is not a state dict: {strangers[0]!r} is no tensor. {_HOW} "
            'A checkpoint may hold that dict under the key "state_dict".'
        )
    return dict(content)


class _NotPlain(Exception):
    """The file holds more than plain tensors, or is of the old format."""


def _read_plain(path: Path) -> Any:
    """Content of a file in torch's zip format, tensors as arrays."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                raise zipfile.BadZipFile("the file has lost its end")
        raise _NotPlain
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (pickled,) = (name for name in names if name.endswith("/data.pkl"))
        folder = pickled[: -len("data.pkl")]
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise _NotPlain
        return _Unpickler(archive, folder, archive.read(pickled)).load()


class _Unpickler(pickle.Unpickler):
    """Makes arrays and the containers around them; any other object ends it."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled))
        self._archive, self._folder = archive, folder
        self._read: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise _NotPlain

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, size = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise _NotPlain
        if key not in self._read:
            values = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)
            if len(values) != size:
                raise ValueError(f"storage {key} has {len(values)} of {size} values")
            self._read[key] = values
        return self._read[key]


def _tensor(
    storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> np.ndarray:
    # Nothing in a file is taken at its word: an array must lie within its storage.
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError("a tensor of impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if 0 not in shape and last >= len(storage):
        raise ValueError("a tensor beyond its storage")
    in_bytes = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, in_bytes, writeable=False)


def _parameter(values: np.ndarray, *_: Any) -> np.ndarray:
    return values


def _read_by_torch(path: Path) -> Any:
    torch = import_optional("torch", "torch", f"reading {path.name}, no plain file of tensors,")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged or holds other objects than tensors, which are not loaded "
            f"because they could run code. {_HOW}"
        ) from error
    # What the reader raises on a damaged file depends on where the damage is.
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read as network weights. {_HOW}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return _arrays(content) if isinstance(content, dict) else content


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    safetensors = import_optional("safetensors", "timm", f"reading {path.name}")
    numpy = import_optional("safetensors.torch", "timm", f"reading {path.name}")
    try:
        return _arrays(numpy.load_file(path))
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}") from error


def _arrays(content: dict[str, Any]) -> dict[str, Any]:
    """Tensors of torch's as arrays, the rest as it is."""
    torch = import_optional("torch", "torch", "a file that only torch reads")
    return {
        key: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        if torch.is_tensor(value)
        else value
        for key, value in content.items()
    }
