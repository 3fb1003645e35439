"""From the inert tree of a file to objects, by functions of this package alone.

Nothing of the file is called, and no name of the file's is looked up anywhere but in the tables
of :mod:`._admitted`. Objects are made empty, and filled when their state has been checked. What a
user has named in ``trusted`` is the exception: it is imported and unpickled as pickle does.
"""

from __future__ import annotations

import importlib
import ntpath
import posixpath
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import Bunch

from pyimgano.exceptions import UntrustedFileError
from pyimgano.inputs import ImageFormat
from pyimgano.persistence._admitted import Admitted, admitted_class, stored_value
from pyimgano.persistence._arrays import array_from, dtype_of, masked_array_from, scalar_from
from pyimgano.persistence._native import TreeChecks, distance_from, search_tree_from
from pyimgano.persistence._opcodes import CANNOT_BE, NO_STATE, Call, Items, Name, Pairs, made_class
from pyimgano.utils._schema import CheckedStateMixin
from pyimgano.utils._words import printable

__all__ = ["build"]

# A pipeline of pipelines in a calibrator in a search is about forty levels deep.
_DEEPEST = 200
# Objects, where one that is in several places counts several times, as all that holds it is
# checked; so many bytes of an array count as one. Large files may have more.
_MOST_OBJECTS, _SIZE_OF_OBJECT = 5_000_000, 256
# Bytes of arrays and search trees that are made from parts of the pickle, of which many may share
# one. Arrays that joblib wrote behind their descriptions do not count: each is in the file itself.
# Large files may have more, so many times their size.
_MOST_BYTES, _MOST_TIMES = 2**27, 8
# Numbers and tuples as keys. They can be chosen so that each has to be compared with each other
# one; text cannot, its hash differs from process to process.
_MOST_OTHER_KEYS = 1000
# Comparisons of such keys in all dicts and sets of a file together, one for each part of a key.
_MOST_COMPARISONS = 2**25

_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
# Attributes that ask for threads or processes of any class.
_WORKERS = {"n_jobs": (-1024, 1024), "threads_per_image": (1, 1024)}

Value = Callable[[Any], Any]
Maker = Callable[[Call, Value], Any]


