"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

# The arrays of the tests are so small that threads only wait for one another, spinning: on a
# busy machine ten times the work. The variables are for what is loaded later, and for processes
# that tests start; the limit for what plug-ins have loaded already.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
threadpool_limits(int(os.environ["OMP_NUM_THREADS"]))

# Processes that tests start write as those of users do, who set no such variable.
os.environ.pop("PYTHONUNBUFFERED", None)

from pyimgano.evaluation._pixel_metrics import PixelMetric  # noqa: E402  (after the variables)
from pyimgano.features import _filterbank  # noqa: E402


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spare the collector of garbage the million objects that modules and tests are made of."""
    gc.disable()
    yield
    gc.freeze()  # they stay to the end
    gc.enable()


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


# Detectors on few images fit a learning feature step six times, once more for each fold. Hundreds
# of tests fit detectors on a dozen tiny images and are about something else: for them the step
# says that it does not overfit. Tests about thresholds ask for the fixture below.
_WHEN_IT_OVERFITS = {
    name: getattr(_filterbank, name) for name in ("_ENOUGH_IMAGES", "_ENOUGH_PATCHES")
}
for _name in _WHEN_IT_OVERFITS:
    setattr(_filterbank, _name, 0)


@pytest.fixture
def cross_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out-of-sample scores as users get them, in folds where the feature step overfits."""
    for name, value in _WHEN_IT_OVERFITS.items():
        monkeypatch.setattr(_filterbank, name, value)


@pytest.fixture(scope="module")
def metrics_kept() -> Iterator[None]:
    """Let each metric of the filter bank be computed once for the tests of a file.

    Most of the time of a fit on a dozen tiny images is the arithmetic that makes the metric of
    their descriptors, and tests of detectors learn from the same images again and again. What is
    kept is found by all that the function is given, and is what it would return. For files that
    are not about this step.
    """
    learn, kept = _filterbank._learn_metric, {}

    def learned_before(rows, owner, n_components):
        key = (*(hashlib.sha256(one).digest() for one in (rows, owner)), rows.shape, n_components)
        if key not in kept:
            kept[key] = learn(rows, owner, n_components)
        return tuple(one.copy() for one in kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_filterbank, "_learn_metric", learned_before)
        yield


# An interval of a pixel metric is a thousand draws, half of the time of a run on tiny images. Files
# of tests about commands and runs ask for `short_runs`; the tests of evaluation and the golden
# ones do not. Other processes know nothing of it: `whole_runs` is for comparisons with them.
_DEFAULTS_OF_INTERVALS = PixelMetric.bootstrap_interval.__kwdefaults__
_N_DRAWS = _DEFAULTS_OF_INTERVALS["n_resamples"]


@pytest.fixture(scope="module")
def short_runs(metrics_kept: None) -> Iterator[None]:
    """Commands and runs take little time over the features and over intervals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_DEFAULTS_OF_INTERVALS, "n_resamples", 50)
        yield


@pytest.fixture
def whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file that asks for `short_runs`, the intervals that users get."""
    monkeypatch.setitem(_DEFAULTS_OF_INTERVALS, "n_resamples", _N_DRAWS)
