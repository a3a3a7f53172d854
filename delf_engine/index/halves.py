"""Numbers in half precision as the kernels take them: by their bits, since numba knows no float16 on a CPU."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bits", "half_values"]


def bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return float16 as uint16, and anything else as it is."""
    return array.view(np.uint16) if array.dtype == np.float16 else array


@functools.cache
def half_values() -> npt.NDArray[np.float32]:
    """Return the value of every float16 by its bits, (65536,) float32."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    values.flags.writeable = False
    return values
