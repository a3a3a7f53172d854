"""The published DELF and DELG: TensorFlow models of the slim library (2017 to 2020) and of Keras (since).

Both are ResNet v1 with a 1x1 attention head on conv4. slim has the stride of a stage on its last 3x3, Keras on the
first 1x1 of the next; the two are the same function, with the stride after conv4 as subsampling of its output.
They differ in padding (see `Architecture`) and in the epsilon of batch norm. Sources: tensorflow/models,
research/delf/delf/python/delf_v1.py and training/model; research/slim/nets.
"""

from __future__ import annotations

import itertools
import os
import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError
from delf_engine.interchange.published.network import HALF_RANGE, PublishedNetwork, Reduction, from_affine
from delf_engine.interchange.published.tensorflow_files import (
    OBJECT_GRAPH,
    ObjectGraph,
    TensorBundle,
    bundle_prefix,
)

_SLIM_EPSILON = 1e-5  # resnet_utils.resnet_arg_scope
_KERAS_EPSILON = 1e-3  # the default of Keras, which the training code leaves
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_UNITS = (3, 4)  # of conv2 and conv3; conv4 tells the depth
_DEPTHS = {6: 50, 23: 101}

Array = npt.NDArray[Any]
Weights = dict[str, npt.NDArray[np.float32]]


def read_delf_model(source: str | os.PathLike[str], *, stride: int | None = None) -> PublishedNetwork:
    """Read a DELF or DELG model: a SavedModel's folder, or the prefix of a checkpoint of the training code.

    The stride of the feature map is 16 or 32; None: as the model was saved where it tells (Keras), else 32,
    DELF's. A `FormatError` if it is no TensorFlow model, or damaged; a `CheckpointError` if it is neither DELF nor
    DELG, or of a kind that this package's network cannot express.
    """
    bundle = TensorBundle(bundle_prefix(source))
    where = str(bundle.prefix)
    if OBJECT_GRAPH in bundle:
        graph = ObjectGraph(bundle.text(OBJECT_GRAPH), f"{where}.index: {OBJECT_GRAPH}")
        root = graph.find(("backbone", "attention"))
        if root is not None:

            def variable(path: str) -> Array | None:
                key = graph.key(root, path)
                return None if key is None else bundle[key]

            return keras_network(variable, lambda path: graph.child(root, path) is not None, where, stride)
    return slim_network(bundle, where, stride)


def slim_network(tensors: Mapping[str, Array], where: str, stride: int | None = None) -> PublishedNetwork:
    """Take a model of slim apart, given its variables by name; errors as `read_delf_model`, naming `where`."""
    roots = sorted(
        match[1] for name in tensors if (match := re.fullmatch(r"((?:.*/)?resnet_v1_\d+)/conv1/weights", name))
    )
    if len(roots) != 1:
        raise CheckpointError(
            f"{where}: neither DELF nor DELG: it should have one variable resnet_v1_50/conv1/weights, or "
            f"objects named backbone and attention; its variables are {', '.join([*tensors][:5]) or 'none'}, ..."
        )
    if any("autoencoder" in name for name in tensors):
        raise CheckpointError(
            f"{where}: has a trunk of slim and an autoencoder, of which no public code tells the "
            "layout; only models of the Keras training code are read with theirs"
        )
    units = _unit_count(lambda i: f"{roots[0]}/block3/unit_{i + 1}/bottleneck_v1/conv1/weights" in tensors, where)

    def convolution(scope: str, name: str) -> Weights:
        bias = tensors[f"{scope}/biases"] if f"{scope}/biases" in tensors else None  # noqa: SIM401 - no KeyError
        norm = {key: tensors[path] for key in _NORM if (path := f"{scope}/BatchNorm/{key}") in tensors}
        return fold(name, tensors[f"{scope}/weights"], bias, norm or None, _SLIM_EPSILON, f"{where}: {scope}")

    trunk = convolution(f"{roots[0]}/conv1", "conv1")
    for name, layer, unit, part in _layers(units):
        scope = f"{roots[0]}/block{layer}/unit_{unit + 1}/bottleneck_v1"
        trunk |= convolution(f"{scope}/{('shortcut', 'conv1', 'conv2', 'conv3')[part]}", name)
    # The scope of the head is attention_block/attention/compute in the public code.
    scopes = {name[: -len("/conv2/weights")] for name in tensors if re.search("attention.*/conv2/weights$", name)}
    heads = [scope for scope in scopes if f"{scope}/conv1/weights" in tensors]
    if len(heads) != 1:
        raise CheckpointError(
            f"{where}: its attention head should be attention_block/attention/compute/conv1 and conv2; "
            f"{len(heads)} pairs of layers are named so"
        )
    attention = convolution(f"{heads[0]}/conv1", "conv1") | convolution(f"{heads[0]}/conv2", "conv2")
    return _network("slim", units, stride or 32, trunk, attention, None)


