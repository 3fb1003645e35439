"""Objects of scikit-learn's compiled code, made anew or checked: it believes what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import DistanceMetric
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree._tree import Tree

from pyimgano.exceptions import UntrustedFileError
from pyimgano.persistence._opcodes import Call, Name, Pairs

__all__ = ["TreeChecks", "distance_from", "search_tree_from"]

Value = Callable[[Any], Any]

_DISTANCES = {
    "ChebyshevDistance": "chebyshev",
    "EuclideanDistance": "euclidean",
    "ManhattanDistance": "manhattan",
    "MinkowskiDistance": "minkowski",
}
_SEARCH_TREES = {"KDTree": KDTree, "BallTree": BallTree}


def _class_name(call: Call) -> str:
    """Name of the class that ``newObj`` is to make an object of, without its number of bits."""
    args = call.args
    if type(args) is not tuple or len(args) != 1 or type(args[0]) is not Name:
        raise UntrustedFileError(
            f"it calls {call.function} with arguments that joblib never writes."
        )
    return args[0].name.removesuffix("64")


def distance_from(call: Call, value: Value) -> Any:
    """Make a distance that needs no more than a power.

    Parameters
    ----------
    call : Call
        Of ``newObj``.
    value : callable
        Gives what was built of a node.

    Returns
    -------
    DistanceMetric
    """
    name, state = _class_name(call), call.state
    if name not in _DISTANCES or type(state) is not tuple or not state:
        raise UntrustedFileError(f"it holds the distance {name}, which is not on the list.")
    power = state[0]
    if name != "MinkowskiDistance":
        return DistanceMetric.get_metric(_DISTANCES[name])
    if type(power) is not float or not 1 <= power < 1e6:
        raise UntrustedFileError("it holds a distance with a power out of range.")
    return DistanceMetric.get_metric("minkowski", p=power)


def search_tree_from(call: Call, value: Value, take_bytes: Callable[[int], None]) -> Any:
    """Build a KDTree or BallTree over the points in the file.

    A tree of the file's own could point anywhere. Building is deterministic and quick.

    Parameters
    ----------
    call, value : as in :func:`distance_from`
    take_bytes : callable
        Gets the number of bytes that the tree will have, and raises if they are too many.

    Returns
    -------
    KDTree or BallTree
    """
    name, state = _class_name(call), call.state
    if name not in _SEARCH_TREES or type(state) is not tuple or len(state) < 13:
        raise UntrustedFileError(f"it holds a {name}, which is not on the list.")
    points, leaf_size, metric, weights = value(state[0]), state[4], value(state[11]), state[12]
    if (
        not isinstance(points, np.ndarray)
        or points.dtype != np.float64
        or points.ndim != 2
        or not points.size
        or not np.isfinite(points).all()
        or not isinstance(metric, DistanceMetric)
        or type(leaf_size) is not int
        or not 1 <= leaf_size <= 2**30
        or weights is not None
    ):
        raise UntrustedFileError(f"it holds an invalid {name}.")
    take_bytes(_bytes_of_search_tree(points, leaf_size))
    return _SEARCH_TREES[name](points, leaf_size=leaf_size, metric=metric)


def _bytes_of_search_tree(points: np.ndarray, leaf_size: int) -> int:
    """Memory that a tree takes beside its points: smaller leaves, more nodes."""
    n, d = points.shape
    n_nodes = 2 ** (int(np.log2(max(1, (n - 1) / leaf_size))) + 1) - 1
    # A node has a radius and three integers, and two corners of d numbers.
    copy = 0 if points.flags.c_contiguous else points.nbytes
    return copy + 8 * n + n_nodes * (32 + 2 * 8 * d)


class TreeChecks:
    """Makes decision trees, and checks all of them together, which is quicker than one by one."""

    def __init__(self) -> None:
        self._nodes: list[np.ndarray] = []
        self._depths: list[int] = []

    def tree_from(self, call: Call, value: Value) -> Any:
        """Make a decision tree.

        Parameters
        ----------
        call, value : as in :func:`distance_from`

        Returns
        -------
        Tree
            Not to be used before :meth:`check`.
        """
        args, pairs = call.args, call.state
        if type(args) is not tuple or len(args) != 3 or type(pairs) is not Pairs:
            raise UntrustedFileError("it holds an invalid decision tree.")
        state = {key: value(item) for key, item in pairs.items if type(key) is str}
        n_features, _, n_outputs = args
        if type(n_features) is not int or not 1 <= n_features < 2**31 or n_outputs != 1:
            raise UntrustedFileError("it holds a decision tree of impossible shape.")
        nodes, values = state["nodes"], state["values"]
        depth, count = state["max_depth"], state["node_count"]
        if (
            len(state) != 4
            or not isinstance(nodes, np.ndarray)
            or not isinstance(values, np.ndarray)
            or nodes.ndim != 1
            or type(count) is not int
            or count != len(nodes)
            or count < 1
            or values.dtype != np.float64
            or values.shape != (count, 1, 1)
            or type(depth) is not int
            or not 0 <= depth <= count
        ):
            raise UntrustedFileError("it holds a decision tree of impossible shape.")
        inner = nodes["left_child"] != -1
        columns = nodes["feature"][inner]
        if columns.size and not (columns.min() >= 0 and columns.max() < n_features):
            raise UntrustedFileError("it holds a decision tree that looks at other columns.")
        made = Tree(n_features, np.ones(1, dtype=np.intp), 1)
        made.__setstate__(
            {
                "max_depth": depth,
                "node_count": count,
                "nodes": np.ascontiguousarray(nodes),
                "values": np.ascontiguousarray(values),
            }
        )
        self._nodes.append(nodes)
        self._depths.append(depth)
        return made

    def check(self) -> None:
        """Refuse trees with a way that leaves them, does not end, or is longer than they say.

        Raises
        ------
        UntrustedFileError
        """
        if not self._nodes:
            return
        counts = np.array([len(nodes) for nodes in self._nodes])
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        of_tree = np.repeat(np.arange(len(counts)), counts)
        left, right = (
            np.concatenate([nodes[side] for nodes in self._nodes])
            for side in ("left_child", "right_child")
        )
        at = np.arange(len(left)) - first[of_tree]
        inner = left != -1
        wrong = inner != (right != -1)
        for side in (left, right):
            wrong |= inner & ((side <= at) | (side >= counts[of_tree]))
        if wrong.any():
            raise UntrustedFileError("it holds a decision tree whose branches lead out of it.")
        places = first[of_tree][inner]
        left, right = left.copy(), right.copy()
        left[inner] += places
        right[inner] += places
        # Each node but the root is the child of one: then every way down ends.
        parents = np.bincount(np.concatenate([left[inner], right[inner]]), minlength=len(left))
        parents[first] += 1
        if (parents != 1).any():
            raise UntrustedFileError("it holds a decision tree in which ways meet.")
        depth = np.zeros(len(counts), dtype=np.int64)
        level, here = 0, first
        while len(here):
            depth[of_tree[here]] = level
            here = here[inner[here]]
            here = np.concatenate([left[here], right[here]])
            level += 1
        if (depth > np.array(self._depths)).any():
            raise UntrustedFileError("it holds a decision tree that is deeper than it says.")
