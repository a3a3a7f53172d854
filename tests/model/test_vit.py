"""ViT trunks: maps of images of any size, and where their cells lie."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.model.backbones import ARCHITECTURES, Trunk, VitArchitecture, build_trunk

SIDES = st.integers(1, 50)


@pytest.fixture(scope="module")
def trunk() -> Iterator[Trunk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "vit", VitArchitecture(16, 2, 2, stride=14, grid=4, registers=1))
        torch.manual_seed(0)
        yield build_trunk("vit").requires_grad_(False)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@given(height=SIDES, width=SIDES)
def test_any_size_is_padded_by_its_edges(trunk: Trunk, height: int, width: int) -> None:
    x = noise(1, 3, height, width)
    found = trunk(x)
    h, w = -(-height // 14), -(-width // 14)
    assert found.shape == (1, 16, h, w)
    assert torch.isfinite(found).all()
    whole = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 14 * h - height), (0, 14 * w - width)), mode="edge")
    assert torch.equal(trunk(torch.from_numpy(whole)), found)


def test_images_of_a_batch_do_not_see_each_other(trunk: Trunk) -> None:
    x = noise(3, 3, 45, 31)
    alone = torch.cat([trunk(one[None]) for one in x])
    torch.testing.assert_close(trunk(x), alone, rtol=0, atol=1e-6)


def test_a_cell_is_centred_on_its_patch(trunk: Trunk) -> None:
    x = torch.ones(1, 3, 70, 70, requires_grad=True)
    trunk.stem(x)[0, :, 2, 3].sum().backward()
    rows, columns = (np.flatnonzero(x.grad[0].abs().sum((0, axis)).numpy()) for axis in (2, 1))  # type: ignore[index]
    for seen, cell in ((rows, 2), (columns, 3)):
        assert (seen[0] + seen[-1]) / 2 == trunk.offset + trunk.stride * cell == 6.5 + 14 * cell
