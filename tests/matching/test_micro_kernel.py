"""The micro-kernel: LLVM's and the plain loops write the same bits, and either can be used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from delf_engine.errors import DelfEngineWarning
from delf_engine.matching import llvm_tiles, micro_kernel, plain_tiles
from delf_engine.matching.plain_tiles import LANES, PANEL, ROWS

BOTH = (llvm_tiles, plain_tiles)


def match_caller(tiles: ModuleType) -> Callable[..., None]:
    tile = tiles.match_tile

    @njit
    def call(
        data: Any, rows: Any, count: Any, columns: Any, column: Any, bias: Any, norms: Any, kept: Any
    ) -> None:
        i0, i1, i2, i3 = rows
        best, second, place, other, best_b, second_b, place_b = kept
        norms_a, norms_b = norms
        tile(
            data, i0, i1, i2, i3, count, columns, column, bias, norms_a, norms_b,
            best, second, place, other, best_b, second_b, place_b,
        )  # fmt: skip

    return call


def scores_caller(tiles: ModuleType, name: str) -> Callable[..., int]:
    tile = getattr(tiles, name)

    @njit
    def call(
        data: Any, rows: Any, columns: Any, at: Any, width: Any, bias: Any, first: Any, limits: Any, out: Any
    ) -> Any:
        i0, i1, i2, i3 = rows
        return tile(data, i0, i1, i2, i3, columns, at, width, bias, first, limits, out)

    return call


MATCH = [match_caller(tiles) for tiles in BOTH]
SCORES = {name: [scores_caller(tiles, name) for tiles in BOTH] for name in ("scores_16", "scores_32")}


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 9),
    dim=st.sampled_from([1, 3, 40]),
    count=st.integers(1, 5),
    ties=st.booleans(),
    scaled=st.booleans(),
)
def test_tiles_of_matching_have_the_same_bits(
    seed: int, n: int, dim: int, count: int, ties: bool, scaled: bool
) -> None:
    rng = np.random.default_rng(seed)
    draw = (lambda size: rng.integers(-1, 2, size)) if ties else (lambda size: rng.normal(size=size))
    data, columns = (np.asarray(draw(size), np.float32) for size in ((n, dim), 2 * dim * PANEL))
    bias = np.where(rng.random(2 * PANEL) < 0.2, -np.inf, 0).astype(np.float32)
    norms = tuple(rng.uniform(0.5, 2, k).astype(np.float32) for k in (n, 2 * PANEL)) if scaled else (None, None)
    rows = tuple(rng.integers(0, n, ROWS).tolist())
    start = [np.asarray(draw((n, LANES)), np.float32) for _ in range(2)]
    start += [rng.integers(0, 99, (n, LANES)).astype(np.int32) for _ in range(2)]
    start += [np.asarray(draw(2 * PANEL), np.float32) for _ in range(2)]
    start += [rng.integers(0, 99, 2 * PANEL).astype(np.int32)]
    start[1], start[5] = np.minimum(start[1], start[0]), np.minimum(start[5], start[4])  # no second above a best
    found = []
    for call in MATCH:
        kept = tuple(array.copy() for array in start)
        call(data, rows, count, columns, PANEL, bias, norms, kept)
        found.append([array.tobytes() for array in kept])
    assert found[0] == found[1]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 9),
    dim=st.sampled_from([1, 3, 40]),
    name=st.sampled_from([*SCORES]),
)
def test_tiles_of_scores_have_the_same_bits(seed: int, n: int, dim: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    width, first = 64, 16
    data, columns = rng.normal(size=(n, dim)), rng.normal(size=7 + dim * width)
    bias, limits = rng.normal(size=width), rng.normal(size=ROWS)
    arrays = [array.astype(np.float32) for array in (data, columns, bias, limits)]
    rows = tuple(rng.integers(0, n, ROWS).tolist())
    found = []
    for call in SCORES[name]:
        out = np.zeros((ROWS, width), np.float32)
        above = call(arrays[0], rows, arrays[1], 7 + first, width, arrays[2], first, arrays[3], out)
        found.append((above, out.tobytes()))
        size = int(name.removeprefix("scores_"))
        high = (out[:, first : first + size] > arrays[3][:, None]).any(axis=1)
        assert above == sum(1 << r for r in np.flatnonzero(high))
    assert found[0] == found[1]


WHOLE = """
import hashlib, numpy as np
from delf_engine.index import Codebook
from delf_engine.matching import match_descriptors, micro_kernel
rng = np.random.default_rng(0)
def units(rows):
    rows[~rows.any(axis=1), 0] = 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
out = []
for precision in ("float32", "uint8"):
    for a, b in (rng.normal(size=(2, 150, 40)), rng.integers(-1, 2, (2, 90, 3)).astype(float)):
        a, b = units(a), units(b)
        b[:40] = a[20:60]
        found = match_descriptors(a, b, ratio=0.97, precision=precision)
        out += [found.pairs.tobytes(), found.similarities.tobytes()]
words = Codebook(units(rng.normal(size=(2048, 16))))
out.append(words.assign(units(rng.normal(size=(300, 16))), k=3, mode="fast", threads=1).tobytes())
print(micro_kernel._tiles.__name__.rpartition(".")[2], hashlib.sha256(b"".join(out)).hexdigest())
"""


def test_whole_searches_find_the_same_with_either() -> None:
    found = {}
    for switch in ("0", "1"):
        environment = {**os.environ, "DELF_ENGINE_PLAIN_KERNELS": switch}
        done = subprocess.run(
            [sys.executable, "-c", WHOLE], env=environment, capture_output=True, text=True, check=True
        )
        name, digest = done.stdout.split()
        found[name] = digest
    assert set(found) == {"llvm_tiles", "plain_tiles"}
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("of_bytes", [False, True])
def test_a_version_that_does_not_compile_costs_speed_alone(
    of_bytes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DELF_ENGINE_PLAIN_KERNELS", raising=False)
    monkeypatch.setattr(llvm_tiles, "has_byte_products", lambda: True)

    def check(**asked: bool) -> None:
        if asked["of_bytes"] == of_bytes:
            raise TypeError("gep() takes no source_etype")

    monkeypatch.setattr(llvm_tiles, "check_support", check)
    with pytest.warns(DelfEngineWarning, match="source_etype"):
        assert micro_kernel._chosen() == (llvm_tiles if of_bytes else plain_tiles, False)


def test_a_tile_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    llvm_tiles.check_support(of_bytes=False)
    monkeypatch.setattr(llvm_tiles, "_try_match", lambda *arrays: None)
    with pytest.raises(RuntimeError):
        llvm_tiles.check_support(of_bytes=False)
