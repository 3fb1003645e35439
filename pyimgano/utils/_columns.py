"""Steps whose output has no columns, in pipelines that speak of columns."""

from __future__ import annotations

from typing import Any

import numpy as np


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
