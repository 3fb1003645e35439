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
        "hist_": Either(_floats("bins", "d", low=0.0), ListOf(_floats(None, low=0.0), "d")),
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
        # Their logarithms are taken.
        "histograms_": Either(
            _floats("cuts", "bins", low=1e-100), ListOf(_floats(None, low=1e-100), "cuts")
        ),
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
        "selected_w_components_": _floats("selected", low=1e-100),  # distances are divided by it
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
_BINS = Either(Number(1, whole=True), OneOf("auto"))
_PARAMETERS: dict[str, dict[str, Rule]] = {
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
    "HBOS": {"n_bins": _BINS, "alpha": Number(1e-100, 1), "tol": Number(0, 1)},
    "LODA": {"n_bins": _BINS, "n_random_cuts": _COUNT},
    "INNE": {"n_estimators": _COUNT},
    "CBLOF": {"clustering_estimator": Maybe(Object("KMeans")), "n_clusters": _COUNT},
    "KPCA": {"kernel": KERNEL, "kernel_params": Maybe(Plain())},
}


def _points(tree: Any) -> Any:
    """Shape of the points of a search tree, or of what searches."""
    return tree.data.shape if hasattr(tree, "data") else getattr(tree, "_fit_X", tree).shape


# Models score with their parameters as well: each must be that of the fit, which sizes tell.
def _abod(state: State, sizes: Sizes) -> None:
    # Compiled code is given rows of X_train_ that the search has found.
    if any(_points(state[name]) != state["X_train_"].shape for name in ("tree_", "neigh_")):
        fail("ABOD.tree_", "searches other rows than X_train_")
    if state["n_neighbors"] > sizes["n"]:
        fail("ABOD.n_neighbors", "are more than there are rows")


def _cblof(state: State, sizes: Sizes) -> None:
    k = sizes["clusters"]
    small, large = state["small_cluster_labels_"], state["large_cluster_labels_"]
    if sorted([*small.tolist(), *large.tolist()]) != list(range(k)):
        fail("CBLOF.large_cluster_labels_", "and the small ones are not all clusters")
    if len(large) == 0:
        fail("CBLOF.large_cluster_labels_", "are none")
    centers = state["clustering_estimator_"].cluster_centers_
    if centers.shape != state["cluster_centers_"].shape or centers.dtype != np.float64:
        fail("CBLOF.clustering_estimator_", "has other clusters")


def _copula(state: State, sizes: Sizes) -> None:
    if sizes["n"] == 0:
        fail("X_train", "has no rows")


def _inne(state: State, sizes: Sizes) -> None:
    if sizes["members"] != state["n_estimators"]:
        fail("INNE._centroids", "does not go with n_estimators")
    if sizes["samples"] == 0:
        fail("INNE._centroids", "are none")


def _kde(state: State, sizes: Sizes) -> None:
    if not hasattr(state["kde_"], "tree_"):
        fail("KDE.kde_", "is not fitted")


def _knn(state: State, sizes: Sizes) -> None:
    if _points(state["tree_"]) != _points(state["neigh_"]):
        fail("KNN.tree_", "searches other rows than neigh_")
    if state["n_neighbors"] > _points(state["neigh_"])[0]:
        fail("KNN.n_neighbors", "are more than there are rows")


def _kpca(state: State, sizes: Sizes) -> None:
    if not hasattr(state["kpca"], "eigenvalues_"):
        fail("KPCA.kpca", "is not fitted")


def _sampling(state: State, sizes: Sizes) -> None:
    if sizes["samples"] == 0:
        fail("Sampling.subset", "has no rows")


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
    if sizes["selected"] > sizes["components"]:
        fail("PCA.selected_components_", "are more than there are components")
    for name in ("scaler_", "detector_"):
        if getattr(state.get(name), "n_features_in_", sizes["d"]) != sizes["d"]:
            fail(f"PCA.{name}", "is of other columns")


_RELATIONS: dict[str, Relations] = {
    "ABOD": _abod,
    "CBLOF": _cblof,
    "COPOD": _copula,
    "ECOD": _copula,
    "HBOS": _hbos,
    "INNE": _inne,
    "KDE": _kde,
    "KNN": _knn,
    "KPCA": _kpca,
    "LODA": _loda,
    "PCA": _pca,
    "Sampling": _sampling,
}
