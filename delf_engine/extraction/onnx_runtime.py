"""The network through ONNX Runtime, without torch; an optional extra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.extraction.runtime import CellMap
from delf_engine.model.checkpoint import CheckpointInfo
from delf_engine.model.onnx_export import read_onnx_record
from delf_engine.support.files import system_errors

_EPSILON = 1e-12  # torch's, below which a vector has no direction


class OnnxRuntime:
    """A file that `delf_engine.model.onnx_export.export_onnx` wrote; satisfies `Runtime`.

    A `ConfigError` if onnxruntime is not installed; a `CheckpointError` if the file is missing, damaged, not ours,
    or of another version.

    Parameters
    ----------
    threads : int or None
        Of ONNX Runtime, at least 1; None: as many as it chooses, one a core.

    Attributes
    ----------
    info : CheckpointInfo
        Of the checkpoint that was exported.
    name : str
        For people.
    dim, stride, offset
        See `Runtime`.
    """

    info: CheckpointInfo

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self._path, self._threads = Path(path), threads
        self._sessions: list[Any] = []  # the last is in use; the end of a parent's would wait for its threads
        data = self._open_session()
        record = read_onnx_record(self._path, data, self._sessions[-1].get_modelmeta().custom_metadata_map)
        self.info = record.checkpoint
        self.dim, self.stride, self.offset = record.checkpoint.dim, record.stride, 0.0
        self.name = "onnxruntime, CPU"
        constants = ["projection_mean", "projection_components"]
        smallest = np.zeros((1, self.stride, self.stride, 3), np.uint8)
        self._mean, self._components = self._sessions[-1].run(constants, {"images": smallest})

    def _open_session(self) -> bytes:
        """Read the file, which is returned, and begin a session of this process."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError("ONNX files need onnxruntime: pip install 'delf-engine[onnx]'") from error
        if self._threads is not None and self._threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self._threads}")
        path = self._path
        with system_errors(f"{path}: cannot be read", CheckpointError):
            data = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        options.enable_mem_pattern = False  # it keeps a plan for every size of image that it has seen
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # ONNX Runtime has a type for each kind of failure, all of them private and without a common base.
            raise CheckpointError(
                f"{path}: not an ONNX file that onnxruntime {onnxruntime.__version__} reads, or cut off: "
                f"{error}; export it again"
            ) from error
        self._sessions.append(session)
        self._process = os.getpid()
        return data

    def forward(self, images: npt.NDArray[np.uint8]) -> list[CellMap]:
        """See `Runtime`."""
        if self._process != os.getpid():  # the threads of the session have stayed in the parent of this fork
            self._open_session()
        inputs = {"images": np.ascontiguousarray(images)}
        features, scores = self._sessions[-1].run(["features", "scores"], inputs)
        return [CellMap(s, f.reshape(-1, f.shape[2])) for s, f in zip(scores, features, strict=True)]

    def describe(self, parts: Sequence[tuple[CellMap, npt.NDArray[np.int64]]]) -> npt.NDArray[np.float32]:
        """See `Runtime`."""
        vectors = np.concatenate([cells.features[chosen] for cells, chosen in parts])
        if self.info.projection_unit_input:
            vectors = _unit(vectors)
        return _unit((vectors - self._mean) @ self._components.T)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Divide rows by their L2 norms; what is 0 stays 0."""
    found: npt.NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _EPSILON)
    return found
