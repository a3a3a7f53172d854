from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.model.backbones import build_trunk
from delf_engine.training import TrainingConfig, load_training_config, views
from delf_engine.training.contract import SourceContext
from delf_engine.training.correspondence import project
from delf_engine.training.sources.mined import (
    MinedOptions,
    MinedPair,
    MinedSource,
    companions,
    places,
    read_pairs,
)
from delf_engine.training.stores import Encoder, Stores
from helpers import raises, random_photo, write_image
from training_helpers import fail, source_context

Tiny = Callable[..., TrainingConfig]
VIEWS = load_training_config("delf_contrast").views.model_copy(update={"count": 3, "size": 96})
H = np.array([[1.05, 0.05, -10], [-0.04, 0.95, 8], [1e-4, 0, 1]])


def _line(a: str, b: str, **changes: Any) -> str:
    grid = np.stack(np.meshgrid([60.0, 90, 120, 150], [50.0, 80, 110]), -1).reshape(-1, 2)
    points = np.c_[grid, project(H, grid)]
    return json.dumps({"a": a, "b": b, "homography": H.tolist(), "points": points.tolist(), **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four places, two photographs of each, the second a warp of the first; and their pairs."""
    path, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    lines = []
    for i in range(4):
        photo = cv2.GaussianBlur(random_photo(rng, 220, 170), (0, 0), 2)
        write_image(path / f"a{i}.png", photo)
        write_image(path / f"b{i}.png", np.asarray(cv2.warpPerspective(photo, H, (220, 170)), np.uint8))
        lines.append(_line(f"a{i}.png", f"b{i}.png"))
    (path / "pairs.jsonl").write_text("\n".join([*lines, "", ""]))
    return path


def _context(folder: Path, **changes: Any) -> SourceContext:
    stores = Stores(limit=10**9, on_error=changes.get("on_error", fail))
    torch.manual_seed(0)
    trunk = build_trunk("resnet18").requires_grad_(False)
    stores.begin(Encoder(trunk, "images", {}, torch.device("cpu"), torch.float32))
    photos = [str(folder / f"{side}{i}.png") for i in range(4) for side in "ab"]
    values = {"views": VIEWS, "stores": stores, "pairs": folder / "pairs.jsonl", **changes}
    return source_context(photos, **values)


def test_views_of_both_photographs_overlap_where_the_homography_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_photometric", lambda view, *_: view)
    source = MinedSource(MinedOptions(kind="mined"), _context(folder))
    for index in range(4):
        batch = source.batch(index)
        assert batch.homographies is not None
        assert batch.supports is not None
        first, second = batch.maps["images"].chunk(2)
        for i, homography in enumerate(batch.homographies):
            warped = cv2.warpPerspective(first[i].numpy(), homography, (96, 96)).astype(float)
            seen = cv2.warpPerspective(np.ones((96, 96), np.uint8), homography, (96, 96)) > 0
            assert seen.mean() > 0.2
            # Photograph b ends where the warp of a does: its black border is not compared.
            seen &= (second[i].numpy() > 0).all(2) & (warped > 0).all(2)
            correlation = np.corrcoef(warped[seen].ravel(), second[i].numpy()[seen].astype(float).ravel())[0, 1]
            assert correlation > 0.9
            inside = project(homography, batch.supports[i])
            assert ((inside > -20) & (inside < 116)).all(1).mean() > 0.5


def test_a_share_of_views_shares_the_places(folder: Path) -> None:
    source = MinedSource(MinedOptions(kind="mined", share=0.4), _context(folder, batch=5))
    batch = source.batch(0)
    assert len(batch) == 10
    assert torch.equal(source.batch(0).maps["images"], batch.maps["images"])
    assert not torch.equal(source.batch(1).maps["images"], batch.maps["images"])
    assert batch.supports is not None
    assert batch.groups is not None
    assert [points is None for points in batch.supports] == [False, False, True, True, True]
    alone = MinedSource(MinedOptions(kind="mined"), _context(folder, batch=2)).batch(0)
    assert torch.equal(batch.maps["images"][:2], alone.maps["images"][:2])
    assert torch.equal(batch.maps["images"][5:7], alone.maps["images"][2:])
    assert source.views is not None
    shown = [source.context.photos[row] for row in source.views.rows(0, 3)]
    assert [source.places[str(Path(path).resolve())] for path in shown] == batch.groups[2:].tolist()


def test_pairs_of_held_out_photographs_are_left_out(folder: Path) -> None:
    source = MinedSource(MinedOptions(kind="mined"), _context(folder, held_out=[str(folder / "b1.png")]))
    assert [Path(pair.a).name for pair in source.pairs] == ["a0.png", "a2.png", "a3.png"]
    with raises(DataError):
        MinedSource(
            MinedOptions(kind="mined"), _context(folder, held_out=[str(folder / f"a{i}.png") for i in "012"])
        )
    with raises(ConfigError, "--pairs", "FILE"):
        MinedSource(MinedOptions(kind="mined"), _context(folder, pairs=None))


def test_a_missing_photograph_is_reported(folder: Path, tmp_path: Path) -> None:
    lines = [_line(str(folder / f"a{i}.png"), str(folder / f"b{i}.png")) for i in range(2)]
    (tmp_path / "pairs.jsonl").write_text("\n".join([_line("none.png", str(folder / "a0.png")), *lines]))
    seen: list[str] = []
    context = _context(folder, pairs=tmp_path / "pairs.jsonl", on_error=lambda path, _: seen.append(path))
    source = MinedSource(MinedOptions(kind="mined"), context)
    assert len(seen) == 1
    assert "none.png" in seen[0]
    assert len(source.store) == 2


def _pair(a: str, b: str) -> MinedPair:
    return MinedPair(a, b, np.eye(3), np.zeros((1, 4)))


def test_companions_show_what_looks_alike_at_another_place() -> None:
    pairs = [_pair("/a", "/b"), _pair("/b", "/c"), _pair("/d", "/e"), _pair("/e", "/f"), _pair("/g", "/h")]
    alike = [("/b", "/e"), ("/a", "/c"), ("/h", "/nowhere")]  # one place of a chain; in no pair
    assert companions(pairs, alike) == {0: [2, 3], 1: [2, 3], 2: [0, 1], 3: [0, 1]}
    assert companions(pairs, []) == {}


def test_look_alikes_are_drawn_together(folder: Path, tmp_path: Path) -> None:
    alike = json.dumps({"a": str(folder / "a0.png"), "b": str(folder / "b2.png"), "same": False})
    lines = [_line(str(folder / f"a{i}.png"), str(folder / f"b{i}.png")) for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("\n".join([*lines, alike]))
    context = _context(folder, pairs=tmp_path / "pairs.jsonl", batch=2)
    plain, hard = (MinedSource(MinedOptions(kind="mined", alike=share), context) for share in (0.0, 0.5))
    for index in range(8):
        first, other = plain.batch(index).groups, hard.batch(index).groups
        assert first is not None
        assert other is not None
        expected = {0: 2, 2: 0}.get(first[0], first[1])
        assert other.tolist() == [first[0], expected]


def test_a_look_alike_that_cannot_be_read_is_not_drawn(folder: Path, tmp_path: Path) -> None:
    alike = json.dumps({"a": str(folder / "a0.png"), "b": "none.png", "same": False})
    lines = [_line(str(folder / f"a{i}.png"), str(folder / f"b{i}.png")) for i in range(3)]
    lines.append(_line("none.png", str(folder / "b3.png")))
    (tmp_path / "pairs.jsonl").write_text("\n".join([*lines, alike]))
    context = _context(folder, pairs=tmp_path / "pairs.jsonl", batch=2, on_error=lambda *_: None)
    source = MinedSource(MinedOptions(kind="mined", alike=0.5), context)
    for index in range(6):
        assert len(source.batch(index)) == 4


def test_chains_of_pairs_are_one_place() -> None:
    found = places([_pair("/a", "/b"), _pair("/c", "/d"), _pair("/e", "/b"), _pair("/f", "/f")])
    assert found["/a"] == found["/b"] == found["/e"]
    assert len({found["/a"], found["/c"], found["/f"]}) == 3
    assert found["/c"] == found["/d"]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{", "Expecting"),
        ("[1]", "JSON object"),
        ('{"a": "x"}', "'b'"),
        (_line("a", ""), "paths"),
        (_line("a", "b", homography=[[1, 2], [3, 4]]), "(2, 2)"),
        (_line("a", "b", homography=[[1, 0, 0], [0, 1, 0], [1, 1, 0]]), "singular"),
        (_line("a", "b", homography="x"), "homographies"),
        (_line("a", "b", points=[]), "points"),
        (_line("a", "b", points=[[1, 2, 3]]), "(1, 3)"),
        (_line("a", "b", points=[[1, 2, 3, None]]), "points"),
        (_line("a", "b", points=[[1, 2, 3, float("inf")]]), "points"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path: Path, text: str, fact: str) -> None:
    path = tmp_path / "pairs.jsonl"
    with raises(FormatError, "pairs.jsonl"):
        read_pairs(path)
    path.write_text("\n")
    with raises(FormatError, "pairs.jsonl"):
        read_pairs(path)
    path.write_text(_line("a", "b") + "\n" + text + "\n")
    with raises(FormatError, "pairs.jsonl, line 2", fact):
        read_pairs(path)
