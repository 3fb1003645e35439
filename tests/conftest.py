"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ``data/bottle256``, ``data/screw256`` and ``weights/``."""
    root = os.environ.get("PYIMGANO_TEST_DATA")
    if not root:
        pytest.skip("PYIMGANO_TEST_DATA is not set: no real images to test on")
    path = Path(root)
    if not (path / "data" / "bottle256").is_dir():
        pytest.skip(f"PYIMGANO_TEST_DATA={root} holds no data/bottle256")
    return path
