"""Hostile files, each for a way in which reading a saved pipeline has once gone wrong.

Run as a program it writes them and loads them, with an audit hook that sees what the process
opens, imports, starts or connects to, and prints what came of each.
"""

from __future__ import annotations

import bz2
import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Union

import joblib
import numpy as np
from sklearn.covariance import MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KDTree
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils import Bunch

import pyimgano
from pyimgano.calibration import ThresholdCalibrator
from pyimgano.detectors import PaDiMDetector, PatchCoreDetector
from pyimgano.exceptions import UntrustedFileError
from pyimgano.features import BackbonePatchFeatures
from pyimgano.model_selection import OneClassKFold, balanced_accuracy
from pyimgano.persistence import _admitted
from tests.attack.files import Assembler as A
from tests.attack.files import write

__all__ = ["HOSTILE"]

ROWS = np.random.RandomState(0).normal(size=(40, 4))
Maker = Callable[[Path], "bytes | Any"]
Repeated = Union[bytes, tuple[bytes, int]]
HOSTILE: dict[str, Maker] = {}


def hostile(make: Maker) -> Maker:
    HOSTILE[make.__name__] = make
    return make


# Those of so many objects that an audit hook, called for each, would take longer than they do.
HEAVY: set[str] = set()


# Those that took much memory. Each is loaded in a process of its own: the system tells only the
# most that a process has ever taken, which an earlier file may have reached.
ALONE: set[str] = set()


def alone(make: Maker) -> Maker:
    ALONE.add(make.__name__)
    return hostile(make)


def heavy(make: Maker) -> Maker:
    HEAVY.add(make.__name__)
    return hostile(make)


def pipeline() -> Any:
    return pickle.loads(_good_pipeline())


@cache
def _good_pipeline() -> bytes:
    detector = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9)
    return pickle.dumps(make_pipeline(StandardScaler(), detector).fit(ROWS), protocol=4)


class Piece(bytes):
    """A piece of a pickle that pushes one value: tried as the content, and thrown away."""


def prefixed(piece: bytes) -> bytes:
    return Piece(piece)


def files_of(name: str, content: Any) -> dict[str, Any]:
    """The files that a maker's result stands for."""
    if not isinstance(content, Piece):
        return {name: content}
    good = _good_pipeline()
    return {
        name: A.file(bytes(content)),
        f"{name}_thrown_away": A.START + bytes(content) + A.POP + good[2:],
        f"{name}_in_a_pipeline": A.file(
            A.with_state(
                A.new("sklearn.pipeline.Pipeline"),
                A.dict(
                    steps=b"]" + A.value("step") + bytes(content) + b"\x86a",
                    memory=b"N",
                    verbose=A.value(False),
                    transform_input=b"N",
                ),
            )
        ),
    }


def packed(*pieces: Repeated) -> bytes:
    """A zlib stream of pieces, which may be repeated, that compresses each piece once."""
    stream, checksum = b"\x78\x9c", 1
    for one in pieces:
        piece, times = one if isinstance(one, tuple) else (one, 1)
        packer = zlib.compressobj(wbits=-15)
        # Up to a full flush it refers to nothing before it, and may stand anywhere.
        stream += (packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)) * times
        for _ in range(times):
            checksum = zlib.adler32(piece, checksum)
    return stream + b"\x03\x00" + struct.pack(">I", checksum)


def in_a_scaler(*pieces: Repeated, before: tuple[Repeated, ...] = ()) -> bytes:
    """A compressed file in which something stands where an array should be.

    What comes before leaves nothing but what it has in the memo.
    """
    start, end = A.with_state(A.new(SCALER), A.dict(mean_=b"\0here\0")).split(b"\0here\0")
    return packed(A.START, *before, start, *pieces, end, A.STOP)


class Recipe:
    def __init__(self, *recipe: Any) -> None:
        self.recipe = recipe

    def __reduce__(self) -> Any:
        return self.recipe


# ---- functions that call what they are given --------------------------------------------
@hostile
def a_generator_made_by_a_function_of_the_files(folder: Path) -> bytes:
    call = A.call(
        "numpy.random._pickle.__generator_ctor",
        A.value(str(folder / "written")),
        A.name("os.mkdir"),
    )
    return prefixed(call)


@hostile
def a_random_state_made_by_a_function_of_the_files(folder: Path) -> bytes:
    call = A.call(
        "numpy.random._pickle.__randomstate_ctor",
        A.value(str(folder / "written")),
        A.name("os.mkdir"),
    )
    return prefixed(call)


@hostile
def a_bit_generator_of_any_class(folder: Path) -> bytes:
    return prefixed(A.call("numpy.random._pickle.__bit_generator_ctor", A.name("pathlib.Path")))


