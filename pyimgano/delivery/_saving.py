"""Saving a fitted pipeline as one joblib file, and the safe door back."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import lzma
import os
import pickle
import types
import warnings
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np
from joblib import numpy_pickle, numpy_pickle_utils
from sklearn.base import BaseEstimator

from pyimgano.delivery._environment import package_versions
from pyimgano.delivery._files import atomic_write, read_json, write_json
from pyimgano.exceptions import UntrustedFileError

__all__ = ["load", "save"]


def save(estimator: Any, path: str | os.PathLike[str], *, compress: int = 0) -> Path:
    """Save a fitted estimator as one joblib file, and what proves it whole beside it.

    The file is an ordinary one: ``joblib.load(path)`` returns the estimator. A second file,
    ``<path>.json``, holds its SHA-256, size, class names and library versions;
    :func:`load` asks for it.

    Whatever interrupts a save, a power cut or ``kill -9`` included, ``path`` holds the old
    estimator or the new one, whole, and the side file vouches for the one that is there. An
    interrupted save can leave a file ``.<name>.<random>.tmp`` behind, which may be deleted.
    Two processes must not save to one path at the same time.

    Parameters
    ----------
    estimator : estimator
        Usually a fitted pipeline.
    path : str or Path
        The file to create or to replace, such as ``"line3.joblib"``. Its folder must exist. A
        symbolic link stays, and what it points to is replaced.
    compress : int from 0 to 9, default=0
        zlib level. 0 loads fastest; a bank of features shrinks by about a tenth at 3.

    Returns
    -------
    Path
        ``path`` as given.

    Warns
    -----
    UserWarning
        If the estimator holds types that :func:`load` refuses, such as classes of your own.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pyimgano
    >>> rows = np.random.RandomState(0).normal(size=(50, 4))
    >>> detector = pyimgano.PatchCoreDetector().fit(rows)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pyimgano.save(detector, f"{folder}/line3.joblib")
    ...     again = pyimgano.load(path)
    >>> bool((again.score_samples(rows) == detector.score_samples(rows)).all())
    True
    """
    if isinstance(compress, bool) or compress not in range(10):
        raise ValueError(f"compress={compress!r} must be an integer from 0 to 9 (zlib's levels).")
    given, target = Path(path), _resolve(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: this folder does not exist; create it first.")
    side = _side_file(target)
    with atomic_write(target) as file:
        joblib.dump(estimator, file, compress=compress)
        file.flush()
        entry = _entry(file)
        file.seek(0)
        try:  # what was written is read back before it replaces anything
            _read(file, target, ())
        except UntrustedFileError as error:
            warnings.warn(f"saved, but pyimgano.load will refuse it: {error}", stacklevel=2)
        about = {
            "file": target.name,
            "classes": _class_names(estimator),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": package_versions(),
            **entry,
        }
        # Two files cannot be replaced in one step. So the side file first vouches for both
        # the old content and the new, then the content changes, then the old one is dropped:
        # whichever step is the last to happen, the side file vouches for what is there.
        old = _entry_of_existing(target)
        write_json(side, {**about, "previous": old} if old else about)
    write_json(side, about)
    return given


def load(path: str | os.PathLike[str], *, trusted: Sequence[str] = ()) -> Any:
    """Load a saved estimator, provided it is whole and holds known types only.

    ``joblib.load`` runs whatever a file tells it to run. This checks the file against the
    SHA-256 in ``<path>.json`` and then admits nothing but numpy arrays, plain containers and
    the estimators of scikit-learn and pyimgano.

    Parameters
    ----------
    path : str or Path
        A file written by :func:`save`.
    trusted : sequence of str, default=()
        Further classes to admit, by their full names, such as ``["mylab.steps.Deskew"]``.
        Their code runs.

    Returns
    -------
    estimator

    Raises
    ------
    UntrustedFileError
        If the side file is missing or does not match, if the file is no saved estimator, or
        if it holds a type that is not admitted; the message names it.
    FileNotFoundError
        If there is no such file.

    Notes
    -----
    The SHA-256 finds damage and mix-ups; whoever can replace both files can make it fit. The
    allow-list is what keeps a hostile file from running code while it is loaded. The
    parameters in it (say the path of a cache) are still its author's choice: look at them
    before you *fit* such an estimator again.
    """
    target = _resolve(path)
    with open(target, "rb") as file:
        _check_side_file(_side_file(target), _entry(file), target)
        file.seek(0)  # the very file that was checked, even if it is being replaced
        return _read(file, target, trusted)


def _resolve(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


def _side_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


# ---- the side file --------------------------------------------------------------------
def _entry(file: BinaryIO) -> dict[str, Any]:
    """Size and SHA-256 of an open file."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    return {"sha256": digest.hexdigest(), "size": size}


