"""The ground truth once more, from the numbers in the files, one plain loop at a time."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.synthesis import PhotoRecord, Synthesized
from delf_engine.synthesis.geometry import look_at
from delf_engine.synthesis.records import GRID, SeenFace
from delf_engine.synthesis.truth import box_of, ground_truth, relation


def bits(text: str) -> list[bool]:
    return [bool(byte >> (7 - i) & 1) for byte in bytes.fromhex(text) for i in range(8)]


def plain_relation(query: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The rules as the documentation says them, on two lines of ``geometry.jsonl``."""
    if query["landmark"] is None or query["landmark"] != other["landmark"]:
        return None
    whole = common = pixels = 0.0
    for name, face in query["faces"].items():
        seen = bits(face["seen"])
        there = bits(other["faces"][name]["seen"]) if name in other["faces"] else [False] * len(seen)
        for a, b in zip(seen, there, strict=True):
            if a:
                whole += face["pixels"] / sum(seen)
                common += face["pixels"] / sum(seen) * b
        pixels += other["faces"][name]["pixels"] if name in other["faces"] else 0
    overlap = common / whole if whole else 0.0
    size = math.sqrt(pixels / (other["size"][0] * other["size"][1]))
    dot = sum(a * b for a, b in zip(query["C"], other["C"], strict=True))
    turned = math.degrees(math.acos(max(-1, min(1, dot / math.hypot(*query["C"]) / math.hypot(*other["C"])))))
    if overlap >= 0.5 and turned <= 35 and size >= 0.35 and other["clear"]:
        return "easy"
    return "hard" if overlap >= 0.15 and turned <= 75 and size >= 0.1 else "junk"


def test_the_lists_follow_from_the_geometry(small: Synthesized) -> None:
    lines = (small.folder / "geometry.jsonl").read_text().splitlines()
    records = {record["name"]: record for record in map(json.loads, lines)}
    content = pickle.loads(small.ground_truth.read_bytes())  # noqa: S301 - as the published code does
    found = 0
    for name, lists in zip(content["qimlist"], content["gnd"], strict=True):
        relations = [plain_relation(records[name], records[other]) for other in content["imlist"]]
        for field in ("easy", "hard", "junk"):
            assert lists[field] == [i for i, each in enumerate(relations) if each == field]
            found += len(lists[field])
        of_landmark = [
            i for i, n in enumerate(content["imlist"]) if records[n]["landmark"] == records[name]["landmark"]
        ]
        assert sorted(lists["easy"] + lists["hard"] + lists["junk"]) == of_landmark
    assert found == 16  # 4 queries, 4 views of each landmark


@st.composite
def records(draw: st.DrawFn) -> PhotoRecord:
    landmark = draw(st.sampled_from([None, 0, 0, 0, 1]))
    size = draw(st.sampled_from([(64, 48), (30, 100)]))
    centre = np.array([draw(st.floats(-40, 40)), draw(st.floats(-60, -5)), draw(st.floats(1, 9))])
    faces = {}
    for name in draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True)) if landmark is not None else ():
        seen = np.random.default_rng(draw(st.integers(0, 9))).random(GRID**2) < draw(st.sampled_from([0, 0.3, 1]))
        faces[name] = SeenFace(np.eye(3), draw(st.integers(1, 900)), seen, float(seen.mean()))
    camera = look_at(centre, (0, 0, 5), focal=60, size=size)
    box = (3, 4, 10, 20) if faces else None
    return PhotoRecord("n", "gallery", landmark, "", "", draw(st.booleans()), size, camera, faces, box, "")


@given(records(), records())
def test_the_relation_of_any_two_photographs(query: PhotoRecord, other: PhotoRecord) -> None:
    assert relation(query, other) == plain_relation(json.loads(query.to_json()), json.loads(other.to_json()))
    again = PhotoRecord.from_json(query.to_json())
    assert again.to_json() == query.to_json()


def test_a_photograph_that_shows_the_query_itself_is_easy(small: Synthesized) -> None:
    lines = (small.folder / "geometry.jsonl").read_text().splitlines()
    queries = [r for r in map(PhotoRecord.from_json, lines) if r.kind == "query"]
    assert len(queries) == 4
    assert [relation(query, query) for query in queries] == ["easy"] * 4
    for query in queries:
        x0, y0, x1, y1 = box_of(query)
        assert 0 <= x0 < x1 <= query.size[0]
        assert 0 <= y0 < y1 <= query.size[1]


def test_an_empty_gallery_and_no_query() -> None:
    truth = ground_truth([], [])
    assert len(truth) == 0
    assert truth.names == ()
