"""Reading the pickle in a saved file without running what it says: data only, by a list.

An unpickler is told by the file which objects to look up, which of them to call, and what to
put into the results. So there are two questions here: what may be looked up
(``find_class``), and, of that, what may be called and filled while the file is read
(``_Checked``). Classes that only hold data may be looked up and filled; a function may at
most be stored, as a scorer is.
"""

from __future__ import annotations

import importlib
import lzma
import pickle
import struct
import types
import zlib
from collections import deque
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from joblib import numpy_pickle, numpy_pickle_utils

from pyimgano._moved import current_name
from pyimgano._pyod_models import PYOD
from pyimgano.exceptions import UntrustedFileError

__all__ = ["read_pickle"]


def _names(table: dict[str, str]) -> set[tuple[str, str]]:
    return {(module, name) for module, names in table.items() for name in names.split()}


# ---- the allow-list -------------------------------------------------------------------
# Callables whose call with any arguments does nothing but make a value.
_PATHS = "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"
_CALLED = _names(
    {
        "_codecs": "encode",  # how older protocols write bytes
        "builtins": "bool bytearray bytes complex dict float frozenset int list range set slice "
        "str tuple",
        "collections": "Counter OrderedDict defaultdict deque",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
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
        "sklearn.linear_model._sgd_fast": "Hinge",
        "sklearn.metrics._dist_metrics": "newObj",
        "sklearn.neighbors._ball_tree": "newObj",
        "sklearn.neighbors._kd_tree": "newObj",
        "sklearn.tree._tree": "Tree",
        "sklearn.utils._bunch": "Bunch",
    }
)
# Classes that hold data but must not be called: a cache makes its folder.
_STORED = _names(
    {
        "joblib._store_backends": "FileSystemStoreBackend",
        "joblib.memory": "Memory",
        **{f"pyod.models.{name.lower()}": name for name in PYOD},
    }
) | {("pyod.models.kpca", "PyODKernelPCA")}
# scikit-learn's classes that hold only data: these and what is derived from them in it.
_DATA_BASES = {
    "sklearn.base.BaseEstimator",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.gaussian_process.kernels.Hyperparameter",
    "sklearn.gaussian_process.kernels.Kernel",
    "sklearn.metrics._dist_metrics.DistanceMetric",
    "sklearn.metrics._scorer._BaseScorer",
    "sklearn.metrics._scorer._MultimetricScorer",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.BaseCrossValidator",
    "sklearn.model_selection._split.BaseShuffleSplit",
    "sklearn.model_selection._split._RepeatedSplits",
    "sklearn.neighbors._ball_tree.BinaryTree32",
    "sklearn.neighbors._ball_tree.BinaryTree64",
    "sklearn.neighbors._kd_tree.BinaryTree32",
    "sklearn.neighbors._kd_tree.BinaryTree64",
    "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
}
# Distances that call a function, or read a matrix whose shape they do not check.
_NO_DATA = ("PyFuncDistance", "MahalanobisDistance")

# Parts of the package that act on the outside world; a pipeline has no business with them.
_NOT_STATE = (
    "_moved",
    "benchmark",
    "cli",
    "datasets",
    "evaluation",
    "persistence",
    "registry",
    "reporting",
    "testing",
    "utils",
)


def _find_data(module: str, name: str) -> Any:
    """Find an object that a file may name because of the module that defines it, or None.

    Classes of pyimgano, those of scikit-learn that hold data, scorers, and numpy's types of
    numbers and ufuncs. Only where they are defined: what a module merely imported (``os``,
    functions) does not count.
    """
    top, *inner = module.split(".")
    if top not in ("numpy", "pyimgano", "sklearn") or "." in name:
        return None
    if top == "numpy":
        found = getattr(np, name, None)
        if isinstance(found, np.ufunc):  # in older versions, of where pickle finds it first
            return found if inner[:1] in ([], ["_core"], ["core"]) else None
        is_number = isinstance(found, type) and issubclass(found, np.generic)
        return found if is_number and not inner else None
    if {"tests", "conftest", "externals"} & set(inner):
        return None
    if top == "pyimgano" and inner and inner[0] in _NOT_STATE:
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    if (getattr(found, "__module__", None), getattr(found, "__qualname__", None)) != (module, name):
        return None
    if isinstance(found, types.FunctionType):
        home = "pyimgano.model_selection" if top == "pyimgano" else "sklearn.metrics"
        inside = module == home or module.startswith(f"{home}.")
        return found if inside and name in importlib.import_module(home).__all__ else None
    if not isinstance(found, type):
        return None
    if top == "sklearn" and not _DATA_BASES.isdisjoint(
        f"{base.__module__}.{base.__qualname__}" for base in found.__mro__
    ):
        return None if name.startswith(_NO_DATA) else found
    return found if top == "pyimgano" else None