@hostile
def a_search_tree_of_any_class(folder: Path) -> bytes:
    return prefixed(A.call("sklearn.neighbors._kd_tree.newObj", A.name("joblib.memory.Memory")))


@hostile
def a_system_call(folder: Path) -> bytes:
    return prefixed(A.call("os.system", A.value(f"touch {folder}/written")))


@hostile
def a_function_behind_a_dotted_name(folder: Path) -> bytes:
    named = A.text("pyimgano.inputs._sequence") + A.text("os.mkdir") + b"\x93"
    return prefixed(A.call(named, A.value(str(folder / "written"))))


# ---- state that is no dict, and names with underscores ----------------------------------
SCALER = "sklearn.preprocessing._data.StandardScaler"
DETECTOR = "pyimgano.detectors._patchcore.PatchCoreDetector"


@hostile
def state_as_a_list_of_pairs(folder: Path) -> bytes:
    pairs = A.pairs(__setstate__=A.name("os.mkdir"))
    return prefixed(A.with_state(A.new(DETECTOR), pairs))


@hostile
def state_twice(folder: Path) -> bytes:
    once = A.with_state(A.new(DETECTOR), A.pairs(__setstate__=A.name("os.mkdir")))
    return prefixed(A.with_state(once, A.value(str(folder / "written"))))


@hostile
def state_with_a_method(folder: Path) -> bytes:
    return prefixed(A.with_state(A.new(SCALER), A.dict(__setstate__=A.name("os.mkdir"))))


@hostile
def state_with_a_class(folder: Path) -> bytes:
    return prefixed(A.with_state(A.new(SCALER), A.dict(__class__=A.name(DETECTOR))))


@hostile
def state_of_slots(folder: Path) -> bytes:
    slots = b"N" + A.dict(fit=A.name("os.mkdir")) + b"\x86"
    return prefixed(A.with_state(A.new(SCALER), slots))


@hostile
def state_with_methods_of_a_dict(folder: Path) -> bytes:
    inner = A.with_state(A.new(SCALER), A.dict(items=A.name("os.getcwd"), pop=A.name("os.getcwd")))
    return prefixed(A.with_state(A.new(DETECTOR), inner))


@hostile
def versions_with_a_get_of_their_own(folder: Path) -> bytes:
    inner = A.with_state(A.new(SCALER), A.dict(get=A.name("os.mkdir")))
    return prefixed(A.with_state(A.new(DETECTOR), A.dict(_versions=inner)))


@hostile
def state_of_a_class(folder: Path) -> bytes:
    return prefixed(A.with_state(A.name(SCALER), A.dict(fit=A.name("os.mkdir"))))


@hostile
def an_object_filled_by_append(folder: Path) -> bytes:
    made = A.with_state(A.new(SCALER), A.dict(append=A.name("os.mkdir")))
    return prefixed(made + A.value(str(folder / "written")) + b"a")


# ---- methods by names that are kept in state --------------------------------------------
def search() -> Any:
    found = GridSearchCV(
        PatchCoreDetector(), {"n_neighbors": [1]}, scoring="roc_auc", cv=OneClassKFold(2)
    )
    return found.fit(ROWS, np.repeat([1, -1], 20))


@hostile
def a_scorer_that_fits(folder: Path) -> Any:
    found = search()
    found.scorer_._response_method = "set_params"
    return found


@hostile
def a_scorer_that_calls_anything(folder: Path) -> Any:
    found = search()
    found.scorer_._score_func = os.mkdir
    return found


@hostile
def a_method_behind_a_frozen_estimator(folder: Path) -> bytes:
    frozen = A.with_state(
        A.new("sklearn.frozen._frozen.FrozenEstimator"), A.dict(estimator=A.new(SCALER))
    )
    call = A.call("builtins.getattr", frozen, A.value("fit"))
    return prefixed(call)


@hostile
def a_stacking_classifier(folder: Path) -> bytes:
    state = A.dict(stack_method_=A.value(["__class__"]))
    return prefixed(A.with_state(A.new("sklearn.ensemble._stacking.StackingClassifier"), state))


@hostile
def a_function_as_a_parameter(folder: Path) -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(os.mkdir)


@hostile
def a_scorer_as_a_transformer(folder: Path) -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(balanced_accuracy)


# ---- objects that act -------------------------------------------------------------------
@hostile
def a_cache(folder: Path) -> Any:
    return make_pipeline(StandardScaler(), memory=joblib.Memory(folder / "cache", verbose=0))


@hostile
def a_cache_by_name(folder: Path) -> Any:
    return make_pipeline(StandardScaler(), memory=str(folder / "cache"))


@hostile
def a_memory_called(folder: Path) -> bytes:
    return prefixed(A.call("joblib.memory.Memory", A.value(str(folder / "written"))))


