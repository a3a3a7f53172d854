"""Which device computes: the names that options take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from delf_engine.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """Return the device called "cpu", "cuda", "cuda:1", ..., or "auto": a GPU, by its number, if there is one.

    Raises
    ------
    ConfigError
        If there is no such device, here or at all; it says which there are. If it is a GPU, and the process that
        this one was forked from has used one.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(("cuda" if count else "cpu") if name == "auto" else name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device {name!r} is not supported: give 'auto', 'cpu', 'cuda' or 'cuda:N' (NVIDIA or ROCm)"
        )
    if device.type == "cpu":
        return device
    if torch.cuda._is_in_bad_fork():
        raise ConfigError(
            f"device {name!r} was used before this process was forked, and a GPU does not work in a fork: start "
            "it with multiprocessing.get_context('spawn') and make the extractor there, or take device='cpu'"
        )
    if (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} is not there: torch sees {count} CUDA devices; give 'cpu' or 'auto'")
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
