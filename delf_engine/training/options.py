"""Options of a run that are not the recipe's, and what a run reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, get_args

from delf_engine.errors import ConfigError, ImageError
from delf_engine.support.threads import usable_cores
from delf_engine.training.device import Arithmetic

__all__ = ["Log", "Progress", "Reports", "RunOptions", "tensorboard_log"]

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
        Of all stages, in place of what the recipe says.
    cache_gb : float
        Maps of rendered views that are kept, 10^9 bytes; what does not fit is computed again when it is drawn.
    workers : int
        Threads that decode.
    pairs : path or None
        File of mined pairs, for recipes that draw from it.
    teacher : str or None
        In place of the recipe's teacher.
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

    @property
    def cache_bytes(self) -> int:
        """The limit of the cache."""
        return int(self.cache_gb * 1e9)

    @property
    def pairs_file(self) -> Path | None:
        """The file of mined pairs."""
        return None if self.pairs is None else Path(self.pairs)


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

    Raises
    ------
    ConfigError
        If tensorboard is not installed.
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
