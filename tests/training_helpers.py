"""Training in one call, as tests of recipes want it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delf_engine.training import Reports, RunOptions, TrainingConfig
from delf_engine.training.finish import Trained, train_network
from delf_engine.training.photographs import Photographs

__all__ = ["Trained", "train"]


def train(
    photos: Sequence[str],
    config: TrainingConfig,
    trunk: str | Path | None = None,
    *,
    roots: Sequence[Path] = (),
    work: Path | None = None,
    data: str = "",
    error: Any = lambda *_: None,
    progress: Any = lambda *_: None,
    figures: Any = lambda *_: None,
    log: Any = None,
    **options: Any,
) -> Trained:
    """Train on files, or on the classes below a folder of `roots`."""
    photographs = (
        Photographs.find(roots, config, seed=options.get("seed", 0))
        if roots
        else Photographs.split(photos, config.held_out_every)
    )
    reports = Reports(error, progress, figures, log)
    return train_network(photographs, config, trunk, RunOptions(**options), reports, work=work, data=data)
