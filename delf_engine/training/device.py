"""Where and in what arithmetic training runs, and torch's switches for equal bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from delf_engine.errors import ConfigError
from delf_engine.extraction.precision import has_native_bf16

__all__ = ["Arithmetic", "autocast_dtype", "choose_device", "deterministic"]

#: Of the network while it is trained; weights, losses and optimiser stay float32.
Arithmetic = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device called "cpu", "cuda", "cuda:1" or "auto" (a GPU if there is one).

    Raises
    ------
    ConfigError
        If this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: give auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported: give auto, cpu or cuda")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} is not there: torch sees {count} CUDA devices; give --device cpu")
    return device


def autocast_dtype(precision: Arithmetic, device: torch.device) -> torch.dtype:
    """Return the type that the network computes in.

    Raises
    ------
    ConfigError
        If fp16 is asked for on a CPU.
    """
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; give bf16 or fp32 on a CPU")
    return _DTYPES[precision]


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Make torch's operations give equal bits for equal input; what it was set to comes back afterwards."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark
