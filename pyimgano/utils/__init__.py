"""Discovery of estimators, contract checks, versions."""

from __future__ import annotations

from pyimgano.utils._versions import show_versions
from pyimgano.utils.discovery import all_estimators

__all__ = ["all_estimators", "show_versions"]
