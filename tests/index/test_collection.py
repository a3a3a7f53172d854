"""What both indexes owe their callers, on disk above all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_features
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from delf_engine.errors import (
    ConfigError,
    FeatureError,
    FormatError,
    LockedError,
    MismatchError,
    UnknownIdError,
)
from delf_engine.features import LocalFeatures
from delf_engine.index import AsmkIndex, CandidateIndex, Codebook, KdTreeIndex, disk
from delf_engine.index.contract import best
from delf_engine.index.ids import IdTable

RNG = np.random.default_rng(0)
CODEBOOK = Codebook(random_features(RNG, 12, 8).descriptors)
IMAGES = {f"image {i}": random_features(RNG, n, 8) for i, n in enumerate([20, 0, 1, 7, 50, 3, 30, 11])}
NAMES = list(IMAGES)
QUERY = random_features(RNG, 25, 8)


class Kind:
    """How to make and load one of the indexes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def new(self) -> Any:
        return AsmkIndex(CODEBOOK) if self.name == "asmk" else KdTreeIndex(8)

    def load(self, path: Path, check: bool | None = None) -> Any:
        if self.name == "asmk":
            return AsmkIndex.load(path, CODEBOOK, check=check)
        return KdTreeIndex.load(path, check=check)

    def of(self, names: list[str]) -> Any:
        index = self.new()
        index.add(names, [IMAGES[name] for name in names])
        return index


