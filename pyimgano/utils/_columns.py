"""Steps whose output has no columns, in pipelines that speak of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._set_output import _get_output_config

__all__ = ["NoColumnsMixin", "index_of", "take_index", "with_index"]


def index_of(X: Any) -> Any:
    """Find the index of a pandas table or column, or the one that images or grids carry."""
    index = getattr(X, "index", None)
    return None if callable(index) else index  # lists have a method of that name


def take_index(index: Any, chosen: np.ndarray) -> Any:
    """Choose from an index as images are chosen; None stays None."""
    return None if index is None else index[np.asarray(chosen)]


def with_index(transformer: Any, rows: np.ndarray, X: Any) -> Any:
    """Put rows into a frame with the index that ``X`` carries, where frames are asked for.

    scikit-learn takes the index from pandas input alone; images and patch grids made of a
    table have lost their place in it otherwise, and their rows land beside others' rows.

    Parameters
    ----------
    transformer : transformer with ``get_feature_names_out``
        Whose output it is.
    rows : ndarray of shape (n_samples, n_columns)
    X : object
        What was transformed.

    Returns
    -------
    ndarray or DataFrame
    """
    index = index_of(X)
    if index is None or _get_output_config("transform", transformer)["dense"] != "pandas":
        return rows
    import pandas as pd

    return pd.DataFrame(rows, index=index, columns=transformer.get_feature_names_out())


class NoColumnsMixin:
    """For steps that return images or patch grids: ``set_output`` leaves those as they are.

    Without it a pipeline with such a step in front refuses ``set_output`` and
    ``get_feature_names_out``, which later steps do have. Must come before
    ``TransformerMixin`` among the bases.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(auto_wrap_output_keys=None, **kwargs)  # type: ignore[call-arg]

    def set_output(self, *, transform: str | None = None) -> Any:
        """Do nothing: images and patch grids are no tables.

        Parameters
        ----------
        transform : ignored

        Returns
        -------
        self
        """
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """No names: images and patch grids have no columns.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (0,), object
        """
        return np.array([], dtype=object)
