"""Random weights of the published networks by the names that their own code gives them; needs NumPy alone.

The script that wrote ``data/`` with TensorFlow and the tests draw the same numbers here:
`numpy.random.RandomState` keeps its stream for good.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Variables = dict[str, npt.NDArray[np.generic]]

HEAD = "attention_block/attention/compute"
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def units(last: int = 6) -> Iterator[tuple[int, int]]:
    """Yield block and unit of conv2 to conv4, counted from 1."""
    for block, count in enumerate((3, 4, last), 1):
        for unit in range(1, count + 1):
            yield block, unit


def slim_weights(seed: int, *, last: int = 6, width: int = 1, root: str = "resnet_v1_50") -> Variables:
    """DELF of the slim library, by the names of its variables; `width` divides all channels."""
    random, out = np.random.RandomState(seed), Variables()

    def add(scope: str, size: int, before: int, after: int) -> None:
        out[f"{scope}/weights"] = _kernel(random, size, before, after)
        out.update({f"{scope}/BatchNorm/{key}": value for key, value in _norm(random, after).items()})

    before = base = 64 // width
    add(f"{root}/conv1", 7, 3, base)
    for block, unit in units(last):
        inner, scope = base * 2 ** (block - 1), f"{root}/block{block}/unit_{unit}/bottleneck_v1"
        if unit == 1:
            add(f"{scope}/shortcut", 1, before, 4 * inner)
        add(f"{scope}/conv1", 1, before, inner)
        add(f"{scope}/conv2", 3, inner, inner)
        add(f"{scope}/conv3", 1, inner, 4 * inner)
        before = 4 * inner
    add(f"{HEAD}/conv1", 1, before, 512 // width)
    out[f"{HEAD}/conv2/weights"] = _kernel(random, 1, 512 // width, 1)
    out[f"{HEAD}/conv2/biases"] = _uniform(random, -0.2, 0.2, 1)
    out["global_step"] = np.array(7, np.int64)
    return out


def keras_weights(seed: int, *, width: int = 1, autoencoder: bool = True) -> Variables:
    """DELG of the Keras training code, by the paths of the attributes that hold its variables."""
    random, out = np.random.RandomState(seed), Variables()

    def add(path: str, size: int, before: int, after: int, norm: str | None = None) -> None:
        out[f"{path}/kernel"] = _kernel(random, size, before, after)
        out[f"{path}/bias"] = _uniform(random, -0.2, 0.2, after)
        if norm is not None:
            out.update({f"{norm}/{key}": value for key, value in _norm(random, after).items()})

    before = base = 64 // width
    add("backbone/conv1", 7, 3, base, "backbone/bn_conv1")
    for block, unit in units():
        inner, scope = base * 2 ** (block - 1), f"backbone/l{block + 1}{'abcdef'[unit - 1]}"
        if unit == 1:
            add(f"{scope}/conv_shortcut", 1, before, 4 * inner, f"{scope}/bn_shortcut")
        add(f"{scope}/conv2a", 1, before, inner, f"{scope}/bn2a")
        add(f"{scope}/conv2b", 3, inner, inner, f"{scope}/bn2b")
        add(f"{scope}/conv2c", 1, inner, 4 * inner, f"{scope}/bn2c")
        before = 4 * inner
    if autoencoder:
        reduced = min(24, before // 2)
        add("autoencoder/conv1", 1, before, reduced)
        add("autoencoder/conv2", 1, reduced, before)
    add("attention/conv1", 1, before, 512 // width, "attention/bn_conv1")
    add("attention/conv2", 1, 512 // width, 1)
    return out


def image(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Random pixels, other ones for every height."""
    return np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype(np.uint8)


def _kernel(random: np.random.RandomState, size: int, before: int, after: int) -> npt.NDArray[np.float32]:
    values = random.standard_normal((size, size, before, after)) * 1.4 / np.sqrt(size * size * before)
    return values.astype(np.float32)


def _norm(random: np.random.RandomState, channels: int) -> dict[str, npt.NDArray[np.float32]]:
    ranges = ((0.4, 0.8), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5))
    return {key: _uniform(random, *limits, channels) for key, limits in zip(NORM, ranges, strict=True)}


def _uniform(random: np.random.RandomState, low: float, high: float, size: int) -> npt.NDArray[np.float32]:
    return random.uniform(low, high, size).astype(np.float32)
