"""Stores: errors that pass, that last, cut and slow transfers, answers that are lost; in memory, and by S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import delf_engine as de
from delf_engine.errors import ConfigError, FormatError
from delf_engine.extraction import Extractor
from delf_engine.shards import extract_part, index_part, merge_shards, plan_shards
from delf_engine.shards.parts import find_part
from delf_engine.shards.place import Place, sealed
from faulty_store import FaultyFileSystem
from helpers import raises

Faults = dict[str, list[Any]]
DOWN = [ConnectionError("down")] * 4
PASSING = [ConnectionError("reset"), TimeoutError("slow"), OSError("503")]


def test_what_passes_is_tried_again(faults: Faults, tmp_path: Path) -> None:
    place, file = Place("faulty://b/p"), tmp_path / "x"
    file.write_bytes(bytes(range(100)))
    faults.update({"overwrite": list(PASSING), "cat": [*PASSING, "slow"], "create": PASSING[:1]})
    place.write("a", b"123")
    assert place.read("a") == b"123"
    assert place.create("b", b"1")
    faults.update({"put": [PASSING[0], "cut", "slow"], "get": ["cut", "flipped", PASSING[0]], "cat": ["cut"]})
    seal = place.upload(file, "f/x")
    assert seal == sealed(file)
    place.fetch("f/x", seal, tmp_path / "new")
    assert (tmp_path / "new" / "x").read_bytes() == file.read_bytes()
    assert place.read("a", size=3) == b"123"
    assert not any(faults.values())


@pytest.mark.parametrize("operation", ["overwrite", "cat", "put", "get", "create"])
def test_what_lasts_is_named(operation: str, faults: Faults, tmp_path: Path) -> None:
    place, file = Place("faulty://b/p"), tmp_path / "x"
    file.write_bytes(b"12")
    seal = place.upload(file, "x")
    calls = {
        "overwrite": lambda: place.write("x", b"1"),
        "cat": lambda: place.read("x"),
        "put": lambda: place.upload(file, "x"),
        "get": lambda: place.fetch("x", seal, tmp_path / "new"),
        "create": lambda: place.create("y", b"1"),
    }
    faults[operation] = list(DOWN)
    if operation == "create":
        faults["overwrite"] = list(DOWN)
    with raises(FormatError, "faulty://b/p/", "down"):
        calls[operation]()
    FaultyFileSystem.asked.clear()
    faults[operation] = [PermissionError("denied")]
    faults["overwrite"] = faults["overwrite"] if operation == "overwrite" else [PermissionError("denied")]
    with raises(FormatError, "faulty://b/p/", "denied"):
        calls[operation]()
    assert len(FaultyFileSystem.asked) <= 3  # it was not asked again and again


def test_a_marker_is_written_by_one_worker_only(faults: Faults, tmp_path: Path) -> None:
    for place in (Place("faulty://b"), Place(tmp_path)):
        assert place.create("m", b"1")
        assert place.create("m", b"1")
        assert not place.create("m", b"2")
        assert place.read("m") == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    place = Place("faulty://b")
    faults["create"] = ["lost answer"]
    assert place.create("n", b"1")
    faults["create"] = [NotImplementedError("no conditional writes")] * 2
    assert place.create("o", b"1")
    assert not place.create("o", b"2")


def test_photographs_in_a_store(faults: Faults, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    photos = Place("faulty://photos")
    for name in ("1.png", "2.png"):
        photos.write(name, (folder / "z" / name).read_bytes())
    photos.write("3.png", photos.read("1.png") or b"")
    plan_shards("faulty://photos", "faulty://p", model=tiny_model)
    place = Place("faulty://p")
    extract = lambda: extract_part("faulty://p", 0)  # noqa: E731

    class RefusedError(Exception):
        status = 403

    original = FaultyFileSystem.cat_file
    broken: dict[str, Any] = {"/photos/2.png": ConnectionError("down")}

    def cat_file(self: Any, path: str, *args: Any, **options: Any) -> bytes:
        if isinstance(fault := broken.get(path), Exception):
            raise fault
        contents = original(self, path, *args, **options)
        return contents[:-1] if fault == "cut" else contents

    FaultyFileSystem.cat_file = cat_file  # type: ignore[method-assign]
    try:
        with raises(FormatError, "2.png", "down"):  # not a failure of the photograph: all of it is done again
            extract()
        assert find_part(place, "features", 0) is None
        broken["/photos/2.png"] = "cut"
        broken["/photos/3.png"] = RefusedError("forbidden")
        photos.fs.rm("/photos/1.png")
        found = extract()
    finally:
        FaultyFileSystem.cat_file = original  # type: ignore[method-assign]
    assert (found.images, found.failed) == (0, 3)
    index_part("faulty://p", 0)
    merge_shards("faulty://p", tmp_path / "e")
    failed = [json.loads(line) for line in (tmp_path / "e" / "failures.jsonl").read_text().splitlines()]
    reasons = {one["id"]: one["reason"] for one in failed}
    assert "no such file" in reasons["1.png"]
    assert "were to come" in reasons["2.png"]
    assert "forbidden" in reasons["3.png"]


@pytest.mark.parametrize("at", range(3))
def test_an_upload_that_ends_half_way_is_no_part(
    at: int, faults: Faults, folder: Path, tiny_model: Path, extractor: Extractor, tmp_path: Path
) -> None:
    plan_shards(folder / "z", "faulty://p", model=tiny_model)
    place, interrupted = Place("faulty://p"), KeyboardInterrupt()
    faults.update({"put": [None] * at + [interrupted]} if at < 2 else {"create": [interrupted]})
    with pytest.raises(KeyboardInterrupt):
        extract_part("faulty://p", 0, extractor=extractor)
    assert find_part(place, "features", 0) is None
    faults.clear()
    assert extract_part("faulty://p", 0, extractor=extractor).state == "done"
    faults["put"] = [*PASSING, "cut"][:3]
    faults["get"] = ["cut", "flipped"]
    index_part("faulty://p", 0)
    assert merge_shards("faulty://p", tmp_path / "e")["images"] == 3
    with de.Engine.open(tmp_path / "e") as engine:
        assert not engine.check().damaged_images


def test_a_store_that_is_not_there(tmp_path: Path, tiny_model: Path) -> None:
    with raises(FormatError, "faulty://nowhere", "plan"):
        extract_part("faulty://nowhere", 0)
    with raises(FormatError, "plan"):
        merge_shards(tmp_path, tmp_path / "e")
    with raises(ConfigError, "nosuch://x"):
        index_part("nosuch://x", 0)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of S3 on loopback, with a bucket."""
    fs = pytest.importorskip("s3fs", reason="moto is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in [("KEY_ID", "a"), ("KEY", "b")]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID" if name == "KEY_ID" else "AWS_SECRET_ACCESS_KEY", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fs.S3FileSystem.clear_instance_cache()
    store = fs.S3FileSystem(use_listings_cache=False)
    store.mkdir("bucket")
    yield store
    fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_everything_by_s3(
    s3: Any,
    folder: Path,
    tiny_model: Path,
    extractor: Extractor,
    finish: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in folder.rglob("*.*"):
        s3.put_file(str(path), f"bucket/photos/{path.relative_to(folder)}")
    plan = plan_shards("s3://bucket/photos", "s3://bucket/p", model=tiny_model, part_bytes=20_000)
    assert (plan.images, plan.parts) == (8, 3)
    finish("s3://bucket/p", plan)
    assert merge_shards("s3://bucket/p", tmp_path / "e")["images"] == 7
    with de.Engine.open(tmp_path / "e") as engine:
        assert "a/ü/猫.png" in engine
        assert not engine.check().damaged_images
    assert not Place("s3://bucket/p").create("plan.json", b"other")
    monkeypatch.setattr("delf_engine.shards.place.WAITS", ())
    with raises(FormatError, "s3://none/p"):
        plan_shards("s3://bucket/photos", "s3://none/p", model=tiny_model)
    with raises(FormatError, "s3://none/p", "plan"):
        extract_part("s3://none/p", 0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    type(s3).clear_instance_cache()
    with raises(FormatError, "s3://bucket/p", "credentials"):
        extract_part("s3://bucket/p", 0)
