"""What every room needs of the system and of NumPy: files, locks, threads, processes, checks of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress"]

#: Called with how many are done of how many.
Progress: TypeAlias = Callable[[int, int], None]
