"""Global heads: levels added, whitened, saved with a hash that covers all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from delf_engine.errors import CheckpointError
from delf_engine.extraction import Extractor
from delf_engine.index import Codebook
from delf_engine.model import GlobalHead, global_head_path, load_global_head, read_checkpoint_info
from delf_engine.model.check import check_checkpoint, copy_checkpoint
from helpers import raises, write_tiny_model


def head(**changes: Any) -> GlobalHead:
    rng = np.random.default_rng(0)
    made = GlobalHead(
        "gem",
        rng.normal(size=6).astype(np.float32),
        rng.normal(size=(6, 4)).astype(np.float32),
        {"p": np.array(3.0, np.float32)},
    )
    return replace(made, **changes)


def maps(*sizes: tuple[int, int]) -> Any:
    rng = np.random.default_rng(2)
    cells = [np.maximum(rng.normal(size=(h * w, 6)), 0).astype(np.float32) for h, w in sizes]
    return [(torch.from_numpy(c), np.ones(size, np.float32)) for c, size in zip(cells, sizes, strict=True)]


def unit(x: Any) -> Any:
    return x / np.linalg.norm(x)


def test_levels_are_normalised_added_and_whitened() -> None:
    levels = maps((3, 4), (6, 8), (2, 2))
    means = [(np.maximum(cells.numpy(), 1e-6).astype(float) ** 3).mean(0) ** (1 / 3) for cells, _ in levels]
    one = head()
    wanted = unit((unit(sum(map(unit, means))) - one.mean) @ one.matrix)
    found = one(levels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    largest = head(levels=2)(levels)
    np.testing.assert_array_equal(largest, one(levels[:2]))
    np.testing.assert_array_equal(head(levels=1)(levels), one(levels[1:2]))


@pytest.mark.parametrize("levels", [[], [(torch.zeros(6, 6), np.zeros((2, 3), np.float32))]])
def test_what_cannot_be_pooled_is_zeros(levels: Any) -> None:
    np.testing.assert_array_equal(head(pooling="gap", parameters={})(levels), np.zeros(4, np.float32))


def test_bits_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(np.maximum(rng.normal(size=(64 * 48, 256)), 0).astype(np.float32))
    one = GlobalHead("gem", np.zeros(256, np.float32), np.eye(256, dtype=np.float32), {"p": np.float32(3)})
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(one([(cells, np.ones((48, 64), np.float32))]).tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    one, path = head(levels=2, model="m@1"), tmp_path / "a.global.safetensors"
    one.save(path)
    again = GlobalHead.load(path)
    assert (again.identity, again.levels, again.model) == (one.identity, 2, "m@1")
    np.testing.assert_array_equal(again(maps((4, 4), (2, 3))), one(maps((4, 4), (2, 3))))


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    target = tmp_path / "none" / "a.global.safetensors"
    with raises(CheckpointError, str(target)):
        head().save(target)


def test_the_identity_tells_all_apart_that_changes_vectors() -> None:
    others = [head(), head(levels=1), head(pooling="gap"), head(parameters={"p": np.array(2.0, np.float32)})]
    others.append(head(mean=np.zeros(6, np.float32)))
    assert len({one.identity for one in others}) == len(others)
    assert head(model="x").hash == head().hash


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.global.safetensors"
    with raises(CheckpointError, str(path)):
        GlobalHead.load(path)
    path.write_bytes(b"no")
    with raises(CheckpointError, str(path)):
        GlobalHead.load(path)
    model = write_tiny_model(tmp_path)
    with raises(CheckpointError, str(model)):  # safetensors of another sort
        GlobalHead.load(model)
    head().save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with raises(CheckpointError, str(path)):
        GlobalHead.load(path)


def test_it_goes_with_its_checkpoint_and_no_other(tmp_path: Path) -> None:
    model, goal = write_tiny_model(tmp_path), tmp_path / "copy" / "mine.safetensors"
    identity = read_checkpoint_info(model).identity
    assert load_global_head(model, identity) is None
    head(model=identity).save(tmp_path / "tiny.global.safetensors")
    assert goal.with_name("mine.global.safetensors") in copy_checkpoint(model, goal, Codebook.load)
    copied = load_global_head(goal, identity)
    assert copied is not None
    assert copied.identity == head().identity
    head(model="another@1").save(tmp_path / "tiny.global.safetensors")
    with raises(CheckpointError, "another@1", identity):
        Extractor.from_pretrained(model)
    failed = [check.what for check in check_checkpoint(model, Codebook.load) if not check.ok]
    assert failed == ["global head"]
    with raises(CheckpointError, "another@1"):
        copy_checkpoint(model, goal, Codebook.load, replace=True)
    (tmp_path / "tiny.global.safetensors").unlink()
    copy_checkpoint(model, goal, Codebook.load, replace=True)
    assert global_head_path(goal) is None  # that of the one before is gone


def test_it_lies_beside_its_checkpoint(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path)
    assert global_head_path(model) is None
    beside = model.with_name(f"{model.stem}.global.safetensors")
    head().save(beside)
    assert global_head_path(model) == beside


@pytest.mark.parametrize("pooling", ["mac", "gap", "gem", "attention", "rmac", "covariance", "mop"])
@pytest.mark.parametrize("levels", [None, 1])
def test_a_batch_has_the_vectors_of_its_images(pooling: str, levels: int | None) -> None:
    rng = np.random.default_rng(4)
    parameters = {"gem": {"p": np.float32(3)}, "mop": {"centres": rng.normal(size=(2, 6)).astype(np.float32)}}
    batch = [
        (
            torch.from_numpy(rng.random((3, 6, h, w), np.float32)),
            torch.from_numpy(rng.random((3, h, w), np.float32)),
        )
        for h, w in ((3, 4), (6, 8))
    ]
    for features, _ in batch:
        features[1] = 0  # nothing to pool, for most
    size = {"covariance": 21, "mop": 30}.get(pooling, 6)
    values = [rng.normal(size=shape).astype(np.float32) for shape in (size, (size, 4))]
    one = GlobalHead(pooling, *values, parameters.get(pooling, {}), levels)  # type: ignore[arg-type]
    found = one.of_batch(batch).numpy()
    for i, vector in enumerate(found):
        alone = [(f[i].permute(1, 2, 0).reshape(-1, 6), s[i].numpy()) for f, s in batch]
        np.testing.assert_allclose(vector, one(alone), atol=1e-5)
