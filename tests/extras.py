"""Skipping of tests that need an extra, without importing what it installs."""

from __future__ import annotations

import pytest

from pyimgano.utils._optional import has_extra


def needs_extra(extra: str) -> None:
    """Skip the running test unless an extra of the package is installed."""
    if not has_extra(extra):
        pytest.skip(f"the extra {extra} is not installed")