@hostile
def a_store_that_clears_a_folder(folder: Path) -> bytes:
    made = A.with_state(
        A.new("joblib._store_backends.FileSystemStoreBackend"),
        A.dict(location=A.value(str(folder))),
    )
    return prefixed(made)


@hostile
def a_sequence_of_files(folder: Path) -> bytes:
    made = A.new("pyimgano.inputs._sequence.ImageSequence")
    return A.file(A.with_state(made, A.dict(paths=A.value(("/etc/passwd",)))))


@hostile
def a_memory_map(folder: Path) -> bytes:
    return prefixed(A.call("numpy.memmap", A.value(str(folder / "written")), A.value("w+")))


@hostile
def a_file_of_weights_without_what_they_were(folder: Path) -> Any:
    return changed(BackbonePatchFeatures(), weights_file_="/etc/passwd")


@hostile
def channels_of_a_network_that_descend(folder: Path) -> Any:
    return changed(BackbonePatchFeatures(), _channels=np.array([3, 1]))


@hostile
def a_file_with_arrays_of_objects(folder: Path) -> bytes:
    return prefixed(A.call("numpy.load", A.value(str(folder / "x.npy"))))


# ---- what compiled code believes ----------------------------------------------------------
@hostile
def an_array_over_any_address(folder: Path) -> Any:
    model = PaDiMDetector().fit(ROWS)
    interface = {"shape": (4,), "typestr": "<f8", "data": (1024, False), "version": 3}
    model.mean_ = Bunch(__array_interface__=interface)
    return model


def changed(model: Any, **changes: Any) -> Any:
    for name, value in changes.items():
        *way, last = name.split("__")
        one = model
        for step in way:
            one = getattr(one, step)
        setattr(one, last, value)
    return model


@hostile
def a_mean_too_short(folder: Path) -> Any:
    return changed(PaDiMDetector().fit(ROWS), mean_=np.zeros((1, 2), np.float32))


@hostile
def a_factor_too_short(folder: Path) -> Any:
    return changed(PaDiMDetector().fit(ROWS), factor_=np.zeros((1, 3), np.float32))


def large_bank() -> Any:
    model = PatchCoreDetector().fit(ROWS)
    bank = np.random.RandomState(0).normal(size=(1100, 128)).astype(np.float32)
    model._search = type(model._search)(bank, np.arange(1100) % 40)
    model._bank_weight, model.n_features_in_ = np.ones(1100), 128
    model._kept_rows = np.zeros((len(model._kept_rows), 128), np.float32)
    return model


@hostile
def members_of_leaves_out_of_range(folder: Path) -> Any:
    model = large_bank()
    model._search._bounds._members[0, 0] = 10**12
    return model


@hostile
def members_of_leaves_twice(folder: Path) -> Any:
    model = large_bank()
    model._search._bounds._members[0, 0] = model._search._bounds._members[1, 0]
    return model


@hostile
def bounds_of_another_bank(folder: Path) -> Any:
    model = large_bank()
    model._search.bank = model._search.bank[:20]
    model._search.bank_group, model._bank_weight = np.zeros(20, np.int64), np.ones(20)
    return model


@hostile
def groups_of_half_the_bank(folder: Path) -> Any:
    model = PatchCoreDetector(coreset_ratio=1.0).fit(ROWS)
    return changed(model, _search__bank_group=np.zeros(3, np.int64))


@hostile
def known_images_that_there_are_not(folder: Path) -> Any:
    model = PatchCoreDetector().fit(ROWS)
    return changed(model, _known=dict.fromkeys(model._known, 10**6))


@hostile
def weights_of_nan(folder: Path) -> Any:
    model = PatchCoreDetector().fit(ROWS)
    return changed(model, _bank_weight=np.full_like(model._bank_weight, np.nan))


@hostile
def scores_of_nan(folder: Path) -> Any:
    model = ThresholdCalibrator(PatchCoreDetector(), quantile=0.9).fit(ROWS)
    model.__dict__["threshold_"] = float("nan")
    return model


def forest(**nodes: Any) -> Any:
    model = IsolationForest(n_estimators=2, random_state=0).fit(ROWS)
    tree = model.estimators_[0].tree_
    function, args, state = tree.__reduce__()
    state["nodes"] = state["nodes"].copy()
    for name, value in nodes.items():
        if name in state["nodes"].dtype.names:
            state["nodes"][name][0] = value
        else:
            state[name] = value
    model.estimators_[0].tree_ = Recipe(function, args, state)
    return model


