"""DELF and DELG of TensorFlow, from files of that format, layer by layer against plain NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from delf_engine.errors import CheckpointError, FormatError
from delf_engine.importing.assemble import assemble
from delf_engine.importing.crc32c import crc32c
from delf_engine.importing.delf import read_delf
from delf_engine.importing.parts import HALF_RANGE, fold, from_affine
from delf_engine.model import load_checkpoint
from delf_engine.model.backbones import ARCHITECTURES, Trunk
from delf_engine.model.network import DelfNetwork
from importing.numpy_resnet import (
    Variables,
    keras_forward,
    keras_variables,
    slim_forward,
    slim_units,
    slim_variables,
)
from importing.tensorflow_files import GRAPH, object_graph, write_bundle

# Odd and even sides at every depth: SAME pads them differently.
SIZES = [(49, 66), (52, 39)]


def image(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def load(source: Path, folder: Path, **options: int) -> DelfNetwork:
    path = folder / "imported.safetensors"
    assemble(read_delf(source, **options), name="delf").save(path)
    network, _ = load_checkpoint(path)
    assert isinstance(network, DelfNetwork)
    return network


def stages(network: DelfNetwork, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """Every stage of a network, (h, w, C), by the names that the oracles use."""
    trunk, out = network.trunk, {}
    with torch.inference_mode():
        x = network.normalise(torch.from_numpy(pixels)[None])
        out["conv1"] = trunk.relu(trunk.bn1(trunk.conv1(trunk.pad(x))))
        y = out["pool1"] = trunk.maxpool(out["conv1"])
        for number, layer in enumerate((trunk.layer1, trunk.layer2, trunk.layer3), 1):
            for unit, block in enumerate(layer):
                y = out[f"layer{number}.{unit}"] = block(y)
        out["features"], scores = network(x)
    arrays = {key: value[0].permute(1, 2, 0).numpy() for key, value in out.items()}
    return {**arrays, "scores": scores[0].numpy()}


def assert_close(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float64], what: str) -> None:
    assert got.shape == expected.shape, what
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5 * float(np.abs(expected).max()), err_msg=what)


# ----------------------------------------------------------------------------------------------------- slim


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Variables, DelfNetwork]:
    folder = tmp_path_factory.mktemp("slim")
    variables = slim_variables(np.random.default_rng(0))
    write_bundle(folder / "variables" / "variables", variables, crc=crc32c)
    (folder / "saved_model.pb").write_bytes(b"not read")
    return folder, variables, load(folder, folder)


@pytest.mark.parametrize("size", SIZES)
def test_slim_layer_by_layer(slim: tuple[Path, Variables, DelfNetwork], size: tuple[int, int]) -> None:
    _, variables, network = slim
    pixels = image(*size)
    expected, got = slim_forward(pixels, variables), stages(network, pixels)
    for block, unit, _, last in slim_units():
        name = f"layer{block}.{unit - 1}"
        if last:  # slim strides here, this package in the next stage
            got[name] = got[name][::2, ::2]
    for name, value in expected.items():
        assert_close(got[name], value, name)
    assert float(np.ptp(expected["scores"])) > 0.1


def test_slim_without_the_last_stride(slim: tuple[Path, Variables, DelfNetwork]) -> None:
    folder, variables, network = slim
    fine = load(folder, folder, stride=16)
    assert (network.stride, fine.stride) == (32, 16)
    assert (network.trunk.architecture, fine.trunk.architecture) == ("resnet50_slim_s32", "resnet50_slim")
    pixels = image(52, 71)
    got = stages(fine, pixels)
    expected = slim_forward(pixels, variables)
    assert_close(got["features"][::2, ::2], expected["features"], "features")
    assert_close(got["scores"][::2, ::2], expected["scores"], "scores")
    assert got["scores"].shape == (4, 5)


def test_slim_resnet_101(tmp_path: Path) -> None:
    root = "module/resnet_v1_101"  # under a scope of its own, as in a hub module
    variables = slim_variables(np.random.default_rng(0), units=23, width=16, root=root)
    source = write_bundle(tmp_path / "m", variables, crc=crc32c)
    parts = read_delf(source)
    assert parts.architecture == "resnet101_slim_s32"
    assert parts.normalisation == HALF_RANGE
    assert set(parts.trunk) == set(_folded_names("resnet101_slim_s32"))
    weight, bias = fold(
        variables[f"{root}/block3/unit_23/bottleneck_v1/conv2/weights"],
        None,
        {
            k: variables[f"{root}/block3/unit_23/bottleneck_v1/conv2/BatchNorm/{k}"]
            for k in ("gamma", "beta", "moving_mean", "moving_variance")
        },
        1e-5,
    )
    np.testing.assert_array_equal(parts.trunk["layer3.22.conv2.weight"], weight)
    np.testing.assert_array_equal(parts.trunk["layer3.22.conv2.bias"], bias)


def _folded_names(architecture: str) -> list[str]:
    names = []
    with torch.device("meta"):  # names alone
        trunk = Trunk(architecture)
    for name in trunk.state_dict():
        if name.endswith("weight") and ("conv" in name or "downsample.0" in name):
            names += [name, name.removesuffix("weight") + "bias"]
    return names


@pytest.fixture
def narrow() -> dict[str, npt.NDArray[np.generic]]:
    return dict(slim_variables(np.random.default_rng(0), width=16))


def test_another_width_is_refused(narrow: dict[str, npt.NDArray[np.generic]], tmp_path: Path) -> None:
    parts = read_delf(write_bundle(tmp_path / "m", narrow, crc=crc32c))
    with pytest.raises(CheckpointError, match=r"conv1\.weight has shape \(4, 3, 7, 7\), \(64, 3, 7, 7\) is"):
        assemble(parts, name="narrow")


def test_attention_under_another_scope(narrow: dict[str, npt.NDArray[np.generic]], tmp_path: Path) -> None:
    moved = {
        name.replace("attention_block/attention/compute", "attonly/attention"): v for name, v in narrow.items()
    }
    parts = read_delf(write_bundle(tmp_path / "m", moved, crc=crc32c))
    same = read_delf(write_bundle(tmp_path / "n", narrow, crc=crc32c))
    assert parts.attention is not None
    assert same.attention is not None
    for name, value in same.attention.items():
        np.testing.assert_array_equal(parts.attention[name], value)


def test_slim_models_that_are_not_delf(narrow: dict[str, npt.NDArray[np.generic]], tmp_path: Path) -> None:
    def refused(message: str, variables: dict[str, npt.NDArray[np.generic]]) -> None:
        with pytest.raises(CheckpointError, match=message):
            read_delf(write_bundle(tmp_path / "m", variables, crc=crc32c))

    refused("neither DELF nor DELG", {"dense/kernel": np.zeros((2, 2), np.float32)})
    refused("neither DELF nor DELG", {})
    refused("an autoencoder, of which no public code", {**narrow, "autoencoder/conv1/weights": np.zeros(1)})
    no_head = {name: value for name, value in narrow.items() if "attention" not in name}
    refused("its attention head should be", no_head)
    short = {name: value for name, value in narrow.items() if "block3/unit_6" not in name}
    refused(r"conv4 has 5 units; 6 \(ResNet-50\) and 23", short)
    norm = "resnet_v1_50/conv1/BatchNorm"
    refused(
        "batch norm of resnet_v1_50/conv1 has no beta", {k: v for k, v in narrow.items() if k != f"{norm}/beta"}
    )
    refused("shapes of resnet_v1_50/conv1 do not fit", {**narrow, f"{norm}/beta": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match="a stride of 8 is not one"):
        read_delf(write_bundle(tmp_path / "m", narrow, crc=crc32c), stride=8)
    del narrow["resnet_v1_50/block2/unit_2/bottleneck_v1/conv2/weights"]
    with pytest.raises(
        FormatError, match="has no variable resnet_v1_50/block2/unit_2/bottleneck_v1/conv2/weights"
    ):
        read_delf(write_bundle(tmp_path / "m", narrow, crc=crc32c))


# ----------------------------------------------------------------------------------------------------- Keras


def write_keras(prefix: Path, variables: Variables, *, subsampled: bool, drop: str = "") -> Path:
    """A SavedModel of the training code: variables are numbered, only the graph tells which is which."""
    names = {
        f"_model/{path}": f"_model/variables/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i, path in enumerate(variables)
    }
    tensors = dict(zip(names.values(), variables.values(), strict=True))
    paths: dict[str, str | None] = {path: key for path, key in names.items() if not drop or drop not in path}
    if subsampled:
        paths["_model/backbone/subsampling_layer"] = None
    return write_bundle(prefix, {**tensors, GRAPH: object_graph(paths)}, crc=crc32c)


@pytest.fixture(scope="module")
def delg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Variables, DelfNetwork]:
    folder = tmp_path_factory.mktemp("keras")
    variables = keras_variables(np.random.default_rng(1), autoencoder=True)
    source = write_keras(folder / "variables" / "variables", variables, subsampled=True)
    return source, variables, load(folder, folder)


@pytest.mark.parametrize("size", SIZES)
def test_keras_layer_by_layer(delg: tuple[Path, Variables, DelfNetwork], size: tuple[int, int]) -> None:
    _, variables, network = delg
    assert network.trunk.architecture == "resnet50_keras_s32"
    pixels = image(*size)
    expected, got = keras_forward(pixels, variables, subsampled=True), stages(network, pixels)
    reduced = expected.pop("reduced")
    for name, value in expected.items():
        assert_close(got[name], value, name)
    # DELG's descriptors: the autoencoder's inner layer, L2-normalised.
    with torch.inference_mode():
        descriptors = network.projection(torch.from_numpy(got["features"].reshape(-1, 1024))).numpy()
    flat = reduced.reshape(-1, reduced.shape[2])
    np.testing.assert_allclose(descriptors, flat / np.linalg.norm(flat, axis=1, keepdims=True), atol=2e-5)
    assert network.dim == 24


def test_keras_tells_its_stride(delg: tuple[Path, Variables, DelfNetwork], tmp_path: Path) -> None:
    source, variables, _ = delg
    without = {path: value for path, value in variables.items() if "autoencoder" not in path}
    plain = write_keras(tmp_path / "plain", without, subsampled=False)
    parts = read_delf(plain)
    assert parts.architecture == "resnet50_keras"
    assert parts.reduction is None
    assert (parts.profile, read_delf(source).profile) == ("delf", "delg")
    assert read_delf(plain, stride=32).architecture == "resnet50_keras_s32"
    assert read_delf(source, stride=16).architecture == "resnet50_keras"
    network = load(plain, tmp_path)
    pixels = image(52, 71)
    expected, got = keras_forward(pixels, without, subsampled=False), stages(network, pixels)
    for name in ("features", "scores"):
        assert_close(got[name], expected[name], name)
    assert network.dim == 1024


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("attention/conv2/kernel", "has no attention/conv2/kernel"),
        ("l3b/bn2c/moving_mean", "batch norm of backbone/l3b/conv2c has no moving_mean"),
        ("backbone/l4", "conv4 has 0 units"),
        ("backbone", "neither DELF nor DELG"),
    ],
)
def test_keras_models_that_lack_something(
    delg: tuple[Path, Variables, DelfNetwork], tmp_path: Path, drop: str, message: str
) -> None:
    small = {path: value[..., :1] for path, value in delg[1].items()}  # nothing looks at the widths so far
    with pytest.raises(CheckpointError, match=message):
        read_delf(write_keras(tmp_path / "m", small, subsampled=drop != "backbone", drop=drop))


# ----------------------------------------------------------------------------------------------------- parts


def test_fold_equals_the_two_layers() -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(1, 1, 4, 3)), rng.normal(size=3)
    norm = {"beta": rng.normal(size=3), "moving_mean": rng.normal(size=3), "moving_variance": rng.uniform(0, 1, 3)}
    x = rng.normal(size=(10, 4))
    for gamma in ({}, {"gamma": rng.normal(size=3)}):
        weight, offset = fold(kernel, bias, {**norm, **gamma}, 0.1)
        y = x @ kernel[0, 0] + bias
        y = (y - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 0.1) * gamma.get("gamma", 1) + norm[
            "beta"
        ]
        np.testing.assert_allclose(x @ weight[:, :, 0, 0].T + offset, y, atol=1e-5)
    weight, offset = fold(kernel, None, None, 0.1)
    np.testing.assert_array_equal(weight[:, :, 0, 0].T, kernel[0, 0].astype(np.float32))
    np.testing.assert_array_equal(offset, 0)


def test_affine_as_mean_and_components() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 7)), rng.normal(size=3)
    reduction = from_affine(weight, bias, "m")
    x = rng.normal(size=(5, 7))
    np.testing.assert_allclose((x - reduction.mean) @ reduction.components.T, x @ weight.T + bias, atol=1e-5)
    assert not reduction.unit_input
    with pytest.raises(CheckpointError, match="cannot be written as a mean"):
        from_affine(np.ones((2, 7)), np.array([1.0, 2.0]), "m")
    with pytest.raises(CheckpointError, match="not finite"):
        from_affine(np.full((2, 7), np.nan), np.zeros(2), "m")
    for shape, rows in (((7, 3), 7), ((3, 7), 4), ((3,), 3)):
        with pytest.raises(CheckpointError, match="are needed"):
            from_affine(np.zeros(shape), np.zeros(rows), "m")


def test_every_published_trunk_has_both_strides() -> None:
    for name in ("resnet50_slim", "resnet101_slim", "resnet50_keras"):
        assert (ARCHITECTURES[name].stride, ARCHITECTURES[f"{name}_s32"].stride) == (16, 32)
