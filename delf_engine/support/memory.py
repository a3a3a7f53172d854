"""What a process takes of the machine's memory."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

_SLACK = 1 << 27  # bytes that may lie idle: giving them back and taking them again costs time
_STATM = Path("/proc/self/statm")


class Heap:
    """Gives memory that is free, but still the process's, back to the system once it has grown.

    Where each image has another size, the network's layers ask for blocks of ever new sizes. What they free lies
    between blocks that stay, such as the kernels that oneDNN has made for a size, so glibc's allocator keeps the
    pages and finds no use for many of them: 700 MB after 1,000 sizes (`benchmarks.extraction.memory`). What oneDNN
    itself keeps is bounded, by 1,024 kernels.
    """

    def __init__(self) -> None:
        self._floor: int | None = None

    def give_back(self) -> None:
        """Give back what is idle, if the process has grown by 128 MiB since that was last done."""
        trim = _malloc_trim()
        if trim is None:
            return
        if self._floor is None:
            self._floor = _resident()
        elif _resident() > self._floor + _SLACK:
            trim(0)
            self._floor = None  # what the next image leaves idle is used by the one after it


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function of that name, where there is one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if _STATM.exists() else None


def _resident() -> int:
    """Return the bytes of memory that this process has."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
