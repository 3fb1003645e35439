"""Helpers for the whole package: versions, discovery of estimators, files, threads."""

from __future__ import annotations

from pyimgano.utils._environment import environment, package_versions
from pyimgano.utils._versions import show_versions
from pyimgano.utils.discovery import all_estimators

__all__ = ["all_estimators", "environment", "package_versions", "show_versions"]
