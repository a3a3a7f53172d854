"""ONNX files: one network, its projection and all that its checkpoint says of itself, in one file.

The graph maps ``images``, uint8 RGB (batch, height, width, 3) of any size, to ``features`` (batch, h, w, C) and
``scores`` (batch, h, w). Descriptors are made of a few chosen cells only, so the projection is not part of that
path; it is given as two constant outputs, ``projection_mean`` (C,) and ``projection_components`` (D, C).

What reads the metadata works without torch and without onnx.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from delf_engine import __version__
from delf_engine.config import Config, parse_config
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model.checkpoint import CheckpointInfo
from delf_engine.support.files import replacing, system_errors

if TYPE_CHECKING:
    from torch import nn

    from delf_engine.model.network import DelfNetwork

_KEY = "delf_engine"
_SEAL = "delf_engine_sha256"
_SEAL_SIZE = len(_SEAL) + 70  # as protobuf: 2 + 2 bytes before the key, 2 before 64 digits
_VERSION = 1
_OPSET = 18
_AXES = {0: "batch", 1: "height", 2: "width"}
_EXAMPLE = (2, 64, 96)
_TRIED = ((1, 10, 10), (2, 75, 101))  # neither has a side of the example
_TOLERANCE = 1e-3  # of the largest value; a wrong graph is off by far more, rounding by 1e-5


class OnnxRecord(Config):
    """What is kept in the metadata of the file."""

    format_version: int  # of this record and of the names and shapes in the graph
    checkpoint: CheckpointInfo  # of the checkpoint that was exported, with the hash of its weights
    stride: int = Field(ge=1)  # of the feature map, in pixels of the network's input
    # That wrote the file.
    package_version: str
    torch_version: str


def require_onnx() -> None:
    """Raise a `ConfigError` unless what `export_onnx` needs is installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export needs {missing[0]}: pip install 'delf-engine[onnx]'")