@pytest.fixture(params=["asmk", "kdtree"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)


def assert_same(index: CandidateIndex, wanted: CandidateIndex) -> None:
    assert index.ids() == wanted.ids()
    assert len(index) == len(wanted)
    (ids, scores), (wanted_ids, wanted_scores) = index.search(QUERY, 99), wanted.search(QUERY, 99)
    assert ids == wanted_ids
    np.testing.assert_array_equal(scores, wanted_scores)


def test_add_and_remove(kind: Kind) -> None:
    index: CandidateIndex = kind.new()
    assert index.add(NAMES[:2], [IMAGES[n] for n in NAMES[:2]]) == NAMES[:2]
    assert index.add([*NAMES[:3], NAMES[2]], [IMAGES[NAMES[4]]] * 4) == NAMES[2:3]
    assert index.ids() == NAMES[:3]
    assert index.add([], []) == []
    assert (len(index), index.dim) == (3, 8)
    assert NAMES[0] in index
    assert "nobody" not in index
    assert None not in index
    with pytest.raises(UnknownIdError, match="nobody"):
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


def test_bad_arguments(kind: Kind) -> None:
    index = kind.of(NAMES)
    for top_k in (0, -1, 1.5, None):
        with pytest.raises(ConfigError, match="top_k"):
            index.search(QUERY, top_k)
    with pytest.raises(MismatchError, match="query: descriptors have 9 dimensions, the index holds 8"):
        index.search(random_features(RNG, 2, 9), 5)
    with pytest.raises(FeatureError, match="query: expected LocalFeatures"):
        index.search(QUERY.descriptors, 5)
    with pytest.raises(ConfigError, match="2 ids for the features of 1"):
        index.add(["x", "y"], [QUERY])
    with pytest.raises(ConfigError, match="non-empty string"):
        index.add(["x", ""], [QUERY, QUERY])
    with pytest.raises(ConfigError, match="single string"):
        index.add("x", [QUERY])
    with pytest.raises(ConfigError, match="single string"):
        index.remove("x")
    with pytest.raises(MismatchError, match="y: descriptors have 9"):
        index.add(["x", "y"], [QUERY, random_features(RNG, 2, 9)])
    with pytest.raises(FeatureError, match="x: expected LocalFeatures"):
        index.add(["x"], [None])
    assert index.ids() == NAMES


def test_save_writes_what_is_new(kind: Kind, tmp_path: Path) -> None:
    index = kind.of(NAMES[:3])
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), index)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    index.save(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
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
    with pytest.raises(MismatchError, match="another index here"):
        kind.of(NAMES).save(tmp_path / "a")
    kind.of(NAMES).save(tmp_path / "a", overwrite=True)
    assert_same(kind.load(tmp_path / "a"), kind.of(NAMES))
    other = Kind("asmk" if kind.name == "kdtree" else "kdtree")
    with pytest.raises(FormatError, match=f"of kind '{kind.name}', wanted '{other.name}'"):
        other.of(NAMES).save(tmp_path / "a")
    with pytest.raises(FormatError, match="of kind"):
        other.load(tmp_path / "a")


def test_two_writers(kind: Kind, tmp_path: Path) -> None:
    kind.of(NAMES[:2]).save(tmp_path)
    one, two = kind.load(tmp_path), kind.load(tmp_path)
    one.add(NAMES[2:3], [QUERY])
    one.save(tmp_path)
    two.add(NAMES[3:4], [QUERY])
    with pytest.raises(LockedError, match="has saved this index since"):
        two.save(tmp_path)
    assert kind.load(tmp_path).ids() == NAMES[:3]
    one.add(NAMES[4:5], [QUERY])
    with disk.lock(tmp_path), pytest.raises(LockedError, match="another process is saving"):
        one.save(tmp_path)
    one.save(tmp_path)
    assert kind.load(tmp_path).ids() == [*NAMES[:3], NAMES[4]]


def test_load_refuses(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no index here"):
        kind.load(tmp_path)
    index = kind.of(NAMES)
    index.save(tmp_path)
    manifest = tmp_path / "index.json"
    good = manifest.read_text()
    for bad, message in [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "not the manifest"),
        (good[:-20], "cannot be read"),
        (good.replace('"version": 1', '"version": 9'), "format version 9, this version reads 1"),
        (good.replace('"generation": 1', '"generation": 2'), "checksum"),
    ]:
        manifest.write_text(bad)
        with pytest.raises(FormatError, match=message):
            kind.load(tmp_path)
    manifest.write_text(good)
    assert_same(kind.load(tmp_path), index)


def damages() -> list[tuple[str, Callable[[Path], object]]]:
    def flip(file: Path) -> None:
        contents = bytearray(file.read_bytes())
        contents[-1] ^= 1
        file.write_bytes(contents)

    return [
        ("missing", lambda file: file.unlink()),
        ("cut short", lambda file: os.truncate(file, file.stat().st_size - 1)),
        ("cut short", lambda file: os.truncate(file, 0)),
        ("checksum", flip),
    ]


@pytest.mark.parametrize(("message", "damage"), damages())
def test_every_damaged_file_is_named(
    kind: Kind, tmp_path: Path, message: str, damage: Callable[[Path], object]
) -> None:
    index = kind.of(NAMES)
    index.save(tmp_path)
    index.remove([NAMES[3]])
    index.save(tmp_path)
    files = sorted((tmp_path / "segment-00000001").iterdir())
    assert any("dead" in file.name for file in files)
    for file in files:
        good = file.read_bytes()
        damage(file)
        with pytest.raises(FormatError, match=rf"{file.name}.*{message}"):
            kind.load(tmp_path)
        file.write_bytes(good)
    assert_same(kind.load(tmp_path), index)


def test_arrays_that_do_not_fit_are_refused(kind: Kind, tmp_path: Path) -> None:
    index = kind.of(NAMES)
    index.save(tmp_path)
    segment = tmp_path / "segment-00000001"
    for file in sorted(segment.iterdir()):
        good = file.read_bytes()
        array = np.load(file)
        for bad in (array[:-1], array[:, None], array.astype(np.complex64), array[:0]):
            np.save(file, bad)
            manifest = disk.read_manifest(tmp_path, kind.name, 1)
            manifest["segments"][0]["files"][file.name] = disk.seal(file)
            disk.write_manifest(tmp_path, kind.name, 1, manifest)
            with pytest.raises(FormatError, match="segment-00000001"):
                kind.load(tmp_path)
        file.write_bytes(good)
        manifest["segments"][0]["files"][file.name] = disk.seal(file)
        disk.write_manifest(tmp_path, kind.name, 1, manifest)
    kind.load(tmp_path)


@pytest.mark.parametrize("step", ["create_array", "seal", "sync_directory", "write_manifest", "clean"])
@pytest.mark.parametrize("call", [0, 1, 3])
def test_a_crash_while_saving(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    index = kind.of(NAMES[:4])
    index.save(tmp_path)
    index.remove([NAMES[1]])
    index.add(NAMES[4:], [IMAGES[n] for n in NAMES[4:]])
    real, calls = getattr(disk, step), iter(range(100))

    def crash(*arguments: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(disk, step, crash)
        try:
            index.save(tmp_path)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
    new = kind.of([NAMES[0], *NAMES[2:]])
    committed = disk.read_manifest(tmp_path, kind.name, 1)["generation"] == 2
    assert committed or interrupted
    assert_same(kind.load(tmp_path), new if committed else kind.of(NAMES[:4]))
    assert_same(index, new)  # what was waiting is still there
    if interrupted and committed:
        index = kind.load(tmp_path)
    index.add(["more"], [QUERY])
    index.save(tmp_path)
    new.add(["more"], [QUERY])
    assert_same(kind.load(tmp_path), new)
    named = {entry["name"] for entry in disk.read_manifest(tmp_path, kind.name, 1)["segments"]}
    assert {path.name for path in tmp_path.glob("segment-*")} == named
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_cannot_be_written(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = kind.of(NAMES[:4])
    index.save(tmp_path)
    index.add(NAMES[4:], [IMAGES[n] for n in NAMES[4:]])

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(FormatError, match=r"cannot be saved: .*No space left"):
            index.save(tmp_path)
    assert_same(kind.load(tmp_path), kind.of(NAMES[:4]))
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), kind.of(NAMES))
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="cannot be saved"):
        index.save(tmp_path / "file")


def test_kill_in_the_middle_of_saving(kind: Kind, tmp_path: Path) -> None:
    code = """
        import sys, numpy as np
        from helpers import random_features
        from index.test_collection import IMAGES, NAMES, Kind
        index = Kind(sys.argv[2]).new()
        for i in range(10**6):
            index.add([str(i)], [IMAGES[NAMES[i % 8]]])
            index.save(sys.argv[1])
            print(i, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), kind.name],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    for _ in range(12):
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.stdout.read()
    process.wait()
    index = kind.load(tmp_path)
    assert len(index) > last
    wanted = kind.new()
    wanted.add([str(i) for i in range(len(index))], [IMAGES[NAMES[i % 8]] for i in range(len(index))])
    assert_same(index, wanted)
    index.add(["more"], [QUERY])
    index.save(tmp_path)


def test_loading_while_another_process_merges(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = kind.of(NAMES[:4])
    index.save(tmp_path)
    real = disk.check_file
    calls = iter(range(100))

    def interfere(*arguments: Any, **options: Any) -> None:
        if next(calls) == 0:
            index.remove(NAMES[:3])
            index.save(tmp_path)  # rewrites the only segment
        real(*arguments, **options)

    monkeypatch.setattr(disk, "check_file", interfere)
    assert kind.load(tmp_path).ids() == [NAMES[3]]


def test_large_collections_are_opened_without_reading_them(kind: Kind, tmp_path: Path) -> None:
    kind.of(NAMES).save(tmp_path)
    (file,) = (tmp_path / "segment-00000001").glob("id_text.npy")
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    kind.load(tmp_path, check=False)
    with pytest.raises(FormatError, match="checksum"):
        kind.load(tmp_path, check=True)


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

    @initialize(name=st.sampled_from(["asmk", "kdtree"]))
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
