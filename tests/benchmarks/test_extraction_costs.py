"""The tables of profiles and of adding are what was measured."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.extraction import adding, memory, processes
from benchmarks.reranking import profiles
from delf_engine.engine import Engine
from delf_engine.evaluation import GroundTruth
from helpers import measured_here, random_photo, write_image, write_tiny_model


def test_a_row_for_each_model_and_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    names = ["a", "b", "c", "d"]
    for name in names:
        write_image(tmp_path / "data" / "paris" / f"{name}.jpg", random_photo(rng, 200, 150))
    whole = np.array([[0.0, 0.0, 200.0, 150.0]])
    truth = GroundTruth(tuple(names), ("a",), whole, ([0],), ([1],), ([2],))  # type: ignore[arg-type]
    monkeypatch.setattr(profiles, "sub_rparis", lambda data: truth)
    model = str(write_tiny_model(tmp_path))
    out = tmp_path / "profiles.json"
    common = ["--data", str(tmp_path / "data"), "--model", model, "--seeds", "1", "--timed", "2"]
    profiles.main([*common, "--profile", "fast", "default", "--cache", str(tmp_path / "cache"), "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["profile"] for row in rows] == ["fast", "default"]
    for row in rows:
        assert row["model"] == model
        assert row["medium"]["mean_ap"] > 50  # the image itself is a positive, and comes first
        assert row["seconds"] > 0
        # Descriptors of the profile's codec, uint8 or float16, four float32 and a little beside.
        width = 1 if row["profile"] == "fast" else 2
        assert row["bytes"] == pytest.approx(row["features"] * (width * 40 + 16), rel=0.05)
    assert rows[0]["features"] < rows[1]["features"] <= 1000


def test_memory_and_speed_of_adding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adding.main(["memory", "--counts", "2", "--side", "48", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "adding_memory.json").read_text())["rows"]
    assert row["images"] == 2
    assert row["peak_mb"] > 50
    photos = tmp_path / "photos"
    for i in range(3):
        write_image(photos / f"{i}.png", random_photo(np.random.default_rng(i), 64, 48))
    create = partial(Engine.create, model=write_tiny_model(tmp_path))
    monkeypatch.setattr(adding, "Engine", SimpleNamespace(create=create))
    options = ["--workers", "0", "1", "--rounds", "1"]
    adding.main(["speed", "--photos", str(photos), *options, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "adding_speed.json").read_text())
    assert found["photographs"] == 3
    assert set(found["seconds"]) == {"plain", "0 workers", "1 workers"}
    assert "images a second" in capsys.readouterr().out


def test_memory_of_large_photographs_and_of_many_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(write_tiny_model(tmp_path))
    monkeypatch.setattr(memory, "_LARGE", {"large": (2000, 1200)})
    # In this process: what a process alone takes is not what is tested.
    monkeypatch.setattr(memory, "measured_apart", measured_here(memory.main))
    monkeypatch.setattr(memory.Heap, "give_back", memory.Heap.give_back)  # "kept" replaces it
    memory.main(["large", "--model", model, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "memory_large.json").read_text())["rows"]
    assert [(row["jpeg"], row["decoded"]) for row in rows] == [
        (jpeg, decoded) for jpeg in ("baseline", "progressive") for decoded in ("reduced", "whole")
    ]
    assert all(row["features"] > 0 and row["seconds"] > 0 for row in rows)
    memory.main(["sizes", "--model", model, "--count", "10", "--longest", "120", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "memory_sizes.json").read_text())
    for how in ("given back", "kept"):
        assert [row[0] for row in found[how]["rows"]] == [1, 2, 4, 6, 8, 10]
        assert all(0 < resident <= peak for _, resident, peak, _ in found[how]["rows"])


WITHOUT_TORCH = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
named = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_"))}
print({"": 1, "OMP_WAIT_POLICY": 2, "GOMP_SPINCOUNT": 3, "OMP_NUM_THREADS": 4}["".join(named)])
"""


def test_one_process_and_two_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = tmp_path / "photos", tmp_path / "processes.json"
    path = write_image(photos / "0.png", random_photo(np.random.default_rng(0), 64, 48))
    (alone,) = processes._seconds(str(write_tiny_model(tmp_path)), [path], 1, "one thread")
    assert alone > 0
    # A stand-in for the other eleven, which says by which variable its threads wait.
    monkeypatch.setattr(processes, "_PROGRAM", WITHOUT_TORCH)
    processes.main(["--rounds", "2", "--photos", str(photos), "--out", str(out)])
    ways = {"spinning": 1, "asleep": 2, "soon asleep": 3, "one thread": 4}
    expected = {f"{n} {way}": [each] * 2 * n for n in (1, 2) for way, each in ways.items()}
    assert json.loads(out.read_text())["seconds"] == expected
