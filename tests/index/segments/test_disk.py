"""Indexes on disk: damage, crashes, and other processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import FormatError, LockedError
from delf_engine.index import check_index
from delf_engine.index.segments import disk
from delf_engine.support.files import locked
from helpers import raises
from index.kinds import IMAGES, NAMES, QUERY, Kind, assert_same


def test_two_writers(kind: Kind, tmp_path: Path) -> None:
    kind.of(NAMES[:2]).save(tmp_path)
    one, two = kind.load(tmp_path), kind.load(tmp_path)
    one.add(NAMES[2:3], [QUERY])
    one.save(tmp_path)
    two.add(NAMES[3:4], [QUERY])
    with raises(LockedError, str(tmp_path)):
        two.save(tmp_path)
    assert kind.load(tmp_path).ids() == NAMES[:3]
    one.add(NAMES[4:5], [QUERY])
    with locked(tmp_path / ".lock", "busy"), raises(LockedError, str(tmp_path)):
        one.save(tmp_path)
    one.save(tmp_path)
    assert kind.load(tmp_path).ids() == [*NAMES[:3], NAMES[4]]


def test_load_refuses(kind: Kind, tmp_path: Path) -> None:
    for read in (kind.load, lambda folder: list(check_index(folder))):
        with raises(FormatError, str(tmp_path)):
            read(tmp_path)
    index = kind.of(NAMES)
    index.save(tmp_path)
    manifest = tmp_path / "index.json"
    good = manifest.read_text()
    later, torn = (good.replace(a, b) for a, b in (('"version": 1', '"version": 9'), ('n": 1', 'n": 2')))
    for bad, fact in (("", ""), ("[]", ""), ("{}", ""), (good[:-20], ""), (later, "version 9"), (torn, "")):
        manifest.write_text(bad)
        with raises(FormatError, str(manifest), fact):
            kind.load(tmp_path)
        with raises(FormatError, str(manifest)):
            list(check_index(tmp_path))
    manifest.write_text(good)
    assert_same(kind.load(tmp_path), index)
    with raises(FormatError, str(manifest)):  # which is no folder
        index.save(manifest)


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
            with raises(FormatError, "segment-00000001"):
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
    with raises(FormatError, "id_text", "checksum"):
        kind.load(tmp_path, check=True)
