"""Plans: every photograph in one part, in the same order always, listed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFile
from pyarrow import parquet

import delf_engine as de
from delf_engine.errors import ConfigError, DataError, FormatError, MismatchError
from delf_engine.shards import plan_shards
from delf_engine.shards.place import Place
from delf_engine.shards.plan import Plan, read_part, read_plan
from delf_engine.shards.sources import Photograph, photographs
from helpers import raises


def listed(address: str | Path, plan: Plan) -> list[list[Photograph]]:
    return [read_part(Place(address), plan, part)[1] for part in range(plan.parts)]


def test_parts_hold_each_photograph_once_in_the_order_of_an_engine(
    planned: tuple[str, Plan], single: de.Engine, folder: Path
) -> None:
    address, plan = planned
    parts = listed(address, plan)
    ids = [one.id for part in parts for one in part]
    assert [name for name in ids if name != "z/broken.jpg"] == single.ids()
    assert plan.images == len(ids) == len(set(ids)) == 8
    assert plan.bytes == sum((folder / name).stat().st_size for name in ids)
    (alone,) = [part for part in parts if "huge.png" in [one.id for one in part]]
    assert len(alone) == 1
    assert alone[0].bytes is not None
    assert alone[0].bytes > 300_000
    assert {one.address for part in parts for one in part} == {str(folder / name) for name in ids}
    assert plan.engine.model_identity == single.manifest.model_identity
    assert plan.engine.profile == single.manifest.profile


def test_100_000_tiny_files_of_a_store_are_listed_once(faults: Any, tiny_model: Path, tmp_path: Path) -> None:
    fs = Place("faulty://tiny").fs
    names = {f"{i % 20:02}/ü {i}.jpg" for i in range(100_000)}
    fs.store.update({f"/tiny/{name}": MemoryFile(fs, f"/tiny/{name}", b"") for name in names})
    fs.store["/tiny/notes.txt"] = fs.store["/tiny/.hidden.jpg"] = MemoryFile(fs, "/tiny/x", b"")
    folders: list[str] = []
    fs.ls, ls = lambda path, **options: folders.append(path) or ls(path, **options), fs.ls
    try:
        plan = plan_shards("faulty://tiny", tmp_path, model=tiny_model)
    finally:
        del fs.ls
    assert len(folders) == len(set(folders)) == 21
    assert (plan.images, plan.parts, plan.bytes) == (100_000, 100, 0)
    ids = [one.id for part in listed(tmp_path, plan) for one in part]
    assert set(ids) == names
    assert ids == sorted(ids)
    assert read_part(Place(tmp_path), plan, 7)[1][0].address == f"faulty:///tiny/{ids[7000]}"


def test_a_list_of_addresses(tmp_path: Path) -> None:
    text = "a b/ü.jpg\r\ns3://bucket/x.jpg\n\n/abs/y\na b/ü.jpg\n".encode() + b"n\xff.jpg"
    (tmp_path / "list.txt").write_bytes(text)
    assert list(photographs(str(tmp_path / "list.txt"))) == [
        Photograph("a b/ü.jpg", f"{tmp_path}/a b/ü.jpg"),
        Photograph("s3://bucket/x.jpg", "s3://bucket/x.jpg"),
        Photograph("/abs/y", "/abs/y"),
        Photograph("n\udcff.jpg", f"{tmp_path}/n\udcff.jpg"),
    ]
    with raises(FormatError, "none.txt"):
        list(photographs(str(tmp_path / "none.txt")))


def test_a_table_of_addresses(tmp_path: Path, faults: object) -> None:
    path, place = tmp_path / "t.parquet", Place("faulty://tables")
    table = {
        "id": ["1", "2", "1"],
        "address": ["a.jpg", "gs://b/c", "d"],
        "bytes": [3, None, 5],
        "more": [0, 0, 0],
    }
    parquet.write_table(pa.table(table), path)
    place.write("t.parquet", path.read_bytes())
    wanted = [Photograph("1", "faulty://tables/a.jpg", 3), Photograph("2", "gs://b/c", None)]
    assert list(photographs("faulty://tables/t.parquet")) == wanted
    parquet.write_table(pa.table({"address": ["x"]}), path)
    assert list(photographs(str(path))) == [Photograph("x", f"{tmp_path}/x")]
    for table, fact in [
        ({"name": ["x"]}, "'address'"),
        ({"address": ["x", None]}, "row 1"),
        ({"address": ["x"], "bytes": ["1"]}, "row 0"),
    ]:
        parquet.write_table(pa.table(table), path)
        with raises(FormatError, str(path), fact):
            list(photographs(str(path)))
    path.write_bytes(b"PAR1")
    with raises(FormatError, str(path)):
        list(photographs(str(path)))


def test_a_plan_is_made_once(copied: Path, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    before = (copied / "plan.json").read_bytes()
    plan = plan_shards(folder, copied, model=tiny_model, part_bytes=1)
    assert (copied / "plan.json").read_bytes() == before
    assert plan == read_plan(Place(copied))
    with raises(MismatchError, str(copied), str(folder)):
        plan_shards(folder / "a", copied, model=tiny_model)
    with raises(MismatchError, str(copied)):
        plan_shards(folder, copied, model=tiny_model, index="kdtree")
    (tmp_path / "empty").mkdir()
    with raises(DataError, "empty"):
        plan_shards(tmp_path / "empty", tmp_path / "new", model=tiny_model)
    with raises(ConfigError, "part_bytes"):
        plan_shards(folder, copied, model=tiny_model, part_bytes=0)
    with raises(ConfigError, "nosuch://x"):
        plan_shards("nosuch://x", copied, model=tiny_model)


def test_a_plan_is_not_written_among_other_files(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    with raises(FormatError, str(folder)):
        plan_shards(folder, folder, model=tiny_model)
    assert sorted(folder.rglob("*")) == before
    place = tmp_path / "place"
    plan = plan_shards(folder, place, model=tiny_model, part_bytes=1)
    (place / "plan.json").rename(place / ".0123456789ab.tmp")  # as if it had been cut off
    assert plan_shards(folder, place, model=tiny_model, part_bytes=1) == plan
    (place / "plan.json").unlink()
    (place / "photographs" / "mine.jpg").touch()
    with raises(FormatError, str(place), "photographs/mine.jpg"):
        plan_shards(folder, place, model=tiny_model)


def test_an_interrupted_plan_is_none(
    faults: dict[str, list[Any]], folder: Path, tiny_model: Path, single: de.Engine
) -> None:
    faults["overwrite"] = [None, KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        plan_shards(folder, "faulty://p", model=tiny_model, part_bytes=1)
    with raises(FormatError, "faulty://p", "plan.json"):
        read_plan(Place("faulty://p"))
    plan = plan_shards(folder, "faulty://p", model=tiny_model)
    assert [one.id for one in listed("faulty://p", plan)[0] if one.id in single] == single.ids()


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("version", 2, FormatError),
        ("format", "other", FormatError),
        ("parts", "three", FormatError),
        ("profile_sha256", "0", MismatchError),
    ],
)
def test_a_plan_that_cannot_be_used(copied: Path, key: str, value: object, kind: type[Exception]) -> None:
    path = copied / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with raises(kind, str(path)):
        read_plan(Place(copied))


def test_a_list_that_cannot_be_used(copied: Path) -> None:
    place, plan = Place(copied), read_plan(Place(copied))
    with raises(ConfigError, f"part {plan.parts}"):
        read_part(place, plan, plan.parts)
    path = copied / "photographs" / "00001.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    with raises(FormatError, str(path)):
        read_part(place, plan, 1)
    path.unlink()
    with raises(FormatError, str(path)):
        read_part(place, plan, 1)
