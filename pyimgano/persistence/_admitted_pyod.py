"""State of the fitted PyOD models of the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pyimgano.utils._state import (
    Array,
    Either,
    Flag,
    ListOf,
    Maybe,
    MayLack,
    Number,
    Object,
    OneOf,
    Plain,
    Rule,
    Sizes,
    State,
    fail,
)

__all__ = ["KERNEL", "declared"]

Relations = Callable[[State, Sizes], None]


def declared(name: str) -> tuple[Mapping[str, Rule], Mapping[str, Rule], Relations | None]:
    """Rules for the fitted attributes and parameters of a model, and how they go together.

    Parameters
    ----------
    name : str
        Name of a class that is in the registry.

    Returns
    -------
    fitted, parameter_rules : dict of str to Rule
    relations : callable or None
    """
    fitted, needed = _FITTED[name], _NEEDED.get(name, ())

    def relations(state: State, sizes: Sizes) -> None:
        for attribute in needed:
            if state.get(attribute) is None:
                fail(f"{name}.{attribute}", "is missing")
        if name in _RELATIONS:
            _RELATIONS[name](state, sizes)

    return {**_COMMON, **fitted}, _PARAMETERS.get(name, {}), relations


def _floats(*shape: Any, **ranges: Any) -> Array:
    return Array("float64", *shape, **ranges)


_COMMON: dict[str, Rule] = {
    "_classes": Number(1, whole=True),
    # Some models have it, None, before they are fitted.
    "decision_scores_": MayLack(Maybe(_floats("n"))),
    "labels_": Array("int", "n", low=0, high=1),
    "threshold_": Number(),
    "_mu": Number(),
    "_sigma": Number(0),
}
_NEIGHBORS = Object("NearestNeighbors")
_COPULAS: dict[str, Rule] = {
    **{name: MayLack(_floats(None, "d")) for name in ("U_l", "U_r", "U_skew", "O")},
    "X_train": _floats("n", "d"),
}
_FITTED: dict[str, dict[str, Rule]] = {
    "ABOD": {
        "X_train_": _floats("n", "d"),
        "n_train_": Number(1, equals="n"),
        "tree_": Object("KDTree", "NearestNeighbors"),
        "neigh_": _NEIGHBORS,
    },
    "CBLOF": {
        "clustering_estimator_": Object("KMeans"),
        "cluster_labels_": Array("int", "n", low=0, below="clusters"),
        "cluster_sizes_": Array("int", "clusters", low=0),
        "n_clusters_": Number(1, equals="clusters"),
        "cluster_centers_": _floats("clusters", "d"),
        "_clustering_threshold": Number(0, whole=True),
        "small_cluster_labels_": Array("int", None, low=0, below="clusters"),
        "large_cluster_labels_": Array("int", "large", low=0, below="clusters"),
        "_large_cluster_centers": _floats("large", "d"),
    },
    "COPOD": _COPULAS,
    "ECOD": _COPULAS,
    "GMM": {"detector_": MayLack(Maybe(Object("GaussianMixture")))},
    "HBOS": {
        # Lists where n_bins="auto" gives each column bins of its own.
        "hist_": Either(_floats("bins", "d"), ListOf(_floats(None), "d")),
        "bin_edges_": Either(_floats("edges", "d"), ListOf(_floats(None), "d")),
    },
    "IForest": {"detector_": Object("IsolationForest")},
    "INNE": {
        "max_samples_": Number(1, whole=True),
        "graded_outside_": MayLack(Flag()),  # set by PyODDetector
        "_centroids": _floats("members", "samples", "d"),
        "_ratio": _floats("members", "samples"),
        "_centroids_radius": _floats("members", "samples"),
        "_seeds": Array("int", "members"),
    },
    "KDE": {"kde_": MayLack(Object("KernelDensity"))},
    "KNN": {
        "neigh_": MayLack(_NEIGHBORS),
        "tree_": Object("KDTree", "BallTree", "NearestNeighbors"),
    },
    "KPCA": {
        "n_selected_components_": MayLack(Maybe(Number(1, whole=True))),
        "kpca": Object("PyODKernelPCA"),
    },
    "LODA": {
        "weights": MayLack(_floats("cuts", low=0.0)),
        "projections_": _floats("cuts", "d"),
        "histograms_": Either(_floats("cuts", "bins"), ListOf(_floats(None), "cuts")),
        "limits_": Either(_floats("cuts", "edges"), ListOf(_floats(None), "cuts")),
        "n_bins_": MayLack(ListOf(Number(1, whole=True), "cuts")),
    },
    "LOF": {"detector_": Object("LocalOutlierFactor")},
    "MCD": {"detector_": Object("MinCovDet")},
    "OCSVM": {"detector_": Object("OneClassSVM")},
    "PCA": {
        "scaler_": MayLack(Object("StandardScaler")),
        "detector_": Object("PCA"),
        "n_components_": Number(1, equals="components"),
        "components_": _floats("components", "d"),
        "n_selected_components_": Number(1, equals="selected"),
        "w_components_": _floats("components"),
        "selected_components_": _floats("selected", "d"),
        "selected_w_components_": _floats("selected"),
    },
    "Sampling": {
        "dist": MayLack(Maybe(Object("DistanceMetric"))),
        "subset": MayLack(Maybe(_floats("samples", "d", contiguous=True))),
    },
}
# Attributes that are None before a fit, and must not be after it.
_NEEDED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_FITTED, ("decision_scores_",)),
    "GMM": ("decision_scores_", "detector_"),
    "KDE": ("decision_scores_", "kde_"),
    "KNN": ("decision_scores_", "neigh_"),
    "KPCA": ("decision_scores_", "n_selected_components_"),
    "LODA": ("decision_scores_", "weights"),
    "Sampling": ("decision_scores_", "dist", "subset"),
}
KERNEL = OneOf("cosine", "linear", "poly", "rbf", "sigmoid")
_METRIC = OneOf("chebyshev", "cityblock", "euclidean", "l1", "l2", "manhattan", "minkowski")
_COUNT = Number(1, whole=True)
_PARAMETERS: dict[str, dict[str, Rule]] = {
    "CBLOF": {"clustering_estimator": Maybe(Object("KMeans"))},
    "ABOD": {"metric": _METRIC, "n_neighbors": _COUNT, "method": OneOf("fast", "default")},
    "KDE": {"metric": _METRIC},
    "KNN": {
        "metric": _METRIC,
        "n_neighbors": _COUNT,
        "method": OneOf("largest", "mean", "median"),
    },
    "LOF": {"metric": _METRIC, "n_neighbors": _COUNT},
    "Sampling": {"metric": _METRIC},
    "OCSVM": {"kernel": OneOf("linear", "poly", "rbf", "sigmoid")},
    **{name: {"n_bins": Either(Number(1, whole=True), OneOf("auto"))} for name in ("HBOS", "LODA")},
    "KPCA": {"kernel": KERNEL, "kernel_params": Maybe(Plain())},
}


def _points(tree: Any) -> Any:
    """Shape of the points of a search tree, or of what searches."""
    return tree.data.shape if hasattr(tree, "data") else getattr(tree, "_fit_X", tree).shape


def _abod(state: State, sizes: Sizes) -> None:
    # Compiled code is given rows of X_train_ that the search has found.
    if any(_points(state[name]) != state["X_train_"].shape for name in ("tree_", "neigh_")):
        fail("ABOD.tree_", "searches other rows than X_train_")


def _check_bins(where: str, edges: Any, counts: Any, n_bins: Any) -> None:
    if type(edges) is not type(counts) or isinstance(counts, list) != (n_bins == "auto"):
        fail(where, "does not go with n_bins")
    # Columns of one table, or lists of different lengths.
    pairs = zip(edges, counts) if isinstance(counts, list) else [(edges, counts)]
    for one, other in pairs:
        if len(one) != len(other) + 1 or len(other) == 0:
            fail(where, "has other than one edge more than bins")
        if (np.diff(one, axis=0) < 0).any():
            fail(where, "is not in order")


def _hbos(state: State, sizes: Sizes) -> None:
    _check_bins("HBOS.bin_edges_", state["bin_edges_"], state["hist_"], state["n_bins"])
    if sizes.get("bins", state["n_bins"]) != state["n_bins"]:
        fail("HBOS.hist_", "does not go with n_bins")


def _loda(state: State, sizes: Sizes) -> None:
    edges, counts = state["limits_"], state["histograms_"]
    if isinstance(edges, np.ndarray) and isinstance(counts, np.ndarray):
        edges, counts = edges.T, counts.T
    _check_bins("LODA.limits_", edges, counts, state["n_bins"])
    if sizes.get("bins", state["n_bins"]) != state["n_bins"]:
        fail("LODA.histograms_", "does not go with n_bins")
    if isinstance(counts, list) and [len(one) for one in counts] != state.get("n_bins_"):
        fail("LODA.n_bins_", "does not go with histograms_")
    if sizes["cuts"] != state["n_random_cuts"]:
        fail("LODA.projections_", "does not go with n_random_cuts")


def _pca(state: State, sizes: Sizes) -> None:
    if state["standardization"] and "scaler_" not in state:
        fail("PCA.scaler_", "is missing")


_RELATIONS: dict[str, Relations] = {"ABOD": _abod, "HBOS": _hbos, "LODA": _loda, "PCA": _pca}
