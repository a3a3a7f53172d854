"""HOW and torchvision, from files that torch.save and safetensors write."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from delf_engine.errors import CheckpointError
from delf_engine.interchange.published.convert import assemble
from delf_engine.interchange.published.network import PublishedNetwork
from delf_engine.interchange.published.torch_files import read_how, read_torchvision
from delf_engine.model import load_checkpoint, save_checkpoint
from delf_engine.model.network import DelfNetwork
from helpers import raises

State = dict[str, torch.Tensor]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def random_state(name: str) -> State:
    """A torchvision network's weights, with batch norms that do something."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.4, 0.8)
            module.bias.data.uniform_(-0.2, 0.2)
    return dict(net.state_dict())


@pytest.fixture(scope="module")
def resnet18() -> State:
    return random_state("resnet18")


def how_file(path: Path, state: State, architecture: str = "resnet18", skip: int = 0, **changes: Any) -> Path:
    """A checkpoint as how/stages/train.py saves it."""
    children = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"][: 8 - skip]
    channels = 512 if skip == 0 else 256
    generator = torch.Generator().manual_seed(1)
    features = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        if first in children:
            features[f"features.{children.index(first)}.{rest}"] = value
    params = {
        "architecture": architecture,
        "pretrained": True,
        "skip_layer": skip,
        "dim_reduction": {"dim": 16},
        "smoothing": {"kernel_size": 3},
        "runtime": {"mean_std": [list(MEAN), list(STD)], "image_size": 1024, "features_num": 1000},
    }
    scores: dict[str, Any] = defaultdict(list)
    scores["train_loss"].append((1, 0.25))
    scores["local_descriptor"] = defaultdict(list, val_eccv20=[(5, np.float64(0.88)), (10, np.float32(0.5))])
    content = {
        "epoch": 5,
        "meta": {"architecture": architecture, "backbone_dim": channels, "outputdim": 16},
        "state_dict": {
            **features,
            "dim_reduction.weight": torch.randn(16, channels, 1, 1, generator=generator),
            "dim_reduction.bias": torch.randn(16, generator=generator),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-6, "params": [0, 1]}]},
        "best_score": np.float64(0.88),
        "scores": scores,
        "net_params": {**params, **changes},
        "_version": "how/2020",
    }
    torch.save(content, path)
    return path


def torchvision_map(pixels: npt.NDArray[Any], state: State, layers: int) -> npt.NDArray[Any]:
    """What torchvision's own ResNet-18 of these weights gives for normalised pixels (H, W, 3)."""
    net = torchvision.models.resnet18(weights=None).double().eval()
    net.load_state_dict(state)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")[: 4 + layers]
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.inference_mode():
        for name in names:
            x = getattr(net, name)(x)
    return x[0].permute(1, 2, 0).numpy()


def load(parts: PublishedNetwork, folder: Path) -> DelfNetwork:
    path = folder / "imported.safetensors"
    save_checkpoint(path, *assemble(parts, "imported"), half=False)
    network, _ = load_checkpoint(path)
    assert isinstance(network, DelfNetwork)
    return network


def smoothed(x: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """The mean over a window, of what of it lies inside."""
    r = side // 2
    out = np.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1].mean((0, 1))
    return out


@pytest.mark.parametrize("skip", [0, 1])
def test_how_equals_its_definition(resnet18: State, tmp_path: Path, skip: int) -> None:
    path = how_file(tmp_path / "how.pth", resnet18, skip=skip)
    network = load(read_how(path), tmp_path)
    assert (network.stride, network.dim) == (32 >> skip, 16)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 67, 3), dtype=np.uint8)
    conv = torchvision_map((pixels / 255 - MEAN) / STD, resnet18, 4 - skip)
    with torch.inference_mode():
        features, scores = network(network.normalise(torch.from_numpy(pixels)[None]))
        descriptors = network.projection(features[0].flatten(1).T).numpy()
    np.testing.assert_allclose(scores[0].numpy(), np.linalg.norm(conv, axis=2), rtol=1e-3)
    mean = smoothed(conv, 3)
    np.testing.assert_allclose(features[0].permute(1, 2, 0), mean, rtol=1e-3, atol=1e-4 * mean.max())
    saved = torch.load(path, weights_only=False)["state_dict"]
    reduced = mean.reshape(-1, mean.shape[2]) @ saved["dim_reduction.weight"][:, :, 0, 0].numpy().T
    reduced += saved["dim_reduction.bias"].numpy()
    np.testing.assert_allclose(descriptors, reduced / np.linalg.norm(reduced, axis=1, keepdims=True), atol=1e-4)