def export_onnx(path: str | os.PathLike[str], network: DelfNetwork, info: CheckpointInfo) -> OnnxRecord:
    """Write a network as ONNX, float32, with what its checkpoint says; the file is replaced at once or not at all.

    The graph is run and compared with torch before it is written. What `network` is on and in stays as it is. A
    `ConfigError` if a package is missing, or this torch cannot export this network; a `CheckpointError` if the
    file cannot be written.
    """
    require_onnx()
    if network.offset:  # neither the record nor torch's exporter is ready for them
        raise ConfigError(f"{info.name}: a ViT ({info.architecture}) cannot be exported, only ResNets can")
    import onnx
    import torch

    graph = _graph(network)
    model = _traced(graph, info)
    for output in model.graph.output:  # torch writes long formulas there
        for axis, name in zip(output.type.tensor_type.shape.dim, ("batch", "h", "w"), strict=False):
            axis.dim_param = name
    _add_projection(model, network)
    record = OnnxRecord(
        format_version=_VERSION,
        checkpoint=info,
        stride=network.stride,
        package_version=__version__,
        torch_version=str(torch.__version__),
    )
    onnx.helper.set_model_props(model, {_KEY: record.model_dump_json()})
    onnx.checker.check_model(model, full_check=True)
    data = _sealed(model.SerializeToString())
    _compare(data, graph, info)
    path = Path(path)
    with system_errors(f"{path}: cannot be written", CheckpointError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    return record


def read_onnx_record(path: Path, data: bytes, metadata: Mapping[str, str]) -> OnnxRecord:
    """Validate the ``metadata_props`` of a file that `export_onnx` wrote, `path` with the bytes `data`.

    A `CheckpointError` if it is not ours, of another format version, or not as it was written.
    """
    if _KEY not in metadata:
        raise CheckpointError(
            f"{path}: ONNX, but not written by this package (no {_KEY!r} metadata); "
            "write one with: delf-engine model export NAME --out NAME.onnx"
        )
    if metadata.get(_SEAL) != hashlib.sha256(data[:-_SEAL_SIZE]).hexdigest():
        raise CheckpointError(f"{path}: damaged, or changed since it was exported; export it again")
    try:
        values = json.loads(metadata[_KEY])
        found = values.get("format_version")
        if found != _VERSION:
            raise CheckpointError(
                f"{path}: ONNX format version {found}, this version reads {_VERSION}; export it again"
            )
        return parse_config(OnnxRecord, values, where=str(path))
    except (json.JSONDecodeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path}: damaged metadata: {error}; export it again") from error


def _graph(network: DelfNetwork) -> nn.Module:
    """Return what is exported: a copy of the network from bytes to cells, on the CPU."""
    import torch
    from torch import Tensor, nn

    class Graph(nn.Module):
        offset: Tensor
        factor: Tensor

        def __init__(self, network: DelfNetwork) -> None:
            super().__init__()
            self.network = network
            # `normalise` works in place and makes its constants anew, which a graph should not.
            self.register_buffer("offset", torch.tensor(network.mean) * 255)
            self.register_buffer("factor", 1 / (torch.tensor(network.std) * 255))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            pixels = (images.to(torch.float32) - self.offset) * self.factor
            features, scores = self.network(pixels.permute(0, 3, 1, 2))
            return features.permute(0, 2, 3, 1), scores

    plain = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    return Graph(plain).eval().requires_grad_(False)


def _traced(graph: nn.Module, info: CheckpointInfo) -> Any:
    """Return the ONNX model (ModelProto) of a module."""
    import torch
    from torch.onnx.errors import OnnxExporterError

    if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
        raise ConfigError(f"ONNX export needs torch 2.5 or newer, this is {torch.__version__}")
    axes = {axis: torch.export.Dim(name) for axis, name in _AXES.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            program = torch.onnx.export(
                graph,
                (torch.zeros(*_EXAMPLE, 3, dtype=torch.uint8),),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=["images"],
                output_names=["features", "scores"],
                opset_version=_OPSET,
                verbose=False,
            )
    except OnnxExporterError as error:
        raise ConfigError(
            f"{info.name} ({info.architecture}) cannot be exported by torch {torch.__version__}: {error}"
        ) from error
    assert program is not None
    return program.model_proto


def _add_projection(model: Any, network: DelfNetwork) -> None:
    """Add the projection as constant outputs."""
    from onnx import TensorProto, helper, numpy_helper

    for name, tensor in (("mean", network.projection.mean), ("components", network.projection.components)):
        array = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
        output = f"projection_{name}"
        model.graph.initializer.append(numpy_helper.from_array(array, f"{output}.value"))
        model.graph.node.append(helper.make_node("Identity", [f"{output}.value"], [output]))
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, array.shape))


def _sealed(data: bytes) -> bytes:
    """Append the hash of all bytes as one more property: protobuf messages one after another are one message."""
    from onnx import ModelProto, StringStringEntryProto

    entry = StringStringEntryProto(key=_SEAL, value=hashlib.sha256(data).hexdigest())
    seal: bytes = ModelProto(metadata_props=[entry]).SerializeToString()
    assert len(seal) == _SEAL_SIZE
    return data + seal


def _compare(data: bytes, graph: nn.Module, info: CheckpointInfo) -> None:
    """Raise unless the file computes what torch computes: exporters have got sizes and paddings wrong before."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for size in _TRIED:
        images = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        found = session.run(["features", "scores"], {"images": images})
        with torch.inference_mode():
            wanted = [value.numpy() for value in graph(torch.from_numpy(images))]
        for f, w in zip(found, wanted, strict=True):
            if f.shape != w.shape or np.abs(f - w).max() > _TOLERANCE * np.abs(w).max():
                raise ConfigError(
                    f"{info.name} ({info.architecture}) is exported wrongly by torch {torch.__version__}: at "
                    f"{size[2]} x {size[1]} pixels the graph differs; nothing was written. Try another torch"
                )