class _Limits:
    """Memory and time that a file may still take.

    Parameters
    ----------
    file_size : int
        Bytes of the file.
    """

    def __init__(self, file_size: int) -> None:
        self._bytes_left = _MOST_BYTES + _MOST_TIMES * file_size
        self._comparisons_left = _MOST_COMPARISONS

    def take_bytes(self, n_bytes: int) -> None:
        """Count memory that is about to be taken, or has been."""
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise UntrustedFileError("it makes far larger arrays than there are in it.")

    def check_keys(self, keys: list[Any]) -> None:
        """Refuse keys of a dict or set that hold objects, or take long to tell apart."""
        others = [key for key in keys if type(key) is not str and type(key) is not bytes]
        if len(others) > _MOST_OTHER_KEYS:
            raise UntrustedFileError(
                f"it holds a dict or set with more than {_MOST_OTHER_KEYS} keys that are not text."
            )
        n_parts = 0
        for key in others:
            parts = key if type(key) in (tuple, frozenset) else (key,)
            for one in parts:
                if type(one) not in _ATOMS and not isinstance(one, (np.number, np.bool_)):
                    raise UntrustedFileError("it holds a dict or set with keys that hold objects.")
                n_parts += len(one) if isinstance(one, (str, bytes)) else 1
        self._comparisons_left -= len(others) * n_parts
        if self._comparisons_left < 0:
            raise UntrustedFileError(
                "it holds too many dicts and sets with keys that are not text."
            )

    def dict_of(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        """Make a dict."""
        self.check_keys([key for key, _ in pairs])
        return dict(pairs)


LimitedMaker = Callable[[Call, Value, _Limits], Any]


def build(
    tree: Any, trusted: Iterable[str], file_size: int, in_range: dict[int, np.ndarray]
) -> Any:
    """Make the objects that a tree describes.

    Parameters
    ----------
    tree : node
        See :mod:`._opcodes`.
    trusted : iterable of str
        Full names of further classes and functions, which are imported and may be called.
    file_size : int
        Bytes of the file, which limit what may be made of it.
    in_range : dict of int to ndarray
        Arrays of floats whose values need not be looked at again, by their ids.

    Returns
    -------
    object

    Raises
    ------
    UntrustedFileError
        If it describes anything else, or an object in an invalid state.
    """
    builder = _Builder(frozenset(trusted), file_size, in_range)
    order = builder.in_order(tree)
    if builder.unknown:
        raise _not_admitted(builder.unknown)
    return builder.make_all(order, tree)


class _Builder:
    def __init__(
        self, trusted: frozenset[str], file_size: int, in_range: dict[int, np.ndarray]
    ) -> None:
        self._trusted, self._in_range = trusted, in_range
        self._most_objects = _MOST_OBJECTS + 16 * file_size // _SIZE_OF_OBJECT
        self._limits = _Limits(file_size)
        self.unknown: dict[str, None] = {}  # as an ordered set
        self._makers: dict[int, Maker] = {}
        self._built: dict[int, Any] = {}
        self._widths: dict[int, int] = {}
        self._histograms: dict[int, Any] = {}
        self._trees = TreeChecks()

    # ---- first pass: what is there ------------------------------------------------------
    def in_order(self, tree: Any) -> list[Any]:
        """All nodes that something is to be made of, parts before wholes."""
        order: list[Any] = []
        size: dict[int, int] = {}
        if type(tree) in _ATOMS:
            return order
        way, total = [], []
        begun = {id(tree)}
        node: Any = tree
        while True:
            if node is not None:  # enter it
                parts = self._parts(node)
                others = [part for part in parts if type(part) not in _ATOMS]
                way.append((node, iter(others)))
                total.append(1 + len(parts) - len(others))
                if type(node) is np.ndarray:
                    total[-1] += node.nbytes // _SIZE_OF_OBJECT
            node = None
            for part in way[-1][1]:
                known = size.get(id(part))
                if known is not None:
                    total[-1] += known
                    continue
                if id(part) in begun:
                    raise UntrustedFileError("it holds an object that is a part of itself.")
                if len(way) >= _DEEPEST:
                    raise UntrustedFileError(
                        f"it holds objects in objects, {_DEEPEST} deep: more than any saved "
                        "pipeline."
                    )
                begun.add(id(part))
                node = part
                break
            if node is None:  # leave it
                left, own = way.pop()[0], total.pop()
                if own > self._most_objects:
                    raise UntrustedFileError(
                        f"it holds more than {self._most_objects:,} objects, those in several "
                        "places counted each time and arrays by their size."
                    )
                size[id(left)] = own
                order.append(left)
                if not total:
                    return order
                total[-1] += own

    def _parts(self, node: Any) -> Sequence[Any]:
        kind = type(node)
        if kind is list or kind is tuple:
            return node
        if kind is Pairs:
            return list(chain.from_iterable(node.items))
        if kind is Items:
            return node.items
        if kind is Call:
            return self._parts_of_call(node)
        if kind is Name and self._value_of_name(node) is None:
            self.unknown[str(node)] = None
        return ()

    def _parts_of_call(self, call: Call) -> Sequence[Any]:
        cls = made_class(call)
        if cls is not None and str(cls) not in self._trusted:
            found = admitted_class(cls.module, cls.name)
            if found is not None:
                self._makers[id(call)] = lambda call, value: self._fill(found, call, value)
                return _state_parts(call)
        function = call.function
        if type(function) is not Name:
            raise UntrustedFileError("it tries to call something that is not a function.")
        name = str(function)
        if name in self._trusted or (cls is not None and str(cls) in self._trusted):
            self._makers[id(call)] = self._make_trusted
            return _all_parts(call)
        if name in _MAKERS:
            self._makers[id(call)], parts = _MAKERS[name]
            return parts(call)
        if name in _LIMITED_MAKERS:
            make, parts = _LIMITED_MAKERS[name]
            self._makers[id(call)] = lambda call, value: make(call, value, self._limits)
            return parts(call)
        if name == "sklearn.tree._tree.Tree":
            self._makers[id(call)] = self._trees.tree_from
            return _tree_parts(call)
        self.unknown[str(cls if cls is not None else function)] = None
        return _all_parts(call) if cls is None else _state_parts(call)

    def _value_of_name(self, name: Name) -> Any:
        if str(name) in self._trusted:
            return _imported(name)
        return stored_value(name.module, name.name)

    # ---- second pass: making it ---------------------------------------------------------
    def make_all(self, order: list[Any], tree: Any) -> Any:
        built, value, atoms, limits = self._built, self._value, _ATOMS, self._limits
        for node in order:
            kind = type(node)
            if kind is Call:
                built[id(node)] = self._made(node)
                limits.take_bytes(_bytes_of(built[id(node)]))
            elif kind is list:
                built[id(node)] = [
                    part if type(part) in atoms else built[id(part)] for part in node
                ]
            elif kind is tuple:
                built[id(node)] = tuple(
                    [part if type(part) in atoms else built[id(part)] for part in node]
                )
            elif kind is Pairs:
                built[id(node)] = limits.dict_of(
                    [
                        (
                            key if type(key) in atoms else built[id(key)],
                            item if type(item) in atoms else built[id(item)],
                        )
                        for key, item in node.items
                    ]
                )
            elif kind is Items:
                items = [value(part) for part in node.items]
                limits.check_keys(items)
                built[id(node)] = frozenset(items) if node.frozen else set(items)
            elif kind is Name:
                built[id(node)] = self._value_of_name(node)
            else:  # an array, or a bytearray
                built[id(node)] = node
        try:
            self._trees.check()
        except UntrustedFileError:
            raise
        except CANNOT_BE as error:
            raise UntrustedFileError(f"it holds invalid decision trees ({error}).") from error
        self._check_histograms()
        return value(tree)

    def _value(self, node: Any) -> Any:
        return node if type(node) in _ATOMS else self._built[id(node)]

    def _made(self, call: Call) -> Any:
        try:
            return self._makers[id(call)](call, self._value)
        except UntrustedFileError:
            raise
        except CANNOT_BE as error:
            name = made_class(call) or call.function
            raise UntrustedFileError(
                f"it holds an invalid {name} ({type(error).__name__}: {error})."
            ) from error

    # ---- objects with a schema ----------------------------------------------------------
    def _fill(self, found: Admitted, call: Call, value: Value) -> Any:
        cls, state = found.cls, _attributes(call, value)
        requests = state.pop("_metadata_request", None)
        if requests is not None and type(requests) is not _Requests:
            raise UntrustedFileError(f"{cls.__name__}._metadata_request is no request.")
        _check_attributes_of_any(cls.__name__, state)
        if issubclass(cls, CheckedStateMixin):
            state = cls._restored_state(state, thorough=True, closed=True, in_range=self._in_range)
        else:
            _check_version(cls, state)
            found.schema.check(state, thorough=True, closed=True, in_range=self._in_range)
        made = object.__new__(cls)
        made.__dict__.update(state)
        if requests is not None:
            requests.give_to(made)
        self._check_width(made, state)
        return made

    def _check_width(self, made: Any, state: dict[str, Any]) -> None:
        """PyOD's models do not look at the number of columns; what wraps them does."""
        if type(made).__module__.startswith("pyod."):
            width = _width(made)
            if width is not None:
                self._widths[id(made)] = width
            if type(made).__name__ == "HBOS" and "hist_" in state:
                self._histograms[id(made)] = made
            return
        wanted = state.get("n_features_in_")
        for model in (state.get("detector_"), *state.get("detectors_", ())):
            self._histograms.pop(id(model), None)
            if self._widths.get(id(model), wanted) != wanted:
                raise UntrustedFileError(
                    f"it holds a {type(model).__name__} of {self._widths[id(model)]} columns in a "
                    f"{type(made).__name__} of {wanted}."
                )

    def _check_histograms(self) -> None:
        """Refuse an HBOS that nothing checks the columns for: it would read beyond its arrays."""
        if self._histograms:
            raise UntrustedFileError(
                "it holds a fitted HBOS outside of a PyODDetector, which checks the number of "
                "columns."
            )

    # ---- what the user trusts -----------------------------------------------------------
    def _make_trusted(self, call: Call, value: Value) -> Any:
        cls = made_class(call)
        if cls is not None and str(cls) in self._trusted:
            found = _imported(cls)
            made = found.__new__(found) if call.new else object.__new__(found)
        else:
            function = _imported(call.function)
            args = value(call.args)
            keywords = value(call.keywords) or {}
            make = function.__new__ if call.new else function
            made = make(*((function, *args) if call.new else args), **keywords)
        if call.items:
            made.extend([value(item) for item in call.items])
        for key, item in call.pairs:
            made[value(key)] = value(item)
        if call.state is not NO_STATE:
            state = value(call.state)
            if hasattr(made, "__setstate__"):
                made.__setstate__(state)
            elif isinstance(state, tuple) and len(state) == 2:
                made.__dict__.update(state[0] or {})
                for name, item in (state[1] or {}).items():
                    setattr(made, name, item)
            else:
                made.__dict__.update(state)
        return made


def _bytes_of(made: Any) -> int:
    """Memory of an array or text; search trees are counted before they are built."""
    if isinstance(made, np.ndarray):
        return made.nbytes
    if isinstance(made, (bytes, bytearray, str)):
        return len(made)
    return 0


# ---- parts of calls -------------------------------------------------------------------
def _all_parts(call: Call) -> list[Any]:
    parts = [call.args, *call.items, *(part for pair in call.pairs for part in pair)]
    if call.keywords is not None:
        parts.append(call.keywords)
    if call.state is not NO_STATE:
        parts.append(call.state)
    return parts


def _state_parts(call: Call) -> list[Any]:
    if call.state is NO_STATE:
        return []
    if type(call.state) is not Pairs or call.items or call.pairs:
        raise UntrustedFileError(f"it holds a {made_class(call)} whose state is no dict.")
    return [item for _, item in call.state.items]


def _attributes(call: Call, value: Value) -> dict[str, Any]:
    if call.state is NO_STATE:
        return {}
    for name, _ in call.state.items:
        if type(name) is not str or name[:2] == "__":
            raise UntrustedFileError(f"it holds a {made_class(call)} with attributes of no name.")
    state = {name: item if type(item) in _ATOMS else value(item) for name, item in call.state.items}
    if len(state) != len(call.state.items):
        raise UntrustedFileError(f"it holds a {made_class(call)} that has an attribute twice.")
    return state


def _args(call: Call, least: int, most: int | None = None) -> tuple[Any, ...]:
    args = call.args
    plain = call.keywords is None and not call.items and not call.pairs
    if type(args) is not tuple or not least <= len(args) <= (most or least) or not plain:
        raise UntrustedFileError(
            f"it calls {call.function} with arguments that joblib never writes."
        )
    return args


def _state(call: Call, length: int) -> tuple[Any, ...]:
    if type(call.state) is not tuple or len(call.state) != length:
        raise UntrustedFileError(f"it holds a {call.function} without the state it has.")
    return call.state


# ---- checks ---------------------------------------------------------------------------
def _check_version(cls: type, state: dict[str, Any]) -> None:
    if not cls.__module__.startswith("sklearn."):
        return
    version = state.pop("_sklearn_version", None)
    if version is not None and version != sklearn.__version__:
        if type(version) is not str:
            raise UntrustedFileError(f"{cls.__name__}._sklearn_version is not text.")
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=cls.__name__,
                current_sklearn_version=sklearn.__version__,
                original_sklearn_version=printable(version[:40]),
            ),
            stacklevel=2,
        )


