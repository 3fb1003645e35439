"""The time, as it is written into files."""

from __future__ import annotations

from datetime import datetime, timezone

__all__ = ["utc_now"]


def utc_now() -> str:
    """Return the time of now in UTC, to the second, as ISO 8601 writes it.

    Returns
    -------
    str
        Such as ``"2026-01-31T14:25:07+00:00"``.
    """
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
