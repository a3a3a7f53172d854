"""Parts: whatever happens to workers, nothing is lost, nothing double; the engine is that of one machine."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import delf_engine as de
from delf_engine.cli import app
from delf_engine.engine.vocabulary import train_words
from delf_engine.errors import ConfigError, FormatError, MismatchError
from delf_engine.extraction import Extractor
from delf_engine.index import AsmkIndex, Codebook
from delf_engine.shards import Plan, costs, extract_part, index_part, making, merge_shards, plan_shards
from delf_engine.shards.parts import find_part, find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan
from delf_engine.storage import FeatureStore
from helpers import raises

BROKEN = {"id": "z/broken.jpg"}


def check_same(directory: Path, single: de.Engine) -> None:
    """Check that an engine is that of one machine: what is stored, what is indexed, what is found."""
    with de.Engine.open(directory, readonly=True) as merged:
        assert merged.manifest == single.manifest
        assert merged.ids() == single.ids() == merged.index.ids()
        assert not merged.check().damaged_files
        mine, theirs = merged.index.copy(), single.index.copy()
        for index in (mine, theirs):
            index.compact()
            index.save(directory / f"flat-{index is mine}")
        for segment, other in zip(mine._collection.segments, theirs._collection.segments, strict=True):
            assert {name: a.tobytes() for name, a in segment.arrays.items()} == {
                name: a.tobytes() for name, a in other.arrays.items()
            }
        for name in single.ids():
            assert merged.get(name) == single.get(name)
            found, wanted = (engine.search(name, confirm=2) for engine in (merged, single))
            assert found.to_dict() == wanted.to_dict()


def test_an_engine_of_parts_is_that_of_one_machine(
    planned: tuple[str, Plan], finish: Any, single: de.Engine, tmp_path: Path
) -> None:
    address, plan = planned
    finish(address, plan)
    for part in range(plan.parts):  # once more: nothing is done
        assert extract_part(address, part).state == index_part(address, part).state == "there"
    report = merge_shards(address, tmp_path / "e")
    assert report == {
        "state": "done",
        "directory": str(tmp_path / "e"),
        "parts": plan.parts,
        "images": 7,
        "failed": 1,
    }
    assert merge_shards(address, tmp_path / "e") == {**report, "state": "there"}
    (failure,) = map(json.loads, (tmp_path / "e" / "failures.jsonl").read_text().splitlines())
    assert failure.items() > BROKEN.items()
    assert failure["reason"]
    check_same(tmp_path / "e", single)
    if "://" not in address:  # parts are what one process reads
        for part in range(plan.parts):
            with FeatureStore.open(
                Path(address, find_parts(Place(address), "features", [part])[0].folder)
            ) as store:
                index = Path(address, find_parts(Place(address), "index", [part])[0].folder)
                assert AsmkIndex.load(index, single.index.encoder).ids() == store.ids()


def test_an_index_of_another_kind_from_some_parts(
    folder: Path, tiny_model: Path, finish: Any, extractor: Extractor, tmp_path: Path
) -> None:
    plan = plan_shards(folder / "a", tmp_path / "p", model=tiny_model, index="kdtree", part_bytes=6000)
    finish(str(tmp_path / "p"), plan)
    assert plan.parts == 3
    merge_shards(tmp_path / "p", tmp_path / "e", parts=(1, 2))
    with (
        de.Engine.open(tmp_path / "e") as merged,
        de.Engine.create(tmp_path / "s", model=tiny_model, index="kdtree", root=folder / "a") as one,
    ):
        one.add([str(folder / "a" / name) for name in merged.ids()])
        assert len(one) == 2
        for name in one.ids():
            assert merged.search(name, confirm=0).to_dict() == one.search(name, confirm=0).to_dict()


def test_two_workers_on_one_part(
    planned: tuple[str, Plan], extractor: Extractor, monkeypatch: pytest.MonkeyPatch, finish: Any, tmp_path: Path
) -> None:
    address, plan = planned
    commit, others = making.commit, []

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(making, "commit", commit)
        others.append(extract_part(address, 1, extractor=extractor))
        return commit(*args)

    monkeypatch.setattr(making, "commit", overtaken)
    mine = extract_part(address, 1, extractor=extractor)
    assert (others[0].state, mine.state) == ("done", "there")
    assert mine.folder == others[0].folder
    place = Place(address)
    assert [name for name in place.fs.ls(place.path("features"), detail=False) if not name.endswith("json")] == [
        place.path(mine.folder)
    ]
    finish(address, plan)
    assert merge_shards(address, tmp_path / "e")["images"] == 7


def test_a_killed_driver_and_a_part_half_made(
    folder: Path, tiny_model: Path, extractor: Extractor, tmp_path: Path, finish: Any, single: de.Engine
) -> None:
    plan = plan_shards(folder, tmp_path / "p", model=tiny_model, part_bytes=20_000)

    def killed() -> None:
        making.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        extract_part(tmp_path / "p", 1, extractor=extractor, workers=0)

    worker = get_context("fork").Process(target=killed)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob("p/features/00001-*/data.mdb"))
    assert find_part(Place(tmp_path / "p"), "features", 1) is None
    finish(str(tmp_path / "p"), plan)
    merge_shards(tmp_path / "p", tmp_path / "e")
    check_same(tmp_path / "e", single)


def test_parts_that_are_missing_are_named(copied: Path, tmp_path: Path) -> None:
    (copied / "features" / "00000.json").unlink()
    (copied / "features" / "00002.json").unlink()
    with raises(FormatError, str(copied), "0, 2", "extract"):
        merge_shards(copied, tmp_path / "e")
    with raises(FormatError, "(2)", "extract"):
        index_part(copied, 2)
    assert merge_shards(copied, tmp_path / "e", parts=(1, 1))["parts"] == 1
    for parts, fact in [((0, 9), "part 9"), ((1, 0), "1 to 0")]:
        with raises(ConfigError, fact):
            merge_shards(copied, tmp_path / "f", parts=parts)


def test_an_engine_that_is_something_else_is_left_alone(made: Path, tmp_path: Path) -> None:
    merge_shards(made, tmp_path / "e", parts=(1, 1))
    with raises(FormatError, str(tmp_path / "e")):
        merge_shards(made, tmp_path / "e")
    assert merge_shards(made, tmp_path / "e", parts=(1, 1))["state"] == "there"


def test_another_codebook_is_refused(
    copied: Path, tiny_model: Path, rng: np.random.Generator, tmp_path: Path
) -> None:
    place = Place(copied)
    other = Codebook(rng.normal(size=(32, 40)))
    other.save(tmp_path / "w.safetensors")
    for words in (other, tmp_path / "w.safetensors"):
        with raises(MismatchError, str(copied), other.hash[:8], "words.sha256"):
            index_part(copied, 1, codebook=words)
    with raises(MismatchError, other.hash[:8]):
        merge_shards(copied, tmp_path / "e", codebook=other)
    (copied / "words.sha256").unlink()  # as if two had begun at once
    with raises(MismatchError, "part 0", "codebook", other.hash):
        index_part(copied, 0, codebook=other)
    (copied / "index" / "00000.json").unlink()
    assert index_part(copied, 0, codebook=other).state == "done"
    with raises(MismatchError, "part 1", "codebook", other.hash):
        merge_shards(copied, tmp_path / "e", codebook=other)
    with raises(MismatchError, "40-D"):
        index_part(copied, 0, codebook=Codebook(np.eye(3)))
    assert find_part(place, "index", 1) is not None


@pytest.mark.parametrize("stage", ["features", "index"])
@pytest.mark.parametrize("fact", ["model", "dim", "profile", "global head", "codebook", "index", "features"])
def test_a_part_made_otherwise_is_named(stage: Any, fact: str, copied: Path, tmp_path: Path) -> None:
    path = copied / stage / "00001.json"
    values = json.loads(path.read_text())
    if fact not in values["made_by"]:
        return
    values["made_by"][fact] = "other"
    path.write_text(json.dumps(values))
    make = extract_part if stage == "features" else index_part
    for call in (lambda: make(copied, 1), lambda: merge_shards(copied, tmp_path / "e")):
        with raises(MismatchError, str(copied), "part 1", fact, "other"):
            call()


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "other"}, {"part": 2}, {"more": 1}, None])
def test_a_marker_that_cannot_be_used(change: dict[str, Any] | None, copied: Path, tmp_path: Path) -> None:
    path = copied / "features" / "00001.json"
    path.write_text("{" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    with raises(FormatError, str(path)):
        extract_part(copied, 1)
    with raises(FormatError, str(path)):
        merge_shards(copied, tmp_path / "e")


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
@pytest.mark.parametrize("stage", ["features", "index"])
def test_a_damaged_file_is_never_merged(stage: Any, damage: str, copied: Path, tmp_path: Path) -> None:
    part = find_parts(Place(copied), stage, [1])[0]
    path = copied / part.folder / max(part.files, key=lambda name: part.files[name]["bytes"])
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(contents[:-1] if damage == "cut" else contents)
    with raises(FormatError, str(path), f"{stage}/00001.json", "part 1"):
        merge_shards(copied, tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_photographs_of_another_part_are_never_merged_twice(copied: Path, tmp_path: Path) -> None:
    for stage in ("features", "index"):
        values = json.loads((copied / stage / "00002.json").read_text())
        (copied / stage / "00001.json").write_text(json.dumps({**values, "part": 1}))
    with raises(MismatchError, "already"):
        merge_shards(copied, tmp_path / "e")


def test_words_of_several_parts(made: Path, tmp_path: Path) -> None:
    folders = [made / part.folder for part in find_parts(Place(made), "features", [0, 2])]
    words = train_words(folders, 8, per_image=50, iterations=2)
    descriptors = []
    for folder in folders:
        with FeatureStore.open(folder, readonly=True) as store:
            descriptors += [features.top(50).descriptors for _, features in store.items()]
    assert words == Codebook.train(descriptors, 8, iterations=2, half=True)
    arguments = [
        "codebook",
        *map(str, folders),
        str(tmp_path / "w.safetensors"),
        "--words",
        "8",
        "--per-image",
        "50",
    ]
    result = CliRunner().invoke(app, [*arguments, "--iterations", "2"])
    assert result.exit_code == 0, result.output
    assert Codebook.load(tmp_path / "w.safetensors") == words


def test_commands_print_a_line_each(made: Path, folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    def line(*arguments: object) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["shard", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        (text,) = result.stdout.splitlines()
        return dict(json.loads(text))

    plan = read_plan(Place(made))
    told = line("plan", folder, made, "--model", tiny_model)
    assert (told["parts"], told["images"], told["profile_sha256"]) == (plan.parts, 8, plan.profile_sha256)
    for command, stage in [("extract", "features"), ("index", "index")]:
        told = line(command, made, "--part", 2)
        assert (told["stage"], told["part"], told["state"]) == (stage, 2, "there")
        assert told["bytes"] > 0
    assert line("merge", made, tmp_path / "e", "--parts", 1, 2)["parts"] == 2


def test_costs(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [
        ("_PHOTOGRAPHS", 1),
        ("_INDEXED", 4),
        ("_COPIES", (2, 4)),
        ("_QUERIES", 2),
        ("_PIXELS", (160, 120)),
    ]:
        monkeypatch.setattr(costs, name, value)
    measured = costs.measure_shards(tiny_model)
    assert min(measured.extract_seconds, measured.index_seconds, measured.feature_bytes, measured.index_bytes) > 0
    figures = costs.Figures(
        device="cpu",
        extract_seconds=3.6,
        index_seconds=0.036,
        feature_bytes=1e5,
        index_bytes=8e3,
        query_seconds=1.0,
        search_seconds=1e-6,
        tail=2.0,
    )
    found = costs.estimate_shards(100_000_000, figures)
    assert found["extract_core_hours"] == pytest.approx(100_000)
    assert found["index_core_hours"] == pytest.approx(1000)
    assert (found["feature_bytes"], found["index_bytes"], found["shards"]) == (10**13, 8 * 10**11, 100)
    assert found["searcher_memory_bytes"] == 8_200_000_000
    assert (found["query_seconds"], found["query_seconds_slowest_shard"]) == (2.0, 3.0)
    card = costs.estimate_shards(1000, figures.model_copy(update={"device": "gpu"}))
    assert card["extract_card_hours"] == pytest.approx(1)
    assert card["query_seconds"] == card["query_seconds_slowest_shard"] == pytest.approx(1.001)
    with raises(ConfigError, "0"):
        costs.estimate_shards(0, figures)
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"figures": figures.model_dump()}))
    result = CliRunner().invoke(app, ["shard", "cost", "100000000", "--figures", str(path)])
    assert json.loads(result.stdout) == {"figures": figures.model_dump(), **found}
    path.write_text("{}")
    result = CliRunner().invoke(app, ["shard", "cost", "1", "--figures", str(path)])
    assert isinstance(result.exception, FormatError)
