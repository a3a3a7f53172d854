from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from delf_engine import Extractor
from delf_engine.config import load_profile
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.extraction.runtime import CellMap, TorchRuntime
from delf_engine.model.backbones import ARCHITECTURES, Architecture
from delf_engine.model.network import DelfNetwork
from delf_engine.model.onnx_export import _sealed, export_onnx
from helpers import checkpoint_info, raises, random_photo

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from delf_engine.extraction.onnx_runtime import OnnxRuntime  # noqa: E402

SMALL = {  # paddings and strides of the published models on a trunk that is quick to export
    "small_slim_s32": Architecture((2, 2, 2, 2), 256, 32, padding="slim"),
    "small_keras": Architecture((2, 2, 2, 2), 256, padding="keras"),
}
NETWORKS: dict[str, dict[str, Any]] = {  # every option is in one of them, to export few
    "delf": {"architecture": "resnet18"},
    "delg": {"architecture": "small_slim_s32", "norm_weighted": False, "bottleneck": 16},
    "how": {
        "architecture": "small_keras",
        "attention": "norm",
        "smoothing": 3,
        "unit_input": False,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
    },
}
# Images of least side (a map one cell wide), of sides that are no multiple of a stride, larger than when exported.
SIZES = [(1, 10, 10), (1, 10, 203), (1, 47, 11), (1, 64, 64), (2, 75, 101), (3, 17, 130), (1, 161, 240)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, DelfNetwork]]:
    """Export a kind of network once, when it is first asked for."""
    folder = tmp_path_factory.mktemp("onnx")
    made: dict[str, tuple[Path, DelfNetwork]] = {}

    def export(kind: str) -> tuple[Path, DelfNetwork]:
        if kind not in made:
            path, network = folder / f"{kind}.onnx", _network(**NETWORKS[kind])
            told = checkpoint_info(
                kind, architecture=network.trunk.architecture, projection_unit_input=network.projection.unit_input
            )
            export_onnx(path, network, told)
            made[kind] = path, network
        return made[kind]

    return export


@pytest.fixture(autouse=True, scope="module")
def _small_architectures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in SMALL.items():
            patch.setitem(ARCHITECTURES, name, kind)
        yield


@pytest.fixture
def path(exported: Callable[[str], tuple[Path, DelfNetwork]], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copy(exported("delf")[0], tmp_path))


def _network(architecture: str, **options: Any) -> DelfNetwork:
    torch.manual_seed(0)
    network = DelfNetwork(architecture, 40, hidden=8, **options).eval().requires_grad_(False)
    trunk = network.trunk
    for layer in (trunk.layer1, trunk.layer2, trunk.layer3):
        del layer[1:]  # a shorter trunk is exported in half the time
    network.projection.components.copy_(torch.randn(network.projection.components.shape))
    network.projection.mean.copy_(0.02 * torch.randn(network.projection.mean.shape))
    return network


def _images(size: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(size)
    return np.stack([random_photo(rng, size[2], size[1]) for _ in range(size[0])])


def _all_cells(maps: list[CellMap]) -> list[tuple[CellMap, npt.NDArray[np.int64]]]:
    return [(m, np.arange(m.scores.size)) for m in maps]


def _assert_same(ours: Any, images: npt.NDArray[np.uint8], network: DelfNetwork) -> None:
    """Equal but for rounding: scores to 1e-4, features to 1e-4 of the largest, descriptors to 0.99999 (cosine)."""
    theirs = TorchRuntime(network, torch.device("cpu"))
    found, wanted = ours.forward(images), theirs.forward(images)
    assert len(found) == len(wanted) == len(images)
    for f, w in zip(found, wanted, strict=True):
        assert f.scores.dtype == f.features.dtype == np.float32
        assert f.features.shape == tuple(w.features.shape)
        np.testing.assert_allclose(f.scores, w.scores, rtol=1e-4)
        features = w.features.numpy()
        np.testing.assert_allclose(f.features, features, rtol=0, atol=1e-4 * np.abs(features).max())
    descriptors = ours.describe(_all_cells(found))
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, rtol=1e-5)
    assert (descriptors * theirs.describe(_all_cells(wanted))).sum(1).min() >= 0.99999


@pytest.mark.parametrize("kind", NETWORKS)
def test_equals_torch_at_every_size(kind: str, exported: Callable[[str], tuple[Path, DelfNetwork]]) -> None:
    file, network = exported(kind)
    runtime = OnnxRuntime(file, threads=1)
    assert (runtime.dim, runtime.stride) == (network.dim, network.stride)
    assert (runtime.info.name, runtime.name) == (kind, "onnxruntime, CPU")
    for size in SIZES:
        _assert_same(runtime, _images(size), network)


