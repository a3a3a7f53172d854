"""State dicts of PyTorch: torchvision's ResNets, and HOW (Tolias et al., ECCV 2020; github.com/gtolias/how)."""

from __future__ import annotations

import itertools
import os
import pickle
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from delf_engine.errors import CheckpointError
from delf_engine.interchange.published.network import IMAGENET, PublishedNetwork, from_affine
from delf_engine.support.arrays import check_array

Array = npt.NDArray[Any]

#: Children of torchvision's ResNets in their order; HOW numbers them.
_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
#: Trunks by (blocks of layer3, whether they are bottlenecks).
_RESNETS = {(2, False): "resnet18", (6, False): "resnet34", (6, True): "resnet50", (23, True): "resnet101"}


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stand in for `collections.defaultdict`, which PyTorch's reader of weights does not fill."""
    return {}


_SCALAR = np.float64(0).__reduce__()[0]
#: What HOW keeps beside its weights, scores by epoch: containers and numbers, nothing that runs code.
_HARMLESS: list[Any] = [
    (_plain_dict, "collections.defaultdict"),
    list,
    np.dtype,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a ``.safetensors`` or a ``torch.save`` file without running code that is in it.

    A `CheckpointError` if it is missing, damaged, not a dictionary, or can be loaded only by running its code.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with _harmless():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it refers to {found[1]}" if found else "it holds more than tensors and numbers"
        raise CheckpointError(
            f"{path}: not a file of weights alone, and opening it could run code: {why}. If you trust it, save "
            "its state_dict by itself with torch.save"
        ) from error
    except Exception as error:  # damaged files raise nearly anything
        raise CheckpointError(f"{path}: not a readable file of PyTorch weights: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return dict(content)


def _harmless() -> AbstractContextManager[Any]:
    """Let `_HARMLESS` through. Before PyTorch 2.6 it cannot be named so, and files that hold it are refused."""
    known = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")
    return torch.serialization.safe_globals(_HARMLESS) if known else nullcontext()


def read_torchvision(path: str | os.PathLike[str]) -> PublishedNetwork:
    """Read a state dict of torchvision's ResNet-18, 34, 50 or 101; scores will be the L2 norm of features.

    A `CheckpointError` if it cannot be read or is not one of these.
    """
    state = read_arrays(path)
    return PublishedNetwork(_architecture(state, path), state, None, None)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read a state dict, bare or under ``state_dict``; a `CheckpointError` if the file holds something else."""
    content = read_torch_file(path)
    state = _arrays(content.get("state_dict", content), path)
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_how(path: str | os.PathLike[str]) -> PublishedNetwork:
    """Read a checkpoint of HOW: trunk, smoothing, reduction; scores are the L2 norm of features.

    HOW leaves its descriptors at the length that whitening gives them; here they are of length 1, as everywhere. A
    `CheckpointError` if it cannot be read, is not HOW's, or of a kind that this package's network cannot express.
    """
    content = read_torch_file(path)
    params, state = _how_parameters(content, path), _arrays(content["state_dict"], path)
    skipped = params["skip_layer"]
    architecture = str(params["architecture"]) + ("_conv5" if skipped == 0 else "")
    if skipped not in (0, 1) or architecture not in (*_RESNETS.values(), "resnet18_conv5"):
        raise CheckpointError(
            f"{path}: HOW on {params['architecture']} without its last {skipped} stages; known are resnet18 with "
            f"all of them, and {', '.join(_RESNETS.values())} without the last"
        )
    kernel = int((params.get("smoothing") or {}).get("kernel_size", 1))
    if kernel < 1 or kernel % 2 == 0:
        raise CheckpointError(f"{path}: smoothing over {kernel} cells; only odd windows keep the size of the map")
    reduction = None
    for name in ("dim_reduction", "whiten"):  # the older name of the same layer
        if f"{name}.weight" in state and f"{name}.bias" in state:
            weight = state[f"{name}.weight"]
            reduction = from_affine(weight.reshape(weight.shape[:2]), state[f"{name}.bias"], str(path))
    given = params.get("runtime", {}).get("mean_std", IMAGENET)
    rgb = check_array(f"{path}: mean and standard deviation", given, np.float64, (2, 3), error=CheckpointError)
    mean, std = map(tuple, rgb.tolist())
    return PublishedNetwork(
        architecture,
        _how_trunk(state, path),
        None,
        reduction,
        smoothing=kernel,
        normalisation=(mean, std),
        profile="how",
        library="how",
    )


def _how_parameters(content: Mapping[str, Any], path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return ``net_params``, of the older files too, which have it in other words."""
    params, meta = content.get("net_params"), content.get("meta")
    if params is None and isinstance(meta, Mapping) and "skip_layer" in meta and "architecture" in meta:
        params = {
            "architecture": meta["architecture"],
            "skip_layer": meta["skip_layer"],
            "smoothing": {"kernel_size": meta.get("feat_pool_k", 1)},
            "runtime": {"mean_std": (meta["mean"], meta["std"])} if "mean" in meta and "std" in meta else {},
        }
    if not isinstance(params, Mapping) or "architecture" not in params or "state_dict" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of HOW: it has no state_dict with net_params")
    return {"skip_layer": 0, **params}


def _how_trunk(state: Mapping[str, Array], path: str | os.PathLike[str]) -> dict[str, Array]:
    trunk = {}
    for name, value in state.items():
        first, number, rest = [*name.split(".", 2), "", ""][:3]
        if first != "features":
            continue
        if not number.isdecimal() or int(number) >= len(_CHILDREN):
            raise CheckpointError(f"{path}: {name} is not a layer of a ResNet")
        trunk[f"{_CHILDREN[int(number)]}.{rest}"] = value
    return trunk


def _architecture(state: Mapping[str, Array], path: str | os.PathLike[str]) -> str:
    blocks = next(i for i in itertools.count() if f"layer3.{i}.conv1.weight" not in state)
    kind = _RESNETS.get((blocks, "layer3.0.conv3.weight" in state))
    if kind is None:
        raise CheckpointError(
            f"{path}: not a state dict of torchvision's {', '.join(_RESNETS.values())}; its names begin with "
            f"{', '.join(list(state)[:3]) or 'nothing'}"
        )
    return kind


def _arrays(state: Any, path: str | os.PathLike[str]) -> dict[str, Array]:
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a state dict: something in it is not a tensor")
    return {
        str(name): value.float().numpy() if value.is_floating_point() else value.numpy()
        for name, value in state.items()
    }
