"""The folder of a run: results of finished stages, the state of the one that runs, cached maps.

A state is one safetensors file with JSON in its header, replaced at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from delf_engine.errors import FormatError
from delf_engine.support.files import acquired, file_sha256, replacing

_KEY = "delf_engine_training"
_VERSION = 1


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name, and plain values: step, scaler, figures."""

    tensors: dict[str, Tensor]
    values: dict[str, Any] = field(default_factory=dict)


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a file so that a crash at any moment leaves the earlier one or this one."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in snapshot.tensors.items()}
    data = save(tensors, metadata={_KEY: json.dumps({"version": _VERSION, **snapshot.values})})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_snapshot(path: Path) -> Snapshot:
    """Read a file that `write_snapshot` wrote; a `FormatError` if it is damaged or of another version."""
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: not a training state, or damaged: {error}; delete it to start anew") from error
    if values.pop("version", None) != _VERSION:
        raise FormatError(f"{path}: a training state of another version; delete it to start anew")
    return Snapshot(tensors, values)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors: ``optimiser.NUMBER.KEY`` for the parameter of that number."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{number}.{key}": value
        for number, entries in state.items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `optimiser_tensors` returned, in each parameter's own memory layout."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, value in tensors.items():
        prefix, _, rest = name.partition(".")
        if prefix != "optimiser":
            continue
        number, _, key = rest.partition(".")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape and value.ndim:
            # The layout decides how elements are grouped into vector instructions, and so their last bit.
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        optimiser.state[parameter][key] = value


class Work:
    """A folder that one run at a time works in; None: nothing is kept.

    On entering, a `LockedError` if another process trains in it.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def __enter__(self) -> Work:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            busy = f"{self.folder}: another training is running in this folder"
            self._lock = acquired(self.folder / "lock", busy)
            shutil.rmtree(self.folder / "cache", ignore_errors=True)  # of a run that was killed
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder / "cache", ignore_errors=True)
            self._lock.release()

    @property
    def cache(self) -> Path | None:
        """Where maps may be cached."""
        return None if self.folder is None else self.folder / "cache"

    def running(self, name: str, key: str) -> Path | None:
        """Return the file for the state of a stage that runs."""
        return self._file(name, key, "running")

    def once(self, name: str, key: str, compute: Callable[[], Snapshot]) -> Snapshot:
        """Return what `compute` returns, from disk if an earlier run with the same key has written it."""
        path = self._file(name, key, "safetensors")
        if path is not None and path.is_file():
            return read_snapshot(path)
        result = compute()
        if path is not None:
            write_snapshot(path, result)
        return result

    def _file(self, name: str, key: str, ending: str) -> Path | None:
        plain = "".join(c if c.isalnum() else "-" for c in name)
        return None if self.folder is None else self.folder / f"{plain}-{key[:16]}.{ending}"


def chained_key(before: str, *facts: object) -> str:
    """Return a key of all that a stage depends on: the key of what came before, and its own facts."""
    return hashlib.sha256(json.dumps([before, *facts], sort_keys=True).encode()).hexdigest()


def photographs_key(photos: Sequence[str]) -> str:
    """Return a key of a list of photographs: their names and sizes, in order."""
    digest = hashlib.sha256()
    for photo in photos:
        path = Path(photo)
        digest.update(f"{path.name} {path.stat().st_size if path.exists() else -1}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def file_digest(file: str | os.PathLike[str] | None) -> str:
    """Return the SHA-256 of a file; what is no file (a packaged name, None) stands for itself."""
    return file_sha256(Path(file)) if file and Path(file).is_file() else str(file)
