"""Merging, damaged segments, marks, advice: what every index does alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from delf_engine.errors import ConfigError, DelfEngineWarning, FormatError
from delf_engine.index import IndexInfo, check_index
from helpers import raises
from index.kinds import IMAGES, NAMES, Kind, assert_same
from index.segments.test_disk import damages


def in_segments(kind: Kind, folder: Path, groups: list[list[str]]) -> Any:
    """An index saved once for each group of names."""
    index = kind.new()
    for names in groups:
        index.add(names, [IMAGES[name] for name in names])
        index.save(folder)
    return index


def test_any_number_of_threads_makes_the_same_index(kind: Kind) -> None:
    index = kind.new()
    assert index.add(NAMES, list(IMAGES.values()), threads=3) == NAMES
    assert_same(index, kind.of(NAMES))


def test_compact_leaves_one_segment(kind: Kind, tmp_path: Path) -> None:
    index = in_segments(kind, tmp_path, [NAMES[:3], NAMES[3:6], NAMES[6:]])
    index.remove([NAMES[4]])
    index.save(tmp_path)
    index.compact()
    left = [name for name in NAMES if name != NAMES[4]]
    assert_same(index, kind.of(left))
    assert index.info().segments == 3  # until it is saved
    index.save(tmp_path)
    assert (index.info().segments, index.info().removed) == (1, 0)
    assert len(list(tmp_path.glob("segment-*"))) == 1
    assert_same(index, kind.of(left))
    assert_same(kind.load(tmp_path), kind.of(left))
    before = sorted(tmp_path.rglob("*"))
    index.compact()
    index.save(tmp_path)  # there is nothing to merge
    assert sorted(tmp_path.rglob("*")) == before
    index.remove(index.ids())
    index.compact()
    index.save(tmp_path)
    assert kind.load(tmp_path).ids() == []


def test_a_merge_that_fails_is_not_tried_again(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = in_segments(kind, tmp_path, [NAMES[:3], NAMES[3:6]])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    index.compact()
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with raises(FormatError, "No space left"):
            index.save(tmp_path)
    assert_same(kind.load(tmp_path), kind.of(NAMES[:6]))
    index.remove([NAMES[0]])
    index.save(tmp_path)  # smaller than the merge
    assert kind.load(tmp_path).info().segments == 2


@pytest.mark.parametrize(("message", "damage"), damages())
def test_the_other_segments_stay_readable(
    kind: Kind, tmp_path: Path, message: str, damage: Callable[[Path], object]
) -> None:
    index = in_segments(kind, tmp_path / "good", [NAMES[:3], NAMES[3:6], NAMES[6:]])
    index.remove([NAMES[4]])
    index.save(tmp_path / "good")
    assert all(problem is None for _, problem in check_index(tmp_path / "good"))
    names = sorted(file.name for file in (tmp_path / "good" / "segment-00000002").iterdir())
    assert sum("dead" in name for name in names) == 1
    left = [*NAMES[:3], *NAMES[6:]]
    for name in names:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "good", folder)
        file = folder / "segment-00000002" / name
        damage(file)
        (found,) = [entry for entry in check_index(folder) if entry[1] is not None]
        assert found[0] == file
        assert message in str(found[1])
        with raises(FormatError, str(file), message):
            kind.load(folder)
        with pytest.warns(DelfEngineWarning, match=rf"{name}.*{message}.* 3 .*segment-00000002") as caught:
            index = type(index).load(folder, kind.encoder, damaged="skip")
        assert caught[0].filename == __file__  # whoever loads it
        assert index.damaged == ("segment-00000002",)
        assert_same(index, kind.of(left))
        index.add([NAMES[4]], [IMAGES[NAMES[4]]])
        index.save(folder)
        assert index.damaged == ()
        assert not file.parent.exists()
        assert_same(kind.load(folder, damaged="skip"), kind.of([*left, NAMES[4]]))
    with raises(ConfigError, "ignore"):
        kind.load(folder, damaged="ignore")


def test_an_index_that_takes_the_place_of_another_meanwhile(kind: Kind, tmp_path: Path) -> None:
    kind.of(NAMES).save(tmp_path)
    index = kind.new()
    with raises(FormatError, str(tmp_path)):
        index._collection.open(tmp_path, {"another": "header"})


def test_a_mark_is_saved_with_the_index(kind: Kind, tmp_path: Path) -> None:
    index = kind.of(NAMES[:3])
    index.save(tmp_path)
    assert kind.load(tmp_path).mark is None
    files = sorted(tmp_path.rglob("*"))
    index.mark = {"commit": 3, "token": "x"}
    index.save(tmp_path)
    assert sorted(tmp_path.rglob("*")) == files
    loaded = kind.load(tmp_path)
    assert loaded.mark == {"commit": 3, "token": "x"}
    loaded.add(NAMES[3:], [IMAGES[name] for name in NAMES[3:]])
    loaded.save(tmp_path)
    assert kind.load(tmp_path).mark == {"commit": 3, "token": "x"}
    assert_same(kind.load(tmp_path), kind.of(NAMES))


def test_advice() -> None:
    info = IndexInfo("kdtree", images=10, removed=0, entries=2_000_000, bytes=1, segments=1, dim=40)
    assert info.advice is None
    assert info.to_dict()["advice"] is None
    large = replace(info, entries=2_000_001)
    assert "'asmk'" in str(large.advice)
    assert large.to_dict()["advice"] == large.advice
    assert replace(large, kind="asmk").advice is None
    worn = replace(info, kind="asmk", images=4000, removed=1000)
    assert "compact" in str(worn.advice)
    assert replace(worn, images=4001).advice is None
    assert replace(worn, images=0, removed=999).advice is None
