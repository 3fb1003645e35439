"""What leaves the process: saved pipelines, run directories, pictures of results."""

from __future__ import annotations

from pyimgano.delivery._environment import environment, package_versions
from pyimgano.delivery._overlay import heat_range, overlay, write_overlay
from pyimgano.delivery._run import RunDirectory
from pyimgano.delivery._saving import load, save

__all__ = [
    "RunDirectory",
    "environment",
    "heat_range",
    "load",
    "overlay",
    "package_versions",
    "save",
    "write_overlay",
]