def _check_attributes_of_any(name: str, state: dict[str, Any]) -> None:
    if state.get("memory") is not None:
        raise UntrustedFileError(
            f"{name}.memory is a cache, which the next fit would read with joblib.load; save the "
            "pipeline with memory=None (set_params), and set it again where it is loaded."
        )
    for attribute, (low, high) in _WORKERS.items():
        wanted = state.get(attribute)
        if wanted is not None and not (isinstance(wanted, Integral) and low <= int(wanted) <= high):
            raise UntrustedFileError(f"{name}.{attribute} is not between {low} and {high}.")


def _width(model: Any) -> int | None:
    """Number of columns that a fitted PyOD model works on."""
    for name in ("X_train_", "X_train", "cluster_centers_", "projections_", "subset", "_centroids"):
        array = vars(model).get(name)
        if isinstance(array, np.ndarray):
            return array.shape[-1]
    for name in ("detector_", "tree_", "kpca", "kde_"):
        inner = vars(model).get(name)
        if hasattr(inner, "data"):
            return inner.data.shape[1]
        if hasattr(inner, "n_features_in_"):
            return inner.n_features_in_
    edges = vars(model).get("bin_edges_")
    if edges is None:
        return None
    return edges.shape[1] if isinstance(edges, np.ndarray) else len(edges)


