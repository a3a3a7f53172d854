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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError
from delf_engine.importing.bundle import TensorBundle, bundle_prefix
from delf_engine.importing.graph import OBJECT_GRAPH, ObjectGraph
from delf_engine.importing.parts import HALF_RANGE, Parts, Reduction, fold, from_affine

__all__ = ["read_delf"]

_SLIM_EPSILON = 1e-5  # resnet_utils.resnet_arg_scope
_KERAS_EPSILON = 1e-3  # the default of Keras, which the training code leaves
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_UNITS = (3, 4)  # of conv2 and conv3; conv4 tells the depth
_DEPTHS = {6: 50, 23: 101}

Array = npt.NDArray[Any]
Convolution = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def read_delf(source: str | os.PathLike[str], *, stride: int | None = None) -> Parts:
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
    prefix = bundle_prefix(source)
    bundle = TensorBundle(prefix)
    if OBJECT_GRAPH in bundle:
        graph = ObjectGraph(bundle.text(OBJECT_GRAPH), f"{prefix}.index: {OBJECT_GRAPH}")
        root = graph.find(("backbone", "attention"))
        if root is not None:
            return _read_keras(bundle, graph, root, stride)
    return _read_slim(bundle, stride)


# -------------------------------------------------------------------------------------------------------- slim


def _read_slim(bundle: TensorBundle, stride: int | None) -> Parts:
    names = set(bundle.names)
    roots = sorted(
        match[1] for name in names if (match := re.fullmatch(r"((?:.*/)?resnet_v1_\d+)/conv1/weights", name))
    )
    if len(roots) != 1:
        raise CheckpointError(
            f"{bundle.prefix}: neither DELF nor DELG: it should have one variable resnet_v1_50/conv1/weights, or "
            f"objects named backbone and attention; its variables are {', '.join(bundle.names[:5]) or 'none'}, ..."
        )
    if any("autoencoder" in name for name in names):
        raise CheckpointError(
            f"{bundle.prefix}: has a trunk of slim and an autoencoder, of which no public code tells the "
            "layout; only models of the Keras training code are read with theirs"
        )
    units = _count(lambda i: f"{roots[0]}/block3/unit_{i + 1}/bottleneck_v1/conv1/weights" in names)
    depth = _depth(units, bundle.prefix)

    def convolution(scope: str) -> Convolution:
        bias = f"{scope}/biases"
        norm = {key: bundle.tensor(name) for key in _NORM if (name := f"{scope}/BatchNorm/{key}") in names}
        return _folded(
            bundle.prefix,
            scope,
            bundle.tensor(f"{scope}/weights"),
            bundle.tensor(bias) if bias in names else None,
            norm or None,
            _SLIM_EPSILON,
        )

    trunk = _named("conv1", convolution(f"{roots[0]}/conv1"))
    for layer, unit in _units(units):
        scope = f"{roots[0]}/block{layer}/unit_{unit + 1}/bottleneck_v1"
        for part in ("conv1", "conv2", "conv3"):
            trunk |= _named(f"layer{layer}.{unit}.{part}", convolution(f"{scope}/{part}"))
        if unit == 0:
            trunk |= _named(f"layer{layer}.0.downsample.0", convolution(f"{scope}/shortcut"))
    head = _slim_attention(names, bundle.prefix)
    attention = _named("conv1", convolution(f"{head}/conv1")) | _named("conv2", convolution(f"{head}/conv2"))
    return _parts(bundle, "slim", depth, stride or 32, trunk, attention, None)


def _slim_attention(names: set[str], where: Path) -> str:
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


# ------------------------------------------------------------------------------------------------------- Keras


def _read_keras(bundle: TensorBundle, graph: ObjectGraph, root: int, stride: int | None) -> Parts:
    def variable(path: str) -> Array | None:
        key = graph.key(root, path)
        return None if key is None else bundle.tensor(key)

    def convolution(path: str, norm_path: str | None = None) -> Convolution:
        kernel = variable(f"{path}/kernel")
        if kernel is None:
            raise CheckpointError(f"{bundle.prefix}: not DELF or DELG: it has no {path}/kernel")
        norm = None
        if norm_path is not None:
            norm = {key: value for key in _NORM if (value := variable(f"{norm_path}/{key}")) is not None}
        return _folded(bundle.prefix, path, kernel, variable(f"{path}/bias"), norm, _KERAS_EPSILON)

    letters = "abcdefghijklmnopqrstuvwxyz"
    units = _count(lambda i: i < 26 and graph.child(root, f"backbone/l4{letters[i]}") is not None)
    depth = _depth(units, bundle.prefix)
    trunk = _named("conv1", convolution("backbone/conv1", "backbone/bn_conv1"))
    for layer, unit in _units(units):
        block = f"backbone/l{layer + 1}{letters[unit]}"
        for i, part in enumerate("abc", 1):
            name = f"layer{layer}.{unit}.conv{i}"
            trunk |= _named(name, convolution(f"{block}/conv2{part}", f"{block}/bn2{part}"))
        if unit == 0:
            shortcut = convolution(f"{block}/conv_shortcut", f"{block}/bn_shortcut")
            trunk |= _named(f"layer{layer}.0.downsample.0", shortcut)
    attention = _named("conv1", convolution("attention/conv1", "attention/bn_conv1"))
    attention |= _named("conv2", convolution("attention/conv2"))
    reduction = None
    if graph.child(root, "autoencoder/conv1") is not None:
        encoder, decoder = convolution("autoencoder/conv1"), convolution("autoencoder/conv2")
        attention |= _named("autoencoder.0", encoder) | _named("autoencoder.1", decoder)
        if encoder[0].shape[2:] != (1, 1):
            raise CheckpointError(f"{bundle.prefix}: its autoencoder is not of 1x1 convolutions")
        reduction = from_affine(encoder[0][:, :, 0, 0], encoder[1], str(bundle.prefix))
    subsampled = graph.child(root, "backbone/subsampling_layer") is not None
    return _parts(bundle, "keras", depth, stride or (32 if subsampled else 16), trunk, attention, reduction)


# ------------------------------------------------------------------------------------------------- both of them


def _parts(
    bundle: TensorBundle,
    library: str,
    depth: int,
    stride: int,
    trunk: Mapping[str, npt.NDArray[np.float32]],
    attention: Mapping[str, npt.NDArray[np.float32]],
    reduction: Reduction | None,
) -> Parts:
    if stride not in (16, 32):
        raise CheckpointError(f"a stride of {stride} is not one that DELF or DELG has; 16 and 32 are")
    architecture = f"resnet{depth}_{library}" + ("_s32" if stride == 32 else "")
    return Parts(
        architecture,
        trunk,
        attention,
        reduction,
        normalisation=HALF_RANGE,
        profile="delf" if reduction is None else "delg",  # of the two, only DELG learns its reduction
        about={"library": library},
    )


def _folded(
    where: Path, scope: str, kernel: Array, bias: Array | None, norm: Mapping[str, Array] | None, epsilon: float
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


def _depth(units: int, where: Path) -> int:
    if units not in _DEPTHS:
        known = " and ".join(f"{n} (ResNet-{depth})" for n, depth in _DEPTHS.items())
        raise CheckpointError(f"{where}: conv4 has {units} units; {known} are known")
    return _DEPTHS[units]


def _units(last: int) -> Iterator[tuple[int, int]]:
    """Yield (layer, unit) of conv2 to conv4, counted as torchvision does."""
    for layer, count in enumerate((*_UNITS, last), 1):
        for unit in range(count):
            yield layer, unit
