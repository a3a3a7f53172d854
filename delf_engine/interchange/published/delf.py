"""The published DELF and DELG: TensorFlow models of the slim library (2017 to 2020) and of Keras (since).

Both are ResNet v1 with a 1x1 attention head on conv4. slim has the stride of a stage on its last 3x3, Keras on the
first 1x1 of the next; the two are the same function, with the stride after conv4 as subsampling of its output.
They differ in padding (see `Architecture`) and in the epsilon of batch norm. Sources: tensorflow/models,
research/delf/delf/python/delf_v1.py and training/model; research/slim/nets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError
from delf_engine.interchange.published.network import HALF_RANGE, PublishedNetwork, Reduction, fold, from_affine
from delf_engine.interchange.published.tensorflow_files import (
    OBJECT_GRAPH,
    ObjectGraph,
    TensorBundle,
    bundle_prefix,
)

__all__ = ["keras_network", "read_delf_model", "slim_network"]

_SLIM_EPSILON = 1e-5  # resnet_utils.resnet_arg_scope
_KERAS_EPSILON = 1e-3  # the default of Keras, which the training code leaves
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_UNITS = (3, 4)  # of conv2 and conv3; conv4 tells the depth
_DEPTHS = {6: 50, 23: 101}

Array = npt.NDArray[Any]
Convolution = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def read_delf_model(source: str | os.PathLike[str], *, stride: int | None = None) -> PublishedNetwork:
    """Read a DELF or DELG model: a SavedModel's folder, or the prefix of a checkpoint of the training code.

    Parameters
    ----------
    source : path
        A folder with ``variables/variables.index``, or ``PREFIX`` of a ``PREFIX.index``.
    stride : 16, 32 or None
        Of the feature map. None: as the model was saved where it tells (Keras), else 32, DELF's.

    Raises
    ------
    FormatError
        If it is no TensorFlow model, or damaged.
    CheckpointError
        If it is neither DELF nor DELG, or of a kind that this package's network cannot express.
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
    units = _count(lambda i: f"{roots[0]}/block3/unit_{i + 1}/bottleneck_v1/conv1/weights" in tensors)
    depth = _depth(units, where)

    def convolution(scope: str, name: str) -> dict[str, npt.NDArray[np.float32]]:
        bias = tensors[f"{scope}/biases"] if f"{scope}/biases" in tensors else None  # noqa: SIM401 - no KeyError
        norm = {key: tensors[path] for key in _NORM if (path := f"{scope}/BatchNorm/{key}") in tensors}
        folded = _folded(where, scope, tensors[f"{scope}/weights"], bias, norm or None, _SLIM_EPSILON)
        return _named(name, folded)

    trunk = convolution(f"{roots[0]}/conv1", "conv1")
    for layer, unit in _units(units):
        scope, name = f"{roots[0]}/block{layer}/unit_{unit + 1}/bottleneck_v1", f"layer{layer}.{unit}"
        for part in ("conv1", "conv2", "conv3"):
            trunk |= convolution(f"{scope}/{part}", f"{name}.{part}")
        if unit == 0:
            trunk |= convolution(f"{scope}/shortcut", f"{name}.downsample.0")
    head = _slim_attention(tensors, where)
    attention = convolution(f"{head}/conv1", "conv1") | convolution(f"{head}/conv2", "conv2")
    return _network("slim", depth, stride or 32, trunk, attention, None)


def _slim_attention(names: Mapping[str, Array], where: str) -> str:
    """Return the scope of the attention head: ``attention_block/attention/compute`` in the public code."""
    end = "/conv2/weights"
    scopes = {name.removesuffix(end) for name in names if name.endswith(end) and "attention" in name}
    found = [scope for scope in scopes if f"{scope}/conv1/weights" in names]
    if len(found) != 1:
        raise CheckpointError(
            f"{where}: its attention head should be attention_block/attention/compute/conv1 and conv2; "
            f"{len(found)} pairs of layers are named so"
        )
    return found[0]