# ---- plain values that pickle makes by calls ------------------------------------------
def _encoded(call: Call, value: Value) -> bytes:
    text, encoding = _args(call, 2)
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise UntrustedFileError("it encodes text in another way than pickle does.")
    return text.encode("latin1")


def _bytes(call: Call, value: Value) -> bytes:
    args = _args(call, 0, 1)
    content = value(args[0]) if args else b""
    if not isinstance(content, (bytes, bytearray)):
        raise UntrustedFileError("it makes bytes of something else.")
    return bytes(content)


def _set(call: Call, value: Value, limits: _Limits) -> Any:
    (items,) = _args(call, 1)
    content = value(items)
    if type(content) is not list:
        raise UntrustedFileError("it makes a set of something that is not a list.")
    limits.check_keys(content)
    return frozenset(content) if call.function.name == "frozenset" else set(content)


def _complex(call: Call, value: Value) -> complex:
    real, imaginary = _args(call, 2)
    if type(real) is not float or type(imaginary) is not float:
        raise UntrustedFileError("it makes a complex number of something other than two floats.")
    return complex(real, imaginary)


def _slice(call: Call, value: Value) -> slice:
    parts = [value(part) for part in _args(call, 3)]
    if not all(part is None or isinstance(part, (int, np.integer, str)) for part in parts):
        raise UntrustedFileError("it makes a slice of something other than integers.")
    return slice(*parts)


