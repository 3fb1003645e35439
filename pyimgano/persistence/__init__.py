"""Saved models: write them whole, and load only what is on the allow-list."""

from __future__ import annotations

from pyimgano.persistence._saving import load, read_map_range, save

__all__ = ["load", "read_map_range", "save"]