HOSTILE["a_tree_of_depth_zero"] = lambda folder: forest(max_depth=0)
HOSTILE["a_tree_that_goes_round"] = lambda folder: forest(left_child=0)
HOSTILE["a_tree_whose_ways_meet"] = lambda folder: forest(left_child=2, right_child=2)
HOSTILE["a_tree_with_a_way_out"] = lambda folder: forest(right_child=10**6)
HOSTILE["a_tree_of_other_columns"] = lambda folder: forest(feature=1000)
HOSTILE["a_tree_of_a_million_nodes"] = lambda folder: forest(node_count=10**6)
HOSTILE["a_tree_without_values"] = lambda folder: forest(values=np.zeros((1, 1, 1)))


@hostile
def a_tree_without_state(folder: Path) -> Any:
    model = forest()
    function, args, _ = model.estimators_[0].tree_.recipe
    model.estimators_[0].tree_ = Recipe(function, args)
    return model


@hostile
def a_tree_with_more_columns_than_its_forest(folder: Path) -> Any:
    model = forest()
    function, args, state = model.estimators_[0].tree_.recipe
    model.estimators_[0].tree_ = Recipe(function, (4000, *args[1:]), state)
    return model


@hostile
def a_search_tree_of_nan(folder: Path) -> Any:
    function, args, state = KDTree(ROWS).__reduce__()
    return [Recipe(function, args, (state[0] + np.nan, *state[1:]))]


@hostile
def a_generator_beyond_its_numbers(folder: Path) -> Any:
    function, args, state = np.random.RandomState(0).__reduce__()
    state["state"]["pos"] = 10**6
    return OneClassKFold(2, random_state=Recipe(function, args, state))  # type: ignore[arg-type]


@hostile
def an_array_of_pointers(folder: Path) -> bytes:
    dtype = A.call("numpy.dtype", A.value("O8"), A.value(False), A.value(True))
    return A.file(A.call("numpy._core.multiarray.scalar", dtype, A.value(b"A" * 8)))


@hostile
def text_of_no_letters(folder: Path) -> Any:
    letters = np.array(["ab"])
    letters.view(np.uint32)[:] = 0x7FFFFFFF
    return {"names": letters}


# A structure with such text, in which it is found when it is shown, hashed or taken apart.
NO_TEXT = np.frombuffer(b"\xff\xff\xff\x7f", [("a", "<U1")])
NO_FLAG = np.frombuffer(b"\x07", [("a", "?")])


for place, model in {
    "offset_": PatchCoreDetector,
    "_composition_limit": PatchCoreDetector,
    "input_kind_": PatchCoreDetector,
    "tiled_": PatchCoreDetector,
    "fit_status_": OneClassSVM,
    "_sparse": OneClassSVM,
}.items():
    for kind, values in {"text": NO_TEXT, "flag": NO_FLAG}.items():
        HOSTILE[f"no_{kind}_in_a_field_of_{place}"] = lambda folder, p=place, m=model, v=values: (
            changed(m().fit(ROWS), **{p: v[0]})
        )
        HOSTILE[f"no_{kind}_in_a_field_of_a_field_of_{place}"] = (
            lambda folder, p=place, m=model, v=values: changed(
                m().fit(ROWS), **{p: v.astype([("b", v.dtype, (1,))])[0]}
            )
        )


def masked(fill_value: np.ndarray, data: Any = (1.0,)) -> Any:
    """A masked array with any array as its fill_value, in a parameter that may hold one."""
    from sklearn.preprocessing import FunctionTransformer

    array = np.ma.MaskedArray(data, mask=[True])
    function, args, state = array.__reduce__()
    return FunctionTransformer(kw_args={"v": Recipe(function, args, (*state[:-1], fill_value))})


HOSTILE["no_text_as_a_fill_value"] = lambda folder: masked(NO_TEXT.reshape(()))
HOSTILE["a_fill_value_of_fields"] = lambda folder: masked(np.zeros((), [("a", "f8")]))


@hostile
def text_of_no_letters_in_the_other_byte_order(folder: Path) -> Any:
    return {"names": np.frombuffer(b"\x7f\xff\xff\xff", [("a", ">U1")])}


@hostile
def flags_beyond_one(folder: Path) -> Any:
    flags = np.zeros((4, 4), bool)
    flags.view(np.uint8)[:] = 7
    return flags


@hostile
def threads_without_end(folder: Path) -> Any:
    return IsolationForest(n_jobs=10**9)


# ---- size, depth and time -----------------------------------------------------------------
@hostile
def a_set_of_a_range(folder: Path) -> bytes:
    return prefixed(A.call("builtins.set", A.call("builtins.range", A.value(10**9))))


@hostile
def a_fraction(folder: Path) -> bytes:
    return prefixed(A.call("fractions.Fraction", A.value("1e999999999")))


@hostile
def punycode(folder: Path) -> bytes:
    return prefixed(A.call("_codecs.encode", A.value("é" * 10**5), A.value("punycode")))