def test_how_of_the_older_format(resnet18: State, tmp_path: Path) -> None:
    new = how_file(tmp_path / "new.pth", resnet18)
    content = torch.load(new, weights_only=False)
    for key in ("net_params", "_version"):
        del content[key]
    content["meta"] = {
        "architecture": "resnet18", "skip_layer": 0, "dim": 16, "feat_pool_k": 3, "mean": MEAN, "std": STD,
    }  # fmt: skip
    state = content["state_dict"]
    for part in ("weight", "bias"):
        state[f"whiten.{part}"] = state.pop(f"dim_reduction.{part}")
    torch.save(content, tmp_path / "old.pth")
    old, expected = (assemble(read_how(tmp_path / f"{name}.pth"), "how") for name in ("old", "new"))
    assert old[1] == expected[1]
    assert all(np.array_equal(old[0][key], value) for key, value in expected[0].items())


def test_how_of_resnet50_cut_at_conv4(tmp_path: Path) -> None:
    state = random_state("resnet50")
    content = torch.load(how_file(tmp_path / "how.pth", state, "resnet50", 1), weights_only=False)
    del content["state_dict"]["dim_reduction.weight"], content["state_dict"]["dim_reduction.bias"]
    torch.save(content, tmp_path / "how.pth")
    _, info = assemble(read_how(tmp_path / "how.pth"), "how")
    assert (info.architecture, info.dim, info.attention, info.smoothing) == ("resnet50", 1024, "norm", 3)
    assert info.profile == "how"
    assert info.projection_unit_input  # nothing is projected, so the length does not matter


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"smoothing": {"kernel_size": 4}}, "4 cells"),
        ({"architecture": "resnet50"}, "resnet50"),
        ({"skip_layer": 2}, "last 2"),
        ({"architecture": "vgg16", "skip_layer": 1}, "vgg16"),
        ({"runtime": {"mean_std": [[1, 2], [1, 2, 3]]}}, "how.pth"),
        ({"architecture": "resnet34", "skip_layer": 1}, "resnet34"),
    ],
)
def test_how_that_cannot_be_expressed(resnet18: State, tmp_path: Path, changes: Any, fact: str) -> None:
    with raises(CheckpointError, fact):
        assemble(read_how(how_file(tmp_path / "how.pth", resnet18, **changes)), "how")


def test_files_that_are_not_how(resnet18: State, tmp_path: Path) -> None:
    path, params = tmp_path / "x.pth", {"architecture": "resnet18"}
    contents: list[tuple[Any, str]] = [
        (resnet18, "x.pth"),
        ({"net_params": params, "state_dict": {"features.0.weight": 3}}, "x.pth"),
        ({"net_params": params, "state_dict": {"features.11.weight": torch.zeros(1)}}, "features.11.weight"),
    ]
    for content, fact in contents:
        torch.save(content, path)
        with raises(CheckpointError, fact):
            read_how(path)


# ----------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvision_equals_itself(resnet18: State, tmp_path: Path, ending: str, prefix: str) -> None:
    path = tmp_path / f"resnet18.{ending}"
    state = {prefix + name: value for name, value in resnet18.items()}
    if ending == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if not prefix else {"state_dict": state}, path)
    network = load(read_torchvision(path), tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = torchvision_map((pixels / 255 - mean) / std, resnet18, 3)
    with torch.inference_mode():
        features, scores = network(network.normalise(torch.from_numpy(pixels)[None]))
        descriptors = network.projection(features[0].flatten(1).T).numpy()
    np.testing.assert_allclose(features[0].permute(1, 2, 0), expected, rtol=1e-3, atol=1e-4 * expected.max())
    np.testing.assert_allclose(scores[0], np.linalg.norm(expected, axis=2), rtol=1e-3)
    flat = expected.reshape(-1, 256)
    np.testing.assert_allclose(descriptors, flat / np.linalg.norm(flat, axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_depth_is_told_by_the_names(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        names = list(getattr(torchvision.models, name)(weights=None).state_dict())
    torch.save({key: torch.zeros(1) for key in names}, tmp_path / "x.pth")
    assert read_torchvision(tmp_path / "x.pth").architecture == name


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, "bomb.pth")
    with raises(CheckpointError, "posix.mkdir"):
        read_torchvision("bomb.pth")
    assert not Path("exploded").exists()


def test_files_that_are_not_weights(resnet18: State, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with raises(CheckpointError, "x.pth"):
        read_torchvision(path)
    for name, junk in (
        ("x.pth", b""),
        ("x.pth", b"junk"),
        ("x.pth", b"PK\x03\x04junk"),
        ("x.safetensors", b"junk"),
    ):
        (tmp_path / name).write_bytes(junk)
        with raises(CheckpointError, name):
            read_torchvision(tmp_path / name)
    for content, fact in (([1, 2], "list"), ({"a": torch.zeros(1)}, "resnet101")):
        torch.save(content, path)
        with raises(CheckpointError, fact):
            read_torchvision(path)
    torch.save({name: value for name, value in resnet18.items() if name != "layer2.1.bn2.weight"}, path)
    with raises(CheckpointError, "layer2.1.bn2.weight"):
        assemble(read_torchvision(path), "x")
