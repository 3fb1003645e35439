"""Saved models: write them whole, and load only what is on the allow-list."""

from __future__ import annotations

from pyimgano.persistence._saving import load, save

__all__ = ["load", "save"]
