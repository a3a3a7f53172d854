"""State dicts of ViTs: torchvision's, and DINOv2 (Oquab et al., TMLR 2024) under its own names or timm's."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError
from delf_engine.interchange.published.network import PublishedNetwork
from delf_engine.interchange.published.torch_files import read_arrays
from delf_engine.model.backbones import ARCHITECTURES, VitArchitecture

State = dict[str, npt.NDArray[Any]]

#: Parts of foreign names and ours, in the order in which they are replaced.
_PARTS = {
    "conv_proj.": "patches.",
    "patch_embed.proj.": "patches.",
    "encoder.layers.encoder_layer_": "blocks.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "self_attention.in_proj_": "qkv.",
    "self_attention.out_proj.": "proj.",
    "attn.": "",
    "mlp.linear_1.": "fc1.",  # of torchvision's files, older than its modules
    "mlp.linear_2.": "fc2.",
    "mlp.0.": "fc1.",
    "mlp.3.": "fc2.",
    "mlp.": "",
    "encoder.ln.": "norm.",
    "encoder.pos_embedding": "positions",
    "pos_embed": "positions",
    "register_tokens": "registers",
    "reg_token": "registers",
    "class_token": "token",
    "cls_token": "token",
}
_OURS = re.compile(r"tokens|positions|(patches|norm|blocks\.\d+\.(norm[12]|qkv|proj|fc[12]))\.(weight|bias)")
_UNUSED = ("head.", "heads.", "mask_token")


def read_vit(path: str | os.PathLike[str]) -> PublishedNetwork:
    """Read a state dict of a ViT; scores will be the L2 norm of features.

    A `CheckpointError` if it cannot be read or is none of the ViTs of `ARCHITECTURES`.
    """
    given = read_arrays(path)
    state = {_renamed(name): value for name, value in given.items() if not name.startswith(_UNUSED)}
    scaled = "blocks.0.ls1.gamma" in state
    try:
        registers = _join_tokens(state)
        _fold_layer_scale(state)
        width, _, patch, _ = state["patches.weight"].shape
    except (KeyError, ValueError, IndexError) as error:
        names = ", ".join(list(given)[:3])
        raise CheckpointError(
            f"{path}: not a state dict of a ViT: {error!r}; its names begin with {names}"
        ) from error
    depth = sum(name.endswith(".norm1.weight") for name in state)
    # Of others under timm's names the file does not tell which colours they expect.
    library = "dinov2" if scaled else "torchvision" if "class_token" in given else None
    kinds = {name: kind for name, kind in ARCHITECTURES.items() if isinstance(kind, VitArchitecture)}
    unknown = [name for name in state if not _OURS.fullmatch(name)]
    for name, kind in kinds.items():
        alike = (kind.channels, kind.depth, kind.stride, kind.registers) == (width, depth, patch, registers)
        if alike and not unknown and library == ("dinov2" if name.startswith("dinov2") else "torchvision"):
            return PublishedNetwork(name, state, None, None, library=library)
    raise CheckpointError(
        f"{path}: not one of {', '.join(kinds)}: {depth} blocks of {width} channels, patches of {patch} pixels, "
        f"{registers} registers, {'with' if scaled else 'without'} LayerScale, "
        f"further weights: {', '.join(unknown[:3]) or 'none'}"
    )


def _renamed(name: str) -> str:
    for part, ours in _PARTS.items():
        name = name.replace(part, ours)
    return name


def _join_tokens(state: State) -> int:
    """Make one array of class token and registers, a map of the positions; return the number of registers."""
    token, positions = state.pop("token"), state.pop("positions")
    side = math.isqrt(positions.shape[1])
    if side**2 < positions.shape[1]:  # the first is that of the class token
        token, positions = token + positions[:, :1], positions[:, 1:]
    registers = state.pop("registers", token[:, :0])
    state["tokens"] = np.concatenate([token, registers], 1)
    state["positions"] = np.moveaxis(positions.reshape(1, side, side, -1), 3, 1)
    return registers.shape[1]


def _fold_layer_scale(state: State) -> None:
    """Multiply what comes before a LayerScale by it."""
    for name in [name for name in state if name.endswith(".gamma")]:
        layer = name.replace("ls1.gamma", "proj").replace("ls2.gamma", "fc2")
        gamma = state.pop(name)
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * gamma[:, None]
        state[f"{layer}.bias"] = state[f"{layer}.bias"] * gamma
