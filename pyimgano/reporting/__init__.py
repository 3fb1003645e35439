"""Pictures of results: heat maps laid over the images they belong to."""

from __future__ import annotations

from pyimgano.reporting._overlay import heat_range, overlay, write_overlay

__all__ = ["heat_range", "overlay", "write_overlay"]
