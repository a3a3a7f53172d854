"""Cached views: the same bits from memory, from files, and computed again."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from delf_engine.errors import DataError
from delf_engine.model.backbones import Trunk, build_trunk
from delf_engine.training import load_training_config
from delf_engine.training.batches import START, Level
from delf_engine.training.sources.views import draw_rows, gather_pairs, photo_items
from delf_engine.training.stores import Encoder, Stores, ViewStore
from helpers import raises
from training_helpers import fail

VIEWS = load_training_config("delf_contrast").views.model_copy(update={"count": 2, "size": 64})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> Trunk:
    torch.manual_seed(0)
    return build_trunk("resnet18").requires_grad_(False)


class _Means:
    """A teacher of one channel: the mean colour."""

    channels = 1

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((1, 2, 3))[:, None, None, None].expand(-1, 1, 4, 4)


def _encoder(trunk: Trunk, level: Level, *, teacher: bool = False) -> Encoder:
    return Encoder(trunk, level, {"means": _Means()} if teacher else {}, CPU, torch.float32)


def _stores(limit: int, folder: Path | None = None, **options: Any) -> Stores:
    return Stores(limit=limit, folder=folder, **{"on_error": fail, **options})


def _all(store: ViewStore) -> list[dict[str, torch.Tensor]]:
    return [store.maps(int(row)) for row in store.rows]


def _equal(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("level", ["images", "conv3", "conv4"])
def test_cached_or_not_memory_or_files_any_workers(
    photos: list[str], network: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: Level
) -> None:
    items = photo_items(photos, VIEWS, 0)
    cached, none, some = _stores(10**9, workers=3), _stores(0), _stores(70_000)
    found = []
    for stores in (cached, none, some):
        stores.begin(_encoder(network, level, teacher=True))
        found.append(stores.open("views", items))
    assert [len(store.cache) for store in found[:2]] == [7, 0]
    assert 0 < len(found[2].cache) < 7
    assert found[2].cache.used <= 70_000
    monkeypatch.setattr("delf_engine.training.stores.memory_bytes", lambda: 0)
    files = _stores(10**9, tmp_path / "cache")
    files.begin(_encoder(network, level, teacher=True))
    found.append(files.open("views", items))
    assert len(list((tmp_path / "cache" / "views").iterdir())) == 7
    first = _all(found[0])
    assert set(first[0]) == {level, "means"}
    assert all(_equal(first, _all(store)) for store in found[1:])
    files.close()
    assert not (tmp_path / "cache" / "views").exists()


@pytest.mark.parametrize("level", ["images", "conv3", "conv4"])
def test_a_batch_lies_in_memory_as_convolutions_want_it_wherever_it_comes_from(
    photos: list[str], network: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: Level
) -> None:
    monkeypatch.setattr("delf_engine.training.stores.memory_bytes", lambda: 0)
    batches = []
    for limit, folder in ((10**9, None), (10**9, tmp_path), (0, None)):
        stores = _stores(limit, folder)
        stores.begin(_encoder(network, level))
        store = stores.open("views", photo_items(photos[:3], VIEWS, 0))
        alone = store.maps(1)[level]
        batch = gather_pairs(store, [2, 0], [(0, 1), (1, 0)]).maps[level]
        assert torch.equal(
            batch, torch.stack([store.maps(i)[level][v] for i, v in ((2, 0), (0, 1), (2, 1), (0, 0))])
        )
        for value in (alone, batch):
            assert value.is_contiguous(
                memory_format=torch.contiguous_format if level == "images" else torch.channels_last
            )
        batches.append((alone.stride(), batch.stride()))
    assert len(set(batches)) == 1


@pytest.mark.parametrize("limit", [10**9, 150_000, 0])
def test_conv3_becomes_conv4_in_place(photos: list[str], network: Trunk, limit: int) -> None:
    items = photo_items(photos, VIEWS, 0)
    direct, advanced = _stores(10**9), _stores(limit)
    direct.begin(_encoder(network, "conv4"))
    advanced.begin(_encoder(network, "conv3", teacher=True))
    before = advanced.open("views", items)
    held = len(before.cache)
    advanced.begin(_encoder(network, "conv4"))
    after = advanced.open("views", items)
    assert after is before
    assert held <= len(after.cache)
    assert after.cache.used <= limit
    assert _equal(_all(direct.open("views", items)), _all(after))


def test_a_changed_trunk_or_recipe_is_rendered_again(photos: list[str], network: Trunk) -> None:
    stores = _stores(10**9)
    stores.begin(_encoder(network, "conv3"))
    first = stores.open("views", photo_items(photos, VIEWS, 0))
    assert stores.open("views", photo_items(photos, VIEWS, 0)) is first
    assert stores.open("views", photo_items(photos, VIEWS, 1)) is not first
    torch.manual_seed(1)
    stores.begin(_encoder(build_trunk("resnet18").requires_grad_(False), "conv3"))
    assert stores.open("views", photo_items(photos, VIEWS, 1)) is not first


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize("in_files", [False, True])
def test_maps_of_the_start(
    photos: list[str], network: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, in_files: bool
) -> None:
    if in_files:
        monkeypatch.setattr("delf_engine.training.stores.memory_bytes", lambda: 0)
    trunk = copy.deepcopy(network)
    stores = _stores(limit, tmp_path / "maps")
    encoder = replace(_encoder(trunk, "conv3"), start=copy.deepcopy(trunk))
    stores.begin(encoder)
    store = stores.open("views", photo_items(photos, VIEWS, 0))
    expected = [network.last(maps["conv3"].float()) for maps in _all(store)]
    torch.nn.init.zeros_(trunk.layer3[0].conv1.weight)  # trained meanwhile
    found = [maps[START] for maps in _all(store)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert found[0].dtype == torch.float32
    # Another start is another map; none is none.
    stores.begin(replace(encoder, start=copy.deepcopy(trunk)))
    other = stores.open("views", photo_items(photos, VIEWS, 0))
    assert not torch.equal(_all(other)[0][START], found[0])
    stores.begin(_encoder(trunk, "conv3"))
    assert START not in _all(stores.open("views", photo_items(photos, VIEWS, 0)))[0]
    stores.close()


def test_a_sample_says_what_all_would_take(photos: list[str], network: Trunk) -> None:
    whole, part = _stores(10**9), _stores(10**9, sample=3)
    for stores in (whole, part):
        stores.begin(_encoder(network, "conv3"))
        stores.open("views", photo_items(photos, VIEWS, 0))
    assert part.planned["views"][:2] == (7, whole.open("views", photo_items(photos, VIEWS, 0)).cache.used)
    assert len(part.open("views", photo_items(photos, VIEWS, 0))) == 3


def test_unreadable_photographs_leave_the_others_as_they_are(
    photos: list[str], network: Trunk, tmp_path: Path
) -> None:
    seen: list[str] = []
    stores = _stores(10**9, on_error=lambda path, _: seen.append(path))
    stores.begin(_encoder(network, "conv4"))
    missing = str(tmp_path / "none.png")
    store = stores.open("views", photo_items([photos[0], missing, photos[2]], VIEWS, 0))
    assert seen == [missing]
    assert store.rows.tolist() == [0, 2]
    whole = _stores(10**9)
    whole.begin(_encoder(network, "conv4"))
    others = whole.open("views", photo_items(photos[:3], VIEWS, 0))
    assert torch.equal(store.maps(2)["conv4"], others.maps(2)["conv4"])
    with raises(DataError):
        stores.open("views", photo_items([photos[0], missing], VIEWS, 0))


def test_draws_are_a_function_of_the_index_and_use_all_before_one_comes_again() -> None:
    rows = np.arange(10, dtype=np.int64) * 3
    drawn = [draw_rows(rows, 3, i, seed=(1, 2)) for i in range(6)]
    assert all(len(set(d.tolist())) == 3 for d in drawn)
    for epoch in (drawn[:3], drawn[3:]):
        assert len(set(np.concatenate(epoch).tolist())) == 9
    assert np.array_equal(draw_rows(rows, 3, 4, seed=(1, 2)), drawn[4])
    assert not np.array_equal(draw_rows(rows, 3, 4, seed=(1, 3)), drawn[4])
    assert len(draw_rows(rows, 99, 5, seed=(0,))) == 10