@heavy
def a_million_tuples_in_each_other(folder: Path) -> bytes:
    return A.file(A.value(None) + b"\x85" * 10**6)


@heavy
def a_key_of_a_million_tuples(folder: Path) -> bytes:
    return A.file(b"}" + A.value(None) + b"\x85" * 10**6 + A.value(1) + b"s")


@hostile
def a_million_dicts_in_each_other(folder: Path) -> bytes:
    return A.file(b"}K\x00" * 10**5 + A.value(1) + b"s" * 10**5)


@hostile
def a_list_in_itself(folder: Path) -> bytes:
    return A.file(b"]\x94h\x00a")


@hostile
def pairs_of_pairs(folder: Path) -> bytes:
    # 2 ** 90 objects in as many bytes as there are twos.
    return A.file(b"N" + b"\x85" + b"2\x86" * 90)


@hostile
def a_key_of_pairs_of_pairs(folder: Path) -> bytes:
    return A.file(b"}" + b"N\x85" + b"2\x86" * 40 + A.value(1) + b"s")


@hostile
def numbers_that_collide(folder: Path) -> bytes:
    # Keys of a dict, a thousand at a time, as pickle writes them.
    keys = [A.value(i * (2**61 - 1)) + b"N" for i in range(1, 20_000)]
    parts = [b"".join(keys[i : i + 1000]) for i in range(0, len(keys), 1000)]
    return A.file(b"}" + b"".join(A.MARK + part + b"u" for part in parts))


@heavy
def sets_of_numbers_that_collide(folder: Path) -> bytes:
    # One list, of which each set is made anew.
    numbers = A.value([i * (2**61 - 1) for i in range(1, 1001)]) + b"\x940"
    made = A.name("builtins.set") + b"\x940"
    return in_a_scaler(b"](" + b"h\x01h\x00\x85R" * 4000 + b"e", before=(numbers + made,))


@heavy
def tuples_that_collide(folder: Path) -> bytes:
    # Long ones that differ in the last item.
    long = [A.MARK + b"N" * 490 + A.value(i * (2**61 - 1)) + b"t" for i in range(1, 900)]
    numbers = b"](" + b"".join(long) + b"e\x940"
    made = A.name("builtins.set") + b"\x940"
    return in_a_scaler(b"](" + b"h\x01h\x00\x85R" * 10 + b"e", before=(numbers + made,))