def test_what_projects_to_nothing_stays_nothing(exported: Callable[[str], tuple[Path, DelfNetwork]]) -> None:
    file, network = exported("how")  # features are projected as they are
    mean = network.projection.mean.numpy()[None]
    cells = CellMap(np.ones((1, 1), np.float32), mean)
    assert not OnnxRuntime(file, threads=1).describe([(cells, np.array([0]))]).any()


def test_the_extractor_needs_no_torch_and_agrees_with_it(
    exported: Callable[[str], tuple[Path, DelfNetwork]], tmp_path: Path
) -> None:
    path, network = exported("delf")
    photo = random_photo(np.random.default_rng(4), 200, 150)
    np.save(tmp_path / "photo.npy", photo)
    code = """
import sys
for name in ("torch", "torchvision", "onnx", "onnxscript"):
    sys.modules[name] = None
import numpy as np
import delf_engine as de
from delf_engine.config import load_profile
config = load_profile().extraction.model_copy(update={"max_features": 100})
features = de.Extractor.from_onnx(sys.argv[1], config=config, threads=1)(np.load(sys.argv[2]))
np.savez(sys.argv[3], keypoints=features.keypoints, scores=features.scores, descriptors=features.descriptors)
"""
    out = tmp_path / "out.npz"
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "photo.npy"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    changes = {"max_features": 100, "precision": "fp32"}
    config = load_profile().extraction.model_copy(update=changes)
    onnx_extractor = Extractor.from_onnx(path, config=config, threads=1)
    assert np.array_equal(onnx_extractor(photo).keypoints, found["keypoints"])
    wanted = Extractor(network, config, info=onnx_extractor.info, device="cpu")(photo)
    np.testing.assert_allclose(found["scores"], wanted.scores, rtol=1e-4)
    common = {tuple(k): i for i, k in enumerate(wanted.keypoints.tolist())}
    pairs = [(common[tuple(k)], j) for j, k in enumerate(found["keypoints"].tolist()) if tuple(k) in common]
    assert len(pairs) >= 98
    i, j = np.array(pairs).T
    assert (wanted.descriptors[i] * found["descriptors"][j]).sum(1).min() > 0.9999
    with raises(ConfigError, "fp32"):
        Extractor(onnx_extractor.runtime, config, precision="bf16")
    with raises(ConfigError, "torch"):
        _ = onnx_extractor.network


def test_missing_onnxruntime(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with raises(ConfigError, "delf-engine[onnx]"):
        OnnxRuntime(path)


def test_bad_options(path: Path) -> None:
    with raises(ConfigError, "threads", "0"):
        OnnxRuntime(path, threads=0)


# -------------------------------------------------------------------------------------------------- damaged files


def _cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def _changed(path: Path, change: Callable[[Any], None], *, seal: bool) -> None:
    """Change the metadata of a file as another program would, or with `seal` as another version of ours."""
    model = onnx.load(path)
    properties = {p.key: p.value for p in model.metadata_props if p.key == "delf_engine"}
    del model.metadata_props[:]
    change(properties)
    onnx.helper.set_model_props(model, properties)
    data = model.SerializeToString()
    path.write_bytes(_sealed(data) if seal else data)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _replace(old: str, new: str) -> Callable[[dict[str, str]], None]:
    def change(properties: dict[str, str]) -> None:
        assert old in properties["delf_engine"]
        properties["delf_engine"] = properties["delf_engine"].replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda p: p.unlink(), "cannot be read"),
        (lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
        (lambda p: p.write_bytes(b""), "not an ONNX file"),
        (lambda p: p.write_text("<html>not found</html>"), "not an ONNX file"),
        (lambda p: _cut(p, 5000), "onnxruntime"),
        (lambda p: _cut(p, -1), "onnxruntime"),
        (lambda p: _cut(p, -88), "damaged"),
        (_flip, "damaged"),
        (lambda p: _changed(p, lambda _: None, seal=False), "damaged"),
        (lambda p: _changed(p, dict.clear, seal=True), "not written by this package"),
        (lambda p: _changed(p, _replace('"format_version":1', '"format_version":9'), seal=True), "version 9"),
        (lambda p: _changed(p, _replace('"stride"', '"strive"'), seal=True), "strive"),
        (lambda p: _changed(p, _replace('"dim":40', '"dim":0'), seal=True), "dim"),
        (lambda p: _changed(p, _replace("{", "["), seal=True), "damaged metadata"),
    ],
)
def test_damaged_files(path: Path, damage: Callable[[Path], object], fact: str) -> None:
    damage(path)
    with raises(CheckpointError, f"{path}: ", fact):
        OnnxRuntime(path)
