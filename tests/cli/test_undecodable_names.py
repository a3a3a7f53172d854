"""Names of files that are not UTF-8: JSON of every command is valid and gives them back, text is printed too."""

from __future__ import annotations

import json
import os
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.cli import main
from helpers import random_photo, write_image, write_tiny_model

BAD = os.fsdecode(b"caf\xe9 \xff-\xc3\xa9")  # Latin-1, nothing, UTF-8


def outputs(folder: Path, commands: list[list[str]]) -> list[tuple[int, bytes]]:
    """Run commands one after the other; return the exit code and the standard output of each.

    Standard output is as strict as a terminal's.
    """
    folder.mkdir()
    found = []
    for number, arguments in enumerate(commands):
        path = folder / str(number)
        with path.open("w", encoding="utf-8", errors="strict") as out, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["delf-engine", *arguments])
            patch.setattr(sys, "stdout", out)
            with pytest.raises(SystemExit) as ended:
                main()
        found.append((int(ended.value.code or 0), path.read_bytes()))
    return found


def strings(value: Any) -> list[str]:
    """All strings of a value of JSON, keys among them."""
    if isinstance(value, str):
        return [value]
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in strings(part)]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, bytes]], list[str]]:
    """A folder, what each command printed, with --json and without, and the names of photographs."""
    root = tmp_path_factory.mktemp("names") / BAD
    root.mkdir()
    model = str(write_tiny_model(root))
    walls = [random_photo(np.random.default_rng(place), 260, 160) for place in range(2)]
    views = [wall[:, 16 * view : 16 * view + 200] for wall in walls for view in range(4)]
    photos = [str(write_image(root / "photos" / f"{BAD}{k}.png", view)) for k, view in enumerate(views)]
    (root / "photos" / f"{BAD}.png").write_bytes(b"no photograph")
    pairs = [(photos[a], photos[b], int(a // 4 == b // 4)) for a, b in combinations(range(8), 2)]
    lists = {"query": photos[0], "candidates": photos[1:]}
    (root / "lists.jsonl").write_text(json.dumps(lists))
    (root / "pairs.csv").write_bytes(
        b"a,b,label\n" + b"".join(b"%s,%s,%d\n" % (os.fsencode(a), os.fsencode(b), same) for a, b, same in pairs)
    )
    engine, folder = str(root / "engine"), str(root / "photos")
    commands = {
        "add": ["add", engine, folder, "--model", model, "--workers", "0"],
        "info": ["info", engine],
        "search": ["search", engine, photos[0]],
        "verify": ["verify", *photos[:2], "--model", model],
        "rerank": ["rerank", engine, str(root / "lists.jsonl"), "--checkpoint", str(root / "journal")],
        "rerank out": ["rerank", engine, str(root / "lists.jsonl"), "--out", str(root / "out.csv")],
        "report": ["report", engine, str(root / "out.csv"), "--out", str(root / "page.html")],
        "calibrate": ["calibrate", str(root / "pairs.csv"), "--features", engine, "--out", str(root / "c.json")],
        "mine": ["mine", folder, "--out", str(root / "mined.jsonl"), "--model", model, "--workers", "1"],
        "export": ["export", engine, str(root / "exported"), "--format", "delf", "--replace"],
        "codebook": ["codebook", engine, str(root / "words.safetensors"), "--words", "8"],
        "model info": ["model", "info", model],
        "model verify": ["model", "verify", model],
        "check": ["check", engine],
        "reindex": ["reindex", engine],
        "compact": ["compact", engine],
        "remove": ["remove", engine, photos[-1]],
    }
    as_json = outputs(root / "json", [[*command, "--json"] for command in commands.values()])
    found = dict(zip(commands, as_json, strict=True))
    named = ["add", "info", "search", "verify", "rerank", "rerank out", "model info", "model verify", "export"]
    as_text = outputs(
        root / "text", [commands[name] if name != "add" else ["add", engine, folder] for name in named]
    )
    return root, found | {f"{name}, text": each for name, each in zip(named, as_text, strict=True)}, photos


def test_json_is_valid_and_text_is_printed(ran: Any) -> None:
    root, printed, photos = ran
    for name, (code, output) in printed.items():
        assert code == int(name.split(",")[0] in ("add", "mine")), (name, output[-500:])  # the damaged one
        text = output.decode("utf-8")
        if name.endswith("text"):
            assert text.strip(), name
            continue
        found = strings(json.loads(text, parse_constant=refuse))
        named = any(os.fsencode(BAD) in os.fsencode(string) for string in found)
        assert named == (name not in ("compact", "reindex", "check")), (name, text[:500])
    added = json.loads(printed["add"][1])
    assert added["added"] == photos
    assert [os.fsencode(one["id"]) for one in added["failed"]] == [os.fsencode(root / "photos" / f"{BAD}.png")]
    assert {hit["id"] for hit in json.loads(printed["search"][1])["hits"]} == set(photos)
    assert json.loads(printed["remove"][1])["removed"] == [photos[-1]]


def test_what_is_written_gives_the_names_back(ran: Any) -> None:
    root, _, photos = ran
    assert os.fsencode(photos[2]) in (root / "out.csv").read_bytes()
    finished = json.loads((root / "journal").read_text("utf-8").splitlines()[-1][9:])  # behind its checksum
    assert (finished["query"], list(finished["verified"])) == (photos[0], photos[1:])
    assert json.loads((root / "c.json").read_text("utf-8"))["trained_on"]
    mined = [json.loads(line) for line in (root / "mined.jsonl").read_text("utf-8").splitlines()]
    assert mined
    written = {os.fsencode(path.name) for path in (root / "exported").rglob("*.delf")}
    assert written == {os.fsencode(f"{Path(photo).name}.delf") for photo in photos}
    assert "\ufffd" in (root / "page.html").read_text("utf-8")  # HTML has no way to write such names
