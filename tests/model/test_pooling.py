"""Every pooling against its plain definition, cell by cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.grid import rigid_grid
from delf_engine.model.pooling import POOLINGS

Array = npt.NDArray[np.float64]

CENTRES = np.random.default_rng(1).normal(size=(3, 5))
PARAMETERS: dict[str, dict[str, Any]] = {
    "gem": {"p": np.array(3.0)},
    "pwa": {"channels": np.array([2, 0])},
    "netvlad": {"centres": CENTRES, "sharpness": np.array(4.0)},
    "mop": {"centres": CENTRES},
}


def unit(x: Array) -> Array:
    length = math.sqrt(float((x**2).sum()))
    return x / length if length > 0 else x


def boxes(x: Array) -> list[list[int]]:
    height, width = x.shape[1:]
    return [[0, 0, width, height], *rigid_grid((width, height)).tolist()]


def residuals(cells: Array, shares: Array) -> Array:
    """For each centre the residuals of all cells, by their shares (K, N)."""
    return np.stack([sum(shares[k, n] * (cells[n] - CENTRES[k]) for n in range(len(cells))) for k in range(3)])


def spoc(x: Array, s: Array) -> Array:
    height, width = x.shape[1:]
    sigma = min(height, width) / 6
    out = np.zeros(len(x))
    for row in range(height):
        for column in range(width):
            squared = (row - (height - 1) / 2) ** 2 + (column - (width - 1) / 2) ** 2
            out += x[:, row, column] * math.exp(-squared / (2 * sigma**2))
    return out


def crow(x: Array, s: Array) -> Array:
    total = x.sum(0)
    length = math.sqrt(float((total**2).sum()))
    spatial = np.sqrt(total / max(length, 1e-6))
    active = np.array([(channel > 0).mean() for channel in x])
    rare = np.log((len(x) * 1e-6 + active.sum()) / (1e-6 + active))
    return np.array([(channel * spatial).sum() for channel in x]) * rare


def scda(x: Array, s: Array) -> Array:
    total = x.sum(0)
    above = total >= total.mean()
    best: set[tuple[int, int]] = set()
    seen: set[tuple[int, int]] = set()
    for start in zip(*np.nonzero(above), strict=True):  # row by row: of equal parts the first
        part, queue = set(), [tuple(map(int, start))]
        while queue:
            cell = queue.pop()
            inside = 0 <= cell[0] < above.shape[0] and 0 <= cell[1] < above.shape[1]
            if not inside or cell in seen or not above[cell]:
                continue
            seen.add(cell)
            part.add(cell)
            queue += [(cell[0] + i, cell[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        best = part if len(part) > len(best) else best
    chosen = np.array([x[:, row, column] for row, column in sorted(best)])
    return np.concatenate([unit(chosen.mean(0)), unit(chosen.max(0))])


def pwa(x: Array, s: Array) -> Array:
    weights = [np.sqrt(x[n] / max(math.sqrt(float((x[n] ** 2).sum())), 1e-6)) for n in (2, 0)]
    return np.concatenate([[(channel * w).sum() for channel in x] for w in weights])


def covariance(x: Array, s: Array) -> Array:
    matrix = np.cov(x.reshape(len(x), -1), bias=True)
    values, vectors = np.linalg.eigh(matrix)
    root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    return np.array([root[i, j] * (1 if i == j else 2**0.5) for i in range(len(x)) for j in range(i, len(x))])


def netvlad(x: Array, s: Array) -> Array:
    cells = np.array([unit(cell) for cell in x.reshape(len(x), -1).T])
    nearness = np.array([[-4.0 * ((cell - centre) ** 2).sum() for cell in cells] for centre in CENTRES])
    shares = np.exp(nearness - nearness.max(0))
    return np.concatenate([unit(row) for row in residuals(cells, shares / shares.sum(0))])


def mop(x: Array, s: Array) -> Array:
    out, (height, width) = [unit(x.mean((1, 2)))], x.shape[1:]
    for part in (2, 4):
        h, w = -(-height // part), -(-width // part)
        windows = [
            unit(x[:, row : row + h, column : column + w].mean((1, 2)))
            for row in range(0, height - h + 1, max(1, h // 2))
            for column in range(0, width - w + 1, max(1, w // 2))
        ]
        nearest = [int(np.argmin([((v - centre) ** 2).sum() for centre in CENTRES])) for v in windows]
        shares = np.array([[float(k == own) for own in nearest] for k in range(3)])
        sums = residuals(np.array(windows), shares)
        out.append(unit((np.sign(sums) * np.sqrt(np.abs(sums))).ravel()))
    return np.concatenate(out)


ORACLES = {
    "mac": lambda x, s: np.array([channel.max() for channel in x]),
    "gap": lambda x, s: np.array([channel.mean() for channel in x]),
    "spoc": spoc,
    "gem": lambda x, s: np.array([(np.maximum(channel, 1e-6) ** 3).mean() ** (1 / 3) for channel in x]),
    "attention": lambda x, s: np.array([(channel * s).sum() for channel in x]),
    "rmac": lambda x, s: sum(unit(x[:, b:d, a:c].max((1, 2))) for a, b, c, d in boxes(x)),
    "attention_rmac": lambda x, s: sum(
        s[b:d, a:c].mean() * unit(x[:, b:d, a:c].max((1, 2))) for a, b, c, d in boxes(x)
    ),
    "crow": crow,
    "scda": scda,
    "pwa": pwa,
    "covariance": covariance,
    "netvlad": netvlad,
    "mop": mop,
}


def pooled(name: str, x: Array, s: Array) -> Array:
    given = {key: torch.from_numpy(value) for key, value in PARAMETERS.get(name, {}).items()}
    found = POOLINGS[name](torch.from_numpy(x), torch.from_numpy(s), **given)
    return np.asarray(found.numpy())


def drawn(seed: int, height: int, width: int, count: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(size=(count, 5, height, width)), 0)
    return features, rng.gamma(2.0, 1.0, (count, height, width))


def test_every_pooling_has_an_oracle() -> None:
    assert set(ORACLES) == set(POOLINGS)


@pytest.mark.parametrize("name", POOLINGS)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_pooling_is_its_definition(name: str, seed: int, height: int, width: int) -> None:
    x, s = drawn(seed, height, width)
    np.testing.assert_allclose(pooled(name, x, s)[0], ORACLES[name](x[0], s[0]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", POOLINGS)
def test_images_of_a_batch_do_not_know_each_other(name: str) -> None:
    x, s = drawn(0, 6, 7, count=3)
    alone = np.concatenate([pooled(name, x[i : i + 1], s[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(pooled(name, x, s), alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", POOLINGS)
def test_nothing_to_see_is_finite(name: str) -> None:
    x, s = np.zeros((1, 5, 4, 4)), np.zeros((1, 4, 4))
    assert np.isfinite(pooled(name, x, s)).all()


def test_gem_has_an_exponent_for_each_channel_and_learns_it() -> None:
    x, s = drawn(0, 5, 5)
    p = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64, requires_grad=True)
    found = POOLINGS["gem"](torch.from_numpy(x), torch.from_numpy(s), p=p)
    wanted = [(np.maximum(channel, 1e-6) ** k).mean() ** (1 / k) for k, channel in enumerate(x[0], start=1)]
    np.testing.assert_allclose(found[0].detach().numpy(), wanted, rtol=1e-9)
    found.sum().backward()
    assert p.grad is not None
    assert (p.grad > 0).all()