@alone
def a_search_tree_of_small_leaves(folder: Path) -> bytes:
    n = 16 * 10**6
    rest = [A.value(one) for one in (None,) * 10]
    rest[3] = A.value(1)
    distance = A.with_state(
        A.call(
            "sklearn.metrics._dist_metrics.newObj",
            A.name("sklearn.metrics._dist_metrics.EuclideanDistance64"),
        ),
        A.MARK + A.value(2.0) + b"t",
    )
    made = A.call(
        "sklearn.neighbors._kd_tree.newObj", A.name("sklearn.neighbors._kd_tree.KDTree64")
    )
    points = array_of(dtype("f8"), (n, 2))[2:], (bytes(10**6), 16 * n // 10**6), b"\x940"
    inner = A.MARK + b"h\x00" + b"".join(rest) + distance + b"Nt"
    return in_a_scaler(A.with_state(made, inner), before=points)


def robust(d: int, n: int) -> bytes:
    """Many MinCovDet of so many columns, which share one matrix, where an array should be."""
    state = vars(MinCovDet(store_precision=False).fit(ROWS))
    state = {name: value for name, value in state.items() if not name.startswith("raw_")}
    state.update(n_features_in_=d, location_=np.zeros(d), precision_=None)
    pieces = {name: as_written(value) for name, value in state.items() if name != "covariance_"}
    one = A.with_state(
        A.new("sklearn.covariance._robust_covariance.MinCovDet"),
        A.dict(**pieces, covariance_=b"h\x00"),
    )
    # Of an identity matrix, each one but the last stands before as many zeros as a row is long.
    row = np.r_[np.float32(1), np.zeros(d, np.float32)]
    matrix = array_of(dtype("f4"), (d, d))[2:], (row.tobytes(), d - 1), row[:1].tobytes()
    return in_a_scaler(b"](" + one * n + b"e", before=(*matrix, b"\x940"))


def as_written(value: Any) -> bytes:
    if not isinstance(value, np.ndarray):
        return A.value(value)
    return array_of(dtype(value.dtype.str[1:]), value.shape, value.tobytes())[2:]


@alone
def a_covariance_of_six_thousand_columns(folder: Path) -> bytes:
    return robust(6000, 1)


@heavy
def a_covariance_in_many_places(folder: Path) -> bytes:
    return robust(2048, 60)


@hostile
def a_steps_list_that_doubles(folder: Path) -> Any:
    one: Any = StandardScaler()
    for _ in range(40):
        one = make_pipeline(one, one)
        one.steps[1] = one.steps[0]
    return one


@hostile
def frozen_estimators_in_each_other(folder: Path) -> bytes:
    piece = A.name("sklearn.frozen._frozen.FrozenEstimator") + b")\x81}" + A.text("estimator")
    return A.file(piece * 5000 + A.new(SCALER) + b"sb" * 5000)


def dtype(kind: str, *state: Any) -> bytes:
    """A description of a dtype, and what its state says of names, fields and size."""
    made = A.call("numpy.dtype", A.value(kind), A.value(False), A.value(True))
    names, fields, size, base = [*state, None, None, None, None][:4] if state else [None] * 4
    state_of_it = [
        *map(A.value, (3, "|" if kind[0] in "VSb" else "<")),
        A.value(None) if base is None else base,
        A.value(names),
        A.value(None) if fields is None else fields,
        A.value(-1 if size is None else size),
        *map(A.value, (1, 0)),
    ]
    return A.with_state(made, A.MARK + b"".join(state_of_it) + b"t")


def structure(fields: dict[str, tuple[bytes, int]], size: int, names: Any = None) -> bytes:
    """A dtype of fields, each a description and an offset."""
    inner = A.dict(**{name: one + A.value(at) + b"\x86" for name, (one, at) in fields.items()})
    return dtype(f"V{size}", tuple(fields) if names is None else names, inner, size)


def array_of(kind: bytes, shape: tuple, content: bytes = b"") -> bytes:
    """What joblib writes for an array, as a file of its own without its end."""
    state = A.dict(
        subclass=A.name("numpy.ndarray"),
        shape=A.value(shape),
        order=A.value("C"),
        dtype=kind,
        allow_mmap=A.value(True),
    )
    wrapper = A.new("joblib.numpy_pickle.NumpyArrayWrapper")
    return A.START + A.with_state(wrapper, state) + content


@hostile
def an_announced_terabyte(folder: Path) -> bytes:
    return array_of(dtype("f8"), (10**12,)) + A.STOP


# ---- dtypes -------------------------------------------------------------------------------
@hostile
def a_dtype_in_dtypes(folder: Path) -> bytes:
    inner = dtype("f8")
    for _ in range(50):
        inner = structure({"a": (inner, 0)}, 8)
    return array_of(inner, (1,), bytes(8)) + A.STOP


@hostile
def a_subarray_of_subarrays(folder: Path) -> bytes:
    inner = dtype("f8")
    for _ in range(3):
        inner = dtype("V8", None, None, None, inner + A.value((1000,)) + b"\x86")
    return array_of(inner, (1,)) + A.STOP


@hostile
def a_dtype_of_ten_thousand_names(folder: Path) -> bytes:
    byte = dtype("u1")
    fields = {f"f{i}": (byte, i) for i in range(10_000)}
    return array_of(structure(fields, 10_000), (1,), bytes(10_000)) + A.STOP


@hostile
def a_dtype_with_a_name_twice(folder: Path) -> bytes:
    return array_of(structure({"a": (dtype("u1"), 0)}, 8, ("a", "a")), (1,), bytes(8)) + A.STOP


@hostile
def a_dtype_with_a_name_of_no_field(folder: Path) -> bytes:
    return array_of(structure({"a": (dtype("u1"), 0)}, 8, ("b",)), (1,), bytes(8)) + A.STOP


@hostile
def a_field_beyond_its_item(folder: Path) -> bytes:
    return array_of(structure({"a": (dtype("f8"), 0)}, 7), (1,), bytes(7)) + A.STOP


@hostile
def a_field_before_its_item(folder: Path) -> bytes:
    return array_of(structure({"a": (dtype("f8"), -8)}, 8), (1,), bytes(8)) + A.STOP


@hostile
def a_field_of_pointers(folder: Path) -> bytes:
    return array_of(structure({"a": (dtype("O8"), 0)}, 8), (1,), bytes(8)) + A.STOP


@hostile
def an_item_of_a_terabyte(folder: Path) -> bytes:
    return array_of(structure({"a": (dtype("u1"), 0)}, 2**40), (1,), bytes(8)) + A.STOP


HOSTILE["a_float_of_three_bytes"] = lambda folder: array_of(dtype("f3"), (1,), bytes(3)) + A.STOP
HOSTILE["an_item_of_no_size"] = lambda folder: array_of(dtype("S0"), (10**9,)) + A.STOP
HOSTILE["text_of_four_gigabytes"] = lambda folder: array_of(dtype("U999999999"), (1,)) + A.STOP
HOSTILE["a_length_below_zero"] = lambda folder: array_of(dtype("f8"), (-1,)) + A.STOP
HOSTILE["lengths_that_overflow"] = lambda folder: array_of(dtype("f8"), (2**33, 2**33)) + A.STOP
HOSTILE["forty_dimensions"] = lambda folder: array_of(dtype("f8"), (1,) * 40, bytes(8)) + A.STOP


@hostile
def an_array_of_nothing_without_end(folder: Path) -> bytes:
    dtype = A.call("numpy.dtype", A.value("V0"), A.value(False), A.value(True))
    array = A.call(
        "numpy._core.multiarray._reconstruct",
        A.name("numpy.ndarray"),
        A.value((0,)),
        A.value(b"b"),
    )
    state = b"(" + A.value(1) + A.value((10**15,)) + dtype + A.value(False) + A.value(b"") + b"t"
    return A.file(array + state + b"b")


@hostile
def a_string_of_two_gigabytes(folder: Path) -> bytes:
    return A.START + b"X" + struct.pack("<I", 2**31) + b"abc"


@hostile
def an_integer_of_a_gigabyte(folder: Path) -> bytes:
    return A.START + b"\x8b" + struct.pack("<I", 2**30) + b"abc"


@hostile
def a_number_of_a_million_digits(folder: Path) -> bytes:
    return b"L" + b"9" * 10**6 + b"L\n."


@hostile
def operations_without_end(folder: Path) -> bytes:
    return packed(A.START, (b"N0" * 3 * 10**5, 100), b"N.")


@hostile
def six_gigabytes_of_bz2(folder: Path) -> bytes:
    packer = bz2.BZ2Compressor()
    parts = [packer.compress(A.START + b"B" + struct.pack("<I", 2**26 - 1))]
    zeros = bytes(2**24)
    parts += [packer.compress(zeros) for _ in range(17)]
    return b"".join([*parts, packer.flush()])


@hostile
def a_zlib_stream_of_zeros(folder: Path) -> bytes:
    return packed(array_of(dtype("f8"), (3 * 10**7,)), (bytes(2**20), 24 * 2**4))


@hostile
def a_window_of_two_gigabytes(folder: Path) -> bytes:
    return b"\x5d" + struct.pack("<Iq", 2**31, -1) + bytes(1000)


@heavy
def half_a_million_lists(folder: Path) -> bytes:
    return in_a_scaler(b"](" + b"]" * 499_000 + b"e")


@heavy
def half_a_million_dicts(folder: Path) -> bytes:
    return in_a_scaler(b"](" + b"}" * 499_000 + b"e")


@heavy
def many_objects(folder: Path) -> bytes:
    recipe = A.name("numpy.dtype") + b"\x940" + A.value(("f8",)) + b"\x940"
    return in_a_scaler(recipe + b"](" + b"h\x00h\x01R" * 160_000 + b"e")


@heavy
def short_texts_of_wide_letters(folder: Path) -> bytes:
    # In memory, one letter beyond 16 bits makes each of the others four bytes long.
    text = ("\U0001f600" + "a" * 250).encode()
    one = b"\x8c" + bytes([len(text)]) + text
    return in_a_scaler(b"](", (one * 499, 1000), b"e")


@hostile
def long_texts_of_wide_letters(folder: Path) -> bytes:
    text = ("\U0001f600" + "a" * (2**20 - 10)).encode()
    one = b"X" + struct.pack("<I", len(text)) + text
    return in_a_scaler(b"](", (one, 200), b"e")


@hostile
def an_array_in_ten_thousand_places(folder: Path) -> bytes:
    # Each of the scalers would look through it.
    n = 2**20
    shared = array_of(dtype("f8"), (n,), np.ones(n).tobytes())[2:] + b"\x940"
    plain = {"copy": True, "with_mean": True, "with_std": True, "n_samples_seen_": 2}
    scaler = A.with_state(
        A.new(SCALER),
        A.dict(
            **{name: A.value(value) for name, value in {**plain, "n_features_in_": n}.items()},
            **dict.fromkeys(("mean_", "var_", "scale_"), b"h\x00"),
        ),
    )
    return zlib.compress(A.START + shared + b"](" + scaler * 10_000 + b"e.")


@hostile
def a_stream_with_something_behind_it(folder: Path) -> bytes:
    return zlib.compress(pickle.dumps(StandardScaler())) + b"more"


@hostile
def a_pickle_with_something_behind_it(folder: Path) -> bytes:
    return pickle.dumps(StandardScaler()) + b"more"


@hostile
def lz4_of_nothing(folder: Path) -> bytes:
    return b"\x04\x22\x4d\x18" + b"\xff" * 50


# ---- errors of other kinds ------------------------------------------------------------------
@hostile
def a_decimal(folder: Path) -> bytes:
    return prefixed(A.call("decimal.Decimal", A.value("no number")))


@hostile
def an_unknown_codec(folder: Path) -> bytes:
    return prefixed(A.call("_codecs.encode", A.value("a"), A.value("no such codec")))


@hostile
def a_division_by_zero(folder: Path) -> bytes:
    return prefixed(A.call("fractions.Fraction", A.value(1), A.value(0)))


@hostile
def a_generator_without_a_state(folder: Path) -> bytes:
    return prefixed(A.call("numpy.random._pickle.__randomstate_ctor", A.value("MT19937")))


@hostile
def a_dtype_of_code(folder: Path) -> bytes:
    return prefixed(A.call("numpy.dtype", A.value("f8, (1, ")))


@hostile
def a_module_that_does_not_exist(folder: Path) -> bytes:
    return prefixed(A.new("pyimgano.no_such.Thing"))


@hostile
def a_name_of_a_megabyte(folder: Path) -> bytes:
    return prefixed(A.text("m" * 10**6) + A.text("n") + b"\x93")


@hostile
def an_empty_file(folder: Path) -> bytes:
    return b""


@hostile
def a_pop_of_nothing(folder: Path) -> bytes:
    return A.START + b"0."


@hostile
def a_protocol_of_the_future(folder: Path) -> bytes:
    return b"\x80\x63N."


@hostile
def a_persistent_id(folder: Path) -> bytes:
    return A.START + A.value("a") + b"Q."


@hostile
def a_steps_list_of_numbers(folder: Path) -> Any:
    return changed(pipeline(), steps=[1, 2])


@hostile
def a_pipeline_without_steps(folder: Path) -> Any:
    return FrozenEstimator(changed(pipeline(), steps=[]))


# ---- loading them ---------------------------------------------------------------------------
_SEEN: list[str] = []
_WATCH = False
# What reading one regular file is, and what the interpreter does by itself.
_HARMLESS = ("object.", "sys._getframe", "builtins.id", "array.", "code.__new__", "cpython.")


def _hook(event: str, args: tuple) -> None:
    if _WATCH and not event.startswith(_HARMLESS):
        shown = tuple(str(one)[:200] for one in args)
        _SEEN.append(f"{event} {shown}")


def write_all(folder: Path) -> None:
    """Write all hostile files into a folder, and a good one."""
    for name, make in HOSTILE.items():
        for part, content in files_of(name, make(folder)).items():
            write(content, folder / f"{part}.joblib")
    write(pipeline(), folder / "good.joblib")


def main(folder: Path) -> None:
    """Write all files into a folder, and load them; what came of each is printed as JSON.

    Files are written, and those that are loaded alone are, in processes that part from this one:
    neither takes seconds to start, and none has the memory of another.
    """
    warnings.simplefilter("ignore")
    apart(write_all, folder)
    # What is imported of ours is imported now.
    for module, name in _admitted._LIBRARY:
        _admitted.admitted_class(module, name)
    for module, names in _admitted._OWN.items():
        for name in names.split():
            _admitted.admitted_class(module, name)
    paths = {path.stem: path for path in sorted(folder.glob("*.joblib"))}
    pyimgano.load(paths.pop("good")).score_samples(ROWS)  # and what is compiled is read now
    for name in sorted(ALONE):
        apart(load_all, folder, {name: paths.pop(name)})
    load_all(folder, paths)


def apart(function: Callable[..., None], *args: Any) -> None:
    """Call a function in a process that parts from this one here."""
    process = os.fork()
    if not process:
        try:
            function(*args)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if status:
        raise RuntimeError(f"{function.__name__}{args} ended with wait status {status}")


def load_all(folder: Path, paths: dict[str, Path]) -> None:
    """Load files of a folder, and print what came of each."""
    global _WATCH
    hooked = False
    for name in sorted(paths, key=lambda name: name not in HEAVY):
        path = paths[name]
        if not hooked and name not in HEAVY | ALONE:
            sys.addaudithook(_hook)
            hooked = True
        before = set(os.listdir(folder))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, 20)  # of processor time: it is killed after that
        start, error, scores = time.process_time(), "", None
        _SEEN.clear()
        _WATCH = True
        try:
            scores = pyimgano.load(path).score_samples(ROWS).tolist()
        except UntrustedFileError as refusal:
            error = str(refusal)
        except BaseException as other:
            error = f"!{type(other).__name__}: {other}"
        finally:
            _WATCH = False
        seen = [
            one
            for one in _SEEN
            if not (one.startswith("open ") and f"'{path}" in one and "'w" not in one)
            and not one.startswith("import ('lz4")  # of this package's own making
        ]
        outcome = {
            "name": name,
            "error": error,
            "scores": scores,
            "events": seen,
            "new": sorted(set(os.listdir(folder)) - before),
            "seconds": time.process_time() - start,
            "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory,
        }
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
