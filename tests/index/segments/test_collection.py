"""What all indexes owe their callers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from delf_engine.errors import (
    ConfigError,
    FeatureError,
    FormatError,
    MismatchError,
    UnknownIdError,
)
from delf_engine.features import LocalFeatures
from delf_engine.index.segments.limits import best
from delf_engine.index.segments.segment import IdTable
from helpers import raises, random_features
from index.kinds import IMAGES, NAMES, QUERY, VARIANTS, Kind, assert_same


def test_add_and_remove(kind: Kind) -> None:
    index = kind.new()
    assert index.add(NAMES[:2], [IMAGES[n] for n in NAMES[:2]]) == NAMES[:2]
    assert index.add([*NAMES[:3], NAMES[2]], [IMAGES[NAMES[4]]] * 4) == NAMES[2:3]
    assert index.ids() == NAMES[:3]
    assert index.add([], []) == []
    assert (len(index), index.dim) == (3, 8)
    assert NAMES[0] in index
    assert "nobody" not in index
    assert None not in index
    with raises(UnknownIdError, "nobody"):
        index.remove([NAMES[0], "nobody"])
    assert len(index) == 3
    index.search(QUERY, 1)
    index.remove([NAMES[1], NAMES[1]])
    with pytest.raises(UnknownIdError):
        index.remove([NAMES[1]])
    index.add(NAMES[1:2], [IMAGES[NAMES[1]]])
    assert index.ids() == [NAMES[0], NAMES[2], NAMES[1]]
    info = index.info()
    assert (info.kind, info.images, info.removed, info.segments, info.dim) == (kind.name, 3, 1, 2, 8)
    assert info.to_dict()["images"] == 3


def test_empty_cases(kind: Kind, tmp_path: Path) -> None:
    index = kind.new()
    for stage in range(2):
        ids, scores = index.search(QUERY, 5)
        assert (ids, scores.shape, scores.dtype) == ([], (0,), np.float32)
        index.save(tmp_path)
        assert len(kind.load(tmp_path)) == stage
        if stage == 0:
            index.add(["empty"], [LocalFeatures.empty((5, 5), 8)])
    index.add(NAMES, list(IMAGES.values()))
    assert index.search(LocalFeatures.empty((5, 5), 8), 5)[0] == []
    everything = index.search(QUERY, 10**9)[0]
    assert len(everything) == len(set(everything)) <= len(index)
    assert index.search(QUERY, np.int64(2))[0] == everything[:2]
    index.remove(index.ids())
    assert index.search(QUERY, 5)[0] == []
    index.save(tmp_path)
    assert kind.load(tmp_path).ids() == []


def test_bad_arguments(kind: Kind, rng: np.random.Generator) -> None:
    index = kind.of(NAMES)
    for top_k in (0, -1, 1.5, None):
        with raises(ConfigError, "top_k"):
            index.search(QUERY, top_k)
    with raises(MismatchError, "query", "9", "8"):
        index.search(random_features(rng, 2, 9), 5)
    with raises(FeatureError, "query", "ndarray"):
        index.search(QUERY.descriptors, 5)
    with raises(ConfigError, "2", "1"):
        index.add(["x", "y"], [QUERY])
    with raises(ConfigError, "''"):
        index.add(["x", ""], [QUERY, QUERY])
    with raises(ConfigError, "'x'"):
        index.add("x", [QUERY])
    with raises(ConfigError, "'x'"):
        index.remove("x")
    with raises(MismatchError, "y", "9"):
        index.add(["x", "y"], [QUERY, random_features(rng, 2, 9)])
    with raises(FeatureError, "x", "NoneType"):
        index.add(["x"], [None])
    assert index.ids() == NAMES


def test_save_writes_what_is_new(kind: Kind, tmp_path: Path) -> None:
    index = kind.of(NAMES[:3])
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), index)

    def written() -> dict[Path, int]:
        # Taking the lock may touch its file, that depends on the version of filelock.
        return {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.name != ".lock"}

    before = written()
    index.save(tmp_path)
    assert written() == before
    loaded = kind.load(tmp_path)
    loaded.add(NAMES[3:], [IMAGES[n] for n in NAMES[3:]])
    loaded.remove([NAMES[0]])
    loaded.save(tmp_path)
    first = tmp_path / "segment-00000001"
    assert all(
        file.stat().st_mtime_ns == at for file, at in before.items() if file.is_file() and file.parent == first
    )
    assert loaded.info().segments == 2
    assert_same(kind.load(tmp_path), kind.of(NAMES[1:]))
    loaded.remove([NAMES[2]])  # two thirds of the first segment are gone: it is rewritten
    loaded.save(tmp_path)
    assert loaded.info().removed == 0
    assert not first.exists()
    assert_same(kind.load(tmp_path), kind.of([NAMES[1], *NAMES[3:]]))


def test_many_small_saves_are_merged(kind: Kind, tmp_path: Path) -> None:
    index = kind.new()
    wanted = kind.new()
    for i in range(25):
        name, image = f"{i} é", IMAGES[NAMES[i % 8]]
        index.add([name], [image])
        wanted.add([name], [image])
        if i % 3 == 0:
            index.remove([name])
            wanted.remove([name])
        index.save(tmp_path)
        assert index.info().segments <= 8
    assert len(list(tmp_path.glob("segment-*"))) == index.info().segments
    assert_same(index, wanted)
    assert_same(kind.load(tmp_path), wanted)


def test_adding_and_searching_in_turns(kind: Kind) -> None:
    index = kind.new()
    for name in 3 * NAMES:
        index.add([name], [IMAGES[name]])
        index.search(QUERY, 2)
        if name in NAMES[::3]:
            index.remove([name])
    assert index.info().segments <= 9
    order = [n for n in NAMES if n not in NAMES[::3]]
    assert_same(index, kind.of(order))
    index.remove(order)
    for name in NAMES:
        index.search(QUERY, 2)
        index.add([name], [IMAGES[name]])
    assert_same(index, kind.of(NAMES))


def test_save_to_another_place(kind: Kind, tmp_path: Path) -> None:
    index = kind.of(NAMES[:4])
    index.save(tmp_path / "a")
    index.remove([NAMES[1]])
    index.save(tmp_path / "b" / "c")
    assert_same(kind.load(tmp_path / "a"), kind.of(NAMES[:4]))
    assert_same(kind.load(tmp_path / "b" / "c"), index)
    with pytest.raises(MismatchError, match=str(tmp_path / "a")):
        kind.of(NAMES).save(tmp_path / "a")
    kind.of(NAMES).save(tmp_path / "a", overwrite=True)
    assert_same(kind.load(tmp_path / "a"), kind.of(NAMES))
    other = Kind("asmk" if kind.name == "kdtree" else "kdtree")
    with pytest.raises(MismatchError, match=str(tmp_path / "a")):
        other.of(NAMES).save(tmp_path / "a")
    with pytest.raises(FormatError, match=f"'{kind.name}'.*'{other.name}'"):
        other.load(tmp_path / "a")
    other.of(NAMES).save(tmp_path / "a", overwrite=True)
    assert_same(other.load(tmp_path / "a"), other.of(NAMES))


@pytest.mark.parametrize("top_k", [1, 3, 4, 5, 99])
def test_best(top_k: int) -> None:
    scores = np.array([0, 2, -1, 2, 3, 1, 2, 0.5], np.float32)
    assert best(scores, top_k).tolist() == [4, 1, 3, 6, 5, 7][:top_k]
    assert best(scores[:0], top_k).tolist() == []


def test_id_table() -> None:
    ids = ["a", "é" * 3000, "\udce9.jpg", "b", "日本"]
    table = IdTable(IdTable.build(ids))
    assert list(table) == ids
    assert [table.find(i) for i in ids] == [0, 1, 2, 3, 4]
    assert table.find("nobody") is None
    clash = {**IdTable.build(ids), "id_hashes": np.zeros(5, np.uint64), "id_rows": np.arange(5, dtype=np.int32)}
    assert IdTable(clash).find("nobody") is None
    assert len(IdTable(IdTable.build([]))) == 0


class IndexAgainstDictionary(RuleBasedStateMachine):
    """Any sequence of calls gives the same index as adding what is left, in its order, at once."""

    names = st.sampled_from(NAMES)

    @initialize(name=st.sampled_from(VARIANTS))
    def start(self, name: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.kind = Kind(name)
        self.index = self.kind.new()
        self.wanted: list[str] = []
        self.saved: list[str] | None = None

    @rule(names=st.lists(names, max_size=4))
    def add(self, names: list[str]) -> None:
        new = [n for n in dict.fromkeys(names) if n not in self.wanted]
        assert self.index.add(names, [IMAGES[n] for n in names]) == new
        self.wanted += new

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.wanted:
            self.index.remove([name])
            self.wanted.remove(name)

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule()
    def save(self) -> None:
        self.index.save(self.folder.name)
        self.saved = list(self.wanted)

    @rule()
    def load(self) -> None:
        if self.saved is not None:
            self.index = self.kind.load(Path(self.folder.name))
            self.wanted = list(self.saved)

    @rule()
    def search(self) -> None:
        assert_same(self.index, self.kind.of(self.wanted))

    @invariant()
    def same_ids(self) -> None:
        assert self.index.ids() == self.wanted

    def teardown(self) -> None:
        self.folder.cleanup()


IndexAgainstDictionary.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestIndexAgainstDictionary = IndexAgainstDictionary.TestCase
