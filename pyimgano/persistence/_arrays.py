"""Numpy's part of a saved file: dtypes, arrays and numbers, made from their description here.

Numpy's own functions for this believe what they are told: a dtype that lies about its size, or a
buffer taken for pointers, reads memory that is not its own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

from pyimgano.exceptions import UntrustedFileError
from pyimgano.persistence._opcodes import NO_STATE, Call, Name, Pairs, made_class, read_tree
from pyimgano.persistence._source import Source

__all__ = ["ArrayReader", "array_from", "dtype_of", "masked_array_from", "scalar_from"]

_SIMPLE = re.compile(r"[?biufcSUOV][0-9]{0,9}")
_MOST_NESTED = 3
_MOST_FIELDS = 64
_MOST_DIMENSIONS = 32
_LONGEST_ITEM = 2**20


# ---- dtypes ---------------------------------------------------------------------------
def dtype_of(node: Any, depth: int = 0) -> np.dtype:
    """Make the dtype that a node describes.

    Parameters
    ----------
    node : node
        A call of ``numpy.dtype``, and its state.
    depth : int, default=0
        How many dtypes it lies in.

    Returns
    -------
    dtype
    """
    if type(node) is not Call or not _is_name(node.function, "numpy.dtype"):
        raise _no_dtype()
    if depth > _MOST_NESTED:
        raise _no_dtype()
    kind = node.args[0] if type(node.args) is tuple and node.args else None
    if type(kind) is not str or not _SIMPLE.fullmatch(kind):
        raise _no_dtype(kind)
    dtype = _simple(kind)
    state = node.state
    if state is not NO_STATE:
        if type(state) is not tuple or not 8 <= len(state) <= 9:
            raise _no_dtype(kind)
        order, base, names, fields, size = state[1:6]
        if type(order) is not str or order not in ("<", ">", "=", "|"):
            raise _no_dtype(kind)
        if dtype.kind != "V":
            dtype = _simple(kind, order)
        elif base is not None:
            dtype = _subarray(base, depth)
        elif names is not None:
            dtype = _structure(names, fields, size, depth)
    if dtype.hasobject and dtype.kind != "O":
        raise _no_dtype(dtype)
    if not (depth > 0 or dtype.itemsize > 0) or dtype.itemsize > _LONGEST_ITEM:
        raise _no_dtype(dtype)
    return dtype


@lru_cache(maxsize=100)
def _simple(kind: str, order: str = "=") -> np.dtype:
    return np.dtype(kind).newbyteorder(order)  # type: ignore[arg-type]


def _subarray(base: Any, depth: int) -> np.dtype:
    if type(base) is not tuple or len(base) != 2:
        raise _no_dtype()
    inner, shape = dtype_of(base[0], depth + 1), _shape(base[1])
    if int(np.prod(shape, dtype=object)) * inner.itemsize > _LONGEST_ITEM:
        raise _no_dtype()
    return np.dtype((inner, shape))


def _structure(names: Any, fields: Any, size: Any, depth: int) -> np.dtype:
    if type(names) is not tuple or type(fields) is not Pairs or not _is_count(size):
        raise _no_dtype()
    if len(names) > _MOST_FIELDS or any(type(name) is not str for name in names):
        raise _no_dtype()
    if len(set(names)) < len(names):
        raise _no_dtype()
    known = {key: value for key, value in fields.items if type(key) is str}
    formats, offsets = [], []
    for name in names:
        field = known.get(name) if type(name) is str else None
        if type(field) is not tuple or len(field) < 2 or not _is_count(field[1]):
            raise _no_dtype()
        inner = dtype_of(field[0], depth + 1)
        if inner.hasobject or field[1] + inner.itemsize > size or size > _LONGEST_ITEM:
            raise _no_dtype(str([(name, inner.str.lstrip("|"))]))
        formats.append(inner)
        offsets.append(field[1])
    try:
        return np.dtype(
            {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
        )
    except (TypeError, ValueError) as error:
        raise _no_dtype() from error


def _in_words(kind: Any) -> str:
    # The text of a container that a file describes may be longer than any memory.
    text = str(kind) if isinstance(kind, (str, np.dtype)) else type(kind).__name__
    return text[:60]


def _is_name(node: Any, *names: str) -> bool:
    return type(node) is Name and f"{node.module}.{node.name}" in names


def _no_dtype(kind: Any = "unknown") -> UntrustedFileError:
    return UntrustedFileError(
        f"it holds an array of dtype {_in_words(kind)}, which is not on the list of those that are "
        "safe to load."
    )


# ---- arrays ---------------------------------------------------------------------------
class ArrayReader:
    """Reads the arrays that joblib writes behind their descriptions.

    Attributes
    ----------
    in_range : dict of int to ndarray
        Those of floats that are all finite and of ordinary size, by their ids.
    """

    def __init__(self) -> None:
        self.in_range: dict[int, np.ndarray] = {}
        # By the node, which many arrays share; it is kept, so that its id is its own.
        self._dtypes: dict[int, tuple[Any, np.dtype]] = {}

    def __call__(self, source: Source, call: Call) -> Any:
        """Read an array.

        Parameters
        ----------
        source : Source
        call : Call
            What may be the description.

        Returns
        -------
        ndarray, node or None
            A node for an array of objects; None if ``call`` is something else.
        """
        cls = made_class(call)
        if cls is None or cls.name != "NumpyArrayWrapper" or cls.module != "joblib.numpy_pickle":
            return None
        if type(call.state) is not Pairs:
            raise _no_array()
        about = {key: value for key, value in call.state.items if type(key) is str}
        if not _is_name(about.get("subclass"), "numpy.ndarray", "numpy.memmap"):
            raise UntrustedFileError("it holds an array of a class of its own.")
        node, order = about.get("dtype"), about.get("order")
        known = self._dtypes.get(id(node))
        if known is None:
            known = self._dtypes[id(node)] = node, dtype_of(node)
        dtype = known[1]
        if type(order) is not str or order not in ("C", "F"):
            raise _no_array()
        if dtype.hasobject:
            return read_tree(source, None)  # joblib writes a pickle of its own for them
        shape = _shape(about.get("shape"))
        if about.get("numpy_array_alignment_bytes") is not None:
            source.take(source.take(1)[0])
        try:
            flat, in_range = source.numbers(_count(shape), dtype)
        except UntrustedFileError:
            raise
        except (MemoryError, ValueError):
            raise UntrustedFileError(
                f"it holds an array of shape {shape}, for which there is not enough memory."
            ) from None
        array = _checked(flat.reshape(shape[::-1]).T if order == "F" else flat.reshape(shape))
        if in_range:
            self.in_range[id(array)] = array
        return array


def array_from(shape: Any, dtype: Any, fortran: Any, content: Any) -> np.ndarray:
    """Make the array that a pickle describes by itself.

    Parameters
    ----------
    shape : node
    dtype : node
    fortran : bool
        Whether the first index varies fastest.
    content : bytes or list
        The numbers, or for an array of objects the objects, which are built already.

    Returns
    -------
    ndarray
    """
    kind, sides = dtype_of(dtype), _shape(shape)
    count = _count(sides)
    if kind.hasobject:
        if type(content) is not list or len(content) != count:
            raise UntrustedFileError(
                f"it holds an array of shape {sides} with "
                f"{len(content) if type(content) is list else 'no'} objects."
            )
        flat = np.empty(count, dtype=object)
        for i, item in enumerate(content):
            flat[i] = item
    else:
        if not isinstance(content, (bytes, bytearray)) or len(content) != count * kind.itemsize:
            raise _no_array()
        flat = np.frombuffer(bytes(content), kind).copy()
    return _checked(flat.reshape(sides, order="F" if fortran else "C"))


def masked_array_from(
    shape: Any, dtype: Any, fortran: Any, content: Any, mask: Any, fill_value: Any
) -> np.ma.MaskedArray:
    """Make a masked array, as the results of a search hold them.

    Parameters
    ----------
    shape, dtype, fortran, content : as in :func:`array_from`
    mask : bytes
        1 where a value is masked.
    fill_value : ndarray or None

    Returns
    -------
    MaskedArray
    """
    data = array_from(shape, dtype, fortran, content)
    if data.dtype.names or not isinstance(mask, bytes) or len(mask) != data.size:
        raise _no_array()
    flags = np.frombuffer(mask, np.uint8)
    if flags.size and flags.max() > 1:
        raise _no_array()
    hidden = flags.astype(bool).reshape(data.shape, order="F" if fortran else "C")
    array = np.ma.MaskedArray(data, mask=hidden)
    if isinstance(fill_value, np.ndarray) and fill_value.ndim == 0:
        if fill_value.dtype.names:  # one value; taking a structure apart could take long
            raise _no_array()
        try:
            array.fill_value = fill_value.item()
        except (TypeError, ValueError, OverflowError):
            raise _no_array() from None
    return array


def scalar_from(dtype: Any, content: Any) -> Any:
    """Make a numpy number.

    Parameters
    ----------
    dtype : node
    content : bytes

    Returns
    -------
    numpy.generic
    """
    kind = dtype_of(dtype)
    if kind.hasobject or not isinstance(content, bytes) or len(content) != kind.itemsize:
        raise _no_array()
    return _checked(np.frombuffer(content, kind).copy())[0]


def _checked(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order, if each of its items is a value of its dtype."""
    _check_values(array)
    if not array.dtype.isnative and not array.dtype.names:
        array = array.byteswap().view(array.dtype.newbyteorder("="))
    return array


