"""Types of the names that load on first use: checked by mypy, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyimgano

if TYPE_CHECKING:
    from typing_extensions import assert_type

    from pyimgano.detectors import PatchCoreDetector

    assert_type(pyimgano.PatchCoreDetector(), PatchCoreDetector)
    assert_type(pyimgano.load("part.joblib"), Any)
    _ = pyimgano.list_models().nothing  # type: ignore[attr-defined]