def _ordered(call: Call, value: Value, limits: _Limits) -> dict[Any, Any]:
    if call.args != () or call.items:
        raise UntrustedFileError("it makes a dict as pickle does not.")
    return limits.dict_of([(value(key), value(item)) for key, item in call.pairs])


def _bunch(call: Call, value: Value, limits: _Limits) -> Bunch:
    content = _ordered(call, value, limits)
    if not all(type(key) is str for key in content):
        raise UntrustedFileError("it holds a Bunch with keys that are not text.")
    return Bunch(**content)


def _path(call: Call, value: Value) -> str:
    """A path comes back as text: no path object of a file's making looks at the disk."""
    parts = call.args
    if type(parts) is not tuple or not parts or not all(type(part) is str for part in parts):
        raise UntrustedFileError("it holds a path whose parts are not text.")
    module = ntpath if "Windows" in call.function.name else posixpath
    return module.join(*parts)


def _image_format(call: Call, value: Value) -> ImageFormat:
    (text,) = _args(call, 1)
    known = {one.value: one for one in ImageFormat}
    if type(text) is not str or text not in known:
        raise UntrustedFileError("it holds an image format that there is not.")
    return known[text]


# ---- numpy ----------------------------------------------------------------------------
def _array(call: Call, value: Value) -> np.ndarray:
    _, shape, dtype, fortran, content = _state(call, 5)
    return array_from(shape, dtype, fortran, value(content))


