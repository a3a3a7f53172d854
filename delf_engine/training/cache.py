"""Maps of items in memory or in files, up to a number of bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["Cache", "memory_bytes"]


class Cache:
    """Maps of items in memory or as safetensors files in a folder, up to a number of bytes.

    Maps are floating-point (V, C, h, w) with the channels of a cell together in memory; or integer images.

    Parameters
    ----------
    limit : int
        Bytes.
    folder : path or None
        Where files go; None: everything is in memory.
    """

    def __init__(self, limit: int, folder: Path | None) -> None:
        self.limit, self.folder, self.used = limit, folder, 0
        self._sizes: dict[int, int] = {}
        self._memory: dict[int, dict[str, Tensor]] = {}
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def __contains__(self, index: int) -> bool:
        return index in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def get(self, index: int) -> dict[str, Tensor]:
        """Return the maps of an item that is held."""
        if self.folder is None:
            return self._memory[index]
        return {name: _as_used(value) for name, value in load_file(self._file(index)).items()}

    def put(self, index: int, maps: dict[str, Tensor]) -> bool:
        """Hold the maps of an item in place of earlier ones, if they fit; say whether they do."""
        size = sum(value.numel() * value.element_size() for value in maps.values())
        used = self.used - self._sizes.get(index, 0) + size
        if used > self.limit:
            return False
        if self.folder is None:
            self._memory[index] = maps
        else:
            save_file({name: _as_written(value) for name, value in maps.items()}, self._file(index))
        self._sizes[index], self.used = size, used
        return True

    def close(self) -> None:
        """Drop everything."""
        self._memory.clear()
        self._sizes.clear()
        self.used = 0
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{index}.safetensors"


def _as_written(value: Tensor) -> Tensor:
    """Return maps (V, C, h, w) as (V, h, w, C), as they lie in memory: files know no other order."""
    return (value.permute(0, 2, 3, 1) if value.is_floating_point() else value).contiguous()


def _as_used(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2) if value.is_floating_point() else value


def memory_bytes() -> int:
    """Return the memory that is free, bytes; where the system does not say, 4 GiB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 << 30
