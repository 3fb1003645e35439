"""Pictures of results: heat maps laid over the images they belong to."""

from __future__ import annotations

from pyimgano.reporting._overlay import (
    heat_range,
    map_range,
    overlay,
    picture_grid,
    range_of_maps,
    write_overlay,
)

__all__ = [
    "heat_range",
    "map_range",
    "overlay",
    "picture_grid",
    "range_of_maps",
    "write_overlay",
]
