"""A store in memory, for fsspec, with the faults of real ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class FaultyFileSystem(MemoryFileSystem):
    """A store in memory, ``faulty://``, that does what `faults` says of an operation's next calls: see `fault`."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[dict[str, list[Any]]] = {}
    asked: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("faulty://", "memory://", 1))

    def unstrip_protocol(self, name: str) -> str:
        return f"faulty://{name.removeprefix('faulty://')}"

    def _fault(self, operation: str, path: str) -> Any:
        self.asked.append(f"{operation} {path}")
        waiting = self.faults.get(operation, [])
        fault = waiting.pop(0) if waiting else None
        if fault == "slow":
            time.sleep(0.05)
        if isinstance(fault, BaseException):
            raise fault
        return fault

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        fault = self._fault("cat", path)
        contents = super().cat_file(path, *args, **options)
        return contents[: len(contents) // 2] if fault == "cut" else contents

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        fault = self._fault(mode, path)
        super().pipe_file(path, value, mode=mode, **options)
        if fault == "lost answer":
            raise ConnectionError("the answer was lost")

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        fault = self._fault("put", rpath)
        super().put_file(lpath, rpath, **options)
        if fault == "cut":
            super().pipe_file(rpath, super().cat_file(rpath)[:-1])

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        fault = self._fault("get", rpath)
        super().get_file(rpath, lpath, **options)
        contents = bytearray(Path(lpath).read_bytes())
        if fault == "cut":
            Path(lpath).write_bytes(contents[:-1])
        if fault == "flipped":
            contents[-1] ^= 1
            Path(lpath).write_bytes(contents)


fsspec.register_implementation("faulty", FaultyFileSystem)
