"""`GlobalHead`: one vector an image, pooled from the maps that its local features come from, then whitened.

It lies beside a checkpoint as ``NAME.global.safetensors``, and `delf_engine.training.global_head` fits it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError
from delf_engine.model.checkpoint import global_head_path, tensors_sha256
from delf_engine.support.files import replacing, system_errors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_KEY = "delf_engine_global"
_VERSION = 1
_PARAMETER = "pooling."
_TINY = 1e-300  # below it, as at 0, a float64 vector has no direction


@dataclass(frozen=True, eq=False)
class GlobalHead:
    """Pools, normalises and whitens.

    Levels of the pyramid are pooled one by one, L2-normalised, and added.

    Parameters
    ----------
    pooling : str
        A name of `delf_engine.model.pooling.POOLINGS`.
    mean : (K,) float32
        Of pooled vectors at unit length.
    matrix : (K, G) float32
        What they are multiplied with after that.
    parameters : mapping of str to array
        Of the pooling.
    levels : int or None
        How many of the pyramid's levels, largest first; None: all.
    model : str
        Identity of the checkpoint whose maps are pooled; "" for any.
    """

    pooling: str
    mean: npt.NDArray[np.float32]
    matrix: npt.NDArray[np.float32]
    parameters: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    levels: int | None = None
    model: str = ""

    @property
    def dim(self) -> int:
        """Components G of a vector."""
        return int(self.matrix.shape[1])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all that vectors depend on but the checkpoint."""
        return tensors_sha256(self._tensors)

    @property
    def identity(self) -> str:
        """Pooling and hash: vectors of other identities cannot be compared."""
        return f"{self.pooling}-{self.dim}@{self.hash[:16]}"

    def __call__(self, maps: Sequence[tuple[Tensor, npt.NDArray[np.float32]]]) -> npt.NDArray[np.float32]:
        """Return the vector of one image, (G,) float32, L2-normalised; zeros if there is nothing to pool.

        Parameters
        ----------
        maps : sequence of (Tensor, array)
            For each level (h w, C) cells in row-major order and (h, w) scores.
        """
        pooled = self.pooled(maps)
        if not pooled.any():
            return np.zeros(self.dim, np.float32)
        # Not by BLAS, whose bits depend on the number of its threads.
        white = np.einsum("gk,k->g", self._rows, pooled - self.mean)
        return _unit(white).astype(np.float32)

    def pooled(self, maps: Sequence[tuple[Tensor, npt.NDArray[np.float32]]]) -> npt.NDArray[np.float64]:
        """Return the vector before it is whitened, (K,) float64, L2-normalised; zeros: nothing to pool."""
        import torch

        total = np.zeros(1)
        with torch.inference_mode():
            images = []
            for cells, scores in maps:
                height, width = scores.shape
                features = cells.float().reshape(1, height, width, -1).permute(0, 3, 1, 2)
                images.append((features, torch.from_numpy(scores).to(cells.device)[None]))
            for level in self._levels(images):
                total = total + _unit(level[0].cpu().numpy())
        return _unit(total)

    def of_batch(self, maps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the vectors of B images, (B, G) float32, as a call does, on the device of their maps.

        Parameters
        ----------
        maps : sequence of (Tensor, Tensor)
            For each level (B, C, h, w) features and (B, h, w) scores.
        """
        import torch
        from torch.nn.functional import normalize

        levels = [normalize(level, eps=_TINY) for level in self._levels(maps)]
        pooled = normalize(torch.stack(levels).sum(0), eps=_TINY)
        moved = self._on(pooled.device)
        white = normalize((pooled - moved["mean"].double()) @ moved["matrix"].double(), eps=_TINY)
        return (white * pooled.any(1, keepdim=True)).float()

    def _levels(self, maps: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Yield the (B, K) float64 pooled vectors of each level that counts."""
        from delf_engine.model.pooling import POOLINGS

        largest = sorted(range(len(maps)), key=lambda i: -maps[i][1][0].numel())[: self.levels]
        for i in sorted(largest):
            features, scores = maps[i]
            moved = self._on(features.device)
            parameters = {name: moved[_PARAMETER + name] for name in self.parameters}
            yield POOLINGS[self.pooling](features.float(), scores, **parameters).double()

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        """Return the tensors of this head on a device; they are brought there once, which waits for it."""
        import torch

        if device not in self._moved:
            self._moved[device] = {
                name: torch.from_numpy(np.array(value)).to(device) for name, value in self._tensors.items()
            }
        return self._moved[device]

    @cached_property
    def _moved(self) -> dict[torch.device, dict[str, Tensor]]:
        return {}

    @cached_property
    def _rows(self) -> npt.NDArray[np.float64]:
        return np.ascontiguousarray(self.matrix.T, np.float64)  # (G, K)

    @cached_property
    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        more = {_PARAMETER + name: np.asarray(value) for name, value in self.parameters.items()}
        said = np.frombuffer(f"{self.pooling} {self.levels}".encode(), np.uint8)  # so that the hash covers it
        return {"mean": self.mean, "matrix": self.matrix, "said": said, **more}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, completely or not at all; a `CheckpointError` if it cannot be written."""
        from safetensors.numpy import save

        values = {"version": _VERSION, "pooling": self.pooling, "levels": self.levels, "model": self.model}
        described = {_KEY: json.dumps({**values, "sha256": self.hash})}
        with system_errors(f"{path}: cannot be written", CheckpointError), replacing(Path(path)) as temporary:
            temporary.write_bytes(save(self._tensors, described))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GlobalHead:
        """Read a file that was saved.

        Raises
        ------
        CheckpointError
            If it is missing, damaged, something else, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                said = json.loads((file.metadata() or {}).get(_KEY, "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read as a global head: {error}") from error
        if said.get("version") != _VERSION:
            raise CheckpointError(f"{path}: not a global head of version {_VERSION} of this package")
        if tensors_sha256(tensors) != said["sha256"]:
            raise CheckpointError(f"{path}: damaged: it does not have the hash that it states; get the file again")
        parameters = {
            name.removeprefix(_PARAMETER): value for name, value in tensors.items() if name.startswith(_PARAMETER)
        }
        return cls(said["pooling"], tensors["mean"], tensors["matrix"], parameters, said["levels"], said["model"])


def load_global_head(name_or_path: str | os.PathLike[str], identity: str) -> GlobalHead | None:
    """Return the global head beside a checkpoint, None if there is none; a `CheckpointError` if of another one."""
    path = global_head_path(name_or_path)
    head = None if path is None else GlobalHead.load(path)
    if head is not None and head.model not in ("", identity):
        raise CheckpointError(f"{path}: made for {head.model}, but lies beside {identity}; fit one for that")
    return head


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = float(np.sqrt(np.square(vector).sum()))
    return vector / length if length > 0 else vector
