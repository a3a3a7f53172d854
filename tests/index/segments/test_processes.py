"""Indexes and other processes: killed at any moment, reading beside a writer, on a full disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import LockedError
from delf_engine.index import check_index
from delf_engine.index.segments import disk
from forkserver import Child
from helpers import raises
from index.kinds import IMAGES, NAMES, QUERY, Kind, assert_same
from index.steps import Contents, contents_after


def of(kind: Kind, contents: Contents) -> Any:
    index = kind.new()
    index.add(list(contents), list(contents.values()))
    return index


def same(index: Any, wanted: Any) -> bool:
    (ids, scores), (wanted_ids, wanted_scores) = index.search(QUERY, 10**6), wanted.search(QUERY, 10**6)
    return index.ids() == wanted.ids() and ids == wanted_ids and scores.tobytes() == wanted_scores.tobytes()


STEPS = """
    import sys
    from pathlib import Path
    from index.kinds import Kind
    from index.steps import apply, contents_after
    kind, folder, first, last = Kind(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    index = kind.load(folder) if first else kind.new()
    contents = contents_after(first)
    for step in range(first, last):
        if len(sys.argv) > 5:
            sys.stdin.readline()
        apply(step, index, contents)
        index.save(folder)
        print(step + 1, flush=True)
"""


def test_killed_at_random_moments(kind: Kind, tmp_path: Path) -> None:
    """Every step that was reported is there, with none or all of the one that was going on."""
    rng = np.random.default_rng(0)
    done = 0
    for _ in range(5):
        process = Child(STEPS, kind.full_name, tmp_path, done, 10**6)
        for _ in range(int(rng.integers(2, 12))):  # past merges and whole compactions
            done = int(process.stdout.readline())
        time.sleep(float(rng.uniform(0, 0.02)))
        process.kill()
        rest = process.stdout.read().split()
        process.wait()
        done = int(rest[-1]) if rest else done
        index = kind.load(tmp_path, check=True)
        possible = [n for n in (done, done + 1) if same(index, of(kind, contents_after(n)))]
        assert possible
        done = possible[-1]
        assert all(problem is None for _, problem in check_index(tmp_path))
    index.add(["more"], [QUERY])
    index.save(tmp_path)
    assert_same(kind.load(tmp_path), of(kind, {**contents_after(done), "more": QUERY}))
    named = {entry["name"] for entry in disk.read_manifest(tmp_path)["segments"]}
    assert {path.name for path in tmp_path.glob("segment-*")} == named


def test_a_reader_keeps_its_state_while_another_process_writes(kind: Kind, tmp_path: Path) -> None:
    process = Child(STEPS, kind.full_name, tmp_path, 0, 40, "step by step")
    reader = None
    for step in range(1, 41):
        process.stdin.write("\n")
        process.stdin.flush()
        assert int(process.stdout.readline()) == step
        if step == 13:
            reader = kind.load(tmp_path)
            files = list(tmp_path.glob("segment-*/*.npy"))
            before = of(kind, contents_after(step))
        if step >= 13:
            assert reader is not None
            assert_same(reader, before)
            assert_same(kind.load(tmp_path), of(kind, contents_after(step)))
    process.communicate()
    assert process.wait() == 0
    assert not any(file.exists() for file in files)  # what the reader has mapped is gone from the directory
    assert reader is not None
    reader.add(["more"], [QUERY])
    with raises(LockedError, str(tmp_path)):
        reader.save(tmp_path)


@pytest.mark.parametrize("change", ["add", "compact"])
def test_a_full_disk_leaves_the_index_as_it_was(kind: Kind, tmp_path: Path, change: str) -> None:
    index = kind.new()
    for i in range(3):
        names = [f"{i} {j}" for j in range(120)]
        index.add(names, [IMAGES[NAMES[4]]] * 120)
        index.save(tmp_path)
    code = """
        import resource, sys
        from pathlib import Path
        from index.kinds import IMAGES, NAMES, QUERY, Kind, assert_same
        from delf_engine.errors import FormatError
        kind, folder = Kind(sys.argv[1]), Path(sys.argv[2])


        def change(index):
            if sys.argv[3] == "add":
                index.add([f"more {i}" for i in range(600)], [IMAGES[NAMES[4]]] * 600)
            else:
                index.compact()


        warm = kind.load(folder)  # kernels are compiled, and cached, while files may be of any size
        change(warm)
        warm.search(QUERY, 10**6)
        index = kind.load(folder)
        largest = max(file.stat().st_size for file in folder.rglob("*.npy"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 4096,) * 2)
        change(index)
        before = index.search(QUERY, 10**6)
        try:
            index.save(folder)
        except FormatError as error:
            print(str(folder) in str(error))
        ids, scores = index.search(QUERY, 10**6)
        print(ids == before[0] and (scores == before[1]).all())
    """
    process = Child(code, kind.full_name, tmp_path, change)
    assert process.communicate().split() == ["True", "True"]
    assert_same(kind.load(tmp_path, check=True), index)
    index.compact()
    index.save(tmp_path)  # what was left half-written is gone
    assert len(list(tmp_path.glob("segment-*"))) == 1
    assert_same(kind.load(tmp_path, check=True), index)
