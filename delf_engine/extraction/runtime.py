"""What computes the network: one small contract, so that the extractor does not know whether it is torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from delf_engine.model.device import choose_device
from delf_engine.support.threads import torch_after_fork

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from delf_engine.model.network import DelfNetwork


@dataclass(frozen=True)
class CellMap:
    """What the network says of one level of one image."""

    scores: npt.NDArray[np.float32]  # (h, w) float32: attention
    features: Any  # (h * w, C): cells in row-major order, in whatever array the runtime works with, where it works


@runtime_checkable
class Runtime(Protocol):
    """Computes a network.

    Attributes
    ----------
    name : str
        What it is and where it runs, for people.
    dim : int
        Descriptor dimension D.
    stride : int
        Of the feature map, in pixels of a level.
    offset : float
        Of the centre of its first cell, in pixels of a level.
    """

    name: str
    dim: int
    stride: int
    offset: float

    def forward(self, images: npt.NDArray[np.uint8]) -> list[CellMap]:
        """Map (B, H, W, 3) RGB to the B maps of features and scores."""
        ...

    def describe(self, parts: Sequence[tuple[CellMap, npt.NDArray[np.int64]]]) -> npt.NDArray[np.float32]:
        """Return the (K, D) descriptors of chosen cells, given as (map, flat indices), one part after another.

        Rows are L2-normalised; a vector that projects to nothing stays 0. At least one part must be given.
        """
        ...


class TorchRuntime:
    """A `DelfNetwork`, set to evaluation, on one device, channels-last.

    A `ConfigError` when computing, if it is a GPU, and this process was forked since.
    """

    def __init__(self, network: DelfNetwork, device: torch.device) -> None:
        import torch

        network = network.eval().requires_grad_(False).to(device)
        self.network = network.to(memory_format=torch.channels_last)
        self.device = device
        self._process = os.getpid()
        self.name = str(device)
        self.dim = self.network.dim
        self.stride, self.offset = self.network.stride, self.network.offset

    def forward(self, images: npt.NDArray[np.uint8]) -> list[CellMap]:
        """See `Runtime`."""
        import torch

        self.check_process()
        with torch.inference_mode():
            features, scores = self.network.maps(torch.from_numpy(images).to(self.device))
            cells = features.permute(0, 2, 3, 1).flatten(1, 2).unbind(0)
            return [CellMap(s, f) for s, f in zip(scores.cpu().numpy(), cells, strict=True)]

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU, which it does in the process that it was made in."""
        return self.device.type != "cpu" and self._process == os.getpid()

    def check_process(self) -> None:
        """See to it that torch computes in a forked child; a `ConfigError` on a GPU, which does not."""
        if self._process != os.getpid():
            choose_device(self.name)
            torch_after_fork()

    def describe(self, parts: Sequence[tuple[CellMap, npt.NDArray[np.int64]]]) -> npt.NDArray[np.float32]:
        """See `Runtime`."""
        import torch

        with torch.inference_mode():
            vectors = torch.cat([m.features[torch.from_numpy(cells).to(self.device)] for m, cells in parts])
            found: npt.NDArray[np.float32] = self.network.projection(vectors).float().cpu().numpy()
            return found


def fetched(values: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; what is returned waits for it, and for nothing that comes later."""
    import torch

    if values.device.type != "cuda":
        return lambda: values
    here = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    here.copy_(values, non_blocking=True)
    event = torch.cuda.Event(blocking=True)  # a thread that waits leaves its core to those that decode
    event.record(torch.cuda.current_stream(values.device))

    def wait() -> Tensor:
        event.synchronize()
        return here

    return wait