def _entry_of_existing(target: Path) -> dict[str, Any] | None:
    """Entry of the file that is about to be replaced, if its side file vouches for it."""
    try:
        with open(target, "rb") as file:
            entry = _entry(file)
        _check_side_file(_side_file(target), entry, target)
    except (FileNotFoundError, UntrustedFileError):
        return None
    return entry


def _check_side_file(side: Path, entry: dict[str, Any], target: Path) -> None:
    try:
        about = read_json(side)
    except FileNotFoundError:
        raise UntrustedFileError(
            f"{target}: there is no {side.name} beside it, which says what the file must be. "
            "Copy both files; or, if you trust whoever made the file, use joblib.load(path) "
            "(pyimgano-infer --trust)."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UntrustedFileError(f"{side}: is damaged, not JSON ({error}).") from error
    vouched = [about, about.get("previous")] if isinstance(about, dict) else []
    if not any(isinstance(v, dict) and v.get("sha256") == entry["sha256"] for v in vouched):
        wanted = f"{about.get('size')} bytes, " if isinstance(about, dict) else ""
        raise UntrustedFileError(
            f"{target}: is not the file that {side.name} describes ({wanted}here are "
            f"{entry['size']} bytes with another SHA-256): it was damaged, cut short or replaced. "
            "Copy both files anew."
        )


def _class_names(estimator: Any) -> list[str]:
    inner = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    parts = [estimator, *(value for value in inner if hasattr(value, "get_params"))]
    return list(dict.fromkeys(type(part).__name__ for part in parts))


# ---- the allow-list -------------------------------------------------------------------
# Callables whose call with any arguments does nothing but make a value.
_PLAIN = {
    "_codecs": "encode",  # how older protocols write bytes
    "builtins": "bool bytearray bytes complex dict float frozenset int list range set slice str "
    "tuple",
    "collections": "Counter OrderedDict defaultdict deque",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.ma": "MaskedArray",
    "numpy.ma.core": "MaskedArray _mareconstruct",
    "numpy.random": "Generator RandomState",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._sfc64": "SFC64",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "sklearn.utils._bunch": "Bunch",
}
_ADMITTED = {(module, name) for module, names in _PLAIN.items() for name in names.split()}

# Parts of the package that act on the outside world; a pipeline has no business with them.
_NOT_STATE = ("cli", "datasets", "delivery", "evaluation", "models", "pipelines", "utils")


class _ArrayWrapper(numpy_pickle.NumpyArrayWrapper):
    """joblib's stand-in for an array, reading arrays of objects by the same allow-list.

    joblib before 1.6 hands those to the plain ``pickle.load``.
    """

    def read_array(self, unpickler: Any, *args: Any) -> np.ndarray:
        if not isinstance(self.dtype, np.dtype):
            raise pickle.UnpicklingError("an array without a dtype")
        if not self.dtype.hasobject:
            return super().read_array(unpickler, *args)
        return _ObjectArrayUnpickler(unpickler).load()


# The one that is written in Python, which joblib builds on: its steps can be overridden.
_PyUnpickler: Any = pickle._Unpickler
_JoblibUnpickler: Any = numpy_pickle.NumpyUnpickler


class _Checked(_PyUnpickler):
    """Unpickler that also watches what is done with admitted types."""

    dispatch = _PyUnpickler.dispatch.copy()

    def load_build(self) -> None:
        instance, state = self.stack[-2:]
        # State given to a class would change it for the whole process.
        if isinstance(instance, (type, types.FunctionType, types.BuiltinFunctionType)):
            raise UntrustedFileError(f"it tries to change {instance!r} itself.")
        if isinstance(instance, np.dtype):
            # Numpy believes this state: one that lies about object fields turns the bytes of
            # the file into pointers. Only the byte order is taken from it.
            if instance.kind not in "biufcSUO" or state[2:5] != (None, None, None):
                raise UntrustedFileError(f"it holds an array of dtype {instance}.")
            self.stack[-1] = instance.newbyteorder(state[1]).__reduce__()[2]
        super().load_build()

    def load_reduce(self) -> None:
        self._check_call(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        self._check_call(self.stack[-2])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        self._check_call(self.stack[-3])
        super().load_newobj_ex()

    def _check_call(self, function: Any) -> None:
        # Given a buffer and a dtype of objects, these make pointers of it as well. No pickle
        # calls them: arrays and numbers have functions of their own.
        if isinstance(function, type) and issubclass(function, (np.ndarray, np.generic)):
            raise UntrustedFileError(f"it tries to call {function.__name__}.")

    def _refuse(self) -> None:
        raise UntrustedFileError("it is a pickle of a protocol that joblib does not write.")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.OBJ[0]] = dispatch[pickle.INST[0]] = _refuse


class _ObjectArrayUnpickler(_Checked):
    def __init__(self, outer: _SafeUnpickler) -> None:
        super().__init__(outer.file_handle)
        self._outer = outer

    def find_class(self, module: str, name: str) -> Any:
        return self._outer.find_class(module, name)


class _SafeUnpickler(_Checked, _JoblibUnpickler):
    # All of ours go on to NumpyUnpickler's own.
    dispatch = {**_JoblibUnpickler.dispatch, **_Checked.dispatch}

    def __init__(self, file: Any, trusted: Iterable[str]) -> None:
        # Newer versions of joblib ask what to do about foreign byte orders.
        init = _JoblibUnpickler.__init__
        asks = "ensure_native_byte_order" in inspect.signature(init).parameters
        super().__init__("", file, **({"ensure_native_byte_order": True} if asks else {}))
        self._trusted = frozenset(trusted)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED or f"{module}.{name}" in self._trusted:
            return super().find_class(module, name)
        if module.startswith("joblib.") and name == "NumpyArrayWrapper":
            return _ArrayWrapper
        if (module, name) == ("numpy", "memmap"):  # opens files; here it is read into memory
            return np.ndarray
        found = _find_defined_class(module, name)
        if found is None:
            raise UntrustedFileError(
                f"it holds {module}.{name}, which is not on the list of types that are safe to "
                f'load. If you trust it: load(path, trusted=["{module}.{name}"]); if you trust the '
                "whole file: joblib.load(path) (pyimgano-infer --trust)."
            )
        return found


def _find_defined_class(module: str, name: str) -> type | None:
    """A class of pyimgano, an estimator of scikit-learn or a type of number of numpy.

    Only where it is defined: what a module merely imported (``os``, functions) does not count.
    """
    top, *inner = module.split(".")
    if top not in ("numpy", "pyimgano", "sklearn") or "." in name:
        return None
    if top == "numpy":
        found = getattr(np, name, None) if not inner else None
        return found if isinstance(found, type) and issubclass(found, np.generic) else None
    if {"tests", "conftest", "externals"} & set(inner):
        return None
    if top == "pyimgano" and inner and inner[0] in _NOT_STATE:
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, name):
        return None
    return found if top == "pyimgano" or issubclass(found, BaseEstimator) else None


# What a damaged or foreign file makes an unpickler raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    MemoryError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    zlib.error,
)


def _read(file: BinaryIO, target: Path, trusted: Iterable[str]) -> Any:
    try:
        with numpy_pickle_utils._validate_fileobject_and_memmap(file, str(target)) as (stream, _):
            if isinstance(stream, str):
                raise pickle.UnpicklingError("a file of joblib before version 0.10")
            return _SafeUnpickler(stream, trusted).load()
    except UntrustedFileError as error:
        raise UntrustedFileError(f"{target}: {error}") from None
    except _PICKLE_ERRORS as error:
        raise UntrustedFileError(
            f"{target}: is not an estimator saved by pyimgano.save, or by other versions of the "
            f"libraries than those installed ({type(error).__name__}: {error})."
        ) from error