def _check_values(array: np.ndarray) -> None:
    """Refuse truth values and text that Python cannot represent, in fields as well."""
    dtype = array.dtype
    if not array.size:
        return
    for name in dtype.names or ():
        _check_values(array[name])
    if dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise UntrustedFileError("it holds truth values other than True and False.")
    if dtype.kind == "U" and dtype.itemsize:
        letters = np.ascontiguousarray(array).reshape(-1).view(f"{dtype.str[0]}u4")
        if letters.max() > 0x10FFFF:
            raise UntrustedFileError("it holds text with invalid Unicode characters.")


def _shape(node: Any) -> tuple[int, ...]:
    if type(node) is not tuple or len(node) > _MOST_DIMENSIONS:
        raise _no_array()
    if all(type(side) is int and side >= 0 for side in node):
        return node
    # A numpy integer among them is a call in the file.
    sides = tuple(
        int(scalar_from(*side.args))
        if type(side) is Call and type(side.args) is tuple and len(side.args) == 2
        else side
        for side in node
    )
    if not all(_is_count(side) for side in sides):
        raise _no_array()
    return sides


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    if count > 2**48 or any(side > 2**48 for side in shape):
        raise _no_array()
    return count


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _no_array() -> UntrustedFileError:
    return UntrustedFileError("it is damaged: an array is not described as numpy does it.")
