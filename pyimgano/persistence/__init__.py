"""Saved models: write them whole, and load them as data."""

from __future__ import annotations

from pyimgano.persistence._saving import load, read_map_range, save

__all__ = ["load", "read_map_range", "save"]
