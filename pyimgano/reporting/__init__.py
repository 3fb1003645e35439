"""Pictures of results: heat maps laid over their images, and the good places nearest to a place."""

from __future__ import annotations

from pyimgano.reporting._defects import outline_defects
from pyimgano.reporting._nearest_normal import nearest_normal_picture
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
    "nearest_normal_picture",
    "outline_defects",
    "overlay",
    "picture_grid",
    "range_of_maps",
    "write_overlay",
]