def keras_network(
    variable: Callable[[str], Array | None], has: Callable[[str], bool], where: str, stride: int | None = None
) -> PublishedNetwork:
    """Take a model of the Keras training code apart; errors as `read_delf_model`, naming `where`.

    Parameters
    ----------
    variable : callable
        Returns a variable by the path of the attributes that lead to it (``backbone/conv1/kernel``), or None.
    has : callable
        Tells whether there is an object of that path.
    """

    def convolution(path: str, name: str, norm_path: str | None = None) -> dict[str, npt.NDArray[np.float32]]:
        kernel = variable(f"{path}/kernel")
        if kernel is None:
            raise CheckpointError(f"{where}: not DELF or DELG: it has no {path}/kernel")
        norm = None
        if norm_path is not None:
            norm = {key: value for key in _NORM if (value := variable(f"{norm_path}/{key}")) is not None}
        return _named(name, _folded(where, path, kernel, variable(f"{path}/bias"), norm, _KERAS_EPSILON))

    letters = "abcdefghijklmnopqrstuvwxyz"
    units = _count(lambda i: i < 26 and has(f"backbone/l4{letters[i]}"))
    depth = _depth(units, where)
    trunk = convolution("backbone/conv1", "conv1", "backbone/bn_conv1")
    for layer, unit in _units(units):
        block, name = f"backbone/l{layer + 1}{letters[unit]}", f"layer{layer}.{unit}"
        for i, part in enumerate("abc", 1):
            trunk |= convolution(f"{block}/conv2{part}", f"{name}.conv{i}", f"{block}/bn2{part}")
        if unit == 0:
            trunk |= convolution(f"{block}/conv_shortcut", f"{name}.downsample.0", f"{block}/bn_shortcut")
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
    return _network("keras", depth, stride or saved, trunk, attention, reduction)


# ------------------------------------------------------------------------------------------------- both of them


def _network(
    library: str,
    depth: int,
    stride: int,
    trunk: Mapping[str, npt.NDArray[np.float32]],
    attention: Mapping[str, npt.NDArray[np.float32]],
    reduction: Reduction | None,
) -> PublishedNetwork:
    if stride not in (16, 32):
        raise CheckpointError(f"a stride of {stride} is not one that DELF or DELG has; 16 and 32 are")
    return PublishedNetwork(
        f"resnet{depth}_{library}" + ("_s32" if stride == 32 else ""),
        trunk,
        attention,
        reduction,
        normalisation=HALF_RANGE,
        profile="delf" if reduction is None else "delg",  # of the two, only DELG learns its reduction
        about={"library": library},
    )


def _folded(
    where: str, scope: str, kernel: Array, bias: Array | None, norm: Mapping[str, Array] | None, epsilon: float
) -> Convolution:
    """Fold, after checks of what the file gave."""
    missing = sorted(set(_NORM) - {"gamma"} - set(norm)) if norm is not None else []
    if missing:
        raise CheckpointError(f"{where}: the batch norm of {scope} has no {missing[0]}")
    vectors = {**(norm or {}), **({} if bias is None else {"bias": bias})}
    if kernel.ndim != 4 or any(vector.shape != kernel.shape[3:] for vector in vectors.values()):
        shapes = ", ".join(f"{key} {vector.shape}" for key, vector in vectors.items())
        raise CheckpointError(f"{where}: shapes of {scope} do not fit each other: {kernel.shape}, {shapes}")
    return fold(kernel, bias, norm, epsilon)


def _named(name: str, convolution: Convolution) -> dict[str, npt.NDArray[np.float32]]:
    return {f"{name}.weight": convolution[0], f"{name}.bias": convolution[1]}


def _count(exists: Callable[[int], bool]) -> int:
    number = 0
    while exists(number):
        number += 1
    return number


def _depth(units: int, where: str) -> int:
    if units not in _DEPTHS:
        known = " and ".join(f"{n} (ResNet-{depth})" for n, depth in _DEPTHS.items())
        raise CheckpointError(f"{where}: conv4 has {units} units; {known} are known")
    return _DEPTHS[units]


def _units(last: int) -> Iterator[tuple[int, int]]:
    """Yield (layer, unit) of conv2 to conv4, counted as torchvision does."""
    for layer, count in enumerate((*_UNITS, last), 1):
        for unit in range(count):
            yield layer, unit
