"""Downloads of checkpoints with a progress bar, for every command that takes a model."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from delf_engine.cli.console import error_console
from delf_engine.errors import DelfEngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import ProgressColumn

    from delf_engine.downloads import Progress
    from delf_engine.model.hub import Located

__all__ = ["download_progress", "fetch_located", "fetched", "transfer_columns"]


def fetched(model: str) -> str:
    """Download a model that is known by URL only, so that the command finds it; return its name as it is."""
    from delf_engine.model.hub import locate

    try:
        found = locate(model)
    except DelfEngineError:  # the command itself says it, if it needs the model at all
        return model
    fetch_located(found)
    return model


def fetch_located(found: Located) -> None:
    """Download what was located, with a progress bar, unless it is there."""
    from delf_engine.model.hub import fetch

    if found.remote is not None and not found.ready:
        with download_progress(found.remote.name) as report:
            fetch(found.remote, progress=report)


@contextmanager
def download_progress(what: str) -> Iterator[Progress]:
    """Show a bar with bytes, rate and time left on standard error; yields what takes (bytes there, in all)."""
    from rich.progress import Progress

    with Progress(*transfer_columns(), console=error_console()) as progress:
        task = progress.add_task(f"downloading {what}", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def transfer_columns() -> tuple[ProgressColumn, ...]:
    """Return what a bar shows of a transfer: its name, bytes, rate, time left."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
