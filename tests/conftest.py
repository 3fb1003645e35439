"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

# The arrays of the tests are so small that threads only wait for one another, spinning: on a
# busy machine ten times the work. The variables are for what is loaded later, and for processes
# that tests start; the limit for what plug-ins have loaded already.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
threadpool_limits(int(os.environ["OMP_NUM_THREADS"]))


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