# ---- what may be done while reading ---------------------------------------------------
class _Refused:
    """Stands for what was refused, so that reading goes on and the error can name it all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = add = append


class _ArrayWrapper(numpy_pickle.NumpyArrayWrapper):
    """joblib's stand-in for an array, reading arrays of objects by the same allow-list.

    joblib before 1.6 hands those to the plain ``pickle.load``.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Nothing else: an attribute "read" would be called.
        known = ("subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes")
        self.__dict__.update({key: state[key] for key in known if key in state})

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
    """Unpickler that also watches what is done with admitted objects."""

    dispatch = _PyUnpickler.dispatch.copy()
    _callable: dict[int, Any]

    # ---- calls
    def load_reduce(self) -> None:
        self._check_call(*self.stack[-2:])
        super().load_reduce()

    def load_newobj(self) -> None:
        self._check_new(*self.stack[-2:])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        self._check_new(*self.stack[-3:-1])
        super().load_newobj_ex()

    def _check_call(self, function: Any, args: Any) -> None:
        is_enum = isinstance(function, type) and issubclass(function, Enum)
        if id(function) not in self._callable and not is_enum:
            raise UntrustedFileError(f"it tries to call {_name_of(function)}.")
        if _name_of(function) == "newObj" and not (len(args) == 1 and isinstance(args[0], type)):
            raise UntrustedFileError("it tries to make an object of what is no class.")
        self._check_class(function, args)

    def _check_new(self, cls: Any, args: Any) -> None:
        if not isinstance(cls, type):  # cls.__new__ could be anything
            raise UntrustedFileError("it tries to make an object of what is no class.")
        self._check_class(cls, args)

    def _check_class(self, cls: Any, args: Any) -> None:
        # Given a buffer and a dtype of objects, these make pointers of it. No pickle calls
        # them: arrays and numbers have functions of their own.
        if isinstance(cls, type) and issubclass(cls, (np.ndarray, np.generic)):
            raise UntrustedFileError(f"it tries to call {cls.__name__}.")
        if _is_tree(cls):  # which believes the last number, and reads that many
            _, n_classes, n_outputs = args
            if np.shape(n_classes) != (n_outputs,) or np.min(n_classes) < 1:
                raise UntrustedFileError("it holds a decision tree of impossible shape.")

    # ---- contents
    def load_build(self) -> None:
        instance, state = self.stack[-2:]
        # State given to a class would change it for the whole process.
        if isinstance(instance, (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc)):
            raise UntrustedFileError(f"it tries to change {_name_of(instance)} itself.")
        for part in state if isinstance(state, tuple) else (state,):
            keys = part if isinstance(part, dict) else ()
            if any(isinstance(key, str) and key.startswith("__") for key in keys):
                # A __setstate__ of the object's own would be called with the next state.
                raise UntrustedFileError(f"it tries to change how {_name_of(instance)} works.")
        if isinstance(instance, np.dtype):
            self.stack[-1] = _dtype_state(instance, state)
        elif isinstance(instance, np.ndarray):
            _check_array_state(state)
        elif _is_tree(type(instance)):
            _check_tree(instance, state)
        elif type(instance).__module__ in (
            "sklearn.neighbors._ball_tree",
            "sklearn.neighbors._kd_tree",
        ):
            self.stack[-1] = _search_tree_state(instance, state)
        super().load_build()

    def load_append(self) -> None:
        self._check_filled(self.stack[-2])
        super().load_append()

    def load_appends(self) -> None:
        self._check_filled(self.metastack[-1][-1])
        super().load_appends()

    def load_additems(self) -> None:
        self._check_filled(self.metastack[-1][-1])
        super().load_additems()

    def _check_filled(self, container: Any) -> None:
        # Anything else may have an attribute "append", put there to be called.
        if not isinstance(container, (list, deque, set, _Refused)):
            raise UntrustedFileError(f"it tries to fill a {type(container).__name__}.")

    def _refuse(self) -> None:
        raise UntrustedFileError("it is a pickle of a protocol that joblib does not write.")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.OBJ[0]] = dispatch[pickle.INST[0]] = _refuse


class _ObjectArrayUnpickler(_Checked):
    def __init__(self, outer: _SafeUnpickler) -> None:
        super().__init__(outer.file_handle)
        self._outer = outer
        self._callable = outer._callable

    def find_class(self, module: str, name: str) -> Any:
        return self._outer.find_class(module, name)


class _SafeUnpickler(_Checked, _JoblibUnpickler):
    # All of ours go on to NumpyUnpickler's own.
    dispatch = {**_JoblibUnpickler.dispatch, **_Checked.dispatch}

    def __init__(self, file: Any, trusted: Iterable[str]) -> None:
        super().__init__("", file, ensure_native_byte_order=True)
        self._trusted = frozenset(trusted)
        self._callable = {id(_Refused): _Refused}
        self.refused: dict[str, None] = {}  # as an ordered set

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        module, name = current_name(module, name)
        if (module, name) in _CALLED or full_name in self._trusted:
            found = super().find_class(module, name)
            self._callable[id(found)] = found
            return found
        if (module, name) in _STORED:
            return super().find_class(module, name)
        if module.startswith("joblib.") and name == "NumpyArrayWrapper":
            return _ArrayWrapper
        if (module, name) == ("numpy", "memmap"):  # opens files; here it is read into memory
            return np.ndarray
        found = _find_data(module, name)
        if found is None:
            self.refused[full_name] = None
            return _Refused
        return found


