"""PyOD's models in the registry: what PyOD's classes do not say of themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, NamedTuple

from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    RealNotInt,
    StrOptions,
    validate_parameter_constraints,
)

__all__ = ["PYOD", "SCALE_SETTLES", "PyODRow", "check_pyod_parameters"]

SCALE_SETTLES = 100

_AT_LEAST_1 = Interval(Integral, 1, None, closed="left")
_SHARE = Interval(RealNotInt, 0, 1, closed="right")
_WITHIN_1 = Interval(Real, 0, 1, closed="neither")
# Of the tree that Sampling searches its neighbors with.
_METRICS = StrOptions(
    {
        *("euclidean", "l2", "minkowski", "p", "manhattan", "cityblock", "l1", "chebyshev"),
        *("infinity", "seuclidean", "mahalanobis", "hamming", "canberra", "braycurtis"),
        *("jaccard", "dice", "rogerstanimoto", "russellrao", "sokalmichener", "sokalsneath"),
        *("haversine", "pyfunc"),
    }
)


class PyODRow(NamedTuple):
    """A line for people, the family of the model, and where it is described.

    Attributes
    ----------
    title, family, paper : str
    scale_settles : float
        Training rows from which on the scale of the model's scores hardly depends on their number
        any more (measured by benchmarks/pyod_rates.py).
    rows_per_column : int
        The same for each column, for models that estimate a covariance.
    least_rows : int
        Different rows that every fit needs to say anything about others.
    counts_rows : str
        The parameter that every fit needs as many rows for; a number of neighbors needs one more.
    constraints : mapping
        In the form of ``_parameter_constraints``, of the parameters that scikit-learn does not
        check when the model is fitted.
    """

    title: str
    family: str
    paper: str
    scale_settles: float = SCALE_SETTLES
    rows_per_column: int = 0
    least_rows: int = 2
    counts_rows: str = ""
    constraints: Mapping[str, Sequence[Any]] = MappingProxyType({})


# By class; it is in the module of pyod.models that has its name in lower case. Left out are
# models that cannot score a new row by itself, and those that fail scikit-learn's contract:
# benchmarks/pyod_models.py tries them all.
PYOD = {
    "ABOD": PyODRow(
        "Angle-based outlier detection: variance of the angles to pairs of neighbors",
        "neighbors",
        'H.-P. Kriegel, M. Schubert, A. Zimek, "Angle-Based Outlier Detection in '
        'High-dimensional Data", KDD 2008.',
        least_rows=4,  # the variance of the angles between three neighbors
        constraints={
            "method": [StrOptions({"fast", "default"})],
            "n_neighbors": [_AT_LEAST_1],
        },
    ),
    "CBLOF": PyODRow(
        "Cluster-based local outlier factor: distance to the nearest large cluster",
        "clusters",
        'Z. He, X. Xu, S. Deng, "Discovering Cluster-based Local Outliers", Pattern Recognition '
        "Letters 24, 2003.",
        counts_rows="n_clusters",
        constraints={
            "clustering_estimator": [HasMethods(["fit", "predict"]), None],
            "alpha": [_WITHIN_1],
            "beta": [Interval(Real, 1, None, closed="neither")],
            "check_estimator": ["boolean"],
        },
    ),
    "COPOD": PyODRow(
        "Copula-based outlier detection: tail probabilities of each feature, by skewness",
        "tails",
        'Z. Li et al., "COPOD: Copula-Based Outlier Detection", ICDM 2020.',
    ),
    "ECOD": PyODRow(
        "Empirical cumulative distributions: tail probabilities of each feature",
        "tails",
        'Z. Li et al., "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative '
        'Distribution Functions", IEEE Transactions on Knowledge and Data Engineering, 2022.',
    ),
    "GMM": PyODRow(
        "Gaussian mixture: likelihood under a few Gaussians",
        "gaussian",
        'S. Roberts, L. Tarassenko, "A Probabilistic Resource Allocating Network for Novelty '
        'Detection", Neural Computation 6, 1994.',
        rows_per_column=20,
    ),
    "HBOS": PyODRow(
        "Histogram-based outlier score: features are rare or common one by one",
        "density",
        'M. Goldstein, A. Dengel, "Histogram-based Outlier Score (HBOS): A Fast Unsupervised '
        'Anomaly Detection Algorithm", KI 2012.',
        constraints={
            "n_bins": [StrOptions({"auto"}), Interval(Integral, 3, None, closed="left")],
            "alpha": [_WITHIN_1],
            "tol": [_WITHIN_1],
        },
    ),
    "IForest": PyODRow(
        "Isolation forest: how few random cuts set an image apart",
        "isolation",
        'F. T. Liu, K. M. Ting, Z.-H. Zhou, "Isolation Forest", ICDM 2008.',
    ),
    "INNE": PyODRow(
        "Isolation by nearest-neighbor ensembles of small samples",
        "isolation",
        'T. Bandaragoda et al., "Isolation-based Anomaly Detection Using Nearest-Neighbor '
        'Ensembles", Computational Intelligence 34, 2018.',
        constraints={
            "n_estimators": [_AT_LEAST_1],
            "max_samples": [StrOptions({"auto"}), _AT_LEAST_1, _SHARE],
        },
    ),
    "KDE": PyODRow(
        "Kernel density: how dense training images lie around",
        "density",
        'L. J. Latecki, A. Lazarevic, D. Pokrajac, "Outlier Detection with Kernel Density '
        'Functions", MLDM 2007.',
    ),
    "KNN": PyODRow(
        "Distance to the k-th nearest training image",
        "neighbors",
        'S. Ramaswamy, R. Rastogi, K. Shim, "Efficient Algorithms for Mining Outliers from Large '
        'Data Sets", SIGMOD 2000.',
        counts_rows="n_neighbors",
        constraints={"method": [StrOptions({"largest", "mean", "median"})]},
    ),
    "KPCA": PyODRow(
        "Kernel PCA: reconstruction error in the kernel's feature space",
        "subspace",
        'H. Hoffmann, "Kernel PCA for Novelty Detection", Pattern Recognition 40, 2007.',
        constraints={
            "n_components": [_AT_LEAST_1, None],
            "n_selected_components": [_AT_LEAST_1, None],
        },
    ),
    "LODA": PyODRow(
        "Lightweight on-line detector: histograms of sparse random projections",
        "density",
        'T. Pevny, "Loda: Lightweight On-line Detector of Anomalies", Machine Learning 102, 2016.',
        constraints={
            "n_bins": [StrOptions({"auto"}), _AT_LEAST_1],
            "n_random_cuts": [_AT_LEAST_1],
        },
    ),
    "LOF": PyODRow(
        "Local outlier factor: density compared with that of the neighbors",
        "neighbors",
        'M. M. Breunig et al., "LOF: Identifying Density-Based Local Outliers", SIGMOD 2000.',
    ),
    "MCD": PyODRow(
        "Minimum covariance determinant: robust Mahalanobis distance",
        "gaussian",
        'P. J. Rousseeuw, K. Van Driessen, "A Fast Algorithm for the Minimum Covariance '
        'Determinant Estimator", Technometrics 41, 1999.',
        rows_per_column=20,
    ),
    "OCSVM": PyODRow(
        "One-class support vector machine: a boundary around the training images",
        "boundary",
        'B. Scholkopf et al., "Estimating the Support of a High-Dimensional Distribution", Neural '
        "Computation 13, 2001.",
        scale_settles=math.inf,  # a sum over a share of the training rows
    ),
    "PCA": PyODRow(
        "Principal components: distance along them, weighted by their variance",
        "subspace",
        'M.-L. Shyu et al., "A Novel Anomaly Detection Scheme Based on Principal Component '
        'Classifier", ICDM Foundations and New Directions of Data Mining Workshop, 2003.',
        rows_per_column=20,
        constraints={"n_selected_components": [_AT_LEAST_1, None]},
    ),
    "Sampling": PyODRow(
        "Distance to the nearest of a few random training images",
        "neighbors",
        'M. Sugiyama, K. Borgwardt, "Rapid Distance-Based Outlier Detection via Sampling", '
        "NIPS 2013.",
        counts_rows="subset_size",
        constraints={
            "subset_size": [_AT_LEAST_1, _SHARE],
            "metric": [_METRICS, callable],
            "metric_params": [dict, None],
        },
    ),
}


def check_pyod_parameters(class_name: str, parameters: Mapping[str, Any]) -> None:
    """Check parameters of one of PyOD's models, which fails with them in ways that are no help.

    Parameters
    ----------
    class_name : str
        A key of ``PYOD``.
    parameters : mapping
        Some or all of its parameters.

    Raises
    ------
    InvalidParameterError
        If a value is not one that the model takes.
    """
    constraints = PYOD[class_name].constraints
    checked = {name: parameters[name] for name in constraints if name in parameters}
    validate_parameter_constraints(constraints, checked, caller_name=class_name)
