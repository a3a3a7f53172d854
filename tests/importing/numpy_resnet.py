"""Plain NumPy forward passes of the published networks, written after their own code, in float64.

Maps are (H, W, C), kernels (H, W, I, O) as in TensorFlow. Each pass returns every stage by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Variables = Mapping[str, Array]


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's definition of padding SAME."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Array, kernel: int, stride: int, value: float = 0.0) -> Array:
    pads = [same_pads(size, kernel, stride) for size in x.shape[:2]]
    return np.pad(x, [*pads, (0, 0)], constant_values=value)


def pad_fixed(x: Array, kernel: int) -> Array:
    low = (kernel - 1) // 2
    return np.pad(x, [(low, kernel - 1 - low)] * 2 + [(0, 0)])


def valid(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolve without padding."""
    high, wide = ((n - k) // stride + 1 for n, k in zip(x.shape, kernel.shape[:2], strict=False))
    out = np.zeros((high, wide, kernel.shape[3]))
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            seen = x[i : i + stride * (high - 1) + 1 : stride, j : j + stride * (wide - 1) + 1 : stride]
            out += seen @ kernel[i, j].astype(np.float64)
    return out


def max_valid(x: Array, size: int, stride: int) -> Array:
    high, wide = ((n - size) // stride + 1 for n in x.shape[:2])
    rows = [x[i : i + stride * (high - 1) + 1 : stride] for i in range(size)]
    tall = np.max(rows, axis=0)
    return np.max([tall[:, j : j + stride * (wide - 1) + 1 : stride] for j in range(size)], axis=0)


def norm(x: Array, variables: Variables, scope: str, epsilon: float) -> Array:
    beta, mean, variance = (
        variables[f"{scope}/{name}"].astype(np.float64) for name in ("beta", "moving_mean", "moving_variance")
    )
    return (x - mean) / np.sqrt(variance + epsilon) * variables[f"{scope}/gamma"] + beta


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


# ----------------------------------------------------------------------------------------------------- slim


def slim_units(depth_of_conv4: int = 6) -> list[tuple[int, int, int, bool]]:
    """Block, unit, base depth and whether it is the block's last, counted from 1."""
    counts = (3, 4, depth_of_conv4)
    return [(b, u, 64 * 2 ** (b - 1), u == n) for b, n in enumerate(counts, 1) for u in range(1, n + 1)]


def slim_forward(image: Array, v: Variables, root: str = "resnet_v1_50") -> dict[str, Array]:
    """DELF as of slim: a block's stride on its last unit, its shortcut subsampled (resnet_utils, resnet_v1)."""

    def layer(x: Array, scope: str, stride: int = 1) -> Array:
        kernel = v[f"{scope}/weights"]
        size = kernel.shape[0]
        padded = pad_fixed(x, size) if stride > 1 else pad_same(x, size, 1)
        return norm(valid(padded, kernel, stride), v, f"{scope}/BatchNorm", 1e-5)

    out = {"conv1": relu(layer((image - 128.0) / 128.0, f"{root}/conv1", 2))}
    x = out["pool1"] = max_valid(pad_same(out["conv1"], 3, 2, -np.inf), 3, 2)
    for b, u, _, last in slim_units():
        scope, stride = f"{root}/block{b}/unit_{u}/bottleneck_v1", 2 if last else 1
        shortcut = layer(x, f"{scope}/shortcut") if u == 1 else x[::stride, ::stride]
        y = relu(layer(x, f"{scope}/conv1"))
        y = relu(layer(y, f"{scope}/conv2", stride))
        x = out[f"layer{b}.{u - 1}"] = relu(shortcut + layer(y, f"{scope}/conv3"))
    head = "attention_block/attention/compute"
    hidden = relu(layer(x, f"{head}/conv1"))
    logits = valid(hidden, v[f"{head}/conv2/weights"]) + v[f"{head}/conv2/biases"]
    return {**out, "features": x, "scores": softplus(logits)[:, :, 0]}


def slim_variables(
    rng: np.random.Generator, units: int = 6, width: int = 1, root: str = "resnet_v1_50"
) -> Variables:
    """Random weights by slim's names; `width` divides all channels."""
    v: dict[str, Array] = {}

    def add(scope: str, size: int, before: int, after: int) -> None:
        v[f"{scope}/weights"] = _kernel(rng, size, before, after)
        v.update({f"{scope}/BatchNorm/{key}": value for key, value in _norm(rng, after).items()})

    base, before = 64 // width, 64 // width
    add(f"{root}/conv1", 7, 3, base)
    for b, u, _, _ in slim_units(units):
        inner, scope = base * 2 ** (b - 1), f"{root}/block{b}/unit_{u}/bottleneck_v1"
        if u == 1:
            add(f"{scope}/shortcut", 1, before, 4 * inner)
        add(f"{scope}/conv1", 1, before, inner)
        add(f"{scope}/conv2", 3, inner, inner)
        add(f"{scope}/conv3", 1, inner, 4 * inner)
        before = 4 * inner
    head = "attention_block/attention/compute"
    add(f"{head}/conv1", 1, before, 512 // width)
    v[f"{head}/conv2/weights"] = _kernel(rng, 1, 512 // width, 1)
    v[f"{head}/conv2/biases"] = rng.normal(size=1).astype(np.float32)
    v["global_step"] = np.array(7, np.int64)
    return v


# ----------------------------------------------------------------------------------------------------- Keras


def keras_forward(image: Array, v: Variables, *, subsampled: bool) -> dict[str, Array]:
    """DELF or DELG of the Keras training code: SAME then VALID pooling, strides on the first 1x1 of a block."""

    def layer(x: Array, scope: str, bn: str | None = None, stride: int = 1) -> Array:
        kernel = v[f"{scope}/kernel"]
        y = valid(pad_same(x, kernel.shape[0], stride), kernel, stride) + v[f"{scope}/bias"]
        return y if bn is None else norm(y, v, bn, 1e-3)

    out = {"conv1": relu(layer((image - 128.0) / 128.0, "backbone/conv1", "backbone/bn_conv1", 2))}
    x = out["pool1"] = max_valid(out["conv1"], 3, 2)
    for b, u, _, _ in slim_units():
        scope = f"backbone/l{b + 1}{'abcdef'[u - 1]}"
        stride = 2 if u == 1 and b > 1 else 1
        y = relu(layer(x, f"{scope}/conv2a", f"{scope}/bn2a", stride))
        y = relu(layer(y, f"{scope}/conv2b", f"{scope}/bn2b"))
        y = layer(y, f"{scope}/conv2c", f"{scope}/bn2c")
        shortcut = layer(x, f"{scope}/conv_shortcut", f"{scope}/bn_shortcut", stride) if u == 1 else x
        x = out[f"layer{b}.{u - 1}"] = relu(y + shortcut)
    x = out["features"] = x[::2, ::2] if subsampled else x
    seen = x
    if "autoencoder/conv1/kernel" in v:
        out["reduced"] = layer(x, "autoencoder/conv1")
        seen = relu(layer(out["reduced"], "autoencoder/conv2"))
    hidden = relu(layer(seen, "attention/conv1", "attention/bn_conv1"))
    return {**out, "scores": softplus(layer(hidden, "attention/conv2"))[:, :, 0]}


def keras_variables(rng: np.random.Generator, *, autoencoder: bool) -> Variables:
    """Random weights by the paths of the objects that hold them."""
    v: dict[str, Array] = {}

    def add(scope: str, size: int, before: int, after: int, bn: str | None = None) -> None:
        v[f"{scope}/kernel"] = _kernel(rng, size, before, after)
        v[f"{scope}/bias"] = rng.uniform(-0.2, 0.2, after).astype(np.float32)
        if bn is not None:
            v.update({f"{bn}/{key}": value for key, value in _norm(rng, after).items()})

    add("backbone/conv1", 7, 3, 64, "backbone/bn_conv1")
    before = 64
    for b, u, inner, _ in slim_units():
        scope = f"backbone/l{b + 1}{'abcdef'[u - 1]}"
        if u == 1:
            add(f"{scope}/conv_shortcut", 1, before, 4 * inner, f"{scope}/bn_shortcut")
        add(f"{scope}/conv2a", 1, before, inner, f"{scope}/bn2a")
        add(f"{scope}/conv2b", 3, inner, inner, f"{scope}/bn2b")
        add(f"{scope}/conv2c", 1, inner, 4 * inner, f"{scope}/bn2c")
        before = 4 * inner
    if autoencoder:
        add("autoencoder/conv1", 1, before, 24)
        add("autoencoder/conv2", 1, 24, before)
    add("attention/conv1", 1, before, 32, "attention/bn_conv1")
    add("attention/conv2", 1, 32, 1)
    return v


# ----------------------------------------------------------------------------------------------------- torchvision


def torchvision_forward(pixels: Array, state: Mapping[str, Array], layers: int) -> Array:
    """torchvision's ResNets of basic blocks or bottlenecks, batch norm not folded; `pixels` are normalised."""

    def layer(x: Array, name: str, bn: str, stride: int = 1) -> Array:
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        side = kernel.shape[0] // 2
        y = valid(np.pad(x, [(side, side), (side, side), (0, 0)]), kernel, stride)
        mean, variance = state[f"{bn}.running_mean"].astype(np.float64), state[f"{bn}.running_var"]
        return (y - mean) / np.sqrt(variance + 1e-5) * state[f"{bn}.weight"] + state[f"{bn}.bias"]

    x = relu(layer(pixels, "conv1", "bn1", 2))
    x = max_valid(np.pad(x, [(1, 1), (1, 1), (0, 0)], constant_values=-np.inf), 3, 2)
    for number in range(1, layers + 1):
        unit = 0
        while f"layer{number}.{unit}.conv1.weight" in state:
            name = f"layer{number}.{unit}"
            stride = 2 if unit == 0 and number > 1 else 1
            deep = f"{name}.conv3.weight" in state
            first: Callable[..., Array] = layer
            y = relu(first(x, f"{name}.conv1", f"{name}.bn1", 1 if deep else stride))
            y = layer(y, f"{name}.conv2", f"{name}.bn2", stride if deep else 1)
            if deep:
                y = layer(relu(y), f"{name}.conv3", f"{name}.bn3")
            if f"{name}.downsample.0.weight" in state:
                x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = relu(x + y)
            unit += 1
    return x


def _kernel(rng: np.random.Generator, size: int, before: int, after: int) -> Array:
    scale = np.float32(1.4 / np.sqrt(size * size * before))
    return rng.standard_normal((size, size, before, after), np.float32) * scale


def _norm(rng: np.random.Generator, channels: int) -> dict[str, Array]:
    ranges = {"gamma": (0.4, 0.8), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2), "moving_variance": (0.5, 1.5)}
    return {key: rng.uniform(low, high, channels).astype(np.float32) for key, (low, high) in ranges.items()}
