"""Small ViTs with random weights, under the names of those who publish them."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from delf_engine.model.backbones import VitArchitecture

State = dict[str, Tensor]

WIDTH, HEADS, DEPTH = 32, 4, 2
SMALL = {
    "vit_small_one": VitArchitecture(WIDTH, DEPTH, HEADS, stride=16, grid=3),
    "dinov2_small_one": VitArchitecture(WIDTH, DEPTH, HEADS, stride=14, grid=5),
    "dinov2_small_one_reg": VitArchitecture(WIDTH, DEPTH, HEADS, stride=14, grid=5, registers=4),
}


def torchvision_vit() -> torchvision.models.VisionTransformer:
    """The ViT of torchvision that `vit_small_one` is."""
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(48, 16, DEPTH, HEADS, WIDTH, 4 * WIDTH).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    return net


def dinov2_state(registers: int = 0, *, width: int = WIDTH, depth: int = DEPTH, grid: int = 5) -> State:
    """The weights of a DINOv2 under the names of its authors."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + grid * grid, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in (f"blocks.{i}" for i in range(depth)):
        shapes |= {f"{block}.ls{i}.gamma": (width,) for i in (1, 2)}
        shapes |= {f"{block}.norm{i}.{part}": (width,) for i in (1, 2) for part in ("weight", "bias")}
        for layer, (outputs, inputs) in layers.items():
            shapes[f"{block}.{layer}.weight"] = (outputs * width, inputs * width)
            shapes[f"{block}.{layer}.bias"] = (outputs * width,)
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def by_timm(state: State) -> State:
    """The same weights as timm publishes them."""
    state = {name: value for name, value in state.items() if name != "mask_token"}
    if "register_tokens" in state:  # timm gives no position to the class token then
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def dinov2_tokens(state: State, images: Tensor) -> Tensor:
    """What DINOv2 computes: (B, N, C) patch tokens of whole patches, in float64."""
    w = {name: value.double() for name, value in state.items()}
    x = F.conv2d(images.double(), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14)
    count, size = len(x), x.shape[2:]
    side = round((w["pos_embed"].shape[1] - 1) ** 0.5)
    grid = w["pos_embed"][:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size, mode="bicubic", antialias=True)
    patches = (x + grid).flatten(2).transpose(1, 2)
    cls = (w["cls_token"] + w["pos_embed"][:, :1]).expand(count, -1, -1)
    registers = w.get("register_tokens", cls[:, :0]).expand(count, -1, -1)
    x = torch.cat([cls, registers, patches], 1)
    width = x.shape[2]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for block in sorted({name.rsplit(".", 2)[0] for name in w if re.fullmatch(r"blocks\.\d+\.ls1\.gamma", name)}):
        heads = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).split(width // HEADS, 2)
        mixed = []
        for h in range(HEADS):
            q, k, v = (heads[h + HEADS * i] for i in range(3))
            mixed.append(torch.softmax(q @ k.transpose(1, 2) * (width // HEADS) ** -0.5, 2) @ v)
        x = x + w[f"{block}.ls1.gamma"] * linear(f"{block}.attn.proj", torch.cat(mixed, 2))
        hidden = F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + w[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.fc2", hidden)
    return norm("norm", x)[:, 1 + registers.shape[1] :]
