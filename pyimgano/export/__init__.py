"""Deliveries: a folder or archive that holds a pipeline and all that is needed to check it."""

from __future__ import annotations

from pyimgano.export._bundle import export_bundle, open_bundle
from pyimgano.export._config import infer_config, json_schema, read_infer_config
from pyimgano.export._validation import Check, Validation, validate

__all__ = [
    "Check",
    "Validation",
    "export_bundle",
    "infer_config",
    "json_schema",
    "open_bundle",
    "read_infer_config",
    "validate",
]
