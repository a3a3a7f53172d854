"""Replacing, merging, another order, damaged segments, marks, advice: what every index does alike."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DelfEngineWarning, FormatError, MismatchError, UnknownIdError
from delf_engine.index import IndexInfo, check_index, segments
from delf_engine.index.advice import KDTREE_DESCRIPTORS, REMOVED_IMAGES, advice
from helpers import random_features
from index.kinds import IMAGES, NAMES, QUERY, RNG, Kind, assert_same
from index.test_disk import damages


def in_segments(kind: Kind, folder: Path, groups: list[list[str]]) -> Any:
    """An index saved once for each group of names."""
    index = kind.new()
    for names in groups:
        index.add(names, [IMAGES[name] for name in names])
        index.save(folder)
    return index


def made_anew(kind: Kind, items: dict[str, Any]) -> Any:
    index = kind.new()
    index.add(list(items), list(items.values()))
    return index


# ---------------------------------------------------------------------------------------------------- adding


def test_any_number_of_threads_makes_the_same_index(kind: Kind) -> None:
    index = kind.new()
    assert index.add(NAMES, list(IMAGES.values()), threads=3) == NAMES
    assert_same(index, kind.of(NAMES))
    with pytest.raises(ConfigError, match="threads"):
        index.add([], [], threads=0)


# ------------------------------------------------------------------------------------------------- replacing


def test_replaced_images_are_the_last_with_new_features(kind: Kind, tmp_path: Path) -> None:
    index = in_segments(kind, tmp_path, [NAMES[:3], NAMES[3:6]])
    index.add(NAMES[6:], [IMAGES[name] for name in NAMES[6:]])  # waiting
    index.search(QUERY, 3)
    names = [NAMES[4], NAMES[7], NAMES[0]]
    new = {name: random_features(RNG, 9, 8) for name in names}
    assert index.replace([*names, names[0]], [*new.values(), QUERY]) == names
    wanted = {name: IMAGES[name] for name in NAMES if name not in names} | new
    assert_same(index, made_anew(kind, wanted))
    assert_same(kind.load(tmp_path), kind.of(NAMES[:6]))  # until it is saved
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), made_anew(kind, wanted))
    assert index.replace([], []) == []


def test_nothing_is_replaced_if_one_does_not_fit(kind: Kind) -> None:
    index = kind.of(NAMES)
    for ids, features, error in (
        ([NAMES[0], "nobody"], [QUERY, QUERY], UnknownIdError),
        ([NAMES[0], NAMES[1]], [QUERY, random_features(RNG, 2, 9)], MismatchError),
        ([NAMES[0]], [], ConfigError),
        ("image 1", [QUERY], ConfigError),
    ):
        with pytest.raises(error):
            index.replace(ids, features)
    assert_same(index, kind.of(NAMES))


@pytest.mark.parametrize("waiting", [True, False])
def test_nothing_is_lost_if_adding_fails(kind: Kind, waiting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    index = kind.of(NAMES)
    if not waiting:
        index.search(QUERY, 1)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(index, "add", fail)
        with pytest.raises(MemoryError):
            index.replace(NAMES[2:4], [QUERY, QUERY])
    assert_same(index, kind.of(NAMES))


# --------------------------------------------------------------------------------------------------- merging


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
    index.remove([NAMES[0]])
    index.compact()
    index.save(tmp_path)
    assert (index.info().segments, index.info().removed) == (1, 0)
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
        with pytest.raises(FormatError, match="No space left"):
            index.save(tmp_path)
    assert_same(kind.load(tmp_path), kind.of(NAMES[:6]))
    index.remove([NAMES[0]])
    index.save(tmp_path)  # smaller than the merge
    assert kind.load(tmp_path).info().segments == 2


# --------------------------------------------------------------------------------------------- another order


@settings(max_examples=40)
@given(
    st.sampled_from(["asmk", "kdtree"]),
    st.lists(st.integers(1, 3), max_size=6),
    st.sets(st.sampled_from(range(8)), max_size=3),
    st.permutations(range(8)),
    st.sampled_from([1, 2, 64]),
)
def test_any_order_is_that_of_an_index_made_so(
    name: str, sizes: list[int], removed: set[int], order: list[int], pieces: int
) -> None:
    kind = Kind(name)
    cuts = np.minimum(np.cumsum([0, *sizes, 8]), 8)
    groups = [NAMES[a:b] for a, b in pairwise(cuts) if b > a]
    wanted = [NAMES[i] for i in order if i not in removed]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_PIECES", pieces)
        index = in_segments(kind, Path(folder), groups)
        index.remove([NAMES[i] for i in removed])
        index.search(QUERY, 1)
        index.reorder(wanted)
        assert_same(index, kind.of(wanted))
        index.save(folder)
        assert_same(index, kind.of(wanted))
        assert_same(kind.load(Path(folder)), kind.of(wanted))


def test_segments_that_only_change_places_are_not_written_again(kind: Kind, tmp_path: Path) -> None:
    index = in_segments(kind, tmp_path, [NAMES[:3], NAMES[3:6], NAMES[6:]])
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("segment-*/*")}
    order = [*NAMES[6:], *NAMES[:3], *NAMES[3:6]]
    index.reorder(order)
    index.save(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("segment-*/*")} == files
    assert_same(kind.load(tmp_path), kind.of(order))


@pytest.mark.parametrize("bad", [NAMES[:-1], [*NAMES, "nobody"], [*NAMES[:-1], NAMES[0]], [*NAMES[:-1], "nobody"]])
def test_an_order_names_every_image_once(kind: Kind, bad: list[str]) -> None:
    index = kind.of(NAMES)
    with pytest.raises(ConfigError, match="each of the 8 images"):
        index.reorder(bad)
    assert_same(index, kind.of(NAMES))


# ---------------------------------------------------------------------------------------- damaged segments


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
        with pytest.raises(FormatError, match=rf"segment-00000002.*{message}"):
            kind.load(folder)
        with pytest.warns(
            DelfEngineWarning, match=rf"{name}.*{message}.*without the 3 images of segment-00000002"
        ):
            index = kind.load(folder, damaged="skip")
        assert index.damaged == ("segment-00000002",)
        assert_same(index, kind.of(left))
        index.add([NAMES[4]], [IMAGES[NAMES[4]]])
        index.reorder([*left[:3], NAMES[4], *left[3:]])
        index.save(folder)
        assert index.damaged == ()
        assert not file.parent.exists()
        assert_same(kind.load(folder, damaged="skip"), kind.of([*left[:3], NAMES[4], *left[3:]]))


def test_saving_without_a_damaged_segment_drops_it(kind: Kind, tmp_path: Path) -> None:
    in_segments(kind, tmp_path, [NAMES[:3], NAMES[3:6]])
    (tmp_path / "segment-00000001" / "id_rows.npy").unlink()
    with pytest.warns(DelfEngineWarning, match="segment-00000001") as caught:
        index = kind.load(tmp_path, damaged="skip")
    assert Path(caught[0].filename).name == "kinds.py"  # whoever loads it
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), kind.of(NAMES[3:6]))
    with pytest.raises(ConfigError, match='"error" or "skip"'):
        kind.load(tmp_path, damaged="ignore")


def test_a_scrub_of_what_is_no_index(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no index here"):
        list(check_index(tmp_path))
    kind.of(NAMES).save(tmp_path)
    manifest = tmp_path / "index.json"
    manifest.write_text(manifest.read_text().replace('"generation": 1', '"generation": 2'))
    with pytest.raises(FormatError, match="checksum"):
        list(check_index(tmp_path))


def test_a_scrub_reads_the_trees_too(tmp_path: Path) -> None:
    index = Kind("kdtree randomised").of(NAMES)
    index.save(tmp_path, trees=True)
    (trees,) = tmp_path.glob("trees-*")
    index.mark = {"state": 1}
    index.save(tmp_path)  # another mark, the same images: the trees stay
    assert trees.exists()
    contents = bytearray(trees.read_bytes())
    contents[-1] ^= 1
    trees.write_bytes(contents)
    assert [path for path, problem in check_index(tmp_path) if problem] == [trees]


# ------------------------------------------------------------------------------------------ marks and advice


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
    info = IndexInfo("kdtree", images=10, removed=0, entries=KDTREE_DESCRIPTORS, bytes=1, segments=1, dim=40)
    assert advice(info) is None
    assert info.to_dict()["advice"] is None
    large = replace(info, entries=KDTREE_DESCRIPTORS + 1)
    assert "'asmk'" in str(large.advice)
    assert large.to_dict()["advice"] == large.advice
    assert replace(large, kind="asmk").advice is None
    worn = replace(info, kind="asmk", images=4 * REMOVED_IMAGES, removed=REMOVED_IMAGES)
    assert "compact" in str(worn.advice)
    assert replace(worn, images=4 * REMOVED_IMAGES + 1).advice is None
    assert replace(worn, images=0, removed=REMOVED_IMAGES - 1).advice is None
