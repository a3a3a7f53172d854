"""`Encoder`: what images are encoded by, in one safetensors file that says what it is and has a hash."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FeatureError, FormatError
from delf_engine.support.files import replacing, sync_directory, system_errors

if TYPE_CHECKING:
    from typing import Self

_VERSION = "1"


class Encoder(ABC):
    """Read-only arrays that say how descriptors are encoded: a codebook, or a mixture of Gaussians.

    Attributes
    ----------
    hash : str
        SHA-256 of the arrays and their shapes, in hexadecimal digits; encoders with the same one are equal.
    """

    hash: str
    _what: ClassVar[str]
    _names: ClassVar[tuple[str, ...]]  # of its arrays, in the order that they are made from

    @property
    @abstractmethod
    def dim(self) -> int:
        """Descriptor dimension D."""

    @abstractmethod
    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays as they are saved."""

    def _seal(self, *arrays: npt.NDArray[np.float32]) -> None:
        """Make the arrays read-only and set the hash."""
        digest = hashlib.sha256()
        for array in arrays:
            array.flags.writeable = False
            digest.update(f"delf-engine {self._what} {array.shape}".encode())
            digest.update(array.astype("<f4", copy=False).tobytes())
        self.hash = digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, completely or not at all.

        Raises
        ------
        FormatError
            If the file cannot be written.
        """
        from safetensors.numpy import save

        described = {"format": f"delf-engine {self._what}", "version": _VERSION, "hash": self.hash}
        path = Path(path)
        with system_errors(f"{path}: cannot be written"):
            with replacing(path) as temporary:
                temporary.write_bytes(_ordered(save(self._tensors(), described)))
            sync_directory(path.parent)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that was saved.

        Raises
        ------
        FormatError
            If it is missing, damaged, something else, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = dict(file.metadata() or {})
                if metadata.get("format") != f"delf-engine {cls._what}":
                    raise FormatError(f"{path}: a safetensors file, but not a {cls._what}")
                if metadata.get("version") != _VERSION:
                    raise FormatError(
                        f"{path}: the {cls._what} has format version {metadata.get('version')}, this version "
                        f"reads {_VERSION}"
                    )
                made: Any = cls
                encoder: Self = made(*(file.get_tensor(name) for name in cls._names))
        except (SafetensorError, OSError, ValueError, FeatureError) as error:
            raise FormatError(f"{path}: cannot be read as a {cls._what}: {error}") from error
        if encoder.hash != metadata.get("hash"):
            raise FormatError(f"{path}: the {cls._what} is damaged: its hash does not match; restore the file")
        return encoder

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)


def _ordered(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in order: the library writes them in any, and other bytes so."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]
