"""TensorBoard, an optional extra."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from delf_engine.errors import ConfigError
from delf_engine.training.trainer import Log

__all__ = ["tensorboard_log"]


@contextmanager
def tensorboard_log(folder: str | os.PathLike[str] | None) -> Iterator[Log | None]:
    """Open a log for TensorBoard; None for no folder.

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
