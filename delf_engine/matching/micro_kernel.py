"""The micro-kernel that is used: that of `llvm_tiles`, or of `plain_tiles` where it cannot be compiled.

What numba and llvmlite offer for such code is not all stable: a version that changes it costs speed, with a
warning, and no results. ``DELF_ENGINE_PLAIN_KERNELS=1`` in the environment chooses the plain loops. Imported only
by functions that run kernels.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import Any

from numba import njit
from numba.core.errors import NumbaError

from delf_engine.errors import DelfEngineWarning
from delf_engine.matching import plain_tiles
from delf_engine.matching.plain_tiles import LANES, PANEL, ROWS

__all__ = ["LANES", "PANEL", "ROWS", "has_byte_products", "match_tile", "njit_tiled", "scores_16", "scores_32"]


def _compiles(*, of_bytes: bool) -> bool:
    """Tell whether LLVM's tiles can be used; warn if they cannot."""
    try:
        from delf_engine.matching import llvm_tiles

        llvm_tiles.check_support(of_bytes=of_bytes)
    except (ImportError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, NumbaError) as error:
        warnings.warn(
            "matching and word search run slower than they could, with the same results: the installed numba or "
            f"llvmlite does not compile their micro-kernel ({type(error).__name__}: {error}); install versions "
            "that this release was tested with",
            DelfEngineWarning,
            stacklevel=2,
        )
        return False
    return True


def _chosen() -> tuple[Any, bool]:
    """Return the module whose tiles are used, and whether they multiply bytes."""
    if os.environ.get("DELF_ENGINE_PLAIN_KERNELS") == "1" or not _compiles(of_bytes=False):
        return plain_tiles, False
    from delf_engine.matching import llvm_tiles

    return llvm_tiles, llvm_tiles.has_byte_products() and _compiles(of_bytes=True)


_tiles, has_byte_products = _chosen()
scores_16, scores_32, match_tile = _tiles.scores_16, _tiles.scores_32, _tiles.match_tile

#: Compiles what calls a tile, at any depth. Only code of the micro-kernel is kept on disk: numba would not tell it
#: from that of the plain loops.
njit_tiled: Any = partial(njit, cache=_tiles is not plain_tiles, nogil=True)
