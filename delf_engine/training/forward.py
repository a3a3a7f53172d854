"""From a batch to what losses see: the part of the network above what the batch holds, and teachers' maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from delf_engine.errors import ConfigError
from delf_engine.model.backbones import Trunk
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import START, Batch, Step, Teacher
from delf_engine.training.stores import deepest

__all__ = ["Forward"]


class Forward:
    """Computes steps.

    Parameters
    ----------
    network : DelfNetwork
    fitted : bool
        Whether its projection is fitted.
    seed : int
        Of the steps' random numbers.
    device : torch.device
    dtype : torch.dtype
        Of the trunk's arithmetic.
    trains : iterable of str
        Parts under training; what lies below them gets no gradient.
    teachers : mapping of str to Teacher
        Those whose maps a batch may lack.
    start : Trunk or None
        The trunk as the stage begins, if losses want its maps and a batch may lack them.
    """

    def __init__(
        self,
        network: DelfNetwork,
        *,
        fitted: bool,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        trains: Iterable[str] = (),
        teachers: Mapping[str, Teacher] | None = None,
        start: Trunk | None = None,
    ) -> None:
        self.network, self.fitted, self.seed = network, fitted, seed
        self.device, self.dtype = device, dtype
        self.trains, self.teachers = frozenset(trains), dict(teachers or {})
        self.start = start

    def __call__(self, batch: Batch, index: int) -> Step:
        """Return the step of micro-batch number `index`."""
        batch = batch.to(self.device)
        features = self._conv4(self.network.trunk, batch.maps)
        maps = dict(batch.maps)
        with torch.no_grad():
            for name, teacher in self.teachers.items():
                if name not in maps:
                    maps[name] = teacher(_images(maps, name))
            if self.start is not None and START not in maps:
                maps[START] = self._conv4(self.start, batch.maps)
        rng = np.random.default_rng((self.seed, 5, index))
        return Step(dataclasses.replace(batch, maps=maps), features, self.network, self.fitted, rng)

    def _conv4(self, trunk: Trunk, maps: Mapping[str, Tensor]) -> Tensor:
        level = deepest(maps)
        if (level == "conv4" and not self.trains.isdisjoint({"trunk", "layer3"})) or (
            level == "conv3" and "trunk" in self.trains
        ):
            raise ConfigError(f"the source gives {level}, which the stage trains: it must give an earlier map")
        if level == "conv4":
            return maps["conv4"].float()
        grad = torch.is_grad_enabled()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if level == "conv3":
                conv3 = maps["conv3"].float().contiguous(memory_format=torch.channels_last)
            else:
                with torch.set_grad_enabled(grad and "trunk" in self.trains):
                    conv3 = trunk.stem(self.network.normalise(maps["images"]))
            with torch.set_grad_enabled(grad and not self.trains.isdisjoint({"trunk", "layer3"})):
                return trunk.last(conv3).float()


def _images(maps: Mapping[str, Tensor], teacher: str) -> Tensor:
    if "images" not in maps:
        raise ConfigError(f"the source gives neither images nor the maps of teacher {teacher}")
    return maps["images"]