def _name_of(thing: Any) -> str:
    return getattr(thing, "__name__", type(thing).__name__)


# ---- data that native code believes ---------------------------------------------------
def _dtype_state(dtype: np.dtype, state: Any) -> Any:
    """State of the dtype that ``state`` describes, made anew.

    Numpy believes the state of a dtype: one that lies about its size or about fields of
    objects turns the bytes of the file into pointers.
    """
    byte_order, part_of, names, fields, size = state[1:6]
    new = None
    if (part_of, names, fields) == (None, None, None):
        if dtype.kind in "biufcSUO":
            new = dtype.newbyteorder(byte_order)
    elif dtype.kind == "V" and part_of is not None:
        new = np.dtype((part_of[0], part_of[1]))
    elif dtype.kind == "V":
        formats, offsets = zip(*(fields[name][:2] for name in names))
        new = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
    if new is None or new.itemsize != dtype.itemsize or (new.hasobject and new.kind != "O"):
        raise UntrustedFileError(
            f"it holds an array of dtype {dtype if new is None else new}, which is not on the list "
            f"of those that are safe to load. {_WHOLE_FILE}"
        )
    return new.__reduce__()[2]


def _check_array_state(state: tuple) -> None:
    """An array of objects must come with as many as it has room for: numpy does not count."""
    shape, _, _, content = state[1:5] if len(state) > 4 else state
    if isinstance(content, list) and len(content) != np.prod(shape, dtype=object):
        raise UntrustedFileError(f"it holds an array of shape {shape} with {len(content)} objects.")


def _is_tree(cls: Any) -> bool:
    return (getattr(cls, "__module__", ""), _name_of(cls)) == ("sklearn.tree._tree", "Tree")


def _check_tree(tree: Any, state: dict[str, Any]) -> None:
    """Every way through a decision tree must go on inside it and come to an end."""
    nodes = state["nodes"]
    inner = np.flatnonzero(nodes["left_child"] != -1)
    inside = state["node_count"] == len(nodes) > 0
    for side in ("left_child", "right_child"):
        child = nodes[side][inner]
        inside = inside and bool(((child > inner) & (child < len(nodes))).all())
    column = nodes["feature"][inner]
    if not inside or not ((column >= 0) & (column < tree.n_features)).all():
        raise UntrustedFileError("it holds a decision tree whose branches lead out of it.")


def _search_tree_state(tree: Any, state: tuple) -> tuple:
    """State of a KDTree or BallTree over the points in ``state``, built anew.

    A tree of the file's own could point anywhere. Building is deterministic and quick.
    """
    points, leaf_size, metric, weights = state[0], state[4], state[11], state[12]
    new = type(tree)(points, leaf_size=leaf_size, metric=metric, sample_weight=weights)
    return new.__getstate__()


# ---- reading --------------------------------------------------------------------------
_WHOLE_FILE = "If you trust the whole file: joblib.load(path) (pyimgano-infer --trust)."

# What a damaged or foreign file makes an unpickler raise.
_PICKLE_ERRORS = (
    pickle.PickleError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)


def read_pickle(file: BinaryIO, target: Path, trusted: Iterable[str]) -> Any:
    """Read what joblib wrote, provided it holds admitted types only.

    Parameters
    ----------
    file : binary file
        At its start.
    target : Path
        Where it is, for messages.
    trusted : iterable of str
        Full names of further objects to admit.

    Returns
    -------
    object

    Raises
    ------
    UntrustedFileError
        If it holds anything else, or if it is no such file.
    """
    unpickler = None
    try:
        with numpy_pickle_utils._validate_fileobject_and_memmap(file, str(target)) as (stream, _):
            if isinstance(stream, str):
                raise pickle.UnpicklingError("a file of joblib before version 0.10")
            unpickler = _SafeUnpickler(stream, trusted)
            content = unpickler.load()
    except UntrustedFileError as error:
        raise UntrustedFileError(f"{target}: {error}") from None
    except _PICKLE_ERRORS as error:
        if unpickler is not None and unpickler.refused:
            raise _not_on_the_list(target, unpickler.refused, ", which may ask for more") from error
        raise UntrustedFileError(
            f"{target}: is not an estimator saved by pyimgano.save, or by other versions of the "
            f"libraries than those installed ({type(error).__name__}: {error})."
        ) from error
    if unpickler.refused:
        raise _not_on_the_list(target, unpickler.refused, "")
    return content


def _not_on_the_list(target: Path, refused: Iterable[str], more: str) -> UntrustedFileError:
    names = list(refused)
    are, them = ("is", "it") if len(names) == 1 else ("are", "them")
    quoted = ", ".join(f'"{name}"' for name in names)
    return UntrustedFileError(
        f"{target}: it holds {', '.join(names)}, which {are} not on the list of types that are "
        f"safe to load. If you trust {them}: load(path, trusted=[{quoted}]){more}. {_WHOLE_FILE}"
    )
