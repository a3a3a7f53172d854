"""The state of a gradient stage on disk: one safetensors file with JSON in its header, replaced at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from delf_engine.errors import FormatError
from delf_engine.support.files import replacing

__all__ = ["Snapshot", "load_optimiser", "optimiser_tensors", "read_snapshot", "write_snapshot"]

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
    """Read a file that `write_snapshot` wrote.

    Raises
    ------
    FormatError
        If it is damaged or of another version.
    """
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