def _array_from_buffer(call: Call, value: Value) -> np.ndarray:
    content, dtype, shape, order = _args(call, 4)
    return array_from(shape, dtype, order == "F", value(content))


def _masked_array(call: Call, value: Value) -> np.ma.MaskedArray:
    _, shape, dtype, fortran, content, mask, fill = _state(call, 7)
    return masked_array_from(shape, dtype, fortran, value(content), value(mask), value(fill))


def _random_state(call: Call, value: Value) -> np.random.RandomState:
    """A RandomState with this state, if it is one that a Mersenne Twister can have."""
    state = {key: item for key, item in call.state.items if type(key) is str}
    inner = {key: item for key, item in state["state"].items if type(key) is str}
    key, position, gauss = value(inner.get("key")), inner.get("pos"), state.get("gauss")
    if (
        state.get("bit_generator") != "MT19937"
        or not isinstance(key, np.ndarray)
        or key.shape != (624,)
        or key.dtype != np.uint32
        or type(position) is not int
        or not 0 <= position <= 624
        or state.get("has_gauss") not in (0, 1)
        or type(gauss) is not float
    ):
        raise UntrustedFileError("it holds a RandomState that is none of a Mersenne Twister.")
    made = np.random.RandomState(0)
    made.set_state(("MT19937", key, position, state["has_gauss"], gauss))
    return made


def _key_parts(call: Call) -> list[Any]:
    if type(call.state) is Pairs:
        for name, inner in call.state.items:
            if name == "state" and type(inner) is Pairs:
                return [item for key, item in inner.items if key == "key"]
    raise UntrustedFileError("it holds a RandomState without a state.")


# ---- scikit-learn ---------------------------------------------------------------------
def _search_tree(call: Call, value: Value, limits: _Limits) -> Any:
    return search_tree_from(call, value, limits.take_bytes)


class _Requests:
    """Metadata that an estimator's methods ask for, until the estimator is there."""

    def __init__(self, asked: dict[str, dict[str, Any]]) -> None:
        self.asked = asked

    def give_to(self, estimator: Any) -> None:
        requests = estimator._get_metadata_request()
        for method, asked in self.asked.items():
            getattr(requests, method)._requests = asked
        estimator._metadata_request = requests


_METHODS = frozenset(
    (
        "decision_function",
        "fit",
        "inverse_transform",
        "partial_fit",
        "predict",
        "predict_log_proba",
        "predict_proba",
        "score",
        "split",
        "transform",
    )
)


def _request_parts(call: Call) -> list[Any]:
    """Not the owner, which is the estimator that they are a part of."""
    if type(call.state) is not Pairs:
        raise UntrustedFileError("it holds invalid metadata requests.")
    return [item for key, item in call.state.items if key != "owner"]


def _method_request(call: Call, value: Value) -> dict[str, Any]:
    state = {key: value(item) for key, item in call.state.items if key != "owner"}
    asked = state.get("_requests")
    if not isinstance(asked, dict) or not all(
        type(key) is str and type(item) in (str, bool, type(None)) for key, item in asked.items()
    ):
        raise UntrustedFileError("it holds invalid metadata requests.")
    return asked


def _requests(call: Call, value: Value) -> _Requests:
    asked = {key: value(item) for key, item in call.state.items if key != "owner"}
    if not _METHODS.issuperset(asked) or not all(type(one) is dict for one in asked.values()):
        raise UntrustedFileError("it holds invalid metadata requests.")
    return _Requests(asked)


# ---- the table of calls ---------------------------------------------------------------
def _no_parts(call: Call) -> list[Any]:
    return []


def _args_parts(call: Call) -> list[Any]:
    return list(call.args) if type(call.args) is tuple else []


def _first_arg(call: Call) -> list[Any]:
    return _args_parts(call)[:1]


