"""Metadata of a calibrator's ``fit``: for the fit of the estimator inside, and for its folds."""

from __future__ import annotations

from typing import Any

import sklearn
from sklearn.model_selection import GroupKFold
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing

__all__ = ["FitMetadataMixin", "is_prefit"]


def is_prefit(cv: Any) -> bool:
    return isinstance(cv, str) and cv == "prefit"  # an array must not be compared


class FitMetadataMixin:
    """Routes metadata of a meta-estimator that has the parameters ``estimator`` and ``cv``."""

    estimator: Any
    cv: Any

    def _route(self, params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Select the metadata for ``estimator.fit``, and the groups for ``cv``."""
        if sklearn.get_config()["enable_metadata_routing"]:
            if not params:
                return {}, None
            routed = process_routing(self, "fit", **params)
            params = routed["estimator"]["fit"] if self.estimator is not None else {}
            groups = routed["splitter"]["split"].get("groups")
        else:
            groups = params.pop("groups", None)
        prefit = is_prefit(self.cv)
        if groups is not None and (self.estimator is None or prefit):
            why = "estimator is None" if self.estimator is None else 'cv="prefit"'
            raise TypeError(f"groups is for folds, and with {why} there are none.")
        if params and (self.estimator is None or prefit):
            why = "is fitted already" if prefit else "is None"
            raise TypeError(
                f"{', '.join(sorted(params))} is for the fit of the estimator, and that {why}."
            )
        return params, groups

    def get_metadata_routing(self) -> MetadataRouter:
        """Say that metadata of ``fit`` is for the estimator's ``fit`` and for ``cv``.

        Returns
        -------
        MetadataRouter
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        mapping.add(caller="fit_predict", callee="fit")
        router = MetadataRouter(owner=type(self).__name__)
        router.add(estimator=self.estimator, method_mapping=mapping)
        split = MethodMapping().add(caller="fit", callee="split")
        split.add(caller="fit_predict", callee="split")
        # Folds that are made automatically keep groups together.
        splitter = self.cv if hasattr(self.cv, "split") else GroupKFold()
        return router.add(splitter=splitter, method_mapping=split)
