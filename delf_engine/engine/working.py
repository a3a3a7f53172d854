"""An engine for one job: the one that is kept for it, or one that is thrown away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from delf_engine.engine.engine import Engine
from delf_engine.engine.manifest import MANIFEST
from delf_engine.errors import MismatchError
from delf_engine.model import read_checkpoint_info


@contextmanager
def working_engine(
    directory: str | os.PathLike[str] | None, model: str | os.PathLike[str] | None, *, fine: bool
) -> Iterator[Engine]:
    """Open the engine that is kept, make it, or make one that is thrown away; close it in the end.

    Without a directory it is a temporary one. `model` None is that of the engine if there is one, else the
    default; `fine` says whether a new one keeps fine features. A `MismatchError` if the engine was made with
    another model; otherwise errors are those of `Engine.create` and `Engine.open`.
    """
    with ExitStack() as stack:
        if directory is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="delf-engine-"))
            directory = Path(folder) / "engine"
        if not (Path(directory) / MANIFEST).exists():
            yield stack.enter_context(Engine.create(directory, model=model or "delf-r18", fine=fine))
            return
        engine = stack.enter_context(Engine.open(directory))
        if model is not None and read_checkpoint_info(model).identity != engine.manifest.model_identity:
            raise MismatchError(
                f"{directory}: made with model {engine.manifest.model_identity}, not with {model}; leave the "
                "model out, or choose a new directory"
            )
        yield engine