def _second_arg(call: Call) -> list[Any]:
    return _args_parts(call)[1:2]


def _content_of_array(call: Call) -> list[Any]:
    return list(call.state[4:]) if type(call.state) is tuple else []


def _pair_parts(call: Call) -> list[Any]:
    return [part for pair in call.pairs for part in pair]


def _tree_parts(call: Call) -> list[Any]:
    return [item for _, item in call.state.items] if type(call.state) is Pairs else []


def _points_parts(call: Call) -> list[Any]:
    return list(call.state[:1]) + list(call.state[11:]) if type(call.state) is tuple else []


def _core(name: str) -> tuple[str, str]:
    return f"numpy._core.{name}", f"numpy.core.{name}"


_MAKERS: dict[str, tuple[Maker, Callable[[Call], Sequence[Any]]]] = {
    "_codecs.encode": (_encoded, _no_parts),
    **{
        f"{module}.{name}": maker
        for module in ("builtins", "__builtin__")
        for name, maker in {
            "bytes": (_bytes, _first_arg),
            "bytearray": (lambda call, value: bytearray(_bytes(call, value)), _first_arg),
            "complex": (_complex, _no_parts),
            "slice": (_slice, _args_parts),
        }.items()
    },
    **{
        f"{module}.{name}": (_path, _no_parts)
        for module in ("pathlib", "pathlib._local")
        for name in (
            ["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"]
        )
    },
    "pyimgano.inputs._formats.ImageFormat": (_image_format, _no_parts),
    "numpy.dtype": (lambda call, value: dtype_of(call), _no_parts),
    **dict.fromkeys(_core("multiarray._reconstruct"), (_array, _content_of_array)),
    **dict.fromkeys(
        _core("multiarray.scalar"),
        (lambda call, value: scalar_from(call.args[0], value(call.args[1])), _second_arg),
    ),
    **dict.fromkeys(_core("numeric._frombuffer"), (_array_from_buffer, _first_arg)),
    "numpy.ma._mareconstruct": (_masked_array, _content_of_array),
    "numpy.ma.core._mareconstruct": (_masked_array, _content_of_array),
    "numpy.random._pickle.__randomstate_ctor": (_random_state, _key_parts),
    "sklearn.metrics._dist_metrics.newObj": (distance_from, _no_parts),
    "sklearn.utils._metadata_requests.MetadataRequest": (_requests, _request_parts),
    "sklearn.utils._metadata_requests.MethodMetadataRequest": (_method_request, _request_parts),
}

# Those that could take much memory or time, which they ask for first.
_LIMITED_MAKERS: dict[str, tuple[LimitedMaker, Callable[[Call], Sequence[Any]]]] = {
    "collections.OrderedDict": (_ordered, _pair_parts),
    "sklearn.utils._bunch.Bunch": (_bunch, _pair_parts),
    "sklearn.utils.Bunch": (_bunch, _pair_parts),
    **{
        f"{module}.{name}": (_set, _first_arg)
        for module in ("builtins", "__builtin__")
        for name in ("frozenset", "set")
    },
    **{
        f"sklearn.neighbors.{module}.newObj": (_search_tree, _points_parts)
        for module in ("_kd_tree", "_ball_tree")
    },
}


def _imported(name: Any) -> Any:
    try:
        found = importlib.import_module(name.module)
        for part in name.name.split("."):
            found = getattr(found, part)
    except (AttributeError, ImportError) as error:
        raise UntrustedFileError(f"it holds {name}, which cannot be imported ({error}).") from error
    return found


def _not_admitted(unknown: Iterable[str]) -> UntrustedFileError:
    names = list(unknown)
    are, them = ("is", "it") if len(names) == 1 else ("are", "them")
    shown = names[:20]
    quoted = ", ".join(f'"{name}"' for name in shown)
    return UntrustedFileError(
        f"it holds {', '.join(shown)}, which {are} not on the list of types that are safe to "
        f"load. If you trust {them}: load(path, trusted=[{quoted}]), which runs {them}."
    )
