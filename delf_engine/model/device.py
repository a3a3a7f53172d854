"""Which device computes: the names that options take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from delf_engine.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """Return the device called "cpu", "cuda", "cuda:1", ..., or "auto": a GPU if there is one.

    Raises
    ------
    ConfigError
        If there is no such device, here or at all; it says which there are.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device {name!r} is not supported: give 'auto', 'cpu', 'cuda' or 'cuda:N' (NVIDIA or ROCm)"
        )
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} is not there: torch sees {count} CUDA devices; give 'cpu' or 'auto'")
    return device
