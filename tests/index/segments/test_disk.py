"""Indexes on disk: damage, crashes, and other processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import FormatError, LockedError
from delf_engine.index.segments import disk
from delf_engine.support.files import locked
from forkserver import Child
from index.kinds import IMAGES, NAMES, QUERY, Kind, assert_same


def test_two_writers(kind: Kind, tmp_path: Path) -> None:
    kind.of(NAMES[:2]).save(tmp_path)
    one, two = kind.load(tmp_path), kind.load(tmp_path)
    one.add(NAMES[2:3], [QUERY])
    one.save(tmp_path)
    two.add(NAMES[3:4], [QUERY])
    with pytest.raises(LockedError, match=str(tmp_path)):
        two.save(tmp_path)
    assert kind.load(tmp_path).ids() == NAMES[:3]
    one.add(NAMES[4:5], [QUERY])
    with locked(tmp_path / ".lock", "busy"), pytest.raises(LockedError, match=str(tmp_path)):
        one.save(tmp_path)
    one.save(tmp_path)
    assert kind.load(tmp_path).ids() == [*NAMES[:3], NAMES[4]]


def test_load_refuses(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=str(tmp_path)):
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
        (good.replace('"version": 1', '"version": 9'), "version 9, .* 1"),
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
            manifest = disk.read_manifest(tmp_path, kind.name)
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
    committed = disk.read_manifest(tmp_path, kind.name)["generation"] == 2
    assert committed or interrupted
    assert_same(kind.load(tmp_path), new if committed else kind.of(NAMES[:4]))
    assert_same(index, new)  # what was waiting is still there
    if interrupted and committed:
        index = kind.load(tmp_path)
    index.add(["more"], [QUERY])
    index.save(tmp_path)
    new.add(["more"], [QUERY])
    assert_same(kind.load(tmp_path), new)
    named = {entry["name"] for entry in disk.read_manifest(tmp_path, kind.name)["segments"]}
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
        with pytest.raises(FormatError, match="No space left"):
            index.save(tmp_path)
    assert_same(kind.load(tmp_path), kind.of(NAMES[:4]))
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), kind.of(NAMES))
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="file"):
        index.save(tmp_path / "file")


def test_kill_in_the_middle_of_saving(kind: Kind, tmp_path: Path) -> None:
    code = """
        import sys, numpy as np
        from helpers import random_features
        from index.kinds import IMAGES, NAMES, Kind
        index = Kind(sys.argv[2]).new()
        for i in range(10**6):
            index.add([str(i)], [IMAGES[NAMES[i % 8]]])
            index.save(sys.argv[1])
            print(i, flush=True)
    """
    process = Child(code, tmp_path, kind.full_name)
    for _ in range(12):
        last = int(process.stdout.readline())
    process.kill()
    process.stdout.read()
    process.wait()
    index = kind.load(tmp_path)
    assert len(index) > last
    wanted = kind.new()
    wanted.add([str(i) for i in range(len(index))], [IMAGES[NAMES[i % 8]] for i in range(len(index))])
    assert_same(index, wanted)
    index.add(["more"], [QUERY])
    index.save(tmp_path)


@pytest.mark.parametrize("damaged", ["error", "skip"])
def test_loading_while_another_process_merges(
    kind: Kind, tmp_path: Path, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert kind.load(tmp_path, damaged=damaged).ids() == [NAMES[3]]


def test_large_collections_are_opened_without_reading_them(kind: Kind, tmp_path: Path) -> None:
    kind.of(NAMES).save(tmp_path)
    (file,) = (tmp_path / "segment-00000001").glob("id_text.npy")
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    kind.load(tmp_path, check=False)
    with pytest.raises(FormatError, match=r"id_text.*checksum"):
        kind.load(tmp_path, check=True)
