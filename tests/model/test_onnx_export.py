from __future__ import annotations

import copy
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model import CheckpointInfo, load_checkpoint, onnx_export, read_checkpoint_info
from delf_engine.model.network import DelfNetwork
from delf_engine.model.onnx_export import OnnxRecord, export_onnx, read_onnx_record
from helpers import raises, random_photo

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

Model = tuple[Path, DelfNetwork, CheckpointInfo]


@pytest.fixture(scope="module")
def model(tiny_onnx: Path, tiny_model: Path) -> Model:
    return (tiny_onnx, *load_checkpoint(tiny_model))


@pytest.fixture
def no_tracing(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    """Take the model that was traced already, which is what takes time."""
    proto = onnx.load(model[0])
    del proto.metadata_props[:], proto.graph.output[2:], proto.graph.node[-2:], proto.graph.initializer[-2:]
    monkeypatch.setattr(onnx_export, "_traced", lambda *_: copy.deepcopy(proto))


def _run(*args: str | Path) -> Result:
    name, out, *more = map(str, args)
    return CliRunner().invoke(app, ["model", "export", name, "--out", out, *more])


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------------------------------------------- the file


def test_inputs_and_outputs(model: Model) -> None:
    session = _session(model[0])
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    assert {o.name: o.shape for o in session.get_outputs()} == {
        "features": ["batch", "h", "w", 256],
        "scores": ["batch", "h", "w"],
        "projection_mean": [256],
        "projection_components": [40, 256],
    }


@pytest.mark.parametrize("size", [(1, 10, 10), (2, 33, 65), (1, 128, 48)])
def test_equals_torch(model: Model, size: tuple[int, int, int]) -> None:
    path, network, _ = model
    rng = np.random.default_rng(0)
    images = np.stack([random_photo(rng, size[2], size[1]) for _ in range(size[0])])
    features, scores, mean, components = _session(path).run(None, {"images": images})
    with torch.inference_mode():
        wanted, wanted_scores = network(network.normalise(torch.from_numpy(images)))
    wanted = wanted.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(features, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(scores, wanted_scores.numpy(), rtol=1e-4)
    np.testing.assert_array_equal(mean, network.projection.mean.numpy())
    np.testing.assert_array_equal(components, network.projection.components.numpy())


def test_holds_all_that_the_checkpoint_says(model: Model) -> None:
    path, _, info = model
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    record = read_onnx_record(path, path.read_bytes(), {p.key: p.value for p in proto.metadata_props})
    assert record.checkpoint == info
    assert record.checkpoint.sha256
    assert record.checkpoint.package_version is not None
    assert record == OnnxRecord.model_validate_json(record.model_dump_json())
    assert record.stride == 16
    # The codebook beside it, no weights, nothing left.
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.codebook.safetensors", "tiny.onnx"]


def test_network_stays_as_it_is(model: Model, no_tracing: None, tmp_path: Path) -> None:
    network = DelfNetwork("resnet18", 40, hidden=8)
    network.load_state_dict(model[1].state_dict())
    network = network.train().requires_grad_(True).to(memory_format=torch.channels_last)
    (tmp_path / "x.onnx").write_text("old")
    assert export_onnx(tmp_path / "x.onnx", network, model[2]).checkpoint == model[2]
    assert (tmp_path / "x.onnx").read_bytes() == model[0].read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.trunk.conv1.weight.is_contiguous(memory_format=torch.channels_last)


# ----------------------------------------------------------------------------------------------------- refusals


def test_refuses_a_graph_that_differs(model: Model, no_tracing: None, tmp_path: Path) -> None:
    other = DelfNetwork("resnet18", 40, hidden=8).eval()  # other random weights than the graph has
    with raises(ConfigError, "resnet18"):
        export_onnx(tmp_path / "x.onnx", other, model[2])
    assert not list(tmp_path.iterdir())


def test_refuses_what_torch_cannot_export(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.onnx.errors.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with raises(ConfigError, "2.5"):
        export_onnx(tmp_path / "x.onnx", *model[1:])
    fail.__signature__ = inspect.signature(lambda dynamic_shapes: None)  # type: ignore[attr-defined]
    with raises(ConfigError, "resnet18"):
        export_onnx(tmp_path / "x.onnx", *model[1:])


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_refuses_without_its_packages(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with raises(ConfigError, package, "delf-engine[onnx]"):
        export_onnx(tmp_path / "x.onnx", *model[1:])
    result = _run("delf-r18", tmp_path / "x.onnx")
    assert isinstance(result.exception, ConfigError)
    assert not list(tmp_path.iterdir())


def test_refuses_a_place_that_cannot_be_written(model: Model, no_tracing: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(CheckpointError, "x.onnx"):
        export_onnx(tmp_path / "file" / "x.onnx", *model[1:])
    (tmp_path / "x.onnx").mkdir()
    with raises(CheckpointError, "x.onnx"):
        export_onnx(tmp_path / "x.onnx", *model[1:])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "x.onnx"]


# -------------------------------------------------------------------------------------------------- the command


def test_command_by_the_ending(model: Model, tiny_model: Path, no_tracing: None, tmp_path: Path) -> None:
    result = _run(tiny_model, tmp_path / "tiny.onnx", "--no-codebook")
    assert result.exit_code == 0, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]
    assert isinstance(_run(tiny_model, tmp_path / "tiny.onnx").exception, CheckpointError)
    assert _run(tiny_model, tmp_path / "tiny.onnx", "--replace").exit_code == 0
    assert _run(tiny_model, tmp_path).exit_code != 0  # its codebook is there already
    assert _run(tiny_model, tmp_path, "--replace").exit_code == 0
    assert read_checkpoint_info(tmp_path / "tiny.safetensors") == model[2]


def test_metadata_is_read_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; "
        "from delf_engine.model.onnx_export import OnnxRecord; print(OnnxRecord.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "OnnxRecord\n", done.stderr