def keras_network(
    variable: Callable[[str], Array | None], has: Callable[[str], bool], where: str, stride: int | None = None
) -> PublishedNetwork:
    """Take a model of the Keras training code apart; errors as `read_delf_model`, naming `where`.

    `variable` returns a variable by the path of the attributes that lead to it (``backbone/conv1/kernel``), or
    None; `has` tells whether there is an object of that path.
    """

    def convolution(path: str, name: str, norm_path: str | None = None) -> Weights:
        kernel = variable(f"{path}/kernel")
        if kernel is None:
            raise CheckpointError(f"{where}: not DELF or DELG: it has no {path}/kernel")
        norm = None
        if norm_path is not None:
            norm = {key: value for key in _NORM if (value := variable(f"{norm_path}/{key}")) is not None}
        return fold(name, kernel, variable(f"{path}/bias"), norm, _KERAS_EPSILON, f"{where}: {path}")

    letters = string.ascii_lowercase
    units = _unit_count(lambda i: i < 26 and has(f"backbone/l4{letters[i]}"), where)
    trunk = convolution("backbone/conv1", "conv1", "backbone/bn_conv1")
    for name, layer, unit, part in _layers(units):
        block, end = f"backbone/l{layer + 1}{letters[unit]}", ("_shortcut", "2a", "2b", "2c")[part]
        trunk |= convolution(f"{block}/conv{end}", name, f"{block}/bn{end}")
    attention = convolution("attention/conv1", "conv1", "attention/bn_conv1")
    attention |= convolution("attention/conv2", "conv2")
    reduction = None
    if has("autoencoder/conv1"):
        encoder = convolution("autoencoder/conv1", "autoencoder.0")
        attention |= encoder | convolution("autoencoder/conv2", "autoencoder.1")
        weight, bias = encoder["autoencoder.0.weight"], encoder["autoencoder.0.bias"]
        if weight.shape[2:] != (1, 1):
            raise CheckpointError(f"{where}: its autoencoder is not of 1x1 convolutions")
        reduction = from_affine(weight[:, :, 0, 0], bias, where)
    saved = 32 if has("backbone/subsampling_layer") else 16
    return _network("keras", units, stride or saved, trunk, attention, reduction)


def _network(
    library: str,
    units: int,
    stride: int,
    trunk: Weights,
    attention: Weights,
    reduction: Reduction | None,
) -> PublishedNetwork:
    if stride not in (16, 32):
        raise CheckpointError(f"a stride of {stride} is not one that DELF or DELG has; 16 and 32 are")
    return PublishedNetwork(
        f"resnet{_DEPTHS[units]}_{library}" + ("_s32" if stride == 32 else ""),
        trunk,
        attention,
        reduction,
        normalisation=HALF_RANGE,
        profile="delf" if reduction is None else "delg",  # of the two, only DELG learns its reduction
        library=library,
    )


def fold(
    name: str,
    kernel: Array,
    bias: Array | None,
    norm: Mapping[str, Array] | None,
    epsilon: float,
    where: str,
) -> Weights:
    """Return a convolution of TensorFlow with its batch norm folded in, called `name` in the result.

    `kernel` is (H, W, I, O), `bias` (O,); `norm` has ``beta``, ``moving_mean``, ``moving_variance``, each (O,),
    and ``gamma`` unless it is 1; `epsilon` is added to the variance. The result is ``NAME.weight``, (O, I, H, W)
    float32, and ``NAME.bias``, (O,) float32. Errors name `where`, the file and the convolution.
    """
    missing = sorted(set(_NORM) - {"gamma"} - set(norm)) if norm is not None else []
    if missing:
        raise CheckpointError(f"{where}: its batch norm has no {missing[0]}")
    vectors = {**(norm or {}), **({} if bias is None else {"bias": bias})}
    if kernel.ndim != 4 or any(vector.shape != kernel.shape[3:] for vector in vectors.values()):
        shapes = ", ".join(f"{key} {vector.shape}" for key, vector in vectors.items())
        raise CheckpointError(f"{where}: shapes do not fit each other: {kernel.shape}, {shapes}")
    weight = kernel.astype(np.float64).transpose(3, 2, 0, 1)
    offset = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    if norm is not None:
        variance = norm["moving_variance"].astype(np.float64)
        scale = norm.get("gamma", np.ones(1)).astype(np.float64) / np.sqrt(variance + epsilon)
        weight = weight * scale.reshape(-1, 1, 1, 1)
        offset = (offset - norm["moving_mean"]) * scale + norm["beta"]
    return {f"{name}.weight": np.ascontiguousarray(weight, np.float32), f"{name}.bias": offset.astype(np.float32)}


def _unit_count(has: Callable[[int], bool], where: str) -> int:
    """Return how many units conv4 has, told whether it has one of each number from 0; it tells the depth."""
    units = next(i for i in itertools.count() if not has(i))
    if units not in _DEPTHS:
        known = " and ".join(f"{n} (ResNet-{depth})" for n, depth in _DEPTHS.items())
        raise CheckpointError(f"{where}: conv4 has {units} units; {known} are known")
    return units


def _layers(last: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield the convolutions of conv2 to conv4: torchvision's name, layer, unit in it, part (0: the shortcut)."""
    for layer, count in enumerate((*_UNITS, last), 1):
        for unit in range(count):
            for part in range(unit > 0, 4):
                yield f"layer{layer}.{unit}.{('downsample.0', 'conv1', 'conv2', 'conv3')[part]}", layer, unit, part
