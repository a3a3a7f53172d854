"""What a run is told beside its recipe, what it reports, and where and in what arithmetic it computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch

from delf_engine.errors import ConfigError, ImageError
from delf_engine.extraction.precision import has_native_bf16
from delf_engine.support.threads import usable_cores

#: Of the network while it is trained; weights, losses and optimiser stay float32.
Arithmetic = Literal["auto", "fp32", "bf16", "fp16"]
#: Called with the stage's name, steps done, steps in all, and the loss where there is one.
Progress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run. Only `seed`, `device`, `precision`, `pairs` and `teacher` change what comes out.

    Attributes
    ----------
    seed : int
        Same photographs, recipe, options and seed on the same machine give the same bits.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    precision : "auto", "fp32", "bf16", "fp16" or None
        Precision of all stages, in place of what the recipe says.
    cache_gb : float
        Maps of rendered views that are kept, 10^9 bytes; what does not fit is computed again when it is drawn.
    workers : int
        Threads that decode.
    pairs : path or None
        File of mined pairs, for recipes that draw from it.
    teacher : str or None
        Teacher to use in place of the recipe's.
    checkpoint_seconds : float
    checkpoint_steps : int or None
        How often a running stage writes its state; both hold.
    """

    seed: int = 0
    device: str = "auto"
    precision: Arithmetic | None = None
    cache_gb: float = 8.0
    workers: int = field(default_factory=usable_cores)
    pairs: str | os.PathLike[str] | None = None
    teacher: str | None = None
    checkpoint_seconds: float = 120.0
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        if self.precision is not None and self.precision not in get_args(Arithmetic):
            raise ConfigError(f"precision {self.precision!r}: choose one of {', '.join(get_args(Arithmetic))}")


class Log(Protocol):
    """Where scalars go, such as TensorBoard's writer."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record a number."""


@dataclass(frozen=True)
class Reports:
    """What is called while a run works.

    Attributes
    ----------
    error : callable
        Called once with each photograph that cannot be read.
    progress : callable
        See `Progress`.
    figures : callable
        Called with the stage's name, the step, and what was measured on held-out photographs.
    log : Log or None
    """

    error: Callable[[str, ImageError], None] = lambda *_: None
    progress: Progress = lambda *_: None
    figures: Callable[[str, int, Mapping[str, float]], None] = lambda *_: None
    log: Log | None = None


@contextmanager
def tensorboard_log(folder: str | os.PathLike[str] | None) -> Iterator[Log | None]:
    """Open a log for TensorBoard, an optional extra; None for no folder.

    A `ConfigError` if tensorboard is not installed.
    """
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("--log needs tensorboard: pip install 'delf-engine[tensorboard]'") from error
    writer = SummaryWriter(os.fspath(folder))
    try:
        yield writer
    finally:
        writer.close()


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(precision: Arithmetic, device: torch.device) -> torch.dtype:
    """Return the type that the network computes in; a `ConfigError` if fp16 is asked for on a CPU."""
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; give bf16 or fp32 on a CPU")
    return _DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which networks compute in `dtype`."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


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
