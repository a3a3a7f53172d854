"""DELF and DELG of TensorFlow: what TensorFlow answers, this package's networks answer, too."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from delf_engine.errors import CheckpointError
from delf_engine.interchange.published.convert import assemble
from delf_engine.interchange.published.delf import fold, keras_network, read_delf_model, slim_network
from delf_engine.interchange.published.network import HALF_RANGE, PublishedNetwork, from_affine
from delf_engine.model import load_checkpoint, save_checkpoint
from delf_engine.model.backbones import build_trunk
from delf_engine.model.network import DelfNetwork
from helpers import raises
from interchange.published.data.weights import NORM, image, keras_weights, slim_weights

DATA = Path(__file__).parent / "data"
# Odd and even sides at every depth: SAME pads them differently.
ANSWERED = [((49, 66), 32), ((52, 39), 32), ((52, 71), 16)]

Variables = Mapping[str, npt.NDArray[Any]]


def keras(weights: Variables, *, subsampled: bool = True, stride: int | None = None) -> PublishedNetwork:
    def has(path: str) -> bool:
        if path == "backbone/subsampling_layer":
            return subsampled
        return any(name.startswith(f"{path}/") for name in weights)

    return keras_network(weights.get, has, "weights", stride)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], DelfNetwork]:
    """Both networks in full width, saved and loaded, by their library and stride."""
    out, path = {}, tmp_path_factory.mktemp("delf") / "imported.safetensors"
    slim, delg = slim_weights(0), keras_weights(1)
    for stride in (16, 32):
        published = {"slim": slim_network(slim, "weights", stride), "keras": keras(delg, subsampled=stride == 32)}
        for library, parts in published.items():
            save_checkpoint(path, *assemble(parts, "delf"), half=False)
            network = load_checkpoint(path)[0]
            assert isinstance(network, DelfNetwork)
            assert network.trunk.architecture == f"resnet50_{library}" + "_s32" * (stride == 32)
            assert network.stride == stride
            out[library, stride] = network
    return out


# ----------------------------------------------------------------------------------------- what TensorFlow answers


@pytest.mark.parametrize("library", ["slim", "keras"])
@pytest.mark.parametrize(("size", "stride"), ANSWERED)
def test_networks_equal_tensorflow(
    networks: dict[tuple[str, int], DelfNetwork], library: str, size: tuple[int, int], stride: int
) -> None:
    """Of its answers, the file has every eighth channel of the features and all of the others."""
    network, name = networks[library, stride], f"{library}:{size[0]}x{size[1]}"
    with np.load(DATA / "expected.npz") as file:
        expected = {
            part: file[f"{part}:{name}"] for part in ("features", "scores", "reduced") if f"{part}:{name}" in file
        }
    with torch.inference_mode():
        features, scores = network(network.normalise(torch.from_numpy(image(*size))[None]))
        descriptors = network.projection(features[0].flatten(1).T).numpy()
    want = expected["features"]
    got = features[0].permute(1, 2, 0).numpy()
    assert float(np.ptp(expected["scores"])) > 0.1
    np.testing.assert_allclose(got[:, :, ::8], want, rtol=1e-4, atol=1e-5 * float(np.abs(want).max()))
    np.testing.assert_allclose(scores[0].numpy(), expected["scores"], rtol=1e-4)
    if library == "keras":  # DELG's descriptors: the autoencoder's inner layer, L2-normalised
        reduced = expected["reduced"].reshape(-1, 24)
        np.testing.assert_allclose(
            descriptors, reduced / np.linalg.norm(reduced, axis=1, keepdims=True), atol=2e-5
        )


@pytest.mark.parametrize("model", ["slim_delf", "keras_delg", "keras_training/delf_weights-1"])
def test_models_that_tensorflow_saved(tmp_path: Path, model: str) -> None:
    with tarfile.open(DATA / "files.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    with raises(CheckpointError, "net/float16"):
        read_delf_model(tmp_path / "sharded" / "model")
    got = read_delf_model(tmp_path / model)
    if model == "slim_delf":
        want = slim_network(slim_weights(0, width=32), "weights")
    elif model == "keras_delg":
        want = keras(keras_weights(1, width=32))
    else:
        want = keras(keras_weights(2, width=32, autoencoder=False), subsampled=False)
    for name in ("architecture", "profile", "normalisation", "library"):
        assert getattr(got, name) == getattr(want, name)
    for ours, theirs in ((got.trunk, want.trunk), (got.attention, want.attention)):
        assert ours is not None
        assert theirs is not None
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert (got.reduction is None) == (want.reduction is None) == (model != "keras_delg")
    other = 16 if got.architecture.endswith("_s32") else 32
    stem = got.architecture.removesuffix("_s32")
    assert read_delf_model(tmp_path / model, stride=other).architecture == stem + "_s32" * (other == 32)


# ------------------------------------------------------------------------------------------------- other layouts


def test_slim_resnet_101() -> None:
    root = "module/resnet_v1_101"  # under a scope of its own, as in a hub module
    weights = slim_weights(0, last=23, width=16, root=root)
    published = slim_network(weights, "weights")
    assert (published.architecture, published.normalisation) == ("resnet101_slim_s32", HALF_RANGE)
    with torch.device("meta"):  # names alone
        names = [name for name in build_trunk("resnet101_slim_s32").state_dict() if name.endswith("weight")]
    folded = [name.removesuffix("weight") for name in names if "conv" in name or "downsample.0" in name]
    assert set(published.trunk) == {f"{name}{part}" for name in folded for part in ("weight", "bias")}
    scope = f"{root}/block3/unit_23/bottleneck_v1/conv2"
    norm = {key: weights[f"{scope}/BatchNorm/{key}"] for key in NORM}
    for name, value in fold("layer3.22.conv2", weights[f"{scope}/weights"], None, norm, 1e-5, "x").items():
        np.testing.assert_array_equal(published.trunk[name], value)


def test_attention_under_another_scope() -> None:
    narrow = slim_weights(0, width=16)
    renamed = {
        name.replace("attention_block/attention/compute", "attonly/attention"): narrow[name] for name in narrow
    }
    moved, same = (slim_network(weights, "weights").attention for weights in (renamed, narrow))
    assert moved is not None
    assert same is not None
    assert all(np.array_equal(moved[name], value) for name, value in same.items())


def test_models_that_are_not_delf() -> None:
    narrow = slim_weights(0, width=16)
    norm = "resnet_v1_50/conv1/BatchNorm"
    wrong: list[tuple[str, Variables]] = [
        ("dense/kernel", {"dense/kernel": np.zeros((2, 2), np.float32)}),
        ("none", {}),
        ("autoencoder", {**narrow, "autoencoder/conv1/weights": np.zeros(1)}),
        ("0 pairs", {name: value for name, value in narrow.items() if "attention" not in name}),
        ("5 units", {name: value for name, value in narrow.items() if "block3/unit_6" not in name}),
        ("beta", {name: value for name, value in narrow.items() if name != f"{norm}/beta"}),
        ("resnet_v1_50/conv1", {**narrow, f"{norm}/beta": np.zeros(3, np.float32)}),
    ]
    for fact, weights in wrong:
        with raises(CheckpointError, fact):
            slim_network(weights, "weights")
    with raises(CheckpointError, "8"):
        slim_network(narrow, "weights", stride=8)
    with raises(CheckpointError, "conv1.weight", "[4, 3, 7, 7]"):
        assemble(slim_network(narrow, "weights"), "narrow")
    for drop, fact in (
        ("attention/conv2/kernel", "attention/conv2/kernel"),
        ("l3b/bn2c/moving_mean", "backbone/l3b/conv2c: its batch norm has no moving_mean"),
        ("backbone/l4", "0 units"),
    ):
        with raises(CheckpointError, fact):
            keras({path: value for path, value in keras_weights(1, width=32).items() if drop not in path})


# ----------------------------------------------------------------------------------------------------- parts


def test_fold_equals_the_two_layers() -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(1, 1, 4, 3)), rng.normal(size=3)
    norm = {"beta": rng.normal(size=3), "moving_mean": rng.normal(size=3), "moving_variance": rng.uniform(0, 1, 3)}
    x = rng.normal(size=(10, 4))
    for gamma in ({}, {"gamma": rng.normal(size=3)}):
        weight, offset = fold("x", kernel, bias, {**norm, **gamma}, 0.1, "m").values()
        y = (x @ kernel[0, 0] + bias - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 0.1)
        y = y * gamma.get("gamma", 1) + norm["beta"]
        np.testing.assert_allclose(x @ weight[:, :, 0, 0].T + offset, y, atol=1e-5)
    weight, offset = fold("x", kernel, None, None, 0.1, "m").values()
    np.testing.assert_array_equal(weight[:, :, 0, 0].T, kernel[0, 0].astype(np.float32))
    np.testing.assert_array_equal(offset, 0)


def test_affine_as_mean_and_components() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 7)), rng.normal(size=3)
    reduction = from_affine(weight, bias, "m")
    x = rng.normal(size=(5, 7))
    np.testing.assert_allclose((x - reduction.mean) @ reduction.components.T, x @ weight.T + bias, atol=1e-5)
    assert not reduction.unit_input
    for wrong, offset in (
        (np.ones((2, 7)), np.array([1.0, 2.0])),  # no mean gives both
        (np.full((2, 7), np.nan), np.zeros(2)),
        (np.zeros((7, 3)), np.zeros(7)),
        (np.zeros((3, 7)), np.zeros(4)),
        (np.zeros(3), np.zeros(3)),
    ):
        with raises(CheckpointError, "m:"):
            from_affine(wrong, offset, "m")
