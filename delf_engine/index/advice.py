"""What would serve a collection better: another index, or a merge, and the limits from which on it would."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from delf_engine.index.contract import IndexInfo

__all__ = ["KDTREE_DESCRIPTORS", "REMOVED_IMAGES", "REMOVED_SHARE", "advice"]

KDTREE_DESCRIPTORS = 2_000_000  # more of them are better searched by an index that does not hold them in memory
REMOVED_SHARE = 0.2  # of all rows, from which on merging is worth while
REMOVED_IMAGES = 1000  # fewer cost nothing worth a word


def advice(info: IndexInfo) -> str | None:
    """Return what would serve better than an index as it is, or None.

    Parameters
    ----------
    info : IndexInfo
        Of an index of any kind.
    """
    if info.kind == "kdtree" and info.entries > KDTREE_DESCRIPTORS:
        return (
            f"KD-trees hold all {info.entries:,} descriptors in memory and grow anew after a change; from "
            f"{KDTREE_DESCRIPTORS:,} on take an index of kind 'asmk' or 'ivf'"
        )
    if info.removed >= REMOVED_IMAGES and info.removed >= REMOVED_SHARE * (info.images + info.removed):
        return f"{info.removed:,} removed images still take space and time; compact the index"
    return None
