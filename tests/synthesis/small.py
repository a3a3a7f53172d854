"""A set that takes a moment."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {"images": 30, "queries": 4, "landmarks": 2, "longer_side": 160}
